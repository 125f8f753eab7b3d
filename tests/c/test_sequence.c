/* Numbers of packets: no layout reads beyond a payload, whatever is in it and wherever it ends. The payload ends where memory ends: a
 * byte more is seen by AddressSanitizer (.ci/c_library), and by the guard behind it without. */
#include "guarded.h"
#include "quick.h"
#include <string.h>

enum { ROUNDS = 200000, LONGEST = 96 };

static mcast_field
random_field(uint32_t widest)
{
    mcast_field field = {.offset = below(40), .width = (uint8_t)(1 + below(widest)), .little = (uint8_t)below(2)};
    field.after_rtp = below(4) == 0;
    field.mask = field.width == 8 ? UINT64_MAX : (1ull << 8 * field.width) - 1;
    return field;
}

/* Fields are looked for one by one, or read by loads of eight bytes where the payload is long enough. */
static void
prepare(mcast_format *format, int by_loads)
{
    mcast_format_prepare(format);
    if (!by_loads)
        format->enough = format->enough_if_plain = UINT32_MAX;
}

static mcast_format
random_format(void)
{
    mcast_format format = {.layout = (uint8_t)below(5), .scale = 1 + below(1000), .heartbeat = 0, .end = below(8)};
    format.bits = 64;
    format.number = random_field(8);
    format.high = random_field(8);
    format.count = random_field(4);
    format.count.mask = 7; /* so that each kind is frequent */
    format.has_high = (uint8_t)below(2);
    format.has_count = (uint8_t)below(2);
    format.key_count = below(MCAST_MOST_KEYS + 1);
    for (uint32_t i = 0; i < format.key_count; i++) {
        format.keys[i] = random_field(MCAST_KEY_SIZE / MCAST_MOST_KEYS);
        if (below(2))
            format.keys[i].mask = 0;
    }
    format.test_count = below(2);
    format.tests[0] = random_field(1);
    format.tests[0].mask = 3;
    format.wanted[0] = below(4);
    format.after_rtp = (uint8_t)below(2);
    format.parameter = below(2) * (1 + below(2000));
    prepare(&format, below(2));
    return format;
}

static void
fill(uint8_t *payload, size_t length)
{
    static const uint8_t SPEAD[] = {0x53, 4, 2, 6, 0, 0, 0, 4};
    static const char MCJOIN[] = "Sender PID 12, MC group x ... count: 3";
    for (size_t i = 0; i < length; i++)
        payload[i] = (uint8_t)below(256);
    switch (below(4)) {
    case 0:
        memcpy(payload, SPEAD, length < sizeof SPEAD ? length : sizeof SPEAD);
        break;
    case 1:
        memcpy(payload, MCJOIN, length < sizeof MCJOIN - 1 ? length : sizeof MCJOIN - 1);
        break;
    case 2:
        if (length)
            payload[0] = (uint8_t)(0x80 | below(32)); /* RTP with sources and an extension */
        break;
    default:
        break;
    }
}

static void
test_no_read_leaves_the_payload(void)
{
    uint8_t *end = guarded_end();
    size_t seen[MCAST_OTHER + 1] = {0};
    for (int i = 0; i < ROUNDS; i++) {
        mcast_format format = random_format();
        mcast_numbered one;
        size_t length = below(LONGEST);
        fill(end - length, length);
        mcast_sequence_read(&format, end - length, length, &one);
        CHECK(one.kind <= MCAST_OTHER);
        CHECK(one.kind == MCAST_DATA ? one.count > 0 : one.count == 0);
        CHECK(one.kind < MCAST_SHORT || one.number == 0);
        seen[one.kind]++;
    }
    for (int kind = 0; kind <= MCAST_OTHER; kind++)
        CHECK(seen[kind] > 200);
}

static void
test_every_place_and_width(void)
{
    uint8_t payload[16];
    for (uint8_t i = 0; i < sizeof payload; i++)
        payload[i] = (uint8_t)(i + 1);
    for (uint32_t width = 1; width <= 8; width++)
        for (uint32_t offset = 0; offset <= sizeof payload; offset++)
            for (int way = 0; way < 4; way++) {
                int little = way & 1, by_loads = way >> 1;
                mcast_format format = {.bits = 64, .scale = 1, .end = UINT64_MAX, .heartbeat = UINT64_MAX};
                mcast_numbered one;
                uint64_t expected = 0;
                format.number.mask = width == 8 ? UINT64_MAX : (1ull << 8 * width) - 1;
                format.number.offset = offset;
                format.number.width = (uint8_t)width;
                format.number.little = (uint8_t)little;
                prepare(&format, by_loads);
                mcast_sequence_read(&format, payload, sizeof payload, &one);
                if (offset + width > sizeof payload) {
                    CHECK(one.kind == MCAST_SHORT);
                    continue;
                }
                for (uint32_t i = 0; i < width; i++)
                    expected = expected << 8 | payload[offset + (little ? width - 1 - i : i)];
                CHECK(one.kind == MCAST_DATA && one.count == 1 && one.number == expected);
            }
}

int
main(void)
{
    test_every_place_and_width();
    test_no_read_leaves_the_payload();
    puts("numbers of packets: every place and width; no read leaves the payload");
    return 0;
}
