"""Assembler: a feed becomes frames, whatever order, loss, repetition and restarts there are; memory is bounded."""

import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import _core, errors, files
from mcast_fast.sequence import Assembler
from tests.conftest import has_fast
from tests.test_pcapng import NOW, record
from tests.test_sequence import MS, joined


def packet(number, time=0, body=None, flow=0, width=2):
    payload = (number % (1 << 8 * width)).to_bytes(width, "big") + bytes([flow])
    payload += bytes([number & 0xFF]) if body is None else body
    return record(payload, NOW + time * MS), payload


def batch(*packets, views=None, **named):
    """Packets of numbers, of (number, ms), or as `packet` makes them."""
    made = [packet(one, at, **named) if isinstance(one, int) else one for at, one in enumerate(packets)]
    made = [packet(*one, **named) if isinstance(one[0], int) else one for one in made]
    return joined(views or _core.views, made)


def shown(frame):
    """(number, the rows that are there as bytes by their place)"""
    rows = frame.data.tobytes()
    size = frame.data.shape[1]
    there = {at: rows[at * size : (at + 1) * size] for at, one in enumerate(frame.present) if one}
    missing = [rows[at * size : (at + 1) * size] for at, one in enumerate(frame.present) if not one]
    assert missing == [bytes(size)] * frame.missing
    return frame.number, there


def numbers(*frames):
    """(number, the numbers that are there) of frames whose payload is their number."""
    return [(frame.number, [one[0] for one in shown(frame)[1].values()]) for frame in frames]


def assembler(rows=4, form="u16be@0/u8@2", size=1, body=3, **more):
    return Assembler(form, (rows, size), body=body, **more)


# ---- frames of as many numbers as they have rows ----


def test_frames_in_order(backend):
    one = assembler()
    found = one.update(batch(*range(8, 16), 16))
    assert numbers(*found) == [(2, [8, 9, 10, 11]), (3, [12, 13, 14, 15])]
    first = found[0]
    assert (first.first, first.missing, first.whole, first.duplicates, first.short, first.too_long) == (
        8,
        0,
        True,
        0,
        0,
        0,
    )
    assert (first.first_time, first.last_time) == (NOW, NOW + 3 * MS)
    assert (first.source, first.source_port, first.group, first.port, first.key) == (
        "10.0.0.1", None, "239.1.1.1", 5000, b"\0",
    )  # fmt: skip
    assert repr(first) == "<Frame 2 of 4 rows, 0 missing>"
    (last,) = one.flush()
    assert (numbers(last), last.missing, last.whole) == ([(4, [16])], 3, False)
    assert one.flush() == []


def test_reordered_and_repeated_packets_across_frames(backend):
    found = assembler().update(batch(0, 2, 4, 1, 1, 5, 3, 7, 6))
    assert numbers(*found) == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7])]
    assert [frame.duplicates for frame in found] == [1, 0]


def test_the_times_of_a_frame_are_those_of_its_earliest_and_latest_packet(backend):
    """Whichever was placed first: clocks of hosts differ, and a packet may have no time."""
    untimed = (record(b"\0\2\0\2", 0), b"\0\2\0\2")
    (found,) = assembler().update(batch((0, 5), (1, 3), untimed, (3, 4)))
    assert (found.first_time, found.last_time) == (NOW + 3 * MS, NOW + 5 * MS)


def test_a_frame_waits_for_the_window_once_a_later_one_began(backend):
    one = assembler(window="10ms")
    assert one.update(batch((0, 0), (1, 50), (4, 60), (5, 69))) == []
    (frame,) = one.update(batch((6, 70), (2, 71)))
    assert numbers(frame) == [(0, [0, 1])]
    assert one.late == 1
    assert numbers(*one.flush()) == [(1, [4, 5, 6])]


def test_a_packet_within_the_window_is_in_its_frame(backend):
    one = assembler(window="10ms")
    (frame,) = one.update(batch((0, 0), (4, 60), (1, 69), (2, 69), (5, 70)))
    assert numbers(frame) == [(0, [0, 1, 2])]
    assert one.late == 0


def test_a_later_frame_that_is_whole_waits_for_the_one_before(backend):
    one = assembler(window="10ms")
    assert one.update(batch(0, 4, 5, 6, 7)) == []
    assert numbers(*one.update(batch((1, 5), (2, 5), (3, 5)))) == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7])]


