/* Many messages by one system call each: where the system has no call for many, or a sandbox refuses it. Needs mcast_message. */
#ifndef MCAST_SINGLE_MESSAGES_H
#define MCAST_SINGLE_MESSAGES_H

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/types.h>

/* Receives until nothing more is there: how many, or -errno when not even one came. */
static inline int
mcast_receive_singly(int fd, mcast_message *messages, unsigned count, int flags)
{
    for (unsigned i = 0; i < count; i++) {
        ssize_t received = recvmsg(fd, &messages[i].msg_hdr, flags);
        if (received < 0)
            return i ? (int)i : -errno;
        messages[i].msg_len = received; /* of another type per system */
    }
    return (int)count;
}

/* Sends until one does not go: how many, or -errno when not even one did. */
static inline int
mcast_send_singly(int fd, mcast_message *messages, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        ssize_t sent = sendmsg(fd, &messages[i].msg_hdr, MSG_DONTWAIT);
        if (sent < 0)
            return i ? (int)i : -errno;
        messages[i].msg_len = sent;
    }
    return (int)count;
}

#endif
