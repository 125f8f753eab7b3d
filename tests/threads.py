"""What threads do at once with one receiver, batch or sender: scenes that check themselves, to the packet.

`test_threads.py` plays each once, on both backends. As a program this file plays those of the compiled backend in turn,
all of them or those named, for a number of seconds; `.ci/weekly/threads` does so under ThreadSanitizer, in a network of its own:

    python -m tests.threads 60 [share_a_receiver …]
"""

import contextlib
import itertools
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import mcast_fast as mcast
from mcast_fast import Batch, ClosedError, Receiver, Sender, SocketError, _core

SECONDS = 60  # that packets may take, on a machine that is stopped now and then; who waits for them closes what all receive from
SPARSE = (128 << 10) // 8  # bytes in a block of a ring of 1 MiB, below which its payloads are copied
CHUNK = 100  # datagrams that are on their way at the most: any receive buffer holds them

KINDS: dict[str, dict[str, Any]] = {
    "socket": {},
    "coalesced": {"timestamps": None},
    "background": {"background": "1MiB"},
    "ring": {"ring": "1MiB", "ring_latency": 0.001},
}


def numbered(count: int) -> list[bytes]:
    return [number.to_bytes(4, "big") for number in range(count)]


def together(*jobs: Callable[[], object]) -> None:
    """Each job in a thread of its own, all from the same moment on; what they raise is raised here."""
    start = threading.Barrier(len(jobs))

    def run(job: Callable[[], object]) -> None:
        start.wait(SECONDS)
        job()

    with ThreadPoolExecutor(len(jobs)) as pool:
        errors = [future.exception() for future in [pool.submit(run, job) for job in jobs]]
    if raised := [error for error in errors if isinstance(error, Exception)]:
        raise ExceptionGroup("in threads", raised)