def test_no_more_frames_are_open_than_may_be(backend):
    one = assembler(pending=2)
    assert numbers(*one.update(batch(0, 4, 8, 12, 1))) == [(0, [0]), (1, [4])]
    assert one.late == 1


def test_without_times_nothing_ages(backend):
    one = assembler(window="1ms")
    rows = [record(payload, 0) for _, payload in (packet(0), packet(4), packet(8))]
    payloads = [packet(number)[1] for number in (0, 4, 8)]
    assert one.update(joined(_core.views, list(zip(rows, payloads, strict=True)))) == []
    frames = one.flush()
    assert (len(frames), frames[0].first_time, frames[0].last_time) == (3, None, None)


def test_numbers_wrap(backend):
    found = assembler(base=2).update(batch(*(at % 65536 for at in range(65530, 65536 + 10))))
    assert [frame.first for frame in found] == [65530, 65534, 2, 6]
    assert all(frame.whole for frame in found)
    assert [frame.number for frame in found] == [16382, 16383, 16384, 16385]


def test_flows_have_frames_of_their_own(backend):
    one = assembler(rows=2)
    found = one.update(batch(packet(0, flow=1), packet(0, flow=2), packet(1, flow=2), packet(1, flow=1)))
    assert [(frame.key, frame.missing) for frame in found] == [(b"\2", 0), (b"\1", 0)]


def test_flows_are_bounded_and_a_silent_one_gives_way(backend):
    one = assembler(rows=2, max_flows=1, window="10ms")
    assert one.update(batch(packet(0, 0, flow=1), packet(0, 5, flow=2))) == []
    assert one.ignored == 1
    (frame,) = one.update(batch(packet(0, 11, flow=2)))
    assert (frame.key, frame.missing) == (b"\1", 1)
    assert [frame.key for frame in one.flush()] == [b"\2"]


def test_one_packet_far_away_ends_no_frame(backend):
    one = assembler()
    assert one.update(batch(0, 1, 30_000, 2)) == []
    (frame,) = one.update(batch(3, 4))
    assert numbers(frame) == [(0, [0, 1, 2, 3])]
    assert one.strays == 1


def test_two_packets_far_away_are_a_new_run_of_which_nothing_is_lost(backend):
    one = assembler()
    (frame,) = one.update(batch(0, 1, 30_000, 30_001))
    assert numbers(frame) == [(0, [0, 1])]
    assert one.restarts == 1
    assert numbers(*one.update(batch(30_002, 30_003))) == [(7500, [at & 0xFF for at in range(30_000, 30_004)])]
    assert (one.strays, one.late) == (0, 0)


def test_a_sender_that_begins_anew_after_a_silence(backend):
    one = assembler(window="10ms")
    one.update(batch(*range(20_000, 20_010)))
    frames = one.update(batch((0, 100), (1, 101), (2, 102), (3, 103)))
    assert numbers(frames[-1]) == [(0, [0, 1, 2, 3])]
    assert one.restarts == 1


def test_old_packets_are_no_restart_while_others_come(backend):
    one = assembler()
    one.update(batch(*range(20_000, 20_010)))
    assert one.update(batch(0, 1, 2, 3)) == []
    assert (one.restarts, one.late) == (0, 4)


def test_the_frame_before_the_first_packet(backend):
    found = assembler().update(batch(5, 3, 4, 6, 2, 7, 1, 0))
    assert numbers(*found) == [(0, [0, 1, 2, 3]), (1, [4, 5, 6, 7])]


def test_short_long_and_unnumbered_packets(backend):
    one = assembler(rows=2, size=2)
    short, long = packet(0, body=b"a"), packet(1, body=b"abc")
    assert one.update(batch(short, long, (record(b"\0"), b"\0"))) == []
    (frame,) = one.flush()
    assert (frame.short, frame.too_long, frame.missing) == (1, 1, 1)
    assert frame.data.tobytes() == b"a\0\0\0"
    assert one.unplaced == 1


def test_frames_of_a_source(backend):
    found = list(assembler().frames([batch(0, 1, 2), batch(3, 4)]))
    assert numbers(*found) == [(0, [0, 1, 2, 3]), (1, [4])]


