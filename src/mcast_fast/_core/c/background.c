/* Receiving in a thread of its own, without Python: while the consumer is busy, packets wait here instead of in the kernel's buffer.
 *
 * The thread alone receives from the sources. What came is in a queue of batches, of bounded size; whoever receives takes whole
 * batches from there. The queue lock is held only to change the queue. */
#include "receiver.h"
#include <errno.h>

/* Page faults of new memory would cost more than the copies into it. */
enum {
    KEPT_SHARE = 8, /* this part of the memory that packets may wait in is kept for reuse, where nothing waits */
    MOST_KEPT = 32 << 20,
};

typedef struct queued {
    struct queued *next;
    mcast_batch batch;
} queued;

typedef struct mcast_background {
    size_t limit; /* bytes that may wait */
    size_t kept;  /* bytes that the pool keeps for reuse */
    int cpu;      /* where the thread runs; -1 anywhere */
    mcast_thread thread;
    mcast_mutex queue_lock;
    mcast_poller ready; /* readable while a receive would not wait */
    queued *first, *last;
    size_t waiting;         /* bytes of memory */
    size_t unread;          /* batches that were received and not taken: a receive would not wait */
    int shown;              /* `ready` is readable */
    int failure;            /* errno of a receive, for the next call */
    uint32_t pending_drops; /* packets dropped since the last one that was kept: they belong to the next record */
    uint64_t dropped;
} mcast_background;

static size_t
queued_bytes(const queued *one)
{
    return one->batch.records.capacity + one->batch.data.capacity + sizeof *one;
}

/* Makes the descriptor show whether a receive would wait; nobody waits once all is closed. The queue lock is held. */
static void
show(mcast_receiver *receiver)
{
    mcast_background *background = receiver->background;
    int more = background->first != NULL || background->unread > 0 || background->failure ||
               mcast_life_is_closed(&receiver->life);
    if (more == background->shown)
        return;
    background->shown = more;
    if (more)
        mcast_poller_signal(&background->ready);
    else
        mcast_poller_clear(&background->ready);
}

/* Packets that there is no space for are taken out of the counters again. The queue lock is held. */
static void
drop(mcast_receiver *receiver, mcast_batch *batch)
{
    mcast_background *background = receiver->background;
    const mcast_record *records = (const mcast_record *)batch->records.bytes;
    size_t count = mcast_batch_count(batch);
    mcast_lock(&receiver->state_lock);
    for (size_t i = 0; i < count; i++) {
        mcast_uncount(receiver, &records[i]);
        background->pending_drops += records[i].dropped;
    }
    receiver->counters.buffers -= batch->buffers;
    mcast_unlock(&receiver->state_lock);
    background->pending_drops += (uint32_t)count;
    background->dropped += count;
}

/* Small batches are put together as long as nobody takes them; -1 when these are not. The queue lock is held. */
static int
merge(mcast_receiver *receiver, mcast_batch *batch)
{
    mcast_background *background = receiver->background;
    queued *last = background->last;
    if (!last || mcast_batch_count(&last->batch) + mcast_batch_count(batch) > mcast_receiver_batch_size(receiver))
        return -1;
    background->waiting -= queued_bytes(last);
    int status = mcast_batch_append_all(receiver->pool, &last->batch, batch);
    background->waiting += queued_bytes(last);
    return status == 0 ? 0 : -1;
}

/* A place at the end of the queue, which takes the batch over; -1 without memory. The queue lock is held. */
static int
enqueue(mcast_background *background, mcast_batch *batch)
{
    queued *one = malloc(sizeof *one);
    if (!one)
        return -1;
    mcast_memory_fit(&mcast_shared_pool, &batch->records);
    mcast_memory_fit(&mcast_shared_pool, &batch->data);
    *one = (queued){NULL, *batch};
    memset(batch, 0, sizeof *batch);
    background->waiting += queued_bytes(one);
    if (background->last)
        background->last->next = one;
    else
        background->first = one;
    background->last = one;
    return 0;
}

/* Puts what was received into the queue, or drops it when that is full. The batch is empty afterwards. */
static void
put(mcast_receiver *receiver, mcast_batch *batch)
{
    mcast_background *background = receiver->background;
    mcast_record *first = (mcast_record *)batch->records.bytes;
    size_t bytes = batch->records.used + batch->data.used + sizeof(queued);
    mcast_lock(&background->queue_lock);
    int fits = background->waiting + bytes <= background->limit;
    first->dropped += background->pending_drops;
    background->pending_drops = 0;
    if (fits) /* what does not fit is missing, like what the kernel drops */
        mcast_batch_track(receiver, batch, 0);
    if (!fits || (merge(receiver, batch) != 0 && enqueue(background, batch) != 0))
        drop(receiver, batch);
    show(receiver);
    mcast_unlock(&background->queue_lock);
    batch->records.used = batch->data.used = 0;
    batch->buffers = 0;
}

/* An error waits for the next receive; the thread goes on after a moment, for the error may not pass by itself. */
static void
fail(mcast_receiver *receiver, int error)
{
    mcast_lock(&receiver->background->queue_lock);
    receiver->background->failure = error;
    show(receiver);
    mcast_unlock(&receiver->background->queue_lock);
    mcast_sleep_until(mcast_monotonic_ns() + MCAST_GRACE_NS);
}

