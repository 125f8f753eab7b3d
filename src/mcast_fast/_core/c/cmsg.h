/* The one reader of control messages (cmsg(3)): lengths are checked against the buffer before a value is read. */
#ifndef MCAST_CMSG_H
#define MCAST_CMSG_H

#include <string.h>
#include <sys/socket.h>

/* Copies the value when the message really holds `size` bytes of it; else returns 0 and leaves *value alone. */
static inline int
mcast_cmsg_value(const struct cmsghdr *message, void *value, size_t size)
{
    if (message->cmsg_len < CMSG_LEN(size))
        return 0;
    memcpy(value, CMSG_DATA(message), size);
    return 1;
}

/* An int-sized value that some systems send as one byte (IP_TOS on Linux, IP_RECVTTL on BSD). */
static inline int
mcast_cmsg_byte(const struct cmsghdr *message, uint8_t *value)
{
    int wide;
    if (mcast_cmsg_value(message, &wide, sizeof wide)) {
        *value = (uint8_t)wide;
        return 1;
    }
    return mcast_cmsg_value(message, value, 1);
}

#endif
