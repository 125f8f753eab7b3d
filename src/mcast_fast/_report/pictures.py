"""Which charts a report has, and what is on them.

Rules of this module: no I/O.
"""

import math
import textwrap
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mcast_fast._report import charts, text
from mcast_fast._report.charts import Bar, Frame, Line
from mcast_fast._report.figures import Figures, Shown
from mcast_fast._report.markup import Markup, tag
from mcast_fast._report.style import CHARTS
from mcast_fast._units import NANOSECONDS, bound, plural
from mcast_fast.monitor._stream import gap_bound

MOST_SHOWN = 6  # streams with a colour of their own
COLOURS = tuple(f"c{at}" for at in range(MOST_SHOWN))
OTHERS = "c9"
WIDE, NARROW = Frame(940, 260), Frame(360, 230)
_SMALL = Frame(320, 170)
_SIZE_BARS = 40
_HEADLINE = 96  # characters on a line
_MEGABIT = 1e6 / 8
_DECADES = (
    (1, "1 ns"),
    (1e3, "1 µs"),
    (1e4, "10 µs"),
    (1e5, "100 µs"),
    (1e6, "1 ms"),
    (1e7, "10 ms"),
    (1e8, "100 ms"),
    (1e9, "1 s"),
    (1e10, "10 s"),
    (1e11, "100 s"),
)


class Picture(NamedTuple):
    """A chart with its heading; `draw` makes it for a width, or there are several small ones, or a note alone."""

    title: str
    unit: str = ""
    note: str = ""
    has_legend: bool = False
    draw: Callable[[Frame], Markup] | None = None
    several: Sequence[tuple[str, Markup]] = ()


class Legend(NamedTuple):
    """The streams with a colour: colour, name, stream; and how the others are called, or nothing."""

    entries: tuple[tuple[str, str, Shown], ...]
    rest: str

    def colour_of(self, stream: Shown) -> str:
        """The class of its colour; empty where it has none."""
        return next((colour for colour, _, one in self.entries if one is stream), "")


def legend_of(figures: Figures) -> Legend:
    """Those with faults first, then those with the most packets; drawn in the order of the table."""
    lossy = {one.place for one in figures.flows if one.lost}

    def is_faulty(one: Shown) -> bool:
        return one.has_stopped or one.place in lossy

    with_series = [one for one in figures.streams if one.is_series]
    chosen = sorted(with_series, key=lambda one: not is_faulty(one))[:MOST_SHOWN]
    ordered = [one for one in with_series if any(one is other for other in chosen)]
    rest = len(figures.streams) - len(ordered)
    entries = tuple(
        (colour, text.name_of(one, figures.streams), one) for colour, one in zip(COLOURS, ordered, strict=False)
    )
    return Legend(entries, f"{plural(rest, 'other stream')}, summed" if rest else "")


def pictures(figures: Figures, legend: Legend) -> Iterable[Picture]:
    """All charts of a report, in their order."""
    if not figures.streams:
        return
    if figures.span.bins:
        width = text.duration(figures.span.width)
        note = f"Means of {width} each."
        rate, bits = _rates(figures, legend, bits=False), _rates(figures, legend, bits=True)
        span = figures.span
        yield Picture(
            "Rate", "packets per second", note, True, lambda frame: charts.lines("Packets", "/s", rate, span, frame)
        )
        yield Picture(
            "Payload", "Mbit per second", "", False, lambda frame: charts.lines("Payload", " Mbit/s", bits, span, frame)
        )
    yield _losses(figures)
    gaps = _gaps(legend)
    if gaps:
        note = "Packets by the time since the one before, on logarithmic axes."
        yield Picture("Gaps between arrivals", "packets", note, several=gaps)
    yield _sizes(figures)


