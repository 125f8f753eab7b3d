/* Packets of capture files as blocks of pcapng in this machine's byte order, and several such runs of blocks merged by their times.
 *
 * What is not an ordinary packet (another block, another byte order, anything wrong) ends a split: the caller looks at it. */
#ifndef MCAST_MERGE_H
#define MCAST_MERGE_H

#include "capture.h"
#include <stdlib.h>

/* Where a block is in a run's data, and when: the order of a run. */
typedef struct mcast_row {
    int64_t time; /* ns; of a packet without a time, that of the one before */
    uint32_t offset;
    uint32_t size;
} mcast_row;

/* An interface of a section: how its ticks become ns, ticks * factor + shift (factor 0: not so), and its number in the result. */
typedef struct mcast_clock {
    uint64_t factor;
    int64_t shift;
    uint64_t number;
} mcast_clock;

/* Output of a split. */
typedef struct mcast_split {
    unsigned char *data;
    size_t used, room; /* of data */
    mcast_row *rows;
    size_t count, most; /* of rows */
} mcast_split;

enum { MCAST_EPB_HEADER = 28, MCAST_EPB_LEAST = 32 };

static inline int64_t
mcast_row_time(const mcast_split *split, int64_t time)
{
    if (time != 0)
        return time;
    return split->count ? split->rows[split->count - 1].time : INT64_MIN;
}

static inline int64_t
mcast_clock_time(const mcast_clock *clock, uint64_t ticks)
{
    if (ticks == 0 || ticks > (uint64_t)INT64_MAX / clock->factor)
        return 0;
    int64_t time = (int64_t)(ticks * clock->factor);
    if (clock->shift > 0 ? time > INT64_MAX - clock->shift : time < INT64_MIN - clock->shift)
        return 0;
    return time + clock->shift;
}

static inline void
mcast_split_add(mcast_split *split, int64_t time, size_t size)
{
    mcast_row *row = &split->rows[split->count];
    row->time = mcast_row_time(split, time);
    row->offset = (uint32_t)split->used;
    row->size = (uint32_t)size;
    split->count++;
    split->used += size;
}

/* Whether the options of a block are whole: what a reader of the result would stop at ends a split. */
static inline int
mcast_options_fit(const unsigned char *at, size_t left)
{
    while (left >= 4) {
        uint16_t head[2]; /* code, length */
        memcpy(head, at, sizeof head);
        size_t size = 4 + (((size_t)head[1] + 3) & ~(size_t)3);
        if (head[0] == 0)
            return 1;
        if (size > left)
            return 0;
        at += size;
        left -= size;
    }
    return 1;
}

/* Copies enhanced packet blocks of `known` interfaces; returns the bytes that are done with. */
static inline size_t
mcast_split_blocks(mcast_split *split, const unsigned char *bytes, size_t size, const mcast_clock *clocks,
                   uint32_t known)
{
    size_t at = 0;
    while (size - at >= MCAST_EPB_LEAST && split->count < split->most) {
        uint32_t head[7], again; /* type, length, interface, high, low, captured, wire */
        memcpy(head, bytes + at, sizeof head);
        uint32_t length = head[1];
        if (head[0] != MCAST_BLOCK_PACKET || length < MCAST_EPB_LEAST || length & 3 || length > MCAST_LARGEST_BLOCK ||
            length > size - at || length > split->room - split->used)
            break;
        memcpy(&again, bytes + at + length - 4, sizeof again);
        if (again != length || head[2] >= known || head[5] > length - MCAST_EPB_LEAST || clocks[head[2]].factor == 0)
            break;
        size_t options = MCAST_EPB_HEADER + (((size_t)head[5] + 3) & ~(size_t)3);
        if (options < length - 4 && !mcast_options_fit(bytes + at + options, length - 4 - options))
            break;
        memcpy(split->data + split->used, bytes + at, length);
        uint32_t number = (uint32_t)clocks[head[2]].number;
        memcpy(split->data + split->used + 8, &number, sizeof number);
        mcast_split_add(split, mcast_clock_time(&clocks[head[2]], (uint64_t)head[3] << 32 | head[4]), length);
        at += length;
    }
    return at;
}

