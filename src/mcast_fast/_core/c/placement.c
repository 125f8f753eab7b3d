#include "placement.h"
#include "quick.h"

enum { SPEAD_HEADER = 8, SPEAD_ITEM = 8, VDIF_HEADER = 32, VDIF_LEGACY_HEADER = 16, NO_BODY = 0x20000 };

/* Where the body of a payload begins; NO_BODY: it has none. `length` loses the padding of RTP (RFC 3550, 5.1). */
static size_t
body_of(const mcast_placer *placer, const uint8_t *payload, size_t *length)
{
    size_t start = 0;
    switch (placer->body) {
    case MCAST_BEHIND_RTP:
        start = mcast_rtp_size(payload, *length);
        if (start > *length)
            return NO_BODY;
        if (payload[0] & 0x20) {
            size_t padding = payload[*length - 1];
            if (padding == 0 || padding > *length - start)
                return NO_BODY;
            *length -= padding;
        }
        break;
    case MCAST_BEHIND_SPEAD:
        if (*length < SPEAD_HEADER)
            return NO_BODY;
        start = SPEAD_HEADER + SPEAD_ITEM * ((size_t)payload[6] << 8 | payload[7]);
        break;
    case MCAST_BEHIND_VDIF: /* VDIF 1.1.1: bit 30 of the first word, which is little-endian */
        if (*length < 4)
            return NO_BODY;
        start = payload[3] & 0x40 ? VDIF_LEGACY_HEADER : VDIF_HEADER;
        break;
    default:
        break;
    }
    start += placer->body_offset;
    return start > *length ? NO_BODY : start;
}

enum { PUT_PLACED, PUT_AGAIN, PUT_TOO_LONG, PUT_NO_BODY }; /* DUPLICATE is a macro of the Windows headers */

/* Copies a payload's body into its row, unless that is taken. What a shorter body leaves of the row becomes zeros. */
static int
put(const mcast_placer *placer, const mcast_record *record, const uint8_t *arena, mcast_frame *frame, size_t row)
{
    const uint8_t *payload = arena + record->offset;
    size_t length = record->length, start = body_of(placer, payload, &length);
    if (start == NO_BODY)
        return PUT_NO_BODY;
    size_t size = length - start;
    if (size > frame->size) {
        frame->long_bodies++;
        return PUT_TOO_LONG;
    }
    if (frame->present[row]) {
        frame->duplicates++;
        return PUT_AGAIN;
    }
    uint8_t *to = frame->rows + row * frame->size;
    memcpy(to, payload + start, size);
    if (size < frame->size) {
        memset(to + size, 0, frame->size - size);
        frame->short_bodies++;
    }
    frame->present[row] = 1;
    frame->placed++;
    return PUT_PLACED;
}

static inline uint64_t
mask_of(const mcast_format *format)
{
    return UINT64_MAX >> (64u - format->bits);
}

/* Whether a number is half of the range or more ahead, which is behind. */
static inline int
is_behind(const mcast_format *format, uint64_t distance)
{
    return (int)(distance >> (format->bits - 1u) & 1);
}

void
mcast_place(const mcast_placer *placer, const mcast_record *records, size_t count, const uint8_t *arena,
            mcast_frame *frame, int any_key, mcast_placement *result)
{
    const mcast_format *format = &placer->format;
    const uint64_t mask = mask_of(format);
    uint64_t *const tallies[] = {&result->placed, &result->duplicates, &result->long_bodies, &result->other};
    for (size_t i = 0; i < count; i++) {
        mcast_numbered one;
        mcast_look_ahead(arena, records, i, count);
        mcast_sequence_read(format, arena + records[i].offset, records[i].length, &one);
        int is_ours = any_key || ((one.key[0] ^ frame->flow.key[0]) | (one.key[1] ^ frame->flow.key[1])) == 0;
        uint64_t row = (one.number - frame->base) & mask;
        if (one.kind != MCAST_DATA || one.count != 1 || !is_ours)
            result->other++;
        else if (row >= frame->count)
            ++*(is_behind(format, row) ? &result->below : &result->above);
        else
            ++*tallies[put(placer, &records[i], arena, frame, (size_t)row)];
    }
    result->short_bodies = frame->short_bodies;
}

