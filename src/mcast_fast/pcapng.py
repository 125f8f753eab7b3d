"""Capture files as batches: a Reader that stands where a Receiver would, and a Writer.

Both speak pcapng (draft-ietf-opsawg-pcapng) and classic pcap; blocks with packets are the core's business, and all
others are made here.
"""

import errno
import io
import os
import platform
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._core import blocks
from mcast_fast._version import __version__
from mcast_fast.errors import ArgumentError, CaptureError, ClosedError, FileError, explain, file_error
from mcast_fast.groups import Group
from mcast_fast.membership import ALL_INTERFACES, SourceFilter, sources_of
from mcast_fast.stats import ReaderStats, Stats, WriterStats
from mcast_fast.streams import PathOrFile, is_compressed, open_input, open_output, plain_suffix, subject_of
from mcast_fast.units import UNSET, Unset, wait_in_ns, whole_number

if TYPE_CHECKING:
    from mcast_fast._core.fast.files import Decoder
    from mcast_fast._core.fast.views import Batch, Packet

CHUNK = 256 * 1024  # bytes read at once
GATHERED = 64 * 1024  # bytes of small batches that are written at once
MOST_PACKETS = 2**26  # in one batch: their records alone are the 4 GiB that an arena may have
FORMS = ("pcapng", "pcap")


# Reading -------------------------------------------------------------------------------------------------------------


def filter_rows(
    groups: Iterable[str | Group], port: int | None, interface: str | None, source: str | None
) -> list[tuple[bytes, int, str, bool, tuple[bytes, ...]]]:
    """What the core's decoder may deliver: a row for each group, port and interface; GroupError."""
    wanted: dict[tuple[bytes, int, str], SourceFilter] = {}
    for value in groups:
        group = Group.coerce(value)
        group = replace(
            group,
            port=group.port if group.port is not None else port,
            interface=group.interface if group.interface is not None else interface,
            source=group.source if group.source is not None else source,
        )
        sources, name = sources_of(group), group.interface or ""
        for one in group.expand():
            key = one.packed, group.port or 0, "" if name == ALL_INTERFACES else name
            wanted[key] = wanted[key].union(sources) if key in wanted else sources
    return [(*key, sources.exclude, tuple(sorted(sources.sources))) for key, sources in wanted.items()]


