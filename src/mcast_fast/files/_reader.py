"""Capture files as batches: a Reader is used as a Receiver is.

It reads pcapng (draft-ietf-opsawg-pcapng) and classic pcap; the blocks are the business of the core's decoder.
"""

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._core import blocks, process
from mcast_fast._delivery import Delivery
from mcast_fast._guarded import guarded
from mcast_fast._membership.desired import ALL_INTERFACES, Defaults, SourceFilter, sources_of
from mcast_fast._units import (
    EARLIEST,
    LATEST,
    NANOSECONDS,
    Moment,
    Seconds,
    Unset,
    iterated,
    moment_in_ns,
)
from mcast_fast.errors import CaptureError, FileError
from mcast_fast.files._input import Input
from mcast_fast.files._skipped import named
from mcast_fast.files._streams import PathOrFile, is_same_file, open_input, subject_of
from mcast_fast.files._unpacking import PAUSE
from mcast_fast.groups import Group, Groups, listed
from mcast_fast.sequence._format import Format
from mcast_fast.sequence._tracker import Tracker, lost_by, tracker_of
from mcast_fast.stats import ReaderStats

if TYPE_CHECKING:
    from mcast_fast._core.fast.files import Decoder, Summary
    from mcast_fast._core.fast.views import Batch


def filter_rows(
    groups: Iterable[str | Group], port: int | None, interface: str | None, source: str | None
) -> list[tuple[bytes, int, str, bool, tuple[bytes, ...]]]:
    """What the core's decoder may deliver: a row for each group, port and interface; GroupError."""
    wanted: dict[tuple[bytes, int, str], SourceFilter] = {}
    for value in groups:
        group = _completed(value, port, interface, source)
        sources, name = sources_of(group), group.interface or ""
        for one in group.expand():
            key = one.packed, group.port or 0, "" if name == ALL_INTERFACES else name
            wanted[key] = wanted[key].union(sources) if key in wanted else sources
    return [(*key, sources.exclude, tuple(sorted(sources.sources))) for key, sources in wanted.items()]


def _completed(value: str | Group, port: int | None, interface: str | None, source: str | None) -> Group:
    """A group with what it leaves out; GroupError."""
    group = Group.coerce(value)
    return replace(
        group,
        port=group.port if group.port is not None else port,
        interface=group.interface if group.interface is not None else interface,
        source=group.source if group.source is not None else source,
    )


