"""Membership calls that an exception of a signal handler ends, at every moment; and calls of a handler in the middle."""

import contextlib
import errno
import gc
import itertools
import random
import selectors
import socket
from concurrent.futures import ThreadPoolExecutor

import pytest

import mcast_fast as mcast
from mcast_fast import receiver
from mcast_fast._core import lifetime, pairs, threads
from mcast_fast._core.pure import slots, state
from mcast_fast._host import nic_drops, watch
from mcast_fast._membership import desired, joins, plan, rings, sockets, subscriptions
from mcast_fast._membership.desired import ANY_SOURCE, GroupEndpoint
from tests.conftest import descriptors, free_port, loopback, until
from tests.interrupts import Interrupt, Interrupter, needs_tracing
from tests.test_joins import ENDPOINTS, GROUPS, Model, exclude, include

pytestmark = [needs_tracing, pytest.mark.long, pytest.mark.hang_timeout(300)]

FILES = frozenset(one.__file__ for one in (lifetime, joins, desired, nic_drops, plan, rings, sockets, subscriptions))

ONE, TWO, THREE = (GroupEndpoint(ENDPOINTS[0], group) for group in GROUPS[:3])
ELSEWHERE = GroupEndpoint(ENDPOINTS[2], GROUPS[3])
CHANGES = {
    "join": ({ONE: ANY_SOURCE}, {ONE: ANY_SOURCE, TWO: ANY_SOURCE, ELSEWHERE: include(0)}),
    "leave": ({ONE: ANY_SOURCE, TWO: include(1), THREE: ANY_SOURCE}, {TWO: include(1)}),
    "spread": ({ONE: include(0, 1)}, {ONE: include(0, 1, 2, 3, 4)}),
    "include": ({ONE: exclude(0), TWO: ANY_SOURCE}, {ONE: include(1, 2, 3, 4), TWO: ANY_SOURCE}),
    "exclude": ({ONE: include(1, 2, 3, 4)}, {ONE: exclude(1, 2)}),
    "nothing": ({ONE: include(1)}, {ONE: include()}),
}


@pytest.mark.parametrize("full_state", [True, False], ids=["full state", "call by call"])
@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES.keys())
def test_an_interrupt_at_any_moment_leaves_the_old_or_the_new_state(before, after, full_state):
    limits = plan.Limits(2, 3) if full_state else plan.Limits(2, plan.NO_LIMIT)
    states = []
    for number in itertools.count(1):
        with Model(limits, full_state) as model:
            model.want(before)
            interrupter = Interrupter(FILES, number)
            with contextlib.suppress(Interrupt):
                interrupter.run(lambda model=model: model.want(after))
            assert model.joins.wanted in (before, after)
            model.check(dict(model.joins.wanted))
            states.append(model.joins.wanted == after)
            model.want(after)
            model.check(after)
            model.joins.close()
            assert model.kernel.held == {}
        if not interrupter.happened:
            break
    assert len(states) > 50
    assert states == sorted(states), "from one moment on it is the new state"
    assert set(states) == {False, True}


@pytest.mark.parametrize(("before", "after"), CHANGES.values(), ids=CHANGES.keys())
@pytest.mark.parametrize("seed", range(3))
def test_a_recovery_that_is_interrupted_too_is_finished_by_the_next_call(before, after, seed):
    """Then, too, everything is closed in the end."""
    rng = random.Random(seed)
    for _ in range(60):
        with Model() as model:
            model.want(before)
            for _ in range(3):
                with pytest.MonkeyPatch.context() as patch:
                    recover, numbers = joins.Joins.recover, iter((rng.randrange(1, 120), rng.randrange(1, 120)))

                    def interrupted(self, recover=recover, numbers=numbers):
                        number = next(numbers, None)
                        return (
                            recover(self) if number is None else Interrupter(FILES, number).run(lambda: recover(self))
                        )

                    patch.setattr(joins.Joins, "recover", interrupted)
                    with contextlib.suppress(Interrupt):
                        Interrupter(FILES, rng.randrange(1, 600)).run(lambda model=model: model.want(after))
            if rng.random() < 0.5:
                model.want(before)
                model.check(before)
            model.joins.close()
            assert model.kernel.held == {}


def test_a_move_that_is_interrupted_holds_the_old_or_the_new():
    old, other = ONE, ELSEWHERE
    new = GroupEndpoint(ENDPOINTS[0]._replace(interface=7), GROUPS[0])
    for number in itertools.count(1):
        with Model() as model:
            model.want({old: include(0, 1, 2, 3), other: ANY_SOURCE})
            model.joins.name_interface(7, "eth0")
            interrupter = Interrupter(FILES, number)
            with contextlib.suppress(Interrupt):
                interrupter.run(lambda model=model: model.joins.move(1, 7))
            assert set(model.joins.wanted) in ({old, other}, {new, other})
            model.joins.move(1, 7)
            assert set(model.joins.wanted) == {new, other}
            assert model.delivered(new) == include(0, 1, 2, 3)
            model.joins.close()
            assert model.kernel.held == {}
        if not interrupter.happened:
            break


