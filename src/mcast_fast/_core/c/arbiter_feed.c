/* Which run a packet of a leg belongs to, and when a sender began anew. */
#include "arbiter_feed.h"

static inline uint64_t
distance(uint64_t left, uint64_t right)
{
    int64_t difference = (int64_t)(left - right);
    return difference < 0 ? 0 - (uint64_t)difference : (uint64_t)difference;
}

/* The position of a number that is the nearest one to another position: less than half the range away. */
static inline uint64_t
unwrap(const mcast_arbiter *arbiter, uint64_t number, uint64_t beside)
{
    uint32_t unused = 64 - arbiter->format.bits;
    return beside + (uint64_t)((int64_t)((number - beside) << unused) >> unused);
}

/* The run that a leg is in, or NULL. */
static inline mcast_feed_run *
run_of(mcast_feed *feed, const mcast_leg_flow *leg)
{
    if (!leg->generation)
        return NULL;
    for (int i = 0; i < 2; i++)
        if (feed->runs[i].generation == leg->generation)
            return &feed->runs[i];
    return NULL;
}

/* Whether a sender can have sent that number of packets in this time. */
static int
is_plausible(const mcast_arbiter *arbiter, uint64_t ahead, uint32_t count, int64_t step)
{
    uint64_t packets = MCAST_NEAR + (uint64_t)(step + arbiter->hold) / MCAST_FASTEST_NS;
    return packets > INT64_MAX / count || ahead <= packets * count;
}

/* Whether a number is among those that a run remembers, or near its end. */
static int
is_within(const mcast_arbiter *arbiter, const mcast_feed_run *run, uint64_t number, uint32_t count)
{
    uint64_t position = unwrap(arbiter, number, run->next);
    return !mcast_is_before(position, run->tail) &&
           !mcast_is_before(run->next + (uint64_t)MCAST_NEAR * count, position);
}

/* Whether the leg has brought this number, as far as it is remembered. */
static int
has_brought(const mcast_feed_run *run, uint32_t leg, uint64_t position)
{
    return !mcast_is_before(position, run->tail) && mcast_is_before(position, run->next) &&
           !(run->span_count && mcast_span_has(run, position)) && (mcast_slot_at(run, position)->legs >> leg & 1);
}

/* The position of a number in the run of its leg: beside the leg's last one, unless it was silent while others went on by so much that
 * only theirs can say. */
static uint64_t
position_in_own(const mcast_arbiter *arbiter, const mcast_feed_run *run, const mcast_leg_flow *leg, uint64_t number)
{
    uint64_t half = 1ull << (arbiter->format.bits - 1);
    int is_near = !mcast_is_before(leg->next, run->next - (half - 1)) || arbiter->format.bits == 64;
    return unwrap(arbiter, number, is_near || arbiter->clock - leg->clock <= arbiter->hold ? leg->next : run->next);
}

static void
join(mcast_feed *feed, mcast_feed_run *run, uint32_t leg, uint64_t position, int64_t clock)
{
    mcast_leg_flow *of = &feed->legs[leg];
    of->next = of->low = of->mark = position;
    of->mark_clock = of->gained = clock;
    of->behind = MCAST_SILENT;
    of->generation = run->generation;
    if (!(run->members >> leg & 1))
        run->first_of[leg] = position;
    run->members |= (uint8_t)(1u << leg);
}

/* ---- what belongs to nothing ---- */

static void
count_outside(mcast_arbiter *arbiter, uint32_t leg, uint64_t count)
{
    arbiter->legs[leg].ledger.received += count;
    arbiter->legs[leg].ledger.outside += count;
}

/* What waited as the first packet of a new run was none. */
static void
release(mcast_arbiter *arbiter, mcast_feed *feed, uint32_t leg)
{
    mcast_stash *stash = &feed->legs[leg].stash;
    if (stash->count && stash->repeats) {
        arbiter->legs[leg].ledger.received += stash->count;
        arbiter->legs[leg].ledger.duplicates += stash->count;
        arbiter->duplicates += stash->count;
    } else if (stash->count) {
        count_outside(arbiter, leg, stash->count);
    }
    stash->count = 0;
}

static int take_numbers(mcast_arbiter *arbiter, mcast_feed *feed, const mcast_arrival *packet,
                        const mcast_numbered *numbered);
static int restart(mcast_arbiter *arbiter, mcast_feed *feed, uint32_t leg, const mcast_numbered *second);

