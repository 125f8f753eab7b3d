"""Receiver: opening whole or not at all, receiving in every way there is, and nothing that was not asked for."""

import contextlib
import errno
import gc
import itertools
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

import mcast_fast as mcast
from mcast_fast import (
    ArgumentError,
    ClosedError,
    FeatureError,
    GroupError,
    InterfaceError,
    MulticastError,
    MulticastWarning,
    SocketError,
)
from mcast_fast._core.layout import FIELDS
from tests.conftest import free_port, interrupt_main, loopback, place_of

LARGEST = {4: 65_507, 6: 65_527}


def test_the_seed(backend, place):
    """The first thing that must work: a listener that answers, and a client that waits for the answer."""
    text = seed_group(place)
    with mcast.Receiver(text, timeout=5) as listener, mcast.Sender(text, ttl=0, timeout=5) as client:

        def answer():
            question = listener.recv()
            listener.reply(question, b"pong to " + question.data)

        thread = threading.Thread(target=answer)
        thread.start()
        client.send(b"ping")
        reply = client.recv()
        thread.join()
    assert reply.data == b"pong to ping"
    assert reply.source_port == 7645


@contextlib.contextmanager
def later(call, *arguments):
    """Another thread makes a call while the block waits; it has ended after the block: who is inside a sender closes its sockets, not close()."""
    thread = threading.Timer(0.03, call, arguments)
    thread.start()
    try:
        yield
    finally:
        thread.join()


def seed_group(place):
    return f"224.0.0.123%{place.interface}:7645" if place.version == 4 else f"[ff02::123%{place.interface}]:7645"


def test_the_seed_with_both_families_at_once(backend):
    """One question, and an answer by each family: two objects, whatever number of sockets."""
    groups = [seed_group(place_of(version)) for version in (4, 6)]
    with mcast.Receiver(groups, timeout=5) as listener, mcast.Sender(groups, ttl=0, timeout=5) as client:

        def answer():
            for question in listener.packets(count=2):
                listener.reply(question, b"pong to " + question.data)

        thread = threading.Thread(target=answer)
        thread.start()
        answers = dict(zip((b"one", b"another"), client.gather(b"ping"), strict=False))
        thread.join()
    assert {reply.data for reply in answers.values()} == {b"pong to ping"}
    assert {reply.source_port for reply in answers.values()} == {7645}
    assert {":" in reply.source for reply in answers.values()} == {False, True}


def test_the_seed_among_equals(backend, place):
    """Each asks, and answers to the group, from the one socket and port that it has."""
    text = seed_group(place)
    with (
        mcast.Receiver(text, ttl=0, own_packets=False, timeout=5) as one,
        mcast.Receiver(text, ttl=0, timeout=5) as other,
    ):
        one.send(text, b"ping")
        question = other.recv()
        assert (question.data, question.source_port) == (b"ping", 7645)
        other.send(text, b"pong to " + question.data)
        with pytest.raises(TimeoutError):  # of one machine, so that the port tells them no longer apart
            one.recv(timeout=0)
        assert one.stats.filtered == 2


@pytest.fixture
def rx(backend, group):
    with mcast.Receiver(group, timeout=5) as receiver:
        yield receiver


def numbered(count):
    return [number.to_bytes(4, "big") for number in range(count)]


def arrive(rx, tx, *payloads):
    """Send, and wait until the last of the payloads can be received."""
    tx.send_batch(payloads)
    waiting = [rx.fileno()] if mcast.features()["descriptor"] else [one.socket for one in rx._joins.sockets()]
    assert select.select(waiting, [], [], 5)[0]


# ---- opening ----

# What is wrong -> arguments, the error, and what its message names: the thing and the remedy.
WRONG = {
    "no group": ((), {}, ArgumentError, ["no group", "239.1.1.1%eth0:5000"]),
    "no interface": (("239.1.1.1%nope0:5000",), {}, InterfaceError, ["nope0"]),
    "no interface, IPv6": (("[ff15::1%nope0]:5000",), {}, InterfaceError, ["nope0"]),
    "no interface as argument": (("239.1.1.1:5000",), {"interface": "nope0"}, InterfaceError, ["nope0"]),
    "no interface of that index": (("239.1.1.1:5000",), {"interface": 999_999}, InterfaceError, ["999999"]),
    "no interface of that address": (("239.1.1.1:5000",), {"interface": "203.0.113.9"}, InterfaceError, ["203.0.113.9"]),
    "unicast": (("10.0.0.1:5000",), {}, GroupError, ["10.0.0.1", "multicast"]),
    "unicast, IPv6": (("[fe80::1]:5000",), {}, GroupError, ["fe80::1", "multicast"]),
    "port too large": (("239.1.1.1:65536",), {}, GroupError, ["65536", "65535"]),
    "port 0": (("239.1.1.1:0",), {}, GroupError, ["port", "1"]),
    "port argument too large": (("239.1.1.1",), {"port": 70_000}, GroupError, ["70000", "65535"]),
    "negative port": (("239.1.1.1",), {"port": -1}, GroupError, ["-1", "65535"]),
    "no port": (("239.1.1.1%lo",), {}, GroupError, ["239.1.1.1%lo", "has no port", "239.1.1.1:5000", "port=5000"]),
    "no port, IPv6": (("ff15::1",), {}, GroupError, ["ff15::1", "has no port", "[ff15::1]:5000", "port=5000"]),
    "no group at all": (("not a group",), {}, GroupError, ["not a group"]),
    "source of the other family": (("fd00::1@239.1.1.1:5000",), {}, GroupError, ["fd00::1", "239.1.1.1"]),
    "source argument of the other family": (("239.1.1.1%lo:5000",), {"source": "fd00::1"}, GroupError, ["fd00::1"]),
    "source that is a group": (("239.1.1.1%lo:5000",), {"source": "239.9.9.9"}, GroupError, ["239.9.9.9"]),
    "batch_size 0": (("239.1.1.1%lo:5000",), {"batch_size": 0}, ArgumentError, ["batch_size", "0", "use 1 to"]),
    "batch_size of a text": (("239.1.1.1%lo:5000",), {"batch_size": "9"}, ArgumentError, ["batch_size", "'9'"]),
    "batch_size too large": (("239.1.1.1%lo:5000",), {"batch_size": 10**9}, ArgumentError, ["batch_size", "1000000"]),
    "max_packet_size 0": (("239.1.1.1%lo:5000",), {"max_packet_size": 0}, ArgumentError, ["max_packet_size", "65535"]),
    "max_packet_size too large": (("239.1.1.1%lo:5000",), {"max_packet_size": 65_536}, ArgumentError, ["65536", "65535"]),
    "buffer_size without a unit": (("239.1.1.1%lo:5000",), {"buffer_size": "4"}, ArgumentError, ["buffer_size", "MiB"]),
    "buffer_size negative": (("239.1.1.1%lo:5000",), {"buffer_size": -1}, ArgumentError, ["buffer_size", "negative"]),
    "timeout negative": (("239.1.1.1%lo:5000",), {"timeout": -1}, ArgumentError, ["timeout", "-1", "None"]),
    "timeout of a text": (("239.1.1.1%lo:5000",), {"timeout": "soon"}, ArgumentError, ["timeout", "seconds"]),
    "timestamps unknown": (("239.1.1.1%lo:5000",), {"timestamps": "gps"}, ArgumentError, ["timestamps", "gps", "'kernel'"]),
}  # fmt: skip


