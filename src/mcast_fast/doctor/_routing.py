"""Routes: that of a sender, and those that reverse path filtering looks for."""

import ipaddress
import socket
from collections.abc import Iterator
from dataclasses import replace
from shlex import quote

from mcast_fast._host.interfaces import interface_name
from mcast_fast._host.routes import DISCARD_PORT
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed
from mcast_fast.doctor._finding import Finding
from mcast_fast.doctor._readings import setting
from mcast_fast.errors import os_text

STRICT, LOOSE = 1, 2
HOST_SCOPES, SITE = (0, 1), 5
DROPPED = "TcpExt.IPReversePathFilter"
# Groups whose packets the kernel takes from 0.0.0.0, too (ip_mc_validate_source).
LOCAL_GROUPS = ipaddress.ip_network("224.0.0.0/24")
BROADCAST = ipaddress.IPv4Address(0xFFFFFFFF)
OWN = "an address of this host"


def rp_filter(context: Context) -> Iterator[Finding]:
    """Whether reverse path filtering drops the packets: the larger value of `all` and the interface is in force
    (ip-sysctl.rst of the kernel)."""
    for feed in context.feeds:
        if feed.group.version != 4 or not feed.interface or context.arrives(feed) or not context.is_opened(feed):
            continue
        everywhere, here = (setting(f"ipv4/conf/{name}/rp_filter") or 0 for name in ("all", feed.name))
        mode = max(everywhere, here)
        dropped = context.grown(DROPPED)
        if mode not in (STRICT, LOOSE) or not dropped or context.is_on_wire(feed) is False:
            continue
        sources = [frame.source for frame, _ in feed.arrived()] or [feed.group.source or ""]
        evidence = (
            f"net.ipv4.conf.all.rp_filter = {everywhere}, net.ipv4.conf.{feed.name}.rp_filter = {here}: "
            f"{'strict' if mode == STRICT else 'loose'}",
            f"IPReversePathFilter grew by {dropped} (/proc/net/netstat)",
        )
        yield _dropped(context, feed, mode, sources[0], evidence)


def _dropped(context: Context, feed: Feed, mode: int, source: str, evidence: tuple[str, ...]) -> Finding:
    route = context.route(source) if source else None
    # sysctl(8): a dot in an interface's name is written as a slash
    value = f"net.ipv4.conf.{feed.name.replace('.', '/')}.rp_filter={LOOSE}"
    loosened = f"sysctl -w {quote(value)}"
    remedy = loosened
    if route is not None and route.index:
        evidence += (f"the route to {source} is by {interface_name(route.index)}, the packets come by {feed.name}",)
    elif route is not None:
        evidence += (f"there is no route to {source}: {os_text(route.errno) if route.errno else 'none is named'}",)
        remedy = f"ip route add {source}/32 dev {quote(feed.name)}"
    return Finding(
        "routing.rp-filter",
        "problem",
        f"reverse path filtering on {feed.name} drops the packets: the route back to their source is another one",
        evidence,
        remedy,
        f"Or give {source or 'the source'} a route by {feed.name}: that keeps the filter strict."
        if remedy == loosened and mode == STRICT
        else "",
        group=feed.text,
    )


def martian_source(context: Context) -> Iterator[Finding]:
    """Whether the kernel drops the packets because their source address cannot be right (`fib_validate_source`); no
    counter shows it."""
    for feed in context.feeds:
        one = feed.interface
        if feed.group.version != 4 or one is None or one.is_loopback:
            continue
        if context.arrives(feed) or not context.is_opened(feed):
            continue
        sources = {frame.source for frame, _ in feed.arrived()}
        reasons = {source: _why_martian(context, feed, source) for source in sources}
        if not reasons or not all(reasons.values()):
            continue
        source, reason = min(reasons.items())
        settings = {name: setting(f"ipv4/conf/{name}/accept_local") or 0 for name in ("all", feed.name)}
        is_own = reason == OWN
        value = f"net.ipv4.conf.{feed.name.replace('.', '/')}.accept_local=1"
        shown = tuple(f"net.ipv4.conf.{name}.accept_local = {number}" for name, number in settings.items())
        yield Finding(
            "routing.martian-source",
            "problem",
            f"the packets come from {source}, {reason}: the kernel drops them",
            (f"packets from {source} were seen at {feed.name}", *((", ".join(shown),) if is_own else ())),
            f"sysctl -w {quote(value)}" if is_own else "",
            "That is right where one interface of this host sends to another one, by a cable or a bridge. Where "
            "another host sends, two hosts have one address: change that of one of them instead."
            if is_own
            else "Give the sender an address of its own, or have it send from that.",
            group=feed.text,
        )


