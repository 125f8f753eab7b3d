"""mcast-fast convert: capture files into other forms."""

import dataclasses
import json

import click

from mcast_fast._units import plural
from mcast_fast.cli.codes import LOSS
from mcast_fast.cli.options import FILE, shared
from mcast_fast.cli.output import complain, standard_input, standard_output, written_over
from mcast_fast.files._convert import FORMS, convert_file, form_of
from mcast_fast.files._skipped import left_out_text


@click.command("convert", short_help="Convert a capture file: pcapng, pcap, CSV, Parquet.")
@click.argument("source", metavar="IN", type=FILE)
@click.argument("target", metavar="OUT", type=FILE)
@shared("only")
@click.option("--all", "everything", is_flag=True, help="Unicast UDP too.")
@click.option("--to", "form", type=click.Choice(FORMS), help="Format of OUT, when its suffix does not show it.")
@shared(
    json="The report as an object; on standard error where OUT is -.",
    fail_on_loss="Exit 3 when something of IN could not be converted.",
)
def command(
    source: str,
    target: str,
    groups: tuple[str, ...],
    everything: bool,
    form: str | None,
    as_json: bool,
    fail_on_loss: bool,
) -> None:
    """Convert the multicast packets of IN to the form of OUT: pcapng, pcap (times in ns), CSV, or Parquet.

    IN is pcapng, pcap, or CSV as this writes it; .gz and .zst behind a suffix compress; - is standard input or output.
    Headers below UDP are rebuilt: packets keep what a receiver would have received.

    Not converted are datagrams of which not all fragments are there, skipped frames (no UDP, or of a link or a tunnel
    that cannot be read), and broken ones. Filtered is UDP to hosts, and to groups but those of -g.

    In CSV, text that a spreadsheet would take for a formula begins with an apostrophe.

    Exits 0; 1 on an error, after everything before it was converted; 2 on a usage error; 3 when something was not
    converted, with --fail-on-loss.
    """
    form, note = form_of(target, form), written_over(target)
    done = convert_file(standard_input(source), standard_output(target), form, groups, not everything)
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done)), err=target == "-")
    else:
        left_out = left_out_text(done)
        complain(
            f"converted {plural(done.packets, 'packet')} to {form}{note}"
            + (f"; not converted: {left_out}" if left_out else "")
        )
    if fail_on_loss and done.lost:
        raise click.exceptions.Exit(LOSS)
