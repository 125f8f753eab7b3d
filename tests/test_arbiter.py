"""Arbiter: whatever legs bring, in whatever order, each number comes once and is counted rightly, on every leg."""

import contextlib

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import errors, files, sequence
from mcast_fast._core.extraction import Turn
from mcast_fast._core.layout import FIELDS
from mcast_fast._core.pure import arbiter_run
from mcast_fast.sequence import Arbiter, LegState
from tests.conftest import has_fast
from tests.legs import GROUPS, MS, NOW, Played, batch_of, check, leg, numbers

FORMAT = "u64be@0"
HOLD = 50  # ms
LONG_ENOUGH = bytes(8)  # behind the last field: the C reads each by one load then


def arbitrated(*legs, form=FORMAT, width=8, **options):
    """The numbers that come out, and the ledger."""
    with Arbiter(legs, form, **options) as feed:
        got = numbers(feed, width)
        stats = feed.stats
    check(stats)
    assert stats.received == len(got)
    return got, stats


def of(stats, *names):
    return tuple(getattr(stats, name) for name in names)


def legs_of(stats, name):
    return [getattr(one, name) for one in stats.legs]


def without(lost, count=1000, step=1.0, delay=0.0, start=0):
    return [(number, delay + number * step) for number in range(start, count) if number not in lost]


# ---- by hand ----


@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("skew", [0, 33, 450])
def test_each_number_once_whatever_one_leg_lost(backend, order, skew):
    lost_a, lost_b = set(range(3, 1000, 7)), set(range(5, 1000, 5))
    got, stats = arbitrated(
        leg(without(lost_a)), leg(without(lost_b, delay=skew), GROUPS[1]), hold="500ms", order=order
    )
    both = lost_a & lost_b
    expected = [number for number in range(1000) if number not in both]
    assert (got if order else sorted(got)) == expected
    assert legs_of(stats, "lost") == [len(lost_a), len(lost_b)]
    assert legs_of(stats, "covered") == [len(lost_a - both), len(lost_b - both)]
    assert of(stats, "expected", "delivered", "unrecovered") == (1000, 1000 - len(both), len(both))
    assert of(stats, "pending", "held", "late", "restarts", "ambiguous", "lost") == (0, 0, 0, 0, 0, len(both))
    assert stats.skew.max == skew * MS
    assert legs_of(stats, "state") == [LegState.ENDED] * 2


def test_packets_keep_what_they_came_with(backend):
    a = leg([(0, 0), (2, 2)], tail=b"left")
    b = leg([(1, 11), (2, 12)], GROUPS[1], tail=b"right")
    with Arbiter([a, b], FORMAT) as feed:
        packets = [packet for batch in feed for packet in batch]
    assert [bytes(packet)[8:] for packet in packets] == [b"left", b"right", b"left"]
    assert [packet.timestamp - NOW for packet in packets] == [0, 11 * MS, 2 * MS]
    assert [packet.group for packet in packets] == ["239.1.1.1", "239.2.1.1", "239.1.1.1"]
    assert [packet.interface for packet in packets] == ["eth0"] * 3


def test_interfaces_of_files_keep_their_names(backend):
    """Files count them for themselves: the first of each is 1."""
    legs = [Played([batch_of([(at, NOW + at, at.to_bytes(8, "big"))], GROUPS[at], index=1)]) for at in range(2)]
    for at, one in enumerate(legs):
        batch = one.recv_batch()
        one._batches = iter([type(batch).from_bytes(batch.records, batch.data, {1: f"eth{at}"})])
    with Arbiter(legs, FORMAT) as feed:
        assert [packet.interface for batch in feed for packet in batch] == ["eth0", "eth1"]


def test_a_number_is_waited_for_no_longer_than_hold(backend):
    """Missing on both: what is behind it comes when `hold` has passed, by the time of arrival."""
    a = leg([(0, 0), (2, 2), (3, 10), (4, 51), (5, 52), (6, 60)], size=1)
    with Arbiter([a], FORMAT, hold="50ms", timeout=0) as feed:
        a.live = True
        seen = []
        with pytest.raises(TimeoutError):
            while True:
                seen += numbers([feed.recv_batch()])
        check(feed.stats)
        assert seen[:1] == [0]
        assert sorted(set(seen)) == seen
        assert 1 not in seen
        assert feed.stats.unrecovered == 1
        assert seen[-1] == 6


