"""Records and arena of a batch on the standard library: the twin of fast/views.pxi."""

import ctypes
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import pairwise, repeat
from operator import eq, le
from operator import index as as_index
from typing import TYPE_CHECKING, Any, overload

from mcast_fast._core import arrow, columns, layout, restore
from mcast_fast._core.addresses import address_text, endpoint, interface_text
from mcast_fast._core.layout import Feature, Flag
from mcast_fast._core.pure.csv import csv_rows as csv_rows  # noqa: PLC0414 - the views of one backend are one module

if TYPE_CHECKING:
    from datetime import datetime as datetime_type

    from mcast_fast._core.columns import Address

_TYPES = {"q": ctypes.c_int64, "I": ctypes.c_uint32, "H": ctypes.c_uint16, "B": ctypes.c_uint8}
_POSITIONS = {field.name: i for i, field in enumerate(layout.FIELDS)}


FEATURES = {
    "arrow": arrow.feature(),
    "packet_buffer": Feature(True, "")
    if sys.version_info >= (3, 12)
    else Feature(False, "the pure backend needs Python 3.12 for it (PEP 688); use bytes(packet) or packet.view"),
}
WRITABLE = 1  # PyBUF_WRITABLE

_numpy_dtype = cache(layout.numpy_dtype)


class Record(ctypes.Structure):
    """The record of layout.py; ctypes gives it its format in the buffer protocol."""

    _fields_ = [(f.name, _TYPES[f.letter] if f.size == 1 else _TYPES[f.letter] * f.size) for f in layout.FIELDS]


