"""probe: two or more hosts find one another on a group, and each reports who hears whom."""

import os
import random
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from mcast_fast._sending.destinations import UnicastAddress, destination
from mcast_fast._units import (
    NANOSECONDS,
    Seconds,
    checked_number,
    checked_text,
    duration_in_ns,
    wait_in_ns,
    whole_number,
)
from mcast_fast.doctor._probe_ends import Ends, unicast_port
from mcast_fast.doctor._probe_faults import finding
from mcast_fast.doctor._probe_matrix import printable, report
from mcast_fast.doctor._probe_peer import Address
from mcast_fast.doctor._probe_report import ProbeReport
from mcast_fast.doctor._probe_state import COPIES, Phase, Settings, State
from mcast_fast.doctor._probe_wire import BURST_SIZE, BURSTS, LARGEST_HELLO, LONGEST_NAME, SIZES
from mcast_fast.errors import Argument, ArgumentError, escaped
from mcast_fast.groups import Group

LARGEST_RATE = 1_000  # hellos per second
LONGEST_TURN = 0.005  # seconds: unicast is looked for as often as this
SHORTEST = NANOSECONDS // 2  # ns to measure


def probe(
    group: str | Group,
    *,
    port: int | None = None,
    interface: str | int | None = None,
    source: str | None = None,
    peers: Iterable[str] = (),
    duration: Seconds = "10s",
    wait: Seconds | None = "60s",
    rate: float = 20,
    burst: int = 1_000,
    ttl: int = 1,
    dscp: int = 0,
    name: str | None = None,
    on_event: Callable[[str], None] | None = None,
    stop: Callable[[], bool] | None = None,
) -> ProbeReport:
    """Find the other hosts that run this on the same group, and measure who hears whom.

    Call it, or run `mcast-fast probe GROUP`, on two or more hosts within `wait` of one another. They need no server and
    no configuration: each sends hellos to the group and, by unicast, to every host that it has heard or that another
    one has; what it has heard of the others is in them, so that each host knows the whole matrix. Once per newcomer
    each sends ten sizes of datagrams, up to the largest that there is, and bursts.

    What it sends is bounded: `rate` hellos of at most 1,200 bytes to the group, as many by unicast, and a series of 20
    large datagrams and of bursts of 800 bytes, at most five times. Nothing that arrives is trusted, or makes it grow.

    Args:
        group: The group, in the grammar of `Group.parse`, with its port: one that no program uses now. Where it is a
            source-specific one (232.0.0.0/8, ff3x::/32), `peers` are the sources.
        port: The UDP port, where the group names none. Unicast uses the next one where that is free.
        interface: A name, an index or an address; by default the one that the routing table names for the group.
        source: The address to send from, one of this machine's.
        peers: Addresses of other hosts, "10.0.0.5" or "[fe80::1%eth0]:5001", to which hellos go by unicast too until
            they are heard: for networks that carry no multicast at all.
        duration: Seconds to measure after the latest host was found, 0.5 or more, or text ("10min").
        wait: Seconds to wait for the first other host, or text; None: no limit.
        rate: Hellos per second, 1 to 1,000.
        burst: The largest burst: of 10, 100, 1,000 and 5,000 those up to it are sent. 0: none.
        ttl: TTL or hop limit of datagrams to the group, 0 to 255: 1 keeps them on the local network.
        dscp: The DSCP of all datagrams, 0 to 63.
        name: What this host calls itself, 32 bytes at most; left out: its host name.
        on_event: Called with a line of text for what happens: what will be sent, and each host that is heard.
        stop: Called between two steps; once it returns True the probe says that it leaves, and ends.

    Returns:
        A ProbeReport. Its `ok` is whether all hosts hear all others.

    Raises:
        GroupError: It is no multicast group, or lacks its port; or a peer is no address of a host.
        InterfaceError: The interface does not exist, or cannot carry multicast.
        ArgumentError: An argument is out of range.
        FeatureError: This system lacks a feature that an argument needs, such as `dscp`.
        SocketError: The system refuses a socket or the join.
    """
    target = _single(group, port)
    hosts = _addresses(peers, target)
    sources = _sources(target, hosts)
    addresses = tuple(address for _, address in hosts)
    settings = _settings(target.version, addresses, duration, wait, rate, burst, ttl, dscp, name)
    with Ends(target, sources, interface, source, ttl, dscp) as ends:
        return _probed(settings, target, ends, on_event or (lambda _: None), stop or (lambda: False))


probe.__module__ = "mcast_fast.doctor"


# Arguments -----------------------------------------------------------------------------------------------------------


