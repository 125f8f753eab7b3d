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

int
main(void)
{
    test_naps();
    test_preparation();
    test_heirs();
    printf("naps of a dense stream, the first queue, and the heir of a decider\n");
    return 0;
}
