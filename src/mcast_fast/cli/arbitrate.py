"""mcast-fast arbitrate: several legs of one feed become one."""

import contextlib
import dataclasses
import json
import sys
from typing import Any

import click

from mcast_fast._units import plural
from mcast_fast.cli.codes import LOSS, NOTHING_CAME
from mcast_fast.cli.contents import is_a_file
from mcast_fast.cli.metrics import served
from mcast_fast.cli.options import FILE, GROUP_OR_FILE, UP_TO_A_MINUTE, groups_alone, receiving, shared
from mcast_fast.cli.output import complain, counted, own_line, standard_input, wrapped
from mcast_fast.cli.progress import Progress, shown_as
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.errors import ArgumentError, CaptureError, FileError
from mcast_fast.files._limits import Autostop
from mcast_fast.files._reader import Reader
from mcast_fast.files._recorder import Recorder
from mcast_fast.files._replay import Replay
from mcast_fast.groups import Group
from mcast_fast.receiver import Receiver
from mcast_fast.sequence._arbiter import HOLD, Arbiter, Pairs
from mcast_fast.sequence._ledger import ArbiterStats, LegStats

FEED = (
    *("expected", "delivered", "duplicates", "recovered", "unrecovered", "pending", "held", "late", "restarts"),
    *("ambiguous", "overflows", "evicted"),
)
LEG = ("received", "lost", "covered", "absent", "pending", "first", "late", "duplicates", "outside", "unnumbered")


