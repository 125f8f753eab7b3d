"""What the verbs share: packets, the ledger, warnings and errors as text."""

import functools
import json
import os
import shlex
import sys
import time
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import IO, TYPE_CHECKING, Any, TextIO

import click

from mcast_fast._units import NANOSECONDS
from mcast_fast.errors import DOCTOR, ArgumentError, GroupError, InterfaceError, MulticastWarning
from mcast_fast.groups import Group
from mcast_fast.stats import Stats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch, Packet

# Exit codes beyond 0, 1 and 2.
LOSS = 3
NOTHING_CAME = 4
INTERRUPTED = 130  # 128 + SIGINT, as shells count

USAGE_ERRORS = (GroupError, InterfaceError, ArgumentError)

# Standard error ------------------------------------------------------------------------------------------------------


def complain(message: str) -> None:
    """One line on standard error."""
    click.echo(f"mcast-fast: {message}", err=True)


def nothing_came(seconds: float, groups: Iterable[str], **defaults: Any) -> None:
    """Say that no packet came, and what finds the cause. `defaults`: port, interface, source where none is named."""
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
            complain(f"warning: {message}")
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


# The ledger ----------------------------------------------------------------------------------------------------------

SUMMARY = ("received", "bytes", "filtered", "dropped_socket", "truncated")
WHOLE_LEDGER = (*SUMMARY, "dropped_background", "batches", "largest_batch", "wakeups")


def ledger_text(stats: Stats, names: Iterable[str] = SUMMARY) -> str:
    """'received 10, bytes 2560, …'; what the system does not report is n/a."""
    values = ((name, getattr(stats, name)) for name in names)
    return ", ".join(f"{name} {'n/a' if value is None else value}" for name, value in values)


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


def endpoint_text(address: str, port: int) -> str:
    """Address and port, IPv6 in brackets."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def printable(payload: bytes) -> str:
    """A dot for every byte that is not printable ASCII."""
    return payload.translate(PRINTABLE).decode("ascii")


def heading(packet: "Packet") -> str:
    """All but the payload on one line."""
    parts = [
        time_text(packet.timestamp),
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


def text_line(packet: "Packet") -> str:
    """One line: heading and the start of the payload."""
    return f"{heading(packet)}: {printable(packet.data[:SHOWN])}"


def hex_lines(packet: "Packet") -> str:
    """The heading, and the whole payload as a hex dump."""
    data = packet.data
    rows = (
        f"  {at:04x}  {data[at : at + HEX_ROW].hex(' '):<{HEX_ROW * 3}} {printable(data[at : at + HEX_ROW])}"
        for at in range(0, len(data), HEX_ROW)
    )
    return "\n".join((heading(packet), *rows))


def json_line(packet: "Packet") -> str:
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


LINES = {"text": text_line, "hex": hex_lines, "json": json_line}


def rendered(batch: "Batch", form: str) -> bytes:
    """A batch as the bytes to write, all at once: a key of LINES, or 'raw' (payloads only) or 'none'."""
    if form == "none":
        return b""
    if form == "raw":
        return b"".join(batch.payloads())
    line = LINES[form]
    return "".join([f"{line(packet)}\n" for packet in batch]).encode()


def write_whole(text: bytes) -> None:
    """Write to standard output, at once and to the end."""
    stdout = sys.stdout.buffer
    rest = memoryview(text)
    while rest:  # with PYTHONUNBUFFERED it is a bare file, whose write ends early when a signal comes
        rest = rest[stdout.write(rest) :]
    stdout.flush()
