"""Option numbers and structure formats of each operating system: a missing row means that it cannot do it.

CPython's socket module lacks many of them (3.11 has no MCAST_*, SO_RXQ_OVFL, SO_TIMESTAMPNS), so the numbers are
here, from the systems' headers. The tests hold them against the compiled backend's, which come from the headers
themselves, and `.ci/platforms/zig` holds every table against the headers of its system.
"""

import socket
import struct
from collections.abc import Callable, Mapping
from typing import NamedTuple

from mcast_fast import _systems

_IP = socket.IPPROTO_IP
_IPV6 = socket.IPPROTO_IPV6
_UDP = socket.IPPROTO_UDP
_LINUX_SOL = 1
_BSD_SOL = 0xFFFF  # Windows too

Options = dict[str, tuple[int, int]]

LINUX_OPTIONS: Options = {
    "SO_BINDTODEVICE": (_LINUX_SOL, 25),
    "SO_RCVBUFFORCE": (_LINUX_SOL, 33),
    "SO_TIMESTAMPNS": (_LINUX_SOL, 35),
    "SO_TIMESTAMPING": (_LINUX_SOL, 37),
    "SO_RXQ_OVFL": (_LINUX_SOL, 40),
    "SO_BUSY_POLL": (_LINUX_SOL, 46),
    "SO_MAX_PACING_RATE": (_LINUX_SOL, 47),
    "SO_MEMINFO": (_LINUX_SOL, 55),
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
    "UDP_SEGMENT": (_UDP, 103),
    "UDP_GRO": (_UDP, 104),
    "MCAST_JOIN_GROUP": (_IP, 42),
    "MCAST_MSFILTER": (_IP, 48),
}

DARWIN_OPTIONS: Options = {
    "SO_TIMESTAMP": (_BSD_SOL, 0x0400),
    "IP_PKTINFO": (_IP, 26),
    "IP_RECVTTL": (_IP, 24),
    "IP_RECVTOS": (_IP, 27),
    "IP_MULTICAST_IF": (_IP, 9),
    "IP_MULTICAST_TTL": (_IP, 10),
    "IP_MULTICAST_LOOP": (_IP, 11),
    "IP_TOS": (_IP, 3),
    "IPV6_V6ONLY": (_IPV6, 27),
    "IPV6_RECVPKTINFO": (_IPV6, 61),
    "IPV6_RECVHOPLIMIT": (_IPV6, 37),
    "IPV6_RECVTCLASS": (_IPV6, 35),
    "IPV6_MULTICAST_IF": (_IPV6, 9),
    "IPV6_MULTICAST_HOPS": (_IPV6, 10),
    "IPV6_MULTICAST_LOOP": (_IPV6, 11),
    "IPV6_TCLASS": (_IPV6, 36),
    "MCAST_JOIN_GROUP": (_IP, 80),
    "MCAST_MSFILTER": (_IP, 74),  # IP_MSFILTER: by setsourcefilter(3)
}

FREEBSD_OPTIONS: Options = {
    "SO_TIMESTAMP": (_BSD_SOL, 0x0400),
    "IP_RECVDSTADDR": (_IP, 7),
    "IP_RECVIF": (_IP, 20),
    "IP_RECVTTL": (_IP, 65),
    "IP_RECVTOS": (_IP, 68),
    "IP_MULTICAST_IF": (_IP, 9),
    "IP_MULTICAST_TTL": (_IP, 10),
    "IP_MULTICAST_LOOP": (_IP, 11),
    "IP_TOS": (_IP, 3),
    "IPV6_V6ONLY": (_IPV6, 27),
    "IPV6_RECVPKTINFO": (_IPV6, 36),
    "IPV6_RECVHOPLIMIT": (_IPV6, 37),
    "IPV6_RECVTCLASS": (_IPV6, 57),
    "IPV6_MULTICAST_IF": (_IPV6, 9),
    "IPV6_MULTICAST_HOPS": (_IPV6, 10),
    "IPV6_MULTICAST_LOOP": (_IPV6, 11),
    "IPV6_TCLASS": (_IPV6, 61),
    "MCAST_JOIN_GROUP": (_IP, 80),
    "MCAST_MSFILTER": (_IP, 74),  # IP_MSFILTER: by setsourcefilter(3)
}

