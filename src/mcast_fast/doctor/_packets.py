"""The packets themselves: whether they come, and what is wrong with those that no socket gets."""

import os
from collections.abc import Iterator
from shlex import quote

from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed
from mcast_fast.doctor._finding import Finding, Verdict

FEW = 100  # times as many that are right
LONGEST_NAME = 15  # bytes of an interface's name: IFNAMSIZ, netdevice(7)


def received(context: Context) -> Iterator[Finding]:
    """How far the packets came."""
    for feed in context.feeds:
        where = feed.name or "every interface"
        if feed.heard:
            shown = ", ".join(f"at least {count} from {source}" for source, count in feed.heard.most_common(5))
            yield Finding(
                "packets.received", "ok", f"the packets arrive at the program, on {where}", (shown,), group=feed.text
            )
        elif context.is_opened(feed):
            yield _silent(context, feed, where, context.is_on_wire(feed))


def _silent(context: Context, feed: Feed, where: str, is_on_wire: bool | None) -> Finding:
    listened = f"listened for {context.listening.seconds:.1f} s on {where}"
    everywhere = context.listening.has_joined_everywhere
    scope = "; joined on every interface, from any source, for half of it" if everywhere else ""
    scope += ", and it took all groups (allmulticast) for a moment" if feed.widened else ""
    if is_on_wire:
        return Finding(
            "packets.none",
            "problem",
            f"packets reach {where}, and no socket gets them; the cause is not known",
            (listened + scope,),
            advice="Send the bundle of `mcast-fast doctor --bundle` with a bug report.",
            group=feed.text,
        )
    seen = "no packet of the group was seen there" if is_on_wire is False else context.listening.wire_fault
    return Finding(
        "packets.none",
        "problem",
        f"the network delivers nothing of the group to {where}",
        (listened + scope, seen),
        advice="The sender is silent, sends by another interface or with a TTL that is too small, or a switch or "
        "router on the way does not forward: run `mcast-fast doctor` on the sender's host, and `--for 5m` here.",
        group=feed.text,
    )


def bad_checksum(context: Context) -> Iterator[Finding]:
    """Whether the kernel drops datagrams because their UDP checksum is wrong."""
    for feed in context.feeds:
        wrong = sum(count for frame, count in feed.arrived() if frame.bad_checksum)
        counter = "Udp.InCsumErrors" if feed.group.version == 4 else "Udp6InCsumErrors"
        grown = context.grown(counter)
        if not wrong and (feed.heard or not grown or context.is_on_wire(feed) is False):
            continue
        yield Finding(
            "packets.bad-checksum",
            _verdict(feed, wrong),
            "the packets have wrong UDP checksums, and the kernel drops them",
            (f"{counter} grew by {grown}", f"{wrong} such packets were seen at {feed.name}"),
            advice="The sender, or a device between, computes them wrongly. If the sender's network card does, "
            "`ethtool -K INTERFACE tx off` there has the kernel compute them.",
            group=feed.text,
        )


def fragments(context: Context) -> Iterator[Finding]:
    """Whether datagrams above the MTU arrive in parts only."""
    for feed in context.feeds:
        pieces = sum(count for frame, count in feed.arrived() if frame.is_fragment)
        ipv4 = feed.group.version == 4
        whole = context.grown("Ip.ReasmOKs" if ipv4 else "Ip6ReasmOKs")
        failed = context.grown("Ip.ReasmFails" if ipv4 else "Ip6ReasmFails")
        if pieces and not whole and not context.grown("TcpExt.IPReversePathFilter"):
            yield Finding(
                "packets.fragments-lost",
                _verdict(feed, pieces),
                "datagrams above the MTU arrive in fragments, and none of them is put together",
                (f"{pieces} fragments were seen at {feed.name}; {whole} datagrams were put together, {failed} not",),
                advice="Send datagrams that fit the MTU (1,472 bytes of payload with IPv4 on Ethernet), or find where "
                "fragments are dropped; `sysctl net.ipv4.ipfrag_high_thresh` limits their memory.",
                group=feed.text,
            )


def _verdict(feed: Feed, count: int) -> Verdict:
    """Of some packets that are wrong: a stranger can send a few beside those that arrive."""
    return "warning" if feed.heard.total() > FEW * count else "problem"


def vlan(context: Context) -> Iterator[Finding]:
    """Whether the group comes with a VLAN tag, which no socket of the untagged interface gets."""
    for feed in context.feeds:
        tagged = [(frame, count) for frame, count in feed.frames.items() if frame.vlan and not frame.is_outgoing]
        here = [(frame, count) for frame, count in tagged if feed.name in ("", frame.interface)]
        if feed.heard or feed.arrived() or not here or not context.is_opened(feed):
            continue
        frame = here[0][0]
        name = f"{frame.interface}.{frame.vlan}"
        if len(os.fsencode(name)) > LONGEST_NAME:
            name = f"vlan{frame.vlan}"
        lower, upper = quote(frame.interface), quote(name)
        yield Finding(
            "packets.vlan-tagged",
            "problem",
            f"the packets come with the tag of VLAN {frame.vlan}, and {frame.interface} takes untagged ones",
            (f"{sum(count for _, count in here)} tagged packets of the group were seen at {frame.interface}",),
            f"ip link add link {lower} name {upper} type vlan id {frame.vlan} && ip link set dev {upper} up",
            f"Then join on {name}; or receive with ring=True, vlan=True; or have the port untagged.",
            group=feed.text,
        )


CHECKS = (received, bad_checksum, fragments, vlan)
