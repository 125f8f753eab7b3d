/* Super-packets cut into frames: sums that come out as zero. All else is in tests/test_whole_frames.py. */
#include "check.h"
#include "whole_frames.h"

/* The UDP checksum of a datagram of two bytes that is cut out of a super-packet of this version of IP. */
static uint32_t
checksum_of(int version, const unsigned char payload[2])
{
    enum { MOST = 14 + 40 + 8 };
    unsigned char frame[MOST] = {0}, to[MOST + 2];
    size_t ip = version == 4 ? 20 : 40, headers = 14 + ip + 8;
    frame[12] = version == 4 ? 0x08 : 0x86;
    frame[13] = version == 4 ? 0x00 : 0xdd;
    frame[14] = version == 4 ? 0x45 : 0x60;
    frame[14 + ip - 1] = 9; /* of the group's address */
    mcast_whole_cut(frame, headers, payload, 2, 0, to);
    CHECK(memcmp(to + headers, payload, 2) == 0 && mcast_big16(to + headers - 4) == 10);
    return mcast_big16(to + headers - 2);
}

int
main(void)
{
    for (int version = 4; version <= 6; version += 2) {
        uint32_t sum = checksum_of(version, (const unsigned char[]){0, 0});
        const unsigned char complement[] = {(unsigned char)(sum >> 8), (unsigned char)sum};
        CHECK(sum != 0 && sum != UINT16_MAX);
        CHECK(checksum_of(version, complement) == UINT16_MAX); /* 0 says that there is none (RFC 768) */
    }
    puts("checksums of zero");
    return 0;
}
