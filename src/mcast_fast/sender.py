"""Sender: datagrams out to groups, and the answers of receivers in."""

import contextlib
import errno
import functools
import math
import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, TypeVar, get_args

from mcast_fast import _core
from mcast_fast._core import lateness
from mcast_fast._core.addresses import map_address, native
from mcast_fast._core.layout import MAX_PACKET_SIZE
from mcast_fast._core.lifetime import Closing
from mcast_fast._host.interfaces import Interface
from mcast_fast._membership.desired import Defaults, Subscription, subscribe
from mcast_fast._membership.sockets import NOWHERE, reports_destination, require
from mcast_fast._sending.outgoing import Destination, Outgoing, Paths, Payload, outgoing, outgoing_list
from mcast_fast._sending.sockets import (
    OpenSockets,
    Options,
    SendingSocket,
    interface_instead,
    no_segmentation,
    open_anew,
    open_sending,
    read_times,
)
from mcast_fast._units import (
    UNSET,
    Rate,
    Seconds,
    Unset,
    checked,
    checked_call,
    checked_number,
    rate_of,
    wait_in_ns,
    whole_number,
)
from mcast_fast.errors import ArgumentError, ClosedError, SendError, SocketError, explain, os_text, warn
from mcast_fast.groups import Group, Groups, listed
from mcast_fast.stats import SenderStats, TransmitTime

if TYPE_CHECKING:
    from mcast_fast._core.fast.send import Schedule as CoreSchedule
    from mcast_fast._core.fast.slots import Slots
    from mcast_fast._core.fast.views import Batch, Packet

__all__ = ["Schedule", "Sender"]

P = ParamSpec("P")
T = TypeVar("T")

LARGEST_SEGMENT = 65_507

Pacing = Literal["sender", "kernel"]
PACINGS: tuple[str, ...] = get_args(Pacing)
REMEMBERED_GROUPS = 4096  # of send_to
RETRIES = 100  # of one datagram that a full queue refuses, by a call that does not wait

