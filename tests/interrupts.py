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
from collections.abc import Callable
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
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return call()
        finally:
            sys.settrace(before)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if self.happened or frame.f_code.co_filename not in self._files:
            return None
        if event == "call":
            frame.f_trace_opcodes = True
            if not frame.f_code.co_flags & inspect.CO_GENERATOR:  # which are entered to be closed, too
                self._count()
        elif event == "opcode" and frame.f_lasti in moments(frame.f_code):
            self._count()
        return self._trace

    def _count(self) -> None:
        self._left -= 1
        if self._left == 0:
            self.happened = True
            self._act()


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
