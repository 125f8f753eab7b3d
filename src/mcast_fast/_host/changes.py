"""Changes of interfaces, as messages report them: of rtnetlink(7), and of the routing sockets of macOS and the BSDs.

Rules of this module: no I/O. Any bytes can be given: what is cut short or invalid ends the parsing, and nothing is
raised. All integers are in native byte order.
"""

import enum
import os
import struct
from dataclasses import dataclass
from typing import NamedTuple

from mcast_fast._host import netlink

AF_BRIDGE = 7


class Kind(enum.Enum):
    """What changed."""

    LINK = "link"  # an interface is there, with these flags
    GONE = "gone"  # an interface was deleted
    ADDRESS = "address"  # an address of an interface was added or removed
    LIST = "list"  # what changed is not said, or was lost: the interfaces have to be listed


@dataclass(frozen=True, slots=True)
class Change:
    """A change; the name is empty where it is not reported."""

    kind: Kind
    index: int = 0
    flags: int = 0
    name: str = ""


ANYTHING = Change(Kind.LIST)
LINKS = {netlink.RTM_NEWLINK: Kind.LINK, netlink.RTM_DELLINK: Kind.GONE}
ADDRESSES = (netlink.RTM_NEWADDR, netlink.RTM_DELADDR)


def of_netlink(data: bytes) -> list[Change]:
    """What messages of rtnetlink report of links and addresses."""
    found = []
    for number, _, body in netlink.messages(memoryview(data)):
        if number in LINKS and len(body) >= netlink.IFINFOMSG.size:
            family, _, index, flags, _ = netlink.IFINFOMSG.unpack_from(body)
            if family == AF_BRIDGE:  # of a bridge's port, which stays when the bridge lets it go
                continue
            named = dict(netlink.attributes(body[netlink.IFINFOMSG.size :])).get(netlink.IFLA_IFNAME, memoryview(b""))
            name = os.fsdecode(bytes(named).partition(b"\0")[0])
            found.append(Change(LINKS[number], index, flags, name))
        elif number in ADDRESSES and len(body) >= netlink.IFADDRMSG.size:
            found.append(Change(Kind.ADDRESS, netlink.IFADDRMSG.unpack_from(body)[4]))
    return found


# Routing sockets, route(4) -------------------------------------------------------------------------------------------

HEADER = struct.Struct("=HBB")  # length with this header, version, type: the same on every system
INDEX, FLAGS = struct.Struct("=H"), struct.Struct("=I")


class RouteMessages(NamedTuple):
    """The messages of a system's routing socket: AF_ROUTE, RTM_VERSION, RTM_IFINFO, the types after which interfaces
    are listed, and where in struct if_msghdr the index and the flags are (<net/route.h>, <net/if.h>)."""

    family: int
    version: int
    info: int
    others: tuple[int, ...]
    index_at: int
    flags_at: int


# By System.key. `others`: RTM_NEWADDR, RTM_DELADDR, and RTM_IFANNOUNCE where there is one.
ROUTE_MESSAGES = {
    "darwin": RouteMessages(17, version=5, info=0x0E, others=(0x0C, 0x0D), index_at=12, flags_at=8),
    "freebsd": RouteMessages(17, version=5, info=0x0E, others=(0x0C, 0x0D, 0x11), index_at=12, flags_at=8),
    "openbsd": RouteMessages(17, version=5, info=0x0E, others=(0x0C, 0x0D, 0x0F), index_at=6, flags_at=16),
    "netbsd": RouteMessages(34, version=4, info=0x14, others=(0x16, 0x17, 0x10), index_at=12, flags_at=8),
}


def of_routing_socket(data: bytes, system: RouteMessages) -> list[Change]:
    """What messages of a routing socket report of interfaces; ANYTHING last, where they report something.

    They have the flags of an interface, so that one that goes down and comes up at once is seen, but neither its name
    nor which of its addresses is new: the list has these."""
    found: list[Change] = []
    rest, is_other = memoryview(data), False
    while len(rest) >= HEADER.size:
        length, version, number = HEADER.unpack_from(rest)
        if not HEADER.size <= length <= len(rest):
            break
        message, rest = rest[:length], rest[length:]
        if version != system.version:
            continue
        if number == system.info and length >= max(system.index_at + INDEX.size, system.flags_at + FLAGS.size):
            (index,) = INDEX.unpack_from(message, system.index_at)
            (flags,) = FLAGS.unpack_from(message, system.flags_at)
            found.append(Change(Kind.LINK, index, flags))
        is_other = is_other or number in system.others
    return [*found, ANYTHING] if found or is_other else []
