"""Monitor: rates, gaps and states of streams, the same on both backends, with a clock that the tests set."""

import itertools
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import _core, errors, monitor
from mcast_fast._core.extraction import GAP_BUCKETS
from mcast_fast.monitor import OTHER, Monitor, StreamState
from tests.conftest import free_port, has_fast, loopback
from tests.test_pcapng import NOW, batch_of, record
from tests.test_sequence import joined

SECOND = 1_000_000_000
MS = 1_000_000


class Clock:
    """A clock that stands where it was set."""

    def __init__(self):
        self.now = 100 * SECOND

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += round(seconds * SECOND)


def batch(*times, size=100, **named):
    return batch_of(*((record(bytes(size), time, **named), bytes(size)) for time in times))


def rtp(*numbers, ssrc=7, version=2):
    payloads = [struct.pack(">BBHII", version << 6, 33, number % 65536, 0, ssrc) for number in numbers]
    return joined(_core.views, [(record(one, NOW + at * MS), one) for at, one in enumerate(payloads)])


def watched(**named):
    clock = Clock()
    return Monitor(clock=clock, **named), clock


# ---- figures ----


def test_what_a_stream_is(backend):
    watch, clock = watched()
    watch.add(batch(NOW, NOW + 5 * MS, NOW + 6 * MS))
    watch.add(batch(NOW + 7 * MS, size=40))
    clock.pass_by(0.25)
    (stream,) = watch.streams()
    assert stream.name == ("239.1.1.1", 5000, "10.0.0.1", "eth0")
    assert (stream.packets, stream.bytes, stream.smallest, stream.largest) == (4, 340, 40, 100)
    assert (stream.packets_per_second, stream.bits_per_second) == (4, 8 * 340)
    assert (stream.largest_gap, stream.largest_gap_at, stream.total_gap) == (5 * MS, NOW, 7 * MS)
    assert (stream.first_time, stream.last_time, stream.silent) == (NOW, NOW + 7 * MS, SECOND // 4)
    assert (stream.state, stream.silences, stream.truncated) == (StreamState.RECEIVING, 0, 0)
    assert (stream.sequence, stream.lost, stream.restarts) == (None, None, None)


def test_gaps_are_counted_by_their_bits(backend):
    watch, _ = watched()
    gaps = [0, 1, 2, 3, 4, 1000, 1 << 50]
    watch.add(batch(*itertools.accumulate(gaps, initial=NOW)))
    (stream,) = watch.streams()
    assert sum(stream.arrival_gaps) == len(gaps)
    assert [stream.arrival_gaps[at] for at in (0, 1, 2, 3, 10, GAP_BUCKETS - 1)] == [1, 1, 2, 1, 1, 1]
    assert [monitor.gap_bound(at) for at in (0, 3, GAP_BUCKETS - 1)] == [1, 8, None]
    with pytest.raises(IndexError, match="0 to 39"):
        monitor.gap_bound(GAP_BUCKETS)


@pytest.mark.parametrize("times", [(0, 0, 0), (NOW, NOW - SECOND, NOW - 2 * SECOND)])
def test_times_that_show_no_gap(backend, times):
    watch, _ = watched()
    watch.add(batch(*times))
    (stream,) = watch.streams()
    assert (sum(stream.arrival_gaps), stream.largest_gap, stream.packets) == (0, 0, 3)


def test_streams_are_apart_by_each_part_of_their_name(backend):
    watch, _ = watched()
    watch.add(batch(NOW, index=2))
    watch.add(batch(NOW, index=3))
    watch.add(batch(NOW, port=5001))
    watch.add(batch(NOW, v6=True))
    assert [one.name for one in watch.streams()] == [
        ("239.1.1.1", 5000, "10.0.0.1", "eth0"),
        ("239.1.1.1", 5000, "10.0.0.1", "eth1"),
        ("239.1.1.1", 5001, "10.0.0.1", "eth0"),
        ("ff15::1", 5000, "fe80::1%eth0", "eth0"),
    ]


def test_rates_are_of_whole_quarters_of_a_second(backend):
    watch, clock = watched(stalled_after="10s")
    for _ in range(8):
        watch.add(batch(*[NOW] * 10))
        clock.pass_by(0.25)
    rates = []
    for _ in range(6):
        rates.append(watch.streams()[0].packets_per_second)
        clock.pass_by(0.25)
    assert rates == [40, 30, 20, 10, 0, 0]


def test_a_stream_that_stops_is_stalled_and_zero_and_restarted_when_it_comes_again(backend):
    watch, clock = watched()
    watch.add(batch(NOW))
    clock.pass_by(0.99)
    assert watch.streams()[0].state is StreamState.RECEIVING
    clock.pass_by(0.01)
    (stream,) = watch.streams()
    assert (stream.state, stream.packets_per_second, stream.bits_per_second) == (StreamState.STALLED, 0, 0)
    assert (stream.packets, stream.silent, stream.silences) == (1, SECOND, 0)
    watch.add(batch(NOW))
    clock.pass_by(0.75)
    (stream,) = watch.streams()
    assert (stream.state, stream.silences, stream.packets_per_second) == (StreamState.RESTARTED, 1, 1)
    for _ in range(6):
        watch.add(batch(NOW))
        clock.pass_by(0.75)
    assert watch.streams()[0].state is StreamState.RECEIVING


def test_a_stream_may_be_silent_for_as_long_as_its_monitor_lets_it(backend):
    watch, clock = watched(stalled_after="10s")
    watch.add(batch(NOW))
    clock.pass_by(9.9)
    watch.add(batch(NOW))
    assert watch.streams()[0][4:6] == (StreamState.RECEIVING, 2)
    clock.pass_by(10)
    assert watch.streams()[0].state is StreamState.STALLED


def test_the_history_of_a_stream(backend):
    watch, clock = watched()
    for packets in range(1, 36):
        watch.add(batch(*[NOW] * packets, size=10))
        clock.pass_by(1)
    (stream,) = watch.streams()
    assert watch.history(stream) == tuple((packets, 10 * packets) for packets in range(6, 36))
    clock.pass_by(29)
    assert watch.history(stream) == ((35, 350), *[(0, 0)] * 29)
    clock.pass_by(1000)
    assert watch.history(stream) == ((0, 0),) * 30
    assert watch.history(stream._replace(port=1)) == ((0, 0),) * 30


def test_a_packet_per_quarter_of_a_second_is_one_for_longer_than_is_remembered(backend):
    """Places of what is forgotten are used again, and begin with nothing."""
    table = _core.monitor.StreamTable(10, SECOND)
    one = batch(NOW)
    for tick in range(400):
        table.add(one, tick * SECOND // 4)
    (row,), _ = table.rows(100 * SECOND)
    found = table.history(row.group, row.port, row.source, row.interface, 100 * SECOND)
    assert found == [(4, 400)] * 30


def test_what_the_table_is_too_small_for_is_one_row(backend):
    watch, clock = watched(max_streams=2)
    watch.add(batch(*[NOW] * 3, port=1))
    watch.add(batch(*[NOW] * 2, port=2))
    for port in range(10, 20):
        watch.add(batch(NOW, NOW + 7, port=port, size=5) if port == 19 else batch(NOW, port=port, size=5))
    clock.pass_by(0.25)
    *first, other = watch.streams()
    assert [(one.port, one.packets) for one in first] == [(1, 3), (2, 2)]
    assert other[:4] == (OTHER, 0, None, None)
    assert (other.packets, other.bytes, other.packets_per_second, sum(other.arrival_gaps)) == (11, 55, 11, 1)
    assert watch.history(other) == ((0, 0),) * 30
    assert repr(watch) == "<Monitor of 2 streams and others>"


def test_a_reset_forgets(backend):
    watch, _ = watched()
    watch.add(batch(NOW))
    watch.reset()
    assert watch.streams() == ()


# ---- numbers ----


def test_rtp_is_recognised_with_its_loss(backend):
    watch, _ = watched()
    watch.add(rtp(*range(65530, 65540)))
    assert watch.streams()[0].sequence is None
    watch.add(rtp(*range(65542, 65560), 65559))
    watch.add(rtp(*range(65560, 70000)))
    (stream,) = watch.streams()
    assert (stream.sequence, stream.lost, stream.duplicates, stream.restarts) == ("rtp", 2, 1, 0)


def test_the_losses_of_several_rtp_streams_at_one_place_are_added_up(backend):
    watch, _ = watched()
    watch.add(rtp(*range(20), *range(23, 40), ssrc=7))
    watch.add(rtp(*range(20), *range(24, 40), 39, ssrc=8))
    watch.add(rtp(*range(40, 5000), ssrc=7))
    watch.add(rtp(*range(40, 5000), ssrc=8))
    (stream,) = watch.streams()
    assert (stream.lost, stream.duplicates, stream.packets) == (7, 1, 37 + 37 + 2 * 4960)


@pytest.mark.parametrize("payloads", [rtp, lambda *numbers: rtp(*numbers, version=1)])
def test_what_is_not_rtp_is_not_taken_for_it(backend, payloads):
    watch, _ = watched()
    watch.add(payloads(*[5] * 100) if payloads is rtp else payloads(*range(100)))
    assert watch.streams()[0].sequence is None


def test_numbers_of_a_format(backend):
    watch, _ = watched(sequence="u16be@2")
    watch.add(rtp(1, 2, 2, 4, 3))
    assert watch.streams()[0][-7:-1] == ("u16be@2", 0, 1, 1, 0, 0)
    watch, _ = watched(sequence=None)
    watch.add(rtp(*range(100)))
    assert watch.streams()[0].lost is None


def test_numbers_that_begin_anew_are_a_restart(backend):
    watch, _ = watched(sequence="u16be@2")
    watch.add(rtp(*range(20_000, 20_100)))
    watch.add(rtp(*range(5)))
    assert (watch.streams()[0].restarts, watch.streams()[0].state) == (1, StreamState.RESTARTED)


# ---- receivers ----


@pytest.mark.needs("source_filters")
def test_a_membership_without_packets_is_waiting(backend):
    name, port = loopback(), free_port()
    groups = [f"239.9.1.{number}%{name}:{port}" for number in (1, 2)] + [f"192.0.2.1@232.9.1.1%{name}:{port}"]
    with mcast.Receiver(*groups, timeout=30) as rx, mcast.Sender(groups[0], ttl=0) as tx:
        watch = Monitor(rx)
        waiting = [("239.9.1.1", port, None, name), ("239.9.1.2", port, None, name)]
        ssm = ("232.9.1.1", port, "192.0.2.1", name)
        assert sorted(one.name for one in watch.streams()) == sorted([*waiting, ssm], key=str)
        assert {one.state for one in watch.streams()} == {StreamState.WAITING}
        tx.send(b"one")
        watch.add(rx.recv_batch())
        first, *others = watch.streams()
        assert (first.group, first.port, first.state, first.packets) == ("239.9.1.1", port, "receiving", 1)
        assert {one.name for one in others} == {waiting[1], ssm}
        assert set(monitor.drops(rx.stats)) == {"socket", "ring", "background", "nic"}
    assert len(watch.streams()) == 3  # as they were when it was closed


def test_drops_of_a_file(backend):
    assert monitor.drops(mcast.files.ReaderStats(dropped=5)) == {"recorded": 5}


# ---- arguments ----


@pytest.mark.parametrize(
    ("named", "complaint"),
    [
        ({"stalled_after": 0}, "stalled_after 0 is out of range"),
        ({"stalled_after": "2h"}, "up to an hour"),
        ({"max_streams": 0}, "max_streams"),
        ({"sequence": "nonsense"}, "nonsense"),
        ({"receiver": 5}, "receiver"),
        ({"clock": 5}, "clock"),
    ],
)
def test_wrong_arguments(backend, named, complaint):
    with pytest.raises(errors.ArgumentError, match=complaint):
        Monitor(**named)


@pytest.mark.parametrize("wrong", [None, b"", [1]])
def test_only_batches_are_counted(backend, wrong):
    with pytest.raises(TypeError, match="a batch is required"):
        Monitor().add(wrong)


@pytest.mark.parametrize("now", [-1, 1 << 62])
def test_a_clock_out_of_range(backend, now):
    with pytest.raises(ValueError, match="a clock shows"):
        Monitor(clock=lambda: now).add(batch(NOW))


@pytest.mark.needs("signals to processes")
def test_a_monitor_belongs_to_its_process(backend):
    watch, _ = watched()
    child = os.fork()
    if child == 0:
        try:
            watch.add(batch(NOW))
        except errors.ClosedError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


# ---- both backends ----

PACKETS = st.lists(
    st.tuples(
        st.integers(0, 3),  # port
        st.sampled_from([0, 2, 3]),  # interface
        st.booleans(),
        st.integers(0, 300),
        st.one_of(st.just(0), st.integers(NOW - 2**40, NOW + 2**40)),
        st.integers(0, 3 * SECOND),  # of the clock before it
    ),
    max_size=40,
)


@pytest.mark.long
@settings(max_examples=200)
@given(packets=PACKETS, most=st.integers(1, 6), back=st.integers(0, 5 * SECOND))
def test_both_backends_agree(packets, most, back):
    """Any streams, times and clocks, also one that goes back; nothing is lost: all packets are in the rows."""
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    found = {}
    for name in ("fast", "pure"):
        module, views = (pytest.importorskip(f"mcast_fast._core.{name}.{one}") for one in ("monitor", "views"))
        table, now, seen = module.StreamTable(most, SECOND), SECOND, []
        for port, index, v6, size, time, step in packets:
            now += step
            row = record(bytes(size), time, index=index, v6=v6, port=port), bytes(size)
            table.add(joined(views, [row]), now)
            table.add(joined(views, [row, row]), max(0, now - back))
            seen.append(table.rows(now + back))
            seen.extend(table.history(one.group, one.port, one.source, one.interface, now) for one in seen[-1][0])
        rows, others = table.rows(now)
        assert sum(one.packets for one in (*rows, *filter(None, [others]))) == 3 * len(packets)
        assert len(rows) <= most
        found[name] = seen
    assert found["fast"] == found["pure"]
