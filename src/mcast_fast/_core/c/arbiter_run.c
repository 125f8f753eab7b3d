#include "arbiter_run.h"
#include "flow.h"

/* ---- memory ---- */

/* How many numbers of this run may be remembered. */
static uint64_t
limit_of(const mcast_arbiter *arbiter, const mcast_feed_run *run)
{
    uint64_t others = arbiter->positions - (run->next - run->tail);
    uint64_t left = others < MCAST_ALL_POSITIONS ? MCAST_ALL_POSITIONS - others : 0;
    if (left > MCAST_MOST_POSITIONS)
        return MCAST_MOST_POSITIONS;
    return left > MCAST_LEAST_POSITIONS ? left : MCAST_LEAST_POSITIONS;
}

/* Space for the numbers [tail, end), of which those from the run's own tail on are there; 0, or -1 without memory. */
static int
reserve(mcast_feed_run *run, uint64_t tail, uint64_t end)
{
    uint64_t needed = end - tail, size = run->slots ? run->mask + 1 : 64;
    if (run->slots && needed <= size)
        return 0;
    while (size < needed)
        size *= 2;
    mcast_slot *slots = malloc((size_t)size * sizeof *slots);
    if (!slots)
        return -1;
    for (uint64_t at = run->tail; at != run->next; at += mcast_slot_size(mcast_slot_at(run, at)))
        slots[at & (size - 1)] = *mcast_slot_at(run, at);
    free(run->slots);
    run->slots = slots;
    run->mask = size - 1;
    return 0;
}

/* ---- delivering ---- */

/* Space in the batch for a packet: 0, or -1 without. */
static inline int
reserve_out(mcast_arbiter *arbiter, size_t length)
{
    mcast_batch *out = &arbiter->out;
    return MCAST_ARENA_LIMIT - out->data.used < length ||
                   mcast_memory_reserve(&mcast_shared_pool, &out->records, sizeof(mcast_record)) != 0 ||
                   mcast_memory_reserve(&mcast_shared_pool, &out->data, length) != 0
               ? -1
               : 0;
}

static inline void
put_out(mcast_arbiter *arbiter, const mcast_record *record, const unsigned char *payload)
{
    mcast_batch_put(&arbiter->out, record, payload);
    arbiter->packets++;
    arbiter->bytes += record->length;
    arbiter->truncated += record->flags & MCAST_TRUNCATED;
}

static int
emit(mcast_arbiter *arbiter, const mcast_record *record, const unsigned char *payload)
{
    if (reserve_out(arbiter, record->length) != 0) {
        arbiter->failed = 1;
        return -1;
    }
    put_out(arbiter, record, payload);
    return 0;
}

/* What comes next in order. */
static void
deliver(mcast_arbiter *arbiter, mcast_feed_run *run)
{
    for (; run->head != run->next; run->head++) {
        mcast_slot *slot = mcast_slot_at(run, run->head);
        if (!slot->legs)
            return;
        if (slot->kept) {
            const mcast_kept *kept = &arbiter->kept[slot->kept - 1];
            if (emit(arbiter, &kept->record, arbiter->chunks[kept->chunk].bytes + kept->record.offset) != 0)
                return;
            mcast_kept_remove(arbiter, slot->kept - 1);
            slot->kept = 0;
        }
        arbiter->held--;
        arbiter->delivered++;
        arbiter->pending--;
    }
}

/* What is at the head is given up. It may be there where no memory was left to deliver it. */
static void
skip(mcast_arbiter *arbiter, mcast_feed_run *run)
{
    mcast_slot *slot = mcast_slot_at(run, run->head);
    uint64_t count = mcast_slot_size(slot);
    run->head += count;
    if (slot->legs) {
        arbiter->held--;
        arbiter->late++;
    }
    if (slot->leg != MCAST_SPAN && slot->kept) {
        mcast_kept_remove(arbiter, slot->kept - 1);
        slot->kept = 0;
    }
    slot->skipped = 1;
    arbiter->unrecovered += count;
    arbiter->pending -= count;
}

/* ---- charging ---- */

