"""Assembler: a feed as frames of packets, each payload in the row of its number.

Rules of this module: no I/O; packets are read and copied in `_core`, which comes here once for each frame that begins
or is whole, and for packets that belong to none.
"""

import threading
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core.extraction import FlowName, FramePlan, Place, Reason, Stop
from mcast_fast._core.layout import MAX_PACKET_SIZE, RECORD
from mcast_fast._units import NANOSECONDS, Seconds, wait_in_ns, whole_number
from mcast_fast.errors import ArgumentError
from mcast_fast.sequence._flow_frames import FlowFrames, Frame, Rule
from mcast_fast.sequence._format import Field, Format
from mcast_fast.sequence._placement import body_of, check_rows

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

_MOST_ROWS = 1 << 24
_LARGEST_FRAME = 1 << 32  # bytes
_MOST_PENDING, _MOST_FLOWS = 64, 256
_LONGEST_WINDOW = 3600 * NANOSECONDS
_NEVER = (1 << 63) - 1
_BY_RTP = "u32be@4,u8@1&0x80=1"  # RFC 3550, 5.1: the timestamp, and the marker, which ends a video frame (RFC 4175)


def _frame_fields(by: str | None) -> tuple[Place | None, Place | None, int]:
    """What names a frame, what its last packet has, and the value; ArgumentError."""
    if by is None:
        return None, None, 0
    try:
        name, comma, test = (_BY_RTP if by == "rtp" else by).partition(",")
        field, _, value = test.rpartition("=")
        named = [Field.parse(text) for text in ((name, field) if comma else (name,))]
        places = [one.place for one in named]
        if not all(place.mask for place in places):
            raise ArgumentError("a frame is named by integers, not by bytes")
        marked = int(value, 0) if comma else 0
        if comma and not 0 <= marked < 1 << named[1].bits:
            raise ArgumentError(f"{field} never has the value {marked:#x}")
        return places[0], places[1] if comma else None, marked
    except (ArgumentError, AttributeError, ValueError) as error:
        raise ArgumentError(
            f"by {by!r} does not name frames: {error}; give rtp, or FIELD[,FIELD=VALUE] such as {_BY_RTP}: what all "
            "packets of a frame have in common, and what the last one has"
        ) from error


