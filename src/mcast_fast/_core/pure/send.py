"""Many datagrams, one system call each: the twin of fast/send.pxi and c/send.h."""

import errno
import select
import socket as socket_module
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from mcast_fast._core import lateness
from mcast_fast._core.addresses import endpoint
from mcast_fast._core.layout import FIELDS, RECORD, RECORD_SIZE, V4_MAPPED, Feature, Flag
from mcast_fast._core.lifetime import Lifetime
from mcast_fast._core.pure.membership import set_option

_ONE_EACH = "the pure backend sends one datagram per system call"
FEATURES = {
    "batched_send": Feature(False, _ONE_EACH),
    "send_segmentation": Feature(False, _ONE_EACH),
    "pacing": Feature(True, ""),
}

# Pace and schedule go by time.perf_counter_ns: the monotonic clock too, but of Windows in steps of 15 ms.

# Windows has no such flag: the sockets themselves do not wait.
_NOWAIT = int(getattr(socket_module, "MSG_DONTWAIT", 0))
_SLICE_NS = 50_000_000  # a thread that sends lets another have its turn
_STEP_NS = 1_000_000  # a call that must not wait gives way to others after it
_NAP_NS = 20_000_000  # close() is seen within it
_SPIN_NS = 150_000  # before a departure, the clock is watched instead of slept by
_CREDIT_NS = 10_000_000  # a call that comes later than this starts a new pace
_RETRY_FIRST_NS = 50_000  # after ENOBUFS; doubled each time
_RETRY_LAST_NS = 5_000_000  # but no longer than this
_RETRIES_MAX = 100  # without one datagram leaving: half a second
_NEVER = 2**61  # ns: no moment is later
_SUMMED = 1024  # datagrams
_TIMESTAMP, _OFFSET, _LENGTH, _GROUP, _PORT, _FLAGS, _RECORD_TTL, _RECORD_TOS = (
    [field.name for field in FIELDS].index(name)
    for name in ("timestamp", "offset", "length", "group", "port", "flags", "ttl", "tos")
)
_TTL, _TOS = int(Flag.TTL), int(Flag.TOS)

Address = tuple[str, int] | tuple[str, int, int, int]
Target = tuple[int, Address]  # the key of a socket, and where to
Hops = tuple[int, int]  # TTL (or hop limit) and TOS (or traffic class)

_HOP_OPTIONS = {
    socket_module.AF_INET: ("IP_MULTICAST_TTL", "IP_TOS"),
    socket_module.AF_INET6: ("IPV6_MULTICAST_HOPS", "IPV6_TCLASS"),
}


@dataclass(frozen=True, slots=True)
class Route:
    """Where every payload of a call goes, in this order; made by `Transmitter.route`."""

    owner: "Transmitter | None" = None
    targets: list[Target] = field(default_factory=list)


