"""Sending sockets: opened whole or not at all, and closed together.

Rules of this module: no sending; what a socket's path refuses is the core's business.
"""

import contextlib
import os
import socket
import struct
from dataclasses import dataclass, replace

from mcast_fast import _core
from mcast_fast._host import ifreq, qdiscs
from mcast_fast._host.interfaces import Interface, find_interface
from mcast_fast._membership.sockets import ask_metadata, bind, open_datagram, set_option
from mcast_fast._systems import SYSTEM
from mcast_fast.errors import FeatureError, InterfaceError, SocketError, os_text, socket_error
from mcast_fast.stats import TransmitTime

# Options of multicast sending by IP version, ip(7) and ipv6(7).
HOPS = {4: "IP_MULTICAST_TTL", 6: "IPV6_MULTICAST_HOPS"}
LOOP = {4: "IP_MULTICAST_LOOP", 6: "IPV6_MULTICAST_LOOP"}
TRAFFIC_CLASS = {4: "IP_TOS", 6: "IPV6_TCLASS"}
# Without it Linux does not report to a UDP socket that the interface's queue dropped its datagram (ip(7)).
REPORT_ERRORS = {4: "IP_RECVERR", 6: "IPV6_RECVERR"}
SEGMENTATION = ("UDP_SEGMENT", "UDP_SEND_MSG_SIZE")  # udp(7); Windows

REPLIES = frozenset({"destination", "time", "drops"})
ANY_IPV4 = bytes(4)

# SO_TIMESTAMPING (kernel: networking/timestamping): TX_SOFTWARE, SOFTWARE, OPT_ID, OPT_TSONLY.
TRANSMIT_TIMES = 1 << 1 | 1 << 4 | 1 << 7 | 1 << 11
TIMESPECS = struct.Struct("@6l")  # struct scm_timestamping; the software time is the first of three
EXTENDED_ERROR = struct.Struct("=IBBBBII")  # struct sock_extended_err, ip(7)
ORIGIN_TIMESTAMPING = 4


@dataclass(frozen=True, slots=True)
class Options:
    """How the sockets of one sender are opened. `max_rate`: bytes per second that the queue discipline is to keep."""

    ttl: int = 1
    loopback: bool = True
    dscp: int | None = None
    source_port: int | None = None
    reuse: bool = False
    transmit_times: bool = False
    segmentation: bool = True
    max_rate: int | None = None


@dataclass(frozen=True, slots=True)
class SendingSocket:
    """A socket that is sent by, its key in the core, and why the kernel may not segment ('' when it may)."""

    socket: socket.socket
    key: int
    interface: Interface
    reason: str


class OpenSockets:
    """The sockets of one sender, which are closed together once they are unused."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def add(self, sock: socket.socket) -> None:
        """Close this one too."""
        self._sockets.append(sock)

    def discard(self, sock: socket.socket) -> None:
        """Close this one now."""
        with contextlib.suppress(ValueError):
            self._sockets.remove(sock)
        sock.close()

    def close(self) -> None:
        """Close them all; again, where an exception came in between."""
        for sock in self._sockets:
            sock.close()


def open_sending(version: int, source: str | None, interface: Interface, options: Options) -> socket.socket:
    """A bound socket that sends by this interface; SocketError, with nothing left open."""
    sock = open_datagram(version, options.reuse)
    subject = f"by {interface.name}" + (f" from {source}" if source else "")
    subject += f" port {options.source_port}" if options.source_port else ""
    operation = "bind"
    with contextlib.ExitStack() as undo:
        undo.callback(sock.close)
        try:
            set_hops(sock, version, options.ttl, options.loopback)
            set_option(sock, REPORT_ERRORS[version], 1)
            if options.dscp is not None and not set_option(sock, TRAFFIC_CLASS[version], options.dscp << 2):
                raise FeatureError(f"dscp={options.dscp}: {_core.membership.SYSTEM} has no {TRAFFIC_CLASS[version]}")
            ask_metadata(sock, version, REPLIES)
            local = _local_address(version, source, interface, options.source_port or 0)
            bind(sock, f"a sending socket {subject}", local, options.reuse)
            operation = "open"
            leave_by(sock, version, interface.index, source or interface.ipv4)
            if options.transmit_times:
                set_option(sock, "SO_TIMESTAMPING", TRANSMIT_TIMES)
            if options.max_rate is not None:
                sock.setsockopt(*_core.membership.OPTIONS["SO_MAX_PACING_RATE"], struct.pack("=Q", options.max_rate))
        except SocketError:
            raise
        except OSError as error:
            raise socket_error(operation, f"a sending socket {subject}", error) from error
        undo.pop_all()
    return sock


def open_anew(
    old: SendingSocket, version: int, source: str | None, interface: Interface, options: Options
) -> socket.socket:
    """A socket in place of one whose interface has gone, by the interface that came instead; SocketError."""
    if options.source_port is None or options.reuse:
        return open_sending(version, source, interface, options)
    # Both hold the port for a moment.
    for name in SYSTEM.reuse:
        old.socket.setsockopt(socket.SOL_SOCKET, getattr(socket, name), 1)
    sock = open_sending(version, source, interface, replace(options, reuse=True))
    for name in SYSTEM.reuse:
        sock.setsockopt(socket.SOL_SOCKET, getattr(socket, name), 0)
    return sock


def interface_instead(old: SendingSocket) -> Interface | None:
    """The interface that has the name of one that is gone; None when it is not gone, or nothing came instead."""
    if _has_interface(old, old.interface):
        return None
    try:
        found = find_interface(old.interface.name)
    except InterfaceError:
        return None
    # This thread may be in another network namespace than the socket, where the name is another interface's.
    return found if found.index != old.interface.index and _has_interface(old, found, True) else None


def readdressed(sock: SendingSocket) -> SendingSocket | None:
    """A socket that sends from its interface's address, once that is another one; None where it is not. OSError."""
    try:
        found = find_interface(sock.interface.index)
    except InterfaceError:
        return None
    if found.name != sock.interface.name or found.ipv4 in (None, sock.interface.ipv4):
        return None
    leave_by(sock.socket, 4, found.index, found.ipv4)
    return replace(sock, interface=found)


