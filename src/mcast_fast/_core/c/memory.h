/* Memory of batches: blocks that go back to a pool when the last view of a batch dies.
 *
 * Without the pool the allocator hands pages back to the kernel after every batch of some 100 KiB, and takes page faults
 * for the next one. Blocks are of sizes in quarter octaves, so that a kept batch wastes at most a quarter. Small blocks and huge
 * ones are the allocator's own business. */
#ifndef MCAST_MEMORY_H
#define MCAST_MEMORY_H

#include <Python.h>
#include <pythread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

enum {
    MCAST_POOL_SMALLEST = 4096,
    MCAST_POOL_CLASSES = 9 * 4,   /* nine octaves: the largest is 1.75 MiB */
    MCAST_POOL_RETAINED = 2 << 20 /* bytes kept for reuse, for the whole process */
};

typedef struct mcast_pool {
    PyThread_type_lock lock;
    void *unused[MCAST_POOL_CLASSES]; /* each block's first word points to the next */
    size_t retained;
} mcast_pool;

/* The class whose blocks hold `size` bytes, or -1 when such a size is not pooled; *rounded is what to allocate. */
static inline int
mcast_pool_class(size_t size, size_t *rounded)
{
    *rounded = size ? size : 1;
    if (size <= MCAST_POOL_SMALLEST / 2)
        return -1;
    for (int i = 0; i < MCAST_POOL_CLASSES; i++) {
        size_t capacity = ((size_t)MCAST_POOL_SMALLEST / 4 * (4 + i % 4)) << (i / 4);
        if (size <= capacity) {
            *rounded = capacity;
            return i;
        }
    }
    return -1;
}

/* At least `size` bytes, *capacity says how many; NULL when there is no memory. */
static inline void *
mcast_pool_take(mcast_pool *pool, size_t size, size_t *capacity)
{
    int class_ = mcast_pool_class(size, capacity);
    void *block = NULL;
    if (class_ >= 0) {
        PyThread_acquire_lock(pool->lock, WAIT_LOCK);
        block = pool->unused[class_];
        if (block) {
            pool->unused[class_] = *(void **)block;
            pool->retained -= *capacity;
        }
        PyThread_release_lock(pool->lock);
    }
    return block ? block : malloc(*capacity);
}

static inline void
mcast_pool_give(mcast_pool *pool, void *block, size_t capacity)
{
    size_t rounded;
    int class_ = mcast_pool_class(capacity, &rounded);
    if (block && class_ >= 0 && rounded == capacity) {
        PyThread_acquire_lock(pool->lock, WAIT_LOCK);
        int kept = pool->retained + capacity <= MCAST_POOL_RETAINED;
        if (kept) {
            *(void **)block = pool->unused[class_];
            pool->unused[class_] = block;
            pool->retained += capacity;
        }
        PyThread_release_lock(pool->lock);
        if (kept)
            return;
    }
    free(block);
}

/* A growing piece of memory. */
typedef struct mcast_memory {
    unsigned char *bytes;
    size_t used;
    size_t capacity;
} mcast_memory;

/* Room for `more` bytes behind those used; 0, or -1 without memory (what is there stays). */
static inline int
mcast_memory_reserve(mcast_pool *pool, mcast_memory *memory, size_t more)
{
    if (memory->capacity - memory->used >= more && memory->bytes)
        return 0;
    size_t doubled = memory->capacity * 2, needed = memory->used + more, capacity;
    unsigned char *larger = mcast_pool_take(pool, needed > doubled ? needed : doubled, &capacity);
    if (!larger)
        return -1;
    if (memory->used)
        memcpy(larger, memory->bytes, memory->used);
    mcast_pool_give(pool, memory->bytes, memory->capacity);
    memory->bytes = larger;
    memory->capacity = capacity;
    return 0;
}

/* Give back what was reserved and not used, when it is more than a quarter; without memory it stays as it is. */
static inline void
mcast_memory_fit(mcast_pool *pool, mcast_memory *memory)
{
    size_t rounded;
    mcast_pool_class(memory->used ? memory->used : 1, &rounded);
    if (rounded >= memory->capacity - memory->capacity / 4)
        return;
    mcast_memory fitted = {NULL, 0, 0};
    if (mcast_memory_reserve(pool, &fitted, memory->used ? memory->used : 1) != 0)
        return;
    memcpy(fitted.bytes, memory->bytes, memory->used);
    fitted.used = memory->used;
    mcast_pool_give(pool, memory->bytes, memory->capacity);
    *memory = fitted;
}

#endif
