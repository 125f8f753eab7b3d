"""A batch owns its memory: what a user keeps of it stays as it came, forever, and nobody can write to it."""

import datetime
import gc

import numpy as np
import pytest

import mcast_fast as mcast
from mcast_fast import _core
from mcast_fast._core.layout import FIELDS, RECORD, V4_MAPPED

PAYLOADS = [b"", b"a", b"bc" * 700, bytes(range(256)), b"last"]


def record(offset, length, time=0):
    """A record of which only this matters."""
    address = V4_MAPPED + bytes([10, 0, 0, 1])
    return RECORD.pack(time, offset, 1, 0, length, length, address, address, 1, 2, 0, 0, 0)


def batch_of(payloads):
    """A batch of these payloads, numbered by their times, that no network took part in."""
    records, data = [], b""
    for number, payload in enumerate(payloads):
        records.append(record(len(data), len(payload), number))
        data += payload
    return _core.views.Batch.from_bytes(b"".join(records), data, {})


@pytest.fixture
def batch(backend):
    return batch_of(PAYLOADS)


@pytest.fixture
def received(backend, place):
    """A batch that was really received."""
    group = place.group()
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=0) as tx:
        tx.send_batch(PAYLOADS)
        return rx.collect(len(PAYLOADS), timeout=5)


def test_the_bytes_of_all_payloads(received):
    assert received.payload_bytes == sum(map(len, PAYLOADS))
    assert received[1:3].payload_bytes == len(PAYLOADS[1]) + len(PAYLOADS[2])
    assert received[:0].payload_bytes == 0


# ---- several batches in one ----


def test_batches_put_together_are_one_with_copies_of_all(received):
    parts = [received[3:], received[1:3], received[:0], received]
    whole = _core.views.Batch.concatenate(parts)
    assert whole.payloads() == [payload for part in parts for payload in part.payloads()]
    assert bytes(whole.data) == b"".join(whole.payloads())
    assert [packet.interface for packet in whole] == [packet.interface for part in parts for packet in part]
    kept = np.concatenate([np.asarray(part) for part in parts])
    assert all((np.asarray(whole)[name] == kept[name]).all() for name in kept.dtype.names if name != "offset")


@pytest.mark.parametrize("parts", [[], [b""]])
def test_nothing_put_together_is_an_empty_batch(backend, parts):
    assert len(_core.views.Batch.concatenate([batch_of([]) for _ in parts])) == 0


def test_more_than_an_arena_can_hold_is_refused(backend):
    large = batch_of([bytes(65_535)])
    with pytest.raises(ValueError, match="more than an arena"):
        _core.views.Batch.concatenate([large] * 65_539)


def test_only_batches_can_be_put_together(batch):
    with pytest.raises(TypeError, match="only batches"):
        _core.views.Batch.concatenate([batch, None])


# ---- what is unknown ----


def packet_of(time=0, interface=0, length=0, wire=0, flags=0):
    address = V4_MAPPED + bytes([10, 0, 0, 1])
    whole = RECORD.pack(time, 0, interface, 0, length, wire, address, address, 1, 2, flags, 9, 8)
    return _core.views.Batch.from_bytes(whole, bytes(length), {1: "eth0", 2: ""})[0]


def test_what_is_unknown_is_none(backend):
    packet = packet_of(length=3)
    assert (packet.timestamp, packet.datetime, packet.interface, packet.interface_index) == (None,) * 4
    assert (packet.wire_length, packet.ttl, packet.tos, packet.dropped) == (None, None, None, 0)
    assert "on ?, 3 bytes" in repr(packet)
    assert packet == packet.copy()
    assert packet.source_address == ("10.0.0.1", 1)


def test_what_is_known_is_not_none(backend):
    packet = packet_of(5, 1, 3, 4, mcast.Flag.TTL | mcast.Flag.TOS | mcast.Flag.TRUNCATED)
    assert (packet.timestamp, packet.interface, packet.interface_index) == (5, "eth0", 1)
    assert (packet.wire_length, packet.ttl, packet.tos) == (4, 9, 8)


