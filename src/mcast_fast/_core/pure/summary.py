"""Flows of a capture file, counted: the twin of fast/summary.pxi and c/summary.c."""

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mcast_fast._core.addresses import is_link_local
from mcast_fast._core.layout import FIELDS, RECORD, Flag
from mcast_fast._core.pure.views import Batch

_PLACES = {field.name: place for place, field in enumerate(FIELDS)}
_TIME, _INTERFACE, _DROPPED, _LENGTH, _WIRE, _SOURCE, _GROUP, _PORT, _FLAGS = (
    _PLACES[name]
    for name in (
        "timestamp",
        "interface",
        "dropped",
        "length",
        "wire_length",
        "source",
        "group",
        "port",
        "flags",
    )
)
_TRUNCATED = int(Flag.TRUNCATED)


class Counted:
    """A flow; see `blocks.Counted`."""

    __slots__ = (
        "bytes",
        "dropped",
        "first",
        "largest",
        "largest_gap",
        "largest_gap_at",
        "last",
        "packets",
        "smallest",
        "truncated",
        "wire_bytes",
    )

    def __init__(self) -> None:
        self.packets = self.bytes = self.wire_bytes = self.dropped = self.truncated = 0
        self.first: int | None = None
        self.last: int | None = None
        self.largest_gap = self.largest_gap_at = self.smallest = self.largest = 0

    def add(self, row: tuple[Any, ...]) -> None:
        """Count a packet."""
        size = max(row[_LENGTH], row[_WIRE])
        if row[_TIME]:
            self._add_time(row[_TIME])
        self.smallest = min(self.smallest, size) if self.packets else size
        self.largest = max(self.largest, size)
        self.packets += 1
        self.bytes += row[_LENGTH]
        self.wire_bytes += size
        self.dropped += row[_DROPPED]
        self.truncated += row[_FLAGS] & _TRUNCATED

    def _add_time(self, time: int) -> None:
        if self.first is None or self.last is None:
            self.first = self.last = time
        elif time > self.last:
            if time - self.last > self.largest_gap:
                self.largest_gap, self.largest_gap_at = time - self.last, self.last
            self.last = time
        elif time < self.first:
            self.first = time

    def merge(self, flow: "Counted") -> None:
        """Add another flow."""
        if flow.first is not None and flow.last is not None:
            self.first = flow.first if self.first is None else min(self.first, flow.first)
            self.last = flow.last if self.last is None else max(self.last, flow.last)
        if flow.largest_gap > self.largest_gap:
            self.largest_gap, self.largest_gap_at = flow.largest_gap, flow.largest_gap_at
        self.smallest = min(self.smallest, flow.smallest) if self.packets else flow.smallest
        self.largest = max(self.largest, flow.largest)
        for name in ("packets", "bytes", "wire_bytes", "dropped", "truncated"):
            setattr(self, name, getattr(self, name) + getattr(flow, name))

    def row(self, group: bytes, port: int, source: bytes, interface: int) -> tuple[Any, ...]:
        """As `blocks.Counted`."""
        counts = self.packets, self.bytes, self.wire_bytes, self.first, self.last, self.largest_gap, self.largest_gap_at
        return group, port, source, interface, *counts, self.dropped, self.truncated, self.smallest, self.largest


C = TypeVar("C", bound=Counted)


class Flows(Generic[C]):
    """The flows of packets: `most` of them, those with the most packets, and the others together; for use under `lock`.

    Where more than twice as many are known, those with the fewest packets are added to the others. `by_interface`:
    whether the interface is a part of what a flow is; of one from a link-local source it always is."""

    def __init__(self, most: int, new: Callable[[], C], by_interface: bool) -> None:
        self.lock = threading.RLock()  # a signal handler may come in between
        self.known: dict[tuple[bytes, int, bytes, int], tuple[int, C]] = {}
        self.others = new()
        self._most = most
        self._new = new
        self._by_interface = by_interface

    def flow(self, row: tuple[Any, ...]) -> C:
        """The flow of a record."""
        source = row[_SOURCE]
        is_part = self._by_interface or is_link_local(source)
        key = row[_GROUP], row[_PORT], source, row[_INTERFACE] if is_part else 0
        found = self.known.get(key)
        if found is None:
            if len(self.known) >= 2 * self._most:
                self.fit()
            found = self.known[key] = row[_INTERFACE], self._new()
        return found[1]

    def fit(self) -> None:
        """Leaves the flows with the most packets, and of several with as many those that began first."""
        if len(self.known) <= self._most:
            return
        ranked = sorted(self.known, key=lambda key: -self.known[key][1].packets)  # stable: in the order they began
        for key in ranked[self._most :]:
            self.others.merge(self.known.pop(key)[1])


class Summary:
    """The flows of packets: `most` of them, those with the most packets, and the others together. Threads may share it.

    Where more than twice as many are known, those with the fewest packets are added to the others."""

    def __init__(self, most: int) -> None:
        if not 1 <= most <= 1 << 24:
            raise ValueError("a summary is of 1 to 2**24 flows")
        self._flows = Flows(most, Counted, by_interface=False)

    def add(self, batch: Batch) -> None:
        """Counts the packets of a batch."""
        with self._flows.lock:
            for row in RECORD.iter_unpack(bytes(batch.records)):
                self._flows.flow(row).add(row)

    def add_row(self, row: tuple[Any, ...]) -> None:
        """Counts a record, unpacked."""
        with self._flows.lock:
            self._flows.flow(row).add(row)

    def flows(self) -> tuple[list[tuple[Any, ...]], tuple[Any, ...] | None]:
        """(the flows in the order they began, as rows of `blocks.Counted`; the row of the others, or None)."""
        with self._flows.lock:
            self._flows.fit()
            rows = [flow.row(*key[:3], interface) for key, (interface, flow) in self._flows.known.items()]
            others = self._flows.others
            return rows, others.row(bytes(16), 0, bytes(16), 0) if others.packets else None
