"""Packets of a batch that pass tests, on the standard library: the twin of c/match.c."""

from collections.abc import Sequence
from typing import Any

from mcast_fast._core import layout
from mcast_fast._core.matching import MOST_TESTS, PacketTest, Subject
from mcast_fast._core.pure.payloads import bytes_of, value_of
from mcast_fast._core.pure.views import Batch, make_part

_AT = {field.name: place for place, field in enumerate(layout.FIELDS)}
_FIELDS = {Subject.SOURCE: "source", Subject.GROUP: "group", Subject.SOURCE_PORT: "source_port", Subject.PORT: "port"}


def matching(batch: Batch, tests: Sequence[PacketTest]) -> Batch:
    """The packets of a batch that pass all tests, as a batch in the same order and memory."""
    if not isinstance(batch, Batch):
        raise TypeError(f"a batch is required, not {type(batch).__name__}")
    if len(tests) > MOST_TESTS:
        raise ValueError("there are too many tests")
    found = make_part(batch, 0, 0)
    size = layout.RECORD_SIZE
    starts = range(batch._first * size, (batch._first + batch._count) * size, size)
    with memoryview(batch._arena) as arena:
        found._records = bytearray().join(
            batch._records[start : start + size]
            for start in starts
            if _passes_all(tests, layout.RECORD.unpack_from(batch._records, start), arena)
        )
    found._first, found._count = 0, len(found._records) // size
    return found


def _passes_all(tests: Sequence[PacketTest], row: tuple[Any, ...], arena: memoryview) -> bool:
    start = row[_AT["offset"]]
    with arena[start : start + row[_AT["length"]]] as payload:
        return all(_passes(test, row, payload) for test in tests)


def _passes(test: PacketTest, row: tuple[Any, ...], payload: memoryview) -> bool:
    if test.subject is Subject.CONTENTS:
        data = bytes(payload)
        return any(first in data for first, _ in test.ranges) != test.negated
    value = _value(test, row, payload)
    return value is not None and any(first <= value <= last for first, last in test.ranges) != test.negated


def _value(test: PacketTest, row: tuple[Any, ...], payload: memoryview) -> Any:
    """What the test looks at; None where the payload ends before it does."""
    if test.subject is Subject.SIZE:
        return row[_AT["wire_length"]] or row[_AT["length"]]
    if test.place is not None:
        return (bytes_of if test.subject is Subject.BYTES else value_of)(test.place, payload)
    return row[_AT[_FIELDS[test.subject]]]
