"""Capture files: what is written reads back equal, here and by other programs; what cannot be read is refused by name."""

import errno
import gzip
import importlib
import io
import os
import shutil
import socket
import stat
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import _core
from mcast_fast._core import blocks
from mcast_fast._core.layout import RECORD, V4_MAPPED, Flag
from tests import capture_files as cf
from tests.conftest import BACKENDS, has_fast

NOW = 1_700_000_000_123_456_789
ORDERS = ("<", ">")
V4, V4_GROUP = V4_MAPPED + bytes([10, 0, 0, 1]), V4_MAPPED + bytes([239, 1, 1, 1])
V6, V6_GROUP = cf.packed("fe80::1"), cf.packed("ff15::1")


def record(payload, time=NOW, index=2, dropped=0, wire=None, v6=False, port=5000, flags=Flag.TTL | Flag.TOS):
    """The values of a record whose payload stands at the start of the arena."""
    wire = len(payload) if wire is None else wire
    flags |= Flag.TRUNCATED if wire > len(payload) else 0
    addresses = (V6, V6_GROUP) if v6 else (V4, V4_GROUP)
    return [time, 0, index, dropped, len(payload), wire, *addresses, 4000, port, int(flags), 7, 184]


def batch_of(*packets, names=None):
    """A batch of (record values, payload)."""
    records, data = b"", b""
    for values, payload in packets:
        values[1] = len(data)
        records += RECORD.pack(*values)
        data += payload
    return _core.views.Batch.from_bytes(records, data, names or {2: "eth0", 3: "eth1"})


def some(count=10, size=256, **named):
    payloads = [bytes([i % 256]) * size for i in range(count)]
    return batch_of(*((record(one, NOW + i, **named), one) for i, one in enumerate(payloads)))


def rows(batch):
    """The records of a batch but for what depends on the file: offset, interface."""
    return [(*values[:1], *values[3:]) for values in RECORD.iter_unpack(bytes(batch.records))]


def read(data, *groups, **options):
    """All packets of these bytes, as one batch."""
    with mcast.files.Reader(io.BytesIO(data), *groups, **options) as reader:
        return reader.collect(1_000_000)


def written(*batches, form="pcapng", **options):
    file = io.BytesIO()
    file.name = "memory"
    with mcast.files.Writer(file, form=form, **options) as writer:
        for batch in batches:
            writer.write(batch)
    return file.getvalue()


# ---- what is written reads back ----

ADDRESSES = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=3, max_size=3)).map(
        lambda pair: (V4_MAPPED + pair[0], V4_MAPPED + b"\xef" + pair[1])
    ),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=15, max_size=15))
    .map(lambda pair: (pair[0], b"\xff" + pair[1]))
    .filter(lambda pair: pair[0][:12] != V4_MAPPED),
)
PACKETS = st.tuples(
    st.integers(0, 2**63 - 1),  # time
    st.sampled_from([0, 1, 2, 77]),  # interface
    st.sampled_from([0, 1, 2**32 - 1]),  # dropped
    ADDRESSES,
    st.integers(0, 65_535),
    st.integers(0, 65_535),
    st.integers(0, 255),
    st.integers(0, 255),
    st.binary(max_size=60),
    st.sampled_from([0, 0, 1, 1400]),  # bytes that were cut off
)


def made(packets, names):
    found = []
    for time, index, dropped, (source, group), source_port, port, ttl, tos, payload, cut in packets:
        flags = Flag.TTL | Flag.TOS | (Flag.TRUNCATED if cut else 0)
        wire = len(payload) + cut
        values = [time, 0, index, dropped, len(payload), wire, source, group, source_port, port, int(flags), ttl, tos]
        found.append((values, payload))
    return batch_of(*found, names=names)


@pytest.mark.long
@given(packets=st.lists(PACKETS, max_size=8))
def test_what_is_written_reads_back_equal(backend, packets):
    names = {0: "", 1: "eth0", 2: "eth1", 77: "a long name, with a comma"}
    batch = made(packets, names)
    back = read(written(batch))
    assert rows(back) == rows(batch)
    assert back.payloads() == batch.payloads()
    assert [packet.interface for packet in back] == [packet.interface for packet in batch]
    assert [packet.interface_index for packet in batch] == [one[1] or None for one in packets]


@pytest.mark.parametrize("form", ["pcapng", "pcap"])
def test_each_packet_of_a_flow_is_written_with_its_own_ttl_and_tos(backend, form):
    """The headers of a flow are kept from one packet to the next."""
    addresses = [(V4, V4_GROUP), (V6, V6_GROUP)]
    headers = [(7, 184), (7, 0), (8, 0), (8, 255), (8, 255), (7, 184)]
    batch = made([(NOW, 1, 0, pair, 4000, 5000, *one, b"p", 0) for pair in addresses for one in headers], {1: "eth0"})
    assert [(packet.ttl, packet.tos) for packet in read(written(batch, form=form))] == headers * 2


@pytest.mark.parametrize("v6", [False, True])
def test_a_checksum_of_zero_is_written_as_all_ones(backend, v6):
    """0 says that there is none (RFC 768); in IPv6 it is an error (RFC 8200, 8.1)."""

    def checksum(payload):
        data = written(batch_of((record(payload, v6=v6), payload)))
        place = data.index(struct.pack(">HHH", 4000, 5000, 8 + len(payload))) + 6
        return data[place : place + 2]

    complement = checksum(bytes(2))
    assert checksum(complement) == b"\xff\xff"


@pytest.mark.long
@given(packets=st.lists(PACKETS, max_size=8))
def test_classic_pcap_keeps_all_but_interfaces_and_drops(backend, packets):
    batch = made([(one[0] % (2**32 * 10**9), 1, 0, *one[3:]) for one in packets], {1: "eth0"})
    back = read(written(batch, form="pcap"))
    assert rows(back) == rows(batch)
    assert back.payloads() == batch.payloads()


