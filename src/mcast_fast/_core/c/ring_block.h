/* The state of a ring's block: one word, and every transition it can make.
 *
 *     FREE ----find----> FILLED ----take----> READING(1) <--hold/drop--> READING(n)
 *       ^                                          |
 *       |                                        drop
 *       +-----------freed------- RELEASING <-------+
 *
 * FREE: the kernel's, whether it has filled the block by now or not. FILLED: the receiver has found it filled. READING(n): n readers
 * of its bytes in place, the cursor among them. RELEASING: the last reader has left, and returns it to the kernel. Whoever moves it
 * there stores the kernel's status *before* `freed`: a block that is FREE and shows as filled is therefore always one that the kernel
 * filled again, and can neither be delivered twice nor be written under a batch.
 *
 * `find` and `take` are called by the one thread that receives, `hold` by a reader, `drop` by each reader once, `freed` by whoever
 * learned from `drop` that it was the last one. tests/c/test_ring_block.c walks through every interleaving of these with a kernel. */
#ifndef MCAST_RING_BLOCK_H
#define MCAST_RING_BLOCK_H

#include "platform.h"

enum {
    MCAST_BLOCK_FREE = 0,
    MCAST_BLOCK_FILLED = 1,
    MCAST_BLOCK_RELEASING = 2,
    MCAST_BLOCK_READING = 3, /* with the number of readers in the bits above */
    MCAST_BLOCK_KIND = 3,
    MCAST_BLOCK_READER = 4, /* one more reader */
};

typedef mcast_word mcast_block;

/* 1 when the kernel may have filled it, so that its status is worth a look. */
static inline int
mcast_block_is_free(const mcast_block *block)
{
    return mcast_word_load(block) == MCAST_BLOCK_FREE;
}

static inline int
mcast_block_is_filled(const mcast_block *block)
{
    return mcast_word_load(block) == MCAST_BLOCK_FILLED;
}

/* FREE to FILLED, for a block whose status says that the kernel has filled it. */
static inline void
mcast_block_find(mcast_block *block)
{
    mcast_word_store(block, MCAST_BLOCK_FILLED);
}

/* FILLED to READING(1). */
static inline void
mcast_block_take(mcast_block *block)
{
    mcast_word_store(block, MCAST_BLOCK_READING | MCAST_BLOCK_READER);
}

/* One more reader of a block that the caller reads. */
static inline void
mcast_block_hold(mcast_block *block)
{
    mcast_word_add(block, MCAST_BLOCK_READER);
}

/* One reader less: 1 for the last one, who has it RELEASING now and must return it to the kernel. */
static inline int
mcast_block_drop(mcast_block *block)
{
    uint32_t word = mcast_word_load(block), after;
    do
        after = word == (MCAST_BLOCK_READING | MCAST_BLOCK_READER) ? MCAST_BLOCK_RELEASING : word - MCAST_BLOCK_READER;
    while (!mcast_word_replace(block, &word, after));
    return after == MCAST_BLOCK_RELEASING;
}

/* RELEASING to FREE, after the kernel was given the block. */
static inline void
mcast_block_freed(mcast_block *block)
{
    mcast_word_store(block, MCAST_BLOCK_FREE);
}

#endif
