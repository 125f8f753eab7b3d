"""The receiver's core on the standard library: the twin of fast/slots.pxi.

Locks, in the order in which they are taken; each can be taken again by its thread, for the handler of a signal may make
any call in the middle of any other:
  inside   one for each thread (_core/lifetime.py), held during a use. close() waits for none of them.
  _state   what state.py has. Never held while waiting.
In another process than the one that opened the receiver none is taken.
"""

import contextlib
import socket as socket_module
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mcast_fast._core.coalescing import CoalescingEvent, Mode
from mcast_fast._core.layout import MAX_PACKET_SIZE, RECORD_SIZE, Feature
from mcast_fast._core.lifetime import Lifetime
from mcast_fast._core.pure.reading import REPORTS_DROPS, Buffers, Filter, Own, Row, Socket, discard
from mcast_fast._core.pure.rounds import HAS_DESCRIPTOR, Rounds, no_descriptor
from mcast_fast._core.pure.sequence import Tracker
from mcast_fast._core.pure.state import Call
from mcast_fast._core.pure.tables import SYSTEM
from mcast_fast._core.pure.views import Batch, Packet, make_packet, take_over
from mcast_fast.errors import ClosedError, FeatureError, socket_error

FEATURES = {
    "batched_receive": Feature(False, "the pure backend receives one packet per system call"),
    "background": Feature(False, "the pure backend has no thread that receives without Python"),
    "background_cpu": Feature(False, "the pure backend has no thread that receives without Python"),
    "wire_length": Feature(
        SYSTEM.reports_wire_length,
        "" if SYSTEM.reports_wire_length else f"{SYSTEM.name} reports that a packet was truncated, not how long it was",
    ),
    "ring": Feature(False, "the pure backend has no mapped ring"),
    "descriptor": Feature(HAS_DESCRIPTOR, no_descriptor()),
}

_DISCARD_AT_MOST = 1_000_000  # packets; bounded, for the port of a socket that goes may be sent to

_Result = TypeVar("_Result")


