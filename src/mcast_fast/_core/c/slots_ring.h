/* What of a ring goes into a batch. Included by receive.h; where a system maps none, no_slots_ring.h stands in.
 *
 * A batch gets records of its own, and a lease on the blocks in which its payloads stay (lease.h): one behind the other in memory, so
 * that they never go beyond the ring's end. A batch that asks for copies (collect) takes as many blocks as it likes. */
#ifndef MCAST_SLOTS_RING_H
#define MCAST_SLOTS_RING_H

enum {
    MCAST_BLOCKS_ONE_GO = 16,         /* blocks without anything wanted that are read before looking at the clock */
    MCAST_PREFETCH = 6,               /* frames ahead: the walk is as fast as memory brings their headers */
    MCAST_RING_NAP_NS = 10 * 1000000, /* at the most: a close waits for it */
};

/* Frames that a batch can have without waiting: of this block, and of those behind it that are filled and that it may hold. */
static inline size_t
mcast_ring_ready(const mcast_ring *ring, size_t limit)
{
    size_t frames = ring->left;
    for (uint32_t ahead = 0; frames < limit && ahead + 1 < ring->span; ahead++) {
        uint32_t slot = (uint32_t)((ring->sequence + ahead) % ring->count);
        if (slot == 0 || __atomic_load_n(&ring->holds[slot], __ATOMIC_ACQUIRE) > 0 || !mcast_block_is_ours(ring, slot))
            break;
        frames += mcast_block_header(ring, slot)->num_pkts;
    }
    return frames < limit ? frames : limit;
}

/* Room for one record, and for its payload when it is to be copied; at first for all that are ready. 0, or -ENOMEM. */
static inline int
mcast_ring_reserve(mcast_slots *slots, const mcast_ring *ring, mcast_batch *batch, size_t limit, size_t length)
{
    if (batch->records.capacity - batch->records.used < sizeof(mcast_record) || !batch->records.bytes) {
        size_t wanted = mcast_ring_ready(ring, limit - mcast_batch_count(batch));
        if (mcast_memory_reserve(slots->pool, &batch->records, (wanted ? wanted : 1) * sizeof(mcast_record)) != 0)
            return -ENOMEM;
    }
    if (batch->copies && mcast_memory_reserve(slots->pool, &batch->data, length) != 0)
        return -ENOMEM;
    return 0;
}

/* Puts one datagram into the batch: its record stands already where it belongs. */
static inline void
mcast_ring_pack(mcast_slots *slots, mcast_ring *ring, mcast_batch *batch, mcast_record *record,
                const unsigned char *payload)
{
    mcast_truncate(slots, record);
    record->dropped = ring->owed;
    ring->owed = 0;
    if (batch->copies) {
        record->offset = (uint32_t)batch->data.used;
        memcpy(batch->data.bytes + batch->data.used, payload, record->length);
        batch->data.used += record->length;
    } else {
        if (!batch->base)
            batch->base = payload;
        record->offset = (uint32_t)(payload - batch->base);
    }
    batch->end = payload + record->length;
    batch->records.used += sizeof *record;
    slots->counters.received++;
    slots->counters.bytes += record->length;
    slots->counters.truncated += (record->flags & MCAST_TRUNCATED) != 0;
}

/* Whether the batch takes no more: its limit, or the 4 GiB that an offset can reach. */
static inline int
mcast_ring_batch_is_full(const mcast_slots *slots, const mcast_batch *batch, size_t limit)
{
    return mcast_batch_count(batch) >= limit || UINT32_MAX - batch->data.used < slots->slot_size;
}

/* Takes a super-packet apart: every segment but the last has the size that its sender gave (udp(7), UDP_SEGMENT). 1 when it is
 * done, 0 when the batch is full before, -ENOMEM. `whole` describes all of it. */