@pytest.mark.parametrize(("groups", "options", "kind", "told"), WRONG.values(), ids=WRONG.keys())
def test_what_cannot_be_opened_is_an_error_of_ours_that_leaves_nothing_open(
    backend, no_leak, groups, options, kind, told
):
    with pytest.raises(kind) as caught:
        mcast.Receiver(*groups, **options)
    assert isinstance(caught.value, MulticastError)
    assert [text for text in told if text not in str(caught.value)] == [], str(caught.value)


def test_a_later_group_that_cannot_be_opened_undoes_the_earlier_ones(backend, no_leak, place):
    good = place.group()
    with pytest.raises(InterfaceError, match="nope0"):
        mcast.Receiver(good, "239.1.1.9%nope0:5000")
    mcast.Receiver(good, reuse=False).close()  # the port is free again


def test_a_taken_port_is_refused_with_the_remedy_and_undone(backend, no_leak, place):
    """The second socket fails: the first one is closed again."""
    free, taken = place.group(1), place.group(2)
    with mcast.Receiver(taken, reuse=False):
        with pytest.raises(SocketError) as caught:
            mcast.Receiver(free, taken, reuse=False)
        mcast.Receiver(free, reuse=False).close()
    assert (caught.value.errno, caught.value.operation) == (errno.EADDRINUSE, "bind")
    port = taken.rpartition(":")[2]
    assert f"port {port} on {place.interface}" in str(caught.value)
    assert "without address reuse" in str(caught.value)


def test_a_receiver_opens_and_closes_without_a_trace(no_leak, backend, place):
    for _ in range(3):
        with mcast.Receiver(place.group(1), place.group(2), place.group(3)) as rx:
            if mcast.features()["descriptor"]:
                rx.fileno()


OUT_OF_DESCRIPTORS = """
import errno, os, resource, sys
import mcast_fast as mcast
mcast.Receiver(sys.argv[1]).close()  # imports what is imported when first needed
mcast.Sender(sys.argv[1]).close()
kind = getattr(mcast, sys.argv[2])
def count():
    return len(os.listdir("/proc/self/fd"))
before = count()
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for limit in range(3, 40):
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        kind(sys.argv[1]).close()
        told = "opened"
    except mcast.SocketError as error:
        told = "refused" if error.errno == errno.EMFILE and "ulimit -n" in str(error) else str(error)
    except Exception as error:
        told = repr(error)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(told, count() - before)
    if told == "opened":
        break
"""