@pytest.mark.long
@given(packets=st.lists(PACKETS, max_size=8), form=st.sampled_from(["pcapng", "pcap"]))
def test_both_backends_write_the_same_bytes(packets, form):
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    files = []
    for name in ("fast", "pure"):
        views, codecs = (importlib.import_module(f"mcast_fast._core.{name}.{module}") for module in ("views", "files"))
        whole = made(packets, {})
        batch = views.Batch.from_bytes(bytes(whole.records), bytes(whole.data), {})
        encoder = codecs.Encoder(form)
        for index in (0, 1, 2, 77):
            encoder.add(index, int(Flag.TTL | Flag.TOS))
        data, stop = encoder.encode(batch, 0)
        assert stop == len(batch)
        files.append(bytes(data))
    assert files[0] == files[1]


@pytest.mark.parametrize("known", [Flag(0), Flag.TTL, Flag.TOS, Flag.TTL | Flag.TOS])
@pytest.mark.parametrize("link", ["ethernet", "raw"])
def test_what_a_record_does_not_know_stays_unknown(backend, known, link):
    """Other programs read the usual TTL and TOS; classic pcap has no word for it."""
    batch = batch_of((record(b"x", flags=int(known)), b"x"))
    (packet,) = read(written(batch, link=link))
    assert (packet.ttl, packet.tos) == (7 if known & Flag.TTL else None, 184 if known & Flag.TOS else None)
    (packet,) = read(written(batch, form="pcap", link=link))
    assert (packet.ttl, packet.tos) == (7 if known & Flag.TTL else 64, 184 if known & Flag.TOS else 0)


def test_packets_of_which_different_things_are_known_share_a_file(backend):
    batch = batch_of(*((record(b"x", flags=int(flags)), b"x") for flags in (0, Flag.TTL, 0, Flag.TTL)))
    with mcast.open(io.BytesIO(written(batch))) as reader:
        assert [(one.ttl, one.tos) for one in reader.collect(9)] == [(None, None), (7, None)] * 2
        assert [(one.name, one.synthetic) for one in reader.interfaces] == [("eth0", True)] * 2


def test_raw_ip_begins_with_the_ip_header(backend):
    data = written(batch_of((record(b"x"), b"x")), form="pcap", link="raw")
    assert struct.unpack_from("=I", data, 20) == (101,)
    assert data[40] == 0x45
    assert len(data) == 24 + 16 + 20 + 8 + 1


def whole_frame(frame, **named):
    values = record(frame, **named)
    values[10] |= Flag.FRAME
    return values, frame


@pytest.mark.parametrize("form", ["pcapng", "pcap"])
def test_a_whole_frame_is_written_as_it_is(backend, form):
    frames = [cf.datagram(b"first"), cf.ethernet(cf.ipv4(cf.udp(b"tagged")), 0x0800, ((0x8100, 5),)) + bytes(9)]
    data = written(batch_of(*(whole_frame(frame) for frame in frames)), form=form)
    assert all(frame in data for frame in frames)
    with mcast.open(io.BytesIO(data)) as reader:
        assert reader.collect(9).payloads() == [b"first", b"tagged"]
        assert not any(one.synthetic for one in reader.interfaces)


def test_a_whole_frame_is_refused_by_a_file_of_raw_ip(backend):
    with pytest.raises(mcast.ArgumentError, match=r"packet 0 .* whole Ethernet frame"):
        written(batch_of(whole_frame(cf.datagram())), link="raw")


def test_an_unknown_link_is_refused(backend):
    with pytest.raises(mcast.ArgumentError, match="link 'token ring' is not one of: 'ethernet', 'raw'"):
        mcast.files.Writer(io.BytesIO(), link="token ring")


def test_a_wire_length_that_is_not_known_is_that_of_the_payload(backend):
    (packet,) = read(written(batch_of((record(b"four", wire=0), b"four"))))
    assert (packet.wire_length, packet.truncated) == (4, False)


@pytest.mark.parametrize(("size", "v6"), [(65_507, False), (65_527, True)])
def test_the_largest_datagrams_are_written(backend, size, v6):
    payload = bytes(size)
    assert read(written(batch_of((record(payload, v6=v6), payload)))).payloads() == [payload]


@pytest.mark.parametrize("form", ["pcapng", "pcap"])
def test_payloads_of_all_sizes_are_written_one_behind_the_other(backend, tmp_path, form):
    """Into a file large payloads go straight from the batch, and small ones in pieces: more of each than one call has."""
    sizes = [*([300] * 400), 0, 1, 2, 3, 9000, 2047, 2048, 2049, 2050, 65_507, 5, 65_507, *([2049] * 600), 7]
    payloads = [bytes([number % 256]) * size for number, size in enumerate(sizes)]
    batch = batch_of(*((record(one, time=NOW + at), one) for at, one in enumerate(payloads)))
    path = tmp_path / f"feed.{form}"
    with mcast.files.Writer(path) as writer:
        assert writer.write(batch) == len(sizes)
    assert path.read_bytes() == written(batch, form=form)
    assert read(path.read_bytes()).payloads() == payloads


@pytest.mark.parametrize(("size", "v6"), [(65_508, False), (65_528, True)])
def test_what_no_datagram_can_hold_is_refused_behind_what_can_be_written(backend, size, v6):
    batch = batch_of((record(b"good"), b"good"), (record(bytes(size), v6=v6), bytes(size)))
    file = io.BytesIO()
    writer = mcast.files.Writer(file)
    with pytest.raises(mcast.ArgumentError, match=rf"packet 1 of the batch .*: {size} bytes of payload do not fit"):
        writer.write(batch)
    writer.close()
    assert read(file.getvalue()).payloads() == [b"good"]


