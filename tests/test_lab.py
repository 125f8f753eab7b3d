"""The lab keeps its promises: what it makes it removes, and what it counts is what a plain socket gets."""

import os
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests import lab

pytestmark = pytest.mark.lab

SO_RCVBUFFORCE = 33
IP_MULTICAST_ALL, IPV6_MULTICAST_ALL = (socket.IPPROTO_IP, 49), (socket.IPPROTO_IPV6, 29)
PORT = 5000
GROUPS = ("239.1.1.1", "ff15::1")
SOURCE_SPECIFIC = (("232.1.1.1", "10.9.0.7", "10.9.0.8"), ("ff35::1", "fd09::7", "fd09::8"))


def namespaces() -> set[str]:
    return {path.name for path in lab.NAMESPACES.glob(f"{lab.PREFIX}.{os.getpid()}.*")}


def current_namespace() -> str:
    return str(Path("/proc/thread-self/ns/net").readlink())


def udp(group: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in group else socket.AF_INET, socket.SOCK_DGRAM)


def receiver(end: lab.End, group: str, source: str | None = None) -> closing[socket.socket]:
    with end.host.enter():
        sock = udp(group)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 16 << 20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(*(IPV6_MULTICAST_ALL if ":" in group else IP_MULTICAST_ALL), 0)
        sock.bind((group, PORT))
        lab.join(sock, group, end.interface, source)
    return closing(sock)


def receive(sock: socket.socket, count: int) -> list[bytes]:
    """Wait for so many datagrams, and take what more there is: all, if some are missing or too many."""
    sock.settimeout(5)
    received = []
    with suppress(TimeoutError, BlockingIOError):
        while True:
            if len(received) == count:
                sock.setblocking(False)
            received.append(sock.recv(65_536))
    return received


def numbers(received: list[bytes]) -> list[int]:
    return [int.from_bytes(data[:8]) for data in received]


@pytest.fixture(scope="module")
def ends() -> Iterator[tuple[lab.End, lab.End]]:
    with lab.Lab() as made:
        yield made.link("a", "b")


@pytest.mark.parametrize("error", [None, RuntimeError])
def test_everything_is_removed(error: type[Exception] | None) -> None:
    before = namespaces()
    with suppress(RuntimeError), lab.Lab() as made:
        _, b = made.link("a", "b")
        listening = b.tcpdump("udp")
        joined = b.join(*GROUPS, port=PORT)
        assert len(namespaces() - before) == 2
        if error:
            raise error
    assert namespaces() == before
    assert listening.process.returncode is not None
    assert joined.process.returncode is not None


def test_a_setup_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    before = namespaces()
    monkeypatch.setattr(lab, "SYSCTLS", {"net.ipv6.conf.nothing.here": 0})
    with pytest.raises(FileNotFoundError), lab.Lab():
        pass
    assert namespaces() == before


def test_what_a_dead_run_left_is_removed() -> None:
    with subprocess.Popen(["true"]) as dead:
        pass
    stale = f"{lab.PREFIX}.{dead.pid}.abcdef.a"
    lab.run("ip", "netns", "add", stale)
    orphan = lab.Program(["ip", "netns", "exec", stale, "sh", "-c", "echo ready; exec sleep 60"])
    orphan.expect("ready")
    lab.remove_stale()
    assert not (lab.NAMESPACES / stale).exists()
    with pytest.raises(lab.LabError, match="exit -9"):
        orphan.finish(timeout=5)


def test_enter_nests_and_returns(ends: tuple[lab.End, lab.End]) -> None:
    a, b = (end.host for end in ends)
    outside = current_namespace()
    with a.enter():
        in_a = current_namespace()
        with suppress(RuntimeError), b.enter():
            in_b = current_namespace()
            raise RuntimeError
        assert in_b not in {outside, in_a}
        assert current_namespace() == in_a != outside
    assert current_namespace() == outside


def test_enter_moves_only_the_thread_that_calls(ends: tuple[lab.End, lab.End]) -> None:
    a, _ = ends
    seen = []
    entered, looked = threading.Event(), threading.Event()

    def visit() -> None:
        seen.append(current_namespace())
        with a.host.enter():
            seen.append(current_namespace())
            entered.set()
            looked.wait(5)
        seen.append(current_namespace())

    outside = current_namespace()
    thread = threading.Thread(target=visit)
    thread.start()
    assert entered.wait(5)
    assert current_namespace() == outside
    looked.set()
    thread.join(5)
    assert seen[0] == seen[2] == outside != seen[1]