# What control messages report is left out: Python has no recvmsg on Windows.
WINDOWS_OPTIONS: Options = {
    "IP_MULTICAST_IF": (_IP, 9),
    "IP_MULTICAST_TTL": (_IP, 10),
    "IP_MULTICAST_LOOP": (_IP, 11),
    "IPV6_V6ONLY": (_IPV6, 27),
    "IPV6_MULTICAST_IF": (_IPV6, 9),
    "IPV6_MULTICAST_HOPS": (_IPV6, 10),
    "IPV6_MULTICAST_LOOP": (_IPV6, 11),
}

# Python has no socket.recvmsg on Windows, so that nothing reports where a packet went.
NO_RECVMSG = {
    "destination": "this Python has no socket.recvmsg: each group has a socket of its own, bound to its port at every "
    "address, and what else comes to that port is taken for the group's",
    "kernel_timestamps": "this Python has no socket.recvmsg",
    "receive_ttl": "this Python has no socket.recvmsg",
    "receive_tos": "this Python has no socket.recvmsg",
    "receive_coalescing": "this Python has no socket.recvmsg",
    "coalescing_under_pressure": "this Python has no socket.recvmsg",
}

BSD_MODES = {"include": 1, "exclude": 2}

# Steps of membership, RFC 3678 section 5: the option is the same for both families, at their own level.
Steps = Mapping[str, int]
LINUX_STEPS: Steps = {
    "join": 42, "leave": 45, "join_source": 46, "leave_source": 47, "block": 43, "unblock": 44,
}  # fmt: skip
BSD_STEPS: Steps = {
    "join": 80, "leave": 81, "join_source": 82, "leave_source": 83, "block": 84, "unblock": 85,
}  # fmt: skip
WINDOWS_STEPS: Steps = {
    "join": 41, "leave": 42, "block": 43, "unblock": 44, "join_source": 45, "leave_source": 46,
}  # fmt: skip
# RFC 3678 section 4, and ipv6_mreq: for a system, or an imitation of one, that lacks those above.
NO_STEPS: Steps = {}
WINDOWS_OLD_STEPS: Steps = {
    "join": 12, "leave": 13, "join_source": 15, "leave_source": 16, "block": 17, "unblock": 18,
}  # fmt: skip


class System(NamedTuple):
    """How one operating system wants its options and structures.

    `sockaddr`: a packed address as struct sockaddr_storage. `index_format`: what precedes the first of them in
    struct group_req, with its padding. `control`: control messages, (level, type) -> the field of the record.
    `old_steps`: by struct ip_mreq, where `steps` are refused. `send_interface`: the values of IP_MULTICAST_IF for
    (index, source), tried in turn. `tries`: how often a membership is tried while the answer is ENOMEM. `modes`: of
    source filters, RFC 3678. `filters_by_library`: whether they are set by setsourcefilter(3). `reports_wire_length`:
    whether the length of a truncated packet is reported. `missing`: feature -> why it is off, where that is not
    an option that is missing."""

    name: str
    options: Options
    steps: Steps
    sockaddr: Callable[[bytes], bytes]
    index_format: str
    control: Mapping[tuple[int, int], str]
    send_interface: Callable[[int, bytes], tuple[bytes, ...]]
    old_steps: Steps = NO_STEPS
    tries: int = 1
    modes: Mapping[str, int] = {"exclude": 0, "include": 1}
    filters_by_library: bool = False
    reports_wire_length: bool = False
    missing: Mapping[str, str] = {}


def _linux_sockaddr(packed: bytes) -> bytes:
    if len(packed) == 4:
        return struct.pack("=HH4s120x", socket.AF_INET, 0, packed)
    return struct.pack("=HHI16sI100x", socket.AF_INET6, 0, 0, packed, 0)


def _bsd_sockaddr(packed: bytes, family: int) -> bytes:
    """BSD and macOS keep an address's length in its first byte."""
    if len(packed) == 4:
        return struct.pack("=BBH4s120x", 16, 2, 0, packed)
    return struct.pack("=BBHI16sI100x", 28, family, 0, 0, packed, 0)


def _darwin_sockaddr(packed: bytes) -> bytes:
    return _bsd_sockaddr(packed, 30)