def test_source_and_group_of_two_families_are_refused(backend):
    values = record(b"")
    values[6] = V6
    with pytest.raises(mcast.ArgumentError, match="not of one family"):
        written(batch_of((values, b"")))


@pytest.mark.parametrize("suffix", ["pcapng", "pcap", "pcapng.gz", "PCAP.GZ", "pcapng.zst"])
def test_the_suffix_says_form_and_compression(backend, tmp_path, suffix):
    if suffix.endswith("zst"):
        pytest.importorskip("backports.zstd")
    path = tmp_path / f"feed.{suffix}"
    with mcast.files.Writer(path) as writer:
        writer.write(some())
    with mcast.open(path) as reader:
        assert reader.collect(100).payloads() == some().payloads()
        assert (
            reader.form
            == writer.form
            == ("pcap" if suffix.lower().startswith("pcap.") or suffix == "pcap" else "pcapng")
        )
    if suffix.lower().endswith(".gz"):
        assert path.read_bytes()[:2] == b"\x1f\x8b"


@pytest.mark.needs("modes of files")
def test_a_file_is_its_owners_alone(backend, tmp_path):
    with mcast.files.Writer(tmp_path / "feed.pcapng"):
        pass
    assert stat.S_IMODE((tmp_path / "feed.pcapng").stat().st_mode) == 0o600


def test_statistics_are_read_back(backend):
    file = io.BytesIO()
    with mcast.files.Writer(file, filter_text="239.1.1.1:5000") as writer:
        writer.write(some(3))
        writer.statistics(mcast.Stats(received=3, filtered=1, dropped_socket=2))
        writer.statistics(mcast.Stats(received=30, dropped_socket=None))
    with mcast.open(io.BytesIO(file.getvalue())) as reader:
        reader.collect(10)
        (interface,) = reader.interfaces
    assert interface == blocks.CapturedOn("eth0", 1, 6, None, 2, 30, synthetic=True)
    assert b"239.1.1.1:5000" in file.getvalue()


# ---- reading as a receiver ----


def test_a_reader_stands_where_a_receiver_would(backend, tmp_path):
    path = tmp_path / "feed.pcapng"
    with mcast.files.Writer(path) as writer:
        writer.write(some(1000))
    with mcast.open(path, groups="239.1.1.1:5000", batch_size=300, timeout=1.0) as rx:
        first = rx.recv(timeout=0)
        assert (first.data, first.timestamp, first.interface) == (bytes(256), NOW, "eth0")
        assert len(rx.recv_batch(10)) == 10
        rest = [len(batch) for batch in rx]
        assert (rest[0], sum(rest), max(rest)) == (289, 989, 300)
        with pytest.raises(EOFError, match="has ended"):
            rx.recv_batch()
        with pytest.raises(EOFError):
            rx.recv()
        assert len(rx.collect(5)) == 0
        assert (rx.stats.received, rx.stats.bytes, rx.stats.batches) == (1000, 256_000, len(rest))
    with pytest.raises(mcast.ClosedError):
        rx.recv_batch()


@pytest.mark.parametrize(
    ("groups", "options", "wanted"),
    [
        ([], {}, [0, 1, 2, 3]),
        ([], {"multicast_only": False}, [0, 1, 2, 3, 4]),
        (["239.1.1.1"], {}, [0, 1, 2]),
        (["239.1.1.1:5000"], {}, [0, 2]),
        (["239.1.1.1"], {"port": 5001}, [1]),
        (["239.1.1.1%eth1"], {}, [2]),
        (["239.1.1.1"], {"interface": "eth0"}, [0, 1]),
        (["239.1.1.1%all:5000"], {}, [0, 2]),
        (["239.1.1.1%eth9"], {}, []),
        (["10.0.0.2@239.1.1.1"], {}, [1]),
        (["239.1.1.1"], {"source": "10.0.0.2"}, [1]),
        (["10.0.0.2@239.1.1.1", "10.0.0.1@239.1.1.1%eth1:5000"], {}, [1, 2]),
        (["239.1.1.0+3"], {}, [0, 1, 2, 3]),
        (["239.1.1.2", "239.1.1.2:5000"], {}, [3]),
    ],
)
def test_groups_are_chosen_as_a_receiver_would(backend, groups, options, wanted):
    frames = [
        (cf.ethernet(cf.ipv4(cf.udp(b"0"))), 0),
        (cf.ethernet(cf.ipv4(cf.udp(b"1", port=5001), source="10.0.0.2")), 0),
        (cf.ethernet(cf.ipv4(cf.udp(b"2"))), 1),
        (cf.ethernet(cf.ipv4(cf.udp(b"3"), group="239.1.1.2")), 0),
        (cf.ethernet(cf.ipv4(cf.udp(b"4"), group="10.0.0.9")), 0),
    ]
    data = cf.section() + cf.description(name="eth0") + cf.description(name="eth1")
    data += b"".join(cf.packet(frame, interface=interface) for frame, interface in frames)
    with mcast.files.Reader(io.BytesIO(data), *groups, **options) as reader:
        assert [int(payload) for payload in reader.collect(10).payloads()] == wanted
        assert (reader.stats.frames, reader.stats.filtered) == (5, 5 - len(wanted))


def test_fragments_are_counted_for_the_group_and_port_that_are_asked_for(backend):
    fragment = cf.ethernet(cf.ipv4(cf.udp(bytes(64)), fragment=0x2000))
    later = cf.ethernet(cf.ipv4(bytes(64), fragment=10))  # one in between is missing
    data = cf.pcap((0, 0, fragment), (0, 0, later))
    for group, counts in (("239.1.1.1:5000", (1, 0)), ("239.1.1.1:5001", (0, 1)), ("239.1.1.2", (0, 1))):
        with mcast.files.Reader(io.BytesIO(data), group) as reader:
            assert len(reader.collect(10)) == 0
            assert (reader.stats.fragments, reader.stats.filtered, reader.stats.frames) == (*counts, 2)


