"""Time a datagram of senders at full speed into a veth pair that nobody listens at.

All senders are sockets of one process and take turns; the order turns every round. Wall time: with nobody listening the
whole way of a datagram, the other end's drop included, runs on the sender's core.
"""

import argparse
import asyncio
import contextlib
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import mcast_fast
from benchmarks import machine, network, reference, reference_send
from benchmarks.live import link
from benchmarks.report import Bar, Direction, Report, Table, ratio, spread

ROUNDS = 15
COUNT = 50_000
SIZE = 256
PORT = 5000
WHERE = (network.GROUP, PORT)

BARS = (
    Bar("list mixed", "c sendmmsg", Direction.AT_MOST, 1.10),
    Bar("list", "c sendmmsg", Direction.AT_MOST, 1.10),
    Bar("rows", "c segments", Direction.AT_MOST, 1.15),
    Bar("send", "rows", Direction.AT_LEAST, 25),
)


class Contender(Protocol):
    """Sends `count` datagrams of `size` bytes; the payloads are made before the clock starts."""

    def __init__(self, interface: str, library: Path) -> None: ...
    def prepare(self, count: int, size: int) -> Callable[[], object]: ...
    def close(self) -> None: ...


class Plain:
    """A loop over one method of a Python socket."""

    method = "sendto"
    connected = False

    def __init__(self, interface: str, library: Path) -> None:
        self._socket = network.open_sending_socket(interface)
        if self.connected:
            self._socket.connect(WHERE)

    def prepare(self, count: int, size: int) -> Callable[[], object]:
        send, payload = getattr(self._socket, self.method), bytes(size)
        arguments = {"send": (payload,), "sendto": (payload, WHERE), "sendmsg": ([payload], (), 0, WHERE)}[self.method]

        def run() -> None:
            for _ in range(count):
                send(*arguments)

        return run

    def close(self) -> None:
        self._socket.close()


class Send(Plain):
    method = "send"
    connected = True


class Sendmsg(Plain):
    method = "sendmsg"


class Asyncio:
    """A datagram endpoint of asyncio, which yields to the loop every 256 datagrams."""

    def __init__(self, interface: str, library: Path) -> None:
        self._loop = asyncio.new_event_loop()
        sock = network.open_sending_socket(interface)
        sock.setblocking(False)
        opening = self._loop.create_datagram_endpoint(asyncio.DatagramProtocol, sock=sock)
        self._transport, _ = self._loop.run_until_complete(opening)

    def prepare(self, count: int, size: int) -> Callable[[], object]:
        payload = bytes(size)

        async def send() -> None:
            for number in range(count):
                self._transport.sendto(payload, WHERE)
                if number % 256 == 255:
                    await asyncio.sleep(0)

        return lambda: self._loop.run_until_complete(send())

    def close(self) -> None:
        self._transport.close()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()


class Ours:
    def __init__(self, interface: str, library: Path) -> None:
        self._sender = mcast_fast.Sender(f"{network.GROUP}%{interface}:{PORT}")

    def close(self) -> None:
        self._sender.close()


class Rows(Ours):
    def prepare(self, count: int, size: int) -> Callable[[], object]:
        buffer = bytes(count * size)
        return lambda: self._sender.send_batch(buffer, size=size)


class List(Ours):
    def prepare(self, count: int, size: int) -> Callable[[], object]:
        payloads = [bytes(size) for _ in range(count)]
        return lambda: self._sender.send_batch(payloads)


class MixedList(Ours):
    """Sizes that rise, 256 of them around the mean, so that next to nothing can leave as segments of one packet."""

    def prepare(self, count: int, size: int) -> Callable[[], object]:
        payloads = [bytes(size - 128 + number % 256) for number in range(count)]
        return lambda: self._sender.send_batch(payloads)


class Sendmmsg:
    def __init__(self, interface: str, library: Path) -> None:
        self._loops = reference_send.Loops(library, network.open_sending_socket(interface), *WHERE)

    def prepare(self, count: int, size: int) -> Callable[[], object]:
        return lambda: self._loops.sendmmsg(count, size)

    def close(self) -> None:
        self._loops.close()


class Scattered(Sendmmsg):
    """The payloads of MixedList, each in memory of its own: what C pays for them too."""

    def prepare(self, count: int, size: int) -> Callable[[], object]:
        payloads = [bytes(size - 128 + number % 256) for number in range(count)]
        pieces = (reference_send.Piece * count)(*((payload, len(payload)) for payload in payloads))
        return lambda: self._loops.scattered(pieces) and payloads


class Segments(Sendmmsg):
    def prepare(self, count: int, size: int) -> Callable[[], object]:
        return lambda: self._loops.segments(count, size)


CONTENDERS: dict[str, tuple[str, type[Contender]]] = {
    "send": ("socket.send, connected", Send),
    "sendto": ("socket.sendto", Plain),
    "sendmsg": ("socket.sendmsg", Sendmsg),
    "asyncio": ("asyncio datagram endpoint", Asyncio),
    "list mixed": ("ours, list of mixed sizes", MixedList),
    "list": ("ours, list of one size", List),
    "rows": ("ours, rows of one buffer", Rows),
    "c sendmmsg": ("C sendmmsg", Sendmmsg),
    "c scattered": ("C sendmmsg of the mixed sizes", Scattered),
    "c segments": ("C sendto with UDP GSO", Segments),
}


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="datagrams a round (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload, at least 128 (%(default)s)")


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "count", "size")}
    report = Report("send", settings, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        library = stack.enter_context(reference.compiled(reference_send.SOURCE))
        sending, _ = stack.enter_context(link(whole=True))
        with sending.host.enter():
            senders = {name: kind(sending.interface, library) for name, (_, kind) in CONTENDERS.items()}
        for sender in senders.values():
            stack.enter_context(contextlib.closing(sender))
        report.samples = measure(senders, options)
    report.series = {name: [sample["wall"] for sample in taken] for name, taken in report.samples.items()}
    report.tables = [table(report)]
    return report


def measure(senders: dict[str, Contender], options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    samples: dict[str, list[dict[str, float]]] = {name: [] for name in senders}
    order = list(senders)
    work = {name: sender.prepare(options.count, options.size) for name, sender in senders.items()}
    for name in order:
        work[name]()  # once for the caches, thrown away
    for _ in range(options.rounds):
        for name in order:
            start = time.perf_counter_ns()
            work[name]()
            samples[name].append({"wall": (time.perf_counter_ns() - start) / options.count})
        order.append(order.pop(0))
    return samples


def table(report: Report) -> Table:
    to = report.measured
    rows = [
        (
            title,
            f"{to[name]:,.0f}",
            spread(report.series[name]),
            ratio(to[name], to["c sendmmsg"]),
            ratio(to[name], to["c segments"]),
            f"{to['send'] / to[name]:.2f} x",
        )
        for name, (title, _) in CONTENDERS.items()
    ]
    headings = ("", "ns a datagram", "quartiles", "of C sendmmsg", "of C GSO", "against socket.send")
    return Table("sending at full speed (medians)", headings, rows)
