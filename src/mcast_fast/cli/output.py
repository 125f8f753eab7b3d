"""What the verbs share: packets, the ledger, warnings and errors as text."""

import functools
import json
import os
import re
import shlex
import shutil
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TextIO

import click

from mcast_fast._units import NANOSECONDS, bound, plural
from mcast_fast.cli.words import in_options, options_of
from mcast_fast.errors import DOCTOR, ArgumentError, GroupError, InterfaceError, MulticastWarning
from mcast_fast.groups import Group
from mcast_fast.stats import Stats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

USAGE_ERRORS = (GroupError, InterfaceError, ArgumentError)

NUMBER = re.compile(r"(?<=\w) (?=[\d+-]|n/a)|(?<=\d) (?=\w)")  # spaces before and after one
KEPT = "\ue000"  # in their place while lines are made; textwrap breaks at none but spaces of ASCII

# Standard error ------------------------------------------------------------------------------------------------------


_interrupted: list[bool] = []  # by Ctrl-C, which the terminal showed as ^C


def interrupted() -> None:
    """Note that a signal came: what is printed next begins on a line of its own."""
    _interrupted[:] = [True]


def on_own_line() -> None:
    """Note that the cursor is at the start of an empty line."""
    _interrupted.clear()


def own_line() -> None:
    """On a terminal that shows ^C go to the next line, once."""
    if _interrupted and sys.stderr.isatty():
        click.echo(err=True)
    _interrupted.clear()


def complain(message: str) -> None:
    """One line on standard error."""
    own_line()
    click.echo(f"mcast-fast: {message}", err=True)


def wrapped(text: str, stream: TextIO) -> str:
    """A summary in lines that fit the terminal; as it is where the stream is none, so that grep finds all of it."""
    if not stream.isatty():
        return text
    return "\n".join(folded(text, shutil.get_terminal_size().columns))


