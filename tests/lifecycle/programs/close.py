"""close() from another thread in the middle of calls: they end with ClosedError, and everything is closed: `close CALL`.

`many PATH`: many threads call everything of one object while another one closes it.
"""

import asyncio
import gc
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mcast_fast as mcast
from mcast_fast import ClosedError, MulticastError, aio
from tests.lifecycle.programs.paths import PATHS, check, free_port, group
from tests.lifecycle.programs.signals import AGAIN, DESCRIPTORS, nothing_left

ROUNDS = 20
THREADS = 6
LONG = 100.0  # seconds: longer than any test lives


def text() -> str:
    return f"{group()}:{free_port()}"


@dataclass
class Blocked:
    """Something opened, and a call that blocks until it is closed."""

    thing: Any
    call: Callable[[], object]
    is_iteration: bool = False
    """It returns where the others raise ClosedError."""


def receiver(**options: Any) -> mcast.Receiver:
    return mcast.Receiver(text(), timeout=LONG, **options)


def receiving(name: str, **options: Any) -> Blocked:
    rx = receiver(**options)
    calls: dict[str, Callable[[], object]] = {
        "recv": rx.recv,
        "recv_batch": rx.recv_batch,
        "collect": lambda: rx.collect(10),
        "wait": rx.wait,
        "iteration": lambda: list(rx),
    }
    return Blocked(rx, calls[name], name == "iteration")


def sending(**options: Any) -> Blocked:
    """At a rate that takes hours."""
    tx = mcast.Sender(text(), ttl=0, rate=2, **options)
    return Blocked(tx, lambda: tx.send_batch([b"x"] * 10_000))


def answers() -> Blocked:
    tx = mcast.Sender(text(), ttl=0, timeout=LONG)
    return Blocked(tx, tx.recv)


def gathering() -> Blocked:
    tx = mcast.Sender(text(), ttl=0)
    return Blocked(tx, lambda: list(tx.gather(b"x", LONG)), True)


def awaiting(name: str) -> Blocked:
    rx = aio.Receiver(text(), timeout=LONG)

    async def iterate() -> None:
        async for _ in rx:
            pass

    calls: dict[str, Callable[[], Any]] = {
        "recv": rx.recv,
        "recv_batch": rx.recv_batch,
        "collect": lambda: rx.collect(10),
        "iteration": iterate,
    }

    async def tasks() -> None:
        outcomes = await asyncio.gather(*(calls[name]() for _ in range(3)), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    return Blocked(rx, lambda: asyncio.run(tasks()), name == "iteration")


def awaiting_send() -> Blocked:
    tx = aio.Sender(text(), ttl=0, rate=2)
    return Blocked(tx, lambda: asyncio.run(tx.send_batch([b"x"] * 10_000)))


def awaiting_all_answers() -> Blocked:
    tx = aio.Sender(text(), ttl=0)

    async def gather() -> None:
        async for _ in tx.gather(b"x", LONG):
            pass

    return Blocked(tx, lambda: asyncio.run(gather()), True)


def awaiting_answers() -> Blocked:
    tx = aio.Sender(text(), ttl=0, timeout=LONG)
    return Blocked(tx, lambda: asyncio.run(tx.recv()))


RECEIVES = ("recv", "recv_batch", "collect", "wait", "iteration")
RECEIVERS: dict[str, dict[str, Any]] = {
    "socket": {},
    "ring": {"ring": "1MiB"},
    "background": {"background": "1MiB"},
    "watch": {"watch": True},
}
CALLS: dict[str, Callable[[], Blocked]] = {
    **{
        f"{path} {name}": lambda name=name, options=options: receiving(name, **options)
        for path, options in RECEIVERS.items()
        for name in RECEIVES
    },
    "paced send_batch": sending,
    "paced send_batch of bursts": lambda: sending(burst=10),
    "sender recv": answers,
    "sender gather": gathering,
    **{f"aio {name}": lambda name=name: awaiting(name) for name in ("recv", "recv_batch", "collect", "iteration")},
    "aio send_batch": awaiting_send,
    "aio sender recv": awaiting_answers,
    "aio sender gather": awaiting_all_answers,
}


def ends(make: Callable[[], Blocked]) -> None:
    """Closes in the middle of a call of another thread, at a random moment: from just begun to long blocked."""
    blocked = make()
    outcome: list[object] = []
    begun = threading.Event()

    def run() -> None:
        begun.set()
        try:
            outcome.append(blocked.call())
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    time.sleep(random.choice((0.0, 0.0001, 0.001, 0.02)))
    blocked.thing.close()
    check(blocked.thing.closed, "close() did not close")
    thread.join()
    blocked.thing.close()
    (answer,) = outcome
    if blocked.is_iteration and not isinstance(answer, BaseException):
        return
    check(isinstance(answer, ClosedError), f"it ended with {answer!r}")


def from_a_handler(make: Callable[[], Blocked]) -> None:
    """The same from a signal handler that interrupts the call."""
    blocked = make()
    before = signal.signal(signal.SIGALRM, lambda *_: blocked.thing.close())
    signal.setitimer(signal.ITIMER_REAL, random.choice((0.0005, 0.02)), AGAIN)
    try:
        answer = blocked.call()
        check(blocked.is_iteration, f"it returned {answer!r}")
    except ClosedError:
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    check(blocked.thing.closed, "close() did not close")


def one_call(name: str) -> None:
    make = CALLS[name]
    ends(make)
    gc.collect()
    before, threads = sum(1 for _ in DESCRIPTORS.iterdir()), threading.active_count()
    for _ in range(ROUNDS):
        ends(make)
    for _ in range(ROUNDS // 4):
        from_a_handler(make)
    nothing_left(before, threads)


def many(path: str) -> None:
    """Threads call everything while it is closed, by two threads at once: nothing but errors of ours."""
    failures: list[BaseException] = []
    for _ in range(ROUNDS):
        subject = PATHS[path]()
        calls = [
            *subject.calls.values(),
            lambda subject=subject: subject.thing.stats,
            lambda subject=subject: repr(subject.thing),
        ]
        barrier = threading.Barrier(THREADS + 1)

        def use(subject: Any = subject, calls: Any = calls, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            order = random.sample(calls, len(calls))
            last = False
            while True:
                for call in order:
                    try:
                        call()
                    except (MulticastError, TimeoutError, EOFError):
                        pass
                    except BaseException as error:
                        failures.append(error)
                        return
                if last:
                    return
                last = subject.thing.closed

        threads = [threading.Thread(target=use) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        barrier.wait()
        time.sleep(random.choice((0.0, 0.001, 0.01)))
        closers = [threading.Thread(target=subject.close) for _ in range(2)]
        for thread in closers:
            thread.start()
        for thread in closers + threads:
            thread.join()
        if failures:
            raise failures[0]


def main(what: str, path: str = "") -> None:
    if what == "many":
        many(path)
    else:
        one_call(what)
    print("held", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
