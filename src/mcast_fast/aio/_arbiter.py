"""Arbiter for asyncio and trio: the same calls, awaited.

Rules of this module: the arbiter takes what is there without waiting; here its legs are waited for.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mcast_fast import _core
from mcast_fast._core.layout import ARENA_LIMIT, MOST_PACKETS
from mcast_fast._iteration import Awaited, Limits
from mcast_fast._source import Source
from mcast_fast._units import NANOSECONDS, UNSET, Seconds, Unset, in_seconds, wait_in_ns, whole_number
from mcast_fast.aio._loops import Order, running, sleep
from mcast_fast.aio._receiver import Receiver
from mcast_fast.aio._waiting import ONE_TURN, wake
from mcast_fast.errors import ClosedError, FeatureError
from mcast_fast.sequence import Arbiter as Plain
from mcast_fast.sequence import ArbiterStats, Format
from mcast_fast.sequence._arbiter import GLANCE_NS, HOLD, LATE_TURNS, MOST_FLOWS, TICK_NS, Pairs

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

T = TypeVar("T")


class Arbiter:
    """A `mcast_fast.sequence.Arbiter` for asyncio and trio: calls that wait are awaited, all others are the same.

        async with aio.Arbiter([leg_a, leg_b], "rtp") as feed:
            async for batch in feed:
                ...

    Arguments and errors are those of `mcast_fast.sequence.Arbiter`; legs may be receivers of `mcast_fast.aio` too.
    Tasks take their turns, one call at a time. A task that is cancelled has taken nothing. Where packets are there
    without a wait, other tasks run after every 256 of them, or after every batch of more.
    """

    __module__ = "mcast_fast.aio"

    def __init__(
        self,
        legs: Iterable[Source | Receiver],
        format: str | Format,
        hold: Seconds = HOLD,
        order: bool = True,
        pairs: Pairs | None = None,
        *,
        timeout: Seconds | None = None,
        batch_size: int = 4096,
        max_flows: int = MOST_FLOWS,
        memory: int | str = "256MiB",
    ) -> None:
        plain = [leg._receiver if isinstance(leg, Receiver) else leg for leg in legs]
        self._arbiter = Plain(
            plain, format, hold, order, pairs, batch_size=batch_size, max_flows=max_flows, memory=memory
        )
        self.timeout: float | None = in_seconds(timeout, "timeout")
        wait_in_ns(timeout)
        self._turn = Order()
        self._taken = 0  # packets since other tasks could run

    async def recv_batch(self, max_packets: int | None = None, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive the packets that are decided, at least one; wait for the first one only.

        Args:
            max_packets: The largest number of packets; None: `batch_size`.
            timeout: Seconds, or text such as "100ms"; left out: the arbiter's own, None: no limit, 0: no wait.

        Returns:
            A Batch of at least one packet.

        Raises:
            EOFError: All legs have ended.
            TimeoutError, CaptureError, FileError, ClosedError: As for `mcast_fast.sequence.Arbiter`.
        """
        return await self._take(partial(self._now, max_packets), self._wait(timeout))

    async def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """Receive one packet.

        Args:
            timeout: As for `recv_batch`.

        Returns:
            The next Packet.

        Raises:
            EOFError, TimeoutError, CaptureError, FileError, ClosedError: As for `recv_batch`.
        """
        return await self._take(self._one_now, self._wait(timeout))

    async def collect(self, max_packets: int, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive one large batch: `max_packets` packets, or what was decided in time and before close().

        Packets that a cancelled call had collected are delivered by the next call.

        Args:
            max_packets: The largest number of packets.
            timeout: Seconds for the whole batch, as for `recv_batch`.

        Returns:
            A Batch, which may be empty. It has fewer packets where more would not fit 4 GiB.

        Raises:
            ClosedError: The arbiter was closed and nothing was collected.
            CaptureError, FileError, ArgumentError: As for `mcast_fast.sequence.Arbiter.collect`.
        """
        left = whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        deadline = _deadline(self._wait(timeout))
        batches: list[Batch] = []
        size = late = 0
        async with self._turn():
            try:
                while left and late <= LATE_TURNS:
                    batches.append(await self._next(partial(self._now, left), deadline))
                    late += deadline is not None and time.monotonic_ns() >= deadline
                    size += batches[-1].payload_bytes
                    if size > ARENA_LIMIT and len(batches) > 1:
                        self._arbiter.give_back([batches.pop()])
                        break
                    left -= len(batches[-1])
            except (TimeoutError, EOFError):
                pass
            except ClosedError:
                if not batches:
                    raise
            except BaseException:
                with contextlib.suppress(ClosedError):
                    self._arbiter.give_back(batches)
                raise
        return _core.views.Batch.concatenate(batches)

    async def __aiter__(self) -> AsyncIterator["Batch"]:
        """Iterate over batches until all legs have ended, or the arbiter is closed.

        Yields:
            What `recv_batch()` returns.

        Raises:
            TimeoutError, CaptureError, FileError: As for `recv_batch`.
        """
        try:
            while True:
                yield await self.recv_batch()
        except EOFError:
            return
        except ClosedError:
            self._arbiter._check_process()

    def batches(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> AsyncIterator["Batch"]:
        """Iterate over batches, and end with the legs, after a silence, a time in all, or a number of packets.

        Args:
            timeout: End after this many seconds without a packet; left out: the arbiter's own, None: no limit.
            duration: End this many seconds after the first request for a packet, or text; None: no limit.
            count: End after this many packets; None: no limit.

        Returns:
            An asynchronous iterator, which ends when the arbiter is closed, too.

        Raises:
            ArgumentError: An argument is out of range. While iterating: CaptureError and FileError as for
                `recv_batch`, and ClosedError in another process than the one that made the arbiter.
        """
        limits = Limits(self._wait(timeout), duration, count)

        async def take(wait_ns: int) -> "Batch":
            batch = await self._take(partial(self._now, min(self._arbiter.batch_size, limits.left)), wait_ns)
            limits.left -= len(batch)
            return batch

        return Awaited(take, limits, self._arbiter._check_process)

    def packets(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> AsyncIterator["Packet"]:
        """Iterate over packets, and end as the iterator of `batches` does.

        They are taken one by one: a loop that is left loses nothing, and `batches` are many times faster.

        Args:
            timeout: As for `batches`.
            duration: As for `batches`.
            count: As for `batches`.

        Returns:
            An asynchronous iterator, which ends when the arbiter is closed, too.

        Raises:
            ArgumentError, CaptureError, FileError, ClosedError: As for `batches`.
        """
        limits = Limits(self._wait(timeout), duration, count)

        async def take(wait_ns: int) -> "Packet":
            packet = await self._take(self._one_now, wait_ns)
            limits.left -= 1
            return packet

        return Awaited(take, limits, self._arbiter._check_process)

    def _now(self, limit: int | None) -> "Batch":
        """A batch of what is decided; TimeoutError when nothing is."""
        batch = self._arbiter.recv_batch(limit, 0)
        self._taken += len(batch)
        return batch

    def _one_now(self) -> "Packet":
        packet = self._arbiter.recv(0)
        self._taken += 1
        return packet

    async def _take(self, receive: Callable[[], T], wait_ns: int) -> T:
        """What `receive` returns as soon as it does not raise TimeoutError; TimeoutError when the time is over."""
        deadline = _deadline(wait_ns)
        async with self._turn():
            return await self._next(receive, deadline)

    async def _next(self, receive: Callable[[], T], deadline: int | None) -> T:
        """The same for the task whose turn it is."""
        if self._taken >= ONE_TURN:
            self._taken = 0
            await sleep(0)
        while True:
            with contextlib.suppress(TimeoutError):
                return receive()
            left = TICK_NS if deadline is None else min(TICK_NS, deadline - time.monotonic_ns())
            if left <= 0:
                await sleep(0)
                return receive()
            await self._leg_has_something(left)
            self._taken = 0

    async def _leg_has_something(self, most_ns: int) -> None:
        """Wait until a leg has something, something is due, or the time is over."""
        left = self._arbiter._due_within(most_ns)
        loop, watched = running(), []
        ready = loop.create_future()
        try:
            for leg in self._arbiter.waiting:
                number = leg.fileno()  # type: ignore[attr-defined]
                loop.add_reader(number, wake, ready)
                watched.append(number)
        except (AttributeError, NotImplementedError, FeatureError, ClosedError, OSError):
            left = min(left, GLANCE_NS)
        timer = loop.call_later(left / NANOSECONDS, wake, ready)
        try:
            await ready
        finally:
            timer.cancel()
            for number in watched:
                loop.remove_reader(number)

    def _wait(self, timeout: Seconds | Unset | None) -> int:
        return wait_in_ns(self.timeout if isinstance(timeout, Unset) else timeout)

    def flush(self) -> None:
        """Charge and deliver now what is pending: what is held comes with the next receive.

        Raises:
            ClosedError: The arbiter is closed, or another process made it.
        """
        self._arbiter.flush()

    @property
    def batch_size(self) -> int:
        """Packets in a batch at most."""
        return self._arbiter.batch_size

    @property
    def stats(self) -> ArbiterStats:
        """What became of the numbers so far."""
        return self._arbiter.stats

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._arbiter.closed

    def close(self) -> None:
        """Close it; the legs stay open. Closing again does nothing.

        Calls that wait raise ClosedError within 50 ms; iterations end.
        """
        self._arbiter.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<aio {self._arbiter!r}>"


def _deadline(wait_ns: int) -> int | None:
    """By the monotonic clock, ns; None: there is none."""
    return None if wait_ns < 0 else time.monotonic_ns() + wait_ns
