/* What the systems with recvmsg(2) have in common: memberships (membership.h), slots of struct msghdr, what control messages report, and
 * message vectors to send. linux.h, darwin.h and posix.h include it, and say before: what one message is (mcast_message), how a socket address
 * knows its length (mcast_set_length), how often a membership is tried (MCAST_MEMBERSHIP_TRIES), whether the length of what was
 * truncated is reported (MCAST_REPORTS_WIRE_LENGTH), and how many messages are received and sent (mcast_receive_messages, mcast_send_messages). */
#ifndef MCAST_MSGHDR_H
#define MCAST_MSGHDR_H

#include "aligned.h"
#include "cmsg.h"
#include "pthreads.h"
#include "record.h"
#include "sockaddr.h"
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* What a socket is received from by: the descriptor is all that these systems need. */
typedef int mcast_descriptor;

static inline int
mcast_descriptor_open(mcast_descriptor *descriptor, int fd)
{
    *descriptor = fd;
    return 0;
}

static inline int
mcast_set_option(int fd, int level, int number, int value)
{
    return setsockopt(fd, level, number, &value, sizeof value) == 0 ? 0 : -errno;
}

/* Every row of the table is what the headers have; whether the kernel has it too shows when it is set. */
static inline int
mcast_has_option(const mcast_option *option)
{
    (void)option;
    return 1;
}

#include "membership.h"

/* ---- slots that are received into ---- */

/* Source, time, pktinfo of the larger family, overflow, TTL, TOS and segment size. */
enum {
    MCAST_CONTROL_SIZE = 256,
};
_Static_assert(CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(6 * sizeof(int64_t)) +
                       CMSG_SPACE(2 * sizeof(int64_t)) + 5 * CMSG_SPACE(sizeof(int)) <=
                   MCAST_CONTROL_SIZE,
               "there is space for every control message that is requested");

typedef struct mcast_scratch {
    unsigned count;
    size_t size;
    unsigned char *payloads;
    size_t mapped;
    mcast_message *messages;
    struct iovec (*vectors)[2]; /* the second is used by mcast_scratch_receive_into alone */
    struct sockaddr_in6 *names;
    unsigned char (*controls)[MCAST_CONTROL_SIZE];
} mcast_scratch;

static inline void
mcast_scratch_close(mcast_scratch *scratch)
{
    if (scratch->payloads)
        munmap(scratch->payloads, scratch->mapped);
    free(scratch->messages);
    free(scratch->vectors);
    free(scratch->names);
    free(scratch->controls);
    memset(scratch, 0, sizeof *scratch);
}

/* `count` slots of `size` bytes; pages that no packet reaches are never touched. They lie an odd number of cache lines apart: at a power
 * of two all their first lines would share one set of the cache. 0, or -errno. */
