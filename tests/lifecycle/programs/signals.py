"""A signal at random moments of a call, swept over time: `signals PATH CALL COUNT`.

COUNT is shared out among the handlers: one raises, one closes, one joins and leaves. Afterwards nothing is lost that was
counted, memberships are the old ones or the new ones, and close() leaves no descriptor and no thread. An exception that
comes when a call has already returned takes the answer of that one call with it: that is Python's, and allowed for calls
that return something.
"""

import contextlib
import gc
import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import mcast_fast as mcast
from mcast_fast import MulticastError
from tests.lifecycle.programs.paths import check, free_port, group

SHORT, LONG = 0.003, 100.0  # seconds a receive waits where the handler does not end it, and where it does
PATIENCE = 20.0  # seconds for what must be there
LONGEST_DELAY = 0.002
AGAIN = (
    0.05  # a signal just before a system call that blocks does not interrupt it: Python's handler waits for the next
)
ROUNDS_OPEN = 25  # moments until the object is opened afresh
BURST = 20
OPTIONS: dict[str, dict[str, object]] = {
    "socket": {},
    "ring": {"ring": "1MiB", "ring_latency": 0.001},
    "background": {"background": "1MiB"},
    "watch": {"watch": True},
    "paced": {},
}


class Interrupted(BaseException):
    """What a handler raises, as the one of Ctrl-C raises KeyboardInterrupt."""


class Scene:
    """A receiver and a sender for it, with numbered packets; `expected` are those that the receiver still has to give."""

    def __init__(self, path: str) -> None:
        text = f"{group(1)}:{free_port()}"
        self.other = text.replace("239.7.7.1", "239.7.7.2")
        self.third = text.replace("239.7.7.1", "239.7.7.3")
        self.options = OPTIONS[path]
        self.collecting = LONG  # seconds that a collect waits for more than comes
        rate = "20k/s" if path == "paced" else None
        self.tx = mcast.Sender(text, ttl=0, rate=rate)
        self.rx = mcast.Receiver(text, timeout=SHORT, **self.options)
        self.numbers = itertools.count()
        self.got: list[int] = []
        self.raised = 0  # exceptions so far, each of which may have taken one answer with it

    def send(self, count: int) -> None:
        self.tx.send_batch([b"%d" % number for number in itertools.islice(self.numbers, count)])

    def take(self, batch: "mcast.Batch | list[mcast.Packet]") -> None:
        self.got += [int(bytes(packet.data)) for packet in batch]

    def settle(self, largest_answer: int) -> None:
        """Receive the rest: in order, none twice, and none missing but what exceptions took with them.

        A background thread counts what it receives before it queues it: what is counted may come a moment later."""
        sent, taken = self.tx.stats.datagrams, self.raised * largest_answer
        deadline = time.monotonic() + PATIENCE
        while min(self.rx.stats.received, len(self.got) + taken) < sent and time.monotonic() < deadline:
            self.take(self.rx.collect(sent, timeout=SHORT))
        self.take(self.rx.collect(sent + 1, timeout=0))  # what is left over
        check(self.rx.stats.received == sent, f"{sent} sent, {self.rx.stats}")
        check(self.got == sorted(set(self.got)), "not in order, or twice")
        lost = sent - len(self.got)
        check(lost <= taken, f"{lost} of {sent} lost after {self.raised} exceptions")

    def close(self) -> None:
        self.rx.close()
        self.tx.close()


# ---- what the signal hits: armed calls come again until it has come ----


def recv(scene: Scene) -> None:
    scene.take([scene.rx.recv()])


def recv_batch(scene: Scene) -> None:
    scene.take(scene.rx.recv_batch())


def collect(scene: Scene) -> None:
    """More than comes: it cannot have returned when a handler raises, and nothing may be lost."""
    scene.take(scene.rx.collect(1_000_000, timeout=scene.collecting))


def stats(scene: Scene) -> None:
    _ = scene.rx.stats


def memberships(scene: Scene) -> None:
    _ = scene.rx.memberships


def join(scene: Scene) -> None:
    scene.rx.join(scene.other)
    scene.rx.leave(scene.other)


def sources(scene: Scene) -> None:
    scene.rx.join(scene.other)
    scene.rx.set_sources(scene.other, include=["10.0.0.1", "10.0.0.2"])
    scene.rx.set_sources(scene.other, exclude=[])
    scene.rx.leave(scene.other)


def send_batch(scene: Scene) -> None:
    scene.send(BURST)


