"""Tracker: every packet of a sequence is counted once and rightly, whatever order, loss, repetition and restarts there are."""

import random
import socket
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast import _core, errors, sequence
from mcast_fast._core import extraction, layout
from mcast_fast.sequence import FlowState, Kind, Tracker, What
from tests.conftest import has_fast
from tests.test_pcapng import NOW, batch_of, record

SECOND = 1_000_000_000
MS = 1_000_000
FIGURES = ("received", "expected", "lost", "pending", "duplicates", "reordered", "late", "restarts")


def batch(*packets, width=8, step=MS):
    """Packets of (number, time) or a number, whose time is then that of its place; the number is big-endian at 0."""
    rows = []
    for at, packet in enumerate(packets):
        number, time = packet if isinstance(packet, tuple) else (packet, NOW + at * step)
        payload = (number % (1 << 8 * width)).to_bytes(width, "big")
        rows.append((record(payload, time), payload))
    return joined(_core.views, rows)


def joined(views, rows):
    """A batch of (record values, payload) for a backend; thousands of them, too."""
    at = 0
    for values, payload in rows:
        values[1] = at
        at += len(payload)
    records = b"".join(layout.RECORD.pack(*values) for values, _ in rows)
    return views.Batch.from_bytes(records, b"".join(payload for _, payload in rows), {2: "eth0"})


def tracked(*packets, window="1s", width=8, step=MS):
    tracker = Tracker(f"u{8 * width}{'be' if width > 1 else ''}@0", window=window)
    tracker.update(batch(*packets, width=width, step=step))
    (flow,) = tracker.flows
    assert flow.expected == flow.received - flow.duplicates + flow.lost + flow.pending
    return flow


def figures(flow, *names):
    return tuple(getattr(flow, name) for name in names or FIGURES)


# ---- by hand ----


def test_numbers_in_order(backend):
    flow = tracked(5, 6, 7, 8)
    assert figures(flow) == (4, 4, 0, 0, 0, 0, 0, 0)
    assert (flow.first, flow.last, flow.first_time, flow.last_time) == (5, 8, NOW, NOW + 3 * MS)
    assert (flow.source, flow.source_port, flow.group, flow.port, flow.key) == (
        "10.0.0.1",
        None,
        "239.1.1.1",
        5000,
        b"",
    )
    assert (flow.state, flow.packets) == (FlowState.RECEIVING, 4)


def test_what_is_missing_is_pending_and_then_lost(backend):
    tracker = Tracker("u64be@0", window="100ms")
    (started, gap) = tracker.update(batch((1, NOW), (4, NOW + MS)))
    assert (started.what, gap.what, gap.first, gap.last, gap.time) == (What.STARTED, What.GAP, 2, 3, NOW + MS)
    assert figures(tracker.flows[0], "lost", "pending", "expected") == (0, 2, 4)
    assert tracker.update(batch((5, NOW + 100 * MS))) == []
    (lost,) = tracker.update(batch((6, NOW + 101 * MS)))
    assert (lost.what, lost.first, lost.last) == (What.LOST, 2, 3)
    assert figures(tracker.flows[0], "lost", "pending", "expected", "burst") == (2, 0, 6, 2)
    assert tracker.lost == 2


def test_looking_later_shows_what_is_lost_by_then_and_changes_nothing(backend):
    tracker = Tracker("u64be@0", window="100ms")
    tracker.update(batch((1, NOW), (4, NOW)))
    (now,), (later,) = tracker.flows, tracker.flows_at(NOW + 100 * MS)
    assert figures(now, "lost", "pending") == (0, 2)
    assert figures(later, "lost", "pending", "burst") == (2, 0, 2)
    assert (tracker.lost, tracker.lost_at(NOW + 100 * MS)) == (0, 2)
    (change,) = tracker.update(batch((2, NOW + 50 * MS)))
    assert change.what is What.REORDERED
    assert figures(tracker.flows[0], "reordered", "late", "pending") == (1, 0, 1)


def test_what_comes_within_the_window_is_reordered_and_after_it_late(backend):
    flow = tracked((0, NOW), (4, NOW), (2, NOW + 9 * MS), (1, NOW + 10 * MS), (2, NOW + 10 * MS), window="10ms")
    assert figures(flow, "reordered", "depth", "late", "lost", "duplicates", "pending") == (1, 2, 1, 1, 1, 0)


