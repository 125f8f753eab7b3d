"""Charts as SVG: lines over time, lanes of losses, histograms.

Rules of this module: no I/O. Colours are classes of the page's style sheet.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from mcast_fast._report import text
from mcast_fast._report.grid import Span
from mcast_fast._report.markup import Markup, safe, tag
from mcast_fast._units import NANOSECONDS

LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 28  # px around a plot
_COLUMNS = 160  # with a tooltip, at most
_NICE = (1, 2, 2.5, 5, 10)
_TIME_STEPS = (*(base * 10**power for power in range(6, 10) for base in (1, 2, 5)), 10**10)
_LONGER = tuple(one * NANOSECONDS for one in (20, 30, 60, 120, 300, 600, 1800, 3600, 7200, 21600, 43200, 86400))
_AS_CLOCK = 10 * NANOSECONDS  # ns of a time line, from which on it has times of day


class Line(NamedTuple):
    """A series of a chart: its name, the class of its colour, and a value per bin."""

    name: str
    colour: str
    values: Sequence[float]


class Frame(NamedTuple):
    """A plot in its picture: px."""

    width: float
    height: float

    @property
    def inner_width(self) -> float:
        """Of the plot."""
        return self.width - LEFT - RIGHT

    @property
    def inner_height(self) -> float:
        """Of the plot."""
        return self.height - TOP - BOTTOM

    def picture(self, title: str, *parts: Markup) -> Markup:
        """The whole picture."""
        return tag(
            "svg",
            tag("title", title),
            *parts,
            viewBox=f"0 0 {self.width:g} {self.height:g}",
            width=self.width,
            height=self.height,
            role="img",
            class_="chart",
        )


# Axes ----------------------------------------------------------------------------------------------------------------


def nice(value: float) -> float:
    """The next larger of 1, 2, 2.5, 5 times a power of ten."""
    if value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in _NICE if step * power >= value * (1 - 1e-9))


def ticks(top: float, most: int = 4) -> list[float]:
    """Values of an axis from 0 on, the last of which is at least `top`."""
    step = nice(top / most)
    return [step * at for at in range(math.ceil(top / step - 1e-9) + 1)]


def _y_axis(frame: Frame, values: Iterable[tuple[float, str]]) -> Iterable[Markup]:
    """Lines at shares of the height, each with its text."""
    for share, label in values:
        y = TOP + frame.inner_height * (1 - share)
        yield tag("line", x1=LEFT, x2=frame.width - RIGHT, y1=y, y2=y, class_="grid")
        yield tag("text", label, x=LEFT - 8, y=y + 4, class_="tick end")


def _time_axis(frame: Frame, span: Span) -> Iterable[Markup]:
    """Times of day, or of what is shorter the seconds since its start."""
    whole = span.width * span.bins
    most = max(2, int(frame.inner_width // 90))
    step = next((one for one in (*_TIME_STEPS, *_LONGER) if whole / one <= most), 86_400 * NANOSECONDS)
    step *= max(1, math.ceil(whole / step / most))
    is_clock = whole >= _AS_CLOCK
    start = -(-span.start // step) * step if is_clock else span.start
    digits = 0 if step >= NANOSECONDS else 3
    for time in range(start, span.start + whole + 1, step):
        x = LEFT + frame.inner_width * (time - span.start) / whole
        label = text.clock(time, digits) if is_clock else f"{(time - span.start) / NANOSECONDS:g} s"
        yield tag("line", x1=x, x2=x, y1=frame.height - BOTTOM, y2=frame.height - BOTTOM + 4, class_="axis")
        place = "tick end" if x > frame.width - 40 else "tick start" if x < LEFT + 20 else "tick middle"
        yield tag("text", label, x=x, y=frame.height - BOTTOM + 18, class_=place)
    bottom = frame.height - BOTTOM
    yield tag("line", x1=LEFT, x2=frame.width - RIGHT, y1=bottom, y2=bottom, class_="axis")


# Lines over time -----------------------------------------------------------------------------------------------------


def lines(title: str, unit: str, series: Sequence[Line], span: Span, frame: Frame) -> Markup:
    """Values per bin as steps, with a tooltip for each column."""
    scale = ticks(max((max(one.values, default=0) for one in series), default=0) or 1)
    top = scale[-1]
    parts = [*_y_axis(frame, ((value / top, text.scaled(value) if value else "0") for value in scale))]
    parts += _time_axis(frame, span)
    is_single = len(series) == 1
    for one in reversed(series):  # the first one is on top
        path = _steps(one.values, top, frame)
        if is_single:
            bottom = frame.height - BOTTOM
            area = f"{path}V{bottom:g}H{LEFT}Z"
            parts.append(tag("path", d=area, class_=f"area {one.colour}"))
        parts.append(tag("path", d=path, class_=f"line {one.colour}"))
    parts.append(tag("g", *_columns(unit, series, span, frame), class_="columns"))
    return frame.picture(title, *parts)


def _steps(values: Sequence[float], top: float, frame: Frame) -> str:
    """A path with a step per value; equal neighbours are one."""
    wide, high = frame.inner_width / max(1, len(values)), frame.inner_height
    commands, before = [], None
    for at, value in enumerate(values):
        if value != before:
            x, y = LEFT + at * wide, TOP + high * (1 - value / top)
            commands.append(f"M{x:.1f} {y:.1f}" if before is None else f"H{x:.1f}V{y:.1f}")
            before = value
    return "".join(commands) + f"H{LEFT + frame.inner_width:g}"


def _columns(unit: str, series: Sequence[Line], span: Span, frame: Frame) -> Iterable[Markup]:
    """Invisible, with a tooltip each."""
    together = -(-span.bins // min(_COLUMNS, max(1, int(frame.inner_width / 5))))
    wide = frame.inner_width / span.bins
    digits = 3 if span.width < NANOSECONDS else 0
    for at in range(0, span.bins, together):
        count = min(together, span.bins - at)
        rows = [text.clock(span.start + at * span.width, digits)]
        rows += [f"{one.name}: {text.rate(sum(one.values[at : at + count]) / count)}{unit}" for one in series]
        x, width = LEFT + at * wide, count * wide
        shown = tag("title", Markup("\n".join(map(safe, rows))))
        yield tag("rect", shown, x=x, y=TOP, width=width, height=frame.inner_height)


# Lanes of losses -----------------------------------------------------------------------------------------------------

LANE = 44  # px


def lanes(title: str, series: Sequence[Line], totals: Sequence[str], span: Span, width: float) -> Markup:
    """A lane each, with a bar where something is missing; its height is by the root, for losses differ widely."""
    frame = Frame(width, TOP + BOTTOM + LANE * len(series))
    parts = list(_time_axis(frame, span))
    wide = frame.inner_width / span.bins
    for place, (one, total) in enumerate(zip(series, totals, strict=True)):
        bottom = TOP + LANE * (place + 1) - 6
        most = max(one.values, default=0) or 1
        parts.append(tag("text", one.name, x=8, y=bottom - LANE + 20, class_="lane"))
        parts.append(tag("text", total, x=frame.width - RIGHT, y=bottom - LANE + 20, class_="lane end"))
        parts.append(tag("line", x1=LEFT, x2=frame.width - RIGHT, y1=bottom, y2=bottom, class_="grid"))
        for at, value in enumerate(one.values):
            if value > 0:
                high = max(3.0, (LANE - 24) * math.sqrt(value / most))
                when = text.clock(span.start + at * span.width, 3 if span.width < NANOSECONDS else 0)
                parts.append(
                    tag(
                        "rect",
                        tag("title", f"{when}: {value:,.0f} ({one.name})"),
                        x=LEFT + at * wide,
                        y=bottom - high,
                        width=max(2.0, wide),
                        height=high,
                        class_=f"bar {one.colour}",
                    )
                )
    return frame.picture(title, *parts)


# Histograms ----------------------------------------------------------------------------------------------------------


class Bar(NamedTuple):
    """From and to, on the axis, how many, and what the tooltip says."""

    low: float
    high: float
    packets: int
    name: str


def histogram(title: str, bars: Sequence[Bar], marks: Sequence[tuple[float, str]], colour: str, frame: Frame) -> Markup:
    """Bars whose height is by the logarithm of their counts; `marks`: places on the axis, and their texts."""
    low, high = min(bar.low for bar in bars), max(bar.high for bar in bars)
    powers = max(1, math.ceil(math.log10(max(bar.packets for bar in bars) * 1.05)))
    step = -(-powers // 4)

    def x_of(value: float) -> float:
        return LEFT + frame.inner_width * (value - low) / (high - low)

    # A count of 1 is visible: the axis begins at a third.
    bottom = math.log10(1 / 3)

    def share(count: float) -> float:
        return (math.log10(count) - bottom) / (powers - bottom)

    parts = [*_y_axis(frame, ((share(10**power), text.scaled(10**power)) for power in range(0, powers + 1, step)))]
    for bar in bars:
        if bar.packets:
            tall = frame.inner_height * share(bar.packets)
            x, wide = x_of(bar.low), x_of(bar.high) - x_of(bar.low)
            y = TOP + frame.inner_height - tall
            shown = tag("title", f"{bar.name}: {bar.packets:,}")
            parts.append(
                tag("rect", shown, x=x + 0.5, y=y, width=max(1.0, wide - 1), height=tall, class_=f"bar {colour}")
            )
    base = frame.height - BOTTOM
    parts.append(tag("line", x1=LEFT, x2=frame.width - RIGHT, y1=base, y2=base, class_="axis"))
    for value, label in _spread([one for one in marks if low <= one[0] <= high], x_of, frame.width):
        x = x_of(value)
        parts.append(tag("line", x1=x, x2=x, y1=base, y2=base + 4, class_="axis"))
        parts.append(tag("text", label, x=x, y=base + 18, class_="tick middle"))
    return frame.picture(title, *parts)


def _spread(
    marks: Sequence[tuple[float, str]], x_of: Callable[[float], float], edge: float
) -> Iterable[tuple[float, str]]:
    """Those that do not overlap, or reach beyond the edge."""
    taken = -math.inf
    for value, label in marks:
        wide = 8.0 * len(label)
        if x_of(value) - taken >= wide and x_of(value) + wide / 2 <= edge:
            taken = x_of(value)
            yield value, label
