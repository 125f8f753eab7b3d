"""mcast-fast doctor: why packets do not arrive, and what cures it."""

import shutil
import sys
import threading
from dataclasses import replace
from typing import Any

import click

from mcast_fast._units import NANOSECONDS
from mcast_fast.cli.options import FILE, GROUP, LONGER, TIME, groups_alone, shared
from mcast_fast.cli.output import brief_time, complain, own_line
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.doctor._examination import examined
from mcast_fast.doctor._text import as_json as json_text
from mcast_fast.doctor._text import lines, write_bundle
from mcast_fast.groups import Group

STYLES: dict[str, dict[str, Any]] = {
    "problem": {"fg": "red", "bold": True},
    "warning": {"fg": "yellow", "bold": True},
    "unknown": {"fg": "magenta"},
    "ok": {"fg": "green"},
    "remedy": {"bold": True},
}


@click.command("doctor", short_help="Why packets of a group do not arrive.")
@click.argument("groups", metavar="[GROUP...]", type=GROUP, nargs=-1, callback=groups_alone)
@shared("interface", "port")
@click.option("--seconds", type=TIME, default="10s", show_default=True, help="Listen for this long at most.")
@click.option(
    "-d",
    "--for",
    "--duration",
    "watch",
    type=LONGER,
    help="Listen for this long (10min), and say when and why packets stop.",
)
@click.option("--ring", is_flag=True, help="The program is to have a ring (CAP_NET_RAW).")
@click.option("--no-spread", is_flag=True, help="The program has one socket for all groups, with its limits.")
@shared(json="One JSON object instead of text.")
@click.option(
    "--bundle", metavar="FILE", type=FILE, help="Write everything that was read as a .tar.gz, for a bug report."
)
@click.option("--mask", is_flag=True, help="In the bundle, names in place of the addresses of hosts.")
def command(
    groups: tuple[str, ...],
    interface: str | None,
    port: int | None,
    seconds: float,
    watch: float | None,
    ring: bool,
    no_spread: bool,
    as_json: bool,
    bundle: str | None,
    mask: bool,
) -> None:
    """Say why packets of groups do not arrive on this host, with the evidence, and what cures it.

    With a GROUP it joins, and listens at the interfaces (which needs CAP_NET_RAW) and by sockets, until Ctrl-C at the
    latest; without one it examines the host, or with --interface that interface and which groups arrive there. It
    changes nothing. Findings are ranked: the first one is the cause to remove first. Lines that begin with > are
    commands to run, or calls to write, as they are.

    Exits 0; 1 when there is a problem, or the bundle cannot be written; 2 on a usage error.

    \b
      mcast-fast doctor 239.1.1.1%eth0:5000
      mcast-fast doctor 239.1.1.1%eth0:5000 --for 10min
      mcast-fast doctor --interface eth0
    """
    ended = threading.Event()
    if watch is not None and sys.stderr.isatty():
        complain(f"listening for {brief_time(round(watch * NANOSECONDS))}; Ctrl-C ends it early")
    with stop_signals_call(ended.set):
        report = examined(
            [replace(one, interface=one.interface or interface) for one in map(Group.parse, groups)],
            ended.is_set,
            interface=interface,
            port=port,
            seconds=seconds if watch is None else watch,
            watch=watch is not None,
            ring=ring,
            spread=not no_spread,
        )
    own_line()
    if as_json:
        click.echo(json_text(report))
    else:
        for style, line in lines(report, shutil.get_terminal_size().columns):
            click.echo(click.style(line, **STYLES[style]) if style in STYLES else line)
    if bundle is not None:  # last: where it cannot be written the report is not lost
        write_bundle(report, bundle, masked=mask)
        complain(f"wrote {bundle}")
    if report.problems:
        raise click.exceptions.Exit(1)
