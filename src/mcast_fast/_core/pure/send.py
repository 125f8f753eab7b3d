"""Many datagrams, one system call each: the twin of fast/send.pxi and c/send.h."""

import contextlib
import errno
import itertools
import select
import socket as socket_module
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import starmap
from typing import Any

from mcast_fast._core import lateness
from mcast_fast._core.addresses import endpoint
from mcast_fast._core.layout import FIELDS, RECORD, RECORD_SIZE, V4_MAPPED, Feature
from mcast_fast.errors import ClosedError

_ONE_EACH = "the pure backend sends one datagram a system call"
FEATURES = {
    "batched_send": Feature(False, _ONE_EACH),
    "send_segmentation": Feature(False, _ONE_EACH),
    "pacing": Feature(True, ""),
}

# The schedule goes by time.perf_counter_ns: the monotonic clock too, but of Windows in steps of 15 ms.

# Windows has no such flag: the sockets themselves do not wait.
_NOWAIT = int(getattr(socket_module, "MSG_DONTWAIT", 0))
_SLICE_NS = 50_000_000  # a thread that sends lets another have its turn
_NAP_NS = 20_000_000  # close() is seen within it
_SPIN_NS = 150_000  # before a departure, the clock is watched instead of slept by
_CREDIT_NS = 10_000_000  # who comes later than this to a call begins a new schedule
_RETRY_FIRST_NS = 50_000  # after ENOBUFS; doubled each time
_RETRY_LAST_NS = 5_000_000  # but no longer than this
_RETRIES_MAX = 100  # without one datagram leaving: half a second
_TIMESTAMP, _OFFSET, _LENGTH, _GROUP, _PORT = (
    [field.name for field in FIELDS].index(name) for name in ("timestamp", "offset", "length", "group", "port")
)
_FOR_EVER = 2**62  # ns

Address = tuple[str, int] | tuple[str, int, int, int]


@dataclass(frozen=True, slots=True)
class Route:
    """Where every payload of a call goes, in this order; made by `Transmitter.route`."""

    targets: list[tuple[socket_module.socket, Address]]


class Itinerary:
    """Where each record of a recording goes, by its group and port, and when, by its timestamp; made by
    `Transmitter.itinerary`."""

    def __init__(self, owner: "Transmitter") -> None:
        self._owner = owner
        self._scale = 0.0
        self._legs: dict[tuple[bytes, int], tuple[socket_module.socket, Address]] = {}
        self._origin = self._start = self._reached = 0
        self._late = [0] * lateness.BUCKETS
        self._latest = 0

    def add(self, group: bytes, port: int, route: Route) -> None:
        """Records of this group (16 bytes) and port go to the first target of the route from now on."""
        if len(group) != 16 or not 0 <= port <= 0xFFFF or not route.targets:
            raise ValueError("a leg has a group of 16 bytes, a port, and a target")
        self._legs[group, port] = route.targets[0]

    def start(self, origin: int, moment: int, scale: float) -> None:
        """From now on a record is due at `moment` (ns, monotonic) + (its timestamp - `origin`) * `scale`, and not
        before the one in front of it; `scale` 0: as the sender's own rate says."""
        if not 0 <= moment < 2**61 or not 0 <= scale <= 1e9:
            raise ValueError("the moment is at least 0, and the scale 0 to 1e9")
        self._origin, self._start, self._scale = origin, moment, scale
        self._reached = 0

    def lateness(self) -> tuple[list[int], int]:
        """How late records left: (how many by the buckets of lateness.py, ns of the latest)."""
        return list(self._late), self._latest

    def _target(self, row: tuple[Any, ...]) -> tuple[socket_module.socket, Address] | None:
        """Where a record goes; None when that is not known."""
        return self._legs.get((row[_GROUP], row[_PORT]))

    def _due(self, row: tuple[Any, ...]) -> int:
        """When a record is due that follows the one that left last. Any timestamp may stand in a file."""
        after = max(0, row[_TIMESTAMP] - self._origin) * self._scale
        return max(self._reached, self._start + int(after) if after < _FOR_EVER else _FOR_EVER)

    def _left(self, row: tuple[Any, ...], now: int) -> None:
        """Counts how late a record left."""
        self._reached = self._due(row)
        late = now - self._reached
        self._late[lateness.bucket_of(late)] += 1
        self._latest = max(self._latest, late)


