"""Frames as they stand on an Ethernet link, made by hand: what no socket would send."""

import socket
import struct
from ipaddress import ip_address

UDP = 17
FRAGMENT = 44
ETHERTYPE = {4: 0x0800, 6: 0x86DD}


def multicast_mac(group: str) -> bytes:
    """RFC 1112, 6.4; RFC 2464, 7."""
    packed = ip_address(group).packed
    return b"\x33\x33" + packed[-4:] if len(packed) == 16 else b"\x01\x00\x5e" + bytes([packed[1] & 0x7F]) + packed[2:]


def udp(payload: bytes, port: int, source_port: int = 4000) -> bytes:
    """A datagram without a checksum."""
    return struct.pack("!4H", source_port, port, 8 + len(payload), 0) + payload


def ipv4(
    group: str,
    body: bytes,
    *,
    source: str = "10.77.0.1",
    options: bytes = b"",
    piece: int = 0,
    protocol: int = UDP,
    ttl: int = 4,
    tos: int = 0,
) -> bytes:
    """An IPv4 packet; `piece` is the field of flags and fragment offset. The header's checksum is right."""
    words = 5 + len(options) // 4
    head = struct.pack("!BBHHHBBH", 0x40 | words, tos, 4 * words + len(body), 7, piece, ttl, protocol, 0)
    head += socket.inet_aton(source) + socket.inet_aton(group) + options
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    check = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return head[:10] + struct.pack("!H", check) + head[12:] + body


def ipv6(group: str, body: bytes, *, source: str = "fd00:77::1", first: int = UDP) -> bytes:
    """An IPv6 packet whose first header behind its own is of the type `first`."""
    head = struct.pack("!IHBB", 6 << 28, len(body), first, 4)
    return head + ip_address(source).packed + ip_address(group).packed + body


def ethernet(group: str, packet: bytes, tags: tuple[int, ...] = ()) -> bytes:
    """A frame to a group, with VLAN tags of these types."""
    vlan = b"".join(struct.pack("!HH", kind, 5) for kind in tags)
    kind = ETHERTYPE[ip_address(group).version]
    return multicast_mac(group) + bytes(6) + vlan + struct.pack("!H", kind) + packet


def fragment_header(offset: int, more: bool, following: int = UDP) -> bytes:
    """RFC 8200, 4.5; the offset in bytes."""
    return struct.pack("!BBHI", following, 0, offset | more, 99)


def options_header(following: int = UDP) -> bytes:
    """Destination options: padding only (RFC 8200, 4.6)."""
    return bytes([following, 0, 1, 4, 0, 0, 0, 0])
