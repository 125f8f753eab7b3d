/* Coalescing under pressure: whether the kernel may hand over several packets as one (udp(7), UDP_GRO), which is far cheaper and gives them
 * one time. Under pressure it is switched on for all sockets of a receiver that share a port and an IP version, and off after some calm.
 *
 * It is never switched off at a socket that is received from: a super-packet that is queued already, or on its way, would come without the
 * size of its packets then. The kernel asks one socket whether to coalesce, the one that a unicast lookup finds: of those bound alike the
 * last one. So sockets that are bound alike have one more, the decider, which is no member of anything. It is bound when coalescing is first
 * switched on, anew at each switch, so that it is the last one again, and says whether the kernel coalesces, while the sockets go on
 * reporting sizes.
 *
 * All but `groups_on` is guarded by the receiver's state lock. */
#ifndef MCAST_COALESCING_H
#define MCAST_COALESCING_H

#include "platform.h"
#include <stddef.h>

typedef enum mcast_coalescing_mode {
    MCAST_COALESCES_NEVER,
    MCAST_COALESCES_UNDER_PRESSURE,
    MCAST_COALESCES_ALWAYS, /* the option is set when the sockets are opened */
} mcast_coalescing_mode;

/* What happened; the rows of an event. */
typedef enum mcast_coalescing_what {
    MCAST_COALESCING_BEGAN_BY_BACKLOG,
    MCAST_COALESCING_BEGAN_BY_DROPS,
    MCAST_COALESCING_ENDED,
    MCAST_COALESCING_STAYS,         /* it cannot be switched off: `error` */
    MCAST_COALESCING_DOES_NOT_WORK, /* it is on, and nothing comes coalesced */
    MCAST_COALESCING_BY_OTHERS,     /* it is off, and packets come coalesced */
} mcast_coalescing_what;

typedef struct mcast_coalescing_event {
    int64_t time; /* ns since the epoch */
    mcast_coalescing_what what;
    int error;
    uint64_t key;             /* of the socket where it was seen */
    uint32_t backlog, buffer; /* bytes, as the kernel counts them: with what its bookkeeping takes */
    uint64_t rate;            /* packets per second */
} mcast_coalescing_event;

enum {
    MCAST_COALESCING_EVENTS = 64,                   /* kept until they are taken, the latest */
    MCAST_COALESCING_WINDOW_NS = 500 * 1000 * 1000, /* for which pressure and calm are looked at together */
};

struct mcast_coalescing_group;

/* One socket of those that share a port and an IP version. */
typedef struct mcast_coalescing_socket {
    struct mcast_coalescing_group *group;
    struct mcast_coalescing_socket *next;
    mcast_descriptor descriptor;
    int decider; /* a socket that is not bound yet, of the same opener; -1: there is none, for another one decides for it too */
    uint64_t key;
    int is_enabled;          /* the socket reports sizes from now on */
    int is_decided;          /* the decider is bound */
    unsigned slots;          /* filled without a gap since the last look */
    uint32_t reported_drops; /* the kernel's drop counter, as reported with a packet, at the last look */
    uint32_t meminfo_drops;  /* the same counter, as last read */
    uint32_t buffer;         /* bytes that it holds at the most, as last read */
    uint64_t drops;          /* in all, as last read */
    uint64_t inexact_drops;  /* of them, those of buffers that may have held several packets */
    int64_t read_at;         /* while it is on: when packets last came coalesced */
    int64_t nap;             /* ns for which more may pile up before the next read; 0: for none */
} mcast_coalescing_socket;

/* The sockets of a receiver that share a port and an IP version. */
typedef struct mcast_coalescing_group {
    struct mcast_coalescing_group *next;
    mcast_coalescing_socket *sockets;
    uint16_t port;
    int version;
    int is_on;
    int is_prepared;  /* the first switch takes no longer than the others */
    int is_stuck;     /* on for good */
    int is_settling;  /* off, and what came coalesced before may still be dropped as one */
    uint64_t packets; /* since `since` */
    int64_t since;    /* the start of a window; 0: none has begun */
    int64_t first,
        last;       /* when the packets came between which there are `packets`, by their own times; 0: they have none */
    uint64_t slots; /* since packets last came coalesced, or it was switched */
    int64_t changed;     /* when it was switched last */
    int has_coalesced;   /* packets came coalesced since then, and since they settled */
    uint64_t rate;       /* when it was switched on */
    int has_pressure;    /* in this window */
    int64_t calm;        /* windows in a row without pressure, and with much less to receive */
    int64_t unpressed;   /* windows in a row without pressure */
    int64_t calm_needed; /* after how many it is switched off */
    int has_reported;    /* that it does not do what it should, since it was switched last */
} mcast_coalescing_group;

typedef struct mcast_coalescing {
    mcast_coalescing_mode mode;
    int64_t window; /* ns */
    mcast_coalescing_group *groups;
    mcast_word groups_on;
    mcast_coalescing_event events[MCAST_COALESCING_EVENTS];
    unsigned events_first, events_count;
} mcast_coalescing;

/* What one receive call brought. */
typedef struct mcast_coalescing_read {
    unsigned slots;
    uint64_t bytes; /* in them */
    uint64_t packets;
    uint64_t coalesced;      /* of them */
    int is_full;             /* there may be more */
    int64_t time;            /* of the last packet; 0: none, or it has none */
    uint32_t reported_drops; /* the kernel's drop counter, as last reported with a packet */
} mcast_coalescing_read;

/* Adds a socket: 0, or -errno. */
int mcast_coalescing_add(mcast_coalescing *coalescing, mcast_coalescing_socket *socket, uint16_t port);
void mcast_coalescing_remove(mcast_coalescing *coalescing, mcast_coalescing_socket *socket);

/* The decider of a socket that will be removed is that of another one, which is bound alike, from now on. */
void mcast_coalescing_hand_over(mcast_coalescing_socket *socket, mcast_coalescing_socket *heir);

/* After each receive call: looks at the socket's backlog now and then, and switches. `grow` makes the slots large enough for super-packets, 0
 * or -errno. */
void mcast_coalescing_note(mcast_coalescing *coalescing, mcast_coalescing_socket *socket,
                           const mcast_coalescing_read *read, int (*grow)(void *context), void *context);

/* For how many ns packets of a dense stream may pile up before they are read, so that one batch has several super-packets: 0 for any other
 * stream, and after it was asked until the next read. */
int64_t mcast_coalescing_take_nap(mcast_coalescing_socket *socket);

/* Reads the drops of a socket so far; what is not known is not counted. */
void mcast_coalescing_count_drops(mcast_coalescing_socket *socket);

/* Whether packets may come coalesced, at some socket. Needs no lock. */
static inline int
mcast_coalescing_is_on(const mcast_coalescing *coalescing)
{
    return mcast_word_load(&coalescing->groups_on) != 0;
}

/* Takes the oldest event; 0 when there is none. */
int mcast_coalescing_take_event(mcast_coalescing *coalescing, mcast_coalescing_event *event);

#endif
