"""The contents of a capture file: its flows, counters and interfaces.

Rules of this module: it returns data, and prints nothing.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcast_fast._core.blocks import CapturedOn
from mcast_fast._units import NANOSECONDS
from mcast_fast.errors import CaptureError
from mcast_fast.files._reader import Reader
from mcast_fast.stats import ReaderStats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch


MOST_FLOWS = 10_000  # that a summary lists; a capture of random addresses must not fill the memory
OTHERS = ("others", 0, "others")  # all flows that come behind those


@dataclass(slots=True)
class Flow:
    """What one source sent to one group and port.

    `bytes` of payload as captured. `first`, `last`: ns since the epoch; None when no packet has a time. `largest_gap`:
    ns between two packets that follow each other, `largest_gap_at` when it began. `dropped`: what the file reports with
    its packets, a lower bound of what was lost of this flow and others.
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

    def add_time(self, time: int | None) -> None:
        """Count the time of a packet, if it has one."""
        if time is None:
            return
        if self.first is None or self.last is None:
            self.first = self.last = time
        elif time - self.last > self.largest_gap:
            self.largest_gap, self.largest_gap_at = time - self.last, self.last
        self.first = min(self.first, time)
        self.last = max(self.last, time)

    @property
    def rate(self) -> float | None:
        """Packets per second from the first to the last; None when no time passed."""
        if self.first is None or self.last is None:
            return None
        passed = self.last - self.first
        return (self.packets - 1) * NANOSECONDS / passed if passed > 0 else None


@dataclass(frozen=True, slots=True)
class Summary:
    """A whole file: its form, interfaces and counters, and its flows in the order they began. `error`: why it ends
    early, or empty."""

    file: str
    form: str
    interfaces: tuple[CapturedOn, ...]
    stats: ReaderStats
    flows: tuple[Flow, ...]
    error: str = ""


def add_batch(flows: dict[tuple[str, int, str], Flow], batch: "Batch") -> None:
    """Count the packets of a batch to their flows, as far as there are no more than MOST_FLOWS; else to OTHERS."""
    for packet in batch:
        key = packet.group, packet.port, packet.source
        flow = flows.get(key)
        if flow is None and len(flows) >= MOST_FLOWS:
            key = OTHERS
            flow = flows.get(key)
        if flow is None:
            flow = flows[key] = Flow(*key)
        flow.add_time(packet.timestamp)
        flow.packets += 1
        flow.bytes += len(packet)
        flow.dropped += packet.dropped
        flow.truncated += packet.truncated


def summarise(file: str, reader: Reader) -> Summary:
    """Read a file to its end, or to where it cannot be read any further; FileError."""
    flows: dict[tuple[str, int, str], Flow] = {}
    error = ""
    try:
        for batch in reader:
            add_batch(flows, batch)
    except CaptureError as wrong:
        error = str(wrong)
    return Summary(file, reader.form, reader.interfaces, reader.stats, tuple(flows.values()), error)


# Repair --------------------------------------------------------------------------------------------------------------
