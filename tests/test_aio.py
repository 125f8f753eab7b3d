"""asyncio and trio: what is awaited gives what the blocking calls give, and leaves nothing behind."""

import asyncio
import contextlib
import gc
import importlib
import inspect
import itertools
import linecache
import subprocess
import sys
import threading
import warnings

import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, ClosedError, aio, sequence
from mcast_fast.aio import _sender
from tests import loops
from tests.conftest import free_port, place_of
from tests.legs import GROUPS, leg
from tests.loops import spawn


class NoReaders(asyncio.SelectorEventLoop):
    """A loop that cannot watch descriptors, as the proactor of Windows."""

    def add_reader(self, fd, callback, *args):
        raise NotImplementedError

    def add_writer(self, fd, callback, *args):
        raise NotImplementedError


def uvloop_loop():
    return importlib.import_module("uvloop").new_event_loop()


# A selector has no descriptor to watch on Windows, and the proactor watches none.
LOOPS = {
    "selector": asyncio.SelectorEventLoop,
    "thread": getattr(asyncio, "ProactorEventLoop", NoReaders),
    "uvloop": uvloop_loop,
}
BY_ANYIO = {"trio": "trio", "anyio": "asyncio"}


LONG, WEEKLY = [pytest.mark.long], [pytest.mark.long, pytest.mark.weekly]
# Each loop with IPv4; IPv6 in the first one, for a loop knows descriptors and no families. Weekly: all others, and anyio on asyncio's loop.
KINDS = [
    ("selector", 4, []),
    ("thread", 4, []),
    ("trio", 4, []),
    ("selector", 6, LONG),
    ("uvloop", 4, LONG),
    *((name, 6, WEEKLY) for name in ("thread", "trio", "uvloop", "anyio")),
    ("anyio", 4, WEEKLY),
]


def pytest_generate_tests(metafunc):
    """What runs in a loop does so in each kind of it, and with each family where it sends."""
    names = [name for name in ("run", "place") if name in metafunc.fixturenames]
    if names == ["place"]:
        metafunc.parametrize("place", [4, pytest.param(6, marks=LONG)], indirect=True)
    elif names == ["run"]:
        kinds = [pytest.param(kind, marks=marks) for kind, version, marks in KINDS if version == 4]
        metafunc.parametrize("run", kinds, indirect=True)
    elif names:
        kinds = [pytest.param(kind, version, marks=marks) for kind, version, marks in KINDS]
        metafunc.parametrize("run, place", kinds, indirect=True)


@pytest.fixture
def run(request, monkeypatch):
    """asyncio.run in each kind of loop, in debug mode, where whatever the loop complains of fails the test; or anyio.run, by trio and by
    asyncio."""
    # For every callback debug mode looks whether the files of all its callers have changed: 20 ms of wine's time.
    monkeypatch.setattr(linecache, "checkcache", lambda filename=None: None)
    for module in {"uvloop": ["uvloop"], "anyio": ["anyio"], "trio": ["trio", "anyio"]}.get(request.param, []):
        try:
            importlib.import_module(module)
        except ImportError:
            pytest.skip(f"feature {module}: not installed")
    if request.param == "uvloop":
        uvloop_loop().close()  # the first one of a process leaves two descriptors open
    if request.param in BY_ANYIO:

        def run(main):
            return loops.run(main, BY_ANYIO[request.param])

        run.by = request.param
        return run

    def run(main):
        complaints = []
        with asyncio.Runner(debug=True, loop_factory=LOOPS[request.param]) as runner:
            runner.get_loop().set_exception_handler(lambda loop, context: complaints.append(context))
            result = runner.run(asyncio.wait_for(main, 30))
        gc.collect()
        assert complaints == []
        return result

    run.by = request.param
    return run


@pytest.fixture
def place(request):
    return place_of(request.param)


def numbered(count):
    return [number.to_bytes(4, "big") for number in range(count)]


def readers(rx):
    """What the loop watches for us, and its timers: () when nothing is left there."""
    watch = rx._line._watch
    waiting = [name for name in ("_queue", "_timer") if getattr(rx._line, name)]
    return (*waiting, *(["_watch"] if watch is not None and watch._started else []))


