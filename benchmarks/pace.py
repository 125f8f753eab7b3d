"""Departure errors of senders that keep a rate, by the receiver's kernel times over a veth pair.

The senders take turns and the order turns every round. Each departure is held against the line of equal steps, at the
rate that was asked for, that runs through the median of them.
"""

import argparse
import contextlib
import shutil
import struct
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

from tests.lab import End

import mcast_fast
from benchmarks import machine, network, reference, reference_send
from benchmarks.live import link
from benchmarks.process import BenchmarkError
from benchmarks.report import NOTHING, Bar, Direction, Report, Table, spread

ROUNDS = 3
SECONDS = 20.0
SIZE = 64
RATES = (10_000, 100_000)
PORT = 5000
WHERE = (network.GROUP, PORT)
BUFFER_BYTES = 64 << 20
QUIET_SECONDS = 0.5
REPLAYED = 10_000  # packets in tcpreplay's file, which it loops over


class Contender(Protocol):
    """Sends `count` datagrams of SIZE bytes at `rate` a second."""

    def __init__(self, sending: End, library: Path) -> None: ...
    def send(self, count: int, rate: int) -> None: ...
    def close(self) -> None: ...


class Ours:
    def __init__(self, sending: End, library: Path) -> None:
        self._interface = sending.interface
        self._host = sending.host

    def send(self, count: int, rate: int) -> None:
        with self._host.enter():
            sender = mcast_fast.Sender(f"{network.GROUP}%{self._interface}:{PORT}", rate=rate)
        with sender:
            sender.send_batch(bytes(count * SIZE), size=SIZE)

    def close(self) -> None:
        pass


class C:
    def __init__(self, sending: End, library: Path) -> None:
        self._loops = reference_send.Loops(library, network.open_sending_socket(sending.interface), *WHERE)

    def send(self, count: int, rate: int) -> None:
        self._loops.pace(count, SIZE, 1e9 / rate)

    def close(self) -> None:
        self._loops.close()


class Sleep:
    """The loop that people write: send, then sleep for one interval."""

    def __init__(self, sending: End, library: Path) -> None:
        self._socket = network.open_sending_socket(sending.interface)

    def send(self, count: int, rate: int) -> None:
        payload, send, sleep, interval = bytes(SIZE), self._socket.sendto, time.sleep, 1 / rate
        end = time.monotonic() + count * interval
        for _ in range(count):
            send(payload, WHERE)
            sleep(interval)
            if time.monotonic() > end:
                break

    def close(self) -> None:
        self._socket.close()


class Schedule(Sleep):
    """The better one: sleeps until the moment that each departure is due."""

    def send(self, count: int, rate: int) -> None:
        payload, send, sleep, monotonic, interval = (
            bytes(SIZE),
            self._socket.sendto,
            time.sleep,
            time.monotonic,
            1 / rate,
        )
        start = monotonic()
        for number in range(count):
            left = start + number * interval - monotonic()
            if left > 0:
                sleep(left)
            send(payload, WHERE)


