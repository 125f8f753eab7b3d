/* For how long packets may pile up, by what was read before; and who has a decider. How it switches is tests/test_coalescing_pressure.py. */
#include "check.h"
#include "coalescing.h"

enum { BUFFER = 8 << 20, LONGEST_NS = 200 * 1000, MANY = 1 << 20 };

static int
grow(void *context)
{
    (void)context;
    return 0;
}

/* What a socket plans after it was read once, while packets come coalesced: `slots` of `packets` packets of 256 bytes. */
static int64_t
nap_after(mcast_coalescing_mode mode, int is_on, uint32_t buffer, unsigned slots, uint64_t packets, int is_full)
{
    mcast_coalescing coalescing = {.mode = mode, .window = INT64_MAX};
    mcast_coalescing_group group = {.is_on = is_on, .since = mcast_monotonic_ns(), .changed = mcast_monotonic_ns()};
    mcast_coalescing_socket socket = {.group = &group, .buffer = buffer, .read_at = mcast_monotonic_ns()};
    mcast_coalescing_read read = {
        .slots = slots, .bytes = packets * 256, .packets = packets, .coalesced = packets, .is_full = is_full};
    mcast_coalescing_note(&coalescing, &socket, &read, grow, NULL);
    int64_t nap = mcast_coalescing_take_nap(&socket);
    CHECK(mcast_coalescing_take_nap(&socket) == 0);
    return nap;
}

static void
test_naps(void)
{
    int64_t nap = nap_after(MCAST_COALESCES_UNDER_PRESSURE, 1, UINT32_MAX, MANY, 128, 0);
    CHECK(nap > 0 && nap <= LONGEST_NS);
    CHECK(nap_after(MCAST_COALESCES_UNDER_PRESSURE, 1, BUFFER, 0, 128, 0) == 0);    /* not dense */
    CHECK(nap_after(MCAST_COALESCES_UNDER_PRESSURE, 1, BUFFER, MANY, 128, 1) == 0); /* there is more already */
    CHECK(nap_after(MCAST_COALESCES_UNDER_PRESSURE, 1, 0, MANY, 128, 0) == 0);      /* no buffer to fill */
    CHECK(nap_after(MCAST_COALESCES_UNDER_PRESSURE, 0, BUFFER, MANY, 128, 0) == 0); /* off */
    CHECK(nap_after(MCAST_COALESCES_ALWAYS, 1, BUFFER, MANY, 128, 0) == 0);         /* nobody is under pressure */
}

/* A queue is seen for the first time: what takes long at the first switch is done, though nothing is switched. */
static void
test_preparation(void)
{
    mcast_coalescing coalescing = {.mode = MCAST_COALESCES_UNDER_PRESSURE, .window = INT64_MAX};
    mcast_coalescing_group group = {.since = mcast_monotonic_ns()};
    mcast_coalescing_socket socket = {.group = &group, .decider = -1, .buffer = BUFFER};
    group.sockets = &socket;
    mcast_coalescing_read read = {.slots = 255, .packets = 255, .is_full = 1};
    mcast_coalescing_note(&coalescing, &socket, &read, grow, NULL);
    CHECK(!group.is_prepared);
    mcast_coalescing_note(&coalescing, &socket, &read, grow, NULL);
    CHECK(group.is_prepared && !group.is_on && !socket.is_enabled);
}

static void
test_heirs(void)
{
    mcast_coalescing_socket one = {.decider = 7, .is_decided = 1}, other = {.decider = -1};
    mcast_coalescing_hand_over(&one, &other);
    CHECK(one.decider == -1 && other.decider == 7 && other.is_decided);
    mcast_coalescing_hand_over(&one, &other); /* again: nothing is left to hand over */
    CHECK(one.decider == -1 && other.decider == 7 && other.is_decided);
}

