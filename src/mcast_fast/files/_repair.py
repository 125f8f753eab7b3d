"""How a truncated capture file is made readable.

Rules of this module: it prints nothing.
"""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mcast_fast.errors import ArgumentError, CaptureError, FileError, file_error
from mcast_fast.files._reader import Reader
from mcast_fast.files._streams import is_compressed, open_private

if TYPE_CHECKING:
    pass

COPIED_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done to a torn file: `kept` bytes with `frames` packets of any kind are in `output`; `cut` bytes are
    not, for the `reason`, and are in `remains` (empty: nowhere but in the file that was left as it was)."""

    output: str
    kept: int
    cut: int
    frames: int
    reason: str
    remains: str = ""


def readable(path: str) -> tuple[int, int, str]:
    """(bytes that can be read, packets of any kind in them, why no more can: '' = to the end); CaptureError when
    nothing can be, FileError."""
    with Reader(path, multicast_only=False) as reader:
        try:
            for _ in reader:
                pass
        except CaptureError as wrong:
            if not wrong.offset:
                raise
            return wrong.offset, reader.stats.frames, wrong.reason
        return reader.offset, reader.stats.frames, ""


def repair(path: str, output: str | None = None) -> Repaired:
    """Make a readable file of a torn one: cut it where it cannot be read any further.

    With `output`, what can be read is copied there; else the file itself is cut, and what is cut off is kept beside it
    as FILE.cut. CaptureError when nothing of it can be read, FileError, ArgumentError for a compressed file."""
    if is_compressed(path):
        raise ArgumentError(f"{path} is compressed; decompress it first, as far as that goes, and repair the result")
    kept, frames, reason = readable(path)
    try:
        cut = Path(path).stat().st_size - kept
        if output is not None:
            _copy(path, output, 0, kept)
            return Repaired(output, kept, cut, frames, reason)
        if not cut:
            return Repaired(path, kept, 0, frames, reason)
        remains = f"{path}.cut"
        _copy(path, remains, kept, cut)
        os.truncate(path, kept)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise file_error("write", path if output is None else output, error) from error
    return Repaired(path, kept, cut, frames, reason, remains)


def _copy(path: str, output: str, start: int, size: int) -> None:
    """Copy a part of a file into a new one; an old one is not written over."""
    with open(output, "xb", opener=open_private) as target, Path(path).open("rb") as source:
        source.seek(start)
        target.writelines(source.read(piece) for piece in _pieces(size))


def _pieces(size: int) -> Iterable[int]:
    """The sizes of what is copied at once."""
    whole, rest = divmod(size, COPIED_AT_ONCE)
    return [COPIED_AT_ONCE] * whole + ([rest] if rest else [])