@dataclass(slots=True)
class _Pace:
    """The schedule: unit number u is due at start + u * ns_per_unit. A unit is a datagram, or a bit of payload."""

    ns_per_unit: float
    by_bits: bool
    burst: int
    in_burst: int = 0
    start: int = 0
    units: int = 0
    last: int = 0
    before_last: int = 0
    past_units: int = 0
    past_ns: int = 0

    def begin(self, now: int) -> None:
        """A call begins: goes on with the schedule when it is in time, else starts another."""
        if self.start and now - self.due <= _CREDIT_NS:
            return
        self.past_units += self.before_last
        self.past_ns += self.last - self.start
        self.start = self.last = now
        self.units = self.before_last = self.in_burst = 0

    @property
    def due(self) -> int:
        return self.start + int(self.units * self.ns_per_unit)

    def account(self, size: int, now: int) -> None:
        self.before_last = self.units
        self.last = now
        self.units += size * 8 if self.by_bits else 1
        self.in_burst = (self.in_burst + 1) % self.burst

    @property
    def rate(self) -> float:
        """What was achieved, units a second; 0.0 when nothing can be said yet."""
        taken = self.past_ns + self.last - self.start
        return (self.past_units + self.before_last) / taken * 1e9 if taken > 0 else 0.0


@dataclass(slots=True)
class _Errand:
    """One call of a user: every payload to every target, payload after payload; or, by an itinerary, each record to
    its own."""

    targets: list[tuple[socket_module.socket, Address]]
    payload: Callable[[int], memoryview]
    total: int
    sent: int = 0
    retries: int = 0
    begun: bool = False
    itinerary: Itinerary | None = None
    rows: list[tuple[Any, ...]] = field(default_factory=list)  # the records, by an itinerary

    @property
    def target(self) -> tuple[socket_module.socket, Address] | None:
        """Where the next datagram goes; None when an itinerary does not say it."""
        if self.itinerary is not None:
            return self.itinerary._target(self.rows[self.sent])
        return self.targets[self.sent % len(self.targets)]

    @property
    def due(self) -> int | None:
        """When the next datagram is due by an itinerary; None without one that says it."""
        if self.itinerary is None or not self.itinerary._scale:
            return None
        return self.itinerary._due(self.rows[self.sent])


@dataclass(slots=True)
class _Counters:
    bytes: int = 0
    system_calls: int = 0
    would_blocks: int = 0
    retries: int = 0


