"""Heartbeats: datagrams by which the recorders of a plan announce themselves, and who is there by them.

A heartbeat is of one size and of this version, and names the plan by its digest and the host by its place in it; what
is anything else is counted and ignored. What is kept is one row for each other host of the plan, whatever is received.
Nothing is signed: who can send to the group can announce a host that is not there. Keep the group in a network that
is as trusted as the feeds (docs/cluster.md).

Rules of this module: no I/O; times are handed in, in ns of a clock that is never set.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

from mcast_fast._units import NANOSECONDS
from mcast_fast.cluster._plan import Plan

# magic, version, state, place of the host in the plan, the plan's digest, this start of the recorder, number of the
# heartbeat, time of sending in ns since the epoch.
WIRE = struct.Struct(">4sBBH8sQQq")
MAGIC = b"mcFP"
VERSION = 1
FAR = NANOSECONDS  # ns between two clocks that are worth a word


class State(IntEnum):
    """What a recorder says of itself."""

    RECORDING = 1
    LEAVING = 2  # it ends, and records until others have taken over


@dataclass(slots=True)
class _Peer:
    """What is known of another host."""

    heard: int  # last, or when we began
    since: int = 0  # when it was heard first of those that are there without a break; by our clock
    start: int = 0  # 0: it was never heard
    number: int = 0
    leaving: bool = False
    ahead: int = 0  # ns of its clock before ours, the time on the way included


class Presence:
    """Which hosts of a plan are there, as one of them hears it."""

    def __init__(self, plan: Plan, host: str, start: int, now: int) -> None:
        self._names = tuple(plan.hosts)
        self._own = self._names.index(host)
        self._digest = bytes.fromhex(plan.digest)
        self._silent = plan.heartbeat.silent
        self._start = start
        self._number = 0
        # Who has not been heard yet may be there: nobody's groups are taken over before `silent` has passed.
        self._peers = [_Peer(heard=now) for _ in self._names]
        self.ignored = 0  # datagrams that are no heartbeat
        self.other_plans: set[str] = set()  # hosts that announced another plan
        self.twins = 0  # heartbeats of another recorder with our name

    def beat(self, now: int, state: State = State.RECORDING) -> bytes:
        """The next heartbeat of this host; `now` in ns since the epoch."""
        self._number += 1
        return WIRE.pack(MAGIC, VERSION, state, self._own, self._digest, self._start, self._number, now)

    def hear(self, datagram: bytes, now: int, wall: int) -> None:
        """Take in a datagram that came now; `wall`: the same in ns since the epoch."""
        if len(datagram) != WIRE.size:
            self.ignored += 1
            return
        magic, version, state, place, digest, start, number, sent = WIRE.unpack(datagram)
        if (
            magic != MAGIC
            or version != VERSION
            or state not in (State.RECORDING, State.LEAVING)
            or place >= len(self._names)
        ):
            self.ignored += 1
            return
        if place == self._own:
            self.twins += start != self._start
            return
        if digest != self._digest:
            self.other_plans.add(self._names[place])
            return
        self._take(self._peers[place], start, number, state == State.LEAVING, now)
        self._peers[place].ahead = sent - wall

    def _take(self, peer: _Peer, start: int, number: int, leaving: bool, now: int) -> None:
        if peer.start == start and number <= peer.number:
            return  # again, or behind a later one
        if now - peer.heard > self._silent or peer.start != start or peer.leaving:
            peer.since = now
        peer.heard, peer.start, peer.number, peer.leaving = now, start, number, leaving

    def _is_there(self, peer: _Peer, now: int) -> bool:
        return not peer.leaving and now - peer.heard <= self._silent

    def there(self, now: int) -> frozenset[str]:
        """The hosts that are there, this one among them."""
        found = {name for name, peer in zip(self._names, self._peers, strict=True) if self._is_there(peer, now)}
        return frozenset(found | {self._names[self._own]})

    def settled(self, now: int) -> frozenset[str]:
        """Those that have been there long enough to have joined what is theirs."""
        return frozenset(
            name
            for name, peer in zip(self._names, self._peers, strict=True)
            if peer.start and self._is_there(peer, now) and now - peer.since >= self._silent
        )

    def clocks(self) -> dict[str, int]:
        """Hosts whose clock is far from this one's: by how many ns it is ahead."""
        return {
            name: peer.ahead
            for name, peer in zip(self._names, self._peers, strict=True)
            if peer.start and abs(peer.ahead) >= FAR
        }
