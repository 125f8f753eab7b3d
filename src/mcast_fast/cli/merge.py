"""mcast-fast merge: several capture files become one, in the order of time."""

import dataclasses
import json

import click

from mcast_fast._units import plural
from mcast_fast.cli.codes import LOSS
from mcast_fast.cli.options import FILE, shared
from mcast_fast.cli.output import complain, standard_output, written_over
from mcast_fast.files._merge import merge


@click.command("merge", short_help="Merge capture files into one, ordered by time.")
@click.argument("files", metavar="FILE...", type=FILE, nargs=-1, required=True)
@click.option(
    "-w", "--write", "target", metavar="OUT", type=FILE, required=True, help="The result; - is standard output."
)
@shared(
    json="The report as an object; on standard error where OUT is -.", fail_on_loss="Exit 3 when blocks were left out."
)
def command(files: tuple[str, ...], target: str, as_json: bool, fail_on_loss: bool) -> None:
    """Merge FILEs, pcapng or pcap, into the pcapng file OUT, ordered by time; memory does not grow with their size.

    Every block is kept as it is: frames, comments, drops, statistics. Interfaces of the files stay apart. Packets that
    come in their file behind more than 256 younger ones are written late, and counted. A .gz or .zst behind OUT's
    suffix compresses.

    Exits 0; 1 on an error, after everything that can be read was merged; 2 on a usage error; 3 when blocks were left
    out, with --fail-on-loss.
    """
    note = written_over(target)
    done = merge(files, standard_output(target))
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(done)), err=target == "-")
    else:
        counted = {"late": done.late, "left out": done.left_out}
        of = f"{plural(done.files, 'file')} and {plural(done.interfaces, 'interface')}"
        notes = "".join(f"; {name} {count:,}" for name, count in counted.items() if count)
        complain(f"merged {plural(done.blocks, 'block')} of {of}{note}{notes}")
    if fail_on_loss and done.left_out:
        raise click.exceptions.Exit(LOSS)
