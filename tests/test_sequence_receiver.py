"""`sequence=` of receivers and readers: the same figures live, from a ring, in the background, awaited, and of a file of it."""

import asyncio
import io
import os
import struct

import pytest

import mcast_fast as mcast
from mcast_fast import aio, errors, files, sequence
from tests.conftest import Place, loopback, until

FORMAT = "u32be@0"
LOST = (7, 8, 9, 500, 998)
NUMBERS = [number for number in range(1, 1_000) if number not in LOST]
COUNT = len(NUMBERS)
ANSWERS = ("received", "expected", "lost", "pending", "duplicates", "reordered", "late", "burst", "first", "last")
RIGHT = (len(NUMBERS), 999, 0, len(LOST), 0, 0, 0, 0, 1, 999)
LATER = (len(NUMBERS), 999, len(LOST), 0, 0, 0, 0, 3, 1, 999)


def on_loopback():
    return Place(4, loopback())


def patient():
    """A tracker for which nothing is lost as long as a test takes."""
    return sequence.Tracker(FORMAT, window="10min")


def answers(flow):
    return tuple(getattr(flow, name) for name in ANSWERS)


def payloads(numbers=NUMBERS):
    return [struct.pack(">I", number) for number in numbers]


def sender(group):
    return mcast.Sender(group, ttl=0, rate="200k/s")


def received(rx, count=COUNT):
    came = 0
    while came < count:
        came += len(rx.recv_batch())
    return came


@pytest.mark.needs("large buffers")
@pytest.mark.parametrize("more", [{}, {"background": True}, {"gro": True}], ids=["plain", "background", "coalesced"])
def test_a_receiver_knows_what_is_missing(backend, place, more):
    features = mcast.features()
    needed = {"background": "background", "gro": "receive_coalescing"}
    for name in more:
        if not features[needed[name]]:
            pytest.skip(f"feature {needed[name]}: {features[needed[name]].reason}")
    group = place.group()
    with mcast.Receiver(group, sequence=patient(), timeout=5, **more) as rx, sender(group) as tx:
        assert (rx.stats.flows, rx.stats.lost) == ((), 0)
        tx.send_batch(payloads())
        received(rx)
        (flow,) = rx.stats.flows
        assert answers(flow) == RIGHT
        assert (flow.port, flow.source_port, flow.state) == (rx.memberships[0].port, None, "receiving")
        assert flow.group == rx.memberships[0].group


@pytest.mark.needs("large buffers", "kernel_timestamps")
def test_what_is_missing_is_lost_when_the_window_has_passed_by_the_clock(backend, place):
    group = place.group()
    with mcast.Receiver(group, sequence=sequence.Tracker(FORMAT, window="10ms"), timeout=5) as rx, sender(group) as tx:
        tx.send_batch(payloads())
        received(rx)
        assert until(lambda: rx.stats.lost == len(LOST))
        assert answers(rx.stats.flows[0]) == LATER
    final = rx.stats
    assert (answers(final.flows[0]), final.lost) == (LATER, len(LOST))
    assert rx.stats.flows == final.flows


@pytest.mark.needs("ring", "large buffers")
def test_a_ring_knows_what_is_missing(backend):
    group = on_loopback().group()  # elsewhere it does not get what this host sends
    with mcast.Receiver(group, sequence=patient(), timeout=5, ring="8MiB") as rx, sender(group) as tx:
        tx.send_batch(payloads())
        received(rx)
        assert answers(rx.stats.flows[0]) == RIGHT


@pytest.mark.needs("large buffers")
def test_what_is_given_back_or_left_unread_counts_once(backend, place):
    group = place.group()
    with mcast.Receiver(group, sequence=patient(), timeout=5) as rx, sender(group) as tx:
        tx.send_batch(payloads())
        for _ in range(5):
            rx.recv()
        first = rx.recv_batch(10)
        rx.give_back([first])
        assert len(rx.collect(len(NUMBERS) - 5)) == len(NUMBERS) - 5
        assert answers(rx.stats.flows[0]) == RIGHT


@pytest.mark.needs("large buffers")
def test_a_file_has_the_same_figures(backend, place):
    group, file = place.group(), io.BytesIO()
    with mcast.Receiver(group, sequence=patient(), timeout=5) as rx, sender(group) as tx, files.Writer(file) as writer:
        tx.send_batch(payloads())
        came = 0
        while came < len(NUMBERS):
            batch = rx.recv_batch()
            came += len(batch)
            writer.write(batch)
        (live,) = rx.stats.flows
    for step in (1, 100, 5_000):
        file.seek(0)
        with mcast.open(file, sequence=patient()) as reader:
            while len(reader.collect(step)):
                pass
            (flow,) = reader.stats.flows
            assert flow == live
            assert answers(flow) == RIGHT
            assert reader.stats.lost == 0


@pytest.mark.needs("large buffers")
def test_awaited(backend, place):
    group = place.group()

    async def main():
        async with aio.Receiver(group, sequence=patient(), timeout=5) as rx:
            with sender(group) as tx:
                tx.send_batch(payloads())
            came = 0
            while came < len(NUMBERS):
                came += len(await rx.recv_batch())
            return rx.stats.flows

    (flow,) = asyncio.run(main())
    assert answers(flow) == RIGHT


def test_a_tracker_of_ones_own(backend):
    group, tracker = on_loopback().group(), sequence.Tracker(FORMAT, window="10ms")
    with mcast.Receiver(group, sequence=tracker, timeout=5) as rx, sender(group) as tx:
        tx.send(payloads([1])[0])
        tx.send(payloads([3])[0])
        received(rx, 2)
        assert tracker.flows[0].pending == 1
        before = rx.stats
        tx.send(payloads([4])[0])
        received(rx, 1)
        (since,) = (rx.stats - before).flows
        assert (since.received, since.expected, since.last) == (1, 1, 4)


def test_what_does_not_go_together(backend):
    group = on_loopback().group()
    with pytest.raises(errors.ArgumentError, match="times of arrival"):
        mcast.Receiver(group, sequence="rtp", timestamps=None)
    with pytest.raises(errors.ArgumentError, match="is not a format"):
        mcast.Receiver(group, sequence="rtq")
    with mcast.Receiver(group) as rx:
        assert (rx.stats.flows, rx.stats.lost) == ((), None)


@pytest.mark.needs("signals to processes")
def test_a_forked_child_does_not_ask_the_tracker(backend):
    tracker = sequence.Tracker("rtp")
    child = os.fork()
    if child == 0:
        try:
            tracker.flows  # noqa: B018
        except errors.ClosedError:
            os._exit(7)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert tracker.flows == ()
