/* A mapped ring as a source: frames become records, and payloads stay in the ring's blocks.
 *
 * A batch has a reference to the blocks in which its payloads are (reference.h): one after the other in memory, so that they never go
 * beyond the ring's end. A batch of copies (collect), and any batch while blocks come nearly empty, takes as many blocks as it
 * likes and holds none. */
#include "receiver.h"
#include <errno.h>

#if MCAST_HAS_RING

#include "frames.h"
#include "ring.h"
#include "stack_takes.h"
#include "whole_frames.h"

enum {
    BLOCKS_ONE_GO = 16,          /* blocks without anything wanted that are read before looking at the clock */
    USUAL_HEADERS = 14 + 20 + 8, /* bytes: Ethernet, IPv4, UDP */
    PREFETCH = 6,                /* frames ahead: the walk is as fast as memory brings their headers */
    NAP_NS = 10 * 1000000,       /* at most */
    MUST_COPY = 2,               /* the frame at the cursor needs a batch that copies */
};

typedef struct ring_source {
    mcast_source source;
    mcast_ring *ring;
    mcast_reference *spare;
} ring_source;

/* ---- what a socket would get ---- */

/* Four bytes as load32 finds them in a frame. */
#define BYTES(a, b, c, d)                                                                                              \
    (((const union {                                                                                                   \
         uint8_t bytes[4];                                                                                             \
         uint32_t word;                                                                                                \
     }){{a, b, c, d}})                                                                                                 \
         .word)

/* Whether this is the usual frame, for which write_usual and a look at the index are all that is needed: Ethernet without a tag, an IPv4
 * header without options and with the right sum, one datagram in one piece that was captured whole, from a possible source. */
static inline int
is_usual(const struct tpacket3_hdr *header, const unsigned char *frame)
{
    const unsigned char *ip = frame + 14, *udp = frame + 34;
    if (header->tp_snaplen < USUAL_HEADERS || header->tp_status & TP_STATUS_VLAN_VALID || !mcast_ring_is_ours(header) ||
        mcast_ring_is_super(frame))
        return 0;
    if ((load32(frame + 12) & BYTES(0xff, 0xff, 0xff, 0)) !=
            BYTES(MCAST_ETHER_IPV4 >> 8, MCAST_ETHER_IPV4 & 0xff, 0x45, 0) ||
        (load32(ip + 6) & BYTES(0x3f, 0xff, 0, 0xff)) != BYTES(0, 0, 0, MCAST_PROTOCOL_UDP))
        return 0;
    size_t total = mcast_big16(ip + 2), length = mcast_big16(udp + 4);
    return total + 14 <= header->tp_snaplen && length >= 8 && length + 20 <= total && ip[12] != 0 && ip[12] != 127 &&
           ip[12] < 224 && sum_is_right(ip, 20);
}

static inline void
write_usual(const mcast_ring *ring, const struct tpacket3_hdr *header, const unsigned char *frame, mcast_record *record)
{
    const unsigned char *ip = frame + 14, *udp = frame + 34;
    record->timestamp = mcast_ring_time(ring, header);
    record->offset = 0;
    record->interface_index = ring->interface_index;
    record->dropped = 0;
    record->length = record->wire_length = (uint16_t)(mcast_big16(udp + 4) - 8);
    mcast_map_v4(record->source, ip + 12);
    mcast_map_v4(record->group, ip + 16);
    record->source_port = mcast_big16(udp);
    record->port = mcast_big16(udp + 2);
    record->flags = MCAST_TTL | MCAST_TOS;
    record->ttl = ip[8];
    record->tos = ip[1];
}

/* What of a usual frame's record differs where the payload is the frame. */
static inline void
write_whole(const struct tpacket3_hdr *header, mcast_record *record)
{
    record->flags |= MCAST_FRAME;
    record->length = (uint16_t)header->tp_snaplen;
    record->wire_length = (uint16_t)header->tp_len;
}

/* Reads any frame: its kind (frames.h), and for MCAST_FRAME_UDP its record and payload. The record of a fragment has its port too, as
 * far as it was captured. What no socket would get is MCAST_FRAME_BROKEN. */
