"""Receiver for asyncio and trio: the calls of `mcast_fast.Receiver`, awaited.

Rules of this module: the blocking class receives, without waiting; `_waiting` waits for it. A task takes its
packets itself, in the step in which it goes on: what is cancelled before has taken nothing.
"""

import types
from collections.abc import AsyncIterator, Iterable
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from mcast_fast import _core, receiver
from mcast_fast._core.layout import MAX_PACKET_SIZE, MOST_PACKETS
from mcast_fast._iteration import Awaited, Limits
from mcast_fast._membership.arguments import Timestamps
from mcast_fast._membership.given import HasFileno
from mcast_fast._membership.memberships import Membership
from mcast_fast._sending.destinations import Target
from mcast_fast._sending.outgoing import Payload
from mcast_fast._units import (
    NANOSECONDS,
    UNSET,
    Seconds,
    Unset,
    checked_number,
    in_seconds,
    wait_in_ns,
    whole_number,
)
from mcast_fast.aio._loops import running
from mcast_fast.aio._waiting import Line
from mcast_fast.errors import ClosedError
from mcast_fast.groups import Group, Groups
from mcast_fast.sequence._format import Format
from mcast_fast.sequence._tracker import Tracker
from mcast_fast.stats import Stats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

LINGER = 0.001  # seconds: the least that epoll_wait(2) takes
LONGEST_LINGER = 0.1
T = TypeVar("T")


