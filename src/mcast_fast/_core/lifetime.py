"""Which calls are inside an object, and when its descriptors may be closed: the life-cycle contract for code in Python.

Rules of this module: `close` takes no lock that the code a signal interrupted may hold.
"""

import socket
import threading
import weakref
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Self

from mcast_fast._core import process
from mcast_fast.errors import ClosedError


class Lifetime:
    """The uses of one object, and its close.

    `subject` is what errors call the object. `when_idle` is called after `close`, when the last use has ended; and once
    more by the next `close`, where an exception of a signal handler ended it.

    A use is written so that an exception of a signal handler, at whatever bytecode it comes, leaves nothing behind:
    locks are entered and left by C.

        try:
            with lifetime.inside():
                lifetime.check()
                ...
        finally:
            lifetime.settle()
    """

    def __init__(self, subject: str, when_idle: Callable[[], object] | None = None) -> None:
        self.closed = False
        self._subject = subject
        self._process = process.number
        self._inside: dict[int, threading.RLock] = {}  # by thread; held while it is inside
        self._when_idle = when_idle

    @property
    def foreign(self) -> bool:
        """Whether another process opened the object: only closing is allowed then."""
        return self._process != process.number

    def inside(self) -> "threading.RLock":
        """What the calling thread holds while it is inside; it may be so several times."""
        thread = threading.get_ident()
        return self._inside.get(thread) or self._inside.setdefault(thread, threading.RLock())

    def check(self) -> None:
        """ClosedError when the object is closed, or belongs to another process; to be called inside."""
        if self.foreign:
            raise ClosedError(f"{self._subject} was opened in another process")
        if self.closed:
            raise ClosedError(f"{self._subject} is closed")

    def settle(self) -> None:
        """Call `when_idle` if the object is closed, nobody is inside, and it has not returned yet."""
        call = self._when_idle
        if not self.closed or call is None:
            return
        # In a child the threads that were inside are gone, and their locks stay held.
        if not self.foreign and any(map(_is_held, list(self._inside.values()))):
            return
        call()
        self._when_idle = None

    def close(self) -> None:
        """Refuse new uses from now on, from any thread or signal handler; the last one out closes what is in use."""
        self.closed = True
        self.settle()


def _is_held(lock: "threading.RLock") -> bool:
    """Whether a thread, this one included, holds the lock."""
    if lock._is_owned():  # type: ignore[attr-defined]
        return True
    taken: list[bool] = []
    try:
        taken.extend(map(lock.acquire, (False,)))  # noted in the call that takes it: no signal comes between
        return not taken[0]
    finally:
        if taken and taken[0]:
            lock.release()


def close_all(sockets: Iterable[socket.socket]) -> None:
    """Close every one of these, and do nothing else; again does nothing.

    An exception of a signal handler in the middle is raised when all are closed. What the system answers is left out: a
    descriptor is gone after close(2), whatever it returns."""
    interrupted: BaseException | None = None
    left = list(sockets)
    while left:
        try:
            while left:
                # Without names of this module, which may be gone where the interpreter ends.
                try:  # noqa: SIM105
                    left[-1].close()
                except OSError:
                    pass
                left.pop()
        except BaseException as error:
            interrupted = error
    if interrupted is not None:
        raise interrupted


class Closing:
    """What `with` closes at its end."""

    def close(self) -> None:
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def weakly(method: Callable[[], None]) -> Callable[[], None]:
    """A call of a method that does not keep its object alive."""
    known = weakref.WeakMethod(method)

    def call() -> None:
        alive = known()
        if alive is not None:
            alive()

    return call