def test_drops_told_with_a_packet_nobody_wants_belong_to_the_next_one(backend):
    unwanted, wanted = cf.datagram(group="239.9.9.9"), cf.datagram()
    data = cf.section() + cf.description() + cf.description()
    data += cf.packet(unwanted, dropped=3) + cf.packet(wanted, interface=1) + cf.packet(wanted, dropped=4)
    data += cf.packet(wanted, dropped=2**40) + cf.packet(unwanted, dropped=2) + cf.packet(wanted) + cf.packet(wanted)
    with mcast.files.Reader(io.BytesIO(data), "239.1.1.1") as reader:
        assert [packet.dropped for packet in reader.collect(10)] == [0, 7, 2**32 - 1, 2, 0]
        assert reader.stats.dropped == 9 + 2**40


def test_drops_that_no_counter_can_hold_are_the_most_that_it_can(backend):
    data = cf.section() + cf.description() + cf.packet(cf.datagram(), dropped=2**63) * 3
    with mcast.files.Reader(io.BytesIO(data)) as reader:
        assert [packet.dropped for packet in reader.collect(10)] == [2**32 - 1] * 3
        assert reader.stats.dropped == 2**64 - 1


def test_a_pipe_is_read_as_it_comes(backend):
    data = written(some(50))
    r, w = os.pipe()

    def feed():
        with os.fdopen(w, "wb", buffering=0) as pipe:
            for at in range(0, len(data), 777):
                pipe.write(data[at : at + 777])

    thread = threading.Thread(target=feed)
    thread.start()
    with os.fdopen(r, "rb", buffering=0) as pipe, mcast.open(pipe) as reader:
        assert sum(len(batch) for batch in reader) == 50
    thread.join()


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_the_size_of_the_pieces_does_not_matter(backend, piece):
    data = written(some(20), some(3, v6=True))

    class Slow(io.BytesIO):
        def readinto(self, buffer):
            return super().readinto(memoryview(buffer)[:piece])

    with mcast.files.Reader(Slow(data)) as reader:
        batches = list(reader)
    whole = read(data)
    assert [row for batch in batches for row in rows(batch)] == rows(whole)


def test_a_block_of_16_mib_is_read_with_memory_for_one(backend):
    frame = cf.datagram()
    data = cf.section() + cf.block("<", 99, bytes(16 << 20)) + cf.description() + cf.packet(frame)
    assert len(read(data)) == 1


# ---- every dialect ----


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("resolution", "ticks", "offset", "time"),
    [
        (None, 1_700_000_000_123_456, None, 1_700_000_000_123_456_000),
        (0, 1_700_000_000, None, 1_700_000_000_000_000_000),
        (3, 1_700_000_000_123, None, 1_700_000_000_123_000_000),
        (9, NOW, None, NOW),
        (9, 5, 1_700_000_000, 1_700_000_000_000_000_005),
        (9, NOW, -1, NOW - 10**9),
        (12, 1_700_000_000_123_456_789, None, 1_700_000_000_123_456),
        (19, 2**64 - 1, None, 1_844_674_407),
        (28, 2**64 - 1, None, 1),
        (127, 2**64 - 1, None, 0),
        (0x80, 1_700_000_000, None, 1_700_000_000_000_000_000),
        (0x80 | 10, 1_700_000_000 << 10 | 512, None, 1_700_000_000_500_000_000),
        (0x80 | 20, (1 << 20) - 1, None, 999_999_046),
        (0x80 | 32, 1_700_000_000 << 32 | 2**31, None, 1_700_000_000_500_000_000),
        (0x80 | 63, 2**64 - 1, None, 1_999_999_999),
        (0x80 | 64, 2**63, None, 500_000_000),
        (0x80 | 95, 2**64 - 1, None, 0),
        (0xFF, 2**64 - 1, None, 0),
        (0, 2**64 - 1, None, 0),
        (9, 2**64 - 1, None, 0),
        (9, 2**63 - 1, None, 2**63 - 1),
        (9, 2**63, None, 0),
        (6, 9_223_372_036_854_775, None, 9_223_372_036_854_775_000),
        (6, 9_223_372_036_854_776, None, 0),
        (9, 1, 2**63 - 1, 0),
        (6, 1, -(2**63), 0),
        (9, 10**9, -2, -(10**9)),
    ],
)
def test_times_of_any_resolution(backend, order, resolution, ticks, offset, time):
    data = cf.section(order) + cf.description(order, resolution=resolution, offset=offset)
    (packet,) = read(data + cf.packet(cf.datagram(), order, ticks))
    assert packet.timestamp == (time or None)


@pytest.mark.long
@settings(max_examples=300)
@given(resolution=st.integers(0, 255), ticks=st.integers(0, 2**64 - 1), offset=st.integers(-(2**63), 2**63 - 1))
def test_both_backends_tell_the_same_time(resolution, ticks, offset):
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    data = cf.section() + cf.description(resolution=resolution, offset=offset) + cf.packet(cf.datagram(), ticks=ticks)
    assert decoded("fast", data) == decoded("pure", data)


@pytest.mark.parametrize("order", ORDERS)
def test_every_block_that_has_a_packet(backend, order):
    frame = cf.datagram(b"1")
    data = cf.section(order) + cf.description(order, snaplen=1500)
    data += cf.packet(frame, order, dropped=2) + cf.obsolete_packet(frame, order, dropped=3)
    data += cf.obsolete_packet(frame, order, dropped=0xFFFF) + cf.simple_packet(frame, order)
    batch = read(data)
    assert [packet.dropped for packet in batch] == [2, 3, 0, 0]
    assert [packet.data for packet in batch] == [b"1"] * 4


