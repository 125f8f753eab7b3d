/* What is known of a capture file while it is read, and how its packets become records; capture_read.h reads the blocks. */
#ifndef MCAST_CAPTURE_H
#define MCAST_CAPTURE_H

#include "filter.h"
#include "frames.h"
#include "memory.h"
#include "reassembly.h"
#include "skipped.h"
#include "summary.h"

enum {
    MCAST_BLOCK_INTERFACE = 1,
    MCAST_BLOCK_OBSOLETE_PACKET = 2,
    MCAST_BLOCK_SIMPLE_PACKET = 3,
    MCAST_BLOCK_STATISTICS = 5,
    MCAST_BLOCK_PACKET = 6,
    MCAST_BLOCK_SECTION = 0x0a0d0d0a, /* reads the same in both byte orders */
};

enum {
    MCAST_COMMENT = 1,
    MCAST_IF_NAME = 2,
    MCAST_IF_TSRESOL = 9,
    MCAST_IF_TSOFFSET = 14,
    MCAST_EPB_DROPCOUNT = 4,
    MCAST_ISB_IFRECV = 4,
    MCAST_ISB_IFDROP = 5,
    MCAST_ISB_OSDROP = 7,
    MCAST_ISB_USRDELIV = 8,
};

enum {
    MCAST_BYTE_ORDER = 0x1a2b3c4d,
    MCAST_PCAP_HEADER = 24,
    MCAST_SMALLEST_BLOCK = 12,
    MCAST_LARGEST_FRAME = 16 << 20,
    MCAST_LARGEST_BLOCK = (16 << 20) + 4096,
    MCAST_MOST_INTERFACES = 65536,
    MCAST_LONGEST_NAME = 127,
    MCAST_ANY_NAME = 0, /* `name` of an interface: how the filter numbers it */
};

/* What mcast_decode answers. */
enum {
    MCAST_DECODE_MORE,      /* no whole block is left: `needed` bytes hold the next one, as far as it is known */
    MCAST_DECODE_FULL,      /* the batch is as large as it may be */
    MCAST_DECODE_INTERFACE, /* the file described one more interface: look at it, and go on */
    MCAST_DECODE_WRONG,     /* the block at *used cannot be read: `failure`, `value`, `other` */
    MCAST_DECODE_MEMORY,
};

/* What can be wrong; blocks.py has the words, in this order. */
enum {
    MCAST_WRONG_MAGIC = 1,
    MCAST_WRONG_ORDER,
    MCAST_WRONG_VERSION,
    MCAST_WRONG_LENGTH,
    MCAST_WRONG_TRAILER,
    MCAST_WRONG_CAPTURED,
    MCAST_WRONG_INTERFACE,
    MCAST_WRONG_OPTION,
    MCAST_WRONG_INTERFACES,
    MCAST_WRONG_END,
    MCAST_WRONG_FRAME,
};

/* A kind of classic pcap: ns a tick of its times (as if_tsresol would say it), bytes of a packet's header. */
typedef struct mcast_pcap_kind {
    uint32_t magic;
    uint8_t resolution;
    uint8_t header;
} mcast_pcap_kind;

static const mcast_pcap_kind mcast_pcap_kinds[] = {
    {0xa1b2c3d4, 6, 16},
    {0xa1b23c4d, 9, 16},
    {0xa1b2cd34, 6, 24}, /* Kuznetzov's, of old Red Hat systems */
};

/* How the two lengths of a packet stand in classic pcap: files of before version 2.3 had them in the other order, and those of 2.3 either way. */
enum { MCAST_LENGTHS_PLAIN, MCAST_LENGTHS_EITHER, MCAST_LENGTHS_SWAPPED };

static const uint64_t mcast_unknown = UINT64_MAX;

/* The comment of an interface whose packets have synthetic headers, and what follows where the TTL or TOS in them is not that of the packet;
 * blocks.py has the same. */
static const char mcast_synthetic[] = "mcast-fast: synthetic headers";

/* The comment of a packet with MCAST_COALESCED; blocks.py has the same. */
static const char mcast_shared_time[] = "mcast-fast: shared time";
enum { MCAST_SHARED_TIME_SIZE = sizeof mcast_shared_time - 1 };

static const struct {
    char text[32];
    uint16_t flags;
} mcast_unknown_headers[] = {
    {"; TTL unknown", MCAST_TTL},
    {"; TOS unknown", MCAST_TOS},
    {"; TTL unknown; TOS unknown", MCAST_TTL | MCAST_TOS},
};

