"""Joins: the sockets of a receiver brought to what is wanted: whole, or not at all, whatever interrupts it.

A change is written down before its first step (`Journal`), and each step marks itself before its system call. So an
exception of a signal handler, at any moment, leaves a journal from which `recover` carries on: back to the old state,
or, when every step was taken, on to the new one. Both can be interrupted and begun again. One thread at a time changes
something; close() and the readers of `sockets` need no lock.
"""

import contextlib
import errno
import socket
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core.addresses import native, plain_text
from mcast_fast._membership.desired import Changes, Endpoint, GroupEndpoint, SourceFilter, Wanted, group_endpoint_text
from mcast_fast._membership.given import Given
from mcast_fast._membership.plan import GroupFilter, MemberSocket, Plan, Table
from mcast_fast._membership.sockets import OpenSocket, Options, SocketOwner, open_socket
from mcast_fast.errors import SocketError, socket_error

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots
    from mcast_fast._membership.rings import Rings

Filters = dict[bytes, GroupFilter]
FilterChanges = dict[bytes, GroupFilter | None]


@dataclass(slots=True)
class Journal:
    """One change, from before its first step until it is recorded or rolled back.

    `changes`: what is wanted; `filters`: what each socket is to do differently; `added`: sockets opened for it;
    `moved`: the index that an interface had, and has now, and `retired` the sockets of the old one. `is_done`: every
    step was taken."""

    changes: Changes
    filters: list[tuple[MemberSocket, FilterChanges]]
    added: list[MemberSocket]
    limits: dict[int, int]  # groups of a socket, by IP version
    moved: tuple[int, int] | None = None
    retired: list[MemberSocket] = field(default_factory=list)
    steps: list["Step"] = field(default_factory=list)
    is_done: bool = False


