/* A ring in memory of our own, filled by a thread that does what the kernel does: blocks in a circle, each when it was returned. What a
 * consumer may hold (batches, pins, copies) must never stop it, and no byte that was delivered may change. setsockopt(2) and getsockopt(2)
 * are wrapped (wrapped.c): the descriptor is a memory file, and has no packets. */
#include "check.h"
#include "process.h"
#include "ring.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

enum { BLOCK = 1 << 13, BLOCKS = 8, FRAMES = 6, PAYLOAD = 512, FILLINGS = 4000, KEPT = 3 };

/* ---- the kernel ---- */

typedef struct kernel {
    unsigned char *blocks;
    uint64_t fillings;
    int waker;
} kernel;

static struct tpacket_hdr_v1 *
header_of(const kernel *self, uint64_t sequence)
{
    return &((struct tpacket_block_desc *)(self->blocks + sequence % BLOCKS * BLOCK))->hdr.bh1;
}

/* Fills one block with frames whose payload is the number of the filling; 0 when it was not returned yet. */
static int
fill(kernel *self)
{
    struct tpacket_hdr_v1 *header = header_of(self, self->fillings);
    if (__atomic_load_n(&header->block_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER)
        return 0;
    unsigned char *block = self->blocks + self->fillings % BLOCKS * BLOCK;
    uint32_t at = 64, step = 128 + PAYLOAD;
    header->num_pkts = FRAMES;
    header->offset_to_first_pkt = at;
    header->blk_len = BLOCK;
    for (int i = 0; i < FRAMES; i++, at += step) {
        struct tpacket3_hdr *frame = (struct tpacket3_hdr *)(block + at);
        memset(frame, 0, 128);
        frame->tp_next_offset = step;
        frame->tp_mac = 128;
        frame->tp_snaplen = frame->tp_len = PAYLOAD;
        memset(block + at + 128, (int)(self->fillings & 0xff), PAYLOAD);
    }
    self->fillings++;
    uint64_t one = 1;
    __atomic_store_n(&header->block_status, TP_STATUS_USER, __ATOMIC_RELEASE);
    CHECK(write(self->waker, &one, sizeof one) == sizeof one);
    return 1;
}

static void *
run_kernel(void *argument)
{
    kernel *self = argument;
    while (self->fillings < FILLINGS)
        if (!fill(self))
            sched_yield();
    return NULL;
}

/* ---- the receiver ---- */

/* Takes the next block as a batch of its own: its reference, or NULL when there is none. */
static mcast_reference *
receive(mcast_ring *ring, unsigned char *number)
{
    mcast_ring_make_room(ring, 1, 1);
    if (!mcast_ring_take(ring))
        return NULL;
    const unsigned char *base = NULL, *end = NULL;
    mcast_ring_frame frame;
    while (ring->left > 0) {
        CHECK(mcast_ring_read(ring, &frame));
        base = base ? base : frame.bytes;
        end = frame.bytes + frame.size;
        mcast_ring_pass(ring, &frame);
    }
    *number = *base;
    mcast_ring_hold(ring);
    mcast_reference *reference = mcast_reference_new();
    CHECK(reference);
    mcast_ring_refer(ring, reference, ring->sequence - 1, 1, base, (size_t)(end - base));
    mcast_ring_finish_block(ring);
    return reference;
}

static void
check_bytes(const unsigned char *bytes, unsigned char number)
{
    for (int i = 0; i < FRAMES; i++)
        for (int j = 0; j < PAYLOAD; j += 64)
            CHECK(bytes[i * (128 + PAYLOAD) + j] == number);
}

/* A reader that pins a batch, looks at it for a while, and ends it. */
typedef struct loan {
    mcast_reference *reference;
    unsigned char number;
    int looks;
} loan;

static void *
run_reader(void *argument)
{
    loan *self = argument;
    int pinned;
    const unsigned char *bytes = mcast_reference_pin(self->reference, &pinned);
    for (int i = 0; i < self->looks; i++) {
        check_bytes(bytes, self->number);
        sched_yield();
    }
    if (pinned)
        mcast_reference_unpin(self->reference);
    mcast_reference_end(self->reference);
    return NULL;
}

static void
sleep_until_woken(int waker)
{
    uint64_t number;
    CHECK(read(waker, &number, sizeof number) == sizeof number);
}

static mcast_ring *
open_ring(kernel *self, int *file)
{
    mcast_ring *ring = NULL;
    *file = memfd_create("ring", MFD_CLOEXEC);
    self->waker = eventfd(0, EFD_CLOEXEC);
    CHECK(*file >= 0 && self->waker >= 0 && ftruncate(*file, BLOCK * BLOCKS) == 0);
    CHECK(mcast_ring_open(&ring, *file, self->waker, 1, BLOCK, BLOCKS, 1, 0, 0) == 0);
    self->blocks = mmap(NULL, BLOCK * BLOCKS, PROT_READ | PROT_WRITE, MAP_SHARED, *file, 0);
    CHECK(self->blocks != MAP_FAILED);
    return ring;
}

static void
close_all(kernel *self, int file)
{
    munmap(self->blocks, BLOCK * BLOCKS);
    close(self->waker);
    close(file);
}

/* One thread fills, one receives; each third batch is kept for a while, each fifth is read in place by a thread of its own meanwhile. */
static void
test_that_nothing_held_stops_it(void)
{
    kernel self = {0};
    int file;
    mcast_ring *ring = open_ring(&self, &file);
    pthread_t thread, reader;
    loan lent = {0};
    mcast_reference *kept[KEPT] = {0};
    unsigned char numbers[KEPT] = {0};
    int lending = 0;
    CHECK(pthread_create(&thread, NULL, run_kernel, &self) == 0);
    for (uint64_t received = 0; received < FILLINGS;) {
        unsigned char number;
        mcast_reference *reference = receive(ring, &number);
        if (!reference) {
            sleep_until_woken(self.waker);
            continue;
        }
        CHECK(number == (received & 0xff)); /* none is missing, none comes twice */
        received++;
        if (received % 5 == 0) {
            if (lending)
                pthread_join(reader, NULL);
            lent = (loan){reference, number, 200};
            lending = pthread_create(&reader, NULL, run_reader, &lent) == 0;
            CHECK(lending);
        } else if (received % 3 == 0) {
            uint64_t at = received / 3 % KEPT;
            if (kept[at]) {
                int pinned;
                check_bytes(mcast_reference_pin(kept[at], &pinned), numbers[at]);
                if (pinned)
                    mcast_reference_unpin(kept[at]);
                mcast_reference_end(kept[at]);
            }
            kept[at] = reference;
            numbers[at] = number;
        } else {
            mcast_reference_end(reference);
        }
    }
    pthread_join(thread, NULL);
    if (lending)
        pthread_join(reader, NULL);
    mcast_ring_close(ring);
    for (int i = 0; i < KEPT; i++) {
        unsigned char byte;
        mcast_reference_read(kept[i], 0, &byte, 1);
        CHECK(byte == numbers[i]);
        mcast_reference_end(kept[i]);
    }
    close_all(&self, file);
}

/* Bytes that are pinned forever are relocated when the ring comes round, stay what they were, and outlive the ring. */
static void
test_that_pinned_bytes_are_relocated(void)
{
    kernel self = {0};
    int file, pinned;
    mcast_ring *ring = open_ring(&self, &file);
    unsigned char number;
    CHECK(fill(&self));
    mcast_reference *first = receive(ring, &number);
    CHECK(first);
    const unsigned char *bytes = mcast_reference_pin(first, &pinned);
    CHECK(pinned);
    for (int i = 1; i < 5 * BLOCKS; i++) {
        CHECK(fill(&self));
        mcast_reference *next = receive(ring, &number);
        CHECK(next && number == (unsigned char)i);
        mcast_reference_end(next);
        check_bytes(bytes, 0);
    }
    mcast_ring_close(ring);
    check_bytes(bytes, 0);
    mcast_reference_unpin(first);
    mcast_reference_end(first);
    close_all(&self, file);
}

/* Frames that are there and were not read: the rest of a block, and those behind it. */
static void
test_what_is_unread(void)
{
    enum { FILLED = 3 };
    kernel self = {0};
    int file;
    mcast_ring *ring = open_ring(&self, &file);
    CHECK(mcast_ring_unread(ring) == 0);
    for (int i = 0; i < FILLED; i++)
        CHECK(fill(&self) && mcast_ring_unread(ring) == (uint64_t)(i + 1) * FRAMES);
    for (uint64_t left = FILLED * FRAMES; left > 0; left--) {
        mcast_ring_frame frame;
        CHECK(mcast_ring_take(ring) && mcast_ring_unread(ring) == left);
        CHECK(mcast_ring_read(ring, &frame));
        mcast_ring_pass(ring, &frame);
        if (ring->left == 0)
            mcast_ring_finish_block(ring);
    }
    CHECK(mcast_ring_unread(ring) == 0 && !mcast_ring_take(ring));
    mcast_ring_close(ring);
    close_all(&self, file);
}

/* One that was relocated ends, and another one, of the same mapping, is still where the ring was. */
static void
test_that_relocated_bytes_end_alone(void)
{
    kernel self = {0};
    int file, pinned;
    mcast_ring *ring = open_ring(&self, &file);
    unsigned char number;
    CHECK(fill(&self));
    mcast_reference *first = receive(ring, &number);
    mcast_reference_pin(first, &pinned);
    CHECK(fill(&self));
    mcast_reference *second = receive(ring, &number);
    const unsigned char *bytes = mcast_reference_pin(second, &pinned);
    for (int i = 2; i < 5 * BLOCKS; i++) {
        if (first && mcast_word_load(&first->word) & MCAST_REFERENCE_RELOCATED) {
            CHECK(!(mcast_word_load(&second->word) & MCAST_REFERENCE_RELOCATED));
            mcast_reference_unpin(first);
            mcast_reference_end(first);
            first = NULL;
        }
        check_bytes(bytes, 1);
        CHECK(fill(&self));
        mcast_reference *next = receive(ring, &number);
        CHECK(next && number == (unsigned char)i);
        mcast_reference_end(next);
    }
    CHECK(!first && mcast_word_load(&second->word) & MCAST_REFERENCE_RELOCATED);
    mcast_ring_close(ring);
    check_bytes(bytes, 1);
    mcast_reference_unpin(second);
    mcast_reference_end(second);
    close_all(&self, file);
}

/* A forked child ends what it has, and gives no block back: the memory is shared with its parent. */
static void
test_that_another_process_returns_nothing(void)
{
    kernel self = {0};
    int file, pinned;
    mcast_ring *ring = open_ring(&self, &file);
    unsigned char number;
    CHECK(fill(&self));
    mcast_reference *reference = receive(ring, &number);
    mcast_reference_pin(reference, &pinned); /* so that it is not detached before a fork */
    mcast_process_number++;                  /* what a fork does in the child */
    mcast_reference_unpin(reference);
    mcast_reference_end(reference);
    mcast_ring_close(ring);
    CHECK(header_of(&self, 0)->block_status & TP_STATUS_USER);
    mcast_process_number--;
    close_all(&self, file);
}

int
main(void)
{
    test_that_nothing_held_stops_it();
    test_that_pinned_bytes_are_relocated();
    test_that_relocated_bytes_end_alone();
    test_what_is_unread();
    test_that_another_process_returns_nothing();
    printf("%d blocks through a ring of %d, whatever was held\n", FILLINGS, BLOCKS);
    return 0;
}
