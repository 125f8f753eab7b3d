"""Capture files on the standard library: the twin of fast/files.pxi."""

import dataclasses
import struct
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from mcast_fast._core import blocks
from mcast_fast._core.layout import ARENA_LIMIT, MAX_PACKET_SIZE, RECORD, RECORD_SIZE, V4_MAPPED, Flag
from mcast_fast._core.pure.encoding import GATHERS as GATHERS  # noqa: PLC0414 - the codecs of one backend are one module
from mcast_fast._core.pure.encoding import Encoder as Encoder  # noqa: PLC0414
from mcast_fast._core.pure.frames import Framed, Kind, Rest, read_frame, read_udp, skipped_kind
from mcast_fast._core.pure.merge import Run as Run  # noqa: PLC0414
from mcast_fast._core.pure.merge import merge_by_time as merge_by_time  # noqa: PLC0414
from mcast_fast._core.pure.reassembly import Reassembly
from mcast_fast._core.pure.summary import Summary as Summary  # noqa: PLC0414 - as above
from mcast_fast._core.pure.views import Batch, take_over
from mcast_fast.errors import ArgumentError, CaptureError

Row = tuple[bytes, int, str, bool, Sequence[bytes]]

_NATIVE = "<" if sys.byteorder == "little" else ">"
_OTHER = ">" if _NATIVE == "<" else "<"
_TRUNCATED, _TTL, _TOS, _COALESCED = (int(each) for each in (Flag.TRUNCATED, Flag.TTL, Flag.TOS, Flag.COALESCED))
_SHARED_TIME = blocks.SHARED_TIME.encode()
_LARGEST_COUNT = 2**32 - 1  # of dropped packets, in a record
_LARGEST_TOTAL = 2**64 - 1
_MOST_SECONDS = 2**62
_FIRST_SECOND, _FIRST_TIME, _LAST_TIME = -9_223_372_036, -(2**63), 2**63 - 1  # whole seconds and ns that 64 bits hold
_SECOND = 1_000_000_000

_MULTICAST_V4 = 0xE0


class _BlockError(Exception):
    """A block cannot be read: which of `blocks.FAILURES`, and its two numbers."""

    def __init__(self, failure: int, value: int, other: int = 0) -> None:
        super().__init__(failure, value, other)


@dataclasses.dataclass(slots=True)
class _Interface:
    """An interface as the file describes it; `counters` by option code of its latest statistics block."""

    link_type: int
    name: str = ""
    snaplen: int = 0
    resolution: int = 6
    time_offset: int = 0
    pending_drops: int = 0  # reported with packets that were not delivered: they belong to the next record
    counters: dict[int, int] = dataclasses.field(default_factory=dict)
    synthetic: bool = False
    unknown: int = 0  # flags that its records do not have: the headers are synthetic

    def time(self, ticks: int) -> int:
        """ns since the epoch; 0 (none) for what 64 bits of them do not hold."""
        power = self.resolution & 0x7F
        units: int = 2**power if self.resolution & 0x80 else 10**power
        seconds, rest = divmod(ticks, units)
        if seconds > _MOST_SECONDS or abs(self.time_offset) > _MOST_SECONDS:
            return 0
        since_epoch = seconds + self.time_offset
        time = since_epoch * _SECOND + rest * _SECOND // units
        return time if since_epoch >= _FIRST_SECOND and time <= _LAST_TIME else 0

    def captured_on(self) -> blocks.CapturedOn:
        """What a user sees of it."""
        codes = (blocks.ISB_IFRECV, blocks.ISB_IFDROP, blocks.ISB_OSDROP, blocks.ISB_USRDELIV)
        received, dropped, dropped_system, delivered = map(self.counters.get, codes)
        return blocks.CapturedOn(
            self.name, self.link_type, received, dropped, dropped_system, delivered, self.synthetic
        )