def test_a_gap_is_split_by_what_comes_in_its_middle(backend):
    flow = tracked(0, 10, 5, 3, 7, 9, 1, step=0)
    assert figures(flow, "pending", "reordered", "depth") == (4, 5, 9)


@pytest.mark.parametrize("width", range(1, 9))
def test_numbers_wrap(backend, width):
    top = 1 << 8 * width
    flow = tracked(top - 3, top - 2, top - 1, 0, 2, 3, top - 1, 1, width=width)
    assert figures(flow) == (8, 7, 0, 0, 1, 1, 0, 0)
    assert (flow.first, flow.last) == (top - 3, 3)


def test_first_packets_in_another_order(backend):
    flow = tracked(5, 3, 7, 4, 2)
    assert figures(flow) == (5, 6, 0, 1, 0, 2 + 1, 0, 0)
    assert flow.first == 2


def test_a_restart_far_back(backend):
    tracker = Tracker("u64be@0", window="10ms")
    tracker.update(batch(*range(1000, 1100)))
    changes = tracker.update(batch(*((at, NOW + 200 * MS + at * MS) for at in range(50))))
    assert [(one.what, one.first) for one in changes if one.what is not What.DUPLICATE] == [(What.RESTARTED, 0)]
    (flow,) = tracker.flows
    assert figures(flow) == (150, 150, 0, 0, 0, 0, 0, 1)
    assert (flow.ambiguous, flow.strays, flow.first, flow.last) == (1, 0, 0, 49)
    assert flow.state is FlowState.RECEIVING


def test_a_restart_takes_back_what_its_first_packet_seemed_to_be(backend):
    """Numbers of the new run that fall into a gap of the old one are not late ones."""
    tracker = Tracker("u64be@0", window="10ms")
    tracker.update(batch(*(at for at in range(100) if at not in (3, 4, 90))))
    tracker.update(batch(*((at, NOW + SECOND + at * MS) for at in range(3, 20))))
    (flow,) = tracker.flows
    assert figures(flow) == (97 + 17, 100 + 17, 3, 0, 0, 0, 0, 1)


def test_a_restart_within_the_numbers_of_the_last_window_is_seen_when_nothing_new_comes(backend):
    tracker = Tracker("u16be@0", window="100ms")
    packets = [(at, NOW + at * 1000) for at in range(3_000)]
    tracker.update(batch(*packets, width=2))
    again = [(2_000 + at, NOW + 3 * MS + at * MS) for at in range(300)]
    tracker.update(batch(*again, width=2))
    (flow,) = tracker.flows
    assert flow.restarts == 1
    assert flow.last == 2_299
    assert flow.expected == flow.received - flow.duplicates + flow.lost + flow.pending


def test_a_single_old_packet_is_no_restart(backend):
    old = [(at, NOW + at * MS) for at in range(100, 200)]
    flow = tracked(*old, (100, NOW + 210 * MS), (200, NOW + 211 * MS), (101, NOW + 212 * MS), window="10ms")
    assert figures(flow, "restarts", "duplicates", "lost") == (0, 2, 0)


def test_one_packet_with_a_wild_number_invents_no_loss(backend):
    flow = tracked(1, 2, 2**63 - 5, 3, 4)
    assert figures(flow) == (4, 4, 0, 0, 0, 0, 0, 0)
    assert (flow.strays, flow.packets) == (1, 5)


def test_a_restart_far_ahead(backend):
    flow = tracked(1, 2, 3, 2**62, 2**62 + 1, 2**62 + 3)
    assert figures(flow) == (6, 7, 0, 1, 0, 0, 0, 1)
    assert flow.strays == 0


def test_a_long_silence_costs_what_it_lost(backend):
    flow = tracked(*((at, NOW + at * MS) for at in range(100)), (5100, NOW + 5100 * MS), (5101, NOW + 6101 * MS))
    assert figures(flow, "lost", "expected", "burst", "ambiguous") == (5000, 5102, 5000, 0)


