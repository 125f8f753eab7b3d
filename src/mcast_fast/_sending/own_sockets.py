"""What a receiver sends from the sockets that it receives by: answers to packets, datagrams to groups and to hosts.

Rules of this module: nothing waits, is joined, or is locked, so that the handler of a signal may send in the middle of
any call. The sockets are those of the moment; TTL, loopback and interface are set at the first datagram to a group, and
each socket is bound to one interface, so that they stay right.
"""

import contextlib
import errno
import selectors
import socket
import weakref
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from mcast_fast import _core
from mcast_fast._core.addresses import native
from mcast_fast._host.interfaces import Interface, find_interface
from mcast_fast._membership.desired import ALL_INTERFACES, Defaults, complete, packed_groups
from mcast_fast._membership.joins import Joins
from mcast_fast._membership.plan import MemberSocket
from mcast_fast._membership.rings import Rings
from mcast_fast._membership.sockets import OpenSocket
from mcast_fast._sending.destinations import (
    SocketAddress,
    Target,
    UnicastAddress,
    destination,
    socket_address,
    towards,
    with_defaults,
)
from mcast_fast._sending.outgoing import Payload
from mcast_fast._sending.sockets import leave_by, set_hops
from mcast_fast.errors import ArgumentError, InterfaceError, SendError, SocketError, explain, socket_error
from mcast_fast.groups import Group

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Packet

Named = TypeVar("Named", Group, UnicastAddress)

# Answers that may mean that the interface has another address now than when the socket was set up.
OUTDATED = frozenset({errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH})
FULL_TRIES, FULL_SECONDS = 20, 0.1  # waits for a send buffer that is full, of so long at most


class Path(NamedTuple):
    """The socket that a datagram leaves by, where it goes, and what errors call that."""

    by: OpenSocket
    address: SocketAddress
    subject: str


