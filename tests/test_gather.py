"""Sender.gather: one question, every answer; and datagrams to one host, by the same socket."""

import asyncio
import contextlib
import errno
import gc
import socket
import threading
import time
import weakref

import pytest

import mcast_fast as mcast
from mcast_fast import ClosedError, GroupError, InterfaceError, SendError, aio
from mcast_fast._sending.destinations import UnicastAddress, destination
from tests.conftest import free_port, loopback, place_of

HOST = {4: "127.0.0.1", 6: "::1"}
FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}


@pytest.fixture
def group(place):
    return place.group()


@pytest.fixture
def rx(backend, group):
    with mcast.Receiver(group, timeout=5) as receiver:
        yield receiver


@pytest.fixture
def tx(backend, group):
    with mcast.Sender(group, ttl=0, timeout=5) as sender:
        yield sender


@pytest.fixture
def host(place):
    """A plain socket on this machine, of the family of the place."""
    with socket.socket(FAMILY[place.version], socket.SOCK_DGRAM) as plain:
        plain.bind((HOST[place.version], 0))
        plain.settimeout(5)
        yield plain


def text_of(sock):
    """The address of a socket as text."""
    address, port, *_ = sock.getsockname()
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def closed_port(version):
    """An address of this machine where nobody listens."""
    port = free_port()
    return f"[{HOST[version]}]:{port}" if version == 6 else f"{HOST[version]}:{port}"


def end_now(gathering):
    """The time is over at this moment."""
    gathering._deadline, gathering._last = time.monotonic_ns(), time.time_ns()


# ---- gathering ----


def test_every_answer_is_gathered(rx, tx):
    answers = tx.gather(b"who?")
    question = rx.recv()
    for number in range(20):
        rx.reply(question, b"%d" % number)
    assert [next(answers).data for _ in range(20)] == [b"%d" % number for number in range(20)]
    assert tx.stats.datagrams == 1


def test_both_families_answer(backend):
    four, six = (place_of(version).group() for version in (4, 6))
    with mcast.Receiver(four, six, timeout=5) as rx, mcast.Sender(four, six, ttl=0, timeout=5) as tx:
        answers = tx.gather(b"who?")
        for question in rx.packets(count=2):
            rx.reply(question, question.group.encode())
        assert {next(answers).data for _ in range(2)} == {b"239.1.1.1", b"ff11::1"}


@pytest.mark.parametrize("timeout", [0, 0.02, "20ms"])
def test_gathering_ends_when_its_time_is_over(rx, tx, timeout):
    before = time.monotonic()
    assert list(tx.gather(b"who?", timeout)) == []
    assert time.monotonic() - before >= (0.019 if timeout else 0)  # but for rounding
    assert rx.recv().data == b"who?"


@pytest.mark.needs("kernel_timestamps")
def test_what_came_in_time_is_gathered_by_who_looks_late(rx, tx):
    """And what came later is left to the next call."""
    answers = tx.gather(b"who?", 60)
    question = rx.recv()
    for payload in (b"zero", b"one", b"two"):
        rx.reply(question, payload)
    assert next(answers).data == b"zero"
    end_now(answers)
    rx.reply(question, b"late")
    assert [answer.data for answer in answers] == [b"one", b"two"]
    assert next(answers, None) is None
    assert tx.recv().data == b"late"


def test_leaving_early_loses_nothing(rx, tx):
    answers = tx.gather(b"who?")
    question = rx.recv()
    for payload in (b"one", b"two", b"three"):
        rx.reply(question, payload)
    for answer in answers:
        assert answer.data == b"one"
        break
    assert tx.recv().data == b"two"
    assert next(tx.gather(b"again")).data == b"three"


def test_a_close_ends_the_gathering(rx, tx):
    answers = tx.gather(b"who?", None)
    rx.reply(rx.recv(), b"one")
    assert next(answers).data == b"one"
    closer = threading.Timer(0.02, tx.close)
    closer.start()
    assert list(answers) == []
    closer.join()
    with pytest.raises(ClosedError):
        tx.gather(b"who?")


def test_a_question_that_is_refused_is_an_error_at_once(tx):
    with pytest.raises(SendError) as caught:
        tx.gather(bytes(70_000))
    assert (caught.value.errno, caught.value.sent) == (errno.EMSGSIZE, 0)


