"""Subscriptions: what a live receiver is subscribed to, how it is changed, and what of it is really joined."""

import contextlib
import threading
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address

from mcast_fast import _core, igmp
from mcast_fast._core.addresses import map_address, native, plain_text
from mcast_fast.errors import ArgumentError, ClosedError, GroupError, SocketError, SsmWarning
from mcast_fast.groups import Group
from mcast_fast.interfaces import find_interface, interfaces
from mcast_fast.joins import Joins, drop_totals
from mcast_fast.membership import (
    ALL_INTERFACES,
    Channel,
    Defaults,
    Skipped,
    SourceFilter,
    Subscription,
    Wanted,
    add_to,
    complete,
    look_up,
    sources_of,
    subscribe,
)
from mcast_fast.stats import Event, What
from mcast_fast.watch import event

Change = Callable[[SourceFilter | None], SourceFilter | None]

MODES = {True: "exclude", False: "include"}


@dataclass(frozen=True, slots=True)
class Membership:
    """One group on one interface, as it is wanted and as it is held.

    `mode` and `sources`: wanted; "exclude" with no sources is any-source. `joined`: whether a socket holds it now.
    `kernel_mode`, `kernel_sources`: read back from the sockets' own filters (RFC 3678 5.2.2, sources of all sockets
    together); None where the system cannot tell, or nothing is held. `sockets`: how many share it. `reason`: why it is
    not joined.
    """

    group: str
    port: int
    interface: str
    mode: str
    sources: tuple[str, ...]
    joined: bool = True
    kernel_mode: str | None = None
    kernel_sources: tuple[str, ...] | None = None
    sockets: int = 1
    reason: str = ""


