"""Joins: which socket holds which group, and how the desired state is brought about: whole, or not at all.

A socket may hold so many groups, and so many sources a group; what goes beyond is spread over more sockets of the same
place. A source that stays wanted stays at its socket, so that nothing of it is interrupted. What the kernel cannot
filter (more excluded sources than it takes) is filtered by the slots, and counted.
"""

import contextlib
import errno
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core.addresses import native, plain_text
from mcast_fast.errors import SocketError, socket_error
from mcast_fast.membership import Channel, Place, SourceFilter, Wanted, channel_text
from mcast_fast.sockets import NOWHERE, OpenSocket, Options, open_socket, tells_destination

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots
    from mcast_fast.rings import Rings


@dataclass(frozen=True, slots=True)
class Limits:
    """How many groups a socket of one IP version may hold, and how many sources a group."""

    groups: int
    sources: int


NO_LIMIT = 1_000_000
# Where Linux tells how much one socket may hold, by IP version; and what it is by default, for the sysctl of IPv6 does
# not show in a network namespace. IPv6 has no limit of groups but net.core.optmem_max: of 20 KiB, its least default.
GROUPS_A_SOCKET = {4: Path("/proc/sys/net/ipv4/igmp_max_memberships")}
SOURCES_A_GROUP = {4: Path("/proc/sys/net/ipv4/igmp_max_msf"), 6: Path("/proc/sys/net/ipv6/mld_max_msf")}
USUAL = {4: Limits(20, 10), 6: Limits(250, 64)}


def limits(version: int, spread: bool) -> Limits:
    """What the system allows now; no limit of ours where spreading is off, so that the system's own error comes."""
    if not spread:
        return Limits(NO_LIMIT, NO_LIMIT)
    return Limits(
        _read_number(GROUPS_A_SOCKET.get(version), USUAL[version].groups),
        _read_number(SOURCES_A_GROUP.get(version), USUAL[version].sources),
    )


def _read_number(path: Path | None, otherwise: int) -> int:
    try:
        return max(1, int(path.read_text())) if path else otherwise
    except (OSError, ValueError):
        return otherwise


@dataclass(frozen=True, slots=True)
class Share:
    """What one socket does for a channel: the filter its kernel membership has, and what its slots let pass."""

    kernel: SourceFilter
    accepted: SourceFilter


Shares = dict[bytes, Share]  # of one socket, by packed group


@dataclass(slots=True, eq=False)
class Seat:
    """An open socket, or one still to be opened, and its shares: those it has, and those it is to have."""

    place: Place
    bound: bytes = NOWHERE  # the only group it can hold, or NOWHERE
    opened: OpenSocket | None = None
    shares: Shares = field(default_factory=dict)

    def can_take(self, group: bytes, planned: Shares, most: int) -> bool:
        """Whether one more group fits."""
        return self.bound in (NOWHERE, group) and group not in planned and len(planned) < most


