"""Records and arena of a batch on the standard library: the twin of fast/views.pyx."""

import ctypes
from collections.abc import Iterator
from typing import Any

from mcast_fast._core import layout
from mcast_fast._core.addresses import address_text, endpoint, interface_text
from mcast_fast._core.layout import Flag

_TYPES = {"q": ctypes.c_int64, "I": ctypes.c_uint32, "H": ctypes.c_uint16, "B": ctypes.c_uint8}
_POSITIONS = {field.name: i for i, field in enumerate(layout.FIELDS)}


class Record(ctypes.Structure):
    """The record of layout.py; ctypes gives it its format in the buffer protocol."""

    _fields_ = [(f.name, _TYPES[f.letter] if f.size == 1 else _TYPES[f.letter] * f.size) for f in layout.FIELDS]


class Block:
    """Records and their arena: immutable, and alive as long as anything that was taken from it."""

    __slots__ = ("_arena", "_count", "_first", "_records", "names")

    _arena: bytearray
    _records: bytearray
    _first: int
    _count: int
    names: dict[int, str]

    def __init__(self) -> None:
        raise TypeError("blocks come from a receiver, or from Block.from_bytes")

    @staticmethod
    def from_bytes(records: Any, data: Any, names: dict[int, str]) -> "Block":
        """A block of copies: `records` in the record's layout, `data` the arena they point into."""
        records, data = bytes(records), bytes(data)
        if len(records) % layout.RECORD_SIZE or not all(
            row[_POSITIONS["offset"]] + row[_POSITIONS["length"]] <= len(data)
            for row in layout.RECORD.iter_unpack(records)
        ):
            raise ValueError("the records do not fit the data")
        return take_over(bytearray(records), bytearray(data), names)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator["Packet"]:
        return (_make_packet(self, index) for index in range(self._count))

    def packet(self, index: int) -> "Packet":
        """The packet at `index`, 0 <= index < len."""
        if not 0 <= index < self._count:
            raise IndexError(f"packet {index} of a batch of {self._count}")
        return _make_packet(self, index)

    def part(self, start: int, stop: int) -> "Block":
        """The records from start to stop, sharing this memory."""
        block = Block.__new__(Block)
        start = min(max(start, 0), self._count)
        stop = min(max(stop, start), self._count)
        block._records = self._records
        block._arena = self._arena
        block._first = self._first + start
        block._count = stop - start
        block.names = self.names
        return block

    def payloads(self) -> list[bytes]:
        """Every payload as bytes."""
        return [packet.data for packet in self]

    @property
    def records(self) -> memoryview:
        """The records as a read-only, one-dimensional memoryview in the format of `layout.buffer_format()`."""
        start = self._first * layout.RECORD_SIZE
        if not self._count:
            return memoryview((Record * 0)()).toreadonly()
        return memoryview((Record * self._count).from_buffer(self._records, start)).toreadonly()

    @property
    def data(self) -> memoryview:
        """The arena as a read-only memoryview of bytes."""
        return memoryview(self._arena).toreadonly()


def take_over(records: bytearray, data: bytearray, names: dict[int, str]) -> Block:
    """A block that owns this memory from now on."""
    block = Block.__new__(Block)
    block._records = records
    block._arena = data
    block._first = 0
    block._count = len(records) // layout.RECORD_SIZE
    block.names = names
    return block


class Packet:
    """One received packet; each property is built when it is read."""

    __slots__ = ("_block", "_row")

    _block: Block
    _row: tuple[Any, ...]

    def __init__(self) -> None:
        raise TypeError("packets come from a batch")

    @property
    def data(self) -> bytes:
        """The payload, bytes."""
        offset = self._row[_POSITIONS["offset"]]
        return bytes(self._block._arena[offset : offset + len(self)])

    @property
    def view(self) -> memoryview:
        """The payload as a read-only memoryview, without a copy."""
        offset = self._row[_POSITIONS["offset"]]
        return self._block.data[offset : offset + len(self)]

    @property
    def timestamp(self) -> int:
        """Arrival, ns since the Unix epoch; 0 when no time was asked for."""
        return self._field("timestamp")

    @property
    def source(self) -> str:
        """Address of the sender; IPv6 link-local keeps its zone: 'fe80::1%eth0'."""
        return address_text(self._row[_POSITIONS["source"]], self.interface_index, self._block.names)

    @property
    def source_port(self) -> int:
        """UDP port of the sender."""
        return self._field("source_port")

    @property
    def source_address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """The sender as `socket.sendto` takes it."""
        return endpoint(self._row[_POSITIONS["source"]], self.source_port, self.interface_index)

    @property
    def group(self) -> str:
        """The true destination address."""
        return address_text(self._row[_POSITIONS["group"]], 0, self._block.names)

    @property
    def port(self) -> int:
        """UDP port it was sent to."""
        return self._field("port")

    @property
    def interface(self) -> str:
        """Name of the interface it arrived on; '' when unknown."""
        return interface_text(self.interface_index, self._block.names)

    @property
    def interface_index(self) -> int:
        """Index of the interface it arrived on; 0 when unknown."""
        return self._field("interface")

    @property
    def dropped(self) -> int:
        """Buffers the kernel dropped just before this packet."""
        return self._field("dropped")

    @property
    def truncated(self) -> bool:
        """Whether the payload was longer than `max_packet_size`."""
        return bool(self._field("flags") & Flag.TRUNCATED)

    @property
    def wire_length(self) -> int:
        """Bytes of payload before truncation; 0 when unknown."""
        return self._field("wire_length")

    @property
    def flags(self) -> Flag:
        """Bits of `mcast_fast.Flag`."""
        return Flag(self._field("flags"))

    @property
    def ttl(self) -> int | None:
        """TTL or hop limit; None unless the receiver was opened with recv_ttl=True."""
        return self._field("ttl") if self._field("flags") & Flag.TTL else None

    @property
    def tos(self) -> int | None:
        """TOS or traffic class; None unless the receiver was opened with recv_tos=True."""
        return self._field("tos") if self._field("flags") & Flag.TOS else None

    def __len__(self) -> int:
        return self._field("length")

    def __bytes__(self) -> bytes:
        return self.data

    def __repr__(self) -> str:
        return layout.packet_text(self)

    def moved(self, offset: int) -> tuple[Any, ...]:
        """The record's values for a copy of the payload at another offset."""
        at = _POSITIONS["offset"]
        return (*self._row[:at], offset, *self._row[at + 1 :])

    def _field(self, name: str) -> int:
        value: int = self._row[_POSITIONS[name]]
        return value


def _make_packet(block: Block, index: int) -> Packet:
    packet = Packet.__new__(Packet)
    packet._block = block
    packet._row = layout.RECORD.unpack_from(block._records, (block._first + index) * layout.RECORD_SIZE)
    return packet
