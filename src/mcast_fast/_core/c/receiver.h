/* A receiver: sources in, batches out.
 *
 * Locks, in the order in which they are taken:
 *   turn_lock    guards `receiving`: one thread at a time receives; others wait for their turn.
 *   state_lock   members, sources, the index, counters, the scratch slots and the cursors of rings. Never held while waiting.
 *   queue_lock   the queue of the background thread.
 *   a reference's `moving`, a ring's `lock`   (ring.h)
 *   show_lock    what the descriptor shows: `unread`, `shown`, and the poller's wake-up.
 *   the tracker's lock
 *   the pool's lock
 * No lock is held while Python runs. Who is inside is counted in `life`: close() marks the receiver and wakes all that wait, and the last one
 * out calls mcast_receiver_tear_down. */
#ifndef MCAST_RECEIVER_H
#define MCAST_RECEIVER_H

#include "coalescing.h"
#include "filter.h"
#include "index.h"
#include "life.h"
#include "source.h"

/* What is wanted of a source: at a port of it, by a filter. */
typedef struct mcast_member {
    mcast_source *source;
    int owns_source; /* the source goes with it; else it is one of several listeners at a ring */
    uint16_t port;
    mcast_filter filter;
    int indexed; /* its filter is in the receiver's index */
} mcast_member;

struct mcast_background;
struct mcast_tracker;

typedef struct mcast_receiver {
    mcast_life life;
    mcast_word torn_down;
    mcast_mutex turn_lock;
    mcast_condition turn_free;
    int receiving;
    mcast_mutex state_lock;
    mcast_mutex show_lock;
    mcast_pool *pool;
    mcast_scratch scratch;
    unsigned slot_count; /* of the scratch */
    size_t slot_size;
    int has_cut; /* a slot was too small for what was coalesced: by somebody else, for where that is known they are large enough */
    size_t packet_limit;         /* bytes of payload that are kept */
    size_t batch_size;           /* packets per batch, unless a receive call gives another number */
    size_t coalesced_batch_size; /* while packets may come coalesced */
    unsigned segments;           /* packets per slot, at most, when slots were last filled */
    size_t filled;               /* bytes per slot, on average, when slots were last filled */
    size_t coalesced;  /* bytes of the largest slot, when several packets were last coalesced in one; else 0 */
    unsigned in_place; /* slots that were filled when packets were last received straight into the arena */
    mcast_poller poller;
    mcast_member **members; /* by key; NULL where one was removed */
    size_t keys;
    size_t free_keys;  /* of those, without a member */
    size_t sockets;    /* sources that the poller watches */
    size_t everything; /* members that want everything */
    mcast_index index;
    mcast_filter own;     /* this machine's addresses, where own packets are refused; else without entries */
    mcast_source *direct; /* sources that are read without a system call: rings */
    mcast_flag has_rings; /* there are some, or were */
    mcast_source *only;   /* the only socket, once it was read */
    int is_busy;          /* it was not drained last time: it is read without waiting first */
    mcast_memory spare_records, spare_data; /* for the next batch under construction */
    uint64_t epoch;                         /* the number of changes of filters */
    size_t expected;                        /* packets in the last batch: the next one is likely as large */
    unsigned rotation;                      /* which ready socket is read first: none starves behind busy ones */
    int failure; /* errno that a socket answered after packets of others: for the next call */
    mcast_counters counters;
    mcast_coalescing coalescing;
    mcast_flag watched;                  /* the descriptor is polled without receiving */
    mcast_word deferred;                 /* something is to be done before the next wait: mcast_receiver_defer */
    size_t unread;                       /* batches that were received and not taken yet */
    int shown;                           /* the poller is readable because of those, or of what a ring has */
    struct mcast_background *background; /* NULL without a thread of its own */
    struct mcast_tracker *tracker;       /* of the numbers of what is received; NULL: not requested */
} mcast_receiver;

enum {
    MCAST_ONE_GO = 1024,                   /* packets that are read without looking at the clock while none is wanted */
    MCAST_GO_BYTES = 3 << 18,              /* that are read in one go: so large a batch is worth handing over */
    MCAST_GRACE_NS = 10 * 1000000,         /* beyond the deadline, to find what is wanted behind what is not */
    MCAST_SLICE_NS_OF_TURN = 50 * 1000000, /* whoever waits for a turn looks at the signals as often as that */
    MCAST_INSIDE_A_CHANGE = 2,             /* a change of memberships and its call of mcast_receiver_defer are inside */
    MCAST_COALESCED_SLOT = 65535,          /* bytes: no super-packet is longer */
    MCAST_COALESCED_SLOTS = 96,            /* of that size, at the most */
};

/* ---- opening and closing ---- */

/* `count` slots of `size` bytes: 0, or -errno with nothing left open. The limits, the sizes of batches and the mode of coalescing are set
 * after it, before anything is received. */
