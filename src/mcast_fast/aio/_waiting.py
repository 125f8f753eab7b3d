"""Waiting in an event loop of asyncio or trio: for what a receiver or sender receives, and for space to send.

Rules of this module: tasks are notified that packets are there, and take them themselves. Nothing stays in the loop
when nobody waits. A forked child closes its descriptors only: loop, poll set and wake-up pipe are the parent's too.
"""

import contextlib
import os
import queue
import socket
import weakref
from collections import deque
from collections.abc import Callable
from concurrent import futures
from typing import Any, Protocol, TypeVar

from mcast_fast._core import process, threads
from mcast_fast._units import NANOSECONDS
from mcast_fast.aio._loops import Future, Loop, Order, Timer, running, sleep
from mcast_fast.errors import ClosedError, FeatureError

T = TypeVar("T")
Call = Callable[[], object]

DENSE = 8  # packets in the time of a linger: from there on gathering them pays
ONE_TURN = 256  # packets that tasks take before the rest of the loop has its turn
LOOK_SECONDS = 1.0  # how often a thread that waits looks whether anybody is left to notify


class _Waited(Protocol):
    """What tasks wait for: a Receiver, or the answers of a Sender."""

    def fileno(self) -> int: ...
    def wait(self, timeout: float | None) -> bool: ...


class _Watch(Protocol):
    """Calls when a receive would not wait, again and again while that is so, from start() to stop(), in the loop."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class _ReaderWatch:
    """The loop's own add_reader. On a duplicate: the number must not go to somebody else while the loop knows it."""

    def __init__(self, loop: Loop, descriptor: int, call: Call) -> None:
        self._loop = loop
        self._call = call
        self._started = False
        self._process = process.number
        self._descriptors: list[int] = []
        # No moment of Python between the call and the list, in which an exception of a signal handler would lose it.
        self._descriptors.extend(map(os.dup, (descriptor,)))

    def start(self) -> None:
        if not self._started:
            self._loop.add_reader(self._descriptors[0], self._call)
            self._started = True

    def stop(self) -> None:
        if self._started:
            self._started = False
            if not self._loop.is_closed() and self._process == process.number:
                self._loop.remove_reader(self._descriptors[0])

    def close(self) -> None:
        self.stop()
        self._close_descriptor()

    def _close_descriptor(self) -> None:
        while self._descriptors:
            os.close(self._descriptors.pop())

    def __del__(self) -> None:
        if hasattr(self, "_descriptors"):  # the loop was closed, and forgot us
            self._close_descriptor()


class _ThreadWatch:
    """A thread that waits, for a loop without add_reader or a system without a descriptor. Packets are taken in the
    loop."""

    def __init__(self, loop: Loop, waited: _Waited, call: Call) -> None:
        self._call = call
        self._started = False
        self._looking = False
        self._looks: queue.SimpleQueue[bool] = queue.SimpleQueue()
        news = weakref.WeakMethod(self._looked)

        def notify() -> bool:
            method = news()
            if method is None:
                return False
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(method)
            return True

        arguments = (self._looks, waited.wait, notify, news)
        threads.start(_look, *arguments, name="mcast_fast.aio")

    def start(self) -> None:
        self._started = True
        self._look_again()

    def stop(self) -> None:
        self._started = False  # what the thread reports then is ignored

    def close(self) -> None:
        self.stop()
        self._looks.put(False)

    def _look_again(self) -> None:
        if self._started and not self._looking:
            self._looking = True
            self._looks.put(True)

    def _looked(self) -> None:
        self._looking = False
        if self._started:
            self._call()
            self._look_again()

    def __del__(self) -> None:
        if hasattr(self, "_looks"):
            self._looks.put(False)


def _look(
    looks: "queue.SimpleQueue[bool]",
    wait: Callable[[float], bool],
    notify: Callable[[], bool],
    wanted: Callable[[], Any],
) -> None:
    """The thread of a _ThreadWatch: one look for each True that comes, until a False, or until nobody is left."""
    while looks.get():
        with contextlib.suppress(ClosedError):  # is reported too
            while not wait(LOOK_SECONDS) and wanted() is not None:
                pass
        if not notify():
            return


