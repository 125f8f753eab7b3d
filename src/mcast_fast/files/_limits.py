"""The limits of a recording, checked: when the recorder goes on in another file and when it ends; and names of files.

Rules of this module: no I/O, and no clock but the one that is handed in.
"""

import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from mcast_fast._units import NANOSECONDS, duration_in_ns, size_in_bytes, whole_number
from mcast_fast.errors import ArgumentError
from mcast_fast.files._streams import is_compressed

MOST = 2**62  # packets, bytes, files
REMEMBERED = 1000  # names that are not given twice


class Limits(NamedTuple):
    """Where something ends: after this many ns, bytes or packets, or at each full `interval` in ns; 0 = nowhere."""

    duration: int
    filesize: int
    packets: int
    interval: int = 0


def limits_of(what: str, duration: float | str | None, filesize: int | str | None, packets: int | None) -> Limits:
    """Arguments checked; ArgumentError names `what` they belong to."""
    wait = 0 if duration is None else duration_in_ns(duration, f"{what} duration")
    size = 0 if filesize is None else size_in_bytes(filesize, f"{what} filesize")
    if (duration is not None and wait == 0) or (filesize is not None and size == 0):
        raise ArgumentError(f"{what} duration and filesize are more than 0 (leave them out for no limit)")
    return Limits(wait, size, 0 if packets is None else whole_number(packets, f"{what} packets", 1, MOST))


@dataclass(frozen=True, slots=True)
class Rotation:
    """When a recording goes on in the next file; whatever is reached first.

    `duration`: seconds, or text ("10s", "5min"), by the monotonic clock and also when nothing comes. `interval`: the
    same, but at each full multiple of it by the system's clock, in UTC ("1h": on the hour), as dumpcap does it; a clock
    that is set forward past one begins a file, and one that is set back by less than the interval does not. A packet is
    in the file that was open when it was written, which is some ms after it came. `filesize`: bytes or text with a unit
    ("64MiB"), before compression: no file is larger, but for a single packet that is. `packets`: in a file. `files`:
    the number of files to keep, the newest; older ones of the same recording are deleted (a ring of files).
    ArgumentError.
    """

    __module__ = "mcast_fast.files"

    duration: float | str | None = None
    filesize: int | str | None = None
    packets: int | None = None
    files: int | None = None
    interval: float | str | None = None

    def __post_init__(self) -> None:
        limits = self.limits()
        if self.files is not None:
            whole_number(self.files, "rotation files", 1, MOST)
        if not any(limits):
            raise ArgumentError("a rotation needs duration, interval, filesize or packets")

    def limits(self) -> Limits:
        """Return the arguments as numbers.

        Returns:
            ns, bytes, packets and the ns of `interval`; 0: no limit.

        Raises:
            ArgumentError: One is out of range.
        """
        limits = limits_of("rotation", self.duration, self.filesize, self.packets)
        if self.interval is None:
            return limits
        interval = duration_in_ns(self.interval, "rotation interval")
        if interval < NANOSECONDS:
            raise ArgumentError("rotation interval is 1 s or more (leave it out for no limit)")
        return limits._replace(interval=interval)


@dataclass(frozen=True, slots=True)
class Autostop:
    """When a recording ends by itself; whatever is reached first.

    `duration`: since it began, and `idle`: since the last packet; seconds, or text ("10s", "5min"). `filesize`: of the
    file that is being written, as in Rotation. `packets`: in all. `files`: finished. ArgumentError.
    """

    __module__ = "mcast_fast.files"

    duration: float | str | None = None
    filesize: int | str | None = None
    packets: int | None = None
    files: int | None = None
    idle: float | str | None = None

    def __post_init__(self) -> None:
        self.limits()
        if self.files is not None:
            whole_number(self.files, "autostop files", 1, MOST)
        if self.idle is not None and not duration_in_ns(self.idle, "autostop idle"):
            raise ArgumentError("autostop idle is more than 0 (leave it out for no limit)")

    def limits(self) -> Limits:
        """Return the arguments as numbers, but for `files` and `idle`.

        Returns:
            ns, bytes and packets; 0: no limit.

        Raises:
            ArgumentError: One is out of range.
        """
        return limits_of("autostop", self.duration, self.filesize, self.packets)


class Intervals:
    """The full intervals of the system's clock, in UTC.

    Args:
        interval: In ns.
        now: The system's time, in ns.
    """

    def __init__(self, interval: int, now: int) -> None:
        self._interval = interval
        self._number = now // interval

    def left(self, now: int) -> int:
        """How many ns there are until the next one begins."""
        return self._interval - now % self._interval

    def is_over(self, now: int) -> bool:
        """Whether another one has begun since the last call. A clock that is set back by less stays in the same."""
        number = now // self._interval
        if self._number - 1 <= number <= self._number:
            return False
        self._number = number
        return True


class Names:
    """What the files of a recording are called.

    Without rotation, as the path says. With it: feed.pcapng becomes feed_00001_20261123015511.pcapng (number and local
    time); or a path with % is a pattern of strftime(3), as tcpdump -G takes it, and gets the number where the same name
    would come twice.
    """

    def __init__(self, path: str, rotating: bool) -> None:
        self._path = path
        self._rotating = rotating
        self._number = 0
        self._given: deque[str] = deque(maxlen=REMEMBERED)

    def next(self, now: time.struct_time, taken: bool = False) -> str:
        """The name of the next file.

        Args:
            now: When it begins.
            taken: A file has the name that the last call returned: another one.

        Returns:
            Its path.
        """
        self._number += 1
        if not self._rotating:
            return self._path
        if "%" in self._path:
            name = time.strftime(self._path, now)
            name = with_mark(name, f"_{self._number:05}") if taken or name in self._given else name
        else:
            name = with_mark(self._path, f"_{self._number:05}_{time.strftime('%Y%m%d%H%M%S', now)}")
        self._given.append(name)
        return name


def with_mark(path: str, mark: str) -> str:
    """The path with a mark in front of its suffix, and of that of its compression."""
    name = Path(path)
    suffixes = "".join(name.suffixes[-2:] if is_compressed(path) else name.suffixes[-1:])
    return str(name.with_name(name.name.removesuffix(suffixes) + mark + suffixes))