class Joins(SocketOwner):
    """The sockets of a receiver, and what each holds."""

    def __init__(
        self,
        slots: "Slots | Rings",
        names: dict[int, str],
        options: Options,
        spread: bool,
        given: Given | None = None,
    ) -> None:
        self.table = Table()
        self.closed_drops = 0  # of sockets that are closed already
        self._names = names
        self._slots = slots
        self._options = options
        self._spread = spread and given is None
        self._given = given
        self._journal: Journal | None = None
        self._broken: dict[MemberSocket, None] = {}  # that have refused groups
        self._deciders: dict[tuple[Endpoint, bytes], MemberSocket] = {}  # by what they are bound to
        self._retired: list[tuple[OpenSocket, int]] = []  # and the index under which its interface is there again
        # Rings have one kernel filter for many listeners: it is changed once for all of them.
        self._flush: Callable[[], None] = getattr(slots, "flush", _nothing)
        self.settle: Callable[[], None] = getattr(slots, "settle", _nothing)
        self.is_overdue: Callable[[], bool] = getattr(slots, "is_overdue", bool)
        self.notices: Callable[[], list[tuple[str, str]]] = getattr(slots, "notices", list)

    @property
    def names(self) -> dict[int, str]:
        """Names of the interfaces by index: another dict after each change, for batches keep the one they came with."""
        return self._names

    def name_interface(self, index: int, name: str) -> None:
        """An interface has this name from now on."""
        if self._names.get(index) != name:
            self._slots.names = names = self._names | {index: name}
            self._names = names

    @property
    def wanted(self) -> Wanted:
        """The sources wanted of each group."""
        return self.table.wanted

    def sockets(self) -> list[OpenSocket]:
        """Every open socket, the retired ones too."""
        opened = [member.opened for member in list(self.table.sockets)]
        return [one for one in opened if one is not None] + [one for one, _ in list(self._retired)]

    def members(self) -> Iterator[MemberSocket]:
        """Every socket that is open, and what it holds."""
        return (member for member in list(self.table.sockets) if member.opened is not None)

    # ---- changing ----

    def apply(self, changes: Changes) -> bool:
        """Make the sockets hold what is to be different; whether anything changed.

        SocketError, with everything as it was before."""
        self.recover()
        self.repair()
        wanted = self.table.wanted
        changes = {one: after for one, after in changes.items() if wanted.get(one) != after}
        if not changes:
            return False
        if self._given is not None:
            self._given.check(changes, wanted, self._names)
        self._carry_out(self._written(changes, changes))
        return True

    def _written(self, planned: Changes, wanted: Changes) -> Journal:
        plan = Plan(self.table, planned, self._spread, self._given)
        filters = plan.touched()
        most = {version: plan.limits(version).groups for version in {member.endpoint.version for member, _ in filters}}
        return Journal(wanted, filters, plan.added, most)

    def _carry_out(self, journal: Journal) -> None:
        """Open, let pass what was or will be wanted, join, change, leave; and last let pass no more than is wanted.

        So what stays wanted is held by a socket at every moment. A source that has to move from one socket to another
        may be received by both for that moment."""
        self._journal = journal
        try:
            for member in journal.added:
                self._open(member)
            wider = [self._widen(member, planned) for member, planned in journal.filters]
            self._flush()
            journal.steps += [step for member, planned in journal.filters for step in _steps(member, planned)]
            for step in sorted(journal.steps, key=Step.turn):
                step.take(self._names)
            for (member, planned), is_wider in zip(journal.filters, wider, strict=True):
                if is_wider:
                    self._accept(member, _after(member.filters, planned))
            journal.is_done = True
        finally:
            try:
                self.recover()
            except BaseException:
                self.recover()  # an exception of a signal handler ended it: from its start
                raise

    def recover(self) -> None:
        """Finish a change that was interrupted: record it when every step was taken, else roll it back."""
        journal = self._journal
        if journal is None:
            return
        if journal.is_done:
            self._record(journal)
        else:
            self._roll_back(journal)
        self._journal = None

    def _record(self, journal: Journal) -> None:
        for member, planned in journal.filters:
            self.table.record_held(member, planned, journal.limits[member.endpoint.version])
            for group in planned:
                member.refused.pop(group, None)
        for one, after in journal.changes.items():
            self.table.record_wanted(one, after)
        if journal.moved is not None:
            self._retire(journal.retired, *journal.moved)
        for endpoint in dict.fromkeys(one.endpoint for one in journal.changes):
            for member in self.table.unused(endpoint):
                self._close(member)
        for retired, index in self._retired:
            self._narrow_retired(retired, index)
        with contextlib.suppress(SocketError):  # the kernel lets pass more than it has to
            self._flush()

    def _roll_back(self, journal: Journal) -> None:
        """Undo what was begun, as far as the system lets us; what it refuses is noted, and repaired later."""
        added = set(journal.added)
        for step in sorted(journal.steps, key=Step.turn, reverse=True):
            if step.is_begun and step.member not in added:
                self._force(step.member, step.group, step.before)
        for member, _ in journal.filters:
            if member not in added:
                with contextlib.suppress(SocketError):
                    self._accept(member, member.filters)
        for member in journal.added:
            self._close(member)
        with contextlib.suppress(SocketError):
            self._flush()

    # ---- sockets ----

    def _open(self, member: MemberSocket) -> None:
        endpoint = member.endpoint
        member.opened = one = self._opened_given(member) or open_socket(
            endpoint, member.bound, self._names, self._options, decides=self._is_decider(member)
        )
        row = (one.socket, endpoint.port, one.group, one.interface, one.decider, one.given is not None)
        # In one call: no signal handler can run between the adding and the note of its key.
        one.keys.extend(map(self._slots.add, *zip(row)))

    def _opened_given(self, member: MemberSocket) -> OpenSocket | None:
        """The caller's socket, where there is one."""
        if self._given is None:
            return None
        return self._given.open(member.endpoint, member.bound, self._names, self._options)

    def _is_decider(self, member: MemberSocket) -> bool:
        """Whether this socket is to decide about coalescing for all that are bound alike: the first of them does."""
        return self._deciders.setdefault((member.endpoint, member.bound), member) is member

    def _widen(self, member: MemberSocket, planned: FilterChanges) -> bool:
        """Let pass what passes now or will; whether that is more than what will."""
        after = _after(member.filters, planned)
        either = _either(member.filters, after)
        self._accept(member, either)
        return {group: one.accepted for group, one in either.items()} != {
            group: one.accepted for group, one in after.items()
        }

    def _accept(self, member: MemberSocket, filters: Filters) -> None:
        if member.opened is not None:
            index = member.endpoint.interface
            rows = [(group, index, one.accepted.exclude, tuple(one.accepted.sources)) for group, one in filters.items()]
            self._slots.accept(member.opened.key, rows)

    def _close(self, member: MemberSocket) -> None:
        self._hand_over_decider(member)
        if member.opened is not None:
            self._close_socket(member.opened)
            member.opened = None
        self._broken.pop(member, None)
        self.table.remove(member)

    def _hand_over_decider(self, member: MemberSocket) -> None:
        """Who decides about coalescing for all that are bound alike outlives the first of them."""
        place = (member.endpoint, member.bound)
        if self._deciders.get(place) is not member:
            return
        alike = (one for one in self.members() if one is not member and (one.endpoint, one.bound) == place)
        heir, opened = next(alike, None), member.opened
        if heir is None or heir.opened is None or opened is None or opened.decider is None:
            self._deciders.pop(place, None)
            return
        self._slots.hand_over(opened.key, heir.opened.key)
        heir.opened.decider, opened.decider = opened.decider, None
        self._deciders[place] = heir

    def _close_socket(self, one: OpenSocket) -> None:
        drops = 0 if one.is_counted else one.read_drops() or 0
        self.closed_drops += drops
        one.is_counted = True
        leave_given(one)
        if one.keys:
            self._slots.remove(one.key)
        for each in one.both():
            each.close()

    def _every_socket(self) -> list[socket.socket]:
        added = self._journal.added if self._journal is not None else []
        opened = [member.opened for member in added]
        everyone = [*self.sockets(), *(one for one in opened if one is not None)]
        kept = [] if self._given is None else [self._given.socket]
        return [each for one in everyone for each in one.both()] + kept

    def leave_given(self) -> None:
        """Leave what was joined at a socket of the caller's, which closing ours does not leave; not in a child."""
        for one in self.sockets():
            leave_given(one)

    # ---- kernel memberships that are not as they should be ----

    def refresh(self, index: int, versions: Collection[int] = (4, 6)) -> None:
        """Join afresh what is held on an interface, so that it is reported to the network.

        SocketError when something was refused: that is noted, and tried again by `repair`."""
        self.recover()
        failure = None
        for endpoint in self.table.of_interface(index):
            for member in list(self.table.at(endpoint).sockets) if endpoint.version in versions else ():
                for group in list(member.filters):
                    failure = self._join_afresh(member, group) or failure
        if failure is not None:
            raise failure

    def _join_afresh(self, member: MemberSocket, group: bytes) -> SocketError | None:
        self._broken[member] = None
        member.refused[group] = "it is being joined afresh"
        if member.opened is not None:
            _leave(member.opened, group)
        return self._repair_group(member, group)

    def repair(self) -> SocketError | None:
        """Try again what was refused; the error of what still is."""
        failure = None
        for member in list(self._broken):
            for group in list(member.refused):
                failure = self._repair_group(member, group) or failure
            if not member.refused:
                self._broken.pop(member, None)
        return failure

    def _repair_group(self, member: MemberSocket, group: bytes) -> SocketError | None:
        held = member.filters.get(group)
        return self._force(member, group, None if held is None else held.kernel)

    def _force(self, member: MemberSocket, group: bytes, wanted: SourceFilter | None) -> SocketError | None:
        """Make the kernel hold this, whatever it holds now; what it refuses is noted, and the error of it."""
        one = member.opened
        if one is None:
            return None
        try:
            _force(one, group, wanted)
        except OSError as error:
            failure = socket_error("join", self._text(member, group), error)
            member.refused[group] = str(failure)
            self._broken[member] = None
            return failure
        member.refused.pop(group, None)
        return None

    def _text(self, member: MemberSocket, group: bytes) -> str:
        return group_endpoint_text(GroupEndpoint(member.endpoint, group), self._names)

    # ---- interfaces that come back under another index ----

    def move(self, old: int, new: int) -> None:
        """An interface is there again under another index: hold there what was held. SocketError when it is not ready.

        What the old sockets have queued is still delivered: they stay until they are found empty."""
        self.recover()
        self._close_retired()
        planned: Changes = {}
        gone: Changes = {}
        leaving: list[MemberSocket] = []
        for endpoint in self.table.of_interface(old):
            known = self.table.at(endpoint)
            leaving += known.sockets
            for group in known.groups:
                one, there = GroupEndpoint(endpoint, group), GroupEndpoint(endpoint._replace(interface=new), group)
                gone[one] = None
                before = self.wanted.get(there)
                planned[there] = self.wanted[one] if before is None else before.union(self.wanted[one])
        journal = self._written(planned, planned | gone)
        journal.moved, journal.retired = (old, new), leaving
        self._carry_out(journal)

    def _retire(self, leaving: list[MemberSocket], old: int, new: int) -> None:
        """Keep the sockets of an interface that has gone; those that were kept before follow it to its new index."""
        kept = [(one, new if index == old else index) for one, index in self._retired]
        known = {id(one) for one, _ in kept}
        opened = [member.opened for member in leaving]
        self._retired = kept + [(one, new) for one in opened if one is not None and id(one) not in known]
        for member in leaving:
            self.table.remove(member)
            self._deciders.pop((member.endpoint, member.bound), None)
            self._broken.pop(member, None)

    def _narrow_retired(self, one: OpenSocket, index: int) -> None:
        """What a retired socket has queued is delivered only as long as it is wanted."""
        endpoint = one.endpoint._replace(interface=index)
        wanted = ((group, self.wanted[GroupEndpoint(endpoint, group)]) for group in self.table.at(endpoint).groups)
        rows = [(group, one.endpoint.interface, those.exclude, tuple(those.sources)) for group, those in wanted]
        self._slots.accept(one.key, rows)

    def _close_retired(self) -> None:
        for retired in list(self._retired):
            if retired[0].is_empty():
                self._close_socket(retired[0])
                self._retired = [other for other in self._retired if other is not retired]


