"""Loss and CPU a packet of live receivers over a veth pair, single packets at the sender's full speed.

Each receiver is a process of its own with a port of its own. One at a time gets the stream; the order turns every
round.
"""

import argparse
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any

from tests.lab import End, Lab, LabError

from benchmarks import machine, reference
from benchmarks.contenders import CONTENDERS
from benchmarks.network import Place
from benchmarks.process import BenchmarkError, Process, open_receivers
from benchmarks.report import NOTHING, Bar, Direction, Report, Table, ratio

ROUNDS = 5
COUNT = 2_000_000
SIZE = 256
SEGMENTS = 64
BUFFER_BYTES = 4 << 20
QUIET_MS = 1000
NAMES = ("batches", "c", "recvfrom", "columns")
# A short stream for each before the rounds, thrown away: memory that a virtual machine touches for the first time takes
# its host milliseconds, and more than the buffer holds arrives meanwhile.
WARM_UP = 4
LOSSLESS_SHARE = 0.8
LOSSLESS = "batches: rounds without loss"
WORSE_THAN_C = "batches: rounds with loss where C had none"


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets a stream (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument(
        "--buffer", type=int, default=BUFFER_BYTES, help="what SO_RCVBUF is set to, in bytes (%(default)s)"
    )
    options.add_argument("--pin", action="store_true", help="sender on core 0, receivers on core 1")
    options.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=NAMES, metavar="NAME", help=", ".join(CONTENDERS)
    )


def bars(rounds: int) -> tuple[Bar, ...]:
    return (
        Bar(LOSSLESS, None, Direction.AT_LEAST, math.ceil(LOSSLESS_SHARE * rounds)),
        Bar(WORSE_THAN_C, None, Direction.AT_MOST, 0),
        Bar("batches", "c", Direction.AT_MOST, 1.15),
        Bar("recvfrom", "batches", Direction.AT_LEAST, 1.4),
    )


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "count", "size", "buffer", "pin")}
    report = Report("live", settings, bars(options.rounds))
    with machine.watched(report.notes), ExitStack() as stack:
        library = str(stack.enter_context(reference.compiled()))
        sending, receiving = stack.enter_context(link())
        place = Place(receiving.interface, options.buffer, QUIET_MS)
        sender_core, receiver_core = (0, 1) if options.pin else (None, None)
        receivers = open_receivers(
            stack, library, options.only, place, report.notes, core=receiver_core, prefix=inside(receiving)
        )
        order = {"interface": sending.interface, "address": sending.ipv4, "library": library, "core": sender_core}
        sender = stack.enter_context(Process("send", order, prefix=inside(sending)))
        report.samples = measure(receivers, sender, options)
    report.series = {name: [sample["cpu"] for sample in taken] for name, taken in report.samples.items()}
    report.counts = count_losses(report.samples)
    report.tables = [cost(report), losses(report)]
    return report


@contextmanager
def link(*, whole: bool = False) -> Iterator[tuple[End, End]]:
    """The sender's and the receiver's end, between which the packets of a GSO sender travel one by one; or `whole`."""
    try:
        with Lab(("a", "b")) as lab:
            sending, receiving = lab.link("a", "b")
            if not whole:
                sending.single_packets()
            yield sending, receiving
    except (LabError, FileNotFoundError) as error:
        raise BenchmarkError(f"{error}; network namespaces need root, iproute2 and ethtool") from error


def inside(end: End) -> tuple[str, ...]:
    """What runs a command on that end's host."""
    return ("ip", "netns", "exec", end.host.namespace)


def measure(
    receivers: dict[str, Process], sender: Process, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in receivers}
    order = list(receivers)
    for name in order:
        stream(receivers[name], sender, options, options.count // WARM_UP)
    for _ in range(options.rounds):
        for name in order:
            samples[name].append(stream(receivers[name], sender, options, options.count))
        order.append(order.pop(0))
    return samples


def stream(receiver: Process, sender: Process, options: argparse.Namespace, count: int) -> dict[str, Any]:
    """One stream into one receiver: who lost what, and what it cost."""
    receiver.ask("follow")
    sent = sender.ask("send", port=receiver.ready["port"], count=count, size=options.size, segments=SEGMENTS)
    got = receiver.answer()
    if got["bytes"] not in (None, got["packets"] * options.size):
        raise BenchmarkError(f"{receiver.name}: {got['packets']} packets hold {got['bytes']} bytes")
    return {
        "received": got["packets"],
        "lost": count - got["packets"],
        "dropped": got["dropped"],
        "batch": got["packets"] / max(1, got["batches"]),
        "cpu": got["cpu"] / max(1, got["packets"]),
        "rate": count / sent["nanoseconds"] * 1e9,
    }


def count_losses(samples: dict[str, list[dict[str, Any]]]) -> dict[str, float]:
    lost = {name: [sample["lost"] for sample in taken] for name, taken in samples.items()}
    counts = {}
    if "batches" in lost:
        counts[LOSSLESS] = lost["batches"].count(0)
    if "batches" in lost and "c" in lost:
        counts[WORSE_THAN_C] = sum(ours > 0 and c == 0 for ours, c in zip(lost["batches"], lost["c"], strict=True))
    return counts


def cost(report: Report) -> Table:
    to = report.measured
    rows = []
    for name, taken in report.samples.items():
        faster = f"{to['recvfrom'] / to[name]:.2f} x" if "recvfrom" in to else NOTHING
        rate, batch = (median(sample[what] for sample in taken) for what in ("rate", "batch"))
        rows.append(
            (
                CONTENDERS[name].title,
                f"{to[name]:,.0f}",
                ratio(to[name], to.get("c")),
                faster,
                f"{batch:.1f}",
                f"{rate:,.0f}",
            )
        )
    headings = ("", "CPU ns a packet", "of C", "against recvfrom", "packets a batch", "sent a second")
    return Table("cost of a live stream (medians)", headings, rows)


def losses(report: Report) -> Table:
    rows = []
    for name, taken in report.samples.items():
        cells = tuple(f"{sample['lost']:,} ({sample['dropped']:,})" for sample in taken)
        rows.append((CONTENDERS[name].title, *cells))
    headings = ("", *(f"round {number}" for number in range(1, report.settings["rounds"] + 1)))
    return Table("lost: sent less received (and what the socket's own counter says)", headings, rows)
