"""`batches` and `packets`: iterations that end by themselves, and lose nothing."""

import asyncio
import io
import itertools
import os
import threading
import time

import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, ClosedError, aio
from mcast_fast._iteration import Batches, Limits
from tests.conftest import place_of
from tests.test_pcapng import some, written

NUMBERS = [number.to_bytes(2, "big") for number in range(300)]
QUIET = "50ms"


@pytest.fixture(params=[4, pytest.param(6, marks=pytest.mark.long)])
def place(request):
    """IPv6 is marked long: iterations know no families."""
    return place_of(request.param)


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


class Blocking:
    """A Receiver."""

    def __init__(self, group, **options):
        self.rx = mcast.Receiver(group, **options)

    def batches(self, **limits):
        return [batch.payloads() for batch in self.rx.batches(**limits)]

    def packets(self, **limits):
        return [packet.data for packet in self.rx.packets(**limits)]

    def rest(self):
        return self.rx.collect(1000, 0).payloads()

    def close(self):
        self.rx.close()


class Awaited:
    """An aio.Receiver, in a loop of its own."""

    def __init__(self, group, **options):
        self.rx = aio.Receiver(group, **options)
        self.runner = asyncio.Runner()

    def batches(self, **limits):
        async def all_of_them():
            return [batch.payloads() async for batch in self.rx.batches(**limits)]

        return self.runner.run(all_of_them())

    def packets(self, **limits):
        async def all_of_them():
            return [packet.data async for packet in self.rx.packets(**limits)]

        return self.runner.run(all_of_them())

    def rest(self):
        async def collected():
            return (await self.rx.collect(1000, 0)).payloads()

        return self.runner.run(collected())

    def close(self):
        self.rx.close()
        self.runner.close()


@pytest.fixture(params=[Blocking, Awaited])
def opened(request, backend, group):
    made = []

    def open_one(**options):
        made.append(request.param(group, **options))
        return made[-1]

    yield open_one
    for one in made:
        one.close()


def test_batches_end_when_nothing_comes_any_more(opened, tx):
    rx = opened(batch_size=8)
    tx.send_batch(NUMBERS[:20])
    batches = rx.batches(timeout=QUIET)
    assert joined(batches) == NUMBERS[:20]
    assert max(map(len, batches)) <= 8


def test_packets_end_when_nothing_comes_any_more(opened, tx):
    rx = opened()
    tx.send_batch(NUMBERS[:20])
    assert rx.packets(timeout=QUIET) == NUMBERS[:20]


def test_a_time_without_packets_is_the_receivers_where_none_is_given(opened, tx):
    rx = opened(timeout=QUIET)
    tx.send_batch(NUMBERS[:3])
    assert joined(rx.batches()) + rx.packets() == NUMBERS[:3]


@pytest.mark.parametrize("count", [0, 7, 8, 20])
def test_a_count_is_of_packets_and_what_is_beyond_stays(opened, tx, count):
    rx = opened(batch_size=8, timeout=5)
    tx.send_batch(NUMBERS[:20])
    assert joined(rx.batches(count=count)) == NUMBERS[:count]
    assert rx.rest() == NUMBERS[count:20]


@pytest.mark.parametrize("count", [0, 7, 20])
def test_packets_are_counted_and_what_is_beyond_stays(opened, tx, count):
    rx = opened(batch_size=8, timeout=5)
    tx.send_batch(NUMBERS[:20])
    assert rx.packets(count=count) == NUMBERS[:count]
    assert rx.rest() == NUMBERS[count:20]


@pytest.mark.parametrize("kind", ["batches", "packets"])
def test_a_duration_is_over_however_long_one_would_wait(opened, tx, kind):
    rx = opened(timeout=None)
    tx.send(NUMBERS[0])
    before = time.monotonic()
    found = getattr(rx, kind)(duration="60ms", timeout=30)
    assert found == [NUMBERS[0]] if kind == "packets" else [[NUMBERS[0]]]
    assert time.monotonic() - before >= 0.059


@pytest.mark.parametrize("kind", ["batches", "packets"])
def test_a_duration_ends_what_a_stream_would_not(opened, tx, kind):
    """There is always one more packet: each that is taken is followed by another."""
    rx = opened(batch_size=1, timeout=5)
    stop = threading.Event()

    def stream():
        while not stop.wait(0.001):
            tx.send(b"x")

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        assert len(getattr(rx, kind)(duration=0.1)) > 0
    finally:
        stop.set()
        thread.join()