@dataclass(slots=True, eq=False)
class Step:
    """One change of one group at one socket: None before = not held, None after = left."""

    member: MemberSocket
    group: bytes
    before: SourceFilter | None
    after: SourceFilter | None
    is_begun: bool = False

    def turn(self) -> int:
        """Joins come first, then changes, then leaves."""
        return 0 if self.before is None else 2 if self.after is None else 1

    def take(self, names: dict[int, str]) -> None:
        """Do it; SocketError names the group, the interface and the source."""
        one = self.member.opened
        assert one is not None
        self.is_begun = True
        try:
            # A socket of the caller's may hold it already, left by a program that was killed.
            is_given = one.given is not None and self.before is None
            if self.group in self.member.refused or is_given:
                _force(one, self.group, self.after)
            elif self.after is None:
                _leave(one, self.group)
            elif self.before is None:
                _join(one, self.group, self.after)
            else:
                _change(one, self.group, self.before, self.after)
        except OSError as error:
            operation = "leave" if self.after is None else "join" if self.before is None else "filter"
            raise socket_error(operation, self._where(names), error) from error

    def _where(self, names: dict[int, str]) -> str:
        """What it is about, as errors name it: with the source, when a join is for one."""
        where = group_endpoint_text(GroupEndpoint(self.member.endpoint, self.group), names)
        after = self.after
        if self.before is not None or after is None or after.exclude or len(after.sources) != 1:
            return where
        return f"{plain_text(next(iter(after.sources)))}@{where}"


