"""Every kind of object with a life of its own: how it is opened, which calls it has, how to see that it works.

`PATHS` is the table; the tests of fork, exit and close go through it.
"""

import asyncio
import contextlib
import ctypes
import gzip
import itertools
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mcast_fast as mcast
from mcast_fast import aio

SOURCES = ["127.0.0.1"]
PACKETS = 100
WAIT = 0.3  # seconds that a call waits which is to time out
BUSY = 0.2  # of that may be CPU: a wait takes some 1 %, a spin all there is
_ports = itertools.count(10_000 + os.getpid() % 9_000)


def free_port() -> int:
    """A UDP port that nobody is bound to now."""
    for port in _ports:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            return port
    raise AssertionError("no port is free")


def check(holds: object, what: object) -> None:
    """An assert that -O does not take away."""
    if not holds:
        raise AssertionError(what)


def group(number: int = 1) -> str:
    """The number-th group on the loopback, without a port."""
    return f"239.7.7.{number}%lo"


@dataclass
class Subject:
    """An object of the library, with what a test needs around it."""

    thing: Any
    calls: dict[str, Callable[[], object]]
    """Every call that needs it open."""
    works: Callable[[], None]
    """Raises unless it does all it should; may be called several times, but not after close()."""
    close: Callable[[], None]


@contextlib.contextmanager
def idle() -> Iterator[None]:
    """Checks that what the block does waits, and does not spin; that signal handlers run meanwhile, too."""
    heard: list[float] = []
    before = signal.signal(signal.SIGALRM, lambda *_: heard.append(time.monotonic()))
    started, cpu = time.monotonic(), time.process_time()
    signal.setitimer(signal.ITIMER_REAL, WAIT / 3)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    waited, busy = time.monotonic() - started, time.process_time() - cpu
    check(busy < BUSY * waited, f"{busy:.3f} s of CPU in a wait of {waited:.3f} s")
    check(heard, "no signal handler ran during the wait")
    check(waited >= WAIT * 0.9, f"waited {waited:.3f} s of {WAIT} s")


def times_out(call: Callable[[], object]) -> None:
    """Checks that a call raises TimeoutError, and waits for it."""
    with idle(), contextlib.suppress(TimeoutError):
        check(False, f"returned {call()!r} where nothing was sent")


# ---- receivers ----


def _receiver(several: bool = False, **options: Any) -> Subject:
    port = free_port()
    groups = [f"{group(number)}:{port}" for number in ((1, 2) if several else (1,))]
    rx = mcast.Receiver(*groups, timeout=5, **options)
    tx = mcast.Sender(groups[-1], ttl=0)
    numbers = itertools.count()

    def works() -> None:
        times_out(lambda: rx.recv(timeout=WAIT))
        sent = [b"%d" % next(numbers) for _ in range(PACKETS)]
        before = rx.stats.received
        tx.send_batch(sent)
        got = rx.collect(PACKETS, timeout=5).payloads()
        check(got == sent, f"sent {len(sent)}, received {len(got)}: {got[:3]} ...")
        check(rx.stats.received - before == PACKETS, rx.stats)

    def close() -> None:
        rx.close()
        tx.close()

    return Subject(rx, receiver_calls(rx, groups[-1]), works, close)


def _ring_with_batch() -> Subject:
    """A ring of which a batch is kept: its bytes stay what they were, however often the ring comes round."""
    subject = _receiver(ring="1MiB")
    text = f"{group(3)}:{free_port()}"
    rx, tx = mcast.Receiver(text, timeout=5, ring="1MiB"), mcast.Sender(text, ttl=0)
    sent = [b"first %d" % number for number in range(PACKETS)]
    tx.send_batch(sent)
    kept = [rx.recv_batch()]
    while sum(map(len, kept)) < PACKETS:
        kept.append(rx.recv_batch())
    subject.thing = kept  # `drop` lets go of it
    inner_works, inner_close = subject.works, subject.close

    def works() -> None:
        inner_works()
        for _ in range(30):
            tx.send_batch([b"later" + bytes(1_000)] * 100)
            got = len(rx.collect(100, timeout=1))
            check(got == 100, f"{got} of 100, {rx.stats}")
        check([payload for batch in kept for payload in batch.payloads()] == sent, "the kept batch has changed")

    def close() -> None:
        inner_close()
        rx.close()
        tx.close()

    return Subject(kept, subject.calls | receiver_calls(rx, text), works, close)


