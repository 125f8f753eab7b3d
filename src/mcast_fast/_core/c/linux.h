/* Linux: recvmmsg(2), sendmmsg(2), epoll(7), ip(7), ipv6(7), udp(7), socket(7). */
#ifndef MCAST_LINUX_H
#define MCAST_LINUX_H

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "options.h"

#define MCAST_SYSTEM "Linux"
#define MCAST_HAS_RING 1
#define MCAST_HAS_WRITEV 1
#define MCAST_HAS_UDP_GRO 1

/* Option numbers that old headers lack, from the kernel's uapi headers. */
enum {
    LINUX_SO_RCVBUFFORCE = 33,
    LINUX_SO_TIMESTAMPNS = 35,
    LINUX_SO_TIMESTAMPING = 37,
    LINUX_SO_RXQ_OVFL = 40,
    LINUX_SO_BUSY_POLL = 46,
    LINUX_SO_MAX_PACING_RATE = 47,
    LINUX_SO_MEMINFO = 55,
    LINUX_SO_NETNS_COOKIE = 71,
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
    {"IP_MULTICAST_ALL", IPPROTO_IP, LINUX_IP_MULTICAST_ALL},
    {"IP_RECVERR", IPPROTO_IP, IP_RECVERR},
    {"IPV6_MULTICAST_ALL", IPPROTO_IPV6, LINUX_IPV6_MULTICAST_ALL},
    {"IPV6_RECVERR", IPPROTO_IPV6, IPV6_RECVERR},
    {"UDP_SEGMENT", IPPROTO_UDP, LINUX_UDP_SEGMENT},
    {"UDP_GRO", IPPROTO_UDP, LINUX_UDP_GRO},
    {"MCAST_MSFILTER", IPPROTO_IP, MCAST_MSFILTER},
    MCAST_OPTIONS_OF_POSIX,
    {NULL, 0, 0},
};

static const mcast_missing mcast_missing_features[] = {
    {"batched_receive", "a sandbox (seccomp) or an emulator refuses recvmmsg: one packet is received per system call"},
    {"batched_send", "a sandbox (seccomp) or an emulator refuses sendmmsg: one packet is sent per system call"},
    {NULL, NULL},
};

/* Whether recvmmsg and sendmmsg were refused to this process: then for good (seccomp(2)). One pair of words for all files. */
__attribute__((weak)) int mcast_refused[2];

/* Whether an error of a call is that it is refused, and not of what it was to do: -1 is a bad descriptor to a call that works. To sendmmsg
 * a firewall answers EPERM too. */
static inline int
mcast_call_is_refused(int error, int sends)
{
    if (error != ENOSYS && error != EPERM)
        return 0;
    int answer = sends ? sendmmsg(-1, NULL, 0, 0) : recvmmsg(-1, NULL, 0, 0, NULL);
    if (answer >= 0 || (errno != ENOSYS && errno != EPERM))
        return 0;
    __atomic_store_n(&mcast_refused[sends], 1, __ATOMIC_RELAXED);
    return 1;
}

/* Whether a row of mcast_missing_features holds now: a filter may come at any time, and stays. */
static inline int
mcast_is_missing(const mcast_missing *row)
{
    int sends = row != &mcast_missing_features[0];
    return __atomic_load_n(&mcast_refused[sends], __ATOMIC_RELAXED) || mcast_call_is_refused(ENOSYS, sends);
}

/* ---- what msghdr.h needs to know ---- */

typedef struct mmsghdr mcast_message;

enum { MCAST_MEMBERSHIP_TRIES = 1, MCAST_REPORTS_WIRE_LENGTH = 1 };

static inline void
mcast_set_length(struct sockaddr_storage *address, size_t size)
{
    (void)address, (void)size; /* Linux keeps no length in an address */
}

#include "single_messages.h"

/* Never waits: recvmmsg's own timeout is only looked at after a packet (recvmmsg(2), BUGS). */
static inline int
mcast_receive_messages(int fd, mcast_message *messages, unsigned count)
{
    const int flags = MSG_DONTWAIT | MSG_TRUNC;
    if (__atomic_load_n(&mcast_refused[0], __ATOMIC_RELAXED))
        return mcast_receive_singly(fd, messages, count, flags);
    int received = recvmmsg(fd, messages, count, flags, NULL), error = received < 0 ? errno : 0;
    if (received >= 0 || !mcast_call_is_refused(error, 0))
        return received >= 0 ? received : -error;
    return mcast_receive_singly(fd, messages, count, flags);
}

static inline int
mcast_send_messages(int fd, mcast_message *messages, unsigned count)
{
    if (__atomic_load_n(&mcast_refused[1], __ATOMIC_RELAXED))
        return mcast_send_singly(fd, messages, count);
    int sent = sendmmsg(fd, messages, count, MSG_DONTWAIT), error = sent < 0 ? errno : 0;
    if (sent >= 0 || !mcast_call_is_refused(error, 1))
        return sent >= 0 ? sent : -error;
    return mcast_send_singly(fd, messages, count);
}

