"""The one record: described once, and the same in both backends, in struct, in the buffer protocol and in NumPy."""

import ctypes
import importlib
import struct
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast._core import layout
from mcast_fast._core.layout import FIELDS, RECORD, RECORD_SIZE, V4_MAPPED, Flag
from mcast_fast._core.pure.views import Record
from tests.conftest import has_fast

# The design's table, written out once more: a change of the record is a change of every file that was recorded.
OFFSETS = {
    "timestamp": 0,
    "offset": 8,
    "interface": 12,
    "dropped": 16,
    "length": 20,
    "wire_length": 22,
    "source": 24,
    "group": 40,
    "source_port": 56,
    "port": 58,
    "flags": 60,
    "ttl": 62,
    "tos": 63,
}

VALUES = st.tuples(
    *(
        st.binary(min_size=field.size, max_size=field.size)
        if field.size > 1
        else st.integers(-(2**63), 2**63 - 1)
        if field.letter == "q"
        else st.integers(0, 2 ** (8 * struct.calcsize("=" + field.letter)) - 1)
        for field in FIELDS
    )
)


@pytest.fixture
def fast_views():
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    return importlib.import_module("mcast_fast._core.fast.views")


def test_a_record_is_64_bytes_in_the_order_of_the_design():
    assert RECORD_SIZE == RECORD.size == 64
    assert [field.name for field in FIELDS] == list(OFFSETS)
    assert layout.offsets() == OFFSETS


def test_the_flags_are_single_bits_that_fit_their_field():
    assert {flag.name: flag.value for flag in Flag} == {
        "TRUNCATED": 1,
        "TTL": 2,
        "TOS": 4,
        "COALESCED": 8,
        "HARDWARE": 16,
        "FRAME": 32,
    }


def test_every_field_says_what_it_holds():
    assert all(field.meaning for field in FIELDS)
    assert mcast.receiver.RECORD_FIELDS is FIELDS


@given(VALUES)
def test_what_is_packed_unpacks_equal(values):
    packed = RECORD.pack(*values)
    assert len(packed) == RECORD_SIZE
    assert RECORD.unpack(packed) == values


@given(VALUES)
def test_each_field_stands_at_its_offset_in_native_endian(values):
    packed = RECORD.pack(*values)
    for field, value in zip(FIELDS, values, strict=True):
        at = OFFSETS[field.name]
        if field.size > 1:
            assert packed[at : at + field.size] == value
        else:
            size = struct.calcsize("=" + field.letter)
            assert int.from_bytes(packed[at : at + size], sys.byteorder, signed=field.letter == "q") == value


def test_ctypes_lays_the_record_out_the_same_way():
    assert ctypes.sizeof(Record) == RECORD_SIZE
    assert {name: getattr(Record, name).offset for name, *_ in Record._fields_} == OFFSETS


def test_the_c_structure_is_laid_out_the_same_way(fast_views):
    assert fast_views.C_LAYOUT == OFFSETS
    assert {flag.name: flag.value for flag in Flag} == fast_views.C_FLAGS


def test_ctypes_exports_the_format_that_the_layout_describes():
    assert memoryview((Record * 2)()).format == layout.buffer_format()


def block(views, values):
    """A block of one record made of values, with an arena that its payload lies in."""
    return views.Batch.from_bytes(RECORD.pack(*values), bytes(range(100)), {7: "test7"})


SAMPLE = (
    2**62 + 1, 10, 7, 2**31 + 5, 30, 1500,
    V4_MAPPED + bytes([10, 0, 0, 5]), V4_MAPPED + bytes([239, 1, 2, 3]),
    40_123, 5000, Flag.TTL | Flag.TRUNCATED, 64, 184,
)  # fmt: skip


def test_both_backends_export_records_alike(fast_views):
    pure_views = importlib.import_module("mcast_fast._core.pure.views")
    fast, pure = (block(views, SAMPLE).records for views in (fast_views, pure_views))
    for view in (fast, pure):
        assert (view.ndim, view.shape, view.strides, view.itemsize, view.nbytes) == (1, (1,), (64,), 64, 64)
        assert view.format == layout.buffer_format()
        assert view.readonly
        assert view.c_contiguous
    assert bytes(fast) == bytes(pure) == RECORD.pack(*SAMPLE)
    assert np.asarray(fast).dtype == np.asarray(pure).dtype


