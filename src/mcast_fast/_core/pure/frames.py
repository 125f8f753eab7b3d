"""Frames of a link, turned into records: the twin of c/frames.h, for the mapped ring and capture files.

Nothing in a frame is believed before it is held against what was captured.
"""

import enum
from collections.abc import Callable
from typing import NamedTuple

from mcast_fast._core import blocks
from mcast_fast._core.layout import V4_MAPPED, Flag
from mcast_fast._core.protocols import (
    AUTHENTICATION,
    ETHER_IPV4,
    ETHER_IPV6,
    FRAGMENT,
    STEPPED_OVER,
    UDP,
    VLAN_TAGS,
)

# Link types, as pcap numbers them (https://www.tcpdump.org/linktypes.html).
_NULL, _ETHERNET, _RAW_BSD, _RAW_OPENBSD, _RAW, _LOOP = 0, 1, 12, 14, 101, 108
_LINUX_SLL, _IPV4, _IPV6, _LINUX_SLL2 = 113, 228, 229, 276

_FLAGS = int(Flag.TTL | Flag.TOS)
_TRUNCATED = int(Flag.TRUNCATED)


class Kind(enum.IntEnum):
    """What a frame turned out to be."""

    UDP = 0  # the packet describes it
    FRAGMENT = 1  # the first piece of a UDP datagram: group and source are in the packet
    LATER = 2  # another piece: its datagram was counted by the first one
    OTHER = 3  # not UDP over IP
    BROKEN = 4  # its lengths contradict each other, or its headers were not captured whole


class Fragment(NamedTuple):
    """A piece of a datagram: what all its pieces have in common, and the place of this one in bytes."""

    key: tuple[int, int, bytes, bytes]
    offset: int
    more: bool


class Framed(NamedTuple):
    """What a frame shows of its packet; `start` and `length` are where in the frame the payload (of a fragment, what
    is behind IP) is."""

    source: bytes = bytes(16)
    group: bytes = bytes(16)
    source_port: int = 0
    port: int = 0
    flags: int = _FLAGS
    ttl: int = 0
    tos: int = 0
    start: int = 0
    length: int = 0
    wire_length: int = 0
    fragment: Fragment | None = None


class Rest:
    """What is left to read of a frame: `size` bytes from `at` were captured, of `wire` that there were."""

    __slots__ = ("at", "frame", "size", "wire")

    def __init__(self, frame: bytes, wire: int) -> None:
        self.frame = frame
        self.at = 0
        self.size = len(frame)
        self.wire = max(wire, self.size)

    def skip(self, count: int) -> bool:
        """Goes `count` bytes further; False when fewer were captured."""
        if self.size < count:
            return False
        self.at += count
        self.size -= count
        self.wire -= min(count, self.wire)
        return True

    def limit(self, count: int) -> None:
        """Leaves out what follows the `count` bytes that a header announces: padding of short Ethernet frames."""
        self.wire = min(self.wire, count)
        self.size = min(self.size, count)

    def big16(self, offset: int) -> int:
        """Two bytes, in network byte order."""
        return int.from_bytes(self.frame[self.at + offset : self.at + offset + 2], "big")

    def byte(self, offset: int) -> int:
        """One byte."""
        return self.frame[self.at + offset]


def _typed(size: int, at: int) -> Callable[[Rest], int]:
    """A header of `size` bytes with the type at `at`, and the VLAN tags behind it."""

    def read(rest: Rest) -> int:
        if rest.size < size:
            return -1
        kind = rest.big16(at)
        rest.skip(size)
        while kind in VLAN_TAGS:
            if rest.size < 4:
                return -1
            kind = rest.big16(2)
            rest.skip(4)
        return kind

    return read


def _raw(rest: Rest) -> int:
    """By the version in the first byte of an IP header."""
    version = rest.byte(0) >> 4 if rest.size else 0
    return {4: ETHER_IPV4, 6: ETHER_IPV6}.get(version, -1)


def _family(rest: Rest) -> int:
    """Behind a family whose number differs between systems: the IP header itself shows it."""
    return _raw(rest) if rest.skip(4) else -1


_UNREADABLE = -2


def _unreadable(_rest: Rest) -> int:
    """A link that is not in the table below."""
    return _UNREADABLE


# What steps over a link's header: the Ethernet type of what follows, or -1 when that is unknown.
_LINKS: dict[int, Callable[[Rest], int]] = {
    _ETHERNET: _typed(14, 12),
    _LINUX_SLL: _typed(16, 14),
    _LINUX_SLL2: _typed(20, 0),
    **dict.fromkeys((_NULL, _LOOP), _family),
    **dict.fromkeys((_RAW, _RAW_BSD, _RAW_OPENBSD, _IPV4, _IPV6), _raw),
}


def _ipv4(rest: Rest) -> tuple[Kind, Framed]:
    """RFC 791."""
    nothing = Framed()
    if rest.size < 20 or rest.byte(0) >> 4 != 4:
        return Kind.BROKEN, nothing
    header_size, total = (rest.byte(0) & 15) * 4, rest.big16(2)
    total = total or rest.wire  # 0: as segmentation offload leaves it to the card (Wireshark reads it so, too)
    if header_size < 20 or total < header_size or rest.size < header_size or rest.wire < total:
        return Kind.BROKEN, nothing
    if rest.byte(9) != UDP:
        return Kind.OTHER, nothing
    addresses = rest.frame[rest.at + 12 : rest.at + 20]
    framed = Framed(V4_MAPPED + addresses[:4], V4_MAPPED + addresses[4:], ttl=rest.byte(8), tos=rest.byte(1))
    fragment = rest.big16(6) & 0x3FFF  # more fragments, and the offset
    rest.limit(total)
    rest.skip(header_size)
    if not fragment:
        return Kind.UDP, framed
    number = int.from_bytes(rest.frame[rest.at - header_size + 4 : rest.at - header_size + 6], "big")
    return _piece(framed, number, (fragment & 0x1FFF) * 8, bool(fragment & 0x2000), 4)


