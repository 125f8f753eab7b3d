/* Runs of usual packets in pcapng: blocks without options, in this machine's byte order, each with a UDP datagram, captured whole, in Ethernet and
 * IPv4 without tags, options or fragments. What is not that simple ends a run with nothing changed, and is read by capture_read.h.
 *
 * What does not differ between the packets of a run is looked up once, and what changes with each is kept in registers. The checks of a frame
 * are those of frames.h. */
#ifndef MCAST_CAPTURE_USUAL_H
#define MCAST_CAPTURE_USUAL_H

#include "ahead.h"
#include "capture.h"

enum { MCAST_USUAL_HEADERS = 14 + 20 + 8, MCAST_USUAL_BLOCK = 28 + MCAST_USUAL_HEADERS + 4 };

/* What the packets of a run have in common. */
typedef struct mcast_usual_run {
    const mcast_interface *device;
    uint32_t number; /* of the interface in this section */
    uint32_t interface_at;
    int is_in_ns;       /* the device's times, since the epoch */
    int64_t start, end; /* as of the decoder */
} mcast_usual_run;

/* A packet of it. */
typedef struct mcast_usual {
    const unsigned char *ip;
    int64_t timestamp;
    uint32_t block;  /* its bytes */
    uint16_t length; /* of the payload */
} mcast_usual;

/* Whether a run may begin with the block that is there. */
static inline int
mcast_usual_begin(const mcast_decoder *decoder, const unsigned char *block, size_t left, mcast_usual_run *run)
{
    uint32_t number;
    if (decoder->swapped || left < MCAST_USUAL_BLOCK)
        return 0;
    memcpy(&number, block + 8, sizeof number);
    if (number >= decoder->described - decoder->section)
        return 0;
    const mcast_interface *device = &decoder->interfaces[decoder->section + number];
    *run = (mcast_usual_run){.device = device,
                             .number = number,
                             .interface_at = decoder->section + number,
                             .is_in_ns = device->resolution == 9 && device->time_offset == 0,
                             .start = decoder->start,
                             .end = decoder->end};
    return device->link_type == MCAST_LINK_ETHERNET && device->pending_drops == 0;
}

/* Whether the block is a usual packet of the run's interface. */
static MCAST_ALWAYS int
mcast_usual_read(const mcast_usual_run *run, const unsigned char *block, size_t left, mcast_usual *usual)
{
    uint32_t head[7], again; /* type, length, interface, time, bytes captured and sent */
    if (left < MCAST_USUAL_BLOCK)
        return 0;
    memcpy(head, block, sizeof head);
    const uint32_t size = head[5], most = UINT16_MAX - MCAST_USUAL_HEADERS;
    if (((head[0] ^ MCAST_BLOCK_PACKET) | (head[2] ^ run->number) | (size ^ head[6])) != 0 ||
        size - MCAST_USUAL_HEADERS > most || head[1] != 32 + ((size + 3) & ~3u) || head[1] > left)
        return 0;
    memcpy(&again, block + head[1] - 4, sizeof again);
    const unsigned char *ip = block + 28 + 14, *udp = ip + 20;
    uint32_t total = mcast_big16(ip + 2), length = mcast_big16(udp + 4);
    if (again != head[1] || mcast_big16(ip - 2) != MCAST_ETHER_IPV4 || ip[0] != 0x45 || ip[9] != MCAST_PROTOCOL_UDP ||
        mcast_big16(ip + 6) & 0x3fff || total < 28 || total > size - 14 || length < 8 || length > total - 20)
        return 0;
    uint64_t ticks = (uint64_t)head[3] << 32 | head[4];
    usual->ip = ip;
    usual->timestamp =
        run->is_in_ns && ticks <= INT64_MAX / 2 ? (int64_t)ticks : mcast_interface_time(run->device, ticks);
    usual->block = head[1];
    usual->length = (uint16_t)(length - 8);
    return 1;
}

/* The record of a packet, but for its place in the arena. */
static MCAST_ALWAYS void
mcast_usual_record(const mcast_usual_run *run, const mcast_usual *usual, mcast_record *record)
{
    const unsigned char *ip = usual->ip, *udp = ip + 20;
    uint16_t flags = (uint16_t)((MCAST_TTL | MCAST_TOS) & ~run->device->unknown);
    mcast_record_clear(record);
    record->timestamp = usual->timestamp;
    record->interface_index = run->interface_at + 1;
    record->length = record->wire_length = usual->length;
    record->source_port = mcast_big16(udp);
    record->port = mcast_big16(udp + 2);
    record->flags = flags;
    if (flags & MCAST_TTL)
        record->ttl = ip[8];
    if (flags & MCAST_TOS)
        record->tos = ip[1];
    mcast_map_v4(record->source, ip + 12);
    mcast_map_v4(record->group, ip + 16);
}

/* As records -------------------------------------------------------------------------------------------------------- */

