"""The spacing of recorded packets: where the clock of a recording was set, and what a replay makes of it; no I/O."""

import itertools
import operator
from typing import TYPE_CHECKING

from mcast_fast._core.layout import RECORD_SIZE
from mcast_fast._units import NANOSECONDS

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

STEP_NS = 100_000_000  # ns; a time that goes back by more is a clock that was set: what follows goes on from there
ASTRAY = 64  # packets in a row, at most, whose clock was ahead for a moment
LONG_NS = NANOSECONDS  # a gap before which it pays to look at what comes next
TIME, RECORD_WORDS = 0, RECORD_SIZE // 8  # of a record, in words of eight bytes


def times_of(batch: "Batch") -> list[int]:
    """The times of arrival of a batch's packets, in ns; 0 where there is none."""
    return memoryview(batch.records).cast("B").cast("q")[TIME::RECORD_WORDS].tolist()


class Spacing:
    """Follows the times of a recording from packet to packet. `max_gap`: the longest one, in ns."""

    def __init__(self, max_gap: int) -> None:
        self._max_gap = max_gap
        self._last = 0
        self._before: int | None = None  # the latest time before the clock went astray

    def begin(self, time: int) -> None:
        """A file begins; `time`: of its first packet that has one."""
        self._last, self._before = time, None

    def long_gap(self, times: list[int]) -> tuple[int, int]:
        """The first long gap before one of the last packets, for which it matters what follows them: (place of the
        packet behind it, ns); (0, 0) where there is none."""
        first = max(0, len(times) - ASTRAY)
        latest = max(self._last, *times[:first], 0)
        for place in range(first, len(times)):
            if latest and times[place] - latest > LONG_NS:
                return place, min(times[place] - latest, self._max_gap)
            latest = max(latest, times[place])
        return 0, 0

    def steps(self, times: list[int], ahead: list[int]) -> list[tuple[int, int]]:
        """Where the spacing does not follow the times.

        Args:
            times: Of the packets, in ns; 0 = none.
            ahead: Times of those that follow, as far as they are known.

        Returns:
            The packets' places, each with the ns that it follows its predecessor by: none behind a clock that was set
            back; none where it went ahead and comes back at once, and behind that as before; and `max_gap` at most.
        """
        if not times:
            return []
        gaps = list(map(operator.sub, times, itertools.accumulate(times, max, initial=self._last)))
        following = [time for time in ahead[:ASTRAY] if time]
        if (
            min(gaps) >= -STEP_NS
            and max(gaps) <= self._max_gap
            and min(following, default=max(times)) >= max(times) - STEP_NS
        ):
            self._last = max(self._last, *times)
            return []
        return self._slow_steps(times, following)

    def _slow_steps(self, times: list[int], following: list[int]) -> list[tuple[int, int]]:
        found = []
        for place, now in enumerate(times):
            if now == 0:
                continue
            gap = now - self._last
            if gap < -STEP_NS:
                returned = self._before is not None and now >= self._before - STEP_NS
                found.append((place, min(max(0, now - (self._before or 0)) if returned else 0, self._max_gap)))
                self._last, self._before = now, None
            elif gap > STEP_NS and self._comes_back(now, [*times[place + 1 : place + 1 + ASTRAY], *following][:ASTRAY]):
                found.append((place, 0))
                self._last, self._before = now, self._last
            elif gap > self._max_gap:
                found.append((place, self._max_gap))
            self._last = max(self._last, now)
        return found

    def _comes_back(self, now: int, following: list[int]) -> bool:
        """Whether the clock, which went ahead to `now`, is soon back where it would have been."""
        half = self._last + (now - self._last) // 2
        return any(time and self._last - STEP_NS <= time < min(half, now - STEP_NS) for time in following)
