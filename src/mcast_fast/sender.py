"""Sender: datagrams out to groups, and the answers of receivers in."""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._core import lateness
from mcast_fast._core.addresses import map_address, native
from mcast_fast._core.layout import MAX_PACKET_SIZE
from mcast_fast.errors import (
    ArgumentError,
    ClosedError,
    FeatureError,
    SendError,
    SocketError,
    explain,
    os_text,
    socket_error,
)
from mcast_fast.groups import Group
from mcast_fast.interfaces import Interface
from mcast_fast.membership import Defaults, Subscription, subscribe
from mcast_fast.sockets import NOWHERE, ask_metadata, open_datagram, require, set_option, tells_destination
from mcast_fast.stats import SenderStats, TransmitTime
from mcast_fast.units import UNSET, Rate, Unset, rate_of, wait_in_ns, whole_number

if TYPE_CHECKING:
    from mcast_fast._core.fast.send import Itinerary as CoreItinerary
    from mcast_fast._core.fast.send import Route
    from mcast_fast._core.fast.views import Batch, Packet

Payload = bytes | bytearray | memoryview

# Options of multicast sending by IP version, ip(7) and ipv6(7).
HOPS = {4: "IP_MULTICAST_TTL", 6: "IPV6_MULTICAST_HOPS"}
LOOP = {4: "IP_MULTICAST_LOOP", 6: "IPV6_MULTICAST_LOOP"}
TRAFFIC_CLASS = {4: "IP_TOS", 6: "IPV6_TCLASS"}
# Without it Linux does not tell a UDP socket that the interface's queue dropped its datagram (ip(7), net/ipv4/udp.c).
TELL_ERRORS = {4: "IP_RECVERR", 6: "IPV6_RECVERR"}
SEGMENTATION = ("UDP_SEGMENT", "UDP_SEND_MSG_SIZE")  # udp(7); Windows
LARGEST_PAYLOAD = {4: 65_507, 6: 65_527}
LARGEST_SEGMENT = 65_507

REPLIES = frozenset({"destination", "time", "drops"})
ANY_IPV4 = bytes(4)

PACINGS = ("sender", "kernel")
REMEMBERED_GROUPS = 4096  # of send_to

# SO_TIMESTAMPING (kernel: networking/timestamping): TX_SOFTWARE, SOFTWARE, OPT_ID, OPT_TSONLY.
TRANSMIT_TIMES = 1 << 1 | 1 << 4 | 1 << 7 | 1 << 11
TIMESPECS = struct.Struct("@6l")  # struct scm_timestamping; the software time is the first of three
EXTENDED_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err, ip(7)
ORIGIN_TIMESTAMPING = 4


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one datagram goes: the key of the socket it leaves by, the packed group (4 or 16 bytes), port and
    interface."""

    key: int
    group: bytes
    port: int
    interface: Interface

    @property
    def target(self) -> tuple[int, bytes, int, int]:
        """What the core takes."""
        return (self.key, self.group, self.port, self.interface.index)

    def __str__(self) -> str:
        family = socket.AF_INET if len(self.group) == 4 else socket.AF_INET6
        return f"{socket.inet_ntop(family, self.group)} port {self.port} on {self.interface.name}"


@dataclass(frozen=True, slots=True)
class Options:
    """How the sockets of one sender are opened. `max_rate`: bytes a second that the queue discipline is to keep."""

    ttl: int = 1
    loopback: bool = True
    dscp: int | None = None
    source_port: int | None = None
    reuse: bool = False
    transmit_times: bool = False
    max_rate: int | None = None


@dataclass(frozen=True, slots=True)
class Outlet:
    """A socket that is sent by, its key in the core, and why it may not cut datagrams apart ('' when it may)."""

    socket: socket.socket
    key: int
    interface: Interface
    reason: str


@dataclass(frozen=True, slots=True)
class Itinerary:
    """How a recording is sent: made by `Sender.itinerary`, for `Sender.send_recorded`.

    `destination`: the group that a recorded packet goes to, as text or Group."""

    core: "CoreItinerary"
    destination: "Callable[[Packet], str | Group]"

    def start(self, origin: int, moment: int, speed: float | None) -> None:
        """Packets are due from now on at `moment` (ns, monotonic) + (their timestamp - `origin`) / `speed`, and none
        before the one in front of it; None: they leave at the sender's own rate."""
        self.core.start(origin, moment, 1 / speed if speed else 0.0)

    def late(self, share: float) -> int | None:
        """ns that this share of the packets did not leave later than, to 3 %; 1.0: exactly the latest; None when none
        was due by its timestamp. They count as having left when they are handed to the system."""
        counts, latest = self.core.lateness()
        return latest if share >= 1 and any(counts) else lateness.percentile(counts, share)


