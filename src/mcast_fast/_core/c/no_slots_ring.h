/* slots_ring.h where a system maps no ring. */
#ifndef MCAST_NO_SLOTS_RING_H
#define MCAST_NO_SLOTS_RING_H

#include <errno.h>

static inline int
mcast_drain_ring(mcast_slots *slots, mcast_ring *ring, mcast_batch *batch, size_t limit)
{
    (void)slots, (void)ring, (void)batch, (void)limit;
    return 0;
}

static inline int
mcast_drain_rings(mcast_slots *slots, mcast_batch *batch, size_t limit)
{
    (void)slots, (void)batch, (void)limit;
    return 0;
}

static inline int
mcast_rings_nap(mcast_slots *slots, int64_t left)
{
    (void)slots, (void)left;
    return 0;
}

static inline int
mcast_rings_have_more(mcast_slots *slots)
{
    (void)slots;
    return 0;
}

static inline int
mcast_slots_enter_ring(mcast_slots *slots, mcast_socket *socket, uint64_t key)
{
    (void)slots, (void)socket, (void)key;
    return -ENOSYS;
}

static inline void
mcast_slots_leave_ring(mcast_slots *slots, mcast_socket *socket)
{
    (void)slots, (void)socket;
}

static inline void
mcast_rings_count(mcast_slots *slots, mcast_counters *counters)
{
    (void)slots, (void)counters;
}

static inline int64_t
mcast_slots_add_ring(mcast_slots *slots, int fd, uint32_t interface_index, size_t block_size, uint32_t count,
                     unsigned latency_ms, int times)
{
    (void)slots, (void)fd, (void)interface_index, (void)block_size, (void)count, (void)latency_ms, (void)times;
    return -ENOSYS;
}

static inline int64_t
mcast_slots_listen(mcast_slots *slots, uint64_t ring_key, uint16_t port)
{
    (void)slots, (void)ring_key, (void)port;
    return -ENOSYS;
}

#endif
