#include "summary.h"
#include <stdlib.h>

enum { FIRST_FLOWS = 64 };

void
mcast_summary_open(mcast_summary *summary, size_t most, uint64_t seed)
{
    memset(summary, 0, sizeof *summary);
    summary->most = most;
    summary->seed = seed;
}

void
mcast_summary_free(mcast_summary *summary)
{
    free(summary->flows);
    free(summary->table);
    free(summary->arrivals);
    summary->flows = NULL;
    summary->arrivals = NULL;
    summary->table = NULL;
    summary->count = summary->capacity = 0;
}

static uint64_t
word_at(const uint8_t *bytes)
{
    uint64_t word;
    memcpy(&word, bytes, sizeof word);
    return word;
}

/* A sum of products: processors make them side by side. */
static uint32_t
hash_of(const mcast_summary *summary, const uint8_t source[16], const uint8_t group[16], uint16_t port,
        uint32_t interface_index)
{
    const uint64_t seed = summary->seed;
    int is_part = summary->by_interface || mcast_is_link_local(source);
    uint64_t rest = (uint64_t)(is_part ? interface_index : 0) << 16 | port;
    uint64_t hash = (word_at(source) ^ seed) * 0xff51afd7ed558ccdu +
                    (word_at(source + 8) ^ seed) * 0xc4ceb9fe1a85ec53u + (word_at(group) ^ seed) * 0x9e3779b97f4a7c15u +
                    (word_at(group + 8) ^ seed) * 0xbf58476d1ce4e5b9u;
    hash = (hash ^ hash >> 32) * 0xff51afd7ed558ccdu + (rest ^ seed) * 0x94d049bb133111ebu;
    return (uint32_t)((hash ^ hash >> 29) * 0xd6e8feb86659fd93u >> 32);
}

static void
put_in_table(mcast_summary *summary, size_t at)
{
    const mcast_counted *flow = &summary->flows[at];
    uint32_t slot = hash_of(summary, flow->source, flow->group, flow->port, flow->interface_index);
    for (slot &= summary->table_mask; summary->table[slot]; slot = (slot + 1) & summary->table_mask)
        continue;
    summary->table[slot] = (uint32_t)at + 1;
}

static void
fill_table(mcast_summary *summary)
{
    memset(summary->table, 0, ((size_t)summary->table_mask + 1) * sizeof *summary->table);
    for (size_t i = 0; i < summary->count; i++)
        put_in_table(summary, i);
}

/* Twice as many flows, and a table of twice as many slots as flows; -1 without memory, with everything as it was. */
static int
grow(mcast_summary *summary)
{
    size_t capacity = summary->capacity ? 2 * summary->capacity : FIRST_FLOWS;
    if (summary->by_interface) {
        mcast_arrivals *arrivals = realloc(summary->arrivals, capacity * sizeof *arrivals);
        if (!arrivals)
            return -1;
        summary->arrivals = arrivals; /* larger than is needed, where the rest fails */
    }
    uint32_t *table = malloc(2 * capacity * sizeof *table);
    mcast_counted *flows = table ? realloc(summary->flows, capacity * sizeof *flows) : NULL;
    if (!flows) {
        free(table);
        return -1;
    }
    free(summary->table);
    summary->flows = flows;
    summary->capacity = capacity;
    summary->table = table;
    summary->table_mask = (uint32_t)(2 * capacity - 1);
    fill_table(summary);
    return 0;
}

/* Adds a flow to those that are not listed. */
static void
merge(mcast_counted *others, const mcast_counted *flow)
{
    if (flow->is_timed) {
        others->first = others->is_timed && others->first < flow->first ? others->first : flow->first;
        others->last = others->is_timed && others->last > flow->last ? others->last : flow->last;
        others->is_timed = 1;
    }
    if (flow->largest_gap > others->largest_gap) {
        others->largest_gap = flow->largest_gap;
        others->largest_gap_at = flow->largest_gap_at;
    }
    others->smallest = others->packets == 0 || flow->smallest < others->smallest ? flow->smallest : others->smallest;
    others->largest = flow->largest > others->largest ? flow->largest : others->largest;
    others->packets += flow->packets;
    others->bytes += flow->bytes;
    others->wire_bytes += flow->wire_bytes;
    others->dropped += flow->dropped;
    others->truncated += flow->truncated;
}

