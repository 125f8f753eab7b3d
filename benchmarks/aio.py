"""CPU a packet at a steady 100,000 packets a second over a veth pair: asyncio against the blocking receiver.

Each receiver is a process of its own; one at a time gets the stream, in bursts as NICs and schedulers make them, and
the order turns every round. `python -m benchmarks.aio ROLE ORDER` is what runs in such a process.
"""

import argparse
import asyncio
import time
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks import machine, network, reference, station
from benchmarks.contenders import BATCH_SIZE, CONTENDERS, FAST, Batches, Received, Row, Setting
from benchmarks.live import inside, link
from benchmarks.network import Place
from benchmarks.process import BenchmarkError, Process
from benchmarks.report import Bar, Direction, Report, Table, ratio

MODULE = "benchmarks.aio"  # which knows the rows and the sender of this file
ROUNDS = 5
COUNT = 200_000
RATE = 100_000
SIZE = 256
BURSTS = (1, 8, 64)
BUFFER_BYTES = 4 << 20
QUIET_MS = 500
BAR = 1.3
SPIN_SECONDS = 0.0002


class Asyncio:
    """`async for batch in aio.Receiver`, all rounds in one loop."""

    def __init__(self, setting: Setting) -> None:
        from mcast_fast import aio

        place = setting.place
        self._loop = self.new_loop()
        self._receiver = aio.Receiver(
            f"{place.group}%{place.interface}:{place.port}",
            batch_size=BATCH_SIZE,
            buffer_size=place.buffer_bytes,
            timeout=place.quiet_ms / 1000,
        )

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def receive(self, limit: int) -> Received:
        return self._loop.run_until_complete(self._receive(limit))

    async def _receive(self, limit: int) -> Received:
        before = self._receiver.stats
        packets = batches = 0
        try:
            async for batch in self._receiver:
                packets += len(batch)
                batches += 1
                if packets >= limit:
                    break
        except TimeoutError:
            pass
        return Received(packets, batches, self._receiver.stats.bytes - before.bytes)

    def close(self) -> None:
        self._receiver.close()
        self._loop.close()


class Protocol:
    """asyncio.DatagramProtocol: a call a packet, with payload and source."""

    def __init__(self, setting: Setting) -> None:
        self._place = setting.place
        self._loop = self.new_loop()
        sock = network.receiving_socket(setting.place)
        sock.setblocking(False)
        self._count = 0
        opening = self._loop.create_datagram_endpoint(self._new_protocol, sock=sock)
        self._transport, _ = self._loop.run_until_complete(opening)

    def new_loop(self) -> asyncio.AbstractEventLoop:
        return asyncio.new_event_loop()

    def _new_protocol(self) -> asyncio.DatagramProtocol:
        outer = self

        class Counting(asyncio.DatagramProtocol):
            def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
                outer._count += 1

        return Counting()

    def receive(self, limit: int) -> Received:
        self._count = 0
        self._loop.run_until_complete(self._until_quiet(limit))
        return Received(self._count, self._count)

    async def _until_quiet(self, limit: int) -> None:
        before = -1
        while self._count < limit and before != self._count:
            before = self._count
            await asyncio.sleep(self._place.quiet_ms / 1000)

    def close(self) -> None:
        self._transport.close()
        self._loop.close()


class Bare(Asyncio):
    """The least that a loop costs: a reader's callback that takes what is there, and no task."""

    async def _receive(self, limit: int) -> Received:
        receiver, loop = self._receiver._receiver, self._loop
        before, packets, batches = receiver.stats, 0, 0

        def take() -> None:
            nonlocal packets, batches
            packets += len(receiver.recv_batch())
            batches += 1

        loop.add_reader(receiver.fileno(), take)
        last = -1
        while packets < limit and last != packets:
            last = packets
            await asyncio.sleep(self._receiver.timeout)
        loop.remove_reader(receiver.fileno())
        return Received(packets, batches, receiver.stats.bytes - before.bytes)


class OnUvloop:
    def new_loop(self) -> asyncio.AbstractEventLoop:
        import uvloop

        return uvloop.new_event_loop()


class AsyncioOnUvloop(OnUvloop, Asyncio):
    pass


class ProtocolOnUvloop(OnUvloop, Protocol):
    pass


ROWS = {
    "blocking": Row("for batch in rx", Batches, FAST),
    "asyncio": Row("async for batch in aio rx", Asyncio, FAST),
    "bare": Row("add_reader, recv_batch in its callback", Bare, FAST),
    "uvloop": Row("async for batch in aio rx, uvloop", AsyncioOnUvloop, FAST),
    "protocol": Row("asyncio.DatagramProtocol", Protocol),
    "protocol uvloop": Row("DatagramProtocol, uvloop", ProtocolOnUvloop),
}