class Sender:
    """Sends datagrams to multicast groups; never connected, so that unicast answers come back to `recv()`.

    `groups`, `port`, `interface`: as for a Receiver; every datagram goes to each group (and each interface of "all").
    `source`, or SOURCE@ before a group: the address to send from, one of this machine's; `source_port`: the UDP port to
    send from (None: the system picks one). `ttl`: how many routers may pass it on, plus one; 0 keeps it on this
    machine. `dscp`: 0 to 63, the class of service (RFC 2474; IP_TOS, IPV6_TCLASS). `loopback`: whether receivers on
    this machine hear it too. `timeout`: seconds that recv() waits (None: for ever).

    `rate`: datagrams a second ('50k/s' or a number) or bits of payload a second ('800Mbit/s'), None for as fast as it
    goes; it holds for all groups together. Departures are due at absolute moments of the monotonic clock, so that who
    is late catches up; `burst` datagrams leave together. A call that comes more than 10 ms late begins a new schedule.
    `pacing="kernel"` leaves it to the queue discipline instead (SO_MAX_PACING_RATE, socket(7); rates in bits only, and
    only `fq` honours it: not tested by us). `transmit_times=True`: the kernel tells when each datagram left.

    Threads may share a sender: every datagram leaves whole, those of one call in their order; those of others may come
    between them. Any may read `stats` and close meanwhile.

    Opens whole, or raises and leaves nothing open: GroupError, InterfaceError, ArgumentError, FeatureError,
    SocketError.
    """

    def __init__(
        self,
        *groups: str | Group,
        port: int | None = None,
        interface: str | int | None = None,
        source: str | None = None,
        source_port: int | None = None,
        ttl: int = 1,
        dscp: int | None = None,
        loopback: bool = True,
        rate: float | str | None = None,
        burst: int = 1,
        pacing: str = "sender",
        transmit_times: bool = False,
        timeout: float | None = None,
    ) -> None:
        self._closed = True  # until everything is open
        if not groups:
            raise ArgumentError("no group given; name at least one, such as '239.1.1.1%eth0:5000'")
        self._rate, max_rate = _pacing(rate, burst, pacing)
        if transmit_times:
            require("transmit_times", "transmit_times=True")
        self._timeout_ns = wait_in_ns(timeout)
        # An address to send from names the interface too.
        self._defaults = Defaults(port, source if interface is None else interface, source)
        subscriptions = subscribe(groups, self._defaults)
        self.groups = tuple(one.group for one in subscriptions)
        sockets = {(one.group.version, interface.index) for one in subscriptions for interface in one.interfaces}
        self._options = _options(ttl, loopback, dscp, source_port, len(sockets) > 1, transmit_times, max_rate)
        self._names = {one.index: one.name for subscription in subscriptions for one in subscription.interfaces}
        self._replies = _core.slots.Slots(1, MAX_PACKET_SIZE, self._names, "the sender")
        interval = self._rate.ns_per_unit if self._rate else 0.0
        by_bits = self._rate.by_bits if self._rate else False
        self._transmitter = _core.send.Transmitter("the sender", interval, by_bits, burst)
        self._outlets: dict[tuple[int, int, str | None], Outlet] = {}
        self._opening = threading.RLock()  # a signal's handler may close what its thread is opening
        self._times: list[TransmitTime] = []
        self._others: dict[str | Group, tuple[list[Destination], Route]] = {}
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_all)
            self._destinations = [one for subscription in subscriptions for one in self._reach(subscription)]
            self._route = self._transmitter.route([one.target for one in self._destinations])
            undo.pop_all()
        self._closed = False

    def _reach(self, subscription: Subscription) -> list[Destination]:
        """The destinations of a group, whose sockets are opened where there is none yet."""
        group = subscription.group
        found: list[Destination] = []
        for interface in subscription.interfaces:
            place = (group.version, interface.index, group.source)
            if place not in self._outlets:
                self._outlets[place] = self._open(group, interface)
            key = self._outlets[place].key
            found += [Destination(key, native(one.packed), one.port or 0, interface) for one in group.expand()]
        return found

    def _open(self, group: Group, interface: Interface) -> Outlet:
        sock = open_sending(group, interface, self._options)
        try:
            self._names[interface.index] = interface.name
            implied = 0 if tells_destination() else interface.index
            self._replies.accept(self._replies.add(sock, sock.getsockname()[1], NOWHERE, implied), None)
            reason = _segmentation(sock, self._options)
            return Outlet(sock, self._transmitter.add(sock, 0 if reason else LARGEST_SEGMENT), interface, reason)
        except BaseException:
            sock.close()
            raise

    # ---- sending ----

    def send(self, payload: Payload) -> int:
        """Send one datagram to each group; how many left. Waits while the send buffer is full, and for the rate.

        Raises SendError (`sent`: how many had left), ClosedError."""
        return self._send_all((payload,), self._destinations, self._route)

    def send_batch(self, payloads: "Iterable[Payload] | Batch | Any", size: int | None = None) -> int:
        """Send many datagrams to each group, in order; how many left. Waits while the send buffer is full, and for the
        rate.

        `payloads`: a sequence of bytes-like objects; a batch from a receiver; a C-contiguous array of two dimensions,
        a row each; or, with `size`, one buffer that is sent in rows of so many bytes (the last may be shorter). To one
        group, runs of one size leave as packets that the kernel cuts apart where it can (`stats.segmentation`); then a
        firewall of this machine sees them as one. Left is what the system took without an error: an interface that goes
        down may hold some of it. Raises SendError (`sent`: how many had left), ArgumentError, ClosedError."""
        if size is not None:
            return self._send_rows(payloads, whole_number(size, "size", 1, LARGEST_PAYLOAD[6]))
        if isinstance(payloads, _core.views.Batch):
            return self._send_records(payloads)
        if (view := _view(payloads)) is None:
            many: tuple[Payload, ...] = tuple(payloads)
            return self._send_all(many, self._destinations, self._route)
        if view.ndim < 2:
            raise ArgumentError("send_batch takes a sequence of payloads; pass size= to send one buffer in rows")
        rows = view.shape[0] if view.shape else 0
        if view.nbytes == 0:
            return self._send_all((b"",) * rows, self._destinations, self._route)
        return self._send_rows(view, whole_number(view.nbytes // rows, "size of a row", 1, LARGEST_PAYLOAD[6]))

    def send_to(self, payload: Payload, group: str | Group) -> int:
        """Send one datagram to another group, in the grammar of `Group.parse`; how many left.

        What its text leaves out (port, interface, source) is as for the sender's own groups. It is looked up, and where
        need be a socket opened, the first time. Raises GroupError, InterfaceError, SocketError, SendError,
        ClosedError."""
        self._check_open()
        known = self._others.get(group)
        if known is None:
            known = self._look_up(group)
        return self._send_all((payload,), *known)

    def itinerary(self, destination: "Callable[[Packet], str | Group]") -> Itinerary:
        """How to send a recording: `destination` tells the group, as for `send_to`, that a packet goes to; it is asked
        once for each recorded group and port."""
        return Itinerary(self._transmitter.itinerary(), destination)

    def send_recorded(self, batch: "Batch", itinerary: Itinerary) -> int:
        """Send the packets of a recording, each to the group and when the itinerary says; how many left.

        In C without the GIL, with a sleep and a short spin before each departure. Raises as `send_to`."""
        self._check_open()
        records, data = batch.records, batch.data
        at = 0
        while at < len(batch):
            left, code = self._transmitter.send_recorded(itinerary.core, records, data, at)
            at += left
            if code:
                packet = batch[at]
                subject = f"{len(packet)} bytes to {itinerary.destination(packet)}"
                raise SendError(code, explain("send", subject, code), at)
            if at < len(batch):
                self._add_leg(batch[at], itinerary)
        return at

    def _add_leg(self, packet: "Packet", itinerary: Itinerary) -> None:
        """Have the itinerary say where packets of this group and port go."""
        group = itinerary.destination(packet)
        destinations, route = self._others.get(group) or self._look_up(group)
        if len(destinations) != 1:
            raise ArgumentError(f"{group} stands for {len(destinations)} destinations; a recording is sent to one")
        itinerary.core.add(map_address(packet.group), packet.port, route)

    def _look_up(self, group: str | Group) -> "tuple[list[Destination], Route]":
        (subscription,) = subscribe([group], self._defaults)
        with self._opening:
            self._check_open()
            destinations = self._reach(subscription)
            known = (destinations, self._transmitter.route([one.target for one in destinations]))
            if len(self._others) >= REMEMBERED_GROUPS:
                self._others.clear()
            self._others[group] = known
        return known

    def _send_all(self, payloads: tuple[Payload, ...], destinations: list[Destination], route: "Route") -> int:
        self._check_open()
        sent, code = self._transmitter.send(route, payloads)
        return _left(sent, code, destinations, lambda i: memoryview(payloads[i]).nbytes)

    def _send_rows(self, buffer: Any, size: int) -> int:
        try:
            view = memoryview(buffer).cast("B")
        except TypeError as error:
            kind = type(buffer).__name__
            raise ArgumentError(f"size= goes with one contiguous buffer, not with {kind}: {error}") from error
        self._check_open()
        sent, code = self._transmitter.send_rows(self._route, view, size)
        return _left(sent, code, self._destinations, lambda i: min(size, view.nbytes - i * size))

    def _send_records(self, batch: "Batch") -> int:
        self._check_open()
        sent, code = self._transmitter.send_records(self._route, batch.records, batch.data)
        return _left(sent, code, self._destinations, lambda i: len(batch[i]))

    # ---- what was sent ----

    @property
    def stats(self) -> SenderStats:
        """What left so far; also after the close."""
        datagrams, size, calls, would_blocks, retries, achieved = self._transmitter.counters()
        rate = achieved if self._rate and achieved > 0 else None
        error = achieved / self._rate.per_second - 1 if self._rate and rate else None
        outlets = list(self._outlets.values())
        able = any(self._transmitter.refusal(one.key)[0] > 0 for one in outlets)
        reasons = dict.fromkeys(reason for one in outlets if (reason := self._refusal(one)))
        return SenderStats(datagrams, size, calls, would_blocks, retries, rate, error, able, "; ".join(reasons))

    def _refusal(self, outlet: Outlet) -> str:
        """Why datagrams do not always leave by this socket in packets that are cut apart; '' when they do."""
        limit, code = self._transmitter.refusal(outlet.key)
        if outlet.reason or not code:
            return outlet.reason
        what = f"segments above {limit} bytes" if limit else "segmentation"
        return f"{outlet.interface.name} refused {what}: {os_text(code)}"

    def transmit_times(self) -> list[TransmitTime]:
        """When datagrams left, those that the kernel has told since the last call; oldest first for each socket.

        Needs `transmit_times=True`. The kernel keeps them in the socket's receive buffer: ask every few hundred
        datagrams, or times are lost (their numbers are missing). Raises ArgumentError, ClosedError."""
        self._check_open()
        if not self._options.transmit_times:
            raise ArgumentError("transmit times were not asked for; open the sender with transmit_times=True")
        self._take_times()
        with self._opening:
            taken, self._times = self._times, []
        return taken

    def _take_times(self) -> None:
        """Empty the error queues: while one holds something, polling its socket answers at once (poll(2))."""
        with self._opening:
            for outlet in self._outlets.values():
                self._times += _read_times(outlet)

    # ---- answers ----

    def recv(self, timeout: float | Unset | None = UNSET) -> "Packet":
        """One unicast answer. `timeout` in seconds: left out = the sender's, None = for ever, 0 = does not wait.

        Raises TimeoutError, ClosedError, SocketError."""
        timeout_ns = self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)
        if self._options.transmit_times and not self._closed:
            self._take_times()
        try:
            return self._replies.receive_one(timeout_ns)
        except SocketError:
            if not self._closed:
                self._take_times()
            raise

    def wait(self, timeout: float | Unset | None = UNSET) -> bool:
        """Whether an answer is there within `timeout` (as `recv`); takes nothing. ClosedError, SocketError."""
        return self._replies.wait(self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout))

    def fileno(self) -> int:
        """A descriptor for select, poll or an event loop: readable when an answer is there. Do not read it or close
        it."""
        self._check_open()
        require("descriptor", "fileno()")
        return self._replies.fileno()

    # ---- state ----

    @property
    def local_addresses(self) -> tuple[tuple[str, int], ...]:
        """Address and port that each socket is bound to; the wildcard address where the system picks one for each
        datagram."""
        self._check_open()
        return tuple(one.socket.getsockname()[:2] for one in list(self._outlets.values()))

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        """End who sends or waits for an answer (ClosedError), and close the sockets; closing again does nothing."""
        with self._opening:
            if self._closed:
                return
            self._closed = True
        self._close_all()

    def _close_all(self) -> None:
        self._transmitter.close()
        self._replies.close()
        with self._opening:
            for outlet in self._outlets.values():
                outlet.socket.close()

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the sender is closed")

    def __enter__(self) -> "Sender":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Sender to {', '.join(map(str, self.groups))}{', closed' if self._closed else ''}>"


