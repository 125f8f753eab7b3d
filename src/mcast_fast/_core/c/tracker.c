#include "tracker.h"
#include "flow.h"
#include "quick.h"
#include <stdlib.h>

enum { FIRST_FLOWS = 16, SLOTS = 4 };

/* ---- flows by their key ---- */

static inline uint32_t
hash_of(const mcast_secret *secret, const mcast_flow_key *key)
{
    const uint64_t source = key->source[1] + key->ports * secret->words[6];
    return (uint32_t)mcast_products_fold(mcast_hash_pair(secret, 0, key->source[0], source) +
                                         mcast_hash_pair(secret, 2, key->group[0], key->group[1]) +
                                         mcast_hash_pair(secret, 4, key->key[0], key->key[1]));
}

static void
put_in_table(mcast_tracker *tracker, uint32_t at)
{
    uint32_t hash = hash_of(&tracker->secret, &tracker->flows[at].key), slot = hash & tracker->table_mask;
    while (tracker->table[slot].place)
        slot = (slot + 1) & tracker->table_mask;
    tracker->table[slot] = (mcast_flow_slot){hash, at + 1};
}

/* The slot of a flow that is there. */
static uint32_t
slot_of(const mcast_tracker *tracker, uint32_t at)
{
    uint32_t slot = hash_of(&tracker->secret, &tracker->flows[at].key) & tracker->table_mask;
    while (tracker->table[slot].place != at + 1)
        slot = (slot + 1) & tracker->table_mask;
    return slot;
}

/* Takes a flow out of the table; those behind it that it kept from their place move up. */
static void
take_out_of_table(mcast_tracker *tracker, uint32_t at)
{
    uint32_t free_slot = slot_of(tracker, at), mask = tracker->table_mask;
    for (uint32_t slot = (free_slot + 1) & mask; tracker->table[slot].place; slot = (slot + 1) & mask) {
        uint32_t wanted = tracker->table[slot].hash & mask;
        if (((slot - wanted) & mask) >= ((slot - free_slot) & mask)) {
            tracker->table[free_slot] = tracker->table[slot];
            free_slot = slot;
        }
    }
    tracker->table[free_slot].place = 0;
}

/* Twice as many flows, and a table of four slots for each, so that most are where they are looked for first; -1 without memory, with everything as it was. */
static int
grow(mcast_tracker *tracker)
{
    uint32_t capacity = tracker->capacity ? 2 * tracker->capacity : FIRST_FLOWS;
    uint8_t *used = realloc(tracker->used, capacity);
    if (!used)
        return -1;
    tracker->used = used; /* larger than is needed, where the rest fails */
    mcast_flow_slot *table = calloc(SLOTS * (size_t)capacity, sizeof *table);
    mcast_tracked *flows = table ? mcast_aligned_allocate(capacity * sizeof *flows) : NULL;
    if (!flows) {
        free(table);
        return -1;
    }
    if (tracker->count > 0)
        memcpy(flows, tracker->flows, tracker->count * sizeof *flows);
    mcast_aligned_free(tracker->flows);
    free(tracker->table);
    tracker->flows = flows;
    tracker->capacity = capacity;
    tracker->table = table;
    tracker->table_mask = SLOTS * capacity - 1;
    for (uint32_t i = 0; i < tracker->count; i++)
        put_in_table(tracker, i);
    return 0;
}

/* The place of a flow that was silent since the hand came by last: it gives way. */
static uint32_t
evict(mcast_tracker *tracker)
{
    while (tracker->used[tracker->hand]) {
        tracker->used[tracker->hand] = 0;
        tracker->hand = (tracker->hand + 1) % tracker->count;
    }
    uint32_t at = tracker->hand;
    mcast_tracked *flow = &tracker->flows[at];
    take_out_of_table(tracker, at);
    tracker->evicted++;
    tracker->evicted_lost += flow->lost + flow->pending;
    tracker->evicted_expected += mcast_flow_expected(flow);
    mcast_flow_free(flow);
    tracker->hand = (at + 1) % tracker->count;
    return at;
}

static mcast_tracked *
new_flow(mcast_tracker *tracker, const mcast_flow_key *key)
{
    int full = tracker->count == tracker->limit;
    if (!full && tracker->count == tracker->capacity && grow(tracker) != 0) {
        if (tracker->count == 0)
            return NULL;
        full = 1;
    }
    uint32_t at = full ? evict(tracker) : tracker->count++;
    mcast_tracked *flow = &tracker->flows[at];
    memset(flow, 0, sizeof *flow);
    flow->key = *key;
    flow->restarted_at = -1;
    tracker->used[at] = 0;
    put_in_table(tracker, at);
    tracker->last = at;
    return flow;
}

