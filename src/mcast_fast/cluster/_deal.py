"""Which host records which group, by a plan and the hosts that are there.

Every group has an order of hosts, which the plan alone decides; the first ones of it that are there record the group.
Hence whoever reads the same plan and sees the same hosts deals the same, and when a host fails or comes back only its
own groups move, whatever failed before.

The first places are dealt greedily by rate, the largest groups first, each to the host with the least load for its
capacity; legs and copies of one feed to different hosts where there are any. The place behind these is dealt in the
same way among the hosts that are left when those before have failed, spare hosts first; the places behind it follow
from hashes (rendezvous hashing).

Rules of this module: no I/O.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from mcast_fast.cluster._plan import Feed, Host, Plan
from mcast_fast.errors import ArgumentError
from mcast_fast.groups import Group


@dataclass(frozen=True, slots=True)
class Share:
    """What one host records.

    Attributes:
        host: Its name.
        groups: The groups, in the order of the plan.
        rate: Bits per second of all of them.
        capacity: Bits per second that the host can record; None: the plan does not say it.
    """

    __module__ = "mcast_fast.cluster"

    host: str
    groups: tuple[Group, ...]
    rate: float
    capacity: float | None = None


@dataclass(frozen=True, slots=True)
class _Unit:
    """A group to deal."""

    group: Group
    feed: Feed
    number: int  # in the plan
    family: tuple[int, int]  # the feed and the place in its runs: legs of one feed share it


class Deal:
    """The order of hosts of every group of a plan.

        deal = cluster.Deal(plan)
        deal.shares(["alpha", "beta"])                 # gamma has failed

    Args:
        plan: The plan.

    Raises:
        ArgumentError: It is no Plan.
    """

    __module__ = "mcast_fast.cluster"

    def __init__(self, plan: Plan) -> None:
        if not isinstance(plan, Plan):
            raise ArgumentError(f"plan {plan!r} is no Plan")
        self._plan = plan
        self._units = list(_units(plan))
        self._orders: list[list[str]] = [[] for _ in self._units]
        self._load: dict[str, float] = dict.fromkeys(plan.hosts, 0.0)
        self._deal_first()
        self._deal_next()

    def _by_rate(self) -> list[_Unit]:
        return sorted(self._units, key=lambda unit: (-unit.feed.rate, unit.number))

    def _deal_first(self) -> None:
        """The places of all copies."""
        families: dict[tuple[int, int], set[str]] = defaultdict(set)
        for unit in self._by_rate():
            candidates = self._candidates(unit.feed, spare=False)
            order, taken = self._orders[unit.number], families[unit.family]
            for _ in range(unit.feed.copies):
                free = [one for one in candidates if one not in order]
                free = free or [one for one in self._candidates(unit.feed, spare=True) if one not in order]
                apart = [one for one in free if one not in taken] or free
                chosen = self._least(apart, self._load, unit)
                self._load[chosen] += unit.feed.rate
                order.append(chosen)
                taken.add(chosen)

    def _deal_next(self) -> None:
        """The place behind those, where the hosts before it have failed."""
        more: dict[frozenset[str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
        for unit in self._by_rate():
            order = self._orders[unit.number]
            left = [one for one in self._candidates(unit.feed, spare=None) if one not in order]
            left = [one for one in left if self._plan.hosts[one].spare] or left
            if not left:
                continue
            taken_over = more[frozenset(order)]
            loads = {one: self._load[one] + taken_over[one] for one in left}
            chosen = self._least(left, loads, unit)
            taken_over[chosen] += unit.feed.rate
            order.append(chosen)

    def _candidates(self, feed: Feed, spare: bool | None) -> list[str]:
        """The hosts that may record a feed: spare ones, others (where none is, the spare ones), or all (None)."""
        allowed = [one for name, one in self._plan.hosts.items() if not feed.hosts or name in feed.hosts]
        found = [one.name for one in allowed if spare is None or one.spare == spare]
        return found or [one.name for one in allowed]

    def _least(self, names: Iterable[str], loads: Mapping[str, float], unit: _Unit) -> str:
        """The host with the least load once it has this group, for its capacity."""
        usual = _usual(self._plan.hosts)

        def load(name: str) -> tuple[float, bytes]:
            capacity = self._plan.hosts[name].capacity or usual
            return (loads[name] + unit.feed.rate) / capacity, _hash(unit, name)

        return min(names, key=load)

    def order(self, group: Group | str) -> tuple[str, ...]:
        """Return the hosts of a group in the order in which they are to record it.

        Args:
            group: A group of the plan, with its port.

        Returns:
            Names of all hosts that may record it.

        Raises:
            ArgumentError: The plan has no such group.
            GroupError: The text is no group.
        """
        wanted = Group.coerce(group)
        for unit in self._units:
            if (unit.group.address, unit.group.port) == (wanted.address, wanted.port):
                return tuple(self._order(unit))
        raise ArgumentError(f"the plan has no group {wanted}")

    def _order(self, unit: _Unit) -> list[str]:
        order = self._orders[unit.number]
        rest = [one for one in self._candidates(unit.feed, spare=None) if one not in order]
        hosts = self._plan.hosts
        rest.sort(key=lambda name: (not hosts[name].spare, _hash(unit, name)))
        return order + rest

    def shares(self, there: Collection[str] | None = None) -> tuple[Share, ...]:
        """Deal the groups to the hosts that are there.

        Args:
            there: Names of hosts; None: all of the plan.

        Returns:
            A Share for each of these hosts, in the order of the plan. A group of which no host is there is in none.

        Raises:
            ArgumentError: The plan has no host of a name.
        """
        hosts = self._plan.hosts
        present = set(hosts) if there is None else set(there)
        if unknown := sorted(present - set(hosts)):
            raise ArgumentError(f"the plan has no host {unknown[0]!r}; it has {', '.join(hosts)}")
        dealt: dict[str, list[_Unit]] = {name: [] for name in hosts if name in present}
        for unit in self._units:
            for name in self._recorders(unit, present):
                dealt[name].append(unit)
        return tuple(
            Share(name, tuple(one.group for one in units), sum(one.feed.rate for one in units), hosts[name].capacity)
            for name, units in dealt.items()
        )

    def _recorders(self, unit: _Unit, present: set[str]) -> list[str]:
        copies = unit.feed.copies
        found = [one for one in self._orders[unit.number] if one in present][:copies]
        if len(found) < copies:
            found = [one for one in self._order(unit) if one in present][:copies]
        return found


def _units(plan: Plan) -> Iterable[_Unit]:
    number = 0
    for feed_number, feed in enumerate(plan.feeds):
        for leg in feed.legs:
            for at, group in enumerate(leg.expand()):
                yield _Unit(group, feed, number, (feed_number, at))
                number += 1


def _hash(unit: _Unit, host: str) -> bytes:
    return hashlib.blake2b(f"{unit.group} {host}".encode(), digest_size=8).digest()


def _usual(hosts: Mapping[str, Host]) -> float:
    """The capacity of a host of which the plan says none: the mean of the others."""
    known = [one.capacity for one in hosts.values() if one.capacity]
    return sum(known) / len(known) if known else 1.0
