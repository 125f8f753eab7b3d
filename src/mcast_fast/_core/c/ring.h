/* A mapped ring: opened, read frame by frame, closed (packet(7), TPACKET_V3; Documentation/networking/packet_mmap.rst).
 *
 * Only what the kernel has finished is read, block by block; a block is finished when it is full, or when the latency is over and
 * something is in it. */
#ifndef MCAST_RING_H
#define MCAST_RING_H

#include "filter.h"
#include "frames.h"
#include "lease.h"
#include <errno.h>
#include <fcntl.h>

#define MCAST_SLOTS_RING "slots_ring.h" /* for receive.h, which has no ladder of systems */
enum { MCAST_HAS_RING = 1 };

/* Option numbers and values that old headers lack, from the kernel's uapi headers. */
enum {
    LINUX_PACKET_VNET_HDR = 15,
    LINUX_PACKET_IGNORE_OUTGOING = 23,
    LINUX_VIRTIO_GSO_UDP_L4 = 5, /* Linux 6.2; before, the kernel drops such packets */
    LINUX_VIRTIO_GSO_ECN = 0x80,
};

enum {
    MCAST_RING_FRAME = 2048, /* only the kernel's plausibility checks look at it: a TPACKET_V3 frame has its own size */
    MCAST_RING_SPAN_BYTES = 16 << 20, /* of one batch at the most: it may have to be copied */
};

/* linux/virtio_net.h, as packet sockets give it: before the link header, in the byte order of the host. */
typedef struct mcast_vnet_header {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t header_size;
    uint16_t gso_size;
    uint16_t checksum_start;
    uint16_t checksum_offset;
} mcast_vnet_header;

/* A port at which this ring's packets are wanted, and what of them. */
typedef struct mcast_listener {
    uint16_t port;
    mcast_filter *filter;
    struct mcast_listener *next;
} mcast_listener;

/* A frame where it stands in its block. */
typedef struct mcast_ring_frame {
    const unsigned char *bytes;
    size_t size;
    size_t wire;
    int64_t timestamp;
    size_t segment; /* bytes of payload a datagram, where this is a super-packet; else 0 */
    size_t step;    /* to the next frame of the block */
} mcast_ring_frame;

/* ---- listeners ---- */

static inline void
mcast_ring_listen(mcast_ring *ring, mcast_listener *listener)
{
    mcast_listener **first = &ring->listeners[listener->port & 0xff];
    listener->next = *first;
    *first = listener;
}

static inline void
mcast_ring_unlisten(mcast_ring *ring, const mcast_listener *listener)
{
    mcast_listener **at = &ring->listeners[listener->port & 0xff];
    while (*at && *at != listener)
        at = &(*at)->next;
    if (*at)
        *at = listener->next;
    ring->latest = NULL;
}

static inline int
mcast_listener_wants(const mcast_listener *listener, const mcast_record *record)
{
    return listener->port == record->port && mcast_filter_allows(listener->filter, record);
}

/* Whether somebody listens for this port, group, interface and source. */
static inline int
mcast_ring_wants(mcast_ring *ring, const mcast_record *record)
{
    if (ring->latest && mcast_listener_wants(ring->latest, record))
        return 1;
    for (mcast_listener *one = ring->listeners[record->port & 0xff]; one; one = one->next)
        if (mcast_listener_wants(one, record)) {
            ring->latest = one;
            return 1;
        }
    return 0;
}

/* ---- the cursor ---- */

/* Whether there is something to read without waiting. */
static inline int
mcast_ring_has_more(const mcast_ring *ring)
{
    uint32_t slot = (uint32_t)(ring->sequence % ring->count);
    return ring->left > 0 ||
           (__atomic_load_n(&ring->holds[slot], __ATOMIC_ACQUIRE) == 0 && mcast_block_is_ours(ring, slot));
}

/* The place in the ring of the block that the cursor is in. */
static inline uint32_t
mcast_ring_slot(const mcast_ring *ring)
{
    return (uint32_t)((ring->sequence - 1) % ring->count);
}

