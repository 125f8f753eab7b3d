"""The desired state: which sources of which group on which interface are wanted at which port; and what the texts of a
user mean.

Rules of this room: nothing is opened or joined here, but names of interfaces are looked up. A `Place` is where a socket
can stand, a `Channel` what it can hold, and a `SourceFilter` whom it listens to (RFC 3678: include or exclude a set of
sources).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mcast_fast._core.addresses import map_address, plain_text
from mcast_fast.errors import GroupError, InterfaceError
from mcast_fast.groups import Group
from mcast_fast.interfaces import Interface, default_interface, find_interface, interfaces, multicast_interfaces

ALL_INTERFACES = "all"


class Place(NamedTuple):
    """Where a socket stands: IP version, UDP port, index of its interface."""

    version: int
    port: int
    interface: int


class Channel(NamedTuple):
    """A group at a place; the group's address is packed, 16 bytes."""

    place: Place
    group: bytes


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """Whom to listen to: only `sources`, or (exclude) all but `sources`; packed, 16 bytes each."""

    exclude: bool = True
    sources: frozenset[bytes] = frozenset()

    def without(self, source: bytes) -> "SourceFilter":
        """The same but for one source that is not wanted any more."""
        return SourceFilter(self.exclude, self.sources | {source} if self.exclude else self.sources - {source})

    def within(self, source: bytes) -> "SourceFilter":
        """The same and one source that is wanted."""
        return SourceFilter(self.exclude, self.sources - {source} if self.exclude else self.sources | {source})

    def union(self, other: "SourceFilter") -> "SourceFilter":
        """Whom one of both listens to."""
        if self.exclude and other.exclude:
            return SourceFilter(True, self.sources & other.sources)
        if self.exclude:
            return SourceFilter(True, self.sources - other.sources)
        if other.exclude:
            return SourceFilter(True, other.sources - self.sources)
        return SourceFilter(False, self.sources | other.sources)


ANY_SOURCE = SourceFilter()

Wanted = dict[Channel, SourceFilter]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A group that was not joined on an interface of "all", and why."""

    group: str
    interface: str
    reason: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a user asked for, looked up: the groups, the interfaces, and the sources; and what of "all" is not fit."""

    group: Group
    interfaces: tuple[Interface, ...]
    sources: SourceFilter
    skipped: tuple[Skipped, ...] = ()

    @property
    def optional(self) -> bool:
        """Whether one of its interfaces may fail: one dead interface of "all" never aborts the rest."""
        return self.group.interface == ALL_INTERFACES

    def channels(self) -> Iterable[Channel]:
        """Every (place, group) of it."""
        for group in self.group.expand():
            for interface in self.interfaces:
                yield Channel(Place(group.version, group.port or 0, interface.index), group.packed)


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a group's own text leaves out."""

    port: int | None = None
    interface: str | int | None = None
    source: str | None = None


def complete(value: str | Group, defaults: Defaults) -> Group:
    """The group with the defaults filled in; GroupError when it has no port then."""
    group = Group.coerce(value)
    if group.port is None and defaults.port is not None:
        group = replace(group, port=defaults.port)
    if group.source is None and defaults.source is not None:
        group = replace(group, source=defaults.source)
    if group.interface is None and defaults.interface == ALL_INTERFACES:
        group = replace(group, interface=ALL_INTERFACES)
    if group.port is None:
        brackets = f"[{group.address}]" if group.version == 6 else group.address
        raise GroupError(f"group {str(value)!r} has no port; write {brackets}:5000, or pass port=5000")
    return group


def sources_of(group: Group) -> SourceFilter:
    """Whom a group's text listens to."""
    return ANY_SOURCE if group.source is None else SourceFilter(False, frozenset([map_address(group.source)]))


def look_up(group: Group, default: str | int | None, known: Sequence[Interface]) -> Subscription:
    """The interfaces a group is to be joined on: its own, the default's, every one (`all`), or the routing table's.

    The default may be what the grammar has no room for: an IPv6 address."""
    sources = sources_of(group)
    wanted = group.interface if group.interface is not None else default
    if wanted != ALL_INTERFACES:
        one = default_interface(group.address) if wanted is None else find_interface(wanted)
        return Subscription(group, (one,), sources)
    fit, unfit = multicast_interfaces(known)
    if not fit:
        reasons = "; ".join(f"{interface.name}: {reason}" for interface, reason in unfit)
        raise InterfaceError(
            f"group {group}: no interface is up and multicast-capable ({reasons}); name one with %interface"
        )
    skipped = tuple(Skipped(str(group), interface.name, reason) for interface, reason in unfit)
    return Subscription(group, tuple(fit), sources, skipped)


def subscribe(groups: Iterable[str | Group], defaults: Defaults) -> list[Subscription]:
    """Look up what the texts of a user mean; GroupError, InterfaceError."""
    known = interfaces()
    return [look_up(complete(value, defaults), defaults.interface, known) for value in groups]


def add_to(wanted: Wanted, channel: Channel, sources: SourceFilter) -> None:
    """A channel that is asked for again listens to the sources of both."""
    before = wanted.get(channel)
    wanted[channel] = sources if before is None else before.union(sources)


def channel_text(channel: Channel, names: dict[int, str]) -> str:
    """A channel as errors name it: '239.1.1.1 on eth0'."""
    index = channel.place.interface
    return f"{plain_text(channel.group)} on {names.get(index, index)}"
