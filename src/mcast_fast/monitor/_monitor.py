"""Monitor: rates and states of streams, from batches.

Rules of this module: no I/O; packets are counted in `_core`.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from mcast_fast import _core
from mcast_fast._core.addresses import address_text, interface_text, plain_text
from mcast_fast._core.extraction import FlowRow, StreamRow
from mcast_fast._units import NANOSECONDS, Seconds, checked, checked_call, duration_in_ns, whole_number
from mcast_fast.errors import ArgumentError, ClosedError
from mcast_fast.monitor._stream import OTHER, Stream, StreamState
from mcast_fast.monitor._wire import Wire
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._format import Format
from mcast_fast.sequence._tracker import WINDOW, Tracker

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

STALLED_AFTER = "1s"
MOST_STREAMS = 4096
AUTO = "auto"
LARGEST_TABLE = 1 << 20  # streams
_LONGEST_SILENCE = 3600 * NANOSECONDS
_RESTARTED_FOR = 5 * NANOSECONDS
# Memberships are not asked for more often: the system is, for each. Nor for more than 1 / (1 + _PAUSE) of the time.
_MEMBERSHIPS_FOR = NANOSECONDS
_PAUSE = 200
_RECOGNISED_BY = 16  # numbers that came, and no less than half of those that were expected

Numbers = tuple[int, int, int, int, int]  # lost, duplicates, reordered, restarts, late
FlowPlace = tuple[bytes, int, bytes]  # source, port, group
NO_NUMBERS = (None, None, None, None, None)

Key = tuple[bytes, int, bytes, int]  # group, port, source, interface, as `_core` has them
Name = tuple[str, int, str | None, str | None]


class _Wanted(NamedTuple):
    """A membership whose stream is waited for."""

    group: str
    port: int
    source: str | None
    interface: str | None


class Monitor:
    """Counts the packets of each stream, and shows what each does now.

        monitor = Monitor(rx)
        for batch in rx:
            monitor.add(batch)
        for stream in monitor.streams():
            print(stream.group, stream.state, stream.packets_per_second, stream.lost)

    A stream is what comes from one source to one group and port on one interface. A batch costs one call, and no
    Python per packet. Memory is bounded: of more than twice `max_streams` streams, those with the fewest packets are
    added up in the row OTHER. Threads may share a monitor: one adds batches, another one looks.

    Silences and rates go by the time at which batches are added, gaps by the packets' own times of arrival.

    Args:
        receiver: A Receiver, whose memberships are shown as `waiting` as long as nothing comes for them; or a Wire.
        sequence: The Format by which numbers in the packets show loss, or its text. "auto" recognises RTP: a stream
            has numbers once 16 of its packets follow each other as RTP's do. None: no numbers.
        stalled_after: Seconds, or text ("1s"), up to an hour, after which a stream is `stalled`.
        max_streams: Streams that are shown at most.
        clock: What the time is, as a call that gives ns, which do not decrease, from 0 to 2^62. A capture file's
            times may take its place.

    Raises:
        ArgumentError: An argument is out of range, or no format.
    """

    __module__ = "mcast_fast.monitor"

    def __init__(
        self,
        receiver: Receiver | Wire | None = None,
        *,
        sequence: str | Format | None = AUTO,
        stalled_after: Seconds = STALLED_AFTER,
        max_streams: int = MOST_STREAMS,
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        if receiver is not None:
            checked(receiver, Receiver | Wire, "receiver", "a Receiver, or a Wire")
        self._receiver = receiver
        self._stalled_after = duration_in_ns(stalled_after, "stalled_after")
        if not 0 < self._stalled_after <= _LONGEST_SILENCE:
            raise ArgumentError(f"stalled_after {stalled_after!r} is out of range; use more than 0, up to an hour")
        self._most = whole_number(max_streams, "max_streams", 1, LARGEST_TABLE)
        self._clock = checked_call(clock, "clock")
        self._recognises = sequence == AUTO
        self._format = None if sequence is None else Format.parse("rtp" if sequence == AUTO else sequence)
        self._wanted: tuple[_Wanted, ...] = ()
        self._wanted_again = 0  # when to ask, by the clock
        self._names: dict[int, str] = {}
        self._latest_names: dict[int, str] | None = None
        self.reset()

    @property
    def receiver(self) -> Receiver | Wire | None:
        """What it was made with."""
        return self._receiver

    def reset(self) -> None:
        """Begin anew: no stream is known any more."""
        self._table = _core.monitor.StreamTable(self._most, self._stalled_after)
        self._tracker = None if self._format is None else Tracker(self._format, WINDOW, max_flows=self._most)
        self._known: dict[Key, Name] = {}  # what the system called a stream when it was seen first
        self._keys: dict[Name, Key] = {}

    def add(self, batch: "Batch") -> None:
        """Count the packets of a batch.

        Args:
            batch: A batch of a receiver or a file; of a ring's no payload is copied.

        Raises:
            TypeError: It is no batch.
            ClosedError: Another process made the monitor.
        """
        self._table.add(batch, self._clock())
        if self._tracker is not None:
            self._tracker.core.note(batch, object())
        if batch.names is not self._latest_names:
            self._latest_names = batch.names
            self._names = self._names | batch.names

    def streams(self) -> tuple[Stream, ...]:
        """What each stream does now.

        Returns:
            A Stream each, in the order they began; then memberships for which nothing came, `waiting`; last, where
            the table was too small, the row OTHER.

        Raises:
            ClosedError: Another process made the monitor.
        """
        now = self._clock()
        rows, others = self._table.rows(now)
        numbers = self._numbers(now)
        shown = [self._stream(row, now, numbers) for row in rows]
        shown += [Stream(*one, StreamState.WAITING) for one in self._waited_for(shown, now)]
        if others is not None:
            named = (OTHER, 0, None, None)
            shown.append(self._row(named, others, now, NO_NUMBERS, restarted=False))
        return tuple(shown)

    def history(self, stream: Stream) -> tuple[tuple[int, int], ...]:
        """What came of a stream in each of the last 30 seconds.

        Args:
            stream: A row of `streams()`.

        Returns:
            (packets, bytes) per second, the latest last; zeros before it began, and where it is not known (OTHER).

        Raises:
            ClosedError: Another process made the monitor.
        """
        group, port, source, interface = self._keys.get(stream.name, (bytes(16), 0, bytes(16), 0))
        return tuple(self._table.history(group, port, source, interface, self._clock()))

    # ---- rows ----

    def _stream(self, row: StreamRow, now: int, numbers: dict[FlowPlace, tuple[Numbers, bool]]) -> Stream:
        name = self._known.get(row[:4]) or self._name(row)
        figures, restarted = numbers.get((row.source, row.port, row.group), (NO_NUMBERS, False))
        return self._row(name, row, now, figures, restarted)

    def _name(self, row: StreamRow) -> Name:
        """The name of a stream, as the batches had it, kept: an interface may go."""
        if len(self._known) > 2 * self._most:
            self._known, self._keys = {}, {}
        interface = interface_text(row.interface, self._names) or None
        source = address_text(row.source, row.interface, self._names)
        name = plain_text(row.group), row.port, source, interface
        self._known[row[:4]], self._keys[name] = name, row[:4]
        return name

    def _row(
        self,
        name: Name,
        row: StreamRow,
        now: int,
        numbers: Numbers | tuple[None, None, None, None, None],
        restarted: bool,
    ) -> Stream:
        lost, duplicates, reordered, restarts, late = numbers
        silent = max(0, now - row.seen)
        stalled = silent >= self._stalled_after
        if stalled:
            state = StreamState.STALLED
        elif restarted or (row.silences and now - row.resumed < _RESTARTED_FOR and name[0] != OTHER):
            state = StreamState.RESTARTED
        else:
            state = StreamState.RECEIVING
        return Stream(
            *name,
            state,
            row.packets,
            row.bytes,
            0 if stalled else row.rate_packets,
            0 if stalled else 8 * row.rate_bytes,
            row.smallest,
            row.largest,
            row.truncated,
            row.largest_gap,
            row.largest_gap_at,
            row.gaps,
            row.first_time,
            row.last_time,
            silent,
            row.silences,
            None if lost is None or self._format is None else str(self._format),
            lost,
            duplicates,
            reordered,
            restarts,
            late,
            row.gap_sum,
        )

    # ---- numbers ----

    def _numbers(self, now: int) -> dict[FlowPlace, tuple[Numbers, bool]]:
        """The figures of each source, port and group, and whether its numbers began anew a few seconds ago."""
        if self._tracker is None:
            return {}
        found: dict[FlowPlace, tuple[Numbers, bool]] = {}
        for flow in self._tracker.core.flows(0):
            if not self._recognises or is_recognised(flow):
                place = flow.source, flow.port, flow.group
                figures = flow.lost, flow.duplicates, flow.reordered, flow.restarts, flow.late
                restarted = 0 <= flow.since_restart < _RESTARTED_FOR
                if place in found:
                    before, has_restarted = found[place]
                    lost, duplicates, reordered, restarts, late = map(sum, zip(before, figures, strict=True))
                    figures, restarted = (lost, duplicates, reordered, restarts, late), restarted or has_restarted
                found[place] = figures, restarted
        return found

    # ---- memberships ----

    def _waited_for(self, shown: list[Stream], now: int) -> Iterator[_Wanted]:
        """Memberships for which nothing came."""
        came = {part for one in shown for part in _covers(one)}
        for one in self._memberships(now):
            if one not in came and one._replace(interface=None) not in came:
                yield one

    def _memberships(self, now: int) -> tuple[_Wanted, ...]:
        """Of the receiver, as they were a second ago, or longer where there are many; of one that was closed, as they
        were before."""
        receiver = self._receiver
        if receiver is None or receiver.closed:
            return self._wanted
        if now >= self._wanted_again:
            began = time.thread_time_ns()
            with contextlib.suppress(ClosedError):  # meanwhile
                self._wanted = tuple(
                    _Wanted(one.group, one.port, source, one.interface)
                    for one in receiver.memberships
                    for source in ((one.mode == "include" and one.sources) or (None,))
                )
            self._wanted_again = now + max(_MEMBERSHIPS_FOR, _PAUSE * (time.thread_time_ns() - began))
        return self._wanted

    def __repr__(self) -> str:
        rows, others = self._table.rows(self._clock())
        return f"<Monitor of {len(rows)} streams{' and others' if others else ''}>"


def missing(watch: Monitor) -> int:
    """Numbers that are missing by now, for however short a time; where a format was named, also of flows that gave way
    to others."""
    tracker, recognises = watch._tracker, watch._recognises
    if tracker is None:
        return 0
    missed = sum(one.lost + one.pending for one in tracker.core.flows(0) if not recognises or is_recognised(one))
    return missed + (0 if recognises else tracker.core.totals().evicted_lost)


def is_recognised(flow: FlowRow) -> bool:
    """Whether its numbers follow each other, as those of a stream of the format do and other bytes do not."""
    came = flow.received - flow.duplicates
    return came >= _RECOGNISED_BY and 2 * came >= flow.expected


def _covers(stream: Stream) -> tuple[_Wanted, _Wanted]:
    """The memberships that this stream is of: of any source, and of its own."""
    group, port, source, interface = stream.name
    return _Wanted(group, port, None, interface), _Wanted(group, port, source, interface)
