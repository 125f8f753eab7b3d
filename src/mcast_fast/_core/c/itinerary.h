/* Replaying a recording: where each record goes, by its group and port, and when, by its timestamp. */
#ifndef MCAST_ITINERARY_H
#define MCAST_ITINERARY_H

#include "platform.h"
#include "record.h"
#include <stdlib.h>

enum {
    MCAST_LATE_STEPS = 32,                                         /* of each power of two: 3 % of the value */
    MCAST_LATE_BITS = 40,                                          /* what is later, 18 minutes, counts as that */
    MCAST_LATE_BUCKETS = (MCAST_LATE_BITS - 3) * MCAST_LATE_STEPS, /* lateness.py has the words */
};

typedef struct mcast_target {
    size_t outlet;
    struct sockaddr_storage address;
    socklen_t size;
} mcast_target;

/* Where the records of one group and port go. */
typedef struct mcast_leg {
    unsigned char group[16];
    uint16_t port;
    mcast_target target;
} mcast_leg;

/* A record is due at start + (its timestamp - origin) * scale, and not before the one in front of it. */
typedef struct mcast_itinerary {
    mcast_leg *legs; /* in the order of group and port */
    size_t leg_count;
    double scale; /* 0: records leave as the sender's own rate says */
    int64_t origin;
    int64_t start;
    int64_t reached; /* when the last one that left was due */
    uint64_t late[MCAST_LATE_BUCKETS];
    int64_t latest;
} mcast_itinerary;

static inline int
mcast_leg_order(const mcast_leg *leg, const unsigned char *group, uint16_t port)
{
    int order = memcmp(leg->group, group, sizeof leg->group);
    return order ? order : (leg->port > port) - (leg->port < port);
}

/* The first leg that does not come before this group and port. */
static inline size_t
mcast_leg_position(const mcast_itinerary *itinerary, const unsigned char *group, uint16_t port)
{
    size_t low = 0, high = itinerary->leg_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        if (mcast_leg_order(&itinerary->legs[middle], group, port) < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Where a record goes; NULL when that is not known. */
static inline const mcast_target *
mcast_itinerary_target(const mcast_itinerary *itinerary, const mcast_record *record)
{
    size_t at = mcast_leg_position(itinerary, record->group, record->port);
    if (at == itinerary->leg_count || mcast_leg_order(&itinerary->legs[at], record->group, record->port) != 0)
        return NULL;
    return &itinerary->legs[at].target;
}

/* Has records of this group and port go there from now on; 0, or -ENOMEM. */
static inline int
mcast_itinerary_add(mcast_itinerary *itinerary, const unsigned char *group, uint16_t port, const mcast_target *target)
{
    size_t at = mcast_leg_position(itinerary, group, port), count = itinerary->leg_count;
    if (at == count || mcast_leg_order(&itinerary->legs[at], group, port) != 0) {
        mcast_leg *legs = realloc(itinerary->legs, (count + 1) * sizeof *legs);
        if (!legs)
            return -ENOMEM;
        itinerary->legs = legs;
        memmove(&legs[at + 1], &legs[at], (count - at) * sizeof *legs);
        memcpy(legs[at].group, group, sizeof legs[at].group);
        legs[at].port = port;
        itinerary->leg_count++;
    }
    itinerary->legs[at].target = *target;
    return 0;
}

/* When a record is due that follows one that was due at `reached`. Any timestamp may stand in a file. */
static inline int64_t
mcast_itinerary_due(const mcast_itinerary *itinerary, const mcast_record *record, int64_t reached)
{
    int64_t due = itinerary->start;
    if (record->timestamp > itinerary->origin) {
        double after = (double)((uint64_t)record->timestamp - (uint64_t)itinerary->origin) * itinerary->scale;
        due = after < 0x1p61 ? due + (int64_t)after : INT64_MAX;
    }
    return due > reached ? due : reached;
}

/* How many of `left` records are due at `now`; *due is when the next one after them is. */
static inline size_t
mcast_itinerary_count(const mcast_itinerary *itinerary, const mcast_record *records, size_t left, int64_t now,
                      int64_t *due)
{
    size_t count = 0;
    *due = itinerary->reached;
    for (; count < left; count++)
        if ((*due = mcast_itinerary_due(itinerary, &records[count], *due)) > now)
            break;
    return count;
}

static inline unsigned
mcast_late_bucket(int64_t late)
{
    if (late < MCAST_LATE_STEPS)
        return late > 0 ? (unsigned)late : 0;
    if (late >> (MCAST_LATE_BITS + 1))
        return MCAST_LATE_BUCKETS - 1;
    int bits = 5; /* the place of its highest bit */
    while (late >> (bits + 1))
        bits++;
    return (unsigned)(bits - 4) * MCAST_LATE_STEPS + ((unsigned)(late >> (bits - 5)) & (MCAST_LATE_STEPS - 1));
}

/* Counts how late each of `count` records left, at `now`. */
static inline void
mcast_itinerary_left(mcast_itinerary *itinerary, const mcast_record *records, size_t count, int64_t now)
{
    for (size_t i = 0; i < count; i++) {
        itinerary->reached = mcast_itinerary_due(itinerary, &records[i], itinerary->reached);
        int64_t late = now - itinerary->reached;
        itinerary->late[mcast_late_bucket(late)]++;
        itinerary->latest = late > itinerary->latest ? late : itinerary->latest;
    }
}

#endif
