"""mcast-fast receive: packets as lines."""

import contextlib
import json
import shutil
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from mcast_fast._core.matching import PacketTest
from mcast_fast.cli.codes import LOSS, NOTHING_CAME
from mcast_fast.cli.flows import complain_of, flow_object, missing
from mcast_fast.cli.match import Match
from mcast_fast.cli.metrics import observed
from mcast_fast.cli.options import GROUP, groups_alone, receiving, shared
from mcast_fast.cli.output import (
    LINES,
    SUMMARY,
    TIMES,
    WHOLE_LEDGER,
    Clock,
    counted,
    ledger_object,
    ledger_text,
    nothing_came,
    own_line,
    pace_text,
    rendered,
    summarise,
    write_whole,
)
from mcast_fast.cli.progress import Progress, shown_as
from mcast_fast.cli.rtp import stripped
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.cli.streams import Streams
from mcast_fast.errors import ClosedError
from mcast_fast.receiver import Receiver
from mcast_fast.stats import Stats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

FORMS = (*LINES, "raw", "none")
LISTED = 64  # groups whose interfaces are named


@click.command("receive", short_help="Print the packets of groups.")
@click.argument("groups", metavar="GROUP...", type=GROUP, nargs=-1, required=True, callback=groups_alone)
@shared("interface", "port", "source", "match", "count", "timeout", "duration")
@click.option("-o", "--output", type=click.Choice(FORMS), help="How to print: text, or json with --json.")
@click.option("--time", "clock", type=click.Choice(TIMES), help="Times of text and hex: utc; on a terminal local.")
@click.option("--strip", type=click.Choice(("rtp",)), help="With -o raw: the payloads without their RTP headers.")
@click.option("--ttl", is_flag=True, help="Show the TTL or hop limit of each packet.")
@shared("buffer_size", "background", "ring", "watch", "metrics", "metrics_per_source")
@click.option("--sequence", "--check", metavar="FORMAT", help="Follow the packets' numbers; end with what is missing.")
@shared(fail_on_loss="Exit 3 when a packet was dropped or, with --sequence, is missing.")
@shared("stats", "quiet", "progress", json="Packets as -o json, and the summary as an object.")
def command(
    groups: tuple[str, ...],
    tests: tuple[PacketTest, ...],
    output: str | None,
    clock: str | None,
    strip: str | None,
    fail_on_loss: bool,
    stats: bool,
    quiet: bool,
    progress: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Join groups and print their packets until Ctrl-C; a summary goes to standard error.

    \b
    --output  text  time, source > group, interface, length, start of the payload
              hex   the same with the whole payload as a hex dump
              json  one object per line, payload in hexadecimal, timestamp in ns
              raw   the payloads alone, one after the other
              none  nothing but the summary; a terminal gets a line each second
    --time    utc       date and time, to the nanosecond (default of pipes)
              local     the time of day here (default of a terminal)
              relative  seconds since the first packet
              delta     seconds since the packet before

    \b
    --match   source=10.0.0.0/8   also source_port, group, port: =, !=; lists
              port=5000,5010-5020 with commas; ranges of numbers
              size>=200           bytes of payload: =, !=, <, <=, >, >=
              u16be@0=0x1234      of the payload: u8@1&0xf0=4, u32le@rtp0<9
              b4@0=c0ffee00       bytes at a place, in hexadecimal
              text~hello          anywhere in the payload; hex~c0ffee, text!~x

    Tests are made of whole batches, in C with the fast backend. With --match, --count and --timeout are of what passes;
    --sequence follows all packets.

    On a terminal lines of text have its width. With --json the summary is an object on standard error, with -o none on
    standard output.

    Exits 0, also after Ctrl-C; 1 on an error; 2 on a usage error; 3 on loss with --fail-on-loss; 4 when nothing came
    before --timeout or --duration was over.
    """
    form = output or ("json" if as_json else "text")
    if strip and form != "raw":
        raise click.UsageError("--strip is of -o raw")
    match, streams = Match(tests), Streams(stats)
    write = _writer(form, clock, strip)
    limits = {name: options.pop(name) for name in ("count", "timeout", "duration")}
    receiver = Receiver(
        *groups, timeout=limits["timeout"], recv_ttl=options["ttl"], sequence=options["sequence"], **receiving(options)
    )
    came, started = 0, time.monotonic()
    with stop_signals_call(receiver.close):
        try:
            summarise(_listening(receiver, groups))
            how = shown_as(quiet or form != "none", progress)
            shown = Progress(lambda: (receiver.stats, " ".join(groups)), lambda show: show(), how)
            with observed(options, receiver) as see, shown:
                for batch in match.batches(receiver, see, **limits):
                    came += len(batch)
                    streams.add(batch)
                    write(batch)
        finally:
            ended = receiver.closed  # by a signal
            receiver.close()
            ledger = receiver.stats
            _summarise(ledger, match, streams, time.monotonic() - started, as_json, form)
    if not came and not ended:
        waited = min(filter(None, (limits["timeout"], limits["duration"])), default=0.0)
        named = {name: options[name] for name in ("port", "interface", "source")}
        nothing_came(waited, groups, match.unmatched, **named)
        raise click.exceptions.Exit(NOTHING_CAME)
    if fail_on_loss and (ledger.dropped or ledger.lost or missing(ledger.flows)):
        raise click.exceptions.Exit(LOSS)


def _listening(receiver: Receiver, groups: tuple[str, ...]) -> str:
    """What is joined, and on which interfaces: those are the routing table's where none is named."""
    names: list[str] = []
    # Of many the system is not asked: that is a call for each.
    if len(groups) <= LISTED and not all("%" in one for one in groups):
        with contextlib.suppress(ClosedError):  # by a signal
            names = list(dict.fromkeys(one.interface for one in receiver.memberships if one.interface))
    return f"listening to {' '.join(groups)}" + (f" on {', '.join(names)}" if names else "")


def _writer(form: str, clock: str | None, strip: str | None) -> "Callable[[Batch], None]":
    """What prints the packets of a batch."""
    if strip:
        return lambda batch: write_whole(b"".join(map(stripped, batch.payloads())))
    on_terminal = sys.stdout.isatty()
    times = Clock(clock or ("local" if on_terminal else "utc"))
    columns = shutil.get_terminal_size().columns if on_terminal else None
    return lambda batch: write_whole(rendered(batch, form, times, columns))


def _summarise(ledger: Stats, match: Match, streams: Streams, seconds: float, as_json: bool, form: str) -> None:
    if as_json:
        own_line()
        summary = ledger_object(ledger, seconds) | match.counted() | streams.objects()
        click.echo(json.dumps(summary | {"flows": [flow_object(one) for one in ledger.flows]}), err=form != "none")
        return
    text = ledger_text(ledger, WHOLE_LEDGER if streams else SUMMARY)
    text += "".join(f", {name} {counted(value)}" for name, value in match.counted().items())
    summarise(f"{text}, {pace_text(seconds, ledger.received, ledger.bytes)}")
    streams.show(seconds)
    complain_of(ledger.flows)
