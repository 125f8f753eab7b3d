"""Many capture files as one lazy source: for polars, pyarrow, DuckDB, or as batches.

Rules of this module: nothing is read before packets are requested. Files are read one after the other, in the order in
which they are listed. polars and pyarrow are imported when they are first needed.
"""

import contextlib
import errno
import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mcast_fast import _core
from mcast_fast._core.layout import MOST_PACKETS
from mcast_fast._units import EARLIEST, LATEST, Moment, checked, iterated, moment_in_ns, whole_number
from mcast_fast.errors import ArgumentError, FileError, explain, file_error
from mcast_fast.files import _index
from mcast_fast.files._frames import as_frames
from mcast_fast.files._optional import module
from mcast_fast.files._reader import Reader, filter_rows
from mcast_fast.groups import Group, Groups

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

SMALLEST = 1 << 18  # bytes of a file for which an index is made: smaller ones are read whole at once
BATCH = 16_384  # packets


class Narrowed(NamedTuple):
    """What of a scan is wanted: times in ns, from `start` on and before `end`, and groups (None: any)."""

    start: int = EARLIEST
    end: int = LATEST
    groups: frozenset[bytes] | None = None


@dataclass(slots=True)
class Scanned:
    """What a scan has done so far, all its iterations together.

    Attributes:
        files: Files that were opened for packets.
        left_out: Files of which the index says that they hold nothing that is wanted.
        bytes: Bytes that all those files have.
        bytes_read: Bytes that were read of them (of compressed files: as compressed).
        index_bytes: Bytes of indexes that were read.
        indexed: Indexes that were made: their files were read whole, which `bytes_read` leaves out.
    """

    files: int = 0
    left_out: int = 0
    bytes: int = 0
    bytes_read: int = 0
    index_bytes: int = 0
    indexed: int = 0


Scanned.__module__ = "mcast_fast.files"


