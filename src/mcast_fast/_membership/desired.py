"""The desired state: which sources of which group on which interface are wanted at which port; and what the texts of a
user mean.

Nothing is opened or joined here, but names of interfaces are looked up. An `Endpoint` is what a socket is bound to, a
`GroupEndpoint` a group that it can hold there, and a `SourceFilter` the sources that are wanted of it (RFC 3678:
include or exclude a set of sources).
"""

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from itertools import islice
from typing import NamedTuple, TypeVar

from mcast_fast._core.addresses import map_address, plain_text
from mcast_fast._host.interfaces import Interface, default_interface, find_interface, interfaces, multicast_interfaces
from mcast_fast._units import checked
from mcast_fast.errors import Argument, GroupError, InterfaceError
from mcast_fast.groups import Group, check_port, is_multicast

T = TypeVar("T")

ALL_INTERFACES = "all"
IFNAMSIZ = 16  # bytes of an interface's name, with its NUL (netdevice(7))


class Endpoint(NamedTuple):
    """What a socket is bound to: IP version, UDP port, index of its interface."""

    version: int
    port: int
    interface: int


class GroupEndpoint(NamedTuple):
    """A group at an endpoint; the group's address is packed, 16 bytes."""

    endpoint: Endpoint
    group: bytes


@dataclass(frozen=True, slots=True)
class SourceFilter:
    """The sources that are wanted: only `sources`, or (exclude) all but `sources`; packed, 16 bytes each."""

    exclude: bool = True
    sources: frozenset[bytes] = frozenset()

    def without(self, source: bytes) -> "SourceFilter":
        """The same but for one source that is not wanted any more."""
        return SourceFilter(self.exclude, self.sources | {source} if self.exclude else self.sources - {source})

    def within(self, source: bytes) -> "SourceFilter":
        """The same and one source that is wanted."""
        return SourceFilter(self.exclude, self.sources - {source} if self.exclude else self.sources | {source})

    def union(self, other: "SourceFilter") -> "SourceFilter":
        """What one of both wants."""
        if self.exclude and other.exclude:
            return SourceFilter(True, self.sources & other.sources)
        if self.exclude:
            return SourceFilter(True, self.sources - other.sources)
        if other.exclude:
            return SourceFilter(True, other.sources - self.sources)
        return SourceFilter(False, self.sources | other.sources)


ANY_SOURCE = SourceFilter()

Wanted = dict[GroupEndpoint, SourceFilter]
Changes = dict[GroupEndpoint, SourceFilter | None]
"""What is to be different: the sources wanted from now on, or None where the group is left."""

MOST_GROUPS = 65_536  # that one text (`+N`) can mean: what is planned for them has to fit into memory


@dataclass(frozen=True, slots=True)
class Skipped:
    """A group that was not joined on an interface of "all", and why."""

    group: str
    interface: str
    reason: str


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a user requested, looked up: the groups, the interfaces, and the sources; and what of "all" is not fit.

    `awaited`: the name of an interface that is not there yet."""

    group: Group
    interfaces: tuple[Interface, ...]
    sources: SourceFilter
    skipped: tuple[Skipped, ...] = ()
    awaited: str = ""

    @property
    def optional(self) -> bool:
        """Whether one of its interfaces may fail: one dead interface of "all" never aborts the rest."""
        return self.group.interface == ALL_INTERFACES

    def group_endpoints(self, interface: int) -> Iterable[GroupEndpoint]:
        """Every group of it, at one of its interfaces."""
        endpoint = Endpoint(self.group.version, self.group.port or 0, interface)
        return (GroupEndpoint(endpoint, group) for group in packed_groups(self.group))


def packed_groups(group: Group) -> Iterable[bytes]:
    """The addresses of a run of groups, packed."""
    first = int.from_bytes(group.packed)
    return (number.to_bytes(16) for number in range(first, first + group.count))


@dataclass(frozen=True, slots=True)
class Defaults:
    """What a group's own text leaves out."""

    port: int | None = None
    interface: str | int | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        """Checked although every group may say it itself. GroupError, ArgumentError."""
        if self.port is not None:
            check_port(self.port)
        checked(self.interface, str | int | None, "interface", "a name, an address or an index")
        checked(self.source, str | None, "source", "an address as text")


def bounded(value: str | Group) -> Group:
    """A group, or a run of as many as one call takes; GroupError."""
    group = Group.coerce(value)
    if group.count > MOST_GROUPS:
        raise GroupError(
            f"group {group}: {group.count:,} groups are more than the {MOST_GROUPS:,} that one text may name"
        )
    return group


def _is_group(address: str) -> bool:
    try:
        return is_multicast(address)
    except GroupError:
        return False