@pytest.mark.long
@pytest.mark.needs("process limits")
@pytest.mark.parametrize("kind", ["Receiver", "Sender"])
def test_out_of_descriptors_at_any_step_names_the_limit_and_leaves_nothing_open(backend, place, kind):
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_DESCRIPTORS, place.group(), kind],
        env=os.environ | {"MCAST_FAST_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    *refused, opened = done.stdout.splitlines() or [done.stderr]
    assert opened == "opened 0"
    assert len(refused) >= 3
    assert set(refused) == {"refused 0"}


def test_the_limit_of_this_process_is_as_it_was():
    resource = pytest.importorskip("resource", reason="feature resource: no limit of descriptors to look at")
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 100


@pytest.mark.parametrize(
    ("size", "holds_all"),
    [
        (1, False),
        (20_000, False),
        *(pytest.param(size, True, marks=pytest.mark.needs("large buffers")) for size in ("1MiB", 1 << 20)),
    ],
)
def test_a_buffer_holds_as_much_as_was_asked_for(backend, group, tx, size, holds_all):
    with mcast.Receiver(group, buffer_size=size, timeout=5) as rx:
        tx.send_batch([bytes(1400)] * 300)
        received = len(rx.collect(300, timeout=5 if holds_all else 0.05))
    assert (received == 300) == holds_all


def test_a_buffer_larger_than_any_system_has_is_clipped_with_a_warning(backend, group, no_leak):
    with pytest.warns(MulticastWarning, match="requested 8589934592 bytes"):
        mcast.Receiver(group, buffer_size="8GiB").close()


MEMORY = """
import mcast_fast as mcast
from pathlib import Path

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

group = "239.1.1.1%lo:{port}"
with mcast.Sender(group, ttl=0) as tx, mcast.Receiver(group, timeout=0.2, buffer_size="32MiB", **{options}) as rx:
    tx.send(bytes(10))
    rx.recv()
    before = resident()
    for _ in range(5):
        tx.send_batch([bytes({size})] * 200)
        try:
            for batch in rx:
                del batch
        except TimeoutError:
            pass
    print(resident() - before, rx.stats.received)
"""


@pytest.mark.parametrize("options", [{}, {"timestamps": None}], ids=str)
@pytest.mark.parametrize("size", [256, 9000, 65_507])
@pytest.mark.long
def test_a_receiver_holds_at_most_8_mib(backend, size, options):
    """Whatever the size of its packets, and although each may have 64 KiB."""
    if not Path("/proc/self/statm").exists():
        pytest.skip("feature /proc: the memory of a process is not told there")
    code = MEMORY.format(port=free_port(), options=options, size=size)
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=os.environ | {"MCAST_FAST_BACKEND": backend},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    grown, received = map(int, done.stdout.split())
    assert received > 0
    assert grown < 8 << 20


@pytest.mark.needs("destination")
def test_a_receiver_says_what_it_is(backend, place):
    texts = place.group(1, 15_001), place.group(2, 15_001), place.group(3, 15_002)
    rx = mcast.Receiver(*texts)
    assert repr(rx) == f"<Receiver of {', '.join(texts)}, on 2 sockets>"
    rx.close()
    assert repr(rx).endswith("closed>")


# ---- receiving: the four ways ----


def test_a_batch_is_what_is_there(rx, tx):
    sent = numbered(100)
    tx.send_batch(sent)
    received = []
    while len(received) < len(sent):
        received += rx.recv_batch().payloads()
    assert received == sent


@pytest.mark.parametrize("limit", [1, 2, 63, 64, 65, 300])
def test_a_batch_has_no_more_packets_than_asked_for(rx, tx, limit):
    sent, received = numbered(200), []
    tx.send_batch(sent)
    while len(received) < len(sent):
        batch = rx.recv_batch(limit)
        assert 1 <= len(batch) <= limit
        received += batch.payloads()
    assert received == sent


@pytest.mark.parametrize("batch_size", [1, 7, 64, 100])
def test_a_batch_has_no_more_packets_than_batch_size(backend, group, tx, batch_size):
    sent, received = numbered(200), []
    with mcast.Receiver(group, batch_size=batch_size, timeout=5) as rx:
        assert rx.batch_size == batch_size
        tx.send_batch(sent)
        for batch in rx:
            assert 1 <= len(batch) <= batch_size
            received += batch.payloads()
            if len(received) == len(sent):
                break
        assert rx.stats.largest_batch <= batch_size
    assert received == sent


def test_a_packet_at_a_time(rx, tx):
    sent = numbered(300)
    tx.send_batch(sent)
    assert [rx.recv().data for _ in sent] == sent


@pytest.mark.needs("large buffers")
def test_an_iteration_gives_batches_in_order(rx, tx):
    sent, received = numbered(500), []
    tx.send_batch(sent)
    for batch in rx:
        assert len(batch) > 0
        received += batch.payloads()
        if len(received) == len(sent):
            break
    assert received == sent


@pytest.mark.parametrize("count", [1, 64, pytest.param(1000, marks=pytest.mark.needs("large buffers"))])
def test_a_collect_is_one_batch_of_all(rx, tx, count):
    sent = numbered(count)
    tx.send_batch(sent)
    batch = rx.collect(count)
    assert batch.payloads() == sent
    assert rx.stats.batches == 1


def test_a_collect_that_is_not_filled_in_time_is_what_came(rx, tx):
    tx.send_batch(numbered(5))
    assert rx.collect(6, timeout=0.05).payloads() == numbered(5)
    assert len(rx.collect(6, timeout=0)) == 0


def test_a_collect_waits_for_what_comes_later(rx, tx):
    with later(tx.send_batch, numbered(3)):
        assert rx.collect(3, timeout=5).payloads() == numbered(3)


# ---- timeouts ----

CALLS = {
    "recv": lambda rx, **timeout: rx.recv(**timeout),
    "recv_batch": lambda rx, **timeout: rx.recv_batch(**timeout),
    "iteration": lambda rx, **timeout: next(iter(rx)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_receive_without_a_timeout_of_its_own_takes_the_receivers(rx, call):
    rx.timeout = 0.05
    assert rx.timeout == 0.05
    before = time.monotonic()
    with pytest.raises(TimeoutError, match=r"within 0\.05 s"):
        call(rx)
    assert time.monotonic() - before > 0.049  # clocks of milliseconds are rounded


@pytest.mark.parametrize("name", ["recv", "recv_batch"])
def test_a_timeout_of_0_does_not_wait(rx, tx, name):
    rx.timeout = None
    for _ in range(10):
        with pytest.raises(TimeoutError, match="within 0 s"):
            CALLS[name](rx, timeout=0)
    arrive(rx, tx, b"a")
    assert bytes(CALLS[name](rx, timeout=0).data) == b"a"


def test_a_collect_never_raises_a_timeout(rx):
    assert len(rx.collect(5, timeout=0)) == 0
    rx.timeout = 0.01
    assert len(rx.collect(5)) == 0


@pytest.mark.parametrize("timeout", [3_000_000, 1e300, float("inf"), 10**40, None])
def test_a_long_timeout_waits_and_does_not_overflow(rx, tx, timeout):
    """Longer than a poll can wait in milliseconds of 32 bits: 24 days."""
    with later(tx.send_batch, [b"a", b"b"]):
        assert rx.recv(timeout=timeout).data == b"a"
        assert len(rx.collect(1, timeout=timeout)) == 1
    rx.timeout = timeout


@pytest.mark.parametrize("timeout", [-1, float("nan"), "soon", "-1s", True, object()])
@pytest.mark.parametrize("name", ["recv", "recv_batch", "collect"])
def test_a_wrong_timeout_is_refused(rx, name, timeout):
    arguments = [1] if name == "collect" else []
    with pytest.raises(ArgumentError, match="timeout"):
        getattr(rx, name)(*arguments, timeout=timeout)
    with pytest.raises(ArgumentError, match="timeout"):
        rx.timeout = timeout
    assert rx.timeout == 5


@pytest.mark.parametrize("limit", [0, -1, 1.5, "1", True, 2**40])
@pytest.mark.parametrize("name", ["recv_batch", "collect"])
def test_a_wrong_number_of_packets_is_refused(rx, name, limit):
    with pytest.raises(ArgumentError, match="max_packets"):
        getattr(rx, name)(limit)


# ---- leftovers of recv() ----

NEXT = {
    "recv_batch": lambda rx: rx.recv_batch().payloads(),
    "recv_batch of 2": lambda rx: rx.recv_batch(2).payloads(),
    "collect": lambda rx: rx.collect(100, timeout=0.05).payloads(),
    "collect of 3": lambda rx: rx.collect(3, timeout=0.05).payloads(),
    "iteration": lambda rx: next(iter(rx)).payloads(),
    "recv": lambda rx: [rx.recv().data],
}


PAIRS = [pytest.param(pair, marks=pytest.mark.long) for pair in itertools.permutations(NEXT, 2)]


@pytest.mark.parametrize("calls", PAIRS + [(name,) for name in NEXT], ids="-".join)
def test_what_recv_leaves_over_comes_first_and_in_order(rx, tx, calls):
    sent = numbered(12)
    tx.send_batch(sent[:8])
    received = [rx.recv().data]
    tx.send_batch(sent[8:])
    for name in itertools.cycle(calls):
        received += NEXT[name](rx)
        if len(received) >= len(sent):
            break
    assert received == sent


def readable(rx):
    poll = select.poll()
    poll.register(rx.fileno(), select.POLLIN)
    return bool(poll.poll(0)) and bool(select.select([rx], [], [], 0)[0])


@pytest.mark.needs("descriptor")
def test_the_descriptor_shows_whether_a_receive_would_wait(rx, tx):
    assert not readable(rx)
    arrive(rx, tx, b"a")
    assert readable(rx)
    rx.recv()
    assert not readable(rx)


@pytest.mark.needs("descriptor")
def test_the_descriptor_shows_what_recv_left_over(rx, tx):
    arrive(rx, tx, *numbered(3))
    rx.recv()
    assert readable(rx)
    rx.recv()
    assert readable(rx)
    rx.recv()
    assert not readable(rx)
    with pytest.raises(TimeoutError):
        rx.recv(timeout=0)


@pytest.mark.needs("descriptor")
def test_the_descriptor_wakes_a_poll(rx, tx):
    with later(tx.send, b"a"):
        assert select.select([rx], [], [], 5)[0] == [rx]
    assert rx.recv(timeout=0).data == b"a"


# ---- payloads and fields ----


def test_a_wait_tells_whether_there_is_something_and_takes_nothing(rx, tx):
    assert rx.wait(0) is False
    assert rx.wait(0.01) is False
    tx.send_batch([b"1", b"2"])
    assert rx.wait(5)
    assert rx.wait(0)
    assert rx.recv(timeout=5).data == b"1"
    assert rx.wait(0)  # what came with it is left over
    assert rx.recv(timeout=5).data == b"2"
    assert rx.wait(0) is False


def test_a_wait_and_a_receive_in_two_threads_disturb_each_other_not(rx, tx):
    received = []
    thread = threading.Thread(target=lambda: received.extend(rx.collect(2, timeout=5).payloads()))
    thread.start()
    assert rx.wait(0.02) is False
    tx.send_batch([b"1", b"2"])
    thread.join(10)
    assert received == [b"1", b"2"]


@pytest.mark.needs("descriptor")
def test_what_is_given_back_comes_first_and_once(rx, tx):
    sent = [bytes([number]) for number in range(9)]
    tx.send_batch(sent[:6])
    first, second = rx.collect(2, timeout=5), rx.collect(4, timeout=5)
    tx.send_batch(sent[6:])
    rx.give_back([first, second[:3]])
    rx.give_back([])
    assert select.select([rx], [], [], 5)[0]
    assert rx.recv_batch(3, timeout=0).payloads() == sent[:2]  # a batch comes as it was, and is not put together
    assert rx.recv_batch(1, timeout=0).payloads() == sent[2:3]
    assert rx.collect(5, timeout=5).payloads() == [*sent[3:5], *sent[6:]]
    assert (first.payloads(), second.payloads()) == (sent[:2], sent[2:6])
    assert rx.stats.received == 9


def test_what_is_given_back_and_no_longer_wanted_does_not_come(rx, tx, group):
    tx.send_batch([b"1", b"2"])
    batch = rx.collect(2, timeout=5)
    rx.leave(group)
    rx.give_back([batch])
    with pytest.raises(TimeoutError):
        rx.recv(timeout=0.02)
    assert batch.payloads() == [b"1", b"2"]
    assert (rx.stats.received, rx.stats.filtered) == (0, 2)


def test_nothing_is_given_back_to_a_closed_receiver(rx, tx):
    tx.send(b"1")
    batch = rx.recv_batch(timeout=5)
    rx.close()
    with pytest.raises(ClosedError):
        rx.give_back([batch])


def test_an_empty_payload_is_a_packet(rx, tx):
    tx.send_batch([b"", b"a", b""])
    batch = rx.collect(3)
    assert batch.payloads() == [b"", b"a", b""]
    assert [packet.wire_length for packet in batch] == [0, 1, 0]
    assert not any(packet.truncated for packet in batch)


def test_the_largest_payload_arrives_whole(rx, tx, place):
    payload = os.urandom(LARGEST[place.version])
    tx.send(payload)
    packet = rx.recv()
    assert packet.data == payload
    assert (packet.truncated, packet.wire_length) == (False, len(payload))


@pytest.mark.needs("wire_length")
def test_a_packet_longer_than_max_packet_size_is_truncated_and_flagged(backend, group, tx):
    with mcast.Receiver(group, max_packet_size=100, timeout=5) as rx:
        tx.send_batch([b"x" * 99, b"x" * 100, b"x" * 101, b"x" * 5000, b"next"])
        batch = rx.collect(5)
        stats = rx.stats
    assert batch.payloads() == [b"x" * 99, b"x" * 100, b"x" * 100, b"x" * 100, b"next"]
    assert [packet.truncated for packet in batch] == [False, False, True, True, False]
    assert [packet.wire_length for packet in batch] == [99, 100, 101, 5000, 4]
    assert [mcast.Flag.TRUNCATED in packet.flags for packet in batch] == [False, False, True, True, False]
    assert (stats.received, stats.truncated, stats.bytes) == (5, 2, 99 + 300 + 4)
    assert "truncated" in repr(batch[2])
    assert "5000 bytes" in repr(batch[3])


@pytest.mark.needs("kernel_timestamps")
def test_a_packet_tells_where_it_came_from_and_where_it_went(rx, tx, place, group):
    before = time.time_ns()
    tx.send(b"payload")
    packet = rx.recv()
    asked = mcast.Group.parse(group)
    assert (packet.group, packet.port, packet.interface) == (asked.address, asked.port, place.interface)
    assert packet.interface_index == socket.if_nametoindex(place.interface)
    assert packet.source_port == tx.local_addresses[0][1]
    assert before - 1_000_000_000 < packet.timestamp <= time.time_ns()
    assert (packet.ttl, packet.tos, packet.dropped) == (None, None, 0)
    if place.version == 4:
        assert packet.source == "127.0.0.1"
    else:
        assert packet.source.startswith("fe80::")
        assert packet.source.endswith(f"%{place.interface}")
    text = f"<Packet {packet.source}:{packet.source_port} > {packet.group}:{packet.port} on {place.interface}, 7 bytes>"
    assert repr(packet) == text


def test_the_source_address_is_what_sendto_takes(rx, tx, place):
    tx.send(b"question")
    packet = rx.recv()
    family = socket.AF_INET if place.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as plain:
        plain.sendto(b"answer", packet.source_address)
    assert tx.recv(timeout=5).data == b"answer"


@pytest.mark.needs("kernel_timestamps")
def test_times_are_in_the_order_of_arrival(rx, tx):
    tx.send_batch(numbered(100))
    times = np.asarray(rx.collect(100))["timestamp"]
    assert (np.diff(times) >= 0).all()
    assert abs(int(times[0]) - time.time_ns()) < 10_000_000_000


def test_without_timestamps_the_time_is_unknown(backend, group, tx):
    with mcast.Receiver(group, timestamps=None, timeout=5) as rx:
        tx.send_batch(numbered(3))
        assert [(packet.timestamp, packet.datetime) for packet in rx.collect(3)] == [(None, None)] * 3


def test_hardware_times_fall_back_to_the_kernels_with_a_warning(backend, group, tx, place):
    if not (have := mcast.features()["hardware_timestamps"]):
        pytest.skip(f"feature hardware_timestamps: {have.reason}")
    with pytest.warns(MulticastWarning, match=f"{place.interface} takes no hardware times .*kernel's times"):
        rx = mcast.Receiver(group, timestamps="hardware", timeout=5)
    with rx:
        before = time.time_ns()
        tx.send(b"x")
        packet = rx.recv()
    assert before - 10**9 < packet.timestamp < time.time_ns() + 10**9
    assert not packet.flags & mcast.Flag.HARDWARE


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"timestamps": "hardware", "gro": True}, "coalesced packets have one time"),
        ({"timestamps": "software"}, "timestamps 'software' is not one of"),
        ({"busy_poll": 0}, "busy_poll"),
        ({"busy_poll": "50us"}, "busy_poll"),
    ],
)
def test_options_that_make_no_sense_are_refused(backend, group, no_leak, options, told):
    with pytest.raises(ArgumentError, match=told):
        mcast.Receiver(group, **options)