#include "condition.h"
#include "msghdr.h"

/* ---- memberships ---- */

static inline size_t
mcast_filter_request_size(size_t sources)
{
    return GROUP_FILTER_SIZE(sources > 1 ? sources : 1);
}

/* Sets the whole filter of a group that the socket holds (RFC 3678, 5.2.2); `sources` packed, one after the other. */
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
    size_t width = version == 4 ? 4 : 16;
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
        mcast_pack_address(sources + i * width, version, &request->gf_slist[i]);
    free(request);
    return status;
}

/* ---- the buffer of a socket ---- */

enum { MCAST_REPORTS_DROPS = 1 }; /* buffers dropped at a socket */

typedef struct mcast_socket_memory {
    uint32_t
        backlog;     /* bytes, with the kernel's bookkeeping, and up to a quarter of the buffer that was read already */
    uint32_t buffer; /* the same, at the most */
    uint32_t drops;  /* buffers dropped since it was opened, modulo 2^32 */
} mcast_socket_memory;

/* How full a socket's buffer is (SO_MEMINFO, items 0, 1 and 8): 0, or -errno. */
static inline int
mcast_read_socket_memory(mcast_descriptor fd, mcast_socket_memory *memory)
{
    uint32_t info[9];
    socklen_t size = sizeof info;
    if (getsockopt(fd, SOL_SOCKET, LINUX_SO_MEMINFO, info, &size) != 0)
        return -errno;
    if (size < sizeof info)
        return -ENOPROTOOPT;
    *memory = (mcast_socket_memory){info[0], info[1], info[8]};
    return 0;
}

static inline int
mcast_read_drops(mcast_descriptor fd, uint32_t *drops)
{
    mcast_socket_memory memory = {0};
    int status = mcast_read_socket_memory(fd, &memory);
    if (status == 0)
        *drops = memory.drops;
    return status;
}

/* ---- coalescing ---- */

static inline int
mcast_set_coalescing(int fd, int coalesces)
{
    return mcast_set_option(fd, IPPROTO_UDP, LINUX_UDP_GRO, coalesces);
}

/* The IP version of a socket; 0 when the kernel does not say. */
static inline int
mcast_socket_version(int fd)
{
    int domain = 0;
    socklen_t size = sizeof domain;
    getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size);
    return domain == AF_INET ? 4 : domain == AF_INET6 ? 6 : 0;
}

/* Binds a socket as another one is, after it, but for its own device: 0, or -errno. */
static inline int
mcast_bind_alike(int fd, int other)
{
    union {
        struct sockaddr any;
        struct sockaddr_in6 v6;
        struct sockaddr_storage room;
    } address;
    char device[IF_NAMESIZE] = "";
    socklen_t size = sizeof address, length = sizeof device;
    if (getsockname(other, &address.any, &size) != 0)
        return -errno;
    if (address.any.sa_family == AF_INET6 && getsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, &length) == 0 &&
        device[0])
        address.v6.sin6_scope_id = 0; /* it would count for more than the device */
    return bind(fd, &address.any, size) == 0 ? 0 : -errno;
}

/* Whether two sockets are of one network namespace, as far as the kernel says. */
static inline int
mcast_same_namespace(int one, int other)
{
    uint64_t cookies[2] = {0, 0};
    socklen_t sizes[2] = {sizeof cookies[0], sizeof cookies[1]};
    getsockopt(one, SOL_SOCKET, LINUX_SO_NETNS_COOKIE, &cookies[0], &sizes[0]);
    getsockopt(other, SOL_SOCKET, LINUX_SO_NETNS_COOKIE, &cookies[1], &sizes[1]);
    return cookies[0] == cookies[1];
}