SLOWEST = 1e-9  # of a Schedule
# Answers that may mean that the interface is gone, and another one of its name came instead.
GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL})


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a recording is sent: made by `Sender.schedule`, for `Sender.send_recorded`.

    Attributes:
        destination: Returns the group that a recorded packet goes to, as text or Group.
    """

    core: "CoreSchedule"
    destination: "Callable[[Packet], str | Group]"

    def start(self, origin: int, moment: int, speed: float | None) -> None:
        """Set when packets are due: at `moment` + (their timestamp - `origin`) / `speed`, none before its predecessor.

        Args:
            origin: The timestamp of the packet that is due first, ns since the epoch.
            moment: When it is due, ns of the monotonic clock (`time.monotonic_ns`).
            speed: Factor on the recorded speed, above 0; None: packets leave at the sender's own rate.

        Raises:
            ArgumentError: An argument is out of range.
        """
        whole_number(origin, "origin", -(2**63), 2**63 - 1)
        whole_number(moment, "moment", 0, 2**63 - 1)
        if speed is not None:
            checked_number(speed, "speed", SLOWEST, math.inf)
        self.core.start(origin, moment, 1 / speed if speed else 0.0)

    def late(self, share: float) -> int | None:
        """Return a quantile of the lateness of departures; a packet departs when it is handed to the system.

        Args:
            share: The share of packets that left no later than the result, 0 to 1.

        Returns:
            Nanoseconds, to 3 %, and exact for a share of 1.0 (the latest packet); None when no packet was due by its
            timestamp.

        Raises:
            ArgumentError: `share` is out of range.
        """
        checked_number(share, "share", 0, 1)
        counts, latest = self.core.lateness()
        return latest if share >= 1 and any(counts) else lateness.percentile(counts, share)


def _using(method: Callable[Concatenate["Sender", P], T]) -> Callable[Concatenate["Sender", P], T]:
    """Keeps the sender's sockets open while a method runs; ClosedError when they are not."""

    @functools.wraps(method)
    def call(self: "Sender", /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            with self._transmitter.inside():
                return method(self, *args, **kwargs)
        except ClosedError:
            raise
        except (OSError, ValueError):  # a descriptor that is closed, or an object of the pure backend's
            if self.closed:
                raise ClosedError("the sender is closed") from None
            raise
        finally:
            self._transmitter.settle()

    return call


class Sender(Closing):
    """Sends datagrams to multicast groups; never connected, so that unicast answers come back to `recv()`.

    Departures at a `rate` are due at absolute times of the monotonic clock, so that a late datagram delays no later
    one. A call that comes more than 10 ms late starts a new series.

    Threads may share a sender: the datagrams of one call keep their order, and those of other calls may come between
    them. Any thread and signal handler may read `stats` and close the sender meanwhile. Where an interface is deleted
    and comes back under its name, sending continues on the new one. A sender belongs to the process that opened it: in
    a forked child every call but close() raises ClosedError. A sender that is collected without close() is closed, with
    a ResourceWarning.

    Opens whole, or raises and leaves nothing open.

    Args:
        *groups: Where to send: texts in the grammar of `Group.parse`, or Groups; or one sequence of them. Every
            datagram goes to each group (and each interface of "all"). `port`, `interface` and `source` fill in what a
            group leaves out.
        port: UDP port of the groups.
        interface: A name, an index, an address, or "all"; by default the one that the routing table names for the
            group.
        source: The address to send from, one of this machine's; also written SOURCE@ before a group.
        source_port: The UDP port to send from; None: the system picks one.
        ttl: TTL or hop limit, 0 to 255: 1 keeps datagrams on the local network, 0 on this machine.
        dscp: The DSCP (RFC 2474), 0 to 63 (IP_TOS, IPV6_TCLASS).
        loopback: Whether receivers on this machine get the datagrams too.
        rate: Datagrams per second ("50k/s" or a number) or bits of payload per second ("800Mbit/s"), for all groups
            together; None: as fast as possible.
        burst: Datagrams that leave together at each departure of a rate, 1 to 1,000,000.
        pacing: "sender", or "kernel", which leaves the rate to the queue discipline (SO_MAX_PACING_RATE, socket(7);
            rates in bits only, and only `fq` honours it: not tested by us).
        transmit_times: Have the kernel report when each datagram left (Linux).
        segmentation: Whether the kernel may segment datagrams of one size that leave together (udp(7), UDP_SEGMENT);
            switch it off where a queue on the path, such as `tc tbf`, drops parts of them.
        timeout: Seconds that recv() waits, or text such as "100ms"; None: no limit.

    Raises:
        GroupError: A text is no multicast group, or lacks its port.
        InterfaceError: An interface does not exist, or cannot carry multicast.
        ArgumentError: An argument is out of range, or does not go with another one.
        FeatureError: This system or backend lacks a feature that an argument needs.
        SocketError: The system refuses a socket.
    """

    def __init__(
        self,
        *groups: Groups,
        port: int | None = None,
        interface: str | int | None = None,
        source: str | None = None,
        source_port: int | None = None,
        ttl: int = 1,
        dscp: int | None = None,
        loopback: bool = True,
        rate: float | str | None = None,
        burst: int = 1,
        pacing: Pacing = "sender",
        transmit_times: bool = False,
        segmentation: bool = True,
        timeout: Seconds | None = None,
    ) -> None:
        wanted = listed(groups)
        if not wanted:
            raise ArgumentError("no group given; name at least one, such as '239.1.1.1%eth0:5000'")
        self._rate, max_rate = _pacing(rate, burst, pacing)
        if transmit_times:
            require("transmit_times", "transmit_times=True")
        self._timeout_ns = wait_in_ns(timeout)
        # An address to send from names the interface too.
        self._defaults = Defaults(port, source if interface is None else interface, source)
        self._subscriptions = subscribe(wanted, self._defaults)
        self.groups: tuple[Group, ...] = tuple(one.group for one in self._subscriptions)
        sockets = {(one.group.version, interface.index) for one in self._subscriptions for interface in one.interfaces}
        reuse = source_port is not None and len(sockets) > 1  # several sockets share a named port
        self._options = _checked(
            Options(ttl, loopback, dscp, source_port, reuse, transmit_times, segmentation, max_rate)
        )
        self._names = {one.index: one.name for subscription in self._subscriptions for one in subscription.interfaces}
        self._replies = self._new_replies()
        self._reply_keys: dict[int, int] = {}  # by the keys of the sockets that are received from
        self._listening = False
        self._reopened = 0
        interval = self._rate.ns_per_unit if self._rate else 0.0
        by_bits = self._rate.by_bits if self._rate else False
        self._open_sockets = OpenSockets()
        close = self._open_sockets.close
        self._transmitter = _core.send.Transmitter("the sender", interval, by_bits, burst, close)
        self._sockets: dict[tuple[int, int, str | None], SendingSocket] = {}
        self._opening = threading.RLock()  # a signal's handler may send to what its thread is opening
        self._times: list[TransmitTime] = []
        self._others: dict[str | Group, Paths] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._own = self._paths(self._subscriptions)
            undo.pop_all()

    def _paths(self, subscriptions: list[Subscription]) -> Paths:
        """The destinations of groups, whose sockets are opened where there is none yet."""
        found: list[Destination] = []
        for subscription in subscriptions:
            group = subscription.group
            for interface in subscription.interfaces:
                place = (group.version, interface.index, group.source)
                if place not in self._sockets:
                    sock = open_sending(group.version, group.source, interface, self._options)
                    self._sockets[place] = self._added(sock, interface, None)
                key = self._sockets[place].key
                found += [Destination(key, native(one.packed), one.port or 0, interface) for one in group.expand()]
        return Paths(found, self._transmitter.route([one.target for one in found]))

    def _added(self, sock: socket.socket, interface: Interface, old: SendingSocket | None) -> SendingSocket:
        """Have a socket sent by, in place of an old one; on an error it is closed."""
        self._open_sockets.add(sock)
        try:
            reason = no_segmentation(sock, interface, self._options)
            limit = 0 if reason else LARGEST_SEGMENT
            self._names[interface.index] = interface.name
            if old is None:
                added = SendingSocket(sock, self._transmitter.add(sock, limit), interface, reason)
            else:
                self._transmitter.replace(old.key, sock, limit)
                added = SendingSocket(sock, old.key, interface, reason)
                self._discard(old)
            if self._listening:
                self._listen_to(added)
        except BaseException:
            self._open_sockets.discard(sock)
            raise
        return added

    def _discard(self, old: SendingSocket) -> None:
        """Close a socket that is no longer sent by."""
        reply_key = self._reply_keys.pop(old.key, None)
        if reply_key is not None:
            with contextlib.suppress(ClosedError):
                self._replies.remove(reply_key)
        self._open_sockets.discard(old.socket)

    # ---- sending ----

    def send(self, payload: Payload) -> int:
        """Send one datagram to each group; wait while the send buffer is full, and for the rate.

        Args:
            payload: The bytes to send, at most 65,507 to IPv4 groups and 65,527 to IPv6 groups.

        Returns:
            The number of datagrams that left.

        Raises:
            SendError: The system refuses; its `sent` is the number that had left.
            ClosedError: The sender is closed, or another process opened it.
            TypeError: `payload` is no bytes-like object.
        """
        return self._send_all((payload,))

    def send_batch(self, payloads: "Iterable[Payload] | Batch | Any", size: int | None = None) -> int:
        """Send many datagrams to each group, in order; wait while the send buffer is full, and for the rate.

        Datagrams of one size to one group are handed to the kernel together and segmented there, where that works
        (`stats.segmentation`); a firewall on this machine then sees them as one packet.

        Args:
            payloads: A sequence of bytes-like objects; a Batch; a C-contiguous array of two dimensions, one datagram
                per row; or, with `size`, one buffer.
            size: Bytes of each datagram that one buffer is cut into, 1 to 65,527; the last one may be shorter.

        Returns:
            The number of datagrams that the system accepted. An interface that goes down may hold some of them, and a
            queue discipline that segments them again (`tc tbf`) may drop parts: use `segmentation=False` there.

        Raises:
            SendError: The system refuses; its `sent` is the number that had left.
            ArgumentError: `payloads` is none of these, or `size` is out of range.
            ClosedError: The sender is closed, or another process opened it.
        """
        return self._go_on(outgoing(self._transmitter, payloads, size), 0, 0)

    def send_to(self, payload: Payload, group: str | Group) -> int:
        """Send one datagram to a group that is not one of the sender's own.

        The group is looked up the first time, and a socket opened where it needs another one.

        Args:
            payload: The bytes to send, as for `send`.
            group: A text in the grammar of `Group.parse`, or a Group; the sender's `port`, `interface` and `source`
                fill in what it leaves out.

        Returns:
            The number of datagrams that left: one for each group of a run, on each interface of "all".

        Raises:
            GroupError: It is no multicast group, or lacks its port.
            InterfaceError: Its interface does not exist, or cannot carry multicast.
            SocketError: The system refuses a socket.
            SendError, ClosedError: As for `send`.
        """
        return self._send_all((payload,), group)

    def schedule(self, destination: "Callable[[Packet], str | Group]") -> Schedule:
        """Prepare sending a recording by `send_recorded`.

        Args:
            destination: Called with the first packet of each recorded group and port; returns the group that they are
                sent to, as for `send_to`.

        Returns:
            A Schedule, whose `start` sets the times of departure.

        Raises:
            ArgumentError: `destination` is not callable.
            ClosedError: The sender is closed, or another process opened it.
        """
        checked_call(destination, "destination")
        return Schedule(self._transmitter.schedule(), destination)

    def send_recorded(self, batch: "Batch", schedule: Schedule) -> int:
        """Send the packets of a recording to the groups and at the times of a schedule.

        Without the GIL (compiled backend), by a sleep and a short spin before each departure.

        Args:
            batch: The packets, with the timestamps of the recording.
            schedule: Made by `schedule` of this sender, and started.

        Returns:
            The number of datagrams that left.

        Raises:
            GroupError, InterfaceError, SocketError, SendError, ClosedError: As for `send_to`.
            ArgumentError: An argument is of a wrong type, or a group has several destinations.
        """
        checked(batch, _core.views.Batch, "batch", "a Batch")
        checked(schedule, Schedule, "schedule", "a schedule of Sender.schedule()")
        records, data = batch.records, batch.data
        at, recovered = 0, -1
        while at < len(batch):
            left, code = self._transmitter.send_recorded(schedule.core, records, data, at)
            at += left
            if code:
                packet = batch[at]
                group = schedule.destination(packet)
                destination = self._paths_to(group).destinations[0]
                if recovered == at or code not in GONE or not self._find_again(destination):
                    raise SendError(code, explain("send", f"{len(packet)} bytes to {group}", code), at)
                recovered = at
            if at < len(batch):
                self._add_route(batch[at], schedule)
        return at

    def _add_route(self, packet: "Packet", schedule: Schedule) -> None:
        """Add to the schedule where packets of this group and port go."""
        group = schedule.destination(packet)
        destinations, route = self._paths_to(group)
        if len(destinations) != 1:
            raise ArgumentError(f"{group} has {len(destinations)} destinations; a recording is sent to one")
        schedule.core.add(map_address(packet.group), packet.port, route)

    def _paths_to(self, group: str | Group | None) -> Paths:
        """The paths to the sender's own groups (None), or to another one."""
        if group is None:
            return self._own
        try:
            known = self._others.get(group)
        except TypeError:  # not hashable, and no group
            known = None
        return known or self._look_up(group)

    @_using
    def _look_up(self, group: str | Group) -> Paths:
        subscriptions = subscribe([group], self._defaults)
        with self._opening:
            known = self._paths(subscriptions)
            if len(self._others) >= REMEMBERED_GROUPS:
                self._others.clear()
            self._others[group] = known
        return known

    def _send_all(self, payloads: tuple[Payload, ...], group: str | Group | None = None) -> int:
        """Send each payload; the common case makes no Outgoing."""
        sent, code = self._transmitter.send(self._paths_to(group).route, payloads)
        return self._go_on(outgoing_list(self._transmitter, payloads, group), sent, code) if code else sent

    def _go_on(self, job: Outgoing, sent: int, code: int) -> int:
        """Send what has not left yet, after `sent` datagrams and an errno; how many left in all. SendError."""
        job.sent = sent
        if code:
            self._recover(job, code)
        while True:
            sent, code = job.call(self._paths_to(job.group).route, job.sent, True)
            job.sent += sent
            if code == 0:
                return job.sent
            self._recover(job, code)

    def _step(self, job: Outgoing) -> int:
        """Send what leaves without waiting: 0 when all has, else EAGAIN or ENOBUFS: to be called again. SendError."""
        sent, code = job.call(self._paths_to(job.group).route, job.sent, False)
        job.sent += sent
        job.retries = 0 if sent else job.retries
        if code == errno.ENOBUFS and job.retries < RETRIES:
            job.retries += 1
            return code
        if code in (0, errno.EAGAIN):
            return code
        self._recover(job, code)
        return errno.EAGAIN

    def _recover(self, job: Outgoing, code: int) -> None:
        """Have it go on after an error, or raise it: SendError."""
        destination = self._next_destination(job)
        if code in GONE and job.recovered != job.sent and self._find_again(destination):
            job.recovered = job.sent
            return
        number = job.sent // len(self._paths_to(job.group).destinations)
        subject = f"{job.size_of(number)} bytes to {destination}"
        raise SendError(code, explain("send", subject, code), job.sent)

    def _next_destination(self, job: Outgoing) -> Destination:
        """Where the next datagram goes."""
        destinations = self._paths_to(job.group).destinations
        return destinations[job.sent % len(destinations)]

    @_using
    def _duplicate(self, job: Outgoing) -> socket.socket:
        """A duplicate of the socket that the next datagram goes by, for an event loop to watch."""
        key = self._next_destination(job).key
        return next(one.socket for one in list(self._sockets.values()) if one.key == key).dup()

    @_using
    def _find_again(self, destination: Destination) -> bool:
        """Whether an interface that was deleted is there again, and its sockets were opened again, by its name."""
        with self._opening:
            gone = destination.interface.index
            old = {place: one for place, one in self._sockets.items() if place[1] == gone}
            if not old:
                return True  # another thread was faster
            interface = interface_instead(next(iter(old.values())))
            if interface is None:
                return False
            try:
                for place, one in old.items():
                    self._open_anew(place, one, interface)
            except SocketError:  # such as an address to send from that it does not have yet
                return False
            self._others.clear()
            self._subscriptions = [
                replace(one, interfaces=tuple(interface if i.index == gone else i for i in one.interfaces))
                for one in self._subscriptions
            ]
            self._own = self._paths(self._subscriptions)
            return True

    def _open_anew(self, place: tuple[int, int, str | None], old: SendingSocket, interface: Interface) -> None:
        version, _, source = place
        sock = open_anew(old, version, source, interface, self._options)
        self._sockets[version, interface.index, source] = self._added(sock, interface, old)
        del self._sockets[place]
        self._reopened += 1

    # ---- what was sent ----

    @property
    def stats(self) -> SenderStats:
        """What was sent so far; also after close(). ClosedError where another process opened the sender."""
        datagrams, size, calls, would_blocks, retries, achieved = self._transmitter.counters()
        rate = achieved if self._rate and achieved > 0 else None
        error = achieved / self._rate.per_second - 1 if self._rate and rate else None
        sockets = list(self._sockets.values())
        able = any(self._transmitter.refusal(one.key)[0] > 0 for one in sockets)
        reasons = dict.fromkeys(reason for one in sockets if (reason := self._refusal(one)))
        reason = "; ".join(reasons)
        return SenderStats(
            datagrams, size, calls, would_blocks, retries, rate, error, able, reason, reopened=self._reopened
        )

    def _refusal(self, sock: SendingSocket) -> str:
        """Why datagrams do not always leave by this socket in packets that are segmented; '' when they do."""
        limit, code = self._transmitter.refusal(sock.key)
        if sock.reason or not code:
            return sock.reason
        what = f"segments above {limit} bytes" if limit else "segmentation"
        return f"{sock.interface.name} refused {what}: {os_text(code)}"

    @_using
    def transmit_times(self) -> list[TransmitTime]:
        """Return when datagrams left, as the kernel has reported it since the last call (Linux).

        Needs `transmit_times=True`. The kernel keeps the times in the socket's receive buffer: call this every few
        hundred datagrams, or times are lost, and their numbers are missing in the result.

        Returns:
            A TransmitTime for each datagram, oldest first for each socket.

        Raises:
            ArgumentError: The sender was opened without `transmit_times=True`.
            ClosedError: The sender is closed, or another process opened it.
        """
        if not self._options.transmit_times:
            raise ArgumentError("no transmit times are requested; open the sender with transmit_times=True")
        self._take_times()
        with self._opening:
            taken, self._times = self._times, []
        return taken

    def _take_times(self) -> None:
        """Empty the error queues: while one holds something, polling its socket answers at once (poll(2))."""
        with self._opening:
            for sock in self._sockets.values():
                self._times += read_times(sock)

    # ---- answers ----

    def _new_replies(self) -> "Slots":
        return _core.slots.Slots(1, MAX_PACKET_SIZE, self._names, "the sender")

    def _listen(self) -> None:
        """Receive answers from now on. Not sooner: the kernel wakes the poll set that a socket is in for each datagram
        that has left (sock_def_write_space), which costs a tenth of sending it."""
        if self._listening:
            return
        with self._opening:
            try:
                for sock in self._sockets.values():
                    self._listen_to(sock)
                self._listening = True
            except BaseException:  # the keys of what was added may be unknown
                self._replies.close()
                self._replies, self._reply_keys = self._new_replies(), {}
                if self.closed:  # meanwhile, and closed the former
                    self._replies.close()
                raise

    def _listen_to(self, sock: SendingSocket) -> None:
        if sock.key in self._reply_keys:
            return
        implied = 0 if reports_destination() else sock.interface.index
        key = self._replies.add(sock.socket, sock.socket.getsockname()[1], NOWHERE, implied)
        self._reply_keys[sock.key] = key
        self._replies.accept(key, None)

    @_using
    def recv(self, timeout: Seconds | Unset | None = UNSET) -> "Packet":
        """Receive one unicast answer.

        Args:
            timeout: Seconds to wait, or text such as "100ms"; left out: the sender's own, None: no limit, 0: no wait.

        Returns:
            The next Packet that came to a port of the sender.

        Raises:
            TimeoutError: No answer came in time.
            ClosedError: The sender is closed, or another process opened it.
            SocketError: The system refuses to receive, or reports that a datagram sent earlier did not arrive.
            ArgumentError: `timeout` is no time.
        """
        timeout_ns = self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)
        if self._options.transmit_times:
            self._take_times()
        self._listen()
        try:
            return self._replies.receive_one(timeout_ns)
        except SocketError:
            self._take_times()
            raise

    @_using
    def wait(self, timeout: Seconds | Unset | None = UNSET) -> bool:
        """Wait until there is an answer, and take nothing.

        Args:
            timeout: Seconds to wait, as for `recv`.

        Returns:
            False when none came in time.

        Raises:
            ClosedError, SocketError, ArgumentError: As for `recv`.
        """
        timeout_ns = self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)
        self._listen()
        return self._replies.wait(timeout_ns)

    @_using
    def fileno(self) -> int:
        """Return a descriptor for select, poll or an event loop, readable while an answer is there.

        Do not read it or close it.

        Returns:
            The number of the descriptor: epoll(7) on Linux, kqueue(2) on macOS and FreeBSD.

        Raises:
            ClosedError: The sender is closed, or another process opened it.
            FeatureError: This system has no such descriptor (feature `descriptor`).
        """
        require("descriptor", "fileno()")
        self._listen()
        return self._replies.fileno()

    # ---- state ----

    @property
    @_using
    def local_addresses(self) -> tuple[tuple[str, int], ...]:
        """Address and port that each socket is bound to: the wildcard address where the system picks one per datagram.

        Raises:
            ClosedError: The sender is closed, or another process opened it.
        """
        return tuple(one.socket.getsockname()[:2] for one in list(self._sockets.values()))

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._transmitter.closed

    def close(self) -> None:
        """End calls that send or wait, with ClosedError, and close the sockets once no call uses them.

        It may be called from any thread and from a signal handler, at any moment, and waits for no other call: `stats`
        is final when the calls in other threads have ended. Closing again does nothing.
        """
        try:
            self._replies.close()
        finally:
            self._transmitter.close()

    def __del__(self) -> None:
        transmitter = getattr(self, "_transmitter", None)
        if transmitter is None or transmitter.closed or transmitter.foreign:
            return
        try:
            warn(f"unclosed {self!r}", ResourceWarning, self)
        finally:
            self.close()

    def __repr__(self) -> str:
        return f"<Sender to {', '.join(map(str, self.groups))}{', closed' if self.closed else ''}>"