def _extension_size(number: int, rest: Rest) -> int:
    """Bytes of an extension header (RFC 8200, 4; RFC 4302 for authentication); 0 when it is none to step over."""
    if number == FRAGMENT:
        return 8
    if number == AUTHENTICATION:
        return (rest.byte(1) + 2) * 4
    return (rest.byte(1) + 1) * 8 if number in STEPPED_OVER else 0


def _piece(framed: "Framed", number: int, offset: int, more: bool, version: int) -> tuple[Kind, "Framed"]:
    """A fragment of IP."""
    key = version, number, framed.source, framed.group
    return (Kind.LATER if offset else Kind.FRAGMENT), framed._replace(fragment=Fragment(key, offset, more))


def _extensions(rest: Rest, number: int, framed: "Framed") -> tuple[Kind, "Framed"]:
    """Steps over extension headers until UDP. A fragment header that says "first and last" is of a whole datagram (RFC
    6946)."""
    kind = Kind.UDP
    while number != UDP:
        if rest.size < 8:
            return (Kind.OTHER if rest.wire < 8 else Kind.BROKEN), framed
        size = _extension_size(number, rest)
        if size == 0:
            return Kind.OTHER, framed
        if number == FRAGMENT and rest.big16(2) & 0xFFF9:
            place, of = rest.big16(2), rest.big16(4) << 16 | rest.big16(6)
            kind, framed = _piece(framed, of, place & 0xFFF8, bool(place & 1), 6)
        number = rest.byte(0)
        if not rest.skip(size):
            return Kind.BROKEN, framed
        if kind is Kind.LATER:
            return (kind if number == UDP else Kind.OTHER), framed
    return kind, framed


def _ipv6(rest: Rest) -> tuple[Kind, Framed]:
    """RFC 8200."""
    if rest.size < 40 or rest.byte(0) >> 4 != 6:
        return Kind.BROKEN, Framed()
    payload, number = rest.big16(4), rest.byte(6)
    if rest.wire < 40 + payload:
        return Kind.BROKEN, Framed()
    addresses = rest.frame[rest.at + 8 : rest.at + 40]
    tos = (rest.byte(0) << 4 | rest.byte(1) >> 4) & 0xFF
    framed = Framed(addresses[:16], addresses[16:], ttl=rest.byte(7), tos=tos)
    rest.limit(40 + payload)
    rest.skip(40)
    return _extensions(rest, number, framed)


def read_udp(rest: Rest, framed: Framed) -> tuple[Kind, Framed]:
    """RFC 768."""
    if rest.size < 8:
        return Kind.BROKEN, framed
    total = rest.big16(4)
    if total < 8 or total > rest.wire:
        return Kind.BROKEN, framed
    ports = rest.big16(0), rest.big16(2)
    rest.limit(total)
    rest.skip(8)
    flags = _FLAGS | _TRUNCATED if rest.size < rest.wire else _FLAGS
    return Kind.UDP, framed._replace(
        source_port=ports[0],
        port=ports[1],
        flags=flags,
        start=rest.at,
        length=rest.size,
        wire_length=rest.wire,
    )


def read_frame(frame: bytes, wire: int, link_type: int) -> tuple[Kind, Framed]:
    """Reads a frame of which these bytes were captured, of `wire` that there were: what it is, and for Kind.UDP
    addresses, ports, lengths, TTL and TOS; for Kind.FRAGMENT and Kind.LATER addresses, which piece it is, and where
    that begins."""
    rest = Rest(frame, wire)
    ethernet_type = _LINKS.get(link_type, _unreadable)(rest)
    if ethernet_type == ETHER_IPV4:
        kind, framed = _ipv4(rest)
    elif ethernet_type == ETHER_IPV6:
        kind, framed = _ipv6(rest)
    else:
        return (Kind.BROKEN if ethernet_type == -1 and rest.size < 40 else Kind.OTHER), Framed()
    if kind is Kind.UDP:
        return read_udp(rest, framed)
    if kind in (Kind.FRAGMENT, Kind.LATER):
        framed = framed._replace(start=rest.at, length=rest.size, wire_length=rest.wire)
    return kind, framed


def _last_next_header(rest: Rest) -> int:
    """The number behind the last IPv6 header that can be stepped over (RFC 8200, 4)."""
    number = rest.byte(6)
    rest.limit(40 + rest.big16(4))
    rest.skip(40)
    while rest.size >= 8:
        size, behind = _extension_size(number, rest), rest.byte(0)
        if size == 0 or not rest.skip(size):
            break
        number = behind
    return number


def skipped_kind(frame: bytes, wire: int, link_type: int) -> tuple[int, int]:
    """What a frame of Kind.OTHER is: one of `blocks.SKIPPED_*`, and its number."""
    rest = Rest(frame, wire)
    ethernet_type = _LINKS.get(link_type, _unreadable)(rest)
    if ethernet_type == _UNREADABLE:
        return blocks.SKIPPED_LINK, link_type
    if ethernet_type == ETHER_IPV4:
        return blocks.SKIPPED_PROTOCOL, rest.byte(9)
    if ethernet_type == ETHER_IPV6:
        return blocks.SKIPPED_PROTOCOL, _last_next_header(rest)
    if ethernet_type < 0:
        return blocks.SKIPPED_OTHERS, 0
    return blocks.SKIPPED_ETHERTYPE, 0 if ethernet_type < blocks.SMALLEST_ETHERTYPE else ethernet_type
