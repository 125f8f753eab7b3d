/* Many numbers in a row of which none came: they have one slot, at the first of them. */
#include "arbiter_run.h"

enum { FEWEST = 8 };

/* How many spans begin before a number. */
static uint32_t
count_before(const mcast_feed_run *run, uint64_t position)
{
    uint32_t low = 0, high = run->span_count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (mcast_is_before(run->spans[middle], position))
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static int
insert(mcast_feed_run *run, uint64_t first)
{
    if (run->span_count == run->span_capacity) {
        uint32_t capacity = run->span_capacity ? 2 * run->span_capacity : FEWEST;
        uint64_t *spans = realloc(run->spans, capacity * sizeof *spans);
        if (!spans)
            return -1;
        run->spans = spans;
        run->span_capacity = capacity;
    }
    uint32_t at = count_before(run, first);
    memmove(run->spans + at + 1, run->spans + at, (run->span_count - at) * sizeof *run->spans);
    run->spans[at] = first;
    run->span_count++;
    return 0;
}

static void
drop(mcast_feed_run *run, uint32_t at, uint32_t count)
{
    run->span_count -= count;
    memmove(run->spans + at, run->spans + at + count, (run->span_count - at) * sizeof *run->spans);
}

void
mcast_span_put(mcast_feed_run *run, uint64_t first, uint64_t end, const mcast_slot *like)
{
    mcast_slot slot = {.time = like->time, .absent = like->absent, .skipped = like->skipped};
    if (end - first >= MCAST_LEAST_SPAN && insert(run, first) == 0) {
        slot.leg = MCAST_SPAN;
        slot.kept = (uint32_t)(end - first);
        *mcast_slot_at(run, first) = slot;
        return;
    }
    for (; first != end; first++) /* also without memory for another span */
        *mcast_slot_at(run, first) = slot;
}

void
mcast_span_cut(mcast_feed_run *run, uint64_t position)
{
    uint32_t before = count_before(run, position);
    if (before == 0)
        return;
    uint64_t first = run->spans[before - 1];
    const mcast_slot slot = *mcast_slot_at(run, first);
    uint64_t end = first + slot.kept;
    if (!mcast_is_before(position, end))
        return;
    drop(run, before - 1, 1);
    mcast_span_put(run, first, position, &slot);
    mcast_span_put(run, position, end, &slot);
}

int
mcast_span_has(const mcast_feed_run *run, uint64_t position)
{
    uint32_t before = count_before(run, position + 1);
    if (before == 0)
        return 0;
    uint64_t first = run->spans[before - 1];
    return mcast_is_before(position, first + mcast_slot_at(run, first)->kept);
}

void
mcast_span_forget(mcast_feed_run *run, uint64_t tail)
{
    drop(run, 0, count_before(run, tail));
}
