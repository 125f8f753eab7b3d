"""The table of systems, the tables of numbers, and what the pure backend does on systems that are not here."""

import errno
import importlib
import socket
import struct

import pytest

import mcast_fast as mcast
from mcast_fast import _core, _systems
from mcast_fast._core import layout
from mcast_fast._core.pure import tables
from tests.conftest import free_port, loopback

pure_control = importlib.import_module("mcast_fast._core.pure.control")
pure_membership = importlib.import_module("mcast_fast._core.pure.membership")
pure_reading = importlib.import_module("mcast_fast._core.pure.reading")
LO = socket.if_nametoindex(loopback())
GROUP = socket.inet_aton("239.1.1.1")
SOURCES = [socket.inet_aton("10.0.0.9"), socket.inet_aton("10.0.0.7")]
needs_linux = pytest.mark.needs("answers of Linux")


@pytest.fixture
def udp():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        yield sock


# ---- the tables ----


@pytest.mark.parametrize(
    ("platform", "name"),
    [("linux", "Linux"), ("darwin", "macOS"), ("win32", "Windows"), ("freebsd14", "FreeBSD"), ("netbsd10", "NetBSD")],
)
def test_a_platform_has_its_row(platform, name):
    assert _systems.find(platform).name == name


def test_a_platform_without_a_row_can_do_what_every_system_can():
    row = _systems.find("plan9")
    assert (row.name, row.key, row.flag_call, row.has_rtnetlink) == ("plan9", "plan9", None, False)
    assert {"watch", "igmp_version"} == row.missing.keys() <= layout.FEATURES.keys()


@pytest.mark.parametrize("table", tables.SYSTEMS.values(), ids=tables.SYSTEMS.keys())
def test_what_a_table_names_is_known(table):
    assert table.name in {row.name for row in _systems.SYSTEMS.values()}
    assert set(table.control.values()) <= pure_control.BY_NAME.keys()
    assert table.missing.keys() <= layout.FEATURES.keys()
    assert {"join", "leave", "join_source", "leave_source", "block", "unblock"} == table.steps.keys()


@pytest.mark.parametrize("table", tables.SYSTEMS.values(), ids=tables.SYSTEMS.keys())
@pytest.mark.parametrize("packed", [GROUP, bytes(range(16))])
def test_an_address_is_a_whole_sockaddr_storage(table, packed):
    made = table.sockaddr(packed)
    assert len(made) == 128
    assert made.count(packed) == 1


def test_the_request_of_macos_is_packed():
    """group_req is pack(4) there: 132 bytes, of which a wrong layout gives EINVAL."""
    request = struct.pack(tables.DARWIN.index_format, 5) + tables.DARWIN.sockaddr(GROUP)
    assert (len(request), request[4:6]) == (132, bytes([16, 2]))


def test_multicast_leaves_windows_by_an_index_that_looks_like_an_address():
    assert tables.WINDOWS.send_interface(7, GROUP) == (b"\0\0\0\7", GROUP)


# ---- memberships as other systems want them ----


class Refusing:
    """A socket that answers so many calls with an error first."""

    def __init__(self, sock, number, times):
        self.sock, self.number, self.times = sock, number, times

    def setsockopt(self, *arguments):
        if self.times:
            self.times -= 1
            raise OSError(self.number, "so it goes")
        self.sock.setsockopt(*arguments)


@pytest.mark.parametrize(("tries", "times", "joined"), [(5, 4, True), (5, 5, False), (1, 1, False)])
def test_an_enomem_of_macos_is_tried_again(monkeypatch, udp, tries, times, joined):
    monkeypatch.setattr(pure_membership, "_SYSTEM", tables.SYSTEM._replace(tries=tries))
    refusing = Refusing(udp, errno.ENOMEM, times)
    if joined:
        pure_membership.join(refusing, LO, GROUP)
        pure_membership.leave(udp, LO, GROUP)
    else:
        with pytest.raises(OSError, match="so it goes"):
            pure_membership.join(refusing, LO, GROUP)


