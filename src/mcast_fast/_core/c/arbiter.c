#include "arbiter.h"
#include "arbiter_feed.h"
#include "quick.h"

enum { RECORDS_AHEAD = 48 };                            /* are fetched before the payloads that they name */
enum { TURN_BYTES = 16 << 20, TURN_PACKETS = 1 << 16 }; /* of a batch, and of packets looked at under the lock */
static const int64_t CLOCK_STEP = 1000000000;           /* ns: what goes back by more is a clock that was set */
static const int64_t SHORTEST_SILENCE = 1000000000;     /* ns */

/* ---- flows by their key ---- */

static uint32_t
hash_of(const mcast_arbiter *arbiter, const mcast_feed_key *key)
{
    const mcast_secret *secret = &arbiter->secret;
    const uint64_t low = key->key[1] + key->channel * secret->words[2];
    return (uint32_t)mcast_products_fold(mcast_hash_pair(secret, 0, key->key[0], low));
}

static int
is_same(const mcast_feed_key *left, const mcast_feed_key *right)
{
    return ((left->channel ^ right->channel) | (left->key[0] ^ right->key[0]) | (left->key[1] ^ right->key[1])) == 0;
}

/* The slot where a flow is looked for first. */
static uint32_t
wanted_slot(const mcast_arbiter *arbiter, uint32_t at)
{
    return hash_of(arbiter, &arbiter->feeds[at]->key) & arbiter->table_mask;
}

static void
put_in_table(mcast_arbiter *arbiter, uint32_t at)
{
    uint32_t slot = wanted_slot(arbiter, at);
    while (arbiter->table[slot])
        slot = (slot + 1) & arbiter->table_mask;
    arbiter->table[slot] = at + 1;
}

/* Takes a flow out of the table; those behind it that it kept from their place move up. */
static void
take_out_of_table(mcast_arbiter *arbiter, uint32_t at)
{
    uint32_t free_slot = wanted_slot(arbiter, at), mask = arbiter->table_mask;
    while (arbiter->table[free_slot] != at + 1)
        free_slot = (free_slot + 1) & mask;
    for (uint32_t slot = (free_slot + 1) & mask; arbiter->table[slot]; slot = (slot + 1) & mask) {
        uint32_t wanted = wanted_slot(arbiter, arbiter->table[slot] - 1);
        if (((slot - wanted) & mask) >= ((slot - free_slot) & mask)) {
            arbiter->table[free_slot] = arbiter->table[slot];
            free_slot = slot;
        }
    }
    arbiter->table[free_slot] = 0;
}

static int
grow(mcast_arbiter *arbiter)
{
    uint32_t capacity = arbiter->capacity ? 2 * arbiter->capacity : 4;
    uint32_t *table = calloc(2 * (size_t)capacity, sizeof *table);
    mcast_feed **feeds = table ? realloc(arbiter->feeds, capacity * sizeof *feeds) : NULL;
    if (!feeds) {
        free(table);
        return -1;
    }
    free(arbiter->table);
    arbiter->feeds = feeds;
    arbiter->capacity = capacity;
    arbiter->table = table;
    arbiter->table_mask = 2 * capacity - 1;
    for (uint32_t i = 0; i < arbiter->count; i++)
        put_in_table(arbiter, i);
    return 0;
}

/* The place of a flow that was silent since the hand came by last: it gives way. */
static uint32_t
evict(mcast_arbiter *arbiter)
{
    while (arbiter->feeds[arbiter->hand]->used) {
        arbiter->feeds[arbiter->hand]->used = 0;
        arbiter->hand = (arbiter->hand + 1) % arbiter->count;
    }
    uint32_t at = arbiter->hand;
    take_out_of_table(arbiter, at);
    mcast_feed_settle(arbiter, arbiter->feeds[at]);
    mcast_feed_free(arbiter, arbiter->feeds[at]);
    arbiter->evicted++;
    arbiter->hand = (at + 1) % arbiter->count;
    return at;
}

MCAST_SELDOM static mcast_feed *
new_feed(mcast_arbiter *arbiter, const mcast_feed_key *key)
{
    if (arbiter->count < arbiter->limit && arbiter->count == arbiter->capacity && grow(arbiter) != 0)
        return NULL;
    mcast_feed *feed = calloc(1, sizeof *feed);
    if (!feed)
        return NULL;
    feed->key = *key;
    feed->run = &feed->runs[0];
    feed->old = &feed->runs[1];
    for (uint32_t leg = 0; leg < arbiter->leg_count; leg++)
        feed->legs[leg].behind = MCAST_SILENT;
    uint32_t at = arbiter->count == arbiter->limit ? evict(arbiter) : arbiter->count++;
    arbiter->feeds[at] = feed;
    put_in_table(arbiter, at);
    arbiter->last = at;
    return feed;
}

