"""What receivers, capture files and arbiters have in common, as a type."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from mcast_fast._units import UNSET, Seconds, Unset
from mcast_fast.stats import ReaderStats, Stats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet


@runtime_checkable
class Source(Protocol):
    """A source of packets: a Receiver, a Reader of a capture file, or an Arbiter of several.

    A type for functions that take either. `isinstance` checks only that the names exist.

        def count(source: mcast_fast.Source) -> int:
            return sum(len(batch) for batch in source)
    """

    def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """Receive one packet.

        Args:
            timeout: Seconds, or text such as "100ms"; left out: the source's own, None: no limit, 0: no wait.

        Returns:
            The next Packet.

        Raises:
            TimeoutError: No packet came in time.
            EOFError: The file has ended.
            ClosedError: The source is closed.
        """
        ...

    def recv_batch(self, max_packets: int | None = None, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive what is there, at least one packet.

        Args:
            max_packets: The largest number of packets; None: the source's own.
            timeout: Seconds, as for `recv`.

        Returns:
            A Batch of at least one packet.

        Raises:
            TimeoutError: No packet came in time.
            EOFError: The file has ended.
            ClosedError: The source is closed.
        """
        ...

    def collect(self, max_packets: int, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive one large batch: `max_packets` packets, or what came in time.

        Args:
            max_packets: The largest number of packets.
            timeout: Seconds for the whole batch, as for `recv`.

        Returns:
            A Batch, which may be empty.

        Raises:
            ClosedError: The source is closed.
        """
        ...

    def __iter__(self) -> Iterator["Batch"]:
        """Iterate over batches until the source is closed, or has ended.

        Yields:
            What `recv_batch()` returns.

        Raises:
            TimeoutError: No packet came within the source's own timeout.
        """
        ...

    def close(self) -> None:
        """Close the source; closing again does nothing."""
        ...

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        ...

    @property
    def stats(self) -> Stats | ReaderStats:
        """What became of the packets so far: `received`, `bytes`, `truncated`, `filtered`, `fragments` and `batches` in
        either case."""
        ...


Source.__module__ = "mcast_fast"
