"""Network interfaces: list them, find one, and name the one that a group belongs to.

Rules of this module: nothing is cached, so that every answer is that of the calling thread's network namespace, now;
nothing is ever sent; an interface is identified by its index, for names change and addresses are shared.
"""

import ipaddress
import logging
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from errno import ENOBUFS, ENODEV, ENXIO
from typing import NamedTuple

from mcast_fast._core import refusals
from mcast_fast._host import addresses, ifreq, offloads, unlisted
from mcast_fast._host.routes import GroupAddress, Route, find_route
from mcast_fast._systems import SYSTEM, FlagCall
from mcast_fast.errors import Argument, GroupError, InterfaceError, MulticastWarning, os_text, socket_error, warn

logger = logging.getLogger("mcast_fast")


@dataclass(frozen=True, slots=True)
class Interface:
    """A network interface as it was when it was listed.

    Attributes:
        name: The name, such as "eth0".
        index: The index (if_nametoindex(3)).
        addresses: The addresses as text, IPv4 before IPv6, each family in the system's order; IPv6 link-local addresses
            are without a zone.
        is_up: IFF_UP.
        is_multicast: IFF_MULTICAST. `lo` of Linux lacks it, and carries multicast all the same when it is named.
        is_loopback: IFF_LOOPBACK.
        has_carrier: IFF_RUNNING, there is a link (netdevice(7)); True where the system does not report it.
    """

    __module__ = "mcast_fast"

    name: str
    index: int
    addresses: tuple[str, ...]
    is_up: bool
    is_multicast: bool
    is_loopback: bool
    has_carrier: bool = True

    @property
    def ipv4(self) -> str | None:
        """The first IPv4 address, or None."""
        return next((address for address in self.addresses if ":" not in address), None)

    @property
    def ipv6(self) -> str | None:
        """The first IPv6 address, or None."""
        return next((address for address in self.addresses if ":" in address), None)

    @property
    def offloads(self) -> dict[str, bool | None]:
        """The features by which it coalesces received packets, as `ethtool -k` names them: on, off, or None.

        `generic-receive-offload`, without which nothing is coalesced for a receiver; `rx-udp-gro-forwarding` and
        `rx-gro-list`, which coalesce for everybody. None: it cannot be read (another system than Linux, a sandbox, an
        interface that has gone). Unlike the fields it is read when it is looked at, by index, in the calling thread's
        network namespace. Needs no privilege. `lo` says on, and never coalesces.
        """
        return offloads.read(self.index)


# Listing -------------------------------------------------------------------------------------------------------------


VANISHED = frozenset({ENODEV, ENXIO})  # Linux, BSD


class Flags(NamedTuple):
    """The flags of one interface, in the order and with the names of `Interface`."""

    is_up: bool
    is_multicast: bool
    is_loopback: bool
    has_carrier: bool


def interfaces() -> list[Interface]:
    """List the interfaces of the calling thread's network namespace (netdevice(7), getifaddrs(3)).

    Returns:
        Every interface, sorted by index, also those without an address. Alias labels (`eth0:1`) are addresses of their
        interface. An interface that is deleted meanwhile is left out.

    Raises:
        SocketError: The system gives no list, for example because the process is out of descriptors.
    """
    call = SYSTEM.flag_call
    try:
        known = addresses.by_index()
        if call is None:
            # Not if_nameindex(): on Windows it lists dozens of filter drivers that are no interfaces to a user.
            return [
                Interface(interface_name(index), index, known[index], *_guessed_flags(known[index], index))
                for index in sorted(known)
            ]
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
            return [
                Interface(name, index, known.get(index, ()), *flags)
                for index, name in _names(asked)
                if (flags := _flags(asked, name, call)) is not None
            ]
    except OSError as error:
        raise socket_error("list", "interfaces", error) from error


interfaces.__module__ = "mcast_fast"


def _names(asked: socket.socket) -> list[tuple[int, str]]:
    """Index and name of every interface, sorted."""
    try:
        return sorted(socket.if_nameindex())
    except (OSError, SystemError) as error:
        # musl answers ENOBUFS to whatever went wrong, and PyPy breaks. Mostly no descriptor is left: dup() shows it.
        number = getattr(error, "errno", ENOBUFS)
        if number == ENOBUFS:
            asked.dup().close()
        if number in refusals.EXHAUSTED - {ENOBUFS} or not (known := unlisted.names() if SYSTEM.has_rtnetlink else []):
            raise
        logger.debug("interfaces: no answer over netlink: %s", error)
        return known


def interface_name(index: int) -> str:
    """The name of the interface with this index, as if_indextoname(3) knows it; the number as text when it has gone."""
    try:
        return socket.if_indextoname(index)
    except (OSError, OverflowError, ValueError):  # of a negative number: ValueError since CPython 3.14
        return str(index)


