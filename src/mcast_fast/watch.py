"""Watch: the kernel's news of links and addresses, as events of the interfaces that somebody is joined on.

Rules of this room: it tells, and changes nothing. It hears the network namespace of the thread that opened it.
"""

import contextlib
import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass

from mcast_fast import netlink
from mcast_fast.errors import FeatureError, socket_error
from mcast_fast.interfaces import interfaces
from mcast_fast.stats import Event, What
from mcast_fast.systems import SYSTEM

IFF_UP = 0x1
IFF_RUNNING = 0x40
AF_BRIDGE = 7
GROUPS = netlink.RTMGRP_LINK | netlink.RTMGRP_IPV4_IFADDR | netlink.RTMGRP_IPV6_IFADDR
LARGEST_MESSAGE = 1 << 16
RETRY = 0.1  # seconds between tries to join an interface that is back, and not ready yet

log = logging.getLogger("mcast_fast")


@dataclass(slots=True)
class Link:
    """What was last heard of an interface."""

    name: str
    is_running: bool


def is_running(flags: int) -> bool:
    """Up, and with a carrier (netdevice(7))."""
    return flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING


def parse(data: bytes) -> list[tuple[int, int, int, str]]:
    """(message type, interface index, flags, name) of each message of links and addresses; any bytes can be given."""
    found = []
    for kind, _, body in netlink.messages(memoryview(data)):
        if kind in (netlink.RTM_NEWLINK, netlink.RTM_DELLINK) and len(body) >= netlink.IFINFOMSG.size:
            family, _, index, flags, _ = netlink.IFINFOMSG.unpack_from(body)
            if family == AF_BRIDGE:  # of a bridge's port, which stays when the bridge lets it go
                continue
            named = dict(netlink.attributes(body[netlink.IFINFOMSG.size :])).get(netlink.IFLA_IFNAME, memoryview(b""))
            found.append((kind, index, flags, bytes(named).partition(b"\0")[0].decode(errors="replace")))
        elif kind in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR) and len(body) >= netlink.IFADDRMSG.size:
            found.append((kind, netlink.IFADDRMSG.unpack_from(body)[4], 0, ""))
    return found


class Watch:
    """Calls `told(what, index, name)` in a thread of its own for every event of an interface in `indexes()`.

    BACK is told with the new index and repeated until `told` returns True."""

    def __init__(self, indexes: Callable[[], Collection[int]], told: Callable[[What, int, str], bool]) -> None:
        if reason := SYSTEM.missing.get("watch"):
            raise FeatureError(f"watch=True: {reason}; mcast_fast.features() lists what there is")
        self._indexes = indexes
        self._told = told
        self._gone: dict[str, int] = {}  # name -> the index it had
        self._pending: dict[str, int] = {}  # name -> new index, to be joined
        with contextlib.ExitStack() as undo:
            try:
                self._news = undo.enter_context(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE))
                self._news.bind((0, GROUPS))
                self._wake, self._waker = os.pipe()
            except OSError as error:
                raise socket_error("open", "the kernel's news of interfaces", error) from error
            undo.pop_all()
        # Listed after the news are bound to, so that no change falls between.
        self._links = {one.index: Link(one.name, one.is_up and one.has_carrier) for one in interfaces()}
        self._thread = threading.Thread(target=self._run, name="mcast-fast watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening; waits for the thread, unless it is the one that calls."""
        if self._waker < 0:
            return
        waker, self._waker = self._waker, -1
        os.close(waker)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._news, select.POLLIN)
        poll.register(self._wake, select.POLLIN)
        try:
            while True:
                ready = dict(poll.poll(RETRY * 1000 if self._pending else None))
                if self._wake in ready:
                    return
                if ready:
                    self._read()
                self._try_pending()
        finally:
            self._news.close()
            os.close(self._wake)

    def _read(self) -> None:
        try:
            data = self._news.recv(LARGEST_MESSAGE)
        except OSError as error:  # ENOBUFS: more news than the buffer held
            log.warning("news of interfaces were lost: %s", error)
            self._compare()
            return
        for kind, index, flags, name in parse(data):
            self._heard(kind, index, flags, name)

    def _compare(self) -> None:
        """Bring what is known up to date after news were lost."""
        now = {one.index: one for one in interfaces()}
        for index in [index for index in self._links if index not in now]:
            self._heard(netlink.RTM_DELLINK, index, 0, self._links[index].name)
        for one in now.values():
            flags = IFF_UP * one.is_up | IFF_RUNNING * one.has_carrier
            self._heard(netlink.RTM_NEWLINK, one.index, flags, one.name)

    def _heard(self, kind: int, index: int, flags: int, name: str) -> None:
        ours = index in self._indexes()
        if kind in (netlink.RTM_NEWADDR, netlink.RTM_DELADDR):
            if ours and index in self._links:
                self._told(What.ADDRESS, index, self._links[index].name)
        elif kind == netlink.RTM_DELLINK:
            link = self._links.pop(index, None)
            if ours and link is not None:
                self._gone[link.name] = index
                self._told(What.GONE, index, link.name)
        else:
            self._link(index, Link(name, is_running(flags)), ours)

    def _link(self, index: int, now: Link, ours: bool) -> None:
        before = self._links.get(index)
        self._links[index] = now
        if now.name in self._gone and now.is_running:
            self._pending[now.name] = index
        if not ours or before is None:
            return
        if before.name != now.name:
            self._told(What.RENAMED, index, now.name)
        if before.is_running != now.is_running:
            self._told(What.UP if now.is_running else What.DOWN, index, now.name)

    def _try_pending(self) -> None:
        for name, index in list(self._pending.items()):
            if self._told(What.BACK, index, name):
                del self._pending[name]
                self._gone.pop(name, None)


def event(what: What, interface: str, detail: str = "") -> Event:
    """An event of now, which is logged too."""
    log.info("interface %s: %s %s", interface, what.value, detail)
    return Event(time.time_ns(), what, interface, detail)
