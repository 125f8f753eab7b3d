"""Sockets: opened and bound whole, or not at all.

One socket an interface and port, for both families: an IPv6 membership is not per interface, so that only a socket that
is bound to its device receives from one interface alone (seen on Linux 6.18); and replies then leave by the interface
the question came from.
"""

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from mcast_fast import _core
from mcast_fast._core.addresses import plain_text
from mcast_fast._core.coalescing import Mode
from mcast_fast._core.layout import MAX_PACKET_SIZE
from mcast_fast._core.lifetime import close_all
from mcast_fast._host import hardware_clock, ifreq, links, offloads, port_users
from mcast_fast._membership.desired import Endpoint
from mcast_fast._systems import SYSTEM
from mcast_fast.errors import Argument, FeatureError, MulticastWarning, SocketError, socket_error, warn

Datagram = socket.socket  # a field has the module's name
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
NOWHERE = bytes(16)

# What a receiving socket reports with each packet: purpose -> options by IP version; a system has some.
TIMES = ("SO_TIMESTAMPNS", "SO_TIMESTAMP", "SIO_TIMESTAMPING")
# The first packets may come before the kernel takes times: SO_TIMESTAMPNS has it take theirs when they are read.
CARD_TIMES = ("SO_TIMESTAMPNS", "SO_TIMESTAMPING")
METADATA: dict[str, dict[int, tuple[str, ...]]] = {
    "destination": {4: ("IP_PKTINFO", "IP_RECVDSTADDR", "IP_RECVIF"), 6: ("IPV6_RECVPKTINFO",)},
    "time": {4: TIMES, 6: TIMES},
    "hardware": {4: CARD_TIMES, 6: CARD_TIMES},
    "drops": {4: ("SO_RXQ_OVFL",), 6: ("SO_RXQ_OVFL",)},
    "ttl": {4: ("IP_RECVTTL",), 6: ("IPV6_RECVHOPLIMIT",)},
    "tos": {4: ("IP_RECVTOS",), 6: ("IPV6_RECVTCLASS",)},
}
# Receive times by the card and by the kernel, and both reported as they are (linux/net_tstamp.h, SOF_TIMESTAMPING_*).
HARDWARE_TIMES = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 6
# What a slot holds is not more, so that none of what is coalesced is truncated.
COALESCING = {"UDP_GRO": 1, "UDP_RECV_MAX_COALESCED_SIZE": MAX_PACKET_SIZE}
# Linux gives a socket every group that any process joined, unless this is set (ip(7)).
MULTICAST_ALL = {4: "IP_MULTICAST_ALL", 6: "IPV6_MULTICAST_ALL"}

DEFAULT_BUFFER = 4 << 20
_has_warned: list[bool] = []  # of the default buffer, in this process
LARGEST_BUFFER = (1 << 30) - 1  # what Linux can double in the int it keeps
MEMINFO = struct.Struct("=9I")
MEMINFO_DROPS = 8
SHOWN = 3  # sockets that an error names


@dataclass(frozen=True, slots=True)
class Options:
    """How the sockets of one receiver are opened; sizes in bytes."""

    buffer_size: int | None = None
    metadata: frozenset[str] = frozenset({"time", "drops"})
    reuse: bool = True
    coalescing: Mode = Mode.NEVER
    busy_poll: int | None = None  # microseconds
    only_holds: bool = False  # memberships: packets come another way, so that the port is not bound


@dataclass(slots=True)
class OpenSocket:
    """A socket, what its binding implies (zeros: each packet says it), and its key in the slots once it has one.

    `decider`: a second one that the slots may bind alike, to decide whether packets are coalesced
    (_core/c/coalescing.h); None where another one does. `given`: the groups joined at a socket of the caller's, which
    closing does not leave; None of our own."""

    socket: socket.socket
    endpoint: Endpoint
    group: bytes = NOWHERE
    interface: int = 0
    decider: Datagram | None = None
    keys: list[int] = field(default_factory=list)
    drops: int = 0
    is_counted: bool = False  # its drops, among those of closed sockets
    given: dict[bytes, None] | None = None

    @property
    def place(self) -> Endpoint:
        """The endpoint."""
        return self.endpoint

    def both(self) -> list[Datagram]:
        """Its socket, and the decider."""
        return [self.socket] if self.decider is None else [self.socket, self.decider]

    @property
    def key(self) -> int:
        """Its key in the slots, -1 before it has one."""
        return self.keys[0] if self.keys else -1

    def has_interface(self) -> bool:
        """Whether its interface is still there, in the namespace of the socket; True where that is unknown.

        The kernel keeps the membership of an interface that is gone, and still answers for it."""
        if not SYSTEM.name_request:
            return True
        import fcntl  # Windows has none

        try:
            fcntl.ioctl(self.socket.fileno(), SYSTEM.name_request, ifreq.INDEX.pack(self.endpoint.interface))
        except OSError:
            return False
        return True

    def is_empty(self) -> bool:
        """Whether nothing is queued here."""
        try:
            self.socket.recv(1, socket.MSG_PEEK)
        except OSError as error:
            return error.errno != errno.EMSGSIZE  # Windows: there is a packet, of more than one byte
        return False

    def read_drops(self) -> int | None:
        """How many buffers the kernel dropped here since the opening (SO_MEMINFO wraps at 2^32); None where it cannot
        say."""
        if "SO_MEMINFO" not in _core.membership.OPTIONS:
            return None
        answer = self.socket.getsockopt(*_core.membership.OPTIONS["SO_MEMINFO"], MEMINFO.size)
        if len(answer) < MEMINFO.size:
            return None
        self.drops += (MEMINFO.unpack(answer)[MEMINFO_DROPS] - self.drops) % 2**32
        return self.drops


