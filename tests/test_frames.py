"""Frames told as records: what is planted is found, and the compiled reader and its twin agree on everything."""

import importlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast._core.layout import Flag
from tests import capture_files as cf
from tests.conftest import has_fast

VLAN, PROVIDER, QINQ = (0x8100, 5), (0x88A8, 6), (0x9100, 7)
LINKS = (0, 1, 12, 14, 101, 108, 113, 147, 228, 229, 276)


def told(backend, frame, link=cf.ETHERNET, wire=None):
    """(records, payload, counters) that a file with this one frame gives, of either form: pcapng has a short way."""
    files = importlib.import_module(f"mcast_fast._core.{backend}.files")
    found = []
    for data in (
        cf.pcap((0, 0, frame, len(frame) if wire is None else wire), link=link),
        cf.section() + cf.description(link=link) + cf.packet(frame, wire=wire),
    ):
        decoder = files.Decoder("frame", None, False)
        assert decoder.decode(data, 10, True) == len(data)
        batch = decoder.take()
        found.append((bytes(batch.records), bytes(batch.data), decoder.counters()))
    assert found[0] == found[1]
    return found[0]


def agreed(frame, link=cf.ETHERNET, wire=None):
    """What both backends say of a frame."""
    pure = told("pure", frame, link, wire)
    if not has_fast():
        assert told("fast", frame, link, wire) == pure
    return pure


def found(frame, link=cf.ETHERNET, wire=None):
    """The one packet of a frame that is delivered."""
    records, data, counters = agreed(frame, link, wire)
    assert counters["received"] == 1, counters
    views = importlib.import_module("mcast_fast._core.pure.views")
    return views.Batch.from_bytes(records, data, {})[0]


def counter_of(frame, link=cf.ETHERNET, wire=None):
    """What a frame that is not delivered counts as; None for a later piece."""
    _, _, counters = agreed(frame, link, wire)
    assert (counters["frames"], counters["received"]) == (1, 0)
    return next((name for name in ("filtered", "fragments", "skipped", "broken") if counters[name]), None)


def fragment_header(offset, following=cf.UDP):
    return struct.pack(">BBHI", following, 0, offset, 1)


V4 = cf.ipv4(cf.udp())
V6 = cf.ipv6(cf.udp())
SLL2 = struct.pack(">H18x", 0x0800)

# A frame, its link, and the address family that is told.
PLANTED = {
    "total length 0": (cf.ethernet(cf.ipv4(cf.udp(), total=0)), cf.ETHERNET, 4),
    "cooked, a tag": (bytes(14) + b"\x81\x00\x00\x05\x08\x00" + V4, cf.SLL, 4),
    "cooked, two tags": (bytes(14) + b"\x88\xa8\x00\x05\x81\x00\x00\x06\x86\xdd" + V6, cf.SLL, 6),
    "cooked v2, a tag": (struct.pack(">H18xHH", 0x8100, 5, 0x0800) + V4, cf.SLL2, 4),
    "Ethernet": (cf.ethernet(V4), cf.ETHERNET, 4),
    "Ethernet, IPv6": (cf.ethernet(V6, 0x86DD), cf.ETHERNET, 6),
    "VLAN": (cf.ethernet(V4, tags=[VLAN]), cf.ETHERNET, 4),
    "802.1ad": (cf.ethernet(V4, tags=[PROVIDER, VLAN]), cf.ETHERNET, 4),
    "QinQ, three deep": (cf.ethernet(V4, tags=[QINQ, QINQ, VLAN]), cf.ETHERNET, 4),
    "padding of a short frame": (cf.ethernet(V4) + bytes(30), cf.ETHERNET, 4),
    "IPv4 options": (cf.ethernet(cf.ipv4(cf.udp(), options=bytes([148, 4, 0, 0]))), cf.ETHERNET, 4),
    "most IPv4 options": (cf.ethernet(cf.ipv4(cf.udp(), options=bytes(40))), cf.ETHERNET, 4),
    "don't fragment": (cf.ethernet(cf.ipv4(cf.udp(), fragment=0x4000)), cf.ETHERNET, 4),
    "hop-by-hop": (cf.ethernet(cf.ipv6(bytes([17, 0]) + bytes(6) + cf.udp(), following=0), 0x86DD), cf.ETHERNET, 6),
    "two extensions": (
        cf.ethernet(cf.ipv6(bytes([60, 1]) + bytes(14) + bytes([17, 0]) + bytes(6) + cf.udp(), following=0), 0x86DD),
        cf.ETHERNET,
        6,
    ),
    "authentication": (
        cf.ethernet(cf.ipv6(bytes([17, 4]) + bytes(22) + cf.udp(), following=51), 0x86DD),
        cf.ETHERNET,
        6,
    ),
    "a whole datagram behind a fragment header": (
        cf.ethernet(cf.ipv6(fragment_header(0) + cf.udp(), following=44), 0x86DD),
        cf.ETHERNET,
        6,
    ),
    "Linux cooked": (struct.pack(">14xH", 0x0800) + V4, cf.SLL, 4),
    "Linux cooked 2": (SLL2 + V4, cf.SLL2, 4),
    "raw": (V4, cf.RAW, 4),
    "raw, IPv6": (V6, cf.RAW, 6),
    "raw IPv4": (V4, cf.IPV4, 4),
    "null": (struct.pack("<I", 2) + V4, cf.NULL, 4),
    "null, IPv6 of any system": (struct.pack("<I", 30) + V6, cf.NULL, 6),
    "loop": (struct.pack(">I", 2) + V4, cf.LOOP, 4),
}


