"""What a merge takes of capture files beside ordinary packets: blocks of either byte order, as blocks of one file in
this machine's.

Rules of this module: no I/O. Packets that the core takes by itself (`Run.blocks`, `Run.records`) do not come here.
"""

import struct
import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Protocol

from mcast_fast._core import blocks

if TYPE_CHECKING:
    from mcast_fast._core.fast.files import Run

NATIVE = "<" if sys.byteorder == "little" else ">"
OTHER = ">" if NATIVE == "<" else "<"
Option = tuple[int, bytes]
IF_OS, IF_FCSLEN, IF_HARDWARE = 12, 13, 15
NEVER_COPIED = 0x40000BAD  # custom blocks that say so (draft-ietf-opsawg-pcapng, 4.7)
# The values of options that are numbers, by block type: what another byte order turns round.
NUMBERS = {
    blocks.SECTION_HEADER: {},
    blocks.INTERFACE_DESCRIPTION: {8: "Q", 10: "I", 14: "q", 16: "Q", 17: "Q"},
    blocks.ENHANCED_PACKET: {2: "I", 4: "Q", 5: "Q", 6: "I"},
    blocks.OBSOLETE_PACKET: {2: "I"},
    blocks.INTERFACE_STATISTICS: {2: "II", 3: "II"} | dict.fromkeys(range(4, 9), "Q"),
}
_SECOND = 10**9
_LATEST = 2**63 - 1


class BlockError(Exception):
    """A block cannot be read."""

    def __init__(self, failure: int, value: int, other: int = 0) -> None:
        self.reason = blocks.failure_text(failure, value, other)
        super().__init__(self.reason)


class Sink(Protocol):
    """Where blocks go."""

    left_out: int

    def describe(self, block: bytes) -> int:
        """Write the description of an interface; its number."""
        ...


def _option(code: int, value: bytes) -> bytes:
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4)


def _block(kind: int, body: bytes, options: Iterable[Option] = ()) -> bytes:
    packed = b"".join(_option(*one) for one in options)
    body += packed + bytes(4) if packed else b""
    length = 12 + len(body)
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


class Classic:
    """A file of classic pcap: its one interface, and its packets as blocks."""

    def __init__(self, order: str, kind: blocks.Pcap) -> None:
        self._order, self._kind = order, kind
        self._number = -1  # not described yet
        self._lengths = 0
        self.needed = blocks.PCAP_HEADER

    def take(self, data: bytes, at: int, run: "Run", sink: Sink) -> int:
        """Take what is there; where it stopped."""
        if self._number < 0:
            return self._header(data, at, sink)
        header, units = self._kind.header, _SECOND // self._kind.tick
        after = run.records(data, at, self._number, self._order == OTHER, self._lengths, header, units)
        self.needed = header
        if len(data) - after >= header:
            lengths = struct.unpack_from(self._order + "8xII", data, after)
            captured = {0: lengths[0], 1: min(lengths), 2: lengths[1]}[self._lengths]
            if captured > blocks.LARGEST_FRAME:
                if after > at:
                    return after  # once more, for the error's offset
                raise BlockError(blocks.WRONG_FRAME, captured)
            self.needed = header + captured
        return after

    def _header(self, data: bytes, at: int, sink: Sink) -> int:
        if len(data) - at < blocks.PCAP_HEADER:
            return at
        major, minor, snaplen, link = struct.unpack_from(self._order + "HH8xII", data, at + 4)
        if major not in (2, 543):  # 543: DG/UX, whose lengths are the other way round (libpcap, sf-pcap.c)
            raise BlockError(blocks.WRONG_VERSION, major)
        self._lengths = 2 if major == 543 or minor < 3 else int(minor == 3)
        options = [(blocks.IF_TSRESOL, b"\x09")] if self._kind.tick == 1 else []
        if link & 0x04000000:  # the length of the frame check sequence, in the upper bits (draft-ietf-opsawg-pcap)
            options.append((IF_FCSLEN, bytes([link >> 28])))
        head = struct.pack("=HHI", link & 0x03FFFFFF & 0xFFFF, 0, snaplen)
        self._number = sink.describe(_block(blocks.INTERFACE_DESCRIPTION, head, options))
        return at + blocks.PCAP_HEADER


