"""Membership changed on a live receiver, while packets flow: who is heard, what the network is told, how much fits."""

import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import _core
from tests import lab
from tests.conftest import descriptors

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("backend")]

PORT = 5000
RATE = 20_000  # datagrams per second and source
COUNT = 30_000  # of each source
# group, a source that is always wanted, one that comes and goes
FEEDS = (("232.1.1.1", "10.9.0.7", "10.9.0.8"), ("ff35::1", "fd09::7", "fd09::8"))
Ends = tuple[lab.End, lab.End]


@pytest.fixture
def ends() -> Iterator[Ends]:
    with lab.Lab() as made:
        yield made.link("a", "b")


def text(group: str, end: lab.End, count: int = 1) -> str:
    zoned = f"{group}%{end.interface}"
    return (f"[{zoned}]:{PORT}" if ":" in group else f"{zoned}:{PORT}") + (f"+{count}" if count > 1 else "")


def with_length(address: str) -> str:
    return f"{address}/{64 if ':' in address else 24}"


class Consumer(threading.Thread):
    """Receives until the receiver is closed: source -> [(number, timestamp)], and source -> when each of them was delivered, ns."""

    def __init__(self, rx: mcast.Receiver) -> None:
        super().__init__()
        self.rx = rx
        self.came: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.delivered: dict[str, list[int]] = defaultdict(list)
        self.news = threading.Condition()
        self.missed = False  # whether some of the first source had to be missed
        self.start()

    def run(self) -> None:
        for batch in self.rx:
            now = time.time_ns()
            rows = [(one.source, int.from_bytes(one.data[:8], "big"), one.timestamp) for one in batch]
            with self.news:
                for source, number, timestamp in rows:
                    self.came[source].append((number, timestamp))
                    self.delivered[source].append(now)
                self.news.notify_all()

    def wait_for(self, source: str, more: int) -> None:
        """Until so many more of a source came."""
        with self.news:
            wanted = len(self.came[source]) + more
            assert self.news.wait_for(lambda: len(self.came[source]) >= wanted, 10), f"{source} is not heard"


@contextmanager
def flowing(ends: Ends, group: str, *sources: str) -> Iterator[Consumer]:
    """A receiver of a group, read by a thread, to which these sources send; at the end all came that will."""
    sending, receiving = ends
    for source in sources:
        sending.host.add_address(sending.interface, with_length(source))
    with receiving.host.enter():
        rx = mcast.Receiver(text(group, receiving), buffer_size="128MiB")
    with rx:
        consumer = Consumer(rx)
        programs = [sending.blast(group, PORT, count=COUNT, source=source, rate=RATE) for source in sources]
        consumer.wait_for(sources[0], 1)
        yield consumer
        for program in programs:
            program.finish()
        with consumer.news:
            came = consumer.came[sources[0]]
            whole = consumer.missed or consumer.news.wait_for(lambda: len(came) == COUNT, 10)
            missing = sorted(set(range(COUNT)) - {number for number, _ in came})
            assert whole, f"{len(missing)} of {COUNT} are missing, from {missing[:3]} to {missing[-3:]}; {rx.stats}"
        assert rx.stats.dropped_socket == 0
    consumer.join()


def left_out(first: tuple[int, int, int], then: tuple[int, int, int], since: int, until: int) -> bool:
    """Whether what is missing between two packets (number, timestamp, when delivered) is what a silence leaves out."""
    not_taken = first[1] <= since and until <= then[1]
    not_wanted = first[2] <= until and since <= then[2]
    return not_taken or not_wanted


