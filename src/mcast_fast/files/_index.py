"""Side indexes of capture files: where in a file packets of which times and groups are.

An index lies beside its file, as NAME.mcast-index, and is a copy of what the file says. It is used only where size,
time of modification, and both ends of the file are those that it was made of, and is made anew elsewhere. It holds,
for each chunk of the file, the earliest and the latest time and the groups; what else a reader needs of the file
(headers, fragments, reports of drops) makes a chunk one that is always read. Only of files that can be read to their
end, and are not compressed.
"""

import contextlib
import errno
import os
import queue
import secrets
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core import blocks
from mcast_fast._core.layout import MOST_PACKETS
from mcast_fast._core.threads import start
from mcast_fast.errors import CaptureError, FileError, file_error, warn
from mcast_fast.files._reader import Reader
from mcast_fast.files._streams import open_private
from mcast_fast.stats import ReaderStats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

SUFFIX = ".mcast-index"
MANIFEST = ".manifest.json"  # what else may lie beside a file: mcast_fast.cluster has its contents
MAGIC = b"mcastix1"
HEAD = struct.Struct("<8sI")  # the magic, and the CRC-32 of all behind it
PRINT = struct.Struct("<QqII")  # of the file: size, time of modification in ns, CRC-32 of its first and last bytes
COUNTS = struct.Struct("<II")  # groups, chunks
ROW = struct.Struct("<QqqBI")  # of a chunk: its end, its earliest and latest time, what it is, how many groups follow
END = 4096  # bytes at either end of a file that are compared
LARGEST = 1 << 30  # bytes of an index that is read
ALWAYS = 1  # the chunk is read whatever is wanted: it may hold the headers of a section, or reports of drops
PIECES = 2  # it holds fragments: so it is, and a file that has such a chunk is never left out
NOTHING: tuple[int, int, frozenset[bytes]] = 1, 0, frozenset()  # of a chunk without packets: no time is in it
SECTION = struct.pack("<I", blocks.SECTION_HEADER)  # reads the same in both byte orders
PCAPS = tuple(struct.pack(order + "I", magic) for magic in blocks.PCAP for order in "<>")


