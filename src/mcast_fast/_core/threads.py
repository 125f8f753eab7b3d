"""Threads that are started whole, whatever a signal handler raises meanwhile."""

import _thread
import queue
import threading
from collections.abc import Callable
from types import BuiltinFunctionType


def are_green() -> bool:
    """Whether threads that are started now take turns in one thread of the system: gevent and eventlet put functions of
    theirs in place of the interpreter's."""
    return not isinstance(_thread.start_new_thread, BuiltinFunctionType)


def start(target: Callable[..., object], *arguments: object, name: str) -> None:
    """Start a daemon thread; RuntimeError where the system has no thread left.

    An exception of a signal handler may end this call, and the thread runs all the same: whoever calls must be ready
    for both. It never comes inside Thread.start, where it can leave a thread that `threading` does not know, and that
    ends with a KeyError of its own before its target is called (CPython 3.11 to 3.13). Handlers run in the main thread
    alone, so another one makes that call."""
    thread = threading.Thread(target=target, args=arguments, name=name, daemon=True)
    answer: queue.SimpleQueue[Exception | None] = queue.SimpleQueue()
    _thread.start_new_thread(_start, (thread, answer))
    if (error := answer.get()) is not None:
        raise error


def _start(thread: threading.Thread, answer: "queue.SimpleQueue[Exception | None]") -> None:
    try:
        thread.start()
    except Exception as error:
        answer.put(error)
    else:
        answer.put(None)
