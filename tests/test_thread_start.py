"""Threads of our own: an exception of a signal handler while one is started leaves none behind."""

import contextlib
import gc
import itertools
import threading

import pytest

from mcast_fast._core import threads as _threads
from mcast_fast.aio import _waiting
from mcast_fast.aio._waiting import Worker
from mcast_fast.files import _replay
from mcast_fast.files._replay import ReadAhead
from tests.conftest import until
from tests.interrupts import HandlerError, Interrupt, Interrupter, needs_tracing, raise_error, raise_interrupt

FILES = frozenset(one.__file__ for one in (_threads, _replay, _waiting, threading))


def read_ahead() -> None:
    """Many more batches than are read ahead, of which none is taken."""
    with ReadAhead((number, None, 0) for number in range(10_000)):
        pass


def work() -> None:
    Worker("mcast-fast tested").close()


@needs_tracing
@pytest.mark.long
@pytest.mark.filterwarnings("ignore:Exception ignored in. <function Worker.__del__")  # what comes there is printed
@pytest.mark.parametrize("use", [read_ahead, work])
@pytest.mark.parametrize("act", [raise_interrupt, raise_error])
def test_a_start_that_is_interrupted_leaves_no_thread(use, act):
    threads = set(threading.enumerate())
    for number in itertools.count(1):
        interrupter = Interrupter(FILES, number, act)
        with contextlib.suppress(Interrupt, HandlerError):
            interrupter.run(use)
        gc.collect()
        assert until(lambda: set(threading.enumerate()) == threads), number
        if not interrupter.happened:
            break
    assert number > 10


def test_arguments_and_name_are_those_of_the_thread():
    told = []
    _threads.start(lambda *arguments: told.append((arguments, threading.current_thread())), 1, 2, name="tested")
    assert until(lambda: told)
    ((arguments, thread),) = told
    assert (arguments, thread.name, thread.daemon) == ((1, 2), "tested", True)


def test_a_thread_that_cannot_start_is_an_error_of_the_call(monkeypatch):
    def fail(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", fail)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        _threads.start(int, name="tested")
