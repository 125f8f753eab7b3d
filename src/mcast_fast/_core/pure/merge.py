"""Capture files merged by time: the twin of fast/merge.pxi."""

import heapq
import struct
import sys
from collections.abc import Iterable
from operator import itemgetter

from mcast_fast._core import blocks

_EARLIEST, _LATEST = -(2**63), 2**63 - 1
_EPB = struct.Struct("=7I")  # type, length, interface, high, low, captured, wire
_LEAST = 32  # bytes of an enhanced packet block
_CLOCK = struct.Struct("=QqQ")
_AS_IS, _SMALLER_FIRST = range(2)


def _options_fit(options: memoryview) -> bool:
    """Whether the options of a block are whole: what a reader of the result would stop at ends a split."""
    at = 0
    while len(options) - at >= 4:
        code, length = struct.unpack_from("=HH", options, at)
        if code == 0:
            return True
        at += 4 + (length + 3 & ~3)
    return at <= len(options)


class Run:
    """Blocks of one source that wait to be merged, in the order of time once they are sorted. For one thread.

    `clocks` has for each interface of the section (factor, shift, number), as 64-bit numbers: ticks * factor + shift
    are ns (factor 0: not so, and its packets end a split), and `number` is the interface's in the result."""

    def __init__(self) -> None:
        self._rows: list[tuple[int, bytes]] = []
        self._at = self._end = 0

    def blocks(self, data: bytes | bytearray | memoryview, start: int, clocks: bytes) -> int:
        """Takes packets of pcapng from `start` on; where it stopped."""
        view = memoryview(data)
        known = list(_CLOCK.iter_unpack(clocks))
        if not 0 <= start <= len(view):
            raise IndexError(f"byte {start} of {len(view)}")
        while len(view) - start >= _LEAST:
            kind, length, interface, high, low, captured, wire = _EPB.unpack_from(view, start)
            if kind != blocks.ENHANCED_PACKET or length & 3 or not _LEAST <= length <= blocks.LARGEST_BLOCK:
                break
            if length > len(view) - start or interface >= len(known) or captured > length - _LEAST:
                break
            (again,) = struct.unpack_from("=I", view, start + length - 4)
            factor, shift, number = known[interface]
            if again != length or not factor:
                break
            if not _options_fit(view[start + _EPB.size + (captured + 3 & ~3) : start + length - 4]):
                break
            head = _EPB.pack(kind, length, number, high, low, captured, wire)
            ticks = high << 32 | low
            time = ticks * factor + shift if ticks and ticks * factor <= _LATEST else 0
            block = head + bytes(view[start + _EPB.size : start + length])
            self.add(block, time if _EARLIEST <= time <= _LATEST else 0)
            start += length
        return start

    def records(
        self,
        data: bytes | bytearray | memoryview,
        start: int,
        number: int,
        swapped: bool,
        lengths: int,
        header: int,
        units: int,
    ) -> int:
        """Takes packets of classic pcap from `start` on, as those of interface `number`; where it stopped.

        `lengths`: 0, as they are; 1, the smaller one first; 2, the other way round. `units`: ticks of a second."""
        if header < 16 or units not in (10**6, 10**9):
            raise ValueError("no such kind of classic pcap")
        view = memoryview(data)
        if not 0 <= start <= len(view):
            raise IndexError(f"byte {start} of {len(view)}")
        order = "<" if (sys.byteorder == "little") != swapped else ">"
        while len(view) - start >= header:
            seconds, fraction, captured, wire = struct.unpack_from(order + "4I", view, start)
            if lengths > _SMALLER_FIRST or (lengths == _SMALLER_FIRST and captured > wire):
                captured, wire = wire, captured
            if captured > blocks.LARGEST_FRAME or captured > len(view) - start - header:
                break
            padding = -captured % 4
            length = _LEAST + captured + padding
            ticks = seconds * units + fraction
            frame = bytes(view[start + header : start + header + captured]) + bytes(padding)
            head = _EPB.pack(blocks.ENHANCED_PACKET, length, number, ticks >> 32, ticks & 0xFFFFFFFF, captured, wire)
            self.add(head + frame + struct.pack("=I", length), ticks * (10**9 // units))
            start += header + captured
        return start

    def add(self, block: bytes, time: int) -> None:
        """Takes a block as it is; 0: at the time of the one before."""
        if time == 0:
            time = self._rows[-1][0] if self._rows else _EARLIEST
        self._rows.append((time, block))

    def sort(self, held: int) -> int:
        """Sorts what is there; all but the latest `held` blocks may be merged from now on."""
        self._rows.sort(key=itemgetter(0))
        self._at, self._end = 0, max(0, len(self._rows) - held)
        return self._end

    def forget(self) -> None:
        """Keeps what was not merged, in the order in which it is."""
        del self._rows[: self._at]
        self._at = self._end = 0

    @property
    def left(self) -> int:
        """How many blocks may be merged."""
        return self._end - self._at

    @property
    def count(self) -> int:
        """How many blocks wait, those too that are held."""
        return len(self._rows) - self._at


def merge_by_time(runs: Iterable[Run], to: bytearray, latest: int) -> tuple[int, int, int]:
    """Blocks of several runs into the buffer `to`, in the order of time, until one has none left or `to` is full.

    `latest` is the time of the last block before. Returns (bytes, latest, how many were older than that). No run may
    have nothing left."""
    several = list(runs)
    if not several or not all(one.left for one in several):
        raise ValueError("a run has no blocks left")
    heap = [(one._rows[one._at][0], place) for place, one in enumerate(several)]
    heapq.heapify(heap)
    used = late = 0
    while True:
        time, place = heap[0]
        run = several[place]
        block = run._rows[run._at][1]
        if len(block) > len(to) - used:
            return used, latest, late
        to[used : used + len(block)] = block
        used += len(block)
        late += time < latest
        latest = max(latest, time)
        run._at += 1
        if not run.left:
            return used, latest, late
        heapq.heapreplace(heap, (run._rows[run._at][0], place))
