"""Capture files merged into one, in the order of time: every block as it is in its file, whatever it holds.

Rules of this module: it prints nothing. Memory is bounded, whatever the files hold: a piece of each. Files that are not
compressed are open only while a piece is read, so that hundreds need no descriptors.
"""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._core import blocks
from mcast_fast._units import EARLIEST
from mcast_fast._version import __version__
from mcast_fast.errors import ArgumentError, CaptureError, FileError, file_error
from mcast_fast.files._blocks import BlockError, Classic, Sections, form_of
from mcast_fast.files._pcapng import section_header
from mcast_fast.files._scan import listed_files
from mcast_fast.files._streams import PathOrFile, is_same_file, open_input, open_output, plain_suffix, subject_of

if TYPE_CHECKING:
    from mcast_fast._core.fast.files import Run

HELD = 256  # packets of a file that wait for older ones that come late
PIECES = 32 << 20  # bytes of all files together that are read ahead
SMALLEST_PIECE, LARGEST_PIECE = 64 << 10, 1 << 20
OUTPUT = 1 << 20  # bytes that are written at once
RECOGNISED = 4  # bytes of a file that say what it is
OTHER_FORMS = (".pcap", ".cap", ".csv", ".parquet", ".pq")


@dataclass(frozen=True, slots=True)
class Merged:
    """What was merged.

    Attributes:
        files: The files.
        blocks: Packets, and other blocks that belong to a place among them.
        bytes: Bytes of the result, before compression.
        interfaces: Interfaces that the result describes: those of each file apart.
        late: Packets that are behind younger ones in the result, because they were so in their file by more than 256
            packets.
        left_out: Blocks that cannot be carried over: custom ones that must not be copied, and blocks without packets of
            files in the other byte order whose contents are not known here.
    """

    files: int
    blocks: int
    bytes: int
    interfaces: int
    late: int
    left_out: int


Merged.__module__ = "mcast_fast.files"


