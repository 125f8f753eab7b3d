"""What the control messages of a packet report (cmsg(3)), by the numbers of `tables.py`; no I/O.

Lengths are checked before a value is read: any bytes can be given.
"""

import dataclasses
import struct

from mcast_fast._core.layout import V4_MAPPED, Flag
from mcast_fast._core.pure.tables import SYSTEM

_TIMES = struct.Struct("@6l")
# Plain integers: arithmetic with enum members costs a sixth of the time a packet takes here.
_TTL, _TOS, _HARDWARE = int(Flag.TTL), int(Flag.TOS), int(Flag.HARDWARE)


@dataclasses.dataclass(slots=True)
class Ancillary:
    """What the control messages of one packet say, beyond what its socket implies."""

    group: bytes
    interface: int
    overflow: int
    timestamp: int = 0
    flags: int = 0
    ttl: int = 0
    tos: int = 0
    segment: int = 0  # bytes of each packet but the last one, when several were coalesced

    def time(self, value: bytes) -> None:
        if len(value) >= 8:
            seconds, nanoseconds = struct.unpack_from("=qq" if len(value) >= 16 else "=ii", value)
            self.timestamp = seconds * 1_000_000_000 + nanoseconds

    def times(self, value: bytes) -> None:
        """SO_TIMESTAMPING: the kernel's time, an old one, and the card's."""
        if len(value) >= _TIMES.size:
            seconds, nanoseconds, _, _, *card = _TIMES.unpack_from(value)
            if any(card):
                (seconds, nanoseconds), self.flags = card, self.flags | _HARDWARE
            self.timestamp = seconds * 1_000_000_000 + nanoseconds

    def timeval(self, value: bytes) -> None:
        if len(value) >= 12:  # struct timeval: a long, and microseconds in four bytes (macOS) or eight
            seconds, microseconds = struct.unpack_from("=qq" if len(value) >= 16 else "=qi", value)
            self.timestamp = seconds * 1_000_000_000 + (microseconds & 0xFFFF_FFFF) * 1000

    def destination(self, value: bytes) -> None:
        if len(value) >= 4:
            self.group = V4_MAPPED + value[:4]

    def arrived_on(self, value: bytes) -> None:
        if len(value) >= 4:  # struct sockaddr_dl: length, family, index
            (self.interface,) = struct.unpack_from("=2xH", value)

    def overflow_total(self, value: bytes) -> None:
        if len(value) >= 4:
            (self.overflow,) = struct.unpack_from("=I", value)

    def pktinfo4(self, value: bytes) -> None:
        if len(value) >= 12:
            self.interface, address = struct.unpack_from("=I4x4s", value)
            self.group = V4_MAPPED + address

    def pktinfo6(self, value: bytes) -> None:
        if len(value) >= 20:
            self.group, self.interface = struct.unpack_from("=16sI", value)

    def hops(self, value: bytes) -> None:
        if value:
            self.ttl = _byte(value)
            self.flags |= _TTL

    def service(self, value: bytes) -> None:
        if value:
            self.tos = _byte(value)
            self.flags |= _TOS

    def segment_size(self, value: bytes) -> None:
        if len(value) >= 4:
            self.segment = max(0, struct.unpack_from("=i", value)[0])


# What a row of tables.py names -> what reads it.
BY_NAME = {
    "time": Ancillary.time,
    "timeval": Ancillary.timeval,
    "times": Ancillary.times,
    "destination": Ancillary.destination,
    "interface": Ancillary.arrived_on,
    "overflow": Ancillary.overflow_total,
    "pktinfo4": Ancillary.pktinfo4,
    "pktinfo6": Ancillary.pktinfo6,
    "ttl": Ancillary.hops,
    "tos": Ancillary.service,
    "segment": Ancillary.segment_size,
}


# Control messages of this system: (level, type) -> what reads it.
READERS = {message: BY_NAME[field] for message, field in SYSTEM.control.items()}


def _byte(value: bytes) -> int:
    """An int-sized value that some systems send as one byte."""
    number: int = struct.unpack_from("=i", value)[0] & 0xFF if len(value) >= 4 else value[0]
    return number
