/* Threads where POSIX has them: locks, conditions, native threads, and which process this is (pthreads(7), pthread_atfork(3)).
 *
 * srwlock.h has the same names over SRW locks. No lock is held while Python runs, and none across a system call that waits. How a
 * condition is waited for by the monotonic clock differs: condition.h, or the header of the system. */
#ifndef MCAST_PTHREADS_H
#define MCAST_PTHREADS_H

#include "atomics.h"
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>

typedef pthread_mutex_t mcast_mutex;
typedef pthread_cond_t mcast_condition;
typedef pthread_t mcast_thread;

#define MCAST_MUTEX_INITIAL PTHREAD_MUTEX_INITIALIZER

static inline int
mcast_mutex_open(mcast_mutex *mutex)
{
    return -pthread_mutex_init(mutex, NULL);
}

static inline void
mcast_mutex_close(mcast_mutex *mutex)
{
    pthread_mutex_destroy(mutex);
}

static inline void
mcast_lock(mcast_mutex *mutex)
{
    pthread_mutex_lock(mutex);
}

static inline void
mcast_unlock(mcast_mutex *mutex)
{
    pthread_mutex_unlock(mutex);
}

static inline void
mcast_condition_close(mcast_condition *condition)
{
    pthread_cond_destroy(condition);
}

static inline void
mcast_condition_signal_all(mcast_condition *condition)
{
    pthread_cond_broadcast(condition);
}

/* Starts a native thread that blocks all signals: they are for the threads that can handle them. 0, or -errno. */
static inline int
mcast_thread_start(mcast_thread *thread, void *(*run)(void *), void *argument)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int status = pthread_create(thread, NULL, run, argument);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    return -status;
}

static inline void
mcast_thread_join(mcast_thread thread)
{
    pthread_join(thread, NULL);
}

/* Has these run in the process that forks, before and after, and in the child (pthread_atfork(3)). 0, or -errno. */
static inline int
mcast_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void))
{
    return -pthread_atfork(before, in_parent, in_child);
}

#endif
