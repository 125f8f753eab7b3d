"""Receiver: multicast in, batches out."""

import contextlib
import functools
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from mcast_fast import _core
from mcast_fast._core.layout import FIELDS, MAX_PACKET_SIZE
from mcast_fast._host.nic_drops import NicDrops
from mcast_fast._host.watch import Watch
from mcast_fast._iteration import Batches, Limits, Packets
from mcast_fast._membership.arguments import (
    Timestamps,
    background_bytes,
    check_ring_alone,
    ring_arguments,
    socket_options,
)
from mcast_fast._membership.desired import Defaults
from mcast_fast._membership.joins import Joins
from mcast_fast._membership.memberships import Membership
from mcast_fast._membership.rings import Rings
from mcast_fast._membership.sockets import OpenSocket, require
from mcast_fast._membership.subscriptions import Subscriptions
from mcast_fast._units import (
    UNSET,
    Seconds,
    Unset,
    in_seconds,
    wait_in_ns,
    whole_number,
)
from mcast_fast.errors import ArgumentError, ClosedError, socket_error, warn
from mcast_fast.groups import Group, Groups, listed
from mcast_fast.sequence._format import Format
from mcast_fast.sequence._tracker import Tracker, lost_by, tracker_of
from mcast_fast.stats import Stats, What

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

__all__ = ["RECORD_FIELDS", "Receiver"]

RECORD_FIELDS = FIELDS
"""The fields of a record of `Batch.records`: name, `struct` letter, count and meaning of each."""

BATCH, COALESCED_BATCH, RING_BATCH = 256, 1024, 4096  # packets, by default
SHOWN = 3  # groups, in the repr
MOST_PACKETS = 2**26  # in one batch: their records alone are the 4 GiB that an arena may have


P = ParamSpec("P")
R = TypeVar("R")


def _inside(method: "Callable[Concatenate[Receiver, P], R]") -> "Callable[Concatenate[Receiver, P], R]":
    """A call that counts as a use of the receiver: closing meanwhile frees nothing before it is over."""

    @functools.wraps(method)
    def call(self: "Receiver", /, *args: P.args, **options: P.kwargs) -> R:
        slots = self._slots
        try:
            with slots.inside():
                slots.check()
                return method(self, *args, **options)
        finally:
            slots.settle()

    return call


