/* Capture files, written: records and payloads as enhanced packet blocks of pcapng, or as packets of classic pcap.
 *
 * A payload that is a whole frame (MCAST_FRAME) is written as it is. Around any other one synthetic headers are put: Ethernet (unless the
 * file is of raw IP), IP and UDP with right checksums, which every tool reads. The next packet of the same flow mostly differs in lengths and
 * payload alone: the headers are kept, with their sums. */
#ifndef MCAST_CAPTURE_WRITE_H
#define MCAST_CAPTURE_WRITE_H

#include "checksum.h"
#include "record.h"
#include <stddef.h>

enum {
    MCAST_ETHERNET_HEADER = 14,
    MCAST_UDP_HEADER = 8,
    MCAST_LARGEST_HEADERS = 14 + 40 + 8,
    MCAST_PACKET_BLOCK = 28, /* before the frame */
    MCAST_OPTIONS_SIZE = 44, /* of a packet: epb_dropcount, the comment of a shared time, and the end of the options */
    MCAST_PCAP_PACKET = 16,
    MCAST_DEFAULT_TTL = 64,
    MCAST_ENCODED_AT_ONCE = 256 << 10, /* bytes */
    /* Above all that a packet takes in a file beyond its payload. */
    MCAST_PACKET_OVERHEAD = MCAST_PACKET_BLOCK + MCAST_LARGEST_HEADERS + 3 + MCAST_OPTIONS_SIZE + 4,
};

/* Why a packet cannot be written; blocks.py has the words, in this order. */
enum { MCAST_UNFIT_FAMILY = 1, MCAST_UNFIT_LENGTH, MCAST_UNFIT_LINK };

/* The headers of the latest flow. Lengths and checksums in them are 0; the sums are of what never changes. */
typedef struct mcast_flow {
    mcast_record record; /* whose source, group, ports, flags, TTL and TOS they show */
    unsigned char headers[MCAST_LARGEST_HEADERS];
    size_t size;  /* of all headers; 0 = no flow yet */
    int version;  /* 4 or 6 */
    uint64_t ip;  /* sum of the IPv4 header */
    uint64_t udp; /* sum of addresses, protocol and ports */
} mcast_flow;

typedef struct mcast_encoder {
    int pcap; /* classic, with ns; else pcapng */
    int raw;  /* raw IP, without a link's header; else Ethernet */
    mcast_flow flow;
    const uint64_t *keys; /* interface i of the file is that of keys[i]: mcast_interface_key */
    size_t interfaces;
    size_t latest;
    int unfit; /* why the packet at which encoding stopped cannot be written; 0 = its interface is not described yet */
} mcast_encoder;

/* The address that a group has on Ethernet: RFC 1112, 6.4 (23 bits of an IPv4 group), RFC 2464, 7 (32 bits of an IPv6 group); of a
 * unicast destination none is known, and a locally administered one is made of its last four bytes. */
static inline void
mcast_flow_ethernet(mcast_flow *flow)
{
    unsigned char *header = flow->headers;
    const uint8_t *group = flow->record.group, *source = flow->record.source;
    memset(header, 0, MCAST_ETHERNET_HEADER);
    header[0] = header[6] = 2;
    memcpy(header + 2, group + 12, 4);
    memcpy(header + 8, source + 12, 4);
    if (flow->version == 4 && (group[12] & 0xf0) == 0xe0) {
        header[0] = 1;
        header[2] = 0x5e;
        header[3] &= 0x7f;
    } else if (flow->version == 6 && group[0] == 0xff) {
        header[0] = header[1] = 0x33;
    }
    mcast_put16(header + 12, flow->version == 4 ? 0x0800 : 0x86dd);
}

