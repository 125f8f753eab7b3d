"""A stream as a monitor shows it, and drops by their causes.

Rules of this module: no I/O.
"""

from enum import StrEnum
from typing import NamedTuple

from mcast_fast._core.extraction import GAP_BUCKETS
from mcast_fast.stats import ReaderStats, Stats

__all__ = ["GAP_BUCKETS", "OTHER", "Stream", "StreamState", "drops", "gap_bound"]

OTHER = "other"
"""The `group` of the row that counts all streams for which the table is too small."""


class StreamState(StrEnum):
    """What a stream does."""

    __module__ = "mcast_fast.monitor"

    WAITING = "waiting"  # joined, and nothing has come yet
    RECEIVING = "receiving"
    STALLED = "stalled"  # nothing has come for `stalled_after`
    RESTARTED = "restarted"  # receiving; a few seconds ago it came again after a silence, or its numbers began anew


class Stream(NamedTuple):
    """What came from one source to one group and port on one interface.

    Attributes:
        group: The group's address; OTHER in the row for all streams that the table is too small for.
        port: The UDP port, 0 in the row OTHER.
        source: The sender's address; None while nothing has come, and in the row OTHER.
        interface: The name of the interface on which it comes; None where it is not known, and in the row OTHER.
        state: What it does.
        packets: Packets that came.
        bytes: Bytes of their payloads as they were sent, headers not included.
        packets_per_second: Packets of the last second, which ended at a quarter of a second; 0 when stalled.
        bits_per_second: Bits of payload of the same second.
        smallest: Bytes of the smallest payload.
        largest: Bytes of the largest payload.
        truncated: Packets that were longer than the receiver takes.
        largest_gap: Longest time between two packets by their times of arrival, in ns; silences count too.
        largest_gap_at: When it began, ns since the epoch; 0 when there was none.
        arrival_gaps: Packets by the gap before them: element n counts gaps of less than 2^n ns that no element before
            it counts (`gap_bound`); the last one, all longer ones.
        first_time: Arrival of the earliest packet, ns since the epoch; None when unknown.
        last_time: Arrival of the latest packet, ns since the epoch: since then it is silent. None when unknown.
        silent: ns since a packet was counted last, by the monitor's clock; None while nothing has come.
        silences: How often it came again after being stalled.
        sequence: The format of the numbers that `lost` is by, None where there are none.
        lost: Numbers that were missing for longer than a second when its latest packet came. Numbers are followed per
            source, group and port: rows that differ in the interface alone show the same.
        duplicates: Numbers that came again.
        reordered: Numbers that came behind a later one.
        restarts: How often the sender began to count anew.
        late: Numbers that came after they had been counted lost; `lost` does not have them any more.
        total_gap: All gaps between its packets together, in ns.
    """

    group: str
    port: int
    source: str | None
    interface: str | None
    state: StreamState
    packets: int = 0
    bytes: int = 0
    packets_per_second: int = 0
    bits_per_second: int = 0
    smallest: int = 0
    largest: int = 0
    truncated: int = 0
    largest_gap: int = 0
    largest_gap_at: int = 0
    arrival_gaps: tuple[int, ...] = (0,) * GAP_BUCKETS
    first_time: int | None = None
    last_time: int | None = None
    silent: int | None = None
    silences: int = 0
    sequence: str | None = None
    lost: int | None = None
    duplicates: int | None = None
    reordered: int | None = None
    restarts: int | None = None
    late: int | None = None
    total_gap: int = 0

    @property
    def name(self) -> tuple[str, int, str | None, str | None]:
        """What tells it from other streams: group, port, source, interface."""
        return self[:4]


Stream.__module__ = "mcast_fast.monitor"


def gap_bound(bucket: int) -> int | None:
    """The bound of a bucket of `Stream.arrival_gaps`.

    Args:
        bucket: Its place, from 0.

    Returns:
        ns, which the gaps in it do not reach; None for the last bucket, which has no bound.

    Raises:
        IndexError: There is no such bucket.
    """
    if not 0 <= bucket < GAP_BUCKETS:
        raise IndexError(f"buckets are 0 to {GAP_BUCKETS - 1}, not {bucket}")
    return 1 << bucket if bucket < GAP_BUCKETS - 1 else None


def drops(stats: Stats | ReaderStats) -> dict[str, int | None]:
    """Dropped packets by their cause.

    Args:
        stats: The ledger of a receiver or of a file.

    Returns:
        Of a receiver, packets by "socket", "ring", "background" and "nic"; of a file, those that it records, by
        "recorded". None where the system does not report it; `nic` may include packets of other programs.
    """
    if isinstance(stats, ReaderStats):
        return {"recorded": stats.dropped}
    return {cause: getattr(stats, f"dropped_{cause}") for cause in ("socket", "ring", "background", "nic")}


for _function in (gap_bound, drops):
    _function.__module__ = "mcast_fast.monitor"
