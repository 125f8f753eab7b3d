"""Columns of batches: addresses as text and back, payloads as rows of a NumPy type, and what packets are chosen by;
shared by both backends.

Rules of this module: no I/O but the index of an interface name that no batch knows. NumPy, datetime and `_html` are
imported when they are first needed.
"""

import functools
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

from mcast_fast._core.addresses import map_address, plain_text
from mcast_fast._core.layout import MAX_PACKET_SIZE
from mcast_fast.errors import ArgumentError, FeatureError

if TYPE_CHECKING:
    from datetime import datetime, timedelta

Address: TypeAlias = str | IPv4Address | IPv6Address
PACKED = 16  # bytes of an address in a record
SHOWN_PACKETS, SHOWN_BYTES = 10, 16  # in a notebook
DOTS = bytes(byte if 0x20 <= byte < 0x7F else ord(".") for byte in range(256))


class Wanted(NamedTuple):
    """What `Batch.where` looks for; None: any. `interfaces`: of addresses with a zone, the indexes it may be."""

    group: bytes | None
    source: bytes | None
    port: int | None
    interfaces: frozenset[int] | None


# ---- addresses ----


@overload
def addresses(column: bytes | bytearray | memoryview | list[bytes]) -> list[str]: ...
@overload
def addresses(column: Any) -> Any: ...
def addresses(column: Any) -> Any:
    """Convert a column of packed addresses to text: `mcast.addresses(np.asarray(batch)["source"])`.

    IPv4 addresses, which are v4-mapped in records, are written as IPv4. Records have no zone, so that link-local
    addresses are without one; `Packet.source` has it.

    Args:
        column: Addresses of 16 bytes, as in records: a NumPy array of uint8 whose last dimension is 16 (the columns
            `source` and `group`), a bytes-like object of a multiple of 16 bytes, or an iterable of 16-byte objects.

    Returns:
        For an array, an array of text with the other dimensions; each distinct address is converted once. Otherwise a
        list.

    Raises:
        ArgumentError: It is none of these.
    """
    if _is_array(column):
        return _texts_of_array(column)
    try:
        packed = memoryview(column).tobytes()
        rows = [packed[at : at + PACKED] for at in range(0, len(packed), PACKED)]
    except TypeError:
        rows = _rows_of(column)
    if any(len(row) != PACKED for row in rows):
        raise ArgumentError(f"the addresses {column!r:.100} are not of {PACKED} bytes each")
    return list(map(plain_text, rows))


def pack_addresses(addresses: Any) -> Any:
    """Pack addresses as in records, to be compared with a column; the inverse of `addresses`.

        rows = np.asarray(batch)
        mine = (rows["source"] == mcast.pack_addresses("10.0.0.5")).all(axis=1)

    Args:
        addresses: An address as text or as an object of `ipaddress`, an iterable of them, or a NumPy array of them.
            A zone is left out.

    Returns:
        For one address, a read-only memoryview of 16 bytes; for an iterable, one of the shape (n, 16); for an array, an
        array of uint8 with one more dimension, of 16. IPv4 addresses are v4-mapped (::ffff:10.0.0.5).

    Raises:
        ArgumentError: Something is no address.
    """
    if isinstance(addresses, Address):
        return memoryview(_parsed(addresses, "address")[0])
    if _is_array(addresses):
        return _packed_array(addresses)
    try:
        found = list(addresses)
    except TypeError:
        raise ArgumentError(f"{addresses!r} is neither an address nor an iterable of addresses") from None
    return as_rows(memoryview(b"".join(_parsed(one, "address")[0] for one in found)), PACKED)


def _parsed(value: Address, what: str) -> tuple[bytes, str]:
    """(the sixteen bytes, the zone or "") of an address; ArgumentError names `what`."""
    if not isinstance(value, Address):
        raise ArgumentError(f"{what} {value!r} is not an address; give text, or an object of the module ipaddress")
    text, _, zone = str(value).partition("%")
    try:
        return map_address(text), zone
    except ValueError:
        raise ArgumentError(f"{what} {value!r} is not an IPv4 or IPv6 address") from None


def _rows_of(column: Any) -> list[bytes]:
    try:
        return [memoryview(row).tobytes() for row in column]
    except TypeError:
        raise ArgumentError(f"{column!r:.100} holds no addresses of {PACKED} bytes") from None


