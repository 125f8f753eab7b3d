"""The bytes of a file, whichever compression it has: none, gzip or zstd, recognised by its first bytes.

All that decompresses is delivered before the error of a torn or broken stream. Streams may follow one another (members
of gzip, frames of zstd, skippable ones too); what follows the last one and is none is ignored, as gzip(1) does. Nothing
waits for more than is there: a pipe gives each packet when it comes.
"""

import importlib
import io
import os
import select
import stat
import time
from collections.abc import Callable
from typing import IO, Any

from mcast_fast._systems import SYSTEM
from mcast_fast.errors import FeatureError

CHUNK = 256 * 1024  # bytes that are read at once
RECOGNISED = 4  # bytes of a file that say how it is compressed
GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
# Frames without contents (RFC 8878, 3.1.2): pzstd begins each piece with one, and seekable files end with one.
SKIPPABLE = tuple(bytes([number]) + b"\x2a\x4d\x18" for number in range(0x50, 0x60))
TORN = "compressed data ends before the end of its stream"
KEPT = 1 << 20  # compressed bytes of a zstd frame that are kept, in case its end is broken
PAUSE = 0.05  # seconds from one look at a file that does not block, or grows, to the next


def zstd_module() -> Any:
    """The zstd module of the standard library (3.14), or of backports.zstd; FeatureError."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise FeatureError(
        "zstd needs compression.zstd (Python 3.14) or backports.zstd; install it with: pip install 'mcast-fast[zstd]'"
    )


class _Gzip:
    """One member of gzip."""

    magics = (GZIP,)

    def __init__(self) -> None:
        import zlib

        self.error: type[Exception] = zlib.error
        self._stream = zlib.decompressobj(16 + zlib.MAX_WBITS)
        self._before = self._stream  # as it was before the step in progress
        self.decompress = self._stream.decompress

    def prepare(self, data: bytes) -> bytes:
        """What the next step is to decompress: what is left of the last one, and `data`."""
        self._before = self._stream.copy()
        return self._stream.unconsumed_tail + data

    def saved(self, data: bytes, _given: bytes, _made: int) -> bytes:
        """After an error: what the step had decompressed of `data` before the byte that is wrong."""
        return _until_wrong(self._before.decompress, data, self.error)

    @property
    def ended(self) -> bool:
        """Whether the member is whole."""
        return self._stream.eof

    @property
    def needs_input(self) -> bool:
        """Whether it has taken all that it was given."""
        return not self._stream.unconsumed_tail

    @property
    def rest(self) -> bytes:
        """What follows the member."""
        return self._stream.unused_data


class _Zstd:
    """One frame of zstd. Its decompressors cannot be copied: after an error, one begins at the frame's start."""

    magics = (ZSTD, *SKIPPABLE)
    module: Any = None  # looked for once: a file may have a frame for each packet

    def __init__(self) -> None:
        module = _Zstd.module = _Zstd.module or zstd_module()
        self.error: type[Exception] = module.ZstdError
        self._make: Callable[[], Any] = module.ZstdDecompressor
        self._stream = self._make()
        self.decompress = self._stream.decompress

    def prepare(self, data: bytes) -> bytes:
        """As of gzip; it keeps by itself what is left."""
        return data

    def saved(self, data: bytes, given: bytes, made: int) -> bytes:
        """As of gzip; `given` was decompressed to `made` bytes before, where it is kept."""
        if made and not given:
            return b""
        return _until_wrong(self._make().decompress, given + data, self.error, made)

    @property
    def ended(self) -> bool:
        """As of gzip."""
        return bool(self._stream.eof)

    @property
    def needs_input(self) -> bool:
        """As of gzip."""
        return bool(self._stream.needs_input)

    @property
    def rest(self) -> bytes:
        """As of gzip."""
        return bytes(self._stream.unused_data)


def _until_wrong(decompress: Callable[[bytes], bytes], data: bytes, error: type[Exception], known: int = 0) -> bytes:
    """What decompresses of these bytes, one by one, before the error; but for the first `known` bytes, which may be
    thousands of times as many as they were compressed."""
    found = bytearray()
    try:
        for at in range(len(data)):
            piece = decompress(data[at : at + 1])
            found += piece[known:]
            known = max(0, known - len(piece))
    except (error, EOFError):  # given byte by byte, zstd takes the end of some frames that it refuses as a whole
        pass
    return bytes(found)


