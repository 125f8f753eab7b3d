"""The interface that a group is joined on, or that is examined by itself."""

from collections import Counter
from collections.abc import Iterator
from shlex import quote

from mcast_fast._host import igmp_version
from mcast_fast._host.interfaces import Interface
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed, is_missing
from mcast_fast.doctor._finding import Finding, Verdict
from mcast_fast.doctor._listening import AFTER
from mcast_fast.doctor._readings import setting

SHOWN = 20  # groups in a finding
SETTLED = 5  # times the usual gap without a packet
EVERYBODY = frozenset({"224.0.0.1", "ff01::1", "ff02::1"})  # joined by the kernel
NEIGHBOURS = "ff02::1:ff"  # and those of neighbour discovery, RFC 4291, section 2.7.1


def usable(context: Context) -> Iterator[Finding]:
    """Whether it exists, is up, has the MULTICAST flag, and a carrier."""
    for feed in context.feeds:
        if feed.fault is not None and context.interfaces:
            yield _missing(context, feed)
        if feed.is_gone:
            yield _removed(feed)
        elif feed.interface is not None:
            yield from _states(feed.interface, feed.text, str(feed.fault or ""), is_heard=context.arrives(feed))
    if context.surveyed is not None:
        yield from _states(context.surveyed)


def _removed(feed: Feed) -> Finding:
    assert feed.interface is not None
    return Finding(
        "interface.missing",
        "problem",
        f"the interface {feed.name} was removed while the doctor listened, which ends memberships",
        (f"there is no interface with the index {feed.interface.index} any more",),
        feed.call(watch=True),
        "watch=True joins again when an interface of this name comes back.",
        group=feed.text,
    )


def _states(one: Interface, group: str = "", fault: str = "", *, is_heard: bool = False) -> Iterator[Finding]:
    if not one.is_up:
        yield _down(one.name, group, fault)
    elif not one.is_multicast and not one.is_loopback:
        yield _flagless(one.name, group, fault, is_heard=is_heard)
    elif not one.has_carrier and not is_heard:
        advice = "Check the cable, the other end, and the port of the switch."
        evidence = (f"`ip link show {quote(one.name)}`: NO-CARRIER",)
        yield Finding(
            "interface.no-carrier",
            "problem",
            f"the interface {one.name} has no carrier",
            evidence,
            advice=advice,
            group=group,
        )


def _down(name: str, group: str, fault: str) -> Finding:
    evidence = fault or f"`ip link show {quote(name)}`: no UP flag"
    command = f"ip link set dev {quote(name)} up"
    return Finding("interface.down", "problem", f"the interface {name} is down", (evidence,), command, group=group)


def _flagless(name: str, group: str, fault: str, *, is_heard: bool = False) -> Finding:
    evidence = fault or f"`ip link show {quote(name)}`: no MULTICAST flag"
    verdict: Verdict = "warning" if is_heard else "problem"
    command, summary = f"ip link set dev {quote(name)} multicast on", f"the interface {name} has no MULTICAST flag"
    return Finding("interface.no-multicast-flag", verdict, summary, (evidence,), command, group=group)


def _missing(context: Context, feed: Feed) -> Finding:
    """The interface that is named does not exist; or none is, and none fits."""
    others = [one for one in context.interfaces if not one.is_loopback]
    down = [one.name for one in others if not one.is_up]
    flagless = [one.name for one in others if one.is_up and not one.is_multicast]
    if is_missing(feed) and feed.group.interface is None and (flagless or down):
        found = _flagless if flagless else _down
        return found((flagless or down)[0], feed.text, str(feed.fault))
    near = feed.call(feed.at(_fit(context))) if _fit(context) else ""
    evidence = (str(feed.fault),)
    return Finding("interface.missing", "problem", "the interface does not exist", evidence, near, group=feed.text)


def _fit(context: Context) -> str:
    fit = [one.name for one in context.interfaces if one.is_up and one.is_multicast and not one.is_loopback]
    return fit[0] if len(fit) == 1 else ""


def no_ipv6(context: Context) -> Iterator[Finding]:
    """Whether IPv6 is switched off on the interface of an IPv6 group."""
    for feed in context.feeds:
        if feed.group.version == 6 and feed.name and not feed.heard and setting(f"ipv6/conf/{feed.name}/disable_ipv6"):
            name = quote(f"net.ipv6.conf.{feed.name.replace('.', '/')}.disable_ipv6=0")  # sysctl(8)
            yield Finding(
                "interface.no-ipv6",
                "problem",
                f"IPv6 is switched off on {feed.name}",
                (f"net.ipv6.conf.{feed.name}.disable_ipv6 = 1",),
                f"sysctl -w {name}",
                group=feed.text,
            )


