"""The datagrams of a probe as bytes, and back.

Rules of this module: no I/O. Whatever comes from the network is parsed whole, or refused by WireError; nothing that it
holds is larger than the datagram.
"""

import struct
from collections.abc import Callable
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Any, NamedTuple

from mcast_fast.doctor._probe_counts import ProbeCount, ProbeTimes

MAGIC = b"mcPr"
VERSION = 2
LARGEST_HELLO = 1_200  # bytes: what every path carries in one piece (IPv6's smallest MTU is 1,280)
LONGEST_NAME = 32  # bytes

# Bytes of payload. The fourth size fills an Ethernet frame, the fifth needs two fragments; 8,972 and 8,952 fill a jumbo
# frame of 9,000; the last is the largest datagram that there is.
SIZES = {
    4: (600, 1_200, 1_400, 1_472, 1_473, 4_000, 8_972, 16_000, 32_000, 65_507),
    6: (600, 1_200, 1_400, 1_452, 1_453, 4_000, 8_952, 16_000, 32_000, 65_527),
}
FILLS_A_FRAME = 3  # the index of the size that does
BURSTS = (10, 100, 1_000, 5_000)  # datagrams, back to back
BURST_SIZE = 800  # bytes of each; as the heaviest of the tests of Informatica's mtools
UNKNOWN = 0xFFFF  # how many of a burst came

TOKEN = 8  # bytes
NO_TOKEN = bytes(TOKEN)

_HEADER = Struct("!4sBB8sBBBIIqHHHB8s")
_HELLO = Struct("!BIB")
_SIZE = Struct("!HBI")
_BURST = Struct("!HBH")
_ENTRY = Struct("!8s16sHI5I5IhhHB4HIqqqIIqq8s")


