"""Which socket holds which group: the plan, its execution and its undoing, against a kernel that is a model.

The model kernel knows the rules of RFC 3678 as Linux keeps them, and can refuse any single call.
"""

import errno
import itertools
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mcast_fast import _core
from mcast_fast._core.addresses import map_address, native
from mcast_fast._membership import joins, plan
from mcast_fast._membership.desired import ANY_SOURCE, Endpoint, GroupEndpoint, SourceFilter, Wanted
from mcast_fast._membership.joins import Joins
from mcast_fast._membership.plan import Limits
from mcast_fast._membership.sockets import OpenSocket, Options
from mcast_fast.errors import MulticastError

NAMES = {1: "eth0", 2: "eth1"}
ENDPOINTS = (Endpoint(4, 5000, 1), Endpoint(4, 5001, 1), Endpoint(4, 5000, 2))
GROUPS = tuple(map_address(f"239.1.1.{number}") for number in range(1, 6))
SOURCES = tuple(map_address(f"10.0.0.{number}") for number in range(1, 8))
SMALL = Limits(groups=2, sources=3)


def include(*numbers: int) -> SourceFilter:
    return SourceFilter(False, frozenset(SOURCES[number] for number in numbers))


def exclude(*numbers: int) -> SourceFilter:
    return SourceFilter(True, frozenset(SOURCES[number] for number in numbers))


def passes(sources: SourceFilter | None, source: bytes) -> bool:
    return sources is not None and (source in sources.sources) != sources.exclude


class RefusedError(OSError):
    """What the model answers when it is told to fail."""


class Kernel:
    """Sockets and their memberships; used in place of the membership module of a backend, of the slots, and of the opening."""

    def __init__(self, limits: Limits = SMALL, full_state: bool = True) -> None:
        self.OPTIONS = {"IP_PKTINFO": (0, 8)} | ({"MCAST_MSFILTER": (0, 48)} if full_state else {})
        self.limits = limits
        self.held: dict[int, dict[bytes, SourceFilter]] = {}  # by socket, by group
        self.let_pass: dict[int, dict[bytes, SourceFilter]] = {}  # by key of the slots, by group
        self.keys: dict[int, int] = {}  # socket -> key
        self.calls: list[str] = []
        self.fail_at: int | None = None
        self.after_call = lambda: None
        self._numbers = itertools.count()

    def _called(self, name: str) -> None:
        self.calls.append(name)
        if self.fail_at == len(self.calls) - 1:
            raise RefusedError(errno.EPERM, os.strerror(errno.EPERM))

    # ---- opening ----

    def open_socket(
        self, endpoint: Endpoint, group: bytes, names: dict[int, str], options: Options, decides: bool
    ) -> OpenSocket:
        self._called("open")
        sock = ModelSocket(self, next(self._numbers))
        self.held[sock.number] = {}
        return OpenSocket(sock, endpoint, group, endpoint.interface)  # type: ignore[arg-type]

    # ---- the slots ----

    def add(self, sock: "ModelSocket", port: int, group: bytes, interface: int, decider: None, is_given: bool) -> int:
        self._called("add")
        key = next(self._numbers)
        self.let_pass[key], self.keys[sock.number] = {}, key
        return key

    def remove(self, key: int) -> None:
        if key < 0:
            raise OverflowError("can't convert negative value to uint64_t")  # as the compiled slots do
        self.let_pass.pop(key, None)

    def accept(self, key: int, rows: Any) -> None:
        self._called("accept")
        self.let_pass[key] = {group: SourceFilter(exclude, frozenset(sources)) for group, _, exclude, sources in rows}
        self.after_call()

    # ---- membership calls ----

    def join(self, sock: "ModelSocket", interface: int, group: bytes, source: bytes | None = None) -> None:
        self._called("join")
        held, before = self.held[sock.number], self.held[sock.number].get(group)
        if source is None:
            self._refuse_if(before is not None, errno.EADDRINUSE)
            after = ANY_SOURCE
        else:
            self._refuse_if(before is not None and before.exclude, errno.EINVAL)
            self._refuse_if(before is not None and map_packed(source) in before.sources, errno.EADDRNOTAVAIL)
            after = (before or SourceFilter(False)).within(map_packed(source))
        self._put(held, group, after)

    def leave(self, sock: "ModelSocket", interface: int, group: bytes, source: bytes | None = None) -> None:
        self._called("leave")
        held = self.held[sock.number]
        self._refuse_if(group not in held, errno.EADDRNOTAVAIL)
        after = SourceFilter(False) if source is None else held[group].without(map_packed(source))
        if after.exclude or after.sources:
            held[group] = after
        else:
            del held[group]
        self.after_call()

    def block(self, sock: "ModelSocket", interface: int, group: bytes, source: bytes) -> None:
        self._called("block")
        held = self.held[sock.number]
        self._refuse_if(group not in held or not held[group].exclude, errno.EINVAL)
        self._put(held, group, held[group].without(map_packed(source)))

    def unblock(self, sock: "ModelSocket", interface: int, group: bytes, source: bytes) -> None:
        self._called("unblock")
        held = self.held[sock.number]
        self._refuse_if(group not in held or not held[group].exclude, errno.EINVAL)
        self._put(held, group, held[group].within(map_packed(source)))

    def set_filter(self, sock: "ModelSocket", interface: int, group: bytes, exclude: bool, sources: Any) -> None:
        self._called("set_filter")
        held = self.held[sock.number]
        self._refuse_if(group not in held, errno.EADDRNOTAVAIL)
        self._put(held, group, SourceFilter(exclude, frozenset(map(map_packed, sources))))

    def _put(self, held: dict[bytes, SourceFilter], group: bytes, after: SourceFilter) -> None:
        self._refuse_if(len({*held, group}) > self.limits.groups, errno.ENOBUFS)
        self._refuse_if(len(after.sources) > self.limits.sources, errno.ENOBUFS)
        held[group] = after
        self.after_call()

    @staticmethod
    def _refuse_if(condition: bool, number: int) -> None:
        if condition:
            raise OSError(number, os.strerror(number))

    # ---- what it comes to ----

    def state(self) -> tuple[Any, ...]:
        """Everything that a failed change must leave as it was."""
        return {key: dict(held) for key, held in self.held.items()}, {k: dict(v) for k, v in self.let_pass.items()}