def test_busy_polling_changes_nothing_that_is_received(backend, group, tx):
    if not (have := mcast.features()["busy_poll"]):
        pytest.skip(f"feature busy_poll: {have.reason}")
    try:
        rx = mcast.Receiver(group, busy_poll=50, timeout=5)
    except SocketError as error:
        assert error.errno == errno.EPERM  # it needs CAP_NET_ADMIN
        return
    with rx:
        tx.send_batch([b"1", b"2"])
        assert rx.collect(2).payloads() == [b"1", b"2"]


@pytest.mark.needs("dscp")
@pytest.mark.parametrize(("ttl", "tos"), [(0, 0), (1, 0x20), (200, 0xB8)])
def test_ttl_and_tos_are_told_when_asked_for(backend, group, ttl, tos):
    with (
        mcast.Receiver(group, recv_ttl=True, recv_tos=True, timeout=5) as rx,
        mcast.Receiver(group, recv_ttl=True, timeout=5) as ttl_only,
        mcast.Receiver(group, timeout=5) as neither,
        mcast.Sender(group, ttl=ttl, dscp=tos >> 2) as tx,
    ):
        tx.send(b"a")
        packet = rx.recv()
        assert (packet.ttl, packet.tos, packet.flags) == (ttl, tos, mcast.Flag.TTL | mcast.Flag.TOS)
        packet = ttl_only.recv()
        assert (packet.ttl, packet.tos, packet.flags) == (ttl, None, mcast.Flag.TTL)
        packet = neither.recv()
        assert (packet.ttl, packet.tos, packet.flags) == (None, None, 0)


