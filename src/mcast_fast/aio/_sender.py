"""Sender for asyncio and trio: the calls of `mcast_fast.Sender`, awaited.

Rules of this module: the blocking class sends, without waiting; `_waiting` waits for space in send buffers, and has
the thread that paced calls run in.
"""

import errno
import types
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from concurrent.futures import Future
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from mcast_fast import sender
from mcast_fast._sending.answers import Gathering
from mcast_fast._sending.arguments import Pacing
from mcast_fast._sending.destinations import Target
from mcast_fast._sending.outgoing import Outgoing, Payload, outgoing, outgoing_list
from mcast_fast._units import UNSET, Seconds, Unset, wait_in_ns
from mcast_fast.aio._loops import sleep
from mcast_fast.aio._waiting import ONE_TURN, Line, Space, Worker, ended
from mcast_fast.errors import ClosedError
from mcast_fast.groups import Group, Groups
from mcast_fast.stats import SenderStats, TransmitTime

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

PAUSE_FIRST = 0.00005  # seconds, after a full queue; doubled each time
PAUSE_LAST = 0.005  # but no longer than this


class Sender:
    """A `mcast_fast.Sender` for asyncio and trio: calls that wait are awaited, all others are the same.

    Arguments and errors are those of `mcast_fast.Sender`. The event loop is never blocked: datagrams are sent without
    waiting, about a millisecond of them at a time, and the loop watches the socket while its send buffer is full. With
    a `rate`, and in an event loop without add_writer, a thread of the sender's own makes the calls one by one. Leaving
    `async with` waits for what was handed over (`drain`), unless an exception is raised.
    """

    __module__ = "mcast_fast.aio"

    def __init__(
        self,
        *groups: Groups,
        port: int | None = None,
        interface: str | int | None = None,
        source: str | None = None,
        source_port: int | None = None,
        ttl: int = 1,
        dscp: int | None = None,
        loopback: bool = True,
        rate: float | str | None = None,
        burst: int = 1,
        pacing: Pacing = "sender",
        transmit_times: bool = False,
        segmentation: bool = True,
        timeout: Seconds | None = None,
    ) -> None:
        self._timeout_ns = wait_in_ns(timeout)
        self._sender = sender.Sender(
            *groups,
            port=port,
            interface=interface,
            source=source,
            source_port=source_port,
            ttl=ttl,
            dscp=dscp,
            loopback=loopback,
            rate=rate,
            burst=burst,
            pacing=pacing,
            transmit_times=transmit_times,
            segmentation=segmentation,
            timeout=0,
        )
        self._paced = rate is not None and pacing == "sender"
        self._line = Line(self._sender, 0)
        self._space = Space()
        self._worker: Worker | None = None
        self._handed: set[Future[int]] = set()  # the thread makes these calls, or will
        self._abandoned: list[Future[int]] = []  # their tasks were cancelled, drain() raises their errors
        self._queued = 0  # tasks that send in steps, or wait for those
        self._turn = 0  # datagrams since others had their turn

    # ---- sending ----

    async def send(self, payload: Payload) -> int:
        """Send one datagram to each group.

        A cancelled call may still send it; `drain()` counts it.

        Args:
            payload: The bytes to send, as for `mcast_fast.Sender.send`.

        Returns:
            The number of datagrams that left.

        Raises:
            SendError, ClosedError: As for `mcast_fast.Sender.send`.
        """
        return await self._send(outgoing_list(self._sender._transmitter, (payload,)))

    async def send_batch(self, payloads: "Iterable[Payload] | Batch | Any", size: int | None = None) -> int:
        """Send many datagrams to each group, in order.

        A cancelled call sends no more datagrams, except where a thread makes the calls (see the class): a call that has
        begun there sends them all. `drain()` waits for it and counts them.

        Args:
            payloads: As for `mcast_fast.Sender.send_batch`; of a list, a copy is sent.
            size: Bytes of each datagram that one buffer is cut into.

        Returns:
            The number of datagrams that left.

        Raises:
            SendError, ArgumentError, ClosedError: As for `mcast_fast.Sender.send_batch`.
        """
        kept = tuple(payloads) if isinstance(payloads, list) else payloads  # others may change it meanwhile
        return await self._send(outgoing(self._sender._transmitter, kept, size))

    async def send_to(self, payload: Payload, group: Target) -> int:
        """Send one datagram to another group or to one host, as `mcast_fast.Sender.send_to` does.

        Args:
            payload: The bytes to send.
            group: A text in the grammar of `Group.parse`, a Group, or the address of a host.

        Returns:
            The number of datagrams that left.

        Raises:
            GroupError, InterfaceError, SocketError, SendError, ClosedError: As for `mcast_fast.Sender.send_to`.
        """
        return await self._send(outgoing_list(self._sender._transmitter, (payload,), group))

    async def drain(self) -> int:
        """Wait until everything that was handed over has been sent, also by tasks that were cancelled.

        Returns:
            The number of datagrams that left since the sender was opened.

        Raises:
            SendError, ClosedError: The call of a cancelled task failed; raised once.
        """
        while handed := list(self._handed):
            await ended(handed[0])
        abandoned, self._abandoned = self._abandoned, []
        for call in reversed(abandoned):
            call.result()
        return self._sender.stats.datagrams

    async def _send(self, job: Outgoing) -> int:
        if self._paced or self._handed:
            return await self._in_thread(job)
        if self._turn < ONE_TURN and not self._queued and self._step(job) == 0:
            return job.sent
        self._queued += 1
        try:
            async with self._space.order():
                return await self._in_steps(job)
        finally:
            self._queued -= 1

    def _step(self, job: Outgoing) -> int:
        """Send what leaves now: 0, EAGAIN or ENOBUFS."""
        before = job.sent
        code = self._sender._step(job)
        self._turn += job.sent - before
        return code

    async def _in_steps(self, job: Outgoing) -> int:
        """The rest of a call, whenever the loop has time and the system has space."""
        if self._turn >= ONE_TURN:
            self._turn = 0
            await sleep(0)
        before = -1
        while code := self._step(job):
            if code == errno.ENOBUFS:
                await sleep(min(PAUSE_FIRST * 2 ** min(job.retries, 8), PAUSE_LAST))
            elif job.sent != before:
                await sleep(0)
            elif not await self._space.wait(self._sender._duplicate(job)):
                return await self._in_thread(job)
            before = job.sent
            self._turn = 0
        return job.sent

    async def _in_thread(self, job: Outgoing) -> int:
        if self.closed:
            raise ClosedError("the sender is closed")
        if self._worker is None:
            self._worker = Worker("mcast_fast.aio")
            if self._sender.closed:  # since it was last looked at, and close() saw no worker
                self._worker.close()
        call = self._worker.submit(partial(self._sender._go_on, job, job.sent, 0))
        self._handed.add(call)
        call.add_done_callback(self._handed.discard)
        try:
            await ended(call)
        except BaseException:
            if not call.cancel():  # it runs, or has ended: those before it have
                failed = [one for one in self._abandoned if one.exception()]
                self._abandoned = [*failed[-1:], call]
            raise
        return call.result()

    # ---- answers ----

    async def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """Receive one unicast answer.

        Args:
            timeout: Seconds to wait, or text such as "100ms"; left out: the sender's own, None: no limit, 0: no wait.

        Returns:
            The next Packet that came to a port of the sender.

        Raises:
            TimeoutError, ClosedError, SocketError, ArgumentError: As for `mcast_fast.Sender.recv`.
            RuntimeError: The sender is in use in another event loop, which is open.
        """
        return await self._take(self._sender.recv, self._wait(timeout))

    def gather(self, payload: Payload, timeout: Seconds | Unset | None = UNSET) -> AsyncIterator["Packet"]:
        """Send one datagram to each group, and iterate over all answers.

            async for answer in tx.gather(b"who is there?", timeout=2):
                print(answer.source, answer.data)

        The datagram is sent, and the time begins, when the first answer is awaited.

        Args:
            payload: The bytes to send.
            timeout: Seconds from sending on, as for `mcast_fast.Sender.gather`.

        Returns:
            An asynchronous iterator of Packets, which ends as that of `mcast_fast.Sender.gather` does.

        Raises:
            ArgumentError: `timeout` is no time.
            TypeError: `payload` is no bytes-like object.
            SendError, ClosedError, SocketError: While iterating, as for `mcast_fast.Sender.gather`.
        """
        job = outgoing_list(self._sender._transmitter, (memoryview(payload),))
        answers = self._sender._gathering(self._wait(timeout))

        async def ask() -> None:
            await self._send(job)
            answers.begin()

        async def take(wait_ns: int) -> "Packet":
            return await self._take(partial(answers.take, 0), wait_ns)

        return _Gathering(ask, take, answers)

    async def _take(self, receive: Callable[[], "Packet"], wait_ns: int) -> "Packet":
        packet = await self._line.take(receive, wait_ns)
        self._line.ready = True
        self._line.took(1)
        return packet

    def _wait(self, timeout: Seconds | Unset | None) -> int:
        return self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)

    # ---- state ----

    def transmit_times(self) -> list[TransmitTime]:
        """Return when datagrams left, as `mcast_fast.Sender.transmit_times` does (Linux).

        Returns:
            A TransmitTime for each datagram, oldest first for each socket.

        Raises:
            ArgumentError, ClosedError: As for `mcast_fast.Sender.transmit_times`.
        """
        return self._sender.transmit_times()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that the sender sends to."""
        return self._sender.groups

    @property
    def local_addresses(self) -> tuple[tuple[str, int], ...]:
        """Address and port that each socket is bound to: `mcast_fast.Sender.local_addresses`."""
        return self._sender.local_addresses

    @property
    def stats(self) -> SenderStats:
        """What was sent so far; also after close()."""
        return self._sender.stats

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._sender.closed

    def close(self) -> None:
        """Wake every task that waits, and close the sockets; what has not left is not sent.

        Calls that wait raise ClosedError. It may be called from any thread. Closing again does nothing.
        """
        self._sender.close()
        self._line.close()
        self._space.close()
        if self._worker is not None:
            self._worker.close()

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


class _Gathering:
    """What `gather` returns: `ask()` once, then `take(wait_ns)` each answer."""

    def __init__(
        self, ask: Callable[[], Awaitable[None]], take: "Callable[[int], Awaitable[Packet]]", answers: Gathering
    ) -> None:
        self._ask: Callable[[], Awaitable[None]] | None = ask
        self._take = take
        self._answers = answers

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> "Packet":
        ask, self._ask = self._ask, None
        if ask is not None:
            await ask()
        wait_ns = self._answers.wait_ns()
        if wait_ns is None:
            raise StopAsyncIteration
        try:
            return await self._take(wait_ns)
        except (TimeoutError, ClosedError) as error:
            self._answers.end(error)
            raise StopAsyncIteration from None
