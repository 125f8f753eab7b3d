"""The desired state: which sources of which group on which interface are wanted at which port; and what the texts of a
user mean.

Rules of this room: nothing is opened or joined here, but names of interfaces are looked up. A `Place` is where a socket
can stand, a `Channel` what it can hold, and a `SourceFilter` whom it listens to (RFC 3678: include or exclude a set of
sources).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from mcast_fast._core.addresses import map_address, native, plain_text
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

    @property
    def native_group(self) -> bytes:
        """The four or sixteen bytes that the operating system takes."""
        return native(self.group)


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """Whom to listen to: only `sources`, or (exclude) all but `sources`; packed, 16 bytes each."""

    exclude: bool = True
    sources: frozenset[bytes] = frozenset()

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
class Subscription:
    """What a user asked for, looked up: the groups, the interfaces, and the sources."""

    group: Group
    interfaces: tuple[Interface, ...]
    sources: SourceFilter

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
    """The group with the defaults filled in; GroupError when it has no port then.

    The interface is not filled in: as an argument it may be what the grammar has no room for (an IPv6 address)."""
    group = Group.coerce(value)
    if group.port is None and defaults.port is not None:
        group = replace(group, port=defaults.port)
    if group.source is None and defaults.source is not None:
        group = replace(group, source=defaults.source)
    if group.port is None:
        brackets = f"[{group.address}]" if group.version == 6 else group.address
        raise GroupError(f"group {str(value)!r} has no port; write {brackets}:5000, or pass port=5000")
    return group


def wanted_interfaces(group: Group, default: str | int | None, known: Sequence[Interface]) -> tuple[Interface, ...]:
    """The interfaces a group is to be joined on: its own, the default's, every one (`all`), or the routing table's
    choice."""
    wanted = group.interface if group.interface is not None else default
    if wanted is None:
        return (default_interface(group.address),)
    if wanted != ALL_INTERFACES:
        return (find_interface(wanted),)
    fit, skipped = multicast_interfaces(known)
    if not fit:
        reasons = "; ".join(f"{interface.name}: {reason}" for interface, reason in skipped)
        raise InterfaceError(
            f"group {group}: no interface is up and multicast-capable ({reasons}); name one with %interface"
        )
    return tuple(fit)


def subscribe(groups: Iterable[str | Group], defaults: Defaults) -> list[Subscription]:
    """Look up what the texts of a user mean; GroupError, InterfaceError."""
    known = interfaces()
    found = []
    for value in groups:
        group = complete(value, defaults)
        sources = ANY_SOURCE if group.source is None else SourceFilter(False, frozenset([map_address(group.source)]))
        found.append(Subscription(group, wanted_interfaces(group, defaults.interface, known), sources))
    return found


def wanted_by(subscriptions: Iterable[Subscription]) -> Wanted:
    """The desired state: a channel that several ask for listens to the sources of each."""
    wanted: Wanted = {}
    for subscription in subscriptions:
        for channel in subscription.channels():
            before = wanted.get(channel)
            wanted[channel] = subscription.sources if before is None else before.union(subscription.sources)
    return wanted


def channel_text(channel: Channel, names: dict[int, str]) -> str:
    """A channel as errors name it: '239.1.1.1 on eth0'."""
    index = channel.place.interface
    return f"{plain_text(channel.group)} on {names.get(index, index)}"
