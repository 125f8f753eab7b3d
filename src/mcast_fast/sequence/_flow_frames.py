"""The frames of one flow that are being filled: which of them a number belongs to, and when each is finished.

Rules of this module: no I/O. Positions are numbers that do not wrap.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mcast_fast import _core
from mcast_fast._core.addresses import plain_text
from mcast_fast._core.extraction import FlowName
from mcast_fast.sequence._format import Format

if TYPE_CHECKING:
    from mcast_fast._core.fast.placement import Frame as CoreFrame
    from mcast_fast._core.fast.views import Batch

_NEAR = 64  # numbers that a packet may be from another one of its run, beside the rows of a frame


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """Payloads of consecutive numbers as rows; `np.asarray` takes `data` and `present` without a copy.

    Attributes:
        number: Which frame it is: its first number divided by the rows of a frame, which goes on where numbers wrap;
            with `by`, the value that names it, such as the RTP timestamp.
        first: The number of its first row.
        data: Its rows, of the shape (rows, bytes per row); zeros where a packet is missing.
        present: Of each row, whether it is there.
        missing: Rows that are not.
        whole: Whether all are, and both its ends are known. With `by`, they are where its last packet and that of the
            frame before came, or nothing is missing between the frames.
        short: Rows that zeros fill up.
        duplicates: Packets that came again.
        too_long: Packets that were longer than a row.
        first_time: Arrival of its earliest packet, ns since the epoch; None = unknown.
        last_time: Arrival of its latest packet.
        source: The sender's address.
        source_port: The sender's port, where it names the flow.
        group: The group's address.
        port: The group's port.
        key: The format's key.
    """

    __module__ = "mcast_fast.sequence"

    number: int
    first: int
    data: memoryview
    present: "memoryview[bool]"
    missing: int
    whole: bool
    short: int
    duplicates: int
    too_long: int
    first_time: int | None
    last_time: int | None
    source: str
    source_port: int | None
    group: str
    port: int
    key: bytes

    def __repr__(self) -> str:
        return f"<Frame {self.number} of {len(self.present)} rows, {self.missing} missing>"


@dataclass(slots=True, eq=False)
class Opened:
    """A frame that is being filled, from a position on; whether it is known where it begins and ends."""

    core: "CoreFrame"
    position: int
    begins: bool
    ends: bool
    deadline: int | None = None  # a later frame began: until then it waits

    @property
    def end(self) -> int:
        """Behind its last row, or behind the last that is there where its end is not known."""
        return self.position + (self.core.count if self.ends else self.core.highest)


class Rule(NamedTuple):
    """What frames are: the number that one begins at (None: they are named), their shape, how long one waits (ns), and
    how many may be open."""

    base: int | None
    rows: int
    size: int
    window: int
    pending: int


class FlowFrames:
    """The frames of a flow in their order."""

    def __init__(self, name: FlowName, format: Format, rule: Rule) -> None:
        self._name, self._format, self._rule = name, format, rule
        self._rows, self._bits = rule.rows, format.bits
        self.open: list[Opened] = []
        self.begin_anew()
        self._gained = 0  # arrival of the latest packet in a frame that is finished, or of one that began a frame

    def begin_anew(self) -> None:
        """There is no number that others are near to, nor a frame."""
        self._boundary: int | None = None  # behind the last finished frame
        self._is_end = False  # whether that frame's end was known
        self._reference: int | None = None  # a position that others are told from
        self.candidate: tuple[int, Batch] | None = None

    # ---- numbers ----

    def position_of(self, number: int) -> int:
        """The position of a number, within half the range of those before."""
        if self._reference is None:
            self._reference = number
        half = 1 << self._bits - 1
        return self._reference + ((number - self._reference + half) % (2 * half)) - half

    def is_far(self, position: int, time: int) -> bool:
        """Whether it is so far from all frames that it takes another packet to believe it."""
        reach = max(self._rows * self._rule.pending, 2 * self._rows + _NEAR)
        first = self.open[0].position if self.open else self._boundary
        last = self.open[-1].position + self._rows if self.open else self._boundary
        if first is None or last is None:
            return False
        is_behind = first - position > max(self._rows, _NEAR)
        return position - last >= reach or (is_behind and (self._boundary is None or self.is_silent(time)))

    def is_silent(self, time: int) -> bool:
        """Whether no frame gained anything for a window."""
        return bool(time and self.gained) and time - self.gained > self._rule.window

    @property
    def gained(self) -> int:
        """Arrival of the latest packet that a frame has; 0: unknown."""
        return max([self._gained, *(one.core.last_time for one in self.open)])

    def is_finished(self, position: int) -> bool:
        """Whether its frame has been delivered."""
        return self._boundary is not None and position < self._boundary

    def holds(self, position: int) -> bool:
        """Whether it is in a frame that is open."""
        return any(0 <= position - one.position < one.core.count for one in self.open)

    def confirmed_by(self, position: int) -> "Batch | None":
        """The candidate's packet, where this one is near it."""
        if self.candidate is None or not 0 < abs(position - self.candidate[0]) < 2 * self._rows + _NEAR:
            return None
        return self.candidate[1]

    def forget_candidate(self) -> int:
        """How many there were."""
        had = self.candidate is not None
        self.candidate = None
        return int(had)

    # ---- frames that begin ----

    def make_place(self, position: int, id: int, time: int) -> bool | None:
        """The frame that a packet belongs to: whether there is one now; None: it has no row for it."""
        if self._rule.base is None:
            return self._make_named(position, id, time)
        start = position - (position - self._rule.base) % self._rows
        if self._boundary is not None and start < self._boundary:
            return False
        self._insert(sum(one.position < start for one in self.open), start, 0, time, begins=True, ends=True)
        return True

    def _make_named(self, position: int, id: int, time: int) -> bool | None:
        """It begins at this number, or before it."""
        for at, one in enumerate(self.open):
            if one.core.id == id:
                return self._begin_earlier(at, position)
        at = sum(one.position <= position for one in self.open)
        before = self.open[at - 1] if at else None
        boundary = before.end if before else self._boundary
        if boundary is not None and position < boundary:
            return False
        is_end = before.ends if before else self._is_end
        if before is not None and boundary == position and not is_end and before.core.highest:
            self._end(before, before.core.highest)  # nothing is missing between them
            is_end = True
        begins = is_end and boundary is not None and position - boundary < self._rows
        start = boundary if begins and boundary is not None else position
        self._insert(at, start, id, time, begins=begins, ends=False)
        return True

    def _begin_earlier(self, at: int, position: int) -> bool | None:
        one = self.open[at]
        if position >= one.position:
            return None
        boundary = self.open[at - 1].end if at else self._boundary
        rows = one.position - position
        if one.begins or (boundary is not None and position < boundary):
            return False
        if one.core.highest + rows > self._rows:
            return None
        self._move(one, position)
        return True

    def _move(self, one: Opened, position: int) -> None:
        one.core.begin_earlier(one.position - position, position % (1 << self._bits))
        one.position = position

    def _insert(self, at: int, start: int, id: int, time: int, *, begins: bool, ends: bool) -> None:
        core = _core.placement.Frame(self._rows, self._rule.size, self._name, start % (1 << self._bits), id)
        self.open.insert(at, Opened(core, start, begins, ends))
        if self._reference is None or start > self._reference:
            self._reference = start
        self._gained = max(self._gained, time)
        for one in self.open[:-1]:
            if one.deadline is None and time:
                one.deadline = time + self._rule.window

    # ---- frames that end ----

    def end_at(self, one: Opened, number: int) -> None:
        """A packet says that it is the last one of this frame."""
        rows = ((number - one.core.base) % (1 << self._bits)) + 1
        if one.ends or one.core.highest > rows:
            return  # another one said so, or is behind it
        self._end(one, rows)
        at = self.open.index(one) + 1
        if at == len(self.open) or self.open[at].begins:
            return
        following, end = self.open[at], one.position + rows
        if 0 <= following.position - end <= self._rows - following.core.highest:
            self._move(following, end)
            following.begins = True

    def _end(self, one: Opened, rows: int) -> None:
        one.core.end_after(rows)
        one.ends = True

    @property
    def deadline(self) -> int | None:
        """When the first frame is finished, whole or not; None: when others end it."""
        return min((one.deadline for one in self.open if one.deadline is not None), default=None)

    def finish_due(self, now: int) -> list[Frame]:
        """Frames that waited for long enough, and those before them."""
        due = [at for at, one in enumerate(self.open) if one.deadline is not None and one.deadline <= now]
        return [self._finish() for _ in range(max(due) + 1)] if due else []

    def finish_whole(self) -> list[Frame]:
        """Frames that miss nothing, from the first one on."""
        found = []
        while self.open and self._is_whole(self.open[0]):
            found.append(self._finish())
        return found

    def _is_whole(self, one: Opened) -> bool:
        is_first = self._boundary is None  # nothing shows where it begins
        return one.ends and one.core.placed == one.core.count and (one.begins or is_first)

    def finish_surplus(self) -> list[Frame]:
        """Frames beyond those that may be open."""
        return [self._finish() for _ in range(len(self.open) - self._rule.pending)] + self.finish_whole()

    def finish_all(self) -> list[Frame]:
        """All frames."""
        return [self._finish() for _ in range(len(self.open))]

    def _finish(self) -> Frame:
        one = self.open[0]
        core = one.core
        if not one.ends and len(self.open) > 1 and self.open[1].position == one.end:
            self._end(one, core.highest)
            self.open[1].begins = True
        rows, size = max(one.end - one.position, 1), self._rule.size  # 1: of a frame with nothing but what was too long
        end = one.end
        data, present = core.finish()
        frame = Frame(
            number=core.id if self._rule.base is None else (one.position - self._rule.base) // self._rows,
            first=one.position % (1 << self._bits),
            data=memoryview(data)[: rows * size].cast("B", (rows, size)),
            present=memoryview(present)[:rows].cast("?"),
            missing=rows - core.placed,
            whole=one.begins and one.ends and core.placed == rows,
            short=core.short_bodies,
            duplicates=core.duplicates,
            too_long=core.long_bodies,
            first_time=core.first_time or None,
            last_time=core.last_time or None,
            source=plain_text(self._name.source),
            source_port=self._name.source_port if self._format.source_port else None,
            group=plain_text(self._name.group),
            port=self._name.port,
            key=self._name.key[: self._format.key_size],
        )
        self._boundary, self._is_end = end, one.ends
        self._gained = max(self._gained, core.last_time)
        del self.open[0]
        return frame
