"""Unwanted packets only, and calls that time out: resident memory stays what it was. `unwanted PATH PACKETS [SECONDS]`.

To a port that two groups share, a socket is bound to the wildcard address: unicast and broadcasts to the port reach it, and
are filtered by us. What comes from another source than those asked for is filtered by the kernel, or by us with a ring.
With SECONDS it goes on for so long, at a moderate rate (`tests.lifecycle.soak`).
"""

import asyncio
import gc
import itertools
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mcast_fast as mcast
from mcast_fast import aio
from tests.lifecycle.programs.paths import check, free_port

BURST = 40
PAYLOAD = bytes(1_400)
SOURCE, FOREIGN = "127.0.0.1", "127.0.0.2"
GROUPS = ("232.7.7.1", "232.7.7.2")
WAIT = 0.0005  # seconds a call waits
ROUNDS = 4  # the first of them warms up
MOST_GROWTH = 1 << 20
SOAK_WARM_UP, SOAK_PAUSE = 30.0, 0.02  # seconds; between two bursts


def resident() -> int:
    """Bytes of memory that this process has in use."""
    gc.collect()
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Traffic:
    """Bursts of unwanted packets by turns: unicast, broadcast, from another source; and a wanted one when asked for."""

    def __init__(self) -> None:
        self.port = free_port()
        self.texts = [f"{SOURCE}@{group}%lo:{self.port}" for group in GROUPS]
        self.foreign, self.wanted = self._open(FOREIGN), self._open(SOURCE)
        self.targets: Iterator[str] = itertools.cycle(["127.0.0.1", "127.255.255.255", GROUPS[0]])
        self.sent = 0

    def _open(self, source: str) -> socket.socket:
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(source))
        sock.bind((source, 0))
        return sock

    def burst(self) -> None:
        target = next(self.targets)
        for _ in range(BURST):
            self.foreign.sendto(PAYLOAD, (target, self.port))
        self.sent += BURST

    def one_wanted(self) -> None:
        self.wanted.sendto(b"wanted", (GROUPS[1], self.port))


def nothing(call: Callable[[], object]) -> Callable[[], None]:
    """Calls that find nothing."""

    def once() -> None:
        try:
            answer = call()
        except TimeoutError:
            return
        check(isinstance(answer, mcast.Batch) and not len(answer), f"received {answer!r}, which nobody asked for")

    return once


Way = Callable[[mcast.Receiver], Callable[[], object]]


def iteration(rx: mcast.Receiver) -> Callable[[], object]:
    return lambda: next(iter(rx))


# How it is received, and the options of the receiver.
PATHS: dict[str, tuple[Way, dict[str, Any]]] = {
    "recv": (lambda rx: lambda: rx.recv(timeout=0), {}),
    "recv_batch": (lambda rx: rx.recv_batch, {}),
    "collect": (lambda rx: lambda: rx.collect(10, timeout=WAIT), {}),
    "iteration": (iteration, {}),
    "coalesced": (lambda rx: rx.recv_batch, {"timestamps": None}),
    "background": (lambda rx: rx.recv_batch, {"background": "1MiB"}),
    "background collect": (lambda rx: lambda: rx.collect(10, timeout=WAIT), {"background": "1MiB"}),
    "ring": (lambda rx: rx.recv_batch, {"ring": "1MiB", "ring_latency": 0.001}),
    "ring collect": (lambda rx: lambda: rx.collect(10, timeout=WAIT), {"ring": "1MiB", "ring_latency": 0.001}),
}
AIO_PATHS = ("aio recv", "aio iteration")


def blocking(path: str, traffic: Traffic, pace: Iterator[None]) -> None:
    way, options = PATHS[path]
    with mcast.Receiver(*traffic.texts, timeout=WAIT, **options) as rx:
        call = nothing(way(rx))
        for _ in pace:
            traffic.burst()
            call()
        traffic.one_wanted()
        check(rx.recv(timeout=10).data == b"wanted", "the wanted packet is missing")
        check(rx.stats.received == 1, rx.stats)


async def awaiting(path: str, traffic: Traffic, pace: Iterator[None]) -> None:
    async with aio.Receiver(*traffic.texts, timeout=None) as rx:

        async def iterate() -> bytes:
            async for batch in rx:
                return bytes(batch[0].data)
            return b""

        async def receive() -> bytes:
            return bytes((await rx.recv()).data)

        task = asyncio.ensure_future(iterate() if path == "aio iteration" else receive())
        for _ in pace:
            traffic.burst()
            await asyncio.sleep(WAIT)  # the task wakes up, and finds nothing
        traffic.one_wanted()
        check(await asyncio.wait_for(task, 10) == b"wanted", "the wanted packet is missing")


def counted(packets: int) -> Iterator[None]:
    """Rounds of so many packets; memory may grow in the first one."""
    before = 0
    for number in range(ROUNDS):
        for _ in range(packets // BURST):
            yield
        now = resident()
        print(f"{number}: {now >> 10} KiB", flush=True)
        before = before or now
    grown(before)


def timed(seconds: float) -> Iterator[None]:
    """For so long, a line every minute."""
    start = said = time.monotonic()
    before = 0
    while (now := time.monotonic()) < start + seconds:
        if not before and now > start + min(SOAK_WARM_UP, seconds / 2):
            before = resident()
        if now > said + 60:
            said = now
            print(f"{(now - start) / 60:.0f} minutes: {resident() >> 10} KiB", flush=True)
        time.sleep(SOAK_PAUSE)
        yield
    grown(before)


def grown(before: int) -> None:
    growth = resident() - before
    print(f"grown by {growth >> 10} KiB", flush=True)
    check(growth < MOST_GROWTH, f"resident memory has grown by {growth >> 10} KiB")


def main(path: str, packets: str, seconds: str = "") -> None:
    traffic = Traffic()
    pace = timed(float(seconds)) if seconds else counted(int(packets))
    if path in AIO_PATHS:
        asyncio.run(awaiting(path, traffic, pace))
    else:
        blocking(path, traffic, pace)
    print("held", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
