/* The schedule of a recording that is sent again: where each record goes, by its group and port, and when, by its timestamp. */
#ifndef MCAST_SCHEDULE_H
#define MCAST_SCHEDULE_H

#include "platform.h"
#include "record.h"

enum {
    MCAST_LATE_STEPS = 32,                                         /* per power of two: 3 % of the value */
    MCAST_LATE_BITS = 40,                                          /* what is later, 18 minutes, counts as that */
    MCAST_LATE_BUCKETS = (MCAST_LATE_BITS - 3) * MCAST_LATE_STEPS, /* as lateness.py */
};

/* The position of the highest bit of a number that is not 0. */
static inline int
mcast_highest_bit(uint64_t number)
{
#if defined(__GNUC__)
    return 63 - __builtin_clzll(number);
#else
    int position = 0;
    while (number >>= 1)
        position++;
    return position;
#endif
}

static inline unsigned
mcast_late_bucket(int64_t late)
{
    if (late < MCAST_LATE_STEPS)
        return late > 0 ? (unsigned)late : 0;
    if (late >> (MCAST_LATE_BITS + 1))
        return MCAST_LATE_BUCKETS - 1;
    int bits = mcast_highest_bit((uint64_t)late);
    return (unsigned)(bits - 4) * MCAST_LATE_STEPS + ((unsigned)(late >> (bits - 5)) & (MCAST_LATE_STEPS - 1));
}

/* No moment is later than this, so that sums and differences of moments never overflow. */
#define MCAST_NEVER ((int64_t)1 << 61)

typedef struct mcast_target {
    size_t socket; /* its key */
    struct sockaddr_storage address;
    socklen_t size;
} mcast_target;

/* Where the records of one group and port go. */
typedef struct mcast_route_entry {
    unsigned char group[16];
    uint16_t port;
    mcast_target target;
} mcast_route_entry;

/* A record is due at start + (its timestamp - origin) * scale, and not before its predecessor. */
typedef struct mcast_schedule {
    mcast_route_entry *entries; /* ordered by group and port */
    size_t entry_count;
    double scale; /* 0: records leave at the sender's own rate */
    int64_t origin;
    int64_t start;
    int64_t reached; /* when the last record that left was due */
    uint16_t keep;   /* MCAST_TTL, MCAST_TOS: what of a record's its datagram has; else the sender's */
    uint8_t ttl;     /* the sender's */
    uint8_t tos;
    uint64_t late[MCAST_LATE_BUCKETS];
    int64_t latest;
} mcast_schedule;

/* The moment `ns` after `start`; MCAST_NEVER when that is too far away to count, or no number. */
static inline int64_t
mcast_moment_after(int64_t start, double ns)
{
    int64_t moment = ns < 0x1p60 ? start + (int64_t)ns : MCAST_NEVER;
    return moment < MCAST_NEVER ? moment : MCAST_NEVER;
}

/* The TTL (or hop limit) and the TOS (or traffic class) that a record's datagram has: ttl << 8 | tos. */
static inline unsigned
mcast_schedule_hops(const mcast_schedule *schedule, const mcast_record *record)
{
    unsigned kept = record->flags & schedule->keep;
    return (unsigned)(kept & MCAST_TTL ? record->ttl : schedule->ttl) << 8 |
           (kept & MCAST_TOS ? record->tos : schedule->tos);
}

/* Where a record goes; NULL when that is not known. */
const mcast_target *mcast_schedule_target(const mcast_schedule *schedule, const mcast_record *record);

/* Sets where records of this group and port go from now on. 0, or -ENOMEM. */
int mcast_schedule_add(mcast_schedule *schedule, const unsigned char *group, uint16_t port, const mcast_target *target);

/* Starts it: a record stamped `origin` is due at `start`. */
void mcast_schedule_start(mcast_schedule *schedule, int64_t origin, int64_t start, double scale);

/* The number of records, of `left`, that are due at `now`; *due is when the next one is. */
size_t mcast_schedule_count(const mcast_schedule *schedule, const mcast_record *records, size_t left, int64_t now,
                            int64_t *due);

/* Counts how late each of `count` records left, at `now`. */
void mcast_schedule_left(mcast_schedule *schedule, const mcast_record *records, size_t count, int64_t now);

void mcast_schedule_free(mcast_schedule *schedule);

#endif
