"""ns per packet to read a mapped ring, every contender in turn; and loss and CPU of a live stream.

Two namespaces joined by veth, single packets. First each contender's ring is filled with all packets of a round, and it
is timed only while it reads them, from the first to the last; all have to be there. Then each in turn follows a longer
stream at the sender's full speed, which its ring could not hold as a whole.
"""

import argparse
import random
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import live, machine, network, reference
from benchmarks.network import Place
from benchmarks.process import BenchmarkError, Process
from benchmarks.report import Bar, Direction, Report, Table, ratio, spread
from benchmarks.ring_contenders import CONTENDERS

ROUNDS = 15
COUNT = 200_000
LIVE_COUNT = 3_000_000
LIVE_ROUNDS = 5
LIVE_NAMES = ("batches", "numbered", "kept", "c")
SIZE = 256
RING_BYTES = 256 << 20
QUIET_MS = 1000
SEGMENTS = 64
SOURCE = Path(__file__).with_name("reference_ring.c")
BYTES_SOURCE = SOURCE.with_name("reference_bytes.pyx")
LOST_LIVE = "batches: lost live"
LOST_NUMBERED = "numbered: lost live"
FOLLOWING = "numbered - batches"

BARS = (
    Bar("cypcap", "columns", Direction.AT_LEAST, 4.0),
    Bar("cypcap", "payloads", Direction.AT_LEAST, 1.6),
    Bar("cypcap", "packets", Direction.AT_LEAST, 1.25),
    Bar("columns", "c", Direction.AT_MOST, 0.8),
    Bar("payloads", "bytes", Direction.AT_MOST, 1.10),
    Bar("packets", "bytes", Direction.AT_MOST, 1.35),
    Bar(LOST_LIVE, None, Direction.AT_MOST, 0),
    Bar(LOST_NUMBERED, None, Direction.AT_MOST, 0),
    Bar(FOLLOWING, None, Direction.AT_MOST, 25),
    Bar("live batches", "live c", Direction.AT_MOST, 1.3),
)


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets in the ring (%(default)s)")
    options.add_argument("--live", type=int, default=LIVE_COUNT, help="packets of a live stream, 0: none (%(default)s)")
    options.add_argument("--live-rounds", type=int, default=LIVE_ROUNDS, help="of such streams (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME", help=", ".join(CONTENDERS)
    )


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "count", "live", "live_rounds", "size")}
    report = Report("ring", settings, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        library = str(stack.enter_context(reference.compiled()))
        ring_library = str(stack.enter_context(reference.compiled(SOURCE)))
        bytes_library = str(stack.enter_context(reference.compiled_extension(BYTES_SOURCE)))
        sending, receiving = stack.enter_context(live.link())
        place = Place(receiving.interface, RING_BYTES, QUIET_MS)
        libraries = {"library": ring_library, "bytes_library": bytes_library}
        receivers = open_receivers(stack, libraries, options.only, place, report.notes, live.inside(receiving))
        order = {"interface": sending.interface, "address": sending.ipv4, "library": library, "core": None}
        sender = stack.enter_context(Process("send", order, prefix=live.inside(sending)))
        report.samples = fill_and_drain(receivers, sender, options)
        followed = follow(receivers, sender, options) if options.live else {}
    report.series = {name: [sample["wall"] for sample in taken] for name, taken in report.samples.items()}
    report.tables.append(table(report))
    if {"numbered", "batches"} <= report.series.keys():
        report.counts[FOLLOWING] = report.measured["numbered"] - report.measured["batches"]
    if followed:
        report.samples |= followed
        report.series |= {name: [sample["cpu"] for sample in taken] for name, taken in followed.items()}
        for count, name in ((LOST_LIVE, "live batches"), (LOST_NUMBERED, "live numbered")):
            if name in followed:
                report.counts[count] = sum(sample["lost"] for sample in followed[name])
        report.tables.append(live_table(report, followed))
    return report


def open_receivers(
    stack: ExitStack,
    libraries: dict[str, str],
    names: list[str],
    place: Place,
    notes: list[str],
    prefix: tuple[str, ...],
) -> dict[str, Process]:
    """A process for each contender; notes who could not be opened and why."""
    receivers = {}
    for name in names:
        order = {"contender": name, "place": asdict(replace(place, port=network.free_port()))} | libraries
        environment = CONTENDERS[name].environment
        try:
            receivers[name] = stack.enter_context(Process("ring", order, prefix=prefix, environment=environment))
        except BenchmarkError as error:
            notes.append(f"left out: {error}")
    return receivers


def fill_and_drain(
    receivers: dict[str, Process], sender: Process, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in receivers}
    shuffled = random.Random(1)
    order = list(receivers)
    for number in range(options.rounds + 1):
        shuffled.shuffle(order)
        for name in order:
            sender.ask(
                "send", port=receivers[name].ready["port"], count=options.count, size=options.size, segments=SEGMENTS
            )
            sample = receivers[name].ask("drain", count=options.count, size=options.size)
            if number > 0:
                samples[name].append(sample)
    return samples


def follow(
    receivers: dict[str, Process], sender: Process, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    names = [name for name in LIVE_NAMES if name in receivers]
    samples: dict[str, list[dict[str, Any]]] = {f"live {name}": [] for name in names}
    for _ in range(options.live_rounds):
        for name in names:
            receivers[name].ask("follow")
            port = receivers[name].ready["port"]
            sent = sender.ask("send", port=port, count=options.live, size=options.size, segments=SEGMENTS)
            got = receivers[name].answer()
            samples[f"live {name}"].append(
                {
                    "cpu": got["cpu"] / max(1, got["packets"]),
                    "lost": options.live - got["packets"],
                    "dropped": got["dropped"],
                    "batch": got["packets"] / max(1, got["batches"]),
                    "rate": options.live / sent["nanoseconds"] * 1e9,
                }
            )
        names.append(names.pop(0))
    return samples


def table(report: Report) -> Table:
    rows = []
    to = report.measured
    for name in report.samples:
        faster = f"{to['cypcap'] / to[name]:.2f} x" if "cypcap" in to else "-"
        row = (f"{to[name]:,.0f}", spread(report.series[name]), ratio(to[name], to.get("c")), faster)
        rows.append((CONTENDERS[name].title, *row))
    return Table("drain of a full ring", ("", "ns per packet", "quartiles", "of C", "against cypcap"), rows)


def live_table(report: Report, followed: dict[str, list[dict[str, Any]]]) -> Table:
    rows = []
    for name, taken in followed.items():
        losses = ", ".join(f"{sample['lost']:,} ({sample['dropped']:,})" for sample in taken)
        batch, rate = (max(sample[what] for sample in taken) for what in ("batch", "rate"))
        title = CONTENDERS[name.removeprefix("live ")].title
        rows.append((title, f"{report.measured[name]:,.0f}", f"{batch:,.0f}", f"{rate:,.0f}", losses))
    headings = ("", "CPU ns per packet", "packets per batch", "sent per second", "lost (dropped by the ring)")
    return Table("live", headings, rows)
