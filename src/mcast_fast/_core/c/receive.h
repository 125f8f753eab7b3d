/* The loop that waits for packets, reads what came and packs it into a batch; without the GIL, and by the locks of slots.h. */
#ifndef MCAST_RECEIVE_H
#define MCAST_RECEIVE_H

#include "slots.h"

/* What a receive comes to; other negative values are -errno. */
enum {
    MCAST_BATCH = 1,
    MCAST_TIMEOUT = 0,
    MCAST_CLOSED = -100001,
    MCAST_INTERRUPTED = -100002,
    MCAST_WOKEN = -100003,
    MCAST_MORE = -100004
};

enum {
    MCAST_ONE_GO = 1024,           /* packets that are read without looking at the clock while none is wanted */
    MCAST_GO_BYTES = 3 << 18,      /* that are read in one go: so large a batch is worth handing over */
    MCAST_GRACE_NS = 10 * 1000000, /* beyond the deadline, to find what is wanted behind what is not */
};

/* slots_ring.h, or no_slots_ring.h */
static inline int mcast_drain_ring(mcast_slots *slots, mcast_ring *ring, mcast_batch *batch, size_t limit);
static inline int mcast_drain_rings(mcast_slots *slots, mcast_batch *batch, size_t limit);
static inline int mcast_rings_nap(mcast_slots *slots, int64_t left);
static inline int mcast_rings_have_more(mcast_slots *slots);

static inline size_t
mcast_batch_count(const mcast_batch *batch)
{
    return batch->records.used / sizeof(mcast_record);
}

static inline void
mcast_batch_free(mcast_pool *pool, mcast_batch *batch)
{
    mcast_pool_give(pool, batch->records.bytes, batch->records.capacity);
    mcast_pool_give(pool, batch->data.bytes, batch->data.capacity);
    if (batch->lease)
        mcast_lease_end(batch->lease);
    memset(batch, 0, sizeof *batch);
}

/* Copies one packet of another batch; 0, or -1 without memory. */
static inline int
mcast_append(mcast_pool *pool, mcast_batch *batch, const mcast_record *record, const unsigned char *payload)
{
    if (mcast_memory_reserve(pool, &batch->records, sizeof *record) != 0 ||
        mcast_memory_reserve(pool, &batch->data, record->length) != 0)
        return -1;
    mcast_record *copy = (mcast_record *)(batch->records.bytes + batch->records.used);
    *copy = *record;
    copy->offset = (uint32_t)batch->data.used;
    memcpy(batch->data.bytes + batch->data.used, payload, record->length);
    batch->records.used += sizeof *record;
    batch->data.used += record->length;
    return 0;
}

/* Room for what `received` slots hold; and when more is likely to follow, for as many packets as the last batch had. What was coalesced
 * last time is expected to be so now. */
static inline int
mcast_batch_reserve(mcast_slots *slots, mcast_batch *batch, unsigned received, size_t limit)
{
    size_t bytes = 0, here = (size_t)received * slots->segments, packets = here;
    for (unsigned i = 0; i < received; i++)
        bytes += mcast_scratch_length(&slots->scratch, i);
    slots->filled = bytes / received + 1;
    int more = received == slots->scratch.count || slots->segments > 1;
    if (batch->records.used == 0 && more && slots->expected > here)
        packets = slots->expected < limit ? slots->expected : limit;
    size_t records = packets + (slots->segments > 1 ? slots->slot_count : 0); /* see mcast_split */
    if (mcast_memory_reserve(slots->pool, &batch->records, records * sizeof(mcast_record)) != 0)
        return -1;
    if (packets > here)
        bytes += bytes / here * (packets - here);
    return mcast_memory_reserve(slots->pool, &batch->data, bytes);
}

/* A slot with several packets that the kernel coalesced, each of `segment` bytes but the last: makes a record for each of the one that
 * describes them all, which stands behind those used. How many, or 0 without memory. */
