"""asyncio over Receiver and Sender: the same calls, awaited.

Rules of this room: the blocking classes receive and send, with a timeout of 0; here is only the waiting.
A task is told that packets are there and takes them itself, in the step in which it goes on: what is cancelled before
has taken nothing. The package root does not import this room, so that `import mcast_fast` needs no asyncio.
"""

import asyncio
import contextlib
import contextvars
import os
import selectors
import socket
import threading
import types
import weakref
from array import array
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar

from mcast_fast import _core, receiver, sender
from mcast_fast._core.layout import RECORD_SIZE, offsets
from mcast_fast.errors import ClosedError, SendError
from mcast_fast.groups import Group
from mcast_fast.stats import Stats
from mcast_fast.subscriptions import Membership
from mcast_fast.units import NANOSECONDS, UNSET, Unset, wait_in_ns, whole_number

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

__all__ = ["Receiver", "Sender"]

T = TypeVar("T")
Payload = bytes | bytearray | memoryview
Call = Callable[[], object]

ONE_TURN = 256  # packets that tasks take before the rest of the loop has its turn
DIRECT_AT_MOST = 64  # datagrams that are sent without the thread
_OFFSET = offsets()["offset"] // 4  # of a record, in words of 4 bytes
_WORDS = RECORD_SIZE // 4


class _Watch(Protocol):
    """Calls when a descriptor is readable, again and again while it is, from start() to stop(), in the loop."""

    def start(self) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


class _LoopWatch:
    """The loop's own add_reader. On a duplicate: the number must not go to somebody else while the loop knows it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, call: Call) -> None:
        self._loop = loop
        self._call = call
        self._started = False
        self._descriptor = os.dup(descriptor)

    def start(self) -> None:
        if not self._started:
            self._loop.add_reader(self._descriptor, self._call)
            self._started = True

    def stop(self) -> None:
        if self._started:
            self._started = False
            if not self._loop.is_closed():
                self._loop.remove_reader(self._descriptor)

    def close(self) -> None:
        self.stop()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __del__(self) -> None:
        if getattr(self, "_descriptor", -1) >= 0:  # the loop was closed, and forgot us
            os.close(self._descriptor)


class _ThreadWatch:
    """A thread that waits, for a loop without add_reader. It only looks: packets are taken in the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, descriptor: int, call: Call) -> None:
        self._call = call
        self._started = False
        self._looking = False
        self._asking, asked = socket.socketpair()
        news = weakref.WeakMethod(self._looked)

        def tell() -> None:
            method = news()
            if method is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(method)

        arguments = (os.dup(descriptor), asked, tell)
        threading.Thread(target=_look, args=arguments, name="mcast_fast.aio", daemon=True).start()

    def start(self) -> None:
        self._started = True
        self._look_again()

    def stop(self) -> None:
        self._started = False  # what the thread tells then is not listened to

    def close(self) -> None:
        self.stop()
        self._asking.close()

    def _look_again(self) -> None:
        if self._started and not self._looking:
            self._looking = True
            self._asking.send(b"?")

    def _looked(self) -> None:
        self._looking = False
        if self._started:
            self._call()
            self._look_again()

    def __del__(self) -> None:
        if hasattr(self, "_asking"):
            self._asking.close()


def _look(descriptor: int, asked: socket.socket, tell: Callable[[], None]) -> None:
    """The thread of a _ThreadWatch: one look for each byte that comes, until the other end is closed."""
    try:
        with asked, selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            selector.register(asked, selectors.EVENT_READ)
            while asked.recv(1):
                selector.select()
                tell()
    finally:
        os.close(descriptor)


class _Pass:
    """Awaited, it lets everybody else in the loop have a turn: what asyncio.sleep(0) does, and cheaper."""

    def __await__(self) -> Generator[None, None, None]:
        yield


_PASS = _Pass()