/* Whether a leg was not there for a number: it has not begun, or was silent when the number was due. */
static int
was_absent(const mcast_arbiter *arbiter, const mcast_feed *feed, const mcast_feed_run *run, uint32_t leg,
           uint64_t position, int64_t due)
{
    const mcast_leg_flow *of = &feed->legs[leg];
    if (!(run->members >> leg & 1) || mcast_is_before(position, run->first_of[leg]))
        return 1;
    return of->generation == run->generation && of->behind != MCAST_SILENT && due - of->behind >= arbiter->silence;
}

/* A span at the floor gets an end where a leg begins, for the leg is absent for what is before. */
MCAST_SELDOM static void
cut_where_legs_begin(const mcast_arbiter *arbiter, mcast_feed_run *run)
{
    for (uint32_t leg = 0; leg < arbiter->leg_count; leg++)
        if (run->members >> leg & 1 && mcast_is_before(run->floor, run->first_of[leg]))
            mcast_span_cut(run, run->first_of[leg]);
}

/* What is at the floor. */
static void
charge(mcast_arbiter *arbiter, const mcast_feed *feed, mcast_feed_run *run)
{
    uint64_t position = run->floor;
    mcast_slot *slot = mcast_slot_at(run, position);
    if (slot->legs == arbiter->all_legs) {
        run->floor++;
        return;
    }
    if (slot->leg == MCAST_SPAN)
        cut_where_legs_begin(arbiter, run);
    uint64_t count = mcast_slot_size(slot);
    run->floor += count;
    if (!slot->legs && !arbiter->in_order) {
        slot->skipped = 1;
        arbiter->unrecovered += count;
        arbiter->pending -= count;
    }
    for (uint32_t leg = 0; leg < arbiter->leg_count; leg++) {
        mcast_leg_ledger *ledger = &arbiter->legs[leg].ledger;
        if (slot->legs >> leg & 1)
            continue;
        ledger->pending -= count;
        if (was_absent(arbiter, feed, run, leg, position, slot->time + arbiter->hold)) {
            ledger->absent += count;
            slot->absent |= (uint8_t)(1u << leg);
            continue;
        }
        ledger->lost += count;
        ledger->covered += slot->legs && !slot->skipped;
    }
}

/* The leg brought what it was charged for. */
static void
take_back(mcast_arbiter *arbiter, mcast_slot *slot, uint32_t leg)
{
    mcast_leg_ledger *ledger = &arbiter->legs[leg].ledger;
    ledger->late++;
    if (slot->absent >> leg & 1) {
        slot->absent &= (uint8_t)~(1u << leg);
        ledger->absent--;
        return;
    }
    ledger->lost--;
    ledger->covered -= slot->legs && !slot->skipped;
}

void
mcast_run_settle(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, uint64_t end)
{
    run->starting = 0;
    if (run->span_count)
        mcast_span_cut(run, end);
    if (arbiter->in_order)
        for (deliver(arbiter, run); mcast_is_before(run->head, end); deliver(arbiter, run))
            skip(arbiter, run);
    while (mcast_is_before(run->floor, end))
        charge(arbiter, feed, run);
}

static void
forget(mcast_arbiter *arbiter, mcast_feed_run *run, uint64_t tail)
{
    arbiter->positions -= tail - run->tail;
    run->tail = tail;
    if (run->span_count) {
        mcast_span_cut(run, tail);
        mcast_span_forget(run, tail);
    }
}

static void
pass(mcast_arbiter *arbiter, const mcast_feed *feed, mcast_feed_run *run)
{
    if (run->starting && arbiter->clock - run->start >= arbiter->hold) {
        run->starting = 0;
        if (arbiter->in_order)
            deliver(arbiter, run);
    }
    while (run->floor != run->next) {
        const mcast_slot *slot = mcast_slot_at(run, run->floor);
        if (arbiter->clock - slot->time < arbiter->hold)
            break;
        if (arbiter->in_order && run->head == run->floor) {
            if (!slot->legs)
                skip(arbiter, run);
            deliver(arbiter, run);
            if (run->head == run->floor)
                break; /* without memory: later */
        }
        charge(arbiter, feed, run);
    }
    uint64_t tail = run->tail;
    while (tail != run->floor && arbiter->clock - mcast_slot_at(run, tail)->time >= arbiter->remembered)
        tail += mcast_slot_size(mcast_slot_at(run, tail));
    forget(arbiter, run, tail);
}