static inline void
mcast_flow_ipv4(mcast_flow *flow, unsigned char *header, uint8_t ttl, uint8_t tos)
{
    memset(header, 0, 20);
    header[0] = 0x45;
    header[1] = tos;
    header[8] = ttl;
    header[9] = 17;
    memcpy(header + 12, flow->record.source + 12, 4);
    memcpy(header + 16, flow->record.group + 12, 4);
    flow->ip = mcast_sum(0, header, 20);
    flow->udp = mcast_sum(0, header + 12, 8);
}

static inline void
mcast_flow_ipv6(mcast_flow *flow, unsigned char *header, uint8_t ttl, uint8_t tos)
{
    memset(header, 0, 8);
    header[0] = (unsigned char)(0x60 | tos >> 4);
    header[1] = (unsigned char)(tos << 4);
    header[6] = 17;
    header[7] = ttl;
    memcpy(header + 8, flow->record.source, 16);
    memcpy(header + 24, flow->record.group, 16);
    flow->udp = mcast_sum(0, header + 8, 32);
}

/* Makes the headers for the packets that are like this one; 0, or why that cannot be. */
static inline int
mcast_flow_start(mcast_flow *flow, const mcast_record *record)
{
    int v4 = memcmp(record->group, mcast_v4_prefix, 12) == 0;
    flow->size = 0;
    if (v4 != (memcmp(record->source, mcast_v4_prefix, 12) == 0))
        return MCAST_UNFIT_FAMILY;
    flow->record = *record;
    flow->version = v4 ? 4 : 6;
    mcast_flow_ethernet(flow);
    unsigned char *ip = flow->headers + MCAST_ETHERNET_HEADER, *udp = ip + (v4 ? 20 : 40);
    uint8_t ttl = record->flags & MCAST_TTL ? record->ttl : MCAST_DEFAULT_TTL;
    uint8_t tos = record->flags & MCAST_TOS ? record->tos : 0;
    if (v4)
        mcast_flow_ipv4(flow, ip, ttl, tos);
    else
        mcast_flow_ipv6(flow, ip, ttl, tos);
    mcast_put16(udp, record->source_port);
    mcast_put16(udp + 2, record->port);
    memset(udp + 4, 0, 4);
    flow->udp = mcast_sum(flow->udp, udp, 4) + mcast_summand(17);
    flow->size = (size_t)(udp - flow->headers) + MCAST_UDP_HEADER;
    return 0;
}

/* Whether a record has the headers of the flow: source, group and ports are adjacent in it, and so are flags, TTL and TOS. */
static inline int
mcast_flow_is(const mcast_flow *flow, const mcast_record *record)
{
    const size_t first = offsetof(mcast_record, source);
    return flow->size &&
           memcmp((const char *)&flow->record + first, (const char *)record + first, sizeof *record - first) == 0;
}

/* Writes the headers, but for `skipped` bytes of them, of a packet whose payload was `wire` bytes long before it was truncated; 0, or why
 * that cannot be.
 *
 * The checksum of a truncated payload cannot be known: 0 says so in IPv4 (RFC 768); IPv6 has no such word, and gets that of the bytes
 * that there are. */
static inline int
mcast_write_headers(mcast_flow *flow, const mcast_record *record, const unsigned char *payload, size_t wire,
                    size_t skipped, unsigned char *frame)
{
    if (!mcast_flow_is(flow, record)) {
        int unfit = mcast_flow_start(flow, record);
        if (unfit)
            return unfit;
    }
    size_t size = flow->size - skipped;
    size_t datagram = MCAST_UDP_HEADER + wire, total = flow->version == 4 ? 20 + datagram : datagram;
    if (total > UINT16_MAX)
        return MCAST_UNFIT_LENGTH;
    memcpy(frame, flow->headers + skipped, size);
    unsigned char *ip = frame + MCAST_ETHERNET_HEADER - skipped, *udp = frame + size - MCAST_UDP_HEADER;
    if (flow->version == 4) {
        mcast_put16(ip + 2, total);
        mcast_put_native16(ip + 10, mcast_checksum(flow->ip + mcast_summand(total)));
    } else {
        mcast_put16(ip + 4, total);
    }
    mcast_put16(udp + 4, datagram);
    if (flow->version == 4 && record->length < wire)
        return 0;
    uint64_t sum = flow->udp + 2 * mcast_summand(datagram); /* in the pseudo header, and in the UDP header */
    uint16_t checksum = mcast_checksum(mcast_sum(sum, payload, record->length));
    mcast_put_native16(udp + 6, checksum ? checksum : UINT16_MAX);
    return 0;
}

