"""trio's loop, behind the calls of asyncio's that this package makes. Imported where a task of trio awaits.

Rules of this module: what asyncio's loop calls back, a system task of trio calls, which ends with the run; no exception
leaves one.
"""

from collections.abc import Awaitable, Callable, Generator
from typing import Any

import trio

GLANCE = 0.001  # seconds between looks at a descriptor that trio does not watch
Call = Callable[..., object]


def current() -> "Loop":
    """The loop of this run of trio."""
    loop: Loop | None = _LOOP.get()
    if loop is None:
        loop = Loop()
        _LOOP.set(loop)
    return loop


class Future:
    """asyncio.Future, as far as it is used: one task awaits it."""

    def __init__(self) -> None:
        self._event = trio.Event()
        self._cancelled = False
        self._result: Any = None

    def done(self) -> bool:
        return self._cancelled or self._event.is_set()

    def cancelled(self) -> bool:
        return self._cancelled

    def set_result(self, result: Any, /) -> None:
        self._result = result
        self._event.set()

    def __await__(self) -> Generator[Any, Any, Any]:
        try:
            yield from self._event.wait().__await__()
        except BaseException:
            self._cancelled = not self._event.is_set()
            raise
        return self._result


class Task:
    """A system task that can be cancelled at any moment, also before it begins."""

    def __init__(self, run: Callable[..., Awaitable[None]], *args: Any) -> None:
        self._scope = trio.CancelScope()
        trio.lowlevel.spawn_system_task(self._run, run, args, name="mcast_fast.aio")

    async def _run(self, run: Callable[..., Awaitable[None]], args: tuple[Any, ...]) -> None:
        with self._scope:
            await run(*args)

    def cancel(self) -> None:
        self._scope.cancel()


class Loop:
    """One run of trio. It is closed when the run ends."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._closed = False
        self._readers: dict[Any, Task] = {}
        self._writers: dict[Any, Task] = {}
        Task(self._live)

    async def _live(self) -> None:
        try:
            await trio.sleep_forever()
        finally:
            self._closed = True

    def time(self) -> float:
        now: float = trio.current_time()
        return now

    def is_running(self) -> bool:
        return not self._closed

    def is_closed(self) -> bool:
        return self._closed

    def create_future(self) -> Future:
        return Future()

    def call_at(self, when: float, callback: Call, /, *args: Any) -> Task:
        async def wait() -> None:
            await trio.sleep_until(when)
            callback(*args)

        return Task(wait)

    def call_later(self, delay: float, callback: Call, /, *args: Any) -> Task:
        return self.call_at(self.time() + delay, callback, *args)

    def call_soon_threadsafe(self, callback: Call, /, *args: Any) -> None:
        self._token.run_sync_soon(callback, *args)

    def add_reader(self, fd: Any, callback: Call, /, *args: Any) -> None:
        self.remove_reader(fd)
        self._readers[fd] = Task(_watch, trio.lowlevel.wait_readable, fd, callback, args)

    def remove_reader(self, fd: Any, /) -> bool:
        return _cancel(self._readers, fd)

    def add_writer(self, fd: Any, callback: Call, /, *args: Any) -> None:
        self.remove_writer(fd)
        self._writers[fd] = Task(_watch, trio.lowlevel.wait_writable, fd, callback, args)

    def remove_writer(self, fd: Any, /) -> bool:
        return _cancel(self._writers, fd)


async def _watch(ready: Callable[[Any], Awaitable[None]], fd: Any, callback: Call, args: tuple[Any, ...]) -> None:
    """Calls again and again while the descriptor is ready, as asyncio does; now and then where it cannot be watched."""
    while True:
        try:
            await ready(fd)
        except (OSError, trio.BusyResourceError, trio.ClosedResourceError):
            await trio.sleep(GLANCE)
        callback(*args)


def _cancel(tasks: dict[Any, Task], fd: Any) -> bool:
    task = tasks.pop(fd, None)
    if task is not None:
        task.cancel()
    return task is not None


_LOOP: trio.lowlevel.RunVar[Loop | None] = trio.lowlevel.RunVar("mcast_fast.aio", default=None)
