"""Batches through the Arrow C data interface (https://arrow.apache.org/docs/format/CDataInterface.html), so that
pyarrow, polars and DuckDB take one without being imported here.

Written once, over what both backends offer of a batch (`records`, `data`, `names`): columns are cut out of the records
by strided views, payloads stand where they are. The structures are ctypes; whoever imports them calls `release`.
"""

import ctypes
import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from mcast_fast._core.addresses import plain_text
from mcast_fast._core.layout import RECORD_SIZE, Flag, offsets
from mcast_fast.errors import FeatureError

_NULLABLE = 2  # ARROW_FLAG_NULLABLE


class _Schema(ctypes.Structure):
    """struct ArrowSchema."""


class _Array(ctypes.Structure):
    """struct ArrowArray."""


_ReleaseSchema = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Schema))
_ReleaseArray = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Array))

_Schema._fields_ = [
    ("format", ctypes.c_char_p),
    ("name", ctypes.c_char_p),
    ("metadata", ctypes.c_char_p),
    ("flags", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("children", ctypes.POINTER(ctypes.POINTER(_Schema))),
    ("dictionary", ctypes.POINTER(_Schema)),
    ("release", _ReleaseSchema),
    ("private_data", ctypes.c_void_p),
]
_Array._fields_ = [
    ("length", ctypes.c_int64),
    ("null_count", ctypes.c_int64),
    ("offset", ctypes.c_int64),
    ("n_buffers", ctypes.c_int64),
    ("n_children", ctypes.c_int64),
    ("buffers", ctypes.POINTER(ctypes.c_void_p)),
    ("children", ctypes.POINTER(ctypes.POINTER(_Array))),
    ("dictionary", ctypes.POINTER(_Array)),
    ("release", _ReleaseArray),
    ("private_data", ctypes.c_void_p),
]


class _Column(NamedTuple):
    """One column: its Arrow format, its buffers (the first says which values are there; None = all), how many are
    missing, and the texts that its numbers stand for."""

    name: str
    format: bytes
    buffers: Sequence[Any]
    missing: int = 0
    dictionary: "_Column | None" = None
    length: int = 0  # of a dictionary


# ---- columns ----


def _cut(flat: memoryview, letter: str, field: str) -> bytes:
    """The values of a field of all records, one behind the other."""
    values: Any = flat.cast(letter)  # type: ignore[call-overload]
    size = values.itemsize
    cut: bytes = values[offsets()[field] // size :: RECORD_SIZE // size].tobytes()
    return cut


def _validity(known: Iterable[object], count: int) -> tuple[bytes | None, int]:
    """(a bit for each value that is there, how many are not)."""
    bits = bytearray((count + 7) // 8)
    missing = count
    for i, one in enumerate(known):
        if one:
            bits[i >> 3] |= 1 << (i & 7)
            missing -= 1
    return (bytes(bits), missing) if missing else (None, 0)


def _numbers(name: str, form: bytes, values: bytes, known: Iterable[object] | None = None, count: int = 0) -> _Column:
    valid, missing = (None, 0) if known is None else _validity(known, count)
    return _Column(name, form, [valid, values], missing)


def _texts(texts: Sequence[str]) -> _Column:
    """A column of texts."""
    encoded = [text.encode() for text in texts]
    ends = itertools.accumulate(map(len, encoded), initial=0)
    joined = b"".join(encoded)
    return _Column("", b"u", [None, (ctypes.c_int32 * (len(texts) + 1))(*ends), joined], length=len(texts))


def _dictionary(name: str, values: Sequence[Any], text: Callable[[Any], str]) -> _Column:
    """A column of few different texts, each told once."""
    numbers: dict[Any, int] = {}
    rows = [numbers.setdefault(value, len(numbers)) for value in values]
    return _Column(name, b"i", [None, (ctypes.c_int32 * len(rows))(*rows)], dictionary=_texts(list(map(text, numbers))))


def _addresses(name: str, flat: memoryview) -> _Column:
    at, wide = offsets()[name] // 8, flat.cast("Q")
    step = RECORD_SIZE // 8
    pairs = list(zip(wide[at::step].tolist(), wide[at + 1 :: step].tolist(), strict=True))
    order = "little" if memoryview(b"\1\0").cast("H")[0] == 1 else "big"
    return _dictionary(
        name,
        pairs,
        lambda pair: plain_text(b"".join(half.to_bytes(8, order) for half in pair)),
    )


def _payloads(starts: list[int], lengths: list[int], data: memoryview) -> _Column:
    """Payloads where they stand, when they do so one behind the other; else a copy. Offsets have 64 bits, for an arena
    may have 4 GiB."""
    ends = list(map(int.__add__, starts, lengths))
    if starts[1:] != ends[:-1]:
        data = memoryview(b"".join(data[start:end] for start, end in zip(starts, ends, strict=True)))
        starts = [0, *itertools.accumulate(lengths)][:-1]
        ends = list(itertools.accumulate(lengths))
    places = (ctypes.c_int64 * (len(starts) + 1))(*(starts[:1] or [0]), *ends)
    return _Column("payload", b"Z", [None, places, data])


def _columns(batch: Any) -> list[_Column]:
    """What a record holds, as columns; what is not known is null."""
    count, names = len(batch), batch.names
    flat = memoryview(bytes(batch.records))
    times, wire = _cut(flat, "q", "timestamp"), _cut(flat, "H", "wire_length")
    flags = memoryview(_cut(flat, "H", "flags")).cast("H").tolist()
    lengths, ttl, tos = _cut(flat, "H", "length"), int(Flag.TTL), int(Flag.TOS)
    indexes = memoryview(_cut(flat, "I", "interface")).cast("I").tolist()
    truncated = bytearray((count + 7) // 8)
    for i, one in enumerate(flags):
        truncated[i >> 3] |= (one & 1) << (i & 7)
    return [
        _numbers("timestamp", b"tsn:UTC", times, memoryview(times).cast("q"), count),
        _addresses("source", flat),
        _numbers("source_port", b"S", _cut(flat, "H", "source_port")),
        _addresses("group", flat),
        _numbers("port", b"S", _cut(flat, "H", "port")),
        _dictionary("interface", indexes, lambda index: names.get(index, str(index) if index else "")),
        _numbers("dropped", b"I", _cut(flat, "I", "dropped")),
        _numbers("wire_length", b"S", wire, memoryview(wire).cast("H"), count),
        _Column("truncated", b"b", [None, bytes(truncated)]),
        _numbers("ttl", b"C", _cut(flat, "B", "ttl"), (one & ttl for one in flags), count),
        _numbers("tos", b"C", _cut(flat, "B", "tos"), (one & tos for one in flags), count),
        _payloads(
            memoryview(_cut(flat, "I", "offset")).cast("I").tolist(),
            memoryview(lengths).cast("H").tolist(),
            batch.data,
        ),
    ]


# ---- structures ----

# What exported structures point to, until their consumer releases them: number -> all of it.
_kept: dict[int, Any] = {}
# The structures that capsules hold, until those die: a consumer moves the content out, and may release it earlier.
_exported: dict[int, Any] = {}
_numbers_given = itertools.count(1)


def _release_one(structure: Any, kind: Any) -> None:
    """Marks it and what is below it released, and lets go of what it points to (of all, when it is the root)."""
    for i in range(structure.n_children):
        child = structure.children[i].contents
        if child.release:  # a consumer may have moved it away
            child.release(ctypes.pointer(child))
    if structure.dictionary and structure.dictionary.contents.release:
        structure.dictionary.contents.release(structure.dictionary)
    key = structure.private_data
    structure.release = kind(0)
    _kept.pop(key, None)


_release_schema = _ReleaseSchema(lambda schema: _release_one(schema.contents, _ReleaseSchema))
_release_array = _ReleaseArray(lambda array: _release_one(array.contents, _ReleaseArray))


def _keep(structure: Any, *things: Any) -> None:
    """Keeps what a structure points to alive, under a number that moves with it."""
    structure.private_data = next(_numbers_given)
    _kept[structure.private_data] = things


def _schema_of(column: _Column, children: Sequence[_Column] = ()) -> Any:
    schema = _Schema()
    name = column.name.encode()
    below = [_schema_of(child) for child in children]
    pointers = (ctypes.POINTER(_Schema) * len(below))(*map(ctypes.pointer, below))
    schema.format, schema.name, schema.flags = column.format, name, _NULLABLE if column.missing else 0
    if column.format in (b"tsn:UTC", b"S", b"C") and column.name in ("timestamp", "wire_length", "ttl", "tos"):
        schema.flags = _NULLABLE  # in every batch alike, so that batches go into one table
    schema.n_children = len(children)
    schema.children = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(_Schema))) if children else None
    if column.dictionary is not None:
        below.append(_schema_of(column.dictionary))
        schema.dictionary = ctypes.pointer(below[-1])
    schema.release = _release_schema
    _keep(schema, name, below, pointers)
    return schema


def _address_of(buffer: Any) -> tuple[int | None, Any]:
    """(where a buffer stands, what keeps it there); a read-only view is reached through PyObject_GetBuffer."""
    if buffer is None:
        return None, None
    if isinstance(buffer, ctypes.Array):
        return ctypes.addressof(buffer), buffer
    view = _PyBuffer()
    _get_buffer(buffer, ctypes.byref(view), 0)
    return view.buf, _Held(view, buffer)


class _PyBuffer(ctypes.Structure):
    """Py_buffer of the stable ABI, as far as it is read here."""

    _fields_ = [("buf", ctypes.c_void_p), ("rest", ctypes.c_char * 256)]


class _Held:
    """An export of a buffer, given back when nobody needs it any more."""

    def __init__(self, view: _PyBuffer, owner: Any) -> None:
        self._view = view
        self._owner = owner

    def __del__(self) -> None:
        _release_buffer(ctypes.byref(self._view))


def _array_of(column: _Column, length: int, children: Sequence[_Column] = ()) -> Any:
    array = _Array()
    below = [_array_of(child, length) for child in children]
    pointers = (ctypes.POINTER(_Array) * len(below))(*map(ctypes.pointer, below))
    places = [_address_of(buffer) for buffer in column.buffers]
    buffers = (ctypes.c_void_p * len(places))(*(address for address, _ in places))
    array.length, array.null_count, array.n_buffers, array.n_children = (
        length,
        column.missing,
        len(places),
        len(children),
    )
    array.buffers = ctypes.cast(buffers, ctypes.POINTER(ctypes.c_void_p))
    array.children = ctypes.cast(pointers, ctypes.POINTER(ctypes.POINTER(_Array))) if children else None
    if column.dictionary is not None:
        below.append(_array_of(column.dictionary, column.dictionary.length))
        array.dictionary = ctypes.pointer(below[-1])
    array.release = _release_array
    _keep(array, below, pointers, places, buffers)
    return array


# ---- capsules ----

_api: Any = getattr(ctypes, "pythonapi", None)
_Destructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
if _api is not None:
    _get_buffer, _release_buffer = _api.PyObject_GetBuffer, _api.PyBuffer_Release
    _get_buffer.argtypes = ctypes.py_object, ctypes.c_void_p, ctypes.c_int
    _release_buffer.argtypes = (ctypes.c_void_p,)
    _release_buffer.restype = None
    _new_capsule = _api.PyCapsule_New
    _new_capsule.argtypes = ctypes.c_void_p, ctypes.c_char_p, _Destructor
    _new_capsule.restype = ctypes.py_object
    _capsule_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", _api)
    )
    _capsule_is = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))


