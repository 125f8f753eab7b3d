/* The sender's core: payloads in, datagrams out, by trains of one system call each and, where asked, by the clock.
 *
 * Who sends holds the transmitter's `turn` for a slice of at most MCAST_SLICE_NS, without the GIL; between slices signals are looked at.
 * Only who has the turn changes anything, and holds `state` while he does: so who only looks holds `state`, and never waits for a
 * slice. Nothing here allocates while sending. */
#ifndef MCAST_SEND_H
#define MCAST_SEND_H

#include "itinerary.h"
#include "platform.h"
#include "record.h"
#include <pythread.h>

enum {
    MCAST_SLICE_NS = 50 * 1000000,  /* Ctrl-C is seen within 100 ms */
    MCAST_NAP_NS = 20 * 1000000,    /* close() is seen within it */
    MCAST_SPIN_NS = 80 * 1000,      /* before a departure, the clock is watched instead of slept by */
    MCAST_CREDIT_NS = 10 * 1000000, /* who comes later than this to a call begins a new schedule */
    MCAST_RETRY_FIRST_NS = 50000,   /* after ENOBUFS; doubled each time */
    MCAST_RETRY_LAST_NS = 5000000,  /* but no longer than this */
    MCAST_RETRIES_MAX = 100,        /* without one datagram leaving: half a second */
    MCAST_PACE_LOOKAHEAD = 1024,    /* datagrams that are due together and leave in one train */
    MCAST_SEND_CLOSED = -100001,    /* below every -errno */
    MCAST_SEND_MORE = 1,            /* the slice is over */
    MCAST_SEND_UNKNOWN = 2,         /* the itinerary does not say where the next record goes */
};

/* What is to be sent: one of pieces of memory, records that point into an arena, or rows of one buffer. */
typedef struct mcast_payloads {
    const struct iovec *pieces;
    const mcast_record *records;
    unsigned char *bytes; /* the arena, or the buffer */
    size_t length;        /* of the buffer, bytes */
    size_t row;           /* bytes; the last row may be shorter */
    size_t count;
} mcast_payloads;

/* A socket, and what its path has refused to cut apart: segments of more than `limit` bytes, with `refusal` as the errno. */
typedef struct mcast_outlet {
    int fd;
    size_t limit;
    int refusal;
} mcast_outlet;

/* The schedule: unit number u is due at start + u * ns_per_unit. A unit is a datagram, or a bit of payload. */
typedef struct mcast_pace {
    double ns_per_unit; /* 0: as fast as it goes */
    int by_bits;
    uint64_t burst;     /* so many datagrams leave together, when the first of them is due */
    uint64_t in_burst;  /* of the burst that is leaving */
    int64_t start;      /* 0: none yet */
    double units;       /* since the start */
    int64_t last;       /* when the last train left */
    double before_last; /* units before that train */
    double past_units;  /* of schedules that are over, and how long they took: for the achieved rate */
    double past_ns;
} mcast_pace;

typedef struct mcast_send_counters {
    uint64_t datagrams;
    uint64_t bytes;
    uint64_t system_calls;
    uint64_t would_blocks;
    uint64_t retries;
} mcast_send_counters;

typedef struct mcast_transmitter {
    PyThread_type_lock turn;
    PyThread_type_lock state;
    mcast_train *train;
    mcast_outlet *outlets;
    size_t outlet_count;
    mcast_pace pace;
    mcast_send_counters counters;
    mcast_flag closed;
} mcast_transmitter;

/* One call of a user: every payload to every target, payload after payload; or, by an itinerary, each record to its own. */
typedef struct mcast_errand {
    const mcast_target *targets;
    size_t target_count;        /* 1 by an itinerary */
    mcast_itinerary *itinerary; /* NULL without */
    mcast_payloads payloads;
    size_t sent;      /* payloads times targets */
    unsigned retries; /* since something left */
    int alone;        /* a super-packet was refused: this errno; the next datagram goes alone to find out why */
    size_t refused;   /* the size of its segments */
    int begun;        /* the schedule was looked at */
} mcast_errand;

