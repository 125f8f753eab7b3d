/* Conditions that are waited for by the monotonic clock (pthread_condattr_setclock(3)), where the system lets them. */
#ifndef MCAST_CONDITION_H
#define MCAST_CONDITION_H

#include "pthreads.h"
#include <time.h>

static inline int
mcast_condition_open(mcast_condition *condition)
{
    pthread_condattr_t attributes;
    int status = pthread_condattr_init(&attributes);
    if (status != 0)
        return -status;
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    status = pthread_cond_init(condition, &attributes);
    pthread_condattr_destroy(&attributes);
    return -status;
}

/* Waits for a signal for `ns` at most, with the mutex held before and after. It may return early. */
static inline void
mcast_condition_wait(mcast_condition *condition, mcast_mutex *mutex, int64_t ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    ns += until.tv_nsec;
    until.tv_sec += (time_t)(ns / 1000000000);
    until.tv_nsec = (long)(ns % 1000000000);
    pthread_cond_timedwait(condition, mutex, &until);
}

#endif
