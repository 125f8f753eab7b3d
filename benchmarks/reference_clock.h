/* The monotonic clock, and waiting for a moment of it: for the references that send at a rate. */
#ifndef REFERENCE_CLOCK_H
#define REFERENCE_CLOCK_H

#include <stdint.h>
#include <sys/prctl.h>
#include <time.h>

enum { SPIN_NS = 80000 };

static inline int64_t
now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Sleeps until short of the moment and watches the clock from there: a wake-up comes late by tens of microseconds. */
static inline void
wait_until(int64_t due)
{
    if (due - now_ns() > SPIN_NS) {
        struct timespec until = {(due - SPIN_NS) / 1000000000, (due - SPIN_NS) % 1000000000};
        clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
    }
    while (now_ns() < due)
        ;
}

/* 1 ns of timer slack while a thread keeps a rate, and 0, its default, afterwards: prctl(2), PR_SET_TIMERSLACK. */
static inline void
set_timer_slack(unsigned long nanoseconds)
{
    prctl(PR_SET_TIMERSLACK, nanoseconds, 0, 0, 0);
}

#endif
