"""Capture files as streams of bytes: plain, or compressed by gzip or zstd as the suffix says.

Rules of this room: no formats; every refusal of the system is a FileError.
"""

import importlib
import io
import os
from pathlib import Path
from typing import IO, Any

from mcast_fast.errors import FeatureError, file_error

PathOrFile = str | os.PathLike[str] | IO[bytes]

COMPRESSED = {".gz": "gzip", ".zst": "zstd"}
PRIVATE = 0o600  # a recording may hold what only its owner may see


def subject_of(file: PathOrFile) -> str:
    """What errors call the file."""
    if isinstance(file, str | os.PathLike):
        return os.fspath(file)
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
    below: Any = raw if mode == "rb" else _OfOneProcess(raw)
    if kind == "gzip":
        import gzip

        stream: Any = gzip.GzipFile(filename="", fileobj=below, mode=mode)
    elif kind == "zstd":
        stream = _zstd().ZstdFile(below, mode)
    else:
        return raw
    return Both(stream, raw)  # type: ignore[return-value]


class _OfOneProcess:
    """The file that a compressor writes to: bytes of a forked child, such as the compressor's end when the child exits,
    are discarded. The functions are kept, for modules may be gone when the interpreter exits."""

    def __init__(self, raw: IO[bytes]) -> None:
        self._raw = raw
        self._getpid = os.getpid
        self._process = os.getpid()

    def is_foreign(self) -> bool:
        """Whether this is another process than the one that opened the file."""
        return self._getpid() != self._process

    def write(self, data: Any) -> int:
        """Bytes written; in another process all of them, nowhere."""
        return memoryview(data).nbytes if self.is_foreign() else self._raw.write(data)

    def flush(self) -> None:
        """The file below has no buffer."""


class Both(io.RawIOBase):
    """A compressed stream and the file below it, closed together; its broken or torn data is an OSError."""

    def __init__(self, stream: Any, raw: IO[bytes]) -> None:
        self._stream = stream
        self._raw = raw
        self._owner = _OfOneProcess(raw)

    def readable(self) -> bool:
        """Whether it was opened to read."""
        return self._raw.readable()

    def writable(self) -> bool:
        """Whether it was opened to write."""
        return self._raw.writable()

    def fileno(self) -> int:
        """The descriptor of the file below."""
        return self._raw.fileno()

    def seekable(self) -> bool:
        """Whether it can be read from its start again."""
        return self.readable() and self._raw.seekable()

    def tell(self) -> int:
        """How many bytes were decompressed."""
        count: int = self._stream.tell()
        return count

    def seek(self, offset: int, whence: int = 0) -> int:
        """Decompress from the start of the file to `offset`: also where an exception left the decompressor in the
        middle of something."""
        self._stream.seek(0)
        count: int = self._stream.seek(offset, whence)
        return count

    def readinto(self, buffer: Any) -> int:
        """Bytes put into the buffer; 0 at the end."""
        try:
            count: int = self._stream.readinto(buffer)
        except OSError:
            raise
        except Exception as error:  # EOFError, zlib.error and ZstdError have no base of their own
            raise OSError(str(error)) from error
        return count

    def write(self, data: Any) -> int:
        """Bytes taken to compress."""
        count: int = self._stream.write(data)
        return count

    def flush(self) -> None:
        """Compress what is there, and write it."""
        if not self.closed and self.writable() and not self._owner.is_foreign():
            self._stream.flush()

    def close(self) -> None:
        """Close both, whatever happens; in a forked child the descriptor alone."""
        if self.closed:
            return
        try:
            super().close()  # which flushes
            if not self._owner.is_foreign():
                self._stream.close()
        finally:
            self._raw.close()


def open_input(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file to read; FileError, FeatureError."""
    subject = subject_of(path)
    try:
        raw: IO[bytes] = Path(subject).open("rb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise file_error("open", subject, error) from error
    return _undone(raw, subject, "rb")


def open_output(path: str | os.PathLike[str]) -> IO[bytes]:
    """A file to write from its start, created for its owner alone; FileError, FeatureError."""
    subject = subject_of(path)
    try:
        raw: IO[bytes] = open(subject, "wb", buffering=0, opener=_private)  # noqa: SIM115
    except OSError as error:
        raise file_error("open", subject, error) from error
    return _undone(raw, subject, "wb")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, PRIVATE)


def _undone(raw: IO[bytes], subject: str, mode: str) -> IO[bytes]:
    """`raw` decoded; closed again when that cannot be."""
    try:
        return _decoded(raw, subject, mode)
    except BaseException:
        raw.close()
        raise
