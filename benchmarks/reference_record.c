/* The limits of recording: plain C programs that write a pcapng file of one IPv4 group, from a mapped ring or from a socket.
 *
 *     reference_record ring|sockets INTERFACE GROUP PORT BUFFER_MIB FILE
 *
 * ring: TPACKET_V3 behind a filter; headers of blocks and frames are gathered into writev from the ring's blocks. sockets: recvmmsg with the
 * time, TTL, TOS and drops of each packet; synthetic headers with right checksums; one write for all that one call brought. SIGINT and SIGTERM end it. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum {
    BLOCK_BYTES = 256 << 10,
    LATENCY_MS = 10,
    VECTORS = 1024, /* IOV_MAX */
    BLOCK_HEADER = 28,
    AT_ONCE = 128,
    LARGEST = 65535,
    HEADERS = 14 + 20 + 8,
    OUT_BYTES = AT_ONCE * 2048,
};

static volatile sig_atomic_t ended;

static void
end(int number)
{
    (void)number;
    ended = 1;
}

static void
fail(const char *what)
{
    perror(what);
    exit(1);
}

static void
write_all(int fd, struct iovec *vectors, int count)
{
    while (count > 0) {
        ssize_t wrote = writev(fd, vectors, count);
        if (wrote < 0) {
            if (errno == EINTR)
                continue;
            fail("write");
        }
        size_t left = (size_t)wrote;
        while (count > 0 && left >= vectors->iov_len) {
            left -= vectors->iov_len;
            vectors++;
            count--;
        }
        if (count > 0) {
            vectors->iov_base = (char *)vectors->iov_base + left;
            vectors->iov_len -= left;
        }
    }
}

static void
begin_file(int fd)
{
    uint32_t section[7] = {0x0a0d0d0a, 28, 0x1a2b3c4d, 1, UINT32_MAX, UINT32_MAX, 28};
    /* Ethernet; times in ns (if_tsresol, 9) */
    uint32_t interface[8] = {1, 32, 1, 0, 9 | 1 << 16, 9, 0, 32};
    if (write(fd, section, sizeof section) != sizeof section ||
        write(fd, interface, sizeof interface) != sizeof interface)
        fail("write");
}

/* What stands before a frame in an enhanced packet block. */
static void
block_header(uint32_t *to, uint64_t time, uint32_t captured, uint32_t original)
{
    uint32_t header[7] = {
        6, BLOCK_HEADER + ((captured + 3) & ~3u) + 4, 0, (uint32_t)(time >> 32), (uint32_t)time, captured, original};
    memcpy(to, header, sizeof header);
}

/* ---- ring ---- */

static void
attach_filter(int fd, uint32_t group, uint16_t port)
{
    struct sock_filter program[] = {
        BPF_STMT(BPF_LD | BPF_H | BPF_ABS, 12),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x0800, 0, 8),
        BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 23),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 17, 0, 6),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 30),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ntohl(group), 0, 4),
        BPF_STMT(BPF_LDX | BPF_B | BPF_MSH, 14),
        BPF_STMT(BPF_LD | BPF_H | BPF_IND, 16),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, port, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, 262144),
        BPF_STMT(BPF_RET | BPF_K, 0),
    };
    struct sock_fprog filter = {sizeof program / sizeof *program, program};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter))
        fail("SO_ATTACH_FILTER");
}

static uint8_t *
open_ring(int *fd, unsigned interface, uint32_t group, uint16_t port, unsigned blocks)
{
    int version = TPACKET_V3, one = 1;
    struct tpacket_req3 request = {.tp_block_size = BLOCK_BYTES,
                                   .tp_block_nr = blocks,
                                   .tp_frame_size = 2048,
                                   .tp_frame_nr = BLOCK_BYTES / 2048 * blocks,
                                   .tp_retire_blk_tov = LATENCY_MS};
    struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL), .sll_ifindex = (int)interface};
    *fd = socket(AF_PACKET, SOCK_RAW, 0);
    if (*fd < 0 || setsockopt(*fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) ||
        setsockopt(*fd, SOL_PACKET, 23 /* PACKET_IGNORE_OUTGOING */, &one, sizeof one) ||
        setsockopt(*fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request))
        fail("ring");
    attach_filter(*fd, group, port);
    uint8_t *blocks_at = mmap(NULL, (size_t)BLOCK_BYTES * blocks, PROT_READ | PROT_WRITE, MAP_SHARED, *fd, 0);
    if (blocks_at == MAP_FAILED || bind(*fd, (struct sockaddr *)&to, sizeof to))
        fail("bind");
    return blocks_at;
}