class Batch:
    """Packets received together: immutable, and valid as long as anything that was taken from it.

    A sequence of packets: `len(batch)`, `batch[0]`, `batch[-1]`, `batch[10:20]`, `for packet in batch`. For columns,
    `np.asarray(batch)` gives one structured array of 64-byte records without a copy. Threads may read a batch together.
    Batches are equal when their packets are. Pickling takes their own packets only.

    The stub `mcast_fast/_core/fast/views.pyi` documents arguments, results and errors.
    """

    __module__ = "mcast_fast"
    __slots__ = ("_arena", "_count", "_first", "_records", "names")

    _arena: bytearray
    _records: bytearray
    _first: int
    _count: int
    names: dict[int, str]

    def __new__(cls) -> "Batch":
        raise TypeError(layout.NO_BATCH)

    @staticmethod
    def from_bytes(records: Any, data: Any, names: dict[int, str]) -> "Batch":
        """Copy records and the arena that they point into to a new batch."""
        layout.check_names(names)
        records, data = bytes(memoryview(records)), bytes(memoryview(data))  # bytes(8) would be eight zeros
        if len(records) % layout.RECORD_SIZE or not all(
            row[_POSITIONS["offset"]] + row[_POSITIONS["length"]] <= len(data)
            for row in layout.RECORD.iter_unpack(records)
        ):
            raise ValueError("the records do not fit the data")
        return take_over(bytearray(records), bytearray(data), names)

    @staticmethod
    def concatenate(batches: "Iterable[Batch]") -> "Batch":
        """Copy the packets of several batches to one batch, in their order."""
        parts = list(batches)
        if not all(isinstance(one, Batch) for one in parts):
            raise TypeError("only batches can be put together")
        size = sum(part.payload_bytes for part in parts)
        if size > layout.ARENA_LIMIT:
            raise ValueError(f"{size} bytes of payload are more than an arena of {layout.ARENA_LIMIT} bytes can hold")
        records, data = bytearray(), bytearray()
        names: dict[int, str] = {}
        for part in parts:
            for packet in part:
                records += layout.RECORD.pack(*row_at(packet, len(data)))
                data += packet.view
            names |= part.names
        return take_over(records, data, names)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator["Packet"]:
        return map(make_packet, repeat(self), range(self._count))  # no generator: threads may share it

    @overload
    def __getitem__(self, index: int) -> "Packet": ...
    @overload
    def __getitem__(self, index: slice) -> "Batch": ...
    def __getitem__(self, index: int | slice) -> "Packet | Batch":
        if isinstance(index, slice):
            start, stop, step = index.indices(self._count)
            if step != 1:
                raise ValueError("a batch is sliced with step 1 only; for others there is np.asarray(batch)[...]")
            return make_part(self, start, max(start, stop))
        index = as_index(index)
        if not -self._count <= index < self._count:
            raise IndexError(f"packet {index} of a batch of {self._count}")
        return make_packet(self, index + self._count if index < 0 else index)

    @property
    def payload_bytes(self) -> int:
        """The number of bytes of all payloads together."""
        return sum(len(packet) for packet in self)

    def payloads(self) -> list[bytes]:
        """Return every payload as bytes, in the order of arrival."""
        return [packet.data for packet in self]

    def rows(self, size: int) -> memoryview:
        """Return the first `size` bytes of each payload as a read-only memoryview of the shape (len(batch), size)."""
        size = columns.checked_size(size)
        places = [(packet._row[_POSITIONS["offset"]], len(packet)) for packet in self]
        for index, (_, length) in enumerate(places):
            if length < size:
                raise columns.too_short(index, length, size)
        if places and all(after == before + size for (before, _), (after, _) in pairwise(places)):
            return columns.as_rows(self.data[places[0][0] : places[-1][0] + size], size)
        arena = self.data
        return columns.as_rows(memoryview(b"".join(arena[offset : offset + size] for offset, _ in places)), size)

    def view_as(self, dtype: Any) -> Any:
        """Return the payloads as a read-only array of a NumPy type, one element per packet."""
        return columns.structured(self.rows, dtype)

    def where(
        self, *, group: "Address | None" = None, source: "Address | None" = None, port: int | None = None
    ) -> "Batch":
        """Return the packets that match all given conditions, as a batch in the same order."""
        wanted = columns.wanted(group, source, port, self.names)
        found = make_part(self, 0, 0)
        found._records = bytearray().join(
            self._records[start : start + layout.RECORD_SIZE]
            for index, start in enumerate(
                range(self._first * layout.RECORD_SIZE, len(self._records), layout.RECORD_SIZE)
            )
            if index < self._count and _is_match(layout.RECORD.unpack_from(self._records, start), wanted)
        )
        found._first, found._count = 0, len(found._records) // layout.RECORD_SIZE
        return found

    @property
    def records(self) -> memoryview:
        """The records as a read-only structured memoryview, without a copy (PEP 3118)."""
        if not self._count:
            return memoryview((Record * 0)()).toreadonly()
        start = self._first * layout.RECORD_SIZE
        return memoryview((Record * self._count).from_buffer(self._records, start)).toreadonly()

    @property
    def data(self) -> memoryview:
        """The arena as a read-only memoryview, into which `offset` and `length` of a record point."""
        return memoryview(self._arena).toreadonly()

    def borrow(self) -> "Loan":
        """Lend the arena for the duration of a `with`, as `data` but without copying it out of a ring."""
        return Loan(self.data)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The records as a structured NumPy array, read-only and without a copy."""
        import numpy as np

        array = np.frombuffer(self.records, _numpy_dtype())
        if dtype is not None and dtype != array.dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __arrow_c_array__(self, requested_schema: Any = None) -> tuple[Any, Any]:
        """Export the batch through the Arrow C data interface, which pyarrow, polars and DuckDB read."""
        return arrow.export(self)

    def __copy__(self) -> "Batch":
        return self  # it never changes

    def __deepcopy__(self, memo: Any) -> "Batch":
        return Batch.concatenate([self])

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle the packets of this batch and no others; protocol 5 can do so without a copy."""
        whole = Batch.concatenate([self]) if len(self._arena) > self.payload_bytes else self
        parts = whole.records, whole.data
        kind: Any = bytes
        if protocol >= 5:
            from pickle import PickleBuffer  # of some milliseconds

            kind = PickleBuffer
        return restore.batch, (*map(kind, parts), self.names)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Batch):
            found: bool = restore.same(self, other)
            return found
        return self is other or (len(self) == len(other) and all(map(eq, self, other)))

    def __hash__(self) -> int:
        ends = (self[0], self[self._count - 1]) if self._count else ()
        return hash((self._count, ends))

    def __repr__(self) -> str:
        return f"<Batch of {self._count} packets>"

    def _repr_html_(self) -> str:
        """Return the first packets as a table, for notebooks."""
        return columns.batch_html(self)


class Loan:
    """The arena of a batch for as long as a `with` lasts."""

    def __init__(self, memory: memoryview) -> None:
        self._memory = memory
        self._used = False

    def __enter__(self) -> memoryview:
        if self._used:
            raise ValueError("this loan is in use already; call borrow() again")
        self._used = True
        return self._memory

    def __exit__(self, *_: object) -> None:
        with suppress(BufferError):  # it is still exported
            self._memory.release()


