"""The numbers in payloads on the standard library: the twin of c/sequence.c."""

import re
import struct
from collections.abc import Callable
from dataclasses import dataclass

from mcast_fast._core.extraction import KEY_SIZE, Kind, Layout, Place, Plan

_U64 = (1 << 64) - 1
_RTP_HEADER = 12
_CUT_OFF = 1 << 62
_IPERF_HEADER = struct.Struct(">I8xI")
_SPEAD_COUNTER, _SPEAD_SIZE, _SPEAD_OFFSET, _SPEAD_LENGTH, _SPEAD_CONTROL, _SPEAD_STOP = 1, 2, 3, 4, 6, 2
_MCJOIN_TEXT = 256  # two addresses and four numbers are shorter
_MCJOIN_PID = re.compile(rb"Sender PID ")
_MCJOIN_COUNT = re.compile(rb"count: ")
_DECIMAL = re.compile(rb"([0-9]{1,19})[^0-9]", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Numbered:
    """What a packet is to a sequence."""

    number: int
    count: int
    key: bytes
    kind: Kind


_SHORT = Numbered(0, 0, bytes(KEY_SIZE), Kind.SHORT)
_OTHER = Numbered(0, 0, bytes(KEY_SIZE), Kind.OTHER)


class _ShortError(Exception):
    """A payload ends before a field does."""


def _bytes_at(place: Place, payload: memoryview, behind_rtp: int) -> memoryview:
    start = place.offset + (behind_rtp if place.after_rtp else 0)
    if start + place.width > len(payload):
        raise _ShortError
    return payload[start : start + place.width]


def _value_at(place: Place, payload: memoryview, behind_rtp: int) -> int:
    integer = int.from_bytes(_bytes_at(place, payload, behind_rtp), "little" if place.little else "big")
    return (integer & place.mask) >> place.shift


def rtp_size(payload: memoryview) -> int:
    """Bytes of the RTP header with its contributing sources and its extension (RFC 3550, 5.1 and 5.3.1)."""
    if len(payload) < _RTP_HEADER:
        return _CUT_OFF
    size = _RTP_HEADER + 4 * (payload[0] & 0x0F)
    if not payload[0] & 0x10:
        return size
    if size + 4 > len(payload):
        return _CUT_OFF
    return size + 4 + 4 * int.from_bytes(payload[size + 2 : size + 4], "big")


def bytes_of(place: Place, payload: memoryview) -> bytes | None:
    """The bytes at a place; None where the payload ends before it does."""
    try:
        return bytes(_bytes_at(place, payload, rtp_size(payload) if place.after_rtp else 0))
    except _ShortError:
        return None


def value_of(place: Place, payload: memoryview) -> int | None:
    """The integer at a place; None where the payload ends before it does."""
    try:
        return _value_at(place, payload, rtp_size(payload) if place.after_rtp else 0)
    except _ShortError:
        return None


def _read_fields(plan: Plan, payload: memoryview) -> Numbered:
    behind = rtp_size(payload)
    for place, wanted in plan.tests:
        if _value_at(place, payload, behind) != wanted:
            return _OTHER
    number = _value_at(plan.number, payload, behind)
    if plan.high is not None:
        number = (number + _value_at(plan.high, payload, behind) * plan.scale) & _U64
    count = _value_at(plan.count_at, payload, behind) if plan.count_at is not None else 1
    key = b"".join(
        _value_at(place, payload, behind).to_bytes(place.width, "big")
        if place.mask
        else bytes(_bytes_at(place, payload, behind))
        for place in plan.keys
    ).ljust(KEY_SIZE, b"\0")
    if plan.count_at is not None and count == plan.end:
        return Numbered(number, 0, key, Kind.END)
    if count == 0 or (plan.count_at is not None and count == plan.heartbeat):
        return Numbered(number, 0, key, Kind.HEARTBEAT)
    return Numbered(number, count, key, Kind.DATA)


def _spead_items(payload: memoryview) -> dict[int, int] | None:
    """Immediate items by their number; None: it is no SPEAD."""
    if payload[0] != 0x53 or payload[1] != 4 or not payload[2] or not payload[3] or payload[2] + payload[3] != 8:
        return None
    end = 8 + 8 * int.from_bytes(payload[6:8], "big")
    if end > len(payload):
        raise _ShortError
    bits = 8 * payload[3]
    words = (word for (word,) in struct.iter_unpack(">Q", payload[8:end]) if word >> 63)
    return {(word & _U64 >> 1) >> bits: word & ((1 << bits) - 1) for word in words}


def _read_spead(plan: Plan, payload: memoryview) -> Numbered:
    if len(payload) < 8:
        raise _ShortError
    items = _spead_items(payload)
    if items is None:
        return _OTHER
    if items.get(_SPEAD_CONTROL) == _SPEAD_STOP:  # a heap of its own: the flows that end are those of the sender
        return Numbered(items.get(_SPEAD_COUNTER, 0), 0, bytes(KEY_SIZE), Kind.END)
    needed = [items.get(item) for item in (_SPEAD_COUNTER, _SPEAD_SIZE, _SPEAD_OFFSET, _SPEAD_LENGTH)]
    counter, size, offset, length = (value or 0 for value in needed)
    if None in needed or not length:
        return _OTHER
    key = size.to_bytes(8, "big").ljust(KEY_SIZE, b"\0")
    if plan.parameter:
        number = counter * -(-size // plan.parameter) + -(-offset // plan.parameter)
        return Numbered(number & _U64, 1, key, Kind.DATA)
    return Numbered((counter * size + offset) & _U64, min(length, 0xFFFFFFFF), key, Kind.DATA)


def _read_iperf2(plan: Plan, payload: memoryview) -> Numbered:
    """The lower half of a signed number at 0, the upper half at 12; the last datagram has the negative of its own."""
    if len(payload) < _IPERF_HEADER.size:
        raise _ShortError
    low, high = _IPERF_HEADER.unpack_from(payload)
    if high == 0xFFFFFFFF and low:
        return Numbered((1 << 32) - low, 0, bytes(KEY_SIZE), Kind.END)
    return Numbered(low, 1, bytes(KEY_SIZE), Kind.DATA)


def _read_lcm(plan: Plan, payload: memoryview) -> Numbered:
    """LCM (udpm_util.h): "LC02" is a message, "LC03" a piece of one, with its place from 0 on at 16. The first piece
    has the message's number."""
    magic = bytes(payload[:4])
    if len(payload) < 8 or (magic == b"LC03" and len(payload) < 20):
        raise _ShortError
    if magic != b"LC02" and (magic != b"LC03" or any(payload[16:18])):
        return _OTHER
    return Numbered(int.from_bytes(payload[4:8], "big"), 1, bytes(KEY_SIZE), Kind.DATA)


def _read_mcjoin(plan: Plan, payload: memoryview) -> Numbered:
    """A text: "Sender PID 1234, MC group 225.1.2.3 ... count: 7, freq: 10", and zeros."""
    text = bytes(payload[:_MCJOIN_TEXT])
    name = _MCJOIN_PID.search(text)
    key = name and _DECIMAL.match(text, name.end())
    named = name and _MCJOIN_COUNT.search(text, name.end())
    count = named and _DECIMAL.match(text, named.end())
    if not key or not count:
        return _OTHER
    return Numbered(int(count[1]), 1, int(key[1]).to_bytes(8, "big").ljust(KEY_SIZE, b"\0"), Kind.DATA)


_READ: dict[Layout, Callable[[Plan, memoryview], Numbered]] = {
    Layout.FIELDS: _read_fields,
    Layout.SPEAD: _read_spead,
    Layout.IPERF2: _read_iperf2,
    Layout.MCJOIN: _read_mcjoin,
    Layout.LCM: _read_lcm,
}


def read(plan: Plan, payload: memoryview) -> Numbered:
    """What a packet is to a sequence."""
    try:
        return _READ[plan.layout](plan, payload)
    except _ShortError:
        return _SHORT
