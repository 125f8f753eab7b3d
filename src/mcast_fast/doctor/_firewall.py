"""Rules of nftables that drop the group, its fragments, or the reports of its membership."""

import json
import re
import shlex
from collections.abc import Iterator

from mcast_fast.doctor._context import Context
from mcast_fast.doctor._feeds import Feed
from mcast_fast.doctor._finding import Finding
from mcast_fast.doctor._readings import rule_text
from mcast_fast.doctor._rules import INPUT, OUTPUT, Rule

MLD_TYPES = ("mld-listener-query", "mld-listener-report", "mld-listener-done", "mld2-listener-report")
PLAIN_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_./-]*", re.ASCII)  # what nft(8) reads as a name, wherever it stands
Match = tuple[str, str, str | int | tuple[str, ...]]  # protocol, field, value or values


def drops_udp(context: Context) -> Iterator[Finding]:
    """Whether a rule stops the group's datagrams on their way in."""
    rules = context.after.rules
    for feed in context.feeds:
        if rules is None or context.arrives(feed) or not context.is_opened(feed) or _passes(feed):
            continue
        found = rules.drops(context.packet(feed), INPUT)
        certain = [rule for rule in found if rule.is_certain or (context.grown_rule(rule) or 0) > 0]
        is_seen = context.is_on_wire(feed)
        for rule in (certain or found)[:1]:
            matches = (_to(feed), ("udp", "dport", feed.port))
            arrives = {True: "packets reach the interface", False: "no packet reached the interface", None: ""}[is_seen]
            yield Finding(
                "firewall.drops-udp",
                "problem" if is_seen or (certain and is_seen is None) else "warning",
                f"a rule of the firewall {'drops' if certain else 'may drop'} the group's packets",
                (*_evidence(context, rule), *([arrives] if arrives else [])),
                _remedy(rule, *matches),
                "It lasts until the next boot, or until the rules are loaded again: add it where yours are kept.",
                group=feed.text,
            )


def _passes(feed: Feed) -> bool:
    """Whether some socket got packets of the group where it is joined."""
    return any(name == feed.name for name, _ in feed.elsewhere)


def drops_fragments(context: Context) -> Iterator[Finding]:
    """Whether a rule stops the fragments of datagrams that are larger than the MTU."""
    rules = context.after.rules
    for feed in context.feeds:
        pieces = sum(count for frame, count in feed.arrived() if frame.is_fragment)
        if not pieces or not context.is_opened(feed):
            continue
        reassembled = context.grown("Ip.ReasmOKs" if feed.group.version == 4 else "Ip6ReasmOKs")
        found = [] if rules is None else rules.drops(context.packet(feed, is_fragment=True), INPUT)
        seen = f"{pieces} fragments of the group reached {feed.name}; {reassembled} datagrams were put together"
        for rule in found[:1]:
            if not rule.is_certain and reassembled:
                continue
            yield Finding(
                "firewall.drops-fragments",
                "problem",
                "a rule of the firewall drops fragments: datagrams above the MTU never arrive",
                (*_evidence(context, rule), seen),
                _remedy(rule, _to(feed)),
                "Or send datagrams that fit the MTU (1,472 bytes of payload with IPv4 on Ethernet).",
                group=feed.text,
            )


def drops_igmp(context: Context) -> Iterator[Finding]:
    """Whether a rule stops reports on their way out, or queries on their way in."""
    rules = context.after.rules
    done: set[tuple[int, str]] = set()
    for feed in context.feeds:
        version = feed.group.version
        if rules is None or (version, feed.name) in done:
            continue
        done.add((version, feed.name))
        found = [rule for rule in rules.drops(context.report(feed), OUTPUT) if rule.is_certain]
        incoming = rules.drops(_query(context, feed), INPUT) if not found else []
        for rule in (found + [one for one in incoming if one.is_certain])[:1]:
            protocol = "IGMP" if version == 4 else "MLD"
            what = (
                f"reports of {protocol}: switches do not learn" if found else f"queries of {protocol}: switches forget"
            )
            yield Finding(
                "firewall.drops-igmp",
                "problem" if found and not feed.heard else "warning",
                f"a rule of the firewall drops {what} that this host wants the group",
                (*_evidence(context, rule), f"{context.listening.reports} reports left this host while it was joined"),
                _remedy(rule, ("ip", "protocol", "igmp") if version == 4 else ("icmpv6", "type", MLD_TYPES)),
                "Then join again, or wait for the next query.",
                group=feed.text,
            )


def _query(context: Context, feed: Feed) -> dict[str, object]:
    report = dict(context.report(feed))
    ip = "ip" if feed.group.version == 4 else "ip6"
    for name in ("meta.oifname", "meta.oif", f"{ip}.saddr"):
        report[name] = None
    return report | {
        "meta.iifname": feed.name or None,
        "meta.iif": feed.name or None,
        f"{ip}.daddr": "224.0.0.1" if ip == "ip" else "ff02::1",
        "icmpv6.type": "mld-listener-query",
    }


def unread(context: Context) -> Iterator[Finding]:
    """That the rules could not be looked at."""
    if context.feeds and (fault := context.after.rules_fault):
        yield Finding(
            "firewall.unread",
            "unknown",
            "whether a firewall drops the packets was not examined",
            (fault,),
            advice="Run the doctor as root, and outside of a sandbox.",
        )


def _evidence(context: Context, rule: Rule) -> tuple[str, ...]:
    grown = context.grown_rule(rule)
    counted = () if grown is None else (f"its counter grew by {grown}",)
    return (f"nft, {rule.place}: {rule_text(rule)}", *counted)


def _to(feed: Feed) -> Match:
    return "ip" if feed.group.version == 4 else "ip6", "daddr", feed.group.address


def _remedy(rule: Rule, *matches: Match) -> str:
    """A rule before it that accepts what is wanted; in JSON where nft(8) would take a name for part of its grammar:
    that might be another command."""
    action = "insert" if rule.handle else "add"
    if all(PLAIN_NAME.fullmatch(name) for name in (rule.table, rule.chain)):
        where = f"{action} rule {rule.place}" + (f" handle {rule.handle}" if rule.handle else "")
        return f"nft {shlex.quote(' '.join((where, *map(_text, matches), 'accept')))}"
    made: dict[str, object] = {"family": rule.family, "table": rule.table, "chain": rule.chain}
    if rule.handle:
        made["handle"] = rule.handle
    made["expr"] = [*map(_expression, matches), {"accept": None}]
    return f"nft -j {shlex.quote(json.dumps({'nftables': [{action: {'rule': made}}]}))}"


def _text(match: Match) -> str:
    protocol, field, value = match
    shown = f"{{ {', '.join(value)} }}" if isinstance(value, tuple) else value
    return f"{protocol} {field} {shown}"


def _expression(match: Match) -> dict[str, object]:
    protocol, field, value = match
    right = {"set": list(value)} if isinstance(value, tuple) else value
    return {"match": {"op": "==", "left": {"payload": {"protocol": protocol, "field": field}}, "right": right}}


CHECKS = (drops_udp, drops_fragments, drops_igmp, unread)