def _pacing(rate: float | str | None, burst: int, pacing: str) -> tuple[Rate | None, int | None]:
    """The rate that we keep ourselves, and the bytes per second that the kernel is to keep; ArgumentError."""
    whole_number(burst, "burst", 1, 1_000_000)
    if pacing not in PACINGS:
        raise ArgumentError(f"pacing {pacing!r} is not one of: {', '.join(PACINGS)}")
    wanted = None if rate is None else rate_of(rate)
    if pacing == "sender":
        return wanted, None
    if wanted is None or not wanted.by_bits:
        raise ArgumentError('pacing="kernel" needs a rate in bits, such as rate="800Mbit/s": it counts bytes')
    if "SO_MAX_PACING_RATE" not in _core.membership.OPTIONS:
        raise ArgumentError(f'pacing="kernel": {_core.membership.SYSTEM} has no SO_MAX_PACING_RATE')
    return None, max(1, int(wanted.per_second / 8))


def _checked(options: Options) -> Options:
    """The options when they are in range; ArgumentError."""
    whole_number(options.ttl, "ttl", 0, 255)
    if options.dscp is not None:
        whole_number(options.dscp, "dscp", 0, 63)
    if options.source_port is not None:
        whole_number(options.source_port, "source_port", 1, 65_535)
    return options