/* The oldest events give way to new ones; what is left comes in its order. */
static void
test_events(void)
{
    enum { MORE = 3, ALL = MCAST_COALESCING_EVENTS + MORE };
    mcast_coalescing coalescing = {.mode = MCAST_COALESCES_UNDER_PRESSURE, .window = INT64_MAX};
    mcast_coalescing_event event;
    for (int turn = 0; turn < 2; turn++) { /* from another place of the ring on */
        for (uint64_t key = 0; key < ALL; key++) {
            mcast_coalescing_group group = {.is_prepared = 1};
            mcast_coalescing_socket socket = {.group = &group, .key = key, .decider = -1};
            mcast_coalescing_read read = {.slots = 1, .packets = 2, .coalesced = 2};
            mcast_coalescing_note(&coalescing, &socket, &read, grow, NULL);
            mcast_coalescing_note(&coalescing, &socket, &read, grow, NULL); /* reported once */
        }
        for (uint64_t key = MORE; key < ALL; key++) {
            CHECK(mcast_coalescing_take_event(&coalescing, &event));
            CHECK(event.key == key && event.what == MCAST_COALESCING_BY_OTHERS && event.time > 0);
        }
        CHECK(!mcast_coalescing_take_event(&coalescing, &event));
    }
}

/* Drops are of buffers with several packets, maybe, while any may come coalesced: also what was on its way when it was switched off. */
static void
test_inexact_drops(void)
{
    for (int state = 0; state < 4; state++) {
        mcast_coalescing_group group = {.is_on = state == 1, .is_settling = state == 2, .has_coalesced = state == 3};
        mcast_coalescing_socket socket = {.group = &group, .meminfo_drops = UINT32_MAX - 4}; /* it is at 0 now */
        mcast_coalescing_count_drops(&socket);
        CHECK(socket.drops == 5 && socket.inexact_drops == (state ? 5 : 0));
        mcast_coalescing_count_drops(&socket);
        CHECK(socket.drops == 5);
    }
}

/* Whether it goes off after windows without pressure, of `packets` packets, when it went on at 1,000 packets per second. */
static int
goes_off(int64_t windows, uint64_t packets, int has_pressure)
{
    enum { WINDOW = 100 * 1000000, DECIDER = 7 };
    int64_t since = mcast_monotonic_ns() - windows * WINDOW - WINDOW / 2;
    mcast_coalescing coalescing = {.mode = MCAST_COALESCES_UNDER_PRESSURE, .window = WINDOW};
    mcast_coalescing_socket socket = {.decider = DECIDER, .is_decided = 1};
    mcast_coalescing_group group = {.sockets = &socket,
                                    .is_on = 1,
                                    .is_prepared = 1,
                                    .has_pressure = has_pressure,
                                    .since = since,
                                    .changed = since,
                                    .rate = 1000,
                                    .packets = packets,
                                    .calm_needed = 4};
    mcast_coalescing_event event;
    socket.group = &group;
    mcast_coalescing_read read = {.slots = 1, .packets = 1, .coalesced = 1};
    mcast_coalescing_note(&coalescing, &socket, &read, grow, NULL);
    int ended = mcast_coalescing_take_event(&coalescing, &event);
    CHECK(!ended || event.what == MCAST_COALESCING_ENDED);
    CHECK(group.is_on == !ended && group.packets == 0 && !group.has_pressure);
    return ended;
}

static void
test_calm(void)
{
    CHECK(goes_off(10, 200, 0));   /* much less than half of what it was */
    CHECK(!goes_off(2, 40, 0));    /* not long enough */
    CHECK(!goes_off(10, 200, 1));  /* there was pressure */
    CHECK(!goes_off(10, 2000, 0)); /* as much as ever: that it is on may be why it is calm */
    CHECK(goes_off(30, 6000, 0));  /* for five times as long, nevertheless */
}

int
main(void)
{
    test_naps();
    test_events();
    test_inexact_drops();
    test_calm();
    test_preparation();
    test_heirs();
    printf("naps of a dense stream, events, drops, calm, the first queue, and the heir of a decider\n");
    return 0;
}