# ---- several groups, ports, receivers ----


@pytest.mark.needs("destination")
def test_several_groups_and_ports_in_one_receiver(backend, place):
    groups = [place.group(1, 15_011), place.group(2, 15_011), place.group(3, 15_012)]
    with mcast.Receiver(*groups, timeout=5) as rx, mcast.Sender(*groups, ttl=0) as tx:
        assert tx.send_batch(numbered(20)) == 60
        batch = rx.collect(60)
    for text in groups:
        asked = mcast.Group.parse(text)
        mine = [packet.data for packet in batch if (packet.group, packet.port) == (asked.address, asked.port)]
        assert mine == numbered(20)
    assert len(batch) == 60


@pytest.mark.needs("destination")
def test_a_row_of_groups(backend, place):
    first = place.group(5, 15_013)
    outside = place.group(9, 15_013)
    with (
        mcast.Receiver(f"{first}+4", timeout=5) as rx,
        mcast.Sender(f"{first}+4", ttl=0) as tx,
        mcast.Sender(outside, ttl=0) as beside,
    ):
        beside.send(b"not asked for")
        assert tx.send(b"a") == 4
        batch = rx.collect(4)
        assert len(rx.collect(1, timeout=0.02)) == 0
        assert rx.stats.received == 4
    last = [mcast.Group.parse(place.group(number, 15_013)).address for number in (5, 6, 7, 8)]
    assert [packet.group for packet in batch] == last


