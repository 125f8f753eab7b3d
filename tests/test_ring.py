"""The mapped ring: what arrives on an interface comes out of it once, whole, and stays as it came."""

import asyncio
import contextlib
import gc
import itertools
import os
import pickle
import select
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, Flag, InterfaceError, SocketError, _core, aio
from mcast_fast._membership import bpf, rings
from tests import frames, lab
from tests.conftest import descriptors, free_port, until
from tests.frames import ethernet, ipv4, ipv6, udp

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("ring")]

PORT = 5000
V4, V6 = "239.1.1.1", "ff15::1"
SMALL = "1MiB"
DENSE = 200  # packets of 256 bytes: more than an eighth of a block, so that they stay in place
PATIENT = 0.5  # ring_latency: one block holds all of them, however slow the machine is


@pytest.fixture
def ring(backend: str) -> None:
    """Skips where there is no ring."""
    feature = _core.slots.FEATURES["ring"]
    if not feature:
        pytest.skip(f"feature ring: {feature.reason}")


@pytest.fixture
def ends() -> Iterator[tuple[lab.End, lab.End]]:
    with lab.Lab() as made:
        yield made.link("a", "b")


@pytest.fixture
def nothing_left() -> Iterator[None]:
    """The test leaves no descriptor and no mapping of a packet socket behind."""
    before = descriptors(), mappings()
    yield
    gc.collect()
    assert (descriptors(), mappings()) == before


def mappings() -> int:
    """How many packet rings this process has mapped."""
    return Path("/proc/self/maps").read_text().count("socket:[")


def receiver(end: lab.End, *groups: str, **options) -> mcast.Receiver:
    texts = [
        f"[{group}%{end.interface}]:{PORT}" if ":" in group else f"{group}%{end.interface}:{PORT}" for group in groups
    ]
    with end.host.enter():
        return mcast.Receiver(
            *(texts or [f"{V4}%{end.interface}:{PORT}"]), **{"timeout": 5.0, "ring": "8MiB"} | options
        )


def packet_socket(end: lab.End) -> socket.socket:
    """Sends frames as they are."""
    with end.host.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
        sock.bind((end.interface, 0))
        return sock


def receive(rx: mcast.Receiver, count: int) -> list[bytes]:
    """Wait for so many payloads, and take what more there is."""
    found: list[bytes] = []
    while len(found) < count:
        found += rx.recv_batch().payloads()
    return found + rx.collect(1_000_000, timeout=0.1).payloads()


def numbers(payloads: list[bytes]) -> list[int]:
    """Of a blast's datagrams."""
    return [int.from_bytes(payload[:8]) for payload in payloads]


# ---- opening ----


WRONG = {
    "too small": ({"ring": 4096}, ArgumentError, ["ring 4096", "1048576"]),
    "without a unit": ({"ring": "64"}, ArgumentError, ["ring '64'", "MiB"]),
    "a latency of 0": ({"ring": True, "ring_latency": 0}, ArgumentError, ["ring_latency 0", "0.001 to 1"]),
    "a latency of a text": ({"ring": True, "ring_latency": "soon"}, ArgumentError, ["ring_latency 'soon'"]),
    "a fanout group without a ring": ({"packet_fanout": 1}, ArgumentError, ["packet_fanout", "ring="]),
    "a fanout group beyond 16 bits": ({"ring": True, "packet_fanout": 65_536}, ArgumentError, ["packet_fanout 65536"]),
    "more than there is memory": ({"ring": "8000GiB"}, ArgumentError, ["8,589,934,592,000 bytes", "use a smaller one"]),
    "more than any machine has": (
        {"ring": 2**63},
        ArgumentError,
        ["9,223,372,036,854,775,808 bytes", "use a smaller one"],
    ),
}


