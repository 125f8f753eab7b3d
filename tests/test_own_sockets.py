"""Receiver.send: from the receiver's own socket and port; and own_packets=False, which refuses what came from there."""

import asyncio
import errno
import socket
import threading

import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, ClosedError, GroupError, InterfaceError, SendError, aio
from mcast_fast._core.addresses import map_address
from mcast_fast._membership.own_addresses import own_addresses
from tests import lab
from tests.conftest import free_port, loopback, multicast_ipv6, place_of, until

UDP_SEGMENT = 103
HOST = {4: "127.0.0.1", 6: "::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture
def group(place):
    return place.group()


@pytest.fixture
def rx(backend, group):
    with mcast.Receiver(group, ttl=0, timeout=5) as receiver:
        yield receiver


@pytest.fixture
def peer(backend, group):
    with mcast.Receiver(group, timeout=5) as receiver:
        yield receiver


@pytest.fixture
def two_interfaces(backend):
    """The names of two interfaces that loop IPv4 multicast back."""
    other = multicast_ipv6()
    if other is None:
        pytest.skip("feature IPv6 multicast: no second interface is up and multicast-capable")
    return loopback(), other.name


def port_of(group):
    return mcast.Group.parse(group).port


# ---- to a group ----


def test_what_is_sent_comes_from_the_port_of_the_group(rx, peer, group):
    assert rx.send(group, b"there") == 1
    packet = peer.recv()
    assert (packet.data, packet.source_port, packet.port) == (b"there", port_of(group), port_of(group))
    assert packet.interface == mcast.Group.parse(group).interface
    assert rx.recv().data == b"there"


def test_the_source_is_an_address_of_the_interface(rx, peer, group):
    rx.send(group, b"there")
    packet = peer.recv()
    (interface,) = (one for one in mcast.interfaces() if one.name == packet.interface)
    assert packet.source.partition("%")[0] in interface.addresses


def test_a_group_as_the_receiver_knows_it(rx, peer, group, place):
    """Its port and interface need not be named; nor need it be joined."""
    address = mcast.Group.parse(group).address
    assert rx.send(address, b"text") == 1
    assert rx.send(mcast.Group(address), b"Group") == 1
    with mcast.Receiver(place.group(7, port_of(group)), timeout=5) as other:
        assert rx.send(mcast.Group.parse(place.group(7)).address, b"another") == 1
        assert other.recv().data == b"another"
    assert [peer.recv().data for _ in range(2)] == [b"text", b"Group"]


def test_a_run_of_groups(rx, group, place):
    texts = [place.group(number, port_of(group)) for number in (7, 8, 9)]
    with mcast.Receiver(texts, timeout=5) as other:
        assert rx.send(f"{texts[0]}+3", b"all") == 3
        assert len(other.collect(3)) == 3


def test_another_port_gets_it_from_the_only_port_there_is(rx, group, place):
    with mcast.Receiver(other := place.group(7), timeout=5) as elsewhere:
        assert rx.send(other, b"there") == 1
        assert elsewhere.recv().source_port == port_of(group)


def test_of_several_ports_the_one_that_is_sent_to(backend, place):
    first, second = place.group(1), place.group(2)
    with mcast.Receiver(first, second, ttl=0, timeout=5) as rx:
        for text in (first, second):
            assert rx.send(text, b"there") == 1
            assert rx.recv().source_port == port_of(text)
        with pytest.raises(ArgumentError, match=rf"has the ports {port_of(first)}, {port_of(second)}, and none"):
            rx.send(place.group(3), b"there")
        with pytest.raises(GroupError, match="has no port"):
            rx.send(mcast.Group.parse(first).address, b"there")


@pytest.mark.needs("destination")
def test_one_leaves_by_each_interface_that_the_group_is_on(two_interfaces):
    port = free_port()
    first, second = (f"239.1.1.1%{name}:{port}" for name in two_interfaces)
    with mcast.Receiver(first, second, f"239.1.1.2%{two_interfaces[1]}:{port}", ttl=0, timeout=5) as rx:
        for target, interfaces in (
            ("239.1.1.1", set(two_interfaces)),
            ("239.1.1.2", {two_interfaces[1]}),
            (first, {two_interfaces[0]}),
            (second, {two_interfaces[1]}),
        ):
            assert rx.send(target, b"there") == len(interfaces)
            assert {rx.recv().interface for _ in interfaces} == interfaces
        assert rx.send("239.1.1.3", b"joined nowhere") == 2


@pytest.mark.needs("destination")
def test_the_interface_of_the_receiver_goes_before_those_that_the_group_is_on(two_interfaces):
    port = free_port()
    texts = [f"239.1.1.1%{name}:{port}" for name in two_interfaces]
    with mcast.Receiver(texts, interface=two_interfaces[0], ttl=0, timeout=5) as rx:
        assert rx.send("239.1.1.1", b"there") == 1
        assert rx.recv().interface == two_interfaces[0]
        index = socket.if_nametoindex(two_interfaces[1])
        assert rx.send(f"239.1.1.1%{index}:{port}", b"there") == 1
        assert rx.recv().interface == two_interfaces[1]


@pytest.mark.needs("receive_ttl")
@pytest.mark.parametrize("ttl", [0, 1, 255])
def test_the_ttl_is_in_the_packet(backend, group, ttl):
    with mcast.Receiver(group, recv_ttl=True, timeout=5, **({} if ttl == 1 else {"ttl": ttl})) as rx:
        for _ in range(2):
            rx.send(group, b"there")
            assert rx.recv().ttl == ttl


def test_without_loopback_this_machine_does_not_get_it(backend, peer, group, place):
    if place.interface == loopback():
        pytest.skip("feature loopback: what is sent by `lo` arrives at `lo`, whatever IP_MULTICAST_LOOP says")
    with mcast.Receiver(group, loopback=False, timeout=5) as silent, mcast.Sender(group, ttl=0) as tx:
        silent.send(group, b"not delivered")
        tx.send(b"delivered")
        assert peer.recv().data == b"delivered"


@pytest.mark.parametrize("payload", [b"", bytearray(b"ab"), memoryview(b"abc"), b"x" * 60_000])
def test_any_bytes_are_sent(rx, peer, group, payload):
    assert rx.send(group, payload) == 1
    assert peer.recv().data == bytes(payload)


def test_groups_that_are_joined_later_are_sent_to(rx, group, place):
    """Also by sockets that were opened for them."""
    texts = [place.group(number, port_of(group)) for number in range(2, 40)]
    for text in texts:
        rx.join(text)
    assert sum(rx.send(text, b"there") for text in texts) == 38
    assert len(rx.collect(38)) == 38
    with mcast.Receiver(place.group(60, other := free_port()), ttl=0, timeout=5) as moved:
        moved.join(place.group(61, other))
        moved.leave(place.group(60, other))
        assert moved.send(mcast.Group.parse(place.group(61)).address, b"there") == 1
        assert moved.recv().data == b"there"


# ---- to a host ----


def test_a_host_gets_it_from_the_port_of_the_group(backend):
    port = free_port()
    with (
        mcast.Receiver(f"239.1.1.1%{loopback()}:{port}", ttl=0) as rx,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host,
    ):
        host.bind((HOST[4], 0))
        host.settimeout(5)
        for target in (f"127.0.0.1:{host.getsockname()[1]}", host.getsockname()):
            assert rx.send(target, b"there") == 1
            assert host.recvfrom(100) == (b"there", ("127.0.0.1", port))


def test_an_answer_may_be_sent_without_the_packet(backend, group, peer):
    """From another receiver of the same port: by text, with the zone of a link-local address, or as socket has it."""
    with mcast.Sender(group, ttl=0, timeout=5) as tx:
        tx.send(b"question")
        packet = peer.recv()
        host = f"[{packet.source}]" if ":" in packet.source else packet.source
        assert peer.send(f"{host}:{packet.source_port}", b"one") == 1
        assert peer.send(packet.source_address, b"two") == 1
        answers = [tx.recv() for _ in range(2)]
    assert [answer.data for answer in answers] == [b"one", b"two"]
    assert {answer.source_port for answer in answers} == {port_of(group)}


# ---- what cannot be sent ----

REFUSED = {
    "a source": ("10.0.0.1@239.1.1.1", ArgumentError, "leave out 10.0.0.1@"),
    "another interface": ("239.1.1.1%nope0", InterfaceError, "nope0"),
    "the other family": ("ff15::1", ArgumentError, "has no IPv6 socket to send by; join a group there first"),
    "a zone of the other family": ("fe80::1%LO", ArgumentError, "has no IPv6 socket on"),
    "no zone": ("fe80::1", GroupError, "needs its zone"),
    "no address": ("host.example", GroupError, "names are not looked up"),
    "bytes": (b"payload", GroupError, "not text"),
    "the broadcast address": ("255.255.255.255", GroupError, "broadcast"),
}


@pytest.mark.parametrize(("target", "kind", "said"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_be_sent_to_is_an_error_of_ours(backend, target, kind, said):
    with mcast.Receiver(f"239.1.1.1%{loopback()}:{free_port()}") as rx, pytest.raises(kind) as caught:
        rx.send(target.replace("LO", loopback()) if isinstance(target, str) else target, b"x")
    assert said in str(caught.value)


def test_an_interface_that_the_receiver_has_no_socket_on(two_interfaces):
    first, second = two_interfaces
    said = f"no IPv4 socket on {second} to send by"
    with mcast.Receiver(f"239.1.1.1%{first}:{free_port()}") as rx, pytest.raises(ArgumentError, match=said):
        rx.send(f"239.1.1.1%{second}", b"x")


def test_what_is_too_large_is_an_error_of_ours(rx, group):
    with pytest.raises(SendError, match=r"send 70000 bytes to .* port \d+ on ") as caught:
        rx.send(group, bytes(70_000))
    assert (caught.value.errno, caught.value.sent) == (errno.EMSGSIZE, 0)


def test_a_ttl_out_of_range_opens_nothing(backend, group, no_leak):
    with pytest.raises(ArgumentError, match="ttl"):
        mcast.Receiver(group, ttl=256)


def test_a_closed_receiver_sends_nothing(rx, group):
    rx.close()
    with pytest.raises(ClosedError, match="receiver is closed"):
        rx.send(group, b"x")


def test_threads_send_by_one_receiver(rx, peer, group):
    threads = [threading.Thread(target=lambda: [rx.send(group, b"x") for _ in range(25)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(peer.collect(100)) == 100


def test_asyncio_sends_too(backend, group):
    async def main():
        async with aio.Receiver(group, ttl=0, own_packets=False, timeout=5) as rx, aio.Sender(group, ttl=0) as tx:
            assert rx.send(group, b"own") == 1
            await tx.send(b"another's")
            assert (await rx.recv()).data == b"another's"
            assert rx.stats.filtered == 1

    asyncio.run(main())


# ---- own packets ----

PATHS = {"socket": {}, "coalesced": {"timestamps": None}, "background": {"background": "1MiB"}}


@pytest.fixture(params=PATHS.values(), ids=PATHS.keys())
def own(request, backend, group):
    """A receiver that refuses its own packets, one that does not, and one that sends what both want."""
    if "background" in request.param and not mcast._core.features()["background"]:
        pytest.skip("feature background: this backend has none")
    with (
        mcast.Receiver(group, ttl=0, own_packets=False, timeout=5, **request.param) as rx,
        mcast.Receiver(group, timeout=5) as peer,
        mcast.Sender(group, ttl=0) as tx,
    ):
        yield rx, peer, tx


def test_own_packets_are_not_delivered_and_count_as_filtered(own, group):
    rx, peer, tx = own
    for number in range(10):
        rx.send(group, b"own")
        tx.send(b"%d" % number)
    assert rx.collect(10).payloads() == [b"%d" % number for number in range(10)]
    assert len(peer.collect(20)) == 20
    assert (rx.stats.received, rx.stats.filtered, rx.stats.bytes) == (10, 10, 10)
    assert (peer.stats.received, peer.stats.filtered) == (20, 0)


@pytest.mark.needs("receive_coalescing")
def test_segments_of_a_super_packet_count_one_by_one(backend):
    """From another program that shares the port, udp(7)."""
    port = free_port()
    with (
        mcast.Receiver(group := f"239.1.1.1%lo:{port}", own_packets=False, timestamps=None, timeout=5) as rx,
        mcast.Sender(group, ttl=0) as other,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
    ):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plain.bind(("127.0.0.1", port))
        plain.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        plain.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, 100)
        plain.sendto(bytes(1950), ("239.1.1.1", port))
        other.send(b"other")
        assert rx.recv().data == b"other"
        assert (rx.stats.received, rx.stats.filtered) == (1, 20)


def test_by_default_own_packets_are_delivered(rx, group):
    rx.send(group, b"own")
    assert rx.recv().data == b"own"
    assert rx.stats.filtered == 0


def test_what_is_unread_is_filtered_when_the_addresses_change(backend, group):
    """As other filters; and delivered again when they change back."""
    with mcast.Receiver(group, ttl=0, own_packets=False, timeout=5) as rx:
        rx._slots.refuse_own([])
        for payload in (b"one", b"two", b"three"):
            rx.send(group, payload)
        assert rx.recv().data == b"one"
        rx._slots.refuse_own(own_addresses())
        with pytest.raises(TimeoutError):
            rx.recv(timeout=0)
        assert (rx.stats.received, rx.stats.filtered) == (1, 2)
        rx._slots.refuse_own([])
        rx.send(group, b"four")
        assert rx.recv().data == b"four"


def test_only_what_has_address_interface_and_port_is_refused(backend, place, group):
    """A link-local address may be another host's on another link; and one host has many ports."""
    source = own_source(group)
    index = socket.if_nametoindex(place.interface)
    refused = {
        "on this interface": ([(source, index)], True),
        "on any": ([(source, 0)], True),
        "among many": ([(bytes([*bytes(15), number]), 0) for number in range(2, 200)] + [(source, 0)], True),
        "on another interface": ([(source, index + 1)], False),
        "another address": ([(bytes(16), 0)], False),
        "none": ([], False),
    }
    with mcast.Receiver(group, ttl=0, timeout=5) as rx, mcast.Sender(group, ttl=0) as tx:
        for name, (addresses, is_refused) in refused.items():
            rx._slots.refuse_own(addresses)
            before = rx.stats
            rx.send(group, b"own")
            tx.send(b"another port")
            assert [one.data for one in rx.packets(count=1 if is_refused else 2)][-1] == b"another port", name
            assert (rx.stats - before).filtered == is_refused, name


def own_source(group):
    """The packed source of what a receiver sends here."""
    with mcast.Receiver(group, ttl=0, timeout=5) as rx:
        rx.send(group, b"x")
        return map_address(rx.recv().source)


def test_addresses_are_packed(backend, rx):
    with pytest.raises(ValueError, match="16 bytes"):
        rx._slots.refuse_own([(b"\x7f\0\0\1", 0)])
    rx.close()
    with pytest.raises(ClosedError):
        rx._slots.refuse_own([(bytes(16), 0)])


def test_own_addresses_are_those_of_the_machine():
    found = own_addresses()
    assert (map_address("127.0.0.1"), 0) in found
    assert all((index != 0) == (packed[:2] == b"\xfe\x80") for packed, index in found)
    place = place_of(6)
    assert any(index == socket.if_nametoindex(place.interface) for _, index in found)


# ---- between hosts ----

PORT = 5000


@pytest.fixture
def ends():
    with lab.Lab() as made:
        yield made.link("a", "b")


def receiver(end, *addresses, **options):
    with end.host.enter():
        texts = [
            f"[{one}%{end.interface}]:{PORT}" if ":" in one else f"{one}%{end.interface}:{PORT}" for one in addresses
        ]
        return mcast.Receiver(texts, **{"timeout": 5} | options)


@pytest.mark.lab
@pytest.mark.parametrize("address", ["239.1.1.1", "ff15::1", "ff02::1:5"])
@pytest.mark.parametrize("ring", [None, "1MiB"])
def test_two_hosts_talk_on_one_port(backend, ends, address, ring):
    """Used from outside of their namespaces; each gets what the other one sends, and not its own."""
    if ring and not mcast._core.features()["ring"]:
        pytest.skip("feature ring: this backend has none")
    a, b = ends
    options = {"own_packets": False, "ring": ring}
    with receiver(a, address, **options) as left, receiver(b, address, **options) as right:
        for number in range(5):
            for one, other, end in ((left, right, a), (right, left, b)):
                assert send(one, address, b"%d" % number, end if ring else None) == 1
                packet = other.recv()
                assert (packet.data, packet.source_port) == (b"%d" % number, PORT)
                used = end.link_local if address.startswith("ff02") else end.address(address)
                assert packet.source.partition("%")[0] == used
        for one in (left, right):
            with pytest.raises(TimeoutError):
                one.recv(timeout=0.05)
            assert one.stats.received == 5
            assert ring or one.stats.filtered == 5


def send(rx, address, payload, end):
    """By the socket that a ring has beside it, which is opened in the thread's own network namespace."""
    if end is None:
        return rx.send(address, payload)
    with end.host.enter():
        return rx.send(address, payload)


@pytest.mark.lab
def test_a_host_is_reached_by_the_interface_of_its_route(backend):
    with lab.Lab() as made:
        first, second = made.link("a", "b"), made.link("a", "b")
        with first[0].host.enter():
            texts = [f"239.1.1.1%{end.interface}:{PORT}" for end, _ in (first, second)]
            rx = mcast.Receiver(texts, timeout=5)
        with rx:
            for end, there in (first, second):
                with there.host.enter(), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
                    host.bind((there.ipv4, 0))
                    host.settimeout(5)
                    with end.host.enter():
                        assert rx.send(f"{there.ipv4}:{host.getsockname()[1]}", b"there") == 1
                    assert host.recvfrom(100) == (b"there", (end.ipv4, PORT))


@pytest.mark.lab
def test_an_interface_that_is_gone_keeps_the_datagram_from_no_other(backend):
    with lab.Lab() as made:
        (gone, _), (end, there) = made.link("a", "b"), made.link("a", "b")
        with end.host.enter():
            rx = mcast.Receiver([f"239.1.1.1%{one.interface}:{PORT}" for one in (gone, end)], timeout=5)
        with rx, receiver(there, "239.1.1.1") as other:
            end.host.run("ip", "link", "del", gone.interface)
            with pytest.raises(SendError, match=f"to 239.1.1.1 port {PORT} on {gone.interface}: ") as caught:
                rx.send("239.1.1.1", b"there")
            assert caught.value.sent == 1
            assert other.recv().data == b"there"


@pytest.mark.lab
@pytest.mark.parametrize("watch", [False, True])
def test_an_address_that_changes(backend, ends, watch):
    """It is sent from the one that the interface has; and what comes from there is the receiver's own."""
    if watch and not mcast._core.features()["watch"]:
        pytest.skip("feature watch")
    a, b = ends
    with receiver(a, "239.1.1.1", own_packets=False, watch=watch) as left, receiver(b, "239.1.1.1") as right:
        assert left.send("239.1.1.1", b"before") == 1
        assert right.recv().source == a.ipv4
        with pytest.raises(TimeoutError):
            left.recv(timeout=0)
        a.host.run("ip", "addr", "del", f"{a.ipv4}/24", "dev", a.interface)
        a.host.add_address(a.interface, "10.99.0.1/24")
        if watch:
            assert until(lambda: (map_address("10.99.0.1"), 0) in left._own_addresses._known)
        else:
            left._own_addresses._until = 0.0  # it is looked up once per second
        with a.host.enter():
            assert left.send("239.1.1.1", b"after") == 1
        assert right.recv().source == "10.99.0.1"
        right.send("239.1.1.1", b"another's")
        assert left.recv().data == b"another's"
        assert left.stats.filtered == 2