/* Records of classic pcap as enhanced packet blocks of interface `number`; `units` ticks are a second. */
static inline size_t
mcast_split_records(mcast_split *split, const unsigned char *bytes, size_t size, uint32_t number, int swapped,
                    int lengths, size_t header, uint32_t units)
{
    size_t at = 0;
    while (size - at >= header && split->count < split->most) {
        uint32_t head[4]; /* seconds, fraction, captured, wire */
        memcpy(head, bytes + at, sizeof head);
        for (int i = 0; swapped && i < 4; i++)
            head[i] = mcast_swapped32(head[i]);
        int is_turned = lengths == MCAST_LENGTHS_SWAPPED || (lengths == MCAST_LENGTHS_EITHER && head[2] > head[3]);
        uint32_t captured = head[is_turned ? 3 : 2], wire = head[is_turned ? 2 : 3];
        if (captured > MCAST_LARGEST_FRAME || captured > size - at - header)
            break;
        uint32_t padded = (captured + 3) & ~(uint32_t)3, length = MCAST_EPB_LEAST + padded;
        if (length > split->room - split->used)
            break;
        uint64_t ticks = (uint64_t)head[0] * units + head[1];
        uint32_t block[7] = {MCAST_BLOCK_PACKET, length,   number, (uint32_t)(ticks >> 32),
                             (uint32_t)ticks,    captured, wire};
        unsigned char *to = split->data + split->used;
        memcpy(to, block, sizeof block);
        memcpy(to + MCAST_EPB_HEADER, bytes + at + header, captured);
        memset(to + MCAST_EPB_HEADER + captured, 0, padded - captured);
        memcpy(to + length - 4, &length, sizeof length);
        mcast_split_add(split, (int64_t)(ticks * (1000000000 / units)), length);
        at += header + captured;
    }
    return at;
}

static inline int
mcast_compare_rows(const void *left, const void *right)
{
    const mcast_row *one = left, *other = right;
    if (one->time != other->time)
        return one->time < other->time ? -1 : 1;
    return one->offset < other->offset ? -1 : one->offset > other->offset;
}

/* The rows in the order of time, those of one time as they came. */
static inline void
mcast_sort_rows(mcast_row *rows, size_t count)
{
    for (size_t i = 1; i < count; i++)
        if (rows[i].time < rows[i - 1].time) {
            qsort(rows, count, sizeof *rows, mcast_compare_rows);
            return;
        }
}

/* Merging ----------------------------------------------------------------------------------------------------------- */

/* Rows `at` to `end` of one source. */
typedef struct mcast_run {
    const unsigned char *data;
    const mcast_row *rows;
    size_t at, end;
} mcast_run;

static inline int
mcast_run_before(const mcast_run *runs, uint32_t one, uint32_t other)
{
    int64_t left = runs[one].rows[runs[one].at].time, right = runs[other].rows[runs[other].at].time;
    return left < right || (left == right && one < other);
}

static inline void
mcast_heap_down(uint32_t *heap, size_t count, size_t at, const mcast_run *runs)
{
    uint32_t moved = heap[at];
    for (;;) {
        size_t below = 2 * at + 1;
        if (below >= count)
            break;
        if (below + 1 < count && mcast_run_before(runs, heap[below + 1], heap[below]))
            below++;
        if (!mcast_run_before(runs, heap[below], moved))
            break;
        heap[at] = heap[below];
        at = below;
    }
    heap[at] = moved;
}

/* Copies blocks in the order of time until a run is at its end, or `room` is used; returns the bytes. No run may be at its end before;
 * `heap` has space for `count`. `latest` is the time of the last block so far: what is older than that counts as late. */
static inline size_t
mcast_merge_runs(mcast_run *runs, size_t count, uint32_t *heap, unsigned char *to, size_t room, int64_t *latest,
                 uint64_t *late)
{
    size_t used = 0;
    for (size_t i = 0; i < count; i++)
        heap[i] = (uint32_t)i;
    for (size_t i = count / 2; i-- > 0;)
        mcast_heap_down(heap, count, i, runs);
    for (;;) {
        mcast_run *run = &runs[heap[0]];
        const mcast_row *row = &run->rows[run->at];
        if (row->size > room - used)
            return used;
        memcpy(to + used, run->data + row->offset, row->size);
        used += row->size;
        *late += row->time < *latest;
        *latest = row->time > *latest ? row->time : *latest;
        if (++run->at == run->end)
            return used;
        mcast_heap_down(heap, count, 0, runs);
    }
}

#endif