def test_what_waits_stays_whole_however_much_it_is(backend):
    """More than one piece of memory holds, again after all of it was free."""
    order, at = [0, 1], 2
    for waiting in (1, 600, 1, 600):
        order += [*range(at + 1, at + 1 + waiting), at]
        at += 1 + waiting
    rows = [(number, place + 2000 * (place > 0)) for place, number in enumerate(order)]
    got, stats = arbitrated(leg(rows, tail=bytes(1000)), hold="1s")
    assert got == list(range(at))
    assert of(stats, "held", "late", "unrecovered") == (0, 0, 0)


@pytest.mark.parametrize("order", [True, False])
def test_the_leg_that_had_a_number_first_is_that_of_the_earlier_time(backend, order):
    """Though its packet is looked at later, for its times go back."""
    a = leg([(0, 0), (1, 10), (2, 30)])
    b = leg([(0, 1), (2, 20), (1, 5)], GROUPS[1])
    got, stats = arbitrated(a, b, order=order)
    assert sorted(got) == [0, 1, 2]
    assert legs_of(stats, "first") == [1, 2]
    assert stats.skew.max == 10 * MS


def test_more_than_half_of_the_numbers_at_once_is_ambiguous_once(backend):
    """As long as one that is missing is waited for, so many others came that their numbers may be of another round."""
    rows = [(number, number / 100) for number in range(200) if number != 1]
    got, stats = arbitrated(leg(rows, width=1), form="u8@0", width=1)
    assert got == [number for number, _ in rows]
    assert of(stats, "ambiguous", "unrecovered", "restarts") == (1, 1, 0)


def test_three_legs(backend):
    lost = [set(range(start, 600, step)) for start, step in ((1, 3), (2, 4), (3, 5))]
    legs = [leg(without(one, 600, delay=7 * at), GROUPS[at]) for at, one in enumerate(lost)]
    got, stats = arbitrated(*legs)
    all_lost = set.intersection(*lost)
    assert got == [number for number in range(600) if number not in all_lost]
    assert legs_of(stats, "lost") == [len(one) for one in lost]
    assert stats.recovered == sum(len(one - all_lost) for one in lost)
    assert stats.unrecovered == len(all_lost)


@pytest.mark.parametrize("width", range(1, 9))
def test_numbers_wrap(backend, width):
    top = 1 << 8 * width
    rows = [(number, at) for at, number in enumerate(range(top - 30, top + 30))]
    a, b = ([(n, t + d) for n, t in rows if n % m] for m, d in ((7, 0), (5, 10)))
    order = "be" if width > 1 else ""
    got, stats = arbitrated(
        leg(a, width=width), leg(b, GROUPS[1], width=width), form=f"u{8 * width}{order}@0", width=width
    )
    assert got == [number % top for number, _ in rows if number % 35]
    assert of(stats, "expected", "delivered", "restarts", "ambiguous") == (60, len(got), 0, 0)


def test_packets_that_cover_several_numbers(backend):
    """MoldUDP64: both legs may cut messages into packets otherwise."""

    def packet(number, count, when):
        return number, NOW + when * MS, b"session 10" + number.to_bytes(8, "big") + count.to_bytes(2, "big")

    a = Played([batch_of([packet(1, 3, 0), packet(7, 2, 2), packet(9, 0, 3)], GROUPS[0])])
    b = Played([batch_of([packet(1, 3, 5), packet(4, 4, 6), packet(8, 1, 7), packet(9, 0xFFFF, 8)], GROUPS[1])])
    with Arbiter([a, b], "moldudp64") as feed:
        firsts = [int.from_bytes(bytes(one)[10:18], "big") for batch in feed for one in batch]
        stats = feed.stats
    check(stats)
    assert firsts == [1, 4, 7]
    assert of(stats, "expected", "delivered", "unrecovered") == (8, 8, 0)
    assert legs_of(stats, "lost") == [3, 0]
    assert legs_of(stats, "heartbeats") == [1, 1]


def test_a_heartbeat_shows_what_was_sent_before_it(backend):
    def packet(number, count, when):
        return number, NOW + when * MS, b"session 10" + number.to_bytes(8, "big") + count.to_bytes(2, "big")

    a = Played([batch_of([packet(1, 1, 0), packet(4, 0, 3)], GROUPS[0])])
    with Arbiter([a], "moldudp64") as feed:
        assert sum(map(len, feed)) == 1
        assert of(feed.stats, "expected", "delivered", "unrecovered") == (3, 1, 2)
        check(feed.stats)