def _rates(figures: Figures, legend: Legend, bits: bool) -> list[Line]:
    """The lines of the streams with a colour, and one of all others."""
    pers = [seconds * (_MEGABIT if bits else 1) for seconds in _covered(figures)]

    def rates(values: Sequence[int]) -> list[float]:
        return _joined_ends([value / per for value, per in zip(values, pers, strict=True)], _covered(figures))

    found = [Line(name, colour, rates(one.bytes if bits else one.packets)) for colour, name, one in legend.entries]
    shown = {id(one) for _, _, one in legend.entries}
    others = [one.bytes if bits else one.packets for one in figures.streams if id(one) not in shown and one.is_series]
    others += [one for one in (figures.others[bits],) if one]
    if others:
        total = [sum(column) for column in zip(*others, strict=True)]
        found.append(Line(legend.rest or "others", OTHERS, rates(total)))
    return found


def _covered(figures: Figures) -> list[float]:
    """The seconds of each bin: of the first and the last one, those between the first and the last packet."""
    span = figures.span
    seconds = [span.seconds] * span.bins
    if span.bins > 1 and figures.first is not None and figures.last is not None:
        seconds[0] = (span.start + span.width - figures.first) / NANOSECONDS
        seconds[-1] = (figures.last + 1 - span.start - (span.bins - 1) * span.width) / NANOSECONDS
    return seconds


def _joined_ends(rates: list[float], seconds: list[float]) -> list[float]:
    """The first and the last bin together with their neighbours where they cover less than half: else they show a rate
    of chance."""
    half = max(seconds) / 2
    for end, next_to in ((0, 1), (-1, -2)):
        if len(rates) > 2 and seconds[end] < half:
            whole = seconds[end] + seconds[next_to]
            mean = (rates[end] * seconds[end] + rates[next_to] * seconds[next_to]) / whole
            rates[end] = rates[next_to] = mean
    return rates


def _losses(figures: Figures) -> Picture:
    """A lane for each source and group that lost something, and one for the drops of this host."""
    losing = [one for one in figures.flows if one.lost and any(one.series)]
    series = [Line(text.flow_name(one, figures.flows), "bad", one.series) for one in losing[:MOST_SHOWN]]
    totals = [f"{one.lost:,} lost, {plural(len(one.bursts), 'burst')}" for one in losing[:MOST_SHOWN]]
    rest = losing[MOST_SHOWN:]
    if rest:
        series.append(
            Line(
                f"{len(rest):,} more",
                "bad",
                [sum(column) for column in zip(*(one.series for one in rest), strict=False)],
            )
        )
        totals.append(f"{sum(one.lost for one in rest):,} lost")
    least = bound(figures.all_dropped, figures.drops_exact)
    if any(figures.dropped_series):
        whose = "dropped by this host" if figures.is_live else "dropped where it was recorded"
        series.append(Line(whose, "c1", figures.dropped_series))
        totals.append(f"{least}{sum(figures.dropped_series):,} dropped")
    title, notes = "Loss and drops", []
    if figures.flows:
        received = sum(one.received for one in figures.flows)
        notes.append(f"{text.count(figures.lost)} of {text.count((figures.lost or 0) + received)} numbers are missing.")
    else:
        notes.append("What the network lost is not known: no numbers were recognised in the packets (--format).")
    for cause, count in figures.dropped.items():
        if count:
            notes.append(f"Dropped, {cause}: {least}{count:,}.")
    if figures.dropped and not any(figures.dropped.values()):
        notes.append("This host dropped nothing." if figures.is_live else "The recording reports no drops.")
    if not series:
        return Picture(title, "", " ".join(notes))
    notes.append("Each bar is where packets are missing; its height is by the square root.")
    span = figures.span
    return Picture(
        title,
        "packets",
        " ".join(notes),
        draw=lambda frame: charts.lanes(title, series, totals, span, frame.width),
    )


def _gaps(legend: Legend) -> list[tuple[str, Markup]]:
    """A histogram for each stream with a colour, all over the same axis."""
    shown = [(colour, name, one.stream.arrival_gaps) for colour, name, one in legend.entries]
    shown = [one for one in shown if sum(one[2])]
    used = [bucket for _, _, gaps in shown for bucket, count in enumerate(gaps) if count and bucket]
    if not shown:
        return []
    low, high = (min(used), max(used)) if used else (1, 1)
    low, high = max(1, min(low, high - 5)), max(high, low + 5)
    marks = [(math.log2(value), label) for value, label in _DECADES]
    return [
        (name, charts.histogram(f"Gaps of {name}", _gap_bars(gaps, low, high), marks, colour, _SMALL))
        for colour, name, gaps in shown
    ]


