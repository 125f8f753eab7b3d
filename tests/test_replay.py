"""Replaying: every packet to its group, at the moment that its timestamp says."""

import errno
import importlib
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import ArgumentError, SendError, _core
from mcast_fast._core import lateness
from mcast_fast._core.layout import FIELDS, RECORD, Flag
from mcast_fast.errors import CaptureError
from mcast_fast.files._limits import Autostop
from mcast_fast.files._recorder import Recorder
from mcast_fast.files._replay import Replay
from mcast_fast.files._spacing import Spacing
from tests import capture_files as cf
from tests import lab
from tests.conftest import BACKENDS, free_port, has_fast, interrupt_main
from tests.test_cli import environment, invoke, program_backend  # noqa: F401
from tests.test_pcapng import NOW, batch_of, record

MS = 1_000_000
POSITIONS = {field.name: i for i, field in enumerate(FIELDS)}


def packets(*rows):
    """A capture file in memory of (ms after NOW or None for no time, payload, port)."""
    file = io.BytesIO()
    file.name = "memory"
    with mcast.files.Writer(file) as writer:
        writer.write(
            batch_of(
                *((record(data, 0 if ms is None else NOW + int(ms * MS), port=port), data) for ms, data, port in rows)
            )
        )
    file.seek(0)
    return file


def numbered(count, ms=1.0, port=5000):
    return [(i * ms, i.to_bytes(4, "big"), port) for i in range(count)]


@pytest.fixture
def group(backend, place):
    return place.group()


@pytest.fixture
def rx(group):
    with mcast.Receiver(group, timeout=5) as receiver:
        yield receiver


def assert_lasted(told, seconds):
    """No less than was recorded, and no longer than the machine was late; it may be stopped before the first packet and after the last too."""
    coarse = time.get_clock_info("monotonic").resolution + 0.001
    assert seconds - coarse <= told.seconds < seconds + told.late_max / 1e9 + 0.1


@pytest.mark.long
def test_packets_leave_in_order_in_their_time(rx, group):
    """In 200 ms; the machine may be late, and that is told."""
    told = Replay(packets(*numbered(200)), to=group, ttl=0).run()
    assert rx.collect(200, timeout=1).payloads() == [data for _, data, _ in numbered(200)]
    assert (told.packets, told.bytes, told.loops, told.truncated) == (200, 800, 1, 0)
    assert told.late_p50 <= told.late_p99 <= told.late_max * 1.04 + 1
    assert_lasted(told, 0.199)


@pytest.mark.long
@pytest.mark.needs("kernel_timestamps")
def test_packets_leave_neither_sooner_nor_at_once(rx, group):
    told = Replay(packets(*numbered(200)), to=group, ttl=0).run()
    times = [packet.timestamp for packet in rx.collect(200, timeout=1)]
    late = [time - times[0] - i * MS for i, time in enumerate(times)]
    assert min(late) > -told.late_max - 20 * MS
    assert max(late) < told.late_max + 20 * MS


@pytest.mark.long
@pytest.mark.parametrize(("speed", "lasts"), [(0.5, 0.4), (4.0, 0.05)])
def test_speed_scales_the_times(rx, group, speed, lasts):
    told = Replay(packets(*numbered(201)), to=group, ttl=0, speed=speed).run()
    assert_lasted(told, lasts)
    assert len(rx.collect(201, timeout=1)) == 201


@pytest.mark.long
def test_loops_follow_by_the_mean_gap(rx, group, tmp_path):
    path = tmp_path / "feed.pcapng"
    path.write_bytes(packets(*numbered(50)).getvalue())
    told = Replay(path, to=group, ttl=0, loops=3).run()
    assert (told.packets, told.loops) == (150, 3)
    assert_lasted(told, 0.149)
    assert rx.collect(150, timeout=1).payloads() == [data for _, data, _ in numbered(50)] * 3


@pytest.mark.long
def test_count_ends_it(rx, group, tmp_path):
    path = tmp_path / "feed.pcapng"
    path.write_bytes(packets(*numbered(50, 0.1)).getvalue())
    assert Replay(path, to=group, ttl=0, loops=None, count=120).run().packets == 120
    assert len(rx.collect(121, timeout=0.2)) == 120


