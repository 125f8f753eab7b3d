"""`fd=`: a receiver over a socket that is open already, which stays its owner's."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import aio
from mcast_fast._membership import given as given_module
from tests.conftest import Place, descriptors, loopback

ANY = {4: "0.0.0.0", 6: "::"}
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@contextlib.contextmanager
def bound(version: int, host: str | None = None) -> Iterator[socket.socket]:
    """A socket as a service manager would open it."""
    with socket.socket(FAMILIES[version], socket.SOCK_DGRAM) as sock:
        if version == 6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((ANY[version] if host is None else host, 0))
        yield sock


def at(place: Place, number: int) -> str:
    """The text of a group without its port, which the socket has."""
    return place.group(number, 1).removeprefix("[").rpartition(":")[0].removesuffix("]")


def send(place: Place, number: int, sock: socket.socket, payloads: list[bytes]) -> None:
    with mcast.Sender(place.group(number, sock.getsockname()[1]), ttl=0) as tx:
        assert tx.send_batch(payloads) == len(payloads)


@pytest.mark.needs("destination")
@pytest.mark.parametrize("given", [lambda sock: sock, socket.socket.fileno], ids=["socket", "descriptor"])
def test_an_open_socket_receives_and_stays_its_owners(
    backend: str, place: Place, given: Callable[[socket.socket], object]
) -> None:
    with bound(place.version) as sock:
        before = descriptors()
        with mcast.Receiver(at(place, 1), at(place, 2), fd=given(sock), timeout=5) as rx:
            send(place, 1, sock, [b"one"] * 3)
            send(place, 2, sock, [b"two"] * 3)
            assert sorted(rx.collect(6).payloads()) == [b"one"] * 3 + [b"two"] * 3
            assert [one.joined for one in rx.memberships] == [True, True]
            assert rx.sources == 1
        assert descriptors() == before
        assert sock.getsockname()[1]


def test_a_receiver_outlives_its_owners_descriptor(backend: str, place: Place) -> None:
    with bound(place.version) as sock:
        port = sock.getsockname()[1]
        rx = mcast.Receiver(at(place, 1), fd=sock, timeout=5)
    with rx, mcast.Sender(place.group(1, port), ttl=0) as tx:
        tx.send(b"x")
        assert rx.recv().data == b"x"


def test_groups_are_left_at_a_socket_that_stays_open(backend: str, place: Place) -> None:
    """The kernel leaves them itself only when the last descriptor of a socket is closed."""
    with bound(place.version) as sock:
        with mcast.Receiver(at(place, 1), fd=sock, timeout=5) as rx:
            assert rx.leave(at(place, 1))
            assert rx.join(at(place, 2))
            assert rx.leave(at(place, 2))
            assert rx.join(at(place, 3))
            send(place, 3, sock, [b"3"])
            assert rx.recv().data == b"3"
        with mcast.Receiver(at(place, 4), fd=sock, timeout=5) as rx:
            for number in (1, 2, 3, 4):
                send(place, number, sock, [b"%d" % number])
            assert rx.recv().data == b"4"
            assert rx.stats.filtered == 0


def test_an_opening_that_fails_leaves_the_socket_as_it_was(backend: str, place: Place) -> None:
    with bound(place.version) as sock:
        before = descriptors()
        with pytest.raises(mcast.InterfaceError):
            mcast.Receiver(at(place, 1), f"{at(place, 2).partition('%')[0]}%nowhere", fd=sock)
        with pytest.raises(mcast.ArgumentError):
            mcast.Receiver(at(place, 1), fd=sock, batch_size=0)
        assert descriptors() == before


KILLED = "import os, sys, mcast_fast; rx = mcast_fast.Receiver(sys.argv[1], fd=int(sys.argv[2])); os._exit(0)"


@pytest.mark.long
@pytest.mark.needs("signals to processes")
def test_what_came_while_no_program_ran_is_delivered(backend: str, place: Place) -> None:
    """A service that is killed leaves its memberships at the socket, which its manager keeps open."""
    with bound(place.version) as sock:
        subprocess.run(
            [sys.executable, "-c", KILLED, at(place, 1), str(sock.fileno())],
            env=os.environ | {"MCAST_FAST_BACKEND": backend},
            pass_fds=[sock.fileno()],
            check=True,
        )
        send(place, 1, sock, [b"while no program ran"])
        with mcast.Receiver(at(place, 1), fd=sock, timeout=5) as rx:
            send(place, 1, sock, [b"now"])
            assert rx.collect(2).payloads() == [b"while no program ran", b"now"]


@pytest.mark.needs("answers of Linux")
def test_drops_are_counted_from_the_opening_on(backend: str, place: Place) -> None:
    with bound(place.version) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        for _ in range(3):  # from the second time on, the kernel's counter has drops of before
            with mcast.Receiver(at(place, 1), fd=sock, timeout=5) as rx:
                assert rx.stats.dropped_socket == 0
                send(place, 1, sock, [bytes(1000)] * 50)
                dropped = rx.stats.dropped_socket
                received = [*rx.collect(50 - dropped)]
                send(place, 1, sock, [b"behind"])  # the drops are reported with the next packet that is queued
                received.append(rx.recv())
                assert dropped > 0
                assert sum(one.dropped for one in received) == rx.stats.dropped_socket == dropped


@pytest.mark.needs("answers of Linux")
def test_drops_of_before_are_not_those_of_packets_that_waited(backend: str, place: Place) -> None:
    """Their report of drops is older than the counter that the receiver began with."""
    with bound(place.version) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
        with mcast.Receiver(at(place, 1), fd=sock, timeout=5) as first:
            send(place, 1, sock, [bytes(1000)] * 50)
            before = first.stats.dropped_socket
            assert before > 0
            first.collect(50 - before)
            send(place, 1, sock, [bytes(1000)] * 51)
            waiting = 51 - (first.stats.dropped_socket - before)
            with mcast.Receiver(at(place, 1), fd=sock, timeout=5) as rx:
                assert [one.dropped for one in rx.collect(waiting)] == [0] * waiting
                assert rx.stats.dropped_socket == 0


@pytest.mark.needs("answers of Linux")
def test_a_socket_that_is_bound_to_a_group_receives_no_other(backend: str) -> None:
    name = loopback()
    with bound(4, "239.1.1.1") as sock, mcast.Receiver(f"239.1.1.1%{name}", fd=sock, timeout=5) as rx:
        send(Place(4, name), 1, sock, [b"x"])
        assert rx.recv().group == "239.1.1.1"
        with pytest.raises(mcast.ArgumentError, match=r"is bound to 239\.1\.1\.1, and gets nothing of 239\.1\.1\.2"):
            rx.join(f"239.1.1.2%{name}")
        assert len(rx.memberships) == 1


def test_what_a_socket_cannot_receive_is_an_argument_error(backend: str) -> None:
    name = loopback()
    with bound(4) as sock:
        port, before = sock.getsockname()[1], descriptors()
        for groups, options, text in (
            ([f"239.1.1.1%{name}:{port % 65535 + 1}"], {}, f"is bound to port {port}, and 239.1.1.1 is wanted at port"),
            (["ff11::1"], {"interface": name}, "is an IPv4 socket, and ff11::1 a group of IPv6"),
            ([f"239.1.1.1%{name}"], {"watch": True}, "watch=True opens sockets, and does not go with fd="),
        ):
            with pytest.raises(mcast.ArgumentError, match=text):
                mcast.Receiver(*groups, fd=sock, **options)
        assert descriptors() == before


@pytest.mark.needs("answers of Linux")
def test_groups_on_two_interfaces_need_two_sockets(backend: str) -> None:
    others = [one.name for one in mcast.interfaces() if one.is_up and one.is_multicast and not one.is_loopback]
    if not others:
        pytest.skip("feature interfaces: there is no other one than the loopback")
    with bound(4) as sock, mcast.Receiver(f"239.1.1.1%{loopback()}", fd=sock) as rx:
        with pytest.raises(mcast.ArgumentError, match="is one socket, for groups on one interface"):
            rx.join(f"239.1.1.1%{others[0]}")
        assert [one.interface for one in rx.memberships] == [loopback()]


@pytest.mark.needs("answers of Linux")
def test_a_socket_of_another_interface_or_a_host_is_refused(backend: str) -> None:
    others = [one.name for one in mcast.interfaces() if one.is_up and not one.is_loopback]
    with bound(4, "127.0.0.1") as sock, pytest.raises(mcast.ArgumentError, match=r"is bound to 127\.0\.0\.1, where no"):
        mcast.Receiver(f"239.1.1.1%{loopback()}", fd=sock)
    with bound(4) as sock:
        sock.connect(("127.0.0.1", 9))
        with pytest.raises(mcast.ArgumentError, match=r"is connected, and gets packets of 127\.0\.0\.1 port 9 alone"):
            mcast.Receiver(f"239.1.1.1%{loopback()}", fd=sock)
    if others:
        with bound(4) as sock:
            sock.setsockopt(socket.SOL_SOCKET, 25, loopback().encode() + b"\0")  # SO_BINDTODEVICE
            with pytest.raises(mcast.ArgumentError, match="is bound to the interface lo, and"):
                mcast.Receiver(f"239.1.1.1%{others[0]}", fd=sock)


def closed() -> socket.socket:
    sock = socket.socket()
    sock.close()
    return sock


WRONG = {
    "a file": (Path(os.devnull).open, "is no open socket: "),
    "closed": (closed, "fd=-1 is closed; pass a UDP socket"),
    "TCP": (lambda: socket.create_server(("127.0.0.1", 0)), "is no UDP socket \\(family AF_INET, type SOCK_STREAM"),
    "not bound": (lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM), "is not bound to a port"),
    "text": (lambda: "3", "fd='3' is neither a descriptor nor an object with fileno"),
    "a truth value": (lambda: True, "fd=True is neither"),
    "negative": (lambda: -3, "fd=-3 is no descriptor"),
    "far": (lambda: 1 << 70, "is no open socket: "),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_udp_socket_is_an_argument_error(backend: str, wrong: str) -> None:
    make, text = WRONG[wrong]
    given = make()
    before = descriptors()
    with contextlib.ExitStack() as stack:
        if hasattr(given, "close"):
            stack.callback(given.close)
        with pytest.raises(mcast.ArgumentError, match=text):
            mcast.Receiver("239.1.1.1", interface=loopback(), fd=given)
        assert descriptors() == before


def test_in_asyncio(backend: str, place: Place) -> None:
    async def main() -> bytes:
        with bound(place.version) as sock:
            async with aio.Receiver(at(place, 1), fd=sock, timeout=5) as rx:
                send(place, 1, sock, [b"x"])
                return bytes((await rx.recv()).data)

    assert asyncio.run(main()) == b"x"


@pytest.mark.needs("signals to processes")
def test_a_forked_child_leaves_nothing(backend: str, place: Place) -> None:
    with bound(place.version) as sock, mcast.Receiver(at(place, 1), fd=sock, timeout=5) as rx:
        child = os.fork()
        if child == 0:
            rx.close()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        send(place, 1, sock, [b"x"])
        assert rx.recv().data == b"x"


def test_several_groups_need_packets_that_say_which_they_were_sent_to(
    backend: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(given_module, "reports_destination", lambda: False)
    with bound(place.version) as sock:
        before = descriptors()
        with pytest.raises(mcast.ArgumentError, match="several groups need a receiver each"):
            mcast.Receiver(at(place, 1), at(place, 2), fd=sock)
        assert descriptors() == before
        with mcast.Receiver(at(place, 1), fd=sock) as rx:
            with pytest.raises(mcast.ArgumentError, match="several groups need a receiver each"):
                rx.join(at(place, 2))
            rx.leave(at(place, 1))
            rx.join(at(place, 2))
            assert len(rx.memberships) == 1
