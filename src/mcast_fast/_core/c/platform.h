/* The only ladder of systems: includes the one header that speaks for this one.
 *
 * Such a header offers: mcast_options (its socket options), mcast_scratch (slots that a system call fills), mcast_poller (waiting,
 * and being woken), mcast_membership (joins by interface index), mcast_train (what one call sends) and mcast_thread_begin. Beside it
 * stands ring.h, or no_ring.h where the system maps none. */
#ifndef MCAST_PLATFORM_H
#define MCAST_PLATFORM_H

#include <stdint.h>

typedef struct mcast_option {
    const char *name;
    int level;
    int number;
} mcast_option;

enum {
    MCAST_JOIN,
    MCAST_LEAVE,
    MCAST_JOIN_SOURCE,
    MCAST_LEAVE_SOURCE,
    MCAST_BLOCK,
    MCAST_UNBLOCK,
};

#if defined(__linux__)
#include "linux.h"
#include "ring.h"
#else
#error "no header for this system yet: the pure backend runs here (MCAST_FAST_BUILD=no)"
#endif

#endif