@pytest.mark.parametrize(("speed", "due"), [(1.0, 21), (0.5, 11), (2.0, 41)])
def test_what_is_due_behind_the_duration_stays(rx, group, speed, due):
    """By the time that packets are due, not by the clock: however late the machine is. It does not wait for the next."""
    feed = packets(*numbered(50), (3_600_000, b"an hour later", 1))
    told = Replay(feed, to=group, ttl=0, speed=speed, duration="20ms").run()
    assert told.packets == due
    assert len(rx.collect(due, timeout=1)) == due


def test_a_duration_ends_turns_and_pauses(rx, group, tmp_path):
    path = tmp_path / "feed.pcapng"
    path.write_bytes(packets(*numbered(10)).getvalue())
    told = Replay(path, to=group, ttl=0, loops=None, pause="1h", duration=0.5).run()
    assert (told.packets, told.loops) == (10, 2)
    assert Replay(path, to=group, ttl=0, loops=None, fastest=True, duration="20ms").run().packets >= 10


@pytest.mark.parametrize("rate", ["100/s", "3200bit/s"])
def test_a_duration_ends_what_is_sent_at_a_rate(rx, group, tmp_path, rate):
    """4 bytes each: 100 per second; 1,000 of them would take 10 s."""
    told = Replay(packets(*numbered(1000)), to=group, ttl=0, rate=rate, duration="50ms").run()
    assert 1 <= told.packets <= 20
    assert len(rx.collect(told.packets, timeout=1)) == told.packets


@pytest.mark.needs("signals to processes")
def test_a_duration_ends_the_wait_for_a_pipe(rx, group, monkeypatch):
    """It has the whole file, and nobody ends it."""
    monkeypatch.setattr("mcast_fast.files._replay.START", 0.05)
    monkeypatch.setattr("mcast_fast.files._replay.PATIENCE", 0.01)
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as end, os.fdopen(reading, "rb", 0) as file:
        end.write(packets(*numbered(50)).getvalue())
        end.flush()
        told = Replay(file, to=group, ttl=0, speed=100.0, duration="100ms").run()
        assert 1 <= told.packets <= 50
        end.close()


@pytest.mark.parametrize("how", [{"fastest": True}, {"rate": "100k/s"}])
def test_without_the_recorded_times(rx, group, how):
    """An hour passes at once; what has no times can be sent too."""
    told = Replay(packets((0, b"a", 1), (3_600_000, b"b", 1), (None, b"c", 1)), to=group, ttl=0, **how).run()
    assert rx.collect(3, timeout=1).payloads() == [b"a", b"b", b"c"]
    assert (told.packets, told.late_max) == (3, None)


@pytest.mark.long
@pytest.mark.needs("kernel_timestamps")
def test_a_timestamp_that_goes_back_follows_at_once(rx, group):
    told = Replay(packets((0, b"a", 1), (100, b"b", 1), (20, b"c", 1), (120, b"d", 1)), to=group, ttl=0).run()
    batch = rx.collect(4, timeout=1)
    assert batch.payloads() == [b"a", b"b", b"c", b"d"]
    assert batch[2].timestamp - batch[1].timestamp < 20 * MS + told.late_max
    assert_lasted(told, 0.12)


HOUR = 3_600_000  # ms

STEPS = {
    "the clock was set back": ([0, 30, 60, 60 - HOUR, 90 - HOUR], {}, 0.09),
    "from the future": ([0, 30, HOUR, 60, 90], {"max_gap": "30ms"}, 0.09),
    "a long pause": ([0, 30, HOUR, HOUR + 30], {"max_gap": 0.03}, 0.09),
    "the first has no time": ([None, 0, 30, None, 90], {}, 0.09),
    "one from the future, without a limit": ([0, 30, HOUR, 60, 90], {}, 0.09),
    "a long pause, twice as fast": ([0, 60, HOUR, HOUR + 60], {"max_gap": 0.06, "speed": 2}, 0.09),
}


