"""Packed addresses of the record as text and as what `socket.sendto` takes; shared by both backends.

Rules of this module: no I/O but the name of an interface index that was not resolved before.
"""

import ipaddress
import socket
from collections.abc import Mapping
from functools import lru_cache

from mcast_fast._core.layout import V4_MAPPED


def map_address(text: str) -> bytes:
    """An IPv4 or IPv6 address as the record's sixteen bytes; a zone is left out."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return V4_MAPPED + address.packed if address.version == 4 else address.packed


def is_v4(packed: bytes) -> bool:
    """Whether sixteen bytes hold a v4-mapped address."""
    return packed[:12] == V4_MAPPED


def native(packed: bytes) -> bytes:
    """The four or sixteen bytes that the operating system takes."""
    return packed[12:] if is_v4(packed) else packed


@lru_cache(maxsize=4096)
def plain_text(packed: bytes) -> str:
    """The canonical text, without a zone."""
    return str(ipaddress.ip_address(native(packed)))


def is_link_local(packed: bytes) -> bool:
    """Whether it is an IPv6 link-local unicast address (fe80::/10), which means nothing without its zone."""
    return packed[0] == 0xFE and packed[1] & 0xC0 == 0x80


def interface_text(index: int, names: Mapping[int, str]) -> str:
    """The name an index had when the receiver was opened; else what the system calls it now; else its number."""
    if index == 0:
        return ""
    if index in names:
        return names[index]
    try:
        return socket.if_indextoname(index)
    except OSError:
        return str(index)


def address_text(packed: bytes, index: int, names: Mapping[int, str]) -> str:
    """An address as people write it, with its zone where it needs one."""
    zone = interface_text(index, names) if index and is_link_local(packed) else ""
    return f"{plain_text(packed)}%{zone}" if zone else plain_text(packed)


def endpoint(packed: bytes, port: int, index: int) -> tuple[str, int] | tuple[str, int, int, int]:
    """What `socket.sendto` takes."""
    if is_v4(packed):
        return plain_text(packed), port
    return plain_text(packed), port, 0, index if is_link_local(packed) else 0


# Names of interfaces need not be UTF-8: what is not stands in them as os.fsdecode() writes it, with surrogates.


def name_bytes(text: str) -> bytes:
    """A name, or a text with names in it, as the system has it; other text in UTF-8."""
    try:
        return text.encode(errors="surrogateescape")
    except UnicodeEncodeError:  # surrogates that stand for no byte
        return text.encode(errors="backslashreplace")


def utf8(text: str) -> str:
    """The same for what takes nothing but UTF-8: other bytes are escaped, as `\\udcff`."""
    return text.encode(errors="backslashreplace").decode()