def _steps(member: MemberSocket, planned: FilterChanges) -> Iterator[Step]:
    for group, then in planned.items():
        held = member.filters.get(group)
        before = None if held is None else held.kernel
        after = None if then is None else then.kernel
        if before != after:
            yield Step(member, group, before, after)


# ---- the system's calls ----


def _call(call: Callable[..., None], one: OpenSocket, group: bytes, *arguments: object) -> None:
    call(one.socket, one.endpoint.interface, native(group), *arguments)


def _join(one: OpenSocket, group: bytes, after: SourceFilter) -> None:
    """Source-specific from the first moment on: an any-source join before it would let every source in."""
    _note_given(one, group)
    sources = sorted(after.sources)
    if after.exclude:
        _call(_core.membership.join, one, group)
    else:
        _call(_core.membership.join, one, group, native(sources[0]))
    if sources[0 if after.exclude else 1 :]:
        joined = SourceFilter(after.exclude, frozenset() if after.exclude else frozenset(sources[:1]))
        try:
            _change(one, group, joined, after)
        except OSError:
            _leave(one, group)
            raise


def _note_given(one: OpenSocket, group: bytes) -> None:
    """Before the call: what an exception of a signal handler interrupts may be joined."""
    if one.given is not None:
        one.given[group] = None