static int
describe(const mcast_ring *ring, const mcast_ring_frame *frame, mcast_record *record, const unsigned char **payload)
{
    if (is_usual(frame->header, frame->bytes)) {
        write_usual(ring, frame->header, frame->bytes, record);
        *payload = frame->bytes + USUAL_HEADERS;
        return MCAST_FRAME_UDP;
    }
    int kind = mcast_frame_read(frame->bytes, frame->size, frame->wire, MCAST_LINK_ETHERNET, record, payload);
    record->timestamp = frame->timestamp;
    record->interface_index = ring->interface_index;
    if (kind == MCAST_FRAME_FRAGMENT && *payload + 4 <= frame->bytes + frame->size)
        record->port = mcast_big16(*payload + 2);
    int whole = kind == MCAST_FRAME_UDP;
    if ((whole || kind == MCAST_FRAME_FRAGMENT) && !stack_takes(ring, frame, record))
        return MCAST_FRAME_BROKEN;
    if (whole && memcmp(record->group, mcast_v4_prefix, 12) != 0 && mcast_big16(*payload - 2) == 0)
        return MCAST_FRAME_BROKEN; /* IPv6 needs a checksum (RFC 8200, 8.1) */
    return kind;
}

/* ---- frames into a batch ---- */

/* Frames that a batch can have without waiting: of this block, and of those behind it that are filled and that it may hold. */
static size_t
ready_frames(const mcast_ring *ring, size_t limit)
{
    size_t frames = ring->left;
    for (uint32_t ahead = 0; frames < limit && ahead + 1 < ring->span; ahead++) {
        uint32_t slot = (uint32_t)((ring->sequence + ahead) % ring->count);
        if (slot == 0 || !mcast_ring_has_block(ring, ring->sequence + ahead))
            break;
        frames += mcast_block_header(ring->mapping, slot)->num_pkts;
    }
    return frames < limit ? frames : limit;
}

/* Space for one record, and for its payload when it is to be copied; at first for all that are ready. 0, or -1 without memory. */
static int
reserve(mcast_receiver *receiver, const mcast_ring *ring, mcast_batch *batch, size_t limit, size_t length)
{
    if (batch->records.capacity - batch->records.used < sizeof(mcast_record) || !batch->records.bytes) {
        size_t wanted = ready_frames(ring, limit - mcast_batch_count(batch));
        if (mcast_memory_reserve(receiver->pool, &batch->records, (wanted ? wanted : 1) * sizeof(mcast_record)) != 0)
            return -1;
    }
    if (batch->copying && mcast_memory_reserve(receiver->pool, &batch->data, length) != 0)
        return -1;
    return 0;
}