/* The packets of a batch go through the tracker in groups: while one is looked up, the flows of those behind it come into the cache. */
enum { TOGETHER = 16 }; /* GROUP is a type of the Windows headers */

typedef struct waiting {
    mcast_numbered packet;
    uint32_t likely; /* the place of its flow, most likely, from 1; 0: none is known */
} waiting;

static inline mcast_flow_key
key_of(const mcast_tracker *tracker, const mcast_record *record, const waiting *one)
{
    mcast_flow_key key;
    for (size_t i = 0; i < 2; i++) { /* words: copies of sixteen bytes would be stored, and loaded again */
        memcpy(&key.source[i], record->source + 8 * i, sizeof key.source[i]);
        memcpy(&key.group[i], record->group + 8 * i, sizeof key.group[i]);
        key.key[i] = one->packet.key[i];
    }
    key.ports = mcast_ports_of(record) & tracker->ports_mask;
    return key;
}

static inline int
is_flow(const mcast_tracker *tracker, uint32_t at, const mcast_record *record, const waiting *one)
{
    const mcast_flow_key key = key_of(tracker, record, one);
    return at < tracker->count && mcast_is_same_flow(&tracker->flows[at].key, &key);
}

static mcast_tracked *
find_flow(mcast_tracker *tracker, const mcast_record *record, const waiting *one)
{
    const mcast_flow_key key = key_of(tracker, record, one);
    if (tracker->count > 0) {
        uint32_t hash = hash_of(&tracker->secret, &key);
        const mcast_flow_slot *table = tracker->table;
        for (uint32_t slot = hash & tracker->table_mask; table[slot].place; slot = (slot + 1) & tracker->table_mask) {
            uint32_t at = table[slot].place - 1;
            if (table[slot].hash == hash && mcast_is_same_flow(&tracker->flows[at].key, &key)) {
                tracker->last = at;
                return &tracker->flows[at];
            }
        }
    }
    return new_flow(tracker, &key);
}

/* ---- packets ---- */

static inline void
read_group(const mcast_tracker *tracker, const mcast_record *records, size_t start, size_t size, size_t count,
           const uint8_t *arena, waiting *group)
{
    for (size_t i = 0; i < size; i++) {
        const mcast_record *record = &records[start + i];
        mcast_sequence_look_ahead(&tracker->format, records, start + i, count, arena);
        mcast_sequence_read(&tracker->format, arena + record->offset, record->length, &group[i].packet);
        group[i].likely = tracker->last + 1;
    }
}

/* Where there are several flows: those of a group, on their way into the cache. One that is not in its first slot is in the next, most
 * likely: both are looked at without a branch, which would often be guessed wrong. */
static void
look_up(const mcast_tracker *tracker, const mcast_record *records, size_t size, waiting *group)
{
    for (size_t i = 0; i < size; i++) {
        const mcast_flow_key key = key_of(tracker, &records[i], &group[i]);
        const uint32_t hash = hash_of(&tracker->secret, &key);
        const mcast_flow_slot first = tracker->table[hash & tracker->table_mask];
        const mcast_flow_slot next = tracker->table[(hash + 1) & tracker->table_mask];
        const uint32_t place = first.hash == hash ? first.place : next.place;
        group[i].likely = place;
        const uintptr_t flow = (uintptr_t)tracker->flows + place * sizeof *tracker->flows; /* the one behind it */
        MCAST_PREFETCH((const void *)(flow - sizeof *tracker->flows));
        MCAST_PREFETCH((const void *)(flow - sizeof *tracker->flows + MCAST_CACHE_LINE));
    }
}

/* A sender says that all of its flows to this group have ended: of those that are known. */
static void
end_flows(mcast_tracker *tracker, const mcast_record *record, const waiting *one, mcast_sight *sight)
{
    mcast_flow_key key = key_of(tracker, record, one);
    for (uint32_t i = 0; i < tracker->count; i++) {
        mcast_tracked *flow = &tracker->flows[i];
        memcpy(key.key, flow->key.key, sizeof key.key);
        if (!mcast_is_same_flow(&flow->key, &key))
            continue;
        const mcast_numbered end = {.number = flow->next, .kind = MCAST_END};
        sight->time = record->timestamp;
        mcast_flow_see(flow, &end, sight);
    }
}

