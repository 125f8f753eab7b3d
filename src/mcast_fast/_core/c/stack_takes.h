/* What of a ring's frames the stack would hand to a socket, as far as a frame alone shows it. */
#ifndef MCAST_STACK_TAKES_H
#define MCAST_STACK_TAKES_H

#include "frames.h"
#include "ring.h"

enum {
    OPTION_END = 0,
    OPTION_NOP = 1,
    OPTION_LOOSE_ROUTE = 131,
    OPTION_STRICT_ROUTE = 137, /* RFC 791 */
};

static inline uint32_t
load32(const unsigned char *at)
{
    uint32_t word;
    memcpy(&word, at, 4);
    return word;
}

/* Whether the sum over an IPv4 header, of 20 bytes or more, is 0xffff: its checksum is right (RFC 1071). */
static inline int
sum_is_right(const unsigned char *header, size_t size)
{
    uint64_t sum = (uint64_t)load32(header) + load32(header + 4) + load32(header + 8) + load32(header + 12);
    for (size_t at = 16; at < size; at += 4)
        sum += load32(header + at);
    sum = (sum & 0xffff) + (sum >> 16 & 0xffff) + (sum >> 32);
    return (sum & 0xffff) + (sum >> 16) == 0xffff;
}

/* Whether options request a route of the sender's choice, which a host does not follow for a group. */
static int
has_source_route(const unsigned char *header, size_t size)
{
    for (size_t at = 20; at < size && header[at] != OPTION_END;) {
        if (header[at] == OPTION_LOOSE_ROUTE || header[at] == OPTION_STRICT_ROUTE)
            return 1;
        size_t step = header[at] == OPTION_NOP ? 1 : at + 1 < size ? header[at + 1] : 0;
        if (step == 0 || (header[at] != OPTION_NOP && step < 2))
            return 1; /* broken: not passed on either */
        at += step;
    }
    return 0;
}

/* Whether IPv4 takes a packet from this source: ip_mc_validate_source() of net/ipv4/route.c. */
static int
source4_is_possible(const unsigned char *source, const unsigned char *group, int loopback)
{
    if (source[0] >= 224) /* groups, and what is reserved; of those the kernel refuses 255.255.255.255 alone */
        return source[0] >= 240 && mcast_big32(source) != 0xffffffff;
    if (source[0] == 0) /* from this network: for groups of the link alone */
        return group[0] == 224 && group[1] == 0 && group[2] == 0;
    return source[0] != 127 || loopback;
}

/* Whether IPv6 takes it: ip6_rcv_core() of net/ipv6/ip6_input.c. */
static int
source6_is_possible(const unsigned char *source, const unsigned char *group, int loopback)
{
    static const unsigned char one[16] = {[15] = 1};
    unsigned scope = group[1] & 15;
    if (source[0] == 0xff || memcmp(source, mcast_v4_prefix, 12) == 0)
        return 0;
    return loopback || (memcmp(source, one, 16) != 0 && scope > 1);
}

/* Whether the stack would hand the datagram in this frame to a socket, as far as a frame alone shows it: it is for this host, untagged, its
 * header is whole and its source possible. The routing table (rp_filter) is not consulted. */
static int
stack_takes(const mcast_ring *ring, const mcast_ring_frame *frame, const mcast_record *record)
{
    if (!frame->ours || (frame->tagged && ring->delivers == MCAST_DELIVERS_UNTAGGED))
        return 0;
    size_t at = 12;
    int type = mcast_big16(frame->bytes + at);
    while (type == MCAST_ETHER_VLAN || type == MCAST_ETHER_PROVIDER || type == MCAST_ETHER_QINQ) {
        if (ring->delivers == MCAST_DELIVERS_UNTAGGED)
            return 0;
        at += 4;
        type = mcast_big16(frame->bytes + at);
    }
    const unsigned char *header = frame->bytes + at + 2;
    if (type == MCAST_ETHER_IPV6)
        return source6_is_possible(record->source, record->group, ring->loopback);
    size_t size = (size_t)(header[0] & 15) * 4;
    return sum_is_right(header, size) && (size == 20 || !has_source_route(header, size)) &&
           source4_is_possible(header + 12, header + 16, ring->loopback);
}

#endif