typedef struct mcast_interface {
    int64_t time_offset; /* seconds */
    uint32_t link_type;
    uint32_t snaplen;       /* 0 = no limit */
    uint32_t pending_drops; /* reported with packets that were not delivered: they belong to the next record */
    uint32_t name;          /* the filter's number for it */
    uint16_t unknown;       /* flags that its records do not have: the headers are synthetic */
    uint8_t synthetic;
    uint8_t resolution;
    uint8_t text_length;
    char text[MCAST_LONGEST_NAME];
    uint64_t received, dropped, dropped_system, delivered; /* of the latest statistics block, or mcast_unknown */
} mcast_interface;

typedef struct mcast_decode_counters {
    uint64_t frames;
    uint64_t received;
    uint64_t bytes;
    uint64_t truncated;
    uint64_t filtered;
    uint64_t fragments;
    uint64_t skipped;
    uint64_t broken;
    uint64_t dropped; /* as the file reports */
    uint64_t batches;
    uint64_t reassembled;
} mcast_decode_counters;

/* A flow that was counted lately, as its packets have it; port 0 and interface 0: none. */
typedef struct mcast_usual_flow {
    uint64_t addresses; /* source and group, as four bytes each */
    uint32_t interface_index;
    uint32_t place; /* in the flows of the summary */
    uint16_t port;
} mcast_usual_flow;

enum { MCAST_KNOWN_FLOWS = 64 };

typedef struct mcast_decoder {
    mcast_pool *pool;
    mcast_memory records; /* of the batch at work */
    mcast_memory data;
    size_t expected_records; /* bytes of the batch before: the next one is mostly as large */
    size_t expected_data;
    mcast_interface *interfaces;
    uint32_t described; /* interfaces, of all sections */
    uint32_t room;
    uint32_t section; /* the first interface of this section */
    int swapped;
    const mcast_pcap_kind *pcap; /* NULL: pcapng, or not known yet */
    int known;                   /* the format */
    int lengths;
    int multicast_only;
    int64_t start;      /* only packets from this time on, in ns */
    int64_t end;        /* and before this one; INT64_MAX: of any later time */
    int filtered;       /* by `filter`, whose entries have (port << 16 | name) for an interface */
    unsigned key_kinds; /* bits of MCAST_KEY_*: which of them the filter holds */
    mcast_filter filter;
    mcast_record latest;  /* the last one that the filter let pass: most packets are like it */
    uint32_t latest_name; /* MCAST_ANY_NAME: none yet */
    mcast_reassembly reassembly;
    mcast_decode_counters counters;
    mcast_skipped_list skipped;
    mcast_summary *summary;                          /* what counts the packets instead of a batch; NULL: none */
    mcast_usual_flow known_flows[MCAST_KNOWN_FLOWS]; /* wanted ones, by a part of their names */
    uint64_t known_fits;                             /* the summary's, when they were at these places */
    uint64_t needed;
    int failure;
    uint64_t value, other;
} mcast_decoder;

/* What an entry of the filter leaves open: bit 0 any interface, bit 1 any port. */
enum { MCAST_KEY_KINDS = 4 };

/* Numbers in the byte order of the file ----------------------------------------------------------------------------- */

static inline uint16_t
mcast_file16(const mcast_decoder *decoder, const unsigned char *at)
{
    uint16_t value;
    memcpy(&value, at, sizeof value);
    return decoder->swapped ? (uint16_t)(value << 8 | value >> 8) : value;
}

static inline uint32_t
mcast_swapped32(uint32_t value)
{
    return value << 24 | (value & 0xff00) << 8 | (value >> 8 & 0xff00) | value >> 24;
}

static inline uint32_t
mcast_file32(const mcast_decoder *decoder, const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return decoder->swapped ? mcast_swapped32(value) : value;
}

static inline uint64_t
mcast_file64(const mcast_decoder *decoder, const unsigned char *at)
{
    uint64_t value;
    memcpy(&value, at, sizeof value);
    if (decoder->swapped)
        return (uint64_t)mcast_swapped32((uint32_t)value) << 32 | mcast_swapped32((uint32_t)(value >> 32));
    return value;
}

