"""Coalescing under pressure: on when the buffer fills, off after some calm, and no payload wrong or lost by it."""

import contextlib
import socket
import struct
import sys
import threading
import zlib
from collections.abc import Iterator

import pytest

import mcast_fast as mcast
from mcast_fast import Flag
from mcast_fast.stats import What
from tests import lab
from tests.conftest import until

GROUP, PORT = "239.7.7.7", 5000
UDP_GRO = 104
SIZE = 256  # bytes of payload: such a packet takes about 1,088 of the kernel's buffer here
BUFFER = 1 << 20  # bytes, of which the kernel makes 2 MiB
FILLING = 1_620  # packets that are most of it
TRAIN = 60  # packets that are sent at once

pytestmark = pytest.mark.lab


@pytest.fixture
def ends(backend: str) -> Iterator[tuple[lab.End, lab.End]]:
    have = mcast.features()["coalescing_under_pressure"]
    if not have:
        pytest.skip(f"feature coalescing_under_pressure: {have.reason}")
    with lab.Lab() as made:
        yield made.coalescing_link("a", "b")


class Feed:
    """Numbered packets on the link, and a receiver of them."""

    def __init__(self, ends: tuple[lab.End, lab.End], group: str = GROUP, **options: object) -> None:
        self.sending, self.receiving = ends
        self.group, self.number = group, 0
        with self.receiving.host.enter():
            text = f"[{group}%{self.receiving.interface}]:{PORT}" if ":" in group else f"{group}:{PORT}"
            self.rx = mcast.Receiver(
                text, interface=self.receiving.interface, **{"buffer_size": BUFFER, "timeout": 5} | options
            )

    def __enter__(self) -> "Feed":
        return self

    def __exit__(self, *_: object) -> None:
        self.rx.close()

    def send(self, count: int, **options: object) -> None:
        """Numbers that go on where the last ones ended; they have arrived when this returns."""
        options = {"size": SIZE, "segments": TRAIN, "first": self.number} | options
        before = self.sending.counters["tx"]["packets"]
        self.sending.blast(self.group, PORT, count=count, **options).finish()
        until(lambda: self.sending.counters["tx"]["packets"] >= before + count)
        self.number += count

    def take(self, count: int) -> list[mcast.Packet]:
        """The next packets, whose numbers follow each other."""
        found = []
        for batch in self.rx.batches(count=count):
            found += list(batch)
        numbers = [int.from_bytes(bytes(packet)[:8]) for packet in found]
        assert numbers == list(range(numbers[0], numbers[0] + count))
        assert {len(packet) for packet in found} == {SIZE}
        return found

    def press(self) -> None:
        """Fill most of the buffer, and read it: coalescing is on then."""
        self.send(FILLING)
        assert not any(packet.flags & Flag.COALESCED for packet in self.take(FILLING))
        assert self.whats()[-1] is What.COALESCING

    def whats(self) -> list[What]:
        return [event.what for event in self.rx.stats.events]

    def calm_down(self, *, window: int | None = None) -> None:
        """Receive a little, slowly, until coalescing is off; `window`: ns, a short one makes that soon."""
        usual = self.rx._slots.coalescing_window
        self.rx._slots.coalescing_window = window or usual
        for _ in range(1000):
            if self.whats()[-1] is not What.COALESCING:
                self.rx._slots.coalescing_window = usual
                return
            self.send(1)
            self.take(1)
        raise AssertionError(self.rx.stats.events)


def is_coalesced(packets: list[mcast.Packet]) -> set[bool]:
    return {bool(packet.flags & Flag.COALESCED) for packet in packets}