class ModelSocket:
    def __init__(self, kernel: Kernel, number: int) -> None:
        self.kernel = kernel
        self.number = number

    def close(self) -> None:
        self.kernel.held.pop(self.number, None)

    def __del__(self) -> None:
        self.close()  # as a socket's own does

    def getsockopt(self, *_: object) -> bytes:
        return bytes(36)

    def recv(self, *_: object) -> bytes:
        raise BlockingIOError


def map_packed(source: bytes) -> bytes:
    return bytes(10) + b"\xff\xff" + source if len(source) == 4 else source


class Model:
    """Joins on a model kernel."""

    def __init__(self, limits: Limits = SMALL, full_state: bool = True) -> None:
        self.kernel = Kernel(limits, full_state)
        self.joins = Joins(self.kernel, dict(NAMES), Options(), spread=True)  # type: ignore[arg-type]

    def __enter__(self) -> "Model":
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(joins, "open_socket", self.kernel.open_socket)
        self._patch.setattr(plan, "limits", lambda version, spread: self.kernel.limits)
        self._patch.setattr(_core, "membership", self.kernel)
        return self

    def __exit__(self, *exception: object) -> None:
        self._patch.undo()

    def want(self, wanted: Wanted) -> bool:
        self.joins.recover()
        return self.joins.apply(dict.fromkeys(self.joins.wanted) | wanted)

    def holders(self, channel: GroupEndpoint) -> "Iterator[tuple[int, SourceFilter, SourceFilter]]":
        """Socket number, the kernel's filter, and what the slots let pass."""
        group = channel.group
        journal = self.joins._journal  # in the middle of a change: what it has opened is not in the table yet
        opened = [] if journal is None else [member for member in journal.added if member.opened is not None]
        for member in dict.fromkeys([*self.joins.members(), *opened]):
            number = member.opened.socket.number  # type: ignore[union-attr]
            held = self.kernel.held[number].get(native(group))
            if member.endpoint == channel.endpoint and held is not None:
                yield number, held, self.kernel.let_pass[self.kernel.keys[number]].get(group, SourceFilter(False))

    def delivered(self, channel: GroupEndpoint) -> SourceFilter:
        """Whom the slots deliver, all sockets together."""
        union = SourceFilter(False)
        for _, held, let_pass in self.holders(channel):
            for source in SOURCES:
                if passes(held, source) and passes(let_pass, source):
                    union = union.within(source)
        return union

    def check(self, wanted: Wanted) -> None:
        """Sockets hold exactly what is wanted, nobody twice, within the limits, and none is open for nothing."""
        for channel, sources in wanted.items():
            holders = list(self.holders(channel))
            everyone = frozenset(source for source in SOURCES if passes(sources, source))
            assert self.delivered(channel).sources == everyone
            for source in everyone:
                assert sum(passes(held, source) for _, held, _ in holders) == 1, "a source is held twice"
            if sources.exclude:
                ((_, held, let_pass),) = holders
                assert (held.exclude, let_pass) == (True, sources)
                assert held.sources <= sources.sources
                assert len(held.sources) == min(len(sources.sources), self.kernel.limits.sources)
            else:
                assert all(not held.exclude and held == let_pass for _, held, let_pass in holders)
                assert frozenset().union(*(held.sources for _, held, _ in holders)) == sources.sources
        known = {(channel.endpoint, native(channel.group)) for channel in wanted}
        places = {channel.endpoint for channel in wanted}
        for member in self.joins.members():
            held = self.kernel.held[member.opened.socket.number]  # type: ignore[union-attr]
            assert all((member.endpoint, group) in known for group in held), "a group is held that nobody wants"
            alone = [other for other in self.joins.members() if other.endpoint == member.endpoint] == [member]
            assert held or (member.endpoint in places and alone), "a socket is open for nothing"
        assert len(self.joins.sockets()) == len(self.kernel.held) == len(self.kernel.let_pass), "something is left open"


