"""Loss and CPU a recorded packet of programs that record a live stream into a tmpfs: single packets, at full speed.

Each recorder is a process of its own, started for each stream; the order turns every round. CPU is the user and system
time of the whole process, less what it had used when it said that it records, and less what ending takes without a
packet, in a recording of the same round. One start is never subtracted from another one: those of a Python program
differ by tens of milliseconds, which are tens of nanoseconds for each of a million packets.
Two plain C programs (reference_record.c) are the limits: of a ring, and of sockets.
"""

import argparse
import compileall
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.lab import End

import mcast_fast
from benchmarks import machine, network, reference
from benchmarks.live import add_link, add_unprivileged, inside, link
from benchmarks.process import ROOT, BenchmarkError, Process
from benchmarks.report import Bar, Direction, Report, Table, ratio, spread

ROUNDS = 5
COUNT = 1_000_000
SIZE = 256
SEGMENTS = 64
PORT = 5000
SETTINGS = ("rounds", "count", "size", "link", "unprivileged")
BUFFER_MIB = 32
TMPFS = Path("/dev/shm")
QUIET_SECONDS = 0.5
PATIENCE_SECONDS = 60.0
SOURCE = Path(__file__).with_name("reference_record.c")
FILTER = f"udp and dst host {network.GROUP} and dst port {PORT}"


def ours(interface: str, file: Path, _: Path | None, *options: str) -> list[str]:
    group = f"{network.GROUP}%{interface}:{PORT}"
    program = [sys.executable, "-m", "mcast_fast", "record", group, "--buffer", f"{BUFFER_MIB}MiB"]
    return [*program, *options, "-w", str(file)]


def ring(interface: str, file: Path, program: Path) -> list[str]:
    return ours(interface, file, program, "--ring")


def c_ring(interface: str, file: Path, program: Path) -> list[str]:
    return [str(program), "ring", interface, network.GROUP, str(PORT), str(BUFFER_MIB), str(file)]


def c_sockets(interface: str, file: Path, program: Path) -> list[str]:
    return [str(program), "sockets", interface, network.GROUP, str(PORT), str(BUFFER_MIB), str(file)]


def tcpdump(interface: str, file: Path, _: Path) -> list[str]:
    return ["tcpdump", "-n", "-Z", "root", "-i", interface, "-B", str(BUFFER_MIB * 1024), "-w", str(file), FILTER]


def dumpcap(interface: str, file: Path, _: Path) -> list[str]:
    return ["dumpcap", "-q", "-i", interface, "-B", str(BUFFER_MIB), "-f", FILTER, "-w", str(file)]


# Name -> what it is, how it is started, and the line that says that it records.
RECORDERS: dict[str, tuple[str, Callable[[str, Path, Path], list[str]], str]] = {
    "plain": ("mcast-fast record", ours, "recording "),
    "ring": ("mcast-fast record --ring", ring, "recording "),
    "tcpdump": ("tcpdump -w", tcpdump, "listening on "),
    "dumpcap": ("dumpcap -w", dumpcap, "File: "),
    "c ring": ("plain C: ring and writev", c_ring, "recording"),
    "c sockets": ("plain C: recvmmsg", c_sockets, "recording"),
}