class Tcpreplay:
    """A file of such packets, in a loop at --pps."""

    def __init__(self, sending: End, library: Path) -> None:
        if shutil.which("tcpreplay") is None:
            raise BenchmarkError("tcpreplay is not installed")
        self._end = sending
        self._directory = tempfile.TemporaryDirectory(prefix="mcast-benchmarks-")
        self._file = Path(self._directory.name, "packets.pcap")
        self._file.write_bytes(capture_file(sending.ipv4))

    def send(self, count: int, rate: int) -> None:
        options = ["-K", "-q", "--pps", str(rate), "--loop", str(count // REPLAYED)]
        command = ["ip", "netns", "exec", self._end.host.namespace, "tcpreplay", *options]
        done = subprocess.run([*command, "-i", self._end.interface, self._file], capture_output=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"tcpreplay: {done.stderr.decode().strip()}")

    def close(self) -> None:
        self._directory.cleanup()


CONTENDERS: dict[str, tuple[str, type[Contender]]] = {
    "ours": ("ours, rate=", Ours),
    "c": ("C, absolute sleep and short spin", C),
    "sleep": ("time.sleep(interval)", Sleep),
    "schedule": ("time.sleep until due", Schedule),
    "tcpreplay": ("tcpreplay --pps", Tcpreplay),
}


def capture_file(source: str) -> bytes:
    """REPLAYED packets as a pcap file, for the group's Ethernet address (RFC 1112)."""
    udp = struct.pack("!4H", 40_000, PORT, 8 + SIZE, 0) + bytes(SIZE)
    group = bytes(map(int, network.GROUP.split(".")))
    header = struct.pack(
        "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 4, 17, 0, bytes(map(int, source.split("."))), group
    )
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    ethernet = b"\x01\x00\x5e" + bytes([group[1] & 0x7F]) + group[2:] + b"\x02\x00\x00\x00\x00\x01\x08\x00"
    frame = ethernet + header + udp
    packet = struct.pack("=4I", 0, 0, len(frame), len(frame)) + frame
    return struct.pack("=IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1) + packet * REPLAYED


def bars(rates: tuple[int, ...]) -> tuple[Bar, ...]:
    return tuple(
        bar
        for rate in rates
        for bar in (
            Bar(f"ours {rate}: rate error, %", None, Direction.AT_MOST, 0.1),
            Bar(f"ours {rate}", f"c {rate}", Direction.AT_MOST, 1.2),
            Bar(f"sleep {rate}", f"ours {rate}", Direction.AT_LEAST, 10),
        )
    )


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--seconds", type=float, default=SECONDS, help="of each stream (%(default)s)")
    options.add_argument("--rates", type=int, nargs="+", default=RATES, help="datagrams per second (%(default)s)")
    options.add_argument("--only", nargs="+", choices=CONTENDERS, default=tuple(CONTENDERS), metavar="NAME")


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "rates")}
    report = Report("pace", settings, bars(tuple(options.rates)))
    with machine.watched(report.notes), ExitStack() as stack:
        library = stack.enter_context(reference.compiled(reference_send.SOURCE))
        sending, receiving = stack.enter_context(link())
        with receiving.host.enter():
            receiver = stack.enter_context(open_receiver(receiving))
        senders = open_senders(stack, sending, library, options.only, report.notes)
        report.samples = measure(senders, receiver, options)
    report.series = {name: [sample["p99"] for sample in taken] for name, taken in report.samples.items()}
    for rate in options.rates:
        if f"ours {rate}" in report.samples:
            worst = max(abs(sample["rate_error"]) for sample in report.samples[f"ours {rate}"])
            report.counts[f"ours {rate}: rate error, %"] = worst * 100
    report.tables = [table(report, rate) for rate in options.rates]
    return report


@contextlib.contextmanager
def open_receiver(receiving: End) -> Iterator[mcast_fast.Receiver]:
    feed = f"{network.GROUP}%{receiving.interface}:{PORT}"
    with mcast_fast.Receiver(feed, buffer_size=BUFFER_BYTES, timeout=QUIET_SECONDS) as receiver:
        yield receiver


def open_senders(
    stack: ExitStack,
    sending: End,
    library: Path,
    names: list[str],
    notes: list[str],
    contenders: dict[str, tuple[str, type[Contender]]] = CONTENDERS,
) -> dict[str, Contender]:
    senders: dict[str, Contender] = {}
    with sending.host.enter():
        for name in names:
            try:
                senders[name] = contenders[name][1](sending, library)
            except BenchmarkError as error:
                notes.append(f"left out: {error}")
    for sender in senders.values():
        stack.enter_context(contextlib.closing(sender))
    return senders


def measure(
    senders: dict[str, Contender], receiver: mcast_fast.Receiver, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {f"{name} {rate}": [] for rate in options.rates for name in senders}
    order = list(senders)
    for _ in range(options.rounds):
        for rate in options.rates:
            for name in order:
                count = int(options.seconds * rate) // REPLAYED * REPLAYED or REPLAYED
                samples[f"{name} {rate}"].append(stream(senders[name], receiver, count, rate))
        order.append(order.pop(0))
    return samples


def stream(sender: Contender, receiver: mcast_fast.Receiver, count: int, rate: int) -> dict[str, Any]:
    """One stream: its rate, and how far from even its departures were, ns."""
    import numpy as np

    times: list[Any] = []
    thread = threading.Thread(target=follow, args=(receiver, count, times))
    thread.start()
    sender.send(count, rate)
    thread.join()
    if not times:
        raise BenchmarkError(f"{type(sender).__name__}: nothing arrived")
    came = np.concatenate(times)
    came -= came[0]
    errors = came - np.arange(len(came)) * (1e9 / rate)
    errors = np.abs(errors - np.median(errors))
    return {
        "received": len(came),
        "expected": count,
        "p50": float(np.percentile(errors, 50)),
        "p99": float(np.percentile(errors, 99)),
        "worst": float(errors.max()),
        "rate_error": float((len(came) - 1) / came[-1] * 1e9 / rate - 1),
    }


def follow(receiver: mcast_fast.Receiver, count: int, times: list[Any]) -> None:
    """Take the arrival times of `count` datagrams, or of what came until it is quiet; sparing the other core."""
    import numpy as np

    came = 0
    while came < count:
        batch = receiver.collect(count - came, timeout=QUIET_SECONDS)
        if len(batch) == 0 and came:
            return
        times.append(np.asarray(batch)["timestamp"].astype(np.int64))
        came += len(batch)


def table(report: Report, rate: int, contenders: dict[str, tuple[str, type[Contender]]] = CONTENDERS) -> Table:
    rows = []
    for name, (title, _) in contenders.items():
        taken = report.samples.get(f"{name} {rate}")
        if not taken:
            continue
        typical, _, worst = (
            sorted(sample[what] for sample in taken)[len(taken) // 2] for what in ("p50", "p99", "worst")
        )
        off = max((sample["rate_error"] for sample in taken), key=abs)
        missing = sum(sample["expected"] - sample["received"] for sample in taken)
        rows.append(
            (
                title,
                f"{typical:,.0f}",
                f"{report.measured[f'{name} {rate}']:,.0f}",
                spread(report.series[f"{name} {rate}"]) or NOTHING,
                f"{worst:,.0f}",
                f"{off:+.4%}",
                f"{missing:,}",
            )
        )
    headings = ("", "p50 ns", "p99 ns", "p99 quartiles", "worst ns", "rate error", "not received")
    return Table(f"{rate:,} a second (medians)", headings, rows)
