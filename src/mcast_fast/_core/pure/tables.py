"""Option numbers and structure formats of each operating system: a missing row means that it cannot do it.

CPython's socket module lacks many of them (3.11 has no MCAST_*, SO_RXQ_OVFL, SO_TIMESTAMPNS), so the numbers stand
here, from the systems' headers. The tests hold them against the compiled backend's, which come from the headers
themselves.
"""

import socket
import struct
import sys
from collections.abc import Callable
from typing import NamedTuple

_SOL = socket.SOL_SOCKET
_IP = socket.IPPROTO_IP
_IPV6 = socket.IPPROTO_IPV6

LINUX_OPTIONS = {
    "SO_BINDTODEVICE": (_SOL, 25),
    "SO_RCVBUFFORCE": (_SOL, 33),
    "SO_TIMESTAMPNS": (_SOL, 35),
    "SO_TIMESTAMPING": (_SOL, 37),
    "SO_RXQ_OVFL": (_SOL, 40),
    "SO_BUSY_POLL": (_SOL, 46),
    "SO_MAX_PACING_RATE": (_SOL, 47),
    "SO_MEMINFO": (_SOL, 55),
    "IP_PKTINFO": (_IP, 8),
    "IP_RECVTTL": (_IP, 12),
    "IP_RECVTOS": (_IP, 13),
    "IP_MULTICAST_ALL": (_IP, 49),
    "IP_MULTICAST_IF": (_IP, 32),
    "IP_MULTICAST_TTL": (_IP, 33),
    "IP_MULTICAST_LOOP": (_IP, 34),
    "IP_TOS": (_IP, 1),
    "IP_RECVERR": (_IP, 11),
    "IPV6_V6ONLY": (_IPV6, 26),
    "IPV6_RECVPKTINFO": (_IPV6, 49),
    "IPV6_RECVHOPLIMIT": (_IPV6, 51),
    "IPV6_RECVTCLASS": (_IPV6, 66),
    "IPV6_MULTICAST_ALL": (_IPV6, 29),
    "IPV6_MULTICAST_IF": (_IPV6, 17),
    "IPV6_MULTICAST_HOPS": (_IPV6, 18),
    "IPV6_MULTICAST_LOOP": (_IPV6, 19),
    "IPV6_TCLASS": (_IPV6, 67),
    "IPV6_RECVERR": (_IPV6, 25),
    "UDP_SEGMENT": (socket.IPPROTO_UDP, 103),
    "UDP_GRO": (socket.IPPROTO_UDP, 104),
    "MCAST_JOIN_GROUP": (_IP, 42),
    "MCAST_MSFILTER": (_IP, 48),
}

# Steps of membership, RFC 3678 section 5: the option is the same for both families, at their own level.
LINUX_STEPS = {"join": 42, "leave": 45, "join_source": 46, "leave_source": 47, "block": 43, "unblock": 44}


class System(NamedTuple):
    """How one operating system wants its options and structures."""

    name: str
    options: dict[str, tuple[int, int]]
    steps: dict[str, int]
    sockaddr: Callable[[bytes], bytes]  # a packed address as struct sockaddr_storage
    index_format: str  # what stands before the first sockaddr_storage of group_req, with its padding
    control: dict[tuple[int, int], str]  # control messages: (level, type) -> the record's field


def _linux_sockaddr(packed: bytes) -> bytes:
    if len(packed) == 4:
        return struct.pack("=HH4s120x", socket.AF_INET, 0, packed)
    return struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, packed, 0)


LINUX = System(
    name="Linux",
    options=LINUX_OPTIONS,
    steps=LINUX_STEPS,
    sockaddr=_linux_sockaddr,
    # sockaddr_storage is aligned like a long, so that the index is padded on 64-bit systems.
    index_format="@I0L",
    control={
        (_SOL, 35): "time",
        (_SOL, 37): "times",
        (_SOL, 40): "overflow",
        (_IP, 8): "pktinfo4",
        (_IP, 2): "ttl",
        (_IP, 1): "tos",
        (_IPV6, 50): "pktinfo6",
        (_IPV6, 52): "ttl",
        (_IPV6, 67): "tos",
        (socket.IPPROTO_UDP, 104): "segment",
    },
)

# Where nothing better is known: receive, join through what the socket module offers, and no more.
PORTABLE = System(
    name=sys.platform,
    options={
        name: (level, getattr(socket, name))
        for level, names in (
            (_IP, ("IP_MULTICAST_IF", "IP_MULTICAST_TTL", "IP_MULTICAST_LOOP", "IP_TOS")),
            (_IPV6, ("IPV6_V6ONLY", "IPV6_MULTICAST_IF", "IPV6_MULTICAST_HOPS", "IPV6_MULTICAST_LOOP", "IPV6_TCLASS")),
        )
        for name in names
        if hasattr(socket, name)
    },
    steps={},
    sockaddr=_linux_sockaddr,
    index_format="@I0L",
    control={},
)

SYSTEMS = {"linux": LINUX}
SYSTEM = SYSTEMS.get(sys.platform, PORTABLE)
