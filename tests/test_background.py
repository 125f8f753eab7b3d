"""Receiving in a thread of its own: what Python is too busy for waits in memory, in order, and is counted when it is full."""

import contextlib
import gc
import os
import select
import threading
import time
import warnings

import numpy as np
import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, ClosedError, FeatureError
from tests import lab
from tests.conftest import interrupt_main


@pytest.fixture
def group(backend, place):
    if not (have := mcast.features()["background"]):
        pytest.skip(f"feature background: {have.reason}")
    return place.group()


@pytest.fixture
def tx(group):
    with mcast.Sender(group, ttl=0) as sender:
        yield sender


@pytest.fixture
def rx(group, tx):
    with mcast.Receiver(group, timeout=5, background=True) as receiver:
        yield receiver


def numbered(count, start=0):
    return [number.to_bytes(4, "big") for number in range(start, start + count)]


def until(condition, seconds=5.0):
    """Waits for what another thread does; there is no event for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def test_without_the_feature_it_is_an_error_with_the_reason(backend, place, no_leak):
    if mcast.features()["background"]:
        pytest.skip("feature background: it is there")
    with pytest.raises(FeatureError, match=r"background=True: .*features"):
        mcast.Receiver(place.group(), background=True)


@pytest.mark.needs("large buffers")
def test_packets_come_once_and_in_order_by_every_call(rx, tx):
    tx.send_batch(numbered(1000))
    received = [rx.recv().data, rx.recv().data, *rx.recv_batch(3).payloads(), *rx.collect(500).payloads()]
    for batch in rx:
        assert 1 <= len(batch) <= 256
        received += batch.payloads()
        if len(received) == 1000:
            break
    assert received == numbered(1000)
    with pytest.raises(TimeoutError):
        rx.recv(timeout=0)


@pytest.mark.needs("large buffers")
@pytest.mark.parametrize("step", [1, 7, 100])
def test_packets_that_come_one_by_one_are_put_together_while_nobody_takes_them(rx, tx, step):
    for start in range(0, 700, step):
        tx.send_batch(numbered(min(step, 700 - start), start))
    until(lambda: rx.stats.received == 700)
    batches = [rx.recv_batch() for _ in range(2)]
    rest = rx.collect(700 - sum(map(len, batches)))
    assert [payload for batch in (*batches, rest) for payload in batch.payloads()] == numbered(700)
    assert sum(map(len, batches)) > 256  # else they would have been one
    for batch in batches:
        assert bytes(batch.data) == b"".join(batch.payloads())
        assert np.asarray(batch)["offset"].tolist() == [4 * number for number in range(len(batch))]


def test_the_socket_is_drained_while_nobody_receives(group, tx):
    with mcast.Receiver(group, timeout=5, background=True, buffer_size="64KiB") as rx:
        for start in range(0, 20_000, 50):
            tx.send_batch(numbered(50, start))
            until(lambda sent=start + 50: rx.stats.received == sent)
        assert not rx.stats.dropped  # None where the system counts none
        assert rx.collect(20_000).payloads() == numbered(20_000)


def test_what_does_not_fit_is_counted_and_its_place_reported(group, tx):
    with mcast.Receiver(group, timeout=5, background="64KiB", timestamps=None, gro=False) as rx:
        total = 0
        while rx.stats.dropped_background == 0:
            tx.send_batch(numbered(50, total))
            total += 50
            until(lambda sent=total: rx.stats.received + rx.stats.dropped_background == sent)
        first = rx.collect(rx.stats.received)
        tx.send_batch(numbered(10, total))
        second = rx.collect(10)
        stats = rx.stats
        assert stats.received == len(first) + 10
        assert stats.received + stats.dropped_background == total + 10
        assert stats.bytes == 4 * stats.received
        assert stats.buffers == stats.received, "what was dropped here was handed over in vain"
        before = -1
        for packet in first:  # what was dropped may lie between packets that still had space
            number = int.from_bytes(packet.data, "big")
            assert number - before - 1 == packet.dropped
            before = number
        assert second.payloads() == numbered(10, total)
        assert [packet.dropped for packet in second][1:] == [0] * 9
        assert sum(packet.dropped for packet in (*first, second[0])) == stats.dropped_background


def test_after_leave_nothing_that_waits_is_delivered(rx, tx, group):
    tx.send_batch(numbered(100))
    until(lambda: rx.stats.received == 100)
    assert rx.recv().data == numbered(1)[0]
    rx.leave(group)
    with pytest.raises(TimeoutError):
        rx.recv(timeout=0.02)
    assert (rx.stats.received, rx.stats.filtered) == (1, 99)
    rx.join(group)
    tx.send(b"again")
    assert rx.recv().data == b"again"


@pytest.mark.needs("descriptor")
def test_the_descriptor_tells_whether_a_receive_would_wait(rx, tx):
    def readable(seconds):
        return bool(select.select([rx], [], [], seconds)[0])

    assert not readable(0)
    assert not rx.wait(0)
    tx.send_batch(numbered(3))
    assert readable(5)
    until(lambda: rx.stats.received == 3)
    rx.recv()
    assert readable(0)
    assert rx.wait(0)
    rx.collect(2)
    assert not readable(0)


def test_a_close_wakes_every_thread(group):
    rx = mcast.Receiver(group, background=True)
    ended = []

    def receive(call):
        with contextlib.suppress(ClosedError):
            call()
        ended.append(call)

    calls = [rx.recv, rx.recv_batch, rx.wait, lambda: rx.collect(10)]
    threads = [threading.Thread(target=receive, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    rx.close()
    for thread in threads:
        thread.join(5)
    assert len(ended) == len(calls)


@pytest.mark.needs("named threads")
def test_it_opens_and_closes_without_a_trace(group, no_leak):
    before = {task.name for task in os.scandir("/proc/self/task")}
    for _ in range(20):
        mcast.Receiver(group, background=True).close()
    rx = mcast.Receiver(group, background=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # that nobody closed the sockets
        del rx  # the thread ends with it
        gc.collect()
    until(lambda: {task.name for task in os.scandir("/proc/self/task")} <= before)


def test_ctrl_c_goes_to_python(rx):
    timer = threading.Timer(0.1, interrupt_main)
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        rx.recv(timeout=5)
    timer.join()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"background": "many"}, "background"),
        ({"background": 0}, "background"),
        ({"background": True, "background_cpu": 10_000}, "background_cpu 10000"),
        ({"background_cpu": 0}, "needs background"),
    ],
)
def test_wrong_arguments_are_refused(group, no_leak, options, told):
    with pytest.raises(ArgumentError, match=told):
        mcast.Receiver(group, **options)


@pytest.mark.needs("background_cpu", "named threads")
def test_the_thread_runs_where_it_is_told(group):
    cpu = max(os.sched_getaffinity(0))
    before = {task.name for task in os.scandir("/proc/self/task")}
    with mcast.Receiver(group, background=True, background_cpu=cpu):
        (thread,) = {task.name for task in os.scandir("/proc/self/task")} - before
        until(lambda: os.sched_getaffinity(int(thread)) == {cpu})


@pytest.mark.needs("batched_receive")
@pytest.mark.lab
@pytest.mark.needs("a fast machine")
def test_nothing_is_lost_while_the_consumer_sleeps(backend):
    """2 s at 25,000 packets per second: ten times what the socket's buffer holds, which lasts for 0.2 s should the machine stop the thread."""
    if not (have := mcast.features()["background"]):
        pytest.skip(f"feature background: {have.reason}")
    with lab.Lab() as made:
        assert packets_lost_while_asleep(*made.link("a", "b")) == 0


