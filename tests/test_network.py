"""Real packets between hosts: what left the sender's interface is what arrives, whatever else is on the wire."""

import os
import random
import socket
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import mcast_fast as mcast
from mcast_fast import _core
from tests import lab

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Packet

pytestmark = [pytest.mark.lab, pytest.mark.usefixtures("backend")]

Ends = tuple[lab.End, lab.End]

PORT = 5000
ASM = ("239.1.1.1", "ff15::1")
LINK_LOCAL = "ff12::1"
OTHERS = {4: ("239.2.0.1", "239.2.0.2"), 6: ("ff15::2:1", "ff15::2:2")}
# group, and three sources
SSM = (
    ("232.1.1.1", ("10.9.0.7", "10.9.0.8", "10.9.0.9")),
    ("ff35::1", ("fd09::7", "fd09::8", "fd09::9")),
)
SSM_OTHER = {4: "232.1.1.2", 6: "ff35::2"}

# Linux has what other systems lack: without it, the check of every record has to do the same.
DEVICE = ("SO_BINDTODEVICE",)
MEMBERSHIP = ("IP_MULTICAST_ALL", "IPV6_MULTICAST_ALL")


@pytest.fixture
def ends() -> Iterator[Ends]:
    """A sender's and a receiver's end of one link."""
    with lab.Lab() as made:
        yield made.link("a", "b")


@pytest.fixture
def links() -> Iterator[tuple[Ends, Ends]]:
    """Two links between the same two hosts."""
    with lab.Lab() as made:
        yield made.link("a", "b"), made.link("a", "b")


@pytest.fixture
def lacking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Socket options that this system is to be without."""
    missing: tuple[str, ...] = request.param
    options = {name: option for name, option in _core.membership.OPTIONS.items() if name not in missing}
    monkeypatch.setattr(_core.membership, "OPTIONS", options)
    return missing


def version(group: str) -> int:
    return ip_address(group).version


def feed(group: str, end: lab.End, *, source: str | None = None, port: int = PORT, count: int = 1) -> str:
    """The text of a group at this end of a link."""
    zoned = f"{group}%{end.interface}"
    text = f"[{zoned}]:{port}" if version(group) == 6 else f"{zoned}:{port}"
    return (f"{source}@" if source else "") + text + (f"+{count}" if count > 1 else "")


def receiver(end: lab.End, *feeds: str, **options: object) -> mcast.Receiver:
    """A receiver on the host of this end: it is read from here, outside."""
    with end.host.enter():
        return mcast.Receiver(*feeds, **{"timeout": 5.0} | options)


def sender(end: lab.End, *feeds: str, **options: object) -> mcast.Sender:
    with end.host.enter():
        return mcast.Sender(*feeds, **{"timeout": 5.0} | options)


def receive(rx: mcast.Receiver, count: int) -> "list[Packet]":
    """Wait for this number of packets, then take what is left: a round that is filtered whole may end it (settle reads on)."""
    packets: list[Packet] = []
    with suppress(TimeoutError):
        while len(packets) < count:
            packets += rx.recv_batch()
    packets += rx.collect(1_000_000, timeout=0)
    return packets


def settle(rx: mcast.Receiver, arrived: int, timeout: float = 10.0) -> "list[Packet]":
    """Receive until the ledger accounts for all that arrived."""
    packets: list[Packet] = []
    deadline = time.monotonic() + timeout
    while True:
        packets += rx.collect(1_000_000, timeout=0)
        if accounted(rx.stats) >= arrived:
            return packets
        assert time.monotonic() < deadline, f"{accounted(rx.stats)} of {arrived} accounted for: {rx.stats}"


def accounted(stats: mcast.Stats) -> int:
    assert stats.dropped_socket is not None
    return stats.received + stats.filtered + stats.dropped_socket


def ledger(rx: mcast.Receiver) -> tuple[int, int, int | None]:
    stats = rx.stats
    return stats.received, stats.filtered, stats.dropped_socket


def numbers(packets: "Iterable[Packet]") -> list[int]:
    """The numbers that blast wrote."""
    return [int.from_bytes(packet.data[:8]) for packet in packets]


def seen(packets: "Iterable[Packet]") -> Counter[tuple[str, str, str]]:
    return Counter((packet.group, packet.interface, packet.source) for packet in packets)


def add_sources(end: lab.End, *addresses: str) -> None:
    for address in addresses:
        end.host.add_address(end.interface, f"{address}/{64 if version(address) == 6 else 24}")


def a_program(end: lab.End, program: str, group: str, **options: object) -> lab.Program:
    """Start one of the lab's senders."""
    if program == "iperf":
        options["rate"] = "100m"  # bits per second
    return getattr(end, program)(group, PORT, **options)


