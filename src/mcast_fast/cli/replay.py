"""mcast-fast replay: the packets of a capture file, sent again."""

import dataclasses
import json
import sys
import threading
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from mcast_fast.cli.codes import ERROR, INTERRUPTED, LOSS
from mcast_fast.cli.contents import nothing_of
from mcast_fast.cli.options import FILE, LONGER, SPEED, TIME, shared
from mcast_fast.cli.output import brief_time, complain, interrupted, on_own_line, own_line, standard_input, wrapped
from mcast_fast.cli.progress import How, shown_as
from mcast_fast.errors import ArgumentError
from mcast_fast.files._replay import Replay, Replayed
from mcast_fast.files._skipped import left_out_text
from mcast_fast.files._streams import is_compressed

PROGRESS_SECONDS = 1.0  # from one line of progress to the next
BAR_SECONDS = 0.2
COLUMNS = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())


@click.command("replay", short_help="Send the packets of a capture file again.")
@click.argument("file", metavar="FILE", type=FILE)
@click.option("--to", metavar="GROUP", help="Send to this group.")
@click.option("--as-recorded", is_flag=True, help="Send to the groups that the packets were recorded from.")
@click.option(
    "--map", "mapped", multiple=True, metavar="OLD=NEW", help="Replace one group; can be given several times."
)
@shared("only", "interface", "sending_source", "source_port")
@click.option("--speed", type=SPEED, help="Playback speed factor (2x, 0.5).")
@shared(rate="Instead of the recorded times: datagrams per second (50k), or payload (800Mbit/s).")
@click.option("--max", "fastest", is_flag=True, help="Instead of the recorded times: as fast as possible.")
@click.option(
    "--loop", "loops", type=click.IntRange(min=0), default=1, show_default=True, help="Repeat N times; 0: forever."
)
@click.option("--max-gap", type=LONGER, help="The longest time between two packets, such as 1s.")
@click.option("--pause", type=TIME, help="From the end of the file to the next --loop.")
@shared("count", duration="End this long after the first departure (10s, 5min).")
@shared("ttl", fail_on_loss="Exit 3 when something of FILE could not be sent.")
@click.option("--keep", default="", metavar="ttl,tos", help="Send with the recorded TTL, TOS, or both.")
@shared(
    "no_loopback",
    "quiet",
    progress="A line per second on standard error; a terminal shows a bar.",
    json="The report as an object.",
)
def command(
    file: str,
    mapped: tuple[str, ...],
    groups: tuple[str, ...],
    no_loopback: bool,
    loops: int,
    quiet: bool,
    progress: bool,
    as_json: bool,
    fail_on_loss: bool,
    **options: Any,
) -> None:
    """Send the multicast packets of FILE (pcapng or pcap, also .gz and .zst; - is standard input) with the times they
    had, and print how late they were. Where to has to be said: --to, or --as-recorded.

    Late is how long after its moment a packet was handed to the system: half of them were not later than p50, 99 in
    100 not later than p99 (known to 3 %). Ports that GROUP and NEW leave out are the recorded ones.

    Not sent is what FILE holds beside datagrams: those of which not all fragments are there, skipped frames (no UDP,
    or of a link or a tunnel that cannot be read), broken ones. Filtered is UDP to hosts, and to groups but those of -g.

    Exits 0; 1 on an error, or when FILE holds no packet to a group; 2 on a usage error; 3 when something was not sent,
    with --fail-on-loss; 130 on Ctrl-C, after the report.
    """
    replay = Replay(
        standard_input(file),
        *groups,
        mapping=dict(map(_pair, mapped)),
        loopback=not no_loopback,
        loops=loops or None,
        **options,
    )
    ended = threading.Event()
    shown: threading.Thread | None = None
    if how := shown_as(quiet, progress):
        show = _show_lines if how is How.LINES else _show_bar
        shown = threading.Thread(target=show, args=(replay, ended, _size(file)), daemon=True)
        shown.start()
    try:
        replay.run()
    except KeyboardInterrupt:
        interrupted()
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        ended.set()
        if shown is not None:
            shown.join()
        own_line()
        if as_json and (replay.result.packets or isinstance(sys.exception(), click.exceptions.Exit | None)):
            click.echo(_json(replay.result))
        elif replay.result.packets or isinstance(sys.exception(), click.exceptions.Exit):
            click.echo(wrapped(_text(replay.result), sys.stdout))
    if fail_on_loss and replay.result.unsent:
        raise click.exceptions.Exit(LOSS)
    if not replay.result.packets:
        complain(nothing_of(file, groups))
        raise click.exceptions.Exit(ERROR)


def _pair(text: str) -> tuple[str, str]:
    old, equals, new = text.partition("=")
    if not equals:
        raise ArgumentError(f"--map {text!r} is not OLD=NEW, such as 239.1.1.1=239.9.9.9:6000")
    return old, new


def _size(file: str) -> int | None:
    """Bytes of a file whose end can be known; None for a pipe, or a compressed one."""
    return Path(file).stat().st_size if Path(file).is_file() and not is_compressed(file) else None


def _show_lines(replay: Replay, ended: threading.Event, _size: int | None) -> None:
    while not ended.wait(PROGRESS_SECONDS):
        result = replay.result
        complain(f"sent {result.packets:,}, turn {result.loops}")


def _show_bar(replay: Replay, ended: threading.Event, size: int | None) -> None:
    """How far the file is; nothing for a replay that ends within a second."""
    if ended.wait(PROGRESS_SECONDS):
        return
    with Progress(*COLUMNS, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=size)
        while not ended.wait(BAR_SECONDS):
            result = replay.result
            bar.update(task, completed=replay.position, description=f"turn {result.loops}, sent {result.packets:,}")
    on_own_line()  # it is removed, and what the terminal showed of Ctrl-C


def _json(result: Replayed) -> str:
    return json.dumps(dataclasses.asdict(result) | {"rate": result.rate})


def _text(result: Replayed) -> str:
    rate = "" if result.rate is None else f", {result.rate:,.1f} packets/s"
    parts = [f"sent {result.packets:,}, bytes {result.bytes:,}, in {result.seconds:,.3f} s{rate}"]
    if result.late_max is not None:
        late = (("p50", result.late_p50), ("p99", result.late_p99), ("max", result.late_max))
        # Quantiles are known to 3 %, and the largest is known.
        times = ((name, min(value or 0, result.late_max)) for name, value in late)
        parts.append("late " + ", ".join(f"{name} {brief_time(value)}" for name, value in times))
    if result.rate_error is not None:
        parts.append(f"rate error {result.rate_error:+.3%}")
    if result.truncated:
        parts.append(f"truncated {result.truncated:,}")
    if left_out := left_out_text(result):
        parts.append(f"not sent: {left_out}")
    if result.filtered:
        parts.append(f"filtered {result.filtered:,}")
    return "; ".join(parts)