def receiver_calls(rx: mcast.Receiver, joined: str) -> dict[str, Callable[[], object]]:
    """The calls of a receiver, none of which waits for long."""
    other = joined.replace("239.7.7.", "239.8.8.")
    return {
        "recv": lambda: rx.recv(timeout=0),
        "recv_batch": lambda: rx.recv_batch(timeout=0),
        "collect": lambda: rx.collect(10, timeout=0),
        "wait": lambda: rx.wait(0),
        "join": lambda: rx.join(other),
        "leave": lambda: rx.leave(other),
        "block": lambda: rx.block(joined, "10.0.0.1"),
        "unblock": lambda: rx.unblock(joined, "10.0.0.1"),
        "set_sources": lambda: rx.set_sources(joined, exclude=[]),
        "memberships": lambda: rx.memberships,
        "fileno": rx.fileno,
        "send": lambda: rx.send(other, b"x"),
        "send to a host": lambda: rx.send("127.0.0.1:9", b"x"),
    }


# ---- senders ----


def _sender(**options: Any) -> Subject:
    port = free_port()
    text = f"{group()}:{port}"
    tx = mcast.Sender(text, timeout=5, ttl=0, **options)
    rx = mcast.Receiver(text, timeout=5)

    def works() -> None:
        times_out(lambda: tx.recv(timeout=WAIT))
        before = tx.stats.datagrams
        left = tx.send(b"one") + tx.send_batch([b"two", b"three"])
        check(left == 3 and tx.stats.datagrams - before == 3, (left, tx.stats))
        got = rx.collect(3, timeout=5).payloads()
        check(got == [b"one", b"two", b"three"], got)

    def close() -> None:
        tx.close()
        rx.close()

    calls: dict[str, Callable[[], object]] = {
        "send": lambda: tx.send(b"x"),
        "send_batch": lambda: tx.send_batch([b"x"] * 3),
        "send_batch of rows": lambda: tx.send_batch(bytes(30), size=10),
        "send_to": lambda: tx.send_to(b"x", text),
        "send_to a host": lambda: tx.send_to(b"x", "127.0.0.1:9"),
        "gather": lambda: list(tx.gather(b"x", 0)),
        "recv": lambda: tx.recv(timeout=0),
    }
    return Subject(tx, calls, works, close)


# ---- files ----


def batch_of(count: int, first: int = 0) -> mcast.Batch:
    """Packets numbered from `first`, received over the loopback."""
    text = f"{group(9)}:{free_port()}"
    with mcast.Receiver(text) as rx, mcast.Sender(text, ttl=0) as tx:
        tx.send_batch([b"%d" % (first + number) for number in range(count)])
        return rx.collect(count, timeout=5)


def payloads_of(path: Path) -> list[bytes]:
    """What a capture file holds, read to its end; the compressed stream has to be whole."""
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            stream.read()
    with mcast.open(path) as reader:
        return [payload for batch in reader for payload in batch.payloads()]


def temporary(name: str) -> Path:
    """A path in a directory of its own, below TMPDIR, which whoever runs the program removes."""
    return Path(tempfile.mkdtemp(prefix="mcast-lifecycle-"), name)


def _reader() -> Subject:
    path = temporary("read.pcapng")
    with mcast.files.Writer(path) as writer:
        for first in range(0, 1_000, 250):
            writer.write(batch_of(250, first))
    reader = mcast.open(path)
    expected = (b"%d" % number for number in range(1_000))

    def works() -> None:
        got = reader.recv_batch(100).payloads()
        check(got == list(itertools.islice(expected, 100)), got[:3])

    calls: dict[str, Callable[[], object]] = {
        "recv": reader.recv,
        "recv_batch": reader.recv_batch,
        "collect": lambda: reader.collect(10),
    }
    return Subject(reader, calls, works, reader.close)


def _writer(suffix: str) -> Subject:
    path = temporary(f"written.pcapng{suffix}")
    writer = mcast.files.Writer(path)
    batch = batch_of(PACKETS)
    writer.write(batch)
    writer.flush()
    writer.write(batch)  # gathered: in memory that a fork doubles

    def works() -> None:
        written = writer.write(batch)
        check(written == PACKETS, written)
        count = writer.stats.packets + writer.stats.gathered
        writer.close()
        got = payloads_of(path)
        check(len(got) == count == 3 * PACKETS, f"{len(got)} packets in the file, {count} written")
        check(got == batch.payloads() * 3, "the file holds something else")

    calls: dict[str, Callable[[], object]] = {
        "write": lambda: writer.write(batch),
        "flush": writer.flush,
        "sync": writer.sync,
    }
    return Subject(writer, calls, works, writer.close)


