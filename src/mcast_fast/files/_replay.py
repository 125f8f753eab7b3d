"""Replay: the packets of a capture file, sent again with the times they had.

Departures are absolute moments of the monotonic clock, made of the recorded timestamps; the sender's loop in the core
keeps them. A thread reads ahead, so that the file costs no time between two packets.
"""

import contextlib
import itertools
import math
import operator
import queue
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from types import TracebackType
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core import threads
from mcast_fast._core.layout import RECORD_SIZE
from mcast_fast._units import NANOSECONDS, Seconds, checked, duration_in_ns, whole_number
from mcast_fast.errors import ArgumentError
from mcast_fast.files._reader import Reader
from mcast_fast.files._streams import PathOrFile, subject_of
from mcast_fast.groups import Group, Groups, listed
from mcast_fast.sender import Schedule, Sender
from mcast_fast.sequence._arbiter import Arbiter

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

AT_ONCE = 4096  # packets of a batch
AHEAD = 8  # batches that are read ahead
LEAD_NS = 20_000_000  # from the opening to the first departure
START = 1.0  # seconds that a replay waits for its file at first, which may be a pipe
PATIENCE = 0.1  # seconds after which the reading thread sees that no more is wanted
MOST = 2**62
STEP_NS = 100_000_000  # ns; a time that goes back by more is a clock that was set: what follows goes on from there
LONE_PAUSE_NS = NANOSECONDS  # between two turns of a file whose packets have one time
TIME, RECORD_WORDS = 0, RECORD_SIZE // 8  # of a record, in words of eight bytes


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    `packets` that left, `bytes` of their payload; `loops`: how often the file was gone through, whole or in part;
    `truncated`: packets that were captured in part, and sent so. Not sent, of all turns that ended: `fragments`:
    datagrams of which not all fragments are there; `skipped`: frames that are no UDP, or of links that cannot be read;
    `broken`: frames whose headers contradict each other. `seconds` from the first departure to the last one.
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
    fragments: int = 0
    skipped: int = 0
    broken: int = 0

    @property
    def unsent(self) -> int:
        """What the file holds and was not sent for what it is: fragments, skipped and broken frames."""
        return self.fragments + self.skipped + self.broken

    @property
    def rate(self) -> float | None:
        """Packets per second; None when no time passed."""
        return self.packets / self.seconds if self.seconds > 0 else None


