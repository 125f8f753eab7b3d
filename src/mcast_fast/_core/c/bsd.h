/* What macOS and FreeBSD have in common beyond msghdr.h, which this header includes: kqueue(2), and RFC 3678 filters by the C library.
 * darwin.h and posix.h include it. */
#ifndef MCAST_BSD_H
#define MCAST_BSD_H

#include "msghdr.h"
#include <sys/event.h>
#include <sys/types.h>

/* ---- memberships ---- */

/* Sets the whole filter of a group that the socket holds (RFC 3678, 5.2.1: setsourcefilter); `sources` packed, one after the other. */
static inline int
mcast_set_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int exclude,
                 const uint8_t *sources, size_t count)
{
    size_t width = version == 4 ? 4 : 16;
    struct sockaddr_storage address, *list = calloc(count ? count : 1, sizeof *list);
    if (!list)
        return -ENOMEM;
    mcast_sockaddr(&address, version, group);
    for (size_t i = 0; i < count; i++)
        mcast_sockaddr(&list[i], version, sources + i * width);
    int status = setsourcefilter(fd, interface_index, (struct sockaddr *)&address, address.ss_len,
                                 exclude ? MCAST_EXCLUDE : MCAST_INCLUDE, (uint32_t)count, list);
    status = status == 0 ? 0 : -errno;
    free(list);
    return status;
}

/* Reads the filter of a group back: how many sources there are (at most `room` of them are stored), or -errno. */
static inline int
mcast_get_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int *exclude, uint8_t *sources,
                 size_t room)
{
    size_t width = version == 4 ? 4 : 16;
    uint32_t mode = 0, count = (uint32_t)room;
    struct sockaddr_storage address, *list = calloc(room ? room : 1, sizeof *list);
    if (!list)
        return -ENOMEM;
    mcast_sockaddr(&address, version, group);
    int status = getsourcefilter(fd, interface_index, (struct sockaddr *)&address, address.ss_len, &mode, &count, list);
    status = status == 0 ? (int)count : -errno;
    *exclude = mode == MCAST_EXCLUDE;
    for (size_t i = 0; status > 0 && i < (size_t)status && i < room; i++)
        mcast_pack_address(sources + i * width, version, &list[i]);
    free(list);
    return status;
}

enum { MCAST_REPORTS_DROPS = 0 }; /* buffers dropped at a socket */

/* No socket option reports the drops at a socket here. */
static inline int
mcast_read_drops(mcast_descriptor fd, uint32_t *drops)
{
    (void)fd, (void)drops;
    return -EOPNOTSUPP;
}

/* ---- what control messages report ---- */

/* SCM_TIMESTAMP: struct timeval, microseconds. */
static inline void
mcast_read_timeval(const struct cmsghdr *message, mcast_record *record)
{
    struct timeval time;
    if (mcast_cmsg_value(message, &time, sizeof time))
        record->timestamp = (int64_t)time.tv_sec * 1000000000 + (int64_t)time.tv_usec * 1000;
}

/* No kernel of these cuts datagrams apart: the sender does not request it (the feature send_segmentation is off). */
static inline void
mcast_vector_segment(mcast_message_vector *vector, uint16_t size)
{
    (void)vector, (void)size;
}

/* ---- waiting, and being woken ---- */

typedef struct mcast_poller {
    int queue;
} mcast_poller;

enum { MCAST_READY_MAX = 64 };
#define MCAST_WAKE UINT64_MAX /* the key of the wake-up event; sockets have small ones */
enum { MCAST_WAKE_IDENT = 0 };

static inline void
mcast_poller_init(mcast_poller *poller)
{
    poller->queue = -1;
}

static inline int
mcast_poller_change(const mcast_poller *poller, uintptr_t ident, short filter, unsigned short flags, unsigned effect,
                    uint64_t key)
{
    struct kevent change;
    EV_SET(&change, ident, filter, flags, effect, 0, (void *)(uintptr_t)key);
    return kevent(poller->queue, &change, 1, NULL, 0, NULL) == 0 ? 0 : -errno;
}

static inline int
mcast_poller_add(mcast_poller *poller, int fd, uint64_t key)
{
    return mcast_poller_change(poller, (uintptr_t)fd, EVFILT_READ, EV_ADD, 0, key);
}