class Receiver:
    """A `mcast_fast.Receiver` for asyncio and trio: calls that wait are awaited, all others are the same.

    Any number of tasks may wait; packets go to them in the order in which they began to wait. A task that is cancelled
    has taken nothing. The receiver belongs to the event loop in which it is first awaited.

        async with aio.Receiver("239.1.1.1%eth0:5000") as rx:
            async for batch in rx:
                ...

    Arguments and errors are those of `mcast_fast.Receiver`, and one argument more:

    Args:
        linger: Seconds (0 to 0.1), or text such as "1ms", for which packets are gathered before a task is woken, once
            they arrive fast (about 8,000 per second and more); 0: wake a task at once. Without it a stream of single
            packets costs twice the CPU time.
    """

    __module__ = "mcast_fast.aio"

    def __init__(
        self,
        *groups: Groups,
        port: int | None = None,
        interface: str | int | None = None,
        source: str | None = None,
        timeout: Seconds | None = None,
        batch_size: int | None = None,
        max_packet_size: int = MAX_PACKET_SIZE,
        buffer_size: int | str | None = None,
        timestamps: Timestamps | None = "kernel",
        gro: bool | None = None,
        background: bool | int | str | None = None,
        background_cpu: int | None = None,
        busy_poll: int | None = None,
        recv_ttl: bool = False,
        recv_tos: bool = False,
        reuse: bool = True,
        spread: bool = True,
        watch: bool = False,
        ring: bool | int | str | None = None,
        ring_latency: Seconds = 0.01,
        packet_fanout: int | None = None,
        vlan: bool = False,
        frames: bool = False,
        own_packets: bool = True,
        ttl: int = 1,
        loopback: bool = True,
        sequence: str | Format | Tracker | None = None,
        fd: HasFileno | int | None = None,
        linger: Seconds = LINGER,
    ) -> None:
        self.timeout = timeout
        linger = checked_number(in_seconds(linger, "linger"), "linger", 0, LONGEST_LINGER)
        self._receiver = receiver.Receiver(
            *groups,
            port=port,
            interface=interface,
            source=source,
            timeout=0,
            batch_size=batch_size,
            max_packet_size=max_packet_size,
            buffer_size=buffer_size,
            timestamps=timestamps,
            gro=gro,
            background=background,
            background_cpu=background_cpu,
            busy_poll=busy_poll,
            recv_ttl=recv_ttl,
            recv_tos=recv_tos,
            reuse=reuse,
            spread=spread,
            watch=watch,
            ring=ring,
            ring_latency=ring_latency,
            packet_fanout=packet_fanout,
            vlan=vlan,
            frames=frames,
            own_packets=own_packets,
            ttl=ttl,
            loopback=loopback,
            sequence=sequence,
            fd=fd,
        )
        self._line = Line(self._receiver, linger)

    # ---- receiving ----

    async def recv_batch(self, max_packets: int | None = None, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive the packets that are there, at least one; wait for the first one only.

        Args:
            max_packets: As for `mcast_fast.Receiver.recv_batch`.
            timeout: Seconds to wait, or text such as "100ms"; left out: `self.timeout`, None: no limit, 0: no wait.

        Returns:
            A Batch of at least one packet.

        Raises:
            TimeoutError, ClosedError, SocketError, ArgumentError: As for `mcast_fast.Receiver.recv_batch`.
            RuntimeError: The receiver is in use in another event loop, which is open.
        """
        limit = self._receiver.batch_size if max_packets is None else _checked(max_packets)
        return await self._line.take(partial(self._now, limit), self._wait(timeout))

    async def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """Receive one packet.

        Args:
            timeout: Seconds to wait, as for `recv_batch`.

        Returns:
            The next Packet.

        Raises:
            TimeoutError, ClosedError, SocketError, ArgumentError, RuntimeError: As for `recv_batch`.
        """
        return await self._line.take(self._one_now, self._wait(timeout))

    async def collect(self, max_packets: int, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """Receive one large batch: `max_packets` packets, or what came in time or before close().

        Packets that a cancelled call had collected are delivered by the next call.

        Args:
            max_packets: As for `mcast_fast.Receiver.collect`.
            timeout: Seconds for the whole batch, as for `recv_batch`.

        Returns:
            A Batch, which may be empty.

        Raises:
            ClosedError: The receiver was closed and nothing was collected.
            SocketError, ArgumentError, RuntimeError: As for `recv_batch`.
        """
        limit = _checked(max_packets)
        clock = running().time
        timeout_ns = self._wait(timeout)
        end = clock() + timeout_ns / NANOSECONDS
        batches: list[Batch] = []
        left = limit
        try:
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
            return _core.views.Batch.concatenate(batches)
        except BaseException:  # MemoryError of the last step, too
            self._give_back(batches)
            raise

    def __aiter__(self) -> Self:
        """Iterate over batches until the receiver is closed.

        Yields:
            What `recv_batch()` returns.

        Raises:
            TimeoutError: No packet came within `self.timeout`.
            SocketError: The system refuses to receive.
        """
        return self

    async def __anext__(self) -> "Batch":
        try:
            return await self._line.take(self._next, self._timeout_ns)
        except ClosedError:
            raise StopAsyncIteration from None

    def batches(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> AsyncIterator["Batch"]:
        """Iterate over batches, and end as the iterator of `mcast_fast.Receiver.batches` does.

        A task that is cancelled while it waits takes no packet.

        Args:
            timeout: End after this many seconds without a packet, or text such as "100ms"; None: no limit.
            duration: End this many seconds after the first request for a packet, or text; None: no limit.
            count: End after this many packets; None: no limit.

        Returns:
            An asynchronous iterator.

        Raises:
            ArgumentError, SocketError, ClosedError: As for `mcast_fast.Receiver.batches`.
        """
        limits = Limits(self._wait(timeout), duration, count)

        async def take(wait_ns: int) -> "Batch":
            batch = await self._line.take(partial(self._now, min(self._receiver.batch_size, limits.left)), wait_ns)
            limits.left -= len(batch)
            return batch

        return Awaited(take, limits, self._check_process)

    def packets(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> AsyncIterator["Packet"]:
        """Iterate over packets, and end as the iterator of `mcast_fast.Receiver.packets` does.

        Args:
            timeout: As for `batches`.
            duration: As for `batches`.
            count: As for `batches`.

        Returns:
            An asynchronous iterator.

        Raises:
            ArgumentError, SocketError, ClosedError: As for `batches`.
        """
        limits = Limits(self._wait(timeout), duration, count)

        async def take(wait_ns: int) -> "Packet":
            packet = await self._line.take(self._one_now, wait_ns)
            limits.left -= 1
            return packet

        return Awaited(take, limits, self._check_process)

    def _check_process(self) -> None:
        """ClosedError in another process than the one that opened the receiver."""
        self._receiver._check_process()

    def _next(self) -> "Batch":
        return self._now(self._receiver.batch_size)

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

    def _wait(self, timeout: Seconds | Unset | None) -> int:
        return self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)

    # ---- membership: as the methods of mcast_fast.Receiver ----

    def join(self, group: str | Group) -> bool:
        """Join a group, as `mcast_fast.Receiver.join` does. It does not wait, except for the system call.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.

        Returns:
            False when it was joined already.

        Raises:
            GroupError, InterfaceError, SocketError, ClosedError: As for `mcast_fast.Receiver.join`.
        """
        return self._receiver.join(group)

    def leave(self, group: str | Group) -> bool:
        """Leave a group, as `mcast_fast.Receiver.leave` does.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.

        Returns:
            False when it was not joined.

        Raises:
            GroupError, InterfaceError, SocketError, ClosedError: As for `mcast_fast.Receiver.leave`.
        """
        return self._receiver.leave(group)

    def block(self, group: str | Group, source: str) -> bool:
        """Block one source of a joined group, as `mcast_fast.Receiver.block` does.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.
            source: The unicast address of the source.

        Returns:
            False when it was blocked already.

        Raises:
            GroupError, InterfaceError, SocketError, ClosedError: As for `mcast_fast.Receiver.block`.
        """
        return self._receiver.block(group, source)

    def unblock(self, group: str | Group, source: str) -> bool:
        """Receive one source of a joined group again, as `mcast_fast.Receiver.unblock` does.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.
            source: The unicast address of the source.

        Returns:
            False when it was not blocked.

        Raises:
            GroupError, InterfaceError, SocketError, ClosedError: As for `mcast_fast.Receiver.unblock`.
        """
        return self._receiver.unblock(group, source)

    def set_sources(
        self, group: str | Group, *, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> bool:
        """Replace the source filter of a joined group, as `mcast_fast.Receiver.set_sources` does.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.
            include: The only sources to receive.
            exclude: The only sources not to receive. Give one of the two.

        Returns:
            False when the filter was the same already.

        Raises:
            ArgumentError: Both lists were given, or none.
            GroupError, InterfaceError, SocketError, ClosedError: As for `block`.
        """
        return self._receiver.set_sources(group, include=include, exclude=exclude)

    @property
    def memberships(self) -> list[Membership]:
        """Every group on every interface: `mcast_fast.Receiver.memberships`."""
        return self._receiver.memberships

    # ---- the rest ----

    def reply(self, packet: "Packet", payload: Payload) -> None:
        """Send a unicast datagram to the source of a packet, as `mcast_fast.Receiver.reply` does.

        Args:
            packet: A packet that this receiver delivered.
            payload: The bytes to send.

        Raises:
            SocketError, ArgumentError, ClosedError: As for `mcast_fast.Receiver.reply`.
        """
        self._receiver.reply(packet, payload)

    def send(self, group: Target, payload: Payload) -> int:
        """Send one datagram to a group or to one host, from the receiver's own socket, without waiting.

        Args:
            group: A text in the grammar of `Group.parse` without a source, a Group, or the address of a host.
            payload: The bytes to send.

        Returns:
            The number of datagrams that left, one for each interface.

        Raises:
            GroupError, InterfaceError, ArgumentError, SocketError, SendError, ClosedError: As for
                `mcast_fast.Receiver.send`.
        """
        return self._receiver.send(group, payload)

    @property
    def timeout(self) -> float | None:
        """Seconds that a receive waits when no timeout is given; None: no limit. It can be set, also to "100ms"."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: Seconds | None) -> None:
        self._timeout_ns = wait_in_ns(value)
        self._timeout = in_seconds(value, "timeout")

    @property
    def batch_size(self) -> int:
        """The largest number of packets in a batch."""
        return self._receiver.batch_size

    @property
    def stats(self) -> Stats:
        """The loss ledger so far; after close(), the final one."""
        return self._receiver.stats

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._receiver.closed

    def close(self) -> None:
        """Wake every task that receives here, leave the groups, and close the sockets.

        Calls that wait raise ClosedError; iterations end. It may be called from any thread. Closing again does nothing.
        """
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
    return whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