class Reader(Delivery):
    """Reads the packets of a capture file, as a Receiver would deliver them: `for batch in reader`, `recv_batch`,
    `recv`, `collect`, `stats`, `close`.

    pcapng and classic pcap; Ethernet with VLAN tags, Linux cooked, raw IP and null links. Where the file ends, `recv`
    and `recv_batch` raise EOFError, and an iteration ends.

    `interface` of a packet is the name that the file has for it (`interface_index` counts from 1 as the file does), and
    `dropped` what the file reports. Fragments are put together, 64 datagrams at a time; the packet has the time of the
    fragment that came last. Where a file cannot be read any further, CaptureError comes after all packets before it.

    Threads may share a reader; close() may be called at any moment, from a signal handler too. What an exception of a
    signal handler interrupts is delivered by the next call. A reader belongs to the process that opened it.

    Args:
        file: A path (also of a file compressed as .gz or .zst), or an open binary file, such as a pipe.
        *groups: What to deliver: texts in the grammar of `Group.parse`, or Groups, or one sequence of them. Port and
            interface may be left out. Without groups: everything to multicast destinations.
        port: UDP port of groups that name none; without it they are of any port.
        interface: Name, in the file, of the interface of groups that name none; without it they are of any.
        source: The only source of groups that name none.
        timeout: Seconds that a receive waits for a file that grows (`follow`), or text such as "100ms"; None: no limit.
            Of any other file it is there for scripts that are written for a Receiver.
        batch_size: Packets in a batch at most.
        multicast_only: False: deliver all UDP where no groups are named.
        follow: The file grows: wait at its end for more, as `tail -f` does, until `timeout` or close().
        start: Only packets from this time on: ns since the epoch, an aware datetime, or text such as
            "2026-11-28T13:00:00Z".
        end: Only packets before this time.
        sequence: Follow the numbers in the packets, so that `stats.flows` has what is missing: the format as text
            ("rtp"), a `sequence.Format`, or a `sequence.Tracker` of one's own.

    Raises:
        GroupError: A text is no multicast group.
        ArgumentError: An argument is out of range.
        FeatureError: The compression needs a package that is not there.
        FileError: The system refuses to open the file.
    """

    __module__ = "mcast_fast.files"

    _WHAT = "reader"

    def __init__(
        self,
        file: PathOrFile,
        *groups: Groups,
        port: int | None = None,
        interface: str | None = None,
        source: str | None = None,
        timeout: Seconds | None = None,
        batch_size: int = 256,
        multicast_only: bool = True,
        follow: bool = False,
        start: Moment | None = None,
        end: Moment | None = None,
        sequence: str | Format | Tracker | None = None,
    ) -> None:
        super().__init__(timeout, batch_size)
        self._follow = bool(follow)
        self._tracker = tracker_of(sequence)
        self._subject = subject_of(file, "read", "readinto")
        Defaults(port, interface, source)  # GroupError, ArgumentError
        wanted = listed(groups)
        rows = filter_rows(wanted, port, interface, source) if wanted else None
        self._groups = tuple(_completed(one, port, interface, source) for one in wanted)
        self._decoder: Decoder = _core.files.Decoder(
            self._subject,
            rows,
            multicast_only,
            EARLIEST if start is None else moment_in_ns(start, "start"),
            LATEST if end is None else moment_in_ns(end, "end"),
        )
        self._input = Input(
            open_input(file) if isinstance(file, str | os.PathLike) else file, self._subject, bool(follow)
        )
        self._owned = isinstance(file, str | os.PathLike)
        self._file = file
        self._fresh: list[tuple[Batch, object]] = []  # decoded, and not yet seen by the tracker; each with a token
        self._failure: CaptureError | FileError | None = None
        self._closed = False

    # ---- packets ----

    def _wait(self, timeout: Seconds | Unset | None) -> int:
        """ns that a call waits at the end of a file that grows; -1: no limit, as for any other file."""
        wait = super()._wait(timeout)
        return wait if self._follow else -1

    def _fill(self, at_once: int, wait: int) -> None:
        if not self._fresh and not self._read(at_once, 1, wait):
            raise EOFError(f"{self._subject} has ended")
        self._take()

    def _fill_up(self, more: int, wait: int) -> None:
        try:
            self._read(more, more, wait)
        except TimeoutError:
            pass
        except (CaptureError, FileError):
            if not self._unread:
                raise  # else it is raised when those are delivered
        self._take()

    def _take(self) -> None:
        """Move what is decoded to `_unread`, by steps of one call: an exception of a signal handler comes before or
        after one of them, and the next call goes on from there."""
        if self._decoder.count:
            self._fresh.extend(zip(map(type(self._decoder).take, (self._decoder,)), (object(),), strict=False))
        if self._tracker is not None:
            for batch, token in self._fresh:
                self._tracker.core.note(batch, token)
        fresh: list[tuple[Batch, object]] = []
        unread = [*self._unread, *(batch for batch, _ in self._fresh)]
        self._unread, self._fresh = unread, fresh

    def _count_into(self, summary: "Summary") -> None:
        """Count all that is left of the file. CaptureError, FileError, ClosedError."""
        if self._tracker is not None or self._follow or self._unread or self._fresh:
            for batch in self:
                summary.add(batch)
            return
        self._count_whole(summary)

    @guarded
    def _count_whole(self, summary: "Summary") -> None:
        """The same, of which no packets are made."""
        self._read(1, 1, -1, summary)

    def _read(self, limit: int, at_least: int, wait: int, summary: "Summary | None" = None) -> int:
        """Read until `at_least` packets are in the decoder, or the file has no more; returns how many are.

        At the end of a file that grows it waits for `wait` ns (-1: no limit), where there are none: TimeoutError."""
        if self._failure is not None and not self._decoder.count:
            raise self._failure
        decoder, source = self._decoder, self._input
        until = None if wait < 0 else time.monotonic_ns() + wait
        try:
            while self._failure is None:
                source.skip_to(decoder.offset)
                if decoder.needed <= source.left or source.ended:  # else the next block is not whole yet
                    with source.rest() as rest:
                        decoder.decode(rest, limit, source.ended, summary)
                    source.skip_to(decoder.offset)
                    if decoder.count >= at_least or decoder.needed <= source.left or source.ended:
                        break
                source.read(decoder.needed)
                self._check_open()  # a handler may have closed it meanwhile
                if source.is_waiting and not self._wait_for_more(until):
                    break
        except (CaptureError, FileError) as error:
            self._failure = error
            if not decoder.count:
                raise
        if source.is_waiting and not decoder.count:
            raise TimeoutError(f"{self._subject} has no more packet yet")
        if source.ended and not decoder.form:
            self._failure = CaptureError(self._subject, 0, "it is empty")
            raise self._failure
        return decoder.count

    def _wait_for_more(self, until: int | None) -> bool:
        """Wait for a moment; False when the time is over."""
        left = PAUSE if until is None else (until - time.monotonic_ns()) / NANOSECONDS
        if left <= 0:
            return False
        self._input.wait(min(PAUSE, left))
        self._check_open()
        return True

    # ---- state ----

    def _reads(self, file: PathOrFile) -> bool:
        """Whether a path, or an open file, is what this reads."""
        return is_same_file(self._file, file)

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that were named, with what they left out; empty: all are delivered."""
        return self._groups

    @property
    def form(self) -> str:
        """'pcapng' or 'pcap'; '' before the first packet was requested."""
        self._check_process()
        return self._decoder.form

    @property
    def offset(self) -> int:
        """Bytes of the file that were read, in whole blocks (of a compressed file: as decompressed)."""
        self._check_process()
        return self._decoder.offset

    @property
    def interfaces(self) -> tuple[blocks.CapturedOn, ...]:
        """Every interface that the file has described so far, and what its statistics blocks counted."""
        self._check_process()
        return self._decoder.interfaces

    @property
    def stats(self) -> ReaderStats:
        """What became of the file's packets so far."""
        self._check_process()
        figures: dict[str, Any] = self._decoder.counters() | lost_by(self._tracker, 0)
        return ReaderStats(**figures)

    @property
    def skipped_kinds(self) -> dict[str, int]:
        """What the frames are that `stats.skipped` counts, by name: "TCP", "ARP", "link type 239 (NFLOG)"."""
        self._check_process()
        return named(self._decoder.skipped())

    def _tear_down(self) -> None:
        self._unread, self._ready, self._fresh = [], None, []
        if self._owned:
            self._input.close()

    _abandon = _tear_down

    def _is_unfinished(self) -> bool:
        return self._owned and not self._closed

    def __repr__(self) -> str:
        received = f", {self.stats.received} packets so far" if self._process == process.number else ""
        return f"<Reader of {self._subject}{received}{', closed' if self._closed else ''}>"


