"""The packets of several hosts as one: streams of batches put in the order of (time, host, sequence)."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._delivery import Delivery
from mcast_fast.files._recorder import first_after
from mcast_fast.groups import Group
from mcast_fast.stats import ReaderStats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

SLACK = 100_000_000  # ns by which packets of a file may be out of order


class Stream(Delivery):
    """A Source over batches that come from elsewhere, such as a leg of an Arbiter."""

    __module__ = "mcast_fast.cluster"

    _WHAT = "stream"

    def __init__(self, batches: Iterable["Batch"], group: Group) -> None:
        super().__init__(None, 4096)
        self._batches = iter(batches)
        self._group = group
        self._received = self._bytes = self._count = 0
        self._closed = False

    def _fill(self, at_once: int, wait: int) -> None:
        batch = next(self._batches, None)
        if batch is None:
            raise EOFError("all files have ended")
        self._received += len(batch)
        self._bytes += batch.payload_bytes
        self._count += 1
        self._unread.append(batch)

    def _fill_up(self, more: int, wait: int) -> None:
        while more > 0:
            before = self._received
            try:
                self._fill(more, wait)
            except EOFError:
                return
            more -= self._received - before

    @property
    def groups(self) -> tuple[Group, ...]:
        """The group that it carries."""
        return (self._group,)

    @property
    def stats(self) -> ReaderStats:
        """What came so far."""
        return ReaderStats(received=self._received, bytes=self._bytes, batches=self._count)

    def _tear_down(self) -> None:
        close = getattr(self._batches, "close", None)
        if close is not None:
            close()

    def _abandon(self) -> None:
        pass

    def _is_unfinished(self) -> bool:
        return False


def ordered(batches: Iterable["Batch"], slack: int = SLACK) -> Iterator["Batch"]:
    """The same packets in the order of time, where none is behind others that are younger by more than `slack` ns."""
    held: list[Batch] = []
    for batch in batches:
        held.append(batch)
        whole = _core.views.by_time(held[0] if len(held) == 1 else _core.views.Batch.concatenate(held))
        latest = whole[len(whole) - 1].timestamp
        ready = len(whole) if latest is None else first_after(whole, latest - slack)
        held = [whole[ready:]] if ready < len(whole) else []
        if ready:
            yield whole[:ready]
    yield from held


def merged(streams: Sequence[Iterable["Batch"]]) -> Iterator["Batch"]:
    """Streams that are in the order of time as one; packets of one time are in the order of the streams."""
    iterators = [iter(one) for one in streams]
    heads: list[Batch | None] = [next(one, None) for one in iterators]
    while True:
        there = [(at, head) for at, head in enumerate(heads) if head is not None]
        if not there:
            return
        if len(there) == 1:
            at, head = there[0]
            yield from itertools.chain([head], iterators[at])
            return
        # Up to the least of their last times, nothing more can come; at that time itself, of the first streams alone.
        until, limit = min((head[len(head) - 1].timestamp or 0, at) for at, head in there)
        parts = []
        for at, head in there:
            count = first_after(head, until if at <= limit else until - 1)
            parts.append(head[:count])
            heads[at] = head[count:] if count < len(head) else next(iterators[at], None)
        whole = _core.views.by_time(_core.views.Batch.concatenate(parts))
        if len(whole):
            yield whole
