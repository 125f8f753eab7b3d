"""The narrow core itself, on both backends: the same names, behaviour and messages, and nothing outside its memory."""

import ast
import builtins
import contextlib
import errno
import importlib
import inspect
import itertools
import os
import select
import selectors
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import FunctionType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcast_fast import _core
from mcast_fast._core import layout, lifetime
from mcast_fast._core.addresses import map_address
from mcast_fast._core.layout import RECORD, RECORD_SIZE, V4_MAPPED
from mcast_fast._host.interfaces import interfaces
from mcast_fast.errors import ClosedError, SocketError
from tests.conftest import TOOLS, free_port, has_fast

HERE = map_address("127.0.0.1")
ELSEWHERE = map_address("127.0.0.2")
GROUP = map_address("239.1.1.1")
OTHER_GROUP = map_address("239.1.1.2")
NOWHERE = bytes(16)
SECOND = 1_000_000_000
WAIT = 5 * SECOND
EVERYTHING = None


def option(sock, name, value):
    sock.setsockopt(*_core.membership.OPTIONS[name], value)


@pytest.fixture
def udp():
    """Opens UDP sockets on 127.0.0.1, and closes them at the end."""
    opened = []

    def open_one(host="127.0.0.1"):
        sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        opened.append(sock)
        sock.bind((host, 0))
        sock.setblocking(False)
        return sock

    yield open_one
    for sock in opened:
        sock.close()


@pytest.fixture
def slots(backend):
    made = _core.slots.Slots(16, 2000, {1: "one", 7: "seven"}, "the tested")
    yield made
    made.close()


@pytest.fixture
def pair(slots, udp):
    """A socket that `slots` receives from and lets everything through, and one that sends to it."""
    sender, receiver = udp(), udp()
    key = slots.add(receiver, receiver.getsockname()[1], GROUP, 7)
    slots.accept(key, EVERYTHING)
    return Pair(slots, sender, receiver, key)


class Pair:
    def __init__(self, slots, sender, receiver, key):
        self.slots, self.sender, self.receiver, self.key = slots, sender, receiver, key
        self.address = receiver.getsockname()

    def send(self, *payloads):
        for payload in payloads:
            self.sender.sendto(payload, self.address)

    def arrive(self, *payloads):
        """Send, and wait until the receiving socket is readable."""
        self.send(*payloads)
        assert select.select([self.receiver], [], [], 5)[0]


def received_now(slots):
    """The payloads that a receive gives without waiting."""
    try:
        return slots.receive(1000, 0).payloads()
    except TimeoutError:
        return []


def raised(call, *arguments):
    """The type and number of what a call raises."""
    try:
        call(*arguments)
    except Exception as error:
        return type(error), getattr(error, "errno", None)
    return None


# ---- receiving ----


def test_a_block_holds_what_was_sent_in_order(pair):
    pair.arrive(b"a", b"", b"ccc")
    block = pair.slots.collect(3, WAIT)
    assert block.payloads() == [b"a", b"", b"ccc"]
    assert block.names == {1: "one", 7: "seven"}


def test_a_record_holds_what_its_socket_implies(pair):
    pair.arrive(b"a")
    packet = pair.slots.receive(1, WAIT)[0]
    assert (packet.group, packet.port, packet.interface) == ("239.1.1.1", pair.address[1], "seven")
    assert packet.source_address == pair.sender.getsockname()
    assert (packet.timestamp, packet.ttl, packet.tos, packet.dropped) == (None, None, None, 0)


@pytest.mark.needs("destination")
def test_what_the_packet_tells_is_believed_before_what_the_socket_implies(pair):
    option(pair.receiver, "IP_PKTINFO", 1)
    pair.arrive(b"a")
    packet = pair.slots.receive(1, WAIT)[0]
    assert packet.group == "127.0.0.1"
    assert packet.interface_index == LO


@pytest.mark.needs("kernel_timestamps", "receive_ttl", "receive_tos")
def test_a_packet_without_a_control_message_does_not_inherit_the_last_ones(pair):
    """msg_controllen is in-out: times, TTL and TOS of one packet must not show up in the next."""
    for name in ("SO_TIMESTAMPNS", "IP_RECVTTL", "IP_RECVTOS", "IP_PKTINFO"):
        option(pair.receiver, name, 1)
    pair.arrive(b"told")
    assert pair.slots.receive(16, WAIT)[0].timestamp > 0
    for name in ("SO_TIMESTAMPNS", "IP_RECVTTL", "IP_RECVTOS", "IP_PKTINFO"):
        option(pair.receiver, name, 0)
    pair.arrive(b"not told")
    packet = pair.slots.receive(16, WAIT)[0]
    assert (packet.data, packet.timestamp, packet.ttl, packet.tos) == (b"not told", None, None, None)
    assert (packet.group, packet.interface) == ("239.1.1.1", "seven")


@pytest.mark.needs("kernel_timestamps", "receive_ttl")
def test_control_messages_come_back_after_packets_without_any(pair):
    """A slot whose msg_controllen became 0 has its space again in the next round."""
    pair.arrive(b"none")
    pair.slots.receive(16, WAIT)
    for name in ("SO_TIMESTAMPNS", "IP_RECVTTL"):
        option(pair.receiver, name, 1)
    for _ in range(3):
        pair.arrive(b"told")
        packet = pair.slots.receive(16, WAIT)[0]
        assert packet.timestamp > 0
        assert packet.ttl == 64


@pytest.mark.needs("loopback addresses")
def test_each_packet_has_the_source_of_its_own(slots, udp):
    """msg_namelen is in-out too; IPv4 and IPv6 sockets share the slots."""
    receiver, senders = udp(), [udp(), udp("127.0.0.2"), udp("127.0.0.3")]
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as six:
        six.bind(("::1", 0))
        six.setblocking(False)
        for sock in (receiver, six):
            slots.accept(slots.add(sock, sock.getsockname()[1], NOWHERE, 0), EVERYTHING)
        for _ in range(3):
            for sender in senders:
                sender.sendto(b"4", receiver.getsockname())
            block = slots.collect(3, WAIT)
            assert [packet.source_address for packet in block] == [sender.getsockname() for sender in senders]
            six.sendto(b"6", six.getsockname())
            packet = slots.collect(1, WAIT)[0]
            assert packet.source_address == six.getsockname()


