"""What a capture file holds, read of it: packets and times of each group, its ledger, and which numbers came.

It is read once for what it counts, and once for each format of numbers that is followed in it.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mcast_fast.cluster._numbers import Numbers
from mcast_fast.cluster._runs import FlowRuns
from mcast_fast.errors import ArgumentError, CaptureError, file_error
from mcast_fast.files._reader import Reader
from mcast_fast.files._summary import summarise
from mcast_fast.sequence._format import Format

Formats = Mapping[str, str]  # group with its port, as text -> format; "": of all groups
LEDGER = ("received", "dropped", "dropped_system", "delivered")


@dataclass(slots=True)
class Counted:
    """Packets of a group, a port and a source in a file."""

    group: str
    port: int
    source: str
    packets: int
    bytes: int
    first_time: int | None
    last_time: int | None


@dataclass(slots=True)
class Contents:
    """What a file holds; `error`: why it could not be read to its end, or empty."""

    packets: int = 0
    interfaces: tuple[str, ...] = ()
    ledger: dict[str, int | None] = field(default_factory=dict)
    flows: list[Counted] = field(default_factory=list)
    numbers: dict[str, list[FlowRuns]] = field(default_factory=dict)  # by format
    unnumbered: dict[str, int] = field(default_factory=dict)
    evicted: dict[str, int] = field(default_factory=dict)
    scanned: int = 0  # bytes that were read, all passes together
    error: str = ""

    @property
    def times(self) -> tuple[int | None, int | None]:
        """The earliest and the latest time; None: no packet has one."""
        first = [one.first_time for one in self.flows if one.first_time is not None]
        last = [one.last_time for one in self.flows if one.last_time is not None]
        return min(first, default=None), max(last, default=None)


def survey(path: str, formats: Formats) -> Contents:
    """Read what a file holds.

    Args:
        path: The file.
        formats: The format of each group whose numbers are followed.

    Returns:
        The Contents, of a file that cannot be read to its end as far as it can be.

    Raises:
        FileError: The system refuses to open or read the file.
        FeatureError: The compression needs a package that is not there.
    """
    with Reader(path, multicast_only=True) as reader:
        summary = summarise(path, reader)
    found = Contents(
        summary.stats.received,
        tuple(dict.fromkeys(one.name for one in summary.interfaces if one.name)),
        {name: _sum(getattr(one, name) for one in summary.interfaces) for name in LEDGER},
        [
            Counted(one.group, one.port, one.source, one.packets, one.bytes, one.first, one.last)
            for one in summary.flows
        ],
        error=summary.error,
        scanned=size_of(path),
    )
    for text in sorted(set(formats.values())):
        groups = sorted(group for group, format in formats.items() if format == text and group)
        _follow(path, text, groups, found)
        found.scanned += size_of(path)
    return found


def _follow(path: str, text: str, groups: list[str], found: Contents) -> None:
    """Follow the numbers of one format, of these groups (none: of all)."""
    numbers = Numbers(Format.parse(text))
    with Reader(path, groups, batch_size=numbers.batch_size) as reader:
        try:
            for batch in reader:
                numbers.add(batch)
        except CaptureError as error:
            found.error = found.error or str(error)
        except ArgumentError as error:
            found.error = found.error or f"{path}: {error}"
            return
    found.numbers[text] = numbers.flows()
    found.unnumbered[text], found.evicted[text] = numbers.unnumbered, numbers.evicted


def _sum(values: Iterable[int | None]) -> int | None:
    known = [one for one in values if one is not None]
    return sum(known) if known else None


def size_of(path: str) -> int:
    """The size of a file; FileError."""
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise file_error("open", path, error) from error
