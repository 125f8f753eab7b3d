/* A batch's reference to the blocks of a ring in which its payloads are, until they are copied or the batch is gone.
 *
 * The bytes are in place (in the ring), or a copy. Readers of the bytes in place pin them: while one does, they stay where they are. One
 * word says who still needs them there: the number of pins, of which the batch itself has one until `detach` or `end` takes it, and
 * MCAST_REFERENCE_MOVED once it has none. Whoever removes the last pin returns the blocks. What is pinned for so long that the kernel
 * reaches it again is moved under its readers, at the same address (ring.h, relocate): a pin never stops a ring. */
#ifndef MCAST_REFERENCE_H
#define MCAST_REFERENCE_H

#include "platform.h"
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define MCAST_REFERENCE_MOVED 0x80000000u     /* the batch does not need the bytes in place any more */
#define MCAST_REFERENCE_RELOCATED 0x40000000u /* the blocks were returned, and the pages replaced by a copy */
#define MCAST_REFERENCE_PINS 0x3fffffffu

typedef struct mcast_reference {
    mcast_word word;
    mcast_word users;           /* of this structure: the batch, and whoever detaches it now */
    mcast_mutex moving;         /* held by the one that copies */
    const unsigned char *bytes; /* where offset 0 of the batch's records points; changes before MOVED is set */
    size_t used;
    unsigned char *copy; /* of the pool, or NULL */
    size_t capacity;
    struct mcast_ring *ring;
    struct mcast_mapping *mapping;
    uint64_t sequence; /* of the first block, which counts from the opening */
    uint32_t blocks;   /* one after the other in memory */
    int listed; /* in the ring's list: it may still have to be detached; guarded by the ring's lock, as the links */
    struct mcast_reference *older;
    struct mcast_reference *newer;
} mcast_reference;

/* Copies the bytes out of the ring, unless that was done: 0, or -1 without memory. Whoever has them pinned keeps them in place. */
int mcast_reference_detach(mcast_reference *reference);

/* The batch is gone; nobody reads any more. */
void mcast_reference_end(mcast_reference *reference);

/* The last pin was removed: `before` is the word as it was. */
void mcast_reference_leave(mcast_reference *reference, uint32_t before);

/* The bytes, which stay where they are until unpinned; *pinned says whether that is needed. */
static inline const unsigned char *
mcast_reference_pin(mcast_reference *reference, int *pinned)
{
    uint32_t word = mcast_word_load(&reference->word);
    *pinned = 0;
    while (!(word & MCAST_REFERENCE_MOVED))
        if (mcast_word_replace(&reference->word, &word, word + 1)) {
            *pinned = 1;
            break;
        }
    return mcast_pointer_load(&reference->bytes);
}

static inline void
mcast_reference_unpin(mcast_reference *reference)
{
    uint32_t before = mcast_word_add(&reference->word, UINT32_MAX);
    if ((before & MCAST_REFERENCE_PINS) == 1)
        mcast_reference_leave(reference, before);
}

/* Copies some of the bytes, wherever they are now. */
static inline void
mcast_reference_read(mcast_reference *reference, size_t offset, void *to, size_t size)
{
    int pinned;
    const unsigned char *bytes = mcast_reference_pin(reference, &pinned);
    memcpy(to, bytes + offset, size);
    if (pinned)
        mcast_reference_unpin(reference);
}

#endif
