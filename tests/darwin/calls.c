/* Calls of macOS by those of Linux, for .ci/platforms/darwin: recvmsg_x, sendmsg_x, waiting for a condition, and kqueue by epoll. */
#include "names.h"
#include "sys/event.h"
#include <errno.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

typedef struct message {
    struct msghdr header;
    size_t length;
} message;

unsigned long calls_of_x;

/* The length must be zero on input, as the kernel of macOS has it. */
ssize_t
recvmsg_x(int fd, message *messages, unsigned count, int flags)
{
    calls_of_x++;
    for (unsigned i = 0; i < count; i++) {
        ssize_t length = messages[i].length == 0 ? recvmsg(fd, &messages[i].header, flags) : -1;
        if (length < 0)
            return i ? (ssize_t)i : -1;
        messages[i].length = (size_t)length;
    }
    return count;
}

ssize_t
sendmsg_x(int fd, message *messages, unsigned count, int flags)
{
    calls_of_x++;
    for (unsigned i = 0; i < count; i++)
        if (messages[i].length != 0 || sendmsg(fd, &messages[i].header, flags) < 0)
            return i ? (ssize_t)i : -1;
    return count;
}

/* The condition has the default clock, as one that macOS opens has. */
int
pthread_cond_timedwait_relative_np(pthread_cond_t *condition, pthread_mutex_t *mutex, const struct timespec *time)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += time->tv_sec + (until.tv_nsec + time->tv_nsec) / 1000000000;
    until.tv_nsec = (until.tv_nsec + time->tv_nsec) % 1000000000;
    return pthread_cond_timedwait(condition, mutex, &until);
}

/* ---- kqueue: an epoll descriptor, and an eventfd for its one user event ---- */

enum { QUEUES = 65536 };

static int user_events[QUEUES]; /* by queue: the eventfd plus 1; 0 = none */

int
kqueue(void)
{
    int queue = epoll_create1(0);
    if (queue >= QUEUES)
        return -1;
    if (queue >= 0 && user_events[queue]) { /* of a queue that was closed with this number */
        close(user_events[queue] - 1);
        user_events[queue] = 0;
    }
    return queue;
}

static int
change_user_event(int queue, const struct kevent *change)
{
    uint64_t one = 1;
    int event = user_events[queue] - 1;
    if (change->fflags & NOTE_TRIGGER)
        return write(event, &one, sizeof one) < 0 && errno != EAGAIN ? -1 : 0;
    if (change->flags & EV_DELETE) {
        user_events[queue] = 0;
        return close(event);
    }
    event = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    user_events[queue] = event + 1;
    struct epoll_event readable = {.events = EPOLLIN, .data = {.u64 = UINT64_MAX}};
    return event < 0 ? -1 : epoll_ctl(queue, EPOLL_CTL_ADD, event, &readable);
}

static int
change_queue(int queue, const struct kevent *change)
{
    if (change->filter == EVFILT_USER)
        return change_user_event(queue, change);
    struct epoll_event readable = {.events = EPOLLIN, .data = {.ptr = change->udata}};
    int add = change->flags & EV_ADD;
    return epoll_ctl(queue, add ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, (int)change->ident, &readable);
}

int
kevent(int queue, const struct kevent *changes, int change_count, struct kevent *events, int event_count,
       const struct timespec *timeout)
{
    struct epoll_event ready[64];
    if (queue < 0) {
        errno = EBADF;
        return -1;
    }
    for (int i = 0; i < change_count; i++)
        if (change_queue(queue, &changes[i]) != 0)
            return -1;
    if (event_count == 0)
        return 0;
    /* a day at most, for epoll counts milliseconds in an int */
    int64_t left =
        timeout && timeout->tv_sec < 86400 ? timeout->tv_sec * 1000 + (timeout->tv_nsec + 999999) / 1000000 : 86400000;
    int count = epoll_wait(queue, ready, event_count < 64 ? event_count : 64, timeout ? (int)left : -1);
    for (int i = 0; i < count; i++) {
        short filter = ready[i].data.u64 == UINT64_MAX ? EVFILT_USER : EVFILT_READ;
        events[i] = (struct kevent){.filter = filter, .udata = ready[i].data.ptr};
    }
    return count;
}
