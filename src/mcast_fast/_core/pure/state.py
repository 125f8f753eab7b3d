"""What a receiver of the pure backend has read, keeps and counts; nothing here waits.

The exception of a signal's handler can come between any two bytecodes, and the handler can make any call in the middle
of any other. Therefore the state is values that are replaced, not changed, and each change is one store, or a few with
no call in between: CPython runs no handler there. What was computed from a state that a handler's call has replaced
meanwhile is computed again. A packet is at each moment in exactly one place: `_pending` (read, not packed), a `Call`,
or `_unread`; what a call has when an exception ends it becomes unread.
"""

import contextlib
import selectors
import threading
from typing import Any

from mcast_fast._core import pairs
from mcast_fast._core.coalescing import Mode
from mcast_fast._core.layout import ARENA_LIMIT, FIELDS, MAX_PACKET_SIZE, RECORD, RECORD_SIZE, Flag
from mcast_fast._core.lifetime import Lifetime
from mcast_fast._core.pure.coalescing import Coalescing
from mcast_fast._core.pure.reading import Buffers, Own, Packing, Read, Socket, is_own, packets_in
from mcast_fast._core.pure.sequence import Tracker
from mcast_fast._core.pure.views import Batch, Packet, make_part, take_over
from mcast_fast.errors import socket_error

_COUNTERS = (
    "received", "bytes", "truncated", "filtered", "fragments", "dropped_socket", "dropped_ring", "detached", "batches",
    "largest_batch", "wakeups", "dropped_memory", "buffers", "coalesced", "dropped_inexactly",
)  # fmt: skip
_UINT32 = 2**32 - 1
_TRUNCATED, _COALESCED = int(Flag.TRUNCATED), int(Flag.COALESCED)
_AT = {field.name: i for i, field in enumerate(FIELDS)}
_LENGTH, _FLAGS, _DROPPED = _AT["length"], _AT["flags"], _AT["dropped"]
_KEY = tuple(_AT[name] for name in ("group", "interface", "source", "source_port", "port"))

_Unread = tuple[Batch, Any] | None  # the first batch and what is behind it, again so


class Call:
    """What a call has received and not returned: an exception that ends the call leaves it unread."""

    __slots__ = ("batch", "data", "epoch", "packet", "records")

    def __init__(self) -> None:
        self.records, self.data = bytearray(), bytearray()  # the batch under construction
        self.epoch = 0  # the number of changes of filters that its first packet passed
        self.batch: Batch | None = None  # about to be returned, or copied
        self.packet: Packet | None = None  # the first one of `batch`


