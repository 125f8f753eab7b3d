"""The bytes of a file on their way to the decoder, of which what is no whole block yet is kept."""

from typing import IO

from mcast_fast.errors import CaptureError, file_error
from mcast_fast.files._unpacking import Unpacked, position_of

CHUNK = 256 * 1024  # bytes read at once


class Input:
    """The bytes of a file for the decoder. What is not a whole block yet is kept: at most one block.

    An exception of a signal handler may come after any call. So what a read returned is first in `_came`, by a single
    call into C that makes the system call too, and counted from there by steps that no handler interrupts.
    """

    def __init__(self, file: IO[bytes], subject: str, follow: bool) -> None:
        self._file = file if isinstance(file, Unpacked) else Unpacked(file, owned=False)
        self._subject = subject
        self._follow = self._file.grows = follow
        self._buffer = bytearray(CHUNK)
        self._start = 0
        self._end = 0
        self._came: list[int | None] = []  # what reads returned, and is not counted yet
        self._base = position_of(file)
        self._interrupted = False
        self.position = 0  # of what is left, counted from where reading began
        self.ended = False
        self.is_waiting = False  # nothing is there yet

    def rest(self) -> memoryview:
        """The bytes that were read and not decoded."""
        self._count()
        return memoryview(self._buffer)[self._start : self._end]

    @property
    def left(self) -> int:
        """How many bytes were read and not decoded."""
        self._count()
        return self._end - self._start

    def skip_to(self, position: int) -> None:
        """The bytes before `position` are decoded."""
        self._start += position - self.position
        self.position = position

    def read(self, needed: int) -> None:
        """Read on, with space for a block of `needed` bytes; FileError, CaptureError."""
        self._resume()
        left = self._end - self._start
        if needed > len(self._buffer) - self._start or self._end == len(self._buffer):
            fresh = self._buffer if needed <= len(self._buffer) else bytearray(needed + CHUNK)
            fresh[:left] = self._buffer[self._start : self._end]
            self._buffer, self._start, self._end = fresh, 0, left
        with memoryview(self._buffer) as whole, whole[self._end :] as room:
            try:
                self._came.extend(map(self._file.direct or self._file.readinto, (room,)))
            except OSError as error:
                if error.errno:
                    raise file_error("read", self._subject, error) from error
                raise CaptureError(self._subject, self.position, str(error)) from error  # torn compressed data
            except BaseException:
                self._interrupted = self._file.direct is not None
                raise
        self._count()

    def _count(self) -> None:
        """Add what has come to what is there."""
        while self._came:
            came = self._came[0]
            self._end += came or 0
            self.ended = came == 0 and not self._follow
            self.is_waiting = not came and not self.ended
            del self._came[0]

    def _resume(self) -> None:
        """Where a file that is Python was interrupted, what it had read is lost: it is read again, if that can be."""
        self._count()
        if self._interrupted and self._base is not None:
            self._file.seek_raw(self._base + self.position + self._end - self._start)
        self._interrupted = False

    def wait(self, seconds: float) -> None:
        """Wait a little for more."""
        self._file.wait(seconds)
        if self._follow:
            self._file.follow()
        self.is_waiting = False

    def close(self) -> None:
        """Close the file."""
        self._file.close()
