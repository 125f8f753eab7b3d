"""What every benchmark prints and writes: a table of medians, the bars, the machine; as text and as JSON."""

import json
import operator
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from benchmarks import machine

NOTHING = "-"


class Direction(StrEnum):
    AT_MOST = "at most"
    AT_LEAST = "at least"
    BELOW = "below"


HOLDS: dict[Direction, Callable[[float, float], bool]] = {
    Direction.AT_MOST: operator.le,
    Direction.AT_LEAST: operator.ge,
    Direction.BELOW: operator.lt,
}


@dataclass(frozen=True)
class Bar:
    """A promise: numerator / denominator, or the numerator alone, stays on the right side of the limit."""

    numerator: str
    denominator: str | None
    direction: Direction
    limit: float

    @property
    def title(self) -> str:
        return f"{self.numerator} / {self.denominator}" if self.denominator else self.numerator

    def value(self, measured: dict[str, float]) -> float | None:
        """None when one of the two was not measured."""
        if self.numerator not in measured:
            return None
        if self.denominator is None:
            return measured[self.numerator]
        return measured[self.numerator] / measured[self.denominator] if self.denominator in measured else None

    def holds(self, value: float | None) -> bool:
        return value is not None and HOLDS[self.direction](value, self.limit)


@dataclass
class Table:
    """Rows of text under headings; the first column is left-aligned, the others right-aligned."""

    title: str
    headings: tuple[str, ...]
    rows: list[tuple[str, ...]]

    def print(self) -> None:
        lines = [self.headings, *self.rows]
        widths = [max(len(line[i]) for line in lines) for i in range(len(self.headings))]
        print(f"\n{self.title}")
        for line in lines:
            cells = (cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True))
            print("  ".join((line[0].ljust(widths[0]), *cells)))


@dataclass
class Report:
    """One run, which bars are then held against."""

    benchmark: str
    settings: dict[str, Any]
    bars: tuple[Bar, ...]
    samples: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """Everything that was measured, a list of rounds by contender."""
    series: dict[str, list[float]] = field(default_factory=dict)
    """The one number of each round that contenders are compared by."""
    counts: dict[str, float] = field(default_factory=dict)
    """What a bar looks at that is no median."""
    lower_bounds: list[str] = field(default_factory=list)
    """Whose figure would be higher if the benchmark could reach further."""
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def measured(self) -> dict[str, float]:
        return {name: median(values) for name, values in self.series.items()} | self.counts

    def paired(self, bar: Bar) -> float | None:
        """The median of the rounds' own ratios: far from the ratio of the medians, the machine was noisy."""
        if bar.numerator not in self.series or bar.denominator not in self.series:
            return None
        rounds = zip(self.series[bar.numerator], self.series[bar.denominator], strict=True)
        return median(numerator / denominator for numerator, denominator in rounds)

    def bar_results(self) -> list[dict[str, Any]]:
        results = []
        for bar in self.bars:
            value = bar.value(self.measured)
            wanted = f"{bar.direction} {bar.limit:g}"
            ok = bar.holds(value)
            results.append({"bar": bar.title, "value": value, "paired": self.paired(bar), "wanted": wanted, "ok": ok})
        return results

    @property
    def missed(self) -> int:
        return sum(not result["ok"] for result in self.bar_results())

    def print(self) -> None:
        print(f"benchmarks {self.benchmark}: " + ", ".join(f"{key} {value}" for key, value in self.settings.items()))
        for note in self.notes:
            print(f"note: {note}")
        for table in [*self.tables, self.bar_table()]:
            table.print()

    def bar_table(self) -> Table:
        rows = []
        for result in self.bar_results():
            verdict = "ok" if result["ok"] else "MISSED" if result["value"] is not None else "MISSED (not measured)"
            rows.append((result["bar"], number(result["value"]), number(result["paired"]), result["wanted"], verdict))
        return Table("bars", ("", "value", "by rounds", "wanted", "verdict"), rows)

    def content(self) -> dict[str, Any]:
        """All of it, as it goes into a file."""
        return {
            "benchmark": self.benchmark,
            "settings": self.settings,
            "measured": self.measured,
            "lower_bounds": self.lower_bounds,
            "samples": self.samples,
            "bars": self.bar_results(),
            "notes": self.notes,
        }

    def write_json(self, path: Path) -> None:
        write_json(path, self.content())


def write_json(path: Path, content: dict[str, Any]) -> None:
    """With the machine that it was measured on."""
    path.write_text(json.dumps({"machine": machine.description()} | content, indent=1) + "\n")


def spread(values: list[float]) -> str:
    """First and third quartile, which say how noisy the machine was."""
    if len(values) < 2:
        return NOTHING
    low, _, high = quantiles(values, n=4)
    return f"{low:,.0f} to {high:,.0f}"


def ratio(value: float, to: float | None) -> str:
    return f"{value / to:.2f}" if to else NOTHING


def number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3g}"
