"""Packets of several hosts in the order of (time, host, sequence), however they come in batches."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast import _core
from mcast_fast.cluster._streams import Stream, merged, ordered
from mcast_fast.groups import Group
from tests.test_pcapng import NOW, record
from tests.test_sequence import joined


def batches(times, stream, size):
    rows = []
    for place, time in enumerate(times):
        payload = bytes([stream]) + place.to_bytes(2)
        rows.append((record(payload, NOW + time), payload))
    return [joined(_core.views, rows[at : at + size]) for at in range(0, len(rows), size)]


def told(found):
    return [(one.timestamp - NOW, one.data[0], int.from_bytes(one.data[1:])) for batch in found for one in batch]


# Few times, so that many packets have the same one.
TIMES = st.lists(st.integers(0, 6), max_size=14).map(sorted)


@settings(max_examples=80)
@given(st.lists(TIMES, max_size=4), st.integers(1, 5))
def test_streams_become_one(streams, size):
    found = told(merged([batches(times, at, size) for at, times in enumerate(streams)]))
    assert found == sorted((time, at, place) for at, times in enumerate(streams) for place, time in enumerate(times))


@settings(max_examples=80)
@given(st.lists(st.integers(0, 3), max_size=30), st.integers(1, 5))
def test_what_is_a_little_out_of_order_is_put_in_order(delays, size):
    times = [place + delay for place, delay in enumerate(delays)]
    found = told(ordered(batches(times, 0, size), slack=4))
    assert found == sorted((time, 0, place) for place, time in enumerate(times))


def test_a_stream_is_a_source(backend):
    stream = Stream(batches(range(10), 0, 3), Group("239.1.1.1", 5000))
    assert stream.recv().data == b"\0\0\0"
    assert len(stream.collect(5)) == 5
    assert [len(batch) for batch in stream] == [3, 1]
    assert (stream.stats.received, stream.stats.batches) == (10, 4)
    with pytest.raises(EOFError):
        stream.recv_batch()
    stream.close()
    assert stream.closed