class _News(asyncio.Future[bool]):
    """What a task waits for: True = packets are there, or the close; False = the time was over.

    The reader's call of the loop runs the task's next step itself. A plain future would schedule it for the next pass
    of the loop, which costs as much as receiving does, and polls a second time for packets that are still there."""

    _step: Callable[[Any], object]
    _context: contextvars.Context

    def add_done_callback(self, step: Callable[[Any], object], *, context: contextvars.Context | None = None) -> None:
        """By the one task that waits."""
        self._step = step
        self._context = contextvars.copy_context() if context is None else context

    def tell_at_once(self) -> None:
        """Only from a callback of the loop, where no task runs."""
        self.set_result(True)
        self._context.run(self._step, self)

    def tell(self, answer: bool) -> None:
        """From anywhere in the loop."""
        if not self.done():
            self.set_result(answer)
            self.get_loop().call_soon(self._step, self, context=self._context)

    def cancel(self, msg: Any = None) -> bool:
        """By the task, when somebody cancels it."""
        if not super().cancel(msg):
            return False
        self.get_loop().call_soon(self._step, self, context=self._context)
        return True


class _Turns:
    """Who waits for packets of one receiver or sender: first come, first served, until closed.

    `hot`: a receive is worth trying before one waits. `taken`: packets taken since the loop last had its turn."""

    def __init__(self, fileno: Callable[[], int]) -> None:
        self.hot = False
        self.taken = 0
        self._fileno = fileno
        self._loop: asyncio.AbstractEventLoop | None = None
        self._watch: _Watch | None = None
        self._queue: deque[_News] = deque()
        self._deadlines: dict[_News, float] = {}
        self._timer: asyncio.Handle | None = None
        self._timer_at = 0.0  # by the loop's clock

    async def take(self, receive: Callable[[], T], timeout_ns: int) -> T:
        """What `receive` gives as soon as it does not raise TimeoutError; TimeoutError when the time is over."""
        if self.hot or timeout_ns == 0:
            if self.taken >= ONE_TURN:
                self.taken = 0
                await _PASS
            if not self._queue:
                try:
                    return receive()
                except TimeoutError:
                    self.hot = False
            if timeout_ns == 0:
                await _PASS
                return receive()
        loop = self._attach()
        deadline = None if timeout_ns < 0 else loop.time() + timeout_ns / NANOSECONDS
        told, first = True, False
        while told:
            future = self._enter(loop, deadline, first)
            try:
                told = await future
            except BaseException:
                self._withdraw(future)
                if not future.cancelled():  # told already: the next one looks instead
                    self.news()
                raise
            self.taken = 0
            if deadline is not None:
                self._deadlines.pop(future, None)
            try:
                return receive()
            except TimeoutError:
                first = True  # somebody else took them: it is still this task's turn
        raise TimeoutError(f"no packet came within {timeout_ns / NANOSECONDS:g} s")

    def _enter(self, loop: asyncio.AbstractEventLoop, deadline: float | None, first: bool) -> _News:
        """Gets in line for the news that packets are there, or of the close; False when the time was over before."""
        future = _News(loop=loop)
        if first:
            self._queue.appendleft(future)
        else:
            self._queue.append(future)
        if self._watch is not None:
            self._watch.start()
        if deadline is not None:
            self._deadlines[future] = deadline
            if self._timer is None or deadline < self._timer_at:
                self._set_timer(loop, deadline)
        return future

    def _withdraw(self, future: _News) -> None:
        """Somebody waits no more; the last one leaves nothing in the loop."""
        with contextlib.suppress(ValueError):
            self._queue.remove(future)
        self._deadlines.pop(future, None)
        if not self._queue:
            self._rest()

    def _rest(self) -> None:
        """Nobody waits: nothing of ours stays in the loop."""
        if self._watch is not None:
            self._watch.stop()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _readable(self) -> None:
        """The loop's news: one task is woken at a time, for it may take all there is."""
        while self._queue:
            future = self._queue.popleft()
            if not future.done():
                future.tell_at_once()
                return
        self._rest()  # nobody takes them now; whoever comes need not wait
        self.hot = True

    def news(self) -> None:
        """Wakes one task: more can be taken than the loop may know of."""
        if self._queue:
            self._queue.popleft().tell(True)

    def _set_timer(self, loop: asyncio.AbstractEventLoop, deadline: float) -> None:
        """One timer for all who wait, that is moved only when it would come too late."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = loop.call_at(deadline, self._expire, loop), deadline

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        for future in [one for one, deadline in self._deadlines.items() if deadline <= self._timer_at]:
            future.tell(False)
            self._withdraw(future)
        if self._deadlines:
            self._set_timer(loop, min(self._deadlines.values()))

    def _attach(self) -> asyncio.AbstractEventLoop:
        """The running loop, which is the one for good unless it is closed."""
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError(f"{self._loop!r} is open and receives here; one loop at a time")
            descriptor = self._fileno()
            self._detach()
            self._loop, self._watch = loop, self._new_watch(loop, descriptor)
        return loop

    def _new_watch(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> _Watch:
        """add_reader where the loop has it: the proactor of Windows has not."""
        news = weakref.WeakMethod(self._readable)

        def call() -> None:
            method = news()
            if method is not None:
                method()

        watch = _LoopWatch(loop, descriptor, call)
        try:
            watch.start()
        except NotImplementedError:
            watch.close()
            return _ThreadWatch(loop, descriptor, call)
        return watch

    def close(self) -> None:
        """Wakes all who wait; from any thread, after the receiver or sender was closed."""
        loop = self._loop
        if loop is None or loop.is_closed() or not loop.is_running() or loop is _running():
            self._detach()
            return
        with contextlib.suppress(RuntimeError):  # closed just now
            loop.call_soon_threadsafe(self._detach)

    def _detach(self) -> None:
        if self._loop is not None and not self._loop.is_closed():
            for future in self._queue:
                future.tell(True)
            self._rest()
        self._queue.clear()
        self._deadlines.clear()
        self._timer = None
        if self._watch is not None:
            self._watch.close()
        self._loop = self._watch = None


def _running() -> asyncio.AbstractEventLoop | None:
    """The loop that runs in this thread."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class Receiver:
    """A `mcast_fast.Receiver` for asyncio: what waits is awaited, all else is the same.

    Arguments and errors are those of `mcast_fast.Receiver`; `timeout` in seconds, None = for ever. Any number of tasks
    may wait; each packet goes to one of them, the first that asked. A task that is cancelled has taken nothing. It
    belongs to the loop in which it is first awaited.

        async with aio.Receiver("239.1.1.1%eth0:5000") as rx:
            async for batch in rx:
                ...
    """

    def __init__(self, *groups: str | Group, timeout: float | None = None, **options: Any) -> None:
        self.timeout = timeout
        self._receiver = receiver.Receiver(*groups, timeout=0, **options)
        self._turns = _Turns(self._receiver.fileno)
        self._kept: list[Batch] = []  # what a cancelled collect had
        self._limit = self._receiver.batch_size

    # ---- receiving ----

    async def recv_batch(self, max_packets: int | None = None, timeout: float | Unset | None = UNSET) -> "Batch":
        """What is there, as a Batch of 1..max_packets (default batch_size) packets; waits for the first one only.

        `timeout` in seconds: left out = the receiver's, None = for ever, 0 = does not wait. TimeoutError, ClosedError,
        SocketError."""
        limit = self._limit if max_packets is None else _checked(max_packets)
        return await self._turns.take(partial(self._now, limit), self._wait(timeout))

    async def recv(self, timeout: float | Unset | None = UNSET) -> "Packet":
        """One packet. `timeout` and errors as `recv_batch`."""
        return await self._turns.take(self._one_now, self._wait(timeout))

    async def collect(self, max_packets: int, timeout: float | Unset | None = UNSET) -> "Batch":
        """One large Batch of `max_packets` packets, or of what came in time or before the close: it may be empty.

        `timeout` and errors as `recv_batch`, but that no TimeoutError is raised. What a cancelled collect had is
        received next."""
        limit = _checked(max_packets)
        pile = _Pile()
        clock = asyncio.get_running_loop().time
        timeout_ns = self._wait(timeout)
        end = clock() + timeout_ns / NANOSECONDS
        try:
            while pile.count < limit:
                left_ns = timeout_ns if timeout_ns <= 0 else max(0, int((end - clock()) * NANOSECONDS))
                pile.add(await self._turns.take(partial(self._now, limit - pile.count), left_ns))
        except TimeoutError:
            pass
        except ClosedError:
            if not pile.count:
                raise
        except BaseException:
            self._keep(pile)
            raise
        return pile.batch()

    def __aiter__(self) -> Self:
        """Batches until the receiver is closed; TimeoutError after the receiver's timeout without one."""
        return self

    async def __anext__(self) -> "Batch":
        try:
            return await self._turns.take(self._next, self._timeout_ns)
        except ClosedError:
            raise StopAsyncIteration from None

    def _next(self) -> "Batch":
        return self._now(self._limit)

    def _now(self, limit: int) -> "Batch":
        """A batch of what is there; TimeoutError when nothing is."""
        batch = self._from_kept(limit) if self._kept else self._receiver.recv_batch(limit)
        count = len(batch)
        self._turns.hot = count == limit or bool(self._kept)
        self._turns.taken += count
        return batch

    def _from_kept(self, limit: int) -> "Batch":
        first = self._kept[0]
        self._kept[:1] = [first[limit:]] if len(first) > limit else []
        return first[:limit]

    def _one_now(self) -> "Packet":
        packet = self._from_kept(1)[0] if self._kept else self._receiver.recv()
        self._turns.hot = True  # more may have come with it
        self._turns.taken += 1
        return packet

    def _wait(self, timeout: float | Unset | None) -> int:
        return self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)

    def _keep(self, pile: "_Pile") -> None:
        if pile.count and not self.closed:
            self._kept.insert(0, pile.batch())
            self._turns.hot = True
            self._turns.news()

    # ---- membership: as the methods of mcast_fast.Receiver ----

    def join(self, group: str | Group) -> bool:
        """Receive a group too; as `mcast_fast.Receiver.join`."""
        return self._receiver.join(group)

    def leave(self, group: str | Group) -> bool:
        """Receive a group no more; as `mcast_fast.Receiver.leave`."""
        return self._narrowed(self._receiver.leave(group))

    def block(self, group: str | Group, source: str) -> bool:
        """Receive one source of a group no more; as `mcast_fast.Receiver.block`."""
        return self._narrowed(self._receiver.block(group, source))

    def unblock(self, group: str | Group, source: str) -> bool:
        """Receive one source of a group again; as `mcast_fast.Receiver.unblock`."""
        return self._receiver.unblock(group, source)

    def set_sources(
        self, group: str | Group, *, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> bool:
        """Receive these sources of a group, or all but these; as `mcast_fast.Receiver.set_sources`."""
        return self._narrowed(self._receiver.set_sources(group, include=include, exclude=exclude))

    @property
    def memberships(self) -> list[Membership]:
        """Every group on every interface, as `mcast_fast.Receiver.memberships`."""
        return self._receiver.memberships

    def _narrowed(self, changed: bool) -> bool:
        """Take out of what a cancelled collect had what is no longer wanted."""
        if self._kept:
            wanted = {(one.group, one.port, one.interface): one for one in self.memberships}
            packets = [(batch, i, packet) for batch in self._kept for i, packet in enumerate(batch)]
            self._kept = [
                batch[i : i + 1]
                for batch, i, packet in packets
                if _passes(wanted.get((packet.group, packet.port, packet.interface)), packet.source)
            ]
        return changed

    # ---- the rest ----

    def reply(self, packet: "Packet", payload: Payload) -> None:
        """Send a unicast datagram to the source of a packet; as `mcast_fast.Receiver.reply`."""
        self._receiver.reply(packet, payload)

    @property
    def timeout(self) -> float | None:
        """Seconds that a receive waits when it is not told otherwise; None = for ever."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: float | None) -> None:
        self._timeout_ns = wait_in_ns(value)
        self._timeout = value

    @property
    def batch_size(self) -> int:
        """Packets in a batch at most."""
        return self._limit

    @property
    def stats(self) -> Stats:
        """The loss ledger so far; after close(), the final one."""
        return self._receiver.stats

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._receiver.closed

    def close(self) -> None:
        """Wake every task that receives here (they get ClosedError; iterations end), leave the groups, and close the
        sockets.

        From any thread; closing again does nothing."""
        self._receiver.close()
        self._kept = []
        self._turns.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<aio {self._receiver!r}>"


def _checked(max_packets: int) -> int:
    return whole_number(max_packets, "max_packets", 1, receiver.MOST_PACKETS)


def _passes(membership: Membership | None, source: str) -> bool:
    if membership is None:
        return False
    return (source.partition("%")[0] in membership.sources) == (membership.mode == "include")


class _Pile:
    """Batches put together into one."""

    def __init__(self) -> None:
        self.count = 0
        self._batches: list[Batch] = []

    def add(self, batch: "Batch") -> None:
        self._batches.append(batch)
        self.count += len(batch)

    def batch(self) -> "Batch":
        """All of them, in one arena."""
        if len(self._batches) == 1:
            return self._batches[0]
        records, data = array("I"), bytearray()
        names: dict[int, str] = {}
        for one in self._batches:
            words = array("I", one.records.tobytes())
            base = len(data)
            words[_OFFSET::_WORDS] = array("I", [offset + base for offset in words[_OFFSET::_WORDS]])
            records += words
            data += one.data
            names = one.names
        return _core.views.Batch.from_bytes(records.tobytes(), data, names)


class Sender:
    """A `mcast_fast.Sender` for asyncio: what waits is awaited, all else is the same.

    Arguments and errors are those of `mcast_fast.Sender`; `timeout`: seconds that recv() waits, None = for ever. Few
    datagrams go out at once; long batches, and all with a `rate`, from a thread of the sender's own, one call after the
    other. Leaving `async with` drains, unless an error is on its way.
    """

    def __init__(self, *groups: str | Group, timeout: float | None = None, **options: Any) -> None:
        self._timeout_ns = wait_in_ns(timeout)
        self._sender = sender.Sender(*groups, timeout=0, **options)
        self._paced = options.get("rate") is not None
        self._turns = _Turns(self._sender.fileno)
        self._executor: ThreadPoolExecutor | None = None
        self._handed: set[asyncio.Future[int]] = set()
        self._abandoned: BaseException | None = None
        self._left = 0  # datagrams
        self._direct = 0  # datagrams since others had their turn

    # ---- sending ----

    async def send(self, payload: Payload) -> int:
        """Send one datagram to each group; how many left. SendError (`sent`: how many had left), ClosedError.

        Cancelled, it may still leave; `drain()` tells."""
        return await self._call(lambda: self._sender.send(payload), 1)

    async def send_batch(self, payloads: Sequence[Payload] | Payload, size: int | None = None) -> int:
        """Send many datagrams to each group, in order, as `mcast_fast.Sender.send_batch`; how many left.

        Cancelled, what the thread has begun still leaves whole, and what it has not begun does not; `drain()` waits for
        it and counts. SendError, ArgumentError, ClosedError."""
        count = len(payloads) if size is None else ONE_TURN
        return await self._call(lambda: self._sender.send_batch(payloads, size), count)

    async def drain(self) -> int:
        """Wait until everything that was handed over has left, also by tasks that were cancelled; how many datagrams
        left since the opening.

        Raises what became of a cancelled task's sending, once: SendError, ClosedError."""
        while self._handed:
            await asyncio.wait(self._handed)
        failure, self._abandoned = self._abandoned, None
        if failure is not None:
            raise failure
        return self._left

    async def _call(self, call: Callable[[], int], count: int) -> int:
        if self._handed or self._paced or count > DIRECT_AT_MOST:
            return await self._in_thread(call)
        if self._direct >= ONE_TURN:
            self._direct = 0
            await _PASS
        self._direct += count
        return self._counted(call)

    def _counted(self, call: Callable[[], int]) -> int:
        try:
            sent = call()
        except SendError as error:
            self._left += error.sent
            raise
        self._left += sent
        return sent

    async def _in_thread(self, call: Callable[[], int]) -> int:
        if self.closed:
            return self._counted(call)  # which tells
        if self._executor is None:
            self._executor = ThreadPoolExecutor(1, "mcast_fast.aio")
        begun = self._executor.submit(self._counted, call)
        future = asyncio.wrap_future(begun)
        self._handed.add(future)
        future.add_done_callback(self._handed.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not begun.cancel():  # it runs: drain() tells what becomes of it
                future.add_done_callback(self._abandon)
            raise

    def _abandon(self, future: asyncio.Future[int]) -> None:
        if not future.cancelled():
            self._abandoned = future.exception() or self._abandoned

    # ---- answers ----

    async def recv(self, timeout: float | Unset | None = UNSET) -> "Packet":
        """One unicast answer. `timeout` in seconds: left out = the sender's, None = for ever, 0 = does not wait.

        TimeoutError, ClosedError, SocketError."""
        wait = self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)
        packet = await self._turns.take(self._sender.recv, wait)
        self._turns.hot = True
        self._turns.taken += 1
        return packet

    # ---- state ----

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._sender.closed

    def close(self) -> None:
        """Wake every task that waits (ClosedError) and close the sockets; what was not sent is not.

        From any thread; closing again does nothing."""
        self._sender.close()
        self._turns.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: types.TracebackType | None
    ) -> None:
        try:
            if error is None:
                await self.drain()
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<aio {self._sender!r}>"
