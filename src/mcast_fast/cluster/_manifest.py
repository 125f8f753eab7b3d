"""Manifests: what a finished file holds, in a JSON beside it.

MANIFEST and the tables below are the form, in this version: what is written, what is checked when it is read, and what
docs/cluster.md explains. A manifest is made of the file itself, so that it can be made of any file, at any time.
"""

import hashlib
import itertools
import json
import stat
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mcast_fast.cluster._clock import ClockState
from mcast_fast.cluster._plan import host_name
from mcast_fast.cluster._runs import Anchor, FlowRuns, Run
from mcast_fast.cluster._schema import Check, Key, checked_table, integer, optional, rows, several, text
from mcast_fast.cluster._survey import LEDGER, Contents, Counted, Formats, survey
from mcast_fast.cluster._whole import write_whole
from mcast_fast.errors import ArgumentError, FileError, file_error
from mcast_fast.files._index import MANIFEST as SUFFIX

SCHEMA, VERSION = "mcast-fast-manifest", 1
LARGEST = 256 << 20  # bytes of a manifest that is read
MOST = 1 << 24  # rows of a list
ANY = integer(-(2**127), 2**127)
TIME = integer(-(2**63), 2**63 - 1)
COUNT = integer(0, 2**64 - 1)
SIZE = integer(0, 2**63 - 1)  # as the index of manifests has it


def _one_of(*values: Any) -> Check:
    def check(value: Any, what: str) -> Any:
        if value not in values:
            raise ArgumentError(f"{what}: {value!r} is not {' or '.join(map(repr, values))}")
        return value

    return check


def _any_text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise ArgumentError(f"{what}: {value!r} is no text")
    return value


def _file_name(value: Any, what: str) -> str:
    name = text(value, what)
    if Path(name).name != name or name in (".", ".."):
        raise ArgumentError(f"{what}: {name!r} is not the name of a file beside the manifest")
    return name


def _hexadecimal(value: Any, what: str) -> str:
    try:
        bytes.fromhex(_any_text(value, what))
    except ValueError:
        raise ArgumentError(f"{what}: {value!r} is not hexadecimal") from None
    return str(value)


def _pair(value: Any, what: str) -> tuple[int, int]:
    if not isinstance(value, list | tuple) or len(value) != 2:
        raise ArgumentError(f"{what}: {value!r} is no pair of numbers")
    return ANY(value[0], what), ANY(value[1], what)


def _table(table: Mapping[str, Key]) -> Check:
    return lambda value, what: checked_table(value, table, what)


def _counts(value: Any, what: str) -> dict[str, int]:
    if not isinstance(value, Mapping):
        raise ArgumentError(f"{what} is no table")
    return {_any_text(name, what): COUNT(one, f"{what}, {name!r}") for name, one in value.items()}