def test_two_flows_are_decided_apart(backend):
    """By the format's key: each has its own numbers."""
    rows = [
        (number, NOW + number * MS, number.to_bytes(8, "big") + bytes([key])) for number in range(50) for key in (1, 2)
    ]
    a = Played([batch_of([row for row in rows if row[0] != 7 or row[2][8] == 1], GROUPS[0])])
    b = Played([batch_of([row for row in rows if row[2][8] == 1], GROUPS[1])])
    with Arbiter([a, b], "u64be@0/u8@8") as feed:
        got = [bytes(one) for batch in feed for one in batch]
        stats = feed.stats
    check(stats)
    assert sorted(got) == sorted(row[2] for row in rows if row[0] != 7 or row[2][8] == 1)
    assert of(stats, "followed", "unrecovered") == (2, 1)
    assert legs_of(stats, "absent") == [0, 50]


# ---- what MTL had wrong (shared/facts.md) ----


@pytest.mark.long
@pytest.mark.parametrize("order", [True, False])
def test_a_leg_that_is_late_by_many_packets_is_no_restart(backend, order):
    """MTL#1285: a window of five packets took a leg's late packets for new ones: 33 ms between legs, and no picture."""
    got, stats = arbitrated(
        leg(without((), 3000, step=0.1)), leg(without((), 3000, step=0.1, delay=33), GROUPS[1]), order=order
    )
    assert got == list(range(3000))
    assert of(stats, "restarts", "duplicates") == (0, 3000)
    assert legs_of(stats, "lost") == [0, 0]


def test_a_leg_later_than_hold_neither_restarts_the_feed_nor_loses_anything(backend):
    """MTL#1285: it is `late`, and takes back what it was charged for."""
    got, stats = arbitrated(
        leg(without((), 3000, step=0.1)), leg(without((), 3000, step=0.1, delay=450), GROUPS[1]), hold="50ms"
    )
    assert got == list(range(3000))
    assert of(stats, "restarts", "unrecovered", "recovered") == (0, 0, 0)
    assert legs_of(stats, "lost") == [0, 0]
    assert legs_of(stats, "late") == [0, 3000]


@pytest.mark.parametrize("skew", [33, 450])
def test_the_wait_is_in_time_not_in_packets(backend, skew):
    """MTL#1242: receivers of low rates (ST 2022-7, class D) wait up to 450 ms."""
    lost = set(range(10, 200, 11))
    got, stats = arbitrated(
        leg(without(lost, 200, step=5)), leg(without((), 200, step=5, delay=skew), GROUPS[1]), hold="500ms"
    )
    assert got == list(range(200))
    assert stats.recovered == len(lost)


def test_no_leg_is_charged_before_its_twin_could_come(backend):
    """MTL#1607: loss was charged at once. It is pending until `hold` has passed on every leg."""
    a, b = leg([(0, 0), (1, 1), (3, 3)], live=True), leg([(0, 1.5), (1, 2.5)], GROUPS[1], live=True)
    with Arbiter([a, b], FORMAT, hold="10s", timeout="20ms") as feed:
        with pytest.raises(TimeoutError):
            feed.recv_batch()
        stats = feed.stats
        check(stats)
        assert legs_of(stats, "lost") == [0, 0]
        assert legs_of(stats, "pending") == [1, 2]
        feed.flush()
        assert numbers([feed.recv_batch()]) == [0, 1, 3]
        stats = feed.stats
        check(stats)
        assert legs_of(stats, "lost") == [1, 2]
        assert of(stats, "unrecovered", "recovered", "pending") == (1, 1, 0)


def test_a_loss_is_credited_to_the_leg_that_had_it(backend):
    """MTL#1554: the other leg got it. Each leg's ledger adds up by itself, beside the feed's."""
    lost_a, lost_b = {100, 101, 102, 500}, {300, 500}
    _, stats = arbitrated(leg(without(lost_a)), leg(without(lost_b, delay=33), GROUPS[1]))
    assert legs_of(stats, "lost") == [4, 2]
    assert legs_of(stats, "covered") == [3, 1]
    assert legs_of(stats, "received") == [996, 998]
    assert legs_of(stats, "first") == [996, 3]
    assert of(stats, "recovered", "unrecovered") == (4, 1)


@pytest.mark.long
@pytest.mark.parametrize("order", [True, False])
@pytest.mark.parametrize("skew", [0, 33])
def test_a_number_that_steps_back_is_a_restart_and_no_freeze(backend, order, skew):
    """MTL#1311: it froze the receiver. What the legs still bring of the run before is delivered first."""
    old, new = list(range(5000, 9000)), list(range(3000))
    rows = [(number, at * 0.5) for at, number in enumerate(old + new)]
    a = [row for row in rows if row[0] % 10]
    b = [(number, when + skew) for number, when in rows if number % 11]
    got, stats = arbitrated(leg(a), leg(b, GROUPS[1]), order=order)
    lost = [sum(number % m == 0 for number, _ in rows) for m in (10, 11)]
    wanted = [number for number, _ in rows if number % 110]
    assert (got if order else sorted(got)) == (wanted if order else sorted(wanted))
    assert of(stats, "restarts", "ambiguous") == (1, 1)
    assert [one.lost + one.absent for one in stats.legs] == [lost[0] - 1, lost[1] - 1]  # 0: nothing shows it


