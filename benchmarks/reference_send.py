"""Compiles reference_send.c and calls it: C loops that send by sendmmsg, by UDP GSO, and by the clock."""

import ctypes
import socket
from pathlib import Path

from benchmarks.reference import checked

SOURCE = Path(__file__).with_name("reference_send.c")
WHERE = (ctypes.c_int, ctypes.c_uint32, ctypes.c_uint16, ctypes.c_int64, ctypes.c_int)


class Loops:
    """The loops of C, to one group and port by an unconnected socket; each returns nanoseconds."""

    def __init__(self, library: Path, sock: socket.socket, group: str, port: int) -> None:
        self._functions = ctypes.CDLL(str(library))
        for name in ("sendmmsg", "segments", "pace"):
            function = getattr(self._functions, f"reference_{name}")
            function.argtypes = [*WHERE, ctypes.c_double] if name == "pace" else list(WHERE)
            function.restype = ctypes.c_int64
        self._socket = sock
        self._where = (sock.fileno(), int.from_bytes(socket.inet_aton(group), "little"), port)

    def sendmmsg(self, count: int, size: int) -> int:
        return checked(self._functions.reference_sendmmsg(*self._where, count, size), "sendmmsg")

    def segments(self, count: int, size: int) -> int:
        return checked(self._functions.reference_segments(*self._where, count, size), "sendto of segments")

    def pace(self, count: int, size: int, interval: float) -> int:
        return checked(self._functions.reference_pace(*self._where, count, size, interval), "sendto")

    def close(self) -> None:
        self._socket.close()