def finish(*programs: lab.Program) -> None:
    for program in programs:
        program.finish()


# ---- one group ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("program", "group"),
    [
        ("iperf", "239.1.1.1"),
        ("iperf", "ff15::1"),
        ("socat", "239.1.1.1"),
        ("socat", "224.0.0.200"),
        ("socat", "ff15::1"),
        ("socat", LINK_LOCAL),
    ],
)
def test_what_left_the_sender_is_received(ends: Ends, program: str, group: str) -> None:
    a, b = ends
    left, arrived = a.count(group, PORT), b.count(group, PORT, hook="ingress")
    before = time.time_ns()
    with receiver(b, feed(group, b)) as rx:
        a_program(a, program, group, count=2_000).finish()
        packets = receive(rx, left.packets)
        after = time.time_ns()
        assert len(packets) == left.packets == arrived.packets == (2_001 if program == "iperf" else 2_000)
        assert ledger(rx) == (len(packets), 0, 0)
        headers = len(packets) * (48 if ":" in group else 28)
        assert rx.stats.bytes == sum(map(len, packets)) == left.bytes - headers
    assert {len(packet.data) for packet in packets} == {256}
    assert set(seen(packets)) == {(group, b.interface, a.address(group))}
    assert {packet.port for packet in packets} == {PORT}
    assert all(before <= packet.timestamp <= after for packet in packets)


def test_a_link_local_source_keeps_its_zone(ends: Ends) -> None:
    a, b = ends
    left = a.count(LINK_LOCAL, PORT, a.link_local)
    with receiver(b, feed(LINK_LOCAL, b)) as rx:
        a.socat(LINK_LOCAL, PORT, count=100, source=f"{a.link_local}%{a.interface}").finish()
        packets = receive(rx, left.packets)
    expected = (LINK_LOCAL, b.interface, f"{a.link_local}%{b.interface}")
    assert seen(packets) == {expected: left.packets} == {expected: 100}
    assert {packet.source_address[2:] for packet in packets} == {(0, b.index)}


@pytest.mark.parametrize("group", ASM)
def test_every_size_arrives_whole(ends: Ends, group: str) -> None:
    """From nothing to the largest datagram there is: beyond the MTU of 1,500 in fragments."""
    a, b = ends
    largest = 65_527 if ":" in group else 65_507
    sizes = [0, 1, 63, 64, 65, 1_471, 1_472, 1_473, *[9_000] * 20, largest, 0, 1]
    payloads = [random.randbytes(size) for size in sizes]
    with receiver(b, feed(group, b)) as rx, sender(a, feed(group, a)) as tx:
        assert tx.send_batch(payloads) == len(payloads)
        packets = receive(rx, len(payloads))
    assert [packet.data for packet in packets] == payloads
    assert [packet.wire_length for packet in packets] == sizes
    assert not any(packet.truncated for packet in packets)


@pytest.mark.parametrize("group", ASM)
def test_fragments_are_cut_off_at_max_packet_size_and_flagged(ends: Ends, group: str) -> None:
    a, b = ends
    payloads = [random.randbytes(9_000), random.randbytes(2_000)]
    with receiver(b, feed(group, b), max_packet_size=2_000) as rx, sender(a, feed(group, a)) as tx:
        tx.send_batch(payloads)
        packets = receive(rx, 2)
        assert rx.stats.truncated == 1
    assert [packet.data for packet in packets] == [payloads[0][:2_000], payloads[1]]
    assert [(packet.truncated, packet.wire_length) for packet in packets] == [(True, 9_000), (False, 2_000)]


@pytest.mark.parametrize("group", ASM)
def test_ttl_and_tos_are_those_of_the_sender(ends: Ends, group: str) -> None:
    a, b = ends
    with receiver(b, feed(group, b), recv_ttl=True, recv_tos=True) as rx, receiver(b, feed(group, b)) as untold:
        finish(*(a.blast(group, PORT, count=10, ttl=ttl) for ttl in (1, 255)))
        assert Counter((packet.ttl, packet.tos) for packet in receive(rx, 20)) == {(1, 0): 10, (255, 0): 10}
        with sender(a, feed(group, a), ttl=7) as tx, plain_socket(a, group, ttl=3, tos=0xB8) as plain:
            tx.send(b"ours")
            plain.sendto(b"plain", (group, PORT))
            told = {packet.data: (packet.ttl, packet.tos) for packet in receive(rx, 2)}
        assert told == {b"ours": (7, 0), b"plain": (3, 0xB8)}
        assert Counter((packet.ttl, packet.tos) for packet in receive(untold, 22)) == {(None, None): 22}


