/* The limit: what plain C reaches with the same system calls and the same control messages.
 *
 * Compiled on the spot by reference.py and called through ctypes. Python makes and configures the sockets; this file only
 * receives into 64-byte records (the layout of mcast_fast/_core/layout.py) and sends. It keeps no payloads: that is what makes it a limit.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

#include "reference_clock.h"

enum {
    MAX_SLOTS = 256,
    /* Neither is a power of two, which would crowd all slots into a few sets of the cache. */
    SLOT_BYTES = 2048 + 64,
    CONTROL_BYTES = 192,
    MAX_SEGMENTS = 64,
    FLAG_TRUNCATED = 1,
    OPTION_UDP_SEGMENT = 103, /* udp(7), Linux 4.18; absent from old headers */
    SPEAD_WORDS = 6,          /* a header and five item pointers */
    SPEAD_BYTES = 8 * SPEAD_WORDS,
};

struct record {
    int64_t timestamp;
    uint32_t offset, interface, dropped;
    uint16_t length, wire_length;
    uint8_t source[16], group[16];
    uint16_t source_port, port, flags;
    uint8_t ttl, tos;
};
_Static_assert(sizeof(struct record) == 64, "the record is 64 bytes");

struct receiver {
    struct mmsghdr messages[MAX_SLOTS];
    struct iovec vectors[MAX_SLOTS];
    struct sockaddr_in names[MAX_SLOTS];
    struct record records[MAX_SLOTS];
    struct record blank; /* group, port and interface as the socket implies them where no pktinfo is asked for */
    uint32_t overflow;
    unsigned slots;
    int64_t batches;
    _Alignas(16) uint8_t control[MAX_SLOTS][CONTROL_BYTES];
    uint8_t payload[MAX_SLOTS][SLOT_BYTES];
};

static inline void
map_ipv4(uint8_t out[16], struct in_addr address)
{
    memset(out, 0, 10);
    out[10] = out[11] = 0xff;
    memcpy(out + 12, &address, 4);
}

/* recvmmsg(2): name length, control length and flags are in-out, so every slot is reset before every call. */
static inline void
prepare(struct receiver *r, unsigned slots)
{
    for (unsigned i = 0; i < slots; i++) {
        struct msghdr *header = &r->messages[i].msg_hdr;
        header->msg_namelen = sizeof r->names[i];
        header->msg_controllen = CONTROL_BYTES;
        header->msg_flags = 0;
    }
}

static inline void
read_ip_message(struct record *record, const struct cmsghdr *message)
{
    struct in_pktinfo info;
    int number;
    switch (message->cmsg_type) {
    case IP_PKTINFO:
        memcpy(&info, CMSG_DATA(message), sizeof info);
        record->interface = (uint32_t)info.ipi_ifindex;
        map_ipv4(record->group, info.ipi_addr);
        break;
    case IP_TTL:
        memcpy(&number, CMSG_DATA(message), sizeof number);
        record->ttl = (uint8_t)number;
        break;
    case IP_TOS:
        record->tos = *CMSG_DATA(message);
        break;
    }
}

