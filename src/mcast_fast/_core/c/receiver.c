#include "receiver.h"
#include <errno.h>

/* ---- batches ---- */

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
    mcast_record *copy = mcast_batch_next(batch);
    *copy = *record;
    copy->offset = (uint32_t)batch->data.used;
    memcpy(batch->data.bytes + batch->data.used, payload, record->length);
    batch->records.used += sizeof *record;
    batch->data.used += record->length;
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

int
mcast_batch_has_room(const mcast_receiver *receiver, const mcast_batch *batch, size_t limit)
{
    return mcast_batch_count(batch) < limit && MCAST_ARENA_LIMIT - batch->data.used >= receiver->slot_size;
}

/* ---- opening and closing ---- */

int
mcast_receiver_open(mcast_receiver *receiver, mcast_pool *pool, unsigned count, size_t size, size_t packet_limit)
{
    memset(receiver, 0, sizeof *receiver);
    mcast_life_begin(&receiver->life);
    receiver->pool = pool;
    receiver->packet_limit = packet_limit;
    receiver->segments = 1;
    receiver->filled = size;
    receiver->slot_count = count;
    receiver->slot_size = size;
    mcast_poller_init(&receiver->poller);
    int status = mcast_mutex_open(&receiver->turn_lock);
    status = status ? status : mcast_mutex_open(&receiver->state_lock);
    status = status ? status : mcast_mutex_open(&receiver->show_lock);
    status = status ? status : mcast_condition_open(&receiver->turn_free);
    status = status ? status : mcast_poller_open(&receiver->poller);
    status = status ? status : mcast_scratch_open(&receiver->scratch, count, size);
    if (status != 0)
        mcast_poller_close(&receiver->poller);
    return status;
}

int
mcast_receiver_close(mcast_receiver *receiver)
{
    if (!mcast_life_close(&receiver->life))
        return 0;
    if (!mcast_life_is_foreign(&receiver->life)) {
        mcast_lock(&receiver->show_lock);
        mcast_poller_signal(&receiver->poller);
        mcast_unlock(&receiver->show_lock);
        mcast_lock(&receiver->turn_lock);
        mcast_condition_signal_all(&receiver->turn_free);
        mcast_unlock(&receiver->turn_lock);
        if (receiver->background)
            mcast_background_wake(receiver);
    }
    return 1;
}

static void
abandon(mcast_receiver *receiver)
{
    if (receiver->background)
        mcast_background_abandon(receiver);
    for (size_t key = 0; key < receiver->keys; key++)
        if (receiver->members[key] && receiver->members[key]->owns_source)
            receiver->members[key]->source->ops->abandon(receiver->members[key]->source);
    receiver->keys = 0;
    mcast_poller_close(&receiver->poller);
}

static void
free_member(mcast_receiver *receiver, mcast_member *member)
{
    if (member->owns_source)
        member->source->ops->remove(member->source, receiver);
    mcast_filter_free(&member->filter);
    free(member);
}

void
mcast_receiver_tear_down(mcast_receiver *receiver)
{
    if (mcast_word_exchange(&receiver->torn_down, 1))
        return;
    if (mcast_life_is_foreign(&receiver->life)) {
        abandon(receiver);
        return;
    }
    if (receiver->background)
        mcast_background_close(receiver);
    mcast_lock(&receiver->state_lock);
    mcast_index_free(&receiver->index);
    receiver->everything = 0;
    receiver->direct = receiver->busy = NULL;
    for (size_t key = 0; key < receiver->keys; key++)
        if (receiver->members[key])
            free_member(receiver, receiver->members[key]);
    free(receiver->members);
    receiver->members = NULL;
    receiver->keys = receiver->free_keys = receiver->sockets = 0;
    mcast_scratch_close(&receiver->scratch);
    mcast_pool_give(receiver->pool, receiver->spare_records.bytes, receiver->spare_records.capacity);
    mcast_pool_give(receiver->pool, receiver->spare_data.bytes, receiver->spare_data.capacity);
    memset(&receiver->spare_records, 0, sizeof receiver->spare_records);
    memset(&receiver->spare_data, 0, sizeof receiver->spare_data);
    mcast_lock(&receiver->show_lock);
    mcast_poller_close(&receiver->poller);
    mcast_unlock(&receiver->show_lock);
    mcast_unlock(&receiver->state_lock);
}