static inline int
mcast_ring_split(mcast_slots *slots, mcast_ring *ring, mcast_batch *batch, size_t limit, size_t size,
                 const mcast_record *whole, const unsigned char *payload)
{
    while (ring->segment < whole->length) {
        if (mcast_ring_batch_is_full(slots, batch, limit))
            return 0;
        size_t left = whole->length - ring->segment, length = left < size ? left : size;
        if (mcast_ring_reserve(slots, ring, batch, limit, length) != 0)
            return -ENOMEM;
        mcast_record *record = (mcast_record *)(batch->records.bytes + batch->records.used);
        *record = *whole;
        record->length = record->wire_length = (uint16_t)length;
        record->flags |= MCAST_COALESCED;
        mcast_ring_pack(slots, ring, batch, record, payload + ring->segment);
        ring->segment += length;
    }
    slots->counters.buffers++;
    return 1;
}

/* Counts what is not delivered. What is no UDP passes the kernel's filter behind IPv6 extension headers only. */
static inline void
mcast_ring_count(mcast_slots *slots, mcast_ring *ring, int kind, const mcast_record *record, size_t segment)
{
    uint64_t datagrams = 1;
    if (kind == MCAST_FRAME_UDP && segment && record->length > segment)
        datagrams = (record->length + segment - 1) / segment;
    if (kind == MCAST_FRAME_FRAGMENT && mcast_ring_wants(ring, record))
        slots->counters.fragments++;
    else if (kind != MCAST_FRAME_LATER && kind != MCAST_FRAME_OTHER)
        slots->counters.filtered += datagrams;
}

/* Reads the frame at the cursor into the batch, which has room: 1 when it is done, 0 when the batch was full before, -ENOMEM. */
static inline int
mcast_ring_pack_frame(mcast_slots *slots, mcast_ring *ring, mcast_batch *batch, size_t limit,
                      const mcast_ring_frame *frame)
{
    if (mcast_ring_reserve(slots, ring, batch, limit, slots->slot_size) != 0)
        return -ENOMEM;
    const unsigned char *payload = NULL;
    mcast_record *record = (mcast_record *)(batch->records.bytes + batch->records.used);
    int kind = mcast_ring_describe(ring, frame, record, &payload);
    if (kind != MCAST_FRAME_UDP || !mcast_ring_wants(ring, record)) {
        mcast_ring_count(slots, ring, kind, record, frame->segment);
        return 1;
    }
    if (frame->segment && record->length > frame->segment) {
        mcast_record whole = *record;
        return mcast_ring_split(slots, ring, batch, limit, frame->segment, &whole, payload);
    }
    mcast_ring_pack(slots, ring, batch, record, payload);
    slots->counters.buffers++;
    return 1;
}

/* Reads the block at the cursor until its end, or until the batch is full. 0, or -ENOMEM. */
static inline int
mcast_ring_pack_block(mcast_slots *slots, mcast_ring *ring, mcast_batch *batch, size_t limit)
{
    while (ring->left > 0 && !mcast_ring_batch_is_full(slots, batch, limit)) {
        mcast_ring_frame frame;
        if (!mcast_ring_read(ring, &frame)) { /* nothing that follows can be found */
            slots->counters.filtered += ring->left;
            ring->left = 0;
            return 0;
        }
        const unsigned char *ahead = ring->block + ring->at + frame.step * MCAST_PREFETCH;
        for (int line = 0; line < 3; line++)
            __builtin_prefetch(ahead + 64 * line);
        int status = mcast_ring_pack_frame(slots, ring, batch, limit, &frame);
        if (status <= 0)
            return status;
        mcast_ring_pass(ring, &frame);
    }
    return 0;
}

/* Whether the batch, which holds so many blocks, goes on with the next one. */
static inline int
mcast_ring_goes_on(const mcast_slots *slots, const mcast_ring *ring, const mcast_batch *batch, size_t limit,
                   uint32_t held)
{
    if (mcast_ring_batch_is_full(slots, batch, limit))
        return 0;
    return batch->copies || held == 0 || (held < ring->span && ring->sequence % ring->count != 0);
}

