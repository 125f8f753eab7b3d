"""From what each host has reported to the report of a probe: who hears whom.

Rules of this module: no I/O.
"""

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

from mcast_fast._core.addresses import plain_text
from mcast_fast.doctor._probe_counts import ProbeTimes
from mcast_fast.doctor._probe_faults import finding
from mcast_fast.doctor._probe_report import ProbeFinding, ProbeHost, ProbeLink, ProbeReport
from mcast_fast.doctor._probe_state import State
from mcast_fast.doctor._probe_verdicts import VANISHED, Seen, bursts, findings, largest
from mcast_fast.doctor._probe_wire import Entry
from mcast_fast.errors import escaped

View = Mapping[bytes, Entry]


def printable(name: bytes) -> str:
    """A name that a stranger gave itself, without what a terminal would obey."""
    return escaped(name.decode("utf-8", "backslashreplace")) or "?"


class Matrix:
    """All hosts, and what each has reported of the others."""

    def __init__(self, state: State, group: str, port: int, now: int, clock: int) -> None:
        self.state = state
        self.group = group
        self.port = port
        self.now = now
        me = state.settings.identity
        self.views: dict[bytes, View] = {me: state.entries(now, clock)}
        self.views |= {identity: peer.reports for identity, peer in state.peers.items() if peer.was_heard}
        others = {identity: self._host(identity) for identity in state.peers}
        self.hosts = {me: self._self()} | dict(sorted(others.items(), key=lambda one: (one[1].name, one[0])))

    def _self(self) -> ProbeHost:
        one = self.state.settings
        dropped = self.state.dropped
        name = printable(one.name)
        return ProbeHost(one.identity.hex(), name, ttl=one.ttl, dscp=one.dscp, is_self=True, dropped=dropped)

    def _host(self, identity: bytes) -> ProbeHost:
        peer = self.state.peers[identity]
        address, port = (None, None) if peer.address is None else (plain_text(peer.address[0]), peer.address[1])
        known: dict[str, Any] = (
            {"ttl": peer.ttl_sent, "dscp": peer.dscp_sent, "dropped": peer.dropped} if peer.was_heard else {}
        )
        name = printable(peer.name)
        return ProbeHost(identity.hex(), name, address, port, was_heard=peer.was_heard, **known)

    def links(self) -> tuple[ProbeLink, ...]:
        """One for each ordered pair."""
        return tuple(self._link(sender, receiver) for sender, receiver in permutations(self.hosts, 2))

    def _entry(self, receiver: bytes, sender: bytes) -> Entry | None:
        """What one host knows of another one; None: it has not reported. It does not hear what it does not know."""
        view = self.views.get(receiver)
        if view is None:
            return None
        if sender in view:
            return view[sender]
        peer = self.state.peers[receiver]
        return Entry(sender) if 0 <= peer.known <= len(view) else None

    def _link(self, sender: bytes, receiver: bytes) -> ProbeLink:
        names: dict[str, Any] = {"sender": sender.hex(), "receiver": receiver.hex()}
        entry, back = self._entry(receiver, sender), self._entry(sender, receiver)
        if entry is None:
            unknown = finding("no-report", {"to": self.hosts[receiver].name, "by": self.hosts[sender].name})
            return ProbeLink(**names, findings=(unknown,))
        seen = self._seen(sender, receiver, entry, back)
        top, lost = largest(seen)
        heard: dict[str, Any] = {}
        if entry.multicast.received:
            heard = {
                "hops": _hops(seen.sender, entry),
                "dscp_sent": seen.sender.dscp,
                "dscp_received": entry.dscp if entry.dscp >= 0 else None,
                "largest": top,
                "smallest_lost": lost,
                "bursts": bursts(seen),
            } | _delays(entry, back)
        return ProbeLink(
            **names,
            multicast=entry.multicast,
            unicast=entry.unicast,
            round_trip=self._round_trip(sender, receiver),
            findings=(*findings(seen), *self._old_report(receiver)),
            **heard,
        )

    def _old_report(self, receiver: bytes) -> Iterator[ProbeFinding]:
        peer = self.state.peers.get(receiver)
        if peer is not None and (age := peer.age(self.now)) >= VANISHED:
            yield finding("old-report", {"to": self.hosts[receiver].name, "seconds": age / 1e9})

    def _seen(self, sender: bytes, receiver: bytes, entry: Entry, back: Entry | None) -> Seen:
        one, other = self.hosts[sender], self.hosts[receiver]
        sizes, sent_bursts = self._sent(sender)
        return Seen(
            version=self.state.settings.version,
            group=self.group,
            port=self.port,
            sender=one,
            receiver=other,
            entry=entry,
            back=back,
            hops_back=_hops(other, back),
            known_for=self.now - max(self._found(sender), self._found(receiver)),
            sizes=sizes,
            bursts=sent_bursts,
        )

    def _found(self, identity: bytes) -> int:
        """When this host found one."""
        peer = self.state.peers.get(identity)
        return self.state.began if peer is None else peer.found

    def _sent(self, sender: bytes) -> tuple[int, int]:
        """Bits of the sizes and bursts that a host sends."""
        peer = self.state.peers.get(sender)
        return self.state.tests if peer is None else (peer.sent_sizes, peer.sent_bursts)

    def _round_trip(self, sender: bytes, receiver: bytes) -> ProbeTimes | None:
        me = self.state.settings.identity
        if me not in (sender, receiver):
            return None
        times = self.state.peers[receiver if sender == me else sender].round_trip.spread
        return times if times.samples else None


def _hops(sender: ProbeHost, entry: Entry | None) -> int | None:
    """Routers on the way from a host to one that has reported the TTL that arrived."""
    if entry is None or entry.ttl < 0 or sender.ttl is None:
        return None
    return max(0, sender.ttl - entry.ttl)


def _delays(entry: Entry, back: Entry | None) -> dict[str, Any]:
    """What can be said of delays: a clock that is ahead adds to one direction what it takes from the other one."""
    one = entry.delay
    if not one.samples:
        return {}
    known: dict[str, Any] = {"spread": one.largest - one.smallest}
    if back is not None and back.delay.samples:
        known["clock_offset"] = (one.smallest - back.delay.smallest) // 2
        if one.smallest >= 0 and back.delay.smallest >= 0:
            known["delay"] = one
    return known


def report(
    state: State, group: str, port: int, interface: str, now: int, clock: int, refusals: tuple[ProbeFinding, ...] = ()
) -> ProbeReport:
    """All of it."""
    matrix = Matrix(state, group, port, now, clock)
    found = list(refusals)
    seconds = (now - (state.first_contact or state.began)) / 1e9
    zoned = f"{group}%{escaped(interface)}"
    name = f"[{zoned}]:{port}" if ":" in group else f"{zoned}:{port}"
    if not state.peers:
        found.append(finding("nobody-heard", {"group": name, "seconds": seconds}))
    return ProbeReport(
        name, seconds, tuple(matrix.hosts.values()), matrix.links(), tuple(found), state.datagrams, **state.counters
    )
