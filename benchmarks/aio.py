"""CPU a packet at a steady 100,000 packets per second over a veth pair: asyncio against the blocking receiver.

Each receiver is a process of its own; one at a time gets the stream, in bursts as NICs and schedulers make them, and
the order turns every round. `python -m benchmarks.aio ROLE ORDER` is what runs in such a process.
"""

import argparse
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks import event_loops, machine, network, reference, station
from benchmarks.contenders import CONTENDERS, FAST, Batches, Row
from benchmarks.live import Stream, follow, inside, link, open_sender
from benchmarks.network import Place
from benchmarks.process import BenchmarkError, Process
from benchmarks.report import Bar, Direction, Report, Table, ratio

MODULE = "benchmarks.aio"  # which knows the rows of this file
ROUNDS = 5
COUNT = 200_000
RATE = 100_000
SIZE = 256
BURSTS = (1, 8, 64)
BUFFER_BYTES = 4 << 20
QUIET_MS = 500
BAR = 1.3


ROWS = {
    "blocking": Row("for batch in rx", Batches, FAST),
    "asyncio": Row("async for batch in aio rx", event_loops.AioBatches, FAST),
    "bare": Row("add_reader, recv_batch in its callback", event_loops.Bare, FAST),
    "uvloop": Row("async for batch in aio rx, uvloop", event_loops.AioBatchesOnUvloop, FAST),
    "protocol": Row("asyncio.DatagramProtocol", event_loops.Protocol),
    "protocol uvloop": Row("DatagramProtocol, uvloop", event_loops.ProtocolOnUvloop),
}


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets a stream (%(default)s)")
    options.add_argument("--rate", type=int, default=RATE, help="packets per second (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument("--bursts", type=int, nargs="+", default=BURSTS, metavar="N", help="packets at once")
    options.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))


def key(name: str, burst: int) -> str:
    return f"{name}, bursts of {burst}"


def run(options: argparse.Namespace) -> Report:
    bars = tuple(Bar(key("asyncio", n), key("blocking", n), Direction.AT_MOST, BAR) for n in options.bursts)
    settings = {name: getattr(options, name) for name in ("rounds", "count", "rate", "size")}
    report = Report("aio", settings, bars)
    with machine.watched(report.notes), ExitStack() as stack:
        library = str(stack.enter_context(reference.compiled()))
        sending, receiving = stack.enter_context(link())
        receivers: dict[str, Process] = {}
        for name in options.only:
            place = Place(receiving.interface, BUFFER_BYTES, QUIET_MS, network.free_port())
            order = {"contender": name, "place": asdict(place), "library": library, "control_messages": ()}
            try:
                process = Process(
                    "receive", order, prefix=inside(receiving), environment=ROWS[name].environment, module=MODULE
                )
            except BenchmarkError as error:
                report.notes.append(f"left out: {error}")
                continue
            receivers[name] = stack.enter_context(process)
        sender = stack.enter_context(open_sender(sending, library))
        report.samples = measure(receivers, sender, options)
    report.series = {name: [sample["cpu"] for sample in taken] for name, taken in report.samples.items()}
    report.tables = [table(report, burst) for burst in options.bursts]
    return report


def measure(
    receivers: dict[str, Process], sender: Process, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {}
    order = list(receivers)
    for number in range(options.rounds + 1):
        for burst in options.bursts:
            for name in order:
                stream = Stream(options.count, options.size, burst, rate=options.rate)
                sample = follow(receivers[name], sender, stream)
                if number > 0:
                    samples.setdefault(key(name, burst), []).append(sample)
        order.append(order.pop(0))
    return samples


def table(report: Report, burst: int) -> Table:
    to = report.measured
    rows = []
    for name, row in ROWS.items():
        taken = report.samples.get(key(name, burst))
        if taken is None:
            continue
        cost = to[key(name, burst)]
        batch, rate = (median(sample[what] for sample in taken) for what in ("batch", "rate"))
        of_blocking = ratio(cost, to.get(key("blocking", burst)))
        lost = sum(sample["lost"] for sample in taken)
        rows.append((row.title, f"{cost:,.0f}", of_blocking, f"{batch:.1f}", f"{rate:,.0f}", f"{lost:,}"))
    headings = ("", "CPU ns per packet", "of blocking", "packets per batch", "sent per second", "lost")
    return Table(f"a steady stream in bursts of {burst} (medians)", headings, rows)


if __name__ == "__main__":
    CONTENDERS.update(ROWS)
    station.main()