def arrow_stream(batches: Iterable[Batch], requested_schema: Any = None) -> Any:
    """Batches of an iterator as the capsule of `__arrow_c_stream__`; all have one schema, so that none is requested.
    FeatureError without what the feature "arrow" needs."""
    return arrow.stream(iter(batches), Batch.from_bytes(b"", b"", {}))


def make_part(whole: Batch, start: int, stop: int) -> Batch:
    """The packets from start to stop, in the same memory; 0 <= start <= stop <= count."""
    part: Batch = object.__new__(Batch)
    part._records = whole._records
    part._arena = whole._arena
    part._first = whole._first + start
    part._count = stop - start
    part.names = whole.names
    return part


def extent(batch: Batch) -> tuple[int, int, frozenset[bytes]]:
    """(the earliest time, the latest one, the groups) of a batch that is not empty; an unknown time is 0."""
    size, group = layout.RECORD_SIZE, layout.offsets()["group"]
    records = bytes(batch._records[batch._first * size : (batch._first + batch._count) * size])
    starts = range(0, len(records), size)
    times = [int.from_bytes(records[start : start + 8], sys.byteorder, signed=True) for start in starts]
    groups = frozenset(records[start + group : start + group + 16] for start in starts)
    return min(times), max(times), groups


def by_time(batch: Batch) -> Batch:
    """The packets of a batch in the order of their times, those of one time in their order; itself where they are."""
    size = layout.RECORD_SIZE
    starts = range(batch._first * size, (batch._first + batch._count) * size, size)
    times = [int.from_bytes(batch._records[start : start + 8], sys.byteorder, signed=True) for start in starts]
    if all(map(le, times, times[1:])):
        return batch
    found = make_part(batch, 0, 0)
    found._records = bytearray().join(
        batch._records[starts[place] : starts[place] + size]
        for place in sorted(range(batch._count), key=times.__getitem__)
    )
    found._first, found._count = 0, batch._count
    return found


def _is_match(row: tuple[Any, ...], wanted: columns.Wanted) -> bool:
    return (
        wanted.port in (None, row[_POSITIONS["port"]])
        and wanted.group in (None, row[_POSITIONS["group"]])
        and wanted.source in (None, row[_POSITIONS["source"]])
        and (wanted.interfaces is None or row[_POSITIONS["interface"]] in wanted.interfaces)
    )


def take_over(records: bytearray, data: bytearray, names: dict[int, str]) -> Batch:
    """A batch that owns this memory from now on."""
    batch: Batch = object.__new__(Batch)
    batch._records = records
    batch._arena = data
    batch._first = 0
    batch._count = len(records) // layout.RECORD_SIZE
    batch.names = names
    return batch