channels = st.builds(GroupEndpoint, st.sampled_from(ENDPOINTS), st.sampled_from(GROUPS))
filters = st.builds(SourceFilter, st.booleans(), st.frozensets(st.sampled_from(SOURCES)))
one_source = st.sampled_from(SOURCES)
operations = st.one_of(
    st.tuples(st.just("leave"), channels, filters, one_source),
    st.tuples(st.sampled_from(("set", "join", "block", "unblock")), channels, filters, one_source),
)


def apply(wanted: Wanted, operation: tuple[str, GroupEndpoint, SourceFilter, bytes]) -> Wanted:
    """What is wanted after one operation, in the words of RFC 3678."""
    name, channel, sources, source = operation
    after = dict(wanted)
    if name == "leave":
        after.pop(channel, None)
    elif name == "set":
        after[channel] = sources
    elif name == "join":
        after[channel] = ANY_SOURCE
    elif channel in after:
        after[channel] = after[channel].without(source) if name == "block" else after[channel].within(source)
    return after


# ---- source filters -------------------------------------------------------------------------------------------------


@given(filters, filters, one_source)
def test_a_union_hears_whom_one_of_both_hears(one: SourceFilter, other: SourceFilter, source: bytes) -> None:
    union = one.union(other)
    assert passes(union, source) == (passes(one, source) or passes(other, source))
    assert union.exclude == (one.exclude or other.exclude)


@given(filters, one_source, one_source)
def test_with_and_without_a_source(sources: SourceFilter, one: bytes, other: bytes) -> None:
    assert not passes(sources.without(one), one)
    assert passes(sources.within(one), one)
    for changed in (sources.without(one), sources.within(one)):
        assert changed.exclude == sources.exclude
        assert other == one or passes(changed, other) == passes(sources, other)


