"""The calls of a Receiver that take packets, and what they have in common: a timeout, a size of batches, and the end.

Rules of this module: all of them go to the slots, which count each as a use of the receiver.
"""

import contextlib
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import TYPE_CHECKING

from mcast_fast._core.layout import MOST_PACKETS
from mcast_fast._core.lifetime import Closing
from mcast_fast._iteration import Batches, Endless, Limits, Packets
from mcast_fast._units import UNSET, Seconds, Unset, in_seconds, wait_in_ns, whole_number
from mcast_fast.errors import ClosedError, warn

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots
    from mcast_fast._core.fast.views import Batch, Packet


class Receiving(Closing):
    """The base of Receiver and Wire. Each sets `when_idle` of the slots once it can be torn down."""

    def __init__(self, slots: "Slots") -> None:
        self._slots = slots

    def recv_batch(self, max_packets: int | None = None, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive the packets that are there, at least one; wait for the first one only.

        Args:
            max_packets: The largest number of packets, 1 to 2^26; None: `batch_size`.
            timeout: Seconds to wait, or text such as "100ms"; left out: the receiver's own, None: no limit, 0: no wait.

        Returns:
            A Batch of 1 to `max_packets` packets.

        Raises:
            TimeoutError: No packet came in time.
            ClosedError: The receiver is closed, or another process opened it.
            SocketError: The system refuses to receive.
            ArgumentError: An argument is out of range.
        """
        usual = self._slots.batch_size
        limit = usual if max_packets is None else whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        return self._slots.receive(limit, self._wait(timeout))

    def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """Receive one packet.

        Args:
            timeout: Seconds to wait, or text such as "100ms"; left out: the receiver's own, None: no limit, 0: no wait.

        Returns:
            The next Packet.

        Raises:
            TimeoutError, ClosedError, SocketError, ArgumentError: As for `recv_batch`.
        """
        return self._slots.receive_one(self._wait(timeout))

    def collect(self, max_packets: int, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive one large batch: `max_packets` packets, or what came in time.

        Args:
            max_packets: The largest number of packets, 1 to 2^26.
            timeout: Seconds for the whole batch, as for `recv_batch`.

        Returns:
            A Batch of 0 to `max_packets` packets. It is shorter where the time was over, where the receiver was closed
            meanwhile, or where the next packet would not fit into 4 GiB.

        Raises:
            ClosedError, SocketError, ArgumentError: As for `recv_batch`; being closed meanwhile is no error.
        """
        limit = whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        return self._slots.collect(limit, self._wait(timeout))

    def wait(self, timeout: Seconds | Unset | None = UNSET) -> bool:
        """Wait until there is something to receive, and take nothing.

        What woke it may turn out to belong to another group, and another thread may take it first.

        Args:
            timeout: Seconds to wait, as for `recv_batch`.

        Returns:
            False when nothing came in time.

        Raises:
            ClosedError, SocketError, ArgumentError: As for `recv_batch`.
        """
        return self._slots.wait(self._wait(timeout))

    def give_back(self, batches: "Iterable[Batch]") -> None:
        """Requeue batches: they are delivered once more, before anything else.

        Packets that no membership matches any more are left out.

        Args:
            batches: Batches that this receiver delivered, in the order in which they are to come.

        Raises:
            ClosedError: The receiver is closed, or another process opened it.
            TypeError: Something is no Batch.
        """
        self._slots.give_back(batches)

    def __iter__(self) -> Iterator["Batch"]:
        """Iterate over batches until the receiver is closed.

        Yields:
            What `recv_batch()` returns.

        Raises:
            TimeoutError: No packet came within the receiver's own timeout.
            SocketError: The system refuses to receive.
        """
        return Endless(self, self._slots.__next__)

    def batches(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> Iterator["Batch"]:
        """Iterate over batches, and end after a silence, a time in all, or a number of packets.

        Args:
            timeout: End after this many seconds without a packet, or text such as "100ms"; left out: the receiver's
                own, None: no limit.
            duration: End this many seconds after the first request for a packet, or text; None: no limit.
            count: End after this many packets; None: no limit. The last batch holds no more than the rest.

        Returns:
            An iterator for one thread. It ends where iterating over the receiver would raise TimeoutError, and when the
            receiver is closed. Packets that it did not deliver are delivered by the next call.

        Raises:
            ArgumentError: An argument is out of range.
            SocketError, ClosedError: While iterating, as for `recv_batch`; closing ends it without an error.
        """
        limits = Limits(self._wait(timeout), duration, count)
        return Batches(self._slots.receive, self._requeue, lambda: self._slots.batch_size, limits, self._check_process)

    def packets(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> Iterator["Packet"]:
        """Iterate over packets, and end after a silence, a time in all, or a number of packets.

        Packets are taken one at a time, so that leaving the loop loses none; iterating over `batches` and the packets
        in them is faster.

        Args:
            timeout: As for `batches`.
            duration: As for `batches`.
            count: As for `batches`.

        Returns:
            An iterator that ends as that of `batches` does.

        Raises:
            ArgumentError, SocketError, ClosedError: As for `batches`.
        """
        limits = Limits(self._wait(timeout), duration, count)
        return Packets(self._slots.receive_one, limits, self._check_process)

    def _requeue(self, batch: "Batch") -> None:
        with contextlib.suppress(ClosedError):
            self._slots.give_back([batch])

    def _check_process(self) -> None:
        """ClosedError in another process than the one that opened the receiver."""
        if self._slots.foreign:
            try:
                with self._slots.inside():
                    self._slots.check()
            finally:
                self._slots.settle()

    def _wait(self, timeout: Seconds | Unset | None) -> int:
        return self._slots.timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)

    @property
    def timeout(self) -> float | None:
        """Seconds that a receive waits when no timeout is given; None: no limit. It can be set, also to "100ms"."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: Seconds | None) -> None:
        self._slots.timeout_ns = wait_in_ns(value)
        self._timeout = in_seconds(value, "timeout")

    @property
    def batch_size(self) -> int:
        """The largest number of packets in a batch; by default it is larger while packets are coalesced."""
        return self._slots.batch_size

    # ---- the end ----

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._slots.closed

    def close(self) -> None:
        """Wake every thread that receives here, leave the groups, and close the sockets.

        Calls that wait raise ClosedError; iterations end. It may be called from any thread and from a signal handler,
        also in the middle of another call: the last call to return then closes the sockets. Closing again does
        nothing. In a forked child it closes that process's descriptors and nothing else.
        """
        try:
            self._slots.close()
        except BaseException:  # a signal handler raised: it is closed nevertheless
            self._slots.close()
            raise

    def _tear_down(self) -> None:
        """Nobody is inside any more. Whatever a step meets, the others are done."""
        try:
            self._release()
        except BaseException:  # each step can be done again
            self._release()
            raise

    def _release(self) -> None:
        """Close what is open beside the slots; it can be done again."""
        raise NotImplementedError

    def __del__(self) -> None:
        slots = getattr(self, "_slots", None)
        if slots is None or slots.closed or slots.foreign or slots.when_idle is None:
            return
        try:
            warn(f"unclosed {self!r}", ResourceWarning, self)
        finally:
            slots.when_idle = self._tear_down  # what refers to it weakly may have been cleared already
            try:
                self.close()
            finally:
                slots.when_idle = None


# To users they are calls of Receiver: pickles and the errors of wrong arguments name it.
for _name, _call in vars(Receiving).items():
    if isinstance(_call, FunctionType):
        _call.__module__, _call.__qualname__ = "mcast_fast.receiver", f"Receiver.{_name}"