def _has_interface(sock: SendingSocket, interface: Interface, unknown: bool = False) -> bool:
    """Whether an interface is in the network namespace of a socket; `unknown` where that is unknown."""
    if not SYSTEM.name_request:
        return unknown
    import fcntl  # Windows has none

    try:
        reply = fcntl.ioctl(sock.socket.fileno(), SYSTEM.name_request, ifreq.INDEX.pack(interface.index))
    except OSError:
        return False
    return reply.partition(b"\0")[0] == os.fsencode(interface.name)


def _local_address(
    version: int, source: str | None, interface: Interface, port: int
) -> tuple[str, int] | tuple[str, int, int, int]:
    if version == 4:
        return (source or "0.0.0.0", port)
    return (source or "::", port, 0, interface.index if (source or "").startswith("fe80:") else 0)


def set_hops(sock: socket.socket, version: int, ttl: int, loopback: bool) -> None:
    """How far multicast datagrams go, and whether this machine gets them too. Others have the system's TTL."""
    set_option(sock, HOPS[version], ttl)
    set_option(sock, LOOP[version], int(bool(loopback)))


def leave_by(sock: socket.socket, version: int, interface: int, address: str | None) -> None:
    """Choose the interface of multicast datagrams, by index.

    IPv4 takes the address to send from too: on `lo` it would be another interface's without it."""
    if version == 6:
        set_option(sock, "IPV6_MULTICAST_IF", interface)
        return
    _core.membership.set_send_interface(sock, interface, socket.inet_aton(address) if address else ANY_IPV4)


def no_segmentation(sock: socket.socket, interface: Interface, options: Options) -> str:
    """Why the kernel is not to segment; '' when it may."""
    feature = _core.feature("send_segmentation")
    if not feature:
        return feature.reason
    if not options.segmentation:
        return "segmentation=False"
    if options.transmit_times:
        return "transmit_times=True: the kernel reports one time for all that leave together"
    if kind := qdiscs.cutting(interface.index):
        return f"{interface.name}: its queue discipline {kind} drops parts of what leaves together, and reports success"
    return _missing_option(sock)


def _missing_option(sock: socket.socket) -> str:
    """Why the system has no option to segment; '' when it has one."""
    option = next((name for name in SEGMENTATION if name in _core.membership.OPTIONS), None)
    if option is None:
        return f"{_core.membership.SYSTEM} has no {' or '.join(SEGMENTATION)}"
    try:
        sock.getsockopt(*_core.membership.OPTIONS[option])
    except OSError as error:
        return f"the kernel has no {option}: {os_text(error.errno or 0)}"
    return ""


def read_times(sock: SendingSocket) -> list[TransmitTime]:
    """What the socket's error queue holds; other errors in it were reported by the call they belong to."""
    found: list[TransmitTime] = []
    while True:
        try:
            _, messages, _, _ = sock.socket.recvmsg(1, 512, socket.MSG_ERRQUEUE | socket.MSG_DONTWAIT)
        except OSError:
            return found
        time = number = None
        for level, kind, value in messages:
            if (level, kind) == _core.membership.OPTIONS["SO_TIMESTAMPING"] and len(value) >= TIMESPECS.size:
                seconds, nanoseconds, *_ = TIMESPECS.unpack_from(value)
                time = seconds * 1_000_000_000 + nanoseconds
            elif level != socket.SOL_SOCKET and len(value) >= EXTENDED_ERROR.size:
                _, origin, *_, counted = EXTENDED_ERROR.unpack_from(value)
                number = counted if origin == ORIGIN_TIMESTAMPING else None
        if time is not None and number is not None:
            found.append(TransmitTime(time, sock.interface.name, number))