# ---- any sequence of changes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("full_state", [True, False], ids=["full state", "call by call"])
@settings(max_examples=150)
@given(changes=st.lists(operations, max_size=12))
@pytest.mark.long
def test_any_changes_end_in_what_is_wanted(full_state: bool, changes: list[Any]) -> None:
    limits = SMALL if full_state else Limits(groups=2, sources=plan.NO_LIMIT)
    with Model(limits, full_state) as model:
        wanted: Wanted = {}
        for change in changes:
            before, wanted = wanted, apply(wanted, change)
            assert model.want(wanted) == (wanted != before)
            model.check(wanted)
        model.want({})
        assert model.kernel.state() == ({}, {})


@settings(max_examples=150)
@given(changes=st.lists(operations, min_size=1, max_size=8), last=st.lists(operations, min_size=1, max_size=8))
@pytest.mark.long
def test_a_refusal_at_any_call_leaves_everything_as_it_was(changes: list[Any], last: list[Any]) -> None:
    """Each call of a change in turn is refused; then the change is made, as if nothing had been."""
    with Model() as model:
        wanted: Wanted = {}
        for change in changes:
            wanted = apply(wanted, change)
            model.want(wanted)
        after = wanted
        for change in last:
            after = apply(after, change)
        for call in itertools.count():
            before, calls = model.kernel.state(), len(model.kernel.calls)
            model.kernel.fail_at = calls + call
            try:
                model.want(after)
            except (MulticastError, OSError):
                model.kernel.fail_at = None
                assert model.kernel.state() == before, f"after a refusal of {model.kernel.calls[calls:]}"
                model.check(wanted)
            else:
                break
        model.kernel.fail_at = None
        model.check(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [(exclude(), include(0, 1)), (include(0), include(0, 1, 2)), (include(0, 1), exclude(3)), (exclude(1), exclude(2))],
)
def test_a_refusal_undoes_call_by_call_too(before: SourceFilter, after: SourceFilter) -> None:
    """On systems without a full-state filter, a change is many calls: any may be refused."""
    channel = GroupEndpoint(ENDPOINTS[0], GROUPS[0])
    for call in itertools.count():
        with Model(Limits(2, plan.NO_LIMIT), full_state=False) as model:
            model.want({channel: before})
            state = model.kernel.state()
            model.kernel.fail_at = len(model.kernel.calls) + call
            try:
                model.want({channel: after})
            except (MulticastError, OSError):
                model.kernel.fail_at = None
                assert model.kernel.state() == state, f"after call {call} was refused"
                model.check({channel: before})
            else:
                return


ONE = GroupEndpoint(ENDPOINTS[0], GROUPS[0])
SPREAD_AND_BACK = [("set", ONE, sources, SOURCES[0]) for sources in (include(0, 1, 2, 3, 4), exclude(6), include(0, 4))]


@pytest.mark.long
@settings(max_examples=200)
@given(changes=st.lists(operations, min_size=2, max_size=10))
@example(changes=SPREAD_AND_BACK)
@example(changes=SPREAD_AND_BACK[1:] + SPREAD_AND_BACK)
@example(changes=[("set", ONE, exclude(), SOURCES[0]), ("set", ONE, include(1, 2, 3, 4), SOURCES[0])])
def test_what_stays_wanted_is_heard_at_every_moment(changes: list[Any]) -> None:
    """After every single call, whoever is wanted before and after the change is held by a socket that lets him pass."""
    with Model() as model:
        wanted: Wanted = {}
        for change in changes:
            before, wanted = wanted, apply(wanted, change)
            staying = [
                (channel, source)
                for channel in before.keys() & wanted.keys()
                for source in SOURCES
                if passes(before[channel], source) and passes(wanted[channel], source)
            ]

            def check(staying: list[tuple[GroupEndpoint, bytes]] = staying) -> None:
                for channel, source in staying:
                    heard = [
                        passes(held, source) and passes(let_pass, source)
                        for _, held, let_pass in model.holders(channel)
                    ]
                    assert any(heard), f"interrupted after {model.kernel.calls[-3:]}"

            model.kernel.after_call = check
            model.want(wanted)
            model.kernel.after_call = lambda: None


