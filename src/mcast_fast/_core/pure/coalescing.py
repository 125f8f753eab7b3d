"""Coalescing under pressure: the twin of c/coalescing.c; c/coalescing.h says how it works, and why it is safe.

The exception of a signal's handler may end a switch in the middle: what it did stays, and the next look goes on, for
each of its steps can be done again.
"""

import errno
import os
import socket as socket_module
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from mcast_fast._core.coalescing import Change, CoalescingEvent, Mode
from mcast_fast._core.pure.reading import Socket
from mcast_fast._core.pure.tables import SYSTEM

LOOK_AFTER = 256  # packets, or what was coalesced, that were read without a gap: they were queued, and may be many
PRESSURE_PERCENT = 37  # of the buffer: what the kernel reports may be too much by a quarter of it
CALM_WINDOWS = 4  # without pressure, after which it is switched off;
CALM_WINDOWS_MOST = 120  # doubled up to this when that was too early,
TOO_EARLY = 10  # for it was switched on again within as many times as long
UNPRESSED_FACTOR = 5  # as many times longer where nearly as much arrives as under pressure
WINDOW_NS = 500_000_000
LEAST_TRUESIZE = 512  # bytes that the smallest packet takes of a buffer
SETTLED_NS = 100_000_000  # after which what was on its way when it was switched has come
_LONGEST_NAME = 16  # of an interface, with the zero behind it
_NETNS_COOKIE = 71  # <asm-generic/socket.h>
EVENTS = 64  # kept until they are taken, the latest


class Brought(NamedTuple):
    """What one read brought: buffers, the bytes in them, packets, those of them that came coalesced; whether there may
    be more; and when the last packet came, 0 where it does not say."""

    buffers: int
    bytes: int
    packets: int
    coalesced: int
    is_full: bool
    time: int


@dataclass(slots=True, eq=False)
class Group:
    """The sockets of a receiver that share a port and an IP version."""

    sockets: list[Socket] = field(default_factory=list)
    is_on: bool = False
    is_prepared: bool = False  # the first switch takes no longer than the others
    is_stuck: bool = False  # on for good
    is_settling: bool = False  # off, and what came coalesced before may still be dropped as one
    packets: int = 0  # since `since`
    since: int = 0  # the start of a window; 0: none has begun
    first: int = 0  # when the packets came between which there are `packets`, by their own times; 0: they have none
    last: int = 0
    buffers: int = 0  # since packets last came coalesced, or it was switched
    changed: int = 0  # when it was switched last
    has_coalesced: bool = False  # packets came coalesced since then, and since they settled
    rate: int = 0  # when it was switched on
    has_pressure: bool = False  # in this window
    calm: int = 0  # windows in a row without pressure, and with much less to receive
    unpressed: int = 0  # windows in a row without pressure
    calm_needed: int = 0  # after how many it is switched off
    has_reported: bool = False  # that it does not do what it should, since it was switched last
    enabled: set[int] = field(default_factory=set)  # keys of the sockets that report sizes
    decided: set[int] = field(default_factory=set)  # and of those whose decider is bound
    sizes: dict[int, int] = field(default_factory=dict)  # by key: bytes of the buffer, as last read
    gapless: dict[int, int] = field(default_factory=dict)  # by key: buffers since the last look
    reported_drops: dict[int, int] = field(default_factory=dict)  # by key: as reported with a packet, at the last look


