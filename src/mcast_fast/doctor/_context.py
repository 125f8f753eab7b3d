"""What the checks look at: all that was read and received, before any of it is judged."""

import contextlib
import ipaddress
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mcast_fast._host import links, port_users, stack_counters
from mcast_fast._host.interfaces import Interface
from mcast_fast._host.routes import Route, find_route
from mcast_fast.doctor import _readings
from mcast_fast.doctor._feeds import Feed, is_whole, known_interfaces, look_again
from mcast_fast.doctor._finding import Finding
from mcast_fast.doctor._listening import Listening
from mcast_fast.doctor._rules import Fields, Rule, Ruleset
from mcast_fast.errors import MulticastError

QUIET, SEVERAL = 2.0, 10  # seconds without a packet that are a stop, or times the usual gap

Users = Mapping[int, Mapping[int, port_users.PortUser]]
"""By port: sockets by inode."""


@dataclass(slots=True)
class Moment:
    """What was read at one moment."""

    counters: stack_counters.Counters
    users: Users
    joined: Mapping[str, Mapping[str, int]]
    included: Mapping[tuple[str, str], Mapping[str, int]]
    rules: Ruleset | None
    rules_fault: str
    monotonic: float
    clock: float

    @classmethod
    def read(cls, feeds: Sequence[Feed], earlier: "Moment | None" = None) -> "Moment":
        """Read it now. The rules, which take a process, are those of an earlier moment where that is given."""
        ruleset, fault = _readings.rules() if earlier is None else (earlier.rules, earlier.rules_fault)
        now = time.monotonic(), time.time_ns() / 1e9
        memberships = _readings.joined(), _readings.included()
        return cls(stack_counters.read(), _users(feeds), *memberships, ruleset, fault, *now)


