/* The pool of blocks: sizes that nobody asks for any more make way for those that are asked for. */
#include "check.h"
#include "memory.h"

enum { KIB = 1024, LARGE = 400 * KIB };

static mcast_pool pool = {.lock = MCAST_MUTEX_INITIAL};

/* Takes a block and gives it back; where it was. */
static void *
use(size_t size)
{
    size_t capacity;
    void *block = mcast_pool_take(&pool, size, &capacity);
    CHECK(block && capacity >= size && capacity <= size + size / 4);
    memset(block, 1, capacity);
    mcast_pool_give(&pool, block, capacity);
    return block;
}

/* Gives back as many blocks of this size as there were at once. */
static void
fill(size_t size, unsigned count)
{
    void *blocks[64];
    size_t capacity = 0;
    CHECK(count <= 64);
    for (unsigned i = 0; i < count; i++)
        blocks[i] = mcast_pool_take(&pool, size, &capacity);
    for (unsigned i = 0; i < count; i++)
        mcast_pool_give(&pool, blocks[i], capacity);
}

/* How many of two blocks come out of the pool, once two were given back. */
static unsigned
kept(size_t size)
{
    size_t capacity;
    fill(size, 2);
    const size_t before = pool.retained;
    void *one = mcast_pool_take(&pool, size, &capacity), *other = mcast_pool_take(&pool, size, &capacity);
    const size_t found = (before - pool.retained) / capacity;
    mcast_pool_give(&pool, one, capacity);
    mcast_pool_give(&pool, other, capacity);
    return (unsigned)found;
}

int
main(void)
{
    CHECK(use(LARGE) == use(LARGE)); /* it was kept */
    fill(64 * KIB, 40);
    CHECK(pool.retained > MCAST_POOL_RETAINED - LARGE && pool.retained <= MCAST_POOL_RETAINED);
    /* 64 KiB were asked for just now: nothing gives way. */
    CHECK(kept(300 * KIB) == 0);
    for (int i = 0; i <= MCAST_POOL_STALE; i++)
        use(300 * KIB);
    CHECK(kept(300 * KIB) == 2);
    CHECK(pool.retained <= MCAST_POOL_RETAINED);

    mcast_pool_retain(&pool, 8 * MCAST_POOL_RETAINED);
    fill(MCAST_POOL_RETAINED / 2, 8);
    CHECK(pool.retained > 4 * MCAST_POOL_RETAINED);
    mcast_pool_release(&pool, 8 * MCAST_POOL_RETAINED);
    CHECK(pool.retained <= MCAST_POOL_RETAINED);
    for (size_t size = 1; size < 4 * MCAST_POOL_RETAINED; size = size * 3 + 1)
        use(size);
    CHECK(pool.retained <= MCAST_POOL_RETAINED);
    printf("test_pool: %zu KiB kept at the end\n", pool.retained / KIB);
    return 0;
}