class Tally:
    """What was received, by all threads together."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self.payloads: list[bytes] = []

    def add(self, payloads: list[bytes]) -> None:
        with self._news:
            self.payloads += payloads
            self._news.notify_all()

    def wait_for(self, count: int) -> None:
        with self._news:
            there = self._news.wait_for(lambda: len(self.payloads) >= count, SECONDS)
        assert there, f"{len(self.payloads)} packets came of {count}"


def one(rx: Receiver) -> list[bytes]:
    return [rx.recv().data]


def few(rx: Receiver) -> list[bytes]:
    return rx.recv_batch(5).payloads()


def batch(rx: Receiver) -> list[bytes]:
    return rx.recv_batch().payloads()


def collected(rx: Receiver) -> list[bytes]:
    return rx.collect(7, timeout=0.01).payloads()


def given_back(rx: Receiver) -> list[bytes]:
    taken = rx.recv_batch(10)
    rx.give_back([taken[2:], _core.views.Batch.concatenate([])])
    return taken[:2].payloads()


def waited_for(rx: Receiver) -> list[bytes]:
    with contextlib.suppress(TimeoutError):  # somebody else took it
        return rx.recv_batch(timeout=0).payloads() if rx.wait(0.01) else []
    return []


WAYS = (one, one, few, batch, collected, given_back, waited_for)
WHOLE_WAYS = (batch, batch, collected)  # that leave nothing over


def receive(rx: Receiver, tally: Tally, way: Callable[[Receiver], list[bytes]]) -> None:
    with contextlib.suppress(ClosedError):
        while True:
            tally.add(way(rx))


def go_over(rx: Receiver, tally: Tally) -> None:
    for each in rx:
        tally.add([packet.data for packet in each])


def feed(tx: Sender, tally: Tally, payloads: list[bytes]) -> None:
    for start in range(0, len(payloads), CHUNK):
        tx.send_batch(payloads[start : start + CHUNK])
        tally.wait_for(min(start + CHUNK, len(payloads)))


def read_ledger(rx: Receiver, size: int) -> None:
    """A thousand times per second: totals only grow, and fit each other. What is received may turn out to be unwanted."""
    before = 0
    while not rx.closed:
        stats = rx.stats
        assert stats.received + stats.filtered >= before
        assert stats.bytes == stats.received * size
        before = stats.received + stats.filtered
        time.sleep(0.001)


def share_a_receiver(group: str, options: dict[str, Any], count: int = 2000) -> None:
    """Threads receive from one receiver in every way, and one reads its ledger: each packet comes to one of them."""
    tally = Tally()
    with Receiver(group, batch_size=32, **options) as rx, Sender(group, ttl=0) as tx:

        def send() -> None:
            try:
                feed(tx, tally, numbered(count))
            finally:
                rx.close()

        together(
            send,
            partial(read_ledger, rx, 4),
            partial(go_over, rx, tally),
            *[partial(receive, rx, tally, way) for way in WAYS],
        )
        assert sorted(tally.payloads) == numbered(count)
        # What is given back was counted before, and what one call left over is another's.
        assert rx.stats.received == count


def have_a_receiver_each(group: str, options: dict[str, Any], count: int = 500) -> None:
    """Each thread has a receiver of its own: each has every packet."""
    tallies = [Tally() for _ in range(3)]
    with Sender(group, ttl=0) as tx, contextlib.ExitStack() as opened:
        receivers = [opened.enter_context(Receiver(group, **options)) for _ in tallies]

        def send() -> None:
            try:
                for start in range(0, count, CHUNK):
                    tx.send_batch(numbered(count)[start : start + CHUNK])
                    for tally in tallies:
                        tally.wait_for(min(start + CHUNK, count))
            finally:
                for rx in receivers:
                    rx.close()

        together(send, *[partial(go_over, *pair) for pair in zip(receivers, tallies, strict=True)])
    for rx, tally in zip(receivers, tallies, strict=True):
        assert tally.payloads == numbered(count)
        assert rx.stats.received == count


def close_in_the_middle(group: str, options: dict[str, Any], count: int = 300) -> None:
    """One thread closes while others receive, join, leave, look and send: all end, and the ledger is exact."""
    tally = Tally()
    other = "239.1.2.3" + group[group.index("%") :]
    with (
        Receiver(group, batch_size=32, **options) as rx,
        Sender(group, ttl=0) as tx,
        Sender(other, ttl=0) as other_tx,
    ):

        def until_closed(*calls: Callable[[], object]) -> None:
            with contextlib.suppress(ClosedError):
                for call in itertools.cycle(calls):
                    call()

        def close() -> None:
            try:
                tally.wait_for(count)
            finally:
                rx.close()
                tx.close()
                other_tx.close()

        looks: list[Callable[[], object]] = [lambda: rx.memberships, lambda: repr(rx), lambda: rx.wait(0.001)]
        if mcast.features()["descriptor"]:
            looks.append(rx.fileno)
        together(
            close,
            close,
            partial(read_ledger, rx, 4),
            partial(until_closed, lambda: rx.join(other), lambda: rx.leave(other)),
            partial(until_closed, *looks),
            partial(until_closed, partial(tx.send_batch, numbered(20)), partial(time.sleep, 0.001)),
            partial(until_closed, partial(other_tx.send, b"else"), partial(time.sleep, 0.001)),
            partial(go_over, rx, tally),
            *[partial(receive, rx, tally, way) for way in WHOLE_WAYS],
        )
        assert set(tally.payloads) <= {*numbered(20), b"else"}
        received, delivered = rx.stats.received, len(tally.payloads)
        if rx.background or "timestamps" in options:
            assert received >= delivered  # what waited is gone, and was received
        else:
            assert received == delivered


def read_a_batch(group: str, options: dict[str, Any], readers: int = 6, count: int = CHUNK) -> None:
    """Threads read one batch in every way, half of them such that a ring's is detached: all read the same."""
    with Receiver(group, **options) as rx, Sender(group, ttl=0) as tx:
        tx.send_batch(numbered(count))
        taken: list[Batch] = []
        while sum(map(len, taken)) < count:
            taken.append(rx.recv_batch(timeout=SECONDS))
        first = itertools.accumulate(map(len, taken), initial=0)
        for each, start in zip(taken, first, strict=False):
            wanted = numbered(count)[start : start + len(each)]
            shared = iter(each)
            seen: list[bytes] = []

            def take_turns(shared: Iterator[Any] = shared, seen: list[bytes] = seen) -> None:
                seen.extend(packet.data for packet in shared)

            together(
                *[partial(read_everything, each, wanted, bool(number % 2)) for number in range(readers)],
                take_turns,
                take_turns,
            )
            assert set(seen) == set(wanted)
        if "ring" in options:  # a block that comes nearly empty is copied at once
            assert rx.stats.detached == sum(memoryview(each.data).nbytes > SPARSE for each in taken)


def read_everything(each: Batch, wanted: list[bytes], detach: bool) -> None:
    assert each.payloads() == wanted
    assert [bytes(packet.view if detach else packet.data) for packet in each] == wanted
    assert each[1:].payloads() == wanted[1:]
    rows = memoryview(each.records).cast("B")
    offsets = [int.from_bytes(rows[at + 8 : at + 12], sys.byteorder) for at in range(0, len(rows), 64)]
    with each.borrow() as memory:
        assert [bytes(memory[at : at + 4]) for at in offsets] == wanted
    if detach:
        assert [bytes(each.data[at : at + 4]) for at in offsets] == wanted
    assert _core.views.Batch.concatenate([each, each]).payloads() == wanted * 2
    assert {packet.group for packet in each} == {"239.1.1.1"}
    with contextlib.suppress(ImportError):
        import numpy as np

        array = np.asarray(each)
        assert array["offset"].tolist() == offsets
        assert not array.flags.writeable


