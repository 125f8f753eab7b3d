/* What a socket of Windows is received from by, and the slots that it is received into: WSARecvMsg (mswsock.h), one packet per call. */
#ifndef MCAST_WSARECVMSG_H
#define MCAST_WSARECVMSG_H

/* ---- what a socket is received from by ---- */

/* WSARecvMsg is looked up for each socket: each provider of sockets has its own. */
typedef struct mcast_descriptor {
    SOCKET socket;
    LPFN_WSARECVMSG receive;
} mcast_descriptor;

/* Handles fit in 32 bits on 64-bit Windows too, so that the `fd` of Python's socket.fileno() is one. */
static inline int
mcast_descriptor_open(mcast_descriptor *descriptor, int fd)
{
    GUID wanted = WSAID_WSARECVMSG;
    DWORD size = 0;
    BOOL off = FALSE;
    descriptor->socket = (SOCKET)(unsigned)fd;
    /* An ICMP answer to what was sent would else end a receive (WSAECONNRESET, WSAENETRESET); old systems do not know the second. */
    mcast_ioctl(descriptor->socket, WINDOWS_SIO_UDP_CONNRESET, &off, sizeof off);
    mcast_ioctl(descriptor->socket, WINDOWS_SIO_UDP_NETRESET, &off, sizeof off);
    int answer = WSAIoctl(descriptor->socket, SIO_GET_EXTENSION_FUNCTION_POINTER, &wanted, sizeof wanted,
                          &descriptor->receive, sizeof descriptor->receive, &size, NULL, NULL);
    return answer == 0 ? 0 : mcast_winsock_error();
}

/* ---- slots that are received into ---- */

enum { MCAST_CONTROL_SIZE = 256 };
_Static_assert(WSA_CMSG_SPACE(sizeof(IN6_PKTINFO)) + WSA_CMSG_SPACE(sizeof(UINT64)) + 4 * WSA_CMSG_SPACE(sizeof(INT)) <=
                   MCAST_CONTROL_SIZE,
               "there is space for every control message that is requested");

typedef struct mcast_message {
    struct sockaddr_in6 name;
    WSAMSG header;
    WSABUF buffer;
    DWORD length;
    _Alignas(WSACMSGHDR) char control[MCAST_CONTROL_SIZE];
} mcast_message;

typedef struct mcast_scratch {
    unsigned count;
    size_t size;
    unsigned char *payloads;
    mcast_message *messages;
    int failure; /* -errno that came after packets: for the next call */
} mcast_scratch;

static inline void
mcast_scratch_close(mcast_scratch *scratch)
{
    if (scratch->payloads)
        VirtualFree(scratch->payloads, 0, MEM_RELEASE);
    free(scratch->messages);
    memset(scratch, 0, sizeof *scratch);
}

/* `count` slots of `size` bytes, an odd number of cache lines apart: at a power of two all their first lines would share one set of the
 * cache. 0, or -errno. */
static inline int
mcast_scratch_open(mcast_scratch *scratch, unsigned count, size_t size)
{
    memset(scratch, 0, sizeof *scratch);
    size_t stride = ((size + 63) / 64 | 1) * 64;
    scratch->payloads = VirtualAlloc(NULL, stride * count, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE);
    scratch->messages = calloc(count, sizeof *scratch->messages);
    if (!scratch->payloads || !scratch->messages) {
        mcast_scratch_close(scratch);
        return -ENOMEM;
    }
    scratch->count = count;
    scratch->size = size;
    for (unsigned i = 0; i < count; i++) {
        mcast_message *message = &scratch->messages[i];
        message->buffer.buf = (char *)scratch->payloads + stride * i;
        message->buffer.len = (ULONG)size;
        message->header.name = (struct sockaddr *)&message->name;
        message->header.lpBuffers = &message->buffer;
        message->header.dwBufferCount = 1;
        message->header.Control.buf = message->control;
    }
    return 0;
}

/* One packet: 1, 0 when its socket has to be read again, or -errno. */
static inline int
mcast_receive_message(mcast_descriptor from, mcast_message *message)
{
    /* in-out fields: what one packet left here must not be inherited by the next */
    message->header.namelen = sizeof message->name;
    message->header.Control.len = MCAST_CONTROL_SIZE;
    message->header.dwFlags = 0;
    message->length = 0;
    if (from.receive(from.socket, &message->header, &message->length, NULL, NULL) == 0)
        return 1;
    int status = mcast_winsock_error();
    if (status == -WSAEMSGSIZE) { /* the packet is there, as much of it as fits */
        message->header.dwFlags |= MSG_TRUNC;
        return 1;
    }
    return status == -WSAECONNRESET || status == -WSAENETRESET ? 0 : status;
}

/* Fills up to `wanted` slots with what is queued; how many, or -errno. Never waits: the socket does not. */
static inline int
mcast_scratch_receive(mcast_scratch *scratch, mcast_descriptor from, unsigned wanted)
{
    int status = scratch->failure;
    unsigned received = 0;
    scratch->failure = 0;
    for (unsigned calls = 0; status >= 0 && received < wanted && calls < 2 * wanted; calls++) {
        status = mcast_receive_message(from, &scratch->messages[received]);
        received += status == 1;
    }
    if (received == 0)
        return status < 0 ? status : -EAGAIN;
    if (status < 0 && status != -EAGAIN)
        scratch->failure = status;
    return (int)received;
}

