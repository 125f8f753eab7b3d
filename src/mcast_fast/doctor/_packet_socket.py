"""Reads a packet socket of Linux, whatever the interfaces are called (packet(7)).

`socket.recvmsg` of CPython looks up the name of each packet's interface, and fails where that is not UTF-8; recvmsg(2)
reports the index.
"""

import ctypes
import functools
import socket
import struct
from typing import Any, NamedTuple

from mcast_fast._host.interfaces import interface_name

CONTROL_SIZE = 256  # bytes of control messages: more than the one that is wanted has
ALIGNMENT = ctypes.sizeof(ctypes.c_size_t)
MESSAGE = struct.Struct("@Nii")  # struct cmsghdr


class Address(ctypes.Structure):
    """struct sockaddr_ll."""

    _fields_ = (
        ("family", ctypes.c_uint16),
        ("protocol", ctypes.c_uint16),  # in network byte order
        ("index", ctypes.c_int32),
        ("device", ctypes.c_uint16),
        ("kind", ctypes.c_uint8),
        ("size", ctypes.c_uint8),
        ("hardware", ctypes.c_uint8 * 8),
    )


class Vector(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_void_p), ("size", ctypes.c_size_t))


class Header(ctypes.Structure):
    """struct msghdr, as the kernel has it."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_size", ctypes.c_uint32),
        ("vectors", ctypes.c_void_p),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_size", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class Received(NamedTuple):
    """A frame without its link header, and what the kernel says of it. `kind`: PACKET_OUTGOING and the others."""

    data: bytes
    control: list[tuple[int, int, bytes]]
    interface: str
    protocol: int
    kind: int


@functools.cache
def _recvmsg() -> Any:
    function: Any = ctypes.CDLL(None, use_errno=True).recvmsg
    function.restype = ctypes.c_ssize_t
    function.argtypes = ctypes.c_int, ctypes.POINTER(Header), ctypes.c_int
    return function


def receive(sock: socket.socket, most: int) -> Received | None:
    """The next frame that waits, at most this many bytes of it; None where none waits, or the interface is down."""
    data, control = (ctypes.create_string_buffer(size) for size in (most, CONTROL_SIZE))
    address, vector = Address(), Vector(ctypes.addressof(data), most)
    header = Header(
        *(ctypes.addressof(address), ctypes.sizeof(address), ctypes.addressof(vector), 1),
        *(ctypes.addressof(control), CONTROL_SIZE, 0),
    )
    size: int = _recvmsg()(sock.fileno(), ctypes.byref(header), socket.MSG_DONTWAIT)
    if size < 0:
        return None
    return Received(
        data.raw[:size],
        control_messages(control.raw[: header.control_size]),
        interface_name(address.index),
        socket.ntohs(address.protocol),
        address.kind,
    )


def control_messages(data: bytes) -> list[tuple[int, int, bytes]]:
    """Level, type and contents of each control message (cmsg(3)), up to the first that is cut short; any bytes can be
    given."""
    found, at = [], 0
    while at + MESSAGE.size <= len(data):
        size, level, kind = MESSAGE.unpack_from(data, at)
        if not MESSAGE.size <= size <= len(data) - at:
            break
        found.append((level, kind, data[at + MESSAGE.size : at + size]))
        at += -(-size // ALIGNMENT) * ALIGNMENT
    return found
