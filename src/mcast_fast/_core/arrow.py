"""Batches for other libraries through the Arrow C interfaces, where the batch is pure Python's: built by pyarrow, whose
arrays take care of the end of the interpreter. The compiled backend needs no pyarrow (c/arrow.h); the columns are the
same.
"""

import importlib
import importlib.util
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mcast_fast._core.addresses import plain_text, utf8
from mcast_fast._core.layout import RECORD_SIZE, Feature, Flag, offsets
from mcast_fast.errors import FeatureError

MISSING = "the pure backend needs pyarrow for Arrow; install it with: pip install 'mcast-fast[arrow]'"


def feature() -> Feature:
    """Whether pyarrow is there, which is not imported to find out."""
    return Feature(True, "") if importlib.util.find_spec("pyarrow") else Feature(False, MISSING)


def _pyarrow() -> Any:
    try:
        return importlib.import_module("pyarrow")
    except ImportError:
        raise FeatureError(MISSING) from None


# ---- columns ----


def _values(flat: memoryview, letter: str, field: str) -> memoryview:
    """The values of a field of all records, one after the other."""
    values: Any = flat.cast(letter)  # type: ignore[call-overload]
    size = values.itemsize
    cut: memoryview = values[offsets()[field] // size :: RECORD_SIZE // size]
    return memoryview(cut.tobytes()).cast(letter)  # type: ignore[call-overload, no-any-return]


def _bits(known: Iterable[object], count: int) -> bytes:
    """A bit for each value that is true."""
    bits = bytearray((count + 7) // 8)
    for i, one in enumerate(known):
        if one:
            bits[i >> 3] |= 1 << (i & 7)
    return bytes(bits)


class _Columns:
    """The columns of one batch, as arrays of pyarrow."""

    def __init__(self, batch: Any) -> None:
        self._pyarrow = _pyarrow()
        self._batch = batch
        self._count = len(batch)
        self._flat = memoryview(bytes(batch.records))

    def _array(self, kind: Any, buffers: list[Any]) -> Any:
        wrapped = [None if buffer is None else self._pyarrow.py_buffer(buffer) for buffer in buffers]
        return self._pyarrow.Array.from_buffers(kind, self._count, wrapped)

    def _numbers(self, kind: Any, letter: str, field: str, known: Sequence[object] | None = None) -> Any:
        values = _values(self._flat, letter, field)
        if known is not None and not all(known):
            return self._array(kind, [_bits(known, self._count), values])
        return self._array(kind, [None, values])

    def _dictionary(self, values: Sequence[Any], text: Callable[[Any], str]) -> Any:
        """A column of few different texts, each kept once."""
        numbers: dict[Any, int] = {}
        rows = [numbers.setdefault(value, len(numbers)) for value in values]
        texts = self._pyarrow.array(list(map(text, numbers)), self._pyarrow.string())
        return self._pyarrow.DictionaryArray.from_arrays(self._pyarrow.array(rows, self._pyarrow.int32()), texts)

    def _addresses(self, field: str) -> Any:
        start = offsets()[field]
        raw = bytes(self._flat)
        return self._dictionary(
            [raw[at : at + 16] for at in range(start, start + self._count * RECORD_SIZE, RECORD_SIZE)], plain_text
        )

    def _known_wire_lengths(self, flags: list[int]) -> list[object]:
        """Whether each is known: 0 is the length of an empty payload, and unknown elsewhere."""
        wires, lengths = (_values(self._flat, "H", name).tolist() for name in ("wire_length", "length"))
        return [
            wire or not (length or one & Flag.TRUNCATED.value)
            for wire, length, one in zip(wires, lengths, flags, strict=True)
        ]

    def _payloads(self) -> Any:
        """Payloads where they are when they follow one another without gaps, else a copy. Offsets have 64 bits, for an
        arena may have 4 GiB."""
        starts = _values(self._flat, "I", "offset").tolist()
        lengths = _values(self._flat, "H", "length").tolist()
        data: Any = self._batch.data
        ends = list(map(int.__add__, starts, lengths))
        if starts[1:] != ends[:-1]:
            data = b"".join(data[start:end] for start, end in zip(starts, ends, strict=True))
            starts, ends = [0], list(itertools.accumulate(lengths))
        places = self._pyarrow.array([*(starts[:1] or [0]), *ends], self._pyarrow.int64()).buffers()[1]
        return self._array(self._pyarrow.large_binary(), [None, places, data])

    def all(self) -> list[Any]:
        """In the order of the schema."""
        kinds = self._pyarrow
        flags = _values(self._flat, "H", "flags").tolist()
        indexes = _values(self._flat, "I", "interface").tolist()
        names = self._batch.names
        truncated = _bits((one & Flag.TRUNCATED.value for one in flags), self._count)
        return [
            self._numbers(kinds.timestamp("ns", "UTC"), "q", "timestamp", _values(self._flat, "q", "timestamp")),
            self._addresses("source"),
            self._numbers(kinds.uint16(), "H", "source_port"),
            self._addresses("group"),
            self._numbers(kinds.uint16(), "H", "port"),
            self._dictionary(indexes, lambda index: utf8(names.get(index, str(index) if index else ""))),
            self._numbers(kinds.uint32(), "I", "dropped"),
            self._numbers(kinds.uint16(), "H", "wire_length", self._known_wire_lengths(flags)),
            self._array(kinds.bool_(), [None, truncated]),
            self._numbers(kinds.uint8(), "B", "ttl", [one & Flag.TTL.value for one in flags]),
            self._numbers(kinds.uint8(), "B", "tos", [one & Flag.TOS.value for one in flags]),
            self._payloads(),
        ]


NULLABLE = frozenset(("timestamp", "wire_length", "ttl", "tos"))  # in every batch, so that batches go into one table
NAMES = (
    "timestamp",
    "source",
    "source_port",
    "group",
    "port",
    "interface",
    "dropped",
    "wire_length",
    "truncated",
    "ttl",
    "tos",
    "payload",
)


def record_batch(batch: Any) -> Any:
    """A batch as a RecordBatch of pyarrow; FeatureError without it."""
    columns = _Columns(batch).all()
    pyarrow = _pyarrow()
    fields = [pyarrow.field(name, column.type, name in NULLABLE) for name, column in zip(NAMES, columns, strict=True)]
    return pyarrow.RecordBatch.from_arrays(columns, schema=pyarrow.schema(fields))


def export(batch: Any) -> tuple[Any, Any]:
    """(schema, array) of a batch, as the capsules of `__arrow_c_array__`; FeatureError without pyarrow."""
    capsules: tuple[Any, Any] = record_batch(batch).__arrow_c_array__()
    return capsules


def stream(batches: Iterator[Any], empty: Any) -> Any:
    """Batches of an iterator as the capsule of `__arrow_c_stream__`; `empty`: a batch of nothing, for the schema.
    FeatureError without pyarrow."""
    schema = record_batch(empty).schema
    return _pyarrow().RecordBatchReader.from_batches(schema, map(record_batch, batches)).__arrow_c_stream__()
