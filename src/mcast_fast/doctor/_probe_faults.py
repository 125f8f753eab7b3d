"""The faults that a probe can find: what is said of each, what it usually is, and what to do.

Rules of this module: data only. `{to}` and `{by}` are the names of the hosts that receive and send; `{group}` has the
port too. docs/probe.md has a section for each fault.
"""

from collections.abc import Mapping
from shlex import quote
from typing import NamedTuple

from mcast_fast.doctor._finding import Verdict
from mcast_fast.doctor._probe_report import ProbeFinding


class Fault(NamedTuple):
    """Texts with the names of values in braces. The likeliest cause comes first."""

    verdict: Verdict
    text: str
    causes: tuple[str, ...] = ()
    remedy: str = ""


SNOOPING = (
    "a switch with IGMP or MLD snooping and no querier: `ip link set dev BRIDGE type bridge mcast_querier 1`, or the "
    "same setting of the switch"
)
COUNTERS = "compare `ip -s link` and `ethtool -S` on both hosts; mcast-fast doctor {group} on {to}"
ALLOW = "on {to}: `mcast-fast doctor {group}` names the rule; `nft insert rule inet filter input {rule}` lets it pass"
BOTH_FIREWALLS = "firewalls on both hosts that drop the group"

FAULTS = {
    "nobody-heard": Fault(
        "problem",
        "no other host was heard on {group} within {seconds:.1f} s",
        (
            "no other host runs `mcast-fast probe` on this group now",
            "multicast passes in neither direction: name the other hosts with --peer, for unicast shows the difference",
            "another interface: compare `mcast-fast interfaces` on both hosts, and name it with --interface",
        ),
        "mcast-fast probe GROUP --peer HOST",
    ),
    "send-refused": Fault("problem", "{answer}", ("this host's own firewall or routes",)),
    "no-report": Fault(
        "unknown",
        "{to} has not reported to this host what it hears of {by}",
        ("its datagrams do not arrive here",),
        "run it longer: --for",
    ),
    "old-report": Fault(
        "unknown",
        "{to} has said nothing for {seconds:.0f} s: this is what it had reported before",
        ("as for probe.host-silent",),
    ),
    "too-short": Fault(
        "unknown",
        "too little was sent to judge what {to} hears of {by}: {expected} datagrams to the group",
        (),
        "run it longer: --for",
    ),
    "nothing-heard": Fault(
        "problem",
        "{to} hears nothing of {by}: 0 of {expected} datagrams to the group, 0 of {unicast} by unicast",
        (
            "a firewall on {to} or between them that drops all UDP from {by}",
            "{by} sends by another interface or network: name it with --interface, or --source",
            "no route from {by} to {to}",
        ),
        ALLOW,
    ),
    "multicast-blocked": Fault(
        "problem",
        "{to} hears {by}'s unicast but not its multicast: 0 of {expected} datagrams to the group, {unicast} by unicast",
        (
            SNOOPING,
            BOTH_FIREWALLS,
            "a network that carries no multicast (clouds, most VPNs, WLANs that filter it)",
        ),
        ALLOW,
    ),
    "one-way": Fault(
        "problem",
        "{to} hears {by}'s unicast but not its multicast, and {by} hears {to}'s: 0 of {expected} datagrams to the "
        "group, {unicast} by unicast",
        (
            "a firewall on {to} or between them that drops the group, for the other direction passes",
            "a switch that does not forward the group to the port of {to}: no router port, or no report of {to} seen",
            "strict rp_filter on {to}, which has no route to {by} by this interface (net.ipv4.conf.all.rp_filter)",
        ),
        ALLOW,
    ),
    "ttl-too-small": Fault(
        "problem",
        "{to} hears {by}'s unicast but not its multicast: 0 of {expected} datagrams to the group, {unicast} by unicast",
        ("{by} sends with a TTL of {ttl}, and there are {hops} routers between them",),
        "on {by}: --ttl {needed}, and ttl={needed} in the programs that send",
    ),
    "host-silent": Fault(
        "problem",
        "{to} heard {by} for {lasted:.0f} s, and for {silent:.0f} s nothing at all",
        ("the probe on {by} was killed, or {by} is down", "an interface or link that went down", SNOOPING),
        COUNTERS,
    ),
    "multicast-stopped": Fault(
        "problem",
        "{to} heard {by}'s multicast for {lasted:.0f} s, and for {silent:.0f} s no more, while unicast passes",
        (SNOOPING, "a membership or route that was withdrawn"),
        "have a querier on the switch or bridge; `ip maddress` shows what {to} has joined",
    ),
    "multicast-loss": Fault(
        "problem",
        "{to} loses {lost} of {expected} of {by}'s datagrams to the group ({share:.1%})",
        ("a link or queue that is full", "a bad cable or duplex setting", "a WLAN, which repeats no multicast"),
        COUNTERS,
    ),
    "multicast-dropped": Fault(
        "problem",
        "{to} loses {lost} of {expected} of {by}'s datagrams to the group ({share:.1%}), and its own socket dropped "
        "{dropped}",
        ("{to} does not keep up: a machine that is busy, or too many hellos for it",),
        "a smaller --rate and --burst on all hosts, or on {to}: sysctl -w net.core.rmem_max=16777216",
    ),
    "unicast-loss": Fault(
        "problem",
        "{to} loses {lost} of {expected} of {by}'s datagrams by unicast ({share:.1%})",
        ("a link or queue that is full", "a bad cable or duplex setting"),
        COUNTERS,
    ),
    "unicast-blocked": Fault(
        "warning",
        "{to} hears {by}'s multicast but not its unicast: 0 of {expected}",
        ("a firewall on {to} that lets the group pass only; answers and resend requests need unicast",),
        "on {to}: let UDP to its own address pass",
    ),
    "mtu": Fault(
        "problem",
        "{by}'s datagrams of {largest:,} bytes arrive at {to}, those of {lost:,} do not",
        ("an MTU below 1,500 at {to} or on the way", "a tunnel or VLAN that leaves less space"),
        "on {to} and the switches: one MTU for all (`ip link`); or send at most {largest:,} bytes",
    ),
    "fragments": Fault(
        "warning",
        "{by}'s datagrams of {largest:,} bytes arrive at {to}, those of {lost:,} do not",
        (
            "a firewall or switch that drops fragments",
            "{by} has a larger MTU (jumbo frames) than {to} or the way between them",
        ),
        "send at most {largest:,} bytes",
    ),
    "burst": Fault(
        "warning",
        "of {by}'s burst of {sent:,} datagrams {came:,} arrive at {to}",
        (
            "buffers of a switch, a slower link, or a rate limit for multicast on the way",
            "the receive buffer of {to} (net.core.rmem_max)",
        ),
        "pace the sender: Sender(rate=…)",
    ),
    "burst-dropped": Fault(
        "warning",
        "of {by}'s burst of {sent:,} datagrams {came:,} arrive at {to}, whose own socket dropped {dropped}",
        ("the receive buffer of {to}", "a machine that is busy"),
        "on {to}: sysctl -w net.core.rmem_max=16777216",
    ),
    "multicast-duplicates": Fault(
        "warning",
        "{to} gets {count} of {by}'s datagrams to the group more than once",
        ("two paths or a loop between them", "a bond, bridge or router that forwards the group twice"),
    ),
    "unicast-duplicates": Fault(
        "warning",
        "{to} gets {count} of {by}'s datagrams by unicast more than once",
        ("two paths or a loop between them",),
    ),
    "multicast-reordered": Fault(
        "warning",
        "{to} gets {count} of {by}'s datagrams to the group behind a later one",
        ("links in parallel that are balanced by packet, not by flow",),
    ),
    "unicast-reordered": Fault(
        "warning",
        "{to} gets {count} of {by}'s datagrams by unicast behind a later one",
        ("links in parallel that are balanced by packet, not by flow",),
    ),
    "dscp-changed": Fault(
        "warning",
        "{by} sends with DSCP {sent}, and DSCP {came} arrives at {to}",
        ("a switch or router that does not trust the marking of this port",),
        "have it trust DSCP on the port of {by}",
    ),
}


def finding(
    name: str, values: Mapping[str, object], *, verdict: Verdict | None = None, more: tuple[str, ...] = ()
) -> ProbeFinding:
    """The finding of a fault; `more`: causes that are likelier than those of the table, but the first one."""
    fault = FAULTS[name]
    # A stranger chooses its name, which is not to be taken for a part of the text or of a command.
    values = {**values, **{key: quote(str(values[key])) for key in ("to", "by") if key in values}}
    causes = (*fault.causes[:1], *more, *fault.causes[1:])
    return ProbeFinding(
        f"probe.{name}",
        verdict or fault.verdict,
        fault.text.format(**values),
        tuple(one.format(**values) for one in causes),
        fault.remedy.format(**values),
    )
