"""Other programs on a receiver's port: shared with them where they let it, and named where they do not."""

import contextlib
import os
import socket
from collections.abc import Iterator

import pytest

import mcast_fast as mcast
from mcast_fast._membership import sockets
from tests.conftest import Place, descriptors, free_port

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