def test_a_new_session_is_a_new_flow(backend):
    """What a key tells is not ambiguous, and nothing of it is lost."""
    rows = [(n, NOW + n * MS, n.to_bytes(8, "big") + b"A") for n in range(500, 700)]
    rows += [(n, NOW + (200 + n) * MS, n.to_bytes(8, "big") + b"B") for n in range(100)]
    with Arbiter([Played([batch_of(rows, GROUPS[0])])], "u64be@0/b1@8") as feed:
        assert sorted(numbers(feed)) == sorted(row[0] for row in rows)
        assert of(feed.stats, "restarts", "ambiguous", "followed", "expected") == (0, 0, 2, 300)


# ---- silence ----


@pytest.mark.long
def test_a_silent_leg_is_a_state_and_not_the_loss_of_everything(backend):
    """What was sent while it was silent counts as absent; it comes back, and goes on."""
    silent = set(range(2000, 7000))
    got, stats = arbitrated(leg(without({5}, 9000)), leg(without(silent, 9000, delay=10), GROUPS[1]))
    assert got == list(range(9000))
    assert stats.restarts == 0
    one, other = stats.legs
    assert of(one, "lost", "absent", "covered") == (1, 0, 1)
    assert other.lost + other.absent == len(silent)
    # behind since 2009, when the other leg next came after its last; what is charged within a second of that counts as lost
    assert other.lost == 1009 - HOLD
    assert other.covered == other.lost


@pytest.mark.parametrize(
    ("ms", "hold", "state"), [(999, "50ms", "receiving"), (1000, "50ms", "silent"), (1000, "600ms", "receiving")]
)
def test_a_leg_that_brings_nothing_for_a_second_and_twice_the_hold_is_silent(backend, ms, hold, state):
    rows, got = without((), 101 + ms), []
    legs = leg(rows, live=True), leg(rows[:101], GROUPS[1], live=True)
    with Arbiter(legs, FORMAT, hold=hold) as feed:
        while len(got) < len(rows):
            with contextlib.suppress(TimeoutError):
                got += numbers([feed.recv_batch(timeout=0)])
        assert legs_of(feed.stats, "state") == ["receiving", state]
        assert feed.stats.legs[1].silent_since == (NOW + 100 * MS if state == "silent" else None)


def test_silence_of_both_legs_is_neither_loss_nor_restart(backend):
    rows = [(number, number + (5000 if number >= 500 else 0)) for number in range(1000)]
    got, stats = arbitrated(leg(rows), leg([(n, t + 33) for n, t in rows], GROUPS[1]))
    assert got == list(range(1000))
    assert of(stats, "unrecovered", "restarts", "ambiguous") == (0, 0, 0)
    assert [one.lost + one.absent for one in stats.legs] == [0, 0]


def test_a_leg_that_never_came_is_waiting(backend):
    with Arbiter([leg(without((), 500)), Played([], live=True)], FORMAT, timeout=0) as feed:
        got = []
        with pytest.raises(TimeoutError):
            while True:
                got += numbers([feed.recv_batch()])
        stats = feed.stats
        assert stats.legs[1].state is LegState.WAITING
        assert stats.legs[1].lost == 0
        check(stats)


@pytest.mark.long
def test_silence_on_16_bits_is_ambiguous_where_the_numbers_may_have_come_around(backend):
    rows = [(number, number * 0.01) for number in range(5_000)]
    rows += [(number, 5_000 + number * 0.01) for number in range(5_000, 5_100)]
    _, stats = arbitrated(leg(rows, width=2), form="u16be@0", width=2)
    assert stats.ambiguous == 1
    _, stats = arbitrated(leg(rows), form=FORMAT)
    assert stats.ambiguous == 0


@pytest.mark.long
def test_one_silent_leg_on_16_bits_is_not_ambiguous(backend):
    """The numbers of the other leg tell how far the feed has come."""
    count = 80_000
    rows = [(number, number * 0.05) for number in range(count)]
    silent = range(10_000, 55_000)
    b = [(n, t + 5) for n, t in rows if n not in silent]
    _, stats = arbitrated(leg(rows, width=2, size=4096), leg(b, GROUPS[1], width=2, size=4096), form="u16be@0", width=2)
    assert of(stats, "expected", "ambiguous", "restarts") == (count, 0, 0)
    assert stats.legs[1].lost + stats.legs[1].absent == len(silent)


# ---- memory ----


