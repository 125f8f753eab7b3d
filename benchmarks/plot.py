"""Draws what `all --json` wrote as SVG: ns per packet, CPU at full speed, and the highest rate without loss.

The colours follow the reader's light or dark mode; nothing but the standard library is needed.
"""

import argparse
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

from benchmarks import contenders, live_contenders
from benchmarks.process import BenchmarkError

WIDTH, LABELS, VALUES, MARGIN = 860, 290, 130, 16
ROW, BAR, HEADING, AXIS, LEGEND, FOOT = 22, 15, 34, 40, 30, 24
TICKS = 5

STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .heading { font-weight: 600 }
  .faint { fill: #59636e; font-size: 12px }
  .grid { stroke: #d1d9e0 }
  .ours { fill: #0969da } .other { fill: #bf8700 } .limit { fill: #818b98 }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .faint { fill: #9198a1 }
    .grid { stroke: #3d444d }
    .ours { fill: #4493f8 } .other { fill: #d29922 } .limit { fill: #656c76 }
  }
"""
KINDS = {"ours": "mcast-fast", "other": "others", "limit": "plain C"}

# Where a panel's figures are: the benchmark, and what its contenders are called here.
Sources = dict[str, dict[str, str]]


@dataclass(frozen=True)
class Figure:
    """One bar."""

    title: str
    value: float
    is_lower_bound: bool
    lost: float
    """Share of what was sent."""


@dataclass(frozen=True)
class Panel:
    """One chart of horizontal bars."""

    name: str
    title: str
    axis: str
    sources: Sources


LIVE = {name: row.title for name, row in live_contenders.CONTENDERS.items()}
FULL_SPEED = "CPU ns per packet received (less is better); share of the packets that was lost"
HIGHEST_RATE = "packets per second (more is better; ≥ all that the sender could send)"

PANELS = (
    Panel(
        "waiting",
        "Time to receive a packet that waits in the kernel",
        "ns per packet (less is better)",
        {
            "receive": {name: row.title for name, row in contenders.CONTENDERS.items()},
            "gro": {
                "columns, coalesced": "ours, columns, GRO",
                "payloads, coalesced": "ours, payloads(), GRO",
                "c, coalesced": "C recvmmsg, GRO",
            },
            "ring": {
                "columns": "ours, columns, ring",
                "payloads": "ours, payloads(), ring",
                "cypcap": "cypcap (libpcap)",
                "c": "C loop over a mapped ring",
            },
        },
    ),
    Panel("live", "Single packets at the sender's full speed, live", FULL_SPEED, {"live": LIVE}),
    Panel("live-coalescing", "The same over a link that coalesces (GRO)", FULL_SPEED, {"live coalescing": LIVE}),
    Panel("rate", "Highest rate of single packets without loss, live", HIGHEST_RATE, {"rate": LIVE}),
    Panel("rate-coalescing", "The same over a link that coalesces (GRO)", HIGHEST_RATE, {"rate coalescing": LIVE}),
)


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("file", type=Path, help="what `all --json` wrote")
    options.add_argument("picture", type=Path, help="the SVG to write")
    options.add_argument(
        "--only", nargs="+", choices=[panel.name for panel in PANELS], help="these panels, in place of all"
    )


def run(options: argparse.Namespace) -> None:
    try:
        content = json.loads(options.file.read_text())
        panels = [panel for panel in PANELS if not options.only or panel.name in options.only]
        picture = draw(panels, content["benchmarks"], content["machine"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"{options.file} is not what `all --json` writes: {error!r}") from error
    options.picture.write_text(picture, encoding="utf-8")


def draw(panels: Sequence[Panel], benchmarks: dict[str, dict[str, Any]], machine: dict[str, Any]) -> str:
    parts, top = legend(), LEGEND
    for panel in panels:
        bars = figures(panel.sources, benchmarks)
        if bars:
            parts += chart(panel, bars, top)
            top += HEADING + len(bars) * ROW + AXIS
    told = (
        f"{machine['cores']} cores, {machine['system']} {machine['release']}, {machine['python']}; "
        "medians, one run per verb"
    )
    parts.append(text(MARGIN, top + FOOT / 2, told, "faint"))
    height = top + FOOT
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" '
            'role="img" aria-label="Benchmarks of mcast-fast">',
            f"<style>{STYLE}</style>",
            *parts,
            "</svg>\n",
        ]
    )


def figures(sources: Sources, benchmarks: dict[str, dict[str, Any]]) -> list[Figure]:
    """What was measured, the largest first."""
    found = [
        Figure(
            title,
            benchmarks[benchmark]["measured"][key],
            key in benchmarks[benchmark]["lower_bounds"],
            lost_share(benchmarks[benchmark]["samples"].get(key, [])),
        )
        for benchmark, titles in sources.items()
        for key, title in titles.items()
        if benchmark in benchmarks and key in benchmarks[benchmark]["measured"]
    ]
    return sorted(found, key=lambda figure: -figure.value)


def lost_share(samples: list[dict[str, Any]]) -> float:
    """Of all streams of a contender together; 0 where losses are not what was measured."""
    counted = [sample for sample in samples if "lost" in sample]
    sent = sum(sample["received"] + sample["lost"] for sample in counted)
    return sum(sample["lost"] for sample in counted) / sent if sent else 0.0


def legend() -> list[str]:
    parts = []
    for number, (kind, title) in enumerate(KINDS.items()):
        left = LABELS + MARGIN + number * 130
        parts += [box(left, 8, BAR, BAR, kind), text(left + BAR + 6, 20, title)]
    return parts


def chart(panel: Panel, bars: list[Figure], top: float) -> list[str]:
    left, span = LABELS + MARGIN, WIDTH - LABELS - VALUES - 2 * MARGIN
    first = top + HEADING
    bottom = first + len(bars) * ROW
    step = tick_step(bars[0].value)
    ticks = math.ceil(bars[0].value / step)
    scale = span / (step * ticks)
    parts = [text(MARGIN, top + 20, panel.title, "heading")]
    for number in range(ticks + 1):
        at = left + number * step * scale
        parts.append(f'<line class="grid" x1="{at:.1f}" y1="{first}" x2="{at:.1f}" y2="{bottom}"/>')
        parts.append(text(at, bottom + 15, f"{number * step:,.0f}", "faint", "middle"))
    parts.append(text(left + span / 2, bottom + 31, panel.axis, "faint", "middle"))
    for number, bar in enumerate(bars):
        y = first + number * ROW + (ROW - BAR) / 2
        value = f"{'≥ ' if bar.is_lower_bound else ''}{bar.value:,.0f}"
        value += f", {100 * bar.lost:.2g} % lost" if bar.lost else ""
        parts.append(text(left - 8, y + 12, bar.title, anchor="end"))
        parts.append(box(left, y, bar.value * scale, BAR, kind_of(bar.title)))
        parts.append(text(left + bar.value * scale + 6, y + 12, value))
    return parts


def tick_step(largest: float) -> float:
    """1, 2 or 5 times a power of ten, so that some TICKS of them reach the largest value."""
    least = largest / TICKS
    power = 10 ** math.floor(math.log10(least))
    return next(times * power for times in (1, 2, 5, 10) if times * power >= least)


def kind_of(title: str) -> str:
    return "ours" if title.startswith("ours") else "limit" if title.startswith("C ") else "other"


def box(x: float, y: float, width: float, height: float, kind: str) -> str:
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height}" rx="2"/>'


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    marked = f' class="{kind}"' if kind else ""
    return f'<text{marked} x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
