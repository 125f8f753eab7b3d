"""mcast-fast interfaces: what can be joined on."""

import dataclasses
import json

import click

from mcast_fast._host.interfaces import Interface, default_interface, interfaces
from mcast_fast.cli.options import shared
from mcast_fast.errors import InterfaceError

# A group without a meaning in any standard, to look up in the routing table.
PROBES = {4: "239.1.1.1", 6: "ff15::1"}
FLAGS = {"up": "is_up", "multicast": "is_multicast", "loopback": "is_loopback", "carrier": "has_carrier"}
SHORT = {"generic-receive-offload": "gro"}
WIDE = 200  # columns where there is no terminal: nothing is folded, so that grep finds whole addresses


@click.command("interfaces", short_help="List the network interfaces.")
@shared(json="An array of objects instead of a table.")
def command(as_json: bool) -> None:
    """List the network interfaces, and which one a group is joined on when none is named (column 'default for').

    Column 'offloads': what coalesces received packets, as `ethtool -K` takes it (see --json for all); ? where it cannot
    be read."""
    listed = interfaces()
    defaults = {version: _default(group, listed) for version, group in PROBES.items()}
    if as_json:
        click.echo(json.dumps([_row(one, defaults) for one in listed], indent=2))
    else:
        _print_table(listed, defaults)


def _default(group: str, listed: list[Interface]) -> int | None:
    """The index of the interface for groups that name none; None when there is none."""
    try:
        return default_interface(group, listed).index
    except InterfaceError:
        return None


def _versions(one: Interface, defaults: dict[int, int | None]) -> list[int]:
    return [version for version, index in defaults.items() if index == one.index]


def _row(one: Interface, defaults: dict[int, int | None]) -> dict[str, object]:
    default_for = [f"IPv{version}" for version in _versions(one, defaults)]
    return dataclasses.asdict(one) | {"offloads": one.offloads, "default_for": default_for}


def _offloads(one: Interface) -> str:
    """Those that are on, as `ethtool -K` takes them."""
    states = one.offloads
    if None in states.values():
        return "?"
    return ", ".join(SHORT.get(name, name) for name, is_on in states.items() if is_on) or "-"


def _print_table(listed: list[Interface], defaults: dict[int, int | None]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("name", "index", *FLAGS, "offloads", "addresses", "default for"):
        table.add_column(heading, overflow="fold")  # the default would cut what is too wide
    for one in listed:
        flags = ("yes" if getattr(one, name) else "-" for name in FLAGS.values())
        marks = ", ".join(f"IPv{version}" for version in _versions(one, defaults))
        table.add_row(one.name, str(one.index), *flags, _offloads(one), "\n".join(one.addresses), marks)
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = WIDE
    console.print(table)
