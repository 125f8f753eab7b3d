"""The groups that a doctor looks for, and what came of each: at interfaces, by sockets, and by the program."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeVar

from mcast_fast._host.interfaces import Interface, default_interface, find_interface, interfaces
from mcast_fast.doctor._frames import Datagram
from mcast_fast.errors import ArgumentError, GroupError, InterfaceError, MulticastError
from mcast_fast.groups import Group, Groups, at_least_one, check_interface

MOST_FEEDS = 256
MOST_KINDS = 1000  # different frames, and sources, that are counted for one group: a stranger may send from any address
GRACE = 0.05  # seconds for packets that were on their way when the filter of an interface was set

Kind = TypeVar("Kind")


@dataclass(slots=True)
class Feed:
    """One group and port.

    `interface`: where it is to be joined, None for "all" and where there is none. `fault`: why it could not be found.
    `heard`: packets by source that a receiver delivered that was opened as the group says. `elsewhere`: by interface
    and source, what a receiver of any source on every interface delivered. `frames`: what was seen at interfaces.
    `last`: the time of the last packet where it is joined, by the monotonic clock; 0 when none came. `first_heard`,
    `last_heard`, `packets`, `octets` of payload: of what a receiver delivered. `is_gone`: its interface was removed
    meanwhile. `widened`, `narrowed`: when its interface began to take all groups, and ended; `came_wide`, `came_after`:
    packets meanwhile, and after it.
    """

    group: Group
    interface: Interface | None = None
    fault: MulticastError | None = None
    heard: Counter[str] = field(default_factory=Counter)
    elsewhere: Counter[tuple[str, str]] = field(default_factory=Counter)
    frames: Counter[Datagram] = field(default_factory=Counter)
    last: float = 0.0
    first_heard: float = 0.0
    last_heard: float = 0.0
    is_gone: bool = False
    packets: float = 0.0
    octets: float = 0.0
    widened: float = 0.0
    narrowed: float = 0.0
    came_wide: int = 0
    came_after: int = 0

    @property
    def text(self) -> str:
        """As the user wrote it, with its interface where one was found."""
        return str(self.at(None))

    @property
    def port(self) -> int:
        """The port."""
        return self.group.port or 0

    @property
    def name(self) -> str:
        """The name of the interface; empty for "all"."""
        return self.interface.name if self.interface else ""

    def at(self, interface: str | None, source: str | None = None, port: int | None = None) -> Group:
        """The group corrected: on another interface, from another source, at another port."""
        name = _zone(interface or self.name) or self.group.interface
        return replace(self.group, interface=name, source=source or self.group.source, port=port or self.port, count=1)

    def call(self, group: Group | None = None, **options: object) -> str:
        """The call that receives it."""
        extra = "".join(f", {name}={value!r}" for name, value in options.items())
        return f"mcast.Receiver({literal(group or self.at(None))}{extra})"

    def see(self, frame: Datagram, now: float) -> None:
        """Count a frame of this group."""
        add_one(self.frames, frame)
        if frame.port in (0, self.port) and not frame.is_outgoing and self.name in ("", frame.interface):
            self.last = now
            self.came_wide += self.widened > 0 and not self.narrowed
            self.came_after += self.narrowed > 0 and now > self.narrowed + GRACE

    def take(self, packets: float, octets: float, now: float) -> None:
        """Count what a receiver delivered."""
        self.first_heard = self.first_heard or now
        self.last = self.last_heard = now
        self.packets += packets
        self.octets += octets

    def arrived(self, *, here: bool = True) -> "list[tuple[Datagram, int]]":
        """Frames for this group and port that came from the network without a tag, and how many; those at the
        interface where it is joined, or those at others."""
        return [
            (frame, count)
            for frame, count in self.frames.items()
            if not frame.is_outgoing
            and not frame.vlan
            and frame.port in (0, self.port)
            and (not self.name or frame.interface == self.name) is here
        ]

    @property
    def sources(self) -> list[str]:
        """The sources that were seen where the group is joined, the busiest first."""
        found: Counter[str] = Counter()
        for frame, count in self.arrived():
            found[frame.source] += count
        for (name, source), count in self.elsewhere.items():
            if name == self.name:
                found[source] += count
        return [source for source, _ in (found + self.heard).most_common()]


def add_one(counted: Counter[Kind], one: Kind) -> None:
    """Count one more, unless it is another kind than the MOST_KINDS that are there."""
    if one in counted or len(counted) < MOST_KINDS:
        counted[one] += 1


def literal(group: Group) -> str:
    """A group as it is written in a program; an interface's name may hold quotes, and bytes that are no UTF-8."""
    return json.dumps(str(group), ensure_ascii=False).encode("utf-8", "backslashreplace").decode("utf-8")


def _zone(name: str) -> str:
    """The name of an interface; its index where a group cannot have the name: Linux takes almost any bytes, Windows
    spaces."""
    with contextlib.suppress(GroupError):
        if name:
            check_interface(name)
        return name
    try:
        return str(find_interface(name).index)
    except MulticastError:  # it has gone
        return ""


def feeds_of(groups: Iterable[Groups], interface: str | int | None, port: int | None) -> list[Feed]:
    """A feed for each group, with the interface that a receiver would join it on. GroupError, ArgumentError."""
    parsed = [Group.coerce(one) for one in at_least_one(groups)]
    count = sum(one.count for one in parsed)
    if count > MOST_FEEDS:
        raise ArgumentError(f"{count:,} groups; a doctor looks at {MOST_FEEDS} at most: name some of them")
    found = []
    for one in (single for group in parsed for single in group.expand()):
        wanted = replace(one, port=one.port or port, interface=one.interface or _named(interface))
        if not wanted.port:
            raise ArgumentError(f"{one} has no port; write it behind the group, as in {replace(one, port=5000)}")
        found.append(_find(Feed(wanted)))
    return found


def _named(interface: str | int | None) -> str | None:
    """As a group names it."""
    if interface is None or interface == "all":
        return interface
    with contextlib.suppress(MulticastError):
        return _zone(find_interface(interface).name)
    return str(interface)  # there is none, which is a finding


def _find(feed: Feed) -> Feed:
    wanted = feed.group.interface
    if wanted != "all":
        try:
            feed.interface = find_interface(wanted) if wanted else default_interface(feed.group.address)
        except MulticastError as error:
            feed.fault = error
    return feed


def look_again(feeds: Iterable[Feed], known: Iterable[Interface]) -> None:
    """What became of their interfaces."""
    by_index = {one.index: one for one in known}
    for feed in feeds:
        if feed.interface is not None and by_index:
            feed.is_gone = feed.interface.index not in by_index
            feed.interface = by_index.get(feed.interface.index, feed.interface)


def known_interfaces() -> tuple[tuple[Interface, ...], str]:
    """The interfaces of this machine, or none and why."""
    try:
        return tuple(interfaces()), ""
    except MulticastError as error:
        return (), str(error)


def is_whole(feed: Feed) -> bool:
    """Whether its packets arrive, and none of them in parts."""
    return bool(feed.heard) and not any(frame.is_fragment for frame in feed.frames)


def is_missing(feed: Feed) -> bool:
    """Whether the interface that the group names does not exist."""
    return isinstance(feed.fault, InterfaceError)
