/* A mapped ring's memory (packet(7), TPACKET_V3), and the leases that batches have on it.
 *
 * The kernel fills the blocks in a circle and stops, dropping, at the first one that was not given back. So a block goes back as
 * soon as nobody reads it where it stands: every lease on it has ended, or was detached, which means that its bytes were copied
 * and that the batch goes on with the copy. The mapping itself stays as long as the ring is open or a lease is in place: a mapped
 * ring goes on capturing after its socket is closed, so closing detaches all.
 *
 * Three things are shared between threads. A block's `holds` and the ring's `users` are atomic counts. A lease's own lock guards
 * where its bytes are; the ring's lock guards the list of leases, and is taken before that of a lease. Both are held for a copy of
 * a batch at the most, and need no GIL. */
#ifndef MCAST_LEASE_H
#define MCAST_LEASE_H

#include "memory.h"
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct mcast_lease {
    char locked;
    char detached; /* the bytes are a copy of our own */
    char listed;   /* by the ring: it may still have to be detached */
    uint32_t pins; /* readers of the bytes in place, who need no lock while they read */
    struct mcast_ring *ring;
    uint64_t sequence;          /* of the first block, which counts from the opening */
    uint32_t blocks;            /* one behind the other in memory */
    const unsigned char *bytes; /* where offset 0 of the batch's records points */
    size_t used;
    size_t capacity; /* of the copy */
    mcast_pool *pool;
    struct mcast_lease *older;
    struct mcast_lease *newer;
} mcast_lease;

typedef struct mcast_ring {
    int fd; /* a duplicate of our own: what is read through it must not hang on when somebody closes the socket */
    uint32_t interface_index;
    unsigned char *blocks;
    size_t block_size;
    uint32_t count;
    uint32_t span; /* blocks that a batch may hold */
    int64_t latency;
    int times;       /* whether records tell when they arrived */
    uint32_t *holds; /* by slot: who reads the block in place */
    uint32_t *gaps;  /* by slot: what was dropped before the block that fills it next */
    uint32_t users;  /* of the mapping: the open ring, and every lease in place */
    uint32_t refs;   /* of this structure: the open ring, and every lease */
    uint64_t drops;
    uint64_t detached;
    uint32_t unplaced; /* drops that somebody else read the counter of */
    char locked;
    mcast_lease *oldest;
    mcast_lease *newest;
    /* The cursor, which only one thread moves. */
    uint64_t sequence; /* blocks taken so far: the next one has this number */
    uint64_t spared;   /* the first block of the batch before the one that is being filled */
    uint64_t filled;   /* blocks found filled so far */
    const unsigned char *block;
    size_t at;       /* of the frame that is read next, from the start of its block */
    uint32_t left;   /* frames still to be read there; 0: no block is taken */
    size_t segment;  /* bytes of this frame's payload that are read already: a super-packet across two batches */
    uint32_t owed;   /* drops that belong to the next record */
    int64_t filling; /* ns in which the block taken last was filled; 0: it was not full, or we have napped since */
    mcast_lease *spare;
    struct mcast_listener *listeners[256]; /* by the low byte of their port */
    struct mcast_listener *latest;
    struct mcast_ring *next;
} mcast_ring;

/* ---- locks: held so shortly that nobody should sleep over them ---- */

static inline void
mcast_spin(char *locked)
{
    while (__atomic_test_and_set(locked, __ATOMIC_ACQUIRE))
        sched_yield();
}

static inline void
mcast_unspin(char *locked)
{
    __atomic_clear(locked, __ATOMIC_RELEASE);
}

/* ---- blocks ---- */

static inline struct tpacket_hdr_v1 *
mcast_block_header(const mcast_ring *ring, uint32_t slot)
{
    return &((struct tpacket_block_desc *)(ring->blocks + (size_t)slot * ring->block_size))->hdr.bh1;
}