@pytest.mark.parametrize(("group", "always", "sometimes"), FEEDS)
def test_who_stays_wanted_misses_nothing_and_who_is_not_is_silent(ends, group, always, sometimes):
    """From any-source to source-specific and back, by every call there is, at 20,000 packets per second and source."""
    silent: list[tuple[int, int]] = []  # from when to when nothing of `sometimes` may come, ns

    with flowing(ends, group, always, sometimes) as consumer:
        rx = consumer.rx

        def without(change: Callable[[], bool], back: Callable[[], bool]) -> None:
            assert change()
            since = time.time_ns()
            consumer.wait_for(always, 1_500)
            silent.append((since, time.time_ns()))
            assert back()
            consumer.wait_for(sometimes, 1_000)

        consumer.wait_for(sometimes, 1_000)
        without(lambda: rx.set_sources(group, include=[always]), lambda: rx.join(group))
        without(lambda: rx.block(group, sometimes), lambda: rx.unblock(group, sometimes))
        without(lambda: rx.set_sources(group, include=[always]), lambda: rx.unblock(group, sometimes))
        without(lambda: rx.block(group, sometimes), lambda: rx.set_sources(group, include=[always, sometimes]))
        without(lambda: rx.set_sources(group, exclude=[sometimes]), lambda: rx.set_sources(group, exclude=[]))
        assert not rx.join(group)
        assert not rx.set_sources(group, exclude=[])

    assert [number for number, _ in consumer.came[always]] == list(range(COUNT))
    numbers = [number for number, _ in consumer.came[sometimes]]
    assert numbers == sorted(set(numbers))
    # A silence leaves out what the kernel did not take, by its time, and what had waited and came while it was not wanted, by its delivery:
    # two gaps where the program lags. A sender that is stopped all the while makes none.
    rows = [(*row, when) for row, when in zip(consumer.came[sometimes], consumer.delivered[sometimes], strict=True)]
    gaps = [(first, then) for first, then in pairwise(rows) if then[0] != first[0] + 1]
    wanted = [gap for gap in gaps if not any(left_out(*gap, *silence) for silence in silent)]
    assert not wanted, f"it is heard without a gap whenever it is wanted; the silences were {silent}"
    assert len(gaps) <= 2 * len(silent)
    assert gaps, "nobody was silent: nothing was tried"
    late = [when for _, when in consumer.came[sometimes] for since, until in silent if since < when < until]
    assert not late


@pytest.mark.parametrize(("group", "always", "sometimes"), FEEDS)
def test_nothing_of_a_group_is_delivered_after_leave_has_returned(ends, group, always, sometimes):
    with flowing(ends, group, always, sometimes) as consumer:
        other = "232.1.1.2" if ":" not in group else "ff35::2"
        with ends[1].host.enter():
            consumer.rx.join(text(other, ends[1]))
        assert consumer.rx.leave(group)
        with consumer.news:
            there = len(consumer.came[always])
        assert not consumer.rx.leave(group)
        assert len(consumer.came[always]) == there
        with ends[1].host.enter():
            consumer.rx.join(text(group, ends[1]))
        consumer.wait_for(always, 100)
        consumer.missed = True


# ---- what the network is told ----


def records(group: str, kind: str, sources: str) -> str:
    """A group record of IGMPv3 or MLDv2 as tcpdump prints it; what was told before may be told again with it."""
    return rf"gaddr {group} {kind} {{[^}}]*{sources}[^}}]*}}" if sources else rf"gaddr {group} {kind} {{ ?}}"


@pytest.mark.parametrize(("group", "first", "second"), FEEDS)
def test_the_reports_tell_every_change(ends, group, first, second):
    sending, receiving = ends
    dump = sending.tcpdump("-vv", "igmp" if ":" not in group else "ip6 and dst ff02::16")
    with receiving.host.enter():
        rx = mcast.Receiver(f"{first}@{text(group, receiving)}")
    steps = [
        (lambda: True, "allow", first),
        (lambda: rx.set_sources(group, include=[first, second]), "allow", second),
        (lambda: rx.block(group, first), "block", first),
        (lambda: rx.set_sources(group, exclude=[first]), "to_ex", first),
        (lambda: rx.unblock(group, first), "allow", first),
        (lambda: rx.block(group, second), "block", second),
        (lambda: rx.set_sources(group, include=[second]), "to_in", second),
        (lambda: rx.join(group), "to_ex", ""),
        (lambda: rx.leave(group), "to_in", ""),
    ]
    with rx:
        for change, kind, sources in steps:
            assert change()
            dump.expect(records(group, kind, sources))


# ---- how much fits ----