class Plan:
    """What each seat is to hold: starts as what it holds, and is changed channel by channel. Nothing is done yet."""

    def __init__(self, seats: dict[Place, list[Seat]], wanted: Wanted, spread: bool) -> None:
        self.seats = {place: list(those) for place, those in seats.items()}
        self.shares: dict[int, Shares] = {}
        self._groups_at: dict[Place, set[bytes]] = {}
        self._limits = {version: limits(version, spread) for version in (4, 6)}
        for channel in wanted:
            self._groups_at.setdefault(channel.place, set()).add(channel.group)

    def of(self, seat: Seat) -> Shares:
        """The planned shares of a seat, ready to be changed."""
        return self.shares.setdefault(id(seat), dict(seat.shares))

    def touched(self) -> Iterator[tuple[Seat, Shares]]:
        """Every seat whose shares are to change, with what they are to be."""
        for seat in (seat for those in self.seats.values() for seat in those):
            planned = self.shares.get(id(seat))
            if planned is not None and planned != seat.shares:
                yield seat, planned

    def change(self, channel: Channel, wanted: SourceFilter | None) -> None:
        """Plan that a channel listens to `wanted`; None = it is left."""
        group = channel.group
        holders = [seat for seat in self.seats.get(channel.place, []) if group in self._now(seat)]
        if wanted is None or (not wanted.exclude and not wanted.sources):
            for seat in holders:
                del self.of(seat)[group]
        elif wanted.exclude:
            self._exclude(channel, holders, wanted)
        else:
            self._include(channel, holders, wanted.sources)

    def _now(self, seat: Seat) -> Shares:
        return self.shares.get(id(seat), seat.shares)

    def _exclude(self, channel: Channel, holders: list[Seat], wanted: SourceFilter) -> None:
        """One seat hears all but some; what the kernel has no room for, the slots filter."""
        first, *others = holders or [self._free_seat(channel)]
        most = self._limits[channel.place.version].sources
        known = self._now(first).get(channel.group)
        kept = known.kernel.sources & wanted.sources if known is not None and known.kernel.exclude else frozenset()
        in_kernel = [*sorted(kept), *sorted(wanted.sources - kept)][:most]
        self.of(first)[channel.group] = Share(SourceFilter(True, frozenset(in_kernel)), wanted)
        for seat in others:
            del self.of(seat)[channel.group]

    def _include(self, channel: Channel, holders: list[Seat], sources: frozenset[bytes]) -> None:
        """Each seat hears some of the sources; one that stays wanted stays where it is."""
        most = self._limits[channel.place.version].sources
        parts: dict[int, set[bytes]] = {}
        seats = {id(seat): seat for seat in holders}
        for seat in holders:
            share = self._now(seat)[channel.group].kernel
            parts[id(seat)] = set() if share.exclude else set(share.sources & sources)
        missing = sorted(sources.difference(*parts.values()))
        while missing:
            roomy = next((key for key, part in parts.items() if len(part) < most), None)
            if roomy is None:
                seat = self._free_seat(channel)
                seats[id(seat)], parts[id(seat)] = seat, set()
                self.of(seat)[channel.group] = Share(SourceFilter(False), SourceFilter(False))
                continue
            count = most - len(parts[roomy])
            parts[roomy].update(missing[:count])
            missing = missing[count:]
        for key, part in parts.items():
            if part:
                only = SourceFilter(False, frozenset(part))
                self.of(seats[key])[channel.group] = Share(only, only)
            else:
                del self.of(seats[key])[channel.group]

    def _free_seat(self, channel: Channel) -> Seat:
        """A seat with room for one more group at this place; a new one where there is none."""
        place, group = channel
        most = self._limits[place.version].groups
        those = self.seats.setdefault(place, [])
        for seat in those:
            if seat.can_take(group, self._now(seat), most):
                return seat
        only = self._groups_at.get(place) == {group} or not tells_destination()
        those.append(Seat(place, group if only else NOWHERE))
        return those[-1]


