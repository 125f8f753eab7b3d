"""What an exporter shows, as data: metric families with their names, help texts, units, labels and samples.

Names, units and suffixes are those of Prometheus and OpenMetrics: base units, counters that end in _total (which the
texts add), and no figure that another one gives by rate().

Rules of this module: no I/O, no lock, no package but ours. It works on copies of what was counted.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple

from mcast_fast._units import NANOSECONDS
from mcast_fast.errors import escaped
from mcast_fast.monitor._stream import Stream, StreamState, drops, gap_bound
from mcast_fast.sequence._ledger import ArbiterStats, LegState
from mcast_fast.stats import Stats

_FORGOTTEN = 1024  # series that are gone and remembered, of each family
STREAM_LABELS = ("group", "port", "interface")
NUMBER_LABELS = ("group", "port")
SOURCE = "source"
# Of the gaps, which are counted by their number of bits: from 1 us to 69 s, four times as long each.
GAP_BITS = range(10, 37, 2)
INFINITE = "+Inf"


class Family(NamedTuple):
    """A metric family: its samples are values by their labels' values; of a histogram, (le, value) each and the sum."""

    name: str
    kind: str  # "counter", "gauge", "histogram" or "info"
    help: str
    unit: str = ""
    labels: tuple[str, ...] = ()
    samples: Sequence[tuple[tuple[str, ...], Any]] = ()


class Seen(NamedTuple):
    """What there was at one moment: the ledger, where there is a receiver, and streams, where there is a monitor; or
    the ledger of an arbiter, and what was dropped of each of its legs, by cause."""

    stats: Stats | None
    streams: tuple[Stream, ...]
    feed: ArbiterStats | None = None
    leg_drops: tuple[dict[str, int | None], ...] = ()


class _Row(NamedTuple):
    """A metric of the ledger, or of streams: name, kind, help, unit, and its value."""

    name: str
    kind: str
    help: str
    unit: str
    value: Callable[[Any], float | None]


