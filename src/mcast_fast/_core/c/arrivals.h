/* When the packets of a flow came: gaps between them, packets in each quarter of a second, and silences. monitor.h counts by it.
 *
 * Two clocks: gaps are those of the times of arrival in the records; silences and rates go by the time at which a batch was counted, which no
 * clock of a network card shifts, and no setting of the system's clock. */
#ifndef MCAST_ARRIVALS_H
#define MCAST_ARRIVALS_H

#include <stdint.h>
#include <string.h>

enum {
    MCAST_GAP_BUCKETS =
        40,            /* by the number of bits of a gap in ns; the last one has all from 2^38 ns on, 4.6 minutes */
    MCAST_TICKS = 128, /* that are remembered */
    MCAST_TICKS_PER_SECOND = 4,
    MCAST_HISTORY = 30, /* whole seconds of which the ticks are surely remembered */
    MCAST_TICK_NS = 1000000000 / MCAST_TICKS_PER_SECOND
};

typedef struct mcast_arrivals {
    int64_t begun; /* ns by the clock of counting */
    int64_t seen;
    int64_t resumed; /* after the latest silence */
    uint64_t silences;
    int64_t tick;     /* the latest that is remembered */
    uint64_t gap_sum; /* ns, of all gaps together */
    uint64_t gaps[MCAST_GAP_BUCKETS];
    uint32_t packets[MCAST_TICKS];
    uint32_t bytes[MCAST_TICKS]; /* a quarter of a second at 100 Gbit/s has 3.1 GB */
} mcast_arrivals;

static inline unsigned
mcast_gap_bucket(uint64_t gap)
{
    unsigned bits = 0;
    while (bits < MCAST_GAP_BUCKETS - 1 && gap >> bits)
        bits++;
    return bits;
}

static inline void
mcast_arrivals_gap(mcast_arrivals *arrivals, uint64_t gap)
{
    arrivals->gaps[mcast_gap_bucket(gap)]++;
    arrivals->gap_sum += gap;
}

/* Remembers ticks up to this one: those that none came in are zero. */
static inline void
mcast_arrivals_turn(mcast_arrivals *arrivals, int64_t tick)
{
    int64_t skipped = tick - arrivals->tick;
    if (skipped <= 0)
        return;
    for (int64_t i = 0; i < (skipped < MCAST_TICKS ? skipped : MCAST_TICKS); i++) {
        size_t at = (size_t)((tick - i) % MCAST_TICKS);
        arrivals->packets[at] = arrivals->bytes[at] = 0;
    }
    arrivals->tick = tick;
}

static inline void
mcast_arrivals_begin(mcast_arrivals *arrivals, int64_t now)
{
    memset(arrivals, 0, sizeof *arrivals);
    arrivals->begun = arrivals->seen = now;
    arrivals->tick = now / MCAST_TICK_NS;
}

/* A packet of `size` bytes was counted at `now`, which is no less than 0; one that comes after `silence` ends one. */
static inline void
mcast_arrivals_add(mcast_arrivals *arrivals, int64_t now, int64_t silence, uint16_t size)
{
    if (now - arrivals->seen >= silence) {
        arrivals->silences++;
        arrivals->resumed = now;
    }
    if (now > arrivals->seen)
        arrivals->seen = now;
    if (now >= (arrivals->tick + 1) * MCAST_TICK_NS)
        mcast_arrivals_turn(arrivals, now / MCAST_TICK_NS);
    uint32_t *bytes = &arrivals->bytes[arrivals->tick % MCAST_TICKS];
    arrivals->packets[arrivals->tick % MCAST_TICKS]++;
    *bytes = *bytes > UINT32_MAX - size ? UINT32_MAX : *bytes + size;
}

/* Packets and bytes of a second, whose last tick is this one. */
static inline void
mcast_arrivals_second(const mcast_arrivals *arrivals, int64_t last, uint64_t *packets, uint64_t *bytes)
{
    *packets = *bytes = 0;
    for (int64_t tick = last; tick > last - MCAST_TICKS_PER_SECOND; tick--) {
        if (tick < 0 || tick > arrivals->tick || tick <= arrivals->tick - MCAST_TICKS)
            continue;
        *packets += arrivals->packets[tick % MCAST_TICKS];
        *bytes += arrivals->bytes[tick % MCAST_TICKS];
    }
}

#endif
