"""The command line: one file a verb, printing only.

Exit codes: 0 ok · 1 runtime error, a packet of the demo was lost, or a probe found a problem · 2 usage · 3 loss, while
recording or of a checked feed · 4 nothing came before the timeout.
"""

import importlib
import io
import sys
import warnings
from typing import Any

import click

from mcast_fast import _core
from mcast_fast._version import version_text
from mcast_fast.cli.output import USAGE_ERRORS, complain, discard_output, one_line_warnings
from mcast_fast.errors import MulticastError, os_text

# Each in the module of its name, imported when it is first used: `record` does not start with what `replay` needs.
VERBS = (
    *("demo", "receive", "send", "record", "replay", "check", "arbitrate", "info", "convert", "merge", "repair"),
    *("interfaces", "doctor", "probe", "top"),
)


class Program(click.Group):
    """A group of verbs whose errors and warnings are one line each on standard error."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        """The verbs, as the help lists them."""
        return list(VERBS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        """The verb of this name, whose module is imported now."""
        if name not in VERBS:
            return None
        command: click.Command = importlib.import_module(f"mcast_fast.cli.{name}").command
        return command

    def main(self, *arguments: Any, **named: Any) -> Any:
        """Run the program; what a verb raises decides the exit code."""
        if isinstance(sys.stdout, io.TextIOWrapper):  # a name that its code page does not have is no error
            sys.stdout.reconfigure(errors="backslashreplace")
        with warnings.catch_warnings():
            one_line_warnings()
            try:
                return super().main(*arguments, **named)
            except USAGE_ERRORS as error:
                complain(str(error))
                sys.exit(2)
            except MulticastError as error:
                complain(str(error))
                sys.exit(1)
            except OSError as error:  # of writing: the library makes its own of all others. Click handles EPIPE alone.
                discard_output()
                complain(f"standard output: {os_text(error.errno)}" if error.errno else str(error))
                sys.exit(1)


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(version_text(_core.backend))
        ctx.exit()


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Version and backend."
)
def program() -> None:
    """Multicast packets as fast as the kernel hands them over, with every lost packet accounted for.

    \b
    A group is written [SOURCE@]GROUP[%INTERFACE][:PORT][+N]:
      239.1.1.1:5000                  any source, the routing table's interface
      10.0.0.5@232.1.1.1%eth0:5000    one source, on eth0
      [ff15::1%eth0]:5000             IPv6, in brackets when a port follows
      239.1.1.1%all:5000+16           16 consecutive groups on every interface
    """
