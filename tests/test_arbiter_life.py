"""The life of an Arbiter: what a signal handler raises loses nothing; it is closed while it waits, forked, and left open."""

import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import errors
from mcast_fast.sequence import Arbiter, LegState
from tests.conftest import Place, loopback
from tests.interrupts import Interrupt, needs_tracing, raise_interrupt
from tests.legs import GROUPS, MS, SECOND, Played, batch_of, check, leg, numbers
from tests.lifecycle.moments import Moment, moments

FORMAT = "u64be@0"
FILES = "sequence/_arbiter.py", "_delivery.py", "_guarded.py", "_core/pure/arbiter.py"
LOST = {3, 4}, {4, 7}


def two_legs(live=False, count=12):
    """Numbers of which each leg lost some, and 4 is on neither."""
    return [
        leg([(n, n + 3 * at) for n in range(count) if n not in LOST[at]], GROUPS[at], size=5, live=live)
        for at in range(2)
    ]


EVERYTHING = [number for number in range(12) if number != 4]


def received(feed):
    return numbers([feed.recv_batch(5)])


def received_one(feed):
    return [int.from_bytes(feed.recv().data[:8], "big")]


def collected(feed):
    return numbers([feed.collect(9)])


def waited(feed):
    assert feed.wait()
    return []


def flushed(feed):
    feed.flush()
    return []


@needs_tracing
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # generators are entered to be closed
@pytest.mark.parametrize(
    ("call", "order"),
    [(one, True) for one in (received, received_one, collected, waited, flushed)] + [(received, False)],
)
def test_an_exception_at_any_moment_loses_nothing(backend, call, order):
    for number in moments():
        with Arbiter(two_legs(), FORMAT, order=order) as feed:
            moment, got = Moment(number, raise_interrupt, FILES), []
            try:
                with moment:
                    got += call(feed)
            except Interrupt:
                got = []
            if not moment.came:
                break
            got += numbers(feed)
            assert (got if order else sorted(got)) == EVERYTHING, number
            check(feed.stats)
            assert feed.stats.received == len(EVERYTHING)
    assert number > 5


@needs_tracing
@pytest.mark.long
def test_a_close_at_any_moment_ends_the_call(backend):
    for number in moments():
        feed = Arbiter(two_legs(live=True), FORMAT)
        moment = Moment(number, feed.close, FILES)
        with moment:
            for _ in feed.batches(timeout=0):
                pass
        if not moment.came:
            break
        assert feed.closed
        check(feed.stats)
        with pytest.raises(errors.ClosedError):
            feed.recv_batch()
    feed.close()
    assert number > 30


class Noticed:
    """Mixed into a leg: says when it was found empty."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.empty = threading.Event()

    def recv_batch(self, *arguments):
        try:
            return super().recv_batch(*arguments)
        except TimeoutError:
            self.empty.set()
            raise


class NoticedPlayed(Noticed, Played):
    pass


class NoticedReceiver(Noticed, mcast.Receiver):
    pass


CLOSED_WHILE = {
    "recv_batch": lambda feed: feed.recv_batch(),
    "recv": lambda feed: feed.recv(),
    "wait": lambda feed: feed.wait(),
    "collect": lambda feed: list(feed.collect(10)),
    "iterate": list,
    "batches": lambda feed: list(feed.batches()),
}


@pytest.mark.parametrize("name", CLOSED_WHILE)
def test_a_close_from_another_thread_ends_a_call_that_waits(backend, name):
    leg_a = NoticedPlayed([], live=True)
    with mcast.Receiver(Place(4, loopback()).group()) as leg_b, Arbiter([leg_a, leg_b], FORMAT) as feed:
        closing = threading.Thread(target=lambda: leg_a.empty.wait() and feed.close())
        closing.start()
        if name in ("recv_batch", "recv", "wait"):
            with pytest.raises(errors.ClosedError, match="the arbiter is closed"):
                CLOSED_WHILE[name](feed)
        else:
            assert CLOSED_WHILE[name](feed) == []
        closing.join()
        assert not leg_b.closed


def test_a_leg_that_is_closed_meanwhile_has_ended(backend):
    with NoticedReceiver(Place(4, loopback()).group()) as leg_a, Arbiter([leg_a], FORMAT) as feed:
        closing = threading.Thread(target=lambda: leg_a.empty.wait() and leg_a.close())
        closing.start()
        assert list(feed) == []
        closing.join()
        assert feed.stats.legs[0].state is LegState.ENDED


def test_the_last_packets_of_a_leg_that_came_late_hold_nothing_up(backend):
    """A process that was stopped finds an hour of packets in the buffer, and the leg's line is cut since."""
    now = time.time_ns()
    times = [now, now - 3600 * SECOND]
    leg_a = Played([batch_of([(n, when, n.to_bytes(8, "big"))], GROUPS[0]) for n, when in enumerate(times)], live=True)
    leg_b = Played([batch_of([(2, now + MS, (2).to_bytes(8, "big"))], GROUPS[1])], live=True)
    with Arbiter([leg_a, leg_b], FORMAT, order=False) as feed:
        assert sorted(numbers(feed.batches(count=3))) == [0, 1, 2]


FORKED = """
import os
import sys

import mcast_fast as mcast
from mcast_fast import errors
from mcast_fast.sequence import Arbiter
from tests.test_arbiter_life import EVERYTHING, FORMAT, two_legs
from tests.legs import numbers

receiver = mcast.Receiver(sys.argv[1])
feed = Arbiter(two_legs(), FORMAT)
got = numbers([feed.recv_batch(7)])
child = os.fork()
if child == 0:
    calls = [feed.recv_batch, feed.recv, feed.wait, feed.flush, lambda: feed.collect(3), lambda: list(feed),
             lambda: list(feed.batches()), lambda: feed.give_back([]), lambda: feed.stats,
             lambda: list(Arbiter([receiver], FORMAT, pairs={sys.argv[1]: []}))]
    for call in calls:
        try:
            call()
        except errors.ClosedError as error:
            assert "another process" in str(error), error
        else:
            raise AssertionError(call)
    feed.close()
    del feed
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert got + numbers(feed) == EVERYTHING
"""

LEFT_OPEN = """
import sys
import threading

import mcast_fast as mcast
from mcast_fast.sequence import Arbiter
from tests.legs import Played
from tests.test_arbiter_life import FORMAT, NoticedReceiver

leg = NoticedReceiver(sys.argv[1])
feed = Arbiter([leg, Played([], live=True)], FORMAT)
threading.Thread(target=feed.recv_batch, daemon=True).start()
leg.empty.wait()
"""


@pytest.mark.long
@pytest.mark.parametrize(
    "program",
    [pytest.param(FORKED, marks=pytest.mark.needs("signals to processes")), LEFT_OPEN],
    ids=["forked", "left open"],
)
def test_a_child_is_refused_and_an_end_in_the_middle_is_quiet(backend, program):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program), Place(4, loopback()).group()],
        cwd=Path(__file__).parents[1],
        env=os.environ | {"MCAST_FAST_BACKEND": backend},
        check=False,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
