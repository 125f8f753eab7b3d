"""The plan of a change: which socket is to hold which group; and what is held and wanted now, by every key.

No I/O but the reading of the system's limits. The number of groups per socket and of sources per group is limited; what
goes beyond is spread over more sockets of the same endpoint. A source that stays wanted stays at its socket, so that
nothing of it is interrupted. What the kernel cannot filter (more excluded sources than it takes) is filtered by the
slots, and counted. Cost is that of what changes, not of what is held.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mcast_fast._membership.desired import Changes, Endpoint, GroupEndpoint, SourceFilter, Wanted
from mcast_fast._membership.given import Given
from mcast_fast._membership.sockets import NOWHERE, OpenSocket, reports_destination


@dataclass(frozen=True, slots=True)
class Limits:
    """How many groups a socket of one IP version may hold, and how many sources of a group."""

    groups: int
    sources: int


NO_LIMIT = 1_000_000
# A change of one group at a socket costs time for all that it holds: spread them, even where the system has no limit.
MOST_GROUPS = 250
# Where Linux reports how much one socket may hold, by IP version; and what it is by default, for the sysctl of IPv6 is
# not there in a network namespace. IPv6 has no limit of groups but net.core.optmem_max: of 20 KiB, its least default.
GROUPS_OF_A_SOCKET = {4: Path("/proc/sys/net/ipv4/igmp_max_memberships")}
SOURCES_OF_A_GROUP = {4: Path("/proc/sys/net/ipv4/igmp_max_msf"), 6: Path("/proc/sys/net/ipv6/mld_max_msf")}
USUAL = {4: Limits(20, 10), 6: Limits(MOST_GROUPS, 64)}


def limits(version: int, spread: bool) -> Limits:
    """What the system allows now; no limit of ours where spreading is off, so that the system's own error comes."""
    if not spread:
        return Limits(NO_LIMIT, NO_LIMIT)
    return Limits(
        min(MOST_GROUPS, _read_number(GROUPS_OF_A_SOCKET.get(version), USUAL[version].groups)),
        _read_number(SOURCES_OF_A_GROUP.get(version), USUAL[version].sources),
    )


def _read_number(path: Path | None, otherwise: int) -> int:
    """The number in a file: without buffers or decoding, for it is read at every change."""
    try:
        return max(1, int(_read(path))) if path else otherwise
    except (OSError, ValueError):
        return otherwise


def _read(path: Path) -> bytes:
    with path.open("rb", buffering=0) as file:
        return file.read(64)


@dataclass(frozen=True, slots=True)
class GroupFilter:
    """What one socket does for a group: the filter its kernel membership has, and what its slots let pass."""

    kernel: SourceFilter
    accepted: SourceFilter


@dataclass(slots=True, eq=False)
class MemberSocket:
    """An open socket, or one still to be opened, and what it does for each group that it holds.

    `refused`: groups whose kernel membership is not what `filters` says, and why."""

    endpoint: Endpoint
    bound: bytes = NOWHERE  # the only group it can hold, or NOWHERE
    opened: OpenSocket | None = None
    filters: dict[bytes, GroupFilter] = field(default_factory=dict)
    refused: dict[bytes, str] = field(default_factory=dict)


@dataclass(slots=True)
class EndpointSockets:
    """The sockets of one endpoint, and the groups wanted there. Dicts of None are sets that keep their order."""

    sockets: dict[MemberSocket, None] = field(default_factory=dict)
    holders: dict[bytes, dict[MemberSocket, None]] = field(default_factory=dict)  # by group
    roomy: dict[MemberSocket, None] = field(default_factory=dict)  # that may take one more group
    idle: dict[MemberSocket, None] = field(default_factory=dict)  # that hold none
    groups: dict[bytes, None] = field(default_factory=dict)


