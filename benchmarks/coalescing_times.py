"""How wrong shared times are: times of arrival against the times of sending in the payloads, behind a bridge.

Each packet has its number and the time at which it was handed to the kernel, by the clock that stamps arrivals. One
stream reaches two hosts behind a bridge: one whose interface coalesces, and one whose has GRO off. What a time there is
behind the time of sending is the way through the kernel; what the shared time of the same packet is behind that one is
the error by coalescing.
"""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.lab import End, Lab, LabError

import mcast_fast
from benchmarks import machine
from benchmarks.process import BenchmarkError
from benchmarks.report import Report, Table

ROUNDS = 1
COUNT = 100_000
SIZE = 256
GROUP, PORT = "239.1.1.1", 5000
# Packets per second, and how many of them one system call sends. Where that is one, a thread of the kernel polls the
# interface, for else each of them is polled alone (docs/coalescing.md).
RATES = ((10_000, 1), (100_000, 1), (1_000_000, 64))
MOST_SECONDS = 2  # of a stream
# ns of gro_flush_timeout, and napi_defer_hard_irqs: as the kernel has them, and with pieces that wait for more packets.
FLUSHES = ((0, 0), (100_000, 2))
QUIET_SECONDS = 1.0
PERCENTILES = (50, 90, 99, 100)

SENDER = """
import socket, struct, sys, time
rate, count, train, index, size, port = map(int, sys.argv[2:])
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4x4xi", index))
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 4)
if train > 1:
    sock.setsockopt(socket.IPPROTO_UDP, 103, size)  # UDP_SEGMENT, udp(7)
packets, start = bytearray(size * train), time.monotonic_ns()
for first in range(0, count, train):
    due = start + first * 1_000_000_000 // rate
    while time.monotonic_ns() < due:
        pass
    now = time.time_ns()
    for at in range(min(train, count - first)):
        struct.pack_into("=qq", packets, at * size, now, first + at)
    sock.sendto(memoryview(packets)[: size * (at + 1)], (sys.argv[1], port))
"""


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets a stream, at the most (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload, a multiple of 8 (%(default)s)")


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "count", "size")}
    report = Report("coalescing-times", settings, ())
    rows = []
    with machine.watched(report.notes), hosts() as (sending, coalescing, plain):
        for flush in FLUSHES:
            set_flush(coalescing, *flush)
            for rate, train in RATES * options.rounds:
                set_value(coalescing, "threaded", int(train == 1))
                count = min(options.count, rate * MOST_SECONDS)
                times = stream(sending, (coalescing, plain), count, rate, train, options.size)
                rows += compared(report, flush[0], rate, times)
    headings = ("flush, us", "packets/s", "", "packets", "coalesced", "p50, us", "p90", "p99", "max")
    report.tables = [Table("times of arrival", headings, rows)]
    return report


@contextmanager
def hosts() -> Iterator[tuple[End, End, End]]:
    """The sender's end, the one that coalesces, and the one that does not; between them a bridge."""
    try:
        with Lab(("a", "s", "b", "c")) as lab:
            sending, enters = lab.link("a", "s")
            by_coalescing, coalescing = lab.coalescing_link("s", "b")
            by_plain, plain = lab.link("s", "c")
            sending.single_packets()
            enters.host.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
            for end in (enters, by_coalescing, by_plain):
                end.host.run("ip", "link", "set", end.interface, "master", "br0")
            enters.host.run("ip", "link", "set", "br0", "up")
            plain.host.run("ethtool", "-K", plain.interface, "gro", "off")
            yield sending, coalescing, plain
    except (LabError, FileNotFoundError) as error:
        raise BenchmarkError(f"{error}; network namespaces need root, iproute2 and ethtool") from error


def set_value(end: End, name: str, value: int) -> None:
    end.host.run("sh", "-c", f"echo {value} > /sys/class/net/{end.interface}/{name}")


def set_flush(end: End, timeout_ns: int, deferred: int) -> None:
    set_value(end, "gro_flush_timeout", timeout_ns)
    set_value(end, "napi_defer_hard_irqs", deferred)


def stream(sending: End, ends: tuple[End, End], count: int, rate: int, train: int, size: int) -> list[Any]:
    """One stream; for each receiver its records and the times and numbers in their payloads, as two arrays."""
    import numpy as np

    receivers = []
    for end, coalesces in zip(ends, (True, False), strict=True):
        with end.host.enter():
            group = f"{GROUP}%{end.interface}:{PORT}"
            receivers.append(mcast_fast.Receiver(group, gro=coalesces, buffer_size="64MiB", background="256MiB"))
    arguments = (GROUP, rate, count, train, sending.index, size, PORT)
    sending.host.spawn([sys.executable, "-c", SENDER, *map(str, arguments)]).finish(120)
    found = []
    for receiver in receivers:
        with receiver:
            batch = receiver.collect(count, timeout=QUIET_SECONDS)
            payloads = np.frombuffer(batch.rows(size), dtype="=i8").reshape(len(batch), -1)
            found.append((np.asarray(batch).copy(), payloads[:, :2].copy()))
    return found


def compared(report: Report, flush_ns: int, rate: int, times: list[Any]) -> list[tuple[str, ...]]:
    import numpy as np

    (shared, sent), (single, sent_single) = times
    _, here, there = np.intersect1d(sent[:, 1], sent_single[:, 1], return_indices=True)
    cases = {
        "GRO off: arrival less sending": (single, single["timestamp"] - sent_single[:, 0]),
        "coalesced: arrival less sending": (shared, shared["timestamp"] - sent[:, 0]),
        "coalesced less GRO off": (shared[here], shared["timestamp"][here] - single["timestamp"][there]),
    }
    rows = []
    for title, (records, late) in cases.items():
        share = float(np.mean((records["flags"] & mcast_fast.Flag.COALESCED) > 0))
        figures = [float(np.percentile(late, one)) / 1000 for one in PERCENTILES]
        name = f"{flush_ns}, {rate}, {title}"
        report.samples.setdefault(name, []).append({"late": figures, "coalesced": share, "packets": len(records)})
        cells = (f"{flush_ns // 1000}", f"{rate:,}", title, f"{len(records):,}", f"{share:.0%}")
        rows.append((*cells, *(f"{figure:,.0f}" for figure in figures)))
    return rows