class Assembler:
    """Turns a feed into frames: arrays whose rows are the payloads of consecutive numbers, with what is missing.

        assembler = sequence.Assembler("vdif:25000", (25_000, 8192))         # a second of each thread
        for frame in assembler.frames(rx):
            samples = np.asarray(frame.data).view(np.int8)
            samples[~np.asarray(frame.present)] = 0                          # they are zeros anyway
            print(frame.number, frame.missing)

    Without `by`, a frame is as many numbers as it has rows: the seconds of VDIF, the heaps of SPEAD
    ("spead:PAYLOAD_BYTES"). With `by="rtp"` it is the packets with one RTP timestamp, up to the marker: a video frame
    of any number of packets up to the rows.

    Each flow has frames of its own, and gives them in the order of their numbers: a frame when it is whole, else when
    the window has passed since a later one began, or when more than `pending` are open. Time is that of arrival, so
    that a file gives the same frames as the live stream; without times only the number of open frames ends one. Memory
    is bounded: `max_flows` times (`pending` + 1) frames. Threads may share an assembler; their batches should come in
    the order of arrival.

    Args:
        format: A Format, or its text ("rtp").
        shape: Rows and bytes per row. A payload's body that is shorter leaves zeros, and counts in `Frame.short`; a
            longer one is left out, and counts in `Frame.too_long`.
        window: Seconds, or text ("100ms"), for which a frame waits for what it misses once a later one began.
        by: What names a frame in the payload: "rtp", or FIELD[,FIELD=VALUE], as in a format; the second is what the
            last packet of a frame has. None: the number.
        base: Without `by`: the number of the first row of any frame.
        body: Where a row begins in a payload, as for `place`.
        pending: Frames of a flow that are open at most.
        max_flows: Flows at most; to a new one gives way one that brought nothing for a window.

    Raises:
        ArgumentError: An argument is out of range, or no format.
    """

    __module__ = "mcast_fast.sequence"

    def __init__(
        self,
        format: str | Format,
        shape: tuple[int, int],
        window: Seconds = "1s",
        *,
        by: str | None = None,
        base: int = 0,
        body: int | str | None = None,
        pending: int = 4,
        max_flows: int = 16,
    ) -> None:
        self.format: Format = Format.parse(format)
        check_rows(self.format)
        try:
            rows, size = shape
        except (TypeError, ValueError):
            raise ArgumentError(f"shape {shape!r} is not (rows, bytes per row)") from None
        rows = whole_number(rows, "rows", 1, min(_MOST_ROWS, max(1, (1 << self.format.bits) // 4)))
        size = whole_number(size, "bytes per row", 1, MAX_PACKET_SIZE)
        if rows * size > _LARGEST_FRAME:
            raise ArgumentError(f"a frame of {rows:,} rows of {size:,} bytes is too large; use at most 4 GiB")
        wait = wait_in_ns(window, "window")
        if not 0 < wait <= _LONGEST_WINDOW:
            raise ArgumentError(f"window {window!r} is out of range; use more than 0, up to an hour")
        first = whole_number(base, "base", 0, (1 << self.format.bits) - 1)
        pending = whole_number(pending, "pending", 1, _MOST_PENDING)
        self._rule = Rule(None if by is not None else first, rows, size, wait, pending)
        self._max_flows = whole_number(max_flows, "max_flows", 1, _MOST_FLOWS)
        body_at, offset = body_of(self.format, body)
        plan = FramePlan(body_at, offset, self.format.source_port, *_frame_fields(by))
        self._placer = _core.placement.Placer(self.format.plan, plan)
        self._flows: dict[FlowName, FlowFrames] = {}
        self._ready: list[Frame] = []
        self._lock = threading.RLock()
        self._none_silent_until = 0  # ns: until then no flow can give way
        self._late = self._strays = self._restarts = self._other = self._ignored = 0

    @property
    def late(self) -> int:
        """Packets of frames that were finished, or that there was none of any more."""
        return self._late

    @property
    def strays(self) -> int:
        """Packets alone with a number far from all others."""
        return self._strays

    @property
    def restarts(self) -> int:
        """How often a flow went on with numbers far from those before."""
        return self._restarts

    @property
    def unplaced(self) -> int:
        """Packets that have no number or no body, or cover several numbers, and those of frames with too many rows."""
        return self._other

    @property
    def ignored(self) -> int:
        """Packets of more flows than `max_flows`."""
        return self._ignored

    def update(self, batch: "Batch") -> list[Frame]:
        """Take in the packets of a batch, in their order.

        Args:
            batch: A batch of a receiver or a file; a ring's is read in place.

        Returns:
            The frames that are finished.

        Raises:
            TypeError: It is no batch.
            MemoryError: There is no memory for a frame; what was finished before is returned by the next call.
        """
        with self._lock:
            self._take(batch)
            return self._finished()

    def frames(self, source: "Iterable[Batch]") -> Iterator[Frame]:
        """Go through the frames of a source, and at its end through those that are open.

        Args:
            source: A Receiver, a Reader or any other iterable of batches: `rx.batches(timeout=1)` ends when nothing
                comes any more.

        Yields:
            Each Frame when it is finished.

        Raises:
            What the source raises; what is open then is returned by `flush`.
        """
        for batch in source:
            yield from self.update(batch)
        yield from self.flush()

    def flush(self) -> list[Frame]:
        """Finish all frames, as they are.

        Returns:
            The frames that were open, those of each flow in their order.

        Raises:
            MemoryError: There is no memory for the objects that describe them; the next call has the others.
        """
        with self._lock:
            for flow in self._flows.values():
                self._ready += flow.finish_all()
            return self._finished()

    def _finished(self) -> list[Frame]:
        ready, self._ready = self._ready, []
        return ready

    def _take(self, batch: "Batch") -> None:
        at = 0
        while True:
            opened = [(flow, one) for flow in self._flows.values() for one in flow.open]
            frames = [one.core for _, one in opened]
            stop, other = self._placer.fill(batch, at, self._until(), frames)
            self._other += other
            if stop is None:
                return
            at = stop.at
            if stop.reason is Reason.TIME:
                self._pass_time(batch[at].timestamp or 0)
            elif stop.reason is Reason.OUTSIDE:
                at += not self._make_place(stop, batch)
            else:
                flow, one = opened[stop.frame]
                if stop.reason is Reason.MARKED:
                    flow.end_at(one, stop.number)
                self._ready += flow.finish_whole()

    def _until(self) -> int:
        return min((flow.deadline for flow in self._flows.values() if flow.deadline is not None), default=_NEVER)

    def _pass_time(self, now: int) -> None:
        for flow in self._flows.values():
            self._ready += flow.finish_due(now)

    def _make_place(self, stop: Stop, batch: "Batch") -> bool:
        """A packet belongs to no frame: whether it does now."""
        time = batch[stop.at].timestamp or 0
        flow = self._flows.get(stop.flow) or self._new_flow(stop.flow, time)
        if flow is None:
            self._ignored += 1
            return False
        position = flow.position_of(stop.number)
        if flow.is_far(position, time):
            return self._may_restart(flow, stop, batch, position)
        if flow.is_finished(position):
            self._late += 1
            return False
        self._strays += flow.forget_candidate()
        fits = flow.make_place(position, stop.id, time)
        self._ready += flow.finish_surplus()
        if fits is None:
            self._other += 1
        elif not (fits := fits and flow.holds(position)):
            self._late += 1
        return bool(fits)

    def _may_restart(self, flow: FlowFrames, stop: Stop, batch: "Batch", position: int) -> bool:
        """A number far from all others: two of them near each other begin a new run."""
        first = flow.confirmed_by(position)
        if first is None:
            self._strays += flow.forget_candidate()
            flow.candidate = position, _copy_of(batch, stop.at)
            return False
        self._ready += flow.finish_all()
        flow.begin_anew()
        self._restarts += 1
        self._take(first)
        return True

    def _new_flow(self, name: FlowName, time: int) -> FlowFrames | None:
        if len(self._flows) >= self._max_flows:
            if time <= self._none_silent_until:
                return None
            silent = [one for one, flow in self._flows.items() if flow.is_silent(time)]
            if not silent:
                self._none_silent_until = min(flow.gained for flow in self._flows.values()) + self._rule.window
                return None
            gone = self._flows.pop(silent[0])
            self._strays += gone.forget_candidate()
            self._ready += gone.finish_all()
        flow = FlowFrames(name, self.format, self._rule)
        self._flows[name] = flow
        return flow

    def __repr__(self) -> str:
        return f"<Assembler of {self.format}, frames of {self._rule.rows} rows of {self._rule.size} bytes>"


def _copy_of(batch: "Batch", at: int) -> "Batch":
    """One packet of a batch, with memory of its own: it may be kept for long."""
    values = list(RECORD.unpack(batch[at : at + 1].records.tobytes()))
    values[1] = 0  # its offset
    return _core.views.Batch.from_bytes(RECORD.pack(*values), batch[at].data, batch.names)
