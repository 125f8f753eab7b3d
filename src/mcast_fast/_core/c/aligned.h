/* Memory that begins at a cache line, where POSIX has it: posix_memalign(3). win32.h has the same names. */
#ifndef MCAST_ALIGNED_H
#define MCAST_ALIGNED_H

#include "platform.h"
#include <stdlib.h>

/* At least `size` bytes; NULL when there is no memory. */
static inline void *
mcast_aligned_allocate(size_t size)
{
    void *memory;
    return posix_memalign(&memory, MCAST_CACHE_LINE, size) == 0 ? memory : NULL;
}

static inline void
mcast_aligned_free(void *memory)
{
    free(memory);
}

#endif
