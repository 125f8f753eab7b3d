"""Recorder: what a receiver receives, into capture files.

One thread takes batches and writes them. With `Receiver(background=True)` a thread of the core receives meanwhile, so
that a stalled disk costs nothing until that memory is full; without it (the pure backend has none) what comes while the
disk stalls waits in the kernel's buffer alone. All deadlines are moments of the monotonic clock: the system's clock
gives files their names, and nothing else.
"""

import bisect
import contextlib
import errno
import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._core.addresses import name_bytes
from mcast_fast._guarded import Guarded, guarded
from mcast_fast._units import NANOSECONDS, checked, checked_call, checked_text, duration_in_ns, size_in_bytes
from mcast_fast.errors import ArgumentError, ClosedError, FileError, file_error, warn
from mcast_fast.files._index import MANIFEST, path_of
from mcast_fast.files._limits import Autostop, Intervals, Limits, Names, Rotation
from mcast_fast.files._recorded import RecordedFile, Recording
from mcast_fast.files._streams import PathOrFile, is_compressed, subject_of
from mcast_fast.files._writer import Form, Link, Writer
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._arbiter import Arbiter
from mcast_fast.stats import Stats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch
    from mcast_fast.files._postrotate import PostRotate

AT_ONCE = 4096  # packets of a receiver's batch at most: a write of about a megabyte
AT_ONCE_OF_RING = 8192  # whose payloads are not copied
BATCHES = 64  # taken before requests are looked at
TICK_NS = 50_000_000  # requests of other threads and signal handlers are seen within it
# While the background thread receives, a little sleep makes batches large: each costs as much as some 20 packets.
GATHER_NS = 10_000_000
FLUSH, FLUSH_COMPRESSED = 0.1, 1.0  # seconds
STATISTICS_NS = 5 * NANOSECONDS
HOLD_NS = 20_000_000  # packets of several sockets wait for older ones of the others
MOST_HELD, MOST_HELD_BYTES = 65_536, 64 << 20  # packets that wait together, and their payload, at most
QUIET_NS, DRAIN_NS = 20_000_000, NANOSECONDS  # a recording that ends takes what is there, and no longer than this
PACKET_OVERHEAD = 113  # bytes that a packet has around its payload in a file at most, as MCAST_PACKET_OVERHEAD
ASIDE = 512  # bytes that a file needs beside its packets: an interface's description, the last statistics
NO_LIMITS = Limits(0, 0, 0)


