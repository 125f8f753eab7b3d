#include "monitor.h"

void
mcast_monitor_add(mcast_summary *summary, const mcast_record *records, size_t count, int64_t now, int64_t silence)
{
    for (size_t i = 0; i < count; i++) {
        const mcast_record *record = &records[i];
        mcast_counted *flow = mcast_summary_flow(summary, record);
        mcast_arrivals *arrivals = mcast_summary_arrivals(summary, flow);
        if (flow->packets == 0)
            mcast_arrivals_begin(arrivals, now);
        if (flow->is_timed && record->timestamp >= flow->last)
            mcast_arrivals_gap(arrivals, (uint64_t)record->timestamp - (uint64_t)flow->last);
        mcast_counted_add(flow, record);
        mcast_arrivals_add(arrivals, now, silence, mcast_wire_size(record));
    }
}

static void
show(const mcast_counted *flow, const mcast_arrivals *arrivals, int64_t now, mcast_stream *stream)
{
    stream->counted = *flow;
    stream->begun = arrivals->begun;
    stream->seen = arrivals->seen;
    stream->resumed = arrivals->resumed;
    stream->silences = arrivals->silences;
    stream->gap_sum = arrivals->gap_sum;
    mcast_arrivals_second(arrivals, now / MCAST_TICK_NS - 1, &stream->packets, &stream->bytes);
    memcpy(stream->gaps, arrivals->gaps, sizeof stream->gaps);
}

size_t
mcast_monitor_streams(mcast_summary *summary, int64_t now, mcast_stream *streams, size_t room)
{
    mcast_summary_fit(summary);
    size_t count = summary->count + (summary->others.packets > 0);
    for (size_t i = 0; i < summary->count && i < room; i++)
        show(&summary->flows[i], &summary->arrivals[i], now, &streams[i]);
    if (count > summary->count && summary->count < room)
        show(&summary->others, &summary->other_arrivals, now, &streams[summary->count]);
    return count;
}

int
mcast_monitor_history(const mcast_summary *summary, const mcast_record *wanted, int64_t now,
                      uint64_t packets[MCAST_HISTORY], uint64_t bytes[MCAST_HISTORY])
{
    const mcast_counted *flow = mcast_summary_known(summary, wanted);
    if (!flow)
        return 0;
    const mcast_arrivals *arrivals = &summary->arrivals[flow - summary->flows];
    int64_t last = now / MCAST_TICK_NS - 1;
    for (int64_t i = 0; i < MCAST_HISTORY; i++)
        mcast_arrivals_second(arrivals, last - MCAST_TICKS_PER_SECOND * (MCAST_HISTORY - 1 - i), &packets[i],
                              &bytes[i]);
    return 1;
}
