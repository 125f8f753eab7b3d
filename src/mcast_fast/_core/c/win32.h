/* Windows: Winsock 2. Not named windows.h, for this directory is on the include path, and would hide the system's own.
 * One packet a system call, but no Python in between. */
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

#define MCAST_SYSTEM "Windows"
#define MCAST_HAS_RING 0

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
    {"IP_MULTICAST_IF", IPPROTO_IP, IP_MULTICAST_IF},
    {"IP_MULTICAST_TTL", IPPROTO_IP, IP_MULTICAST_TTL},
    {"IP_MULTICAST_LOOP", IPPROTO_IP, IP_MULTICAST_LOOP},
    {"IPV6_V6ONLY", IPPROTO_IPV6, IPV6_V6ONLY},
    {"IPV6_RECVPKTINFO", IPPROTO_IPV6, IPV6_PKTINFO},
    {"IPV6_RECVHOPLIMIT", IPPROTO_IPV6, IPV6_HOPLIMIT},
    {"IPV6_RECVTCLASS", IPPROTO_IPV6, WINDOWS_IPV6_RECVTCLASS},
    {"IPV6_MULTICAST_IF", IPPROTO_IPV6, IPV6_MULTICAST_IF},
    {"IPV6_MULTICAST_HOPS", IPPROTO_IPV6, IPV6_MULTICAST_HOPS},
    {"IPV6_MULTICAST_LOOP", IPPROTO_IPV6, IPV6_MULTICAST_LOOP},
    {"UDP_SEND_MSG_SIZE", IPPROTO_UDP, WINDOWS_UDP_SEND_MSG_SIZE},
    {"UDP_RECV_MAX_COALESCED_SIZE", IPPROTO_UDP, WINDOWS_UDP_RECV_MAX_COALESCED_SIZE},
    {NULL, 0, 0},
};