def test_a_simple_packet_is_cut_by_the_snaplen(backend):
    frame = cf.datagram(b"123456789")
    cut = cf.block("<", 3, struct.pack("<I", len(frame)) + frame[:48])
    (packet,) = read(cf.section() + cf.description(snaplen=48) + cut)
    assert (packet.data, packet.wire_length, packet.truncated, packet.timestamp) == (b"123456", 9, True, None)


def test_sections_and_interfaces_follow_one_another(backend):
    frame = cf.datagram()
    data = b""
    for order in "<>":
        data += cf.section(order) + cf.description(order, name="eth0") + cf.description(order, cf.RAW, name="tun0")
        data += cf.block(order, 4, bytes(4)) + cf.block(order, 0xBAD, bytes(8)) + cf.block(order, 0x40000BAD, bytes(8))
        data += cf.packet(frame, order) + cf.packet(frame[14:], order, interface=1)
        data += cf.statistics(order, 1, received=9, dropped=8, dropped_system=7, delivered=6)
    with mcast.files.Reader(io.BytesIO(data)) as reader:
        batch = reader.collect(10)
        assert [(packet.interface_index, packet.interface) for packet in batch] == [
            (1, "eth0"), (2, "tun0"), (3, "eth0"), (4, "tun0"),
        ]  # fmt: skip
        assert reader.interfaces[3] == blocks.CapturedOn("tun0", 101, 9, 8, 7, 6)
        assert reader.interfaces[2] == blocks.CapturedOn("eth0", 1, None, None, None, None)


def test_a_link_local_source_of_an_interface_without_a_name_has_no_zone(backend):
    frame = cf.ethernet(cf.ipv6(cf.udp()), 0x86DD)
    (unnamed,) = read(cf.pcap((0, 0, frame)))
    (named,) = read(cf.section() + cf.description(name="eth7") + cf.packet(frame))
    assert (unnamed.source, unnamed.interface, named.source) == ("fe80::1", None, "fe80::1%eth7")


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize(
    ("magic", "fraction", "time"),
    [
        (0xA1B2C3D4, 123_456, 1_700_000_000_123_456_000),
        (0xA1B23C4D, 123_456_789, NOW),
        (0xA1B2CD34, 123_456, 1_700_000_000_123_456_000),
    ],
)
def test_classic_files(backend, order, magic, fraction, time):
    data = cf.pcap(
        (1_700_000_000, fraction, cf.datagram()), (1_700_000_000, fraction, cf.datagram()), order=order, magic=magic
    )
    batch = read(data)
    assert [(packet.timestamp, packet.interface_index) for packet in batch] == [(time, 1)] * 2


@pytest.mark.parametrize("upper", [0x24000000, 0xF4000000])
def test_the_frame_check_sequence_that_a_classic_file_announces_is_left_out(backend, upper):
    """The upper six bits of the link's number: whether its length is known, and the length (draft-ietf-opsawg-pcap)."""
    frame = cf.datagram() + bytes(4)
    (packet,) = read(cf.pcap((0, 0, frame), link=cf.ETHERNET | upper))
    assert (packet.data, packet.wire_length) == (b"payload", 7)


@pytest.mark.parametrize(("version", "swapped"), [((2, 2), True), ((2, 3), True), ((2, 3), False), ((543, 0), True)])
def test_old_classic_files_have_their_lengths_the_other_way_round(backend, version, swapped):
    frame = cf.datagram(b"payload")
    data = bytearray(cf.pcap((0, 0, frame, len(frame) + 5), version=version))
    if swapped:
        data[32:40] = data[36:40] + data[32:36]
    (packet,) = read(bytes(data))
    assert packet.data == b"payload"


# ---- what cannot be read ----

START = cf.section() + cf.description()
GOOD = cf.packet(cf.datagram())
BAD = {
    "nothing": (b"", 0, "it is empty"),
    "no capture": (b"PK\3\4" + bytes(100), 0, "0x504b0304, which is neither pcapng nor pcap"),
    "two bytes": (b"\n\r", 0, "ends in the middle of a block: 2 of 4 bytes"),
    "byte order": (b"\n\r\r\n" + bytes(40), 0, "byte-order magic 0x00000000"),
    "major version": (cf.section(major=2), 0, "version 2 "),
    "classic version": (cf.pcap(version=(7, 1)), 0, "version 7 "),
    "torn": (START + GOOD + GOOD[:-1], len(START + GOOD), f"{len(GOOD) - 1} of {len(GOOD)} bytes"),
    "torn header": (START + GOOD + GOOD[:5], len(START + GOOD), "5 of 12 bytes"),
    "torn classic": (cf.pcap((0, 0, cf.datagram()))[:-3], 24, "62 of 65 bytes"),
    "lengths differ": (START + GOOD[:-4] + b"\0\0\0\0", len(START), f"length {len(GOOD)} at its start and 0"),
    "length 0": (START + struct.pack("<II", 6, 0) + bytes(20), len(START), "type 0x6 has an absurd length, 0"),
    "odd length, cut": (START + struct.pack("<II", 6, 35) + bytes(25), len(START), "33 of 36 bytes"),
    "odd length, wrong at the end": (START + struct.pack("<II", 6, 35) + bytes(35), len(START), "35 at its start and 0"),
    "4 GiB": (START + struct.pack("<II", 6, 2**32 - 4) + bytes(20), len(START), "absurd length, 4294967292"),
    "17 MiB": (START + struct.pack("<II", 99, 17 << 20) + bytes(20), len(START), f"absurd length, {17 << 20}"),
    "classic 17 MiB": (cf.pcap() + struct.pack("<IIII", 0, 0, 17 << 20, 1), 24, f"absurd captured length, {17 << 20}"),
    "captured beyond": (
        START + GOOD[:20] + struct.pack("<I", len(GOOD)) + GOOD[24:],
        len(START),
        f"{len(GOOD)} captured bytes where {len(GOOD) - 32} are left",
    ),
    "no interface": (cf.section() + GOOD, 28, "interface 0 where 0 are described"),
    "interface 7": (START + cf.packet(cf.datagram(), interface=7), len(START), "interface 7 where 1 are described"),
    "interface of the section before": (
        START + cf.section() + GOOD, len(START) + 28, "interface 0 where 0 are described",
    ),
    "statistics of no interface": (cf.section() + cf.statistics(), 28, "interface 0 where 0"),
    "simple without interface": (cf.section() + cf.simple_packet(b"1234"), 28, "interface 0 where 0"),
    "simple beyond": (START + cf.simple_packet(b"1234", wire=5), len(START), "5 captured bytes where 4 are left"),
    "option": (
        cf.section() + cf.block("<", 1, bytes(8) + struct.pack("<HH", 2, 9) + bytes(8)),
        28,
        "option of 9 bytes runs past the 8",
    ),
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS)
def test_a_block_whose_length_leaves_out_the_padding_is_read(backend, order):
    """As Wireshark reads it (pcapng_read_block)."""
    odd = bytearray(cf.packet(cf.datagram(b"odd size")[:-1] + b"!", order))
    assert len(cf.datagram(b"odd size")) % 4 == 2
    struct.pack_into(order + "I", odd, 4, len(odd) - 2)
    struct.pack_into(order + "I", odd, len(odd) - 4, len(odd) - 2)
    data = cf.section(order) + cf.description(order) + bytes(odd) + cf.packet(cf.datagram(b"next"), order)
    assert read(data).payloads() == [b"odd siz!", b"next"]