@pytest.mark.needs("wire_length")
def test_what_is_longer_than_a_slot_is_truncated_flagged_and_measured(pair):
    pair.arrive(b"x" * 1999, b"x" * 2000, b"x" * 2001, b"x" * 9000, b"next")
    block = pair.slots.collect(5, WAIT)
    assert [len(packet) for packet in block] == [1999, 2000, 2000, 2000, 4]
    assert [packet.wire_length for packet in block] == [1999, 2000, 2001, 9000, 4]
    assert [packet.truncated for packet in block] == [False, False, True, True, False]
    assert block.payloads()[4] == b"next"
    assert pair.slots.counters()["truncated"] == 2
    assert pair.slots.counters()["bytes"] == 1999 + 3 * 2000 + 4


@pytest.mark.parametrize("limit", [1, 2, 15, 16, 17, 40])
def test_a_block_is_no_larger_than_its_limit(pair, limit):
    sent = [bytes([number]) for number in range(40)]
    pair.arrive(*sent)
    received = []
    while len(received) < len(sent):
        block = pair.slots.receive(limit, WAIT)
        assert 1 <= len(block) <= limit
        received += block.payloads()
    assert received == sent


@pytest.mark.needs("fine clock")
@pytest.mark.parametrize("timeout", [0, 1, 20_000_000])
def test_a_receive_without_packets_is_a_timeout_and_not_before(pair, timeout):
    before = time.monotonic_ns()
    with pytest.raises(TimeoutError, match=f"within {timeout / SECOND:g} s"):
        pair.slots.receive(5, timeout)
    assert time.monotonic_ns() - before >= timeout
    with pytest.raises(TimeoutError):
        pair.slots.receive_one(timeout)
    assert len(pair.slots.collect(5, timeout)) == 0


def test_a_wait_of_many_years_is_a_wait(pair):
    pair.arrive(b"a")
    assert pair.slots.receive(1, 2**62).payloads() == [b"a"]
    pair.arrive(b"b")
    assert pair.slots.collect(1, 2**62).payloads() == [b"b"]


def leave_over(pair, *payloads):
    """Receive one packet of several, so that the others are left over."""
    pair.arrive(b"one", *payloads)
    assert pair.slots.receive_one(WAIT).data == b"one"


def test_what_came_with_a_packet_is_left_over_for_the_next_call(pair):
    leave_over(pair, b"2", b"3", b"4")
    pair.arrive(b"5")
    assert pair.slots.receive_one(0).data == b"2"
    assert pair.slots.receive(1, 0).payloads() == [b"3"]
    assert pair.slots.receive(9, 0).payloads() == [b"4"]
    assert pair.slots.receive(9, WAIT).payloads() == [b"5"]


def test_a_collect_begins_with_what_is_left_over(pair):
    leave_over(pair, b"second", b"third")
    pair.arrive(b"fourth")
    block = pair.slots.collect(3, WAIT)
    assert block.payloads() == [b"second", b"third", b"fourth"]
    assert bytes(block.data) == b"secondthirdfourth"
    assert [packet.source_port for packet in block] == [pair.sender.getsockname()[1]] * 3


def test_a_collect_takes_no_more_of_what_is_left_over_than_its_limit(pair):
    leave_over(pair, b"2", b"3", b"4")
    assert pair.slots.collect(2, 0).payloads() == [b"2", b"3"]
    assert pair.slots.collect(2, 0).payloads() == [b"4"]


def test_slots_iterate_over_batches_until_closed(pair):
    pair.slots.timeout_ns = WAIT
    leave_over(pair, b"2", b"3")
    batches = iter(pair.slots)
    assert next(batches).payloads() == [b"2", b"3"]
    pair.arrive(b"4")
    assert next(batches).payloads() == [b"4"]
    pair.slots.timeout_ns = 0
    with pytest.raises(TimeoutError):
        next(batches)
    pair.slots.close()
    assert list(batches) == []


def test_every_socket_has_its_turn(slots, udp):
    """Busy sockets do not starve the others, and each keeps its order."""
    sender, receivers = udp(), [udp() for _ in range(3)]
    for receiver in receivers:
        slots.accept(slots.add(receiver, receiver.getsockname()[1], NOWHERE, 0), EVERYTHING)
    for number in range(100):
        for receiver in receivers:
            sender.sendto(bytes([number]), receiver.getsockname())
    block = slots.collect(300, WAIT)
    by_port = {receiver.getsockname()[1]: [] for receiver in receivers}
    for packet in block:
        by_port[packet.port].append(packet.data[0])
    assert list(by_port.values()) == [list(range(100))] * 3


def test_counters_add_up(pair):
    assert set(pair.slots.counters()) == {
        "received", "bytes", "truncated", "filtered", "fragments", "dropped_socket", "dropped_ring", "detached", "batches",
        "largest_batch", "wakeups", "dropped_memory", "buffers", "coalesced", "dropped_inexactly",
    }  # fmt: skip
    assert not any(pair.slots.counters().values())
    pair.arrive(b"aa", b"bbb")
    pair.slots.collect(2, WAIT)
    pair.arrive(b"c")
    pair.slots.receive(5, WAIT)
    told = pair.slots.counters()
    assert (told["received"], told["bytes"], told["batches"], told["largest_batch"]) == (3, 6, 2, 2)
    assert (told["truncated"], told["filtered"], told["dropped_memory"]) == (0, 0, 0)


def test_a_wait_that_ends_with_a_packet_is_a_wakeup(pair):
    pair.arrive(b"a")
    pair.slots.receive(1, WAIT)
    assert pair.slots.counters()["wakeups"] == 1


def test_a_wait_in_vain_is_no_wakeup(pair):
    assert received_now(pair.slots) == []
    assert len(pair.slots.collect(1, 1_000_000)) == 0
    assert pair.slots.counters()["wakeups"] == 0