@pytest.mark.parametrize(("options", "kind", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_opened_is_an_error_of_ours_that_leaves_nothing_open(nothing_left, options, kind, told):
    with pytest.raises(kind) as caught:
        mcast.Receiver("239.1.1.1%lo:5000", **options)
    assert all(text in str(caught.value) for text in told), caught.value


MEMINFO = "MemTotal:       32768 kB\nMemFree:         1024 kB\nMemAvailable:   16384 kB\nHugePages_Total:       0\n"


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """A machine of 32 MiB with 16 free; a test writes limits of a cgroup."""
    (tmp_path / "meminfo").write_text(MEMINFO)
    monkeypatch.setattr(rings, "MEMINFO", tmp_path / "meminfo")
    groups = tuple((tmp_path / f"limit {version}", tmp_path / f"used {version}") for version in (2, 1))
    monkeypatch.setattr(rings, "CGROUPS", groups)
    return tmp_path


def test_a_ring_that_free_memory_cannot_hold_is_refused_before_the_kernel_is_asked(nothing_left, memory, monkeypatch):
    plain = socket.socket

    def unless_packets(family: int = -1, *others: int) -> socket.socket:
        return pytest.fail("the kernel is asked") if family == socket.AF_PACKET else plain(family, *others)

    monkeypatch.setattr(rings.socket, "socket", unless_packets)
    for size in ("15MiB", "64MiB", "8000GiB", 2**63, 2**200):
        with pytest.raises(ArgumentError, match=r"14,680,064 .* 16 MiB of memory are free"):
            mcast.Receiver("239.1.1.1%lo:5000", ring=size)


@pytest.mark.parametrize(
    ("limit", "used", "free"),
    [("max", 0, 16), (8 << 20, 1 << 20, 7), (9223372036854771712, 5, 16), (1 << 20, 2 << 20, 0)],
)
@pytest.mark.parametrize("version", [1, 2])
def test_the_limit_of_a_cgroup_counts(memory, limit, used, free, version):
    (memory / f"limit {version}").write_text(f"{limit}\n")
    (memory / f"used {version}").write_text(f"{used}\n")
    assert rings.free_memory() == free << 20


def test_where_nobody_says_what_is_free_there_is_a_limit_all_the_same(memory):
    (memory / "meminfo").write_text("nonsense\nMemAvailable: lots\n")
    assert rings.free_memory() is None
    rings.check_memory(1 << 40)
    with pytest.raises(ArgumentError, match="1,099,511,627,776"):
        rings.check_memory((1 << 40) + 1)


def test_the_second_ring_is_checked_when_it_is_opened(nothing_left, memory, ends):
    _, b = ends
    with b.host.enter():
        rx = mcast.Receiver(f"{V4}%lo:{PORT}", ring="8MiB")
        with rx:
            (memory / "meminfo").write_text(MEMINFO.replace("16384", "8192"))
            with pytest.raises(ArgumentError, match="8 MiB of memory are free"):
                rx.join(f"{V4}%{b.interface}:{PORT}")
            assert [one.interface for one in rx.memberships] == ["lo"]
            (memory / "meminfo").write_text(MEMINFO)
            assert rx.join(f"{V4}%{b.interface}:{PORT}")


def test_a_fanout_group_of_two_interfaces_is_refused_whole(nothing_left, ends):
    _, b = ends
    with receiver(b, packet_fanout=7), b.host.enter(), pytest.raises(SocketError, match="packet_fanout=7 on lo"):
        mcast.Receiver("239.1.1.1%lo:5000", ring=SMALL, packet_fanout=7)


def test_a_link_that_is_not_ethernet_is_refused(nothing_left, ends):
    _, b = ends
    try:
        b.host.run("ip", "tuntap", "add", "tun0", "mode", "tun")
        b.host.run("ip", "address", "add", "10.5.0.1/24", "dev", "tun0")
        b.host.run("ip", "link", "set", "tun0", "up", "multicast", "on")
    except lab.LabError as error:
        pytest.skip(f"no tun interface can be made: {error}")
    with b.host.enter(), pytest.raises(InterfaceError, match="tun0: its link is not Ethernet"):
        mcast.Receiver("239.1.1.1%tun0:5000", ring=SMALL)


def test_without_the_privilege_the_error_names_the_command():
    code = "import mcast_fast; mcast_fast.Receiver('239.1.1.1%lo:5000', ring=True)"
    environment = os.environ | {"MCAST_FAST_BACKEND": "fast"}
    drop = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw", sys.executable, "-c", code]
    done = subprocess.run(drop, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert "SocketError" in done.stderr
    assert f"setcap cap_net_raw+ep {os.path.realpath(sys.executable)}" in done.stderr


@pytest.mark.parametrize("size", [1 << 20, 5_000_000, 8 << 20, 64 << 20, (64 << 20) + 1, 1 << 30])
def test_a_ring_is_divided_into_blocks(size):
    options = rings.RingOptions(size)
    assert options.block_size in {1 << power for power in range(17, 21)}
    assert 8 <= options.blocks == size // options.block_size


# ---- what comes out ----


def test_over_the_loopback_each_packet_comes_once(nothing_left):
    group = f"239.1.1.1%lo:{free_port()}"
    payloads = [b"%d" % number for number in range(1000)] + [b"", b"x" * 60_000]
    with mcast.Receiver(group, ring=SMALL, timeout=5) as rx, mcast.Sender(group, ttl=0) as tx:
        for payload in payloads:
            tx.send(payload)
        assert receive(rx, len(payloads)) == payloads
        tx.send(b"one more")
        packet = rx.recv()
        assert (packet.group, packet.source, packet.interface) == ("239.1.1.1", "127.0.0.1", "lo")
        assert packet.ttl == 0
        assert rx.stats.received == len(payloads) + 1


def test_rows_and_selections_leave_the_ring_alone(nothing_left):
    """Rows of a ring's batch are copies, and what matches refers to the ring as its batch does: neither detaches it."""
    group = f"239.1.1.1%lo:{free_port()}"
    payloads = [number.to_bytes(4, "big") + bytes(300) for number in range(1000)]
    with mcast.Receiver(group, ring=SMALL, ring_latency="1s", timeout=5) as rx, mcast.Sender(group, ttl=0) as tx:
        tx.send_batch(payloads)
        batches = list(rx.batches(count=len(payloads)))
        found = [batch.where(source="127.0.0.1")[1:] for batch in batches]
        rows = [batch.rows(4) for batch in batches]
        detached = rx.stats.detached
        numbers = [int(number) for batch in batches for number in batch.view_as(">u4")]
        assert rx.stats.detached == detached
        assert numbers == list(range(1000))
        expected = [payload for batch in batches for payload in batch.payloads()[1:]]
        del batches
    assert [payload for batch in found for payload in batch.payloads()] == expected
    assert b"".join(map(bytes, rows)) == b"".join(payload[:4] for payload in payloads)
    assert all(len(batch.where(port=1)) == 0 for batch in found)


def test_a_record_says_what_the_packet_said(ends):
    a, b = ends
    with receiver(b, V4, V6) as rx:
        a.blast(V4, PORT, count=1, ttl=7).finish()
        a.blast(V6, PORT, count=1, ttl=9).finish()
        first, second = rx.collect(2)
    assert (first.group, first.port, first.source, first.ttl, first.interface) == (V4, PORT, a.ipv4, 7, b.interface)
    assert (second.group, second.port, second.source, second.ttl) == (V6, PORT, a.ipv6, 9)
    assert 0 < second.timestamp - first.timestamp < 60_000_000_000
    assert first.wire_length == len(first) == 256


def test_without_timestamps_there_are_none(ends):
    a, b = ends
    with receiver(b, timestamps=None) as rx:
        a.blast(V4, PORT, count=1).finish()
        assert rx.recv().timestamp is None


BODY = udp(b"payload", PORT)
BODY6 = BODY[:6] + b"\x12\x34" + BODY[8:]  # IPv6 needs a checksum, which a ring does not verify
DELIVERED = {
    "plain": ethernet(V4, ipv4(V4, BODY)),
    "a VLAN tag": ethernet(V4, ipv4(V4, BODY), (0x8100,)),
    "two VLAN tags": ethernet(V4, ipv4(V4, BODY), (0x88A8, 0x8100)),
    "IPv4 options": ethernet(V4, ipv4(V4, BODY, options=b"\x94\x04\x00\x00" * 2)),
    "a bad checksum": ethernet(V4, ipv4(V4, BODY[:6] + b"\x12\x34" + BODY[8:])),
    "padding": ethernet(V4, ipv4(V4, BODY)) + bytes(40),
    "IPv6": ethernet(V6, ipv6(V6, BODY6)),
    "IPv6, a VLAN tag": ethernet(V6, ipv6(V6, BODY6), (0x8100,)),
    "IPv6 options": ethernet(V6, ipv6(V6, frames.options_header() + BODY6, first=60)),
    "an atomic fragment": ethernet(V6, ipv6(V6, frames.fragment_header(0, False) + BODY6, first=frames.FRAGMENT)),
}


@pytest.mark.parametrize("frame", DELIVERED.values(), ids=DELIVERED.keys())
def test_headers_are_walked_to_the_payload(ends, frame):
    a, b = ends
    with receiver(b, V4, V6, vlan=True) as rx, packet_socket(a) as raw:
        raw.send(frame)
        packet = rx.recv()
        assert (packet.data, packet.port) == (b"payload", PORT)
        assert packet.group in (V4, V6)


def _with_bad_sum(packet: bytes) -> bytes:
    return packet[:10] + bytes([packet[10] ^ 1]) + packet[11:]


LOOSE_ROUTE = bytes([131, 7, 4, 10, 77, 0, 2, 0])  # RFC 791: a route of the sender's choice
REFUSED = {
    "a wrong header checksum": ethernet(V4, _with_bad_sum(ipv4(V4, BODY))),
    "a loopback source": ethernet(V4, ipv4(V4, BODY, source="127.0.0.1")),
    "a source that is a group": ethernet(V4, ipv4(V4, BODY, source="239.5.5.5")),
    "no source": ethernet(V4, ipv4(V4, BODY, source="0.0.0.0")),
    "a broadcast source": ethernet(V4, ipv4(V4, BODY, source="255.255.255.255")),
    "a source route": ethernet(V4, ipv4(V4, BODY, options=LOOSE_ROUTE)),
    "IPv6 without a checksum": ethernet(V6, ipv6(V6, BODY)),
    "an IPv6 source that is a group": ethernet(V6, ipv6(V6, BODY6, source="ff15::5")),
    "an IPv6 loopback source": ethernet(V6, ipv6(V6, BODY6, source="::1")),
    "an IPv4-mapped source": ethernet(V6, ipv6(V6, BODY6, source="::ffff:10.77.0.1")),
    "a VLAN tag": DELIVERED["a VLAN tag"],
}


@pytest.mark.parametrize("frame", REFUSED.values(), ids=REFUSED.keys())
def test_what_no_socket_gets_is_not_delivered_by_a_ring_either(ends, frame):
    """A socket beside the ring is the judge."""
    a, b = ends
    with receiver(b, V4, V6) as rx, receiver(b, V4, V6, ring=None) as judge, packet_socket(a) as raw:
        raw.send(frame)
        raw.send(DELIVERED["plain"])
        got = [one.recv() for one in (judge, rx)]
        assert [(packet.group, packet.source, packet.data) for packet in got] == [(V4, a.ipv4, b"payload")] * 2
        assert (judge.stats.received, rx.stats.received) == (1, 1)


def test_fragments_are_counted_once_a_datagram_and_never_delivered(ends):
    a, b = ends
    pieces = [
        ethernet(V4, ipv4(V4, udp(bytes(16), PORT), piece=0x2000)),
        ethernet(V4, ipv4(V4, bytes(24), piece=0x2003)),
        ethernet(V4, ipv4(V4, bytes(8), piece=0x0006)),
        ethernet(V6, ipv6(V6, frames.fragment_header(0, True) + udp(bytes(16), PORT), first=frames.FRAGMENT)),
        ethernet(V6, ipv6(V6, frames.fragment_header(24, False) + bytes(8), first=frames.FRAGMENT)),
        ethernet(V4, ipv4(V4, udp(bytes(16), PORT + 1), piece=0x2000)),
    ]
    with receiver(b, V4, V6) as rx, packet_socket(a) as raw:
        for piece in pieces:
            raw.send(piece)
        raw.send(DELIVERED["plain"])
        assert rx.recv().data == b"payload"
        assert (rx.stats.fragments, rx.stats.received, rx.stats.filtered) == (2, 1, 0)


def test_what_contradicts_itself_is_counted_and_not_delivered(ends):
    a, b = ends
    broken = bytearray(DELIVERED["plain"])
    broken[38:40] = (999).to_bytes(2)  # a length of UDP beyond the packet
    with receiver(b) as rx, packet_socket(a) as raw:
        raw.send(broken)
        raw.send(DELIVERED["plain"])
        assert rx.recv().data == b"payload"
        assert (rx.stats.received, rx.stats.filtered) == (1, 1)


def test_any_bit_may_be_wrong(ends):
    """Every bit of the headers in turn; the plain frames behind come out."""
    a, b = ends
    with receiver(b, V4, V6) as rx, packet_socket(a) as raw:
        for frame in (DELIVERED["IPv4 options"], DELIVERED["IPv6 options"]):
            for bit in range(12 * 8, (len(frame) - 7) * 8):
                wrong = bytearray(frame)
                wrong[bit // 8] ^= 1 << bit % 8
                raw.send(wrong)
        raw.send(ethernet(V4, ipv4(V4, udp(b"the last one", PORT))))
        while b"the last one" not in rx.recv_batch().payloads():
            pass


@pytest.mark.needs("super packets in rings")
@pytest.mark.parametrize("group", [V4, V6])
@pytest.mark.parametrize("limit", [7, 4096])
def test_super_packets_are_taken_apart(ends, group, limit):
    """GSO packets cross a veth pair whole; the last datagram of each is sent here alone or with fewer neighbours."""
    a, b = ends
    with receiver(b, group, batch_size=limit) as rx:
        a.blast(group, PORT, count=1000, size=700, segments=60).finish()
        batches = []
        while sum(map(len, batches)) < 1000:
            batches.append(rx.recv_batch())
        payloads = [payload for batch in batches for payload in batch.payloads()]
        assert numbers(payloads) == list(range(1000))
        assert {len(payload) for payload in payloads} == {700}
        flags = [packet.flags for batch in batches for packet in batch]
        assert all(flag & Flag.COALESCED for flag in flags)
        assert max(map(len, batches)) <= limit


@pytest.mark.needs("super packets in rings")
def test_the_last_segment_of_a_super_packet_may_be_short(ends):
    a, b = ends
    with receiver(b) as rx:
        with a.host.enter(), mcast.Sender(f"{V4}%{a.interface}:{PORT}") as tx:
            tx.send_batch([b"x" * 500] * 9 + [b"y" * 3])
        batch = rx.collect(10)
    assert batch.payloads() == [b"x" * 500] * 9 + [b"y" * 3]
    assert np.asarray(batch)["wire_length"].tolist() == [500] * 9 + [3]


def test_what_is_too_long_is_truncated_and_flagged(ends):
    a, b = ends
    with receiver(b, max_packet_size=100) as rx:
        a.blast(V4, PORT, count=3, size=256).finish()
        batch = rx.collect(3)
        assert [(len(packet), packet.truncated, packet.wire_length) for packet in batch] == [(100, True, 256)] * 3
        assert rx.stats.truncated == 3


# ---- receiving ----


def test_every_way_of_receiving_gives_the_same(ends):
    a, b = ends
    with receiver(b, batch_size=50) as rx:
        a.blast(V4, PORT, count=1000).finish()
        found = [rx.recv().data for _ in range(10)]
        found += rx.recv_batch(3).payloads()
        found += rx.collect(300).payloads()
        for batch in rx:
            found += [packet.data for packet in batch]
            if len(found) >= 1000:
                break
        assert numbers(found) == list(range(1000))
        with pytest.raises(TimeoutError):
            rx.recv_batch(timeout=0)


def readable(rx: mcast.Receiver, seconds: float) -> bool:
    return bool(select.select([rx.fileno()], [], [], seconds)[0])


def test_the_descriptor_is_readable_when_a_receive_would_not_wait(ends):
    a, b = ends
    with receiver(b, batch_size=10) as rx:
        assert not readable(rx, 0)
        a.blast(V4, PORT, count=25).finish()
        kept = []
        for _ in range(3):
            assert readable(rx, 5)
            kept.append(rx.recv_batch(timeout=1))
        assert sum(map(len, kept)) == 25
        assert not readable(rx, 0.05)  # though its block is still held
        with pytest.raises(TimeoutError):
            rx.recv_batch(timeout=0)


def test_waiting_with_a_held_block_costs_nothing(ends):
    """A block that is held shows as readable in poll(2) forever."""
    a, b = ends
    with receiver(b) as rx:
        a.blast(V4, PORT, count=1).finish()
        held = rx.recv_batch()
        before = rx.stats.wakeups
        with pytest.raises(TimeoutError):
            rx.recv_batch(timeout=0.3)
        assert rx.stats.wakeups - before <= 2
        assert len(held) == 1


def test_asyncio_receives_from_a_ring(ends):
    a, b = ends

    async def follow() -> list[bytes]:
        found: list[bytes] = []
        with b.host.enter():
            rx = aio.Receiver(f"{V4}%{b.interface}:{PORT}", ring="8MiB")
        async with rx:
            a.blast(V4, PORT, count=500).finish()
            while len(found) < 500:
                found += (await asyncio.wait_for(rx.recv_batch(), 5)).payloads()
        return found

    assert numbers(asyncio.run(follow())) == list(range(500))


def test_answers_leave_from_the_port_of_the_group(ends):
    a, b = ends
    with a.host.enter():
        tx = mcast.Sender(f"{V4}%{a.interface}:{PORT}", timeout=5)
    with receiver(b) as rx, tx:
        tx.send(b"question")
        with b.host.enter():
            rx.reply(rx.recv(), b"answer")
        reply = tx.recv()
    assert (reply.data, reply.source, reply.source_port) == (b"answer", b.ipv4, PORT)


# ---- membership ----


def test_what_is_left_is_not_delivered_any_more(ends):
    a, b = ends
    with receiver(b, V4, "239.1.1.2") as rx:
        for group in (V4, "239.1.1.2"):
            a.blast(group, PORT, count=100).finish()
        assert readable(rx, 5)
        rx.leave(V4)
        payloads = rx.collect(1000, timeout=0.2)
        assert {packet.group for packet in payloads} == {"239.1.1.2"}
        assert len(payloads) == 100
        assert rx.stats.filtered == 100
        a.blast(V4, PORT, count=50).finish()
        a.blast("239.1.1.2", PORT, count=1).finish()
        assert rx.recv().group == "239.1.1.2"
        assert rx.stats.filtered == 100  # the kernel's filter was narrowed
        with b.host.enter():
            rx.join(f"{V4}%{b.interface}:{PORT}")
        a.blast(V4, PORT, count=1).finish()
        assert rx.recv().group == V4


def test_what_is_left_is_counted_also_where_payloads_stay_in_the_ring(ends):
    a, b = ends
    with receiver(b, V4, "239.1.1.2", ring_latency=PATIENT) as rx:
        for group in (V4, "239.1.1.2"):
            a.blast(group, PORT, count=DENSE).finish()
        rx.leave(V4)
        assert numbers(receive(rx, DENSE)) == list(range(DENSE))
        assert (rx.stats.received, rx.stats.filtered) == (DENSE, DENSE)


def test_a_blocked_source_is_not_delivered_any_more(ends):
    a, b = ends
    a.host.add_address(a.interface, "10.77.0.9/24")
    with receiver(b) as rx:
        rx.block(V4, "10.77.0.9")
        a.blast(V4, PORT, count=10, source="10.77.0.9").finish()
        a.blast(V4, PORT, count=1).finish()
        assert rx.recv().source == a.ipv4
        assert rx.stats.filtered == 10


@pytest.mark.needs("super packets in rings")
def test_a_super_packet_of_a_blocked_source_counts_as_its_datagrams(ends):
    """Also where the last of them is short."""
    a, b = ends
    a.host.add_address(a.interface, "10.77.0.9/24")
    with receiver(b) as rx:
        rx.block(V4, "10.77.0.9")
        with a.host.enter(), mcast.Sender(f"{V4}%{a.interface}:{PORT}", source="10.77.0.9") as tx:
            tx.send_batch([b"x" * 500] * 9 + [b"y" * 3])
            assert tx.stats.system_calls == 1
        a.blast(V4, PORT, count=1).finish()
        assert rx.recv().source == a.ipv4
        assert (rx.stats.received, rx.stats.filtered) == (1, 10)


def test_joining_and_leaving_while_packets_come_loses_none_of_what_stays(ends):
    a, b = ends
    with receiver(b, ring_latency=0.1) as rx:  # nobody reads meanwhile, so that blocks must not be many
        sending = a.blast(V4, PORT, count=10_000, rate=20_000)
        for number in range(2, 40):
            with b.host.enter():
                rx.join(f"239.1.1.{number}%{b.interface}:{PORT}")
            rx.leave(f"239.1.1.{number}")
        sending.finish()
        assert numbers(receive(rx, 10_000)) == list(range(10_000))


def test_the_last_leave_closes_the_ring_and_a_join_opens_it_again(nothing_left, ends):
    a, b = ends
    before = mappings()
    with receiver(b) as rx:
        rx.leave(V4)
        assert mappings() == before
        with b.host.enter():
            rx.join(f"{V4}%{b.interface}:{PORT}")
        a.blast(V4, PORT, count=10).finish()
        assert len(receive(rx, 10)) == 10


def test_two_interfaces_have_a_ring_each():
    with lab.Lab() as made:
        (a, b), (c, d) = made.link("a", "b"), made.link("a", "b")
        with b.host.enter():
            rx = mcast.Receiver(*(f"{V4}%{end.interface}:{PORT}" for end in (b, d)), ring="8MiB", timeout=5)
        with rx:
            for number, end in enumerate((a, c)):
                end.blast(V4, PORT, count=500, first=1000 * number).finish()
            batch = rx.collect(1000)
            found = [
                (packet.interface, number) for packet, number in zip(batch, numbers(batch.payloads()), strict=True)
            ]
    assert sorted(found) == [(b.interface, n) for n in range(500)] + [(d.interface, 1000 + n) for n in range(500)]


def test_more_groups_than_a_program_has_room_for(ends, monkeypatch):
    """A coarse filter in the kernel then; what was not joined is filtered by the slots."""
    a, b = ends
    monkeypatch.setattr(bpf, "MOST_STEPS", 50)
    with pytest.warns(mcast.MulticastWarning, match=f"{b.interface}: the kernel filter for 2 groups has .* refused"):
        rx = receiver(b, V4, V6)
    with rx:
        assert [one.what for one in rx.stats.events] == ["coarse"]
        for group, port in ((V4, PORT + 1), ("239.1.1.9", PORT), (V4, PORT), ("ff15::9", PORT), (V6, PORT)):
            a.blast(group, port, count=10).finish()
        assert sorted(packet.group for packet in rx.collect(20)) == [V4] * 10 + [V6] * 10
        assert rx.stats.filtered == 30


def test_little_memory_for_options_makes_the_filter_coarse_until_it_fits(ends):
    a, b = ends
    try:
        b.host.sysctl("net.core.optmem_max", 20_480)
    except lab.LabError:
        pytest.skip("feature net.core.optmem_max of a namespace: this kernel has one for all")
    groups = [f"239.{n % 250}.{n // 250}.{7 * n % 250}%{b.interface}:{PORT}" for n in range(2_000)]
    with b.host.enter(), pytest.warns(mcast.MulticastWarning, match=r"2,000 groups .* refused.* net\.core\.optmem_max"):
        rx = mcast.Receiver(*groups, ring="1MiB", timeout=5)
    with rx:
        a.blast("239.250.0.1", PORT, count=5).finish()
        a.blast("239.0.0.0", PORT, count=5).finish()
        assert len(rx.collect(5)) == 5
        assert rx.stats.filtered == 5
        assert [one.what for one in rx.stats.events] == ["coarse"]
        for group in groups[1_000:]:
            assert rx.leave(group)
        assert rx.stats.filtered == 5, "and the filter is exact by now"
        a.blast("239.250.0.1", PORT, count=5).finish()
        a.blast("239.0.0.0", PORT, count=5).finish()
        assert len(rx.collect(5)) == 5
        assert rx.stats.filtered == 5


@pytest.mark.parametrize("count", [1_410, 1_450])
def test_a_filter_that_is_nearly_as_long_as_may_be_makes_way_for_the_next(ends, count):
    """The kernel counts the filter that is replaced beside the one that replaces it; 20 KiB hold some 1,900 steps of these groups."""
    a, b = ends
    try:
        b.host.sysctl("net.core.optmem_max", 20_480)
    except lab.LabError:
        pytest.skip("feature net.core.optmem_max of a namespace: this kernel has one for all")
    groups = [f"239.{n % 250}.{n // 250}.{7 * n % 250}%{b.interface}:{PORT}" for n in range(count)]
    with b.host.enter(), mcast.Receiver(*groups, ring="1MiB", timeout=5) as rx:
        assert rx.leave(groups[0])
        a.blast("239.1.0.7", PORT, count=5).finish()
        assert len(rx.collect(5)) == 5


def test_one_change_is_one_program(ends, monkeypatch):
    attached, attach = [], rings.attach_program
    monkeypatch.setattr(
        rings, "attach_program", lambda sock, program: (attached.append(len(program)), attach(sock, program))
    )
    a, b = ends
    with b.host.enter():
        rx = mcast.Receiver(f"239.2.0.0%{b.interface}:{PORT}+1000", ring="1MiB", timeout=5)
    with rx, b.host.enter():
        assert len(attached) == 2, "that nothing passes, and that all pass"
        assert attached[1] < 80
        for count, call in enumerate((rx.join, rx.join, rx.leave, rx.leave), start=3):
            assert call(f"239.3.0.{count % 2}%{b.interface}:{PORT}") is True
            assert len(attached) == count
        assert rx.block("239.2.0.9", "10.77.0.9")
        assert len(attached) == 6, "sources are not checked by the program"
        a.blast("239.2.3.0", PORT, count=3).finish()
        assert len(rx.collect(3)) == 3


def test_thousands_of_scattered_groups_have_an_exact_filter(ends):
    """What was not joined does not even reach this process."""
    a, b = ends
    groups = [f"239.{n % 250}.{n // 250}.{7 * n % 250}" for n in range(2_500)]
    with b.host.enter():
        rx = mcast.Receiver(*(f"{group}%{b.interface}:{PORT}" for group in groups), ring="1MiB", timeout=5)
    with rx:
        assert rx.stats.events == ()
        for group in ("239.250.0.1", "239.0.200.1", "239.249.9.250"):
            a.blast(group, PORT, count=5).finish()
        for group in (groups[0], groups[1_234], groups[-1]):
            a.blast(group, PORT, count=5).finish()
            a.blast(group, PORT + 1, count=5).finish()
        assert len(rx.collect(100, timeout=0.3)) == 15
        assert rx.stats.filtered == 0
        for group in groups[::2]:
            assert rx.leave(group)
        assert rx.stats.filtered == 0, "and the filter is exact by now"
        for group in (groups[0], groups[1_235], groups[1_234], groups[-1]):
            a.blast(group, PORT, count=5).finish()
        assert len(rx.collect(100, timeout=0.3)) == 10
        assert rx.stats.filtered == 0


# ---- joins that follow each other quickly ----

HELD = [f"239.{n % 250}.{n // 250}.{7 * n % 250}" for n in range(1_000)]  # of which the program is long
LATER = [f"239.77.{n % 250}.{11 * n % 250}" for n in range(250)]
NEVER = "239.250.0.1"


@pytest.fixture
def attached(monkeypatch):
    """The lengths of the programs that are attached."""
    lengths, attach = [], rings.attach_program
    monkeypatch.setattr(
        rings, "attach_program", lambda sock, program: (lengths.append(len(program)), attach(sock, program))
    )
    return lengths


@pytest.fixture
def clock(monkeypatch):
    """The clock that filters go by, in a list; None there: each look at it takes a ms."""
    held, looks = [None], itertools.count()
    monkeypatch.setattr(rings, "clock", lambda: next(looks) / 1000 if held[0] is None else held[0])
    return held


@pytest.fixture
def many(ends, attached, clock):
    """A receiver with a long program that was attached just now, as far as the clock shows: it stands still."""
    end = ends[1]
    with end.host.enter(), receiver(end, *HELD, ring=SMALL) as rx:
        clock[0] = 0.0
        attached.clear()
        yield rx


def at(end, group, port=PORT):
    return f"{group}%{end.interface}:{port}"


def passes(a, rx, *groups):
    """How many datagrams to each group reach the receiver: those it delivers, and those it filters."""
    before = rx._slots.counters()["filtered"]
    for group in groups:
        a.blast(group, PORT, count=5).finish()
    delivered = len(rx.collect(1000, timeout=0.3))
    return delivered, rx._slots.counters()["filtered"] - before


def test_quick_joins_share_an_attachment_until_the_next_receive(ends, many, attached):
    a, b = ends
    for group in LATER:
        assert many.join(at(b, group))
    assert len(attached) == 1, "one that is wide enough for all of them"
    assert attached[0] < 80
    a.blast(LATER[0], PORT, count=5).finish()
    a.blast(LATER[-1], PORT, count=5).finish()
    a.blast(HELD[0], PORT, count=5).finish()
    a.blast(LATER[0], PORT + 1, count=5).finish()
    assert len(many.collect(15)) == 15, "nothing that was joined was refused meanwhile"
    assert many.stats.filtered == 0, "not even meanwhile does another port pass"
    assert len(attached) == 2, "the exact one"
    assert passes(a, many, LATER[7], NEVER) == (5, 0)
    assert len(attached) == 2


def test_what_quick_leaves_left_is_filtered_until_the_next_receive(ends, many, attached):
    a, _ = ends
    for group in HELD[1::2]:
        assert many.leave(group)
    assert len(attached) == 1
    assert passes(a, many, HELD[0], HELD[1]) == (5, 5)
    assert passes(a, many, HELD[0], HELD[1]) == (5, 0)


@pytest.mark.parametrize(
    "call",
    [
        lambda rx: rx.wait(0),
        lambda rx: rx.collect(1, timeout=0),
        lambda rx: rx.stats,
        lambda rx: rx.fileno(),
        lambda rx: rx.recv(timeout=0),
        lambda rx: rx.recv_batch(timeout=0),
        lambda rx: next(iter(rx)),
    ],
    ids=["wait", "collect", "stats", "fileno", "recv", "recv_batch", "iteration"],
)
def test_every_call_that_receives_or_looks_makes_the_filter_exact(ends, many, attached, call):
    a, b = ends
    many.join(at(b, LATER[0]))
    many.join(at(b, LATER[1]))
    assert len(attached) == 1
    many.timeout = 0
    for _ in range(2):
        with contextlib.suppress(TimeoutError):
            call(many)
        assert len(attached) == 2
    assert passes(a, many, LATER[1], NEVER) == (5, 0)


def test_a_join_at_another_port_passes_at_once(ends, many, attached):
    a, b = ends
    many.join(at(b, LATER[0]))
    many.join(at(b, LATER[1], PORT + 5))
    assert len(attached) == 2, "wide, and wider"
    a.blast(LATER[0], PORT, count=5).finish()
    a.blast(LATER[1], PORT + 5, count=5).finish()
    assert len(many.collect(10)) == 10


def test_a_join_after_a_pause_is_exact_at_once(ends, many, attached, clock):
    a, b = ends
    many.join(at(b, LATER[0]))
    clock[0] = 3600.0
    many.join(at(b, LATER[1]))
    assert len(attached) == 2
    assert attached[1] > 256
    assert passes(a, many, LATER[0], LATER[1], NEVER) == (10, 0)
    assert len(attached) == 2


def test_a_join_while_another_thread_receives_is_exact_at_once(ends, many, attached):
    """It would not look at the filter any more."""
    a, b = ends
    with ThreadPoolExecutor() as pool:
        receiving = pool.submit(many.recv)
        with many._slots.inside():
            until(lambda: not many._slots.defer())  # somebody else is inside
        many.join(at(b, LATER[0]))
        assert len(attached) == 1
        assert attached[0] > 256
        a.blast(NEVER, PORT, count=5).finish()
        a.blast(LATER[0], PORT, count=1).finish()
        assert receiving.result().group == LATER[0]
    assert many.stats.filtered == 0


def test_a_receive_that_begins_during_a_join_has_an_exact_filter_when_the_join_returns(
    ends, many, attached, monkeypatch
):
    """It finds the memberships being changed, and does not wait for that."""
    a, b = ends
    with ThreadPoolExecutor() as pool:
        receiving = []

        def begin():
            receiving.append(pool.submit(many.recv))
            until(lambda: not many._slots.defer())
            assert len(attached) == 1

        report = many._subscriptions._report_notices
        monkeypatch.setattr(many._subscriptions, "_report_notices", lambda: report() if receiving else begin())
        many.join(at(b, LATER[0]))
        assert len(attached) == 2
        a.blast(LATER[0], PORT, count=1).finish()
        assert receiving[0].result().group == LATER[0]


def test_asyncio_makes_the_filter_exact_without_a_packet(ends, many, attached):
    """The event loop looks at the descriptor alone."""
    _, b = ends

    async def main():
        async with aio.Receiver(at(b, HELD[0]), *(at(b, group) for group in HELD[1:]), ring=SMALL) as rx:
            receiving = asyncio.create_task(rx.recv())
            await asyncio.sleep(0.1)
            (ring,) = rx._receiver._rings._rings.values()
            ring.exact_from = 1.0
            assert rx.join(at(b, LATER[0]))
            assert ring.changed
            for _ in range(1000):
                if not ring.changed:
                    break
                await asyncio.sleep(0.005)
            assert not ring.changed
            receiving.cancel()

    asyncio.run(main())


def test_the_descriptor_wakes_whoever_looks_at_it_for_an_exact_filter(ends, many, attached):
    a, b = ends
    descriptor = many.fileno()
    assert not select.select([descriptor], [], [], 0)[0]
    many.join(at(b, LATER[0]))
    assert select.select([descriptor], [], [], 5)[0]
    with pytest.raises(TimeoutError):
        many.recv_batch(timeout=0)
    assert len(attached) == 2
    assert not select.select([descriptor], [], [], 0.1)[0], "there is nothing to receive"
    assert passes(a, many, LATER[0], NEVER) == (5, 0)


def test_a_filter_that_is_refused_at_a_receive_is_reported(ends, many, attached, monkeypatch):
    a, b = ends
    many.join(at(b, LATER[0]))
    monkeypatch.setattr(bpf, "MOST_STEPS", 50)
    with pytest.warns(mcast.MulticastWarning, match="1,001 groups has .* refused"):
        assert many.wait(0) is False
    assert [one.what for one in many.stats.events] == ["coarse"]
    assert passes(a, many, LATER[0], NEVER) == (5, 5)


def test_a_signal_in_the_middle_of_making_the_filter_exact_is_made_up_for(ends, many, attached, monkeypatch):
    a, b = ends
    many.join(at(b, LATER[0]))
    attach = rings.attach_program

    def interrupted(sock, program):
        monkeypatch.setattr(rings, "attach_program", attach)
        raise KeyboardInterrupt

    monkeypatch.setattr(rings, "attach_program", interrupted)
    a.blast(LATER[0], PORT, count=5).finish()
    with pytest.raises(KeyboardInterrupt):
        many.recv_batch()
    assert len(many.collect(5)) == 5
    assert passes(a, many, LATER[0], NEVER) == (5, 0)


def test_frames_for_others_and_tagged_ones_do_not_pass(ends):
    """As with a socket: they are for another host (which promiscuous mode brings), or for another VLAN."""
    a, b = ends
    plain = DELIVERED["plain"]
    other = bytes.fromhex("029900000001") + plain[6:]
    tagged = ethernet(V4, ipv4(V4, udp(b"tagged", PORT)), (0x8100,))
    double = ethernet(V4, ipv4(V4, udp(b"tagged", PORT)), (0x88A8, 0x8100))
    priority = tagged[:14] + bytes(2) + tagged[16:]
    with receiver(b) as rx, packet_socket(a) as raw, packet_socket(b) as listening:
        membership = struct.pack("iHH8s", b.index, 1, 0, b"")  # PACKET_MR_PROMISC
        listening.setsockopt(rings.SOL_PACKET, 1, membership)
        for frame in (other, tagged, double, priority, plain):
            raw.send(frame)
        assert sorted(receive(rx, 2)) == [b"payload", b"tagged"]
        assert rx.stats.filtered == 0


def test_a_thousand_groups(ends):
    a, b = ends
    with b.host.enter():
        rx = mcast.Receiver(f"239.2.0.0%{b.interface}:{PORT}+1000", ring="8MiB", timeout=5)
    with rx:
        for group in ("239.2.0.0", "239.2.3.231", "239.2.1.77"):
            a.blast(group, PORT, count=5).finish()
        a.blast("239.2.3.232", PORT, count=5).finish()
        assert len(rx.collect(100, timeout=0.3)) == 15


# ---- sharing ----


def test_receivers_of_a_fanout_group_get_everything_once(ends):
    a, b = ends
    shared = {"packet_fanout": 3, "ring": "64MiB"}
    with receiver(b, **shared) as first, receiver(b, **shared) as second:
        for sender in range(40):  # each process has a source port of its own
            a.blast(V4, PORT, count=25, first=sender * 25).finish()
        shares = [numbers(rx.collect(10_000, timeout=0.3).payloads()) for rx in (first, second)]
        assert sorted(shares[0] + shares[1]) == list(range(1000))
        assert all(shares)
        assert first.stats.filtered == second.stats.filtered == 0


# ---- leases ----


def test_kept_batches_stay_as_they_came_and_the_ring_does_not_stall(nothing_left, ends):
    a, b = ends
    # What the timer closes, as where the sender is held up, is nearly empty, and copied, not kept. So the timer is slow,
    # and what is sent beyond the 64,000 fills the blocks that those are in.
    with receiver(b, ring="16MiB", ring_latency=PATIENT, batch_size=64) as rx:
        sending = a.blast(V4, PORT, count=72_000, rate=40_000)
        kept, views = [], []
        while sum(map(len, kept)) < 64_000:
            kept.append(rx.recv_batch())
            if len(kept) % 2:
                views.append((np.frombuffer(kept[-1].data, np.uint8), kept[-1]))
        sending.finish()
        assert rx.stats.dropped_ring == 0
        assert len(kept) >= 1000
        assert rx.stats.detached >= len(kept) // 2
        received = list(range(sum(map(len, kept))))
        assert numbers([payload for batch in kept for payload in batch.payloads()]) == received
    assert numbers([packet.data for batch in kept for packet in batch]) == received
    for view, batch in views:
        rows = np.asarray(batch)
        assert all(
            view[row["offset"] : row["offset"] + 8].tobytes() == packet.data[:8]
            for row, packet in zip(rows, batch, strict=True)
        )


def test_a_batch_takes_all_blocks_that_are_there_and_stays_as_it_came(nothing_left, ends):
    """Nobody reads while the blocks fill; then one batch has many of them, is detached whole, and outlives the ring's turns."""
    a, b = ends
    arrived = b.count(V4, PORT, hook="ingress")
    # A block that the timer closes, as after a pause of a sender that was stopped, ends a batch.
    with receiver(b, batch_size=4096, ring_latency=1) as rx:
        a.blast(V4, PORT, count=3_000, size=256).finish()
        assert until(
            lambda: arrived.packets == 3_000
        )  # on a busy machine some are still on their way when the sender has ended
        first = rx.recv_batch()
        a_block = rings.LEAST_BLOCK // 256
        assert len(first) > 2 * a_block, "a batch is of several blocks"
        assert len(first.data) > rings.LEAST_BLOCK  # what is exported is the copy
        assert rx.stats.detached == 1
        rest = numbers([*rx.collect(3_000 - len(first), timeout=5).payloads()])
        for turn in range(2):
            a.blast(V4, PORT, count=20_000, size=256)
            assert numbers(receive(rx, 20_000)) == list(range(20_000)), turn
        assert rx.stats.dropped_ring == 0
        assert numbers(first.payloads()) + rest == list(range(3_000))
        del first


@pytest.mark.needs("a fast machine")
@pytest.mark.parametrize("looks", [False, True], ids=["waits", "waits and looks"])
def test_a_dense_stream_does_not_wake_the_receiver_for_every_block(ends, looks):
    """Nor one that after each batch takes what is there without waiting, as a recorder does. One of five streams is dense: on a busy machine a sender may be stopped, and blocks are handed over half full."""
    a, b = ends
    a.single_packets()
    with a.host.enter():
        tx = mcast.Sender(f"{V4}%{a.interface}:{PORT}")
    least_blocks = 60_000 * 256 // rings.RingOptions(64 << 20).block_size  # of payload alone
    batches = []
    with tx, receiver(b, ring="64MiB", batch_size=4096) as rx:
        for _ in range(5):
            sending = threading.Thread(target=tx.send_batch, args=(bytes(256 * 60_000),), kwargs={"size": 256})
            sending.start()
            before, found = rx.stats.batches, 0
            while found < 60_000:
                found += len(rx.recv_batch())
                with contextlib.suppress(TimeoutError):
                    while looks and found < 60_000:
                        found += len(rx.recv_batch(timeout=0))
            sending.join()
            batches.append(rx.stats.batches - before)
        assert rx.stats.dropped_ring == 0
    assert min(batches) < least_blocks


def test_columns_and_payloads_do_not_detach_but_raw_views_do(ends):
    a, b = ends
    with receiver(b, ring_latency=PATIENT) as rx:
        a.blast(V4, PORT, count=DENSE).finish()
        batch = rx.collect(1)
        batch = rx.recv_batch()
        np.asarray(batch)["length"].sum()
        batch.payloads()
        [packet.data for packet in batch]
        assert rx.stats.detached == 0
        view = batch[0].view
        assert rx.stats.detached == 1
        assert bytes(view) == batch[0].data
        assert len(batch.data) >= 256
        assert rx.stats.detached == 1


def test_the_payloads_of_a_slow_stream_are_copied_and_hold_no_block(ends):
    """A block that is handed over nearly empty is worth less than a copy of what is in it."""
    a, b = ends
    with receiver(b) as rx:
        a.blast(V4, PORT, count=10).finish()
        batch = rx.recv_batch()
        assert numbers(batch.payloads()) == list(range(10))
        assert bytes(batch[3].view) == batch[3].data
        assert len(batch.data) == sum(len(packet) for packet in batch)
        assert rx.stats.detached == 0


def test_a_borrowed_block_is_not_copied(ends):
    a, b = ends
    with receiver(b, ring_latency=PATIENT) as rx:
        a.blast(V4, PORT, count=DENSE).finish()
        batch = rx.recv_batch()
        with batch.borrow() as memory:
            rows = np.asarray(batch)
            assert [int.from_bytes(memory[row["offset"] : row["offset"] + 8]) for row in rows] == list(
                range(len(batch))
            )
            assert rx.stats.detached == 0
            with batch[2:].borrow() as part:
                assert bytes(part) == bytes(memory)
        with pytest.raises(ValueError, match="released"):
            memory[0]
        assert rx.stats.detached == 0


def test_a_view_that_outlives_its_loan_stays_whole_and_holds_nothing_of_the_ring(nothing_left, ends):
    a, b = ends
    rx = receiver(b, ring_latency=PATIENT)
    a.blast(V4, PORT, count=DENSE).finish()
    batch = rx.recv_batch()
    with batch.borrow() as memory:
        array = np.frombuffer(memory, np.uint8)
    before = array.tobytes()
    rx.close()
    assert mappings() == 0
    assert array.tobytes() == before == bytes(batch.data)
    del array, memory


def test_a_view_that_outlives_its_loan_does_not_stop_the_ring(nothing_left, ends):
    """The ring goes round several times while the bytes of one of its blocks are exported: they stay what they were."""
    a, b = ends
    with receiver(b, ring=SMALL, batch_size=4096, ring_latency=PATIENT) as rx:
        a.blast(V4, PORT, count=DENSE).finish()
        batch = rx.recv_batch()
        with batch.borrow() as memory:
            exported = pickle.PickleBuffer(memory)
        before = bytes(batch.payloads()[0])
        for _ in range(DENSE - len(batch)):  # of a sender that was held up
            rx.recv()
        for _ in range(10):
            a.blast(V4, PORT, count=1_000).finish()
            assert numbers(rx.collect(1_000).payloads()) == list(range(1_000)), rx.stats
        assert rx.stats.dropped_ring == 0
        assert batch[0].data == before
        assert bytes(exported.raw()[: len(before)]) == before
        exported.release()
        del memory


def test_a_loan_of_a_block_that_is_detached_meanwhile_stays_whole(ends):
    a, b = ends
    with receiver(b, ring_latency=PATIENT) as rx:
        a.blast(V4, PORT, count=DENSE).finish()
        batch = rx.recv_batch()
        with batch.borrow() as memory:
            assert bytes(batch.data) == bytes(memory)
            assert rx.stats.detached == 1
        assert numbers(batch.payloads()) == list(range(len(batch)))


def test_closing_detaches_every_batch_and_unmaps(ends):
    a, b = ends
    gc.collect()
    before = mappings()
    rx = receiver(b, batch_size=16, ring_latency=PATIENT)
    a.blast(V4, PORT, count=200).finish()
    kept = [rx.recv_batch() for _ in range(8)]
    part, packet = kept[3][2:5], kept[4][1]
    rx.close()
    assert mappings() == before
    assert numbers([payload for batch in kept for payload in batch.payloads()]) == list(range(128))
    assert numbers(part.payloads()) == [50, 51, 52]
    assert int.from_bytes(packet.data[:8]) == 65


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_receiver_that_is_forgotten_leaves_nothing_mapped(nothing_left, ends):
    a, b = ends
    rx = receiver(b)
    a.blast(V4, PORT, count=20).finish()
    batch = rx.recv_batch()
    del rx
    gc.collect()
    assert mappings() == 0
    assert numbers(batch.payloads()) == list(range(len(batch)))


def test_batches_may_be_read_in_many_threads_while_the_ring_turns(ends):
    a, b = ends
    wrong: list[object] = []
    todo: list[tuple[int, object]] = []
    news = threading.Condition()

    def read() -> None:
        while True:
            with news:
                news.wait_for(lambda: todo)
                start, batch = todo.pop()
            if batch is None:
                return
            wanted = list(range(start, start + len(batch)))
            with batch.borrow() as memory:
                rows = np.asarray(batch)
                borrowed = [int.from_bytes(memory[at : at + 8]) for at in rows["offset"].tolist()]
            copied = [int.from_bytes(packet.view[:8]) for packet in batch]
            if not numbers(batch.payloads()) == borrowed == copied == wanted:
                wrong.append(batch)

    threads = [threading.Thread(target=read, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    with receiver(b, ring="16MiB", ring_latency=0.001) as rx:
        sending = a.blast(V4, PORT, count=30_000, rate=30_000)
        received = 0
        while received < 30_000:
            batch = rx.recv_batch()
            with news:
                todo.insert(0, (received, batch))
                news.notify()
            received += len(batch)
        sending.finish()
    with news:
        todo[:0] = [(0, None)] * len(threads)
        news.notify_all()
    for thread in threads:
        thread.join()
    assert not wrong


# ---- the ledger ----


def test_every_packet_is_accounted_for_when_the_ring_overflows(ends):
    """Bursts that the ring cannot hold: what reached the interface is what was received and what was dropped."""
    a, b = ends
    a.single_packets()
    arrived = b.count(V4, PORT, hook="ingress")
    with receiver(b, ring=SMALL, batch_size=256) as rx:
        placed, next_number, received = 0, 0, 0
        for _ in range(6):
            a.blast(V4, PORT, count=12_000, segments=50, first=next_number).finish()
            next_number += 12_000
            batch = rx.collect(1_000_000, timeout=0.2)
            drops = np.asarray(batch)["dropped"].tolist()
            for number, dropped in zip(numbers(batch.payloads()), drops, strict=True):
                placed += dropped
                # What is dropped between the reading of the kernel's counter and the return of the block comes later.
                assert placed <= number - received, (number, received, placed)
                received += 1
        stats = rx.stats
        assert arrived.packets == stats.received + stats.filtered + stats.fragments + stats.dropped_ring
        assert stats.dropped_ring == stats.dropped > 10_000
        assert placed >= 0.8 * stats.dropped_ring  # what was dropped behind the last packet has no place
        a.blast(V4, PORT, count=1, first=next_number).finish()
        assert placed + rx.recv().dropped == rx.stats.dropped_ring


def test_a_reader_that_is_too_slow_finds_the_gaps_near_their_place(ends):
    a, b = ends
    a.single_packets()
    with receiver(b, ring=SMALL, batch_size=64) as rx:
        sending = a.blast(V4, PORT, count=100_000, segments=50)
        batches = []
        while sending.process.poll() is None or readable(rx, 0.1):
            if readable(rx, 0.1):
                batches.append(rx.recv_batch())
                sum(sum(packet.data) for packet in batches[-1])
        sending.finish()
        a.blast(V4, PORT, count=1, first=100_000).finish()
        batches.append(rx.collect(1))
        stats = rx.stats
        rows = np.concatenate([np.asarray(batch) for batch in batches])
        assert int(rows["dropped"].sum()) >= 0.9 * stats.dropped_ring > 0
        assert stats.received == len(rows)


def test_stats_of_a_receiver_without_a_ring_know_none(ends):
    _, b = ends
    with receiver(b, ring=None) as rx:
        assert rx.stats.dropped_ring is None
        assert rx.stats.detached == rx.stats.fragments == 0


def test_a_ring_goes_with_nothing_that_is_of_sockets(nothing_left):
    for options in ({"background": True}, {"gro": True}, {"busy_poll": 50}):
        with pytest.raises(ArgumentError, match=f"{next(iter(options))}=.* does not go with ring="):
            mcast.Receiver("239.1.1.1%lo:5000", ring=SMALL, **options)


def test_batches_of_a_ring_are_put_together_given_back_and_written(ends, tmp_path):
    a, b = ends
    with receiver(b) as rx:
        a.blast(V4, PORT, count=500).finish()
        first = rx.recv_batch(100)
        rest = rx.collect(500 - len(first))
        whole = _core.views.Batch.concatenate([first, rest])
        assert numbers(whole.payloads()) == list(range(500))
        rx.give_back([rest])
        assert numbers(rx.collect(len(rest)).payloads()) == list(range(len(first), 500))
        with mcast.files.Writer(tmp_path / "ring.pcapng") as writer:
            writer.write(first)
            writer.write(rest)
    with mcast.open(tmp_path / "ring.pcapng") as reader:
        assert numbers(reader.collect(1000).payloads()) == list(range(500))


@pytest.mark.needs("super packets in rings")
def test_super_packets_count_as_one_buffer(ends):
    a, b = ends
    with receiver(b) as rx, a.host.enter(), mcast.Sender(f"{V4}%{a.interface}:{PORT}") as tx:
        tx.send(b"x")
        rx.recv()
        assert (rx.stats.buffers, rx.stats.drops_exact) == (1, True)
        tx.send_batch(bytes(6400), size=100)
        rx.collect(64)
        if not tx.stats.segmentation:
            pytest.skip(f"feature send_segmentation: {tx.stats.segmentation_reason}")
        assert (rx.stats.received, rx.stats.buffers, rx.stats.coalesced) == (65, 2, 64)
        assert rx.stats.drops_exact  # nothing was dropped


def test_recording_with_limits_copies_nothing_out_of_the_ring(ends, tmp_path):
    a, b = ends
    with receiver(b) as rx:
        a.blast(V4, PORT, count=500).finish()
        rotate = mcast.files.Rotation(filesize="16KiB")
        files = []
        mcast.files.Recorder(
            rx, tmp_path / "ring.pcapng", rotate=rotate, stop=mcast.files.Autostop(packets=500), on_file=files.append
        ).run()
        assert rx.stats.detached == 0
    assert sum(one.packets for one in files) == 500
    assert len(files) > 2
