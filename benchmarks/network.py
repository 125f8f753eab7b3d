"""The sockets of the benchmarks: joined, sending, and what the kernel itself says about them (Linux)."""

import os
import socket
import struct
from dataclasses import dataclass
from pathlib import Path

GROUP = "239.1.1.1"

# Python 3.11 has no names for these (asm-generic/socket.h, linux/in.h).
IP_PKTINFO = 8
IP_RECVTTL = 12
IP_RECVTOS = 13
IP_MULTICAST_ALL = 49
SO_RCVBUFFORCE = 33
SO_TIMESTAMPNS = 35
SO_TIMESTAMPING = 37
SO_RXQ_OVFL = 40
SO_MEMINFO = 55
SO_TIMESTAMPNS_NEW = 64
SO_TIMESTAMPING_NEW = 65
IPPROTO_UDP = 17
UDP_GRO = 104

MEMINFO_RMEM_ALLOC, MEMINFO_DROPS, MEMINFO_ITEMS = 0, 8, 9

# What a receiver may ask the kernel to tell with every packet: the options that ask for it; we set the first.
CONTROL_MESSAGES = {
    "pktinfo": [(socket.IPPROTO_IP, IP_PKTINFO)],
    "ttl": [(socket.IPPROTO_IP, IP_RECVTTL)],
    "tos": [(socket.IPPROTO_IP, IP_RECVTOS)],
    "timestamp": [
        (socket.SOL_SOCKET, SO_TIMESTAMPNS),
        (socket.SOL_SOCKET, SO_TIMESTAMPNS_NEW),
        (socket.SOL_SOCKET, SO_TIMESTAMPING),
        (socket.SOL_SOCKET, SO_TIMESTAMPING_NEW),
    ],
    "overflow": [(socket.SOL_SOCKET, SO_RXQ_OVFL)],
}


@dataclass(frozen=True)
class Place:
    """Where to receive, and with what buffer: the same for every contender but for the port."""

    interface: str
    buffer_bytes: int
    quiet_ms: int
    """A receive ends when nothing came for so long."""
    port: int = 0
    group: str = GROUP
    ring_bytes: int = 0
    """What those get that have the kernel fill a ring instead."""

    @property
    def index(self) -> int:
        return socket.if_nametoindex(self.interface)


def membership(group: str, address: str, index: int) -> bytes:
    """`struct ip_mreqn`, ip(7)."""
    return struct.pack("4s4si", socket.inet_aton(group), socket.inet_aton(address), index)


def receiving_socket(place: Place, control_messages: tuple[str, ...] = ()) -> socket.socket:
    """A blocking socket bound to the group, joined on the interface, and asking for those control messages."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.IPPROTO_IP, IP_MULTICAST_ALL, 0)
    set_receive_buffer(sock, place.buffer_bytes)
    set_quiet(sock, place.quiet_ms)
    for name in control_messages:
        sock.setsockopt(*CONTROL_MESSAGES[name][0], 1)
    sock.bind((place.group, place.port))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership(place.group, "0.0.0.0", place.index))
    return sock


def sending_socket(port: int, interface: str, address: str) -> socket.socket:
    """A socket connected to the group. On lo the address must be 127.0.0.1, else the source comes out as 0.0.0.0."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    outgoing = membership("0.0.0.0", address, socket.if_nametoindex(interface))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, outgoing)
    sock.connect((GROUP, port))
    return sock


def open_sending_socket(interface: str) -> socket.socket:
    """An unconnected socket that sends multicast by the interface."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    outgoing = membership("0.0.0.0", "0.0.0.0", socket.if_nametoindex(interface))
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, outgoing)
    return sock


def set_receive_buffer(sock: socket.socket, size: int) -> None:
    """socket(7): SO_RCVBUFFORCE goes beyond net.core.rmem_max with CAP_NET_ADMIN; the kernel doubles either."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, size)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)


def set_quiet(sock: socket.socket, milliseconds: int) -> None:
    """SO_RCVTIMEO, not settimeout(): that one polls before every receive and costs 1,000 ns per packet."""
    seconds, rest = divmod(milliseconds, 1000)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", seconds, rest * 1000))


def own_socket(port: int) -> socket.socket:
    """A duplicate of this process's one UDP socket bound to the port, whoever opened it."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        try:
            is_socket = str(entry.readlink()).startswith("socket:")
        except FileNotFoundError:  # the descriptor of this very listing
            continue
        if is_socket:
            sock = socket.socket(fileno=os.dup(int(entry.name)))
            if sock.family == socket.AF_INET and sock.type == socket.SOCK_DGRAM and sock.getsockname()[1] == port:
                return sock
            sock.close()
    raise LookupError(f"this process has no UDP socket bound to port {port}")


def asked_for(sock: socket.socket) -> tuple[str, ...]:
    """The control messages that a socket asks for, as the kernel tells."""
    return tuple(
        name
        for name, options in CONTROL_MESSAGES.items()
        if any(any(sock.getsockopt(level, option, 4)) for level, option in options)
    )


def memory_info(sock: socket.socket) -> tuple[int, int]:
    """Bytes still queued, and packets dropped since the socket was made (SO_MEMINFO, linux/sock_diag.h)."""
    items = struct.unpack(f"{MEMINFO_ITEMS}I", sock.getsockopt(socket.SOL_SOCKET, SO_MEMINFO, 4 * MEMINFO_ITEMS))
    return items[MEMINFO_RMEM_ALLOC], items[MEMINFO_DROPS]


def free_port() -> int:
    """A port that nobody holds, so that no contender gets another's packets."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("", 0))
        return int(sock.getsockname()[1])