int mcast_receiver_open(mcast_receiver *receiver, mcast_pool *pool, unsigned count, size_t size);

/* Has a tracker see all that is received; before anything is. */
void mcast_receiver_track(mcast_receiver *receiver, struct mcast_tracker *tracker);

/* Packets per batch at the most, unless a receive call gives another number. */
static inline size_t
mcast_receiver_batch_size(const mcast_receiver *receiver)
{
    return mcast_coalescing_is_on(&receiver->coalescing) ? receiver->coalesced_batch_size : receiver->batch_size;
}

/* Marks it closed and wakes all that wait: 1 when the caller is inside now, and has to leave (mcast_life_leave); 0 when it was closed before. */
int mcast_receiver_close(mcast_receiver *receiver);

/* Ends the background thread, reads the last counters, and frees everything; nobody is inside. The sockets themselves are closed by whoever
 * opened them. In a process that did not open it, only descriptors are closed. */
void mcast_receiver_tear_down(mcast_receiver *receiver);

/* Frees what is left after mcast_receiver_tear_down. */
void mcast_receiver_free(mcast_receiver *receiver);

/* ---- what is received ---- */

/* Frees a member, and its source when it goes with it. The state lock is held. */
void mcast_member_free(mcast_receiver *receiver, mcast_member *member);

/* Receives from a socket too; its key, or -errno. Nothing passes until a filter is set. `decider`: see coalescing.h. `used`: it may have
 * dropped packets before, which are not counted. */
int64_t mcast_receiver_add_socket(mcast_receiver *receiver, int fd, int decider, int used, const mcast_record *implied);

/* The decider of a socket that will be removed is that of another one, which is bound alike, from now on. */
void mcast_receiver_hand_over(mcast_receiver *receiver, uint64_t key, uint64_t heir);

/* Maps the ring of a packet socket that is not bound yet, and receives from it too; its key, or -errno with nothing left behind. */
int64_t mcast_receiver_add_ring(mcast_receiver *receiver, int fd, uint32_t interface_index, size_t block_size,
                                uint32_t count, unsigned latency_ms, int times, int delivers);

/* Receives what goes to a port from the ring with that key; the key by which to accept something, or -errno. */
int64_t mcast_receiver_listen(mcast_receiver *receiver, uint64_t ring_key, uint16_t port);

/* A new member; its key, or -errno. The state lock is held. */
int64_t mcast_receiver_add_member(mcast_receiver *receiver, mcast_source *source, int owns_source, uint16_t port);

void mcast_receiver_remove(mcast_receiver *receiver, uint64_t key);

/* Puts a filter in force for everything received from now on, and takes its memory over: 0, or -ENOMEM with the one before in force. */
int mcast_receiver_accept(mcast_receiver *receiver, uint64_t key, mcast_filter *filter);

/* Refuses from now on what comes from one of these addresses (`group` of an entry), on its interface or any, and from the port that it
 * goes to. Takes the filter's memory over. */
void mcast_receiver_refuse_own(mcast_receiver *receiver, mcast_filter *addresses);

/* Whether the record is such a packet; `own` is NULL where none is refused. The state lock is held. */
static inline int
mcast_is_own(const mcast_filter *own, const mcast_record *record)
{
    return own && record->source_port == record->port &&
           mcast_filter_look(own, record->source, record->interface_index) != NULL;
}

static inline const mcast_filter *
mcast_receiver_own(const mcast_receiver *receiver)
{
    return receiver->own.entries ? &receiver->own : NULL;
}

/* Whether the record is wanted, by the filters in force. The state lock is held. */
int mcast_receiver_wants(mcast_receiver *receiver, const mcast_record *record);

/* The number of changes of filters: what passed them at this number is wanted as long as it stays the same. */
uint64_t mcast_receiver_epoch(mcast_receiver *receiver);

/* ---- receiving ---- */

/* Memory for a batch, and its return. */
void mcast_batch_begin(mcast_receiver *receiver, mcast_batch *batch, int copies);
void mcast_batch_return(mcast_receiver *receiver, mcast_batch *batch);

/* Whether the batch may take one more slot: by its limit, and by MCAST_ARENA_LIMIT. */
static inline int
mcast_batch_has_room(const mcast_receiver *receiver, const mcast_batch *batch, size_t limit)
{
    return mcast_batch_count(batch) < limit && MCAST_ARENA_LIMIT - batch->data.used >= receiver->slot_size;
}

/* Adds 1 packet or more to the batch, up to `limit` in all, by the deadline (monotonic ns; < 0 waits forever): MCAST_OK, MCAST_EMPTY
 * (nothing yet; look at what is unread, at signals and at the deadline, and call again), MCAST_TIMEOUT, MCAST_CLOSED, MCAST_INTERRUPTED or
 * MCAST_FAILED. With a background thread the batch may become larger than `limit`. */
mcast_result mcast_receiver_receive(mcast_receiver *receiver, mcast_batch *batch, size_t limit, int64_t deadline);

