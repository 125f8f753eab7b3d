#include "flow.h"
#include <stdlib.h>

static int
is_before(uint64_t position, uint64_t other)
{
    return (int64_t)(position - other) < 0;
}

static uint64_t
larger(uint64_t left, uint64_t right)
{
    return left > right ? left : right;
}

void
mcast_change_add(const mcast_sight *sight, const mcast_tracked *flow, uint32_t kind, uint64_t first, uint64_t end)
{
    mcast_changes *changes = sight->changes;
    if (!changes || changes->left_out >> kind & 1)
        return;
    if (changes->count == changes->capacity) {
        size_t capacity = changes->capacity ? 2 * changes->capacity : 16;
        mcast_change *memory = realloc(changes->memory, capacity * sizeof *memory);
        if (!memory) {
            changes->failed = 1;
            return;
        }
        changes->memory = memory;
        changes->capacity = capacity;
    }
    const uint64_t mask = sight->format->mask;
    changes->memory[changes->count++] = (mcast_change){
        .key = flow->key, .first = first & mask, .last = (end - 1) & mask, .time = sight->time, .kind = kind};
}

/* ---- gaps ---- */

static mcast_gap *
gap_at(const mcast_gaps *gaps, uint32_t at)
{
    return &gaps->memory[gaps->head + at];
}

/* One is lost: the oldest that is pending. */
static void
charge(mcast_tracked *flow, const mcast_sight *sight)
{
    const mcast_gap *gap = gap_at(&flow->gaps, flow->gaps.charged++);
    uint64_t size = gap->end - gap->first;
    flow->pending -= size;
    flow->lost += size;
    flow->burst = larger(flow->burst, size);
    mcast_change_add(sight, flow, MCAST_LOST, gap->first, gap->end);
}

static void
charge_what_is_over(mcast_tracked *flow, const mcast_sight *sight)
{
    while (flow->gaps.charged < flow->gaps.count &&
           flow->clock - gap_at(&flow->gaps, flow->gaps.charged)->since >= sight->window)
        charge(flow, sight);
}

static void
forget_oldest(mcast_tracked *flow, const mcast_sight *sight)
{
    if (flow->gaps.charged == 0)
        charge(flow, sight);
    flow->gaps.head++;
    flow->gaps.count--;
    flow->gaps.charged--;
}

/* A place for one gap more, behind the last; -1 without memory. */
static int
reserve_gap(mcast_gaps *gaps)
{
    if (gaps->head + gaps->count < gaps->capacity)
        return 0;
    if (gaps->head > gaps->capacity / 2) {
        memmove(gaps->memory, gaps->memory + gaps->head, gaps->count * sizeof *gaps->memory);
        gaps->head = 0;
        return 0;
    }
    uint32_t capacity = gaps->capacity ? 2 * gaps->capacity : 8;
    mcast_gap *memory = realloc(gaps->memory, capacity * sizeof *memory);
    if (!memory)
        return -1;
    gaps->memory = memory;
    gaps->capacity = capacity;
    return 0;
}

/* Numbers that are missing, at a place in the order of gaps: 0, or -1 without memory. */
static int
insert_gap(mcast_tracked *flow, uint32_t at, uint64_t first, uint64_t end, int64_t since)
{
    mcast_gaps *gaps = &flow->gaps;
    if (reserve_gap(gaps) != 0)
        return -1;
    memmove(gap_at(gaps, at + 1), gap_at(gaps, at), (gaps->count - at) * sizeof *gaps->memory);
    *gap_at(gaps, at) = (mcast_gap){first, end, since};
    gaps->count++;
    return 0;
}

static void
remove_gap(mcast_gaps *gaps, uint32_t at)
{
    memmove(gap_at(gaps, at), gap_at(gaps, at + 1), (gaps->count - at - 1) * sizeof *gaps->memory);
    gaps->count--;
    if (at < gaps->charged)
        gaps->charged--;
}

/* Numbers are missing from now on; without memory to remember them they are lost at once. */
static void
open_gap(mcast_tracked *flow, const mcast_sight *sight, uint32_t at, uint64_t first, uint64_t end, int64_t since)
{
    mcast_change_add(sight, flow, MCAST_GAP, first, end);
    if (insert_gap(flow, at, first, end, since) == 0) {
        flow->pending += end - first;
        return;
    }
    flow->lost += end - first;
    flow->burst = larger(flow->burst, end - first);
}

