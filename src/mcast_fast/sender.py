"""Sender: datagrams out to groups, and the answers of receivers in."""

import contextlib
import errno
import functools
import socket
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from mcast_fast import _core
from mcast_fast._core.addresses import map_address
from mcast_fast._core.lifetime import Closing
from mcast_fast._membership.desired import Defaults, subscribe
from mcast_fast._membership.sockets import require
from mcast_fast._sending.answers import Gathering
from mcast_fast._sending.arguments import Pacing, checked_options, kept_flags, paces
from mcast_fast._sending.destinations import Target
from mcast_fast._sending.outgoing import Destination, Outgoing, Paths, Payload, Recovery, outgoing, outgoing_list
from mcast_fast._sending.routing import Routing
from mcast_fast._sending.schedule import Schedule
from mcast_fast._sending.sockets import (
    Options,
    SendingSocket,
)
from mcast_fast._units import (
    UNSET,
    Seconds,
    Unset,
    checked,
    checked_call,
    wait_in_ns,
)
from mcast_fast.errors import ArgumentError, ClosedError, SendError, explain, os_text, warn
from mcast_fast.groups import Group, Groups, at_least_one
from mcast_fast.stats import SenderStats, TransmitTime

if TYPE_CHECKING:
    from mcast_fast._core.fast.slots import Slots
    from mcast_fast._core.fast.views import Batch, Packet

__all__ = ["Schedule", "Sender"]

P = ParamSpec("P")
T = TypeVar("T")

RETRIES = 100  # of one datagram that a full queue refuses, by a call that does not wait

