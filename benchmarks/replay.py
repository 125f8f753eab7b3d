"""Departure errors of replays of a recording with even times, by the receiver's kernel times over a veth pair.

As `pace`: each departure is held against the line of equal steps that runs through the median of them. Ours and
tcpreplay keep the times that stand in the file; the C loop, as the limit, keeps its own.
"""

import argparse
import struct
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from tests.lab import End

from benchmarks import machine, pace, reference, reference_send
from benchmarks.live import link
from benchmarks.process import ROOT, BenchmarkError
from benchmarks.report import Bar, Direction, Report

ROUNDS = 3
SECONDS = 10.0
RATE = 10_000
SECOND = 1_000_000_000
PCAP_NS = 0xA1B23C4D


class File:
    """A recording of so many packets per second, made when the count is known."""

    def __init__(self, sending: End, library: Path) -> None:
        self._end = sending
        self._directory = tempfile.TemporaryDirectory(prefix="mcast-benchmarks-")
        self._path = Path(self._directory.name, "packets.pcap")
        self._made = (0, 0)

    def recording(self, count: int, rate: int) -> str:
        if self._made != (count, rate):
            packet = pace.capture_file(self._end.ipv4)[24:]
            frame = packet[16 : 16 + struct.unpack_from("=I", packet, 8)[0]]
            with self._path.open("wb") as file:
                file.write(struct.pack("=IHHiIII", PCAP_NS, 2, 4, 0, 0, 65_535, 1))
                for number in range(count):
                    seconds, rest = divmod(SECOND + number * SECOND // rate, SECOND)
                    file.write(struct.pack("=4I", seconds, rest, len(frame), len(frame)) + frame)
            self._made = (count, rate)
        return str(self._path)

    def run(self, *command: str) -> None:
        """Run a program at the sender's end."""
        argv = ["ip", "netns", "exec", self._end.host.namespace, *command]
        done = subprocess.run(argv, cwd=ROOT, capture_output=True, check=False)
        if done.returncode != 0:
            raise BenchmarkError(f"{command[0]}: {done.stderr.decode().strip()}")

    def close(self) -> None:
        self._directory.cleanup()


class Ours(File):
    def send(self, count: int, rate: int) -> None:
        file, interface = self.recording(count, rate), self._end.interface
        self.run(sys.executable, "-m", "mcast_fast", "replay", file, "--as-recorded", "-i", interface)


class Tcpreplay(File):
    def __init__(self, sending: End, library: Path) -> None:
        pace.Tcpreplay(sending, library).close()  # says when it is not installed
        super().__init__(sending, library)

    def send(self, count: int, rate: int) -> None:
        self.run("tcpreplay", "-q", "-K", "-i", self._end.interface, self.recording(count, rate))


CONTENDERS: dict[str, tuple[str, type[pace.Contender]]] = {
    "ours": ("mcast-fast replay", Ours),
    "c": ("C, absolute sleep and short spin", pace.C),
    "tcpreplay": ("tcpreplay, recorded times", Tcpreplay),
    "pps": ("tcpreplay --pps", pace.Tcpreplay),
}


def bars(rate: int) -> tuple[Bar, ...]:
    return (
        Bar(f"ours {rate}", f"c {rate}", Direction.AT_MOST, 1.3),
        Bar(f"ours {rate}", f"tcpreplay {rate}", Direction.AT_MOST, 1.0),
        Bar(f"ours {rate}", f"pps {rate}", Direction.AT_MOST, 1.0),
        Bar(f"ours {rate}: not received", None, Direction.AT_MOST, 0),
    )


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--seconds", type=float, default=SECONDS, help="of each stream (%(default)s)")
    options.add_argument("--rate", type=int, default=RATE, help="packets per second (%(default)s)")
    options.add_argument("--only", nargs="+", choices=CONTENDERS, default=tuple(CONTENDERS), metavar="NAME")


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "seconds", "rate")}
    options.rates = (options.rate,)
    report = Report("replay", settings, bars(options.rate))
    with machine.watched(report.notes), ExitStack() as stack:
        library = stack.enter_context(reference.compiled(reference_send.SOURCE))
        sending, receiving = stack.enter_context(link())
        with receiving.host.enter():
            receiver = stack.enter_context(pace.open_receiver(receiving))
        senders = pace.open_senders(stack, sending, library, options.only, report.notes, CONTENDERS)
        report.samples = pace.measure(senders, receiver, options)
    report.series = {name: [sample["p99"] for sample in taken] for name, taken in report.samples.items()}
    ours = report.samples.get(f"ours {options.rate}", [])
    if ours:
        missing = max(sample["expected"] - sample["received"] for sample in ours)
        report.counts[f"ours {options.rate}: not received"] = missing
    report.tables = [pace.table(report, options.rate, CONTENDERS)]
    return report
