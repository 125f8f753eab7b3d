/* Frames of a link, turned into records: finds the UDP payload behind Ethernet and its VLAN tags (or another link
 * header), IPv4 with options, IPv6 with extension headers.
 *
 * Used wherever packets do not come through a UDP socket: the mapped ring and capture files. Nothing in a frame is believed before
 * it is held against what was captured. */
#ifndef MCAST_FRAMES_H
#define MCAST_FRAMES_H

#include "record.h"
#include <stddef.h>

/* Link types, as pcap numbers them (https://www.tcpdump.org/linktypes.html). */
enum {
    MCAST_LINK_NULL = 0,
    MCAST_LINK_ETHERNET = 1,
    MCAST_LINK_RAW_BSD = 12,
    MCAST_LINK_RAW_OPENBSD = 14,
    MCAST_LINK_RAW = 101,
    MCAST_LINK_LOOP = 108,
    MCAST_LINK_LINUX_SLL = 113,
    MCAST_LINK_IPV4 = 228,
    MCAST_LINK_IPV6 = 229,
    MCAST_LINK_LINUX_SLL2 = 276,
    MCAST_LINK_UNREADABLE = -2, /* what mcast_frame_link answers of any other */
};

enum {
    MCAST_ETHER_IPV4 = 0x0800,
    MCAST_ETHER_VLAN = 0x8100,
    MCAST_ETHER_IPV6 = 0x86dd,
    MCAST_ETHER_PROVIDER = 0x88a8, /* 802.1ad */
    MCAST_ETHER_QINQ = 0x9100,     /* before 802.1ad */
    MCAST_PROTOCOL_UDP = 17,
};

/* What a frame turned out to be. */
enum {
    MCAST_FRAME_UDP,      /* the record describes it */
    MCAST_FRAME_FRAGMENT, /* the first piece of a UDP datagram: group, source and interface are in the record */
    MCAST_FRAME_LATER,    /* another piece: its datagram was counted by the first one */
    MCAST_FRAME_OTHER,    /* not UDP over IP */
    MCAST_FRAME_BROKEN,   /* its lengths contradict each other, or its headers were not captured whole */
};

/* What is left to read of a frame: `size` bytes were captured, of `wire` that there were. */
typedef struct mcast_rest {
    const unsigned char *at;
    size_t size;
    size_t wire;
} mcast_rest;

