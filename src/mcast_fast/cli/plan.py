"""mcast-fast plan: what the plan of a cluster says, and who records what by it."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from mcast_fast._units import plural
from mcast_fast.cli.codes import ERROR
from mcast_fast.cli.options import FILE, shared
from mcast_fast.cli.output import complain
from mcast_fast.cluster._deal import Deal, Share
from mcast_fast.cluster._plan import Plan

ACTIONS = ("check", "show", "deal")
MEGABIT = 1e6


@click.command("plan", short_help="The plan of a cluster: who records what.")
@click.argument("action", type=click.Choice(ACTIONS))
@click.argument("path", metavar="FILE", type=FILE)
@click.option(
    "--down", multiple=True, metavar="HOST", help="deal: as if this host had failed; can be given several times."
)
@shared(json="What is shown as an object.")
def command(action: str, path: str, down: tuple[str, ...], as_json: bool) -> None:
    """Check, show or deal the plan in FILE (TOML; docs/cluster.md).

    \b
    check  whether it is a plan, and whether every host can record its share, also
           when any other one fails
    show   hosts, groups and rules
    deal   the groups that each host records

    Exits 0; 1 when check finds a host with more than its capacity; 2 when it is no plan.
    """
    plan = Plan.load(path)
    if down and action != "deal":
        raise click.UsageError("--down goes with deal")
    ACTIONS_DO[action](plan, down, as_json)


def _check(plan: Plan, _down: tuple[str, ...], as_json: bool) -> None:
    found = _overloads(plan)
    if as_json:
        click.echo(json.dumps({"digest": plan.digest, "overloads": found}))
    else:
        for one in found:
            when = f"when {one['down']} fails" if one["down"] else "when all hosts are there"
            rate, capacity = one["rate"] / MEGABIT, one["capacity"] / MEGABIT
            complain(f"{one['host']} records {rate:,.0f} Mbit/s {when}, and can {capacity:,.0f}")
        if not found:
            groups = len(plan.groups)
            click.echo(
                f"{path_text(plan)}: {plural(len(plan.hosts), 'host')}, {plural(groups, 'group')}, digest {plan.digest}"
            )
    if found:
        raise click.exceptions.Exit(ERROR)


def path_text(plan: Plan) -> str:
    """The name of a plan, or of its file."""
    return plan.name or plan.path


def _overloads(plan: Plan) -> list[dict[str, Any]]:
    """The hosts with more than their capacity: when all are there, or when one has failed."""
    deal = Deal(plan)
    return [
        {"host": share.host, "down": down, "rate": share.rate, "capacity": share.capacity}
        for down in ("", *plan.hosts)
        for share in deal.shares([name for name in plan.hosts if name != down])
        if share.capacity is not None and share.rate > share.capacity
    ]


def _show(plan: Plan, _down: tuple[str, ...], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(asdict(plan), default=str, indent=2))
        return
    beat = plan.heartbeat
    click.echo(f"{path_text(plan)}, digest {plan.digest}")
    click.echo(f"heartbeats on {beat.group} every {beat.interval / 1e6:g} ms; silent after {beat.silent / 1e6:g} ms")
    rules = ", ".join(f"{name} {value}" for name, value in plan.files.rotate.items() if value is not None)
    click.echo(f"files {plan.files.name}, next at {rules}")
    for host in plan.hosts.values():
        capacity = f", up to {host.capacity / MEGABIT:,.0f} Mbit/s" if host.capacity else ""
        click.echo(f"host {host.name}{' (spare)' if host.spare else ''}: {host.directory}{capacity}")
    for feed in plan.feeds:
        legs = " = ".join(map(str, feed.legs))
        hosts = f", on {', '.join(feed.hosts)}" if feed.hosts else ""
        copies = f", {feed.copies} copies" if feed.copies > 1 else ""
        click.echo(f"{legs}: {feed.format or 'no numbers'}, {feed.rate / MEGABIT:g} Mbit/s each{copies}{hosts}")


def _deal(plan: Plan, down: tuple[str, ...], as_json: bool) -> None:
    deal = Deal(plan)
    deal.shares(down)  # ArgumentError for a host that there is not
    shares = deal.shares([name for name in plan.hosts if name not in down])
    if as_json:
        click.echo(
            json.dumps({one.host: {"rate": one.rate, "groups": list(map(str, one.groups))} for one in shares}, indent=2)
        )
        return
    for share in shares:
        click.echo(_share_text(share))
        for group in share.groups:
            click.echo(f"  {group}")


def _share_text(share: Share) -> str:
    capacity = f" of {share.capacity / MEGABIT:,.0f}" if share.capacity is not None else ""
    return f"{share.host}: {plural(len(share.groups), 'group')}, {share.rate / MEGABIT:,.1f}{capacity} Mbit/s"


ACTIONS_DO: dict[str, Callable[[Plan, tuple[str, ...], bool], None]] = {"check": _check, "show": _show, "deal": _deal}