def plain_socket(end: lab.End, group: str, *, ttl: int, tos: int) -> socket.socket:
    """A socket of the standard library that sends from this end."""
    level, hops, service = (
        (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, socket.IPV6_TCLASS)
        if ":" in group
        else (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, socket.IP_TOS)
    )
    with end.host.enter():
        sock = socket.socket(socket.AF_INET6 if ":" in group else socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, end.interface.encode())
    sock.setsockopt(level, hops, ttl)
    sock.setsockopt(level, service, tos)
    return sock


@pytest.mark.parametrize("group", ASM)
def test_a_link_that_goes_down_and_up_keeps_its_membership(ends: Ends, group: str) -> None:
    a, b = ends
    with receiver(b, feed(group, b)) as rx:
        b.host.run("ip", "link", "set", b.interface, "down")
        b.host.run("ip", "link", "set", b.interface, "up")
        for end in ends:
            end.wait_usable()
        a.blast(group, PORT, count=100).finish()
        assert numbers(receive(rx, 100)) == list(range(100))


# ---- sources --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["iperf", "socat", "blast"])
@pytest.mark.parametrize(("group", "sources"), SSM)
def test_only_the_wanted_source(ends: Ends, program: str, group: str, sources: tuple[str, ...]) -> None:
    """Another process joins the group from all, so that everything reaches the host; the kernel keeps it from us."""
    a, b = ends
    wanted, other, _ = sources
    elsewhere = SSM_OTHER[version(group)]
    add_sources(a, *sources)
    counted = [a.count(group, PORT, wanted), a.count(group, PORT, other), a.count(elsewhere, PORT, wanted)]
    b.join(group, elsewhere, port=PORT)
    with receiver(b, feed(group, b, source=wanted)) as rx:
        finish(
            a.blast(group, PORT, count=300, source=other),
            a_program(a, program, group, count=500, source=wanted),
            a.blast(elsewhere, PORT, count=200, source=wanted),
        )
        left = [counter.packets for counter in counted]
        packets = receive(rx, left[0])
        assert seen(packets) == {(group, b.interface, wanted): left[0]}
        assert left == [501 if program == "iperf" else 500, 300, 200]
        assert ledger(rx) == (left[0], 0, 0)


@pytest.mark.parametrize(("group", "sources"), SSM)
def test_two_of_three_sources(ends: Ends, group: str, sources: tuple[str, ...]) -> None:
    a, b = ends
    add_sources(a, *sources)
    with receiver(b, *(feed(group, b, source=source) for source in sources[:2])) as rx:
        finish(
            *(a.blast(group, PORT, count=count, source=one) for count, one in zip((3, 50, 70), sources, strict=True))
        )
        packets = receive(rx, 53)
        assert seen(packets) == {(group, b.interface, sources[0]): 3, (group, b.interface, sources[1]): 50}
        assert ledger(rx) == (53, 0, 0)


@pytest.mark.parametrize(("group", "sources"), SSM)
def test_the_kernel_is_told_the_source(ends: Ends, group: str, sources: tuple[str, ...]) -> None:
    """So that IGMPv3 and MLDv2 tell the routers; /proc/net/mcfilter: interface, group, source, included, excluded."""
    _, b = ends
    with receiver(b, feed(group, b, source=sources[0])):
        assert source_filters(b, group) == {(b.interface, group, sources[0], 1, 0)}
    assert source_filters(b, group) == set()


def source_filters(end: lab.End, group: str) -> set[tuple[str, str, str, int, int]]:
    file = Path("/proc/thread-self/net", "mcfilter6" if ":" in group else "mcfilter")
    with end.host.enter():
        rows = [line.split() for line in file.read_text().splitlines() if not line.startswith("Idx")]
    return {
        (device, address(to), address(source), int(included), int(excluded))
        for _, device, to, source, included, excluded in rows
    }


def address(text: str) -> str:
    """An address as /proc/net has it: 0xe8010101, or 32 digits."""
    return str(ip_address(bytes.fromhex(text.removeprefix("0x"))))