class OwnSockets:
    """The sockets of a receiver, to send by.

    `known`: the interface of an index as it was when a group was joined there. `ttl` and `loopback`: of datagrams to
    groups."""

    def __init__(
        self,
        joins: Joins,
        known: Callable[[int], Interface | None],
        rings: Rings | None,
        defaults: Defaults,
        ttl: int,
        loopback: bool,
    ) -> None:
        self._joins = joins
        self._known = known
        self._rings = rings
        self._defaults = defaults
        self._ttl = ttl
        self._loopback = loopback
        self._set_up: weakref.WeakSet[socket.socket] = weakref.WeakSet()  # those that datagrams to groups may leave by

    def reply(self, packet: "Packet", payload: Payload) -> None:
        """Send a unicast datagram to the source of a packet; SocketError."""
        one = self._socket_of(packet)
        try:
            self._socket(one).sendto(payload, packet.source_address)
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

    def send(self, target: Target, payload: Payload) -> int:
        """Send one datagram to a group or host; how many left. GroupError, InterfaceError, ArgumentError, SocketError.

        An interface that refuses it keeps it from no other: SendError comes when all were tried."""
        named = destination(target)
        is_group = isinstance(named, Group)
        paths = list(self._paths_to_group(named)) if isinstance(named, Group) else [self._path_to_host(named)]
        failed: list[tuple[Path, OSError]] = []
        for path in paths:
            try:
                self._send(path, payload, is_group)
            except SocketError:  # there is no socket beside the ring to send by
                raise
            except OSError as error:
                failed.append((path, error))
        sent = len(paths) - len(failed)
        for path, cause in failed:
            code = cause.errno or 0
            subject = f"{memoryview(payload).nbytes} bytes to {path.subject}"
            raise SendError(code, explain("send", subject, code), sent) from cause
        return sent

    def _send(self, path: Path, payload: Payload, is_group: bool) -> None:
        """Send one datagram; OSError."""
        sock = self._socket(path.by)
        was_set_up = sock in self._set_up
        if is_group and not was_set_up:
            self._prepare(sock, path.by, self._known(path.by.endpoint.interface))
        try:
            _send_to(sock, payload, path.address)
        except OSError as error:
            if not is_group or not was_set_up or error.errno not in OUTDATED:
                raise
            self._prepare(sock, path.by, self._looked_up(path.by.endpoint.interface))
            _send_to(sock, payload, path.address)

    def _prepare(self, sock: socket.socket, one: OpenSocket, interface: Interface | None) -> None:
        """Set up a socket to send to groups, from the address of its interface; OSError. Twice does no harm."""
        version, _, index = one.endpoint
        set_hops(sock, version, self._ttl, self._loopback)
        leave_by(sock, version, index, interface.ipv4 if interface else None)
        self._set_up.add(sock)

    def _looked_up(self, index: int) -> Interface | None:
        """An interface as it is now; None where that is another one: of the network namespace of this thread."""
        with contextlib.suppress(InterfaceError):
            found = find_interface(index)
            return found if found.name == self._joins.names.get(index) else None
        return None

    def _socket(self, one: OpenSocket) -> socket.socket:
        return self._rings.answering(one) if self._rings else one.socket

    # ---- which sockets ----

    def _paths_to_group(self, named: Group) -> Iterator[Path]:
        if named.source is not None:
            raise ArgumentError(
                f"{named}: a receiver sends from the address of its interface; leave out {named.source}@"
            )
        group = complete(self._with_port(named), replace(self._defaults, source=None))
        port, interface = group.port or 0, group.interface or self._defaults.interface
        known = self._at(named, group.version, None if interface in (None, ALL_INTERFACES) else interface)
        for packed in packed_groups(group):
            joined = [one for one in known if packed in one.filters]
            for one in self._from_port(named, port, joined or known):
                address = socket_address(native(packed), port, one.endpoint.interface)
                yield self._path(one, address, f" on {self._name(one)}")

    def _path_to_host(self, named: UnicastAddress) -> Path:
        port, zone = with_defaults(self._with_port(named), replace(self._defaults, source=None))
        known = self._from_port(named, port, self._at(named, named.version, zone))
        if len(known) > 1:  # each is bound to its interface
            routed = towards(named)
            known = [one for one in known if routed and one.endpoint.interface == routed.index] or known
        address = socket_address(native(named.packed), port, 0 if zone is None else known[0].endpoint.interface)
        return self._path(known[0], address, f" by {self._name(known[0])}")

    def _path(self, one: MemberSocket, address: SocketAddress, where: str) -> Path:
        opened, text = one.opened, f"{address[0]} port {address[1]}{where}"
        if opened is None:
            raise SendError(errno.EBADF, f"send to {text}: another thread left the group meanwhile")
        return Path(opened, address, text)

    def _with_port(self, named: Named) -> Named:
        """With the only port that there is, where none is named."""
        ports = {one.endpoint.port for one in self._joins.members()}
        if named.port is not None or self._defaults.port is not None or len(ports) != 1:
            return named
        return replace(named, port=ports.pop())

    def _at(self, named: Group | UnicastAddress, version: int, interface: str | int | None) -> list[MemberSocket]:
        """The sockets of an IP version, on an interface or on all; ArgumentError where there is none."""
        known = [one for one in self._joins.members() if one.endpoint.version == version]
        if interface is not None:
            index = self._index_of(interface)
            known = [one for one in known if one.endpoint.interface == index]
        if not known:
            where = f" on {interface}" if interface is not None else ""
            raise ArgumentError(
                f"{named}: the receiver has no IPv{version} socket{where} to send by; join a group there first"
            )
        return known

    def _from_port(self, named: object, port: int, known: Iterable[MemberSocket]) -> list[MemberSocket]:
        """One socket for each interface: at the port that is sent to, or else at the only one there is."""
        ports: dict[int, dict[int, MemberSocket]] = {}
        for one in known:
            ports.setdefault(one.endpoint.port, {}).setdefault(one.endpoint.interface, one)
        if port not in ports and len(ports) > 1:
            shown = ", ".join(map(str, sorted(ports)))
            raise ArgumentError(
                f"{named}: the receiver has the ports {shown}, and none says which to send from; send to one of them, "
                "answer by reply(), or have a receiver with one port"
            )
        return list((ports.get(port) or next(iter(ports.values()))).values())

    def _index_of(self, interface: str | int) -> int:
        """Of an interface of this receiver by the name it has here: it may be gone by now."""
        for index, name in self._joins.names.items():
            if interface in (name, index, str(index)):
                return index
        return find_interface(interface).index

    def _name(self, one: MemberSocket) -> str | int:
        return self._joins.names.get(one.endpoint.interface, one.endpoint.interface)


def _send_to(sock: socket.socket, payload: Payload, address: SocketAddress) -> None:
    """Send one datagram, and wait where the send buffer is full; OSError, also when it stays full."""
    for _ in range(FULL_TRIES):
        with contextlib.suppress(BlockingIOError):
            sock.sendto(payload, address)
            return
        with selectors.DefaultSelector() as writable:
            writable.register(sock, selectors.EVENT_WRITE)
            writable.select(FULL_SECONDS)
    sock.sendto(payload, address)
