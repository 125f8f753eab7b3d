"""Tracker: what became of the numbers of each flow.

Rules of this module: no I/O; the counting is done in `_core`.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

from mcast_fast import _core
from mcast_fast._core.addresses import plain_text
from mcast_fast._core.extraction import ChangeRow, FlowRow, What
from mcast_fast._units import NANOSECONDS, Seconds, wait_in_ns, whole_number
from mcast_fast.errors import ArgumentError
from mcast_fast.sequence._format import Format
from mcast_fast.stats import Flow, FlowState

if TYPE_CHECKING:
    from mcast_fast._core.fast.sequence import Tracker as CoreTracker
    from mcast_fast._core.fast.views import Batch

WINDOW = "1s"
MOST_FLOWS = 4096
_LIMIT = 1 << 20  # flows
_LONGEST_WINDOW = 3600 * NANOSECONDS
_STALLED = NANOSECONDS  # ns without a packet, where the window is shorter
_WHATS = tuple(What)
_COUNTERS = FlowRow._fields[FlowRow._fields.index("received") : FlowRow._fields.index("first_time")]


class Change(NamedTuple):
    """What changed in a flow: `what`, from the `first` to the `last` number that it is about, and the `time` of arrival
    (ns since the epoch; 0 = unknown) of the packet that showed it. The flow is named as in Flow: `source`,
    `source_port`, `group`, `port` and `key`."""

    what: What
    first: int
    last: int
    time: int
    source: str
    source_port: int | None
    group: str
    port: int
    key: bytes


Change.__module__ = "mcast_fast.sequence"


class Tracker:
    """Follows the numbers of every flow: what is missing, lost, came again, late or in another order.

        tracker = sequence.Tracker("rtp")
        for batch in rx:
            for change in tracker.update(batch):
                print(change.what, change.first, change.last)
        print(tracker.flows)

    A flow is named by the format's key, the sender's address, the group and the port. Time is that of arrival, as the
    records have it, so that a file gives the same figures as the live stream. Threads may share a tracker; their
    batches should come in the order of arrival.

    Args:
        format: A Format, or its text: "rtp", "u64be@10+u16be@18".
        window: Seconds, or text ("100ms"), up to an hour, for which a missing number is `pending`; then it is lost. It
            must exceed the longest delay between packets that the network reorders. A number that is further back than
            two windows is a sign of a restart.
        max_flows: Flows that are followed at most; to a new one gives way one that was silent since others last did
            (`evicted`), or, where none was, any.

    Raises:
        ArgumentError: An argument is out of range, or no format.
    """

    __module__ = "mcast_fast.sequence"

    def __init__(self, format: str | Format, window: Seconds = WINDOW, *, max_flows: int = MOST_FLOWS) -> None:
        self.format: Format = Format.parse(format)
        self._window = wait_in_ns(window, "window")
        if not 0 < self._window <= _LONGEST_WINDOW:
            raise ArgumentError(f"window {window!r} is out of range; use more than 0, up to an hour")
        limit = whole_number(max_flows, "max_flows", 1, _LIMIT)
        self._core = _core.sequence.Tracker(self.format.plan, self.format.source_port, self._window, limit)

    @property
    def core(self) -> "CoreTracker":
        """What `_core` counts by."""
        return self._core

    def update(self, batch: "Batch") -> list[Change]:
        """Take in the packets of a batch, in their order.

        Args:
            batch: A batch of a receiver or a file; a ring's is read in place.

        Returns:
            What changed, in the order in which it did.

        Raises:
            TypeError: It is no batch.
            ClosedError: Another process made the tracker.
        """
        return [self._change(row) for row in self._core.update(batch)]

    @property
    def flows(self) -> tuple[Flow, ...]:
        """Every flow as it was at its last packet."""
        return self.flows_at(0)

    def flows_at(self, now: int) -> tuple[Flow, ...]:
        """Every flow as it is at a time.

        Args:
            now: ns since the epoch, as `time.time_ns()` gives it; what is earlier than a flow's last packet means that.

        Returns:
            One Flow each. By then some may be stalled, and what they missed lost; the tracker itself waits for their
            next packets, so that looking changes nothing.

        Raises:
            ClosedError: Another process made the tracker.
        """
        return tuple(self._flow(row) for row in self._core.flows(now))

    @property
    def lost(self) -> int:
        """Numbers that all flows lost by their last packets, and those that flows missed which gave way."""
        return self.lost_at(0)

    def lost_at(self, now: int) -> int:
        """As `lost`, at a time.

        Args:
            now: ns since the epoch, as in `flows_at`.

        Returns:
            Numbers that all flows lost by then.

        Raises:
            ClosedError: Another process made the tracker.
        """
        return sum(row.lost for row in self._core.flows(now)) + self._core.totals().evicted_lost

    @property
    def evicted(self) -> int:
        """Flows that gave way to new ones."""
        return self._core.totals().evicted

    @property
    def unnumbered(self) -> int:
        """Packets without a number: too short for the format, or not of it."""
        totals = self._core.totals()
        return totals.short + totals.other

    def _change(self, row: ChangeRow) -> Change:
        return Change(_WHATS[row.kind], row.first, row.last, row.time, *self._name(row))

    def _name(self, row: ChangeRow | FlowRow) -> tuple[str, int | None, str, int, bytes]:
        return (
            plain_text(row.source),
            row.source_port if self.format.source_port else None,
            plain_text(row.group),
            row.port,
            row.key[: self.format.key_size],
        )

    def _flow(self, row: FlowRow) -> Flow:
        state = FlowState.RECEIVING
        if row.ended:
            state = FlowState.ENDED
        elif not row.received:
            state = FlowState.WAITING
        elif row.silent >= max(self._window, _STALLED):
            state = FlowState.STALLED
        elif 0 <= row.since_restart < self._window:
            state = FlowState.RESTARTED
        counters: dict[str, Any] = {name: getattr(row, name) for name in _COUNTERS}
        counters |= {"first_time": row.first_time or None, "last_time": row.last_time or None}
        return Flow(*self._name(row), state, **counters)

    def __repr__(self) -> str:
        return f"<Tracker of {self.format}, {len(self._core.flows(0))} flows>"


def tracker_of(sequence: str | Format | Tracker | None) -> Tracker | None:
    """The tracker that an argument `sequence=` names; ArgumentError."""
    return sequence if sequence is None or isinstance(sequence, Tracker) else Tracker(sequence)


def lost_by(tracker: Tracker | None, now: int) -> dict[str, Any]:
    """`flows` and `lost` of a ledger, as they are at a time (ns since the epoch; 0: at the last packets)."""
    return {} if tracker is None else {"flows": tracker.flows_at(now), "lost": tracker.lost_at(now)}