def open_sending(group: Group, interface: Interface, options: Options) -> socket.socket:
    """A bound socket that sends by this interface; SocketError, with nothing left open."""
    version = group.version
    sock = open_datagram(version, options.reuse)
    subject = f"by {interface.name}" + (f" from {group.source}" if group.source else "")
    subject += f" port {options.source_port}" if options.source_port else ""
    operation = "bind"
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        try:
            set_option(sock, HOPS[version], options.ttl)
            set_option(sock, LOOP[version], int(options.loopback))
            set_option(sock, TELL_ERRORS[version], 1)
            if options.dscp is not None and not set_option(sock, TRAFFIC_CLASS[version], options.dscp << 2):
                raise FeatureError(f"dscp={options.dscp}: {_core.membership.SYSTEM} has no {TRAFFIC_CLASS[version]}")
            ask_metadata(sock, version, REPLIES)
            sock.bind(_local_address(group, interface, options.source_port or 0))
            operation = "open"
            _leave_by(sock, group, interface)
            if options.transmit_times:
                set_option(sock, "SO_TIMESTAMPING", TRANSMIT_TIMES)
            if options.max_rate is not None:
                sock.setsockopt(*_core.membership.OPTIONS["SO_MAX_PACING_RATE"], struct.pack("=Q", options.max_rate))
        except OSError as error:
            raise socket_error(operation, f"a sending socket {subject}", error) from error
        undo.pop_all()
    return sock


