/* macOS: recvmsg(2), ip(4), ip6(4), kqueue(2); recvmsg_x and sendmsg_x, which no header declares, only on request. */
#ifndef MCAST_DARWIN_H
#define MCAST_DARWIN_H

/* IPV6_RECVPKTINFO and its like as in RFC 3542; <netinet6/in6.h> has both, and this selects it. */
#define __APPLE_USE_RFC_3542 1

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/types.h>

#include "options.h"

#define MCAST_SYSTEM "macOS"
#define MCAST_HAS_RING 0
#define MCAST_HAS_WRITEV 1
#define MCAST_HAS_UDP_GRO 0

static const mcast_option mcast_options[] = {
    {"SO_TIMESTAMP", SOL_SOCKET, SO_TIMESTAMP},
    {"IP_PKTINFO", IPPROTO_IP, IP_RECVPKTINFO},
    {"MCAST_MSFILTER", IPPROTO_IP, IP_MSFILTER},
    MCAST_OPTIONS_OF_POSIX,
    {NULL, 0, 0},
};

static const mcast_missing mcast_missing_features[] = {
    {"batched_receive",
     "macOS receives one packet per system call; MCAST_FAST_PRIVATE_API=1 takes its private recvmsg_x"},
    {"batched_send", "macOS sends one packet per system call; MCAST_FAST_PRIVATE_API=1 takes its private sendmsg_x"},
    {"background_cpu", "macOS binds no thread to a processor"},
    {"send_segmentation", "macOS does not cut datagrams apart"},
    {"wire_length", "macOS reports that a packet was truncated, not its length"},
    {NULL, NULL},
};

/* ---- what msghdr.h needs to know ---- */

/* As struct msghdr_x of the kernel (bsd/sys/socket_private.h): a struct msghdr, and the length of what came. */
typedef struct mcast_message {
    struct msghdr msg_hdr;
    size_t msg_len;
} mcast_message;

enum { MCAST_MEMBERSHIP_TRIES = 5, MCAST_REPORTS_WIRE_LENGTH = 0 }; /* macOS answers ENOMEM now and then */

static inline void
mcast_set_length(struct sockaddr_storage *address, size_t size)
{
    address->ss_len = (uint8_t)size;
}

#include "recvmsg_x.h"

#include "bsd.h"

/* ---- what control messages report ---- */

static inline void
mcast_read_pktinfo4(const struct cmsghdr *message, mcast_record *record)
{
    struct in_pktinfo info;
    if (!mcast_cmsg_value(message, &info, sizeof info))
        return;
    mcast_map_v4(record->group, &info.ipi_addr); /* the header's destination, not ipi_spec_dst */
    record->interface_index = info.ipi_ifindex;
}

static inline void
mcast_read_destination4(const struct cmsghdr *message, mcast_record *record)
{
    if (message->cmsg_type == IP_PKTINFO)
        mcast_read_pktinfo4(message, record);
}

/* ---- threads ---- */

/* Conditions have no monotonic clock here, but a relative wait. */
static inline int
mcast_condition_open(mcast_condition *condition)
{
    return -pthread_cond_init(condition, NULL);
}

/* Waits for a signal for `ns` at most, with the mutex held before and after. It may return early. */
static inline void
mcast_condition_wait(mcast_condition *condition, mcast_mutex *mutex, int64_t ns)
{
    struct timespec time = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
    pthread_cond_timedwait_relative_np(condition, mutex, &time);
}

/* A thread that is not Python's; macOS binds no thread to a processor. */
static inline void
mcast_thread_begin(int cpu)
{
    (void)cpu;
}

#endif
