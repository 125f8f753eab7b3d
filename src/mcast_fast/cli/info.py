"""mcast-fast info: the contents of a capture file."""

import dataclasses
import json
import shutil
import sys

import click

from mcast_fast._units import NANOSECONDS, plural
from mcast_fast.cli.codes import ERROR, LOSS, NOTHING_CAME
from mcast_fast.cli.contents import nothing_of
from mcast_fast.cli.flows import flow_object, missing, print_flows
from mcast_fast.cli.options import FILE, GROUP, shared
from mcast_fast.cli.output import aligned, complain, endpoint_text, folded, standard_input, time_text
from mcast_fast.errors import escaped
from mcast_fast.files._reader import Reader
from mcast_fast.files._skipped import left_out_text
from mcast_fast.files._summary import OTHERS, Flow, Summary, summarise

HEADINGS = ("packets", "seconds", "packets/s", "Mbit/s", "bytes min/mean/max", "longest gap s", "dropped")
NARROW = ("packets", "seconds", "packets/s", "Mbit/s", "min/mean/max", "gap s", "dropped")  # where lines are short
LISTED = 8  # interfaces by name


@click.command("info", short_help="The contents of a capture file.")
@click.argument("file", metavar="FILE", type=FILE)
@click.argument("groups", metavar="[GROUP]...", type=GROUP, nargs=-1)
@click.option("--all", "everything", is_flag=True, help="Unicast UDP too.")
@click.option("--sequence", metavar="FORMAT", help="Follow the packets' numbers too: rtp, or u64be@10/u32be@8.")
@shared(
    json="An object instead of a table.",
    fail_on_loss="Exit 3 when the file reports drops or, with --sequence, numbers are missing.",
)
def command(
    file: str, groups: tuple[str, ...], everything: bool, sequence: str | None, as_json: bool, fail_on_loss: bool
) -> None:
    """Count the packets of a capture file by group and source: pcapng or pcap, also .gz and .zst; - is standard input.

    Of each flow: packets; seconds from the first to the last; packets and megabits of payload per second; bytes of
    payload; the longest gap; drops that the file reports. Of more than 10,000 flows those with the most packets are
    listed, and the others together. What is left out of them is named in the last line.

    Exits 0; 1 when the file cannot be read to its end (what could be read is shown); 2 on a usage error;
    3 on loss with --fail-on-loss; 4 when it holds no packet of the GROUPs.
    """
    with Reader(
        standard_input(file), *groups, multicast_only=not everything, batch_size=4096, sequence=sequence
    ) as reader:
        summary = summarise(file, reader)
    if summary.error and not summary.total.packets and not as_json:
        complain(summary.error)
        raise click.exceptions.Exit(ERROR)
    if as_json:
        click.echo(json.dumps(_object(summary), indent=2))
    elif summary.total.packets or not groups:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        for line in summary_lines(summary, width):
            click.echo(line)
        if summary.stats.flows:
            print_flows(summary.stats.flows)
    if summary.error:
        complain(summary.error)
        raise click.exceptions.Exit(ERROR)
    if groups and not summary.total.packets:  # the message has what matters of an empty table
        complain(nothing_of(file, groups))
        raise click.exceptions.Exit(NOTHING_CAME)
    if fail_on_loss and (summary.stats.dropped or summary.stats.lost or missing(summary.stats.flows)):
        raise click.exceptions.Exit(LOSS)


def _flow_object(flow: Flow) -> dict[str, object]:
    more = {"duration": flow.duration, "rate": flow.rate, "bit_rate": flow.bit_rate, "mean": flow.mean}
    return dataclasses.asdict(flow) | more


def _object(summary: Summary) -> dict[str, object]:
    total = _flow_object(summary.total)
    for name in ("group", "port", "source", "largest_gap", "largest_gap_at"):
        del total[name]
    return {
        "file": summary.file,
        "form": summary.form,
        "interfaces": [one._asdict() for one in summary.interfaces],
        **dataclasses.asdict(summary.stats),
        "skipped_kinds": summary.skipped_kinds,
        "total": total,
        "flows": [_flow_object(flow) for flow in summary.flows],
        "sequences": [flow_object(flow) for flow in summary.stats.flows],
        "error": summary.error or None,
    }


