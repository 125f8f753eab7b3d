"""What one host of a probe knows of another one.

Rules of this module: no I/O; times come as arguments. `now` is monotonic, arrivals and departures are by the clocks of
the hosts, all in ns.
"""

from ipaddress import IPv6Address
from typing import NamedTuple

from mcast_fast.doctor._probe_counts import GRACE, Arrivals, Series, Times
from mcast_fast.doctor._probe_wire import BURSTS, NO_TOKEN, UNKNOWN, Entry, Flags, Header, Hello, Message, Sized

MOST_PEERS = 64  # that are followed, and entries that are kept of each
MOST_MOVES = 8  # of a host from one address to another
LONGEST_DELAY = 1 << 60  # ns: beyond it a clock makes no sense
MILLISECONDS = 1_000_000

Address = tuple[bytes, int]  # 16 bytes (IPv4 mapped), and a port


class Arrival(NamedTuple):
    """How a datagram came: by which way, from where, when by this host's clock; TTL and TOS, None where unknown."""

    is_unicast: bool
    source: Address
    time: int
    ttl: int | None = None
    tos: int | None = None


def is_host(address: Address, version: int) -> bool:
    """Whether an address that a stranger names may be sent to: one host's, and not this host's own loopback."""
    one = IPv6Address(address[0])
    plain = one.ipv4_mapped or one
    if plain.version != version or plain.is_multicast or plain.is_unspecified or plain.is_loopback or not address[1]:
        return False
    return not (plain.version == 4 and plain.is_reserved)  # 240.0.0.0/4, with the broadcast address