class Recorder(Guarded):
    """Records what a receiver receives, or an Arbiter delivers: `run()` does it, in the thread that calls it.

    Files are created for their owner alone (0600); one that is there keeps its mode, with a warning where others may
    read it, and a link is not followed, but for those in /dev. pcapng files hold the drops with the packets they came
    before (epb_dropcount), and every five seconds and at the end a statistics block: what this file received and what
    was dropped meanwhile. The receiver stays open, and open it with `batch_size=4096`: large batches make large writes.

    close() may be called at any moment, also by a signal handler: a recording that runs ends within 50 ms, and its file
    is whole. A recorder belongs to the process that opened it: a forked child writes nothing into the shared file.

    Args:
        receiver: What is recorded.
        path: Where to (pcapng, or pcap by its suffix; .gz or .zst compress), or an open binary file.
        rotate: When it goes on in another file.
        stop: When it ends.
        flush_interval: Seconds, or text ("100ms"), after which a packet has been handed over to the system, and can be
            read whatever becomes of this process; 0: with every batch. Left out: 100 ms, and 1 s for a file that is
            compressed.
        reserve: Bytes, or text ("1GiB"), that the file system keeps free: the recording ends before, with FileError.
        command: Run as `command FILE` for each finished file; its failures are MulticastWarnings.
        on_file: Called with each finished file.
        choose: Called with each batch that is received; what it returns of it is recorded, such as
            `lambda batch: batch.where(port=5000)`. Limits of packets and of silence are of what it returns.
        on_batch: Called with each batch that is received, whatever is chosen of it, in the recording's thread:
            `Monitor.add`, for example. What it raises ends the recording.
        form: "pcapng" or "pcap", where the suffix does not say it.
        link: Of packets that are no whole frames: "ethernet", or "raw" for raw IP.
        filter_text: What was requested, kept in the files.

    Raises:
        ArgumentError: An argument is out of range, or does not go with another one.
        FeatureError: The compression needs a package that is not there.
        FileError: The system refuses to open the file.
    """

    __module__ = "mcast_fast.files"

    _WHAT = "recorder"

    def __init__(
        self,
        receiver: Receiver | Arbiter,
        path: PathOrFile,
        *,
        rotate: Rotation | None = None,
        stop: Autostop | None = None,
        flush_interval: float | str | None = None,
        reserve: int | str | None = None,
        command: str | None = None,
        on_file: Callable[[RecordedFile], None] | None = None,
        choose: "Callable[[Batch], Batch] | None" = None,
        on_batch: "Callable[[Batch], object] | None" = None,
        form: Form | None = None,
        link: Link = "ethernet",
        filter_text: str = "",
    ) -> None:
        super().__init__()
        self._receiver = checked(receiver, Receiver | Arbiter, "receiver", "a Receiver, or an Arbiter")
        checked(rotate, Rotation | None, "rotate", "a Rotation")
        checked(stop, Autostop | None, "stop", "an Autostop")
        for call, name in ((on_file, "on_file"), (choose, "choose"), (on_batch, "on_batch")):
            if call is not None:
                checked_call(call, name)
        checked_text(filter_text, "filter_text")
        subject = subject_of(path, "write")
        if isinstance(receiver, Arbiter):
            _check_not_read(receiver, path)
        self._stream = None if isinstance(path, str | os.PathLike) else path
        if self._stream is not None and (rotate is not None or reserve is not None or command is not None):
            raise ArgumentError(f"{subject} is no file that can be rotated, preallocated, or passed to a command")
        self._rotate_limits = rotate.limits() if rotate else NO_LIMITS
        self._most_kept = rotate.files if rotate else None
        self._stop = stop or Autostop()
        self._stop_limits = self._stop.limits()
        sizes = [limits.filesize for limits in (self._stop_limits, self._rotate_limits) if limits.filesize]
        self._largest = min(sizes, default=0) and max(1, min(sizes) - ASIDE - len(name_bytes(filter_text)))
        self._ends_when_full = self._stop_limits.filesize == min(sizes, default=-1)
        self._is_limited = bool(self._largest or self._stop_limits.packets or self._rotate_limits.packets or reserve)
        self._idle_ns = 0 if self._stop.idle is None else duration_in_ns(self._stop.idle, "autostop idle")
        if flush_interval is None:
            flush_interval = FLUSH_COMPRESSED if self._stream is None and is_compressed(subject) else FLUSH
        self._flush_ns = duration_in_ns(flush_interval, "flush_interval")
        self._tick_ns = min(TICK_NS, self._flush_ns or TICK_NS)
        self._gather_ns = min(self._flush_ns, GATHER_NS) if receiver.background else 0
        self._reserve = 0 if reserve is None else size_in_bytes(reserve, "reserve")
        self._command = _post_rotate(command) if command is not None else None
        self._on_file, self._on_batch, self._choose = on_file, on_batch, choose
        self._form, self._link, self._filter_text = form, link, filter_text
        self._names = Names(subject, rotate is not None)
        self._kept: deque[str] = deque()
        self._requests: deque[Callable[[], None]] = deque()
        self._reason = ""
        self._written = self._bytes = self._files = 0  # of finished files; and files begun
        self._final_stats: Stats | None = None
        self._base = receiver.stats  # when the file began
        self._path = ""
        self._unflushed_since = 0
        self._last_came = self._stop_at = self._rotate_at = self._statistics_at = 0  # monotonic; 0 = never
        self._intervals: Intervals | None = None
        self._hold_ns = min(HOLD_NS, self._flush_ns)
        self._held: list[Batch] = []  # received, and waiting for older packets of other sockets
        self._unwritten: Batch | None = None  # received, and not all handed to the writer
        self._before = 0  # packets in the file when the writer got it
        self._writer = self._open()
        self._closed = False

    # ---- for other threads and signal handlers ----

    def stop(self) -> None:
        """Have the recording take what has arrived, and end.

        Raises:
            ClosedError: Another process opened the recorder.
        """
        self.soon(lambda: self._end("asked"))

    def flush(self) -> None:
        """Have what is gathered handed over to the system.

        Raises:
            ClosedError: Another process opened the recorder.
        """
        self.soon(self._flush)

    def rotate(self) -> None:
        """Have the recording go on in the next file; one that does not rotate ends.

        Raises:
            ClosedError: Another process opened the recorder.
        """
        self.soon(self._rotate if self._rotate_limits != NO_LIMITS else lambda: self._end("asked"))

    def soon(self, action: Callable[[], None]) -> None:
        """Have the recording's own thread call something between two batches, within 50 ms unless the disk stalls.

        Args:
            action: Called without arguments.

        Raises:
            ArgumentError: `action` is not callable.
            ClosedError: Another process opened the recorder.
        """
        checked_call(action, "action")
        self._check_process()
        self._requests.append(action)

    def close(self) -> None:
        """End the recording now; closing again does nothing.

        What it has taken is written, and the file gets its last statistics.

        Any thread and any signal handler may call it at any moment: a run() in progress ends within 50 ms, and finishes
        the file. In a forked child only the descriptor is closed.

        Raises:
            FileError: The last write is refused.
        """
        super().close()

    def _tear_down(self) -> None:
        if self._reason == "":
            self._reason = "closed"
            try:
                self._finish(last=True)
            finally:
                self._writer.close()

    def _abandon(self) -> None:
        self._writer.close()

    def _is_unfinished(self) -> bool:
        return self._reason == "" and not self._closed

    @property
    def result(self) -> Recording:
        """What became of it so far; the final account once run() has ended, however it did. ClosedError in a forked
        child."""
        self._check_process()
        file = self._writer.stats
        stats = self._final_stats or self._receiver.stats
        written, size = self._written + file.packets, self._bytes + file.bytes
        return Recording(stats, written, size, self._files, self._path, self._reason)

    # ---- recording ----

    @guarded
    def run(self) -> Recording:
        """Record until a limit of `stop` is reached, stop() or close() is called, or the receiver is closed.

        What had arrived by then is written, the file gets its last statistics and is brought to the disk (fsync(2)).
        What the receiver delivered beyond a limit of packets or bytes is returned to it, for its next call.
        What a signal handler raises, KeyboardInterrupt too, ends it at once; the file is whole all the same, and what
        the receiver had delivered and is not in the file is returned to the receiver.

        Returns:
            What became of it, as `result`.

        Raises:
            FileError: The disk is full, the reader of a pipe has gone, or the reserve is reached.
            SocketError: The system refuses to receive.
            ClosedError: Another process opened the recorder.
        """
        now = self._last_came = time.monotonic_ns()
        self._stop_at = now + self._stop_limits.duration if self._stop_limits.duration else 0
        self._rotate_at = now + self._rotate_limits.duration if self._rotate_limits.duration else 0
        self._statistics_at = now + STATISTICS_NS
        if self._rotate_limits.interval:
            self._intervals = Intervals(self._rotate_limits.interval, time.time_ns())
        try:
            while not self._reason:
                self._step()
                if self._closed:
                    self._end("closed")
            if self._reason in ("asked", "duration", "idle"):
                self._drain()
            if self._reason in ("asked", "duration", "idle", "closed"):
                self._release()
            self._give_back()
            self._finish(last=True)
        except BaseException:
            self._check_process()  # a handler may have forked
            self._reason = "error"
            with contextlib.suppress(FileError):
                self._writer.close()
            self._remove_empty()
            self._give_back()
            raise
        finally:
            self._final_stats = self._receiver.stats
        if self._command is not None:
            self._command.finish()
        return self.result

    def _step(self) -> None:
        """Wait for packets until something else is due, and take what comes."""
        now = time.monotonic_ns()
        flush_at = self._unflushed_since and self._unflushed_since + self._flush_ns
        release_at = self._last_came + self._hold_ns if self._held else 0
        full_at = now + self._intervals.left(time.time_ns()) if self._intervals is not None else 0
        until = min(filter(None, (now + self._tick_ns, self._stop_at, self._rotate_at, full_at, flush_at, release_at)))
        try:
            if self._gather_ns:
                if self._receiver.wait(max(0, until - now) / NANOSECONDS):
                    time.sleep(self._gather_ns / NANOSECONDS)
                until = 0
            self._take(now, until)
        except ClosedError:
            self._check_process()
            self._end("closed")
        except EOFError:
            self._end("ended")
        self._look_at_clock(time.monotonic_ns())
        while self._requests and not self._reason:
            self._requests.popleft()()
        if self._command is not None:
            self._command.look()

    def _take(self, now: int, until: int) -> None:
        """Write the batches that come until then, or for a time that is over those that are there."""
        for _ in range(BATCHES):
            try:
                batch = self._receiver.recv_batch(timeout=max(0, until - now) / NANOSECONDS)
            except TimeoutError:
                return
            self._unwritten = batch
            now = time.monotonic_ns()
            chosen = batch
            if self._choose is not None:
                self._unwritten = chosen = self._choose(batch)
            if self._on_batch is not None:
                self._on_batch(batch)
            if len(chosen):
                self._last_came = now
                self._write(self._in_order(chosen))
            self._look_at_clock(now)
            if self._reason or self._held:
                return

    def _drain(self) -> None:
        """What had arrived when the recording had to end; another second of a stream that does not pause."""
        end = time.monotonic_ns() + DRAIN_NS
        self._stop_at, self._rotate_at, self._intervals = 0, 0, None
        reason, self._reason = self._reason, ""
        with contextlib.suppress(ClosedError, EOFError):
            while time.monotonic_ns() < end and not self._reason:
                if not self._receiver.wait(QUIET_NS / NANOSECONDS):
                    break
                self._take(0, 0)
            if isinstance(self._receiver, Arbiter):
                self._receiver.flush()
                self._take(0, 0)
        self._reason = self._reason or reason

    def _write(self, batch: "Batch") -> None:
        """Write a batch, in as many files as it takes, or as much of it as the recording may have."""
        if not self._is_limited:
            self._writer.write(batch)
            in_file = self._packets_in_file()
            self._unwritten, self._before = None, in_file
            self._unflushed_since = self._unflushed_since or self._last_came
            return
        while len(batch) and not self._reason:
            count = self._fitting(batch)
            part = batch if count == len(batch) else batch[:count]
            if count:
                self._check_reserve(part)
                self._writer.write(part)
            batch = batch[count:] if count < len(batch) else batch[:0]
            self._unwritten, self._before = batch, self._packets_in_file()
            self._look_at_limits(is_full=len(batch) > 0)
            self._before = self._packets_in_file()  # it may be another file now
        self._unwritten = batch if len(batch) else None  # a limit is reached
        if self._unflushed_since == 0:
            self._unflushed_since = time.monotonic_ns()

    def _give_back(self) -> None:
        """Have the receiver deliver what an exception, or a limit, kept from being written; what the writer accepted is
        in the file, or lost with it."""
        batch, held, self._unwritten, self._held = self._unwritten, self._held, None, []
        unwritten = [] if batch is None else [batch[max(0, self._packets_in_file() - self._before) :]]
        with contextlib.suppress(ClosedError):
            self._receiver.give_back([*unwritten, *held])

    def _in_order(self, batch: "Batch") -> "Batch":
        """What of the packets that were received can be written in the order of their times.

        Where there are several sockets, packets are held until all of them are read, and the latest for packets that
        are on their way to others."""
        if not self._held and self._receiver.sources < 2:
            return batch
        if not self._held and not self._hold_ns:
            return _core.views.by_time(batch)
        held = [*self._held, batch]
        size = sum(one.payload_bytes for one in held)
        if sum(map(len, held)) < MOST_HELD and size < MOST_HELD_BYTES and self._has_more():
            nothing = batch[:0]
            # Nothing is called from here on, so that no signal handler comes in between; as below.
            self._unwritten, self._held = nothing, held
            return nothing
        ordered = _core.views.by_time(_core.views.Batch.concatenate(held))
        last = ordered[len(ordered) - 1].timestamp
        count = len(ordered) if last is None else first_after(ordered, last - self._hold_ns)
        ready, rest = ordered[:count], [ordered[count:]] if count < len(ordered) else []
        self._unwritten, self._held = ready, rest
        return ready

    def _has_more(self) -> bool:
        """Whether packets are there that may be older."""
        with contextlib.suppress(ClosedError):
            return self._receiver.wait(0)
        return False

    def _release(self) -> None:
        """Write what is held: nothing older has come meanwhile."""
        if self._held:
            ordered = _core.views.by_time(_core.views.Batch.concatenate(self._held))
            self._unwritten, self._held = ordered, []
            self._write(ordered)

    def _fitting(self, batch: "Batch") -> int:
        """How many packets of a batch the file takes before it is full; an empty file takes one in any case."""
        in_file, count = self._packets_in_file(), len(batch)
        if self._stop_limits.packets:
            count = min(count, self._stop_limits.packets - self._written - in_file)
        if self._rotate_limits.packets:
            count = min(count, self._rotate_limits.packets - in_file)
        if self._largest:
            count = max(packets_within(batch, count, self._largest - self._writer.size), 0 if in_file else 1)
        return count

    def _look_at_limits(self, is_full: bool) -> None:
        """Rotate or end where the file is full, or holds as many packets as it may."""
        in_file = self._packets_in_file()
        if self._stop_limits.packets and self._written + in_file >= self._stop_limits.packets:
            self._end("packets")
        elif self._rotate_limits.packets and in_file >= self._rotate_limits.packets:
            self._rotate()
        elif is_full and self._ends_when_full:
            self._end("filesize")
        elif is_full:
            self._rotate()

    def _look_at_clock(self, now: int) -> None:
        """Whatever is due by the monotonic clock."""
        if self._rotate_at and now >= self._rotate_at:
            missed = (now - self._rotate_at) // self._rotate_limits.duration
            self._rotate_at += (missed + 1) * self._rotate_limits.duration
            self._rotate()
        if self._intervals is not None and self._intervals.is_over(time.time_ns()):
            self._rotate()
        if self._stop_at and now >= self._stop_at:
            self._end("duration")
        if self._idle_ns and now - self._last_came >= self._idle_ns:
            self._end("idle")
        if now >= self._statistics_at:
            self._statistics_at = now + STATISTICS_NS
            self._statistics()
        if self._held and now - self._last_came >= self._hold_ns and not self._has_more():
            self._release()
        if self._unflushed_since and now - self._unflushed_since >= self._flush_ns:
            self._flush()

    def _end(self, reason: str) -> None:
        self._reason = self._reason or reason

    # ---- files ----

    def _open(self) -> Writer:
        """The next file; before that, the oldest of a ring is deleted."""
        while self._most_kept and len(self._kept) >= self._most_kept:
            remove(self._kept.popleft())
        target: Any = self._stream
        writer, taken = None, False
        while writer is None:
            if self._stream is None:
                # Not the time that localtime() reads by itself: time(2) is some ms behind, so that what begins with a
                # full minute would be called after the one before.
                target = self._names.next(time.localtime(time.time_ns() // NANOSECONDS), taken)
            try:
                writer = Writer(
                    target,
                    form=self._form,
                    link=self._link,
                    filter_text=self._filter_text,
                    exclusive=self._rotate_limits != NO_LIMITS,
                    follow_links=False,
                )
            except FileError as error:
                if error.errno != errno.EEXIST:
                    raise
                taken = True
        if self._stream is None and writer.is_shared:
            warn(
                f"{target} was there, and keeps its mode: others than its owner may read it; remove it first, or "
                "change its mode (chmod 600)"
            )
        self._before = 0
        self._path = subject_of(target)
        self._files += 1
        if self._most_kept:
            self._kept.append(self._path)
        return writer

    def _rotate(self) -> None:
        """Finish the file, and begin the next one unless there are enough."""
        if self._reason:
            return
        if self._stop.files is not None and self._files >= self._stop.files:
            self._end("files")
            return
        self._finish(last=False)
        file, self._writer = self._writer.stats, self._open()
        self._written += file.packets
        self._bytes += file.bytes
        self._base = self._receiver.stats

    def _finish(self, last: bool) -> None:
        """The last statistics, and the file is whole. Only the last of all is waited for to be on the disk: meanwhile
        nobody writes, and the disk may take longer than the background memory lasts."""
        self._statistics()
        if last:
            self._writer.sync()
        self._writer.close()
        if self._stream is None:
            self._hand_on(RecordedFile(self._path, self._writer.stats.packets, self._writer.stats.bytes))

    def _remove_empty(self) -> None:
        """Delete a file that this recording made and the system took no byte of: no program reads an empty one. Only of
        a recording that rotates, whose files are new."""
        if self._stream is None and self._rotate_limits != NO_LIMITS and not self._writer.stats.bytes:
            with contextlib.suppress(OSError):
                Path(self._path).unlink()

    def _hand_on(self, file: RecordedFile) -> None:
        if self._on_file is not None:
            self._on_file(file)
        if self._command is not None:
            self._command.add(file.path)

    def _flush(self) -> None:
        self._writer.flush()
        self._unflushed_since = 0

    def _statistics(self) -> None:
        """The ledger of this file alone: its packets, and what was dropped and filtered since it began."""
        stats = self._receiver.stats
        names = [one.name for one in fields(stats) if one.name.startswith("dropped_")] + ["filtered"]
        since: dict[str, Any] = {
            name: now - (getattr(self._base, name) or 0) for name in names if (now := getattr(stats, name)) is not None
        }
        self._writer.statistics(replace(stats, received=self._packets_in_file(), **since))
        self._unflushed_since = self._unflushed_since or time.monotonic_ns()

    def _packets_in_file(self) -> int:
        return self._writer.accepted

    def _check_reserve(self, batch: "Batch") -> None:
        """FileError before the file system has less free than the reserve."""
        if not self._reserve:
            return
        import shutil

        directory = Path(self._path).parent
        try:
            free = shutil.disk_usage(directory).free
        except OSError as error:
            raise file_error("write", self._path, error) from error
        file = self._writer.stats
        gathered = self._writer.size - file.bytes
        if free - gathered - bytes_at_most(batch) - ASIDE >= self._reserve:
            return
        self._writer.flush()
        file = self._writer.stats
        raise FileError(
            errno.ENOSPC,
            f"write {self._path}: {directory} has {free} bytes free, and the reserve is {self._reserve}; free some of "
            f"it, or write elsewhere; {file.packets} packets, {file.bytes} bytes are in the file",
            file.packets,
            file.bytes,
        )


def _check_not_read(arbiter: Arbiter, path: PathOrFile) -> None:
    """ArgumentError where the path is that of a leg's file, which opening it would empty."""
    from mcast_fast.files._reader import Reader

    for leg in arbiter.legs:
        if isinstance(leg, Reader) and leg._reads(path):
            raise ArgumentError(f"{subject_of(path)} is its own target; write to another file")


def _post_rotate(command: str) -> "PostRotate":
    """What few recordings need is imported for those: a program that starts must not miss what comes meanwhile."""
    from mcast_fast.files._postrotate import PostRotate

    return PostRotate(command)


def first_after(batch: "Batch", time_ns: int) -> int:
    """The place of the first packet after this time, in a batch that is in the order of time."""
    return bisect.bisect_right(range(len(batch)), time_ns, key=lambda place: batch[place].timestamp or 0)


def bytes_at_most(batch: "Batch") -> int:
    """What a batch may take in a file."""
    return batch.payload_bytes + len(batch) * PACKET_OVERHEAD


def packets_within(batch: "Batch", count: int, room: int) -> int:
    """How many of the first `count` packets of a batch surely fit this many bytes."""
    if bytes_at_most(batch) <= room:
        return count
    for fitting, packet in enumerate(batch[:count]):
        room -= PACKET_OVERHEAD + len(packet)
        if room < 0:
            return fitting
    return count


def remove(path: str) -> None:
    """Delete a file of the ring, and what lies beside it; FileError. Somebody else may have done so."""
    try:
        for one in (path, path_of(path), path + MANIFEST):
            Path(one).unlink(missing_ok=True)
    except OSError as error:
        raise file_error("remove", path, error) from error
