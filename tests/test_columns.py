"""Batches as columns: rows of payloads, packets that match, addresses as text and back."""

import gc
import ipaddress
import pickle
import struct
import subprocess
import sys

import numpy as np
import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, _core
from mcast_fast._core.layout import RECORD, V4_MAPPED
from tests.conftest import loopback

NAMES = {1: "eth0", 2: "eth1", 3: "<b>&"}


def v4(text):
    return V4_MAPPED + ipaddress.ip_address(text).packed


def v6(text):
    return ipaddress.ip_address(text).packed


def packed(text):
    return v4(text) if ":" not in text else v6(text)


def batch_of(*packets, gap=b""):
    """A batch of packets (payload, source, group, port, interface), with these bytes behind each payload."""
    records, data = b"", b""
    for number, (payload, *rest) in enumerate(packets):
        source, group, port, interface = (*rest, *("10.0.0.1", "239.1.1.1", 5000, 1)[len(rest) :])
        size = len(payload)
        records += RECORD.pack(
            number + 1, len(data), interface, 0, size, size, packed(source), packed(group), 4000, port, 0, 0, 0
        )
        data += payload + gap
    return _core.views.Batch.from_bytes(records, data, NAMES)


# ---- rows ----


@pytest.mark.parametrize("gap", [b"", b"gap"])
@pytest.mark.parametrize("size", [1, 3, 4])
def test_rows_are_the_beginnings_of_the_payloads(backend, gap, size):
    payloads = [b"abcd", b"efgh", b"ijkl"]
    rows = batch_of(*((payload,) for payload in payloads), gap=gap).rows(size)
    assert (rows.shape, rows.ndim, rows.readonly, rows.itemsize) == ((3, size), 2, True, 1)
    assert rows.tolist() == [list(payload[:size]) for payload in payloads]
    array = np.asarray(rows)
    assert (array.shape, array.dtype, array.flags.writeable) == ((3, size), np.uint8, False)


def test_rows_that_are_adjacent_are_a_view_and_others_a_copy(backend):
    batch = batch_of((b"abcd",), (b"efgh",), (b"ijkl",))
    shared = np.asarray(batch.data)
    assert np.shares_memory(np.asarray(batch.rows(4)), shared)
    assert np.shares_memory(np.asarray(batch[1:].rows(4)), shared)
    assert np.shares_memory(np.asarray(batch[1:2].rows(2)), shared)
    assert not np.shares_memory(np.asarray(batch.rows(3)), shared)
    assert batch[1:].rows(4).tobytes() == b"efghijkl"


def test_rows_of_a_slice_and_of_different_lengths(backend):
    batch = batch_of((b"x",), (b"abcdef",), (b"ghi",), (b"",))
    assert batch[1:3].rows(3).tobytes() == b"abcghi"
    for size, index in ((1, 3), (2, 0)):
        with pytest.raises(ArgumentError, match=f"packet {index} of the batch has .* row of {size}"):
            batch.rows(size)
    with pytest.raises(ArgumentError, match="packet 1 of the batch has 3 bytes"):
        batch[1:3].rows(4)


@pytest.mark.parametrize("size", [1, 8])
def test_rows_of_nothing(backend, size):
    rows = batch_of().rows(size)
    assert (rows.shape, rows.readonly, rows.nbytes) == ((0, size), True, 0)
    assert np.asarray(rows).shape == (0, size)


@pytest.mark.parametrize("size", [0, -1, 65_536, 2**70, 1.0, "4", None, True])
def test_what_is_no_size_is_refused(backend, size):
    with pytest.raises(ArgumentError, match="size"):
        batch_of((b"abcd",)).rows(size)


def test_rows_keep_the_memory_of_the_batch(backend):
    rows = batch_of((b"abcd",), (b"efgh",)).rows(4)
    gc.collect()
    assert rows.tobytes() == b"abcdefgh"


@pytest.mark.needs("large buffers")
def test_rows_of_what_was_received(backend, place):
    group = place.group()
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=0) as tx:
        tx.send_batch([struct.pack(">IH", number, 7) for number in range(500)])
        batch = rx.collect(500, timeout=5)
    assert batch.view_as([("number", ">u4"), ("seven", ">u2")])["number"].tolist() == list(range(500))
    assert np.shares_memory(np.asarray(batch.rows(6)), np.asarray(batch.data))


# ---- elements of a NumPy type ----


