"""asyncio over Receiver and Sender: the same calls, awaited.

Rules of this module: the blocking classes receive and send, without waiting; `waiting` waits for them.
A task takes its packets itself, in the step in which it goes on: what is cancelled before has taken nothing. The
package root does not import this module, so that `import mcast_fast` needs no asyncio.
"""

import asyncio
import errno
import types
from collections.abc import Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from mcast_fast import _core, receiver, sender
from mcast_fast.errors import ClosedError
from mcast_fast.groups import Group
from mcast_fast.outgoing import Outgoing, outgoing, outgoing_list
from mcast_fast.stats import SenderStats, Stats, TransmitTime
from mcast_fast.subscriptions import Membership
from mcast_fast.units import NANOSECONDS, UNSET, Unset, checked_number, wait_in_ns, whole_number
from mcast_fast.waiting import ONE_TURN, Line, Space, Worker

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

__all__ = ["Receiver", "Sender"]

Payload = bytes | bytearray | memoryview

LINGER = 0.001  # seconds: the least that epoll_wait(2) can be told
LONGEST_LINGER = 0.1
PAUSE_FIRST = 0.00005  # seconds, after a full queue; doubled each time
PAUSE_LAST = 0.005  # but no longer than this


class Receiver:
    """A `mcast_fast.Receiver` for asyncio: what waits is awaited, all else is the same.

    Arguments and errors are those of `mcast_fast.Receiver`; `timeout` in seconds, None = for ever. Any number of tasks
    may wait; each packet goes to one of them, the first that asked. A task that is cancelled has taken nothing. It
    belongs to the loop in which it is first awaited.

    `linger`: seconds for which packets are gathered before a task is told, once they come densely (some 8,000 a second
    and more); 0 tells each time at once. Without it a stream of single packets costs twice the CPU.

        async with aio.Receiver("239.1.1.1%eth0:5000") as rx:
            async for batch in rx:
                ...
    """

    def __init__(
        self, *groups: str | Group, timeout: float | None = None, linger: float = LINGER, **options: Any
    ) -> None:
        self.timeout = timeout
        checked_number(linger, "linger", 0, LONGEST_LINGER)
        self._receiver = receiver.Receiver(*groups, timeout=0, **options)
        self._line = Line(self._receiver, linger)
        self._limit = self._receiver.batch_size

    # ---- receiving ----

    async def recv_batch(self, max_packets: int | None = None, timeout: float | Unset | None = UNSET) -> "Batch":
        """What is there, as a Batch of 1..max_packets (default batch_size) packets; waits for the first one only.

        `timeout` in seconds: left out = the receiver's, None = for ever, 0 = does not wait. TimeoutError, ClosedError,
        SocketError."""
        limit = self._limit if max_packets is None else _checked(max_packets)
        return await self._line.take(partial(self._now, limit), self._wait(timeout))

    async def recv(self, timeout: float | Unset | None = UNSET) -> "Packet":
        """One packet. `timeout` and errors as `recv_batch`."""
        return await self._line.take(self._one_now, self._wait(timeout))

    async def collect(self, max_packets: int, timeout: float | Unset | None = UNSET) -> "Batch":
        """One large Batch of `max_packets` packets, or of what came in time or before the close: it may be empty.

        `timeout` and errors as `recv_batch`, but that no TimeoutError is raised. What a cancelled collect had is
        received next."""
        limit = _checked(max_packets)
        clock = asyncio.get_running_loop().time
        timeout_ns = self._wait(timeout)
        end = clock() + timeout_ns / NANOSECONDS
        batches: list[Batch] = []
        left = limit
        try:
            while left:
                left_ns = timeout_ns if timeout_ns <= 0 else max(0, int((end - clock()) * NANOSECONDS))
                batches.append(await self._line.take(partial(self._now, left), left_ns))
                left -= len(batches[-1])
        except TimeoutError:
            pass
        except ClosedError:
            if not batches:
                raise
        except BaseException:
            self._give_back(batches)
            raise
        return _core.views.Batch.concatenate(batches)

    def __aiter__(self) -> Self:
        """Batches until the receiver is closed; TimeoutError after the receiver's timeout without one."""
        return self

    async def __anext__(self) -> "Batch":
        try:
            return await self._line.take(self._next, self._timeout_ns)
        except ClosedError:
            raise StopAsyncIteration from None

    def _next(self) -> "Batch":
        return self._now(self._limit)

    def _now(self, limit: int) -> "Batch":
        """A batch of what is there; TimeoutError when nothing is."""
        batch = self._receiver.recv_batch(limit)
        count = len(batch)
        self._line.ready = count == limit
        self._line.took(count)
        return batch

    def _one_now(self) -> "Packet":
        packet = self._receiver.recv()
        self._line.ready = True  # more may have come with it
        self._line.took(1)
        return packet

    def _give_back(self, batches: "list[Batch]") -> None:
        if batches and not self.closed:
            self._receiver.give_back(batches)
            self._line.ready = True
            self._line.news()

    def _wait(self, timeout: float | Unset | None) -> int:
        return self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)

    # ---- membership: as the methods of mcast_fast.Receiver ----

    def join(self, group: str | Group) -> bool:
        """Receive a group too; as `mcast_fast.Receiver.join`."""
        return self._receiver.join(group)

    def leave(self, group: str | Group) -> bool:
        """Receive a group no more; as `mcast_fast.Receiver.leave`."""
        return self._receiver.leave(group)

    def block(self, group: str | Group, source: str) -> bool:
        """Receive one source of a group no more; as `mcast_fast.Receiver.block`."""
        return self._receiver.block(group, source)

    def unblock(self, group: str | Group, source: str) -> bool:
        """Receive one source of a group again; as `mcast_fast.Receiver.unblock`."""
        return self._receiver.unblock(group, source)

    def set_sources(
        self, group: str | Group, *, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> bool:
        """Receive these sources of a group, or all but these; as `mcast_fast.Receiver.set_sources`."""
        return self._receiver.set_sources(group, include=include, exclude=exclude)

    @property
    def memberships(self) -> list[Membership]:
        """Every group on every interface, as `mcast_fast.Receiver.memberships`."""
        return self._receiver.memberships

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
        self._line.close()

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


class Sender:
    """A `mcast_fast.Sender` for asyncio: what waits is awaited, all else is the same.

    Arguments and errors are those of `mcast_fast.Sender`; `timeout`: seconds that recv() waits, None = for ever. The
    event loop is never blocked: datagrams leave without waiting, a millisecond's worth at a time, and the loop watches
    the socket while its buffer is full. With a `rate`, and in a loop without add_writer, a thread of the sender's own
    sends, one call after the other. Leaving `async with` drains, unless an error is on its way.
    """

    def __init__(
        self,
        *groups: str | Group,
        port: int | None = None,
        interface: str | int | None = None,
        source: str | None = None,
        source_port: int | None = None,
        ttl: int = 1,
        dscp: int | None = None,
        loopback: bool = True,
        rate: float | str | None = None,
        burst: int = 1,
        pacing: str = "sender",
        transmit_times: bool = False,
        segmentation: bool = True,
        timeout: float | None = None,
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
        self._handed: set[asyncio.Future[int]] = set()
        self._abandoned: BaseException | None = None
        self._queued = 0  # tasks that send in steps, or wait for those
        self._turn = 0  # datagrams since others had their turn

    # ---- sending ----

    async def send(self, payload: Payload) -> int:
        """Send one datagram to each group; how many left. SendError (`sent`: how many had left), ClosedError.

        Cancelled, it may still leave; `drain()` counts."""
        return await self._send(outgoing_list(self._sender._transmitter, (payload,)))

    async def send_batch(self, payloads: "Iterable[Payload] | Batch | Any", size: int | None = None) -> int:
        """Send many datagrams to each group, in order, as `mcast_fast.Sender.send_batch`; how many left.

        Cancelled, what has not left does not leave; but what the thread has begun (see the class) leaves whole.
        `drain()` waits for it and counts. SendError, ArgumentError, ClosedError."""
        kept = tuple(payloads) if isinstance(payloads, list) else payloads  # others may change it meanwhile
        return await self._send(outgoing(self._sender._transmitter, kept, size))

    async def send_to(self, payload: Payload, group: str | Group) -> int:
        """Send one datagram to another group, as `mcast_fast.Sender.send_to`; how many left."""
        return await self._send(outgoing_list(self._sender._transmitter, (payload,), group))

    async def drain(self) -> int:
        """Wait until everything that was handed over has left, also by tasks that were cancelled; how many datagrams
        left since the opening.

        Raises what became of a cancelled task's sending, once: SendError, ClosedError."""
        while self._handed:
            await asyncio.wait(self._handed)
        failure, self._abandoned = self._abandoned, None
        if failure is not None:
            raise failure
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
        """The rest of a call, whenever the loop has time and the system has room."""
        if self._turn >= ONE_TURN:
            self._turn = 0
            await asyncio.sleep(0)
        before = -1
        while code := self._step(job):
            if code == errno.ENOBUFS:
                await asyncio.sleep(min(PAUSE_FIRST * 2 ** min(job.retries, 8), PAUSE_LAST))
            elif job.sent != before:
                await asyncio.sleep(0)
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
        begun = self._worker.submit(partial(self._sender._go_on, job, job.sent, 0))
        future = asyncio.wrap_future(begun)
        self._handed.add(future)
        future.add_done_callback(self._handed.discard)
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            if not begun.cancel():  # it runs: drain() raises what becomes of it
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
        packet = await self._line.take(self._sender.recv, wait)
        self._line.ready = True
        self._line.took(1)
        return packet

    # ---- state ----

    def transmit_times(self) -> list[TransmitTime]:
        """When datagrams left; as `mcast_fast.Sender.transmit_times`."""
        return self._sender.transmit_times()

    @property
    def groups(self) -> tuple[Group, ...]:
        """The groups that are sent to."""
        return self._sender.groups

    @property
    def local_addresses(self) -> tuple[tuple[str, int], ...]:
        """Address and port of each socket; as `mcast_fast.Sender.local_addresses`."""
        return self._sender.local_addresses

    @property
    def stats(self) -> SenderStats:
        """What left so far; also after the close."""
        return self._sender.stats

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._sender.closed

    def close(self) -> None:
        """Wake every task that waits (ClosedError) and close the sockets; what was not sent is not.

        From any thread; closing again does nothing."""
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
