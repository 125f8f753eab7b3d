"""A report as a page of HTML that needs nothing else: no network, no font, no script.

Rules of this module: no I/O. Everything goes through `tag`, which escapes.
"""

import re
from collections.abc import Iterable

from mcast_fast._report import table, text
from mcast_fast._report.figures import Figures
from mcast_fast._report.markup import Markup, joined, safe, tag
from mcast_fast._report.pictures import NARROW, WIDE, Legend, Picture, pictures
from mcast_fast._report.style import PAGE
from mcast_fast._units import bound, plural
from mcast_fast._version import __version__
from mcast_fast.doctor._finding import Finding
from mcast_fast.sequence._ledger import LegStats

_FINDINGS = 20
_MEGABIT = 1e6 / 8


def page(figures: Figures, legend: Legend, made: str) -> str:
    """The page; `made`: when, as text."""
    verdict = text.headline(figures)
    body = joined(
        _header(figures, verdict),
        _tiles(figures),
        *_charts(pictures(figures, legend), legend),
        _silent(figures),
        _legs(figures),
        table.streams(figures, legend),
        _findings(figures),
        _footer(figures, made),
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content="default-src 'none'; style-src 'unsafe-inline'"),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("title", f"mcast-fast report: {verdict}"),
        tag("style", Markup(PAGE)),
    )
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', tag('main', body)), lang='en')}\n"


def _header(figures: Figures, verdict: str) -> Markup:
    state = "good" if text.is_good(figures) else "bad"
    when = ""
    if figures.first is not None and figures.last is not None:
        when = f"{text.date(figures.first)} to {text.date(figures.last)}. "
    sources = text.listed(figures.sources, 8)
    return tag(
        "header",
        tag("p", "mcast-fast report", class_=f"kind {state}"),
        tag("h1", _unbroken(f"{verdict}.")),
        tag("p", f"{when}{'Received of' if figures.is_live else 'Read from'} {sources}.", class_="soft"),
    )


def _unbroken(sentence: str) -> Markup:
    """With numbers and their units on one line."""
    return Markup(re.sub(r"(?<=\d) (?=(s|ms|µs)\b)", "&#160;", safe(sentence)))


def _tiles(figures: Figures) -> Markup:
    peak = max(map(sum, zip(*(one.packets for one in figures.streams if one.packets), strict=True)), default=0)
    mean = figures.packets / figures.seconds if figures.seconds else 0
    bits = figures.bytes / _MEGABIT / figures.seconds if figures.seconds else 0
    longest = max((one.stream.largest_gap for one in figures.streams), default=None)
    least = bound(figures.all_dropped, figures.drops_exact)
    tiles: list[tuple[str, str, str, bool]] = [
        ("Packets", text.count(figures.packets), "", False),
        ("Mean rate", text.rate(mean), "/s", False),
        (f"Peak of {text.duration(figures.span.width)}", text.rate(peak / figures.span.seconds), "/s", False),
        ("Payload", f"{bits:,.1f}", "Mbit/s", False),
        ("Lost", "not known" if figures.lost is None else text.count(figures.lost), "", bool(figures.lost)),
        ("Dropped", f"{least}{text.count(figures.all_dropped)}", "", bool(figures.all_dropped)),
        ("Longest gap", text.duration(longest), "", False),
    ]
    return tag(
        "dl",
        *(
            tag(
                "div",
                tag("dt", name),
                tag("dd", value, *((" ", tag("span", unit, class_="unit")) if unit else ())),
                class_="bad" if is_bad else None,
            )
            for name, value, unit, is_bad in tiles
        ),
        class_="tiles",
    )


# Charts --------------------------------------------------------------------------------------------------------------


def _charts(shown: Iterable[Picture], legend: Legend) -> Iterable[Markup]:
    for one in shown:
        parts: list[Markup] = [tag("h2", one.title, *((" ", tag("span", one.unit, class_="unit")) if one.unit else ()))]
        if one.note:
            parts.append(tag("p", one.note, class_="soft"))
        if one.has_legend:
            parts.append(_legend(legend))
        if one.draw is not None:
            parts.append(tag("div", one.draw(WIDE), class_="wide"))
            parts.append(tag("div", one.draw(NARROW), class_="narrow", aria_hidden="true"))
        if one.several:
            parts.append(
                tag("div", *(tag("div", tag("h3", name), drawn) for name, drawn in one.several), class_="several")
            )
        yield tag("section", *parts)


def _legend(legend: Legend) -> Markup:
    entries = [(colour, name) for colour, name, _ in legend.entries]
    if legend.rest:
        entries.append(("c9", legend.rest))
    return tag(
        "ul",
        *(tag("li", tag("span", "", class_=f"swatch {colour}"), tag("span", name)) for colour, name in entries),
        class_="legend",
    )


# Tables --------------------------------------------------------------------------------------------------------------