# Answers that may mean that the interface is gone, and another one of its name came instead.
GONE = frozenset({errno.ENODEV, errno.ENXIO, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.EINVAL})


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
        wanted = at_least_one(groups)
        self._rate, max_rate = paces(rate, burst, pacing)
        if transmit_times:
            require("transmit_times", "transmit_times=True")
        self._timeout_ns = wait_in_ns(timeout)
        # An address to send from names the interface too.
        defaults = Defaults(port, source if interface is None else interface, source)
        subscriptions = subscribe(wanted, defaults)
        self.groups: tuple[Group, ...] = tuple(one.group for one in subscriptions)
        sockets = {(one.group.version, interface.index) for one in subscriptions for interface in one.interfaces}
        reuse = source_port is not None and len(sockets) > 1  # several sockets share a named port
        self._options = checked_options(
            Options(ttl, loopback, dscp, source_port, reuse, transmit_times, segmentation, max_rate)
        )
        self._routing = Routing(subscriptions, defaults, self._options)
        self._answers = self._routing.answers
        interval = self._rate.ns_per_unit if self._rate else 0.0
        by_bits = self._rate.by_bits if self._rate else False
        close = self._routing.open_sockets.close
        self._transmitter = _core.send.Transmitter("the sender", interval, by_bits, burst, close)
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self._routing.open(self._transmitter)
            undo.pop_all()

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

    def send_to(self, payload: Payload, group: Target) -> int:
        """Send one datagram to another group, or to one host.

        The target is looked up the first time, and a socket opened where it needs another one.

        A datagram to a host leaves by the socket of the sender's first group of that IP version, and so from the same
        port: its answer comes to `recv` and `gather`. The routing table chooses the interface, not `interface=`. The
        TTL is the system's (usually 64), because `ttl=` and `loopback=` apply to multicast only; the rate, `dscp=` and
        `source=` apply to it too. If the host answers that no program receives there (ICMP), no call raises it.

        Args:
            payload: The bytes to send, as for `send`.
            group: A text in the grammar of `Group.parse`, or a Group; or the address of a host: "10.0.0.5:5000",
                "[fe80::1%eth0]:5000", or a tuple such as `Packet.source_address`. The sender's `port`, `interface` and
                `source` fill in what it leaves out.

        Returns:
            The number of datagrams that left: one for each group of a run, on each interface of "all".

        Raises:
            GroupError: It is no group and no address, or lacks its port or zone.
            InterfaceError: Its interface does not exist, cannot carry multicast, or there is no route to the host.
            SocketError: The system refuses a socket.
            SendError, ClosedError: As for `send`.
        """
        return self._send_all((payload,), group)

    def schedule(self, destination: "Callable[[Packet], Target]", *, keep: str | Iterable[str] = ()) -> Schedule:
        """Prepare sending a recording by `send_recorded`.

        Args:
            destination: Called with the first packet of each recorded group and port; returns the group or the address
                of the host that they are sent to, as for `send_to`.
            keep: "ttl", "tos", or both: datagrams to groups have the TTL or hop limit of the recorded packet, and all
                its TOS or traffic class, where the recording has them; else the sender's own. It costs a system call
                (`setsockopt`) for each change from one packet to the next.

        Returns:
            A Schedule, whose `start` sets the times of departure.

        Raises:
            ArgumentError: `destination` is not callable, or `keep` names something else.
            FeatureError: This system cannot set the TOS.
            ClosedError: The sender is closed, or another process opened it.
        """
        checked_call(destination, "destination")
        own = self._options.ttl, (self._options.dscp or 0) << 2
        return Schedule(self._transmitter.schedule(int(kept_flags(keep)), *own), destination)

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
        at, recovery = 0, Recovery()
        while at < len(batch):
            left, code = self._transmitter.send_recorded(schedule.core, records, data, at)
            at += left
            if code:
                packet = batch[at]
                group = schedule.destination(packet)
                destination = self._paths_to(group).destinations[0]
                if not self._recovers(recovery, at, code, destination):
                    raise SendError(code, explain("send", f"{len(packet)} bytes to {group}", code), at)
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

    def _paths_to(self, target: Target | None) -> Paths:
        """The paths to the sender's own groups (None), or to another group or address."""
        if target is None:
            return self._routing.own
        return self._routing.known(target) or self._look_up(target)

    @_using
    def _look_up(self, target: Target) -> Paths:
        return self._routing.look_up(target)

    def _send_all(self, payloads: tuple[Payload, ...], target: Target | None = None) -> int:
        """Send each payload; the common case makes no Outgoing."""
        sent, code = self._transmitter.send(self._paths_to(target).route, payloads)
        return self._go_on(outgoing_list(self._transmitter, payloads, target), sent, code) if code else sent

    def _go_on(self, job: Outgoing, sent: int, code: int) -> int:
        """Send what has not left yet, after `sent` datagrams and an errno; how many left in all. SendError."""
        job.sent = sent
        if code:
            self._recover(job, code)
        while True:
            sent, code = job.call(self._paths_to(job.target).route, job.sent, True)
            job.sent += sent
            if code == 0:
                return job.sent
            self._recover(job, code)

    def _step(self, job: Outgoing) -> int:
        """Send what leaves without waiting: 0 when all has, else EAGAIN or ENOBUFS: to be called again. SendError."""
        sent, code = job.call(self._paths_to(job.target).route, job.sent, False)
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
        if self._recovers(job.recovery, job.sent, code, destination):
            return
        number = job.sent // len(self._paths_to(job.target).destinations)
        subject = f"{job.size_of(number)} bytes to {destination}"
        raise SendError(code, explain("send", subject, code), job.sent)

    def _recovers(self, recovery: Recovery, sent: int, code: int, to: Destination) -> bool:
        """Whether the datagram that was refused, after `sent` others, is worth another try."""
        recovery.reach(sent)
        if recovery.dismisses(code):
            self._answers.read_queues()
            return True
        if code not in GONE or recovery.is_found or not self._find_again(to):
            return False
        recovery.is_found = True
        return True

    def _next_destination(self, job: Outgoing) -> Destination:
        """Where the next datagram goes."""
        destinations = self._paths_to(job.target).destinations
        return destinations[job.sent % len(destinations)]

    @_using
    def _duplicate(self, job: Outgoing) -> socket.socket:
        """A duplicate of the socket that the next datagram goes by, for an event loop to watch."""
        key = self._next_destination(job).key
        return next(one.socket for one in list(self._routing.sockets.values()) if one.key == key).dup()

    @_using
    def _find_again(self, to: Destination) -> bool:
        return self._routing.find_again(to)

    # ---- what was sent ----

    @property
    def stats(self) -> SenderStats:
        """What was sent so far; also after close(). ClosedError where another process opened the sender."""
        datagrams, size, calls, would_blocks, retries, achieved = self._transmitter.counters()
        rate = achieved if self._rate and achieved > 0 else None
        error = achieved / self._rate.per_second - 1 if self._rate and rate else None
        sockets = list(self._routing.sockets.values())
        able = any(self._transmitter.refusal(one.key)[0] > 0 for one in sockets)
        reasons = dict.fromkeys(reason for one in sockets if (reason := self._refusal(one)))
        reason = "; ".join(reasons)
        return SenderStats(
            datagrams, size, calls, would_blocks, retries, rate, error, able, reason, reopened=self._routing.reopened
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
        return self._answers.take_times()

    # ---- answers ----

    def _wait(self, timeout: Seconds | Unset | None) -> int:
        return self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)

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
            SocketError: The system refuses to receive.
            ArgumentError: `timeout` is no time.
        """
        timeout_ns = self._wait(timeout)
        slots = self._listen()
        return self._answers.receive(slots.receive_one, timeout_ns)

    def gather(self, payload: Payload, timeout: Seconds | Unset | None = UNSET) -> Iterator["Packet"]:
        """Send one datagram to each group, and iterate over all answers.

            for answer in tx.gather(b"who is there?", timeout=2):
                print(answer.source, answer.data)

        The datagram is sent by this call, not by the first step of the iteration. Late answers to an earlier question
        are among those of this one. Leaving the loop early loses nothing: the next `recv` or `gather` returns the rest.

        Args:
            payload: The bytes to send, to each group of the sender, of both IP versions.
            timeout: Seconds from sending on, or text such as "500ms"; left out: the sender's own, None: no limit.
                Answers that arrived in time are delivered after it too, where the system reports the time of arrival.

        Returns:
            An iterator of Packets, for one thread. It ends after the timeout, or when the sender is closed.

        Raises:
            SendError: The system refuses a datagram; its `sent` is the number that had left.
            ClosedError: The sender is closed, or another process opened it.
            SocketError: While iterating: the system refuses to receive.
            ArgumentError: `timeout` is no time.
        """
        answers = self._gathering(self._wait(timeout))
        self._send_all((payload,))
        answers.begin()
        return answers

    def _gathering(self, timeout_ns: int) -> Gathering:
        return Gathering(self._receive_batch, self._give_back, timeout_ns, self._check_process)

    @_using
    def _receive_batch(self, timeout_ns: int) -> "Batch":
        slots = self._listen()
        return self._answers.receive(lambda left: slots.receive(1, left), timeout_ns)

    def _give_back(self, batch: "Batch") -> None:
        with contextlib.suppress(ClosedError):
            self._answers.slots.give_back([batch])

    def _listen(self) -> "Slots":
        return self._answers.listen(lambda: self.closed)

    def _check_process(self) -> None:
        """ClosedError in another process than the one that opened the sender."""
        if self._transmitter.foreign:
            self._transmitter.counters()

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
        timeout_ns = self._wait(timeout)
        return self._listen().wait(timeout_ns)

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
        return self._listen().fileno()

    # ---- state ----

    @property
    @_using
    def local_addresses(self) -> tuple[tuple[str, int], ...]:
        """Address and port that each socket is bound to: the wildcard address where the system picks one per datagram.

        Raises:
            ClosedError: The sender is closed, or another process opened it.
        """
        return tuple(one.socket.getsockname()[:2] for one in list(self._routing.sockets.values()))

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
            self._answers.slots.close()
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
