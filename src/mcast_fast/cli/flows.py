"""Flows of numbers as a table, as text and as JSON."""

import dataclasses
import json
from collections.abc import Iterable
from itertools import compress
from typing import TYPE_CHECKING, Any

import click

from mcast_fast.cli.output import complain, endpoint_text
from mcast_fast.stats import Flow

if TYPE_CHECKING:
    from rich.table import Table

COUNTERS = (
    *("received", "expected", "lost", "pending", "duplicates", "reordered", "late", "burst", "restarts", "ambiguous"),
    *("strays", "first", "last"),
)
HEADINGS = ("group", "source", "key", "state", *COUNTERS)
NAMES = 4  # columns that are no numbers
NARROW = ("group", "source", "state", "received", "lost", "pending", "duplicates", "late")  # where lines are short
WIDE = 250  # columns where there is no terminal: nothing is folded, so that grep finds whole lines


def missing(flows: Iterable[Flow]) -> int:
    """Numbers that are missing, for however short a time."""
    return sum(flow.lost + flow.pending for flow in flows)


def flow_object(flow: Flow) -> dict[str, Any]:
    """A flow for JSON; the key in hexadecimal."""
    return dataclasses.asdict(flow) | {"key": flow.key.hex()}


def flows_json(flows: Iterable[Flow], **more: Any) -> str:
    """An object with the flows, and more."""
    return json.dumps({"flows": [flow_object(flow) for flow in flows], **more}, indent=2)


def cells(flow: Flow) -> tuple[str, ...]:
    """A row of the table."""
    source = flow.source if flow.source_port is None else endpoint_text(flow.source, flow.source_port)
    names = endpoint_text(flow.group, flow.port), source, flow.key.hex() or "-", str(flow.state)
    return (*names, *(_cell(flow, name) for name in COUNTERS))


def _cell(flow: Flow, name: str) -> str:
    """A counter with its thousands separated; `first` and `last` are numbers of packets, as they are in them."""
    value = getattr(flow, name)
    return str(value) if name in ("first", "last") or value is None else f"{value:,}"


def table_of(flows: Iterable[Flow], columns: int) -> "Table":
    """The flows as a table of rich: all of it, or NARROW where that has more columns."""
    from rich.table import Table

    rows = [cells(flow) for flow in flows]
    widths = [max(map(len, column)) + 1 for column in zip(HEADINGS, *rows, strict=True)]
    shown = [name in NARROW or sum(widths) - 1 <= columns for name in HEADINGS]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in compress(HEADINGS, shown):
        table.add_column(heading, overflow="fold", justify="left" if heading in HEADINGS[:NAMES] else "right")
    for row in rows:
        table.add_row(*compress(row, shown))
    return table


def print_flows(flows: Iterable[Flow]) -> None:
    """The table on standard output; without rich the same cells, with tabs in between."""
    try:
        from rich.console import Console
    except ImportError:
        for row in (HEADINGS, *map(cells, flows)):
            click.echo("\t".join(row))
        return
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(table_of(flows, console.width))


def complain_of(flows: Iterable[Flow]) -> None:
    """A line for each flow on standard error."""
    for flow in flows:
        counted = ", ".join(f"{name} {_cell(flow, name)}" for name in COUNTERS)
        complain(f"{' '.join(cells(flow)[:NAMES])}: {counted}")