static inline unsigned
mcast_split(mcast_slots *slots, mcast_batch *batch, uint32_t segment)
{
    mcast_record *first = (mcast_record *)(batch->records.bytes + batch->records.used), whole = *first;
    unsigned count = (whole.length + segment - 1) / segment;
    size_t room = count + slots->slot_count; /* for the slots that follow, too */
    if (mcast_memory_reserve(slots->pool, &batch->records, room * sizeof whole) != 0)
        return 0;
    first = (mcast_record *)(batch->records.bytes + batch->records.used);
    for (unsigned i = 0; i < count; i++) {
        first[i] = whole;
        first[i].offset = whole.offset + i * segment;
        first[i].wire_length = (uint16_t)(i + 1 < count ? segment : whole.length - i * segment);
        first[i].length = first[i].wire_length;
        first[i].dropped = i == 0 ? whole.dropped : 0;
        first[i].flags |= MCAST_COALESCED;
    }
    slots->segments = count > slots->segments ? count : slots->segments;
    return count;
}

/* Keeps no more of a packet than was asked for. */
static inline void
mcast_truncate(const mcast_slots *slots, mcast_record *record)
{
    if (record->length > slots->packet_limit) {
        record->length = (uint16_t)slots->packet_limit;
        record->flags |= MCAST_TRUNCATED;
    }
}

/* Takes the `count` records of one slot, which stand behind those used, into the batch. */
static inline void
mcast_take_in(mcast_slots *slots, mcast_batch *batch, unsigned count)
{
    mcast_record *first = (mcast_record *)(batch->records.bytes + batch->records.used);
    for (unsigned i = 0; i < count; i++) {
        mcast_truncate(slots, &first[i]);
        slots->counters.bytes += first[i].length;
        slots->counters.truncated += (first[i].flags & MCAST_TRUNCATED) != 0;
    }
    slots->counters.received += count;
    slots->counters.buffers++;
    batch->records.used += count * sizeof *first;
}

/* Packs one slot into the batch, or counts it as filtered. Room is there already, but for what was coalesced. */
static inline void
mcast_pack(mcast_slots *slots, mcast_socket *socket, mcast_batch *batch, unsigned i)
{
    mcast_record *record = (mcast_record *)(batch->records.bytes + batch->records.used);
    mcast_told told = {socket->overflow, 0};
    *record = socket->implied;
    const unsigned char *payload = mcast_scratch_read(&slots->scratch, i, record, &told);
    uint32_t dropped = told.overflow - socket->overflow + socket->owed; /* modulo 2^32, as the kernel counts */
    size_t size = record->length;
    int several = told.segment && told.segment < size;
    socket->overflow = told.overflow;
    socket->owed = dropped;
    if (!mcast_filter_allows(&socket->filter, record)) {
        slots->counters.filtered += several ? (size + told.segment - 1) / told.segment : 1;
        return;
    }
    record->dropped = dropped;
    record->offset = (uint32_t)batch->data.used;
    unsigned count = several ? mcast_split(slots, batch, told.segment) : 1;
    if (count == 0) {
        slots->counters.dropped_memory += (size + told.segment - 1) / told.segment;
        socket->owed++;
        return;
    }
    socket->owed = 0;
    memcpy(batch->data.bytes + batch->data.used, payload, size);
    batch->data.used += size;
    mcast_take_in(slots, batch, count);
}

/* Whether the batch may take one more slot: by its limit, and the 4 GiB that an offset can reach. */
static inline int
mcast_has_room(const mcast_slots *slots, const mcast_batch *batch, size_t limit)
{
    return !mcast_flag_is_set(&slots->closed) && mcast_batch_count(batch) < limit &&
           UINT32_MAX - batch->data.used >= slots->slot_size;
}

/* How many more slots the batch may take: by its limit, the slots there are, the bytes of one go, and the 4 GiB that an offset can reach.
 * Where packets are coalesced the batch may become larger than its limit. */