void
mcast_feed_pass(mcast_arbiter *arbiter, mcast_feed *feed)
{
    mcast_feed_run *run = feed->run, *old = feed->old;
    if (old->generation) {
        if (arbiter->clock - run->start >= arbiter->hold)
            mcast_run_end(arbiter, feed, old);
        else
            pass(arbiter, feed, old);
    }
    if (run->generation)
        pass(arbiter, feed, run);
}

/* ---- numbers ---- */

int
mcast_run_begin(mcast_arbiter *arbiter, mcast_feed *feed, uint64_t number)
{
    mcast_feed_run *run = feed->old;
    if (run->generation)
        mcast_run_end(arbiter, feed, run);
    memset(run, 0, sizeof *run);
    if (reserve(run, 0, 1) != 0)
        return -1;
    run->first = run->next = run->tail = run->floor = run->head = run->low = run->mark = number;
    run->start = run->advanced = run->mark_clock = run->low_clock = arbiter->clock;
    run->starting = 1;
    run->generation = ++feed->generation;
    feed->old = feed->run;
    feed->run = run;
    return 0;
}

void
mcast_run_end(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run)
{
    mcast_run_settle(arbiter, feed, run, run->next);
    forget(arbiter, run, run->next);
    free(run->slots);
    free(run->spans);
    memset(run, 0, sizeof *run);
}

/* Numbers that are too many to be remembered, and missing on all legs. */
static void
charge_all(mcast_arbiter *arbiter, const mcast_feed *feed, const mcast_feed_run *run, uint64_t first, uint64_t count)
{
    for (uint32_t leg = 0; leg < arbiter->leg_count; leg++) {
        mcast_leg_ledger *ledger = &arbiter->legs[leg].ledger;
        if (was_absent(arbiter, feed, run, leg, first, arbiter->clock))
            ledger->absent += count;
        else
            ledger->lost += count;
    }
    arbiter->unrecovered += count;
    arbiter->expected += count;
}

/* Whether the silence was so long that, at the rate before it, the number may have come half around; as in flow.c. */
static inline int
is_ambiguous(const mcast_arbiter *arbiter, const mcast_feed_run *run)
{
    int64_t step = arbiter->clock - run->advanced, spent = run->advanced - run->low_clock;
    uint32_t bits = arbiter->format.bits;
    if (step < MCAST_NOTABLE_SILENCE || bits >= 64 || spent <= 0)
        return 0;
    return (double)step * (double)(run->next - run->low) >= (double)(1ull << (bits - 1)) * (double)spent;
}

/* Others bring what these legs do not. */
static inline void
leave_behind(mcast_arbiter *arbiter, mcast_feed *feed, const mcast_feed_run *run, uint32_t ahead)
{
    for (uint32_t leg = 0; leg < arbiter->leg_count; leg++) {
        mcast_leg_flow *of = &feed->legs[leg];
        if (leg != ahead && of->generation == run->generation && of->behind == MCAST_SILENT)
            of->behind = arbiter->clock;
    }
}

static inline void
look_at_width(mcast_arbiter *arbiter, mcast_feed_run *run)
{
    int wide = run->next - run->floor > arbiter->format.half; /* never with 64 bits: so much is not remembered */
    arbiter->ambiguous += wide && !run->wide;
    run->wide = (uint8_t)wide;
}

/* The run has come to its `next` by a packet of this leg. */
static inline void
note_advance(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, uint32_t leg)
{
    run->advanced = arbiter->clock;
    if (arbiter->clock - run->mark_clock >= arbiter->hold) {
        run->low = run->mark;
        run->low_clock = run->mark_clock;
        run->mark = run->next;
        run->mark_clock = arbiter->clock;
    }
    leave_behind(arbiter, feed, run, leg);
    look_at_width(arbiter, run);
}

/* The numbers were sent, and none of them has come yet. */
static void
open_numbers(mcast_arbiter *arbiter, mcast_feed_run *run, uint64_t first, uint64_t end)
{
    uint64_t count = end - first;
    mcast_span_put(run, first, end, &(mcast_slot){.time = arbiter->arrival});
    for (uint32_t i = 0; i < arbiter->leg_count; i++)
        arbiter->legs[i].ledger.pending += count;
    arbiter->expected += count;
    arbiter->pending += count;
    arbiter->positions += count;
}