@dataclass(frozen=True, slots=True)
class Print:
    """What a file is known by."""

    size: int
    modified: int
    head: int
    tail: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole blocks of a file, up to `end`."""

    end: int
    earliest: int
    latest: int
    kind: int
    groups: tuple[int, ...]  # places in the index's list


@dataclass(slots=True)
class Index:
    """The chunks of a file, in order."""

    print: Print
    groups: list[bytes] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)

    def select(self, groups: frozenset[bytes] | None, start: int, end: int) -> list[tuple[int, int]]:
        """The parts of the file, as (from, to), that are to be read for these groups (None: all) and times; none where
        it holds nothing of them."""
        wanted = None if groups is None else {at for at, group in enumerate(self.groups) if group in groups}
        parts: list[tuple[int, int]] = []
        begin, found = 0, False
        for chunk in self.chunks:
            fits = chunk.earliest < end and chunk.latest >= start
            fits = fits and (wanted is None or not wanted.isdisjoint(chunk.groups))
            found = found or fits or bool(chunk.kind & PIECES)
            if fits or chunk.kind:
                if parts and parts[-1][1] == begin:
                    parts[-1] = parts[-1][0], chunk.end
                else:
                    parts.append((begin, chunk.end))
            begin = chunk.end
        return parts if found else []


def path_of(path: str) -> str:
    """Where the index of a file is."""
    return path + SUFFIX


def print_of(file: int) -> Print:
    """What an open file is known by now; OSError."""
    status = os.fstat(file)
    head = os.pread(file, END, 0) if hasattr(os, "pread") else _read_at(file, 0)
    start = max(0, status.st_size - END)
    tail = os.pread(file, END, start) if hasattr(os, "pread") else _read_at(file, start)
    return Print(status.st_size, status.st_mtime_ns, zlib.crc32(head), zlib.crc32(tail))


def _read_at(file: int, offset: int) -> bytes:
    os.lseek(file, offset, os.SEEK_SET)
    return os.read(file, END)


# ---- made ----


class _Watched:
    """A file that notes where, in what is read of it, a section may begin."""

    def __init__(self, descriptor: int, name: str) -> None:
        self.name = name
        self._descriptor = descriptor
        self._last = b""
        self._position = 0
        self.sections: list[int] = []

    def read(self, size: int) -> bytes:
        """The next bytes."""
        os.lseek(self._descriptor, self._position, os.SEEK_SET)
        data = os.read(self._descriptor, size)
        whole = self._last + data  # a number may begin in the bytes before
        at = whole.find(SECTION)
        while at >= 0:
            self.sections.append(self._position - len(self._last) + at)
            at = whole.find(SECTION, at + 1)
        self._last = whole[-3:]
        self._position += len(data)
        return data


def build(path: str) -> Index | None:
    """The index of a file, which is read whole; None where it can have none: it is compressed, cannot be read to its
    end, or changed meanwhile. FileError."""
    if Path(path).exists() and not Path(path).is_file():
        return None  # a pipe would be waited for
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError as error:
        raise file_error("open", path, error) from error
    try:
        before = print_of(descriptor)
        os.lseek(descriptor, 0, os.SEEK_SET)
        if os.read(descriptor, 4) not in (SECTION, *PCAPS):
            return None
        index = Index(before, *_chunks_of(_Watched(descriptor, path)))
        whole = index.chunks and index.chunks[-1].end == before.size
        return index if whole and print_of(descriptor) == before else None
    except CaptureError:
        return None
    except OSError as error:
        raise file_error("read", path, error) from error
    finally:
        os.close(descriptor)


def _chunks_of(file: _Watched) -> tuple[list[bytes], list[Chunk]]:
    places: dict[bytes, int] = {}
    chunks: list[Chunk] = []
    with contextlib.closing(Reader(file, multicast_only=False)) as reader:  # type: ignore[arg-type] # it has read()
        before, described, begin = reader.stats, 0, 0
        batch = _next(reader, 1)  # the first chunk ends behind the first packet: it has the headers, and little else
        while batch is not None or reader.offset > begin:
            stats, end = reader.stats, reader.offset
            kind = PIECES if _pieces(before, stats) else 0
            is_section = any(begin <= at < end for at in file.sections)
            if is_section or stats.dropped != before.dropped or len(reader.interfaces) != described:
                kind |= ALWAYS
            earliest, latest, groups = NOTHING if batch is None else _core.views.extent(batch)
            numbers = sorted(places.setdefault(group, len(places)) for group in groups)
            chunks.append(Chunk(end, earliest, latest, kind, tuple(numbers)))
            file.sections = [at for at in file.sections if at >= end]
            before, described, begin = stats, len(reader.interfaces), end
            batch = None if batch is None else _next(reader, MOST_PACKETS)
    return list(places), chunks


def _pieces(before: ReaderStats, stats: ReaderStats) -> int:
    """The fragments among the frames in between: what is nothing else."""
    since = stats - before
    return since.frames - since.skipped - since.broken - (since.received - since.reassembled)


def _next(reader: Reader, most: int) -> "Batch | None":
    """The packets of the next piece that is read; None at the end."""
    try:
        return reader.recv_batch(most)
    except EOFError:
        return None


# ---- stored ----


def packed(index: Index) -> bytes:
    """The index as bytes."""
    one = index.print
    parts = [PRINT.pack(one.size, one.modified, one.head, one.tail), COUNTS.pack(len(index.groups), len(index.chunks))]
    parts += index.groups
    for chunk in index.chunks:
        count = len(chunk.groups)
        parts.append(ROW.pack(chunk.end, chunk.earliest, chunk.latest, chunk.kind, count))
        parts.append(struct.pack(f"<{count}I", *chunk.groups))
    body = b"".join(parts)
    return HEAD.pack(MAGIC, zlib.crc32(body)) + body


def unpacked(data: bytes) -> Index:
    """The index that `packed` made; ValueError, struct.error where these bytes are none."""
    magic, check = HEAD.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("it is no index of this version")
    if zlib.crc32(memoryview(data)[HEAD.size :]) != check:
        raise ValueError("it is damaged")
    index = Index(Print(*PRINT.unpack_from(data, HEAD.size)))
    at = HEAD.size + PRINT.size
    groups, chunks = COUNTS.unpack_from(data, at)
    at += COUNTS.size
    if groups * 16 + chunks * ROW.size > len(data):
        raise ValueError("it is damaged")
    index.groups = [data[at + 16 * one : at + 16 * one + 16] for one in range(groups)]
    index.chunks = list(_rows(data, at + 16 * groups, chunks, groups))
    if not index.chunks or index.chunks[-1].end != index.print.size:
        raise ValueError("its chunks are not those of its file")
    return index


def _rows(data: bytes, at: int, count: int, groups: int) -> Iterator[Chunk]:
    before = 0
    for _ in range(count):
        end, earliest, latest, kind, held = ROW.unpack_from(data, at)
        numbers = struct.unpack_from(f"<{held}I", data, at + ROW.size) if held <= groups else (groups,)
        if end <= before or any(number >= groups for number in numbers):
            raise ValueError("its chunks are not those of its file")
        yield Chunk(end, earliest, latest, kind, numbers)
        at, before = at + ROW.size + 4 * held, end


def store(path: str, index: Index) -> bool:
    """Put the index beside its file, whole or not at all; False where the system refuses to: a scan needs none."""
    target = path_of(path)
    beside = f"{target}.{secrets.token_hex(4)}"
    try:
        with open(beside, "xb", opener=open_private) as file:
            file.write(packed(index))
        Path(beside).chmod(stat.S_IMODE(Path(path).stat().st_mode) & 0o666)  # for whom the file is
        Path(beside).replace(target)
    except OSError:
        with contextlib.suppress(OSError):
            Path(beside).unlink()
        return False
    return True


def make(path: str) -> Index | None:
    """Make the index of a file, and store it; None where it can have none. FileError."""
    index = build(path)
    if index is not None:
        store(path, index)
    return index


class Indexer:
    """Makes the indexes of files that are finished, one after the other, in a thread of its own."""

    def __init__(self) -> None:
        self._paths: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._done = threading.Event()
        start(self._run, name="mcast-fast index")

    def add(self, path: str) -> None:
        """Make the index of this file when those before it are made."""
        self._paths.put(path)

    def finish(self) -> None:
        """Wait until all of them are made."""
        self._paths.put(None)
        self._done.wait()

    def _run(self) -> None:
        try:
            for path in iter(self._paths.get, None):
                self._make(path)
        finally:
            self._done.set()

    def _make(self, path: str) -> None:
        with contextlib.suppress(FileError):  # a ring has deleted it meanwhile
            make(path)
        if not Path(path).exists():
            Path(path_of(path)).unlink(missing_ok=True)


def stored(path: str) -> Index | None:
    """The index beside a file, where it is that of this file; else None, with a warning of one that is not."""
    target = path_of(path)
    try:
        data = _contents(target)
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    except OSError:
        return None  # there is none, or no file: the reader reports that
    try:
        index = unpacked(data)
        reason = "" if index.print == print_of(descriptor) else "the file is another one, or has changed"
    except ValueError as wrong:
        reason = str(wrong)
    except struct.error:
        reason = "it is damaged"
    finally:
        os.close(descriptor)
    if reason:
        warn(f"{target} is not used, and made anew: {reason}")
        return None
    return index


def _contents(target: str) -> bytes:
    if not Path(target).is_file():  # a pipe would be waited for
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), target)
    with Path(target).open("rb") as file:
        return file.read(LARGEST)
