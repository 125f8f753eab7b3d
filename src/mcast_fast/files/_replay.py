"""Replay: the packets of a capture file, sent again with the times they had.

Departures are absolute moments of the monotonic clock, made of the recorded timestamps; the sender's loop in the core
keeps them. A thread reads ahead, so that the file costs no time between two packets.
"""

import contextlib
import itertools
import math
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core import threads
from mcast_fast._sending.arguments import kept_flags
from mcast_fast._sending.outgoing import packets_in
from mcast_fast._units import NANOSECONDS, Seconds, checked, duration_in_ns, whole_number
from mcast_fast.errors import Argument, ArgumentError, CaptureError
from mcast_fast.files._reader import Reader
from mcast_fast.files._spacing import Spacing, times_of
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
LONGEST_PEEK = 3600.0  # seconds
PATIENCE = 0.1  # seconds after which the reading thread sees that no more is wanted
MOST = 2**62
LONE_PAUSE_NS = NANOSECONDS  # between two turns of a file whose packets have one time
PIECE = 0.1  # seconds that what is sent at a rate lasts at once, where the time is limited
HELD = 4  # batches at the start of a turn that may have no times before one that has


@dataclass(frozen=True, slots=True)
class Replayed:
    """What a replay did.

    Attributes:
        packets: Datagrams that left.
        bytes: Bytes of their payloads.
        loops: Turns of the file that were begun.
        truncated: Packets that were captured in part, and sent so, of all turns that ended.
        seconds: From the first departure to the last one.
        late_p50: ns from when packets were due by their timestamps to when they were handed to the system: half of them
            were no later, to 3 %. None where packets had no such moment; so of the next two.
        late_p99: 99 in 100 of them were no later, to 3 %.
        late_max: The latest.
        rate_error: Of a replay at a rate, as in SenderStats.
        fragments: Not sent, of all turns that ended: datagrams of which not all fragments are there.
        skipped: Not sent: frames that are no UDP, or of a link or a tunnel that cannot be read.
        broken: Not sent: frames whose headers contradict each other, or were not captured whole.
        filtered: Not sent, and not requested: UDP packets to other groups than those, and to hosts.
        skipped_kinds: What the skipped frames are, by name.
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
    filtered: int = 0
    skipped_kinds: Mapping[str, int] = field(default_factory=dict)

    @property
    def unsent(self) -> int:
        """What the file holds and was not sent for what it is: fragments, skipped and broken frames."""
        return self.fragments + self.skipped + self.broken

    @property
    def rate(self) -> float | None:
        """Packets per second; None when no time passed."""
        return self.packets / self.seconds if self.seconds > 0 else None


@dataclass(slots=True)
class _LeftOut:
    """What the turns that ended did not send; the names are those of Replayed."""

    truncated: int = 0
    fragments: int = 0
    skipped: int = 0
    broken: int = 0
    filtered: int = 0
    skipped_kinds: dict[str, int] = field(default_factory=dict)

    def add(self, reader: Reader) -> None:
        """Count what a turn left out."""
        stats = reader.stats
        for name in ("truncated", "fragments", "skipped", "broken", "filtered"):
            setattr(self, name, getattr(self, name) + getattr(stats, name))
        kinds = dict(self.skipped_kinds)
        for name, frames in reader.skipped_kinds.items():
            kinds[name] = kinds.get(name, 0) + frames
        self.skipped_kinds = kinds


class Replay:
    """Sends the multicast packets of a capture file again: `run()` does it.

    Packets leave with the recorded spacing. Where the time goes back, the packet follows at once; by more than
    100 ms, the clock was set, and the spacing goes on from there. A few packets from the future cost no time: where the
    clock is soon back, they follow at once. So do packets without a time. Sources are not those that were recorded, and
    what was captured in part is sent so.

    Where packets go has to be said: `to=`, or `as_recorded=True`.

    Attributes:
        position: Bytes of the file (of a compressed one: as decompressed) that this turn has gone through.

    Args:
        file: As the Reader takes it; or an Arbiter, whose packets are sent on as they come, unless `speed` says
            otherwise.
        *groups: Only these of it; none of an Arbiter's.
        to: The group that all packets go to that `mapping` does not name. A port that is left out is the recorded one.
        as_recorded: Send to the groups and ports that the packets were recorded from.
        mapping: Groups for some (OLD: NEW, with or without a port; a port that is left out is the recorded one).
        interface: As for a Sender.
        source: As for a Sender.
        source_port: As for a Sender.
        ttl: As for a Sender.
        keep: "ttl", "tos", or both ("ttl,tos", or a sequence): packets have the TTL or hop limit, and the TOS or
            traffic class, that was recorded, where the file has it; else `ttl`, and 0. With a TTL above 1 they may
            leave the local network.
        loopback: As for a Sender.
        speed: Times as fast as recorded (2.0: twice).
        rate: Instead of the recorded times: packets per second, or text ("50k/s", "800Mbit/s").
        fastest: Instead of the recorded times, as fast as it goes.
        loops: Times that the file is gone through; None: no limit.
        count: End after this many packets.
        duration: End this long after the first departure, seconds or text ("10s"): packets that are due later stay.
            Of an Arbiter: this long after run() was called. None: no limit.
        max_gap: The longest time between two packets, in recorded seconds, or text such as "1s"; None: no limit.
        pause: Seconds, or text, from the end of a turn to the next; None: the mean gap of the file, or a second where
            all its packets have one time.

    Raises:
        GroupError: A text is no multicast group.
        ArgumentError: An argument is out of range, or does not go with another one; or neither `to` nor `as_recorded`
            says where packets go.
        FeatureError: This system cannot set the TOS, which `keep` names.
    """

    __module__ = "mcast_fast.files"

    def __init__(
        self,
        file: PathOrFile | Arbiter,
        *groups: Groups,
        to: str | Group | None = None,
        as_recorded: bool = False,
        mapping: Mapping[str, str] | None = None,
        interface: str | int | None = None,
        source: str | None = None,
        source_port: int | None = None,
        ttl: int = 1,
        keep: str | Iterable[str] = (),
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
        else:
            subject_of(file, "read", "readinto")
        self._subject = repr(file) if isinstance(file, Arbiter) else subject_of(file)
        self._duration = None if duration is None else duration_in_ns(duration, "duration")
        _check_pace(speed, rate, fastest)
        if loops != 1 and (hasattr(file, "read") or Path(self._subject).is_fifo()):
            raise ArgumentError(f"{self._subject} can be read once only; loops need the path of a file")
        self._file, self._groups = file, listed(groups)
        self._speed = None if fastest or rate is not None else speed or 1.0
        self._loops = loops if loops is None else whole_number(loops, "loops", 1, MOST)
        self._left = MOST if count is None else whole_number(count, "count", 1, MOST)
        self._spacing = Spacing(MOST if max_gap is None else duration_in_ns(max_gap, "max_gap"))
        self._pause = None if pause is None else duration_in_ns(pause, "pause")
        self._to = None if to is None else one_group(to)
        self._mapping = _mapped({} if mapping is None else mapping)
        _check_destination(to is not None, bool(as_recorded), bool(self._mapping))
        kept_flags(keep)  # ArgumentError, FeatureError
        self._keep = keep if isinstance(keep, str) else tuple(keep)
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
        self._end: int | None = None  # ns of the monotonic clock
        self._is_over = False
        self._at_once = AT_ONCE if rate is None or duration is None else min(AT_ONCE, packets_in(PIECE, rate))
        self._left_out = _LeftOut()
        self.position: int = 0

    def run(self) -> Replayed:
        """Send it all.

        Returns:
            What was sent, and what was not; `result` has it after an error too.

        Raises:
            CaptureError: The file cannot be read any further; what comes before it was sent.
            FileError: The system refuses to open or to read the file.
            InterfaceError, SocketError, SendError: As for a Sender.
            ArgumentError: No packet of the file has a time, and neither a rate nor `fastest` is given.
        """
        try:
            if isinstance(self._file, Arbiter):
                items: _Live | ReadAhead = _Live(self._live(self._file))
            else:
                items = ReadAhead(self._batches(self._file), self._seconds_left)
            with items as ahead:
                for turn, batch, position in ahead:
                    self._send(turn, batch[: self._left] if len(batch) > self._left else batch, ahead)
                    self.position = position
                    if self._left == 0 or self._is_over:
                        break
        finally:
            if self._sender is not None:
                self._sender.close()
        return self.result

    @property
    def result(self) -> Replayed:
        """What was done so far; also after run() has raised."""
        left_out = {one.name: getattr(self._left_out, one.name) for one in fields(_LeftOut)}
        if self._sender is None or self._schedule is None:
            return Replayed(**left_out)
        stats = self._sender.stats
        middle, most, worst = (self._schedule.late(share) for share in (0.5, 0.99, 1.0))
        return Replayed(
            packets=stats.datagrams,
            bytes=stats.bytes,
            loops=self._turn + 1,
            seconds=max(0, self._ended - self._started) / NANOSECONDS,
            late_p50=middle,
            late_p99=most,
            late_max=worst,
            rate_error=stats.rate_error,
            **left_out,
        )

    def _live(self, arbiter: Arbiter) -> "Iterator[Item]":
        """What an arbiter delivers, until its legs end, it is closed, or nothing came within its timeout."""
        count = None if self._left == MOST else self._left
        duration = None if self._duration is None else self._duration / NANOSECONDS
        return ((0, batch, 0) for batch in arbiter.batches(count=count, duration=duration))

    def _batches(self, file: PathOrFile) -> Iterator["Item"]:
        """The batches of the file, with the number of the turn, and up to where the file was read for them; for each
        turn. The first one of a turn has a packet with a time, where the replay goes by them."""
        for turn in itertools.count() if self._loops is None else range(self._loops):
            with Reader(file, *self._groups, batch_size=AT_ONCE) as reader:
                try:
                    batches = iter(reader)
                    first = self._first_batch(batches)
                    if first is not None:
                        yield turn, first, reader.offset
                    for batch in batches:
                        yield turn, batch, reader.offset
                except CaptureError:
                    self._left_out.add(reader)
                    raise
                self._left_out.add(reader)
            if first is None:
                return

    def _first_batch(self, batches: Iterator["Batch"]) -> "Batch | None":
        """The first batch of a turn, with those that follow up to one that has a time; None where there is none.

        ArgumentError where there is no time in HELD of them."""
        held: list[Batch] = []
        for batch in batches:
            held.append(batch)
            if not self._speed or any(times_of(batch)):
                break
            if len(held) == HELD:
                raise self._without_times()
        else:
            if held:
                raise self._without_times()
            return None
        return held[0] if len(held) == 1 else _core.views.Batch.concatenate(held)

    def _without_times(self) -> ArgumentError:
        return ArgumentError(f"{self._subject} has no times; use a rate, or send as fast as it goes")

    def _send(self, turn: int, batch: "Batch", ahead: "ReadAhead | _Live") -> None:
        if self._sender is None or self._schedule is None:
            self._sender = Sender(self.destination(batch[0]), **self._options)  # type: ignore[arg-type]
            self._schedule = self._sender.schedule(self.destination, keep=self._keep)
        if turn != self._turn:
            self._begin(turn, batch, self._schedule)
        times = times_of(batch) if self._speed else []
        place, gap = self._spacing.long_gap(times) if self._speed else (0, 0)
        if gap == 0:
            self._send_part(batch, times, [], self._sender, self._schedule)
        else:
            # Before a long gap there is time to see whether the clock comes back behind it.
            self._send_part(batch[:place], times[:place], times[place:], self._sender, self._schedule)
            following = ahead.peek(min(gap / (self._speed or 1) / NANOSECONDS, self._seconds_left()))
            known = times_of(following[1]) if following is not None and following[0] == turn else []
            self._send_part(batch[place:], times[place:], known, self._sender, self._schedule)
        self._in_turn += len(batch)
        self._left -= len(batch)

    def _send_part(
        self, batch: "Batch", times: list[int], following: list[int], sender: Sender, schedule: Schedule
    ) -> None:
        """Send packets that have these times (none: they do not matter), of which those of `following` come next."""
        steps = dict(self._spacing.steps(times, following))
        for start, end in itertools.pairwise(sorted({0, *steps, len(batch), *range(0, len(batch), self._at_once)})):
            if start in steps:
                self._go_on(times[start], steps[start], schedule)
            in_time = self._in_time(times, start, end)
            if in_time > start:
                try:
                    sender.send_recorded(batch[start:in_time], schedule)
                finally:
                    self._ended = time.monotonic_ns()
                self._last = max(self._last, *times[start:in_time], 0)
            self._is_over = self._is_over or in_time < end
            if self._is_over:
                return

    def _in_time(self, times: list[int], start: int, end: int) -> int:
        """Up to where packets leave before the end of `duration`."""
        if self._end is None:
            return end
        if self._ended and time.monotonic_ns() >= self._end:
            return start
        if not self._speed:
            return end
        latest = self._origin + int((self._end - self._moment) * self._speed)
        return next((at for at in range(start, end) if times[at] > latest), end)

    def _seconds_left(self) -> float:
        """From now to the end of `duration`; without one, or before it begins, the longest that a wait may be."""
        if self._end is None:
            return threading.TIMEOUT_MAX
        return max(0.0, min((self._end - time.monotonic_ns()) / NANOSECONDS, threading.TIMEOUT_MAX))

    def _begin(self, turn: int, batch: "Batch", schedule: Schedule) -> None:
        """The file from its start: at once, or behind the turn before."""
        times = times_of(batch)
        if turn == 0:
            self._moment = self._started = time.monotonic_ns() + (LEAD_NS if self._speed else 0)
            if self._duration is not None and not isinstance(self._file, Arbiter):
                self._end = self._started + self._duration
        elif self._speed:
            lasted = self._reached() - self._turn_began
            gap = lasted / (self._in_turn - 1) if self._in_turn > 1 and lasted else LONE_PAUSE_NS / self._speed
            self._moment = self._reached() + (int(gap) if self._pause is None else self._pause)
        self._turn_began = self._moment
        self._origin = self._last = next(filter(None, times), 0)
        self._spacing.begin(self._origin)
        self._turn, self._in_turn = turn, 0
        schedule.start(self._origin, self._moment, self._speed)

    def _reached(self) -> int:
        """When the last packet was due."""
        return self._moment + int((self._last - self._origin) / (self._speed or 1))

    def _go_on(self, time_of_next: int, gap: int, schedule: Schedule) -> None:
        """Behind a step of the clock: the next packet follows by `gap` ns of the recording."""
        self._moment = self._reached() + int(gap / (self._speed or 1))
        self._origin = self._last = time_of_next
        schedule.start(self._origin, self._moment, self._speed)

    def destination(self, packet: "Packet") -> Group:
        """Return where a recorded packet goes.

        Args:
            packet: A packet of the file.

        Returns:
            The group, with a port.

        Raises:
            ArgumentError: It is no Packet.
        """
        checked(packet, _core.views.Packet, "packet", "a Packet")
        group, port = packet.group, packet.port
        found = self._mapping.get((group, port)) or self._mapping.get((group, None)) or self._to
        if found is None:
            return Group(group, port)
        return found if found.port is not None else replace(found, port=port)


def _mapped(mapping: Mapping[str, str]) -> dict[tuple[str, int | None], Group]:
    """What packets to a group and port are sent to, by what was given; ArgumentError, GroupError."""
    checked(mapping, Mapping, "mapping", "a mapping of groups to groups")
    pairs = ((one_group(old), one_group(new)) for old, new in mapping.items())
    return {(old.address, old.port): new for old, new in pairs}


def _check_pace(speed: float | None, rate: float | str | None, fastest: bool) -> None:
    """ArgumentError where more than one of them is given, or the speed is none."""
    if (speed is not None) + (rate is not None) + bool(fastest) > 1:
        raise ArgumentError(
            Argument("speed"), ", ", Argument("rate"), " and ", Argument("fastest", "True"), " exclude each other"
        )
    if speed is not None and (not isinstance(speed, int | float) or not 0 < speed < math.inf):
        raise ArgumentError(f"speed {speed!r} is out of range; use more than 0, such as 2.0 for twice as fast")


def _check_destination(to: bool, as_recorded: bool, mapping: bool) -> None:
    """ArgumentError where it is not said where packets go: nobody sends to the groups of a network unaware."""
    if to and as_recorded:
        exclude = " exclude each other: packets go to one group, or to the recorded ones"
        raise ArgumentError(Argument("to"), " and ", Argument("as_recorded", "True"), exclude)
    if to or as_recorded:
        return
    what = "the groups that mapping leaves out have" if mapping else "packets have"
    name = f"{what} no destination; name a group with "
    recorded = " to send to the groups they were recorded from, on this network"
    raise ArgumentError(name, Argument("to"), ", or pass ", Argument("as_recorded", "True"), recorded)


def one_group(value: str | Group) -> Group:
    """A group that is no run of several; GroupError, ArgumentError."""
    group = Group.coerce(value)
    if group.count != 1:
        raise ArgumentError(f"{group} is {group.count} groups; name one")
    return group


Item = tuple[int, "Batch", int]


class _Live(contextlib.AbstractContextManager["_Live"]):
    """What an arbiter delivers; what comes next is not known."""

    def __init__(self, items: Iterator[Item]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Item]:
        return self._items

    def peek(self, _seconds: float) -> "Item | None":
        """None: nothing is read ahead."""
        return None

    def __exit__(self, *_exception: object) -> None:
        """Nothing is open."""


class ReadAhead:
    """Takes batches from an iterator in a thread of its own, AHEAD of them before they are requested.

    Args:
        items: The batches.
        seconds_left: How long it may wait for one now; nothing comes behind that.
    """

    def __init__(
        self, items: Iterator[Item], seconds_left: Callable[[], float] = lambda: threading.TIMEOUT_MAX
    ) -> None:
        self._seconds_left = seconds_left
        self._peeked: list[Item | BaseException | None] = []
        self._reading = Reading(items, weakref.ref(self))
        threads.start(self._reading.run, name="mcast-fast replay reads ahead")

    def __iter__(self) -> Iterator[Item]:
        """What was read, in order; what reading raised. The first comes when AHEAD are there, or after a moment, so
        that reading and sending are not in each other's way from the start."""
        reading = self._reading
        with contextlib.suppress(queue.Empty):
            reading.is_ahead.get(timeout=START)
        while (item := self._next()) is not None:
            if isinstance(item, BaseException):
                raise item
            reading.room.put(None)
            yield item

    def _next(self) -> "Item | BaseException | None":
        if not self._peeked:
            try:
                return self._reading.read.get(timeout=self._seconds_left())
            except queue.Empty:
                return None
        item = self._peeked[0]
        self._peeked = []
        return item

    def peek(self, seconds: float) -> "Item | None":
        """What comes next, and stays there; None at the end, before an error, and where nothing comes in time."""
        if not self._peeked:
            with contextlib.suppress(queue.Empty):
                self._peeked = [self._reading.read.get(timeout=min(seconds, LONGEST_PEEK))]
        first = self._peeked[0] if self._peeked else None
        return first if isinstance(first, tuple) else None

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