static int
stash_away(mcast_arbiter *arbiter, mcast_feed *feed, const mcast_arrival *packet, const mcast_numbered *numbered,
           int repeats)
{
    mcast_stash *stash = &feed->legs[packet->leg].stash;
    size_t length = packet->record->length;
    if (stash->capacity < length || !stash->payload) {
        unsigned char *payload = realloc(stash->payload, length ? length : 1);
        if (!payload)
            return -1;
        stash->payload = payload;
        stash->capacity = length ? length : 1;
    }
    memcpy(stash->payload, packet->payload, length);
    mcast_record_copy(&stash->record, packet->record);
    stash->number = numbered->number;
    stash->count = numbered->count;
    stash->repeats = (uint8_t)repeats;
    stash->arrival = arbiter->arrival;
    return 0;
}

static int
is_near_stash(const mcast_arbiter *arbiter, const mcast_stash *stash, const mcast_numbered *numbered)
{
    uint64_t apart = distance(unwrap(arbiter, numbered->number, stash->number), stash->number);
    return stash->count && apart > 0 && apart < (uint64_t)MCAST_NEAR * numbered->count + stash->count;
}

/* A packet that neither goes on nor is missing: the sender may have begun anew. Two in a row that are near each other say that it has. */
static int
suspect(mcast_arbiter *arbiter, mcast_feed *feed, const mcast_arrival *packet, const mcast_numbered *numbered,
        int repeats)
{
    if (is_near_stash(arbiter, &feed->legs[packet->leg].stash, numbered))
        return restart(arbiter, feed, packet->leg, numbered) != 0 ? -1 : take_numbers(arbiter, feed, packet, numbered);
    release(arbiter, feed, packet->leg);
    return stash_away(arbiter, feed, packet, numbered, repeats);
}

/* ---- runs ---- */

/* Whether a packet in the run of its leg has nothing new from that leg, and is so old that the sender may have begun anew. */
static int
steps_back(const mcast_arbiter *arbiter, const mcast_feed *feed, const mcast_feed_run *run, uint32_t leg,
           uint64_t position, uint64_t end)
{
    const mcast_leg_flow *of = &feed->legs[leg];
    if (mcast_is_before(run->next, end))
        return 0;
    if (!mcast_is_before(position, of->low) && arbiter->clock - of->gained <= arbiter->hold)
        return 0;
    for (; position != end; position++)
        if (!mcast_is_before(position, run->tail) && !has_brought(run, leg, position))
            return 0;
    return 1;
}

static inline void
go_on(const mcast_arbiter *arbiter, mcast_feed_run *run, mcast_leg_flow *of, uint32_t leg, uint64_t position,
      uint64_t end)
{
    int was_silent = of->behind != MCAST_SILENT && arbiter->clock - of->behind >= arbiter->silence;
    of->clock = arbiter->clock;
    of->behind = MCAST_SILENT;
    if (was_silent || mcast_is_before(position, run->first_of[leg])) /* behind a silence it begins again */
        run->first_of[leg] = position;
    if (mcast_is_before(of->next, end)) {
        of->next = end;
        of->gained = arbiter->clock;
    }
    if (arbiter->clock - of->mark_clock >= arbiter->hold) {
        of->low = of->mark;
        of->mark = of->next;
        of->mark_clock = arbiter->clock;
    }
}

/* A packet of a leg in a run. `is_own`: it is the run that the leg is in. */
static int
take(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, const mcast_arrival *packet,
     const mcast_numbered *numbered, uint64_t position, int is_own)
{
    mcast_leg_flow *of = &feed->legs[packet->leg];
    uint64_t end = position + numbered->count;
    if (!mcast_is_before(position, run->next) &&
        !is_plausible(arbiter, position - run->next, numbered->count, arbiter->clock - run->advanced))
        return suspect(arbiter, feed, packet, numbered, 0);
    if (mcast_is_before(position, run->first) && is_plausible(arbiter, run->first - position, numbered->count, 0) &&
        mcast_run_extend(arbiter, run, position) == 0 && is_own && mcast_is_before(position, of->low))
        of->low = position;
    if (is_own && steps_back(arbiter, feed, run, packet->leg, position, end))
        return suspect(arbiter, feed, packet, numbered, has_brought(run, packet->leg, position));
    if (mcast_arrival_reserve(arbiter, packet->record->length) != 0)
        return -1;
    release(arbiter, feed, packet->leg);
    if (mcast_is_before(run->next, end) && mcast_run_advance(arbiter, feed, run, packet->leg, end) != 0)
        return -1;
    if (is_own)
        go_on(arbiter, run, of, packet->leg, position, end);
    mcast_run_admit(arbiter, run, packet, position, end);
    return 0;
}