# ---- filters ----


def test_nothing_passes_before_a_filter_is_set(slots, udp):
    sender, receiver = udp(), udp()
    slots.add(receiver, 1, GROUP, 7)
    sender.sendto(b"a", receiver.getsockname())
    assert select.select([receiver], [], [], 5)[0]
    assert received_now(slots) == []
    assert slots.counters()["filtered"] == 1


# Rows of a filter -> whether a packet of GROUP on interface 7 from 127.0.0.1 passes.
ROWS = {
    "no rows": ([], False),
    "the group": ([(GROUP, 7, True, [])], True),
    "the group on any interface": ([(GROUP, 0, True, [])], True),
    "another interface": ([(GROUP, 8, True, [])], False),
    "another group": ([(OTHER_GROUP, 7, True, [])], False),
    "included": ([(GROUP, 7, False, [HERE])], True),
    "included among others": ([(GROUP, 7, False, [ELSEWHERE, HERE, bytes(16), b"\xff" * 16])], True),
    "another included": ([(GROUP, 7, False, [ELSEWHERE])], False),
    "none included": ([(GROUP, 7, False, [])], False),
    "excluded": ([(GROUP, 7, True, [ELSEWHERE, HERE])], False),
    "another excluded": ([(GROUP, 7, True, [ELSEWHERE])], True),
    "the interface's own row counts": ([(GROUP, 0, True, []), (GROUP, 7, False, [ELSEWHERE])], False),
    "any row behind another interface's": ([(GROUP, 8, False, []), (GROUP, 0, True, [])], True),
    "many rows": ([(map_address(f"239.2.{n // 256}.{n % 256}"), 7, True, []) for n in range(1000)] + [(GROUP, 7, True, [])], True),
    "many rows but ours": ([(map_address(f"239.2.{n // 256}.{n % 256}"), 7, True, []) for n in range(1000)], False),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize(("rows", "passes"), ROWS.values(), ids=ROWS.keys())
def test_a_filter_passes_what_was_asked_for_and_counts_the_rest(pair, rows, passes):
    pair.slots.accept(pair.key, rows)
    pair.arrive(b"a", b"b")
    block = pair.slots.collect(2, WAIT if passes else 100_000_000)
    assert block.payloads() == ([b"a", b"b"] if passes else [])
    assert pair.slots.counters()["filtered"] == (0 if passes else 2)
    assert pair.slots.counters()["received"] == (2 if passes else 0)


def test_a_filter_also_holds_for_what_was_queued_before(pair):
    pair.arrive(b"queued")
    pair.slots.accept(pair.key, [])
    assert received_now(pair.slots) == []
    pair.slots.accept(pair.key, EVERYTHING)
    pair.arrive(b"a")
    assert pair.slots.receive(1, WAIT).payloads() == [b"a"]


def test_a_filter_of_a_key_that_is_not_there_changes_nothing(pair):
    pair.slots.accept(pair.key + 5, [])
    pair.slots.remove(pair.key + 5)
    pair.arrive(b"a")
    assert pair.slots.receive(1, WAIT).payloads() == [b"a"]


@pytest.mark.needs("loopback addresses")
def test_filtered_packets_leave_no_hole_between_the_others(slots, udp):
    here, elsewhere, receiver = udp(), udp("127.0.0.2"), udp()
    key = slots.add(receiver, 1, GROUP, 7)
    slots.accept(key, [(GROUP, 7, False, [HERE])])
    for number in range(50):
        elsewhere.sendto(b"unwanted", receiver.getsockname())
        here.sendto(bytes([number]) * number, receiver.getsockname())
    block = slots.collect(50, WAIT)
    assert block.payloads() == [bytes([number]) * number for number in range(50)]
    assert bytes(block.data) == b"".join(block.payloads())
    assert slots.counters()["filtered"] == 50


def drops_of(sock):
    return struct.unpack("=9I", sock.getsockopt(*_core.membership.OPTIONS["SO_MEMINFO"], 36))[8]


def overflow(pair):
    """Fill the receiving socket's buffer beyond its end; how many packets it holds, and how many the kernel dropped."""
    if "SO_MEMINFO" not in _core.membership.OPTIONS:
        pytest.skip("feature drop_totals")
    option(pair.receiver, "SO_RXQ_OVFL", 1)
    pair.receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    sent = 100
    pair.arrive(*[b"x" * 500] * sent)
    deadline = time.monotonic() + 5
    while not (dropped := drops_of(pair.receiver)) and time.monotonic() < deadline:
        pass
    assert 0 < dropped < sent
    return sent - dropped, dropped


def test_drops_come_with_the_packet_after_them(pair):
    held, dropped = overflow(pair)
    block = pair.slots.collect(held, WAIT)
    assert [packet.dropped for packet in block] == [0] * held
    pair.arrive(b"next")
    assert pair.slots.receive(5, WAIT)[0].dropped == dropped
    pair.arrive(b"and next")
    assert pair.slots.receive(5, WAIT)[0].dropped == 0


@pytest.mark.parametrize("used", [False, True])
def test_drops_of_before_a_socket_was_added_count_unless_another_program_had_used_it(pair, used):
    _, dropped = overflow(pair)
    pair.slots.remove(pair.key)  # what it held goes with it
    before = pair.slots.counters()["dropped_socket"]
    pair.slots.accept(pair.slots.add(pair.receiver, 1, GROUP, 7, None, used), EVERYTHING)
    counted = 0 if used else dropped
    assert pair.slots.counters()["dropped_socket"] == before + counted
    pair.arrive(b"next")
    (packet,) = pair.slots.receive(5, WAIT)
    assert (packet.data, packet.dropped) == (b"next", counted)


def test_drops_told_with_filtered_packets_belong_to_the_next_record(pair):
    held, dropped = overflow(pair)
    assert len(pair.slots.collect(held, WAIT)) == held
    pair.slots.accept(pair.key, [])
    for number in (1, 2, 3):
        pair.arrive(b"filtered")
        assert received_now(pair.slots) == []
        assert pair.slots.counters()["filtered"] == number
    pair.slots.accept(pair.key, EVERYTHING)
    pair.arrive(b"next", b"and next")
    block = pair.slots.collect(2, WAIT)
    assert [packet.dropped for packet in block] == [dropped, 0]


# ---- taking sockets in and out, closing ----


def test_a_removed_socket_is_received_from_no_more_and_stays_open(pair, udp):
    other = udp()
    pair.slots.accept(pair.slots.add(other, 1, GROUP, 7), EVERYTHING)
    pair.slots.remove(pair.key)
    pair.slots.remove(pair.key)
    pair.arrive(b"to the removed one")
    pair.sender.sendto(b"to the other", other.getsockname())
    assert pair.slots.receive(5, WAIT).payloads() == [b"to the other"]
    assert received_now(pair.slots) == []
    assert pair.receiver.recv(100) == b"to the removed one"


def test_a_removed_socket_can_come_back(pair, udp):
    """Its key is unique among those that are in use."""
    other = pair.slots.add(udp(), 1, GROUP, 7)
    pair.slots.remove(pair.key)
    key = pair.slots.add(pair.receiver, 1, OTHER_GROUP, 1)
    assert key != other
    pair.slots.accept(key, EVERYTHING)
    pair.arrive(b"a")
    assert pair.slots.receive(5, WAIT)[0].group == "239.1.1.2"


class Late(selectors.SelectSelector):
    """A thread that waits by select(2): what else happens between listing the descriptors and looking at them."""

    meanwhile = staticmethod(lambda: None)

    def _select(self, r, w, x, timeout=None):
        listed, once, self.meanwhile = list(r), self.meanwhile, Late.meanwhile
        once()
        return (*select.select(listed, w, x, timeout)[:2], [])


def test_a_wait_by_select_goes_on_when_a_socket_is_removed_and_closed_meanwhile(udp, monkeypatch):
    """Where there is neither epoll nor kqueue: on Windows, and where gevent took them away."""
    monkeypatch.setattr(selectors, "DefaultSelector", Late)
    slots = both("slots")[1].Slots(16, 2000, {}, "the tested")
    gone, stays, sender = udp(), udp(), udp()
    key, other = (slots.add(one, 1, GROUP, 7) for one in (gone, stays))
    slots.accept(other, EVERYTHING)

    def leave():
        slots.remove(key)
        gone.close()
        sender.sendto(b"a", stays.getsockname())

    slots._selector.meanwhile = leave
    assert slots.receive(5, WAIT).payloads() == [b"a"]
    slots._selector.meanwhile = stays.close  # by somebody else
    with pytest.raises(SocketError, match="receive by the tested: "):
        slots.receive(5, WAIT)
    slots.close()


@pytest.mark.parametrize("code", [errno.EBADF, errno.ENOTCONN])
def test_a_wait_outlives_an_error_of_a_socket_that_is_gone(udp, monkeypatch, code):
    """eventlet throws what it has to say of a socket that was closed into whatever its green thread waits for next."""
    monkeypatch.setattr(selectors, "DefaultSelector", Late)
    slots = both("slots")[1].Slots(16, 2000, {}, "the tested")
    stays, sender = udp(), udp()
    slots.accept(slots.add(stays, 1, GROUP, 7), EVERYTHING)

    def fail():
        sender.sendto(b"a", stays.getsockname())
        raise OSError(code, "of a socket that was removed before this wait")

    slots._selector.meanwhile = fail
    assert slots.receive(5, WAIT).payloads() == [b"a"]
    slots.close()


class Lazy(selectors.SelectSelector):
    """As gevent's: without a wait it knows what a wait before has brought, and nothing else."""

    def select(self, timeout=None):
        return super().select(timeout) if timeout else []


def test_a_selector_that_does_not_look_without_a_wait_is_not_believed(udp, monkeypatch):
    monkeypatch.setattr(selectors, "DefaultSelector", Lazy)
    monkeypatch.setattr("mcast_fast._core.pure.rounds._LOOKS_AT_ONCE", False)
    slots = both("slots")[1].Slots(16, 2000, {}, "the tested")
    one, sender = udp(), udp()
    slots.accept(slots.add(one, 1, GROUP, 7), EVERYTHING)
    assert not slots.wait(0)
    with pytest.raises(TimeoutError):
        slots.receive(5, 0)
    sender.sendto(b"a", one.getsockname())
    assert slots.wait(0)
    assert slots.receive(5, 0).payloads() == [b"a"]
    assert not slots.wait(0)
    slots.close()


def test_after_a_close_nothing_is_received_and_all_is_counted(pair):
    pair.arrive(b"a")
    pair.slots.receive(1, WAIT)
    assert not pair.slots.closed
    pair.slots.close()
    pair.slots.close()
    assert pair.slots.closed
    for call in (
        lambda: pair.slots.receive(1, 0),
        lambda: pair.slots.receive(1, -1),
        lambda: pair.slots.collect(1, 0),
        lambda: pair.slots.receive_one(0),
        lambda: pair.slots.wait(0),
        lambda: pair.slots.give_back([]),
        lambda: pair.slots.add(pair.receiver, 1, GROUP, 0),
        lambda: pair.slots.accept(pair.key, []),
        pair.slots.__enter__,
        pair.slots.fileno,
    ):
        with pytest.raises(ClosedError, match="the tested is closed"):
            call()
    pair.slots.remove(pair.key)
    assert pair.slots.counters()["received"] == 1
    pair.arrive(b"still open")
    assert pair.receiver.recv(100) == b"still open"


def test_a_close_wakes_all_who_receive(pair):
    caught = []

    def receive():
        try:
            pair.slots.receive(1, -1)
        except ClosedError as error:
            caught.append(error)

    threads = [threading.Thread(target=receive) for _ in range(3)]
    for thread in threads:
        thread.start()
    pair.slots.close()
    for thread in threads:
        thread.join(5)
    assert len(caught) == 3


def test_what_came_before_a_close_is_collected(pair):
    pair.arrive(b"a", b"b")
    found = []
    thread = threading.Thread(target=lambda: found.extend(pair.slots.collect(3, -1).payloads()))
    thread.start()
    deadline = time.monotonic() + 5
    while pair.slots.counters()["received"] < 2 and time.monotonic() < deadline:
        pass
    pair.slots.close()
    thread.join(5)
    assert found == [b"a", b"b"]


def test_slots_leave_no_descriptor_open(backend, no_leak):
    _core.slots.Slots(1, 100, {}, "the tested").close()


def test_who_is_last_out_tears_down_and_reports_it_once(pair):
    ended = []
    pair.slots.when_idle = lambda: ended.append(pair.slots.closed)
    with pair.slots:
        with pair.slots.inside():
            pair.slots.check()
            pair.slots.close()
        pair.slots.settle()
        assert ended == []
        with pytest.raises(ClosedError):
            pair.slots.receive(1, 0)
        assert ended == []
    assert ended == [True]
    pair.slots.close()
    pair.slots.settle()
    assert ended == [True]


@pytest.mark.needs("signals to processes")
def test_in_another_process_there_is_nothing_but_closing(pair, udp):
    """And the process that opened it notices nothing."""
    leave_over(pair, b"2")
    calls = [
        lambda: pair.slots.receive(1, 0),
        lambda: pair.slots.receive_one(0),
        lambda: pair.slots.collect(1, 0),
        lambda: pair.slots.wait(0),
        lambda: pair.slots.give_back([]),
        lambda: pair.slots.add(pair.receiver, 1, GROUP, 0),
        lambda: pair.slots.accept(pair.key, []),
        pair.slots.counters,
        pair.slots.fileno,
        pair.slots.__enter__,
    ]
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            words = {str(error) for call in calls if (error := error_of(call)) is not None}
            pair.slots.close()
            good = words == {"the tested was opened in another process"} and pair.slots.foreign and pair.slots.closed
            status = 0 if good else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not pair.slots.foreign
    assert pair.slots.receive(5, 0).payloads() == [b"2"]
    with pytest.raises(TimeoutError):
        pair.slots.receive(1, 1_000_000)
    pair.arrive(b"3")
    assert pair.slots.receive(5, WAIT).payloads() == [b"3"]


def error_of(call):
    try:
        call()
    except ClosedError as error:
        return error
    raise AssertionError("it was not refused")


@pytest.mark.parametrize("end", ["remove", "close"])
def test_the_drops_of_a_socket_are_counted_for_good(pair, end):
    held, dropped = overflow(pair)
    assert pair.slots.counters()["dropped_socket"] == dropped
    assert len(pair.slots.collect(held, WAIT)) == held
    if end == "remove":
        pair.slots.remove(pair.key)
    else:
        pair.slots.close()
    pair.receiver.close()
    assert pair.slots.counters()["dropped_socket"] == dropped


def test_the_drops_of_what_is_filtered_later_are_those_of_the_next_one(pair, udp):
    sources = [record(0, 1)[:24] + address + record(0, 1)[40:] for address in (ELSEWHERE, HERE)]
    drops = [
        RECORD.pack(*RECORD.unpack(one)[:3], 3 + number, *RECORD.unpack(one)[4:]) for number, one in enumerate(sources)
    ]
    batch = _core.views.Batch.from_bytes(b"".join(drops), b"a", {})
    port = batch[0].port
    key = pair.slots.add(udp(), port, GROUP, 1)
    pair.slots.accept(key, EVERYTHING)
    pair.slots.give_back([batch])
    pair.slots.accept(key, [(GROUP, 1, False, [HERE])])
    (left,) = pair.slots.receive(5, 0)
    assert (left.source, left.dropped) == ("127.0.0.1", 7)
    assert [packet.dropped for packet in batch] == [3, 4]


def readable(number):
    return bool(select.select([number], [], [], 0)[0])


@pytest.mark.needs("descriptor")
def test_the_descriptor_is_readable_when_a_receive_would_not_wait(pair):
    number = pair.slots.fileno()
    assert not readable(number)
    pair.arrive(b"a")
    assert select.select([number], [], [], 5)[0]
    pair.slots.receive(5, WAIT)
    assert not readable(number)


@pytest.mark.needs("descriptor")
@pytest.mark.parametrize("exposed", ["before", "after"])
def test_the_descriptor_is_readable_while_something_is_left_over(pair, exposed):
    number = pair.slots.fileno() if exposed == "before" else -1
    for _ in range(3):
        leave_over(pair, b"2", b"3")
        number = pair.slots.fileno()
        assert readable(number)
        pair.slots.receive_one(0)
        assert readable(number)
        pair.slots.receive_one(0)
        assert not readable(number)


def test_what_is_left_over_goes_with_a_close(pair):
    leave_over(pair, b"2")
    pair.slots.close()
    with pytest.raises(ClosedError):
        pair.slots.receive_one(0)


# ---- what the system refuses ----


@pytest.fixture
def refused(slots, udp):
    """A socket that `slots` receives from, and that the system answers ECONNREFUSED for each datagram it sends."""
    sock = udp()
    sock.connect(("127.0.0.1", free_port()))
    slots.accept(slots.add(sock, 1, GROUP, 7), EVERYTHING)
    return sock


def refuse(sock):
    sock.send(b"nobody is there")
    poll = select.poll()
    poll.register(sock, 0)
    assert poll.poll(5000)


@pytest.mark.needs("reported refusals")
def test_an_error_of_the_system_is_an_os_error(slots, refused):
    refuse(refused)
    with pytest.raises(SocketError, match=r"receive by the tested.*refused") as caught:
        slots.receive(1, WAIT)
    assert caught.value.errno == errno.ECONNREFUSED
    assert received_now(slots) == []


@pytest.mark.needs("reported refusals")
def test_an_error_waits_until_the_packets_before_it_are_delivered(pair, refused):
    """Whichever socket is read first: no packet is lost, and the error is told once."""
    for _ in range(4):
        pair.arrive(b"a", b"b")
        refuse(refused)
        received, errors = [], 0
        deadline = time.monotonic() + 5
        while (len(received) < 2 or not errors) and time.monotonic() < deadline:
            try:
                received += pair.slots.receive(16, SECOND).payloads()
            except SocketError as error:
                assert error.errno == errno.ECONNREFUSED
                errors += 1
        assert (received, errors) == ([b"a", b"b"], 1)
        assert received_now(pair.slots) == []


@pytest.mark.needs("reported refusals")
def test_an_error_loses_nothing_that_was_collected(pair, refused):
    """The error behind collected packets comes with the next call."""
    for _ in range(4):
        pair.arrive(b"a", b"b")
        refuse(refused)
        received, errors = [], 0
        deadline = time.monotonic() + 5
        while (len(received) < 2 or not errors) and time.monotonic() < deadline:
            try:
                received += pair.slots.collect(16, SECOND // 20).payloads()
            except SocketError as error:
                assert error.errno == errno.ECONNREFUSED
                errors += 1
        assert (received, errors) == ([b"a", b"b"], 1)


# ---- batches of bytes ----


RECORDS = st.lists(
    st.tuples(st.integers(0, 300) | st.integers(0, 2**32 - 1), st.integers(0, 300) | st.integers(0, 2**16 - 1)),
    max_size=5,
)


def record(offset, length):
    return RECORD.pack(1, offset, 1, 0, length, length, HERE, GROUP, 1, 2, 0, 0, 0)


@pytest.mark.long
@given(records=RECORDS, arena=st.binary(max_size=300))
def test_records_make_a_block_only_when_their_payloads_lie_in_the_arena(backend, records, arena):
    packed = b"".join(record(*one) for one in records)
    inside = all(offset + length <= len(arena) for offset, length in records)
    try:
        block = _core.views.Batch.from_bytes(packed, arena, {})
    except ValueError:
        assert not inside
        return
    assert inside
    assert block.payloads() == [arena[offset : offset + length] for offset, length in records]
    assert [bytes(packet.view) for packet in block] == block.payloads()
    assert (bytes(block.records), bytes(block.data)) == (packed, arena)


@given(records=st.binary(max_size=200) | st.binary(min_size=64, max_size=64), arena=st.binary(max_size=100))
def test_any_bytes_make_a_block_or_a_value_error(backend, records, arena):
    try:
        block = _core.views.Batch.from_bytes(records, arena, {})
    except ValueError as error:
        assert str(error) == "the records do not fit the data"
        return
    assert len(block) * RECORD_SIZE == len(records)
    for packet in block:
        assert len(packet.data) == len(packet) <= len(arena)
        assert repr(packet)


def test_both_backends_take_and_refuse_the_same_records():
    fast, pure = both("views")
    arena = bytes(10)
    for offset, length in itertools.product((0, 1, 9, 10, 11, 2**31, 2**32 - 1), (0, 1, 9, 10, 11, 2**16 - 1)):
        packed = record(offset, length)
        assert raised(fast.Batch.from_bytes, packed, arena, {}) == raised(pure.Batch.from_bytes, packed, arena, {})


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, "u1")])
def test_a_block_is_made_of_copies(backend, kind):
    records, arena = bytearray(record(0, 3)), bytearray(b"abc")
    block = _core.views.Batch.from_bytes(kind(records), kind(arena), {})
    records[:], arena[:] = bytes(64), b"xyz"
    assert block.payloads() == [b"abc"]


