/* Several legs of one feed become one: each number once, in order or first come. pure/arbiter.py has the same steps.
 *
 * Of the feed, always, in numbers:
 *
 *     expected = delivered + unrecovered + pending
 *     sum of the legs' received = delivered + held + duplicates + late + sum of the legs' outside
 *
 * and of each leg:
 *
 *     expected = received - duplicates - outside + lost + absent + pending
 *
 * Packets of all legs are taken in the order of their arrival, so that files give what the live stream gave. A leg is charged for a number
 * when `hold` has passed since the number first came or was first seen to be missing. */
#ifndef MCAST_ARBITER_H
#define MCAST_ARBITER_H

#include "hash.h"
#include "schedule.h"
#include "sequence.h"
#include "source.h"

enum {
    MCAST_MOST_LEGS = 8,
    MCAST_MOST_POSITIONS = 1 << 20,  /* numbers remembered per flow */
    MCAST_ALL_POSITIONS = 1 << 22,   /* of all flows together */
    MCAST_LEAST_POSITIONS = 1 << 13, /* of each flow in any case */
    MCAST_MOST_COVERED = 1 << 12,    /* numbers that one packet may cover */
    MCAST_LEAST_SPAN = 1 << 7,       /* fewer numbers that are missing have a slot each */
    MCAST_SPAN = 0xff,               /* no leg */
    MCAST_CHUNK = 1 << 18,           /* bytes of memory for packets that wait */
};

/* What became of a number, or of many in a row of which none came: those behind the first have no slots. */
typedef struct mcast_slot {
    int64_t time;    /* by the clock: when it came, or was seen to be missing */
    uint32_t kept;   /* the packet that waits to be delivered at this number + 1; 0: none. Of many: how many */
    uint8_t legs;    /* that brought it, a bit each */
    uint8_t absent;  /* legs that were charged as absent */
    uint8_t leg;     /* that was first; MCAST_SPAN: this slot is of many */
    uint8_t skipped; /* it was given up: counted as unrecovered */
} mcast_slot;

/* The numbers from a sender's start to its restart. first <= tail <= floor <= head <= next, where numbers are compared by signed differences
 * (RFC 1982). */
typedef struct mcast_feed_run {
    mcast_slot *slots;
    uint64_t mask;   /* slots - 1 */
    uint64_t *spans; /* the first numbers of slots of many, in order; tail, floor and head are never inside of a span */
    uint32_t span_count, span_capacity;
    uint64_t first, next; /* positions: numbers unwrapped */
    uint64_t tail;        /* what is below is forgotten */
    uint64_t floor;       /* what is below is charged */
    uint64_t head;        /* what is below is delivered or given up; in order only */
    int64_t start;        /* by the clock */
    int64_t advanced;     /* when the last new number came */
    int64_t mark_clock, low_clock;
    uint64_t mark, low; /* `next` at the start of this window and of the one before */
    uint64_t first_of[MCAST_MOST_LEGS];
    uint32_t generation; /* 0: there is no such run */
    uint8_t members;     /* legs that brought one of its numbers */
    uint8_t starting;    /* what comes may lie before the first number */
    uint8_t wide;        /* what is not charged is more than half of what the width can tell */
} mcast_feed_run;

/* A packet that may be the first after a restart: it waits for another one near it. */
typedef struct mcast_stash {
    mcast_record record;
    unsigned char *payload;
    size_t capacity;
    uint64_t number;
    uint32_t count;  /* 0: there is none */
    uint8_t repeats; /* it came before, as far as is known */
    int64_t arrival;
} mcast_stash;

/* A leg of a flow. */
typedef struct mcast_leg_flow {
    uint64_t next; /* behind the highest position that it brought */
    uint64_t low, mark;
    int64_t mark_clock;
    int64_t clock;       /* of its last packet */
    int64_t gained;      /* when it last brought a number that was new from it */
    int64_t behind;      /* since when others bring what it does not; -1: it has brought something since */
    uint32_t generation; /* of its run; 0: none */
    mcast_stash stash;
} mcast_leg_flow;

typedef struct mcast_feed_key {
    uint64_t channel; /* groups that belong together */
    uint64_t key[2];
} mcast_feed_key;

typedef struct mcast_feed {
    mcast_feed_key key;
    mcast_feed_run *run, *old; /* the run that began last, and the one before: of these two */
    mcast_feed_run runs[2];
    uint8_t used; /* since the hand of the eviction passed */
    uint32_t generation;
    mcast_leg_flow legs[MCAST_MOST_LEGS];
} mcast_feed;

/* A packet that waits to be delivered. */
typedef struct mcast_kept {
    mcast_record record;
    uint32_t chunk;
    uint32_t next; /* among the unused; + 1 */
} mcast_kept;

typedef struct mcast_chunk {
    unsigned char *bytes;
    uint32_t used, live; /* bytes; packets */
    uint32_t next;       /* among the unused; + 1 */
} mcast_chunk;