/* Goes on with the count of what the kernel has filled. A block that is held shows as filled, so that the count ends there. */
static inline void
mcast_ring_count_filled(mcast_ring *ring)
{
    if (ring->filled < ring->sequence)
        ring->filled = ring->sequence;
    while (ring->filled < ring->sequence + ring->count) {
        uint32_t slot = (uint32_t)(ring->filled % ring->count);
        if (__atomic_load_n(&ring->holds[slot], __ATOMIC_ACQUIRE) > 0 || !mcast_block_is_ours(ring, slot))
            break;
        ring->filled++;
    }
}

/* Detaches the leases that the ring comes near: on blocks within a quarter of the ring before the kernel, and on all more than a
 * quarter of the ring old, for nobody detaches while the receiver is busy elsewhere, and a burst then has three quarters. The batch
 * before the one that is being filled is spared: who goes over batches in a loop holds it until this call is over. */
static inline void
mcast_ring_make_room(mcast_ring *ring)
{
    mcast_ring_count_filled(ring);
    int64_t quarter = ring->count / 4, taken = (int64_t)ring->sequence;
    int64_t near = (int64_t)ring->filled + quarter + 1 - ring->count, old = taken - quarter;
    int64_t bound = near > old ? near : old;
    bound = bound < (int64_t)ring->spared ? bound : (int64_t)ring->spared;
    if (bound > 0)
        mcast_ring_detach(ring, (uint64_t)bound);
}

/* One more reader of the block that the cursor is in, who stays when the cursor goes on. */
static inline void
mcast_ring_hold_block(mcast_ring *ring)
{
    __atomic_fetch_add(&ring->holds[mcast_ring_slot(ring)], 1, __ATOMIC_RELAXED);
}

/* Leaves the block that was read to its end. */
static inline void
mcast_ring_finish_block(mcast_ring *ring)
{
    ring->left = 0;
    mcast_block_release(ring, mcast_ring_slot(ring));
}

/* How long the kernel took to fill a block, in ns; 0 for one that it handed over because the latency was over. */
static inline int64_t
mcast_block_filling(const struct tpacket_hdr_v1 *header)
{
    const struct tpacket_bd_ts *first = &header->ts_first_pkt, *last = &header->ts_last_pkt;
    if (header->block_status & TP_STATUS_BLK_TMO)
        return 0;
    int64_t seconds = (int64_t)last->ts_sec - first->ts_sec;
    int64_t filling = seconds * 1000000000 + ((int64_t)last->ts_nsec - first->ts_nsec);
    return filling > 0 ? filling : 0; /* by the clock of the day, which may be set */
}

/* What the kernel dropped while it filled the block at the cursor, for other reasons than that it had no block: it marks what it
 * finishes after a drop. While it waits for a block its count is of that wait, and is read when the block goes back (lease.h). */
static inline void
mcast_ring_owe(mcast_ring *ring, const struct tpacket_hdr_v1 *header)
{
    uint32_t next = (uint32_t)(ring->filled % ring->count);
    if (header->block_status & TP_STATUS_LOSING && !mcast_block_is_ours(ring, next))
        ring->owed += mcast_ring_read_drops(ring);
}

/* Takes the next block that is filled, unless one is taken; 0 when there is none. */
static inline int
mcast_ring_take(mcast_ring *ring)
{
    while (ring->left == 0) {
        if (!mcast_ring_has_more(ring))
            return 0;
        uint32_t slot = (uint32_t)(ring->sequence++ % ring->count);
        const struct tpacket_hdr_v1 *header = mcast_block_header(ring, slot);
        __atomic_store_n(&ring->holds[slot], 1, __ATOMIC_RELAXED);
        ring->owed += __atomic_exchange_n(&ring->gaps[slot], 0, __ATOMIC_RELAXED);
        ring->block = ring->blocks + slot * ring->block_size;
        ring->at = header->offset_to_first_pkt;
        ring->left = header->num_pkts;
        ring->filling = mcast_block_filling(header);
        ring->segment = 0;
        mcast_ring_make_room(ring);
        mcast_ring_owe(ring, header);
        if (ring->left == 0)
            mcast_ring_finish_block(ring);
    }
    return 1;
}

