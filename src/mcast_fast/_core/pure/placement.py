"""Payloads in rows by their numbers, on the standard library: the twin of fast/placement.pxi and c/placement.c."""

import struct
from collections.abc import Sequence
from typing import Any

from mcast_fast._core.extraction import KEY_SIZE, BodyStart, FlowName, FramePlan, Kind, Place, Plan, Reason, Stop
from mcast_fast._core.layout import FIELDS, RECORD, RECORD_SIZE
from mcast_fast._core.pure.payloads import Numbered, read, rtp_size, value_of
from mcast_fast._core.pure.views import Batch
from mcast_fast._core.rows import writable_rows

_NAMES = [one.name for one in FIELDS]
_TIME, _OFFSET, _LENGTH, _SOURCE, _GROUP, _SOURCE_PORT, _PORT = map(
    _NAMES.index, ("timestamp", "offset", "length", "source", "group", "source_port", "port")
)
_PLACED, _DUPLICATE, _LONG, _OTHER = range(4)  # what became of a packet


def _body(plan: FramePlan, payload: memoryview) -> memoryview | None:
    """What of a payload is a row; None: it has none. Without the padding of RTP (RFC 3550, 5.1)."""
    start, end = 0, len(payload)
    if plan.body is BodyStart.BEHIND_RTP:
        start = rtp_size(payload)
        if start > end:
            return None
        if payload[0] & 0x20:
            padding = payload[end - 1]
            if not 0 < padding <= end - start:
                return None
            end -= padding
    elif plan.body is BodyStart.BEHIND_SPEAD:
        if end < 8:
            return None
        start = 8 + 8 * int.from_bytes(payload[6:8], "big")
    elif plan.body is BodyStart.BEHIND_VDIF:  # VDIF 1.1.1: bit 30 of the first word, which is little-endian
        if end < 4:
            return None
        start = 16 if payload[3] & 0x40 else 32
    start += plan.body_offset
    return payload[start:end] if start <= end else None


class _Rows:
    """Rows of bytes and their presence."""

    def __init__(self, rows: memoryview | bytearray, present: memoryview | bytearray, size: int) -> None:
        self.rows = rows
        self.present = memoryview(present).cast("B") if isinstance(present, bytearray) else present
        self.size = size
        self._row = struct.Struct(f"{size}s")  # which pads with zeros
        self._byte = struct.Struct("?")
        self.placed = self.duplicates = self.short_bodies = self.long_bodies = 0

    def put(self, body: memoryview | None, row: int) -> int:
        """Copies a body into its row, unless that is taken."""
        if body is None:
            return _OTHER
        if len(body) > self.size:
            self.long_bodies += 1
            return _LONG
        if self._byte.unpack_from(self.present, row)[0]:
            self.duplicates += 1
            return _DUPLICATE
        self._row.pack_into(self.rows, row * self.size, bytes(body))
        self._byte.pack_into(self.present, row, True)
        self.short_bodies += len(body) < self.size
        self.placed += 1
        return _PLACED


class Frame(_Rows):
    """Rows of a flow, from the number `base` on. Its memory is its own until `finish` gives it away."""

    def __init__(self, rows: int, size: int, flow: FlowName, base: int, id: int) -> None:
        if not (1 <= rows <= 0x7FFFFFFF and 1 <= size <= 0xFFFF):
            raise ValueError("a frame has rows, of a size, that memory can hold")
        self._memory: tuple[bytearray, bytearray] | None = (bytearray(rows * size), bytearray(rows))
        super().__init__(*self._memory, size)
        self.flow = flow
        self.base, self.id = base, id
        self.capacity = self.count = rows
        self.highest = self.first_time = self.last_time = 0

    def end_after(self, rows: int) -> None:
        """Has this number of rows from now on; ValueError where it has not as many, or others are there."""
        if self._memory is None or not self.highest <= rows <= self.capacity:
            raise ValueError("the frame has other rows")
        self.count = rows

    def begin_earlier(self, rows: int, base: int) -> None:
        """The first row becomes that of the number `base`, which is `rows` before."""
        if self._memory is None or rows > self.capacity - self.highest:
            raise ValueError("the frame has no place for these rows")
        data = self._memory[0]
        with memoryview(data) as moved:
            moved[rows * self.size : (rows + self.highest) * self.size] = bytes(moved[: self.highest * self.size])
        self.present[rows : rows + self.highest] = bytes(self.present[: self.highest])
        self.present[:rows] = bytes(rows)
        self.highest += rows
        self.base = base
        self.count = min(self.capacity, self.count + rows)

    def finish(self) -> tuple[bytearray, bytearray]:
        """(rows, presence) as bytearrays; zeros where nothing is there. It takes in no more."""
        if self._memory is None:
            raise ValueError("the frame is finished")
        data, present = self._memory
        self._memory = None
        self.count = 0  # no packet is in it any more
        self.present.release()
        for row, there in enumerate(present):
            if not there:
                data[row * self.size : (row + 1) * self.size] = bytes(self.size)
        self.rows = self.present = memoryview(b"")
        return data, present

    def note_time(self, time: int) -> None:
        """A packet that is there arrived."""
        if time:
            self.first_time = min(self.first_time or time, time)
            self.last_time = max(self.last_time, time)


