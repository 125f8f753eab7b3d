"""Which run a packet of a leg belongs to, and when a sender began anew: the twin of c/arbiter_feed.c."""

from mcast_fast._core.extraction import MOST_COVERED, NEAR, Kind
from mcast_fast._core.pure.arbiter_run import SILENT, Arrival, LegFlow, Run, Stash, State
from mcast_fast._core.pure.flow import FASTEST_NS, MOST_AHEAD
from mcast_fast._core.pure.payloads import Numbered


class Feed:
    """One flow of all legs together. While a new run begins, the one before may still be there."""

    def __init__(self, state: State, legs: int) -> None:
        self.state = state
        self.legs = [LegFlow() for _ in range(legs)]
        self.current: Run | None = None
        self.old: Run | None = None

    def pass_time(self) -> None:
        """What is due by the clock."""
        if self.current is None:
            return
        if self.old is not None:
            if self.state.clock - self.current.start >= self.state.hold:
                self.old.end(self.legs)
                self.old = None
            else:
                self.old.pass_time(self.legs)
        self.current.pass_time(self.legs)

    def settle(self) -> None:
        """Everything is delivered and charged; what comes next goes on from there."""
        for leg in range(len(self.legs)):
            self._release(leg)
        if self.old is not None:
            self.old.end(self.legs)
            self.old = None
        if self.current is not None:
            self.current.settle(self.legs, self.current.next)

    # ---- numbers ----

    def _unwrap(self, number: int, near: int) -> int:
        """The position of a number that is the nearest one to another position: less than half the range away."""
        half = 1 << (self.state.bits - 1)
        return near + ((number - near + half) & ((1 << self.state.bits) - 1)) - half

    def _is_plausible(self, ahead: int, count: int, step: int) -> bool:
        """Whether a sender can have sent that number of packets in this time."""
        packets = NEAR + (step + self.state.hold) // FASTEST_NS
        return packets > MOST_AHEAD // count or ahead <= packets * count

    def _is_within(self, run: Run, number: int, count: int) -> bool:
        """Whether a number is among those that a run remembers, or near its end."""
        return run.tail <= self._unwrap(number, run.next) <= run.next + NEAR * count

    def _position_in_own(self, run: Run, leg: LegFlow, number: int) -> int:
        """The position of a number in the run of its leg: beside the leg's last one, unless it was silent while others
        went on by so much that only theirs can say."""
        half = 1 << (self.state.bits - 1)
        is_near = self.state.bits == 64 or leg.next >= run.next - (half - 1)
        near = leg.next if is_near or self.state.clock - leg.clock <= self.state.hold else run.next
        return self._unwrap(number, near)

    def _join(self, run: Run, leg: int, position: int) -> None:
        one = self.legs[leg]
        one.next = one.low = one.mark = position
        one.mark_clock = one.gained = self.state.clock
        one.behind = SILENT
        one.run = run
        if not run.members >> leg & 1:
            run.first_of[leg] = position
        run.members |= 1 << leg

    def _begin(self, number: int) -> Run:
        if self.old is not None:
            self.old.end(self.legs)
        self.old, self.current = self.current, Run(self.state, number, self.state.clock)
        return self.current

    # ---- what belongs to nothing ----

    def _count_outside(self, leg: int, count: int) -> None:
        self.state.legs[leg].received += count
        self.state.legs[leg].outside += count

    def _release(self, leg: int) -> None:
        """What waited as the first packet of a new run was none."""
        stash, self.legs[leg].stash = self.legs[leg].stash, None
        if stash is None:
            return
        if not stash.repeats:
            self._count_outside(leg, stash.count)
            return
        self.state.legs[leg].received += stash.count
        self.state.legs[leg].duplicates += stash.count
        self.state.feed.duplicates += stash.count

    def _is_near(self, stash: Stash, numbered: Numbered) -> bool:
        apart = abs(self._unwrap(numbered.number, stash.number) - stash.number)
        return 0 < apart < NEAR * numbered.count + stash.count

    def _suspect(self, packet: Arrival, numbered: Numbered, repeats: bool) -> None:
        """A packet that neither goes on nor is missing: the sender may have begun anew. Two in a row that are near each
        other say that it has."""
        stash = self.legs[packet.leg].stash
        if stash is not None and self._is_near(stash, numbered):
            self._restart(packet.leg, stash, numbered)
            self._take_numbers(packet, numbered)
            return
        self._release(packet.leg)
        self.legs[packet.leg].stash = Stash(packet, numbered.number, numbered.count, repeats, self.state.arrival)

    # ---- runs ----

    def _steps_back(self, run: Run, leg: int, position: int, end: int) -> bool:
        """Whether a packet in the run of its leg has nothing new from that leg, and is so old that the sender may have
        begun anew."""
        one = self.legs[leg]
        if run.next < end or (position >= one.low and self.state.clock - one.gained <= self.state.hold):
            return False
        return all(at < run.tail or run.has_brought(leg, at) for at in range(position, end))

    def _go_on(self, run: Run, leg: int, position: int, end: int) -> None:
        one, clock = self.legs[leg], self.state.clock
        was_silent = one.behind != SILENT and clock - one.behind >= self.state.silence
        one.clock = clock
        one.behind = SILENT
        if was_silent or position < run.first_of[leg]:  # behind a silence it begins again
            run.first_of[leg] = position
        if one.next < end:
            one.next = end
            one.gained = clock
        if clock - one.mark_clock >= self.state.hold:
            one.low, one.mark, one.mark_clock = one.mark, one.next, clock

    def _take(self, run: Run, packet: Arrival, numbered: Numbered, position: int, is_own: bool) -> None:
        """A packet of a leg in a run. `is_own`: it is the run that the leg is in."""
        leg, count = packet.leg, numbered.count
        end, step = position + count, self.state.clock - run.advanced
        if position >= run.next and not self._is_plausible(position - run.next, count, step):
            self._suspect(packet, numbered, False)
            return
        is_first = position < run.first and self._is_plausible(run.first - position, count, 0)
        if is_first and run.extend(position) and is_own:
            self.legs[leg].low = min(self.legs[leg].low, position)
        if is_own and self._steps_back(run, leg, position, end):
            self._suspect(packet, numbered, run.has_brought(leg, position))
            return
        self._release(leg)
        if run.next < end:
            run.advance(self.legs, leg, end)
        if is_own:
            self._go_on(run, leg, position, end)
        run.admit(packet, position, end)

    def _take_stashed(self, run: Run, leg: int, near: Numbered) -> None:
        """What was stashed belongs to this run, for the packet that is near it does."""
        stash = self.legs[leg].stash
        if stash is None or not self._is_near(stash, near):
            return
        position = self._unwrap(stash.number, run.next)
        self.legs[leg].stash = None
        self._join(run, leg, position)
        arrival, self.state.arrival = self.state.arrival, stash.arrival
        self._take(run, stash.packet, Numbered(stash.number, stash.count, b"", Kind.DATA), position, True)
        self.state.arrival = arrival

    def _restart(self, leg: int, stash: Stash, second: Numbered) -> None:
        """The sender began anew: what was stashed is its first packet."""
        run = self._begin(stash.number)
        self.state.feed.restarts += 1
        self.state.feed.ambiguous += 1
        self._take_stashed(run, leg, second)

    def _move(self, run: Run, packet: Arrival, numbered: Numbered) -> None:
        """A packet by which its leg comes into a run."""
        self._take_stashed(run, packet.leg, numbered)
        position = self._unwrap(numbered.number, run.next)
        if self.legs[packet.leg].run is not run:
            self._join(run, packet.leg, position)
        self._take(run, packet, numbered, position, True)

    def _take_in(self, packet: Arrival, numbered: Numbered) -> None:
        """A packet of a leg that is in no run."""
        one, run = self.legs[packet.leg], self.current
        number, count = numbered.number, numbered.count
        if run is None:
            run = self._begin(number)
        if one.run is not None and not self._is_within(run, number, count):
            own = self._unwrap(number, one.next)
            if abs(own - one.next) <= NEAR * count:  # of the run that is over: this leg is behind by more than `hold`
                self._release(packet.leg)
                one.next = own + count
                self._count_outside(packet.leg, count)
                return
        position = self._unwrap(number, run.next)
        if not self._is_plausible(abs(position - run.next), count, self.state.clock - run.advanced):
            self._suspect(packet, numbered, False)
            return
        self._move(run, packet, numbered)

    def _choose(self, own: Run, leg: int, numbered: Numbered) -> Run:
        """A packet while two runs are there, of a leg that is in `own`: the run that it belongs to."""
        one, other = self.legs[leg], self.old if own is self.current else self.current
        if other is None or not self._is_within(other, numbered.number, numbered.count):
            return own
        here = self._position_in_own(own, one, numbered.number)
        there = self._unwrap(numbered.number, other.next)
        if abs(here - one.next) > abs(there - other.next):
            return other
        repeats = own is self.old and own.has_brought(leg, here) and not other.has_brought(leg, there)
        return other if repeats else own

    def _take_numbers(self, packet: Arrival, numbered: Numbered) -> None:
        one = self.legs[packet.leg]
        own = one.run
        if own is None or own.over:
            self._take_in(packet, numbered)
            return
        run = self._choose(own, packet.leg, numbered)
        if run is own:
            self._take(own, packet, numbered, self._position_in_own(own, one, numbered.number), True)
            return
        if run is self.current:
            self._move(run, packet, numbered)
        else:
            self._take(run, packet, numbered, self._unwrap(numbered.number, run.next), False)

    def _take_heartbeat(self, leg: int, number: int) -> None:
        """A heartbeat, or the end: it has no number of its own, and shows what was sent before it."""
        one = self.legs[leg]
        run = one.run
        if run is None or run is not self.current:
            return
        position = self._position_in_own(run, one, number)
        one.clock = self.state.clock
        if position > run.next and self._is_plausible(position - run.next, 1, self.state.clock - run.advanced):
            run.advance(self.legs, leg, position)

    def take(self, packet: Arrival, numbered: Numbered) -> None:
        """A packet of this flow came."""
        self.pass_time()
        if numbered.kind != Kind.DATA:
            self._take_heartbeat(packet.leg, numbered.number)
        elif numbered.count > MOST_COVERED:
            self._count_outside(packet.leg, numbered.count)
        else:
            self._take_numbers(packet, numbered)
