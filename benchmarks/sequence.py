"""ns of CPU per packet to follow the numbers of a batch: the tracker, with one flow and with 1,000; to place payloads
by them; and of two legs to make one feed.

One process holds batches of RTP packets in memory and measures each way in turn, many times, so that nothing of the
kernel is in the figures. The batches together are larger than a cache. Plain C loops over the same bytes
(reference_sequence.c) are the limit.
"""

import argparse
import ctypes
import struct
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks import arrow, machine, reference, station
from benchmarks.contenders import FAST
from benchmarks.process import BenchmarkError, Process
from benchmarks.report import Bar, Direction, Report, Table, ratio, spread

MODULE = "benchmarks.sequence"
SOURCE = Path(__file__).with_name("reference_sequence.c")
ROUNDS = 31
COUNT = 4096  # packets in a batch: a ring's
BATCHES = 16
SIZE = 256
FLOWS = {"one": 1, "thousand": 1_000}
BEYOND = "place - 1.1 memcpy"

WAYS = {
    "tracker, one flow": "Tracker.update, one flow",
    "tracker, 1,000 flows": "Tracker.update, 1,000 flows",
    "arbiter": "Arbiter of two legs in order: per packet of either leg",
    "arbiter, 1 % lost": "Arbiter of two legs in order, each misses 1 %, 33 us apart",
    "numbers": "sequence.numbers: columns alone",
    "place": "sequence.place: each payload into its row",
    "memcpy": "the same bytes by one memcpy per batch",
    "numpy": "np.diff of rows as columns, one flow, no order, no flows",
}
# The C loop that touches the same bytes -> what it is the limit of.
LOOPS = {f"{way}, C loop": way for way in ("tracker, one flow", "tracker, 1,000 flows", "arbiter", "arbiter, 1 % lost")}
WAYS |= {loop: f"the same bytes by a C loop: {way}" for loop, way in LOOPS.items()}
BARS = (
    Bar("tracker, one flow", None, Direction.AT_MOST, 25),
    Bar("tracker, 1,000 flows", None, Direction.AT_MOST, 25),
    Bar("arbiter", None, Direction.AT_MOST, 60),
    Bar("arbiter, 1 % lost", None, Direction.AT_MOST, 60),
    Bar("tracker, one flow", "numpy", Direction.AT_MOST, 1.0),
    Bar(BEYOND, None, Direction.AT_MOST, 30),
)


class SequenceStation:
    """Holds batches, and measures what follows their numbers."""

    def __init__(self, order: dict[str, Any]) -> None:
        import numpy as np

        from mcast_fast import sequence

        size = order["count"], order["size"]
        one, thousand = (batches_of(flows, *size) for flows in FLOWS.values())
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

        second = batches_of(1, *size, late=33_000)
        lossy = [batches_of(1, *size, late=late, lost=lost) for late, lost in ((0, 100), (33_000, 101))]

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

        self._loops = Loops(order["library"], *size)
        self._ways: dict[str, Callable[[], int]] = {
            "tracker, one flow": lambda: track(one),
            "tracker, 1,000 flows": lambda: track(thousand),
            "arbiter": lambda: self._arbitrate([one, second]),
            "arbiter, 1 % lost": lambda: self._arbitrate(lossy),
            "numbers": numbers,
            "place": place,
            "memcpy": memcpy,
            "numpy": numpy,
            "tracker, one flow, C loop": lambda: self._follow(FLOWS["one"], one),
            "tracker, 1,000 flows, C loop": lambda: self._follow(FLOWS["thousand"], thousand),
            "arbiter, C loop": lambda: self._merge([one, second]),
            "arbiter, 1 % lost, C loop": lambda: self._merge(lossy),
        }

    def ready(self) -> dict[str, Any]:
        for name, call in self._ways.items():
            if (found := call()) != self._packets:
                raise RuntimeError(f"{name} found {found} packets of {self._packets}")
        return {}

    def _arbitrate(self, legs: list[list[Any]]) -> int:
        """What two legs bring, until all of it is delivered."""
        from mcast_fast import sequence

        arbiter = sequence.Arbiter([Held(batches) for batches in legs], "rtp", hold="1ms")
        self._begin()
        found = sum(map(len, arbiter))
        self._end()
        stats = arbiter.stats
        taken = sum(leg.received for leg in stats.legs)
        self._spent = self._spent * self._packets // taken  # of as many packets as the other ways take
        if not found == stats.delivered == stats.expected - stats.unrecovered:
            raise RuntimeError(f"the arbiter delivered {found} packets: {stats}")
        return self._packets

    def _follow(self, flows: int, batches: list[Any]) -> int:
        """The C loop in the place of the tracker."""
        follow = self._loops.tracker(flows, batches)
        self._begin()
        found = follow()
        self._end()
        return found

    def _merge(self, legs: list[list[Any]]) -> int:
        """The C loop in the place of the arbiter."""
        merge = self._loops.arbiter(legs)
        self._begin()
        merge()
        self._end()
        self._spent = self._spent * self._packets // sum(len(batch) for leg in legs for batch in leg)
        return self._packets

    def _begin(self) -> None:
        self._spent = -time.process_time_ns()

    def _end(self) -> None:
        self._spent += time.process_time_ns()

    def measure(self, way: str) -> None:
        self._ways[way]()
        station.say(wall=self._spent / self._packets)


