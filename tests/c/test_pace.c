/* When what is sent is due: by a rate, and by the times of a recording. Arithmetic alone: what waits is tests/test_sender.py and tests/test_replay.py. */
#include "check.h"
#include "pace.h"

enum { START = 1000000000, STEP = 1000000, BURST = 4 };

static void
test_bursts(void)
{
    mcast_pace pace;
    mcast_pace_open(&pace, STEP, 0, BURST);
    mcast_pace_begin(&pace, START);
    const struct {
        size_t datagrams;
        uint64_t in_burst;
    } steps[] = {{3, 3}, {1, 0}, {5, 1}, {3, 0}, {4, 0}, {2, 2}};
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++) {
        mcast_pace_left(&pace, steps[i].datagrams, 100, START);
        CHECK(pace.in_burst == steps[i].in_burst);
    }
    CHECK(mcast_pace_due(&pace, pace.units) == START + 18 * STEP);
    mcast_pace_begin(&pace, START);
    CHECK(pace.in_burst == 0 && mcast_pace_due(&pace, pace.units) == START);
}

static void
test_achieved_rates(void)
{
    for (int by_bits = 0; by_bits < 2; by_bits++) {
        const double unit = by_bits ? 8 * 100 : 1; /* a datagram of 100 bytes */
        mcast_pace pace;
        mcast_pace_open(&pace, STEP, by_bits, 1);
        CHECK(mcast_pace_rate(&pace) == 0);
        mcast_pace_begin(&pace, START);
        mcast_pace_left(&pace, 10, 1000, START);
        CHECK(mcast_pace_rate(&pace) == 0); /* nothing has taken time yet */
        mcast_pace_left(&pace, 7, 700, START + 5 * STEP);
        CHECK(mcast_pace_rate(&pace) == 2000 * unit); /* ten in 5 ms: the last seven took none */
        mcast_pace_begin(&pace, START + 100 * STEP);
        CHECK(mcast_pace_rate(&pace) == 2000 * unit);
        mcast_pace_left(&pace, 30, 3000, START + 100 * STEP);
        mcast_pace_left(&pace, 1, 100, START + 105 * STEP);
        CHECK(mcast_pace_rate(&pace) == 4000 * unit);
    }
}

static void
test_schedules(void)
{
    const mcast_record records[] = {{.timestamp = 100}, {.timestamp = 50}, {.timestamp = 300}, {.timestamp = 200}};
    const int64_t dues[] = {START, START, START + 400, START + 400}; /* none before the one ahead of it */
    mcast_schedule schedule = {0};
    int64_t due;
    for (int turn = 0; turn < 2; turn++) { /* a file is sent again from its start */
        mcast_schedule_start(&schedule, 100, START, 2);
        CHECK(mcast_schedule_count(&schedule, records, 4, START - 1, &due) == 0 && due == START);
        CHECK(mcast_schedule_count(&schedule, records, 4, START, &due) == 2 && due == START + 400);
        CHECK(mcast_schedule_count(&schedule, records, 4, START + 400, &due) == 4);
        for (size_t i = 0; i < 4; i++) {
            mcast_schedule_left(&schedule, &records[i], 1, dues[i] + 7);
            CHECK(schedule.reached == dues[i] && schedule.latest == 7);
        }
    }
}

int
main(void)
{
    test_bursts();
    test_achieved_rates();
    test_schedules();
    puts("bursts, achieved rates, and schedules that go back");
    return 0;
}