async def until(condition):
    while not condition():
        await loops.sleep(0)


async def cancelled(task):
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
    assert task.cancelled()


# ---- receiving ----


@pytest.mark.parametrize("batch_size", [1, 7, 256])
def test_an_iteration_gives_every_packet_once_and_in_order(run, tx, group, batch_size):
    async def main():
        received = []
        async with aio.Receiver(group, batch_size=batch_size, timeout=5) as rx:
            tx.send_batch(numbered(500))
            async for batch in rx:
                assert 1 <= len(batch) <= batch_size
                received += batch.payloads()
                if len(received) == 500:
                    break
            assert (rx.stats.received, rx.batch_size, rx.timeout) == (500, batch_size, 5)
        assert rx.closed
        return received

    assert run(main()) == numbered(500)


@pytest.mark.needs("large buffers")
def test_a_packet_at_a_time(run, tx, group):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx:
            tx.send_batch(numbered(700))
            return [(await rx.recv()).data for _ in range(700)]

    assert run(main()) == numbered(700)


@pytest.mark.parametrize("limit", [1, 3, 300])
def test_a_batch_has_no_more_packets_than_asked_for(run, tx, group, limit):
    async def main():
        received = []
        async with aio.Receiver(group, timeout=5) as rx:
            tx.send_batch(numbered(100))
            while len(received) < 100:
                batch = await rx.recv_batch(limit)
                assert 1 <= len(batch) <= limit
                received += batch.payloads()
        return received

    assert run(main()) == numbered(100)


def test_a_packet_that_comes_later_wakes_the_task(run, tx, group):
    async def main():
        async with aio.Receiver(group) as rx:
            for payload in numbered(20):
                task = spawn(rx.recv())
                await until(lambda: rx._line._queue)
                tx.send(payload)
                assert (await task).data == payload

    run(main())


@pytest.mark.needs("large buffers")
def test_a_collect_is_one_batch_of_all(run, tx, group):
    async def main():
        sent = [bytes([number % 256]) * (number % 50) for number in range(1000)]
        async with aio.Receiver(group, batch_size=64) as rx:
            task = spawn(rx.collect(1000, timeout=10))
            for start in range(0, 1000, 100):
                await until(lambda: rx._line._queue)
                tx.send_batch(sent[start : start + 100])
            batch = await task
            assert batch.payloads() == sent
            assert {packet.port for packet in batch} == {int(group.rpartition(":")[2])}
            tx.send_batch(sent[:5])
            assert (await rx.collect(6, timeout=0.05)).payloads() == sent[:5]
            assert len(await rx.collect(6, timeout=0)) == 0

    run(main())


def test_what_a_cancelled_collect_had_is_received_next(run, tx, group):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx:
            tx.send_batch(numbered(10))
            task = spawn(rx.collect(20))
            await until(lambda: rx.stats.received == 10 and rx._line._queue)
            await cancelled(task)
            tx.send_batch(numbered(12)[10:])
            assert (await rx.recv()).data == numbered(1)[0]
            assert (await rx.recv_batch(4)).payloads() == numbered(5)[1:]
            assert (await rx.collect(7)).payloads() == numbered(12)[5:]

    run(main())


def test_after_leave_nothing_of_a_cancelled_collect_is_delivered(run, tx, group):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx:
            tx.send_batch(numbered(10))
            task = spawn(rx.collect(20))
            await until(lambda: rx.stats.received == 10 and rx._line._queue)
            await cancelled(task)
            assert rx.leave(group)
            with pytest.raises(TimeoutError):
                await rx.recv(timeout=0)

    run(main())


@pytest.mark.needs("large buffers")
@pytest.mark.long
def test_several_tasks_get_each_packet_exactly_once(run, tx, group):
    async def main():
        received = []

        async def consume(rx, many):
            while len(received) < 2000:
                received.extend((await rx.recv_batch(3)).payloads() if many else [(await rx.recv()).data])

        async with aio.Receiver(group, timeout=5) as rx:
            tasks = [spawn(consume(rx, number % 2)) for number in range(6)]
            for start in range(0, 2000, 200):
                tx.send_batch(numbered(2000)[start : start + 200])
                await until(lambda end=start + 200: len(received) >= end)
            for task in tasks:
                task.cancel()
            await loops.gather(*tasks, return_exceptions=True)
            assert readers(rx) == ()
        return received

    assert sorted(run(main())) == numbered(2000)