def test_a_packet_that_is_taken_when_an_exception_comes_is_left_to_the_next_call(rx, tx, monkeypatch):
    answers = tx.gather(b"who?", 60)
    rx.reply(rx.recv(), b"one")
    assert tx.wait()
    end_now(answers)

    class Interrupted(BaseException):
        """What a signal's handler raises."""

    def came_in_time(_):
        raise Interrupted

    monkeypatch.setattr(answers, "_came_in_time", came_in_time)
    with pytest.raises(Interrupted):
        next(answers)
    assert tx.recv().data == b"one"


@pytest.mark.needs("compiled modules")
@pytest.mark.parametrize("kind", [mcast.Sender, mcast.Receiver])
def test_what_was_asked_and_forgotten_is_freed_at_once(backend, group, kind):
    """It is in no reference cycle, of which a collection would close it much later (CPython)."""
    gc.disable()
    try:
        one = kind(group, ttl=0, **({"own_packets": False} if kind is mcast.Receiver else {}))
        one.send(*([group] if kind is mcast.Receiver else []), b"x")
        if kind is mcast.Sender:
            assert list(one.gather(b"x", 0)) == []
            one.send_to(b"x", "127.0.0.1:9")
        one.close()
        known = weakref.ref(one)
        del one
        assert known() is None
    finally:
        gc.enable()


# ---- in asyncio ----


def test_every_answer_is_gathered_in_asyncio(backend, group):
    async def main():
        async with aio.Receiver(group, timeout=5) as rx, aio.Sender(group, ttl=0, timeout=5) as tx:

            async def answer():
                question = await rx.recv()
                for number in range(20):
                    rx.reply(question, b"%d" % number)

            task = asyncio.ensure_future(answer())
            gathered = []
            async for packet in tx.gather(b"who?"):
                gathered.append(packet.data)
                if len(gathered) == 20:
                    break
            await task
            assert gathered == [b"%d" % number for number in range(20)]
            assert tx.stats.datagrams == 1

    asyncio.run(main())


@pytest.mark.needs("kernel_timestamps")
def test_gathering_ends_in_asyncio(backend, group):
    """By its time, with what came in time; by a close; and its arguments are checked at once."""

    async def main():
        async with aio.Receiver(group, timeout=5) as rx, aio.Sender(group, ttl=0) as tx:
            assert [packet async for packet in tx.gather(b"one?", "20ms")] == []
            answers = tx.gather(b"two?", 60)
            waiting = asyncio.ensure_future(anext(answers))
            questions = [await rx.recv() for _ in range(2)]
            for payload in (b"one", b"two"):
                rx.reply(questions[1], payload)
            assert (await waiting).data == b"one"
            end_now(answers._answers)
            rx.reply(questions[1], b"late")
            assert [packet.data async for packet in answers] == [b"two"]
            assert (await tx.recv(1)).data == b"late"
            waiting = asyncio.ensure_future(anext(tx.gather(b"three?", None), None))
            await rx.recv()
            tx.close()
            assert await waiting is None
            for wrong in (5, "text", None):
                with pytest.raises(TypeError, match="bytes-like"):
                    tx.gather(wrong)
            with pytest.raises(ClosedError):
                await anext(tx.gather(b"four?"))

    asyncio.run(main())


# ---- to one host ----


def test_a_datagram_to_a_host_leaves_from_the_port_of_the_group_and_its_answer_comes_back(tx, rx, host):
    assert tx.send_to(b"there", text_of(host)) == 1
    data, sender = host.recvfrom(100)
    assert data == b"there"
    assert sender[1] == tx.local_addresses[0][1]
    host.sendto(b"back", sender)
    assert tx.recv().data == b"back"
    assert tx.send(b"a") == 1
    assert rx.recv().source_port == sender[1]
    assert len(tx.local_addresses) == 1


def test_a_host_as_socket_has_it(tx, host):
    assert tx.send_to(b"there", host.getsockname()) == 1
    assert host.recv(100) == b"there"


def test_a_host_by_the_port_of_the_sender(backend, group, host):
    address, port, *_ = host.getsockname()
    with mcast.Sender(group, port=port, ttl=0) as tx:
        assert tx.send_to(b"there", address) == 1
        assert host.recv(100) == b"there"


def test_the_source_of_a_packet_is_a_host(tx, rx, host):
    """Of a link-local one the zone too."""
    tx.send(b"question")
    packet = rx.recv()
    with mcast.Sender(f"239.1.1.9%{loopback()}:{free_port()}", ttl=0) as other:
        brackets = f"[{packet.source}]" if ":" in packet.source else packet.source
        assert other.send_to(b"one", packet.source_address) == 1
        assert other.send_to(b"two", f"{brackets}:{packet.source_port}") == 1
        assert [tx.recv().data for _ in range(2)] == [b"one", b"two"]


