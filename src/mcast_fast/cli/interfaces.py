"""mcast-fast interfaces: what can be joined on."""

import dataclasses
import json
import shutil
import sys
import textwrap

import click

from mcast_fast._host.interfaces import Interface, default_interface, interfaces
from mcast_fast.cli.options import shared
from mcast_fast.cli.output import aligned
from mcast_fast.errors import InterfaceError

# A group without a meaning in any standard, to look up in the routing table.
PROBES = {4: "239.1.1.1", 6: "ff15::1"}
FLAGS = {"up": "is_up", "multicast": "is_multicast", "loopback": "is_loopback", "carrier": "has_carrier"}
SHORT = {"generic-receive-offload": "gro"}


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


HEADINGS = ("name", "index", *FLAGS, "offloads", "addresses", "default for")
NARROW = ("name", "index", "flags", "offloads", "default for")  # where lines are short; addresses are under each row


def _print_table(listed: list[Interface], defaults: dict[int, int | None]) -> None:
    """A line for each interface and address; where that is wider than the terminal, addresses under each interface."""
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = aligned(_rows(listed, defaults), len(HEADINGS))
    if width is not None and max(map(len, lines)) > width:
        heading, *rows = aligned(_narrow_rows(listed, defaults), len(NARROW))
        lines = [heading]
        for row, one in zip(rows, listed, strict=True):
            addresses = textwrap.wrap(
                ", ".join(one.addresses), width - 2, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False
            )
            lines += [row, *addresses]
    click.echo(click.style(lines[0], bold=True))
    for line in lines[1:]:
        click.echo(line.rstrip())


def _rows(listed: list[Interface], defaults: dict[int, int | None]) -> list[list[str]]:
    rows = [list(HEADINGS)]
    for one in listed:
        flags = ("yes" if getattr(one, name) else "-" for name in FLAGS.values())
        first, *others = one.addresses or ("",)
        rows.append([one.name, str(one.index), *flags, _offloads(one), first, _default_for(one, defaults)])
        rows += [[""] * (len(HEADINGS) - 2) + [address, ""] for address in others]
    return rows


def _narrow_rows(listed: list[Interface], defaults: dict[int, int | None]) -> list[list[str]]:
    rows = [list(NARROW)]
    for one in listed:
        flags = ", ".join(heading for heading, name in FLAGS.items() if getattr(one, name)) or "-"
        rows.append([one.name, str(one.index), flags, _offloads(one), _default_for(one, defaults)])
    return rows


def _default_for(one: Interface, defaults: dict[int, int | None]) -> str:
    return ", ".join(f"IPv{version}" for version in _versions(one, defaults))
