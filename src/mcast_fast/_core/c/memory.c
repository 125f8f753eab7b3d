#include "memory.h"
#include "process.h"

mcast_pool mcast_shared_pool = {.lock = MCAST_MUTEX_INITIAL};

static void
hold_pool(void)
{
    mcast_lock(&mcast_shared_pool.lock);
}

static void
release_pool(void)
{
    mcast_unlock(&mcast_shared_pool.lock);
}

int
mcast_pool_prepare(void)
{
    static mcast_fork_hook hook = {hold_pool, release_pool, NULL};
    return mcast_process_add_hook(&hook);
}

/* Bytes of the blocks of a class. */
static size_t
class_capacity(int class_)
{
    return ((size_t)MCAST_POOL_SMALLEST / 4 * (4 + class_ % 4)) << (class_ / 4);
}

/* The class whose blocks hold `size` bytes, or -1 when such a size is not pooled; *rounded is what to allocate. */
static int
pool_class(size_t size, size_t *rounded)
{
    *rounded = size ? size : 1;
    if (size <= MCAST_POOL_SMALLEST / 2)
        return -1;
    for (int i = 0; i < MCAST_POOL_CLASSES; i++) {
        size_t capacity = class_capacity(i);
        if (size <= capacity) {
            *rounded = capacity;
            return i;
        }
    }
    return -1;
}

/* The first unused block of a class, which leaves the pool. */
static void *
unlink_block(mcast_pool *pool, int class_)
{
    void *block = pool->unused[class_];
    pool->unused[class_] = *(void **)block;
    pool->retained -= class_capacity(class_);
    return block;
}

void *
mcast_pool_take(mcast_pool *pool, size_t size, size_t *capacity)
{
    int class_ = pool_class(size, capacity);
    void *block = NULL;
    if (class_ >= 0) {
        mcast_lock(&pool->lock);
        pool->asked[class_] = ++pool->requests;
        if (pool->unused[class_])
            block = unlink_block(pool, class_);
        mcast_unlock(&pool->lock);
    }
    return block ? block : mcast_aligned_allocate(*capacity);
}

static int
has_room(const mcast_pool *pool, size_t size)
{
    return pool->retained + size <= MCAST_POOL_RETAINED + pool->more;
}

/* Has blocks leave the pool that nobody asks for, such as those that a growing batch had before, until `size` bytes more fit; linked as
 * in the pool, to be freed without the lock. */
static void *
evict(mcast_pool *pool, size_t size)
{
    void *evicted = NULL;
    for (int i = 0; i < MCAST_POOL_CLASSES; i++)
        while (!has_room(pool, size) && pool->unused[i] && pool->requests - pool->asked[i] > MCAST_POOL_STALE) {
            void *block = unlink_block(pool, i);
            *(void **)block = evicted;
            evicted = block;
        }
    return evicted;
}

void
mcast_pool_give(mcast_pool *pool, void *block, size_t capacity)
{
    size_t rounded;
    int class_ = pool_class(capacity, &rounded);
    void *evicted = NULL;
    if (block && class_ >= 0 && rounded == capacity) {
        mcast_lock(&pool->lock);
        evicted = evict(pool, capacity);
        if (has_room(pool, capacity)) {
            *(void **)block = pool->unused[class_];
            pool->unused[class_] = block;
            pool->retained += capacity;
            block = NULL;
        }
        mcast_unlock(&pool->lock);
    }
    mcast_aligned_free(block);
    while (evicted) {
        void *next = *(void **)evicted;
        mcast_aligned_free(evicted);
        evicted = next;
    }
}

void
mcast_pool_retain(mcast_pool *pool, size_t more)
{
    mcast_lock(&pool->lock);
    pool->more += more;
    mcast_unlock(&pool->lock);
}

void
mcast_pool_release(mcast_pool *pool, size_t more)
{
    mcast_lock(&pool->lock);
    pool->more -= more;
    for (int i = MCAST_POOL_CLASSES - 1; i >= 0 && pool->retained > MCAST_POOL_RETAINED + pool->more;) {
        if (pool->unused[i])
            mcast_aligned_free(unlink_block(pool, i));
        else
            i--;
    }
    mcast_unlock(&pool->lock);
}

int
mcast_memory_grow(mcast_pool *pool, mcast_memory *memory, size_t needed)
{
    size_t doubled = memory->capacity * 2, capacity;
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

void
mcast_memory_fit(mcast_pool *pool, mcast_memory *memory)
{
    size_t rounded;
    pool_class(memory->used ? memory->used : 1, &rounded);
    if (rounded >= memory->capacity / 2)
        return;
    mcast_memory fitted = {NULL, 0, 0};
    if (mcast_memory_grow(pool, &fitted, memory->used ? memory->used : 1) != 0)
        return;
    memcpy(fitted.bytes, memory->bytes, memory->used);
    fitted.used = memory->used;
    mcast_pool_give(pool, memory->bytes, memory->capacity);
    *memory = fitted;
}
