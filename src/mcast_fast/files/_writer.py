"""Batches into capture files: a Writer of pcapng (draft-ietf-opsawg-pcapng) and classic pcap.

Blocks with packets are made by the core's encoder, all others by `_pcapng`.
"""

import errno
import io
import os
import stat
import struct
import time
from typing import TYPE_CHECKING, Any, Literal, get_args

from mcast_fast import _core
from mcast_fast._core import blocks
from mcast_fast._core.layout import Flag
from mcast_fast._guarded import Guarded, guarded
from mcast_fast._units import checked, checked_text, whole_number
from mcast_fast._version import __version__
from mcast_fast.errors import ArgumentError, FileError, explain
from mcast_fast.files._pcapng import (
    interface_description,
    interface_statistics,
    pcap_header,
    section_header,
)
from mcast_fast.files._streams import MEMBER, Compressed, PathOrFile, open_output, plain_suffix, subject_of
from mcast_fast.stats import Stats, WriterStats

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

GATHERED = 64 * 1024  # bytes of small batches that are written at once
Form = Literal["pcapng", "pcap"]
FORMS = get_args(Form)
Link = Literal["ethernet", "raw"]
LINKS = get_args(Link)
LARGEST_INDEX = 2**31 - 1  # of an interface
# What says how much it has written also when a signal handler raises in the middle.
RESUMED = (io.FileIO, io.BytesIO, Compressed)


