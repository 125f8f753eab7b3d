/* Hashes of what differs little, and at the top: values that collide for every secret would make one chain of a table. */
#include "check.h"
#include "hash.h"

enum { SIDE = 64, SEEDS = 2, MOST = 4 }; /* of 4,096 hashes of 32 bits, two are the same in one of 500 cases */

static int
compare(const void *left, const void *right)
{
    const uint32_t one = *(const uint32_t *)left, other = *(const uint32_t *)right;
    return (one > other) - (one < other);
}

/* Of 64 values times 64 values, in any byte of two words: how many hashes are there twice. */
static unsigned
collisions_of(const mcast_secret *secret, unsigned byte, unsigned other)
{
    static uint32_t hashes[SIDE * SIDE];
    unsigned found = 0;
    for (uint64_t i = 0; i < SIDE; i++)
        for (uint64_t j = 0; j < SIDE; j++)
            hashes[i * SIDE + j] = (uint32_t)mcast_products_fold(mcast_hash_pair(secret, 0, 0, i << 8 * byte) +
                                                                 mcast_hash_pair(secret, 2, 0, j << 8 * other));
    qsort(hashes, SIDE * SIDE, sizeof hashes[0], compare);
    for (unsigned i = 1; i < SIDE * SIDE; i++)
        found += hashes[i] == hashes[i - 1];
    return found;
}

int
main(void)
{
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        mcast_secret secret;
        mcast_secret_fill(&secret, seed);
        for (unsigned byte = 0; byte < 8; byte++)
            for (unsigned other = 0; other < 8; other++)
                CHECK(collisions_of(&secret, byte, other) <= MOST);
    }
    printf("test_hash: %d secrets\n", SEEDS);
    return 0;
}