def _silent(figures: Figures) -> Markup:
    """Streams that stopped, and groups of which nothing came."""
    if not figures.stopped and not figures.waiting:
        return Markup()
    rows: list[tuple[str, table.Row]] = [
        (
            "",
            (
                text.name_of(one, figures.streams),
                f"stopped at {text.clock(one.stream.last_time or 0, 3)}",
                text.count(one.stream.packets),
                text.duration(one.stream.silent),
            ),
        )
        for one in figures.stopped[: table.LISTED]
    ]
    rows += [("", (one, "nothing came", "0", text.seconds(figures.seconds))) for one in figures.waiting[: table.LISTED]]
    more = len(figures.stopped[table.LISTED :]) + len(figures.waiting[table.LISTED :])
    if more:
        rows.append(("", (f"{more:,} more", "", "", "")))
    note = "Silent at the end for more than a second, and more than twice the longest gap before; or never heard."
    return tag(
        "section",
        tag("h2", "Stopped, or never came"),
        tag("p", note, class_="soft"),
        table.table(("Stream", "What happened", "Packets", "Silent for"), rows, 2),
    )


def _legs(figures: Figures) -> Markup:
    if figures.legs is None:
        return Markup()
    stats = figures.legs
    parts = [tag("h2", "Legs side by side", " ", tag("span", "numbers", class_="unit"))]
    skew = ""
    if stats.skew.max is not None:
        three = (stats.skew.p50, stats.skew.p99, stats.skew.max)
        p50, p99, most = map(text.duration, three)
        skew = f" The later copy came {p50} behind the first one (median; 99 % within {p99}, at most {most})."
    none = f"{text.count(stats.unrecovered)} of {text.count(stats.expected)} came on no leg."
    parts.append(tag("p", none + skew, class_="soft"))
    headings = ("Leg", "State", "", "Received", "Lost", "Of those covered", "Absent", "Came first", "Late", "Twice")
    rows: list[tuple[str, table.Row]] = []
    for name, one in zip(figures.names, stats.legs, strict=True):
        counts = (one.received, one.lost, one.covered, one.absent, one.first, one.late, one.duplicates)
        rows.append(("", (name, str(one.state), _share_bar(one, stats.expected), *map(text.count, counts))))
    return tag("section", *parts, table.table(headings, rows, 3))


def _share_bar(one: LegStats, expected: int) -> Markup:
    """What of the feed came on a leg, and what did not: in its colours."""
    whole, at, parts = 120.0, 0.0, []
    came = max(0, one.received - one.duplicates - one.outside)
    for count, colour, name in ((came, "c0", "came"), (one.lost, "bad", "lost"), (one.absent, "c9", "absent")):
        wide = whole * count / expected if expected else 0.0
        if count:
            wide = max(2.0, wide)
            shown = tag("title", f"{name}: {count:,}")
            parts.append(tag("rect", shown, x=min(at, whole - 2), y=0, width=wide, height=10, class_=f"bar {colour}"))
            at += wide
    return tag("svg", *parts, tag("title", "share"), viewBox="0 0 120 10", width=120, height=10, role="img")


def _findings(figures: Figures) -> Markup:
    if figures.findings is None:
        return Markup()
    shown = figures.findings[:_FINDINGS]
    more = len(figures.findings) - len(shown)
    parts = [tag("h2", "This host", " ", tag("span", "what mcast-fast doctor finds", class_="unit"))]
    parts.append(tag("ul", *map(_finding, shown), class_="findings"))
    if more:
        parts.append(tag("p", f"And {more:,} more: mcast-fast doctor has all.", class_="soft"))
    return tag("section", *parts, class_="long")


def _finding(one: Finding) -> Markup:
    parts = [
        tag("span", one.verdict, class_="verdict"),
        tag("span", f"{one.summary[:1].upper()}{one.summary[1:]}. "),
        tag("code", " ".join(filter(None, (one.id, one.group))), class_="soft"),
    ]
    if one.evidence and one.verdict != "ok":
        parts.append(tag("ul", *(tag("li", line) for line in one.evidence), class_="plain"))
    if one.remedy:
        parts.append(tag("pre", tag("code", one.remedy)))
    if one.advice:
        parts.append(tag("p", one.advice, class_="soft"))
    return tag("li", *parts, class_=one.verdict)


def _footer(figures: Figures, made: str) -> Markup:
    notes = [
        f"Times are of arrival, in UTC; a bin of the time lines is {text.duration(figures.span.width)}. Sizes and bits "
        "are of UDP payload. A stream is what comes from one source to one group and port on one interface.",
    ]
    if figures.flows:
        notes.append(
            f"Numbers are by the format {figures.form}; lost is what was missing for longer than a second, or at the "
            "end."
        )
    if figures.untimed:
        notes.append(f"{plural(figures.untimed, 'packet')} had no time, and are on no time line.")
    if figures.unnumbered and figures.flows:
        notes.append(f"{plural(figures.unnumbered, 'packet')} had no number.")
    notes += [f"Not read to the end: {one}." for one in figures.errors]
    notes.append(f"Made {made} by mcast-fast {__version__}.")
    return tag("footer", *(tag("p", one) for one in notes))
