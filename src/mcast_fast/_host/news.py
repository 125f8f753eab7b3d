"""Where the system reports changes of interfaces: sockets of rtnetlink(7) or route(4), or events of Windows."""

import functools
import logging
import selectors
import socket
from collections.abc import Callable
from typing import Protocol

from mcast_fast._core import pairs
from mcast_fast._host import changes, netlink
from mcast_fast._host.changes import ANYTHING, Change
from mcast_fast._systems import SYSTEM

GROUPS = netlink.RTMGRP_LINK | netlink.RTMGRP_IPV4_IFADDR | netlink.RTMGRP_IPV6_IFADDR
LARGEST_MESSAGE = 1 << 16
MOST_MESSAGES = 256  # that are read at once: others are woken for in between

log = logging.getLogger("mcast_fast")


class Waiting(Protocol):
    """Waits in one thread for news, and to be woken."""

    def wait(self, seconds: float | None) -> tuple[bool, bool]:
        """(Whether it was woken, whether there may be news), at the latest after this time; None = no limit."""

    def close(self) -> None:
        """Free what is waited by; neither what is waited for nor what it is woken by."""


class News(Protocol):
    """What a system reports, from the opening on."""

    def read(self) -> list[Change]:
        """What was reported since the last call, without waiting."""

    def waiting(self, wake: pairs.End) -> Waiting:
        """What a thread waits by, that is woken by something to read at `wake`."""

    def close(self) -> None:
        """Stop listening; again does nothing."""


def opened() -> News:
    """The news of this system, in the network namespace of the calling thread; OSError, with nothing left open."""
    return OPEN[SYSTEM.interface_news]()


class SocketNews:
    """Messages that come to a socket."""

    def __init__(self, sock: socket.socket, parse: Callable[[bytes], list[Change]]) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._parse = parse

    def read(self) -> list[Change]:
        """What the messages say that are there now."""
        found: list[Change] = []
        for _ in range(MOST_MESSAGES):
            try:
                data = self._socket.recv(LARGEST_MESSAGE)
            except BlockingIOError:
                break
            except OSError as error:  # ENOBUFS: more news than the buffer held
                log.warning("news of interfaces were lost: %s", error)
                return [*found, ANYTHING]
            found += self._parse(data)
        return found

    def waiting(self, wake: pairs.End) -> Waiting:
        """By poll(2) where there is one: no descriptor of its own."""
        return SocketWaiting(self._socket, wake)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()


class SocketWaiting:
    """Waits for two sockets; green threads take its place where a program has them (gevent, eventlet)."""

    def __init__(self, news: socket.socket, wake: pairs.End) -> None:
        self._selector: selectors.BaseSelector = getattr(selectors, "PollSelector", selectors.SelectSelector)()
        self._news, self._wake = news, wake
        self._selector.register(wake, selectors.EVENT_READ)
        self._selector.register(news, selectors.EVENT_READ)

    def wait(self, seconds: float | None) -> tuple[bool, bool]:
        """As Waiting."""
        ready = [key.fileobj for key, _ in self._selector.select(seconds)]
        return self._wake in ready, self._news in ready

    def close(self) -> None:
        """As Waiting."""
        self._selector.close()


def _netlink() -> News:
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    try:
        sock.bind((0, GROUPS))
        return SocketNews(sock, changes.of_netlink)
    except BaseException:
        sock.close()
        raise


def _routing_socket() -> News:
    system = changes.ROUTE_MESSAGES[SYSTEM.key]
    parse = functools.partial(changes.of_routing_socket, system=system)
    return SocketNews(socket.socket(system.family, socket.SOCK_RAW, 0), parse)


def _notifications() -> News:
    from mcast_fast._host import events  # of Windows, by ctypes

    return events.EventNews()


OPEN: dict[str, Callable[[], News]] = {
    "netlink": _netlink,
    "routing socket": _routing_socket,
    "notifications": _notifications,
}
