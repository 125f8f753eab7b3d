"""The ledger of an Arbiter: what became of the numbers of a feed, and of each of its legs.

Rules of this module: no I/O.
"""

from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Any, Self

from mcast_fast import _html
from mcast_fast._core import lateness
from mcast_fast._core.extraction import FeedRow, LegRow
from mcast_fast.stats import Stats, _Counters


class LegState(StrEnum):
    """What a leg does."""

    __module__ = "mcast_fast.sequence"

    WAITING = "waiting"  # no packet with a number has come
    RECEIVING = "receiving"
    SILENT = "silent"  # nothing came for a second, and twice `hold`
    ENDED = "ended"  # its file has ended, or its receiver is closed


@dataclass(frozen=True, slots=True)
class LegStats(_Counters):
    """What became of a leg. In numbers, always, where `expected` is that of the feed:

        expected = received - duplicates - outside + lost + absent + pending

    `later - earlier` is what was counted in between.

    Attributes:
        state: What the leg does.
        silent_since: When its last packet came, of a leg that is silent: ns since the epoch; else None.
        packets: All of its packets.
        received: Numbers that it brought, again too.
        duplicates: Numbers that it had brought before.
        outside: Numbers that belong to nothing: before the feed's first, no longer remembered, or far off.
        lost: Numbers that it did not bring within `hold`, while it was there.
        absent: Numbers that were sent before it brought its first one, or while it was silent.
        pending: Numbers that it has not brought yet, for which `hold` has not passed.
        covered: Of those lost, what another leg brought in time.
        first: Numbers of which it was the first.
        late: Numbers that came after it had been charged for them, and are taken back.
        heartbeats: Packets that cover no number.
        unnumbered: Packets without a number: too short for the format, or not of it.
        unpaired: Packets of a group that no pair names.
        last_time: When its last packet came, ns since the epoch; None when unknown.
    """

    _STATES = frozenset({"state", "silent_since", "pending", "last_time"})

    __module__ = "mcast_fast.sequence"

    state: LegState
    silent_since: int | None = None
    packets: int = 0
    received: int = 0
    duplicates: int = 0
    outside: int = 0
    lost: int = 0
    absent: int = 0
    pending: int = 0
    covered: int = 0
    first: int = 0
    late: int = 0
    heartbeats: int = 0
    unnumbered: int = 0
    unpaired: int = 0
    last_time: int | None = None


@dataclass(frozen=True, slots=True)
class Skew:
    """By how much a leg's copy of a number came behind the first one, in ns.

    `p50` and `p99` are exact to 3 %, `max` is exact; None when no number came on two legs. `histogram`: (the most ns
    that a bucket holds, how many numbers are in it), of buckets that are not empty.
    """

    __module__ = "mcast_fast.sequence"

    counts: tuple[int, ...] = field(default=(), repr=False)  # by the buckets of lateness.py
    max: int | None = None

    @property
    def p50(self) -> int | None:
        """Half of all copies came within this."""
        return lateness.percentile(self.counts, 0.5)

    @property
    def p99(self) -> int | None:
        """99 % of all copies came within this."""
        return lateness.percentile(self.counts, 0.99)

    @property
    def histogram(self) -> tuple[tuple[int, int], ...]:
        """(the most ns that a bucket holds, how many numbers are in it), of buckets that are not empty."""
        return tuple((lateness.longest(bucket), count) for bucket, count in enumerate(self.counts) if count)

    def __sub__(self, earlier: "Skew") -> "Skew":
        """The copies that came since.

        Args:
            earlier: A Skew of the same arbiter, taken earlier.

        Returns:
            The difference of each bucket; `max` is that of the later one.

        Raises:
            TypeError: `earlier` is no Skew.
        """
        if not isinstance(earlier, Skew):
            return NotImplemented
        return Skew(tuple(now - before for now, before in zip(self.counts, earlier.counts, strict=True)), self.max)


