/* Where a system maps no ring: what the slots and the batches say of one, so that they need not ask. None is ever opened. */
#ifndef MCAST_NO_RING_H
#define MCAST_NO_RING_H

#include "filter.h"
#include <stddef.h>

#define MCAST_SLOTS_RING "no_slots_ring.h"
enum { MCAST_HAS_RING = 0 };

typedef struct mcast_lease {
    size_t used;
} mcast_lease;

typedef struct mcast_ring {
    int fd;
} mcast_ring;

typedef struct mcast_listener {
    int port;
} mcast_listener;

static inline int
mcast_lease_detach(mcast_lease *lease)
{
    (void)lease;
    return 0;
}

static inline const unsigned char *
mcast_lease_pin(mcast_lease *lease, int *in_place)
{
    (void)lease;
    *in_place = 0;
    return NULL;
}

static inline void
mcast_lease_unpin(mcast_lease *lease)
{
    (void)lease;
}

static inline void
mcast_lease_read(mcast_lease *lease, size_t offset, void *to, size_t size)
{
    (void)lease, (void)offset, (void)to, (void)size;
}

static inline void
mcast_lease_end(mcast_lease *lease)
{
    (void)lease;
}

static inline void
mcast_ring_close(mcast_ring *ring)
{
    (void)ring;
}

#endif
