"""Subscriptions: what a live receiver is subscribed to, how it is changed, and what of it is joined.

One thread at a time is inside; a signal handler that calls in the middle of another call of its thread is refused.
"""

import contextlib
import errno
import socket
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address
from typing import TypeVar

from mcast_fast import _core
from mcast_fast._core.addresses import map_address, native, plain_text
from mcast_fast._host import igmp_version
from mcast_fast._host.interfaces import Interface, find_interface, interfaces, multicast_interfaces
from mcast_fast._host.watch import event
from mcast_fast._membership.desired import (
    ALL_INTERFACES,
    Changes,
    Defaults,
    GroupEndpoint,
    Skipped,
    SourceFilter,
    Subscription,
    bounded,
    complete,
    look_up,
    packed_groups,
    sources_of,
    subscribe,
    summary,
)
from mcast_fast._membership.joins import Joins, drop_totals
from mcast_fast._membership.memberships import MODES, Membership, Memberships
from mcast_fast._membership.plan import MemberSocket
from mcast_fast._units import iterated
from mcast_fast.errors import (
    ArgumentError,
    ClosedError,
    GroupError,
    SocketError,
    SsmWarning,
    warn,
)
from mcast_fast.groups import Group
from mcast_fast.stats import Event, What

T = TypeVar("T")
Change = Callable[[SourceFilter], SourceFilter | None]

MOST_EVENTS = 1000  # that are kept
VERSION_CHECK = 1.0  # seconds for which an IGMP or MLD version that was found is taken to stay
NOT_THERE = "the interface is not there yet"