@settings(max_examples=150)
@given(first=st.frozensets(one_source, min_size=1), then=st.frozensets(one_source, min_size=1))
def test_a_source_that_stays_wanted_stays_at_its_socket(first: frozenset[bytes], then: frozenset[bytes]) -> None:
    channel = GroupEndpoint(ENDPOINTS[0], GROUPS[0])
    with Model() as model:
        where = []
        for sources in (first, then):
            model.want({channel: SourceFilter(False, sources)})
            where.append({source: number for number, held, _ in model.holders(channel) for source in held.sources})
        assert all(where[0][source] == where[1][source] for source in first & then)


# ---- seats ----------------------------------------------------------------------------------------------------------


def test_the_only_group_is_bound_and_others_go_elsewhere() -> None:
    first, second = (GroupEndpoint(ENDPOINTS[0], group) for group in GROUPS[:2])
    with Model() as model:
        model.want({first: ANY_SOURCE})
        model.want({first: ANY_SOURCE, second: ANY_SOURCE})
        assert [member.bound for member in model.joins.members()] == [GROUPS[0], bytes(16)]


def test_groups_are_spread_over_as_few_sockets_as_the_limit_allows() -> None:
    wanted = {GroupEndpoint(ENDPOINTS[0], map_address(f"239.2.{n >> 8}.{n & 255}")): ANY_SOURCE for n in range(1_000)}
    with Model(Limits(20, 10)) as model:
        model.want(wanted)
        model.check(wanted)
        assert len(model.joins.sockets()) == 50


def test_what_is_wanted_already_costs_no_call() -> None:
    wanted = {GroupEndpoint(ENDPOINTS[0], GROUPS[0]): include(0, 1, 2, 3)}
    with Model() as model:
        assert model.want(wanted)
        calls = len(model.kernel.calls)
        assert not model.want(dict(wanted))
        assert len(model.kernel.calls) == calls


def test_one_change_of_a_filter_is_one_call() -> None:
    channel = GroupEndpoint(ENDPOINTS[0], GROUPS[0])
    with Model() as model:
        model.want({channel: ANY_SOURCE})
        for sources in (include(0, 1), include(1, 2), exclude(0), ANY_SOURCE):
            calls = len(model.kernel.calls)
            model.want({channel: sources})
            assert [name for name in model.kernel.calls[calls:] if name != "accept"] == ["set_filter"]


def test_a_source_specific_join_is_never_an_any_source_one() -> None:
    """Not for a moment: the routers would send everybody's traffic (RFC 4607)."""
    channel = GroupEndpoint(ENDPOINTS[0], GROUPS[0])
    with Model() as model:
        modes = []
        model.kernel.after_call = lambda: modes.extend(held.exclude for _, held, _ in model.holders(channel))
        model.want({channel: include(0, 1, 2, 3, 4)})
        assert not any(modes)


def test_where_no_source_is_wanted_the_port_stays_open() -> None:
    channel = GroupEndpoint(ENDPOINTS[0], GROUPS[0])
    with Model() as model:
        model.want({channel: include(0)})
        model.want({channel: include()})
        model.check({channel: include()})
        assert len(model.joins.sockets()) == 1


@pytest.mark.parametrize("sources", [ANY_SOURCE, include(0, 1, 2, 3, 4), exclude(0, 1, 2, 3, 4)])
def test_a_move_to_another_index_holds_the_same_there(sources: SourceFilter) -> None:
    old, other = GroupEndpoint(ENDPOINTS[0], GROUPS[0]), GroupEndpoint(ENDPOINTS[2], GROUPS[1])
    new = GroupEndpoint(ENDPOINTS[0]._replace(interface=7), GROUPS[0])
    with Model() as model:
        model.want({old: sources, other: ANY_SOURCE})
        held = len(list(model.holders(old)))
        model.joins.name_interface(7, "eth0")
        state = model.kernel.state()
        model.kernel.fail_at = len(model.kernel.calls) + 2
        with pytest.raises((MulticastError, OSError)):
            model.joins.move(1, 7)
        assert model.kernel.state() == state
        assert set(model.joins.wanted) == {old, other}
        model.joins.move(1, 7)
        assert set(model.joins.wanted) == {new, other}
        assert len(list(model.holders(new))) == held
        assert model.delivered(new) == SourceFilter(False, frozenset(s for s in SOURCES if passes(sources, s)))
        model.joins.close()
        assert model.kernel.held == {}