class _Input:
    """The bytes of a file for the decoder, of which what is not a whole block yet is kept: at most one block."""

    def __init__(self, file: IO[bytes], subject: str) -> None:
        self._file: Any = file
        self._subject = subject
        self._buffer = bytearray(CHUNK)
        self._start = 0
        self._end = 0
        self._position = 0  # in the file, of what is left
        self.ended = False

    def rest(self) -> memoryview:
        """What was read and not done with."""
        return memoryview(self._buffer)[self._start : self._end]

    def skip(self, count: int) -> None:
        """So many bytes are done with."""
        self._start += count
        self._position += count

    def read(self, needed: int) -> None:
        """Reads on, with room for a block of `needed` bytes; FileError."""
        left = self._end - self._start
        if needed > len(self._buffer) - self._start or self._end == len(self._buffer):
            fresh = self._buffer if needed <= len(self._buffer) else bytearray(needed + CHUNK)
            fresh[:left] = self._buffer[self._start : self._end]
            self._buffer, self._start, self._end = fresh, 0, left
        with memoryview(self._buffer) as whole, whole[self._end :] as room:
            try:
                count = self._fill(room)
            except OSError as error:
                if error.errno:
                    raise file_error("read", self._subject, error) from error
                raise CaptureError(self._subject, self._position, str(error)) from error  # torn compressed data
        self.ended = count == 0
        self._end += count

    def _fill(self, room: memoryview) -> int:
        if hasattr(self._file, "readinto"):
            return self._file.readinto(room) or 0
        data = self._file.read(len(room))
        room[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Reader:
    """The packets of a capture file, as a Receiver would deliver them: `for batch in reader`, `recv_batch`, `recv`,
    `collect`, `stats`, `close`.

    `file`: a path (also of a file compressed as .gz or .zst), or an open binary file, such as a pipe. pcapng and
    classic pcap; Ethernet with VLAN tags, Linux cooked, raw IP and null links. `groups`: texts in the grammar of
    `Group.parse`, or Groups, of which port and interface (by its name in the file) may be left out; `port`, `interface`
    and `source` fill them in. Without groups: everything to multicast destinations, and with `multicast_only=False`
    all UDP. `batch_size`: packets in a batch at most. `timeout` is there for scripts that are written for a Receiver: a
    file never makes one wait, and where it ends, `recv` and `recv_batch` raise TimeoutError.

    `interface` of a packet is the name that the file has for it (`interface_index` counts from 1 as the file does), and
    `dropped` what the file tells. Fragments are counted and not put together. What of a file cannot be read is a
    CaptureError, after all that stands before it. Raises GroupError, ArgumentError, FeatureError, FileError.
    """

    def __init__(
        self,
        file: PathOrFile,
        *groups: str | Group,
        port: int | None = None,
        interface: str | None = None,
        source: str | None = None,
        timeout: float | None = None,
        batch_size: int = 256,
        multicast_only: bool = True,
    ) -> None:
        self._closed = True  # until everything is open
        self.timeout = timeout
        wait_in_ns(timeout)
        self._batch_size = whole_number(batch_size, "batch_size", 1, 1_000_000)
        self._subject = subject_of(file)
        rows = filter_rows(groups, port, interface, source) if groups else None
        self._decoder: Decoder = _core.files.Decoder(self._subject, rows, multicast_only)
        self._input = _Input(open_input(file) if isinstance(file, str | os.PathLike) else file, self._subject)
        self._owned = isinstance(file, str | os.PathLike)
        self._left: Batch | None = None  # what recv() read beyond its one packet
        self._lock = threading.RLock()
        self._failure: CaptureError | FileError | None = None
        self._closed = False

    # ---- packets ----

    def recv_batch(self, max_packets: int | None = None, timeout: float | Unset | None = UNSET) -> "Batch":
        """The next 1..max_packets (default batch_size) packets, as a Batch.

        Raises TimeoutError at the end of the file, CaptureError where it cannot be read any further, FileError,
        ClosedError."""
        limit = self._batch_size if max_packets is None else whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        _check_timeout(timeout)
        with self._lock:
            if self._left is not None:
                return self._take_left(limit)
            if not self._read(limit, at_least=1):
                raise TimeoutError(f"{self._subject} has ended")
            return self._decoder.take()

    def recv(self, timeout: float | Unset | None = UNSET) -> "Packet":
        """One packet. Errors as `recv_batch`."""
        with self._lock:
            batch = self.recv_batch(None, timeout)
            if len(batch) > 1:
                self._left = batch[1:]
            return batch[0]

    def collect(self, max_packets: int, timeout: float | Unset | None = UNSET) -> "Batch":
        """One large Batch of `max_packets` packets, or of what is left of the file: it may be empty.

        Errors as `recv_batch`, but that no TimeoutError is raised."""
        limit = whole_number(max_packets, "max_packets", 1, MOST_PACKETS)
        _check_timeout(timeout)
        with self._lock:
            if self._left is not None:
                return self._take_left(limit)
            self._read(limit, at_least=limit)
            return self._decoder.take()

    def __iter__(self) -> Iterator["Batch"]:
        """Batches until the file ends, or the reader is closed."""
        try:
            while True:
                yield self.recv_batch()
        except (TimeoutError, ClosedError):
            return

    def _take_left(self, limit: int) -> "Batch":
        left = self._left
        assert left is not None
        self._left = left[limit:] if len(left) > limit else None
        return left[:limit]

    def _read(self, limit: int, at_least: int) -> int:
        """Reads until so many packets wait in the decoder, or the file has no more; how many do."""
        self._check_open()
        if self._failure is not None:
            raise self._failure
        decoder, source = self._decoder, self._input
        try:
            while True:
                rest = source.rest()
                used = decoder.decode(rest, limit, source.ended)
                source.skip(used)
                left = len(rest) - used
                rest.release()
                if decoder.count >= at_least or decoder.needed <= left or source.ended:
                    break
                source.read(decoder.needed)
        except (CaptureError, FileError) as error:
            self._failure = error
            if not decoder.count:
                raise
        if source.ended and not decoder.form:
            self._failure = CaptureError(self._subject, 0, "it is empty")
            raise self._failure
        return decoder.count

    # ---- state ----

    @property
    def batch_size(self) -> int:
        """Packets in a batch at most."""
        return self._batch_size

    @property
    def form(self) -> str:
        """'pcapng' or 'pcap'; '' before the first packet was asked for."""
        return self._decoder.form

    @property
    def offset(self) -> int:
        """How many bytes of the file were read, in whole blocks (of a compressed file: as decompressed)."""
        return self._decoder.offset

    @property
    def interfaces(self) -> tuple[blocks.CapturedOn, ...]:
        """Every interface that the file has described so far, and what its statistics blocks counted."""
        return self._decoder.interfaces

    @property
    def stats(self) -> ReaderStats:
        """What became of the file's packets so far."""
        return ReaderStats(**self._decoder.counters())

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        """Close the file, when it was opened here; closing again does nothing."""
        with self._lock:
            if not self._closed and self._owned:
                self._input.close()
            self._closed = True
            self._left = None

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the reader is closed")

    def __enter__(self) -> "Reader":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Reader of {self._subject}, {self.stats.received} packets so far{', closed' if self._closed else ''}>"


def _check_timeout(timeout: float | Unset | None) -> None:
    if not isinstance(timeout, Unset):
        wait_in_ns(timeout)


def open_capture(file: PathOrFile, groups: Iterable[str | Group] | str | Group = (), **options: Any) -> Reader:
    """A Reader of a capture file: `groups` and `options` as the Reader takes them."""
    return Reader(file, *((groups,) if isinstance(groups, str | Group) else groups), **options)


# Writing -------------------------------------------------------------------------------------------------------------


def _option(code: int, value: bytes) -> bytes:
    """An option, padded to 32 bits; nothing when there is no value."""
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4) if value else b""


