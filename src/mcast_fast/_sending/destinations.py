"""Where to send: what a text names, a group or the unicast address of one host.

Rules of this module: nothing is opened or sent; only an interface is looked up, by its name or by the routing table.
"""

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any, TypeAlias

from mcast_fast._core.addresses import is_link_local, map_address
from mcast_fast._host.interfaces import Interface, routed_interface
from mcast_fast._membership.desired import Defaults
from mcast_fast.errors import Argument, GroupError
from mcast_fast.groups import (
    BROADCAST,
    Group,
    check_interface,
    check_port,
    decimal,
    kind,
    require_text,
    source_address,
    split_port,
    without_mapping,
    without_url,
)

SocketAddress: TypeAlias = tuple[str, int] | tuple[str, int, int, int]
"""An address as `socket` has it, and `Packet.source_address`: (address, port), for IPv6 also flow label and scope."""
Target: TypeAlias = str | Group | SocketAddress
"""What is sent to: a group, or the unicast address of one host."""


@dataclass(frozen=True, slots=True)
class UnicastAddress:
    """The address of one host, canonical and without its zone. None: not said."""

    address: str
    port: int | None = None
    zone: str | None = None  # name or index of an interface

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return 6 if ":" in self.address else 4

    @property
    def packed(self) -> bytes:
        """The address in 16 bytes, as in a record."""
        return map_address(self.address)

    def __str__(self) -> str:
        text = f"{self.address}%{self.zone}" if self.zone else self.address
        if self.port is None:
            return text
        return f"[{text}]:{self.port}" if self.version == 6 else f"{text}:{self.port}"


def destination(value: Target) -> Group | UnicastAddress:
    """What a user names to send to.

    A text is a group in the grammar of `Group.parse`, or `ADDRESS[:PORT]`: IPv4, or IPv6 with its zone where it is
    link-local, in brackets when a port follows. GroupError."""
    if isinstance(value, Group):
        return value
    if isinstance(value, tuple):
        return _of_socket(value)
    text = require_text("address", value)
    try:
        return _unicast(text) or Group.parse(text)
    except GroupError as error:
        if text in str(error):
            raise
        raise GroupError(f"address {text!r}: {error}") from None


def _unicast(text: str) -> UnicastAddress | None:
    """None where it is no address of one host: then it may be a group, and is refused as one where it is none."""
    if "@" in text or "+" in text:
        return None
    host, port = split_port(without_url(text.strip()))
    plain, percent, zone = host.partition("%")
    try:
        address = without_mapping(ip_address(plain))
    except ValueError:
        return None
    if address.is_multicast:
        return None
    return _checked(address, None if port is None else decimal("port", port), zone if percent else None)


def _of_socket(value: tuple[Any, ...]) -> Group | UnicastAddress:
    """As `socket.sendto` takes it."""
    if len(value) not in (2, 4) or not isinstance(value[0], str):
        raise GroupError(f"{value!r} is no address of a socket; give (address, port), or text such as '10.0.0.5:5000'")
    host, percent, zone = value[0].partition("%")
    label, scope = value[2:] or (0, 0)
    check_port(value[1])
    if not all(isinstance(one, int) and 0 <= one < 2**32 for one in (label, scope)):
        raise GroupError(
            f"flow label {label!r} and scope {scope!r} are two numbers of 32 bits; leave them out, or give 0"
        )
    try:
        address = without_mapping(ip_address(host))
    except ValueError:
        raise GroupError(f"{host!r} is not an IP address; names are not looked up") from None
    interface = zone if percent else str(scope) if scope else None
    if address.is_multicast:
        return Group(str(address), value[1], interface)
    return _checked(address, value[1], interface)


def _checked(address: IPv4Address | IPv6Address, port: int | None, zone: str | None) -> UnicastAddress:
    if address.is_unspecified or address == BROADCAST:
        raise GroupError(f"{address} is {kind(address)}; send to a group, or to the address of one host")
    if port is not None:
        check_port(port)
    if zone is not None:
        check_interface(zone)
        if not is_link_local(map_address(str(address))):
            raise GroupError(f"{address} goes where the routing table says; leave out the interface, %{zone}")
    return UnicastAddress(str(address), port, zone)


def with_defaults(to: UnicastAddress, defaults: Defaults) -> tuple[int, str | int | None]:
    """Port and zone of an address, where its text leaves them out those of the defaults; the zone of a link-local one
    alone. GroupError."""
    if defaults.source is not None:
        source_address(defaults.source, ip_address(to.address))
    port = defaults.port if to.port is None else to.port
    if port is None:
        brackets = f"[{to}]" if to.version == 6 else str(to)
        missing = f"address {str(to)!r} has no port; write {brackets}:5000, or pass "
        raise GroupError(missing, Argument("port", "5000"))
    if not is_link_local(to.packed):
        return port, None
    zone = to.zone if to.zone is not None else defaults.interface
    if zone is None:
        raise GroupError(f"address {to.address} is link-local, and needs its zone: {to.address}%eth0")
    return port, zone


def towards(to: UnicastAddress) -> Interface | None:
    """The interface by which the routing table sends to an address; None where it names none."""
    return routed_interface(ip_address(to.address))


def socket_address(packed: bytes, port: int, interface: int) -> SocketAddress:
    """What `socket.sendto` takes for a group or an address of 4 or 16 bytes; `interface`: 0 where it has no zone."""
    if len(packed) == 4:
        return socket.inet_ntop(socket.AF_INET, packed), port
    return socket.inet_ntop(socket.AF_INET6, packed), port, 0, interface