def set_option(sock: socket.socket, name: str, value: int) -> bool:
    """Set an integer option by name; False where this system has no such option."""
    if name not in _core.membership.OPTIONS:
        return False
    try:
        _core.membership.set_option(sock, name, value)
    except OSError as error:
        if error.errno in (errno.ENOPROTOOPT, errno.EINVAL, errno.EOPNOTSUPP):
            return False
        raise
    return True


def open_datagram(version: int, reuse: bool) -> socket.socket:
    """A UDP socket of one family that never waits; SocketError, with nothing left open."""
    with contextlib.ExitStack() as undo:
        try:
            sock = undo.enter_context(socket.socket(FAMILIES[version], socket.SOCK_DGRAM, socket.IPPROTO_UDP))
            sock.setblocking(False)
            if version == 6:
                set_option(sock, "IPV6_V6ONLY", 1)
            for name in SYSTEM.reuse if reuse else ():
                sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), 1)
        except OSError as error:
            raise socket_error("open", f"an IPv{version} UDP socket", error) from error
        undo.pop_all()
    return sock


def set_buffer(sock: socket.socket, wanted: int | None) -> None:
    """Make space for `wanted` bytes of packets, beyond rmem_max when privileged; warn when the system clips it.

    Linux doubles the requested size for its own bookkeeping (socket(7)), and reports the double. None: as much as there
    is up
    to 4 MiB, with a warning, once for the process, where that is less."""
    asked = DEFAULT_BUFFER if wanted is None else wanted
    within = min(asked, LARGEST_BUFFER)
    with contextlib.suppress(OSError):
        if not _force_buffer(sock, within):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, within)
    got = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // SYSTEM.buffer_factor
    if got >= asked:
        return
    remedy = SYSTEM.buffer_remedy.format(asked)
    if wanted is not None:
        warn(f"receive buffer: requested {asked} bytes, got {got}; {remedy}")
    elif not _has_warned:
        _has_warned.append(True)
        text = f"the default receive buffer is {asked} bytes, the system allows {got}; {remedy}, or pass "
        warn(MulticastWarning(text, Argument("buffer_size", str(got))))


def _force_buffer(sock: socket.socket, size: int) -> bool:
    try:
        return set_option(sock, "SO_RCVBUFFORCE", size)
    except PermissionError:
        return False


def bind_device(sock: socket.socket, name: str) -> bool:
    """Hear one interface only; False where the system cannot, or older than Linux 5.7 will not without a privilege."""
    option = _core.membership.OPTIONS.get("SO_BINDTODEVICE")
    if option is None:
        return False
    try:
        sock.setsockopt(*option, os.fsencode(name) + b"\0")
    except PermissionError:
        return False
    return True


def ask_metadata(sock: socket.socket, version: int, wanted: Iterable[str]) -> None:
    """Have the kernel report these with each packet."""
    for one in wanted:
        for name in METADATA[one][version]:
            set_option(sock, name, HARDWARE_TIMES if name == "SO_TIMESTAMPING" else 1)


def ask_device(sock: socket.socket, interface: str, options: Options) -> None:
    """Options of the path from the device: coalescing, polling, the card's clock."""
    for name, value in COALESCING.items() if options.coalescing == Mode.ALWAYS else ():
        set_option(sock, name, value)
    if options.busy_poll is not None:
        set_option(sock, "SO_BUSY_POLL", options.busy_poll)
    if "hardware" in options.metadata and (reason := hardware_clock.switch_on(sock, interface)):
        warn(
            f"{interface} takes no hardware times ({reason}): the kernel's times are reported, without Flag.HARDWARE; "
            "`ethtool -T` shows what the card can, and switching it on needs CAP_NET_ADMIN"
        )


def _open_decider(endpoint: Endpoint, name: str, options: Options) -> socket.socket | None:
    """A socket that is no member of anything, and is not bound yet; None where it is not needed, or cannot be had."""
    if options.coalescing == Mode.NEVER or not _core.feature("coalescing_under_pressure"):
        return None
    with contextlib.suppress(OSError), contextlib.ExitStack() as undo:
        decider = undo.enter_context(open_datagram(endpoint.version, options.reuse))
        set_option(decider, MULTICAST_ALL[endpoint.version], 0)
        bind_device(decider, _where_packets_arrive(decider, endpoint.interface, name))
        decider.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the least: unicast may come, and is not read
        undo.pop_all()
        return decider
    return None


