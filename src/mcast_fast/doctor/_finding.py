"""What a doctor finds, as data, and the order in which it is reported. No I/O."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

Verdict = Literal["ok", "warning", "problem", "unknown"]

VERDICTS: tuple[Verdict, ...] = ("problem", "warning", "unknown", "ok")

# Every id, in the order in which faults explain each other: what comes first stops packets before what follows can, or
# is the cause of it. A socket that cannot be opened explains silence; a firewall that drops packets is looked at before
# a source that is wrong, because its drops are certain; a network that delivers nothing comes behind all that this host
# does. docs/doctor.md has an anchor for each.
RANKING: tuple[str, ...] = (
    "host.netlink-refused",
    "host.family-refused",
    "host.unsupported",
    "interface.missing",
    "interface.down",
    "interface.no-multicast-flag",
    "membership.port-taken",
    "membership.limit",
    "membership.source-limit",
    "membership.refused",
    "host.no-cap-net-raw",
    "interface.no-ipv6",
    "interface.xdp",
    "membership.bridge-port",
    "interface.nic-filter",
    "routing.martian-source",
    "routing.rp-filter",
    "firewall.drops-fragments",
    "firewall.drops-udp",
    "packets.bad-checksum",
    "packets.fragments-lost",
    "buffers.overflow",
    "sender.ttl-1",
    "packets.vlan-tagged",
    "membership.no-zone",
    "membership.wrong-interface",
    "membership.wrong-source",
    "membership.wrong-port",
    "routing.no-route",
    "routing.scope",
    "membership.old-version",
    "firewall.drops-igmp",
    "switch.querier-silent",
    "interface.no-carrier",
    "packets.stopped",
    "containers.network",
    "containers.cloud",
    "packets.none",
    "membership.joined-elsewhere",
    "membership.bound-to-host",
    "membership.filtered-elsewhere",
    "sender.several",
    "membership.not-joined",
    "buffers.backlog",
    "buffers.short",
    "buffers.interface",
    "switch.no-querier",
    "clock.stepped",
    "buffers.clipped",
    "host.pure-backend",
    "firewall.unread",
    "packets.unseen",
    "packets.received",
    "interface.groups",
    "host.ready",
)
RANKS = {name: rank for rank, name in enumerate(RANKING)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was examined, and how it is.

    Attributes:
        id: Subject and fault, such as "firewall.drops-udp"; an anchor of docs/doctor.md.
        verdict: "problem": it stops packets. "warning": it may. "unknown": it could not be examined. "ok".
        summary: One sentence that says what is the case.
        evidence: What was read or received, one line each.
        remedy: What cures it, to be used as printed: a command for a shell, a call such as `mcast.Receiver(…)`, or a
            line of a unit file; empty where this host has no cure.
        advice: Where the remedy has to be used, or what else to know; may be empty.
        group: The group that was examined, in the grammar of `Group.parse`; empty when it is about the host.
    """

    __module__ = "mcast_fast.doctor"

    id: str
    verdict: Verdict
    summary: str
    evidence: tuple[str, ...] = ()
    remedy: str = ""
    advice: str = ""
    group: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What `examine` found.

    Attributes:
        findings: Every finding: problems first, then warnings, what is unknown, and what is in order; among those of
            one verdict, what explains the others comes first.
        seconds: For how long it listened.
        readings: What was read of this machine, as text, by name: the contents of a bundle.
    """

    __module__ = "mcast_fast.doctor"

    findings: tuple[Finding, ...]
    seconds: float = 0.0
    readings: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def problems(self) -> tuple[Finding, ...]:
        """The findings whose verdict is "problem"."""
        return tuple(one for one in self.findings if one.verdict == "problem")

    def as_dict(self) -> dict[str, object]:
        """Return the report as plain data, as `mcast-fast doctor --json` prints it.

        Returns:
            A dict with `findings`, each a dict with the names of `Finding`, and `seconds`.
        """
        return {"findings": [asdict(one) for one in self.findings], "seconds": round(self.seconds, 3)}


def ranked(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The same findings, each once, by verdict and by RANKING; equal ones stay in their order."""
    return tuple(sorted(dict.fromkeys(findings), key=lambda one: (VERDICTS.index(one.verdict), RANKS[one.id])))