static inline void
read_socket_message(struct receiver *r, struct record *record, const struct cmsghdr *message)
{
    struct timespec time;
    uint32_t overflow;
    switch (message->cmsg_type) {
    case SCM_TIMESTAMPNS:
        memcpy(&time, CMSG_DATA(message), sizeof time);
        record->timestamp = (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
        break;
    case SO_RXQ_OVFL: /* cumulative, so the difference modulo 2^32 is what was lost just before this packet */
        memcpy(&overflow, CMSG_DATA(message), sizeof overflow);
        record->dropped = overflow - r->overflow;
        r->overflow = overflow;
        break;
    }
}

static inline void
fill_record(struct receiver *r, unsigned slot, uint32_t offset)
{
    struct record *record = &r->records[slot];
    struct msghdr *header = &r->messages[slot].msg_hdr;
    *record = r->blank;
    record->offset = offset;
    record->length = record->wire_length = (uint16_t)r->messages[slot].msg_len;
    record->flags = header->msg_flags & MSG_TRUNC ? FLAG_TRUNCATED : 0;
    map_ipv4(record->source, r->names[slot].sin_addr);
    record->source_port = ntohs(r->names[slot].sin_port);
    for (struct cmsghdr *m = CMSG_FIRSTHDR(header); m; m = CMSG_NXTHDR(header, m)) {
        if (m->cmsg_level == SOL_SOCKET)
            read_socket_message(r, record, m);
        else if (m->cmsg_level == IPPROTO_IP)
            read_ip_message(record, m);
    }
}

/* `slots` packets at most to a system call; NULL without memory. */
struct receiver *
reference_open(uint32_t group, uint16_t port, uint32_t interface, unsigned slots)
{
    struct receiver *r = slots && slots <= MAX_SLOTS ? calloc(1, sizeof *r) : NULL;
    if (!r)
        return NULL;
    r->slots = slots;
    map_ipv4(r->blank.group, (struct in_addr){group});
    r->blank.port = port;
    r->blank.interface = interface;
    for (unsigned i = 0; i < slots; i++) {
        r->vectors[i] = (struct iovec){r->payload[i], SLOT_BYTES};
        r->messages[i].msg_hdr = (struct msghdr){
            .msg_name = &r->names[i], .msg_iov = &r->vectors[i], .msg_iovlen = 1, .msg_control = r->control[i]};
    }
    return r;
}

void
reference_close(struct receiver *r)
{
    free(r);
}

/* Receive until `limit` packets or the socket's SO_RCVTIMEO; sums lengths into `bytes`. Returns packets, or -errno. */
int64_t
reference_receive(struct receiver *r, int fd, int64_t limit, uint64_t *bytes)
{
    int64_t packets = 0;
    *bytes = 0;
    r->batches = 0;
    while (packets < limit) {
        unsigned slots = limit - packets < r->slots ? (unsigned)(limit - packets) : r->slots;
        prepare(r, slots);
        int got = recvmmsg(fd, r->messages, slots, MSG_WAITFORONE, NULL);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno == EAGAIN ? packets : -errno;
        uint32_t offset = 0;
        for (unsigned i = 0; i < (unsigned)got; i++) {
            fill_record(r, i, offset);
            offset += r->records[i].length;
        }
        for (unsigned i = 0; i < (unsigned)got; i++)
            *bytes += r->records[i].length;
        packets += got;
        r->batches++;
    }
    return packets;
}

/* How many system calls the last receive took its packets from. */
int64_t
reference_batches(const struct receiver *r)
{
    return r->batches;
}

/* A SPEAD item pointer whose 48 bits are the value itself. */
static inline uint64_t
immediate(uint64_t item, uint64_t value)
{
    return 1ULL << 63 | item << 48 | value;
}

/* SPEAD-64-48: magic, version 4, 2 and 6 bytes to an item pointer, the number of items; then heap counter, heap size, offset in the
 * heap and payload length, and one item that is the whole heap. */
static inline void
write_spead(uint8_t *packet, int size, uint64_t number, uint64_t heap)
{
    uint64_t payload = (uint64_t)(size - SPEAD_BYTES);
    const uint64_t words[SPEAD_WORDS] = {
        0x5304020600000000 | (SPEAD_WORDS - 1), immediate(1, number / heap + 1), immediate(2, heap * payload),
        immediate(3, number % heap * payload),  immediate(4, payload),           0x1000ULL << 48,
    };
    for (int i = 0; i < SPEAD_WORDS; i++) {
        uint64_t word = htobe64(words[i]);
        memcpy(packet + 8 * i, &word, sizeof word);
    }
}

/* Send `count` datagrams of `size` bytes on a connected socket, `segments` to a system call by UDP GSO (udp(7), UDP_SEGMENT);
 * each begins with its sequence number or, with `heap`, is a SPEAD packet of heaps of so many. The `interval`, in ns a datagram, is
 * kept by absolute deadlines of the system calls; 0: full speed. Returns nanoseconds taken, or -errno. */
int64_t
reference_send(int fd, int64_t count, int size, int segments, int heap, double interval)
{
    static uint8_t buffer[65536];
    if (segments < 1 || segments > MAX_SEGMENTS || size < (heap ? SPEAD_BYTES : 8) || size * segments > 65507)
        return -EINVAL;
    if (segments > 1 && setsockopt(fd, IPPROTO_UDP, OPTION_UDP_SEGMENT, &size, sizeof size))
        return -errno;
    set_timer_slack(interval > 0 ? 1 : 0);
    int64_t start = now_ns();
    for (int64_t sequence = 0; sequence < count;) {
        int now = count - sequence < segments ? (int)(count - sequence) : segments;
        for (int i = 0; i < now; i++) {
            int64_t number = sequence + i;
            if (heap)
                write_spead(buffer + (size_t)i * (size_t)size, size, (uint64_t)number, (uint64_t)heap);
            else
                memcpy(buffer + (size_t)i * (size_t)size, &number, sizeof number);
        }
        if (interval > 0)
            wait_until(start + (int64_t)((double)sequence * interval));
        if (send(fd, buffer, (size_t)now * (size_t)size, 0) >= 0)
            sequence += now;
        else if (errno != EINTR)
            return -errno;
    }
    return now_ns() - start;
}
