/* Every interleaving of a kernel, a receiver and two readers over a ring of two blocks, one atomic step at a time, with the transitions of
 * ring_block.h. What must hold in each state:
 *   the kernel fills a block that nobody reads and that was not found filled;
 *   every filling is delivered once, and in order;
 *   a reader finds the bytes that were delivered to it;
 *   nothing stops before the kernel has filled, and the receiver delivered, all there is: no wake-up is lost. */
#include "check.h"
#include "ring_block.h"
#include <string.h>

enum { BLOCKS = 2, READERS = 2, FILLINGS = 5 };

/* Steps of whoever may return a block, receiver or reader: each is one atomic operation of ring.c. */
enum { IDLE, READ, DROP, STORE_STATUS, STORE_FREE, LOOK_AGAIN };
/* Steps of the receiver before that. */
enum { LOOK_STATE = 10, LOOK_STATUS, FIND, TAKE, HOLD, SLEEP };

typedef struct state {
    mcast_block words[BLOCKS];
    unsigned char user[BLOCKS];    /* the kernel's status: filled and handed over */
    unsigned char filling[BLOCKS]; /* which filling the block's bytes are */
    unsigned char filled, delivered;
    unsigned char woken;
    unsigned char receiver, sequence;
    unsigned char reader[READERS], block[READERS], expected[READERS];
} state;

/* ---- the states seen so far ---- */

enum { SLOTS = 1 << 22 };
static state *seen;
static size_t count;

static int
is_new(const state *one)
{
    uint64_t hash = 1469598103934665603u;
    for (size_t i = 0; i < sizeof *one; i++)
        hash = (hash ^ ((const unsigned char *)one)[i]) * 1099511628211u;
    static const state empty;
    for (size_t at = hash % SLOTS;; at = (at + 1) % SLOTS) {
        if (memcmp(&seen[at], &empty, sizeof empty) == 0) {
            CHECK(++count < SLOTS / 2);
            seen[at] = *one;
            return 1;
        }
        if (memcmp(&seen[at], one, sizeof *one) == 0)
            return 0;
    }
}

/* ---- actors: 1 when the actor can go one step in this state, which it has done then ---- */

static int
kernel_steps(state *s)
{
    unsigned at = s->filled % BLOCKS;
    if (s->filled == FILLINGS || s->user[at])
        return 0;
    uint32_t word = mcast_word_load(&s->words[at]);
    CHECK(word == MCAST_BLOCK_FREE || word == MCAST_BLOCK_RELEASING);
    s->filling[at] = ++s->filled;
    s->user[at] = 1;
    s->woken = 1;
    return 1;
}

/* The last reader returns a block, in the order of ring.c: status, word, and a look whether it was filled meanwhile. */
static unsigned char
return_step(state *s, unsigned char step, unsigned at)
{
    switch (step) {
    case DROP:
        return mcast_block_drop(&s->words[at]) ? STORE_STATUS : IDLE;
    case STORE_STATUS:
        s->user[at] = 0;
        return STORE_FREE;
    case STORE_FREE:
        mcast_block_freed(&s->words[at]);
        return LOOK_AGAIN;
    default:
        s->woken |= s->user[at];
        return IDLE;
    }
}

static int
reader_steps(state *s, unsigned i)
{
    if (s->reader[i] == IDLE)
        return 0;
    if (s->reader[i] == READ) {
        CHECK(s->filling[s->block[i]] == s->expected[i]);
        s->reader[i] = DROP;
        return 1;
    }
    if (s->reader[i] == DROP)
        CHECK(s->filling[s->block[i]] == s->expected[i]);
    s->reader[i] = return_step(s, s->reader[i], s->block[i]);
    return 1;
}

/* Hands the block at the cursor to a reader that has none; 0 when both have one. */
static void
hand_over(state *s, unsigned at)
{
    for (unsigned i = 0; i < READERS; i++)
        if (s->reader[i] == IDLE) {
            mcast_block_hold(&s->words[at]);
            s->reader[i] = READ;
            s->block[i] = (unsigned char)at;
            s->expected[i] = s->filling[at];
            return;
        }
}

static int
receiver_steps(state *s)
{
    unsigned at = s->sequence % BLOCKS;
    switch (s->receiver) {
    case LOOK_STATE:
        s->receiver = mcast_block_is_free(&s->words[at]) ? LOOK_STATUS : SLEEP;
        return 1;
    case LOOK_STATUS:
        s->receiver = s->user[at] ? FIND : SLEEP;
        return 1;
    case FIND:
        mcast_block_find(&s->words[at]);
        s->receiver = TAKE;
        return 1;
    case TAKE:
        mcast_block_take(&s->words[at]);
        CHECK(s->filling[at] == s->delivered + 1);
        s->delivered++;
        s->receiver = HOLD;
        return 1;
    case HOLD:
        hand_over(s, at);
        s->receiver = DROP;
        return 1;
    case SLEEP:
        if (!s->woken)
            return 0;
        s->woken = 0;
        s->receiver = LOOK_STATE;
        return 1;
    default:
        s->receiver = return_step(s, s->receiver, at);
        if (s->receiver == IDLE) {
            s->sequence++;
            s->receiver = LOOK_STATE;
        }
        return 1;
    }
}

static int
steps(state *s, unsigned actor)
{
    return actor == 0 ? kernel_steps(s) : actor == 1 ? receiver_steps(s) : reader_steps(s, actor - 2);
}

/* ---- the walk ---- */

static void
walk(const state *from)
{
    int stopped = 1;
    for (unsigned actor = 0; actor < 2 + READERS; actor++) {
        state next = *from;
        if (!steps(&next, actor))
            continue;
        stopped = 0;
        if (is_new(&next))
            walk(&next);
    }
    if (stopped)
        CHECK(from->delivered == FILLINGS && from->filled == FILLINGS);
}

int
main(void)
{
    state start;
    memset(&start, 0, sizeof start);
    start.receiver = LOOK_STATE;
    seen = calloc(SLOTS, sizeof *seen);
    CHECK(seen);
    walk(&start);
    printf("%zu states of a ring's blocks, every one of them right\n", count);
    free(seen);
    return 0;
}
