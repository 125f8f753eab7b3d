"""A sender is closed from anywhere at any moment, loses no count to an exception, and belongs to its process."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings

import pytest

import mcast_fast as mcast
from mcast_fast import ClosedError, _core, aio
from tests.conftest import descriptors, free_port, loopback
from tests.lifecycle.moments import Moment, moments

# What of a sender is code of Python; what is compiled runs no handler in the middle.
MODULES = (
    "sender.py", "_sending/answers.py", "_sending/destinations.py", "_sending/outgoing.py", "_sending/routing.py", "_sending/sockets.py",
    "_core/lifetime.py", "_core/pure/send.py",
)  # fmt: skip


@pytest.fixture
def group(backend):
    return f"239.1.1.1%{loopback()}:{free_port()}"


@pytest.fixture
def came(group):
    """How many datagrams have come to the group so far."""
    address = mcast.Group.parse(group)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as plain:
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        plain.bind((address.address, address.port))
        index = socket.if_nametoindex(address.interface)
        _core.membership.join(plain, index, socket.inet_aton(address.address))
        plain.setblocking(False)
        counted = 0

        def count():
            nonlocal counted
            with contextlib.suppress(BlockingIOError):
                while True:
                    plain.recv(100)
                    counted += 1
            return counted

        yield count


CALLS = {
    "send": lambda tx: tx.send(b"x"),
    "send_batch": lambda tx: tx.send_batch([b"x", b"y", b"z"]),
    "rows": lambda tx: tx.send_batch(b"abc", size=1),
    "send_to": lambda tx: tx.send_to(b"x", f"239.1.1.2%{loopback()}:{tx.groups[0].port}"),
    "another socket": lambda tx: tx.send_to(b"x", f"127.0.0.1@239.1.1.2%{loopback()}:{tx.groups[0].port}"),
    "a host": lambda tx: tx.send_to(b"x", f"127.0.0.1:{tx.groups[0].port + 1}"),
    "gather": lambda tx: list(tx.gather(b"x", 0)),
    "stats": lambda tx: tx.stats,
    "local_addresses": lambda tx: tx.local_addresses,
    "recv": lambda tx: tx.recv(timeout=0),
    "close": lambda tx: tx.close(),
}


@pytest.mark.long
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_a_close_at_any_moment_of_a_call_closes_everything(group, no_leak, call):
    """As by a signal's handler; the call ends with its result or with ClosedError."""
    before = descriptors()
    for number in moments():
        tx = mcast.Sender(group, ttl=0)
        with contextlib.suppress(TimeoutError, ClosedError), Moment(number, tx.close, MODULES) as moment:
            call(tx)
        if not moment.came:
            tx.close()
            break
        assert tx.closed
        assert descriptors() == before, number
    assert number > 0


class Interrupted(BaseException):
    """What a signal's handler raises."""


def interrupt():
    raise Interrupted


# A socket that was just made is closed when it is forgotten; an iterator that is given up raises into nowhere.
@pytest.mark.long
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_an_exception_at_any_moment_of_a_call_loses_no_count_and_no_descriptor(group, came, no_leak, call):
    before = descriptors()
    for number in moments():
        tx = mcast.Sender(group, ttl=0)
        already = came()
        with contextlib.suppress(TimeoutError, Interrupted), Moment(number, interrupt, MODULES) as moment:
            call(tx)
        sent = tx.stats.datagrams
        if not tx._routing._others:
            assert came() - already == sent, number
        tx.close()
        assert descriptors() == before, number
        if not moment.came:
            break
    assert number > 0


@pytest.mark.long
@pytest.mark.needs("timers")
@pytest.mark.parametrize("act", ["close", "raise"])
def test_a_signal_at_many_moments_of_a_paced_batch(group, came, no_leak, act):
    """1,000 moments: whatever happens, what left is counted, and nothing stays open."""
    before, already = descriptors(), 0

    def handler(*_):
        if act == "raise":
            raise Interrupted
        tx.close()

    former = signal.signal(signal.SIGALRM, handler)
    try:
        for number in range(1000):
            tx = mcast.Sender(group, ttl=0, rate="100k/s")
            with contextlib.suppress(ClosedError, Interrupted):
                signal.setitimer(signal.ITIMER_REAL, 1e-6 + number * 2e-6)
                while True:
                    tx.send_batch([b"x"] * 20)
            assert came() - already == tx.stats.datagrams
            already = came()
            assert act == "raise" or descriptors() == before
            tx.close()
            assert descriptors() == before
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, former)


