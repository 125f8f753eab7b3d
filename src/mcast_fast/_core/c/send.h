/* The sender's core: payloads in, datagrams out, many per system call and, where requested, by the clock.
 *
 * A call of a user is a request. It is sent in slices of at most MCAST_SLICE_NS without the GIL; between slices the binding looks at
 * signals. Nothing here allocates while sending.
 *
 * Locks, in this order:
 *   1. send_lock (`sending`, with `send_ended`): held for one slice by the thread that sends, and while sockets or schedules change.
 *      It is a flag under state_lock, so that a thread that waits for it can give up after MCAST_NAP_NS, or when the sender closes.
 *   2. state_lock: held for a few instructions. It guards counters, pace, use count and lateness: a reader takes it alone, and never
 *      waits for a slice. A thread that holds send_lock is the only one that changes what a slice reads, and reads it without a lock.
 * Neither is held when a function returns to the binding, so that a handler of a signal never waits for the code that it interrupted.
 *
 * Life cycle: mcast_transmitter_enter and _leave bracket every use. After mcast_transmitter_close the last one to leave (or close
 * itself) learns that the sockets may be closed. A forked child touches no lock: enter answers MCAST_SEND_FOREIGN there. */
#ifndef MCAST_SEND_H
#define MCAST_SEND_H

#include "pace.h"
#include "platform.h"
#include "record.h"
#include "schedule.h"