static inline int
mcast_scratch_open(mcast_scratch *scratch, unsigned count, size_t size)
{
    memset(scratch, 0, sizeof *scratch);
    size_t stride = ((size + 63) / 64 | 1) * 64;
    scratch->mapped = stride * count;
    void *mapping = mmap(NULL, scratch->mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    scratch->payloads = mapping == MAP_FAILED ? NULL : mapping;
    scratch->messages = calloc(count, sizeof *scratch->messages);
    scratch->vectors = calloc(count, sizeof *scratch->vectors);
    scratch->names = calloc(count, sizeof *scratch->names);
    scratch->controls = calloc(count, sizeof *scratch->controls);
    if (!scratch->payloads || !scratch->messages || !scratch->vectors || !scratch->names || !scratch->controls) {
        mcast_scratch_close(scratch);
        return -ENOMEM;
    }
    scratch->count = count;
    scratch->size = size;
    for (unsigned i = 0; i < count; i++) {
        struct msghdr *header = &scratch->messages[i].msg_hdr;
        scratch->vectors[i][0].iov_base = scratch->payloads + stride * i;
        scratch->vectors[i][0].iov_len = size;
        header->msg_iov = scratch->vectors[i];
        header->msg_iovlen = 1;
        header->msg_name = &scratch->names[i];
        header->msg_control = scratch->controls[i];
    }
    return 0;
}

/* Resets the in-out fields: what one packet left there must not be inherited by the next. */
static inline void
mcast_scratch_reset(mcast_scratch *scratch, unsigned i)
{
    struct msghdr *header = &scratch->messages[i].msg_hdr;
    header->msg_namelen = sizeof *scratch->names;
    header->msg_controllen = MCAST_CONTROL_SIZE;
    header->msg_flags = 0;
}

/* Fills up to `wanted` slots with what is queued; how many, or -errno. Never waits. */
static inline int
mcast_scratch_receive(mcast_scratch *scratch, mcast_descriptor fd, unsigned wanted)
{
    for (unsigned i = 0; i < wanted; i++)
        mcast_scratch_reset(scratch, i);
    return mcast_receive_messages(fd, scratch->messages, wanted);
}

enum { MCAST_RECEIVES_INTO = 1 };

/* As mcast_scratch_receive, but that the first `expected` bytes of message `i` go to `to + i * expected`, and only what is beyond them to
 * the start of slot `i`. */
static inline int
mcast_scratch_receive_into(mcast_scratch *scratch, mcast_descriptor fd, unsigned wanted, unsigned char *to,
                           size_t expected)
{
    for (unsigned i = 0; i < wanted; i++) {
        struct iovec *vectors = scratch->vectors[i];
        mcast_scratch_reset(scratch, i);
        vectors[1] = (struct iovec){vectors[0].iov_base, scratch->size - expected};
        vectors[0] = (struct iovec){to + i * expected, expected};
        scratch->messages[i].msg_hdr.msg_iovlen = 2;
    }
    int received = mcast_receive_messages(fd, scratch->messages, wanted);
    for (unsigned i = 0; i < wanted; i++) {
        scratch->vectors[i][0] = (struct iovec){scratch->vectors[i][1].iov_base, scratch->size};
        scratch->messages[i].msg_hdr.msg_iovlen = 1;
    }
    return received;
}

/* ---- what control messages report ---- */

static inline void
mcast_read_time(const struct cmsghdr *message, mcast_record *record)
{
    int64_t wide[2];
    int32_t narrow[2];
    if (mcast_cmsg_value(message, wide, sizeof wide))
        record->timestamp = wide[0] * 1000000000 + wide[1];
    else if (mcast_cmsg_value(message, narrow, sizeof narrow)) /* 32-bit systems */
        record->timestamp = narrow[0] * (int64_t)1000000000 + narrow[1];
}

static inline void
mcast_read_pktinfo6(const struct cmsghdr *message, mcast_record *record)
{
    struct in6_pktinfo info;
    if (!mcast_cmsg_value(message, &info, sizeof info))
        return;
    memcpy(record->group, &info.ipi6_addr, 16);
    record->interface_index = info.ipi6_ifindex;
}

/* What a control message of IPv6 says, which is the same everywhere (RFC 3542). */
static inline void
mcast_read_control6(const struct cmsghdr *message, mcast_record *record)
{
    int type = message->cmsg_type;
    if (type == IPV6_PKTINFO)
        mcast_read_pktinfo6(message, record);
    else if (type == IPV6_HOPLIMIT && mcast_cmsg_byte(message, &record->ttl))
        record->flags |= MCAST_TTL;
    else if (type == IPV6_TCLASS && mcast_cmsg_byte(message, &record->tos))
        record->flags |= MCAST_TOS;
}

/* What one control message says of the packet; each system's own. */
static inline void mcast_read_control(const struct cmsghdr *message, mcast_record *record, mcast_ancillary *ancillary);

/* Bytes of payload in slot `i` after a receive: a kernel that reports the length on the wire may report more than the slot holds. */
static inline size_t
mcast_scratch_length(const mcast_scratch *scratch, unsigned i)
{
    size_t length = scratch->messages[i].msg_len;
    return length < scratch->size ? length : scratch->size;
}

/* Describes slot `i` after a receive: adds to a record that already holds what the socket implies, and to what was reported before; returns
 * the payload, of record->length bytes. */
static inline const unsigned char *
mcast_scratch_read(const mcast_scratch *scratch, unsigned i, mcast_record *record, mcast_ancillary *ancillary)
{
    struct msghdr *header = &scratch->messages[i].msg_hdr;
    int truncated = (header->msg_flags & MSG_TRUNC) != 0;
    record->length = (uint16_t)mcast_scratch_length(scratch, i);
    record->wire_length = truncated && !MCAST_REPORTS_WIRE_LENGTH ? 0 : (uint16_t)scratch->messages[i].msg_len;
    record->flags = truncated ? MCAST_TRUNCATED : 0;
    mcast_read_source(header->msg_name, header->msg_namelen, record);
    for (struct cmsghdr *message = CMSG_FIRSTHDR(header); message; message = CMSG_NXTHDR(header, message))
        mcast_read_control(message, record, ancillary);
    return scratch->vectors[i][0].iov_base;
}

/* ---- the clock ---- */

static inline int64_t
mcast_monotonic_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- sending ---- */

/* Answers of the kernel that the sender reacts to. */
enum {
    MCAST_ENOBUFS = ENOBUFS,
    MCAST_EMSGSIZE = EMSGSIZE,
};

/* What one call to send takes: messages, each of them one datagram, or a super-packet of up to 64 that the kernel segments where it can
 * (Linux: udp(7), UDP_SEGMENT). */
enum {
    MCAST_VECTOR_MESSAGES = 256,
    MCAST_VECTOR_PIECES = 1024, /* also what one message may gather (UIO_MAXIOV) */
    MCAST_SEGMENTS_MAX = 64,    /* UDP_MAX_SEGMENTS before Linux 6.9 */
    MCAST_SUPER_MAX = 65507,
};

/* Zeros at first: what is never set here, the flags, is never changed by sending either. */
typedef struct mcast_message_vector {
    unsigned messages;
    unsigned used; /* pieces */
    mcast_message headers[MCAST_VECTOR_MESSAGES];
    struct iovec pieces[MCAST_VECTOR_PIECES];
    unsigned datagrams[MCAST_VECTOR_MESSAGES]; /* in each message */
    _Alignas(struct cmsghdr) unsigned char controls[MCAST_VECTOR_MESSAGES][CMSG_SPACE(sizeof(uint16_t))];
} mcast_message_vector;

#include "vector.h"

static inline void
mcast_vector_begin(mcast_message_vector *vector, const struct sockaddr_storage *address, socklen_t size)
{
    struct msghdr *header = &vector->headers[vector->messages].msg_hdr;
    header->msg_name = (void *)address;
    header->msg_namelen = size;
    header->msg_iov = &vector->pieces[vector->used];
    header->msg_iovlen = 0;
    header->msg_control = NULL;
    header->msg_controllen = 0;
    vector->datagrams[vector->messages++] = 0;
}

/* Adds datagrams that lie one after the other to the last message; neighbours in memory become one piece. */
static inline void
mcast_vector_add_several(mcast_message_vector *vector, struct iovec payload, unsigned datagrams)
{
    struct msghdr *header = &vector->headers[vector->messages - 1].msg_hdr;
    struct iovec *next = &vector->pieces[vector->used];
    vector->datagrams[vector->messages - 1] += datagrams;
    if (header->msg_iovlen && (unsigned char *)next[-1].iov_base + next[-1].iov_len == payload.iov_base) {
        next[-1].iov_len += payload.iov_len;
        return;
    }
    *next = payload;
    header->msg_iovlen++;
    vector->used++;
}

/* Adds one datagram to the last message. */
static inline void
mcast_vector_add(mcast_message_vector *vector, struct iovec payload)
{
    mcast_vector_add_several(vector, payload, 1);
}

/* Bytes that message `i` held, after it left. */
static inline size_t
mcast_vector_bytes(const mcast_message_vector *vector, unsigned i)
{
    return vector->headers[i].msg_len;
}

/* Sends without waiting; how many messages left, or -errno when none did. */
static inline int
mcast_vector_send(mcast_message_vector *vector, int fd)
{
    return mcast_send_messages(fd, vector->headers, vector->messages);
}

/* Waits until the send buffer has space, for so long at the most. An error queue that holds something answers at once (poll(2),
 * POLLERR), so that a moment is slept then. */
static inline void
mcast_wait_writable(int fd, int milliseconds)
{
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    if (poll(&one, 1, milliseconds) > 0 && !(one.revents & POLLOUT))
        usleep(100);
}

#endif