class _Batch(ctypes.Structure):
    _fields_ = (("records", ctypes.c_void_p), ("arena", ctypes.c_void_p), ("count", ctypes.c_uint64))


class Loops:
    """The C loops over batches, with the memory that they need."""

    FLOW_BYTES = 56
    NUMBERS = 1 << 16

    def __init__(self, library: str, count: int, size: int) -> None:
        self._functions = ctypes.CDLL(library)
        for function in (self._functions.reference_track, self._functions.reference_arbitrate):
            function.restype = ctypes.c_uint64
        self._records = ctypes.create_string_buffer(2 * count * 64)
        self._arena = ctypes.create_string_buffer(2 * count * size)

    def _batches(self, batches: list[Any]) -> Any:
        import numpy as np

        return (_Batch * len(batches))(
            *(
                _Batch(np.asarray(batch).ctypes.data, np.frombuffer(batch.data, np.uint8).ctypes.data, len(batch))
                for batch in batches
            )
        )

    def tracker(self, flows: int, batches: list[Any]) -> Callable[[], int]:
        """Follows the batches behind the first one, as the tracker does: packets that were the next of their flow."""
        given, count = self._batches(batches), ctypes.c_uint64(flows)
        memory = ctypes.create_string_buffer(flows * self.FLOW_BYTES)
        track = self._functions.reference_track
        track(ctypes.byref(given[0]), memory, count)
        return lambda: sum(track(ctypes.byref(batch), memory, count) for batch in given[1:])

    def arbiter(self, legs: list[list[Any]]) -> Callable[[], int]:
        """Makes one feed of two legs: packets in it."""
        pairs = [self._batches(list(pair)) for pair in zip(*legs, strict=True)]
        merged = ctypes.create_string_buffer(8 * (2 + self.NUMBERS + 1))
        ctypes.memmove(merged, (ctypes.c_void_p * 2)(*map(ctypes.addressof, (self._records, self._arena))), 16)
        arbitrate = self._functions.reference_arbitrate
        return lambda: sum(arbitrate(pair, merged) for pair in pairs)


class Held:
    """A Source of batches that are there."""

    closed, stats = False, None

    def __init__(self, batches: list[Any]) -> None:
        self._batches = iter(batches)

    def recv_batch(self, max_packets: int | None = None, timeout: Any = None) -> Any:
        for batch in self._batches:
            return batch
        raise EOFError

    recv = collect = __iter__ = close = recv_batch  # a Source has them


def batches_of(flows: int, count: int, size: int, late: int = 0, lost: int = 0) -> list[Any]:
    """Batches of RTP packets, in turn of each flow, a microsecond apart, `late` ns, without every `lost`th."""
    import mcast_fast
    from mcast_fast._core.layout import RECORD, V4_MAPPED

    addresses = V4_MAPPED + bytes([10, 0, 0, 1]), V4_MAPPED + bytes([239, 1, 1, 1])
    found, start, rest = [], 1_700_000_000_000_000_000, bytes(size - 12)
    for first in range(0, BATCHES * count, count):
        records, payloads = [], []
        for at in range(first, first + count):
            if lost and at % lost == lost - 1:
                continue
            payloads.append(struct.pack(">BBHII", 0x80, 96, at // flows & 0xFFFF, 0, at % flows) + rest)
            place = len(records) * size
            records.append(
                RECORD.pack(start + late + at * 1000, place, 2, 0, size, size, *addresses, 4000, 5000, 0, 0, 0)
            )
        found.append(mcast_fast.Batch.from_bytes(b"".join(records), b"".join(payloads), {2: "eth0"}))
    return found


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets in a batch (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")


def run(options: argparse.Namespace) -> Report:
    report = Report("sequence", {name: getattr(options, name) for name in ("rounds", "count", "size")}, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        try:
            library = str(stack.enter_context(reference.compiled(SOURCE)))
            order = {"count": options.count, "size": options.size, "library": library}
            one = stack.enter_context(Process("sequence", order, environment=FAST, module=MODULE))
        except (BenchmarkError, OSError) as error:
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
            ("", "ns per packet", "quartiles", "of the C loop"),
            [
                (
                    WAYS.get(name, name),
                    f"{report.measured[name]:,.1f}",
                    spread(taken),
                    ratio(report.measured[name], report.measured.get(f"{name}, C loop")),
                )
                for name, taken in report.series.items()
            ],
        )
    ]
    return report


if __name__ == "__main__":
    station.STATIONS["sequence"] = SequenceStation
    station.main()
