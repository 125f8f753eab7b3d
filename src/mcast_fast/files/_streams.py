"""Capture files as streams of bytes: read whichever compression they have, written with the one that the suffix names.

Rules of this module: no formats; every refusal of the system is a FileError.
"""

import contextlib
import errno
import functools
import io
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mcast_fast.errors import ArgumentError, FileError, file_error
from mcast_fast.files._unpacking import Unpacked, zstd_module

PathOrFile = str | os.PathLike[str] | IO[bytes]

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
OUTPUT = 64 * 1024  # compressed bytes that are written at once
MEMBER = 256 << 10  # bytes that one member of a compressed file holds, and that a full disk may cost
PRIVATE = 0o600  # a recording may hold what only its owner may see
SYSTEM_LINKS = "/dev", "/dev/fd", "/proc/self/fd"  # such as /dev/stdout, and the shell's >(…)
# In C: a function of Python would have a moment with the descriptor in its hands, in which an exception of a signal
# handler would lose it.
open_private = functools.partial(os.open, mode=PRIVATE)


def subject_of(file: PathOrFile, *methods: str) -> str:
    """What errors call the file; ArgumentError when it is neither a path nor has one of these methods."""
    if isinstance(file, str | os.PathLike):
        return os.fsdecode(file)
    if methods and not any(hasattr(file, one) for one in methods):
        raise ArgumentError(f"{file!r} is neither a path nor a binary file object (it has no {methods[0]})")
    return str(getattr(file, "name", "the file"))


def is_same_file(one: PathOrFile, other: PathOrFile) -> bool:
    """Whether both are one file, by whichever names, or open, as the shell's < and >> have it."""
    try:
        return os.path.samestat(_status(one), _status(other))
    except (AttributeError, OSError, ValueError):
        return False


def _status(file: PathOrFile) -> os.stat_result:
    """What the system says of a path, or of an open file; OSError of one that is no file, such as a terminal."""
    if isinstance(file, str | os.PathLike):
        return Path(file).stat()
    status = os.fstat(file.fileno())
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return status


def is_same_path(one: str, other: str) -> bool:
    """Whether both name one file, which need not be there."""
    return os.path.realpath(one) == os.path.realpath(other) or is_same_file(one, other)


def check_writable(path: str) -> None:
    """FileError where a file of this name cannot be written. It is opened as writing it would, and left as it was; what
    is no file, such as a pipe, is not tried: its reader would take that for the end."""
    target = Path(os.path.realpath(path))  # of a link that leads nowhere what is made is removed, and not the link
    try:
        is_new = not target.exists()
        if is_new or target.is_file() or target.is_dir():
            with target.open("ab"):
                pass
            if is_new:
                target.unlink()
    except OSError as error:
        raise file_error("open", path, error) from None


def plain_suffix(path: str) -> str:
    """The suffix of a path in front of that of its compression, lower case: '.pcap' of 'feed.PCAP.gz'."""
    name = Path(path.lower())
    return name.with_suffix("").suffix if name.suffix in COMPRESSED else name.suffix


def is_compressed(path: str) -> bool:
    """Whether the suffix says so."""
    return Path(path).suffix.lower() in COMPRESSED


def packed(raw: IO[bytes], kind: str) -> IO[bytes]:
    """`raw` behind the compressor "gzip" or "zstd", or itself; FeatureError."""
    stream: Any = raw
    if kind == "gzip":
        import zlib

        stream = Compressed(raw, lambda: zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS), zlib.Z_FINISH)
    elif kind == "zstd":
        module = zstd_module()
        stream = Compressed(raw, module.ZstdCompressor, module.ZstdCompressor.FLUSH_FRAME)
    return stream  # type: ignore[no-any-return]