@pytest.mark.parametrize(("group", "sources"), SSM)
def test_each_interface_has_its_own_source(links: tuple[Ends, Ends], group: str, sources: tuple[str, ...]) -> None:
    """To one IPv6 socket only the last source would count (facts.md, "Joining")."""
    (a0, b0), (a1, b1) = links
    for end in (a0, a1):
        add_sources(end, *sources)
    wanted = ((a0, b0, sources[0]), (a1, b1, sources[1]))
    b0.join(group, port=PORT)
    b1.join(group, port=PORT)
    with receiver(b0, *(feed(group, end, source=source) for _, end, source in wanted)) as rx:
        finish(*(a.blast(group, PORT, count=60, source=source) for a in (a0, a1) for source in sources))
        packets = receive(rx, 120)
        assert seen(packets) == {(group, end.interface, source): 60 for _, end, source in wanted}
        assert ledger(rx) == (120, 0, 0)


# ---- other processes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lacking", [(), MEMBERSHIP], indirect=True, ids="-".join)
@pytest.mark.parametrize("ours", [1, 2])
@pytest.mark.parametrize("family", [4, 6])
def test_a_process_with_other_groups_changes_nothing(
    ends: Ends, family: int, ours: int, lacking: tuple[str, ...]
) -> None:
    """A socket of one group is bound to it; with two the options count, and without them the check of every record."""
    a, b = ends
    groups = [f"{ASM[0][:-1]}{n}" if family == 4 else f"{ASM[1][:-1]}{n}" for n in range(1, ours + 1)]
    everything = b.count(port=PORT, hook="ingress")
    b.join(*OTHERS[family], port=PORT)
    with receiver(b, *(feed(group, b) for group in groups)) as rx:
        b.join(OTHERS[family][0], groups[0], port=PORT)
        finish(*(a.blast(group, PORT, count=200) for group in (*groups, *OTHERS[family])))
        filtered = 400 if lacking and ours > 1 else 0
        packets = settle(rx, 200 * ours + filtered)
        assert seen(packets) == {(group, b.interface, a.address(group)): 200 for group in groups}
        assert ledger(rx) == (200 * ours, filtered, 0)
        assert everything.packets == 200 * ours + 400


@pytest.mark.parametrize("lacking", [(), DEVICE, DEVICE + MEMBERSHIP], indirect=True, ids="-".join)
@pytest.mark.parametrize("group", [*ASM, LINK_LOCAL])
def test_our_group_on_another_interface_changes_nothing(
    links: tuple[Ends, Ends], group: str, lacking: tuple[str, ...]
) -> None:
    """An IPv6 membership is not per interface, an IPv4 one is (facts.md, "Joining")."""
    (a0, b0), (a1, b1) = links
    counters = [end.count(group, PORT, hook="ingress") for end in (b0, b1)]
    b1.join(group, port=PORT)
    with receiver(b0, feed(group, b0)) as rx:
        finish(a1.blast(group, PORT, count=500, first=10_000), a0.blast(group, PORT, count=300))
        others = 500 if hears_others(group, lacking) else 0
        packets = settle(rx, 300 + others)
        assert numbers(packets) == list(range(300))
        assert seen(packets) == {(group, b0.interface, a0.address(group)): 300}
        assert [counter.packets for counter in counters] == [300, 500]
        assert ledger(rx) == (300, others, 0)


def hears_others(group: str, lacking: tuple[str, ...]) -> bool:
    """Whether the kernel hands a socket what came to its group by another interface, where somebody else had joined.

    A link-local IPv6 group is bound with its zone, which binds the device too (ipv6(7)).
    """
    if group == LINK_LOCAL:
        return False
    return set(lacking) >= set(DEVICE if ":" in group else DEVICE + MEMBERSHIP)


@pytest.mark.parametrize("lacking", [(), DEVICE, DEVICE + MEMBERSHIP], indirect=True, ids="-".join)
@pytest.mark.parametrize("group", [*ASM, LINK_LOCAL])
def test_a_group_on_both_interfaces(links: tuple[Ends, Ends], group: str, lacking: tuple[str, ...]) -> None:
    """Each packet once, with the interface that it came by: two sockets may both get it where no device is bound."""
    (a0, b0), (a1, b1) = links
    with receiver(b0, feed(group, b0), feed(group, b1)) as rx:
        finish(a0.blast(group, PORT, count=300), a1.blast(group, PORT, count=500))
        filtered = 800 if hears_others(group, lacking) else 0
        packets = settle(rx, 800 + filtered)
        assert seen(packets) == {
            (group, b0.interface, a0.address(group)): 300,
            (group, b1.interface, a1.address(group)): 500,
        }
        assert numbers(packet for packet in packets if packet.interface == b0.interface) == list(range(300))
        assert numbers(packet for packet in packets if packet.interface == b1.interface) == list(range(500))
        assert ledger(rx) == (800, filtered, 0)