/* A socket that is no member of anything, with the options of a decider: its descriptor, or -errno. */
static inline int
mcast_open_decider(int decider, int like)
{
    int version = mcast_socket_version(like), reuse = 0;
    char device[IF_NAMESIZE] = "";
    socklen_t size = sizeof reuse, length = sizeof device;
    int fd = socket(version == 4 ? AF_INET : AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_UDP);
    if (fd < 0)
        return -errno;
    getsockopt(like, SOL_SOCKET, SO_REUSEADDR, &reuse, &size);
    getsockopt(decider, SOL_SOCKET, SO_BINDTODEVICE, device, &length);
    mcast_set_option(fd, SOL_SOCKET, SO_REUSEADDR, reuse);
    mcast_set_option(fd, SOL_SOCKET, SO_RCVBUF, 0);
    if (version == 4) {
        mcast_set_option(fd, IPPROTO_IP, LINUX_IP_MULTICAST_ALL, 0);
    } else {
        mcast_set_option(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
        mcast_set_option(fd, IPPROTO_IPV6, LINUX_IPV6_MULTICAST_ALL, 0);
    }
    if (device[0] && setsockopt(fd, SOL_SOCKET, SO_BINDTODEVICE, device, sizeof device) == 0 &&
        mcast_same_namespace(fd, like))
        return fd;
    close(fd);
    return -EXDEV;
}

/* Puts a socket that is bound after all others in the place of a decider that was bound before: 0, or -errno with that as it was. */
static inline int
mcast_renew_decider(int decider, int like, int coalesces)
{
    int fresh = mcast_open_decider(decider, like);
    if (fresh < 0)
        return fresh;
    int status = mcast_set_coalescing(fresh, coalesces);
    if (status == 0)
        status = mcast_bind_alike(fresh, like);
    if (status == 0 && dup3(fresh, decider, O_CLOEXEC) < 0)
        status = -errno;
    close(fresh);
    return status;
}

static inline int64_t
mcast_realtime_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* ---- slots that recvmmsg fills ---- */

/* SO_TIMESTAMPING: the kernel's time, an old one, and the card's (timestamping documentation, 2.1). */
static inline void
mcast_read_times(const struct cmsghdr *message, mcast_record *record)
{
    long times[3][2];
    if (!mcast_cmsg_value(message, times, sizeof times))
        return;
    int hardware = times[2][0] != 0 || times[2][1] != 0;
    const long *time = times[hardware ? 2 : 0];
    record->timestamp = time[0] * (int64_t)1000000000 + time[1];
    record->flags |= hardware ? MCAST_HARDWARE : 0;
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
mcast_read_segment(const struct cmsghdr *message, mcast_ancillary *ancillary)
{
    int size;
    if (mcast_cmsg_value(message, &size, sizeof size) && size > 0)
        ancillary->segment = (uint32_t)size;
}

/* What one control message says of the packet. */
static inline void
mcast_read_control(const struct cmsghdr *message, mcast_record *record, mcast_ancillary *ancillary)
{
    int type = message->cmsg_type;
    if (message->cmsg_level == SOL_SOCKET) {
        if (type == LINUX_SO_TIMESTAMPNS)
            mcast_read_time(message, record);
        else if (type == LINUX_SO_TIMESTAMPING)
            mcast_read_times(message, record);
        else if (type == LINUX_SO_RXQ_OVFL)
            mcast_cmsg_value(message, &ancillary->overflow, sizeof ancillary->overflow);
    } else if (message->cmsg_level == IPPROTO_IP) {
        if (type == IP_PKTINFO)
            mcast_read_pktinfo4(message, record);
        else if (type == IP_TTL && mcast_cmsg_byte(message, &record->ttl))
            record->flags |= MCAST_TTL;
        else if (type == IP_TOS && mcast_cmsg_byte(message, &record->tos))
            record->flags |= MCAST_TOS;
    } else if (message->cmsg_level == IPPROTO_IPV6) {
        mcast_read_control6(message, record);
    } else if (message->cmsg_level == IPPROTO_UDP && type == LINUX_UDP_GRO) {
        mcast_read_segment(message, ancillary);
    }
}

/* ---- waiting, and being woken ---- */

typedef struct mcast_poller {
    int epoll;
    int wake;
} mcast_poller;

enum { MCAST_READY_MAX = 64 };
#define MCAST_WAKE UINT64_MAX /* the key of the wake-up descriptor; sockets have small ones */

static inline void
mcast_poller_init(mcast_poller *poller)
{
    poller->epoll = poller->wake = -1;
}

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
    mcast_poller_init(poller);
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

/* The keys of what is readable, at most MCAST_READY_MAX; 0 when the time is over; -errno. timeout_ns < 0 waits forever. */
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

/* Has the kernel cut the last message into segments of this many bytes. */
static inline void
mcast_vector_segment(mcast_message_vector *vector, uint16_t size)
{
    struct msghdr *header = &vector->headers[vector->messages - 1].msg_hdr;
    struct cmsghdr *message = (struct cmsghdr *)vector->controls[vector->messages - 1];
    header->msg_control = message;
    header->msg_controllen = CMSG_SPACE(sizeof size);
    message->cmsg_level = IPPROTO_UDP;
    message->cmsg_type = LINUX_UDP_SEGMENT;
    message->cmsg_len = CMSG_LEN(sizeof size);
    memcpy(CMSG_DATA(message), &size, sizeof size);
}

/* Sleeps until a moment of the monotonic clock, clock_nanosleep(2); a signal ends it. */
static inline void
mcast_sleep_until(int64_t moment)
{
    struct timespec until = {.tv_sec = moment / 1000000000, .tv_nsec = moment % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
}

/* A thread that is not Python's; `cpu` is where it runs, -1 anywhere. */
static inline void
mcast_thread_begin(int cpu)
{
    if (cpu >= 0 && cpu < CPU_SETSIZE) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
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
