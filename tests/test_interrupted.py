"""The handler of a signal at every moment of a call, on the pure backend: what it raises, closes or receives loses nothing.

CPython runs handlers when a function of Python begins and after each call of one of C; sys.setprofile reports both, so that
every such moment is tried in turn instead of hoped for. The fast backend runs handlers at a few places of its own only.
"""

import contextlib
import importlib
import itertools
import os
import platform
import select
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest

from mcast_fast._core.addresses import map_address
from mcast_fast.errors import ClosedError
from mcast_fast.sequence import Format

pytestmark = pytest.mark.skipif(platform.python_implementation() != "CPython", reason="moments are those of CPython")

GROUP = map_address("239.1.1.1")
WAIT = 5_000_000_000
PACKETS = 8
OURS = f"{os.sep}_core{os.sep}pure{os.sep}"


class InterruptedCallError(Exception):
    """What the handler raises."""


class Setup:
    """Slots of the pure backend that hear one socket, and what was sent to it."""

    def __init__(self) -> None:
        self.slots = importlib.import_module("mcast_fast._core.pure.slots").Slots(4, 2000, {}, "the tested")
        self.receiver, self.sender = (socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2))
        self.receiver.bind(("127.0.0.1", 0))
        self.receiver.setblocking(False)
        sequences = importlib.import_module("mcast_fast._core.pure.sequence")
        self.tracker = sequences.Tracker(Format.parse("u32be@0").plan, False, WAIT, 10)
        self.slots.track(self.tracker)
        self.key = self.slots.add(self.receiver, 1, GROUP, 7)
        self.slots.accept(self.key, None)
        self.sent: list[int] = []
        self.got: list[int] = []

    def send(self, count: int = PACKETS) -> None:
        for number in range(len(self.sent), len(self.sent) + count):
            self.sender.sendto(number.to_bytes(4, "big"), self.receiver.getsockname())
            self.sent.append(number)
        assert select.select([self.receiver], [], [], 5)[0]

    def take(self, result: Any) -> None:
        """What a call returned: a batch, a packet, or something else."""
        packets = [result] if hasattr(result, "ttl") else result if hasattr(result, "payloads") else []
        self.got += [int.from_bytes(packet.data, "big") for packet in packets]

    def drain(self) -> None:
        self.take(self.slots.collect(1000, 0))

    def check_books(self) -> None:
        """Everything came once, and is counted so."""
        self.drain()
        counters = self.slots.counters()
        assert sorted(self.got) == self.sent
        assert (counters["received"], counters["bytes"], counters["buffers"]) == (
            len(self.sent),
            4 * len(self.sent),
            len(self.sent),
        )
        assert (counters["filtered"], counters["truncated"]) == (0, 0)
        (flow,) = self.tracker.flows(0)
        assert (flow.received, flow.duplicates, flow.lost + flow.pending) == (len(self.sent), 0, 0)

    def close(self) -> None:
        self.slots.close()
        self.receiver.close()
        self.sender.close()


@pytest.fixture
def setup() -> Iterator[Setup]:
    made = Setup()
    yield made
    made.close()