@pytest.mark.needs("multicast_all_off")
def test_more_groups_than_a_socket_may_hold(backend, place):
    count = 50  # net.ipv4.igmp_max_memberships is 20
    first = place.group(1, 15_014)
    with mcast.Receiver(f"{first}+{count}", timeout=5) as rx, mcast.Sender(f"{first}+{count}", ttl=0) as tx:
        assert tx.send(b"a") == count
        assert len({packet.group for packet in rx.collect(count)}) == count
        assert len(rx.collect(1, timeout=0.02)) == 0
        assert rx.stats.filtered == 0


def test_the_same_group_twice_is_received_once(backend, group, tx):
    with mcast.Receiver(group, group, timeout=5) as rx:
        tx.send(b"a")
        assert rx.collect(2, timeout=0.05).payloads() == [b"a"]


def test_two_receivers_share_a_port_and_each_hears_all(backend, group, tx):
    with mcast.Receiver(group, timeout=5) as one, mcast.Receiver(group, timeout=5) as other:
        tx.send_batch(numbered(50))
        assert one.collect(50).payloads() == other.collect(50).payloads() == numbered(50)


@pytest.mark.needs("destination")
@pytest.mark.parametrize("several", [False, True])
def test_what_another_program_joins_changes_nothing(backend, place, several):
    """Linux gives a socket the groups that any process joined on its port, unless told otherwise (netty#15755)."""
    port = free_port()
    ours = [place.group(1, port)] + ([place.group(2, port)] if several else [])
    theirs = place.group(7, port)
    asked = mcast.Group.parse(theirs)
    family = socket.AF_INET if place.version == 4 else socket.AF_INET6
    index = socket.if_nametoindex(place.interface)
    with (
        mcast.Receiver(*ours, timeout=5) as rx,
        socket.socket(family, socket.SOCK_DGRAM) as plain,
        mcast.Sender(ours[0], ttl=0) as tx,
        mcast.Sender(theirs, ttl=0) as other,
    ):
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        plain.bind(("", port))
        plain.settimeout(5)
        packed = socket.inet_pton(family, asked.address)
        if place.version == 4:
            request = packed + bytes(4) + index.to_bytes(4, sys.byteorder)
            plain.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
        else:
            plain.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, packed + index.to_bytes(4, sys.byteorder))
        for _ in range(10):
            other.send(b"theirs")
            tx.send(b"ours")
        assert [plain.recv(100) for _ in range(10)].count(b"theirs") >= 1
        assert rx.collect(20, timeout=0.05).payloads() == [b"ours"] * 10


@pytest.mark.needs("destination")
def test_unicast_to_the_port_is_no_multicast_and_is_counted(backend):
    """A socket of several groups is bound to any address: what comes for another one is filtered, and counted exactly."""
    port = free_port()
    groups = [f"239.1.1.{number}%lo:{port}" for number in (1, 2)]
    with (
        mcast.Receiver(*groups, timeout=5) as rx,
        mcast.Sender(groups[0], ttl=0) as tx,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain,
    ):
        for number in range(30):
            plain.sendto(b"unicast", ("127.0.0.1", port))
            tx.send(bytes([number]))
        assert rx.collect(30).payloads() == [bytes([number]) for number in range(30)]
        assert (rx.stats.received, rx.stats.filtered, rx.stats.bytes) == (30, 30, 30)


@pytest.mark.long
@pytest.mark.needs("loopback addresses")
@pytest.mark.parametrize("wanted", ["127.0.0.1", "127.0.0.2"])
@pytest.mark.parametrize("address", ["232.1.1.1", "239.1.1.1"])
def test_only_the_wanted_source_is_heard(backend, wanted, address):
    text = f"{address}%{loopback()}:{free_port()}"
    with (
        mcast.Receiver(f"{wanted}@{text}", timeout=5) as rx,
        mcast.Receiver(text, source=wanted, timeout=5) as by_argument,
        mcast.Receiver(text, timeout=5) as all_sources,
        mcast.Sender(text, ttl=0, source="127.0.0.1") as one,
        mcast.Sender(text, ttl=0, source="127.0.0.2") as two,
    ):
        for _ in range(10):
            one.send(b"127.0.0.1")
            two.send(b"127.0.0.2")
        assert len(all_sources.collect(20)) == 20
        for receiver in (rx, by_argument):
            batch = receiver.collect(11, timeout=0.05)
            assert batch.payloads() == [wanted.encode()] * 10
            assert {packet.source for packet in batch} == {wanted}


@pytest.mark.needs("loopback addresses")
def test_two_sources_of_a_group_are_both_heard(backend):
    text = f"232.1.1.1%{loopback()}:{free_port()}"
    with (
        mcast.Receiver(f"127.0.0.1@{text}", f"127.0.0.2@{text}", timeout=5) as rx,
        contextlib.ExitStack() as senders,
    ):
        for last in (1, 2, 3):
            senders.enter_context(mcast.Sender(text, ttl=0, source=f"127.0.0.{last}")).send(bytes([last]))
        assert sorted(rx.collect(3, timeout=0.05).payloads()) == [b"\x01", b"\x02"]


# ---- the ledger ----


def overflowed(rx, tx, count):
    """Send more than the buffer holds; every packet is received or counted as dropped."""
    tx.send_batch([number.to_bytes(4, "big") + bytes(400) for number in range(count)])
    batches, deadline = [], time.monotonic() + 10
    while rx.stats.received + rx.stats.dropped_socket < count and time.monotonic() < deadline:
        batches.append(rx.collect(count, timeout=0.01))
    return [packet for batch in batches for packet in batch]


