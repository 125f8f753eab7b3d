/* Streams as they are seen now: flows of a summary, each on its interface, with the times of their arrivals. One lock, which the caller holds. */
#ifndef MCAST_MONITOR_H
#define MCAST_MONITOR_H

#include "summary.h"

typedef struct mcast_stream {
    mcast_counted counted;
    int64_t begun, seen, resumed;
    uint64_t silences;
    uint64_t packets, bytes; /* of the last second */
    uint64_t gap_sum;
    uint64_t gaps[MCAST_GAP_BUCKETS];
} mcast_stream;

/* `now`: ns of a clock that does not go back, 0 or more. */
void mcast_monitor_add(mcast_summary *summary, const mcast_record *records, size_t count, int64_t now, int64_t silence);

/* The streams as they are at `now`, behind them the others where there are any, up to `room`: how many there are. */
size_t mcast_monitor_streams(mcast_summary *summary, int64_t now, mcast_stream *streams, size_t room);

/* Packets and bytes of each of the last whole seconds of one stream, the latest last; 0 where there is no such stream. `wanted`: its name. */
int mcast_monitor_history(const mcast_summary *summary, const mcast_record *wanted, int64_t now,
                          uint64_t packets[MCAST_HISTORY], uint64_t bytes[MCAST_HISTORY]);

#endif