/* Payload `i`; offsets and lengths were checked before (mcast_payloads_fit). */
static inline struct iovec
mcast_payload(const mcast_payloads *payloads, size_t i)
{
    if (payloads->pieces)
        return payloads->pieces[i];
    if (payloads->records)
        return (struct iovec){payloads->bytes + payloads->records[i].offset, payloads->records[i].length};
    size_t at = i * payloads->row, left = payloads->length - at;
    return (struct iovec){payloads->bytes + at, left < payloads->row ? left : payloads->row};
}

/* Whether every record points into the arena. */
static inline int
mcast_payloads_fit(const mcast_payloads *payloads)
{
    for (size_t i = 0; payloads->records && i < payloads->count; i++)
        if ((size_t)payloads->records[i].offset + payloads->records[i].length > payloads->length)
            return 0;
    return 1;
}

/* ---- trains ---- */

/* How many payloads from `at` on, and before `end`, make one super-packet: of one size, but the last may be shorter (udp(7)). */
static inline unsigned
mcast_run(const mcast_payloads *payloads, size_t at, size_t end, size_t limit)
{
    size_t size = mcast_payload(payloads, at).iov_len, total = size;
    unsigned run = 1;
    if (size == 0 || size > limit)
        return 1;
    while (run < MCAST_SEGMENTS_MAX && at + run < end) {
        size_t next = mcast_payload(payloads, at + run).iov_len;
        if (next == 0 || next > size || total + next > MCAST_SUPER_MAX)
            break;
        total += next;
        run++;
        if (next < size)
            break;
    }
    return run;
}

/* Where datagram `at` goes; NULL when an itinerary does not say it. */
static inline const mcast_target *
mcast_target_of(const mcast_errand *errand, size_t at)
{
    if (errand->itinerary)
        return mcast_itinerary_target(errand->itinerary, &errand->payloads.records[at]);
    return &errand->targets[at % errand->target_count];
}

/* Where the payloads end that may leave as segments of one packet with payload `first`: by an itinerary, those of one target. */
static inline size_t
mcast_run_end(const mcast_errand *errand, size_t first, size_t end)
{
    size_t at = first + 1, most = end - first < MCAST_SEGMENTS_MAX ? end : first + MCAST_SEGMENTS_MAX;
    if (!errand->itinerary)
        return end;
    const mcast_target *target = mcast_target_of(errand, first);
    while (at < most && mcast_target_of(errand, at) == target)
        at++;
    return at;
}

/* Fills the train with what comes next, at most `allowed` datagrams by one socket; the socket. */
static inline mcast_outlet *
mcast_load(mcast_transmitter *transmitter, const mcast_errand *errand, size_t allowed)
{
    mcast_train *train = transmitter->train;
    size_t at = errand->sent, end = errand->alone ? at + 1 : at + allowed;
    size_t outlet = mcast_target_of(errand, at)->outlet;
    int runs = errand->target_count == 1 && !errand->alone;
    train->messages = train->vectors = 0;
    while (at < end && mcast_train_has_room(train, MCAST_SEGMENTS_MAX)) {
        const mcast_target *target = mcast_target_of(errand, at);
        if (!target || target->outlet != outlet)
            break;
        size_t first = at / errand->target_count, last = runs ? mcast_run_end(errand, first, end) : end;
        unsigned run = runs ? mcast_run(&errand->payloads, first, last, transmitter->outlets[outlet].limit) : 1;
        mcast_train_begin(train, &target->address, target->size);
        for (unsigned i = 0; i < run; i++)
            mcast_train_add(train, mcast_payload(&errand->payloads, first + i));
        if (run > 1)
            mcast_train_segment(train, (uint16_t)mcast_payload(&errand->payloads, first).iov_len);
        at += run;
    }
    return &transmitter->outlets[outlet];
}

