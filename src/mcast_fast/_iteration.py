"""Iterations that end by themselves: after a time without packets, a time in all, or a number of packets.

Rules of this module: no I/O; a receiver or a reader receives, given the number of packets and how long to wait.
"""

import time
from collections.abc import Awaitable, Callable, Iterator
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from mcast_fast._units import Seconds, wait_in_ns, whole_number
from mcast_fast.errors import ClosedError

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

MOST = 2**63 - 1
T = TypeVar("T")


class Limits:
    """When an iteration ends, and how long it may wait until then.

    `timeout_ns`: nanoseconds without a packet, < 0 forever; `duration`: seconds in all, from the first request for a
    packet on; `count`: packets in all. None: no limit. ArgumentError."""

    def __init__(self, timeout_ns: int, duration: Seconds | None, count: int | None) -> None:
        self.left = MOST if count is None else whole_number(count, "count", 0, MOST)  # packets
        self._timeout_ns = timeout_ns
        self._duration_ns = wait_in_ns(duration, "duration")
        self._deadline: int | None = None  # by the monotonic clock

    def wait_ns(self) -> int | None:
        """Nanoseconds to wait for the next packets, < 0 forever; None: the iteration is over."""
        if self.left <= 0:
            return None
        if self._duration_ns < 0:
            return self._timeout_ns
        now = time.monotonic_ns()
        if self._deadline is None:
            self._deadline = now + self._duration_ns
        if now >= self._deadline:
            return None
        remaining = self._deadline - now
        return remaining if self._timeout_ns < 0 else min(remaining, self._timeout_ns)

    def end(self) -> None:
        """Whatever is received from now on, this iteration is over."""
        self.left = 0


class Iteration(Generic[T]):
    """What `batches` and `packets` of a receiver or reader return.

    `check_process`: raises ClosedError where another process opened the source, whose iterations end otherwise when it
    is closed."""

    def __init__(self, limits: Limits, check_process: Callable[[], object]) -> None:
        self._limits = limits
        self._check_process = check_process

    def __iter__(self) -> Iterator[T]:
        return self  # type: ignore[return-value]

    def _end(self, error: Exception) -> None:
        """The source has no more packets in time, or at all; ClosedError in another process."""
        if isinstance(error, ClosedError):
            self._check_process()
        self._limits.end()


class Batches(Iteration["Batch"]):
    """Batches until the limits; `receive(most, wait_ns)` returns the next, of at most `batch_size()` packets;
    `give_back` takes one for the next call."""

    def __init__(
        self,
        receive: "Callable[[int, int], Batch]",
        give_back: "Callable[[Batch], object]",
        batch_size: Callable[[], int],
        limits: Limits,
        check_process: Callable[[], object],
    ) -> None:
        super().__init__(limits, check_process)
        self._receive = receive
        self._give_back = give_back
        self._batch_size = batch_size

    def __next__(self) -> "Batch":
        limits = self._limits
        wait_ns = limits.wait_ns()
        if wait_ns is None:
            raise StopIteration
        batch, left = None, limits.left
        try:
            batch = self._receive(min(self._batch_size(), left), wait_ns)
            limits.left = left - len(batch)
        except (TimeoutError, EOFError, ClosedError) as error:
            if batch is None:
                self._end(error)
                raise StopIteration from None
            self._undo(batch, left)  # raised by a signal handler
            raise
        except BaseException:
            if batch is not None:
                self._undo(batch, left)
            raise
        return batch

    def _undo(self, batch: "Batch", left: int) -> None:
        self._limits.left = left
        self._give_back(batch)


class Packets(Iteration["Packet"]):
    """Packets until the limits; `receive(wait_ns)` returns the next."""

    def __init__(self, receive: "Callable[[int], Packet]", limits: Limits, check_process: Callable[[], object]) -> None:
        super().__init__(limits, check_process)
        self._receive = receive

    def __next__(self) -> "Packet":
        limits = self._limits
        wait_ns = limits.wait_ns()
        if wait_ns is None:
            raise StopIteration
        try:
            packet = self._receive(wait_ns)
        except (TimeoutError, EOFError, ClosedError) as error:
            self._end(error)
            raise StopIteration from None
        limits.left -= 1
        return packet


class Awaited(Generic[T]):
    """What `batches` and `packets` of `aio` return; `take(wait_ns)` waits for the next one, and counts it."""

    def __init__(
        self, take: Callable[[int], Awaitable[T]], limits: Limits, check_process: Callable[[], object]
    ) -> None:
        self._take = take
        self._limits = limits
        self._check_process = check_process

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        wait_ns = self._limits.wait_ns()
        if wait_ns is None:
            raise StopAsyncIteration
        try:
            return await self._take(wait_ns)
        except (TimeoutError, EOFError):
            pass
        except ClosedError:
            self._check_process()
        self._limits.end()
        raise StopAsyncIteration


class Endless:
    """Batches of a receiver, which it keeps alive, until the receiver is closed; `receive()` returns the next."""

    def __init__(self, receiver: object, receive: "Callable[[], Batch]") -> None:
        self._receiver = receiver
        self._next = receive

    def __iter__(self) -> "Endless":
        return self

    def __next__(self) -> "Batch":
        return self._next()
