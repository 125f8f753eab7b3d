"""Capture files into other forms: pcapng and pcap, CSV and back, Parquet.

Rules of this module: it prints nothing. A form is what the suffix of a file says, or what is requested.
"""

import contextlib
import csv
import io
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._core.addresses import interface_text, map_address
from mcast_fast._core.layout import RECORD, Flag
from mcast_fast.errors import ArgumentError, CaptureError, FileError, file_error
from mcast_fast.files._optional import module
from mcast_fast.files._reader import Reader
from mcast_fast.files._streams import PathOrFile, is_same_file, open_input, open_output, plain_suffix, subject_of
from mcast_fast.files._writer import Writer

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

FORMS = ("pcapng", "pcap", "csv", "parquet")
SUFFIXES = {".pcapng": "pcapng", ".ntar": "pcapng", ".pcap": "pcap", ".cap": "pcap", ".csv": "csv"} | dict.fromkeys(
    (".parquet", ".pq"), "parquet"
)
COLUMNS = (
    "timestamp",
    "interface",
    "source",
    "source_port",
    "group",
    "port",
    "ttl",
    "tos",
    "dropped",
    "wire_length",
    "payload",
)
FORMULA = ("=", "+", "-", "@", "\t", "\r", "'")  # a cell that begins so is guarded
ROWS = 256  # packets in a batch that is made of CSV
LONGEST_FIELD = 2 * 65_535 + 16  # characters of a payload in hexadecimal


def form_of(file: PathOrFile, form: str | None) -> str:
    """The requested form, or the one that the suffix says; ArgumentError when neither does."""
    if form is not None:
        if form not in FORMS:
            raise ArgumentError(f"form {form!r} is not one of: {', '.join(FORMS)}")
        return form
    subject = subject_of(file)
    found = SUFFIXES.get(plain_suffix(subject))
    if found is None:
        raise ArgumentError(
            f"{subject}: the suffix names no form; use one of {', '.join(SUFFIXES)}, or say --to {'|'.join(FORMS)}"
        )
    return found


# CSV -----------------------------------------------------------------------------------------------------------------


def guarded(text: str) -> str:
    """Text of a file or of the network for a cell, which no spreadsheet takes for a formula: behind an apostrophe where
    it begins as one does, or with one (OWASP, "CSV Injection"); `unguarded` takes it off again."""
    return f"'{text}" if text.startswith(FORMULA) else text


def unguarded(text: str) -> str:
    """The text of a guarded cell."""
    return text[1:] if text.startswith("'") and text[1:].startswith(FORMULA) else text


def text_field(text: str) -> bytes:
    """A text as a field of a row, guarded, and in quotes where it needs them. All text of a file that is no address or
    number goes through here."""
    row = io.StringIO(newline="")
    csv.writer(row, lineterminator="\r\n").writerow([guarded(text)])  # both of which go into quotes
    return row.getvalue()[:-2].encode(errors="surrogateescape") if text else b""


def record_of(row: dict[str, str], offset: int, index: int) -> tuple[bytes, bytes]:
    """(record, payload) of a row; ValueError, struct.error."""
    payload = bytes.fromhex(row["payload"])
    wire = int(row["wire_length"] or len(payload))
    flags = Flag.TRUNCATED if wire > len(payload) else Flag(0)
    flags |= (Flag.TTL if row["ttl"] else Flag(0)) | (Flag.TOS if row["tos"] else Flag(0))
    values = (int(row["timestamp"] or 0), offset, index, int(row["dropped"] or 0), len(payload), wire)
    addresses = map_address(row["source"]), map_address(row["group"])
    ports = int(row["source_port"]), int(row["port"])
    return RECORD.pack(*values, *addresses, *ports, int(flags), int(row["ttl"] or 0), int(row["tos"] or 0)), payload


class CsvReader:
    """The batches of a CSV file with the columns `COLUMNS`, in any order."""

    def __init__(self, file: IO[bytes], subject: str) -> None:
        self._subject = subject
        self._names: dict[int, str] = {}
        self._indexes: dict[str, int] = {}
        csv.field_size_limit(LONGEST_FIELD)
        self._text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        self._rows = csv.DictReader(self._text)

    def __iter__(self) -> Iterator["Batch"]:
        """Batches to the end; CaptureError at a row that is no packet, after all before it."""
        records, data = bytearray(), bytearray()
        error = None
        while error is None:
            try:
                self._check_columns()
                row = next(self._rows, None)
                if row is None:
                    break
                if None in row.values():  # fewer fields than columns: the file is torn
                    raise ValueError("its end is missing")
                record, payload = record_of(row, len(data), self._index(unguarded(row["interface"])))
            except Exception as wrong:  # csv.Error, UnicodeDecodeError, struct.error, ValueError, TypeError: a bad row
                line = self._rows.line_num + isinstance(wrong, csv.Error)  # which comes before the line is counted
                error = CaptureError(self._subject, 0, f"line {line}: {wrong}")
                break
            records += record
            data += payload
            if len(records) == ROWS * RECORD.size:
                yield _core.views.Batch.from_bytes(records, data, self._names)
                records, data = bytearray(), bytearray()
        if records:
            yield _core.views.Batch.from_bytes(records, data, self._names)
        if error is not None:
            raise error

    def close(self) -> None:
        """Close the file."""
        self._text.close()

    def _check_columns(self) -> None:
        missing = [name for name in COLUMNS if name not in (self._rows.fieldnames or ())]
        if missing:
            raise ValueError(f"columns are missing: {', '.join(missing)}")

    def _index(self, name: str) -> int:
        index = self._indexes.setdefault(name, len(self._indexes) + 1)
        self._names[index] = name
        return index