PAIRS = several(_pair, MOST)
RUN = {
    "first": Key(ANY, "the first number, unwrapped"),
    "next": Key(ANY, "the one after the last"),
    "first_time": Key(TIME, "of arrival of the first packet, ns since the epoch"),
    "last_time": Key(TIME, "of arrival of the last one"),
    "gaps": Key(PAIRS, "[first, end] of the numbers between them that did not come"),
    "times": Key(PAIRS, "[end of a gap, time of arrival of the packet behind it]"),
    "anchors": Key(PAIRS, "[number, time]: all before the number had come by then"),
}
FLOW = {
    "format": Key(text, "where the packets' numbers are"),
    "group": Key(text, "destination address"),
    "port": Key(integer(0, 65_535), "destination port"),
    "source": Key(_any_text, "the sender's address"),
    "source_port": Key(optional(integer(0, 65_535)), "the sender's port, where it names the flow"),
    "key": Key(_hexadecimal, "the format's key, in hexadecimal"),
    "bits": Key(integer(1, 64), "width of the numbers"),
    "packets": Key(COUNT, "packets of the flow"),
    "received": Key(COUNT, "numbers that came, again too"),
    "strays": Key(COUNT, "packets whose number belongs to nothing"),
    "ambiguous": Key(COUNT, "how often the numbers do not say how much is missing"),
    "first_time": Key(TIME, "of arrival, ns since the epoch; 0: unknown"),
    "last_time": Key(TIME, "of arrival; 0: unknown"),
    "runs": Key(rows(RUN, MOST), "what the sender sent without beginning anew"),
}
GROUP = {
    "group": Key(text, "destination address"),
    "port": Key(integer(0, 65_535), "destination port"),
    "source": Key(_any_text, "the sender's address"),
    "packets": Key(COUNT, "packets"),
    "bytes": Key(COUNT, "bytes of their payloads"),
    "first_time": Key(optional(TIME), "of the first packet, ns since the epoch; null: unknown"),
    "last_time": Key(optional(TIME), "of the last one"),
}
LEDGER_KEYS = {name: Key(optional(COUNT), "as the file's statistics count it; null: they do not") for name in LEDGER}
CLOCK = {
    "at": Key(TIME, "when it was read, ns since the epoch"),
    "source": Key(_one_of("chrony", "kernel", ""), "who says it; '': nobody does"),
    "synchronized": Key(optional(_one_of(True, False)), "whether something keeps the clock in time; null: unknown"),
    "offset": Key(optional(TIME), "ns that it was off; null: unknown"),
    "error": Key(optional(TIME), "ns by which it may be wrong at most; null: unknown"),
}
MANIFEST = {
    "schema": Key(_one_of(SCHEMA), "what this is"),
    "version": Key(_one_of(VERSION), "of this form"),
    "file": Key(_file_name, "name of the file, which lies beside this one"),
    "bytes": Key(SIZE, "its size"),
    "modified": Key(TIME, "its time of modification, ns since the epoch"),
    "sha256": Key(_hexadecimal, "of the file"),
    "host": Key(host_name, "that recorded it"),
    "plan": Key(_hexadecimal, "digest of the plan; '': none"),
    "interfaces": Key(several(text, 4096), "on which it was recorded"),
    "packets": Key(SIZE, "UDP packets to groups"),
    "first_time": Key(optional(TIME), "of the first packet, ns since the epoch; null: unknown"),
    "last_time": Key(optional(TIME), "of the last one"),
    "ledger": Key(_table(LEDGER_KEYS), "what the interfaces received, and what was dropped meanwhile"),
    "groups": Key(rows(GROUP, MOST), "packets by group, port and source"),
    "flows": Key(rows(FLOW, MOST), "which numbers came"),
    "unnumbered": Key(_counts, "packets without a number, by format"),
    "evicted": Key(_counts, "flows beyond 4,096, whose numbers are left out, by format"),
    "clock": Key(_table(CLOCK), "the clock of the host when the file was finished"),
    "error": Key(_any_text, "why the file cannot be read to its end; '': it can"),
}


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a finished file holds.

    Attributes:
        path: The file.
        host: The host that recorded it.
        bytes: Its size.
        modified: Its time of modification, ns since the epoch.
        sha256: Of the file, in hexadecimal.
        plan: Digest of the plan; "": none.
        clock: The host's clock when the file was finished.
        contents: What the file holds.
    """

    __module__ = "mcast_fast.cluster"

    path: str
    host: str
    bytes: int
    modified: int
    sha256: str
    plan: str
    clock: ClockState
    contents: Contents = field(repr=False)

    @property
    def packets(self) -> int:
        """UDP packets to groups."""
        return self.contents.packets

    @property
    def first_time(self) -> int | None:
        """Time of the first packet, ns since the epoch; None: unknown."""
        return self.contents.times[0]

    @property
    def last_time(self) -> int | None:
        """Time of the last packet."""
        return self.contents.times[1]

    def as_dict(self) -> dict[str, Any]:
        """Return it as the JSON has it.

        Returns:
            Tables and lists of numbers and texts, with the keys that docs/cluster.md lists.
        """
        contents = self.contents
        return {
            "schema": SCHEMA,
            "version": VERSION,
            "file": Path(self.path).name,
            "bytes": self.bytes,
            "modified": self.modified,
            "sha256": self.sha256,
            "host": self.host,
            "plan": self.plan,
            "interfaces": list(contents.interfaces),
            "packets": contents.packets,
            "first_time": self.first_time,
            "last_time": self.last_time,
            "ledger": contents.ledger,
            "groups": [asdict(one) for one in contents.flows],
            "flows": [_flow_row(format, one) for format, flows in contents.numbers.items() for one in flows],
            "unnumbered": contents.unnumbered,
            "evicted": contents.evicted,
            "clock": asdict(self.clock),
            "error": contents.error,
        }

    @classmethod
    def from_dict(cls, values: Any, path: str) -> "Manifest":
        """Make one of what the JSON has.

        Args:
            values: As `as_dict` returns it.
            path: The manifest's own path, beside which the file lies.

        Returns:
            The Manifest.

        Raises:
            ArgumentError: It is no manifest of this version; the message names file, table and key.
        """
        found = checked_table(values, MANIFEST, path)
        numbers: dict[str, list[FlowRuns]] = {format: [] for format in found["unnumbered"]}
        for row in found["flows"]:
            try:
                numbers.setdefault(row["format"], []).append(_flow(row))
            except ArgumentError as error:
                raise ArgumentError(f"{path}: 'flows': {error}") from None
        contents = Contents(
            found["packets"],
            found["interfaces"],
            found["ledger"],
            [Counted(**row) for row in found["groups"]],
            numbers,
            found["unnumbered"],
            found["evicted"],
            error=found["error"],
        )
        direct = {name: found[name] for name in ("host", "bytes", "modified", "sha256", "plan")}
        file = str(Path(path).with_name(found["file"]))
        return cls(file, clock=ClockState(**found["clock"]), contents=contents, **direct)

    @classmethod
    def load(cls, path: str) -> "Manifest":
        """Read a manifest.

        Args:
            path: Its own path, FILE.manifest.json.

        Returns:
            The Manifest.

        Raises:
            FileError: The system refuses to open or read it.
            ArgumentError: It is torn, or no manifest of this version.
        """
        try:
            with Path(path).open("rb") as file:
                data = file.read(LARGEST + 1)
        except OSError as error:
            raise file_error("open", path, error) from error
        if len(data) > LARGEST:
            raise ArgumentError(f"{path}: a manifest has at most {LARGEST} bytes")
        return cls.parse(data.decode(errors="replace"), path)

    @classmethod
    def parse(cls, data: str, path: str) -> "Manifest":
        """Make one of the text of a manifest.

        Args:
            data: The JSON.
            path: The manifest's own path.

        Returns:
            The Manifest.

        Raises:
            ArgumentError: It is torn, or no manifest of this version.
        """
        try:
            values = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise ArgumentError(f"{path}: it is torn, or no JSON: {error}") from None
        return cls.from_dict(values, path)

    def store(self) -> str:
        """Put it beside its file, whole or not at all.

        Returns:
            The manifest's own path.

        Raises:
            FileError: The system refuses to write it.
        """
        target = path_of(self.path)
        try:
            mode = stat.S_IMODE(Path(self.path).stat().st_mode)
        except OSError as error:
            raise file_error("open", self.path, error) from error
        write_whole(target, json.dumps(self.as_dict(), separators=(",", ":")).encode(), mode)
        return target


def path_of(path: str) -> str:
    """Where the manifest of a file is."""
    return path + SUFFIX


def make_manifest(path: str, host: str, formats: Formats, clock: ClockState, plan: str = "") -> Manifest:
    """Read a file that is finished, and say what it holds.

    Args:
        path: The file.
        host: The host that recorded it.
        formats: The format of each group whose numbers are followed; "" as a group: of all.
        clock: The host's clock.
        plan: Digest of the plan.

    Returns:
        The Manifest, which is not stored yet.

    Raises:
        FileError: The system refuses to open or read the file, or it changed meanwhile.
    """
    host_name(host, "host")
    size, modified = _state(path)
    contents = survey(path, formats)
    digest = sha256_of(path)
    if (size, modified) != _state(path):
        raise FileError(0, f"{path} changed while its manifest was made; make it when the file is finished")
    return Manifest(path, host, size, modified, digest, plan, clock, contents)


def sha256_of(path: str) -> str:
    """The digest of a file, which is read piece by piece; FileError."""
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise file_error("read", path, error) from error


def _state(path: str) -> tuple[int, int]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise file_error("open", path, error) from error
    return status.st_size, status.st_mtime_ns


def is_of(manifest: Manifest, path: str) -> bool:
    """Whether a manifest is that of the file as it is now, by size and time of modification."""
    try:
        return _state(path) == (manifest.bytes, manifest.modified)
    except FileError:
        return False


def _flow_row(format: str, flow: FlowRuns) -> dict[str, Any]:
    group, port, source, source_port, key = flow.name
    counters = ("bits", "packets", "received", "strays", "ambiguous", "first_time", "last_time")
    return {
        "format": format,
        "group": group,
        "port": port,
        "source": source,
        "source_port": source_port,
        "key": key,
        **{name: getattr(flow, name) for name in counters},
        "runs": [
            {
                **{
                    name: getattr(run, name) for name in ("first", "next", "first_time", "last_time", "gaps", "anchors")
                },
                "times": list(run.times.items()),
            }
            for run in flow.runs
        ],
    }


def _flow(row: dict[str, Any]) -> FlowRuns:
    names = ("group", "port", "source", "source_port", "key")
    rest = {name: value for name, value in row.items() if name not in (*names, "format", "runs")}
    return FlowRuns(tuple(row[name] for name in names), runs=[_run(one) for one in row["runs"]], **rest)


def _run(row: dict[str, Any]) -> Run:
    """A run whose numbers are possible; ArgumentError."""
    run = Run(**row | {"gaps": list(row["gaps"]), "times": dict(row["times"])})
    run.anchors = [Anchor(*one) for one in row["anchors"]]
    spans = [run.first, *(one for gap in run.gaps for one in gap), run.next]
    if not run.anchors or any(left > right for left, right in itertools.pairwise(spans)):
        raise ArgumentError("a run's numbers are not in order")
    return run
