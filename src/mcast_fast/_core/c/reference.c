/* References of batches to a ring's blocks: begun, detached, relocated, ended; and which of them have to go. */
#include "platform.h"

#if MCAST_HAS_RING

#include "process.h"
#include "ring.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

mcast_reference *
mcast_reference_new(void)
{
    mcast_reference *reference = calloc(1, sizeof *reference);
    if (reference && mcast_mutex_open(&reference->moving) != 0) {
        free(reference);
        return NULL;
    }
    return reference;
}

void
mcast_reference_discard(mcast_reference *reference)
{
    mcast_mutex_close(&reference->moving);
    free(reference);
}

void
mcast_ring_refer(mcast_ring *ring, mcast_reference *reference, uint64_t sequence, uint32_t blocks,
                 const unsigned char *bytes, size_t used)
{
    mcast_word_store(&reference->word, 1);
    mcast_word_store(&reference->users, 1);
    reference->ring = ring;
    reference->sequence = sequence;
    reference->blocks = blocks;
    reference->bytes = bytes;
    reference->used = used;
    mcast_word_add(&ring->refs, 1);
    mcast_lock(&ring->lock);
    reference->mapping = ring->mapping;
    reference->mapping->users++;
    reference->listed = 1;
    reference->older = ring->newest;
    if (ring->newest)
        ring->newest->newer = reference;
    else
        ring->oldest = reference;
    ring->newest = reference;
    mcast_unlock(&ring->lock);
}

/* Takes a reference out of the ring's list, whose lock is held. */
static void
unlist(mcast_ring *ring, mcast_reference *reference)
{
    if (!reference->listed)
        return;
    if (reference->older)
        reference->older->newer = reference->newer;
    else
        ring->oldest = reference->newer;
    if (reference->newer)
        reference->newer->older = reference->older;
    else
        ring->newest = reference->older;
    reference->listed = 0;
}

static void
leave_reference(mcast_reference *reference)
{
    if (mcast_word_add(&reference->users, UINT32_MAX) != 1)
        return;
    mcast_pool_give(&mcast_shared_pool, reference->copy, reference->capacity);
    mcast_mutex_close(&reference->moving);
    mcast_ring_leave(reference->ring);
    free(reference);
}

/* Gives up the blocks of a reference, one reader of each. The ring's lock is held. */
static void
leave_blocks(mcast_reference *reference, const mcast_mapping *mapping)
{
    mcast_ring *ring = reference->ring;
    for (uint32_t i = 0; i < reference->blocks; i++) {
        uint32_t slot = mcast_ring_slot(ring, reference->sequence + i);
        if (mcast_block_drop(&ring->states[slot]))
            mcast_ring_return_block(ring, mapping, slot);
    }
}

void
mcast_reference_leave(mcast_reference *reference, uint32_t before)
{
    mcast_ring *ring = reference->ring;
    if (ring->process != mcast_process_number)
        return; /* the blocks are those of the process that opened the ring */
    mcast_lock(&ring->lock);
    unlist(ring, reference);
    if (before & MCAST_REFERENCE_RELOCATED)
        reference->mapping->relocated--;
    else
        leave_blocks(reference, reference->mapping);
    reference->mapping->users--;
    mcast_mapping_shrink(reference->mapping);
    mcast_unlock(&ring->lock);
}

/* Takes the batch's own pin away, unless that was done. */
static int
take_own_pin(mcast_reference *reference)
{
    if (mcast_word_or(&reference->word, MCAST_REFERENCE_MOVED) & MCAST_REFERENCE_MOVED)
        return 0;
    mcast_reference_unpin(reference);
    return 1;
}

int
mcast_reference_detach(mcast_reference *reference)
{
    int status = 0;
    if (mcast_word_load(&reference->word) & MCAST_REFERENCE_MOVED)
        return 0;
    mcast_lock(&reference->moving);
    int pinned;
    const unsigned char *bytes = mcast_reference_pin(reference, &pinned);
    if (pinned) {
        unsigned char *copy = mcast_pool_take(&mcast_shared_pool, reference->used, &reference->capacity);
        status = copy ? 0 : -1;
        if (copy) {
            memcpy(copy, bytes, reference->used);
            reference->copy = copy;
            mcast_pointer_store(&reference->bytes, copy);
            if (take_own_pin(reference))
                __atomic_fetch_add(&reference->ring->detached, 1, __ATOMIC_RELAXED);
        }
        mcast_reference_unpin(reference);
    }
    mcast_unlock(&reference->moving);
    return status;
}

void
mcast_reference_end(mcast_reference *reference)
{
    take_own_pin(reference);
    leave_reference(reference);
}

/* ---- relocation ---- */

/* Has the ring read its blocks in another mapping, so that pages of this one can be replaced: 0, or -errno. */
static int
change_mapping(mcast_ring *ring)
{
    mcast_mapping *mapping = mcast_mapping_new(ring->fd, ring->block_size, ring->count);
    if (!mapping)
        return -ENOMEM;
    mcast_lock(&ring->lock);
    mcast_mapping *before = ring->mapping;
    ring->mapping = mapping;
    if (ring->block)
        ring->block = mapping->base + (ring->block - before->base);
    before->users--; /* the reference that makes this call is another one */
    mcast_unlock(&ring->lock);
    return 0;
}

