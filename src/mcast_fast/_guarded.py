"""What Reader, Writer and Recorder have in common: calls come one at a time, close() at any moment, and a forked child
only closes descriptors.

Rules of this module: no I/O. The order of the checks is what matters, and is written here once.
"""

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import ClassVar, Concatenate, ParamSpec, TypeVar

from mcast_fast._core import process
from mcast_fast._core.lifetime import Closing
from mcast_fast.errors import ClosedError, MulticastError, warn

_P = ParamSpec("_P")
_T = TypeVar("_T")
_S = TypeVar("_S", bound="Guarded")


class Guarded(Closing):
    """An object that threads share, that one process owns, and that may be closed from a signal handler.

    `_lock` is held during every call, `_busy` is true meanwhile: the lock lets the same thread in again, which is how a
    signal handler's close() gets past an interrupted call without waiting for it. close() only marks; the thread that
    leaves last tears down.
    """

    _WHAT: ClassVar[str]

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._busy = False
        self._torn_down = False
        self._process = process.number
        self._closed = True  # until everything is open

    def _check_process(self) -> None:
        if self._process != process.number:
            raise ClosedError(f"the {self._WHAT} was opened in another process; open one in this process")

    def _check_open(self) -> None:
        self._check_process()
        if self._closed:
            raise ClosedError(f"the {self._WHAT} is closed")

    def _check_entry(self) -> None:
        """Called with the lock held. MulticastError in a signal handler that interrupted another call."""
        if self._busy:
            raise MulticastError(
                f"the {self._WHAT} is in the middle of another call: a signal handler that interrupts one may close it "
                "or read its properties"
            )
        self._check_open()

    def _settle(self) -> None:
        """Tear down what was closed, unless a call is in progress: that call does it when it ends."""
        if self._process != process.number:
            self._abandon()
        elif self._lock.acquire(blocking=False):
            try:
                if not self._busy and not self._torn_down:
                    self._torn_down = True
                    self._tear_down()
            finally:
                self._lock.release()

    def _tear_down(self) -> None:
        """Close everything; called once."""
        raise NotImplementedError

    def _abandon(self) -> None:
        """Close the descriptors of a forked child, and nothing else."""
        raise NotImplementedError

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        """Close the object, and the file that it opened; closing again does nothing.

        Any thread and any signal handler may call it at any moment: a call that is in progress ends first. In a forked
        child only descriptors are closed.

        Raises:
            FileError: The system refuses; the file is closed all the same.
        """
        self._closed = True
        self._settle()

    def _is_unfinished(self) -> bool:
        """Whether something is lost, or stays open, when nobody closes this."""
        return not self._closed

    def __del__(self) -> None:
        if getattr(self, "_closed", True) or self._process != process.number or not self._is_unfinished():
            return
        try:
            warn(f"unclosed {self!r}", ResourceWarning, self)
        finally:
            with contextlib.suppress(ValueError):  # a file of the same cycle that was collected first, and is closed
                self.close()


def guarded(method: Callable[Concatenate[_S, _P], _T]) -> Callable[Concatenate[_S, _P], _T]:
    """Run a method of a Guarded object while no other one runs; ClosedError, MulticastError."""

    @functools.wraps(method)
    def call(self: _S, /, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        self._check_open()
        try:
            with self._lock:
                self._check_entry()
                self._busy = True
                try:
                    return method(self, *args, **kwargs)
                finally:
                    self._busy = False
        finally:
            if self._closed:
                self._settle()

    return call
