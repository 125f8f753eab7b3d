/* The limit of a mapped ring: plain C that walks TPACKET_V3 blocks, parses the headers and fills 64-byte records.
 *
 * Compiled on the spot and called through ctypes. Python makes, filters and binds the packet socket. The records go into one array that
 * every block overwrites, and no payload is touched: that is what makes it a limit.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

enum { BLOCK_BYTES = 1 << 20, MAX_RECORDS = BLOCK_BYTES / 64, HEADERS = 14 + 20 + 8 };

struct record {
    int64_t timestamp;
    uint32_t offset, interface, dropped;
    uint16_t length, wire_length;
    uint8_t source[16], group[16];
    uint16_t source_port, port, flags;
    uint8_t ttl, tos;
};
_Static_assert(sizeof(struct record) == 64, "the record is 64 bytes");

struct ring {
    uint8_t *blocks;
    unsigned count, next;
    int fd;
    uint32_t interface;
    int64_t batches;
    struct record records[MAX_RECORDS];
};

static inline void
map_ipv4(uint8_t out[16], const uint8_t *address)
{
    memset(out, 0, 10);
    out[10] = out[11] = 0xff;
    memcpy(out + 12, address, 4);
}

static inline uint16_t
big16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

/* A ring of so many MiB over a packet socket that is not bound yet; NULL when the system refuses. */
struct ring *
reference_ring_open(int fd, unsigned megabytes, uint32_t interface)
{
    int version = TPACKET_V3;
    struct tpacket_req3 request = {.tp_block_size = BLOCK_BYTES,
                                   .tp_block_nr = megabytes,
                                   .tp_frame_size = 2048,
                                   .tp_frame_nr = BLOCK_BYTES / 2048 * megabytes,
                                   .tp_retire_blk_tov = 10};
    struct ring *r = calloc(1, sizeof *r);
    if (!r || setsockopt(fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
        setsockopt(fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request)) {
        free(r);
        return NULL;
    }
    r->blocks = mmap(NULL, (size_t)BLOCK_BYTES * megabytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    r->count = megabytes;
    r->fd = fd;
    r->interface = interface;
    if (r->blocks == MAP_FAILED) {
        free(r);
        return NULL;
    }
    return r;
}

void
reference_ring_close(struct ring *r)
{
    munmap(r->blocks, (size_t)BLOCK_BYTES * r->count);
    free(r);
}

static inline void
fill_record(struct record *record, const struct tpacket3_hdr *frame, const uint8_t *block, uint32_t interface)
{
    const uint8_t *bytes = (const uint8_t *)frame + frame->tp_mac, *ip = bytes + 14, *udp = bytes + 34;
    record->timestamp = frame->tp_sec * (int64_t)1000000000 + frame->tp_nsec;
    record->offset = (uint32_t)(udp + 8 - block);
    record->interface = interface;
    record->dropped = 0;
    record->length = record->wire_length = (uint16_t)(big16(udp + 4) - 8);
    map_ipv4(record->source, ip + 12);
    map_ipv4(record->group, ip + 16);
    record->source_port = big16(udp);
    record->port = big16(udp + 2);
    record->flags = 0;
    record->ttl = ip[8];
    record->tos = ip[1];
}

/* Whether it is what the loop was made for: IPv4 without options, UDP. */
static inline int
is_plain(const struct tpacket3_hdr *frame)
{
    const uint8_t *ip = (const uint8_t *)frame + frame->tp_mac + 14;
    return frame->tp_snaplen >= HEADERS && big16(ip - 2) == 0x0800 && ip[0] == 0x45 && ip[9] == 17;
}

static int64_t
read_block(struct ring *r, const struct tpacket_hdr_v1 *header, const uint8_t *block, uint64_t *bytes)
{
    const uint8_t *at = block + header->offset_to_first_pkt;
    int64_t packets = 0;
    for (uint32_t i = 0; i < header->num_pkts; i++) {
        const struct tpacket3_hdr *frame = (const struct tpacket3_hdr *)at;
        if (is_plain(frame) && packets < MAX_RECORDS)
            fill_record(&r->records[packets++], frame, block, r->interface);
        at += frame->tp_next_offset;
    }
    for (int64_t i = 0; i < packets; i++)
        *bytes += r->records[i].length;
    return packets;
}

/* Receives until `limit` packets, or until nothing came for so long; sums lengths into `bytes`. Packets, or -errno. */
int64_t
reference_ring_receive(struct ring *r, int64_t limit, int quiet_ms, uint64_t *bytes)
{
    int64_t packets = 0;
    *bytes = 0;
    r->batches = 0;
    while (packets < limit) {
        uint8_t *block = r->blocks + (size_t)BLOCK_BYTES * r->next;
        struct tpacket_hdr_v1 *header = &((struct tpacket_block_desc *)block)->hdr.bh1;
        if (!(__atomic_load_n(&header->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            struct pollfd one = {.fd = r->fd, .events = POLLIN};
            int ready = poll(&one, 1, quiet_ms);
            if (ready < 0 && errno != EINTR)
                return -errno;
            if (ready == 0)
                return packets;
            continue;
        }
        packets += read_block(r, header, block, bytes);
        __atomic_store_n(&header->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        r->next = (r->next + 1) % r->count;
        r->batches++;
    }
    return packets;
}

int64_t
reference_ring_batches(const struct ring *r)
{
    return r->batches;
}