static mcast_feed *
find_feed(mcast_arbiter *arbiter, const mcast_feed_key *key)
{
    if (arbiter->last < arbiter->count && is_same(&arbiter->feeds[arbiter->last]->key, key))
        return arbiter->feeds[arbiter->last];
    if (arbiter->count > 0)
        for (uint32_t slot = hash_of(arbiter, key) & arbiter->table_mask; arbiter->table[slot];
             slot = (slot + 1) & arbiter->table_mask) {
            uint32_t at = arbiter->table[slot] - 1;
            if (is_same(&arbiter->feeds[at]->key, key)) {
                arbiter->last = at;
                return arbiter->feeds[at];
            }
        }
    return new_feed(arbiter, key);
}

/* ---- groups that belong together ---- */

static int
compare(const mcast_pairing *pairing, const uint8_t group[16], uint16_t port)
{
    int order = memcmp(pairing->group, group, 16);
    return order ? order : (pairing->port > port) - (pairing->port < port);
}

static const mcast_pairing *
find_pairing(mcast_leg *leg, const uint8_t group[16], uint16_t port)
{
    size_t low = 0, high = leg->pairing_count;
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        int order = compare(&leg->pairings[middle], group, port);
        if (order == 0) {
            leg->last_pairing = middle;
            return &leg->pairings[middle];
        }
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

enum { UNPAIRED = -1, SECOND_GROUP = -2 };

/* The channel of a packet; UNPAIRED, or SECOND_GROUP where a leg without pairings has more than one. */
static int64_t
channel_of(mcast_leg *leg, const mcast_record *record)
{
    if (!leg->pairing_count) {
        if (!leg->has_only) {
            memcpy(leg->only_group, record->group, 16);
            leg->only_port = record->port;
            leg->has_only = 1;
        }
        return mcast_same_address(leg->only_group, record->group) && leg->only_port == record->port ? 0 : SECOND_GROUP;
    }
    const mcast_pairing *last = &leg->pairings[leg->last_pairing];
    if (mcast_same_address(last->group, record->group) && last->port == record->port)
        return last->channel;
    const mcast_pairing *found = find_pairing(leg, record->group, record->port);
    if (!found)
        found = find_pairing(leg, record->group, 0);
    return found ? (int64_t)found->channel : UNPAIRED;
}

/* ---- time ---- */

/* The clock adds up the steps forwards of the times of arrival: one that is set back stands still. */
static inline void
pass_time(mcast_arbiter *arbiter, int64_t time)
{
    if (time == 0 || time == INT64_MAX)
        return;
    int64_t step = arbiter->last_time == 0 ? 0 : time - arbiter->last_time;
    if (step > 0 && step > MCAST_LATEST_CLOCK - arbiter->clock)
        step = MCAST_LATEST_CLOCK - arbiter->clock;
    if (step > 0)
        arbiter->clock += step;
    if (arbiter->last_time == 0 || step > 0 || step < -CLOCK_STEP)
        arbiter->last_time = time;
}

static inline void
arrive(mcast_arbiter *arbiter, int64_t time)
{
    pass_time(arbiter, time);
    arbiter->arrival = time == 0 ? arbiter->clock : arbiter->clock - (arbiter->last_time - time);
}

/* ---- packets ---- */

/* STUCK: it is taken, and there was no memory to deliver what it released. */
enum { DONE, NO_MEMORY, NO_PAIR, STUCK };

static int
take_packet(mcast_arbiter *arbiter, mcast_leg *leg, const mcast_arrival *packet)
{
    const mcast_record *record = packet->record;
    mcast_numbered numbered;
    mcast_sequence_read(&arbiter->format, packet->payload, record->length, &numbered);
    if (numbered.kind == MCAST_SHORT || numbered.kind == MCAST_OTHER) {
        arrive(arbiter, record->timestamp);
        leg->ledger.packets++;
        leg->ledger.unnumbered++;
        return DONE;
    }
    int64_t channel = channel_of(leg, record);
    if (channel == SECOND_GROUP)
        return NO_PAIR;
    arrive(arbiter, record->timestamp);
    if (channel == UNPAIRED) {
        leg->ledger.packets++;
        leg->ledger.unpaired++;
        return DONE;
    }
    mcast_feed_key key = {(uint64_t)channel, {numbered.key[0], numbered.key[1]}};
    mcast_feed *feed = find_feed(arbiter, &key);
    if (!feed)
        return NO_MEMORY;
    feed->used = 1;
    if (mcast_feed_take(arbiter, feed, packet, &numbered) != 0)
        return NO_MEMORY;
    leg->ledger.packets++;
    leg->ledger.heartbeats += numbered.kind != MCAST_DATA;
    if (record->timestamp)
        leg->ledger.last_time = record->timestamp;
    return arbiter->failed ? STUCK : DONE;
}

/* When the next packet of a leg came; of a leg that has none, up to when none will. */
static inline int64_t
head_time(const mcast_leg *leg, const mcast_leg_input *input)
{
    if (input->at == input->count)
        return input->quiet_until;
    int64_t time = input->records[input->at].timestamp;
    return time ? time : leg->last;
}

/* The leg whose next packet came first (`heads`: when), or that with fewer of them so far; -1: one has none, and its next one may be
 * earlier. */
static inline int
first_leg(const mcast_arbiter *arbiter, const mcast_leg_input *inputs, const int64_t *heads)
{
    int first = -1;
    int64_t earliest = 0, quiet = INT64_MAX;
    for (uint32_t i = 0; i < arbiter->leg_count; i++) {
        int64_t time = heads[i];
        if (inputs[i].at == inputs[i].count) {
            quiet = time < quiet ? time : quiet;
        } else if (first < 0 || time < earliest ||
                   (time == earliest && arbiter->legs[i].taken < arbiter->legs[first].taken)) {
            first = (int)i;
            earliest = time;
        }
    }
    return first >= 0 && earliest <= quiet ? first : -1;
}

/* Up to when all is known: nothing earlier comes from any leg. */
static int64_t
known_until(const mcast_arbiter *arbiter, const mcast_leg_input *inputs)
{
    int64_t until = INT64_MAX;
    for (uint32_t i = 0; i < arbiter->leg_count; i++) {
        int64_t time = head_time(&arbiter->legs[i], &inputs[i]);
        until = time < until ? time : until;
    }
    return until;
}

static int
take_packets(mcast_arbiter *arbiter, mcast_leg_input *inputs)
{
    int64_t heads[MCAST_MOST_LEGS];
    for (uint32_t i = 0; i < arbiter->leg_count; i++)
        heads[i] = head_time(&arbiter->legs[i], &inputs[i]);
    for (uint32_t left = TURN_PACKETS; left > 0; left--) {
        int at = first_leg(arbiter, inputs, heads);
        if (at < 0)
            return MCAST_ARBITER_WAITS;
        mcast_leg_input *input = &inputs[at];
        mcast_leg *leg = &arbiter->legs[at];
        const mcast_record *record = &input->records[input->at];
        MCAST_PREFETCH(record + RECORDS_AHEAD);
        mcast_sequence_look_ahead(&arbiter->format, input->records, input->at, input->count, input->arena);
        if (leg->was_new) /* the next one is likely to be delivered, too: its payload is copied */
            mcast_look_ahead(input->arena, input->records, input->at, input->count);
        uint64_t before = arbiter->packets;
        const mcast_arrival packet = {record, input->arena + record->offset, (uint32_t)at};
        int status = take_packet(arbiter, leg, &packet);
        if (status == NO_MEMORY)
            return MCAST_ARBITER_FAILED;
        if (status == NO_PAIR)
            return MCAST_ARBITER_UNPAIRED + at;
        input->at++;
        leg->taken++;
        leg->was_new = arbiter->packets != before;
        if (record->timestamp)
            leg->last = record->timestamp;
        heads[at] = head_time(leg, input);
        if (status == STUCK)
            return MCAST_ARBITER_FAILED;
        if (arbiter->out.data.used >= TURN_BYTES)
            return MCAST_ARBITER_ENOUGH;
    }
    return MCAST_ARBITER_ENOUGH;
}

int
mcast_arbiter_turn(mcast_arbiter *arbiter, mcast_leg_input *inputs)
{
    mcast_lock(&arbiter->lock);
    arbiter->failed = 0;
    if (!arbiter->out.records.bytes) { /* as large as the last one; where memory is short, it grows as it is needed */
        mcast_memory_reserve(&mcast_shared_pool, &arbiter->out.records,
                             arbiter->usual_records + arbiter->usual_records / 8);
        mcast_memory_reserve(&mcast_shared_pool, &arbiter->out.data, arbiter->usual_bytes + arbiter->usual_bytes / 8);
    }
    int status = take_packets(arbiter, inputs);
    if (status == MCAST_ARBITER_WAITS) {
        pass_time(arbiter, known_until(arbiter, inputs));
        for (uint32_t i = 0; i < arbiter->count; i++)
            mcast_feed_pass(arbiter, arbiter->feeds[i]);
        if (arbiter->failed)
            status = MCAST_ARBITER_FAILED;
    }
    mcast_unlock(&arbiter->lock);
    return status;
}

void
mcast_arbiter_flush(mcast_arbiter *arbiter)
{
    mcast_lock(&arbiter->lock);
    for (uint32_t i = 0; i < arbiter->count; i++)
        mcast_feed_settle(arbiter, arbiter->feeds[i]);
    mcast_unlock(&arbiter->lock);
}

int64_t
mcast_arbiter_due(mcast_arbiter *arbiter)
{
    int64_t due = -1;
    mcast_lock(&arbiter->lock);
    for (uint32_t i = 0; i < arbiter->count; i++)
        for (int which = 0; which < 2; which++) {
            const mcast_feed_run *run = &arbiter->feeds[i]->runs[which];
            if (!run->generation || (run->floor == run->next && !run->starting))
                continue;
            int64_t from = run->floor == run->next ? run->start : mcast_slot_at(run, run->floor)->time;
            int64_t left = from + arbiter->hold - arbiter->clock;
            left = left > 0 ? left : 0;
            due = due < 0 || left < due ? left : due;
        }
    mcast_unlock(&arbiter->lock);
    return due;
}

/* Large batches come in turn with small ones: where a leg's batch ends within that of another. */
static void
forget_slowly(size_t *usual, size_t used)
{
    *usual -= *usual / 8;
    *usual = used > *usual ? used : *usual;
}

void
mcast_arbiter_take(mcast_arbiter *arbiter, mcast_memory *records, mcast_memory *data)
{
    mcast_lock(&arbiter->lock);
    forget_slowly(&arbiter->usual_records, arbiter->out.records.used);
    forget_slowly(&arbiter->usual_bytes, arbiter->out.data.used);
    *records = arbiter->out.records;
    *data = arbiter->out.data;
    memset(&arbiter->out, 0, sizeof arbiter->out);
    mcast_unlock(&arbiter->lock);
    mcast_memory_fit(&mcast_shared_pool, records);
    mcast_memory_fit(&mcast_shared_pool, data);
}

void
mcast_arbiter_counters(mcast_arbiter *arbiter, mcast_arbiter *copy)
{
    mcast_lock(&arbiter->lock);
    *copy = *arbiter;
    mcast_unlock(&arbiter->lock);
}

/* ---- opening and closing ---- */

int
mcast_arbiter_open(mcast_arbiter **opened, const mcast_format *format, uint32_t legs, int64_t hold, int in_order,
                   uint32_t limit, uint64_t kept_limit)
{
    mcast_arbiter *arbiter = calloc(1, sizeof *arbiter);
    int status = arbiter ? mcast_mutex_open(&arbiter->lock) : -ENOMEM;
    if (status != 0) {
        free(arbiter);
        return status;
    }
    mcast_secret_fill(&arbiter->secret, (uint64_t)(uintptr_t)arbiter ^ (uint64_t)mcast_monotonic_ns() << 20);
    arbiter->format = *format;
    arbiter->leg_count = legs;
    arbiter->all_legs = (uint8_t)((1u << legs) - 1);
    arbiter->hold = hold;
    arbiter->silence = 2 * hold > SHORTEST_SILENCE ? 2 * hold : SHORTEST_SILENCE;
    arbiter->remembered = arbiter->silence;
    arbiter->in_order = in_order;
    arbiter->limit = limit;
    arbiter->kept_limit = kept_limit;
    *opened = arbiter;
    return 0;
}

void
mcast_arbiter_free(mcast_arbiter *arbiter)
{
    for (uint32_t i = 0; i < arbiter->count; i++)
        mcast_feed_free(arbiter, arbiter->feeds[i]);
    for (uint32_t i = 0; i < arbiter->chunk_count; i++)
        free(arbiter->chunks[i].bytes);
    for (uint32_t i = 0; i < arbiter->leg_count; i++) {
        free(arbiter->legs[i].pairings);
        free(arbiter->legs[i].renamed);
    }
    mcast_batch_free(&mcast_shared_pool, &arbiter->out);
    mcast_mutex_close(&arbiter->lock);
    free(arbiter->feeds);
    free(arbiter->table);
    free(arbiter->kept);
    free(arbiter->chunks);
    free(arbiter);
}

static void *
copy_of(const void *from, size_t size)
{
    void *copy = malloc(size ? size : 1);
    if (copy)
        memcpy(copy, from, size);
    return copy;
}

int
mcast_arbiter_pair(mcast_arbiter *arbiter, uint32_t at, const mcast_pairing *pairings, size_t count)
{
    mcast_leg *leg = &arbiter->legs[at];
    mcast_pairing *copy = copy_of(pairings, count * sizeof *pairings);
    if (!copy)
        return -ENOMEM;
    free(leg->pairings);
    leg->pairings = copy;
    leg->pairing_count = count;
    leg->last_pairing = 0;
    return 0;
}

int
mcast_arbiter_rename(mcast_arbiter *arbiter, uint32_t at, const mcast_renamed *renamed, size_t count)
{
    mcast_leg *leg = &arbiter->legs[at];
    mcast_renamed *copy = copy_of(renamed, count * sizeof *renamed);
    if (!copy)
        return -ENOMEM;
    free(leg->renamed);
    leg->renamed = copy;
    leg->renamed_count = count;
    return 0;
}
