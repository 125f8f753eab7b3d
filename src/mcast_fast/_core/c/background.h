/* Receiving in a thread of its own, without Python: while the consumer is busy, packets wait here instead of in the kernel's buffer.
 *
 * The thread alone receives from the sockets. What came stands in a queue of batches, of bounded size; who receives takes whole
 * batches from there. `shared` is held only to change the queue, `look` of the slots by the one who waits for it to fill. */
#ifndef MCAST_BACKGROUND_H
#define MCAST_BACKGROUND_H

#include "receive.h"

typedef struct mcast_queued {
    struct mcast_queued *next;
    mcast_batch batch;
} mcast_queued;

typedef struct mcast_background {
    mcast_slots *slots; /* NULL when there is no thread */
    size_t limit;       /* bytes that may wait */
    size_t batch_size;  /* packets in a batch */
    int cpu;            /* where the thread runs; -1 anywhere */
    PyThread_type_lock shared;
    PyThread_type_lock alive; /* held by the thread until it ends */
    int open;                 /* the thread was not ended yet */
    mcast_poller ready;       /* readable while somebody who receives would not wait */
    mcast_queued *first, *last;
    size_t waiting; /* bytes of memory */
    int left_over;  /* batches of which packets are left over: a receive would not wait */
    int shown;      /* `ready` is readable */
    int failure;    /* -errno of a receive, for the next one who takes */
    uint32_t owed;  /* packets dropped since the last one that was kept: they belong to the next record */
    uint64_t dropped;
} mcast_background;

static inline size_t
mcast_queued_bytes(const mcast_queued *queued)
{
    return queued->batch.records.capacity + queued->batch.data.capacity + sizeof *queued;
}

/* With `shared` held: makes the descriptor tell whether a receive would wait; nobody waits once all is closed. */
static inline void
mcast_background_show(mcast_background *background)
{
    int show = background->first != NULL || background->left_over > 0 || background->failure ||
               mcast_flag_is_set(&background->slots->closed);
    if (show == background->shown)
        return;
    background->shown = show;
    if (show)
        mcast_poller_signal(&background->ready);
    else
        mcast_poller_clear(&background->ready);
}

/* With `shared` held: packets that there is no room for go out of the books again. */
static inline void
mcast_background_drop(mcast_background *background, mcast_batch *batch)
{
    mcast_slots *slots = background->slots;
    const mcast_record *records = (const mcast_record *)batch->records.bytes;
    size_t count = mcast_batch_count(batch);
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    for (size_t i = 0; i < count; i++) {
        mcast_uncount(slots, &records[i]);
        background->owed += records[i].dropped;
    }
    PyThread_release_lock(slots->state);
    background->owed += (uint32_t)count;
    background->dropped += count;
    mcast_batch_free(slots->pool, batch);
}

/* Copies all packets of one batch behind those of another, and frees it; 0, or -1 without memory (some may be copied). */
static inline int
mcast_batch_append(mcast_pool *pool, mcast_batch *batch, mcast_batch *more)
{
    const mcast_record *records = (const mcast_record *)more->records.bytes;
    size_t count = mcast_batch_count(more);
    if (mcast_memory_reserve(pool, &batch->records, more->records.used) != 0 ||
        mcast_memory_reserve(pool, &batch->data, more->data.used) != 0)
        return -1;
    for (size_t i = 0; i < count; i++)
        mcast_append(pool, batch, &records[i], more->data.bytes + records[i].offset);
    mcast_batch_free(pool, more);
    return 0;
}

/* With `shared` held: small batches are put together as long as nobody takes them. */
static inline int
mcast_background_merge(mcast_background *background, mcast_batch *batch)
{
    mcast_queued *last = background->last;
    if (!last || mcast_batch_count(&last->batch) + mcast_batch_count(batch) > background->batch_size)
        return -1;
    background->waiting -= mcast_queued_bytes(last);
    int status = mcast_batch_append(background->slots->pool, &last->batch, batch);
    background->waiting += mcast_queued_bytes(last);
    return status;
}

