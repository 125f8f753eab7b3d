"""Routes: that of a sender, and those that reverse path filtering looks for."""

from collections.abc import Iterator
from shlex import quote

from mcast_fast._host.interfaces import interface_name
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed
from mcast_fast.doctor._finding import Finding
from mcast_fast.doctor._readings import setting
from mcast_fast.errors import os_text

STRICT, LOOSE = 1, 2
DROPPED = "TcpExt.IPReversePathFilter"


def rp_filter(context: Context) -> Iterator[Finding]:
    """Whether reverse path filtering drops the packets: the larger value of `all` and the interface is in force
    (ip-sysctl.rst of the kernel)."""
    for feed in context.feeds:
        if feed.group.version != 4 or not feed.interface or feed.heard or not context.is_opened(feed):
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


CHECKS = (rp_filter, no_route)