# ---- real sockets ----


def options_of(path):
    return {"sockets": {}, "ring": {"ring": "1MiB"}, "spread": {"spread": False}}[path]


@pytest.fixture(params=["sockets", pytest.param("ring", marks=pytest.mark.lab)])
def path(request, backend):
    if request.param == "ring" and not mcast.features()["ring"]:
        pytest.skip(f"feature ring: {mcast.features()['ring'].reason}")
    return request.param


def held(rx):
    return {(one.group, one.mode, one.sources): (one.joined, one.kernel_mode) for one in rx.memberships}


def assert_filters_are_wanted(rx):
    """The filters of rings are for what their listeners have, and nothing else."""
    for ring in rx._rings._rings.values() if rx._rings else ():
        wanted = {}
        for key, (port, groups) in ring.listeners.items():
            for group in groups:
                wanted.setdefault(group, {})[key] = port
        assert ring.groups == wanted
        assert not ring.changed


def calls(port):
    """Calls by name, each with the one that undoes it."""
    other = f"239.9.9.3%{loopback()}:{port + 1}"
    return {
        "join": (lambda rx: rx.join(other), lambda rx: rx.leave(other)),
        "sources": (
            lambda rx: rx.set_sources("239.9.9.1", include=["10.0.0.1", "10.0.0.2"]),
            lambda rx: rx.set_sources("239.9.9.1", exclude=[]),
        ),
        "block": (lambda rx: rx.block("239.9.9.1", "10.0.0.1"), lambda rx: rx.unblock("239.9.9.1", "10.0.0.1")),
    }


# A socket whose maker was interrupted before anybody had it is closed by its own end, which warns.
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("name", ["join", "sources", "block"])
def test_a_receiver_goes_on_after_an_interrupt_at_any_moment(path, name):
    before, port = descriptors(), free_port()
    there, back = calls(port)[name]
    rx = mcast.Receiver(f"239.9.9.1%{loopback()}:{port}", f"239.9.9.2%{loopback()}:{port}", **options_of(path))
    with rx:
        old = held(rx)
        there(rx)
        new = held(rx)
        back(rx)
        assert held(rx) == old != new
        seen, opened = [], descriptors()
        for first, second in ((there, back), (back, there)):
            for number in itertools.count(1):
                interrupter = Interrupter(FILES, number)
                if first is back:
                    there(rx)
                with contextlib.suppress(Interrupt):
                    interrupter.run(lambda first=first: first(rx))
                seen.append(held(rx))
                assert seen[-1] in (old, new), number
                assert rx.stats.dropped_socket in (0, None)
                assert_filters_are_wanted(rx)
                second(rx), first(rx)
                back(rx)
                assert held(rx) == old
                gc.collect(0)
                assert descriptors() == opened, number
                if not interrupter.happened:
                    break
        assert old in seen
        assert new in seen
    assert descriptors() == before


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_opening_that_is_interrupted_leaves_nothing_open(path):
    port = free_port()
    texts = [f"239.9.9.1%{loopback()}:{port}", f"10.0.0.1@239.9.9.2%{loopback()}:{port}"]
    mcast.Receiver(*texts, **options_of(path)).close()
    before = descriptors()
    for number in itertools.count(1):
        interrupter = Interrupter(FILES, number)
        with contextlib.suppress(Interrupt):
            interrupter.run(lambda: mcast.Receiver(*texts, **options_of(path)).close())
        if number % 25 == 0 or not interrupter.happened:
            gc.collect()
            assert descriptors() == before, number
        if not interrupter.happened:
            break
    assert number > 100


@pytest.mark.parametrize("inner", ["join", "leave", "memberships", "stats", "block"])
def test_a_call_of_a_handler_in_the_middle_of_another_is_done_or_refused(path, inner):
    port = free_port()
    mine, other = (f"239.9.9.{number}%{loopback()}:{port}" for number in (3, 4))
    with mcast.Receiver(f"239.9.9.1%{loopback()}:{port}", **options_of(path)) as rx:
        handler = {
            "join": lambda: rx.join(other),
            "leave": lambda: rx.leave("239.9.9.1"),
            "memberships": lambda: rx.memberships,
            "stats": lambda: rx.stats,
            "block": lambda: rx.block("239.9.9.1", "10.0.0.1"),
        }[inner]
        refused, done = [], []

        def act():
            try:
                done.append(handler())
            except mcast.SocketError as error:
                refused.append(error)

        for number in itertools.count(1):
            interrupter = Interrupter(FILES, number, act)
            interrupter.run(lambda: rx.join(mine))
            assert all(one.joined for one in rx.memberships)
            assert "239.9.9.3" in [one.group for one in rx.memberships]
            for text in (mine, other):
                rx.leave(text)
            rx.join(f"239.9.9.1%{loopback()}:{port}")
            rx.set_sources("239.9.9.1", exclude=[])
            if not interrupter.happened:
                break
        assert done
        assert bool(refused) is (inner != "stats")
        for error in refused:
            assert error.errno == errno.EBUSY
            assert "another membership call is being carried out in this thread" in str(error)