class Schedule:
    """Where each record of a recording goes, by its group and port, and when, by its timestamp; made by
    `Transmitter.schedule`."""

    _owner: "Transmitter | None" = None

    def add(self, group: bytes, port: int, route: Route) -> None:
        """Records of this group (16 bytes) and port go to the first target of the route from now on."""
        owner = self._owned()
        if len(group) != 16 or not 0 <= port <= 0xFFFF or not route.targets:
            raise ValueError("a route entry has a group of 16 bytes, a port, and a target")
        owner._check_route(route)
        self._entries[group, port] = route.targets[0]

    def start(self, origin: int, moment: int, scale: float) -> None:
        """From now on a record is due at `moment` (ns, monotonic) + (its timestamp - `origin`) * `scale`, and not
        before its predecessor; `scale` 0: at the sender's own rate."""
        self._owned()
        if not 0 <= moment < _NEVER or not 0 <= scale <= 1e9:
            raise ValueError("the moment is at least 0, and the scale 0 to 1e9")
        self._origin, self._start, self._scale = origin, moment, scale
        self._reached = 0

    def lateness(self) -> tuple[list[int], int]:
        """How late records left: (counts by the buckets of lateness.py, ns of the latest)."""
        self._owned(closed_too=True)
        return list(self._late), self._latest

    def _open(self, owner: "Transmitter", keep: int, ttl: int, tos: int) -> None:
        self._owner = owner
        self._keep, self._ttl, self._tos = keep, ttl, tos
        self._scale = 0.0
        self._entries: dict[tuple[bytes, int], Target] = {}
        self._origin = self._start = self._reached = 0
        self._late = [0] * lateness.BUCKETS
        self._latest = 0

    def _owned(self, closed_too: bool = False) -> "Transmitter":
        """The sender it is of; ValueError, ClosedError."""
        if self._owner is None:
            raise ValueError("the schedule is of no sender")
        if self._owner.foreign or not closed_too:
            self._owner._lifetime.check()
        return self._owner

    def _target(self, row: tuple[Any, ...]) -> Target | None:
        """Where a record goes; None when that is not known."""
        return self._entries.get((row[_GROUP], row[_PORT]))

    def _hops(self, row: tuple[Any, ...]) -> Hops:
        """The TTL and the TOS that a record's datagram has."""
        kept = row[_FLAGS] & self._keep
        return row[_RECORD_TTL] if kept & _TTL else self._ttl, row[_RECORD_TOS] if kept & _TOS else self._tos

    def _due(self, row: tuple[Any, ...]) -> int:
        """When a record is due that follows the one that left last. A file may hold any timestamp."""
        return max(self._reached, _moment_after(self._start, max(0, row[_TIMESTAMP] - self._origin) * self._scale))

    def _left(self, row: tuple[Any, ...], now: int) -> None:
        """Counts how late a record left."""
        self._reached = self._due(row)
        late = now - self._reached
        self._late[lateness.bucket_of(late)] += 1
        self._latest = max(self._latest, late)


@dataclass(slots=True)
class _Pace:
    """Unit number u is due at start + u * ns_per_unit. A unit is a datagram, or a bit of payload."""

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
        """A call begins: goes on with the pace when it is in time, else starts a new one."""
        if self.start and now - self.due <= _CREDIT_NS:
            return
        self.past_units += self.before_last
        self.past_ns += self.last - self.start
        self.start = self.last = now
        self.units = self.before_last = self.in_burst = 0

    @property
    def due(self) -> int:
        return _moment_after(self.start, self.units * self.ns_per_unit)

    def account(self, size: int, now: int) -> None:
        self.before_last = self.units
        self.last = now
        self.units += size * 8 if self.by_bits else 1
        self.in_burst = (self.in_burst + 1) % self.burst

    @property
    def rate(self) -> float:
        """The achieved rate, units per second; 0.0 when it is not known yet."""
        taken = self.past_ns + self.last - self.start
        return (self.past_units + self.before_last) / taken * 1e9 if taken > 0 else 0.0


@dataclass(slots=True)
class _Request:
    """One call of a user: every payload to every target, payload after payload; or, by a schedule, each record to its
    own."""

    targets: list[Target]
    payload: Callable[[int], memoryview]
    total: int
    sent: int = 0
    wait: bool = True
    end: int = 0  # of the step of a call that must not wait; 0: not begun
    retries: int = 0
    begun: bool = False
    schedule: Schedule | None = None
    rows: list[tuple[Any, ...]] = field(default_factory=list)  # the records, by a schedule

    @property
    def target(self) -> Target | None:
        """Where the next datagram goes; None when a schedule does not say it."""
        if self.schedule is not None:
            return self.schedule._target(self.rows[self.sent])
        return self.targets[self.sent % len(self.targets)]

    @property
    def due(self) -> int | None:
        """When the next datagram is due by a schedule; None without one that says it."""
        if self.schedule is None or not self.schedule._scale:
            return None
        return self.schedule._due(self.rows[self.sent])


@dataclass(slots=True)
class _Counters:
    """`sizes`: of the payloads that left since the last sum."""

    datagrams: int = 0
    bytes: int = 0
    sizes: list[int] = field(default_factory=list)


