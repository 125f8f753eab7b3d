/* The life of an object that several threads and signal handlers use: who is inside, whether it is closed, and whose it is.
 *
 * close() marks the object and never waits; the last one to leave after that tears it down. One word holds both the count and the mark, so
 * that exactly one thread learns that it is the last one out, and nobody enters after the mark. */
#ifndef MCAST_LIFE_H
#define MCAST_LIFE_H

#include "platform.h"
#include "process.h"

typedef struct mcast_life {
    mcast_word word;  /* MCAST_LIFE_CLOSED, and the number of those inside */
    uint32_t process; /* which opened it (process.h) */
} mcast_life;

#define MCAST_LIFE_CLOSED 0x80000000u

static inline void
mcast_life_begin(mcast_life *life)
{
    mcast_word_store(&life->word, 0);
    life->process = mcast_process_number;
}

static inline int
mcast_life_is_closed(const mcast_life *life)
{
    return (mcast_word_load(&life->word) & MCAST_LIFE_CLOSED) != 0;
}

/* Whether another process opened it, from which this one was forked. */
static inline int
mcast_life_is_foreign(const mcast_life *life)
{
    return life->process != mcast_process_number;
}

/* How many are inside. */
static inline uint32_t
mcast_life_count(const mcast_life *life)
{
    return mcast_word_load(&life->word) & ~MCAST_LIFE_CLOSED;
}

/* Goes inside: 1, or 0 when it is closed or another process's. Whoever is inside may go inside once more. */
static inline int
mcast_life_enter(mcast_life *life)
{
    uint32_t word = mcast_word_load(&life->word);
    while (!(word & MCAST_LIFE_CLOSED) && !mcast_life_is_foreign(life))
        if (mcast_word_replace(&life->word, &word, word + 1))
            return 1;
    return 0;
}

/* Goes out: 1 for the last one out of what is closed, who tears it down. */
static inline int
mcast_life_leave(mcast_life *life)
{
    return mcast_word_add(&life->word, UINT32_MAX) == (MCAST_LIFE_CLOSED | 1);
}

/* Marks it closed and goes inside, for whoever closes has to wake the others: 1, or 0 when it was closed before. */
static inline int
mcast_life_close(mcast_life *life)
{
    uint32_t word = mcast_word_load(&life->word);
    while (!(word & MCAST_LIFE_CLOSED))
        if (mcast_word_replace(&life->word, &word, (word + 1) | MCAST_LIFE_CLOSED))
            return 1;
    return 0;
}

#endif
