/* What is done once per call of a paced sender; when each datagram is due is in pace.h, which is inlined. */
#include "pace.h"

void
mcast_pace_open(mcast_pace *pace, double ns_per_unit, int by_bits, uint64_t burst)
{
    /* Finite, for 0 * infinity is no number and the first datagram would never be due. */
    *pace =
        (mcast_pace){.ns_per_unit = ns_per_unit < 0x1p61 ? ns_per_unit : 0x1p61, .by_bits = by_bits, .burst = burst};
}

void
mcast_pace_begin(mcast_pace *pace, int64_t now)
{
    pace->past_units += pace->before_last;
    pace->past_ns += pace->start ? (double)(pace->last - pace->start) : 0;
    pace->start = pace->last = now;
    pace->units = pace->before_last = 0;
    pace->in_burst = 0;
}

void
mcast_pace_left(mcast_pace *pace, size_t datagrams, size_t bytes, int64_t now)
{
    pace->before_last = pace->units;
    pace->last = now;
    pace->units += pace->by_bits ? (double)bytes * 8 : (double)datagrams;
    pace->in_burst = (pace->in_burst + datagrams) % pace->burst;
}

double
mcast_pace_rate(const mcast_pace *pace)
{
    double units = pace->past_units + pace->before_last;
    double taken = pace->past_ns + (pace->start ? (double)(pace->last - pace->start) : 0);
    return taken > 0 ? units / taken * 1e9 : 0;
}
