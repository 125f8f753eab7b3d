"""Follows the numbers of the packets of a file, and keeps which ones came: spans of each flow, by a Tracker's changes.

Positions are the numbers of changes and of rows unwrapped: going back from where a flow is behind a batch, which its
row says exactly, for a batch is shorter than half of the numbers' range.

Rules of this module: no I/O.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core.addresses import plain_text
from mcast_fast._core.extraction import ChangeRow, FlowRow, What
from mcast_fast._units import NANOSECONDS
from mcast_fast.cluster._runs import Anchor, FlowRuns, Run
from mcast_fast.cluster._spans import put, take
from mcast_fast.errors import ArgumentError
from mcast_fast.files._recorder import first_after
from mcast_fast.sequence._format import Format

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

WINDOW = NANOSECONDS
MOST_FLOWS = 4096
MOST_SPANS = 1 << 20  # gaps and runs of all flows together: beyond them the numbers are followed no more
MOST_ANCHORS = 128  # of a run, where the numbers' width does not need more
BATCH = 4096
ANCHOR_NS = NANOSECONDS  # between two looks at all flows

_PLACES = {what: place for place, what in enumerate(What)}
_STARTED, _GAP, _RESTARTED = _PLACES[What.STARTED], _PLACES[What.GAP], _PLACES[What.RESTARTED]
_COUNTED = {_STARTED, _GAP, _PLACES[What.REORDERED], _PLACES[What.LATE], _RESTARTED}
_Name = tuple[bytes, int, bytes, int, bytes]


@dataclass(slots=True)
class _Flow:
    """What is known of a flow."""

    runs: list[Run] = field(default_factory=list)
    earlier: int = 0  # numbers of the runs before the last one
    filled: tuple[int, int] = (0, 0)  # the gap, or the part of one, that was filled last
    ambiguous: int = 0


class Numbers:
    """Which numbers came, of all flows of packets of one format."""

    def __init__(self, format: Format) -> None:
        self._format = format
        self._bits = format.plan.bits
        self._lap = 1 << self._bits
        self._tracker = _core.sequence.Tracker(format.plan, format.source_port, WINDOW, MOST_FLOWS)
        self._flows: dict[_Name, _Flow] = defaultdict(_Flow)
        self._since = 0  # packets since the last look at all flows
        self._looked = 0  # time of arrival then
        self._often = max(64, min(8192, self._lap // 8))  # packets between two looks
        self._spans = 0

    @property
    def batch_size(self) -> int:
        """Packets in a batch at most: far fewer than half of the range of the numbers."""
        return min(BATCH, self._lap // 8)

    def add(self, batch: "Batch") -> None:
        """Take in a batch of at most `batch_size` packets; one that lasts for longer than a second, in parts.

        ArgumentError: there are more gaps than are kept."""
        self._looked = self._looked or batch[0].timestamp or 0
        while len(batch):
            last = batch[len(batch) - 1].timestamp or 0
            count = len(batch)
            if last - self._looked > ANCHOR_NS:
                count = max(1, min(count, first_after(batch, self._looked + ANCHOR_NS)))
            self._take(batch[:count] if count < len(batch) else batch)
            if self._spans > MOST_SPANS:
                raise ArgumentError(
                    f"more than {MOST_SPANS:,} gaps and restarts: numbers of {self._format} are left out"
                )
            batch = batch[count:]

    def _take(self, batch: "Batch") -> None:
        changes: dict[_Name, list[ChangeRow]] = defaultdict(list)
        for change in self._tracker.update(batch):
            if change.kind in _COUNTED:
                changes[change[1:6]].append(change)
        self._since += len(batch)
        last = batch[len(batch) - 1].timestamp or 0
        if not changes and self._since < self._often and last - self._looked < ANCHOR_NS // 2:
            return
        self._since, self._looked = 0, last
        for row in self._tracker.flows(0):
            self._look(row, changes.get(row[:5], []))

    def _look(self, row: FlowRow, changes: list[ChangeRow]) -> None:
        """See where a flow is now, and what changed in it since the last look."""
        if row[:5] not in self._flows and len(self._flows) >= MOST_FLOWS:
            return
        flow = self._flows[row[:5]]
        for change in changes:
            if change.kind == _STARTED:  # again, where it had given way to others
                flow.runs.append(_begun(change))
                flow.earlier = 0
        changes = [change for change in changes if change.kind != _STARTED]
        starts = [at for at, change in enumerate(changes) if change.kind == _RESTARTED]
        self._go_on(flow, row, [changes[begin:end] for begin, end in pairwise([0, *starts, len(changes)])])

    def _go_on(self, flow: _Flow, row: FlowRow, parts: list[list[ChangeRow]]) -> None:
        """The changes of the run that goes on, and those of each run that began since."""
        lengths = [0] * len(parts)
        progress = (row.last + 1 - row.first) % self._lap or (self._lap if row.received else 0)
        if len(parts) > 1:
            lengths[-1] = progress
            flow.ambiguous += len(parts) > 2  # of those in between nothing but changes says how long they were
        for at, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            if at:
                self._begin(flow, part[0])
                part = part[1:]
            run = flow.runs[-1]
            if at == len(parts) - 1:
                self._extend(run, row)
                run.next = run.first + (length if at else row.expected - flow.earlier)
                run.last_time = row.last_time
            elif at == 0:
                run.next = run.first + row.expected - progress - flow.earlier
            self._apply(flow, run, part)
            if at < len(parts) - 1:
                flow.earlier += run.next - run.first
        if len(parts) > 1:
            flow.earlier = row.expected - (flow.runs[-1].next - flow.runs[-1].first)
        self._anchor(flow.runs[-1])

    def _begin(self, flow: _Flow, change: ChangeRow) -> None:
        """A run begins; what its first packet seemed to fill of the run before is missing there."""
        before = flow.runs[-1]
        before.last_time = change.time
        first, end = flow.filled
        if first < end and (first - change.first) % self._lap == 0:
            put(before.gaps, first, end)
        flow.filled = 0, 0
        self._spans += 1
        flow.runs.append(_begun(change))

    def _extend(self, run: Run, row: FlowRow) -> None:
        """The first packets of a run came in another order: it begins earlier than it seemed."""
        back = (run.first - row.first) % self._lap
        if 0 < back < self._lap // 2:
            run.first -= back
            if run.anchors and run.anchors[0].position > run.first:
                run.anchors[0] = Anchor(run.first, run.anchors[0].time)

    def _apply(self, flow: _Flow, run: Run, changes: list[ChangeRow]) -> None:
        """Open and fill gaps: found going back from the run's end, done in the order in which they came."""
        reference, found = run.next, []
        for change in reversed(changes):
            behind = (reference - change.first) % self._lap or self._lap
            first = reference - behind
            end = first + (change.last - change.first) % self._lap + 1
            found.append((change, first, end))
            if change.kind == _GAP and first > run.first:
                reference = first
        for change, first, end in reversed(found):
            take(run.gaps, first, end)
            if change.kind == _GAP:
                put(run.gaps, first, end)
                run.times[end] = change.time
                self._spans += 1
            else:
                self._spans -= run.times.pop(end, None) is not None  # the gap before it is gone, or ends earlier
                flow.filled = first, end

    def _anchor(self, run: Run) -> None:
        """Note when it was where it is, unless that is near the last time."""
        last = run.anchors[-1]
        if run.next == last.position:
            return
        run.anchors.append(Anchor(run.next, max(run.last_time, last.time)))
        if len(run.anchors) > MOST_ANCHORS:
            run.anchors = thinned(run.anchors, self._lap // 4)

    def flows(self) -> list[FlowRuns]:
        """All flows, as they are behind the last batch."""
        found = []
        for row in self._tracker.flows(0):
            self._look(row, [])
            flow = self._flows.get(row[:5])
            if flow is None or not flow.runs:
                continue
            name = (
                plain_text(row.group),
                row.port,
                plain_text(row.source),
                row.source_port if self._format.source_port else None,
                row.key[: self._format.key_size].hex(),
            )
            runs = [run for run in flow.runs if run.first < run.next]
            found.append(
                FlowRuns(
                    name,
                    self._bits,
                    row.packets,
                    row.received,
                    row.strays,
                    flow.ambiguous + row.ambiguous,
                    row.first_time,
                    row.last_time,
                    runs,
                )
            )
        return found

    @property
    def unnumbered(self) -> int:
        """Packets without a number: too short for the format, or not of it."""
        totals = self._tracker.totals()
        return totals.short + totals.other

    @property
    def evicted(self) -> int:
        """Flows that gave way to new ones."""
        return self._tracker.totals().evicted


def _begun(change: ChangeRow) -> Run:
    """A run that has only begun."""
    return Run(change.first, change.first, change.time, change.time, [], [Anchor(change.first, change.time)])


def thinned(anchors: list[Anchor], widest: int) -> list[Anchor]:
    """Every second anchor, but for those without which two would be farther apart than `widest`."""
    found = [anchors[0]]
    for at in range(1, len(anchors) - 1):
        if at % 2 or anchors[at + 1].position - found[-1].position > widest:
            found.append(anchors[at])
    return [*found, anchors[-1]]