def test_a_silence_in_which_the_numbers_come_half_around_is_ambiguous(backend):
    """100,000 numbers per second of 16 bits: half the range is 0.33 s."""
    packets = [(at, NOW + at * 10_000) for at in range(100)]
    assert tracked(*packets, (20_100, NOW + 200 * MS), width=2).ambiguous == 0
    assert tracked(*packets, (20_100 + 65_536, NOW + 200 * MS + 655 * MS), width=2).ambiguous == 1


def test_a_silence_after_which_the_next_number_comes_may_hide_a_lap(backend):
    packets = [(at, NOW + at * 10_000) for at in range(100)]
    assert tracked(*packets, (100, NOW + 300 * MS), width=2).ambiguous == 0
    assert tracked(*packets, (100, NOW + 400 * MS), width=2).ambiguous == 1
    assert tracked(*packets, (100, NOW + 400 * MS), width=4).ambiguous == 0


def test_a_clock_that_is_set_back_or_ahead(backend):
    """It is the spacing of packets that ages a gap."""
    flow = tracked((0, NOW), (2, NOW), (3, NOW - 3600 * SECOND), (1, NOW - 3600 * SECOND + 5 * MS), window="10ms")
    assert figures(flow, "reordered", "pending") == (1, 0)
    flow = tracked(
        (0, NOW), (1, NOW + 10**18), (3, NOW), (2, NOW + 5 * MS), (5, NOW + 6 * MS), (6, NOW + 17 * MS), window="10ms"
    )
    assert figures(flow, "reordered", "lost") == (1, 1)


def test_without_times_nothing_ages(backend):
    flow = tracked((0, 0), (2, 0), (3, 0))
    assert figures(flow, "pending", "lost") == (1, 0)
    assert (flow.first_time, flow.last_time) == (None, None)


def mold(session, number, count, time=NOW, group=None):
    payload = session.ljust(10).encode() + struct.pack(">QH", number, count)
    return record(payload, time), payload


def test_counts_heartbeats_and_the_end(backend):
    tracker = Tracker("moldudp64")
    tracker.update(batch_of(mold("A", 1, 0)))
    assert figures(tracker.flows[0], "received", "expected", "state") == (0, 0, FlowState.WAITING)
    tracker.update(batch_of(mold("A", 1, 5), mold("A", 6, 2), mold("A", 10, 0)))
    assert figures(tracker.flows[0], "received", "expected", "pending") == (7, 9, 2)
    tracker.update(batch_of(mold("A", 7, 5)))
    assert figures(tracker.flows[0], "received", "expected", "pending", "duplicates", "reordered") == (12, 11, 0, 1, 2)
    (ended,) = tracker.update(batch_of(mold("A", 12, 0xFFFF)))
    assert ended.what is What.ENDED
    assert tracker.update(batch_of(mold("A", 13, 0xFFFF))) == []
    assert tracker.flows[0].state is FlowState.ENDED
    tracker.update(batch_of(mold("B", 1, 1)))
    assert [flow.key for flow in tracker.flows] == [b"A         ", b"B         "]


def test_the_end_of_a_spead_stream_ends_the_flows_of_its_sender(backend):
    def heap(counter, size, *more, port=5000):
        items = ((1, counter), (2, size), (3, 0), (4, size), *more)
        pointers = b"".join(struct.pack(">Q", 1 << 63 | item << 40 | value) for item, value in items)
        payload = struct.pack(">BBBBHH", 0x53, 4, 3, 5, 0, len(items)) + pointers
        return record(payload, NOW, port=port), payload

    tracker = Tracker("spead")
    tracker.update(batch_of(heap(1, 100), heap(1, 7), heap(1, 100, port=6000)))
    changes = tracker.update(batch_of(heap(2, 1, (6, 2)), heap(2, 1, (6, 2))))
    assert [(one.what, one.key[7]) for one in changes] == [(What.ENDED, 100), (What.ENDED, 7)]
    assert [flow.state for flow in tracker.flows] == [FlowState.ENDED, FlowState.ENDED, FlowState.RECEIVING]
    assert [figures(flow, "received", "pending", "packets") for flow in tracker.flows] == [
        (100, 0, 3),
        (7, 0, 3),
        (100, 0, 1),
    ]


