"""The life of a ring's blocks: whatever the consumer holds and whatever comes, the ring does not stall.

`ring_life SCENARIO SIZE`: makes a network namespace of its own (root), runs the scenario for some turns of the ring, and
then sends single packets, each of which has to arrive. Every wanted packet is received or counted, none twice, and
no byte of a kept batch changes. Datagrams are sent one by one, so that each is one frame, and the ledger exact.
"""

import json
import pickle
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import mcast_fast as mcast
from tests import lab
from tests.lifecycle.programs.paths import check

PORT = 5000
WANTED, FOREIGN = "127.0.0.1", "127.0.0.2"
GROUP = "232.1.1.1"
TEXT = f"{WANTED}@{GROUP}%lo:{PORT}"
PAYLOAD = 1_400
MTU = 9_000
FRAGMENTED = 20_000  # bytes of payload, above the MTU
TURNS = 3
MARKERS = 50
FIRST_MARKER = 1 << 40  # numbers of the packets that are sent after the scenario
PATIENCE = 10.0
RATE = 40_000  # datagrams per second, which a consumer can follow
AT_ONCE = 20
NETWORK = f"""
link set lo up mtu {MTU}
route add 224.0.0.0/4 dev lo
"""
LOAN_SECONDS, SLEEP_SECONDS = 0.03, 2.0


@dataclass
class Consumer:
    """Receives in a thread of its own, as the scenario says, and keeps the numbers of all packets."""

    rx: mcast.Receiver
    on_batch: Callable[["Consumer", mcast.Batch], None]
    numbers: list[int] = field(default_factory=list)
    batches: int = 0
    kept: list[tuple[Any, int]] = field(default_factory=list)
    """What was kept, and its checksum when it came."""
    threads: list[threading.Thread] = field(default_factory=list)
    failure: BaseException | None = None
    is_normal: bool = False
    """The scenario is over, and single packets come."""

    def __post_init__(self) -> None:
        self.came = threading.Condition()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        try:
            for batch in self.rx:  # the loop variable holds the last batch while the next one is awaited
                self.take(batch)
        except BaseException as error:
            self.failure = error

    def take(self, batch: mcast.Batch) -> None:
        numbers = [int.from_bytes(payload[:8]) for payload in batch.payloads()]
        self.batches += 1
        self.on_batch(self, batch)
        with self.came:
            self.numbers += numbers
            self.came.notify_all()

    def wait_for(self, number: int, seconds: float) -> bool:
        """Whether the packet comes in time."""
        with self.came:
            return self.came.wait_for(lambda: number in self.numbers[-1_000:] or bool(self.failure), seconds)

    def finish(self) -> None:
        self.rx.close()
        self.thread.join()
        for thread in self.threads:
            thread.join()
        if self.failure:
            raise self.failure


# ---- what consumers do with a batch ----


def only_counts(_: Consumer, __: mcast.Batch) -> None:
    pass


def keeps_all(consumer: Consumer, batch: mcast.Batch) -> None:
    consumer.kept.append((batch, zlib.crc32(b"".join(batch.payloads()))))


def lends(consumer: Consumer, batch: mcast.Batch) -> None:
    """Every tenth batch is on loan in another thread for a while; none any more once the traffic is normal."""
    if consumer.batches % 10 or consumer.is_normal:
        return
    expected = zlib.crc32(b"".join(batch.payloads()))

    def hold() -> None:
        with batch.borrow() as memory:
            before = zlib.crc32(memory)
            time.sleep(LOAN_SECONDS)
            if zlib.crc32(memory) != before or zlib.crc32(b"".join(batch.payloads())) != expected:
                consumer.failure = AssertionError("a batch on loan has changed")

    consumer.threads.append(threading.Thread(target=hold))
    consumer.threads[-1].start()


def _exports(consumer: Consumer, batch: mcast.Batch, exporter: Callable[[Any], Any]) -> None:
    """What exports the memory of a loan outlives its `with`: that memory is copied, and stays what it was."""
    if consumer.batches % 10 == 0 and not consumer.is_normal:
        with batch.borrow() as memory:
            held = exporter(memory)
            consumer.kept.append((held, zlib.crc32(memory)))


def exports_pickle(consumer: Consumer, batch: mcast.Batch) -> None:
    _exports(consumer, batch, pickle.PickleBuffer)


def exports_arrow(consumer: Consumer, batch: mcast.Batch) -> None:
    import pyarrow as pa

    _exports(consumer, batch, pa.py_buffer)


def sleeps(consumer: Consumer, _: mcast.Batch) -> None:
    if consumer.batches == 3:
        time.sleep(SLEEP_SECONDS)


class Collector(Consumer):
    """collect() while the batch of an earlier receive is alive."""

    def run(self) -> None:
        try:
            held = self.rx.recv_batch(timeout=None)
            keeps_all(self, held)
            self.take(held)
            while True:
                if len(batch := self.rx.collect(5_000, timeout=0.1)):
                    self.take(batch)
        except mcast.ClosedError:
            pass
        except BaseException as error:
            self.failure = error


# ---- what comes ----


def blast(count: int, **options: Any) -> int:
    """Have a process of its own `send` so many numbered datagrams; how many."""
    order = json.dumps({"count": count, **options})
    subprocess.run([sys.executable, "-m", __spec__.name, "send", order], check=True)
    return count


