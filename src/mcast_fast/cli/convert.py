"""mcast-fast convert: capture files into other forms."""

import click

from mcast_fast.cli.output import complain, standard_input, standard_output
from mcast_fast.files._convert import FORMS, convert_file, form_of


@click.command("convert", short_help="Convert a capture file: pcapng, pcap, CSV, Parquet.")
@click.argument("source", metavar="IN")
@click.argument("target", metavar="OUT")
@click.option("-g", "--group", "groups", multiple=True, help="Only this group; can be given several times.")
@click.option("--all", "everything", is_flag=True, help="Unicast UDP too.")
@click.option("--to", "form", type=click.Choice(FORMS), help="Format of OUT, when its suffix does not show it.")
def command(source: str, target: str, groups: tuple[str, ...], everything: bool, form: str | None) -> None:
    """Convert the multicast packets of IN to the form of OUT: pcapng, pcap (times in ns), CSV, or Parquet.

    IN is pcapng, pcap, or CSV as this writes it; .gz and .zst behind a suffix compress; - is standard input or output.
    Headers below UDP are rebuilt: packets keep what a receiver would have received.

    Exits 0; 1 on an error, after everything before it was converted; 2 on a usage error.
    """
    form = form_of(target, form)
    packets = convert_file(standard_input(source), standard_output(target), form, groups, not everything)
    complain(f"converted {packets} packets to {form}")
