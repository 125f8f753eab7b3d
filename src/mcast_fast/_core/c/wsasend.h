/* Windows: sending, by WSASendMsg; super-packets that the system cuts apart where it can. Part of win32.h. */
#ifndef MCAST_WSASEND_H
#define MCAST_WSASEND_H

struct iovec {
    void *iov_base;
    size_t iov_len;
};

/* Answers of the system that the sender reacts to. */
enum {
    MCAST_ENOBUFS = WSAENOBUFS,
    MCAST_EMSGSIZE = WSAEMSGSIZE,
};

/* As msghdr.h; a message is one datagram, or a super-packet of up to 64 that the system segments (UDP_SEND_MSG_SIZE). */
enum {
    MCAST_VECTOR_MESSAGES = 256,
    MCAST_VECTOR_PIECES = 1024,
    MCAST_SEGMENTS_MAX = 64,
    MCAST_SUPER_MAX = 65507,
};

typedef struct mcast_sent_message {
    const struct sockaddr_storage *address;
    socklen_t size;
    DWORD segment; /* bytes; 0: one datagram */
    DWORD sent;
    unsigned first;
    unsigned vectors;
} mcast_sent_message;

typedef struct mcast_message_vector {
    unsigned messages;
    unsigned used; /* pieces */
    mcast_sent_message headers[MCAST_VECTOR_MESSAGES];
    WSABUF pieces[MCAST_VECTOR_PIECES];
    unsigned datagrams[MCAST_VECTOR_MESSAGES]; /* in each message */
} mcast_message_vector;

#include "vector.h"

static inline void
mcast_vector_begin(mcast_message_vector *vector, const struct sockaddr_storage *address, socklen_t size)
{
    vector->headers[vector->messages] = (mcast_sent_message){.address = address, .size = size, .first = vector->used};
    vector->datagrams[vector->messages++] = 0;
}

/* Adds datagrams that lie one after the other to the last message; neighbours in memory become one piece. */
static inline void
mcast_vector_add_several(mcast_message_vector *vector, struct iovec payload, unsigned datagrams)
{
    mcast_sent_message *header = &vector->headers[vector->messages - 1];
    WSABUF *last = header->vectors ? &vector->pieces[vector->used - 1] : NULL;
    vector->datagrams[vector->messages - 1] += datagrams;
    if (last && last->buf + last->len == payload.iov_base) {
        last->len += (ULONG)payload.iov_len;
        return;
    }
    vector->pieces[vector->used++] = (WSABUF){.buf = payload.iov_base, .len = (ULONG)payload.iov_len};
    header->vectors++;
}

/* Adds one datagram to the last message. */
static inline void
mcast_vector_add(mcast_message_vector *vector, struct iovec payload)
{
    mcast_vector_add_several(vector, payload, 1);
}

/* Has the system cut the last message into segments of this many bytes. */
static inline void
mcast_vector_segment(mcast_message_vector *vector, uint16_t size)
{
    vector->headers[vector->messages - 1].segment = size;
}

/* Bytes that message `i` held, after it left. */
static inline size_t
mcast_vector_bytes(const mcast_message_vector *vector, unsigned i)
{
    return vector->headers[i].sent;
}

static inline int
mcast_send_message(SOCKET socket, mcast_sent_message *message, WSABUF *pieces)
{
    _Alignas(WSACMSGHDR) char control[WSA_CMSG_SPACE(sizeof(DWORD))];
    WSAMSG header = {.name = (struct sockaddr *)message->address,
                     .namelen = message->size,
                     .lpBuffers = pieces,
                     .dwBufferCount = message->vectors};
    if (message->segment) {
        WSACMSGHDR *segment = (WSACMSGHDR *)control;
        memset(control, 0, sizeof control);
        segment->cmsg_len = WSA_CMSG_LEN(sizeof(DWORD));
        segment->cmsg_level = IPPROTO_UDP;
        segment->cmsg_type = WINDOWS_UDP_SEND_MSG_SIZE;
        memcpy(WSA_CMSG_DATA(segment), &message->segment, sizeof(DWORD));
        header.Control = (WSABUF){.len = sizeof control, .buf = control};
    }
    return WSASendMsg(socket, &header, 0, &message->sent, NULL, NULL) == 0 ? 0 : mcast_winsock_error();
}

/* Sends without waiting; how many messages left, or -errno when none did. */
static inline int
mcast_vector_send(mcast_message_vector *vector, int fd)
{
    int status = 0;
    unsigned left = 0;
    for (; left < vector->messages && status == 0; left += status == 0) {
        mcast_sent_message *message = &vector->headers[left];
        status = mcast_send_message((SOCKET)(unsigned)fd, message, &vector->pieces[message->first]);
    }
    return left ? (int)left : status;
}

/* Waits until the send buffer has space, for so long at the most. */
static inline void
mcast_wait_writable(int fd, int milliseconds)
{
    WSAPOLLFD one = {.fd = (SOCKET)(unsigned)fd, .events = POLLWRNORM};
    if (WSAPoll(&one, 1, milliseconds) > 0 && !(one.revents & POLLWRNORM))
        Sleep(1);
}

#endif