/* What was stashed belongs to this run, for the packet that is near it does; 0, or -1 without memory. */
static int
take_stashed(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, uint32_t leg, const mcast_numbered *beside)
{
    mcast_stash *stash = &feed->legs[leg].stash;
    if (!is_near_stash(arbiter, stash, beside))
        return 0;
    mcast_numbered first = {.number = stash->number, .count = stash->count};
    mcast_arrival packet = {&stash->record, stash->payload, leg};
    uint64_t position = unwrap(arbiter, first.number, run->next);
    int64_t arrival = arbiter->arrival;
    stash->count = 0;
    join(feed, run, leg, position, arbiter->clock);
    arbiter->arrival = stash->arrival;
    int status = take(arbiter, feed, run, &packet, &first, position, 1);
    arbiter->arrival = arrival;
    if (status != 0)
        stash->count = first.count;
    return status;
}

/* The sender began anew: what was stashed is its first packet. */
static int
restart(mcast_arbiter *arbiter, mcast_feed *feed, uint32_t leg, const mcast_numbered *second)
{
    if (mcast_run_begin(arbiter, feed, feed->legs[leg].stash.number) != 0)
        return -1;
    arbiter->restarts++;
    arbiter->ambiguous++;
    return take_stashed(arbiter, feed, feed->run, leg, second);
}

/* A packet by which its leg comes into a run. */
static int
move(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, const mcast_arrival *packet,
     const mcast_numbered *numbered)
{
    if (take_stashed(arbiter, feed, run, packet->leg, numbered) != 0)
        return -1;
    uint64_t position = unwrap(arbiter, numbered->number, run->next);
    if (feed->legs[packet->leg].generation != run->generation)
        join(feed, run, packet->leg, position, arbiter->clock);
    return take(arbiter, feed, run, packet, numbered, position, 1);
}

/* A packet of a leg that is in no run. */
static int
take_in(mcast_arbiter *arbiter, mcast_feed *feed, const mcast_arrival *packet, const mcast_numbered *numbered)
{
    mcast_leg_flow *of = &feed->legs[packet->leg];
    mcast_feed_run *run = feed->run;
    if (!run->generation) {
        if (mcast_run_begin(arbiter, feed, numbered->number) != 0)
            return -1;
        run = feed->run;
    }
    uint64_t position = unwrap(arbiter, numbered->number, run->next);
    if (of->generation && !is_within(arbiter, run, numbered->number, numbered->count) &&
        distance(unwrap(arbiter, numbered->number, of->next), of->next) <= (uint64_t)MCAST_NEAR * numbered->count) {
        /* of the run that is over: this leg is behind by more than `hold` */
        release(arbiter, feed, packet->leg);
        of->next = unwrap(arbiter, numbered->number, of->next) + numbered->count;
        count_outside(arbiter, packet->leg, numbered->count);
        return 0;
    }
    if (!is_plausible(arbiter, distance(position, run->next), numbered->count, arbiter->clock - run->advanced))
        return suspect(arbiter, feed, packet, numbered, 0);
    return move(arbiter, feed, run, packet, numbered);
}

/* A packet while two runs are there, of a leg that is in `own`: the run that it belongs to. */
static mcast_feed_run *
choose(const mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *own, uint32_t leg,
       const mcast_numbered *numbered)
{
    const mcast_leg_flow *of = &feed->legs[leg];
    mcast_feed_run *other = own == feed->run ? feed->old : feed->run;
    uint64_t here = position_in_own(arbiter, own, of, numbered->number);
    uint64_t there = unwrap(arbiter, numbered->number, other->next);
    if (!other->generation || !is_within(arbiter, other, numbered->number, numbered->count))
        return own;
    if (distance(here, of->next) > distance(there, other->next))
        return other;
    return own == feed->old && has_brought(own, leg, here) && !has_brought(other, leg, there) ? other : own;
}

