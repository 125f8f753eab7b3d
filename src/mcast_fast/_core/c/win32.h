/* Windows: Winsock 2. Not named windows.h, for this directory is on the include path, and would hide the system's own.
 * One packet per system call, but no Python in between. */
#ifndef MCAST_WIN32_H
#define MCAST_WIN32_H

/* Winsock 2 comes before whatever includes <windows.h>, which would bring Winsock 1. */
#include <winsock2.h>
#include <ws2tcpip.h>

#include <iphlpapi.h>
#include <mstcpip.h>
#include <mswsock.h>

#include <errno.h>
#include <malloc.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "options.h"

#define MCAST_SYSTEM "Windows"
#define MCAST_HAS_RING 0
#define MCAST_HAS_WRITEV 0
#define MCAST_HAS_UDP_GRO 0

/* What old headers lack, from ws2ipdef.h, mswsock.h and mstcpip.h of the Windows SDK. */
enum {
    WINDOWS_IP_TTL = 4,
    WINDOWS_IP_RECVTTL = 21,
    WINDOWS_IP_RECVTOS = 40,
    WINDOWS_IPV6_TCLASS = 39,
    WINDOWS_IPV6_RECVTCLASS = 40,
    WINDOWS_UDP_SEND_MSG_SIZE = 2,
    WINDOWS_UDP_RECV_MAX_COALESCED_SIZE = 3,
    WINDOWS_UDP_COALESCED_INFO = 3,
    WINDOWS_SO_TIMESTAMP = 0x300A,
    WINDOWS_TIMESTAMPING_FLAG_RX = 1,
    WINDOWS_TIMER_HIGH_RESOLUTION = 2,
};
static const DWORD WINDOWS_SIO_UDP_CONNRESET = 0x9800000C;
static const DWORD WINDOWS_SIO_UDP_NETRESET = 0x9800000F;
static const DWORD WINDOWS_SIO_TIMESTAMPING = 0x980000EB;

/* What one thread sets, once, and others look at without a lock. */
typedef volatile LONG mcast_flag;

static inline void
mcast_flag_set(mcast_flag *flag)
{
    InterlockedExchange(flag, 1);
}

static inline int
mcast_flag_is_set(const mcast_flag *flag)
{
    return InterlockedCompareExchange((mcast_flag *)flag, 0, 0) != 0;
}

/* A place in a sequence that several threads may move at once: whole, as aligned words are here, and no more than that. */
static inline ptrdiff_t
mcast_place_read(const ptrdiff_t *place)
{
    return *(const volatile ptrdiff_t *)place;
}

static inline void
mcast_place_move(ptrdiff_t *place, ptrdiff_t to)
{
    *(volatile ptrdiff_t *)place = to;
}

static inline const unsigned char *
mcast_pointer_load(const unsigned char *const *pointer)
{
    return *(const unsigned char *const volatile *)pointer;
}

static inline void
mcast_pointer_store(const unsigned char **pointer, const unsigned char *value)
{
    *(const unsigned char *volatile *)pointer = value;
}

/* A word that counts and has flags, as atomics.h. */
typedef volatile LONG mcast_word;

static inline uint32_t
mcast_word_load(const mcast_word *word)
{
    return (uint32_t)InterlockedCompareExchange((mcast_word *)word, 0, 0);
}

static inline void
mcast_word_store(mcast_word *word, uint32_t value)
{
    InterlockedExchange(word, (LONG)value);
}

static inline uint32_t
mcast_word_add(mcast_word *word, uint32_t value)
{
    return (uint32_t)InterlockedExchangeAdd(word, (LONG)value);
}

static inline uint32_t
mcast_word_or(mcast_word *word, uint32_t bits)
{
    return (uint32_t)InterlockedOr(word, (LONG)bits);
}

static inline uint32_t
mcast_word_exchange(mcast_word *word, uint32_t value)
{
    return (uint32_t)InterlockedExchange(word, (LONG)value);
}

static inline int
mcast_word_replace(mcast_word *word, uint32_t *expected, uint32_t value)
{
    LONG before = InterlockedCompareExchange(word, (LONG)value, (LONG)*expected);
    int replaced = (uint32_t)before == *expected;
    *expected = (uint32_t)before;
    return replaced;
}

typedef struct mcast_timestamping {
    ULONG flags;
    USHORT transmit_buffered;
} mcast_timestamping;

enum { MCAST_IOCTL = -1 }; /* the level of what is no option but an ioctl */

static const mcast_option mcast_options[] = {
    {"SIO_TIMESTAMPING", MCAST_IOCTL, 0},
    {"IP_PKTINFO", IPPROTO_IP, IP_PKTINFO},
    {"IP_RECVTTL", IPPROTO_IP, WINDOWS_IP_RECVTTL},
    {"IP_RECVTOS", IPPROTO_IP, WINDOWS_IP_RECVTOS},
    {"IPV6_RECVPKTINFO", IPPROTO_IPV6, IPV6_PKTINFO},
    {"IPV6_RECVHOPLIMIT", IPPROTO_IPV6, IPV6_HOPLIMIT},
    {"IPV6_RECVTCLASS", IPPROTO_IPV6, WINDOWS_IPV6_RECVTCLASS},
    {"UDP_SEND_MSG_SIZE", IPPROTO_UDP, WINDOWS_UDP_SEND_MSG_SIZE},
    {"UDP_RECV_MAX_COALESCED_SIZE", IPPROTO_UDP, WINDOWS_UDP_RECV_MAX_COALESCED_SIZE},
    MCAST_OPTIONS_OF_ALL,
    {NULL, 0, 0},
};

