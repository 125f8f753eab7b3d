/* Whole frames of a link: what a recording keeps of a ring.
 *
 * The record has group, port and source of a frame as far as they can be read, and its payload is the frame. Fragments and wrong checksums
 * are left as they came; the VLAN tag that the kernel took out is put back, and a super-packet is cut into the frames that a network card
 * would have made of it. */
#ifndef MCAST_WHOLE_FRAMES_H
#define MCAST_WHOLE_FRAMES_H

#include "checksum.h"
#include "frames.h"

enum { MCAST_TAG_SIZE = 4 };

/* Reads an Ethernet frame as mcast_frame_read does; of fragments, and of datagrams whose lengths contradict each other, the ports too. */
static inline int
mcast_whole_read(const unsigned char *frame, size_t size, size_t wire, mcast_record *record,
                 const unsigned char **payload)
{
    int kind = mcast_frame_read(frame, size, wire, MCAST_LINK_ETHERNET, record, payload);
    if ((kind == MCAST_FRAME_FRAGMENT || kind == MCAST_FRAME_BROKEN) && *payload + 4 <= frame + size) {
        record->source_port = mcast_big16(*payload);
        record->port = mcast_big16(*payload + 2);
    }
    record->flags |= MCAST_FRAME;
    return kind;
}

/* The record's lengths, of a frame of which `size` bytes of `wire` are there. */
static inline void
mcast_whole_lengths(mcast_record *record, size_t size, size_t wire)
{
    record->length = (uint16_t)(size < UINT16_MAX ? size : UINT16_MAX);
    record->wire_length = (uint16_t)(wire < UINT16_MAX ? wire : UINT16_MAX);
    record->flags = (uint16_t)(record->flags & ~MCAST_TRUNCATED);
    if (record->length < record->wire_length)
        record->flags |= MCAST_TRUNCATED;
}

/* Puts a VLAN tag behind the two addresses, which move towards the start; where the frame begins then. Four bytes before it are free. */
static inline unsigned char *
mcast_whole_put_tag(unsigned char *frame, uint16_t type, uint16_t tci)
{
    memmove(frame - MCAST_TAG_SIZE, frame, 12);
    mcast_put16(frame + 8, type);
    mcast_put16(frame + 10, tci);
    return frame - MCAST_TAG_SIZE;
}

/* Where the IP header of an Ethernet frame begins, whose headers are known to be whole. */
static inline size_t
mcast_whole_ip_at(const unsigned char *frame)
{
    size_t at = 12;
    for (int type = mcast_big16(frame + at);
         type == MCAST_ETHER_VLAN || type == MCAST_ETHER_PROVIDER || type == MCAST_ETHER_QINQ;
         type = mcast_big16(frame + at))
        at += MCAST_TAG_SIZE;
    return at + 2;
}

/* Writes datagram number `number` of a super-packet as a frame of its own: `headers` bytes of the super-packet's, with lengths, sums and IPv4's
 * identification made right (inet_gso_segment() and __udp_gso_segment() of Linux do the same), and `length` bytes of payload. */
static inline void
mcast_whole_cut(const unsigned char *frame, size_t headers, const unsigned char *payload, size_t length, size_t number,
                unsigned char *to)
{
    size_t ip_at = mcast_whole_ip_at(frame);
    unsigned char *ip = to + ip_at, *udp = to + headers - 8;
    memcpy(to, frame, headers);
    memcpy(to + headers, payload, length);
    uint64_t sum;
    if (ip[0] >> 4 == 4) {
        size_t size = (size_t)(ip[0] & 15) * 4;
        mcast_put16(ip + 2, headers - ip_at + length);
        mcast_put16(ip + 4, (size_t)(mcast_big16(ip + 4) + number) & 0xffff);
        mcast_put16(ip + 10, 0);
        mcast_put_native16(ip + 10, mcast_checksum(mcast_sum(0, ip, size)));
        sum = mcast_sum(0, ip + 12, 8);
    } else {
        mcast_put16(ip + 4, headers - ip_at - 40 + length);
        sum = mcast_sum(0, ip + 8, 32);
    }
    mcast_put16(udp + 4, 8 + length);
    mcast_put16(udp + 6, 0);
    sum += mcast_summand(MCAST_PROTOCOL_UDP) + mcast_summand(8 + length);
    uint16_t checksum = mcast_checksum(mcast_sum(sum, udp, 8 + length));
    mcast_put_native16(udp + 6, checksum ? checksum : UINT16_MAX);
}

#endif