class Receiver:
    """Receives the packets of multicast groups, and of nothing else.

    Threads may share a receiver: each packet goes to exactly one of those that receive, in batches that only their own
    thread has; any may join, leave, read `stats` and close meanwhile. A receiver that nobody closes is closed when it
    is collected, with a ResourceWarning.

    Opens whole, or raises and leaves nothing open.

    Args:
        *groups: What to receive: texts in the grammar of `Group.parse`, or Groups; or one sequence of them. `port`,
            `interface` and `source` fill in what a group leaves out.
        port: UDP port.
        interface: A name, an index, an address, or "all"; by default the one that the routing table names for the
            group.
        source: The only source to receive (SSM).
        timeout: Seconds that a receive waits, or text such as "100ms"; None: for ever.
        batch_size: Packets in a batch at most; by default 256 (coalesced 1,024, with a ring 4,096).
        max_packet_size: Bytes of payload; what is longer is truncated and flagged.
        buffer_size: The kernel's buffer for each socket, bytes or "4MiB"; left out, 4 MiB as far as the system allows.
        timestamps: "kernel" (ns, by the system's clock), "hardware" (by the network card's clock where it has one, with
            `Flag.HARDWARE`; else the kernel's, with a warning) or None.
        gro: Let the kernel hand over many packets of one sender as one, which is far faster. They share one arrival
            time, so that it is on by default only with `timestamps=None`; with "kernel" they have `Flag.COALESCED`.
        background: Receive in a thread of its own, so that packets wait in up to this many bytes of memory ("256MiB"
            for True) while Python is busy.
        background_cpu: The processor that this thread runs on.
        busy_poll: Microseconds for which the kernel polls the device itself before it sleeps (SO_BUSY_POLL).
        recv_ttl: Have the kernel report the TTL of each packet, which costs about 5 %.
        recv_tos: Have the kernel report the TOS of each packet, which costs about 5 %.
        reuse: Let other sockets share the port.
        spread: Hold more groups and sources than the system allows for one socket by opening more sockets.
        watch: Join again when an interface comes back, join when one comes that is not there yet, and report in
            `stats.events` (Linux).
        ring: Take packets from a ring that the kernel maps, one for each interface, of this many bytes (True: 64 MiB;
            "256MiB") instead of from sockets (Linux, CAP_NET_RAW, Ethernet; packet(7)). Payloads stay in the ring while
            there is room: see `Batch.data`. A ring delivers what a socket would get, as far as a frame alone shows it:
            frames for this host, with the right header checksum, from a possible source; all else counts as filtered.
        ring_latency: Seconds (0.001 to 1), or text such as "5ms", after which a packet in a ring is delivered, about:
            the kernel hands over blocks that are full or that old, and the receiver sleeps in between.
        packet_fanout: A number from 0 to 65535; receivers with the same one share the packets of an interface, each
            flow going to one of them. With `ring` only.
        vlan: Deliver frames that are tagged for a VLAN too, of whichever one. With `ring` only.
        sequence: Follow the numbers in the packets, so that `stats.flows` has what the network lost: the format as text
            ("rtp"), a `sequence.Format`, or a `sequence.Tracker` of one's own. It needs `timestamps`.

    Raises:
        GroupError: A text is no multicast group, or lacks its port.
        InterfaceError: An interface does not exist, or cannot carry multicast.
        ArgumentError: An argument is out of range, or does not go with another one.
        FeatureError: This system or backend cannot do what was asked for.
        SocketError: The system refuses a socket or a join.
    """

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
        sequence: str | Format | Tracker | None = None,
    ) -> None:
        wanted = listed(groups)
        if not wanted:
            raise ArgumentError("no group given; name at least one, such as '239.1.1.1%eth0:5000'")
        wait_in_ns(timeout)
        defaults = Defaults(port, interface, source)
        whole_number(max_packet_size, "max_packet_size", 1, MAX_PACKET_SIZE)
        self._background = memory = background_bytes(background, background_cpu)
        options = socket_options(buffer_size, timestamps, gro, busy_poll, recv_ttl, recv_tos, reuse)
        ring_asked = ring_arguments(ring, ring_latency, packet_fanout, timestamps, vlan)
        if ring_asked is not None:
            check_ring_alone(background=background, gro=gro, busy_poll=busy_poll)
            options = replace(options, only_holds=True, coalesced=False)
        self._tracker = tracker_of(sequence)
        if self._tracker is not None and timestamps is None:
            raise ArgumentError("sequence= needs the times of arrival: leave timestamps=None out")
        # A network card's clock is not that of the system: there only packets move the time on.
        self._clock: Callable[[], int] = (lambda: 0) if timestamps == "hardware" else time.time_ns
        self._coalesced = options.coalesced
        usual = RING_BATCH if ring_asked else COALESCED_BATCH if options.coalesced else BATCH
        self._batch_size = whole_number(usual if batch_size is None else batch_size, "batch_size", 1, 1_000_000)
        names: dict[int, str] = {}
        self._slots = _core.slots.Slots(self._batch_size, max_packet_size, names, "the receiver", options.coalesced)
        self.timeout = timeout
        self._rings = None if ring_asked is None else Rings(self._slots, names, ring_asked)
        self._joins = Joins(self._rings or self._slots, names, options, spread)
        self._subscriptions = Subscriptions(self._joins, defaults, watch)
        self._watch: Watch | None = None
        self._nic = NicDrops()
        self._closed_at = 0
        self._slots.when_idle = _weakly(self._tear_down)
        self._slots.when_receiving = _weakly(self._subscriptions.settle)
        try:
            if self._tracker is not None:
                self._slots.track(self._tracker.core)
            if memory:
                self._slots.run_in_background(memory, -1 if background_cpu is None else background_cpu)
            self._subscriptions.start(wanted)
            self._nic.total(self._subscriptions.indexes())
            if watch:
                self._watch = Watch(self._subscriptions.indexes, self._reported)
        except BaseException:
            self.close()
            raise

    # ---- receiving ----

    def recv_batch(self, max_packets: int | None = None, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """What is there, as a Batch of 1..max_packets (default batch_size) packets; waits for the first one only.

        `timeout` in seconds, or text ("100ms"): left out = the receiver's, None = for ever, 0 = does not wait. Raises
        TimeoutError when none came in time, ClosedError when the receiver is closed, SocketError when the system
        refuses to receive."""
        limit = self._batch_size if max_packets is None else whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        return self._slots.receive(limit, self._wait(timeout))

    def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """One packet. `timeout` and errors as `recv_batch`."""
        return self._slots.receive_one(self._wait(timeout))

    def collect(self, max_packets: int, timeout: Seconds | Unset | None = UNSET) -> "Batch":
        """One large Batch of `max_packets` packets, or of what came in time: it may be empty.

        `timeout` and errors as `recv_batch`, but that no TimeoutError is raised."""
        limit = whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        return self._slots.collect(limit, self._wait(timeout))

    def wait(self, timeout: Seconds | Unset | None = UNSET) -> bool:
        """Whether there is something to receive within `timeout` (as `recv_batch`); takes nothing, so that it may turn
        out to be of another group. Another thread may receive meanwhile. ClosedError, SocketError."""
        return self._slots.wait(self._wait(timeout))

    def give_back(self, batches: "Iterable[Batch]") -> None:
        """Have batches that were received here delivered once more, before anything else, as far as their packets are
        still wanted; ClosedError."""
        self._slots.give_back(batches)

    def __iter__(self) -> Iterator["Batch"]:
        """Batches until the receiver is closed; TimeoutError after the receiver's timeout without one."""
        return _Batches(self)

    def batches(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> Iterator["Batch"]:
        """Batches until nothing comes any more, a time is over, or there were enough.

        Args:
            timeout: seconds, or text such as "100ms", without a packet after which the iteration ends; left out = the
                receiver's, None = for ever.
            duration: seconds, or text, in all, from the first packet requested on; None = no limit.
            count: packets in all; None = no limit. The last batch is no larger than what is left.

        Returns:
            An iterator, which ends where iterating over the receiver would raise TimeoutError, and, like that, when
            the receiver is closed. It is for one thread. What was received beyond its end is delivered by the next
            call.

        Raises:
            ArgumentError: of a value out of range. While iterating: SocketError, and ClosedError in another process
                than the one that opened the receiver.
        """
        limits = Limits(self._wait(timeout), duration, count)
        return Batches(self._slots.receive, self._requeue, self._batch_size, limits, self._check_process)

    def packets(
        self,
        *,
        timeout: Seconds | Unset | None = UNSET,
        duration: Seconds | None = None,
        count: int | None = None,
    ) -> Iterator["Packet"]:
        """Packets until nothing comes any more, a time is over, or there were enough.

        One at a time, so that leaving the loop loses nothing; going through `batches` and their packets is faster.

        Args, Returns, Raises: as `batches`.
        """
        limits = Limits(self._wait(timeout), duration, count)
        return Packets(self._slots.receive_one, limits, self._check_process)

    def _requeue(self, batch: "Batch") -> None:
        with contextlib.suppress(ClosedError):
            self._slots.give_back([batch])

    def _check_process(self) -> None:
        """ClosedError in another process than the one that opened the receiver."""
        if self._slots.foreign:
            self._check_open()

    def _wait(self, timeout: Seconds | Unset | None) -> int:
        return self._slots.timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)

    # ---- membership ----

    @_inside
    def join(self, group: str | Group) -> bool:
        """Receive a group too, or one more source of it.

        A group that names no port means the only one that this receiver has. One that names no interface, where the
        receiver has no `interface=` either, means where it is joined already; else every interface that the receiver's
        groups of the same IP version are on (of the other version where there is none); and the one that the routing
        table names only when the receiver has no group at all.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.

        Returns:
            False when that was received already.

        Raises:
            GroupError: It is no multicast group, or its port is not clear.
            InterfaceError: Its interface does not exist.
            SocketError: The system refuses; everything is as it was before.
            ClosedError: The receiver is closed.
        """
        return self._subscriptions.join(group)

    @_inside
    def leave(self, group: str | Group) -> bool:
        """Receive a group, or one source of it, no more; False when it was not joined.

        Without port or interface: on all of them. When this returns, nothing of it is delivered any more. GroupError,
        SocketError, ClosedError."""
        return self._subscriptions.leave(group)

    @_inside
    def block(self, group: str | Group, source: str) -> bool:
        """Stop receiving one source of a joined group; returns False if it was already blocked.

        Where only some sources are received, this one is taken out (RFC 3678). When this returns, nothing of it is
        delivered any more. GroupError when the group is not joined, SocketError, ClosedError."""
        return self._subscriptions.block(group, source)

    @_inside
    def unblock(self, group: str | Group, source: str) -> bool:
        """Receive one source of a joined group again; False when that was so already. Errors as `block`."""
        return self._subscriptions.unblock(group, source)

    @_inside
    def set_sources(
        self, group: str | Group, *, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> bool:
        """Receive only the `include`d sources of a joined group, or all but the `exclude`d; False when it was so.

        `include=[]` receives nothing of it, `exclude=[]` every source. One step for the system wherever it can:
        sources that stay wanted are not interrupted. Errors as `block`, and ArgumentError."""
        return self._subscriptions.set_sources(group, include, exclude)

    @property
    @_inside
    def memberships(self) -> list[Membership]:
        """Every group on every interface: what is wanted, what the system holds, what of "all" was skipped and why;
        ClosedError."""
        return self._subscriptions.memberships()

    # ---- answering ----

    @_inside
    def reply(self, packet: "Packet", payload: bytes | bytearray | memoryview) -> None:
        """Send a unicast datagram to the source of a packet, from the port and interface that it came to; SocketError,
        ClosedError."""
        one = self._socket_of(packet)
        try:
            answering = self._rings.answering(one) if self._rings else one.socket
            answering.sendto(payload, packet.source_address)
        except OSError as error:
            subject = f"{memoryview(payload).nbytes} bytes to {packet.source} port {packet.source_port}"
            raise socket_error("send", subject, error) from error

    def _socket_of(self, packet: "Packet") -> OpenSocket:
        if not isinstance(packet, _core.views.Packet):
            raise TypeError(f"a packet of this receiver is required, not {type(packet).__name__!r}")
        version = 4 if len(packet.source_address) == 2 else 6
        best = [one for one in self._joins.sockets() if one.place[:2] == (version, packet.port)]
        if not best:
            raise ArgumentError(
                f"{packet!r} did not come from this receiver: it has no IPv{version} socket on port {packet.port}"
            )
        return next((one for one in best if one.place.interface == (packet.interface_index or 0)), best[0])

    # ---- state ----

    @property
    def timeout(self) -> float | None:
        """Seconds that a receive waits when no time is given; None = for ever. It can be set to "100ms" too."""
        return self._timeout

    @timeout.setter
    def timeout(self, value: Seconds | None) -> None:
        self._slots.timeout_ns = wait_in_ns(value)
        self._timeout = in_seconds(value, "timeout")

    @property
    def batch_size(self) -> int:
        """Packets in a batch at most."""
        return self._batch_size

    @property
    def background(self) -> int:
        """Bytes that may wait for who receives here, by `background`; 0 where no thread receives meanwhile."""
        return self._background

    @property
    def stats(self) -> Stats:
        """The loss ledger so far; after close(), the final one. ClosedError in another process than the one that opened
        the receiver."""
        if self._slots.closed and not self._slots.foreign:
            return self._ledger()
        try:
            return self._live_ledger()
        except ClosedError:
            if self._slots.foreign:
                raise
            return self._ledger()

    @_inside
    def _live_ledger(self) -> Stats:
        if self._rings is not None and self._rings.is_deferred:
            self._subscriptions.settle()  # it may be refused, which is an event
        return self._ledger()

    def _ledger(self) -> Stats:
        counters = dict(self._slots.counters())
        dropped_ring = counters.pop("dropped_ring")
        return Stats(
            dropped_ring=dropped_ring if self._rings else None,
            dropped_background=counters.pop("dropped_memory"),
            dropped_nic=self._nic.total(self._subscriptions.indexes()),
            drops_exact=counters["buffers"] >= counters["received"]
            and not (self._coalesced and counters["dropped_socket"]),
            events=tuple(self._subscriptions.events),
            **lost_by(self._tracker, self._closed_at or self._clock()),
            **counters,
        )

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._slots.closed

    def fileno(self) -> int:
        """A descriptor for select, poll or an event loop: readable when a receive would not wait (what recv() left
        unread included).

        Do not read it or close it. ClosedError; FeatureError where the system has no such descriptor."""
        self._check_open()
        require("descriptor", "fileno()")
        return self._slots.fileno()

    def close(self) -> None:
        """Wake every thread that receives here (they get ClosedError; iterations end), leave the groups, and close the
        sockets.

        From any thread and from a signal handler, also in the middle of another call: whoever is last out then closes
        the sockets, this call when nobody is inside. Closing again does nothing. In another process than the one that
        opened the receiver, it closes that process's descriptors and nothing else."""
        try:
            self._slots.close()
        except BaseException:  # a signal's handler raised: it is closed all the same
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
        if not self._slots.foreign:
            self._closed_at = self._closed_at or self._clock()
            self._nic.total(self._subscriptions.indexes())  # the last reading
        self._subscriptions.close()
        if self._watch is not None:
            self._watch.close()
        self._joins.close()
        self._nic.close()
        if self._rings is not None:
            self._rings.close()

    def _reported(self, what: What, index: int, name: str) -> bool:
        """The watch reports what happened to an interface; whether it need not report it again."""
        try:
            return self._react(what, index, name)
        except ClosedError:
            return True

    @_inside
    def _react(self, what: What, index: int, name: str) -> bool:
        return self._subscriptions.reported(what, index, name)

    @_inside
    def _check_open(self) -> None:
        """ClosedError when the receiver is closed, or another process's."""

    def __enter__(self) -> "Receiver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        slots = getattr(self, "_slots", None)
        if slots is None or slots.closed or slots.foreign or not hasattr(self, "_nic"):
            return
        try:
            warn(f"unclosed {self!r}", ResourceWarning, self)
        finally:
            slots.when_idle = self._tear_down  # what refers to it weakly may have been cleared already
            try:
                self.close()
            finally:
                slots.when_idle = None

    def __repr__(self) -> str:
        sockets = len(self._joins.sockets())
        opened = f"{sockets} socket{'' if sockets == 1 else 's'}"
        return f"<Receiver of {self._subscriptions.summary(SHOWN)}, on {opened}{', closed' if self.closed else ''}>"


class _Batches:
    """Iterates over the batches of a receiver, which it keeps alive."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._next = receiver._slots.__next__

    def __iter__(self) -> "_Batches":
        return self

    def __next__(self) -> "Batch":
        return self._next()


def _weakly(method: Callable[[], None]) -> Callable[[], None]:
    """A call of a method that does not keep its object alive."""
    known = weakref.WeakMethod(method)

    def call() -> None:
        alive = known()
        if alive is not None:
            alive()

    return call