def _is_array(value: object) -> bool:
    """Whether it is an array of NumPy, which cannot exist without importing it."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def _texts_of_array(column: Any) -> Any:
    import numpy as np

    if column.dtype != np.uint8 or not column.ndim or column.shape[-1] != PACKED:
        raise ArgumentError(
            f"an array of {column.dtype} with the shape {column.shape} holds no addresses; "
            f"give one of uint8 whose last dimension is {PACKED}"
        )
    words = np.ascontiguousarray(column).reshape(-1, PACKED).view(np.uint64)
    # Words that differ, numbered: sorting numbers is many times faster than sorting rows.
    high, high_at = np.unique(words[:, 0], return_inverse=True)
    low, low_at = np.unique(words[:, 1], return_inverse=True)
    pairs, at = np.unique(high_at * len(low) + low_at, return_inverse=True)
    packed = np.stack((high[pairs // max(1, len(low))], low[pairs % max(1, len(low))]), axis=1).tobytes()
    texts = [plain_text(packed[start : start + PACKED]) for start in range(0, len(packed), PACKED)]
    return np.array(texts, np.str_)[at.reshape(column.shape[:-1])]


def _packed_array(texts: Any) -> Any:
    import numpy as np

    flat = texts.ravel().tolist()
    known = {one: _parsed(one, "address")[0] for one in set(flat)}
    packed = b"".join(known[one] for one in flat)
    return np.frombuffer(packed, np.uint8).reshape(*texts.shape, PACKED)


# ---- rows ----


def checked_size(size: Any) -> int:
    """The size of a row; ArgumentError."""
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= MAX_PACKET_SIZE:
        raise ArgumentError(f"size {size!r} is out of range; use 1 to {MAX_PACKET_SIZE} bytes")
    return size


def too_short(index: int, length: int, size: int) -> ArgumentError:
    """What is raised where a payload has fewer bytes than a row."""
    return ArgumentError(f"packet {index} of the batch has {length} bytes of payload, fewer than a row of {size}")


def as_rows(data: memoryview, size: int) -> memoryview:
    """Bytes as rows of this size, without a copy; read-only."""
    if len(data):
        return data.toreadonly().cast("B", (len(data) // size, size))
    import ctypes  # a memoryview cannot be cast to a shape without elements

    return memoryview(((ctypes.c_uint8 * size) * 0)()).toreadonly()


def structured(rows: Callable[[int], memoryview], dtype: Any) -> Any:
    """One element of a NumPy type for each packet; `rows` is `Batch.rows`. FeatureError, ArgumentError."""
    try:
        import numpy as np
    except ImportError as error:
        raise FeatureError(
            "view_as needs NumPy, which is not installed: pip install 'mcast-fast[numpy]' (rows() does without)"
        ) from error
    try:
        kind = np.dtype(dtype)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"dtype {dtype!r} is not a type of NumPy: {error}") from error
    if kind.hasobject or not kind.itemsize:
        raise ArgumentError(f"dtype {dtype!r} is not one of payloads: its elements have no bytes of a fixed number")
    if kind.subdtype is not None:
        raise ArgumentError(f"dtype {dtype!r} is an array; name its elements: [('values', {dtype!r})]")
    return np.asarray(rows(kind.itemsize)).view(kind)[:, 0]


# ---- packets that match ----


def wanted(group: Any, source: Any, port: Any, names: Mapping[int, str]) -> Wanted:
    """The arguments of `Batch.where`, checked; ArgumentError."""
    if port is not None and (isinstance(port, bool) or not isinstance(port, int) or not 0 <= port <= 65_535):
        raise ArgumentError(f"port {port!r} is out of range; use 0 to 65535")
    packed: list[bytes | None] = []
    interfaces: frozenset[int] | None = None
    for value, what in ((group, "group"), (source, "source")):
        address, zone = (None, "") if value is None else _parsed(value, what)
        packed.append(address)
        if zone:
            indexes = frozenset(_indexes(zone, names))
            interfaces = indexes if interfaces is None else interfaces & indexes
    return Wanted(packed[0], packed[1], port, interfaces)


def _indexes(zone: str, names: Mapping[int, str]) -> Iterator[int]:
    """The interfaces of which `interface_text` makes this text."""
    yield from (index for index, name in names.items() if name == zone)
    if zone.isdecimal():
        yield int(zone)
    try:
        index = socket.if_nametoindex(zone)
    except OSError:
        return
    if index not in names:
        yield index


# ---- times, and notebooks ----


@functools.cache
def _epoch() -> "tuple[datetime, type[timedelta]]":
    from datetime import UTC, datetime, timedelta  # of some milliseconds

    return datetime(1970, 1, 1, tzinfo=UTC), timedelta


def utc(timestamp: int) -> "datetime":
    """Nanoseconds since the epoch as a time, in whole microseconds."""
    epoch, passed = _epoch()
    return epoch + passed(microseconds=timestamp // 1000)


def _time_text(timestamp: int | None) -> str | None:
    return None if timestamp is None else f"{utc(timestamp):%Y-%m-%d %H:%M:%S}.{timestamp % 10**9:09}"


def batch_html(batch: Any) -> str:
    """The first packets of a batch as a table."""
    from mcast_fast._html import table

    rows: list[Iterable[object]] = [
        (
            _time_text(packet.timestamp),
            packet.source,
            str(packet.source_port),
            packet.group,
            str(packet.port),
            packet.interface,
            len(packet),
            packet.data[:SHOWN_BYTES].translate(DOTS).decode("ascii") + ("…" if len(packet) > SHOWN_BYTES else ""),
        )
        for packet in batch[:SHOWN_PACKETS]
    ]
    caption = f"Batch of {len(batch):,} packets"
    if len(batch) > SHOWN_PACKETS:
        caption += f", of which the first {SHOWN_PACKETS}"
    header = ("time (UTC)", "source", "source port", "group", "port", "interface", "bytes", "payload")
    return table(caption, header, rows)