/* What of a record's packet is known beyond UDP, which the file says of interfaces and not of packets: MCAST_FRAME, or of a packet with
 * synthetic headers MCAST_TTL and MCAST_TOS. */
static inline uint16_t
mcast_known_headers(const mcast_record *record)
{
    return record->flags & MCAST_FRAME ? MCAST_FRAME : record->flags & (MCAST_TTL | MCAST_TOS);
}

/* Packets of one key are of one interface of the file. */
static inline uint64_t
mcast_interface_key(const mcast_record *record)
{
    return (uint64_t)mcast_known_headers(record) << 32 | record->interface_index;
}

/* The place of an interface in the file, or -1 when it is not described yet. */
static inline int64_t
mcast_encoder_interface(mcast_encoder *encoder, uint64_t key)
{
    if (encoder->latest < encoder->interfaces && encoder->keys[encoder->latest] == key)
        return (int64_t)encoder->latest;
    for (size_t i = 0; i < encoder->interfaces; i++) {
        if (encoder->keys[i] == key) {
            encoder->latest = i;
            return (int64_t)i;
        }
    }
    return -1;
}

/* Writes an option of a block, padded; where the next one goes. MCAST_OPTIONS_SIZE has to hold all that a packet may have. */
static inline unsigned char *
mcast_put_option(unsigned char *at, uint16_t code, const void *value, uint16_t size)
{
    mcast_put_native16(at, code);
    mcast_put_native16(at + 2, size);
    memset(at + 4 + size, 0, 3);
    memcpy(at + 4, value, size);
    return at + 4 + ((size + 3u) & ~3u);
}

/* Writes what follows a frame of `captured` bytes in its enhanced packet block, but for the block's length: padding and options. Where it ends. */
static inline unsigned char *
mcast_write_options(const mcast_record *record, size_t captured, unsigned char *at)
{
    memset(at, 0, 3);
    at += (0 - captured) & 3;
    if (record->dropped) {
        const uint64_t dropped = record->dropped;
        at = mcast_put_option(at, 4, &dropped, 8);
    }
    if (record->flags & MCAST_COALESCED)
        at = mcast_put_option(at, 1, mcast_shared_time, MCAST_SHARED_TIME_SIZE);
    if (record->dropped || record->flags & MCAST_COALESCED) {
        mcast_put_native32(at, 0); /* opt_endofopt */
        at += 4;
    }
    return at + 4;
}

/* Writes the rest of an enhanced packet block around a frame of `captured` bytes, of which `copied` are there already: the others are
 * elsewhere, and what follows the frame goes behind those. Where it ends. */
static inline unsigned char *
mcast_write_block(const mcast_record *record, uint32_t interface_at, size_t captured, size_t original, size_t copied,
                  unsigned char *block)
{
    uint64_t time = record->timestamp > 0 ? (uint64_t)record->timestamp : 0;
    unsigned char *behind = block + MCAST_PACKET_BLOCK + copied;
    unsigned char *end = mcast_write_options(record, captured, behind);
    size_t length = MCAST_PACKET_BLOCK + captured + (size_t)(end - behind);
    mcast_put_native32(block, 6);
    mcast_put_native32(block + 4, length);
    mcast_put_native32(block + 8, interface_at);
    mcast_put_native32(block + 12, (size_t)(time >> 32));
    mcast_put_native32(block + 16, (size_t)(time & 0xffffffff));
    mcast_put_native32(block + 20, captured);
    mcast_put_native32(block + 24, original);
    mcast_put_native32(end - 4, length);
    return end;
}

