"""What a Reader and an Arbiter have in common: batches that are there, and the calls that deliver them.

Rules of this module: no I/O. What an exception of a signal handler interrupts is delivered by the next call.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._core.layout import ARENA_LIMIT, MOST_PACKETS
from mcast_fast._guarded import Guarded
from mcast_fast._iteration import Batches, Limits, Packets
from mcast_fast._units import UNSET, Seconds, Unset, in_seconds, wait_in_ns, whole_number
from mcast_fast.errors import ClosedError

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet


class Delivery(Guarded):
    """The base of Reader and Arbiter, which have `_make_ready` and `_make_all_ready`."""

    _WHAT = "source"

    def __init__(self, timeout: Seconds | None, batch_size: int) -> None:
        super().__init__()
        self.timeout: float | None = in_seconds(timeout, "timeout")
        wait_in_ns(timeout)
        self._batch_size = whole_number(batch_size, "batch_size", 1, 1_000_000)
        self._unread: list[Batch] = []  # not delivered yet
        self._ready: Batch | None = None  # taken out of `_unread` for the call in progress

    def recv_batch(self, max_packets: int | None = None, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """The next 1..max_packets (default batch_size) packets, as a Batch.

        Args:
            max_packets: The largest number of packets; None: `batch_size`.
            timeout: Seconds, or text such as "100ms"; left out: the source's own, None: no limit, 0: no wait.

        Returns:
            A Batch of at least one packet.

        Raises:
            EOFError: The source has ended.
            TimeoutError: It has no more in time.
            CaptureError, FileError: A file cannot be read any further.
            ClosedError: The source is closed, or another process opened it.
        """
        limit = self._batch_size if max_packets is None else whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        return self._deliver(limit, limit, self._wait(timeout))

    def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """Receive one packet.

        Args:
            timeout: Seconds, or text such as "100ms"; left out: the source's own, None: no limit, 0: no wait.

        Returns:
            The next Packet.

        Raises:
            EOFError, TimeoutError, CaptureError, FileError, ClosedError: As for `recv_batch`.
        """
        return self._one(self._wait(timeout))

    def _one(self, wait: int) -> "Packet":
        batch = self._deliver(1, self._batch_size, wait)
        try:
            return batch[0]
        except BaseException:  # of a signal handler
            self._unread.insert(0, batch)
            raise

    def collect(self, max_packets: int, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive one large batch: `max_packets` packets, or what is left, or comes in time.

        Args:
            max_packets: The largest number of packets.
            timeout: Seconds for the whole batch, as for `recv`.

        Returns:
            A Batch, which may be empty. It has fewer packets where more would not fit 4 GiB.

        Raises:
            CaptureError, FileError, ClosedError: As for `recv_batch`.
        """
        limit = whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        return self._deliver(limit, 0, self._wait(timeout))

    def __iter__(self) -> Iterator["Batch"]:
        """Iterate over batches until the source ends, or is closed.

        Yields:
            What `recv_batch()` returns.

        Raises:
            TimeoutError, CaptureError, FileError: As for `recv_batch`.
        """
        try:
            while True:
                yield self.recv_batch()
        except EOFError:
            return
        except ClosedError:
            self._check_process()

    def batches(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> Iterator["Batch"]:
        """Batches until the source ends, a time is over, or there were enough.

        Args:
            timeout: End after this many seconds without a packet, as for a Receiver; a file makes nobody wait.
            duration: Seconds, or text such as "100ms", in all, from the first packet requested on; None = no limit.
            count: Packets in all; None = no limit. The last batch is no larger than what is left.

        Returns:
            An iterator for one thread, which ends when the source is closed, too. What was read beyond its end is
            delivered by the next call.

        Raises:
            ArgumentError: A value is out of range. While iterating: CaptureError, FileError, and ClosedError in
                another process than the one that opened the source.
        """
        limits = Limits(self._wait(timeout), duration, count)
        return Batches(self._next_batch, self._requeue, lambda: self._batch_size, limits, self._check_process)

    def packets(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> Iterator["Packet"]:
        """The packets of `batches`, up to the end of the source, of a time or of a count.

        They are taken one by one: a loop that is left loses nothing, and `batches` are many times faster.

        Args:
            timeout: As for `batches`.
            duration: As for `batches`.
            count: As for `batches`.

        Returns:
            An iterator that ends as that of `batches` does.

        Raises:
            ArgumentError, CaptureError, FileError, ClosedError: As for `batches`.
        """
        return Packets(self._one, Limits(self._wait(timeout), duration, count), self._check_process)

    def _next_batch(self, most: int, wait: int) -> "Batch":
        return self._deliver(most, most, wait)

    def _wait(self, timeout: Seconds | Unset | None) -> int:
        """ns that a call waits; -1: no limit."""
        return wait_in_ns(self.timeout if isinstance(timeout, Unset) else timeout)

    def _requeue(self, batch: "Batch") -> None:
        self._unread.insert(0, batch)

    def __arrow_c_stream__(self, requested_schema: Any = None) -> Any:
        """The rest of the source through the Arrow C stream interface: `pyarrow.table(reader)`.

        A record batch for each batch, columns as `Batch.__arrow_c_array__`. FeatureError, ClosedError."""
        self._check_open()
        return _core.views.arrow_stream(iter(self), requested_schema)

    def _deliver(self, limit: int, at_once: int, wait: int) -> "Batch":
        """At most `limit` packets of what is there; where nothing is, `at_once` are read; 0: all that `limit` says.

        A batch is taken out of `_unread` by steps that no signal handler interrupts, and comes back when one raises
        before it is on its way to the caller: hence no decorator."""
        self._check_open()
        taken = None
        try:
            with self._lock:
                self._check_entry()
                self._busy = True
                try:
                    if at_once:
                        self._make_ready(limit, at_once, wait)
                    else:
                        self._make_all_ready(limit, wait)
                    taken, self._ready = self._ready, None
                finally:
                    self._busy = False
                    if self._ready is not None:
                        self._unread, self._ready = [self._ready, *self._unread], None
            return taken  # type: ignore[return-value]
        except BaseException:
            if taken is not None:
                self._unread.insert(0, taken)
            raise
        finally:
            if self._closed:
                self._settle()

    def _make_ready(self, limit: int, at_once: int, wait: int) -> None:
        """Put the next packets into `_ready`; EOFError, TimeoutError."""
        if not self._unread:
            self._fill(at_once, wait)
        first, others = self._unread[0], self._unread[1:]
        if len(first) > limit:
            first, others = first[:limit], [first[limit:], *others]
        self._ready, self._unread = first, others

    def _make_all_ready(self, limit: int, wait: int) -> None:
        """Put as many packets as there are, up to `limit`, into `_ready`."""
        more = limit - sum(map(len, self._unread))
        if more > 0:
            self._fill_up(more, wait)
        ready, others = fitting(self._unread, limit)
        whole = ready[0] if len(ready) == 1 else _core.views.Batch.concatenate(ready)
        self._ready, self._unread = whole, others

    def _fill(self, at_once: int, wait: int) -> None:
        """Have packets in `_unread`, `at_once` where they are there; EOFError, TimeoutError."""
        raise NotImplementedError

    def _fill_up(self, more: int, wait: int) -> None:
        """Have `more` packets in `_unread`, or as many as come in time."""
        raise NotImplementedError

    @property
    def batch_size(self) -> int:
        """Packets in a batch at most."""
        return self._batch_size


def fitting(batches: list["Batch"], limit: int) -> tuple[list["Batch"], list["Batch"]]:
    """The first `limit` packets of these batches, as far as they fit one batch; and the others."""
    count = size = 0
    for at, batch in enumerate(batches):
        if count + len(batch) > limit:
            rest = limit - count
            return ([*batches[:at], batch[:rest]] if rest else batches[:at]), [batch[rest:], *batches[at + 1 :]]
        size += batch.payload_bytes
        if at and size > ARENA_LIMIT:
            return batches[:at], batches[at:]
        count += len(batch)
    return batches, []
