"""The kernel as a router of multicast, as smcroute sets it up: ip(7), <linux/mroute.h>."""

import contextlib
import socket
import struct
from collections.abc import Iterator

from tests import lab

MRT_INIT, MRT_ADD_VIF, MRT_ADD_MFC = 200, 202, 204
VIFF_USE_IFINDEX = 8


@contextlib.contextmanager
def routed(group: str, inside: lab.End, outside: lab.End, *sources: tuple[str, lab.End]) -> Iterator[None]:
    """Route the group between two interfaces of one host, from each source by where it arrives, until the end of the
    block."""
    inside.host.sysctl("net.ipv4.ip_forward", 1)
    with (
        inside.host.enter(),
        contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
        numbers = {end.interface: number for number, end in enumerate((inside, outside))}
        for end in (inside, outside):
            vif = struct.pack("=HBBIi4s", numbers[end.interface], VIFF_USE_IFINDEX, 1, 0, end.index, bytes(4))
            sock.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, vif)
        for address, end in sources:
            ttls = bytes(int(number != numbers[end.interface]) for number in range(2)).ljust(32, b"\0")
            addresses = socket.inet_aton(address) + socket.inet_aton(group)
            route = addresses + struct.pack("=H", numbers[end.interface]) + ttls
            sock.setsockopt(socket.IPPROTO_IP, MRT_ADD_MFC, route.ljust(60, b"\0"))
        yield
