"""The interpreter ends while something is open, or held by somebody else: `exit PATH HOW`.

The exit code has to be 0, and standard error empty but for ResourceWarnings.
"""

import builtins
import contextlib
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import mcast_fast as mcast
from mcast_fast import MulticastError
from tests.lifecycle.programs.paths import PATHS, Subject, batch_of, free_port, group

kept: list[Any] = []


class Node:
    """Part of a reference cycle, with something on it."""

    def __init__(self, thing: object) -> None:
        self.thing = thing
        self.itself = self


def in_global(thing: object) -> None:
    kept.append(thing)


def in_cycle(thing: object) -> None:
    Node(thing)


def on_sys(thing: object) -> None:
    sys.kept_by_a_test = thing  # type: ignore[attr-defined]


def in_builtins(thing: object) -> None:
    builtins.kept_by_a_test = thing  # type: ignore[attr-defined]


def by_thread(thing: object) -> None:
    """Held by the stack of a daemon thread that never ends."""
    started = threading.Event()

    def hold(_: object) -> None:
        started.set()
        time.sleep(1_000)

    threading.Thread(target=hold, args=(thing,), daemon=True).start()
    started.wait()


def in_use(subject: Subject) -> None:
    """Daemon threads are in the middle of calls: every call of the object, in turn, from two threads."""
    kept.append(subject)
    turns = [0, 0]

    def use(number: int) -> None:
        while True:
            for call in (*subject.calls.values(), lambda: subject.thing.stats):
                with contextlib.suppress(MulticastError, TimeoutError, RuntimeError, EOFError):
                    call()
                turns[number] += 1

    for number in range(2):
        threading.Thread(target=use, args=(number,), daemon=True).start()
    deadline = time.monotonic() + 5
    while min(turns) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)


def blocked(subject: Subject) -> None:
    """Daemon threads wait for what never comes."""
    kept.append(subject)
    for name in ("recv", "recv_batch"):
        if name in subject.calls and hasattr(subject.thing, name):
            threading.Thread(target=getattr(subject.thing, name), kwargs={"timeout": None}, daemon=True).start()
    time.sleep(0.1)


HOLDERS: dict[str, Callable[[Any], None]] = {
    "global": in_global,
    "cycle": in_cycle,
    "sys": on_sys,
    "builtins": in_builtins,
    "thread": by_thread,
}
USES: dict[str, Callable[[Subject], None]] = {"in use": in_use, "blocked": blocked}


# ---- what other libraries make of a batch ----


def _received(**options: Any) -> mcast.Batch:
    """A batch whose payloads may still be in a ring; the receiver stays open."""
    text = f"{group()}:{free_port()}"
    rx, tx = mcast.Receiver(text, timeout=5, **options), mcast.Sender(text, ttl=0)
    kept.append(rx)
    tx.send_batch([b"payload"] * 10)
    return rx.recv_batch()


def _arrow(batch: mcast.Batch) -> object:
    import pyarrow as pa

    return pa.record_batch(batch)


def _arrow_buffer(batch: mcast.Batch) -> object:
    import pyarrow as pa

    return pa.py_buffer(batch.data)


def _numpy(batch: mcast.Batch) -> object:
    import numpy as np

    return np.asarray(batch)["length"]


EXPORTS: dict[str, Callable[[mcast.Batch], object]] = {
    "pyarrow": _arrow,
    "pyarrow buffer": _arrow_buffer,
    "numpy": _numpy,
    "memoryview": lambda batch: memoryview(batch.data),
    "records": lambda batch: memoryview(batch.records),
    "packet": lambda batch: batch[0],
    "iterator": iter,
}


def main(what: str, how: str) -> None:
    if what in PATHS:
        subject = PATHS[what]()
        if how in USES:
            USES[how](subject)
        else:
            HOLDERS[how](subject)
    else:
        origin, _, name = what.partition(" as ")
        batch = _received(ring="1MiB") if origin == "ring" else batch_of(10)
        HOLDERS[how](EXPORTS[name](batch))
    print("done", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