@pytest.mark.parametrize("group", ["239.3.0.0", "ff15::3:0"])
def test_a_thousand_groups_in_one_receiver(ends, group):
    sending, receiving = ends
    with receiving.host.enter():
        rx = mcast.Receiver(text(group, receiving, 1_000), timeout=5)
    with rx, sending.host.enter():
        assert len(rx.memberships) == 1_000
        assert all(one.joined and one.kernel_mode == "exclude" for one in rx.memberships)
        with mcast.Sender(text(group, sending, 1_000)) as tx:
            assert tx.send(b"one to each") == 1_000
        batch = rx.collect(1_000)
        assert {packet.group for packet in batch} == {
            one.address for one in mcast.Group.parse(f"{group}+1000").expand()
        }
        assert len(batch) == 1_000
        assert rx.leave(f"{group}+1000")
        assert rx.memberships == []


@pytest.mark.parametrize(("group", "prefix"), [("232.1.1.1", "10.9.0."), ("ff35::1", "fd09::")])
def test_more_sources_than_a_socket_may_hold(ends, group, prefix):
    sending, receiving = ends
    sources = [f"{prefix}{number}" for number in range(10, 100)]
    for source in sources:
        sending.host.add_address(sending.interface, with_length(source))
    sending.wait_usable()
    with ExitStack() as closing, receiving.host.enter():
        rx = closing.enter_context(mcast.Receiver(text(group, receiving), timeout=2))
        with sending.host.enter():
            senders = [closing.enter_context(mcast.Sender(text(group, sending), source=source)) for source in sources]

        def who() -> set[str]:
            for tx in senders:
                tx.send(b"here")
            batch = rx.collect(len(senders) * 2, timeout=0.3)
            heard = [packet.source for packet in batch]
            assert len(heard) == len(set(heard)), "nobody is heard twice"
            return set(heard)

        def canonical(texts: list[str]) -> set[str]:
            return {mcast.Group(group, source=text).source for text in texts}

        with rx:
            some, others = sources[:75], sources[75:]
            assert who() == canonical(sources)
            assert rx.set_sources(group, include=some)
            assert who() == canonical(some)
            (held,) = rx.memberships
            assert set(held.kernel_sources) == canonical(some)
            assert rx.set_sources(group, exclude=some)
            assert who() == canonical(others)
            (held,) = rx.memberships
            filtered = len(some) - len(held.kernel_sources)
            assert filtered == len(some) - (64 if ":" in group else 10)
            assert rx.stats.filtered == filtered
            assert rx.block(group, others[0])
            assert who() == canonical(others[1:])


# ---- what is refused ----


def test_the_limit_of_groups_when_they_are_not_spread(ends):
    before = descriptors()
    _, receiving = ends
    with receiving.host.enter(), pytest.raises(mcast.SocketError) as refused:
        mcast.Receiver(text("239.3.0.0", receiving, 21), spread=False)
    assert str(refused.value) == (
        f"join 239.3.0.20 on {receiving.interface}: No buffer space available (105); a membership limit is reached; raise "
        "net.ipv4.igmp_max_memberships or igmp_max_msf (sources; IPv6: net.ipv6.mld_max_msf), and net.core.optmem_max "
        "beyond 2,000 groups; or let spread=True use more sockets; run: mcast-fast doctor"
    )
    assert descriptors() == before


def test_the_limit_of_sources_when_they_are_not_spread(ends):
    before = descriptors()
    _, receiving = ends
    ten, eleven = ([f"10.9.0.{number}" for number in range(1, end)] for end in (11, 12))
    with receiving.host.enter(), mcast.Receiver(text("232.1.1.1", receiving), spread=False) as rx:
        assert rx.set_sources("232.1.1.1", include=ten)
        was = rx.memberships
        with pytest.raises(mcast.SocketError) as refused:
            rx.set_sources("232.1.1.1", include=eleven)
        assert str(refused.value) == (
            f"filter 232.1.1.1 on {receiving.interface}: No buffer space available (105); too many sources; raise "
            "net.ipv4.igmp_max_msf (IPv6: net.ipv6.mld_max_msf), or let spread=True use more sockets; run: mcast-fast doctor"
        )
        assert rx.memberships == was
    assert descriptors() == before


