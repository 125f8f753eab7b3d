"""Numbers of packets, and their flows, on the standard library: the twin of fast/sequence.pxi and c/tracker.c."""

import threading
from array import array
from copy import copy
from dataclasses import dataclass, field, replace
from operator import itemgetter
from typing import Any

from mcast_fast._core import process
from mcast_fast._core.extraction import ChangeRow, Columns, FlowRow, Kind, Layout, Plan, Totals, What, as_columns
from mcast_fast._core.layout import FIELDS, RECORD, RECORD_SIZE
from mcast_fast._core.pure.flow import LATEST_CLOCK, Flow, ignore
from mcast_fast._core.pure.payloads import Numbered, read
from mcast_fast._core.pure.views import Batch
from mcast_fast.errors import ClosedError

_NAMES = [one.name for one in FIELDS]
_WHERE = itemgetter(*(_NAMES.index(name) for name in ("source", "source_port", "group", "port")))
_TIME, _OFFSET, _LENGTH = (_NAMES.index(name) for name in ("timestamp", "offset", "length"))
_PLACES = {what: i for i, what in enumerate(What)}

FlowKey = tuple[bytes, int, bytes, int, bytes]  # source, its port or 0, group, port, key


def columns_of(packets: Batch, plan: Plan) -> Columns:
    """What each packet of a batch is to a sequence, as `extraction.Columns`; of a ring's batch without a copy."""
    if not isinstance(packets, Batch):
        raise TypeError(f"a batch is required, not {type(packets).__name__}")
    found = [read(plan, packet.view) for packet in packets]
    return as_columns(
        array("Q", (one.number for one in found)).tobytes(),
        array("I", (one.count for one in found)).tobytes(),
        b"".join(one.key for one in found),
        bytes(one.kind for one in found),
    )


@dataclass(slots=True)
class _State:
    """What a tracker knows. The one in force is never changed: a batch changes a copy, which is put in force whole."""

    flows: list[tuple[FlowKey, Flow]] = field(default_factory=list)
    places: dict[FlowKey, int] = field(default_factory=dict)
    used: list[bool] = field(default_factory=list)  # since the hand of the eviction passed
    hand: int = 0
    totals: Totals = field(default_factory=lambda: Totals(0, 0, 0, 0, 0))
    token: object = None  # of what was taken in last
    own: set[int] = field(default_factory=set)  # places of flows that are no longer those of the state before

    def copy(self) -> "_State":
        return replace(self, flows=list(self.flows), places=dict(self.places), used=list(self.used), own=set())

    def count(self, **more: int) -> None:
        """Adds to the totals."""
        self.totals = self.totals._replace(**{name: getattr(self.totals, name) + one for name, one in more.items()})


