"""Figures of a report as words.

Rules of this module: no I/O.
"""

import time
from collections.abc import Iterable, Sequence

from mcast_fast._report.figures import Figures, Flow, Shown
from mcast_fast._units import NANOSECONDS, plural
from mcast_fast.monitor._stream import OTHER, gap_bound

UNKNOWN = "\u2013"  # an en dash
_UNITS = ((10**9, "s"), (10**6, "ms"), (10**3, "µs"), (1, "ns"))
_PREFIXES = ((10**9, "G"), (10**6, "M"), (10**3, "k"))
_WORDS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
_NAMED = 2  # streams that the verdict names


def count(value: int | None) -> str:
    """Thousands separated; what is not known is a dash."""
    return UNKNOWN if value is None else f"{value:,}"


def word(value: int) -> str:
    """A small number as a word."""
    return _WORDS[value] if value < len(_WORDS) else f"{value:,}"


def duration(nanoseconds: int | None) -> str:
    """To three digits, with its unit."""
    if nanoseconds is None:
        return UNKNOWN
    for size, unit in _UNITS:
        if nanoseconds >= size:
            value = nanoseconds / size
            return f"{value:,.0f} {unit}" if value >= 100 else f"{value:.3g} {unit}"
    return "0 s"


def seconds(value: float) -> str:
    """A time in seconds: '60 s', '2.5 s', '3 ms'."""
    if value >= 100:
        return f"{value:,.0f} s"
    return duration(round((round(value, 1) if value >= 1 else value) * NANOSECONDS))


def scaled(value: float) -> str:
    """With a prefix: '1.2 M'."""
    for size, prefix in _PREFIXES:
        if value >= size:
            return f"{value / size:.3g} {prefix}"
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def rate(value: float) -> str:
    """A number to be read, not drawn: '12.3', '12,345', '1.23 M'."""
    return f"{value:,.0f}" if 100 <= value < 1e6 else scaled(value)


def date(nanoseconds: int) -> str:
    """A day and a time in UTC; what no calendar has, as seconds since the epoch."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(nanoseconds // NANOSECONDS))
    except (OverflowError, ValueError, OSError):
        return f"{nanoseconds // NANOSECONDS:,} s since the epoch"


def clock(nanoseconds: int, digits: int = 0) -> str:
    """The time of day in UTC."""
    second, rest = divmod(nanoseconds, NANOSECONDS)
    try:
        text = time.strftime("%H:%M:%S", time.gmtime(second))
    except (OverflowError, ValueError, OSError):
        text = f"{second:,} s"
    return text + (f".{rest:09}"[: digits + 1] if digits else "")


def endpoint(group: str, port: int) -> str:
    """A group and its port, IPv6 in brackets."""
    if group == OTHER:
        return "all other streams"
    return f"[{group}]:{port}" if ":" in group else f"{group}:{port}"


def name_of(one: Shown, all_shown: Sequence[Shown]) -> str:
    """A stream, as short as tells it from the others."""
    parts = [endpoint(one.stream.group, one.stream.port)]
    alike = [other for other in all_shown if other.stream[:2] == one.stream[:2]]
    if len({other.stream.source for other in alike}) > 1:
        parts.append(f"from {one.stream.source}")
    if len({other.stream.interface for other in alike}) > 1:
        parts.append(f"on {one.stream.interface or '?'}")
    if len({other.origin for other in alike}) > 1:
        parts.append(f"in {one.origin}")
    return " ".join(parts)


def flow_name(one: Flow, flows: Sequence[Flow]) -> str:
    """As `name_of`, of numbers."""
    parts = [endpoint(one.group, one.port)]
    alike = [other for other in flows if (other.group, other.port) == (one.group, one.port)]
    if len({other.source for other in alike}) > 1:
        parts.append(f"from {one.source}")
    if len({other.origin for other in alike}) > 1:
        parts.append(f"in {one.origin}")
    return " ".join(parts)


def listed(names: Sequence[str], most: int = _NAMED) -> str:
    """'a, b and 3 more'."""
    if len(names) <= most:
        return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))
    return f"{', '.join(names[:most])} and {len(names) - most:,} more"


def typical_gap(gaps: Iterable[int]) -> str:
    """What half of the gaps do not reach."""
    gaps = tuple(gaps)
    total, below = sum(gaps), 0
    for bucket, counted in enumerate(gaps):
        below += counted
        if total and 2 * below >= total:
            return f"< {duration(gap_bound(bucket))}"
    return UNKNOWN


# The verdict ---------------------------------------------------------------------------------------------------------


def headline(figures: Figures) -> str:
    """The whole report in one sentence."""
    if not figures.streams:
        return f"No packet came{f' in {seconds(figures.seconds)}' if figures.is_live else ''}"
    named = [one for one in figures.streams if one.stream.group != OTHER]
    more = "more than " if len(named) < len(figures.streams) else ""
    came = f"{plural(figures.packets, 'packet')} of {more}{plural(len(named), 'stream')}"
    return "; ".join((f"{came} in {seconds(figures.seconds)}", *_faults(figures)))


def is_good(figures: Figures) -> bool:
    """Whether all that is known is in order."""
    is_whole = not figures.lost and not figures.all_dropped and not figures.stopped and not figures.waiting
    return bool(figures.streams) and is_whole and not figures.errors


def _faults(figures: Figures) -> Iterable[str]:
    losing = [one for one in figures.flows if one.lost > 0]
    if figures.legs is not None:
        yield f"{figures.legs.unrecovered:,} of {figures.legs.expected:,} came on no leg"
    if losing or figures.evicted_lost:
        yield _losses(losing, figures)
    if figures.all_dropped:
        who = "this host dropped" if figures.is_live else "the recordings report as dropped"
        yield f"{who} {figures.all_dropped:,}"
    if figures.stopped:
        yield f"{listed([name_of(one, figures.streams) for one in figures.stopped])} stopped"
    if figures.waiting:
        yield f"nothing came of {listed(figures.waiting)}"
    if figures.errors:
        yield f"{plural(len(figures.errors), 'file')} could not be read to the end"
    if figures.flows and not figures.lost:
        yield "none lost"
    elif not figures.flows:
        yield "loss is not known, for no numbers were recognised"


def _losses(losing: Sequence[Flow], figures: Figures) -> str:
    names = [flow_name(one, figures.flows) for one in losing]
    text = f"{figures.lost:,} lost" + (f" on {listed(names)}" if names else "")
    if figures.evicted_lost:
        return f"{text}, {figures.evicted_lost:,} of them by flows that gave way to others"
    if len(losing) == 1 and losing[0].bursts:
        number = len(losing[0].bursts)
        text += f" in {word(number)} burst{'' if number == 1 else 's'}"
    return text