@pytest.mark.long
@pytest.mark.needs("timers")
def test_a_signal_that_closes_an_aio_sender_at_many_moments(group, no_leak):
    """Its handler runs between two bytecodes of the loop, of the line of tasks, or of the sender."""

    async def until_closed(call):
        with contextlib.suppress(ClosedError):
            while True:
                await call()

    async def main(number):
        tx = aio.Sender(group, ttl=0)
        former = signal.signal(signal.SIGALRM, lambda *_: tx.close())
        try:
            signal.setitimer(signal.ITIMER_REAL, 1e-6 + number * 5e-6)
            await asyncio.gather(
                until_closed(lambda: tx.send_batch([b"x"] * 20)),
                until_closed(lambda: tx.send(b"x")),
                until_closed(tx.recv),
            )
        finally:
            signal.signal(signal.SIGALRM, former)
        assert tx.closed

    for number in range(300):
        asyncio.run(asyncio.wait_for(main(number), 20))


@pytest.mark.parametrize("way", ["recv", pytest.param("send_batch", marks=pytest.mark.long)])
def test_the_last_one_out_closes_the_sockets(group, no_leak, way):
    """Of several threads that wait inside when the sender is closed."""
    before = descriptors()
    tx = mcast.Sender(group, ttl=0, rate="1/s")
    call = {"recv": tx.recv, "send_batch": lambda: tx.send_batch([b"x"] * 100)}[way]
    ended = []

    def use():
        with pytest.raises(ClosedError, match="the sender is closed"):
            call()
        ended.append(way)

    threads = [threading.Thread(target=use) for _ in range(3)]
    for thread in threads:
        thread.start()
    tx.send(b"x")
    tx.close()
    for thread in threads:
        thread.join()
    assert len(ended) == 3
    assert descriptors() == before


@pytest.mark.parametrize("rate", ["0.001/s", "0.0000000001/s", "0.0000000001bit/s", 1e-12, 1e-300, 5e-324])
def test_a_rate_next_to_nothing_sends_one_and_waits(group, rate):
    """The moments that such rates make do not fit 64 bits."""
    tx = mcast.Sender(group, ttl=0, rate=rate)

    def send():
        with contextlib.suppress(ClosedError):
            tx.send_batch([b"x"] * 1000)

    thread = threading.Thread(target=send)
    thread.start()
    while tx.stats.system_calls == 0:
        time.sleep(0.001)
    tx.close()
    thread.join()
    assert tx.stats.datagrams == 1


# ---- fork ----

USES = {
    "send": lambda tx: tx.send(b"x"),
    "send_batch": lambda tx: tx.send_batch([b"x"]),
    "rows": lambda tx: tx.send_batch(b"abc", size=1),
    "send_to": lambda tx: tx.send_to(b"x", f"239.1.1.2%{loopback()}:5000"),
    "a host": lambda tx: tx.send_to(b"x", "127.0.0.1:5000"),
    "gather": lambda tx: tx.gather(b"x", 0),
    "recv": lambda tx: tx.recv(timeout=0),
    "wait": lambda tx: tx.wait(0),
    "fileno": lambda tx: tx.fileno(),
    "stats": lambda tx: tx.stats,
    "local_addresses": lambda tx: tx.local_addresses,
    "transmit_times": lambda tx: tx.transmit_times(),
    "schedule": lambda tx: tx.schedule(lambda packet: "239.1.1.1"),
}