@pytest.mark.parametrize("gap", [b"", b"?"])
def test_a_view_has_one_element_for_each_packet(backend, gap):
    batch = batch_of(*((struct.pack(">BIH", 1, number, 9),) for number in range(5)), gap=gap)
    kind = np.dtype([("version", "u1"), ("number", ">u4"), ("nine", ">u2")])
    found = batch.view_as(kind)
    assert (found.shape, found.dtype, found.flags.writeable) == ((5,), kind, False)
    assert found["number"].tolist() == list(range(5))
    assert set(found["nine"].tolist()) == {9}
    assert batch.view_as("u1").tolist() == [1] * 5
    assert batch.view_as("S3").tolist() == [bytes(found[at : at + 1].tobytes()[:3]).rstrip(b"\0") for at in range(5)]


def test_a_view_of_nothing(backend):
    assert batch_of().view_as("<u4").shape == (0,)


@pytest.mark.parametrize("dtype", ["no such", object, [("a", object)], "V0", "S", ("u1", (2, 2)), [("a", "u1"), 5]])
def test_what_is_no_type_of_payloads_is_refused(backend, dtype):
    with pytest.raises(ArgumentError, match="dtype"):
        batch_of((b"abcd",)).view_as(dtype)


def test_a_payload_that_is_too_short_is_named(backend):
    with pytest.raises(ArgumentError, match="packet 1 of the batch has 2 bytes of payload, fewer than a row of 4"):
        batch_of((b"abcd",), (b"ab",)).view_as("<u4")


def test_without_numpy_a_view_names_the_remedy(backend, monkeypatch):
    monkeypatch.setitem(sys.modules, "numpy", None)
    batch = batch_of((b"abcd",))
    with pytest.raises(mcast.FeatureError, match=r"pip install 'mcast-fast\[numpy\]'"):
        batch.view_as("<u4")
    assert batch.rows(4).tolist() == [[97, 98, 99, 100]]


# ---- packets that match ----


@pytest.fixture
def mixed(backend):
    return batch_of(
        (b"a", "10.0.0.1", "239.1.1.1", 5000, 1),
        (b"b", "10.0.0.2", "239.1.1.1", 5001, 1),
        (b"c", "fe80::1", "ff02::1", 5000, 1),
        (b"d", "fe80::1", "ff02::1", 5000, 2),
        (b"e", "10.0.0.1", "239.1.1.2", 5001, 2),
        (b"f", "2001:db8::1", "ff15::1", 5000, 9),
    )


CASES = [
    ({}, b"abcdef"),
    ({"group": "239.1.1.1"}, b"ab"),
    ({"group": ipaddress.ip_address("239.1.1.1")}, b"ab"),
    ({"group": "::ffff:239.1.1.1"}, b"ab"),
    ({"source": "10.0.0.1"}, b"ae"),
    ({"port": 5000}, b"acdf"),
    ({"group": "239.1.1.1", "source": "10.0.0.1", "port": 5000}, b"a"),
    ({"group": "FF02:0::1"}, b"cd"),
    ({"source": "fe80::1"}, b"cd"),
    ({"source": "fe80::1%eth1"}, b"d"),
    ({"source": ipaddress.ip_address("fe80::1%eth0")}, b"c"),
    ({"source": "fe80::1%2"}, b"d"),
    ({"source": "fe80::1%eth1", "group": "ff02::1%eth0"}, b""),
    ({"source": "2001:db8::1%9"}, b"f"),
    ({"group": "239.9.9.9"}, b""),
    ({"port": 0}, b""),
    ({"group": None, "source": None, "port": None}, b"abcdef"),
]


@pytest.mark.parametrize(("wanted", "payloads"), CASES)
def test_packets_that_match_are_a_batch(mixed, wanted, payloads):
    found = mixed.where(**wanted)
    assert isinstance(found, _core.views.Batch)
    assert b"".join(found.payloads()) == payloads
    assert len(found) == len(payloads)
    assert list(found) == [packet for packet in mixed if packet.data in set(map(bytes, zip(payloads)))]
    assert found.names == mixed.names


def test_a_zone_may_be_an_interface_of_the_system(backend):
    name = loopback()
    index = __import__("socket").if_nametoindex(name)
    batch = batch_of((b"a", "fe80::1", "ff02::1", 5000, 77), (b"b", "fe80::1", "ff02::1", 5000, 1000 + index))
    assert len(batch.where(source=f"fe80::1%{name}")) == 0
    batch = _core.views.Batch.from_bytes(
        bytes(batch.records)[:64].replace(struct.pack("=I", 77), struct.pack("=I", index), 1), b"a", {}
    )
    assert len(batch.where(source=f"fe80::1%{name}")) == 1
    assert len(batch.where(source=batch[0].source)) == 1


