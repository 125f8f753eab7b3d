/* What became of the numbers of each flow: received, missing, lost, twice, late. pure/tracker.py has the same steps.
 *
 * Numbers of `bits` bits are unwrapped into positions of 64, which are compared by signed differences (RFC 1982). Of each flow, always:
 *
 *     expected = received - duplicates + lost + pending
 *
 * A gap is pending until `window` has passed by the flow's own clock, which adds up the steps forwards of the times of arrival: a clock that
 * is set back stands still, and one packet with a time far ahead does not stop it. */
#ifndef MCAST_TRACKER_H
#define MCAST_TRACKER_H

#include "hash.h"
#include "platform.h"
#include "refcount.h"
#include "sequence.h"

enum {
    MCAST_MOST_GAPS = 16384, /* remembered per flow; beyond them the oldest is charged and forgotten */
    MCAST_NEAR = 1024,       /* packets: so far a packet may be from another one and still belong to it */
};

typedef struct mcast_flow_key {
    uint64_t source[2];
    uint64_t group[2];
    uint64_t key[2];
    uint64_t ports; /* mcast_ports_of: one store, for one load follows */
} mcast_flow_key;

/* The sender's port and the group's as they follow each other in a record. */
static inline uint32_t
mcast_ports_of(const mcast_record *record)
{
    uint32_t ports;
    _Static_assert(offsetof(mcast_record, port) == offsetof(mcast_record, source_port) + 2, "one load");
    memcpy(&ports, &record->source_port, sizeof ports);
    return ports;
}

static inline uint32_t
mcast_ports_join(uint16_t source_port, uint16_t port)
{
    const mcast_record record = {.source_port = source_port, .port = port};
    return mcast_ports_of(&record);
}

static inline void
mcast_ports_split(uint64_t ports, uint16_t *source_port, uint16_t *port)
{
    const uint32_t joined = (uint32_t)ports;
    memcpy(source_port, &joined, sizeof *source_port);
    memcpy(port, (const uint8_t *)&joined + sizeof *source_port, sizeof *port);
}

/* Of these, what names a flow. */
static inline uint32_t
mcast_ports_mask(int by_source_port)
{
    return mcast_ports_join(by_source_port ? UINT16_MAX : 0, UINT16_MAX);
}

static inline int
mcast_is_same_flow(const mcast_flow_key *left, const mcast_flow_key *right)
{
    return ((left->source[0] ^ right->source[0]) | (left->source[1] ^ right->source[1]) |
            (left->group[0] ^ right->group[0]) | (left->group[1] ^ right->group[1]) | (left->key[0] ^ right->key[0]) |
            (left->key[1] ^ right->key[1]) | (left->ports ^ right->ports)) == 0;
}

/* What names the flow of a packet. */
static inline void
mcast_flow_key_of(const mcast_record *record, const uint64_t key[2], int by_source_port, mcast_flow_key *to)
{
    memcpy(&to->source, record->source, sizeof to->source);
    memcpy(&to->group, record->group, sizeof to->group);
    to->key[0] = key[0];
    to->key[1] = key[1];
    to->ports = mcast_ports_of(record) & mcast_ports_mask(by_source_port);
}

typedef struct mcast_gap {
    uint64_t first, end; /* positions; end is the one after the last */
    int64_t since;       /* of the flow's clock */
} mcast_gap;

/* Gaps in the order of their numbers and, with them, of their age: the first `charged` are lost, the others are pending. */
typedef struct mcast_gaps {
    mcast_gap *memory;
    uint32_t head, count, capacity, charged;
} mcast_gaps;

/* What the last packet was that may be the first after a restart: how it was counted, to be taken back. */
typedef struct mcast_candidate {
    uint64_t number;
    uint64_t late, early, duplicates; /* of its numbers */
    uint32_t count;                   /* numbers; 0: none is a candidate */
    uint32_t strays;                  /* packets with this number that were strays */
} mcast_candidate;