/* What the vnet header says of the frame behind it: bytes of payload in each datagram of a super-packet, else 0. */
static inline size_t
mcast_ring_segment_size(const unsigned char *frame)
{
    mcast_vnet_header header;
    memcpy(&header, frame - sizeof header, sizeof header);
    return (header.gso_type & ~LINUX_VIRTIO_GSO_ECN) == LINUX_VIRTIO_GSO_UDP_L4 ? header.gso_size : 0;
}

/* The frame at the cursor; 0 when it does not lie inside its block. */
static inline int
mcast_ring_read(const mcast_ring *ring, mcast_ring_frame *frame)
{
    if (ring->at > ring->block_size - sizeof(struct tpacket3_hdr) || ring->at % 8 != 0)
        return 0;
    const struct tpacket3_hdr *header = (const struct tpacket3_hdr *)(ring->block + ring->at);
    size_t room = ring->block_size - ring->at;
    if (header->tp_mac < sizeof *header + sizeof(mcast_vnet_header) || header->tp_mac > room ||
        header->tp_snaplen > room - header->tp_mac)
        return 0;
    frame->bytes = (const unsigned char *)header + header->tp_mac;
    frame->size = header->tp_snaplen;
    frame->wire = header->tp_len;
    frame->timestamp = ring->times ? header->tp_sec * (int64_t)1000000000 + header->tp_nsec : 0;
    frame->segment = mcast_ring_segment_size(frame->bytes);
    frame->step = header->tp_next_offset < room ? header->tp_next_offset : room;
    return 1;
}

/* Goes on to the next frame. That of a block's end is left to mcast_ring_finish_block, for a lease may have to begin first. */
static inline void
mcast_ring_pass(mcast_ring *ring, const mcast_ring_frame *frame)
{
    ring->segment = 0;
    ring->left--;
    ring->at += frame->step;
}

/* ---- what a frame holds ---- */

/* Writes the whole record of the usual frame: Ethernet, an IPv4 header without options, a datagram in one piece that was captured whole.
 * 0, with nothing to be relied on, for any other; mcast_frame_read takes those. */
static inline int
mcast_frame_read_usual(const mcast_ring_frame *frame, uint32_t interface_index, mcast_record *record)
{
    const unsigned char *bytes = frame->bytes, *ip = bytes + 14, *udp = bytes + 34;
    if (frame->size < 42 || mcast_big16(bytes + 12) != MCAST_ETHER_IPV4 || ip[0] != 0x45 ||
        ip[9] != MCAST_PROTOCOL_UDP || mcast_big16(ip + 6) & 0x3fff)
        return 0;
    size_t total = mcast_big16(ip + 2), length = mcast_big16(udp + 4);
    if (total + 14 > frame->size || length < 8 || length + 20 > total)
        return 0;
    record->timestamp = frame->timestamp;
    record->offset = 0;
    record->interface_index = interface_index;
    record->dropped = 0;
    record->length = record->wire_length = (uint16_t)(length - 8);
    mcast_map_v4(record->source, ip + 12);
    mcast_map_v4(record->group, ip + 16);
    record->source_port = mcast_big16(udp);
    record->port = mcast_big16(udp + 2);
    record->flags = MCAST_TTL | MCAST_TOS;
    record->ttl = ip[8];
    record->tos = ip[1];
    return 1;
}

/* Reads any frame: its kind (frames.h), and for MCAST_FRAME_UDP its record and payload. The record of a fragment has its port too, as
 * far as it was captured. */
static inline int
mcast_ring_describe(const mcast_ring *ring, const mcast_ring_frame *frame, mcast_record *record,
                    const unsigned char **payload)
{
    if (mcast_frame_read_usual(frame, ring->interface_index, record)) {
        *payload = frame->bytes + 42;
        return MCAST_FRAME_UDP;
    }
    int kind = mcast_frame_read(frame->bytes, frame->size, frame->wire, MCAST_LINK_ETHERNET, record, payload);
    record->timestamp = frame->timestamp;
    record->interface_index = ring->interface_index;
    if (kind == MCAST_FRAME_FRAGMENT && *payload + 4 <= frame->bytes + frame->size)
        record->port = mcast_big16(*payload + 2);
    return kind;
}

/* ---- opening and closing ---- */

