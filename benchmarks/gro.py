"""ns per packet to drain a pre-filled socket buffer: packets coalesced by UDP GSO and GRO, and packets that are not.

As `receive`, but that nobody asks for times: 64 packets leave in one system call and, where the receiver lets the
kernel, come in one. What the kernel is not let to coalesce it cuts apart before it is queued.
"""

import argparse
import ctypes
import random
from contextlib import ExitStack
from typing import Any, ClassVar

from benchmarks import contenders, machine, network, reference, station
from benchmarks.contenders import FAST, Columns, Packets, Payloads, Received, Recvfrom, Row, Setting
from benchmarks.network import Place
from benchmarks.process import Process
from benchmarks.receive import BUFFER_BYTES, QUIET_MS, SIZE
from benchmarks.report import NOTHING, Bar, Direction, Report, Table, ratio, spread

MODULE = "benchmarks.gro"
ROUNDS = 31
# A few ms of draining: 20,000 coalesced ones take 1.6 ms, and caches that others left cold cost some 10 ns each.
COUNT = 60_000
SEGMENTS = 64
COALESCED, SINGLE = "coalesced", "single packets"


class PlainColumns(Columns):
    options: ClassVar = {"timestamps": None, "gro": False}


class GroColumns(Columns):
    batch_size = None
    options: ClassVar = {"timestamps": None, "gro": True}


class GroPayloads(Payloads):
    batch_size = None
    options: ClassVar = {"timestamps": None, "gro": True}


class GroPackets(Packets):
    batch_size = None
    options: ClassVar = {"timestamps": None, "gro": True}


class CGro:
    """recvmmsg with UDP_GRO in C: splits into records, and keeps no payloads."""

    def __init__(self, setting: Setting) -> None:
        self._socket = network.receiving_socket(setting.place, setting.control_messages)
        self._socket.setsockopt(network.IPPROTO_UDP, network.UDP_GRO, 1)
        self._receive = ctypes.CDLL(setting.library).reference_gro_receive
        self._receive.argtypes = [ctypes.c_int, ctypes.c_int64, *[ctypes.POINTER(ctypes.c_int64)] * 2]
        self._receive.restype = ctypes.c_int64

    def receive(self, limit: int) -> Received:
        total, batches = ctypes.c_int64(), ctypes.c_int64()
        packets = self._receive(self._socket.fileno(), limit, ctypes.byref(total), ctypes.byref(batches))
        return Received(reference.checked(packets, "recvmmsg"), batches.value, total.value)

    def close(self) -> None:
        self._socket.close()


ROWS = {
    "recvfrom": Row("socket.recvfrom", Recvfrom),
    "plain columns": Row("ours, columns, gro=False", PlainColumns, FAST),
    "columns": Row("ours, columns", GroColumns, FAST),
    "payloads": Row("ours, payloads()", GroPayloads, FAST),
    "packets": Row("ours, packets reading .data", GroPackets, FAST),
    "c": Row("C recvmmsg, UDP_GRO", CGro),
}

BARS = (
    Bar(f"columns, {COALESCED}", f"c, {COALESCED}", Direction.AT_MOST, 1.5),
    Bar(f"columns, {COALESCED}", None, Direction.AT_MOST, 80),
    Bar(f"recvfrom, {COALESCED}", f"columns, {COALESCED}", Direction.AT_LEAST, 12),
    Bar(f"columns, {SINGLE}", f"plain columns, {SINGLE}", Direction.AT_MOST, 1.03),
)


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets in the buffer (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")


def run(options: argparse.Namespace) -> Report:
    settings = {"rounds": options.rounds, "count": options.count, "size": options.size}
    report = Report("gro", settings, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        sender = str(stack.enter_context(reference.compiled()))
        library = str(stack.enter_context(reference.compiled(reference.SOURCE.with_name("reference_gro.c"))))
        receivers = {}
        for name, row in ROWS.items():
            place = vars(Place("lo", BUFFER_BYTES, QUIET_MS, network.free_port()))
            order = {"contender": name, "place": place, "library": library, "sender": sender, "control_messages": ()}
            process = Process("receive", order, environment=row.environment, module=MODULE)
            receivers[name] = stack.enter_context(process)
        report.samples = measure(receivers, options)
    report.series = {name: [sample["wall"] for sample in taken] for name, taken in report.samples.items()}
    report.tables = [table(report, what) for what in (COALESCED, SINGLE)]
    return report


def measure(receivers: dict[str, Process], options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {}
    shuffled = random.Random(1)
    order = [(name, what) for name in receivers for what in (COALESCED, SINGLE)]
    for number in range(options.rounds + 1):
        shuffled.shuffle(order)
        for name, what in order:
            segments = SEGMENTS if what == COALESCED else 1
            sample = receivers[name].ask("prefilled", count=options.count, size=options.size, segments=segments)
            if number > 0:
                samples.setdefault(f"{name}, {what}", []).append(sample)
    return samples


def table(report: Report, what: str) -> Table:
    rows = []
    to = report.measured
    for name, row in ROWS.items():
        key = f"{name}, {what}"
        faster = f"{to[f'recvfrom, {what}'] / to[key]:.2f} x" if f"recvfrom, {what}" in to else NOTHING
        of_c = ratio(to[key], to.get(f"c, {what}"))
        rows.append((row.title, f"{to[key]:,.1f}", spread(report.series[key]), of_c, faster))
    return Table(
        f"drain of a full buffer, {what}", ("", "ns per packet", "quartiles", "of C", "against recvfrom"), rows
    )


if __name__ == "__main__":
    contenders.CONTENDERS.update(ROWS)
    station.main()