def _destroyer(name: bytes, structure: type[ctypes.Structure]) -> Any:
    """What runs when a capsule dies: it releases a structure that nobody took over."""

    def destroy(capsule: int) -> None:
        if _capsule_is(capsule, name):
            place = _capsule_pointer(capsule, name)
            found: Any = ctypes.cast(place, ctypes.POINTER(structure))
            if found.contents.release:
                found.contents.release(found)
            _exported.pop(place, None)

    return _Destructor(destroy)


_destroy_schema = _destroyer(b"arrow_schema", _Schema)
_destroy_array = _destroyer(b"arrow_array", _Array)


def export(batch: Any) -> tuple[Any, Any]:
    """(schema, array) of a batch as the capsules of `__arrow_c_array__`: a struct with a column for each field, and the
    payloads as binary. FeatureError where ctypes has no Python API."""
    if _api is None:
        raise FeatureError("Arrow needs ctypes.pythonapi, which this Python does not have")
    columns = _columns(batch)
    whole = _Column("", b"+s", [None])
    schema, array = _schema_of(whole, columns), _array_of(whole, len(batch), columns)
    return _capsule(schema, b"arrow_schema", _destroy_schema), _capsule(array, b"arrow_array", _destroy_array)


def _capsule(structure: Any, name: bytes, destroy: Any) -> Any:
    place = ctypes.addressof(structure)
    _exported[place] = structure
    return _new_capsule(place, name, destroy)
