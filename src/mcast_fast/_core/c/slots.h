/* The receiver's core: sockets, the slots they are read into, and what is told of them; receive.h has the loop.
 *
 * Three locks. `turn` is held by the one thread that waits and receives, `look` by one that only waits; `state` only while sockets,
 * filters or counters are touched, never while waiting, so that a join or a look at the counters need not wait for a packet. None needs
 * the GIL. */
#ifndef MCAST_SLOTS_H
#define MCAST_SLOTS_H

#include "filter.h"
#include "memory.h"
#include "platform.h"
#include <pythread.h>

typedef struct mcast_socket {
    mcast_descriptor fd;
    mcast_record
        implied; /* what every packet of this socket has in common: port, and where bound, group and interface */
    mcast_filter filter;
    uint32_t overflow; /* the kernel's drop counter, as last told with a packet */
    uint32_t owed;     /* drops told with packets that were filtered: they belong to the next record */
    mcast_ring *ring;  /* what it is the descriptor of, or a listener at; NULL: an ordinary socket */
    int is_ring;
    mcast_listener listener;
} mcast_socket;

typedef struct mcast_counters {
    uint64_t received;
    uint64_t bytes;
    uint64_t truncated;
    uint64_t filtered;
    uint64_t fragments;
    uint64_t dropped_ring;
    uint64_t detached;
    uint64_t batches;
    uint64_t largest_batch;
    uint64_t wakeups;
    uint64_t dropped_memory; /* read from the kernel, and no memory to keep them in */
    uint64_t buffers;        /* what the kernel handed over for `received`: fewer when packets were coalesced */
} mcast_counters;

typedef struct mcast_batch {
    mcast_memory records;
    mcast_memory data;
    uint64_t epoch;     /* of the filters that its first packet passed */
    mcast_lease *lease; /* on a ring's block, where the payloads are then */
    const unsigned char *base;
    const unsigned char *end;
    int copies; /* payloads of rings are copied: the batch may take many blocks */
} mcast_batch;

typedef struct mcast_slots {
    PyThread_type_lock turn;
    PyThread_type_lock look;
    PyThread_type_lock state;
    mcast_pool *pool;
    mcast_scratch scratch;
    unsigned slot_count; /* of the scratch, also after it was given back */
    size_t slot_size;
    size_t packet_limit; /* bytes of payload that are kept */
    unsigned segments;   /* packets in a slot, at the most, when slots were last filled */
    size_t filled;       /* bytes in a slot, on the average, when slots were last filled */
    mcast_poller poller;
    mcast_socket **sockets; /* by key; NULL where one was removed */
    size_t keys;
    size_t open_sockets;
    mcast_ring *rings;
    mcast_flag ringed;  /* there are rings, or were */
    mcast_socket *busy; /* the only socket, when it was not drained last time: read it without waiting first */
    uint64_t epoch;     /* counts the changes of filters */
    size_t expected;    /* packets in the last batch: the next one is likely as large */
    unsigned rotation;  /* which ready socket is read first: none starves behind busy ones */
    mcast_flag watched; /* somebody looks at the poller who does not receive */
    int left_over;      /* batches of which packets are left over */
    int shown;          /* whether the poller is readable because of those, or of what a ring holds */
    int failure;        /* -errno that a socket answered after packets of others: for the next call */
    mcast_counters counters;
    mcast_flag closed;
} mcast_slots;

/* slots_ring.h, or no_slots_ring.h */
static inline int mcast_slots_enter_ring(mcast_slots *slots, mcast_socket *socket, uint64_t key);
static inline void mcast_slots_leave_ring(mcast_slots *slots, mcast_socket *socket);
static inline void mcast_rings_count(mcast_slots *slots, mcast_counters *counters);

/* `count` slots of `size` bytes, of which `packet_limit` are kept of a packet: 0, or -errno with nothing left open. */
static inline int
mcast_slots_open(mcast_slots *slots, mcast_pool *pool, unsigned count, size_t size, size_t packet_limit)
{
    memset(slots, 0, sizeof *slots);
    slots->pool = pool;
    slots->packet_limit = packet_limit;
    slots->segments = 1;
    slots->filled = size;
    slots->slot_count = count;
    slots->slot_size = size;
    mcast_poller_init(&slots->poller);
    slots->turn = PyThread_allocate_lock();
    slots->look = PyThread_allocate_lock();
    slots->state = PyThread_allocate_lock();
    int status = slots->turn && slots->look && slots->state ? mcast_poller_open(&slots->poller) : -ENOMEM;
    return status == 0 ? mcast_scratch_open(&slots->scratch, count, size) : status;
}

static inline void
mcast_socket_free(mcast_socket *socket)
{
    if (socket)
        mcast_filter_free(&socket->filter);
    if (socket && socket->is_ring)
        mcast_ring_close(socket->ring);
    free(socket);
}