def _text_option(code: int, text: str) -> bytes:
    return _option(code, text.encode()[:0xFFFF])


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    """A block of pcapng, in the byte order of the machine."""
    body += options + bytes(4) if options else b""  # opt_endofopt
    length = 12 + len(body)
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


def _system() -> str:
    """The operating system, its version and processor; platform.platform() starts a program to find out."""
    told = platform.uname()
    return f"{told.system} {told.release} {told.machine}"


def section_header(application: str, hardware: str) -> bytes:
    """The section header block: byte order, version 1.0, length unknown; who wrote it, and where."""
    options = _text_option(blocks.SHB_HARDWARE, hardware) + _text_option(blocks.SHB_OS, _system())
    options += _text_option(blocks.SHB_USERAPPL, application)
    return _block(blocks.SECTION_HEADER, struct.pack("=IHHq", blocks.BYTE_ORDER, 1, 0, -1), options)


def interface_description(name: str, filter_text: str) -> bytes:
    """The interface description block: Ethernet, whole packets, times in ns."""
    options = _text_option(blocks.IF_NAME, name) + _option(blocks.IF_TSRESOL, b"\x09")
    if filter_text:
        options += _option(blocks.IF_FILTER, b"\0" + filter_text.encode()[:0xFFFE])  # 0: a text
    return _block(blocks.INTERFACE_DESCRIPTION, struct.pack("=HHI", blocks.LINK_ETHERNET, 0, 0), options)


def interface_statistics(number: int, started: int, now: int, counters: dict[int, int | None]) -> bytes:
    """The interface statistics block of interface `number` of the file; counters that are None are left out."""
    options = b"".join(
        _option(code, struct.pack("=II", moment >> 32, moment & 0xFFFFFFFF))
        for code, moment in ((blocks.ISB_STARTTIME, started), (blocks.ISB_ENDTIME, now))
    )
    known = {code: value for code, value in counters.items() if value is not None}
    options += b"".join(_option(code, struct.pack("=Q", value)) for code, value in known.items())
    return _block(blocks.INTERFACE_STATISTICS, struct.pack("=III", number, now >> 32, now & 0xFFFFFFFF), options)


def pcap_header() -> bytes:
    """The header of a classic pcap file with times in ns: Ethernet, version 2.4."""
    return struct.pack("=IHHiIII", blocks.PCAP_NS, 2, 4, 0, 0, blocks.LARGEST_FRAME, blocks.LINK_ETHERNET)


