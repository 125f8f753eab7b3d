/* The one record, as _core/layout.py describes it; views.pxi checks every offset at import. */
#ifndef MCAST_RECORD_H
#define MCAST_RECORD_H

#include <stdint.h>
#include <string.h>

typedef struct mcast_record {
    int64_t timestamp;
    uint32_t offset;
    uint32_t interface_index; /* `interface` is a macro of the Windows headers */
    uint32_t dropped;
    uint16_t length;
    uint16_t wire_length;
    uint8_t source[16];
    uint8_t group[16];
    uint16_t source_port;
    uint16_t port;
    uint16_t flags;
    uint8_t ttl;
    uint8_t tos;
} mcast_record;

enum { MCAST_TRUNCATED = 1, MCAST_TTL = 2, MCAST_TOS = 4, MCAST_COALESCED = 8, MCAST_HARDWARE = 16, MCAST_FRAME = 32 };

/* What the kernel reports with a slot beside its record (control messages are ancillary data, cmsg(3)). */
typedef struct mcast_ancillary {
    uint32_t overflow; /* buffers dropped at this socket so far, modulo 2^32; unchanged when it was not reported */
    uint32_t segment;  /* bytes of each packet but the last one, when several were coalesced in the slot; else 0 */
} mcast_ancillary;

static const uint8_t mcast_v4_prefix[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

/* RFC 1112, RFC 4291 */
static inline int
mcast_is_multicast(const uint8_t address[16])
{
    /* compilers make loads of these sizes, and a call of twelve bytes */
    return address[0] == 0xff || ((address[12] & 0xf0) == 0xe0 && memcmp(address, mcast_v4_prefix, 8) == 0 &&
                                  memcmp(address + 8, mcast_v4_prefix + 8, 4) == 0);
}

/* Two loads each: memcmp would be called, for compilers do not inline it at this size. */
static inline int
mcast_same_address(const uint8_t left[16], const uint8_t right[16])
{
    uint64_t a[2], b[2];
    memcpy(a, left, 16);
    memcpy(b, right, 16);
    return ((a[0] ^ b[0]) | (a[1] ^ b[1])) == 0;
}

/* Clears and copies a record word by word, and not in a loop: of all 64 bytes at once compilers make `rep stos` or `rep movs`, which take
 * longer than all the rest of a packet. */
#define MCAST_EACH_WORD(word) word(0) word(8) word(16) word(24) word(32) word(40) word(48) word(56)

static inline void
mcast_record_copy(mcast_record *record, const mcast_record *from)
{
#define MCAST_WORD(at) memcpy((unsigned char *)record + (at), (const unsigned char *)from + (at), 8);
    MCAST_EACH_WORD(MCAST_WORD)
#undef MCAST_WORD
}

static inline void
mcast_record_clear(mcast_record *record)
{
#define MCAST_WORD(at) memset((unsigned char *)record + (at), 0, 8);
    MCAST_EACH_WORD(MCAST_WORD)
#undef MCAST_WORD
}

/* Four bytes of IPv4 as the sixteen of a v4-mapped IPv6 address (RFC 4291, 2.5.5.2). Two stores of eight: mcast_same_address soon
 * loads just those, and a load that spans two younger stores waits for both. */
static inline void
mcast_map_v4(uint8_t mapped[16], const void *address)
{
    uint32_t word;
    uint8_t tail[8] = {0, 0, 0xff, 0xff};
    memcpy(&word, address, 4);
    memcpy(tail + 4, &word, 4);
    memset(mapped, 0, 8);
    memcpy(mapped + 8, tail, 8);
}

#endif