@click.command("arbitrate", short_help="Several legs of one feed as one, each number once.")
@click.argument("legs", metavar="LEG...", type=GROUP_OR_FILE, nargs=-1, required=True, callback=groups_alone)
@click.option(
    "-f", "--format", "--sequence", "form", required=True, help="rtp, moldudp64, mcast-fast …, or u64be@10/u32be@8."
)
@click.option(
    "--hold",
    type=UP_TO_A_MINUTE,
    default=HOLD,
    show_default=True,
    help="How much later another leg may bring a number.",
)
@click.option(
    "--order/--no-order", default=True, help="In the order of numbers (default), or what comes first at once."
)
@click.option("--pair", "pairs", multiple=True, metavar="A=B", help="Groups that belong together; A=B=C of three legs.")
@click.option(
    "-w", "--write", "path", metavar="FILE", type=FILE, help="Record the feed: pcapng, or .pcap; - is standard output."
)
@click.option("--to", "target", metavar="GROUP", help="Send the feed to this group as it comes.")
@shared(
    "interface",
    "port",
    "source",
    ttl="TTL or hop limit, with --to.",
    interface="Name, index or address, or 'all'; for legs that name none.",
    port="UDP port, for legs that name none.",
    source="Take packets of this source only, for legs that name none.",
)
@shared("count", "timeout", "duration", "buffer_size", "background", "ring", "watch", "metrics")
@shared("quiet", "progress")
@shared(json="The ledger as an object on standard output.", fail_on_loss="Exit 3 when no leg brought a number.")
def command(
    legs: tuple[str, ...],
    path: str | None,
    target: str | None,
    quiet: bool,
    progress: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Make one feed of several legs (A and B) until Ctrl-C, or until their files end. A LEG is a group or a file.

    \b
    lost         of a leg: did not come within --hold, while the leg was there
    covered      of those: another leg brought it
    absent       of a leg: sent before its first number, or while it was silent
    unrecovered  no leg brought it in time
    pending      not there or not delivered at the end, before --hold had passed
    held         of those of the feed: it waits for what is before it

    Without -w and --to the legs are compared. Files of the legs give the same figures as the live stream.

    Exits 0; 1 on an error; 2 on a usage error; 3 when a number is missing on all legs, with --fail-on-loss; 4 when no
    packet came.
    """
    if path and target:
        raise click.UsageError("give -w or --to, not both")
    if options["metrics"] is not None and all(map(is_a_file, legs)):
        raise click.UsageError("--metrics is of groups; files are read to their ends at once")
    with contextlib.ExitStack() as opened:
        sources: list[Receiver | Reader] = [_leg(leg, options, opened) for leg in legs]
        pairs: Pairs | None = dict(map(_pair, options["pairs"])) or None
        waits = options["timeout"] if path is None else None
        arbiter = opened.enter_context(
            Arbiter(sources, options["form"], options["hold"], options["order"], pairs, timeout=waits)
        )
        subject = " ".join(legs)
        opened.enter_context(served(options, arbiter))
        with Progress(lambda: (arbiter.stats, subject), lambda show: show(), shown_as(quiet, progress), _loss):
            error = _run(arbiter, path, target, options)
        stats = arbiter.stats  # and no flush: what other legs may still bring when it is ended is no loss of theirs
    own_line()
    if as_json:
        click.echo(_json(stats), err=path == "-")
    else:
        for line in _lines(stats):
            click.echo(wrapped(line, sys.stderr if path == "-" else sys.stdout), err=path == "-")
    _exit(stats, error, options["fail_on_loss"])


def _loss(stats: ArbiterStats) -> str:
    """What the progress line says of loss."""
    return f"{stats.unrecovered:,} unrecovered"


def _leg(text: str, options: dict[str, Any], opened: contextlib.ExitStack) -> Receiver | Reader:
    named = {name: options[name] for name in ("port", "interface", "source")}
    if is_a_file(text):
        return opened.enter_context(Reader(standard_input(text), batch_size=4096, **named))
    return opened.enter_context(Receiver(text, **receiving(options)))


def _pair(text: str) -> tuple[str, list[str | Group]]:
    first, *others = text.split("=")
    if not others:
        raise ArgumentError(f"--pair {text!r} is not A=B, such as 239.1.1.1:5000=239.2.1.1:5000")
    return first, [*others]


def _run(arbiter: Arbiter, path: str | None, target: str | None, options: dict[str, Any]) -> str:
    """Take all that comes to where it goes; why it ended early, or nothing."""
    count, duration = options["count"], options["duration"]
    try:
        if path is not None:
            stop = Autostop(duration=duration, packets=count, idle=options["timeout"])
            to: Any = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer) if path == "-" else path
            with Recorder(arbiter, to, stop=stop) as recorder, stop_signals_call(recorder.stop):
                recorder.run()
        elif target is not None:
            replay = Replay(arbiter, to=target, ttl=options["ttl"], count=count, duration=duration)
            with stop_signals_call(arbiter.close):
                replay.run()
        else:
            with stop_signals_call(arbiter.close):
                for _ in arbiter.batches(count=count, duration=duration):
                    pass
    except (CaptureError, FileError) as error:
        return str(error)
    return ""


def _json(stats: ArbiterStats) -> str:
    legs = [dataclasses.asdict(leg) for leg in stats.legs]
    skew = {name: getattr(stats.skew, name) for name in ("p50", "p99", "max")} | {"histogram": stats.skew.histogram}
    feed = {name: getattr(stats, name) for name in ("received", "bytes", *FEED)}
    return json.dumps({**feed, "skew": skew, "legs": legs}, indent=2)


def _lines(stats: ArbiterStats) -> list[str]:
    lines = [", ".join(f"{name} {counted(getattr(stats, name))}" for name in FEED)]
    skew = stats.skew
    if skew.max is not None:
        parts = (("p50", skew.p50), ("p99", skew.p99), ("max", skew.max))
        lines.append("skew " + ", ".join(f"{name} {(value or 0) / 1e6:.3f} ms" for name, value in parts))
    return lines + [f"leg {at}: {_leg_text(leg)}" for at, leg in enumerate(stats.legs)]


def _leg_text(leg: LegStats) -> str:
    return ", ".join((str(leg.state), *(f"{name} {_cell(getattr(leg, name))}" for name in LEG)))


def _cell(value: object) -> str:
    return counted(value) if isinstance(value, int) else str(value)


def _exit(stats: ArbiterStats, error: str, fail_on_loss: bool) -> None:
    if error:
        complain(error)
    if unnumbered := sum(leg.unnumbered for leg in stats.legs):
        complain(f"{plural(unnumbered, 'packet')} without a number by this format")
    missing = stats.unrecovered + stats.pending - stats.held
    code = 1 if error else LOSS if fail_on_loss and missing else 0
    if not stats.delivered and not code:
        complain("no packet with a number came")
        code = NOTHING_CAME
    if code:
        raise click.exceptions.Exit(code)