def test_a_duration_of_0_is_over_at_once(opened, tx):
    rx = opened()
    tx.send(NUMBERS[0])
    assert rx.packets(duration=0) == []
    assert rx.rest() == NUMBERS[:1]


@pytest.mark.parametrize("kind", ["batches", "packets"])
def test_a_timeout_of_0_takes_what_is_there(opened, tx, kind):
    rx = opened(batch_size=8)
    tx.send_batch(NUMBERS[:20])
    found = getattr(rx, kind)(timeout=0)
    assert (found if kind == "packets" else joined(found)) == NUMBERS[:20]


@pytest.mark.parametrize("kind", ["batches", "packets"])
def test_a_close_ends_the_iteration(opened, tx, kind):
    rx = opened(timeout=None)
    timer = threading.Timer(0.05, rx.rx.close)
    timer.start()
    assert getattr(rx, kind)() == []
    timer.join()
    assert getattr(rx, kind)() == []


@pytest.mark.parametrize("kind", ["batches", "packets"])
@pytest.mark.parametrize(
    ("limits", "named"),
    [
        ({"timeout": -1}, "timeout"),
        ({"timeout": "3 weeks"}, "timeout"),
        ({"duration": -1}, "duration"),
        ({"duration": True}, "duration"),
        ({"duration": ""}, "duration"),
        ({"count": -1}, "count"),
        ({"count": 1.0}, "count"),
        ({"count": True}, "count"),
    ],
)
def test_limits_that_are_none_are_refused_at_once(backend, group, kind, limits, named):
    with mcast.Receiver(group) as rx, mcast.files.Reader(io.BytesIO(written(some(1)))) as reader:
        for source in (rx, reader):
            with pytest.raises(ArgumentError, match=named):
                getattr(source, kind)(**limits)


def test_what_is_over_stays_over(backend, group, tx):
    with mcast.Receiver(group) as rx:
        for packets in (rx.packets(timeout=0), rx.batches(timeout=0), rx.packets(count=0), rx.batches(duration=0)):
            assert list(packets) == []
            tx.send(NUMBERS[0])
            assert list(packets) == []
            assert rx.recv(5).data == NUMBERS[0]


def test_a_loop_that_is_left_loses_nothing(backend, group, tx):
    with mcast.Receiver(group, timeout=5) as rx:
        tx.send_batch(NUMBERS[:20])
        for packet in rx.packets():
            if packet.data == NUMBERS[4]:
                break
        assert rx.collect(100, 0.1).payloads() == NUMBERS[5:20]


@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize("kind", ["batches", "packets"])
def test_in_a_forked_child_an_iteration_raises(backend, group, kind):
    with mcast.Receiver(group) as rx:
        iteration = getattr(rx, kind)(timeout=0)
        child = os.fork()
        if child == 0:
            try:
                next(iteration, None)
            except ClosedError as error:
                os._exit(0 if "another process" in str(error) else 2)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


# ---- files ----


@pytest.mark.parametrize("kind", ["batches", "packets"])
@pytest.mark.parametrize("count", [None, 0, 1, 5, 20, 21])
def test_of_a_file(backend, kind, count):
    with mcast.files.Reader(io.BytesIO(written(some(20))), batch_size=8) as reader:
        found = list(getattr(reader, kind)(count=count, timeout=1))
        payloads = [packet.data for packet in found] if kind == "packets" else joined(b.payloads() for b in found)
        rest = reader.collect(100).payloads()
    with mcast.files.Reader(io.BytesIO(written(some(20)))) as reader:
        whole = reader.collect(100).payloads()
    assert payloads == whole[:count]
    assert rest == whole[len(payloads) :]


@pytest.mark.parametrize("kind", ["batches", "packets"])
def test_of_a_file_that_is_closed_or_takes_too_long(backend, kind):
    with mcast.files.Reader(io.BytesIO(written(some(20))), batch_size=8) as reader:
        assert list(getattr(reader, kind)(duration=0)) == []
        iteration = getattr(reader, kind)()
        next(iteration)
    assert list(iteration) == []


# ---- what a signal handler raises ----


@pytest.mark.parametrize("error", [KeyboardInterrupt, TimeoutError, ClosedError])
def test_what_was_received_when_a_handler_raised_is_given_back(error):
    class Interrupted(list):
        def __len__(self):
            raise error

    given_back = []
    batch = Interrupted()
    limits = Limits(-1, None, 5)
    iteration = Batches(lambda most, wait: batch, given_back.append, lambda: 3, limits, lambda: None)
    with pytest.raises(error):
        next(iteration)
    assert given_back == [batch]
    assert given_back[0] is batch
    assert limits.left == 5