@dataclass(frozen=True, slots=True)
class ArbiterStats(Stats):
    """What became of a feed of several legs. In numbers, always:

        expected = delivered + unrecovered + pending
        sum of legs' received = delivered + held + duplicates + late + sum of legs' outside
        recovered = sum of legs' covered

    `received`, `bytes`, `truncated` and `batches` are of what the arbiter delivers, in packets; `lost` is
    `unrecovered`. What the kernel dropped at a leg is in the stats of the leg's own receiver.

    Attributes:
        expected: Numbers from the first to the last, of all flows and runs.
        delivered: Numbers that were delivered.
        duplicates: Numbers that came when they had come before, on whichever leg.
        unrecovered: Numbers that no leg brought in time.
        pending: Numbers that are not delivered, and not yet given up.
        held: Of those pending, what has come and waits for what is before it.
        recovered: Losses of legs that another leg covered.
        late: Numbers that came when the feed had gone on without them (in order only; else they are delivered).
        restarts: How often the sender began anew.
        ambiguous: How often the numbers could not tell how much is missing: at a restart, after a silence or with
            a delay in which they may have come half around.
        overflows: How often packets that waited had too much memory, and what they waited for was given up.
        evicted: Flows that gave way to new ones.
        followed: Flows that are followed.
        skew: By how much copies came behind the first one.
        legs: A LegStats for each leg.
    """

    _STATES = Stats._STATES | {"pending", "held", "followed"}

    __module__ = "mcast_fast.sequence"

    expected: int = 0
    delivered: int = 0
    duplicates: int = 0
    unrecovered: int = 0
    pending: int = 0
    held: int = 0
    recovered: int = 0
    late: int = 0
    restarts: int = 0
    ambiguous: int = 0
    overflows: int = 0
    evicted: int = 0
    followed: int = 0
    skew: Skew = Skew()
    legs: tuple[LegStats, ...] = ()

    def _since(self, earlier: Self, name: str) -> Any:
        if name == "legs":
            return tuple(now - before for now, before in zip(self.legs, earlier.legs, strict=True))
        return Stats._since(self, earlier, name)  # without super(): a dataclass with slots is made anew

    def _repr_html_(self) -> str:
        """A table for notebooks: a row for each counter, and one for each of every leg."""
        rows = [(one.name, getattr(self, one.name)) for one in fields(self) if one.name not in ("skew", "legs")]
        rows = [(name, value) for name, value in rows if not isinstance(value, tuple)]
        rows += [(f"skew {name}", getattr(self.skew, name)) for name in ("p50", "p99", "max")]
        for at, leg in enumerate(self.legs):
            rows += [(f"leg {at}: {one.name}", getattr(leg, one.name)) for one in fields(leg)]
        return _html.table(type(self).__name__, ("", ""), rows)


def ledger_of(
    feed: FeedRow, legs: list[LegRow], skew: list[int], ended: list[bool], silence: int, batches: int
) -> ArbiterStats:
    """The counters of the core as a ledger. `silence`: ns after which a leg is silent."""
    counted = feed._asdict()
    for name in ("flows", "skew_max", "last_time", "packets"):
        del counted[name]
    return ArbiterStats(
        **counted,
        received=feed.packets,
        batches=batches,
        lost=feed.unrecovered,
        recovered=sum(leg.covered for leg in legs),
        followed=feed.flows,
        skew=Skew(tuple(skew), feed.skew_max if any(skew) else None),
        legs=tuple(
            _leg(leg, has_ended, feed.last_time - leg.last_time >= silence)
            for leg, has_ended in zip(legs, ended, strict=True)
        ),
    )


def _leg(row: LegRow, ended: bool, silent: bool) -> LegStats:
    state = LegState.RECEIVING
    if ended:
        state = LegState.ENDED
    elif not row.received and not row.heartbeats:
        state = LegState.WAITING
    elif silent and row.last_time:
        state = LegState.SILENT
    counted = row._asdict() | {"last_time": row.last_time or None}
    return LegStats(state, row.last_time if state is LegState.SILENT else None, **counted)
