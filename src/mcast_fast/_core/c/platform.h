/* The only ladder of systems: includes the one header that speaks for this one.
 *
 * Such a header offers: mcast_options (its socket options), mcast_missing_features, mcast_descriptor (what a socket is received from
 * by), mcast_scratch (slots that a system call fills), mcast_poller (waiting, and being woken), mcast_membership (joins by interface
 * index), mcast_message_vector (what one call sends), mcast_monotonic_ns, mcast_sleep_until and mcast_thread_begin; the locks, threads and atomic words of
 * pthreads.h and atomics.h; and says whether the system maps rings of packets (MCAST_HAS_RING, ring.c), gathers what it writes (MCAST_HAS_WRITEV, capture_gather.h) and coalesces for those who ask (MCAST_HAS_UDP_GRO, coalescing.c). */
#ifndef MCAST_PLATFORM_H
#define MCAST_PLATFORM_H

#include <stdint.h>

enum { MCAST_CACHE_LINE = 64 }; /* bytes */

typedef struct mcast_option {
    const char *name;
    int level;
    int number;
} mcast_option;

/* A feature of _core/layout.py that the compiled backend lacks on this system, and why. */
typedef struct mcast_missing {
    const char *feature;
    const char *reason;
} mcast_missing;

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
#elif defined(__APPLE__)
#include "darwin.h"
#elif defined(_WIN32)
#include "win32.h"
#elif defined(__FreeBSD__)
#include "posix.h"
#else
#error "no header for this system yet: the pure backend runs here (MCAST_FAST_BUILD=no)"
#endif

#endif