class Transmitter:
    """What the sockets of one sender have in common: the schedule, the counters, and one turn at a time.

    `ns_per_unit` is the time between two units, 0 for as fast as it goes; a unit is a datagram or (`by_bits`) a bit of
    payload. `burst` datagrams leave together. `subject` is what errors call the sender."""

    def __init__(self, subject: str, ns_per_unit: float, by_bits: bool, burst: int) -> None:
        if burst < 1 or not ns_per_unit >= 0:
            raise ValueError("a burst is at least 1, and the time between two units at least 0")
        self._subject = subject
        self._pace = _Pace(ns_per_unit, by_bits, burst)
        self._counters = _Counters()
        self._departed = itertools.count()  # of datagrams; its next number is how many have left
        self._turn = threading.RLock()  # a signal's handler may close the sender whose turn it is
        self._sockets: list[tuple[socket_module.socket, int]] = []
        self._closed = False

    def add(self, socket: socket_module.socket, segment_limit: int) -> int:
        """The key of a socket; segments of at most so many bytes may be cut by the kernel, 0 for none."""
        self._sockets.append((socket, segment_limit))
        return len(self._sockets) - 1

    def route(self, targets: list[tuple[int, bytes, int, int]]) -> Route:
        """Targets are (key, packed group, port, interface index)."""
        found: list[tuple[socket_module.socket, Address]] = []
        for key, group, port, scope in targets:
            if len(group) not in (4, 16):
                raise ValueError("the group is a packed address")
            if not 0 <= key < len(self._sockets):
                raise IndexError(f"no socket has the key {key}")
            found.append((self._sockets[key][0], _address(group, port, scope)))
        return Route(found)

    def itinerary(self) -> Itinerary:
        """An empty Itinerary of this sender's."""
        return Itinerary(self)

    def send(self, route: Route, payloads: Iterable[Any]) -> tuple[int, int]:
        """Send bytes-like objects, each to every target of the route: (how many datagrams left, errno that stopped it
        or 0).

        Waits while a send buffer is full or the next is not due. Raises ClosedError, TypeError before anything left,
        and what a handler of signals raises."""
        views = list(map(_as_buffer, payloads))
        return self._run(_Errand(route.targets, views.__getitem__, len(views) * len(route.targets)))

    def send_rows(self, route: Route, buffer: Any, size: int) -> tuple[int, int]:
        """As `send`, in rows of `size` bytes of one contiguous buffer, of which the last may be shorter."""
        if size == 0:
            raise ValueError("a row is at least one byte")
        view = _as_buffer(buffer).cast("B")
        rows = -(-len(view) // size)
        return self._run(
            _Errand(route.targets, lambda i: view[i * size : (i + 1) * size], rows * len(route.targets)),
        )

    def send_records(self, route: Route, records: memoryview, data: memoryview) -> tuple[int, int]:
        """As `send`, the payloads that records describe: each must lie within `data`, else ValueError."""
        payload, rows = _described(records, data)
        return self._run(_Errand(route.targets, payload, len(rows) * len(route.targets)))

    def send_recorded(self, itinerary: Itinerary, records: memoryview, data: memoryview, first: int) -> tuple[int, int]:
        """Send the payloads that records describe, from `first` on, each to where and when the itinerary says: (how
        many left, errno that stopped it or 0).

        It stops too before a record of which the itinerary does not say where it goes. Errors as `send_records`."""
        if itinerary._owner is not self:
            raise ValueError("the itinerary is of another sender")
        payload, rows = _described(records, data)
        sent, status = self._run(_Errand([], payload, len(rows), sent=first, itinerary=itinerary, rows=rows))
        return sent - first, status

    def _run(self, errand: _Errand) -> tuple[int, int]:
        """Slice by slice, so that other threads have their turn."""
        while True:
            with self._turn:
                status = self._slice(errand)
            if status and self._closed:
                raise ClosedError(f"{self._subject} is closed")
            if status is not None:
                return errand.sent, status

    def _slice(self, errand: _Errand) -> int | None:
        """Sends for a slice: 0 when all has left, None when the slice is over, or an errno."""
        now = time.perf_counter_ns()
        end = now + _SLICE_NS
        if self._pace.ns_per_unit and not errand.begun:
            self._pace.begin(now)
        errand.begun = True
        while errand.sent < errand.total:
            if self._closed:
                raise ClosedError(f"{self._subject} is closed")
            target = errand.target
            if target is None:
                return 0
            if now >= end:
                return None
            if self._is_due(errand.due, now):
                status = self._send_one(errand, *target)
                if status:
                    return status
            now = time.perf_counter_ns()
        return 0

    def _is_due(self, due: int | None, now: int) -> bool:
        """Whether the next may leave, after waiting for it for a nap at the most."""
        if due is None:
            if not self._pace.ns_per_unit or self._pace.in_burst:
                return True
            due = self._pace.due
        if due <= now:
            return True
        if due - now > _SPIN_NS:
            time.sleep(min(due - now - _SPIN_NS, _NAP_NS) / 1e9)
            now = time.perf_counter_ns()
        while 0 < due - now <= _SPIN_NS:
            now = time.perf_counter_ns()
        return due <= now

    def _send_one(self, errand: _Errand, socket: socket_module.socket, address: Address) -> int:
        """0, also when it has to be tried again; or an errno."""
        payload = errand.payload(errand.sent // (len(errand.targets) or 1))
        self._counters.system_calls += 1
        now = time.perf_counter_ns()
        try:
            # In one go of C, so that no handler of a signal comes between a departure and its being counted.
            departure = starmap(socket.sendto, ((payload, _NOWAIT, address),))
            next(zip(departure, self._departed, strict=False))
        except OSError as error:
            return self._refused(socket, errand, error.errno or 0)
        if errand.itinerary is not None and errand.itinerary._scale:
            errand.itinerary._left(errand.rows[errand.sent], now)
        errand.sent += 1
        errand.retries = 0
        self._counters.bytes += payload.nbytes
        self._pace.account(payload.nbytes, now)
        return 0

    def _refused(self, socket: socket_module.socket, errand: _Errand, number: int) -> int:
        """What to do about an errno: 0 to try again, or that errno."""
        if number in (errno.EAGAIN, errno.EWOULDBLOCK):
            self._counters.would_blocks += 1
            with contextlib.suppress(ValueError):  # closed meanwhile
                select.select([], [socket], [], _NAP_NS / 1e9)
            return 0
        if number == errno.ENOBUFS and errand.retries < _RETRIES_MAX:
            time.sleep(min(_RETRY_FIRST_NS << min(errand.retries, 8), _RETRY_LAST_NS) / 1e9)
            errand.retries += 1
            self._counters.retries += 1
            return 0
        return number

    def counters(self) -> tuple[int, int, int, int, int, float]:
        """So far: datagrams, bytes, system calls, would-blocks, retries; and the achieved rate, units a second (0.0:
        not known yet)."""
        told = self._counters
        return (
            int(repr(self._departed).removeprefix("count(").removesuffix(")")),
            told.bytes,
            told.system_calls,
            told.would_blocks,
            told.retries,
            self._pace.rate,
        )

    def refusal(self, key: int) -> tuple[int, int]:
        """What a socket's path has refused to cut apart: (largest segment that is still tried, errno or 0)."""
        if not 0 <= key < len(self._sockets):
            raise IndexError(f"no socket has the key {key}")
        return self._sockets[key][1], 0

    def close(self) -> None:
        """Ends who sends (ClosedError); when it returns, the sockets may be closed."""
        self._closed = True
        with self._turn:
            pass


def _address(group: bytes, port: int, interface: int) -> Address:
    host, *_ = endpoint(V4_MAPPED + group if len(group) == 4 else group, port, 0)
    return (host, port) if len(group) == 4 else (host, port, 0, interface)


def _described(records: memoryview, data: memoryview) -> tuple[Callable[[int], memoryview], list[tuple[Any, ...]]]:
    """(what gives the payload of a record by its number, the records); ValueError when one does not fit the data."""
    if records.nbytes % RECORD_SIZE:
        raise ValueError("the records do not fit the data")
    rows = list(RECORD.iter_unpack(bytes(records)))
    if any(row[_OFFSET] + row[_LENGTH] > len(data) for row in rows):
        raise ValueError("the records do not fit the data")
    return lambda i: data[rows[i][_OFFSET] : rows[i][_OFFSET] + rows[i][_LENGTH]], rows


def _as_buffer(payload: object) -> memoryview:
    try:
        view = memoryview(payload)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"a bytes-like object is required, not {type(payload).__name__!r}") from None
    if not view.c_contiguous:
        raise BufferError("memoryview: underlying buffer is not C-contiguous")
    return view