def xdp(context: Context) -> Iterator[Finding]:
    """Whether an XDP program takes the packets before the stack, and all that looks at it, can see them."""
    for feed in context.feeds:
        if feed.interface and not context.arrives(feed) and context.is_opened(feed) and not context.is_on_wire(feed):
            looked = "no frame of the group was seen behind it" if context.has_wire else "nothing could be looked at"
            yield from _xdp(context, feed.interface, "problem", looked, feed.text)
    if context.surveyed is not None:
        yield from _xdp(context, context.surveyed, "warning", "what it takes is not seen behind it")


def _xdp(context: Context, one: Interface, verdict: Verdict, looked: str, group: str = "") -> Iterator[Finding]:
    link = context.links.get(one.index)
    if link is None or not link.xdp:
        return
    name, quoted = one.name, quote(one.name)
    received = context.grown(f"dev.{name}.packets")
    programs = ", ".join(f"{way} id {number}" for way, number in link.xdp)
    shown = ", ".join(f"`bpftool prog show id {number}`" for _, number in link.xdp)
    nothing = ", and nothing of the group comes behind it" if group else ""
    yield Finding(
        "interface.xdp",
        verdict,
        f"an XDP program on {name} gets packets before the stack{nothing}",
        (f"`ip link show {quoted}`: {programs}", f"{received} packets arrived meanwhile; {looked}"),
        " && ".join(f"ip link set dev {quoted} {way} off" for way, _ in link.xdp),
        f"Or let the program pass the group (XDP_PASS). Find out whose it is: {shown}.",
        group=group,
    )


def nic_filter(context: Context) -> Iterator[Finding]:
    """Whether packets came only while the interface took all groups."""
    for feed in context.feeds:
        after = context.listening.ended - feed.narrowed
        wide = feed.narrowed - feed.widened
        if not (feed.narrowed and feed.came_wide) or feed.came_after:
            continue
        if after < max(AFTER, SETTLED * wide / feed.came_wide):
            continue
        yield Finding(
            "interface.nic-filter",
            "problem",
            f"the filter of {feed.name} loses the group: it comes only while the interface takes all of them, as when "
            "tcpdump runs",
            (
                f"no packet in {feed.widened - context.listening.began:.1f} s, then {feed.came_wide} in "
                f"{wide:.1f} s with allmulticast, then none in {after:.1f} s without",
            ),
            f"ip link set dev {quote(feed.name)} allmulticast on",
            "It costs the processor what the filter kept away. The cause is the driver, its firmware, or a sender that "
            "uses another MAC address than the group's.",
            group=feed.text,
        )


def traffic(context: Context) -> Iterator[Finding]:
    """What arrives at the interface that is examined by itself, and what is joined there."""
    one, listening = context.surveyed, context.listening
    if one is None or not one.is_up or listening.wire_fault:
        return
    joined = {group for group, names in context.before.joined.items() if one.name in names}
    counts: Counter[tuple[str, int]] = Counter()
    sources: dict[tuple[str, int], dict[str, None]] = {}
    for (group, port, source), count in listening.traffic.items():
        counts[group, port] += count
        sources.setdefault((group, port), {})[source] = None
    rows = [
        f"{group} port {port}: at least {count} packets from {', '.join(list(sources[group, port])[:3])}; "
        f"{'joined' if group in joined else 'not joined'} here"
        for (group, port), count in counts.most_common(SHOWN)
    ]
    rows += [f"and {len(counts) - SHOWN} more"] * (len(counts) > SHOWN)
    silent = sorted(joined - {group for group, _ in counts} - EVERYBODY)
    silent = [group for group in silent if not group.startswith(NEIGHBOURS)]
    rows += [f"joined here, and silent: {', '.join(silent[:SHOWN])}"] * bool(silent)
    yield Finding(
        "interface.groups",
        "ok" if counts else "warning",
        f"groups arrive at {one.name}: {len({group for group, _ in counts})}"
        if counts
        else f"no packet of any group arrived at {one.name}",
        (*rows, _queries(context, one)),
        advice="" if counts else "A switch that snoops sends only what a host joined: name the group.",
    )


def _queries(context: Context, one: Interface) -> str:
    heard = {
        f"{seen.protocol}v{seen.version} from {seen.source}": None
        for seen in context.listening.controls
        if seen.is_query and seen.interface == one.name and not seen.is_outgoing
    }
    if heard:
        return f"queries came: {', '.join(list(heard)[:5])}"
    return f"no query of IGMP or MLD came in {context.listening.seconds:.1f} s; they come every 125 s"


def old_version(context: Context) -> Iterator[Finding]:
    """Whether source filters would reach the network from the interface that is examined by itself."""
    for version in (4, 6) if context.surveyed is not None else ():
        assert context.surveyed is not None
        if reason := igmp_version.obstacle(version, context.surveyed.name):
            yield Finding(
                "membership.old-version",
                "warning",
                "source-specific groups (SSM) are joined here for any source: IGMP or MLD is too old",
                (reason,),
                igmp_version.lift(reason),
            )


CHECKS = (usable, no_ipv6, xdp, nic_filter, traffic, old_version)