@pytest.mark.parametrize("group", [GROUP, "ff15::77"])
def test_it_is_on_under_pressure_and_off_after_calm(ends, group):
    with Feed(ends, group) as feed:
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {False}
        assert feed.whats() == []
        feed.press()
        event = feed.rx.stats.events[-1]
        assert event.interface == feed.receiving.interface
        assert f"% of {BUFFER >> 20} MiB at " in event.detail
        assert feed.rx.batch_size == 1024
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}
        assert feed.rx.stats.coalesced == 600
        feed.calm_down(window=None if group == GROUP else 1_000_000)
        assert feed.whats() == [What.COALESCING, What.COALESCING_ENDED]
        assert feed.rx.batch_size == 256
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {False}
        feed.press()
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}
        stats = feed.rx.stats
        assert (stats.received, stats.dropped, stats.drops_exact) == (feed.number, 0, True)


def test_smaller_slots_grow_before(ends):
    with Feed(ends, max_packet_size=SIZE) as feed:
        feed.press()
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}
        assert feed.rx.stats.truncated == 0


@pytest.mark.parametrize("options", [{"gro": False}, {"timestamps": None, "gro": False}])
def test_it_stays_off_where_it_is_not_wanted(ends, options):
    with Feed(ends, **options) as feed:
        feed.send(FILLING)
        feed.take(FILLING)
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {False}
        assert feed.whats() == []


def test_in_the_background_too(ends, backend):
    have = mcast.features()["background"]
    if not have:
        pytest.skip(f"feature background: {have.reason}")
    with Feed(ends, background=True, buffer_size=8 << 10) as feed:  # less than a train
        while What.COALESCING not in feed.whats():
            feed.send(TRAIN)
            assert feed.number < 100 * TRAIN, feed.rx.stats
        until(lambda: feed.rx.stats.received + feed.rx.stats.dropped == feed.number)
        feed.rx.collect(feed.number, timeout=0)
        feed.send(TRAIN)
        assert is_coalesced(list(feed.rx.collect(TRAIN, timeout=0.5))) == {True}


def test_drops_before_it_was_on_are_exact_and_switch_it_on(ends):
    with Feed(ends) as feed:
        feed.send(6_000)
        received = len(feed.rx.collect(6_000, timeout=0.5))
        stats = feed.rx.stats
        assert stats.dropped > 1_000
        assert received + stats.dropped == 6_000
        assert stats.drops_exact
        assert "dropped packets" in stats.events[0].detail


def test_drops_while_it_is_on_are_a_lower_bound(ends):
    with Feed(ends) as feed:
        feed.press()
        feed.send(12_000)
        received = len(feed.rx.collect(12_000, timeout=0.5))
        stats = feed.rx.stats
        assert 0 < stats.dropped < 12_000 - received
        assert not stats.drops_exact


def test_always_on_counts_in_the_same_way(ends):
    with Feed(ends, gro=True) as feed:
        feed.send(600)
        feed.take(600)
        assert feed.rx.stats.drops_exact
        feed.send(30_000)
        received = len(feed.rx.collect(30_000, timeout=0.5))
        stats = feed.rx.stats
        assert 0 < stats.dropped < 30_000 - received
        assert not stats.drops_exact


# ---- switching under load ----


def _bind_decider(rx: mcast.Receiver) -> socket.socket:
    """What switching off does first."""
    (opened,) = rx._joins.sockets()
    assert opened.decider is not None
    opened.decider.bind(opened.socket.getsockname())
    return opened.decider


def test_a_thousand_switches_under_load_spoil_and_lose_nothing(ends):
    """What is queued, or on its way, while the decision changes comes apart as it was sent.

    In another order, maybe: a packet of the same poll that is not coalesced overtakes those that are."""
    with Feed(ends, gro=True) as feed:
        decider = _bind_decider(feed.rx)
        done = threading.Event()
        switches = 0

        def switch() -> None:
            nonlocal switches
            while not done.is_set():
                switches += 1
                decider.setsockopt(socket.IPPROTO_UDP, UDP_GRO, switches % 2)

        sender = socket_of(feed.sending)
        thread = threading.Thread(target=switch)
        thread.start()
        flags = 0
        try:
            for start in range(0, 60_000, 600):  # what fits into the buffer, so that nothing can be dropped
                for at in range(start, start + 600, 40):
                    sender.sendto(b"".join(checked(number) for number in range(at, at + 40)), (GROUP, PORT))
                batch = feed.rx.collect(600)
                assert sorted(batch.payloads()) == [checked(number) for number in range(start, start + 600)]
                flags += sum(bool(packet.flags & Flag.COALESCED) for packet in batch)
        finally:
            done.set()
            thread.join()
            sender.close()
        assert 0 < flags < 60_000
        assert switches >= 1_000
        assert feed.rx.stats.dropped == 0