@pytest.mark.parametrize(("times", "options", "lasts"), STEPS.values(), ids=STEPS)
def test_the_spacing_goes_on_behind_a_step_of_the_recorded_clock(rx, group, times, options, lasts):
    rows = [(time, bytes([number]), 1) for number, time in enumerate(times)]
    told = Replay(packets(*rows), to=group, ttl=0, **options).run()
    assert rx.collect(len(rows), timeout=1).payloads() == [data for _, data, _ in rows]
    assert_lasted(told, lasts)


@pytest.mark.parametrize(
    ("times", "last", "max_gap", "expected"),
    [
        ([], 5, 9, []),
        ([10, 20, 30], 10, 10, []),
        ([10, 20, 31], 10, 10, [(2, 10)]),
        ([50, 51], 10, 10, [(0, 10)]),
        ([0, 5, 0, 6], 5, 10, []),
        ([500 * MS, 400 * MS, 400 * MS - 1, 400 * MS], 500 * MS, 2**62, [(2, 0)]),
        # A packet from the future, and two: they follow at once, and what comes behind them as if they were not there.
        ([100 * MS, HOUR * MS, 300 * MS], 1, 2**62, [(1, 0), (2, 200 * MS)]),
        ([100 * MS, HOUR * MS, 0, HOUR * MS + 9, 300 * MS, 400 * MS], 1, 2**62, [(1, 0), (4, 200 * MS)]),
        ([100 * MS, HOUR * MS, 300 * MS], 1, 50 * MS, [(0, 50 * MS), (1, 0), (2, 50 * MS)]),
        # A clock that stays ahead, or comes back to long ago.
        ([100 * MS, HOUR * MS, HOUR * MS + 1], 1, 2**62, []),
        ([100 * MS, HOUR * MS, HOUR * MS // 2 + 101 * MS], 1, 2**62, [(2, 0)]),
        ([HOUR * MS, 2 * HOUR * MS, 1], HOUR * MS, 2**62, [(2, 0)]),
    ],
)
def test_steps_of_a_recorded_clock_are_found(times, last, max_gap, expected):
    """However the packets are cut into batches."""
    for cut in range(len(times) + 1):
        spacing = Spacing(max_gap)
        spacing.begin(last)
        found = spacing.steps(times[:cut], times[cut:])
        assert [*found, *((cut + at, gap) for at, gap in spacing.steps(times[cut:], []))] == expected


def test_a_long_gap_at_the_end_of_a_batch_is_found():
    spacing = Spacing(2**62)
    spacing.begin(5)
    second = 1000 * MS
    assert spacing.long_gap([]) == spacing.long_gap([0, 5, second]) == (0, 0)
    assert spacing.long_gap([second + 6]) == (0, second + 1)
    assert spacing.long_gap([5, 0, 2 * second, 9 * second]) == (2, 2 * second - 5)
    assert spacing.long_gap([5, 9 * second, *[9 * second] * 64]) == (0, 0)


@pytest.mark.parametrize("pause", ["20ms", 0.02])
def test_a_pause_between_two_turns_can_be_given(rx, group, tmp_path, pause):
    path = tmp_path / "feed.pcapng"
    path.write_bytes(packets((0, b"a", 1)).getvalue())
    told = Replay(path, to=group, ttl=0, loops=4, pause=pause).run()
    assert len(rx.collect(4, timeout=1)) == 4
    assert_lasted(told, 0.06)


@pytest.mark.long
def test_a_lone_packet_is_repeated_once_a_second(rx, group, tmp_path):
    path = tmp_path / "feed.pcapng"
    path.write_bytes(packets((0, b"a", 1)).getvalue())
    assert_lasted(Replay(path, to=group, ttl=0, loops=3, speed=10).run(), 0.2)


def test_what_is_not_sent_is_reported_by_name(rx, group):
    whole, first = cf.datagram(b"whole"), cf.ethernet(cf.ipv4(cf.udp(bytes(64)), fragment=0x2000))
    broken, other = cf.ethernet(cf.ipv4(cf.udp(), total=19)), bytes(60)
    data = cf.pcap(
        *((1, number, frame, len(frame)) for number, frame in enumerate((whole, first, broken, other, other)))
    )
    told = Replay(io.BytesIO(data), to=group, ttl=0).run()
    assert rx.recv().data == b"whole"
    assert (told.packets, told.fragments, told.skipped, told.broken, told.unsent) == (1, 1, 2, 1, 4)
    assert told.skipped_kinds == {"802.3 with LLC": 2}


@pytest.mark.parametrize(("loops", "count"), [(1, 1), (3, 3)])
def test_the_verb_names_what_is_not_sent_and_fails(rx, group, tmp_path, loops, count):
    path = tmp_path / "mixed.pcapng"
    path.write_bytes(
        cf.section()
        + cf.description()
        + cf.description(link=239, name="nflog:5")
        + cf.packet(cf.datagram(b"one"))
        + cf.packet(bytes(20), interface=1)
        + cf.packet(cf.datagram(group="10.0.0.7"))
    )
    arguments = ["replay", path, "--to", group, "--ttl", "0", "--max", "--loop", loops, "--fail-on-loss"]
    done = invoke(*arguments)
    assert done.exit_code == 3
    assert f"not sent: skipped {count} (link type 239 (NFLOG) {count}); filtered {count}" in done.stdout
    told = json.loads(invoke(*arguments, "--json").stdout)
    assert (told["skipped"], told["skipped_kinds"]) == (count, {"link type 239 (NFLOG)": count})
    assert len(rx.collect(2 * loops, timeout=1)) == 2 * loops


HOPS = [(7, 184), (7, 184), (0, 0), (33, 8), (None, 8), (33, None), (7, 0), (2, 255), (2, 255)]
KEPT = {
    (): [(3, 0)] * len(HOPS),
    "ttl": [(3 if ttl is None else ttl, 0) for ttl, _ in HOPS],
    ("tos",): [(3, tos or 0) for _, tos in HOPS],
    "ttl,tos": [(3 if ttl is None else ttl, tos or 0) for ttl, tos in HOPS],
}


def with_hops():
    """A file of packets that have the TTL and TOS of HOPS."""
    rows = []
    for number, (ttl, tos) in enumerate(HOPS):
        flags = (Flag.TTL if ttl is not None else Flag(0)) | (Flag.TOS if tos is not None else Flag(0))
        values = record(bytes([number]), NOW + number, flags=flags)
        values[POSITIONS["ttl"]], values[POSITIONS["tos"]] = ttl or 0, tos or 0
        rows.append((values, bytes([number])))
    file = io.BytesIO()
    file.name = "memory"
    with mcast.files.Writer(file) as writer:
        writer.write(batch_of(*rows))
    file.seek(0)
    return file


@pytest.mark.needs("receive_ttl", "receive_tos", "dscp")
@pytest.mark.parametrize("keep", KEPT)
def test_recorded_ttl_and_tos_are_kept(backend, group, keep):
    """What was not recorded is that of the replay. On loopback a TTL of 0 arrives too."""
    with mcast.Receiver(group, recv_ttl=True, recv_tos=True, timeout=5) as rx:
        assert Replay(with_hops(), to=group, ttl=3, keep=keep, fastest=True).run().packets == len(HOPS)
        came = [(packet.data[0], packet.ttl, packet.tos) for packet in rx.collect(len(HOPS), timeout=2)]
    assert came == [(number, *hops) for number, hops in enumerate(KEPT[keep])]


@pytest.mark.needs("receive_ttl", "receive_tos", "dscp")
def test_what_a_sender_sends_otherwise_has_its_own_ttl_and_tos(backend, group):
    """Before, between and after recorded packets."""
    with (
        mcast.Receiver(group, recv_ttl=True, recv_tos=True, timeout=5) as rx,
        mcast.Sender(group, ttl=5, dscp=10) as sender,
        mcast.files.Reader(with_hops()) as reader,
    ):
        schedule = sender.schedule(lambda _: group, keep="ttl,tos")
        schedule.start(0, 0, None)
        plain = sender.schedule(lambda _: group)
        plain.start(0, 0, None)
        batch = reader.collect(len(HOPS))
        sender.send(b"")
        for packet in (batch[:1], batch[2:3]):
            sender.send_recorded(packet, schedule)
            sender.send(b"")
        sender.send_recorded(batch[3:4], schedule)
        sender.send_recorded(batch[:1], plain)
        came = [(packet.ttl, packet.tos) for packet in rx.collect(7, timeout=2)]
    assert came == [(5, 40), (7, 184), (5, 40), (0, 0), (5, 40), (33, 8), (5, 40)]


@pytest.mark.parametrize("keep", ["ttl;tos", ["hops"], [3], 7, [[]]])
def test_what_cannot_be_kept_is_refused(backend, tmp_path, keep):
    with pytest.raises(ArgumentError, match="keep"):
        Replay(tmp_path / "feed.pcapng", to="239.1.1.1", keep=keep)


@pytest.mark.parametrize("options", [{}, {"mapping": {"239.1.1.1": "239.2.2.2"}}])
def test_nobody_sends_to_recorded_groups_unaware(backend, feed, options):
    with pytest.raises(ArgumentError, match=r"no destination; name a group with to=, or pass as_recorded"):
        Replay(feed, **options)
    assert Replay(feed, as_recorded=True, **options) is not None
    result = invoke("replay", feed)
    assert (result.exit_code, "--as-recorded" in result.stderr) == (2, True)


def test_a_pipe_whose_first_packets_have_no_time(rx, group):
    """Each packet is a batch of its own there; as a file, of which the first batches have none, and one has no more."""
    rows = [(None, b"a", 1), (None, b"b", 1), (0, b"c", 1), (30, b"d", 1)]

    class Slow(io.BytesIO):
        def readinto(self, room):
            return super().readinto(memoryview(room)[:90])

        def read(self, size=-1):
            return super().read(min(size, 90) if size > 0 else size)

    file = Slow(packets(*rows).getvalue())
    file.name = "slow"
    assert_lasted(Replay(file, to=group, ttl=0).run(), 0.03)
    assert rx.collect(4, timeout=1).payloads() == [b"a", b"b", b"c", b"d"]


def test_a_step_of_the_system_clock_changes_nothing(rx, group, monkeypatch):
    true = time.time_ns
    steps = iter([-(10**13), 10**13] * 1000)
    monkeypatch.setattr(time, "time_ns", lambda: true() + next(steps))
    told = Replay(packets(*numbered(100)), to=group, ttl=0).run()
    assert_lasted(told, 0.099)


def test_ports_and_groups_are_mapped(backend, place):
    """By group and port, by group, else by `to`; a port that is left out is the recorded one."""
    ports = [free_port() for _ in range(3)]
    zone = place.interface
    one, two, rest = (f"{'239.1.1.' if place.version == 4 else 'ff11::'}{number}%{zone}" for number in (1, 2, 3))
    joined = [
        f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
        for name, port in zip((one, two, rest), ports, strict=True)
    ]
    file = io.BytesIO()
    file.name = "memory"
    with mcast.files.Writer(file) as writer:
        writer.write(
            batch_of(
                *(
                    (record(data, NOW, port=port), data)
                    for data, port in zip((b"a", b"b", b"c"), (ports[0], 7, ports[2]), strict=True)
                )
            )
        )
    file.seek(0)
    mapping = {f"239.1.1.1:{ports[0]}": one, "239.1.1.1:7": joined[1]}
    with mcast.Receiver(*joined, timeout=5) as rx:
        told = Replay(file, mapping=mapping, to=rest, ttl=0).run()
        came = sorted((packet.data, packet.port) for packet in rx.collect(3, timeout=2))
    assert came == [(b"a", ports[0]), (b"b", ports[1]), (b"c", ports[2])]
    assert told.packets == 3


@pytest.mark.needs("destination")
def test_many_groups_go_where_they_were_recorded(backend, place):
    """Each group and port is looked up once, and found again among many."""
    if place.version == 6:
        pytest.skip("feature route: the recorded groups are of IPv4")
    port = free_port()
    rows = []
    for turn in range(3):
        for last in range(60):
            values = record(bytes([turn, last]), NOW + turn, port=port)
            values[POSITIONS["group"]] = values[POSITIONS["group"]][:15] + bytes([last])
            rows.append((values, bytes([turn, last])))
    file = io.BytesIO()
    file.name = "memory"
    with mcast.files.Writer(file) as writer:
        writer.write(batch_of(*rows))
    file.seek(0)
    with mcast.Receiver(f"239.1.1.0%{place.interface}:{port}+60", timeout=5) as rx:
        replay = Replay(file, as_recorded=True, interface=place.interface, ttl=0)
        assert replay.run().packets == 180
        batch = rx.collect(180, timeout=2)
    assert sorted((packet.data[0], packet.data[1]) for packet in batch) == [(t, g) for t in range(3) for g in range(60)]
    assert all(int(packet.group.split(".")[3]) == packet.data[1] for packet in batch)


@pytest.mark.long
def test_a_torn_file_is_sent_as_far_as_it_goes(rx, group):
    data = packets(*numbered(10)).getvalue()
    file = io.BytesIO(data[:-3])
    file.name = "torn"
    replay = Replay(file, to=group, ttl=0)
    with pytest.raises(CaptureError, match="ends in the middle"):
        replay.run()
    assert replay.result.packets == len(rx.collect(10, timeout=0.3)) == 9


@pytest.mark.long
def test_a_refused_packet_tells_how_many_had_left(rx, group):
    """65,535 bytes stand in the record, and no datagram holds them."""
    sender, schedule = schedule_of(group)
    schedule.start(0, 0, None)
    batch = batch_of(*((record(data), data) for data in (b"a", b"b", bytes(65_535))))
    with sender, pytest.raises(SendError, match=r"65535 bytes to .*; send at most 65,507 bytes") as caught:
        sender.send_recorded(batch, schedule)
    assert caught.value.errno == errno.EMSGSIZE
    assert (caught.value.sent, len(rx.collect(3, timeout=0.2))) == (2, 2)


def test_a_closed_sender_sends_nothing(group):
    sender, schedule = schedule_of(group)
    sender.close()
    with pytest.raises(mcast.ClosedError):
        sender.send_recorded(batch_of((record(b"a"), b"a")), schedule)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"speed": 2.0, "fastest": True}, "exclude each other"),
        ({"speed": 0.0}, "more than 0"),
        ({"speed": float("nan")}, "more than 0"),
        ({"loops": 0}, "loops"),
        ({"count": 0}, "count"),
        ({"duration": -1}, "duration"),
        ({"duration": "1 parsec"}, "duration"),
        ({"to": "239.1.1.1:5000+2"}, "name one"),
        ({"mapping": {"239.1.1.1": "10.0.0.1"}}, "10.0.0.1"),
        ({"to": "239.1.1.1", "as_recorded": True}, "exclude each other"),
    ],
)
def test_arguments_that_cannot_be(backend, tmp_path, options, told):
    with pytest.raises((ArgumentError, mcast.GroupError), match=told):
        Replay(tmp_path / "feed.pcapng", **options)