static inline unsigned
mcast_room(const mcast_slots *slots, const mcast_batch *batch, size_t limit)
{
    if (!mcast_has_room(slots, batch, limit))
        return 0;
    size_t room = (limit - mcast_batch_count(batch) + slots->segments - 1) / slots->segments;
    size_t in_arena = (UINT32_MAX - batch->data.used) / slots->slot_size;
    size_t in_one_go = MCAST_GO_BYTES / slots->filled + 1;
    room = room < in_arena ? room : in_arena;
    room = room < in_one_go ? room : in_one_go;
    return room < slots->slot_count ? (unsigned)room : slots->slot_count;
}

/* Whether a socket of this port may deliver the record, by the filters of now. */
static inline int
mcast_slots_want(mcast_slots *slots, const mcast_record *record)
{
    for (size_t key = 0; key < slots->keys; key++) {
        mcast_socket *socket = slots->sockets[key];
        if (socket && socket->implied.port == record->port && mcast_filter_allows(&socket->filter, record))
            return 1;
    }
    return 0;
}

/* Takes a packet that is not delivered after all out of the books; with `state` held. */
static inline void
mcast_uncount(mcast_slots *slots, const mcast_record *record)
{
    slots->counters.received--;
    slots->counters.bytes -= record->length;
    slots->counters.truncated -= (record->flags & MCAST_TRUNCATED) != 0;
}

/* Takes out what is no longer wanted: the filters changed after the packets had passed them. The payloads stay where they are; `state`
 * is held. */
static inline size_t
mcast_keep_wanted(mcast_slots *slots, mcast_record *records, size_t count)
{
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        if (mcast_slots_want(slots, &records[i])) {
            records[kept++] = records[i];
            continue;
        }
        mcast_uncount(slots, &records[i]);
        slots->counters.filtered++;
    }
    return kept;
}

static inline size_t
mcast_refilter(mcast_slots *slots, mcast_record *records, size_t count)
{
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    size_t kept = mcast_keep_wanted(slots, records, count);
    PyThread_release_lock(slots->state);
    return kept;
}

/* Reads one socket until it is drained, the batch is full or a flood of what is not wanted has gone on for long enough to look at
 * the clock: 1 when it may hold more, 0 when drained, or -errno. */
static inline int
mcast_drain(mcast_slots *slots, mcast_socket *socket, mcast_batch *batch, size_t limit)
{
    if (mcast_batch_count(batch) == 0)
        batch->epoch = slots->epoch;
    size_t enough = batch->data.used + MCAST_GO_BYTES;
    for (unsigned packets = 0; packets < MCAST_ONE_GO || mcast_batch_count(batch) > 0;) {
        unsigned room = mcast_room(slots, batch, limit);
        if (room == 0)
            return 1;
        int received = mcast_scratch_receive(&slots->scratch, socket->fd, room);
        if (received == 0 || received == -EAGAIN || received == -EWOULDBLOCK || received == -EINTR)
            return 0;
        if (received < 0)
            return received;
        if (mcast_batch_reserve(slots, batch, (unsigned)received, limit) != 0) {
            slots->counters.dropped_memory += (unsigned)received;
            socket->owed += (uint32_t)received;
            return -ENOMEM;
        }
        slots->segments = 1;
        for (unsigned i = 0; i < (unsigned)received; i++)
            mcast_pack(slots, socket, batch, i);
        if ((unsigned)received < room)
            return 0;
        if (slots->open_sockets > 1 || batch->data.used >= enough)
            return 1; /* the others have their turn first, and who waits has enough */
        packets += (unsigned)received;
    }
    return 1;
}

/* An error behind packets waits for the next call: the packets are delivered first. */
static inline int
mcast_defer_failure(mcast_slots *slots, const mcast_batch *batch, int status)
{
    if (status >= 0 || mcast_batch_count(batch) == 0)
        return status;
    slots->failure = status;
    return 0;
}