/* Copies the value of a control message when it really holds `size` bytes; else returns 0. */
static inline int
mcast_control_value(const WSACMSGHDR *message, void *value, size_t size)
{
    if (message->cmsg_len < WSA_CMSG_LEN(size))
        return 0;
    memcpy(value, WSA_CMSG_DATA(message), size);
    return 1;
}

static inline int
mcast_control_byte(const WSACMSGHDR *message, uint8_t *value)
{
    INT wide;
    if (!mcast_control_value(message, &wide, sizeof wide))
        return 0;
    *value = (uint8_t)wide;
    return 1;
}

/* SO_TIMESTAMP reports ticks of the performance counter. */
static inline void
mcast_read_ticks(const WSACMSGHDR *message, mcast_record *record)
{
    UINT64 ticks;
    if (mcast_control_value(message, &ticks, sizeof ticks))
        record->timestamp = mcast_epoch_ns() - (mcast_monotonic_ns() - mcast_ticks_to_ns((int64_t)ticks));
}

static inline void
mcast_read_pktinfo4(const WSACMSGHDR *message, mcast_record *record)
{
    IN_PKTINFO info;
    if (!mcast_control_value(message, &info, sizeof info))
        return;
    mcast_map_v4(record->group, &info.ipi_addr);
    record->interface_index = info.ipi_ifindex;
}

static inline void
mcast_read_pktinfo6(const WSACMSGHDR *message, mcast_record *record)
{
    IN6_PKTINFO info;
    if (!mcast_control_value(message, &info, sizeof info))
        return;
    memcpy(record->group, &info.ipi6_addr, 16);
    record->interface_index = info.ipi6_ifindex;
}

/* UDP_COALESCED_INFO: the size of each packet that was coalesced but the last. */
static inline void
mcast_read_segment(const WSACMSGHDR *message, mcast_ancillary *ancillary)
{
    DWORD size;
    if (mcast_control_value(message, &size, sizeof size))
        ancillary->segment = size;
}

/* What one control message says of the packet. */
static inline void
mcast_read_control(const WSACMSGHDR *message, mcast_record *record, mcast_ancillary *ancillary)
{
    int type = message->cmsg_type;
    if (message->cmsg_level == SOL_SOCKET) {
        if (type == WINDOWS_SO_TIMESTAMP)
            mcast_read_ticks(message, record);
    } else if (message->cmsg_level == IPPROTO_IP) {
        if (type == IP_PKTINFO)
            mcast_read_pktinfo4(message, record);
        else if ((type == WINDOWS_IP_TTL || type == WINDOWS_IP_RECVTTL) && mcast_control_byte(message, &record->ttl))
            record->flags |= MCAST_TTL;
        else if ((type == IP_TOS || type == WINDOWS_IP_RECVTOS) && mcast_control_byte(message, &record->tos))
            record->flags |= MCAST_TOS;
    } else if (message->cmsg_level == IPPROTO_IPV6) {
        if (type == IPV6_PKTINFO)
            mcast_read_pktinfo6(message, record);
        else if (type == IPV6_HOPLIMIT && mcast_control_byte(message, &record->ttl))
            record->flags |= MCAST_TTL;
        else if ((type == WINDOWS_IPV6_TCLASS || type == WINDOWS_IPV6_RECVTCLASS) &&
                 mcast_control_byte(message, &record->tos))
            record->flags |= MCAST_TOS;
    } else if (message->cmsg_level == IPPROTO_UDP && type == WINDOWS_UDP_COALESCED_INFO) {
        mcast_read_segment(message, ancillary);
    }
}

enum { MCAST_RECEIVES_INTO = 0 };

/* Messages come one by one here, into their slots. */
static inline int
mcast_scratch_receive_into(mcast_scratch *scratch, mcast_descriptor from, unsigned wanted, unsigned char *to,
                           size_t expected)
{
    (void)to, (void)expected;
    return mcast_scratch_receive(scratch, from, wanted);
}

/* Bytes of payload in slot `i` after a receive. */
static inline size_t
mcast_scratch_length(const mcast_scratch *scratch, unsigned i)
{
    size_t length = scratch->messages[i].length;
    return length < scratch->size && !(scratch->messages[i].header.dwFlags & MSG_TRUNC) ? length : scratch->size;
}

/* Describes slot `i` after a receive: adds to a record that already holds what the socket implies, and returns the payload, of
 * record->length bytes. Windows counts no drops. */
static inline const unsigned char *
mcast_scratch_read(const mcast_scratch *scratch, unsigned i, mcast_record *record, mcast_ancillary *ancillary)
{
    mcast_message *message = &scratch->messages[i];
    int truncated = (message->header.dwFlags & MSG_TRUNC) != 0;
    record->length = (uint16_t)mcast_scratch_length(scratch, i);
    record->wire_length = truncated ? 0 : record->length;
    record->flags = truncated ? MCAST_TRUNCATED : 0;
    mcast_read_source(&message->name, (size_t)message->header.namelen, record);
    for (WSACMSGHDR *one = WSA_CMSG_FIRSTHDR(&message->header); one; one = WSA_CMSG_NXTHDR(&message->header, one))
        mcast_read_control(one, record, ancillary);
    return (const unsigned char *)message->buffer.buf;
}

#endif