def test_an_interface_without_a_name_has_an_index(backend):
    packet = packet_of(interface=2)
    assert (packet.interface, packet.interface_index) == (None, 2)


def test_the_length_of_an_empty_payload_is_known(backend):
    assert packet_of().wire_length == 0
    assert packet_of(flags=mcast.Flag.TRUNCATED).wire_length is None


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (1, "1970-01-01T00:00:00+00:00"),
        (1_700_000_000_123_456_789, "2023-11-14T22:13:20.123456+00:00"),
        (1_700_000_000_999_999_999, "2023-11-14T22:13:20.999999+00:00"),
        (-1, "1969-12-31T23:59:59.999999+00:00"),
        (2**63 - 1, "2262-04-11T23:47:16.854775+00:00"),
        (-(2**63), "1677-09-21T00:12:43.145224+00:00"),
    ],
)
def test_the_time_of_arrival_as_a_datetime(backend, time, text):
    packet = packet_of(time)
    assert packet.datetime.isoformat() == text
    assert packet.datetime.utcoffset() == datetime.timedelta(0)
    assert packet.timestamp == time


# ---- a sequence of packets ----


def test_a_batch_holds_what_was_sent_in_order(received):
    assert received.payloads() == PAYLOADS
    assert [packet.data for packet in received] == PAYLOADS
    assert [bytes(packet.view) for packet in received] == PAYLOADS


def test_the_arena_holds_the_used_bytes_and_no_more(received):
    assert bytes(received.data) == b"".join(PAYLOADS)


def test_offset_and_length_of_a_record_point_at_its_payload(received):
    rows = np.asarray(received)
    assert [bytes(received.data[row["offset"] : row["offset"] + row["length"]]) for row in rows] == PAYLOADS
    assert rows["offset"].tolist() == np.cumsum([0, *map(len, PAYLOADS[:-1])]).tolist()


@pytest.mark.parametrize("index", range(-len(PAYLOADS), len(PAYLOADS)))
def test_an_index_counts_from_either_end(batch, index):
    assert batch[index].data == PAYLOADS[index]
    assert batch[np.int64(index)].data == PAYLOADS[index]


@pytest.mark.parametrize("index", [len(PAYLOADS), -len(PAYLOADS) - 1, 10**6, 2**70, -(2**70)])
def test_an_index_beyond_the_end_is_an_index_error(batch, index):
    with pytest.raises(IndexError):
        batch[index]


@pytest.mark.parametrize("index", ["0", None, 1.0, (0, 1)])
def test_what_is_no_index_is_a_type_error(batch, index):
    with pytest.raises(TypeError):
        batch[index]


ENDS = [None, -9, -5, -3, -1, 0, 1, 2, 4, 5, 9, 2**70]


@pytest.mark.parametrize("start", ENDS)
@pytest.mark.parametrize("stop", ENDS)
def test_a_slice_is_a_batch_of_what_a_list_would_give(batch, start, stop):
    part = batch[start:stop]
    assert isinstance(part, _core.views.Batch)
    assert part.payloads() == PAYLOADS[start:stop]
    assert len(part) == len(PAYLOADS[start:stop])
    assert [packet.data for packet in part] == PAYLOADS[start:stop]
    assert np.asarray(part)["timestamp"].tolist() == list(range(len(PAYLOADS)))[start:stop]


@pytest.mark.parametrize("first", [slice(1, 4), slice(0, 5), slice(3, 3), slice(-2, None)])
@pytest.mark.parametrize("second", [slice(0, 2), slice(1, None), slice(-1, None), slice(5, 9)])
def test_a_slice_of_a_slice_is_what_a_list_would_give(batch, first, second):
    part = batch[first][second]
    assert part.payloads() == PAYLOADS[first][second]
    assert bytes(part.records) == b"".join(bytes(batch.records)[64 * i : 64 * i + 64] for i in range(5)[first][second])
    with pytest.raises(IndexError):
        part[len(part)]