class Unpacked(io.RawIOBase):
    """The decompressed bytes of a file, as they come.

    An exception of a signal handler may come after any call. So what C returns is stored by the call that makes it, and
    counted by steps that no handler interrupts: nothing is read or decompressed twice, or lost.

    Args:
        raw: The file. Of one that is written in Python, what an exception interrupted is read again, if it can seek.
        owned: The file below is closed with this.
    """

    def __init__(self, raw: IO[bytes], owned: bool = True) -> None:
        self._raw: Any = raw
        self._owned = owned
        self.grows = False  # the end of the file is not the end of its stream
        methods = [getattr(raw, name, None) for name in ("read1", "read")]
        self._get: Callable[[int], Any] = next((one for one in methods if one is not None), self._get_into)
        self._came: list[Any] = []  # what reads returned, and is not in `_packed` yet
        self._packed = b""  # read, and not decompressed
        self._made: list[bytes] = []  # what the decompressor returned, and is not in `_ready` yet
        self._ready = b""  # decompressed, and not delivered
        self._stream: _Gzip | _Zstd | None = None
        self._given, self._made_size = b"", 0  # to and by this stream
        self._produced = 0  # by all streams
        self.whole = 0, 0  # bytes of the file that are whole streams, and what they decompressed to
        self._is_kept = True  # whether all that was given is
        self._is_plain = self._is_behind = False  # no compression; behind a stream
        self._is_full = False  # the last step made all that it might: there may be more
        self._ended = False  # the raw file
        self._failure = ""
        self._interrupted = False
        self._base = position_of(raw)
        self._taken = 0  # bytes of the raw file

    def _get_into(self, size: int) -> bytes:
        memory = bytearray(size)
        return bytes(memory[: self._raw.readinto(memory)])

    @property
    def direct(self) -> Callable[[Any], Any] | None:
        """What reads the next bytes into a buffer in a single call, once it is known that they are not compressed."""
        if not self._is_plain or self._packed or self._ready or self._came or self._interrupted or self._failure:
            return None
        return getattr(self._raw, "readinto1", None) or getattr(self._raw, "readinto", None)

    def readable(self) -> bool:
        """It is."""
        return True

    def fileno(self) -> int:
        """The descriptor of the file below."""
        return int(self._raw.fileno())

    def readinto(self, buffer: Any) -> int | None:
        """Bytes put into the buffer, as soon as there are any; 0 at the end; None: nothing is there yet.

        OSError without a number: the compressed data is torn or broken."""
        size = len(buffer)
        while not self._ready:
            if self._failure:
                raise OSError(self._failure)
            if not self._step(size) and not self._ready:
                return 0 if self._ended else None
        count = min(size, len(self._ready))
        part, rest = self._ready[:count], self._ready[count:]
        # Nothing is called from here on, so that no signal handler comes in between.
        buffer[:count] = part
        self._ready = rest
        return count

    def _step(self, size: int) -> bool:
        """Get on by one call; False at the end, or when nothing is there yet."""
        self._settle()
        if self._ready:
            return True
        stream = self._stream
        if stream is not None and stream.ended:
            rest = stream.rest
            whole = self._taken - len(self._packed) - len(rest), self._produced
            self._packed, self._stream, self._is_behind, self.whole = rest + self._packed, None, True, whole
            return True
        if stream is not None and (self._packed or self._ended or self._is_full or not stream.needs_input):
            return self._decompress(stream, size)
        if self._is_plain and self._packed:
            self._ready, self._packed = self._packed, b""
            return True
        if stream is None and not self._is_plain and self._recognise():
            return True
        return self._fetch()

    def _fetch(self) -> bool:
        if self._ended:
            return False
        if self._interrupted and self._base is not None:
            self._raw.seek(self._base + self._taken)
        self._interrupted = False
        try:
            self._came.extend(map(self._get, (CHUNK,)))
        except OSError:
            raise
        except BaseException:
            self._interrupted = True
            raise
        came = self._came[0]
        self._settle()
        self._ended = came is not None and not came
        return self._ended or bool(came)

    def _settle(self) -> None:
        """Count what has come."""
        while self._came:
            came = self._came[0] or b""
            size = len(came)
            # Nothing is called from here to the next turn, here and below.
            self._packed += came
            self._taken += size
            del self._came[0]
        while self._made:
            size = len(self._made[0])
            self._ready += self._made[0]
            self._made_size += size
            self._produced += size
            self._given += self._packed
            self._packed = b""
            del self._made[0]

    def _decompress(self, stream: _Gzip | _Zstd, size: int) -> bool:
        """What ends too early is an error once all before it was delivered."""
        had_input = bool(self._packed)
        self._is_kept = self._is_kept and isinstance(stream, _Zstd) and len(self._given) <= KEPT
        if not self._is_kept:
            self._given = b""
        data = stream.prepare(self._packed)
        try:
            self._made.extend(map(stream.decompress, (data,), (size,)))
        except stream.error as error:
            saved, failure = stream.saved(data, self._given, self._made_size), str(error)
            self._ready, self._packed, self._failure = saved, b"", failure
            return True
        self._settle()
        self._is_full = len(self._ready) >= size
        if self._ended and not self._ready and not had_input and not stream.ended:
            if self.grows:
                return False
            self._failure = TORN
        return True

    def _recognise(self) -> bool:
        """Begin the first stream of the file, or the next one; False when it takes more bytes to know it."""
        head = self._packed.lstrip(b"\0") if self._is_behind else self._packed
        self._packed = head  # or a tail of zeros, which a crash may leave, would be kept, and gone through ever again
        if len(head) < RECOGNISED and (self.grows or not self._ended):
            return False
        for kind in (_Gzip, _Zstd):
            if head.startswith(kind.magics):
                stream = kind()
                self._packed, self._stream, self._given, self._made_size, self._is_kept = head, stream, b"", 0, True
                return True
        if self._is_behind:  # something else follows the last stream
            self._packed, self._ended = b"", True
            return False
        self._is_plain = True
        return True

    def seek_raw(self, position: int) -> None:
        """Have the raw file, which is not compressed, read from there on."""
        self._raw.seek(position)

    def follow(self) -> None:
        """Have the end that was reached looked at again: the file may have grown.

        It seeks to where it is: the C library of wine answers each read behind the end with that end, until then. A
        file that has become smaller than what was read of it has another end: more would never come."""
        position = position_of(self._raw)
        if position is not None:
            self._raw.seek(position)
            size = size_of(self._raw)
            if size is not None and size < position:
                self._failure = f"the file was cut to {size} bytes, and {position} were read"
        self._ended = False

    def wait(self, seconds: float) -> None:
        """Wait until there is more to read, a little while at most; a file that grows is only looked at
        again."""
        try:
            descriptor = self.fileno()
        except (AttributeError, OSError, ValueError):
            time.sleep(seconds)
            return
        if self._ended or not SYSTEM.selects_files:
            time.sleep(seconds)
        else:
            _wait_readable(descriptor, seconds)

    def close(self) -> None:
        """Close the file below, unless it is the caller's."""
        try:
            super().close()
        finally:
            if self._owned:
                self._raw.close()


def _wait_readable(descriptor: int, seconds: float) -> None:
    """By poll(2) where there is one: select(2) takes no descriptor beyond 1,023."""
    if not hasattr(select, "poll"):  # Windows, eventlet
        select.select([descriptor], [], [], seconds)
        return
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.poll(seconds * 1e3)


def compression_of(head: bytes) -> str:
    """How a file that begins with these bytes is compressed: "gzip", "zstd", or "" for not at all."""
    return "gzip" if head.startswith(_Gzip.magics) else "zstd" if head.startswith(_Zstd.magics) else ""


def size_of(file: Any) -> int | None:
    """How many bytes an open file has; None of a pipe, a device, or memory."""
    try:
        status = os.fstat(file.fileno())
    except (AttributeError, OSError, ValueError):
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def position_of(file: Any) -> int | None:
    """Where a file that can be read again is read from; None for a pipe."""
    try:
        return int(file.tell()) if file.seekable() else None
    except (AttributeError, OSError, ValueError):
        return None
