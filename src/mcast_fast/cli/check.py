"""mcast-fast check: what is missing from a feed, by the numbers in its packets."""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import Any

import click

from mcast_fast._units import bound, plural
from mcast_fast.cli.codes import LOSS, NOTHING_CAME
from mcast_fast.cli.contents import is_a_file
from mcast_fast.cli.flows import flows_json, missing, print_flows, table_of
from mcast_fast.cli.metrics import observed
from mcast_fast.cli.options import GROUP_OR_FILE, UP_TO_AN_HOUR, groups_alone, receiving, shared
from mcast_fast.cli.output import complain, standard_input
from mcast_fast.cli.progress import How, Progress, shown_as
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.errors import CaptureError
from mcast_fast.files._reader import Reader
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._tracker import WINDOW, Tracker
from mcast_fast.stats import Flow

REFRESHES = 2  # per second, of a table on a terminal


@click.command("check", short_help="What is missing from a feed, by its numbers.")
@click.argument(
    "sources", metavar="GROUP...|FILE...", type=GROUP_OR_FILE, nargs=-1, required=True, callback=groups_alone
)
@click.option(
    "-f", "--format", "--sequence", "form", required=True, help="rtp, moldudp64, mcast-fast …, or u64be@10/u32be@8."
)
@shared("interface", "port", "source")
@click.option(
    "--window", type=UP_TO_AN_HOUR, default=WINDOW, show_default=True, help="What is missing for longer is lost."
)
@shared("count", "timeout", "duration", "buffer_size", "background", "ring", "watch", "metrics", "metrics_per_source")
@shared(quiet="No live table, and of files no line per second, which a terminal gets.")
@shared(json="An object at the end instead of a table.", fail_on_loss="Exit 3 also when a packet was dropped here.")
def command(
    sources: tuple[str, ...],
    form: str,
    window: str | float,
    quiet: bool,
    as_json: bool,
    fail_on_loss: bool,
    **options: Any,
) -> None:
    """Follow the numbers of every flow: of groups until Ctrl-C, or of capture files (- is standard input).

    \b
    lost        missing for longer than --window
    pending     missing for less
    duplicates  came again
    reordered   came behind a later one
    late        came after it was lost
    burst       most lost in a row
    ambiguous   the numbers do not say how much is missing

    On a terminal the table is live, and has the columns that fit.

    Exits 0; 1 on an error; 2 on a usage error; 3 when numbers are missing; 4 when no
    packet came.
    """
    tracker = Tracker(form, window)
    are_files = [is_a_file(one) for one in sources]
    if any(are_files) and not all(are_files):
        raise click.UsageError("give groups or files, not both")
    limits = {name: options.pop(name) for name in ("timeout", "duration", "count")}
    if any(are_files) and options["metrics"] is not None:
        raise click.UsageError("--metrics is of groups; a file is read to its end at once")
    shown = not as_json and not quiet
    if all(are_files):
        how = shown_as(not shown, False)
        errors = [error for file in sources if (error := _read(file, tracker, options, limits, how))]
        flows, lost, dropped = tracker.flows, tracker.lost, 0
    else:
        errors = []
        flows, lost, dropped = _receive(sources, tracker, options, limits, shown)
    if as_json:
        click.echo(flows_json(flows, lost=lost, unnumbered=tracker.unnumbered, evicted=tracker.evicted))
    elif flows:
        print_flows(flows)
    missed = lost + missing(flows) - sum(flow.lost for flow in flows)
    _exit(tracker, errors, missed + (dropped if fail_on_loss else 0))


def _read(file: str, tracker: Tracker, options: dict[str, Any], limits: dict[str, Any], how: How | None) -> str:
    """Show the packets of a file to the tracker; why it ends early, or nothing."""
    named = {name: options[name] for name in ("port", "interface", "source")}
    with Reader(standard_input(file), sequence=tracker, batch_size=4096, **named) as reader:
        try:
            with Progress(lambda: (reader.stats, file), lambda show: show(), how):
                for _ in reader.batches(**limits):
                    pass
        except CaptureError as error:
            return str(error)
    return ""


def _receive(
    groups: tuple[str, ...], tracker: Tracker, options: dict[str, Any], limits: dict[str, Any], shown: bool
) -> tuple[tuple[Flow, ...], int, int]:
    """Show the packets of groups to the tracker; the flows at the end, what they lost, and what was dropped here."""
    with (
        Receiver(*groups, sequence=tracker, **receiving(options)) as receiver,
        stop_signals_call(receiver.close),
        observed(options, receiver) as see,
        _live_table(lambda: receiver.stats.flows, shown),
    ):
        for batch in receiver.batches(**limits):
            if see is not None:
                see(batch)
    stats = receiver.stats
    if stats.dropped:
        complain(f"{bound(stats.dropped, stats.drops_exact)}{plural(stats.dropped, 'packet')} dropped in this machine")
    return stats.flows, stats.lost or 0, stats.dropped or 0


def _live_table(flows: Callable[[], tuple[Flow, ...]], shown: bool) -> contextlib.AbstractContextManager[object]:
    """The table on a terminal, twice per second; elsewhere nothing."""
    from rich.console import Console, Group
    from rich.live import Live

    console = Console(markup=False, highlight=False, emoji=False)
    if not shown or not console.is_terminal:
        return contextlib.nullcontext()
    show = partial(Live, console=console, refresh_per_second=REFRESHES, transient=True)
    # The empty line is where the terminal shows ^C: behind a row it could wrap, and Live would remove a line too few.
    return show(get_renderable=lambda: Group(table_of(flows(), console.width), ""))


def _exit(tracker: Tracker, errors: list[str], missed: int) -> None:
    """What went wrong on standard error, and the exit code of the worst of it."""
    for error in errors:
        complain(error)
    if tracker.unnumbered:
        complain(f"{plural(tracker.unnumbered, 'packet')} without a number by the format {tracker.format}")
    code = 1 if errors else LOSS if missed else 0
    if not tracker.flows and not code:
        complain("no packet with a number came")
        code = NOTHING_CAME
    if code:
        raise click.exceptions.Exit(code)