def leave_given(one: OpenSocket) -> None:
    """Leave every group that was joined at a socket of the caller's; again does nothing."""
    for group in list(one.given or ()):
        with contextlib.suppress(OSError):
            _leave(one, group)


def _leave(one: OpenSocket, group: bytes) -> None:
    try:
        _call(_core.membership.leave, one, group)
    except OSError as error:
        # The interface has gone, and the membership with it; or it is left already.
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENODEV):
            raise
    if one.given is not None:
        one.given.pop(group, None)


def _has_full_state() -> bool:
    return "MCAST_MSFILTER" in _core.membership.OPTIONS


def _change(one: OpenSocket, group: bytes, before: SourceFilter, after: SourceFilter) -> None:
    if _has_full_state():
        _set_filter(one, group, after)
    else:
        _change_by_calls(one, group, before, after)


def _set_filter(one: OpenSocket, group: bytes, after: SourceFilter) -> None:
    _call(_core.membership.set_filter, one, group, after.exclude, [native(source) for source in sorted(after.sources)])


def _change_by_calls(one: OpenSocket, group: bytes, before: SourceFilter, after: SourceFilter) -> None:
    """Where there is no full-state filter: source by source, and a new membership where the mode changes."""
    if before.exclude != after.exclude:
        _leave(one, group)
        if after.exclude:
            _call(_core.membership.join, one, group)
        before = SourceFilter(after.exclude)
    add, remove = (
        (_core.membership.block, _core.membership.unblock)
        if after.exclude
        else (_core.membership.join, _core.membership.leave)
    )
    for source in sorted(after.sources - before.sources):
        _call(add, one, group, native(source))
    for source in sorted(before.sources - after.sources):
        _call(remove, one, group, native(source))


def _force(one: OpenSocket, group: bytes, wanted: SourceFilter | None) -> None:
    """Make a socket hold this of a group, whatever it holds now: one call where it holds the group already."""
    if wanted is not None and _has_full_state():
        _note_given(one, group)
        with contextlib.suppress(OSError):  # EINVAL, EADDRNOTAVAIL: it does not hold the group
            _set_filter(one, group, wanted)
            return
    with contextlib.suppress(OSError):
        _leave(one, group)
    if wanted is not None:
        _join(one, group, wanted)


# ---- filters ----


def _after(filters: Filters, planned: FilterChanges) -> Filters:
    """The filters of a socket, once these are different."""
    return {group: one for group, one in (filters | planned).items() if one is not None}


def _either(before: Filters, after: Filters) -> Filters:
    """Lets pass what one of both lets pass."""
    both = before | after
    for group in before.keys() & after.keys():
        if before[group] is not after[group]:
            accepted = before[group].accepted.union(after[group].accepted)
            both[group] = GroupFilter(after[group].kernel, accepted)
    return both


def _nothing() -> None:
    """There is nothing to flush at sockets."""


def drop_totals(sockets: Iterable[OpenSocket]) -> int | None:
    """How many buffers the kernel dropped at these sockets; None where it cannot say."""
    drops = [one.read_drops() for one in sockets]
    return None if None in drops else sum(known for known in drops if known is not None)
