"""ns of CPU per packet to follow the numbers of a batch: the tracker, with one flow and with 1,000; and to place
payloads by them.

One process holds batches of RTP packets in memory and measures each way in turn, many times, so that nothing of the
kernel is in the figures. The batches together are larger than a cache.
"""

import argparse
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

from benchmarks import arrow, machine, station
from benchmarks.contenders import FAST
from benchmarks.process import BenchmarkError, Process
from benchmarks.report import Bar, Direction, Report, Table, spread

MODULE = "benchmarks.sequence"
ROUNDS = 31
COUNT = 4096  # packets in a batch: a ring's
BATCHES = 16
SIZE = 256
FLOWS = {"one": 1, "thousand": 1_000}
BEYOND = "place - 1.1 memcpy"

WAYS = {
    "tracker, one flow": "Tracker.update, one flow",
    "tracker, 1,000 flows": "Tracker.update, 1,000 flows",
    "numbers": "sequence.numbers: columns alone",
    "place": "sequence.place: each payload into its row",
    "memcpy": "the same bytes by one memcpy per batch",
    "numpy": "np.diff of rows as columns, one flow, no order, no flows",
}
BARS = (
    Bar("tracker, one flow", None, Direction.AT_MOST, 25),
    Bar("tracker, 1,000 flows", None, Direction.AT_MOST, 25),
    Bar("tracker, one flow", "numpy", Direction.AT_MOST, 1.0),
    Bar(BEYOND, None, Direction.AT_MOST, 30),
)


class SequenceStation:
    """Holds batches, and measures what follows their numbers."""

    def __init__(self, order: dict[str, Any]) -> None:
        import numpy as np

        from mcast_fast import sequence

        one, thousand = (batches_of(flows, order["count"], order["size"]) for flows in FLOWS.values())
        self._packets = order["count"] * (BATCHES - 1)
        self._spent = 0

        def track(batches: list[Any]) -> int:
            """Figures are of a tracker that knows its flows; it is not asked for them meanwhile."""
            tracker = sequence.Tracker("rtp")
            tracker.update(batches[0])
            self._begin()
            for batch in batches[1:]:
                tracker.update(batch)
            self._end()
            return sum(flow.received - flow.lost - flow.pending for flow in tracker.flows) - order["count"]

        def numbers() -> int:
            self._begin()
            found = sum(len(sequence.numbers(batch, "rtp").number) for batch in one[1:])
            self._end()
            return found

        def numpy() -> int:
            found = 0
            self._begin()
            for batch in one[1:]:
                column = np.asarray(batch.rows(12))[:, 2:4].copy().view(">u2")[:, 0].astype(np.uint16)
                found += 1 + int((np.diff(column) == 1).sum())
            self._end()
            return found

        rows = np.zeros((order["count"] * BATCHES, order["size"]), np.uint8)
        present = np.zeros(len(rows), bool)

        def place() -> int:
            present[:] = False
            found = 0
            self._begin()
            for batch in one[1:]:
                found += sequence.place(batch, "rtp", into=rows, base=0, present=present, body=0).placed
            self._end()
            return found

        def memcpy() -> int:
            found = 0
            self._begin()
            for batch in one[1:]:
                rows[found : found + len(batch)] = np.asarray(batch.rows(order["size"]))
                found += len(batch)
            self._end()
            return found

        self._ways: dict[str, Callable[[], int]] = {
            "tracker, one flow": lambda: track(one),
            "tracker, 1,000 flows": lambda: track(thousand),
            "numbers": numbers,
            "place": place,
            "memcpy": memcpy,
            "numpy": numpy,
        }

    def ready(self) -> dict[str, Any]:
        for name, call in self._ways.items():
            if (found := call()) != self._packets:
                raise RuntimeError(f"{name} found {found} packets of {self._packets}")
        return {}

    def _begin(self) -> None:
        self._spent = -time.process_time_ns()

    def _end(self) -> None:
        self._spent += time.process_time_ns()

    def measure(self, way: str) -> None:
        self._ways[way]()
        station.say(wall=self._spent / self._packets)


def batches_of(flows: int, count: int, size: int) -> list[Any]:
    """Batches of RTP packets, in turn of each flow, a microsecond apart."""
    import mcast_fast
    from mcast_fast._core.layout import RECORD, V4_MAPPED

    addresses = V4_MAPPED + bytes([10, 0, 0, 1]), V4_MAPPED + bytes([239, 1, 1, 1])
    found, start, rest = [], 1_700_000_000_000_000_000, bytes(size - 12)
    for first in range(0, BATCHES * count, count):
        records, payloads = [], []
        for at in range(first, first + count):
            payloads.append(struct.pack(">BBHII", 0x80, 96, at // flows & 0xFFFF, 0, at % flows) + rest)
            place = (at - first) * size
            records.append(RECORD.pack(start + at * 1000, place, 2, 0, size, size, *addresses, 4000, 5000, 0, 0, 0))
        found.append(mcast_fast.Batch.from_bytes(b"".join(records), b"".join(payloads), {2: "eth0"}))
    return found


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets in a batch (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")


def run(options: argparse.Namespace) -> Report:
    report = Report("sequence", {name: getattr(options, name) for name in ("rounds", "count", "size")}, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        order = {"count": options.count, "size": options.size}
        try:
            one = stack.enter_context(Process("sequence", order, environment=FAST, module=MODULE))
        except BenchmarkError as error:
            report.notes.append(f"left out: {error}")
        else:
            report.samples = arrow.measure(one, options.rounds, WAYS)
    report.series = {name: [sample["wall"] for sample in taken] for name, taken in report.samples.items()}
    if report.series:
        pairs = zip(report.series["place"], report.series["memcpy"], strict=True)
        report.series[BEYOND] = [placed - 1.1 * copied for placed, copied in pairs]
    report.tables = [
        Table(
            "of batches that are there",
            ("", "ns per packet", "quartiles"),
            [
                (WAYS.get(name, name), f"{report.measured[name]:,.1f}", spread(taken))
                for name, taken in report.series.items()
            ],
        )
    ]
    return report


if __name__ == "__main__":
    station.STATIONS["sequence"] = SequenceStation
    station.main()
