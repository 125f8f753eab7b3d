"""Fragments in capture files: put together in bounded memory, counted, and alike on both backends."""

import importlib
import io
import random
import struct
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast._core import blocks
from tests import capture_files as cf
from tests.conftest import has_fast

PAYLOAD = bytes(range(256)) * 12  # 3,072 bytes
PIECE = 1480  # bytes of a fragment that fit a frame


def piece4(datagram, offset, size, number=1, **named):
    """A frame with these bytes of a datagram."""
    more = 0x2000 if offset + size < len(datagram) else 0
    packet = bytearray(cf.ipv4(datagram[offset : offset + size], fragment=more | offset // 8, **named))
    packet[4:6] = number.to_bytes(2, "big")
    return cf.ethernet(bytes(packet))


def piece6(datagram, offset, size, number=1, **named):
    """The same of IPv6 (RFC 8200, 4.5)."""
    head = struct.pack(">BBHI", cf.UDP, 0, offset | (offset + size < len(datagram)), number)
    return cf.ethernet(cf.ipv6(head + datagram[offset : offset + size], following=44, **named), 0x86DD)


def pieces(make, payload=PAYLOAD, size=PIECE, **named):
    """All frames of a datagram, in order."""
    datagram = cf.udp(payload)
    return [make(datagram, at, size, **named) for at in range(0, len(datagram), size)]


def reader_of(frames, *groups, **options):
    data = cf.pcap(*((second, 0, frame, len(frame)) for second, frame in enumerate(frames, start=1)))
    return mcast.files.Reader(io.BytesIO(data), *groups, **options)


def read(frames, *groups, **options):
    """(payloads, stats) of a file with these frames."""
    with reader_of(frames, *groups, **options) as reader:
        return reader.collect(10_000).payloads(), reader.stats


ORDERS = {"in order": [0, 1, 2], "backwards": [2, 1, 0], "the middle last": [0, 2, 1], "one twice": [0, 0, 1, 2]}


@pytest.mark.parametrize("make", [piece4, piece6])
@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_datagram_is_put_together_from_its_fragments(backend, make, order):
    frames = pieces(make)
    with reader_of([frames[number] for number in order]) as reader:
        (packet,) = reader.collect(10)
    assert (packet.data, packet.source_port, packet.port) == (PAYLOAD, 4000, 5000)
    assert (packet.ttl, packet.tos, packet.wire_length, packet.truncated) == (7, 184, len(PAYLOAD), False)
    assert packet.timestamp == len(order) * 10**9, "the time of the piece that came last"
    stats = reader.stats
    assert (stats.frames, stats.received, stats.reassembled, stats.fragments) == (len(order), 1, 1, 0)


def test_what_lacks_a_piece_is_counted_and_not_delivered(backend):
    frames = pieces(piece4)
    for missing in (1, 2):
        found, stats = read([*frames[:missing], *frames[missing + 1 :]])
        assert (found, stats.fragments, stats.reassembled, stats.received) == ([], 1, 0, 0)
    found, stats = read(frames[1:])
    assert (found, stats.fragments, stats.frames) == ([], 0, 2)


def test_fragments_of_one_number_between_others_are_kept_apart(backend):
    first = pieces(piece4, b"a" * 3000, source="10.0.0.1")
    second = pieces(piece4, b"b" * 3000, source="10.0.0.2")
    third = pieces(piece6, b"c" * 3000)
    woven = [frame for three in zip(first, second, third, strict=True) for frame in three]
    assert read(woven)[0] == [b"a" * 3000, b"b" * 3000, b"c" * 3000]


def test_fragments_of_one_number_on_two_interfaces_are_kept_apart(backend):
    """Copies of one stream, captured on two links, have all else in common."""
    packets = [cf.packet(frame, interface=number % 2) for number, frame in enumerate(pieces(piece4))]
    data = b"".join([cf.section(), cf.description(), cf.description(), *packets])
    with mcast.files.Reader(io.BytesIO(data)) as reader:
        assert len(reader.collect(9)) == 0
        assert (reader.stats.fragments, reader.stats.reassembled) == (1, 0)


@pytest.mark.parametrize(("size", "reassembled"), [(65535, 1), (65536, 0), (65528 + 1480, 0)])
def test_a_datagram_is_no_larger_than_udp_can_say(backend, size, reassembled):
    """The last offset that a fragment can have is 65,528, from where it may reach further."""
    datagram = cf.udp(bytes(size - 8), length=65535)
    starts = [*range(0, 65528, PIECE // 8 * 8), 65528]
    ends = [*starts[1:], size]
    frames = [piece4(datagram, at, end - at) for at, end in zip(starts, ends, strict=True)]
    found, stats = read(frames)
    assert (found, stats.reassembled) == ([bytes(65527)] * reassembled, reassembled)
    assert stats.fragments == 1 - reassembled


@pytest.mark.parametrize("at", [8, 1472])
def test_pieces_that_overlap_discard_their_datagram(backend, at):
    """RFC 5722: no host may let them pass."""
    frames = pieces(piece4)
    forged = piece4(cf.udp(bytes(len(PAYLOAD))), at, 1480)
    found, stats = read([frames[0], forged, *frames[1:]])
    assert (found, stats.fragments) == ([], 1)


def test_a_piece_that_was_captured_in_part_is_not_put_together(backend):
    frames = pieces(piece4)
    data = cf.pcap(*((1, 0, frame[:100] if number == 1 else frame, len(frame)) for number, frame in enumerate(frames)))
    with mcast.files.Reader(io.BytesIO(data)) as reader:
        assert (len(reader.collect(9)), reader.stats.fragments) == (0, 1)


def test_only_wanted_datagrams_are_put_together(backend):
    wanted, other = pieces(piece4), pieces(piece4, b"o" * 3000, group="239.2.2.2")
    found, stats = read([*other, *wanted], "239.1.1.1:5000")
    assert (found, stats.reassembled, stats.filtered) == ([PAYLOAD], 1, 1)
    assert read([*other, *wanted], "239.1.1.1:5001")[1].filtered == 2


def test_datagrams_in_the_making_are_bounded(backend):
    """The one that waits longest is given up."""
    started = [pieces(piece4, number=number + 1) for number in range(blocks.PIECES + 1)]
    found, stats = read([frames[0] for frames in started] + [frame for frames in started for frame in frames[1:]])
    assert stats.fragments + stats.reassembled == blocks.PIECES + 1
    assert len(found) == stats.reassembled < blocks.PIECES + 1
    found, stats = read(
        [frames[0] for frames in started[1:]] + [frame for frames in started[1:] for frame in frames[1:]]
    )
    assert (stats.fragments, stats.reassembled) == (0, blocks.PIECES)


def outcome(backend, frames):
    files = importlib.import_module(f"mcast_fast._core.{backend}.files")
    decoder = files.Decoder("fragments", None, False)
    data = cf.pcap(*((1, 0, frame, len(frame)) for frame in frames))
    assert decoder.decode(data, 10_000, True) == len(data)
    batch = decoder.take()
    return bytes(batch.records), bytes(batch.data), decoder.counters()


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), count=st.integers(1, 300))
@pytest.mark.long
def test_both_backends_agree_on_any_fragments(seed, count):
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    dice = random.Random(seed)
    frames = []
    for _ in range(count):
        make = dice.choice([piece4, piece6])
        datagram = cf.udp(dice.randbytes(dice.choice([0, 1, 7, 8, 100, 1000])), length=dice.choice([None, None, 9]))
        at, size = 8 * dice.randrange(len(datagram) // 8 + 1), 8 * dice.randrange(1, 20) + dice.choice([0, 0, 0, 3])
        frames.append(make(datagram, at, size, number=dice.randrange(dice.choice([2, 100]))))
    assert outcome("fast", frames) == outcome("pure", frames)


@pytest.mark.long
@pytest.mark.needs("tshark")
def test_tshark_puts_the_same_together(backend, tmp_path):
    path = tmp_path / "fragments.pcap"
    frames = [*pieces(piece4), *reversed(pieces(piece6, b"six" * 1500)), *pieces(piece4, b"x" * 9000, number=2)]
    path.write_bytes(cf.pcap(*((1, number, frame, len(frame)) for number, frame in enumerate(frames))))
    command = ["tshark", "-n", "-r", path, "-Y", "udp.length", "-T", "fields", "-e", "udp.payload"]
    seen = [
        bytes.fromhex(line) for line in subprocess.check_output(command, text=True, stderr=subprocess.DEVNULL).split()
    ]
    with mcast.open(path) as reader:
        assert reader.collect(100).payloads() == seen == [PAYLOAD, b"six" * 1500, b"x" * 9000]
