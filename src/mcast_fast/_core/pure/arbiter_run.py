"""The numbers of one run, from a sender's start to its restart: the twin of c/arbiter_run.c.

Positions are numbers unwrapped; they are compared plainly where the C compares them modulo 2^64.
"""

from bisect import bisect_left, insort
from dataclasses import dataclass, field

from mcast_fast._core import lateness
from mcast_fast._core.extraction import ALL_POSITIONS, LEAST_POSITIONS, MOST_LEGS, MOST_POSITIONS, FeedRow, LegRow
from mcast_fast._core.layout import FIELDS, RECORD_SIZE, Flag
from mcast_fast._core.pure.flow import NOTABLE_SILENCE

SILENT = -1  # no moment
LEAST_SPAN = 16  # fewer numbers that are missing have a slot each
_FLAGS = [one.name for one in FIELDS].index("flags")

Row = tuple[int, ...]  # of a record


class Counters:
    """The fields of FeedRow or LegRow, as they are counted."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.__dict__.update(dict.fromkeys(names, 0))

    def __getattr__(self, name: str) -> int:
        raise AttributeError(name)

    def __setattr__(self, name: str, value: int) -> None:
        self.__dict__[name] = value


@dataclass(slots=True)
class Arrival:
    """A packet: the row of its record, its payload, and the leg that brought it."""

    row: Row
    payload: bytes
    leg: int


@dataclass(slots=True)
class Slot:
    """What became of a number, or of `count` numbers in a row of which none came."""

    time: int
    kept: Arrival | None = None
    legs: int = 0
    absent: int = 0
    leg: int = 0
    skipped: bool = False
    count: int = 1


@dataclass(slots=True)
class LegFlow:
    """A leg of a flow."""

    next: int = 0
    low: int = 0
    mark: int = 0
    mark_clock: int = 0
    clock: int = 0
    gained: int = 0
    behind: int = SILENT
    run: "Run | None" = None
    stash: "Stash | None" = None


@dataclass(slots=True)
class Stash:
    """A packet that may be the first after a restart: it waits for another one near it."""

    packet: Arrival
    number: int
    count: int
    repeats: bool
    arrival: int


class State:
    """What the runs of all flows share: the clock, the ledger, and what is decided."""

    def __init__(self, bits: int, legs: int, hold: int, in_order: bool, kept_limit: int) -> None:
        self.bits = bits
        self.hold = hold
        self.silence = self.remembered = max(1_000_000_000, 2 * hold)
        self.in_order = in_order
        self.kept_limit = kept_limit
        self.kept_bytes = 0
        self.positions = 0
        self.clock = 0
        self.arrival = 0
        self.out: list[Arrival] = []
        self.out_bytes = 0
        self.feed = Counters(FeedRow._fields)
        self.legs = [Counters(LegRow._fields) for _ in range(legs)]
        self.skew = [0] * lateness.BUCKETS

    def emit(self, packet: Arrival) -> None:
        """A packet is delivered."""
        self.out.append(packet)
        self.out_bytes += len(packet.payload)
        self.feed.packets += 1
        self.feed.bytes += len(packet.payload)
        self.feed.truncated += packet.row[_FLAGS] & Flag.TRUNCATED


def size_of(packet: Arrival) -> int:
    """What a packet that waits counts for."""
    return RECORD_SIZE + len(packet.payload)


@dataclass(slots=True, eq=False)
class Run:
    """first <= tail <= floor <= head <= next: below them, what is unknown, forgotten, charged, and delivered."""

    state: State
    first: int
    start: int
    next: int = 0
    tail: int = 0
    floor: int = 0
    head: int = 0
    advanced: int = 0
    mark_clock: int = 0
    low_clock: int = 0
    mark: int = 0
    low: int = 0
    members: int = 0
    starting: bool = True
    wide: bool = False
    over: bool = False
    first_of: list[int] = field(default_factory=lambda: [0] * MOST_LEGS)
    slots: dict[int, Slot] = field(default_factory=dict)
    spans: list[int] = field(default_factory=list)  # the first numbers of slots of many, in order

    def __post_init__(self) -> None:
        self.next = self.tail = self.floor = self.head = self.low = self.mark = self.first
        self.advanced = self.mark_clock = self.low_clock = self.start

    def _limit(self) -> int:
        """How many numbers of this run may be remembered."""
        others = self.state.positions - (self.next - self.tail)
        return max(LEAST_POSITIONS, min(MOST_POSITIONS, ALL_POSITIONS - others))

    def has_brought(self, leg: int, position: int) -> bool:
        """Whether the leg has brought this number, as far as it is remembered."""
        slot = self.slots.get(position)
        return slot is not None and bool(slot.legs >> leg & 1)

    # ---- slots: tail, floor and head are never inside of a span ----

    def _put(self, first: int, end: int, like: Slot) -> None:
        """Numbers of which none came have this slot: one for all, so that a jump costs no more than a step; few have
        one each, so that the spans are few."""
        count = end - first
        if count >= LEAST_SPAN:
            self.slots[first] = Slot(like.time, absent=like.absent, skipped=like.skipped, count=count)
            insort(self.spans, first)
            return
        for position in range(first, end):
            self.slots[position] = Slot(like.time, absent=like.absent, skipped=like.skipped)

    def _cut(self, position: int) -> None:
        """No span has this number and the one before it."""
        at = bisect_left(self.spans, position) - 1
        if at < 0 or position >= (end := self.spans[at] + self.slots[self.spans[at]].count):
            return
        first = self.spans.pop(at)
        slot = self.slots.pop(first)
        self._put(first, position, slot)
        self._put(position, end, slot)

    def _own_slot(self, position: int) -> Slot:
        """The slot of this number alone."""
        slot = self.slots.get(position)
        if slot is not None and slot.count == 1:
            return slot
        self._cut(position)
        self._cut(position + 1)
        return self.slots[position]

    # ---- delivering ----

    def _deliver(self) -> None:
        feed = self.state.feed
        while self.head != self.next:
            slot = self.slots[self.head]
            if not slot.legs:
                return
            if slot.kept is not None:
                self.state.emit(slot.kept)
                self.state.kept_bytes -= size_of(slot.kept)
                slot.kept = None
            self.head += 1
            feed.held -= 1
            feed.delivered += 1
            feed.pending -= 1

    def _skip(self) -> None:
        slot = self.slots[self.head]
        slot.skipped = True
        self.head += slot.count
        self.state.feed.unrecovered += slot.count
        self.state.feed.pending -= slot.count

    # ---- charging ----

    def _was_absent(self, legs: list[LegFlow], leg: int, position: int, due: int) -> bool:
        """Whether a leg was not there for a number: it has not begun, or was silent when the number was due."""
        if not self.members >> leg & 1 or position < self.first_of[leg]:
            return True
        one = legs[leg]
        return one.run is self and one.behind != SILENT and due - one.behind >= self.state.silence

    def _charge(self, legs: list[LegFlow]) -> None:
        """The slot at the floor. A span has an end where a leg begins: the leg is absent for what is before."""
        state, position = self.state, self.floor
        if self.slots[position].count > 1:
            for first in self.first_of[: len(legs)]:
                self._cut(max(first, position))
        slot = self.slots[position]
        count = slot.count
        self.floor += count
        if not slot.legs and not state.in_order:
            slot.skipped = True
            state.feed.unrecovered += count
            state.feed.pending -= count
        for leg, ledger in enumerate(state.legs):
            if slot.legs >> leg & 1:
                continue
            ledger.pending -= count
            if self._was_absent(legs, leg, position, slot.time + state.hold):
                ledger.absent += count
                slot.absent |= 1 << leg
                continue
            ledger.lost += count
            ledger.covered += bool(slot.legs) and not slot.skipped

    def _take_back(self, slot: Slot, leg: int) -> None:
        """The leg brought what it was charged for."""
        ledger = self.state.legs[leg]
        ledger.late += 1
        if slot.absent >> leg & 1:
            slot.absent &= ~(1 << leg)
            ledger.absent -= 1
            return
        ledger.lost -= 1
        ledger.covered -= bool(slot.legs) and not slot.skipped

    def settle(self, legs: list[LegFlow], end: int) -> None:
        """Everything below `end` is delivered and charged."""
        self.starting = False
        self._cut(end)
        if self.state.in_order:
            self._deliver()
            while self.head < end:
                self._skip()
                self._deliver()
        while self.floor < end:
            self._charge(legs)

    def _forget(self, tail: int) -> None:
        self._cut(tail)
        self.state.positions -= tail - self.tail
        while self.tail < tail:
            self.tail += self.slots.pop(self.tail).count
        if self.spans and self.spans[0] < tail:
            del self.spans[: bisect_left(self.spans, tail)]

    def pass_time(self, legs: list[LegFlow]) -> None:
        """What is due by the clock."""
        state, clock = self.state, self.state.clock
        if self.starting and clock - self.start >= state.hold:
            self.starting = False
            if state.in_order:
                self._deliver()
        while self.floor != self.next:
            slot = self.slots[self.floor]
            if clock - slot.time < state.hold:
                break
            if state.in_order and self.head == self.floor:
                if not slot.legs:
                    self._skip()
                self._deliver()
            self._charge(legs)
        tail = self.tail
        while tail != self.floor and clock - self.slots[tail].time >= state.remembered:
            tail += self.slots[tail].count
        self._forget(tail)

    def end(self, legs: list[LegFlow]) -> None:
        """The run is over."""
        self.settle(legs, self.next)
        self._forget(self.next)
        self.over = True

    # ---- numbers ----

    def _charge_all(self, legs: list[LegFlow], first: int, count: int) -> None:
        """Numbers that are too many to be remembered, and missing on all legs."""
        for leg, ledger in enumerate(self.state.legs):
            if self._was_absent(legs, leg, first, self.state.clock):
                ledger.absent += count
            else:
                ledger.lost += count
        self.state.feed.unrecovered += count
        self.state.feed.expected += count

    def _is_ambiguous(self) -> bool:
        """Whether the silence was so long that, at the rate before it, the number may have come half around."""
        step, spent = self.state.clock - self.advanced, self.advanced - self.low_clock
        if self.state.bits >= 64 or step < NOTABLE_SILENCE or spent <= 0:
            return False
        return float(step) * float(self.next - self.low) >= float(1 << (self.state.bits - 1)) * float(spent)

    def _open(self, first: int, end: int) -> None:
        """The numbers were sent, and none of them has come yet."""
        self._put(first, end, Slot(self.state.arrival))
        count = end - first
        for ledger in self.state.legs:
            ledger.pending += count
        self.state.feed.expected += count
        self.state.feed.pending += count
        self.state.positions += count

    def advance(self, legs: list[LegFlow], leg: int, end: int) -> None:
        """Numbers up to `end` were sent."""
        state, limit, tail = self.state, self._limit(), self.tail
        tail = max(tail, end - limit)
        state.feed.ambiguous += self._is_ambiguous()
        if tail != self.tail:
            settled = min(tail, self.next)
            if self.floor < settled:
                self.settle(legs, settled)
            self._forget(settled)
            if settled != tail:
                self._charge_all(legs, settled, tail - settled)
                self.tail = self.floor = self.head = self.next = tail
        self._open(self.next, end)
        self.next = end
        self.advanced = state.clock
        if state.clock - self.mark_clock >= state.hold:
            self.low, self.low_clock = self.mark, self.mark_clock
            self.mark, self.mark_clock = self.next, state.clock
        for at, other in enumerate(legs):
            if at != leg and other.run is self and other.behind == SILENT:
                other.behind = state.clock
        if state.bits < 64:
            wide = self.next - self.floor > 1 << (state.bits - 1)
            state.feed.ambiguous += wide and not self.wide
            self.wide = wide

    def extend(self, position: int) -> bool:
        """The run begins at an earlier number; False where it may not."""
        if not self.starting or not self.tail == self.floor == self.first or self.next - position > self._limit():
            return False
        self._open(position, self.first)
        self.low, self.mark = min(self.low, position), min(self.mark, position)
        self.first = self.tail = self.floor = self.head = position
        return True

    # ---- packets ----

    def _note_skew(self, slot: Slot, leg: int) -> None:
        state = self.state
        skew = state.arrival - slot.time
        if slot.leg == leg:
            return
        if skew < 0:  # it came earlier, and is looked at later
            state.legs[slot.leg].first -= 1
            state.legs[leg].first += 1
            slot.leg, slot.time = leg, state.arrival
            skew = -skew
        state.skew[lateness.bucket_of(skew)] += 1
        state.feed.skew_max = max(state.feed.skew_max, skew)

    def _come_late(self, slot: Slot, leg: int) -> bool:
        """A number that no leg had brought, after it was given up; whether it is delivered all the same."""
        feed = self.state.feed
        if self.state.in_order:
            feed.late += 1
            return False
        slot.skipped = False
        feed.unrecovered -= 1
        feed.delivered += 1
        for other, ledger in enumerate(self.state.legs):
            ledger.covered += other != leg and not slot.absent >> other & 1
        return True

    def _admit_number(self, leg: int, position: int) -> bool:
        """One number of a packet; whether the packet is the one to be delivered for it."""
        state, slot, bit = self.state, self._own_slot(position), 1 << leg
        ledger, feed, is_new = state.legs[leg], state.feed, False
        if slot.legs & bit:
            ledger.duplicates += 1
            feed.duplicates += 1
            return False
        if position < self.floor:
            self._take_back(slot, leg)
        else:
            ledger.pending -= 1
        if slot.legs:
            feed.duplicates += 1
            self._note_skew(slot, leg)
        else:
            if slot.skipped:
                is_new = self._come_late(slot, leg)
            else:
                is_new = True
                if state.in_order:
                    feed.held += 1
                else:
                    feed.delivered += 1
                    feed.pending -= 1
            slot.leg, slot.time = leg, state.arrival
            ledger.first += 1
        slot.legs |= bit
        return is_new

    def _overflow(self) -> None:
        """Packets that wait have too much memory: what they wait for is given up."""
        state = self.state
        state.feed.overflows += 1
        self.starting = False
        self._deliver()
        while self.head != self.next and state.kept_bytes > state.kept_limit:
            self._skip()
            self._deliver()

    def admit(self, packet: Arrival, position: int, end: int) -> None:
        """A packet brought the numbers [position, end), which are below `next`."""
        state, ledger = self.state, self.state.legs[packet.leg]
        ledger.received += end - position
        forgotten = max(0, min(self.tail, end) - position)
        ledger.outside += forgotten
        new = [at for at in range(position + forgotten, end) if self._admit_number(packet.leg, at)]
        if not new:
            return
        if not state.in_order:
            state.emit(packet)
        elif self.starting or new[0] != self.head:
            self.slots[new[0]].kept = packet
            state.kept_bytes += size_of(packet)
            if state.kept_bytes > state.kept_limit:
                self._overflow()
        else:
            state.emit(packet)
            self._deliver()