def test_states(backend):
    tracker = Tracker("u64be@0", window="2s")
    tracker.update(batch(*range(500, 510)))

    def state(after):
        return tracker.flows_at(NOW + 9 * MS + after)[0].state

    assert [state(0), state(2 * SECOND - 1), state(2 * SECOND)] == [
        FlowState.RECEIVING,
        FlowState.RECEIVING,
        FlowState.STALLED,
    ]
    tracker.update(batch((0, NOW + 5 * SECOND), (1, NOW + 5 * SECOND)))
    assert tracker.flows[0].state is FlowState.RESTARTED
    assert tracker.flows_at(NOW + 6 * SECOND)[0].state is FlowState.RESTARTED


def test_flows_are_told_apart(backend):
    values = [record(bytes(8), NOW), record(bytes(8), NOW, port=6000), record(bytes(8), NOW, v6=True)]
    other_port = record(bytes(8), NOW)
    other_port[8] = 4001
    packets = [(one, bytes(8)) for one in (*values, other_port)]
    tracker = Tracker("u64be@0")
    tracker.update(batch_of(*packets))
    assert [(flow.source, flow.port, flow.received) for flow in tracker.flows] == [
        ("10.0.0.1", 5000, 2),
        ("10.0.0.1", 6000, 1),
        ("fe80::1", 5000, 1),
    ]
    by_port = Tracker("u64be@0/source_port")
    by_port.update(batch_of(*packets))
    assert [flow.source_port for flow in by_port.flows] == [4000, 4000, 4000, 4001]


def test_flows_are_bounded_and_what_gave_way_stays_counted(backend):
    tracker = Tracker("u16be@2/u16be@0", window="1s", max_flows=3)

    def packets(*pairs):
        payloads = [struct.pack(">HH", *pair) for pair in pairs]
        return batch_of(*((record(one), one) for one in payloads))

    tracker.update(packets((1, 0), (1, 2), (2, 0), (3, 0)))
    tracker.update(packets((4, 0)))
    assert (tracker.evicted, tracker.lost, len(tracker.flows)) == (1, 1, 3)
    tracker.update(packets((4, 1), (3, 1), (5, 0)))
    assert [flow.key for flow in tracker.flows] == [b"\0\4", b"\0\5", b"\0\3"]
    assert (tracker.evicted, tracker.lost) == (2, 1)


def test_what_is_missing_after_a_late_number_is_lost_in_its_turn(backend):
    """A gap that was lost and is filled late is forgotten: the next one is pending first."""
    late = [(0, NOW), (2, NOW), (3, NOW + 2 * SECOND), (1, NOW + 2 * SECOND), (5, NOW + 2 * SECOND)]
    flow = tracked(*late)
    assert figures(flow, "lost", "late", "pending", "reordered") == (0, 1, 1, 0)
    flow = tracked(*late, (6, NOW + 4 * SECOND))
    assert figures(flow, "lost", "late", "pending", "reordered") == (1, 1, 0, 0)


def test_both_ends_of_a_lost_gap_stay_lost_when_its_middle_comes_late(backend):
    late = [(0, NOW), (6, NOW), (7, NOW + 2 * SECOND), (3, NOW + 2 * SECOND)]
    assert figures(tracked(*late), "lost", "late", "pending", "reordered") == (4, 1, 0, 0)
    late += [(9, NOW + 2 * SECOND), (5, NOW + 2 * SECOND), (1, NOW + 2 * SECOND)]
    assert figures(tracked(*late), "lost", "late", "pending", "reordered") == (2, 3, 1, 0)
    late += [(8, NOW + 2 * SECOND), (10, NOW + 5 * SECOND)]
    assert figures(tracked(*late), "lost", "late", "pending", "reordered") == (2, 3, 0, 1)


@pytest.mark.parametrize(("apart", "restarts"), [(extraction.NEAR, 1), (extraction.NEAR + 1, 0), (0, 0)])
@pytest.mark.parametrize("direction", [1, -1])
def test_two_strays_are_a_new_run_where_they_are_near_each_other(backend, apart, restarts, direction):
    far = 10**12
    assert figures(tracked(5, far, far + direction * apart), "restarts", "strays") == (restarts, 0 if restarts else 2)