def switch_by_itself(ends: tuple[lab.End, lab.End], times: int) -> None:
    """The library switches as often as it can, on by what is queued and off by a calm that is short, while packets
    come: all of them are received once and whole.

    The receiver sleeps until most of its buffer is full, so that there is pressure; and more arrives while it reads."""
    with Feed(ends, buffer_size=128 << 10) as feed, contextlib.closing(socket_of(feed.sending)) as sender:
        feed.rx._slots.coalescing_window = 20_000  # ns: some rounds of this test to each switch
        sent = taken = flags = 0
        whats: list[What] = []

        def send(trains: int) -> None:
            nonlocal sent
            for _ in range(trains):
                sender.sendto(b"".join(checked(number) for number in range(sent, sent + 40)), (GROUP, PORT))
                sent += 40

        while len(whats) < times or not 0 < flags < taken:
            send(4)
            beside = threading.Thread(target=send, args=(1,))
            beside.start()
            batch = feed.rx.collect(200)
            beside.join()
            assert sorted(batch.payloads()) == [checked(number) for number in range(taken, sent)]
            taken = sent
            flags += sum(bool(packet.flags & Flag.COALESCED) for packet in batch)
            whats = feed.whats()[-times:]
            assert taken < 100_000 * times, feed.rx.stats
        pairs = [whats[at : at + 2] for at in range(len(whats) - 1)]
        assert all(set(pair) == {What.COALESCING, What.COALESCING_ENDED} for pair in pairs)
        stats = feed.rx.stats
        assert (stats.received, stats.dropped, stats.coalesced) == (taken, 0, flags)


def test_it_switches_often_under_load_and_spoils_and_loses_nothing(ends):
    switch_by_itself(ends, 40)


@pytest.mark.weekly
@pytest.mark.hang_timeout(600)
def test_it_switches_a_thousand_times_and_spoils_and_loses_nothing(ends):
    switch_by_itself(ends, 1_000)


def checked(number: int) -> bytes:
    body = number.to_bytes(8).ljust(SIZE - 4, b"\x5a")
    return body + struct.pack("!I", zlib.crc32(body))


def socket_of(end: lab.End) -> socket.socket:
    """A socket that sends trains of packets by this end."""
    with end.host.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4x4xi", end.index))
        sock.setsockopt(socket.IPPROTO_UDP, 103, SIZE)  # UDP_SEGMENT, udp(7)
        return sock


# ---- other sockets at the port ----


def plain_socket(end: lab.End) -> socket.socket:
    """A socket of somebody who knows nothing of coalescing, bound as the receiver's is."""
    with end.host.enter():
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, end.interface.encode())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sock.bind((GROUP, PORT))
        lab.join(sock, GROUP, end.interface)
        sock.setblocking(False)
        return sock


def drain(sock: socket.socket) -> list[bytes]:
    found = []
    while True:
        try:
            found.append(sock.recv(65_536))
        except BlockingIOError:
            return found


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_plain_socket_of_somebody_else_gets_single_packets_and_is_reported(ends, when):
    with contextlib.ExitStack() as opened:
        if when == "before":
            other = opened.enter_context(plain_socket(ends[1]))
        feed = opened.enter_context(Feed(ends))
        if when == "after":
            other = opened.enter_context(plain_socket(ends[1]))
        with feed.receiving.host.enter():
            feed.press()
            assert f"another socket of this process bound to {GROUP}:{PORT}" in feed.rx.stats.events[-1].detail
        drain(other)
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}
        assert [len(one) for one in drain(other)] == [SIZE] * 600