/* Packets of a run to the batch, until it has `limit`; bytes of their blocks. */
static size_t MCAST_SELDOM
mcast_usual_deliver(mcast_decoder *decoder, const mcast_usual_run *run, const unsigned char *bytes, size_t size,
                    size_t limit)
{
    /* Copies, stored again at the end: for all that the compiler knows, a payload's bytes may be written over the decoder. */
    mcast_memory records = decoder->records, data = decoder->data;
    const int takes_all = !decoder->filtered && !decoder->multicast_only;
    const int takes_multicast = !decoder->filtered && decoder->multicast_only;
    const size_t first = records.used, begun = data.used;
    const size_t last = limit < SIZE_MAX / sizeof(mcast_record) ? limit * sizeof(mcast_record) : SIZE_MAX;
    size_t at = 0;
    uint64_t filtered = 0;
    mcast_usual usual;
    while (records.used < last && data.used <= UINT32_MAX - UINT16_MAX &&
           mcast_usual_read(run, bytes + at, size - at, &usual)) {
        if (!records.bytes || records.capacity - records.used < sizeof(mcast_record) || !data.bytes ||
            data.capacity - data.used < usual.length) {
            decoder->records.used = records.used;
            decoder->data.used = data.used;
            if (mcast_memory_reserve(decoder->pool, &decoder->records, sizeof(mcast_record)) != 0 ||
                mcast_memory_reserve(decoder->pool, &decoder->data, usual.length) != 0)
                break;
            records = decoder->records;
            data = decoder->data;
        }
        mcast_record *record = (mcast_record *)(void *)(records.bytes + records.used);
        at += usual.block;
        mcast_usual_record(run, &usual, record);
        int is_wanted = takes_all || (takes_multicast && (usual.ip[16] & 0xf0) == 0xe0) ||
                        (decoder->filtered && mcast_decoder_wants(decoder, record, run->device->name));
        if (!is_wanted || !mcast_is_inside(usual.timestamp, run->start, run->end)) {
            filtered++;
            continue;
        }
        record->offset = (uint32_t)data.used;
        memcpy(data.bytes + data.used, usual.ip + 28, usual.length);
        records.used += sizeof(mcast_record);
        data.used += usual.length;
    }
    uint64_t received = (records.used - first) / sizeof(mcast_record);
    decoder->records.used = records.used;
    decoder->data.used = data.used;
    decoder->counters.frames += received + filtered;
    decoder->counters.filtered += filtered;
    decoder->counters.received += received;
    decoder->counters.bytes += data.used - begun;
    return at;
}

/* Counted ----------------------------------------------------------------------------------------------------------- */

/* Has all flows looked up again: another summary may count from now on, or this one has moved them. */
static inline void
mcast_usual_forget(mcast_decoder *decoder)
{
    memset(decoder->known_flows, 0, sizeof decoder->known_flows);
    decoder->known_fits = decoder->summary->fits;
}

/* The flow of a packet that none of `known` is for; NULL where it is not wanted. */
static mcast_counted *MCAST_SELDOM
mcast_usual_find(mcast_decoder *decoder, const mcast_usual_run *run, const mcast_usual *usual, mcast_usual_flow *known)
{
    mcast_summary *summary = decoder->summary;
    mcast_record record;
    mcast_usual_record(run, usual, &record);
    if (!mcast_decoder_wants(decoder, &record, run->device->name))
        return NULL;
    mcast_counted *flow = mcast_summary_flow(summary, &record);
    if (decoder->known_fits != summary->fits)
        mcast_usual_forget(decoder);
    if (flow != &summary->others) {
        memcpy(&known->addresses, usual->ip + 12, sizeof known->addresses);
        memcpy(&known->port, usual->ip + 22, sizeof known->port);
        known->interface_index = run->interface_at + 1;
        known->place = (uint32_t)(flow - summary->flows);
    }
    return flow;
}

/* Counts packets of a run in the summary; bytes of their blocks. */
static size_t MCAST_SELDOM
mcast_usual_count(mcast_decoder *decoder, const mcast_usual_run *run, const unsigned char *bytes, size_t size)
{
    mcast_summary *summary = decoder->summary;
    uint64_t filtered = 0, received = 0, sum = 0;
    size_t at = 0;
    mcast_usual usual;
    if (decoder->known_fits != summary->fits)
        mcast_usual_forget(decoder);
    while (mcast_usual_read(run, bytes + at, size - at, &usual)) {
        uint64_t addresses;
        uint16_t port;
        memcpy(&addresses, usual.ip + 12, sizeof addresses);
        memcpy(&port, usual.ip + 22, sizeof port);
        uint64_t mixed = addresses * 0x9e3779b97f4a7c15u + port * 0xd6e8feb86659fd93u;
        mcast_usual_flow *known = &decoder->known_flows[mixed >> 58];
        mcast_counted *flow =
            known->addresses == addresses && known->port == port && known->interface_index == run->interface_at + 1
                ? &summary->flows[known->place]
                : NULL;
        at += usual.block;
        if (!mcast_is_inside(usual.timestamp, run->start, run->end) ||
            (!flow && !(flow = mcast_usual_find(decoder, run, &usual, known)))) {
            filtered++;
            continue;
        }
        mcast_counted_packet(flow, usual.timestamp, usual.length, usual.length);
        received++;
        sum += usual.length;
    }
    decoder->counters.frames += received + filtered;
    decoder->counters.filtered += filtered;
    decoder->counters.received += received;
    decoder->counters.bytes += sum;
    return at;
}

/* Bytes of the usual packets at the beginning of `bytes`, which are in the batch or counted then; 0: the block there is none of them. */
static inline size_t
mcast_decode_usual(mcast_decoder *decoder, const unsigned char *bytes, size_t size, size_t limit)
{
    mcast_usual_run run;
    if (!mcast_usual_begin(decoder, bytes, size, &run))
        return 0;
    return decoder->summary ? mcast_usual_count(decoder, &run, bytes, size)
                            : mcast_usual_deliver(decoder, &run, bytes, size, limit);
}

#endif