/* With `shared` held: a place of its own at the end of the queue; -1 without memory. */
static inline int
mcast_background_enqueue(mcast_background *background, mcast_batch *batch)
{
    mcast_queued *queued = malloc(sizeof *queued);
    if (!queued)
        return -1;
    *queued = (mcast_queued){NULL, *batch};
    background->waiting += mcast_queued_bytes(queued);
    if (background->last)
        background->last->next = queued;
    else
        background->first = queued;
    background->last = queued;
    return 0;
}

/* Puts what was received into the queue, or drops it when that is full. The batch is empty afterwards. */
static inline void
mcast_background_put(mcast_background *background, mcast_batch *batch)
{
    mcast_record *first = (mcast_record *)batch->records.bytes;
    size_t bytes = batch->records.used + batch->data.used + sizeof(mcast_queued);
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    int fits = background->waiting + bytes <= background->limit;
    first->dropped += background->owed;
    background->owed = 0;
    if (!fits || (mcast_background_merge(background, batch) != 0 && mcast_background_enqueue(background, batch) != 0))
        mcast_background_drop(background, batch);
    mcast_background_show(background);
    PyThread_release_lock(background->shared);
    memset(batch, 0, sizeof *batch);
}

/* An error waits for who receives next; the thread goes on after a moment, for the error may not pass by itself. */
static inline void
mcast_background_fail(mcast_background *background, int status)
{
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    background->failure = status;
    mcast_background_show(background);
    PyThread_release_lock(background->shared);
    mcast_sleep_until(mcast_monotonic_ns() + MCAST_GRACE_NS);
}

static inline void
mcast_background_run(void *argument)
{
    mcast_background *background = argument;
    mcast_slots *slots = background->slots;
    mcast_batch batch;
    memset(&batch, 0, sizeof batch);
    mcast_thread_begin(background->cpu);
    for (int status = MCAST_BATCH; status != MCAST_CLOSED;) {
        status = mcast_receive(slots, &batch, background->batch_size, -1);
        if (mcast_batch_count(&batch) > 0)
            mcast_background_put(background, &batch);
        if (status < 0 && status > MCAST_CLOSED)
            mcast_background_fail(background, status);
    }
    mcast_batch_free(slots->pool, &batch);
    PyThread_release_lock(background->alive);
}

/* ---- who receives ---- */

/* The oldest batch that waits: MCAST_BATCH, MCAST_WOKEN when something is left over instead, MCAST_TIMEOUT when nothing is there, -errno. */
static inline int
mcast_background_take(mcast_background *background, mcast_batch *batch)
{
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    mcast_queued *queued = background->first;
    int status = background->left_over > 0 ? MCAST_WOKEN : MCAST_TIMEOUT;
    if (queued) {
        *batch = queued->batch;
        background->waiting -= mcast_queued_bytes(queued);
        background->first = queued->next;
        background->last = queued->next ? background->last : NULL;
        status = MCAST_BATCH;
    } else if (background->failure) {
        status = background->failure;
        background->failure = 0;
    }
    mcast_background_show(background);
    PyThread_release_lock(background->shared);
    free(queued);
    return status;
}

/* Adds what was taken to a batch, which becomes it when it is empty. */
static inline int
mcast_background_give(mcast_background *background, mcast_batch *batch, mcast_batch *taken)
{
    mcast_slots *slots = background->slots;
    if (mcast_batch_count(batch) == 0) {
        mcast_batch_free(slots->pool, batch);
        *batch = *taken;
        return MCAST_BATCH;
    }
    if (mcast_batch_append(slots->pool, batch, taken) == 0)
        return MCAST_BATCH;
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    mcast_background_drop(background, taken);
    PyThread_release_lock(background->shared);
    return -ENOMEM;
}

