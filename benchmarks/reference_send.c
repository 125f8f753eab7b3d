/* The limit of sending: what plain C reaches with the same system calls on the same unconnected sockets.
 *
 * Compiled on the spot by reference_send.py and called through ctypes. Python makes and configures the sockets. */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "reference_clock.h"

enum {
    BATCH = 256,
    MAX_SEGMENTS = 64,
    LARGEST = 65507,
    OPTION_UDP_SEGMENT = 103, /* udp(7), Linux 4.18; absent from old headers */
};

static uint8_t zeros[65536];

static struct sockaddr_in
destination(uint32_t group, uint16_t port)
{
    struct sockaddr_in address;
    memset(&address, 0, sizeof address);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = group;
    address.sin_port = htons(port);
    return address;
}

static int
again(int fd)
{
    struct pollfd one = {.fd = fd, .events = POLLOUT};
    if (errno != EAGAIN && errno != EINTR)
        return -errno;
    poll(&one, 1, 100);
    return 0;
}

/* Sends `count` datagrams of `size` bytes, BATCH to a sendmmsg(2): nanoseconds, or -errno. */
int64_t
reference_sendmmsg(int fd, uint32_t group, uint16_t port, int64_t count, int size)
{
    struct sockaddr_in address = destination(group, port);
    struct mmsghdr messages[BATCH];
    struct iovec piece = {zeros, (size_t)size};
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++)
        messages[i].msg_hdr =
            (struct msghdr){.msg_name = &address, .msg_namelen = sizeof address, .msg_iov = &piece, .msg_iovlen = 1};
    int64_t start = now_ns();
    for (int64_t sent = 0; sent < count;) {
        int left = sendmmsg(fd, messages, count - sent < BATCH ? (unsigned)(count - sent) : BATCH, MSG_DONTWAIT);
        if (left < 0 && again(fd) != 0)
            return -errno;
        sent += left > 0 ? left : 0;
    }
    return now_ns() - start;
}

/* The same of payloads that each lie elsewhere in memory, as objects of Python do: `pieces` has one for each datagram. */
int64_t
reference_scattered(int fd, uint32_t group, uint16_t port, int64_t count, const struct iovec *pieces)
{
    struct sockaddr_in address = destination(group, port);
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    int64_t start = now_ns();
    for (int64_t sent = 0; sent < count;) {
        int64_t now = count - sent < BATCH ? count - sent : BATCH;
        for (int64_t i = 0; i < now; i++)
            messages[i].msg_hdr = (struct msghdr){.msg_name = &address,
                                                  .msg_namelen = sizeof address,
                                                  .msg_iov = (struct iovec *)&pieces[sent + i],
                                                  .msg_iovlen = 1};
        int left = sendmmsg(fd, messages, (unsigned)now, MSG_DONTWAIT);
        if (left < 0 && again(fd) != 0)
            return -errno;
        sent += left > 0 ? left : 0;
    }
    return now_ns() - start;
}

/* The same by UDP GSO, MAX_SEGMENTS or 64 KiB to a sendto(2): of zeros, or of the rows of a buffer. */
int64_t
reference_segments(int fd, uint32_t group, uint16_t port, int64_t count, int size, const uint8_t *rows)
{
    struct sockaddr_in address = destination(group, port);
    int segments = LARGEST / size < MAX_SEGMENTS ? LARGEST / size : MAX_SEGMENTS;
    if (setsockopt(fd, IPPROTO_UDP, OPTION_UDP_SEGMENT, &size, sizeof size))
        return -errno;
    int64_t start = now_ns();
    for (int64_t sent = 0; sent < count;) {
        int64_t now = count - sent < segments ? count - sent : segments;
        const uint8_t *from = rows ? rows + sent * size : zeros;
        if (sendto(fd, from, (size_t)(now * size), MSG_DONTWAIT, (struct sockaddr *)&address, sizeof address) >= 0)
            sent += now;
        else if (again(fd) != 0)
            return -errno;
    }
    return now_ns() - start;
}

/* One datagram at each multiple of the interval: absolute sleep, short spin. Nanoseconds, or -errno. */
int64_t
reference_pace(int fd, uint32_t group, uint16_t port, int64_t count, int size, double interval)
{
    struct sockaddr_in address = destination(group, port);
    set_timer_slack(1);
    int64_t start = now_ns();
    for (int64_t sent = 0; sent < count;) {
        wait_until(start + (int64_t)((double)sent * interval));
        if (sendto(fd, zeros, (size_t)size, MSG_DONTWAIT, (struct sockaddr *)&address, sizeof address) >= 0)
            sent++;
        else if (again(fd) != 0)
            return -errno;
    }
    set_timer_slack(0);
    return now_ns() - start;
}