def test_numpy_reads_every_field(backend):
    views = importlib.import_module(f"mcast_fast._core.{backend}.views")
    row = np.asarray(block(views, SAMPLE).records)[0]
    assert list(row.dtype.names) == list(OFFSETS)
    for field, value in zip(FIELDS, SAMPLE, strict=True):
        assert (bytes(row[field.name]) if field.size > 1 else int(row[field.name])) == value


def test_a_packet_shows_what_its_record_holds(backend):
    views = importlib.import_module(f"mcast_fast._core.{backend}.views")
    packet = block(views, SAMPLE)[0]
    assert packet.data == bytes(range(10, 40)) == bytes(packet.view) == bytes(packet)
    assert (packet.timestamp, packet.dropped, len(packet), packet.wire_length) == (2**62 + 1, 2**31 + 5, 30, 1500)
    assert (packet.source, packet.source_port, packet.source_address) == ("10.0.0.5", 40_123, ("10.0.0.5", 40_123))
    assert (packet.group, packet.port) == ("239.1.2.3", 5000)
    assert (packet.interface, packet.interface_index) == ("test7", 7)
    assert (packet.truncated, packet.flags, packet.ttl, packet.tos) == (True, Flag.TTL | Flag.TRUNCATED, 64, None)
    assert repr(packet) == "<Packet 10.0.0.5:40123 > 239.1.2.3:5000 on test7, 1500 bytes, truncated>"


PROPERTIES = [
    "data", "timestamp", "source", "source_port", "source_address", "group", "port", "interface", "interface_index",
    "dropped", "truncated", "wire_length", "flags", "ttl", "tos",
]  # fmt: skip


@given(VALUES)
def test_any_record_reads_the_same_in_both_backends(values):
    if has_fast():
        pytest.skip(f"feature fast: {has_fast()}")
    arena = bytes(70_000)
    seen = []
    for name in ("fast", "pure"):
        views = importlib.import_module(f"mcast_fast._core.{name}.views")
        hostile = list(values)
        hostile[1] %= 4000  # the payload lies in the arena
        hostile[2] %= 5  # an interface that is looked up
        packet = views.Batch.from_bytes(RECORD.pack(*hostile), arena, {1: "one", 2: "two"})[0]
        seen.append([getattr(packet, one) for one in PROPERTIES] + [repr(packet), len(packet)])
    assert seen[0] == seen[1]


@pytest.mark.needs("recvmsg")
@pytest.mark.parametrize(
    "options", [{}, {"recv_ttl": True, "recv_tos": True}, {"max_packet_size": 10, "timestamps": None}]
)
def test_the_same_traffic_gives_the_same_records_in_both_backends(place, options, monkeypatch):
    """Field for field, apart from what cannot be the same: the time, and the port of the sender."""
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    groups = [place.group(n, 15_000) for n in (1, 2)]
    payloads = [bytes([size % 256]) * size for size in (0, 1, 9, 10, 11, 1472, 3000)]
    columns = []
    for name in ("fast", "pure"):
        for module in mcast._core.MODULES:
            monkeypatch.setattr(mcast._core, module, importlib.import_module(f"mcast_fast._core.{name}.{module}"))
        with mcast.Receiver(*groups, **options) as rx, mcast.Sender(*groups, ttl=3) as tx:
            tx.send_batch(payloads)
            columns.append(np.asarray(rx.collect(2 * len(payloads), timeout=5)))
    fast, pure = columns
    assert len(fast) == len(pure) == 2 * len(payloads)
    for field in set(OFFSETS) - {"timestamp", "source_port"}:
        assert np.array_equal(fast[field], pure[field]), field
    assert np.array_equal(fast["timestamp"] == 0, pure["timestamp"] == 0)
