#include "platform.h"

#if MCAST_HAS_RING

#include "process.h"
#include "ring.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <net/if.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

/* Option numbers and values that old headers lack, from the kernel's uapi headers. */
enum {
    LINUX_PACKET_VNET_HDR = 15,
    LINUX_PACKET_IGNORE_OUTGOING = 23,
};

enum {
    RING_FRAME = 2048,     /* only the kernel's plausibility checks look at it: a TPACKET_V3 frame has its own size */
    SPAN_BYTES = 16 << 20, /* of one batch at most: it may have to be copied */
    FEW_BLOCKS = 4,        /* that a batch may hold of a small ring: half of eight */
    SPARSE_SHARE = 8,      /* a block is sparse when this share of it is not filled */
};

/* ---- every open ring, for a fork ---- */

static mcast_mutex open_lock = MCAST_MUTEX_INITIAL;
static mcast_ring *open_rings;

/* Before a fork: batches in place become copies, for the memory of a ring is shared between processes; then no batch begins until the
 * fork is over. Held: the list of rings, and the lock of each. */
static void
hold_rings(void)
{
    mcast_lock(&open_lock);
    for (mcast_ring *ring = open_rings; ring; ring = ring->next_open) {
        mcast_ring_detach_all(ring, 0);
        mcast_lock(&ring->lock);
    }
}

static void
release_rings(void)
{
    for (mcast_ring *ring = open_rings; ring; ring = ring->next_open)
        mcast_unlock(&ring->lock);
    mcast_unlock(&open_lock);
}

static mcast_fork_hook fork_hook = {hold_rings, release_rings, NULL};

static int
list_ring(mcast_ring *ring)
{
    static int hooked;
    mcast_lock(&open_lock);
    int status = hooked ? 0 : mcast_process_add_hook(&fork_hook);
    hooked = status == 0;
    if (status == 0) {
        ring->next_open = open_rings;
        open_rings = ring;
    }
    mcast_unlock(&open_lock);
    return status;
}

static void
unlist_ring(mcast_ring *ring)
{
    mcast_lock(&open_lock);
    mcast_ring **at = &open_rings;
    while (*at && *at != ring)
        at = &(*at)->next_open;
    if (*at)
        *at = ring->next_open;
    mcast_unlock(&open_lock);
}

/* ---- mappings ---- */

/* Another mapping of all blocks; NULL, with errno, when the system refuses one. */
mcast_mapping *
mcast_mapping_new(int fd, size_t block_size, uint32_t count)
{
    mcast_mapping *mapping = calloc(1, sizeof *mapping + count);
    if (!mapping)
        return NULL;
    void *base = mmap(NULL, block_size * count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED) {
        free(mapping);
        return NULL;
    }
    mapping->base = base;
    mapping->block_size = block_size;
    mapping->count = count;
    mapping->users = 1;
    return mapping;
}

/* Unmaps the blocks that are, or are not, copies. */
static void
unmap_blocks(const mcast_mapping *mapping, int moved)
{
    for (uint32_t slot = 0; slot < mapping->count; slot++)
        if (!mapping->moved[slot] == !moved)
            munmap(mapping->base + slot * mapping->block_size, mapping->block_size);
}

/* After one user less: what nobody reads any more is unmapped. The ring's lock is held. */
void
mcast_mapping_shrink(mcast_mapping *mapping)
{
    if (mapping->users > 0 && (mapping->users > mapping->relocated || mapping->trimmed))
        return;
    if (mapping->users > 0) { /* copies are all that is read */
        unmap_blocks(mapping, 0);
        mapping->trimmed = 1;
        return;
    }
    if (mapping->trimmed)
        unmap_blocks(mapping, 1);
    else
        munmap(mapping->base, mapping->block_size * mapping->count);
    free(mapping);
}

void
mcast_ring_leave(mcast_ring *ring)
{
    if (mcast_word_add(&ring->refs, UINT32_MAX) != 1)
        return;
    mcast_mutex_close(&ring->lock);
    free(ring->states);
    free(ring->gaps);
    free(ring);
}

/* ---- blocks ---- */

uint32_t
mcast_ring_read_drops(mcast_ring *ring)
{
    struct tpacket_stats_v3 stats = {0, 0, 0};
    socklen_t size = sizeof stats;
    if (getsockopt(ring->fd, SOL_PACKET, PACKET_STATISTICS, &stats, &size) != 0)
        return 0;
    __atomic_fetch_add(&ring->drops, stats.tp_drops, __ATOMIC_RELAXED);
    return stats.tp_drops;
}