def _flags(asked: socket.socket, name: str, call: FlagCall) -> Flags | None:
    """What SIOCGIFFLAGS says of `name`; None when there is no such interface any more."""
    import fcntl  # not on Windows, which has no such call

    request = os.fsencode(name)[: ifreq.NAME_SIZE - 1].ljust(ifreq.LARGEST, b"\0")
    try:
        answer = fcntl.ioctl(asked, call.request, request)
    except OSError as error:
        if error.errno in VANISHED:
            return None
        raise
    (bits,) = ifreq.FLAGS.unpack_from(answer)
    return Flags(
        is_up=bool(bits & ifreq.IFF_UP),
        is_multicast=bool(bits & call.multicast),
        is_loopback=bool(bits & ifreq.IFF_LOOPBACK),
        has_carrier=bool(bits & ifreq.IFF_RUNNING),
    )


def _guessed_flags(addresses: Sequence[str], index: int) -> Flags:
    """Flags for an OS that has no SIOCGIFFLAGS: up is what lets a socket be bound to one of its addresses.

    Windows keeps 169.254.x addresses on interfaces that are down (tsduck#1722) and refuses to bind them (10049).
    """
    is_up = any(_can_bind(address, index) for address in addresses)
    is_loopback = any(ipaddress.ip_address(address).is_loopback for address in addresses)
    return Flags(is_up=is_up, is_multicast=True, is_loopback=is_loopback, has_carrier=is_up)


def _can_bind(address: str, index: int) -> bool:
    is_ipv6 = ":" in address
    zone = index if is_ipv6 and ipaddress.ip_address(address).is_link_local else 0
    try:
        with socket.socket(socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0, 0, zone) if is_ipv6 else (address, 0))
    except OSError:
        return False
    return True


# Finding -------------------------------------------------------------------------------------------------------------

SHOWN = 20  # a container host has hundreds of interfaces, and an error is one line


def find_interface(wanted: str | int, known: Sequence[Interface] | None = None) -> Interface:
    """The interface that `wanted` names: a name, an index (also as text), or one of its addresses.

    A name wins over an index of the same digits. IPv6 addresses may carry a zone (`fe80::1%eth0`), and must where
    several interfaces have the same one. Without `known` the system is queried, and then also an alias label, an
    alternative name (ip-link(8)) and Windows' own names (`Ethernet 2`) will do.
    Raises `InterfaceError` when none or several are meant, with what there is.
    """
    listed = interfaces() if known is None else known
    text = str(wanted)
    found = (
        [interface for interface in listed if interface.name == wanted]
        or [interface for interface in listed if str(interface.index) == text]
        or _with_address(text, listed)
    )
    if not found and known is None and (index := addresses.index_of_other_name(text)):
        found = [interface for interface in listed if interface.index == index]
    if not found:
        raise InterfaceError(_missing(wanted, listed))
    if len(found) > 1:
        names = [interface.name for interface in found]
        zone = f", or add the zone as in {text}%{names[0]}" if ":" in text else ""
        raise InterfaceError(f"interface {wanted!r} is ambiguous: {_enumerate(names)} have it; name one{zone}")
    return found[0]


def multicast_interfaces(
    known: Sequence[Interface] | None = None,
) -> tuple[list[Interface], list[tuple[Interface, str]]]:
    """What `all` means: every interface that is up and multicast-capable, and those skipped, each with the reason.

    Loopback is skipped (it is there when it is named), and an interface without a carrier is not: its membership
    takes effect when the link comes.
    """
    taken: list[Interface] = []
    skipped: list[tuple[Interface, str]] = []
    for interface in interfaces() if known is None else known:
        reason = _unfit(interface)
        if reason:
            skipped.append((interface, reason))
        else:
            taken.append(interface)
    return taken, skipped


def _unfit(interface: Interface) -> str:
    """Why `interface` is not taken when none is named; empty when it is."""
    if interface.is_loopback:
        return "is loopback, used only when it is named"
    if not interface.is_up:
        return "is down"
    return "" if interface.is_multicast else "has no MULTICAST flag"


def _with_address(text: str, listed: Sequence[Interface]) -> list[Interface]:
    """The interfaces that have the address `text`; a zone narrows them to the interface it names."""
    bare, _, zone = text.partition("%")
    try:
        address = str(ipaddress.ip_address(bare))
    except ValueError:
        return []
    return [
        interface
        for interface in listed
        if address in interface.addresses and zone in ("", interface.name, str(interface.index))
    ]


