"""The highest rate of single packets without loss over a veth pair, and CPU a packet at a rate that everybody holds.

Each contender is searched alone: its rate is doubled until it loses packets, then bisected. A rate is held when 2 of 3
streams lose nothing. The sender is C and keeps absolute deadlines, a short burst at a time. Who holds all that the
sender can send has the sender's limit as its rate, and a bar takes it to be as good as anybody.
"""

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from statistics import median
from typing import Any

from benchmarks import live, machine
from benchmarks.live import Stream, follow
from benchmarks.live_contenders import CONTENDERS
from benchmarks.network import Place
from benchmarks.process import Process
from benchmarks.report import NOTHING, Bar, Direction, Report, Table, ratio

ROUNDS = 3
SECONDS = 1.0
SIZE = 256
BURST = 16
SETTINGS = ("rounds", "seconds", "steps", "size", "burst", "buffer", "link")
BUFFER_BYTES = 4 << 20
QUIET_MS = 300
FIRST = 40_000
STEPS = 5
# A search that takes longer ends with what it has found.
PATIENCE_SECONDS = 120
STREAMS, CLEAN_STREAMS = 3, 2
# Of the rate that was asked for: a sender that reaches less is at its limit, and not just disturbed.
REACHED_SHARE = 0.6
# Of the lowest of all rates without loss: what all hold for sure.
COMMON_SHARE = 0.8
SINGLE_NAMES = (
    "recvfrom",
    "asyncio",
    "uvloop",
    "multicast_expert",
    "spead2",
    "cypcap",
    "pcapy-ng",
    "batches",
    "columns",
    "background",
    "gro",
    "c",
)
NAMES = {
    "single": SINGLE_NAMES,
    "coalescing": (
        "recvfrom",
        "spead2",
        "multicast_expert",
        "default",
        "no gro",
        "timed gro",
        "background",
        "c",
        "c gro",
    ),
}
RING_NAMES = ("ring", "c ring")


# By link: ours, whom against, and at least how many times its rate.
SINGLE_RATIOS = (
    ("batches", "c", 0.9),
    ("batches", "recvfrom", 1.0),
    ("batches", "multicast_expert", 1.0),
    ("batches", "asyncio", 1.0),
    ("batches", "uvloop", 1.0),
)
LEAST_RATIOS = {
    "single": SINGLE_RATIOS,
    "coalescing": (("default", "c gro", 0.9), ("default", "no gro", 1.0), ("default", "recvfrom", 1.0)),
}
LEAST_RING_RATIOS = (("ring", "cypcap", 1.0),)


def bars(link: str) -> tuple[Bar, ...]:
    return tuple(Bar(f"{ours} / {other}", None, Direction.AT_LEAST, least) for ours, other, least in least_ratios(link))


def least_ratios(link: str) -> tuple[tuple[str, str, float], ...]:
    has_ring = link == "single" and live.has_ring()  # cypcap takes part there alone
    return LEAST_RATIOS[link] + LEAST_RING_RATIOS if has_ring else LEAST_RATIOS[link]


def default_names(link: str) -> tuple[str, ...]:
    return NAMES[link] + RING_NAMES if live.has_ring() else NAMES[link]


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--seconds", type=float, default=SECONDS, help="of a stream (%(default)s)")
    options.add_argument("--steps", type=int, default=STEPS, help="of bisection (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument("--burst", type=int, default=BURST, help="packets at once, 1 to 64 (%(default)s)")
    options.add_argument(
        "--buffer", type=int, default=BUFFER_BYTES, help="bytes of everybody's buffer or ring (%(default)s)"
    )
    live.add_link(options)
    options.add_argument("--only", nargs="+", choices=CONTENDERS, metavar="NAME", help=", ".join(CONTENDERS))


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in SETTINGS}
    report = Report("rate", settings, bars(options.link))
    with machine.watched(report.notes), ExitStack() as stack:
        sending, receiving = stack.enter_context(live.link(coalesces=options.link == "coalescing"))
        library, more_libraries = live.compile_all(stack)
        place = Place(receiving.interface, options.buffer, QUIET_MS, ring_bytes=options.buffer)
        names = options.only or default_names(options.link)
        receivers = live.closed_receivers(names, place, library, more_libraries, live.inside(receiving), report.notes)
        sender = stack.enter_context(live.open_sender(sending, library))
        report.samples = {name: search(name, receivers[name], sender, options) for name in receivers}
        held = {name: highest_held(trials) for name, trials in report.samples.items()}
        rates = {name: rate for name, rate in held.items() if rate}
        report.notes += [f"{CONTENDERS[name].title} lost packets at every rate" for name in held if not held[name]]
        common = COMMON_SHARE * min(rates.values(), default=0)
        at_common = measure({name: receivers[name] for name in rates}, sender, options, common)
    report.lower_bounds = [name for name in rates if at_limit(report.samples[name])]
    report.counts = rates | ratios(rates, report.lower_bounds, options.link)
    report.samples |= at_common
    report.series = {name: [sample["cpu"] for sample in taken] for name, taken in at_common.items()}
    report.tables = [table(report, rates, common, options.link)]
    return report