@pytest.mark.needs("receive_ttl", "recvmsg")
@pytest.mark.parametrize("ttl", [0, 1, 255])
def test_the_ttl_is_of_multicast_alone(backend, ttl):
    group = f"239.1.1.1%{loopback()}:{free_port()}"
    with mcast.Sender(group, ttl=ttl) as tx, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host:
        host.bind((HOST[4], 0))
        host.settimeout(5)
        host.setsockopt(*mcast._core.membership.OPTIONS["IP_RECVTTL"], 1)
        tx.send_to(b"there", text_of(host))
        _, messages, *_ = host.recvmsg(100, 256)
        (used,) = (value[0] or value[-1] for level, _, value in messages if level == socket.IPPROTO_IP)
        assert used == host.getsockopt(socket.IPPROTO_IP, socket.IP_TTL)


@pytest.mark.needs("answers of Linux")
def test_a_host_of_the_other_family_gets_a_socket_of_its_own(tx, place):
    other = 10 - place.version
    with socket.socket(FAMILY[other], socket.SOCK_DGRAM) as host:
        host.bind((HOST[other], 0))
        host.settimeout(5)
        for _ in range(2):
            assert tx.send_to(b"there", text_of(host)) == 1
            data, sender = host.recvfrom(100)
            assert data == b"there"
        assert sender[1] == tx.local_addresses[1][1]
        host.sendto(b"back", sender)
        assert tx.recv().data == b"back"
        assert len(tx.local_addresses) == 2


@pytest.mark.long
@pytest.mark.needs("answers of Linux")
def test_that_nobody_listens_is_no_error_of_what_is_sent_and_received_later(tx, rx, place):
    """An ICMP answer would be the error of the next datagram, which would not leave, or of the next receive."""
    nobody = closed_port(place.version)
    for number in range(10):
        assert tx.send_to(b"x", nobody) == 1
        assert tx.send_batch([b"%d" % number, b"more"]) == 2
    assert rx.collect(20).payloads()[::2] == [b"%d" % number for number in range(10)]
    assert tx.stats.datagrams == 30
    tx.send_to(b"x", nobody)
    with pytest.raises(TimeoutError):
        tx.recv(timeout=0.02)
    tx.send_to(b"x", nobody)
    assert list(tx.gather(b"x", 0.02)) == []
    started, spent = time.monotonic(), time.process_time()
    with pytest.raises(TimeoutError):
        tx.recv(timeout=0.2)
    assert time.process_time() - spent < (time.monotonic() - started) / 2, "it waits, and does not spin"


@pytest.mark.long
@pytest.mark.needs("answers of Linux")
def test_that_nobody_listens_is_no_error_in_asyncio(backend, group, place):
    async def main():
        nobody = closed_port(place.version)
        async with aio.Receiver(group, timeout=5) as rx, aio.Sender(group, ttl=0) as tx:
            waiting = asyncio.ensure_future(tx.recv(0.2))
            for number in range(10):
                assert await tx.send_to(b"x", nobody) == 1
                await asyncio.sleep(0)
                assert await tx.send(b"%d" % number) == 1
            assert (await rx.collect(10)).payloads() == [b"%d" % number for number in range(10)]
            with pytest.raises(TimeoutError):
                await waiting
            assert [packet async for packet in tx.gather(b"x", 0.02)] == []

    asyncio.run(main())


@pytest.mark.needs("answers of Linux")
def test_a_recording_is_sent_to_a_host(tx, rx, host, place):
    """And that nobody listens is no error there either."""
    tx.send_batch([b"one", b"two", b"three"])
    batch = rx.collect(3)
    first = tx.schedule(lambda _: closed_port(place.version))
    assert tx.send_recorded(batch, first) == 3
    second = tx.schedule(lambda _: text_of(host))
    assert tx.send_recorded(batch, second) == 3
    assert [host.recv(100) for _ in range(3)] == [b"one", b"two", b"three"]


# ---- what an address may be ----

