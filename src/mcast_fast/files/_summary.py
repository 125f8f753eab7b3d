"""The contents of a capture file: its flows, counters and interfaces.

Rules of this module: it returns data, and prints nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcast_fast import _core
from mcast_fast._core.addresses import address_text, plain_text
from mcast_fast._core.blocks import CapturedOn, Counted
from mcast_fast._units import NANOSECONDS
from mcast_fast.errors import CaptureError
from mcast_fast.files._reader import Reader
from mcast_fast.stats import ReaderStats

MOST_FLOWS = 10_000  # that a summary lists; a capture of random addresses must not fill the memory
OTHERS = "others"  # the group and the source of all flows beyond those


@dataclass(frozen=True, slots=True)
class Flow:
    """What one source sent to one group and port.

    Attributes:
        group: The group's address.
        port: Its port.
        source: The source's address, with its zone where it needs one.
        packets: Packets.
        bytes: Of payload, as captured.
        first: Time of the first packet, ns since the epoch; None when no packet has a time.
        last: Time of the last packet.
        largest_gap: The longest time between two packets that follow each other, ns.
        largest_gap_at: When that began, ns since the epoch.
        dropped: Drops that the file reports with these packets: a lower bound of what was lost of this flow and others.
        truncated: Packets that were captured in part.
        wire_bytes: Bytes of payload, as sent.
        smallest: Bytes of payload, as sent, of the smallest packet.
        largest: The same of the largest one.
    """

    group: str
    port: int
    source: str
    packets: int = 0
    bytes: int = 0
    first: int | None = None
    last: int | None = None
    largest_gap: int = 0
    largest_gap_at: int = 0
    dropped: int = 0
    truncated: int = 0
    wire_bytes: int = 0
    smallest: int = 0
    largest: int = 0

    @property
    def duration(self) -> int | None:
        """ns from the first packet to the last; None when no packet has a time."""
        return None if self.first is None or self.last is None else self.last - self.first

    @property
    def rate(self) -> float | None:
        """Packets per second from the first to the last; None when no time passed."""
        return (self.packets - 1) * NANOSECONDS / self.duration if self.duration else None

    @property
    def bit_rate(self) -> float | None:
        """Bits of payload per second, of all packets but one of mean size; None when no time passed."""
        return None if self.rate is None else self.rate * self.mean * 8

    @property
    def mean(self) -> float:
        """Bytes of payload of a packet."""
        return self.wire_bytes / self.packets if self.packets else 0.0


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole file: its form, interfaces and counters, and its flows in the order they began.

    Of more than MOST_FLOWS those with the most packets are listed, and the rest is the last flow, OTHERS.
    `skipped_kinds`: what the skipped frames are. `error`: why the file ends early, or empty.
    """

    file: str
    form: str
    interfaces: tuple[CapturedOn, ...]
    stats: ReaderStats
    flows: tuple[Flow, ...]
    error: str = ""
    skipped_kinds: Mapping[str, int] = field(default_factory=dict)

    @property
    def fragments(self) -> int:
        """Datagrams of which not all fragments are there."""
        return self.stats.fragments

    @property
    def skipped(self) -> int:
        """Frames that are no UDP, or cannot be read."""
        return self.stats.skipped

    @property
    def broken(self) -> int:
        """Frames whose headers contradict each other."""
        return self.stats.broken

    @property
    def total(self) -> Flow:
        """All flows as one, without a largest gap."""
        times = [(flow.first, flow.last) for flow in self.flows if flow.first is not None and flow.last is not None]
        return Flow(
            "",
            0,
            "",
            packets=sum(flow.packets for flow in self.flows),
            bytes=sum(flow.bytes for flow in self.flows),
            first=min((first for first, _ in times), default=None),
            last=max((last for _, last in times), default=None),
            dropped=sum(flow.dropped for flow in self.flows),
            truncated=sum(flow.truncated for flow in self.flows),
            wire_bytes=sum(flow.wire_bytes for flow in self.flows),
            smallest=min((flow.smallest for flow in self.flows), default=0),
            largest=max((flow.largest for flow in self.flows), default=0),
        )


def _flow(row: tuple[Any, ...], names: Mapping[int, str]) -> Flow:
    one = Counted(*row)
    return _counted(one, plain_text(one.group), address_text(one.source, one.interface, names))


def _counted(one: Counted, group: str, source: str) -> Flow:
    return Flow(
        group,
        one.port,
        source,
        one.packets,
        one.bytes,
        one.first,
        one.last,
        one.largest_gap,
        one.largest_gap_at,
        one.dropped,
        one.truncated,
        one.wire_bytes,
        one.smallest,
        one.largest,
    )


def summarise(file: str, reader: Reader, most: int = MOST_FLOWS) -> Summary:
    """Read a file to its end, or to where it cannot be read any further; FileError."""
    core = _core.files.Summary(most)
    error = ""
    try:
        reader._count_into(core)
    except CaptureError as wrong:
        error = str(wrong)
    rows, others = core.flows()
    flows = [_flow(row, reader._decoder.names) for row in rows]
    if others is not None:
        flows.append(_counted(Counted(*others), OTHERS, OTHERS))
    return Summary(file, reader.form, reader.interfaces, reader.stats, tuple(flows), error, reader.skipped_kinds)
