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

/* A packet of this flow came. */
void mcast_flow_see(mcast_tracked *flow, const mcast_numbered *packet, const mcast_sight *sight);

/* Of a copy of the flow: the window passes until `clock`. The gaps, which it shares with the flow, stay as they are. */
void mcast_flow_view(mcast_tracked *copy, int64_t clock, int64_t window);

void mcast_flow_free(mcast_tracked *flow);

/* Adds a change; numbers are masked to the width of the format. */
void mcast_change_add(const mcast_sight *sight, const mcast_tracked *flow, uint32_t kind, uint64_t first, uint64_t end);

#endif