def test_stats_that_are_interrupted_can_be_had_again(backend):
    with mcast.Receiver(f"239.9.9.1%{loopback()}:{free_port()}") as rx:
        for number in itertools.count(1):
            rx._nic._when = -1.0
            interrupter = Interrupter(FILES, number)
            with contextlib.suppress(Interrupt):
                interrupter.run(lambda: rx.stats)
            assert rx.stats.dropped_socket in (0, None)
            assert not rx._nic._is_busy
            if not interrupter.happened:
                break


OPENING = frozenset(
    one.__file__
    for one in (lifetime, pairs, receiver, selectors, slots, socket, state, sockets, subscriptions, threads, watch)
)


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # of sockets that nobody had yet; pytest keeps what raised it
@pytest.mark.parametrize(
    "watched", [False, pytest.param(True, marks=pytest.mark.needs("watch"))], ids=["unwatched", "watched"]
)
def test_opening_and_closing_leave_no_descriptor_whatever_is_raised(backend, watched):
    """At every moment in what the standard library does for us too, and without a collection; closing again closes."""
    opened = []

    def use():
        opened.append(mcast.Receiver(f"239.9.9.1%{loopback()}:{port}", watch=watched))
        opened[-1].close()

    port = free_port()
    use()
    opened.clear()
    gc.collect()
    before = descriptors()
    gc.disable()
    try:
        for number in itertools.count(1):
            interrupter = Interrupter(OPENING, number)
            with contextlib.suppress(Interrupt):
                interrupter.run(use)
            if opened:
                opened.pop().close()
            assert until(lambda: descriptors() == before), number
            if not interrupter.happened:
                break
    finally:
        gc.enable()
    assert number > 100


@pytest.mark.parametrize("kind", [joins.Joins, rings.Rings])
def test_closing_closes_every_socket_whatever_is_raised(path, kind):
    """From the moment on that the call is entered; again does nothing."""
    before, port, first = descriptors(), free_port(), 3  # behind RESUME
    for number in itertools.count(first):
        rx = mcast.Receiver(*(f"239.9.{n}.1%{loopback()}:{port + n}" for n in range(3)), **options_of(path))
        interrupter = Interrupter(FILES, number)
        holder = rx._rings if kind is rings.Rings else rx._joins
        if holder is not None:
            every = holder._every_socket()
            with contextlib.suppress(Interrupt):
                interrupter.run(holder.close)
            assert [one.fileno() for one in every] == [-1] * len(every), number
            holder.close()
        rx.close()
        if not interrupter.happened:
            break
    assert number > first + 10 or holder is None
    gc.collect()
    assert descriptors() == before


def test_an_exception_at_the_very_start_of_the_tear_down_leaves_nothing_open(path):
    """A signal that came while C closed is heard when Python begins again."""
    before, port = descriptors(), free_port()
    rx = mcast.Receiver(f"239.9.9.1%{loopback()}:{port}", **options_of(path))
    tear_down, calls = rx._slots.when_idle, []

    def interrupted():
        calls.append(None)
        if len(calls) == 1:
            raise Interrupt
        tear_down()

    rx._slots.when_idle = interrupted
    with pytest.raises(Interrupt):
        rx.close()
    assert descriptors() == before
    rx.close()


def test_no_close_waits_for_a_lock_that_somebody_holds(path):
    before, port = descriptors(), free_port()
    rx = mcast.Receiver(f"239.9.9.1%{loopback()}:{port}", **options_of(path))
    with ThreadPoolExecutor(1) as other:
        locks = [rx._subscriptions._lock, rx._nic._lock] + ([rx._rings._lock] if rx._rings else [])
        for lock in locks:
            other.submit(lock.acquire).result()
        rx._subscriptions.close()
        for holder in (rx._nic, rx._rings, rx._joins):
            if holder is not None:
                holder.close()
        for lock in locks:
            other.submit(lock.release).result()
    with pytest.raises(mcast.ClosedError):
        rx.join(f"239.9.9.9%{loopback()}:{port}")
    rx.close()
    assert descriptors() == before