static inline void
mcast_count(mcast_transmitter *transmitter, uint64_t *counter)
{
    PyThread_acquire_lock(transmitter->state, WAIT_LOCK);
    ++*counter;
    PyThread_release_lock(transmitter->state);
}

/* Counts a system call, and what left of the train by it. */
static inline void
mcast_account(mcast_transmitter *transmitter, mcast_outlet *outlet, mcast_errand *errand, unsigned left, int64_t now)
{
    mcast_pace *pace = &transmitter->pace;
    size_t datagrams = 0, bytes = 0;
    for (unsigned i = 0; i < left; i++) {
        datagrams += transmitter->train->datagrams[i];
        bytes += mcast_train_bytes(transmitter->train, i);
    }
    PyThread_acquire_lock(transmitter->state, WAIT_LOCK);
    transmitter->counters.system_calls++;
    transmitter->counters.datagrams += datagrams;
    transmitter->counters.bytes += bytes;
    if (errand->alone) { /* alone it leaves: it was the cutting apart that is refused */
        int too_large = errand->alone == MCAST_EMSGSIZE || errand->alone == EINVAL;
        outlet->limit = too_large ? errand->refused - 1 : 0;
        outlet->refusal = errand->alone;
    }
    if (errand->itinerary && errand->itinerary->scale > 0)
        mcast_itinerary_left(errand->itinerary, &errand->payloads.records[errand->sent], datagrams, now);
    errand->alone = 0;
    errand->retries = 0;
    errand->sent += datagrams;
    pace->before_last = pace->units;
    pace->last = now;
    pace->units += pace->by_bits ? (double)bytes * 8 : (double)datagrams;
    pace->in_burst = (pace->in_burst + datagrams) % pace->burst;
    PyThread_release_lock(transmitter->state);
}

/* ---- the schedule ---- */

/* A call begins: goes on with the schedule when it is in time, else starts another. */
static inline void
mcast_pace_begin(mcast_transmitter *transmitter, int64_t now)
{
    mcast_pace *pace = &transmitter->pace;
    int64_t due = pace->start + (int64_t)(pace->units * pace->ns_per_unit);
    if (pace->start && now - due <= MCAST_CREDIT_NS)
        return;
    PyThread_acquire_lock(transmitter->state, WAIT_LOCK);
    pace->past_units += pace->before_last;
    pace->past_ns += pace->start ? (double)(pace->last - pace->start) : 0;
    pace->start = pace->last = now;
    pace->units = pace->before_last = 0;
    pace->in_burst = 0;
    PyThread_release_lock(transmitter->state);
}

/* How many datagrams of the errand are due at `now`; *due is when the next one after them is. */
static inline size_t
mcast_pace_count(const mcast_pace *pace, const mcast_errand *errand, size_t left, int64_t now, int64_t *due)
{
    double units = pace->units;
    size_t count = 0;
    for (; count < left && count < MCAST_PACE_LOOKAHEAD; count++) {
        *due = pace->start + (int64_t)(units * pace->ns_per_unit);
        if (*due > now && (pace->in_burst + count) % pace->burst == 0)
            break;
        size_t payload = (errand->sent + count) / errand->target_count;
        units += pace->by_bits ? (double)mcast_payload(&errand->payloads, payload).iov_len * 8 : 1;
    }
    return count;
}

/* The same by whichever schedule there is. */
static inline size_t
mcast_due_count(const mcast_transmitter *transmitter, const mcast_errand *errand, size_t left, int64_t now,
                int64_t *due)
{
    const mcast_itinerary *itinerary = errand->itinerary;
    if (!itinerary || itinerary->scale == 0)
        return mcast_pace_count(&transmitter->pace, errand, left, now, due);
    left = left < MCAST_PACE_LOOKAHEAD ? left : MCAST_PACE_LOOKAHEAD;
    return mcast_itinerary_count(itinerary, &errand->payloads.records[errand->sent], left, now, due);
}

