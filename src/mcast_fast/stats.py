"""The loss ledger of a receiver, and what a sender has done.

    sent = received + filtered + dropped_socket + dropped_ring + dropped_background + dropped_nic + fragments

Rules of this module: no I/O. What cannot be known is None, never a silent zero.
"""

from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, ClassVar, Self

from mcast_fast import _html

__all__ = ["Event", "HostCounters", "SenderStats", "Stats", "TransmitTime", "What"]


class What(StrEnum):
    """What happened to an interface."""

    GONE = "gone"  # deleted
    BACK = "back"  # there again, under a new index, and joined
    NEW = "new"  # there for the first time, and joined: it was waited for, or is one of "all"
    DOWN = "down"  # set down, or lost its carrier
    UP = "up"  # up with a carrier again
    REJOINED = "rejoined"  # up for a while without a break, and joined afresh
    RENAMED = "renamed"
    ADDRESS = "address"  # an address came or went
    FAILED = "failed"  # could not be joined, or watched; it is tried again
    COALESCING = "coalescing"  # packets may share times from now on: the receiver did not keep up
    COALESCING_ENDED = "coalescing ended"  # each packet has its own time again
    NOT_COALESCED = "not coalesced"  # coalescing is on, and nothing comes coalesced
    COARSE = "coarse"  # the kernel's filter of a ring lets pass more than is wanted


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a joined interface.

    Attributes:
        time: When, in ns since the epoch.
        what: What happened.
        interface: The name of the interface.
        detail: More about it, as text; often empty.
    """

    time: int
    what: What
    interface: str
    detail: str = ""


class _Counters:
    """What all counters have in common: `later - earlier`, and a table in a notebook."""

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Any]]
    _STATES: ClassVar[frozenset[str]] = frozenset()  # fields that count nothing

    def __sub__(self, earlier: Self) -> Self:
        """What was counted since `earlier`.

        Args:
            earlier: Counters of the same class, taken earlier.

        Returns:
            The difference of each counter, None where either is None. Fields that are no counters are those of the
            left operand; `events` are those that `earlier` does not have.

        Raises:
            TypeError: `earlier` is of another class.
        """
        if type(earlier) is not type(self):
            return NotImplemented
        return type(self)(**{one.name: self._since(earlier, one.name) for one in fields(self)})

    def _since(self, earlier: Self, name: str) -> Any:
        left, right = getattr(self, name), getattr(earlier, name)
        if name in self._STATES:
            return left
        if name == "flows":
            before = {one.name: one for one in right}
            return tuple(one - before[one.name] if one.name in before else one for one in left)
        if isinstance(left, tuple):
            known = set(right)
            return tuple(one for one in left if one not in known)
        return None if left is None or right is None else left - right

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        rows = [(one.name, getattr(self, one.name)) for one in fields(self)]
        lists = [(name, one) for name, value in rows if isinstance(value, tuple) for one in value]
        events = [
            (f"event: {one.what} {one.interface}", one.detail)
            if name == "events"
            else (
                f"flow: {one.source} > {one.group} port {one.port} {one.key.hex()}",
                f"{one.state}, lost {one.lost:,}",
            )
            for name, one in lists
        ]
        return _html.table(
            type(self).__name__, ("", ""), [row for row in rows if not isinstance(row[1], tuple)] + events
        )


class FlowState(StrEnum):
    """What a flow of numbers does."""

    __module__ = "mcast_fast.sequence"

    WAITING = "waiting"  # heartbeats came, and no number yet
    RECEIVING = "receiving"
    STALLED = "stalled"  # nothing came for the window, and for a second at least
    RESTARTED = "restarted"  # receiving; the sender began anew within the window
    ENDED = "ended"  # the sender said so


@dataclass(frozen=True, slots=True)
class Flow(_Counters):
    """What became of the numbers of a flow; always `expected = received - duplicates + lost + pending`.

    Its name: `source` (address of the sender), `source_port` (None where it names no flow), `group`, `port`, and `key`,
    the bytes of the format's key. `state`: whether it is received now. `received`: numbers that came, again too;
    `expected`: all from the first to the last; `lost`: missing for longer than the window; `pending`: missing, but not
    for so long; `duplicates`: came again, or were forgotten; `reordered`: came behind a later one within the window,
    and `depth`, how far behind at most; `late`: came after they had been counted lost, and are lost no more; `burst`:
    most numbers lost in a row. `restarts`: the sender began anew. `ambiguous`: how often the numbers could not tell how
    much is missing: at a restart, and after a silence in which they may have come half around. `strays`: packets whose
    number belongs to nothing. `packets`: all, heartbeats too. `first` and `last`: numbers, of the present run;
    `first_time` and `last_time`: of arrival, ns since the epoch, None when unknown.

    `later - earlier` is what was counted in between: the loss since a moment.
    """

    _STATES = frozenset(
        {
            *("source", "source_port", "group", "port", "key", "state", "pending", "depth", "burst"),
            *("first", "last", "first_time", "last_time"),
        }
    )

    __module__ = "mcast_fast.sequence"

    source: str
    source_port: int | None
    group: str
    port: int
    key: bytes
    state: FlowState
    received: int = 0
    expected: int = 0
    lost: int = 0
    pending: int = 0
    duplicates: int = 0
    reordered: int = 0
    depth: int = 0
    late: int = 0
    burst: int = 0
    restarts: int = 0
    ambiguous: int = 0
    strays: int = 0
    packets: int = 0
    first: int = 0
    last: int = 0
    first_time: int | None = None
    last_time: int | None = None

    @property
    def name(self) -> tuple[str, int | None, str, int, bytes]:
        """What tells it from other flows: source, source_port, group, port, key."""
        return self.source, self.source_port, self.group, self.port, self.key


@dataclass(frozen=True, slots=True)
class Stats(_Counters):
    """What became of the packets, counted since the receiver was opened. A counter that the system lacks is None.

    `later - earlier` is what was counted in between, None where either is None. `largest_batch` and `drops_exact`,
    which count nothing, are those of `later`; `events` are those that `earlier` does not have.

    Attributes:
        received: Packets taken into batches.
        bytes: Bytes of their payloads.
        truncated: Received packets that were longer than `max_packet_size`.
        filtered: Packets that reached the receiver's sockets or rings and matched no membership (another group,
            interface, port or source), or were malformed.
        fragments: Fragmented datagrams, which a ring does not reassemble; each counts once, by its first fragment.
        dropped_socket: Dropped by the kernel because a socket's buffer was full (Linux: SO_MEMINFO).
        dropped_ring: Dropped by the kernel because a ring was full (PACKET_STATISTICS); None without a ring.
        dropped_background: Dropped by the library because `background` was full, memory was short, or packets came
            coalesced that were not to (`fd=`), and did not fit.
        dropped_nic: Lost by the interfaces before any socket, packets of other programs included (rx_dropped and
            rx_missed_errors, RTM_GETSTATS).
        drops_exact: False where a buffer that the kernel dropped may have held several packets: then the drops are a
            lower bound.
        buffers: Buffers in which the kernel handed packets over; fewer than packets where it coalesced them (`gro`),
            and with rings.
        coalesced: Received packets that share their arrival time with others (`Flag.COALESCED`).
        detached: Batches whose payloads were copied out of a ring.
        batches: Batches that were delivered.
        largest_batch: Packets in the largest one.
        wakeups: Returns from waiting.
        events: What happened to the interfaces (`watch=True`), and to coalescing.
        flows: What became of the numbers in the packets, one `sequence.Flow` each (`sequence=`; else empty).
        lost: Numbers that all flows lost, also those that are no longer followed; None without `sequence=`.
    """

    _STATES = frozenset({"largest_batch", "drops_exact"})

    received: int = 0
    bytes: int = 0
    truncated: int = 0
    filtered: int = 0
    fragments: int = 0
    dropped_socket: int | None = None
    dropped_ring: int | None = None
    dropped_background: int = 0
    dropped_nic: int | None = None
    drops_exact: bool = True
    buffers: int = 0
    coalesced: int = 0
    detached: int = 0
    batches: int = 0
    largest_batch: int = 0
    wakeups: int = 0
    events: tuple[Event, ...] = ()
    flows: tuple[Flow, ...] = ()
    lost: int | None = None

    @property
    def dropped(self) -> int | None:
        """All drops but those of the interfaces; None when those at the sockets are unknown."""
        if self.dropped_socket is None:
            return None
        return self.dropped_socket + (self.dropped_ring or 0) + self.dropped_background


@dataclass(frozen=True, slots=True)
class HostCounters(_Counters):
    """What a host lost of received packets before any socket: of every program and protocol (`host_counters()`).

    `later - earlier` is what was lost in between, None where either is None.

    Attributes:
        checksum_errors: UDP datagrams with a wrong checksum (InCsumErrors in /proc/net/snmp, Udp6InCsumErrors in
            /proc/net/snmp6).
        reassembly_failures: Failures to put fragments together: one was missing when the time was over (30 s; IPv6:
            60 s), or memory was short (ReasmFails, Ip6ReasmFails; ip(7)).
        backlog_drops: Packets dropped because a processor's queue of received packets was full
            (/proc/net/softnet_stat, second column; net.core.netdev_max_backlog). Of all network namespaces.
        nic_drops: Packets that interfaces, or their drivers, dropped or missed for want of buffers, and those of
            protocols that no program uses (the column "drop" of /proc/net/dev). `Stats.dropped_nic` is the same of a
            receiver's interfaces alone.
    """

    checksum_errors: int | None = None
    reassembly_failures: int | None = None
    backlog_drops: int | None = None
    nic_drops: int | None = None


@dataclass(frozen=True, slots=True)
class SenderStats(_Counters):
    """What was sent, counted since the sender was opened.

    `later - earlier` is what was counted in between; `rate`, `rate_error`, `segmentation` and its reason are those of
    `later`.

    Attributes:
        datagrams: Datagrams that the system accepted.
        bytes: Bytes of their payloads.
        system_calls: System calls that send.
        would_blocks: System calls that found the send buffer full, after which the sender waited.
        retries: System calls that were repeated because the interface's queue was full (ENOBUFS), or because
            segmentation was refused.
        rate: The rate that pacing achieved, in datagrams or bits of payload per second, as requested; None without
            pacing, or before the second departure.
        rate_error: Its relative deviation from the requested rate (0.001: 0.1 % too fast), or None.
        segmentation: Whether the kernel segments datagrams of one size (udp(7), UDP_SEGMENT).
        segmentation_reason: Why not, or not always: switched off, refused by the path, a full queue (ENOBUFS; after
            that, datagrams are sent one by one), or a queue discipline that drops parts of them.
        reopened: Sockets that were opened again because their interface was deleted and came back.
    """

    _STATES = frozenset({"rate", "rate_error", "segmentation", "segmentation_reason"})

    datagrams: int = 0
    bytes: int = 0
    system_calls: int = 0
    would_blocks: int = 0
    retries: int = 0
    rate: float | None = None
    rate_error: float | None = None
    segmentation: bool = False
    segmentation_reason: str = ""
    reopened: int = 0


@dataclass(frozen=True, slots=True)
class TransmitTime:
    """When a datagram left (Linux, SO_TIMESTAMPING).

    Attributes:
        time: When the kernel handed it to the device, in ns since the epoch.
        interface: The name of the device.
        number: The number of the datagram among those of its socket, from 0, modulo 2^32.
    """

    time: int
    interface: str
    number: int


@dataclass(frozen=True, slots=True)
class ReaderStats(_Counters):
    """What became of the packets of a capture file so far.

    Attributes:
        frames: Packets that were read from the file.
        received: Packets that were delivered.
        bytes: Bytes of their payloads.
        truncated: Delivered packets that were captured in part.
        filtered: UDP packets that match none of the groups.
        fragments: Wanted datagrams whose first fragment was read, and (so far) not all others; later fragments count
            as frames only.
        skipped: Packets that are not UDP over IP, or of an unknown link type.
        broken: Packets whose headers were not captured whole, or contradict each other.
        dropped: Drops that the file records (epb_dropcount).
        batches: Batches that were delivered.
        reassembled: Delivered packets that were put together from fragments.
        flows: What became of the numbers in the packets, one `sequence.Flow` each (`sequence=`; else empty).
        lost: Numbers that all flows miss, also those that are no longer followed; None without `sequence=`.
    """

    __module__ = "mcast_fast.files"

    frames: int = 0
    received: int = 0
    bytes: int = 0
    truncated: int = 0
    filtered: int = 0
    fragments: int = 0
    skipped: int = 0
    broken: int = 0
    dropped: int = 0
    batches: int = 0
    reassembled: int = 0
    flows: tuple[Flow, ...] = ()
    lost: int | None = None


@dataclass(frozen=True, slots=True)
class WriterStats(_Counters):
    """What a Writer has written. `later - earlier` has the `gathered` of `later`.

    Attributes:
        packets: Packets in the file.
        bytes: Bytes of the file.
        batches: Batches whose packets are all in the file.
        gathered: Packets that are not yet handed over to the system.
    """

    _STATES = frozenset({"gathered"})

    __module__ = "mcast_fast.files"

    packets: int = 0
    bytes: int = 0
    batches: int = 0
    gathered: int = 0