def complete(value: str | Group, defaults: Defaults) -> Group:
    """The group with the defaults filled in; GroupError when it has no port then."""
    group = bounded(value)
    if group.port is None and defaults.port is not None:
        group = replace(group, port=defaults.port)
    if group.source is None and defaults.source is not None:
        group = replace(group, source=defaults.source)
    if group.interface is None and defaults.interface == ALL_INTERFACES:
        group = replace(group, interface=ALL_INTERFACES)
    if group.port is None:
        brackets = f"[{group.address}]" if group.version == 6 else group.address
        first, _, last = group.address.rpartition(":")
        is_port = last.isdigit() and ":" in first and _is_group(first)
        perhaps = f", or, if {last} is the port, [{first}]:{last}" if is_port else ""
        missing = f"group {str(value)!r} has no port; write {brackets}:5000, or pass "
        raise GroupError(missing, Argument("port", "5000"), perhaps)
    return group


def sources_of(group: Group) -> SourceFilter:
    """Whom a group's text listens to."""
    return ANY_SOURCE if group.source is None else SourceFilter(False, frozenset([map_address(group.source)]))


def look_up(
    group: Group, default: str | int | None, known: Sequence[Interface], may_wait: bool = False
) -> Subscription:
    """The interfaces a group is to be joined on: its own, the default's, every one (`all`), or the routing table's.

    The default may be what the grammar has no space for: an IPv6 address. `may_wait`: a name that no interface has, and
    "all" where none is fit, are no InterfaceError."""
    sources = sources_of(group)
    wanted = group.interface if group.interface is not None else default
    if wanted is None:
        return Subscription(group, (default_interface(group.address, known),), sources)
    if wanted != ALL_INTERFACES:
        try:
            return Subscription(group, (_find(wanted, known),), sources)
        except InterfaceError:
            if not may_wait or not is_name(wanted):
                raise
            return Subscription(group, (), sources, awaited=str(wanted))
    fit, unfit = multicast_interfaces(known)
    if not fit and not may_wait:
        reasons = "; ".join(f"{interface.name}: {reason}" for interface, reason in unfit)
        raise InterfaceError(
            f"group {group}: no interface is up and multicast-capable ({reasons}); name one with %interface"
        )
    skipped = tuple(Skipped(str(group), interface.name, reason) for interface, reason in unfit)
    return Subscription(group, tuple(fit), sources, skipped)


def _find(wanted: str | int, known: Sequence[Interface]) -> Interface:
    try:
        return find_interface(wanted, known)
    except InterfaceError:
        return find_interface(wanted)  # which knows alternative names too


def is_name(interface: str | int) -> bool:
    """Whether this can be the name of an interface that is not there yet, and is no index and no address."""
    if not isinstance(interface, str) or interface.isdecimal() or not 0 < len(os.fsencode(interface)) < IFNAMSIZ:
        return False
    return not any(one.isspace() or one in "/:" for one in interface) and not _is_ipv4(interface)


def _is_ipv4(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def subscribe(groups: Iterable[str | Group], defaults: Defaults, may_wait: bool = False) -> list[Subscription]:
    """Look up what the texts of a user mean; GroupError, InterfaceError."""
    known = interfaces()
    return [look_up(complete(value, defaults), defaults.interface, known, may_wait) for value in groups]


def group_endpoint_text(one: GroupEndpoint, names: dict[int, str]) -> str:
    """A group and its interface as errors name them: '239.1.1.1 on eth0'."""
    index = one.endpoint.interface
    return f"{plain_text(one.group)} on {names.get(index, index)}"


def summary(
    held: Mapping[GroupEndpoint, object],
    awaited: Mapping[str, Mapping[Group, object]],
    names: Mapping[int, str],
    limit: int,
) -> str:
    """The first groups in the grammar of `Group.parse`, those last that wait for an interface; and how many more."""
    shown = [
        _group_text(plain_text(one.group), one.endpoint.port, names.get(one.endpoint.interface, one.endpoint.interface))
        for one in _first(held, limit)
    ]
    more = len(held) - len(shown)
    for name in _first(awaited, len(awaited)):
        waiting = _first(awaited.get(name, {}), max(0, limit - len(shown)))
        shown += [_group_text(one.address, one.port or 0, name) for one in waiting]
        more += len(awaited.get(name, {})) - len(waiting)
    return (", ".join(shown) or "no group") + (f" and {more:,} more" if more > 0 else "")


def _first(values: Mapping[T, object], limit: int) -> list[T]:
    """The first keys of a mapping that other threads may change meanwhile."""
    while True:
        with contextlib.suppress(RuntimeError):  # changed while it was read, which without a GIL can happen
            return list(islice(values, limit))


def _group_text(address: str, port: int, interface: str | int) -> str:
    target = f"{address}%{interface}"
    return f"[{target}]:{port}" if ":" in address else f"{target}:{port}"
