/* The limit of coalesced receiving: plain C that splits what UDP_GRO hands over into 64-byte records; see reference.c. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

enum {
    SLOTS = 16,
    SLOT_BYTES = 65536 + 64,
    CONTROL_BYTES = 192,
    MOST_RECORDS = SLOTS * 1024,
    OPTION_UDP_GRO = 104, /* udp(7), Linux 5.0; absent from old headers */
};

struct record {
    int64_t timestamp;
    uint32_t offset, interface, dropped;
    uint16_t length, wire_length;
    uint8_t source[16], group[16];
    uint16_t source_port, port, flags;
    uint8_t ttl, tos;
};

struct receiver {
    struct mmsghdr messages[SLOTS];
    struct iovec vectors[SLOTS];
    struct sockaddr_in names[SLOTS];
    struct record records[MOST_RECORDS];
    int64_t batches;
    _Alignas(16) uint8_t control[SLOTS][CONTROL_BYTES];
    uint8_t payload[SLOTS][SLOT_BYTES];
};

static struct receiver receiver;

/* The bytes of each packet in a slot but the last one: what the kernel tells, else all of them are one packet. */
static int
segment_size(struct msghdr *header, int length)
{
    for (struct cmsghdr *m = CMSG_FIRSTHDR(header); m; m = CMSG_NXTHDR(header, m)) {
        int size;
        if (m->cmsg_level == IPPROTO_UDP && m->cmsg_type == OPTION_UDP_GRO) {
            memcpy(&size, CMSG_DATA(m), sizeof size);
            return size;
        }
    }
    return length ? length : 1;
}

static struct record *
split(struct record *record, unsigned slot, uint64_t *bytes)
{
    struct msghdr *header = &receiver.messages[slot].msg_hdr;
    int length = (int)receiver.messages[slot].msg_len, size = segment_size(header, length);
    for (int at = 0; at < length; at += size, record++) {
        memset(record, 0, sizeof *record);
        record->offset = (uint32_t)at;
        record->length = record->wire_length = (uint16_t)(length - at < size ? length - at : size);
        record->source[10] = record->source[11] = 0xff;
        memcpy(record->source + 12, &receiver.names[slot].sin_addr, 4);
        record->source_port = ntohs(receiver.names[slot].sin_port);
        *bytes += record->length;
    }
    return record;
}

/* Receive until `limit` packets or the socket's SO_RCVTIMEO; sums lengths into `bytes`. Returns packets, or -errno. */
int64_t
reference_gro_receive(int fd, int64_t limit, uint64_t *bytes, int64_t *batches)
{
    int64_t packets = 0;
    *bytes = 0;
    *batches = 0;
    while (packets < limit) {
        for (unsigned i = 0; i < SLOTS; i++) {
            receiver.vectors[i] = (struct iovec){receiver.payload[i], SLOT_BYTES};
            receiver.messages[i].msg_hdr = (struct msghdr){.msg_name = &receiver.names[i],
                                                           .msg_namelen = sizeof receiver.names[i],
                                                           .msg_iov = &receiver.vectors[i],
                                                           .msg_iovlen = 1,
                                                           .msg_control = receiver.control[i],
                                                           .msg_controllen = CONTROL_BYTES};
        }
        int got = recvmmsg(fd, receiver.messages, SLOTS, MSG_WAITFORONE, NULL);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return errno == EAGAIN ? packets : -errno;
        struct record *end = receiver.records;
        for (unsigned i = 0; i < (unsigned)got; i++)
            end = split(end, i, bytes);
        packets += end - receiver.records;
        ++*batches;
    }
    return packets;
}