def _why_martian(context: Context, feed: Feed, source: str) -> str:
    """Why the kernel takes no packets from there; empty where it does."""
    address = ipaddress.ip_address(source)
    if address.is_loopback:
        return "a loopback address"
    if int(address) >> 24 == 0 and ipaddress.ip_address(feed.group.address) not in LOCAL_GROUPS:
        return "which is no address"
    if address.is_multicast or address == BROADCAST:
        return "which no host can have"
    if any(source in one.addresses for one in context.interfaces):
        names = ("all", feed.name)
        return "" if any(setting(f"ipv4/conf/{name}/accept_local") for name in names) else OWN
    return ""


def no_route(context: Context) -> Iterator[Finding]:
    """Whether programs that name no interface can send to the group, or join it."""
    for feed in context.feeds:
        if feed.group.version != 4 or feed.group.interface:
            continue
        route = context.route(feed.group.address)
        if route is None or route.index:
            continue
        fit = [one for one in context.interfaces if one.is_up and one.is_multicast and not one.is_loopback]
        name = feed.name or (fit[0].name if fit else "")
        yield Finding(
            "routing.no-route",
            "warning" if feed.heard else "problem",
            "no route names an interface for the group: programs that name none can neither send to it nor join it",
            (f"`ip route get {feed.group.address}`: {os_text(route.errno) if route.errno else 'no interface'}",),
            f"ip route add 224.0.0.0/4 dev {quote(name)}" if name else "",
            f"Or name the interface in the program: {feed.at(name)}." if name else "",
            group=feed.text,
        )


def no_loopback(context: Context) -> Iterator[Finding]:
    """Whether nothing can be sent to an IPv6 group over the loopback interface, which has no route for groups."""
    for feed in context.feeds:
        one = feed.interface
        if feed.group.version != 6 or one is None or not one.is_loopback or feed.heard:
            continue
        if number := _refused(feed.group.address, one.index):
            fit = [other for other in context.interfaces if other.is_up and other.is_multicast and other.ipv6]
            yield Finding(
                "routing.no-route",
                "problem",
                f"nothing can be sent to an IPv6 group over {one.name}, which has no route for groups",
                (f"connect to [{feed.group.address}%{one.name}] answers: {os_text(number)}",),
                feed.call(feed.at(fit[0].name)) if fit else "",
                "And so in the program that sends: packets are looped back to this host on any interface. A route "
                f"alone does not help on {one.name}; an IPv4 group does.",
                group=feed.text,
            )


def _refused(group: str, index: int) -> int:
    """The error of sending there; connect(2) sends nothing."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.connect((group, DISCARD_PORT, 0, index))
    except OSError as error:
        return error.errno or 0
    return 0


def scope(context: Context) -> Iterator[Finding]:
    """Whether the group's scope keeps its packets on the host that sends them (RFC 4291, section 2.7)."""
    for feed in context.feeds:
        address = ipaddress.ip_address(feed.group.address)
        if address.version == 6 and address.packed[1] & 0xF in HOST_SCOPES and not feed.heard:
            yield Finding(
                "routing.scope",
                "problem",
                "the group is of one interface: its packets never leave the host that sends them",
                (f"{feed.group.address} has scope {address.packed[1] & 0xF}",),
                feed.call(replace(feed.at(None), address=_wider(address))),
                "And so in the program that sends: ff02:: groups stay on the local network, ff05:: ones in the site.",
                group=feed.text,
            )


def _wider(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    packed = address.packed
    return str(ipaddress.IPv6Address(packed[:1] + bytes([packed[1] & 0xF0 | SITE]) + packed[2:]))


CHECKS = (rp_filter, martian_source, no_route, no_loopback, scope)