@pytest.mark.parametrize("group", ASM)
def test_receivers_share_a_port(ends: Ends, group: str) -> None:
    a, b = ends
    with receiver(b, feed(group, b)) as one, receiver(b, feed(group, b)) as two:
        a.blast(group, PORT, count=300).finish()
        for rx in (one, two):
            assert numbers(receive(rx, 300)) == list(range(300))


# ---- many groups, ports and interfaces ------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["239.1.1.1", "ff15::1"])
def test_more_groups_than_a_socket_may_hold(ends: Ends, group: str) -> None:
    """igmp_max_memberships is 20 in a new namespace."""
    a, b = ends
    left = a.count("239.1.1.0/24" if group in ASM[:1] else "ff15::/64", PORT)
    with receiver(b, feed(group, b, count=45)) as rx, sender(a, feed(group, a, count=45)) as tx:
        assert tx.send_batch([b"one", b"two", b"three"]) == 135
        packets = receive(rx, left.packets)
        assert ledger(rx) == (left.packets, 0, 0) == (135, 0, 0)
    wanted = [str(ip_address(group) + n) for n in range(45)]
    for one in wanted:
        assert [packet.data for packet in packets if packet.group == one] == [b"one", b"two", b"three"]


def test_groups_ports_and_families_in_one_receiver(ends: Ends) -> None:
    """A group is wanted at its own port only, though other groups are wanted at the others."""
    a, b = ends
    wanted = [
        *[("239.1.1.1", 5000), ("239.1.1.2", 5000), ("239.1.1.3", 5001), ("239.1.1.4", 5001), ("239.1.1.5", 5002)],
        *[("ff15::1", 5000), ("ff15::2", 5000), ("ff15::3", 5001), ("ff15::4", 5001), ("ff12::5", 5002)],
    ]
    everywhere = [(group, port) for group, _ in wanted for port in (5000, 5001, 5002)]
    with (
        receiver(b, *(feed(group, b, port=port) for group, port in wanted)) as rx,
        sender(a, *(feed(group, a, port=port) for group, port in everywhere)) as tx,
    ):
        for _ in range(20):
            tx.send(b"to all")
        packets = receive(rx, 200)
        assert Counter((packet.group, packet.port) for packet in packets) == dict.fromkeys(wanted, 20)
        assert ledger(rx) == (200, 0, 0)


@pytest.mark.parametrize("group", ASM)
def test_all_interfaces(links: tuple[Ends, Ends], group: str) -> None:
    """All that are up and multicast-capable: not loopback, not one that is down or lacks the flag."""
    (a0, b0), (a1, b1) = links
    host = b0.host
    host.run("ip", "link", "add", "isdown", "type", "veth", "peer", "name", "noflag")
    host.run("ip", "link", "set", "noflag", "multicast", "off", "up")
    with receiver(b0, group, port=PORT, interface="all") as rx:
        assert joined_on(host, group) == {b0.interface, b1.interface}
        finish(a0.blast(group, PORT, count=30), a1.blast(group, PORT, count=50))
        assert seen(receive(rx, 80)) == {
            (group, b0.interface, a0.address(group)): 30,
            (group, b1.interface, a1.address(group)): 50,
        }
    assert joined_on(host, group) == set()


@pytest.mark.parametrize("group", ASM)
def test_the_route_for_the_group_decides(links: tuple[Ends, Ends], group: str) -> None:
    (a0, b0), (a1, b1) = links
    for end in (a1, b1):
        where = (
            ["-6", "route", "add", "ff15::/16", "table", "local"] if ":" in group else ["route", "add", "239.0.0.0/8"]
        )
        end.host.run("ip", *where, "dev", end.interface)
    plain = f"[{group}]:{PORT}" if ":" in group else f"{group}:{PORT}"
    with receiver(b1, plain) as rx, sender(a1, plain) as tx:
        assert joined_on(b1.host, group) == {b1.interface}
        b0.join(group, port=PORT)
        a0.blast(group, PORT, count=50).finish()
        tx.send_batch([b"by the route"] * 30)
        assert seen(receive(rx, 30)) == {(group, b1.interface, a1.address(group)): 30}


