"""Which faults the counts of one direction show.

Rules of this module: no I/O; the texts are in `_probe_faults`.
"""

from collections.abc import Callable, Iterator, Mapping
from shlex import quote
from typing import NamedTuple

from mcast_fast.doctor._probe_faults import finding
from mcast_fast.doctor._probe_report import VERDICTS, ProbeFinding, ProbeHost
from mcast_fast.doctor._probe_wire import BURSTS, FILLS_A_FRAME, SIZES, UNKNOWN, Entry

ENOUGH = 3  # datagrams that were expected before "none arrives" is said
SOME_LOSS = 0.01  # of all: above it loss is a problem
STOPPED = 2_000  # ms of silence, with HELLOS_MISSED, after which a stream has stopped
HELLOS_MISSED = 10
SHORTEST = 300_000_000  # ns within which it is no finding that nothing came
VANISHED = 5_000_000_000  # ns without a word
WAYS = ("multicast", "unicast")

Values = Mapping[str, object]


class Seen(NamedTuple):
    """What is known of one direction.

    `entry`: what the receiver knows of the sender; `back`: the other way round. `hops_back`: routers on that way.
    `sizes`, `bursts`: bits of those that were sent. `known_for`: ns since this host found both.
    """

    version: int
    group: str
    port: int
    sender: ProbeHost
    receiver: ProbeHost
    entry: Entry
    back: Entry | None
    hops_back: int | None
    known_for: int
    sizes: int = 0
    bursts: int = 0

    @property
    def names(self) -> dict[str, str]:
        """Of both hosts and of the group, as the texts have them: the group in commands alone."""
        group = f"[{self.group}]" if self.version == 6 else self.group
        return {"to": self.receiver.name, "by": self.sender.name, "group": quote(f"{group}:{self.port}")}


def findings(seen: Seen) -> tuple[ProbeFinding, ...]:
    """All that is wrong with one direction, the worst first."""
    checks = CHECKS if seen.entry.multicast.received else (_not_heard,)
    found = [one for check in checks for one in check(seen)]
    return tuple(sorted(found, key=lambda one: -VERDICTS.index(one.verdict)))


def _not_heard(seen: Seen) -> Iterator[ProbeFinding]:
    """Why no multicast comes, by what else does."""
    expected, unicast = seen.entry.multicast.expected, seen.entry.unicast
    family = "ip" if seen.version == 4 else "ip6"
    values: Values = {
        **seen.names,
        "expected": expected,
        "rule": f"{family} daddr {seen.group} udp dport {seen.port} accept",
    }
    if not unicast.received and seen.known_for < SHORTEST:
        yield finding("too-short", values)
        return
    if not unicast.received:
        yield finding("nothing-heard", {**values, "unicast": unicast.expected}, more=_router(seen))
        return
    values = {**values, "unicast": f"{unicast.received} of {unicast.expected - unicast.startup}"}
    hops, ttl = seen.hops_back, seen.sender.ttl
    if expected < ENOUGH:
        yield finding("too-short", values)
    elif hops and ttl is not None and ttl <= hops:
        yield finding("ttl-too-small", {**values, "ttl": ttl, "hops": hops, "needed": hops + 1})
    elif seen.back is not None and seen.back.multicast.received:
        yield finding("one-way", values)
    else:
        yield finding("multicast-blocked", values, more=_router(seen))


def _router(seen: Seen) -> tuple[str, ...]:
    """A cause where nothing says how many routers are between them."""
    ttl = seen.sender.ttl
    if ttl is None or ttl > 1 or seen.hops_back == 0:
        return ()
    return (f"a router, which a TTL of {ttl} does not pass: raise it with --ttl",)


# Multicast comes, but ------------------------------------------------------------------------------------------------


def _stopped(seen: Seen) -> Iterator[ProbeFinding]:
    """It came, and comes no more."""
    entry = seen.entry
    values: Values = {**seen.names, "lasted": entry.lasted / 1000, "silent": entry.silent / 1000}
    if entry.echo_hold >= VANISHED and not entry.is_gone:
        yield finding("host-silent", values)
    elif _has_stopped(entry):
        yield finding("multicast-stopped", values)


def _has_stopped(entry: Entry) -> bool:
    return entry.silent >= STOPPED and entry.multicast.lost >= HELLOS_MISSED


def _loss(seen: Seen) -> Iterator[ProbeFinding]:
    """Some are lost."""
    for way in WAYS:
        count = getattr(seen.entry, way)
        if count.lost and count.received and not (way == "multicast" and _has_stopped(seen.entry)):
            share = count.lost / count.expected
            counted = {"lost": count.lost, "expected": count.expected, "share": share}
            dropped = seen.receiver.dropped if way == "multicast" else 0
            name = "multicast-dropped" if dropped else f"{way}-loss"
            values: Values = {**seen.names, **counted, "dropped": dropped}
            yield finding(name, values, verdict="problem" if share >= SOME_LOSS else "warning")


def _unicast(seen: Seen) -> Iterator[ProbeFinding]:
    """Multicast comes and unicast does not."""
    count = seen.entry.unicast
    if count.expected >= ENOUGH and not count.received:
        yield finding("unicast-blocked", {**seen.names, "expected": count.expected})


def _odd(seen: Seen) -> Iterator[ProbeFinding]:
    """Duplicates and reordering."""
    for way in WAYS:
        for what in ("duplicates", "reordered"):
            if count := getattr(getattr(seen.entry, way), what):
                yield finding(f"{way}-{what}", {**seen.names, "count": count})


def _dscp(seen: Seen) -> Iterator[ProbeFinding]:
    """The class of service is another one."""
    sent, came = seen.sender.dscp, seen.entry.dscp
    if sent is not None and came >= 0 and sent != came:
        yield finding("dscp-changed", {**seen.names, "sent": sent, "came": came})


def largest(seen: Seen) -> tuple[int | None, int | None]:
    """Bytes of the largest datagram that came whole (0: none), and of the smallest above it that did not come."""
    if not seen.entry.judged or not seen.sizes:
        return None, None
    table = SIZES[seen.version]
    came = [size for bit, size in enumerate(table) if seen.entry.sizes >> bit & 1]
    top = max(came, default=0)
    lost = [size for bit, size in enumerate(table) if seen.sizes >> bit & 1 and size > top]
    return top, min(lost, default=None)


def _size(seen: Seen) -> Iterator[ProbeFinding]:
    """Datagrams of some size do not come."""
    top, lost = largest(seen)
    if top is not None and lost is not None:
        name = "mtu" if top < SIZES[seen.version][FILLS_A_FRAME] else "fragments"
        yield finding(name, {**seen.names, "largest": top, "lost": lost})


def bursts(seen: Seen) -> tuple[tuple[int, int], ...]:
    """(sent back to back, arrived) of each burst that was sent and judged."""
    pairs = zip(BURSTS, seen.entry.bursts, strict=True)
    return tuple((sent, came) for step, (sent, came) in enumerate(pairs) if seen.bursts >> step & 1 and came != UNKNOWN)


def _burst(seen: Seen) -> Iterator[ProbeFinding]:
    """A burst does not come whole."""
    for sent, came in bursts(seen):
        if came < sent:
            dropped = seen.receiver.dropped
            name = "burst-dropped" if dropped else "burst"
            yield finding(name, {**seen.names, "sent": sent, "came": came, "dropped": dropped})
            return


CHECKS: tuple[Callable[[Seen], Iterator[ProbeFinding]], ...] = (
    *(_stopped, _loss, _size, _unicast),
    *(_burst, _odd, _dscp),
)