def test_a_socket_stays_where_it_was_opened(ends: tuple[lab.End, lab.End]) -> None:
    a, b = ends
    with b.host.enter():
        listener = udp(b.ipv4)
    with a.host.enter():
        sender = udp(a.ipv4)
    with listener, sender:
        listener.settimeout(5)
        listener.bind((b.ipv4, 0))
        sender.sendto(b"hello", listener.getsockname())
        assert listener.recvfrom(100)[1][0] == a.ipv4


def test_unicast_reaches_every_address_at_once() -> None:
    with lab.Lab() as made:
        a, b = made.link("a", "b")
        for address in (b.ipv4, b.ipv6, b.link_local):
            with b.host.enter(), udp(address) as listener, a.host.enter(), udp(address) as sender:
                listener.settimeout(5)
                listener.bind((address, PORT, 0, b.index) if ":" in address else (address, PORT))
                sender.sendto(b"hello", (address, PORT, 0, a.index) if ":" in address else (address, PORT))
                assert listener.recv(100) == b"hello"


def test_a_link_goes_down_and_up_and_is_made_anew() -> None:
    with lab.Lab() as made:
        a, b = made.link("a", "b")
        a.host.run("ip", "link", "set", a.interface, "down")
        a.host.run("ip", "link", "set", a.interface, "up")
        for end in (a, b):
            end.wait_usable()
        assert a.ipv6 in a.host.run("ip", "address", "show", a.interface)
        a.host.run("ip", "link", "del", a.interface)
        again = made.link("a", "b", number=0)
        assert again == (a, b)
        for group in GROUPS:
            with receiver(b, group) as sock:
                a.blast(group, PORT, count=10).finish()
                assert numbers(receive(sock, 10)) == list(range(10))


@pytest.mark.parametrize("group", GROUPS)
def test_two_links_are_two_ways(group: str) -> None:
    with lab.Lab() as made:
        left = made.link("a", "b")
        right = made.link("a", "b", names=("feed", "feed"))
        counters = [end.count(group, PORT, hook="ingress") for end in (left[1], right[1])]
        left[1].join(group, port=PORT)
        with receiver(right[1], group) as sock:
            left[0].blast(group, PORT, count=5).finish()
            right[0].blast(group, PORT, count=7).finish()
            # To IPv6 a membership holds for every interface that anyone joined on (facts.md, "Joining").
            expected = 12 if ":" in group else 7
            assert len(receive(sock, expected)) == expected
        assert [counter.packets for counter in counters] == [5, 7]


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("program", ["blast", "iperf", "socat"])
def test_counted_is_what_a_plain_socket_gets(ends: tuple[lab.End, lab.End], program: str, group: str) -> None:
    a, b = ends
    left, arrived = a.count(group, PORT), b.count(group, PORT, hook="ingress")
    with receiver(b, group) as sock:
        getattr(a, program)(group, PORT, count=1_000).finish()
        received = receive(sock, left.packets)
    assert len(received) == left.packets == arrived.packets == (1_001 if program == "iperf" else 1_000)
    headers = len(received) * (48 if ":" in group else 28)
    assert sum(map(len, received)) + headers == left.bytes == arrived.bytes


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("program", ["blast", "iperf", "socat"])
def test_ttl_and_source(ends: tuple[lab.End, lab.End], program: str, group: str) -> None:
    a, b = ends
    source = "fd09::9" if ":" in group else "10.9.1.9"
    a.host.add_address(a.interface, f"{source}/{64 if ':' in group else 24}")
    with_ttl = "hlim 7," if ":" in group else "ttl 7,"
    seen = b.tcpdump("-v", "-c", "1", f"udp and dst {group} and src {source}")
    getattr(a, program)(group, PORT, count=1, ttl=7, source=source).finish()
    assert with_ttl in seen.finish(5)