def send_together(group: str, threads: int = 4, count: int = 300) -> None:
    """Threads send by one sender, each in its own way: every datagram comes once and whole, and all are counted."""
    tally, size = Tally(), 40
    done = threading.Event()

    def whole(thread: int, number: int) -> bytes:
        return (bytes([thread]) + number.to_bytes(3, "big")) * (size // 4)

    with Receiver(group) as rx, Sender(group, ttl=0) as tx:
        ways: list[Callable[[list[bytes]], object]] = [
            lambda payloads: [tx.send(payload) for payload in payloads],
            tx.send_batch,
            lambda payloads: tx.send_batch(b"".join(payloads), size=size),
            lambda payloads: [tx.send_to(payload, group) for payload in payloads],
        ]

        def send(thread: int) -> None:
            step = CHUNK // threads
            for start in range(0, count, step):
                ways[thread % len(ways)]([whole(thread, number) for number in range(start, start + step)])
                enough.wait(SECONDS)

        def look() -> None:
            before = 0
            while not done.is_set():
                stats = tx.stats
                assert before <= stats.datagrams <= threads * count
                before = stats.datagrams
                assert len(tx.local_addresses) == 1
                time.sleep(0.001)

        def end() -> None:
            try:
                tally.wait_for(threads * count)
            finally:
                done.set()
                rx.close()

        # Nobody goes on before what all have sent is received: it is no more than a chunk.
        steps = itertools.count(1)
        enough = threading.Barrier(threads, lambda: tally.wait_for(next(steps) * CHUNK))
        together(look, end, partial(go_over, rx, tally), *[partial(send, thread) for thread in range(threads)])
        every = Counter(whole(thread, number) for thread in range(threads) for number in range(count))
        assert Counter(tally.payloads) == every
        assert tx.stats.datagrams == threads * count
        assert tx.stats.bytes == threads * count * size


def close_a_sender(group: str, threads: int = 3) -> None:
    """One thread closes while others send by the clock: all end, and what left by then is what comes."""
    tally, ended = Tally(), threading.Semaphore(0)
    with Receiver(group) as rx, Sender(group, ttl=0, rate="20k/s") as tx:

        def send() -> None:
            with contextlib.suppress(ClosedError):
                while True:
                    tx.send_batch(numbered(10))
                    tally.wait_for(tx.stats.datagrams - CHUNK)  # no more are on their way than a buffer holds
            ended.release()

        def answer() -> None:
            with contextlib.suppress(ClosedError):
                tx.recv()

        def close() -> None:
            try:
                tally.wait_for(CHUNK)
                tx.close()
                for _ in range(threads):  # close() waits for nobody
                    assert ended.acquire(timeout=SECONDS)
                tally.wait_for(tx.stats.datagrams)
            finally:
                tx.close()
                rx.close()

        together(close, answer, partial(go_over, rx, tally), *[send] * threads)
        assert len(tally.payloads) == tx.stats.datagrams


OF_RECEIVERS = (share_a_receiver, have_a_receiver_each, close_in_the_middle, read_a_batch)
OF_SENDERS = (send_together, close_a_sender)


def main(seconds: float, *names: str) -> int:
    """Every scene in turn, from the beginning when all were played, until the time is over; each once at least."""
    end, played = time.monotonic() + seconds, Counter[str]()
    ports = itertools.cycle(range(21_000, 31_000))
    kinds = dict(KINDS)
    try:
        Receiver(f"239.1.1.1%lo:{next(ports)}", **kinds["ring"]).close()
    except SocketError as error:
        del kinds["ring"]
        print(f"without rings: {error}")
    scenes = [
        (f"{scene.__name__}, {kind}", partial(scene, options=kinds[kind])) for scene in OF_RECEIVERS for kind in kinds
    ]
    scenes += [(scene.__name__, scene) for scene in OF_SENDERS]
    scenes = [one for one in scenes if not names or one[0].partition(",")[0] in names]
    for name, scene in itertools.cycle(scenes):
        if time.monotonic() > end and len(played) == len(scenes):
            break
        scene(f"239.1.1.1%lo:{next(ports)}")
        played[name] += 1
    for name, times in played.items():
        print(f"{name}: {times} times")
    return 0


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), *sys.argv[2:]))
