"""mcast-fast send: datagrams to groups, and the answers."""

import os
import sys
import time

import click

from mcast_fast.cli.output import complain, text_line
from mcast_fast.errors import GroupError, SendError
from mcast_fast.groups import Group
from mcast_fast.sender import LARGEST_PAYLOAD, Sender

AT_ONCE = 256  # payloads handed over together
NOTHING_CAME = 4


@click.command("send", short_help="Send datagrams to groups.")
@click.argument("arguments", metavar="GROUP... [PAYLOAD]", nargs=-1, required=True)
@click.option("-i", "--interface", help="Name, index or address, or 'all'; for groups that name none.")
@click.option("-p", "--port", type=int, help="UDP port, for groups that name none.")
@click.option("--source", help="Send from this address of this machine.")
@click.option("-c", "--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many times.")
@click.option("--size", type=click.IntRange(0, LARGEST_PAYLOAD[6]), help="Send so many bytes instead of a PAYLOAD.")
@click.option("--ttl", type=int, default=1, show_default=True, help="TTL or hop limit; 0 stays on this machine.")
@click.option("--no-loopback", is_flag=True, help="Receivers on this machine do not hear it.")
@click.option("--wait", type=click.FloatRange(min=0), help="Print the answers that come within so many seconds.")
def command(
    arguments: tuple[str, ...],
    interface: str | None,
    port: int | None,
    source: str | None,
    count: int,
    size: int | None,
    ttl: int,
    no_loopback: bool,
    wait: float | None,
) -> None:
    """Send PAYLOAD (a text; - reads it from standard input) to every GROUP, and print how many datagrams left.

    Exits 0; 1 on an error; 2 on a wrong usage; 4 when no answer came within --wait.
    """
    groups, payload = _what_to_send(arguments, size)
    with Sender(*groups, port=port, interface=interface, source=source, ttl=ttl, loopback=not no_loopback) as sender:
        _send(sender, payload, count)
        if wait is not None and not _print_answers(sender, wait):
            complain(f"no answer came within {wait:g} s")
            raise click.exceptions.Exit(NOTHING_CAME)


def _what_to_send(arguments: tuple[str, ...], size: int | None) -> tuple[tuple[str, ...], bytes]:
    """The groups, and the payload: the last argument, unless a size stands for it."""
    if size is not None:
        return arguments, (bytes(range(256)) * (size // 256 + 1))[:size]
    *groups, text = arguments
    if not groups or _is_group(text):
        raise click.UsageError(f"no payload after {text}; give a text, - for standard input, or --size")
    if text == "-":
        # One byte more than fits is enough for the system to refuse it.
        return tuple(groups), sys.stdin.buffer.read(LARGEST_PAYLOAD[6] + 1)
    return tuple(groups), os.fsencode(text)


def _is_group(text: str) -> bool:
    try:
        Group.parse(text)
    except GroupError:
        return False
    return True


def _send(sender: Sender, payload: bytes, count: int) -> None:
    """Send it `count` times; how many left is printed whatever happens."""
    sent = 0
    try:
        for at in range(0, count, AT_ONCE):
            sent += sender.send_batch([payload] * min(AT_ONCE, count - at))
    except SendError as error:
        sent += error.sent
        raise
    finally:
        click.echo(f"sent {sent}")


def _print_answers(sender: Sender, wait: float) -> int:
    """Print what comes back within `wait` seconds; how many answers that were."""
    came = 0
    end = time.monotonic() + wait
    while (left := end - time.monotonic()) > 0:
        try:
            click.echo(text_line(sender.recv(timeout=left)))
        except TimeoutError:
            break
        came += 1
    return came