/* Whether the kernel has filled the block and handed it over. */
static inline int
mcast_block_is_ours(const mcast_ring *ring, uint32_t slot)
{
    return __atomic_load_n(&mcast_block_header(ring, slot)->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER;
}

/* Reads the kernel's counters, which start anew at every reading (packet(7)): how many drops are new. */
static inline uint32_t
mcast_ring_read_drops(mcast_ring *ring)
{
    struct tpacket_stats_v3 told = {0, 0, 0};
    socklen_t size = sizeof told;
    if (getsockopt(ring->fd, SOL_PACKET, PACKET_STATISTICS, &told, &size) != 0)
        return 0;
    __atomic_fetch_add(&ring->drops, told.tp_drops, __ATOMIC_RELAXED);
    return told.tp_drops;
}

/* One user less of the mapping; the last one unmaps it. */
static inline void
mcast_ring_leave(mcast_ring *ring)
{
    if (__atomic_sub_fetch(&ring->users, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    munmap(ring->blocks, ring->block_size * ring->count);
    close(ring->fd);
    ring->blocks = NULL;
    ring->fd = -1;
}

static inline void
mcast_ring_forget(mcast_ring *ring)
{
    if (__atomic_sub_fetch(&ring->refs, 1, __ATOMIC_ACQ_REL) != 0)
        return;
    free(ring->spare);
    free(ring->holds);
    free(ring->gaps);
    free(ring);
}

/* One reader less of a block in place; after the last one the kernel may fill it again.
 *
 * The kernel drops while it waits for this block, so that what was dropped until now is missing before the block that will fill
 * this slot next (blocks that come back out of turn place a gap one or a few blocks too late). It fills blocks in order: it waits for
 * this one only when it has finished the one before. */
static inline void
mcast_block_release(mcast_ring *ring, uint32_t slot)
{
    if (__atomic_sub_fetch(&ring->holds[slot], 1, __ATOMIC_ACQ_REL) != 0)
        return;
    uint32_t before = (slot > 0 ? slot : ring->count) - 1;
    uint32_t dropped = __atomic_exchange_n(&ring->unplaced, 0, __ATOMIC_RELAXED);
    if (mcast_block_is_ours(ring, before))
        dropped += mcast_ring_read_drops(ring);
    if (dropped)
        __atomic_fetch_add(&ring->gaps[slot], dropped, __ATOMIC_RELAXED);
    __atomic_store_n(&mcast_block_header(ring, slot)->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
}

/* ---- leases ---- */

/* Puts a lease on bytes in force, and takes over the hold that its caller has on each of the blocks. */
static inline void
mcast_lease_begin(mcast_lease *lease, mcast_ring *ring, uint64_t sequence, uint32_t blocks, const unsigned char *bytes,
                  size_t used)
{
    lease->ring = ring;
    lease->sequence = sequence;
    lease->blocks = blocks;
    lease->bytes = bytes;
    lease->used = used;
    __atomic_fetch_add(&ring->users, 1, __ATOMIC_RELAXED);
    __atomic_fetch_add(&ring->refs, 1, __ATOMIC_RELAXED);
    mcast_spin(&ring->locked);
    lease->listed = 1;
    lease->older = ring->newest;
    if (ring->newest)
        ring->newest->newer = lease;
    else
        ring->oldest = lease;
    ring->newest = lease;
    mcast_unspin(&ring->locked);
}

static inline void
mcast_lease_leave_blocks(mcast_lease *lease)
{
    for (uint32_t i = 0; i < lease->blocks; i++)
        mcast_block_release(lease->ring, (uint32_t)((lease->sequence + i) % lease->ring->count));
    mcast_ring_leave(lease->ring);
}

/* Copies the bytes, unless that was done: 0, or -1 without memory. Who reads them in place goes on, and is the last to leave. */
static inline int
mcast_lease_detach(mcast_lease *lease)
{
    int status = 0;
    mcast_spin(&lease->locked);
    if (!lease->detached) {
        unsigned char *copy = mcast_pool_take(lease->pool, lease->used, &lease->capacity);
        status = copy ? 0 : -1;
        if (copy) {
            memcpy(copy, lease->bytes, lease->used);
            lease->bytes = copy;
            __atomic_store_n(&lease->detached, 1, __ATOMIC_RELAXED);
            __atomic_fetch_add(&lease->ring->detached, 1, __ATOMIC_RELAXED);
            if (lease->pins == 0)
                mcast_lease_leave_blocks(lease);
        }
    }
    mcast_unspin(&lease->locked);
    return status;
}

/* The bytes, which stay where they are until unpinned; *in_place says whether that is needed. */
static inline const unsigned char *
mcast_lease_pin(mcast_lease *lease, int *in_place)
{
    mcast_spin(&lease->locked);
    const unsigned char *bytes = lease->bytes;
    *in_place = !lease->detached;
    lease->pins += !lease->detached;
    mcast_unspin(&lease->locked);
    return bytes;
}

static inline void
mcast_lease_unpin(mcast_lease *lease)
{
    mcast_spin(&lease->locked);
    if (--lease->pins == 0 && lease->detached)
        mcast_lease_leave_blocks(lease);
    mcast_unspin(&lease->locked);
}

/* Copies some of the bytes out, wherever they are now. */
static inline void
mcast_lease_read(mcast_lease *lease, size_t offset, void *to, size_t size)
{
    mcast_spin(&lease->locked);
    memcpy(to, lease->bytes + offset, size);
    mcast_unspin(&lease->locked);
}

/* Takes a lease out of the ring's list, whose lock is held. */
static inline void
mcast_lease_unlist(mcast_ring *ring, mcast_lease *lease)
{
    if (!lease->listed)
        return;
    if (lease->older)
        lease->older->newer = lease->newer;
    else
        ring->oldest = lease->newer;
    if (lease->newer)
        lease->newer->older = lease->older;
    else
        ring->newest = lease->older;
    lease->listed = 0;
}

/* The batch is gone; nobody reads any more. */
static inline void
mcast_lease_end(mcast_lease *lease)
{
    mcast_ring *ring = lease->ring;
    mcast_spin(&ring->locked);
    mcast_lease_unlist(ring, lease);
    mcast_unspin(&ring->locked);
    if (lease->detached)
        mcast_pool_give(lease->pool, (void *)lease->bytes, lease->capacity);
    else
        mcast_lease_leave_blocks(lease);
    mcast_ring_forget(ring);
    free(lease);
}

/* Detaches the leases on blocks that were taken before number `sequence`. One for which there is no memory stays in place. */
static inline void
mcast_ring_detach(mcast_ring *ring, uint64_t sequence)
{
    mcast_spin(&ring->locked);
    while (ring->oldest && ring->oldest->sequence < sequence && mcast_lease_detach(ring->oldest) == 0)
        mcast_lease_unlist(ring, ring->oldest);
    mcast_unspin(&ring->locked);
}

#endif
