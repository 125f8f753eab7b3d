"""fork(): an object belongs to the process that opened it; a child refuses it, and the parent notices nothing."""

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

import pytest

from mcast_fast.sequence import Format
from tests.conftest import has_fast
from tests.lifecycle.process import run
from tests.lifecycle.programs.fork import ENDS, IN_PARENT
from tests.lifecycle.programs.paths import NEEDS, PATHS
from tests.malloc import allocated

pytestmark = pytest.mark.needs("signals to processes", "timers")

QUICK = ("socket", "close")  # the others are marked long


def cases() -> "list[object]":
    return [pytest.param(path, end, marks=marks(path, end)) for path in PATHS for end in (*ENDS, *IN_PARENT)]


def marks(path: str, end: str) -> "list[pytest.MarkDecorator]":
    found = [] if (path, end) == QUICK else [pytest.mark.long]
    if path in NEEDS:
        found.append(pytest.mark.needs(NEEDS[path]))
    return found


@pytest.mark.parametrize(("path", "end"), cases())
def test_the_parent_goes_on_whatever_a_child_does(backend: str, path: str, end: str) -> None:
    who = "daemon" if end == "daemon" else "parent"
    assert f"the {who} is well" in run("fork", path, end, backend=backend)


# ---- what a child frees ----


def compiled(name: str) -> Any:
    return importlib.import_module(f"mcast_fast._core.fast.{name}")


def batch(flows: int) -> Any:
    """A packet of each of that many flows."""
    from mcast_fast._core.layout import RECORD

    address = bytes(10) + b"\xff\xff" + bytes((239, 1, 1, 1))
    rows = [RECORD.pack(1 + at, 0, 1, 0, 8, 8, address, address, 1, 1 + at, 0, 0, 0) for at in range(flows)]
    return compiled("views").Batch.from_bytes(b"".join(rows), bytes(8), {1: "eth0"})


def decoder() -> Any:
    one = compiled("files").Decoder("a file", None, False)
    begin = bytes.fromhex("0a0d0d0a 1c000000 4d3c2b1a 01000000 ffffffffffffffff 1c000000")
    one.decode(begin + bytes.fromhex("01000000 14000000 01000000 00000000 14000000") * 3000, 1)
    assert len(one.interfaces) == 3000
    return one


def encoder() -> Any:
    one, packets = compiled("files").Encoder("pcapng"), batch(1)
    one.add(*one.key(packets, 0))
    descriptor = os.open(os.devnull, os.O_WRONLY)
    assert one.write(descriptor, packets, 0) == 1
    os.close(descriptor)
    return one


def summary() -> Any:
    one = compiled("files").Summary(1000)
    one.add(batch(1000))
    return one


def tracker() -> Any:
    one = compiled("sequence").Tracker(Format.parse("u64be@0").plan, False, 10**9, 1000)
    one.update(batch(1000))
    return one


def transmitter() -> Any:
    return compiled("send").Transmitter("the sender", 0.0, False, 1)


@pytest.mark.needs("mallinfo2")
@pytest.mark.skipif(bool(has_fast()), reason=f"feature fast: {has_fast()}")
@pytest.mark.parametrize("make", [decoder, encoder, summary, tracker, transmitter])
def test_a_child_frees_nothing_that_a_thread_may_be_in_the_middle_of(make: Callable[[], Any]) -> None:
    """The thread is not there, and what it was changing stays as it was at that moment."""
    held = [make()]
    # What is Python's own is freed: the object itself, and its names.
    most, names = 1000 + sys.getsizeof(held[0]), getattr(held[0], "names", None)
    if (child := os.fork()) == 0:
        before = allocated()
        held.clear()
        os._exit(0 if before - allocated() < most else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    before = allocated()
    held.clear()
    assert before - allocated() > most  # in the parent it is freed
    del names