class Writer(Guarded):
    """Writes batches into a capture file: pcapng, or classic pcap.

    Packets that are whole frames (`Receiver(frames=True)`) are written as they came. The headers of all others are
    synthetic: made from the record, with the TTL and TOS that it has. A pcapng file says so in a comment of its
    interface description, and which of TTL and TOS are not known (64 and 0 are written); a Reader knows it again.

    Small batches are gathered: `flush` writes them. When the system refuses to write, FileError reports how many
    packets are in the file, and what of the next one had been written is cut off, where the file can be cut. Bytes are
    counted before compression. Of a compressed file each flush, and each 256 KiB, can be read whatever becomes of the
    rest.

    Threads may share a writer; close() may be called at any moment, from a signal handler too. An exception of a signal
    handler in the middle of a write loses nothing that is counted: the next call goes on from there (of a
    file object that is Python: FileError from then on). A writer belongs to the process that opened it: a
    forked child writes nothing into the shared file.

    Args:
        file: A path, created for its owner alone (0600) and compressed when it ends in .gz or .zst, or an open binary
            file.
        form: "pcapng" or "pcap" (classic, times in ns; no interfaces, no drops); left out, as the suffix says.
        link: "ethernet", or "raw": packets begin with the IP header, and whole frames cannot be written.
        filter_text: What was requested, kept in the file (if_filter).
        application: The program that wrote it.
        hardware: The machine that wrote it.
        exclusive: A path must name no file yet, nor a link.
        follow_links: A path may name a link; else only one in /dev, such as /dev/stdout.

    Raises:
        ArgumentError: An argument is not one of those.
        FeatureError: The compression needs a package that is not there.
        FileError: The system refuses to open the file.
    """

    __module__ = "mcast_fast.files"

    _WHAT = "writer"

    def __init__(
        self,
        file: PathOrFile,
        *,
        form: Form | None = None,
        link: Link = "ethernet",
        filter_text: str = "",
        application: str = f"mcast-fast {__version__}",
        hardware: str = "",
        exclusive: bool = False,
        follow_links: bool = True,
    ) -> None:
        super().__init__()
        self._subject = subject_of(file, "write")
        self._form = _form_of(self._subject, form)
        if link not in LINKS:
            raise ArgumentError(f"link {link!r} is not one of: {', '.join(map(repr, LINKS))}")
        self._raw = link == "raw"
        self._filter_text = checked_text(filter_text, "filter_text")
        header = section_header(checked_text(application, "application"), checked_text(hardware, "hardware"))
        self._header = pcap_header(self._raw) if self._form == "pcap" else header
        self._owned = isinstance(file, str | os.PathLike)
        self._file: Any = file
        if isinstance(file, str | os.PathLike):
            self._file = open_output(file, bool(exclusive), bool(follow_links))
        self._encoder = _core.files.Encoder(self._form, self._raw)
        self._described: dict[tuple[int, int], int] = {}  # (interface index, known headers) -> number in the file
        self._buffer = bytearray()  # whole blocks that are not all written
        self._sent = 0  # bytes of them that are
        self._counts: list[Any] = []  # what writes returned, and is not in `_sent` yet
        self._batch_ends: list[int] = []  # packets accepted at the end of each batch that is not written yet
        # Batches, and what was not written by the encoder, which counts the rest.
        self._accepted = self._packets = self._bytes = self._batches = 0
        self._whole: list[tuple[int, int, int]] = []  # (bytes, packets, batches) of the last two flushes that began
        self._started = time.time_ns()
        self._failure: FileError | None = None
        self._buffer += self._header
        self._closed = False

    @guarded
    def write(self, batch: "Batch") -> int:
        """Write the packets of a batch.

        Args:
            batch: A Batch, of a receiver or of a file.

        Returns:
            The number of packets.

        Raises:
            ArgumentError: A packet cannot be written, such as one that no datagram can hold; those before it are.
            FileError: The system refuses to write.
            ClosedError: The writer is closed, or another process opened it.
        """
        checked(batch, _core.views.Batch, "batch", "a Batch")
        self._begin()
        at = 0
        write = self._write_in_place if self._goes_in_place(batch) else self._write_encoded
        while at < len(batch):
            stop = write(batch, at)
            if stop == at:
                self._describe(self._encoder.key(batch, at), batch[at].interface or "")
            at = stop
            if isinstance(self._file, Compressed) and self._file.taken - self._file.whole >= MEMBER:
                self._flush()
        if at:
            self._batch_ends.append(self._accepted)
            self._count_batches()
        return at

    @guarded
    def statistics(self, stats: Stats, interface: int | None = None) -> None:
        """Write a receiver's ledger as a statistics block (pcapng; nothing in classic pcap).

        Args:
            stats: The ledger, which is of all interfaces together.
            interface: Index of the interface that it is written for; None: the first one of the file.

        Raises:
            ArgumentError: `stats` is no ledger, or the index is out of range.
            FileError: The system refuses to write.
            ClosedError: The writer is closed, or another process opened it.
        """
        checked(stats, Stats, "stats", "the stats of a receiver")
        if interface is not None:
            whole_number(interface, "interface", 0, LARGEST_INDEX)
        self._begin()
        if self._form == "pcap":
            return
        if not self._described:
            self._describe((interface or 0, int(Flag.TTL | Flag.TOS)), "")
        numbers = [number for (index, _), number in self._described.items() if index == interface]
        number = numbers[0] if numbers else 0
        arrived = None if stats.dropped is None else stats.received + stats.filtered + stats.dropped
        counters = {
            blocks.ISB_IFRECV: arrived,
            blocks.ISB_OSDROP: stats.dropped,
            blocks.ISB_USRDELIV: stats.received,
        }
        self._gather(interface_statistics(number, self._started, time.time_ns(), counters), 0)

    @guarded
    def flush(self) -> None:
        """Hand over to the system what is gathered.

        Raises:
            FileError: The system refuses to write.
            ClosedError: The writer is closed, or another process opened it.
        """
        self._begin()
        self._flush()

    @guarded
    def sync(self) -> None:
        """Flush, and wait until the disk has it (fsync(2)), where the file is one.

        Raises:
            FileError: The system refuses to write.
            ClosedError: The writer is closed, or another process opened it.
        """
        self._begin()
        self._flush()
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

    # ---- state ----

    @property
    def form(self) -> Form:
        """'pcapng' or 'pcap'."""
        return self._form

    @property
    def is_shared(self) -> bool:
        """Whether it is a file of which the system says that others than its owner may read or write it."""
        try:
            mode = os.fstat(self._file.fileno()).st_mode
        except (AttributeError, OSError, ValueError):
            return False
        return hasattr(os, "geteuid") and stat.S_ISREG(mode) and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))

    @property
    def size(self) -> int:
        """Bytes of the file so far, what is gathered for it included (before compression)."""
        self._check_process()
        rest = self._encoder.rest
        return self._bytes_written() + len(self._buffer) + (0 if rest is None else len(rest[0]))

    @property
    def accepted(self) -> int:
        """Packets that are in the file, or gathered for it. ClosedError in a forked child."""
        self._check_process()
        return self._accepted + self._encoder.written_packets + self._encoder.pending

    @property
    def stats(self) -> WriterStats:
        """What is in the file, and what is gathered for it."""
        self._check_process()
        gathered = self._accepted - self._packets + self._encoder.pending
        return WriterStats(self._packets_written(), self._bytes_written(), self._batches, gathered)

    def _packets_written(self) -> int:
        return self._packets + self._encoder.written_packets

    def _bytes_written(self) -> int:
        return self._bytes + self._encoder.written_bytes

    def close(self) -> None:
        """Write what is gathered, and close the file when it was opened here; closing again does nothing.

        Any thread and any signal handler may call it at any moment: a call that is in progress ends first, and closes.
        In a forked child only descriptors are closed, and nothing is written.

        Raises:
            FileError: The last write is refused; the file is closed all the same.
        """
        super().close()

    def _tear_down(self) -> None:
        try:
            if self._failure is None:
                self._take_rest()
                self._flush()
        finally:
            if self._owned:
                self._close_file()

    def _close_file(self) -> None:
        try:
            self._file.close()  # a compressed one writes its end here
        except OSError as error:
            if self._failure is None:
                self._fail(error)

    def _is_unfinished(self) -> bool:
        return not self._closed and (self._owned or self._failure is None)

    def _abandon(self) -> None:
        if self._owned:
            self._file.close()

    # ---- from batches to bytes ----

    def _goes_in_place(self, batch: "Batch") -> bool:
        """Whether the encoder writes by itself, large payloads from where they are: of a plain file, and not of a small
        batch."""
        return _core.files.GATHERS and type(self._file) is io.FileIO and batch.payload_bytes >= GATHERED

    def _write_encoded(self, batch: "Batch", at: int) -> int:
        """Write or gather a copy of packets from `at` on; where it stopped, `at` before an interface to describe."""
        self._add_interfaces()
        piece, stop = self._encoder.encode(batch, at)
        with piece:  # or who keeps an exception would keep the encoder's memory from growing
            if stop > at:
                self._gather(piece, stop - at)
        return stop

    def _write_in_place(self, batch: "Batch", at: int) -> int:
        """As `_write_encoded`, by the encoder itself. What the system does not take is then gathered."""
        self._add_interfaces()
        if self._buffer:
            self._write_gathered()
        stop = self._encoder.write(self._file.fileno(), batch, at)
        if self._encoder.rest is not None:
            self._take_rest()
            self._write_gathered()
        return stop

    def _take_rest(self) -> None:
        """Have what the encoder has not written be the gathered blocks, which were all written before."""
        self._encoder.settle()
        if self._encoder.rest is not None:
            # Nothing is called from here on, so that no signal handler comes in between.
            self._buffer, self._sent, packets = self._encoder.rest
            self._accepted += packets
            self._encoder.rest = None

    def _add_interfaces(self) -> None:
        """Have the encoder know every interface that the file describes: an exception of a signal handler may have come
        between the two."""
        if self._encoder.interfaces < len(self._described):
            for key in list(self._described)[self._encoder.interfaces :]:
                self._encoder.add(*key)

    def _describe(self, key: tuple[int, int], name: str) -> None:
        if len(self._described) == blocks.MOST_WRITTEN:
            raise ArgumentError(blocks.TOO_MANY_WRITTEN)
        block = interface_description(name, self._filter_text, key[1], self._raw)
        number = len(self._described)
        # Nothing is called in between: no signal handler can see a block without its number.
        self._buffer += block
        self._described[key] = number

    def _gather(self, piece: bytes | memoryview, packets: int) -> None:
        """Keep a small piece for later, and write a large one behind all that is gathered, without a copy."""
        size = len(piece)
        if len(self._buffer) + size < GATHERED:
            self._buffer += piece
            self._accepted += packets
            return
        self._write_gathered()
        try:
            sent = 0
            while sent < size:
                with memoryview(piece)[sent:] as rest:
                    self._write_once(rest)
                sent += self._counts[0]
                del self._counts[0]
        except BaseException as error:
            # In the order that leaves nothing out wherever another exception comes: the rest is as good as gathered.
            sent += sum(filter(None, self._counts))
            self._counts, self._buffer, self._sent = [], bytearray(piece), sent
            self._accepted += packets
            self._give_up(error)
            raise
        self._bytes += size
        self._accepted += packets
        self._packets = self._accepted

    def _write_gathered(self) -> None:
        try:
            while self._sent < len(self._buffer):
                self._count_written()
                with memoryview(self._buffer)[self._sent :] as rest:
                    self._write_once(rest)
                self._count_written()
        except BaseException as error:
            self._count_written()
            self._give_up(error)
            raise
        del self._buffer[:]
        self._bytes += self._sent
        self._sent = 0
        self._packets = self._accepted
        self._count_batches()

    def _write_once(self, rest: memoryview) -> None:
        """Write some of it: how much is in `_counts` before an exception of a signal handler can come."""
        before = self._taken()
        try:
            self._counts.extend(map(self._file.write, (rest,)))
        except OSError:
            raise
        except BaseException:
            if not self._counts and self._taken() > before:
                self._counts.append(self._taken() - before)
            raise
        if self._counts[-1] is None:  # a file that does not block, and has no room
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def _taken(self) -> int:
        """What a compressor has taken, which is Python around one call into C."""
        return self._file.taken if isinstance(self._file, Compressed) else 0

    def _count_written(self) -> None:
        while self._counts:
            self._sent += self._counts[0] or 0
            del self._counts[0]

    def _count_batches(self) -> None:
        done = sum(1 for end in self._batch_ends if end <= self._packets)
        del self._batch_ends[:done]
        self._batches += done

    def _flush(self) -> None:
        self._write_gathered()
        self._whole = [*self._whole[-1:], (self._bytes, self._packets, self._batches)]
        self._try(self._file.flush)

    # ---- when the system refuses ----

    def _give_up(self, error: BaseException) -> None:
        """After an exception in the middle of a write: where that cannot go on, cut the file to whole blocks and count
        the packets in them. FileError for an OSError; else the next call raises one."""
        if not isinstance(error, OSError) and type(self._file) in RESUMED:
            return
        if isinstance(error, OSError) and isinstance(self._file, Compressed):
            self._fail(error)
        whole, packets = self._whole_blocks(memoryview(self._buffer)[: self._sent])
        self._cut(self._bytes_written() + whole)
        self._bytes += whole
        self._packets += packets
        self._buffer, self._sent, self._accepted = bytearray(), 0, self._packets
        self._count_batches()
        if isinstance(error, OSError):
            self._fail(error)
        self._failure = FileError(
            errno.EINTR,
            f"write {self._subject}: interrupted; {self._report()}",
            self._packets_written(),
            self._bytes_written(),
        )

    def _whole_blocks(self, written: memoryview) -> tuple[int, int]:
        """(bytes, packets) of the whole blocks of what was written."""
        at = packets = 0
        if self._form == "pcap" and self._bytes_written() == 0:
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

    def _return_to_whole(self, file: Compressed) -> None:
        """Count what of a compressed file can be read, and leave no more of it: what follows its last flush is lost."""
        file.give_up(self._header)
        counts = [one for one in self._whole if one[0] == file.whole]
        self._bytes, self._packets, self._batches = counts[-1] if counts else (file.whole, 0, 0)
        self._buffer, self._sent, self._accepted = bytearray(), 0, self._packets
        self._batch_ends.clear()

    def _cut(self, size: int) -> None:
        """Leave whole blocks only, where the file can be cut: a reader would refuse the rest."""
        try:
            if self._owned and not isinstance(self._file, Compressed):
                self._file.truncate(size)
        except OSError:
            pass  # a pipe or a device

    def _try(self, step: Any) -> None:
        try:
            step()
        except OSError as error:
            self._fail(error)

    def _fail(self, error: OSError) -> None:
        if isinstance(self._file, Compressed):
            self._return_to_whole(self._file)
        number = error.errno or 0
        message = f"{explain('write', self._subject, number)}; {self._report()}"
        self._failure = FileError(number, message, self._packets_written(), self._bytes_written())
        raise self._failure from error

    def _report(self) -> str:
        return f"{self._packets_written()} packets, {self._bytes_written()} bytes are in the file"

    def _begin(self) -> None:
        """Go on after what interrupted the last call; FileError after what ended the file."""
        if self._failure is not None:
            raise self._failure
        self._take_rest()

    def __repr__(self) -> str:
        return f"<Writer of {self._subject}, {self._packets_written()} packets{', closed' if self._closed else ''}>"


def _form_of(subject: str, form: Form | None) -> Form:
    """The requested form, or the one that the suffix names."""
    if form is None:
        return "pcap" if plain_suffix(subject) == ".pcap" else "pcapng"
    if form not in FORMS:
        raise ArgumentError(f"form {form!r} is not one of: {', '.join(map(repr, FORMS))}")
    return form