static inline int
mcast_ring_option(int fd, int option, const void *value, socklen_t size)
{
    return setsockopt(fd, SOL_PACKET, option, value, size) == 0 ? 0 : -errno;
}

/* Gives a packet socket its ring, in the order that the kernel wants: the headers' size first. */
static inline int
mcast_ring_set_up(int fd, size_t block_size, uint32_t count, unsigned latency_ms)
{
    int version = TPACKET_V3, on = 1;
    struct tpacket_req3 request = {
        .tp_block_size = (unsigned)block_size,
        .tp_block_nr = count,
        .tp_frame_size = MCAST_RING_FRAME,
        .tp_frame_nr = (unsigned)(block_size / MCAST_RING_FRAME * count),
        .tp_retire_blk_tov = latency_ms,
    };
    int status = mcast_ring_option(fd, PACKET_VERSION, &version, sizeof version);
    if (status == 0)
        status = mcast_ring_option(fd, LINUX_PACKET_VNET_HDR, &on, sizeof on);
    if (status == 0)
        status = mcast_ring_option(fd, LINUX_PACKET_IGNORE_OUTGOING, &on, sizeof on);
    if (status == 0)
        status = mcast_ring_option(fd, PACKET_RX_RING, &request, sizeof request);
    return status;
}

/* Blocks that one batch may hold: an eighth of the ring at the most. */
static inline uint32_t
mcast_ring_span(size_t block_size, uint32_t count)
{
    size_t span = count / 8, bound = MCAST_RING_SPAN_BYTES / block_size;
    span = span < bound ? span : bound;
    return span > 0 ? (uint32_t)span : 1;
}

/* Maps the ring of a packet socket that is not bound yet: *opened, or -errno with nothing left behind. */
static inline int
mcast_ring_open(mcast_ring **opened, int fd, uint32_t interface_index, size_t block_size, uint32_t count,
                unsigned latency_ms, int times)
{
    mcast_ring *ring = calloc(1, sizeof *ring);
    int status = ring ? 0 : -ENOMEM;
    if (ring) {
        ring->interface_index = interface_index;
        ring->block_size = block_size;
        ring->count = count;
        ring->span = mcast_ring_span(block_size, count);
        ring->latency = latency_ms * (int64_t)1000000;
        ring->times = times;
        ring->users = ring->refs = 1;
        ring->holds = calloc(count, sizeof *ring->holds);
        ring->gaps = calloc(count, sizeof *ring->gaps);
        ring->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
        status = !ring->holds || !ring->gaps ? -ENOMEM : ring->fd < 0 ? -errno : 0;
    }
    if (status == 0)
        status = mcast_ring_set_up(fd, block_size, count, latency_ms);
    if (status == 0) {
        void *mapping = mmap(NULL, block_size * count, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        status = mapping == MAP_FAILED ? -errno : 0;
        ring->blocks = mapping;
    }
    if (status == 0) {
        *opened = ring;
    } else if (ring) {
        if (ring->fd >= 0)
            close(ring->fd);
        mcast_ring_forget(ring);
    }
    return status;
}

/* Detaches every batch and unmaps. Where a batch is borrowed from, or no memory is left for a copy, the mapping stays until that
 * ends; from now on nothing passes the filter into it. */
static inline void
mcast_ring_close(mcast_ring *ring)
{
    struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {1, &nothing};
    setsockopt(ring->fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program);
    if (ring->left > 0)
        mcast_ring_finish_block(ring);
    mcast_ring_detach(ring, UINT64_MAX);
    mcast_ring_leave(ring);
    mcast_ring_forget(ring);
}

/* Frames that were finished and not read. */
static inline uint64_t
mcast_ring_unread(const mcast_ring *ring)
{
    uint64_t frames = ring->left;
    for (uint64_t sequence = ring->sequence; sequence < ring->sequence + ring->count; sequence++) {
        uint32_t slot = (uint32_t)(sequence % ring->count);
        if (__atomic_load_n(&ring->holds[slot], __ATOMIC_ACQUIRE) > 0 || !mcast_block_is_ours(ring, slot))
            break;
        frames += mcast_block_header(ring, slot)->num_pkts;
    }
    return frames;
}

#endif