@dataclass(slots=True)
class Context:
    """Everything that a check may look at.

    `surveyed`: the interface that is examined by itself. `before`, `after`: what was read before and after listening.
    `is_watch`: it listened for the whole requested time, and looks for a stop."""

    feeds: Sequence[Feed]
    surveyed: Interface | None
    interfaces: tuple[Interface, ...]
    interfaces_fault: str
    links: Mapping[int, links.Link]
    before: Moment
    after: Moment
    listening: Listening
    is_watch: bool
    needs_ring: bool
    spread: bool
    _owners: dict[int, tuple[int | None, str | None]] = field(default_factory=dict)  # by inode

    @classmethod
    def gathered(
        cls,
        feeds: Sequence[Feed],
        surveyed: Interface | None,
        seconds: float,
        is_over: Callable[[], bool],
        *,
        is_watch: bool,
        needs_ring: bool,
        spread: bool,
    ) -> "Context":
        """Read, listen, and read again."""
        before = Moment.read(feeds)
        listening = Listening(feeds, spread=spread, surveyed=surveyed.name if surveyed else "")
        if feeds or surveyed:
            listening.run(seconds, is_watch, is_over)
        known, fault = known_interfaces()
        look_again(feeds, known)
        layers: dict[int, links.Link] = {}
        with contextlib.suppress(OSError):
            layers = links.read()
        # Where all came, what rules counted meanwhile and how they changed explains nothing.
        after = Moment.read(feeds, None if is_watch or not all(map(is_whole, feeds)) else before)
        return cls(feeds, surveyed, known, fault, layers, before, after, listening, is_watch, needs_ring, spread)

    @property
    def names(self) -> list[str]:
        """The interfaces that are examined."""
        examined = [feed.interface for feed in self.feeds] + [self.surveyed]
        return sorted({one.name for one in examined if one is not None})

    def grown(self, counter: str) -> int:
        """By how much a counter of the stack grew while it listened."""
        return _readings.grown(counter, self.before.counters, self.after.counters)

    def owned(self, users: Iterable[port_users.PortUser]) -> list[port_users.PortUser]:
        """Sockets that were on the ports, with their processes: these are looked for once, for it takes long."""
        if not self._owners:
            every = {
                inode: user
                for moment in (self.before, self.after)
                for known in moment.users.values()
                for inode, user in known.items()
            }
            for one in port_users.with_owners(list(every.values())):
                self._owners[one.inode] = one.pid, one.program
        return [replace(one, pid=pid, program=name) for one in users for pid, name in (self._owners[one.inode],)]

    @property
    def has_wire(self) -> bool:
        """Whether interfaces could be looked at."""
        return not self.listening.wire_fault

    def is_on_wire(self, feed: Feed) -> bool | None:
        """Whether packets came to the interface where the group is joined, also after a stop; None when that is not
        known."""
        if not self.has_wire:
            return None
        return feed.last > feed.last_heard + QUIET if self.silence(feed) else bool(feed.arrived())

    def silence(self, feed: Feed) -> float:
        """For how long no packet came to a watched socket that had got some; 0 where they did not stop."""
        count = feed.heard.total()
        if not self.is_watch or count < 2:
            return 0.0
        gap = self.listening.ended - feed.last_heard
        usual = (feed.last_heard - self.listening.began) / count
        return gap if gap > max(QUIET, SEVERAL * usual) else 0.0

    def arrives(self, feed: Feed) -> bool:
        """Whether its packets come to a socket, and did so until the end."""
        return bool(feed.heard) and not self.silence(feed)

    def is_opened(self, feed: Feed) -> bool:
        """Whether the group could be joined."""
        return feed.fault is None and self.listening.refusal is None

    def route(self, address: str) -> Route | None:
        """Where the routing table sends to an address; None when it cannot be queried."""
        with contextlib.suppress(MulticastError):
            return find_route(ipaddress.ip_address(address), self.interfaces)
        return None

    def packet(self, feed: Feed, *, is_fragment: bool = False) -> Fields:
        """A datagram of the group as rules of a firewall see it where it arrives."""
        source = feed.group.source or next(iter(feed.sources), None)
        ip = "ip" if feed.group.version == 4 else "ip6"
        fields: dict[str, object] = self._outer(feed, 17) | {
            f"{ip}.saddr": source,
            f"{ip}.daddr": feed.group.address,
            "meta.iifname": feed.name or None,
            "meta.iif": feed.name or None,
            "udp.dport": feed.port,
            "th.dport": feed.port,
            "is_fragment": is_fragment,
            "ip.frag-off": 0x2000 | 185 if is_fragment else 0,
        }
        if is_fragment:
            fields["headers"] = (ip,)
        return fields

    def report(self, feed: Feed) -> Fields:
        """A report of the membership as rules see it where it leaves."""
        ip = "ip" if feed.group.version == 4 else "ip6"
        return self._outer(feed, 2 if ip == "ip" else 58) | {
            f"{ip}.saddr": feed.interface.ipv4 if feed.interface and ip == "ip" else None,
            f"{ip}.daddr": "224.0.0.22" if ip == "ip" else "ff02::16",
            "meta.oifname": feed.name or None,
            "meta.oif": feed.name or None,
            "icmpv6.type": "mld2-listener-report",
            "ip.frag-off": 0,
        }

    def _outer(self, feed: Feed, protocol: int) -> dict[str, object]:
        ip = "ip" if feed.group.version == 4 else "ip6"
        names = {17: ("udp", "th"), 2: ("igmp",), 58: ("icmpv6",)}[protocol]
        return {
            "version": feed.group.version,
            "headers": (ip, *names),
            f"{ip}.protocol": protocol,
            f"{ip}.nexthdr": protocol,
            f"{ip}.version": feed.group.version,
            "meta.l4proto": protocol,
            "meta.nfproto": "ipv4" if ip == "ip" else "ipv6",
            "meta.protocol": ip,
            "meta.pkttype": "multicast",
        }

    def grown_rule(self, rule: Rule) -> int | None:
        """How often a rule with a counter matched while it listened."""
        if self.before.rules is None or self.after.rules is None:
            return None
        first, last = (one.rules.counter(rule) if one.rules else None for one in (self.before, self.after))
        return None if first is None or last is None else last - first


Check = Callable[[Context], Iterator[Finding]]


def _users(feeds: Sequence[Feed]) -> Users:
    found: dict[int, dict[int, port_users.PortUser]] = {}
    listed: dict[tuple[int, int], list[port_users.PortUser]] = {}
    for feed in feeds:
        known = found.setdefault(feed.port, {})
        key = feed.group.version, feed.port
        if key not in listed:
            listed[key] = port_users.on_port(feed.group.address, feed.port)
        index = feed.interface.index if feed.interface else 0
        known.update((user.inode, user) for user in port_users.preferred(listed[key], feed.group.address, index))
    return found