def bars(names: list[str], *, coalesces: bool = False) -> tuple[Bar, ...]:
    lossless = tuple(
        Bar(f"{name}: packets not recorded", None, Direction.AT_MOST, 0) for name in names if name in ("plain", "ring")
    )
    of_plain = (
        Bar("plain", "dumpcap", Direction.AT_MOST, 0.6)
        if coalesces
        else Bar("plain", "c sockets", Direction.AT_MOST, 1.2)
    )
    of_ring = (Bar("ring", "tcpdump", Direction.AT_MOST, 0.8), Bar("ring", "dumpcap", Direction.AT_MOST, 0.25))
    return (*lossless, of_plain) + (of_ring if "ring" in names else ())


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets a stream (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    add_link(options)
    add_unprivileged(options)
    options.add_argument("--only", nargs="+", choices=RECORDERS, default=tuple(RECORDERS), metavar="NAME")


@dataclass(frozen=True)
class Sending:
    """Who sends, and from where."""

    process: Process
    end: End

    def dropped(self) -> int:
        """Packets that the link itself dropped, for its queue was full when no processor had time. They never reached
        the host that records, and nobody there can count them."""
        file = f"/sys/class/net/{self.end.interface}/statistics/tx_dropped"
        return int(subprocess.check_output([*inside(self.end), "cat", file]))


@dataclass(frozen=True)
class Paths:
    """Where recordings go, and the compiled reference."""

    directory: Path
    program: Path


def run(options: argparse.Namespace) -> Report:
    notes: list[str] = []
    compileall.compile_dir(Path(mcast_fast.__file__).parent, quiet=1)  # as pip does at installation
    names = [name for name in options.only if is_there(name, notes)]
    settings = {name: getattr(options, name) for name in SETTINGS} | {"buffer": f"{BUFFER_MIB} MiB"}
    coalesces = options.link == "coalescing"
    report = Report("record", settings, bars(names, coalesces=coalesces), notes=notes)
    with machine.watched(report.notes), ExitStack() as stack:
        library = str(stack.enter_context(reference.compiled()))
        sending, receiving = stack.enter_context(link(coalesces=coalesces))
        order = {"interface": sending.interface, "address": sending.ipv4, "library": library, "core": None}
        sender = Sending(stack.enter_context(Process("send", order, prefix=inside(sending))), sending)
        program = stack.enter_context(reference.compiled_program(SOURCE))
        place = TMPFS if TMPFS.is_dir() else None
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mcast-benchmarks-", dir=place)))
        report.samples = measure(names, sender, receiving, Paths(directory, program), options)
    report.series = {
        name: [sample["cpu"] - sample["start"] for sample in taken] for name, taken in report.samples.items()
    }
    for name, taken in report.samples.items():
        report.counts[f"{name}: packets not recorded"] = max(sample["lost"] for sample in taken)
    report.tables = [table(report)]
    return report


def is_there(name: str, notes: list[str]) -> bool:
    """Whether a recorder can be run; else a note says why not."""
    reason = ""
    if name == "ring":
        feature = mcast_fast.features().get("ring")
        reason = "this version has no ring" if feature is None else feature.reason
    elif name in ("tcpdump", "dumpcap") and shutil.which(name) is None:
        reason = "not installed"
    if reason:
        notes.append(f"left out: {RECORDERS[name][0]}: {reason}")
    return not reason


def measure(
    names: list[str], sender: Sending, receiving: End, paths: Paths, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    order = list(names)
    for name in order:  # memory that is touched for the first time
        stream(name, sender, receiving, paths, options, options.count // 4)
    for _ in range(options.rounds):
        for name in order:
            idle = stream(name, sender, receiving, paths, options, 0)
            sample = stream(name, sender, receiving, paths, options, options.count)
            end = (idle["cpu"] - idle["start"]) / sample["recorded"]
            samples[name].append(sample | {"start": sample["start"] + end})
        order.append(order.pop(0))
    return samples


def stream(
    name: str, sender: Sending, receiving: End, paths: Paths, options: argparse.Namespace, count: int
) -> dict[str, Any]:
    """One recording: CPU ns per packet in the file (in all, without packets), how many of them were used at its start,
    and how many packets are missing: what a program drops must not make it look cheap."""
    file = paths.directory / "recorded.pcapng"
    _, command, line = RECORDERS[name]
    log = paths.directory / "log"
    with log.open("w") as output:
        unprivileged = options.unprivileged and name == "plain"  # captures need CAP_NET_RAW
        argv = [
            *inside(receiving, unprivileged=unprivileged),
            *command(receiving.interface, file, paths.program),
        ]
        program = subprocess.Popen(argv, cwd=ROOT, stdout=output, stderr=output)
    try:
        wait_for(lambda: re.search(line, log.read_text()) is not None, f"{name} does not record: {log.read_text()}")
        started = cpu_of(program.pid)
        rate, in_link = 0.0, 0
        if count:
            in_link = sender.dropped()
            sent = sender.process.ask("send", port=PORT, count=count, size=options.size, segments=SEGMENTS)
            rate = count / sent["nanoseconds"] * 1e9
            wait_until_quiet(file)
            in_link = sender.dropped() - in_link
        program.send_signal(signal.SIGINT)
        _, status, usage = os.wait4(program.pid, 0)
        program.returncode = os.waitstatus_to_exitcode(status)
    finally:
        if program.returncode is None:
            program.kill()
            program.wait()
    if program.returncode:
        raise BenchmarkError(f"{name}: exit {program.returncode}: {log.read_text()}")
    told = re.findall(r"(dropped_\w+)\s+([\d,]+)", log.read_text()) if count else []
    dropped = {where: int(number.replace(",", "")) for where, number in told if number.strip("0,")}
    nanoseconds = (usage.ru_utime + usage.ru_stime) * 1e9
    written = recorded(file) if count else 1
    file.unlink(missing_ok=True)
    return {
        "cpu": nanoseconds / written,
        "start": started / written,
        "recorded": written,
        "lost": max(count, 1) - in_link - written,
        "in_link": in_link,
        "rate": rate,
        "dropped": dropped,
    }


def cpu_of(pid: int) -> int:
    """The ns for which the threads of a process have run (Documentation/scheduler/sched-stats.rst)."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)


def wait_for(condition: Callable[[], bool], failure: str) -> None:
    end = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > end:
            raise BenchmarkError(failure)
        time.sleep(0.01)


def wait_until_quiet(file: Path) -> None:
    """Until the file has not grown for QUIET_SECONDS."""
    size, since = -1, time.monotonic()
    while time.monotonic() - since < QUIET_SECONDS:
        now = file.stat().st_size
        if now != size:
            size, since = now, time.monotonic()
        time.sleep(0.02)


def recorded(file: Path) -> int:
    with mcast_fast.open(file, batch_size=4096) as reader:
        for _ in reader:
            pass
        return reader.stats.received


def table(report: Report) -> Table:
    to = report.measured
    rows = []
    for name, taken in report.samples.items():
        start, rate = (median(sample[what] for sample in taken) for what in ("start", "rate"))
        lost = ", ".join(
            " ".join((f"{sample['lost']:,}", *(f"({where} {number:,})" for where, number in sample["dropped"].items())))
            for sample in taken
        )
        rows.append(
            (
                RECORDERS[name][0],
                f"{to[name]:,.0f}",
                spread(report.series[name]),
                f"{start:,.0f}",
                ratio(to[name], to.get("tcpdump")),
                ratio(to[name], to.get("dumpcap")),
                ratio(to[name], to.get("c sockets" if name in ("plain", "c sockets") else "c ring")),
                f"{rate:,.0f}",
                lost,
                ", ".join(f"{sample['in_link']:,}" for sample in taken),
            )
        )
    of = ("start", "of tcpdump", "of dumpcap", "of plain C")
    lost = ("sent per second", "lost", "in the link")
    headings = ("", "CPU ns per recorded packet beyond start", "quartiles", *of, *lost)
    return Table("recording a live stream (medians)", headings, rows)