MCAST_SELDOM static void
see(mcast_tracker *tracker, const mcast_record *record, const waiting *one, mcast_sight *sight)
{
    if (one->packet.kind == MCAST_SHORT) {
        tracker->short_packets++;
        return;
    }
    if (one->packet.kind == MCAST_OTHER) {
        tracker->other_packets++;
        return;
    }
    if (one->packet.kind == MCAST_END && tracker->format.layout == MCAST_BY_SPEAD) {
        end_flows(tracker, record, one, sight);
        return;
    }
    mcast_tracked *flow = find_flow(tracker, record, one);
    if (!flow)
        return;
    tracker->used[tracker->last] = 1;
    if (mcast_flow_follow(flow, &one->packet, &tracker->format, record->timestamp))
        return;
    sight->time = record->timestamp;
    mcast_flow_see(flow, &one->packet, sight);
}

/* A packet that is just the next one of the flow that it is likely to be of: whether it was, and is counted. Most are. */
static inline int
see_next_of_likely(mcast_tracker *tracker, const mcast_record *record, const waiting *one)
{
    const uint32_t at = one->likely - 1;
    if (!is_flow(tracker, at, record, one) ||
        !mcast_flow_follow(&tracker->flows[at], &one->packet, &tracker->format, record->timestamp))
        return 0;
    tracker->used[at] = 1;
    return 1;
}

void
mcast_tracker_update(mcast_tracker *tracker, const mcast_record *records, size_t count, const uint8_t *arena,
                     mcast_changes *changes)
{
    waiting group[TOGETHER];
    mcast_sight sight = {&tracker->format, changes, tracker->window, 0};
    mcast_lock(&tracker->lock);
    for (size_t start = 0; start < count; start += TOGETHER) {
        size_t size = count - start < TOGETHER ? count - start : TOGETHER;
        read_group(tracker, records, start, size, count, arena, group);
        /* Not at once: a key would be loaded before its bytes have arrived in the cache. */
        if (tracker->count > 1)
            look_up(tracker, &records[start], size, group);
        for (size_t i = 0; i < size; i++)
            if (!see_next_of_likely(tracker, &records[start + i], &group[i]))
                see(tracker, &records[start + i], &group[i], &sight);
    }
    mcast_unlock(&tracker->lock);
}

/* How far a flow's clock has come by a time of this machine. */
static int64_t
clock_at(const mcast_tracked *flow, int64_t now)
{
    if (now <= flow->last_time || flow->last_time <= 0)
        return flow->clock;
    int64_t step = now - flow->last_time;
    return step > INT64_MAX / 4 - flow->clock ? INT64_MAX / 4 : flow->clock + step;
}

size_t
mcast_tracker_flows(mcast_tracker *tracker, int64_t now, mcast_tracked *flows, size_t room)
{
    mcast_lock(&tracker->lock);
    size_t count = tracker->count;
    for (size_t i = 0; i < count && i < room; i++) {
        flows[i] = tracker->flows[i];
        mcast_flow_view(&flows[i], clock_at(&flows[i], now), tracker->window);
        memset(&flows[i].gaps, 0, sizeof flows[i].gaps); /* they are the flow's own */
    }
    mcast_unlock(&tracker->lock);
    return count;
}

/* ---- opening and closing ---- */

int
mcast_tracker_open(mcast_tracker **opened, const mcast_format *format, int by_source_port, int64_t window,
                   uint32_t limit)
{
    mcast_tracker *tracker = calloc(1, sizeof *tracker);
    int status = tracker ? mcast_mutex_open(&tracker->lock) : -ENOMEM;
    if (status != 0) {
        free(tracker);
        return status;
    }
    tracker->references = 1;
    mcast_secret_fill(&tracker->secret, (uint64_t)(uintptr_t)tracker ^ (uint64_t)mcast_monotonic_ns() << 20);
    tracker->format = *format;
    tracker->ports_mask = mcast_ports_mask(by_source_port);
    tracker->window = window;
    tracker->limit = limit;
    *opened = tracker;
    return 0;
}

void
mcast_tracker_keep(mcast_tracker *tracker)
{
    mcast_refcount_up(&tracker->references);
}

void
mcast_tracker_release(mcast_tracker *tracker)
{
    if (mcast_refcount_down(&tracker->references) > 0)
        return;
    for (uint32_t i = 0; i < tracker->count; i++)
        mcast_flow_free(&tracker->flows[i]);
    mcast_mutex_close(&tracker->lock);
    mcast_aligned_free(tracker->flows);
    free(tracker->used);
    free(tracker->table);
    free(tracker);
}
