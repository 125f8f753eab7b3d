"""Membership calls by interface index, and this system's socket options by name: the twin of fast/membership.pyx."""

import ctypes
import os
import socket as socket_module
import struct
from collections.abc import Sequence

from mcast_fast._core.pure.tables import SYSTEM as _SYSTEM

OPTIONS = dict(_SYSTEM.options)
SYSTEM = _SYSTEM.name

_MODES = {"exclude": 0, "include": 1}
_MOST_SOURCES = 4096  # that are read back: more than a system lets one socket hold
_LEVELS = {4: socket_module.IPPROTO_IP, 16: socket_module.IPPROTO_IPV6}


def _step(socket: socket_module.socket, step: str, interface: int, group: bytes, source: bytes | None) -> None:
    if not isinstance(group, bytes) or not isinstance(source, bytes | None):
        raise TypeError(f"Expected bytes, got {type(source if isinstance(group, bytes) else group).__name__}")
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


def block(socket: socket_module.socket, interface: int, group: bytes, source: bytes) -> None:
    """Hear this source of a joined group no more (MCAST_BLOCK_SOURCE)."""
    _step(socket, "block", interface, group, source)


def unblock(socket: socket_module.socket, interface: int, group: bytes, source: bytes) -> None:
    """Hear a blocked source of a joined group again (MCAST_UNBLOCK_SOURCE)."""
    _step(socket, "unblock", interface, group, source)


def set_filter(
    socket: socket_module.socket, interface: int, group: bytes, exclude: bool, sources: Sequence[bytes]
) -> None:
    """Set the whole filter of a group that the socket holds, in one step (MCAST_MSFILTER, RFC 3678 5.2.2)."""
    if len(group) not in _LEVELS or any(len(source) != len(group) for source in sources):
        raise ValueError("group and source are packed addresses of one family")
    head = struct.pack(_SYSTEM.index_format, interface) + _SYSTEM.sockaddr(group)
    mode = _MODES["exclude" if exclude else "include"]
    request = head + struct.pack("=II", mode, len(sources)) + b"".join(map(_SYSTEM.sockaddr, sources))
    socket.setsockopt(_LEVELS[len(group)], OPTIONS["MCAST_MSFILTER"][1], request)


def get_filter(socket: socket_module.socket, interface: int, group: bytes) -> tuple[bool, tuple[bytes, ...]]:
    """(exclude, sources) as the system holds them for a group of this socket (MCAST_MSFILTER); sources packed, sorted.

    Raises OSError: EADDRNOTAVAIL when the socket does not hold the group."""
    if len(group) not in _LEVELS:
        raise ValueError("the group is a packed address")
    head = struct.pack(_SYSTEM.index_format, interface) + _SYSTEM.sockaddr(group)
    # The socket module's getsockopt sends nothing in: the group would be lost. libc's own takes the request.
    told = _getsockopt(socket, OPTIONS["MCAST_MSFILTER"][1], len(group), head + struct.pack("=II", 0, _MOST_SOURCES))
    mode, count = struct.unpack_from("=II", told, len(head))
    at, width = len(head) + 8, len(_SYSTEM.sockaddr(group))
    start = _SYSTEM.sockaddr(b"\xff" * len(group)).index(b"\xff" * len(group))
    found = [
        told[at + i * width + start : at + i * width + start + len(group)] for i in range(min(count, _MOST_SOURCES))
    ]
    return mode == _MODES["exclude"], tuple(sorted(found))


def _getsockopt(socket: socket_module.socket, option: int, family_width: int, request: bytes) -> bytes:
    size = len(request) + _MOST_SOURCES * len(_SYSTEM.sockaddr(bytes(family_width)))
    buffer = ctypes.create_string_buffer(request, size)
    length = ctypes.c_uint32(size)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.getsockopt(socket.fileno(), _LEVELS[family_width], option, buffer, ctypes.byref(length)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return buffer.raw


def set_send_interface(socket: socket_module.socket, interface: int, source: bytes) -> None:
    """Send IPv4 multicast by this interface and from this packed source (zeros: the system picks one)."""
    if len(source) != 4:
        raise ValueError("the source is a packed IPv4 address")
    # struct ip_mreqn, ip(7): "4sl" would be 16 bytes here, and an address would land in the index.
    socket.setsockopt(*OPTIONS["IP_MULTICAST_IF"], struct.pack("=4x4si", source, interface))