@pytest.mark.parametrize(("frame", "link", "version"), PLANTED.values(), ids=PLANTED)
def test_a_datagram_is_found_behind_its_headers(frame, link, version):
    packet = found(frame, link)
    assert (packet.data, packet.wire_length, packet.truncated) == (b"payload", 7, False)
    assert (packet.source_port, packet.port, packet.ttl, packet.tos) == (4000, 5000, 7, 184)
    addresses = ("10.0.0.1", "239.1.1.1") if version == 4 else ("fe80::1", "ff15::1")
    assert (packet.source.partition("%")[0], packet.group) == addresses


@pytest.mark.parametrize("kept", range(43))
def test_a_short_capture_is_broken_until_all_headers_are_there(kept):
    frame = cf.datagram()
    if kept < 42:
        assert counter_of(frame[:kept], wire=len(frame)) == "broken"
    else:
        packet = found(frame[:kept], wire=len(frame))
        assert (packet.data, packet.wire_length, packet.truncated) == (b"payload"[: kept - 42], 7, True)


NOT_DELIVERED = {
    "ARP": (cf.ethernet(bytes(46), 0x0806), "skipped"),
    "TCP": (cf.ethernet(cf.ipv4(bytes(20), protocol=6)), "skipped"),
    "no next header": (cf.ethernet(cf.ipv6(b"", following=59), 0x86DD), "skipped"),
    "ICMPv6": (cf.ethernet(cf.ipv6(bytes(8), following=58), 0x86DD), "skipped"),
    "IPv4 that is none": (cf.ethernet(bytes([0x65]) + V4[1:]), "broken"),
    "IPv6 that is none": (cf.ethernet(bytes([0x45]) + V6[1:], 0x86DD), "broken"),
    "header length of 16": (cf.ethernet(bytes([0x44]) + V4[1:]), "broken"),
    "total beyond the frame": (cf.ethernet(cf.ipv4(cf.udp(), total=400)), "broken"),
    "total below the header": (cf.ethernet(cf.ipv4(cf.udp(), total=19)), "broken"),
    "IPv6 payload beyond the frame": (cf.ethernet(cf.ipv6(cf.udp(), total=400), 0x86DD), "broken"),
    "UDP length beyond the packet": (cf.ethernet(cf.ipv4(cf.udp(length=400))), "broken"),
    "UDP length into the padding": (cf.ethernet(cf.ipv4(cf.udp(length=25))) + bytes(30), "broken"),
    "UDP length into the padding, IPv6": (cf.ethernet(cf.ipv6(cf.udp(length=25)), 0x86DD) + bytes(30), "broken"),
    "UDP length of 7": (cf.ethernet(cf.ipv4(cf.udp(length=7))), "broken"),
    "half a tag": (bytes(12) + b"\x81\x00\x00", "broken"),
    "extension beyond the frame": (
        cf.ethernet(cf.ipv6(bytes([17, 200]) + bytes(6) + cf.udp(), following=0), 0x86DD),
        "broken",
    ),
    "first fragment": (cf.ethernet(cf.ipv4(cf.udp(), fragment=0x2000)), "fragments"),
    "later fragment": (cf.ethernet(cf.ipv4(cf.udp(), fragment=0x2001)), None),
    "last fragment": (cf.ethernet(cf.ipv4(cf.udp(), fragment=5)), None),
    "first fragment, IPv6": (
        cf.ethernet(cf.ipv6(fragment_header(1) + cf.udp(), following=44), 0x86DD),
        "fragments",
    ),
    "later fragment, IPv6": (cf.ethernet(cf.ipv6(fragment_header(8) + cf.udp(), following=44), 0x86DD), None),
    "fragment of ICMPv6": (cf.ethernet(cf.ipv6(fragment_header(8, 58) + bytes(8), following=44), 0x86DD), "skipped"),
}


@pytest.mark.parametrize(("frame", "counter"), NOT_DELIVERED.values(), ids=NOT_DELIVERED)
def test_what_is_no_whole_datagram_is_counted_by_what_it_is(frame, counter):
    assert counter_of(frame) == counter


def test_a_link_that_is_not_known_is_skipped():
    assert counter_of(cf.datagram(), link=147) == "skipped"


def test_ttl_and_tos_are_flagged():
    assert found(cf.datagram()).flags == Flag.TTL | Flag.TOS


WHOLE = [(frame, link) for frame, link, _ in PLANTED.values()] + [(frame, 1) for frame, _ in NOT_DELIVERED.values()]


@settings(max_examples=300)
@given(frame=st.binary(max_size=200), link=st.sampled_from(LINKS), wire=st.integers(0, 300))
def test_both_backends_agree_on_any_bytes(frame, link, wire):
    agreed(frame, link, wire)


@settings(max_examples=500)
@given(data=st.data(), planted=st.sampled_from(WHOLE))
@pytest.mark.long
def test_both_backends_agree_on_damaged_frames(data, planted):
    frame, link = bytearray(planted[0]), planted[1]
    for _ in range(data.draw(st.integers(0, 4))):
        frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
    kept = data.draw(st.integers(0, len(frame)))
    agreed(bytes(frame[:kept]), link, data.draw(st.sampled_from([kept, len(frame), len(frame) + 9, 0])))