/* Writes the frames of a block: between two of them the end of one block of the file and the header of the next, as one piece. */
static void
write_block(int file, const uint8_t *block)
{
    static struct iovec vectors[VECTORS];
    static uint32_t between[VECTORS / 2][2 + BLOCK_HEADER / 4];
    const struct tpacket_hdr_v1 *header = &((const struct tpacket_block_desc *)block)->hdr.bh1;
    const uint8_t *at = block + header->offset_to_first_pkt;
    int count = 0;
    uint32_t tail = 0, length = 0; /* bytes that end the block before */
    for (uint32_t i = 0; i < header->num_pkts; i++) {
        const struct tpacket3_hdr *frame = (const struct tpacket3_hdr *)at;
        uint8_t *to = (uint8_t *)between[count / 2] + 8 - tail;
        memset(between[count / 2], 0, 4);
        between[count / 2][1] = length;
        block_header(between[count / 2] + 2, frame->tp_sec * (uint64_t)1000000000 + frame->tp_nsec, frame->tp_snaplen,
                     frame->tp_len);
        vectors[count++] = (struct iovec){to, tail + BLOCK_HEADER};
        vectors[count++] = (struct iovec){(uint8_t *)frame + frame->tp_mac, frame->tp_snaplen};
        tail = 4 + (-frame->tp_snaplen & 3u);
        length = BLOCK_HEADER + ((frame->tp_snaplen + 3) & ~3u) + 4;
        if (count == VECTORS - 2 || i == header->num_pkts - 1) {
            uint32_t last[2] = {0, length};
            vectors[count++] = (struct iovec){(uint8_t *)last + 8 - tail, tail};
            write_all(file, vectors, count);
            count = 0;
            tail = 0;
        }
        at += frame->tp_next_offset;
    }
}

static uint64_t
record_ring(int file, unsigned interface, uint32_t group, uint16_t port, unsigned mib)
{
    int fd;
    unsigned blocks = mib * (1 << 20) / BLOCK_BYTES, next = 0;
    uint8_t *ring = open_ring(&fd, interface, group, port, blocks);
    uint64_t packets = 0;
    fprintf(stderr, "recording\n");
    for (;;) {
        uint8_t *block = ring + (size_t)next * BLOCK_BYTES;
        struct tpacket_hdr_v1 *header = &((struct tpacket_block_desc *)block)->hdr.bh1;
        if (!(__atomic_load_n(&header->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)) {
            struct pollfd one = {.fd = fd, .events = POLLIN};
            if (ended)
                return packets;
            poll(&one, 1, 50);
            continue;
        }
        write_block(file, block);
        packets += header->num_pkts;
        __atomic_store_n(&header->block_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        next = (next + 1) % blocks;
    }
}

/* ---- sockets ---- */

static uint32_t
sum(const void *bytes, size_t size, uint32_t before)
{
    const uint8_t *at = bytes;
    uint64_t total = before;
    uint32_t word;
    for (; size >= 4; size -= 4, at += 4) {
        memcpy(&word, at, 4);
        total += word;
    }
    word = 0;
    memcpy(&word, at, size);
    total += word;
    total = (total & 0xffffffff) + (total >> 32);
    total = (total & 0xffff) + (total >> 16 & 0xffff) + (total >> 32);
    return (uint32_t)((total & 0xffff) + (total >> 16));
}

static uint16_t
folded(uint32_t total)
{
    total = (total & 0xffff) + (total >> 16);
    total = (total & 0xffff) + (total >> 16);
    return (uint16_t)~total;
}

static int
open_socket(unsigned interface, uint32_t group, uint16_t port, unsigned mib)
{
    int fd = socket(AF_INET, SOCK_DGRAM, 0), one = 1, size = (int)(mib << 20);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = group};
    struct ip_mreqn request = {.imr_multiaddr.s_addr = group, .imr_ifindex = (int)interface};
    struct timeval wait = {0, 50000};
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof size) ||
        setsockopt(fd, SOL_SOCKET, SO_TIMESTAMPNS, &one, sizeof one) ||
        setsockopt(fd, SOL_SOCKET, SO_RXQ_OVFL, &one, sizeof one) ||
        setsockopt(fd, IPPROTO_IP, IP_RECVTTL, &one, sizeof one) ||
        setsockopt(fd, IPPROTO_IP, IP_RECVTOS, &one, sizeof one) ||
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof wait) || bind(fd, (struct sockaddr *)&to, sizeof to) ||
        setsockopt(fd, IPPROTO_IP, IP_ADD_MEMBERSHIP, &request, sizeof request))
        fail("socket");
    return fd;
}

typedef struct slot {
    struct sockaddr_in from;
    union {
        char bytes[256];
        struct cmsghdr aligned;
    } control;
    uint8_t payload[2048];
} slot;