@pytest.mark.parametrize(
    ("wanted", "named"),
    [
        ({"group": "239.1.1.1:5000"}, "group '239.1.1.1:5000' is not an IPv4 or IPv6 address"),
        ({"group": "x"}, "group"),
        ({"group": 5}, "group 5 is not an address"),
        ({"source": b"10.0.0.1"}, "source"),
        ({"source": ""}, "source"),
        ({"port": -1}, "port"),
        ({"port": 65_536}, "port"),
        ({"port": "5000"}, "port"),
        ({"port": True}, "port"),
    ],
)
def test_what_cannot_match_is_refused_by_name(mixed, wanted, named):
    with pytest.raises(ArgumentError, match=named):
        mixed.where(**wanted)


def test_what_matches_is_a_batch_in_every_way(mixed):
    found = mixed.where(source="10.0.0.1")
    assert found[1:].payloads() == [b"e"]
    assert found[1:].where(port=5001)[:1].payloads() == [b"e"]
    assert found.where(group="239.1.1.2").payloads() == [b"e"]
    assert np.asarray(found)["port"].tolist() == [5000, 5001]
    assert np.shares_memory(np.asarray(found.data), np.asarray(mixed.data))
    assert _core.views.Batch.concatenate([found, mixed[:1], found[1:]]).payloads() == [b"a", b"e", b"a", b"e"]
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(found, protocol)) == found
    assert mixed[2:4].where(port=5000) == mixed[2:4]
    assert found.payload_bytes == 2
    assert hash(found) == hash(_core.views.Batch.concatenate([found]))


def test_what_matches_keeps_the_memory(backend):
    for _ in range(3):
        parts = [batch_of(*((bytes([n]) * 900, f"10.0.0.{n % 3 + 1}") for n in range(200))) for _ in range(5)]
        kept = [part[50:].where(source="10.0.0.2")[3:].where(port=5000)[1:] for part in parts]
        packets = [one[0] for one in kept]
        del parts, kept
        gc.collect()
        fresh = [batch_of(*((b"\xff" * 900,) for _ in range(200))) for _ in range(5)]
        assert {(packet.data, packet.source) for packet in packets} == {(bytes([64]) * 900, "10.0.0.2")}
        del fresh


@pytest.mark.needs("arrow")
def test_what_matches_can_be_exported(backend):
    pyarrow = pytest.importorskip("pyarrow")
    batch = batch_of(*((bytes([n]), f"10.0.0.{n % 3 + 1}") for n in range(30)))
    found = batch.where(source="10.0.0.2")[1:]
    table = pyarrow.record_batch(found)
    payloads = found.payloads()
    del batch, found
    gc.collect()
    assert table.column("payload").to_pylist() == payloads


# ---- addresses ----

TEXTS = ["10.0.0.1", "239.1.1.1", "ff02::1", "10.0.0.1", "2001:db8::1", "::", "::1:0:0:1"]


def test_addresses_of_columns(mixed):
    rows = np.asarray(mixed)
    sources = mcast.addresses(rows["source"])
    assert sources.tolist() == ["10.0.0.1", "10.0.0.2", "fe80::1", "fe80::1", "10.0.0.1", "2001:db8::1"]
    assert mcast.addresses(rows["group"]).tolist() == [packet.group for packet in mixed]
    assert mcast.addresses(rows["source"][::-2]).tolist() == sources.tolist()[::-2]
    assert mcast.addresses(rows["source"][0]) == "10.0.0.1"
    assert mcast.addresses(rows["source"].reshape(2, 3, 16)).tolist() == sources.reshape(2, 3).tolist()
    assert mcast.addresses(rows["source"][:0]).tolist() == []


def test_addresses_of_bytes():
    joined = b"".join(map(packed, TEXTS))
    for column in (joined, bytearray(joined), memoryview(joined), list(map(packed, TEXTS)), map(packed, TEXTS)):
        assert mcast.addresses(column) == TEXTS
    assert mcast.addresses(b"") == []
    assert mcast.addresses(memoryview(joined).cast("B", (len(TEXTS), 16))) == TEXTS