static const mcast_missing mcast_missing_features[] = {
    {"batched_receive", "Windows receives one packet a system call"},
    {"batched_send", "Windows sends one packet a system call"},
    {"wire_length", "Windows reports that a packet was truncated, not its length"},
    {"descriptor", "Windows has no descriptor that stands for several sockets"},
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

/* ---- memberships ---- */

static const int mcast_membership_options[] = {
    [MCAST_JOIN] = MCAST_JOIN_GROUP,
    [MCAST_LEAVE] = MCAST_LEAVE_GROUP,
    [MCAST_JOIN_SOURCE] = MCAST_JOIN_SOURCE_GROUP,
    [MCAST_LEAVE_SOURCE] = MCAST_LEAVE_SOURCE_GROUP,
    [MCAST_BLOCK] = MCAST_BLOCK_SOURCE,
    [MCAST_UNBLOCK] = MCAST_UNBLOCK_SOURCE,
};

static const int mcast_old_membership_options[] = {
    [MCAST_JOIN] = IP_ADD_MEMBERSHIP,
    [MCAST_LEAVE] = IP_DROP_MEMBERSHIP,
    [MCAST_JOIN_SOURCE] = IP_ADD_SOURCE_MEMBERSHIP,
    [MCAST_LEAVE_SOURCE] = IP_DROP_SOURCE_MEMBERSHIP,
    [MCAST_BLOCK] = IP_BLOCK_SOURCE,
    [MCAST_UNBLOCK] = IP_UNBLOCK_SOURCE,
};

static inline int
mcast_membership_by_index(SOCKET socket, int step, int version, uint32_t interface_index, const uint8_t *group,
                          const uint8_t *source)
{
    GROUP_SOURCE_REQ with_source;
    GROUP_REQ plain;
    const void *request = &plain;
    int size = sizeof plain;
    memset(&plain, 0, sizeof plain);
    memset(&with_source, 0, sizeof with_source);
    if (source) {
        with_source.gsr_interface = interface_index;
        mcast_sockaddr(&with_source.gsr_group, version, group);
        mcast_sockaddr(&with_source.gsr_source, version, source);
        request = &with_source;
        size = sizeof with_source;
    } else {
        plain.gr_interface = interface_index;
        mcast_sockaddr(&plain.gr_group, version, group);
    }
    int level = version == 4 ? IPPROTO_IP : IPPROTO_IPV6;
    int answer = setsockopt(socket, level, mcast_membership_options[step], request, size);
    return answer == 0 ? 0 : mcast_winsock_error();
}

/* The first IPv4 address of an interface; 0.0.0.N, which Windows reads as the index, where it has none. */
static inline struct in_addr
mcast_interface_address(uint32_t interface_index)
{
    struct in_addr found = {.s_addr = htonl(interface_index)};
    ULONG size = 0;
    GetIpAddrTable(NULL, &size, FALSE);
    MIB_IPADDRTABLE *table = calloc(1, size + sizeof *table);
    if (table && GetIpAddrTable(table, &size, FALSE) == NO_ERROR)
        for (DWORD i = 0; i < table->dwNumEntries; i++)
            if (table->table[i].dwIndex == interface_index) {
                found.s_addr = table->table[i].dwAddr;
                break;
            }
    free(table);
    return found;
}

/* RFC 3678 section 4, and RFC 3493 section 5.2, for what has no MCAST_* options: Windows before Vista, and wine. */
static inline int
mcast_membership_by_address(SOCKET socket, int step, int version, uint32_t interface_index, const uint8_t *group,
                            const uint8_t *source)
{
    int answer, option = mcast_old_membership_options[step];
    if (version == 6 && source)
        return -WSAENOPROTOOPT;
    if (version == 6) {
        struct ipv6_mreq request = {.ipv6mr_interface = interface_index};
        memcpy(&request.ipv6mr_multiaddr, group, 16);
        answer = setsockopt(socket, IPPROTO_IPV6, option, (const char *)&request, sizeof request);
    } else if (source) {
        struct ip_mreq_source request = {.imr_interface = mcast_interface_address(interface_index)};
        memcpy(&request.imr_multiaddr, group, 4);
        memcpy(&request.imr_sourceaddr, source, 4);
        answer = setsockopt(socket, IPPROTO_IP, option, (const char *)&request, sizeof request);
    } else {
        struct ip_mreq request = {.imr_interface = mcast_interface_address(interface_index)};
        memcpy(&request.imr_multiaddr, group, 4);
        answer = setsockopt(socket, IPPROTO_IP, option, (const char *)&request, sizeof request);
    }
    return answer == 0 ? 0 : mcast_winsock_error();
}

/* One step of membership; source is NULL for MCAST_JOIN and MCAST_LEAVE. 0, or -errno. */
static inline int
mcast_membership(int fd, int step, int version, uint32_t interface_index, const uint8_t *group, const uint8_t *source)
{
    SOCKET socket = (SOCKET)(unsigned)fd;
    int status = mcast_membership_by_index(socket, step, version, interface_index, group, source);
    if (status == -WSAENOPROTOOPT)
        status = mcast_membership_by_address(socket, step, version, interface_index, group, source);
    return status;
}

/* Not offered (MCAST_MSFILTER is no row of mcast_options): sources are changed one by one. */
static inline int
mcast_set_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int exclude,
                 const uint8_t *sources, size_t count)
{
    (void)fd, (void)version, (void)interface_index, (void)group, (void)exclude, (void)sources, (void)count;
    return -WSAEOPNOTSUPP;
}

static inline int
mcast_get_filter(int fd, int version, uint32_t interface_index, const uint8_t *group, int *exclude, uint8_t *sources,
                 size_t room)
{
    (void)fd, (void)version, (void)interface_index, (void)group, (void)exclude, (void)sources, (void)room;
    return -WSAEOPNOTSUPP;
}