def test_a_block_is_made_of_what_another_exports(backend):
    block = _core.views.Batch.from_bytes(record(0, 2) + record(1, 2), b"abc", {})
    again = _core.views.Batch.from_bytes(block.records, block.data, block.names)
    assert again.payloads() == [b"ab", b"bc"]


def test_batches_and_packets_cannot_be_made_of_nothing(backend):
    for kind in (_core.views.Batch, _core.views.Packet):
        with pytest.raises(TypeError, match="come from"):
            kind()


# ---- memberships ----


LO = next(one.index for one in interfaces() if one.is_loopback)
A, B, SOURCE = (socket.inet_aton(text) for text in ("239.1.1.1", "239.1.1.2", "127.0.0.1"))
SIX = socket.inet_pton(socket.AF_INET6, "ff11::1")
NO_INTERFACE = 999_999

# What a fresh IPv4 socket is asked to do -> the type and number of the error of the last step.
STEPS = {
    "join": ([("join", LO, A)], None),
    "join twice": ([("join", LO, A)] * 2, (OSError, errno.EADDRINUSE)),
    "join two": ([("join", LO, A), ("join", LO, B)], None),
    "leave": ([("join", LO, A), ("leave", LO, A)], None),
    "leave what is not held": ([("leave", LO, A)], (OSError, errno.EADDRNOTAVAIL)),
    "no such interface": ([("join", NO_INTERFACE, A)], (OSError, errno.ENODEV)),
    "unicast": ([("join", LO, SOURCE)], (OSError, errno.EINVAL)),
    "one source": ([("join", LO, A, SOURCE)], None),
    "one source twice": ([("join", LO, A, SOURCE)] * 2, (OSError, errno.EADDRNOTAVAIL)),
    "leave a source": ([("join", LO, A, SOURCE), ("leave", LO, A, SOURCE)], None),
    "leave another source": ([("join", LO, A, SOURCE), ("leave", LO, A, b"\x7f\0\0\2")], (OSError, errno.EADDRNOTAVAIL)),
    "all after one source": ([("join", LO, A, SOURCE), ("join", LO, A)], (OSError, errno.EADDRINUSE)),
    "two families": ([("join", LO, A, SIX)], (ValueError, None)),
    "no family": ([("join", LO, b"123")], (ValueError, None)),
    "no group": ([("join", LO, b"")], (ValueError, None)),
    "a text": ([("join", LO, "239.1.1.1")], (TypeError, None)),
}  # fmt: skip