/* Waits for the next departure, until `end` at the most: how many datagrams may leave now, 0 when none. */
static inline size_t
mcast_pace_wait(mcast_transmitter *transmitter, const mcast_errand *errand, size_t left, int64_t end, int64_t *now,
                long *slack)
{
    int64_t due = 0;
    size_t count;
    while ((count = mcast_due_count(transmitter, errand, left, *now, &due)) == 0) {
        if (*now >= end || mcast_flag_is_set(&transmitter->closed))
            return 0;
        int64_t wake = due - MCAST_SPIN_NS;
        if (wake - *now > MCAST_NAP_NS)
            wake = *now + MCAST_NAP_NS;
        if (wake > *now) {
            if (*slack < 0)
                *slack = mcast_timer_slack(1);
            mcast_sleep_until(wake);
        }
        *now = mcast_monotonic_ns();
        while (*now < due && due - *now <= MCAST_SPIN_NS)
            *now = mcast_monotonic_ns();
    }
    return count;
}

/* ---- sending ---- */

/* What to do about -errno of a train of which nothing left: 0 to try again, or that status. */
static inline int
mcast_refused(mcast_transmitter *transmitter, const mcast_outlet *outlet, mcast_errand *errand, int status)
{
    const mcast_train *train = transmitter->train;
    mcast_count(transmitter, &transmitter->counters.system_calls);
    if (status == -EINTR)
        return 0;
    if (status == -EAGAIN || status == -EWOULDBLOCK) {
        mcast_count(transmitter, &transmitter->counters.would_blocks);
        mcast_wait_writable(outlet->fd, MCAST_NAP_NS / 1000000);
        return 0;
    }
    if (train->datagrams[0] > 1 &&
        (status == -EIO || status == -EINVAL || status == -MCAST_EMSGSIZE || status == -EOPNOTSUPP)) {
        mcast_count(transmitter, &transmitter->counters.retries);
        errand->alone = -status;
        errand->refused = mcast_payload(&errand->payloads, errand->sent / errand->target_count).iov_len;
        return 0;
    }
    if (status == -MCAST_ENOBUFS && errand->retries < MCAST_RETRIES_MAX) {
        int64_t pause = errand->retries < 8 ? (int64_t)MCAST_RETRY_FIRST_NS << errand->retries : MCAST_RETRY_LAST_NS;
        errand->retries++;
        mcast_count(transmitter, &transmitter->counters.retries);
        mcast_sleep_until(mcast_monotonic_ns() + (pause < MCAST_RETRY_LAST_NS ? pause : MCAST_RETRY_LAST_NS));
        return 0;
    }
    return status;
}

/* Sends for a slice: 0 when all has left, MCAST_SEND_MORE when the slice is over, MCAST_SEND_UNKNOWN, MCAST_SEND_CLOSED, or -errno. */
static inline int
mcast_send_slice(mcast_transmitter *transmitter, mcast_errand *errand, size_t total)
{
    int64_t now = mcast_monotonic_ns(), end = now + MCAST_SLICE_NS;
    int by_itinerary = errand->itinerary && errand->itinerary->scale > 0;
    int status = 0, paced = by_itinerary || transmitter->pace.ns_per_unit > 0;
    long slack = -1;
    if (paced && !by_itinerary && !errand->begun)
        mcast_pace_begin(transmitter, now);
    errand->begun = 1;
    while (status == 0 && errand->sent < total) {
        size_t allowed = total - errand->sent;
        int closed = mcast_flag_is_set(&transmitter->closed);
        if (closed || !mcast_target_of(errand, errand->sent)) {
            status = closed ? MCAST_SEND_CLOSED : MCAST_SEND_UNKNOWN;
            break;
        }
        if (now >= end)
            break;
        if (paced && (allowed = mcast_pace_wait(transmitter, errand, allowed, end, &now, &slack)) == 0)
            continue;
        mcast_outlet *outlet = mcast_load(transmitter, errand, allowed);
        int left = mcast_train_send(transmitter->train, outlet->fd);
        if (left > 0)
            mcast_account(transmitter, outlet, errand, (unsigned)left, now);
        else
            status = mcast_refused(transmitter, outlet, errand, left);
        now = mcast_monotonic_ns();
    }
    if (slack >= 0)
        mcast_timer_slack(slack);
    return status == 0 && errand->sent < total ? MCAST_SEND_MORE : status;
}

