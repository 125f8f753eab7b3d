"""Several legs of one feed become one, on the standard library: the twin of fast/arbiter.pxi and c/arbiter.c."""

import _thread
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from mcast_fast._core import process
from mcast_fast._core.extraction import FeedRow, Kind, LegRow, Plan, Turn
from mcast_fast._core.layout import FIELDS, RECORD
from mcast_fast._core.pure.arbiter_feed import Feed
from mcast_fast._core.pure.arbiter_run import Arrival, Row, State
from mcast_fast._core.pure.flow import LATEST_CLOCK
from mcast_fast._core.pure.payloads import read
from mcast_fast._core.pure.views import Batch, Packet, take_over
from mcast_fast.errors import ClosedError

_TURN_BYTES, _TURN_PACKETS = 16 << 20, 1 << 16  # of a batch, and of packets that one turn looks at
_CLOCK_STEP = 1_000_000_000  # ns: what goes back by more is a clock that was set
_NEVER = 2**63 - 1
_NAMES = [one.name for one in FIELDS]
_TIME, _GROUP, _PORT, _INTERFACE, _OFFSET = map(_NAMES.index, ("timestamp", "group", "port", "interface", "offset"))


class _PairError(Exception):
    """A leg has packets of a second group, and none was named."""


@dataclass(slots=True)
class _Leg:
    """What a leg has delivered, and up to when nothing else will come from it."""

    rows: list[Packet] = field(default_factory=list)
    at: int = 0
    quiet_until: int = 0
    taken: int = 0
    last: int = 0
    pairings: dict[tuple[bytes, int], int] = field(default_factory=dict)
    renamed: dict[int, int] = field(default_factory=dict)
    only: tuple[bytes, int] | None = None

    def head_time(self) -> int:
        """When its next packet came; where it has none, up to when none will."""
        if self.at == len(self.rows):
            return self.quiet_until
        return self.rows[self.at]._row[_TIME] or self.last

    def channel(self, group: bytes, port: int) -> int | None:
        """The channel of a packet; None: it is of no group that was named."""
        if self.pairings:
            exact = self.pairings.get((group, port))
            return self.pairings.get((group, 0)) if exact is None else exact
        if self.only is None:
            self.only = group, port
        if self.only != (group, port):
            raise _PairError
        return 0