ADDRESSES = {
    "10.0.0.5": UnicastAddress("10.0.0.5"),
    "10.0.0.5:5000": UnicastAddress("10.0.0.5", 5000),
    " udp://10.0.0.5:5000/ ": UnicastAddress("10.0.0.5", 5000),
    "FD00::0:5": UnicastAddress("fd00::5"),
    "[fd00::5]:5000": UnicastAddress("fd00::5", 5000),
    "[::ffff:10.0.0.5]:5000": UnicastAddress("10.0.0.5", 5000),
    "[fe80::1%eth0]:5000": UnicastAddress("fe80::1", 5000, "eth0"),
    "[fe80::1]%3:5000": UnicastAddress("fe80::1", 5000, "3"),
    "fe80::1%eth0": UnicastAddress("fe80::1", None, "eth0"),
    ("10.0.0.5", 5000): UnicastAddress("10.0.0.5", 5000),
    ("fe80::1", 5000, 0, 3): UnicastAddress("fe80::1", 5000, "3"),
    ("fe80::1%eth0", 5000): UnicastAddress("fe80::1", 5000, "eth0"),
    ("239.1.1.1", 5000): mcast.Group("239.1.1.1", 5000),
    ("ff15::1", 5000, 0, 3): mcast.Group("ff15::1", 5000, "3"),
    "239.1.1.1:5000+3": mcast.Group("239.1.1.1", 5000, count=3),
    mcast.Group("239.1.1.1"): mcast.Group("239.1.1.1"),
}


@pytest.mark.parametrize(("value", "meant"), ADDRESSES.items(), ids=str)
def test_what_is_sent_to(value, meant):
    assert destination(value) == meant
    if isinstance(meant, UnicastAddress):
        assert destination(str(meant)) == meant


WRONG = {
    "0.0.0.0:5000": "unspecified",
    "[::]:5000": "unspecified",
    "255.255.255.255:5000": "broadcast",
    "10.0.0.5%eth0:5000": "leave out the interface, %eth0",
    "[fd00::5%eth0]:5000": "leave out the interface, %eth0",
    "10.0.0.5:0": "port 0",
    "10.0.0.5:70000": "port 70000",
    "10.0.0.5:x": "port 'x'",
    "10.0.0.5+3:5000": "10.0.0.5",
    "10.0.0.7@10.0.0.5:5000": "10.0.0.5",
    "host.example:5000": "names are not looked up",
    "fe80::1%": "interface",
    ("10.0.0.5",): "no address of a socket",
    ("10.0.0.5", 5000, 0): "no address of a socket",
    (5, 5000): "no address of a socket",
    ("host.example", 5000): "names are not looked up",
    ("10.0.0.5", "5000"): "port '5000'",
    ("10.0.0.5", 0): "port 0",
    ("fe80::1", 5000, 0, -1): "scope -1",
    ("fe80::1", 5000, (), 3): "flow label ()",
    ("fe80::1", 5000, 0, "eth0"): "scope 'eth0'",
    b"10.0.0.5:5000": "not text",
    5: "not text",
}


@pytest.mark.parametrize(("value", "said"), WRONG.items(), ids=str)
def test_what_cannot_be_sent_to(tx, value, said):
    with pytest.raises(GroupError) as caught:
        tx.send_to(b"x", value)
    assert said in str(caught.value)


def test_a_host_without_a_port_or_a_zone(tx):
    with pytest.raises(GroupError, match=r"has no port; write 127\.0\.0\.1:5000"):
        tx.send_to(b"x", "127.0.0.1")
    with pytest.raises(GroupError, match=r"has no port; write \[::1\]:5000"):
        tx.send_to(b"x", "::1")
    with pytest.raises(GroupError, match="needs its zone: fe80::1%eth0"):
        tx.send_to(b"x", "[fe80::1]:5000")
    with pytest.raises(InterfaceError, match="nope0"):
        tx.send_to(b"x", "[fe80::1%nope0]:5000")
    assert tx.stats.datagrams == 0


def test_a_source_of_the_other_family_is_refused(backend):
    with mcast.Sender(f"239.1.1.1%{loopback()}:{free_port()}", source="127.0.0.1", ttl=0) as tx:
        with pytest.raises(GroupError, match="one family"):
            tx.send_to(b"x", "[::1]:5000")
        with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as host:
            host.bind((HOST[4], 0))
            assert tx.send_to(b"x", text_of(host)) == 1


@pytest.mark.needs("answers of Linux")
@pytest.mark.lab
def test_a_host_without_a_route(backend):
    group = f"239.1.1.1%{loopback()}:{free_port()}"
    with mcast.Sender(group, ttl=0) as tx:
        with pytest.raises(SendError, match=r"send 1 bytes to 192.0.2.7 port 5: Network is unreachable"):
            tx.send_to(b"x", "192.0.2.7:5")
        with pytest.raises(InterfaceError, match="no route to 2001:db8::7"):
            tx.send_to(b"x", "[2001:db8::7]:5")
        assert tx.send(b"x") == 1