class SteadyStation:
    """Sends at a steady rate: bursts on absolute deadlines, by sleeping and then spinning."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._functions = reference.load(order["library"])

    def ready(self) -> dict[str, Any]:
        return {}

    def send(self, port: int, count: int, size: int, burst: int, rate: float) -> None:
        with network.sending_socket(port, self._order["interface"], self._order["address"]) as sock:
            start = time.perf_counter()
            for sent in range(0, count, burst):
                wait_until(start + sent / rate)
                now = min(burst, count - sent)
                reference.checked(self._functions.reference_send(sock.fileno(), now, size, now), "send")
            taken = time.perf_counter() - start
        station.say(rate=count / taken)


def wait_until(moment: float) -> None:
    left = moment - time.perf_counter()
    if left > 2 * SPIN_SECONDS:
        time.sleep(left - SPIN_SECONDS)
    while time.perf_counter() < moment:
        pass


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets a stream (%(default)s)")
    options.add_argument("--rate", type=int, default=RATE, help="packets a second (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument("--bursts", type=int, nargs="+", default=BURSTS, metavar="N", help="packets at once")
    options.add_argument("--only", nargs="+", choices=ROWS, default=list(ROWS), metavar="NAME", help=", ".join(ROWS))


def key(name: str, burst: int) -> str:
    return f"{name}, bursts of {burst}"


def run(options: argparse.Namespace) -> Report:
    bars = tuple(Bar(key("asyncio", n), key("blocking", n), Direction.AT_MOST, BAR) for n in options.bursts)
    settings = {name: getattr(options, name) for name in ("rounds", "count", "rate", "size")}
    report = Report("aio", settings, bars)
    with machine.watched(report.notes), ExitStack() as stack:
        library = str(stack.enter_context(reference.compiled()))
        sending, receiving = stack.enter_context(link())
        receivers: dict[str, Process] = {}
        for name in options.only:
            place = Place(receiving.interface, BUFFER_BYTES, QUIET_MS, network.free_port())
            order = {"contender": name, "place": asdict(place), "library": library, "control_messages": ()}
            try:
                process = Process(
                    "receive", order, prefix=inside(receiving), environment=ROWS[name].environment, module=MODULE
                )
            except BenchmarkError as error:
                report.notes.append(f"left out: {error}")
                continue
            receivers[name] = stack.enter_context(process)
        order = {"interface": sending.interface, "address": sending.ipv4, "library": library}
        sender = stack.enter_context(Process("send", order, prefix=inside(sending), module=MODULE))
        report.samples = measure(receivers, sender, options)
    report.series = {name: [sample["cpu"] for sample in taken] for name, taken in report.samples.items()}
    report.tables = [table(report, burst) for burst in options.bursts]
    return report


def measure(
    receivers: dict[str, Process], sender: Process, options: argparse.Namespace
) -> dict[str, list[dict[str, Any]]]:
    samples: dict[str, list[dict[str, Any]]] = {}
    order = list(receivers)
    for number in range(options.rounds + 1):
        for burst in options.bursts:
            for name in order:
                sample = stream(receivers[name], sender, options, burst)
                if number > 0:
                    samples.setdefault(key(name, burst), []).append(sample)
        order.append(order.pop(0))
    return samples


def stream(receiver: Process, sender: Process, options: argparse.Namespace, burst: int) -> dict[str, Any]:
    """One stream into one receiver: what it cost; one that lost packets is no measurement."""
    receiver.ask("follow")
    sent = sender.ask(
        "send", port=receiver.ready["port"], count=options.count, size=options.size, burst=burst, rate=options.rate
    )
    got = receiver.answer()
    packets = got["packets"]
    return {
        "cpu": got["cpu"] / max(1, packets),
        "batch": packets / max(1, got["batches"]),
        "lost": options.count - packets,
        "rate": sent["rate"],
    }


def table(report: Report, burst: int) -> Table:
    to = report.measured
    rows = []
    for name, row in ROWS.items():
        taken = report.samples.get(key(name, burst))
        if taken is None:
            continue
        cost = to[key(name, burst)]
        batch, rate = (median(sample[what] for sample in taken) for what in ("batch", "rate"))
        of_blocking = ratio(cost, to.get(key("blocking", burst)))
        lost = sum(sample["lost"] for sample in taken)
        rows.append((row.title, f"{cost:,.0f}", of_blocking, f"{batch:.1f}", f"{rate:,.0f}", f"{lost:,}"))
    headings = ("", "CPU ns a packet", "of blocking", "packets a batch", "sent a second", "lost")
    return Table(f"a steady stream in bursts of {burst} (medians)", headings, rows)


if __name__ == "__main__":
    CONTENDERS.update(ROWS)
    station.STATIONS["send"] = SteadyStation
    station.main()
