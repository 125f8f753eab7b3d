/* What threads share without a lock, by the builtins of GCC and clang; win32.h has the same names over Interlocked calls. */
#ifndef MCAST_ATOMICS_H
#define MCAST_ATOMICS_H

#include <stddef.h>
#include <stdint.h>

/* What one thread sets, once, and others look at. */
typedef int mcast_flag;

static inline void
mcast_flag_set(mcast_flag *flag)
{
    __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST);
}

static inline int
mcast_flag_is_set(const mcast_flag *flag)
{
    return __atomic_load_n(flag, __ATOMIC_SEQ_CST);
}

/* A position in a sequence that several threads may move at once: whole, and no more than that. */
static inline ptrdiff_t
mcast_place_read(const ptrdiff_t *place)
{
    return __atomic_load_n(place, __ATOMIC_RELAXED);
}

static inline void
mcast_place_move(ptrdiff_t *place, ptrdiff_t to)
{
    __atomic_store_n(place, to, __ATOMIC_RELAXED);
}

/* A pointer to bytes that one thread changes, once, while others read it. */
static inline const unsigned char *
mcast_pointer_load(const unsigned char *const *pointer)
{
    return __atomic_load_n(pointer, __ATOMIC_ACQUIRE);
}

static inline void
mcast_pointer_store(const unsigned char **pointer, const unsigned char *value)
{
    __atomic_store_n(pointer, value, __ATOMIC_RELEASE);
}

/* A word that counts and has flags: every change is sequentially consistent. */
typedef uint32_t mcast_word;

static inline uint32_t
mcast_word_load(const mcast_word *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

static inline void
mcast_word_store(mcast_word *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* Adds, and returns what it was before. */
static inline uint32_t
mcast_word_add(mcast_word *word, uint32_t value)
{
    return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
}

/* Sets bits, and returns what it was before. */
static inline uint32_t
mcast_word_or(mcast_word *word, uint32_t bits)
{
    return __atomic_fetch_or(word, bits, __ATOMIC_SEQ_CST);
}

static inline uint32_t
mcast_word_exchange(mcast_word *word, uint32_t value)
{
    return __atomic_exchange_n(word, value, __ATOMIC_SEQ_CST);
}

/* 1 when the word was `*expected` and is `value` now; else 0, and *expected is what it is. */
static inline int
mcast_word_replace(mcast_word *word, uint32_t *expected, uint32_t value)
{
    return __atomic_compare_exchange_n(word, expected, value, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

#endif