/* Reads blocks that are there into the batch, or what is new of one. 1 when the ring may hold more, 0 when it does not, or -errno. */
static inline int
mcast_drain_ring(mcast_slots *slots, mcast_ring *ring, mcast_batch *batch, size_t limit)
{
    if (batch->lease || (mcast_batch_count(batch) > 0 && !batch->copies))
        return 1;
    if (!ring->spare && !(ring->spare = calloc(1, sizeof *ring->spare)))
        return -ENOMEM;
    if (mcast_batch_count(batch) == 0)
        batch->epoch = slots->epoch;
    uint32_t held = 0;
    int status = 0;
    for (int blocks = 0; status == 0 && mcast_ring_goes_on(slots, ring, batch, limit, held); blocks++) {
        if ((blocks >= MCAST_BLOCKS_ONE_GO && mcast_batch_count(batch) == 0) || !mcast_ring_take(ring))
            break;
        status = mcast_ring_pack_block(slots, ring, batch, limit);
        if (!batch->copies && mcast_batch_count(batch) > 0) {
            mcast_ring_hold_block(ring);
            held++;
        }
        if (ring->left == 0)
            mcast_ring_finish_block(ring);
    }
    if (held > 0) {
        ring->spared = ring->sequence - held;
        batch->lease = ring->spare;
        ring->spare = NULL;
        batch->lease->pool = slots->pool;
        mcast_lease_begin(batch->lease, ring, ring->spared, held, batch->base, (size_t)(batch->end - batch->base));
    }
    return status < 0 && mcast_batch_count(batch) == 0 ? status : mcast_ring_has_more(ring);
}

/* Reads the rings, each in its turn first, without waiting: as mcast_drain_ring. */
static inline int
mcast_drain_rings(mcast_slots *slots, mcast_batch *batch, size_t limit)
{
    int status = 0;
    mcast_ring *first = slots->rings;
    for (mcast_ring *ring = first; ring && status >= 0 && !batch->lease; ring = ring->next) {
        int one = mcast_drain_ring(slots, ring, batch, limit);
        status = one < 0 ? one : status | one;
    }
    if (first && first->next) { /* the next one comes first next time */
        mcast_ring **last = &slots->rings;
        while (*last)
            last = &(*last)->next;
        slots->rings = first->next;
        *last = first;
        first->next = NULL;
    }
    return status;
}

/* For how long the blocks of a dense stream may pile up: until the first packet is as old as the latency allows, and within a sixteenth of
 * the ring. 0 for any other stream. */
static inline int64_t
mcast_ring_nap(const mcast_ring *ring)
{
    int64_t longest = ring->latency < MCAST_RING_NAP_NS ? ring->latency : MCAST_RING_NAP_NS;
    int64_t bound = ring->filling * ring->count / 16;
    if (ring->filling == 0 || ring->filling >= longest)
        return 0;
    return bound < longest - ring->filling ? bound : longest - ring->filling;
}

/* Sleeps a little in place of being woken by each block, while every ring has a dense stream: 1 when it did, 0 when not, -EINTR. */
static inline int
mcast_rings_nap(mcast_slots *slots, int64_t left)
{
    if (!mcast_flag_is_set(&slots->ringed))
        return 0;
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    int64_t shortest = !slots->rings ? 0 : left < 0 ? MCAST_RING_NAP_NS : left;
    for (mcast_ring *ring = slots->rings; ring; ring = ring->next) {
        int64_t nap = mcast_ring_nap(ring);
        shortest = nap < shortest ? nap : shortest;
    }
    for (mcast_ring *ring = slots->rings; ring && shortest > 0; ring = ring->next)
        ring->filling = 0;
    PyThread_release_lock(slots->state);
    struct timespec time = {0, shortest};
    if (shortest == 0)
        return 0;
    return nanosleep(&time, NULL) == 0 ? 1 : -EINTR;
}

/* Whether a ring can be read without waiting. The poller tells of a ring's block once (epoll(7), EPOLLET: a block that is leased would
 * show as readable for ever), so it is asked first, and what comes later it will tell of anew. */
static inline int
mcast_rings_have_more(mcast_slots *slots)
{
    uint64_t keys[MCAST_READY_MAX];
    for (int look = 0; look < 2; look++) {
        for (const mcast_ring *ring = slots->rings; ring; ring = ring->next)
            if (mcast_ring_has_more(ring))
                return 1;
        if (look == 0 && slots->rings)
            mcast_poller_wait(&slots->poller, keys, 0);
    }
    return 0;
}

/* ---- opening and changing ---- */

