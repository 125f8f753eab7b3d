"""When numbers were lost: what a tracker reports, as counts over time and as bursts.

Rules of this module: no I/O.
"""

import itertools
from collections import deque
from dataclasses import dataclass, field

from mcast_fast._core.extraction import MOST_GAPS, ChangeRow, FlowRow, What
from mcast_fast._report.grid import Grid
from mcast_fast._units import NANOSECONDS

LOST = "lost"  # the table of the grid
APART = NANOSECONDS // 10  # losses that are farther from each other are two bursts
MOST_PLACES = 256  # with a row of their own
MOST_BURSTS = 1000  # of a place; what follows counts to the last one
_LOOKED_AT = 64  # gaps, for a number that came late
_MOST_GAPS = MOST_GAPS + _LOOKED_AT  # remembered of a flow: what a tracker has pending, and those that are over
_MOST_FLOWS = 4096

_GAP, _LOST, _LATE, _RESTARTED = (tuple(What).index(one) for one in (What.GAP, What.LOST, What.LATE, What.RESTARTED))
UNUSED_CHANGES = (1 << len(What)) - 1 - sum(1 << one for one in (_GAP, _LOST, _LATE, _RESTARTED))

Place = tuple[bytes, int, bytes]  # source, port, group
_Flow = tuple[bytes, int, bytes, int, bytes]


@dataclass(slots=True)
class Burst:
    """Losses near each other: from when to when, ns since the epoch, and the numbers that never came."""

    first: int
    last: int
    numbers: int


@dataclass(slots=True)
class _Gap:
    first: int
    count: int
    time: int
    over: int = 0  # of its numbers, from the first one on: they are not pending


@dataclass(slots=True)
class _Lost:
    row: int
    counted: int = 0
    restarted: int = 0  # when the sender began anew the last time; 0: it did not
    bursts: list[Burst] = field(default_factory=list)


class Losses:
    """Takes in what changed, and has where and when numbers were lost. A number counts when the gap was seen, not when
    its window had passed; one that came late is taken back.

    Args:
        grid: Where they are counted.
        width: Bits of a number.
        window: ns after which the tracker takes a number for lost.
    """

    def __init__(self, grid: Grid, width: int, window: int) -> None:
        self._grid = grid
        self._mask = (1 << width) - 1
        self._window = window
        self._gaps: dict[_Flow, deque[_Gap]] = {}
        self._places: dict[Place, _Lost] = {}
        self._earliest = 0  # when the first gap was seen; 0: none was

    def add(self, changes: list[ChangeRow]) -> None:
        """Take in what a batch changed."""
        for one in changes:
            flow = one.source, one.source_port, one.group, one.port, one.key
            if one.kind == _GAP:
                self._gaps_of(flow).append(_Gap(one.first, self._count(one), one.time))
                self._earliest = min(self._earliest or one.time, one.time)
            elif one.kind == _LOST:
                self._lose(flow, one)
            elif one.kind == _LATE:
                self._take_back(flow, one)
            elif one.kind == _RESTARTED:
                self._place(flow).restarted = one.time
                self._gaps.pop(flow, None)  # of the run before: its numbers come again

    def end(self, flows: list[FlowRow]) -> None:
        """The packets are over: what is pending did not come either."""
        for one in flows:
            left = one.pending
            flow = one.source, one.source_port, one.group, one.port, one.key
            found: list[tuple[int, int]] = []
            for gap in reversed(self._gaps.get(flow, deque())):
                count = min(left, gap.count - gap.over)
                found.append((gap.time, count))
                left -= count
            for time, count in reversed(found):  # the earliest first: what is near the burst before is a part of it
                self._count_lost(flow, time, count)
            self._count_lost(flow, one.last_time, left)
        for place, known in self._places.items():
            rows = [one for one in flows if (one.source, one.port, one.group) == place]
            # A packet that turned out to begin a new run seemed to bring a number of the old one: that is lost after
            # all, and no change says so.
            silent = sum(one.lost + one.pending for one in rows) - known.counted
            if rows and silent > 0:
                flow = place[0], 0, place[2], place[1], b""
                self._count_lost(flow, known.restarted or rows[-1].last_time, silent)

    def bursts(self, place: Place) -> tuple[Burst, ...]:
        """Of one source, port and group, in the order of time."""
        found = self._places.get(place)
        if found is None:
            return ()
        return tuple(sorted((one for one in found.bursts if one.numbers > 0), key=lambda one: one.first))

    def row(self, place: Place) -> int | None:
        """Its row in the grid; None: nothing was lost."""
        found = self._places.get(place)
        return None if found is None else found.row

    # ---- gaps ----

    def _gaps_of(self, flow: _Flow) -> deque[_Gap]:
        if flow not in self._gaps:
            if len(self._gaps) >= _MOST_FLOWS:  # those that are known longest may have ended
                for old in list(itertools.islice(self._gaps, _MOST_FLOWS // 2)):
                    del self._gaps[old]
            self._gaps[flow] = deque(maxlen=_MOST_GAPS)
        return self._gaps[flow]

    def _count(self, one: ChangeRow) -> int:
        return ((one.last - one.first) & self._mask) + 1

    def _lose(self, flow: _Flow, one: ChangeRow) -> None:
        count = self._count(one)
        gaps: deque[_Gap] = self._gaps.get(flow, deque())
        time = self._about(one)
        for at, gap in enumerate(gaps):
            offset = (one.first - gap.first) & self._mask
            if gap.over <= offset < gap.count:  # one that is over may have had the same numbers, before they wrapped
                time = gap.time
                gap.over = offset + count
                for _ in range(at - _LOOKED_AT):  # those before it are over: numbers are lost in their order
                    gaps.popleft()
                break
        self._count_lost(flow, time, count)

    def _take_back(self, flow: _Flow, one: ChangeRow) -> None:
        gaps: deque[_Gap] = self._gaps.get(flow, deque())
        for gap in itertools.islice(reversed(gaps), _LOOKED_AT):
            if (one.first - gap.first) & self._mask < gap.count:
                self._count_lost(flow, gap.time, -self._count(one))
                return
        self._count_lost(flow, self._about(one), -self._count(one))

    def _about(self, one: ChangeRow) -> int:
        """When a gap was seen that is not remembered."""
        return max(one.time - self._window, self._earliest)

    def _count_lost(self, flow: _Flow, time: int, count: int) -> None:
        if not count:
            return
        place = self._place(flow)
        place.counted += count
        if time > 0:
            self._grid.add_one(LOST, place.row, time, count)
        latest = itertools.islice(reversed(place.bursts), _LOOKED_AT)
        burst = next((one for one in latest if one.first - APART <= time <= one.last + APART), None)
        if burst is None and count > 0 and (len(place.bursts) < MOST_BURSTS):
            place.bursts.append(Burst(time, time, count))
        elif burst is not None or place.bursts:
            burst = burst or place.bursts[-1]
            burst.numbers += count
            if count > 0:
                burst.first, burst.last = min(burst.first, time), max(burst.last, time)

    def _place(self, flow: _Flow) -> _Lost:
        place = flow[0], flow[3], flow[2]
        if place not in self._places:
            if len(self._places) >= MOST_PLACES:
                place = bytes(16), 0, bytes(16)
            if place not in self._places:
                self._places[place] = _Lost(self._grid.new_row(LOST))
        return self._places[place]