/* The interface that multicast leaves by: its index as 0.0.0.N, and where that is refused (wine), the address. */
static inline int
mcast_send_interface(int fd, uint32_t interface_index, const uint8_t *source)
{
    SOCKET socket = (SOCKET)(unsigned)fd;
    uint32_t index = htonl(interface_index);
    if (setsockopt(socket, IPPROTO_IP, IP_MULTICAST_IF, (const char *)&index, sizeof index) == 0)
        return 0;
    return setsockopt(socket, IPPROTO_IP, IP_MULTICAST_IF, (const char *)source, 4) == 0 ? 0 : mcast_winsock_error();
}

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

/* ---- threads: as pthreads.h ---- */

typedef SRWLOCK mcast_mutex;
typedef CONDITION_VARIABLE mcast_condition;
typedef HANDLE mcast_thread;

#define MCAST_MUTEX_INITIAL SRWLOCK_INIT

static inline int
mcast_mutex_open(mcast_mutex *mutex)
{
    InitializeSRWLock(mutex);
    return 0;
}

static inline void
mcast_mutex_close(mcast_mutex *mutex)
{
    (void)mutex;
}

static inline void
mcast_lock(mcast_mutex *mutex)
{
    AcquireSRWLockExclusive(mutex);
}

static inline void
mcast_unlock(mcast_mutex *mutex)
{
    ReleaseSRWLockExclusive(mutex);
}

static inline int
mcast_condition_open(mcast_condition *condition)
{
    InitializeConditionVariable(condition);
    return 0;
}

static inline void
mcast_condition_close(mcast_condition *condition)
{
    (void)condition;
}

static inline void
mcast_condition_signal_all(mcast_condition *condition)
{
    WakeAllConditionVariable(condition);
}

/* Waits for a signal for `ns` at most, with the mutex held before and after. It may return early. */
static inline void
mcast_condition_wait(mcast_condition *condition, mcast_mutex *mutex, int64_t ns)
{
    SleepConditionVariableSRW(condition, mutex, (DWORD)((ns + 999999) / 1000000), 0);
}

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

typedef struct mcast_thread_request {
    void *(*run)(void *);
    void *argument;
} mcast_thread_request;

static DWORD WINAPI
mcast_thread_main(LPVOID argument)
{
    mcast_thread_request request = *(mcast_thread_request *)argument;
    free(argument);
    request.run(request.argument);
    return 0;
}

/* Starts a native thread. 0, or -errno. */
static inline int
mcast_thread_start(mcast_thread *thread, void *(*run)(void *), void *argument)
{
    mcast_thread_request *request = malloc(sizeof *request);
    if (!request)
        return -ENOMEM;
    *request = (mcast_thread_request){run, argument};
    *thread = CreateThread(NULL, 0, mcast_thread_main, request, 0, NULL);
    if (*thread)
        return 0;
    free(request);
    return -EAGAIN;
}

static inline void
mcast_thread_join(mcast_thread thread)
{
    WaitForSingleObject(thread, INFINITE);
    CloseHandle(thread);
}

/* Nothing forks here. */
static inline int
mcast_at_fork(void (*before)(void), void (*in_parent)(void), void (*in_child)(void))
{
    (void)before, (void)in_parent, (void)in_child;
    return 0;
}

/* A thread that is not Python's; `cpu` is where it runs, -1 anywhere. */
static inline void
mcast_thread_begin(int cpu)
{
    if (cpu >= 0 && cpu < (int)(8 * sizeof(DWORD_PTR)))
        SetThreadAffinityMask(GetCurrentThread(), (DWORD_PTR)1 << cpu);
}

/* Threads of Windows have no slack of their own. */
static inline long
mcast_timer_slack(long slack)
{
    (void)slack;
    return 0;
}

/* ---- what a socket is received from by ---- */

/* WSARecvMsg is found for each socket anew: each provider of sockets has its own. */
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
               "there is room for every control message that is requested");

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