@dataclasses.dataclass(slots=True)
class _Captured:
    """A packet as a block has it; `interface` counts from 0."""

    interface: int
    timestamp: int
    dropped: int
    frame: bytes
    wire: int
    flags: int = 0  # of the record, beside those that its headers give it


def _is_multicast(address: bytes) -> bool:
    return address[0] == 0xFF or (address[:12] == V4_MAPPED and address[12] & 0xF0 == _MULTICAST_V4)


class Decoder:
    """A capture file, read piece by piece: pcapng and classic pcap.

    `subject` is what errors call the file. `rows` = (group, port, interface, exclude, sources): what may be delivered;
    addresses have 16 bytes, port 0 and interface '' = any; None = everything, or (`multicast_only`) everything to a
    multicast address. `start`, `end`: only packets from the one time on and before the other one, in ns; those without
    a time have 0. `names` (interface index to name) goes with every batch, and grows as the file describes more: an
    index is never used again. Threads may share a decoder; what an exception of a signal handler interrupts is as if it
    had not been begun."""

    def __init__(
        self,
        subject: str,
        rows: Iterable[Row] | None,
        multicast_only: bool,
        start: int = _FIRST_TIME,
        end: int = _LAST_TIME,
    ) -> None:
        self._lock = threading.RLock()  # a signal handler may come in between
        self.names: dict[int, str] = {}
        self.offset = 0
        self.needed = 0
        self.form = ""
        self._subject = subject
        self._multicast_only = multicast_only
        self._first_time, self._end_time = start, end
        self._wanted: dict[tuple[bytes, int, str], tuple[bool, frozenset[bytes]]] | None = None
        self._order = _NATIVE
        self._pcap: blocks.Pcap | None = None
        self._swap: Callable[[int, int], bool] = lambda captured, wire: False
        self._interfaces: list[_Interface] = []
        self._section = 0  # the first interface of this section
        self._counters = dict.fromkeys(blocks.COUNTERS, 0)
        self._summary: Summary | None = None
        self._skipped = {(blocks.SKIPPED_OTHERS, 0): 0}
        self._undo: tuple[_Interface, int] | None = None  # what the block in progress changed
        self._records = bytearray()
        self._data = bytearray()
        self._reassembly = Reassembly()
        self._readers: dict[int, Callable[[bytes], None]] = {
            blocks.SECTION_HEADER: self._section_header,
            blocks.INTERFACE_DESCRIPTION: self._description,
            blocks.INTERFACE_STATISTICS: self._statistics,
            blocks.ENHANCED_PACKET: self._enhanced,
            blocks.OBSOLETE_PACKET: self._obsolete,
            blocks.SIMPLE_PACKET: self._simple,
        }
        if rows is not None:
            self._accept(list(rows))

    def _accept(self, rows: list[Row]) -> None:
        if any(len(address) != 16 for group, _, _, _, sources in rows for address in (group, *sources)):
            raise ValueError("groups and sources are packed addresses of 16 bytes")
        if len({row[2] for row in rows} - {""}) >= 0xFFFF:
            raise ArgumentError(f"the groups name more than {0xFFFE} interfaces")
        self._wanted = {
            (group, port, interface): (bool(exclude), frozenset(sources))
            for group, port, interface, exclude, sources in rows
        }

    def decode(
        self, data: bytes | bytearray | memoryview, limit: int, final: bool = False, summary: Summary | None = None
    ) -> int:
        """Reads whole blocks of `data` until `limit` packets wait for `take`; how many bytes are done with.

        `data` begins where the last call had ended; `final`: nothing follows it. What is left of it and has fewer bytes
        than `needed` goes before more; else `limit` is reached, or what is wrong with the next block waits for `take`.
        `summary`: counts the packets, of which none waits then. CaptureError when no packet waits and the next block
        cannot be read, MemoryError."""
        with self._lock:
            self._summary = summary
            return self._decode(data, limit, final)

    def _state(self) -> tuple[Any, ...]:
        """All that a block changes, but for the drops of an interface (`_undo`)."""
        self._undo = None
        parts = self.needed, self.form, self._order, self._pcap, self._swap, self._section, dict(self._reassembly.made)
        return (
            (*parts, dict(self._skipped)),
            len(self._interfaces),
            dict(self._counters),
            len(self._records),
            len(self._data),
        )

    def _restore(self, before: tuple[Any, ...]) -> None:
        """As it was: what interrupted a block may be a signal handler, and the block is read again."""
        parts, described, counters, records, data = before
        self.needed, self.form, self._order, self._pcap, self._swap, self._section = parts[:6]
        self._reassembly.made, self._skipped = parts[6:]
        for index in range(described, len(self._interfaces)):
            self.names.pop(index + 1, None)
        del self._interfaces[described:]
        del self._records[records:], self._data[data:]
        self._counters = counters
        if self._undo is not None:
            interface, pending_drops = self._undo
            interface.pending_drops = pending_drops

    def _decode(self, data: bytes | bytearray | memoryview, limit: int, final: bool) -> int:
        view = memoryview(data)
        if (view.format, view.strides) != ("B", (1,)):  # struct copies all of a view that was cast, on PyPy
            view = view.cast("B")
        used, taken = 0, 1
        try:
            while taken and self.count < limit and len(self._data) <= ARENA_LIMIT - MAX_PACKET_SIZE:
                before = self._state()
                try:
                    taken = self._step(view[used:])
                    used += taken
                    self.offset += taken
                except _BlockError:
                    raise
                except BaseException:
                    self._restore(before)
                    raise
            if taken:
                self.needed = 0
            elif final and used < len(view) and not self.count:
                raise _BlockError(blocks.WRONG_END, len(view) - used, self.needed)
        except _BlockError as wrong:
            self.needed = 0
            if not self.count:
                raise CaptureError(self._subject, self.offset, blocks.failure_text(*wrong.args)) from None
        return used

    def take(self) -> Batch:
        """The packets that were read since the last call, as a batch; it may be empty."""
        taken = None
        try:
            with self._lock:
                batch = take_over(self._records, self._data, self.names)
                records, data = bytearray(), bytearray()
                # Nothing is called from here on, so that no signal handler comes in between.
                self._counters["batches"] += self._records != b""
                self._records, self._data = records, data
                taken = batch
            return batch
        except BaseException:  # of a signal handler, as the lock was released
            if taken is not None:
                self._records, self._data = taken._records, taken._arena
                self._counters["batches"] -= self._records != b""
            raise

    @property
    def count(self) -> int:
        """How many packets wait for `take`."""
        return len(self._records) // RECORD_SIZE

    # ---- blocks ----

    def _step(self, data: memoryview) -> int:
        """Reads the block at the start of `data`: how many bytes it had, 0 when it is not whole."""
        if not self.form:
            return self._start(data)
        return self._pcap_packet(data, self._pcap) if self._pcap else self._block(data)

    def _start(self, data: memoryview) -> int:
        """Which format the first four bytes announce."""
        self.needed = 4
        if len(data) < 4:
            return 0
        for order in (_NATIVE, _OTHER):
            (magic,) = struct.unpack_from(order + "I", data)
            if magic == blocks.SECTION_HEADER:
                self.form = "pcapng"
                return self._block(data)
            if magic in blocks.PCAP:
                self._order = order
                return self._pcap_header(data, blocks.PCAP[magic])
        raise _BlockError(blocks.WRONG_MAGIC, int.from_bytes(data[:4], "big"))

    def _block(self, data: memoryview) -> int:
        self.needed = blocks.SMALLEST_BLOCK
        if len(data) < self.needed:
            return 0
        (kind,) = self._unpack("I", data, 0)
        if kind == blocks.SECTION_HEADER:
            self._find_order(data)
        length: int = self._unpack("I", data, 4)[0]
        smallest = blocks.SMALLEST.get(kind, blocks.SMALLEST_BLOCK)
        if not smallest <= length <= blocks.LARGEST_BLOCK:
            raise _BlockError(blocks.WRONG_LENGTH, length, kind)
        padded = length + 3 & ~3  # some programs do not count the padding of the data, as Wireshark knows
        self.needed = padded
        if len(data) < padded:
            return 0
        (again,) = self._unpack("I", data, padded - 4)
        if again != length:
            raise _BlockError(blocks.WRONG_TRAILER, length, again)
        if kind in self._readers:
            self._readers[kind](bytes(data[: padded - 4]))
        return padded

    def _unpack(self, letters: str, data: bytes | memoryview, at: int) -> tuple[Any, ...]:
        return struct.unpack_from(self._order + letters, data, at)

    def _find_order(self, data: memoryview) -> None:
        """A section header brings a byte order of its own."""
        for order in (_NATIVE, _OTHER):
            if struct.unpack_from(order + "I", data, 8) == (blocks.BYTE_ORDER,):
                self._order = order
                return
        raise _BlockError(blocks.WRONG_ORDER, int.from_bytes(data[8:12], "big"))

    def _section_header(self, block: bytes) -> None:
        (major,) = self._unpack("H", block, 12)
        if major != 1:
            raise _BlockError(blocks.WRONG_VERSION, major)
        self._section = len(self._interfaces)  # whose numbering starts afresh

    def _options(self, block: bytes, at: int) -> Iterator[tuple[int, bytes]]:
        """(code, value) of the options from `at` on."""
        while len(block) - at >= 4:
            code, length = self._unpack("HH", block, at)
            at += 4
            if code == 0:
                return
            if (length + 3) & ~3 > len(block) - at:
                raise _BlockError(blocks.WRONG_OPTION, length, len(block) - at)
            yield code, block[at : at + length]
            at += (length + 3) & ~3

    def _describe(self, interface: _Interface) -> None:
        self._interfaces.append(interface)
        self.names[len(self._interfaces)] = interface.name

    def _check_room(self) -> None:
        if len(self._interfaces) == blocks.MOST_INTERFACES:
            raise _BlockError(blocks.WRONG_INTERFACES, blocks.MOST_INTERFACES)

    def _description(self, block: bytes) -> None:
        self._check_room()
        link_type, snaplen = self._unpack("HxxI", block, 8)
        interface = _Interface(link_type, snaplen=snaplen)
        for code, value in self._options(block, 16):
            if code == blocks.IF_NAME:
                interface.name = value[: blocks.LONGEST_NAME].decode("utf-8", "replace")
            elif code == blocks.COMMENT and (unknown := blocks.unknown_headers(value)) is not None:
                interface.synthetic, interface.unknown = True, int(unknown or interface.unknown)
            elif code == blocks.IF_TSRESOL and value:
                interface.resolution = value[0]
            elif code == blocks.IF_TSOFFSET and len(value) >= 8:
                (interface.time_offset,) = self._unpack("q", value, 0)
        self._describe(interface)

    def _interface_at(self, number: int) -> int:
        """The place of the interface of this section that a block names."""
        described = len(self._interfaces) - self._section
        if number >= described:
            raise _BlockError(blocks.WRONG_INTERFACE, number, described)
        return self._section + number

    def _statistics(self, block: bytes) -> None:
        interface = self._interfaces[self._interface_at(*self._unpack("I", block, 8))]
        for code, value in self._options(block, 20):
            if len(value) >= 8:
                (interface.counters[code],) = self._unpack("Q", value, 0)

    def _enhanced(self, block: bytes) -> None:
        number, high, low, size, wire = self._unpack("IIIII", block, 8)
        captured = self._captured(block, number, high << 32 | low, size, wire)
        for code, value in self._options(block, 28 + (size + 3 & ~3)):
            if code == blocks.EPB_DROPCOUNT and len(value) >= 8:
                (captured.dropped,) = self._unpack("Q", value, 0)
            elif code == blocks.COMMENT and value == _SHARED_TIME:
                captured.flags = _COALESCED
        self._take(captured)

    def _obsolete(self, block: bytes) -> None:
        """16 bits of interface and 16 of drops, in place of 32 of interface."""
        number, dropped, high, low, size, wire = self._unpack("HHIIII", block, 8)
        captured = self._captured(block, number, high << 32 | low, size, wire)
        captured.dropped = 0 if dropped == 0xFFFF else dropped  # all ones: unknown
        self._take(captured)

    def _captured(self, block: bytes, number: int, ticks: int, size: int, wire: int) -> _Captured:
        at = self._interface_at(number)
        if size > len(block) - 28:
            raise _BlockError(blocks.WRONG_CAPTURED, size, len(block) - 28)
        return _Captured(at, self._interfaces[at].time(ticks), 0, block[28 : 28 + size], wire)

    def _simple(self, block: bytes) -> None:
        """Of the first interface, without a time; the bytes are as many as fit its snaplen."""
        (wire,) = self._unpack("I", block, 8)
        at = self._interface_at(0)
        size = min(wire, self._interfaces[at].snaplen or wire)
        if size > len(block) - 12:
            raise _BlockError(blocks.WRONG_CAPTURED, size, len(block) - 12)
        self._take(_Captured(at, 0, 0, block[12 : 12 + size], wire))

    # ---- classic pcap ----

    def _pcap_header(self, data: memoryview, kind: blocks.Pcap) -> int:
        self.needed = blocks.PCAP_HEADER
        if len(data) < self.needed:
            return 0
        major, minor, link_type = self._unpack("HH12xI", data, 4)
        if major not in (2, 543):  # 543: DG/UX, whose lengths are swapped too (libpcap, sf-pcap.c)
            raise _BlockError(blocks.WRONG_VERSION, major)
        if major == 543 or minor < 3:
            self._swap = lambda captured, wire: True
        elif minor == 3:
            self._swap = lambda captured, wire: captured > wire
        self.form = "pcap"
        self._pcap = kind
        self._describe(_Interface(link_type & 0x03FFFFFF))
        return blocks.PCAP_HEADER

    def _pcap_packet(self, data: memoryview, kind: blocks.Pcap) -> int:
        self.needed = kind.header
        if len(data) < self.needed:
            return 0
        seconds, fraction, size, wire = self._unpack("IIII", data, 0)
        if self._swap(size, wire):
            size, wire = wire, size
        if size > blocks.LARGEST_FRAME:
            raise _BlockError(blocks.WRONG_FRAME, size)
        self.needed = kind.header + size
        if len(data) < self.needed:
            return 0
        frame = bytes(data[kind.header : self.needed])
        self._take(_Captured(0, seconds * _SECOND + fraction * kind.tick, 0, frame, wire))
        return self.needed

    # ---- packets ----

    def _take(self, captured: _Captured) -> None:
        """Counts a packet, and delivers it when it is wanted."""
        interface = self._interfaces[captured.interface]
        kind, framed = read_frame(captured.frame, captured.wire, interface.link_type)
        self._undo = interface, interface.pending_drops
        interface.pending_drops = min(interface.pending_drops + captured.dropped, _LARGEST_COUNT)
        self._counters["frames"] += 1
        self._counters["dropped"] = min(self._counters["dropped"] + captured.dropped, _LARGEST_TOTAL)
        if kind is Kind.OTHER:
            self._counters["skipped"] += 1
            self._count_skipped(skipped_kind(captured.frame, captured.wire, interface.link_type))
        self._counters["broken"] += kind is Kind.BROKEN
        if kind in (Kind.FRAGMENT, Kind.LATER):
            self._take_piece(captured, framed, interface)
        elif kind is Kind.UDP and self._is_inside(captured) and self._wants(framed, interface.name):
            self._deliver(captured, framed, interface)
        else:
            self._counters["filtered"] += kind is Kind.UDP

    def _count_skipped(self, what: tuple[int, int]) -> None:
        """Count a frame that is no UDP by what it is, or as one of the others."""
        known = what in self._skipped or len(self._skipped) < blocks.SKIPPED_KINDS
        key = what if known else (blocks.SKIPPED_OTHERS, 0)
        self._skipped[key] = self._skipped.get(key, 0) + 1

    def _take_piece(self, captured: _Captured, framed: Framed, interface: _Interface) -> None:
        """A fragment. The first one counts for all; what is delivered in the end does not count as fragments."""
        fragment = framed.fragment
        assert fragment is not None
        piece = captured.frame[framed.start : framed.start + framed.length]
        if fragment.offset == 0:
            port = int.from_bytes(piece[2:4], "big") if len(piece) >= 4 else 0  # it has the UDP header
            if not self._wants(framed._replace(port=port), interface.name):
                self._counters["filtered"] += 1
                return
        elif self._wanted is None and self._multicast_only and not _is_multicast(framed.group):
            return
        added = self._reassembly.add((captured.interface, *fragment.key), framed, piece)
        self._counters["fragments"] += fragment.offset == 0 and not added.known
        if added.whole is None:
            return
        first, datagram = added.whole
        kind, whole = read_udp(Rest(datagram, len(datagram)), first)
        if kind is Kind.UDP and self._wants(whole, interface.name):
            self._counters["fragments"] -= 1
            if not self._is_inside(captured):
                self._counters["filtered"] += 1
                return
            self._counters["reassembled"] += 1
            self._deliver(dataclasses.replace(captured, frame=datagram), whole, interface)

    def _is_inside(self, captured: _Captured) -> bool:
        """Whether the packet came in the times that are wanted; one without a time (0) only where all are."""
        if captured.timestamp == 0:
            return (self._first_time, self._end_time) == (_FIRST_TIME, _LAST_TIME)
        return captured.timestamp >= self._first_time and (
            captured.timestamp < self._end_time or self._end_time == _LAST_TIME
        )

    def _wants(self, framed: Framed, name: str) -> bool:
        if self._wanted is None:
            return not self._multicast_only or _is_multicast(framed.group)
        keys = {(framed.group, port, known) for port in (framed.port, 0) for known in (name, "")}
        for key in keys & self._wanted.keys():
            exclude, sources = self._wanted[key]
            if (framed.source in sources) != exclude:
                return True
        return False

    def _deliver(self, captured: _Captured, framed: Framed, interface: _Interface) -> None:
        flags = framed.flags & ~interface.unknown | captured.flags
        row = (
            captured.timestamp,
            len(self._data),
            captured.interface + 1,
            interface.pending_drops,
            framed.length,
            framed.wire_length,
            framed.source,
            framed.group,
            framed.source_port,
            framed.port,
            flags,
            framed.ttl if flags & _TTL else 0,
            framed.tos if flags & _TOS else 0,
        )
        interface.pending_drops = 0
        if self._summary is not None:
            self._summary.add_row(row)
        else:
            self._records += RECORD.pack(*row)
            self._data += captured.frame[framed.start : framed.start + framed.length]
        self._counters["received"] += 1
        self._counters["bytes"] += framed.length
        self._counters["truncated"] += framed.flags & _TRUNCATED

    @property
    def interfaces(self) -> tuple[blocks.CapturedOn, ...]:
        """Every interface that the file has described so far; the first one has index 1."""
        with self._lock:
            return tuple(interface.captured_on() for interface in self._interfaces)

    def counters(self) -> dict[str, int]:
        """Totals since the first byte, by the names of `blocks.COUNTERS`."""
        with self._lock:
            return dict(self._counters)

    def skipped(self) -> list[tuple[int, int, int]]:
        """What the frames are that are no UDP: (one of `blocks.SKIPPED_*`, its number, how many frames), in the order
        in which they came; the first are those of kinds beyond `blocks.SKIPPED_KINDS`."""
        with self._lock:
            return [(*what, frames) for what, frames in self._skipped.items() if frames]
