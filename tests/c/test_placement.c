/* Rows of payloads: whatever packets hold, nothing is read beyond a payload and nothing written beyond the rows and their presence. Each
 * ends where memory ends. What is placed rightly is tests/test_placement.py and tests/test_assembler.py. */
#include "guarded.h"
#include "placement.h"
#include <string.h>

enum { ROUNDS = 60000, LONGEST = 80, MOST_ROWS = 40, LARGEST_ROW = 64 };

static mcast_placer
random_placer(void)
{
    static const uint8_t WIDTHS[] = {1, 2, 8};
    mcast_placer placer = {.body = (uint8_t)below(5), .body_offset = below(4) ? below(30) : 65000};
    uint8_t width = WIDTHS[below(3)];
    placer.format =
        (mcast_format){.bits = (uint8_t)(8 * width), .scale = 1, .heartbeat = UINT64_MAX, .end = UINT64_MAX};
    placer.format.layout = below(4) ? MCAST_BY_FIELDS : MCAST_BY_SPEAD;
    placer.format.parameter = 1 + below(9);
    placer.format.number = (mcast_field){.mask = UINT64_MAX >> (64 - 8 * width), .offset = below(20), .width = width};
    placer.id = (mcast_field){.mask = 1, .offset = below(20), .width = (uint8_t)below(2)};
    placer.marker = (mcast_field){.mask = 3, .offset = below(20), .width = (uint8_t)below(2), .after_rtp = 1};
    mcast_format_prepare(&placer.format);
    return placer;
}

static size_t
random_payload(uint8_t *end)
{
    static const uint8_t SPEAD[] = {0x53, 4, 2, 6, 0, 0, 0, 2};
    size_t length = below(LONGEST);
    for (size_t i = 0; i < length; i++)
        end[-(ptrdiff_t)length + (ptrdiff_t)i] = (uint8_t)(below(3) ? below(4) : below(256));
    if (below(3) == 0)
        memcpy(end - length, SPEAD, length < sizeof SPEAD ? length : sizeof SPEAD);
    else if (length && below(2))
        end[-(ptrdiff_t)length] = (uint8_t)(0x80 | below(64)); /* RTP with padding, sources and an extension */
    return length;
}

/* A frame whose rows and presence end where memory ends. */
static mcast_frame
random_frame(uint8_t *rows_end, uint8_t *present_end)
{
    mcast_frame frame = {.base = below(20), .id = below(2), .size = 1 + below(LARGEST_ROW)};
    frame.capacity = frame.count = 1 + below(MOST_ROWS);
    frame.rows = rows_end - frame.capacity * frame.size;
    frame.present = present_end - frame.capacity;
    memset(frame.present, 0, frame.capacity);
    return frame;
}

static void
check_frame(const mcast_frame *frame)
{
    size_t there = 0;
    for (size_t row = 0; row < frame->capacity; row++)
        there += frame->present[row];
    CHECK(there == frame->placed);
    CHECK(frame->short_bodies <= frame->placed);
}

static void
test_nothing_is_written_beside_the_rows(void)
{
    uint8_t *payload = guarded_end(), *rows = guarded_end(), *present = guarded_end();
    uint64_t placed = 0, stops[MCAST_STOP_MARKED + 1] = {0};
    for (int i = 0; i < ROUNDS; i++) {
        mcast_placer placer = random_placer();
        mcast_frame frame = random_frame(rows, present), *frames[] = {&frame};
        mcast_placement result = {0};
        for (int packet = 0; packet < 4; packet++) {
            size_t length = random_payload(payload);
            mcast_record record = {.timestamp = packet, .length = (uint16_t)length};
            mcast_stop stop;
            if (i % 2) {
                mcast_place(&placer, &record, 1, payload - length, &frame, 1, &result);
                continue;
            }
            mcast_fill(&placer, &record, 0, 1, payload - length, 3, frames, 1, &stop);
            stops[stop.reason]++;
            if (below(3) == 0 && frame.highest < frame.capacity)
                mcast_frame_begin_earlier(&frame, 1 + below((uint32_t)(frame.capacity - frame.highest)));
        }
        check_frame(&frame);
        placed += frame.placed;
        mcast_frame_finish(&frame);
    }
    CHECK(placed > ROUNDS / 100);
    for (int reason = 0; reason <= MCAST_STOP_MARKED; reason++)
        CHECK(stops[reason] > 0);
}

int
main(void)
{
    test_nothing_is_written_beside_the_rows();
    puts("rows: ok");
    return 0;
}
