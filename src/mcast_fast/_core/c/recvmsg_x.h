/* Many messages by msghdr_x, or by one call each: what is macOS's own in receiving and sending, apart from its headers, so that
 * .ci/platforms/darwin can run it on Linux against calls of its own. Needs mcast_message. */
#ifndef MCAST_RECVMSG_X_H
#define MCAST_RECVMSG_X_H

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "single_messages.h"

/* Private API of the kernel: it may go, or change, with any version. */
ssize_t recvmsg_x(int fd, const mcast_message *messages, unsigned count, int flags) __attribute__((weak_import));
ssize_t sendmsg_x(int fd, const mcast_message *messages, unsigned count, int flags) __attribute__((weak_import));

enum { MCAST_X_MAX = 1024 }; /* messages a call (somaxrecvmsgx, somaxsendmsgx of XNU) */

/* Whether private calls are requested; looked up once. */
static inline int
mcast_private_api(void)
{
    static int known = -1;
    int wanted = __atomic_load_n(&known, __ATOMIC_RELAXED);
    if (wanted < 0) {
        const char *value = getenv("MCAST_FAST_PRIVATE_API");
        wanted = value && strcmp(value, "1") == 0;
        __atomic_store_n(&known, wanted, __ATOMIC_RELAXED); /* threads that come at once find the same */
    }
    return wanted;
}

/* Whether a row of mcast_missing_features holds: with the private calls, many packets go by one call. */
static inline int
mcast_is_missing(const mcast_missing *row)
{
    int by_private_call = strcmp(row->feature, "batched_receive") == 0 ? recvmsg_x != NULL
                          : strcmp(row->feature, "batched_send") == 0  ? sendmsg_x != NULL
                                                                       : 0;
    return !(by_private_call && mcast_private_api());
}

static inline int
mcast_receive_x(int fd, mcast_message *messages, unsigned count)
{
    count = count < MCAST_X_MAX ? count : MCAST_X_MAX;
    for (unsigned i = 0; i < count; i++)
        messages[i].msg_len = 0; /* must be zero on input */
    ssize_t received = recvmsg_x(fd, messages, count, MSG_DONTWAIT);
    return received >= 0 ? (int)received : -errno;
}

/* Never waits. */
static inline int
mcast_receive_messages(int fd, mcast_message *messages, unsigned count)
{
    return mcast_private_api() && recvmsg_x ? mcast_receive_x(fd, messages, count)
                                            : mcast_receive_singly(fd, messages, count, MSG_DONTWAIT);
}

/* sendmsg_x reports how many left, not the length of each. */
static inline int
mcast_send_x(int fd, mcast_message *messages, unsigned count)
{
    count = count < MCAST_X_MAX ? count : MCAST_X_MAX;
    for (unsigned i = 0; i < count; i++)
        messages[i].msg_len = 0; /* must be zero on input */
    ssize_t sent = sendmsg_x(fd, messages, count, MSG_DONTWAIT);
    for (ssize_t i = 0; i < sent; i++)
        for (size_t piece = 0; piece < (size_t)messages[i].msg_hdr.msg_iovlen; piece++)
            messages[i].msg_len += messages[i].msg_hdr.msg_iov[piece].iov_len;
    return sent >= 0 ? (int)sent : -errno;
}

static inline int
mcast_send_messages(int fd, mcast_message *messages, unsigned count)
{
    return mcast_private_api() && sendmsg_x ? mcast_send_x(fd, messages, count)
                                            : mcast_send_singly(fd, messages, count);
}

#endif
