/* What a receiver wants: its members, each with a source and a filter, and what passed filters that changed since. */
#include "receiver.h"
#include <errno.h>

void
mcast_member_free(mcast_receiver *receiver, mcast_member *member)
{
    if (member->owns_source)
        member->source->ops->remove(member->source, receiver);
    mcast_filter_free(&member->filter);
    free(member);
}

/* A key that has no member; -1 without memory. */
static int64_t
free_key(mcast_receiver *receiver)
{
    for (size_t key = receiver->keys; receiver->free_keys > 0 && key-- > 0;)
        if (!receiver->members[key]) {
            receiver->free_keys--;
            return (int64_t)key;
        }
    mcast_member **larger = realloc(receiver->members, (receiver->keys + 1) * sizeof *receiver->members);
    if (!larger)
        return -1;
    receiver->members = larger;
    receiver->members[receiver->keys] = NULL;
    return (int64_t)receiver->keys++;
}

int64_t
mcast_receiver_add_member(mcast_receiver *receiver, mcast_source *source, int owns_source, uint16_t port)
{
    mcast_member *member = calloc(1, sizeof *member);
    if (!member || mcast_filter_open(&member->filter, 0, 0) != 0) {
        free(member);
        return -ENOMEM;
    }
    int64_t key = free_key(receiver);
    if (key < 0) {
        mcast_filter_free(&member->filter);
        free(member);
        return -ENOMEM;
    }
    member->source = source;
    member->owns_source = owns_source;
    member->port = port;
    receiver->members[key] = member;
    receiver->only = NULL;
    return key;
}

/* Frees the key of a member that is not there any more, or was never complete. */
static void
forget_key(mcast_receiver *receiver, uint64_t key)
{
    receiver->members[key] = NULL;
    receiver->free_keys++;
}

/* A member has opened a source of its own, with this status: its key, or -errno with the member gone again. The state lock is held. */
static int64_t
own_source(mcast_receiver *receiver, int64_t key, int status)
{
    mcast_member *member = receiver->members[key];
    member->owns_source = status == 0;
    if (status == 0)
        return key;
    forget_key(receiver, (uint64_t)key);
    mcast_member_free(receiver, member);
    return status;
}

int64_t
mcast_receiver_add_socket(mcast_receiver *receiver, int fd, int decider, int used, const mcast_record *implied)
{
    mcast_lock(&receiver->state_lock);
    int64_t key = mcast_receiver_add_member(receiver, NULL, 0, implied->port);
    if (key >= 0) {
        mcast_source **source = &receiver->members[key]->source;
        int status = mcast_socket_source_open(source, receiver, fd, decider, used, implied, (uint64_t)key);
        key = own_source(receiver, key, status);
    }
    mcast_unlock(&receiver->state_lock);
    return key;
}

void
mcast_receiver_hand_over(mcast_receiver *receiver, uint64_t key, uint64_t heir)
{
    mcast_lock(&receiver->state_lock);
    mcast_member *from = key < receiver->keys ? receiver->members[key] : NULL;
    mcast_member *to = heir < receiver->keys ? receiver->members[heir] : NULL;
    if (from && to)
        mcast_socket_source_hand_over(from->source, to->source);
    mcast_unlock(&receiver->state_lock);
}

int64_t
mcast_receiver_add_ring(mcast_receiver *receiver, int fd, uint32_t interface_index, size_t block_size, uint32_t count,
                        unsigned latency_ms, int times, int delivers)
{
    mcast_lock(&receiver->state_lock);
    int64_t key = mcast_receiver_add_member(receiver, NULL, 0, 0);
    if (key >= 0) {
        mcast_source **source = &receiver->members[key]->source;
        int status = mcast_ring_source_open(source, receiver, fd, interface_index, block_size, count, latency_ms, times,
                                            delivers, (uint64_t)key);
        key = own_source(receiver, key, status);
    }
    mcast_unlock(&receiver->state_lock);
    return key;
}

int64_t
mcast_receiver_listen(mcast_receiver *receiver, uint64_t ring_key, uint16_t port)
{
    mcast_lock(&receiver->state_lock);
    const mcast_member *ring = ring_key < receiver->keys ? receiver->members[ring_key] : NULL;
    int64_t key = ring && ring->owns_source ? mcast_receiver_add_member(receiver, ring->source, 0, port) : -EBADF;
    mcast_unlock(&receiver->state_lock);
    return key;
}

/* Takes what a member wants out of the index. */
static void
withdraw(mcast_receiver *receiver, mcast_member *member)
{
    if (member->indexed)
        mcast_index_remove(&receiver->index, &member->filter, member->port);
    receiver->everything -= member->filter.everything != 0;
    member->indexed = 0;
}