static inline void
mcast_poller_remove(mcast_poller *poller, int fd)
{
    mcast_poller_change(poller, (uintptr_t)fd, EVFILT_READ, EV_DELETE, 0, 0);
}

static inline void
mcast_poller_close(mcast_poller *poller)
{
    if (poller->queue >= 0)
        close(poller->queue);
    mcast_poller_init(poller);
}

static inline int
mcast_poller_open(mcast_poller *poller)
{
    poller->queue = kqueue();
    int status = poller->queue < 0 ? -errno : 0;
    if (status == 0 && fcntl(poller->queue, F_SETFD, FD_CLOEXEC) != 0)
        status = -errno;
    if (status == 0)
        status = mcast_poller_change(poller, MCAST_WAKE_IDENT, EVFILT_USER, EV_ADD, 0, MCAST_WAKE);
    if (status != 0)
        mcast_poller_close(poller);
    return status;
}

/* The keys of what is readable, at most MCAST_READY_MAX; 0 when the time is over; -errno. timeout_ns < 0 waits forever. */
static inline int
mcast_poller_wait(const mcast_poller *poller, uint64_t *keys, int64_t timeout_ns)
{
    struct kevent events[MCAST_READY_MAX];
    int64_t seconds = timeout_ns / 1000000000;
    struct timespec timeout = {.tv_sec = seconds < INT32_MAX ? seconds : INT32_MAX, .tv_nsec = timeout_ns % 1000000000};
    int ready = kevent(poller->queue, NULL, 0, events, MCAST_READY_MAX, timeout_ns < 0 ? NULL : &timeout);
    for (int i = 0; i < ready; i++)
        keys[i] = events[i].filter == EVFILT_USER ? MCAST_WAKE : (uint64_t)(uintptr_t)events[i].udata;
    return ready >= 0 ? ready : -errno;
}

/* Makes the poller readable until cleared: without EV_CLEAR the event stays. */
static inline void
mcast_poller_signal(const mcast_poller *poller)
{
    mcast_poller_change(poller, MCAST_WAKE_IDENT, EVFILT_USER, 0, NOTE_TRIGGER, MCAST_WAKE);
}

/* An event that was triggered stays so until it is deleted. */
static inline void
mcast_poller_clear(const mcast_poller *poller)
{
    mcast_poller_change(poller, MCAST_WAKE_IDENT, EVFILT_USER, EV_DELETE, 0, MCAST_WAKE);
    mcast_poller_change(poller, MCAST_WAKE_IDENT, EVFILT_USER, EV_ADD, 0, MCAST_WAKE);
}

static inline int
mcast_poller_descriptor(const mcast_poller *poller)
{
    return poller->queue;
}

/* ---- the clock ---- */

/* Sleeps until a moment of the monotonic clock; a signal ends it. */
static inline void
mcast_sleep_until(int64_t moment)
{
    int64_t left = moment - mcast_monotonic_ns();
    struct timespec time = {.tv_sec = left / 1000000000, .tv_nsec = left % 1000000000};
    if (left > 0)
        nanosleep(&time, NULL);
}

/* These kernels let no thread choose how late it may wake. */
static inline long
mcast_timer_slack(long slack)
{
    (void)slack;
    return 0;
}

/* The destination of an IPv4 packet, and its interface, from a control message; each system's own. */
static inline void mcast_read_destination4(const struct cmsghdr *message, mcast_record *record);

/* What one control message says of the packet. */
static inline void
mcast_read_control(const struct cmsghdr *message, mcast_record *record, mcast_ancillary *ancillary)
{
    int type = message->cmsg_type;
    (void)ancillary;
    if (message->cmsg_level == SOL_SOCKET) {
        if (type == SCM_TIMESTAMP)
            mcast_read_timeval(message, record);
    } else if (message->cmsg_level == IPPROTO_IP) {
        if (type == IP_RECVTTL && mcast_cmsg_byte(message, &record->ttl))
            record->flags |= MCAST_TTL;
        else if (type == IP_RECVTOS && mcast_cmsg_byte(message, &record->tos))
            record->flags |= MCAST_TOS;
        else
            mcast_read_destination4(message, record);
    } else if (message->cmsg_level == IPPROTO_IPV6) {
        mcast_read_control6(message, record);
    }
}

#endif
