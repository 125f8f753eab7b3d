"""A probe as a state machine: what arrives goes in, what is due to be sent comes out.

Rules of this module: no I/O, no clock, no randomness; times come as arguments (`now`: monotonic, `clock`: ns since the
epoch). Memory is bounded: MOST_PEERS hosts, and as many entries of each.

A probe waits for the first other host, and measures for `duration` after the latest one was found, for MOST_TURNS
times that at most. A quarter to half of that time after a host was found, it sends a series of sizes and bursts. In the
end it says that it leaves, and waits for the others' last reports.
"""

import hashlib
from collections.abc import Iterable, Iterator
from enum import Enum
from typing import NamedTuple

from mcast_fast.doctor._probe_peer import MOST_PEERS, Address, Arrival, Peer, is_host
from mcast_fast.doctor._probe_wire import (
    BURSTS,
    SIZES,
    TOKEN,
    Entry,
    Flags,
    Header,
    Hello,
    Kind,
    WireError,
    burst_bytes,
    hello_bytes,
    parse,
    size_bytes,
)

MOST_TURNS = 5  # how many times `duration` newcomers can make of it
MOST_SERIES = 5
COPIES = 2  # of a datagram of each size: one may be lost by chance
UNANSWERED = 30  # hellos to a host that does not report that they reach it
WAITING_INTERVAL = 200_000_000  # ns between hellos while no host was found
LONGEST_PAUSE = 50_000_000  # ns between two steps of a series
PATIENCE = 10_000_000_000  # ns more for hosts that are slow
LAST_WORDS = 1_500_000_000  # ns for which a host that leaves waits for the others' reports
LEAVING_INTERVAL = 50_000_000
LAST_HELLOS = 3
STALE = 2_000_000_000  # ns without a hello: a host that another one has not heard for longer may be gone


class Phase(Enum):
    """What a probe does."""

    WAITING = 0
    MEASURING = 1
    LEAVING = 2
    OVER = 3


class Settings(NamedTuple):
    """Of one host. `interval`, `duration` and `wait` in ns (`wait` < 0: no limit); `bursts`: how many of BURSTS to
    send; `phase`, 0 to 1: when in its time the series is sent, which differs from host to host; `secret`: 16 bytes
    that tokens are made of, new in each run."""

    version: int
    identity: bytes
    name: bytes
    ttl: int
    dscp: int
    interval: int
    duration: int
    wait: int
    bursts: int
    phase: float
    hosts: tuple[Address, ...] = ()
    secret: bytes = bytes(16)


class Sending(NamedTuple):
    """Datagrams to send, to the group (None) or to a host; `step`: (Kind, number of the size or burst) of a series."""

    payloads: list[bytes]
    target: Address | None = None
    step: tuple[Kind, int] | None = None


