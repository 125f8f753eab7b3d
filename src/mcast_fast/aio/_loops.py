"""The loop that a task runs in: asyncio's own, or trio's behind the same few calls.

Rules of this module: trio is used where a task of trio calls, and imported nowhere else. anyio needs nothing of its
own: its tasks are those of asyncio or of trio.
"""

import asyncio
import sys
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from mcast_fast.aio import _trio

Loop: TypeAlias = "asyncio.AbstractEventLoop | _trio.Loop"
Future: TypeAlias = "asyncio.Future[Any] | _trio.Future"
Timer: TypeAlias = "asyncio.TimerHandle | _trio.Task"


def _in_trio() -> bool:
    trio = sys.modules.get("trio")
    return trio is not None and bool(trio.lowlevel.in_trio_task())


def running() -> Loop:
    """The loop of the task that calls; RuntimeError where none runs."""
    if _in_trio():
        from mcast_fast.aio import _trio

        return _trio.current()
    return asyncio.get_running_loop()


async def sleep(seconds: float) -> None:
    """Let others run, for some seconds or, with 0, for one turn."""
    await (sys.modules["trio"] if _in_trio() else asyncio).sleep(seconds)


class Order:
    """A lock for the tasks of whichever loop runs."""

    def __init__(self) -> None:
        self._loop: Loop | None = None
        self._lock: AbstractAsyncContextManager[object] = asyncio.Lock()

    def __call__(self) -> AbstractAsyncContextManager[object]:
        """The lock of the running loop, to be held by `async with`."""
        loop = running()
        if loop is not self._loop:
            self._loop, self._lock = loop, (sys.modules["trio"] if _in_trio() else asyncio).Lock()
        return self._lock
