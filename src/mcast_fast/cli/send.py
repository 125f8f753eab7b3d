"""mcast-fast send: datagrams to groups, and the answers."""

import os
import secrets
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import BinaryIO

import click

from mcast_fast._sending.outgoing import LARGEST_PAYLOAD
from mcast_fast._units import NANOSECONDS, rate_of
from mcast_fast.cli.output import INTERRUPTED, NOTHING_CAME, complain, text_line
from mcast_fast.errors import GroupError
from mcast_fast.groups import Group
from mcast_fast.sender import Sender
from mcast_fast.sequence._format import END, stamp

AT_ONCE = 256  # payloads handed over together
ENDS = 3  # times that the end of numbered datagrams is sent, for one may be lost
PROGRESS_NS = NANOSECONDS  # from one line of progress to the next


@click.command("send", short_help="Send datagrams to groups.")
@click.argument("arguments", metavar="GROUP... [PAYLOAD]", nargs=-1, required=True)
@click.option("-i", "--interface", help="Name, index or address, or 'all'; for groups that name none.")
@click.option("-p", "--port", type=int, help="UDP port, for groups that name none.")
@click.option("--source", help="Send from this address of this machine.")
@click.option("--source-port", type=int, help="Send from this UDP port.")
@click.option("-c", "--count", type=click.IntRange(min=1), default=1, show_default=True, help="How many times.")
@click.option("--size", type=click.IntRange(0, LARGEST_PAYLOAD[6]), help="Send this many bytes instead of a PAYLOAD.")
@click.option("--file", type=click.File("rb"), help="Send a file's bytes instead, in datagrams of --size (1316).")
@click.option("--stdin-lines", is_flag=True, help="Send each line of standard input instead, without its end.")
@click.option(
    "--sequence", is_flag=True, help="Number the datagrams (format mcast-fast), and send how many there were."
)
@click.option("--rate", help="Per second: '50k/s' datagrams, or '800Mbit/s' of payload, over all groups.")
@click.option("--interval", type=click.FloatRange(min=0, min_open=True), help="Seconds from one datagram to the next.")
@click.option("--ttl", type=int, default=1, show_default=True, help="TTL or hop limit; 0 stays on this machine.")
@click.option("--dscp", type=int, help="DSCP, 0 to 63.")
@click.option("--no-loopback", is_flag=True, help="Do not deliver to receivers on this machine.")
@click.option("--no-segmentation", is_flag=True, help="Have the kernel segment nothing (UDP GSO).")
@click.option("--wait", type=click.FloatRange(min=0), help="Print the answers that arrive within this many seconds.")
@click.option("--progress", is_flag=True, help="A line per second on standard error, also when that is no terminal.")
def command(
    arguments: tuple[str, ...],
    interface: str | None,
    port: int | None,
    source: str | None,
    source_port: int | None,
    count: int,
    size: int | None,
    file: BinaryIO | None,
    stdin_lines: bool,
    sequence: bool,
    rate: str | None,
    interval: float | None,
    ttl: int,
    dscp: int | None,
    no_loopback: bool,
    no_segmentation: bool,
    wait: float | None,
    progress: bool,
) -> None:
    """Send PAYLOAD (a text; - reads it from standard input) to every GROUP, and print how many datagrams left.

    Exits 0; 1 on an error; 2 on a usage error; 4 when no answer came within --wait; 130 on Ctrl-C, after the count.
    """
    groups, payloads = _what_to_send(arguments, size, file, stdin_lines, count)
    wanted_rate = _rate(rate, interval)
    at_once = _at_once(wanted_rate, stdin_lines)
    with Sender(
        *groups,
        port=port,
        interface=interface,
        source=source,
        source_port=source_port,
        ttl=ttl,
        dscp=dscp,
        loopback=not no_loopback,
        rate=wanted_rate,
        segmentation=not no_segmentation,
    ) as sender:
        numbers = Numbers() if sequence else None
        numbered = payloads if numbers is None else map(numbers.number, payloads)
        _send(sender, numbered, at_once, progress or sys.stderr.isatty())
        if numbers is not None:
            for _ in range(ENDS):
                sender.send(numbers.end())
        if wait is not None and not _print_answers(sender, wait):
            complain(f"no answer came within {wait:g} s")
            raise click.exceptions.Exit(NOTHING_CAME)


class Numbers:
    """Numbers the datagrams of one run, in the format "mcast-fast": 32 bytes before each payload."""

    def __init__(self) -> None:
        self._sender = secrets.randbits(64)
        self._next = 0

    def number(self, payload: bytes) -> bytes:
        """The next number, and the payload."""
        header = stamp(self._next, self._sender, time.time_ns())
        self._next += 1
        return header + payload

    def end(self) -> bytes:
        """What says how many there were."""
        return stamp(self._next, self._sender, time.time_ns(), END)


def _what_to_send(
    arguments: tuple[str, ...], size: int | None, file: BinaryIO | None, stdin_lines: bool, count: int
) -> tuple[tuple[str, ...], Iterator[bytes]]:
    """The groups, and the payloads `count` times: by the options, or the last argument."""
    if file is not None and stdin_lines:
        raise click.UsageError("--file and --stdin-lines exclude each other")
    if file is not None:
        return arguments, _pieces(file, size or 1316, count)
    if stdin_lines:
        if count != 1 or size is not None:
            raise click.UsageError("--stdin-lines sends each line once; leave --count and --size out")
        return arguments, (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    if size is not None:
        return arguments, _times((bytes(range(256)) * (size // 256 + 1))[:size], count)
    *groups, text = arguments
    if not groups or _is_group(text):
        raise click.UsageError(f"no payload after {text}; give a text, - for standard input, or --size")
    # One byte more than fits is enough for the system to refuse it.
    payload = sys.stdin.buffer.read(LARGEST_PAYLOAD[6] + 1) if text == "-" else os.fsencode(text)
    return tuple(groups), _times(payload, count)


def _times(payload: bytes, count: int) -> Iterator[bytes]:
    return (payload for _ in range(count))


def _pieces(file: BinaryIO, size: int, count: int) -> Iterator[bytes]:
    """The file in pieces of `size` bytes, from its beginning each time."""
    for turn in range(count):
        if turn:
            file.seek(0)
        while piece := file.read(size):
            yield piece


def _is_group(text: str) -> bool:
    try:
        Group.parse(text)
    except GroupError:
        return False
    return True


def _rate(rate: str | None, interval: float | None) -> float | str | None:
    if rate is not None and interval is not None:
        raise click.UsageError("--rate and --interval exclude each other")
    return rate if interval is None else 1 / interval


def _at_once(rate: float | str | None, stdin_lines: bool) -> int:
    """How many payloads to hand over together: a tenth of a second's, and a line as soon as it is there."""
    if stdin_lines:
        return 1
    if rate is None:
        return AT_ONCE
    wanted = rate_of(rate)
    a_second = wanted.per_second / (8 * LARGEST_PAYLOAD[6]) if wanted.by_bits else wanted.per_second
    return max(1, min(AT_ONCE, int(a_second / 10)))


def _send(sender: Sender, payloads: Iterator[bytes], at_once: int, progress: bool) -> None:
    """Send them all; how many left is printed whatever happens."""
    shown = time.monotonic_ns()
    try:
        while batch := list(islice(payloads, at_once)):
            sender.send_batch(batch)
            if progress and time.monotonic_ns() - shown >= PROGRESS_NS:
                shown = time.monotonic_ns()
                complain(f"sent {sender.stats.datagrams}")
    except KeyboardInterrupt:
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        click.echo(f"sent {sender.stats.datagrams}")


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