class Line:
    """Tasks in line for what one receiver or sender receives: first come, first served, until closed.

    While packets come densely they are gathered for `linger` seconds before a task is notified: that costs as much
    as receiving a dozen packets. `ready`: a receive is worth trying before one gets in line."""

    def __init__(self, waited: _Waited, linger: float) -> None:
        self.ready = False
        self._waited = waited
        self._linger = linger
        self._loop: Loop | None = None
        self._watch: _Watch | None = None
        self._timer: Timer | None = None  # while packets are gathered
        self._queue: deque[Future] = deque()
        self._turn = 0  # packets taken since the loop last had its turn
        self._gathered = 0  # packets taken since
        self._since = 0.0  # by the loop's clock
        self._process = process.number
        self._closed = False

    def took(self, packets: int) -> None:
        """A task has taken this many."""
        self._turn += packets
        self._gathered += packets

    async def take(self, receive: Callable[[], T], timeout_ns: int) -> T:
        """What `receive` gives as soon as it does not raise TimeoutError; TimeoutError when the time is over."""
        if self._turn >= ONE_TURN:
            self._turn = 0
            await sleep(0)
        if (self.ready or timeout_ns == 0) and not self._queue:
            try:
                return receive()
            except TimeoutError:
                self.ready = False
        if timeout_ns == 0:
            await sleep(0)
            return receive()
        try:
            loop = self._attach()
        except OSError:
            with contextlib.suppress(TimeoutError):
                return receive()  # closed just before: that is the error
            raise
        deadline = None if timeout_ns < 0 else loop.time() + timeout_ns / NANOSECONDS
        notified, first = True, False
        while notified:
            notified = await self._wait(loop, deadline, first)
            with contextlib.suppress(TimeoutError):
                return receive()
            first = True  # somebody else took them: it is still this task's turn
        raise TimeoutError(f"no packet came within {timeout_ns / NANOSECONDS:g} s")

    async def _wait(self, loop: Loop, deadline: float | None, first: bool) -> bool:
        """In line until packets are there, or the close (True), or until the deadline (False)."""
        future: Future = loop.create_future()
        if first:
            self._queue.appendleft(future)
        else:
            self._queue.append(future)
        timer = None if deadline is None else loop.call_at(deadline, self._expire, future)
        self._listen(loop)
        if self._closed:  # since it was last looked at, and woke nobody
            wake(future)
        try:
            notified: bool = await future
        except BaseException:
            self._withdraw(future)
            if not future.cancelled():  # notified already: the next one looks instead
                self.news()
            raise
        finally:
            if timer is not None:
                timer.cancel()
        if not notified:
            self._withdraw(future)
        self._turn = 0
        return notified

    def _listen(self, loop: Loop) -> None:
        """Have the loop report when packets are there; or, when they come densely, look for them in a while."""
        if self._timer is not None or self._watch is None:
            return
        passed = loop.time() - self._since
        if passed >= self._linger:
            dense = self._linger > 0 and self._gathered * self._linger >= DENSE * passed
            self._since += passed
            self._gathered = 0
            if dense:
                self._watch.stop()
                self._timer = loop.call_later(self._linger, self._look)
                return
        self._watch.start()

    def _look(self) -> None:
        """They were gathered for long enough."""
        self._timer = None
        self.news()
        if self._queue and self._watch is not None:
            self._watch.start()

    def _readable(self) -> None:
        """The loop's news: one task is woken at a time, for it may take all there is."""
        if not self._queue:
            self._rest()  # nobody takes them now; whoever comes need not wait
            self.ready = True
        self.news()

    def news(self) -> None:
        """Wakes one task: more can be taken than the loop may know of."""
        while self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.set_result(True)
                return

    def _expire(self, future: Future) -> None:
        if not future.done():
            future.set_result(False)

    def _withdraw(self, future: Future) -> None:
        """Somebody waits no more; the last one leaves nothing in the loop."""
        with contextlib.suppress(ValueError):
            self._queue.remove(future)
        if not self._queue:
            self._rest()

    def _rest(self) -> None:
        """Nobody waits: nothing of ours stays in the loop."""
        if self._watch is not None:
            self._watch.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _attach(self) -> Loop:
        """The running loop, which is the one for good unless it is closed."""
        loop = running()
        if loop is not self._loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(f"{self._loop!r} is open and receives here; one loop at a time")
            watch = self._new_watch(loop)
            self._detach()
            self._loop, self._watch = loop, watch
        return loop

    def _new_watch(self, loop: Loop) -> _Watch:
        """add_reader where the loop has it (the proactor of Windows has not) and there is a descriptor."""
        news = weakref.WeakMethod(self._readable)

        def call() -> None:
            method = news()
            if method is not None:
                method()

        with contextlib.suppress(FeatureError, NotImplementedError):
            watch = _ReaderWatch(loop, self._waited.fileno(), call)
            with contextlib.ExitStack() as undo:
                undo.callback(watch.close)
                watch.start()
                undo.pop_all()
            return watch
        return _ThreadWatch(loop, self._waited, call)

    def close(self) -> None:
        """Wakes all who wait; from any thread, after the receiver or sender was closed."""
        self._closed = True
        if self._process != process.number:
            if self._watch is not None:
                self._watch.close()
            return
        loop = self._loop
        if loop is None or loop.is_closed() or not loop.is_running():
            self._detach()
            return
        # Not here, even in the loop's own thread: this may be a signal's handler in the middle of something of ours.
        with contextlib.suppress(RuntimeError):  # closed just now
            loop.call_soon_threadsafe(self._detach)

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            for future in self._queue:
                if not future.done():
                    future.set_result(True)
            self._rest()
        self._queue.clear()
        self._timer = None
        if self._watch is not None:
            self._watch.close()
        self._loop = self._watch = None