def _recorder(suffix: str) -> Subject:
    path = temporary(f"recorded.pcapng{suffix}")
    text = f"{group()}:{free_port()}"
    rx, tx = mcast.Receiver(text, timeout=5), mcast.Sender(text, ttl=0)
    recorder = mcast.files.Recorder(rx, path, flush_interval=0)
    thread = threading.Thread(target=recorder.run, daemon=True)
    thread.start()

    def sends(first: int) -> None:
        tx.send_batch([b"%d" % (first + number) for number in range(PACKETS)])
        deadline = time.monotonic() + 10
        while recorder.result.written < first + PACKETS and time.monotonic() < deadline:
            time.sleep(0.01)

    sends(0)

    def works() -> None:
        sends(PACKETS)
        recorder.stop()
        thread.join()
        got = payloads_of(path)
        check(got == [b"%d" % number for number in range(2 * PACKETS)], f"{len(got)} of {2 * PACKETS} in the file")

    def close() -> None:
        rx.close()
        thread.join()
        tx.close()

    return Subject(recorder, {"run": recorder.run}, works, close)


# ---- asyncio ----


def new_loop() -> asyncio.AbstractEventLoop:
    """An event loop that is never finalized: in a forked child that would take the parent's wake-up out of the epoll
    instance which both share, whoever uses the loop."""
    loop = asyncio.new_event_loop()
    if hasattr(ctypes, "pythonapi"):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(loop))
    return loop


def _aio_receiver() -> Subject:
    text = f"{group()}:{free_port()}"
    loop = new_loop()
    pid = os.getpid()
    rx, tx = aio.Receiver(text, timeout=5), mcast.Sender(text, ttl=0)
    tx.send(b"first")
    check(loop.run_until_complete(rx.recv()).data == b"first", "the first packet")

    def works() -> None:
        times_out(lambda: loop.run_until_complete(rx.recv(timeout=WAIT)))
        sent = [b"%d" % number for number in range(PACKETS)]
        later = loop.call_later(0.05, tx.send_batch, sent)  # while the task waits
        got = loop.run_until_complete(rx.collect(PACKETS, timeout=5)).payloads()
        later.cancel()
        check(got == sent, f"received {len(got)} of {PACKETS}")

    def call(make: Callable[[], Any]) -> Callable[[], object]:
        async def awaited() -> object:
            return await make()

        return lambda: loop.run_until_complete(awaited()) if os.getpid() == pid else asyncio.run(awaited())

    def close() -> None:
        rx.close()
        tx.close()
        if os.getpid() == pid:
            loop.close()

    calls = {
        "recv": call(lambda: rx.recv(timeout=0)),
        "recv_batch": call(lambda: rx.recv_batch(timeout=0)),
        "collect": call(lambda: rx.collect(10, timeout=0)),
    }
    return Subject(rx, calls, works, close)


def _aio_sender() -> Subject:
    text = f"{group()}:{free_port()}"
    loop = new_loop()
    pid = os.getpid()
    tx, rx = aio.Sender(text, timeout=5, ttl=0), mcast.Receiver(text, timeout=5)
    loop.run_until_complete(tx.send_batch([b"x"] * PACKETS))  # by its thread, where it has one
    check(len(rx.collect(PACKETS)) == PACKETS, "the first packets")

    def works() -> None:
        times_out(lambda: loop.run_until_complete(tx.recv(timeout=WAIT)))
        sent = [b"%d" % number for number in range(PACKETS)]
        loop.run_until_complete(tx.send_batch(sent))
        check(rx.collect(PACKETS).payloads() == sent, "something else was received")

    def call(make: Callable[[], Any]) -> Callable[[], object]:
        async def awaited() -> object:
            return await make()

        return lambda: loop.run_until_complete(awaited()) if os.getpid() == pid else asyncio.run(awaited())

    def close() -> None:
        tx.close()
        rx.close()
        if os.getpid() == pid:
            loop.close()

    calls = {
        "send": call(lambda: tx.send(b"x")),
        "send_batch": call(lambda: tx.send_batch([b"x"] * PACKETS)),
        "send_to a host": call(lambda: tx.send_to(b"x", "127.0.0.1:9")),
        "gather": call(lambda: anext(tx.gather(b"x", 0), None)),
        "recv": call(lambda: tx.recv(timeout=0)),
    }
    return Subject(tx, calls, works, close)


PATHS: dict[str, Callable[[], Subject]] = {
    "socket": _receiver,
    "wildcard": lambda: _receiver(several=True),
    "ring": lambda: _receiver(ring="1MiB"),
    "ring with batch": _ring_with_batch,
    "background": lambda: _receiver(background="1MiB"),
    "watch": lambda: _receiver(watch=True),
    "sender": _sender,
    "paced sender": lambda: _sender(rate="10k/s"),
    "reader": _reader,
    "writer": lambda: _writer(""),
    "writer gz": lambda: _writer(".gz"),
    "recorder": lambda: _recorder(""),
    "recorder gz": lambda: _recorder(".gz"),
    "aio receiver": _aio_receiver,
    "aio sender": _aio_sender,
}
# What a path needs of the system, by the names of `pytest.mark.needs`.
NEEDS = {"ring": "ring", "ring with batch": "ring", "background": "background", "watch": "watch"}