def test_a_file_without_times_needs_another_rule(group):
    with pytest.raises(ArgumentError, match="memory has no times"):
        Replay(packets((None, b"a", 1)), to=group, ttl=0).run()


def test_a_stream_cannot_be_looped(backend):
    with pytest.raises(ArgumentError, match="memory can be read once only"):
        Replay(packets((0, b"a", 1)), to="239.1.1.1", loops=2)


@pytest.mark.needs("named pipes")
def test_a_pipe_cannot_be_looped(backend, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ArgumentError, match="pipe can be read once only"):
        Replay(tmp_path / "pipe", to="239.1.1.1", loops=None)


# ---- the core ----


def schedule_of(group):
    sender = mcast.Sender(group, ttl=0)
    return sender, sender.schedule(lambda _: group)


def test_the_core_checks_what_it_is_given(group):
    sender, schedule = schedule_of(group)
    other, _ = schedule_of(group)
    with sender, other:
        records = memoryview(RECORD.pack(*record(b"abcd")))
        with pytest.raises(ValueError, match="do not fit"):
            sender._transmitter.send_recorded(schedule.core, records, memoryview(b"abc"), 0)
        with pytest.raises(ValueError, match="do not fit"):
            sender._transmitter.send_recorded(schedule.core, records[:63], memoryview(b"abcd"), 0)
        with pytest.raises(ValueError, match="of another sender"):
            other._transmitter.send_recorded(schedule.core, records, memoryview(b"abcd"), 0)
        assert sender._transmitter.send_recorded(schedule.core, records, memoryview(b"abcd"), 0) == (0, 0)
        assert sender._transmitter.send_recorded(schedule.core, records, memoryview(b"abcd"), 7) in ((0, 0), (-0, 0))
        with pytest.raises(ValueError, match="a route entry has"):
            schedule.core.add(b"short", 1, sender._routing.own.route)
        with pytest.raises(ValueError, match="a route entry has"):
            schedule.core.add(bytes(16), 70_000, sender._routing.own.route)
        for moment, scale in ((-1, 1.0), (2**61, 1.0), (0, -1.0), (0, float("nan"))):
            with pytest.raises(ValueError, match="the moment is"):
                schedule.core.start(0, moment, scale)