def test_a_file_gives_the_same_frames(backend, tmp_path):
    """However it is cut into batches: time is that of arrival."""
    packets = [(at, 5 * at) for at in range(30) if at % 7]
    live = assembler(window="20ms").update(batch(*packets))
    with files.Writer(tmp_path / "feed.pcapng") as writer:
        writer.write(batch(*packets))
    with mcast.open(tmp_path / "feed.pcapng", batch_size=3) as reader:
        read = list(assembler(window="20ms").frames(reader))
    assert live
    assert [(shown(one), one.missing) for one in read[: len(live)]] == [(shown(one), one.missing) for one in live]


def test_rows_of_numpy_are_those_of_the_frame(backend):
    np = pytest.importorskip("numpy")
    (frame,) = assembler().update(batch(0, 1, 2, 3))
    rows, there = np.asarray(frame.data), np.asarray(frame.present)
    assert (rows.shape, there.dtype, there.all()) == ((4, 1), bool, True)
    rows[0] = 7
    assert frame.data[0, 0] == 7


# ---- frames that a field names ----


def video(number, stamp, last=False, time=0, body=None):
    payload = struct.pack(">BBHII", 0x80, 96 | (0x80 if last else 0), number % 65536, stamp, 0)
    payload += bytes([number & 0xFF]) if body is None else body
    return record(payload, NOW + time * MS), payload


def camera(rows=6, **more):
    return Assembler("rtp", (rows, 1), by="rtp", **more)


def frames_of(*sizes, first=65_530):
    """Packets of frames of some sizes, one after the other."""
    packets, number = [], first
    for stamp, size in enumerate(sizes):
        for at in range(size):
            packets.append(video(number, 1000 + stamp, at == size - 1, time=number - first))
            number += 1
    return packets


def edges(frame):
    return frame.number, frame.first, len(frame.present), frame.missing, frame.whole


def test_video_frames_of_any_number_of_packets(backend):
    found = camera().update(batch(*frames_of(3, 1, 6, 2)))
    assert [edges(one) for one in found] == [
        (1000, 65_530, 3, 0, False),  # nothing shows where it began
        (1001, 65_533, 1, 0, True),
        (1002, 65_534, 6, 0, True),
        (1003, 4, 2, 0, True),
    ]


def test_video_frames_in_another_order(backend):
    packets = frames_of(3, 4, 3, first=0)
    order = [0, 1, 2, 4, 3, 7, 5, 8, 6, 9]
    found = camera().update(batch(*(packets[at] for at in order)))
    assert [edges(one) for one in found] == [(1000, 0, 3, 0, False), (1001, 3, 4, 0, True), (1002, 7, 3, 0, True)]
    assert numbers(*found[1:]) == [(1001, [3, 4, 5, 6]), (1002, [7, 8, 9])]


def test_a_lost_marker_is_seen_where_nothing_else_is_missing(backend):
    packets = frames_of(3, 4, 3, first=0)
    one = camera(window="2ms")
    found = [*one.update(batch(*packets[:6], *packets[7:])), *one.flush()]
    assert [edges(frame) for frame in found] == [(1000, 0, 3, 0, False), (1001, 3, 3, 0, False), (1002, 7, 3, 0, False)]


def test_lost_packets_of_a_frame(backend):
    packets = frames_of(3, 5, 3, first=0)
    one = camera(window="2ms")
    found = [*one.update(batch(*packets[:3], *packets[4:5], *packets[6:])), *one.flush()]
    assert [edges(frame) for frame in found][1:] == [(1001, 3, 5, 2, False), (1002, 8, 3, 0, True)]
    assert numbers(found[1]) == [(1001, [4, 6, 7])]


def test_a_frame_with_more_packets_than_rows(backend):
    one = camera(rows=3)
    found = [*one.update(batch(*frames_of(2, 5, 2, first=0))), *one.flush()]
    assert [len(frame.present) for frame in found] == [2, 3, 2]
    assert one.unplaced == 2


def test_a_frame_of_nothing_but_long_packets(backend):
    one = camera()
    one.update(batch(video(0, 1, body=b"abc")))
    (frame,) = one.flush()
    assert (len(frame.present), frame.missing, frame.too_long) == (1, 1, 1)


# ---- whatever comes ----