class Peer:
    """Another host: what it sends and says, and how this host reaches it."""

    def __init__(self, identity: bytes, name: bytes, now: int) -> None:
        self.identity = identity
        self.name = name
        self.found = now
        self.address: Address | None = None
        self.is_confirmed = False  # it has shown that this host's unicast reaches it at its address
        self.unanswered = 0  # hellos to that address before it has
        self.is_leaving = False
        self.unicast_sent = 0
        self.ttl_sent = self.dscp_sent = -1
        self.announced = 0
        self.reports: dict[bytes, Entry] = {}  # what it knows of others, by their identities
        self.known = -1  # how many others it knows; -1: it has not said
        self.dropped = 0
        self.sent_sizes = self.sent_bursts = 0
        self.round_trip = Times()
        self._multicast, self._unicast = Arrivals(), Arrivals()
        self._delay = Times()
        self._series = Series(len(BURSTS))
        self._series_done = self._done_at = 0
        self._ttl = self._dscp = -1
        self._moves = 0
        self.was_heard = False
        self._contact = self._last_multicast = self._last = 0
        self.echoed = 0  # the latest departure of a hello of this host that it has reported to have arrived
        self._echo = (0, 0)  # the departure and the arrival of its latest hello
        self._token = NO_TOKEN  # of its latest hello by unicast

    def hear(self, message: Message, arrival: Arrival, now: int) -> None:
        """A datagram of this host has come."""
        header = message.header
        self.name = header.name
        self._last = now
        if not self.was_heard:
            self.was_heard, self._contact = True, now
        if not arrival.is_unicast or not self._multicast.count.received:
            self._move(arrival.source)
        self._series.begin(header.series_started)
        if isinstance(message, Hello):
            self._hear_hello(message, arrival, now)
        elif isinstance(message, Sized):
            self._series.add_size(message.series, message.step)
        else:
            self._series.add_burst(message.series, message.step, message.number)

    def _move(self, source: Address) -> None:
        """It sends from there: one socket sends to the group and to hosts, but a route may choose another address."""
        if source != self.address and self._moves < MOST_MOVES:
            self.move_to(source)
            self._moves += 1

    def move_to(self, address: Address | None) -> None:
        """It is to be reached there, which it has yet to show."""
        self.address, self.is_confirmed, self.unanswered = address, False, 0

    def _hear_hello(self, message: Hello, arrival: Arrival, now: int) -> None:
        header = message.header
        self._multicast.begin(header.announced)
        if arrival.is_unicast:
            self._multicast.announce(header.announced, now)
            self._unicast.begin(0)
            self._unicast.add(header.sequence)
            self._token = header.token
        else:
            self._hear_multicast(header, arrival, now)
        if header.series_done > self._series_done:
            self._series_done, self._done_at = header.series_done, now
        self.announced = max(self.announced, header.announced)
        self.sent_sizes |= header.sizes
        self.sent_bursts |= header.bursts
        self.ttl_sent, self.dscp_sent = header.ttl, header.dscp
        self.is_leaving = bool(header.flags & Flags.LEAVING)
        self.known, self.dropped = message.known, message.dropped
        self._echo = (header.time, arrival.time)
        for entry in message.entries:
            if entry.identity in self.reports or len(self.reports) < MOST_PEERS:
                self.reports[entry.identity] = entry

    def _hear_multicast(self, header: Header, arrival: Arrival, now: int) -> None:
        if not self._multicast.add(header.sequence):
            return
        self._last_multicast = now
        self._ttl = -1 if arrival.ttl is None else arrival.ttl
        self._dscp = -1 if arrival.tos is None else arrival.tos >> 2
        delay = arrival.time - header.time
        if abs(delay) < LONGEST_DELAY:
            self._delay.add(delay)

    def answered(self, entry: Entry, arrival: Arrival, now: int, token: bytes) -> None:
        """It reports what it has heard of this host; `token`: what this one sends to its address alone."""
        self._unicast.begin(0)
        self._unicast.announce(entry.unicast_sent, now)
        if entry.token == token:
            self.is_confirmed = True
        self.echoed = max(self.echoed, entry.echo_time)
        if entry.echo_hold >= 0:
            trip = arrival.time - entry.echo_time - entry.echo_hold
            if 0 <= trip < LONGEST_DELAY:
                self.round_trip.add(trip)

    def is_judged(self, now: int) -> bool:
        """Whether a whole series of its is over since first contact, and what of it was overtaken has come too."""
        return self._series.counts(self._series_done) and now - self._done_at >= GRACE

    def age(self, now: int) -> int:
        """For how long it has said nothing, in ns; 0 of a host that has left, whose last report is its last word."""
        return 0 if self.is_leaving else now - self._last

    def _silent(self, now: int) -> int:
        """For how long no multicast has come; of a host that has left, until it did."""
        if not self.was_heard:
            return 0
        return max(0, (self._last if self.is_leaving else now) - max(self._last_multicast, self._contact))

    def is_awaited(self, now: int) -> bool:
        """Whether a whole series is over, and some of it may have been overtaken."""
        return self._series.counts(self._series_done) and not self.is_judged(now)

    @property
    def has_more_to_report(self) -> bool:
        """Whether it has not reported yet what it got of the series of a host that it hears."""
        return any(one.multicast.received and not one.judged and not one.is_gone for one in self.reports.values())

    def entry(self, now: int, clock: int) -> Entry:
        """What this host knows of it, at a time; `clock` is the time by this host's clock."""
        judged = self.is_judged(now)
        came = self._series.bursts
        bursts = (came[step] if judged and self.sent_bursts >> step & 1 else UNKNOWN for step in range(len(came)))
        departure, arrived = self._echo
        address, port = self.address or (bytes(16), 0)
        return Entry(
            identity=self.identity,
            address=address,
            port=port,
            unicast_sent=self.unicast_sent,
            multicast=self._multicast.count,
            unicast=self._unicast.count,
            ttl=self._ttl,
            dscp=self._dscp,
            sizes=self._series.sizes,
            judged=judged,
            is_gone=self.is_leaving,
            bursts=tuple(bursts),
            delay=self._delay.spread,
            lasted=max(0, self._last_multicast - self._contact) // MILLISECONDS,
            silent=self._silent(now) // MILLISECONDS,
            echo_time=departure,
            echo_hold=max(0, clock - arrived) if arrived else -1,
            token=self._token,
            name=self.name,
        )