def _local_address(group: Group, interface: Interface, port: int) -> tuple[str, int] | tuple[str, int, int, int]:
    if group.version == 4:
        return (group.source or "0.0.0.0", port)
    return (group.source or "::", port, 0, interface.index if (group.source or "").startswith("fe80:") else 0)


def _leave_by(sock: socket.socket, group: Group, interface: Interface) -> None:
    """Choose the interface by index. IPv4 needs the address too: on `lo` the source would be another interface's
    without it."""
    if group.version == 6:
        set_option(sock, "IPV6_MULTICAST_IF", interface.index)
        return
    source = group.source or interface.ipv4
    _core.membership.set_send_interface(sock, interface.index, socket.inet_aton(source) if source else ANY_IPV4)


def _segmentation(sock: socket.socket, options: Options) -> str:
    """Why the kernel is not to cut datagrams apart; '' when it may."""
    feature = _core.features()["send_segmentation"]
    if not feature:
        return feature.reason
    if options.transmit_times:
        return "transmit_times=True: the kernel tells one time for all that leave together"
    option = next((name for name in SEGMENTATION if name in _core.membership.OPTIONS), None)
    if option is None:
        return f"{_core.membership.SYSTEM} has no {' or '.join(SEGMENTATION)}"
    try:
        sock.getsockopt(*_core.membership.OPTIONS[option])
    except OSError as error:
        return f"the kernel has no {option}: {os_text(error.errno or 0)}"
    return ""