/* Reads the sockets that are ready. */
static inline int
mcast_drain_ready(mcast_slots *slots, const uint64_t *keys, int ready, mcast_batch *batch, size_t limit)
{
    int status = 0;
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    unsigned first = slots->rotation++;
    for (unsigned i = 0; i < (unsigned)ready && status >= 0; i++) {
        uint64_t key = keys[(first + i) % (unsigned)ready];
        mcast_socket *socket = key < slots->keys ? slots->sockets[key] : NULL;
        if (!socket)
            continue;
        status = socket->ring ? mcast_drain_ring(slots, socket->ring, batch, limit)
                              : mcast_drain(slots, socket, batch, limit);
        slots->busy = status == 1 && slots->open_sockets == 1 && !socket->ring ? socket : NULL;
    }
    slots->counters.wakeups += ready > 0;
    status = mcast_defer_failure(slots, batch, status);
    PyThread_release_lock(slots->state);
    return status;
}

/* Reads the only socket without waiting first, when the last batch left it with packets; and rings, for a look at them costs nothing. */
static inline int
mcast_drain_busy(mcast_slots *slots, mcast_batch *batch, size_t limit)
{
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    int status = slots->failure;
    slots->failure = 0;
    if (status == 0 && slots->busy)
        status = mcast_drain(slots, slots->busy, batch, limit);
    if (status != 1)
        slots->busy = NULL;
    if (status == 0 && slots->rings)
        status = mcast_drain_rings(slots, batch, limit);
    status = mcast_defer_failure(slots, batch, status);
    PyThread_release_lock(slots->state);
    return status;
}

static inline int64_t
mcast_time_left(int64_t deadline)
{
    if (deadline < 0)
        return -1;
    int64_t left = deadline - mcast_monotonic_ns();
    return left > 0 ? left : 0;
}

/* Waits until the deadline for something to read, and reads it: the status of a drain, or how the waiting ended. */
static inline int
mcast_wait_and_drain(mcast_slots *slots, mcast_batch *batch, size_t limit, int64_t deadline)
{
    uint64_t keys[MCAST_READY_MAX];
    int64_t left = mcast_time_left(deadline);
    int napped = mcast_rings_nap(slots, left);
    if (napped > 0)
        return MCAST_MORE;
    int ready = napped < 0 ? napped : mcast_poller_wait(&slots->poller, keys, left);
    if (ready == -EINTR)
        return MCAST_INTERRUPTED;
    if (ready < 0)
        return ready;
    if (ready == 0)
        return left == 0 ? MCAST_TIMEOUT : MCAST_MORE;
    size_t before = mcast_batch_count(batch);
    int status = mcast_drain_ready(slots, keys, ready, batch, limit);
    if (status < 0 || mcast_batch_count(batch) > before)
        return status < 0 ? status : MCAST_BATCH;
    for (int i = 0; i < ready; i++)
        if (keys[i] == MCAST_WAKE)
            return mcast_flag_is_set(&slots->closed) ? MCAST_CLOSED : MCAST_WOKEN;
    return deadline >= 0 && mcast_monotonic_ns() > deadline + MCAST_GRACE_NS ? MCAST_TIMEOUT : MCAST_MORE;
}

/* Adds what is there to the batch; waits for something until the deadline when there is nothing. */
static inline int
mcast_receive_turn(mcast_slots *slots, mcast_batch *batch, size_t limit, int64_t deadline)
{
    size_t before = mcast_batch_count(batch);
    int status = MCAST_MORE;
    while (status == MCAST_MORE) {
        if (mcast_flag_is_set(&slots->closed))
            return MCAST_CLOSED;
        status = mcast_drain_busy(slots, batch, limit);
        if (status < 0)
            return status;
        if (mcast_batch_count(batch) > before)
            return MCAST_BATCH;
        status = mcast_wait_and_drain(slots, batch, limit, deadline);
    }
    return status;
}

