"""Membership calls by interface index, and this system's socket options by name: the twin of fast/membership.pyx."""

import socket as socket_module
import struct

from mcast_fast._core.pure.tables import SYSTEM as _SYSTEM

OPTIONS = dict(_SYSTEM.options)
SYSTEM = _SYSTEM.name

_LEVELS = {4: socket_module.IPPROTO_IP, 16: socket_module.IPPROTO_IPV6}


def _step(socket: socket_module.socket, step: str, interface: int, group: bytes, source: bytes | None) -> None:
    if len(group) not in _LEVELS or (source is not None and len(source) != len(group)):
        raise ValueError("group and source are packed addresses of one family")
    addresses = _SYSTEM.sockaddr(group) + (b"" if source is None else _SYSTEM.sockaddr(source))
    request = struct.pack(_SYSTEM.index_format, interface) + addresses
    socket.setsockopt(_LEVELS[len(group)], _SYSTEM.steps[step], request)


def join(socket: socket_module.socket, interface: int, group: bytes, source: bytes | None = None) -> None:
    """Join a group on an interface, or one source of it (RFC 3678: MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP).

    `interface` is an index; addresses are packed, 4 or 16 bytes. Raises OSError as the system gave it."""
    _step(socket, "join" if source is None else "join_source", interface, group, source)


def leave(socket: socket_module.socket, interface: int, group: bytes, source: bytes | None = None) -> None:
    """Leave a group, or one source of it (MCAST_LEAVE_GROUP, MCAST_LEAVE_SOURCE_GROUP)."""
    _step(socket, "leave" if source is None else "leave_source", interface, group, source)


def set_send_interface(socket: socket_module.socket, interface: int, source: bytes) -> None:
    """Send IPv4 multicast by this interface and from this packed source (zeros: the system picks one)."""
    if len(source) != 4:
        raise ValueError("the source is a packed IPv4 address")
    # struct ip_mreqn, ip(7): "4sl" would be 16 bytes here, and an address would land in the index.
    socket.setsockopt(*OPTIONS["IP_MULTICAST_IF"], struct.pack("=4x4si", source, interface))
