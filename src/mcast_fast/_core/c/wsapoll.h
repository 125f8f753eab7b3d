/* Windows: waiting, and being woken: WSAPoll, and a socket on the loopback that wakes it. Events (WSAEventSelect) would allow 64 sockets
 * a wait, and are reported once, while a poll is reported as long as there is something to read, as epoll and kqueue do. A wait never lasts
 * longer than MCAST_WAIT_SLICE_MS: nothing interrupts it, and Ctrl-C must be seen. Part of win32.h. */
#ifndef MCAST_WSAPOLL_H
#define MCAST_WSAPOLL_H

enum {
    MCAST_READY_MAX = 64,
    MCAST_WAIT_SLICE_MS = 50,
};
#define MCAST_WAKE UINT64_MAX /* the key of the wake-up socket; sockets have small ones */

/* What is polled, with the keys beside it; who waits polls a copy, so that sockets can come and go meanwhile. */
typedef struct mcast_poller {
    SRWLOCK lock;
    SOCKET wake;
    size_t count;
    size_t capacity;
    WSAPOLLFD *sockets;
    uint64_t *keys;
    volatile LONG first; /* which ready socket is reported first: none starves behind MCAST_READY_MAX busy ones */
} mcast_poller;

static inline void
mcast_poller_init(mcast_poller *poller)
{
    memset(poller, 0, sizeof *poller);
    InitializeSRWLock(&poller->lock);
    poller->wake = INVALID_SOCKET;
}

static inline int
mcast_poller_grow(mcast_poller *poller)
{
    size_t capacity = poller->capacity ? poller->capacity * 2 : 8;
    WSAPOLLFD *sockets = realloc(poller->sockets, capacity * sizeof *sockets);
    poller->sockets = sockets ? sockets : poller->sockets;
    uint64_t *keys = realloc(poller->keys, capacity * sizeof *keys);
    poller->keys = keys ? keys : poller->keys;
    if (!sockets || !keys)
        return -ENOMEM;
    poller->capacity = capacity;
    return 0;
}

static inline int
mcast_poller_add(mcast_poller *poller, mcast_descriptor from, uint64_t key)
{
    AcquireSRWLockExclusive(&poller->lock);
    int status = poller->count < poller->capacity ? 0 : mcast_poller_grow(poller);
    if (status == 0) {
        poller->sockets[poller->count] = (WSAPOLLFD){.fd = from.socket, .events = POLLRDNORM};
        poller->keys[poller->count++] = key;
    }
    ReleaseSRWLockExclusive(&poller->lock);
    return status;
}

static inline void
mcast_poller_remove(mcast_poller *poller, mcast_descriptor from)
{
    AcquireSRWLockExclusive(&poller->lock);
    for (size_t i = 0; i < poller->count; i++)
        if (poller->sockets[i].fd == from.socket) {
            poller->sockets[i] = poller->sockets[--poller->count];
            poller->keys[i] = poller->keys[poller->count];
            break;
        }
    ReleaseSRWLockExclusive(&poller->lock);
}

static inline void
mcast_poller_close(mcast_poller *poller)
{
    if (poller->wake != INVALID_SOCKET)
        closesocket(poller->wake);
    free(poller->sockets);
    free(poller->keys);
    mcast_poller_init(poller);
}

/* The wake-up socket is connected to itself: nobody else can write to it. */
static inline int
mcast_poller_open(mcast_poller *poller)
{
    struct sockaddr_in here = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    int size = sizeof here;
    u_long nonblocking = 1;
    poller->wake = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    int failed = poller->wake == INVALID_SOCKET || bind(poller->wake, (struct sockaddr *)&here, size) != 0 ||
                 getsockname(poller->wake, (struct sockaddr *)&here, &size) != 0 ||
                 connect(poller->wake, (struct sockaddr *)&here, size) != 0 ||
                 ioctlsocket(poller->wake, FIONBIO, &nonblocking) != 0;
    int status =
        failed ? mcast_winsock_error() : mcast_poller_add(poller, (mcast_descriptor){poller->wake, NULL}, MCAST_WAKE);
    if (status != 0)
        mcast_poller_close(poller);
    return status;
}

/* The keys of what is readable in a copy of the poller's sockets. */
static inline int
mcast_poller_collect(mcast_poller *poller, const WSAPOLLFD *polled, const uint64_t *polled_keys, size_t count,
                     uint64_t *keys)
{
    int ready = 0;
    size_t first = (ULONG)InterlockedIncrement(&poller->first);
    for (size_t i = 0; i < count && ready < MCAST_READY_MAX; i++)
        if (polled[(first + i) % count].revents)
            keys[ready++] = polled_keys[(first + i) % count];
    return ready;
}

/* The keys of what is readable, at most MCAST_READY_MAX; 0 when the time is over; -EINTR to look at the signals and call again; -errno.
 * timeout_ns < 0 waits forever. A socket that is added meanwhile is waited for from the next slice on. */
static inline int
mcast_poller_wait(mcast_poller *poller, uint64_t *keys, int64_t timeout_ns)
{
    int64_t milliseconds = timeout_ns / 1000000 + (timeout_ns % 1000000 != 0);
    int is_last = timeout_ns >= 0 && milliseconds <= MCAST_WAIT_SLICE_MS, status = -ENOMEM;
    AcquireSRWLockShared(&poller->lock);
    size_t count = poller->count;
    WSAPOLLFD *polled = malloc(count * sizeof *polled + count * sizeof(uint64_t) + 1);
    uint64_t *polled_keys = (uint64_t *)(polled + count);
    if (polled) {
        memcpy(polled, poller->sockets, count * sizeof *polled);
        memcpy(polled_keys, poller->keys, count * sizeof *polled_keys);
    }
    ReleaseSRWLockShared(&poller->lock);
    if (polled) {
        int ready = WSAPoll(polled, (ULONG)count, is_last ? (INT)milliseconds : MCAST_WAIT_SLICE_MS);
        status = ready > 0    ? mcast_poller_collect(poller, polled, polled_keys, count, keys)
                 : ready == 0 ? (is_last ? 0 : -EINTR)
                              : mcast_winsock_error();
    }
    free(polled);
    return status;
}

/* Makes the poller readable until cleared. */
static inline void
mcast_poller_signal(const mcast_poller *poller)
{
    send(poller->wake, "!", 1, 0); /* full means signalled already */
}

static inline void
mcast_poller_clear(const mcast_poller *poller)
{
    char read[16];
    while (recv(poller->wake, read, sizeof read, 0) > 0)
        ;
}

static inline int
mcast_poller_descriptor(const mcast_poller *poller)
{
    (void)poller;
    return -1; /* the feature `descriptor` is off */
}

#endif
