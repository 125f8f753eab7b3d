"""The numbers of one flow: the twin of c/flow.c, step by step, over integers that have no width.

Positions are numbers unwrapped; they are compared plainly where the C compares them modulo 2^64.
"""

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from mcast_fast._core.extraction import MOST_GAPS, NEAR, Kind, What
from mcast_fast._core.pure.payloads import Numbered

FASTEST_NS = 5  # per packet, 200 million per second: what is farther ahead than that was not sent since
LATEST_CLOCK = (2**63 - 1) // 4
NOTABLE_SILENCE = 1 << 17  # ns
MOST_AHEAD = 2**63 - 1

Report = Callable[[What, int, int], None]  # what, first, end


class Gap(NamedTuple):
    """Numbers that are missing, from `first` up to `end`, which is the one after the last; since when by the clock."""

    first: int
    end: int
    since: int


_END = attrgetter("end")


def ignore(what: What, first: int, end: int) -> None:
    """Where the changes are not requested."""


@dataclass(slots=True)
class _Candidate:
    """What the last packet was that may be the first after a restart: how it was counted, to be taken back."""

    number: int
    count: int
    strays: int = 0  # packets with this number that were strays
    late: int = 0
    early: int = 0
    duplicates: int = 0


@dataclass(slots=True)
class Flow:
    """One flow of numbers of `bits` bits."""

    bits: int
    window: int
    report: Report = ignore
    next: int = 0
    first: int = 0
    clock: int = 0
    last_time: int = 0
    gained: int = 0
    mark_clock: int = 0
    low_clock: int = 0
    mark: int = 0
    low: int = 0
    packets: int = 0
    received: int = 0
    duplicates: int = 0
    lost: int = 0
    pending: int = 0
    reordered: int = 0
    depth: int = 0
    late: int = 0
    burst: int = 0
    strays: int = 0
    restarts: int = 0
    ambiguous: int = 0
    earlier: int = 0
    first_time: int = 0
    run_clock: int = 0
    restarted_at: int = -1
    candidate: _Candidate | None = None
    gaps: list[Gap] = field(default_factory=list)
    charged: int = 0
    known: bool = False
    ended: bool = False

    @property
    def expected(self) -> int:
        """Numbers from the first to the last, of all runs."""
        return self.earlier + self.next - self.first

    # ---- gaps ----

    def _charge(self) -> None:
        """One is lost: the oldest that is pending."""
        gap = self.gaps[self.charged]
        self.charged += 1
        size = gap.end - gap.first
        self.pending -= size
        self.lost += size
        self.burst = max(self.burst, size)
        self.report(What.LOST, gap.first, gap.end)

    def charge_what_is_over(self) -> None:
        """What is pending for the window is lost."""
        while self.charged < len(self.gaps) and self.clock - self.gaps[self.charged].since >= self.window:
            self._charge()

    def _make_room(self) -> None:
        if len(self.gaps) == MOST_GAPS:
            if not self.charged:
                self._charge()
            del self.gaps[0]
            self.charged -= 1

    def _open_gap(self, at: int, first: int, end: int, since: int) -> None:
        self.report(What.GAP, first, end)
        self.gaps.insert(at, Gap(first, end, since))
        self.pending += end - first

    def _shrink_gap(self, at: int, first: int, end: int) -> bool:
        """Takes the part [first, end) out of the gap it lies in; whether the gap is gone."""
        gap = self.gaps[at]
        if (gap.first, gap.end) == (first, end):
            del self.gaps[at]
            self.charged -= at < self.charged
            return True
        if end < gap.end and gap.first < first:
            self.gaps.insert(at + 1, Gap(end, gap.end, gap.since))
            self.charged += at < self.charged
        self.gaps[at] = gap._replace(first=end) if gap.first == first else gap._replace(end=first)
        return False

    def _fill_gaps(self, first: int, end: int) -> tuple[int, int]:
        """Numbers [first, end) came; how many of them were pending, and lost."""
        pending = lost = 0
        self._make_room()
        at = bisect_right(self.gaps, first, key=_END)
        while at < len(self.gaps) and self.gaps[at].first < end:
            start, stop = max(first, self.gaps[at].first), min(end, self.gaps[at].end)
            if at < self.charged:
                lost += stop - start
                self.lost -= stop - start
            else:
                pending += stop - start
                self.pending -= stop - start
            self.report(What.LATE if at < self.charged else What.REORDERED, start, stop)
            if not self._shrink_gap(at, start, stop):
                at += 1
        return pending, lost

    # ---- runs: from the first number to a restart ----

    def _begin_run(self, number: int) -> None:
        self.first = self.next = self.mark = self.low = number
        self.run_clock = self.mark_clock = self.low_clock = self.gained = self.clock
        self.known = True

    def _end_run(self) -> None:
        while self.charged < len(self.gaps):
            self._charge()
        self.gaps.clear()
        self.charged = 0
        self.earlier += self.next - self.first

    def _take_back(self, candidate: _Candidate) -> None:
        """Undoes how it was counted: numbers that it seemed to bring are lost, for the run that missed them is over."""
        if candidate.strays:
            again = (candidate.strays - 1) * candidate.count
            self.strays -= candidate.strays
            self.received += again
            self.duplicates += again
            return
        self.received -= candidate.count
        self.duplicates -= candidate.duplicates
        self.late -= candidate.late
        self.reordered -= candidate.early
        self.lost += candidate.late + candidate.early

    def _restart(self, candidate: _Candidate) -> None:
        """The sender began anew: the candidate was its first packet that came."""
        self._take_back(candidate)
        self._end_run()
        self.candidate = None
        self.restarts += 1
        self.ambiguous += 1
        self.restarted_at = self.clock
        self._begin_run(candidate.number)
        self.next += candidate.count
        self.received += candidate.count
        self.report(What.RESTARTED, candidate.number, candidate.number + 1)

    def _ahead(self, number: int, other: int) -> int:
        """How far a number is ahead of another one, less than half the range; negative: behind."""
        half = 1 << (self.bits - 1)
        return ((number - other + half) & ((1 << self.bits) - 1)) - half

    def _confirmed(self, number: int, count: int) -> _Candidate | None:
        """The candidate, if the number is another one so close to it that both are of a new run."""
        one = self.candidate
        near = one is not None and 0 < abs(self._ahead(number, one.number)) < NEAR * count + one.count
        return one if near else None

    def _stray(self, number: int, count: int) -> None:
        """A number that neither follows what came nor is one of it: it may be the first of a new run."""
        self.strays += 1
        one = self.candidate
        if one is not None and one.strays and (one.number, one.count) == (number, count):
            one.strays += 1
        else:
            self.candidate = _Candidate(number, count, 1)

    # ---- numbers ----

    def _is_plausible(self, ahead: int, count: int, step: int) -> bool:
        """Whether a sender may have come so far since the last packet."""
        packets = NEAR + (step + self.window) // FASTEST_NS
        return packets > MOST_AHEAD // count or ahead <= packets * count

    def _is_ambiguous(self, step: int) -> bool:
        """Whether the silence was so long that, at the rate before it, the number may have come half around."""
        spent = self.clock - step - self.low_clock
        if self.bits >= 64 or step < NOTABLE_SILENCE or spent <= 0:
            return False
        return float(step) * float(self.next - self.low) >= float(1 << (self.bits - 1)) * float(spent)

    def _advance(self, position: int, step: int) -> None:
        """All before `position` was sent."""
        self.candidate = None
        self.ambiguous += self._is_ambiguous(step)
        if position != self.next:
            self._make_room()
            self._open_gap(len(self.gaps), self.next, position, self.clock)
            self.next = position
        self.gained = self.clock

    def _extend_backwards(self, position: int) -> None:
        """The first packets came in another order: the run begins earlier than it seemed."""
        self._make_room()
        if self.charged or self.clock - self.run_clock >= self.window:
            return
        self._open_gap(0, position, self.first, self.run_clock)
        self.first = position
        self.low, self.mark = min(position, self.low), min(position, self.mark)

    def _come_behind(self, first: int, end: int, is_old: bool) -> None:
        """Numbers [first, end), which were passed before."""
        pending, lost = self._fill_gaps(first, end)
        duplicates = end - first - pending - lost
        self.received += end - first
        self.duplicates += duplicates
        self.reordered += pending
        self.late += lost
        if pending:
            self.depth = max(self.depth, self.next - 1 - first)
            self.gained = self.clock
        if duplicates:
            self.report(What.DUPLICATE, first, end)
        again = self.candidate is not None and self._ahead(first, self.candidate.number) == 0
        if is_old and not again:
            self.candidate = _Candidate(first, end - first, 0, lost, pending, duplicates)

    def _see_behind(self, number: int, count: int, position: int) -> None:
        """A number below the one expected."""
        end = min(self.next, position + count)
        if position < self.first and self.first - position <= NEAR * count:
            self._extend_backwards(position)
        is_foreign = position < self.first
        is_old = position < self.low or self.clock - self.gained > self.window
        candidate = self._confirmed(number, count) if is_foreign or is_old else None
        if candidate is not None:
            self._restart(candidate)
            self._see_number(number, count, 0)
            return
        if is_foreign:
            self._stray(number, count)
            return
        self._come_behind(position, end, is_old and end == position + count)
        if end != position + count:  # its other part is new
            self.received += position + count - end
            self.next = position + count
            self.gained = self.clock

    def _see_number(self, number: int, count: int, step: int) -> None:
        ahead = self._ahead(number, self.next)
        if ahead < 0:
            self._see_behind(number, count, self.next + ahead)
            return
        if not self._is_plausible(ahead, count, step):
            candidate = self._confirmed(number, count)
            if candidate is None:
                self._stray(number, count)
                return
            self._restart(candidate)
            self._see_number(number, count, 0)
            return
        self._advance(self.next + ahead, step)
        self.received += count
        self.next += count

    def _see_next(self, number: int, step: int) -> None:
        """A heartbeat, or the end: it has no number of its own, and shows what was sent before."""
        ahead = self._ahead(number, self.next)
        if ahead > 0 and self._is_plausible(ahead, 1, step):
            self._advance(self.next + ahead, step)

    def _pass_time(self, time: int) -> int:
        """The steps forwards of the times of arrival; how far this one went."""
        if time == 0:
            return 0
        step = 0 if self.last_time == 0 else max(0, time - self.last_time)
        step = min(step, LATEST_CLOCK - self.clock)
        self.first_time = self.first_time or time
        self.last_time = time
        self.clock += step
        return step

    def see(self, packet: Numbered, time: int) -> None:
        """A packet of this flow came."""
        step = self._pass_time(time)
        self.packets += 1
        if not self.known:
            self._begin_run(packet.number)
            self.report(What.STARTED, packet.number, packet.number + 1)
        self.charge_what_is_over()
        if packet.kind == Kind.DATA:
            self._see_number(packet.number, packet.count, step)
            self.ended = False
        elif not self.ended:
            self._see_next(packet.number, step)
            self.ended = packet.kind == Kind.END
            if self.ended:
                self.report(What.ENDED, self.next, self.next + 1)
        if self.clock - self.mark_clock >= self.window:
            self.low, self.low_clock = self.mark, self.mark_clock
            self.mark, self.mark_clock = self.next, self.clock