def test_of_two_receivers_the_one_under_pressure_decides(ends):
    """The other one has had its calm, and decided later than this one."""
    with Feed(ends) as first, Feed(ends) as second:
        first.press()
        second.rx.collect(FILLING)
        first.send(FILLING)
        first.take(FILLING)
        second.take(FILLING)
        assert second.whats()[-1] is What.COALESCING
        second.number = first.number
        for _ in range(1000):
            if What.COALESCING_ENDED in first.whats() and What.COALESCING_ENDED in second.whats():
                break
            first.send(1)
            first.take(1)
            second.rx.collect(1)
        first.send(FILLING)
        first.take(FILLING)
        second.rx.collect(FILLING)
        first.send(600)
        assert is_coalesced(first.take(600)) == {True}


def test_a_socket_that_comes_while_it_is_on_is_coalesced_too(ends):
    other = "239.7.7.8"
    with Feed(ends) as feed:
        feed.press()
        with feed.receiving.host.enter():
            feed.rx.join(f"{other}%{feed.receiving.interface}:{PORT}")
        for group in (GROUP, other):
            ends[0].blast(group, PORT, count=600, size=SIZE, segments=TRAIN).finish()
            assert is_coalesced(list(feed.rx.collect(600))) == {True}


def test_drops_that_the_ledger_has_seen_already_switch_it_on(ends):
    with Feed(ends, buffer_size=8 << 10) as feed:  # less than a train
        feed.send(TRAIN)
        assert feed.rx.stats.dropped > 0
        feed.rx.collect(TRAIN, timeout=0.2)
        feed.send(TRAIN)
        feed.rx.collect(TRAIN, timeout=0.2)
        assert feed.whats() == [What.COALESCING]


def test_what_is_queued_when_a_group_is_left_counts_as_packets(ends):
    with Feed(ends, gro=True) as feed:
        feed.send(600)
        assert feed.rx.leave(f"{GROUP}%{feed.receiving.interface}:{PORT}")
        assert feed.rx.stats.filtered == 600


@pytest.mark.parametrize("worked", [False, True], ids=["at once", "after a while"])
def test_a_plain_socket_that_is_bound_later_is_named_and_decides_no_more(ends, worked):
    with Feed(ends) as feed, feed.receiving.host.enter():
        feed.press()
        if worked:
            feed.send(600)
            assert is_coalesced(feed.take(600)) == {True}
        with plain_socket(ends[1]) as other:
            while What.NOT_COALESCED not in feed.whats():
                feed.send(FILLING)
                assert is_coalesced(feed.take(FILLING)) == {False}
                assert [len(one) for one in drain(other)] == [SIZE] * FILLING
                assert feed.number < 100_000, feed.rx.stats.events
            assert f"another socket of this process bound to {GROUP}:{PORT}" in feed.rx.stats.events[-1].detail
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}


def test_a_port_that_is_not_shared_stays_coalesced(ends):
    """The socket that would decide cannot be bound there."""
    with Feed(ends, reuse=False) as feed:
        feed.press()
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}
        for _ in range(1000):
            if len(feed.rx.stats.events) > 1:
                break
            feed.send(1)
            feed.take(1)
        assert "Address already in use" in feed.rx.stats.events[1].detail
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}


