/* What a capture file holds, by flows: what one source sent to one group and port. Counted record by record, without their payloads.
 *
 * Memory is bounded: of more than twice as many flows as are wanted, those with the fewest packets are added to `others`. So all flows are
 * exact in a file of no more than that, and in any other one each flow that has more packets than one in `most` is among those that are left. */
#ifndef MCAST_SUMMARY_H
#define MCAST_SUMMARY_H

#include "arrivals.h"
#include "hash.h"
#include "record.h"
#include <stddef.h>

enum { MCAST_RECENT_FLOWS = 64 };

typedef struct mcast_counted {
    uint8_t source[16]; /* as they follow each other in the record */
    uint8_t group[16];
    uint32_t interface_index; /* of its first packet; of link-local sources a part of what a flow is */
    uint16_t port;
    uint16_t smallest; /* payload on the wire, bytes */
    uint16_t largest;
    uint16_t is_timed; /* one of its packets has a time */
    uint64_t packets;
    uint64_t bytes; /* of payload, as captured */
    uint64_t wire_bytes;
    uint64_t dropped;
    uint64_t truncated;
    int64_t first; /* ns since the epoch */
    int64_t last;
    uint64_t largest_gap;
    int64_t largest_gap_at;
} mcast_counted;

typedef struct mcast_summary {
    mcast_counted *flows; /* in the order they began */
    size_t count;
    size_t capacity;
    size_t most;     /* that are wanted */
    uint32_t *table; /* places in `flows`, + 1; twice as many slots as the capacity */
    uint32_t table_mask;
    uint32_t recent
        [MCAST_RECENT_FLOWS]; /* places of flows, by a part of their names: most likely the one that is looked for */
    mcast_secret secret;      /* of the hash */
    uint64_t fits;            /* times that flows were given other places */
    mcast_counted others;
    int by_interface;         /* flows of a monitor: the interface is a part of each */
    mcast_arrivals *arrivals; /* theirs, at the same places; else NULL */
    mcast_arrivals other_arrivals;
} mcast_summary;

/* `seed`: a number that who wrote the file cannot know, or flows could be made that fill one place of the table. */
void mcast_summary_open(mcast_summary *summary, size_t most, uint64_t seed);

/* The flow of a record where there is one, else NULL. */
mcast_counted *mcast_summary_known(const mcast_summary *summary, const mcast_record *record);

/* The flow of a record; one that begins where there is none yet. Without memory for it, the others. */
mcast_counted *mcast_summary_find(mcast_summary *summary, const mcast_record *record);

/* Leaves the `most` flows with the most packets, and of several with as many those that began first; the rest are added to `others`. */
void mcast_summary_fit(mcast_summary *summary);

void mcast_summary_free(mcast_summary *summary);

/* Link-local addresses (fe80::/10) are others on another interface. */
static inline int
mcast_is_link_local(const uint8_t address[16])
{
    return address[0] == 0xfe && (address[1] & 0xc0) == 0x80;
}

static inline int
mcast_is_counted_by(const mcast_counted *flow, const mcast_record *record, int by_interface)
{
    return mcast_same_address(flow->source, record->source) && mcast_same_address(flow->group, record->group) &&
           flow->port == record->port &&
           (flow->interface_index == record->interface_index || !(by_interface || mcast_is_link_local(record->source)));
}

static inline void
mcast_counted_time(mcast_counted *flow, int64_t time)
{
    if (!flow->is_timed) {
        flow->is_timed = 1;
        flow->first = flow->last = time;
    } else if (time > flow->last) {
        uint64_t gap =
            (uint64_t)time - (uint64_t)flow->last; /* a file may hold any times: their difference can have 64 bits */
        if (gap > flow->largest_gap) {
            flow->largest_gap = gap;
            flow->largest_gap_at = flow->last;
        }
        flow->last = time;
    } else if (time < flow->first) {
        flow->first = time;
    }
}

static inline mcast_counted *
mcast_summary_flow(mcast_summary *summary, const mcast_record *record)
{
    uint32_t source, group;
    memcpy(&source, record->source + 12, sizeof source);
    memcpy(&group, record->group + 12, sizeof group);
    uint32_t mixed = ((source ^ record->port) * 0x9e3779b1u + group) * 0x85ebca6bu;
    uint32_t *place = &summary->recent[mixed / (UINT32_MAX / MCAST_RECENT_FLOWS + 1)];
    mcast_counted *flow = *place < summary->count ? &summary->flows[*place] : NULL;
    if (flow && mcast_is_counted_by(flow, record, summary->by_interface))
        return flow;
    flow = mcast_summary_find(summary, record);
    *place = flow == &summary->others ? *place : (uint32_t)(flow - summary->flows);
    return flow;
}

/* Of a monitor's flow. */
static inline mcast_arrivals *
mcast_summary_arrivals(mcast_summary *summary, const mcast_counted *flow)
{
    return flow == &summary->others ? &summary->other_arrivals : &summary->arrivals[flow - summary->flows];
}

/* Bytes of payload that were sent, also of a packet that was captured in part. */
static inline uint16_t
mcast_wire_size(const mcast_record *record)
{
    return record->wire_length > record->length ? record->wire_length : record->length;
}

/* A packet of `length` bytes of payload, of which `size` were sent. */
static inline void
mcast_counted_packet(mcast_counted *flow, int64_t timestamp, uint16_t length, uint16_t size)
{
    if (timestamp)
        mcast_counted_time(flow, timestamp);
    flow->smallest = flow->packets == 0 || size < flow->smallest ? size : flow->smallest;
    flow->largest = size > flow->largest ? size : flow->largest;
    flow->packets++;
    flow->bytes += length;
    flow->wire_bytes += size;
}

static inline void
mcast_counted_add(mcast_counted *flow, const mcast_record *record)
{
    mcast_counted_packet(flow, record->timestamp, record->length, mcast_wire_size(record));
    flow->dropped += record->dropped;
    flow->truncated += record->flags & MCAST_TRUNCATED;
}

/* Counts a packet. */
static inline void
mcast_summary_add(mcast_summary *summary, const mcast_record *record)
{
    mcast_counted_add(mcast_summary_flow(summary, record), record);
}

#endif