def at_moment(number: int, handler: Callable[[], None], call: Callable[[], Any]) -> tuple[Any, bool]:
    """Run a call with a handler at the moment of that number; what it returned, and whether it had so many moments."""
    left = number

    def profile(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        if event in ("call", "c_return") and OURS in frame.f_code.co_filename:
            left -= 1
            if left < 0:
                sys.setprofile(None)
                handler()

    result = None
    sys.setprofile(profile)
    try:
        result = call()
    except (InterruptedCallError, TimeoutError):
        pass
    finally:
        sys.setprofile(None)
    return result, left < 0


def interrupt() -> None:
    raise InterruptedCallError


CALLS: dict[str, Callable[[Any, int], Any]] = {
    "receive": lambda slots, wait: slots.receive(4, wait),
    "receive fewer than there are": lambda slots, wait: slots.receive(2, wait),
    "receive_one": lambda slots, wait: slots.receive_one(wait),
    "collect": lambda slots, wait: slots.collect(5, wait),
    "next": lambda slots, _: next(slots),
}
each_call = pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
each_start = pytest.mark.parametrize("unread", [False, True], ids=["from the socket", "from what is unread"])


def start(setup: Setup, unread: bool) -> None:
    setup.slots.timeout_ns = WAIT
    setup.send()
    if unread:
        setup.take(setup.slots.receive_one(WAIT))


@pytest.mark.long
@each_start
@each_call
def test_an_exception_at_any_moment_loses_nothing(setup, call, unread):
    for moment in itertools.count():
        start(setup, unread)
        result, came = at_moment(moment, interrupt, lambda: call(setup.slots, WAIT))
        setup.take(result)
        setup.check_books()
        assert setup.got == setup.sent  # in their order, too
        if not came:
            break
    assert moment > 20
    assert setup.slots.counters()["largest_batch"] <= 1000


@pytest.mark.long
@each_start
@each_call
def test_exceptions_in_two_calls_in_a_row_lose_nothing(setup, call, unread):
    for moment in itertools.count():
        start(setup, unread)
        result, came = at_moment(moment, interrupt, lambda: call(setup.slots, WAIT))
        setup.take(result)
        if not came:
            break
        setup.send(1)
        again, _ = at_moment(moment // 2, interrupt, lambda: call(setup.slots, WAIT))
        setup.take(again)
        setup.check_books()


@pytest.mark.long
@each_start
@each_call
def test_a_handler_may_receive_in_the_middle_of_a_receive(setup, call, unread):
    def receive() -> None:
        with contextlib.suppress(TimeoutError):
            setup.take(setup.slots.receive(1, 0))

    for moment in itertools.count():
        start(setup, unread)
        result, came = at_moment(moment, receive, lambda: call(setup.slots, WAIT))
        setup.take(result)
        setup.check_books()
        if not came:
            break


@pytest.mark.long
@each_start
@each_call
def test_a_handler_may_change_the_filter_in_the_middle_of_a_receive(setup, call, unread):
    """What is not wanted any more is filtered, or was returned; nothing is counted twice."""

    def refuse() -> None:
        setup.slots.accept(setup.key, [])

    for moment in itertools.count():
        before = setup.slots.counters()
        start(setup, unread)
        setup.slots.timeout_ns = 0
        result, came = at_moment(moment, refuse, lambda: call(setup.slots, 0))
        setup.take(result)
        setup.drain()
        now = setup.slots.counters()
        assert len(setup.got) == now["received"]
        assert now["received"] + now["filtered"] == len(setup.sent)
        assert now["filtered"] >= before["filtered"]
        assert now["bytes"] == 4 * now["received"]
        setup.slots.accept(setup.key, None)
        if not came:
            break


USES = CALLS | {
    "wait": lambda slots, wait: slots.wait(wait),
    "counters": lambda slots, _: slots.counters(),
    "give_back": lambda slots, _: slots.give_back([]),
    "accept": lambda slots, _: slots.accept(0, []),
    "remove": lambda slots, _: slots.remove(0),
    "close": lambda slots, _: slots.close(),
}


@pytest.mark.parametrize("call", USES.values(), ids=USES.keys())
def test_a_handler_may_close_at_any_moment_and_all_is_torn_down_once(call, no_leak):
    for moment in itertools.count():
        setup = Setup()
        ended: list[int] = []
        setup.slots.when_idle = lambda ended=ended: ended.append(1)
        start(setup, True)
        try:
            _, came = at_moment(moment, setup.slots.close, lambda setup=setup: call(setup.slots, WAIT))
        except (ClosedError, StopIteration):
            came = True
        setup.slots.close()
        assert ended == [1]
        assert setup.slots.counters()["received"] > 0
        setup.close()
        if not came:
            break


CHANGES = {
    "accept": lambda setup: setup.slots.accept(setup.key, []),
    "remove": lambda setup: setup.slots.remove(setup.key),
    "give_back": lambda setup: setup.slots.give_back([]),
    "counters": lambda setup: setup.slots.counters(),
    "wait": lambda setup: setup.slots.wait(WAIT),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_an_exception_in_the_middle_of_a_change_leaves_the_books_in_order(change, no_leak):
    for moment in itertools.count():
        setup = Setup()
        start(setup, True)
        _, came = at_moment(moment, interrupt, lambda setup=setup: change(setup))
        change(setup)
        setup.drain()
        counters = setup.slots.counters()
        assert len(setup.got) == counters["received"]
        assert counters["received"] + counters["filtered"] == len(setup.sent)
        assert setup.slots.wait(0) is False
        setup.close()
        if not came:
            break


def test_an_exception_in_the_middle_of_a_close_leaves_the_rest_to_the_next_one(no_leak):
    for moment in itertools.count():
        setup = Setup()
        ended: list[int] = []
        setup.slots.when_idle = lambda ended=ended: ended.append(1)
        _, came = at_moment(moment, interrupt, setup.slots.close)
        setup.slots.close()
        assert setup.slots.closed
        assert ended == [1]
        setup.close()
        if not came:
            break