/* Adds 1 packet or more to the batch, up to limit in all, by the deadline (monotonic ns; < 0 waits for ever): MCAST_BATCH, MCAST_TIMEOUT, MCAST_CLOSED,
 * MCAST_INTERRUPTED (look at the signals and call again), MCAST_WOKEN (look at what is left over, and call again), or -errno. */
static inline int
mcast_receive(mcast_slots *slots, mcast_batch *batch, size_t limit, int64_t deadline)
{
    if (!PyThread_acquire_lock(slots->turn, NOWAIT_LOCK)) {
        int64_t left = mcast_time_left(deadline);
        PyLockStatus turn = PyThread_acquire_lock_timed(slots->turn, left < 0 ? -1 : left / 1000, 1);
        if (turn != PY_LOCK_ACQUIRED)
            return turn == PY_LOCK_INTR ? MCAST_INTERRUPTED : MCAST_TIMEOUT;
    }
    int status = mcast_receive_turn(slots, batch, limit, deadline);
    PyThread_release_lock(slots->turn);
    return status;
}

/* Waits until the deadline for a poller to tell something, and takes nothing: MCAST_BATCH, MCAST_TIMEOUT, MCAST_CLOSED,
 * MCAST_INTERRUPTED, or -errno. Another thread may receive meanwhile. */
static inline int
mcast_wait_for(mcast_slots *slots, mcast_poller *poller, int64_t deadline)
{
    uint64_t keys[MCAST_READY_MAX];
    int64_t left = mcast_time_left(deadline);
    PyLockStatus look = PyThread_acquire_lock_timed(slots->look, left < 0 ? -1 : left / 1000, 1);
    if (look != PY_LOCK_ACQUIRED)
        return look == PY_LOCK_INTR ? MCAST_INTERRUPTED : MCAST_TIMEOUT;
    int closed = mcast_flag_is_set(&slots->closed);
    int ready = closed ? 0 : mcast_poller_wait(poller, keys, mcast_time_left(deadline));
    PyThread_release_lock(slots->look);
    if (mcast_flag_is_set(&slots->closed))
        return MCAST_CLOSED;
    if (ready == -EINTR)
        return MCAST_INTERRUPTED;
    return ready > 0 ? MCAST_BATCH : ready;
}

static inline int
mcast_wait(mcast_slots *slots, int64_t deadline)
{
    return mcast_wait_for(slots, &slots->poller, deadline);
}

/* The batch is whole: check it again when the filters changed meanwhile, count it, and keep no more memory than it needs. It has passed
 * the filters of its epoch now. */
static inline void
mcast_finish_batch(mcast_slots *slots, mcast_batch *batch)
{
    size_t count = mcast_batch_count(batch);
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    if (batch->epoch != slots->epoch)
        count = mcast_keep_wanted(slots, (mcast_record *)batch->records.bytes, count);
    batch->records.used = count * sizeof(mcast_record);
    batch->epoch = slots->epoch;
    slots->counters.batches++;
    slots->expected = count < 4096 ? count : 4096;
    if (count > slots->counters.largest_batch)
        slots->counters.largest_batch = count;
    PyThread_release_lock(slots->state);
    mcast_memory_fit(slots->pool, &batch->records);
    mcast_memory_fit(slots->pool, &batch->data);
}

/* So many batches more (or fewer) are left over: makes the descriptor readable as long as there are any or, once somebody looks at it, a
 * ring can be read. */
static inline void
mcast_slots_leave_over(mcast_slots *slots, int change)
{
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    slots->left_over += change; /* below 0 where who takes is faster here than who left over */
    if (!mcast_flag_is_set(&slots->closed)) {
        int more = slots->left_over > 0 || (mcast_flag_is_set(&slots->watched) && mcast_rings_have_more(slots));
        if (more && !slots->shown)
            mcast_poller_signal(&slots->poller);
        else if (!more && slots->shown)
            mcast_poller_clear(&slots->poller);
        slots->shown = more;
    }
    PyThread_release_lock(slots->state);
}

#include MCAST_SLOTS_RING

#endif