@pytest.mark.parametrize(("steps", "wanted"), STEPS.values(), ids=STEPS.keys())
def test_a_membership_call_is_done_or_refused_as_the_system_says(backend, udp, steps, wanted):
    sock = udp()
    for name, *arguments in steps[:-1]:
        getattr(_core.membership, name)(sock, *arguments)
    name, *arguments = steps[-1]
    told = raised(getattr(_core.membership, name), sock, *arguments)
    if TOOLS["answers of Linux"] or wanted is None:
        assert told == wanted
    else:  # the number is another one; and not every system minds
        assert told in (None, wanted) or told[0] is wanted[0]


def test_an_ipv6_group_is_joined_by_index(backend):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        _core.membership.join(sock, LO, SIX)
        with pytest.raises(OSError, match=r".") as caught:
            _core.membership.join(sock, LO, SIX)
        assert caught.value.errno == errno.EADDRINUSE
        _core.membership.leave(sock, LO, SIX)


@pytest.mark.needs("answers of Linux")
def test_a_membership_call_on_a_closed_socket_is_an_os_error(backend):
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.close()
    assert raised(_core.membership.join, sock, LO, A) == (OSError, errno.EBADF)


@pytest.mark.needs("answers of Linux")
def test_the_sending_interface_is_set_by_index_and_source(backend, udp):
    sock = udp("0.0.0.0")
    _core.membership.set_send_interface(sock, LO, SOURCE)
    told = sock.getsockopt(*_core.membership.OPTIONS["IP_MULTICAST_IF"], 4)
    assert told == SOURCE
    assert raised(_core.membership.set_send_interface, sock, NO_INTERFACE, SOURCE)[1] == errno.EADDRNOTAVAIL
    assert raised(_core.membership.set_send_interface, sock, LO, SIX) == (ValueError, None)


