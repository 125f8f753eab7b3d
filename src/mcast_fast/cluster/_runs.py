"""The numbers of a flow that are in a file, and those of many files and hosts put together.

What a Tracker finds depends on the order of the packets, and cannot be added up. Which numbers came can: of each file
and flow a few spans are kept, and the union of spans is the same in whichever order, and on however many hosts, it is
made. What is missing is what no file has.

A run is what a sender sent without beginning anew. Its numbers are unwrapped: positions count on where numbers of 16
bits begin again at 0. Anchors say at which time which position had come; by them runs of several hosts are laid over
each other.

Rules of this module: no I/O.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from mcast_fast._core.extraction import NEAR
from mcast_fast._units import NANOSECONDS
from mcast_fast.cluster._spans import Span, united, without

FASTEST_NS = 5  # per packet, as in c/flow.h: what is farther ahead was not sent since
SAME_CLOCK = NANOSECONDS  # ns by which files of one host may lie over each other
OTHER_CLOCK = 10 * NANOSECONDS  # ns by which the clocks of two hosts may differ
FAR_OFF = NANOSECONDS  # ns: a difference of clocks that is reported

Line = tuple[str, int]  # a host, and which of its recorders
Clocks = dict[tuple[str, str], int]  # (host, other host) -> ns that the clock of the first is ahead
FlowName = tuple[str, int, str, int | None, str]  # group, port, source, its port, key in hexadecimal


class Anchor(NamedTuple):
    """All before this position had come at this time, ns since the epoch."""

    position: int
    time: int


_POSITION, _TIME = attrgetter("position"), attrgetter("time")


@dataclass(slots=True)
class Run:
    """Numbers of one run: all of [first, next) but those of the gaps; `times`: of the packets behind the gaps."""

    first: int
    next: int
    first_time: int = 0
    last_time: int = 0
    gaps: list[Span] = field(default_factory=list)
    anchors: list[Anchor] = field(default_factory=list)
    times: dict[int, int] = field(default_factory=dict)  # by position: of the first packet behind a gap

    def covered(self) -> Iterable[Span]:
        """The spans that came."""
        return without([(self.first, self.next)], self.gaps)

    def shifted(self, shift: int) -> "Run":
        """The same at positions that are higher by `shift`."""
        if not shift:
            return self
        return Run(
            self.first + shift,
            self.next + shift,
            self.first_time,
            self.last_time,
            [(first + shift, end + shift) for first, end in self.gaps],
            [Anchor(position + shift, time) for position, time in self.anchors],
            {position + shift: time for position, time in self.times.items()},
        )


@dataclass(slots=True)
class FlowRuns:
    """A flow in one file: its counters, in packets and in numbers, and its runs in the order of time."""

    name: FlowName
    bits: int
    packets: int = 0
    received: int = 0
    strays: int = 0
    ambiguous: int = 0
    first_time: int = 0
    last_time: int = 0
    runs: list[Run] = field(default_factory=list)


@dataclass(slots=True)
class Joined:
    """Runs that are parts of one run, laid over each other: pieces of one host, or of several."""

    pieces: list[tuple[Line, Run]]
    first: int
    next: int
    first_time: int
    last_time: int
    anchors: list[Anchor]

    @classmethod
    def of(cls, line: Line, run: Run) -> "Joined":
        """A run by itself."""
        return cls([(line, run)], run.first, run.next, run.first_time, run.last_time, list(run.anchors))

    def add(self, other: "Joined", shift: int) -> None:
        """Lay another one over this one."""
        self.pieces += [(line, run.shifted(shift)) for line, run in other.pieces]
        anchors = [Anchor(position + shift, time) for position, time in other.anchors]
        inside = self.anchors[0].position, self.anchors[-1].position
        before = [one for one in anchors if one.position < inside[0]]
        self.anchors[:0] = before
        self.anchors += [one for one in anchors if one.position > inside[1]]
        self.first, self.next = min(self.first, other.first + shift), max(self.next, other.next + shift)
        self.first_time = min(self.first_time, other.first_time)
        self.last_time = max(self.last_time, other.last_time)

    def covered(self) -> list[Span]:
        """The spans that came in any piece."""
        return united(span for _, run in self.pieces for span in run.covered())

    def times_at(self, position: int) -> tuple[int, int]:
        """The earliest and the latest time at which a position can have come."""
        before = bisect_right(self.anchors, position, key=_POSITION) - 1
        behind = bisect_left(self.anchors, position, key=_POSITION)
        early = self.anchors[max(0, before)].time
        late = self.anchors[min(behind, len(self.anchors) - 1)].time
        return min(early, late), max(early, late)

    def position_at(self, time: int) -> int:
        """About where it was at a time."""
        at = bisect_right(self.anchors, time, key=_TIME)
        if at == 0:
            return self.first
        if at == len(self.anchors):
            return self.next
        left, right = self.anchors[at - 1], self.anchors[at]
        passed = right.time - left.time
        return (
            left.position + (right.position - left.position) * (time - left.time) // passed if passed else left.position
        )


class Fit(NamedTuple):
    """How a run lies over another one: what is added to its positions, the ns that its clock is ahead at least, and
    whether the numbers leave no doubt."""

    shift: int
    ahead: int
    is_certain: bool = True


def nearest(position: int, to: int, bits: int) -> int:
    """What to add to a position so that it is as near to another one as its width allows."""
    lap = 1 << bits
    return (to - position + lap // 2) // lap * lap


def fit(run: Joined, other: Joined, bits: int, tolerance: int, count: int = 1) -> Fit | None:
    """How `other` continues `run`, or lies over it; None: it is another run.

    Args:
        run: What is there.
        other: What begins later.
        bits: The width of the numbers.
        tolerance: ns by which the times of the two may differ.
        count: Numbers that a packet covers.
    """
    found: list[Fit] = []
    if other.first_time <= run.last_time + SAME_CLOCK and other.last_time >= run.first_time - SAME_CLOCK:
        found += _over(run, other, bits)
    shift = nearest(other.first, run.next, bits)
    found += _behind(shift, other.first + shift - run.next, other.first_time - run.last_time, bits, count)
    shift = -nearest(run.first, other.next, bits)
    found += _behind(shift, run.first - (other.next + shift), run.first_time - other.last_time, bits, count)
    best = min(found, key=lambda one: abs(one.ahead), default=None)
    return best if best is not None and abs(best.ahead) <= tolerance else None


def _behind(shift: int, missing: int, passed: int, bits: int, count: int) -> Iterator[Fit]:
    """One follows the other, with `missing` numbers and `passed` ns between them: less than 0 where clocks differ."""
    if 0 <= missing <= _most(passed, count):
        yield Fit(shift, min(0, passed), missing < 1 << max(0, bits - 2))


def _most(passed: int, count: int) -> int:
    """Numbers that may have been sent in this time."""
    return (NEAR + (max(0, passed) + SAME_CLOCK) // FASTEST_NS) * count


def _over(run: Joined, other: Joined, bits: int) -> Iterator[Fit]:
    """How two runs with numbers in common may lie over each other."""
    lap = 1 << bits
    near = nearest(other.first, run.position_at(other.first_time), bits)
    for shift in (near, near - lap, near + lap):
        first, end = max(run.first, other.first + shift), min(run.next, other.next + shift)
        if first >= end:
            continue
        middle = (first + end) // 2
        early, late = run.times_at(middle)
        own_early, own_late = other.times_at(middle - shift)
        least, most = own_early - late, own_late - early
        yield Fit(shift, 0 if least <= 0 <= most else least if least > 0 else most)


def lines_of(files: Iterable[FlowRuns]) -> list[list[FlowRuns]]:
    """The files of one host as lines in which one follows another: several recorders of a host make several."""
    lines: list[list[FlowRuns]] = []
    for file in sorted(files, key=lambda file: (file.first_time, file.last_time)):
        line = next((one for one in lines if one[-1].last_time <= file.first_time + SAME_CLOCK), None)
        if line is None:
            lines.append([file])
        else:
            line.append(file)
    return lines


def chained(line: Line, files: Iterable[FlowRuns], bits: int, count: int = 1) -> tuple[list[Joined], int]:
    """The runs of a line, whose files follow each other; and how often numbers do not say how much is missing.

    Runs of one file stay apart, for a Tracker found that the sender began anew."""
    runs: list[Joined] = []
    ambiguous = 0
    for file in files:
        for at, run in enumerate(file.runs):
            alone = Joined.of(line, run)
            found = fit(runs[-1], alone, bits, SAME_CLOCK, count) if runs and not at else None
            if found is None:
                ambiguous += bool(runs) and not at  # of the others the file says so itself
                runs.append(alone)
                continue
            ambiguous += not found.is_certain
            runs[-1].add(alone, found.shift)
    return runs, ambiguous


def over_lines(chains: Iterable[list[Joined]], bits: int, count: int = 1) -> tuple[list[Joined], Clocks]:
    """The runs of a flow on all hosts, and which clocks differ by how many ns."""
    merged: list[Joined] = []
    clocks: Clocks = {}
    for one in sorted((run for chain in chains for run in chain), key=lambda run: (run.first_time, run.pieces[0][0])):
        line = one.pieces[0][0]
        others = [run for run in merged if all(line != other for other, _ in run.pieces)]
        fits = [(run, found) for run in others if (found := fit(run, one, bits, OTHER_CLOCK, count)) is not None]
        if not fits:
            merged.append(one)
            continue
        run, best = min(fits, key=lambda pair: (abs(pair[1].ahead), -pair[0].last_time))
        if abs(best.ahead) >= FAR_OFF:
            names = line[0], run.pieces[0][0][0]
            clocks[names] = max(clocks.get(names, 0), best.ahead, key=abs)
        run.add(one, best.shift)
    return merged, clocks