class Packet:
    """One received packet; each property is computed when it is read. What is unknown is None.

    It supports the buffer protocol with its payload: `struct.unpack_from(format, packet)`, `memoryview(packet)`,
    `bytes(packet)`. Packets are equal when their payloads, and all that is known of them, are. A packet keeps the
    memory of its whole batch; `copy()` does not.

    The stub `mcast_fast/_core/fast/views.pyi` documents arguments, results and errors.
    """

    __module__ = "mcast_fast"
    __slots__ = ("_batch", "_row")

    _batch: Batch
    _row: tuple[Any, ...]

    def __new__(cls) -> "Packet":
        raise TypeError(layout.NO_PACKET)

    @property
    def data(self) -> bytes:
        """The payload, as bytes."""
        offset = self._row[_POSITIONS["offset"]]
        return bytes(self._batch._arena[offset : offset + len(self)])

    @property
    def view(self) -> memoryview:
        """The payload as a read-only memoryview, without a copy (of a ring's batch: as `Batch.data`)."""
        offset = self._row[_POSITIONS["offset"]]
        return self._batch.data[offset : offset + len(self)]

    @property
    def timestamp(self) -> int | None:
        """Time of arrival, ns since the Unix epoch; None when unknown."""
        return self._field("timestamp") or None

    @property
    def datetime(self) -> "datetime_type | None":
        """Time of arrival as an aware datetime in UTC, truncated to microseconds; None when unknown."""
        timestamp = self._field("timestamp")
        return columns.utc(timestamp) if timestamp else None

    @property
    def source(self) -> str:
        """Address of the sender; IPv6 link-local addresses have their zone: 'fe80::1%eth0'."""
        return address_text(self._row[_POSITIONS["source"]], self._field("interface"), self._batch.names)

    @property
    def source_port(self) -> int:
        """UDP port of the sender."""
        return self._field("source_port")

    @property
    def source_address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The sender as `socket.sendto` takes it."""
        return endpoint(self._row[_POSITIONS["source"]], self.source_port, self._field("interface"))

    @property
    def group(self) -> str:
        """Destination address of the packet, as its IP header has it."""
        return address_text(self._row[_POSITIONS["group"]], 0, self._batch.names)

    @property
    def port(self) -> int:
        """UDP port of the destination."""
        return self._field("port")

    @property
    def interface(self) -> str | None:
        """Name of the interface on which the packet arrived; None when unknown."""
        return interface_text(self._field("interface"), self._batch.names) or None

    @property
    def interface_index(self) -> int | None:
        """Index of the interface on which the packet arrived; None when unknown."""
        return self._field("interface") or None

    @property
    def dropped(self) -> int:
        """Number of buffers that the kernel dropped just before this packet."""
        return self._field("dropped")

    @property
    def truncated(self) -> bool:
        """Whether the payload was longer than `max_packet_size`."""
        return bool(self._field("flags") & Flag.TRUNCATED)

    @property
    def wire_length(self) -> int | None:
        """Bytes of the payload before truncation; None where the system reports only that it was truncated."""
        known = self._field("wire_length")
        return None if not known and (len(self) or self.truncated) else known

    @property
    def flags(self) -> Flag:
        """Bits of `mcast_fast.Flag`."""
        return Flag(self._field("flags"))

    @property
    def ttl(self) -> int | None:
        """TTL or hop limit; None unless the receiver was opened with `recv_ttl=True` or with a ring."""
        return self._field("ttl") if self._field("flags") & Flag.TTL else None

    @property
    def tos(self) -> int | None:
        """TOS or traffic class; None unless the receiver was opened with `recv_tos=True` or with a ring."""
        return self._field("tos") if self._field("flags") & Flag.TOS else None

    def __len__(self) -> int:
        return self._field("length")

    def __bytes__(self) -> bytes:
        return self.data

    def __buffer__(self, flags: int) -> memoryview:  # PEP 688
        if flags & WRITABLE:
            raise BufferError("Object is not writable.")
        return self.view

    def copy(self) -> "Packet":
        """Return the same packet with memory of its own, so that its batch can be freed."""
        return make_packet(take_over(bytearray(self._plain_record()), bytearray(self.data), self._names()), 0)

    def __copy__(self) -> "Packet":
        return self

    def __deepcopy__(self, memo: Any) -> "Packet":
        return self.copy()

    def __reduce__(self) -> tuple[Any, ...]:
        return restore.packet, (self._plain_record(), self.data, self._names())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Packet):
            found: bool = restore.same(self, other)
            return found
        return row_at(self, 0) == row_at(other, 0) and self._names() == other._names() and self.data == other.data

    def __hash__(self) -> int:
        return hash((self._plain_record(), self.data, self._batch.names.get(self._field("interface"))))

    def __repr__(self) -> str:
        return layout.packet_text(self)

    def _plain_record(self) -> bytes:
        """The record without its place in the arena."""
        return layout.RECORD.pack(*row_at(self, 0))

    def _names(self) -> dict[int, str]:
        """The name of the packet's own interface."""
        index = self._field("interface")
        name = self._batch.names.get(index)
        return {} if name is None else {index: name}

    def _field(self, name: str) -> int:
        value: int = self._row[_POSITIONS[name]]
        return value


def make_packet(batch: Batch, index: int) -> Packet:
    packet: Packet = object.__new__(Packet)
    packet._batch = batch
    packet._row = layout.RECORD.unpack_from(batch._records, (batch._first + index) * layout.RECORD_SIZE)
    return packet


def packets_of(batch: Batch, start: int) -> Iterator[tuple[tuple[Any, ...], bytes]]:
    """(the values of the record, payload) of each packet from `start` on."""
    for index in range(start, len(batch)):
        packet = make_packet(batch, index)
        yield packet._row, packet.data


def row_at(packet: Packet, offset: int) -> tuple[Any, ...]:
    """The values of a packet's record for a copy of the payload at another offset."""
    at = _POSITIONS["offset"]
    return (*packet._row[:at], offset, *packet._row[at + 1 :])