def _where_packets_arrive(asked: socket.socket, index: int, name: str) -> str:
    """The interface where the kernel looks for the socket that decides: the one below a bridge or a macvlan."""
    if offloads.driver_by(asked, name) not in links.DRIVERS_ABOVE:  # an ioctl, where netlink would list all
        return name
    below = links.lowest(index) or []
    with contextlib.suppress(OSError):
        return socket.if_indextoname(below[0]) if len(below) == 1 else name
    return name


def bind_address(group: bytes, endpoint: Endpoint) -> tuple[str, int] | tuple[str, int, int, int]:
    """Where to bind: the group itself filters in the kernel, where the system lets it be bound; the wildcard when the
    socket is to hold several."""
    wildcard = "0.0.0.0" if endpoint.version == 4 else "::"
    host = plain_text(group) if group != NOWHERE and SYSTEM.binds_groups else wildcard
    if not SYSTEM.binds_groups and endpoint.version == 6:
        return (host, endpoint.port)  # Windows wants no scope beside the wildcard
    return (host, endpoint.port) if endpoint.version == 4 else (host, endpoint.port, 0, endpoint.interface)


def bind(sock: socket.socket, subject: str, address: tuple[Any, ...], reuse: bool) -> None:
    """Bind, and where another program shares the port by SO_REUSEPORT alone, with that too. SocketError, which names
    the sockets on a port that is taken."""
    try:
        _bind_shared(sock, address, SYSTEM.reuse_when_taken if reuse else ())
    except OSError as error:
        refused = socket_error("bind", subject, error)
        if error.errno == errno.EADDRINUSE and (holders := port_users.on_port(*address[:2])):
            shown = ", ".join(port_users.describe(one) for one in port_users.with_owners(holders[:SHOWN]))
            refused = SocketError(error.errno, f"{refused.strerror}; there is {shown}", "bind")
        raise refused from error


def _bind_shared(sock: socket.socket, address: tuple[Any, ...], when_taken: tuple[str, ...]) -> None:
    try:
        sock.bind(address)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not when_taken:
            raise
        for name in when_taken:
            sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), 1)
        sock.bind(address)


def reports_destination() -> bool:
    """Whether the destination of each packet is reported; else a socket can hold one group only."""
    return any(name in _core.membership.OPTIONS for name in METADATA["destination"][4])


def open_socket(
    endpoint: Endpoint, group: bytes, names: dict[int, str], options: Options, decides: bool = True
) -> OpenSocket:
    """A bound socket that holds no group yet; `group` is bound when it is to be the only one. SocketError, with nothing
    left open. `decides`: whether it needs a decider.

    Where packets do not say their destination, what comes is taken for the only group's, on the endpoint's
    interface."""
    sock = open_datagram(endpoint.version, options.reuse)
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        subject = f"port {endpoint.port} on {names.get(endpoint.interface, endpoint.interface)}"
        try:
            set_option(sock, MULTICAST_ALL[endpoint.version], 0)
            on_device = bind_device(sock, names[endpoint.interface]) or not reports_destination()
            if options.only_holds:
                undo.pop_all()
                return OpenSocket(sock, endpoint, NOWHERE, endpoint.interface)
            implied = on_device and group != NOWHERE
            ask_metadata(sock, endpoint.version, options.metadata | (set() if implied else {"destination"}))
            set_buffer(sock, options.buffer_size)
            ask_device(sock, names[endpoint.interface], options)
        except OSError as error:
            raise socket_error("bind", subject, error) from error
        bind(sock, subject, bind_address(group, endpoint), options.reuse)
        undo.pop_all()
    bound = group if SYSTEM.binds_groups or not reports_destination() else NOWHERE
    decider = _open_decider(endpoint, names[endpoint.interface], options) if decides else None
    return OpenSocket(sock, endpoint, bound, endpoint.interface if on_device else 0, decider)


class SocketOwner:
    """What has sockets, and closes them."""

    def _every_socket(self) -> Iterable[socket.socket]:
        raise NotImplementedError

    def close(self) -> None:
        """Close every socket, and nothing else: in a forked child they are its parent's too. Takes no lock, and again
        does nothing."""
        try:  # at once: an exception of a signal handler before it would close nothing
            close_all(self._every_socket())
        except BaseException:
            close_all(self._every_socket())  # an exception of a signal handler ended it: from its start
            raise


def require(name: str, asked: str | Argument) -> None:
    """FeatureError when a requested feature is off."""
    feature = _core.feature(name)
    if not feature:
        raise FeatureError(
            asked, f": {feature.reason}; mcast_fast.features() and `mcast-fast version` list what there is"
        )