def cpu_key(name: str) -> str:
    return f"{name}, CPU at the common rate"


def search(name: str, closed: Process, sender: Process, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Every rate that was tried, with its streams."""
    trials: list[dict[str, Any]] = []
    deadline = time.monotonic() + PATIENCE_SECONDS
    with closed.again() as receiver:
        follow(receiver, sender, stream_at(FIRST, name, options))  # thrown away, for what is touched first is slow

        def attempt(rate: float) -> dict[str, Any]:
            trials.append(try_rate(receiver, sender, stream_at(rate, name, options)))
            return trials[-1]

        low, high = double(attempt, deadline)
        for _ in range(options.steps):
            if high is None or high <= low or time.monotonic() > deadline:
                break
            middle = (low + high) / 2
            low, high = (middle, high) if attempt(middle)["held"] else (low, middle)
    return trials


def double(attempt: Callable[[float], dict[str, Any]], deadline: float) -> tuple[float, float | None]:
    """A rate that is held and one that is not; None when there is none that the sender can reach."""
    low, rate = 0.0, float(FIRST)
    while True:
        trial = attempt(rate)
        if not trial["held"]:
            return low, min(rate, trial["reached"])
        if trial["reached"] < REACHED_SHARE * rate or time.monotonic() > deadline:
            return low, None
        low, rate = min(rate, trial["reached"]), 2 * rate


def try_rate(receiver: Process, sender: Process, stream: Stream) -> dict[str, Any]:
    """Streams until enough of them lost nothing, or too many lost something."""
    streams: list[dict[str, Any]] = []
    clean = 0
    while clean < CLEAN_STREAMS and len(streams) - clean <= STREAMS - CLEAN_STREAMS:
        streams.append(follow(receiver, sender, stream))
        clean += streams[-1]["lost"] == 0
    reached = median(one["rate"] for one in streams)
    return {"asked": stream.rate, "reached": reached, "held": clean >= CLEAN_STREAMS, "streams": streams}


def stream_at(rate: float, name: str, options: argparse.Namespace) -> Stream:
    count = max(1, round(rate * options.seconds / options.burst)) * options.burst
    return Stream(count, options.size, options.burst, CONTENDERS[name].heap, rate)


def highest_held(trials: list[dict[str, Any]]) -> float:
    """Packets a second that were really sent, and none of them lost; 0 without such a rate."""
    return max((min(trial["asked"], trial["reached"]) for trial in trials if trial["held"]), default=0.0)


def at_limit(trials: list[dict[str, Any]]) -> bool:
    """Whether it was the sender that could not go on."""
    fastest = max(trials, key=lambda trial: trial["asked"])
    return fastest["held"] and fastest["reached"] < REACHED_SHARE * fastest["asked"]


def measure(
    receivers: dict[str, Process], sender: Process, options: argparse.Namespace, rate: float
) -> dict[str, list[dict[str, Any]]]:
    """CPU at a rate that all hold, everybody in turn."""
    samples: dict[str, list[dict[str, Any]]] = {cpu_key(name): [] for name in receivers}
    order = list(receivers)
    for _ in range(options.rounds):
        for name in order:
            stream = stream_at(rate, name, options)
            with receivers[name].again() as receiver:
                samples[cpu_key(name)].append(follow(receiver, sender, stream))
        order.append(order.pop(0))
    return samples


def ratios(rates: dict[str, float], limited: list[str], link: str) -> dict[str, float]:
    """What the bars look at. Ours at the sender's limit is no worse than another that the sender served faster."""
    pairs = [(ours, other) for ours, other, _ in least_ratios(link) if ours in rates and other in rates]
    return {
        f"{ours} / {other}": (max(rates[ours], rates[other]) if ours in limited else rates[ours]) / rates[other]
        for ours, other in pairs
    }


def table(report: Report, rates: dict[str, float], common: float, link: str) -> Table:
    to = report.measured
    rows = []
    for name in sorted(rates, key=rates.__getitem__, reverse=True):
        taken = report.samples[cpu_key(name)]
        rows.append(
            (
                CONTENDERS[name].title,
                f"{to[name]:,.0f}",
                "yes" if name in report.lower_bounds else "",
                ratio(to[name], to.get(live.LIMITS[link])),
                f"{to[name] / to['recvfrom']:.2f} x" if "recvfrom" in to else NOTHING,
                f"{to[cpu_key(name)]:,.0f}",
                f"{median(sample['batch'] for sample in taken):.1f}",
                f"{sum(sample['lost'] for sample in taken):,}",
            )
        )
    cpu = f"CPU ns per packet at {common:,.0f} per second"
    headings = (
        "",
        "packets per second",
        "sender's limit",
        "of C",
        "against recvfrom",
        cpu,
        "packets per batch",
        "lost",
    )
    return Table("the highest rate without loss (the three columns on the right: at the common rate)", headings, rows)
