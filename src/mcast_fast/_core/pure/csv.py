"""Batches as rows of CSV: the twin of fast/csv.pxi."""

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from mcast_fast._core.addresses import plain_text
from mcast_fast._core.layout import RECORD, Flag

if TYPE_CHECKING:
    from mcast_fast._core.pure.views import Batch

_TTL, _TOS, _TRUNCATED = int(Flag.TTL), int(Flag.TOS), int(Flag.TRUNCATED)


def csv_rows(batch: "Batch", texts: Callable[[int], bytes]) -> bytearray:
    """The packets as rows of CSV, in UTF-8, with the columns of `files._convert`; `texts` gives the field of an
    interface by its index."""
    interface, address = cache(texts), cache(lambda packed: plain_text(packed).encode())
    arena, made = batch.data, bytearray()
    for row in RECORD.iter_unpack(bytes(batch.records)):
        made += _row(row, arena, interface, address)
    return made


def _row(
    row: tuple[Any, ...],
    arena: memoryview,
    interface: Callable[[int], bytes],
    address: Callable[[bytes], bytes],
) -> bytes:
    time, offset, index, dropped, length, wire, source, group, source_port, port, flags, ttl, tos = row
    knows_wire = wire or not (length or flags & _TRUNCATED)
    return b"%b,%b,%b,%d,%b,%d,%b,%b,%d,%b,%b\n" % (
        b"%d" % time if time else b"",
        interface(index),
        address(source),
        source_port,
        address(group),
        port,
        b"%d" % ttl if flags & _TTL else b"",
        b"%d" % tos if flags & _TOS else b"",
        dropped,
        b"%d" % wire if knows_wire else b"",
        arena[offset : offset + length].hex().encode(),
    )