@pytest.mark.parametrize("group", ASM)
def test_without_a_route_equal_interfaces_are_warned_of(links: tuple[Ends, Ends], group: str) -> None:
    (a0, b0), (_, b1) = links
    with pytest.warns(mcast.MulticastWarning, match=f"{b0.interface} and {b1.interface} are equally good"):
        rx = receiver(b0, group, port=PORT)
    with rx:
        assert joined_on(b0.host, group) == {b0.interface}
        a0.blast(group, PORT, count=30).finish()
        assert len(receive(rx, 30)) == 30


def joined_on(host: lab.Host, group: str) -> set[str]:
    """The interfaces on which the host is a member; the kernel keeps them under its own names of the group."""
    with host.enter():
        if ":" in group:
            rows = [line.split() for line in Path("/proc/thread-self/net/igmp6").read_text().splitlines()]
            return {row[1] for row in rows if address(row[2]) == group}
        found, device = set(), ""
        for line in Path("/proc/thread-self/net/igmp").read_text().splitlines()[1:]:
            words = line.split()
            if not line.startswith("\t"):
                device = words[1]
            elif bytes.fromhex(words[0])[:: 1 if sys.byteorder == "big" else -1] == ip_address(group).packed:
                found.add(device)
        return found


# ---- answers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [*ASM, LINK_LOCAL])
def test_question_and_answer_across_hosts(ends: Ends, group: str) -> None:
    a, b = ends
    with ExitStack() as undo:
        rx = undo.enter_context(receiver(b, feed(group, b)))
        clients = [undo.enter_context(sender(a, feed(group, a))) for _ in range(3)]
        for number, tx in enumerate(clients):
            tx.send(b"ping %d" % number)
        source = f"{a.link_local}%{b.interface}" if group == LINK_LOCAL else a.address(group)
        for question in receive(rx, 3):
            assert question.source == source
            rx.reply(question, b"pong to " + question.data)
        answerer = f"{b.link_local}%{a.interface}" if group == LINK_LOCAL else b.address(group)
        for number, tx in enumerate(clients):
            answer = tx.recv()
            assert answer.data == b"pong to ping %d" % number
            assert (answer.source, answer.source_port) == (answerer, PORT)
            assert answer.interface == a.interface
            with pytest.raises(TimeoutError):
                tx.recv(timeout=0)


@pytest.mark.parametrize("group", ASM)
def test_a_plain_socket_gets_the_answer_at_the_source_it_chose(ends: Ends, group: str) -> None:
    a, b = ends
    source = "fd09::7" if ":" in group else "10.9.0.7"
    prefix = "fd09::/64" if ":" in group else "10.9.0.0/24"
    add_sources(a, source)
    b.host.run("ip", "route", "add", prefix, "dev", b.interface)
    with receiver(b, feed(group, b)) as rx, sender(a, feed(group, a, source=source)) as tx:
        tx.send(b"ping")
        question = rx.recv()
        assert (question.source, question.source_port) == (source, tx.local_addresses[0][1])
        rx.reply(question, b"pong")
        answer = tx.recv()
        assert (answer.data, answer.group) == (b"pong", source)


@pytest.mark.parametrize(
    ("group", "source"),
    [(ASM[0], "10.9.0.7"), (ASM[1], "fd09::7"), (LINK_LOCAL, "fe80::77")],
    ids=["ipv4", "ipv6", "zone"],
)
def test_an_answer_leaves_by_the_interface_of_the_question(links: tuple[Ends, Ends], group: str, source: str) -> None:
    """Two links, one source address: only the socket that the question came to, or the zone, tells them apart."""
    (a0, b0), (a1, b1) = links
    for number, (asking, answering) in enumerate(links, start=1):
        add_sources(asking, source)
        if group != LINK_LOCAL:
            prefix = "fd09::/64" if ":" in group else "10.9.0.0/24"
            answering.host.run("ip", "route", "add", prefix, "dev", answering.interface, "metric", str(number))
    with (
        receiver(b0, feed(group, b0), feed(group, b1)) as rx,
        sender(a0, feed(group, a0, source=source)) as left,
        sender(a1, feed(group, a1, source=source)) as right,
    ):
        arrived = [end.count(source, hook="ingress") for end in (a0, a1)]
        left.send(b"left")
        right.send(b"right")
        questions = {question.data: question for question in receive(rx, 2)}
        for text, end in ((b"left", b0), (b"right", b1)):
            zone = f"%{end.interface}" if group == LINK_LOCAL else ""
            assert (questions[text].source, questions[text].interface) == (source + zone, end.interface)
            rx.reply(questions[text], b"to the " + text)
        for tx, text in ((left, b"to the left"), (right, b"to the right")):
            assert tx.recv().data == text
            with pytest.raises(TimeoutError):
                tx.recv(timeout=0)
        assert [counter.packets for counter in arrived] == [1, 1]