/* ---- frames of a feed ---- */

/* The frame that a packet belongs to, sought from where the one before was found; `frame_count`: none. */
static size_t
find_frame(mcast_frame *const *frames, size_t frame_count, size_t from, const mcast_stop *packet, uint64_t mask,
           uint64_t *row)
{
    for (size_t i = 0, at = from; i < frame_count; i++, at = at + 1 < frame_count ? at + 1 : 0) {
        const mcast_frame *frame = frames[at];
        *row = (packet->number - frame->base) & mask;
        if (*row < frame->count && frame->id == packet->id && mcast_is_same_flow(&frame->flow, &packet->flow))
            return at;
    }
    return frame_count;
}

/* The packet's number, flow and identity; whether it is one that goes into frames. */
static int
read_packet(const mcast_placer *placer, const mcast_record *record, const uint8_t *arena, mcast_stop *packet)
{
    const uint8_t *payload = arena + record->offset;
    mcast_numbered one;
    mcast_sequence_read(&placer->format, payload, record->length, &one);
    packet->number = one.number & mask_of(&placer->format);
    packet->id = 0;
    if (one.kind != MCAST_DATA || one.count != 1)
        return 0;
    if (placer->id.width && !mcast_field_read(&placer->id, payload, record->length, &packet->id))
        return 0;
    mcast_flow_key_of(record, one.key, placer->by_source_port, &packet->flow);
    return 1;
}

static int
is_marked(const mcast_placer *placer, const mcast_record *record, const uint8_t *arena)
{
    uint64_t value;
    return placer->marker.width && mcast_field_read(&placer->marker, arena + record->offset, record->length, &value) &&
           value == placer->marked;
}

static void
note_time(mcast_frame *frame, int64_t time)
{
    if (time == 0)
        return;
    if (frame->first_time == 0 || time < frame->first_time)
        frame->first_time = time;
    if (time > frame->last_time)
        frame->last_time = time;
}

void
mcast_fill(const mcast_placer *placer, const mcast_record *records, size_t start, size_t count, const uint8_t *arena,
           int64_t until, mcast_frame *const *frames, size_t frame_count, mcast_stop *stop)
{
    const uint64_t mask = mask_of(&placer->format);
    size_t found = 0;
    memset(stop, 0, sizeof *stop);
    for (stop->at = start; stop->at < count; stop->at++) {
        const mcast_record *record = &records[stop->at];
        uint64_t row;
        if (record->timestamp >= until) {
            stop->reason = MCAST_STOP_TIME;
            return;
        }
        mcast_look_ahead(arena, records, stop->at, count);
        if (!read_packet(placer, record, arena, stop)) {
            stop->other++;
            continue;
        }
        size_t at = find_frame(frames, frame_count, found, stop, mask, &row);
        if (at == frame_count) {
            stop->reason = MCAST_STOP_OUTSIDE;
            return;
        }
        found = stop->frame = at;
        mcast_frame *frame = frames[at];
        int result = put(placer, record, arena, frame, (size_t)row);
        stop->other += result == PUT_NO_BODY;
        if (result != PUT_PLACED)
            continue;
        frame->highest = row + 1 > frame->highest ? (size_t)row + 1 : frame->highest;
        note_time(frame, record->timestamp);
        int is_last = is_marked(placer, record, arena);
        if (is_last || frame->placed == frame->count) {
            stop->reason = is_last ? MCAST_STOP_MARKED : MCAST_STOP_WHOLE;
            stop->at++;
            return;
        }
    }
}

void
mcast_frame_begin_earlier(mcast_frame *frame, size_t rows)
{
    memmove(frame->rows + rows * frame->size, frame->rows, frame->highest * frame->size);
    memmove(frame->present + rows, frame->present, frame->highest);
    memset(frame->present, 0, rows);
    frame->highest += rows;
}

void
mcast_frame_finish(mcast_frame *frame)
{
    for (size_t row = 0; row < frame->capacity; row++)
        if (!frame->present[row])
            memset(frame->rows + row * frame->size, 0, frame->size);
}