void
mcast_receiver_remove(mcast_receiver *receiver, uint64_t key)
{
    mcast_lock(&receiver->state_lock);
    mcast_member *member = key < receiver->keys ? receiver->members[key] : NULL;
    if (member) {
        withdraw(receiver, member);
        forget_key(receiver, key);
        receiver->epoch++;
        receiver->only = NULL;
        mcast_member_free(receiver, member);
    }
    mcast_unlock(&receiver->state_lock);
}

int
mcast_receiver_accept(mcast_receiver *receiver, uint64_t key, mcast_filter *filter)
{
    int status = 0;
    mcast_lock(&receiver->state_lock);
    mcast_member *member = key < receiver->keys ? receiver->members[key] : NULL;
    if (member)
        status = mcast_index_reserve(&receiver->index, filter->mask + (size_t)1);
    if (member && status == 0) {
        mcast_filter old = member->filter;
        withdraw(receiver, member);
        member->filter = *filter;
        receiver->everything += filter->everything != 0;
        mcast_index_add(&receiver->index, &member->filter, member->port);
        member->indexed = 1;
        receiver->epoch++;
        *filter = old;
    }
    mcast_unlock(&receiver->state_lock);
    mcast_filter_free(filter);
    return status;
}

void
mcast_receiver_refuse_own(mcast_receiver *receiver, mcast_filter *addresses)
{
    mcast_lock(&receiver->state_lock);
    mcast_filter old = receiver->own;
    receiver->own = *addresses;
    receiver->epoch++;
    mcast_unlock(&receiver->state_lock);
    mcast_filter_free(&old);
}

int
mcast_receiver_wants(mcast_receiver *receiver, const mcast_record *record)
{
    if (mcast_is_own(mcast_receiver_own(receiver), record))
        return 0;
    if (mcast_index_wants(&receiver->index, record))
        return 1;
    for (size_t key = 0; receiver->everything > 0 && key < receiver->keys; key++) {
        const mcast_member *member = receiver->members[key];
        if (member && member->filter.everything && member->port == record->port)
            return 1;
    }
    return 0;
}

uint64_t
mcast_receiver_epoch(mcast_receiver *receiver)
{
    mcast_lock(&receiver->state_lock);
    uint64_t epoch = receiver->epoch;
    mcast_unlock(&receiver->state_lock);
    return epoch;
}

/* ---- filters that changed after packets had passed them ---- */

void
mcast_uncount(mcast_receiver *receiver, const mcast_record *record)
{
    receiver->counters.received--;
    receiver->counters.bytes -= record->length;
    receiver->counters.truncated -= (record->flags & MCAST_TRUNCATED) != 0;
    receiver->counters.coalesced -= (record->flags & MCAST_COALESCED) != 0;
}

static size_t
keep_wanted(mcast_receiver *receiver, mcast_record *records, size_t count)
{
    size_t kept = 0;
    uint32_t dropped = 0;
    for (size_t i = 0; i < count; i++) {
        if (mcast_receiver_wants(receiver, &records[i])) {
            records[kept] = records[i];
            records[kept++].dropped += dropped;
            dropped = 0;
            continue;
        }
        dropped += records[i].dropped;
        mcast_uncount(receiver, &records[i]);
        receiver->counters.filtered++;
    }
    return kept;
}

void
mcast_batch_drop(mcast_receiver *receiver, mcast_batch *batch)
{
    const mcast_record *records = (const mcast_record *)batch->records.bytes;
    size_t count = mcast_batch_count(batch);
    mcast_lock(&receiver->state_lock);
    for (size_t i = 0; i < count; i++)
        mcast_uncount(receiver, &records[i]);
    receiver->counters.buffers -= batch->buffers;
    receiver->counters.dropped_memory += count;
    mcast_unlock(&receiver->state_lock);
    batch->records.used = batch->data.used = 0;
}

size_t
mcast_receiver_filter_again(mcast_receiver *receiver, mcast_record *records, size_t count)
{
    mcast_lock(&receiver->state_lock);
    size_t kept = keep_wanted(receiver, records, count);
    mcast_unlock(&receiver->state_lock);
    return kept;
}

int
mcast_receiver_wants_all(mcast_receiver *receiver, const mcast_record *records, size_t count)
{
    size_t i = 0;
    mcast_lock(&receiver->state_lock);
    while (i < count && mcast_receiver_wants(receiver, &records[i]))
        i++;
    mcast_unlock(&receiver->state_lock);
    return i == count;
}

void
mcast_batch_finish(mcast_receiver *receiver, mcast_batch *batch)
{
    size_t count = mcast_batch_count(batch);
    mcast_lock(&receiver->state_lock);
    if (batch->epoch != receiver->epoch)
        count = keep_wanted(receiver, (mcast_record *)batch->records.bytes, count);
    batch->records.used = count * sizeof(mcast_record);
    batch->epoch = receiver->epoch;
    receiver->expected = count < 4096 ? count : 4096;
    mcast_unlock(&receiver->state_lock);
    mcast_memory_fit(receiver->pool, &batch->records);
    mcast_memory_fit(receiver->pool, &batch->data);
}
