/* As much of kqueue(2) as bsd.h takes, for .ci/platforms/darwin: calls.c answers it by epoll(7) and eventfd(2). */
#ifndef MCAST_TESTS_EVENT_H
#define MCAST_TESTS_EVENT_H

#include <stdint.h>
#include <time.h>

enum {
    EVFILT_READ = -1,
    EVFILT_USER = -10,
    EV_ADD = 1,
    EV_DELETE = 2,
    NOTE_TRIGGER = 0x01000000,
};

struct kevent {
    uintptr_t ident;
    short filter;
    unsigned short flags;
    unsigned fflags;
    intptr_t data;
    void *udata;
};

#define EV_SET(event, i, f, s, e, d, u)                                                                                \
    *(event) = (struct kevent)                                                                                         \
    {                                                                                                                  \
        (i), (f), (s), (e), (d), (u)                                                                                   \
    }

int kqueue(void);
int kevent(int queue, const struct kevent *changes, int change_count, struct kevent *events, int event_count,
           const struct timespec *timeout);

#endif
