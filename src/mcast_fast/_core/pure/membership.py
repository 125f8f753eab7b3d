"""Membership calls by interface index, and this system's socket options by name: the twin of fast/membership.pxi."""

import contextlib
import ctypes
import errno
import os
import socket as socket_module
import struct
from collections.abc import Sequence

from mcast_fast._core.pure.tables import SYSTEM as _SYSTEM
from mcast_fast.errors import os_error, os_words

OPTIONS = dict(_SYSTEM.options)
SYSTEM = _SYSTEM.name
MISSING = dict(_SYSTEM.missing)

_MOST_SOURCES = 4096  # that are read back: more than a system lets one socket hold
_SOCKADDR_SIZES = {4: 16, 16: 28}
_LEVELS = {4: socket_module.IPPROTO_IP, 16: socket_module.IPPROTO_IPV6}


def missing() -> dict[str, str]:
    """Why features are off now, by name."""
    return dict(MISSING)


def set_option(socket: socket_module.socket, name: str, value: int) -> None:
    """Set an integer option of OPTIONS by name. Raises OSError as the system gave it."""
    socket.setsockopt(*OPTIONS[name], value)


def _step(socket: socket_module.socket, step: str, interface: int, group: bytes, source: bytes | None) -> None:
    if not isinstance(group, bytes) or not isinstance(source, bytes | None):
        raise TypeError(f"Expected bytes, got {type(source if isinstance(group, bytes) else group).__name__}")
    if len(group) not in _LEVELS or (source is not None and len(source) != len(group)):
        raise ValueError("group and source are packed addresses of one family")
    addresses = _SYSTEM.sockaddr(group) + (b"" if source is None else _SYSTEM.sockaddr(source))
    request = struct.pack(_SYSTEM.index_format, interface) + addresses
    try:
        if step in _SYSTEM.steps:
            _try(socket, _LEVELS[len(group)], _SYSTEM.steps[step], request)
            return
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT or step not in _SYSTEM.old_steps:
            raise
    _step_by_address(socket, step, interface, group, source)


def _try(socket: socket_module.socket, level: int, option: int, request: bytes) -> None:
    """setsockopt(2), again while the answer is an ENOMEM that means nothing (macOS)."""
    for left in reversed(range(_SYSTEM.tries)):
        try:
            socket.setsockopt(level, option, request)
            return
        except OSError as error:
            if error.errno != errno.ENOMEM or not left:
                raise


def _step_by_address(
    socket: socket_module.socket, step: str, interface: int, group: bytes, source: bytes | None
) -> None:
    """Where there are no MCAST_* options: struct ip_mreq, ip_mreq_source (as Windows orders it) and ipv6_mreq."""
    option = _SYSTEM.old_steps.get(step)
    if option is None or (source is not None and len(group) == 16):
        raise OSError(errno.ENOPROTOOPT, os_words(errno.ENOPROTOOPT))
    if len(group) == 16:
        request = group + struct.pack("@I", interface)
    else:
        request = group + (source or b"") + _address_of(interface)
    socket.setsockopt(_LEVELS[len(group)], option, request)


def _address_of(interface: int) -> bytes:
    """The first IPv4 address of an interface; 0.0.0.N, which Windows reads as the index, where it has none."""
    import ifaddr

    adapters = ifaddr.get_adapters(include_unconfigured=True)
    texts = [str(one.ip) for adapter in adapters if adapter.index == interface for one in adapter.ips if one.is_IPv4]
    return socket_module.inet_aton(texts[0]) if texts else struct.pack("!I", interface)


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
    mode = _SYSTEM.modes["exclude" if exclude else "include"]
    if _SYSTEM.filters_by_library:
        _set_filter_by_library(socket, interface, group, mode, sources)
        return
    head = struct.pack(_SYSTEM.index_format, interface) + _SYSTEM.sockaddr(group)
    request = head + struct.pack("=II", mode, len(sources)) + b"".join(map(_SYSTEM.sockaddr, sources))
    socket.setsockopt(_LEVELS[len(group)], OPTIONS["MCAST_MSFILTER"][1], request)


def get_filter(socket: socket_module.socket, interface: int, group: bytes) -> tuple[bool, tuple[bytes, ...]]:
    """(exclude, sources) as the system holds them for a group of this socket (MCAST_MSFILTER); sources packed, sorted.

    Raises OSError: EADDRNOTAVAIL when the socket does not hold the group."""
    if len(group) not in _LEVELS:
        raise ValueError("the group is a packed address")
    if _SYSTEM.filters_by_library:
        return _get_filter_by_library(socket, interface, group)
    head = struct.pack(_SYSTEM.index_format, interface) + _SYSTEM.sockaddr(group)
    # The socket module's getsockopt sends nothing in: the group would be lost. libc's own takes the request.
    answer = _getsockopt(socket, OPTIONS["MCAST_MSFILTER"][1], len(group), head + struct.pack("=II", 0, _MOST_SOURCES))
    mode, count = struct.unpack_from("=II", answer, len(head))
    return mode == _SYSTEM.modes["exclude"], _addresses(answer[len(head) + 8 :], count, len(group))


def _addresses(answer: bytes, count: int, family_width: int) -> tuple[bytes, ...]:
    """The packed addresses of an array of struct sockaddr_storage, sorted."""
    width = len(_SYSTEM.sockaddr(bytes(family_width)))
    start = _SYSTEM.sockaddr(b"\xff" * family_width).index(b"\xff" * family_width)
    places = [i * width + start for i in range(min(count, _MOST_SOURCES))]
    return tuple(sorted(answer[place : place + family_width] for place in places))


# RFC 3678, 5.2.1: of the system's own request only the C library knows the form, on macOS and BSD.


def _set_filter_by_library(
    socket: socket_module.socket, interface: int, group: bytes, mode: int, sources: Sequence[bytes]
) -> None:
    address, listed = _SYSTEM.sockaddr(group), b"".join(map(_SYSTEM.sockaddr, sources))
    library = ctypes.CDLL(None, use_errno=True)
    size = _SOCKADDR_SIZES[len(group)]
    if library.setsourcefilter(socket.fileno(), interface, address, size, mode, len(sources), listed) != 0:
        raise os_error(ctypes.get_errno())


def _get_filter_by_library(
    socket: socket_module.socket, interface: int, group: bytes
) -> tuple[bool, tuple[bytes, ...]]:
    address = _SYSTEM.sockaddr(group)
    listed = ctypes.create_string_buffer(_MOST_SOURCES * len(address))
    mode, count = ctypes.c_uint32(), ctypes.c_uint32(_MOST_SOURCES)
    library = ctypes.CDLL(None, use_errno=True)
    size, counts = _SOCKADDR_SIZES[len(group)], (ctypes.byref(mode), ctypes.byref(count))
    if library.getsourcefilter(socket.fileno(), interface, address, size, *counts, listed) != 0:
        raise os_error(ctypes.get_errno())
    return mode.value == _SYSTEM.modes["exclude"], _addresses(listed.raw, count.value, len(group))


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
    *first, last = _SYSTEM.send_interface(interface, source)
    for value in first:
        with contextlib.suppress(OSError):
            socket.setsockopt(*OPTIONS["IP_MULTICAST_IF"], value)
            return
    socket.setsockopt(*OPTIONS["IP_MULTICAST_IF"], last)