/* The rate that was achieved, units a second; 0 when nothing can be said yet. */
static inline double
mcast_pace_rate(const mcast_pace *pace)
{
    double units = pace->past_units + pace->before_last;
    double taken = pace->past_ns + (pace->start ? (double)(pace->last - pace->start) : 0);
    return taken > 0 ? units / taken * 1e9 : 0;
}

/* ---- opening and closing ---- */

static inline int
mcast_transmitter_open(mcast_transmitter *transmitter)
{
    transmitter->turn = PyThread_allocate_lock();
    transmitter->state = PyThread_allocate_lock();
    transmitter->train = calloc(1, sizeof *transmitter->train);
    transmitter->pace.burst = 1;
    return transmitter->turn && transmitter->state && transmitter->train ? 0 : -ENOMEM;
}

/* The key of a socket; `limit` is the largest segment that may be tried, 0 for none. -ENOMEM without memory. */
static inline int64_t
mcast_transmitter_add(mcast_transmitter *transmitter, int fd, size_t limit)
{
    PyThread_acquire_lock(transmitter->turn, WAIT_LOCK);
    PyThread_acquire_lock(transmitter->state, WAIT_LOCK);
    mcast_outlet *outlets = realloc(transmitter->outlets, (transmitter->outlet_count + 1) * sizeof *outlets);
    int64_t key = outlets ? (int64_t)transmitter->outlet_count : -ENOMEM;
    if (outlets) {
        transmitter->outlets = outlets;
        outlets[transmitter->outlet_count++] = (mcast_outlet){.fd = fd, .limit = limit};
    }
    PyThread_release_lock(transmitter->state);
    PyThread_release_lock(transmitter->turn);
    return key;
}

/* Whether a socket has this key; *told is what it may do. */
static inline int
mcast_transmitter_look(mcast_transmitter *transmitter, size_t key, mcast_outlet *told)
{
    PyThread_acquire_lock(transmitter->state, WAIT_LOCK);
    int found = key < transmitter->outlet_count;
    if (found)
        *told = transmitter->outlets[key];
    PyThread_release_lock(transmitter->state);
    return found;
}

/* The counters of now, and the rate that was achieved, units a second; 0 when nothing can be said yet. */
static inline mcast_send_counters
mcast_transmitter_counters(mcast_transmitter *transmitter, double *rate)
{
    PyThread_acquire_lock(transmitter->state, WAIT_LOCK);
    mcast_send_counters counters = transmitter->counters;
    *rate = mcast_pace_rate(&transmitter->pace);
    PyThread_release_lock(transmitter->state);
    return counters;
}

/* When this returns nobody sends any more, and the sockets may be closed. */
static inline void
mcast_transmitter_close(mcast_transmitter *transmitter)
{
    mcast_flag_set(&transmitter->closed);
    PyThread_acquire_lock(transmitter->turn, WAIT_LOCK);
    PyThread_release_lock(transmitter->turn);
}

static inline void
mcast_transmitter_free(mcast_transmitter *transmitter)
{
    if (transmitter->turn)
        PyThread_free_lock(transmitter->turn);
    if (transmitter->state)
        PyThread_free_lock(transmitter->state);
    free(transmitter->train);
    free(transmitter->outlets);
}

#endif
