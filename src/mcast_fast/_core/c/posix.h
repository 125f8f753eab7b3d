/* FreeBSD: recvmmsg(2), ip(4), ip6(4), udp(4). NetBSD and OpenBSD have no MCAST_* options: the pure backend runs there. */
#ifndef MCAST_POSIX_H
#define MCAST_POSIX_H

#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <net/if_dl.h>
#include <netinet/in.h>
#include <pthread_np.h>
#include <stdint.h>
#include <sys/cpuset.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>

#include "options.h"

#define MCAST_SYSTEM "FreeBSD"
#define MCAST_HAS_RING 0
#define MCAST_HAS_WRITEV 1
#define MCAST_HAS_UDP_GRO 0

static const mcast_option mcast_options[] = {
    {"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP},
    {"IP_RECVDSTADDR", IPPROTO_IP, IP_RECVDSTADDR},
    {"IP_RECVIF", IPPROTO_IP, IP_RECVIF},
    {"MCAST_MSFILTER", IPPROTO_IP, IP_MSFILTER},
    MCAST_OPTIONS_OF_POSIX,
    {NULL, 0, 0},
};

static const mcast_missing mcast_missing_features[] = {
    {"send_segmentation", "FreeBSD does not cut datagrams apart"},
    {"wire_length", "FreeBSD reports that a packet was truncated, not its length"},
    {NULL, NULL},
};

/* Whether a row of mcast_missing_features holds: here each does. */
static inline int
mcast_is_missing(const mcast_missing *row)
{
    (void)row;
    return 1;
}

/* ---- what msghdr.h needs to know ---- */

typedef struct mmsghdr mcast_message;

enum { MCAST_MEMBERSHIP_TRIES = 1, MCAST_REPORTS_WIRE_LENGTH = 0 };

static inline void
mcast_set_length(struct sockaddr_storage *address, size_t size)
{
    address->ss_len = (uint8_t)size;
}

/* Never waits. FreeBSD's recvmmsg is the C library's own loop over recvmsg(2). */
static inline int
mcast_receive_messages(int fd, mcast_message *messages, unsigned count)
{
    ssize_t received = recvmmsg(fd, messages, count, MSG_DONTWAIT, NULL);
    return received >= 0 ? (int)received : -errno;
}

static inline int
mcast_send_messages(int fd, mcast_message *messages, unsigned count)
{
    ssize_t sent = sendmmsg(fd, messages, count, MSG_DONTWAIT);
    return sent >= 0 ? (int)sent : -errno;
}

#include "bsd.h"
#include "condition.h"

/* ---- what control messages report ---- */

static inline void
mcast_read_destination(const struct cmsghdr *message, mcast_record *record)
{
    struct in_addr address;
    if (mcast_cmsg_value(message, &address, sizeof address))
        mcast_map_v4(record->group, &address);
}

/* IP_RECVIF: a struct sockaddr_dl of varying length, with the index near the front. */
static inline void
mcast_read_interface(const struct cmsghdr *message, mcast_record *record)
{
    struct sockaddr_dl link;
    const size_t needed = offsetof(struct sockaddr_dl, sdl_index) + sizeof link.sdl_index;
    memset(&link, 0, sizeof link);
    if (mcast_cmsg_value(message, &link, needed))
        record->interface_index = link.sdl_index;
}

static inline void
mcast_read_destination4(const struct cmsghdr *message, mcast_record *record)
{
    if (message->cmsg_type == IP_RECVDSTADDR)
        mcast_read_destination(message, record);
    else if (message->cmsg_type == IP_RECVIF)
        mcast_read_interface(message, record);
}

/* ---- threads ---- */

/* A thread that is not Python's; `cpu` is where it runs, -1 anywhere. */
static inline void
mcast_thread_begin(int cpu)
{
    if (cpu >= 0 && cpu < CPU_SETSIZE) {
        cpuset_t set;
        CPU_ZERO(&set);
        CPU_SET(cpu, &set);
        pthread_setaffinity_np(pthread_self(), sizeof set, &set);
    }
}

#endif