# ---- timeouts ----

CALLS = {
    "recv": lambda rx, **timeout: rx.recv(**timeout),
    "recv_batch": lambda rx, **timeout: rx.recv_batch(**timeout),
    "iteration": lambda rx, **timeout: rx.__anext__(),
}


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_a_timeout_is_the_error_of_the_blocking_call(run, backend, group, call):
    async def main():
        clock = loops.clock()
        async with aio.Receiver(group, timeout=0.05) as rx:
            for _ in range(2):
                start = clock()
                with pytest.raises(TimeoutError, match=r"^no packet came within 0.05 s$"):
                    await CALLS[call](rx)
                assert 0.045 <= clock() - start < 5
                assert readers(rx) == ()
            rx.timeout = 0
            with pytest.raises(TimeoutError, match=r"^no packet came within 0 s$"):
                await CALLS[call](rx)

    run(main())


def test_each_task_has_its_own_timeout(run, tx, group):
    async def main():
        async with aio.Receiver(group) as rx:
            patient = spawn(rx.recv(timeout=5))
            with pytest.raises(TimeoutError):
                await rx.recv(timeout=0.02)
            with pytest.raises(TimeoutError):
                await rx.recv(timeout=0.01)
            assert not patient.done()
            tx.send(b"at last")
            assert (await patient).data == b"at last"

    run(main())


def test_a_timeout_of_0_takes_what_is_there_and_lets_others_run(run, tx, group):
    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await loops.sleep(0)

        async with aio.Receiver(group) as rx:
            task = spawn(other())
            for _ in range(100):
                with pytest.raises(TimeoutError):
                    await rx.recv(timeout=0)
            assert turns >= 99
            await cancelled(task)
            tx.send(b"x")
            received = None
            while received is None:
                with contextlib.suppress(TimeoutError):
                    received = await rx.recv(timeout=0)

    run(main())


@pytest.mark.parametrize(("argument", "value"), [("timeout", -1), ("timeout", "soon"), ("max_packets", 0)])
def test_wrong_arguments_are_refused_as_by_the_blocking_calls(run, backend, group, argument, value):
    async def main():
        async with aio.Receiver(group) as rx:
            with pytest.raises(ArgumentError, match=argument):
                await rx.recv_batch(**{argument: value})

    run(main())
    with pytest.raises(ArgumentError, match="timeout"):
        aio.Receiver(group, timeout=-1)


# ---- gathering ----


@pytest.mark.long
def test_a_dense_stream_is_gathered_and_complete(run, backend, group):
    async def main():
        received, batches = [], 0
        async with aio.Receiver(group, timeout=5, linger=0.01) as rx:
            with mcast.Sender(group, ttl=0, rate="10k/s") as tx:
                thread = threading.Thread(target=tx.send_batch, args=(numbered(4000),))
                thread.start()
                while len(received) < 4000:
                    received += (await rx.recv_batch(5000)).payloads()
                    batches += 1
                thread.join()
            with pytest.raises(TimeoutError):
                await rx.recv(timeout=0.01)
            assert readers(rx) == ()
        assert received == numbered(4000)
        return batches

    assert run(main()) < 1000  # of 4,000: one by one until the stream is seen to be dense, then 100 at once


def test_lone_packets_are_told_at_once(run, tx, group):
    async def main():
        async with aio.Receiver(group, timeout=5, linger=0.1) as rx:
            clock = loops.clock()
            start = clock()
            for payload in numbered(50):
                rx._line._gathered = 0  # as slow machines wake, these would be dense
                task = spawn(rx.recv_batch())
                await until(lambda: rx._line._queue)
                tx.send(payload)
                await task
            return clock() - start

    assert run(main()) < 4  # of 5 s if each one had lingered