/* As mcast_wait of the slots. */
static inline int
mcast_background_wait(mcast_background *background, int64_t deadline)
{
    return mcast_wait_for(background->slots, &background->ready, deadline);
}

/* As mcast_receive of the slots, but that the batch may become larger than any limit. */
static inline int
mcast_background_receive(mcast_background *background, mcast_batch *batch, int64_t deadline)
{
    mcast_batch taken;
    int status = MCAST_BATCH;
    while (status == MCAST_BATCH) {
        if (mcast_flag_is_set(&background->slots->closed))
            return MCAST_CLOSED;
        status = mcast_background_take(background, &taken);
        if (status == MCAST_BATCH)
            return mcast_background_give(background, batch, &taken);
        if (status == MCAST_TIMEOUT)
            status = mcast_background_wait(background, deadline);
    }
    return status;
}

/* So many batches more (or fewer) are left over: as long as there are any, who receives need not wait. */
static inline void
mcast_background_leave_over(mcast_background *background, int change)
{
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    background->left_over += change;
    mcast_background_show(background);
    PyThread_release_lock(background->shared);
}

static inline uint64_t
mcast_background_dropped(mcast_background *background)
{
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    uint64_t dropped = background->dropped;
    PyThread_release_lock(background->shared);
    return dropped;
}

/* As mcast_slots_descriptor. */
static inline int
mcast_background_descriptor(mcast_background *background)
{
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    int descriptor = mcast_poller_descriptor(&background->ready);
    PyThread_release_lock(background->shared);
    return descriptor;
}

/* ---- opening ---- */

/* Ends the thread, and whoever waits here, and gives the queue back; before the slots are closed. */
static inline void
mcast_background_close(mcast_background *background)
{
    mcast_slots *slots = background->slots;
    if (!background->open)
        return;
    background->open = 0;
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    mcast_flag_set(&slots->closed);
    mcast_poller_signal(&slots->poller);
    mcast_background_show(background);
    PyThread_release_lock(background->shared);
    PyThread_acquire_lock(background->alive, WAIT_LOCK);
    PyThread_release_lock(background->alive);
    PyThread_acquire_lock(slots->look, WAIT_LOCK);
    PyThread_acquire_lock(background->shared, WAIT_LOCK);
    mcast_poller_close(&background->ready);
    while (background->first) {
        mcast_queued *queued = background->first;
        background->first = queued->next;
        mcast_batch_free(slots->pool, &queued->batch);
        free(queued);
    }
    background->last = NULL;
    PyThread_release_lock(background->shared);
    PyThread_release_lock(slots->look);
}

static inline void
mcast_background_free(mcast_background *background)
{
    mcast_background_close(background);
    if (background->shared)
        PyThread_free_lock(background->shared);
    if (background->alive)
        PyThread_free_lock(background->alive);
    memset(background, 0, sizeof *background);
}

/* Starts the thread over slots that are open; `limit` bytes may wait. 0, or -errno with no thread. */
static inline int
mcast_background_open(mcast_background *background, mcast_slots *slots, size_t limit, size_t batch_size, int cpu)
{
    memset(background, 0, sizeof *background);
    background->limit = limit;
    background->batch_size = batch_size;
    background->cpu = cpu;
    mcast_poller_init(&background->ready);
    background->shared = PyThread_allocate_lock();
    background->alive = PyThread_allocate_lock();
    int status = background->shared && background->alive ? mcast_poller_open(&background->ready) : -ENOMEM;
    if (status == 0) {
        background->slots = slots;
        background->open = 1;
        PyThread_acquire_lock(background->alive, WAIT_LOCK);
        if (PyThread_start_new_thread(mcast_background_run, background) != PYTHREAD_INVALID_THREAD_ID)
            return 0;
        PyThread_release_lock(background->alive);
        status = -EAGAIN;
    }
    mcast_background_free(background);
    return status;
}

#endif
