/* Memory of batches: blocks that go back to a pool when the last view of a batch dies.
 *
 * Without the pool the allocator returns pages to the kernel after every batch of some 100 KiB, and takes page faults
 * for the next one. Blocks have sizes in quarter octaves, so that a kept batch wastes at most a quarter. Small blocks and huge
 * ones are left to the allocator.
 *
 * All begin at a cache line: a record is one line then, and the kernel's copy into an unaligned arena takes a tenth longer. */
#ifndef MCAST_MEMORY_H
#define MCAST_MEMORY_H

#include "platform.h"
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    MCAST_POOL_SMALLEST = 4096,
    MCAST_POOL_CLASSES = 9 * 4,    /* nine octaves: the largest is 1.75 MiB */
    MCAST_POOL_RETAINED = 2 << 20, /* bytes kept for reuse, for the whole process, unless mcast_pool_retain says more */
    MCAST_POOL_STALE = 64          /* blocks asked for; a size that was not among them gives way */
};

typedef struct mcast_pool {
    mcast_mutex lock;
    void *unused[MCAST_POOL_CLASSES];   /* each block's first word points to the next */
    uint64_t asked[MCAST_POOL_CLASSES]; /* the number of the latest request for this size */
    uint64_t requests;
    size_t retained;
    size_t more; /* bytes that are kept beyond MCAST_POOL_RETAINED */
} mcast_pool;

/* The one of the process; its lock is held across a fork, so that a child can use it. */
extern mcast_pool mcast_shared_pool;

/* Once, before anything is allocated. 0, or -errno. */
int mcast_pool_prepare(void);

/* At least `size` bytes, *capacity says how many; NULL when there is no memory. */
void *mcast_pool_take(mcast_pool *pool, size_t size, size_t *capacity);

/* Returns a block of that capacity; NULL does nothing. */
void mcast_pool_give(mcast_pool *pool, void *block, size_t capacity);

/* The pool keeps `more` bytes for reuse beyond what it kept, for a user with many batches in flight; releasing takes that back. */
void mcast_pool_retain(mcast_pool *pool, size_t more);
void mcast_pool_release(mcast_pool *pool, size_t more);

/* A growing piece of memory. */
typedef struct mcast_memory {
    unsigned char *bytes;
    size_t used;
    size_t capacity;
} mcast_memory;

/* Grows to `needed` bytes at least; 0, or -1 without memory (the contents stay). */
int mcast_memory_grow(mcast_pool *pool, mcast_memory *memory, size_t needed);

/* Space for `more` bytes behind those used; 0, or -1 without memory (the contents stay). */
static inline int
mcast_memory_reserve(mcast_pool *pool, mcast_memory *memory, size_t more)
{
    if (memory->capacity - memory->used >= more && memory->bytes)
        return 0;
    return mcast_memory_grow(pool, memory, memory->used + more);
}

/* Returns what was reserved and not used, when it is more than half; without memory it stays as it is. */
void mcast_memory_fit(mcast_pool *pool, mcast_memory *memory);

#endif
