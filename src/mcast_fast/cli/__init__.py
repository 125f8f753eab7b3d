"""The command line: one file a verb, printing only; `options` has what verbs share, `codes` the exit codes."""

import contextlib
import importlib
import io
import os
import sys
import warnings
from typing import Any

import click

from mcast_fast import _core
from mcast_fast._version import version_text
from mcast_fast.cli.codes import ERROR, EXIT_CODES, INTERRUPTED, OK, USAGE
from mcast_fast.cli.examples import EXAMPLES
from mcast_fast.cli.output import USAGE_ERRORS, complain, discard_output, one_line_warnings
from mcast_fast.cli.words import in_options, nearest, options_of
from mcast_fast.errors import GroupError, MulticastError, os_text
from mcast_fast.groups import Group

# Each in the module of its name, imported when it is first used: `record` does not start with what `replay` needs.
VERBS = (
    *("demo", "receive", "send", "record", "replay", "check", "arbitrate", "info", "convert", "merge", "repair"),
    *("interfaces", "doctor", "probe", "top", "report", "bench", "plan", "manifest", "help", "version", "completion"),
    "man",
)


def examples_text(verb: str) -> str:
    """The examples of a verb, for the end of its help."""
    lines = (f"  {command}\n      {meaning}" for command, meaning in EXAMPLES.get(verb, ()))
    return "\b\nExamples:\n" + "\n".join(lines)


def codes_text() -> str:
    """The table of exit codes, for the end of the program's help."""
    return "\b\nExit codes:\n" + "\n".join(f"  {code:<3}  {meaning}" for code, meaning in EXIT_CODES.items())


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
        if command.epilog is None and name in EXAMPLES:
            command.epilog = examples_text(name)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The verb that the arguments begin with; a usage error says which one is near."""
        name = args[0]
        if name not in VERBS and not name.startswith("-") and not ctx.resilient_parsing:
            raise click.UsageError(_no_verb(name), ctx)
        return super().resolve_command(ctx, args)

    def main(self, *arguments: Any, **named: Any) -> Any:
        """Run the program; what a verb raises decides the exit code."""
        if isinstance(sys.stdout, io.TextIOWrapper):  # a name that its code page does not have is no error
            sys.stdout.reconfigure(errors="backslashreplace")
        with warnings.catch_warnings():
            one_line_warnings()
            try:
                sys.exit(super().main(*arguments, **named | {"standalone_mode": False}) or OK)
            except click.ClickException as error:
                _complain_of_usage(error)
                sys.exit(error.exit_code)
            except click.Abort:  # Ctrl-C where a verb does not end by it; click has gone to the next line
                complain("interrupted")
                sys.exit(INTERRUPTED)
            except OSError as error:  # of writing: the library makes its own of all others. Click handles EPIPE alone.
                discard_output()
                complain(f"standard output: {os_text(error.errno)}" if error.errno else str(error))
                sys.exit(ERROR)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the verb; what the library raises is one line in the words of the verb's options."""
        try:
            return super().invoke(ctx)
        except MulticastError as error:
            verb = self.get_command(ctx, ctx.invoked_subcommand or "") or self
            complain(in_options(error, options_of(verb)))
            raise click.exceptions.Exit(USAGE if isinstance(error, USAGE_ERRORS) else ERROR) from error


# What other programs call it, or people expect.
OTHER_NAMES = {
    **dict.fromkeys(("listen", "recv", "rx", "dump", "sniff", "join", "subscribe", "tail"), "receive"),
    **dict.fromkeys(("capture", "rec", "save"), "record"),
    **dict.fromkeys(("play", "playback", "resend"), "replay"),
    **dict.fromkeys(("tx", "blast", "publish"), "send"),
    **dict.fromkeys(("stat", "stats", "monitor", "watch"), "top"),
    **dict.fromkeys(("ping", "test"), "probe"),
    **dict.fromkeys(("interface", "ifconfig", "nics", "links"), "interfaces"),
    **dict.fromkeys(("diagnose", "debug", "why"), "doctor"),
}


def _no_verb(name: str) -> str:
    """That there is no such verb, and which one may be meant."""
    if name in OTHER_NAMES:
        return f"there is no verb {name!r} (did you mean {OTHER_NAMES[name]}?)"
    with contextlib.suppress(GroupError):
        return f"a verb comes before the group, such as: mcast-fast receive {Group.parse(name)}"
    return f"there is no verb {name!r}{nearest(name, VERBS)}"


def _complain_of_usage(error: click.ClickException) -> None:
    """One line, as all errors are: what is wrong, and where the help is."""
    message = error.format_message()
    if "\n" in message and not isinstance(error, click.MissingParameter):  # no verb was given: the message is the help
        click.echo(message, err=True)
        return
    if isinstance(error, click.BadParameter) and error.param is not None and error.message:
        if isinstance(error.param, click.Option):
            message = f"{max(error.param.opts, key=len)}: {error.message}"
        elif isinstance(error.param.type, click.Choice):
            message = f"{error.param.human_readable_name}: {error.message}"
    if isinstance(error, click.MissingParameter) and error.param is not None:
        message = f"{_named(error.param)} is missing"
    if isinstance(error, click.NoSuchOption) and error.ctx is not None:
        known = [name[2:] for one in error.ctx.command.params for name in one.opts if name.startswith("--")]
        near = nearest(error.option_name.lstrip("-"), known, "--")
        message = f"there is no option {error.option_name}{near}"
    context = error.ctx if isinstance(error, click.UsageError) else None
    where = f"; see `{context.command_path} --help`" if context is not None else ""
    begun = message[:1].lower() if message[1:2].islower() else message[:1]
    complain(begun + message[1:].rstrip(".") + where)


def _named(param: click.Parameter) -> str:
    """What a parameter is called, by its short name too, with an example where it is a group."""
    is_option = isinstance(param, click.Option)
    name = "/".join(param.opts[:2]) if is_option else param.metavar or param.human_readable_name
    if isinstance(param.type, click.Choice):
        return f"{name} ({', '.join(param.type.choices)})"
    return f"{name} (such as 239.1.1.1%eth0:5000)" if name.startswith(("GROUP", "LEG")) else name


def _print_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(version_text(_core.backend))
        ctx.exit()


@click.group(cls=Program, context_settings={"help_option_names": ["-h", "--help"]}, epilog=codes_text())
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_print_version, help="Version and backend."
)
@click.pass_context
def program(ctx: click.Context) -> None:
    """Multicast packets as fast as the kernel hands them over, with every lost packet accounted for.

    \b
    A group is written [SOURCE@]GROUP[%INTERFACE][:PORT][+N]:
      239.1.1.1:5000                  any source, the routing table's interface
      10.0.0.5@232.1.1.1%eth0:5000    one source, on eth0
      [ff15::1%eth0]:5000             IPv6, in brackets when a port follows
      239.1.1.1%all:5000+16           16 consecutive groups on every interface

    \b
    Times are seconds, or have a unit: 2, 100ms, 5min. Rates are datagrams per
    second, or have one: 50k, 50kpps, 10Mbps, 800Mbit/s. Sizes have one: 64MiB.
    """
    if os.environ.get("NO_COLOR"):  # https://no-color.org
        ctx.color = False