/* A time in two halves, the higher one first in either byte order. */
static inline uint64_t
mcast_file_time(const mcast_decoder *decoder, const unsigned char *at)
{
    return (uint64_t)mcast_file32(decoder, at) << 32 | mcast_file32(decoder, at + 4);
}

static inline int
mcast_wrong(mcast_decoder *decoder, int failure, uint64_t value, uint64_t other)
{
    decoder->needed = 0;
    decoder->failure = failure;
    decoder->value = value;
    decoder->other = other;
    return MCAST_DECODE_WRONG;
}

/* Times ------------------------------------------------------------------------------------------------------------- */

static inline uint64_t
mcast_power_of_ten(unsigned exponent)
{
    uint64_t power = 1;
    while (exponent-- > 0)
        power *= 10;
    return power;
}

/* Ticks of 10^-digits s as whole seconds and ns, rounded down. 10^19 is the largest power that 64 bits hold. */
static inline uint64_t
mcast_decimal_time(uint64_t ticks, unsigned digits, uint64_t *nanoseconds)
{
    uint64_t seconds = 0, rest = ticks;
    if (digits <= 19) {
        uint64_t units = mcast_power_of_ten(digits);
        seconds = ticks / units;
        rest = ticks % units;
    }
    if (digits <= 9)
        *nanoseconds = rest * mcast_power_of_ten(9 - digits);
    else
        *nanoseconds = digits <= 28 ? rest / mcast_power_of_ten(digits - 9) : 0;
    return seconds;
}

/* Ticks of 2^-bits s. The fraction times 10^9 has up to 94 bits, so it is multiplied in two halves. */
static inline uint64_t
mcast_binary_time(uint64_t ticks, unsigned bits, uint64_t *nanoseconds)
{
    uint64_t seconds = bits < 64 ? ticks >> bits : 0;
    uint64_t rest = bits < 64 ? ticks & (((uint64_t)1 << bits) - 1) : ticks;
    uint64_t low = (rest & 0xffffffff) * 1000000000, high = (rest >> 32) * 1000000000 + (low >> 32);
    if (bits < 32)
        *nanoseconds = low >> bits;
    else
        *nanoseconds = bits < 96 ? high >> (bits - 32) : 0;
    return seconds;
}

/* ns since the epoch; 0 (none) for what 64 bits of them do not hold. */
static inline int64_t
mcast_interface_time(const mcast_interface *device, uint64_t ticks)
{
    if (device->resolution == 9 && device->time_offset == 0 && ticks <= INT64_MAX / 2)
        return (int64_t)ticks;
    uint64_t nanoseconds;
    unsigned power = device->resolution & 0x7f;
    uint64_t seconds = device->resolution & 0x80 ? mcast_binary_time(ticks, power, &nanoseconds)
                                                 : mcast_decimal_time(ticks, power, &nanoseconds);
    const int64_t most = (int64_t)1 << 62;
    if (seconds > (uint64_t)most || device->time_offset > most || device->time_offset < -most)
        return 0;
    int64_t since_epoch = (int64_t)seconds + device->time_offset;
    if (since_epoch > 9223372036 || since_epoch < -9223372036)
        return 0;
    if (since_epoch == 9223372036 && nanoseconds > 854775807)
        return 0;
    return since_epoch * 1000000000 + (int64_t)nanoseconds;
}

/* Packets ----------------------------------------------------------------------------------------------------------- */

/* Whether the group, port, interface and source are wanted. */
static inline int
mcast_decoder_wants(mcast_decoder *decoder, const mcast_record *record, uint32_t name)
{
    const size_t first = offsetof(mcast_record, source), size = offsetof(mcast_record, flags) - first;
    if (!decoder->filtered)
        return !decoder->multicast_only || mcast_is_multicast(record->group);
    if (decoder->latest_name == name && memcmp((char *)&decoder->latest + first, (char *)record + first, size) == 0)
        return 1;
    for (unsigned open = 0; open < MCAST_KEY_KINDS; open++) {
        if (!(decoder->key_kinds >> open & 1))
            continue;
        uint32_t port = open & 2 ? 0 : record->port;
        uint32_t key = port << 16 | (open & 1 ? MCAST_ANY_NAME : name);
        const mcast_entry *entry = mcast_filter_place(&decoder->filter, record->group, key);
        if (entry->exclude != MCAST_UNUSED && mcast_entry_allows(&decoder->filter, entry, record->source)) {
            mcast_record_copy(&decoder->latest, record);
            decoder->latest_name = name;
            return 1;
        }
    }
    return 0;
}

