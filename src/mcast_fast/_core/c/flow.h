/* The numbers of one flow: what flow.c does for the tracker. */
#ifndef MCAST_FLOW_H
#define MCAST_FLOW_H

#include "tracker.h"

/* A packet, or what it reports to: where its changes go (NULL: nowhere), and what its format is. */
typedef struct mcast_sight {
    const mcast_format *format;
    mcast_changes *changes;
    int64_t window;
    int64_t time; /* of arrival */
} mcast_sight;

enum {
    MCAST_NOTABLE_SILENCE = 1 << 17, /* ns */
    MCAST_FASTEST_NS = 5, /* per packet, 200 million per second: what is farther ahead than that was not sent since */
};
static const int64_t MCAST_LATEST_CLOCK = INT64_MAX / 4; /* ns */

/* Whether the silence was so long that, at the rate before it, the number may have come half around: it no longer shows how much is missing. */
static inline int
mcast_is_ambiguous(const mcast_tracked *flow, const mcast_format *format, int64_t step)
{
    if (step < MCAST_NOTABLE_SILENCE)
        return 0;
    const int64_t spent = flow->clock - step - flow->low_clock;
    const uint64_t sent = flow->next - flow->low;
    if (step <= spent && sent < format->half / 2) /* nearly all: without products */
        return 0;
    return spent > 0 && format->bits < 64 && (double)step * (double)sent >= (double)format->half * (double)spent;
}

/* A packet came that may be just the next one, within what nothing else happens in: whether it was, and is counted. */
static inline int
mcast_flow_follow(mcast_tracked *flow, const mcast_numbered *packet, const mcast_format *format, int64_t time)
{
    const uint64_t forward = (uint64_t)time - (uint64_t)flow->last_time;
    if (((packet->number ^ flow->next) & format->mask) != 0 || packet->kind != MCAST_DATA || time == 0 ||
        forward > (uint64_t)INT64_MAX / 2 || flow->clock + (int64_t)forward >= flow->due)
        return 0;
    const int64_t step = (int64_t)forward;
    flow->clock += step;
    if (mcast_is_ambiguous(flow, format, step))
        flow->ambiguous++;
    flow->gained = flow->clock;
    flow->last_time = time;
    flow->packets++;
    flow->received += packet->count;
    flow->next += packet->count;
    return 1;
}

/* A packet of this flow came. */
void mcast_flow_see(mcast_tracked *flow, const mcast_numbered *packet, const mcast_sight *sight);

/* Of a copy of the flow: the window passes until `clock`. The gaps, which it shares with the flow, stay as they are. */
void mcast_flow_view(mcast_tracked *copy, int64_t clock, int64_t window);

void mcast_flow_free(mcast_tracked *flow);

/* Adds a change; numbers are masked to the width of the format. */
void mcast_change_add(const mcast_sight *sight, const mcast_tracked *flow, uint32_t kind, uint64_t first, uint64_t end);

#endif