def test_a_timeout_within_a_linger_takes_what_is_there(run, tx, group):
    async def main():
        async with aio.Receiver(group, timeout=5, linger=0.1) as rx:
            rx._line._since = -1000.0  # by the loop's clock: as if a dense stream had just ended
            rx._line._gathered = 10**9
            task = spawn(rx.recv_batch(timeout=0.03))
            await until(lambda: rx._line._timer)
            tx.send(b"x")
            assert (await task).payloads() == [b"x"]
            assert readers(rx) == ()

    run(main())


@pytest.mark.parametrize("linger", [-0.001, 0.2, float("nan")])
def test_a_wrong_linger_is_refused(backend, group, no_leak, linger):
    with pytest.raises(ArgumentError, match="linger"):
        aio.Receiver(group, linger=linger)


# ---- fairness ----


@pytest.mark.needs("large buffers")
@pytest.mark.parametrize("many", [True, False])
def test_a_flood_lets_other_tasks_run(run, tx, group, many):
    """Of 20 batches' worth that are there already, none is taken without others having had a turn."""

    async def main():
        turns = []

        async def other():
            while True:
                turns.append(rx.stats.received)
                await loops.sleep(0)

        async with aio.Receiver(group, batch_size=10, timeout=5) as rx:
            tx.send_batch(numbered(1000))
            task = spawn(other())
            received = 0
            while received < 1000:
                received += len(await rx.recv_batch()) if many else bool(await rx.recv())
            await cancelled(task)
        # trio runs the tasks of one pass in any order: two turns of one may be between those of the other.
        assert max(after - before for before, after in itertools.pairwise(turns)) <= (600 if run.by == "trio" else 300)
        assert len(turns) >= 3, turns

    run(main())


def test_a_consumer_that_waits_elsewhere_pauses_the_watch(run, tx, group):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx:
            tx.send(b"1")
            await rx.recv_batch()
            tx.send_batch([b"2", b"3"])
            await until(lambda: readers(rx) == ())  # the loop does not spin for what nobody takes
            assert (await rx.recv_batch()).payloads() == [b"2", b"3"]

    run(main())


# ---- cancelling ----


@pytest.mark.parametrize("call", CALLS)
def test_cancelling_a_wait_leaves_nothing_in_the_loop(run, tx, group, call):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx:
            for _ in range(3):
                task = spawn(CALLS[call](rx))
                await until(lambda: rx._line._queue)
                await cancelled(task)
                assert readers(rx) == ()
            tx.send(b"still here")
            assert (await rx.recv()).data == b"still here"

    run(main())


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS)
def test_cancelling_at_any_moment_loses_no_packet(run, tx, group, call):
    """The task is cancelled after 0, 1, 2, ... passes of the loop from the sending on."""

    async def main():
        received = []

        async def consume(rx):
            while True:
                got = await CALLS[call](rx)
                received.extend([got.data] if call == "recv" else got.payloads())

        async with aio.Receiver(group, timeout=5) as rx:
            for number, payload in enumerate(numbered(60)):
                task = spawn(consume(rx))
                if number % 2:
                    await until(lambda: rx._line._queue)
                tx.send(payload)
                for _ in range(number % 6):
                    await loops.sleep(0)
                await cancelled(task)
            while len(received) < 60:
                received.append((await rx.recv()).data)
            with pytest.raises(TimeoutError):
                await rx.recv(timeout=0)
        return received

    assert run(main()) == numbered(60)


def test_a_timeout_of_the_loop_is_a_cancelled_wait(run, tx, group):
    async def main():
        async with aio.Receiver(group) as rx:
            with pytest.raises(TimeoutError):
                await loops.wait_for(rx.recv(), 0.02)
            assert readers(rx) == ()
            tx.send(b"x")
            assert (await rx.recv()).data == b"x"

    run(main())


# ---- closing ----


def ways_to_close():
    async def here(rx):
        rx.close()

    async def from_a_thread(rx):
        thread = threading.Thread(target=rx.close)
        thread.start()
        await until(lambda: not thread.is_alive())

    return {"here": here, "from a thread": from_a_thread}


