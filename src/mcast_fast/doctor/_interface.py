"""The interface that a group is joined on."""

from collections.abc import Iterator
from shlex import quote

from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed, is_missing
from mcast_fast.doctor._finding import Finding, Verdict


def usable(context: Context) -> Iterator[Finding]:
    """Whether it exists, is up, has the MULTICAST flag, and a carrier."""
    for feed in context.feeds:
        if feed.fault is not None and context.interfaces:
            yield _missing(context, feed)
        one = feed.interface
        if one is None:
            continue
        if not one.is_up:
            yield _down(one.name, feed)
        elif not one.is_multicast and not one.is_loopback:
            yield _flagless(one.name, feed)
        elif not one.has_carrier and not feed.heard:
            advice = "Check the cable, the other end, and the port of the switch."
            evidence = (f"`ip link show {quote(one.name)}`: NO-CARRIER",)
            summary = f"{one.name} has no carrier"
            yield Finding("interface.no-carrier", "problem", summary, evidence, advice=advice, group=feed.text)


def _down(name: str, feed: Feed) -> Finding:
    evidence = str(feed.fault) if feed.fault else f"`ip link show {quote(name)}`: no UP flag"
    command = f"ip link set dev {quote(name)} up"
    return Finding("interface.down", "problem", f"{name} is down", (evidence,), command, group=feed.text)


def _flagless(name: str, feed: Feed) -> Finding:
    evidence = str(feed.fault) if feed.fault else f"`ip link show {quote(name)}`: no MULTICAST flag"
    verdict: Verdict = "warning" if feed.heard else "problem"
    command, summary = f"ip link set dev {quote(name)} multicast on", f"{name} has no MULTICAST flag"
    return Finding("interface.no-multicast-flag", verdict, summary, (evidence,), command, group=feed.text)


def _missing(context: Context, feed: Feed) -> Finding:
    """The interface that is named does not exist; or none is, and none fits."""
    others = [one for one in context.interfaces if not one.is_loopback]
    down = [one.name for one in others if not one.is_up]
    flagless = [one.name for one in others if one.is_up and not one.is_multicast]
    if is_missing(feed) and feed.group.interface is None and (flagless or down):
        return _flagless(flagless[0], feed) if flagless else _down(down[0], feed)
    near = feed.call(feed.at(_fit(context))) if _fit(context) else ""
    evidence = (str(feed.fault),)
    return Finding("interface.missing", "problem", "the interface does not exist", evidence, near, group=feed.text)


def _fit(context: Context) -> str:
    fit = [one.name for one in context.interfaces if one.is_up and one.is_multicast and not one.is_loopback]
    return fit[0] if len(fit) == 1 else ""


def xdp(context: Context) -> Iterator[Finding]:
    """Whether an XDP program takes the packets before the stack, and all that looks at it, can see them."""
    for feed in context.feeds:
        link = context.links.get(feed.interface.index) if feed.interface else None
        if link is None or not link.xdp or feed.heard or not context.is_opened(feed):
            continue
        name, quoted = feed.name, quote(feed.name)
        seen = context.is_on_wire(feed)
        if seen:
            continue
        received = context.grown(f"dev.{name}.packets")
        looked = "no frame of the group was seen behind it" if seen is False else "interfaces could not be looked at"
        yield Finding(
            "interface.xdp",
            "problem",
            f"an XDP program on {name} gets packets before the stack, and nothing of the group comes behind it",
            (f"`ip link show {quoted}`: prog/xdp id {link.xdp}", f"{received} packets arrived meanwhile; {looked}"),
            f"ip link set dev {quoted} xdp off; ip link set dev {quoted} xdpgeneric off",
            f"Or let the program pass the group (XDP_PASS). Find out whose it is: `bpftool prog show id {link.xdp}`.",
            group=feed.text,
        )


CHECKS = (usable, xdp)
