"""CPU of `mcast-fast top` beyond receiving: 1,000 groups at 200,000 packets per second over a veth pair.

In turn, and in a new order every round, each contender receives all groups from a stream that never ends: a program
that receives in a thread of the library, as top does, and drops the batches; the same with a Monitor that counts them;
the first one with packets gathered before they are taken, as top gathers them; top on a pseudo terminal of 160 columns
and 50 rows; and that with --metrics, scraped every second. CPU is the user and system time of the whole process over
some seconds, behind its start.
"""

import argparse
import os
import re
import select
import signal
import struct
import subprocess
import sys
import time
import urllib.request
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.lab import End

from benchmarks import live, machine
from benchmarks.process import ROOT, BenchmarkError
from benchmarks.report import Bar, Direction, Report, Table, spread

ROUNDS = 5
GROUPS, RATE, SIZE, SECONDS = 1_000, 200_000, 256, 4.0
PORT, METRICS_PORT = 5000, 9464
WARM_UP = 2.0
ROWS, COLUMNS = 50, 160
PATIENCE = 30.0
BUFFER = "16MiB"
# Batches are large where packets are gathered, so that only what gathers too is compared with top.
ALONE = "gathered"
BEYOND = "top: % of a core beyond receiving, gathered as it does"
BARS = (Bar(BEYOND, None, Direction.AT_MOST, 5.0),)

SENDING = """
import struct, sys
import mcast_fast as mcast
group, rate, size = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
with mcast.Sender(group, rate=rate, burst=50) as tx:
    number = 0
    while True:  # RTP, RFC 3550: each group has numbers of its own
        header = struct.pack(">BBHII", 0x80, 33, number % 65536, number, 7)
        tx.send(header.ljust(size, b"x"))
        number += 1
"""
RECEIVING = """
import signal, sys, time
import mcast_fast as mcast
from mcast_fast import monitor
from mcast_fast.cli.top import AT_ONCE, GATHER
gathers = "gathered" in sys.argv
size = {"batch_size": AT_ONCE} if gathers else {}
rx = mcast.Receiver(sys.argv[1], background=True, buffer_size=sys.argv[2], **size)
signal.signal(signal.SIGINT, lambda *_: rx.close())
print("packets/s: it receives", flush=True)
watch = monitor.Monitor(rx) if "monitor" in sys.argv else None
for batch in rx:
    if watch is not None:
        watch.add(batch)
    if gathers and len(batch) < AT_ONCE:
        time.sleep(GATHER)
print(f"received {rx.stats.received:,}, dropped {rx.stats.dropped:,}")
"""


def ours(group: str, *more: str) -> list[str]:
    return [sys.executable, "-c", RECEIVING, group, BUFFER, *more]


def top(group: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "mcast_fast", "top", group, "--buffer-size", BUFFER, *more]