def test_a_flow_that_stays_is_found_whichever_others_gave_way(backend):
    """Places of those that are gone are closed up, so that no flow is begun a second time."""
    tracker = Tracker("u32be@2/u16be@0", max_flows=64)
    made, numbers = random.Random(3), {}
    for _ in range(40):
        payloads = []
        for key in [made.randrange(48) if made.random() < 0.8 else made.randrange(5000) for _ in range(200)]:
            numbers[key] = numbers.get(key, 0) + made.choice((0, 1, 1, 2))
            payloads.append(struct.pack(">HI8x", key, numbers[key]))
        tracker.update(batch_of(*((record(one), one) for one in payloads)))
        keys = [flow.key for flow in tracker.flows]
        assert len(keys) == len(set(keys)) <= 64
    assert tracker.evicted > 100


def test_a_flow_that_goes_on_gives_way_to_none_that_is_silent(backend):
    tracker = Tracker("u16be@2/u16be@0", max_flows=3)

    def update(*pairs):
        payloads = [struct.pack(">HH8x", *pair) for pair in pairs]
        tracker.update(batch_of(*((record(one), one) for one in payloads)))

    update((1, 0), (2, 0), (3, 0))
    update((4, 0))  # all had come: the first gives way
    update((2, 1), (2, 2))
    update((5, 0))
    assert {flow.key for flow in tracker.flows} == {b"\0\2", b"\0\4", b"\0\5"}


def test_packets_without_a_number_are_counted(backend):
    tracker = Tracker("rtp")
    payload = bytes(20)
    tracker.update(batch_of((record(b"x"), b"x"), (record(payload), payload)))
    assert (tracker.unnumbered, tracker.flows) == (2, ())


@pytest.mark.long
def test_gaps_beyond_those_remembered_are_charged(backend):
    count = _core.extraction.MOST_GAPS + 10
    tracker = Tracker("u64be@0")
    tracker.update(batch(*range(0, 2 * count + 1, 2), step=0))
    assert figures(tracker.flows[0], "lost", "pending") == (10, count - 10)
    tracker.update(batch(1, 2 * count - 1))
    assert figures(tracker.flows[0], "duplicates", "reordered", "lost") == (1, 1, 11)


def test_figures_since_a_moment(backend):
    tracker = Tracker("u64be@0", window="10ms")
    tracker.update(batch(*range(10), 15, (16, NOW + SECOND)))
    (before,) = tracker.flows
    tracker.update(batch((17, NOW + SECOND), (20, NOW + SECOND), (21, NOW + 2 * SECOND)))
    (after,) = tracker.flows
    assert figures(after - before, "received", "lost", "expected", "last", "state") == (
        3,
        2,
        5,
        21,
        FlowState.RECEIVING,
    )


def test_arguments(backend):
    for arguments in ({"window": 0}, {"window": "2h"}, {"window": None}, {"max_flows": 0}):
        with pytest.raises(errors.ArgumentError):
            Tracker("rtp", **arguments)
    with pytest.raises(TypeError, match="a batch is required, not bytes"):
        Tracker("rtp").update(b"")
    assert repr(Tracker("rtp")) == "<Tracker of rtp, 0 flows>"


# ---- against a model ----


class Model:
    """One run of numbers in order of arrival, by sets: what is missing and since when, and what was lost."""

    def __init__(self, window):
        self.window, self.clock, self.missing, self.lost = window, 0, {}, set()
        self.first = self.next = None
        self.figures = dict.fromkeys(("received", "duplicates", "reordered", "late", "strays"), 0)

    def age(self, step):
        self.clock += step
        for late in [one for one, since in self.missing.items() if self.clock - since >= self.window]:
            self.lost.add(late)
            del self.missing[late]

    def see(self, number, step):
        self.age(step)
        if self.next is None:
            self.first = self.next = number
        if number < self.first and not self.lost and self.clock < self.window:
            self.missing |= dict.fromkeys(range(number, self.first), 0)
            self.first = number
        kind = "strays" if number < self.first else "duplicates"
        if number >= self.next:
            self.missing |= dict.fromkeys(range(self.next, number), self.clock)
            self.next, kind = number + 1, "received"
        elif number in self.missing:
            del self.missing[number]
            kind = "reordered"
        elif number in self.lost:
            self.lost.remove(number)
            kind = "late"
        self.figures["received"] += kind in ("duplicates", "reordered", "late")
        self.figures[kind] += 1

    def result(self):
        counted = {"lost": len(self.lost), "pending": len(self.missing), "expected": self.next - self.first}
        return self.figures | counted