static void *
run(void *argument)
{
    mcast_receiver *receiver = argument;
    mcast_batch batch;
    mcast_result result = mcast_result_of(MCAST_OK);
    mcast_thread_begin(receiver->background->cpu);
    mcast_batch_begin(receiver, &batch, 0);
    while (result.outcome != MCAST_CLOSED) {
        result = mcast_sources_receive(receiver, &batch, mcast_receiver_batch_size(receiver), -1);
        if (mcast_batch_count(&batch) > 0)
            put(receiver, &batch);
        if (result.outcome == MCAST_FAILED)
            fail(receiver, result.error);
    }
    mcast_batch_return(receiver, &batch);
    return NULL;
}

/* ---- whoever receives ---- */

/* Moves the packets of a queued batch into another, which becomes it when it is empty: 1 when it has no space, 0, or -1 without memory. */
static int
move_into(mcast_receiver *receiver, mcast_batch *batch, mcast_batch *from)
{
    if (mcast_batch_count(batch) > 0) {
        int status = mcast_batch_append_all(receiver->pool, batch, from);
        if (status == 0)
            mcast_batch_free(receiver->pool, from);
        return status;
    }
    int copies = batch->copies;
    mcast_batch_free(receiver->pool, batch);
    *batch = *from;
    batch->copies = copies;
    return 0;
}

/* Adds the oldest batch that waits: MCAST_OK; MCAST_FULL; MCAST_EMPTY when something is unread instead; MCAST_TIMEOUT when nothing is
 * there; MCAST_FAILED. */
static mcast_result
take(mcast_receiver *receiver, mcast_batch *batch)
{
    mcast_background *background = receiver->background;
    mcast_lock(&background->queue_lock);
    mcast_result result = mcast_result_of(background->unread > 0 ? MCAST_EMPTY : MCAST_TIMEOUT);
    queued *one = background->first;
    if (one) {
        size_t bytes = queued_bytes(one);
        int status = move_into(receiver, batch, &one->batch);
        result = status < 0 ? mcast_failure(ENOMEM) : mcast_result_of(status > 0 ? MCAST_FULL : MCAST_OK);
        if (status == 0) {
            background->waiting -= bytes;
            background->first = one->next;
            background->last = one->next ? background->last : NULL;
            free(one);
        }
    } else if (background->failure) {
        result = mcast_failure(background->failure);
        background->failure = 0;
    }
    show(receiver);
    mcast_unlock(&background->queue_lock);
    return result;
}

mcast_result
mcast_background_wait(mcast_receiver *receiver, int64_t deadline)
{
    return mcast_poller_wait_for(receiver, &receiver->background->ready, deadline);
}

mcast_result
mcast_background_receive(mcast_receiver *receiver, mcast_batch *batch, int64_t deadline)
{
    if (mcast_life_is_closed(&receiver->life))
        return mcast_result_of(MCAST_CLOSED);
    mcast_result result = take(receiver, batch);
    if (result.outcome != MCAST_TIMEOUT)
        return result;
    result = mcast_background_wait(receiver, deadline);
    return result.outcome == MCAST_OK ? mcast_result_of(MCAST_EMPTY) : result;
}

void
mcast_background_set_unread(mcast_receiver *receiver, size_t unread)
{
    mcast_lock(&receiver->background->queue_lock);
    receiver->background->unread = unread;
    show(receiver);
    mcast_unlock(&receiver->background->queue_lock);
}

uint64_t
mcast_background_dropped(mcast_receiver *receiver)
{
    mcast_lock(&receiver->background->queue_lock);
    uint64_t dropped = receiver->background->dropped;
    mcast_unlock(&receiver->background->queue_lock);
    return dropped;
}

int
mcast_background_descriptor(mcast_receiver *receiver)
{
    return mcast_poller_descriptor(&receiver->background->ready);
}

/* ---- opening and closing ---- */

void
mcast_background_wake(mcast_receiver *receiver)
{
    mcast_lock(&receiver->background->queue_lock);
    show(receiver);
    mcast_unlock(&receiver->background->queue_lock);
}

/* The thread needs no Python and waits for nobody who closes, so that it ends at once. The counter of drops outlives it. */
void
mcast_background_close(mcast_receiver *receiver)
{
    mcast_background *background = receiver->background;
    mcast_thread_join(background->thread);
    mcast_lock(&background->queue_lock);
    mcast_poller_close(&background->ready);
    while (background->first) {
        queued *one = background->first;
        background->first = one->next;
        mcast_batch_free(receiver->pool, &one->batch);
        free(one);
    }
    background->last = NULL;
    mcast_unlock(&background->queue_lock);
    mcast_pool_release(receiver->pool, background->kept);
}

void
mcast_background_free(mcast_receiver *receiver)
{
    mcast_mutex_close(&receiver->background->queue_lock);
    free(receiver->background);
    receiver->background = NULL;
}

/* The thread is in the process that opened the receiver. */
void
mcast_background_abandon(mcast_receiver *receiver)
{
    mcast_poller_close(&receiver->background->ready);
}

int
mcast_background_open(mcast_receiver *receiver, size_t limit, int cpu)
{
    mcast_background *background = calloc(1, sizeof *background);
    if (!background)
        return -ENOMEM;
    background->limit = limit;
    background->cpu = cpu;
    mcast_poller_init(&background->ready);
    int status = mcast_mutex_open(&background->queue_lock);
    if (status == 0)
        status = mcast_poller_open(&background->ready);
    receiver->background = background;
    background->kept = limit / KEPT_SHARE < MOST_KEPT ? limit / KEPT_SHARE : MOST_KEPT;
    mcast_pool_retain(receiver->pool, background->kept);
    if (status == 0)
        status = mcast_thread_start(&background->thread, run, receiver);
    if (status != 0) {
        mcast_pool_release(receiver->pool, background->kept);
        receiver->background = NULL;
        mcast_poller_close(&background->ready);
        free(background);
    }
    return status;
}
