"""Interrupts at every moment: an exception, or a call, wherever CPython would run a signal handler.

CPython looks for signals when a function is entered, after a call, and when a loop goes round: not between any two
instructions. A trace function finds those moments in the files given, and acts at the n-th.
"""

import contextlib
import dis
import functools
import inspect
import itertools
import sys
import threading
from collections.abc import Callable, Iterator
from types import CodeType, FrameType
from typing import Any

import pytest

LOOKED_AFTER = ("CALL", "JUMP_BACKWARD", "RESUME")


class Interrupt(BaseException):
    """What a signal handler raises."""


def raise_interrupt() -> None:
    raise Interrupt


class HandlerError(Exception):
    """What a signal handler raises that `except Exception` takes for an error of the call."""


def raise_error() -> None:
    raise HandlerError


@functools.cache
def moments(code: CodeType) -> frozenset[int]:
    """The offsets before whose instruction signals have been looked for."""
    found, was = set(), ""
    for one in dis.get_instructions(code):
        if was.startswith(LOOKED_AFTER):
            found.add(one.offset)
        was = one.opname
    return frozenset(found)


class Interrupter:
    """Calls `act` at the n-th moment of what `run` calls, in these files; `happened` says whether it came to that."""

    def __init__(self, files: frozenset[str], number: int, act: Callable[[], object] = raise_interrupt) -> None:
        self._files = files
        self._left = number
        self._act = act
        self.happened = False

    def run(self, call: Callable[[], Any]) -> Any:
        with _watched(self):
            return call()

    def concerns(self, code: CodeType) -> bool:
        return not self.happened and code.co_filename in self._files

    def enters(self, code: CodeType) -> None:
        if not code.co_flags & inspect.CO_GENERATOR:  # which are entered to be closed, too
            self._count()

    def comes_to(self, code: CodeType, offset: int) -> None:
        if offset in moments(code):
            self._count()

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.happened = True
            self._act()


@contextlib.contextmanager
def _traced(interrupter: Interrupter) -> Iterator[None]:
    def trace(frame: FrameType, event: str, _: object) -> Any:
        if not interrupter.concerns(frame.f_code):
            return None
        if event == "call":
            frame.f_trace_opcodes = True
            interrupter.enters(frame.f_code)
        elif event == "opcode":
            interrupter.comes_to(frame.f_code, frame.f_lasti)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield
    finally:
        sys.settrace(before)


_TOOL = 4
_watching: list[tuple[int, Interrupter]] = []  # with its thread; the last one counts


@contextlib.contextmanager
def _monitored(interrupter: Interrupter) -> Iterator[None]:
    """From CPython 3.12 on: a trace function there misses the instructions of what it sees for the first time."""
    events = sys.monitoring.events
    _watching.append((threading.get_ident(), interrupter))
    sys.monitoring.set_events(_TOOL, events.PY_START | events.INSTRUCTION)
    try:
        yield
    finally:
        _watching.pop()
        if not _watching:
            sys.monitoring.set_events(_TOOL, 0)


def _concerned(code: CodeType) -> Interrupter | None:
    thread, interrupter = _watching[-1] if _watching else (0, None)
    return interrupter if thread == threading.get_ident() and interrupter.concerns(code) else None


def _on_start(code: CodeType, _offset: int) -> None:
    if (interrupter := _concerned(code)) is not None:
        interrupter.enters(code)


def _on_instruction(code: CodeType, offset: int) -> None:
    if (interrupter := _concerned(code)) is not None:
        interrupter.comes_to(code, offset)


_watched = _traced
if sys.version_info >= (3, 12):
    sys.monitoring.use_tool_id(_TOOL, "interrupts")
    sys.monitoring.register_callback(_TOOL, sys.monitoring.events.PY_START, _on_start)
    sys.monitoring.register_callback(_TOOL, sys.monitoring.events.INSTRUCTION, _on_instruction)
    _watched = _monitored


def interrupt_at_each(files: frozenset[str], call: Callable[[], object], step: int = 1) -> None:
    """Call it again and again: a handler raises HandlerError at the first moment, then `step` later, until none is left."""
    for number in itertools.count(1, step):
        interrupter = Interrupter(files, number, raise_error)
        with contextlib.suppress(HandlerError):
            interrupter.run(call)
        if not interrupter.happened:
            break
    assert number > 10 * step


needs_tracing = pytest.mark.skipif(
    sys.implementation.name != "cpython", reason="feature interrupts: moments are those of CPython"
)
