/* The tracker under sanitizers: the identity of every flow after every batch, whatever comes, with flows that give way and gaps that are
 * forgotten; and what changed never reaches beyond what was sent. What is counted rightly is tests/test_sequence.py. */
#include "check.h"
#include "tracker.h"
#include <string.h>

enum { ROUNDS = 4000, BATCH = 50, LIMIT = 7, SIZE = 6 };

static uint32_t random_state = 12345;

static uint32_t
below(uint32_t bound)
{
    random_state = random_state * 1664525u + 1013904223u;
    return (random_state >> 8) % bound;
}

static mcast_format
numbered(uint8_t width)
{
    mcast_format format = {.bits = (uint8_t)(8 * width), .scale = 1, .heartbeat = 0, .end = 5, .has_count = 1};
    format.number = (mcast_field){.mask = UINT64_MAX >> (64 - 8 * width), .offset = 0, .width = width};
    format.count = (mcast_field){.mask = 0xff, .offset = 4, .width = 1};
    format.keys[0] = (mcast_field){.mask = 0xff, .offset = 5, .width = 1};
    format.key_count = 1;
    mcast_format_prepare(&format);
    return format;
}

static void
check_flows(mcast_tracker *tracker)
{
    mcast_tracked flows[LIMIT];
    size_t count = mcast_tracker_flows(tracker, below(2) ? INT64_MAX : 0, flows, LIMIT);
    CHECK(count <= LIMIT);
    for (size_t i = 0; i < count; i++)
        CHECK(mcast_flow_expected(&flows[i]) ==
              flows[i].received - flows[i].duplicates + flows[i].lost + flows[i].pending);
}

static void
test_identity(uint8_t width, uint32_t flows)
{
    mcast_format format = numbered(width);
    mcast_tracker *tracker;
    mcast_record records[BATCH];
    uint8_t arena[BATCH * SIZE];
    uint32_t number = 0;
    int64_t time = 1000;
    mcast_changes changes = {0};
    CHECK(mcast_tracker_open(&tracker, &format, 0, 500, LIMIT) == 0);
    for (int round = 0; round < ROUNDS; round++) {
        memset(records, 0, sizeof records);
        for (uint32_t i = 0; i < BATCH; i++) {
            uint8_t *payload = arena + i * SIZE;
            number = below(200) == 0 ? below(UINT32_MAX) : number + below(6) - 2;
            time += below(40) == 0 ? (int64_t)below(100000) - 20000 : below(3);
            for (uint32_t byte = 0; byte < width; byte++)
                payload[byte] = (uint8_t)(number >> 8 * (width - 1 - byte));
            payload[4] = (uint8_t)(below(10) ? 1 + below(3) : below(6));
            payload[5] = (uint8_t)below(flows);
            records[i] = (mcast_record){.timestamp = time, .offset = i * SIZE, .length = SIZE};
        }
        changes.count = 0;
        mcast_tracker_update(tracker, records, BATCH, arena, round % 2 ? &changes : NULL);
        check_flows(tracker);
    }
    CHECK(flows <= LIMIT ? tracker->evicted == 0 : tracker->evicted > 100);
    free(changes.memory);
    mcast_tracker_keep(tracker);
    mcast_tracker_release(tracker);
    mcast_tracker_release(tracker);
}

/* Every second number, more of them than are remembered; then the others, from the last one down. */
static void
test_more_gaps_than_are_remembered(void)
{
    enum { COUNT = MCAST_MOST_GAPS + 100 };
    mcast_format format = numbered(4);
    mcast_tracker *tracker;
    mcast_tracked flow;
    CHECK(mcast_tracker_open(&tracker, &format, 0, 1000000, LIMIT) == 0);
    for (uint32_t i = 0; i < 2 * COUNT; i++) {
        uint32_t number = i < COUNT ? 2 * i : 2 * (2 * COUNT - 1 - i) + 1;
        uint8_t payload[SIZE] = {
            (uint8_t)(number >> 24), (uint8_t)(number >> 16), (uint8_t)(number >> 8), (uint8_t)number, 1, 0};
        mcast_record record = {.timestamp = 1000, .length = SIZE};
        mcast_tracker_update(tracker, &record, 1, payload, NULL);
    }
    CHECK(mcast_tracker_flows(tracker, 0, &flow, 1) == 1);
    CHECK(flow.received == 2 * COUNT && flow.pending == 0);
    CHECK(flow.lost == flow.duplicates && flow.lost >= COUNT - 1 - MCAST_MOST_GAPS && flow.lost < COUNT);
    mcast_tracker_release(tracker);
}

int
main(void)
{
    for (uint8_t width = 1; width <= 4; width++) {
        test_identity(width, LIMIT);
        test_identity(width, 3 * LIMIT);
    }
    test_more_gaps_than_are_remembered();
    printf("%d batches tracked, and every flow adds up\n", 8 * ROUNDS);
    return 0;
}
