"""Legs for an Arbiter that bring what a test says, when it says: Sources over packets in memory, and what the ledger must keep."""

from collections.abc import Iterable, Iterator
from typing import Any

from mcast_fast import Batch, Packet, Stats, _core
from mcast_fast._core.layout import RECORD, V4_MAPPED
from mcast_fast.errors import ClosedError

NOW = 1_700_000_000_000_000_000
MS = 1_000_000
SECOND = 1_000 * MS
SENDER = V4_MAPPED + bytes([10, 0, 0, 1])
GROUPS = [V4_MAPPED + bytes([239, leg + 1, 1, 1]) for leg in range(8)]


class Played:
    """A Source of these batches; behind the last one it has ended or, if it is `live`, nothing comes."""

    def __init__(self, batches: Iterable[Batch], live: bool = False) -> None:
        self._batches = iter(batches)
        self.live = live
        self.closed = False

    def recv_batch(self, max_packets: int | None = None, timeout: Any = None) -> Batch:
        if self.closed:
            raise ClosedError("the leg is closed")
        for batch in self._batches:
            return batch
        raise TimeoutError("no packet yet") if self.live else EOFError("the leg has ended")

    def recv(self, timeout: Any = None) -> Packet:
        raise NotImplementedError

    def collect(self, max_packets: int, timeout: Any = None) -> Batch:
        raise NotImplementedError

    def __iter__(self) -> Iterator[Batch]:
        return self._batches

    def close(self) -> None:
        self.closed = True

    @property
    def stats(self) -> Stats:
        return Stats()


def batch_of(packets: Iterable[tuple[int, int, bytes]], group: bytes, views: Any = None, index: int = 2) -> Batch:
    """A batch of (number, time, payload)."""
    records, data = bytearray(), bytearray()
    for _, when, payload in packets:
        size = len(payload)
        records += RECORD.pack(when, len(data), index, 0, size, size, SENDER, group, 4000, 5000, 0, 0, 0)
        data += payload
    return (views or _core.views).Batch.from_bytes(records, data, {index: "eth0"})


def leg(
    packets: Iterable[tuple[int, int]],
    group: bytes = GROUPS[0],
    width: int = 8,
    size: int = 100,
    live: bool = False,
    tail: bytes = b"",
) -> Played:
    """A leg of (number, ms since NOW), in batches of `size`."""
    rows = [
        ((number % (1 << 8 * width)), NOW + int(when * MS), (number % (1 << 8 * width)).to_bytes(width, "big") + tail)
        for number, when in packets
    ]
    return Played((batch_of(rows[at : at + size], group) for at in range(0, len(rows), size)), live)


def numbers(batches: Iterable[Batch], width: int = 8) -> list[int]:
    return [int.from_bytes(payload[:width], "big") for batch in batches for payload in batch.payloads()]


def check(stats: Any) -> None:
    """What the ledger promises, at every moment."""
    assert stats.expected == stats.delivered + stats.unrecovered + stats.pending
    outside = sum(leg.outside for leg in stats.legs)
    assert sum(leg.received for leg in stats.legs) == (
        stats.delivered + stats.held + stats.duplicates + stats.late + outside
    )
    assert stats.recovered == sum(leg.covered for leg in stats.legs)
    assert sum(leg.first for leg in stats.legs) == stats.delivered + stats.held + stats.late
    for one in stats.legs:
        assert stats.expected == one.received - one.duplicates - one.outside + one.lost + one.absent + one.pending
        assert one.covered <= one.lost
        assert min(getattr(one, name) for name in one.__slots__ if isinstance(getattr(one, name), int)) >= 0