/* Maps the ring of a packet socket that is not bound yet, and receives from it too; its key, or -errno with nothing left behind.
 * Nothing passes before somebody listens. */
static inline int64_t
mcast_slots_add_ring(mcast_slots *slots, int fd, uint32_t interface_index, size_t block_size, uint32_t count,
                     unsigned latency_ms, int times)
{
    mcast_record implied;
    mcast_ring *ring = NULL;
    memset(&implied, 0, sizeof implied);
    int status = mcast_ring_open(&ring, fd, interface_index, block_size, count, latency_ms, times);
    if (status != 0)
        return status;
    int64_t key = mcast_slots_enter(slots, ring->fd, &implied, ring, 1);
    if (key < 0)
        mcast_ring_close(ring);
    return key;
}

/* Receive what goes to a port from the ring with that key; the key by which to accept something, or -errno. */
static inline int64_t
mcast_slots_listen(mcast_slots *slots, uint64_t ring_key, uint16_t port)
{
    mcast_record implied;
    memset(&implied, 0, sizeof implied);
    implied.port = port;
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    mcast_socket *owner = ring_key < slots->keys ? slots->sockets[ring_key] : NULL;
    mcast_ring *ring = owner && owner->is_ring ? owner->ring : NULL;
    PyThread_release_lock(slots->state);
    return ring ? mcast_slots_enter(slots, -1, &implied, ring, 0) : -EBADF;
}

/* Takes in a listener at a ring, or the ring itself, of which the poller tells once for each block: 0, or -errno. The state lock is
 * held. */
static inline int
mcast_slots_enter_ring(mcast_slots *slots, mcast_socket *socket, uint64_t key)
{
    mcast_ring *ring = socket->ring;
    if (socket->is_ring) {
        struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.u64 = key}};
        if (epoll_ctl(slots->poller.epoll, EPOLL_CTL_ADD, ring->fd, &event) != 0)
            return -errno;
        ring->next = slots->rings;
        slots->rings = ring;
        mcast_flag_set(&slots->ringed);
        return 0;
    }
    socket->listener.port = socket->implied.port;
    socket->listener.filter = &socket->filter;
    mcast_ring_listen(ring, &socket->listener);
    return 0;
}

/* Listeners outlive a ring that is removed: they hear nothing any more. */
static inline void
mcast_slots_deafen(mcast_slots *slots, const mcast_ring *ring)
{
    for (size_t key = 0; key < slots->keys; key++)
        if (slots->sockets[key] && slots->sockets[key]->ring == ring && !slots->sockets[key]->is_ring)
            slots->sockets[key]->ring = NULL;
}

/* Takes a listener or a ring out; what a ring holds unread was not asked for any more. The state lock is held. */
static inline void
mcast_slots_leave_ring(mcast_slots *slots, mcast_socket *socket)
{
    mcast_ring *ring = socket->ring;
    if (!socket->is_ring) {
        mcast_ring_unlisten(ring, &socket->listener);
        return;
    }
    mcast_slots_deafen(slots, ring);
    mcast_poller_remove(&slots->poller, ring->fd);
    for (mcast_ring **at = &slots->rings; *at; at = &(*at)->next)
        if (*at == ring) {
            *at = ring->next;
            break;
        }
    slots->counters.filtered += mcast_ring_unread(ring);
    slots->counters.detached += __atomic_load_n(&ring->detached, __ATOMIC_RELAXED);
    mcast_ring_read_drops(ring);
    slots->counters.dropped_ring += __atomic_load_n(&ring->drops, __ATOMIC_RELAXED);
}

/* Adds what the rings count themselves; the state lock is held. */
static inline void
mcast_rings_count(mcast_slots *slots, mcast_counters *counters)
{
    for (mcast_ring *ring = slots->rings; ring; ring = ring->next) {
        __atomic_fetch_add(&ring->unplaced, mcast_ring_read_drops(ring), __ATOMIC_RELAXED);
        counters->dropped_ring += __atomic_load_n(&ring->drops, __ATOMIC_RELAXED);
        counters->detached += __atomic_load_n(&ring->detached, __ATOMIC_RELAXED);
    }
}

#endif