class Replay:
    """Sends the multicast packets of a capture file again: `run()` does it.

    Packets leave with the recorded spacing. Where the time goes back, the packet follows at once; by more than
    100 ms, the clock was set, and the spacing goes on from there. So do packets without a time. Sources are not those
    that were recorded, and what was captured in part is sent so. `position`: how many bytes of the file (of a
    compressed one: as decompressed) this turn has gone through.

    Args:
        file: As the Reader takes it; or an Arbiter, whose packets are sent on as they come, unless `speed` says
            otherwise.
        *groups: Only these of it; none of an Arbiter's.
        to: The group that all packets go to.
        mapping: Groups for some (OLD: NEW, with or without a port; a port that is left out is the recorded one). What
            neither names goes to the group it was recorded from.
        interface: As for a Sender.
        source: As for a Sender.
        source_port: As for a Sender.
        ttl: As for a Sender.
        loopback: As for a Sender.
        speed: Times as fast as recorded (2.0: twice).
        rate: Instead of the recorded times, as a Sender takes it.
        fastest: Instead of the recorded times, as fast as it goes.
        loops: How often to go through the file; None: no limit.
        count: End after this many packets.
        duration: Of an Arbiter: end after this long, seconds or text; None: no limit.
        max_gap: The longest time between two packets, in recorded seconds, or text such as "1s"; None: no limit.
        pause: Seconds, or text, from the end of a turn to the next; None: the mean gap of the file, or a second where
            all its packets have one time.

    Raises:
        GroupError: A text is no multicast group.
        ArgumentError: An argument is out of range, or does not go with another one.
    """

    __module__ = "mcast_fast.files"

    def __init__(
        self,
        file: PathOrFile | Arbiter,
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
        duration: Seconds | None = None,
        max_gap: Seconds | None = None,
        pause: Seconds | None = None,
    ) -> None:
        if isinstance(file, Arbiter):
            if groups or loops != 1:
                raise ArgumentError("an Arbiter is sent on once, and whole: groups and loops are of files")
            fastest = fastest or (speed is None and rate is None)
        elif duration is not None:
            raise ArgumentError("duration is of an Arbiter: a file ends by itself")
        else:
            subject_of(file, "read", "readinto")
        self._subject = repr(file) if isinstance(file, Arbiter) else subject_of(file)
        self._duration = duration
        if (speed is not None) + (rate is not None) + bool(fastest) > 1:
            raise ArgumentError("speed, rate and fastest exclude each other")
        if speed is not None and (not isinstance(speed, int | float) or not 0 < speed < math.inf):
            raise ArgumentError(f"speed {speed!r} is out of range; use more than 0, such as 2.0 for twice as fast")
        if loops != 1 and hasattr(file, "read"):
            raise ArgumentError(f"{self._subject} can be read once only; loops need a path")
        self._file, self._groups = file, listed(groups)
        self._speed = None if fastest or rate is not None else speed or 1.0
        self._loops = loops if loops is None else whole_number(loops, "loops", 1, MOST)
        self._left = MOST if count is None else whole_number(count, "count", 1, MOST)
        self._max_gap = MOST if max_gap is None else duration_in_ns(max_gap, "max_gap")
        self._pause = None if pause is None else duration_in_ns(pause, "pause")
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
        self._started = self._ended = self._turn_began = 0
        self._truncated = self._fragments = self._skipped = self._broken = 0
        self.position: int = 0

    def run(self) -> Replayed:
        """Send it all. Raises CaptureError (after what comes before it), FileError, InterfaceError, SocketError,
        SendError, and ArgumentError for a file without times."""
        try:
            if isinstance(self._file, Arbiter):
                items: contextlib.AbstractContextManager[Iterable[Item]] = contextlib.nullcontext(
                    self._live(self._file)
                )
            else:
                items = ReadAhead(self._batches(self._file))
            with items as ahead:
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
            return Replayed(fragments=self._fragments, skipped=self._skipped, broken=self._broken)
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
            self._fragments,
            self._skipped,
            self._broken,
        )

    def _live(self, arbiter: Arbiter) -> "Iterator[Item]":
        """What an arbiter delivers, until its legs end, it is closed, or nothing came within its timeout."""
        count = None if self._left == MOST else self._left
        return ((0, batch, 0) for batch in arbiter.batches(count=count, duration=self._duration))

    def _batches(self, file: PathOrFile) -> Iterator[tuple[int, "Batch", int]]:
        """The batches of the file, with the number of the turn, and up to where the file was read for them; as often as
        it is to be gone through."""
        for turn in itertools.count() if self._loops is None else range(self._loops):
            empty = True
            with Reader(file, *self._groups, batch_size=AT_ONCE) as reader:
                for batch in reader:
                    empty = False
                    yield turn, batch, reader.offset
                stats = reader.stats
                self._truncated += stats.truncated
                self._fragments += stats.fragments
                self._skipped += stats.skipped
                self._broken += stats.broken
            if empty:
                return

    def _send(self, turn: int, batch: "Batch") -> None:
        if self._sender is None or self._schedule is None:
            self._sender = Sender(self.destination(batch[0]), **self._options)  # type: ignore[arg-type]
            self._schedule = self._sender.schedule(self.destination)
        if turn != self._turn:
            self._begin(turn, batch, self._schedule)
        times = times_of(batch) if self._speed else []
        steps = clock_steps(times, self._last, self._max_gap) if self._speed else []
        for start, end in itertools.pairwise(sorted({0, *steps, len(batch)})):
            if start in steps:
                self._go_on(times[start], self._schedule)
            try:
                self._sender.send_recorded(batch[start:end], self._schedule)
            finally:
                self._ended = time.monotonic_ns()
            self._last = max(self._last, *times[start:end], 0)
        self._in_turn += len(batch)
        self._left -= len(batch)

    def _begin(self, turn: int, batch: "Batch", schedule: Schedule) -> None:
        """The file from its start: at once, or behind the turn before."""
        times = times_of(batch)
        if turn == 0:
            self._moment = self._started = time.monotonic_ns() + (LEAD_NS if self._speed else 0)
        elif self._speed:
            lasted = self._reached() - self._turn_began
            gap = lasted / (self._in_turn - 1) if self._in_turn > 1 and lasted else LONE_PAUSE_NS / self._speed
            self._moment = self._reached() + (int(gap) if self._pause is None else self._pause)
        self._turn_began = self._moment
        self._origin = self._last = next(filter(None, times), 0)
        if self._speed and not self._origin:
            raise ArgumentError(f"{self._subject} has no times; use a rate, or send as fast as it goes")
        self._turn, self._in_turn = turn, 0
        schedule.start(self._origin, self._moment, self._speed)

    def _reached(self) -> int:
        """When the last packet was due."""
        return self._moment + int((self._last - self._origin) / (self._speed or 1))

    def _go_on(self, time_of_next: int, schedule: Schedule) -> None:
        """Behind a step of the clock: the next packet follows at once, or after the longest gap."""
        gap = self._max_gap if time_of_next > self._last else 0
        self._moment = self._reached() + int(gap / (self._speed or 1))
        self._origin = self._last = time_of_next
        schedule.start(self._origin, self._moment, self._speed)

    def destination(self, packet: "Packet") -> Group:
        """Where a recorded packet goes. ArgumentError."""
        checked(packet, _core.views.Packet, "packet", "a Packet")
        group, port = packet.group, packet.port
        found = self._mapping.get((group, port)) or self._mapping.get((group, None)) or self._to
        if found is None:
            return Group(group, port)
        return found if found.port is not None else replace(found, port=port)


