"""A leg of a feed whose packets are counted before the arbiter gets them.

Rules of this module: no I/O of its own.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mcast_fast._report.collect import Collector
from mcast_fast._units import UNSET, Seconds, Unset
from mcast_fast.files._reader import Reader
from mcast_fast.receiver import Receiver
from mcast_fast.stats import ReaderStats, Stats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet


class Tap:
    """A Source that shows each batch to a collector."""

    def __init__(self, leg: Receiver | Reader, collector: Collector) -> None:
        self._leg = leg
        self._collector = collector
        if isinstance(leg, Receiver):
            self.memberships = leg.memberships
            self.fileno = leg.fileno
        else:
            self.groups = leg.groups

    def recv_batch(self, max_packets: int | None = None, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """As the leg does."""
        batch = self._leg.recv_batch(max_packets, timeout)
        self._collector.add(batch)
        return batch

    def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """One packet, as a batch."""
        return self.recv_batch(1, timeout)[0]

    def collect(self, max_packets: int, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """As the leg does."""
        batch = self._leg.collect(max_packets, timeout)
        self._collector.add(batch)
        return batch

    def __iter__(self) -> Iterator["Batch"]:
        """As the leg does."""
        for batch in self._leg:
            self._collector.add(batch)
            yield batch

    def close(self) -> None:
        """Close the leg."""
        self._leg.close()

    @property
    def closed(self) -> bool:
        """Of the leg."""
        return self._leg.closed

    @property
    def stats(self) -> Stats | ReaderStats:
        """Of the leg."""
        return self._leg.stats
