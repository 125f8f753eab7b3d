"""Tables, and the one of all streams.

Rules of this module: no I/O.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mcast_fast._report import text
from mcast_fast._report.figures import Figures, Flow, Shown
from mcast_fast._report.markup import Content, Markup, tag
from mcast_fast._report.pictures import Legend
from mcast_fast._units import plural

LISTED = 50  # streams; the rest is summed
_MEGABIT = 1e6 / 8

Row = tuple[Content, ...]


def table(headings: Sequence[str], rows: Iterable[tuple[str, Row]], names: int) -> Markup:
    """Rows with the classes of their lines; the first `names` columns are no numbers."""

    def cells(row: Row, kind: str) -> list[Markup]:
        return [
            tag(kind, "" if cell is None else cell, class_=None if at < names else "number")
            for at, cell in enumerate(row)
        ]

    body = [tag("tr", *cells(row, "td"), class_=kind or None) for kind, row in rows]
    head = tag("thead", tag("tr", *cells(tuple(headings), "th")))
    return tag("div", tag("table", head, tag("tbody", *body)), class_="scroll")


class _Stream(NamedTuple):
    """A row of the table of streams: what is known of it."""

    one: Shown
    flow: Flow | None
    colour: str
    bin_seconds: float

    @property
    def lasted(self) -> float:
        """Seconds from its first packet to its last one."""
        return ((self.one.stream.last_time or 0) - (self.one.stream.first_time or 0)) / 1e9

    @property
    def mean(self) -> float:
        """Bytes of payload."""
        return self.one.stream.bytes / self.one.stream.packets if self.one.stream.packets else 0.0

    def of_flow(self, name: str) -> str:
        """A counter of its numbers."""
        return text.count(None if self.flow is None else getattr(self.flow, name))


def _swatch(row: _Stream) -> Content:
    return tag("span", "", class_=f"swatch {row.colour}") if row.colour else ""


def _group(row: _Stream) -> Content:
    name = text.endpoint(*row.one.stream[:2])
    return tag("span", name, " ", tag("em", "stopped")) if row.one.has_stopped else name


def _rate(row: _Stream) -> str:
    return text.rate((row.one.stream.packets - 1) / row.lasted) if row.lasted > 0 else text.UNKNOWN


def _peak(row: _Stream) -> str:
    return text.rate(max(row.one.packets, default=0) / row.bin_seconds) if row.one.is_series else text.UNKNOWN


def _megabits(row: _Stream) -> str:
    bits = (row.one.stream.bytes - row.mean) / _MEGABIT
    return f"{bits / row.lasted:,.2f}" if row.lasted > 0 else text.UNKNOWN


def _sizes(row: _Stream) -> str:
    low, high = row.one.stream.smallest, row.one.stream.largest
    return f"{low:,}" if low == high else f"{low:,} / {row.mean:,.0f} / {high:,}"


class _Column(NamedTuple):
    heading: str
    cell: Callable[[_Stream], Content]
    is_name: bool = False
    is_shown: Callable[[Figures], bool] = lambda _: True


def _any(name: str) -> Callable[[Figures], bool]:
    return lambda figures: any(getattr(flow, name) for flow in figures.flows)


def _has_files(figures: Figures) -> bool:
    return len({one.origin for one in figures.streams}) > 1


def _has_interfaces(figures: Figures) -> bool:
    return any(one.stream.interface for one in figures.streams)


_COLUMNS = (
    _Column("", _swatch, is_name=True),
    _Column("Group", _group, is_name=True),
    _Column("Source", lambda row: row.one.stream.source or text.UNKNOWN, is_name=True),
    _Column("File", lambda row: row.one.origin, True, _has_files),
    _Column("Interface", lambda row: row.one.stream.interface or text.UNKNOWN, True, _has_interfaces),
    _Column("Packets", lambda row: text.count(row.one.stream.packets)),
    _Column("Lost", lambda row: row.of_flow("lost")),
    _Column("Twice", lambda row: row.of_flow("duplicates"), False, _any("duplicates")),
    _Column("Reordered", lambda row: row.of_flow("reordered"), False, _any("reordered")),
    _Column("Restarts", lambda row: row.of_flow("restarts"), False, _any("restarts")),
    _Column("Packets/s", _rate),
    _Column("Peak/s", _peak),
    _Column("Mbit/s", _megabits),
    _Column("Bytes, min / mean / max", _sizes),
    _Column("Half of gaps", lambda row: text.typical_gap(row.one.stream.arrival_gaps)),
    _Column("Longest gap", lambda row: text.duration(row.one.stream.largest_gap)),
    _Column(
        "Silences",
        lambda row: text.count(row.one.stream.silences),
        False,
        lambda figures: any(one.stream.silences for one in figures.streams),
    ),
)


def streams(figures: Figures, legend: Legend) -> Markup:
    """All streams, those with the most packets first."""
    columns = [one for one in _COLUMNS if one.is_shown(figures)]
    flows = {flow.place: flow for flow in figures.flows}
    listed, rest = figures.streams[:LISTED], figures.streams[LISTED:]
    rows: list[tuple[str, Row]] = []
    for one in listed:
        row = _Stream(one, flows.get(one.place), legend.colour_of(one), figures.span.seconds)
        rows.append(("bad" if one.has_stopped else "", tuple(column.cell(row) for column in columns)))
    note = "Rates are means from a stream's first packet to its last one."
    if rest:
        packets = text.count(sum(one.stream.packets for one in rest))
        of = {"Group": f"{plural(len(rest), 'stream')} more", "Packets": packets}
        rows.append(("", tuple(of.get(column.heading, "") for column in columns)))
        note += f" The {LISTED} streams with the most packets; the last row is all others together."
    names = sum(column.is_name for column in columns)
    drawn = table([column.heading for column in columns], rows, names)
    return tag("section", tag("h2", "Streams"), tag("p", note, class_="soft"), drawn, class_="long")