@pytest.mark.parametrize(
    "column",
    [
        b"1",
        bytes(17),
        [bytes(15)],
        ["10.0.0.1"],
        5,
        None,
        "10.0.0.1",
        np.zeros((2, 15), "u1"),
        np.zeros(16),
        np.uint8(1),
    ],
)
def test_what_is_no_column_of_addresses_is_refused(column):
    with pytest.raises(ArgumentError):
        mcast.addresses(column)


def test_addresses_are_packed_as_records_hold_them(mixed):
    rows = np.asarray(mixed)
    assert mcast.pack_addresses("10.0.0.1") == v4("10.0.0.1")
    assert mcast.pack_addresses(ipaddress.ip_address("ff02::1")) == v6("ff02::1")
    assert mcast.pack_addresses("fe80::1%eth0") == v6("fe80::1")
    several = mcast.pack_addresses(TEXTS)
    assert (several.shape, several.readonly) == ((len(TEXTS), 16), True)
    assert mcast.addresses(several) == TEXTS
    assert mcast.pack_addresses([]).shape == (0, 16)
    assert (rows["source"] == mcast.pack_addresses("10.0.0.1")).all(axis=1).tolist() == [
        True,
        *[False] * 3,
        True,
        False,
    ]
    array = mcast.pack_addresses(mcast.addresses(rows["source"].reshape(3, 2, 16)))
    assert (array.dtype, array.shape) == (np.uint8, (3, 2, 16))
    assert (array.reshape(-1, 16) == rows["source"]).all()
    assert mcast.pack_addresses(np.array([], str)).shape == (0, 16)
    assert mcast.pack_addresses(np.array([ipaddress.ip_address("10.0.0.1")], object)).tobytes() == v4("10.0.0.1")


@pytest.mark.parametrize(
    "wrong", ["x", "", "10.0.0.1:5", 5, None, [5], ["x"], [b"10.0.0.1"], np.array([1]), np.array("x")]
)
def test_what_is_no_address_is_refused(wrong):
    with pytest.raises(ArgumentError):
        mcast.pack_addresses(wrong)


def test_many_addresses_there_and_back():
    random = np.random.default_rng(1)
    column = random.integers(0, 3, (5000, 16)).astype(np.uint8)
    column[::2] = np.frombuffer(v4("10.0.0.0"), np.uint8)
    column[::2, 15] = random.integers(0, 256, 2500)
    texts = mcast.addresses(column)
    assert texts.tolist() == [
        str(ipaddress.ip_address(bytes(one[12:] if one[:12].tobytes() == V4_MAPPED else one))) for one in column
    ]
    assert (mcast.pack_addresses(texts) == column).all()


def test_addresses_without_numpy():
    code = (
        "import sys; sys.modules['numpy'] = None\n"
        "import mcast_fast as mcast\n"
        "assert mcast.addresses(mcast.pack_addresses(['10.0.0.1', 'ff02::1'])) == ['10.0.0.1', 'ff02::1']\n"
        "assert mcast.addresses(mcast.pack_addresses([])) == []\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- in a notebook ----


def test_a_batch_is_a_table_of_its_first_packets(backend):
    packets = [(b"<script>&\xff" + bytes(20), "10.0.0.1", "239.1.1.1", 5000, 3)] * 11
    html = batch_of(*packets)._repr_html_()
    assert html.count("<tr>") == 11
    assert "Batch of 11 packets, of which the first 10" in html
    assert "&lt;script&gt;&amp;......." in html
    assert "<td>&lt;b&gt;&amp;</td>" in html
    assert "1970-01-01 00:00:00.000000001" in html
    assert "<td>5000</td>" in html
    assert "<script" not in html
    assert "<b>" not in html


def test_an_empty_batch_is_a_table_without_rows(backend):
    html = batch_of()._repr_html_()
    assert "Batch of 0 packets" in html
    assert html.count("<tr>") == 1


def test_what_matches_can_be_given_back(backend, place):
    group = place.group()
    with mcast.Receiver(group, timeout=5) as rx, mcast.Sender(group, ttl=0) as tx:
        tx.send_batch([b"%d" % number for number in range(9)])
        batch = rx.collect(9)
        rx.give_back([batch.where(source=batch[0].source)[2:]])
        assert rx.recv_batch(3).payloads() == [b"2", b"3", b"4"]
        del batch
        gc.collect()
        assert [packet.data for packet in rx.packets(count=4)] == [b"5", b"6", b"7", b"8"]