int
mcast_run_advance(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, uint32_t leg, uint64_t end)
{
    uint64_t limit = limit_of(arbiter, run), tail = run->tail;
    if (end - tail > limit)
        tail = end - limit;
    if (reserve(run, mcast_is_before(tail, run->next) ? tail : run->next,
                mcast_is_before(tail, run->next) ? end : run->next + limit) != 0)
        return -1;
    arbiter->ambiguous += (uint64_t)is_ambiguous(arbiter, run);
    if (tail != run->tail) {
        uint64_t settled = mcast_is_before(tail, run->next) ? tail : run->next;
        if (mcast_is_before(run->floor, settled))
            mcast_run_settle(arbiter, feed, run, settled);
        forget(arbiter, run, settled);
        if (settled != tail) {
            charge_all(arbiter, feed, run, settled, tail - settled);
            run->tail = run->floor = run->head = run->next = tail;
        }
    }
    open_numbers(arbiter, run, run->next, end);
    run->next = end;
    note_advance(arbiter, feed, run, leg);
    return 0;
}

int
mcast_run_extend(mcast_arbiter *arbiter, mcast_feed_run *run, uint64_t position)
{
    if (!run->starting || run->tail != run->first || run->floor != run->first ||
        run->next - position > limit_of(arbiter, run) || reserve(run, position, run->next) != 0)
        return -1;
    open_numbers(arbiter, run, position, run->first);
    if (mcast_is_before(position, run->low))
        run->low = position;
    if (mcast_is_before(position, run->mark))
        run->mark = position;
    /* in order nothing is delivered before the run has started */
    run->first = run->tail = run->floor = run->head = position;
    return 0;
}

/* ---- packets ---- */

static void
note_skew(mcast_arbiter *arbiter, mcast_slot *slot, uint32_t leg)
{
    int64_t skew = arbiter->arrival - slot->time;
    if (slot->leg == leg)
        return;
    if (skew < 0) { /* it came earlier, and is looked at later */
        arbiter->legs[slot->leg].ledger.first--;
        arbiter->legs[leg].ledger.first++;
        slot->leg = (uint8_t)leg;
        slot->time = arbiter->arrival;
        skew = -skew;
    }
    arbiter->skew[mcast_late_bucket(skew)]++;
    if (skew > arbiter->skew_max)
        arbiter->skew_max = skew;
}

/* A number that no leg had brought, after it was given up; whether it is delivered all the same. */
static int
come_late(mcast_arbiter *arbiter, mcast_slot *slot, uint32_t leg)
{
    if (arbiter->in_order) {
        arbiter->late++;
        return 0;
    }
    slot->skipped = 0;
    arbiter->unrecovered--;
    arbiter->delivered++;
    for (uint32_t other = 0; other < arbiter->leg_count; other++)
        if (other != leg && !(slot->absent >> other & 1))
            arbiter->legs[other].ledger.covered++;
    return 1;
}

static inline mcast_slot *
own_slot(mcast_feed_run *run, uint64_t position)
{
    if (run->span_count) {
        mcast_span_cut(run, position);
        mcast_span_cut(run, position + 1);
    }
    return mcast_slot_at(run, position);
}

/* One number of a packet; whether the packet is the one to be delivered for it. */
static int
admit_number(mcast_arbiter *arbiter, mcast_feed_run *run, uint32_t leg, uint64_t position)
{
    mcast_leg_ledger *ledger = &arbiter->legs[leg].ledger;
    mcast_slot *slot = own_slot(run, position);
    uint8_t bit = (uint8_t)(1u << leg);
    int is_charged = mcast_is_before(position, run->floor), is_new = 0;
    if (slot->legs & bit) {
        ledger->duplicates++;
        arbiter->duplicates++;
        return 0;
    }
    if (is_charged)
        take_back(arbiter, slot, leg);
    else
        ledger->pending--;
    if (slot->legs) {
        arbiter->duplicates++;
        note_skew(arbiter, slot, leg);
    } else if (slot->skipped) {
        is_new = come_late(arbiter, slot, leg);
    } else {
        is_new = 1;
        if (arbiter->in_order) {
            arbiter->held++;
        } else {
            arbiter->delivered++;
            arbiter->pending--;
        }
    }
    if (!slot->legs) {
        slot->leg = (uint8_t)leg;
        slot->time = arbiter->arrival;
        ledger->first++;
    }
    slot->legs |= bit;
    return is_new;
}