class State:
    """One host's view of a probe."""

    def __init__(self, settings: Settings, now: int) -> None:
        self.settings = settings
        self.phase = Phase.WAITING
        self.began = self._found_at = now
        self.first_contact = 0
        self.peers: dict[bytes, Peer] = {}
        self.sent = 0  # multicast hellos
        self.datagrams = 0  # all that the system took
        self.dropped = 0  # by this host's own socket
        self.counters = {"foreign": 0, "other_version": 0, "malformed": 0, "crowded": 0}
        self._next_hello = now
        self._leave_at = self._over_at = 0
        self._last_words = self._left_at = 0  # hellos that say so, and since when by this host's clock
        self._turn = 0  # whom the next unicast hello goes to
        self._entry_turn = 0
        self._greet: list[bytes] = []  # newcomers, to be answered at once
        self._named = dict.fromkeys(settings.hosts, 0)  # the user's hosts that were not heard yet, and hellos to them
        self._series_started = self._series_done = self._series_began = 0
        self._series: list[tuple[Kind, int]] = []  # the steps that are left
        self._next_step = 0
        self._sizes = (1 << len(SIZES[settings.version])) - 1
        self._bursts = (1 << settings.bursts) - 1

    # What arrives ----------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, arrival: Arrival, now: int) -> bytes | None:
        """A datagram has come; the identity of its host when that was not known before."""
        try:
            message = parse(data, self.settings.version)
            if bool(message.header.flags & Flags.UNICAST) != arrival.is_unicast:
                raise WireError("malformed")
        except WireError as error:
            self.counters[error.reason] += 1
            return None
        identity = message.header.identity
        if identity == self.settings.identity:
            return None
        peer = self.peers.get(identity) or self._find(identity, message.header.name, now)
        if peer is None:
            return None
        is_new = not peer.was_heard
        if is_new:
            peer.unicast_sent = max(peer.unicast_sent, self._named.pop(arrival.source, 0))
        peer.hear(message, arrival, now)
        if isinstance(message, Hello):
            self._take_reports(peer, message, arrival, now)
        return identity if is_new else None

    def _find(self, identity: bytes, name: bytes, now: int) -> Peer | None:
        """A host that is new; None when the table is full."""
        if len(self.peers) >= MOST_PEERS:
            self.counters["crowded"] += 1
            return None
        peer = self.peers[identity] = Peer(identity, name, now)
        self._greet.append(identity)
        if self.phase is Phase.WAITING:
            self.phase, self._next_hello, self.first_contact = Phase.MEASURING, now, now
        if self.phase is Phase.MEASURING:
            self._found_at = now
            last = self.first_contact + MOST_TURNS * self.settings.duration
            self._leave_at = min(now + self.settings.duration, last)
        return peer

    def _take_reports(self, peer: Peer, message: Hello, arrival: Arrival, now: int) -> None:
        """What a host knows of this one, and of hosts that this one has not heard."""
        for entry in message.entries:
            if entry.identity == self.settings.identity:
                peer.answered(entry, arrival, now, self._token(peer.address))
            elif entry.identity not in self.peers and 0 <= entry.echo_hold < STALE and not entry.is_gone:
                self._find_by_hearsay(entry, now)

    def _find_by_hearsay(self, entry: Entry, now: int) -> None:
        """Another host has heard one that this one has not."""
        address = (entry.address, entry.port)
        is_fit = is_host(address, self.settings.version)
        found = self._find(entry.identity, entry.name, now) if is_fit else None
        if found is not None:
            found.move_to(address)
            found.unicast_sent = self._named.pop(address, 0)

    # What is due -----------------------------------------------------------------------------------------------------

    def next_due(self) -> int:
        """The time at which `due` has something next."""
        times = [self._next_hello]
        if self._series:
            times.append(self._next_step)
        return min(times)

    def due(self, now: int, clock: int) -> Iterator[Sending]:
        """What is to be sent by now; to be gone through to its end."""
        self._proceed(now)
        if self.phase is Phase.OVER:
            return
        if self._greet:
            for identity in self._greet:
                yield from self._unicast_to(self.peers[identity], now, clock)
            self._greet.clear()
        if now >= self._next_hello:
            yield from self._hellos(now, clock)
        self._begin_series(now)
        if self._series and now >= self._next_step:
            self._next_step = now + min(LONGEST_PAUSE, self.settings.duration // 120)
            yield self._test(self._series.pop(0), now, clock)
            if not self._series:
                self._series_done = self._series_started

    def refused(self, sending: Sending) -> None:
        """The system did not send this step of a series: the others need not expect it."""
        if sending.step is not None:
            kind, number = sending.step
            if kind is Kind.SIZE:
                self._sizes &= ~(1 << number)
            else:
                self._bursts &= ~(1 << number)

    def stop(self, now: int) -> None:
        """End, with the last words."""
        if self.phase in (Phase.WAITING, Phase.MEASURING):
            self._leave(now)

    def _proceed(self, now: int) -> None:
        if self.phase is Phase.WAITING and 0 <= self.settings.wait <= now - self.began:
            self._leave(now)
        if self.phase is Phase.MEASURING and (self._is_done(now) or self._is_left_alone(now)):
            self._leave(now)
        if self.phase is Phase.LEAVING and (now >= self._over_at or self._is_answered()):
            self.phase = Phase.OVER

    @property
    def _heard(self) -> list[Peer]:
        return [one for one in self.peers.values() if one.was_heard]

    def _is_left_alone(self, now: int) -> bool:
        """Whether all that were heard have said that they leave."""
        heard = self._heard
        return bool(heard) and all(one.is_leaving and not one.is_awaited(now) for one in heard)

    def _is_done(self, now: int) -> bool:
        """Whether the time is over; for some time more not while a series is to be sent, to come or to be reported."""
        if now < self._leave_at or now >= self._leave_at + PATIENCE:
            return now >= self._leave_at
        present = [one for one in self._heard if not one.is_leaving]
        to_come = any(not one.is_judged(now) or one.has_more_to_report for one in present)
        return not (self._series or self._wants_series or to_come)

    @property
    def _wants_series(self) -> bool:
        """Whether a host was found since the last series began."""
        return self._series_started < MOST_SERIES and (not self._series_started or self._found_at > self._series_began)

    def _leave(self, now: int) -> None:
        self.phase, self._next_hello, self._over_at = Phase.LEAVING, now, now + LAST_WORDS
        self._series.clear()

    def _is_answered(self) -> bool:
        """Whether every host that was heard has reported that it heard the last words."""
        return self._last_words >= LAST_HELLOS and all(one.echoed > self._left_at for one in self._heard)

    def _hellos(self, now: int, clock: int) -> Iterator[Sending]:
        """One to the group, and one to a host, each in its turn."""
        self._next_hello = max(self._next_hello + self._interval, now)
        header = self._header(Kind.HELLO, clock)._replace(sequence=self.sent, announced=self.sent + 1)
        self.sent += 1
        if self.phase is Phase.LEAVING:
            self._left_at = self._left_at or clock
            self._last_words += 1
        yield Sending([self._hello(header, now, clock, ())])
        reachable = [one for one in self.peers.values() if self._may_send(one)]
        if reachable:
            self._turn += 1
            yield from self._unicast_to(reachable[self._turn % len(reachable)], now, clock)
        yield from self._to_named_hosts(now, clock)

    @property
    def _interval(self) -> int:
        if self.phase is Phase.WAITING:
            return max(self.settings.interval, WAITING_INTERVAL)
        return self.settings.interval if self.phase is Phase.MEASURING else LEAVING_INTERVAL

    def _may_send(self, peer: Peer) -> bool:
        return peer.address is not None and (peer.is_confirmed or peer.unanswered < UNANSWERED)

    def _token(self, address: Address | None) -> bytes:
        """What goes to an address by unicast alone: who repeats it is there, or hears what is sent there. Reports are
        no sign of that, for a stranger can make them up, and name an address that is not its own."""
        return hashlib.blake2b(repr(address).encode(), key=self.settings.secret, digest_size=TOKEN).digest()

    def _unicast_to(self, peer: Peer, now: int, clock: int) -> Iterator[Sending]:
        if peer.address is None:
            return
        header = self._header(Kind.HELLO, clock)._replace(
            sequence=peer.unicast_sent, flags=self._flags | Flags.UNICAST, token=self._token(peer.address)
        )
        payload = self._hello(header, now, clock, (peer,))
        peer.unicast_sent += 1
        peer.unanswered += not peer.is_confirmed
        yield Sending([payload], peer.address)

    def _to_named_hosts(self, now: int, clock: int) -> Iterator[Sending]:
        """To those that the user named and that were not heard yet: while waiting, and some times more."""
        for address, sent in self._named.items():
            if self.phase is Phase.WAITING or (self.phase is Phase.MEASURING and sent < UNANSWERED):
                header = self._header(Kind.HELLO, clock)._replace(
                    sequence=sent, flags=Flags.UNICAST, token=self._token(address)
                )
                self._named[address] += 1
                yield Sending([self._hello(header, now, clock, ())], address)

    # Datagrams -------------------------------------------------------------------------------------------------------

    @property
    def _flags(self) -> Flags:
        return Flags.LEAVING if self.phase is Phase.LEAVING else Flags.NONE

    def _header(self, kind: Kind, clock: int) -> Header:
        one = self.settings
        return Header(
            kind=kind,
            identity=one.identity,
            flags=self._flags,
            ttl=one.ttl,
            dscp=one.dscp,
            sequence=0,
            announced=self.sent,
            time=clock,
            series_started=self._series_started,
            series_done=self._series_done,
            sizes=self._sizes,
            bursts=self._bursts,
            name=one.name,
        )

    def _hello(self, header: Header, now: int, clock: int, first: Iterable[Peer]) -> bytes:
        """With what is known of some hosts: of these first, of the others in their turn."""
        first = tuple(first)
        listed = list(self.peers.values())
        at = self._entry_turn % len(listed) if listed else 0
        others = [one for one in (*listed[at:], *listed[:at]) if one not in first]
        entries = tuple(one.entry(now, clock) for one in (*first, *others[:8]))
        data, count = hello_bytes(header, len(listed), self.dropped, entries)
        self._entry_turn = at + count - len(first)
        return data

    def _begin_series(self, now: int) -> None:
        if self.phase is not Phase.MEASURING or self._series or not self._wants_series:
            return
        if now >= self._found_at + int(self.settings.duration * (1 + self.settings.phase) / 4):
            self._series_started += 1
            self._series_began = self._next_step = now
            sizes = [(Kind.SIZE, step) for step in range(len(SIZES[self.settings.version]))]
            bursts = [(Kind.BURST, step) for step in range(self.settings.bursts)]
            self._series = sizes * COPIES + bursts

    def _test(self, step: tuple[Kind, int], now: int, clock: int) -> Sending:
        kind, number = step
        header, series = self._header(kind, clock), self._series_started
        if kind is Kind.SIZE:
            return Sending([size_bytes(header, series, number, SIZES[self.settings.version][number])], None, step)
        payloads = [burst_bytes(header, series, number, one) for one in range(BURSTS[number])]
        return Sending(payloads, None, step)

    # What is known ---------------------------------------------------------------------------------------------------

    @property
    def tests(self) -> tuple[int, int]:
        """Bits of the sizes and the bursts that this host sends."""
        return self._sizes, self._bursts

    def entries(self, now: int, clock: int) -> dict[bytes, Entry]:
        """What this host knows of the others, by their identities."""
        return {identity: one.entry(now, clock) for identity, one in self.peers.items()}
