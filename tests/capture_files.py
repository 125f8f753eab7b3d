"""Capture files and frames made by hand, in either byte order: what the tests give the reader."""

import ipaddress
import struct

ETHERNET, NULL, RAW, SLL, SLL2, LOOP, IPV4, IPV6 = 1, 0, 101, 113, 276, 108, 228, 229
UDP = 17


def packed(address):
    return ipaddress.ip_address(address).packed


def udp(payload=b"payload", source_port=4000, port=5000, length=None):
    return struct.pack(">HHHH", source_port, port, 8 + len(payload) if length is None else length, 0) + payload


def ipv4(body, source="10.0.0.1", group="239.1.1.1", options=b"", fragment=0, protocol=UDP, total=None, ttl=7, tos=184):
    size = 20 + len(options)
    total = size + len(body) if total is None else total
    head = struct.pack(">BBHHHBBH", 0x40 | size // 4, tos, total, 1, fragment, ttl, protocol, 0)
    return head + packed(source) + packed(group) + options + body


def ipv6(body, source="fe80::1", group="ff15::1", following=UDP, total=None, ttl=7, tos=184):
    total = len(body) if total is None else total
    return struct.pack(">IHBB", 6 << 28 | tos << 20, total, following, ttl) + packed(source) + packed(group) + body


def ethernet(body, kind=0x0800, tags=()):
    inside = b"".join(struct.pack(">HH", protocol, number) for protocol, number in tags)
    return bytes(12) + inside + struct.pack(">H", kind) + body


def datagram(payload=b"payload", **named):
    """A frame that is delivered."""
    return ethernet(ipv4(udp(payload), **named))


def option(order, code, value):
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(order, kind, body):
    length = 12 + len(body)
    return struct.pack(order + "II", kind, length) + body + struct.pack(order + "I", length)


def section(order="<", length=-1, major=1):
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, major, 0, length))


def description(order="<", link=ETHERNET, name="", resolution=None, offset=None, snaplen=0):
    body = struct.pack(order + "HHI", link, 0, snaplen)
    if name:
        body += option(order, 2, name.encode())
    if resolution is not None:
        body += option(order, 9, bytes([resolution]))
    if offset is not None:
        body += option(order, 14, struct.pack(order + "q", offset))
    return block(order, 1, body)


def packet(frame, order="<", ticks=0, interface=0, wire=None, dropped=None):
    head = (interface, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame) if wire is None else wire)
    body = struct.pack(order + "5I", *head) + frame + bytes(-len(frame) % 4)
    if dropped is not None:
        body += option(order, 4, struct.pack(order + "Q", dropped)) + bytes(4)
    return block(order, 6, body)


def obsolete_packet(frame, order="<", ticks=0, interface=0, dropped=0):
    head = struct.pack(order + "HHIIII", interface, dropped, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
    return block(order, 2, head + frame + bytes(-len(frame) % 4))


def simple_packet(frame, order="<", wire=None):
    wire = len(frame) if wire is None else wire
    return block(order, 3, struct.pack(order + "I", wire) + frame + bytes(-len(frame) % 4))


def statistics(order="<", interface=0, **counters):
    codes = {"received": 4, "dropped": 5, "dropped_system": 7, "delivered": 8}
    options = b"".join(option(order, codes[name], struct.pack(order + "Q", value)) for name, value in counters.items())
    return block(order, 5, struct.pack(order + "III", interface, 0, 0) + options + bytes(4))


def pcap(*packets, order="<", magic=0xA1B2C3D4, link=ETHERNET, version=(2, 4)):
    """A classic file of (seconds, fraction, frame[, wire length])."""
    found = struct.pack(order + "IHHiIII", magic, *version, 0, 0, 65_535, link)
    for seconds, fraction, frame, *wire in packets:
        found += struct.pack(order + "IIII", seconds, fraction, len(frame), wire[0] if wire else len(frame))
        found += bytes(8 if magic == 0xA1B2CD34 else 0) + frame
    return found