/* Pins what is pinned by somebody already; 0 when nobody has it pinned any more. */
static int
pin_once_more(mcast_reference *reference)
{
    uint32_t word = mcast_word_load(&reference->word);
    while (word & MCAST_REFERENCE_PINS)
        if (mcast_word_replace(&reference->word, &word, word + 1))
            return 1;
    return 0;
}

/* Puts a copy of pinned bytes at their address, and gives up their blocks: 0, or -1 without memory. mremap(2) changes all pages in one
 * step: whoever reads them meanwhile reads the same bytes. */
static int
replace_pages(mcast_ring *ring, mcast_reference *reference)
{
    mcast_mapping *mapping = reference->mapping;
    uint32_t first = mcast_ring_slot(ring, reference->sequence);
    size_t size = reference->blocks * ring->block_size;
    unsigned char *place = mapping->base + first * ring->block_size;
    void *copy = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (copy == MAP_FAILED)
        return -1;
    memcpy(copy, place, size);
    mcast_lock(&ring->lock);
    int failed = mremap(copy, size, size, MREMAP_MAYMOVE | MREMAP_FIXED, place) == MAP_FAILED;
    if (!failed) {
        memset(mapping->moved + first, 1, reference->blocks);
        mcast_word_or(&reference->word, MCAST_REFERENCE_RELOCATED);
        mapping->relocated++;
        leave_blocks(reference, mapping);
        unlist(ring, reference);
        mcast_mapping_shrink(mapping);
    }
    mcast_unlock(&ring->lock);
    if (failed)
        munmap(copy, size);
    return -failed;
}

/* Has pinned bytes give up their blocks, and stay where they are: 0, or -1 without memory. Called by the thread that receives, between two
 * batches. */
static int
relocate(mcast_ring *ring, mcast_reference *reference)
{
    int status = 0;
    if (!pin_once_more(reference))
        return 0;
    if (!(mcast_word_load(&reference->word) & MCAST_REFERENCE_RELOCATED)) {
        if (reference->mapping == ring->mapping)
            status = change_mapping(ring);
        if (status == 0)
            status = replace_pages(ring, reference);
    }
    mcast_reference_unpin(reference);
    return status == 0 ? 0 : -1;
}

/* What is to be freed: the kernel needs the blocks with numbers below `needed` soon; those below `old` are detached, but for the newest. */
typedef struct span_to_free {
    uint64_t needed;
    uint64_t old;
    int spare_newest;
    int may_relocate; /* no batch is under construction, of which the blocks would be left behind in another mapping */
} span_to_free;

/* Detaches one reference, and relocates what is pinned still: 0, or -1 without memory. */
static int
free_blocks(mcast_ring *ring, mcast_reference *reference, const span_to_free *span)
{
    int status = mcast_reference_detach(reference);
    if (status == 0 && span->may_relocate && mcast_word_load(&reference->word) & MCAST_REFERENCE_PINS)
        status = relocate(ring, reference);
    return status;
}

/* The oldest listed reference behind `after`, which stays until it is left (leave_reference). */
static mcast_reference *
next_reference(mcast_ring *ring, const mcast_reference *after, const span_to_free *span)
{
    mcast_lock(&ring->lock);
    mcast_reference *next = after && after->listed ? after->newer : ring->oldest;
    if (next && !(next->sequence < span->needed ||
                  (next->sequence < span->old && !(span->spare_newest && next == ring->newest))))
        next = NULL;
    if (next)
        mcast_word_add(&next->users, 1);
    mcast_unlock(&ring->lock);
    return next;
}

static int
free_span(mcast_ring *ring, const span_to_free *span)
{
    mcast_reference *before = NULL, *one;
    int status = 0;
    while (status == 0 && (one = next_reference(ring, before, span))) {
        status = free_blocks(ring, one, span);
        if (before)
            leave_reference(before);
        before = one;
    }
    if (before)
        leave_reference(before);
    return status;
}

void
mcast_ring_detach_all(mcast_ring *ring, int may_relocate)
{
    const span_to_free all = {UINT64_MAX, UINT64_MAX, 0, may_relocate};
    free_span(ring, &all);
}

/* Goes on with the count of what the kernel has filled. */
static void
count_filled(mcast_ring *ring)
{
    if (ring->filled < ring->sequence)
        ring->filled = ring->sequence;
    while (ring->filled < ring->sequence + ring->count) {
        uint32_t slot = mcast_ring_slot(ring, ring->filled);
        if (!mcast_ring_has_block(ring, ring->filled))
            break;
        mcast_block_find(&ring->states[slot]);
        ring->filled++;
    }
}

void
mcast_ring_make_room(mcast_ring *ring, int may_relocate, int spare_newest)
{
    count_filled(ring);
    uint64_t quarter = ring->count / 4, near = ring->filled + quarter + 1;
    const span_to_free span = {
        .needed = near > ring->count ? near - ring->count : 0,
        .old = ring->sequence > quarter ? ring->sequence - quarter : 0,
        .spare_newest = spare_newest,
        .may_relocate = may_relocate,
    };
    free_span(ring, &span);
}

#else

/* Where nothing maps a ring no batch has a reference. */
#include "reference.h"

int
mcast_reference_detach(mcast_reference *reference)
{
    (void)reference;
    return 0;
}

void
mcast_reference_end(mcast_reference *reference)
{
    (void)reference;
}

void
mcast_reference_leave(mcast_reference *reference, uint32_t before)
{
    (void)reference, (void)before;
}

#endif