class _Parts:
    """The parts of a file that are to be read, as one stream."""

    def __init__(self, path: str, parts: list[tuple[int, int]]) -> None:
        self.name = path
        self._parts = list(reversed(parts))
        self._file = _opened(path)

    def readinto(self, buffer: Any) -> int:
        """The next bytes; 0 behind the last part. OSError where the file has become smaller than its index says."""
        while self._parts:
            begin, end = self._parts.pop()
            if begin < end:
                self._file.seek(begin)
                with memoryview(buffer) as whole, whole[: end - begin] as piece:
                    count: int = self._file.readinto(piece)
                if not count:
                    raise OSError(f"the file was cut to {begin} bytes while it was read, and had {end}")
                self._parts.append((begin + count, end))
                return count
        return 0

    def read(self, size: int) -> bytes:
        """The next bytes."""
        piece = bytearray(size)
        return bytes(piece[: self.readinto(piece)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _opened(path: str) -> Any:
    try:
        return Path(path).open("rb", buffering=0)
    except OSError as error:
        raise file_error("open", path, error) from error


def listed_files(files: Any) -> tuple[str, ...]:
    """The files that paths and patterns name: each pattern's by name, indexes left out; FileError, ArgumentError."""
    several = (files,) if isinstance(files, str | os.PathLike) else iterated(files, "files", "a path or several")
    found: list[str] = []
    for one in several:
        text = os.fsdecode(checked(one, str | os.PathLike, "files", "paths or patterns"))
        if "\0" in text:
            raise ArgumentError(f"files: {text!r} is the name of no file")
        if not glob.has_magic(text) or Path(text).exists():
            found.append(text)
            continue
        every = glob.glob(text, recursive=True)  # noqa: PTH207
        matched = sorted(name for name in every if not name.endswith((_index.SUFFIX, _index.MANIFEST)))
        if not matched:
            raise FileError(errno.ENOENT, f"no file matches {text}")
        found += matched
    if not found:
        raise FileError(errno.ENOENT, explain("scan", "no files", errno.ENOENT))
    return tuple(found)


class Scan:
    """The packets of many capture files, read when they are requested: `scan` makes one.

    It is no open file: each iteration opens the files anew, one after the other, and closes them. Threads may share a
    scan, and iterate at once.

        for batch in files.scan("feed-*.pcapng", groups="239.1.1.1:5000", start="2026-11-29T13:00:00Z"): …
        files.scan("feed-*.pcapng").to_polars().filter(pl.col("group") == "239.1.1.1").select("timestamp").collect()
        pyarrow.table(scan)
        duckdb.from_arrow(scan.to_arrow()).aggregate("count(*)")

    Columns are those of `Batch.__arrow_c_array__` (docs/files.md).
    """

    __module__ = "mcast_fast.files"

    def __init__(
        self, files: tuple[str, ...], groups: tuple[Group, ...], wanted: Narrowed, index: bool, options: dict[str, Any]
    ) -> None:
        self._files, self._groups, self._wanted = files, groups, wanted
        self._index, self._options = index, options  # options of each Reader
        self.stats: Scanned = Scanned()

    @property
    def files(self) -> tuple[str, ...]:
        """The files, in the order in which they are read."""
        return self._files

    def __iter__(self) -> Iterator["Batch"]:
        """Read the files.

        Yields:
            Batches of at least one packet; each is of one file.

        Raises:
            CaptureError: A file cannot be read any further, after all packets before it.
            FileError: The system refuses to open or read a file.
            FeatureError: A compression needs a package that is not there.
        """
        return self._batches(Narrowed())

    def _batches(self, narrowed: Narrowed) -> Iterator["Batch"]:
        """The batches of all files, as far as they may hold what is wanted of them."""
        wanted = Narrowed(max(self._wanted.start, narrowed.start), min(self._wanted.end, narrowed.end))
        wanted = wanted._replace(groups=_both(self._wanted.groups, narrowed.groups))
        if wanted.start >= wanted.end:
            return
        for path in self._files:
            with contextlib.ExitStack() as stack:
                reader = self._open(path, wanted, stack)
                if reader is not None:
                    yield from reader

    def _open(self, path: str, wanted: Narrowed, stack: contextlib.ExitStack) -> Reader | None:
        """A reader of a file; None where its index says that it holds nothing that is wanted."""
        size = _size_of(path)
        parts = self._parts(path, size, wanted)
        self.stats.bytes += size
        if parts is not None and not parts:
            self.stats.left_out += 1
            return None
        self.stats.files += 1
        self.stats.bytes_read += size if parts is None else sum(end - begin for begin, end in parts)
        file: Any = path if parts is None else stack.enter_context(contextlib.closing(_Parts(path, parts)))
        return stack.enter_context(
            Reader(
                file,
                *self._groups,
                start=wanted.start if wanted.start > EARLIEST else None,
                end=wanted.end if wanted.end < LATEST else None,
                **self._options,
            )
        )

    def _parts(self, path: str, size: int, wanted: Narrowed) -> list[tuple[int, int]] | None:
        """What of a file is to be read; None: all of it."""
        if not self._index or wanted == Narrowed() or size < SMALLEST:
            return None
        index = _index.stored(path)
        if index is None:
            index = _index.make(path)
            self.stats.indexed += index is not None
        else:
            self.stats.index_bytes += _size_of(_index.path_of(path))
        return None if index is None else index.select(wanted.groups, wanted.start, wanted.end)

    def __enter__(self) -> "Scan":
        """Return the scan itself: it stands where a Reader does. There is nothing to close."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Do nothing: each iteration closes its files."""

    # ---- for other libraries ----

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The packets through the Arrow C stream interface: `pyarrow.table(scan)`.

        A record batch for each batch, columns as `Batch.__arrow_c_array__`. FeatureError."""
        return _core.views.arrow_stream(iter(self), requested_schema)

    def to_arrow(self) -> Any:
        """The packets as a `pyarrow.RecordBatchReader`, which DuckDB takes too.

        Returns:
            A reader for one pass; files are read as it is read.

        Raises:
            FeatureError: pyarrow is missing, or cannot be imported.
        """
        return module("pyarrow", "to_arrow", "arrow").RecordBatchReader.from_stream(self)

    def to_polars(self) -> Any:
        """The packets as a `polars.LazyFrame`.

        What a query says of the columns `timestamp` and `group` by comparison with constants (`==`, `<`, `is_between`,
        `is_in`), joined by `&`, chooses what is read of the files, and columns that no query needs are not made.

        Returns:
            A LazyFrame, whose columns `source`, `group` and `interface` are categorical.

        Raises:
            FeatureError: polars is missing, or cannot be imported.
        """
        return as_frames(self._batches, Narrowed)

    def __repr__(self) -> str:
        several = "" if len(self._files) == 1 else f" and {len(self._files) - 1} more"
        return f"<Scan of {self._files[0]}{several}>"


def _both(one: frozenset[bytes] | None, other: frozenset[bytes] | None) -> frozenset[bytes] | None:
    return other if one is None else one if other is None else one & other


def _size_of(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise file_error("open", path, error) from error


def scan(
    files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    *,
    groups: Groups = (),
    port: int | None = None,
    interface: str | None = None,
    source: str | None = None,
    multicast_only: bool = True,
    start: Moment | None = None,
    end: Moment | None = None,
    index: bool = True,
    batch_size: int = BATCH,
) -> Scan:
    """Work on many capture files lazily.

    Args:
        files: A path or a pattern of the shell ("*.pcapng", "**/*.pcap"), or several of them. They are read in this
            order, those of a pattern by name; compressed files (.gz, .zst) are read whole.
        groups: A group, or a sequence of them; without it everything to multicast destinations.
        port: UDP port of groups that name none; without it they are of any port.
        interface: Name, in the files, of the interface of groups that name none; without it they are of any.
        source: The only source of groups that name none.
        multicast_only: False: deliver all UDP where no groups are named.
        start: Only packets from this time on: ns since the epoch, an aware datetime, or text such as
            "2026-11-28T13:00:00Z".
        end: Only packets before this time.
        index: Where groups or times are chosen, keep an index beside each file (NAME.mcast-index), so that the next
            scan reads only what it needs; False: read whole files, and use no index.
        batch_size: Packets in a batch at most.

    Returns:
        A Scan, which has read nothing yet.

    Raises:
        GroupError: A text is no multicast group.
        ArgumentError: An argument is out of range.
        FileError: No file matches.
    """
    several = (groups,) if isinstance(groups, str | Group) else iterated(groups, "groups", "a group or several")
    chosen = tuple(map(Group.coerce, several))
    rows = filter_rows(chosen, port, interface, source) if chosen else None
    wanted = Narrowed(
        EARLIEST if start is None else moment_in_ns(start, "start"),
        LATEST if end is None else moment_in_ns(end, "end"),
        None if rows is None else frozenset(row[0] for row in rows),
    )
    options: dict[str, Any] = {
        "port": port,
        "interface": interface,
        "source": source,
        "multicast_only": bool(multicast_only),
        "batch_size": whole_number(batch_size, "batch_size", 1, MOST_PACKETS),
    }
    return Scan(listed_files(files), chosen, wanted, bool(index), options)


scan.__module__ = "mcast_fast.files"