@pytest.mark.parametrize(("data", "offset", "reason"), BAD.values(), ids=BAD)
def test_what_is_wrong_is_told_with_the_file_and_the_offset(backend, tmp_path, data, offset, reason):
    path = tmp_path / "bad.pcapng"
    path.write_bytes(data)
    good = data[:offset].count(GOOD)
    with mcast.open(path) as reader:
        assert len(reader.collect(good)) == good if good else True
        for _ in range(2):
            with pytest.raises(mcast.errors.CaptureError) as caught:
                reader.recv_batch()
            assert (caught.value.file, caught.value.offset) == (str(path), offset)
            assert reason in str(caught.value)
            assert str(caught.value).startswith(f"{path}, offset {offset}: ")


def test_all_that_stands_before_an_error_is_delivered_first(backend):
    data = START + GOOD * 5 + b"\xff" * 40
    with mcast.files.Reader(io.BytesIO(data), batch_size=100) as reader:
        batches = iter(reader)
        assert len(next(batches)) == 5
        with pytest.raises(mcast.errors.CaptureError, match="offset"):
            next(batches)


@pytest.mark.long
def test_more_interfaces_than_anybody_has_are_refused(backend):
    data = cf.section() + cf.description() * (blocks.MOST_INTERFACES + 1)
    with pytest.raises(mcast.errors.CaptureError, match="more than 65536 interfaces"):
        read(data)