def _freebsd_sockaddr(packed: bytes) -> bytes:
    return _bsd_sockaddr(packed, 28)


def _windows_sockaddr(packed: bytes) -> bytes:
    if len(packed) == 4:
        return struct.pack("=HH4s120x", 2, 0, packed)
    return struct.pack("=HHI16sI100x", 23, 0, 0, packed, 0)


def _by_mreqn(index: int, source: bytes) -> tuple[bytes, ...]:
    """struct ip_mreqn, ip(7): "4sl" would be 16 bytes on LP64, and an address would land in the index."""
    return (struct.pack("=4x4si", source, index),)


def _by_index_or_address(index: int, source: bytes) -> tuple[bytes, ...]:
    """Windows takes an index as the address 0.0.0.N; wine wants a real one."""
    return (struct.pack("!I", index), source)


LINUX = System(
    name=_systems.LINUX.name,
    options=LINUX_OPTIONS,
    steps=LINUX_STEPS,
    sockaddr=_linux_sockaddr,
    # sockaddr_storage is aligned like a long, so that the index is padded on 64-bit systems.
    index_format="@I0L",
    control={
        (_LINUX_SOL, 35): "time",
        (_LINUX_SOL, 37): "times",
        (_LINUX_SOL, 40): "overflow",
        (_IP, 8): "pktinfo4",
        (_IP, 2): "ttl",
        (_IP, 1): "tos",
        (_IPV6, 50): "pktinfo6",
        (_IPV6, 52): "ttl",
        (_IPV6, 67): "tos",
        (_UDP, 104): "segment",
    },
    send_interface=_by_mreqn,
    reports_wire_length=True,
)
DARWIN = System(
    name=_systems.DARWIN.name,
    options=DARWIN_OPTIONS,
    steps=BSD_STEPS,
    sockaddr=_darwin_sockaddr,
    index_format="=I",  # pack(4): no padding
    control={
        (_BSD_SOL, 2): "timeval",
        (_IP, 26): "pktinfo4",
        (_IP, 24): "ttl",
        (_IP, 27): "tos",
        (_IPV6, 46): "pktinfo6",
        (_IPV6, 47): "ttl",
        (_IPV6, 36): "tos",
    },
    send_interface=_by_mreqn,
    tries=5,  # macOS answers ENOMEM now and then
    modes=BSD_MODES,
    filters_by_library=True,
)
FREEBSD = System(
    name=_systems.FREEBSD.name,
    options=FREEBSD_OPTIONS,
    steps=BSD_STEPS,
    sockaddr=_freebsd_sockaddr,
    index_format="@I0L",
    control={
        (_BSD_SOL, 2): "timeval",
        (_IP, 7): "destination",
        (_IP, 20): "interface",
        (_IP, 65): "ttl",
        (_IP, 68): "tos",
        (_IPV6, 46): "pktinfo6",
        (_IPV6, 47): "ttl",
        (_IPV6, 61): "tos",
    },
    send_interface=_by_mreqn,
    modes=BSD_MODES,
    filters_by_library=True,
)
WINDOWS = System(
    name=_systems.WINDOWS.name,
    options=WINDOWS_OPTIONS,
    steps=WINDOWS_STEPS,
    sockaddr=_windows_sockaddr,
    index_format="=I4x",
    control={},
    send_interface=_by_index_or_address,
    old_steps=WINDOWS_OLD_STEPS,
    reports_wire_length=True,
    missing=NO_RECVMSG,
)

UNKNOWN = {
    "destination": "how this system reports it is not known here: each group has a socket of its own, and what else "
    "comes to its port is taken for the group's"
}
# Where nothing better is known: receive, join through what the socket module offers, and no more.
PORTABLE = System(
    name=_systems.SYSTEM.name,
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
    send_interface=_by_index_or_address,
    old_steps={"join": socket.IP_ADD_MEMBERSHIP, "leave": socket.IP_DROP_MEMBERSHIP},
    missing=UNKNOWN,
)

SYSTEMS = {one.name: one for one in (LINUX, DARWIN, FREEBSD, WINDOWS)}
SYSTEM = SYSTEMS.get(_systems.SYSTEM.name, PORTABLE)
