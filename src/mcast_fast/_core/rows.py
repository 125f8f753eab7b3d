"""Buffers that payloads are placed into, checked; shared by both backends.

Rules of this module: no I/O.
"""

import re
from typing import Any

from mcast_fast.errors import ArgumentError

_FIELD_NAMES = re.compile(":[^:]*:")


def _writable(value: Any, what: str) -> memoryview:
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError) as error:
        raise ArgumentError(
            f"{what} is a {type(value).__name__}, which is not a buffer of bytes: {error}; give a NumPy array of "
            "numbers, or a bytearray"
        ) from error
    if view.readonly or not view.c_contiguous:
        fault = "read-only" if view.readonly else "not contiguous in C order"
        raise ArgumentError(f"{what} is {fault}; give an array that owns its memory, such as np.zeros((rows, size))")
    if "O" in _FIELD_NAMES.sub("", view.format):
        raise ArgumentError(f"{what} holds Python objects (format {view.format!r}), not bytes")
    return view


def writable_rows(into: Any, present: Any) -> tuple[memoryview, memoryview, int]:
    """The buffers of rows and of their presence, and the number of rows; ArgumentError."""
    rows, mask = _writable(into, "into"), _writable(present, "present")
    count = rows.shape[0] if rows.shape else 0
    if not count or not rows.nbytes:
        raise ArgumentError(f"into has no rows (shape {rows.shape}); its first dimension is the packets")
    if mask.nbytes != count:
        raise ArgumentError(
            f"present has {mask.nbytes:,} bytes and into {count:,} rows; give one byte per row: np.zeros({count}, bool)"
        )
    return rows, mask, count