CONTENDERS = {
    "receiving": ("receiving alone", ours),
    "monitor": ("receiving, and Monitor.add", lambda group: ours(group, "monitor")),
    "gathered": ("receiving, gathered as top does", lambda group: ours(group, "gathered")),
    "top": ("mcast-fast top", top),
    "metrics": (
        "mcast-fast top --metrics, scraped each second",
        lambda group: top(group, "--metrics", f":{METRICS_PORT}"),
    ),
}


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--groups", type=int, default=GROUPS, help="(%(default)s)")
    options.add_argument("--rate", type=int, default=RATE, help="packets per second, all groups together (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument("--seconds", type=float, default=SECONDS, help="that are measured of each (%(default)s)")
    options.add_argument("--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="NAME")


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "groups", "rate", "size", "seconds")}
    report = Report("top", settings, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        sending, receiving = stack.enter_context(live.link())
        text = f"239.1.0.1%{{}}:{PORT}+{options.groups}"
        command = [sys.executable, "-c", SENDING, text.format(sending.interface), str(options.rate), str(options.size)]
        sender = subprocess.Popen([*live.inside(sending), *command], cwd=ROOT)
        stack.callback(end, sender)
        group = text.format(receiving.interface)
        report.samples = measure(group, receiving, options)
    report.series = {name: [sample["cpu"] for sample in taken] for name, taken in report.samples.items()}
    if {ALONE, "top"} <= report.series.keys():
        report.counts[BEYOND] = beyond(report, "top", ALONE)
    report.tables = [table(report)]
    return report


def measure(group: str, receiving: End, options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in options.only}
    order = list(options.only)
    for _ in range(options.rounds):
        for name in order:
            samples[name].append(one_round(name, group, receiving, options.seconds))
        order.append(order.pop(0))
    return samples


@dataclass
class Terminal:
    """Our end of a pseudo terminal, and what came of it last."""

    descriptor: int
    text: str = ""

    def wait_for(self, text: str) -> None:
        """Read until this has come: a busy machine starts a program in seconds."""
        until = time.monotonic() + PATIENCE
        while text not in self.text:
            if time.monotonic() > until:
                raise BenchmarkError(f"it does not start: {self.text}")
            self.read(0.1)

    def read(self, seconds: float) -> None:
        """Take what is drawn in so many seconds: a program whose terminal is full stops."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if select.select([self.descriptor], [], [], left)[0]:
                with suppress(OSError):  # the program has ended
                    self.text = (self.text + os.read(self.descriptor, 1 << 16).decode(errors="replace"))[-4_000_000:]


def one_round(name: str, group: str, receiving: End, seconds: float) -> dict[str, Any]:
    """CPU in % of a core, packets per second at the interface, and drops as the program says at its end."""
    import fcntl
    import pty
    import termios

    ours_end, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    command = [*live.inside(receiving), *CONTENDERS[name][1](group)]
    program = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT, env=os.environ | {"TERM": "xterm"},
        start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    terminal = Terminal(ours_end)
    try:
        terminal.wait_for("packets/s")
        terminal.read(WARM_UP)
        came = receiving.counters["rx"]["packets"]
        before, started = cpu_seconds(program.pid), time.monotonic()
        if name == "metrics":
            scrape(receiving, terminal, started + seconds)
        else:
            terminal.read(seconds)
        spent, passed = cpu_seconds(program.pid) - before, time.monotonic() - started
        came = receiving.counters["rx"]["packets"] - came
        program.send_signal(signal.SIGINT)
        until = time.monotonic() + PATIENCE
        while program.poll() is None and time.monotonic() < until:
            terminal.read(0.1)
    finally:
        end(program)
        terminal.read(0.1)
        os.close(ours_end)
    dropped = re.findall(r"dropped ([\d,]+)", terminal.text)
    if not dropped:
        raise BenchmarkError(f"{name}: {terminal.text[-2000:]}")
    return {"cpu": 100 * spent / passed, "rate": came / passed, "dropped": int(dropped[-1].replace(",", ""))}


def scrape(receiving: End, terminal: Terminal, until: float) -> None:
    """As Prometheus does, each second; from the receiver's namespace, whose 127.0.0.1 it is."""
    with receiving.host.enter():
        while time.monotonic() < until:
            with urllib.request.urlopen(f"http://127.0.0.1:{METRICS_PORT}/metrics", timeout=PATIENCE) as answer:
                answer.read()
            terminal.read(min(1.0, max(0.0, until - time.monotonic())))


def cpu_seconds(pid: int) -> float:
    """User and system time of all threads of a process: proc_pid_stat(5). `ip netns exec` becomes the program."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def end(program: "subprocess.Popen[bytes]") -> None:
    if program.poll() is None:
        program.kill()
    program.wait()


def beyond(report: Report, name: str, alone: str) -> float:
    """What a contender takes beyond another one, in the same round."""
    return median(mine - other for mine, other in zip(report.series[name], report.series[alone], strict=True))


def table(report: Report) -> Table:
    rows = []
    for name, taken in report.samples.items():
        of_each = [
            f"{beyond(report, name, alone):.1f}" if alone in report.series else "-" for alone in ("receiving", ALONE)
        ]
        dropped = ", ".join(f"{sample['dropped']:,}" for sample in taken)
        rate = f"{median(sample['rate'] for sample in taken):,.0f}"
        rows.append(
            (CONTENDERS[name][0], f"{report.measured[name]:.1f}", spread(report.series[name]), *of_each, rate, dropped)
        )
    return Table(
        "CPU in % of a core (medians)",
        ("", "of a core", "quartiles", "beyond receiving", "beyond it, gathered", "packets/s", "dropped"),
        rows,
    )
