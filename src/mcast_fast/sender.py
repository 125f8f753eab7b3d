"""Sender: datagrams out to groups, and the answers of receivers in."""

import contextlib
import select
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core.addresses import native
from mcast_fast._core.layout import MAX_PACKET_SIZE
from mcast_fast.errors import ArgumentError, ClosedError, SendError, explain, socket_error
from mcast_fast.groups import Group
from mcast_fast.interfaces import Interface
from mcast_fast.membership import Defaults, Subscription, subscribe
from mcast_fast.sockets import NOWHERE, ask_metadata, open_datagram, require, set_option
from mcast_fast.units import UNSET, Unset, wait_in_ns, whole_number

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Packet

Payload = bytes | bytearray | memoryview

# Options of multicast sending by IP version, ip(7) and ipv6(7).
HOPS = {4: "IP_MULTICAST_TTL", 6: "IPV6_MULTICAST_HOPS"}
LOOP = {4: "IP_MULTICAST_LOOP", 6: "IPV6_MULTICAST_LOOP"}
LARGEST_PAYLOAD = {4: 65_507, 6: 65_527}

REPLIES = frozenset({"destination", "time", "drops"})
ANY_IPV4 = bytes(4)


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one datagram goes: the socket it leaves by, the packed group (4 or 16 bytes), port and interface."""

    socket: socket.socket
    group: bytes
    port: int
    interface: Interface

    @property
    def version(self) -> int:
        """4 or 6."""
        return 4 if len(self.group) == 4 else 6

    @property
    def address(self) -> tuple[str, int] | tuple[str, int, int, int]:
        """What `socket.sendto` takes."""
        host = socket.inet_ntop(socket.AF_INET if self.version == 4 else socket.AF_INET6, self.group)
        return (host, self.port) if self.version == 4 else (host, self.port, 0, self.interface.index)


class Sender:
    """Sends datagrams to multicast groups; never connected, so that unicast answers come back to `recv()`.

    `groups`, `port`, `interface`: as for a Receiver; every datagram goes to each group (and each interface of "all").
    `source`, or SOURCE@ before a group: the address to send from, one of this machine's. `ttl`: how many routers may
    pass it on, plus one; 0 keeps it on this machine. `loopback`: whether receivers on this machine hear it too.
    `timeout`: seconds that recv() waits (None: for ever).

    Opens whole, or raises and leaves nothing open: GroupError, InterfaceError, ArgumentError, SocketError.
    """

    def __init__(
        self,
        *groups: str | Group,
        port: int | None = None,
        interface: str | int | None = None,
        source: str | None = None,
        ttl: int = 1,
        loopback: bool = True,
        timeout: float | None = None,
    ) -> None:
        self._closed = True  # until everything is open
        if not groups:
            raise ArgumentError("no group given; name at least one, such as '239.1.1.1%eth0:5000'")
        whole_number(ttl, "ttl", 0, 255)
        self._timeout_ns = wait_in_ns(timeout)
        # An address to send from names the interface too.
        subscriptions = subscribe(groups, Defaults(port, source if interface is None else interface, source))
        self.groups = tuple(one.group for one in subscriptions)
        names = {one.index: one.name for subscription in subscriptions for one in subscription.interfaces}
        self._replies = _core.slots.Slots(1, MAX_PACKET_SIZE, names, "the sender")
        self._sockets: dict[tuple[int, int, str | None], socket.socket] = {}
        self._destinations: list[Destination] = []
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_all)
            for subscription in subscriptions:
                self._add(subscription, ttl, loopback)
            undo.pop_all()
        self._closed = False

    def _add(self, subscription: Subscription, ttl: int, loopback: bool) -> None:
        group = subscription.group
        for interface in subscription.interfaces:
            key = (group.version, interface.index, group.source)
            if key not in self._sockets:
                sock = self._sockets[key] = open_sending(group, interface, ttl, loopback)
                self._replies.accept(self._replies.add(sock, sock.getsockname()[1], NOWHERE, 0), None)
            for one in group.expand():
                self._destinations.append(Destination(self._sockets[key], native(one.packed), one.port or 0, interface))

    # ---- sending ----

    def send(self, payload: Payload) -> int:
        """Send one datagram to each group; how many left. Waits while the send buffer is full.

        Raises SendError (`sent`: how many had left), ClosedError."""
        return self._send_all([payload])

    def send_batch(self, payloads: Sequence[Payload] | Payload, size: int | None = None) -> int:
        """Send many datagrams to each group, in order; how many left. Waits while the send buffer is full.

        `payloads`: a sequence of bytes-like objects; or, with `size`, one buffer that is sent in rows of so many bytes
        (the last may be shorter). Raises SendError (`sent`: how many had left), ArgumentError, ClosedError."""
        if size is not None:
            return self._send_all(_rows(payloads, size))
        if isinstance(payloads, bytes | bytearray | memoryview):
            raise ArgumentError("send_batch takes a sequence of payloads; pass size= to send one buffer in rows")
        return self._send_all(payloads)

    def _send_all(self, payloads: Sequence[Payload]) -> int:
        """All payloads to each destination, one payload after the other where there are several."""
        self._check_open()
        if len(self._destinations) == 1:
            return self._send_to(self._destinations[0], payloads, 0)
        sent = 0
        for payload in payloads:
            for destination in self._destinations:
                sent += self._send_to(destination, [payload], sent)
        return sent

    def _send_to(self, destination: Destination, payloads: Sequence[Payload], before: int) -> int:
        sent = 0
        while sent < len(payloads):
            try:
                sent += _core.send.send_batch(
                    destination.socket, payloads, sent, destination.group, destination.port, destination.interface.index
                )
            except BlockingIOError:
                self._wait_writable(destination.socket)
            except OSError as error:
                self._check_open()
                raise _send_error(destination, payloads[sent], before + sent, error) from error
        return sent

    def _wait_writable(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            select.select([], [sock], [], 0.1)  # then look again: the sender may have been closed meanwhile
        self._check_open()

    # ---- answers ----

    def recv(self, timeout: float | Unset | None = UNSET) -> "Packet":
        """One unicast answer. `timeout` in seconds: left out = the sender's, None = for ever, 0 = does not wait.

        Raises TimeoutError, ClosedError, SocketError."""
        timeout_ns = self._timeout_ns if isinstance(timeout, Unset) else wait_in_ns(timeout)
        return self._replies.receive_one(timeout_ns)

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
        return tuple(sock.getsockname()[:2] for sock in self._sockets.values())

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        """Wake who waits for an answer (ClosedError) and close the sockets; closing again does nothing."""
        if not self._closed:
            self._closed = True
            self._close_all()

    def _close_all(self) -> None:
        self._replies.close()
        for sock in self._sockets.values():
            sock.close()

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


def open_sending(group: Group, interface: Interface, ttl: int, loopback: bool) -> socket.socket:
    """A socket bound to a port of its own, that sends by this interface; SocketError, with nothing left open."""
    sock = open_datagram(group.version, reuse=False)
    subject = f"by {interface.name}" + (f" from {group.source}" if group.source else "")
    operation = "bind"
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        try:
            set_option(sock, HOPS[group.version], ttl)
            set_option(sock, LOOP[group.version], int(loopback))
            ask_metadata(sock, group.version, REPLIES)
            sock.bind(_local_address(group, interface))
            operation = "open"
            _leave_by(sock, group, interface)
        except OSError as error:
            raise socket_error(operation, f"a sending socket {subject}", error) from error
        undo.pop_all()
    return sock


def _local_address(group: Group, interface: Interface) -> tuple[str, int] | tuple[str, int, int, int]:
    if group.version == 4:
        return (group.source or "0.0.0.0", 0)
    return (group.source or "::", 0, 0, interface.index if (group.source or "").startswith("fe80:") else 0)


def _leave_by(sock: socket.socket, group: Group, interface: Interface) -> None:
    """Choose the interface by index. IPv4 needs the address too: on `lo` the source would be another interface's
    without it."""
    if group.version == 6:
        set_option(sock, "IPV6_MULTICAST_IF", interface.index)
        return
    source = group.source or interface.ipv4
    _core.membership.set_send_interface(sock, interface.index, socket.inet_aton(source) if source else ANY_IPV4)


def _rows(buffer: object, size: int) -> list[Payload]:
    """One buffer as rows of `size` bytes."""
    whole_number(size, "size", 1, LARGEST_PAYLOAD[6])
    try:
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
    except TypeError as error:
        raise ArgumentError(
            f"size= goes with one contiguous buffer, not with {type(buffer).__name__}: {error}"
        ) from error
    return [view[at : at + size] for at in range(0, len(view), size)]


def _send_error(destination: Destination, payload: Payload, sent: int, error: OSError) -> SendError:
    code = error.errno or 0
    host = destination.address[0]
    subject = f"{memoryview(payload).nbytes} bytes to {host} port {destination.port} on {destination.interface.name}"
    return SendError(code, explain("send", subject, code), sent)