static int
is_filled(const mcast_mapping *mapping, uint32_t slot)
{
    return (__atomic_load_n(&mcast_block_header(mapping, slot)->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER) != 0;
}

static void
store_status(const mcast_mapping *mapping, uint32_t slot, uint32_t status)
{
    __atomic_store_n(&mcast_block_header(mapping, slot)->block_status, status, __ATOMIC_RELEASE);
}

/* Returns a block to the kernel, after its last reader. `mapping` is one in which it was read, or NULL for the ring's own; the ring's
 * lock is held.
 *
 * The kernel drops while it waits for this block, so that what was dropped until now is missing before the block that will fill
 * this slot next (blocks that come back out of turn place a gap one or a few blocks too late). It fills blocks in order: it waits for
 * this one only when it has finished the one before. */
void
mcast_ring_return_block(mcast_ring *ring, const mcast_mapping *mapping, uint32_t slot)
{
    if (!mapping || mapping->moved[slot])
        mapping = ring->mapping;
    uint32_t dropped = mcast_word_exchange(&ring->unplaced, 0);
    int waited_for = ring->mapping && mcast_block_is_ours(ring, (slot > 0 ? slot : ring->count) - 1);
    if (waited_for)
        dropped += mcast_ring_read_drops(ring);
    if (mapping)
        store_status(mapping, slot, TP_STATUS_KERNEL);
    if (waited_for) { /* and what was dropped between the two lines above, unless the block is full already */
        uint32_t late = mcast_ring_read_drops(ring);
        mcast_word_add(is_filled(mapping, slot) ? &ring->unplaced : &ring->gaps[slot], late);
    }
    mcast_word_add(&ring->gaps[slot], dropped);
    mcast_block_freed(&ring->states[slot]);
    /* The kernel may have filled it, and woken the receiver, who then saw a block that was not free yet. */
    if (mapping && ring->waker >= 0 && is_filled(mapping, slot)) {
        uint64_t one = 1;
        ssize_t ignored = write(ring->waker, &one, sizeof one);
        (void)ignored;
    }
}

/* One reader less of a block. */
static void
leave_block(mcast_ring *ring, const mcast_mapping *mapping, uint32_t slot)
{
    if (!mcast_block_drop(&ring->states[slot]))
        return;
    mcast_lock(&ring->lock);
    mcast_ring_return_block(ring, mapping, slot);
    mcast_unlock(&ring->lock);
}

void
mcast_ring_finish_block(mcast_ring *ring)
{
    ring->left = 0;
    leave_block(ring, NULL, mcast_ring_slot(ring, ring->sequence - 1));
}

/* ---- the cursor ---- */

/* How long the kernel took to fill a block, in ns; 0 for one that it handed over because the latency was over. */
static int64_t
block_filling(const struct tpacket_hdr_v1 *header)
{
    const struct tpacket_bd_ts *first = &header->ts_first_pkt, *last = &header->ts_last_pkt;
    if (header->block_status & TP_STATUS_BLK_TMO)
        return 0;
    int64_t seconds = (int64_t)last->ts_sec - first->ts_sec;
    int64_t filling = seconds * 1000000000 + ((int64_t)last->ts_nsec - first->ts_nsec);
    return filling > 0 ? filling : 0; /* by the clock of the day, which may be set */
}

/* What the kernel dropped while it filled the block at the cursor, for other reasons than that it had no block: it marks what it
 * finishes after a drop. While it waits for a block its count is of that wait, and is read when the block is returned. */
static void
note_drops(mcast_ring *ring, const struct tpacket_hdr_v1 *header)
{
    if (header->block_status & TP_STATUS_LOSING && !mcast_block_is_ours(ring, mcast_ring_slot(ring, ring->filled)))
        ring->pending_drops += mcast_ring_read_drops(ring);
}

int
mcast_ring_take(mcast_ring *ring)
{
    while (ring->left == 0) {
        if (!mcast_ring_has_more(ring))
            return 0;
        uint32_t slot = mcast_ring_slot(ring, ring->sequence++);
        const struct tpacket_hdr_v1 *header = mcast_block_header(ring->mapping, slot);
        mcast_block_find(&ring->states[slot]);
        mcast_block_take(&ring->states[slot]);
        ring->pending_drops += mcast_word_exchange(&ring->gaps[slot], 0);
        ring->block = (const unsigned char *)ring->mapping->base + slot * ring->block_size;
        ring->at = header->offset_to_first_pkt;
        ring->left = header->num_pkts;
        ring->filling = block_filling(header);
        ring->segment = 0;
        mcast_ring_make_room(ring, 0, 1);
        note_drops(ring, mcast_block_header(ring->mapping, slot));
        if (ring->left == 0)
            mcast_ring_finish_block(ring);
    }
    return 1;
}

int
mcast_ring_is_sparse(const mcast_ring *ring)
{
    const struct tpacket_hdr_v1 *header = mcast_block_header(ring->mapping, mcast_ring_slot(ring, ring->sequence - 1));
    return header->blk_len < ring->block_size / SPARSE_SHARE;
}

uint64_t
mcast_ring_unread(const mcast_ring *ring)
{
    uint64_t frames = ring->left;
    for (uint64_t sequence = ring->sequence; sequence < ring->sequence + ring->count; sequence++) {
        if (!mcast_ring_has_block(ring, sequence))
            break;
        frames += mcast_block_header(ring->mapping, mcast_ring_slot(ring, sequence))->num_pkts;
    }
    return frames;
}

/* ---- opening and closing ---- */

static int
set_packet_option(int fd, int option, const void *value, socklen_t size)
{
    return setsockopt(fd, SOL_PACKET, option, value, size) == 0 ? 0 : -errno;
}

/* Gives a packet socket its ring, in the order that the kernel wants: the headers' size first. */
static int
set_up(int fd, size_t block_size, uint32_t count, unsigned latency_ms)
{
    int version = TPACKET_V3, on = 1;
    struct tpacket_req3 request = {
        .tp_block_size = (unsigned)block_size,
        .tp_block_nr = count,
        .tp_frame_size = RING_FRAME,
        .tp_frame_nr = (unsigned)(block_size / RING_FRAME * count),
        .tp_retire_blk_tov = latency_ms,
    };
    int status = set_packet_option(fd, PACKET_VERSION, &version, sizeof version);
    if (status == 0)
        status = set_packet_option(fd, LINUX_PACKET_VNET_HDR, &on, sizeof on);
    if (status == 0)
        status = set_packet_option(fd, LINUX_PACKET_IGNORE_OUTGOING, &on, sizeof on);
    if (status == 0)
        status = set_packet_option(fd, PACKET_RX_RING, &request, sizeof request);
    return status;
}

/* Blocks that one batch may hold: an eighth of the ring, of a small one some more. */
static uint32_t
span_of(size_t block_size, uint32_t count)
{
    size_t span = count / 8, bound = SPAN_BYTES / block_size;
    span = span > FEW_BLOCKS ? span : FEW_BLOCKS;
    span = span < count / 2 ? span : count / 2;
    span = span < bound ? span : bound;
    return span > 0 ? (uint32_t)span : 1;
}

/* Whether the interface is a loopback, where packets may come from 127.0.0.0/8 (netdevice(7)). */
static int
is_loopback(int fd, uint32_t interface_index)
{
    struct ifreq request;
    memset(&request, 0, sizeof request);
    request.ifr_ifindex = (int)interface_index;
    return ioctl(fd, SIOCGIFNAME, &request) == 0 && ioctl(fd, SIOCGIFFLAGS, &request) == 0 &&
           (request.ifr_flags & IFF_LOOPBACK) != 0;
}

/* What is allocated before the kernel is called; 0, or -errno with `ring` as far as it came. */
static int
allocate(mcast_ring *ring, int fd, uint32_t count)
{
    int status = mcast_mutex_open(&ring->lock);
    if (status != 0)
        return status;
    ring->states = calloc(count, sizeof *ring->states);
    ring->gaps = calloc(count, sizeof *ring->gaps);
    ring->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    return !ring->states || !ring->gaps ? -ENOMEM : ring->fd < 0 ? -errno : 0;
}

int
mcast_ring_open(mcast_ring **opened, int fd, int waker, uint32_t interface_index, size_t block_size, uint32_t count,
                unsigned latency_ms, int times, int delivers)
{
    mcast_ring *ring = calloc(1, sizeof *ring);
    if (!ring)
        return -ENOMEM;
    ring->fd = -1;
    ring->waker = waker;
    ring->loopback = is_loopback(fd, interface_index);
    ring->delivers = delivers;
    ring->interface_index = interface_index;
    ring->process = mcast_process_number;
    ring->block_size = block_size;
    ring->count = count;
    ring->span = span_of(block_size, count);
    ring->latency = latency_ms * (int64_t)1000000;
    ring->times = times;
    mcast_word_store(&ring->refs, 1);
    int status = allocate(ring, fd, count);
    if (status == 0)
        status = set_up(fd, block_size, count, latency_ms);
    if (status == 0 && !(ring->mapping = mcast_mapping_new(fd, block_size, count)))
        status = -errno;
    if (status == 0)
        status = list_ring(ring);
    if (status == 0) {
        *opened = ring;
        return 0;
    }
    if (ring->mapping)
        munmap(ring->mapping->base, block_size * count);
    free(ring->mapping);
    if (ring->fd >= 0)
        close(ring->fd);
    mcast_ring_leave(ring);
    return status;
}

/* From now on nothing passes into the ring, however long its mapping stays. */
static void
reject_all(int fd)
{
    struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {1, &nothing};
    setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
}

void
mcast_ring_close(mcast_ring *ring)
{
    if (ring->process != mcast_process_number) {
        close(ring->fd);
        return; /* its memory is shared with the process that opened it */
    }
    reject_all(ring->fd);
    if (ring->left > 0)
        mcast_ring_finish_block(ring);
    mcast_ring_detach_all(ring, 1);
    unlist_ring(ring);
    mcast_lock(&ring->lock);
    mcast_mapping *mapping = ring->mapping;
    ring->waker = -1;
    ring->mapping = NULL;
    ring->block = NULL;
    mapping->users--;
    mcast_mapping_shrink(mapping);
    close(ring->fd);
    ring->fd = -1;
    mcast_unlock(&ring->lock);
    mcast_ring_leave(ring);
}

#else
typedef int mcast_no_ring; /* this system maps no ring of packets */
#endif