/* Where the next record will be: a record is made in its place, for copying what was just written in small parts waits for all of
 * them. NULL without memory. */
static inline mcast_record *
mcast_decoder_next(mcast_decoder *decoder)
{
    if (mcast_memory_reserve(decoder->pool, &decoder->records, sizeof(mcast_record)) != 0)
        return NULL;
    return (mcast_record *)(void *)(decoder->records.bytes + decoder->records.used);
}

/* Reserves memory for a payload; called before anything is counted, so that a block for which there is no memory can be read once
 * more. */
static inline int
mcast_decoder_reserve(mcast_decoder *decoder, size_t size)
{
    return decoder->summary
               ? 0
               : mcast_memory_reserve(decoder->pool, &decoder->data, size < UINT16_MAX ? size : UINT16_MAX);
}

static inline void
mcast_decoder_deliver(mcast_decoder *decoder, mcast_record *record, const unsigned char *payload)
{
    if (decoder->summary) {
        mcast_summary_add(decoder->summary, record);
    } else {
        void *place = decoder->records.bytes + decoder->records.used;
        record->offset = (uint32_t)decoder->data.used;
        if (record != place)
            memcpy(place, record, sizeof *record);
        memcpy(decoder->data.bytes + decoder->data.used, payload, record->length);
        decoder->records.used += sizeof *record;
        decoder->data.used += record->length;
    }
    decoder->counters.received++;
    decoder->counters.bytes += record->length;
    decoder->counters.truncated += record->flags & MCAST_TRUNCATED;
}

/* A packet as its block describes it. */
typedef struct mcast_captured {
    uint32_t interface_at; /* in `interfaces` */
    uint64_t dropped;
    int64_t timestamp;
    const unsigned char *frame;
    size_t size;
    size_t wire;
    uint16_t flags; /* of the record, beside those that its headers give it */
} mcast_captured;

/* Whether a time is one of those that are wanted: from `start` on, and before `end`, which INT64_MAX says there is none of. A packet without a
 * time (0) is wanted only where all are. */
static inline int
mcast_is_inside(int64_t timestamp, int64_t start, int64_t end)
{
    return timestamp >= start && (timestamp < end || end == INT64_MAX) &&
           (timestamp || (start == INT64_MIN && end == INT64_MAX));
}

static inline int
mcast_decoder_is_inside(const mcast_decoder *decoder, const mcast_captured *captured)
{
    return mcast_is_inside(captured->timestamp, decoder->start, decoder->end);
}

/* Delivers what is wanted. */
static inline void
mcast_decoder_pass(mcast_decoder *decoder, const mcast_captured *captured, mcast_record *record,
                   const unsigned char *payload)
{
    mcast_interface *device = &decoder->interfaces[captured->interface_at];
    record->timestamp = captured->timestamp;
    record->interface_index = captured->interface_at + 1;
    record->flags = (uint16_t)((record->flags & ~device->unknown) | captured->flags);
    record->ttl = record->flags & MCAST_TTL ? record->ttl : 0;
    record->tos = record->flags & MCAST_TOS ? record->tos : 0;
    record->dropped = device->pending_drops;
    mcast_decoder_deliver(decoder, record, payload);
    device->pending_drops = 0;
}

/* The datagram whose last missing piece has come, as one packet: as far as its lengths agree. */
static inline void
mcast_decoder_assembled(mcast_decoder *decoder, const mcast_captured *captured, mcast_assembly *whole)
{
    mcast_record record = whole->record;
    mcast_rest rest = {whole->bytes, whole->size, whole->size};
    whole->version = 0;
    if (mcast_frame_udp(&rest, &record) != MCAST_FRAME_UDP ||
        !mcast_decoder_wants(decoder, &record, decoder->interfaces[captured->interface_at].name))
        return;
    decoder->counters.fragments--;
    if (!mcast_decoder_is_inside(decoder, captured)) {
        decoder->counters.filtered++;
        return;
    }
    decoder->counters.reassembled++;
    mcast_decoder_pass(decoder, captured, &record, rest.at);
}