LEDGER = (
    _Row("mcast_packets_received", "counter", "Packets taken into batches.", "", lambda one: one.received),
    _Row("mcast_received_bytes", "counter", "Bytes of their payloads.", "bytes", lambda one: one.bytes),
    _Row(
        "mcast_packets_filtered",
        "counter",
        "Packets that reached the receiver and matched no membership, or were malformed.",
        "",
        lambda one: one.filtered,
    ),
    _Row(
        "mcast_packets_truncated",
        "counter",
        "Received packets that were longer than the receiver takes.",
        "",
        lambda one: one.truncated,
    ),
    _Row(
        "mcast_packets_fragmented",
        "counter",
        "Fragmented datagrams, which a ring does not reassemble.",
        "",
        lambda one: one.fragments,
    ),
    _Row(
        "mcast_packets_coalesced",
        "counter",
        "Received packets that share their time of arrival with others.",
        "",
        lambda one: one.coalesced,
    ),
    _Row(
        "mcast_drops_exact",
        "gauge",
        "0 where the kernel may have counted several coalesced packets as one drop: then drops are a lower bound.",
        "",
        lambda one: int(one.drops_exact),
    ),
    _Row("mcast_batches", "counter", "Batches that were delivered.", "", lambda one: one.batches),
    _Row("mcast_wakeups", "counter", "Returns from waiting.", "", lambda one: one.wakeups),
)
# Of an arbiter, in numbers; those that are taken back when they come late stay counted.
FEED = (
    _Row("mcast_feed_packets", "counter", "Packets that were delivered.", "", lambda one: one.received),
    _Row("mcast_feed_delivered", "counter", "Numbers that were delivered.", "", lambda one: one.delivered),
    _Row("mcast_feed_unrecovered", "counter", "Numbers that no leg brought in time.", "", lambda one: one.unrecovered),
    _Row("mcast_feed_recovered", "counter", "Losses of legs that another leg covered.", "", lambda one: one.recovered),
    _Row("mcast_feed_late", "counter", "Numbers that came behind where the feed was.", "", lambda one: one.late),
    _Row("mcast_feed_restarts", "counter", "Times that the sender began anew.", "", lambda one: one.restarts),
    _Row("mcast_feed_ambiguous", "counter", "Times that loss could not be told.", "", lambda one: one.ambiguous),
    _Row("mcast_feed_pending", "gauge", "Numbers not delivered, and not given up.", "", lambda one: one.pending),
)
LEGS = (
    _Row("mcast_leg_received", "counter", "Numbers that the leg brought, again too.", "", lambda one: one.received),
    _Row(
        "mcast_leg_lost",
        "counter",
        "Numbers that the leg did not bring in time while it was there, those that came late included.",
        "",
        lambda one: one.lost + one.late,
    ),
    _Row("mcast_leg_covered", "counter", "Of those, what another leg brought.", "", lambda one: one.covered),
    _Row("mcast_leg_absent", "counter", "Numbers sent while the leg was silent.", "", lambda one: one.absent),
    _Row("mcast_leg_late", "counter", "Numbers that came after they were charged.", "", lambda one: one.late),
    _Row("mcast_leg_duplicates", "counter", "Numbers that the leg brought again.", "", lambda one: one.duplicates),
    _Row("mcast_leg_first", "counter", "Numbers of which the leg was the first.", "", lambda one: one.first),
)
LEG_STATES = Family("mcast_legs", "gauge", "1 for the state that a leg has.", labels=("leg", "state"))
LEG_DROPS = Family(
    "mcast_leg_packets_dropped",
    "counter",
    "Packets of a leg that reached this machine and were lost in it.",
    labels=("leg", "cause"),
)
BUILD = Family("mcast_build", "info", "The library that counts.")
DROPPED = Family(
    "mcast_packets_dropped",
    "counter",
    "Packets that reached this machine and were lost in it; nic: by the interfaces, packets of other programs too.",
    labels=("cause",),
)
STATES = Family("mcast_streams", "gauge", "Streams by their state.")
STREAMS = (
    _Row(
        "mcast_stream_packets", "counter", "Packets of the streams.", "", lambda rows: sum(one.packets for one in rows)
    ),
    _Row(
        "mcast_stream_bytes",
        "counter",
        "Bytes of their payloads as they were sent.",
        "bytes",
        lambda rows: sum(one.bytes for one in rows),
    ),
    _Row(
        "mcast_stream_silences",
        "counter",
        "Times that a stream came again after it was stalled.",
        "",
        lambda rows: sum(one.silences for one in rows),
    ),
    _Row(
        "mcast_stream_packets_per_second",
        "gauge",
        "Packets of the last second; 0 when stalled.",
        "",
        lambda rows: sum(one.packets_per_second for one in rows),
    ),
    _Row(
        "mcast_stream_bytes_per_second",
        "gauge",
        "Bytes of payload of the last second; 0 when stalled.",
        "",
        lambda rows: sum(one.bits_per_second // 8 for one in rows),
    ),
    _Row(
        "mcast_stream_last_packet_timestamp_seconds",
        "gauge",
        "Arrival of the latest packet, seconds since the epoch.",
        "seconds",
        lambda rows: max((one.last_time for one in rows if one.last_time), default=0) / NANOSECONDS or None,
    ),
)
NUMBERS = (
    ("mcast_sequence_lost", "Numbers that were missing for longer than the window, those that came late included."),
    ("mcast_sequence_late", "Numbers that came after they had been counted lost."),
    ("mcast_sequence_duplicates", "Numbers that came again."),
    ("mcast_sequence_reordered", "Numbers that came behind a later one."),
    ("mcast_sequence_restarts", "Times that a sender began to count anew."),
)
GAPS = Family(
    "mcast_arrival_gap_seconds", "histogram", "Time between two packets of a stream, of all streams.", "seconds"
)


class Rising:
    """Keeps counters from decreasing. A flow or a stream that gives way to another one takes its counts with it, and so
    does a monitor that begins anew: Prometheus would take the smaller value for that of a new process, and count it
    again."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[str, ...], tuple[Any, Any]]] = {}  # the latest value, and what is added to it

    def shown(self, family: Family, *, is_kept: bool = True) -> Family:
        """A family as it is to be shown.

        Args:
            family: As it was counted.
            is_kept: False: it is not remembered, for what is older may follow.
        """
        if family.kind != "counter":
            return family
        known = self._known.setdefault(family.name, {})
        samples = []
        for labels, value in family.samples:
            latest, added = known.get(labels, (0, 0))
            added += max(0, latest - value)
            samples.append((labels, value + added))
            if is_kept:
                known[labels] = value, added
        if len(known) > 2 * len(samples) + _FORGOTTEN:  # anybody may make series of sources
            self._known[family.name] = {labels: known[labels] for labels, _ in samples if labels in known}
        return family._replace(samples=samples)


def families(seen: Seen, per_source: bool, build: dict[str, str]) -> Iterator[Family]:
    """All families that have samples, in a fixed order.

    Args:
        seen: What there was.
        per_source: Whether the sources of streams are a label.
        build: Labels of `mcast_build_info`.
    """
    every = chain(
        [BUILD._replace(labels=tuple(build), samples=[(tuple(build.values()), 1)])],
        () if seen.stats is None else _ledger(seen.stats),
        _streams(seen.streams, per_source),
        _numbers(seen, per_source),
        [GAPS._replace(samples=[((), _histogram(seen.streams))])] if seen.streams else (),
        () if seen.feed is None else _feed(seen.feed, seen.leg_drops),
    )
    return (one for one in every if one.samples)


def _ledger(stats: Stats) -> Iterator[Family]:
    for name, kind, text, unit, value in LEDGER:
        yield Family(name, kind, text, unit, (), (((), value(stats)),))
    causes = drops(stats).items()
    yield DROPPED._replace(samples=[((cause,), value) for cause, value in causes if value is not None])


def _feed(stats: ArbiterStats, leg_drops: Iterable[dict[str, int | None]]) -> Iterator[Family]:
    for name, kind, text, unit, value in FEED:
        yield Family(name, kind, text, unit, (), (((), value(stats)),))
    legs = [(str(at), leg) for at, leg in enumerate(stats.legs)]
    states = [((at, state), int(leg.state is state)) for at, leg in legs for state in LegState]
    yield LEG_STATES._replace(samples=states)
    for name, kind, text, unit, value in LEGS:
        yield Family(name, kind, text, unit, ("leg",), [((at,), value(leg)) for at, leg in legs])
    dropped = [
        ((str(at), cause), value)
        for at, causes in enumerate(leg_drops)
        for cause, value in causes.items()
        if value is not None
    ]
    yield LEG_DROPS._replace(samples=dropped)


def _streams(streams: Iterable[Stream], per_source: bool) -> Iterator[Family]:
    labels = STREAM_LABELS + ((SOURCE,) if per_source else ())
    by_labels: dict[tuple[str, ...], list[Stream]] = {}
    for one in streams:
        place = _text(one.group), str(one.port), _text(one.interface)
        by_labels.setdefault((*place, _text(one.source)) if per_source else place, []).append(one)
    states = [
        ((*values, state), sum(one.state is state for one in rows))
        for values, rows in by_labels.items()
        for state in StreamState
    ]
    yield STATES._replace(labels=(*labels, "state"), samples=states)
    for name, kind, text, unit, value in STREAMS:
        found = [(values, value(rows)) for values, rows in by_labels.items()]
        yield Family(name, kind, text, unit, labels, [one for one in found if one[1] is not None])


def _numbers(seen: Seen, per_source: bool) -> Iterator[Family]:
    """Of the receiver's own `sequence=` where it has one, else the monitor's. What was lost and came late is lost no
    more to both: as a counter, which must not decrease, it stays."""
    sums: dict[tuple[str, ...], list[int]] = {}
    for one in _numbered(seen):
        place = _text(one.group), str(one.port)
        row = sums.setdefault((*place, _text(one.source)) if per_source else place, [0] * len(NUMBERS))
        late = one.late or 0
        for at, value in enumerate((one.lost + late, late, one.duplicates, one.reordered, one.restarts)):
            row[at] += value
    labels = NUMBER_LABELS + ((SOURCE,) if per_source else ())
    for at, (name, text) in enumerate(NUMBERS):
        yield Family(name, "counter", text, "", labels, [(values, row[at]) for values, row in sums.items()])


def _numbered(seen: Seen) -> Iterable[Any]:
    """Flows, or the streams of which each shows the figures of a flow of its own: on several interfaces it is one."""
    if seen.stats is not None and seen.stats.lost is not None:
        return seen.stats.flows
    return {one.name[:3]: one for one in seen.streams if one.lost is not None}.values()


def _histogram(streams: Sequence[Stream]) -> tuple[list[tuple[str, int]], float]:
    """Buckets, each with what is in those before, and the sum of all gaps in seconds."""
    counts = [sum(column) for column in zip(*(one.arrival_gaps for one in streams), strict=True)]
    bounds = [(gap_bound(bits) or 0) / NANOSECONDS for bits in GAP_BITS]
    buckets = [(repr(bound), sum(counts[: bits + 1])) for bits, bound in zip(GAP_BITS, bounds, strict=True)]
    return [*buckets, (INFINITE, sum(counts))], sum(one.total_gap for one in streams) / NANOSECONDS


def _text(value: str | None) -> str:
    """A label's value: names of interfaces may be any bytes, which UTF-8 need not have."""
    return escaped(value) if value else ""
