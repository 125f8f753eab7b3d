"""RTP headers (RFC 3550, section 5.1): taken off payloads, and put before them; no I/O."""

import struct
import time

HEADER = struct.Struct("!BBHII")
VERSION = 2
PADDING, EXTENSION, SOURCES, MARKER = 0x20, 0x10, 0x0F, 0x80
MPEG_TS = 33  # payload type, RFC 3551
CLOCK = 90_000  # Hz, of that type


def stripped(payload: bytes) -> bytes:
    """The payload behind the RTP header, its contributing sources and its extension, without padding.

    What is no RTP packet, or is cut off within its header, stays as it is.
    """
    if len(payload) < HEADER.size or payload[0] >> 6 != VERSION:
        return payload
    at = HEADER.size + 4 * (payload[0] & SOURCES)
    if payload[0] & EXTENSION:
        if len(payload) < at + 4:
            return payload
        at += 4 + 4 * int.from_bytes(payload[at + 2 : at + 4], "big")
    end = len(payload) - (payload[-1] if payload[0] & PADDING else 0)
    return payload[at:end] if at <= end else payload


class Headers:
    """Puts headers before the payloads of one stream: MPEG-TS (payload type 33), by a clock of 90 kHz.

    Args:
        source: The synchronisation source, 32 bits.
        first: The first sequence number, 16 bits.
    """

    def __init__(self, source: int, first: int) -> None:
        self._source, self._next = source, first

    def put(self, payload: bytes) -> bytes:
        """The next header, and the payload."""
        stamp = time.time_ns() * CLOCK // 1_000_000_000 & 0xFFFFFFFF
        header = HEADER.pack(VERSION << 6, MPEG_TS, self._next, stamp, self._source)
        self._next = self._next + 1 & 0xFFFF
        return header + payload
