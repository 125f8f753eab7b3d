"""mcast-fast probe: two or more hosts, and who hears whom."""

import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import click

from mcast_fast._units import plural
from mcast_fast.cli.codes import ERROR, NOTHING_CAME
from mcast_fast.cli.options import GROUP, LONGER, TIME, shared
from mcast_fast.cli.output import brief_time, own_line, summarise
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.doctor._probe import probe
from mcast_fast.doctor._probe_counts import ProbeCount, ProbeTimes
from mcast_fast.doctor._probe_report import VERDICTS, ProbeFinding, ProbeHost, ProbeLink, ProbeReport
from mcast_fast.doctor._probe_wire import BURSTS

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

OTHERS = {  # of the report: what else came
    "foreign": "of other programs came to this group and port: use one that is unused",
    "other_version": "came of another version of mcast-fast: use one version on all hosts",
    "malformed": "came malformed",
    "crowded": "came from hosts beyond the 64 that are followed",
}
WIDE = 160  # columns where there is no terminal
COLOURS = {"ok": "green", "warning": "yellow", "unknown": "yellow", "problem": "bold red"}
MOST_FINDINGS = 20  # that are printed: one host of many that hears nobody makes one with each other host
LONGEST_LIST = 12  # hosts whose matrix is a table; of more, only what is wrong is listed


@click.command("probe", short_help="Two or more hosts: who hears whom, and why not.")
@click.argument("group", metavar="GROUP", type=GROUP)
@shared("port", "sending_source", interface="Name, index or address; by default as the routing table says.")
@click.option("--peer", "peers", metavar="HOST", multiple=True, help="Address of another host, tried by unicast too.")
@click.option(
    "-d",
    "--for",
    "--duration",
    "duration",
    type=LONGER,
    default="10s",
    show_default=True,
    help="Measure this long after the latest host.",
)
@click.option("--wait", type=TIME, default="60s", show_default=True, help="Wait this long for the first other host.")
@click.option("--rate", type=click.FloatRange(1, 1_000), default=20, show_default=True, help="Hellos per second.")
@click.option(
    "--burst", type=click.IntRange(0, BURSTS[-1]), default=1_000, show_default=True, help="Largest burst, in datagrams."
)
@shared("dscp", ttl="TTL; above 1 to pass routers.")
@click.option("--name", help="What this host calls itself; by default its host name.")
@shared(json="An object instead of text.")
def command(
    group: str,
    interface: str | None,
    port: int | None,
    source: str | None,
    peers: tuple[str, ...],
    duration: float,
    wait: float,
    rate: float,
    burst: int,
    ttl: int,
    dscp: int | None,
    name: str | None,
    as_json: bool,
) -> None:
    """Run this on two or more hosts within --wait of one another: they find each other on GROUP, and each prints who
    hears whom, why not, and what to do about it. No server, no configuration; use a group and port that are unused.

    \b
    mcast-fast probe 239.9.9.9:5009                  on each host
    mcast-fast probe 239.9.9.9:5009 --peer 10.0.0.2  where no multicast passes
    mcast-fast probe 239.9.9.9:5009 --ttl 8          across routers
    mcast-fast probe 239.9.9.9:5009 --for 10min      does it stop after minutes?
    mcast-fast probe '[ff15::99%eth0]:5009'          IPv6
    mcast-fast probe 239.9.9.9:5009 --dscp EF        is the marking kept?

    What it sends is bounded, and printed before it is sent. Ctrl-C ends it with the report so far. Exits 0 when all
    hear all; 1 on a problem, or what is unknown; 2 on a usage error; 4 when no other host was heard.
    """
    stopped: list[bool] = []
    with stop_signals_call(lambda: stopped.append(True)):
        report = probe(
            group,
            port=port,
            interface=interface,
            source=source,
            peers=peers,
            duration=duration,
            wait=wait,
            rate=rate,
            burst=burst,
            ttl=ttl,
            dscp=dscp or 0,
            name=name,
            on_event=summarise,
            stop=lambda: bool(stopped),
        )
    own_line()
    if as_json:
        click.echo(json.dumps(report.as_dict(), indent=2))
    else:
        _print(report)
    if len(report.hosts) == 1:
        raise click.exceptions.Exit(NOTHING_CAME)
    if not report.ok:
        raise click.exceptions.Exit(ERROR)


# Text ----------------------------------------------------------------------------------------------------------------


def _print(report: ProbeReport) -> None:
    from rich.console import Console

    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    names = Names(report.hosts)
    if len(report.hosts) > 1:
        console.print(_hosts(report, names))
        console.print()
        if len(report.hosts) <= LONGEST_LIST:
            console.print(_matrix(report, names))
            console.print()
            for table in _details(report, names):
                console.print(table)
                console.print()
    _print_findings(console, report)
    for line in _ends(report):
        console.print(line, style="bold")


class Names:
    """Short names of the hosts for tables: without the domain, and with their identity where several have the same."""

    def __init__(self, hosts: Iterable[ProbeHost]) -> None:
        hosts = tuple(hosts)
        self._names: dict[str, str] = {}
        for length in (1, None):  # of the labels of a name
            names = {one.identity: ".".join(one.name.split(".")[:length]) for one in hosts}
            for identity, name in names.items():
                if list(names.values()).count(name) == 1:
                    self._names.setdefault(identity, name)
        for one in hosts:
            self._names.setdefault(one.identity, f"{one.name}#{one.identity[:4]}")

    def __getitem__(self, identity: str) -> str:
        return self._names[identity]


