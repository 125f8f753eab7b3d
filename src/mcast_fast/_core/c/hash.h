/* Hashes of what others choose, such as addresses and keys of flows: who does not know the secret cannot choose values that collide.
 *
 * Sums of words times constants do not have that, for any seed: the top bits of two words cancel each other, so that flows of 64 sources
 * times 64 groups had 256 hashes together. Of a product of two words, each with a secret word added, the difference is secret too (NH,
 * Black and others: UMAC, CRYPTO 1999, 4.1). */
#ifndef MCAST_HASH_H
#define MCAST_HASH_H

#include <stdint.h>

enum { MCAST_SECRET_WORDS = 8 };

typedef struct mcast_secret {
    uint64_t words[MCAST_SECRET_WORDS];
} mcast_secret;

/* splitmix64 (Steele and others, OOPSLA 2014) */
static inline void
mcast_secret_fill(mcast_secret *secret, uint64_t seed)
{
    for (int i = 0; i < MCAST_SECRET_WORDS; i++) {
        seed += 0x9e3779b97f4a7c15u;
        uint64_t word = (seed ^ seed >> 30) * 0xbf58476d1ce4e5b9u;
        word = (word ^ word >> 27) * 0x94d049bb133111ebu;
        secret->words[i] = word ^ word >> 31;
    }
}

/* A sum of products of 128 bits, in two words. */
#if defined(__SIZEOF_INT128__)
typedef unsigned __int128 mcast_products;

static inline mcast_products
mcast_product(uint64_t left, uint64_t right)
{
    return (mcast_products)left * right;
}

static inline uint64_t
mcast_products_fold(mcast_products sum)
{
    return (uint64_t)sum ^ (uint64_t)(sum >> 64);
}
#else /* Microsoft's compiler, and processors of 32 bits: both halves are summed for themselves */
typedef uint64_t mcast_products;

static inline mcast_products
mcast_product(uint64_t left, uint64_t right)
{
    const uint64_t low = (left & UINT32_MAX) * (right & UINT32_MAX), high = (left >> 32) * (right >> 32);
    const uint64_t crossed = (left >> 32) * (right & UINT32_MAX), other = (left & UINT32_MAX) * (right >> 32);
    const uint64_t middle = (low >> 32) + (crossed & UINT32_MAX) + (other & UINT32_MAX);
    return (middle << 32 | (low & UINT32_MAX)) ^ (high + (crossed >> 32) + (other >> 32) + (middle >> 32));
}

static inline uint64_t
mcast_products_fold(mcast_products sum)
{
    return sum;
}
#endif

/* Of two words, by the secret's words `at` and the one behind. */
static inline mcast_products
mcast_hash_pair(const mcast_secret *secret, int at, uint64_t first, uint64_t second)
{
    return mcast_product(first + secret->words[at], second + secret->words[at + 1]);
}

#endif