def test_arguments(backend):
    for more in (
        {"shape": 5}, {"shape": (0, 1)}, {"shape": (1, 0)}, {"shape": (1 << 15, 1)}, {"window": 0}, {"window": "2h"},
        {"base": -1}, {"base": 65536}, {"pending": 0}, {"max_flows": 0}, {"by": "x"}, {"by": "b4@0"}, {"by": "u8@0,x"},
        {"by": 5}, {"by": "u8@0,u8@1=256"}, {"by": "u8@0,u8@1=-1"}, {"by": "u8@0,u64be@0=18446744073709551616"},
        {"format": "u8@0&0x1", "shape": (2, 4)}, {"format": "spead"}, {"body": "x"}, {"format": "u64be@0", "shape": (1 << 20, 1 << 15)},
    ):  # fmt: skip
        with pytest.raises(errors.ArgumentError):
            Assembler(**({"format": "u16be@0", "shape": (4, 4)} | more))
    assert repr(Assembler("u8@0&0x1", (1, 4))) == "<Assembler of u8@0&0x1, frames of 1 rows of 4 bytes>"
    with pytest.raises(TypeError, match="a batch is required"):
        assembler().update(b"")
    assert repr(camera()) == "<Assembler of rtp, frames of 6 rows of 1 bytes>"


@pytest.mark.long
@given(order=st.permutations(range(24)), lost=st.sets(st.integers(0, 23)), start=st.sampled_from([0, 65_528, 96]))
def test_any_order_within_the_window_gives_the_same_frames(backend, order, lost, start):
    """Each number is in its row, or missing: 6 frames of 4 numbers, of which all may be open."""
    packets = [packet(start + at, 1) for at in order if at not in lost]
    one = assembler(pending=8, window="1s")
    found = [*(one.update(batch(*packets)) if packets else []), *one.flush()]
    there = [(start // 4 + at // 4) % 16384 for at in range(24) if at not in lost]
    if one.restarts == one.late == one.strays == 0:
        seen = [frame.number % 16384 for frame in found for _ in range(sum(frame.present))]
        assert sorted(seen) == sorted(there)
    placed = sum(sum(frame.present) for frame in found)
    assert placed + one.late + one.strays + sum(flow.candidate is not None for flow in one._flows.values()) == len(
        packets
    )
    for frame in found:
        for at, row in shown(frame)[1].items():
            assert row[0] == (frame.first + at) & 0xFF


WILD = st.lists(
    st.tuples(
        st.one_of(st.integers(-6, 6), st.sampled_from([-3000, -200, 100, 3000, 20_000])),
        st.sampled_from([0, 0, 1, 3, 40, -5]),
        st.integers(0, 3),
        st.integers(0, 9),
    ),
    max_size=60,
)
CASES = st.tuples(st.integers(1, 9), st.integers(1, 3), st.integers(1, 3), st.booleans())


@pytest.mark.long
@settings(max_examples=120)
@given(steps=WILD, case=CASES)
def test_both_backends_agree_on_everything_and_lose_no_packet(steps, case):
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    rows, pending, flows, is_named = case
    packets, number, time, stamp = [], 500, 0, 0
    for ahead, step, flow, mark in steps:
        number, time, stamp = number + ahead, time + step, stamp + (mark < 2)
        payload = struct.pack(">HBBB", number % 65536, flow, stamp % 256, mark)
        packets.append((record(payload, NOW + time * MS), payload))
    found = {}
    for name in ("fast", "pure"):
        placement, views = (pytest.importorskip(f"mcast_fast._core.{name}.{one}") for one in ("placement", "views"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_core, "placement", placement)
            patch.setattr(_core, "views", views)
            by = "u8@3,u8@4=0" if is_named else None
            one = Assembler("u16be@0/u8@2", (rows, 2), "10ms", by=by, body=3, pending=pending, max_flows=flows)
            frames = [one.update(joined(views, packets[at : at + 7])) for at in range(0, len(packets), 7)]
            assert all(len(flow.open) <= pending for flow in one._flows.values())
            candidates = sum(flow.candidate is not None for flow in one._flows.values())
            every = [frame for some in [*frames, one.flush()] for frame in some]
            counted = one.late + one.strays + one.unplaced + one.ignored + candidates
            counted += sum(sum(frame.present) + frame.duplicates + frame.too_long for frame in every)
            assert counted == len(packets)
            found[name] = [(shown(frame), edges(frame), frame.last_time, frame.key) for frame in every]
    assert found["fast"] == found["pure"]
