/* One flow of all legs together: what arbiter_feed.c does for the arbiter. */
#ifndef MCAST_ARBITER_FEED_H
#define MCAST_ARBITER_FEED_H

#include "arbiter_run.h"
#include "flow.h"

/* A packet of this flow came; 0, or -1 without memory: it may be tried again. */
int mcast_feed_take(mcast_arbiter *arbiter, mcast_feed *feed, const mcast_arrival *packet,
                    const mcast_numbered *numbered);

/* Everything is delivered and charged; what comes next goes on from there. */
void mcast_feed_settle(mcast_arbiter *arbiter, mcast_feed *feed);

void mcast_feed_free(mcast_arbiter *arbiter, mcast_feed *feed);

#endif
