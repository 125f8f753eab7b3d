/* Reference counts that threads share. Apart from platform.h, whose headers need Python and sockets: what uses these needs neither. */
#ifndef MCAST_REFCOUNT_H
#define MCAST_REFCOUNT_H

#if defined(_MSC_VER)
#include <intrin.h>
typedef volatile long mcast_refcount;

static inline void
mcast_refcount_up(mcast_refcount *count)
{
    _InterlockedIncrement(count);
}

/* How many are left. */
static inline long
mcast_refcount_down(mcast_refcount *count)
{
    return _InterlockedDecrement(count);
}
#else
typedef long mcast_refcount;

static inline void
mcast_refcount_up(mcast_refcount *count)
{
    __atomic_fetch_add(count, 1, __ATOMIC_RELAXED);
}

/* How many are left. */
static inline long
mcast_refcount_down(mcast_refcount *count)
{
    return __atomic_sub_fetch(count, 1, __ATOMIC_ACQ_REL);
}
#endif

#endif