def test_what_is_sent_is_received_or_counted_as_dropped(backend, group, tx):
    with mcast.Receiver(group, buffer_size=4096, timeout=5) as rx:
        if rx.stats.dropped_socket is None:
            pytest.skip("feature drop_totals")
        packets = overflowed(rx, tx, 500)
        stats = rx.stats
        assert stats.dropped_socket > 0
        assert stats.received + stats.dropped_socket == 500
        assert stats.dropped == stats.dropped_socket
        assert len(packets) == stats.received
        told = sum(packet.dropped for packet in packets)
        assert told <= stats.dropped_socket  # those behind the last packet are in the statistics only
        tx.send(b"one more")
        assert told + rx.recv().dropped == stats.dropped_socket
        assert rx.stats.received + rx.stats.dropped_socket == 501
    assert rx.stats.dropped_socket == stats.dropped_socket


def test_a_record_tells_how_many_were_dropped_just_before_it(backend, group, tx):
    """The numbers in the payloads show the holes: each is as large as the record after it says."""
    with mcast.Receiver(group, buffer_size=4096, timeout=5) as rx:
        if rx.stats.dropped_socket is None:
            pytest.skip("feature drop_gaps")
        packets = overflowed(rx, tx, 300)
        tx.send((300).to_bytes(4, "big"))
        packets.append(rx.recv())
    numbers = [-1] + [int.from_bytes(packet.data[:4], "big") for packet in packets]
    holes = [after - before - 1 for before, after in itertools.pairwise(numbers)]
    assert holes == [packet.dropped for packet in packets]
    assert sum(holes) > 0


def test_the_statistics_are_exact(backend, group, tx):
    with mcast.Receiver(group, max_packet_size=10, timeout=5) as rx:
        unknown = {name: getattr(rx.stats, name) for name in ("dropped_socket", "dropped_nic")}
        assert rx.stats == mcast.Stats(**unknown)
        assert rx.stats.dropped_socket in (0, None)
        tx.send_batch([b"x" * size for size in (1, 10, 11, 0, 500)])
        rx.collect(5)
        tx.send(b"abc")
        rx.recv()
        tx.send(b"de")
        rx.recv_batch()
        stats = rx.stats
    assert (stats.received, stats.bytes, stats.truncated, stats.filtered) == (7, 1 + 10 + 10 + 10 + 3 + 2, 2, 0)
    assert (stats.batches, stats.largest_batch) == (2, 5)  # recv() delivers no batch
    assert (stats.buffers, stats.drops_exact) == (7, True)
    assert stats.dropped_background == 0
    assert rx.stats == stats


# ---- closing ----