def test_a_slice_shares_the_memory(batch):
    part = batch[1:4][1:]
    assert np.shares_memory(np.asarray(part), np.asarray(batch))
    assert np.shares_memory(np.asarray(part.data), np.asarray(batch.data))


def test_a_slice_with_steps_is_refused_with_the_remedy(batch):
    with pytest.raises(ValueError, match=r"np\.asarray"):
        batch[::2]


def test_each_iteration_starts_anew(batch):
    first, second = iter(batch), iter(batch)
    assert next(first).data == next(second).data == PAYLOADS[0]
    assert len(list(first)) == len(PAYLOADS) - 1
    assert len(list(batch)) == len(PAYLOADS)
    with pytest.raises(StopIteration):
        next(first)


def test_a_batch_shows_how_much_it_holds(batch):
    assert repr(batch) == "<Batch of 5 packets>"


# ---- zero packets ----


def empty_batches():
    batch = batch_of(PAYLOADS)
    return [batch_of([]), batch[2:2], batch[5:], batch[4:1], batch[2:2][0:]]


def test_a_batch_of_zero_packets_is_an_empty_sequence(backend):
    for empty in empty_batches():
        assert (len(empty), list(empty), empty.payloads(), empty[:].payloads()) == (0, [], [], [])
        assert not empty
        with pytest.raises(IndexError):
            empty[0]
        with pytest.raises(IndexError):
            empty[-1]


def test_a_batch_of_zero_packets_has_empty_columns(backend):
    for empty in empty_batches():
        assert empty.records.shape == (0,)
        assert empty.records.nbytes == 0
        assert np.asarray(empty).shape == (0,)
        assert np.asarray(empty).dtype.names == tuple(field.name for field in FIELDS)


def test_a_collect_without_traffic_is_a_batch_of_zero_packets(backend, place):
    with mcast.Receiver(place.group()) as rx:
        empty = rx.collect(10, timeout=0)
    assert (len(empty), bytes(empty.data), np.asarray(empty).shape) == (0, b"", (0,))


def test_empty_payloads_only_need_no_arena(backend):
    batch = batch_of([b""] * 3)
    assert batch.payloads() == [b""] * 3
    assert bytes(batch.data) == b""
    assert bytes(batch[1].view) == b""


# ---- columns ----


def test_both_ways_to_numpy_give_the_same_array(received):
    short, long = np.asarray(received), np.asarray(received.records)
    assert short.dtype.names == long.dtype.names == tuple(field.name for field in FIELDS)
    assert short.shape == long.shape == (len(PAYLOADS),)
    for name in short.dtype.names:
        assert short.dtype[name] == long.dtype[name]
        assert short.dtype.fields[name][1] == long.dtype.fields[name][1]
        assert np.array_equal(short[name], long[name])


def test_numpy_copies_nothing(received):
    first, second, third = np.asarray(received), np.asarray(received), np.asarray(received.records)
    pointers = {array.__array_interface__["data"][0] for array in (first, second, third)}
    assert len(pointers) == 1
    assert np.shares_memory(first, third)


@pytest.mark.needs("kernel_timestamps")
def test_numpy_makes_a_copy_of_its_own_when_asked(received):
    copy = np.array(received)
    assert not np.shares_memory(copy, np.asarray(received))
    copy["timestamp"] = 0
    assert np.asarray(received)["timestamp"].all()


def test_columns_can_be_selected_like_any_array(received):
    rows = np.asarray(received)
    assert rows[rows["length"] > 1]["wire_length"].tolist() == [len(one) for one in PAYLOADS if len(one) > 1]


# ---- read-only ----


def test_nothing_of_a_batch_can_be_written(received):
    for part in (received, received[1:4]):
        for view in (part.records, part.data, part[0].view):
            assert view.readonly
            assert memoryview(view).readonly
        for array in (np.asarray(part), np.asarray(part.records), np.asarray(part.data), np.asarray(part[0].view)):
            assert not array.flags.writeable
            with pytest.raises(ValueError, match="WRITEABLE"):
                array.flags.writeable = True


