"""Questions to files by Dask: one worker, and two, of one thread each, on this machine; and threads without Dask.

The files are of 1,000-byte packets of 60 numbered groups, without manifests, so that each `flows` reads all of them.
They are read once before, so that the page cache has them where memory suffices. One worker and two take turns.
"""

import argparse
import contextlib
import os
import socket
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mcast_fast
from benchmarks import machine
from benchmarks.process import ROOT
from benchmarks.report import Bar, Direction, Report, Table, spread

ROUNDS = 3
SIZE = "2GiB"
FILES, LARGEST = 32, 256 << 20  # files, or more where they would be larger than this
PAYLOAD = 1000
BLOCK = 1076  # bytes of a packet in pcapng
GROUPS = 60
START = 1_795_870_800 * 10**9
STEP = 10_000  # ns between two packets
FORMAT = "mcast-fast"
BARS = (
    Bar("one worker", "two workers", Direction.AT_LEAST, 1.5),
    Bar("bytes moved / bytes scanned", None, Direction.BELOW, 0.02),
)


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--size", default=SIZE, help="of all files together (%(default)s; the bar is meant for 10GB)")
    options.add_argument(
        "--directory", type=Path, help="where the files are made, and removed (the system's for temporary files)"
    )


def batch_of(first: int, count: int) -> Any:
    """Packets with these numbers, which go to the groups in turn."""
    import numpy as np

    from mcast_fast._core import views
    from mcast_fast._core.layout import numpy_dtype

    places = np.arange(first, first + count)
    rows = np.zeros(count, numpy_dtype())
    rows["timestamp"] = START + places * STEP
    rows["offset"] = np.arange(count) * PAYLOAD
    rows["interface"] = 1
    rows["length"] = rows["wire_length"] = PAYLOAD
    rows["source"] = np.frombuffer(mcast_fast.pack_addresses("10.0.0.5"), np.uint8)
    groups = mcast_fast.pack_addresses([f"239.1.1.{one + 1}" for one in range(GROUPS)])
    rows["group"] = np.frombuffer(groups, np.uint8).reshape(GROUPS, 16)[places % GROUPS]
    rows["source_port"], rows["port"] = 4000, 5000
    payloads = np.zeros((count, PAYLOAD), np.uint8)
    payloads[:, :4] = np.frombuffer(b"mcFQ", np.uint8)
    payloads[:, 5] = 1  # count
    payloads[:, 15] = 1  # sender
    payloads[:, 16:24] = (places // GROUPS).astype(">u8").view(np.uint8).reshape(count, 8)
    return views.Batch.from_bytes(rows.tobytes(), payloads.tobytes(), {1: "eth0"})


def write_files(directory: Path, packets: int) -> None:
    """Files that follow each other; every ten thousandth packet is missing."""
    each = max(1, min(LARGEST // BLOCK, packets // FILES))
    for number, begin in enumerate(range(0, packets, each)):
        with mcast_fast.files.Writer(directory / f"feed-{number:04}.pcapng") as writer:
            end = min(begin + each, packets)
            for first in range(begin, end, 10_000):
                writer.write(batch_of(first, min(9_999, end - first)))


@contextlib.contextmanager
def workers(number: int) -> Iterator[Any]:
    """A scheduler and this number of workers with one thread each, as processes; a client of theirs."""
    import distributed

    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])}
    python = [sys.executable, "-m"]
    started: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="mcast-benchmarks-") as place:
        file = Path(place, "scheduler.json")

        def start(*words: str) -> None:
            started.append(
                subprocess.Popen(
                    [*python, *words], env=environment, cwd=place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            )

        try:
            start(
                *("distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard"),
                *("--scheduler-file", str(file)),
            )
            for one in range(number):
                start(
                    *("distributed.cli.dask_worker", "--scheduler-file", str(file), "--nthreads", "1", "--no-nanny"),
                    *("--no-dashboard", "--name", f"{socket.gethostname()}-{one}", "--local-directory", place),
                )
            with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
                client.wait_for_workers(number, timeout=60)
                yield client
        finally:
            for program in started:
                program.kill()  # a worker would wait for its scheduler
            for program in started:
                program.wait()


def ask(directory: Path, client: Any) -> dict[str, Any]:
    """How long `flows` takes, and what it says."""
    captures = mcast_fast.cluster.open(directory, FORMAT, client)
    started = time.perf_counter()
    flows = captures.flows()
    seconds = time.perf_counter() - started
    assert captures.problems == ()
    return {"seconds": seconds, "flows": flows, "scanned": captures.work.scanned, "moved": captures.work.moved}


def run(options: argparse.Namespace) -> Report:
    from mcast_fast._units import size_in_bytes

    packets = max(20_000, size_in_bytes(options.size, "--size") // BLOCK)
    report = Report(
        "cluster", {"rounds": options.rounds, "size": options.size, "packets": packets, "payload": PAYLOAD}, BARS
    )
    warnings.simplefilter("ignore")  # Dask's own
    with (
        machine.watched(report.notes),
        tempfile.TemporaryDirectory(prefix="mcast-benchmarks-", dir=options.directory) as place,
        workers(1) as one,
        workers(2) as two,
    ):
        directory = Path(place)
        write_files(directory, packets)
        ways = {"one worker": one, "two workers": two, "threads, no Dask": None}
        expected = ask(directory, None)["flows"]
        assert sum(flow.packets for flow in expected) + sum(flow.lost or 0 for flow in expected) <= packets
        for _ in range(max(1, options.rounds)):
            for name, client in ways.items():
                sample = ask(directory, client)
                assert sample.pop("flows") == expected, name
                report.samples.setdefault(name, []).append(sample)
    report.series = {name: [sample["seconds"] for sample in taken] for name, taken in report.samples.items()}
    last = report.samples["two workers"][-1]
    report.counts["bytes moved / bytes scanned"] = last["moved"] / last["scanned"]
    report.tables = [table(report, packets)]
    return report


def table(report: Report, packets: int) -> Table:
    rows = [
        (name, f"{report.measured[name]:.2f}", spread(values), f"{report.measured[name] * 1e9 / packets:,.0f}")
        for name, values in report.series.items()
    ]
    return Table("flows of all files (medians)", ("", "seconds", "quartiles", "ns per packet"), rows)