class _Pieces:
    """The bytes of a file, piece by piece."""

    def __init__(self, path: str, size: int) -> None:
        self._path, self._size = path, size
        self._position = 0
        self._known: tuple[int, int] | None = None
        self._stream: Any = None
        self._is_plain = False
        if Path(path).exists() and not Path(path).is_file():
            self._stream = open_input(path)  # a pipe gives its bytes once: it stays open
            return
        with contextlib.closing(open_input(path)) as file:  # FeatureError and FileError before anything is written
            head = file.read(RECOGNISED)
        with Path(path).open("rb") as raw:
            self._is_plain = raw.read(RECOGNISED) == head

    def next(self, more: int) -> bytes:
        """The next piece, of `more` bytes at least where that many are left; b"" at the end.

        FileError, CaptureError of torn compressed data."""
        size = max(self._size, more)
        try:
            piece = self._read_plain(size) if self._is_plain else self._read_stream(size)
        except OSError as error:
            if isinstance(error, FileError):
                raise
            if error.errno:
                raise file_error("read", self._path, error) from error
            raise CaptureError(self._path, self._position, str(error)) from error
        self._position += len(piece)
        return piece

    def _read_plain(self, size: int) -> bytes:
        with Path(self._path).open("rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            known = self._known or (status.st_dev, status.st_ino)
            if known != (status.st_dev, status.st_ino):
                raise CaptureError(self._path, self._position, "it was replaced while it was read")
            self._known = known
            file.seek(self._position)
            return file.read(size) or b""

    def _read_stream(self, size: int) -> bytes:
        if self._stream is None:
            self._stream = open_input(self._path)
        piece: bytes = self._stream.read(size) or b""
        if not piece:
            self._stream.close()
        return piece

    def close(self) -> None:
        """Close what is open."""
        if self._stream is not None:
            self._stream.close()


class _Source:
    """One file: its blocks as a run, and where it is in the file."""

    def __init__(self, path: str, size: int) -> None:
        self.run = _core.files.Run()
        self.failure: CaptureError | None = None
        self._path = path
        self._pieces = _Pieces(path, size)
        self._rest = b""  # read, and not taken yet
        self._offset = 0  # of that, in the file
        self._form: Sections | Classic | None = None
        self._ended = False

    def fill(self, output: "_Output") -> bool:
        """Read on until there are blocks to merge; False at the end of the file."""
        self.run.forget()
        while not self._ended:
            try:
                piece = self._pieces.next(len(self._rest))
                self._rest += piece
                self._take(output, not piece)
                self._ended = not piece
            except CaptureError as wrong:
                self.failure, self._ended = wrong, True
            if self.run.sort(0 if self._ended else HELD):
                return True
        return False

    def _take(self, output: "_Output", final: bool) -> None:
        """Take the whole blocks of what was read."""
        done = 0
        try:
            self._form = self._form or form_of(self._rest)
            while self._form is not None:
                before, done = done, self._form.take(self._rest, done, self.run, output)
                if done == before:
                    break
        except BlockError as wrong:
            raise CaptureError(self._path, self._offset + done, wrong.reason) from None
        self._rest = self._rest[done:]
        self._offset += done
        if final and (self._rest or self._form is None):
            needed = self._form.needed if self._form is not None else RECOGNISED
            cut_off = blocks.failure_text(blocks.WRONG_END, len(self._rest), needed)
            raise CaptureError(self._path, self._offset, cut_off if self._rest else "it is empty")

    def close(self) -> None:
        """Close the file."""
        self._pieces.close()


class _Output:
    """The result: written block by block, and cut to whole ones where the system refuses to go on."""

    def __init__(self, target: PathOrFile) -> None:
        self._subject = subject_of(target, "write")
        self._owned = isinstance(target, str | os.PathLike)
        self._file: Any = open_output(target) if isinstance(target, str | os.PathLike) else target
        self._memory = bytearray(OUTPUT)
        self.left_out = self.bytes = self.interfaces = 0
        self.write(section_header(f"mcast-fast {__version__}", ""))

    def describe(self, block: bytes) -> int:
        """Write the description of an interface; its number."""
        if self.interfaces == blocks.MOST_INTERFACES:
            raise ArgumentError(f"the files describe more than {blocks.MOST_INTERFACES} interfaces together")
        self.write(block)
        self.interfaces += 1
        return self.interfaces - 1

    def merge(self, runs: "list[Run]", latest: int) -> tuple[int, int]:
        """Write blocks of these runs until one has none left; (the latest time, how many were older)."""
        late = 0
        while all(run.left for run in runs):
            used, latest, more = _core.files.merge_by_time(runs, self._memory, latest)
            late += more
            if not used:  # a block that is larger than the memory
                self._memory = bytearray(blocks.LARGEST_BLOCK + 4)
            with memoryview(self._memory) as whole, whole[:used] as part:
                self.write(part)
        return latest, late

    def write(self, data: bytes | memoryview) -> None:
        """Write whole blocks; FileError."""
        try:
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            with contextlib.suppress(OSError, AttributeError, ValueError):
                self._file.truncate(self.bytes)
            raise file_error("write", self._subject, error) from error
        self.bytes += len(data)

    def close(self) -> None:
        """Write the end of a compressed file, and close what was opened here; FileError."""
        try:
            self._file.close() if self._owned else self._file.flush()
        except OSError as error:
            raise file_error("write", self._subject, error) from error


def _check(files: tuple[str, ...], target: PathOrFile) -> None:
    """ArgumentError where the result would be no pcapng, or one of the files."""
    name = subject_of(target)
    if isinstance(target, str | os.PathLike) and plain_suffix(name) in OTHER_FORMS:
        raise ArgumentError(f"{name}: files are merged into pcapng, which keeps what they hold; convert the result")
    own = next((one for one in files if is_same_file(one, target)), None)
    if own is not None:
        raise ArgumentError(f"{own} is its own target; write to another file")


def merge(files: str | os.PathLike[str] | Iterable[str | os.PathLike[str]], target: PathOrFile) -> Merged:
    """Merge capture files into one, ordered by time.

    Every block is kept as it is in its file: frames, comments, drops, statistics, packets that are no UDP. Interfaces
    stay apart, with their names, times' resolutions and comments, so that statistics stay those of one file; the
    operating system and hardware that a section names go to its interfaces. Classic pcap gets pcapng's blocks.

    The result is in the order of time where no file has a packet behind more than 256 younger ones; what comes later
    than that is written when it comes, and counted. Packets of one time are in the order of the files. A packet without
    a time stays behind the one before it. Memory is bounded: 32 MiB of all files together, or 64 KiB of each where they
    are more than 512.

    Args:
        files: Paths or patterns of the shell ("*.pcapng"), pcapng and pcap, also compressed.
        target: A path, whose suffix may say how it is compressed, or an open binary file.

    Returns:
        What was merged.

    Raises:
        CaptureError: A file cannot be read any further: after everything else was merged.
        FileError: The system refuses to open, read or write a file; the result is cut to whole blocks.
        ArgumentError: The target is one of the files, or is to be no pcapng.
        FeatureError: A compression needs a package that is not there.
    """
    paths = listed_files(files)
    _check(paths, target)
    size = max(SMALLEST_PIECE, min(LARGEST_PIECE, PIECES // len(paths)))
    with contextlib.ExitStack() as stack:
        sources = [stack.enter_context(contextlib.closing(_Source(path, size))) for path in paths]
        output = stack.enter_context(contextlib.closing(_Output(target)))
        failures = sources[:]
        latest, late, merged = EARLIEST, 0, 0
        sources = [one for one in sources if one.fill(output)]
        while sources:
            before = sum(one.run.left for one in sources)
            latest, more = output.merge([one.run for one in sources], latest)
            late += more
            merged += before - sum(one.run.left for one in sources)
            sources = [one for one in sources if one.run.left or one.fill(output)]
    for one in failures:
        if one.failure is not None:
            raise one.failure
    return Merged(len(paths), merged, output.bytes, output.interfaces, late, output.left_out)


merge.__module__ = "mcast_fast.files"
