"""mcast-fast bench: what this host can hold."""

import json
import os
import sys
from dataclasses import replace
from typing import Any

import click

from mcast_fast import _core
from mcast_fast._bench import words
from mcast_fast._bench.hosts import Listening, Remote
from mcast_fast._bench.load import SMALLEST, Load
from mcast_fast._bench.measure import WAYS, Bench, Outcome, Wanted, on_loopback
from mcast_fast._bench.search import RESOLUTION
from mcast_fast._sending.outgoing import LARGEST_PAYLOAD
from mcast_fast._version import __version__
from mcast_fast.cli.codes import ERROR, INTERRUPTED
from mcast_fast.cli.options import GROUP, LONGER, PERCENT, shared
from mcast_fast.cli.output import complain, own_line, summarise, wrapped
from mcast_fast.cli.signals import stop_signals_call
from mcast_fast.doctor._probe_ends import unicast_port
from mcast_fast.errors import ArgumentError, GroupError
from mcast_fast.groups import Group

METHOD = (
    "After RFC 2544, section 26.1: the first trial is as fast as the sender sends; then rates between what was held "
    "and what was not, halving; the best one again, for twice as long. Lost is what was sent and did not come, by the "
    "numbers in the packets."
)


@click.command("bench", short_help="What this host can hold: the largest rate without loss.")
@click.argument("group", metavar="[GROUP]", type=GROUP, required=False)
@click.option("--to", "host", metavar="HOST", help="Send to GROUP, which HOST counts (bench --listen GROUP there).")
@click.option("--listen", is_flag=True, help="Count what another host sends to GROUP, until Ctrl-C.")
@click.option(
    "--size",
    "sizes",
    type=click.IntRange(SMALLEST, LARGEST_PAYLOAD[4]),
    multiple=True,
    default=(1316,),
    show_default="1316",
    help="Bytes of payload; can be given several times.",
)
@click.option(
    "-d",
    "--for",
    "--duration",
    "seconds",
    type=LONGER,
    default="10s",
    show_default=True,
    help="For each size and way of receiving.",
)
@click.option("--loss", type=PERCENT, default="0%", show_default=True, help="What may be lost, such as 0.1%.")
@click.option(
    "--ring/--no-ring", default=None, help="The ring alone, or sockets alone; by default both, where this user may."
)
@shared("buffer_size", ttl="TTL, with --to.")
@shared(json="Method, results and all trials as an object.")
def command(group: str | None, host: str | None, listen: bool, as_json: bool, **options: Any) -> None:
    """Find the largest rate of packets that arrive without loss: by sockets and, where this user may, by a ring.

    Without --to this machine sends to itself, over the loopback with TTL 0: then sender and receiver share its
    processors. Between two hosts, start the one that counts first:

    \b
    mcast-fast bench --listen 239.9.9.9%eth0:5009        on the one that counts
    mcast-fast bench --to 10.0.0.2 239.9.9.9%eth0:5009   on the one that sends

    A trial is a rate. The first one is as fast as the sender sends; where nothing is lost, the sender is the limit, and
    what lies beyond is unknown. Otherwise rates are halved until they are within 5 % of each other, and the best one
    is tried once more. It loads processors and network fully: --to only where that disturbs nobody.

    Exits 0; 1 on an error, or when no rate was held; 2 on a usage error; 130 after Ctrl-C, with the results so far.
    """
    if listen and (host is not None or group is None):
        raise click.UsageError("--listen takes a GROUP, and no --to")
    if not listen and (host is None) != (group is None):
        raise click.UsageError("give --to HOST and GROUP, or neither: then it measures over the loopback")
    named = {} if options["buffer_size"] is None else {"buffer_size": options["buffer_size"]}
    if listen:
        _listen(_single(group), named)
        return
    wanted = Wanted(
        sizes=options["sizes"],
        ways={None: WAYS, True: ("ring",), False: ("sockets",)}[options["ring"]],
        seconds=options["seconds"],
        allowed=options["loss"],
    )
    bench = Bench(wanted, summarise)
    with stop_signals_call(bench.stop):
        if host is None:
            outcome = on_loopback(bench, **named)
        else:
            outcome = _between_hosts(bench, host, _single(group), options["ttl"])
    own_line()
    _report(outcome, wanted, host, as_json)
    if not outcome.is_whole:
        raise click.exceptions.Exit(INTERRUPTED)
    if not all(one.rate for one in outcome.results):
        raise click.exceptions.Exit(ERROR)


def _single(text: str | None) -> Group:
    """One group with its port."""
    group = Group.parse(text or "")
    if group.port is None:
        raise GroupError(f"{group} names no port; write {replace(group, port=5009)}")
    if group.count != 1 or group.source is not None or group.interface == "all":
        raise ArgumentError(f"{group}: a bench takes one group on one interface, and no source")
    return group


def _listen(group: Group, named: dict[str, Any]) -> None:
    with Listening(group, named, complain) as listening, stop_signals_call(listening.stop):
        complain(f"counting what is sent to {group}; requests to UDP port {listening.port}; Ctrl-C ends it")
        listening.serve()


def _between_hosts(bench: Bench, host: str, group: Group, ttl: int) -> Outcome:
    assert group.port is not None
    remote = Remote(host, unicast_port(group.port), bench.is_stopped)
    try:
        return bench.run(remote.opened, lambda size: Load(str(group), size, ttl))
    finally:
        remote.close()


def _report(outcome: Outcome, wanted: Wanted, host: str | None, as_json: bool) -> None:
    if as_json:
        found = {
            "version": __version__,
            "backend": _core.backend,
            "method": METHOD,
            "resolution": RESOLUTION,
            "seconds": wanted.seconds,
            "loss_allowed": wanted.allowed,
            "to": host,
            "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "results": [one.as_dict() for one in outcome.results],
            "not_tried": outcome.not_tried,
            "whole": outcome.is_whole,
        }
        click.echo(json.dumps(found, indent=2))
        return
    for one in outcome.results:
        click.echo(wrapped(words.details(one), sys.stdout))
    for how, reason in outcome.not_tried.items():
        click.echo(wrapped(f"{how} was not tried: {reason}", sys.stdout))
    if outcome.results:
        click.echo(wrapped(f"{words.verdict(outcome.results, outcome.not_tried)}.", sys.stdout))
