#include "receiver.h"
#include "tracker.h"
#include <errno.h>

/* ---- opening and closing ---- */

int
mcast_receiver_open(mcast_receiver *receiver, mcast_pool *pool, unsigned count, size_t size)
{
    memset(receiver, 0, sizeof *receiver);
    mcast_life_begin(&receiver->life);
    receiver->pool = pool;
    receiver->packet_limit = size;
    receiver->segments = 1;
    receiver->filled = size;
    receiver->slot_count = count;
    receiver->slot_size = size;
    receiver->coalescing.window = MCAST_COALESCING_WINDOW_NS;
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
    mcast_filter_free(&receiver->own);
    receiver->everything = 0;
    receiver->direct = receiver->only = NULL;
    for (size_t key = 0; key < receiver->keys; key++)
        if (receiver->members[key])
            mcast_member_free(receiver, receiver->members[key]);
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
    if (receiver->tracker)
        mcast_tracker_release(receiver->tracker);
    mcast_condition_close(&receiver->turn_free);
    mcast_mutex_close(&receiver->show_lock);
    mcast_mutex_close(&receiver->state_lock);
    mcast_mutex_close(&receiver->turn_lock);
}

void
mcast_receiver_track(mcast_receiver *receiver, mcast_tracker *tracker)
{
    mcast_tracker_keep(tracker);
    receiver->tracker = tracker;
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
        receiver->only = receiver->sockets == 1 && !receiver->direct ? member->source : NULL;
        receiver->is_busy = result.outcome == MCAST_OK;
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
    } else if (receiver->only && receiver->is_busy) {
        result = receiver->only->ops->read(receiver->only, receiver, batch, limit);
    } else if (receiver->direct) {
        result = read_direct(receiver, batch, limit);
    }
    receiver->is_busy &= result.outcome == MCAST_OK;
    result = defer_failure(receiver, batch, result);
    mcast_unlock(&receiver->state_lock);
    return result;
}

/* For how many ns all that is received may pile up, at the most `left`; the state lock is held. */
static int64_t
longest_nap(mcast_receiver *receiver, int64_t left)
{
    int64_t shortest = left < 0 ? INT64_MAX : left;
    if (!receiver->direct && receiver->only) {
        int64_t one = receiver->only->ops->nap(receiver->only);
        receiver->is_busy = one > 0; /* it is read after that */
        return one < shortest ? one : shortest;
    }
    if (!receiver->direct || receiver->sockets > 0)
        return 0;
    for (mcast_source *source = receiver->direct; source && shortest > 0; source = source->next) {
        int64_t one = source->ops->nap(source);
        shortest = one < shortest ? one : shortest;
    }
    return shortest;
}

/* Sleeps a little in place of being woken by each block or super-packet, while every ring, or the only socket, has a dense stream; whether it
 * did. */
static int
nap(mcast_receiver *receiver, int64_t left)
{
    if (!mcast_flag_is_set(&receiver->has_rings) && !mcast_coalescing_is_on(&receiver->coalescing))
        return 0;
    mcast_lock(&receiver->state_lock);
    int64_t longest = longest_nap(receiver, left);
    mcast_unlock(&receiver->state_lock);
    if (longest > 0)
        mcast_sleep_until(mcast_monotonic_ns() + longest);
    return longest > 0;
}

/* Whether a source that needs no system call can be read. The poller reports a ring's block once (epoll(7), EPOLLET: a block that is held
 * would show as readable forever), so it is read first, and reports again what comes later. The state lock is held. */
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

int
mcast_receiver_defer(mcast_receiver *receiver)
{
    mcast_word_store(&receiver->deferred, 1); /* before the look: whoever comes inside after it sees this */
    if (mcast_life_count(&receiver->life) > MCAST_INSIDE_A_CHANGE)
        return 0;
    if (mcast_flag_is_set(&receiver->watched)) {
        mcast_lock(&receiver->show_lock);
        if (!receiver->shown)
            show(receiver, 1);
        mcast_unlock(&receiver->show_lock);
    }
    return 1;
}

void
mcast_receiver_end_deferral(mcast_receiver *receiver)
{
    if (mcast_word_exchange(&receiver->deferred, 0) && mcast_flag_is_set(&receiver->watched))
        mcast_receiver_show_rings(receiver);
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
    size_t before = mcast_batch_count(batch);
    if (nap(receiver, left)) {
        mcast_result result = read_at_once(receiver, batch, limit);
        if (result.outcome == MCAST_FAILED)
            return result;
        return mcast_result_of(mcast_batch_count(batch) > before ? MCAST_OK : MCAST_EMPTY);
    }
    int ready = mcast_poller_wait(&receiver->poller, keys, left);
    if (ready == -EINTR)
        return mcast_result_of(MCAST_INTERRUPTED);
    if (ready < 0)
        return mcast_failure(-ready);
    if (ready == 0)
        return mcast_result_of(left == 0 ? MCAST_TIMEOUT : MCAST_EMPTY);
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

/* Adds what is there to the batch; waits for something until the deadline when there is nothing. It makes one turn: the caller checks
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
    size_t before = mcast_batch_count(batch);
    mcast_result result = receive_in_turn(receiver, batch, limit, deadline);
    if (!receiver->background) /* in the turn, so that packets are seen in the order in which they came */
        mcast_batch_track(receiver, batch, before);
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

int
mcast_receiver_take_coalescing_event(mcast_receiver *receiver, mcast_coalescing_event *event)
{
    mcast_lock(&receiver->state_lock);
    int taken = mcast_coalescing_take_event(&receiver->coalescing, event);
    mcast_unlock(&receiver->state_lock);
    return taken;
}
