"""mcast-fast help: the help of a verb."""

import click

from mcast_fast.cli.options import VERB


@click.command("help", short_help="The help of a verb, or of the program.")
@click.argument("verb", type=VERB, required=False)
@click.pass_context
def command(ctx: click.Context, verb: str | None) -> None:
    """Show the help of VERB, as its --help does; without one, that of the program."""
    whole = ctx.parent or ctx
    group = whole.command
    if verb is None or not isinstance(group, click.Group):
        click.echo(whole.get_help())
        return
    name, found, _ = group.resolve_command(whole, [verb])
    if found is not None:
        click.echo(found.get_help(click.Context(found, whole, name)))