class Joins:
    """The sockets of a receiver, and what each holds."""

    def __init__(self, slots: "Slots | Rings", names: dict[int, str], options: Options, spread: bool) -> None:
        self.names = names
        self.wanted: Wanted = {}
        self.closed_drops = 0  # of sockets that are closed already
        self._slots = slots
        self._options = options
        self._spread = spread
        self._seats: dict[Place, list[Seat]] = {}
        self._retired: list[tuple[OpenSocket, int]] = []  # and the index under which its interface is there again

    def sockets(self) -> list[OpenSocket]:
        """Every open socket, the retired ones too."""
        opened = [seat.opened for those in list(self._seats.values()) for seat in list(those)]
        return [one for one in opened if one is not None] + [one for one, _ in list(self._retired)]

    def seats(self) -> Iterator[Seat]:
        """Every seat that has a socket."""
        return (seat for those in list(self._seats.values()) for seat in list(those) if seat.opened is not None)

    def bring_about(self, wanted: Wanted) -> bool:
        """Make the sockets hold what is wanted; whether anything changed.

        SocketError, with everything as it was before."""
        channels = [one for one in {**self.wanted, **wanted} if self.wanted.get(one) != wanted.get(one)]
        if not channels:
            return False
        plan = Plan(self._seats, wanted, self._spread)
        for channel in channels:
            plan.change(channel, wanted.get(channel))
        with contextlib.ExitStack() as undo:
            undo.callback(setattr, self, "_seats", self._seats)
            self._seats = plan.seats
            self._carry_out(list(plan.touched()), undo)
            undo.pop_all()
        for seat, planned in list(plan.touched()):
            seat.shares = planned
        self.wanted = dict(wanted)
        self._close_unused()
        self._narrow_retired()
        return True

    def _narrow_retired(self) -> None:
        """What a retired socket has queued is delivered only as long as it is wanted."""
        for one, index in self._retired:
            place = one.place._replace(interface=index)
            rows = [
                (channel.group, one.place.interface, sources.exclude, tuple(sources.sources))
                for channel, sources in self.wanted.items()
                if channel.place == place
            ]
            self._slots.accept(one.key, rows)

    def move(self, old: int, new: int) -> None:
        """An interface is there again under another index: hold there what was held. SocketError when it is not ready.

        What the old sockets have queued is still delivered: they stay until they are found empty."""
        self._close_retired()
        there = {place: those for place, those in self._seats.items() if place.interface == old}
        moved = {_moved(channel, old, new): sources for channel, sources in self.wanted.items()}
        kept = {channel: sources for channel, sources in self.wanted.items() if channel.place.interface != old}
        before, self.wanted = self.wanted, kept
        self._seats = {place: those for place, those in self._seats.items() if place.interface != old}
        retired = self._retired  # who was retired for the old index follows to the new one, still wanted
        self._retired = [(one, new if index == old else index) for one, index in retired]
        try:
            self.bring_about(moved)
        except BaseException:
            self._seats |= there
            self.wanted, self._retired = before, retired
            raise
        self._retired += [(seat.opened, new) for those in there.values() for seat in those if seat.opened is not None]

    def refresh(self, index: int, versions: Collection[int] = (4, 6)) -> None:
        """Join afresh what is held on an interface, so that the network hears of it; SocketError."""
        for seat in list(self.seats()):
            if seat.place.interface == index and seat.place.version in versions and seat.opened is not None:
                for group, share in seat.shares.items():
                    Step(seat.opened, group, share.kernel, None).take(self.names)
                    Step(seat.opened, group, None, share.kernel).take(self.names)

    def _close_retired(self) -> None:
        for retired in [retired for retired in self._retired if retired[0].is_empty()]:
            one, _ = retired
            self._retired.remove(retired)
            self._slots.remove(one.key)
            self.closed_drops += one.read_drops() or 0
            one.socket.close()

    def _carry_out(self, changes: list[tuple[Seat, Shares]], undo: contextlib.ExitStack) -> None:
        """Open, let pass what was or will be wanted, join, change, leave; and last let pass no more than is wanted.

        So what stays wanted is held by somebody at every moment. A source that has to move from one socket to another
        may be heard by both for that moment."""
        for seat, planned in changes:
            if seat.opened is None:
                self._open(seat, undo)
            undo.callback(self._accept, seat, seat.shares)
            self._accept(seat, _either(seat.shares, planned))
        for step in sorted((step for change in changes for step in self._steps(*change)), key=Step.turn):
            step.take(self.names)
            undo.callback(step.take_back, self.names)
        for seat, planned in changes:
            self._accept(seat, planned)

    def _open(self, seat: Seat, undo: contextlib.ExitStack) -> None:
        seat.opened = one = open_socket(seat.place, seat.bound, self.names, self._options)
        undo.callback(self._close, seat)
        one.key = self._slots.add(one.socket, seat.place.port, one.group, one.interface)

    def _accept(self, seat: Seat, shares: Shares) -> None:
        if seat.opened is not None:
            index = seat.place.interface
            rows = [(group, index, one.accepted.exclude, tuple(one.accepted.sources)) for group, one in shares.items()]
            self._slots.accept(seat.opened.key, rows)

    def _steps(self, seat: Seat, planned: Shares) -> Iterator["Step"]:
        assert seat.opened is not None
        for group in {**seat.shares, **planned}:
            before = seat.shares[group].kernel if group in seat.shares else None
            after = planned[group].kernel if group in planned else None
            if before != after:
                yield Step(seat.opened, group, before, after)

    def _close(self, seat: Seat) -> None:
        if seat.opened is not None:
            if seat.opened.key >= 0:
                self._slots.remove(seat.opened.key)
            self.closed_drops += seat.opened.read_drops() or 0
            seat.opened.socket.close()
            seat.opened = None

    def _close_unused(self) -> None:
        """Close what holds nothing; but one socket stays where a group is still wanted, of which no source is now."""
        places = {channel.place for channel in self.wanted}
        for place, those in list(self._seats.items()):
            used = [seat for seat in those if seat.shares] or those[: place in places]
            for seat in those:
                if seat not in used:
                    self._close(seat)
            self._seats[place] = used
            if not used:
                del self._seats[place]

    def close(self) -> None:
        """Close every socket; the slots are closed before."""
        for one in self.sockets():
            one.socket.close()