# ---- parity ----


def both(module):
    """The module of the fast backend and of the pure one."""
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    return tuple(importlib.import_module(f"mcast_fast._core.{name}.{module}") for name in ("fast", "pure"))


def named_by_stub(module):
    """The names that a .pyi file promises."""
    stub = Path(layout.__file__).parent / "fast" / f"{module}.pyi"
    names = set()
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign):
            names.add(ast.unparse(node.target))
    return names


CONTRACT = {module: named_by_stub(module) for module in _core.MODULES}
CALLABLES = [(module, name) for module in CONTRACT for name in sorted(CONTRACT[module]) if not name.isupper()]


@pytest.mark.parametrize("module", _core.MODULES)
def test_both_backends_offer_what_the_contract_names(module):
    for one in both(module):
        assert {name for name in CONTRACT[module] if hasattr(one, name)} == CONTRACT[module]


@pytest.mark.parametrize(("module", "name"), CALLABLES)
def test_both_backends_say_the_same_of_themselves(module, name):
    fast, pure = (getattr(one, name) for one in both(module))
    assert inspect.getdoc(fast)
    assert inspect.getdoc(fast) == inspect.getdoc(pure)


OF_INSTANCES = {"names", "timeout_ns", "when_idle", "when_receiving"}  # attributes: a class of Python has none of them


