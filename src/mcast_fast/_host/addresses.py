"""The addresses of the interfaces, and the names of an interface beside its own.

Rules of this module: nothing is cached, so that every answer is that of the calling thread's network namespace, now.
Where netlink is refused, as by systemd's RestrictAddressFamilies=, the C library's lists are too, for it makes them of
netlink: ioctls and /proc/net are left (unlisted.py).
"""

import ipaddress
import logging
import os
import socket
import struct
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from mcast_fast._host import dumps, netlink, unlisted
from mcast_fast._systems import SYSTEM
from mcast_fast.errors import warn

if TYPE_CHECKING:
    import ifaddr

logger = logging.getLogger("mcast_fast")

ADDRESS_SIZES = (4, 16)  # of IPv4 and IPv6


def by_index() -> dict[int, tuple[str, ...]]:
    """The addresses of each interface, IPv4 first; an interface without one may be missing, or be there with none."""
    found: dict[int, list[str]] = {}
    for index, text, _ in _all():
        found.setdefault(index, []).append(text)
    return {index: tuple(sorted(dict.fromkeys(texts), key=lambda text: ":" in text)) for index, texts in found.items()}


def index_of_other_name(text: str) -> int | None:
    """The index of the interface that the system knows by `text` too: an alias label (`eth0:1`), an alternative name
    (ip-link(8), IFLA_ALT_IFNAME) or a friendly one (`Ethernet 2`). None where there is none."""
    if not text:
        return None
    labelled = next((index for index, _, label in _all() if label == text), None)
    if labelled is not None or ":" in text:
        return labelled  # Linux drops what follows a colon: `eth0:5000`, a slip of the pen, would be eth0
    try:
        return socket.if_nametoindex(text)
    except (OSError, ValueError):  # ValueError: not a text that the system can take
        return _index_of_alternative(text) if SYSTEM.has_rtnetlink else _index_of_friendly(text)


def _all() -> list[tuple[int, str, str]]:
    """Index, address and label of every address; by netlink where there is one, for ifaddr runs ldconfig there."""
    if not SYSTEM.has_rtnetlink:
        return list(_by_ifaddr())
    try:
        return list(_by_netlink())
    except OSError as error:  # a sandbox without netlink sockets
        logger.debug("addresses of the interfaces: no answer over netlink: %s", error)
        return list(unlisted.addresses())


# By rtnetlink(7) -----------------------------------------------------------------------------------------------------


def _by_netlink() -> Iterator[tuple[int, str, str]]:
    everything = netlink.IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    for kind, body in dumps.dump(netlink.NETLINK_ROUTE, netlink.RTM_GETADDR, everything):
        if kind == netlink.RTM_NEWADDR and (found := parse(body)) is not None:
            yield found


def parse(body: memoryview) -> tuple[int, str, str] | None:
    """Index, address and label in the body of an RTM_NEWADDR; None when it is cut short. Any bytes can be given."""
    if len(body) < netlink.IFADDRMSG.size:
        return None
    *_, index = netlink.IFADDRMSG.unpack_from(body)
    values = dict(netlink.attributes(body[netlink.IFADDRMSG.size :]))
    address = bytes(values.get(netlink.IFA_LOCAL) or values.get(netlink.IFA_ADDRESS) or b"")
    if len(address) not in ADDRESS_SIZES:
        return None
    label = bytes(values.get(netlink.IFA_LABEL, b"")).rstrip(b"\0")
    return index, str(ipaddress.ip_address(address)), os.fsdecode(label)


def _index_of_alternative(text: str) -> int | None:
    """By a list, for a name that is too long for a request (IFNAMSIZ) is none for if_nametoindex(3) either."""
    try:
        wanted = os.fsencode(text)
        for kind, body in dumps.dump(netlink.NETLINK_ROUTE, netlink.RTM_GETLINK, netlink.IFINFOMSG.pack(0, 0, 0, 0, 0)):
            if kind == netlink.RTM_NEWLINK and wanted in alternative_names(body):
                return int(netlink.IFINFOMSG.unpack_from(body)[2])
    except (OSError, ValueError) as error:  # ValueError: as above
        logger.debug("alternative names of the interfaces: no answer over netlink: %s", error)
    return None


def alternative_names(body: memoryview) -> list[bytes]:
    """IFLA_ALT_IFNAME in the body of an RTM_NEWLINK. Any bytes can be given."""
    values = netlink.attributes(body[netlink.IFINFOMSG.size :])
    lists = [value for kind, value in values if kind == netlink.IFLA_PROP_LIST]
    return [
        bytes(value).rstrip(b"\0")
        for properties in lists
        for kind, value in netlink.attributes(properties)
        if kind == netlink.IFLA_ALT_IFNAME
    ]


# By ifaddr -----------------------------------------------------------------------------------------------------------


def _by_ifaddr() -> Iterator[tuple[int, str, str]]:
    for adapter in _adapters():
        if adapter.index:  # None: it vanished meanwhile
            for ip in adapter.ips:
                yield adapter.index, address_text(ip.ip, adapter.index), adapter.name


def _index_of_friendly(text: str) -> int | None:
    for adapter in _adapters():
        if text in {adapter.name, adapter.nice_name, *(ip.nice_name for ip in adapter.ips)}:
            return adapter.index
    return None


def _adapters() -> Iterable["ifaddr.Adapter"]:
    """Interfaces as ifaddr gives them: one a *label* (`eth0` and `eth0:1` are two, with one index)."""
    try:
        import ifaddr

        return ifaddr.get_adapters(include_unconfigured=True)
    except (ImportError, ValueError, AssertionError) as error:
        # ifaddr 0.2.0 asserts that every address has a netmask and that names are UTF-8; no system promises either.
        message = f"the addresses of the interfaces are unknown: ifaddr fails: {error}; look them up by name or index"
        warn(message)
        return ()


def address_text(ip: str | tuple[str, int, int], index: int) -> str:
    """ifaddr's address, text or (text, flow, scope), in the shortest form and without a zone."""
    if isinstance(ip, str):
        return ip
    packed = ipaddress.IPv6Address(ip[0].partition("%")[0]).packed
    if packed[:2] == b"\xfe\x80" and packed[2:4] == struct.pack("!H", index & 0xFFFF):
        # The KAME stack of BSD and macOS keeps the zone in bytes 2 and 3, which RFC 4291, 2.5.6 has zero.
        packed = packed[:2] + b"\0\0" + packed[4:]
    return str(ipaddress.IPv6Address(packed))
