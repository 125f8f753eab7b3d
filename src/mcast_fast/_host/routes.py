"""The interface by which the kernel would send: the routing table's answer, and nothing is sent.

Rules of this module: each answer is that of the calling thread's network namespace, now.
"""

import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from mcast_fast._core import refusals
from mcast_fast._host import dumps, netlink
from mcast_fast._systems import SYSTEM
from mcast_fast.errors import socket_error

logger = logging.getLogger("mcast_fast")

GroupAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


class Addressed(Protocol):
    """What is needed of an interface."""

    @property
    def index(self) -> int: ...
    @property
    def addresses(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Route:
    """The OS's answer to "where would this go?": the index of an interface, or 0 and perhaps an error number.

    `is_automatic`: the kernel gave every interface that route alike (IPv6: `ff00::/8`, metric 256, one an interface,
    by addrconf_add_mroute() in net/ipv6/addrconf.c), so it says what the kernel happened to take and not what anyone
    chose.
    """

    index: int
    is_automatic: bool = False
    errno: int = 0


def find_route(address: GroupAddress, listed: Sequence[Addressed]) -> Route:
    """Where the OS would send to `address`, without sending."""
    if SYSTEM.has_rtnetlink:
        try:
            return by_netlink(address)
        except OSError as error:  # a sandbox without netlink sockets
            logger.debug("route for %s: no answer over netlink: %s", address, error)
    return by_connect(address, listed)


DISCARD_PORT = 9  # RFC 863; nothing is sent to it


def by_connect(address: GroupAddress, listed: Sequence[Addressed]) -> Route:
    """The interface whose address a UDP socket gets when it is connected to the group; connect(2) sends nothing.

    Less exact than netlink: an interface without an address lends another's, and Linux wants a zone for link-local
    groups (EINVAL).
    """
    is_ipv6 = address.version == 6
    try:
        with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((str(address), DISCARD_PORT))
            local = probe.getsockname()
    except OSError as error:
        if error.errno in refusals.EXHAUSTED:
            raise socket_error("open", f"a socket to find the route for {address}", error) from error
        return Route(0, errno=error.errno or 0)
    if is_ipv6 and local[3]:
        return Route(local[3], is_automatic=True)
    owner = next((one.index for one in listed if local[0] in one.addresses), 0)
    return Route(owner, is_automatic=is_ipv6)


# Over netlink, rtnetlink(7).


def by_netlink(address: GroupAddress) -> Route:
    """Query the kernel's routing tables and rules, as `ip route get` does; needs no privilege."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with dumps.asked(netlink.NETLINK_ROUTE, _request(family, address.packed)) as sock:
        return parse(sock.recv(dumps.LARGEST_REPLY))


def _request(family: int, destination: bytes) -> bytes:
    body = netlink.RTMSG.pack(family, len(destination) * 8, 0, 0, 0, 0, 0, 0, 0)
    body += netlink.RTATTR.pack(netlink.RTATTR.size + len(destination), netlink.RTA_DST) + destination
    return netlink.request(netlink.RTM_GETROUTE, dumps.SEQUENCE, body)


def parse(reply: bytes) -> Route:
    """The first answer in `reply`; Route(0) when there is none. Takes any bytes and never raises."""
    for kind, sequence, body in netlink.messages(memoryview(reply)):
        if sequence != dumps.SEQUENCE:
            continue
        if kind == netlink.NLMSG_ERROR and len(body) >= netlink.NLMSGERR.size:
            (error,) = netlink.NLMSGERR.unpack_from(body)
            return Route(0, errno=-error & 0x7FFF_FFFF)
        if kind == netlink.RTM_NEWROUTE and len(body) >= netlink.RTMSG.size:
            protocol = netlink.RTMSG.unpack_from(body)[5]
            for attribute, value in netlink.attributes(body[netlink.RTMSG.size :]):
                if attribute == netlink.RTA_OIF and len(value) == netlink.U32.size:
                    return Route(netlink.U32.unpack(value)[0], is_automatic=protocol == netlink.RTPROT_KERNEL)
    return Route(0)
