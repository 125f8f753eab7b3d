/* Linux: recvmmsg(2), sendmmsg(2), epoll(7), ip(7), ipv6(7), udp(7), socket(7). */
#ifndef MCAST_LINUX_H
#define MCAST_LINUX_H

#include "cmsg.h"
#include "record.h"
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define MCAST_SYSTEM "Linux"

/* Option numbers that old headers lack, from the kernel's uapi headers. */
enum {
    LINUX_SO_RCVBUFFORCE = 33,
    LINUX_SO_TIMESTAMPNS = 35,
    LINUX_SO_TIMESTAMPING = 37,
    LINUX_SO_RXQ_OVFL = 40,
    LINUX_SO_BUSY_POLL = 46,
    LINUX_SO_MAX_PACING_RATE = 47,
    LINUX_SO_MEMINFO = 55,
    LINUX_IP_MULTICAST_ALL = 49,
    LINUX_IPV6_MULTICAST_ALL = 29,
    LINUX_UDP_SEGMENT = 103,
    LINUX_UDP_GRO = 104,
};

static const mcast_option mcast_options[] = {
    {"SO_BINDTODEVICE", SOL_SOCKET, SO_BINDTODEVICE},
    {"SO_RCVBUFFORCE", SOL_SOCKET, LINUX_SO_RCVBUFFORCE},
    {"SO_TIMESTAMPNS", SOL_SOCKET, LINUX_SO_TIMESTAMPNS},
    {"SO_TIMESTAMPING", SOL_SOCKET, LINUX_SO_TIMESTAMPING},
    {"SO_RXQ_OVFL", SOL_SOCKET, LINUX_SO_RXQ_OVFL},
    {"SO_BUSY_POLL", SOL_SOCKET, LINUX_SO_BUSY_POLL},
    {"SO_MAX_PACING_RATE", SOL_SOCKET, LINUX_SO_MAX_PACING_RATE},
    {"SO_MEMINFO", SOL_SOCKET, LINUX_SO_MEMINFO},
    {"IP_PKTINFO", IPPROTO_IP, IP_PKTINFO},
    {"IP_RECVTTL", IPPROTO_IP, IP_RECVTTL},
    {"IP_RECVTOS", IPPROTO_IP, IP_RECVTOS},
    {"IP_MULTICAST_ALL", IPPROTO_IP, LINUX_IP_MULTICAST_ALL},
    {"IP_MULTICAST_IF", IPPROTO_IP, IP_MULTICAST_IF},
    {"IP_MULTICAST_TTL", IPPROTO_IP, IP_MULTICAST_TTL},
    {"IP_MULTICAST_LOOP", IPPROTO_IP, IP_MULTICAST_LOOP},
    {"IP_TOS", IPPROTO_IP, IP_TOS},
    {"IP_RECVERR", IPPROTO_IP, IP_RECVERR},
    {"IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY},
    {"IPV6_RECVPKTINFO", IPPROTO_IPV6, IPV6_RECVPKTINFO},
    {"IPV6_RECVHOPLIMIT", IPPROTO_IPV6, IPV6_RECVHOPLIMIT},
    {"IPV6_RECVTCLASS", IPPROTO_IPV6, IPV6_RECVTCLASS},
    {"IPV6_MULTICAST_ALL", IPPROTO_IPV6, LINUX_IPV6_MULTICAST_ALL},
    {"IPV6_MULTICAST_IF", IPPROTO_IPV6, IPV6_MULTICAST_IF},
    {"IPV6_MULTICAST_HOPS", IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    {"IPV6_MULTICAST_LOOP", IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    {"IPV6_TCLASS", IPPROTO_IPV6, IPV6_TCLASS},
    {"IPV6_RECVERR", IPPROTO_IPV6, IPV6_RECVERR},
    {"UDP_SEGMENT", IPPROTO_UDP, LINUX_UDP_SEGMENT},
    {"MCAST_JOIN_GROUP", IPPROTO_IP, MCAST_JOIN_GROUP},
    {"MCAST_MSFILTER", IPPROTO_IP, MCAST_MSFILTER},
    {NULL, 0, 0},
};

/* ---- memberships: RFC 3678, by interface index, one call for both families ---- */

static const int mcast_membership_options[] = {
    [MCAST_JOIN] = MCAST_JOIN_GROUP,
    [MCAST_LEAVE] = MCAST_LEAVE_GROUP,
    [MCAST_JOIN_SOURCE] = MCAST_JOIN_SOURCE_GROUP,
    [MCAST_LEAVE_SOURCE] = MCAST_LEAVE_SOURCE_GROUP,
    [MCAST_BLOCK] = MCAST_BLOCK_SOURCE,
    [MCAST_UNBLOCK] = MCAST_UNBLOCK_SOURCE,
};

static inline void
mcast_sockaddr(struct sockaddr_storage *address, int version, const uint8_t *packed)
{
    memset(address, 0, sizeof *address);
    if (version == 4) {
        struct sockaddr_in *v4 = (struct sockaddr_in *)address;
        v4->sin_family = AF_INET;
        memcpy(&v4->sin_addr, packed, 4);
    } else {
        struct sockaddr_in6 *v6 = (struct sockaddr_in6 *)address;
        v6->sin6_family = AF_INET6;
        memcpy(&v6->sin6_addr, packed, 16);
    }
}

/* One step of membership; source is NULL for MCAST_JOIN and MCAST_LEAVE. 0, or -errno. */
static inline int
mcast_membership(int fd, int step, int version, uint32_t interface_index, const uint8_t *group, const uint8_t *source)
{
    int level = version == 4 ? IPPROTO_IP : IPPROTO_IPV6;
    struct group_source_req with_source;
    struct group_req plain;
    const void *request = &plain;
    socklen_t size = sizeof plain;
    memset(&plain, 0, sizeof plain);
    memset(&with_source, 0, sizeof with_source);
    if (source) {
        with_source.gsr_interface = interface_index;
        mcast_sockaddr(&with_source.gsr_group, version, group);
        mcast_sockaddr(&with_source.gsr_source, version, source);
        request = &with_source;
        size = sizeof with_source;
    } else {
        plain.gr_interface = interface_index;
        mcast_sockaddr(&plain.gr_group, version, group);
    }
    return setsockopt(fd, level, mcast_membership_options[step], request, size) == 0 ? 0 : -errno;
}

static inline size_t
mcast_filter_request_size(size_t sources)
{
    return GROUP_FILTER_SIZE(sources > 1 ? sources : 1);
}

/* Sets the whole filter of a group that the socket holds (RFC 3678, 5.2.2); `sources` packed, one behind the other. */
static inline int
mcast_set_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int exclude,
                 const uint8_t *sources, size_t count)
{
    size_t width = version == 4 ? 4 : 16, size = mcast_filter_request_size(count);
    struct group_filter *request = calloc(1, size);
    if (!request)
        return -ENOMEM;
    request->gf_interface = interface_index;
    mcast_sockaddr(&request->gf_group, version, group);
    request->gf_fmode = exclude ? MCAST_EXCLUDE : MCAST_INCLUDE;
    request->gf_numsrc = (uint32_t)count;
    for (size_t i = 0; i < count; i++)
        mcast_sockaddr(&request->gf_slist[i], version, sources + i * width);
    int level = version == 4 ? IPPROTO_IP : IPPROTO_IPV6;
    int status = setsockopt(fd, level, MCAST_MSFILTER, request, (socklen_t)GROUP_FILTER_SIZE(count));
    status = status == 0 ? 0 : -errno;
    free(request);
    return status;
}

/* Reads the filter of a group back: how many sources there are (at most `room` of them are stored), or -errno. */
static inline int
mcast_get_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int *exclude, uint8_t *sources,
                 size_t room)
{
    size_t width = version == 4 ? 4 : 16,
           at = version == 4 ? offsetof(struct sockaddr_in, sin_addr) : offsetof(struct sockaddr_in6, sin6_addr);
    socklen_t size = (socklen_t)mcast_filter_request_size(room);
    struct group_filter *request = calloc(1, size);
    if (!request)
        return -ENOMEM;
    request->gf_interface = interface_index;
    mcast_sockaddr(&request->gf_group, version, group);
    request->gf_numsrc = (uint32_t)room;
    int status = getsockopt(fd, version == 4 ? IPPROTO_IP : IPPROTO_IPV6, MCAST_MSFILTER, request, &size);
    status = status == 0 ? (int)request->gf_numsrc : -errno;
    *exclude = request->gf_fmode == MCAST_EXCLUDE;
    for (size_t i = 0; status > 0 && i < (size_t)status && i < room; i++)
        memcpy(sources + i * width, (const uint8_t *)&request->gf_slist[i] + at, width);
    free(request);
    return status;
}

/* The interface and source address that multicast leaves by (IPv4; an address alone is ambiguous, see ip(7)). */
static inline int
mcast_send_interface(int fd, uint32_t interface_index, const uint8_t *source)
{
    struct ip_mreqn request;
    memset(&request, 0, sizeof request);
    memcpy(&request.imr_address, source, 4);
    request.imr_ifindex = (int)interface_index;
    return setsockopt(fd, IPPROTO_IP, IP_MULTICAST_IF, &request, sizeof request) == 0 ? 0 : -errno;
}

/* ---- slots that recvmmsg fills ---- */

/* Source, time, pktinfo of the larger family, overflow, TTL and TOS. */
enum {
    MCAST_CONTROL_SIZE = 256,
};
_Static_assert(CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(2 * sizeof(int64_t)) + 4 * CMSG_SPACE(sizeof(int)) <=
                   MCAST_CONTROL_SIZE,
               "every control message that is asked for has room");

typedef struct mcast_scratch {
    unsigned count;
    size_t size;
    unsigned char *payloads;
    size_t mapped;
    struct mmsghdr *messages;
    struct iovec *vectors;
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

/* `count` slots of `size` bytes; pages that no packet reaches are never touched. 0, or -errno. */
static inline int
mcast_scratch_open(mcast_scratch *scratch, unsigned count, size_t size)
{
    memset(scratch, 0, sizeof *scratch);
    size_t stride = (size + 63) / 64 * 64;
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
        scratch->vectors[i].iov_base = scratch->payloads + stride * i;
        scratch->vectors[i].iov_len = size;
        header->msg_iov = &scratch->vectors[i];
        header->msg_iovlen = 1;
        header->msg_name = &scratch->names[i];
        header->msg_control = scratch->controls[i];
    }
    return 0;
}

/* Fills up to `wanted` slots with what is queued; how many, or -errno. Never waits: recvmmsg's own timeout is only looked
 * at after a packet (recvmmsg(2), BUGS). */
static inline int
mcast_scratch_receive(mcast_scratch *scratch, int fd, unsigned wanted)
{
    for (unsigned i = 0; i < wanted; i++) {
        /* in-out fields: what one packet left here must not be inherited by the next */
        struct msghdr *header = &scratch->messages[i].msg_hdr;
        header->msg_namelen = sizeof *scratch->names;
        header->msg_controllen = MCAST_CONTROL_SIZE;
        header->msg_flags = 0;
    }
    int received = recvmmsg(fd, scratch->messages, wanted, MSG_DONTWAIT | MSG_TRUNC, NULL);
    return received >= 0 ? received : -errno;
}

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
mcast_read_pktinfo4(const struct cmsghdr *message, mcast_record *record)
{
    struct in_pktinfo info;
    if (!mcast_cmsg_value(message, &info, sizeof info))
        return;
    mcast_map_v4(record->group, &info.ipi_addr); /* the header's destination, not ipi_spec_dst */
    record->interface_index = (uint32_t)info.ipi_ifindex;
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

/* What one control message says of the packet. The drop counter is the caller's: it is a total, not of this packet. */
static inline void
mcast_read_control(const struct cmsghdr *message, mcast_record *record, uint32_t *overflow)
{
    int type = message->cmsg_type;
    if (message->cmsg_level == SOL_SOCKET) {
        if (type == LINUX_SO_TIMESTAMPNS)
            mcast_read_time(message, record);
        else if (type == LINUX_SO_RXQ_OVFL)
            mcast_cmsg_value(message, overflow, sizeof *overflow);
    } else if (message->cmsg_level == IPPROTO_IP) {
        if (type == IP_PKTINFO)
            mcast_read_pktinfo4(message, record);
        else if (type == IP_TTL && mcast_cmsg_byte(message, &record->ttl))
            record->flags |= MCAST_TTL;
        else if (type == IP_TOS && mcast_cmsg_byte(message, &record->tos))
            record->flags |= MCAST_TOS;
    } else if (message->cmsg_level == IPPROTO_IPV6) {
        if (type == IPV6_PKTINFO)
            mcast_read_pktinfo6(message, record);
        else if (type == IPV6_HOPLIMIT && mcast_cmsg_byte(message, &record->ttl))
            record->flags |= MCAST_TTL;
        else if (type == IPV6_TCLASS && mcast_cmsg_byte(message, &record->tos))
            record->flags |= MCAST_TOS;
    }
}

static inline void
mcast_read_source(const struct sockaddr_in6 *name, socklen_t size, mcast_record *record)
{
    if (name->sin6_family == AF_INET && size >= sizeof(struct sockaddr_in)) {
        const struct sockaddr_in *v4 = (const struct sockaddr_in *)name;
        mcast_map_v4(record->source, &v4->sin_addr);
        record->source_port = ntohs(v4->sin_port);
    } else if (name->sin6_family == AF_INET6 && size >= sizeof(struct sockaddr_in6)) {
        memcpy(record->source, &name->sin6_addr, 16);
        record->source_port = ntohs(name->sin6_port);
    }
}

/* Bytes of payload in slot `i` after a receive: the kernel tells the length on the wire, which may be more than the slot holds. */
static inline size_t
mcast_scratch_length(const mcast_scratch *scratch, unsigned i)
{
    size_t wire = scratch->messages[i].msg_len;
    return wire < scratch->size ? wire : scratch->size;
}

/* Describes slot `i` after a receive: adds to a record that already holds what the socket implies, updates the cumulative drop counter
 * when the kernel told it, and returns the payload, of record->length bytes. */
static inline const unsigned char *
mcast_scratch_read(const mcast_scratch *scratch, unsigned i, mcast_record *record, uint32_t *overflow)
{
    struct msghdr *header = &scratch->messages[i].msg_hdr;
    record->length = (uint16_t)mcast_scratch_length(scratch, i);
    record->wire_length = (uint16_t)scratch->messages[i].msg_len;
    record->flags = header->msg_flags & MSG_TRUNC ? MCAST_TRUNCATED : 0;
    mcast_read_source(header->msg_name, header->msg_namelen, record);
    for (struct cmsghdr *message = CMSG_FIRSTHDR(header); message; message = CMSG_NXTHDR(header, message))
        mcast_read_control(message, record, overflow);
    return scratch->vectors[i].iov_base;
}

/* ---- waiting, and being woken ---- */

typedef struct mcast_poller {
    int epoll;
    int wake;
} mcast_poller;

enum { MCAST_READY_MAX = 64 };
#define MCAST_WAKE UINT64_MAX /* the key of the wake-up descriptor; sockets have small ones */

static inline int
mcast_poller_add(mcast_poller *poller, int fd, uint64_t key)
{
    struct epoll_event event = {.events = EPOLLIN, .data = {.u64 = key}};
    return epoll_ctl(poller->epoll, EPOLL_CTL_ADD, fd, &event) == 0 ? 0 : -errno;
}

static inline void
mcast_poller_remove(mcast_poller *poller, int fd)
{
    epoll_ctl(poller->epoll, EPOLL_CTL_DEL, fd, NULL);
}

static inline void
mcast_poller_close(mcast_poller *poller)
{
    if (poller->epoll >= 0)
        close(poller->epoll);
    if (poller->wake >= 0)
        close(poller->wake);
    poller->epoll = poller->wake = -1;
}

static inline int
mcast_poller_open(mcast_poller *poller)
{
    poller->epoll = epoll_create1(EPOLL_CLOEXEC);
    poller->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    int status = poller->epoll < 0 || poller->wake < 0 ? -errno : mcast_poller_add(poller, poller->wake, MCAST_WAKE);
    if (status != 0)
        mcast_poller_close(poller);
    return status;
}

/* The keys of what is readable, at most MCAST_READY_MAX; 0 when the time is over; -errno. timeout_ns < 0 waits for ever. */
static inline int
mcast_poller_wait(const mcast_poller *poller, uint64_t *keys, int64_t timeout_ns)
{
    struct epoll_event events[MCAST_READY_MAX];
    int64_t milliseconds = timeout_ns < 0 ? -1 : timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
    int ready =
        epoll_wait(poller->epoll, events, MCAST_READY_MAX, milliseconds > INT32_MAX ? INT32_MAX : (int)milliseconds);
    for (int i = 0; i < ready; i++)
        keys[i] = events[i].data.u64;
    return ready >= 0 ? ready : -errno;
}

/* Makes the poller readable until cleared. */
static inline void
mcast_poller_signal(const mcast_poller *poller)
{
    uint64_t one = 1;
    ssize_t ignored = write(poller->wake, &one, sizeof one); /* full means signalled already */
    (void)ignored;
}

static inline void
mcast_poller_clear(const mcast_poller *poller)
{
    uint64_t count;
    ssize_t ignored = read(poller->wake, &count, sizeof count);
    (void)ignored;
}

static inline int
mcast_poller_descriptor(const mcast_poller *poller)
{
    return poller->epoll;
}

/* ---- sending ---- */

enum { MCAST_SEND_MAX = 256 };

/* Where a datagram goes; a scope only where the system takes one. Returns the size of the address. */
static inline socklen_t
mcast_destination(struct sockaddr_storage *address, const uint8_t *packed, int version, int port, uint32_t scope)
{
    mcast_sockaddr(address, version, packed);
    if (version == 4) {
        ((struct sockaddr_in *)address)->sin_port = htons((uint16_t)port);
        return sizeof(struct sockaddr_in);
    }
    ((struct sockaddr_in6 *)address)->sin6_port = htons((uint16_t)port);
    ((struct sockaddr_in6 *)address)->sin6_scope_id = scope;
    return sizeof(struct sockaddr_in6);
}

/* Sends up to MCAST_SEND_MAX payloads to one address without waiting; how many left, or -errno when none did. */
static inline int
mcast_send_many(int fd, const struct sockaddr_storage *address, socklen_t size, const struct iovec *payloads,
                unsigned count)
{
    struct mmsghdr messages[MCAST_SEND_MAX];
    memset(messages, 0, sizeof *messages * count);
    for (unsigned i = 0; i < count; i++) {
        messages[i].msg_hdr.msg_name = (void *)address;
        messages[i].msg_hdr.msg_namelen = size;
        messages[i].msg_hdr.msg_iov = (struct iovec *)&payloads[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int sent = sendmmsg(fd, messages, count, MSG_DONTWAIT);
    return sent >= 0 ? sent : -errno;
}

/* A train: what one sendmmsg takes. A message is one datagram, or a super-packet of up to 64 that the kernel cuts apart (udp(7),
 * UDP_SEGMENT). */
enum {
    MCAST_TRAIN_MESSAGES = 256,
    MCAST_TRAIN_VECTORS = 1024, /* also what one message may gather (UIO_MAXIOV) */
    MCAST_SEGMENTS_MAX = 64,    /* UDP_MAX_SEGMENTS before Linux 6.9 */
    MCAST_SUPER_MAX = 65507,
};

typedef struct mcast_train {
    unsigned messages;
    unsigned vectors;
    struct mmsghdr headers[MCAST_TRAIN_MESSAGES];
    struct iovec pieces[MCAST_TRAIN_VECTORS];
    unsigned datagrams[MCAST_TRAIN_MESSAGES]; /* in each message */
    _Alignas(struct cmsghdr) unsigned char controls[MCAST_TRAIN_MESSAGES][CMSG_SPACE(sizeof(uint16_t))];
} mcast_train;

/* Whether a message of so many datagrams more has room. */
static inline int
mcast_train_has_room(const mcast_train *train, unsigned datagrams)
{
    return train->messages < MCAST_TRAIN_MESSAGES && train->vectors + datagrams <= MCAST_TRAIN_VECTORS;
}

static inline void
mcast_train_begin(mcast_train *train, const struct sockaddr_storage *address, socklen_t size)
{
    struct msghdr *header = &train->headers[train->messages].msg_hdr;
    memset(header, 0, sizeof *header);
    header->msg_name = (void *)address;
    header->msg_namelen = size;
    header->msg_iov = &train->pieces[train->vectors];
    train->datagrams[train->messages++] = 0;
}

/* One datagram more in the last message; neighbours in memory become one piece. */
static inline void
mcast_train_add(mcast_train *train, struct iovec payload)
{
    struct msghdr *header = &train->headers[train->messages - 1].msg_hdr;
    struct iovec *last = header->msg_iovlen ? &header->msg_iov[header->msg_iovlen - 1] : NULL;
    train->datagrams[train->messages - 1]++;
    if (last && (unsigned char *)last->iov_base + last->iov_len == payload.iov_base) {
        last->iov_len += payload.iov_len;
        return;
    }
    header->msg_iov[header->msg_iovlen++] = payload;
    train->vectors++;
}

/* The kernel cuts the last message into segments of so many bytes. */
static inline void
mcast_train_segment(mcast_train *train, uint16_t size)
{
    struct msghdr *header = &train->headers[train->messages - 1].msg_hdr;
    struct cmsghdr *message = (struct cmsghdr *)train->controls[train->messages - 1];
    header->msg_control = message;
    header->msg_controllen = CMSG_SPACE(sizeof size);
    message->cmsg_level = IPPROTO_UDP;
    message->cmsg_type = LINUX_UDP_SEGMENT;
    message->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(message), &size, sizeof size);
}

/* Sends without waiting; how many messages left, or -errno when none did. */
static inline int
mcast_train_send(mcast_train *train, int fd)
{
    int sent = sendmmsg(fd, train->headers, train->messages, MSG_DONTWAIT);
    return sent >= 0 ? sent : -errno;
}

/* Waits until the send buffer has room, for so long at the most. An error queue that holds something answers at once (poll(2),
 * POLLERR), so that a moment is slept then. */
static inline void
mcast_wait_writable(int fd, int milliseconds)
{
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    if (poll(&one, 1, milliseconds) > 0 && !(one.revents & POLLOUT))
        usleep(100);
}

/* Sleeps until a moment of the monotonic clock, clock_nanosleep(2); a signal ends it. */
static inline void
mcast_sleep_until(int64_t moment)
{
    struct timespec until = {.tv_sec = moment / 1000000000, .tv_nsec = moment % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* Lets this thread wake as late as `slack` ns after its time, instead of the 50 us that are usual (prctl(2), PR_SET_TIMERSLACK);
 * returns what it was before. */
static inline long
mcast_timer_slack(long slack)
{
    int before = prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0);
    prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
    return before;
}

#endif