WAITS = {
    "recv": lambda rx: rx.recv(timeout=None),
    "recv_batch": lambda rx: rx.recv_batch(timeout=None),
    "collect": lambda rx: rx.collect(10, timeout=None),
    "wait": lambda rx: rx.wait(timeout=None),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_a_close_from_another_thread_wakes_who_receives(backend, group, wait):
    rx = mcast.Receiver(group)
    timer = threading.Timer(0.02, rx.close)
    timer.start()
    with pytest.raises(ClosedError, match="closed"):
        wait(rx)
    timer.join()


def test_a_close_from_another_thread_ends_an_iteration(backend, group):
    rx = mcast.Receiver(group)
    timer = threading.Timer(0.02, rx.close)
    timer.start()
    assert list(rx) == []
    timer.join()
    assert list(rx) == []


def test_a_close_wakes_every_thread(backend, group):
    rx, ended = mcast.Receiver(group), []

    def receive():
        for _ in rx:
            pass
        ended.append(True)

    threads = [threading.Thread(target=receive) for _ in range(4)]
    for thread in threads:
        thread.start()
    rx.close()
    for thread in threads:
        thread.join(5)
    assert ended == [True] * 4


@contextlib.contextmanager
def alarm(handler, seconds=0.02, again=0.0):
    """Call a handler in the main thread, in the middle of whatever it does; and `again` after these seconds each, where it may."""
    before = signal.signal(signal.SIGALRM, handler)
    signal.setitimer(signal.ITIMER_REAL, seconds, again)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.needs("timers")
@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_a_close_in_a_signal_handler_ends_a_receive(backend, group, no_leak, wait):
    """A signal shortly before the system call is handled when that wakes (docs/lifecycle.md): the next one wakes it."""
    rx = mcast.Receiver(group)
    with alarm(lambda *_: rx.close(), again=0.5), pytest.raises(ClosedError):
        wait(rx)


@pytest.mark.needs("timers")
def test_a_close_in_a_signal_handler_ends_a_busy_receiver(backend, group, tx, no_leak):
    """Wherever the signal comes: between the lines of recv() as well as while it waits."""
    for turn in range(20):
        rx = mcast.Receiver(group, batch_size=4)
        with alarm(lambda *_, rx=rx: rx.close(), 0.001 + turn / 10_000), pytest.raises(ClosedError):
            while True:
                tx.send_batch([b"a", b"b"])
                rx.recv()
                rx.fileno()


@pytest.mark.needs("timers")
def test_a_signal_handler_that_does_nothing_ends_nothing(rx, tx):
    seen = []

    def handler(*_):
        seen.append(True)
        tx.send(b"a")

    with alarm(handler):
        assert rx.recv(timeout=5).data == b"a"
    assert seen == [True]


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_ctrl_c_ends_a_receive_that_would_wait_for_ever(rx, wait):
    timer = threading.Timer(0.02, interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        wait(rx)
    timer.join()


def test_a_receiver_works_on_after_ctrl_c(rx, tx):
    timer = threading.Timer(0.02, interrupt_main)
    with pytest.raises(KeyboardInterrupt):
        timer.start()
        rx.recv(timeout=None)
    timer.join()
    tx.send(b"a")
    assert rx.recv().data == b"a"


CLOSED_CALLS = {
    "recv": lambda rx, packet: rx.recv(),
    "recv at once": lambda rx, packet: rx.recv(timeout=0),
    "recv_batch": lambda rx, packet: rx.recv_batch(),
    "collect": lambda rx, packet: rx.collect(1),
    "reply": lambda rx, packet: rx.reply(packet, b"a"),
    "fileno": lambda rx, packet: rx.fileno(),
}


@pytest.mark.parametrize("left_over", [False, True])
@pytest.mark.parametrize("call", CLOSED_CALLS.values(), ids=CLOSED_CALLS.keys())
def test_every_call_on_a_closed_receiver_says_so(backend, group, tx, no_leak, call, left_over):
    with mcast.Receiver(group, timeout=5) as rx:
        arrive(rx, tx, *[b"a"] * (3 if left_over else 1))
        packet = rx.recv()
    assert rx.closed
    with pytest.raises(ClosedError, match="receiver is closed"):
        call(rx, packet)


def test_closing_twice_is_closing_once(backend, group, tx):
    rx = mcast.Receiver(group, timeout=5)
    tx.send(b"a")
    assert rx.recv().data == b"a"
    assert not rx.closed
    rx.close()
    stats = rx.stats
    rx.close()
    assert rx.closed
    assert list(rx) == []
    assert rx.stats == stats
    assert stats.received == 1


WAYS = {
    "recv": lambda rx: [rx.recv(timeout=5).data],
    "recv_batch": lambda rx: rx.recv_batch(timeout=5).payloads(),
    "recv_batch of 3": lambda rx: rx.recv_batch(3, timeout=5).payloads(),
    "collect": lambda rx: rx.collect(5, timeout=0.01).payloads(),
}


@pytest.fixture
def eager_threads():
    """Python switches between threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.long
@pytest.mark.needs("large buffers")
@pytest.mark.parametrize("ways", [["recv"] * 4, list(WAYS), ["recv", "recv", "collect"]], ids="-".join)
def test_several_threads_receive_every_packet_exactly_once(backend, group, tx, eager_threads, ways):
    count, received = 3000, []
    with mcast.Receiver(group, timeout=5, buffer_size="4MiB", batch_size=16) as rx:

        def receive(way):
            with contextlib.suppress(ClosedError):
                while len(received) < count:
                    received.extend(way(rx))

        threads = [threading.Thread(target=receive, args=[WAYS[name]]) for name in ways]
        tx.send_batch(numbered(count)[: count // 2])  # so that batches are full from the first one
        for thread in threads:
            thread.start()
        for start in range(count // 2, count, 100):
            tx.send_batch(numbered(count)[start : start + 100])
        deadline = time.monotonic() + 3
        while len(received) < count and time.monotonic() < deadline:
            threads[0].join(0.01)
        rx.close()
        for thread in threads:
            thread.join(5)
    assert len(received) == count
    assert sorted(received) == numbered(count)


def test_statistics_can_be_read_while_another_thread_waits(rx):
    thread = threading.Thread(target=list, args=[rx])
    thread.start()
    assert rx.stats.received == 0
    rx.close()
    thread.join(5)
    assert not thread.is_alive()


@pytest.mark.long
def test_a_packet_outlives_its_receiver(backend, group, tx):
    with mcast.Receiver(group, timeout=5) as rx:
        tx.send(b"kept")
        packet = rx.recv()
    del rx
    gc.collect()
    assert (packet.data, packet.interface) == (b"kept", mcast.Group.parse(group).interface)
    assert len([field for field in FIELDS if hasattr(packet, field.name)]) >= 9


# ---- replies ----


def test_a_reply_goes_to_the_sender_of_that_packet_only(backend, group):
    with (
        mcast.Receiver(group, timeout=5) as rx,
        mcast.Sender(group, ttl=0) as one,
        mcast.Sender(group, ttl=0) as other,
    ):
        one.send(b"from one")
        other.send(b"from other")
        for packet in rx.collect(2):
            rx.reply(packet, b"answer to " + packet.data)
        assert one.recv(timeout=5).data == b"answer to from one"
        answer = other.recv(timeout=5)
        assert answer.data == b"answer to from other"
        assert answer.source_port == mcast.Group.parse(group).port
        for sender in (one, other):
            with pytest.raises(TimeoutError):
                sender.recv(timeout=0.01)


@pytest.mark.parametrize("payload", [b"", b"a", bytearray(b"b"), memoryview(b"xc")[1:]])
def test_a_reply_takes_any_bytes(rx, tx, payload):
    tx.send(b"question")
    rx.reply(rx.recv(), payload)
    assert tx.recv(timeout=5).data == bytes(payload)


def test_a_reply_to_a_packet_of_another_receiver_is_refused(backend, place):
    groups = [place.group(1, 15_021), place.group(1, 15_022)]
    with (
        mcast.Receiver(groups[0], timeout=5) as rx,
        mcast.Receiver(groups[1], timeout=5) as other,
        mcast.Sender(groups[0], ttl=0) as tx,
    ):
        tx.send(b"a")
        packet = rx.recv()
        with pytest.raises(ArgumentError, match=r"15022|15021"):
            other.reply(packet, b"answer")


def test_a_reply_too_large_is_an_error_of_ours(rx, tx, place):
    tx.send(b"question")
    packet = rx.recv()
    with pytest.raises(SocketError) as caught:
        rx.reply(packet, bytes(LARGEST[place.version] + 1))
    assert caught.value.errno == errno.EMSGSIZE
    assert f"{LARGEST[place.version]:,}" in str(caught.value)


def test_a_reply_of_no_bytes_type_is_a_type_error(rx, tx):
    tx.send(b"question")
    packet = rx.recv()
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            rx.reply(packet, wrong)


def test_a_ring_is_refused_with_the_reason_where_there_is_none(backend, no_leak, group):
    feature = mcast.features()["ring"]
    if feature:
        pytest.skip("feature ring: it is there")
    with pytest.raises(FeatureError, match=re.escape(feature.reason)):
        mcast.Receiver(group, ring=True)


def test_a_loan_is_the_arena_for_as_long_as_it_lasts(rx, tx):
    arrive(rx, tx, b"a", b"bc")
    batch = rx.collect(2)
    with batch.borrow() as memory:
        assert (bytes(memory), memory.readonly) == (b"abc", True)
    with pytest.raises(ValueError, match="released"):
        bytes(memory)
    with batch.borrow() as memory:
        view = memory[1:]
    assert bytes(view) == b"bc"


def test_a_reply_is_to_a_packet(place, backend):
    with mcast.Receiver(place.group()) as rx, pytest.raises(TypeError, match="a packet of this receiver is required"):
        rx.reply(b"no packet", b"pong")
