"""Other programs on a receiver's port: shared with them where they let it, and named where they do not."""

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

import mcast_fast as mcast
from mcast_fast._membership import sockets
from tests.conftest import Place, descriptors, free_port, loopback

ALONE = ((), ("SO_REUSEADDR",), ("SO_REUSEPORT",), ("SO_REUSEADDR", "SO_REUSEPORT"))


@contextlib.contextmanager
def neighbour(version: int, port: int, options: tuple[str, ...]) -> Iterator[socket.socket]:
    """A socket of another program: on the port, by these options alone."""
    with socket.socket(socket.AF_INET6 if version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for name in options:
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), 1)
        sock.bind(("::" if version == 6 else "0.0.0.0", port))
        yield sock


@pytest.mark.needs("answers of Linux")
@pytest.mark.parametrize("options", ALONE[1:], ids="+".join)
def test_a_port_is_shared_with_whoever_lets_it_be_shared(backend: str, place: Place, options: tuple[str, ...]) -> None:
    port = free_port()
    with neighbour(place.version, port, options), mcast.Receiver(place.group(1, port), timeout=5) as rx:
        with mcast.Sender(place.group(1, port), ttl=0) as tx:
            assert tx.send_batch([b"x"] * 10) == 10
        assert len(rx.collect(10)) == 10


@pytest.mark.needs("answers of Linux")
def test_a_port_that_is_not_shared_names_who_has_it(backend: str, place: Place) -> None:
    port, before = free_port(), descriptors()
    with neighbour(place.version, port, ()), pytest.raises(mcast.SocketError) as caught:
        mcast.Receiver(place.group(1, port))
    assert caught.value.operation == "bind"
    assert f"bind port {port} on {place.interface}: " in str(caught.value)
    assert "another socket of this process bound to" in str(caught.value)
    assert descriptors() == before


HOLDER = """
import socket, sys
family, host, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
with socket.socket(family, socket.SOCK_DGRAM) as sock:
    sock.bind((host, port))
    print("bound", flush=True)
    sys.stdin.read()
"""


@pytest.mark.needs("answers of Linux")
@pytest.mark.parametrize("opens", ["receiver", "sender"])
def test_a_port_that_another_program_holds_names_it(backend: str, place: Place, opens: str) -> None:
    port = free_port()
    family, host = (socket.AF_INET, "0.0.0.0") if place.version == 4 else (socket.AF_INET6, "::")
    command = [sys.executable, "-c", HOLDER, str(int(family)), host, str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "bound\n"
        with pytest.raises(mcast.SocketError) as caught:
            if opens == "receiver":
                mcast.Receiver(place.group(1, port))
            else:
                mcast.Sender(place.group(1, port), source_port=port)
        holder.communicate()
    where = f"{host}:{port}" if place.version == 4 else f"[::]:{port}"
    assert f"(pid {holder.pid}) bound to {where}" in str(caught.value)


@pytest.mark.needs("answers of Linux")
@pytest.mark.parametrize("options", ALONE[1:], ids="+".join)
def test_unicast_stays_with_whom_it_is_for(backend: str, place: Place, options: tuple[str, ...]) -> None:
    """A receiver of one group is bound to it, and finds no other packets, whoever came first."""
    port = free_port()
    with neighbour(place.version, port, options) as other, mcast.Receiver(place.group(1, port), timeout=5) as rx:
        family, here = (socket.AF_INET, "127.0.0.1") if place.version == 4 else (socket.AF_INET6, "::1")
        with socket.socket(family, socket.SOCK_DGRAM) as tx:
            for number in range(10):
                tx.sendto(bytes([number]), (here, port))
        other.settimeout(5)
        assert [other.recv(10) for _ in range(10)] == [bytes([number]) for number in range(10)]
        assert rx.stats.received == rx.stats.filtered == 0


@pytest.mark.needs("answers of Linux")
def test_unicast_stays_with_a_program_that_is_bound_to_its_address(backend: str) -> None:
    """A receiver of several groups is bound to no address: as socket(7) says, the more specific socket is found first."""
    port, here = free_port(), "127.0.0.1"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind((here, port))
        other.settimeout(5)
        groups = [f"239.1.1.{number}%{loopback()}:{port}" for number in (1, 2)]
        with mcast.Receiver(*groups, timeout=5) as rx, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as tx:
            for _ in range(10):
                tx.sendto(b"x", (here, port))
            assert [other.recv(10) for _ in range(10)] == [b"x"] * 10
            assert rx.stats.received == rx.stats.filtered == 0


def test_without_reuse_a_port_is_not_shared(backend: str, place: Place) -> None:
    port = free_port()
    with mcast.Receiver(place.group(1, port)), pytest.raises(mcast.SocketError):
        mcast.Receiver(place.group(1, port), reuse=False)


@pytest.mark.parametrize("option", ["IPV6_V6ONLY", "SO_REUSEADDR"])
def test_an_option_that_is_refused_is_our_error_and_leaves_nothing_open(
    backend: str, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """As by a filter of system calls; of an option that comes before the socket is bound."""
    before = descriptors()
    refused = getattr(socket, option)

    class Refusing(socket.socket):
        def setsockopt(self, level: int, number: int, *value: object) -> None:
            if number == refused:
                raise PermissionError(1, os.strerror(1))
            super().setsockopt(level, number, *value)  # type: ignore[call-overload]

    def refuse(sock: socket.socket, name: str, value: int) -> bool:
        sock.setsockopt(socket.IPPROTO_IPV6, getattr(socket, name), value)
        return True

    monkeypatch.setattr(socket, "socket", Refusing)
    monkeypatch.setattr(sockets, "set_option", refuse)
    with pytest.raises(mcast.SocketError, match="open an IPv6 UDP socket") as caught:
        sockets.open_datagram(6, reuse=True)
    assert caught.value.errno == 1
    assert descriptors() == before