class Table:
    """What is wanted, and what the sockets hold. Every record can be made again: a second time changes nothing."""

    def __init__(self) -> None:
        self.wanted: Wanted = {}
        self.by_group: dict[bytes, dict[GroupEndpoint, None]] = {}
        self.by_port: dict[int, dict[Endpoint, None]] = {}
        self.by_interface: dict[int, dict[Endpoint, None]] = {}
        self.endpoints: dict[Endpoint, EndpointSockets] = {}
        self.sockets: dict[MemberSocket, None] = {}

    def at(self, endpoint: Endpoint) -> EndpointSockets:
        """What there is at an endpoint: nothing, of one that is not known."""
        return self.endpoints.get(endpoint) or EndpointSockets()

    def of_interface(self, index: int) -> list[Endpoint]:
        """The endpoints of an interface."""
        return list(self.by_interface.get(index, ()))

    def holders(self, one: GroupEndpoint) -> list[MemberSocket]:
        """The sockets that hold a group."""
        return list(self.at(one.endpoint).holders.get(one.group, ()))

    def _known(self, endpoint: Endpoint) -> EndpointSockets:
        found = self.endpoints.get(endpoint)
        if found is None:
            found = self.endpoints[endpoint] = EndpointSockets()
        self.by_port.setdefault(endpoint.port, {})[endpoint] = None
        self.by_interface.setdefault(endpoint.interface, {})[endpoint] = None
        return found

    def _forget_unused(self, endpoint: Endpoint) -> None:
        known = self.endpoints.get(endpoint)
        if known is None or not (known.sockets or known.groups):
            for index, key in ((self.by_port, endpoint.port), (self.by_interface, endpoint.interface)):
                _discard(index, key, endpoint)
            self.endpoints.pop(endpoint, None)

    def record_wanted(self, one: GroupEndpoint, sources: SourceFilter | None) -> None:
        """These sources of a group are wanted; None = the group is not."""
        if sources is not None:
            self._known(one.endpoint).groups[one.group] = None
            self.by_group.setdefault(one.group, {})[one] = None
            self.wanted[one] = sources
            return
        self.wanted.pop(one, None)
        _discard(self.by_group, one.group, one)
        self._known(one.endpoint).groups.pop(one.group, None)
        self._forget_unused(one.endpoint)

    def record_held(self, member: MemberSocket, changes: dict[bytes, GroupFilter | None], most: int) -> None:
        """A socket does this for these groups from now on; `most` is the number that it may hold."""
        known = self._known(member.endpoint)
        known.sockets[member] = self.sockets[member] = None
        for group, after in changes.items():
            if after is not None:
                member.filters[group] = after
                known.holders.setdefault(group, {})[member] = None
            else:
                member.filters.pop(group, None)
                member.refused.pop(group, None)
                _discard(known.holders, group, member)
        has_room = not member.filters if member.bound != NOWHERE else len(member.filters) < most
        for belongs, those in ((has_room, known.roomy), (not member.filters, known.idle)):
            if belongs:
                those[member] = None
            else:
                those.pop(member, None)

    def remove(self, member: MemberSocket) -> None:
        """A socket is there no more."""
        known = self._known(member.endpoint)
        for group in list(member.filters):
            _discard(known.holders, group, member)
        for those in (known.roomy, known.idle, known.sockets, self.sockets):
            those.pop(member, None)
        self._forget_unused(member.endpoint)

    def unused(self, endpoint: Endpoint) -> list[MemberSocket]:
        """Sockets that hold nothing; but one stays where a group is still wanted of which no source is now."""
        known = self.at(endpoint)
        idle = list(known.idle)
        return idle[1:] if known.groups and len(idle) == len(known.sockets) else idle


def _discard(sets: "dict[object, dict[object, None]] | object", key: object, value: object) -> None:
    """Take a value out of a set by key, and the set too when it is empty then."""
    assert isinstance(sets, dict)
    those = sets.get(key)
    if those is not None:
        those.pop(value, None)
        if not those:
            sets.pop(key, None)


