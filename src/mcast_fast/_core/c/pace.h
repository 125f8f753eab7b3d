/* Sending at a rate: unit number u is due at start + u * ns_per_unit. A unit is a datagram, or a bit of payload. Arithmetic only: send.c
 * looks up when each datagram is due, and waits. */
#ifndef MCAST_PACE_H
#define MCAST_PACE_H

#include "schedule.h"

enum {
    MCAST_CREDIT_NS = 10 * 1000000, /* a call that comes later than this starts a new pace */
    MCAST_PACE_LOOKAHEAD = 1024,    /* datagrams due together that leave by one system call */
};

typedef struct mcast_pace {
    double ns_per_unit; /* 0: as fast as possible */
    int by_bits;
    uint64_t burst;     /* datagrams that leave together when the first of them is due */
    uint64_t in_burst;  /* of the burst that is leaving */
    int64_t start;      /* 0: none yet */
    double units;       /* since the start */
    int64_t last;       /* when datagrams last left */
    double before_last; /* units before those */
    double past_units;  /* of earlier starts, and their duration: for the achieved rate */
    double past_ns;
} mcast_pace;

void mcast_pace_open(mcast_pace *pace, double ns_per_unit, int by_bits, uint64_t burst);

/* When the next datagram is due. */
static inline int64_t
mcast_pace_due(const mcast_pace *pace, double units)
{
    return mcast_moment_after(pace->start, units * pace->ns_per_unit);
}

/* Whether a call at `now` is too late to go on with the pace. */
static inline int
mcast_pace_is_over(const mcast_pace *pace, int64_t now)
{
    return pace->start == 0 || now - mcast_pace_due(pace, pace->units) > MCAST_CREDIT_NS;
}

/* Starts a new pace. */
void mcast_pace_begin(mcast_pace *pace, int64_t now);

/* Counts what has left. */
void mcast_pace_left(mcast_pace *pace, size_t datagrams, size_t bytes, int64_t now);

/* The achieved rate, units per second; 0 when it is not known yet. */
double mcast_pace_rate(const mcast_pace *pace);

#endif