void
mcast_receiver_free(mcast_receiver *receiver)
{
    if (mcast_life_is_foreign(&receiver->life))
        return; /* a thread of the other process may have held a lock */
    if (receiver->background)
        mcast_background_free(receiver);
    mcast_condition_close(&receiver->turn_free);
    mcast_mutex_close(&receiver->show_lock);
    mcast_mutex_close(&receiver->state_lock);
    mcast_mutex_close(&receiver->turn_lock);
}

/* ---- members ---- */

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
    receiver->busy = NULL;
    return key;
}

/* Frees the key of a member that is not there any more, or was never complete. */
static void
forget_key(mcast_receiver *receiver, uint64_t key)
{
    receiver->members[key] = NULL;
    receiver->free_keys++;
}

int64_t
mcast_receiver_add_socket(mcast_receiver *receiver, int fd, const mcast_record *implied)
{
    mcast_lock(&receiver->state_lock);
    int64_t key = mcast_receiver_add_member(receiver, NULL, 0, implied->port);
    if (key >= 0) {
        mcast_member *member = receiver->members[key];
        int status = mcast_socket_source_open(&member->source, receiver, fd, implied, (uint64_t)key);
        member->owns_source = status == 0;
        if (status != 0) {
            forget_key(receiver, (uint64_t)key);
            free_member(receiver, member);
            key = status;
        }
    }
    mcast_unlock(&receiver->state_lock);
    return key;
}

