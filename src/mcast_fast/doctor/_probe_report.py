"""The result of a probe, as data.

Rules of this module: no I/O.
"""

from dataclasses import asdict, dataclass
from typing import Any

from mcast_fast.doctor._finding import Verdict
from mcast_fast.doctor._probe_counts import ProbeCount, ProbeTimes

VERDICTS: tuple[Verdict, ...] = ("ok", "warning", "unknown", "problem")  # each is worse than the one before


def worst(verdicts: "list[Verdict]") -> Verdict:
    """The worst of some verdicts."""
    return max(verdicts, key=VERDICTS.index, default="ok")


@dataclass(frozen=True, slots=True)
class ProbeFinding:
    """One thing that a probe has found.

    Attributes:
        id: `probe.` and what it is, such as `probe.multicast-blocked`: docs/probe.md has a section for each.
        verdict: "ok", "warning", "problem" or "unknown".
        text: What was seen, with the names of the hosts and the counts.
        causes: What it usually is, the likeliest first.
        remedy: A command to run, or what to change; "" where nothing is to be done.
    """

    __module__ = "mcast_fast.doctor"

    id: str
    verdict: Verdict
    text: str
    causes: tuple[str, ...] = ()
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class ProbeHost:
    """A host that took part.

    Attributes:
        identity: Random for each process that probes, 16 hexadecimal digits.
        name: The name that it gives itself, at most 32 bytes; what cannot be printed is escaped. Nobody has checked it.
        address: The address that it sends from; None: unknown, as of this host.
        port: Its UDP port for unicast; None: unknown.
        ttl: The TTL or hop limit that it sends to the group with; None: unknown.
        dscp: The DSCP that it sends with; None: unknown.
        is_self: Whether it is this process.
        was_heard: Whether this process has heard it; False: another host has reported it.
        dropped: Datagrams to the group that its own socket dropped; None: unknown.
    """

    __module__ = "mcast_fast.doctor"

    identity: str
    name: str
    address: str | None = None
    port: int | None = None
    ttl: int | None = None
    dscp: int | None = None
    is_self: bool = False
    was_heard: bool = True
    dropped: int | None = None


@dataclass(frozen=True, slots=True)
class ProbeLink:
    """What one host hears of another one. What is unknown is None.

    Attributes:
        sender: The identity of the host that sends.
        receiver: The identity of the host that receives, and has reported this.
        multicast: What became of the datagrams to the group.
        unicast: What became of those to the receiver alone.
        hops: Routers on the way: the TTL that was sent less the one that arrived.
        dscp_sent: The DSCP that was sent.
        dscp_received: The DSCP that arrived.
        largest: Bytes of the largest datagram to the group that arrived whole; 0: none of those that were sent.
        smallest_lost: Bytes of the smallest one above it that did not arrive; None: all arrived.
        bursts: (sent back to back, arrived) of each burst to the group.
        delay: From departure to arrival, by multicast and in ns, where both clocks agree; it is as right as they are.
        spread: The largest delay less the smallest one, in ns; it needs no clocks that agree.
        clock_offset: The receiver's clock less the sender's, in ns, if both directions take the same time.
        round_trip: There and back, in ns; only of this process and another host.
        findings: What is wrong, the worst first.
    """

    __module__ = "mcast_fast.doctor"

    sender: str
    receiver: str
    multicast: ProbeCount | None = None
    unicast: ProbeCount | None = None
    hops: int | None = None
    dscp_sent: int | None = None
    dscp_received: int | None = None
    largest: int | None = None
    smallest_lost: int | None = None
    bursts: tuple[tuple[int, int], ...] = ()
    delay: ProbeTimes | None = None
    spread: int | None = None
    clock_offset: int | None = None
    round_trip: ProbeTimes | None = None
    findings: tuple[ProbeFinding, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """The worst of the findings; "ok" without one."""
        return worst([one.verdict for one in self.findings])


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """Who hears whom, as this process knows it.

    Attributes:
        group: The group, with its interface and port.
        seconds: How long was measured, since the first other host was found.
        hosts: This process first, the others by their names.
        links: One for each ordered pair of hosts.
        findings: What is wrong beside the links: no host was heard, or the system refuses to send.
        sent: Datagrams that this process sent.
        foreign: Datagrams to the group and port that are no probe's.
        other_version: Datagrams of probes of another version of mcast-fast.
        malformed: Datagrams that call themselves a probe's, and are not.
        crowded: Datagrams of hosts beyond the 64 that are followed.
    """

    __module__ = "mcast_fast.doctor"

    group: str
    seconds: float
    hosts: tuple[ProbeHost, ...]
    links: tuple[ProbeLink, ...]
    findings: tuple[ProbeFinding, ...] = ()
    sent: int = 0
    foreign: int = 0
    other_version: int = 0
    malformed: int = 0
    crowded: int = 0

    @property
    def verdict(self) -> Verdict:
        """The worst of all: "ok" or "warning" where all hear all."""
        return worst([*(one.verdict for one in self.findings), *(one.verdict for one in self.links)])

    @property
    def ok(self) -> bool:
        """Whether all hosts hear all others; warnings are shown, and count as good."""
        return self.verdict in ("ok", "warning")

    def link(self, sender: str, receiver: str) -> ProbeLink:
        """Return what one host hears of another.

        Args:
            sender: The identity of the host that sends, or its name where no other host has the same one.
            receiver: The identity of the host that receives, or its name.

        Returns:
            The ProbeLink.

        Raises:
            KeyError: There is no such host, or it is the same one, or several have the name.
        """
        one, other = self._identity(sender), self._identity(receiver)
        for link in self.links:
            if (link.sender, link.receiver) == (one, other):
                return link
        raise KeyError(f"{sender} to {receiver}")

    def _identity(self, text: str) -> str:
        found = [host.identity for host in self.hosts if text in (host.identity, host.name)]
        if len(found) != 1:
            raise KeyError(text)
        return found[0]

    def as_dict(self) -> dict[str, Any]:
        """Return all of it as dictionaries, lists, texts and numbers, as `mcast-fast probe --json` prints it.

        Returns:
            A dictionary; `verdict` and `ok` are among its keys, and `verdict` among those of each link.
        """
        links = [_link_as_dict(one) for one in self.links]
        return {"verdict": self.verdict, "ok": self.ok} | asdict(self) | {"links": links}


def _link_as_dict(link: ProbeLink) -> dict[str, Any]:
    named = {name: _named(getattr(link, name)) for name in ("multicast", "unicast", "delay", "round_trip")}
    for name in ("multicast", "unicast"):
        count = getattr(link, name)
        if count is not None:
            named[name]["lost"] = count.lost
    return asdict(link) | named | {"verdict": link.verdict}


def _named(value: ProbeCount | ProbeTimes | None) -> Any:
    return None if value is None else value._asdict()