class Plan:
    """What each socket is to hold after some changes. Nothing is done yet."""

    def __init__(self, table: Table, changes: Changes, spread: bool, given: Given | None = None) -> None:
        self.added: list[MemberSocket] = []  # sockets to be opened
        self._table = table
        self._spread = spread
        self._given = given
        self._filters: dict[MemberSocket, dict[bytes, GroupFilter | None]] = {}
        self._counts: dict[MemberSocket, int] = {}
        self._limits: dict[int, Limits] = {}
        self._free: dict[Endpoint, tuple[dict[MemberSocket, None], Iterator[MemberSocket]]] = {}
        self._groups: dict[Endpoint, int] = {}  # how many are wanted there afterwards
        for one, after in changes.items():
            known = table.at(one.endpoint).groups
            count = self._groups.get(one.endpoint, len(known))
            self._groups[one.endpoint] = count + (after is not None) - (one.group in known)
        for one, after in changes.items():
            self._change(one, after)

    def limits(self, version: int) -> Limits:
        """What the system allows a socket, read once."""
        if version not in self._limits:
            self._limits[version] = limits(version, self._spread)
        return self._limits[version]

    def touched(self) -> list[tuple[MemberSocket, dict[bytes, GroupFilter | None]]]:
        """Every socket that is to change, with what is to be different."""
        found = []
        for member, planned in self._filters.items():
            different = {group: after for group, after in planned.items() if after != member.filters.get(group)}
            if different:
                found.append((member, different))
        return found

    def _now(self, member: MemberSocket, group: bytes) -> GroupFilter | None:
        planned = self._filters.get(member, {})
        return planned[group] if group in planned else member.filters.get(group)

    def _set(self, member: MemberSocket, group: bytes, after: GroupFilter | None) -> None:
        before = self._now(member, group)
        self._filters.setdefault(member, {})[group] = after
        count = self._counts.get(member, len(member.filters))
        self._counts[member] = count + (after is not None) - (before is not None)

    def _change(self, one: GroupEndpoint, wanted: SourceFilter | None) -> None:
        """Plan that these sources of a group are received; None = it is left."""
        holders = self._table.holders(one)
        if wanted is None or (not wanted.exclude and not wanted.sources):
            for member in holders:
                self._set(member, one.group, None)
        elif wanted.exclude:
            self._exclude(one, holders, wanted)
        else:
            self._include(one, holders, wanted.sources)

    def _exclude(self, one: GroupEndpoint, holders: list[MemberSocket], wanted: SourceFilter) -> None:
        """One socket receives all sources but some; what the kernel has no space for, the slots filter."""
        first, *others = holders or [self._free_socket(one)]
        most = self.limits(one.endpoint.version).sources if wanted.sources else 0
        known = self._now(first, one.group)
        kept = known.kernel.sources & wanted.sources if known is not None and known.kernel.exclude else frozenset()
        in_kernel = [*sorted(kept), *sorted(wanted.sources - kept)][:most]
        self._set(first, one.group, GroupFilter(SourceFilter(True, frozenset(in_kernel)), wanted))
        for member in others:
            self._set(member, one.group, None)

    def _include(self, one: GroupEndpoint, holders: list[MemberSocket], sources: frozenset[bytes]) -> None:
        """Each socket receives some of the sources; one that stays wanted stays where it is."""
        most = self.limits(one.endpoint.version).sources
        parts: dict[MemberSocket, set[bytes]] = {}
        for member in holders:
            held = member.filters[one.group].kernel
            parts[member] = set() if held.exclude else set(held.sources & sources)
        missing = sorted(sources.difference(*parts.values()))
        for part in parts.values():
            count = max(0, most - len(part))
            part.update(missing[:count])
            missing = missing[count:]
        while missing:
            member = self._free_socket(one)
            parts[member] = set(missing[:most])
            missing = missing[most:]
            self._set(member, one.group, GroupFilter(SourceFilter(False), SourceFilter(False)))
        for member, part in parts.items():
            only = SourceFilter(False, frozenset(part))
            self._set(member, one.group, GroupFilter(only, only) if part else None)

    def _free_socket(self, one: GroupEndpoint) -> MemberSocket:
        """A socket with space for one more group at this endpoint; a new one where there is none."""
        endpoint, group = one
        if endpoint not in self._free:
            self._free[endpoint] = {}, iter(self._table.at(endpoint).roomy)
        seen, more = self._free[endpoint]
        for member in list(seen):
            if not self._has_room(member):
                del seen[member]
            elif self._can_take(member, group):
                return member
        for member in more:
            if self._has_room(member):
                seen[member] = None
                if self._can_take(member, group):
                    return member
        only = self._groups.get(endpoint) == 1 or not reports_destination()
        bound = group if only else NOWHERE
        made = MemberSocket(endpoint, bound if self._given is None else self._given.bound(group))
        self.added.append(made)
        if not only:
            seen[made] = None
        return made

    def _has_room(self, member: MemberSocket) -> bool:
        most = self.limits(member.endpoint.version).groups
        return self._counts.get(member, len(member.filters)) < most

    def _can_take(self, member: MemberSocket, group: bytes) -> bool:
        return member.bound in (NOWHERE, group) and self._now(member, group) is None
