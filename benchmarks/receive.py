"""ns per packet to drain a pre-filled socket buffer over loopback, every contender in turn.

Each contender has a process and a port of its own, fills its own socket's buffer, and is timed only while it drains
it. The order changes every round, and a first round that warms up is thrown away.
"""

import argparse
import random
from contextlib import ExitStack

from benchmarks import machine, reference
from benchmarks.contenders import CONTENDERS
from benchmarks.network import Place
from benchmarks.process import Process, open_receivers
from benchmarks.report import NOTHING, Bar, Direction, Report, Table, ratio, spread

ROUNDS = 31
COUNT = 20_000
SIZE = 256
BUFFER_BYTES = 64 << 20
QUIET_MS = 1000

BARS = (
    Bar("columns", "c", Direction.AT_MOST, 1.05),
    Bar("payloads", "c", Direction.AT_MOST, 1.20),
    Bar("packets", "c", Direction.AT_MOST, 1.10),
    Bar("recvfrom", "columns", Direction.AT_LEAST, 1.40),
    Bar("recvfrom", "payloads", Direction.AT_LEAST, 1.30),
    Bar("recvfrom", "packets", Direction.AT_LEAST, 1.25),
    Bar("recvmsg", "columns", Direction.AT_LEAST, 2.2),
)


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets in the buffer (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME", help=", ".join(CONTENDERS)
    )


def run(options: argparse.Namespace) -> Report:
    settings = {"rounds": options.rounds, "count": options.count, "size": options.size}
    report = Report("receive", settings, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        library = stack.enter_context(reference.compiled())
        place = Place("lo", BUFFER_BYTES, QUIET_MS)
        receivers = open_receivers(stack, library, options.only, place, report.notes)
        report.samples = measure(receivers, options)
    report.series = {name: [sample["wall"] for sample in taken] for name, taken in report.samples.items()}
    report.tables.append(table(report))
    return report


def measure(receivers: dict[str, Process], options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in receivers}
    shuffled = random.Random(1)
    order = list(receivers)
    for number in range(options.rounds + 1):
        shuffled.shuffle(order)
        for name in order:
            sample = receivers[name].ask("prefilled", count=options.count, size=options.size)
            if number > 0:
                samples[name].append(sample)
    return samples


def table(report: Report) -> Table:
    rows = []
    to = report.measured
    for name, value in to.items():
        faster = f"{to['recvfrom'] / value:.2f} x" if "recvfrom" in to else NOTHING
        of_c = ratio(value, to.get("c"))
        rows.append((CONTENDERS[name].title, f"{value:,.0f}", spread(report.series[name]), of_c, faster))
    return Table("drain of a full buffer", ("", "ns per packet", "quartiles", "of C", "against recvfrom"), rows)