def open_capture(
    file: PathOrFile,
    groups: Groups = (),
    *,
    port: int | None = None,
    interface: str | None = None,
    source: str | None = None,
    timeout: Seconds | None = None,
    batch_size: int = 256,
    multicast_only: bool = True,
    follow: bool = False,
    start: Moment | None = None,
    end: Moment | None = None,
    sequence: str | Format | Tracker | None = None,
) -> Reader:
    """Open a capture file for reading.

    Args:
        file: A path (also of a file compressed as .gz or .zst), or an open binary file, such as a pipe.
        groups: A group, or a sequence of them; without it everything to multicast destinations.
        port: UDP port of groups that name none; without it they are of any port.
        interface: Name, in the file, of the interface of groups that name none; without it they are of any.
        source: The only source of groups that name none.
        timeout: Seconds that a receive waits for a file that grows (`follow`), or text such as "100ms"; None: no limit.
            Of any other file it is there for scripts that are written for a Receiver.
        batch_size: Packets in a batch at most.
        multicast_only: False: deliver all UDP where no groups are named.
        follow: The file grows: wait at its end for more, as `tail -f` does, until `timeout` or close().
        start: Only packets from this time on: ns since the epoch, an aware datetime, or text such as
            "2026-11-28T13:00:00Z".
        end: Only packets before this time.
        sequence: Follow the numbers in the packets, so that `stats.flows` has what is missing: the format as text
            ("rtp"), a `sequence.Format`, or a `sequence.Tracker` of one's own.

    Returns:
        A `mcast_fast.files.Reader`: use it in a `with`, or close it.

    Raises:
        GroupError: A text is no multicast group.
        ArgumentError: An argument is out of range.
        FeatureError: The compression needs a package that is not there.
        FileError: The system refuses to open the file.
    """
    several = (groups,) if isinstance(groups, str | Group) else iterated(groups, "groups", "a group or several")
    return Reader(
        file,
        *several,
        port=port,
        interface=interface,
        source=source,
        timeout=timeout,
        batch_size=batch_size,
        multicast_only=multicast_only,
        follow=follow,
        start=start,
        end=end,
        sequence=sequence,
    )


open_capture.__name__ = open_capture.__qualname__ = "open"  # as it is exported
open_capture.__module__ = "mcast_fast.files"