/* Packets that wait have too much memory: what they wait for is given up. */
static void
overflow(mcast_arbiter *arbiter, mcast_feed_run *run)
{
    arbiter->overflows++;
    run->starting = 0;
    for (deliver(arbiter, run); run->head != run->next && arbiter->kept_bytes > arbiter->kept_limit && !arbiter->failed;
         deliver(arbiter, run))
        skip(arbiter, run);
}

static void
emit_arrival(mcast_arbiter *arbiter, const mcast_arrival *packet)
{
    if (emit(arbiter, packet->record, packet->payload) == 0 && arbiter->legs[packet->leg].renamed_count)
        mcast_record_rename(arbiter, packet->leg, mcast_batch_next(&arbiter->out) - 1);
}

int
mcast_run_follow(mcast_arbiter *arbiter, mcast_feed *feed, mcast_feed_run *run, const mcast_arrival *packet)
{
    const mcast_record *record = packet->record;
    mcast_leg_ledger *ledger = &arbiter->legs[packet->leg].ledger;
    int waits = arbiter->in_order && (run->starting || run->head != run->next);
    uint64_t remembered = run->next - run->tail;
    if (remembered > run->mask || remembered >= limit_of(arbiter, run) || is_ambiguous(arbiter, run) ||
        (waits && arbiter->kept_bytes + sizeof *record + record->length > arbiter->kept_limit))
        return 0;
    if ((waits ? mcast_kept_reserve(arbiter, record->length) : reserve_out(arbiter, record->length)) != 0)
        return -1;
    mcast_slot *slot = mcast_slot_at(run, run->next++);
    *slot = (mcast_slot){.time = arbiter->arrival, .legs = (uint8_t)(1u << packet->leg), .leg = (uint8_t)packet->leg};
    for (uint32_t i = 0; i < arbiter->leg_count; i++)
        arbiter->legs[i].ledger.pending += i != packet->leg;
    arbiter->expected++;
    arbiter->positions++;
    ledger->received++;
    ledger->first++;
    note_advance(arbiter, feed, run, packet->leg);
    if (waits) {
        arbiter->pending++;
        arbiter->held++;
        slot->kept = mcast_kept_add(arbiter, packet) + 1;
        return 1;
    }
    run->head += (uint64_t)arbiter->in_order;
    arbiter->delivered++;
    put_out(arbiter, record, packet->payload);
    if (arbiter->legs[packet->leg].renamed_count)
        mcast_record_rename(arbiter, packet->leg, mcast_batch_next(&arbiter->out) - 1);
    return 1;
}

void
mcast_run_repeat(mcast_arbiter *arbiter, mcast_feed_run *run, uint32_t leg, uint64_t position)
{
    mcast_slot *slot = mcast_slot_at(run, position);
    arbiter->legs[leg].ledger.received++;
    arbiter->legs[leg].ledger.pending--;
    arbiter->duplicates++;
    note_skew(arbiter, slot, leg);
    slot->legs |= (uint8_t)(1u << leg);
}

int
mcast_arrival_reserve(mcast_arbiter *arbiter, size_t length)
{
    if (reserve_out(arbiter, length) != 0)
        return -1;
    return arbiter->in_order ? mcast_kept_reserve(arbiter, length) : 0;
}

void
mcast_run_admit(mcast_arbiter *arbiter, mcast_feed_run *run, const mcast_arrival *packet, uint64_t position,
                uint64_t end)
{
    mcast_leg_ledger *ledger = &arbiter->legs[packet->leg].ledger;
    uint64_t first_new = end;
    ledger->received += end - position;
    for (; position != end && mcast_is_before(position, run->tail); position++)
        ledger->outside++;
    for (; position != end; position++)
        if (admit_number(arbiter, run, packet->leg, position) && first_new == end)
            first_new = position;
    if (first_new == end)
        return;
    if (!arbiter->in_order) {
        emit_arrival(arbiter, packet);
        return;
    }
    if (run->starting || first_new != run->head) {
        mcast_slot_at(run, first_new)->kept = mcast_kept_add(arbiter, packet) + 1;
        if (arbiter->kept_bytes > arbiter->kept_limit)
            overflow(arbiter, run);
        return;
    }
    emit_arrival(arbiter, packet);
    deliver(arbiter, run);
}
