"""The receiver's core on the standard library: the twin of fast/slots.pxi."""

import contextlib
import dataclasses
import selectors
import socket as socket_module
import threading
import time
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from mcast_fast._core.layout import ARENA_LIMIT, FIELDS, MAX_PACKET_SIZE, RECORD, RECORD_SIZE, V4_MAPPED, Feature, Flag
from mcast_fast._core.pure.control import READERS, Told
from mcast_fast._core.pure.tables import SYSTEM
from mcast_fast._core.pure.views import Batch, Packet, make_packet, make_part, row_at, take_over
from mcast_fast.errors import ClosedError, FeatureError, MulticastError, socket_error

_HAS_RECVMSG = hasattr(socket_module.socket, "recvmsg_into")
_HAS_DESCRIPTOR = hasattr(selectors.DefaultSelector, "fileno")

FEATURES = {
    "batched_receive": Feature(False, "the pure backend receives one packet a system call"),
    "background": Feature(False, "the pure backend has no thread that receives without Python"),
    "background_cpu": Feature(False, "the pure backend has no thread that receives without Python"),
    "wire_length": Feature(
        SYSTEM.tells_wire_length,
        "" if SYSTEM.tells_wire_length else f"{SYSTEM.name} tells that a packet was truncated, not how long it was",
    ),
    "ring": Feature(False, "the pure backend has no mapped ring"),
    "descriptor": Feature(_HAS_DESCRIPTOR, "" if _HAS_DESCRIPTOR else "this system has neither epoll nor kqueue"),
}

Row = tuple[bytes, int, bool, Iterable[bytes]]

_CONTROL_SIZE = 256
_COUNTERS = (
    "received", "bytes", "truncated", "filtered", "fragments", "dropped_ring", "detached", "batches", "largest_batch",
    "wakeups", "dropped_memory", "buffers",
)  # fmt: skip
_DROP_MODULUS = 2**32
_ONE_GO = 256  # packets of a socket that are read without looking at the clock
_GO_BYTES = 3 << 18  # that are read in one go: so large a batch is worth handing over
_LONGEST_WAIT = 86_400.0  # seconds
_GRACE = 0.01  # seconds beyond the deadline, to find what is wanted behind what is not
# Plain integers: arithmetic with enum members costs a sixth of the time a packet takes here.
_TRUNCATED, _COALESCED = int(Flag.TRUNCATED), int(Flag.COALESCED)
_MSG_TRUNC = int(socket_module.MSG_TRUNC)
_NOWAIT = int(getattr(socket_module, "MSG_DONTWAIT", 0))  # Windows has none: the sockets themselves do not wait
_RECEIVE = _NOWAIT | _MSG_TRUNC
_LARGEST = 65_536  # more than any datagram
# Nothing interrupts select() on Windows: signals are looked at between slices. Seconds.
_SLICE = None if _HAS_DESCRIPTOR else 0.05
_DISCARD_AT_MOST = 10_000_000  # bounded, for the port of a socket that goes may be talked to
_AT = {field.name: i for i, field in enumerate(FIELDS)}


class _Filter:
    """What a socket may deliver: (group, interface) -> sources to include or exclude (RFC 3678); None = everything."""

    def __init__(self, rows: Iterable[Row] | None) -> None:
        self.everything = rows is None
        self.entries = {
            (group, index): (bool(exclude), frozenset(sources)) for group, index, exclude, sources in rows or ()
        }

    def allows(self, group: bytes, interface: int, source: bytes) -> bool:
        """Whether the group, interface and source of a packet were asked for."""
        if self.everything:
            return True
        entry = self.entries.get((group, interface)) or self.entries.get((group, 0))
        if entry is None:
            return False
        exclude, sources = entry
        return (source in sources) != exclude


@dataclasses.dataclass(slots=True)
class _Socket:
    socket: socket_module.socket
    port: int
    group: bytes
    interface: int
    filter: _Filter
    family: int
    overflow: int = 0  # the kernel's drop counter, as last told with a packet
    owed: int = 0  # drops told with packets that were filtered: they belong to the next record


class _Records(bytearray):
    """The records of a batch at work."""

    epoch = 0  # of the filters that its first packet passed


