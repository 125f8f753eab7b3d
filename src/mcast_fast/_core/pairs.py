"""A pair of connected sockets, to wake a thread by."""

import _socket
import socket
from typing import Protocol


class End(Protocol):
    """What is used of one."""

    def fileno(self) -> int: ...
    def setblocking(self, flag: bool, /) -> None: ...
    def send(self, data: bytes, /) -> int: ...
    def recv(self, size: int, /) -> bytes: ...
    def close(self) -> None: ...


def connected() -> tuple[End, End]:
    """Two ends; OSError.

    In C where the system has it. socket.socketpair() takes each descriptor out of one object and puts it into another:
    an exception of a signal handler that comes in between leaves it open forever."""
    make = getattr(_socket, "socketpair", socket.socketpair)  # Windows: made of Python alone
    one, other = make()
    return one, other