def test_who_was_retired_is_still_wanted_after_a_second_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ModelSocket, "recv", lambda *_: b"queued")
    old = GroupEndpoint(ENDPOINTS[0], GROUPS[0])
    with Model() as model:
        model.want({old: ANY_SOURCE})
        (first,) = model.joins.sockets()
        model.joins.move(1, 7)
        model.joins.move(7, 8)
        assert first in model.joins.sockets()
        assert set(model.kernel.let_pass[first.key]) == {old.group}
        model.want({})
        assert model.kernel.let_pass[first.key] == {}
        model.joins.close()


# ---- cost ----


def calls_of(call: Any) -> int:
    """How many Python functions and methods of C a call calls."""
    count = 0

    def profile(_frame: Any, event: str, _: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        call()
    finally:
        sys.setprofile(None)
    return count


def many(first: int, count: int) -> Wanted:
    return {
        GroupEndpoint(ENDPOINTS[0], map_address(f"239.2.{n >> 8}.{n & 255}")): ANY_SOURCE
        for n in range(first, first + count)
    }


@pytest.mark.parametrize("make", [dict, dict.fromkeys], ids=["join", "leave"])
def test_a_change_costs_what_changes_and_not_what_is_held(make: Any) -> None:
    costs = []
    for held in (20, 2_000):
        with Model(Limits(20, 10)) as model:
            model.want(many(0, held))
            costs.append([calls_of(lambda one=one: model.joins.apply(make(many(one, 1)))) for one in (held, held + 1)])
            if make is not dict:
                costs[-1] = [calls_of(lambda one=one: model.joins.apply(make(many(one, 1)))) for one in (3, 15)]
    assert max(costs[1]) <= 1.2 * max(costs[0]) + 20, costs
    assert max(costs[1]) > 50 or make is not dict


@pytest.mark.long
def test_many_groups_at_once_cost_in_proportion() -> None:
    costs = []
    for count in (500, 4_000):
        with Model(Limits(20, 10)) as model:
            wanted = many(0, count)
            costs.append(calls_of(lambda wanted=wanted: model.joins.apply(wanted)) / count)
            model.check(wanted)
    assert costs[1] < 1.3 * costs[0], costs


def test_places_that_leaves_free_are_used_again() -> None:
    with Model(Limits(20, 10)) as model:
        model.want(many(0, 400))
        kept = {one: sources for number, (one, sources) in enumerate(many(0, 400).items()) if number % 2}
        model.want(kept)
        model.check(kept)
        model.want(kept | many(1_000, 200))
        model.check(kept | many(1_000, 200))
        assert len(model.joins.sockets()) == 20


# ---- the system's limits --------------------------------------------------------------------------------------------


def test_the_limits_are_those_of_the_system(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("groups", "sources4", "sources6"), start=3):
        (tmp_path / name).write_text(f"{number}\n")
    monkeypatch.setattr(plan, "GROUPS_OF_A_SOCKET", {4: tmp_path / "groups"})
    monkeypatch.setattr(plan, "SOURCES_OF_A_GROUP", {4: tmp_path / "sources4", 6: tmp_path / "sources6"})
    assert plan.limits(4, spread=True) == Limits(3, 4)
    assert plan.limits(6, spread=True).sources == 5
    assert plan.limits(4, spread=False) == plan.limits(6, spread=False) == Limits(plan.NO_LIMIT, plan.NO_LIMIT)
    (tmp_path / "groups").write_text("0")
    assert plan.limits(4, spread=True).groups == 1