class State:
    """The sockets of a receiver, its counters, what is unread, and the descriptor that shows whether something is.

    SocketError. Where a method says nothing else, the lock `_state` is held."""

    def __init__(
        self, life: Lifetime, subject: str, names: dict[int, str], buffers: Buffers, packet_limit: int, mode: Mode
    ) -> None:
        self.names = names
        self._subject = subject
        self._life = life
        self._packet_limit = packet_limit
        self._buffers = buffers
        self._coalescing = Coalescing(mode)
        self._sockets: dict[int, Socket] = {}
        self._counters = dict.fromkeys(_COUNTERS, 0)
        self._own: Own = frozenset()
        self._epoch = 0  # the number of changes of filters
        self._unread: _Unread = None
        self._unread_epoch = 0  # of the filters that all of it has passed
        self._pending: Read | None = None
        self._tracker: Tracker | None = None
        self._shown = False  # the descriptor is readable because of what is unread
        self._has_cut = False  # the buffers are too small for what somebody else has coalesced
        self._state = threading.RLock()
        # Known before it has a descriptor: a selector is in a cycle of its own, so that one that an exception of a
        # signal handler leaves to nobody would be closed by a collection only.
        self._selector = selectors.DefaultSelector.__new__(selectors.DefaultSelector)
        try:
            self._selector.__init__()  # type: ignore[misc]
            self._wake, self._waker = pairs.connected()
        except BaseException as error:
            with contextlib.suppress(AttributeError):  # it has no descriptor yet
                self._selector.close()
            if isinstance(error, OSError):
                raise socket_error("open", subject, error) from error
            raise
        self._wake.setblocking(False)
        self._waker.setblocking(False)
        self._selector.register(self._wake, selectors.EVENT_READ, None)

    def _grow_buffers(self) -> None:
        """Make the buffers large enough for what is coalesced; nothing is read that is not packed."""
        if self._buffers.size < MAX_PACKET_SIZE:
            self._buffers = Buffers(len(self._buffers), MAX_PACKET_SIZE)

    # ---- a batch under construction ----

    def _pack(self, call: Call) -> None:
        """Adds what was read to the batch and to the counters."""
        while (read := self._pending) is not None:
            one, before = read.one, self._counters
            count, base = len(call.records), len(call.data)
            packing = Packing(read, self._buffers, self._packet_limit, base)
            payload, counters = b"".join(packing.payloads), packing.counters(before)
            overflow, pending_drops = one.overflow, one.pending_drops
            if self._tracker is not None:
                self._tracker.take(packing.records, payload, base, read, [])  # once, however often this is begun
            if self._pending is not read or self._counters is not before:
                continue  # the handler of a signal received or counted meanwhile
            try:
                call.data += payload
                call.records += packing.records
                call.epoch = call.epoch if count else read.epoch
                one.overflow, one.pending_drops = packing.overflow, packing.pending_drops
                self._counters = counters
                self._has_cut |= packing.has_cut
                self._pending = None
            except BaseException:  # no memory; with PyPy the handler of a signal, too
                if self._pending is read:
                    del call.records[count:], call.data[base:]
                    one.overflow, one.pending_drops, self._counters = overflow, pending_drops, before
                raise

    def _copy(self, call: Call) -> bool:
        """Adds the packets that were taken to the batch under construction; False when they have no space."""
        with self._state:
            batch = call.batch
            assert batch is not None
            records, data, base = bytearray(), bytearray(), len(call.data)
            with batch.data as arena:
                for row in RECORD.iter_unpack(bytes(batch.records)):
                    timestamp, offset, *rest = row
                    length = row[_LENGTH]
                    if base + len(data) + length > ARENA_LIMIT:
                        self._unread, call.batch = (batch, self._unread), None
                        self._show()
                        return False
                    records += RECORD.pack(timestamp, base + len(data), *rest)
                    data += arena[offset : offset + length]
            call.data += data
            call.records += records
            call.batch = None
            return True

    def _finish(self, call: Call, limit: int) -> bool:
        """The batch is whole: what is beyond the limit stays unread. False where none of it is wanted any more."""
        with self._state:
            while call.records:
                epoch, before = self._epoch, self._counters
                if call.epoch != epoch:
                    kept, counters = self._sift(call.records, before)
                    if self._epoch == epoch and self._counters is before:
                        call.records, call.epoch, self._counters = kept, epoch, counters
                    continue
                first, rest = take_over(call.records, call.data, self.names), None
                if len(first) > limit:
                    first, rest = make_part(first, 0, limit), make_part(first, limit, len(first))
                records, data = bytearray(), bytearray()
                if self._epoch != epoch:
                    continue
                call.batch, call.records, call.data = first, records, data
                if rest is not None:
                    self._unread = (rest, self._unread)
                    self._show()
                return True
        return False

    def _room(self, call: Call, limit: int) -> int:
        """How many buffers the batch may take: by its limit, and by that of an arena."""
        count = limit - len(call.records) // RECORD_SIZE
        return min(count, (ARENA_LIMIT - len(call.data)) // self._buffers.size, len(self._buffers))

    def _count_delivered(self, call: Call) -> None:
        count = 0 if call.batch is None else len(call.batch)
        with self._state:
            counters = self._counters
            largest = counters["largest_batch"]
            self._counters = counters | {
                "batches": counters["batches"] + 1,
                "largest_batch": count if count > largest else largest,  # noqa: FURB136 - no call here
            }

    # ---- what is unread ----

    def _take(self, call: Call, limit: int) -> bool:
        """Moves at most `limit` packets of what is unread to the call; False where nothing is."""
        if self._unread is None:
            return False
        with self._state:
            self._filter_unread()
            while (unread := self._unread) is not None and not self._life.closed:
                first, rest = unread
                if len(first) > limit:
                    rest = (make_part(first, limit, len(first)), rest)
                    first = make_part(first, 0, limit)
                if self._unread is unread:
                    if not call.records:
                        call.epoch = self._unread_epoch
                    call.batch = first
                    self._unread = rest
                    self._show()
                    return True
        return False

    def _put_first(self, batches: list[Batch]) -> None:
        """Batches come before everything else that is unread."""
        while True:
            chain = unread = self._unread
            for one in reversed(batches):
                chain = (one, chain)
            if self._unread is unread:
                self._unread = chain
                self._unread_epoch = -1
                return

    def _put_call(self, call: Call, batch: Batch, records: bytearray, data: bytearray) -> None:
        """One batch of a call becomes unread, in one step; `records` and `data` are what the call keeps."""
        if len(batch):
            self._unread = (batch, self._unread)
            self._unread_epoch = -1
        call.batch, call.records, call.data = None, records, data

    def _recover(self) -> None:
        """What a call had read when an exception ended it becomes unread."""
        call = Call()
        with self._state:
            self._pack(call)
            if call.records:
                self._put_call(call, take_over(call.records, call.data, self.names), bytearray(), bytearray())
            self._filter_unread()

    def _wants(self, row: tuple[Any, ...]) -> bool:
        """Whether a socket of this port may deliver the record, by the filters of now."""
        group, interface, source, source_port, port = (row[at] for at in _KEY)
        if self._own and is_own(self._own, source, source_port, port, interface):
            return False
        for one in list(self._sockets.values()):  # the handler of a signal may remove one in the middle
            if one.port == port and one.filter.allows(group, interface, source):
                return True
        return False

    def _sift(self, records: bytes | bytearray, before: dict[str, int]) -> tuple[bytearray, dict[str, int]]:
        """Those records that are still wanted, and the counters with the others counted as filtered.

        The drops of a record that goes are those of the next one."""
        kept = bytearray()
        dropped = gone = size = truncated = coalesced = 0
        for row in RECORD.iter_unpack(bytes(records)):
            if self._wants(row):
                total = row[_DROPPED] + dropped & _UINT32
                kept += RECORD.pack(*row[:_DROPPED], total, *row[_DROPPED + 1 :])
                dropped = 0
                continue
            dropped += row[_DROPPED]
            gone += 1
            size += row[_LENGTH]
            truncated += bool(row[_FLAGS] & _TRUNCATED)
            coalesced += bool(row[_FLAGS] & _COALESCED)
        return kept, before | {
            "received": before["received"] - gone,
            "bytes": before["bytes"] - size,
            "truncated": before["truncated"] - truncated,
            "coalesced": before["coalesced"] - coalesced,
            "filtered": before["filtered"] + gone,
        }

    def _filter_unread(self) -> None:
        """Takes out of what is unread what is no longer wanted, and shows whether some is left."""
        while self._unread_epoch != self._epoch:
            epoch, unread, before = self._epoch, self._unread, self._counters
            rest, counters, kept = unread, before, list[Batch]()
            while rest is not None:
                batch, rest = rest
                records, counters = self._sift(bytes(batch.records), counters)
                if len(records) == len(batch) * RECORD_SIZE:
                    kept.append(batch)
                elif records:  # a copy, for the packets may be in a batch that was delivered; its payloads stay
                    kept.append(take_over(records, batch._arena, batch.names))
            chain: _Unread = None
            for batch in reversed(kept):
                chain = (batch, chain)
            if self._epoch == epoch and self._unread is unread and self._counters is before:
                self._unread, self._counters, self._unread_epoch = chain, counters, epoch
        self._show()

    def _forget(self, one: Socket) -> None:
        """Takes a socket out, with its drops counted for good."""
        one.read_memory()
        discarded = sum(map(packets_in, one.discarded))
        if one.key in self._sockets:  # else the handler of a signal took it out meanwhile
            counters = self._counters
            self._counters = counters | {
                "dropped_socket": counters["dropped_socket"] + one.drops,
                "dropped_inexactly": counters["dropped_inexactly"] + one.inexact_drops,
                "filtered": counters["filtered"] + discarded,
            }
            del self._sockets[one.key]
            self._coalescing.remove(one)
            self._epoch += 1

    # ---- what the descriptor shows ----

    def _show(self) -> None:
        """Makes the descriptor readable, and wakes all that wait, as long as something is unread."""
        if self._unread is not None:
            if not self._shown:
                self._signal()
                self._shown = True
        elif self._shown:
            self._clear()

    def _look_why_woken(self) -> None:
        """Ends what the descriptor shows when there is no reason for it."""
        with self._state:
            if self._unread is None:
                self._clear()

    def _clear(self) -> None:
        self._shown = False  # first: what is signalled from now on is not lost
        with contextlib.suppress(OSError):  # empty
            while self._wake.recv(64):
                pass
        if self._unread is not None or self._life.closed:  # since a moment ago
            self._signal()
            self._shown = True

    def _signal(self) -> None:
        with contextlib.suppress(OSError):  # full means signalled already
            self._waker.send(b"!")

    def _close_descriptors(self) -> None:
        try:
            self._selector.close()
        finally:
            try:
                self._wake.close()
            finally:
                self._waker.close()