/* What a packet that follows the one before touches is in the first two cache lines; it writes to the second only. */
typedef struct mcast_tracked {
    mcast_flow_key key;
    int64_t
        due; /* by the clock: until then nothing ages, and a packet that follows only counts; INT64_MIN: it may not */
    uint64_t next;
    int64_t clock;     /* ns, by the times of arrival */
    int64_t last_time; /* of arrival; 0: none yet */
    uint64_t packets;
    int64_t gained; /* when the clock last saw a number that was new */
    uint64_t received;
    uint64_t low; /* `next` at the start of the window before this one: what is below is old */
    int64_t low_clock;
    uint64_t mark; /* the same of this window */
    int64_t mark_clock;
    uint64_t ambiguous;
    uint8_t known; /* whether there is a run: a number was seen */
    uint8_t ended;
    int64_t first_time; /* of arrival */
    uint64_t first;     /* position of this run */
    mcast_gaps gaps;
    mcast_candidate candidate;
    uint64_t duplicates, lost, pending, reordered, depth, late, burst, strays, restarts;
    uint64_t earlier;     /* numbers expected of the runs before */
    int64_t run_clock;    /* when this run began */
    int64_t restarted_at; /* by the clock; -1: never */
    int64_t silent;       /* of a copy: ns since the last packet */
    uint64_t unused[5];   /* whole cache lines */
} mcast_tracked;

_Static_assert(sizeof(mcast_tracked) % 64 == 0, "flows begin at cache lines");
_Static_assert(offsetof(mcast_tracked, next) == 64 && offsetof(mcast_tracked, mark) == 128,
               "two lines for a packet that follows");

/* Kinds of changes; extraction.py has their names. */
enum {
    MCAST_STARTED,
    MCAST_GAP,
    MCAST_LOST,
    MCAST_REORDERED,
    MCAST_LATE,
    MCAST_DUPLICATE,
    MCAST_RESTARTED,
    MCAST_ENDED,
};

typedef struct mcast_change {
    mcast_flow_key key;
    uint64_t first, last; /* numbers */
    int64_t time;         /* of arrival of the packet that showed it */
    uint32_t kind;
} mcast_change;

typedef struct mcast_changes {
    mcast_change *memory;
    size_t count, capacity;
    int failed;        /* no memory: some are missing */
    uint32_t left_out; /* kinds that are not noted, a bit each */
} mcast_changes;

typedef struct mcast_flow_slot {
    uint32_t hash;
    uint32_t place; /* of the flow, from 1; 0: free */
} mcast_flow_slot;

typedef struct mcast_tracker {
    mcast_mutex lock; /* taken last of all; nothing waits under it */
    mcast_refcount references;
    mcast_format format;
    uint32_t ports_mask; /* of what names a flow */
    int64_t window;      /* ns */
    uint32_t limit;      /* flows */
    mcast_tracked *flows;
    uint8_t *used; /* of each: whether a packet came since the hand of the eviction passed */
    uint32_t count, capacity;
    mcast_flow_slot *table; /* by hash */
    uint32_t table_mask;
    uint32_t hand;       /* of the eviction */
    uint32_t last;       /* the flow of the last packet */
    mcast_secret secret; /* of the hash: unknown outside of the process */
    uint64_t evicted, evicted_lost, evicted_expected;
    uint64_t short_packets, other_packets;
} mcast_tracker;

/* 0, or -errno. */
int mcast_tracker_open(mcast_tracker **tracker, const mcast_format *format, int by_source_port, int64_t window,
                       uint32_t limit);
void mcast_tracker_keep(mcast_tracker *tracker);
void mcast_tracker_release(mcast_tracker *tracker);

/* Takes in the packets of a batch; adds what changed where `changes` is no NULL. */
void mcast_tracker_update(mcast_tracker *tracker, const mcast_record *records, size_t count, const uint8_t *arena,
                          mcast_changes *changes);

/* A copy of each flow as it is at `now` (ns since the epoch; 0: at its last packet), up to `room` of them: how many there are. What was
 * pending for longer than the window counts as lost in the copy; the flow itself waits for its next packet. */
size_t mcast_tracker_flows(mcast_tracker *tracker, int64_t now, mcast_tracked *flows, size_t room);

static inline uint64_t
mcast_flow_expected(const mcast_tracked *flow)
{
    return flow->earlier + (flow->next - flow->first);
}

#endif