def test_what_waits_is_bounded(backend):
    a = leg([(0, 0), *((number, 1) for number in range(2, 2000))], tail=bytes(1000))
    got, stats = arbitrated(a, hold="10s", memory="64KiB")
    assert got == [0, *range(2, 2000)]
    assert stats.overflows == 2  # while it waits at the start, and for the missing number


def test_a_gap_larger_than_what_is_remembered_is_counted_at_once(backend):
    far = 3_000_000
    got, stats = arbitrated(leg([(0, 0), (1, 60), (far, 2000), (far + 1, 2001)]), leg([(0, 1), (far, 2002)], GROUPS[1]))
    assert got == [0, 1, far, far + 1]
    assert of(stats, "expected", "unrecovered", "restarts") == (far + 2, far - 2, 0)
    assert [one.lost + one.absent for one in stats.legs] == [far - 2, far]


@pytest.mark.parametrize("order", [True, False])
def test_a_jump_costs_no_more_than_a_step(backend, order):
    """A million numbers that are missing at once, 10,000 times: with a slot for each of them, no test would end."""
    count, far = 10_000, 1_000_000
    rows = [(at * far, at) for at in range(count)]
    got, stats = arbitrated(leg(rows), leg(rows[:1], GROUPS[1]), order=order)
    assert got == [number for number, _ in rows]
    assert of(stats, "expected", "delivered", "restarts") == (rows[-1][0] + 1, count, 0)
    assert stats.unrecovered == stats.legs[0].lost == (count - 1) * (far - 1)
    assert stats.legs[1].lost + stats.legs[1].absent == (count - 1) * far
    check(stats)


@pytest.mark.parametrize("order", [True, False])
def test_each_number_of_a_jump_has_its_own_fate(backend, order):
    """The other leg brings some of what a leg jumped over: from either end, in the middle, next to each other, and twice."""
    far = 500_000
    late = [1, 2, far - 1, far // 2, far // 2 + 1, 100, 99, 400_000, 1, far // 2 + 200]
    b = [(0, 0), *((number, 21 + at / 100) for at, number in enumerate(late)), (far, 30)]
    got, stats = arbitrated(leg([(0, 0), (far, 20)]), leg(b, GROUPS[1]), hold="50ms", order=order)
    brought = sorted(set(late))
    assert sorted(got) == [0, *brought, far]
    assert not order or got == sorted(got)
    assert of(stats, "unrecovered", "late", "restarts") == (far - 1 - len(brought), 0, 0)
    assert legs_of(stats, "lost") == [far - 1, far - 1 - len(brought)]
    assert legs_of(stats, "covered") == [len(brought), 0]
    assert stats.legs[1].duplicates == 1
    check(stats)


def test_slots_are_as_many_as_packets_and_not_as_numbers():
    state = arbiter_run.State(64, 2, 50 * MS, True, 1 << 20)
    legs = [arbiter_run.LegFlow(), arbiter_run.LegFlow()]
    run = arbiter_run.Run(state, 0, 0)
    for at in range(1, 1001):
        run.advance(legs, 0, at * 1000)
        assert len(run.slots) == len(run.spans) == at
    for number in range(500, 1_000_000, 1000):
        run.admit(arbiter_run.Arrival((0,) * len(FIELDS), b"", 1), number, number + 1)
    assert (len(run.slots), len(run.spans)) == (3000, 2000)
    run.settle(legs, run.next)
    run.advance(legs, 0, (1 << 20) + 499_750)  # what is forgotten ends inside of a span
    assert run.tail in run.slots
    assert run.tail == 499_750
    assert sum(slot.count for slot in run.slots.values()) == state.positions == 1 << 20
    run.advance(legs, 0, 10**9)
    assert (len(run.slots), state.positions) == (1, 1 << 20)


def test_flows_that_are_silent_give_way(backend):
    rows = [(n, NOW + (key * 3 + n) * MS, n.to_bytes(8, "big") + bytes([key])) for key in range(9) for n in range(3)]
    with Arbiter([Played([batch_of(rows, GROUPS[0])])], "u64be@0/u8@8", max_flows=2) as feed:
        assert sum(map(len, feed)) == 27
        check(feed.stats)
        assert of(feed.stats, "evicted", "followed", "delivered") == (7, 2, 27)


# ---- legs and groups ----


def test_groups_belong_together_by_pairs(backend):
    def batch(groups):
        rows = [batch_of([(n, NOW + n * MS, n.to_bytes(8, "big"))], group) for n in range(10) for group in groups]
        return Played(rows)

    left, right = batch(GROUPS[:2]), batch(GROUPS[2:4])
    pairs = {"239.1.1.1:5000": "239.4.1.1:5000", "239.2.1.1": ["239.3.1.1"]}
    with Arbiter([left, right], FORMAT, pairs=pairs) as feed:
        got = [(packet.group, packet.data) for batch in feed for packet in batch]
        stats = feed.stats
    assert len(got) == len(set(got)) == 20
    assert of(stats, "followed", "duplicates", "unrecovered") == (2, 20, 0)
    check(stats)


def test_a_second_group_that_nobody_named_is_refused(backend):
    rows = [batch_of([(0, NOW, bytes(8))], group) for group in GROUPS[:2]]
    second = r"leg 0 has packets of a second group, 239\.2\.1\.1 port 5000"
    with Arbiter([Played(rows)], FORMAT) as feed, pytest.raises(errors.ArgumentError, match=second):
        feed.collect(10)


def test_readers_pair_their_groups_by_position(backend, tmp_path):
    paths = [tmp_path / f"{name}.pcapng" for name in "ab"]
    for at, path in enumerate(paths):
        with files.Writer(path) as writer:
            for group in (GROUPS[at], GROUPS[at + 4]):
                writer.write(
                    batch_of([(n, NOW + n * MS, n.to_bytes(8, "big")) for n in range(10) if n != at + 3], group)
                )
    named = [("239.1.1.1:5000", "239.5.1.1:5000"), ("239.2.1.1:5000", "239.6.1.1:5000")]
    with mcast.open(paths[0], named[0]) as a, mcast.open(paths[1], named[1]) as b, Arbiter([a, b], FORMAT) as feed:
        assert sum(map(len, feed)) == 20
        assert legs_of(feed.stats, "lost") == [2, 2]
        check(feed.stats)
    with mcast.open(paths[0], named[0]) as a, mcast.open(paths[1], named[1][0]) as b:
        legs = [a, b]
        with pytest.raises(errors.ArgumentError, match="the legs have 2, 1 groups"):
            Arbiter(legs, FORMAT)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hold": 0},
        {"hold": "2min"},
        {"memory": "2GiB"},
        {"max_flows": 0},
        {"format": "spead"},
        {"format": "nothing"},
        {"pairs": {"239.1.1.1": "239.1.1.2"}},
        {"pairs": ["239.1.1.1"]},
        {"legs": []},
        {"legs": [Played([])] * 2},
        {"legs": [Played([]) for _ in range(9)]},
        {"batch_size": 0},
    ],
    ids=lambda wrong: next(
        f"{name}-{len(value)}" if name == "legs" else f"{name}-{value}" for name, value in wrong.items()
    ),
)
def test_wrong_arguments_are_refused(backend, wrong):
    with pytest.raises(errors.ArgumentError):
        Arbiter(**({"legs": [Played([])], "format": FORMAT} | wrong))