def _gap_bars(gaps: Sequence[int], low: int, high: int) -> list[Bar]:
    """Buckets as bars over the binary logarithm of their times; gaps of 0 are left of the shortest."""
    bars = [Bar(low - 2, low - 1, gaps[0], "the same time")] if gaps[0] else []
    for bucket in range(low, high + 1):
        bound = gap_bound(bucket) if bucket < len(gaps) else None
        count = gaps[bucket] if bucket < len(gaps) else 0
        name = "longer" if bound is None else f"{text.duration(bound // 2)} to {text.duration(bound)}"
        bars.append(Bar(bucket - 1, bucket, count, name))
    return bars


def _sizes(figures: Figures) -> Picture:
    sizes = figures.sizes
    smallest, largest = min(sizes), max(sizes)
    title, unit = "Sizes", "packets by bytes of payload"
    if smallest == largest:
        return Picture(title, "bytes of payload", f"Every packet has {text.count(smallest)} bytes.")
    step = max(1, int(charts.nice((largest - smallest + 1) / _SIZE_BARS)))
    counts: dict[int, int] = {}
    for size, count in sizes.items():
        counts[size // step] = counts.get(size // step, 0) + count
    low, high = smallest // step - 1, largest // step + 1
    bars = [
        Bar(at * step, (at + 1) * step, counts.get(at, 0), f"{max(0, at * step):,} to {(at + 1) * step - 1:,} bytes")
        for at in range(low, high + 1)
        if at in counts or at in (low, high)
    ]
    apart = charts.nice((high + 1 - low) * step / 8)
    marks = [(at * apart, f"{at * apart:,.0f}") for at in range(int((high + 1) * step / apart) + 1)]
    note = f"From {smallest:,} to {largest:,} bytes. A bar covers {plural(step, 'byte')}."
    return Picture(
        title, unit, note, draw=lambda frame: charts.histogram(title, bars, marks, "c0", frame._replace(height=200.0))
    )


# Pictures by themselves ----------------------------------------------------------------------------------------------


def standalone(figures: Figures, legend: Legend) -> str:
    """All charts over time as one picture of SVG, with its own style sheet."""
    parts: list[Markup] = []
    x, y = 8.0, 28.0
    for line in textwrap.wrap(text.headline(figures), _HEADLINE):
        parts.append(tag("text", line, x=8, y=y, class_="heading"))
        y += 22
    for colour, name in [*((colour, name) for colour, name, _ in legend.entries), (OTHERS, legend.rest)]:
        if name:
            wide = 44.0 + 7 * len(name)
            if x + wide > WIDE.width:
                x, y = 8.0, y + 18
            parts.append(tag("rect", x=x, y=y, width=14, height=3, class_=f"bar {colour}"))
            parts.append(tag("text", name, x=x + 20, y=y + 6))
            x += wide
    y += 14
    for one in pictures(figures, legend):
        if one.draw is not None:
            drawn = one.draw(WIDE)
            parts.append(tag("text", f"{one.title}, {one.unit}", x=8, y=y + 24, class_="heading"))
            parts.append(tag("g", drawn, transform=f"translate(0 {y + 32:g})"))
            y += 32 + _height(drawn)
    whole = Frame(WIDE.width, y + 8)
    style = tag("style", Markup(CHARTS))
    ground = tag("rect", x=0, y=0, width="100%", height="100%", style="fill:var(--card)")
    drawn = whole.picture(text.headline(figures), style, ground, *parts)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + drawn.replace(
        "<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1
    )


def _height(drawn: Markup) -> float:
    """Of a picture, by its view box."""
    return float(drawn.split('viewBox="', 1)[1].split('"', 1)[0].split()[3])