class Placer:
    """Copies payloads of one format into rows; it has no state, and threads may share it."""

    def __init__(self, plan: Plan, frames: FramePlan) -> None:
        self._plan, self._frames = plan, frames
        self._mask = (1 << plan.bits) - 1

    def place(self, packets: Batch, into: Any, present: Any, base: int, key: bytes | None) -> tuple[int, ...]:
        """Copies the bodies of a batch into rows; the tallies of c/placement.h in its order.

        The first dimension of `into` is the rows, and `present` has a byte for each. A key of bytes, or None: any.
        ArgumentError where a buffer does not fit, TypeError."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        rows, mask, count = writable_rows(into, present)
        frame = _Rows(rows, mask, rows.nbytes // count)
        padded = None if key is None else key.ljust(KEY_SIZE, b"\0")
        below = above = other = 0
        for packet in packets:
            payload = packet.view
            one = read(self._plan, payload)
            row = (one.number - base) & self._mask
            if not _is_row(one) or (padded is not None and one.key != padded):
                other += 1
            elif row >= count:
                behind = row > self._mask >> 1
                below, above = below + behind, above + (not behind)
            else:
                other += frame.put(_body(self._frames, payload), row) == _OTHER
        return frame.placed, frame.duplicates, below, above, frame.long_bodies, other, frame.short_bodies

    def fill(self, packets: Batch, start: int, until: int, frames: Sequence[Frame]) -> tuple[Stop | None, int]:
        """Places packets from `start` on into Frames that they belong to.

        (the Stop, or None after the last packet; packets that have no number or body, or cover several numbers)"""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        other = 0
        with memoryview(packets._arena) as arena:
            for at in range(start, len(packets)):
                row = RECORD.unpack_from(packets._records, (packets._first + at) * RECORD_SIZE)
                with arena[row[_OFFSET] : row[_OFFSET] + row[_LENGTH]] as payload:
                    result, stop = self._fill_one(at, row, payload, until, frames)
                other += result == _OTHER
                if stop is not None:
                    return stop, other
        return None, other

    def _fill_one(
        self, at: int, row: tuple[Any, ...], payload: memoryview, until: int, frames: Sequence[Frame]
    ) -> tuple[int, Stop | None]:
        one = read(self._plan, payload)
        number = one.number & self._mask
        source_port = row[_SOURCE_PORT] if self._frames.by_source_port else 0
        flow = FlowName(row[_SOURCE], source_port, row[_GROUP], row[_PORT], one.key)
        id = _value(self._frames.id, payload)

        def stop(reason: Reason, at: int, frame: int = 0) -> Stop:
            return Stop(reason, at, frame, number, id or 0, flow)

        if row[_TIME] >= until:
            return _DUPLICATE, stop(Reason.TIME, at)
        if not _is_row(one) or id is None:
            return _OTHER, None
        at_frame = (
            i
            for i, frame in enumerate(frames)
            if frame.id == id and frame.flow == flow and (number - frame.base) & self._mask < frame.count
        )
        i = next(at_frame, -1)
        if i < 0:
            return _DUPLICATE, stop(Reason.OUTSIDE, at)
        frame = frames[i]
        place = (number - frame.base) & self._mask
        result = frame.put(_body(self._frames, payload), place)
        if result != _PLACED:
            return result, None
        frame.highest = max(frame.highest, place + 1)
        frame.note_time(row[_TIME])
        marker = self._frames.marker
        if marker is not None and _value(marker, payload) == self._frames.marked:
            return result, stop(Reason.MARKED, at + 1, i)
        return result, stop(Reason.WHOLE, at + 1, i) if frame.placed == frame.count else None


def _is_row(one: Numbered) -> bool:
    """Whether a packet has one number of its own."""
    return one.kind is Kind.DATA and one.count == 1


def _value(place: Place | None, payload: memoryview) -> int | None:
    """The integer at a place; 0 where none is wanted, None where the payload ends before it does."""
    return 0 if place is None else value_of(place, payload)