class Subscriptions:
    """The desired state of a receiver. Every change is whole or not done, and idempotent; from any thread."""

    def __init__(self, joins: Joins, defaults: Defaults) -> None:
        self.events: list[Event] = []
        self._joins = joins
        self._defaults = defaults
        self._skipped: dict[tuple[str, str], Skipped] = {}  # by group and interface
        self._warned: set[tuple[int, str]] = set()
        self._without_address: set[int] = set()  # interfaces that had no IPv4 address when last looked at
        self._lock = threading.RLock()
        self._closed = False

    # ---- changing ----

    def start(self, groups: Iterable[str | Group]) -> None:
        """Join all groups of an opening; GroupError, InterfaceError, SocketError."""
        with self._lock:
            self._add(subscribe(groups, self._defaults))

    def join(self, value: str | Group) -> bool:
        """Listen to a group too, or to one more source of it; whether that changed anything."""
        with self._lock:
            self._check_open()
            group = complete(self._with_port(Group.coerce(value)), self._defaults)
            there = self._named(group) if group.interface is None and self._defaults.interface is None else []
            if len(there) != group.count:
                return self._add([look_up(group, self._defaults.interface, interfaces())])
            wanted = dict(self._joins.wanted)
            for channel in there:  # held already: the interfaces are those
                add_to(wanted, channel, sources_of(group))
            return self._bring_about(wanted)

    def leave(self, value: str | Group) -> bool:
        """Listen to a group, or to one source of it, no more; whether that changed anything."""
        group = Group.coerce(value)
        if group.source is None:
            return self._change(group, lambda before: None, must_be_there=False)
        source = map_address(group.source)

        def narrow(before: SourceFilter | None) -> SourceFilter | None:
            if before is None or before.exclude:
                return before
            return before.without(source) if before.sources - {source} else None

        return self._change(group, narrow, must_be_there=False)

    def block(self, value: str | Group, source: str) -> bool:
        """Hear one source of a group no more; whether that changed anything."""
        return self._of_source(value, source, SourceFilter.without)

    def unblock(self, value: str | Group, source: str) -> bool:
        """Hear a blocked source again; whether that changed anything."""
        return self._of_source(value, source, SourceFilter.within)

    def set_sources(self, value: str | Group, include: Iterable[str] | None, exclude: Iterable[str] | None) -> bool:
        """Listen to exactly these sources of a group, or to all but these; whether that changed anything."""
        if (include is None) == (exclude is None):
            raise ArgumentError("set_sources takes either include=[…] or exclude=[…]")
        group = Group.coerce(value)
        texts = include if include is not None else exclude
        sources = frozenset(_source_of(group, text) for text in texts or ())
        return self._change(group, lambda before: SourceFilter(include is None, sources))

    def _of_source(self, value: str | Group, text: str, change: Callable[[SourceFilter, bytes], SourceFilter]) -> bool:
        group = Group.coerce(value)
        source = _source_of(group, text)
        return self._change(group, lambda before: None if before is None else change(before, source))

    def _change(self, group: Group, change: Change, must_be_there: bool = True) -> bool:
        """Change the wanted sources of every channel that the group's text names."""
        with self._lock:
            self._check_open()
            named = self._named(group)
            if must_be_there and not named:
                raise GroupError(f"group {group} is not joined here; join it first")
            wanted = dict(self._joins.wanted)
            for channel in named:
                after = change(wanted.pop(channel))
                if after is not None:
                    wanted[channel] = after
            return self._bring_about(wanted)

    def _bring_about(self, wanted: Wanted) -> bool:
        self._warn_of_old_versions(wanted)
        return self._joins.bring_about(wanted)

    def _add(self, subscriptions: list[Subscription]) -> bool:
        """Join what must be joined as a whole, then what may fail (`all`) one interface at a time."""
        wanted = dict(self._joins.wanted)
        for one in subscriptions:
            for interface in one.interfaces:
                self._joins.names[interface.index] = interface.name
                self._note_address(interface.index, interface.ipv4 is not None)
            for channel in () if one.optional else one.channels():
                add_to(wanted, channel, one.sources)
        changed = self._bring_about(wanted)
        for one in subscriptions:
            self._skip(*one.skipped)
            if one.optional:
                changed |= self._add_optional(one)
        return changed

    def _add_optional(self, subscription: Subscription) -> bool:
        changed, joined, failure = False, False, None
        for interface in subscription.interfaces:
            wanted = dict(self._joins.wanted)
            for channel in replace(subscription, interfaces=(interface,)).channels():
                add_to(wanted, channel, subscription.sources)
            try:
                changed |= self._bring_about(wanted)
                joined = True
            except SocketError as error:
                self._skip(Skipped(str(subscription.group), interface.name, str(error)))
                failure = error
        if failure is not None and not joined:
            raise failure
        return changed

    # ---- names ----

    def _with_port(self, group: Group) -> Group:
        """A group that names no port means the only one there is."""
        ports = {channel.place.port for channel in self._joins.wanted}
        if group.port is not None or self._defaults.port is not None or len(ports) != 1:
            return group
        return replace(group, port=ports.pop())

    def _named(self, group: Group) -> list[Channel]:
        """The channels that a text means: of any port and interface where it names none."""
        addresses = {one.packed for one in group.expand()}
        port = group.port if group.port is not None else self._defaults.port
        index = None
        if group.interface not in (None, ALL_INTERFACES):
            index = self._index_of(group.interface or "")
        return [
            channel
            for channel in self._joins.wanted
            if channel.group in addresses
            and port in (None, channel.place.port)
            and index in (None, channel.place.interface)
        ]

    def _index_of(self, interface: str) -> int:
        """An interface that may be gone by now is known by the name it had."""
        known = {name: index for index, name in self._joins.names.items()}
        return known[interface] if interface in known else find_interface(interface).index

    # ---- telling ----

    def drops(self) -> int | None:
        """How many buffers the kernel dropped at our sockets so far, the closed ones too; None where it cannot say."""
        with self._lock:
            known = drop_totals(self._joins.sockets())
            return None if known is None else known + self._joins.closed_drops

    def memberships(self) -> list[Membership]:
        """What is wanted and what is held, and what of "all" was skipped and why."""
        with self._lock:
            self._check_open()
            held = [self._membership(channel, wanted) for channel, wanted in self._joins.wanted.items()]
            there = {(one.group, one.port) for one in held}
            skipped = [self._skipped_membership(one) for one in self._skipped.values()]
            return held + [one for one in skipped if (one.group, one.port) in there]

    def _skip(self, *skipped: Skipped) -> None:
        self._skipped |= {(one.group, one.interface): one for one in skipped}

    def _membership(self, channel: Channel, wanted: SourceFilter) -> Membership:
        place = channel.place
        holders = [seat for seat in self._joins.seats() if seat.place == place and channel.group in seat.shares]
        told = [_core_filter(seat.opened.socket, channel) for seat in holders if seat.opened is not None]
        gone = any(not seat.opened.has_interface() for seat in holders if seat.opened is not None)
        known = [] if gone else [one for one in told if one is not None]
        held = bool(known) or not told or not _can_read_filters()
        reason = "the interface is gone" if gone else "" if held else "the system does not hold it"
        if not holders:
            reason = "no source is wanted"
        return Membership(
            plain_text(channel.group),
            place.port,
            self._joins.names.get(place.interface, str(place.interface)),
            MODES[wanted.exclude],
            tuple(map(plain_text, sorted(wanted.sources))),
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

    def _warn_of_old_versions(self, wanted: Wanted) -> None:
        """Once an interface: source-specific joins that reach the network as any-source ones."""
        for channel, sources in wanted.items():
            key = (channel.place.version, self._joins.names.get(channel.place.interface, ""))
            if sources.exclude or key in self._warned:
                continue
            if obstacle := igmp.obstacle(*key):
                self._warned.add(key)
                text = f"source-specific joins on {key[1]} ask the network for any source: {obstacle}"
                warnings.warn(text, SsmWarning, stacklevel=2)

    # ---- interfaces that come and go ----

    def indexes(self) -> set[int]:
        """The interfaces that something is wanted on."""
        return {channel.place.interface for channel in list(self._joins.wanted)}

    def told(self, what: What, index: int, name: str) -> bool:
        """The watch tells of an interface; whether it need not be told again."""
        with self._lock:
            if self._closed:
                return True
            try:
                return self._react(what, index, name)
            except (SocketError, OSError) as error:
                if what is not What.BACK:
                    self.events.append(event(what, name, f"not joined afresh: {error}"))
                return what is not What.BACK  # a new interface may not be ready yet

    def _react(self, what: What, index: int, name: str) -> bool:
        detail = ""
        if what is What.BACK:
            self._joins.names[index] = name
            for old in [old for old in self.indexes() if old != index and self._joins.names.get(old) == name]:
                self._joins.move(old, index)
            detail = f"index {index}"
        elif what is What.RENAMED:
            detail, self._joins.names[index] = f"was {self._joins.names.get(index, index)}", name
        elif what is What.UP:
            self._joins.refresh(index)
        elif what is What.ADDRESS:
            self._refresh_unreported(index)
        self.events.append(event(what, name, detail))
        return True

    def _refresh_unreported(self, index: int) -> None:
        """The first IPv4 address came: what was reported without one, switches may have ignored (RFC 4541, 2.1.1)."""
        has_address = any(one.index == index and one.ipv4 is not None for one in interfaces())
        if has_address and index in self._without_address:
            self._joins.refresh(index, (4,))
        self._note_address(index, has_address)

    def _note_address(self, index: int, has_address: bool) -> None:
        (self._without_address.discard if has_address else self._without_address.add)(index)

    # ---- the end ----

    def close(self) -> None:
        """Nothing is changed any more."""
        with self._lock:
            self._closed = True

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the receiver is closed")


def _source_of(group: Group, text: str) -> bytes:
    """A source of this group, checked as the grammar checks it."""
    return map_address(replace(group, source=text).source or "")


def _in_order(packed: Iterable[bytes]) -> tuple[str, ...]:
    return tuple(str(ip_address(source)) for source in sorted(packed))


def _can_read_filters() -> bool:
    return "MCAST_MSFILTER" in _core.membership.OPTIONS


def _core_filter(sock: object, channel: Channel) -> tuple[bool, tuple[bytes, ...]] | None:
    """The filter as the system holds it; None where it holds none, or cannot tell."""
    if not _can_read_filters():
        return None
    with contextlib.suppress(OSError):
        return _core.membership.get_filter(sock, channel.place.interface, native(channel.group))  # type: ignore[arg-type]
    return None