int64_t
mcast_receiver_add_ring(mcast_receiver *receiver, int fd, uint32_t interface_index, size_t block_size, uint32_t count,
                        unsigned latency_ms, int times, int vlan)
{
    mcast_lock(&receiver->state_lock);
    int64_t key = mcast_receiver_add_member(receiver, NULL, 0, 0);
    if (key >= 0) {
        mcast_member *member = receiver->members[key];
        int status = mcast_ring_source_open(&member->source, receiver, fd, interface_index, block_size, count,
                                            latency_ms, times, vlan, (uint64_t)key);
        member->owns_source = status == 0;
        if (status != 0) {
            forget_key(receiver, (uint64_t)key);
            free_member(receiver, member);
            key = status;
        }
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
        receiver->busy = NULL;
        free_member(receiver, member);
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

int
mcast_receiver_wants(mcast_receiver *receiver, const mcast_record *record)
{
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

/* ---- receiving ---- */

int64_t
mcast_time_left(int64_t deadline)
{
    if (deadline < 0)
        return -1;
    int64_t left = deadline - mcast_monotonic_ns();
    return left > 0 ? left : 0;
}

/* An error behind packets waits for the next call: the packets are delivered first. */
static mcast_result
defer_failure(mcast_receiver *receiver, const mcast_batch *batch, mcast_result result)
{
    if (result.outcome != MCAST_FAILED || mcast_batch_count(batch) == 0)
        return result;
    receiver->failure = result.error;
    return mcast_result_of(MCAST_OK);
}

/* Reads the sources that are ready. */
static mcast_result
read_ready(mcast_receiver *receiver, const uint64_t *keys, int ready, mcast_batch *batch, size_t limit)
{
    mcast_result result = mcast_result_of(MCAST_EMPTY);
    mcast_lock(&receiver->state_lock);
    unsigned first = receiver->rotation++;
    for (unsigned i = 0; i < (unsigned)ready && result.outcome != MCAST_FAILED; i++) {
        uint64_t key = keys[(first + i) % (unsigned)ready];
        mcast_member *member = key < receiver->keys ? receiver->members[key] : NULL;
        if (!member || !member->owns_source)
            continue;
        result = member->source->ops->read(member->source, receiver, batch, limit);
        int only = receiver->sockets == 1 && !receiver->direct;
        receiver->busy = result.outcome == MCAST_OK && only ? member->source : NULL;
    }
    receiver->counters.wakeups += ready > 0;
    result = defer_failure(receiver, batch, result);
    mcast_unlock(&receiver->state_lock);
    return result;
}

/* Reads the sources that need no system call, each in its turn first. */
static mcast_result
read_direct(mcast_receiver *receiver, mcast_batch *batch, size_t limit)
{
    mcast_result result = mcast_result_of(MCAST_EMPTY);
    mcast_source *first = receiver->direct;
    for (mcast_source *source = first; source && result.outcome != MCAST_FAILED && !batch->reference;
         source = source->next) {
        mcast_result one = source->ops->read(source, receiver, batch, limit);
        if (one.outcome != MCAST_EMPTY)
            result = one;
    }
    if (first && first->next) { /* the next one comes first next time */
        mcast_source **last = &receiver->direct;
        while (*last)
            last = &(*last)->next;
        receiver->direct = first->next;
        *last = first;
        first->next = NULL;
    }
    return result;
}

/* Reads the only socket without waiting first, when the last batch left it with packets; and rings, for a look at them costs nothing. */
static mcast_result
read_at_once(mcast_receiver *receiver, mcast_batch *batch, size_t limit)
{
    mcast_lock(&receiver->state_lock);
    mcast_result result = mcast_result_of(MCAST_EMPTY);
    if (receiver->failure) {
        result = mcast_failure(receiver->failure);
        receiver->failure = 0;
    } else if (receiver->busy) {
        result = receiver->busy->ops->read(receiver->busy, receiver, batch, limit);
    } else if (receiver->direct) {
        result = read_direct(receiver, batch, limit);
    }
    if (result.outcome != MCAST_OK)
        receiver->busy = NULL;
    result = defer_failure(receiver, batch, result);
    mcast_unlock(&receiver->state_lock);
    return result;
}

/* Sleeps a little in place of being woken by each block, while every ring has a dense stream; whether it did. */
static int
nap(mcast_receiver *receiver, int64_t left)
{
    if (!mcast_flag_is_set(&receiver->has_rings))
        return 0;
    mcast_lock(&receiver->state_lock);
    int64_t shortest = !receiver->direct || receiver->sockets > 0 ? 0 : left < 0 ? INT64_MAX : left;
    for (mcast_source *source = receiver->direct; source && shortest > 0; source = source->next) {
        int64_t one = source->ops->nap(source);
        shortest = one < shortest ? one : shortest;
    }
    mcast_unlock(&receiver->state_lock);
    if (shortest > 0)
        mcast_sleep_until(mcast_monotonic_ns() + shortest);
    return shortest > 0;
}

/* Whether a source that needs no system call can be read. The poller reports a ring's block once (epoll(7), EPOLLET: a block that is held
 * would show as readable for ever), so it is asked first, and will report anew what comes later. The state lock is held. */
static int
direct_has_more(mcast_receiver *receiver)
{
    uint64_t keys[MCAST_READY_MAX];
    for (int look = 0; look < 2; look++) {
        for (const mcast_source *source = receiver->direct; source; source = source->next)
            if (source->ops->has_more(source))
                return 1;
        if (look == 0 && receiver->direct)
            mcast_poller_wait(&receiver->poller, keys, 0);
    }
    return 0;
}

/* Makes the descriptor show whether there is something to receive; the show lock is held. */
static void
show(mcast_receiver *receiver, int more)
{
    if (mcast_life_is_closed(&receiver->life))
        return; /* it was signalled for good */
    if (more)
        mcast_poller_signal(&receiver->poller);
    else
        mcast_poller_clear(&receiver->poller);
    receiver->shown = more;
}

void
mcast_receiver_set_unread(mcast_receiver *receiver, size_t unread)
{
    if (receiver->background) {
        mcast_background_set_unread(receiver, unread);
        return;
    }
    mcast_lock(&receiver->show_lock);
    receiver->unread = unread;
    if (unread > 0 && !receiver->shown)
        show(receiver, 1);
    else if (unread == 0 && receiver->shown && !mcast_flag_is_set(&receiver->has_rings))
        show(receiver, 0);
    mcast_unlock(&receiver->show_lock);
    if (unread == 0)
        mcast_receiver_show_rings(receiver);
}

void
mcast_receiver_show_rings(mcast_receiver *receiver)
{
    if (!mcast_flag_is_set(&receiver->has_rings))
        return;
    mcast_lock(&receiver->state_lock);
    int more = mcast_flag_is_set(&receiver->watched) && direct_has_more(receiver);
    mcast_lock(&receiver->show_lock);
    more |= receiver->unread > 0;
    if (more != receiver->shown)
        show(receiver, more);
    mcast_unlock(&receiver->show_lock);
    mcast_unlock(&receiver->state_lock);
}

/* The poller was woken, and nothing came: ends what it shows when there is no reason for it, so that nobody waits in vain on a readable
 * descriptor. */
static void
look_why_woken(mcast_receiver *receiver)
{
    mcast_lock(&receiver->show_lock);
    if (receiver->unread == 0 && !receiver->background)
        show(receiver, 0);
    mcast_unlock(&receiver->show_lock);
    mcast_receiver_show_rings(receiver);
}

/* Waits until the deadline for something to read, and reads it. MCAST_EMPTY: something happened, and nothing came of it. */
static mcast_result
wait_and_read(mcast_receiver *receiver, mcast_batch *batch, size_t limit, int64_t deadline)
{
    uint64_t keys[MCAST_READY_MAX];
    int64_t left = mcast_time_left(deadline);
    if (nap(receiver, left))
        return mcast_result_of(MCAST_EMPTY);
    int ready = mcast_poller_wait(&receiver->poller, keys, left);
    if (ready == -EINTR)
        return mcast_result_of(MCAST_INTERRUPTED);
    if (ready < 0)
        return mcast_failure(-ready);
    if (ready == 0)
        return mcast_result_of(left == 0 ? MCAST_TIMEOUT : MCAST_EMPTY);
    size_t before = mcast_batch_count(batch);
    mcast_result result = read_ready(receiver, keys, ready, batch, limit);
    if (result.outcome == MCAST_FAILED)
        return result;
    if (mcast_batch_count(batch) > before)
        return mcast_result_of(MCAST_OK);
    for (int i = 0; i < ready; i++)
        if (keys[i] == MCAST_WAKE) {
            look_why_woken(receiver);
            return mcast_result_of(MCAST_EMPTY);
        }
    int late = deadline >= 0 && mcast_monotonic_ns() > deadline + MCAST_GRACE_NS;
    return mcast_result_of(late ? MCAST_TIMEOUT : MCAST_EMPTY);
}

/* Adds what is there to the batch; waits for something until the deadline when there is nothing. It goes round once: whoever calls looks at
 * the signals before it calls again, also in a flood of what is not wanted. */
static mcast_result
receive_in_turn(mcast_receiver *receiver, mcast_batch *batch, size_t limit, int64_t deadline)
{
    if (mcast_life_is_closed(&receiver->life))
        return mcast_result_of(MCAST_CLOSED);
    size_t before = mcast_batch_count(batch);
    mcast_result result = read_at_once(receiver, batch, limit);
    if (result.outcome == MCAST_FAILED)
        return result;
    if (mcast_batch_count(batch) > before)
        return mcast_result_of(MCAST_OK);
    return wait_and_read(receiver, batch, limit, deadline);
}

/* Waits for the turn to receive: MCAST_OK, MCAST_TIMEOUT, MCAST_CLOSED, or MCAST_INTERRUPTED after a slice. */
static mcast_outcome
take_turn(mcast_receiver *receiver, int64_t deadline)
{
    mcast_outcome outcome = MCAST_OK;
    mcast_lock(&receiver->turn_lock);
    if (receiver->receiving) {
        int64_t left = mcast_time_left(deadline);
        int64_t slice = left < 0 || left > MCAST_SLICE_NS_OF_TURN ? MCAST_SLICE_NS_OF_TURN : left;
        if (slice > 0)
            mcast_condition_wait(&receiver->turn_free, &receiver->turn_lock, slice);
        if (receiver->receiving)
            outcome = mcast_life_is_closed(&receiver->life) ? MCAST_CLOSED
                      : slice == left                       ? MCAST_TIMEOUT
                                                            : MCAST_INTERRUPTED;
    }
    receiver->receiving |= outcome == MCAST_OK;
    mcast_unlock(&receiver->turn_lock);
    return outcome;
}

static void
end_turn(mcast_receiver *receiver)
{
    mcast_lock(&receiver->turn_lock);
    receiver->receiving = 0;
    mcast_condition_signal_all(&receiver->turn_free);
    mcast_unlock(&receiver->turn_lock);
}

mcast_result
mcast_sources_receive(mcast_receiver *receiver, mcast_batch *batch, size_t limit, int64_t deadline)
{
    mcast_outcome turn = take_turn(receiver, deadline);
    if (turn != MCAST_OK)
        return mcast_result_of(turn);
    mcast_result result = receive_in_turn(receiver, batch, limit, deadline);
    end_turn(receiver);
    return result;
}

mcast_result
mcast_receiver_receive(mcast_receiver *receiver, mcast_batch *batch, size_t limit, int64_t deadline)
{
    if (receiver->background)
        return mcast_background_receive(receiver, batch, deadline);
    return mcast_sources_receive(receiver, batch, limit, deadline);
}

mcast_result
mcast_poller_wait_for(mcast_receiver *receiver, mcast_poller *poller, int64_t deadline)
{
    uint64_t keys[MCAST_READY_MAX];
    if (mcast_life_is_closed(&receiver->life))
        return mcast_result_of(MCAST_CLOSED);
    int64_t left = mcast_time_left(deadline);
    int ready = mcast_poller_wait(poller, keys, left);
    if (mcast_life_is_closed(&receiver->life))
        return mcast_result_of(MCAST_CLOSED);
    if (ready == -EINTR)
        return mcast_result_of(MCAST_INTERRUPTED);
    if (ready < 0)
        return mcast_failure(-ready);
    return mcast_result_of(ready > 0 ? MCAST_OK : left == 0 ? MCAST_TIMEOUT : MCAST_EMPTY);
}

mcast_result
mcast_receiver_wait(mcast_receiver *receiver, int64_t deadline)
{
    if (receiver->background)
        return mcast_background_wait(receiver, deadline);
    return mcast_poller_wait_for(receiver, &receiver->poller, deadline);
}

/* ---- looking ---- */

void
mcast_receiver_count_delivered(mcast_receiver *receiver, size_t count)
{
    mcast_lock(&receiver->state_lock);
    receiver->counters.batches++;
    if (count > receiver->counters.largest_batch)
        receiver->counters.largest_batch = count;
    mcast_unlock(&receiver->state_lock);
}

int
mcast_receiver_descriptor(mcast_receiver *receiver)
{
    return receiver->background ? mcast_background_descriptor(receiver) : mcast_poller_descriptor(&receiver->poller);
}

mcast_counters
mcast_receiver_counters(mcast_receiver *receiver)
{
    mcast_lock(&receiver->state_lock);
    mcast_counters counters = receiver->counters;
    for (size_t key = 0; key < receiver->keys; key++)
        if (receiver->members[key] && receiver->members[key]->owns_source)
            receiver->members[key]->source->ops->count(receiver->members[key]->source, &counters);
    mcast_unlock(&receiver->state_lock);
    if (receiver->background)
        counters.dropped_memory += mcast_background_dropped(receiver);
    return counters;
}