static inline uint16_t
mcast_big16(const unsigned char *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static inline uint32_t
mcast_big32(const unsigned char *at)
{
    return (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | at[3];
}

/* Goes `bytes` further; 0 when not so much was captured. */
static inline int
mcast_rest_skip(mcast_rest *rest, size_t bytes)
{
    if (rest->size < bytes)
        return 0;
    rest->at += bytes;
    rest->size -= bytes;
    rest->wire -= bytes < rest->wire ? bytes : rest->wire;
    return 1;
}

/* Leaves out what follows the `bytes` that a header announces: padding of short Ethernet frames. */
static inline void
mcast_rest_limit(mcast_rest *rest, size_t bytes)
{
    rest->wire = rest->wire < bytes ? rest->wire : bytes;
    rest->size = rest->size < bytes ? rest->size : bytes;
}

/* Where a frame is a fragment: which datagram it is of, and which piece of it. The pieces are those of `version` (4 or 6) with one `id`
 * between the record's addresses. */
typedef struct mcast_fragment {
    uint32_t id;
    uint32_t offset; /* bytes */
    int more;
    int version;
    size_t size; /* bytes of the piece that were captured, of `wire` */
    size_t wire;
} mcast_fragment;

/* A header of `size` bytes with the type at `at`, and the VLAN tags behind it. */
static inline int
mcast_frame_typed(mcast_rest *rest, size_t size, size_t at)
{
    if (rest->size < size)
        return -1;
    int type = mcast_big16(rest->at + at);
    mcast_rest_skip(rest, size);
    while (type == MCAST_ETHER_VLAN || type == MCAST_ETHER_PROVIDER || type == MCAST_ETHER_QINQ) {
        if (rest->size < 4)
            return -1;
        type = mcast_big16(rest->at + 2);
        mcast_rest_skip(rest, 4);
    }
    return type;
}

/* By the version in the first byte of an IP header. */
static inline int
mcast_frame_raw(const mcast_rest *rest)
{
    int version = rest->size ? rest->at[0] >> 4 : 0;
    return version == 4 ? MCAST_ETHER_IPV4 : version == 6 ? MCAST_ETHER_IPV6 : -1;
}

/* Steps over the link's header; the Ethernet type of what follows, -1 when that is unknown, or MCAST_LINK_UNREADABLE. */
static inline int
mcast_frame_link(mcast_rest *rest, int link_type)
{
    switch (link_type) {
    case MCAST_LINK_ETHERNET:
        return mcast_frame_typed(rest, 14, 12);
    case MCAST_LINK_LINUX_SLL:
        return mcast_frame_typed(rest, 16, 14);
    case MCAST_LINK_LINUX_SLL2:
        return mcast_frame_typed(rest, 20, 0);
    case MCAST_LINK_NULL: /* a family whose number differs between systems: the IP header decides */
    case MCAST_LINK_LOOP:
        return mcast_rest_skip(rest, 4) ? mcast_frame_raw(rest) : -1;
    case MCAST_LINK_RAW:
    case MCAST_LINK_RAW_BSD:
    case MCAST_LINK_RAW_OPENBSD:
    case MCAST_LINK_IPV4:
    case MCAST_LINK_IPV6:
        return mcast_frame_raw(rest);
    default:
        return MCAST_LINK_UNREADABLE;
    }
}

/* RFC 791. */
static inline int
mcast_frame_ipv4(mcast_rest *rest, mcast_record *record, mcast_fragment *fragment)
{
    const unsigned char *header = rest->at;
    if (rest->size < 20 || header[0] >> 4 != 4)
        return MCAST_FRAME_BROKEN;
    size_t header_size = (size_t)(header[0] & 15) * 4, total = mcast_big16(header + 2);
    if (total == 0)
        total = rest->wire; /* as segmentation offload leaves it to the card (Wireshark reads it so, too) */
    if (header_size < 20 || total < header_size || rest->size < header_size || rest->wire < total)
        return MCAST_FRAME_BROKEN;
    if (header[9] != MCAST_PROTOCOL_UDP)
        return MCAST_FRAME_OTHER;
    record->tos = header[1];
    record->ttl = header[8];
    mcast_map_v4(record->source, header + 12);
    mcast_map_v4(record->group, header + 16);
    mcast_rest_limit(rest, total);
    mcast_rest_skip(rest, header_size);
    unsigned place = mcast_big16(header + 6) & 0x3fff; /* more fragments, and the offset */
    if (!place)
        return MCAST_FRAME_UDP;
    *fragment = (mcast_fragment){
        mcast_big16(header + 4), (place & 0x1fff) * 8, (place & 0x2000) != 0, 4, rest->size, rest->wire};
    return fragment->offset ? MCAST_FRAME_LATER : MCAST_FRAME_FRAGMENT;
}

enum {
    MCAST_NEXT_HOP_BY_HOP = 0,
    MCAST_NEXT_ROUTING = 43,
    MCAST_NEXT_FRAGMENT = 44,
    MCAST_NEXT_AUTHENTICATION = 51,
    MCAST_NEXT_DESTINATION = 60,
    MCAST_NEXT_MOBILITY = 135,
    MCAST_NEXT_HIP = 139,
    MCAST_NEXT_SHIM6 = 140,
};

/* Bytes of an extension header (RFC 8200, 4; RFC 4302 for authentication); 0 when it is none that can be stepped over. */
static inline size_t
mcast_extension_size(int next, const unsigned char *header)
{
    switch (next) {
    case MCAST_NEXT_FRAGMENT:
        return 8;
    case MCAST_NEXT_AUTHENTICATION:
        return ((size_t)header[1] + 2) * 4;
    case MCAST_NEXT_HOP_BY_HOP:
    case MCAST_NEXT_ROUTING:
    case MCAST_NEXT_DESTINATION:
    case MCAST_NEXT_MOBILITY:
    case MCAST_NEXT_HIP:
    case MCAST_NEXT_SHIM6:
        return ((size_t)header[1] + 1) * 8;
    default:
        return 0;
    }
}

/* Steps over extension headers until UDP. A fragment header that says "first and last" is of a whole datagram (RFC 6946). */
static inline int
mcast_frame_extensions(mcast_rest *rest, int next, mcast_fragment *fragment)
{
    int kind = MCAST_FRAME_UDP;
    while (next != MCAST_PROTOCOL_UDP) {
        if (rest->size < 8)
            return rest->wire < 8 ? MCAST_FRAME_OTHER : MCAST_FRAME_BROKEN;
        const unsigned char *header = rest->at;
        size_t size = mcast_extension_size(next, header);
        if (size == 0)
            return MCAST_FRAME_OTHER;
        unsigned place = next == MCAST_NEXT_FRAGMENT ? mcast_big16(header + 2) & 0xfff9 : 0;
        next = header[0];
        if (!mcast_rest_skip(rest, size))
            return MCAST_FRAME_BROKEN;
        if (place) {
            *fragment = (mcast_fragment){mcast_big32(header + 4), place & 0xfff8, place & 1, 6, rest->size, rest->wire};
            kind = fragment->offset ? MCAST_FRAME_LATER : MCAST_FRAME_FRAGMENT;
        }
        if (kind == MCAST_FRAME_LATER)
            return next == MCAST_PROTOCOL_UDP ? kind : MCAST_FRAME_OTHER;
    }
    return kind;
}

/* RFC 8200. */
static inline int
mcast_frame_ipv6(mcast_rest *rest, mcast_record *record, mcast_fragment *fragment)
{
    const unsigned char *header = rest->at;
    if (rest->size < 40 || header[0] >> 4 != 6)
        return MCAST_FRAME_BROKEN;
    size_t payload = mcast_big16(header + 4);
    if (rest->wire < 40 + payload)
        return MCAST_FRAME_BROKEN;
    record->tos = (uint8_t)(header[0] << 4 | header[1] >> 4);
    record->ttl = header[7];
    memcpy(record->source, header + 8, 16);
    memcpy(record->group, header + 24, 16);
    mcast_rest_limit(rest, 40 + payload);
    mcast_rest_skip(rest, 40);
    return mcast_frame_extensions(rest, header[6], fragment);
}

/* RFC 768. */
static inline int
mcast_frame_udp(mcast_rest *rest, mcast_record *record)
{
    if (rest->size < 8)
        return MCAST_FRAME_BROKEN;
    size_t total = mcast_big16(rest->at + 4);
    if (total < 8 || total > rest->wire)
        return MCAST_FRAME_BROKEN;
    record->source_port = mcast_big16(rest->at);
    record->port = mcast_big16(rest->at + 2);
    mcast_rest_limit(rest, total);
    mcast_rest_skip(rest, 8);
    record->length = (uint16_t)rest->size;
    record->wire_length = (uint16_t)rest->wire;
    if (rest->size < rest->wire)
        record->flags |= MCAST_TRUNCATED;
    return MCAST_FRAME_UDP;
}

/* Reads a frame of which `size` bytes were captured, of `wire` that there were: what it is, and for MCAST_FRAME_UDP what the record and
 * *payload say: addresses, ports, lengths, TTL and TOS. Of MCAST_FRAME_FRAGMENT and MCAST_FRAME_LATER it says the addresses, *fragment which piece it
 * is, and *payload where that begins. The caller fills in time, interface and offset. */
static inline int
mcast_frame_read_piece(const unsigned char *frame, size_t size, size_t wire, int link_type, mcast_record *record,
                       const unsigned char **payload, mcast_fragment *fragment)
{
    mcast_rest rest = {frame, size, wire < size ? size : wire};
    mcast_record_clear(record);
    record->flags = MCAST_TTL | MCAST_TOS;
    int type = mcast_frame_link(&rest, link_type), kind;
    if (type == MCAST_ETHER_IPV4)
        kind = mcast_frame_ipv4(&rest, record, fragment);
    else if (type == MCAST_ETHER_IPV6)
        kind = mcast_frame_ipv6(&rest, record, fragment);
    else
        return type == -1 && rest.size < 40 ? MCAST_FRAME_BROKEN : MCAST_FRAME_OTHER;
    if (kind == MCAST_FRAME_UDP)
        kind = mcast_frame_udp(&rest, record);
    *payload = rest.at;
    return kind;
}

/* As mcast_frame_read_piece, where fragments are not put together. */
static inline int
mcast_frame_read(const unsigned char *frame, size_t size, size_t wire, int link_type, mcast_record *record,
                 const unsigned char **payload)
{
    mcast_fragment fragment;
    return mcast_frame_read_piece(frame, size, wire, link_type, record, payload, &fragment);
}

#endif
