"""What is done beside the files: each of these functions runs in the thread or on the worker that can read them.

Arguments and results are plain values, batches and dataclasses of this package, for they travel.
"""

import glob
import os
import re
import socket
import stat
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mcast_fast import _core
from mcast_fast._core import process
from mcast_fast._core.layout import ARENA_LIMIT
from mcast_fast.cluster._manifest import Manifest, is_of, path_of
from mcast_fast.cluster._survey import Contents, Formats, survey
from mcast_fast.errors import ArgumentError, CaptureError, FileError
from mcast_fast.files import _index
from mcast_fast.files._optional import module
from mcast_fast.files._scan import scan

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

CAPTURES = (".pcapng", ".ntar", ".pcap", ".cap")
COMPRESSIONS = ("", ".gz", ".zst")
SUFFIXES = tuple(suffix + packed for suffix in CAPTURES for packed in COMPRESSIONS)
PIECE = 32 << 20  # bytes of payload that travel at once
KEPT = 64  # files that stay open from one piece to the next
ROW_GROUP = 100_000


@dataclass(slots=True)
class Found:
    """A file as the host sees it that it lies on; `problem`: what is wrong with it or its manifest."""

    path: str
    size: int = -1  # -1: it is not there
    modified: int = 0
    inode: int = 0
    device: int = 0
    manifest: Manifest | None = None
    problem: tuple[str, str] | None = None  # kind, text

    def identity(self) -> tuple[object, ...]:
        """What two paths of one machine have in common when they are of one file, such as a link's and its target's."""
        if self.size < 0 or not self.inode:
            return (str(Path(self.path).absolute()),)
        return self.device, self.inode, self.size, self.modified


def look(patterns: tuple[str, ...]) -> tuple[str, list[Found]]:
    """The name of this machine, and the capture files that patterns and directories name, with their manifests."""
    files: dict[tuple[object, ...], Found] = {}
    for found in map(_found, capture_paths(patterns)):
        known = files.setdefault(found.identity(), found)
        if known.manifest is None and found.manifest is not None:
            files[found.identity()] = found
    return socket.gethostname(), list(files.values())


def capture_paths(patterns: Iterable[str]) -> list[str]:
    """The capture files that paths, patterns and directories name, each once."""
    return list(dict.fromkeys(path for pattern in patterns for path in _named(pattern)))


def _named(pattern: str) -> list[str]:
    """The capture files of one path or pattern; those of manifests that are left of them too."""
    if Path(pattern).is_dir():
        beside = [str(one) for one in sorted(Path(pattern).iterdir())]
    elif glob.has_magic(pattern) and not Path(pattern).exists():
        beside = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - a pattern may be absolute
    else:
        return [pattern.removesuffix(_index.MANIFEST)]
    names = (one.removesuffix(_index.MANIFEST) for one in beside)
    return [str(Path(one)) for one in dict.fromkeys(names) if one.endswith(SUFFIXES) and not _is_other(one)]


def _is_other(path: str) -> bool:
    """Whether it is a pipe, a directory, or something else that no recorder writes; False where a file that has a
    manifest should be."""
    try:
        return not stat.S_ISREG(Path(path).stat().st_mode) and not Path(path_of(path)).exists()
    except OSError:
        return False  # it is missing


def _found(path: str) -> Found:
    found = Found(path)
    try:
        status = Path(path).stat()
        found.size, found.modified = status.st_size, status.st_mtime_ns
        found.inode, found.device = status.st_ino, status.st_dev
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for who writes it
            return Found(path, problem=("unreadable", f"{path} is no regular file"))
    except OSError as error:
        found.problem = "missing", f"{path}: {error.strerror}"
    manifest = path_of(path)
    if not Path(manifest).exists():
        return found
    try:
        found.manifest = Manifest.load(manifest)
    except (ArgumentError, FileError) as error:
        found.problem = found.problem or ("torn", str(error))
    else:
        if found.size >= 0 and not is_of(found.manifest, path):
            found.manifest = None
            found.problem = "changed", f"{path} is not the file any more that its manifest describes"
    return found


def count(path: str, formats: Formats) -> Contents:
    """What a file holds; FileError."""
    return survey(path, formats)


def extent(path: str) -> tuple[int | None, int | None]:
    """The earliest and the latest time in a file, by its index where it can have one; FileError."""
    index = _index.stored(path) or _index.make(path)
    if index is None:
        return survey(path, {}).times
    chunks = [chunk for chunk in index.chunks if chunk.earliest <= chunk.latest]
    return min((one.earliest for one in chunks), default=None), max((one.latest for one in chunks), default=None)


