"""When times are shared: a stream that a receiver keeps up with, and a burst in it that it does not.

The default receiver, over a coalescing link, in this process. Packets may come coalesced in the burst and shortly after
it, or else with an event that says why.
"""

import argparse
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import mcast_fast
from benchmarks import live, machine
from benchmarks.live import Stream
from benchmarks.network import GROUP
from benchmarks.process import Process
from benchmarks.report import Bar, Direction, Report, Table

ROUNDS = 1
SECONDS = 60.0
RATE = 50_000
BURST_RATE, BURST_SECONDS = 1_000_000, 2.0
SIZE = 256
PORT = 5000
BUFFER = "4MiB"
QUIET_SECONDS = 2.0
SHORTLY_SECONDS = 12.0  # after which it is off, whatever comes without pressure (docs/coalescing.md)
UNEXPLAINED = "coalesced without an event before the burst"
LATE = "coalesced later than shortly after the burst"
PARTS = ("before", "burst", "shortly after", "later")


@dataclass
class Part:
    """Packets that arrived in one part of the stream."""

    packets: int = 0
    coalesced: int = 0


@dataclass
class Seen:
    """What a receiver got; the moments, in ns since the epoch, at which the next part begins."""

    parts: list[Part] = field(default_factory=lambda: [Part() for _ in PARTS])
    begins: list[int] = field(default_factory=list)

    def add(self, batch: mcast_fast.Batch) -> None:
        """By the last packet's time: a batch is short."""
        import numpy as np

        records = np.asarray(batch)
        part = self.parts[sum(records["timestamp"][-1] >= begin for begin in self.begins)]
        part.packets += len(batch)
        part.coalesced += int(np.count_nonzero(records["flags"] & mcast_fast.Flag.COALESCED))


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--seconds", type=float, default=SECONDS, help="of the stream (%(default)s)")
    options.add_argument("--rate", type=int, default=RATE, help="packets per second around the burst (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "rate", "size")}
    bars = (Bar(UNEXPLAINED, None, Direction.AT_MOST, 0), Bar(LATE, None, Direction.AT_MOST, 0))
    report = Report("coalescing-burst", settings, bars)
    rows: list[tuple[str, ...]] = []
    report.counts = {UNEXPLAINED: 0, LATE: 0}
    with machine.watched(report.notes), ExitStack() as stack:
        sending, receiving = stack.enter_context(live.link(coalesces=True))
        library, _ = live.compile_all(stack)
        sender = stack.enter_context(live.open_sender(sending, library))
        for number in range(1, options.rounds + 1):
            with receiving.host.enter():
                group = f"{GROUP}%{receiving.interface}:{PORT}"
                with mcast_fast.Receiver(group, buffer_size=BUFFER, timeout=QUIET_SECONDS) as receiver:
                    seen, sent = received(receiver, sender, options)
                    judge(report, rows, number, seen, sent, receiver.stats)
    report.tables = [Table("a burst in a stream", ("", "round", "packets", "coalesced"), rows)]
    return report


def received(receiver: mcast_fast.Receiver, sender: Process, options: argparse.Namespace) -> tuple[Seen, int]:
    """What came, and how many packets were sent."""
    around = (options.seconds - BURST_SECONDS) / 2
    counts = (int(options.rate * around), int(BURST_RATE * BURST_SECONDS), int(options.rate * around))
    seen = Seen()

    def send() -> None:
        for count, rate in zip(counts, (options.rate, BURST_RATE, options.rate), strict=True):
            segments = live.SEGMENTS if rate == BURST_RATE else 1
            sender.ask("send", port=PORT, **asdict(Stream(count, options.size, segments, rate=rate)))
            if len(seen.begins) == 0:
                seen.begins = [time.time_ns()]
            elif rate == BURST_RATE:
                seen.begins += [time.time_ns(), time.time_ns() + int(SHORTLY_SECONDS * 1e9)]

    thread = threading.Thread(target=send)
    thread.start()
    while thread.is_alive():
        for batch in receiver.batches(timeout=QUIET_SECONDS):
            seen.add(batch)
    thread.join()
    return seen, sum(counts)


def judge(report: Report, rows: list[tuple[str, ...]], number: int, seen: Seen, sent: int, stats: Any) -> None:
    """Counts what came coalesced without a reason, and notes the ledger and the events."""
    began = [event.time for event in stats.events if event.what is mcast_fast.stats.What.COALESCING]
    before, _, _, later = seen.parts
    if not any(time < seen.begins[0] for time in began):
        report.counts[UNEXPLAINED] += before.coalesced
    if not any(time >= seen.begins[2] for time in began):
        report.counts[LATE] += later.coalesced
    rows += [
        (title, str(number), f"{part.packets:,}", f"{part.coalesced:,}")
        for title, part in zip(PARTS, seen.parts, strict=True)
    ]
    report.notes.append(f"round {number}: sent {sent:,}, received {stats.received:,}, dropped {stats.dropped:,}")
    start = seen.begins[0]
    report.notes += [f"{(event.time - start) / 1e9:+.3f} s of the burst: {event.detail}" for event in stats.events]