class Arbiter:
    """Decides for each number which leg's packet is delivered. `hold` in ns; `kept_limit` in bytes."""

    def __init__(self, plan: Plan, legs: int, hold: int, in_order: bool, limit: int, kept_limit: int) -> None:
        self._plan = plan
        self._state = State(plan.bits, legs, hold, in_order, kept_limit)
        self._limit = limit
        self._legs = [_Leg() for _ in range(legs)]
        self._feeds: list[Feed] = []
        self._keys: list[tuple[int, bytes]] = []
        self._places: dict[tuple[int, bytes], int] = {}
        self._used: list[bool] = []
        self._hand = 0
        self._last_time = 0
        self._made: dict[int, Batch] = {}  # of what is decided; 0: the one that is not taken yet
        self._process = process.number
        self._lock = threading.RLock()

    # ---- legs ----

    def pair(self, leg: int, rows: Sequence[tuple[bytes, int, int]]) -> None:
        """Give a leg its groups: (address, port or 0 for any, channel)."""
        self._legs[leg].pairings = {(group, port): channel for group, port, channel in rows}

    def wants(self, leg: int) -> bool:
        """Whether the leg has no packets left."""
        return self._legs[leg].at == len(self._legs[leg].rows)

    def feed(self, leg: int, packets: Batch, renamed: dict[int, int]) -> None:
        """Give the packets of a leg that has none left; `renamed`: its interfaces that have another number here."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        one = self._legs[leg]
        one.renamed = renamed
        rows = list(packets)
        quiet = max((packet._row[_TIME] for packet in rows[-1:]), default=0) or one.last
        with self._lock:
            one.rows, one.at, one.quiet_until = rows, 0, quiet

    def quiet(self, leg: int, until: int | None) -> None:
        """Nothing comes from the leg that arrived before `until` (ns since the epoch; None: ever)."""
        one = self._legs[leg]
        one.quiet_until = _NEVER if until is None else max(until, one.quiet_until)

    def next_group(self, leg: int) -> tuple[bytes, int]:
        """Where the leg's next packet was sent to."""
        one = self._legs[leg]
        row = one.rows[one.at]._row
        return row[_GROUP], row[_PORT]

    # ---- packets ----

    def turn(self) -> int:
        """Take packets in the order of arrival until a leg has none left whose next one might be earlier: a Turn."""
        return self._undisturbed(self._turn)

    def flush(self) -> None:
        """Charge and deliver everything now."""
        self._undisturbed(self._flush)

    def _undisturbed(self, call: Callable[[], int]) -> int:
        """The result of a call that no signal handler interrupts: those run in the main thread, and this call in
        another one. What a handler raises meanwhile is raised when the call has ended."""
        self._check_process()
        if threading.current_thread() is not threading.main_thread():
            with self._lock:
                return call()
        started: list[int] = []  # noted in the call that starts it: no signal comes between
        ended = _thread.allocate_lock()
        outcome: list[int | BaseException] = []
        ended.acquire()

        def run() -> None:
            try:
                with self._lock:
                    outcome.append(call())
            except BaseException as error:
                outcome.append(error)
            finally:
                ended.release()

        interrupted: BaseException | None = None
        while not outcome:
            try:
                if not started:
                    started.extend(map(_thread.start_new_thread, (run,), ((),)))
                ended.acquire()
            except BaseException as error:
                if not started:
                    raise
                interrupted = error
        if interrupted is not None:
            raise interrupted
        (result,) = outcome
        if isinstance(result, BaseException):
            raise result
        return result

    def _turn(self) -> int:
        for _ in range(_TURN_PACKETS):
            at = self._first_leg()
            if at is None:
                self._pass_time(min(leg.head_time() for leg in self._legs))
                for feed in self._feeds:
                    feed.pass_time()
                return Turn.WAITS
            try:
                self._take(at)
            except _PairError:
                return Turn.UNPAIRED + at
            if self._state.out_bytes >= _TURN_BYTES:
                break
        return Turn.ENOUGH

    def _first_leg(self) -> int | None:
        """The leg whose next packet came first, or that with fewer of them so far; None: one has none, and its next one
        may be earlier."""
        heads = [(leg.head_time(), leg.taken, at) for at, leg in enumerate(self._legs) if leg.at < len(leg.rows)]
        quiet = min((leg.quiet_until for leg in self._legs if leg.at == len(leg.rows)), default=_NEVER)
        if not heads or (first := min(heads))[0] > quiet:
            return None
        return first[2]

    def _take(self, at: int) -> None:
        leg, ledger = self._legs[at], self._state.legs[at]
        packet = leg.rows[leg.at]
        row: Row = packet._row
        payload = packet.view
        numbered = read(self._plan, payload)
        if numbered.kind in (Kind.SHORT, Kind.OTHER):
            ledger.unnumbered += 1
            self._arrive(row[_TIME])
        else:
            channel = leg.channel(row[_GROUP], row[_PORT])  # type: ignore[arg-type]
            self._arrive(row[_TIME])
            if channel is None:
                ledger.unpaired += 1
            else:
                feed = self._feed((channel, numbered.key))
                moved = leg.renamed.get(row[_INTERFACE], row[_INTERFACE])
                row = (*row[:_INTERFACE], moved, *row[_INTERFACE + 1 :])
                feed.take(Arrival(row, bytes(payload), at), numbered)
                ledger.heartbeats += numbered.kind != Kind.DATA
                ledger.last_time = row[_TIME] or ledger.last_time
        ledger.packets += 1
        leg.at += 1
        leg.taken += 1
        leg.last = row[_TIME] or leg.last

    def _pass_time(self, time: int) -> None:
        """The clock adds up the steps forwards of the times of arrival: one that is set back stands still."""
        if time in (0, _NEVER):
            return
        state = self._state
        step = 0 if self._last_time == 0 else time - self._last_time
        state.clock += max(0, min(step, LATEST_CLOCK - state.clock))
        if self._last_time == 0 or step > 0 or step < -_CLOCK_STEP:
            self._last_time = time

    def _arrive(self, time: int) -> None:
        self._pass_time(time)
        self._state.arrival = self._state.clock - (self._last_time - time if time else 0)

    def _feed(self, key: tuple[int, bytes]) -> Feed:
        place = self._places.get(key)
        if place is not None:
            self._used[place] = True
            return self._feeds[place]
        fresh = Feed(self._state, len(self._legs))
        if len(self._feeds) < self._limit:
            place = len(self._feeds)
            self._feeds.append(fresh)
            self._keys.append(key)
            self._used.append(True)
        else:
            place = self._evict()
            self._feeds[place], self._keys[place], self._used[place] = fresh, key, True
        self._places[key] = place
        return fresh

    def _evict(self) -> int:
        """The place of a flow that was silent since the hand came by last: it gives way."""
        while self._used[self._hand]:
            self._used[self._hand] = False
            self._hand = (self._hand + 1) % self._limit
        place = self._hand
        gone = self._feeds[place]
        gone.settle()
        if gone.current is not None:
            gone.current.end(gone.legs)
        del self._places[self._keys[place]]
        self._state.feed.evicted += 1
        self._hand = (place + 1) % self._limit
        return place

    def _flush(self) -> int:
        for feed in self._feeds:
            feed.settle()
        return Turn.WAITS

    # ---- what is decided ----

    @property
    def count(self) -> int:
        """Packets that are decided, and not taken."""
        return len(self._state.out) + sum(map(len, self._made.values()))

    def take(self, names: dict[int, str], into: list[Batch]) -> None:
        """Move what is decided to a list, as a batch."""
        self._check_process()
        with self._lock:
            if not self._made:
                batch = self._batch(names)
                # Nothing is called in between, so that no signal handler comes.
                self._made, self._state.out, self._state.out_bytes = {0: batch}, [], 0
            into.extend(map(self._made.pop, (0,)))

    def _batch(self, names: dict[int, str]) -> Batch:
        records, data = bytearray(), bytearray()
        for packet in self._state.out:
            row = packet.row
            records += RECORD.pack(*row[:_OFFSET], len(data), *row[_OFFSET + 1 :])
            data += packet.payload
        return take_over(records, data, names)

    def due(self) -> int:
        """ns until something is due by the clock, when no packet comes; -1: nothing is."""
        with self._lock:
            state = self._state
            runs = [run for feed in self._feeds for run in (feed.current, feed.old) if run is not None]
            starts = [
                run.start if run.floor == run.next else run.slots[run.floor].time
                for run in runs
                if run.floor != run.next or run.starting
            ]
            return max(0, min(starts) + state.hold - state.clock) if starts else -1

    def counters(self) -> tuple[FeedRow, list[LegRow], list[int]]:
        """The ledger of the feed, those of the legs, and the skew in the buckets of lateness.py."""
        self._check_process()
        with self._lock:
            feed = self._state.feed.__dict__ | {"flows": len(self._feeds), "last_time": self._last_time}
            legs = [LegRow(**one.__dict__) for one in self._state.legs]
            return FeedRow(**feed), legs, list(self._state.skew)

    def _check_process(self) -> None:
        if self._process != process.number:
            raise ClosedError("the arbiter was made in another process")