/* A piece of a datagram. The first one counts for all; what of it is delivered in the end is not counted as fragments any more. */
static inline int
mcast_decoder_piece(mcast_decoder *decoder, const mcast_captured *captured, mcast_record *record,
                    const unsigned char *piece, const mcast_fragment *fragment)
{
    int is_first = fragment->offset == 0;
    if (is_first && fragment->size >= 4)
        record->port = mcast_big16(piece + 2); /* it has the UDP header */
    if (is_first ? !mcast_decoder_wants(decoder, record, decoder->interfaces[captured->interface_at].name)
                 : !decoder->filtered && decoder->multicast_only && !mcast_is_multicast(record->group)) {
        decoder->counters.filtered += (uint64_t)is_first;
        return MCAST_DECODE_MORE;
    }
    record->interface_index = captured->interface_at + 1;
    mcast_assembly *whole = mcast_assembly_of(&decoder->reassembly, record, fragment);
    int came = whole ? mcast_assembly_add(&decoder->reassembly, whole, fragment, piece) : MCAST_PIECE_REFUSED;
    if (is_first && came != MCAST_PIECE_KNOWN)
        decoder->counters.fragments++;
    if (came == MCAST_PIECE_LAST)
        mcast_decoder_assembled(decoder, captured, whole);
    return MCAST_DECODE_MORE;
}

/* Counts a packet, and delivers it when it is wanted. */
static inline int
mcast_decoder_take(mcast_decoder *decoder, const mcast_captured *captured)
{
    mcast_interface *device = &decoder->interfaces[captured->interface_at];
    mcast_record *record = mcast_decoder_next(decoder);
    if (!record)
        return MCAST_DECODE_MEMORY;
    const unsigned char *payload = captured->frame;
    mcast_fragment fragment = {0};
    int kind = mcast_frame_read_piece(captured->frame, captured->size, captured->wire, (int)device->link_type, record,
                                      &payload, &fragment);
    int is_piece = kind == MCAST_FRAME_FRAGMENT || kind == MCAST_FRAME_LATER;
    if (mcast_decoder_reserve(decoder, is_piece ? UINT16_MAX : captured->size) != 0)
        return MCAST_DECODE_MEMORY;
    uint64_t pending_drops = device->pending_drops + (captured->dropped < UINT32_MAX ? captured->dropped : UINT32_MAX);
    device->pending_drops = pending_drops < UINT32_MAX ? (uint32_t)pending_drops : UINT32_MAX;
    decoder->counters.frames++;
    uint64_t dropped = decoder->counters.dropped + captured->dropped;
    decoder->counters.dropped = dropped < captured->dropped ? UINT64_MAX : dropped;
    if (kind == MCAST_FRAME_OTHER) {
        decoder->counters.skipped++;
        mcast_skipped_count(&decoder->skipped, mcast_skipped_kind(captured->frame, captured->size, captured->wire,
                                                                  (int)device->link_type));
    }
    decoder->counters.broken += kind == MCAST_FRAME_BROKEN;
    if (is_piece)
        return mcast_decoder_piece(decoder, captured, record, payload, &fragment);
    if (kind != MCAST_FRAME_UDP)
        return MCAST_DECODE_MORE;
    if (mcast_decoder_is_inside(decoder, captured) && mcast_decoder_wants(decoder, record, device->name))
        mcast_decoder_pass(decoder, captured, record, payload);
    else
        decoder->counters.filtered++;
    return MCAST_DECODE_MORE;
}

/* Interfaces -------------------------------------------------------------------------------------------------------- */

/* One more interface, with nothing known of it but its link; NULL and *status when that cannot be. */
static inline mcast_interface *
mcast_decoder_describe(mcast_decoder *decoder, uint32_t link_type, int *status)
{
    if (decoder->described == MCAST_MOST_INTERFACES) {
        *status = mcast_wrong(decoder, MCAST_WRONG_INTERFACES, MCAST_MOST_INTERFACES, 0);
        return NULL;
    }
    if (decoder->described == decoder->room) {
        uint32_t room = decoder->room ? decoder->room * 2 : 4;
        mcast_interface *larger = realloc(decoder->interfaces, room * sizeof *larger);
        *status = MCAST_DECODE_MEMORY;
        if (!larger)
            return NULL;
        decoder->interfaces = larger;
        decoder->room = room;
    }
    mcast_interface *device = &decoder->interfaces[decoder->described];
    memset(device, 0, sizeof *device);
    device->link_type = link_type;
    device->resolution = 6;
    device->received = device->dropped = mcast_unknown;
    device->dropped_system = device->delivered = mcast_unknown;
    return device;
}

#endif
