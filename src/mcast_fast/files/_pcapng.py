"""The blocks of pcapng without packets (draft-ietf-opsawg-pcapng), and the header of classic pcap.

Rules of this module: no I/O. Blocks with packets are made by the core's encoder.
"""

import platform
import struct

from mcast_fast._core import blocks
from mcast_fast._core.addresses import name_bytes
from mcast_fast._core.layout import Flag


def _option(code: int, value: bytes) -> bytes:
    """An option, padded to 32 bits; nothing when there is no value."""
    return struct.pack("=HH", code, len(value)) + value + bytes(-len(value) % 4) if value else b""


def _text_option(code: int, text: str) -> bytes:
    return _option(code, name_bytes(text)[:0xFFFF])


def _block(kind: int, body: bytes, options: bytes) -> bytes:
    """A block of pcapng, in the byte order of the machine."""
    body += options + bytes(4) if options else b""  # opt_endofopt
    length = 12 + len(body)
    return struct.pack("=II", kind, length) + body + struct.pack("=I", length)


def _system() -> str:
    """The operating system, its version and processor; platform.platform() starts a program to find out."""
    system = platform.uname()
    return f"{system.system} {system.release} {system.machine}"


def section_header(application: str, hardware: str) -> bytes:
    """The section header block: byte order, version 1.0, length unknown; who wrote it, and where."""
    options = _text_option(blocks.SHB_HARDWARE, hardware) + _text_option(blocks.SHB_OS, _system())
    options += _text_option(blocks.SHB_USERAPPL, application)
    return _block(blocks.SECTION_HEADER, struct.pack("=IHHq", blocks.BYTE_ORDER, 1, 0, -1), options)


def interface_description(name: str, filter_text: str, known: int, raw: bool) -> bytes:
    """The interface description block: whole packets, times in ns.

    Args:
        name: The interface's.
        filter_text: What was requested.
        known: What of its packets' headers is known (`Encoder.key`); a comment says what is not.
        raw: Its packets are raw IP; else Ethernet.

    Returns:
        The block.
    """
    comment = "" if known & Flag.FRAME else blocks.headers_comment(known)
    link = blocks.LINK_RAW if raw else blocks.LINK_ETHERNET
    options = (
        _text_option(blocks.COMMENT, comment) + _text_option(blocks.IF_NAME, name) + _option(blocks.IF_TSRESOL, b"\x09")
    )
    if filter_text:
        options += _option(blocks.IF_FILTER, b"\0" + name_bytes(filter_text)[:0xFFFE])  # 0: a text
    return _block(blocks.INTERFACE_DESCRIPTION, struct.pack("=HHI", link, 0, 0), options)


def interface_statistics(number: int, started: int, now: int, counters: dict[int, int | None]) -> bytes:
    """The interface statistics block of interface `number` of the file; counters that are None are left out."""
    options = b"".join(
        _option(code, struct.pack("=II", moment >> 32, moment & 0xFFFFFFFF))
        for code, moment in ((blocks.ISB_STARTTIME, started), (blocks.ISB_ENDTIME, now))
    )
    known = {code: value for code, value in counters.items() if value is not None}
    options += b"".join(_option(code, struct.pack("=Q", value)) for code, value in known.items())
    return _block(blocks.INTERFACE_STATISTICS, struct.pack("=III", number, now >> 32, now & 0xFFFFFFFF), options)


def pcap_header(raw: bool) -> bytes:
    """The header of a classic pcap file with times in ns, version 2.4: raw IP, or Ethernet."""
    link = blocks.LINK_RAW if raw else blocks.LINK_ETHERNET
    return struct.pack("=IHHiIII", blocks.PCAP_NS, 2, 4, 0, 0, blocks.LARGEST_FRAME, link)
