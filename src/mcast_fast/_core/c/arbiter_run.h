/* The numbers of one run: what arbiter_run.c does for the arbiter. */
#ifndef MCAST_ARBITER_RUN_H
#define MCAST_ARBITER_RUN_H

#include "arbiter.h"

static const int64_t MCAST_SILENT = -1; /* no moment */

static inline int
mcast_is_before(uint64_t position, uint64_t other)
{
    return (int64_t)(position - other) < 0;
}

static inline mcast_slot *
mcast_slot_at(const mcast_feed_run *run, uint64_t position)
{
    return &run->slots[position & run->mask];
}

/* How many numbers a slot is of. */
static inline uint64_t
mcast_slot_size(const mcast_slot *slot)
{
    return slot->leg == MCAST_SPAN ? slot->kept : 1;
}

/* ---- arbiter_span.c ---- */

/* Numbers of which none came get this slot: one for all, so that a jump costs no more than a step; few have one each, so that the spans are
 * few. */
void mcast_span_put(mcast_feed_run *run, uint64_t first, uint64_t end, const mcast_slot *like);

/* No span has this number and the one before it any more. */
void mcast_span_cut(mcast_feed_run *run, uint64_t position);

/* Whether the number has no slot of its own. */
int mcast_span_has(const mcast_feed_run *run, uint64_t position);

/* Spans that begin before this number are forgotten. */
void mcast_span_forget(mcast_feed_run *run, uint64_t tail);

/* ---- arbiter_run.c ---- */

/* A packet, or what waits of it: its record and payload, and the leg that brought it. */
typedef struct mcast_arrival {
    const mcast_record *record;
    const unsigned char *payload;
    uint32_t leg;
} mcast_arrival;

/* 0, or -1 without memory, with everything as it was. */
int mcast_run_begin(mcast_arbiter *arbiter, mcast_feed *feed, uint64_t number);

/* Numbers up to `end` were sent; 0, or -1 without memory. */
int mcast_run_advance(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, uint32_t leg, uint64_t end);

/* The run begins at an earlier number; 0, or -1 without memory, and where it may not. */
int mcast_run_extend(mcast_arbiter *arbiter, mcast_feed_run *run, uint64_t position);

/* A packet brought the numbers [position, end), which are below `next`. */
void mcast_run_admit(mcast_arbiter *arbiter, mcast_feed_run *run, const mcast_arrival *packet, uint64_t position,
                     uint64_t end);

/* A packet brought one number, which is the run's next one; 1, 0 where it has to go the long way (mcast_run_advance, mcast_run_admit), -1
 * without memory. */
int mcast_run_follow(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, const mcast_arrival *packet);

/* The leg brought a number for the first time that others had brought before, and that is not charged. */
void mcast_run_repeat(mcast_arbiter *arbiter, mcast_feed_run *run, uint32_t leg, uint64_t position);

/* Whether something is due by the clock. */
static inline int
mcast_run_is_due(const mcast_arbiter *arbiter, const mcast_feed_run *run)
{
    return (run->starting && arbiter->clock - run->start >= arbiter->hold) ||
           (run->floor != run->next && arbiter->clock - mcast_slot_at(run, run->floor)->time >= arbiter->hold) ||
           (run->tail != run->floor && arbiter->clock - mcast_slot_at(run, run->tail)->time >= arbiter->remembered);
}

/* What is due by the clock. */
void mcast_feed_pass(mcast_arbiter *arbiter, mcast_feed *feed);

/* Everything of the run is delivered and charged. */
void mcast_run_settle(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, uint64_t end);

void mcast_run_end(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run);

/* Space for a packet, wherever it goes; 0, or -1 without memory. */
int mcast_arrival_reserve(mcast_arbiter *arbiter, size_t length);

/* Space for a packet that waits; 0, or -1 without memory. */
int mcast_kept_reserve(mcast_arbiter *arbiter, size_t length);
uint32_t mcast_kept_add(mcast_arbiter *arbiter, const mcast_arrival *packet);
void mcast_kept_remove(mcast_arbiter *arbiter, uint32_t at);

/* A record as it is delivered: interfaces have the numbers of the arbiter. */
void mcast_record_rename(const mcast_arbiter *arbiter, uint32_t leg, mcast_record *record);

#endif