class Coalescing:
    """When the kernel may hand over several packets of a receiver as one."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.window = WINDOW_NS
        self._groups: dict[tuple[int, int], Group] = {}
        self._events: deque[CoalescingEvent] = deque(maxlen=EVENTS)

    @property
    def is_on(self) -> bool:
        """Whether packets may come coalesced, at some socket."""
        return any(group.is_on for group in list(self._groups.values()))

    def add(self, one: Socket) -> None:
        """A socket that is received from now on."""
        group = self._groups.setdefault((one.port, one.family), Group(is_on=self.mode == Mode.ALWAYS))
        one.coalesces = group.is_on
        if self.mode == Mode.ALWAYS or (group.is_on and _set_coalescing(one.socket, True) == 0):
            group.enabled.add(one.key)
        memory = one.read_memory() if self.mode != Mode.NEVER else None
        group.sizes[one.key] = memory[1] if memory else 0
        group.sockets.append(one)

    def remove(self, one: Socket) -> None:
        """A socket that is received from no more."""
        group = self._groups.get((one.port, one.family))
        if group is None or one not in group.sockets:
            return
        group.sockets.remove(one)
        if not group.sockets:
            self._groups.pop((one.port, one.family), None)

    def hand_over(self, one: Socket, heir: Socket) -> None:
        """The decider of a socket that will be removed is that of another one, which is bound alike, from now on."""
        group = self._groups.get((one.port, one.family))
        if one.decider is None or group is None:
            return
        if one.key in group.decided:
            group.decided.add(heir.key)
        heir.decider, one.decider = one.decider, None

    def take_events(self) -> list[CoalescingEvent]:
        """What happened since the last call."""
        found = []
        with suppress(IndexError):
            while True:
                found.append(self._events.popleft())
        return found

    def note(self, one: Socket, brought: Brought, grow: Callable[[], object]) -> None:
        """After each read: looks at the socket's backlog now and then, and switches.

        `grow` makes the buffers large enough for what is coalesced."""
        group = self._groups.get((one.port, one.family))
        if self.mode == Mode.NEVER or group is None:
            return
        group.packets += brought.packets
        if brought.coalesced and not group.has_coalesced:
            group.has_coalesced = True
            for each in group.sockets:
                each.coalesces = True
        group.buffers = 0 if brought.coalesced else group.buffers + brought.buffers
        group.last = brought.time or group.last
        gapless = group.gapless[one.key] = group.gapless.get(one.key, 0) + brought.buffers
        has_dropped = one.overflow != group.reported_drops.get(one.key, 0)
        taken = brought.bytes + brought.buffers * LEAST_TRUESIZE
        size = group.sizes[one.key]
        was_full = not brought.is_full and 0 < size * PRESSURE_PERCENT < taken * 100
        now = time.monotonic_ns()
        is_over = group.is_on and now - group.since >= self.window
        if has_dropped or was_full or (brought.is_full and (is_over or gapless >= LOOK_AFTER)):
            self._look(group, one, taken if was_full else 0, has_dropped, grow)
            group.reported_drops[one.key] = one.overflow
            group.gapless[one.key] = 0
        if is_over:
            self._end_window(group, one, now)
        if group.is_settling and now - group.changed >= SETTLED_NS:
            _settle(group)
        if not group.is_on and brought.coalesced:
            self._look_who_coalesces(group, one)
        if brought.is_full:
            if group.since == 0:
                _begin_window(group, time.monotonic_ns())
            return
        group.gapless[one.key] = 0
        if not group.is_on:
            _begin_window(group, 0)

    # ---- looking ----

    def _look(self, group: Group, one: Socket, taken: int, dropped: bool, grow: Callable[[], object]) -> None:
        """How full the buffer is, or was before `taken` bytes of it were read, and what follows from it."""
        if not group.is_prepared:
            _prepare(group)
        drops = one.drops
        memory = one.read_memory()
        if memory is None:
            return
        backlog, buffer = min(max(memory[0], taken), memory[1]), memory[1]
        group.sizes[one.key] = buffer
        now = time.monotonic_ns()
        dropped = dropped or one.drops > drops
        change = Change.BEGAN_BY_DROPS if dropped else Change.BEGAN_BY_BACKLOG
        event = _event(change, one, backlog, buffer, _rate_now(group, now))
        is_pressed = dropped or backlog * 100 > buffer * PRESSURE_PERCENT
        if is_pressed:
            group.has_pressure = True
        if group.is_on:
            if is_pressed:
                self._look_whether_it_works(group, event, now)
        elif not group.has_pressure:
            _begin_window(group, now)
        else:
            grow()
            self._switch_on(group, event, now)

    def _look_whether_it_works(self, group: Group, event: CoalescingEvent, now: int) -> None:
        """It is on, and for longer than what was queued before can be nothing has come coalesced: the interface does
        not, or another socket, which was bound since, decides."""
        queued_before = group.buffers < event.buffer // LEAST_TRUESIZE or now - group.changed < SETTLED_NS
        if group.has_reported or queued_before:
            return
        group.has_reported = True
        _decide(group, True)
        self._events.append(event._replace(change=Change.DOES_NOT_WORK))

    def _look_who_coalesces(self, group: Group, one: Socket) -> None:
        """Packets come coalesced though it is off: on their way when it was switched, or by the decision of others."""
        now = time.monotonic_ns()
        if group.has_reported or now - group.changed < SETTLED_NS:
            return
        group.has_reported = True
        self._events.append(_event(Change.BY_OTHERS, one))

    def _end_window(self, group: Group, one: Socket, now: int) -> None:
        """It is on, and a window is over, and with it maybe the time for that."""
        elapsed = now - group.since
        rate, windows = _rate(group.packets, elapsed), elapsed // self.window
        group.unpressed = 0 if group.has_pressure else group.unpressed + windows
        group.calm = 0 if group.has_pressure or rate >= group.rate // 2 else group.calm + windows
        _begin_window(group, now)
        group.has_pressure = False
        if group.is_stuck or self.mode != Mode.UNDER_PRESSURE:
            return
        if group.calm >= group.calm_needed or group.unpressed >= group.calm_needed * UNPRESSED_FACTOR:
            self._switch_off(group, _event(Change.ENDED, one, rate=rate), now)

    # ---- switching ----

    def _switch_on(self, group: Group, event: CoalescingEvent, now: int) -> None:
        for each in group.sockets:
            each.read_memory()
            if each.key in group.enabled or _set_coalescing(each.socket, True) == 0:
                group.enabled.add(each.key)
                each.coalesces = True
        if not group.enabled:  # the system refuses the option: it is not tried again
            self.mode = Mode.NEVER
            return
        _decide(group, True)  # bound later than a socket of another program, it decides instead
        too_early = group.calm_needed and now - group.changed < TOO_EARLY * group.calm_needed * self.window
        group.calm_needed = min(group.calm_needed * 2, CALM_WINDOWS_MOST) if too_early else CALM_WINDOWS
        _begin(group, True, now)
        group.is_settling = False
        group.rate = event.rate
        self._events.append(event)

    def _switch_off(self, group: Group, event: CoalescingEvent, now: int) -> None:
        error = _decide(group, False)
        group.is_stuck = error != 0
        _begin(group, group.is_stuck, now)
        group.is_settling = not group.is_stuck
        self._events.append(event._replace(change=Change.STAYS if error else Change.ENDED, error=error))


def _event(change: Change, one: Socket, backlog: int = 0, buffer: int = 0, rate: int = 0) -> CoalescingEvent:
    return CoalescingEvent(time.time_ns(), change, 0, one.key, backlog, buffer, rate)


def _rate(packets: int, elapsed: int) -> int:
    return packets * 1_000_000_000 // elapsed if elapsed > 0 else 0


def _settle(group: Group) -> None:
    """What came coalesced before it was switched off has come."""
    for each in group.sockets:
        each.read_memory()
        each.coalesces = False
    group.is_settling = group.has_coalesced = False


def _rate_now(group: Group, now: int) -> int:
    """Packets per second: by the times of arrival where packets have them, else by those of reading."""
    has_times = 0 < group.first < group.last
    return _rate(group.packets, group.last - group.first if has_times else now - group.since)


def _begin_window(group: Group, now: int) -> None:
    group.since, group.first, group.packets = now, group.last, 0


def _begin(group: Group, is_on: bool, now: int) -> None:
    """What it is since now."""
    group.is_on = is_on
    _begin_window(group, now)
    group.changed = now
    group.buffers = group.calm = group.unpressed = 0
    group.has_pressure = group.has_reported = group.has_coalesced = False


def _prepare(group: Group) -> None:
    """The first socket of the host that is to coalesce has the kernel patch its own code: that is done before it is
    urgent. Nothing comes to the decider, for it is not bound (c/coalescing.c)."""
    group.is_prepared = True
    for each in group.sockets:
        if each.decider is not None and each.key not in group.decided and _set_coalescing(each.decider, True) == 0:
            _set_coalescing(each.decider, False)


def _set_coalescing(socket: socket_module.socket, coalesces: bool) -> int:
    """errno, or 0."""
    try:
        socket.setsockopt(*SYSTEM.options["UDP_GRO"], int(coalesces))
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def _decide(group: Group, coalesces: bool) -> int:
    """Has the deciders of a group say whether the kernel coalesces: 0, or errno of the last one that does not."""
    failure = None
    for each in group.sockets:
        if each.decider is None:
            continue
        found = _renew(each.decider, each.socket, coalesces) if each.key in group.decided else errno.EINVAL
        if found:  # not to be had, or not bound yet
            found = _set_coalescing(each.decider, coalesces)
        if found == 0 and each.key not in group.decided:
            found = _bind_alike(each.decider, each.socket)
        if found == errno.ENODEV:
            found = 0  # nothing comes by an interface that is gone
        elif found == 0:
            group.decided.add(each.key)
        failure = found or failure or 0
    return errno.ENOENT if failure is None else failure


def _bind_alike(socket: socket_module.socket, other: socket_module.socket) -> int:
    """Binds a socket as another one is, after it, but for its own device: errno, or 0."""
    try:
        address = other.getsockname()
        if len(address) == 4 and _device(socket):
            address = (*address[:3], 0)  # the scope would count for more than the device
        socket.bind(address)
    except OSError as error:
        return error.errno or errno.EINVAL
    return 0


def _device(socket: socket_module.socket) -> bytes:
    return socket.getsockopt(*SYSTEM.options["SO_BINDTODEVICE"], _LONGEST_NAME).rstrip(b"\0")


def _renew(decider: socket_module.socket, like: socket_module.socket, coalesces: bool) -> int:
    """Puts a socket that is bound after all others in place of a decider that was bound before: errno, or 0 with that
    as it was."""
    options, reuse = SYSTEM.options, (socket_module.SOL_SOCKET, socket_module.SO_REUSEADDR)
    try:
        with socket_module.socket(like.family, socket_module.SOCK_DGRAM, socket_module.IPPROTO_UDP) as fresh:
            fresh.setsockopt(*reuse, like.getsockopt(*reuse))
            fresh.setsockopt(socket_module.SOL_SOCKET, socket_module.SO_RCVBUF, 0)
            if like.family == socket_module.AF_INET6:
                fresh.setsockopt(socket_module.IPPROTO_IPV6, socket_module.IPV6_V6ONLY, 1)
            all_groups = "IPV6_MULTICAST_ALL" if like.family == socket_module.AF_INET6 else "IP_MULTICAST_ALL"
            fresh.setsockopt(*options[all_groups], 0)
            fresh.setsockopt(*options["SO_BINDTODEVICE"], _device(decider) + b"\0")
            if _namespace(fresh) != _namespace(like):
                return errno.EXDEV
            found = _set_coalescing(fresh, coalesces) or _bind_alike(fresh, like)
            if found == 0:
                os.dup2(fresh.fileno(), decider.fileno(), inheritable=False)
            return found
    except OSError as error:
        return error.errno or errno.EINVAL


def _namespace(socket: socket_module.socket) -> bytes:
    """What tells network namespaces apart (SO_NETNS_COOKIE); the same for all where the kernel does not say."""
    try:
        return socket.getsockopt(socket_module.SOL_SOCKET, _NETNS_COOKIE, 8)
    except OSError:
        return b""