def times_of(batch: "Batch") -> list[int]:
    """The times of arrival of a batch's packets, in ns; 0 where there is none."""
    return memoryview(batch.records).cast("B").cast("q")[TIME::RECORD_WORDS].tolist()


def clock_steps(times: list[int], last: int, max_gap: int) -> list[int]:
    """Where the time goes back by more than 100 ms, or ahead by more than `max_gap`, from one packet to the next.

    Args:
        times: Of the packets, in ns; 0 = none.
        last: The latest time before them.
        max_gap: In ns.

    Returns:
        The packets' places.
    """
    if not times:
        return []
    gaps = list(map(operator.sub, times, itertools.accumulate(times, max, initial=last)))
    if min(gaps) >= -STEP_NS and max(gaps) <= max_gap:
        return []
    found = []
    for place, now in enumerate(times):
        if now == 0:
            continue
        if now < last - STEP_NS or now - last > max_gap:
            found.append(place)
            last = now
        last = max(last, now)
    return found


def one_group(value: str | Group) -> Group:
    """A group that is no run of several; GroupError, ArgumentError."""
    group = Group.coerce(value)
    if group.count != 1:
        raise ArgumentError(f"{group} is {group.count} groups; name one")
    return group


Item = tuple[int, "Batch", int]


class ReadAhead:
    """Takes batches from an iterator in a thread of its own, AHEAD of them before they are requested."""

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
        """Read until the end, an error, or until no more is wanted."""
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
        """Wait until a batch may be read; False when none is wanted."""
        while self.is_wanted and self._owner() is not None:
            try:
                self.room.get(timeout=PATIENCE)
            except queue.Empty:
                if self.is_ahead.empty():  # as it is again once it was taken: one at a time
                    self.is_ahead.put(None)
                continue
            return True
        return False
