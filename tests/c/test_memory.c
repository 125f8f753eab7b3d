/* The pool of blocks: what it keeps, and for how long; and memory that grows and is cut to what is used. */
#include "check.h"
#include "memory.h"

enum { BLOCK = 64 << 10, MANY = 128 }; /* MANY blocks are more than it keeps */

static mcast_pool pool = {.lock = MCAST_MUTEX_INITIAL};

/* Bytes of the blocks that the pool has. */
static size_t
held(void)
{
    size_t sum = 0;
    for (int i = 0; i < MCAST_POOL_CLASSES; i++)
        for (void *block = pool.unused[i]; block; block = *(void **)block) {
            size_t capacity = ((size_t)MCAST_POOL_SMALLEST / 4 * (size_t)(4 + i % 4)) << i / 4;
            memset((unsigned char *)block + sizeof block, 0xee, capacity - sizeof block);
            sum += capacity;
        }
    return sum;
}

/* Takes MANY blocks of about BLOCK bytes, and gives all back. */
static void
use_many(void)
{
    void *blocks[MANY];
    size_t capacities[MANY];
    for (int i = 0; i < MANY; i++) {
        blocks[i] = mcast_pool_take(&pool, BLOCK + (size_t)i * 100, &capacities[i]);
        CHECK(blocks[i] && capacities[i] >= BLOCK + (size_t)i * 100);
        CHECK(pool.retained == held());
    }
    for (int i = 0; i < MANY; i++) {
        mcast_pool_give(&pool, blocks[i], capacities[i]);
        CHECK(pool.retained == held());
    }
}

static void
test_what_is_kept(void)
{
    size_t capacity, again;
    void *block = mcast_pool_take(&pool, BLOCK, &capacity);
    mcast_pool_give(&pool, block, capacity);
    CHECK(held() == capacity && pool.retained == capacity);
    CHECK(mcast_pool_take(&pool, BLOCK - 1, &again) == block && again == capacity);
    CHECK(held() == 0 && pool.retained == 0);
    mcast_pool_give(&pool, block, capacity);
    for (int i = 0; i < 3; i++) { /* as much each time: what was taken made room */
        use_many();
        CHECK(pool.retained <= MCAST_POOL_RETAINED && pool.retained > MCAST_POOL_RETAINED - 2 * BLOCK);
    }
    mcast_pool_retain(&pool, 3 * BLOCK); /* two want more */
    mcast_pool_retain(&pool, BLOCK);
    use_many();
    CHECK(pool.retained <= MCAST_POOL_RETAINED + 4 * BLOCK && pool.retained > MCAST_POOL_RETAINED);
    mcast_pool_release(&pool, 4 * BLOCK);
    CHECK(pool.retained == held() && pool.more == 0);
    CHECK(pool.retained <= MCAST_POOL_RETAINED && pool.retained > MCAST_POOL_RETAINED - 2 * BLOCK);
}

static void
test_growing(void)
{
    mcast_memory memory = {NULL, 0, 0};
    for (size_t i = 0; i < 3 * BLOCK; i++) {
        CHECK(mcast_memory_reserve(&pool, &memory, 1) == 0 && memory.capacity > i);
        memory.bytes[memory.used++] = (unsigned char)(i * 7);
    }
    size_t before = memory.capacity;
    mcast_memory_fit(&pool, &memory); /* more than half is used */
    CHECK(memory.capacity == before);
    memory.used = 5000;
    mcast_memory_fit(&pool, &memory);
    CHECK(memory.capacity < before / 2 && memory.used == 5000);
    for (size_t i = 0; i < memory.used; i++)
        CHECK(memory.bytes[i] == (unsigned char)(i * 7));
    mcast_pool_give(&pool, memory.bytes, memory.capacity);
}

/* As a receiver that is closed leaves it: nothing is kept any more. */
static void
empty_pool(void)
{
    for (int i = 0; i < MCAST_POOL_CLASSES; i++)
        while (pool.unused[i]) {
            void *block = pool.unused[i];
            pool.unused[i] = *(void **)block;
            mcast_aligned_free(block);
        }
}

int
main(void)
{
    test_what_is_kept();
    test_growing();
    empty_pool();
    printf("a pool that keeps %d bytes, and memory that grows\n", (int)MCAST_POOL_RETAINED);
    return 0;
}