@pytest.mark.parametrize("way", ways_to_close())
def test_closing_wakes_all_who_wait(run, backend, group, no_leak, way):
    async def main():
        async def iterate(rx):
            return [batch async for batch in rx]

        rx = aio.Receiver(group)
        calls = [rx.recv(), rx.recv_batch(), rx.collect(5), rx.recv(timeout=20)]
        tasks = [spawn(call) for call in [*calls, iterate(rx)]]
        await until(lambda: len(rx._line._queue) == 5)
        await ways_to_close()[way](rx)
        *errors, ended = await loops.gather(*tasks, return_exceptions=True)
        assert [type(error) for error in errors] == [ClosedError] * 4
        assert ended == []
        for call in (rx.recv(), rx.recv_batch(timeout=0), rx.collect(1), rx.recv(timeout=1)):
            with pytest.raises(ClosedError, match="the receiver is closed"):
                await call
        assert [batch async for batch in rx] == []
        rx.close()
        await until(lambda: rx._line._watch is None)

    run(main())
    wait_for_threads()


def wait_for_threads():
    for thread in threading.enumerate():
        if thread.name.startswith("mcast_fast.aio"):
            thread.join(5)


def test_a_collect_that_the_close_ends_is_what_came(run, tx, group):
    async def main():
        async with aio.Receiver(group) as rx:
            tx.send_batch(numbered(3))
            task = spawn(rx.collect(9))
            await until(lambda: rx.stats.received == 3 and rx._line._queue)
            rx.close()
            return (await task).payloads()

    assert run(main()) == numbered(3)


def test_leaving_the_block_by_an_error_closes(run, backend, group, no_leak):
    async def main():
        with pytest.raises(KeyError):
            async with aio.Receiver(group) as rx:
                with contextlib.suppress(TimeoutError):
                    await rx.recv(timeout=0.01)
                raise KeyError
        assert rx.closed

    run(main())
    wait_for_threads()


def test_a_loop_that_is_closed_first_leaves_no_descriptor(run, tx, group, no_leak):
    """And the receiver goes on in the next loop."""

    async def receive(rx):
        tx.send(b"x")
        data = (await rx.recv()).data
        with pytest.raises(TimeoutError):
            await rx.recv(timeout=0.001)  # waits in this loop: the one before is known to be closed
        return data

    rx = aio.Receiver(group, timeout=5)
    assert run(receive(rx)) == b"x"
    assert run(receive(rx)) == b"x"
    rx.close()
    wait_for_threads()


def test_a_second_loop_at_the_same_time_is_refused(backend, group):
    async def wait(rx):
        with contextlib.suppress(TimeoutError):
            await rx.recv(timeout=0.001)

    first = asyncio.new_event_loop()
    with contextlib.closing(first), contextlib.closing(aio.Receiver(group)) as rx:
        first.run_until_complete(wait(rx))
        with pytest.raises(RuntimeError, match="one loop at a time"):
            asyncio.run(wait(rx))


def test_a_receiver_that_is_forgotten_warns_by_its_own_name(backend, group):
    async def main():
        rx = aio.Receiver(group)
        with contextlib.suppress(TimeoutError):
            await rx.recv(timeout=0.001)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        asyncio.run(main())
        gc.collect()
        wait_for_threads()  # one that looks for packets has the receiver until then
        gc.collect()
    assert [(one.category, str(one.message)) for one in caught] == [
        (ResourceWarning, f"unclosed <Receiver of {group}, on 1 socket>")
    ]


# ---- the rest of a receiver ----


def test_membership_and_statistics_are_those_of_the_receiver(run, backend, place):
    port = free_port()
    first, second = place.group(1, port), place.group(2, port)

    async def main():
        async with aio.Receiver(first, timeout=5) as rx:
            assert rx.join(second)
            assert len(rx.memberships) == 2
            assert rx.leave(second)
            assert [one.mode for one in rx.memberships] == ["exclude"]
            assert repr(rx) == f"<aio <Receiver of {first}, on 1 socket>>"
            assert rx.stats.received == 0

    run(main())


@pytest.mark.needs("blocked sources")
def test_sources_are_those_of_the_receiver(run, backend, group, place):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx:
            source = "10.9.9.9" if place.version == 4 else "fd00::9"
            assert rx.block(group, source)
            assert rx.unblock(group, source)
            assert not rx.set_sources(group, exclude=[])
            assert [one.mode for one in rx.memberships] == ["exclude"]

    run(main())