class Tracker:
    """Follows the flows of packets of one format; at most `limit` of them. `window` in ns."""

    def __init__(self, plan: Plan, source_port: bool, window: int, limit: int) -> None:
        if window <= 0 or limit <= 0:
            raise ValueError("a window and a limit are more than 0")
        self._plan = plan
        self._by_source_port = source_port
        self._window = window
        self._limit = limit
        self._mask = (1 << plan.bits) - 1
        self._state = _State()
        self._process = process.number
        self._lock = threading.RLock()

    def update(self, packets: Batch, left_out: int = 0) -> list[ChangeRow]:
        """Takes in a batch; what changed, without kinds whose bit is in `left_out`.

        TypeError, and ClosedError in another process than the one that made it."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        self._check_process()
        changes: list[ChangeRow] = []
        first = packets._first * RECORD_SIZE
        with self._lock:
            records = packets._records[first : first + len(packets) * RECORD_SIZE]
            self.take(records, packets._arena, 0, object(), changes)
        return [one for one in changes if not left_out >> one.kind & 1]

    def note(self, packets: Batch, token: object) -> None:
        """Takes in a batch, unless the one before had this token: so that an interrupted call can be repeated.

        Errors as `update`."""
        if not isinstance(packets, Batch):
            raise TypeError(f"a batch is required, not {type(packets).__name__}")
        self._check_process()
        first = packets._first * RECORD_SIZE
        records = packets._records[first : first + len(packets) * RECORD_SIZE]
        with self._lock:
            self.take(records, packets._arena, 0, token, [])

    def take(
        self, records: bytearray, arena: bytes | bytearray, base: int, token: object, changes: list[ChangeRow]
    ) -> None:
        """Takes in records whose payloads are in the arena, `base` bytes before their offsets; unless the last ones had
        this token. All of them or, where the handler of a signal raises, none."""
        while True:
            before = self._state
            if before.token is token:
                return
            state = before.copy()
            state.token = token
            changes.clear()
            with memoryview(arena) as payloads:
                for row in RECORD.iter_unpack(records):
                    start = row[_OFFSET] - base
                    with payloads[start : start + row[_LENGTH]] as payload:
                        packet = read(self._plan, payload)
                    self._take_one(state, row, packet, changes)
            if self._state is before:  # else the handler of a signal took some in meanwhile
                self._state = state
                return

    def _take_one(self, state: _State, row: tuple[Any, ...], packet: Numbered, changes: list[ChangeRow]) -> None:
        if packet.kind == Kind.SHORT:
            state.count(short=1)
        elif packet.kind == Kind.OTHER:
            state.count(other=1)
        else:
            source, source_port, group, port = _WHERE(row)
            key = source, source_port if self._by_source_port else 0, group, port, packet.key
            if packet.kind == Kind.END and self._plan.layout is Layout.SPEAD:
                self._end_flows(state, key, row, changes)
                return
            self._see(state, key, packet, row, changes)

    def _end_flows(self, state: _State, key: FlowKey, row: tuple[Any, ...], changes: list[ChangeRow]) -> None:
        """A sender says that all of its flows to this group have ended: of those that are known."""
        for name, flow in list(state.flows):
            if name[:4] == key[:4]:
                used = state.used[state.places[name]]
                self._see(state, name, Numbered(flow.next, 0, name[4], Kind.END), row, changes)
                state.used[state.places[name]] = used

    def _see(
        self, state: _State, key: FlowKey, packet: Numbered, row: tuple[Any, ...], changes: list[ChangeRow]
    ) -> None:
        def report(what: What, first: int, end: int) -> None:
            numbers = first & self._mask, (end - 1) & self._mask
            changes.append(ChangeRow(_PLACES[what], *key, *numbers, row[_TIME]))

        flow = self._flow(state, key)
        flow.report = report
        flow.see(packet, row[_TIME])
        flow.report = ignore

    def _flow(self, state: _State, key: FlowKey) -> Flow:
        """The flow of this key, which is the state's own."""
        place = state.places.get(key)
        if place is None:
            return self._new_flow(state, key)
        state.used[place] = True
        if place not in state.own:
            state.own.add(place)
            flow = copy(state.flows[place][1])
            flow.gaps = list(flow.gaps)
            flow.candidate = copy(flow.candidate)
            state.flows[place] = key, flow
        return state.flows[place][1]

    def _new_flow(self, state: _State, key: FlowKey) -> Flow:
        flow = Flow(self._plan.bits, self._window)
        if len(state.flows) < self._limit:
            place = len(state.flows)
            state.flows.append((key, flow))
            state.used.append(True)
        else:
            while state.used[state.hand]:
                state.used[state.hand] = False
                state.hand = (state.hand + 1) % self._limit
            place = state.hand
            before, gone = state.flows[place]
            del state.places[before]
            state.count(evicted=1, evicted_expected=gone.expected, evicted_lost=gone.lost + gone.pending)
            state.flows[place] = key, flow
            state.used[place] = True
            state.hand = (place + 1) % self._limit
        state.places[key] = place
        state.own.add(place)
        return flow

    def flows(self, now: int) -> list[FlowRow]:
        """Each flow as it is at `now` (ns since the epoch; 0: at its last packet), in the order of their places.

        What was pending for longer than the window counts as lost; the flow itself waits for its next packet."""
        self._check_process()
        return [self._row(key, flow, now) for key, flow in self._state.flows]

    def _row(self, key: FlowKey, flow: Flow, now: int) -> FlowRow:
        view = copy(flow)  # with the same gaps, which stay as they are
        if 0 < flow.last_time < now:
            view.clock = min(flow.clock + now - flow.last_time, LATEST_CLOCK)
        view.charge_what_is_over()
        return FlowRow(
            *key,
            received=view.received,
            expected=view.expected,
            lost=view.lost,
            pending=view.pending,
            duplicates=view.duplicates,
            reordered=view.reordered,
            depth=view.depth,
            late=view.late,
            burst=view.burst,
            restarts=view.restarts,
            ambiguous=view.ambiguous,
            strays=view.strays,
            packets=view.packets,
            first=view.first & self._mask,
            last=(view.next - 1) & self._mask,
            first_time=view.first_time,
            last_time=view.last_time,
            ended=view.ended,
            silent=view.clock - flow.clock,
            since_restart=view.clock - view.restarted_at if view.restarted_at >= 0 else -1,
        )

    def totals(self) -> Totals:
        """Packets that no flow has, and flows that gave way."""
        self._check_process()
        return self._state.totals

    def _check_process(self) -> None:
        if self._process != process.number:
            raise ClosedError("the tracker was made in another process")