def _missing(wanted: str | int, listed: Sequence[Interface]) -> str:
    """The message for an interface that is not there: what is, what was probably meant, and what could not be read."""
    refused = refusals.of_netlink()
    return _missed(wanted, listed) + (f"; more may be there, for {refused}" if refused else "")


def _missed(wanted: str | int, listed: Sequence[Interface]) -> str:
    text = str(wanted)
    if isinstance(wanted, int) or text.isdecimal():
        there = [f"{interface.index} ({interface.name})" for interface in listed]
        return f"interface index {text} does not exist; this machine has: {_shorten(there)}"
    if _is_address(text):
        there = [f"{interface.name} ({', '.join(interface.addresses)})" for interface in listed if interface.addresses]
        return f"no interface has the address {text}; this machine has: {_shorten(there)}"
    names = [interface.name for interface in listed]
    import difflib

    near = difflib.get_close_matches(text, names, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"interface {text!r} does not exist; this machine has: {_shorten(names)}{hint}"


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _shorten(texts: Sequence[str]) -> str:
    rest = len(texts) - SHOWN
    return (", ".join(texts[:SHOWN]) or "none") + (f" and {rest} more" if rest > 0 else "")


def _enumerate(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


# The interface of a group --------------------------------------------------------------------------------------------


def default_interface(group: str, known: Sequence[Interface] | None = None) -> Interface:
    """The interface for a group when none is named: the one that the routing table names for it.

    Without a route, or with nothing but IPv6's automatic ones, it is the best of the interfaces that are up,
    multicast-capable and not loopback: a carrier counts first, then an address of the group's family. Several of the
    same rank: what the kernel would take when it is one of them, else the lowest index, and a `MulticastWarning`.
    Raises `InterfaceError` when there is none, `GroupError` when `group` is no multicast address. See rtnetlink(7).
    """
    address = _group_address(group)
    listed = interfaces() if known is None else known
    if zone := getattr(address, "scope_id", None):
        return find_interface(zone, listed)
    route = find_route(address, listed)
    named = next((interface for interface in listed if interface.index == route.index), None)
    if named and not route.is_automatic:
        return named
    candidates = _best_candidates(address, listed)
    if not candidates:
        if named:
            return named
        raise InterfaceError(_no_interface(address, route, listed))
    chosen = named if named in candidates else candidates[0]
    if len(candidates) > 1:
        names = _enumerate([candidate.name for candidate in candidates])
        text = f"{address}: no route names an interface, and {names} are equally good; taking {chosen.name}; "
        text += f"choose with {address}%{chosen.name} or "
        warn(MulticastWarning(text, Argument("interface", repr(chosen.name))))
    return chosen


def routed_interface(address: GroupAddress) -> Interface | None:
    """The interface by which the routing table sends to a unicast address; None where it names none. rtnetlink(7)."""
    listed = interfaces()
    index = find_route(address, listed).index
    return next((interface for interface in listed if interface.index == index), None)


def _group_address(group: str) -> GroupAddress:
    try:
        address = ipaddress.ip_address(group)
    except ValueError:
        address = None
    if address is None or not address.is_multicast:
        raise GroupError(f"{group!r} is not an IPv4 or IPv6 multicast address")
    return address


def _best_candidates(address: GroupAddress, listed: Sequence[Interface]) -> list[Interface]:
    """The interfaces fit for the group that share the highest rank, lowest index first."""
    ranks: dict[tuple[bool, bool], list[Interface]] = {}
    for interface in sorted(listed, key=lambda interface: interface.index):
        has_address = (interface.ipv4 if address.version == 4 else interface.ipv6) is not None
        # IPv4 is joined by index and needs no address; an interface without any for IPv6 has IPv6 switched off.
        if not _unfit(interface) and (has_address or address.version == 4):
            ranks.setdefault((interface.has_carrier, has_address), []).append(interface)
    return ranks[max(ranks)] if ranks else []


def _no_interface(address: GroupAddress, route: Route, listed: Sequence[Interface]) -> str:
    """The message for a group that no interface would carry, with the OS's answer, the reasons and the remedy."""
    answer = f"the routing table answers {os_text(route.errno)}" if route.errno else "no route names one"
    reasons = [f"{interface.name} {_unfit(interface) or 'has no IPv6 address'}" for interface in listed]
    remedy = "bring one up with `ip link set … up`, or name one as in %eth0"
    loopback = next((interface.name for interface in listed if interface.is_loopback and interface.is_up), None)
    if loopback and address.version == 4:
        # Not for IPv6: sending over `lo` answers ENETUNREACH until root adds a multicast route.
        remedy += f"; for tests on this machine alone name loopback, {address}%{loopback}"
    return f"no interface for {address}: {answer}, and none is fit ({_shorten(reasons)}); {remedy}"