class Subscriptions:
    """The desired state of a receiver. Every change is whole or not done, and idempotent; from any thread.

    `watch`: interfaces that are not there yet are waited for: the watch calls `reported`."""

    def __init__(self, joins: Joins, defaults: Defaults, watch: bool = False) -> None:
        self.events: tuple[Event, ...] = ()  # the latest MOST_EVENTS
        self.events_left_out = 0
        self._joins = joins
        self._defaults = defaults
        self._watch = watch
        self._skipped: dict[tuple[str, str], Skipped] = {}  # by group and interface
        self._awaited: dict[str, dict[Group, SourceFilter]] = {}  # by name of an interface that is not there yet
        self._everywhere: dict[Group, SourceFilter] = {}  # of "all": on interfaces that come later too
        self._known: dict[str, Interface] = {}  # by name: as it was when a group was last joined there
        self._checked: dict[tuple[int, str], float] = {}  # when the IGMP or MLD version was looked at; inf: warned
        self._without_address: set[int] = set()  # interfaces that had no IPv4 address when last looked at
        self._failures: dict[int, str] = {}  # why what is gone could not be joined at the index it has now
        self._lock = threading.RLock()
        self._is_busy = False
        self._closed = False

    def _alone(self, call: Callable[..., T], *arguments: object) -> T:
        """Make a call while no other is made. SocketError from a signal handler that came in the middle of one."""
        try:
            return self._locked(call, *arguments)
        finally:
            self._settle_for_others()

    def _locked(self, call: Callable[..., T], *arguments: object) -> T:
        with self._lock:
            if self._is_busy:
                text = "another membership call is being carried out in this thread; call again when it has returned"
                raise SocketError(errno.EBUSY, text, "join")
            self._is_busy = True
            try:
                self._check_open()
                self._joins.recover()
                result = call(*arguments)
            except (OSError, ValueError, KeyError):
                self._check_open()  # what is closed in the middle of a call answers with its own errors
                raise
            finally:
                self._is_busy = False
            return result

    def settle(self) -> None:
        """Have the kernel's filters be exact, where that was put off (`Rings.flush`). Waits for no other call, which
        checks at its end whether a call receives."""
        taken: list[bool] = []
        try:
            taken.extend(map(self._lock.acquire, (False,)))  # noted in the call that takes it: no signal comes between
            # Busy: a signal handler, in the middle of a call of its thread.
            if taken[0] and not self._is_busy and not self._closed:
                self._is_busy = True
                try:
                    self._joins.settle()
                    self._report_notices()
                finally:
                    self._is_busy = False
        finally:
            if taken and taken[0]:
                self._lock.release()

    def _settle_for_others(self) -> None:
        """Whoever began to receive while another thread had the lock did not get it, and does not look again."""
        if self._joins.is_overdue():
            self.settle()

    # ---- changing ----

    def start(self, groups: Iterable[str | Group]) -> None:
        """Join all groups of an opening; GroupError, InterfaceError, SocketError."""
        self._alone(lambda: self._add(subscribe(groups, self._defaults, self._watch)))

    def join(self, value: str | Group) -> bool:
        """Receive a group too, or one more source of it; whether that changed anything."""
        return self._alone(self._join, bounded(value))

    def _join(self, value: Group) -> bool:
        group = complete(self._with_port(value), self._defaults)
        if group.interface is not None or self._defaults.interface is not None:
            return self._add([self._look_up(group, self._defaults.interface)])
        there = self._named(group)
        if len({one.group for one in there}) == group.count:
            sources = sources_of(group)  # held already: the interfaces are those
            return self._apply({one: self._joins.wanted[one].union(sources) for one in there})
        return self._add([self._look_up(group, name) for name in self._interfaces_beside(group)])

    def _interfaces_beside(self, group: Group) -> list[str | None]:
        """Where groups of this IP version are, or where there is none, of the other; else [None]: as the routing table
        says."""
        names = self._joins.names
        by_version: dict[int, dict[str | None, None]] = {4: {}, 6: {}}
        for one in self._joins.table.endpoints:
            by_version[one.version][names.get(one.interface, str(one.interface))] = None
        for name, waits in self._awaited.items():
            for waiting in waits:
                by_version[waiting.version][name] = None
        return list(by_version[group.version] or by_version[10 - group.version] or {None: None})

    def _look_up(self, group: Group, default: str | int | None) -> Subscription:
        """As `look_up`; an interface that was used before and has its index still is not searched for again."""
        name = group.interface if group.interface is not None else default
        known = self._known.get(name) if isinstance(name, str) else None
        if known is not None:
            with contextlib.suppress(OSError, ValueError):
                if socket.if_nametoindex(known.name) == known.index:
                    return Subscription(group, (known,), sources_of(group))
        found = look_up(group, default, interfaces(), self._watch)
        if name != ALL_INTERFACES and isinstance(name, str) and len(found.interfaces) == 1:
            self._remember(name, found.interfaces[0])
        return found

    def _remember(self, name: str, interface: Interface) -> None:
        if interface.name == name:  # not by an address or an alternative name, which may belong to another one soon
            self._known[name] = interface

    def leave(self, value: str | Group) -> bool:
        """Receive a group, or one source of it, no more; whether that changed anything."""
        group = bounded(value)
        if group.source is None:
            return self._alone(self._change, group, lambda before: None, False)
        source = map_address(group.source)

        def narrow(before: SourceFilter) -> SourceFilter | None:
            if before.exclude:
                return before
            return before.without(source) if before.sources - {source} else None

        return self._alone(self._change, group, narrow, False)

    def block(self, value: str | Group, source: str) -> bool:
        """Receive one source of a group no more; whether that changed anything."""
        group = bounded(value)
        packed = _source_of(group, source)
        return self._alone(self._change, group, lambda before: before.without(packed), True)

    def unblock(self, value: str | Group, source: str) -> bool:
        """Receive a blocked source again; whether that changed anything."""
        group = bounded(value)
        packed = _source_of(group, source)
        return self._alone(self._change, group, lambda before: before.within(packed), True)

    def set_sources(self, value: str | Group, include: Iterable[str] | None, exclude: Iterable[str] | None) -> bool:
        """Receive exactly these sources of a group, or all but these; whether that changed anything."""
        if (include is None) == (exclude is None):
            raise ArgumentError("set_sources takes either include=[…] or exclude=[…]")
        group = bounded(value)
        texts = include if include is not None else exclude
        wanted = SourceFilter(
            include is None,
            frozenset(
                _source_of(group, text) for text in iterated(texts or (), "sources", "several addresses as text")
            ),
        )
        return self._alone(self._change, group, lambda before: wanted, True)

    def _change(self, group: Group, change: Change, must_be_there: bool) -> bool:
        """Change the wanted sources of every group and interface that the text names."""
        named = self._named(group)
        waiting = [(waits, one) for waits in self._waiting(group) for one in waits if self._means(group, one)]
        if must_be_there and not named and not waiting:
            raise GroupError(f"group {group} is not joined here; join it first")
        changed = self._apply({one: change(self._joins.wanted[one]) for one in named})
        for waits, one in waiting:
            after = change(waits[one])
            changed |= after != waits[one]
            if after is None:
                del waits[one]
            else:
                waits[one] = after
        self._awaited = {name: waits for name, waits in self._awaited.items() if waits}
        return changed

    def _apply(self, changes: Changes) -> bool:
        self._warn_of_old_versions(changes)
        changed = self._joins.apply(changes)
        self._report_notices()
        return changed

    def _report_notices(self) -> None:
        """A filter of the kernel that became coarse: an event, and a warning."""
        for interface, text in self._joins.notices():
            self._add_event(event(What.COARSE, interface, text))
            warn(f"{interface}: {text}")

    def _add(self, subscriptions: list[Subscription]) -> bool:
        """Join what must be joined as a whole, then what may fail (`all`) one interface at a time."""
        changes: Changes = {}
        for one in subscriptions:
            for interface in one.interfaces:
                self._joins.name_interface(interface.index, interface.name)
                self._remember(interface.name, interface)
                self._note_address(interface.index, interface.ipv4 is not None)
            if not one.optional:
                for interface in one.interfaces:
                    self._add_to(changes, one, interface.index)
        changed = self._apply(changes)
        for one in subscriptions:
            for skipped in one.skipped:
                self._skip(skipped)
            if one.awaited:
                changed |= self._wait_for(self._awaited.setdefault(one.awaited, {}), one)
            if one.optional:
                changed |= self._add_optional(one)
        return changed

    def _add_to(self, changes: Changes, subscription: Subscription, interface: int) -> None:
        """Add the groups at one interface; one that is requested again has the sources of both."""
        for one in subscription.group_endpoints(interface):
            before = changes.get(one) or self._joins.wanted.get(one)
            changes[one] = subscription.sources if before is None else before.union(subscription.sources)

    @staticmethod
    def _wait_for(waits: dict[Group, SourceFilter], subscription: Subscription) -> bool:
        """Note groups one by one, for each may be left; whether that is new."""
        changed = False
        for group in replace(subscription.group, source=None).expand():
            before = waits.get(group)
            waits[group] = subscription.sources if before is None else before.union(subscription.sources)
            changed |= waits[group] != before
        return changed

    def _add_optional(self, subscription: Subscription) -> bool:
        changed, joined, failure = False, False, None
        for interface in subscription.interfaces:
            changes: Changes = {}
            self._add_to(changes, subscription, interface.index)
            try:
                changed |= self._apply(changes)
                joined = True
            except SocketError as error:
                self._skip(Skipped(str(subscription.group), interface.name, str(error)))
                failure = error
        if self._watch:
            changed |= self._wait_for(self._everywhere, subscription)
        elif failure is not None and not joined:
            raise failure
        return changed

    # ---- names ----

    def _with_port(self, group: Group) -> Group:
        """A group that names no port means the only one there is."""
        ports = self._joins.table.by_port
        if group.port is not None or self._defaults.port is not None or len(ports) != 1:
            return group
        return replace(group, port=next(iter(ports)))

    def _port_of(self, group: Group) -> int | None:
        return group.port if group.port is not None else self._defaults.port

    def _named(self, group: Group) -> list[GroupEndpoint]:
        """The groups and interfaces that a text means: of any port and interface where it names none."""
        port = self._port_of(group)
        index = None
        if group.interface not in (None, ALL_INTERFACES):
            index = self._index_of(group.interface or "")
        by_group = self._joins.table.by_group
        return [
            one
            for packed in packed_groups(group)
            for one in by_group.get(packed, ())
            if port in (None, one.endpoint.port) and index in (None, one.endpoint.interface)
        ]

    def _index_of(self, interface: str) -> int:
        """An interface that may be gone by now is known by the name it had."""
        known = {name: index for index, name in self._joins.names.items()}
        if interface in known:
            return known[interface]
        return 0 if interface in self._awaited else find_interface(interface).index

    def _waiting(self, group: Group) -> list[dict[Group, SourceFilter]]:
        """Where groups wait for interfaces that a text names."""
        if group.interface is None:
            return [*self._awaited.values(), self._everywhere]
        if group.interface == ALL_INTERFACES:
            return [self._everywhere]
        return [self._awaited[group.interface]] if group.interface in self._awaited else []

    def _means(self, group: Group, waiting: Group) -> bool:
        """Whether a text means a group that waits."""
        offset = int.from_bytes(waiting.packed) - int.from_bytes(group.packed)
        return 0 <= offset < group.count and self._port_of(group) in (None, waiting.port)

    # ---- reporting ----

    def drops(self) -> int | None:
        """How many buffers the kernel dropped at our sockets so far, the closed ones too; None where it cannot say."""
        with contextlib.suppress(OSError):  # closed just now
            known = drop_totals(self._joins.sockets())
            return None if known is None else known + self._joins.closed_drops
        return self._joins.closed_drops

    def summary(self, limit: int) -> str:
        """The first groups that are wanted, and how many more there are."""
        return summary(self._joins.wanted, self._awaited, self._joins.names, limit)

    def memberships(self) -> Memberships:
        """What is wanted and what is held, and what of "all" was skipped and why."""
        return self._alone(self._memberships)

    def _memberships(self) -> Memberships:
        there: dict[MemberSocket, bool] = {}
        held = [self._membership(one, wanted, there) for one, wanted in self._joins.wanted.items()]
        known = {(one.group, one.port) for one in held} | {(one.address, one.port) for one in self._everywhere}
        skipped = [self._skipped_membership(one) for one in self._skipped.values()]
        waiting = [
            self._waiting_membership(one, name, wanted)
            for name, waits in self._awaited.items()
            for one, wanted in waits.items()
        ]
        return Memberships([*held, *(one for one in skipped if (one.group, one.port) in known), *waiting])

    def _skip(self, skipped: Skipped) -> None:
        self._skipped[skipped.group, skipped.interface] = skipped

    def _membership(self, one: GroupEndpoint, wanted: SourceFilter, there: dict[MemberSocket, bool]) -> Membership:
        """`there`: whether the interfaces of sockets are, as far as they were queried already."""
        endpoint = one.endpoint
        holders = self._joins.table.holders(one)
        for member in holders:
            if member not in there:
                there[member] = member.opened is None or member.opened.has_interface()
        gone = not all(there[member] for member in holders)
        refused = next((member.refused[one.group] for member in holders if one.group in member.refused), "")
        answers = [_core_filter(member.opened.socket, one) for member in holders if member.opened is not None]
        known = [] if gone else [filter_ for filter_ in answers if filter_ is not None]
        held = bool(known) or not answers or not _can_read_filters()
        reason = self._failures.get(endpoint.interface, "the interface is gone") if gone else refused
        if not reason and not held:
            reason = "the system does not hold it"
        if not holders:
            reason = "no source is wanted"
        return Membership(
            plain_text(one.group),
            endpoint.port,
            self._joins.names.get(endpoint.interface, str(endpoint.interface)),
            MODES[wanted.exclude],
            _texts(wanted.sources),
            bool(holders) and not reason,
            MODES[known[0][0]] if known else None,
            _in_order(source for _, sources in known for source in sources) if known else None,
            len(holders),
            reason,
        )

    @staticmethod
    def _skipped_membership(one: Skipped) -> Membership:
        group = Group.parse(one.group)
        sources = () if group.source is None else (group.source,)
        mode = MODES[group.source is None]
        return Membership(
            group.address, group.port or 0, one.interface, mode, sources, False, sockets=0, reason=one.reason
        )

    @staticmethod
    def _waiting_membership(one: Group, name: str, wanted: SourceFilter) -> Membership:
        mode, sources = MODES[wanted.exclude], _texts(wanted.sources)
        return Membership(one.address, one.port or 0, name, mode, sources, False, sockets=0, reason=NOT_THERE)

    def _warn_of_old_versions(self, changes: Changes) -> None:
        """Once an interface: source-specific joins that reach the network as any-source ones."""
        now = time.monotonic()
        specific = {one.endpoint for one, sources in changes.items() if sources is not None and not sources.exclude}
        for version, _, index in specific:
            key = (version, self._joins.names.get(index, ""))
            if now < self._checked.get(key, 0.0) + VERSION_CHECK:
                continue
            obstacle = igmp_version.obstacle(*key)
            self._checked[key] = float("inf") if obstacle else now
            if obstacle:
                text = f"source-specific joins on {key[1]} reach the network as any-source ones: {obstacle}"
                warn(text, SsmWarning)

    # ---- interfaces that come and go ----

    def known(self, index: int) -> Interface | None:
        """An interface as it was when a group was last joined there; None of one that is not known."""
        return self._known.get(self._joins.names.get(index, ""))

    def indexes(self) -> list[int]:
        """The interfaces that something is wanted on."""
        return list(self._joins.table.by_interface)

    def reported(self, what: What, index: int, name: str) -> bool:
        """The watch reports an event of an interface; False when it is to be reported again later.

        An interface that has a carrier now, and had none before, is reported as BACK in any case."""
        try:
            with self._lock:
                return self._reported(what, index, name)
        finally:
            self._settle_for_others()

    def _reported(self, what: What, index: int, name: str) -> bool:
        if self._closed:
            return True
        try:
            return self._locked(self._react, what, index, name)
        except ClosedError:
            return True
        except Exception as error:  # whatever it is, the next try may go well
            if what is not What.BACK:
                self._add_event(event(What.FAILED, name, f"{what.value}: {error}"))
                return what is not What.REJOINED
            self._note_failure(name, error)
            return False  # a new interface may not be ready yet

    def _note_failure(self, name: str, error: Exception) -> None:
        """Why an interface that is there again is not joined; an event when that is new."""
        text = f"the interface is there again, and not joined yet: {error}"
        for index in [index for index in self.indexes() if self._joins.names.get(index) == name]:
            if self._failures.get(index) != text:
                self._failures[index] = text
                self._add_event(event(What.FAILED, name, text))

    def _react(self, what: What, index: int, name: str) -> bool:
        if what is What.BACK:
            return self._welcome(index, name)
        detail = ""
        if what is What.RENAMED:
            detail = f"was {self._joins.names.get(index, index)}"
            self._joins.name_interface(index, name)
        elif what is What.REJOINED:
            self._joins.refresh(index)
        elif what is What.ADDRESS:
            self._refresh_unreported(index)
        self._add_event(event(what, name, detail))
        return True

    def _welcome(self, index: int, name: str) -> bool:
        """An interface is there: join what was held under its name, what waits for it, and what is wanted on all."""
        failed = self._joins.repair() is not None
        names = self._joins.names
        old = [one for one in self.indexes() if one != index and names.get(one) == name]
        if old:
            self._joins.name_interface(index, name)
            for one in old:
                self._joins.move(one, index)
                self._failures.pop(one, None)
            self._add_event(event(What.BACK, name, f"index {index}"))
        self._report_notices()
        return (self._join_waiting(index, name) if name in self._awaited or self._everywhere else True) and not failed

    def _join_waiting(self, index: int, name: str) -> bool:
        """Join what waits for an interface; whether there is nothing left to be tried again."""
        there = next((one for one in interfaces() if one.index == index and one.name == name), None)
        if there is None:
            return True  # gone again: another report will come
        waits = dict(self._awaited.get(name, {}))
        changed = False
        if waits:
            changed |= self._add([Subscription(group, (there,), sources) for group, sources in waits.items()])
            self._awaited.pop(name, None)
        if multicast_interfaces([there])[0]:
            for group, sources in self._everywhere.items():
                one = Subscription(group, (there,), sources)
                self._joins.name_interface(index, name)
                changes: Changes = {}
                self._add_to(changes, one, index)
                changed |= self._apply({key: after for key, after in changes.items() if key not in self._joins.wanted})
                self._skipped = {key: skipped for key, skipped in self._skipped.items() if key[1] != name}
        if changed:
            self._add_event(event(What.NEW, name, f"index {index}"))
        return True

    def _refresh_unreported(self, index: int) -> None:
        """The first IPv4 address came: what was reported without one, switches may have ignored (RFC 4541, 2.1.1)."""
        has_address = any(one.index == index and one.ipv4 is not None for one in interfaces())
        if has_address and index in self._without_address:
            self._joins.refresh(index, (4,))
        self._note_address(index, has_address)

    def _note_address(self, index: int, has_address: bool) -> None:
        (self._without_address.discard if has_address else self._without_address.add)(index)

    def _add_event(self, one: Event) -> None:
        kept = self.events[-(MOST_EVENTS - 1) :]
        self.events_left_out += len(self.events) - len(kept)
        self.events = (*kept, one)

    # ---- the end ----

    def close(self) -> None:
        """Nothing is changed any more, but what is being changed. Takes no lock."""
        self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the receiver is closed")


def _source_of(group: Group, text: str) -> bytes:
    """A source of this group, checked as the grammar checks it."""
    return map_address(replace(group, source=text).source or "")


def _texts(sources: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(map(plain_text, sorted(sources)))


def _in_order(packed: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(str(ip_address(source)) for source in sorted(packed))


def _can_read_filters() -> bool:
    return "MCAST_MSFILTER" in _core.membership.OPTIONS


def _core_filter(sock: socket.socket, one: GroupEndpoint) -> tuple[bool, tuple[bytes, ...]] | None:
    """The filter as the system holds it; None where it holds none, or cannot say."""
    if not _can_read_filters():
        return None
    with contextlib.suppress(OSError):
        return _core.membership.get_filter(sock, one.endpoint.interface, native(one.group))
    return None