def send(count: int, size: int = PAYLOAD, source: str = WANTED, first: int = 0, rate: float = 0) -> None:
    """Send datagrams that begin with their number, some at a time, at full speed (0) or at a rate."""
    with sending(source) as tx:
        start = time.monotonic()
        for sent in range(0, count, AT_ONCE):
            if rate:
                time.sleep(max(0.0, start + sent / rate - time.monotonic()))
            for number in range(first + sent, first + min(count, sent + AT_ONCE)):
                tx.sendto(number.to_bytes(8).ljust(size, b"\0"), (GROUP, PORT))


def sending(source: str = WANTED) -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
    sock.bind((source, 0))
    return sock


def turns(ring: int, size: int = PAYLOAD) -> int:
    """Datagrams that fill a ring some times over."""
    return TURNS * ring // size


def wanted(ring: int) -> int:
    """At a rate that a consumer can follow, so that a stalled ring is no small part of the loss."""
    return blast(turns(ring), rate=RATE)


def foreign(ring: int) -> int:
    """Another source of the group, after some wanted packets."""
    sent = blast(20, rate=1_000)
    blast(turns(ring), source=FOREIGN)
    return sent


def fragments(ring: int) -> int:
    """Datagrams in fragments alone, after some whole ones. They are counted apart."""
    sent = blast(20, rate=1_000)
    blast(turns(ring, FRAGMENTED), size=FRAGMENTED, first=1 << 30)
    return sent


@dataclass(frozen=True)
class Scenario:
    sends: Callable[[int], int]
    on_batch: Callable[[Consumer, mcast.Batch], None]
    consumer: type[Consumer] = Consumer
    alone: bool = True
    """Only wanted packets come: then each is received or counted, exactly."""


SCENARIOS = {
    "foreign source": Scenario(foreign, only_counts, alone=False),
    "fragments": Scenario(fragments, only_counts, alone=False),
    "foreign source, all kept": Scenario(foreign, keeps_all, alone=False),
    "all kept": Scenario(wanted, keeps_all),
    "loans": Scenario(wanted, lends),
    "pickle.PickleBuffer outlives its loan": Scenario(wanted, exports_pickle),
    "pyarrow.py_buffer outlives its loan": Scenario(wanted, exports_arrow),
    "consumer sleeps": Scenario(wanted, sleeps),
    "collect beside a kept batch": Scenario(wanted, only_counts, Collector),
}


def markers(consumer: Consumer, tx: socket.socket) -> int:
    """One packet at a time, each sent when the last one has arrived; how many were sent.

    The first may be sent again, for the ring may still be full: until one arrives."""

    def send_one(number: int) -> None:
        tx.sendto(number.to_bytes(8).ljust(100, b"\0"), (GROUP, PORT))

    sent = 0
    consumer.is_normal = True
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        send_one(FIRST_MARKER + sent)
        sent += 1
        if consumer.wait_for(FIRST_MARKER + sent - 1, 0.1):
            break
    else:
        check(False, f"nothing arrives any more: {consumer.rx.stats}")
    for number in range(FIRST_MARKER + sent, FIRST_MARKER + sent + MARKERS):
        send_one(number)
        sent += 1
        check(consumer.wait_for(number, PATIENCE), f"packet {number - FIRST_MARKER} is missing: {consumer.rx.stats}")
    return sent


def holds(consumer: Consumer, scenario: Scenario, sent: int) -> None:
    """The ledger, the order, and the bytes of what was kept."""
    stats, numbers = consumer.rx.stats, consumer.numbers
    print(f"sent {sent}, received {stats.received}, dropped_ring {stats.dropped_ring}, filtered {stats.filtered}")
    check(len(set(numbers)) == len(numbers), f"{len(numbers) - len(set(numbers))} packets came twice")
    check(numbers == sorted(numbers), "not in the order in which they were sent")
    check(stats.received == len(numbers), f"{len(numbers)} packets, {stats}")
    if scenario.alone:
        check(sent == stats.received + stats.dropped_ring, f"sent {sent}, {stats}")
    check(stats.received <= sent <= stats.received + stats.dropped_ring, f"sent {sent}, {stats}")
    for what, expected in consumer.kept:
        data = b"".join(what.payloads()) if isinstance(what, mcast.Batch) else memoryview(what)
        check(zlib.crc32(data) == expected, "what was kept has changed")


def main(name: str, size: str) -> None:
    lab.unshare_network()
    subprocess.run(["ip", "-batch", "-"], input=NETWORK, text=True, check=True)
    scenario = SCENARIOS[name]
    rx = mcast.Receiver(TEXT, ring=size, ring_latency=0.001)
    ring = int(size.removesuffix("MiB")) << 20
    with sending() as tx:
        consumer = scenario.consumer(rx, scenario.on_batch)
        try:
            sent = scenario.sends(ring)
            sent += markers(consumer, tx)
        finally:
            consumer.finish()
    holds(consumer, scenario, sent)
    print("held", flush=True)


if __name__ == "__main__":
    if sys.argv[1] == "send":
        send(**json.loads(sys.argv[2]))
    else:
        main(*sys.argv[1:])
