"""mcast-fast check: what is missing from a feed, by the numbers in its packets."""

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import click

from mcast_fast.cli.flows import LOSS, flows_json, missing, print_flows, table_of
from mcast_fast.cli.output import NOTHING_CAME, complain, standard_input
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.errors import CaptureError
from mcast_fast.files._reader import Reader
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._tracker import WINDOW, Tracker
from mcast_fast.stats import Flow

REFRESHES = 2  # per second, of a table on a terminal


@click.command("check", short_help="What is missing from a feed, by its numbers.")
@click.argument("sources", metavar="GROUP...|FILE...", nargs=-1, required=True)
@click.option("-f", "--format", "form", required=True, help="rtp, moldudp64, mcast-fast …, or u64be@10/u32be@8.")
@click.option("-i", "--interface", help="Name, index or address, or 'all'; for groups that name none.")
@click.option("-p", "--port", type=int, help="UDP port, for groups that name none.")
@click.option("--source", help="Take packets of this source only, for groups that name none.")
@click.option("--window", default=WINDOW, show_default=True, help="What is missing for longer is lost.")
@click.option("-c", "--count", type=click.IntRange(min=1), help="End after this many packets.")
@click.option("-t", "--timeout", help="End when nothing arrives for this long (seconds, or 100ms).")
@click.option("-d", "--duration", help="End after this long (seconds, or 5min).")
@click.option("--ring", is_flag=True, help="Receive by the kernel's mapped ring (CAP_NET_RAW).")
@click.option("--json", "as_json", is_flag=True, help="An object at the end instead of a table.")
def command(sources: tuple[str, ...], form: str, window: str, as_json: bool, **options: Any) -> None:
    """Follow the numbers of every flow: of groups until Ctrl-C, or of capture files (- is standard input).

    \b
    lost        missing for longer than --window    pending     missing for less
    duplicates  came again                          reordered   came behind a later one
    late        came after it was lost              burst       most lost in a row
    ambiguous   how often the numbers could not tell how much is missing

    On a terminal the table is live. Exits 0; 1 on an error; 2 on a wrong usage; 3 when numbers are missing; 4 when no
    packet came.
    """
    tracker = Tracker(form, window)
    are_files = [one == "-" or Path(one).is_file() for one in sources]
    if any(are_files) and not all(are_files):
        raise click.UsageError("give groups or files, not both")
    limits = {name: _number(options.pop(name)) for name in ("timeout", "duration")} | {"count": options.pop("count")}
    if all(are_files):
        errors = [error for file in sources if (error := _read(file, tracker, options, limits))]
        flows, lost = tracker.flows, tracker.lost
    else:
        errors = []
        flows, lost = _receive(sources, tracker, options, limits, not as_json)
    if as_json:
        click.echo(flows_json(flows, lost=lost, unnumbered=tracker.unnumbered, evicted=tracker.evicted))
    else:
        print_flows(flows)
    _exit(tracker, errors, lost + missing(flows) - sum(flow.lost for flow in flows))


def _number(text: str | None) -> float | str | None:
    """Seconds without a unit are a number."""
    if text is None:
        return None
    with contextlib.suppress(ValueError):
        return float(text)
    return text


def _read(file: str, tracker: Tracker, options: dict[str, Any], limits: dict[str, Any]) -> str:
    """Show the packets of a file to the tracker; why it ends early, or nothing."""
    named = {name: options[name] for name in ("port", "interface", "source")}
    with Reader(standard_input(file), sequence=tracker, batch_size=4096, **named) as reader:
        try:
            for _ in reader.batches(**limits):
                pass
        except CaptureError as error:
            return str(error)
    return ""


def _receive(
    groups: tuple[str, ...], tracker: Tracker, options: dict[str, Any], limits: dict[str, Any], shown: bool
) -> tuple[tuple[Flow, ...], int]:
    """Show the packets of groups to the tracker; the flows at the end, and what they lost."""
    ring = options.pop("ring") or None
    with (
        Receiver(*groups, sequence=tracker, ring=ring, **options) as receiver,
        stop_signals_call(receiver.close),
        _live_table(lambda: receiver.stats.flows, shown),
    ):
        for _ in receiver.batches(**limits):
            pass
    stats = receiver.stats
    if stats.dropped:
        complain(f"{stats.dropped} packets were dropped in this machine")
    return stats.flows, stats.lost or 0


def _live_table(flows: Callable[[], tuple[Flow, ...]], shown: bool) -> contextlib.AbstractContextManager[object]:
    """The table on a terminal, twice per second; elsewhere nothing."""
    from rich.console import Console
    from rich.live import Live

    console = Console(markup=False, highlight=False, emoji=False)
    if not shown or not console.is_terminal:
        return contextlib.nullcontext()
    show = partial(Live, console=console, refresh_per_second=REFRESHES, transient=True)
    return show(get_renderable=lambda: table_of(flows()))


def _exit(tracker: Tracker, errors: list[str], missed: int) -> None:
    """What went wrong on standard error, and the exit code of the worst of it."""
    for error in errors:
        complain(error)
    if tracker.unnumbered:
        complain(f"{tracker.unnumbered} packets have no number by the format {tracker.format}")
    code = 1 if errors else LOSS if missed else 0
    if not tracker.flows and not code:
        complain("no packet with a number came")
        code = NOTHING_CAME
    if code:
        raise click.exceptions.Exit(code)
