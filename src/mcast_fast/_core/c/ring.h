/* A mapped ring of packets (packet(7), TPACKET_V3; Documentation/networking/packet_mmap.rst).
 *
 * The kernel fills the blocks in a circle and drops when the next one was not returned. A batch's payloads stay in the blocks
 * (reference.h) while there is space; the receiver detaches, before the kernel reaches them again, whatever is still in place, so that
 * nothing a consumer holds can stop the ring. Detaching copies. What somebody reads in place just then (a loan, a view) is relocated
 * instead: its pages are replaced by a copy at the same address, and the ring continues in a second mapping of the same blocks.
 *
 * Owners. The cursor (`sequence` to `filling`) belongs to the thread that receives, under the receiver's state lock. `lock` guards the list
 * of references, the choice of the mapping and the return of blocks; it is held for a few instructions and system calls, never for a copy.
 * A block's state is a word of its own (ring_block.h). A mapping lives as long as the ring uses it, or bytes in it are pinned. */
#ifndef MCAST_RING_H
#define MCAST_RING_H

#include "memory.h"
#include "record.h"
#include "reference.h"
#include "ring_block.h"

#include <linux/if_packet.h>

/* What a ring delivers: the payloads of datagrams that a socket would get; of those in VLANs too; or whole frames, in which whatever is wrong
 * stays as it came. */
enum { MCAST_DELIVERS_UNTAGGED, MCAST_DELIVERS_TAGGED, MCAST_DELIVERS_FRAMES };

typedef struct mcast_mapping {
    unsigned char *base;
    size_t block_size;
    uint32_t count;
    uint32_t users;        /* references whose bytes are needed in it, and the ring; guarded by the ring's lock */
    uint32_t relocated;    /* of those references: bytes that are copies now */
    int trimmed;           /* only the relocated pages are still mapped */
    unsigned char moved[]; /* by block: its pages are a copy */
} mcast_mapping;

typedef struct mcast_ring {
    int fd;    /* a duplicate of our own: what is read through it must not depend on who closes the socket */
    int waker; /* an eventfd that wakes the receiver, or -1 once the ring is closed; guarded by `lock` */
    int loopback;
    int delivers; /* of MCAST_DELIVERS_* */
    uint32_t interface_index;
    uint32_t process; /* which opened it */
    size_t block_size;
    uint32_t count;
    uint32_t span; /* blocks that a batch may hold */
    int64_t latency;
    int times;           /* whether records have the time of arrival */
    mcast_block *states; /* by block */
    mcast_word *gaps;    /* by block: what was dropped before it was filled */
    mcast_word refs;     /* of this structure: the open ring, and every reference */
    mcast_mutex lock;
    mcast_mapping *mapping; /* in which the blocks are read */
    mcast_reference *oldest;
    mcast_reference *newest;
    uint64_t drops;
    uint64_t detached;            /* batches whose bytes were copied, or relocated */
    mcast_word unplaced;          /* drops of which the place in the stream is not known yet */
    struct mcast_ring *next_open; /* every open ring, for a fork */

    uint64_t sequence; /* blocks taken so far: the next one has this number */
    uint64_t filled;   /* blocks found filled so far */
    const unsigned char *block;
    size_t at;              /* of the frame that is read next, from the start of its block */
    uint32_t left;          /* frames still to be read there; 0: no block is taken */
    size_t segment;         /* bytes of this frame's payload that are read already: a super-packet across two batches */
    uint32_t pending_drops; /* drops that belong to the next record */
    int64_t filling; /* ns in which the block taken last was filled; 0: it was not full, or we have slept since */
} mcast_ring;