/* The header of a packet of classic pcap: its seconds have 32 bits, and end in 2106. */
static inline void
mcast_write_pcap(const mcast_record *record, size_t captured, size_t original, unsigned char *packet)
{
    uint64_t time = record->timestamp > 0 ? (uint64_t)record->timestamp : 0;
    mcast_put_native32(packet, (size_t)(time / 1000000000 & 0xffffffff));
    mcast_put_native32(packet + 4, (size_t)(time % 1000000000));
    mcast_put_native32(packet + 8, captured);
    mcast_put_native32(packet + 12, original);
}

/* How many of `count` packets, one at least, are encoded at a time: what a processor's cache holds until it is written. */
static inline size_t
mcast_encoded_count(const mcast_record *records, size_t count)
{
    size_t size = 0, i = 0;
    for (; i < count && size < MCAST_ENCODED_AT_ONCE; i++)
        size += (size_t)MCAST_PACKET_OVERHEAD + records[i].length;
    return i;
}

/* Room that `count` packets take in a file at the most. */
static inline size_t
mcast_encoded_size(const mcast_record *records, size_t count)
{
    size_t size = 0;
    for (size_t i = 0; i < count; i++)
        size += (size_t)MCAST_PACKET_OVERHEAD + records[i].length;
    return size;
}

/* Writes the headers that a packet gets, none of a whole frame: their size; *unfit says why the packet cannot be written. */
static inline size_t
mcast_encode_headers(mcast_encoder *encoder, const mcast_record *record, const unsigned char *payload, size_t wire,
                     unsigned char *frame)
{
    if (record->flags & MCAST_FRAME) {
        encoder->unfit = encoder->raw ? MCAST_UNFIT_LINK : 0;
        return 0;
    }
    size_t skipped = encoder->raw ? MCAST_ETHERNET_HEADER : 0;
    encoder->unfit = mcast_write_headers(&encoder->flow, record, payload, wire, skipped, frame);
    return encoder->flow.size - skipped;
}

/* Writes one packet at `to`, or with `payload_apart` all but its payload: where the payload belongs, and *end is where it ends. NULL when its interface is
 * not described yet, or it cannot be written (`unfit`). */
static inline unsigned char *
mcast_encode_packet(mcast_encoder *encoder, const mcast_record *record, const unsigned char *payload, int payload_apart,
                    unsigned char *to, unsigned char **end)
{
    int64_t interface_at = encoder->pcap ? 0 : mcast_encoder_interface(encoder, mcast_interface_key(record));
    if (interface_at < 0)
        return NULL;
    size_t wire = record->wire_length > record->length ? record->wire_length : record->length;
    unsigned char *frame = to + (encoder->pcap ? MCAST_PCAP_PACKET : MCAST_PACKET_BLOCK);
    size_t headers = mcast_encode_headers(encoder, record, payload, wire, frame);
    if (encoder->unfit)
        return NULL;
    size_t captured = headers + record->length, copied = payload_apart ? headers : captured;
    if (!payload_apart)
        memcpy(frame + headers, payload, record->length);
    *end = frame + copied;
    if (encoder->pcap)
        mcast_write_pcap(record, captured, headers + wire, to);
    else
        *end = mcast_write_block(record, (uint32_t)interface_at, captured, headers + wire, copied, to);
    return frame + headers;
}

/* Writes packets until the first one whose interface is not described yet, or that cannot be written (`unfit`). How many; *used bytes. */
static inline size_t
mcast_encode(mcast_encoder *encoder, const mcast_record *records, size_t count, const unsigned char *data,
             unsigned char *to, size_t *used)
{
    unsigned char *at = to;
    size_t i = 0;
    encoder->unfit = 0;
    while (i < count && mcast_encode_packet(encoder, &records[i], data + records[i].offset, 0, at, &at))
        i++;
    *used = (size_t)(at - to);
    return i;
}

#endif
