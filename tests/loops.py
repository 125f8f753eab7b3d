"""Tasks of whichever loop a test runs in: asyncio's own, or anyio's over asyncio and over trio."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, TypeVar

with contextlib.suppress(ImportError):
    import anyio

T = TypeVar("T")
_groups: "list[anyio.abc.TaskGroup]" = []  # that of the running test; none: plain asyncio


class Task:
    """What asyncio.Task is to the tests, as a task of anyio."""

    def __init__(self, call: Awaitable[Any]) -> None:
        self._scope = anyio.CancelScope()
        self._ended = anyio.Event()
        self._cancelled = False
        self._result: Any = None
        self._error: Exception | None = None
        _groups[-1].start_soon(self._run, call)

    async def _run(self, call: Awaitable[Any]) -> None:
        with self._scope:
            try:
                self._result = await call
            except Exception as error:
                self._error = error
        self._cancelled = self._scope.cancelled_caught
        self._ended.set()

    def cancel(self) -> None:
        self._scope.cancel()

    def done(self) -> bool:
        return self._ended.is_set()

    def cancelled(self) -> bool:
        return self._cancelled

    def __await__(self) -> Generator[Any, Any, Any]:
        yield from self._ended.wait().__await__()
        if self._cancelled:
            raise asyncio.CancelledError
        if self._error is not None:
            raise self._error
        return self._result


def spawn(call: Coroutine[Any, Any, Any]) -> "Task | asyncio.Future[Any]":
    """A task that runs beside the one that calls, and can be cancelled and awaited."""
    return Task(call) if _groups else asyncio.ensure_future(call)


async def sleep(seconds: float) -> None:
    """asyncio.sleep."""
    await (anyio if _groups else asyncio).sleep(seconds)


def clock() -> Callable[[], float]:
    """The clock of the running loop."""
    return anyio.current_time if _groups else asyncio.get_running_loop().time


async def gather(*calls: Any, return_exceptions: bool = False) -> list[Any]:
    """asyncio.gather."""
    if not _groups:
        return await asyncio.gather(*calls, return_exceptions=return_exceptions)
    results: list[Any] = []
    for task in [call if isinstance(call, Task) else Task(call) for call in calls]:
        try:
            results.append(await task)
        except (Exception, asyncio.CancelledError) as error:
            if not return_exceptions:
                raise
            results.append(error)
    return results


async def wait_for(call: Awaitable[T], seconds: float) -> T:
    """asyncio.wait_for."""
    if not _groups:
        return await asyncio.wait_for(call, seconds)
    with anyio.fail_after(seconds):
        return await call


def run(main: Awaitable[T], backend: str) -> T:
    """anyio.run, with a group for the tasks that the test spawns."""

    async def with_tasks() -> T:
        async with anyio.create_task_group() as group:
            _groups.append(group)
            try:
                with anyio.fail_after(30):
                    return await main
            finally:
                _groups.pop()
                group.cancel_scope.cancel()
        raise AssertionError

    return anyio.run(with_tasks, backend=backend)