class Transmitter:
    """What the sockets of one sender have in common: pace, counters, and one slice at a time.

    `ns_per_unit` is the time between two units, 0 for as fast as possible; a unit is a datagram or (`by_bits`) a bit of
    payload. `burst` datagrams leave together. `subject` is what errors call the sender. `when_idle` is called
    after close(), when no call is inside any more, so that the sockets may be closed; once more by the next close(),
    where an exception of a signal handler ended it."""

    def __init__(
        self,
        subject: str,
        ns_per_unit: float,
        by_bits: bool,
        burst: int,
        when_idle: Callable[[], object] | None = None,
    ) -> None:
        if burst < 1 or not ns_per_unit >= 0:
            raise ValueError("a burst is at least 1, and the time between two units at least 0")
        self._lifetime = Lifetime(subject, when_idle)
        # Finite, for 0 * infinity is no number and the first datagram would never be due.
        self._pace = _Pace(min(ns_per_unit, float(_NEVER)), by_bits, burst)
        self._counters = _Counters()
        self._calls = self._would_blocks = self._retries = 0
        self._send_lock = threading.RLock()  # held for a slice; a signal's handler may send in the middle of one
        self._sockets: list[tuple[socket_module.socket, int]] = []
        self._rewritten: dict[int, tuple[Hops, Hops]] = {}  # by key: the TTL and TOS it has now, and its own

    # ---- life cycle ----

    def inside(self) -> Any:
        """A context manager for who uses the sockets; ClosedError when the sender is closed, or of another process.

        `settle()` has to follow it, whatever happens."""
        self._lifetime.check()
        return self._lifetime.inside()

    def settle(self) -> None:
        """After `inside()`: the last one out of a closed sender has `when_idle` called."""
        self._lifetime.settle()

    def close(self) -> None:
        """Ends who sends (ClosedError), from any thread or signal handler; never waits."""
        self._lifetime.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._lifetime.closed

    @property
    def foreign(self) -> bool:
        """Whether another process opened the sender."""
        return self._lifetime.foreign

    # ---- sockets and routes ----

    def add(self, socket: socket_module.socket, segment_limit: int) -> int:
        """The key of a socket; the kernel may segment into at most `limit` bytes, 0: not at all. ClosedError."""
        self._lifetime.check()
        self._sockets.append((socket, segment_limit))
        return len(self._sockets) - 1

    def replace(self, key: int, socket: socket_module.socket, segment_limit: int) -> None:
        """Send by this socket under a key from now on: when it returns, the former one is unused. ClosedError."""
        self._known(key)
        with self._send_lock:
            self._lifetime.check()
            self._sockets[key] = (socket, segment_limit)
            self._rewritten.pop(key, None)

    def route(self, targets: list[tuple[int, bytes, int, int]]) -> Route:
        """Targets are (key, packed group, port, interface index). ClosedError."""
        self._lifetime.check()
        found: list[Target] = []
        for key, group, port, scope in targets:
            if len(group) not in (4, 16):
                raise ValueError("the group is a packed address")
            self._known(key)
            found.append((key, _address(group, port, scope)))
        return Route(self, found)

    def schedule(self, keep: int = 0, ttl: int = 1, tos: int = 0) -> Schedule:
        """An empty Schedule of this sender's. ClosedError.

        `keep`: bits of Flag, TTL and TOS: what of a record's its datagram has; else it has `ttl` and `tos`, which its
        sockets were opened with."""
        self._lifetime.check()
        schedule = Schedule()
        schedule._open(self, keep, ttl, tos)
        return schedule

    def _known(self, key: int) -> None:
        if not 0 <= key < len(self._sockets):
            raise IndexError(f"no socket has the key {key}")

    def _check_route(self, route: Route) -> None:
        if route.owner is not self:
            raise ValueError("the route is of another sender")

    # ---- sending ----

    def send(self, route: Route, payloads: Iterable[Any], first: int = 0, wait: bool = True) -> tuple[int, int]:
        """Send bytes-like objects, each to every target of the route, without the `first` datagrams: (how many left,
        errno that stopped it or 0).

        Waits while a send buffer is full or the next is not due; without `wait` it answers EAGAIN or ENOBUFS instead,
        also when it has sent for a while. Raises ClosedError, TypeError before anything left, and what a handler of
        signals raises."""
        views = list(map(_as_buffer, payloads))
        return self._run(self._request(route, views.__getitem__, len(views), first, wait))

    def send_rows(self, route: Route, buffer: Any, size: int, first: int = 0, wait: bool = True) -> tuple[int, int]:
        """As `send`, in rows of `size` bytes of one contiguous buffer, of which the last may be shorter."""
        if size == 0:
            raise ValueError("a row is at least one byte")
        view = _as_buffer(buffer).cast("B")
        rows = -(-len(view) // size)
        return self._run(self._request(route, lambda i: view[i * size : (i + 1) * size], rows, first, wait))

    def send_records(
        self, route: Route, records: memoryview, data: memoryview, first: int = 0, wait: bool = True
    ) -> tuple[int, int]:
        """As `send`, the payloads that records describe: each must lie within `data`, else ValueError."""
        payload, rows = _described(records, data)
        return self._run(self._request(route, payload, len(rows), first, wait))

    def send_recorded(self, schedule: Schedule, records: memoryview, data: memoryview, first: int) -> tuple[int, int]:
        """Send the payloads that records describe, from `first` on, each to where and when the schedule says: (how
        many left, errno that stopped it or 0).

        It stops too before a record of which the schedule does not say where it goes. Errors as `send_records`."""
        if schedule._owner is not self:
            raise ValueError("the schedule is of another sender")
        payload, rows = _described(records, data)
        return self._run(_Request([], payload, len(rows), sent=first, schedule=schedule, rows=rows))

    def _request(
        self, route: Route, payload: Callable[[int], memoryview], payloads: int, first: int, wait: bool
    ) -> _Request:
        self._check_route(route)
        return _Request(route.targets, payload, payloads * len(route.targets), first, wait)

    def _run(self, request: _Request) -> tuple[int, int]:
        """Slice by slice, so that other threads have their turn."""
        first = request.sent
        try:
            with self._lifetime.inside():
                self._lifetime.check()
                status = None
                while status is None:
                    with self._send_lock:
                        status = self._slice(request)
                if status:
                    self._check_open()
                return request.sent - first, status
        finally:
            self._lifetime.settle()

    def _check_open(self) -> None:
        """ClosedError; a child that forked in the middle of a call has to leave it too."""
        if self._lifetime.closed or self._lifetime.foreign:
            self._lifetime.check()

    def _slice(self, request: _Request) -> int | None:
        """Sends for a slice: 0 when all has left, None when the slice is over, or an errno."""
        now = time.perf_counter_ns()
        end = now + _SLICE_NS
        if not request.wait:
            end = request.end = request.end or now + _STEP_NS
        over = None if request.wait else errno.EAGAIN
        if self._pace.ns_per_unit and not request.begun:
            self._pace.begin(now)
        request.begun = True
        while request.sent < request.total:
            self._check_open()
            target = request.target
            if target is None:
                return 0
            if now >= end:
                return over
            if self._is_due(request, now):
                status = self._send_one(request, *target)
                if status:
                    return status
            elif not request.wait:
                return over
            now = time.perf_counter_ns()
        return 0

    def _is_due(self, request: _Request, now: int) -> bool:
        """Whether the next may leave, after waiting for it for a nap at most."""
        due = request.due
        if due is None:
            if not self._pace.ns_per_unit or self._pace.in_burst:
                return True
            due = self._pace.due
        if due <= now or not request.wait:
            return due <= now
        if due - now > _SPIN_NS:
            time.sleep(min(due - now - _SPIN_NS, _NAP_NS) / 1e9)
            now = time.perf_counter_ns()
        while 0 < due - now <= _SPIN_NS:
            now = time.perf_counter_ns()
        return due <= now

    def _send_one(self, request: _Request, key: int, address: Address) -> int:
        """0, also when it has to be tried again; or an errno."""
        socket = self._sockets[key][0]
        payload = request.payload(request.sent // (len(request.targets) or 1))
        try:
            self._set_hops(key, request)
        except OSError as error:
            return error.errno or errno.EINVAL
        self._calls += 1
        now = time.perf_counter_ns()
        try:
            # The call of C that sends also counts, so that no exception of a signal's handler comes in between.
            self._counters.sizes.extend(map(socket.sendto, (payload,), (_NOWAIT,), (address,)))
        except OSError as error:
            return self._refused(socket, request, error.errno or 0)
        if request.schedule is not None and request.schedule._scale:
            request.schedule._left(request.rows[request.sent], now)
        request.sent += 1
        request.retries = 0
        self._pace.account(payload.nbytes, now)
        if len(self._counters.sizes) >= _SUMMED:
            self._counters = _Counters(*self._sums())
        return 0

    def _set_hops(self, key: int, request: _Request) -> None:
        """Give a socket the TTL and TOS that the next datagram has, where it has others; OSError."""
        schedule = request.schedule
        keeps = schedule is not None and schedule._keep != 0
        if not keeps and key not in self._rewritten:
            return
        now, own = self._rewritten.get(key) or ((schedule._ttl, schedule._tos),) * 2  # type: ignore[union-attr]
        wanted = schedule._hops(request.rows[request.sent]) if keeps else own  # type: ignore[union-attr]
        if now == wanted:
            return
        socket = self._sockets[key][0]
        self._rewritten[key] = (-1, -1), own  # what an error leaves: neither is known to hold
        for name, before, value in zip(_HOP_OPTIONS[socket.family], now, wanted, strict=True):
            if before != value:
                set_option(socket, name, value)
        self._rewritten[key] = wanted, own

    def _refused(self, socket: socket_module.socket, request: _Request, number: int) -> int:
        """What to do about an errno: 0 to try again, or that errno."""
        if number in (errno.EAGAIN, errno.EWOULDBLOCK):
            self._would_blocks += 1
            if not request.wait:
                return errno.EAGAIN
            _wait_writable(socket, _NAP_NS)
            return 0
        if number == errno.ENOBUFS and request.retries < _RETRIES_MAX:
            self._retries += 1
            if not request.wait:
                return number
            pause = min(_RETRY_FIRST_NS << min(request.retries, 8), _RETRY_LAST_NS)
            request.retries += 1
            time.sleep(pause / 1e9)
            return 0
        return number

    # ---- counters ----

    def _sums(self) -> tuple[int, int]:
        """Datagrams and bytes that have left."""
        counters = self._counters
        sizes = counters.sizes[:]
        return counters.datagrams + len(sizes), counters.bytes + sum(sizes)

    def counters(self) -> tuple[int, int, int, int, int, float]:
        """So far: datagrams, bytes, system calls, would-blocks, retries; and the achieved rate, units per second (0.0:
        not known yet). Also after close(); ClosedError in another process."""
        self._check_process()
        return (*self._sums(), self._calls, self._would_blocks, self._retries, self._pace.rate)

    def refusal(self, key: int) -> tuple[int, int]:
        """What a socket's path has refused to segment: (largest segment that is still tried, errno or 0). As
        `counters`."""
        self._check_process()
        self._known(key)
        return self._sockets[key][1], 0

    def _check_process(self) -> None:
        if self._lifetime.foreign:
            self._lifetime.check()


def _wait_writable(socket: socket_module.socket, ns: int) -> None:
    """Waits until the send buffer has space. An error queue that holds something answers at once (poll(2), POLLERR), so
    that a moment is slept then."""
    if not hasattr(select, "poll"):  # Windows
        select.select([], [socket], [], ns / 1e9)
        return
    poll = select.poll()
    poll.register(socket, select.POLLOUT)
    if any(not events & select.POLLOUT for _, events in poll.poll(ns / 1e6)):
        time.sleep(0.0001)


def _moment_after(start: int, ns: float) -> int:
    """The moment `ns` after `start`; _NEVER when that is too far away to count."""
    return min(start + int(ns), _NEVER) if ns < _NEVER else _NEVER


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