@needs_linux
@pytest.mark.parametrize("group", [GROUP, socket.inet_pton(socket.AF_INET6, "ff11::1")])
def test_without_rfc_3678_groups_are_joined_by_address(monkeypatch, group):
    steps = {"join": 35, "leave": 36} if len(group) == 4 else {"join": 20, "leave": 21}
    monkeypatch.setattr(pure_membership, "_SYSTEM", tables.LINUX._replace(old_steps=steps))
    with socket.socket(socket.AF_INET if len(group) == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        pure_membership.join(Refusing(sock, errno.ENOPROTOOPT, 1), LO, group)
        with pytest.raises(OSError, match=r".") as caught:  # it is held, and RFC 3678's own calls know it
            pure_membership.join(sock, LO, group)
        assert caught.value.errno == errno.EADDRINUSE
        pure_membership.leave(Refusing(sock, errno.ENOPROTOOPT, 1), LO, group)
        pure_membership.join(sock, LO, group)


def test_what_no_old_call_can_do_is_refused(monkeypatch, udp):
    monkeypatch.setattr(pure_membership, "_SYSTEM", tables.SYSTEM._replace(steps={}, old_steps={"join": 35}))
    with pytest.raises(OSError, match=r".") as caught:
        pure_membership.block(udp, LO, GROUP, SOURCES[0])
    assert caught.value.errno == errno.ENOPROTOOPT


@pytest.mark.needs("answers of Linux", "setsourcefilter")
@pytest.mark.parametrize("exclude", [True, False])
@pytest.mark.parametrize("packed", ["239.1.1.1 10.0.0.9 10.0.0.7", "ff11::1 fd00::9 fd00::7"])
def test_filters_go_through_the_c_library_as_through_the_option(monkeypatch, exclude, packed):
    """setsourcefilter(3) of macOS and BSD; glibc has it too, and the kernel tells what it set."""
    family = socket.AF_INET6 if ":" in packed else socket.AF_INET
    group, *sources = (socket.inet_pton(family, text) for text in packed.split())
    by_library = tables.LINUX._replace(filters_by_library=True)
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        pure_membership.join(sock, LO, group)
        monkeypatch.setattr(pure_membership, "_SYSTEM", by_library)
        pure_membership.set_filter(sock, LO, group, exclude, sources)
        assert pure_membership.get_filter(sock, LO, group) == (exclude, tuple(sorted(sources)))
        monkeypatch.setattr(pure_membership, "_SYSTEM", tables.LINUX)
        assert pure_membership.get_filter(sock, LO, group) == (exclude, tuple(sorted(sources)))
        monkeypatch.setattr(pure_membership, "_SYSTEM", by_library)
        with pytest.raises(OSError, match=r".") as caught:
            pure_membership.get_filter(sock, LO + 1000, group)
        assert caught.value.errno in (errno.EADDRNOTAVAIL, errno.ENODEV, errno.EINVAL)


# ---- a Python without recvmsg ----


@pytest.fixture
def without_recvmsg(monkeypatch):
    """The pure backend as on Windows: no control message, no flag to receive without waiting."""
    for module in _core.MODULES:
        monkeypatch.setattr(_core, module, importlib.import_module(f"mcast_fast._core.pure.{module}"))
    monkeypatch.setattr(_core, "backend", "pure")
    monkeypatch.setattr(pure_reading, "HAS_RECVMSG", False)
    silent = {"IP_PKTINFO", "IPV6_RECVPKTINFO", "SO_TIMESTAMPNS", "SO_RXQ_OVFL", "SO_BINDTODEVICE", "IP_RECVTTL"}
    options = {name: option for name, option in pure_membership.OPTIONS.items() if name not in silent}
    monkeypatch.setattr(pure_membership, "OPTIONS", options)
    monkeypatch.setattr(pure_membership, "MISSING", tables.NO_RECVMSG)


def test_a_python_without_recvmsg_says_so(without_recvmsg):
    feature = mcast.features()["destination"]
    assert not feature
    assert "each group has a socket of its own" in feature.reason
    with pytest.raises(mcast.FeatureError, match=r"socket\.recvmsg"):
        mcast.Receiver(f"239.1.1.1%{loopback()}:5000", recv_ttl=True)


@needs_linux  # where another socket's groups stay away
def test_without_recvmsg_each_group_has_a_socket_of_its_own(without_recvmsg):
    port = free_port()
    texts = [f"239.1.1.{last}%{loopback()}:{port}" for last in (1, 2, 3)]
    with mcast.Receiver(*texts, timeout=5) as rx:
        assert repr(rx) == f"<Receiver of {', '.join(texts)}, on 3 sockets>"
        for text in texts:
            with mcast.Sender(text, ttl=0) as tx:
                tx.send(text.encode())
        packets = list(rx.collect(3))
    assert sorted(packet.group for packet in packets) == ["239.1.1.1", "239.1.1.2", "239.1.1.3"]
    assert all(packet.data.startswith(packet.group.encode()) for packet in packets)
    assert {packet.interface for packet in packets} == {loopback()}


def test_without_recvmsg_what_is_truncated_is_flagged_and_measured(without_recvmsg):
    text = f"239.1.1.1%{loopback()}:{free_port()}"
    with mcast.Receiver(text, max_packet_size=100, timeout=5) as rx, mcast.Sender(text, ttl=0) as tx:
        tx.send_batch([b"x" * 100, b"x" * 101, b"x" * 5000])
        batch = rx.collect(3)
    assert [(len(packet), packet.wire_length, packet.truncated) for packet in batch] == [
        (100, 100, False),
        (100, 101, True),
        (100, 5000, True),
    ]
