"""What a report shows, as data.

Rules of this module: no I/O.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from mcast_fast._report.grid import Span
from mcast_fast._report.losses import Burst
from mcast_fast.doctor._finding import Finding
from mcast_fast.monitor._stream import OTHER, Stream, StreamState
from mcast_fast.sequence._ledger import ArbiterStats

LEAST_SILENCE = 1_000_000_000  # ns at the end, of a stream that stopped


@dataclass(frozen=True, slots=True)
class Shown:
    """A stream, where it is from, and its packets and bytes of payload in each bin of the report's span.

    `origin`: the file, or empty. `is_series`: False where it came behind the first 1,024 streams, and is in the series
    of all others.
    """

    stream: Stream
    origin: str
    packets: tuple[int, ...]
    bytes: tuple[int, ...]
    is_series: bool = True

    @property
    def place(self) -> tuple[str, int, str, str]:
        """What it has in common with its Flow: group, port, source without a zone, origin."""
        return *self.stream[:2], (self.stream.source or "").partition("%")[0], self.origin

    @property
    def has_stopped(self) -> bool:
        """Whether the silence at the end is longer than a second, and than twice its longest gap before."""
        silent = self.stream.silent
        if silent is None or self.stream.group == OTHER:
            return False
        return silent > max(LEAST_SILENCE, 2 * self.stream.largest_gap)


@dataclass(frozen=True, slots=True)
class Flow:
    """What is known of the numbers from one source to one group and port.

    `lost` includes what was still pending at the end. `series`: lost numbers in each bin, when their gaps were seen.
    """

    group: str
    port: int
    source: str
    origin: str
    received: int
    expected: int
    lost: int
    duplicates: int
    reordered: int
    restarts: int
    bursts: tuple[Burst, ...]
    series: tuple[int, ...]

    @property
    def place(self) -> tuple[str, int, str, str]:
        """What it has in common with the streams it is of."""
        return self.group, self.port, self.source, self.origin


@dataclass(frozen=True, slots=True)
class Figures:
    """A whole report.

    Attributes:
        sources: Files or groups, as they were named.
        is_live: Whether they are groups.
        span: The bins of all series.
        first: When the first packet came, ns since the epoch; None when there is none with a time.
        last: When the last one did.
        seconds: How long a live report received; of files, from the first packet to the last.
        streams: Those that came, with the most packets first.
        others: Packets and bytes per bin of the streams without a series.
        waiting: Groups of a live report for which nothing came.
        flows: Numbers, by source and group; empty where none were recognised.
        form: The format of the numbers; empty where none were looked for.
        unnumbered: Packets without a number.
        dropped: Packets that this host dropped, by cause; of files, as they record it. None where it is not known.
        dropped_series: The same per bin, where the packets behind a gap show it.
        sizes: Packets by bytes of payload, of sizes that came.
        untimed: Packets without a time, which no series has.
        legs: The ledger of the legs, and their names.
        findings: Of the doctor, of a live report; None where it was not asked.
        errors: Why files end early.
        drops_exact: False where drops are a lower bound, for the kernel counts coalesced packets as one.
        evicted_lost: Numbers lost by flows that gave way to others; 0 where the format was not named, for what they
            were is not known.
    """

    sources: tuple[str, ...]
    is_live: bool
    span: Span
    first: int | None
    last: int | None
    seconds: float
    streams: tuple[Shown, ...]
    others: tuple[tuple[int, ...], tuple[int, ...]]
    waiting: tuple[str, ...]
    flows: tuple[Flow, ...]
    form: str
    unnumbered: int
    dropped: dict[str, int | None]
    dropped_series: tuple[int, ...]
    sizes: dict[int, int]
    untimed: int
    legs: ArbiterStats | None = None
    findings: tuple[Finding, ...] | None = None
    errors: tuple[str, ...] = ()
    names: tuple[str, ...] = field(default=())  # of the legs
    drops_exact: bool = True
    evicted_lost: int = 0

    @property
    def packets(self) -> int:
        """All packets."""
        return sum(one.stream.packets for one in self.streams)

    @property
    def bytes(self) -> int:
        """All bytes of payload."""
        return sum(one.stream.bytes for one in self.streams)

    @property
    def lost(self) -> int | None:
        """Numbers that did not come; None where no numbers were recognised."""
        return sum(one.lost for one in self.flows) + self.evicted_lost if self.flows else None

    @property
    def all_dropped(self) -> int:
        """Packets that this host dropped, without those of interfaces, which may be of other programs."""
        return sum(count or 0 for cause, count in self.dropped.items() if cause != "nic")

    @property
    def stopped(self) -> tuple[Shown, ...]:
        """Streams that came and stopped before the end."""
        return tuple(one for one in self.streams if one.has_stopped)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        streams = [
            one.stream._asdict() | {"origin": one.origin, "stopped": one.has_stopped} | _series(one)
            for one in self.streams
        ]
        return {
            "sources": self.sources,
            "live": self.is_live,
            "first": self.first,
            "last": self.last,
            "seconds": self.seconds,
            "packets": self.packets,
            "bytes": self.bytes,
            "lost": self.lost,
            "evicted_lost": self.evicted_lost,
            "dropped": self.dropped,
            "drops_exact": self.drops_exact,
            "bins": self.span._asdict() | {"dropped": self.dropped_series, "others": self.others[0]},
            "streams": streams,
            "waiting": self.waiting,
            "sequence": self.form or None,
            "unnumbered": self.unnumbered,
            "flows": [asdict(one) for one in self.flows],
            "sizes": self.sizes,
            "untimed": self.untimed,
            "legs": None if self.legs is None else [asdict(one) for one in self.legs.legs],
            "findings": None if self.findings is None else [asdict(one) for one in self.findings],
            "errors": self.errors,
        }


def _series(one: Shown) -> dict[str, Any]:
    """Per bin; None where the stream has no series of its own."""
    if not one.is_series:
        return {"packets_per_bin": None, "bytes_per_bin": None}
    return {"packets_per_bin": one.packets, "bytes_per_bin": one.bytes}


def is_waiting(stream: Stream) -> bool:
    """Whether nothing has come of a membership."""
    return stream.state is StreamState.WAITING
