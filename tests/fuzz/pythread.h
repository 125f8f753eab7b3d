/* Locks of a program that has one thread. */
#ifndef MCAST_FUZZ_PYTHREAD_H
#define MCAST_FUZZ_PYTHREAD_H

#include <stddef.h>

typedef void *PyThread_type_lock;

enum { WAIT_LOCK = 1 };

static inline int
PyThread_acquire_lock(PyThread_type_lock lock, int wait)
{
    return lock == NULL && wait == WAIT_LOCK;
}

static inline void
PyThread_release_lock(PyThread_type_lock lock)
{
    (void)lock;
}

#endif