class _Interface:
    """An interface of a section: its clock, and what a simple packet block needs."""

    def __init__(self, number: int, head: bytes, options: list[Option]) -> None:
        known = dict(reversed(options))  # the first of a code counts
        resolution = known.get(blocks.IF_TSRESOL, b"")[:1] or b"\x06"
        self.number, self.head, self.options = number, head, options
        self.power = resolution[0]
        self.offset: int = struct.unpack("=q", known.get(blocks.IF_TSOFFSET, b"")[:8].ljust(8, b"\0"))[0]
        self.timeless = number if not self.offset else -1  # an interface for packets without a time
        (self.snaplen,) = struct.unpack_from("=4xI", head)

    def clock(self) -> bytes:
        """For `Run.blocks`."""
        is_plain = self.power <= 9 and abs(self.offset) < 2**33
        factor, shift = (10 ** (9 - self.power), self.offset * _SECOND) if is_plain else (0, 0)
        return struct.pack("=QqQ", factor, shift, self.number)

    def time(self, ticks: int) -> int:
        """ns since the epoch; 0: none that 64 bits hold."""
        units = 2 ** (self.power & 0x7F) if self.power & 0x80 else 10**self.power
        found = ticks * _SECOND // units + self.offset * _SECOND
        return found if ticks and -_LATEST <= found <= _LATEST else 0