static void
add_gap(mcast_tracked *flow, const mcast_sight *sight, uint64_t first, uint64_t end)
{
    if (flow->gaps.count == MCAST_MOST_GAPS)
        forget_oldest(flow, sight);
    open_gap(flow, sight, flow->gaps.count, first, end, flow->clock);
}

/* The first gap that ends behind a position. */
static uint32_t
find_gap(const mcast_gaps *gaps, uint64_t position)
{
    uint32_t low = 0, high = gaps->count;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (is_before(position, gap_at(gaps, middle)->end))
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* Takes the part [first, end) out of the gap it lies in; whether the gap is gone. Without memory to split it, its end is given up. */
static int
shrink_gap(mcast_tracked *flow, uint32_t at, uint64_t first, uint64_t end)
{
    mcast_gap gap = *gap_at(&flow->gaps, at);
    if (gap.first == first && gap.end == end) {
        remove_gap(&flow->gaps, at);
        return 1;
    }
    if (gap.first == first)
        gap_at(&flow->gaps, at)->first = end;
    else
        gap_at(&flow->gaps, at)->end = first;
    if (gap.first == first || gap.end == end)
        return 0;
    int is_charged = at < flow->gaps.charged;
    if (insert_gap(flow, at + 1, end, gap.end, gap.since) == 0) {
        flow->gaps.charged += (uint32_t)is_charged;
    } else if (!is_charged) {
        flow->pending -= gap.end - end;
        flow->lost += gap.end - end;
    }
    return 0;
}

typedef struct filled {
    uint64_t pending, lost; /* numbers that were so, and came now */
} filled;

/* Numbers [first, end) came, of which some may be missing. */
static filled
fill_gaps(mcast_tracked *flow, const mcast_sight *sight, uint64_t first, uint64_t end)
{
    filled found = {0, 0};
    if (flow->gaps.count == MCAST_MOST_GAPS) /* one of them may become two */
        forget_oldest(flow, sight);
    uint32_t at = find_gap(&flow->gaps, first);
    while (at < flow->gaps.count && is_before(gap_at(&flow->gaps, at)->first, end)) {
        const mcast_gap *gap = gap_at(&flow->gaps, at);
        uint64_t from = is_before(gap->first, first) ? first : gap->first;
        uint64_t to = is_before(end, gap->end) ? end : gap->end;
        int is_charged = at < flow->gaps.charged;
        *(is_charged ? &found.lost : &found.pending) += to - from;
        *(is_charged ? &flow->lost : &flow->pending) -= to - from;
        mcast_change_add(sight, flow, is_charged ? MCAST_LATE : MCAST_REORDERED, from, to);
        if (!shrink_gap(flow, at, from, to))
            at++;
    }
    return found;
}

/* ---- runs: from the first number to a restart ---- */

static void
begin_run(mcast_tracked *flow, uint64_t number)
{
    flow->first = flow->next = flow->mark = flow->low = number;
    flow->run_clock = flow->mark_clock = flow->low_clock = flow->gained = flow->clock;
    flow->known = 1;
}

static void
end_run(mcast_tracked *flow, const mcast_sight *sight)
{
    while (flow->gaps.charged < flow->gaps.count)
        charge(flow, sight);
    flow->gaps.head = flow->gaps.count = flow->gaps.charged = 0;
    flow->earlier += flow->next - flow->first;
}

/* Undoes how the candidate was counted: numbers that it seemed to bring are lost, for the run that missed them is over. */
static void
take_candidate_back(mcast_tracked *flow)
{
    mcast_candidate *candidate = &flow->candidate;
    if (candidate->strays) {
        uint64_t again = (uint64_t)(candidate->strays - 1) * candidate->count;
        flow->strays -= candidate->strays;
        flow->received += again;
        flow->duplicates += again;
    } else {
        flow->received -= candidate->count;
        flow->duplicates -= candidate->duplicates;
        flow->late -= candidate->late;
        flow->reordered -= candidate->early;
        flow->lost += candidate->late + candidate->early;
    }
}

/* The sender began anew: the candidate was its first packet that came. */
static void
restart(mcast_tracked *flow, const mcast_sight *sight)
{
    mcast_candidate first = flow->candidate;
    take_candidate_back(flow);
    end_run(flow, sight);
    flow->candidate.count = flow->candidate.strays = 0;
    flow->restarts++;
    flow->ambiguous++;
    flow->restarted_at = flow->clock;
    begin_run(flow, first.number);
    flow->next += first.count;
    flow->received += first.count;
    mcast_change_add(sight, flow, MCAST_RESTARTED, first.number, first.number + 1);
}

/* How far a number is ahead of another one, less than half the range; negative: behind. */
static int64_t
ahead_of(const mcast_format *format, uint64_t number, uint64_t other)
{
    unsigned unused = 64u - format->bits;
    return (int64_t)((number - other) << unused) >> unused;
}

/* Whether the number is another one so close to the candidate's that both are of a new run. */
static int
confirms_candidate(const mcast_tracked *flow, const mcast_format *format, uint64_t number, uint32_t count)
{
    const mcast_candidate *candidate = &flow->candidate;
    if (candidate->count == 0)
        return 0;
    int64_t ahead = ahead_of(format, number, candidate->number);
    uint64_t distance = ahead < 0 ? 0 - (uint64_t)ahead : (uint64_t)ahead;
    return distance != 0 && distance < (uint64_t)MCAST_NEAR * count + candidate->count;
}

/* A number that neither follows what came nor is one of it: it is counted, and may be the first of a new run. */
static void
stray(mcast_tracked *flow, uint64_t number, uint32_t count)
{
    flow->strays++;
    if (flow->candidate.strays > 0 && flow->candidate.number == number && flow->candidate.count == count)
        flow->candidate.strays++;
    else
        flow->candidate = (mcast_candidate){.number = number, .count = count, .strays = 1};
}

/* ---- numbers ---- */

/* Whether a sender may have come so far since the last packet. */
static int
is_plausible(int64_t ahead, uint32_t count, int64_t step, int64_t window)
{
    if (ahead <= MCAST_NEAR)
        return 1;
    uint64_t packets = MCAST_NEAR + ((uint64_t)step + (uint64_t)window) / MCAST_FASTEST_NS;
    return packets > (uint64_t)INT64_MAX / count || (uint64_t)ahead <= packets * count;
}

/* All before `position` was sent. */
static void
advance(mcast_tracked *flow, const mcast_sight *sight, uint64_t position, int64_t step)
{
    if (flow->candidate.count)
        flow->candidate.count = flow->candidate.strays = 0;
    if (mcast_is_ambiguous(flow, sight->format, step))
        flow->ambiguous++;
    if (position != flow->next) {
        add_gap(flow, sight, flow->next, position);
        flow->next = position;
    }
    flow->gained = flow->clock;
}

/* The first packets came in another order: the run begins earlier than it seemed. */
static void
extend_backwards(mcast_tracked *flow, const mcast_sight *sight, uint64_t position)
{
    if (flow->gaps.count == MCAST_MOST_GAPS)
        forget_oldest(flow, sight);
    if (flow->gaps.charged > 0 || flow->clock - flow->run_clock >= sight->window)
        return;
    open_gap(flow, sight, 0, position, flow->first, flow->run_clock);
    flow->first = position;
    flow->low = is_before(position, flow->low) ? position : flow->low;
    flow->mark = is_before(position, flow->mark) ? position : flow->mark;
}

/* Numbers [first, end), which were passed before. */
static void
come_behind(mcast_tracked *flow, const mcast_sight *sight, uint64_t first, uint64_t end, int is_old)
{
    filled found = fill_gaps(flow, sight, first, end);
    uint64_t duplicates = end - first - found.pending - found.lost;
    flow->received += end - first;
    flow->duplicates += duplicates;
    flow->reordered += found.pending;
    flow->late += found.lost;
    if (found.pending > 0)
        flow->depth = larger(flow->depth, flow->next - 1 - first);
    if (duplicates > 0)
        mcast_change_add(sight, flow, MCAST_DUPLICATE, first, end);
    if (found.pending > 0)
        flow->gained = flow->clock;
    int again = flow->candidate.count > 0 && ahead_of(sight->format, first, flow->candidate.number) == 0;
    if (is_old && !again)
        flow->candidate = (mcast_candidate){.number = first,
                                            .late = found.lost,
                                            .early = found.pending,
                                            .duplicates = duplicates,
                                            .count = (uint32_t)(end - first)};
}

static void see_number(mcast_tracked *flow, const mcast_sight *sight, uint64_t number, uint32_t count, int64_t step);

/* A number below the one expected. */
static void
see_behind(mcast_tracked *flow, const mcast_sight *sight, uint64_t number, uint32_t count, uint64_t position)
{
    uint64_t end = is_before(flow->next, position + count) ? flow->next : position + count;
    if (is_before(position, flow->first) && flow->first - position <= (uint64_t)MCAST_NEAR * count)
        extend_backwards(flow, sight, position);
    int is_foreign = is_before(position, flow->first);
    int is_old = is_before(position, flow->low) || flow->clock - flow->gained > sight->window;
    if ((is_foreign || is_old) && confirms_candidate(flow, sight->format, number, count)) {
        restart(flow, sight);
        see_number(flow, sight, number, count, 0);
        return;
    }
    if (is_foreign) {
        stray(flow, number, count);
        return;
    }
    come_behind(flow, sight, position, end, is_old && end == position + count);
    if (end != position + count) { /* its other part is new */
        flow->received += position + count - end;
        flow->next = position + count;
        flow->gained = flow->clock;
    }
}

static void
see_number(mcast_tracked *flow, const mcast_sight *sight, uint64_t number, uint32_t count, int64_t step)
{
    int64_t ahead = ahead_of(sight->format, number, flow->next);
    if (ahead < 0) {
        see_behind(flow, sight, number, count, flow->next + (uint64_t)ahead);
        return;
    }
    if (!is_plausible(ahead, count, step, sight->window)) {
        if (!confirms_candidate(flow, sight->format, number, count)) {
            stray(flow, number, count);
            return;
        }
        restart(flow, sight);
        see_number(flow, sight, number, count, 0);
        return;
    }
    advance(flow, sight, flow->next + (uint64_t)ahead, step);
    flow->received += count;
    flow->next += count;
}

/* A heartbeat, or the end: it has no number of its own, and shows what was sent before. */
static void
see_next(mcast_tracked *flow, const mcast_sight *sight, uint64_t number, int64_t step)
{
    int64_t ahead = ahead_of(sight->format, number, flow->next);
    if (ahead > 0 && is_plausible(ahead, 1, step, sight->window))
        advance(flow, sight, flow->next + (uint64_t)ahead, step);
}

/* The steps forwards of the times of arrival; how far this one went. */
static int64_t
pass_time(mcast_tracked *flow, int64_t time)
{
    if (time == 0)
        return 0;
    uint64_t step = flow->last_time == 0 || time <= flow->last_time ? 0 : (uint64_t)time - (uint64_t)flow->last_time;
    if (step > (uint64_t)(MCAST_LATEST_CLOCK - flow->clock))
        step = (uint64_t)(MCAST_LATEST_CLOCK - flow->clock);
    flow->first_time = flow->first_time == 0 ? time : flow->first_time;
    flow->last_time = time;
    flow->clock += (int64_t)step;
    return (int64_t)step;
}

/* Until when a packet that follows changes nothing but what `mcast_flow_follow` counts. */
static int64_t
due_of(const mcast_tracked *flow, int64_t window)
{
    if (flow->ended || flow->candidate.count || flow->last_time == 0)
        return INT64_MIN;
    int64_t due = flow->mark_clock < MCAST_LATEST_CLOCK - window ? flow->mark_clock + window : MCAST_LATEST_CLOCK;
    if (flow->gaps.charged == flow->gaps.count)
        return due;
    int64_t since = gap_at(&flow->gaps, flow->gaps.charged)->since;
    return since + window < due ? since + window : due;
}

void
mcast_flow_see(mcast_tracked *flow, const mcast_numbered *packet, const mcast_sight *sight)
{
    int64_t step = pass_time(flow, sight->time);
    flow->packets++;
    if (!flow->known) {
        begin_run(flow, packet->number);
        mcast_change_add(sight, flow, MCAST_STARTED, packet->number, packet->number + 1);
    }
    charge_what_is_over(flow, sight);
    if (packet->kind == MCAST_DATA) {
        see_number(flow, sight, packet->number, packet->count, step);
        flow->ended = 0;
    } else if (!flow->ended) {
        see_next(flow, sight, packet->number, step);
        flow->ended = packet->kind == MCAST_END;
        if (flow->ended)
            mcast_change_add(sight, flow, MCAST_ENDED, flow->next, flow->next + 1);
    }
    if (flow->clock - flow->mark_clock >= sight->window) {
        flow->low = flow->mark;
        flow->low_clock = flow->mark_clock;
        flow->mark = flow->next;
        flow->mark_clock = flow->clock;
    }
    flow->due = due_of(flow, sight->window);
}

void
mcast_flow_view(mcast_tracked *copy, int64_t clock, int64_t window)
{
    const mcast_sight sight = {.window = window};
    copy->silent = clock - copy->clock;
    copy->clock = clock;
    charge_what_is_over(copy, &sight);
}

void
mcast_flow_free(mcast_tracked *flow)
{
    free(flow->gaps.memory);
}