@pytest.mark.long
@pytest.mark.parametrize("timestamp", [-(2**63), 2**63 - 1])
def test_any_timestamp_may_stand_in_a_file(rx, group, timestamp):
    """The first packet of all times, and one of the far future behind it: that one waits, and Ctrl-C ends it."""
    sender, schedule = schedule_of(group)
    with sender:
        schedule.start(-(2**63), time.monotonic_ns(), 1.0)
        rows = [(record(b"a", -(2**63)), b"a"), (record(b"b", timestamp), b"b")]
        batch = batch_of(*rows)
        if timestamp < 0:
            assert sender.send_recorded(batch, schedule) == 2
            return
        ctrl_c = threading.Timer(0.3, interrupt_main)
        ctrl_c.start()
        with pytest.raises(KeyboardInterrupt):
            sender.send_recorded(batch, schedule)
        ctrl_c.join()
        assert sender.stats.datagrams == 1


@given(st.integers(0, 2**62))
def test_buckets_are_3_percent_wide(late):
    bucket = lateness.bucket_of(late)
    assert 0 <= bucket < lateness.BUCKETS
    if late < 2**41:
        assert late <= lateness.longest(bucket) <= late * 1.0323
        assert bucket == 0 or lateness.longest(bucket - 1) < late


def test_percentiles():
    counts = [0] * lateness.BUCKETS
    assert lateness.percentile(counts, 0.5) is None
    for late in range(1, 101):
        counts[lateness.bucket_of(late * 1000)] += 1
    assert 50_000 <= lateness.percentile(counts, 0.5) <= 51_700
    assert 99_000 <= lateness.percentile(counts, 0.99) <= 102_300