def public(kind):
    return {name for name in dir(kind) if not name.startswith("_")} - OF_INSTANCES


@pytest.mark.parametrize(
    ("module", "name"),
    [("views", "Batch"), ("views", "Packet"), ("slots", "Slots"), ("send", "Transmitter"), ("send", "Schedule")],
)
def test_the_classes_of_both_backends_have_the_same_public_names_and_docstrings(module, name):
    fast, pure = (getattr(one, name) for one in both(module))
    assert public(fast) == public(pure)
    for member in public(fast):
        told = inspect.getdoc(getattr(fast, member)), inspect.getdoc(getattr(pure, member))
        assert told[0] == told[1], member
        assert told[0], member
    assert all(hasattr(kind, special) for kind in (fast, pure) for special in ("__doc__", "__repr__"))


@pytest.mark.parametrize(("module", "name"), [("views", "Batch"), ("views", "Packet"), ("slots", "Slots")])
def test_methods_of_both_backends_take_the_same_number_of_arguments(module, name):
    """Compiled methods have no signature: each is called with none, and with far too many."""
    fast, pure = (getattr(one, name) for one in both(module))
    for member in public(fast):
        method = getattr(pure, member)
        if not inspect.isfunction(method):
            continue
        for count in (0, 30):
            wants = [raised(getattr(kind, member), *[None] * count) for kind in (fast, pure)]
            assert wants[0] == wants[1] == (TypeError, None), member


@pytest.mark.parametrize(
    ("module", "name"), [(module, name) for module, name in CALLABLES if name[0].islower()]
)  # fmt: skip
def test_functions_of_both_backends_have_the_same_parameters(module, name):
    fast, pure = (inspect.signature(getattr(one, name)) for one in both(module))
    assert list(fast.parameters) == list(pure.parameters)
    assert [one.default for one in fast.parameters.values()] == [one.default for one in pure.parameters.values()]


@pytest.mark.needs("recvmsg")
def test_the_option_tables_of_both_backends_agree():
    """The pure table was typed in from the systems' headers; the compiled one comes from the headers themselves."""
    fast, pure = both("membership")
    assert fast.OPTIONS == pure.OPTIONS
    assert fast.SYSTEM == pure.SYSTEM


@pytest.mark.parametrize("module", ["views", "slots", "send"])
def test_both_backends_speak_of_the_same_features(module):
    fast, pure = both(module)
    assert fast.FEATURES.keys() == pure.FEATURES.keys() <= layout.FEATURES.keys()
    assert all(feature.on or feature.reason for one in (fast, pure) for feature in one.FEATURES.values())


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (("membership", "join"), (b"123", None)),
        (("membership", "join"), (A, SIX)),
        (("membership", "leave"), (b"", None)),
    ],
)
def test_both_backends_refuse_in_the_same_words(udp, call, arguments):
    module, name = call
    messages = set()
    for one in both(module):
        with pytest.raises(ValueError, match=r".") as caught:
            getattr(one, name)(udp(), LO, *arguments)
        messages.add(str(caught.value))
    assert len(messages) == 1


