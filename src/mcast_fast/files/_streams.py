"""Capture files as streams of bytes: plain, or compressed by gzip or zstd as the suffix says.

Rules of this module: no formats; every refusal of the system is a FileError.
"""

import functools
import importlib
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from mcast_fast.errors import ArgumentError, FeatureError, file_error

PathOrFile = str | os.PathLike[str] | IO[bytes]

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
OUTPUT = 64 * 1024  # compressed bytes that are written at once
PRIVATE = 0o600  # a recording may hold what only its owner may see
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


def plain_suffix(path: str) -> str:
    """The suffix of a path in front of that of its compression, lower case: '.pcap' of 'feed.PCAP.gz'."""
    name = Path(path.lower())
    return name.with_suffix("").suffix if name.suffix in COMPRESSED else name.suffix


def is_compressed(path: str) -> bool:
    """Whether the suffix says so."""
    return Path(path).suffix.lower() in COMPRESSED


def _zstd() -> Any:
    """The zstd module of the standard library (3.14), or of backports.zstd."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise FeatureError(
        "zstd needs compression.zstd (Python 3.14) or backports.zstd; install it with: pip install 'mcast-fast[zstd]'"
    )


def _decoded(raw: IO[bytes], subject: str, mode: str) -> IO[bytes]:
    """`raw` behind the compression that the suffix names."""
    kind = COMPRESSED.get(Path(subject).suffix.lower())
    stream: Any = raw
    if kind == "gzip":
        stream = _gzip_reader(raw) if mode == "rb" else Compressed(raw, *_gzip_writer())
    elif kind == "zstd":
        zstd = _zstd()
        if mode == "rb":
            stream = Decompressed(lambda: zstd.ZstdFile(raw, mode), raw, zstd.ZstdError)
        else:
            made = zstd.ZstdCompressor()
            stream = Compressed(raw, made, made.FLUSH_BLOCK, made.FLUSH_FRAME)
    return stream  # type: ignore[no-any-return]


def _gzip_reader(raw: IO[bytes]) -> "Decompressed":
    import gzip
    import zlib

    return Decompressed(lambda: gzip.GzipFile(filename="", fileobj=raw, mode="rb"), raw, zlib.error)


def _gzip_writer() -> tuple[Any, int, int]:
    import zlib

    return zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS), zlib.Z_SYNC_FLUSH, zlib.Z_FINISH  # 16: gzip


class Compressed(io.RawIOBase):
    """A compressor in C, and the file that its bytes go to.

    An exception of a signal handler may come after any call. So what C returns is stored by the call that makes it, and
    counted by steps that no handler interrupts: nothing is compressed twice or not at all, and `taken` says how much
    was. In a forked child nothing is written, not even by the end of the interpreter, when modules may be gone.
    """

    def __init__(self, raw: IO[bytes], compressor: Any, flush: int, finish: int) -> None:
        self._raw = raw
        self._compressor = compressor
        self._flush, self._finish = flush, finish
        self._settled = self._offered = 0
        self._made: list[bytes] = []  # what the compressor returned, and is not in `_out` yet
        self._out = bytearray()
        self._wrote: list[int] = []  # what writes returned, and is still in `_out`
        self._getpid, self._process = os.getpid, os.getpid()

    @property
    def taken(self) -> int:
        """Bytes that were given to the compressor."""
        return self._settled + (self._offered if self._made else 0)

    def writable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor of the file below."""
        return self._raw.fileno()

    def write(self, data: Any) -> int:
        """Bytes taken to compress; OSError of the file below."""
        size = memoryview(data).nbytes
        self._compress(size, self._compressor.compress, data)
        if len(self._out) >= OUTPUT:
            self._write_out()
        return size

    def flush(self) -> None:
        """Compress what is there so that it can be read, and write it."""
        if not self.closed and self._getpid() == self._process:
            self._compress(0, self._compressor.flush, self._flush)
            self._write_out()

    def close(self) -> None:
        """Write the end, and close the file below, whatever happens; in a forked child the descriptor alone."""
        if self.closed:
            return
        try:
            if self._getpid() == self._process:
                self._compress(0, self._compressor.flush, self._finish)
                self._write_out()
        finally:
            self._raw.close()
            self._process = 0  # nothing is left to flush
            super().close()

    def __del__(self) -> None:
        # Of a reference cycle Python finalizes the file below first, or last: closed, it takes no end of the stream.
        if self._raw.closed:
            self._process = 0
        super().__del__()

    def _compress(self, size: int, function: Callable[[Any], bytes], argument: Any) -> None:
        self._settle()
        self._offered = size
        self._made.extend(map(function, (argument,)))
        self._settle()

    def _settle(self) -> None:
        while self._made:
            self._out += self._made[0]
            self._settled += self._offered
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
            del self._wrote[0]


class Decompressed(io.RawIOBase):
    """A compressed stream and the file below it, closed together; broken or torn data, for which the stream raises
    EOFError or an `error` of its own, is an OSError."""

    def __init__(self, make: Callable[[], Any], raw: IO[bytes], error: type[Exception]) -> None:
        self._make = make
        self._stream = make()
        self._raw = raw
        self._errors = (EOFError, error)

    def readable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor of the file below."""
        return self._raw.fileno()

    def seekable(self) -> bool:
        """Whether it can be read from its start again."""
        return self._raw.seekable()

    def tell(self) -> int:
        """How many bytes were decompressed."""
        count: int = self._stream.tell()
        return count

    def seek(self, offset: int, whence: int = 0) -> int:
        """Decompress from the start of the file to `offset`: also where an exception left the decompressor in the
        middle of something."""
        self._stream.close()  # and not the file below
        self._raw.seek(0)
        self._stream = self._make()
        count: int = self._stream.seek(offset, whence)
        return count

    def readinto(self, buffer: Any) -> int:
        """Bytes put into the buffer; 0 at the end."""
        try:
            count: int = self._stream.readinto(buffer)
        except self._errors as error:  # which have no base of their own; a signal handler may raise any other
            raise OSError(str(error)) from error
        return count

    def close(self) -> None:
        """Close both, whatever happens."""
        try:
            super().close()
            self._stream.close()
        finally:
            self._raw.close()


def open_input(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file to read; FileError, FeatureError, ArgumentError."""
    subject = subject_of(path)
    try:
        raw: IO[bytes] = Path(subject).open("rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise file_error("open", subject, error) from error
    except ValueError as error:  # a zero byte
        raise ArgumentError(f"{subject!r} is not a path: {error}") from None
    return _undone(raw, subject, "rb")


def open_output(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file to write from its start, created for its owner alone; FileError, FeatureError,
    ArgumentError."""
    subject = subject_of(path)
    try:
        raw: IO[bytes] = open(subject, "wb", buffering=0, opener=open_private)  # noqa: SIM115
    except OSError as error:
        raise file_error("open", subject, error) from error
    except ValueError as error:
        raise ArgumentError(f"{subject!r} is not a path: {error}") from None
    return _undone(raw, subject, "wb")


def _undone(raw: IO[bytes], subject: str, mode: str) -> IO[bytes]:
    """`raw` decoded; closed again when that cannot be."""
    try:
        return _decoded(raw, subject, mode)
    except BaseException:
        raw.close()
        raise