def folded(text: str, columns: int) -> list[str]:
    """Lines that fit in `columns`, where words allow it; a number stays with the words around it.

    >>> folded("received 3, in 1.00 s, 3 packets/s", 18)
    ['received 3,', '  in 1.00 s,', '  3 packets/s']
    """
    whole = NUMBER.sub(KEPT, text)
    lines = textwrap.wrap(whole, columns, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
    return [line.replace(KEPT, " ") for line in lines]


def summarise(text: str) -> None:
    """A summary on standard error, in lines that fit the terminal."""
    own_line()
    click.echo(wrapped(f"mcast-fast: {text}", sys.stderr), err=True)


def nothing_came(seconds: float, groups: Iterable[str], unmatched: int = 0, **defaults: Any) -> None:
    """Say that no packet came, and what finds the cause; or that none was chosen. `defaults`: port, interface, source
    where none is named."""
    if unmatched:
        complain(f"nothing that --match takes came within {seconds:g} s; {plural(unmatched, 'other packet')} did")
        return
    parsed = [Group.parse(one) for one in groups]
    whole = (replace(one, **{name: getattr(one, name) or value for name, value in defaults.items()}) for one in parsed)
    complain(f"nothing came within {seconds:g} s; {DOCTOR} {shlex.join(map(str, whole))}")


def one_line_warnings() -> None:
    """From here on a MulticastWarning is one line on standard error; for use inside `warnings.catch_warnings()`."""
    show_others = warnings.showwarning

    def show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if issubclass(category, MulticastWarning):
            context = click.get_current_context(silent=True)
            words = {} if context is None else options_of(context.command)
            complain(f"warning: {in_options(message, words) if isinstance(message, Warning) else message}")
        else:
            show_others(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    warnings.simplefilter("always", MulticastWarning)


def discard_output() -> None:
    """Send what standard output still holds nowhere, or Python would fail once more when it flushes it at the exit."""
    try:
        kept = sys.stdout.fileno()
    except (OSError, ValueError):  # not a file
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, kept)
    os.close(nowhere)


def standard_input(path: str) -> str | IO[bytes]:
    """The path, or standard input for '-'."""
    return sys.stdin.buffer if path == "-" else path


def standard_output(path: str) -> str | IO[bytes]:
    """The path, or standard output for '-'."""
    return sys.stdout.buffer if path == "-" else path


def written_over(path: str) -> str:
    """A note for the summary, where a file of that name is there: to be called before it is written."""
    return ", over the file that was there" if path != "-" and Path(path).is_file() else ""


# The ledger ----------------------------------------------------------------------------------------------------------

SUMMARY = ("received", "bytes", "filtered", "dropped_socket", "truncated")


WHOLE_LEDGER = (
    *("received", "bytes", "filtered", "dropped_socket", "dropped_ring", "dropped_background", "dropped_nic"),
    *("truncated", "fragments", "coalesced", "batches", "largest_batch", "wakeups"),
)


LOWER_BOUNDS = ("dropped", "dropped_socket", "dropped_ring")  # where `drops_exact` is False


def counted(value: int | None) -> str:
    """A number with its thousands separated; n/a where the system does not report it."""
    return "n/a" if value is None else f"{value:,}"


def counted_of(stats: Any, name: str, value: int | None) -> str:
    """The same of a counter: 'at least 470' of drops, where the kernel may have counted several packets as one."""
    is_exact = name not in LOWER_BOUNDS or getattr(stats, "drops_exact", True)
    return f"{bound(value, is_exact)}{counted(value)}"


def ledger_text(stats: Stats, names: Iterable[str] = SUMMARY) -> str:
    """'received 10, bytes 2,560, …'; what the system does not report is n/a."""
    return ", ".join(
        f"{name} {counted_of(stats, name, getattr(stats, name))}" for name in names if hasattr(stats, name)
    )


def pace_text(seconds: float, packets: int, size: int) -> str:
    """'in 2.50 s, 4 packets/s, 0.0 Mbit/s': how long it took, and the rates over that time."""
    if not packets or seconds <= 0:
        return f"in {seconds:,.2f} s"
    rates = f"{packets / seconds:,.0f} packets/s, {size * 8 / seconds / 1e6:,.1f} Mbit/s"
    return f"in {seconds:,.2f} s, {rates}"


def pace_object(seconds: float, packets: int, size: int) -> dict[str, float]:
    """The same for JSON."""
    per_second = (packets / seconds, size * 8 / seconds) if seconds > 0 else (0.0, 0.0)
    return dict(zip(("seconds", "packets_per_second", "bits_per_second"), (seconds, *per_second), strict=True))


def ledger_object(stats: Stats, seconds: float, names: Iterable[str] = WHOLE_LEDGER) -> dict[str, Any]:
    """The ledger, the time it took and the rates, for JSON."""
    counts = {name: getattr(stats, name) for name in (*names, "drops_exact") if hasattr(stats, name)}
    return counts | pace_object(seconds, stats.received, stats.bytes)


TIME_UNITS_SHOWN = ((10**9, "s"), (10**6, "ms"), (10**3, "us"))
TIMES = ("utc", "local", "relative", "delta")


def aligned(rows: list[list[str]], left: int) -> list[str]:
    """Rows of cells as lines, the first `left` columns to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


# Packets -------------------------------------------------------------------------------------------------------------

SHOWN = 48  # bytes of payload on a line of text
HEX_ROW = 16  # bytes on a line of a hex dump
PRINTABLE = bytes(code if 0x20 <= code < 0x7F else ord(".") for code in range(256))


@functools.lru_cache(maxsize=4)
def _second_text(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def time_text(timestamp: int | None) -> str:
    """ISO 8601 in UTC with nanoseconds; '-' when there is no time."""
    if not timestamp:
        return "-"
    second, fraction = divmod(timestamp, NANOSECONDS)
    return f"{_second_text(second)}.{fraction:09}Z"


@functools.lru_cache(maxsize=4)
def _local_second(second: int) -> str:
    return time.strftime("%H:%M:%S", time.localtime(second))


class Clock:
    """The times of packets as text, in one of TIMES.

    Args:
        form: "utc": date and time, ISO 8601 with nanoseconds; "local": the time of day here, to the microsecond;
            "relative": seconds since the first packet; "delta": seconds since the one before.
    """

    def __init__(self, form: str) -> None:
        self.text: Callable[[int | None], str] = getattr(self, f"_{form}")
        self._before: int | None = None

    @staticmethod
    def _utc(timestamp: int | None) -> str:
        return time_text(timestamp)

    @staticmethod
    def _local(timestamp: int | None) -> str:
        if not timestamp:
            return "-"
        second, fraction = divmod(timestamp, NANOSECONDS)
        return f"{_local_second(second)}.{fraction // 1000:06}"

    def _relative(self, timestamp: int | None) -> str:
        if not timestamp:
            return "-"
        if self._before is None:
            self._before = timestamp
        return f"{(timestamp - self._before) / NANOSECONDS:.6f}"

    def _delta(self, timestamp: int | None) -> str:
        text = self._relative(timestamp)
        self._before = timestamp or self._before
        return text


def brief_time(nanoseconds: int) -> str:
    """A time to three digits, or whole units, with its unit: '2.1 ms', '1,200 s'."""
    for size, unit in TIME_UNITS_SHOWN:
        if abs(nanoseconds) >= size:
            value = nanoseconds / size
            return f"{value:,.0f} {unit}" if abs(value) >= 100 else f"{value:.3g} {unit}"
    return f"{nanoseconds} ns"


def endpoint_text(address: str, port: int) -> str:
    """Address and port, IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


UTC = Clock("utc")


def printable(payload: bytes) -> str:
    """A dot for every byte that is not printable ASCII."""
    return payload.translate(PRINTABLE).decode("ascii")


def heading(packet: "Packet", clock: Clock = UTC) -> str:
    """All but the payload on one line."""
    parts = [
        clock.text(packet.timestamp),
        endpoint_text(packet.source, packet.source_port),
        ">",
        endpoint_text(packet.group, packet.port),
        packet.interface or "?",
        f"length {len(packet)}",
    ]
    if packet.ttl is not None:
        parts.append(f"ttl {packet.ttl}")
    if packet.truncated:
        parts.append(f"truncated from {packet.wire_length or 'more'}")
    if packet.dropped:
        parts.append(f"after {packet.dropped} dropped")
    return " ".join(parts)


def text_line(packet: "Packet", clock: Clock = UTC, columns: int | None = None) -> str:
    """One line: heading and the start of the payload, as much as there are columns for; the heading is never cut."""
    head = heading(packet, clock)
    shown = SHOWN if columns is None else min(SHOWN, columns - len(head) - 2)
    return f"{head}: {printable(packet.data[:shown])}" if shown > 0 else head


def hex_lines(packet: "Packet", clock: Clock = UTC, _columns: int | None = None) -> str:
    """The heading, and the whole payload as a hex dump."""
    data = packet.data
    rows = (
        f"  {at:04x}  {data[at : at + HEX_ROW].hex(' '):<{HEX_ROW * 3}} {printable(data[at : at + HEX_ROW])}"
        for at in range(0, len(data), HEX_ROW)
    )
    return "\n".join((heading(packet, clock), *rows))


def json_line(packet: "Packet", _clock: Clock = UTC, _columns: int | None = None) -> str:
    """One JSON object; the payload in hexadecimal, the timestamp in ns since the epoch."""
    fields = {
        "time": time_text(packet.timestamp) if packet.timestamp else None,
        "timestamp": packet.timestamp,
        "source": packet.source,
        "source_port": packet.source_port,
        "group": packet.group,
        "port": packet.port,
        "interface": packet.interface,
        "length": len(packet),
        "wire_length": packet.wire_length,
        "truncated": packet.truncated,
        "dropped": packet.dropped,
        "ttl": packet.ttl,
        "payload": packet.data.hex(),
    }
    return json.dumps(fields)


LINES: dict[str, Callable[..., str]] = {"text": text_line, "hex": hex_lines, "json": json_line}


def rendered(batch: "Batch", form: str, clock: Clock = UTC, columns: int | None = None) -> bytes:
    """A batch as the bytes to write, all at once: a key of LINES, or 'raw' (payloads only) or 'none'."""
    if form == "none":
        return b""
    if form == "raw":
        return b"".join(batch.payloads())
    line = LINES[form]
    text = "".join([f"{line(packet, clock, columns)}\n" for packet in batch])
    return text.encode(getattr(sys.stdout, "encoding", None) or "utf-8", "backslashreplace")


def write_whole(text: bytes) -> None:
    """Write to standard output, at once and to the end."""
    stdout = sys.stdout.buffer
    rest = memoryview(text)
    while rest:  # with PYTHONUNBUFFERED it is a bare file, whose write ends early when a signal comes
        rest = rest[stdout.write(rest) :]
    stdout.flush()
