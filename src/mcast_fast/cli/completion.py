"""mcast-fast completion: what shells complete verbs, options and interfaces by."""

import click
from click.shell_completion import ShellComplete, get_completion_class

SHELLS = ("bash", "zsh", "fish")


@click.command("completion", short_help="Completion for bash, zsh and fish.")
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the script by which SHELL completes verbs, options, their values and the names of interfaces."""
    whole = ctx.find_root().command
    made = get_completion_class(shell)
    if made is not None:
        # Not the class's own source(), which for bash runs bash to see its version.
        click.echo(ShellComplete.source(made(whole, {}, "mcast-fast", "_MCAST_FAST_COMPLETE")))