static const mcast_missing mcast_missing_features[] = {
    {"batched_receive", "Windows receives one packet per system call"},
    {"batched_send", "Windows sends one packet per system call"},
    {"wire_length", "Windows reports that a packet was truncated, not its length"},
    {"descriptor", "Windows has no descriptor that represents several sockets"},
    {NULL, NULL},
};

/* Whether a row of mcast_missing_features holds: here each does. */
static inline int
mcast_is_missing(const mcast_missing *row)
{
    (void)row;
    return 1;
}

/* ---- errors, options ---- */

/* -errno of the last call, by the numbers that Python's errno module has: those of Winsock, but where C has the same error under the
 * number without the 10000 (PC/errmap.h of CPython). */
static inline int
mcast_winsock_error(void)
{
    int error = WSAGetLastError();
    switch (error) {
    case WSAEWOULDBLOCK:
        return -EAGAIN;
    case WSAEINTR:
    case WSAEBADF:
    case WSAEACCES:
    case WSAEFAULT:
    case WSAEINVAL:
    case WSAEMFILE:
        return 10000 - error;
    default:
        return -error;
    }
}

static inline void
mcast_set_length(struct sockaddr_storage *address, size_t size)
{
    (void)address, (void)size; /* Windows keeps no length in an address */
}

#include "sockaddr.h"

static inline int
mcast_ioctl(SOCKET socket, DWORD code, const void *value, DWORD size)
{
    DWORD answered = 0;
    return WSAIoctl(socket, code, (void *)value, size, NULL, 0, &answered, NULL, NULL) == 0 ? 0 : mcast_winsock_error();
}

static inline int
mcast_set_option(int fd, int level, int number, int value)
{
    SOCKET socket = (SOCKET)(unsigned)fd;
    mcast_timestamping wanted = {value ? WINDOWS_TIMESTAMPING_FLAG_RX : 0, 0};
    DWORD wide = (DWORD)value;
    if (level == MCAST_IOCTL)
        return mcast_ioctl(socket, WINDOWS_SIO_TIMESTAMPING, &wanted, sizeof wanted);
    return setsockopt(socket, level, number, (const char *)&wide, sizeof wide) == 0 ? 0 : mcast_winsock_error();
}

/* Whether this edition of Windows has an option: each brought some, and only the system itself knows. */
static inline int
mcast_has_option(const mcast_option *option)
{
    DWORD value = 0;
    int size = sizeof value, found;
    SOCKET probe = socket(option->level == IPPROTO_IPV6 ? AF_INET6 : AF_INET, SOCK_DGRAM, IPPROTO_UDP);
    if (probe == INVALID_SOCKET)
        return option->level == IPPROTO_IPV6; /* no IPv6 here: then no option of it is set either */
    if (option->level == MCAST_IOCTL)
        found = mcast_set_option((int)probe, option->level, option->number, 1) == 0;
    else
        found = getsockopt(probe, option->level, option->number, (char *)&value, &size) == 0;
    closesocket(probe);
    return found;
}

#include "membership_win32.h"

/* ---- the clock ---- */

static inline int64_t
mcast_ticks_to_ns(int64_t ticks)
{
    LARGE_INTEGER frequency;
    QueryPerformanceFrequency(&frequency);
    return ticks / frequency.QuadPart * 1000000000 + ticks % frequency.QuadPart * 1000000000 / frequency.QuadPart;
}

static inline int64_t
mcast_monotonic_ns(void)
{
    LARGE_INTEGER now;
    QueryPerformanceCounter(&now);
    return mcast_ticks_to_ns(now.QuadPart);
}

/* Nanoseconds since the Unix epoch; a FILETIME counts units of 100 ns since 1601. */
static inline int64_t
mcast_epoch_ns(void)
{
    FILETIME now;
    GetSystemTimePreciseAsFileTime(&now);
    int64_t units = (int64_t)now.dwHighDateTime << 32 | now.dwLowDateTime;
    return (units - 116444736000000000) * 100;
}

/* Sleeps until a moment of the monotonic clock: to a millisecond or so where Windows has timers of high resolution (10, 1803). */
static inline void
mcast_sleep_until(int64_t moment)
{
    int64_t left = moment - mcast_monotonic_ns();
    if (left <= 0)
        return;
    LARGE_INTEGER due = {.QuadPart = -(left / 100)};
    HANDLE timer = CreateWaitableTimerExW(NULL, NULL, WINDOWS_TIMER_HIGH_RESOLUTION, TIMER_ALL_ACCESS);
    if (timer && SetWaitableTimer(timer, &due, 0, NULL, NULL, FALSE))
        WaitForSingleObject(timer, INFINITE);
    else
        Sleep((DWORD)(left / 1000000));
    if (timer)
        CloseHandle(timer);
}

/* ---- memory ---- */

/* Memory that begins at a cache line, as in aligned.h. */
static inline void *
mcast_aligned_allocate(size_t size)
{
    return _aligned_malloc(size, MCAST_CACHE_LINE);
}

static inline void
mcast_aligned_free(void *memory)
{
    _aligned_free(memory);
}

#include "srwlock.h"
#include "wsarecvmsg.h"

enum { MCAST_REPORTS_DROPS = 0 }; /* buffers dropped at a socket */

/* No socket option reports the drops at a socket here. */
static inline int
mcast_read_drops(mcast_descriptor fd, uint32_t *drops)
{
    (void)fd, (void)drops;
    return -EOPNOTSUPP;
}

#include "wsapoll.h"
#include "wsasend.h"

#endif