def test_a_write_through_a_view_is_refused(received):
    with pytest.raises(TypeError):
        received.data[0] = 1
    with pytest.raises(TypeError):
        received[1].view[0:1] = b"x"
    with pytest.raises(ValueError, match="read-only"):
        np.asarray(received)["timestamp"] = 0


@pytest.mark.parametrize("name", ["data", "source", "timestamp", "view", "anything"])
def test_a_packet_cannot_be_changed(batch, name):
    with pytest.raises(AttributeError):
        setattr(batch[0], name, 1)


def test_a_batch_cannot_be_changed(batch):
    for name in ("data", "records", "anything"):
        with pytest.raises(AttributeError):
            setattr(batch, name, 1)
    with pytest.raises(TypeError):
        batch[0] = batch[1]


# ---- kept for later ----


@pytest.mark.long
@pytest.mark.parametrize(
    "keep",
    [
        lambda batch: batch[2].view,
        lambda batch: batch.data[1 : 1 + len(PAYLOADS[2])],
        lambda batch: batch[1:4][1:2][0].view,
        lambda batch: np.asarray(batch.data)[1 : 1 + len(PAYLOADS[2])],
        lambda batch: next(iter(batch[2:])),
    ],
)
def test_what_was_taken_from_a_batch_outlives_it_and_its_receiver(backend, place, keep):
    group = place.group()
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=0) as tx:
        tx.send_batch(PAYLOADS)
        kept = keep(rx.collect(len(PAYLOADS), timeout=5))
        gc.collect()
        for _ in range(20):  # the freed memory is used again
            tx.send_batch([b"\xff" * 1400] * 5)
            rx.collect(5, timeout=5)
    del rx
    gc.collect()
    assert bytes(kept) == PAYLOADS[2]


def test_columns_outlive_batch_and_receiver(backend, place):
    group = place.group()
    with mcast.Receiver(group) as rx, mcast.Sender(group, ttl=0) as tx:
        tx.send_batch(PAYLOADS)
        batch = rx.collect(len(PAYLOADS), timeout=5)
        rows, structured = np.asarray(batch), np.asarray(batch.records)
        times, lengths = rows["timestamp"], structured[1:]["length"]
        wanted = times.tolist()
        del batch, rows, structured
        gc.collect()
        for _ in range(20):
            tx.send_batch([b"\xff" * 1400] * 5)
            rx.collect(5, timeout=5)
    assert times.tolist() == wanted
    assert lengths.tolist() == [len(one) for one in PAYLOADS[1:]]


@pytest.mark.long
def test_ten_thousand_kept_batches_stay_as_they_came(backend, place):
    """A receive buffer reused under the caller's feet is what users of such libraries regret most."""
    group, count, chunk = place.group(), 10_000, 100
    kept, seen = [], []
    with mcast.Receiver(group, timeout=5) as rx, mcast.Sender(group, ttl=0) as tx:
        for start in range(0, count, chunk):
            tx.send_batch([number.to_bytes(4, "big") * (1 + number % 50) for number in range(start, start + chunk)])
            for _ in range(chunk):
                batch = rx.recv_batch(1)
                rx_time = batch[0].timestamp
                seen.append((batch[0].data, rx_time))
                kept.append(batch)
            del kept[-2]  # so that memory goes back and is used again
            del seen[-2]
    assert len(kept) == count - count // chunk
    assert [(batch[0].data, batch[0].timestamp) for batch in kept] == seen
    assert [int(np.asarray(batch)["timestamp"][0]) for batch in kept[:500]] == [time for _, time in seen[:500]]
    numbers = [int.from_bytes(batch.payloads()[0][:4], "big") for batch in kept]
    assert numbers == [number for number in range(count) if number % chunk != chunk - 2]
    assert all(
        data == number.to_bytes(4, "big") * (1 + number % 50) for number, (data, _) in zip(numbers, seen, strict=True)
    )
