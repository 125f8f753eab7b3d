"""Replay: the packets of a capture file, sent again with the times they had.

Departures are absolute moments of the monotonic clock, made of the recorded timestamps; the sender's loop in the core
keeps them. A thread reads ahead, so that the file costs no time between two packets.
"""

import contextlib
import itertools
import math
import queue
import time
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core import threads
from mcast_fast._units import NANOSECONDS, checked, whole_number
from mcast_fast.errors import ArgumentError
from mcast_fast.files._reader import Reader
from mcast_fast.files._streams import PathOrFile, subject_of
from mcast_fast.groups import Group, Groups, listed
from mcast_fast.sender import Schedule, Sender

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

AT_ONCE = 4096  # packets of a batch
AHEAD = 8  # batches that are read ahead
LEAD_NS = 20_000_000  # from the opening to the first departure
START = 1.0  # seconds that a replay waits for its file at first, which may be a pipe
PATIENCE = 0.1  # seconds after which the reading thread sees that nobody wants more
MOST = 2**62


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    `packets` that left, `bytes` of their payload; `loops`: how often the file was gone through, whole or in part;
    `truncated`: packets that were captured in part, and sent so. `seconds` from the first departure to the last one.
    `late_p50`, `late_p99`, `late_max`: ns from when packets were due by their timestamps to when they were handed to
    the system (p50 and p99 to 3 %); None where they had no such moment. `rate_error`: of a replay at a rate, as in
    SenderStats.
    """

    __module__ = "mcast_fast.files"

    packets: int = 0
    bytes: int = 0
    loops: int = 0
    truncated: int = 0
    seconds: float = 0.0
    late_p50: int | None = None
    late_p99: int | None = None
    late_max: int | None = None
    rate_error: float | None = None

    @property
    def rate(self) -> float | None:
        """Packets per second; None when no time passed."""
        return self.packets / self.seconds if self.seconds > 0 else None


class Replay:
    """Sends the multicast packets of a capture file again: `run()` does it.

    `file`: as the Reader takes it, and `groups`: only these of it. `to`: the group that all packets go to; `mapping`:
    groups for some (OLD: NEW, with or without a port; a port that is left out is the recorded one); what neither names
    goes to the group it was recorded from. `interface`, `source`, `source_port`, `ttl`, `loopback`: as for a Sender.

    Packets leave with the recorded timing, `speed` times as fast (2.0: twice); or, instead, at a `rate` as a Sender
    takes it; or `fastest`. Where a timestamp goes back, that packet follows at once. `loops`: how often to go through
    the file (None: for ever), one mean gap after another. `count`: end after this many packets. Sources are not those
    that were recorded, and what was captured in part is sent so. `position`: how many bytes of the file (of a
    compressed one: as decompressed) this turn has gone through. Raises GroupError, ArgumentError.
    """

    __module__ = "mcast_fast.files"

    def __init__(
        self,
        file: PathOrFile,
        *groups: Groups,
        to: str | Group | None = None,
        mapping: Mapping[str, str] | None = None,
        interface: str | int | None = None,
        source: str | None = None,
        source_port: int | None = None,
        ttl: int = 1,
        loopback: bool = True,
        speed: float | None = None,
        rate: float | str | None = None,
        fastest: bool = False,
        loops: int | None = 1,
        count: int | None = None,
    ) -> None:
        subject_of(file, "read", "readinto")
        if (speed is not None) + (rate is not None) + bool(fastest) > 1:
            raise ArgumentError("speed, rate and fastest exclude each other")
        if speed is not None and (not isinstance(speed, int | float) or not 0 < speed < math.inf):
            raise ArgumentError(f"speed {speed!r} is out of range; use more than 0, such as 2.0 for twice as fast")
        if loops != 1 and hasattr(file, "read"):
            raise ArgumentError(f"{subject_of(file)} can be read once only; loops need a path")
        self._file, self._groups = file, listed(groups)
        self._speed = None if fastest or rate is not None else speed or 1.0
        self._loops = loops if loops is None else whole_number(loops, "loops", 1, MOST)
        self._left = MOST if count is None else whole_number(count, "count", 1, MOST)
        self._to = None if to is None else one_group(to)
        given = {} if mapping is None else checked(mapping, Mapping, "mapping", "a mapping of groups to groups")
        self._mapping = {
            (old.address, old.port): one_group(new)
            for old, new in ((one_group(old), new) for old, new in given.items())
        }
        self._options = {
            "interface": interface,
            "source": source,
            "source_port": source_port,
            "ttl": ttl,
            "loopback": loopback,
            "rate": rate,
        }
        self._sender: Sender | None = None
        self._schedule: Schedule | None = None
        self._turn = -1
        self._in_turn = 0  # packets
        self._origin = self._last = self._moment = 0
        self._started = self._ended = 0
        self._truncated = 0
        self.position: int = 0

    def run(self) -> Replayed:
        """Send it all. Raises CaptureError (after what comes before it), FileError, InterfaceError, SocketError,
        SendError, and ArgumentError for a file without times."""
        try:
            with ReadAhead(self._batches()) as ahead:
                for turn, batch, position in ahead:
                    self._send(turn, batch[: self._left] if len(batch) > self._left else batch)
                    self.position = position
                    if self._left == 0:
                        break
        finally:
            if self._sender is not None:
                self._sender.close()
        return self.result

    @property
    def result(self) -> Replayed:
        """What was done so far; also after run() has raised."""
        if self._sender is None or self._schedule is None:
            return Replayed()
        stats = self._sender.stats
        taken = max(0, self._ended - self._started)
        middle, most, worst = (self._schedule.late(share) for share in (0.5, 0.99, 1.0))
        return Replayed(
            stats.datagrams,
            stats.bytes,
            self._turn + 1,
            self._truncated,
            taken / NANOSECONDS,
            middle,
            most,
            worst,
            stats.rate_error,
        )

    def _batches(self) -> Iterator[tuple[int, "Batch", int]]:
        """The batches of the file, with the number of the turn, and up to where the file was read for them; as often as
        it is to be gone through."""
        for turn in itertools.count() if self._loops is None else range(self._loops):
            empty = True
            with Reader(self._file, *self._groups, batch_size=AT_ONCE) as reader:
                for batch in reader:
                    empty = False
                    yield turn, batch, reader.offset
                self._truncated += reader.stats.truncated
            if empty:
                return

    def _send(self, turn: int, batch: "Batch") -> None:
        if self._sender is None or self._schedule is None:
            self._sender = Sender(self.destination(batch[0]), **self._options)  # type: ignore[arg-type]
            self._schedule = self._sender.schedule(self.destination)
        if turn != self._turn:
            self._begin(turn, batch, self._schedule)
        try:
            self._sender.send_recorded(batch, self._schedule)
        finally:
            self._ended = time.monotonic_ns()
        self._in_turn += len(batch)
        self._left -= len(batch)
        self._last = max(self._last, batch[-1].timestamp or 0)

    def _begin(self, turn: int, batch: "Batch", schedule: Schedule) -> None:
        """The file from its start: at once, or where the turn before would go on by its mean gap."""
        if turn == 0:
            self._moment = self._started = time.monotonic_ns() + (LEAD_NS if self._speed else 0)
        elif self._speed:
            lasted = self._last - self._origin
            gap = lasted / (self._in_turn - 1) if self._in_turn > 1 else 0
            self._moment += int((lasted + gap) / self._speed)
        self._origin = self._last = batch[0].timestamp or 0
        if self._speed and not self._origin:
            raise ArgumentError(f"{subject_of(self._file)} has no times; use a rate, or send as fast as it goes")
        self._turn, self._in_turn = turn, 0
        schedule.start(self._origin, self._moment, self._speed)

    def destination(self, packet: "Packet") -> Group:
        """Where a recorded packet goes. ArgumentError."""
        checked(packet, _core.views.Packet, "packet", "a Packet")
        group, port = packet.group, packet.port
        found = self._mapping.get((group, port)) or self._mapping.get((group, None)) or self._to
        if found is None:
            return Group(group, port)
        return found if found.port is not None else replace(found, port=port)


def one_group(value: str | Group) -> Group:
    """A group that is no run of several; GroupError, ArgumentError."""
    group = Group.coerce(value)
    if group.count != 1:
        raise ArgumentError(f"{group} is {group.count} groups; name one")
    return group


Item = tuple[int, "Batch", int]


class ReadAhead:
    """Takes batches from an iterator in a thread of its own, AHEAD of them before they are asked for."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._reading = Reading(items, weakref.ref(self))
        threads.start(self._reading.run, name="mcast-fast replay reads ahead")

    def __iter__(self) -> Iterator[Item]:
        """What was read, in order; what reading raised. The first comes when AHEAD are there, or after a moment, so
        that reading and sending are not in each other's way from the start."""
        reading = self._reading
        with contextlib.suppress(queue.Empty):
            reading.is_ahead.get(timeout=START)
        while (item := reading.read.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            reading.room.put(None)
            yield item

    def __enter__(self) -> "ReadAhead":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._reading.is_wanted = False
        with contextlib.suppress(queue.Empty):
            self._reading.ended.get(timeout=PATIENCE * 10)  # it may be waiting for a pipe


class Reading:
    """What the thread of a ReadAhead knows. It refers to that one weakly: where an exception of a signal handler comes
    before `with`, or first in its exit, the ReadAhead is forgotten, and the thread ends.

    Queues that are written in C, for the other thread is often the main one: an exception of a handler in a lock's
    __enter__ that is written in Python (queue.Queue, threading.Event) leaves it locked."""

    def __init__(self, items: Iterator[Item], owner: "weakref.ref[ReadAhead]") -> None:
        self._items = items
        self._owner = owner
        self.is_wanted = True
        self.read: queue.SimpleQueue[Item | BaseException | None] = queue.SimpleQueue()
        self.room: queue.SimpleQueue[None] = queue.SimpleQueue()  # one None for each batch that may be read
        self.is_ahead: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.ended: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(AHEAD):
            self.room.put(None)

    def run(self) -> None:
        """Read until the end, an error, or until nobody wants more."""
        try:
            for item in self._items:
                if not self._has_room():
                    return
                self.read.put(item)
        except BaseException as error:
            self.read.put(error)
        else:
            self.read.put(None)
        finally:
            self.is_ahead.put(None)
            self.ended.put(None)

    def _has_room(self) -> bool:
        """Wait until a batch may be read; False when nobody wants one."""
        while self.is_wanted and self._owner() is not None:
            try:
                self.room.get(timeout=PATIENCE)
            except queue.Empty:
                if self.is_ahead.empty():  # as it is again once it was taken: one at a time
                    self.is_ahead.put(None)
                continue
            return True
        return False
