"""mcast-fast send: datagrams to groups, and the answers."""

import dataclasses
import itertools
import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Iterator
from typing import Any, BinaryIO

import click

from mcast_fast._sending.outgoing import LARGEST_PAYLOAD, packets_in
from mcast_fast._units import NANOSECONDS
from mcast_fast.cli.codes import INTERRUPTED, NOTHING_CAME
from mcast_fast.cli.options import GROUP, LONGER, TIME, shared
from mcast_fast.cli.output import complain, interrupted, json_line, own_line, pace_object, pace_text, text_line
from mcast_fast.cli.progress import Renewed, shown_as
from mcast_fast.cli.rtp import Headers
from mcast_fast.errors import GroupError
from mcast_fast.groups import Group
from mcast_fast.sender import Sender
from mcast_fast.sequence._format import END, stamp

FOREVER = sys.maxsize
PATTERNS = {"counter": bytes(range(256)), "zeros": b"\0", "random": b""}
AT_ONCE = 256  # payloads handed over together
ENDS = 3  # times that the end of numbered datagrams is sent, for one may be lost


@click.command("send", short_help="Send datagrams to groups.")
@click.argument("arguments", metavar="GROUP... [PAYLOAD]", type=GROUP, nargs=-1, required=True)
@shared("interface", "port", "sending_source", "source_port")
@click.option(
    "-c", "--count", type=click.IntRange(min=1), metavar="N", help="How many times; 1, with --duration no limit."
)
@shared(duration="Send for this long (10s, 5min).")
@click.option(
    "--size", type=click.IntRange(0, LARGEST_PAYLOAD[6]), metavar="BYTES", help="Send this many bytes, not a PAYLOAD."
)
@click.option(
    "--pattern", metavar="HEX|NAME", help=f"What --size is filled with: hex digits, or {', '.join(PATTERNS)}."
)
@click.option("--file", type=click.File("rb"), help="Send a file's bytes instead, in datagrams of --size (1316).")
@click.option("--stdin-lines", is_flag=True, help="Send each line of standard input instead, without its end.")
@click.option("--rtp", is_flag=True, help="Put RTP headers before them, as of MPEG-TS (payload type 33).")
@click.option(
    "--sequence", is_flag=True, help="Number the datagrams (format mcast-fast), and send how many there were."
)
@shared(rate="Per second, over all groups: datagrams (50k), or payload (800Mbit/s).")
@click.option("--interval", type=LONGER, help="From one datagram to the next (100ms).")
@shared("ttl", "dscp", "no_loopback")
@click.option("--no-segmentation", is_flag=True, help="Have the kernel segment nothing (UDP GSO).")
@click.option("--wait", type=TIME, help="Print the answers that arrive within this time (2s).")
@shared("quiet", "progress", json="The report as an object.")
def command(
    arguments: tuple[str, ...],
    count: int | None,
    duration: float | None,
    rtp: bool,
    sequence: bool,
    rate: float | str | None,
    interval: float | None,
    no_loopback: bool,
    no_segmentation: bool,
    wait: float | None,
    quiet: bool,
    progress: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Send PAYLOAD (a text; - reads it from standard input) to every GROUP, and print how many datagrams left.

    \b
    --pattern  counter  00 01 02 … ff 00 … (the default)
               zeros    zeros
               random   other bytes in each datagram
               c0ffee   these bytes, repeated

    A --file is sent as it is: a transport stream (.ts) in datagrams of 7 packets, with --rtp behind RTP headers. Its
    times are not read: give --rate.

    Exits 0; 1 on an error; 2 on a usage error; 4 when no answer came within --wait; 130 on Ctrl-C, after the count.
    """
    times = count if count is not None else 1 if duration is None else FOREVER
    groups, payloads = _what_to_send(arguments, times, options)
    wanted_rate = _rate(rate, interval)
    named = {name: options[name] for name in ("port", "interface", "source", "source_port", "ttl", "dscp")}
    with Sender(
        *groups, loopback=not no_loopback, rate=wanted_rate, segmentation=not no_segmentation, **named
    ) as sender:
        payloads = _until(payloads, duration)  # first: what it takes and leaves out has no number
        if rtp:
            payloads = map(Headers(secrets.randbits(32), secrets.randbits(16)).put, payloads)
        numbers = Numbers() if sequence else None
        numbered = payloads if numbers is None else map(numbers.number, payloads)
        at_once = _at_once(wanted_rate, options["stdin_lines"])
        _send(sender, numbered, at_once, Renewed(shown_as(quiet, progress)), as_json)
        if numbers is not None:
            for _ in range(ENDS):
                sender.send(numbers.end())
        if wait is not None and not _print_answers(sender, wait, as_json):
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
    arguments: tuple[str, ...], count: int, options: dict[str, Any]
) -> tuple[tuple[str, ...], Iterator[bytes]]:
    """The groups, and the payloads `count` times: by the options, or the last argument."""
    file, size, pattern = options["file"], options["size"], options["pattern"]
    if file is not None and options["stdin_lines"]:
        raise click.UsageError("--file and --stdin-lines exclude each other")
    if pattern is not None and (size is None or file is not None):
        raise click.UsageError("--pattern fills --size bytes; give --size, and no --file")
    if file is not None:
        if 1 < count < FOREVER and not file.seekable():
            raise click.UsageError("--count sends the file again, and what comes through a pipe is read only once")
        return arguments, _pieces(file, size or 1316, count)
    if options["stdin_lines"]:
        if count != 1 or size is not None:
            raise click.UsageError("--stdin-lines sends each line once; leave --count, --duration and --size out")
        return arguments, (line.rstrip(b"\r\n") for line in sys.stdin.buffer)
    if size is not None:
        return arguments, _filled(pattern or "counter", size, count)
    *groups, text = arguments
    if not groups and not _is_group(text):
        example = f"mcast-fast send 239.1.1.1%eth0:5000 {shlex.quote(text)}"
        raise click.UsageError(f"name a group before the payload: {example}")
    if not groups or _is_group(text):
        raise click.UsageError(f"no payload after {text}; give a text, - for standard input, or --size")
    # One byte more than fits is enough for the system to refuse it.
    payload = sys.stdin.buffer.read(LARGEST_PAYLOAD[6] + 1) if text == "-" else os.fsencode(text)
    return tuple(groups), itertools.repeat(payload, count)


def _filled(pattern: str, size: int, count: int) -> Iterator[bytes]:
    """Payloads of `size` bytes, of one of PATTERNS or of hex digits."""
    if pattern == "random":
        return (os.urandom(size) for _ in range(count))
    try:
        unit = PATTERNS[pattern] if pattern in PATTERNS else bytes.fromhex(pattern)
    except ValueError:
        unit = b""
    if not unit:
        raise click.UsageError(
            f"--pattern {pattern!r} is neither hex digits, such as c0ffee, nor {', '.join(PATTERNS)}"
        )
    return itertools.repeat((unit * (size // len(unit) + 1))[:size], count)


def _until(payloads: Iterator[bytes], duration: float | None) -> Iterator[bytes]:
    """The payloads that begin before the time is over."""
    if duration is None:
        return payloads
    end = time.monotonic() + duration
    return itertools.takewhile(lambda _: time.monotonic() < end, payloads)


def _pieces(file: BinaryIO, size: int, count: int) -> Iterator[bytes]:
    """The file in pieces of `size` bytes, from its beginning each time."""
    for turn in range(count):
        if turn:
            if count == FOREVER and not file.seekable():  # as long as it lasts
                return
            file.seek(0)
        piece = file.read(size)
        if not piece:  # an empty file is empty each time
            return
        while piece:
            yield piece
            piece = file.read(size)


def _is_group(text: str) -> bool:
    try:
        Group.parse(text)
    except GroupError:
        return False
    return True


def _rate(rate: float | str | None, interval: float | None) -> float | str | None:
    if rate is not None and interval is not None:
        raise click.UsageError("--rate and --interval exclude each other")
    return rate if interval is None else 1 / interval


def _at_once(rate: float | str | None, stdin_lines: bool) -> int:
    """How many payloads to hand over together: a tenth of a second's, and a line as soon as it is there."""
    if stdin_lines:
        return 1
    if rate is None:
        return AT_ONCE
    return min(AT_ONCE, packets_in(0.1, rate))


def _send(sender: Sender, payloads: Iterator[bytes], at_once: int, progress: Renewed, as_json: bool) -> None:
    """Send them all; how many left is printed whatever happens, but for an error before the first."""
    started = time.monotonic_ns()
    try:
        while batch := list(itertools.islice(payloads, at_once)):
            sender.send_batch(batch)
            if progress.is_due():
                progress.show(f"sent {sender.stats.datagrams:,}")
    except KeyboardInterrupt:
        interrupted()
        raise click.exceptions.Exit(INTERRUPTED) from None
    finally:
        progress.remove()
        if sender.stats.datagrams or sys.exception() is None or isinstance(sys.exception(), click.exceptions.Exit):
            own_line()
            click.echo(_report(sender, (time.monotonic_ns() - started) / NANOSECONDS, as_json))


def _report(sender: Sender, seconds: float, as_json: bool) -> str:
    stats = sender.stats
    if as_json:
        return json.dumps(dataclasses.asdict(stats) | pace_object(seconds, stats.datagrams, stats.bytes))
    if stats.datagrams <= 1:
        return f"sent {stats.datagrams}"
    return f"sent {stats.datagrams:,}, bytes {stats.bytes:,}, {pace_text(seconds, stats.datagrams, stats.bytes)}"


def _print_answers(sender: Sender, wait: float, as_json: bool) -> int:
    """Print what comes back within `wait` seconds; how many answers that were."""
    came = 0
    end = time.monotonic() + wait
    show = json_line if as_json else text_line
    while (left := end - time.monotonic()) > 0:
        try:
            click.echo(show(sender.recv(timeout=left)))
        except TimeoutError:
            break
        came += 1
    return came