class Slots(Rounds):
    """Sources that are received from together. Iterates over batches until closed.

    `batch_size` packets per batch, of `max_packet_size` bytes at most; `coalescing`: when the kernel may hand over
    several packets as one (UDP_GRO), and then `coalesced_batch_size` packets per batch. `names` maps interface indexes
    to names, and goes with every batch: a change of names is a new dict. `subject` is what errors call the receiver.
    `timeout_ns` is how long an iteration waits, < 0 forever.

    Every call is made inside (`with slots:`); close() marks the receiver closed and wakes all that wait, and the last
    one out frees everything, and calls `when_idle`. In another process than the one that opened it, every call but
    close() raises ClosedError, and close() closes descriptors alone.

    After `defer()`, the next receive call, waits, or gets the descriptor calls `when_receiving` first, until
    `end_deferral()`."""

    def __init__(
        self,
        batch_size: int,
        max_packet_size: int,
        names: dict[int, str],
        subject: str,
        coalescing: int = Mode.NEVER,
        coalesced_batch_size: int = 0,
    ) -> None:
        self.when_idle: Callable[[], object] | None = None
        self.when_receiving: Callable[[], object] | None = None
        self.timeout_ns = -1
        known = weakref.ref(self)
        mode = Mode(coalescing)
        buffers = Buffers(batch_size, MAX_PACKET_SIZE if mode == Mode.ALWAYS else max_packet_size)
        super().__init__(Lifetime(subject, lambda: _end(known)), subject, names, buffers, max_packet_size, mode)
        self._batch_sizes = (batch_size, max(batch_size, coalesced_batch_size))
        self._next_key = 0

    def __del__(self) -> None:
        if hasattr(self, "_waker"):  # opened whole
            self._close_descriptors()

    # ---- inside and out ----

    def inside(self) -> "threading.RLock":
        """What is entered for the time of a use: `try: with slots.inside(): slots.check(); … finally: slots.settle()`.

        The fast backend needs no more than this; the pure one is entered by a lock of C: no signal comes between."""
        if self._life.foreign:  # a thread of the other process may have held the lock
            self._life.check()
        return self._life.inside()

    def check(self) -> None:
        """ClosedError when the receiver is closed or another process's; to be called inside."""
        self._life.check()

    def settle(self) -> None:
        """The end of a use: the last one out of what was closed frees it."""
        self._life.settle()

    def __enter__(self) -> "Slots":
        lock = self.inside()
        lock.acquire()
        try:
            self._life.check()
        except BaseException:
            lock.release()
            self._life.settle()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._life.inside().release()
        finally:
            self._life.settle()

    def _within(self, work: Callable[..., _Result], *arguments: Any) -> _Result:
        """One use."""
        try:
            with self.inside():
                self._life.check()
                return work(*arguments)
        finally:
            self._life.settle()

    def close(self) -> None:
        """Mark the receiver closed, and wake all that wait: they get ClosedError; the last one out frees everything.

        That is this call when no call is inside. From any thread and from a signal handler. The sockets stay open."""
        if not self._life.foreign:
            with self._life.inside():  # the last one out closes what the signal goes through
                self._life.closed = True
                self._signal()
        self._life.close()

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._life.closed

    @property
    def foreign(self) -> bool:
        """Whether another process opened it."""
        return self._life.foreign

    def _end(self) -> None:
        """Nobody is inside what was closed."""
        if self._life.foreign:
            self._close_descriptors()
        else:
            with self._state:
                self._pack(Call())
                for one in list(self._sockets.values()):
                    self._forget(one)
                self._unread = None
                self._close_descriptors()
        idle, self.when_idle = self.when_idle, None
        try:
            if idle is not None:
                idle()
        except BaseException:
            self.when_idle = idle  # for the next close()
            raise

    # ---- what is received ----

    def run_in_background(self, limit: int, cpu: int) -> None:
        """Receive in a thread of its own from now on, of which `limit` bytes may wait for a receive call; before
        anything is received. `cpu`: where it runs, -1 anywhere. SocketError."""
        raise FeatureError(FEATURES["background"].reason)

    def track(self, tracker: Tracker) -> None:
        """Have a tracker see every packet once, as it is received; before anything is."""
        self._tracker = tracker

    def add(
        self,
        socket: socket_module.socket,
        port: int,
        group: bytes,
        interface: int,
        decider: socket_module.socket | None = None,
        used: bool = False,
    ) -> int:
        """Receive from this socket too; the key by which it is named from now on.

        Every packet of it has this port; `group` (16 bytes; zeros = reported with each packet) and `interface` (0 =
        reported) are what its binding implies. `decider`: a socket that can be bound alike to decide whether packets
        are coalesced (c/coalescing.h). Both stay their opener's. `used`: the socket may have dropped packets before,
        which are not counted."""
        if len(group) != 16:
            raise ValueError("the group is a packed address of 16 bytes")
        return self._within(self._add, socket, port, group, interface, decider, used)

    def _add(
        self,
        socket: socket_module.socket,
        port: int,
        group: bytes,
        interface: int,
        decider: socket_module.socket | None,
        used: bool,
    ) -> int:
        with self._state:
            key = self._next_key
            self._next_key = key + 1
            one = Socket(socket, key, port, group, interface, int(socket.family), decider)
            if used:
                one.begin()
            try:
                self._register(one)
            except OSError as error:
                raise socket_error("open", self._subject, error) from error
            self._sockets[key] = one
            self._coalescing.add(one)
            return key

    def hand_over(self, key: int, heir: int) -> None:
        """The decider of a socket that will be removed is that of another one, which is bound alike, from now on.

        After close() there is nothing to hand over."""
        if self._life.closed or self._life.foreign:
            return
        with contextlib.suppress(ClosedError):
            self._within(self._hand_over, key, heir)

    def _hand_over(self, key: int, heir: int) -> None:
        with self._state:
            one, other = self._sockets.get(key), self._sockets.get(heir)
            if one is not None and other is not None:
                self._coalescing.hand_over(one, other)

    def add_ring(
        self,
        socket: socket_module.socket,
        interface: int,
        block_size: int,
        blocks: int,
        latency_ms: int,
        times: bool,
        delivers: int = 0,
    ) -> int:
        """Map a ring over a packet socket that is not bound yet, and receive from it too; its key.

        Every packet came by `interface`. A block of `block_size` bytes is handed over when it is full, or `latency_ms`
        after its first packet; `times`: whether records have the time of arrival; `delivers`: see
        layout.RING_DELIVERS. Nothing passes before a `listen`."""
        raise FeatureError(FEATURES["ring"].reason)

    def listen(self, ring: int, port: int) -> int:
        """Receive from the ring of this key what goes to a port; the key by which to `accept` and `remove` it."""
        raise FeatureError(FEATURES["ring"].reason)

    def defer(self) -> bool:
        """Have `when_receiving` called before the next wait; False when a call may be receiving already."""
        return False  # whatever it is has to be done at once: only rings defer something, and there are none here

    def end_deferral(self) -> None:
        """What was deferred is done."""

    def remove(self, key: int) -> None:
        """Receive from this socket no more; what is queued there counts as filtered. The socket stays open.

        After close() there is nothing to remove."""
        if self._life.closed or self._life.foreign:
            return
        with contextlib.suppress(ClosedError):
            self._within(self._remove, key)

    def _remove(self, key: int) -> None:
        with self._state:
            gone = self._sockets.get(key)
            if gone is not None:
                discard(gone, _DISCARD_AT_MOST)
                self._forget(gone)
                self._unregister(gone)
            self._filter_unread()

    def accept(self, key: int, entries: Iterable[Row] | None) -> None:
        """What may be delivered from this socket from now on: None = everything, else rows.

        A row is (group, interface, exclude, sources), each group and interface once; addresses have 16 bytes;
        interface 0 = any; `exclude` says that the sources are those not wanted."""
        self._within(self._accept, key, Filter(entries))

    def _accept(self, key: int, new: Filter) -> None:
        with self._state:
            one = self._sockets.get(key)
            if one is not None:
                one.filter = new
                self._epoch += 1
            self._filter_unread()

    def refuse_own(self, addresses: Iterable[tuple[bytes, int]]) -> None:
        """Deliver nothing from now on that comes from one of these addresses and from the port that it goes to.

        An address is (16 bytes, interface), interface 0 = any; such packets count as filtered. None at all: deliver
        them."""
        own = frozenset(addresses)
        if any(len(address) != 16 for address, _ in own):
            raise ValueError("groups and sources are packed addresses of 16 bytes")
        self._within(self._refuse_own, own)

    def _refuse_own(self, own: Own) -> None:
        with self._state:
            self._own = own
            self._epoch += 1
            self._filter_unread()

    # ---- receiving ----

    def receive(self, limit: int, timeout_ns: int) -> Batch:
        """A batch of 1..limit packets; timeout_ns < 0 waits forever.

        Raises TimeoutError when none came in time, ClosedError, SocketError."""
        call = Call()
        self._run(self._receive_batch, call, limit, timeout_ns)
        assert call.batch is not None
        return call.batch

    def receive_one(self, timeout_ns: int) -> Packet:
        """One packet; what came with it stays unread for the next call. Errors as `receive`."""
        call = Call()
        self._run(self._receive_packet, call, 1, timeout_ns)
        assert call.packet is not None
        return call.packet

    def collect(self, limit: int, timeout_ns: int) -> Batch:
        """A batch of `limit` packets; or of those that came in time or before the close (maybe none).

        It ends early when the 4 GiB of its arena are full. When a signal's handler raises, what was collected stays
        unread for the next call."""
        call = Call()
        self._run(self._collect, call, limit, timeout_ns)
        assert call.batch is not None
        return call.batch

    def _run(self, work: Callable[[Call, int, int], None], call: Call, limit: int, timeout_ns: int) -> None:
        """One use that receives. Whoever calls this makes no further call before it returns what `call` has."""
        try:
            try:
                with self.inside():
                    self._life.check()
                    work(call, limit, timeout_ns)
            finally:
                self._life.settle()
        except BaseException:
            self._requeue(call)
            raise

    def _receive_batch(self, call: Call, limit: int, timeout_ns: int) -> None:
        self._receive(call, limit, limit, timeout_ns)
        self._count_delivered(call)

    def _receive_packet(self, call: Call, limit: int, timeout_ns: int) -> None:
        self._receive(call, self.batch_size, limit, timeout_ns)
        assert call.batch is not None
        call.packet = make_packet(call.batch, 0)

    def _receive(self, call: Call, ahead: int, limit: int, timeout_ns: int) -> None:
        """Up to `ahead` packets are received at once, and what is beyond `limit` stays unread."""
        deadline = _deadline(timeout_ns)
        while not self._take(call, limit):
            if not self._fill(call, ahead, deadline):
                raise TimeoutError(f"no packet came within {timeout_ns / 1e9:g} s")
            if call.records and self._finish(call, limit):  # none is left where the filters changed meanwhile
                return

    def _collect(self, call: Call, limit: int, timeout_ns: int) -> None:
        deadline = _deadline(timeout_ns)
        more = True
        while more and self._room(call, limit) > 0:
            if self._take(call, limit - len(call.records) // RECORD_SIZE):
                more = self._copy(call)
                continue
            try:
                more = self._fill(call, limit, deadline)
            except ClosedError:
                if not call.records:
                    raise
                break
        if not self._finish(call, limit):
            call.batch = take_over(bytearray(), bytearray(), self.names)
        self._count_delivered(call)

    def wait(self, timeout_ns: int) -> bool:
        """Whether there is something to receive, by then; takes nothing, so that it may turn out to be unwanted.

        Another thread may receive meanwhile."""
        return self._within(self._wait, _deadline(timeout_ns))

    def give_back(self, batches: Iterable[Batch]) -> None:
        """Batches that were received here come once more, before anything else, as far as they are still wanted."""
        again = list(batches)
        if not all(isinstance(one, Batch) for one in again):
            raise TypeError("only batches can be given back")
        self._within(self._give_back, [one for one in again if len(one)])

    def _give_back(self, batches: list[Batch]) -> None:
        with self._state:
            self._put_first(batches)
            self._filter_unread()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        try:
            return self.receive(self.batch_size, self.timeout_ns)
        except ClosedError:
            if self._life.foreign:
                raise
            raise StopIteration from None

    def _requeue(self, call: Call) -> None:
        """An exception ended a call: what it has received comes before everything else that is unread."""
        if call.batch is None and not call.records and self._pending is None:
            return
        with contextlib.suppress(ClosedError):
            self._within(self._requeue_inside, call)

    def _requeue_inside(self, call: Call) -> None:
        with self._state:
            if self._pending is not None:
                self._recover()
            if call.batch is not None:
                self._put_call(call, call.batch, call.records, call.data)
            if call.records:
                self._put_call(call, take_over(call.records, call.data, self.names), bytearray(), bytearray())
            self._filter_unread()

    # ---- state ----

    @property
    def batch_size(self) -> int:
        """Packets per batch at the most, where a receive does not say otherwise."""
        return self._batch_sizes[self._coalescing.is_on]

    @property
    def coalescing_window(self) -> int:
        """For how many ns pressure and calm are looked at together (c/coalescing.h); a test makes it short."""
        return self._coalescing.window

    @coalescing_window.setter
    def coalescing_window(self, window: int) -> None:
        self._coalescing.window = max(1, window)

    def coalescing_events(self) -> list[CoalescingEvent]:
        """What happened to coalescing since the last call, the oldest first. After close() too."""
        if self._life.foreign:
            self._life.check()
        return self._coalescing.take_events()

    def counters(self) -> dict[str, int | None]:
        """Totals since the opening, by the names of the loss ledger; `dropped_socket` is None where the system does not
        report it. After close() too."""
        if self._life.foreign:
            self._life.check()
        with self._state:
            while True:
                before, drops = self._counters, 0
                inexact = before["dropped_inexactly"]
                for one in list(self._sockets.values()):
                    one.read_memory()
                    drops += one.drops
                    inexact += one.inexact_drops
                total = before["dropped_socket"] + drops if REPORTS_DROPS else None
                counters: dict[str, int | None] = {**before, "dropped_socket": total, "dropped_inexactly": inexact}
                if self._counters is before:  # else the handler of a signal counted meanwhile
                    return counters

    def fileno(self) -> int:
        """One descriptor, readable when a receive would not wait."""
        return self._within(self._descriptor)

    def _descriptor(self) -> int:
        number: int = self._selector.fileno() if HAS_DESCRIPTOR else -1  # type: ignore[attr-defined,unused-ignore]
        return number


def _end(known: "weakref.ref[Slots]") -> None:
    """Ends a receiver by a reference that does not keep it alive."""
    slots = known()
    if slots is not None:
        slots._end()


def _deadline(timeout_ns: int) -> float | None:
    return None if timeout_ns < 0 else time.monotonic() + timeout_ns / 1e9
