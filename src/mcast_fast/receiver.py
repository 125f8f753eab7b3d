"""Receiver: multicast in, batches out."""

import functools
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from mcast_fast import _core
from mcast_fast._core.coalescing import Mode
from mcast_fast._core.layout import FIELDS, MAX_PACKET_SIZE
from mcast_fast._core.lifetime import weakly
from mcast_fast._host.nic_drops import NicDrops
from mcast_fast._host.watch import Watch
from mcast_fast._membership.arguments import (
    Timestamps,
    background_bytes,
    check_numbers,
    check_sequence,
    for_given,
    for_ring,
    ring_arguments,
    socket_options,
)
from mcast_fast._membership.coalescing import Coalescing
from mcast_fast._membership.desired import Defaults
from mcast_fast._membership.given import HasFileno, comes_coalesced, take
from mcast_fast._membership.joins import Joins
from mcast_fast._membership.memberships import Membership
from mcast_fast._membership.own_addresses import OwnAddresses
from mcast_fast._membership.rings import Rings
from mcast_fast._membership.sockets import require
from mcast_fast._membership.subscriptions import Subscriptions
from mcast_fast._receiving import Receiving
from mcast_fast._sending.destinations import Target
from mcast_fast._sending.outgoing import Payload
from mcast_fast._sending.own_sockets import OwnSockets
from mcast_fast._units import (
    Seconds,
    whole_number,
)
from mcast_fast.errors import ClosedError
from mcast_fast.groups import Group, Groups, at_least_one
from mcast_fast.sequence._format import Format
from mcast_fast.sequence._tracker import Tracker, lost_by, tracker_of
from mcast_fast.stats import Event, Stats, What

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots
    from mcast_fast._core.fast.views import Packet

__all__ = ["RECORD_FIELDS", "Receiver"]

RECORD_FIELDS = FIELDS
"""The fields of a record of `Batch.records`: name, `struct` letter, count and meaning of each."""

BATCH, COALESCED_BATCH, RING_BATCH = 256, 1024, 4096  # packets, by default
SHOWN = 3  # groups, in the repr


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