/* Wakes who waits, waits until that thread has left, and gives all back; the sockets themselves are their opener's. */
static inline void
mcast_slots_close(mcast_slots *slots)
{
    mcast_flag_set(&slots->closed);
    if (!slots->turn || !slots->look || !slots->state)
        return;
    PyThread_acquire_lock(slots->state, WAIT_LOCK); /* nobody is in the middle of showing what is left over */
    mcast_poller_signal(&slots->poller);
    PyThread_release_lock(slots->state);
    PyThread_acquire_lock(slots->turn, WAIT_LOCK);
    PyThread_acquire_lock(slots->look, WAIT_LOCK);
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    mcast_rings_count(slots, &slots->counters); /* the rings go, and what they counted stays */
    mcast_poller_close(&slots->poller);
    mcast_scratch_close(&slots->scratch);
    for (size_t key = 0; key < slots->keys; key++)
        mcast_socket_free(slots->sockets[key]);
    free(slots->sockets);
    slots->sockets = NULL;
    slots->rings = NULL;
    slots->busy = NULL;
    slots->keys = slots->open_sockets = 0;
    PyThread_release_lock(slots->state);
    PyThread_release_lock(slots->look);
    PyThread_release_lock(slots->turn);
}

static inline void
mcast_slots_free(mcast_slots *slots)
{
    mcast_slots_close(slots);
    if (slots->turn)
        PyThread_free_lock(slots->turn);
    if (slots->look)
        PyThread_free_lock(slots->look);
    if (slots->state)
        PyThread_free_lock(slots->state);
    slots->turn = slots->look = slots->state = NULL;
}

/* Gives a socket a key, and has the poller watch it; the key, or -errno. The state lock is held. */
static inline int64_t
mcast_slots_seat(mcast_slots *slots, mcast_socket *socket)
{
    mcast_socket **larger = realloc(slots->sockets, (slots->keys + 1) * sizeof *slots->sockets);
    slots->sockets = larger ? larger : slots->sockets;
    uint64_t key = slots->keys;
    int status = larger ? 0 : -ENOMEM;
    if (status == 0)
        status = socket->ring ? mcast_slots_enter_ring(slots, socket, key)
                              : mcast_poller_add(&slots->poller, socket->fd, key);
    if (status != 0)
        return status;
    slots->sockets[slots->keys++] = socket;
    slots->open_sockets++;
    slots->busy = NULL;
    return (int64_t)key;
}

/* Takes a socket in, or a ring's descriptor, or a listener at a ring; its key, or -errno. Nothing passes until a filter is set. */
static inline int64_t
mcast_slots_enter(mcast_slots *slots, int fd, const mcast_record *implied, mcast_ring *ring, int is_ring)
{
    mcast_socket *socket = calloc(1, sizeof *socket);
    if (!socket || mcast_filter_open(&socket->filter, 0, 0) != 0) {
        free(socket);
        return -ENOMEM;
    }
    socket->implied = *implied;
    socket->ring = ring;
    int status = ring ? 0 : mcast_descriptor_open(&socket->fd, fd);
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    socket->is_ring = is_ring;
    int64_t key = status == 0 ? mcast_slots_seat(slots, socket) : status;
    PyThread_release_lock(slots->state);
    if (key < 0) {
        socket->is_ring = 0; /* the ring stays its opener's */
        mcast_socket_free(socket);
    }
    return key;
}

static inline int64_t
mcast_slots_add(mcast_slots *slots, int fd, const mcast_record *implied)
{
    return mcast_slots_enter(slots, fd, implied, NULL, 0);
}

/* What is still queued at a socket that goes was not asked for any more: count it. Bounded, for its port may be talked to. */
static inline void
mcast_discard(mcast_slots *slots, mcast_socket *socket)
{
    for (int rounds = 0; rounds < 100000; rounds++) {
        int received = mcast_scratch_receive(&slots->scratch, socket->fd, slots->scratch.count);
        if (received <= 0)
            return;
        slots->counters.filtered += (unsigned)received;
    }
}

static inline void
mcast_slots_remove(mcast_slots *slots, uint64_t key)
{
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    mcast_socket *socket = key < slots->keys ? slots->sockets[key] : NULL;
    if (socket) {
        if (socket->ring) {
            mcast_slots_leave_ring(slots, socket);
        } else {
            mcast_poller_remove(&slots->poller, socket->fd);
            mcast_discard(slots, socket);
        }
        mcast_socket_free(socket);
        slots->sockets[key] = NULL;
        slots->open_sockets--;
        slots->epoch++;
        slots->busy = NULL;
    }
    PyThread_release_lock(slots->state);
}

/* Puts a filter in force for everything received from now on, and takes its memory over. */
static inline void
mcast_slots_accept(mcast_slots *slots, uint64_t key, mcast_filter *filter)
{
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    if (key < slots->keys && slots->sockets[key]) {
        mcast_filter old = slots->sockets[key]->filter;
        slots->sockets[key]->filter = *filter;
        slots->epoch++;
        *filter = old;
    }
    PyThread_release_lock(slots->state);
    mcast_filter_free(filter);
}

/* Counts the changes of filters: what passed them at this number is wanted as long as it stays the same. */
static inline uint64_t
mcast_slots_epoch(mcast_slots *slots)
{
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    uint64_t epoch = slots->epoch;
    PyThread_release_lock(slots->state);
    return epoch;
}

/* Readable when a receive would not wait; -1 when closed, or where the system has none. */
static inline int
mcast_slots_descriptor(mcast_slots *slots)
{
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    int descriptor = mcast_poller_descriptor(&slots->poller);
    PyThread_release_lock(slots->state);
    return descriptor;
}

static inline mcast_counters
mcast_slots_counters(mcast_slots *slots)
{
    PyThread_acquire_lock(slots->state, WAIT_LOCK);
    mcast_counters counters = slots->counters;
    mcast_rings_count(slots, &counters);
    PyThread_release_lock(slots->state);
    return counters;
}

#endif