# ---- loss -----------------------------------------------------------------------------------------------------------


def receive_slowly(rx: mcast.Receiver, *programs: lab.Program) -> "list[Packet]":
    """A few packets, then none until the kernel has dropped some more: gaps all along, while the senders run."""
    packets: list[Packet] = []
    running = True
    while running:
        with suppress(TimeoutError):
            packets += rx.recv_batch(max_packets=20, timeout=0)
        dropped = rx.stats.dropped_socket
        while running and rx.stats.dropped_socket == dropped:
            running = any(program.process.poll() is None for program in programs)
    finish(*programs)
    return packets


@pytest.mark.parametrize("segments", [1, 30])
@pytest.mark.parametrize("group", ASM)
def test_every_loss_is_counted_and_in_its_place(ends: Ends, group: str, segments: int) -> None:
    """A small buffer and a sender at full speed, of single packets: also of a GSO sender's, cut apart."""
    a, b = ends
    a.single_packets()
    arrived = b.count(group, PORT, hook="ingress")
    with receiver(b, feed(group, b), buffer_size="16KiB") as rx:
        packets = receive_slowly(rx, a.blast(group, PORT, count=30_000, segments=segments))
        packets += settle(rx, 30_000)
        received, filtered, dropped = ledger(rx)
        assert (received + dropped, filtered, received) == (arrived.packets, 0, len(packets))
        assert rx.stats.dropped == dropped
        found = numbers(packets)
        assert sum(packet.dropped for packet in packets) == dropped - (29_999 - found[-1])
    assert arrived.packets == 30_000
    gaps = [number - before - 1 for before, number in zip([-1, *found], found, strict=False)]
    assert [packet.dropped for packet in packets] == gaps
    assert len([gap for gap in gaps if gap]) > 3, "the loss came in one piece: nothing was tried"
    assert rx.stats.dropped_socket == dropped, "a closed receiver keeps its last count"


@pytest.mark.parametrize("lacking", [MEMBERSHIP], indirect=True, ids="-".join)
@pytest.mark.parametrize("family", [4, 6])
def test_losses_told_with_filtered_packets_are_handed_on(ends: Ends, family: int, lacking: tuple[str, ...]) -> None:
    a, b = ends
    ours, second = ASM[family == 6], "239.1.1.2" if family == 4 else "ff15::2"
    other = OTHERS[family][0]
    arrived = b.count(port=PORT, hook="ingress")
    b.join(other, port=PORT)
    with receiver(b, feed(ours, b), feed(second, b), buffer_size="16KiB") as rx:
        senders = [a.blast(group, PORT, count=15_000) for group in (ours, other)]
        packets = receive_slowly(rx, *senders)
        packets += settle(rx, 30_000)
        a.blast(ours, PORT, count=1).finish()
        packets += receive(rx, 1)  # the kernel tells a loss with the packet after it
        received, filtered, dropped = ledger(rx)
    assert arrived.packets == 30_001 == received + filtered + dropped
    assert received == len(packets)
    assert min(filtered, dropped) > 0
    assert {packet.group for packet in packets} == {ours}
    assert sum(packet.dropped for packet in packets) == dropped


@pytest.mark.parametrize("group", ASM)
def test_what_the_network_loses_is_no_drop_of_ours(ends: Ends, group: str) -> None:
    a, b = ends
    arrived, lost = b.count(group, PORT, hook="ingress"), b.drop_every(10, group)
    with receiver(b, feed(group, b)) as rx:
        a.blast(group, PORT, count=1_000).finish()
        packets = receive(rx, 900)
        assert numbers(packets) == [number for number in range(1_000) if number % 10 != 9]
        assert ledger(rx) == (900, 0, 0)
    assert (arrived.packets, lost.packets) == (1_000, 100)
    assert not any(packet.dropped for packet in packets)