class Space:
    """Tasks that wait until they may send: for their turn, and for space in the send buffer of a socket."""

    def __init__(self) -> None:
        self.order = Order()  # what a task holds from its first wait to its last datagram
        self._loop: Loop | None = None
        self._waiting: set[Future] = set()
        self._process = process.number
        self._closed = False

    async def wait(self, sock: socket.socket) -> bool:
        """Until a socket has space, or the close; False when the loop cannot watch sockets. Closes the socket, which is
        a duplicate: the number must not go to somebody else while the loop knows it."""
        loop = self._loop = running()
        future: Future = loop.create_future()
        with sock:
            try:
                loop.add_writer(sock, wake, future)
            except NotImplementedError:
                return False
            self._waiting.add(future)
            try:
                if not self._closed:
                    await future
            finally:
                self._waiting.discard(future)
                if self._process == process.number:
                    loop.remove_writer(sock)
        return True

    def close(self) -> None:
        """Wakes all who wait; from any thread, after the sender was closed."""
        self._closed = True
        loop = self._loop
        if loop is None or loop.is_closed() or self._process != process.number:
            return
        with contextlib.suppress(RuntimeError):  # closed just now
            loop.call_soon_threadsafe(self._wake_all)

    def _wake_all(self) -> None:
        for future in self._waiting:
            wake(future)


async def ended(call: "futures.Future[int]") -> None:
    """Wait until a thread has made a call, or it was cancelled. The call goes on when the wait is cancelled."""
    loop = running()
    future: Future = loop.create_future()

    def notify(_: "futures.Future[int]") -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(wake, future)

    call.add_done_callback(notify)
    await future


def wake(future: Future) -> None:
    """Have the task that awaits it go on; nothing where it does already."""
    if not future.done():
        future.set_result(True)


class Worker:
    """A thread that makes calls, one after the other. The interpreter does not wait for it at its exit, as it would for
    one of concurrent.futures."""

    def __init__(self, name: str) -> None:
        self._calls: queue.SimpleQueue[tuple[futures.Future[int], Callable[[], int]] | None] = queue.SimpleQueue()
        self._closed = False
        threads.start(_work, self._calls, name=name)

    def submit(self, call: Callable[[], int]) -> "futures.Future[int]":
        """The result of a call, once it has been made. ClosedError when it never will be."""
        future: futures.Future[int] = futures.Future()
        self._calls.put((future, call))
        # Looked at after the put: either close() came later, and the call is before its None, or it is seen here.
        if self._closed and future.cancel():
            raise ClosedError("the sender is closed")
        return future

    def close(self) -> None:
        """End the thread after what was submitted. From any thread and from a signal handler."""
        self._closed = True
        self._calls.put(None)

    def __del__(self) -> None:
        if hasattr(self, "_calls"):
            self.close()


def _work(calls: "queue.SimpleQueue[tuple[futures.Future[int], Callable[[], int]] | None]") -> None:
    while (item := calls.get()) is not None:
        future, call = item
        if not future.set_running_or_notify_cancel():
            continue
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)
        del item, future, call  # nothing of them is kept while the thread waits