class Sections:
    """A file of pcapng: its sections one after the other."""

    def __init__(self) -> None:
        self._order = NATIVE
        self._interfaces: list[_Interface] = []
        self._clocks = b""
        self._about: list[Option] = []  # what the section's header says, for its interfaces
        self.needed = blocks.SMALLEST_BLOCK
        self._takers = {
            blocks.SECTION_HEADER: self._section,
            blocks.INTERFACE_DESCRIPTION: self._description,
            blocks.INTERFACE_STATISTICS: self._statistics,
            blocks.ENHANCED_PACKET: self._enhanced,
            blocks.OBSOLETE_PACKET: self._obsolete,
            blocks.SIMPLE_PACKET: self._simple,
        }

    def take(self, data: bytes, at: int, run: "Run", sink: Sink) -> int:
        """Take what is there; where it stopped."""
        if self._order == NATIVE and self._interfaces:
            after = run.blocks(data, at, self._clocks)
            if after > at:
                return after
        self.needed = blocks.SMALLEST_BLOCK
        if len(data) - at < self.needed:
            return at
        kind, length = self._begin(data, at)
        self.needed = padded = length + 3 & ~3
        if len(data) - at < padded:
            return at
        (again,) = struct.unpack_from(self._order + "I", data, at + padded - 4)
        if again != length:
            raise BlockError(blocks.WRONG_TRAILER, length, again)
        body = data[at + 8 : at + padded - 4]
        taker = self._takers.get(kind)
        if taker is not None:
            taker(body, run, sink)
        elif self._order == NATIVE and kind != NEVER_COPIED:
            run.add(_block(kind, body), 0)
        else:
            sink.left_out += 1
        return at + padded

    def _begin(self, data: bytes, at: int) -> tuple[int, int]:
        """The type and length of a block; a section's header sets the byte order."""
        (kind,) = struct.unpack_from(self._order + "I", data, at)
        if kind == blocks.SECTION_HEADER:
            orders = [
                one for one in (NATIVE, OTHER) if struct.unpack_from(one + "I", data, at + 8)[0] == blocks.BYTE_ORDER
            ]
            if not orders:
                raise BlockError(blocks.WRONG_ORDER, int.from_bytes(data[at + 8 : at + 12], "big"))
            self._order = orders[0]
        (length,) = struct.unpack_from(self._order + "I", data, at + 4)
        if not blocks.SMALLEST.get(kind, blocks.SMALLEST_BLOCK) <= length <= blocks.LARGEST_BLOCK:
            raise BlockError(blocks.WRONG_LENGTH, length, kind)
        return kind, length

    def _options(self, kind: int, data: bytes) -> list[Option]:
        """Options, their numbers in this machine's byte order."""
        return list(self._each_option(NUMBERS[kind], data))

    def _each_option(self, numbers: dict[int, str], data: bytes) -> Iterator[Option]:
        at = 0
        while len(data) - at >= 4:
            code, length = struct.unpack_from(self._order + "HH", data, at)
            at += 4
            if code == 0:
                return
            if length + 3 & ~3 > len(data) - at:
                raise BlockError(blocks.WRONG_OPTION, length, len(data) - at)
            value, letters = data[at : at + length], numbers.get(code, "")
            size = struct.calcsize("=" + letters)
            if letters and length >= size:
                value = struct.pack("=" + letters, *struct.unpack(self._order + letters, value[:size]))
            yield code, value
            at += length + 3 & ~3

    # ---- blocks ----

    def _section(self, body: bytes, _run: "Run", _sink: Sink) -> None:
        (major,) = struct.unpack_from(self._order + "H", body, 4)
        if major != 1:
            raise BlockError(blocks.WRONG_VERSION, major)
        self._interfaces, self._clocks = [], b""
        self._about = self._options(blocks.SECTION_HEADER, body[16:])

    def _description(self, body: bytes, _run: "Run", sink: Sink) -> None:
        head = struct.pack("=HHI", *struct.unpack_from(self._order + "HHI", body))
        options = self._options(blocks.INTERFACE_DESCRIPTION, body[8:])
        described = {code for code, _ in options}
        for there, here in ((blocks.SHB_HARDWARE, IF_HARDWARE), (blocks.SHB_OS, IF_OS)):
            options += [(here, value) for code, value in self._about if code == there and here not in described][:1]
        if not self._interfaces:
            options += [(code, value) for code, value in self._about if code == blocks.COMMENT]
        number = sink.describe(_block(blocks.INTERFACE_DESCRIPTION, head, options))
        one = _Interface(number, head, options)
        self._interfaces.append(one)
        self._clocks += one.clock()

    def _interface(self, number: int) -> _Interface:
        if number >= len(self._interfaces):
            raise BlockError(blocks.WRONG_INTERFACE, number, len(self._interfaces))
        return self._interfaces[number]

    def _statistics(self, body: bytes, run: "Run", _sink: Sink) -> None:
        number, high, low = struct.unpack_from(self._order + "III", body)
        head = struct.pack("=III", self._interface(number).number, high, low)
        options = self._options(blocks.INTERFACE_STATISTICS, body[12:])
        run.add(_block(blocks.INTERFACE_STATISTICS, head, options), 0)

    def _enhanced(self, body: bytes, run: "Run", _sink: Sink) -> None:
        number, high, low, captured, wire = struct.unpack_from(self._order + "IIIII", body)
        self._packet(run, number, high << 32 | low, captured, wire, body[20:], [])

    def _obsolete(self, body: bytes, run: "Run", _sink: Sink) -> None:
        """16 bits of interface and 16 of drops, in place of 32 of interface."""
        number, dropped, high, low, captured, wire = struct.unpack_from(self._order + "HHIIII", body)
        more = [(blocks.EPB_DROPCOUNT, struct.pack("=Q", dropped))] if dropped not in (0, 0xFFFF) else []
        self._packet(run, number, high << 32 | low, captured, wire, body[20:], more)

    def _packet(
        self, run: "Run", number: int, ticks: int, captured: int, wire: int, rest: bytes, more: list[Option]
    ) -> None:
        interface = self._interface(number)
        if captured > len(rest):
            raise BlockError(blocks.WRONG_CAPTURED, captured, len(rest))
        options = self._options(blocks.ENHANCED_PACKET, rest[captured + 3 & ~3 :]) + more
        head = struct.pack("=5I", interface.number, ticks >> 32, ticks & 0xFFFFFFFF, captured, wire)
        body = head + rest[:captured] + bytes(-captured % 4)
        run.add(_block(blocks.ENHANCED_PACKET, body, options), interface.time(ticks))

    def _simple(self, body: bytes, run: "Run", sink: Sink) -> None:
        """Of the first interface, without a time; the bytes are as many as fit its snaplen."""
        (wire,) = struct.unpack_from(self._order + "I", body)
        interface = self._interface(0)
        captured = min(wire, interface.snaplen or wire)
        if captured > len(body) - 4:
            raise BlockError(blocks.WRONG_CAPTURED, captured, len(body) - 4)
        if interface.timeless < 0:  # zero ticks would be a time
            options = [one for one in interface.options if one[0] != blocks.IF_TSOFFSET]
            interface.timeless = sink.describe(_block(blocks.INTERFACE_DESCRIPTION, interface.head, options))
        head = struct.pack("=5I", interface.timeless, 0, 0, captured, wire)
        run.add(_block(blocks.ENHANCED_PACKET, head + body[4 : 4 + captured] + bytes(-captured % 4)), 0)


def form_of(data: bytes) -> Sections | Classic | None:
    """What the first four bytes announce; None where they are not there yet."""
    if len(data) < 4:
        return None
    for order in (NATIVE, OTHER):
        (magic,) = struct.unpack_from(order + "I", data)
        if magic == blocks.SECTION_HEADER:
            return Sections()
        if magic in blocks.PCAP:
            return Classic(order, blocks.PCAP[magic])
    raise BlockError(blocks.WRONG_MAGIC, int.from_bytes(data[:4], "big"))
