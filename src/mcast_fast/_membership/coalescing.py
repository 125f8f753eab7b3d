"""What happened to coalescing at the sockets of a receiver, as events (_core/c/coalescing.h says how it works)."""

import contextlib
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from mcast_fast._core.addresses import plain_text
from mcast_fast._core.coalescing import Change, CoalescingEvent
from mcast_fast._host import coalescing as host
from mcast_fast._host import port_users
from mcast_fast._membership.joins import Joins
from mcast_fast._membership.sockets import NOWHERE, OpenSocket
from mcast_fast._systems import SYSTEM
from mcast_fast._units import size_text
from mcast_fast.stats import Event, What

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots

MOST_EVENTS = 1000  # that are kept


class Coalescing:
    """The events of one receiver: the latest of them."""

    def __init__(self, slots: "Slots", joins: Joins) -> None:
        self._slots = slots
        self._joins = joins
        self._lock = threading.RLock()
        self._new: list[CoalescingEvent] = []  # that are not in words yet
        self._events: list[Event] = []

    @property
    def events(self) -> tuple[Event, ...]:
        """What happened so far, the oldest first."""
        with self._lock:
            self._new += self._slots.coalescing_events()
            while self._new:
                self._events.append(self._event(self._new[0]))
                del self._new[0]
        del self._events[:-MOST_EVENTS]
        return tuple(self._events)

    def _event(self, one: CoalescingEvent) -> Event:
        what, text = TEXTS[one.change]
        opened = next((each for each in self._joins.sockets() if each.key == one.key), None)
        index = 0 if opened is None else opened.endpoint.interface
        known = "" if opened is None else self._found(one.change, opened)
        return Event(one.time, what, self._joins.names.get(index, ""), f"{_subject(opened)}: {text(one)}{known}")

    def _found(self, change: Change, opened: OpenSocket) -> str:
        """What the host says about it: why nothing is coalesced, or who else would decide."""
        own = _inodes(self._joins.sockets())
        where = (opened.endpoint.interface, self._group(opened), opened.endpoint.port)
        if change in (Change.ENDED, Change.STAYS):
            return ""
        others = port_users.others(where[1], where[2], where[0], own)
        if others:
            return f"; at the port there is also {port_users.describe(others[0])}"
        return f": {host.explain(*where, own)}" if change is Change.DOES_NOT_WORK else ""

    def _group(self, opened: OpenSocket) -> bytes:
        """A group that a socket holds."""
        held = (member.filters for member in self._joins.members() if member.opened is opened)
        return opened.group if opened.group != NOWHERE else next(iter(next(held, ())), NOWHERE)


def _inodes(sockets: list[OpenSocket]) -> set[int]:
    """Of those that say whether packets are coalesced, or take them coalesced."""
    found = set()
    for each in (one for opened in sockets for one in opened.both()):
        with contextlib.suppress(OSError):  # closed just now
            found.add(os.fstat(each.fileno()).st_ino)
    return found


def _subject(opened: OpenSocket | None) -> str:
    """The group that a socket is bound to, or its port."""
    if opened is None:
        return "a socket that is closed"
    if opened.group == NOWHERE:
        return f"port {opened.endpoint.port} of IPv{opened.endpoint.version}"
    host = plain_text(opened.group)
    return f"{host}:{opened.endpoint.port}" if opened.endpoint.version == 4 else f"[{host}]:{opened.endpoint.port}"


def _began_by_backlog(one: CoalescingEvent) -> str:
    share = 100 * one.backlog // max(1, one.buffer)
    return f"backlog {share} % of {_buffer(one)} at {_rate(one)}; packets are coalesced and share times from now on"


def _began_by_drops(one: CoalescingEvent) -> str:
    return (
        f"the kernel dropped packets at a buffer of {_buffer(one)} at {_rate(one)}; packets are coalesced and share "
        "times from now on"
    )


def _buffer(one: CoalescingEvent) -> str:
    return size_text(one.buffer // SYSTEM.buffer_factor)


def _rate(one: CoalescingEvent) -> str:
    return f"{one.rate:,} packets/s"


TEXTS: dict[Change, tuple[What, Callable[[CoalescingEvent], str]]] = {
    Change.BEGAN_BY_BACKLOG: (What.COALESCING, _began_by_backlog),
    Change.BEGAN_BY_DROPS: (What.COALESCING, _began_by_drops),
    Change.ENDED: (
        What.COALESCING_ENDED,
        lambda one: f"{_rate(one)} without pressure; each packet has its own time from now on",
    ),
    Change.STAYS: (
        What.COALESCING,
        lambda one: f"packets stay coalesced, for it cannot be ended: {os.strerror(one.error)}",
    ),
    Change.DOES_NOT_WORK: (
        What.NOT_COALESCED,
        lambda one: f"nothing comes coalesced at {_rate(one)}",
    ),
    Change.BY_OTHERS: (
        What.COALESCING,
        lambda _: (
            "packets come coalesced without pressure: another socket decides, or a sender of this host uses UDP GSO"
        ),
    ),
}