class CsvWriter:
    """Batches as CSV: the header, and a row for each packet, made by the core."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.whole = 0  # bytes of whole rows: half of one would be read as another one
        self._write(",".join(COLUMNS).encode() + b"\n")

    def write(self, batch: "Batch") -> None:
        """Write the packets of a batch; OSError."""
        names = batch.names
        self._write(_core.views.csv_rows(batch, lambda index: text_field(interface_text(index, names))))

    def _write(self, data: bytes | bytearray) -> None:
        rest = memoryview(data)
        while rest:
            rest = rest[self._file.write(rest) :]
        self.whole += len(data)

    def close(self) -> None:
        """Nothing is left to write."""


# Parquet -------------------------------------------------------------------------------------------------------------


def arrow_modules() -> tuple[Any, Any]:
    """pyarrow and its Parquet; FeatureError says whether they are missing, or cannot be imported, and why."""
    return module("pyarrow", "Parquet", "arrow"), module("pyarrow.parquet", "Parquet", "arrow")


class ParquetWriter:
    """Batches as Parquet, a row group for each hundred thousand packets or so."""

    ROW_GROUP = 100_000
    whole = 0  # bytes of a file without its end that can be read

    def __init__(self, file: IO[bytes]) -> None:
        self._pyarrow, self._parquet = arrow_modules()
        self._file = file
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, batch: "Batch") -> None:
        """Write the packets of a batch."""
        self._waiting.append(self._pyarrow.record_batch(batch))
        self._rows += len(batch)
        if self._rows >= self.ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        if self._writer is None:
            empty = _core.views.Batch.from_bytes(b"", b"", {})
            self._writer = self._parquet.ParquetWriter(self._file, self._pyarrow.record_batch(empty).schema)
        if self._waiting:
            self._writer.write_table(self._pyarrow.Table.from_batches(self._waiting).unify_dictionaries())
        self._waiting, self._rows = [], 0

    def close(self) -> None:
        """Write the rest, and the end of the file."""
        self._flush()
        self._writer.close()


# Any to any ----------------------------------------------------------------------------------------------------------

TABLES: dict[str, Callable[[IO[bytes]], Any]] = {"csv": CsvWriter, "parquet": ParquetWriter}


def convert(batches: Iterable["Batch"], target: PathOrFile, form: str) -> int:
    """Write batches as a file of that form; how many packets. What of the input cannot be read ends it, after all
    before it was written: CaptureError. FileError, FeatureError, ArgumentError."""
    if form in TABLES:
        return _write_table(batches, target, form)
    packets = 0
    with Writer(target, form=form) as writer:  # type: ignore[arg-type] # it refuses another one
        for batch in batches:
            packets += writer.write(batch)
    return packets


def _write_table(batches: Iterable["Batch"], target: PathOrFile, form: str) -> int:
    if form == "parquet":
        arrow_modules()  # a missing one leaves no file
    try:
        if not isinstance(target, str | os.PathLike):
            return _write_rows(batches, target, TABLES[form](target))
        with open_output(target) as file:  # closing a compressed one writes, too
            writer = TABLES[form](file)
            try:
                return _write_rows(batches, file, writer)
            except OSError as error:
                if not isinstance(error, FileError):  # of reading
                    with contextlib.suppress(OSError):  # a compressed file, a pipe or a device
                        file.truncate(writer.whole)
                raise
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise file_error("write", subject_of(target), error) from error


def _write_rows(batches: Iterable["Batch"], file: IO[bytes], writer: Any) -> int:
    packets = 0
    with contextlib.closing(writer):
        for batch in batches:
            writer.write(batch)
            packets += len(batch)
    file.flush()
    return packets


def open_batches(source: PathOrFile, groups: Iterable[str], multicast_only: bool) -> Reader | CsvReader:
    """The batches of a capture file, or of CSV when the suffix says so; FileError, GroupError, ArgumentError."""
    if plain_suffix(subject_of(source)) != ".csv":
        return Reader(source, *groups, multicast_only=multicast_only, batch_size=4096)
    if list(groups):
        raise ArgumentError("groups are chosen of capture files; CSV is converted whole")
    return CsvReader(open_input(source) if isinstance(source, str | os.PathLike) else source, subject_of(source))


@dataclass(frozen=True, slots=True)
class Converted:
    """What was converted: `packets`; and what the source holds beside them: `fragments`, datagrams of which not all
    fragments are there; `skipped` frames, which are no UDP or of a link or a tunnel that cannot be read (by name in
    `skipped_kinds`); `broken` ones; and `filtered`, which were not requested."""

    packets: int
    fragments: int = 0
    skipped: int = 0
    broken: int = 0
    filtered: int = 0
    skipped_kinds: Mapping[str, int] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """What was requested, or may have been, and could not be converted."""
        return self.fragments + self.skipped + self.broken


def convert_file(
    source: PathOrFile, target: PathOrFile, form: str, groups: Iterable[str] = (), multicast_only: bool = True
) -> Converted:
    """`convert` what a file holds of these groups (none: of all). Errors as there, and GroupError."""
    if is_same_file(source, target):
        raise ArgumentError(f"{subject_of(source)} is its own target; write to another file")
    with contextlib.closing(open_batches(source, groups, multicast_only)) as batches:
        packets = convert(batches, target, form)
        if not isinstance(batches, Reader):
            return Converted(packets)
        stats = batches.stats
        return Converted(packets, stats.fragments, stats.skipped, stats.broken, stats.filtered, batches.skipped_kinds)
