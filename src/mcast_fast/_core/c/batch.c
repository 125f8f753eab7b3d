#include "receiver.h"
#include "tracker.h"

void
mcast_batch_free(mcast_pool *pool, mcast_batch *batch)
{
    mcast_pool_give(pool, batch->records.bytes, batch->records.capacity);
    mcast_pool_give(pool, batch->data.bytes, batch->data.capacity);
    if (batch->reference)
        mcast_reference_end(batch->reference);
    memset(batch, 0, sizeof *batch);
}

int
mcast_batch_append(mcast_pool *pool, mcast_batch *batch, const mcast_record *record, const unsigned char *payload)
{
    if (MCAST_ARENA_LIMIT - batch->data.used < record->length)
        return 1;
    if (mcast_memory_reserve(pool, &batch->records, sizeof *record) != 0 ||
        mcast_memory_reserve(pool, &batch->data, record->length) != 0)
        return -1;
    mcast_batch_put(batch, record, payload);
    return 0;
}

int
mcast_batch_append_all(mcast_pool *pool, mcast_batch *batch, const mcast_batch *more)
{
    const mcast_record *records = (const mcast_record *)more->records.bytes;
    size_t count = mcast_batch_count(more), bytes = 0;
    for (size_t i = 0; i < count; i++)
        bytes += records[i].length;
    if (MCAST_ARENA_LIMIT - batch->data.used < bytes)
        return 1;
    if (mcast_memory_reserve(pool, &batch->records, more->records.used) != 0 ||
        mcast_memory_reserve(pool, &batch->data, bytes) != 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        mcast_batch_append(pool, batch, &records[i], more->data.bytes + records[i].offset);
    batch->buffers += more->buffers;
    return 0;
}

void
mcast_batch_track(mcast_receiver *receiver, const mcast_batch *batch, size_t from)
{
    size_t count = mcast_batch_count(batch);
    if (!receiver->tracker || count == from)
        return;
    int pinned = 0;
    const unsigned char *arena = batch->reference ? mcast_reference_pin(batch->reference, &pinned) : batch->data.bytes;
    const mcast_record *records = (const mcast_record *)batch->records.bytes;
    mcast_tracker_update(receiver->tracker, records + from, count - from, arena, NULL);
    if (pinned)
        mcast_reference_unpin(batch->reference);
}

void
mcast_batch_begin(mcast_receiver *receiver, mcast_batch *batch, int copies)
{
    memset(batch, 0, sizeof *batch);
    batch->copies = copies;
    mcast_lock(&receiver->state_lock);
    batch->records = receiver->spare_records;
    batch->data = receiver->spare_data;
    memset(&receiver->spare_records, 0, sizeof receiver->spare_records);
    memset(&receiver->spare_data, 0, sizeof receiver->spare_data);
    mcast_unlock(&receiver->state_lock);
}

/* Keeps the larger of two pieces of memory as the spare one, and returns the other, and what is too large to keep. */
static void
keep_spare(mcast_pool *pool, mcast_memory *spare, mcast_memory *memory)
{
    if (memory->capacity > spare->capacity && memory->capacity <= MCAST_POOL_RETAINED) {
        mcast_memory before = *spare;
        *spare = *memory;
        spare->used = 0;
        *memory = before;
    }
    mcast_pool_give(pool, memory->bytes, memory->capacity);
}

void
mcast_batch_return(mcast_receiver *receiver, mcast_batch *batch)
{
    if (batch->reference)
        mcast_reference_end(batch->reference);
    mcast_lock(&receiver->state_lock);
    keep_spare(receiver->pool, &receiver->spare_records, &batch->records);
    keep_spare(receiver->pool, &receiver->spare_data, &batch->data);
    mcast_unlock(&receiver->state_lock);
    memset(batch, 0, sizeof *batch);
}