@pytest.mark.parametrize("group", GROUPS)
def test_gso_segments_arrive_as_single_packets(group: str) -> None:
    with lab.Lab() as made:
        a, b = made.link("a", "b")
        a.single_packets()
        left, arrived = a.count(group, PORT), b.count(group, PORT, hook="ingress")
        before = a.counters["tx"]["packets"]
        with receiver(b, group) as sock:
            a.blast(group, PORT, count=1_000, segments=30).finish()
            received = receive(sock, 1_000)
        assert numbers(received) == list(range(1_000))
        assert arrived.packets == 1_000
        assert a.counters["tx"]["packets"] >= before + 1_000
        assert left.packets == 34, "the egress hook is before the segmentation"


@pytest.mark.parametrize("group", GROUPS)
def test_fragments_count_once_at_the_sender(ends: tuple[lab.End, lab.End], group: str) -> None:
    a, b = ends
    left = a.count(group, PORT)
    with receiver(b, group) as sock:
        a.blast(group, PORT, count=10, size=4_000).finish()
        assert list(map(len, receive(sock, 10))) == [4_000] * left.packets == [4_000] * 10


@pytest.mark.parametrize("group", GROUPS)
def test_every_nth_datagram_is_dropped(group: str) -> None:
    with lab.Lab() as made:
        a, b = made.link("a", "b")
        arrived, dropped = b.count(hook="ingress"), b.drop_every(10, group)
        with receiver(b, group) as sock:
            a.blast(group, PORT, count=1_000).finish()
            received = numbers(receive(sock, 900))
        assert received == [number for number in range(1_000) if number % 10 != 9]
        assert (arrived.packets, dropped.packets) == (1_000, 100)


@pytest.mark.parametrize(("group", "wanted", "other"), SOURCE_SPECIFIC)
def test_many_sources(group: str, wanted: str, other: str, ends: tuple[lab.End, lab.End]) -> None:
    a, b = ends
    for source in (wanted, other):
        a.host.add_address(a.interface, f"{source}/{64 if ':' in group else 24}")
    from_wanted, from_other = (a.count(group, PORT, source) for source in (wanted, other))
    with receiver(b, group, wanted) as sock:
        a.blast(group, PORT, count=100, source=wanted).finish()
        a.blast(group, PORT, count=50, source=other).finish()
        assert len(receive(sock, 100)) == 100
    assert (from_wanted.packets, from_other.packets) == (100, 50)


@pytest.mark.parametrize("group", GROUPS)
def test_another_process_that_joins_reaches_a_socket_bound_to_any(ends: tuple[lab.End, lab.End], group: str) -> None:
    a, b = ends
    other = "ff15::2" if ":" in group else "239.1.1.2"
    with b.host.enter(), udp(group) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("", PORT))
        lab.join(sock, group, b.interface)
        joined = b.join(other, port=PORT)
        a.blast(other, PORT, count=10).finish()
        assert len(receive(sock, 10)) == 10
        joined.stop()


def test_tcpdump_writes_what_passed(ends: tuple[lab.End, lab.End], tmp_path: Path) -> None:
    a, b = ends
    capture = b.tcpdump("-w", str(tmp_path / "seen.pcap"), "-c", "20", f"udp port {PORT}")
    a.blast(GROUPS[0], PORT, count=20, rate=1_000).finish()
    assert "20 packets captured" in capture.finish(5)
    assert len(lab.run("tcpdump", "-n", "-r", str(tmp_path / "seen.pcap")).splitlines()) == 20


def test_failures_tell_what_the_program_said(ends: tuple[lab.End, lab.End]) -> None:
    a, _ = ends
    with pytest.raises(lab.LabError, match=r"exit 1: .*nowhere"):
        a.host.run("ip", "link", "show", "nowhere")
    with pytest.raises(lab.LabError, match=r"(?s)exit 3: .*bad"):
        a.host.spawn(["sh", "-c", "echo bad; exit 3"]).finish(5)
    with pytest.raises(lab.LabError, match=r"(?s)no line like 'good'.*bad"):
        a.host.spawn(["sh", "-c", "echo bad"]).expect("good")
    with pytest.raises(lab.LabError, match=r"not done after 0\.1 s"):
        a.host.spawn(["sleep", "60"]).finish(0.1)