def test_a_leg_is_a_source(backend):
    with pytest.raises(errors.ArgumentError, match="a leg is a Receiver, a Reader or another Source, not int"):
        Arbiter([7], FORMAT)


# ---- as a source ----


def test_it_is_used_as_any_source_is(backend):
    def feed():
        return Arbiter([leg(without({4}, 100)), leg(without({7}, 100, delay=3), GROUPS[1])], FORMAT)

    everything = list(range(100))
    with feed() as one:
        assert isinstance(one, mcast.Source)
        assert [int.from_bytes(packet.data, "big") for packet in one.packets()] == everything
    with feed() as one:
        assert numbers(one.batches(count=30)) == everything[:30]
        assert numbers([one.recv_batch(5)]) == everything[30:35]
        assert int.from_bytes(one.recv().data, "big") == 35
        batch = one.recv_batch(4)
        one.give_back([batch])
        assert one.wait(0)
        assert numbers([one.collect(1000)]) == everything[36:]
        assert len(one.collect(10)) == 0
        with pytest.raises(EOFError):
            one.recv()
    assert one.closed
    with pytest.raises(errors.ClosedError, match="the arbiter is closed"):
        one.recv_batch()


def test_differences_of_the_ledger(backend):
    a = leg(without({4}, 100), size=10)
    with Arbiter([a], FORMAT) as feed:
        feed.recv_batch()
        before = feed.stats
        feed.collect(1000)
        since = feed.stats - before
    assert since.delivered == 99 - before.delivered
    assert since.legs[0].received == 99 - before.legs[0].received
    assert (feed.stats.skew - feed.stats.skew).histogram == ()
    assert "leg 0: received" in feed.stats._repr_html_()


# ---- against a model, and of both backends ----


def first_of(events):
    """The feed's first number: the lowest that comes within the hold from the start."""
    return min(number for when, _, number in events if when - events[0][0] < HOLD)