@pytest.mark.parametrize("lacking", [MEMBERSHIP], indirect=True, ids="-".join)
@pytest.mark.parametrize("group", ASM)
def test_a_flood_of_what_is_not_wanted_holds_nobody_up(ends: Ends, group: str, lacking: tuple[str, ...]) -> None:
    """Filtered packets that come faster than they are read: a timeout, the counters and close() still answer."""
    a, b = ends
    a.single_packets()
    other = OTHERS[version(group)][0]
    b.join(other, port=PORT)
    second = OTHERS[version(group)][1]
    rx = receiver(b, feed(group, b), feed(second, b))
    flood = a.blast(other, PORT, count=1_500_000, segments=60)
    woken = threading.Event()

    def wait_for_ever() -> None:
        with pytest.raises(mcast.ClosedError):
            rx.recv_batch(timeout=None)
        woken.set()

    with rx:
        while rx.stats.dropped_socket == 0:
            assert flood.process.poll() is None
        with pytest.raises(TimeoutError):
            rx.recv_batch(timeout=0.2)
        waiter = threading.Thread(target=wait_for_ever)
        waiter.start()
        filtered = rx.stats.filtered
        while rx.stats.filtered == filtered:
            assert flood.process.poll() is None
        rx.close()
        waiter.join()
        assert woken.is_set()
    assert flood.process.poll() is None, "the flood was over first: nothing was tried"
    flood.stop()


# ---- threads and users ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", [*ASM, LINK_LOCAL])
def test_a_thread_of_another_namespace_receives(ends: Ends, group: str) -> None:
    """Names were looked up at the opening: on the reader's host the interface has another name, or none."""
    a, b = ends
    found: list[object] = []
    rx = receiver(b, feed(group, b))
    tx = sender(a, feed(group, a))

    def read() -> None:
        with a.host.enter():
            packets = receive(rx, 51)
            rx.reply(packets[-1], b"thanks")
            found.extend([seen(packets), ledger(rx)])
            rx.close()
            found.append(rx.stats.received)

    reader = threading.Thread(target=read)
    with rx, tx:
        reader.start()
        tx.send_batch([b"x"] * 50)
        tx.send(b"last")
        answer = tx.recv()
        reader.join(10)
    local = group == LINK_LOCAL
    source = f"{a.link_local}%{b.interface}" if local else a.address(group)
    assert found == [{(group, b.interface, source): 51}, (51, 0, 0), 51]
    assert answer.source == (f"{b.link_local}%{a.interface}" if local else b.address(group))


# Imports come first, and names are looked up once: an interpreter below /root is closed to a plain user.
UNPRIVILEGED = """
import os, sys
import mcast_fast as mcast
backend, count, *feeds = sys.argv[1:]
assert mcast.backend == backend, mcast.backend
mcast.interfaces()
mcast.Receiver  # names are imported when they are first used, and Python may lie where another user cannot read
os.setgroups([])
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
capabilities = [line for line in open("/proc/thread-self/status") if line.startswith("CapEff")]
assert int(capabilities[0].split()[1], 16) == 0, capabilities
with mcast.Receiver(*feeds, timeout=5, buffer_size="200KiB") as rx:  # below rmem_max, so without a warning
    print("ready", flush=True)
    packets = rx.collect(int(count))
    rx.reply(packets[-1], b"thanks")
    more = len(rx.collect(1_000, timeout=0))
    print("received", len(packets), more, rx.stats.filtered, rx.stats.dropped_socket, flush=True)
    print(*sorted({f"{packet.group}%{packet.interface}" for packet in packets}), flush=True)
"""


def test_a_plain_user_needs_no_privilege(ends: Ends, backend: str) -> None:
    a, b = ends
    groups = ("239.1.1.1", "239.1.1.2", "ff15::1", LINK_LOCAL)
    ssm, (source, *_) = SSM[0]
    add_sources(a, source)
    feeds = [*(feed(group, b) for group in groups), feed(ssm, b, source=source)]
    child = b.host.spawn(
        [sys.executable, "-W", "error", "-c", UNPRIVILEGED, backend, "501", *feeds],
        env=os.environ | {"MCAST_FAST_BACKEND": backend},
    )
    child.expect("ready")
    finish(*(a.blast(group, PORT, count=100) for group in groups), a.blast(ssm, PORT, count=100, source=source))
    with sender(a, feed("ff15::1", a)) as tx:
        tx.send(b"last")
        assert tx.recv().data == b"thanks"
    printed = child.finish()
    assert "received 501 0 0 0" in printed
    assert " ".join(sorted(f"{group}%{b.interface}" for group in (*groups, ssm))) in printed