typedef struct mcast_leg_ledger {
    uint64_t packets;
    uint64_t received, duplicates, outside, lost, absent, pending, covered, first, late; /* numbers */
    uint64_t heartbeats, unnumbered, unpaired;                                           /* packets */
    int64_t last_time; /* of arrival of its last packet with a number; 0: none */
} mcast_leg_ledger;

/* A group and port of a leg, and the channel that they are of. */
typedef struct mcast_pairing {
    uint8_t group[16];
    uint16_t port; /* 0: any */
    uint32_t channel;
} mcast_pairing;

typedef struct mcast_renamed {
    uint32_t from, to; /* interfaces: files count them for themselves */
} mcast_renamed;

typedef struct mcast_leg {
    mcast_leg_ledger ledger;
    mcast_pairing *pairings; /* ordered */
    size_t pairing_count, last_pairing;
    mcast_renamed *renamed;
    size_t renamed_count;
    uint8_t only_group[16]; /* of a leg without pairings: its one group */
    uint16_t only_port;
    uint8_t has_only;
    uint8_t was_new; /* its last packet was delivered at once */
    uint64_t taken;  /* packets */
    int64_t last;    /* time of arrival of its last packet */
} mcast_leg;

/* What a leg has delivered, and up to when nothing else will come from it. */
typedef struct mcast_leg_input {
    const mcast_record *records;
    size_t count, at;
    const unsigned char *arena;
    int64_t quiet_until; /* ns since the epoch; INT64_MAX: it has ended */
} mcast_leg_input;

typedef struct mcast_arbiter {
    mcast_mutex lock; /* taken last of all; nothing waits under it */
    mcast_format format;
    int64_t hold, silence, remembered; /* ns: until charged; until a leg counts as silent; until forgotten */
    uint32_t leg_count;
    uint32_t limit; /* flows */
    int in_order;
    uint8_t all_legs; /* a bit each */
    int failed;       /* no memory: a packet stays where it is */
    mcast_leg legs[MCAST_MOST_LEGS];

    int64_t clock; /* ns: the steps forwards of the times of arrival */
    int64_t last_time;
    int64_t arrival; /* by the clock, of the packet that is looked at */

    mcast_feed **feeds;
    uint32_t count, capacity;
    uint32_t *table; /* feed + 1 by hash; 0: free */
    uint32_t table_mask;
    uint32_t hand, last;
    mcast_secret secret; /* of the hash: unknown outside of the process */
    uint64_t positions;  /* remembered, of all flows */

    mcast_batch out;                   /* what is decided */
    size_t usual_records, usual_bytes; /* of the last ones that were taken */
    mcast_kept *kept;
    uint32_t kept_count, kept_capacity, kept_unused;
    mcast_chunk *chunks;
    uint32_t chunk_count, chunk_capacity, chunk_unused, chunk; /* the last one is that which is filled, + 1 */
    uint64_t kept_bytes, kept_limit;

    uint64_t packets, bytes, truncated;                                         /* that were delivered */
    uint64_t expected, delivered, unrecovered, pending, held, duplicates, late; /* numbers */
    uint64_t restarts, ambiguous, overflows, evicted;
    uint64_t skew[MCAST_LATE_BUCKETS];
    int64_t skew_max;
} mcast_arbiter;

/* How a turn ended. */
enum {
    MCAST_ARBITER_WAITS,    /* for a leg's next packets */
    MCAST_ARBITER_ENOUGH,   /* the batch is large */
    MCAST_ARBITER_FAILED,   /* no memory */
    MCAST_ARBITER_UNPAIRED, /* + leg: it has packets of a second group, and none was named */
};

/* 0, or -errno. */
int mcast_arbiter_open(mcast_arbiter **arbiter, const mcast_format *format, uint32_t legs, int64_t hold, int in_order,
                       uint32_t limit, uint64_t kept_limit);
void mcast_arbiter_free(mcast_arbiter *arbiter);

/* Gives a leg its groups (ordered by group and port), or its interfaces other numbers; 0, or -errno. */
int mcast_arbiter_pair(mcast_arbiter *arbiter, uint32_t leg, const mcast_pairing *pairings, size_t count);
int mcast_arbiter_rename(mcast_arbiter *arbiter, uint32_t leg, const mcast_renamed *renamed, size_t count);

/* Takes packets in the order of arrival until a leg has none whose next one might be earlier. */
int mcast_arbiter_turn(mcast_arbiter *arbiter, mcast_leg_input *inputs);

/* Charges and delivers everything now. */
void mcast_arbiter_flush(mcast_arbiter *arbiter);

/* ns until something is due by the clock, when no packet comes; -1: nothing is. */
int64_t mcast_arbiter_due(mcast_arbiter *arbiter);

/* Moves what is decided to the caller. */
void mcast_arbiter_take(mcast_arbiter *arbiter, mcast_memory *records, mcast_memory *data);

/* The counters as they are together; of the copy nothing else may be used. */
void mcast_arbiter_counters(mcast_arbiter *arbiter, mcast_arbiter *copy);

#endif