class Model:
    """What becomes of one run that lasts less than a second. Events: (ms, leg, number), in their order, at no time two."""

    def __init__(self, events, legs):
        first, initial = first_of(events), events[0][2]
        last, due = max(number for _, _, number in events), 0
        came = {}
        for when, by, number in events:
            came.setdefault((by, number), when)
        self.expected = last - first + 1
        self.delivered, self.late = [], 0
        self.lost, self.covered, self.absent, self.outside = ([0] * legs for _ in range(4))
        for _, by, number in events:
            self.outside[by] += number < first
        for number in range(first, last + 1):
            times = [came.get((by, number)) for by in range(legs)]
            earliest = min((when for when in times if when is not None), default=None)
            shown = min(when for when, _, n in events if (n >= number if number >= initial else n <= number))
            given_up = max(due, shown + HOLD)
            is_there = earliest is not None and earliest < given_up
            due = max(due, earliest + HOLD) if is_there else given_up
            if is_there:
                self.delivered.append(number)
            for by, when in enumerate(times):
                if when is None:
                    own = [n for at, leg, n in events if leg == by and at < due]
                    before = own[:1] + [n for n in own[1:] if n >= first]  # a leg begins with what it brings first
                    self.absent[by] += not before or number < min(before)
                    self.lost[by] += bool(before) and number >= min(before)
                    self.covered[by] += bool(before) and number >= min(before) and is_there
            self.late += not is_there and earliest is not None


def looks_begun_anew(events):
    """Whether a leg twice in a row brings what it brought before, or what is before the feed's first number: so does a
    sender that began anew, and the model knows one run."""
    first, brought, suspects = first_of(events), set(), set()
    for _, by, number in events:
        is_old = number < first or (by, number) in brought
        if is_old and by in suspects:
            return True
        (suspects.add if is_old else suspects.discard)(by)
        brought.add((by, number))
    return False


@pytest.mark.long
@given(
    steps=st.lists(
        st.tuples(st.booleans(), st.booleans(), st.integers(0, 80), st.integers(0, 80)), min_size=2, max_size=60
    ),
    again=st.lists(st.tuples(st.integers(0, 59), st.integers(0, 1), st.integers(1, 30)), max_size=10),
    legs=st.integers(2, 3),
)
def test_any_order_loss_and_repetition_is_as_the_model_says(backend, steps, again, legs):
    events = []
    for at, (lost_a, lost_b, delay_a, delay_b) in enumerate(steps):
        copies = [(lost_a, delay_a), (lost_b, delay_b), (lost_a != lost_b, (delay_a + delay_b) / 2)]
        events += [(at * 7 + delay, by, at) for by, (lost, delay) in enumerate(copies[:legs]) if not lost]
    for at, by, delay in again:
        events += [(when + delay, by, n) for when, leg_at, n in events if (leg_at, n) == (by, at)][:1]
    events = sorted((when + place / 1000, by, n) for place, (when, by, n) in enumerate(events))
    assume(events)
    assume(not looks_begun_anew(events))
    model = Model(events, legs)
    rows = [[(n, when) for when, leg_at, n in events if leg_at == by] for by in range(legs)]
    got, stats = arbitrated(*(leg(one, GROUPS[by], size=5) for by, one in enumerate(rows)))
    assert got == model.delivered
    assert of(stats, "expected", "late", "restarts") == (model.expected, model.late, 0)
    for name in ("lost", "covered", "absent", "outside"):
        assert legs_of(stats, name) == getattr(model, name)


def steps_of(ahead, times, *more):
    """Packets of three legs: the leg, how far its number is ahead of what is expected, the time since the one before, and more."""
    return st.lists(st.tuples(st.integers(0, 2), ahead, st.sampled_from(times), *more), max_size=80)


@pytest.mark.long
@settings(max_examples=200)
@given(
    steps=steps_of(
        st.integers(-3, 4) | st.sampled_from([-2000, -300, -40, 40, 300, 3000, 2**40, 2**63]),
        [0, 1, 100, 400, 1000, 10_000, -500, 3_000_000_000, -2_000_000_000],
        st.integers(0, 4),
        st.integers(0, 3),
    ),
    width=st.integers(1, 8),
    limit=st.integers(1, 4),
    kept=st.sampled_from([1, 300, 1 << 20]),
    in_order=st.booleans(),
    chunk=st.integers(1, 30),
)
def test_both_backends_agree_on_every_field(steps, width, limit, kept, in_order, chunk):
    """Any numbers, times, counts, flows and legs: wild jumps, clocks that run back, flows that give way, full memory."""
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    rows, when, at = [[], [], []], NOW, [500, 500, 500]
    for one, ahead, step, count, flow in steps:
        at[one] += ahead
        when += step
        payload = (at[one] % (1 << 8 * width)).to_bytes(width, "big") + bytes([count, flow, *LONG_ENOUGH])
        rows[one].append((0, min(max(0, when), 2**63 - 1), payload))
    order = "be" if width > 1 else ""
    plan = sequence.Format.parse(f"u{8 * width}{order}@0+u8@{width}/u8@{width + 1},end=4").plan
    agree(rows, plan, in_order, limit, kept, chunk)


