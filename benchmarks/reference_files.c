/* What it costs at least to read a recording and count its packets by flow: read(2) of pieces that stay in the cache, a step from block to
 * block of pcapng, and the addresses of Ethernet, IPv4 and UDP, of which nothing is checked. A flow is found by the low byte of its
 * group. Prints packets and bytes of payload. */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { PIECE = 256 << 10, PACKET_BLOCK = 6, BLOCK_HEADER = 28, HEADERS = 42, FLOWS = 256 };

typedef struct flow {
    uint64_t packets, bytes, first, last, largest_gap;
    uint16_t smallest, largest;
} flow;

static uint32_t
word(const unsigned char *at)
{
    uint32_t value;
    memcpy(&value, at, sizeof value);
    return value;
}

static void
count(flow *flows, const unsigned char *block)
{
    const unsigned char *udp = block + BLOCK_HEADER + HEADERS - 8;
    flow *one = &flows[udp[-1]];
    uint64_t time = (uint64_t)word(block + 12) << 32 | word(block + 16);
    uint16_t size = (uint16_t)((udp[4] << 8 | udp[5]) - 8);
    if (one->packets == 0)
        one->first = one->last = time;
    if (time - one->last > one->largest_gap)
        one->largest_gap = time - one->last;
    one->last = time;
    one->smallest = one->packets == 0 || size < one->smallest ? size : one->smallest;
    one->largest = size > one->largest ? size : one->largest;
    one->packets++;
    one->bytes += size;
}

int
main(int arguments, char **argument)
{
    static unsigned char bytes[PIECE];
    static flow flows[FLOWS];
    int file = arguments == 2 ? open(argument[1], O_RDONLY) : -1;
    size_t left = 0;
    uint64_t packets = 0, payload = 0;
    if (file < 0)
        return 1;
    for (ssize_t came; (came = read(file, bytes + left, PIECE - left)) > 0;) {
        size_t at = 0, end = left + (size_t)came;
        for (uint32_t length; end - at >= 12 && (length = word(bytes + at + 4)) >= 12 && length <= end - at;
             at += length)
            if (word(bytes + at) == PACKET_BLOCK)
                count(flows, bytes + at);
        left = end - at;
        memmove(bytes, bytes + at, left);
    }
    for (int i = 0; i < FLOWS; i++) {
        packets += flows[i].packets;
        payload += flows[i].bytes;
    }
    printf("%llu packets, %llu bytes\n", (unsigned long long)packets, (unsigned long long)payload);
    return 0;
}
