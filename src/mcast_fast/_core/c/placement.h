/* Payloads copied into rows by their numbers. Nothing is written outside of a frame's rows, whatever the packets hold. */
#ifndef MCAST_PLACEMENT_H
#define MCAST_PLACEMENT_H

#include "tracker.h"

enum { MCAST_FROM_START, MCAST_BEHIND_RTP, MCAST_BEHIND_SPEAD, MCAST_BEHIND_VDIF }; /* where a body begins */

/* What of a payload is a row, what names its frame beside its number, and which packet is a frame's last. */
typedef struct mcast_placer {
    mcast_format format;
    mcast_field id, marker; /* of width 0: there is none */
    uint64_t marked;        /* what the marker is in the last packet */
    uint32_t body_offset;   /* bytes, counted from where `body` says */
    uint8_t body;
    uint8_t by_source_port;
} mcast_placer;

typedef struct mcast_frame {
    mcast_flow_key flow;
    uint64_t base; /* number of the first row */
    uint64_t id;
    uint8_t *rows;    /* `capacity` of them, of `size` bytes */
    uint8_t *present; /* of each row: whether it is there */
    size_t capacity, size;
    size_t count;   /* rows that are its own, up to `capacity` */
    size_t highest; /* the last row that is there, counted from 1 */
    uint64_t placed, duplicates, short_bodies, long_bodies;
    int64_t first_time, last_time; /* of arrival, of the packets that are there */
} mcast_frame;

/* What became of packets: each is one of these, and a short one is also one that was placed. */
typedef struct mcast_placement {
    uint64_t placed, duplicates, below, above, long_bodies, other, short_bodies;
} mcast_placement;

/* Places the packets whose number is in the frame, and whose key is that of its flow unless `any_key`. */
void mcast_place(const mcast_placer *placer, const mcast_record *records, size_t count, const uint8_t *arena,
                 mcast_frame *frame, int any_key, mcast_placement *result);

/* Why `mcast_fill` stopped; extraction.py has the names. */
enum { MCAST_STOP_NONE, MCAST_STOP_TIME, MCAST_STOP_OUTSIDE, MCAST_STOP_WHOLE, MCAST_STOP_MARKED };

typedef struct mcast_stop {
    size_t at;    /* the packet to go on with */
    size_t frame; /* WHOLE, MARKED: in which one */
    int reason;
    uint64_t number, id; /* OUTSIDE: of the packet, which was not taken in; MARKED: of the one that was */
    mcast_flow_key flow;
    uint64_t other; /* packets that have no number, or several */
} mcast_stop;

/* Places packets from `start` on into the frames that they belong to, until one arrives at `until` or later, belongs to none of them,
 * makes one whole, or is the last one of its frame. */
void mcast_fill(const mcast_placer *placer, const mcast_record *records, size_t start, size_t count,
                const uint8_t *arena, int64_t until, mcast_frame *const *frames, size_t frame_count, mcast_stop *stop);

/* The frame begins `rows` earlier: those that are there move up. They fit. */
void mcast_frame_begin_earlier(mcast_frame *frame, size_t rows);

/* Zeros where nothing is there. */
void mcast_frame_finish(mcast_frame *frame);

#endif
