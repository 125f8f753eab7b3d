"""A report as text, JSON, or a bundle for a bug report. It prints nothing."""

import contextlib
import io
import ipaddress
import json
import os
import re
import tarfile
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

from mcast_fast.doctor._examination import programs
from mcast_fast.doctor._finding import VERDICTS, Finding, Report
from mcast_fast.errors import escaped, file_error

Style = Literal["problem", "warning", "unknown", "ok", "remedy", "plain"]

DOCUMENT = "docs/doctor.md"
NARROWEST = 40
INDENT = "    "
COMMAND, KEPT = re.compile(r"`[^`]{1,60}`"), "\xa0"  # what is copied as a whole stays on one line
LABEL = 10  # columns of the verdict
PRIVATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)

# Tables of /proc whose addresses are hexadecimal, or part of another number: not in a masked bundle.
UNMASKABLE = ("udp", "udp6", "mcfilter", "mcfilter6", "igmp6", "ip_mr_cache", "ip_mr_vif")
# A full stop, a colon, or the letter of an escape in JSON may come before or after one. MACs of InfiniBand: 20 bytes.
IPV4 = re.compile(r"(?<!\d)(?<!\d\.)(?:\d{1,3}\.){3}\d{1,3}(?!\d|\.\d)")
IPV6 = re.compile(
    r"(?<![0-9A-Fa-f:])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{0,4})(?![0-9A-Fa-f])"
)
MAC = re.compile(r"(?<![0-9A-Fa-f])(?:[0-9A-Fa-f]{2}:){5,19}[0-9A-Fa-f]{2}(?![0-9A-Fa-f]|:[0-9A-Fa-f])")


def lines(report: Report, width: int) -> Iterator[tuple[Style, str]]:
    """The findings, folded to a width; remedies are never folded, so that they can be copied."""
    width = max(width, NARROWEST)
    for finding, others in _alike(report.findings):
        yield from _finding(finding, others, width)
    yield "plain", ""
    yield "plain", summary(report)


def _alike(findings: Iterable[Finding]) -> list[tuple[Finding, int]]:
    """The first of those that differ by their group alone, and how many more there are."""
    first: dict[Finding, Finding] = {}
    more: Counter[Finding] = Counter()
    for one in findings:
        key = replace(one, group="")
        if first.setdefault(key, one) is not one:
            more[key] += 1
    return [(one, more[key]) for key, one in first.items()]


def _finding(finding: Finding, others: int, width: int) -> Iterator[tuple[Style, str]]:
    where = f"  {escaped(finding.group)}" if finding.group else ""
    where += f" and {others} more" if others else ""
    yield finding.verdict, f"{finding.verdict:<{LABEL}}{finding.id}{where}"
    yield from _folded("plain", f"{finding.summary[:1].upper()}{finding.summary[1:]}.", "", width)
    for line in finding.evidence:
        yield from _folded("plain", line, "- ", width)
    if finding.remedy:
        yield "remedy", f"{INDENT}> {escaped(finding.remedy)}"
    if finding.advice:
        yield from _folded("plain", finding.advice, "", width)


def _folded(style: Style, text: str, mark: str, width: int) -> Iterator[tuple[Style, str]]:
    folded = textwrap.wrap(
        COMMAND.sub(lambda found: found[0].replace(" ", KEPT), escaped(text)),
        width,
        initial_indent=INDENT + mark,
        subsequent_indent=INDENT + " " * len(mark),
        break_long_words=False,
        break_on_hyphens=False,
    )
    for line in folded:
        yield style, line.replace(KEPT, " ")


def summary(report: Report) -> str:
    """How many of each verdict, and where to read about them."""
    verdicts = [one.verdict for one in report.findings]
    counts = {verdict: verdicts.count(verdict) for verdict in VERDICTS if verdict != "ok"}
    found = ", ".join(f"{count} {_plural(verdict, count)}" for verdict, count in counts.items() if count)
    listened = f" Listened for {report.seconds:.1f} s." if report.seconds else ""
    return f"{found or 'No problem'}.{listened} Each is explained in {DOCUMENT}."


def _plural(verdict: str, count: int) -> str:
    return verdict if count == 1 or verdict == "unknown" else f"{verdict}s"


def as_json(report: Report) -> str:
    """The findings as one object."""
    return json.dumps(report.as_dict(), indent=2)


def write_bundle(report: Report, path: str, *, masked: bool = False) -> None:
    """Write the report and everything that was read as a .tar.gz.

    Raises:
        FileError: It cannot be written.
    """
    contents = {**report.readings, **programs()}
    if masked:
        contents = _masked(contents)
    data = _archive(contents)
    is_ours = False
    try:
        with os.fdopen(os.open(path, PRIVATE, 0o600), "wb") as file:
            is_ours = True
            file.write(data)
    except OSError as error:
        if is_ours:  # half of it is of no use
            with contextlib.suppress(OSError):
                Path(path).unlink()
        raise file_error("write", path, error) from error


def _archive(contents: Mapping[str, str]) -> bytes:
    """The texts by name as a .tar.gz, in memory: what is on the disk is whole."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, content in sorted(contents.items()):
            data = content.encode(errors="replace")
            entry = tarfile.TarInfo(f"mcast-fast-doctor/{name}")
            entry.size, entry.mtime = len(data), int(time.time())
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


def _masked(contents: Mapping[str, str]) -> dict[str, str]:
    """The same with every address of a host as a name of its own; groups and addresses that mean no host stay."""
    names: dict[str, str] = {}

    def replaced(match: re.Match[str]) -> str:
        text = match[0]
        if ":" in text and MAC.fullmatch(text):
            return names.setdefault(text.lower(), f"mac-{len(names) + 1}")
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return f"{replaced(shorter)}:" if (shorter := IPV6.fullmatch(text[:-1])) and text.endswith(":") else text
        if address.is_multicast or address.is_unspecified or address.is_loopback:
            return text
        return names.setdefault(str(address), f"host-{len(names) + 1}")

    found = {}
    for name, content in contents.items():
        if name.rpartition("/")[2] in UNMASKABLE:
            continue
        for pattern in (MAC, IPV6, IPV4):
            content = pattern.sub(replaced, content)
        found[name] = content
    return found
