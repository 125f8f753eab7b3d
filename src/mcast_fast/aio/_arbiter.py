"""Arbiter for asyncio and trio: the same calls, awaited.

Rules of this module: the arbiter takes what is there without waiting; here its legs are waited for.
"""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from mcast_fast._iteration import Limits
from mcast_fast._source import Source
from mcast_fast._units import NANOSECONDS, UNSET, Seconds, Unset, in_seconds, wait_in_ns
from mcast_fast.aio._loops import Order, running, sleep
from mcast_fast.aio._receiver import Receiver
from mcast_fast.aio._waiting import wake
from mcast_fast.errors import ClosedError, FeatureError
from mcast_fast.sequence import Arbiter as Plain
from mcast_fast.sequence import ArbiterStats, Format
from mcast_fast.sequence._arbiter import GLANCE_NS, HOLD, MOST_FLOWS, TICK_NS, Pairs

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

T = TypeVar("T")


class Arbiter:
    """A `mcast_fast.sequence.Arbiter` for asyncio and trio: calls that wait are awaited, all others are the same.

        async with aio.Arbiter([leg_a, leg_b], "rtp") as feed:
            async for batch in feed:
                ...

    Arguments and errors are those of `mcast_fast.sequence.Arbiter`; legs may be receivers of `mcast_fast.aio` too.
    Tasks take their turns, one call at a time. A task that is cancelled has taken nothing.
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
        return await self._take(partial(self._arbiter.recv_batch, max_packets, 0), self._wait(timeout))

    async def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """Receive one packet.

        Args:
            timeout: As for `recv_batch`.

        Returns:
            The next Packet.

        Raises:
            EOFError, TimeoutError, CaptureError, FileError, ClosedError: As for `recv_batch`.
        """
        return await self._take(partial(self._arbiter.recv, 0), self._wait(timeout))

    async def __aiter__(self) -> AsyncIterator["Batch"]:
        """Iterate over batches until all legs have ended, or the arbiter is closed.

        Yields:
            What `recv_batch()` returns.

        Raises:
            TimeoutError, CaptureError, FileError: As for `recv_batch`.
        """
        with contextlib.suppress(EOFError, ClosedError):
            while True:
                yield await self.recv_batch()

    async def batches(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> AsyncIterator["Batch"]:
        """Iterate over batches, and end after a silence, a time in all, or a number of packets.

        Args:
            timeout: End after this many seconds without a packet; left out: the arbiter's own, None: no limit.
            duration: End this many seconds after the first request for a packet, or text; None: no limit.
            count: End after this many packets; None: no limit.

        Yields:
            Batches of at least one packet.

        Raises:
            ArgumentError: An argument is out of range.
            CaptureError, FileError: As for `recv_batch`.
        """
        limits = Limits(self._wait(timeout), duration, count)
        with contextlib.suppress(EOFError, ClosedError, TimeoutError):
            while (wait_ns := limits.wait_ns()) is not None:
                most = min(self._arbiter.batch_size, limits.left)
                batch = await self._take(partial(self._arbiter.recv_batch, most, 0), wait_ns)
                limits.left -= len(batch)
                yield batch

    async def _take(self, receive: Callable[[], T], wait_ns: int) -> T:
        """What `receive` gives as soon as it does not raise TimeoutError; TimeoutError when the time is over."""
        deadline = None if wait_ns < 0 else time.monotonic_ns() + wait_ns
        async with self._turn():
            while True:
                with contextlib.suppress(TimeoutError):
                    return receive()
                left = TICK_NS if deadline is None else min(TICK_NS, deadline - time.monotonic_ns())
                if left <= 0:
                    await sleep(0)
                    return receive()
                await self._leg_has_something(left)

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