/* Puts one datagram into the batch: its record is already where it belongs. */
static void
pack(mcast_receiver *receiver, mcast_ring *ring, mcast_batch *batch, mcast_record *record, const unsigned char *payload)
{
    mcast_truncate(receiver, record);
    record->dropped = ring->pending_drops;
    ring->pending_drops = 0;
    if (batch->copying) {
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
    receiver->counters.received++;
    receiver->counters.bytes += record->length;
    receiver->counters.truncated += (record->flags & MCAST_TRUNCATED) != 0;
    receiver->counters.coalesced += (record->flags & MCAST_COALESCED) != 0;
}

/* Puts one frame into the batch that was made where the batch copies to. */
static void
pack_made(mcast_receiver *receiver, mcast_ring *ring, mcast_batch *batch, mcast_record *record)
{
    mcast_truncate(receiver, record);
    record->dropped = ring->pending_drops;
    ring->pending_drops = 0;
    record->offset = (uint32_t)batch->data.used;
    batch->data.used += record->length;
    batch->records.used += sizeof *record;
    receiver->counters.received++;
    receiver->counters.bytes += record->length;
    receiver->counters.truncated += (record->flags & MCAST_TRUNCATED) != 0;
}

/* Whether the kernel took a VLAN tag out of the frame. */
static inline int
is_tag_out(const mcast_ring_frame *frame)
{
    return (frame->header->tp_status & TP_STATUS_VLAN_VALID) != 0;
}

/* Puts that tag into a frame, before which four bytes are free: in the ring those are of the vnet header, which has been read. */
static unsigned char *
put_tag_back(const mcast_ring_frame *frame, unsigned char *bytes)
{
    int known = (frame->header->tp_status & TP_STATUS_VLAN_TPID_VALID) != 0;
    uint16_t type = known ? frame->header->hv1.tp_vlan_tpid : MCAST_ETHER_VLAN;
    return mcast_whole_put_tag(bytes, type, (uint16_t)frame->header->hv1.tp_vlan_tci);
}

static void
count_buffer(mcast_receiver *receiver, mcast_batch *batch)
{
    receiver->counters.buffers++;
    batch->buffers++;
}

/* Takes a super-packet apart: every segment but the last has the size that its sender gave (udp(7), UDP_SEGMENT). 1 when it is
 * done, 0 when the batch is full before, -1 without memory. `whole` describes all of it. */
static int
split(mcast_receiver *receiver, mcast_ring *ring, mcast_batch *batch, size_t limit, size_t size,
      const mcast_record *whole, const unsigned char *payload)
{
    while (ring->segment < whole->length) {
        if (!mcast_batch_has_room(receiver, batch, limit))
            return 0;
        size_t left = whole->length - ring->segment, length = left < size ? left : size;
        if (reserve(receiver, ring, batch, limit, length) != 0)
            return -1;
        mcast_record *record = mcast_batch_next(batch);
        mcast_record_copy(record, whole);
        record->length = record->wire_length = (uint16_t)length;
        record->flags |= MCAST_COALESCED;
        pack(receiver, ring, batch, record, payload + ring->segment);
        ring->segment += length;
    }
    count_buffer(receiver, batch);
    return 1;
}

/* Counts what is not delivered. What is no UDP passes the kernel's filter behind IPv6 extension headers only. */
static void
count_unwanted(mcast_receiver *receiver, int kind, const mcast_record *record, size_t segment)
{
    uint64_t datagrams = 1;
    if (kind == MCAST_FRAME_UDP && segment && record->length > segment)
        datagrams = (record->length + segment - 1) / segment;
    if (kind == MCAST_FRAME_FRAGMENT && mcast_index_wants(&receiver->index, record))
        receiver->counters.fragments++;
    else if (kind != MCAST_FRAME_LATER && kind != MCAST_FRAME_OTHER)
        receiver->counters.filtered += datagrams;
}

/* Reads the frame at the cursor into the batch, which has space: 1 when it is done, 0 when the batch was full before, -1 without memory. */
static int
pack_frame(mcast_receiver *receiver, mcast_ring *ring, mcast_batch *batch, size_t limit, const mcast_ring_frame *frame)
{
    if (reserve(receiver, ring, batch, limit, receiver->slot_size) != 0)
        return -1;
    const unsigned char *payload = NULL;
    mcast_record *record = mcast_batch_next(batch);
    int kind = describe(ring, frame, record, &payload);
    if (kind != MCAST_FRAME_UDP || !mcast_index_wants(&receiver->index, record) ||
        mcast_is_own(mcast_receiver_own(receiver), record)) {
        count_unwanted(receiver, kind, record, frame->segment);
        return 1;
    }
    if (frame->segment && record->length > frame->segment) {
        mcast_record whole = *record;
        return split(receiver, ring, batch, limit, frame->segment, &whole, payload);
    }
    pack(receiver, ring, batch, record, payload);
    count_buffer(receiver, batch);
    return 1;
}

/* Takes a super-packet apart into whole frames, in a batch that copies; else as split(). `whole` describes all of it. */
static int
cut(mcast_receiver *receiver, mcast_ring *ring, mcast_batch *batch, size_t limit, const mcast_ring_frame *frame,
    const mcast_record *whole, const unsigned char *payload)
{
    unsigned char *bytes = (unsigned char *)frame->bytes;
    size_t headers = (size_t)(payload - bytes), size = frame->segment;
    for (; ring->segment < whole->length; ring->segment += size) {
        if (!mcast_batch_has_room(receiver, batch, limit))
            return 0;
        size_t left = whole->length - ring->segment, length = left < size ? left : size;
        if (reserve(receiver, ring, batch, limit, headers + length + MCAST_TAG_SIZE) != 0)
            return -1;
        unsigned char *to = batch->data.bytes + batch->data.used;
        mcast_record *record = mcast_batch_next(batch);
        mcast_record_copy(record, whole);
        record->flags |= MCAST_COALESCED;
        mcast_whole_cut(bytes, headers, payload + ring->segment, length, ring->segment / size,
                        to + MCAST_TAG_SIZE * is_tag_out(frame));
        mcast_whole_lengths(record, headers + length, headers + length);
        if (is_tag_out(frame)) {
            put_tag_back(frame, to + MCAST_TAG_SIZE);
            mcast_whole_lengths(record, record->length + MCAST_TAG_SIZE, record->length + MCAST_TAG_SIZE);
        }
        pack_made(receiver, ring, batch, record);
    }
    count_buffer(receiver, batch);
    return 1;
}

/* As pack_frame, for whole frames; MUST_COPY where this one has to be made in memory and the batch refers to blocks. */
static int
pack_whole(mcast_receiver *receiver, mcast_ring *ring, mcast_batch *batch, size_t limit, const mcast_ring_frame *frame)
{
    if (reserve(receiver, ring, batch, limit, receiver->slot_size) != 0)
        return -1;
    const unsigned char *payload = NULL, *bytes = frame->bytes;
    size_t size = frame->size, wire = frame->wire;
    mcast_record *record = mcast_batch_next(batch);
    int kind = mcast_whole_read(bytes, size, wire, record, &payload);
    record->timestamp = frame->timestamp;
    record->interface_index = ring->interface_index;
    if (!frame->ours || kind == MCAST_FRAME_OTHER || !mcast_index_wants(&receiver->index, record) ||
        (record->port && mcast_is_own(mcast_receiver_own(receiver), record))) {
        receiver->counters.filtered += kind != MCAST_FRAME_OTHER && kind != MCAST_FRAME_LATER;
        return 1;
    }
    if (frame->segment && kind == MCAST_FRAME_UDP && record->length > frame->segment) {
        mcast_record whole = *record;
        return batch->copying ? cut(receiver, ring, batch, limit, frame, &whole, payload) : MUST_COPY;
    }
    if (is_tag_out(frame)) {
        bytes = put_tag_back(frame, (unsigned char *)bytes);
        size += MCAST_TAG_SIZE;
        wire += MCAST_TAG_SIZE;
    }
    mcast_whole_lengths(record, size, wire);
    pack(receiver, ring, batch, record, bytes);
    count_buffer(receiver, batch);
    return 1;
}

/* Fetches the headers of the frame at `ahead` into the cache. */
static inline void
fetch(const unsigned char *ahead)
{
    for (int line = 0; line < 3; line++)
        __builtin_prefetch(ahead + MCAST_CACHE_LINE * line);
}

/* Reads usual frames from the cursor on, as long as they follow one another and there is space. A batch that copies has none for them. What
 * is counted is added up once: in a dense stream nearly all instructions of the receiver are these. */
static void
pack_usual(mcast_receiver *receiver, mcast_ring *ring, mcast_batch *batch, size_t limit)
{
    size_t room = limit - mcast_batch_count(batch), at = ring->at;
    size_t reserved = (batch->records.capacity - batch->records.used) / sizeof(mcast_record);
    mcast_record *const first = mcast_batch_next(batch), *record = first;
    const mcast_record *const end = first + (room < reserved ? room : reserved);
    const mcast_filter *const own = mcast_receiver_own(receiver);
    const unsigned char *base = batch->base;
    const int whole = ring->delivers == MCAST_DELIVERS_FRAMES;
    const size_t skipped = whole ? 0 : USUAL_HEADERS;
    uint64_t bytes = 0, filtered = 0;
    uint32_t left = ring->left;
    if (batch->copying || ring->segment || ring->pending_drops)
        return;
    for (; left > 0 && record < end; left--) {
        const struct tpacket3_hdr *header = mcast_ring_header(ring, at);
        if (!header)
            break;
        const unsigned char *frame = (const unsigned char *)header + header->tp_mac;
        size_t step = mcast_ring_step(ring, header, at);
        fetch(ring->block + at + step * PREFETCH);
        if (!is_usual(header, frame))
            break;
        write_usual(ring, header, frame, record);
        if (whole)
            write_whole(header, record);
        if (record->length > receiver->packet_limit)
            break;
        at += step;
        if (!mcast_index_wants(&receiver->index, record) || mcast_is_own(own, record)) {
            filtered++;
            continue;
        }
        base = base ? base : frame + skipped;
        record->offset = (uint32_t)(frame + skipped - base);
        bytes += record->length;
        record++;
    }
    size_t count = (size_t)(record - first);
    if (count > 0) {
        batch->base = base;
        batch->end = batch->base + record[-1].offset + record[-1].length;
        batch->records.used += count * sizeof *record;
        batch->buffers += count;
    }
    if (left < ring->left) {
        ring->left = left;
        ring->at = at;
    }
    receiver->counters.received += count;
    receiver->counters.buffers += count;
    receiver->counters.bytes += bytes;
    receiver->counters.filtered += filtered;
}

/* Reads the block at the cursor until its end, or until the batch is full. 0, MUST_COPY, or -1 without memory. */
static int
pack_block(mcast_receiver *receiver, mcast_ring *ring, mcast_batch *batch, size_t limit)
{
    while (ring->left > 0 && mcast_batch_has_room(receiver, batch, limit)) {
        if (reserve(receiver, ring, batch, limit, receiver->slot_size) != 0)
            return -1;
        pack_usual(receiver, ring, batch, limit);
        if (ring->left == 0 || !mcast_batch_has_room(receiver, batch, limit))
            return 0;
        mcast_ring_frame frame;
        if (!mcast_ring_read(ring, &frame)) { /* nothing that follows can be found */
            receiver->counters.filtered += ring->left;
            ring->left = 0;
            return 0;
        }
        fetch(ring->block + ring->at + frame.step * PREFETCH);
        int status = ring->delivers == MCAST_DELIVERS_FRAMES ? pack_whole(receiver, ring, batch, limit, &frame)
                                                             : pack_frame(receiver, ring, batch, limit, &frame);
        if (status != 1)
            return status;
        mcast_ring_pass(ring, &frame);
    }
    return 0;
}

/* Whether the batch, which holds that many blocks, goes on with the next one. */
static int
goes_on(const mcast_receiver *receiver, const mcast_ring *ring, const mcast_batch *batch, size_t limit, uint32_t held)
{
    if (!mcast_batch_has_room(receiver, batch, limit))
        return 0;
    return batch->copying || held == 0 || (held < ring->span && ring->sequence % ring->count != 0);
}

/* Gives the batch a reference to the blocks that it holds, from `first` on. */
static void
refer(ring_source *source, mcast_batch *batch, uint64_t first, uint32_t held)
{
    mcast_ring *ring = source->ring;
    batch->reference = source->spare;
    source->spare = NULL;
    mcast_ring_refer(ring, batch->reference, first, held, batch->base, (size_t)(batch->end - batch->base));
}

static mcast_result
read_ring(mcast_source *source, mcast_receiver *receiver, mcast_batch *batch, size_t limit)
{
    ring_source *self = (ring_source *)source;
    mcast_ring *ring = self->ring;
    if (batch->reference || (mcast_batch_count(batch) > 0 && !batch->copying))
        return mcast_result_of(MCAST_OK);
    if (!self->spare && !(self->spare = mcast_reference_new()))
        return mcast_failure(ENOMEM);
    if (mcast_batch_count(batch) == 0)
        batch->epoch = receiver->epoch;
    mcast_ring_make_room(ring, 1, 1);
    uint64_t first = 0; /* the number of the first block that the batch holds */
    uint32_t held = 0;
    int status = 0;
    batch->copying |= batch->copies;
    for (int blocks = 0; status == 0 && goes_on(receiver, ring, batch, limit, held); blocks++) {
        if ((blocks >= BLOCKS_ONE_GO && mcast_batch_count(batch) == 0) || !mcast_ring_take(ring))
            break;
        int sparse = mcast_ring_is_sparse(ring);
        if (mcast_batch_count(batch) > 0 && !batch->copies && sparse != batch->copying)
            break; /* the next batch begins with this block */
        batch->copying = batch->copies || sparse;
        status = pack_block(receiver, ring, batch, limit);
        if (status == MUST_COPY && mcast_batch_count(batch) == 0) {
            batch->copying = 1;
            status = pack_block(receiver, ring, batch, limit);
        }
        if (!batch->copying && mcast_batch_count(batch) > 0) {
            mcast_ring_hold(ring);
            first = held++ ? first : ring->sequence - 1;
        }
        if (ring->left == 0)
            mcast_ring_finish_block(ring);
    }
    if (held > 0)
        refer(self, batch, first, held);
    mcast_ring_make_room(ring, 1, held > 0); /* the receiver may be busy elsewhere while the kernel fills the ring */
    if (status < 0 && mcast_batch_count(batch) == 0)
        return mcast_failure(ENOMEM);
    return mcast_result_of(mcast_ring_has_more(ring) ? MCAST_OK : MCAST_EMPTY);
}

/* ---- the rest of a source ---- */

static int
ring_has_more(const mcast_source *source)
{
    return mcast_ring_has_more(((const ring_source *)source)->ring);
}

/* For how long the blocks of a dense stream may pile up: until the first packet is as old as the latency allows, and within a sixteenth of
 * the ring. 0 for any other stream. */
static int64_t
ring_nap(mcast_source *source)
{
    mcast_ring *ring = ((ring_source *)source)->ring;
    int64_t longest = ring->latency < NAP_NS ? ring->latency : NAP_NS, filling = ring->filling;
    int64_t bound = filling * ring->count / 16;
    ring->filling = 0;
    if (filling == 0 || filling >= longest)
        return 0;
    return bound < longest - filling ? bound : longest - filling;
}

static void
count_ring(mcast_source *source, mcast_counters *counters)
{
    mcast_ring *ring = ((ring_source *)source)->ring;
    mcast_word_add(&ring->unplaced, mcast_ring_read_drops(ring));
    counters->dropped_ring += __atomic_load_n(&ring->drops, __ATOMIC_RELAXED);
    counters->detached += __atomic_load_n(&ring->detached, __ATOMIC_RELAXED);
}

/* What the ring holds unread is not wanted any more. */
static void
remove_ring(mcast_source *source, mcast_receiver *receiver)
{
    ring_source *self = (ring_source *)source;
    mcast_poller_remove(&receiver->poller, self->ring->fd);
    for (mcast_source **at = &receiver->direct; *at; at = &(*at)->next)
        if (*at == source) {
            *at = source->next;
            break;
        }
    if (!mcast_life_is_closed(&receiver->life))
        receiver->counters.filtered += mcast_ring_unread(self->ring);
    count_ring(source, &receiver->counters);
    if (self->spare)
        mcast_reference_discard(self->spare);
    mcast_ring_close(self->ring);
    free(self);
}

static void
abandon_ring(mcast_source *source)
{
    mcast_ring_close(((ring_source *)source)->ring);
}

static const mcast_source_ops ring_ops = {read_ring, ring_has_more, ring_nap, count_ring, remove_ring, abandon_ring};

/* Has the poller report each block once, for one that is held shows as readable. 0, or -errno. */
static int
watch(const mcast_receiver *receiver, const mcast_ring *ring, uint64_t key)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data = {.u64 = key}};
    return epoll_ctl(receiver->poller.epoll, EPOLL_CTL_ADD, ring->fd, &event) == 0 ? 0 : -errno;
}