def _table(headings: Iterable[str], names: int = 1) -> "Table":
    """A table whose first columns are names; the others are numbers, on the right."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for at, heading in enumerate(headings):
        table.add_column(heading, overflow="fold", justify="left" if at < names else "right")
    return table


def _hosts(report: ProbeReport, names: Names) -> "Table":
    table = _table(("host", "address", "TTL", "DSCP", "dropped"), 2)
    for one in report.hosts:
        address = "this host" if one.is_self else f"{one.address or '?'} port {one.port or '?'}"
        heard = "" if one.was_heard else " (not heard here)"
        table.add_row(names[one.identity], address + heard, _text(one.ttl), _text(one.dscp), _text(one.dropped))
    return table


def _text(value: object) -> str:
    return "?" if value is None else f"{value:,}" if isinstance(value, int) else str(value)


def _matrix(report: ProbeReport, names: Names) -> "Table":
    """Rows send, columns receive."""
    from rich.text import Text

    table = _table(("hears multicast of", *(names[one.identity] for one in report.hosts)), 1 + len(report.hosts))
    cells = {(one.sender, one.receiver): one for one in report.links}
    for sender in report.hosts:
        row: list[Text] = [Text(names[sender.identity], style="bold")]
        for receiver in report.hosts:
            link = cells.get((sender.identity, receiver.identity))
            row.append(Text("-") if link is None else Text(_cell(link), style=COLOURS[link.verdict]))
        table.add_row(*row)
    return table


def _cell(link: ProbeLink) -> str:
    """What of a sender's multicast arrives, in a word."""
    multicast, unicast = link.multicast, link.unicast
    if multicast is None or unicast is None:
        return "unknown"
    if not multicast.received:
        return "unicast only" if unicast.received else "nothing"
    if multicast.lost:
        return f"{(multicast.received + multicast.startup) / multicast.expected:.1%}"
    return f"yes, {link.findings[0].id.removeprefix('probe.')}" if link.findings else "yes"


ARRIVALS = ("from > to", "multicast", "unicast", "startup", "dup", "reord", "hops")
QUALITY = ("from > to", "largest", "burst", "delay", "spread", "round trip")


def _details(report: ProbeReport, names: Names) -> tuple["Table", "Table"]:
    """What arrived, and what else is known: each is 80 columns wide with names of usual lengths."""
    arrivals, quality = _table(ARRIVALS), _table(QUALITY)
    for link in report.links:
        title = f"{names[link.sender]} > {names[link.receiver]}"
        if link.multicast is not None and link.unicast is not None:
            arrivals.add_row(title, *_arrivals(link, link.multicast, link.unicast))
            quality.add_row(title, *_quality(link))
    return arrivals, quality


def _arrivals(link: ProbeLink, multicast: ProbeCount, unicast: ProbeCount) -> tuple[str, ...]:
    counted = (multicast.startup, multicast.duplicates, multicast.reordered)
    return _share(multicast), _share(unicast), *map(_text, counted), _text(link.hops)


def _quality(link: ProbeLink) -> tuple[str, ...]:
    whole = max((sent for sent, came in link.bursts if came == sent), default=0)
    return (
        _text(link.largest),
        _text(whole) if link.bursts else "?",
        _time(link.delay),
        "?" if link.spread is None else brief_time(link.spread),
        _time(link.round_trip),
    )


def _share(count: ProbeCount) -> str:
    return f"{count.received}/{count.expected - count.startup}"


def _time(times: ProbeTimes | None) -> str:
    """The mean; ? where it is not known."""
    return "?" if times is None else brief_time(times.mean)


# Findings ------------------------------------------------------------------------------------------------------------


def _all_findings(report: ProbeReport) -> Iterator[ProbeFinding]:
    yield from report.findings
    for link in report.links:
        yield from link.findings


def _print_findings(console: "Console", report: ProbeReport) -> None:
    """The worst first; those that differ in the hosts alone together."""
    from rich.table import Table
    from rich.text import Text

    found = sorted(dict.fromkeys(_all_findings(report)), key=lambda one: -VERDICTS.index(one.verdict))
    alike: dict[tuple[str, tuple[str, ...], str], list[ProbeFinding]] = {}
    for finding in found[:MOST_FINDINGS]:
        alike.setdefault((finding.id, finding.causes, finding.remedy), []).append(finding)
    is_last = len(report.hosts) == 1 and not any(getattr(report, name) for name in OTHERS)
    for at, ((name, causes, remedy), findings) in enumerate(alike.items(), 1):
        grid = Table.grid(padding=(0, 2))
        for one in findings:
            style = COLOURS[one.verdict]
            text = f"{one.text}  [{name}]" if one is findings[-1] else one.text
            grid.add_row(Text(one.verdict, style=style), Text(text, style=style))
        for number, cause in enumerate(causes):
            grid.add_row("or" if number else "likely", Text(cause))
        console.print(grid)
        if remedy:
            console.print(f"try      {remedy}", soft_wrap=True)  # a command is copied whole
        if at < len(alike) or not is_last:
            console.print()
    if len(found) > MOST_FINDINGS:
        console.print(f"and {len(found) - MOST_FINDINGS} more like these: --json has all")


def _ends(report: ProbeReport) -> Iterator[str]:
    """What else came, and the verdict."""
    for name, text in OTHERS.items():
        if count := getattr(report, name):
            yield f"{plural(count, 'datagram')} {text}"
    if len(report.hosts) > 1:
        heard = sum(bool(one.multicast and one.multicast.received) for one in report.links)
        bad = sum(one.verdict not in ("ok", "warning") for one in report.links)
        counted = f"{heard} of {len(report.links)} directions are heard, {bad} with a problem or unknown"
        all_hear = "all hear all" if report.ok else counted
        yield f"{report.group}: {len(report.hosts)} hosts, {report.seconds:.0f} s: {all_hear}"
