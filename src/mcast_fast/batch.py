"""Batch: what a receive returns. It composes the core's views over records and arena, and owns their memory."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, overload

from mcast_fast._core import layout

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Block, Packet


class Batch:
    """Packets received together, immutable, its own for as long as anybody keeps it or anything taken from it.

    A sequence of packets: `len(batch)`, `batch[0]`, `batch[-1]`, `batch[10:20]`, `for packet in batch`. For columns,
    `np.asarray(batch)` gives one structured array of 64-byte records without a copy.
    """

    __slots__ = ("_block",)

    def __init__(self, block: "Block") -> None:
        self._block = block

    def __len__(self) -> int:
        return len(self._block)

    def __iter__(self) -> Iterator["Packet"]:
        return iter(self._block)

    @overload
    def __getitem__(self, index: int) -> "Packet": ...
    @overload
    def __getitem__(self, index: slice) -> "Batch": ...
    def __getitem__(self, index: int | slice) -> "Packet | Batch":
        if isinstance(index, slice):
            start, stop, step = index.indices(len(self._block))
            if step != 1:
                raise ValueError("a batch is sliced with step 1 only; use np.asarray(batch)[...] for others")
            return Batch(self._block.part(start, stop))
        return self._block.packet(index + len(self._block) if index < 0 else index)

    def payloads(self) -> list[bytes]:
        """Every payload as bytes, in the order of arrival."""
        return self._block.payloads()

    @property
    def records(self) -> memoryview:
        """The records as a read-only structured memoryview, without a copy (PEP 3118; `mcast_fast.RECORD_FIELDS`
        describes them).

        `np.asarray(batch)` makes the same array some forty times faster than `np.asarray(batch.records)`: NumPy reads
        the format of a structured buffer anew, in Python, at every call.
        """
        return self._block.records

    @property
    def data(self) -> memoryview:
        """The arena: all payloads, one behind the other, as a read-only memoryview; `offset` and `length` of a record
        point into it."""
        return self._block.data

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """The records as a structured NumPy array, read-only and without a copy."""
        array = _numpy_records(self._block)
        if dtype is not None and dtype != array.dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __repr__(self) -> str:
        return f"<Batch of {len(self)} packets, {len(self.data)} bytes>"


class _RecordType:
    """NumPy's type of a record, made when it is first needed: NumPy is never required."""

    def __init__(self) -> None:
        self.dtype: Any = None
        self.from_buffer: Any = None

    def load(self) -> None:
        import numpy as np

        fields = [(f.name, f"={f.letter}".replace("B", "u1"), (f.size,)) for f in layout.FIELDS]
        self.dtype = np.dtype([(n, t) if shape == (1,) else (n, t, shape) for n, t, shape in fields])
        self.from_buffer = np.frombuffer


_record_type = _RecordType()


def _numpy_records(block: "Block") -> Any:
    if _record_type.dtype is None:
        _record_type.load()
    return _record_type.from_buffer(block.records, _record_type.dtype)