def close(scene: Scene) -> None:
    """Closes, and opens another one, until the signal has come."""
    scene.rx.close()
    scene.rx = mcast.Receiver(f"{group(4)}:{free_port()}", **scene.options)


# A call, and the most packets that an answer of it holds (0: nothing can be lost).
CALLS: dict[str, tuple[Callable[[Scene], None], int]] = {
    "recv": (recv, 1),
    "recv_batch": (recv_batch, BURST),
    "collect": (collect, 0),
    "stats": (stats, 0),
    "memberships": (memberships, 0),
    "join": (join, 0),
    "sources": (sources, 0),
    "send_batch": (send_batch, 0),
    "close": (close, 0),
}
RECEIVING = ("recv", "recv_batch", "collect")


# ---- what the handler does ----


def raises(_: Scene) -> None:
    raise Interrupted


def closes(scene: Scene) -> None:
    scene.rx.close()


def changes(scene: Scene) -> None:
    """Membership calls in the middle of any other: done, or an error of ours."""
    with contextlib.suppress(MulticastError):
        scene.rx.join(scene.third)
    with contextlib.suppress(MulticastError):
        scene.rx.leave(scene.third)


HANDLERS: dict[str, Callable[[Scene], None]] = {"raises": raises, "closes": closes, "changes": changes}


# ---- the sweep ----


@contextlib.contextmanager
def armed(act: Callable[[], None], delay: float) -> Iterator[Callable[[], bool]]:
    """A signal after some seconds; the block learns whether it has come."""
    came: list[bool] = []

    def handler(*_: object) -> None:
        if not came:
            came.append(True)
            act()

    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, delay, AGAIN)
    try:
        yield lambda: bool(came)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def moment(scene: Scene, call: str, handler: str, delay: float) -> None:
    """One signal, in the middle of the call that comes again until then."""
    act, _ = CALLS[call]
    if call in RECEIVING:
        scene.send(random.randrange(BURST))
    try:
        with armed(lambda: HANDLERS[handler](scene), delay) as came:
            while not came():
                with contextlib.suppress(TimeoutError):
                    act(scene)
    except Interrupted:
        scene.raised += 1
    except MulticastError:
        check(handler == "closes", "an error of ours where nothing was closed")


def after(scene: Scene, call: str) -> None:
    """The receiver, if it is open, does all it should."""
    if call == "close":
        return
    check(not scene.rx.closed, "it is closed")
    scene.settle(CALLS[call][1])
    check(any("239.7.7.1" in str(one) for one in scene.rx.memberships), scene.rx.memberships)
    scene.rx.join(scene.other)
    check(not scene.rx.join(scene.other), "joined twice")
    check(scene.rx.leave(scene.other), "not joined")
    check(not scene.rx.leave(scene.other), "left twice")


DESCRIPTORS = Path("/proc/self/fd" if Path("/proc/self/fd").is_dir() else "/dev/fd")


def descriptors() -> int:
    return sum(1 for _ in DESCRIPTORS.iterdir())


def nothing_left(before: int, threads: int) -> None:
    """No descriptor is open, and no thread runs, but those that did; a thread may take a moment to end."""
    gc.collect()
    deadline = time.monotonic() + PATIENCE
    while (descriptors() > before or threading.active_count() > threads) and time.monotonic() < deadline:
        time.sleep(0.005)
    check(descriptors() <= before, f"{descriptors() - before} descriptors left")
    check(threading.active_count() <= threads, threading.enumerate())


def sweep(path: str, call: str, handler: str, count: int) -> None:
    Scene(path).close()  # what is opened once for all, is open then
    gc.collect()
    before, threads = descriptors(), threading.active_count()
    scene: Scene | None = None
    for number in range(count):
        if scene is None:
            scene = Scene(path)
            scene.collecting = SHORT if handler == "changes" else LONG
        moment(scene, call, handler, random.uniform(1e-6, LONGEST_DELAY))
        if handler == "closes":
            check(call == "close" or scene.rx.closed, "it is open")
        else:
            after(scene, call)
        if handler == "closes" or number % ROUNDS_OPEN == ROUNDS_OPEN - 1 or number == count - 1:
            scene.close()
            check(scene.rx.closed, "close() did not close")
            scene = None
            nothing_left(before, threads)


def main(path: str, call: str, count: str) -> None:
    seed = int(os.environ.get("MCAST_FAST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
    random.seed(seed)
    for handler in HANDLERS:
        print(f"{path} {call}: the handler {handler} (MCAST_FAST_SEED={seed})", flush=True)
        sweep(path, call, handler, -(-int(count) // len(HANDLERS)))
    print("held", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