@pytest.mark.long
def test_a_torn_compressed_file_delivers_what_there_is(backend, tmp_path):
    path = tmp_path / "torn.pcapng.gz"
    whole = gzip.compress(written(batch_of(*((record(one), one) for one in [os.urandom(500)] * 3000))))
    path.write_bytes(whole[: len(whole) // 2])
    with mcast.open(path) as reader:
        assert len(reader.recv_batch()) == 256
        with pytest.raises(mcast.errors.CaptureError, match=r"torn.pcapng.gz, offset \d+"):
            list(reader)


def test_a_missing_file_is_told_with_the_remedy(backend, tmp_path):
    with pytest.raises(mcast.errors.FileError, match=r"open .*nowhere.pcapng: No such file .*check the path") as caught:
        mcast.open(tmp_path / "nowhere.pcapng")
    assert caught.value.errno == errno.ENOENT


def decoded(backend, data, chunk=None, limit=10_000):
    """Everything that a decoder says of these bytes: batches, counters, interfaces, the error."""
    decoder = importlib.import_module(f"mcast_fast._core.{backend}.files").Decoder("any", None, False)
    at, error, seen = 0, "", []
    while at < len(data):
        piece = data[at : at + chunk] if chunk else data[at:]
        try:
            used = decoder.decode(piece, limit, at + len(piece) == len(data))
        except mcast.errors.CaptureError as wrong:
            error = str(wrong)
            break
        batch = decoder.take()
        seen += [(bytes(batch.records), bytes(batch.data))] if len(batch) else []
        at += used
        if not used and not len(batch):
            chunk = None
    return seen, decoder.counters(), decoder.interfaces, decoder.names, decoder.form, decoder.offset, error


def test_a_buffer_of_other_items_is_its_bytes(backend):
    data = START + GOOD * 3
    decoder = importlib.import_module(f"mcast_fast._core.{backend}.files").Decoder("any", None, False)
    for shaped in (memoryview(data).cast("I"), memoryview(data).cast("B", (len(data) // 4, 4))):
        assert decoder.decode(shaped, 10, True) == len(data)
        assert len(decoder.take()) == 3
    with pytest.raises((BufferError, TypeError), match="contiguous"):
        decoder.decode(memoryview(data)[::2], 10, True)


SAMPLES = [
    START + GOOD * 2,
    cf.section(">") + cf.description(">", name="eth0", resolution=9) + cf.packet(cf.datagram(), ">", dropped=1),
    START + cf.obsolete_packet(cf.datagram()) + cf.simple_packet(cf.datagram()) + cf.statistics(received=1),
    cf.pcap((1, 2, cf.datagram()), (3, 4, cf.datagram())),
    cf.pcap((1, 2, cf.datagram()), order=">", magic=0xA1B2CD34),
    *(data for data, _, _ in BAD.values() if 0 < len(data) < 1000),
]


@pytest.mark.long
@settings(max_examples=500)
@given(data=st.data(), sample=st.sampled_from(SAMPLES))
def test_any_bytes_parse_or_are_refused_by_both_backends_alike(data, sample):
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(0, 5))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    damaged = bytes(damaged[: data.draw(st.integers(0, len(damaged)))]) + data.draw(st.binary(max_size=20))
    assert len({repr(decoded(backend, damaged)) for backend in BACKENDS if backend == "pure" or not has_fast()}) == 1


@pytest.mark.long
@given(data=st.binary(max_size=300))
def test_any_bytes_parse_or_raise_our_own_error(backend, data):
    for start in (b"", START, cf.pcap()):
        try:
            read(start + data)
        except mcast.errors.CaptureError as error:
            assert error.reason
        except mcast.errors.FeatureError as error:  # it looks compressed, in a way that nothing here can undo
            assert "zstd" in str(error)


# ---- the system refuses ----


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="feature /dev/full: this system has none")
def test_a_full_device_is_told_at_the_write_that_fails(backend):
    writer = mcast.files.Writer("/dev/full", form="pcapng")
    with pytest.raises(
        mcast.errors.FileError, match=r"write /dev/full: No space left .*; 0 packets, 0 bytes are in"
    ) as caught:
        writer.write(some(1000))
    assert (caught.value.errno, caught.value.packets, caught.value.bytes) == (errno.ENOSPC, 0, 0)
    with pytest.raises(mcast.errors.FileError):
        writer.write(some(1))
    writer.close()
    assert writer.stats.packets == 0


class Small:
    """A file with space for a number of bytes."""

    name = "small"

    def __init__(self, room):
        self.room = room
        self.data = b""

    def write(self, data):
        taken = bytes(data)[: self.room - len(self.data)]
        self.data += taken
        if not taken:
            raise OSError(errno.ENOSPC, "full")
        return len(taken)

    def flush(self):
        pass


@pytest.mark.long
@pytest.mark.parametrize("room", [0, 1, 100, 1000, 70_000, 100_000, 131_073])
@pytest.mark.parametrize("size", [10, 1400])
@pytest.mark.parametrize("form", ["pcapng", "pcap"])
def test_what_is_counted_is_what_stands_in_the_file(backend, room, size, form):
    file = Small(room)
    writer = mcast.files.Writer(file, form=form)
    batches = 0
    with pytest.raises(mcast.errors.FileError) as caught:
        while batches < 1000:
            writer.write(some(7, size))
            batches += 1
    error = caught.value
    assert (writer.stats.packets, writer.stats.bytes) == (error.packets, error.bytes)
    assert error.bytes <= len(file.data) == room
    assert writer.stats.batches == error.packets // 7 <= batches + 1
    if error.bytes:
        assert len(read(file.data[: error.bytes])) == error.packets


@pytest.mark.parametrize(("count", "size"), [(10, 1000), (200, 1000), (50, 3000)])
def test_a_full_disk_leaves_a_file_that_every_program_reads(backend, tmp_path, count, size):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = tmp_path / "feed.pcapng"
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        with pytest.raises(mcast.errors.FileError, match="ulimit -f") as caught, mcast.files.Writer(path) as writer:
            for _ in range(100):
                writer.write(some(count, size))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.stat().st_size == caught.value.bytes > 90_000
    with mcast.open(path) as reader:
        assert sum(len(batch) for batch in reader) == caught.value.packets


def test_nothing_is_written_behind_half_a_block(backend, tmp_path):
    """Ctrl-C in the middle of a write leaves whole blocks, and a writer that writes no more."""
    path = tmp_path / "feed.pcapng"
    writer = mcast.files.Writer(path)
    write = writer._file.write

    class Interrupted:
        def __getattr__(self, name):
            return getattr(file, name)

        def write(self, data):
            write(data[:1000])
            raise KeyboardInterrupt

    writer.write(some(3))
    writer.flush()
    file, writer._file = writer._file, Interrupted()
    with pytest.raises(KeyboardInterrupt):
        writer.write(some(300))
    with pytest.raises(mcast.errors.FileError, match="interrupted; 3 packets"):
        writer.write(some(1))
    writer.close()
    assert len(read(path.read_bytes())) == writer.stats.packets == 3


def test_an_error_that_is_kept_does_not_keep_the_writer_from_growing(backend):
    with mcast.files.Writer(io.BytesIO()) as writer:
        with pytest.raises(mcast.ArgumentError) as caught:
            writer.write(batch_of((record(b"good"), b"good"), (record(bytes(65_508)), bytes(65_508))))
        assert writer.write(some(500, 1000)) == 500
        assert "packet 1" in str(caught.value)


def test_a_writer_that_is_closed_says_so(backend, no_leak, tmp_path):
    writer = mcast.files.Writer(tmp_path / "a.pcapng")
    writer.close()
    writer.close()
    for call in (lambda: writer.write(some(1)), writer.flush, lambda: writer.statistics(mcast.Stats())):
        with pytest.raises(mcast.ClosedError):
            call()


def test_small_batches_are_gathered_until_flushed(backend, tmp_path):
    path = tmp_path / "feed.pcapng"
    with mcast.files.Writer(path) as writer:
        writer.write(some(3))
        assert (writer.stats.gathered, writer.stats.packets, path.stat().st_size) == (3, 0, 0)
        writer.flush()
        assert (writer.stats.gathered, writer.stats.packets, writer.stats.batches) == (0, 3, 1)
        assert path.stat().st_size == writer.stats.bytes
        with mcast.open(path) as reader:
            assert len(reader.collect(10)) == 3
        writer.sync()


# ---- other programs ----


@pytest.fixture(params=["pcapng", "pcap"])
def recorded(request, backend, tmp_path):
    """A file of ours with both families, and its contents: (time, source, group, ports, payload)."""
    path = tmp_path / f"feed.{request.param}"
    payloads = [os.urandom(size) for size in (0, 1, 2, 3, 7, 8, 9, 255, 1471, 1472, 9000)]
    packets = [(record(one, NOW + 7 * i, v6=bool(i % 2)), one) for i, one in enumerate(payloads * 2)]
    batch = batch_of(*packets)
    with mcast.files.Writer(path) as writer:
        writer.write(batch)
    return path, [
        (one.timestamp, one.source.partition("%")[0], one.group, one.source_port, one.port, one.data) for one in batch
    ]


def run(*command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"program {command[0]}: it is not installed")
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


@pytest.mark.long
def test_tshark_reads_our_file(recorded):
    path, wanted = recorded
    fields = (
        "frame.time_epoch",
        "ip.src",
        "ipv6.src",
        "ip.dst",
        "ipv6.dst",
        "udp.srcport",
        "udp.dstport",
        "udp.payload",
    )
    checks = ("-o", "ip.check_checksum:TRUE", "-o", "udp.check_checksum:TRUE")
    out = run("tshark", "-n", *checks, "-r", path, "-T", "fields", *(part for one in fields for part in ("-e", one)))
    found = []
    for line in out.splitlines():
        time, v4, v6, v4_group, v6_group, source_port, port, payload = line.split("\t")
        seconds, _, fraction = time.partition(".")
        moment = int(seconds) * 10**9 + int(fraction.ljust(9, "0"))
        found.append((moment, v4 or v6, v4_group or v6_group, int(source_port), int(port), bytes.fromhex(payload)))
    assert found == wanted
    bad = 'ip.checksum.status == "Bad" || udp.checksum.status != "Good"'
    assert run("tshark", "-n", *checks, "-r", path, "-Y", bad) == ""


def test_capinfos_counts_our_file(recorded):
    path, wanted = recorded
    out = run("capinfos", "-M", "-c", "-E", "-T", "-m", path).splitlines()[-1]
    assert out.split(",")[-1] == str(len(wanted))
    assert "ether" in out


def test_tcpdump_reads_our_file(recorded):
    path, wanted = recorded
    out = run("tcpdump", "-nn", "-tt", "--nano", "-vv", "-r", path)
    assert out.count(".4000 > ") == len(wanted)
    assert "bad" not in out
    assert out.count("udp sum ok") == len(wanted)
    for time, *_ in wanted[:3]:
        assert f"{time // 10**9}.{time % 10**9:09}" in out


@pytest.mark.filterwarnings("ignore::DeprecationWarning:pcapng")
def test_python_pcapng_reads_our_file(recorded):
    scanner = pytest.importorskip("pcapng").FileScanner
    enhanced = importlib.import_module("pcapng.blocks").EnhancedPacket
    path, wanted = recorded
    if path.suffix == ".pcap":
        pytest.skip("python-pcapng reads pcapng only")
    with path.open("rb") as file:
        found = [one for one in scanner(file) if isinstance(one, enhanced)]
    assert [one.packet_data[len(one.packet_data) - len(row[-1]) :] for one, row in zip(found, wanted, strict=True)] == [
        row[-1] for row in wanted
    ]
    ticks = [(one.timestamp_high << 32) + one.timestamp_low for one in found]
    assert ticks == [row[0] for row in wanted]
    assert {one.interface.options["if_name"] for one in found} == {"eth0"}


def test_spead2_reads_our_file(backend, tmp_path):
    spead2 = pytest.importorskip("spead2")
    recv, send = (importlib.import_module(f"spead2.{module}") for module in ("recv", "send"))
    if not hasattr(recv.Stream, "add_udp_pcap_file_reader"):
        pytest.skip("this spead2 was built without pcap")
    items = spead2.ItemGroup()
    items.add_item(0x1000, "value", "a number", (), format=[("u", 32)], value=0x1234)
    out = send.BytesStream(spead2.ThreadPool())
    out.send_heap(send.HeapGenerator(items).get_heap())
    payload = out.getvalue()
    path = tmp_path / "spead.pcap"
    with mcast.files.Writer(path) as writer:
        writer.write(batch_of((record(payload), payload)))
    stream = recv.Stream(spead2.ThreadPool())
    stream.add_udp_pcap_file_reader(str(path))
    (received,) = list(stream)
    again = spead2.ItemGroup()
    again.update(received)
    assert int(again["value"].value) == 0x1234


@pytest.mark.long
def test_a_truncated_packet_keeps_its_length_on_the_wire(backend, tmp_path):
    path = tmp_path / "cut.pcapng"
    with mcast.files.Writer(path) as writer:
        writer.write(batch_of((record(b"1234", wire=1000), b"1234")))
    assert run("tshark", "-n", "-r", path, "-T", "fields", "-e", "frame.len", "-e", "udp.length") == "1042\t1008\n"


@pytest.mark.needs("receive_ttl")
def test_what_was_received_is_what_is_read(backend, place, tmp_path):
    group, path = place.group(), tmp_path / "live.pcapng"
    payloads = [bytes([i]) * i for i in range(100)]
    with (
        mcast.Receiver(group, recv_ttl=True) as rx,
        mcast.Sender(group, ttl=0) as tx,
        mcast.files.Writer(path) as writer,
    ):
        tx.send_batch(payloads)
        live = rx.collect(100, timeout=5)
        writer.write(live)
        writer.statistics(rx.stats)
    with mcast.open(path, group) as reader:
        back = reader.collect(1000)
    assert back.payloads() == payloads
    for one, other in zip(live, back, strict=True):
        names = ("timestamp", "source", "group", "source_port", "port", "interface", "wire_length", "ttl")
        assert [getattr(one, name) for name in names] == [getattr(other, name) for name in names]
    assert socket.if_nametoindex(place.interface)
