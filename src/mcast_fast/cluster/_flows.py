"""Flows and gaps over many files: what the spans of all of them say together.

Rules of this module: no I/O.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from mcast_fast.cluster._runs import Clocks, FlowName, FlowRuns, Joined, Line, Run, chained, lines_of, over_lines
from mcast_fast.cluster._spans import Span, size, united, without
from mcast_fast.cluster._survey import Contents

ABSENT = 1_000_000_000  # ns between two files of a host from which on it was not there


@dataclass(frozen=True, slots=True)
class Gap:
    """Numbers of a flow that no file has.

    Attributes:
        group: Destination address of the flow.
        port: Destination port.
        source: The sender's address.
        key: The format's key, in hexadecimal.
        first: The first number.
        last: The last one.
        count: The number of numbers from first to last.
        time: When the packet behind them arrived, ns since the epoch; None: unknown.
    """

    __module__ = "mcast_fast.cluster"

    group: str
    port: int
    source: str
    key: str
    first: int
    last: int
    count: int
    time: int | None


@dataclass(frozen=True, slots=True)
class HostFlow:
    """What one host has of a flow, in numbers.

    Attributes:
        host: Its name.
        received: Numbers that it has, each once.
        lost: Numbers that it lacks from its first to its last one, while it recorded.
        covered: Of those, what another host has.
        absent: Numbers between two of its files, in a second or more in which it recorded nothing.
        spans: (first, last) of the numbers that it lost.
    """

    __module__ = "mcast_fast.cluster"

    host: str
    received: int
    lost: int = 0
    covered: int = 0
    absent: int = 0
    spans: tuple[tuple[int, int], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class Flow:
    """What all files together have of a flow; always `expected = received - duplicates + lost`.

    Attributes:
        group: Destination address.
        port: Destination port.
        source: The sender's address.
        source_port: The sender's port, where it names the flow; else None.
        key: The format's key, in hexadecimal.
        format: Where the numbers are; "": they are not followed, and the counters in numbers are None.
        packets: Packets, of all files.
        received: Numbers that came, again too.
        expected: All numbers from the first to the last, of all runs.
        lost: Numbers that no file has.
        duplicates: Numbers that came again, on this host or on another one.
        restarts: How often the sender began anew.
        ambiguous: How often the numbers do not say how much is missing.
        first: The first number of the first run.
        last: The last number of the last one.
        first_time: Of arrival of the first packet, ns since the epoch; None: unknown.
        last_time: Of the last packet.
        hosts: What each host has.
        gaps: What no host has.
    """

    __module__ = "mcast_fast.cluster"

    group: str
    port: int
    source: str
    source_port: int | None = None
    key: str = ""
    format: str = ""
    packets: int = 0
    received: int | None = None
    expected: int | None = None
    lost: int | None = None
    duplicates: int | None = None
    restarts: int | None = None
    ambiguous: int | None = None
    first: int | None = None
    last: int | None = None
    first_time: int | None = None
    last_time: int | None = None
    hosts: tuple[HostFlow, ...] = ()
    gaps: tuple[Gap, ...] = field(default=(), repr=False)


def flows_of(files: Iterable[tuple[str, Contents]]) -> tuple[list[Flow], Clocks]:
    """The flows of files, given with the hosts that recorded them, and which clocks of hosts differ by how many ns."""
    numbered: dict[tuple[str, FlowName], dict[str, list[FlowRuns]]] = defaultdict(lambda: defaultdict(list))
    counted: dict[tuple[str, int, str], list[tuple[str, Any]]] = defaultdict(list)
    for host, contents in files:
        followed = set()
        for format, flows in contents.numbers.items():
            for flow in flows:
                followed.add(flow.name[:3])
                numbered[format, flow.name][host].append(flow)
        for one in contents.flows:
            if (one.group, one.port, one.source) not in followed:
                counted[one.group, one.port, one.source].append((host, one))
    clocks: Clocks = {}
    found = [_numbered(format, name, hosts, clocks) for (format, name), hosts in numbered.items()]
    found += [_counted(name, rows) for name, rows in counted.items()]
    found.sort(key=lambda flow: (flow.group, flow.port, flow.source, flow.source_port or 0, flow.key, flow.format))
    return found, clocks


def _counted(name: tuple[str, int, str], rows: list[tuple[str, Any]]) -> Flow:
    """A flow whose numbers are not followed."""
    first = [one.first_time for _, one in rows if one.first_time is not None]
    last = [one.last_time for _, one in rows if one.last_time is not None]
    by_host: dict[str, int] = defaultdict(int)
    for host, one in rows:
        by_host[host] += one.packets
    return Flow(
        *name,
        packets=sum(one.packets for _, one in rows),
        first_time=min(first, default=None),
        last_time=max(last, default=None),
        hosts=tuple(HostFlow(host, packets) for host, packets in sorted(by_host.items())),
    )


def _numbered(format: str, name: FlowName, hosts: dict[str, list[FlowRuns]], clocks: Clocks) -> Flow:
    """A flow whose numbers are followed."""
    files = [file for several in hosts.values() for file in several]
    packets, received = sum(file.packets for file in files), sum(file.received for file in files)
    bits, count = files[0].bits, max(1, -(-received // max(1, packets)))
    ambiguous, chains = sum(file.ambiguous for file in files), []
    for host in sorted(hosts):
        for number, line in enumerate(lines_of(hosts[host])):
            chain, more = chained((host, number), line, bits, count)
            chains.append(chain)
            ambiguous += more
    runs, differing = over_lines(chains, bits, count)
    for pair, ahead in differing.items():
        clocks[pair] = max(clocks.get(pair, 0), ahead, key=abs)
    runs.sort(key=lambda run: run.first_time)
    covered = [run.covered() for run in runs]
    expected = sum(run.next - run.first for run in runs)
    there = sum(map(size, covered))
    mask = (1 << bits) - 1
    times = [file.first_time for file in files if file.first_time], [file.last_time for file in files if file.last_time]
    group, port, source, source_port, key = name
    return Flow(
        *(group, port, source, source_port, key, format, packets, received, expected),
        lost=expected - there,
        duplicates=received - there,
        restarts=max(0, len(runs) - 1),
        ambiguous=max(ambiguous, len(runs) - 1),  # nothing says what is missing between two runs
        first=runs[0].first & mask if runs else None,
        last=(runs[-1].next - 1) & mask if runs else None,
        first_time=min(times[0], default=None),
        last_time=max(times[1], default=None),
        hosts=tuple(_host_flow(host, runs, covered, mask) for host in sorted(hosts)),
        gaps=tuple(
            Gap(group, port, source, key, first & mask, (end - 1) & mask, end - first, time)
            for run, spans in zip(runs, covered, strict=True)
            for first, end, time in _gaps(run, spans)
        ),
    )


def _gaps(run: Joined, covered: list[Span]) -> Iterator[tuple[int, int, int | None]]:
    """What is missing of a run, and when the packet behind it came, where that is known."""
    times: dict[int, int] = {}
    for _, piece in run.pieces:
        times.update(piece.times)
        times.setdefault(piece.first, piece.first_time)
    for first, end in without([(run.first, run.next)], covered):
        yield first, end, times.get(end) or None


def _host_flow(host: str, runs: list[Joined], covered: list[list[Span]], mask: int) -> HostFlow:
    """What a host has of the runs of a flow."""
    received = lost = elsewhere = absent = 0
    spans: list[Span] = []
    for run, every in zip(runs, covered, strict=True):
        own = [(line, piece) for line, piece in run.pieces if line[0] == host]
        if not own:
            continue
        has = united(span for _, piece in own for span in piece.covered())
        missing = list(without([(has[0][0], has[-1][1])], has)) if has else []
        away = united(_away(own))
        lacks = list(without(missing, away))
        received += size(has)
        lost += size(lacks)
        absent += size(missing) - size(lacks)
        elsewhere += size(lacks) - size(without(lacks, every))
        spans += lacks
    return HostFlow(
        host, received, lost, elsewhere, absent, tuple((first & mask, (end - 1) & mask) for first, end in spans)
    )


def _away(pieces: list[tuple[Line, Run]]) -> Iterator[Span]:
    """The numbers between two files, where the host recorded nothing for a while."""
    ordered = sorted((piece for _, piece in pieces), key=lambda piece: piece.first)
    latest = ordered[0]
    for before, piece in pairwise(ordered):
        latest = max(latest, before, key=lambda one: one.next)
        if piece.first > latest.next and piece.first_time - latest.last_time >= ABSENT:
            yield latest.next, piece.first