enum {
    MCAST_SLICE_NS = 50 * 1000000, /* Ctrl-C is seen within 100 ms */
    MCAST_STEP_NS = 1000000,       /* a request that must not wait gives way to others after it */
    MCAST_NAP_NS = 20 * 1000000,   /* close() is seen within it */
    MCAST_SPIN_NS = 80 * 1000,     /* before a departure, the clock is watched instead of slept by */
    MCAST_RETRY_FIRST_NS = 50000,  /* after ENOBUFS; doubled each time */
    MCAST_RETRY_LAST_NS = 5000000, /* but no longer than this */
    MCAST_RETRIES_MAX = 100,       /* without one datagram leaving: half a second */
    MCAST_SEND_CLOSED = -100001,   /* below every -errno */
    MCAST_SEND_FOREIGN = -100002,  /* opened in another process */
    MCAST_SEND_MORE = 1,           /* the slice is over */
    MCAST_SEND_UNKNOWN = 2,        /* the schedule does not say where the next record goes */
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

/* A socket, and what its path has refused to segment: segments of more than `limit` bytes, with `refusal` as the errno. */
typedef struct mcast_sending_socket {
    int fd;
    size_t limit;
    int refusal;
    int rewritten; /* `hops` and `own` hold */
    unsigned hops; /* the TTL and TOS that it has now, as mcast_schedule_hops */
    unsigned own;  /* and those that it was opened with */
} mcast_sending_socket;

typedef struct mcast_send_counters {
    uint64_t datagrams;
    uint64_t bytes;
    uint64_t system_calls;
    uint64_t would_blocks;
    uint64_t retries;
} mcast_send_counters;

typedef struct mcast_transmitter {
    mcast_mutex state_lock;
    mcast_condition send_ended;
    int sending; /* send_lock is held */
    int opened;  /* the locks are there */
    mcast_message_vector *vector;
    const mcast_option *hop_options[2][2]; /* of TTL and of TOS, each of IPv4 and of IPv6; NULL: the system has none */
    mcast_sending_socket *sockets;
    size_t socket_count;
    mcast_pace pace;
    mcast_send_counters counters;
    size_t users;     /* inside */
    uint32_t process; /* that opened it */
    mcast_flag closed;
} mcast_transmitter;

/* One call of a user: every payload to every target, payload after payload; or, by a schedule, each record to its own. */
typedef struct mcast_request {
    const mcast_target *targets;
    size_t target_count;      /* 1 by a schedule */
    mcast_schedule *schedule; /* NULL without */
    mcast_payloads payloads;
    size_t sent;      /* payloads times targets */
    int at_once;      /* never wait: answer -EAGAIN, -ENOBUFS, or MCAST_SEND_MORE after MCAST_STEP_NS */
    int64_t end;      /* of that step; 0: not begun */
    unsigned retries; /* since something left */
    int alone;        /* a super-packet was refused: this errno; the next datagram goes alone to find out why */
    size_t refused;   /* the size of its segments */
    int begun;        /* the pace was looked at */
} mcast_request;

/* Starts to count forks; once, at import. 0, or -errno. */
int mcast_send_import(void);

int mcast_transmitter_open(mcast_transmitter *transmitter, double ns_per_unit, int by_bits, uint64_t burst);
void mcast_transmitter_free(mcast_transmitter *transmitter);

/* 0, MCAST_SEND_CLOSED or MCAST_SEND_FOREIGN; only after 0 the caller is inside, and has to leave. */
int mcast_transmitter_enter(mcast_transmitter *transmitter);

/* Whether the sockets may be closed now: to the last one out of a closed sender. */
int mcast_transmitter_leave(mcast_transmitter *transmitter);

/* Marks it closed, and wakes who waits for a turn; whether the sockets may be closed now, else the last one to leave learns it. */
int mcast_transmitter_close(mcast_transmitter *transmitter);

int mcast_transmitter_is_closed(const mcast_transmitter *transmitter);
int mcast_transmitter_is_foreign(const mcast_transmitter *transmitter);

/* The key of a socket; `limit` is the largest segment that may be tried, 0 for none. -ENOMEM, MCAST_SEND_CLOSED. */
int64_t mcast_transmitter_add(mcast_transmitter *transmitter, int fd, size_t limit);

/* Sends by this socket under that key from now on: when it returns 0, the former one is unused. -EINVAL, MCAST_SEND_CLOSED. */
int mcast_transmitter_replace(mcast_transmitter *transmitter, size_t key, int fd, size_t limit);

/* Whether a socket has this key; *info is a copy of it. */
int mcast_transmitter_look(mcast_transmitter *transmitter, size_t key, mcast_sending_socket *info);

/* The counters, and the achieved rate in units per second; 0 when it is not known yet. */
mcast_send_counters mcast_transmitter_counters(mcast_transmitter *transmitter, double *rate);

/* Changes a schedule of this sender between slices: 0, -ENOMEM, MCAST_SEND_CLOSED. */
int mcast_transmitter_route(mcast_transmitter *transmitter, mcast_schedule *schedule, const unsigned char *group,
                            uint16_t port, const mcast_target *target);
int mcast_transmitter_start(mcast_transmitter *transmitter, mcast_schedule *schedule, int64_t origin, int64_t start,
                            double scale);

/* Copies how late the records of a schedule left. */
void mcast_transmitter_lateness(mcast_transmitter *transmitter, const mcast_schedule *schedule, uint64_t *late,
                                int64_t *latest);

/* Finds this system's options for TTL and TOS (send_hops.c). */
void mcast_hops_open(mcast_transmitter *transmitter);

/* Gives a socket the TTL and TOS that the next datagram of a request has: by a system call for all that follow with the same ones, which
 * every system has, and not by control messages, which few take. The caller holds send_lock. 0, or -errno. */
int mcast_hops_set(mcast_transmitter *transmitter, mcast_sending_socket *socket, const mcast_request *request,
                   const mcast_target *target);

/* Whether every record points into the arena. */
int mcast_payloads_fit(const mcast_payloads *payloads);

/* Sends for a slice: 0 when all has left, MCAST_SEND_MORE when the slice is over, MCAST_SEND_UNKNOWN, MCAST_SEND_CLOSED, or -errno. */
int mcast_send_slice(mcast_transmitter *transmitter, mcast_request *request, size_t total);

#endif
