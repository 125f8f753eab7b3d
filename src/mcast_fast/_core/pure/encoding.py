"""Batches as the packets of a capture file: the twin of c/capture_write.h."""

import os
import struct
from typing import Any

from mcast_fast._core import blocks
from mcast_fast._core.layout import FIELDS, V4_MAPPED, Flag
from mcast_fast._core.pure.views import Batch, packets_of
from mcast_fast.errors import ArgumentError

_AT = {field.name: i for i, field in enumerate(FIELDS)}
_TTL, _TOS, _FRAME, _COALESCED = int(Flag.TTL), int(Flag.TOS), int(Flag.FRAME), int(Flag.COALESCED)
_SHARED_TIME = struct.pack("=HH24s", blocks.COMMENT, len(blocks.SHARED_TIME), blocks.SHARED_TIME.encode())  # padded
_ETHERNET_HEADER = 14
_SECOND = 1_000_000_000
_GATHERED = 341  # packets of three vectors: IOV_MAX of Linux, macOS and FreeBSD is 1024 (writev(2))
GATHERS = hasattr(os, "writev")  # whether `Encoder.write` can be called
_MULTICAST_V4 = 0xE0


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071), in network byte order."""
    # 2^16 is 1 modulo 2^16 - 1, so that the remainder of the whole as one number is the folded sum.
    number = int.from_bytes(data + b"\0" if len(data) % 2 else data, "big")
    remainder = number % 0xFFFF
    return ~(remainder or (0xFFFF if number else 0)) & 0xFFFF


def _ethernet(source: bytes, group: bytes) -> bytes:
    """The address that a group has on Ethernet: RFC 1112, 6.4 (23 bits of an IPv4 group), RFC 2464, 7 (32 bits of an
    IPv6 group); of a unicast destination none is known, and a locally administered one is made of its last bytes."""
    destination = b"\x02\0" + group[12:]
    if group[:12] == V4_MAPPED:
        if group[12] & 0xF0 == _MULTICAST_V4:
            destination = b"\x01\0\x5e" + bytes([group[13] & 0x7F]) + group[14:]
        return destination + b"\x02\0" + source[12:] + b"\x08\x00"
    if group[0] == 0xFF:
        destination = b"\x33\x33" + group[12:]
    return destination + b"\x02\0" + source[12:] + b"\x86\xdd"


class _UnfitError(Exception):
    """A packet cannot be written: which of `blocks.UNFIT`."""


def _known_headers(flags: int) -> int:
    """What of a packet is known beyond UDP: FRAME, or of one with synthetic headers TTL and TOS (bits of Flag)."""
    return _FRAME if flags & _FRAME else flags & (_TTL | _TOS)


def _frame(row: tuple[Any, ...], payload: bytes, wire: int) -> tuple[bytes, int]:
    """A packet with its headers, and how many bytes those have; a whole frame as it is.

    The checksum of a truncated payload cannot be known: 0 says so in IPv4 (RFC 768); IPv6 has no such word, and gets
    that of the bytes that there are."""
    flags = row[_AT["flags"]]
    if flags & _FRAME:
        return payload, 0
    source, group = row[_AT["source"]], row[_AT["group"]]
    is_v4 = group[:12] == V4_MAPPED
    if is_v4 != (source[:12] == V4_MAPPED):
        raise _UnfitError(blocks.UNFIT_FAMILY)
    datagram = 8 + wire
    if datagram + (20 if is_v4 else 0) > 0xFFFF:
        raise _UnfitError(blocks.UNFIT_LENGTH)
    ttl = row[_AT["ttl"]] if flags & _TTL else blocks.DEFAULT_TTL
    tos = row[_AT["tos"]] if flags & _TOS else 0
    if is_v4:
        addresses = source[12:] + group[12:]
        ip = struct.pack(">BBHIBBH", 0x45, tos, 20 + datagram, 0, ttl, 17, 0) + addresses
        ip = ip[:10] + struct.pack(">H", _checksum(ip)) + ip[12:]
    else:
        addresses = source + group
        ip = struct.pack(">IHBB", 6 << 28 | tos << 20, datagram, 17, ttl) + addresses
    udp = struct.pack(">HHHH", row[_AT["source_port"]], row[_AT["port"]], datagram, 0)
    if not (is_v4 and len(payload) < wire):
        checksum = _checksum(addresses + struct.pack(">HH", 17, datagram) + udp + payload) or 0xFFFF
        udp = udp[:6] + struct.pack(">H", checksum)
    headers = _ethernet(source, group) + ip + udp
    return headers + payload, len(headers)


class Encoder:
    """Batches as the packets of a capture file. Threads may share an encoder, but for `write` and what belongs to it.

    `rest`: (bytes, how many of them are written, packets) at which the latest `write` ended because the system did not
    take all; whoever goes on with them sets it to None. `written_packets`, `written_bytes`: what `write` has written,
    without `rest`.

    Args:
        form: 'pcapng', or 'pcap' (with ns).
        raw: Packets are raw IP, without a link's header; else Ethernet.

    Raises:
        ValueError: There is no such form.
    """

    def __init__(self, form: str, raw: bool = False) -> None:
        if form not in ("pcapng", "pcap"):
            raise ValueError(f"form {form!r} is neither 'pcapng' nor 'pcap'")
        self._pcap = form == "pcap"
        self._raw = raw
        self._interfaces: dict[tuple[int, int], int] = {}
        self.written_packets = self.written_bytes = 0
        self.rest: tuple[bytearray, int, int] | None = None
        self._piece: tuple[list[bytes], int, int] | None = None  # what a system call gets: vectors, bytes, packets
        self._wrote: list[int] = []  # what that call returned

    @property
    def pending(self) -> int:
        """How many packets are in `rest`, or in the middle of `write`."""
        piece, rest = self._piece, self.rest
        return piece[2] if piece is not None else rest[2] if rest is not None else 0

    @property
    def interfaces(self) -> int:
        """How many were added."""
        return len(self._interfaces)

    def key(self, batch: Batch, at: int) -> tuple[int, int]:
        """(interface index, known headers) of a packet, of which the file has to describe an interface.

        Args:
            batch: A batch.
            at: The packet's place in it.

        Returns:
            The index, and bits of Flag: FRAME, or those of TTL and TOS that are known.
        """
        if not 0 <= at < len(batch):
            raise IndexError(f"packet {at} of a batch of {len(batch)}")
        row, _ = next(iter(packets_of(batch, at)))
        return row[_AT["interface"]], _known_headers(row[_AT["flags"]])

    def add(self, index: int, known: int) -> None:
        """Note that packets of this key belong to the interface that the file describes next.

        Args:
            index: The interface's index.
            known: Bits of Flag, as `key` returns them.

        Raises:
            ArgumentError: A file can have no more interfaces.
        """
        if len(self._interfaces) == blocks.MOST_WRITTEN:
            raise ArgumentError(blocks.TOO_MANY_WRITTEN)
        self._interfaces[index, known] = len(self._interfaces)

    def encode(self, batch: Batch, start: int) -> tuple[memoryview, int]:
        """(packets from `start` on as bytes, where it stopped): the batch's end, what a cache holds, or before an
        interface to `add`.

        The bytes are good until the next call. ArgumentError when the packet at `start` cannot be written; what stands
        before one that cannot is returned first."""
        if not 0 <= start <= len(batch):
            raise IndexError(f"packet {start} of a batch of {len(batch)}")
        written = [head + frame + tail for head, frame, tail in self._packets(batch, start, len(batch))]
        return memoryview(b"".join(written)), start + len(written)

    def write(self, descriptor: int, batch: Batch, start: int) -> int:
        """Write packets from `start` on into a descriptor; as the compiled `Encoder.write`."""
        if not 0 <= start <= len(batch):
            raise IndexError(f"packet {start} of a batch of {len(batch)}")
        at = start
        while at < len(batch) and self.rest is None:
            packets = self._packets(batch, at, _GATHERED, refuses=at == start)
            if not packets:
                break
            vectors = [vector for head, frame, tail in packets for vector in (head, frame, tail) if vector]
            piece = vectors, sum(map(len, vectors)), len(packets)
            self._piece = piece
            try:
                self._wrote.extend(map(os.writev, (descriptor,), (vectors,)))
            except OSError:
                pass  # whoever writes the rest gets it too
            finally:
                self.settle()
            at += len(packets)
        return at

    def settle(self) -> None:
        """Count what a `write` has written, or make it the rest; again where an exception of a signal handler came."""
        piece = self._piece
        if piece is None:
            return
        vectors, size, packets = piece
        sent = self._wrote[0] if self._wrote else 0
        rest = None if sent == size else (bytearray(b"".join(vectors)), sent, packets)
        # Nothing is called from here on, so that no signal handler comes in between.
        if rest is None:
            self.written_packets += packets
            self.written_bytes += size
        self.rest = rest
        self._piece = None
        self._wrote = []

    def _packets(self, batch: Batch, start: int, most: int, refuses: bool = True) -> list[tuple[bytes, bytes, bytes]]:
        """Packets from `start` on as what is before the frame, the frame, and what is behind it.

        `refuses`: ArgumentError when the first one cannot be written; else there are none then."""
        made: list[tuple[bytes, bytes, bytes]] = []
        for row, payload in packets_of(batch, start):
            key = row[_AT["interface"]], _known_headers(row[_AT["flags"]])
            if len(made) == most or (not self._pcap and key not in self._interfaces):
                break
            wire = max(row[_AT["wire_length"]], len(payload))
            try:
                if self._raw and row[_AT["flags"]] & _FRAME:
                    raise _UnfitError(blocks.UNFIT_LINK)
                frame, headers = _frame(row, payload, wire)
                if self._raw:
                    frame, headers = frame[_ETHERNET_HEADER:], headers - _ETHERNET_HEADER
            except _UnfitError as unfit:
                if made or not refuses:
                    break
                reason = blocks.UNFIT[unfit.args[0] - 1].format(length=wire)
                raise ArgumentError(f"packet {start} of the batch cannot be written: {reason}") from None
            made.append(self._packet(row, frame, headers + wire))
        return made

    def _packet(self, row: tuple[Any, ...], frame: bytes, original: int) -> tuple[bytes, bytes, bytes]:
        """What is before a frame in the file, the frame, and what is behind it."""
        time = max(row[_AT["timestamp"]], 0)
        if self._pcap:  # its seconds have 32 bits, and end in 2106
            moment = time // _SECOND & 0xFFFFFFFF, time % _SECOND
            return struct.pack("=IIII", *moment, len(frame), original), frame, b""
        dropped = row[_AT["dropped"]]
        options = struct.pack("=HHQ", blocks.EPB_DROPCOUNT, 8, dropped) if dropped else b""
        if row[_AT["flags"]] & _COALESCED:
            options += _SHARED_TIME
        behind = bytes(-len(frame) % 4) + options + (bytes(4) if options else b"")
        length = 32 + len(frame) + len(behind)
        interface = self._interfaces[row[_AT["interface"]], _known_headers(row[_AT["flags"]])]
        start = (blocks.ENHANCED_PACKET, length, interface, time >> 32, time & 0xFFFFFFFF, len(frame), original)
        return struct.pack("=7I", *start), frame, behind + struct.pack("=I", length)
