"""Datagrams of groups, and messages of IGMP and MLD, in packets as packet(7) delivers them without a link header.

Any bytes can be given; nothing is raised. No I/O.
"""

import ipaddress
import struct
from typing import NamedTuple

from mcast_fast._core.protocols import ETHER_IPV4, ETHER_IPV6, FRAGMENT, STEPPED_OVER, UDP

IGMP, ICMPV6 = 2, 58
IGMP_QUERY, IGMP_REPORTS = 0x11, (0x12, 0x16, 0x22)  # RFC 3376, section 4
MLD_QUERY, MLD_REPORTS = 130, (131, 143)  # RFC 3810, section 5
IPV4_HEADER, IPV6_HEADER, UDP_HEADER = 20, 40, 8
MORE_FRAGMENTS, OFFSET = 0x2000, 0x1FFF


class Datagram(NamedTuple):
    """One that was seen at an interface.

    `port`: 0 in a fragment behind the first. `vlan`: the id of its tag, 0 without one. `bad_checksum`: it was looked at
    whole, and its UDP checksum is wrong."""

    interface: str
    group: str
    port: int
    source: str
    ttl: int
    vlan: int
    is_outgoing: bool
    is_fragment: bool
    bad_checksum: bool


class Control(NamedTuple):
    """A query or a report of IGMP (RFC 3376) or MLD (RFC 3810)."""

    interface: str
    version: int
    is_query: bool
    protocol: str
    source: str
    is_outgoing: bool


class Context(NamedTuple):
    """What the kernel says beside the bytes."""

    interface: str
    vlan: int = 0
    is_outgoing: bool = False
    can_check: bool = False


def parse(data: bytes, protocol: int, beside: Context) -> Datagram | Control | None:
    """A datagram or a message in an IP packet; None for any other one, and for one that is cut short."""
    if protocol == ETHER_IPV4:
        return _ipv4(data, beside)
    return _ipv6(data, beside) if protocol == ETHER_IPV6 else None


def _ipv4(data: bytes, beside: Context) -> Datagram | Control | None:
    if len(data) < IPV4_HEADER:
        return None
    header = (data[0] & 0xF) * 4
    total, fragment = struct.unpack_from("!H2xH", data, 2)
    ttl, protocol = data[8], data[9]
    source, group = (str(ipaddress.IPv4Address(data[at : at + 4])) for at in (12, 16))
    if header < IPV4_HEADER or total < header:
        return None
    body = data[header:total]
    if protocol == IGMP:
        return _igmp(body, source, beside)
    if protocol != UDP:
        return None
    pseudo = data[12:20] + struct.pack("!HH", UDP, len(body))
    whole = len(data) >= total
    return _udp(
        body, group, source, ttl, beside, fragment & OFFSET, fragment & MORE_FRAGMENTS, pseudo if whole else b""
    )


def _ipv6(data: bytes, beside: Context) -> Datagram | Control | None:
    if len(data) < IPV6_HEADER:
        return None
    length, kind, ttl = struct.unpack_from("!HBB", data, 4)
    source, group = (str(ipaddress.IPv6Address(data[at : at + 16])) for at in (8, 24))
    end = IPV6_HEADER + length
    at, offset, more = IPV6_HEADER, 0, 0
    while (kind in STEPPED_OVER or kind == FRAGMENT) and at + 8 <= len(data):
        if kind == FRAGMENT:
            field = int.from_bytes(data[at + 2 : at + 4])
            offset, more = field & 0xFFF8, field & 1
            kind, at = data[at], at + 8
        else:
            kind, at = data[at], at + 8 + data[at + 1] * 8
    body = data[at:end]
    if kind == ICMPV6 and not offset:
        return _mld(body, source, beside)
    if kind != UDP:
        return None
    pseudo = data[8:40] + struct.pack("!II", len(body), UDP)
    return _udp(body, group, source, ttl, beside, offset, more, pseudo if len(data) >= end else b"")


def _udp(
    body: bytes, group: str, source: str, ttl: int, beside: Context, offset: int, more: int, pseudo: bytes
) -> Datagram | None:
    if not offset and len(body) < UDP_HEADER:
        return None
    port, checksum = (0, 0) if offset else struct.unpack_from("!2xH2xH", body)
    is_fragment = bool(offset or more)
    is_bad = bool(checksum and pseudo and beside.can_check and not is_fragment and _sum(pseudo + body) != 0xFFFF)
    return Datagram(beside.interface, group, port, source, ttl, beside.vlan, beside.is_outgoing, is_fragment, is_bad)


def _sum(data: bytes) -> int:
    """The ones' complement sum of 16-bit words (RFC 1071); 0xFFFF where a correct checksum is among them."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + bytes(len(data) % 2)))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def _igmp(body: bytes, source: str, beside: Context) -> Control | None:
    if len(body) < 8:
        return None
    if body[0] == IGMP_QUERY:
        version = 3 if len(body) >= 12 else 2 if body[1] else 1  # RFC 3376, section 7.1
        return Control(beside.interface, version, True, "IGMP", source, beside.is_outgoing)
    if body[0] in IGMP_REPORTS:
        version = IGMP_REPORTS.index(body[0]) + 1
        return Control(beside.interface, version, False, "IGMP", source, beside.is_outgoing)
    return None


def _mld(body: bytes, source: str, beside: Context) -> Control | None:
    if len(body) < 8:
        return None
    if body[0] == MLD_QUERY:
        version = 2 if len(body) >= 28 else 1  # RFC 3810, section 8.1
        return Control(beside.interface, version, True, "MLD", source, beside.is_outgoing)
    if body[0] in MLD_REPORTS:
        return Control(beside.interface, MLD_REPORTS.index(body[0]) + 1, False, "MLD", source, beside.is_outgoing)
    return None