class Receiver(Receiving):
    """Receives the packets of multicast groups, and no others.

    Threads may share a receiver: each packet goes to exactly one of the threads that receive; any thread may join,
    leave, read `stats` and close meanwhile. A receiver belongs to the process that opened it: in a forked child every
    call but close() raises ClosedError. A receiver that is collected without close() is closed, with a ResourceWarning.

    Opens whole, or raises and leaves nothing open.

    Args:
        *groups: What to receive: texts in the grammar of `Group.parse`, or Groups; or one sequence of them. `port`,
            `interface` and `source` fill in what a group leaves out.
        port: UDP port.
        interface: A name, an index, an address, or "all"; by default the one that the routing table names for the
            group.
        source: The only source to receive (SSM).
        timeout: Seconds that a receive waits, or text such as "100ms"; None: no limit.
        batch_size: The largest number of packets in a batch, 1 to 1,000,000; by default 256 (while packets may be
            coalesced 1,024, with a ring 4,096).
        max_packet_size: Bytes of payload, 1 to 65,535; longer ones are truncated and flagged.
        buffer_size: The kernel's buffer for each socket, bytes or "4MiB"; left out, 4 MiB as far as the system allows.
        timestamps: "kernel" (ns, by the system's clock), "hardware" (by the network card's clock where it has one, with
            `Flag.HARDWARE`; else the kernel's, with a warning) or None.
        gro: When the kernel may coalesce packets of one sender (UDP_GRO, Linux): that is far cheaper, and gives them
            one arrival time (`Flag.COALESCED`). None: while the receiver does not keep up, from when a socket's buffer
            is half full or packets were dropped until some seconds of calm (`stats.events` says when and why); at once
            with `timestamps=None`; not with "hardware". True: always. False: never.
        background: Receive in a native thread that holds up to this many bytes of payload ("256MiB" for True) while
            Python is busy.
        background_cpu: The processor that this thread runs on.
        busy_poll: Microseconds for which the kernel polls the device itself before it sleeps (SO_BUSY_POLL).
        recv_ttl: Have the kernel report the TTL or hop limit of each packet, which costs about 5 %.
        recv_tos: Have the kernel report the TOS or traffic class of each packet, which costs about 5 %.
        reuse: Let other sockets share the port.
        spread: Hold more groups and sources than the system allows for one socket by opening more sockets.
        watch: Join again when an interface comes back, join when one comes that is not there yet, and report in
            `stats.events` (feature `watch`).
        ring: Read packets from a mapped ring per interface, of this many bytes (True: 64 MiB; "256MiB"), instead of
            from sockets (Linux, CAP_NET_RAW, Ethernet; packet(7)). Payloads stay in the ring while it has space: see
            `Batch.data`. A ring delivers what a socket would deliver, as far as a frame alone shows it: frames for this
            host, with a correct header checksum, from a possible source; all others count as filtered.
        ring_latency: Seconds (0.001 to 1), or text such as "5ms", that a packet may wait in a ring, approximately: the
            kernel hands over blocks that are full or this old, and the receiver sleeps in between.
        packet_fanout: A number from 0 to 65535; receivers with the same one share the packets of an interface, each
            flow going to one of them. With `ring` only.
        vlan: Deliver frames with a VLAN tag too, of any VLAN. With `ring` only.
        frames: Deliver whole Ethernet frames as they came, which a Recorder writes as they are: `Packet.data` is the
            frame, `Packet.flags` has `Flag.FRAME`. Frames that a socket would not get are among them: tagged for a
            VLAN, with wrong checksums, and each fragment by itself (those behind the first have port 0). A super-packet
            is cut into its frames. With `ring` only.
        own_packets: Whether to deliver packets that came from an address of this machine and from the port that they
            were sent to: those of this receiver's own `send`, and of other programs here that send from that port.
            False: they count as filtered. The addresses are read at opening, by `join` and `send` (once per second at
            most), and with `watch=True` when they change.
        ttl: TTL or hop limit of what `send` sends to groups, 0 to 255; 0 keeps it on this machine.
        loopback: Whether receivers on this machine get that too; on Windows, whether this one gets what the machine
            sends (IP_MULTICAST_LOOP).
        sequence: Follow the numbers in the packets, so that `stats.flows` has what the network lost: the format as text
            ("rtp"), a `sequence.Format`, or a `sequence.Tracker` of one's own. It needs `timestamps`, and payloads:
            not with `frames`.
        fd: A UDP socket that is open and bound already, or its descriptor (of Windows a handle), to receive by instead
            of sockets of the receiver's own: of systemd's socket activation, or opened with privileges that are
            dropped since. It stays the caller's, who may close it at once; the receiver holds a duplicate (dup(2)). It
            is set not to block, reports what the receiver wants of each packet, and keeps its buffer unless
            `buffer_size` is given. Groups of its IP version, on one interface, are joined there, and left by close().
            A group's port may be left out. What waits in it is delivered, as far as it is wanted. It does not go with
            `ring` and `watch`; `reuse` and `spread` have no effect.

    Raises:
        GroupError: A text is no multicast group, or lacks its port.
        InterfaceError: An interface does not exist, or cannot carry multicast.
        ArgumentError: An argument is out of range, or does not go with another one.
        FeatureError: This system or backend lacks a feature that an argument needs.
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
        frames: bool = False,
        own_packets: bool = True,
        ttl: int = 1,
        loopback: bool = True,
        sequence: str | Format | Tracker | None = None,
        fd: HasFileno | int | None = None,
    ) -> None:
        wanted = at_least_one(groups)
        check_numbers(timeout, ttl, max_packet_size)
        defaults = Defaults(port, interface, source)
        self._background = memory = background_bytes(background, background_cpu)
        options = socket_options(buffer_size, timestamps, gro, busy_poll, recv_ttl, recv_tos, reuse)
        ring_asked = ring_arguments(ring, ring_latency, packet_fanout, timestamps, vlan, frames)
        if ring_asked is not None:
            options = for_ring(options, background=background, gro=gro, busy_poll=busy_poll)
        if fd is not None:
            options = for_given(options, comes_coalesced=comes_coalesced(fd), gro=gro, ring=ring, watch=watch)
        self._tracker = tracker_of(sequence)
        check_sequence(self._tracker, timestamps, frames)
        # A network card's clock is not that of the system: there only packets move the time on.
        self._clock: Callable[[], int] = (lambda: 0) if timestamps == "hardware" else time.time_ns
        names: dict[int, str] = {}
        super().__init__(_slots(batch_size, max_packet_size, names, options.coalescing, ring_asked is not None))
        self.timeout = timeout
        given = None if fd is None else take(fd)
        defaults = defaults if given is None else given.filled(defaults)
        self._rings = None if ring_asked is None else Rings(self._slots, names, ring_asked)
        self._joins = Joins(self._rings or self._slots, names, options, spread, given)
        self._coalescing = Coalescing(self._slots, self._joins)
        self._subscriptions = Subscriptions(self._joins, defaults, watch)
        self._own_sockets = OwnSockets(self._joins, self._subscriptions.known, self._rings, defaults, ttl, loopback)
        self._own_addresses = None if own_packets else OwnAddresses(self._slots)
        self._watch: Watch | None = None
        self._nic = NicDrops()
        self._closed_at = 0
        self._slots.when_idle = weakly(self._tear_down)
        self._slots.when_receiving = weakly(self._subscriptions.settle)
        try:
            self._open(wanted, memory, background_cpu, watch)
        except BaseException:
            self.close()
            raise

    def _open(self, wanted: tuple[str | Group, ...], memory: int, background_cpu: int | None, watch: bool) -> None:
        if self._own_addresses is not None:
            self._own_addresses.update()
        if self._tracker is not None:
            self._slots.track(self._tracker.core)
        if memory:
            self._slots.run_in_background(memory, -1 if background_cpu is None else background_cpu)
        self._subscriptions.start(wanted)
        self._nic.total(self._subscriptions.indexes())
        if watch:
            self._watch = Watch(self._subscriptions.indexes, self._reported)

    # ---- membership ----

    @_inside
    def join(self, group: str | Group) -> bool:
        """Join a group, or one more source of it.

        A group that names no port means the only one that this receiver has. One that names no interface, where the
        receiver has no `interface=` either, means where it is joined already; else every interface that the receiver's
        groups of the same IP version are on (of the other version where there is none); and the one that the routing
        table names only when the receiver has no group at all.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.

        Returns:
            False when it was joined already.

        Raises:
            GroupError: It is no multicast group, or its port is not clear.
            InterfaceError: Its interface does not exist.
            SocketError: The system refuses; everything is as it was before.
            ClosedError: The receiver is closed.
        """
        self._refresh_own()
        return self._subscriptions.join(group)

    @_inside
    def leave(self, group: str | Group) -> bool:
        """Leave a group, or one source of it. When this returns, none of its packets is delivered any more.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group; without a port or an interface: on all of them.

        Returns:
            False when it was not joined.

        Raises:
            GroupError: It is no multicast group.
            InterfaceError: Its interface does not exist.
            SocketError: The system refuses; everything is as it was before.
            ClosedError: The receiver is closed.
        """
        return self._subscriptions.leave(group)

    @_inside
    def block(self, group: str | Group, source: str) -> bool:
        """Block one source of a joined group (RFC 3678). When this returns, none of its packets is delivered any more.

        Where the group is received from a list of sources (SSM), the source is removed from that list.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.
            source: The unicast address of the source.

        Returns:
            False when it was blocked already.

        Raises:
            GroupError: The group is not joined, or the source is no unicast address.
            InterfaceError: The group's interface does not exist.
            SocketError: The system refuses; everything is as it was before.
            ClosedError: The receiver is closed.
        """
        return self._subscriptions.block(group, source)

    @_inside
    def unblock(self, group: str | Group, source: str) -> bool:
        """Receive one source of a joined group again (RFC 3678).

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.
            source: The unicast address of the source.

        Returns:
            False when it was not blocked.

        Raises:
            GroupError, InterfaceError, SocketError, ClosedError: As for `block`.
        """
        return self._subscriptions.unblock(group, source)

    @_inside
    def set_sources(
        self, group: str | Group, *, include: Iterable[str] | None = None, exclude: Iterable[str] | None = None
    ) -> bool:
        """Replace the source filter of a joined group (RFC 3678).

        Sources that are wanted before and after are not interrupted where the system sets a filter in one step.

        Args:
            group: A text in the grammar of `Group.parse`, or a Group.
            include: The only sources to receive; an empty list: none.
            exclude: The only sources not to receive; an empty list: receive every source. Give one of the two.

        Returns:
            False when the filter was the same already.

        Raises:
            ArgumentError: Both lists were given, or none.
            GroupError, InterfaceError, SocketError, ClosedError: As for `block`.
        """
        return self._subscriptions.set_sources(group, include, exclude)

    @property
    @_inside
    def memberships(self) -> list[Membership]:
        """Every group on every interface: what is wanted, what the system holds, what "all" skipped; ClosedError."""
        return self._subscriptions.memberships()

    # ---- sending ----

    @_inside
    def reply(self, packet: "Packet", payload: Payload) -> None:
        """Send a unicast datagram to the source of a packet, from the port and the interface that it came to.

        Args:
            packet: A packet that this receiver delivered.
            payload: The bytes to send, 0 to 65,507 (IPv4) or 65,527 (IPv6).

        Raises:
            SocketError: The system refuses to send.
            ArgumentError: The packet did not come from this receiver.
            TypeError: It is no packet.
            ClosedError: The receiver is closed.
        """
        self._own_sockets.reply(packet, payload)

    @_inside
    def send(self, group: Target, payload: Payload) -> int:
        """Send one datagram to a group or to one host, from the receiver's own socket.

        It comes from the port that the receiver has, as mDNS (RFC 6762), SSDP and DIS need it.

            with mcast.Receiver("224.0.0.251%eth0:5353", ttl=255, own_packets=False) as rx:
                rx.send("224.0.0.251", question)

        A group that names no interface means the receiver's `interface=`; without one, the interfaces that the group is
        joined on; else every interface on which the receiver has a group of that IP version. One datagram leaves by
        each. The group need not be joined. A target that names no port means the receiver's only one. The source port
        is the port that is sent to, where the receiver has it, else its only one. To a group, the receiver's `ttl` and
        `loopback` apply; to a host, the system's TTL.

        The call does not wait: to send more than a few datagrams at a time, use a Sender. Unicast answers come to the
        same port, and a receiver delivers only packets to its groups: for answers use `Sender.gather`.

        Args:
            group: A text in the grammar of `Group.parse` without a source, or a Group; or the address of a host, as for
                `Sender.send_to`.
            payload: The bytes to send, 0 to 65,507 (IPv4) or 65,527 (IPv6).

        Returns:
            The number of datagrams that left.

        Raises:
            GroupError: It is no group and no address, or its port or zone is not clear.
            InterfaceError: Its interface does not exist.
            ArgumentError: The receiver has no socket there, or several ports and none of them is meant.
            SendError: The system refuses a datagram; EAGAIN when the send buffer is full. It is tried by every
                interface all the same; `sent` is the number that left.
            SocketError: With `ring`, the system refuses the socket to send by.
            ClosedError: The receiver is closed, or another process opened it.
        """
        self._refresh_own()
        return self._own_sockets.send(group, payload)

    def _refresh_own(self, have_changed: bool = False) -> None:
        if self._own_addresses is not None:
            self._own_addresses.refresh(have_changed)

    # ---- state ----

    @property
    def sources(self) -> int:
        """How many sockets or rings packets come from.

        Those of one are in the order of arrival. A batch of several has the packets of one behind those of another."""
        return len(self._joins.sockets()) if self._rings is None else self._rings.count

    @property
    def background(self) -> int:
        """Bytes of payload that a background thread may hold (`background=`); 0 without one."""
        return self._background

    @property
    def stats(self) -> Stats:
        """The loss ledger so far; after close(), the final one. ClosedError where another process opened it."""
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
        dropped_ring, inexactly = counters.pop("dropped_ring"), counters.pop("dropped_inexactly")
        may_hold_several = inexactly or (dropped_ring and counters["coalesced"])
        return Stats(
            dropped_ring=dropped_ring if self._rings else None,
            dropped_background=counters.pop("dropped_memory"),
            dropped_nic=self._nic.total(self._subscriptions.indexes()),
            drops_exact=not may_hold_several,
            events=tuple(sorted((*self._subscriptions.events, *self._coalescing.events), key=_time)),
            **lost_by(self._tracker, self._closed_at or self._clock()),
            **counters,
        )

    def fileno(self) -> int:
        """Return a descriptor for select, poll or an event loop, readable while a receive would not wait.

        Do not read it or close it. Packets that recv() left unread count too.

        Returns:
            The number of the descriptor: epoll(7) on Linux, kqueue(2) on macOS and FreeBSD.

        Raises:
            ClosedError: The receiver is closed.
            FeatureError: This system has no such descriptor (feature `descriptor`).
        """
        self._check_open()
        require("descriptor", "fileno()")
        return self._slots.fileno()

    def _release(self) -> None:
        if not self._slots.foreign:
            self._closed_at = self._closed_at or self._clock()
            self._nic.total(self._subscriptions.indexes())  # the last reading
            self._joins.leave_given()
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
        self._refresh_own(what is What.ADDRESS)
        return self._subscriptions.reported(what, index, name)

    @_inside
    def _check_open(self) -> None:
        """ClosedError when the receiver is closed, or another process's."""

    def __repr__(self) -> str:
        sockets = len(self._joins.sockets())
        opened = f"{sockets} socket{'' if sockets == 1 else 's'}"
        return f"<Receiver of {self._subscriptions.summary(SHOWN)}, on {opened}{', closed' if self.closed else ''}>"


def _time(event: Event) -> int:
    return event.time


def _slots(
    batch_size: int | None, max_packet_size: int, names: dict[int, str], coalescing: Mode, has_ring: bool
) -> "Slots":
    """What a receiver receives by, with the sizes of batches that are usual where none is given."""
    usual = (RING_BATCH, RING_BATCH) if has_ring else (BATCH, COALESCED_BATCH)
    sizes = usual if batch_size is None else (whole_number(batch_size, "batch_size", 1, 1_000_000),) * 2
    return _core.slots.Slots(
        sizes[0], max_packet_size, names, "the receiver", coalescing, coalesced_batch_size=sizes[1]
    )