def test_what_is_meaningless_is_refused_and_changes_nothing(ends):
    _, receiving = ends
    with receiving.host.enter(), mcast.Receiver(text("232.1.1.1", receiving)) as rx:
        was = rx.memberships
        for call, error in [
            (lambda: rx.block("232.1.1.1", "fd00::1"), mcast.GroupError),
            (lambda: rx.block("232.1.1.9", "10.0.0.1"), mcast.GroupError),
            (lambda: rx.unblock("232.1.1.9", "10.0.0.1"), mcast.GroupError),
            (lambda: rx.set_sources("232.1.1.9", include=["10.0.0.1"]), mcast.GroupError),
            (lambda: rx.set_sources("232.1.1.1"), mcast.ArgumentError),
            (lambda: rx.set_sources("232.1.1.1", include=[], exclude=[]), mcast.ArgumentError),
            (lambda: rx.join("10.0.0.1"), mcast.GroupError),
            (lambda: rx.join("232.1.1.2%nowhere"), mcast.InterfaceError),
        ]:
            with pytest.raises(error):
                call()
            assert rx.memberships == was
        assert not rx.join("232.1.1.1")
        assert not rx.leave("232.1.1.9")
        assert not rx.leave("10.0.0.9@232.1.1.1")
    for call in (
        lambda: rx.join("232.1.1.1"),
        lambda: rx.leave("232.1.1.1"),
        lambda: rx.block("232.1.1.1", "10.0.0.1"),
    ):
        with pytest.raises(mcast.ClosedError):
            call()


def test_more_groups_than_a_text_may_name_are_refused_before_anything_is_planned(ends):
    _, receiving = ends
    before = descriptors()
    with receiving.host.enter():
        for count in (65_537, 3_000_000):
            with pytest.raises(mcast.GroupError, match=r"more than the 65,536 that one text may name"):
                mcast.Receiver(text("232.1.1.1", receiving, count))
        with mcast.Receiver(text("232.1.1.1", receiving)) as rx:
            for call in (rx.join, rx.leave, lambda one: rx.block(one, "10.0.0.1")):
                with pytest.raises(mcast.GroupError, match="65,536"):
                    call(text("232.1.1.1", receiving, 65_537))
            assert rx.leave("232.1.1.0+65536")
    assert descriptors() == before