enum {
    LINUX_VIRTIO_GSO_UDP_L4 = 5, /* Linux 6.2; before, the kernel drops such packets */
    LINUX_VIRTIO_GSO_ECN = 0x80,
    MCAST_VLAN_ID = 0x0fff, /* of a tag */
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

/* A frame in its block. */
typedef struct mcast_ring_frame {
    const struct tpacket3_hdr *header;
    const unsigned char *bytes;
    size_t size;
    size_t wire;
    int64_t timestamp;
    size_t segment; /* bytes of payload per datagram, where this is a super-packet; else 0 */
    size_t step;    /* to the next frame of the block */
    int tagged;     /* a VLAN tag other than 0 was taken out, or the frame has one */
    int ours;       /* addressed to this host, or to a group */
} mcast_ring_frame;

/* Maps the ring of a packet socket that is not bound yet: *opened, or -errno with nothing left behind. */
int mcast_ring_open(mcast_ring **opened, int fd, int waker, uint32_t interface_index, size_t block_size, uint32_t count,
                    unsigned latency_ms, int times, int delivers);

/* Detaches every batch and unmaps. Where bytes are pinned, the mapping stays until that ends; nothing passes the filter into it any more.
 * In a process that did not open it, only the descriptor is closed. */
void mcast_ring_close(mcast_ring *ring);

/* Reads the kernel's counter of drops, which restarts at every reading (packet(7)): how many are new. */
uint32_t mcast_ring_read_drops(mcast_ring *ring);

/* Frames that were finished and not read. */
uint64_t mcast_ring_unread(const mcast_ring *ring);

/* Detaches what the kernel comes near: the blocks that it fills within the next quarter of the ring, whoever has them; and what is more
 * than a quarter of the ring old, for nobody detaches while the receiver is busy elsewhere. `spare_newest`: the second rule leaves the newest
 * batch in place, for whoever goes over batches in a loop has it until this call is over. `may_relocate`: between two batches. */
void mcast_ring_make_room(mcast_ring *ring, int may_relocate, int spare_newest);

/* Takes the next block that is filled, unless one is taken; 0 when there is none. */
int mcast_ring_take(mcast_ring *ring);

/* Whether the block at the cursor holds so little that copying its payloads costs less than keeping it. */
int mcast_ring_is_sparse(const mcast_ring *ring);

/* Leaves the block that was read to its end. */
void mcast_ring_finish_block(mcast_ring *ring);

/* A reference to `blocks` blocks from `sequence` on, of which the caller holds each once for it (mcast_ring_hold). */
void mcast_ring_refer(mcast_ring *ring, mcast_reference *reference, uint64_t sequence, uint32_t blocks,
                      const unsigned char *bytes, size_t used);

/* A new reference, or NULL; and the end of one that was never used. */
mcast_reference *mcast_reference_new(void);
void mcast_reference_discard(mcast_reference *reference);

/* ---- for reference.c ---- */

/* Another mapping of all blocks; NULL, with errno, when the system refuses one. */
mcast_mapping *mcast_mapping_new(int fd, size_t block_size, uint32_t count);

/* After one user less: unmaps what nobody reads any more. The ring's lock is held. */
void mcast_mapping_shrink(mcast_mapping *mapping);

/* Returns a block to the kernel, after its last reader. `mapping` is one in which it was read, or NULL for the ring's own; the ring's lock
 * is held. */
void mcast_ring_return_block(mcast_ring *ring, const mcast_mapping *mapping, uint32_t slot);

/* One user less of the ring's own structure. */
void mcast_ring_leave(mcast_ring *ring);

/* Detaches every batch; and relocates what is pinned, where that is allowed. */
void mcast_ring_detach_all(mcast_ring *ring, int may_relocate);

static inline uint32_t
mcast_ring_slot(const mcast_ring *ring, uint64_t sequence)
{
    return (uint32_t)(sequence % ring->count);
}

static inline struct tpacket_hdr_v1 *
mcast_block_header(const mcast_mapping *mapping, uint32_t slot)
{
    return &((struct tpacket_block_desc *)(mapping->base + (size_t)slot * mapping->block_size))->hdr.bh1;
}

/* Whether the kernel has filled the block and handed it over. */
static inline int
mcast_block_is_ours(const mcast_ring *ring, uint32_t slot)
{
    return (int)(__atomic_load_n(&mcast_block_header(ring->mapping, slot)->block_status, __ATOMIC_ACQUIRE) &
                 TP_STATUS_USER);
}

/* Whether the receiver may take the block now. */
static inline int
mcast_ring_has_block(const mcast_ring *ring, uint64_t sequence)
{
    uint32_t slot = (uint32_t)(sequence % ring->count);
    return mcast_block_is_filled(&ring->states[slot]) ||
           (mcast_block_is_free(&ring->states[slot]) && mcast_block_is_ours(ring, slot));
}

/* Whether there is something to read without waiting. */
static inline int
mcast_ring_has_more(const mcast_ring *ring)
{
    return ring->left > 0 || mcast_ring_has_block(ring, ring->sequence);
}

/* One more reader of the block that the cursor is in, who stays when the cursor goes on. */
static inline void
mcast_ring_hold(mcast_ring *ring)
{
    mcast_block_hold(&ring->states[(ring->sequence - 1) % ring->count]);
}

/* Goes on to the next frame. That of a block's end is left to mcast_ring_finish_block, for a reference may have to begin first. */
static inline void
mcast_ring_pass(mcast_ring *ring, const mcast_ring_frame *frame)
{
    ring->segment = 0;
    ring->left--;
    ring->at += frame->step;
}

/* What the vnet header says of the frame behind it: bytes of payload in each datagram of a super-packet, else 0. */
static inline size_t
mcast_ring_segment_size(const unsigned char *frame)
{
    mcast_vnet_header header;
    memcpy(&header, frame - sizeof header, sizeof header);
    return (header.gso_type & ~LINUX_VIRTIO_GSO_ECN) == LINUX_VIRTIO_GSO_UDP_L4 ? header.gso_size : 0;
}

static inline int
mcast_ring_is_super(const unsigned char *frame)
{
    return frame[(ptrdiff_t)offsetof(mcast_vnet_header, gso_type) - (ptrdiff_t)sizeof(mcast_vnet_header)] != 0;
}

/* The header of the frame at `at`; NULL when the frame does not lie inside its block. */
static inline const struct tpacket3_hdr *
mcast_ring_header(const mcast_ring *ring, size_t at)
{
    const size_t head = TPACKET_ALIGN(sizeof(struct tpacket3_hdr)) + sizeof(struct sockaddr_ll);
    if (at > ring->block_size - head || at % 8 != 0)
        return NULL;
    const struct tpacket3_hdr *header = (const struct tpacket3_hdr *)(ring->block + at);
    size_t room = ring->block_size - at;
    if (header->tp_mac < sizeof *header + sizeof(mcast_vnet_header) || header->tp_mac > room ||
        header->tp_snaplen > room - header->tp_mac)
        return NULL;
    return header;
}

/* Bytes from the frame at `at` to the next one of its block. */
static inline size_t
mcast_ring_step(const mcast_ring *ring, const struct tpacket3_hdr *header, size_t at)
{
    size_t room = ring->block_size - at;
    return header->tp_next_offset < room ? header->tp_next_offset : room;
}

/* The time of arrival, in ns since 1970; 0 where none are wanted. */
static inline int64_t
mcast_ring_time(const mcast_ring *ring, const struct tpacket3_hdr *header)
{
    return ring->times ? header->tp_sec * (int64_t)1000000000 + header->tp_nsec : 0;
}

/* Whether the frame is addressed to this host, or to a group. */
static inline int
mcast_ring_is_ours(const struct tpacket3_hdr *header)
{
    const struct sockaddr_ll *from =
        (const struct sockaddr_ll *)((const unsigned char *)header + TPACKET_ALIGN(sizeof *header));
    return from->sll_pkttype != PACKET_OTHERHOST;
}

/* The frame at the cursor; 0 when it does not lie inside its block. */
static inline int
mcast_ring_read(const mcast_ring *ring, mcast_ring_frame *frame)
{
    const struct tpacket3_hdr *header = mcast_ring_header(ring, ring->at);
    if (!header)
        return 0;
    frame->header = header;
    frame->bytes = (const unsigned char *)header + header->tp_mac;
    frame->size = header->tp_snaplen;
    frame->wire = header->tp_len;
    frame->timestamp = mcast_ring_time(ring, header);
    frame->segment = mcast_ring_segment_size(frame->bytes);
    frame->step = mcast_ring_step(ring, header, ring->at);
    frame->tagged = header->tp_status & TP_STATUS_VLAN_VALID && header->hv1.tp_vlan_tci & MCAST_VLAN_ID;
    frame->ours = mcast_ring_is_ours(header);
    return 1;
}

#endif