class Writer:
    """Batches into a capture file that every tool reads: Ethernet, IP and UDP headers are made up from the record.

    `file`: a path, created for its owner alone (0600) and compressed when it ends in .gz or .zst, or an open binary
    file. `form`: "pcapng" or "pcap" (classic, times in ns; no interfaces, no drops); left out, as the suffix says.
    `filter_text`: what was asked for, kept in the file (if_filter). `application` and `hardware` tell who wrote it.

    Small batches are gathered: `flush` writes them. When the system refuses to write, FileError says how many packets
    stand in the file, and what of the next one had been written is cut off, where the file can be cut. Bytes are
    counted before compression. Raises ArgumentError, FeatureError, FileError.
    """

    def __init__(
        self,
        file: PathOrFile,
        *,
        form: str | None = None,
        filter_text: str = "",
        application: str = f"mcast-fast {__version__}",
        hardware: str = "",
    ) -> None:
        self._closed = True  # until everything is open
        self._subject = subject_of(file)
        self._form = _form_of(self._subject, form)
        self._filter_text = filter_text
        self._owned = isinstance(file, str | os.PathLike)
        self._file: Any = open_output(file) if isinstance(file, str | os.PathLike) else file
        self._encoder = _core.files.Encoder(self._form)
        self._described: dict[int, int] = {}  # interface index -> number in the file
        self._pieces: list[tuple[bytes, int]] = []  # gathered: (bytes, packets in them)
        self._gathered = 0
        self._batch_ends: list[int] = []  # packets accepted at the end of each batch that is not written yet
        self._accepted = self._packets = self._bytes = self._batches = 0
        self._started = time.time_ns()
        self._failure: FileError | None = None
        self._lock = threading.RLock()
        self._closed = False
        header = pcap_header() if self._form == "pcap" else section_header(application, hardware)
        self._gather(header, 0)

    def write(self, batch: "Batch") -> int:
        """Write the packets of a batch; how many. ArgumentError at a packet that no datagram can hold (those before it
        are written), FileError, ClosedError."""
        with self._lock:
            self._check_open()
            at = 0
            while at < len(batch):
                piece, stop = self._encoder.encode(batch, at)
                if stop == at:
                    self._describe(batch[at].interface_index, batch[at].interface)
                    continue
                self._accepted += stop - at
                if stop == len(batch):
                    self._batch_ends.append(self._accepted)
                with piece:  # or who keeps an exception would keep the encoder's memory from growing
                    self._gather(piece, stop - at)
                at = stop
            return at

    def statistics(self, stats: Stats, interface: int | None = None) -> None:
        """Write what a receiver's ledger says now, as a statistics block (pcapng; nothing in classic pcap).

        The ledger is of all interfaces together: it is written for the one with the index `interface`, or the first.
        FileError, ClosedError."""
        with self._lock:
            self._check_open()
            if self._form == "pcap":
                return
            if not self._described:
                self._describe(interface or 0, "")
            number = 0 if interface is None else self._described.get(interface, 0)
            arrived = None if stats.dropped is None else stats.received + stats.filtered + stats.dropped
            counters = {
                blocks.ISB_IFRECV: arrived,
                blocks.ISB_OSDROP: stats.dropped,
                blocks.ISB_USRDELIV: stats.received,
            }
            self._gather(interface_statistics(number, self._started, time.time_ns(), counters), 0)

    def flush(self) -> None:
        """Hand over to the system what is gathered; FileError, ClosedError."""
        with self._lock:
            self._check_open()
            self._write_gathered()
            self._try(self._file.flush)

    def sync(self) -> None:
        """Flush, and wait until the disk has it (fsync), where the file is one; FileError, ClosedError."""
        self.flush()
        if hasattr(self._file, "fileno"):
            self._try(self._sync_file)

    def _sync_file(self) -> None:
        try:
            os.fsync(self._file.fileno())
        except io.UnsupportedOperation:
            pass  # memory
        except OSError as error:
            if error.errno != errno.EINVAL:  # fsync(2): a pipe, a socket, a device: there is nothing to wait for
                raise

    @property
    def form(self) -> str:
        """'pcapng' or 'pcap'."""
        return self._form

    @property
    def size(self) -> int:
        """Bytes of the file so far, what is gathered for it included (before compression)."""
        return self._bytes + self._gathered

    @property
    def stats(self) -> WriterStats:
        """What stands in the file, and what is gathered for it."""
        return WriterStats(self._packets, self._bytes, self._batches, self._accepted - self._packets)

    @property
    def closed(self) -> bool:
        """Whether close() was called."""
        return self._closed

    def close(self) -> None:
        """Write what is gathered, and close the file when it was opened here; closing again does nothing. FileError
        when that last write is refused; the file is closed all the same."""
        with self._lock:
            if self._closed:
                return
            try:
                if self._failure is None:
                    self.flush()
            finally:
                self._closed = True
                if self._owned:
                    self._close_file()

    def _close_file(self) -> None:
        try:
            self._file.close()  # a compressed one writes its end here
        except OSError as error:
            if self._failure is None:
                self._fail(error)

    def _describe(self, index: int, name: str) -> None:
        self._encoder.add(index)
        self._described[index] = len(self._described)
        self._gather(interface_description(name, self._filter_text), 0)

    def _gather(self, piece: bytes | memoryview, packets: int) -> None:
        """Keeps a small piece for later, and writes a large one behind all that is gathered."""
        if self._gathered + len(piece) >= GATHERED:
            self._write_gathered()
            self._write_piece(piece, packets)
        else:
            self._pieces.append((bytes(piece), packets))
            self._gathered += len(piece)

    def _write_gathered(self) -> None:
        pieces, self._pieces, self._gathered = self._pieces, [], 0
        if pieces:
            self._write_piece(b"".join(data for data, _ in pieces), sum(packets for _, packets in pieces))

    def _write_piece(self, piece: bytes | memoryview, packets: int) -> None:
        """Writes whole blocks; where that ends early, counts the packets that stand in the file."""
        rest = memoryview(piece)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException as error:  # Ctrl-C too: nothing may be written behind half a block
            whole, packets = self._whole_blocks(memoryview(piece)[: len(piece) - len(rest)])
            self._cut(self._bytes + whole)
            self._count(whole, packets)
            if isinstance(error, OSError):
                self._fail(error)
            self._failure = FileError(
                errno.EINTR, f"write {self._subject}: interrupted; {self._told()}", self._packets, self._bytes
            )
            raise
        self._count(len(piece), packets)

    def _count(self, size: int, packets: int) -> None:
        self._bytes += size
        self._packets += packets
        done = sum(1 for end in self._batch_ends if end <= self._packets)
        del self._batch_ends[:done]
        self._batches += done

    def _whole_blocks(self, written: memoryview) -> tuple[int, int]:
        """(bytes, packets) of the whole blocks of what was written."""
        at = packets = 0
        if self._form == "pcap" and self._bytes == 0:
            at = blocks.PCAP_HEADER if len(written) >= blocks.PCAP_HEADER else 0
        while len(written) - at >= 16:
            kind, length = struct.unpack_from("=II", written, at)
            if self._form == "pcap":
                kind, length = blocks.ENHANCED_PACKET, 16 + struct.unpack_from("=I", written, at + 8)[0]
            if length > len(written) - at:
                break
            at += length
            packets += kind == blocks.ENHANCED_PACKET
        return at, packets

    def _cut(self, size: int) -> None:
        """Leaves whole blocks only, where the file can be cut: a reader would refuse the rest."""
        try:
            if self._owned and not is_compressed(self._subject):
                self._file.truncate(size)
        except OSError:
            pass  # a pipe or a device

    def _try(self, step: Any) -> None:
        try:
            step()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        number = error.errno or 0
        message = f"{explain('write', self._subject, number)}; {self._told()}"
        self._failure = FileError(number, message, self._packets, self._bytes)
        raise self._failure from error

    def _told(self) -> str:
        return f"{self._packets} packets, {self._bytes} bytes are in the file"

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError("the writer is closed")
        if self._failure is not None:
            raise self._failure

    def __enter__(self) -> "Writer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Writer of {self._subject}, {self._packets} packets{', closed' if self._closed else ''}>"


def _form_of(subject: str, form: str | None) -> str:
    """The form that was asked for, or that the suffix names."""
    if form is None:
        return "pcap" if plain_suffix(subject) == ".pcap" else "pcapng"
    if form not in FORMS:
        raise ArgumentError(f"form {form!r} is not one of: {', '.join(map(repr, FORMS))}")
    return form