@dataclass(frozen=True, slots=True)
class Step:
    """One change of one group at one socket: None before = not held, None after = left."""

    one: OpenSocket
    group: bytes
    before: SourceFilter | None
    after: SourceFilter | None

    def turn(self) -> int:
        """Joins come first, then changes, then leaves."""
        return 0 if self.before is None else 2 if self.after is None else 1

    def take(self, names: dict[int, str]) -> None:
        """Do it; SocketError names the group, the interface and the source, with all as it was before."""
        try:
            self._go(self.before, self.after, names)
        except SocketError:
            self._restore()
            raise

    def take_back(self, names: dict[int, str]) -> None:
        """Undo it, as far as the system lets us."""
        with contextlib.suppress(SocketError):
            self._go(self.after, self.before, names)

    def _restore(self) -> None:
        """Half of it may be done: hold anew what was held. One system call that is refused has changed nothing."""
        if self.before is not None and "MCAST_MSFILTER" not in _core.membership.OPTIONS:
            with contextlib.suppress(OSError):
                self._leave()
                self._join(self.before)

    def _go(self, before: SourceFilter | None, after: SourceFilter | None, names: dict[int, str]) -> None:
        where = channel_text(Channel(self.one.place, self.group), names)
        try:
            if after is None:
                self._leave()
            elif before is None:
                where = _with_source(where, after)
                self._join(after)
            else:
                self._change(before, after)
        except OSError as error:
            operation = "leave" if after is None else "join" if before is None else "filter"
            raise socket_error(operation, where, error) from error

    def _call(self, call: Callable[..., None], *arguments: object) -> None:
        call(self.one.socket, self.one.place.interface, native(self.group), *arguments)

    def _join(self, after: SourceFilter) -> None:
        """Source-specific from the first moment on: an any-source join before it would ask for everybody's traffic."""
        sources = sorted(after.sources)
        if after.exclude:
            self._call(_core.membership.join)
        else:
            self._call(_core.membership.join, native(sources[0]))
        if sources[0 if after.exclude else 1 :]:
            try:
                self._change(
                    SourceFilter(after.exclude, frozenset() if after.exclude else frozenset(sources[:1])), after
                )
            except OSError:
                self._leave()
                raise

    def _leave(self) -> None:
        try:
            self._call(_core.membership.leave)
        except OSError as error:
            # The interface has gone, and the membership with it.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise

    def _change(self, before: SourceFilter, after: SourceFilter) -> None:
        if "MCAST_MSFILTER" in _core.membership.OPTIONS:
            sources = [native(source) for source in sorted(after.sources)]
            self._call(_core.membership.set_filter, after.exclude, sources)
        else:
            self._change_by_calls(before, after)

    def _change_by_calls(self, before: SourceFilter, after: SourceFilter) -> None:
        """Where there is no full-state filter: source by source, and a new membership where the mode changes."""
        if before.exclude != after.exclude:
            self._leave()
            if after.exclude:
                self._call(_core.membership.join)
            before = SourceFilter(after.exclude)
        add, remove = (
            (_core.membership.block, _core.membership.unblock)
            if after.exclude
            else (_core.membership.join, _core.membership.leave)
        )
        for source in sorted(after.sources - before.sources):
            self._call(add, native(source))
        for source in sorted(before.sources - after.sources):
            self._call(remove, native(source))


def _either(before: Shares, after: Shares) -> Shares:
    """Lets pass what one of both lets pass."""
    both = dict(before) | after
    for group in before.keys() & after.keys():
        both[group] = Share(after[group].kernel, before[group].accepted.union(after[group].accepted))
    return both


def _with_source(where: str, after: SourceFilter) -> str:
    """The text of an error: with the source, when it is the only one."""
    if after.exclude or len(after.sources) != 1:
        return where
    return f"{plain_text(next(iter(after.sources)))}@{where}"


def _moved(channel: Channel, old: int, new: int) -> Channel:
    if channel.place.interface != old:
        return channel
    return channel._replace(place=channel.place._replace(interface=new))


def drop_totals(sockets: Iterable[OpenSocket]) -> int | None:
    """How many buffers the kernel dropped at these sockets; None where it cannot say."""
    drops = [one.read_drops() for one in sockets]
    return None if None in drops else sum(known for known in drops if known is not None)
