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

/* A train: datagrams that leave one by one, or super-packets of up to 64 that the system cuts apart (UDP_SEND_MSG_SIZE). */
enum {
    MCAST_TRAIN_MESSAGES = 256,
    MCAST_TRAIN_VECTORS = 1024,
    MCAST_SEGMENTS_MAX = 64,
    MCAST_SUPER_MAX = 65507,
};

typedef struct mcast_train_message {
    const struct sockaddr_storage *address;
    socklen_t size;
    DWORD segment; /* bytes; 0: one datagram */
    DWORD sent;
    unsigned first;
    unsigned vectors;
} mcast_train_message;

typedef struct mcast_train {
    unsigned messages;
    unsigned vectors;
    mcast_train_message headers[MCAST_TRAIN_MESSAGES];
    WSABUF pieces[MCAST_TRAIN_VECTORS];
    unsigned datagrams[MCAST_TRAIN_MESSAGES]; /* in each message */
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
    train->headers[train->messages] = (mcast_train_message){.address = address, .size = size, .first = train->vectors};
    train->datagrams[train->messages++] = 0;
}

/* One datagram more in the last message; neighbours in memory become one piece. */
static inline void
mcast_train_add(mcast_train *train, struct iovec payload)
{
    mcast_train_message *header = &train->headers[train->messages - 1];
    WSABUF *last = header->vectors ? &train->pieces[train->vectors - 1] : NULL;
    train->datagrams[train->messages - 1]++;
    if (last && last->buf + last->len == payload.iov_base) {
        last->len += (ULONG)payload.iov_len;
        return;
    }
    train->pieces[train->vectors++] = (WSABUF){.buf = payload.iov_base, .len = (ULONG)payload.iov_len};
    header->vectors++;
}

/* The system cuts the last message into segments of so many bytes. */
static inline void
mcast_train_segment(mcast_train *train, uint16_t size)
{
    train->headers[train->messages - 1].segment = size;
}

/* Bytes that message `i` of the train held, after it left. */
static inline size_t
mcast_train_bytes(const mcast_train *train, unsigned i)
{
    return train->headers[i].sent;
}

static inline int
mcast_send_message(SOCKET socket, mcast_train_message *message, WSABUF *pieces)
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
mcast_train_send(mcast_train *train, int fd)
{
    int status = 0;
    unsigned left = 0;
    for (; left < train->messages && status == 0; left += status == 0) {
        mcast_train_message *message = &train->headers[left];
        status = mcast_send_message((SOCKET)(unsigned)fd, message, &train->pieces[message->first]);
    }
    return left ? (int)left : status;
}

/* Waits until the send buffer has room, for so long at the most. */
static inline void
mcast_wait_writable(int fd, int milliseconds)
{
    WSAPOLLFD one = {.fd = (SOCKET)(unsigned)fd, .events = POLLWRNORM};
    if (WSAPoll(&one, 1, milliseconds) > 0 && !(one.revents & POLLWRNORM))
        Sleep(1);
}

#endif