@dataclass(slots=True)
class _Reading:
    """A file that is read piece by piece, where it stands: its packets behind the first `passed` ones."""

    batches: "Generator[Batch]"
    passed: int = 0
    process: int = field(default_factory=lambda: process.number)


_readings: dict[str, _Reading] = {}  # by the names that whoever reads gave; the one that was used last is the last one


def read(path: str, groups: tuple[str, ...], start: int, end: int, skip: int, name: str) -> "tuple[Batch, int, str]":
    """The next packets of groups in a file behind those that were skipped: a batch, how many to skip next time (-1: the
    file has no more), and why the file ends early, or nothing.

    The file stays open under `name`, which no other reading has. Where it is not open (another worker read the last
    piece, or it was closed for KEPT others) it is read from its start."""
    reading = _readings.pop(name, None)
    if reading is None or reading.passed != skip or reading.process != process.number:
        reading = _Reading(cast("Generator[Batch]", iter(scan([path], groups=groups, start=start, end=end))))
    parts: list[Batch] = []
    size, error = 0, ""
    try:
        for batch in reading.batches:
            here = batch[max(0, skip - reading.passed) :]
            reading.passed += len(batch)
            if not len(here):
                continue
            parts.append(here)
            size += here.payload_bytes
            if size >= min(PIECE, ARENA_LIMIT):
                _keep(name, reading)
                return _core.views.Batch.concatenate(parts), reading.passed, ""
    except CaptureError as wrong:
        error = str(wrong)
    return _core.views.Batch.concatenate(parts), -1, error


def _keep(name: str, reading: _Reading) -> None:
    _readings[name] = reading
    for oldest in list(_readings)[:-KEPT]:
        forget(oldest)


def forget(name: str) -> None:
    """Close the file of a reading that is not finished; nothing where it is not open here."""
    reading = _readings.pop(name, None)
    if reading is not None:
        reading.batches.close()


def export(path: str, host: str, url: str, name: str) -> tuple[int, int]:
    """Write a file's packets as Parquet to a directory of a file system that pyarrow knows: packets, bytes of Parquet.

    FileError, CaptureError behind what could be read, FeatureError."""
    filesystem, directory = file_system(url)
    target = f"{directory.rstrip('/')}/{name}"
    pyarrow, parquet = module("pyarrow", "to_parquet", "cluster"), module("pyarrow.parquet", "to_parquet", "cluster")
    packets = 0
    waiting: list[Any] = []
    failure: CaptureError | None = None
    schema = _with_host(pyarrow, pyarrow.record_batch(_core.views.Batch.from_bytes(b"", b"", {})), host).schema
    with filesystem.open_output_stream(target) as stream:
        with parquet.ParquetWriter(stream, schema) as writer:

            def flush() -> None:
                if waiting:
                    writer.write_table(pyarrow.Table.from_batches(waiting).unify_dictionaries())
                    waiting.clear()

            rows = 0
            try:
                for batch in scan([path], index=False):
                    waiting.append(_with_host(pyarrow, pyarrow.record_batch(batch), host))
                    packets += len(batch)
                    rows += len(batch)
                    if rows >= ROW_GROUP:
                        flush()
                        rows = 0
            except CaptureError as error:
                failure = error
            flush()
        size = stream.tell()
    if failure is not None:
        raise failure
    return packets, size


def _with_host(pyarrow: Any, batch: Any, host: str) -> Any:
    """A record batch with the host's name as its first column."""
    count = batch.num_rows
    codes = pyarrow.Array.from_buffers(pyarrow.int32(), count, [None, pyarrow.py_buffer(bytes(4 * count))])
    column = pyarrow.DictionaryArray.from_arrays(codes, pyarrow.array([host]))
    return pyarrow.RecordBatch.from_arrays([column, *batch.columns], names=["host", *batch.schema.names])


def file_system(url: str) -> tuple[Any, str]:
    """The file system of pyarrow, and the path in it, of a URL or a local path; ArgumentError."""
    fs = module("pyarrow.fs", "to_parquet", "cluster")
    try:
        if "://" not in url:
            directory = Path(url).absolute()
            directory.mkdir(parents=True, exist_ok=True)
            return fs.LocalFileSystem(), directory.as_posix()
        filesystem, path = fs.FileSystem.from_uri(url)
        if url.startswith("file:"):
            filesystem.create_dir(path, recursive=True)
    except (OSError, ValueError) as error:
        raise ArgumentError(_without_secrets(f"{url}: {error}")) from None
    if not path:
        raise ArgumentError(f"{_without_secrets(url)} names no bucket, and no directory in one")
    return filesystem, str(path)


def _without_secrets(url: str) -> str:
    """A URL as errors may show it: s3://KEY:SECRET@bucket has them."""
    return re.sub(r"//[^/@]*@", "//…@", url)


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