/* Waits until the deadline for something to receive, and takes nothing: MCAST_OK, or as mcast_receiver_receive. */
mcast_result mcast_receiver_wait(mcast_receiver *receiver, int64_t deadline);

/* The batch is whole: checks it again when the filters changed meanwhile, and keeps no more memory than it needs. */
void mcast_batch_finish(mcast_receiver *receiver, mcast_batch *batch);

/* Takes out what is not wanted any more, and counts it as filtered; the drops of a record that goes are those of the next one. How many are
 * left. The payloads stay where they are. */
size_t mcast_receiver_filter_again(mcast_receiver *receiver, mcast_record *records, size_t count);

/* Whether every record is still wanted. */
int mcast_receiver_wants_all(mcast_receiver *receiver, const mcast_record *records, size_t count);

/* Takes the packets of a batch out of the counters, for there is no memory to keep them in, and counts them as dropped for that. */
void mcast_batch_drop(mcast_receiver *receiver, mcast_batch *batch);

/* A batch of `count` packets was delivered. */
void mcast_receiver_count_delivered(mcast_receiver *receiver, size_t count);

/* `unread` batches were received and not taken: makes the descriptor readable as long as there are any or, once somebody looks at it, a ring
 * can be read; and wakes all that wait. */
void mcast_receiver_set_unread(mcast_receiver *receiver, size_t unread);
void mcast_receiver_show_rings(mcast_receiver *receiver);

/* Leaves something (that the kernel's filter of a ring be exact) to the next receive call, who sees `deferred`: 1. The descriptor becomes
 * readable once, so that whoever looks at it receives. 0 when others are inside: they may be receiving, and do not see it any more. */
int mcast_receiver_defer(mcast_receiver *receiver);

/* It was done. */
void mcast_receiver_end_deferral(mcast_receiver *receiver);

/* Readable when a receive would not wait; -1 when closed, or where the system has none. */
int mcast_receiver_descriptor(mcast_receiver *receiver);

mcast_counters mcast_receiver_counters(mcast_receiver *receiver);

/* The oldest event of coalescing that was not taken yet; 0 when there is none. */
int mcast_receiver_take_coalescing_event(mcast_receiver *receiver, mcast_coalescing_event *event);

/* ---- for sources ---- */

/* Keeps no more of a packet than is wanted. */
static inline void
mcast_truncate(const mcast_receiver *receiver, mcast_record *record)
{
    if (record->length > receiver->packet_limit) {
        record->length = (uint16_t)receiver->packet_limit;
        record->flags |= MCAST_TRUNCATED;
    }
}

int64_t mcast_time_left(int64_t deadline);

/* Adds a socket (socket_source.c) or a ring (ring_source.c) as a source: *source, or -errno. */
void mcast_socket_source_hand_over(mcast_source *source, mcast_source *heir);
int mcast_socket_source_open(mcast_source **source, mcast_receiver *receiver, int fd, int decider, int used,
                             const mcast_record *implied, uint64_t key);
int mcast_ring_source_open(mcast_source **source, mcast_receiver *receiver, int fd, uint32_t interface_index,
                           size_t block_size, uint32_t count, unsigned latency_ms, int times, int delivers,
                           uint64_t key);

/* ---- receiving in a thread of its own (background.c) ---- */

/* Receives in a native thread from now on, of which `limit` bytes may wait for a receive call; `cpu` is where it runs, -1 anywhere.
 * 0, or -errno with no thread. */
int mcast_background_open(mcast_receiver *receiver, size_t limit, int cpu);
/* Shows the packets of a batch from number `from` on to the tracker, if there is one. */
void mcast_batch_track(mcast_receiver *receiver, const mcast_batch *batch, size_t from);
void mcast_background_wake(mcast_receiver *receiver);
void mcast_background_close(mcast_receiver *receiver);
void mcast_background_free(mcast_receiver *receiver);
void mcast_background_abandon(mcast_receiver *receiver);
mcast_result mcast_background_receive(mcast_receiver *receiver, mcast_batch *batch, int64_t deadline);
mcast_result mcast_background_wait(mcast_receiver *receiver, int64_t deadline);
void mcast_background_set_unread(mcast_receiver *receiver, size_t unread);
int mcast_background_descriptor(mcast_receiver *receiver);
uint64_t mcast_background_dropped(mcast_receiver *receiver);

/* As mcast_receiver_receive, from the sources themselves; and as mcast_receiver_wait, by another poller. */
mcast_result mcast_sources_receive(mcast_receiver *receiver, mcast_batch *batch, size_t limit, int64_t deadline);
mcast_result mcast_poller_wait_for(mcast_receiver *receiver, mcast_poller *poller, int64_t deadline);

/* Takes packets that are not delivered out of the counters; the state lock is held. */
void mcast_uncount(mcast_receiver *receiver, const mcast_record *record);

#endif