STEPS = st.lists(st.tuples(st.integers(-6, 8), st.integers(0, 30)), min_size=1, max_size=80)


@pytest.mark.long
@given(start=st.integers(0, 2**64 - 1), width=st.integers(1, 8), steps=STEPS, cut=st.integers(0, 80))
def test_any_order_loss_and_repetition_counts_as_the_model_counts(backend, start, width, steps, cut):
    """Unless it looks like a restart: two packets in a row that are older than the window."""
    model, packets, time, at = Model(300), [], NOW, 1000
    for ahead, step in steps:
        at, time = at + ahead, time + step
        packets.append((start + at, time))
        model.see(at, step if len(packets) > 1 else 0)
    tracker = Tracker(f"u{8 * width}{'be' if width > 1 else ''}@0", window=300 / 1e9)
    for part in (packets[:cut], packets[cut:]):
        if part:
            tracker.update(batch(*part, width=width))
            (flow,) = tracker.flows
            assert flow.expected == flow.received - flow.duplicates + flow.lost + flow.pending
    expected = model.result()
    if flow.restarts == 0:
        assert {name: getattr(flow, name) for name in expected} == expected


@st.composite
def runs(draw):
    """Runs of a sender that begins anew: each in an order that is 5 numbers off at most, with losses and repetitions."""
    found, packet = [], st.tuples(st.integers(0, 5), st.sampled_from([1, 1, 1, 1, 0, 2]))
    for packets in draw(st.lists(st.lists(packet, min_size=12, max_size=40), min_size=1, max_size=3)):
        order = sorted(range(len(packets)), key=lambda at: at + packets[at][0])
        arrived = [number for number in order for _ in range(packets[number][1])]
        if len(set(arrived)) >= 2 and (not found or max(arrived[:4]) < max(found[-1])):  # else it seems to go on
            found.append(arrived)
    return found or [[0, 1]]


@pytest.mark.long
@given(runs=runs(), width=st.integers(2, 8))
def test_restarts_count_as_the_runs_by_themselves(backend, runs, width):
    window, time, packets, models = 1000, NOW, [], []
    for arrived in runs:
        models.append(Model(window))
        for number in arrived:
            packets.append((number, time))
            models[-1].see(number, 10)
            time += 10
        models[-1].age(10 * window)
        time += 10 * window
    tracker = Tracker(f"u{8 * width}be@0", window=window / 1e9)
    tracker.update(batch(*packets, width=width))
    (flow,) = tracker.flows_at(time)
    expected = {name: sum(model.result()[name] for model in models) for name in models[0].result()}
    assert {name: getattr(flow, name) for name in expected} == expected
    assert flow.restarts == flow.ambiguous == len(runs) - 1


LONG_ENOUGH = bytes(8)  # behind the last field: the C reads each by one load then
WILD = st.lists(
    st.tuples(
        st.one_of(st.integers(-3, 3), st.sampled_from([-2000, -200, -40, 40, 200, 3000, 2**31, 2**63])),
        st.sampled_from([0, 1, 100, 1000, 10_000, 200_000, 10**8, -500, 10**15]),
        st.integers(0, 4),
        st.integers(0, 5),
    ),
    max_size=60,
)


@pytest.mark.long
@settings(max_examples=300)
@given(
    steps=WILD,
    width=st.integers(1, 8),
    limit=st.integers(1, 5),
    now=st.sampled_from([0, NOW + 2000, 2**62]),
    window=st.sampled_from([1000, SECOND]),
)
def test_both_backends_agree_on_everything(steps, width, limit, now, window):
    """Any numbers, times, counts and flows: heartbeats, ends, wild jumps, clocks that run back, flows that give way."""
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    packets, time, at = [], NOW, 500
    for ahead, step, count, flow in steps:
        at, time = at + ahead, time + step
        payload = (at % (1 << 8 * width)).to_bytes(width, "big") + bytes([count, flow, *LONG_ENOUGH])
        packets.append((record(payload, min(time, 2**63 - 1)), payload))
    order = "be" if width > 1 else ""
    format = sequence.Format.parse(f"u{8 * width}{order}@0+u8@{width}/u8@{width + 1},end=4")
    agree(packets, format, limit, now, window, 7)


