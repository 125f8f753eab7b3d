"""Switches: who sends queries, and whether the group stops without them (RFC 4541, RFC 3376)."""

import time
from collections.abc import Iterator
from shlex import quote

from mcast_fast._host.interfaces import Interface
from mcast_fast._host.links import Link
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed
from mcast_fast.doctor._finding import Finding

QUERY_INTERVAL, MEMBERSHIP_INTERVAL = 125.0, 260.0  # seconds; RFC 3376, sections 8.2 and 8.4


def stopped(context: Context) -> Iterator[Finding]:
    """Whether the packets stopped while they were watched, and whether queries are missing."""
    listening = context.listening
    for feed in context.feeds:
        if not (gap := context.silence(feed)):
            continue
        ago = context.after.monotonic - feed.last_heard
        clock = time.strftime("%H:%M:%S", time.localtime(context.after.clock - ago))
        goes_on = context.is_on_wire(feed)
        evidence = (
            f"the last packet came at {clock}, {feed.last_heard - listening.began:.1f} s after the watch began; "
            f"none in the {gap:.1f} s since",
            *([f"packets still reach {feed.name}: they stop in this host"] if goes_on else []),
        )
        silence = _silence(context, feed)
        bridge = _bridge(context, feed.interface)
        is_pruned = bridge is not None and _is_without_querier(bridge[1])
        if goes_on or silence is None or not (silence >= QUERY_INTERVAL or is_pruned):
            yield Finding(
                "packets.stopped",
                "problem",
                f"the packets stopped at {clock}",
                evidence,
                advice="Run the doctor again, now that they do not come: it looks for where they stop. With --for 10m "
                "it watches across intervals of queries.",
                group=feed.text,
            )
        else:
            yield Finding(
                "switch.querier-silent",
                "problem",
                f"the packets stopped at {clock}: no querier was heard for {silence:.0f} s, so a switch that snoops "
                "forgot this host",
                (*evidence, *_bridge_evidence(bridge)),
                *_cure(bridge),
                group=feed.text,
            )


def no_querier(context: Context) -> Iterator[Finding]:
    """Whether no queries come, so that a switch that snoops will forget this host."""
    done: set[tuple[int, str]] = set()
    for feed in context.feeds:
        key = (feed.group.version, feed.name)
        silence = _silence(context, feed)
        if not feed.name or key in done or silence is None or _last_query(context, feed) is not None:
            continue
        done.add(key)
        bridge = _bridge(context, feed.interface)
        is_pruned = bridge is not None and _is_without_querier(bridge[1])
        if silence <= QUERY_INTERVAL + 10 and not is_pruned:
            continue
        yield Finding(
            "switch.no-querier",
            "warning",
            f"no querier was heard for {silence:.0f} s at {feed.name}: a switch that snoops forgets this host after "
            f"{MEMBERSHIP_INTERVAL:.0f} s",
            _bridge_evidence(bridge) or (f"no query in {silence:.0f} s",),
            *_cure(bridge),
            group=feed.text,
        )


def bridge_of_interface(context: Context) -> Iterator[Finding]:
    """Whether the bridge that is examined by itself, or that the interface is part of, snoops without a querier."""
    bridge = _bridge(context, context.surveyed)
    queried = {name for name, _ in context.listening.queries}
    if bridge is not None and _is_without_querier(bridge[1]) and not queried & {bridge[0], context.listening.surveyed}:
        yield Finding(
            "switch.no-querier",
            "warning",
            f"the bridge {bridge[0]} snoops, and no querier was heard: it forgets members after "
            f"{MEMBERSHIP_INTERVAL:.0f} s",
            _bridge_evidence(bridge),
            *_cure(bridge),
        )


def _last_query(context: Context, feed: Feed) -> float | None:
    protocol = "IGMP" if feed.group.version == 4 else "MLD"
    return context.listening.queries.get((feed.name, protocol))


def _silence(context: Context, feed: Feed) -> float | None:
    """Seconds from the last query, or from the beginning, to the end; None when interfaces could not be looked at."""
    if not context.has_wire or (feed.interface is not None and feed.interface.is_loopback):
        return None
    return context.listening.ended - (_last_query(context, feed) or context.listening.began)


def _bridge(context: Context, interface: Interface | None) -> tuple[str, Link] | None:
    """The bridge of this host that packets of an interface come through, and its settings."""
    index = interface.index if interface else 0
    link = context.links.get(index)
    if link is not None and link.master:
        index, link = link.master, context.links.get(link.master)
    if link is None or link.snooping is None:
        return None
    return next((one.name for one in context.interfaces if one.index == index), str(index)), link


def _is_without_querier(bridge: Link) -> bool:
    return bool(bridge.snooping) and not bridge.querier


def _bridge_evidence(bridge: tuple[str, Link] | None) -> tuple[str, ...]:
    if bridge is None:
        return ()
    name, link = bridge
    return (f"`ip -d link show {quote(name)}`: mcast_snooping {link.snooping:d} mcast_querier {bool(link.querier):d}",)


def _cure(bridge: tuple[str, Link] | None) -> tuple[str, str]:
    """Remedy and advice."""
    if bridge is not None and _is_without_querier(bridge[1]):
        return f"ip link set dev {quote(bridge[0])} type bridge mcast_querier 1", "Or have another querier here."
    return "", "Switch a querier on, in a switch or router of this network; or switch IGMP snooping off."


CHECKS = (stopped, no_querier, bridge_of_interface)