def _seconds(nanoseconds: int | None, digits: int) -> str:
    if nanoseconds is None:
        return "-"
    return f"{nanoseconds // NANOSECONDS:,}.{nanoseconds % NANOSECONDS:09}"[: digits - 9 or None]


def _rates(flow: Flow) -> tuple[str, str]:
    """Packets and megabits per second."""
    if flow.rate is None or flow.bit_rate is None:
        return "-", "-"
    mbits = flow.bit_rate / 1e6
    return f"{flow.rate:,.{1 if flow.rate < 100_000 else 0}f}", f"{mbits:,.{2 if mbits < 10_000 else 0}f}"


def _cells(flow: Flow) -> list[str]:
    sizes = f"{flow.smallest}/{flow.mean:.0f}/{flow.largest}"
    gap, dropped = _seconds(flow.largest_gap, 6), f"{flow.dropped:,}"
    return [f"{flow.packets:,}", _seconds(flow.duration, 3), *_rates(flow), sizes, gap, dropped]


def _names(flow: Flow) -> tuple[str, str]:
    group = OTHERS if flow.group == OTHERS else endpoint_text(flow.group, flow.port)
    return group, escaped(flow.source)  # whose zone is the name of an interface


def _table(flows: tuple[Flow, ...], width: int | None) -> list[str]:
    """A line for each flow; where that is wider than the terminal, its names on a line, and the numbers under them."""
    rows = [[*_names(flow), *_cells(flow)] for flow in flows]
    for headings in (HEADINGS, NARROW):
        lines = aligned([["group", "source", *headings], *rows], 2)
        if width is None or max(map(len, lines)) <= width:
            return lines
    numbers = aligned([list(NARROW), *(_cells(flow) for flow in flows)], 0)
    names = ["group  source", *("  ".join(_names(flow)) for flow in flows)]
    pairs = zip(names, numbers, strict=True)
    return [line for name, number in pairs for line in (*_wrapped([name], width), f" {number}")]


def _heading(summary: Summary) -> list[str]:
    """What the whole file holds."""
    total = summary.total
    packets = plural(total.packets, "packet")
    _, seconds, rate, bits, *_ = _cells(total)
    named = [escaped(one.name) or "?" for one in summary.interfaces]
    more = f" and {len(named) - LISTED} more" if len(named) > LISTED else ""
    lines = [
        f"{escaped(summary.file)}: {summary.form or 'unknown'}, interfaces {', '.join(named[:LISTED]) or 'none'}{more}",
        f"{packets} of {plural(len(summary.flows), 'flow')}, {seconds} s, {rate} packets/s, {bits} Mbit/s of payload",
    ]
    if total.first is not None:
        lines.append(f"from {time_text(total.first)} to {time_text(total.last)}")
    return lines


def summary_lines(summary: Summary, width: int | None) -> list[str]:
    """A summary for a terminal of that many columns; None: for lines of any length."""
    stats = dataclasses.asdict(summary.stats)
    for name in ("batches", "flows", *(() if summary.stats.flows else ("lost",))):
        del stats[name]
    below = [", ".join(f"{name} {value:,}" for name, value in stats.items())]
    filtered = f"filtered {summary.stats.filtered:,}" if summary.stats.filtered else ""
    if left_out := ", ".join(filter(None, (left_out_text(summary), filtered))):
        below.append(f"left out: {left_out}")
    table = _table(summary.flows, width) if summary.flows else []
    return [*_wrapped(_heading(summary), width), *table, *_wrapped(below, width)]


def _wrapped(lines: list[str], width: int | None) -> list[str]:
    if width is None:
        return lines
    return [part for line in lines for part in folded(line, width)]