/* One packet as a block of the file; its size. */
static size_t
put_packet(uint8_t *to, struct msghdr *message, slot *one, size_t size, uint32_t group, uint16_t port)
{
    uint64_t time = 0;
    uint8_t ttl = 0, tos = 0;
    for (struct cmsghdr *at = CMSG_FIRSTHDR(message); at; at = CMSG_NXTHDR(message, at)) {
        if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SCM_TIMESTAMPNS) {
            struct timespec moment;
            memcpy(&moment, CMSG_DATA(at), sizeof moment);
            time = (uint64_t)moment.tv_sec * 1000000000 + (uint64_t)moment.tv_nsec;
        } else if (at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_TTL) {
            ttl = *CMSG_DATA(at);
        } else if (at->cmsg_level == IPPROTO_IP && at->cmsg_type == IP_TOS) {
            tos = *CMSG_DATA(at);
        }
    }
    uint32_t captured = (uint32_t)(HEADERS + size), length = BLOCK_HEADER + ((captured + 3) & ~3u) + 4;
    uint32_t header[7];
    block_header(header, time, captured, captured);
    memcpy(to, header, sizeof header);
    uint8_t *ethernet = to + BLOCK_HEADER, *ip = ethernet + 14, *udp = ip + 20;
    memcpy(ethernet, "\x01\x00\x5e\0\0\0\x02\0\0\0\0\0\x08\x00", 14);
    memcpy(ethernet + 3, (uint8_t *)&group + 1, 3);
    uint8_t header4[20] = {0x45, tos, (uint8_t)((size + 28) >> 8), (uint8_t)(size + 28), 0, 0, 0, 0, ttl, 17};
    memcpy(header4 + 12, &one->from.sin_addr, 4);
    memcpy(header4 + 16, &group, 4);
    uint16_t checksum = folded(sum(header4, 20, 0));
    memcpy(header4 + 10, &checksum, 2);
    memcpy(ip, header4, 20);
    uint16_t header_udp[4] = {one->from.sin_port, htons(port), htons((uint16_t)(size + 8)), 0};
    memcpy(udp + 8, one->payload, size);
    uint32_t total = sum(header_udp, 8, sum(ip + 12, 8, (uint32_t)htons(17) + header_udp[2]));
    header_udp[3] = folded(sum(udp + 8, size, total));
    memcpy(udp, header_udp, 8);
    memset(udp + 8 + size, 0, 3);
    memcpy(to + length - 4, &length, 4);
    return length;
}

static uint64_t
record_sockets(int file, unsigned interface, uint32_t group, uint16_t port, unsigned mib)
{
    static slot slots[AT_ONCE];
    static struct mmsghdr messages[AT_ONCE];
    static struct iovec vectors[AT_ONCE];
    static uint8_t out[OUT_BYTES + AT_ONCE * 128];
    int fd = open_socket(interface, group, port, mib);
    uint64_t packets = 0;
    fprintf(stderr, "recording\n");
    for (;;) {
        for (int i = 0; i < AT_ONCE; i++) {
            vectors[i] = (struct iovec){slots[i].payload, sizeof slots[i].payload};
            messages[i].msg_hdr = (struct msghdr){.msg_name = &slots[i].from,
                                                  .msg_namelen = sizeof slots[i].from,
                                                  .msg_iov = &vectors[i],
                                                  .msg_iovlen = 1,
                                                  .msg_control = slots[i].control.bytes,
                                                  .msg_controllen = sizeof slots[i].control};
        }
        int count = recvmmsg(fd, messages, AT_ONCE, MSG_WAITFORONE, NULL);
        if (count < 0 && errno != EAGAIN && errno != EINTR)
            fail("recvmmsg");
        if (count <= 0 && ended)
            return packets;
        size_t size = 0;
        for (int i = 0; i < count; i++)
            size += put_packet(out + size, &messages[i].msg_hdr, &slots[i], messages[i].msg_len, group, port);
        if (size > 0)
            write_all(file, &(struct iovec){out, size}, 1);
        packets += count > 0 ? (uint64_t)count : 0;
    }
}

int
main(int count, char **arguments)
{
    if (count != 7) {
        fprintf(stderr, "usage: %s ring|sockets INTERFACE GROUP PORT BUFFER_MIB FILE\n", arguments[0]);
        return 2;
    }
    unsigned interface = if_nametoindex(arguments[2]), mib = (unsigned)atoi(arguments[5]);
    uint32_t group = inet_addr(arguments[3]);
    uint16_t port = (uint16_t)atoi(arguments[4]);
    struct sigaction action = {.sa_handler = end};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    int file = open(arguments[6], O_CREAT | O_TRUNC | O_WRONLY, 0600);
    if (file < 0)
        fail(arguments[6]);
    begin_file(file);
    uint64_t packets = strcmp(arguments[1], "ring") == 0 ? record_ring(file, interface, group, port, mib)
                                                         : record_sockets(file, interface, group, port, mib);
    fprintf(stderr, "%llu packets\n", (unsigned long long)packets);
    return 0;
}