/* The same with the times of its arrivals. */
static void
merge_arrivals(mcast_arrivals *into, const mcast_arrivals *flow)
{
    int64_t latest = into->tick > flow->tick ? into->tick : flow->tick;
    if (into->seen == 0 || flow->begun < into->begun)
        into->begun = flow->begun;
    into->seen = into->seen > flow->seen ? into->seen : flow->seen;
    into->resumed = into->resumed > flow->resumed ? into->resumed : flow->resumed;
    into->silences += flow->silences;
    into->gap_sum += flow->gap_sum;
    for (size_t i = 0; i < MCAST_GAP_BUCKETS; i++)
        into->gaps[i] += flow->gaps[i];
    mcast_arrivals_turn(into, latest);
    for (int64_t tick = flow->tick; tick > flow->tick - MCAST_TICKS && tick >= 0; tick--) {
        if (tick <= latest - MCAST_TICKS)
            break;
        size_t at = (size_t)(tick % MCAST_TICKS);
        uint32_t *bytes = &into->bytes[at];
        into->packets[at] += flow->packets[at];
        *bytes = *bytes > UINT32_MAX - flow->bytes[at] ? UINT32_MAX : *bytes + flow->bytes[at];
    }
}

typedef struct ranked {
    uint64_t packets;
    size_t at;
} ranked;

static int
compare_ranked(const void *left, const void *right)
{
    const ranked *a = left, *b = right;
    if (a->packets != b->packets)
        return a->packets < b->packets ? 1 : -1;
    return a->at > b->at ? 1 : -1;
}

static int
compare_places(const void *left, const void *right)
{
    const ranked *a = left, *b = right;
    return (a->at > b->at) - (a->at < b->at);
}

/* Without memory to sort by, it stays as it is. */
void
mcast_summary_fit(mcast_summary *summary)
{
    if (summary->count <= summary->most)
        return;
    ranked *order = malloc(summary->count * sizeof *order);
    if (!order)
        return;
    for (size_t i = 0; i < summary->count; i++)
        order[i] = (ranked){summary->flows[i].packets, i};
    qsort(order, summary->count, sizeof *order, compare_ranked);
    for (size_t i = summary->most; i < summary->count; i++) {
        merge(&summary->others, &summary->flows[order[i].at]);
        if (summary->arrivals)
            merge_arrivals(&summary->other_arrivals, &summary->arrivals[order[i].at]);
    }
    qsort(order, summary->most, sizeof *order, compare_places);
    for (size_t i = 0; i < summary->most; i++) {
        summary->flows[i] = summary->flows[order[i].at];
        if (summary->arrivals && order[i].at != i)
            summary->arrivals[i] = summary->arrivals[order[i].at];
    }
    free(order);
    summary->count = summary->most;
    summary->fits++;
    fill_table(summary);
}

static mcast_counted *
begin(mcast_summary *summary, const mcast_record *record)
{
    if (summary->count >= 2 * summary->most)
        mcast_summary_fit(summary);
    if (summary->count >= 2 * summary->most || (summary->count == summary->capacity && grow(summary) != 0))
        return &summary->others;
    mcast_counted *flow = &summary->flows[summary->count];
    memset(flow, 0, sizeof *flow);
    memcpy(flow->source, record->source, sizeof flow->source);
    memcpy(flow->group, record->group, sizeof flow->group);
    flow->port = record->port;
    flow->interface_index = record->interface_index;
    put_in_table(summary, summary->count++);
    return flow;
}

mcast_counted *
mcast_summary_known(const mcast_summary *summary, const mcast_record *record)
{
    if (summary->count == 0)
        return NULL;
    uint32_t slot = hash_of(summary, record->source, record->group, record->port, record->interface_index);
    for (slot &= summary->table_mask; summary->table[slot]; slot = (slot + 1) & summary->table_mask) {
        mcast_counted *flow = &summary->flows[summary->table[slot] - 1];
        if (mcast_is_counted_by(flow, record, summary->by_interface))
            return flow;
    }
    return NULL;
}

mcast_counted *
mcast_summary_find(mcast_summary *summary, const mcast_record *record)
{
    mcast_counted *flow = mcast_summary_known(summary, record);
    return flow ? flow : begin(summary, record);
}
