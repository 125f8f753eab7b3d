"""mcast-fast version: version, backend and features."""

import json

import click

from mcast_fast import _core
from mcast_fast._version import __version__, version_text
from mcast_fast.cli.options import shared


@click.command("version", short_help="Version, backend and features.")
@shared(json="An object, with the features of this system.")
def command(as_json: bool) -> None:
    """Print the version and the backend that runs, and which features of it this system does not have, and why."""
    features = _core.features()
    if as_json:
        off = {name: one.reason for name, one in features.items() if not one}
        found = {"version": __version__, "backend": _core.backend}
        click.echo(json.dumps(found | {"features": [name for name in features if name not in off], "off": off}))
        return
    click.echo(version_text(_core.backend))
    for name, one in features.items():
        if not one:
            click.echo(f"without {name}: {one.reason}")