@pytest.mark.parametrize("late", [0, 1, 31, 32, 33, 1000, 123_456_789])
def test_both_backends_count_in_the_same_buckets(monkeypatch, place, late):
    """One packet that was due so long ago, by each backend: the bucket is that of a time not before it."""
    found = []
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    for name in BACKENDS:
        for module in _core.MODULES:
            monkeypatch.setattr(_core, module, importlib.import_module(f"mcast_fast._core.{name}.{module}"))
        group = place.group()
        sender, schedule = schedule_of(group)
        with sender:
            schedule.start(NOW, time.monotonic_ns() - late, 1.0)
            sender.send_recorded(batch_of((record(b"a"), b"a")), schedule)
            counts, latest = schedule.core.lateness()
        found.append((sum(counts), counts[lateness.bucket_of(latest)], latest >= late))
    assert found == [(1, 1, True)] * len(found)


# ---- the verb ----


@pytest.fixture
def feed(tmp_path):
    path = tmp_path / "feed.pcapng"
    path.write_bytes(packets(*numbered(100)).getvalue())
    return path


@pytest.mark.long
def test_the_report_as_text_and_json(rx, group, feed):
    result = invoke("replay", feed, "--to", group, "--ttl", "0")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.startswith("sent 100, bytes 400, in 0.")
    assert "late p50 " in result.stdout
    told = json.loads(invoke("replay", feed, "--to", group, "--ttl", "0", "--max", "--json").stdout)
    assert (told["packets"], told["loops"], told["late_max"]) == (100, 1, None)
    assert len(rx.collect(200, timeout=1)) == 200
    told = json.loads(invoke("replay", feed, "--to", group, "--ttl", "0", "-d", "50ms", "--json").stdout)
    assert told["packets"] == 51


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["--map", "239.1.1.1"], 2, "is not OLD=NEW"),
        (["--speed", "2", "--max"], 2, "exclude each other"),
        (["--to", "239.1.1.1", "--rate", "100x"], 2, "number and a unit"),
        (["--to", "239.1.1.1", "--keep", "hops"], 2, "'hops' is not one of: ttl, tos"),
        (["--as-recorded", "-g", "239.9.9.9"], 1, "holds no packet to 239.9.9.9; it has 239."),
    ],
)
def test_wrong_usage_and_nothing_to_send(backend, feed, arguments, code, told):
    result = invoke("replay", feed, *arguments)
    assert (result.exit_code, told in result.stderr) == (code, True), result.stderr