@pytest.mark.long
@settings(max_examples=100)
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 9), st.integers(1, 30), st.sampled_from([0, 0, 0, 1, -1, 5]), st.integers(0, 200_000)),
        max_size=30,
    ),
    width=st.integers(1, 8),
    limit=st.integers(5, 12),
    by_port=st.booleans(),
)
def test_both_backends_agree_on_flows_that_mostly_go_on(steps, width, limit, by_port):
    """Ten flows, of which a part gives way: each step a few packets of one, in order, and then perhaps a gap."""
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    packets, time, at = [], NOW, dict.fromkeys(range(10), 100)
    for flow, count, ahead, pause in steps:
        for _ in range(count):
            payload = (at[flow] % (1 << 8 * width)).to_bytes(width, "big") + bytes([flow, *LONG_ENOUGH])
            packets.append((record(payload, time), payload))
            at[flow], time = at[flow] + 1, time + 1000
        at[flow], time = at[flow] + ahead, time + pause
    order = "be" if width > 1 else ""
    text = f"u{8 * width}{order}@0/u8@{width}" + ("/source_port" if by_port else "")
    agree(packets, sequence.Format.parse(text), limit, 0, 1_000_000, 100)


def agree(packets, format, limit, now, window, chunk):
    """Both backends count the same of packets in parts of `chunk`, after each."""
    found = {}
    for name in ("fast", "pure"):
        module, views = (pytest.importorskip(f"mcast_fast._core.{name}.{one}") for one in ("sequence", "views"))
        tracker = module.Tracker(format.plan, format.source_port, window, limit)
        seen = []
        for start in range(0, len(packets), chunk):
            seen.append(tracker.update(joined(views, packets[start : start + chunk])))
            seen.append(tracker.flows(now))
            for row in tracker.flows(now):
                assert row.expected == row.received - row.duplicates + row.lost + row.pending
        found[name] = seen, tracker.totals()
    assert found["fast"] == found["pure"]


# ---- what spead2 sends ----


def spead2_packets(heaps):
    """Datagrams of a stream by spead2: a heap with descriptors, others without, and the end."""
    np, spead2 = pytest.importorskip("numpy"), pytest.importorskip("spead2")
    send = pytest.importorskip("spead2.send")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.bind(("127.0.0.1", 0))
        config = send.StreamConfig(max_packet_size=1100)
        stream = send.UdpStream(spead2.ThreadPool(), [receiver.getsockname()], config)
        group = send.ItemGroup()
        group.add_item(0x1000, "x", "data", (4096,), np.uint8, value=np.zeros(4096, np.uint8))
        stream.send_heap(group.get_heap())
        for _ in range(heaps - 1):
            stream.send_heap(group.get_heap(descriptors="none", data="all"))
        stream.send_heap(group.get_end())
        found = [receiver.recv(65_536)]
        while len(found[-1]) < 50 or Kind(sequence.numbers(heap_of(found[-1:]), "spead").kind[0]) is not Kind.END:
            found.append(receiver.recv(65_536))
    return found


def heap_of(payloads):
    return joined(_core.views, [(record(one, NOW), one) for one in payloads])


@pytest.mark.parametrize("form", ["spead", "spead:1056"])
def test_what_spead2_sends(backend, form):
    packets = spead2_packets(9)
    tracker = Tracker(form)
    tracker.update(heap_of(packets[:11] + packets[12:]))
    described, data = tracker.flows
    assert [flow.state for flow in tracker.flows] == [FlowState.ENDED, FlowState.ENDED]
    assert figures(described, "lost", "pending", "duplicates") == (0, 0, 0)
    counted = {"spead": (8 * 4096, 1056), "spead:1056": (8 * 4, 1)}[form]
    assert figures(data, "expected", "pending", "duplicates", "reordered") == (*counted, 0, 0)


@pytest.mark.parametrize("kind", [What.GAP, What.DUPLICATE, What.STARTED])
def test_changes_that_are_left_out(backend, kind):
    packets = batch(0, 1, 4, 4, 5)
    every = {one.kind for one in Tracker("u64be@0").core.update(packets)}
    place = list(What).index(kind)
    assert place in every
    assert {one.kind for one in Tracker("u64be@0").core.update(packets, 1 << place)} == every - {place}
    assert Tracker("u64be@0").core.update(packets, (1 << len(What)) - 1) == []