def test_the_socket_that_decides_outlives_the_first_of_those_that_are_bound_alike(ends):
    """More groups than one socket may hold: the groups of the first one are left."""
    groups = [f"239.7.9.{number}" for number in range(1, 31)]
    with Feed(ends) as feed, feed.receiving.host.enter():
        rx, interface = feed.rx, feed.receiving.interface
        rx.leave(f"{GROUP}%{interface}:{PORT}")
        rx.join(f"{groups[0]}%{interface}:{PORT}+{len(groups)}")
        (first,) = (one for one in rx._joins.members() if one.opened.decider is not None)
        assert len(list(rx._joins.members())) > 1
        feed.group = next(group for group in groups if mcast_key(group) not in first.filters)
        feed.press()
        gone = [group for group in groups if mcast_key(group) in first.filters]
        for group in gone:
            rx.leave(f"{group}%{interface}:{PORT}")
        assert len(list(rx._joins.members())) == 1
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}
        feed.calm_down(window=1_000_000)
        assert feed.whats() == [What.COALESCING, What.COALESCING_ENDED]
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {False}
        feed.press()
        feed.send(600)
        assert is_coalesced(feed.take(600)) == {True}


def mcast_key(group: str) -> bytes:
    """A group as the receiver's tables have it: an IPv4 address mapped into IPv6."""
    return bytes(10) + b"\xff\xff" + socket.inet_aton(group)


# ---- the ledger at full speed ----

FULL_SPEED = """
import socket, struct, sys, zlib
port, index, sender, size, count, short = map(int, sys.argv[2:])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4x4xi", index))
sock.setsockopt(socket.IPPROTO_UDP, 103, size)  # UDP_SEGMENT, udp(7)

def payload(number, length):
    body = struct.pack("!BI", sender, number).ljust(max(5, length - 4), b"\x5a")
    return (body + struct.pack("!I", zlib.crc32(body)))[:length] if length > 8 else body[:length]

train = min(64, 60_000 // size)
for first in range(0, count, train):
    numbers = range(first, min(first + train, count))
    lengths = [size] * (len(numbers) - 1) + [short]
    sock.sendto(b"".join(map(payload, numbers, lengths)), (sys.argv[1], port))
"""
SHAPES = {"1": (1, 1), "256": (256, 256), "1316": (1316, 1316), "1472": (1472, 1472), "mixed": (700, 90)}
SENT = 6_400


def is_whole(payload: bytes) -> bool:
    return len(payload) < 9 or zlib.crc32(payload[:-4]) == int.from_bytes(payload[-4:])


def run_of_the_ledger(sending: lab.End, receiving: lab.End, size: int, short: int) -> None:
    """Two senders at full speed: each payload at most once and whole, and what was lost is in the ledger."""
    before = sending.counters["tx"]["dropped"]
    with receiving.host.enter():
        rx = mcast.Receiver(f"{GROUP}%{receiving.interface}:{PORT}", buffer_size=BUFFER)
    with rx:
        arguments = [(GROUP, PORT, sending.index, sender, size, SENT, short) for sender in (1, 2)]
        programs = [sending.host.spawn([sys.executable, "-c", FULL_SPEED, *map(str, each)]) for each in arguments]
        payloads: list[bytes] = []
        while any(program.process.poll() is None for program in programs) or rx.wait(1.0):
            with contextlib.suppress(TimeoutError):
                payloads += [bytes(one) for one in rx.collect(1_000, timeout=0.05).payloads()]
        for program in programs:
            program.finish()
        stats = rx.stats
    sent = 2 * SENT - (sending.counters["tx"]["dropped"] - before)
    assert {len(one) for one in payloads} <= {size, short}
    assert all(map(is_whole, payloads))
    assert len(payloads) == stats.received
    if size > 8:
        assert len(set(payloads)) == len(payloads)
    if stats.drops_exact:
        assert stats.received + stats.dropped == sent
    else:
        assert stats.received + stats.dropped <= sent


@pytest.mark.weekly
@pytest.mark.hang_timeout(1200)
@pytest.mark.parametrize("coalesces", [True, False], ids=["coalescing", "single"])
def test_the_ledger_of_ten_runs_at_full_speed(backend, coalesces):
    with lab.Lab() as made:
        sending, receiving = made.coalescing_link("a", "b") if coalesces else made.link("a", "b")
        sending.single_packets()
        for _ in range(10):
            for size, short in SHAPES.values():
                run_of_the_ledger(sending, receiving, size, short)
