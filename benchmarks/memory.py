"""Resident memory of receivers over 50 million packets: before, at each tenth, and after they are closed.

Each receiver is a process of its own that fills its own socket's buffer over loopback, 2,000 packets at a time, and
takes them, so that none is lost and every one is counted.
"""

import argparse
from contextlib import ExitStack
from typing import Any, ClassVar

from benchmarks import contenders, machine, network, reference, station
from benchmarks.contenders import FAST, Columns, Packets, Row
from benchmarks.gro import SEGMENTS, GroPackets
from benchmarks.network import Place
from benchmarks.process import Process
from benchmarks.receive import BUFFER_BYTES, QUIET_MS, SIZE
from benchmarks.report import Bar, Direction, Report, Table

MODULE = "benchmarks.memory"
ROUNDS = 1
COUNT = 50_000_000
TENTHS = 10
# Packets at a time. What waits in a background receiver's memory comes and goes: it has to stay far below the bar.
FILLING = 2_000
MEBIBYTE = 1 << 20
MOST_GROWTH = 1.0


class BackgroundColumns(Columns):
    options: ClassVar = {"background": True}


ROWS = {
    "gro": Row("coalesced packets, .data of each", GroPackets, FAST),
    "single": Row("single packets, .data of each", Packets, FAST),
    "background": Row("single packets, background=True, columns", BackgroundColumns, FAST),
}
COALESCED = ("gro",)


def growth(name: str) -> str:
    return f"{name}: MiB more after the first tenth"


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets a receiver (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))


def run(options: argparse.Namespace) -> Report:
    bars = tuple(Bar(growth(name), None, Direction.AT_MOST, MOST_GROWTH) for name in options.only)
    report = Report("memory", {name: getattr(options, name) for name in ("rounds", "count", "size")}, bars)
    with machine.watched(report.notes), ExitStack() as stack:
        library = str(stack.enter_context(reference.compiled()))
        for name in options.only:
            report.samples[name] = [measure(name, library, options) for _ in range(options.rounds)]
    for name, taken in report.samples.items():
        report.counts[growth(name)] = max(max(sample["tenths"]) - sample["tenths"][0] for sample in taken) / MEBIBYTE
    report.tables = [table(report)]
    return report


def measure(name: str, library: str, options: argparse.Namespace) -> dict[str, Any]:
    """Bytes that were resident, and how many packets it was."""
    place = vars(Place("lo", BUFFER_BYTES, QUIET_MS, network.free_port()))
    order = {"contender": name, "place": place, "library": library, "control_messages": ()}
    fillings = max(1, options.count // TENTHS // FILLING)
    filling = {"count": FILLING, "size": options.size, "segments": SEGMENTS if name in COALESCED else 1}
    with Process("receive", order, environment=ROWS[name].environment, module=MODULE) as receiver:
        before = receiver.ask("resident")["bytes"]
        tenths = [receiver.ask("refill", times=fillings, **filling)["bytes"] for _ in range(TENTHS)]
        after = receiver.ask("released")["bytes"]
    return {"packets": TENTHS * fillings * FILLING, "before": before, "tenths": tenths, "after": after}


def table(report: Report) -> Table:
    rows = []
    for name, taken in report.samples.items():
        for sample in taken:
            resident = (sample["before"], *sample["tenths"], sample["after"])
            rows.append((ROWS[name].title, f"{sample['packets']:,}", *(f"{size / MEBIBYTE:.2f}" for size in resident)))
    headings = ("", "packets", "before", *(f"{tenth}/{TENTHS}" for tenth in range(1, TENTHS + 1)), "closed")
    return Table("resident MiB", headings, rows)


if __name__ == "__main__":
    contenders.CONTENDERS.update(ROWS)
    station.main()