@pytest.mark.long
@settings(max_examples=200)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 20), st.integers(0, 3), st.sampled_from([1, 60, 400, 1100])), min_size=1, max_size=60
    ),
    width=st.integers(1, 8),
    kept=st.sampled_from([1, 300, 1 << 20]),
    in_order=st.booleans(),
    chunk=st.integers(1, 30),
    skew=st.sampled_from([0, 1, 150, 1200]),
)
def test_both_backends_agree_on_legs_that_mostly_go_on(steps, width, kept, in_order, chunk, skew):
    """Each step: packets in order, and then one that a leg, or both, did not get."""
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    rows, number, when = [[], [], []], (1 << 8 * width) - 100, NOW
    for count, missing, step in steps:
        for at in range(count + 1):
            payload = (number % (1 << 8 * width)).to_bytes(width, "big") + LONG_ENOUGH
            for leg_at in range(2):
                if at < count or not missing >> leg_at & 1:
                    rows[leg_at].append((0, when + skew * leg_at, payload))
            number, when = number + 1, when + step
    order = "be" if width > 1 else ""
    agree(rows, sequence.Format.parse(f"u{8 * width}{order}@0").plan, in_order, 4, kept, chunk)


@pytest.mark.long
@settings(max_examples=100)
@given(
    steps=steps_of(
        st.integers(-500, 500) | st.sampled_from([-3000, 3000, 1 << 16, 1_000_000, 1 << 20, 1 << 22]),
        [0, 1, 60, 400, 1100, 1_000_000_000],
        st.integers(1, 40),
    ),
    in_order=st.booleans(),
    chunk=st.integers(1, 30),
    least=st.sampled_from([2, 16, 100, 1 << 62]),
)
def test_spans_are_as_a_slot_for_each_number(steps, in_order, chunk, least):
    """Jumps that the other legs fill, in any order: `least` 1 << 62 has a slot for each number, of which fewer are remembered."""
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    rows, when, top = [[], [], []], NOW, 5000
    for one, ahead, step, count in steps:
        when += step
        if least > 1 << 20:
            ahead = min(ahead, 1000)
        rows[one].append((0, when, (top + ahead).to_bytes(8, "big") + bytes([count]) + LONG_ENOUGH))
        top = max(top, top + ahead + count)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arbiter_run, "LEAST_SPAN", least)
        agree(rows, sequence.Format.parse("u64be@0+u8@8").plan, in_order, 4, 1 << 20, chunk)


def agree(rows, plan, in_order, limit, kept, chunk):
    """Both backends make the same of three legs in parts of `chunk` packets, after each, and deliver the same."""
    found = {}
    for name in ("fast", "pure"):
        module, views = (pytest.importorskip(f"mcast_fast._core.{name}.{one}") for one in ("arbiter", "views"))
        core, out, seen = module.Arbiter(plan, 3, 1000, in_order, limit, kept), [], []
        for leg_at in range(3):
            core.pair(leg_at, [(GROUPS[leg_at], 5000, 0)])
        left = [list(one) for one in rows]
        while True:
            for leg_at in range(3):
                if core.wants(leg_at):
                    part, left[leg_at] = left[leg_at][:chunk], left[leg_at][chunk:]
                    if part:
                        core.feed(leg_at, batch_of(part, GROUPS[leg_at], views), {2: 7})
                    else:
                        core.quiet(leg_at, None)
            assert core.turn() == Turn.WAITS
            seen.append((*core.counters(), core.due()))
            if not any(left) and all(core.wants(leg_at) for leg_at in range(3)):
                break
        core.flush()
        core.take({7: "eth0"}, out)
        seen.append(core.counters())
        found[name] = seen, [(bytes(one.records), one.payloads()) for one in out]
        feed, legs, _ = core.counters()
        assert feed.expected == feed.delivered + feed.unrecovered + feed.pending
        assert sum(one.received for one in legs) == (
            feed.delivered + feed.held + feed.duplicates + feed.late + sum(one.outside for one in legs)
        )
        for one in legs:
            assert feed.expected == one.received - one.duplicates - one.outside + one.lost + one.absent + one.pending
    assert found["fast"] == found["pure"]