def _settings(
    version: int,
    hosts: tuple[Address, ...],
    duration: Seconds,
    wait: Seconds | None,
    rate: float,
    burst: int,
    ttl: int,
    dscp: int,
    name: str | None,
) -> Settings:
    """The arguments, checked, and what is chosen at random."""
    return Settings(
        version=version,
        identity=os.urandom(8),
        name=_name(name),
        ttl=whole_number(ttl, "ttl", 0, 255),
        dscp=whole_number(dscp, "dscp", 0, 63),
        interval=int(NANOSECONDS / checked_number(rate, "rate", 1, LARGEST_RATE)),
        duration=_duration(duration),
        wait=wait_in_ns(wait, "wait"),
        bursts=sum(one <= whole_number(burst, "burst", 0, BURSTS[-1]) for one in BURSTS),
        phase=random.random(),  # hosts that found one another at once do not burst at once
        hosts=hosts,
        secret=os.urandom(16),
    )


def _single(group: str | Group, port: int | None) -> Group:
    """One group on one interface, of any source."""
    one = Group.coerce(group)
    if one.source is not None or one.count != 1 or one.interface == "all":
        raise ArgumentError(f"group {one}: a probe takes one group on one interface, and no source; leave the rest out")
    if one.port is None and port is None:
        example = replace(one, port=5000)
        raise ArgumentError(f"group {one} names no port; write {example}, or pass ", Argument("port", "5000"))
    return one if one.port is not None else Group(one.address, port, one.interface)


def _addresses(peers: Iterable[str], group: Group) -> list[tuple[str, Address]]:
    """The text and the address of each host; where it names no port, that of a probe of this group."""
    if isinstance(peers, str):
        raise ArgumentError(f"peers {peers!r} is one text; give a sequence of addresses")
    assert group.port is not None
    found = []
    for text in peers:
        one = destination(text)
        if not isinstance(one, UnicastAddress) or one.version != group.version:
            raise ArgumentError(f"peer {text!r} is no IPv{group.version} address of a host")
        found.append((one.address, (one.packed, one.port or unicast_port(group.port))))
    return found


def _sources(group: Group, hosts: list[tuple[str, Address]]) -> tuple[str, ...]:
    """Whom a source-specific group is received from; none for others."""
    if group.is_ssm and not hosts:
        missing = f"{group.address} is source-specific; name the hosts that send to it with "
        raise ArgumentError(missing, Argument("peers"))
    return tuple(text for text, _ in hosts) if group.is_ssm else ()


def _name(name: str | None) -> bytes:
    text = socket.gethostname() if name is None else checked_text(name, "name")
    return text.encode("utf-8", "replace")[:LONGEST_NAME].decode("utf-8", "ignore").encode()


def _duration(duration: Seconds) -> int:
    nanoseconds = duration_in_ns(duration, "duration")
    if nanoseconds < SHORTEST:
        raise ArgumentError(f"duration {duration!r} is too short; measure for 0.5 s or more")
    return nanoseconds


def _plan(settings: Settings, group: Group, ends: Ends) -> str:
    """What will be sent, before anything is."""
    reach = {0: "stays on this machine", 1: "stays on the local network"}
    how_far = reach.get(settings.ttl, f"passes up to {settings.ttl - 1} routers")
    bursts = BURSTS[: settings.bursts]
    sizes = SIZES[settings.version]
    series = COPIES * sum(sizes) + BURST_SIZE * sum(bursts)
    burst = f" and bursts of up to {bursts[-1]:,}" if bursts else ""
    return (
        f"{printable(settings.name)} probes {group.address} port {group.port} on {escaped(ends.interface)}, unicast "
        f"on port {ends.port}, TTL {settings.ttl} ({how_far}): "
        f"{NANOSECONDS / settings.interval:g} hellos per second of at most {LARGEST_HELLO:,} bytes to the group, as "
        f"many by unicast; for newcomers sizes up to {max(sizes):,} bytes{burst}, {series / 1e6:.1f} MB together"
    )


# The loop ------------------------------------------------------------------------------------------------------------


def _probed(
    settings: Settings, group: Group, ends: Ends, say: Callable[[str], None], stop: Callable[[], bool]
) -> ProbeReport:
    """Say what will be sent, probe, and report."""
    assert group.port is not None
    say(_plan(settings, group, ends))
    state = State(settings, time.monotonic_ns())
    _run(state, ends, say, stop)
    refusals = tuple(finding("send-refused", {"answer": text}) for text in ends.refusals)
    now, clock = time.monotonic_ns(), time.time_ns()
    return report(state, group.address, group.port, ends.interface, now, clock, refusals)


def _run(state: State, ends: Ends, say: Callable[[str], None], stop: Callable[[], bool]) -> None:
    """Send what is due and take in what arrives, until it is over."""
    while state.phase is not Phase.OVER:
        if stop():
            state.stop(time.monotonic_ns())
        for sending in state.due(time.monotonic_ns(), time.time_ns()):
            sent, is_whole = ends.send(sending)
            state.datagrams += sent
            if not is_whole:
                state.refused(sending)
            state.dropped = ends.dropped
        left = (state.next_due() - time.monotonic_ns()) / NANOSECONDS
        for data, arrival in ends.arrivals(max(0.0, min(LONGEST_TURN, left))):
            identity = state.receive(data, arrival, time.monotonic_ns())
            if identity is not None:
                way = "unicast" if arrival.is_unicast else "multicast"
                say(f"{printable(state.peers[identity].name)} is heard, by {way}")
