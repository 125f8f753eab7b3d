"""All benchmarks in one run, with a summary of their bars; its JSON is what `plot` draws."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from benchmarks import aio, arrow, gro, groups, live, pace, rate, receive, report, ring, send, sequence, top
from benchmarks.process import BenchmarkError
from benchmarks.report import NOTHING, Report, Table

# The verbs; QUICK has a row for each.
BENCHMARKS: dict[str, ModuleType] = {
    "receive": receive,
    "gro": gro,
    "ring": ring,
    "groups": groups,
    "arrow": arrow,
    "sequence": sequence,
    "live": live,
    "rate": rate,
    "send": send,
    "pace": pace,
    "aio": aio,
    "top": top,
}

# Too few of everything for a figure that means something, and enough to see that all of it runs.
QUICK = {
    "receive": "--rounds 3 --count 2000",
    "gro": "--rounds 3 --count 2048",
    "ring": "--rounds 3 --count 20000 --live 100000",
    "groups": "--rounds 1 --count 10000 --calls 10",
    "arrow": "--rounds 3 --count 4096",
    "sequence": "--rounds 3 --count 1024",
    "live": "--rounds 1 --count 200000",
    "rate": "--rounds 1 --seconds 0.2 --steps 2",
    "send": "--rounds 3 --count 5000",
    "pace": "--rounds 1 --seconds 1",
    "aio": "--rounds 1 --count 20000",
    "top": "--rounds 1 --seconds 1",
}

# What `all` runs, in this order: the verb's own name, or a verb with options of its own.
WITH_OPTIONS = {
    "live coalescing": ("live", "--link coalescing"),
    "rate coalescing": ("rate", "--link coalescing"),
}
RUNS = {name: (name, "") for name in BENCHMARKS} | WITH_OPTIONS


@dataclass
class Reports:
    """What the benchmarks told, and why those did not that failed."""

    told: dict[str, Report] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def missed(self) -> int:
        return sum(one.missed for one in self.told.values()) + len(self.failed)

    def print(self) -> None:
        """The summary; each report has been printed when it was there."""
        rows = []
        for name, one in self.told.items():
            rows += [(f"{name}: {title}", *cells) for title, *cells in one.bar_table().rows]
        rows += [(name, NOTHING, NOTHING, NOTHING, "FAILED") for name in self.failed]
        Table("all bars", ("", "value", "by rounds", "wanted", "verdict"), rows).print()
        for name, reason in self.failed.items():
            print(f"{name} failed: {reason}")

    def write_json(self, path: Path) -> None:
        told = {name: one.content() for name, one in self.told.items()}
        report.write_json(path, {"benchmarks": told, "failed": self.failed})


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--quick", action="store_true", help="some minutes, to see that everything runs")
    options.add_argument("--only", nargs="+", choices=RUNS, default=list(RUNS), metavar="NAME")


def run(options: argparse.Namespace) -> Reports:
    """One after the other; one that cannot run does not keep the others from it."""
    reports = Reports()
    for name in options.only:
        try:
            verb, own = RUNS[name]
            reports.told[name] = BENCHMARKS[verb].run(own_options(verb, own, quick=options.quick))
        except (BenchmarkError, OSError) as error:
            reports.failed[name] = str(error)
            print(f"benchmarks {name}: {error}")
        else:
            reports.told[name].print()
            print(flush=True)
    return reports


def own_options(verb: str, own: str, *, quick: bool) -> Any:
    """The options of a verb as if it were called alone."""
    parser = argparse.ArgumentParser()
    add_own_options(parser, BENCHMARKS[verb])
    return parser.parse_args(f"{own} {QUICK[verb] if quick else ''}".split())


def add_own_options(parser: argparse.ArgumentParser, benchmark: ModuleType) -> None:
    parser.add_argument("--rounds", type=int, default=benchmark.ROUNDS, help="interleaved rounds (%(default)s)")
    benchmark.add_options(parser)