def test_an_interface_whose_name_is_not_utf8(ends):
    """The kernel takes any bytes but '/' and white space."""
    sending, receiving = ends
    host = receiving.host
    with host.enter():
        name = os.fsdecode(b"v\xff0")
        run = ["ip", "link", "set", receiving.interface, "down", "name", name]
        subprocess.run(run, check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        with pytest.warns(mcast.MulticastWarning, match="hardware"):
            rx = mcast.Receiver("239.1.1.1:5000", interface=name, timeout=5, watch=True, timestamps="hardware")
        with rx:
            (held,) = rx.memberships
            assert (held.interface, held.joined) == (name, True)
            sending.wait_usable()
            sending.blast("239.1.1.1", PORT, count=1).finish()
            assert rx.recv().interface == name


# ---- every interface, and what is in the way ----


def test_all_takes_what_is_fit_and_says_why_not(ends):
    with lab.Lab() as made:
        links = [made.link("a", "b") for _ in range(3)]
        host = links[0][1].host
        host.run("ip", "link", "set", links[1][1].interface, "down")
        host.run("ip", "link", "set", links[2][1].interface, "multicast", "off")
        with host.enter(), mcast.Receiver("239.1.1.1%all:5000") as rx:
            told = {one.interface: one for one in rx.memberships}
        assert told[links[0][1].interface].joined
        assert not told[links[1][1].interface].joined
        assert "down" in told[links[1][1].interface].reason
        assert "MULTICAST" in told[links[2][1].interface].reason.upper()


def test_an_interface_of_all_that_refuses_is_skipped(ends, monkeypatch):
    with lab.Lab() as made:
        links = [made.link("a", "b") for _ in range(2)]
        index = {one.interface: one.index for _, one in links}
        join = _core.membership.join

        def refusing(sock, interface, *rest):
            if interface == index[links[0][1].interface]:
                raise OSError(19, "No such device")
            join(sock, interface, *rest)

        monkeypatch.setattr(_core.membership, "join", refusing)
        before = descriptors()
        with links[0][1].host.enter(), mcast.Receiver("239.1.1.1%all:5000") as rx:
            told = {one.interface: one for one in rx.memberships}
        assert told[links[1][1].interface].joined
        assert "No such device (19)" in told[links[0][1].interface].reason
        assert descriptors() == before


@pytest.mark.parametrize(
    ("group", "source", "setting", "value"),
    [
        ("232.1.1.1", "10.9.0.7", "ipv4.conf.{}.force_igmp_version", 2),
        ("ff35::1", "fd09::7", "ipv6.conf.{}.force_mld_version", 1),
    ],
)
def test_an_old_version_that_is_forced_is_warned_of_once(ends, group, source, setting, value):
    _, receiving = ends
    sysctl = f"net.{setting.format(receiving.interface)}"
    receiving.host.sysctl(sysctl, value)
    with receiving.host.enter():
        with pytest.warns(mcast.errors.SsmWarning, match=sysctl) as warned:  # noqa: PT031 - once for both
            rx = mcast.Receiver(f"{source}@{text(group, receiving)}")
            rx.join(f"{source}@{text(group, receiving)}+2")
        assert len(warned) == 1
        rx.close()


def igmpv2_query() -> bytes:
    """A general query of an IGMPv2 querier (RFC 2236): type, response time of 10 s, checksum, group 0."""
    head = b"\x11\x64"
    checksum = 0xFFFF - int.from_bytes(head, "big")
    return head + checksum.to_bytes(2, "big") + bytes(4)


def test_an_old_querier_that_was_heard_is_warned_of(ends):
    sending, receiving = ends
    with receiving.host.enter():
        rx = mcast.Receiver(text("239.1.1.1", receiving))
        table = Path("/proc/thread-self/net/igmp")
        assert " V3" in table.read_text()
    with sending.host.enter(), socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP) as raw:
        request = struct.pack("=4x4si", socket.inet_aton(sending.ipv4), sending.index)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, request)
        raw.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x94\x04\0\0")  # router alert
        raw.sendto(igmpv2_query(), ("224.0.0.1", 0))
    with rx, receiving.host.enter():
        deadline = time.monotonic() + 5
        while " V2" not in table.read_text():
            assert time.monotonic() < deadline, table.read_text()
        with pytest.warns(mcast.errors.SsmWarning, match="uses IGMPv2"):
            rx.join(f"10.9.0.7@{text('232.1.1.1', receiving)}")


@pytest.mark.parametrize(("group", "first", "second"), FEEDS)
def test_memberships_are_what_the_kernel_holds(ends, group, first, second):
    _, receiving = ends
    folder = Path("/proc/thread-self/net")
    with receiving.host.enter(), mcast.Receiver(text(group, receiving)) as rx:
        rx.set_sources(group, include=[first, second])
        (held,) = rx.memberships
        assert (held.mode, held.kernel_mode, held.sockets) == ("include", "include", 1)
        assert held.sources == held.kernel_sources == (first, second)
        listed = (folder / ("mcfilter" if ":" not in group else "mcfilter6")).read_text()
        for source in (first, second):
            packed = ip_address(source).packed.hex()
            assert packed in listed.lower()
        rx.set_sources(group, exclude=[first])
        (held,) = rx.memberships
        assert (held.mode, held.kernel_mode, held.kernel_sources) == ("exclude", "exclude", (first,))
        groups = (folder / ("igmp" if ":" not in group else "igmp6")).read_text().lower()
        packed = ip_address(group).packed
        # igmp has a word in the order of the machine, igmp6 has bytes (net/ipv4/igmp.c, net/ipv6/mcast.c)
        assert (packed.hex() if ":" in group else f"{int.from_bytes(packed, sys.byteorder):08x}") in groups
        rx.set_sources(group, include=[])
        (held,) = rx.memberships
        assert (held.joined, held.reason) == (False, "no source is wanted")
