"""Batches of files or receivers as the figures of a report.

Rules of this module: no I/O; packets are counted in `_core` and by whole columns.
"""

import itertools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from mcast_fast._core.addresses import plain_text
from mcast_fast._core.extraction import TICK_NS, FlowRow
from mcast_fast._report.figures import Figures, Flow, Shown, is_waiting
from mcast_fast._report.grid import Grid
from mcast_fast._report.losses import LOST, UNUSED_CHANGES, Losses, Place
from mcast_fast._report.packets import BYTES, DROPPED, PACKETS, Packets
from mcast_fast._units import NANOSECONDS
from mcast_fast.errors import FeatureError
from mcast_fast.monitor._monitor import AUTO, STALLED_AFTER, Monitor, is_recognised
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._format import Format
from mcast_fast.sequence._tracker import WINDOW, Tracker

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

MOST_STREAMS = 1024
_LATEST = 1 << 62  # of a monitor's clock
_WINDOW_NS = NANOSECONDS


class Collector:
    """Counts what comes of one file, or of one receiver.

    Args:
        grid: What all sources of a report count into.
        origin: The file; empty of groups.
        form: The format of the numbers, "auto" for RTP where it is recognised; None: no numbers.
        receiver: What is received from; None: a file, whose packets' times are the clock.
    """

    def __init__(self, grid: Grid, origin: str, form: str | None, receiver: Receiver | None = None) -> None:
        self.origin = origin
        self._now = 0
        self._grid = grid
        self._is_auto = form == AUTO
        self._is_file = receiver is None
        clock = self._clock if receiver is None else time.monotonic_ns
        self.monitor = Monitor(
            receiver, sequence=None, stalled_after=STALLED_AFTER, max_streams=MOST_STREAMS, clock=clock
        )
        self.format = None if form is None else Format.parse("rtp" if form == AUTO else form)
        self.tracker: Tracker | None = None
        self._losses: Losses | None = None
        self._rows: list[FlowRow] = []  # of the tracker, at the end
        if self.format is not None:
            self.tracker = Tracker(self.format, WINDOW, max_flows=MOST_STREAMS)
            self._losses = Losses(grid, self.format.plan.bits, _WINDOW_NS)
        self.packets = Packets(grid)

    def _clock(self) -> int:
        return self._now

    def add(self, batch: "Batch") -> None:
        """Count a batch."""
        self.packets.add(batch)
        if self._is_file:
            for now, part in self._parts(batch):
                self._now = max(self._now, min(now, _LATEST))
                self.monitor.add(part)
        else:
            self.monitor.add(batch)
        if self.tracker is not None and self._losses is not None:
            self._losses.add(self.tracker.core.update(batch, UNUSED_CHANGES))

    @staticmethod
    def _parts(batch: "Batch") -> Iterator[tuple[int, "Batch"]]:
        """A batch of a file in ticks of the monitor, each with its time, so that it sees silences within the batch."""
        start, end = batch[0].timestamp or 0, batch[-1].timestamp or 0
        if start // TICK_NS == end // TICK_NS:
            yield end, batch
            return
        import numpy

        times = numpy.maximum.accumulate(numpy.asarray(batch)["timestamp"])
        edges = [0, *(numpy.flatnonzero(numpy.diff(times // TICK_NS)) + 1).tolist(), len(times)]
        for start, end in itertools.pairwise(edges):
            yield int(times[end - 1]), batch[start:end]

    # ---- figures ----

    @property
    def evicted_lost(self) -> int:
        """Numbers lost by flows that gave way; 0 where any packet that looks like RTP makes a flow."""
        return 0 if self.tracker is None or self._is_auto else self.tracker.core.totals().evicted_lost

    def streams(self) -> Iterator[Shown]:
        """What came, also of memberships for which nothing did."""
        for one in self.monitor.streams():
            row = self.packets.rows.get(one.name)
            packets, size = ((), ()) if row is None else (self._grid.row(table, row) for table in (PACKETS, BYTES))
            yield Shown(one, self.origin, packets, size, row is not None)

    def end(self) -> None:
        """Nothing more comes: once, before the figures."""
        self.packets.flush()
        if self.tracker is not None and self._losses is not None:
            self._rows = [one for one in self.tracker.core.flows(0) if not self._is_auto or is_recognised(one)]
            self._losses.end(self._rows)

    def flows(self) -> list[Flow]:
        """The numbers of each source, port and group."""
        if self._losses is None:
            return []
        found: dict[Place, list[FlowRow]] = {}
        for one in self._rows:
            found.setdefault((one.source, one.port, one.group), []).append(one)
        return [self._flow(place, rows, self._losses) for place, rows in found.items()]

    def _flow(self, place: Place, rows: list[FlowRow], losses: Losses) -> Flow:
        source, port, group = place
        row = losses.row(place)

        def total(name: str) -> int:
            return sum(getattr(one, name) for one in rows)

        return Flow(
            plain_text(group),
            port,
            plain_text(source),
            self.origin,
            received=total("received"),
            expected=total("expected"),
            lost=total("lost") + total("pending"),
            duplicates=total("duplicates"),
            reordered=total("reordered"),
            restarts=total("restarts"),
            bursts=losses.bursts(place),
            series=() if row is None else self._grid.row(LOST, row),
        )


def new_grid() -> Grid:
    """A grid for a report; FeatureError where NumPy is missing."""
    try:
        return Grid()
    except ImportError:
        raise FeatureError("a report needs NumPy, which is not installed: pip install 'mcast-fast[numpy]'") from None


def figures_of(
    sources: Iterable[str],
    collectors: list[Collector],
    grid: Grid,
    *,
    dropped: dict[str, int | None],
    seconds: float | None = None,
    **more: Any,
) -> Figures:
    """The figures of all collectors, which are over.

    Args:
        sources: What was named.
        collectors: One per file or receiver.
        grid: What they counted into.
        dropped: Drops by cause.
        seconds: How long a live report received; None: files.
        more: Other fields of Figures.
    """
    for one in collectors:  # all, before any series is read: the bins may become wider
        one.end()
    flows = [flow for one in collectors for flow in one.flows()]
    shown = [stream for one in collectors for stream in one.streams()]
    came = [one for one in shown if not is_waiting(one.stream)]
    if more.get("legs") is None:  # else the legs stay in their order
        came.sort(key=lambda one: -one.stream.packets)
    first = min((one.packets.first for one in collectors if one.packets.first is not None), default=None)
    last = max((one.packets.last for one in collectors if one.packets.last is not None), default=None)
    sizes: dict[int, int] = {}
    for one in collectors:
        for size in one.packets.sizes.nonzero()[0].tolist():
            sizes[size] = sizes.get(size, 0) + int(one.packets.sizes[size])
    if seconds is None:
        seconds = 0.0 if first is None or last is None else (last - first) / NANOSECONDS
    return Figures(
        sources=tuple(sources),
        span=grid.span,
        first=first,
        last=last,
        seconds=seconds,
        streams=tuple(came),
        others=_others(collectors, grid),
        waiting=tuple(_waiting(one) for one in shown if is_waiting(one.stream)),
        flows=tuple(sorted(flows, key=lambda one: -one.lost)),
        form=str(collectors[0].format or "") if collectors else "",
        unnumbered=sum(one.tracker.unnumbered for one in collectors if one.tracker is not None),
        dropped=dropped,
        dropped_series=grid.row(DROPPED, 0),
        sizes=dict(sorted(sizes.items())),
        untimed=sum(one.packets.untimed for one in collectors),
        evicted_lost=sum(one.evicted_lost for one in collectors),
        **more,
    )


def _others(collectors: list[Collector], grid: Grid) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Packets and bytes per bin of what has no series of its own."""
    rows = [one.packets.others for one in collectors if one.packets.others is not None]

    def summed(table: str) -> tuple[int, ...]:
        return tuple(map(sum, zip(*(grid.row(table, row) for row in rows), strict=True)))

    return summed(PACKETS), summed(BYTES)


def _waiting(one: Shown) -> str:
    stream = one.stream
    group = f"[{stream.group}]" if ":" in stream.group else stream.group
    source = f"{stream.source}@" if stream.source else ""
    return f"{source}{group}:{stream.port}" + (f" on {stream.interface}" if stream.interface else "")
