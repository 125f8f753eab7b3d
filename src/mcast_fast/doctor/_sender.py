"""Senders: more than one of them, and how far their packets may go."""

from collections.abc import Iterator

from mcast_fast._host.stack_counters import NET, text
from mcast_fast.doctor import _readings
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed, literal
from mcast_fast.doctor._finding import Finding, Verdict

ROUTED_TTL = 16


def several(context: Context) -> Iterator[Finding]:
    """Whether more than one host sends to the group and port."""
    for feed in context.feeds:
        if feed.group.source is not None or len(feed.heard) < 2:
            continue
        (first, most), *others = feed.heard.most_common()
        shown = ", ".join(f"at least {count} packets from {source}" for source, count in others[:5])
        yield Finding(
            "sender.several",
            "warning",
            f"{len(feed.heard)} hosts send to the group: {first}, and {', '.join(source for source, _ in others[:5])}",
            (f"at least {most} packets from {first}", shown),
            feed.call(feed.at(None, source=first)),
            "Where one host alone is to send: name it, as the remedy does with the busiest one; its packets alone are "
            "received then.",
            group=feed.text,
        )


def short_ttl(context: Context) -> Iterator[Finding]:
    """Whether the packets cannot pass a router: those that leave this host, and those that it is to forward."""
    forwarded = _forwarded()
    for feed in context.feeds:
        if not feed.group.scope.forwarded:
            continue
        frames = [frame for frame in feed.frames if frame.ttl == 1 and frame.port in (0, feed.port)]
        incoming = [one.source for one in frames if not one.is_outgoing and feed.group.address in forwarded]
        outgoing = [one.source for one in frames if one.is_outgoing]
        if incoming:
            yield _finding(feed, incoming[0], "problem", "this host is to forward the group and cannot")
        elif outgoing:
            yield _finding(feed, outgoing[0], "warning", "no router forwards the packets that leave this host")


def _finding(feed: Feed, source: str, verdict: Verdict, what: str) -> Finding:
    return Finding(
        "sender.ttl-1",
        verdict,
        f"{what}: they have TTL 1",
        (f"packets from {source} at {feed.name} have TTL 1",),
        f"mcast.Sender({literal(feed.at(None))}, ttl={ROUTED_TTL})",
        f"In the program that sends, on {source}. TTL 1 is the default of every system, and right where no router is "
        "to pass the packets on.",
        group=feed.text,
    )


def _forwarded() -> set[str]:
    """The groups that the kernel has routes for, as a router of multicast does (/proc/net/ip_mr_cache)."""
    found = set()
    for line in text(NET / "ip_mr_cache").splitlines()[1:]:
        words = line.split()
        if words:
            found.add(_readings.address_in_memory(words[0]))
    return found


CHECKS = (several, short_ttl)
