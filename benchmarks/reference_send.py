"""Compiles reference_send.c and calls it: C loops that send by sendmmsg, by UDP GSO, and by the clock."""

import ctypes
import socket
from pathlib import Path

from benchmarks.reference import checked

SOURCE = Path(__file__).with_name("reference_send.c")
WHERE = (ctypes.c_int, ctypes.c_uint32, ctypes.c_uint16, ctypes.c_int64, ctypes.c_int)


class Piece(ctypes.Structure):
    """struct iovec."""

    _fields_ = (("base", ctypes.c_char_p), ("length", ctypes.c_size_t))


class Loops:
    """The loops of C, to one group and port by an unconnected socket; each returns nanoseconds."""

    def __init__(self, library: Path, sock: socket.socket, group: str, port: int) -> None:
        self._functions = ctypes.CDLL(str(library))
        for name in ("sendmmsg", "scattered", "segments", "pace"):
            function = getattr(self._functions, f"reference_{name}")
            function.argtypes = [*WHERE, ctypes.c_double] if name == "pace" else list(WHERE)
            function.restype = ctypes.c_int64
        self._functions.reference_segments.argtypes = [*WHERE, ctypes.c_void_p]
        self._functions.reference_scattered.argtypes = [*WHERE[:-1], ctypes.POINTER(Piece)]
        self._socket = sock
        self._where = (sock.fileno(), int.from_bytes(socket.inet_aton(group), "little"), port)

    def sendmmsg(self, count: int, size: int) -> int:
        return checked(self._functions.reference_sendmmsg(*self._where, count, size), "sendmmsg")

    def scattered(self, pieces: "ctypes.Array[Piece]") -> int:
        return checked(self._functions.reference_scattered(*self._where, len(pieces), pieces), "sendmmsg")

    def segments(self, count: int, size: int) -> int:
        return checked(self._functions.reference_segments(*self._where, count, size, None), "sendto of segments")

    def pace(self, count: int, size: int, interval: float) -> int:
        return checked(self._functions.reference_pace(*self._where, count, size, interval), "sendto")

    def close(self) -> None:
        self._socket.close()
