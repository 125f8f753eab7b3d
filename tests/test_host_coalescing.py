"""What a host shows of coalescing: offloads of interfaces, sockets on a port, and the reason why nothing coalesces.

Lab tests hold each answer against what the kernel then does.
"""

import errno
import itertools
import os
import re
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import Flag
from mcast_fast._host import coalescing, dumps, links, offloads, port_users
from mcast_fast._host.port_users import PortUser
from tests import lab
from tests.conftest import free_port

GROUP, GROUP6 = "239.1.1.1", "ff15::1"
UDP_SEGMENT, UDP_GRO = 103, 104
IP_MULTICAST_ALL = 49
SEGMENTS, SIZE = 10, 100
linux = pytest.mark.needs("answers of Linux")


def bound(stack, address="", port=0, device="", *, gro=False, only_ipv6=False):
    """A socket that shares its port, closed with the stack."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.settimeout(5)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(only_ipv6))
    if device:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
    if gro:
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
    sock.bind((address, port))
    return sock


def inode(sock):
    return os.fstat(sock.fileno()).st_ino


@pytest.fixture(autouse=True)
def time_to_search(monkeypatch):
    monkeypatch.setattr(port_users, "OWNER_SECONDS", 60.0)


def loopback_index():
    return next(one.index for one in mcast.interfaces() if one.is_loopback)


# ---- offloads ----


@linux
def test_every_interface_says_what_it_coalesces_without_a_privilege():
    for one in mcast.interfaces():
        assert list(one.offloads) == ["generic-receive-offload", "rx-udp-gro-forwarding", "rx-gro-list"]
    assert next(one for one in mcast.interfaces() if one.is_loopback).offloads["generic-receive-offload"] in (
        True,
        False,
    )


@pytest.mark.parametrize("index", [0, -1, 2**31 - 1, 2**40])
def test_no_interface_no_answer(index):
    assert set(offloads.read(index).values()) == {None}


def test_another_system_is_not_asked(monkeypatch):
    monkeypatch.setattr(offloads, "SYSTEM", offloads.SYSTEM._replace(ethtool_request=0))
    assert set(offloads.read(loopback_index()).values()) == {None}
    assert offloads.driver("lo") == ""


@linux
def test_a_refused_call_is_an_unknown_answer(monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(offloads.ifreq, "call", refuse)
    assert set(offloads.read(loopback_index()).values()) == {None}


@pytest.mark.lab
def test_offloads_are_what_ethtool_sets():
    with lab.Lab() as made, made.link("a", "b")[1].host.enter():
        (name,) = (one.name for one in mcast.interfaces() if one.name.startswith("vb"))
        assert offloads.driver(name) == "veth"
        for values in itertools.product(("on", "off"), repeat=3):
            for feature, value in zip(offloads.FEATURES, values, strict=True):
                lab.run("ethtool", "-K", name, feature, value)
            (now,) = (one.offloads for one in mcast.interfaces() if one.name == name)
            assert tuple(now.values()) == tuple(value == "on" for value in values)


# ---- the sockets on a port ----


@linux
def test_the_sockets_of_a_port_stand_in_the_order_of_the_kernels_preference():
    port, index = free_port(), loopback_index()
    with ExitStack() as stack:
        places = [("::", ""), ("", ""), ("", "lo"), (GROUP, ""), (GROUP, "lo"), (GROUP, "lo")]
        opened = [bound(stack, address, port, device) for address, device in places]
        bound(stack, "239.1.1.2", port)
        bound(stack, "::", port, only_ipv6=True)
        bound(stack, "", free_port())
        bound(stack, GROUP, port).connect(("127.0.0.1", 9))
        wanted = [inode(sock) for sock in reversed(opened)]
        found = port_users.found_by(GROUP, port, index)
        assert [user.inode for user in found] == wanted
        assert [user.interface for user in found] == [index, index, 0, index, 0, 0]
        assert [user.address for user in found] == [GROUP] * 3 + ["0.0.0.0"] * 2 + ["::"]
        assert {user.uid for user in found} == {os.getuid()}
        elsewhere = port_users.found_by(socket.inet_aton(GROUP), port, index + 1)
        assert [user.inode for user in elsewhere] == [wanted[2], wanted[4], wanted[5]]
        mapped = bytes(10) + b"\xff\xff" + socket.inet_aton(GROUP)
        assert [user.inode for user in port_users.others(mapped, port, index, wanted[:4])] == wanted[4:]


@linux
def test_ipv6_sockets_get_packets_of_ipv6():
    port, index = free_port(), loopback_index()
    with ExitStack() as stack:
        opened = [bound(stack, "::", port), bound(stack, "::", port, only_ipv6=True), bound(stack, GROUP6, port)]
        bound(stack, "", port)
        bound(stack, f"::ffff:{GROUP}", port)
        found = port_users.found_by(f"{GROUP6}%1", port, index)
        assert [user.inode for user in found] == [inode(sock) for sock in reversed(opened)]


def refused(*_):
    raise PermissionError(errno.EACCES, "Permission denied")


@linux
def test_without_netlink_the_table_of_proc_is_read(monkeypatch):
    monkeypatch.setattr(dumps, "dump", refused)
    port, index = free_port(), loopback_index()
    with ExitStack() as stack:
        opened = [bound(stack, "::", port), bound(stack, "", port), bound(stack, GROUP, port, "lo")]
        bound(stack, GROUP, port).connect(("127.0.0.1", 9))
        found = port_users.others(GROUP, port, index, ())
        assert [(user.inode, user.interface, user.pid) for user in found] == [
            (inode(sock), None, os.getpid()) for sock in reversed(opened)
        ]
        assert [user.address for user in found] == [GROUP, "0.0.0.0", "::"]
        assert [user.inode for user in port_users.found_by(GROUP6, port, index)] == [inode(opened[0])]


def test_where_nothing_can_be_read_nothing_is_raised(monkeypatch, tmp_path):
    monkeypatch.delattr(socket, "AF_NETLINK", raising=False)
    monkeypatch.setattr(port_users, "PROC", tmp_path)
    assert port_users.found_by(GROUP, 5000, 1) is None
    assert port_users.others(GROUP, 5000, 1, ()) == []
    assert links.lowest(1) == []
    with pytest.raises(OSError, match="no netlink"):
        next(dumps.dump(0, links.netlink.RTM_GETLINK, b""))


@linux
def test_a_table_that_is_not_there_has_no_sockets(monkeypatch, tmp_path):
    """As with ipv6.disable=1."""
    monkeypatch.setattr(dumps, "dump", refused)
    monkeypatch.setattr(port_users, "PROC", tmp_path)
    tables = tmp_path / "thread-self" / "net"
    tables.mkdir(parents=True)
    with ExitStack() as stack:
        port = bound(stack, GROUP).getsockname()[1]
        (tables / "udp").write_text(Path("/proc/net/udp").read_text())
        assert len(port_users.found_by(GROUP, port, 1)) == 1
        assert port_users.found_by(GROUP6, port, 1) == []


@linux
def test_a_socket_of_another_process_has_its_name():
    port = free_port()
    program = f"import socket; s = socket.socket(2, 2); s.bind(('{GROUP}', {port})); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        other.stdout.readline()
        (user,) = port_users.others(GROUP, port, loopback_index(), ())
        name = Path(f"/proc/{other.pid}/comm").read_text().rstrip("\n")
        assert port_users.describe(user) == f"a socket of {name!r} (pid {other.pid}) bound to {GROUP}:{port}"
        other.stdin.close()


@linux
def test_an_answer_that_is_an_error_is_raised():
    with pytest.raises(OSError, match="Invalid argument"):
        list(dumps.dump(links.netlink.NETLINK_SOCK_DIAG, port_users.SOCK_DIAG_BY_FAMILY, b""))


@linux
def test_the_search_for_processes_ends(monkeypatch):
    monkeypatch.setattr(port_users, "OWNER_SECONDS", -1.0)
    with ExitStack() as stack:
        sock = bound(stack, GROUP)
        (user,) = port_users.others(GROUP, sock.getsockname()[1], loopback_index(), ())
    assert (user.inode, user.pid, user.program) == (user.inode, None, None)
    assert port_users.describe(user).startswith(f"a socket of user {os.getuid()} bound to {GROUP}:")


def test_the_number_of_sockets_is_bounded(monkeypatch):
    def endless(*_):
        yield from itertools.repeat(user())

    monkeypatch.setattr(port_users, "_by_netlink", endless)
    assert len(port_users.found_by(GROUP, 5000, 1)) == port_users.MOST_SOCKETS


def user(**fields):
    return PortUser(**{"address": GROUP, "port": 5000, "interface": 0, "inode": 1, "uid": 7} | fields)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"pid": 10**8, "program": "vlc"}, "a socket of 'vlc' (pid 100000000) bound to 239.1.1.1:5000"),
        (
            {"pid": 10**8, "program": "\x1b[31m\n\u202e\udcff'"},
            r"""a socket of "\x1b[31m\n\u202e\udcff'" (pid 100000000) bound to""",
        ),
        ({"pid": 10**8}, "a socket of pid 100000000 bound to 239.1.1.1:5000"),
        ({"address": "ff15::1"}, "a socket of user 7 bound to [ff15::1]:5000"),
        ({"interface": 2**30}, f"a socket of user 7 bound to 239.1.1.1:5000 on {2**30}"),
    ],
)
def test_a_socket_in_words(fields, words):
    text = port_users.describe(user(**fields))
    assert text.startswith(words)
    assert text.encode().decode().isprintable()


@given(st.binary(max_size=200), st.sampled_from((4, 6)))
def test_any_answer_can_be_parsed(body, version):
    found = port_users.parse(memoryview(body), version)
    assert found is None or len(body) >= port_users.MESSAGE.size
    link = links.parse(memoryview(body))
    assert (link is None) == (len(body) < links.netlink.IFINFOMSG.size)


@pytest.mark.parametrize(
    ("ids", "programs"),
    [
        ({}, ()),
        ({4: 7, 5: 7}, (("xdpdrv", 7),)),
        ({4: 8, 6: 8}, (("xdpgeneric", 8),)),
        ({6: 8, 7: 9}, (("xdpgeneric", 8), ("xdpoffload", 9))),  # several: no IFLA_XDP_PROG_ID
        ({4: 5}, (("xdp", 5),)),  # before Linux 4.19
    ],
)
def test_the_xdp_programs_of_an_interface(ids, programs):
    inner = b"".join(struct.pack("=HHI", 8, kind, number) for kind, number in ids.items())
    attribute = struct.pack("=HH", 4 + len(inner), links.netlink.IFLA_XDP) + inner
    _, link = links.parse(memoryview(links.netlink.IFINFOMSG.pack(0, 0, 3, 0, 0) + attribute))
    assert link.xdp == programs


@given(st.lists(st.text("0123456789ABCDEFg: ", max_size=40), max_size=12))
def test_any_row_of_the_table_can_be_parsed(fields):
    with suppress(ValueError, IndexError):  # what _by_proc passes over
        port_users._parse_row(socket.AF_INET, fields)


# ---- why nothing comes coalesced ----


def test_loopback_and_no_interface():
    name = next(one.name for one in mcast.interfaces() if one.is_loopback)
    sentence = coalescing.explain(loopback_index(), GROUP, 5000, ())
    assert sentence == f"{name} never coalesces what is sent one packet per call"
    assert coalescing.explain(2**30, GROUP, 5000, ()) == f"interface index {2**30} does not exist"


@pytest.fixture
def link():
    """Two hosts; what a sends as one super-packet leaves as single packets, and arrives where GRO is on."""
    with lab.Lab(("a", "b", "c")) as made:
        sending, receiving = made.link("a", "b")
        sending.single_packets()
        receiving.coalesce_from(sending)
        yield made, sending, receiving


def switch_tso_on(end):
    end.host.run("ethtool", "-K", end.interface, "tso", "on")


@contextmanager
def bursts(sending, port):
    """A function that sends SEGMENTS packets at once, which leave one by one."""
    with ExitStack() as stack:
        with sending.host.enter():
            sock = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            index = socket.if_nametoindex(sending.interface)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("4s4si", bytes(4), bytes(4), index))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, SIZE)
        yield lambda: sock.sendto(bytes(SIZE * SEGMENTS), (GROUP, port))


def come_coalesced(sock, burst):
    """Whether a burst reaches a socket in fewer messages than packets; all of it is read."""
    burst()
    lengths = []
    while sum(lengths) < SIZE * SEGMENTS:
        lengths.append(len(sock.recv(65_536)))
    assert sum(lengths) == SIZE * SEGMENTS
    return len(lengths) < SEGMENTS


@pytest.mark.lab
def test_the_kernel_asks_the_socket_that_stands_first(link):
    """All pairs of ways to bind, in both orders of binding: the one that is named first decides, the other does not."""
    _, sending, receiving = link
    port, device = 5000, receiving.interface
    places = [("::", ""), ("", ""), ("", device), (GROUP, ""), (GROUP, device)]
    with bursts(sending, port) as burst, receiving.host.enter():
        for pair in itertools.product(places, repeat=2):
            with ExitStack() as stack:
                sockets = {inode(sock): sock for sock in (bound(stack, place[0], port, place[1]) for place in pair)}
                for sock in sockets.values():
                    lab.join(sock, GROUP, device)
                found = [user.inode for user in port_users.found_by(GROUP, port, receiving.index)]
                assert set(found) == set(sockets)
                for number, decides in enumerate(found):
                    sockets[decides].setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
                    assert come_coalesced(sockets[decides], burst) == (number == 0), (pair, number)
                    sockets[decides].setsockopt(socket.IPPROTO_UDP, UDP_GRO, 0)
                    assert not come_coalesced(sockets[found[1 - number]], lambda: None), (pair, number)


@contextmanager
def joined(host, device, port=5000):
    """A socket with UDP_GRO as a receiver opens it, and a function that says why nothing comes coalesced."""
    with host.enter(), ExitStack() as stack:
        sock = bound(stack, GROUP, port, device, gro=True)
        lab.join(sock, GROUP, device)
        index = socket.if_nametoindex(device)
        yield sock, lambda: coalescing.explain(index, GROUP, port, {inode(sock)})


def obey(host, sentence, **names):
    """Run the command that a sentence gives, with its placeholders filled in."""
    command = re.search("`(.+?)`", sentence)[1]
    for placeholder, name in names.items():
        command = command.replace(f"<{placeholder.replace('_', ' ')}>", name)
    host.run(*command.split())


@pytest.mark.lab
def test_an_offload_that_is_off_is_named_and_its_remedy_works(link):
    _, sending, receiving = link
    receiving.host.run("ethtool", "-K", receiving.interface, "gro", "off")
    with bursts(sending, 5000) as burst, joined(receiving.host, receiving.interface) as (sock, why):
        assert not come_coalesced(sock, burst)
        assert why() == (
            f"generic-receive-offload is off on {receiving.interface}: "
            f"switch it on with `ethtool -K {receiving.interface} gro on`"
        )
        obey(receiving.host, why())
        assert come_coalesced(sock, burst)


@pytest.mark.lab
def test_tso_at_the_other_end_of_a_veth_is_named_as_possible(link):
    _, sending, receiving = link
    switch_tso_on(sending)
    with bursts(sending, 5000) as burst, joined(receiving.host, receiving.interface) as (sock, why):
        assert not come_coalesced(sock, burst)
        assert why().startswith(
            f"{receiving.interface} can coalesce, so perhaps the other end of the veth pair has TSO"
        )
        obey(sending.host, why(), that_end=sending.interface)
        assert come_coalesced(sock, burst)
        for feature in ("rx-udp-gro-forwarding", "rx-gro-list"):  # either has a veth coalesce, whatever its other end
            switch_tso_on(sending)
            assert not come_coalesced(sock, burst)
            receiving.host.run("ethtool", "-K", receiving.interface, feature, "on")
            assert come_coalesced(sock, burst)
            assert "veth" not in why()
            receiving.host.run("ethtool", "-K", receiving.interface, feature, "off")


@pytest.mark.lab
def test_another_socket_that_decides_is_named(link):
    _, sending, receiving = link
    with bursts(sending, 5000) as burst, joined(receiving.host, receiving.interface) as (sock, why):
        assert come_coalesced(sock, burst)
        with ExitStack() as stack:
            bound(stack, GROUP, 5000, receiving.interface)
            assert not come_coalesced(sock, burst)
            assert why() == (
                f"another socket of this process bound to {GROUP}:5000 on {receiving.interface} decides, "
                "and seems not to have UDP_GRO"
            )
        assert come_coalesced(sock, burst)
        assert "decides" not in why()


@pytest.mark.lab
@pytest.mark.parametrize("kind", ["bridge", "macvlan", "macvlan on a bridge"])
def test_a_socket_bound_to_what_lies_above_is_not_found_where_packets_arrive(link, kind):
    _, sending, receiving = link
    host, port = receiving.host, receiving.interface
    bridge = "above" if kind == "bridge" else "br0"
    if "bridge" in kind:
        host.run("ip", "link", "add", bridge, "type", "bridge", "mcast_snooping", "0")
        host.run("ip", "link", "set", port, "master", bridge)
        host.run("ip", "link", "set", bridge, "up")
    if "macvlan" in kind:
        below = bridge if "bridge" in kind else port
        host.run("ip", "link", "add", "link", below, "name", "above", "type", "macvlan", "mode", "bridge")
        host.run("ip", "link", "set", "above", "up")
    with bursts(sending, 5000) as burst, joined(host, "above") as (sock, why):
        assert not come_coalesced(sock, burst)
        assert why() == (
            f"above lies above {port}, where packets are coalesced, and a socket bound to above is not found there; "
            f"without a socket it coalesces by `ethtool -K {port} rx-udp-gro-forwarding on`"
        )
        with (
            ExitStack() as stack
        ):  # without that, and without a privilege: a socket that is found there, and gets nothing
            bound(stack, GROUP, 5000, port, gro=True)
            assert come_coalesced(sock, burst)
        assert not come_coalesced(sock, burst)
        obey(host, why())
        assert come_coalesced(sock, burst)
        assert "can coalesce" in why()


@pytest.mark.lab
def test_offloads_that_cannot_be_read_are_no_reason(link, monkeypatch):
    _, _, receiving = link
    monkeypatch.setattr(offloads.ifreq, "call", refused)
    with joined(receiving.host, receiving.interface) as (_, why):
        assert why().startswith(f"{receiving.interface} may be unable to coalesce (its offloads cannot be read), or")


@pytest.mark.lab
def test_where_the_order_of_sockets_is_unknown_no_socket_is_blamed(link, monkeypatch):
    _, _, receiving = link
    ask = dumps.dump
    monkeypatch.setattr(dumps, "dump", lambda protocol, *rest: ask(protocol, *rest) if protocol == 0 else refused())
    with joined(receiving.host, receiving.interface) as (_, why), ExitStack() as stack:
        assert "perhaps another socket on port 5000 decides" in why()
        bound(stack, GROUP, 5000, receiving.interface)
        assert "perhaps another socket on port 5000 decides" in why()


@pytest.mark.lab
def test_an_interface_below_in_another_namespace_cannot_be_seen(link):
    """As in a container with a macvlan of its own."""
    made, sending, receiving = link
    inner = made.hosts["c"]
    receiving.host.run(
        "ip", "link", "add", "link", receiving.interface, "name", "mv0", "netns", inner.namespace, "type", "macvlan"
    )
    inner.run("ip", "link", "set", "mv0", "up")
    with bursts(sending, 5000) as burst, joined(inner, "mv0") as (sock, why):
        assert not come_coalesced(sock, burst)
        assert why().startswith("mv0 lies above an interface of another network namespace")
        obey(receiving.host, why(), interface=receiving.interface)
        assert come_coalesced(sock, burst)


# ---- what coalescing does to others on the host ----


@pytest.mark.lab
def test_a_capture_beside_sees_super_packets_and_plain_sockets_get_packets(link):
    _, sending, receiving = link
    with (
        bursts(sending, 5000) as burst,
        joined(receiving.host, receiving.interface) as (sock, _),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
    ):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plain.bind(("", 5000))
        plain.settimeout(5)
        lab.join(plain, GROUP, receiving.interface)
        captured = receiving.tcpdump("-c", "1", "udp")
        assert come_coalesced(sock, burst)
        assert not come_coalesced(plain, lambda: None)
        assert f"UDP, length {SIZE * SEGMENTS}" in captured.finish()
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 0)
        captured = receiving.tcpdump("-c", f"{SEGMENTS}", "udp")
        assert not come_coalesced(sock, burst)
        assert captured.finish().count(f"UDP, length {SIZE}\n") == SEGMENTS


@pytest.mark.lab
@pytest.mark.needs("ring")
def test_a_ring_beside_takes_super_packets_apart(link):
    _, sending, receiving = link
    with (
        bursts(sending, 5000) as burst,
        joined(receiving.host, receiving.interface) as (sock, _),
        mcast.Receiver(f"{GROUP}%{receiving.interface}:5000", ring="1MiB", timeout=5) as rx,
    ):
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 0)
        assert not come_coalesced(sock, burst)
        assert not any(packet.flags & Flag.COALESCED for packet in rx.collect(SEGMENTS))
        sock.setsockopt(socket.IPPROTO_UDP, UDP_GRO, 1)
        assert come_coalesced(sock, burst)
        batch = rx.collect(SEGMENTS)
        assert [len(payload) for payload in batch.payloads()] == [SIZE] * SEGMENTS
        assert all(packet.flags & Flag.COALESCED for packet in batch)


@pytest.mark.lab
@pytest.mark.parametrize(
    ("end", "feature", "needs"),
    [("nic", "rx-udp-gro-forwarding on", ""), ("eth0", "gro on", "tso off"), ("eth0", "gro off", "tso off")],
)
def test_a_container_behind_a_bridge(link, end, feature, needs):
    """Packets arrive at the host's interface, and reach the container by a bridge and a veth pair of its own."""
    made, sending, receiving = link
    host = receiving.host
    inner, outer = made.link("c", "b", names=("eth0", "port0"))
    host.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
    for name in (receiving.interface, outer.interface):
        host.run("ip", "link", "set", name, "master", "br0")
    host.run("ip", "link", "set", "br0", "up")
    with bursts(sending, 5000) as burst, joined(inner.host, inner.interface) as (sock, _):
        assert not come_coalesced(sock, burst)
        where = receiving if end == "nic" else inner
        where.host.run("ethtool", "-K", where.interface, *feature.split())
        if needs:
            host.run("ethtool", "-K", outer.interface, *needs.split())
        assert come_coalesced(sock, burst) == (feature != "gro off")