def in_child(check):
    """Runs a check in a forked child; what failed there."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # other threads run: that is the point
        child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(20)  # a child that hangs is ended by it
        told = b"it raised nothing"
        try:
            told = str(check() or "").encode()
        except BaseException as error:
            told = repr(error).encode()
        finally:
            os.write(write, told)
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        told = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"the child ended with status {status}"
    return told


@pytest.mark.long
@pytest.mark.needs("large buffers")
@pytest.mark.needs("signals to processes")
def test_in_a_child_every_call_but_close_says_that_the_sender_is_another_process_s(group, no_leak):
    """Also while a thread of the parent sends, and holds whatever locks there are; the parent notices nothing."""

    def check():
        wrong = []
        for name, use in USES.items():
            try:
                use(tx)
                wrong.append(f"{name} raised nothing")
            except ClosedError as error:
                if str(error) != "the sender was opened in another process":
                    wrong.append(f"{name}: {error}")
        tx.close()
        tx.close()
        if not tx.closed or descriptors() > before + 1:  # and the pipe
            wrong.append(f"close() leaves {descriptors() - before - 1} descriptors")
        return "; ".join(wrong)

    done = threading.Event()
    with mcast.Receiver(group, timeout=5) as rx, mcast.Sender(group, ttl=0, rate="10k/s") as tx:

        def send():
            while not done.is_set():
                tx.send_batch([b"x"] * 10)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            open_here = descriptors()
            before = open_here - own_descriptors(tx)
            for _ in range(5):
                assert in_child(check) == ""
            assert descriptors() == open_here
        finally:
            done.set()
            thread.join()
        tx.send(b"last")
        while rx.recv().data != b"last":
            pass


def own_descriptors(tx):
    """How many descriptors a sender has open: its sockets, and what its answers are waited for by."""
    with contextlib.closing(mcast.Sender(*tx.groups, ttl=0)) as like_it:
        before = descriptors()
        like_it.close()
        return before - descriptors()


@pytest.mark.needs("signals to processes")
def test_a_gathering_in_a_child_says_that_the_sender_is_another_process_s(group):
    """It does not just end, as where the sender is closed; the parent goes on with it."""

    def check():
        try:
            return f"it gave {next(answers)}"
        except ClosedError as error:
            return str(error)

    with mcast.Receiver(group, timeout=5) as rx, mcast.Sender(group, ttl=0, timeout=5) as tx:
        answers = tx.gather(b"question")
        assert in_child(check) == "the sender was opened in another process"
        rx.reply(rx.recv(), b"answer")
        assert next(answers).data == b"answer"


@pytest.mark.needs("signals to processes", "descriptor")
def test_a_child_that_closes_an_aio_sender_leaves_the_loop_of_the_parent_alone(group):
    """The poll set of the loop is shared with the child: the parent still wakes when an answer comes."""

    async def main():
        with mcast.Receiver(group, timeout=5) as rx:
            async with aio.Sender(group, ttl=0, timeout=10) as tx:
                await tx.send(b"question")
                question = rx.recv()
                waiting = asyncio.ensure_future(tx.recv())
                while tx._line._watch is None or not tx._line._watch._started:
                    await asyncio.sleep(0)
                assert in_child(tx.close) == ""
                rx.reply(question, b"answer")
                assert (await waiting).data == b"answer"
                assert await tx.send(b"more") == 1

    asyncio.run(main())


# ---- exit ----

ENDINGS = {
    "paced in a daemon thread": "threading.Thread(target=tx.send_batch, args=([b'x'] * 10**6,), daemon=True).start()",
    "waiting in a daemon thread": "threading.Thread(target=tx.recv, daemon=True).start()",
    "in a cycle": "cycle = [tx]; cycle.append(cycle)",
    "open": "kept = tx",
}
PROGRAM = """
import threading, time, mcast_fast as mcast
tx = mcast.Sender({group!r}, ttl=0, rate=100)
tx.send(b"x")
{ending}
time.sleep(0.05)
"""
AIO_PROGRAM = """
import asyncio
from mcast_fast import aio
async def main():
    tx = aio.Sender({group!r}, ttl=0, rate=1)
    task = asyncio.ensure_future(tx.send_batch([b"x"] * 1000))
    await asyncio.sleep(0.05)
    globals()["kept"] = tx
asyncio.run(main())
"""


def run_program(code):
    return subprocess.run(
        [sys.executable, "-W", "ignore::ResourceWarning", "-c", code],
        env=os.environ | {"MCAST_FAST_BACKEND": _core.backend},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


@pytest.mark.long
@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_the_interpreter_ends_with_a_sender_in_whatever_state(group, ending):
    done = run_program(PROGRAM.format(group=group, ending=ending))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.long
def test_the_interpreter_does_not_wait_for_the_thread_of_a_paced_aio_sender(group):
    """Its batch takes 1,000 s; run_program would give up before."""
    done = run_program(AIO_PROGRAM.format(group=group))
    assert done.returncode == 0, done.stderr


# ---- objects that nobody opened ----


def test_what_is_made_without_a_sender_is_refused_and_crashes_nothing(group):
    """The fast backend makes none at all; on the pure one it is of no use."""
    core = _core.send
    with mcast.Sender(group, ttl=0) as tx:
        for use in (
            lambda: core.Transmitter.__new__(core.Transmitter).counters(),
            lambda: core.Schedule.__new__(core.Schedule).add(bytes(16), 1, tx._routing.own.route),
            lambda: core.Schedule.__new__(core.Schedule).start(0, 0, 1.0),
            lambda: core.Schedule.__new__(core.Schedule).lateness(),
            lambda: tx._transmitter.send(core.Route(), [b"x"]),
        ):
            with pytest.raises((TypeError, AttributeError, ValueError)):
                use()


def test_a_route_of_another_sender_is_refused(group):
    with mcast.Sender(group, ttl=0) as one, mcast.Sender(group, f"127.0.0.1@{group}", ttl=0) as other:
        with pytest.raises(ValueError, match="of another sender"):
            one._transmitter.send(other._routing.own.route, [b"x"])
        with pytest.raises(ValueError, match="of another sender"):
            one._transmitter.schedule().add(bytes(16), 1, other._routing.own.route)