class Compressed(io.RawIOBase):
    """A compressor in C, and the file that its bytes go to.

    flush() ends a member (of gzip; a frame of zstd), and the next write begins another one: what is flushed can be read
    by every program, whatever becomes of the rest (RFC 1952, 2.2; RFC 8878, 3).

    An exception of a signal handler may come after any call. So what C returns is stored by the call that makes it, and
    counted by steps that no handler interrupts: nothing is compressed twice or not at all, and `taken` says how much
    was. In a forked child nothing is written, not even by the end of the interpreter, when modules may be gone.

    Args:
        raw: The file.
        make: Makes the compressor of a member.
        finish: What its flush() takes to end the member.
    """

    def __init__(self, raw: IO[bytes], make: Callable[[], Any], finish: int) -> None:
        self._raw = raw
        self._make = make
        self._finish = finish
        self._compressor: Any = None  # of the member that is open
        self._settled = self._offered = 0
        self._ends = False  # whether what is made ends a member
        self._made: list[bytes] = []  # what the compressor returned, and is not in `_out` yet
        self._out = bytearray()
        self._wrote: list[int] = []  # what writes returned, and is still in `_out`
        self._written = 0  # bytes of the file
        self._whole = 0, 0  # bytes of the file with whole members, and what was compressed into them
        self._getpid, self._process = os.getpid, os.getpid()

    @property
    def taken(self) -> int:
        """Bytes that were given to the compressor."""
        return self._settled + (self._offered if self._made else 0)

    @property
    def whole(self) -> int:
        """Bytes that can be read from the file whatever comes: given to the compressor, flushed and written."""
        return self._whole[1]

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor of the file below."""
        return self._raw.fileno()

    def write(self, data: Any) -> int:
        """Bytes taken to compress; OSError of the file below."""
        size = memoryview(data).nbytes
        self._settle()
        if self._compressor is None:
            self._compressor = self._make()
        self._compress(size, self._compressor.compress, data)
        if len(self._out) >= OUTPUT:
            self._write_out()
        return size

    def flush(self) -> None:
        """End the member, and write it; OSError of the file below."""
        if self.closed or self._getpid() != self._process:
            return
        self._settle()
        if self._compressor is not None:
            self._compress(0, self._compressor.flush, self._finish, ends=True)
        self._write_out()
        if self._compressor is None:
            self._whole = self._written, self._settled

    def give_up(self, header: bytes) -> None:
        """Write nothing more, and cut the file behind its last whole member, where it can be cut. Where there is none,
        a member with the header alone is put there, if the system takes it: no program reads an empty file."""
        self._process = 0
        self._out.clear()
        with contextlib.suppress(OSError):  # a pipe or a device
            os.ftruncate(self._raw.fileno(), self._whole[0])
            if not self._whole[0]:
                self._put_alone(header)

    def _put_alone(self, header: bytes) -> None:
        compressor = self._make()
        member = compressor.compress(header) + compressor.flush(self._finish)
        self._raw.seek(0)
        try:
            written = self._raw.write(member) == len(member)
        except OSError:
            written = False
        if written:
            self._whole = len(member), len(header)
        else:
            os.ftruncate(self._raw.fileno(), 0)

    def close(self) -> None:
        """Write the end, and close the file below, whatever happens; in a forked child the descriptor alone."""
        if self.closed:
            return
        try:
            if self._settled == self._written == 0 and self._getpid() == self._process:
                self.write(b"")  # an empty member: an empty file is no compressed one
            self.flush()
        finally:
            self._raw.close()
            self._process = 0  # nothing is left to flush
            super().close()

    def __del__(self) -> None:
        # Of a reference cycle Python finalizes the file below first, or last: closed, it takes no end of the stream.
        if self._raw.closed:
            self._process = 0
        super().__del__()

    def _compress(self, size: int, function: Callable[[Any], bytes], argument: Any, ends: bool = False) -> None:
        self._offered, self._ends = size, ends
        self._made.extend(map(function, (argument,)))
        self._settle()

    def _settle(self) -> None:
        while self._made:
            self._out += self._made[0]
            self._settled += self._offered
            if self._ends:
                self._compressor = None
            del self._made[0]

    def _write_out(self) -> None:
        self._remove_written()
        while self._out:
            with memoryview(self._out) as rest:
                self._wrote.extend(map(self._raw.write, (rest,)))
            self._remove_written()

    def _remove_written(self) -> None:
        while self._wrote:
            del self._out[: self._wrote[0]]
            self._written += self._wrote[0]
            del self._wrote[0]


def open_input(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file to read; FileError, FeatureError, ArgumentError."""
    subject = subject_of(path)
    try:
        raw: IO[bytes] = Path(subject).open("rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        found = file_error("open", subject, error)
        if error.errno in (errno.ENOENT, errno.EINVAL) and any(one in subject for one in "*?["):  # EINVAL: Windows
            found = FileError(error.errno, f"{found}; patterns are for files.scan and `mcast-fast merge`")
        raise found from error
    except ValueError as error:  # a zero byte
        raise ArgumentError(f"{subject!r} is not a path: {error}") from None
    try:
        if COMPRESSED.get(Path(subject).suffix.lower()) == "zstd":
            zstd_module()  # a missing one is an error here, and not at the first packet
        return Unpacked(raw)  # type: ignore[return-value] # an IO by its methods
    except BaseException:
        raw.close()
        raise


def _opener(path: str, follow_links: bool) -> Callable[[str, int], int]:
    """What opens a file to write."""
    if follow_links or Path(path).parent.as_posix() in SYSTEM_LINKS or not hasattr(os, "O_NOFOLLOW"):
        return open_private
    return lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, PRIVATE)


def open_output(path: str | os.PathLike[str], exclusive: bool = False, follow_links: bool = True) -> IO[bytes]:
    """A file to write from its start, created for its owner alone.

    Args:
        path: Its path; the suffix says how it is compressed.
        exclusive: There must be no file of that name, nor a link (O_EXCL, open(2)).
        follow_links: A link is followed; else only one in /dev (O_NOFOLLOW).

    Returns:
        A binary file.

    Raises:
        FileError: The system refuses to open it.
        FeatureError: The compression needs a package that is not there.
        ArgumentError: It is no path.
    """
    subject = subject_of(path)
    kind = COMPRESSED.get(Path(subject).suffix.lower(), "")
    if kind == "zstd":
        zstd_module()  # a missing one is an error before a file of that name is emptied
    try:
        mode, opener = "xb" if exclusive else "wb", _opener(subject, follow_links)
        raw: IO[bytes] = open(subject, mode, buffering=0, opener=opener)  # noqa: SIM115
    except OSError as error:
        raise file_error("open", subject, error) from error
    except ValueError as error:
        raise ArgumentError(f"{subject!r} is not a path: {error}") from None
    try:
        return packed(raw, kind)
    except BaseException:
        raw.close()
        raise