class WireError(ValueError):
    """A datagram is not one of a probe, or not one of this version, or malformed: `reason` is the counter's name."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Kind(IntEnum):
    """What a datagram is for."""

    HELLO = 0
    SIZE = 1
    BURST = 2


class Flags(IntFlag):
    """Of a header."""

    NONE = 0
    UNICAST = 1
    LEAVING = 2


LAST_NUMBER = 0xFFFFFFFE  # of hellos; how many there were then is a number of 32 bits too


class Header(NamedTuple):
    """What every datagram begins with.

    `sequence` counts the hellos of each way apart (by unicast: of each target). `announced`: multicast hellos so far,
    this one included. `time`: ns since the epoch by the sender's clock. `sizes` and `bursts`: bits of those that the
    system let the sender send. `token`: of a datagram by unicast, what shows that its receiver is where it was sent.
    """

    kind: Kind
    identity: bytes
    flags: Flags
    ttl: int
    dscp: int
    sequence: int
    announced: int
    time: int
    series_started: int
    series_done: int
    sizes: int
    bursts: int
    token: bytes = NO_TOKEN
    name: bytes = b""


class Entry(NamedTuple):
    """What a host knows of another one: how it reaches it, and what it has heard of it.

    `address` is 16 bytes (IPv4 mapped), `port` is 0 where it knows none. `unicast_sent`: the hellos it sent to it.
    `ttl` and `dscp`: as received, -1 unknown. `judged`: whether a whole series is over, so that `sizes` and `bursts`
    say something. `is_gone`: it has said that it leaves. `delay`: arrival by the one's clock less departure by the
    other's. `lasted` and `silent`: ms from first contact to the last multicast hello, and since. `echo_time` and
    `echo_hold`: the departure of the last hello that arrived, and the ns since its arrival; -1 for none. `token`: the
    last that came from it by unicast.
    """

    identity: bytes
    address: bytes = bytes(16)
    port: int = 0
    unicast_sent: int = 0
    multicast: ProbeCount = ProbeCount()
    unicast: ProbeCount = ProbeCount()
    ttl: int = -1
    dscp: int = -1
    sizes: int = 0
    judged: bool = False
    is_gone: bool = False
    bursts: tuple[int, ...] = (UNKNOWN,) * len(BURSTS)
    delay: ProbeTimes = ProbeTimes()
    lasted: int = 0
    silent: int = 0
    echo_time: int = 0
    echo_hold: int = -1
    token: bytes = NO_TOKEN
    name: bytes = b""


class Hello(NamedTuple):
    """`known`: how many hosts it knows; `dropped`: datagrams its own socket dropped; some of its entries."""

    header: Header
    known: int
    dropped: int
    entries: tuple[Entry, ...]


class Sized(NamedTuple):
    """A datagram of the size of the number `step`, which came whole."""

    header: Header
    series: int
    step: int


class Burst(NamedTuple):
    """The datagram `number` of a burst."""

    header: Header
    series: int
    step: int
    number: int


Message = Hello | Sized | Burst


# To bytes ------------------------------------------------------------------------------------------------------------


def hello_bytes(header: Header, known: int, dropped: int, entries: tuple[Entry, ...]) -> tuple[bytes, int]:
    """A hello with as many of the entries as it holds, and how many those are."""
    packed: list[bytes] = []
    space = LARGEST_HELLO - len(_header_bytes(header)) - _HELLO.size
    for entry in entries:
        one = _entry_bytes(entry)
        space -= len(one)
        if space < 0 or len(packed) == 255:
            break
        packed.append(one)
    head = _HELLO.pack(min(known, 255), _capped(dropped), len(packed))
    return b"".join((_header_bytes(header), head, *packed)), len(packed)


def size_bytes(header: Header, series: int, step: int, size: int) -> bytes:
    """A datagram of `size` bytes."""
    return (_header_bytes(header) + _SIZE.pack(series, step, size)).ljust(size, b"\0")


def burst_bytes(header: Header, series: int, step: int, number: int) -> bytes:
    """One datagram of a burst."""
    return (_header_bytes(header) + _BURST.pack(series, step, number)).ljust(BURST_SIZE, b"\0")


def _capped(value: int, most: int = 0xFFFFFFFF) -> int:
    return min(value, most)


def _header_bytes(one: Header) -> bytes:
    fields = one._replace(sequence=_capped(one.sequence, LAST_NUMBER), announced=_capped(one.announced))[1:-1]
    return _HEADER.pack(MAGIC, VERSION, one.kind, *fields) + _text(one.name)


def _text(name: bytes) -> bytes:
    return bytes([len(name[:LONGEST_NAME])]) + name[:LONGEST_NAME]


def _entry_bytes(one: Entry) -> bytes:
    return _ENTRY.pack(
        *(one.identity, one.address, one.port, _capped(one.unicast_sent)),
        *map(_capped, one.multicast),
        *map(_capped, one.unicast),
        *(one.ttl, one.dscp, one.sizes, one.judged | one.is_gone << 1),
        *one.bursts,
        *(_capped(one.delay.samples), *one.delay[1:]),
        *(_capped(one.lasted), _capped(one.silent), one.echo_time, one.echo_hold, one.token),
    ) + _text(one.name)


# Of bytes ------------------------------------------------------------------------------------------------------------


def parse(data: bytes, version: int) -> Message:
    """A datagram of a probe over this IP version; WireError."""
    if len(data) <= len(MAGIC) or not data.startswith(MAGIC):
        raise WireError("foreign")
    if data[len(MAGIC)] != VERSION:
        raise WireError("other_version")
    try:
        header, at = _header(data)
        return _BODIES[header.kind](header, data, at, version)
    except (struct.error, IndexError, ValueError):
        raise WireError("malformed") from None


def _header(data: bytes) -> tuple[Header, int]:
    _, _, kind, identity, flags, *fields = _HEADER.unpack_from(data)
    name, at = _name(data, _HEADER.size)
    known = Flags(flags & (Flags.UNICAST | Flags.LEAVING))
    header = Header._make((Kind(kind), identity, known, *fields, name))
    if header.sequence > LAST_NUMBER:
        raise ValueError("a number that no hello has")
    return header, at


def _name(data: bytes, at: int) -> tuple[bytes, int]:
    """A name, and where it ends; IndexError, ValueError."""
    length = data[at]
    end = at + 1 + length
    if length > LONGEST_NAME or end > len(data):
        raise ValueError("a name that is too long")
    return data[at + 1 : end], end


def _hello(header: Header, data: bytes, at: int, _version: int) -> Hello:
    known, dropped, count = _HELLO.unpack_from(data, at)
    at += _HELLO.size
    entries = []
    for _ in range(count):
        fields = _ENTRY.unpack_from(data, at)
        name, at = _name(data, at + _ENTRY.size)
        entries.append(_entry(fields, name))
    return Hello(header, known, dropped, tuple(entries))


def _entry(fields: tuple[Any, ...], name: bytes) -> Entry:
    identity, address, port, unicast_sent, *rest = fields
    multicast, unicast = ProbeCount(*rest[:5]), ProbeCount(*rest[5:10])
    if min(multicast.lost, unicast.lost) < 0:
        raise ValueError("more came than was sent")
    ttl, dscp, sizes, flags = rest[10:14]
    delay = ProbeTimes(*rest[18:22])
    values = (ttl, dscp, sizes, bool(flags & 1), bool(flags & 2), tuple(rest[14:18]), delay, *rest[22:27], name)
    return Entry(identity, address, port, unicast_sent, multicast, unicast, *values)


def _sized(header: Header, data: bytes, at: int, version: int) -> Sized:
    series, step, size = _SIZE.unpack_from(data, at)
    if size != len(data) or SIZES[version][step] != size:
        raise ValueError("not whole")
    return Sized(header, series, step)


def _burst(header: Header, data: bytes, at: int, _version: int) -> Burst:
    series, step, number = _BURST.unpack_from(data, at)
    if number >= BURSTS[step] or len(data) != BURST_SIZE:
        raise ValueError("no datagram of a burst")
    return Burst(header, series, step, number)


_BODIES: dict[Kind, Callable[[Header, bytes, int, int], Message]] = {
    Kind.HELLO: _hello,
    Kind.SIZE: _sized,
    Kind.BURST: _burst,
}