@pytest.mark.needs("signals to processes")
@pytest.mark.long
def test_ctrl_c_tells_the_true_count(program_backend, place, feed):  # noqa: F811
    group = place.group()
    with mcast.Receiver(group, timeout=10) as rx:
        argv = [
            sys.executable,
            "-m",
            "mcast_fast",
            "replay",
            str(feed),
            "--to",
            group,
            "--ttl",
            "0",
            "--loop",
            "0",
            "--json",
        ]
        with subprocess.Popen(argv, env=environment(program_backend), stdout=subprocess.PIPE, text=True) as program:
            came = len(rx.collect(150))
            program.send_signal(signal.SIGINT)
            told = json.loads(program.stdout.read())
            assert program.wait(10) == 130
        came += len(rx.collect(1000, timeout=0.2))
    assert told["packets"] == came >= 150


@pytest.mark.long
def test_progress_is_a_line_a_second(program_backend, place, feed):  # noqa: F811
    argv = [sys.executable, "-m", "mcast_fast", "replay", str(feed), "--to", place.group(), "--ttl", "0"]
    done = subprocess.run(
        [*argv, "--speed", "0.03", "--progress"],
        env=environment(program_backend),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr.startswith("mcast-fast: sent ")


# ---- between two hosts ----


@pytest.mark.lab
def test_a_recording_of_a_replay_equals_the_recording(backend, tmp_path):
    with lab.Lab() as made:
        sending, receiving = made.link("a", "b")
        groups = [f"239.1.1.{number}%{receiving.interface}:5000" for number in (1, 2)]
        first, second = tmp_path / "first.pcapng", tmp_path / "second.pcapng"
        for path in (first, second):
            with receiving.host.enter():
                rx = mcast.Receiver(*groups, buffer_size="16MiB", recv_ttl=True)
            with rx:
                recorder = Recorder(rx, path, stop=Autostop(packets=2000))
                if path == first:
                    for number in (1, 2):
                        sending.blast(f"239.1.1.{number}", 5000, count=1000, size=300, rate=10_000, ttl=1).finish()
                else:
                    with sending.host.enter():
                        replay = Replay(first, as_recorded=True, interface=sending.interface)
                        assert replay.run().packets == 2000
                recorder.run()
        told = []
        for path in (first, second):
            with mcast.open(path) as reader:
                told.append([(p.data, p.source, p.group, p.port, p.ttl) for p in reader.collect(3000)])
        assert told[0] == told[1]
        assert len(told[0]) == 2000


@pytest.mark.lab
def test_the_times_of_a_replay_are_those_of_the_recording(backend, tmp_path):
    """To within what the machine is late: a busy one delays by milliseconds, and the report says by how many."""
    with lab.Lab() as made:
        sending, receiving = made.link("a", "b")
        with receiving.host.enter():
            rx = mcast.Receiver(f"239.1.1.1%{receiving.interface}:5000", buffer_size="16MiB")
        with rx, sending.host.enter():
            told = Replay(packets(*numbered(1000, 0.5)), to=f"239.1.1.1%{sending.interface}").run()
            batch = rx.collect(1000, timeout=2)
        times = [packet.timestamp for packet in batch]
        assert len(times) == 1000
        early = max(times[0] + i * MS // 2 - time for i, time in enumerate(times))
        assert early < told.late_max + 5 * MS
