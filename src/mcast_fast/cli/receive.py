"""mcast-fast receive: packets as lines."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from mcast_fast.cli.flows import LOSS, complain_of, missing
from mcast_fast.cli.output import (
    LINES,
    NOTHING_CAME,
    SUMMARY,
    WHOLE_LEDGER,
    complain,
    ledger_text,
    nothing_came,
    rendered,
    write_whole,
)
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.errors import ClosedError
from mcast_fast.receiver import Receiver

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

FORMS = (*LINES, "raw", "none")


@click.command("receive", short_help="Print the packets of groups.")
@click.argument("groups", metavar="GROUP...", nargs=-1, required=True)
@click.option("-i", "--interface", help="Name, index or address, or 'all'; for groups that name none.")
@click.option("-p", "--port", type=int, help="UDP port, for groups that name none.")
@click.option("--source", help="Take packets of this source only, for groups that name none.")
@click.option("-c", "--count", type=click.IntRange(min=1), help="End after this many packets.")
@click.option("-t", "--timeout", type=float, help="End when nothing arrives for this many seconds.")
@click.option("-o", "--output", type=click.Choice(FORMS), default="text", show_default=True, help="How to print.")
@click.option("--ttl", is_flag=True, help="Show the TTL or hop limit of each packet.")
@click.option("--buffer-size", metavar="SIZE", help="Kernel buffer per socket, such as 4MiB.")
@click.option("--check", "form", metavar="FORMAT", help="Follow the packets' numbers; end with what is missing.")
@click.option("--fail-on-loss", is_flag=True, help="Exit 3 when a packet was dropped or, with --check, is missing.")
@click.option("--stats", is_flag=True, help="Print full statistics at the end instead of a summary.")
def command(
    groups: tuple[str, ...],
    interface: str | None,
    port: int | None,
    source: str | None,
    count: int | None,
    timeout: float | None,
    output: str,
    ttl: bool,
    buffer_size: str | None,
    form: str | None,
    fail_on_loss: bool,
    stats: bool,
) -> None:
    """Join groups and print their packets until Ctrl-C; a summary goes to standard error.

    \b
    --output  text  time (UTC), source > group, interface, length, start of the payload
              hex   the same with the whole payload as a hex dump
              json  one object per line, payload in hexadecimal, timestamp in ns
              raw   the payloads alone, one after the other
              none  nothing but the summary

    Exits 0, also after Ctrl-C; 1 on an error; 2 on a usage error; 3 on loss with --fail-on-loss; 4 when nothing came
    before --timeout.
    """
    receiver = Receiver(
        *groups,
        port=port,
        interface=interface,
        source=source,
        timeout=timeout,
        buffer_size=buffer_size,
        recv_ttl=ttl,
        sequence=form,
    )
    came = 0
    with stop_signals_call(receiver.close):
        try:
            for batch in _batches(receiver, count):
                came += len(batch)
                write_whole(rendered(batch, output))
        finally:
            ended = receiver.closed  # by a signal
            receiver.close()
            ledger = receiver.stats
            complain(ledger_text(ledger, WHOLE_LEDGER if stats else SUMMARY))
            complain_of(ledger.flows)
    if not came and not ended:
        nothing_came(timeout or 0.0, groups, port=port, interface=interface, source=source)
        raise click.exceptions.Exit(NOTHING_CAME)
    if fail_on_loss and (ledger.dropped or ledger.lost or missing(ledger.flows)):
        raise click.exceptions.Exit(LOSS)


def _batches(receiver: Receiver, count: int | None) -> Iterator["Batch"]:
    """Batches of `count` packets together, or until the receiver times out or is closed."""
    left = count
    while left is None or left > 0:
        try:
            batch = receiver.recv_batch(None if left is None else min(left, receiver.batch_size))
        except (TimeoutError, ClosedError):
            return
        yield batch
        left = None if left is None else left - len(batch)