def packets_lost_while_asleep(sending: lab.End, receiving: lab.End) -> int:
    """One stream; what does arrive arrives once and in order, and what does not is counted."""
    with receiving.host.enter():
        rx = mcast.Receiver(f"239.1.1.1%{receiving.interface}:5000", background=True, timeout=5)
    with sending.host.enter():
        tx = mcast.Sender(f"239.1.1.1%{sending.interface}:5000", rate="25k/s")
    with rx, tx:
        rows = np.zeros((62_500, 256), np.uint8)
        rows[:, :4].view(np.uint32)[:, 0] = np.arange(62_500)
        thread = threading.Thread(target=tx.send_batch, args=(rows,))
        thread.start()
        rx.recv()
        time.sleep(2)
        batch = rx.collect(62_499)
        thread.join()
        found = np.frombuffer(batch.data, np.uint8).reshape(-1, 256)[:, :4].copy().view(np.uint32)[:, 0]
        lost = 62_499 - len(batch)
        assert (np.diff(found.astype(np.int64)) > 0).all()
        assert rx.stats.dropped in (None, lost)  # None where the system does not tell
        return lost


@pytest.mark.needs("drop_totals")
@pytest.mark.lab
def test_what_was_sent_is_received_or_dropped_here_or_there(backend):
    """Both the socket and the memory of the thread overflow; single packets, counted by the receiver's firewall."""
    if not (have := mcast.features()["background"]):
        pytest.skip(f"feature background: {have.reason}")
    with lab.Lab() as made:
        sending, receiving = made.link("a", "b")
        sending.single_packets()
        arrived = receiving.count("239.1.1.1", 5000, hook="ingress")
        with receiving.host.enter():
            rx = mcast.Receiver(
                f"239.1.1.1%{receiving.interface}:5000", background="8MiB", buffer_size="64KiB", timeout=5
            )
        with sending.host.enter():
            tx = mcast.Sender(f"239.1.1.1%{sending.interface}:5000")
        with rx, tx:
            sent = tx.send_batch(bytes(256 * 200_000), size=256)
            until(lambda: arrived.packets == sent)
            batch = rx.collect(sent, timeout=0.5)
            tx.send(b"the last")  # tells what was dropped before it
            last = rx.recv()
            stats = rx.stats
        assert stats.dropped_background > 0
        assert stats.received == len(batch) + 1
        assert stats.received + stats.filtered + stats.dropped_socket + stats.dropped_background == sent + 1
        assert stats.dropped == stats.dropped_socket + stats.dropped_background
        assert sum(packet.dropped for packet in batch) + last.dropped == stats.dropped
