"""Streams as they are seen now, on the standard library: the twin of fast/monitor.pxi and c/monitor.c."""

from typing import Any

from mcast_fast._core import process
from mcast_fast._core.extraction import GAP_BUCKETS, HISTORY, TICK_NS, StreamRow
from mcast_fast._core.layout import FIELDS, RECORD
from mcast_fast._core.pure.summary import Counted, Flows
from mcast_fast._core.pure.views import Batch
from mcast_fast.errors import ClosedError

_PLACES = {field.name: place for place, field in enumerate(FIELDS)}
_TIME, _LENGTH, _WIRE = (_PLACES[name] for name in ("timestamp", "length", "wire_length"))
_TICKS = 128  # that are remembered
_TICKS_PER_SECOND = 4
_MOST_OF_A_TICK = (1 << 32) - 1
_MOST_GAPS = 1 << 64  # ns together, as C counts them


class _Stream(Counted):
    """A stream: a flow, and when its packets came."""

    __slots__ = ("begun", "gap_sum", "gaps", "resumed", "seen", "silences", "tick", "ticks")

    def __init__(self) -> None:
        super().__init__()
        self.begun = self.seen = self.resumed = self.silences = self.tick = 0
        self.gaps = [0] * GAP_BUCKETS
        self.gap_sum = 0
        self.ticks: dict[int, list[int]] = {}  # tick -> packets, bytes

    def add_at(self, row: tuple[Any, ...], now: int, silence: int) -> None:
        """Count a packet at a time; one that comes after `silence` ends one."""
        if self.packets == 0:
            self.begun = self.seen = now
            self.tick = now // TICK_NS
        if row[_TIME] and self.last is not None and row[_TIME] >= self.last:
            gap = row[_TIME] - self.last
            self.gaps[min(gap.bit_length(), GAP_BUCKETS - 1)] += 1
            self.gap_sum = (self.gap_sum + gap) % _MOST_GAPS
        self.add(row)
        if now - self.seen >= silence:
            self.silences += 1
            self.resumed = now
        self.seen = max(self.seen, now)
        self._turn(now // TICK_NS)
        self._add_tick(self.tick, 1, max(row[_LENGTH], row[_WIRE]))

    def _turn(self, tick: int) -> None:
        if tick > self.tick:
            self.tick = tick
            self.ticks = {at: counts for at, counts in self.ticks.items() if at > tick - _TICKS}

    def _add_tick(self, tick: int, packets: int, size: int) -> None:
        counts = self.ticks.setdefault(tick, [0, 0])
        counts[0] += packets
        counts[1] = min(counts[1] + size, _MOST_OF_A_TICK)

    def merge(self, flow: Counted) -> None:
        """Add another stream."""
        super().merge(flow)
        if not isinstance(flow, _Stream):
            return
        self.begun = min(self.begun, flow.begun) if self.seen else flow.begun
        self.seen, self.resumed = max(self.seen, flow.seen), max(self.resumed, flow.resumed)
        self.silences += flow.silences
        self.gap_sum = (self.gap_sum + flow.gap_sum) % _MOST_GAPS
        self.gaps = [mine + other for mine, other in zip(self.gaps, flow.gaps, strict=True)]
        self._turn(flow.tick)
        for tick, counts in flow.ticks.items():
            if tick > self.tick - _TICKS:
                self._add_tick(tick, *counts)

    def second(self, last: int) -> tuple[int, int]:
        """Packets and bytes of a second, whose last tick is this one."""
        counts = [self.ticks.get(last - at, (0, 0)) for at in range(_TICKS_PER_SECOND)]
        return sum(one[0] for one in counts), sum(one[1] for one in counts)

    def stream_row(self, key: tuple[bytes, int, bytes, int], now: int) -> StreamRow:
        """As the table shows it at a time."""
        rate_packets, rate_bytes = self.second(now // TICK_NS - 1)
        return StreamRow(
            *key,
            packets=self.packets,
            bytes=self.wire_bytes,
            smallest=self.smallest,
            largest=self.largest,
            truncated=self.truncated,
            first_time=self.first,
            last_time=self.last,
            largest_gap=self.largest_gap,
            largest_gap_at=self.largest_gap_at,
            gaps=tuple(self.gaps),
            begun=self.begun,
            seen=self.seen,
            resumed=self.resumed,
            silences=self.silences,
            rate_packets=rate_packets,
            rate_bytes=rate_bytes,
            gap_sum=self.gap_sum,
        )


class StreamTable:
    """Streams, each on its interface: `most` of them, those with the most packets, and the others together.

    Where more than twice as many are known, those with the fewest packets are added to the others. Threads may share
    it. Times are ns of a clock that does not go back; `silence`: after which a packet ends one."""

    def __init__(self, most: int, silence: int) -> None:
        if not 1 <= most <= 1 << 24 or silence <= 0:
            raise ValueError("a table is of 1 to 2**24 streams, and silences are longer than 0")
        self._silence = silence
        self._process = process.number
        self._streams = Flows(most, _Stream, by_interface=True)

    def add(self, packets: Batch, now: int) -> None:
        """Counts the packets of a batch. TypeError, and ClosedError in another process than the one that made it."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        self._check(now)
        with self._streams.lock:
            for row in RECORD.iter_unpack(bytes(packets.records)):
                self._streams.flow(row).add_at(row, now, self._silence)

    def rows(self, now: int) -> tuple[list[StreamRow], StreamRow | None]:
        """(a StreamRow for each, in the order they began; that of the others, or None). ClosedError as `add`."""
        self._check(now)
        with self._streams.lock:
            self._streams.fit()
            rows = [flow.stream_row((*key[:3], index), now) for key, (index, flow) in self._streams.known.items()]
            others = self._streams.others
            return rows, others.stream_row((bytes(16), 0, bytes(16), 0), now) if others.packets else None

    def history(self, group: bytes, port: int, source: bytes, interface: int, now: int) -> list[tuple[int, int]]:
        """Packets and bytes of each of the last HISTORY whole seconds, the latest last; zeros of an unknown stream.

        ClosedError as `add`."""
        self._check(now)
        if len(group) != 16 or len(source) != 16:
            raise ValueError("an address has 16 bytes")
        with self._streams.lock:
            _, flow = self._streams.known.get((group, port, source, interface), (0, _Stream()))
            last = now // TICK_NS - 1
            return [flow.second(last - _TICKS_PER_SECOND * back) for back in reversed(range(HISTORY))]

    def _check(self, now: int) -> None:
        if self._process != process.number:
            raise ClosedError("the monitor was made in another process")
        if not 0 <= now < 1 << 62:
            raise ValueError("a clock shows 0 to 2**62 ns")
