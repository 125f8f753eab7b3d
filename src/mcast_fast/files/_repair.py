"""How a truncated capture file is made readable.

Rules of this module: it prints nothing.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mcast_fast.errors import CaptureError, FileError, file_error
from mcast_fast.files._reader import Reader
from mcast_fast.files._streams import open_private, packed
from mcast_fast.files._unpacking import RECOGNISED, Unpacked, compression_of

COPIED_AT_ONCE = 1 << 20  # bytes


@dataclass(frozen=True, slots=True)
class Repaired:
    """What was done to a torn file: `kept` bytes with `frames` packets of any kind are in `output`; `cut` bytes are
    not, for the `reason`, and are in `remains` (empty: nowhere but in the file that was left as it was).

    Of a compressed file `kept` are bytes that were decompressed, and `cut` is all of the file behind its last whole
    member: what of that can be read was compressed anew, and is kept."""

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

    A compressed one is cut behind its last whole member (of gzip; a frame of zstd), and gets one more with what can be
    read of the torn one.

    Args:
        path: The file.
        output: Where what can be read is copied to, a new file; left out, the file itself is cut, and what is cut off
            is kept beside it as FILE.cut.

    Returns:
        What was done.

    Raises:
        CaptureError: Nothing of it can be read.
        FileError: The system refuses something, or the new file is there already.
        FeatureError: The compression needs a package that is not there.
    """
    kept, frames, reason = readable(path)
    try:
        kind = _compression(path)
        whole, unpacked = _last_whole(path, kept) if kind else (kept, kept)
        size = Path(path).stat().st_size
        if not reason:
            whole, unpacked = size, kept
        cut, again = size - whole, kept - unpacked
        if output is not None:
            _copy(path, output, 0, whole)
            _compress_again(path, whole, again, output, kind)
            return Repaired(output, kept, cut, frames, reason)
        if not cut:
            return Repaired(path, kept, 0, frames, reason)
        remains = f"{path}.cut"
        _copy(path, remains, whole, cut)
        os.truncate(path, whole)
        _compress_again(remains, 0, again, path, kind)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise file_error("write", path if output is None else output, error) from error
    return Repaired(path, kept, cut, frames, reason, remains)


def _compression(path: str) -> str:
    with Path(path).open("rb") as file:
        return compression_of(file.read(RECOGNISED))


def _last_whole(path: str, kept: int) -> tuple[int, int]:
    """Where the last whole member ends in a compressed file, and in what it decompresses to: `kept` bytes at most."""
    found = 0, 0
    with Path(path).open("rb", buffering=0) as raw:
        unpacked = Unpacked(raw, owned=False)
        with contextlib.suppress(OSError):  # torn: that is why we are here
            while unpacked.read(COPIED_AT_ONCE) and unpacked.whole[1] <= kept:
                found = unpacked.whole
        if unpacked.whole[1] <= kept:  # the last one's end is seen by the read that fails
            found = unpacked.whole
    return found


def _compress_again(path: str, start: int, size: int, output: str, kind: str) -> None:
    """Append to a compressed file this many of the bytes that a torn one has behind `start`."""
    if not size:
        return
    with Path(path).open("rb", buffering=0) as raw, packed(Path(output).open("ab", buffering=0), kind) as target:
        raw.seek(start)
        source = Unpacked(raw, owned=False)
        while size:
            piece = source.read(min(size, COPIED_AT_ONCE))
            target.write(piece)
            size -= len(piece)


def _copy(path: str, output: str, start: int, size: int) -> None:
    """Copy a part of a file into a new one; an old one is not written over."""
    with open(output, "xb", opener=open_private) as target, Path(path).open("rb") as source:
        source.seek(start)
        target.writelines(source.read(piece) for piece in _pieces(size))


def _pieces(size: int) -> Iterable[int]:
    """The sizes of what is copied at once."""
    whole, rest = divmod(size, COPIED_AT_ONCE)
    return [COPIED_AT_ONCE] * whole + ([rest] if rest else [])