def _pacing(rate: float | str | None, burst: int, pacing: str) -> tuple[Rate | None, int | None]:
    """The rate that we keep ourselves, and the bytes a second that the kernel is to keep; ArgumentError."""
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


def _options(
    ttl: int,
    loopback: bool,
    dscp: int | None,
    source_port: int | None,
    several: bool,
    transmit_times: bool,
    max_rate: int | None,
) -> Options:
    """The options with their ranges checked; several sockets share a named port."""
    whole_number(ttl, "ttl", 0, 255)
    if dscp is not None:
        whole_number(dscp, "dscp", 0, 63)
    if source_port is not None:
        whole_number(source_port, "source_port", 1, 65_535)
    reuse = source_port is not None and several
    return Options(ttl, loopback, dscp, source_port, reuse, transmit_times, max_rate)


def _view(payloads: object) -> memoryview | None:
    """The memory of one buffer; None for a sequence of them."""
    try:
        return memoryview(payloads)  # type: ignore[arg-type]
    except TypeError:
        return None


def _left(sent: int, code: int, destinations: list[Destination], size_of: Callable[[int], int]) -> int:
    """How many left, or the SendError that carries it."""
    if code == 0:
        return sent
    payload, destination = divmod(sent, len(destinations))
    subject = f"{size_of(payload)} bytes to {destinations[destination]}"
    raise SendError(code, explain("send", subject, code), sent)


def _read_times(outlet: Outlet) -> list[TransmitTime]:
    """What the socket's error queue holds; other errors in it were told by the call they belong to."""
    found: list[TransmitTime] = []
    while True:
        try:
            _, messages, _, _ = outlet.socket.recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except OSError:
            return found
        time = number = None
        for level, kind, value in messages:
            if (level, kind) == _core.membership.OPTIONS["SO_TIMESTAMPING"] and len(value) >= TIMESPECS.size:
                seconds, nanoseconds, *_ = TIMESPECS.unpack_from(value)
                time = seconds * 1_000_000_000 + nanoseconds
            elif level != socket.SOL_SOCKET and len(value) >= EXTENDED_ERROR.size:
                _, origin, *_, told = EXTENDED_ERROR.unpack_from(value)
                number = told if origin == ORIGIN_TIMESTAMPING else None
        if time is not None and number is not None:
            found.append(TransmitTime(time, outlet.interface.name, number))
