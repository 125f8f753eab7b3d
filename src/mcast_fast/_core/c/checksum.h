/* Numbers as they are in headers, and the Internet checksum (RFC 1071). */
#ifndef MCAST_CHECKSUM_H
#define MCAST_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline void
mcast_put16(unsigned char *at, size_t value)
{
    at[0] = (unsigned char)(value >> 8);
    at[1] = (unsigned char)value;
}

/* In the byte order of the machine, which is that of the section. */
static inline void
mcast_put_native16(unsigned char *at, uint16_t value)
{
    memcpy(at, &value, sizeof value);
}

static inline void
mcast_put_native32(unsigned char *at, size_t value)
{
    uint32_t word = (uint32_t)value;
    memcpy(at, &word, sizeof word);
}

/* The Internet checksum (RFC 1071), which does not mind the byte order: words are added as they are in memory, 32 bits at a time
 * into 64, and folded at the end. `bytes` begins at an even position of the sum. */
static inline uint64_t
mcast_sum(uint64_t sum, const unsigned char *bytes, size_t size)
{
    uint64_t low = 0, high = 0;
    for (; size >= 8; bytes += 8, size -= 8) {
        uint32_t words[2];
        memcpy(words, bytes, 8);
        low += words[0];
        high += words[1];
    }
    unsigned char rest[8] = {0};
    memcpy(rest, bytes, size);
    uint32_t words[2];
    memcpy(words, rest, 8);
    return sum + low + high + words[0] + words[1];
}

/* The sum folded to 16 bits and inverted, in the byte order of memory. */
static inline uint16_t
mcast_checksum(uint64_t sum)
{
    sum = (sum & 0xffffffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

/* A number of 16 bits as the sum takes it: as it is in memory, in network byte order. */
static inline uint64_t
mcast_summand(size_t value)
{
    unsigned char bytes[2];
    uint16_t word;
    mcast_put16(bytes, value);
    memcpy(&word, bytes, 2);
    return word;
}

#endif