int
mcast_ring_source_open(mcast_source **source, mcast_receiver *receiver, int fd, uint32_t interface_index,
                       size_t block_size, uint32_t count, unsigned latency_ms, int times, int delivers, uint64_t key)
{
    ring_source *self = calloc(1, sizeof *self);
    if (!self)
        return -ENOMEM;
    self->source.ops = &ring_ops;
    int status = mcast_ring_open(&self->ring, fd, receiver->poller.wake, interface_index, block_size, count, latency_ms,
                                 times, delivers);
    if (status == 0 && (status = watch(receiver, self->ring, key)) != 0)
        mcast_ring_close(self->ring);
    if (status != 0) {
        free(self);
        return status;
    }
    self->source.next = receiver->direct;
    receiver->direct = &self->source;
    mcast_flag_set(&receiver->has_rings);
    *source = &self->source;
    return 0;
}

#else

int
mcast_ring_source_open(mcast_source **source, mcast_receiver *receiver, int fd, uint32_t interface_index,
                       size_t block_size, uint32_t count, unsigned latency_ms, int times, int delivers, uint64_t key)
{
    (void)source, (void)receiver, (void)fd, (void)interface_index, (void)block_size, (void)count, (void)latency_ms;
    (void)times, (void)delivers, (void)key;
    return -ENOSYS;
}

#endif
