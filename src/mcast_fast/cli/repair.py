"""mcast-fast repair: a truncated capture file becomes a readable one."""

import dataclasses
import json
import sys

import click

from mcast_fast._units import plural
from mcast_fast.cli.options import FILE, shared
from mcast_fast.cli.output import wrapped
from mcast_fast.files._repair import Repaired, repair


@click.command("repair", short_help="Make a truncated capture file readable.")
@click.argument("file", metavar="FILE", type=FILE)
@click.option("-o", "--output", metavar="OUT", type=FILE, help="Copy what can be read to OUT, and leave FILE as it is.")
@shared(json="An object instead of a line.")
def command(file: str, output: str | None, as_json: bool) -> None:
    """Cut a capture file where it cannot be read any further, and say what was cut.

    What is cut off FILE is kept as FILE.cut; an older file is never written over.

    Exits 0, also when there was nothing to repair; 1 when nothing of FILE can be read; 2 on a usage error.
    """
    done = repair(file, output)
    click.echo(json.dumps(dataclasses.asdict(done)) if as_json else wrapped(_line(done), sys.stdout))


def _line(done: Repaired) -> str:
    kept = f"{done.output}: {plural(done.kept, 'byte')} with {plural(done.frames, 'packet')}"
    if not done.cut:
        return f"{kept} can be read to the end; nothing was cut"
    where = f" and kept in {done.remains}" if done.remains else ""
    return f"{kept} kept; {plural(done.cut, 'byte')} cut{where}: {done.reason}"
