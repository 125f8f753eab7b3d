"""ns per packet of what becomes of a batch: pyarrow.record_batch, and beside it columns and payloads.

One process receives a batch over loopback and measures each way in turn, many times on the same batch, so that nothing
of the kernel is in the figures.
"""

import argparse
import random
import time
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from benchmarks import machine, network, reference, station
from benchmarks.contenders import FAST
from benchmarks.network import Place
from benchmarks.process import BenchmarkError, Process
from benchmarks.report import Bar, Direction, Report, Table, spread

MODULE = "benchmarks.arrow"
ROUNDS = 31
COUNT = 20_000
SIZE = 256
REPEATED = 5
BUFFER_BYTES = 64 << 20
QUIET_MS = 1000

WAYS = {
    "record_batch": "pyarrow.record_batch(batch)",
    "columns": "np.asarray(batch), lengths added up",
    "payloads": "payloads()",
    "packets": "packets reading .data",
}
BARS = (Bar("record_batch", None, Direction.AT_MOST, 60),)


class ArrowStation:
    """Holds one batch, and measures what is made of it."""

    def __init__(self, order: dict[str, Any]) -> None:
        import numpy as np
        import pyarrow as pa

        import mcast_fast

        place = Place(**order["place"])
        with mcast_fast.Receiver(
            f"{place.group}%{place.interface}:{place.port}", buffer_size=place.buffer_bytes, timeout=1
        ) as receiver:
            with network.sending_socket(place.port, place.interface, "127.0.0.1") as sock:
                reference.send(order["library"], sock, order["count"], order["size"], 1)
            self._batch = batch = receiver.collect(order["count"])
        if len(batch) != order["count"]:
            raise RuntimeError(f"sent {order['count']} packets, but received {len(batch)}")

        def packets() -> object:
            for packet in batch:
                data = packet.data
            return data

        self._ways: dict[str, Callable[[], object]] = {
            "record_batch": lambda: pa.record_batch(batch),
            "columns": lambda: int(np.asarray(batch)["length"].sum()),
            "payloads": batch.payloads,
            "packets": packets,
        }

    def ready(self) -> dict[str, Any]:
        rows = self._ways["record_batch"]().num_rows
        if rows != len(self._batch):
            raise RuntimeError(f"the record batch has {rows} rows of {len(self._batch)}")
        return {}

    def measure(self, way: str) -> None:
        call = self._ways[way]
        start = time.perf_counter_ns()
        for _ in range(REPEATED):
            call()
        station.say(wall=(time.perf_counter_ns() - start) / REPEATED / len(self._batch))


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets in the batch (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")


def run(options: argparse.Namespace) -> Report:
    report = Report("arrow", {name: getattr(options, name) for name in ("rounds", "count", "size")}, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        library = str(stack.enter_context(reference.compiled()))
        place = asdict(Place("lo", BUFFER_BYTES, QUIET_MS, network.free_port()))
        order = {"place": place, "library": library, "count": options.count, "size": options.size}
        try:
            one = stack.enter_context(Process("arrow", order, environment=FAST, module=MODULE))
        except BenchmarkError as error:
            report.notes.append(f"left out: {error}")
        else:
            report.samples = measure(one, options.rounds)
    report.series = {name: [sample["wall"] for sample in taken] for name, taken in report.samples.items()}
    report.tables = [
        Table(
            "of a batch that is there",
            ("", "ns per packet", "quartiles"),
            [(WAYS[name], f"{report.measured[name]:,.1f}", spread(taken)) for name, taken in report.series.items()],
        )
    ]
    return report


def measure(one: Process, rounds: int, ways: Iterable[str] = tuple(WAYS)) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in ways}
    shuffled = random.Random(1)
    order = list(samples)
    for number in range(rounds + 1):
        shuffled.shuffle(order)
        for name in order:
            sample = one.ask("measure", way=name)
            if number > 0:
                samples[name].append(sample)
    return samples


if __name__ == "__main__":
    station.STATIONS["arrow"] = ArrowStation
    station.main()
