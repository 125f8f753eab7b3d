"""mcast-fast info: the contents of a capture file."""

import dataclasses
import json

import click

from mcast_fast._units import NANOSECONDS
from mcast_fast.cli.flows import flow_object, print_flows
from mcast_fast.cli.output import complain, endpoint_text, escaped, standard_input, time_text
from mcast_fast.files._reader import Reader
from mcast_fast.files._summary import Flow, Summary, summarise

HEADINGS = ("group", "source", "packets", "bytes", "first", "last", "rate /s", "largest gap s", "dropped")
WIDE = 250  # columns where there is no terminal: nothing is folded, so that grep finds whole lines


@click.command("info", short_help="The contents of a capture file.")
@click.argument("file", metavar="FILE")
@click.argument("groups", metavar="[GROUP]...", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Unicast UDP too.")
@click.option("--sequence", metavar="FORMAT", help="Follow the packets' numbers too: rtp, or u64be@10/u32be@8.")
@click.option("--json", "as_json", is_flag=True, help="An object instead of a table.")
def command(file: str, groups: tuple[str, ...], everything: bool, sequence: str | None, as_json: bool) -> None:
    """Count the packets of a capture file by group and source: pcapng or pcap, also .gz and .zst; - is standard input.

    Exits 0; 1 when the file cannot be read to its end (what could be read is shown); 2 on a usage error.
    """
    with Reader(
        standard_input(file), *groups, multicast_only=not everything, batch_size=4096, sequence=sequence
    ) as reader:
        summary = summarise(file, reader)
    if as_json:
        click.echo(json.dumps(_object(summary), indent=2))
    else:
        _print_table(summary)
    if summary.error:
        complain(summary.error)
        raise click.exceptions.Exit(1)


def _object(summary: Summary) -> dict[str, object]:
    flows = [dataclasses.asdict(flow) | {"rate": flow.rate} for flow in summary.flows]
    return {
        "file": summary.file,
        "form": summary.form,
        "interfaces": [one._asdict() for one in summary.interfaces],
        **dataclasses.asdict(summary.stats),
        "flows": flows,
        "sequences": [flow_object(flow) for flow in summary.stats.flows],
        "error": summary.error or None,
    }


def _cells(flow: Flow) -> list[str]:
    rate = "-" if flow.rate is None else f"{flow.rate:.1f}"
    gap = f"{flow.largest_gap // NANOSECONDS}.{flow.largest_gap % NANOSECONDS:09}"
    return [
        endpoint_text(flow.group, flow.port),
        flow.source,
        str(flow.packets),
        str(flow.bytes),
        time_text(flow.first),
        time_text(flow.last),
        rate,
        gap,
        str(flow.dropped),
    ]


def _print_table(summary: Summary) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, heading in enumerate(HEADINGS):
        table.add_column(heading, overflow="fold", justify="left" if number < 2 else "right")
    for flow in summary.flows:
        table.add_row(*_cells(flow))
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)
    names = ", ".join(escaped(one.name) or "?" for one in summary.interfaces)
    stats = dataclasses.asdict(summary.stats)
    for name in ("batches", "flows", *(() if summary.stats.flows else ("lost",))):
        del stats[name]
    click.echo(f"{summary.form or 'unknown'}, interfaces {names or 'none'}")
    click.echo(", ".join(f"{name} {value}" for name, value in stats.items()))
    if summary.stats.flows:
        print_flows(summary.stats.flows)