class Slots:
    """Sockets that are received from together, and the slots they are read into. Iterates over batches until closed.

    `batch_size` packets a batch, of `max_packet_size` bytes at the most; `coalesced`: the kernel may hand over several
    packets as one (UDP_GRO). `names` maps interface indexes to the names they had at opening, and goes with every
    batch; `subject` is what errors call the receiver. `timeout_ns` is how long an iteration waits, < 0 for ever."""

    def __init__(
        self, batch_size: int, max_packet_size: int, names: dict[int, str], subject: str, coalesced: bool = False
    ) -> None:
        self.timeout_ns = -1
        self._packet_limit = max_packet_size
        self._batch_size = batch_size
        self._subject = subject
        self._leftovers: list[Batch] = []  # what was received beyond what was asked for, the oldest first
        self.names = names  # another one is put here on a change: batches keep the one they came with
        self._size = MAX_PACKET_SIZE if coalesced else max_packet_size
        # Without recvmsg nothing tells that a packet was truncated, so that none is until it is here.
        self._buffer = bytearray(self._size if _HAS_RECVMSG else _LARGEST)
        self._view = memoryview(self._buffer)
        self._sockets: dict[int, _Socket] = {}
        self._next_key = 0
        self._rotation = 0
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._epoch = 0  # counts the changes of filters
        self._failure: OSError | None = None
        self._closed = False
        # `turn` is held by the one thread that waits and receives, `look` by one that only waits, `state` while
        # sockets, filters or counters are touched, never while waiting. All can be taken again: a signal handler may
        # close in the middle of any.
        self._turn = threading.RLock()
        self._look = threading.RLock()
        self._state = threading.RLock()
        self._depth = 0
        with contextlib.ExitStack() as undo:
            try:
                self._selector = undo.enter_context(selectors.DefaultSelector())
                self._wake, self._waker = socket_module.socketpair()
            except OSError as error:
                raise socket_error("open", subject, error) from error
            undo.pop_all()
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, None)

    def run_in_background(self, limit: int, cpu: int) -> None:
        """Receive in a thread of its own from now on, of which `limit` bytes may wait for who receives here; before
        anything is received. `cpu`: where it runs, -1 anywhere. SocketError."""
        raise FeatureError(FEATURES["background"].reason)

    def add(self, socket: socket_module.socket, port: int, group: bytes, interface: int) -> int:
        """Receive from this socket too; the key by which it is named from now on.

        Every packet of it has this port; `group` (16 bytes; zeros = told by each packet) and `interface` (0 = told) are
        what its binding implies."""
        if len(group) != 16:
            raise ValueError("the group is a packed address of 16 bytes")
        self._check_open()
        with self._state:
            key = self._next_key
            self._next_key += 1
            self._selector.register(socket, selectors.EVENT_READ, key)
            self._sockets[key] = _Socket(socket, port, group, interface, _Filter(()), int(socket.family))
            return key

    def add_ring(
        self,
        socket: socket_module.socket,
        interface: int,
        block_size: int,
        blocks: int,
        latency_ms: int,
        times: bool,
    ) -> int:
        """Map a ring over a packet socket that is not bound yet, and receive from it too; its key.

        Every packet came by `interface`. A block of `block_size` bytes is handed over when it is full, or `latency_ms`
        after its first packet; `times`: whether records tell when packets arrived. Nothing passes before a `listen`."""
        raise FeatureError(FEATURES["ring"].reason)

    def listen(self, ring: int, port: int) -> int:
        """Receive from the ring of this key what goes to a port; the key by which to `accept` and `remove` it."""
        raise FeatureError(FEATURES["ring"].reason)

    def remove(self, key: int) -> None:
        """Receive from this socket no more; what is queued there counts as filtered. The socket stays open."""
        with self._state:
            gone = self._sockets.pop(key, None)
            if gone is not None:
                self._selector.unregister(gone.socket)
                self._discard(gone)
                self._epoch += 1
        self._recheck_leftovers()

    def accept(self, key: int, entries: Iterable[Row] | None) -> None:
        """What may be delivered from this socket from now on: None = everything, else rows.

        A row is (group, interface, exclude, sources), each group and interface once; addresses have 16 bytes;
        interface 0 = any; `exclude` says that the sources are those not wanted."""
        new = _Filter(entries)
        with self._state:
            if key in self._sockets:
                self._sockets[key].filter = new
                self._epoch += 1
        self._recheck_leftovers()

    def receive(self, limit: int, timeout_ns: int) -> Batch:
        """A batch of 1..limit packets; timeout_ns < 0 waits for ever.

        Raises TimeoutError when none came in time, ClosedError, SocketError."""
        records, data = _Records(), bytearray()
        deadline = _deadline(timeout_ns)
        while not records:  # none is left where the filters changed meanwhile
            left = self._take(limit)
            if left is not None:
                return left
            if not self._fill(records, data, limit, deadline):
                raise TimeoutError(f"no packet came within {timeout_ns / 1e9:g} s")
            self._recheck(records)
        return self._cut(self._finish(records, data), limit)

    def receive_one(self, timeout_ns: int) -> Packet:
        """One packet; what came with it is left over for the next call. Errors as `receive`."""
        left = self._take(1)
        if left is not None:
            return make_packet(left, 0)
        return make_packet(self._cut(self.receive(self._batch_size, timeout_ns), 1), 0)

    def collect(self, limit: int, timeout_ns: int) -> Batch:
        """A batch of `limit` packets; or of those that came in time or before the close (maybe none).

        It ends early when the 4 GiB of its arena are full."""
        records, data = _Records(), bytearray()
        deadline = _deadline(timeout_ns)
        more = True
        self._check_open()
        while more and self._has_room(records, data, limit):
            left = self._take(limit - len(records) // RECORD_SIZE)
            if left is not None:
                for packet in left:
                    records += RECORD.pack(*row_at(packet, len(data)))
                    data += packet.view
                continue
            try:
                more = self._fill(records, data, limit, deadline)
            except ClosedError:
                if not records:
                    raise
                more = False
        self._recheck(records)
        return self._cut(self._finish(records, data), limit)

    def wait(self, timeout_ns: int) -> bool:
        """Whether there is something to receive, by then; takes nothing, so that it may turn out to be unwanted.

        Another thread may receive meanwhile."""
        deadline = _deadline(timeout_ns)
        left = _time_left(deadline)
        if not self._look.acquire(timeout=-1 if left is None else left):
            return False
        try:
            self._check_open()
            ready = self._selector.select(_slice(_time_left(deadline)))
            while not ready and _time_left(deadline) != 0:
                self._check_open()
                ready = self._selector.select(_slice(_time_left(deadline)))
        except (OSError, ValueError):
            self._check_open()  # a signal handler closed it meanwhile
            raise
        finally:
            self._look.release()
        self._check_open()
        return bool(ready)

    def give_back(self, batches: Iterable[Batch]) -> None:
        """Batches that were received here come once more, before anything else, as far as they are still wanted."""
        self._check_open()
        with self._state:
            self._leftovers.insert(0, Batch.concatenate(batches))
            self._recheck_leftovers()  # at once: it may be empty

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            return self.receive(self._batch_size, self.timeout_ns)
        except ClosedError:
            raise StopIteration from None

    def counters(self) -> dict[str, int]:
        """Totals since the opening, by the names of the loss ledger."""
        with self._state:
            return dict(self._counters)

    def fileno(self) -> int:
        """One descriptor, readable when a receive would not wait."""
        self._check_open()
        try:
            number: int = self._selector.fileno()  # type: ignore[attr-defined,unused-ignore]
        except ValueError:  # a signal handler closed it just now
            self._check_open()
            raise
        return number

    def close(self) -> None:
        """Wake who receives in another thread, wait until it has left, and give everything back.

        The sockets stay open."""
        if self._closed:
            return
        self._closed = True
        self._leftovers = []
        self._signal()
        with self._turn, self._look:
            if self._depth == 0:
                self._tear_down()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError(f"{self._subject} is closed")

    def _take(self, limit: int) -> Batch | None:
        """At most `limit` packets of what is left over; None when nothing is."""
        if not self._leftovers or self._closed:
            return None
        with self._state:
            if not self._leftovers:
                return None
            taken = self._split(self._leftovers.pop(0), limit)  # what is left over was checked whenever filters changed
            self._show()
            return taken

    def _cut(self, batch: Batch, limit: int) -> Batch:
        """The first `limit` packets of a batch; what is beyond is left over."""
        if len(batch) <= limit:
            return batch
        with self._state:
            first = self._split(batch, limit)
            self._recheck_leftovers()  # the filters may have changed since it was received
        return first

    def _split(self, batch: Batch, limit: int) -> Batch:
        """The first `limit` packets; the rest stands at the head of what is left over. The state lock is held."""
        if len(batch) <= limit:
            return batch
        self._leftovers.insert(0, make_part(batch, limit, len(batch)))
        return make_part(batch, 0, limit)

    def _wants(self, row: tuple[Any, ...]) -> bool:
        """Whether a socket of this port may deliver the record, by the filters of now."""
        group, interface, source, port = (row[_AT[name]] for name in ("group", "interface", "source", "port"))
        sockets = list(self._sockets.values())  # a signal's handler may close in the middle
        return any(one.port == port and one.filter.allows(group, interface, source) for one in sockets)

    def _recheck(self, records: _Records) -> None:
        """Check a whole batch again when the filters changed meanwhile."""
        if records.epoch != self._epoch:
            self._refilter(records)

    def _refilter(self, records: bytearray) -> None:
        """Take out what is no longer wanted: the filters changed after the packets had passed them."""
        with self._state:
            kept = bytearray()
            for row in RECORD.iter_unpack(records):
                if self._wants(row):
                    kept += RECORD.pack(*row)
                    continue
                self._counters["received"] -= 1
                self._counters["bytes"] -= row[_AT["length"]]
                self._counters["truncated"] -= bool(row[_AT["flags"]] & _TRUNCATED)
                self._counters["filtered"] += 1
            records[:] = kept

    def _recheck_leftovers(self) -> None:
        """Take out of what is left over what is no longer wanted."""
        with self._state:
            rest = []
            for left in self._leftovers:
                records = bytearray(left.records.tobytes())
                self._refilter(records)
                if records:
                    rest.append(take_over(records, bytearray(left.data), self.names))
            if self._leftovers:
                self._leftovers = rest
                self._show()

    def _discard(self, gone: _Socket) -> None:
        """What is still queued at a socket that goes was not asked for any more: count it."""
        for _ in range(_DISCARD_AT_MOST):
            try:
                gone.socket.recv_into(self._buffer, 0, _NOWAIT)
            except OSError:
                return
            self._counters["filtered"] += 1

    def _show(self) -> None:
        """Make the descriptor readable, and wake who waits, as long as something is left over."""
        if self._closed:
            return
        if self._leftovers:
            self._signal()
        else:
            with contextlib.suppress(OSError):  # empty; or closed meanwhile by a signal handler
                while self._wake.recv(64):
                    pass

    def _signal(self) -> None:
        with contextlib.suppress(OSError):  # full means signalled already
            self._waker.send(b"!")

    def _tear_down(self) -> None:
        with self._state:
            self._sockets.clear()
            self._selector.close()
            self._wake.close()
            self._waker.close()

    def _fill(self, records: _Records, data: bytearray, limit: int, deadline: float | None) -> bool:
        """One turn of waiting and receiving: True when packets came or are left over, False when the time was over."""
        left = _time_left(deadline)
        if not self._turn.acquire(timeout=-1 if left is None else left):
            return False
        try:
            self._depth += 1
            return self._fill_in_turn(records, data, limit, deadline)
        except OSError as error:
            if isinstance(error, MulticastError):
                raise
            self._check_open()  # a signal handler closed it meanwhile
            raise socket_error("receive", f"by {self._subject}", error) from error
        finally:
            self._depth -= 1
            if self._closed and self._depth == 0:
                self._tear_down()  # a signal handler closed us in the middle; harmless when done already
            self._turn.release()

    def _fill_in_turn(self, records: _Records, data: bytearray, limit: int, deadline: float | None) -> bool:
        before = len(records)
        while True:
            self._check_open()
            if self._failure is not None and not records:
                failure, self._failure = self._failure, None
                raise failure
            left = _time_left(deadline)
            keys = [key.data for key, _ in self._selector.select(_slice(left))]
            self._check_open()
            if not keys and left == 0:
                return False
            self._drain_ready([key for key in keys if key is not None], records, data, limit)
            if len(records) > before or None in keys:  # packets came, or somebody left some over
                return True
            if deadline is not None and time.monotonic() > deadline + _GRACE:
                return False

    def _drain_ready(self, keys: list[int], records: _Records, data: bytearray, limit: int) -> None:
        """Reads the sockets that are ready, each in its turn first, so that none starves behind busy ones."""
        with self._state:
            self._counters["wakeups"] += bool(keys)
            self._rotation += 1
            start = self._rotation % len(keys) if keys else 0
            try:
                for key in keys[start:] + keys[:start]:
                    if key in self._sockets:
                        self._drain(self._sockets[key], records, data, limit)
            except OSError as error:
                if not records:
                    raise
                self._failure = error  # the packets are delivered first

    def _drain(self, one: _Socket, records: _Records, data: bytearray, limit: int) -> None:
        if not records:
            records.epoch = self._epoch
        enough = len(data) + _GO_BYTES
        for _ in range(_ONE_GO):
            if not self._has_room(records, data, limit) or len(data) >= enough:
                return
            try:
                received = self._receive_from(one.socket)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionResetError:  # Windows: an ICMP answer to what was sent from here
                continue
            self._pack(one, received, records, data)

    def _receive_from(self, socket: socket_module.socket) -> tuple[int, Any, int, Any]:
        """As `socket.recvmsg_into`: the length, the control messages, flags and the source."""
        if _HAS_RECVMSG:
            return socket.recvmsg_into([self._buffer], _CONTROL_SIZE, _RECEIVE)
        wire, name = socket.recvfrom_into(self._buffer)
        return wire, (), _MSG_TRUNC if wire > self._size else 0, name

    def _has_room(self, records: _Records, data: bytearray, limit: int) -> bool:
        return len(records) < limit * RECORD_SIZE and len(data) + self._size <= ARENA_LIMIT

    def _pack(self, one: _Socket, received: Any, records: bytearray, data: bytearray) -> None:
        """Packs what was received into the batch, or counts it as filtered: one packet, or several of one size that the
        kernel coalesced."""
        wire, control, flags, name = received
        length = min(wire, self._size)
        if flags & _MSG_TRUNC and wire <= length:
            wire = 0  # not known: macOS and BSD tell the length after truncation
        told = Told(one.group, one.interface, one.overflow)
        for level, kind, value in control:
            read = READERS.get((level, kind))
            if read is not None:
                read(told, value)
        dropped = (told.overflow - one.overflow) % _DROP_MODULUS + one.owed
        one.overflow = told.overflow
        source = _packed_source(one.family, name[0])
        several = 0 < told.segment < length
        if not one.filter.allows(told.group, told.interface, source):
            one.owed = dropped
            self._counters["filtered"] += -(-length // told.segment) if several else 1
            return
        one.owed = 0
        told.flags |= _TRUNCATED if flags & _MSG_TRUNC else 0
        pieces = [(0, length, wire)]
        if several:
            told.flags |= _COALESCED
            sizes = [(at, min(told.segment, length - at)) for at in range(0, length, told.segment)]
            pieces = [(at, size, size) for at, size in sizes]
        base = len(data)
        for at, size, on_wire in pieces:
            kept = min(size, self._packet_limit)
            cut = _TRUNCATED if kept < size else 0
            records += RECORD.pack(
                told.timestamp, base + at, told.interface, dropped, kept, on_wire, source, told.group, name[1],
                one.port, told.flags | cut, told.ttl, told.tos,
            )  # fmt: skip
            dropped = 0
            self._counters["bytes"] += kept
            self._counters["truncated"] += bool(told.flags & _TRUNCATED or cut)
        data += self._view[:length]
        self._counters["received"] += len(pieces)
        self._counters["buffers"] += 1

    def _finish(self, records: bytearray, data: bytearray) -> Batch:
        """The batch is whole: count it."""
        batch = take_over(records, data, self.names)
        with self._state:
            self._counters["batches"] += 1
            self._counters["largest_batch"] = max(self._counters["largest_batch"], len(batch))
        return batch


@lru_cache(maxsize=4096)
def _packed_source(family: int, host: str) -> bytes:
    packed = socket_module.inet_pton(family, host.partition("%")[0])
    return V4_MAPPED + packed if len(packed) == 4 else packed


def _deadline(timeout_ns: int) -> float | None:
    return None if timeout_ns < 0 else time.monotonic() + timeout_ns / 1e9


def _time_left(deadline: float | None) -> float | None:
    """Seconds to wait now: a day at most, for longer ones overflow what the system takes."""
    return None if deadline is None else min(max(0.0, deadline - time.monotonic()), _LONGEST_WAIT)


def _slice(left: float | None) -> float | None:
    """Seconds to wait at once, of those left."""
    return left if _SLICE is None else _SLICE if left is None else min(left, _SLICE)