static int
take_numbers(mcast_arbiter *arbiter, mcast_feed *feed, const mcast_arrival *packet, const mcast_numbered *numbered)
{
    mcast_leg_flow *of = &feed->legs[packet->leg];
    mcast_feed_run *own = run_of(feed, of);
    if (!own)
        return take_in(arbiter, feed, packet, numbered);
    mcast_feed_run *run = choose(arbiter, feed, own, packet->leg, numbered);
    if (run == own)
        return take(arbiter, feed, own, packet, numbered, position_in_own(arbiter, own, of, numbered->number), 1);
    if (run == feed->run)
        return move(arbiter, feed, run, packet, numbered);
    return take(arbiter, feed, run, packet, numbered, unwrap(arbiter, numbered->number, run->next), 0);
}

/* A heartbeat, or the end: it has no number of its own, and shows what was sent before it. */
static int
take_heartbeat(mcast_arbiter *arbiter, mcast_feed *feed, uint32_t leg, uint64_t number)
{
    mcast_feed_run *run = run_of(feed, &feed->legs[leg]);
    if (!run || run != feed->run)
        return 0;
    uint64_t position = position_in_own(arbiter, run, &feed->legs[leg], number);
    feed->legs[leg].clock = arbiter->clock;
    if (!mcast_is_before(run->next, position) ||
        !is_plausible(arbiter, position - run->next, 1, arbiter->clock - run->advanced))
        return 0;
    return mcast_run_advance(arbiter, feed, run, leg, position);
}

/* Whether a packet is its leg's next number in the only run, which has come so far, or goes on by this one: most are. */
static inline int
goes_on(const mcast_arbiter *arbiter, const mcast_feed *feed, const mcast_leg_flow *of, const mcast_numbered *numbered)
{
    const mcast_feed_run *run = feed->run;
    return numbered->count == 1 && of->generation == run->generation && run->generation && !feed->old->generation &&
           !of->stash.count && ((numbered->number ^ of->next) & arbiter->format.mask) == 0 &&
           run->next - of->next < arbiter->format.half && !mcast_is_before(of->next, run->tail);
}

/* Its slot says what else there is to do: 1, 0 where that is more than is usual, -1 without memory. */
static inline int
take_next(mcast_arbiter *arbiter, mcast_feed *feed, mcast_leg_flow *of, const mcast_arrival *packet)
{
    mcast_feed_run *run = feed->run;
    uint64_t position = of->next;
    if (position == run->next) {
        int status = mcast_run_follow(arbiter, feed, run, packet);
        if (status <= 0)
            return status;
    } else {
        if (run->span_count && mcast_span_has(run, position))
            return 0;
        const mcast_slot *slot = mcast_slot_at(run, position);
        if (!slot->legs || slot->legs >> packet->leg & 1 || mcast_is_before(position, run->floor))
            return 0;
        mcast_run_repeat(arbiter, run, packet->leg, position);
    }
    go_on(arbiter, run, of, packet->leg, position, position + 1);
    return 1;
}

int
mcast_feed_take(mcast_arbiter *arbiter, mcast_feed *feed, const mcast_arrival *packet, const mcast_numbered *numbered)
{
    if (feed->old->generation || mcast_run_is_due(arbiter, feed->run))
        mcast_feed_pass(arbiter, feed);
    if (numbered->kind != MCAST_DATA)
        return take_heartbeat(arbiter, feed, packet->leg, numbered->number);
    mcast_leg_flow *of = &feed->legs[packet->leg];
    if (goes_on(arbiter, feed, of, numbered)) {
        int status = take_next(arbiter, feed, of, packet);
        if (status != 0)
            return status < 0 ? -1 : 0;
    }
    if (numbered->count > MCAST_MOST_COVERED) {
        count_outside(arbiter, packet->leg, numbered->count);
        return 0;
    }
    return take_numbers(arbiter, feed, packet, numbered);
}

void
mcast_feed_settle(mcast_arbiter *arbiter, mcast_feed *feed)
{
    mcast_feed_run *run = feed->run, *old = feed->old;
    for (uint32_t leg = 0; leg < arbiter->leg_count; leg++)
        release(arbiter, feed, leg);
    if (old->generation)
        mcast_run_end(arbiter, feed, old);
    if (run->generation)
        mcast_run_settle(arbiter, feed, run, run->next);
}

void
mcast_feed_free(mcast_arbiter *arbiter, mcast_feed *feed)
{
    for (uint32_t leg = 0; leg < arbiter->leg_count; leg++)
        free(feed->legs[leg].stash.payload);
    for (int i = 0; i < 2; i++) {
        arbiter->positions -= feed->runs[i].next - feed->runs[i].tail;
        free(feed->runs[i].slots);
        free(feed->runs[i].spans);
    }
    free(feed);
}