def test_both_backends_count_the_same(udp):
    """The same calls and traffic, the same counters."""
    told = []
    for module in both("slots"):
        slots, sender, receiver = module.Slots(16, 100, {}, "the tested"), udp(), udp()
        slots.accept(slots.add(receiver, 1, GROUP, 7), EVERYTHING)
        for step in ([b"a"] * 3, [b"b" * 200] * 2, [b"c"]):
            for payload in step:
                sender.sendto(payload, receiver.getsockname())
            assert select.select([receiver], [], [], 5)[0]
            slots.collect(len(step), WAIT)
        assert received_now(slots) == []
        counters = slots.counters()
        del counters["wakeups"]  # how often the kernel wakes a waiting thread is its own business
        told.append(counters)
        slots.close()
    assert told[0] == told[1]


# ---- the choice of the backend ----


def python(code, **environment):
    """Run a program in a fresh interpreter; its result, and what it printed."""
    inherited = {name: value for name, value in os.environ.items() if name != "MCAST_FAST_BACKEND"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=inherited | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


SHOW = "import mcast_fast; print(mcast_fast.backend, mcast_fast.features()['fast'])"
WITHOUT_EXTENSION = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.startswith("mcast_fast._core.fast."):
            raise ImportError("no extension here", name=name)
sys.meta_path.insert(0, Blocker())
"""


def test_the_environment_chooses_pure_silently():
    done = python("import warnings; warnings.simplefilter('error');" + SHOW, MCAST_FAST_BACKEND="pure")
    assert done.stdout == "pure Feature(on=False, reason='MCAST_FAST_BACKEND=pure')\n", done.stderr
    assert done.stderr == ""


@pytest.mark.long
@pytest.mark.parametrize("environment", [{}, {"MCAST_FAST_BACKEND": ""}, {"MCAST_FAST_BACKEND": "fast"}])
def test_fast_is_chosen_where_it_is(environment):
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    done = python("import warnings; warnings.simplefilter('error');" + SHOW, **environment)
    assert done.stdout == "fast Feature(on=True, reason='')\n", done.stderr


def test_a_backend_that_does_not_exist_is_refused_with_those_that_do():
    done = python(SHOW, MCAST_FAST_BACKEND="nonsense")
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert "MCAST_FAST_BACKEND='nonsense'" in last
    assert "fast, pure" in last


@pytest.mark.needs("compiled modules")
def test_a_missing_extension_is_said_loudly_and_pure_runs():
    done = python(WITHOUT_EXTENSION + SHOW)
    assert done.stdout.startswith("pure Feature(on=False, reason='the compiled backend is missing (no extension here)'")
    assert "MulticastWarning" in done.stderr
    assert "MCAST_FAST_BUILD=yes" in done.stderr


SECOND_INTERPRETER = """
import sys
try:
    import _interpreters as interpreters  # CPython 3.13 and newer
except ImportError:
    import _xxsubinterpreters as interpreters
import mcast_fast
first, one = mcast_fast.backend, interpreters.create()
interpreters.run_string(one, f"import sys; sys.path[:] = {sys.path}; " + sys.argv[1])
assert mcast_fast.backend == first
"""


@pytest.mark.needs("compiled modules")
def test_a_second_interpreter_is_told_where_the_compiled_backend_runs():
    """To build it again would change nothing."""
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    asked = SHOW + "; from mcast_fast import _core; print(_core.remedy())"
    done = python(SECOND_INTERPRETER.replace("sys.argv[1]", repr(asked)))
    chosen, remedy = done.stdout.splitlines() or [done.stderr, ""]
    assert chosen.startswith("pure Feature(on=False, reason='this is a second interpreter of its process")
    assert "main interpreter" in remedy
    assert "MulticastWarning" in done.stderr
    assert remedy in done.stderr
    assert "compiler" not in done.stderr


@pytest.mark.long
@pytest.mark.needs("compiled modules")
def test_the_first_line_of_the_demo_says_how_to_build_a_missing_extension():
    pytest.importorskip("click")
    demo = "import sys; sys.argv = ['mcast-fast', 'demo', '-c', '10']; from mcast_fast.__main__ import main; main()"
    first = python(WITHOUT_EXTENSION + demo).stdout.splitlines()[0]
    assert "pure backend" in first
    assert "MCAST_FAST_BUILD=yes" in first
    chosen = python(WITHOUT_EXTENSION + demo, MCAST_FAST_BACKEND="pure").stdout.splitlines()[0]
    assert "MCAST_FAST_BUILD" not in chosen


def test_a_missing_extension_that_was_insisted_on_is_an_import_error():
    done = python(WITHOUT_EXTENSION + SHOW, MCAST_FAST_BACKEND="fast")
    assert done.returncode != 0
    assert "ImportError: no extension here" in done.stderr


def test_pure_loads_nothing_compiled():
    code = "import sys, mcast_fast; print([name for name in sys.modules if name.startswith('mcast_fast._core.fast')])"
    assert python(code, MCAST_FAST_BACKEND="pure").stdout == "[]\n"


@pytest.mark.long
def test_every_feature_is_told_with_its_reason_when_it_is_off():
    code = "import mcast_fast; print(all(f.on or f.reason for f in mcast_fast.features().values()), len(mcast_fast.features()))"
    for name in ("fast", "pure"):
        if name == "fast" and has_fast():
            continue
        assert python(code, MCAST_FAST_BACKEND=name).stdout == f"True {len(layout.FEATURES)}\n"


def test_an_unmapped_address_is_not_taken_for_a_mapped_one():
    assert V4_MAPPED + bytes(4) == map_address("0.0.0.0")
    assert map_address("::") == bytes(16)


def test_all_are_closed_where_the_names_of_modules_are_gone():
    """As the interpreter ends, they may be gone before the objects are; to try again then would never end."""
    alone = FunctionType(lifetime.close_all.__code__, {"__builtins__": builtins})
    left = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    alone(left)
    assert [one.fileno() for one in left] == [-1, -1]