def test_the_package_does_not_import_asyncio():
    code = "import sys, mcast_fast; assert 'asyncio' not in sys.modules; from mcast_fast import aio"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_who_awaits_in_asyncio_imports_no_other_loop():
    code = """if True:
        import asyncio, contextlib, sys
        from mcast_fast import aio

        async def main():
            async with aio.Receiver("239.1.1.1%127.0.0.1:5000") as rx:
                with contextlib.suppress(TimeoutError):
                    await rx.recv(timeout=0.001)

        asyncio.run(main())
        assert not {"trio", "anyio", "sniffio"} & set(sys.modules)
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_tasks_of_trio_and_of_asyncio_in_one_thread(backend):
    """trio as a guest of asyncio's loop: each task waits in the loop that it runs in."""
    trio = pytest.importorskip("trio")
    place = place_of(4)
    groups = [place.group(number) for number in (1, 2)]

    async def receive(group):
        async with aio.Receiver(group, timeout=20) as rx:
            with mcast.Sender(group, ttl=0) as tx:
                waiting = rx.recv()
                tx.send(b"x")
                packet = await waiting
            await rx.collect(1, timeout=0.01)
            return packet.data, type(rx._line._loop).__module__.partition(".")[0]

    async def main():
        loop = asyncio.get_running_loop()
        done = loop.create_future()
        trio.lowlevel.start_guest_run(
            receive, groups[0], run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        beside = await receive(groups[1])
        return beside, (await done).unwrap()

    assert asyncio.run(main()) == ((b"x", "asyncio"), (b"x", "mcast_fast"))


def test_an_arbiter_of_two_legs(run, backend):
    """In the order of numbers, and its legs are waited for together."""
    place = place_of(4)
    groups = [place.group(number) for number in (1, 2)]

    async def main():
        legs = [aio.Receiver(group) for group in groups]
        async with legs[0], legs[1], aio.Arbiter(legs, "u32be@0", hold=0.02, timeout=20) as feed:
            task = spawn(feed.recv())
            await loops.sleep(0)
            with mcast.Sender(*groups, ttl=0) as tx:
                tx.send_batch(numbered(5))
                received = [(await task).data]
                while len(received) < 5:
                    received += (await feed.recv_batch()).payloads()
            with pytest.raises(TimeoutError):
                await feed.recv(timeout=0.01)
            assert [batch async for batch in feed.batches(timeout=0.01)] == []
            assert (feed.stats.delivered, feed.stats.unrecovered) == (5, 0)
        return received

    assert run(main()) == numbered(5)


@contextlib.asynccontextmanager
async def two_legs(**options):
    """An arbiter of two legs, and a sender to both."""
    place = place_of(4)
    groups = [place.group(number) for number in (1, 2)]
    legs = [aio.Receiver(group) for group in groups]
    options = {"hold": 0.02, "timeout": 20, **options}
    async with legs[0], legs[1], aio.Arbiter(legs, "u32be@0", **options) as feed:
        with mcast.Sender(*groups, ttl=0) as tx:
            yield feed, tx


def test_an_arbiter_collects_one_batch(run, backend):
    async def main():
        async with two_legs() as (feed, tx):
            tx.send_batch(numbered(50))
            assert (await feed.collect(20)).payloads() == numbered(50)[:20]
            assert (await feed.collect(1000, timeout=0.1)).payloads() == numbered(50)[20:]
            assert len(await feed.collect(1000, timeout=0)) == 0
            with pytest.raises(ArgumentError, match="max_packets"):
                await feed.collect(0)
            feed.close()
            with pytest.raises(ClosedError):
                await feed.collect(1)

    run(main())


def test_packets_of_an_arbiter(run, backend):
    async def main():
        async with two_legs() as (feed, tx):
            tx.send_batch(numbered(50))
            taken = [packet.data async for packet in feed.packets(count=20)]
            taken += [packet.data async for packet in feed.packets(timeout=0.1)]
            assert taken == numbered(50)
            assert [packet async for packet in feed.packets(duration=0.01)] == []
            with pytest.raises(ArgumentError, match="count"):
                feed.packets(count=-1)
            with pytest.raises(ArgumentError, match="count"):
                feed.batches(count=-1)
            feed.close()
            assert [packet async for packet in feed.packets()] == [batch async for batch in feed] == []

    run(main())


def test_what_a_cancelled_collect_of_an_arbiter_had_comes_with_the_next_call(run, backend):
    async def main():
        async with two_legs() as (feed, tx):
            task = spawn(feed.collect(1000))
            tx.send_batch(numbered(5))
            await until(lambda: feed.stats.delivered == 5)
            await cancelled(task)
            tx.send_batch([b"\0\0\0\5"])
            assert (await feed.collect(6)).payloads() == numbered(6)

    run(main())


def test_closing_an_arbiter_ends_its_collect_with_what_came(run, backend):
    async def main():
        async with two_legs() as (feed, tx):
            task = spawn(feed.collect(1000))
            tx.send_batch(numbered(5))
            await until(lambda: feed.stats.delivered == 5)
            feed.close()
            assert (await task).payloads() == numbered(5)

    run(main())


@pytest.mark.long
def test_legs_that_end_end_a_collect_and_both_iterations(run, backend):
    """And other tasks run meanwhile, though nothing is waited for."""

    def played():
        packets = [(number, number / 1000) for number in range(1000)]
        return aio.Arbiter([leg(packets, group, width=4) for group in GROUPS[:2]], "u32be@0", hold=0.02)

    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await loops.sleep(0)

        task = spawn(other())
        assert len(await played().collect(5000)) == 1000
        assert len([packet async for packet in played().packets()]) == 1000
        assert turns >= 3
        assert sum([len(batch) async for batch in played().batches()]) == 1000
        await cancelled(task)

    run(main())


def test_an_arbiter_has_the_calls_of_the_blocking_one_that_take_packets():
    """With the same parameters."""
    for name in ("recv", "recv_batch", "collect", "batches", "packets"):
        awaited, blocking = (inspect.signature(getattr(kind, name)) for kind in (aio.Arbiter, sequence.Arbiter))
        assert list(map(str, awaited.parameters.values())) == list(map(str, blocking.parameters.values()))


# ---- sending ----


def test_the_arguments_are_those_of_the_blocking_sender():
    blocking, awaited = (inspect.signature(kind.__init__).parameters.values() for kind in (mcast.Sender, aio.Sender))
    assert list(map(str, awaited)) == list(map(str, blocking))


def test_another_group_and_what_a_sender_tells_of_itself(run, backend, place):
    first, second = place.group(1), place.group(2)

    async def main():
        async with aio.Receiver(second, timeout=5) as rx, aio.Sender(first, ttl=0, segmentation=False) as tx:
            assert await tx.send_to(b"there", second) == 1
            packet = await rx.recv()
            assert packet.data == b"there"
            assert packet.source_port == tx.local_addresses[0][1]
            assert tx.groups == (mcast.Group.parse(first),)
            assert (tx.stats.datagrams, tx.stats.segmentation) == (1, False)
            with pytest.raises(ArgumentError, match="transmit_times=True"):
                tx.transmit_times()
            with pytest.raises(TypeError, match="bytes-like"):
                await tx.send_batch([b"a", 5])

    run(main())


@pytest.mark.long
def test_a_long_batch_lets_other_tasks_run(run, backend, group):
    """It never waits here; what takes longer than a step gives way all the same."""

    async def main():
        turns = 0

        async def other():
            nonlocal turns
            while True:
                turns += 1
                await loops.sleep(0)

        async with aio.Sender(group, ttl=0) as tx:
            task = spawn(other())
            # Several steps of this backend: a step has a time, in which pure sends less (under wine, much less).
            await tx.send_batch([b"x", b"yy"] * (10_000 if backend == "fast" else 2_000))
            assert turns > 5
            await cancelled(task)

    run(main())


def test_question_and_answer(run, backend, group):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx, aio.Sender(group, ttl=0, timeout=5) as tx:

            async def answer():
                question = await rx.recv()
                rx.reply(question, b"pong to " + question.data)

            task = spawn(answer())
            assert await tx.send(b"ping") == 1
            assert (await tx.recv()).data == b"pong to ping"
            await task
            with pytest.raises(TimeoutError, match=r"^no packet came within 0.01 s$"):
                await tx.recv(timeout=0.01)

    run(main())


@pytest.mark.parametrize("count", [0, 1, 64, 65, pytest.param(1000, marks=pytest.mark.needs("large buffers"))])
def test_all_that_is_sent_arrives(run, backend, group, count):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx, aio.Sender(group, ttl=0) as tx:
            assert await tx.send_batch(numbered(count)) == count
            assert await tx.send_batch(b"".join(numbered(count)), size=4) == count
            assert await tx.drain() == 2 * count
            return (await rx.collect(2 * count)).payloads() if count else []

    assert run(main()) == numbered(count) * 2


def test_what_several_tasks_send_arrives_whole(run, backend, group):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx, aio.Sender(group, ttl=0) as tx:
            counts = await loops.gather(*(tx.send_batch(numbered(100)) for _ in range(5)), tx.send(b"one"))
            assert counts == [100] * 5 + [1]
            return (await rx.collect(501)).payloads()

    received = run(main())
    assert received.index(b"one") == 500 or run.by == "trio"  # which begins tasks in any order
    assert received.index(b"one") % 100 == 0
    received.remove(b"one")
    assert received == numbered(100) * 5


@pytest.mark.needs("large buffers")
def test_after_a_cancelled_send_the_count_is_exact(run, backend, group):
    async def main():
        # Paced, so that none has ended before it is cancelled.
        async with (
            aio.Receiver(group, timeout=5) as rx,
            aio.Sender(group, ttl=0, rate=50_000) as tx,
        ):
            tasks = [spawn(tx.send_batch(numbered(2000))) for _ in range(3)]
            await until(lambda: tx._handed)
            for task in tasks:
                task.cancel()
            await loops.gather(*tasks, return_exceptions=True)
            assert all(task.cancelled() for task in tasks)
            left = await tx.drain()
            assert left in (0, 2000, 4000, 6000)
            await tx.send(b"last")
            assert len(await rx.collect(left + 1)) == left + 1
            assert await tx.drain() == left + 1

    run(main())


def test_a_send_that_is_refused_says_how_many_left(run, backend, group):
    async def main():
        async with aio.Sender(group, ttl=0) as tx:
            too_long = [b"good"] * 70 + [bytes(70_000)]
            with pytest.raises(mcast.SendError) as caught:
                await tx.send_batch(too_long)
            assert caught.value.sent == 70
            assert await tx.drain() == 70

    run(main())


def test_a_closed_sender_wakes_who_waits(run, backend, group, no_leak):
    async def main():
        tx = aio.Sender(group, ttl=0)
        await tx.send_batch(numbered(100))
        task = spawn(tx.recv())
        await until(lambda: tx._line._queue)
        tx.close()
        for call in (task, tx.send(b"x"), tx.send_batch([b"x"] * 100), tx.recv()):
            with pytest.raises(ClosedError, match="the sender is closed"):
                await call
        assert tx.closed

    run(main())
    wait_for_threads()


@pytest.mark.parametrize("moment", ["before the thread", "after the thread", "before the call is handed over"])
def test_a_close_while_the_thread_is_made_ends_the_call_and_the_thread(backend, group, monkeypatch, moment):
    """What another thread, or a signal handler, may do at any moment of the first paced call."""
    tx = aio.Sender(group, ttl=0, rate=1)
    threads = []

    class Closing(_sender.Worker):
        def __init__(self, name):
            before = set(threading.enumerate())
            if moment == "before the thread":
                tx.close()
            super().__init__(name)
            threads.extend(set(threading.enumerate()) - before)
            if moment == "after the thread":
                tx.close()

        def submit(self, call):
            if moment == "before the call is handed over":
                tx.close()
            return super().submit(call)

    monkeypatch.setattr(_sender, "Worker", Closing)
    with pytest.raises(ClosedError):
        asyncio.run(tx.send_batch([b"x"] * 100))
    (thread,) = threads
    thread.join(30)
    assert not thread.is_alive()
