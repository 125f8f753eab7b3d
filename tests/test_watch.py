"""Interfaces that go and come back while a receiver watches; and the kernel's news, taken apart."""

import _thread
import contextlib
import ctypes
import dataclasses
import errno
import functools
import gc
import itertools
import logging
import os
import socket
import struct
import threading
import time
import weakref
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import _core
from mcast_fast._core import pairs
from mcast_fast._core import threads as _threads
from mcast_fast._host import changes, events, netlink, news, watch
from mcast_fast._host.changes import ANYTHING, Change, Kind, RouteMessages
from mcast_fast._host.interfaces import Interface
from mcast_fast._membership import joins
from mcast_fast.stats import What
from tests import lab
from tests.conftest import descriptors, free_port, loopback, until
from tests.interrupts import HandlerError, Interrupt, Interrupter, needs_tracing, raise_error, raise_interrupt

PORT = 5000
GROUPS = ("239.1.1.1", "ff15::1")
BACK_WITHIN = 1.0  # seconds after the interface is usable again


def text(group: str, interface: str) -> str:
    return f"[{group}%{interface}]:{PORT}" if ":" in group else f"{group}%{interface}:{PORT}"


@pytest.fixture
def made() -> Iterator[lab.Lab]:
    with lab.Lab() as one:
        yield one


def open_watched(end: lab.End, *feeds: str) -> mcast.Receiver:
    with end.host.enter():
        return mcast.Receiver(*feeds, watch=True)


def heard_within(rx: mcast.Receiver, sending: lab.End, group: str, seconds: float) -> mcast.Packet:
    """Send one packet after the other until one is heard."""
    deadline = time.monotonic() + seconds
    with sending.host.enter():
        tx = mcast.Sender(text(group, sending.interface))
    with tx:
        while time.monotonic() < deadline:
            tx.send(b"again")
            try:
                return rx.recv(timeout=0.01)
            except TimeoutError:
                continue
    pytest.fail(f"nothing heard within {seconds} s: {rx.stats}, {rx.memberships}")


def wait_for_event(rx: mcast.Receiver, what: What, seconds: float = 5.0) -> mcast.Event:
    """The event, once it is told."""
    found = until(lambda: next((one for one in rx.stats.events if one.what is what), None), seconds)
    assert found is not None, f"no event {what} within {seconds} s: {rx.stats.events}"
    return found


@pytest.mark.lab
@pytest.mark.parametrize("group", GROUPS)
def test_down_and_up(backend, made, group, caplog):
    caplog.set_level(logging.INFO, "mcast_fast")
    sending, receiving = made.link("a", "b")
    with open_watched(receiving, text(group, receiving.interface)) as rx:
        heard_within(rx, sending, group, BACK_WITHIN)
        receiving.host.run("ip", "link", "set", receiving.interface, "down")
        wait_for_event(rx, What.DOWN)
        receiving.host.run("ip", "link", "set", receiving.interface, "up")
        receiving.wait_usable()
        heard_within(rx, sending, group, BACK_WITHIN)
        event = wait_for_event(rx, What.UP)
        assert event.interface == receiving.interface
        assert abs(event.time - time.time_ns()) < 60e9
    assert f"interface {receiving.interface}: up" in caplog.text


@pytest.mark.lab
@pytest.mark.parametrize("group", GROUPS)
def test_deleted_and_made_anew(backend, made, group):
    before = descriptors()
    sending, receiving = made.link("a", "b", number=7)
    rx = open_watched(receiving, text(group, receiving.interface))
    with rx:
        old = heard_within(rx, sending, group, BACK_WITHIN).interface_index
        for turn in range(2):
            with sending.host.enter(), mcast.Sender(text(group, sending.interface)) as tx:
                tx.send(b"queued %d" % turn)
            assert rx.fileno()
            receiving.host.run("ip", "link", "del", receiving.interface)
            wait_for_event(rx, What.GONE)
            sending, receiving = made.link("a", "b", number=7)
            heard = [heard_within(rx, sending, group, BACK_WITHIN) for _ in range(2)]  # each socket in its own order
            heard += rx.collect(1_000, timeout=0.05)
            assert b"queued %d" % turn in [packet.data for packet in heard], "what the kernel had delivered is not lost"
            again = [packet for packet in heard if packet.data == b"again"]
            assert {packet.interface for packet in again} == {receiving.interface}
            assert {packet.interface_index for packet in again} == {receiving.index} != {old}
        assert [one.what for one in rx.stats.events].count(What.BACK) == 2
        (held,) = rx.memberships
        assert held.joined
    assert sockets_closed(before)


@pytest.mark.lab
@pytest.mark.parametrize("group", GROUPS)
def test_renamed(backend, made, group):
    sending, receiving = made.link("a", "b")
    with open_watched(receiving, text(group, receiving.interface)) as rx:
        heard_within(rx, sending, group, BACK_WITHIN)
        for command in (("down",), ("name", "fresh0"), ("up",)):
            receiving.host.run("ip", "link", "set", receiving.interface if command != ("up",) else "fresh0", *command)
        event = wait_for_event(rx, What.RENAMED)
        assert (event.interface, event.detail) == ("fresh0", f"was {receiving.interface}")
        wait_for_event(rx, What.UP)
        assert heard_within(rx, sending, group, BACK_WITHIN * 3).interface == "fresh0"
        assert rx.memberships[0].interface == "fresh0"


@pytest.mark.lab
@pytest.mark.parametrize("group", GROUPS)
def test_another_address(backend, made, group):
    sending, receiving = made.link("a", "b")
    with open_watched(receiving, text(group, receiving.interface)) as rx:
        heard_within(rx, sending, group, BACK_WITHIN)
        address = f"{receiving.ipv4}/24" if ":" not in group else f"{receiving.ipv6}/64"
        other = "10.77.0.77/24" if ":" not in group else "fd00:77::77/64"
        receiving.host.run("ip", "address", "del", address, "dev", receiving.interface)
        receiving.host.run("ip", "address", "add", other, "dev", receiving.interface)
        wait_for_event(rx, What.ADDRESS)
        heard_within(rx, sending, group, BACK_WITHIN)


@pytest.mark.lab
def test_one_more_address_interrupts_nobody(backend, made, monkeypatch):
    """A rejoin would miss packets, and DHCP renews an address now and then."""
    refreshed = []
    monkeypatch.setattr(joins.Joins, "refresh", lambda _self, *arguments: refreshed.append(arguments))
    _, receiving = made.link("a", "b")
    with open_watched(receiving, text(GROUPS[0], receiving.interface)) as rx:
        for address in ("10.77.0.78/24", "fd00:77::78/64"):
            receiving.host.run("ip", "address", "add", address, "dev", receiving.interface)
        wait_for_event(rx, What.ADDRESS)
        receiving.host.run("ip", "link", "set", receiving.interface, "down")
        wait_for_event(rx, What.DOWN)
    assert refreshed == []


@pytest.mark.lab
@pytest.mark.parametrize("group", GROUPS)
def test_what_is_gone_is_not_joined(backend, made, group):
    _, receiving = made.link("a", "b")
    with open_watched(receiving, text(group, receiving.interface)) as rx:
        assert rx.memberships[0].joined
        receiving.host.run("ip", "link", "del", receiving.interface)
        wait_for_event(rx, What.GONE)
        (held,) = rx.memberships
        assert (held.joined, held.kernel_mode, held.reason) == (False, None, "the interface is gone")


@pytest.mark.lab
@pytest.mark.parametrize("group", GROUPS)
def test_what_a_gone_interface_has_queued_is_not_delivered_after_leave(backend, made, group):
    sending, receiving = made.link("a", "b", number=7)
    with open_watched(receiving, text(group, receiving.interface)) as rx:
        heard_within(rx, sending, group, BACK_WITHIN)
        with sending.host.enter(), mcast.Sender(text(group, sending.interface)) as tx:
            tx.send(b"queued")
        receiving.host.run("ip", "link", "del", receiving.interface)
        wait_for_event(rx, What.GONE)
        made.link("a", "b", number=7)
        wait_for_event(rx, What.BACK)
        assert rx.leave(group)
        assert len(rx.collect(10, timeout=0.05)) == 0


def sockets_closed(before: int) -> bool:
    """The thread of a watch closes what it listened to, a moment after close() or the end of its receiver."""
    return until(lambda: descriptors() == before)


def watch_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "mcast-fast watch"]


def wait_for_joined(rx: mcast.Receiver, interface: str, seconds: float = 5.0) -> None:
    joined = until(lambda: any(one.interface == interface and one.joined for one in rx.memberships), seconds)
    assert joined, (rx.memberships, rx.stats.events)


@pytest.mark.lab
def test_an_interface_that_flaps_is_joined_afresh_once(backend, made, monkeypatch):
    """Ten times within three seconds; each time is an event, and the network hears of it once."""
    refreshed = []
    refresh = joins.Joins.refresh
    monkeypatch.setattr(
        joins.Joins, "refresh", lambda self, *arguments: (refreshed.append(arguments), refresh(self, *arguments))
    )
    sending, receiving = made.link("a", "b")
    with open_watched(receiving, text(GROUPS[0], receiving.interface)) as rx:
        for _ in range(10):
            receiving.host.run("ip", "link", "set", receiving.interface, "down")
            receiving.host.run("ip", "link", "set", receiving.interface, "up")
        wait_for_event(rx, What.REJOINED)
        heard_within(rx, sending, GROUPS[0], BACK_WITHIN)
        assert refreshed == [(receiving.index,)]
        assert [one.what for one in rx.stats.events].count(What.REJOINED) == 1
        assert rx.memberships[0].joined


@pytest.mark.lab
@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("ring", [None, "1MiB"])
def test_an_interface_that_is_not_there_yet_is_waited_for(backend, made, group, ring):
    if ring and not mcast.features()["ring"]:
        pytest.skip(f"feature ring: {mcast.features()['ring'].reason}")
    host = made.hosts["b"]
    before = descriptors()
    with host.enter():
        rx = mcast.Receiver(text(group, "vb3"), watch=True, ring=ring, timeout=0.1)
    with rx:
        (waiting,) = rx.memberships
        assert (waiting.group, waiting.port, waiting.interface) == (group, PORT, "vb3")
        assert (waiting.joined, waiting.sockets, waiting.reason) == (False, 0, "the interface is not there yet")
        assert not rx.join(text(group, "vb3"))
        sending, receiving = made.link("a", "b", number=3)
        wait_for_joined(rx, "vb3")
        assert wait_for_event(rx, What.NEW).interface == "vb3"
        assert heard_within(rx, sending, group, BACK_WITHIN).interface == receiving.interface
        assert len(rx.memberships) == 1
    assert sockets_closed(before)


@pytest.mark.lab
def test_what_waits_may_be_changed_and_left(backend, made):
    host = made.hosts["b"]
    with host.enter():
        rx = mcast.Receiver(text("239.1.1.1", "vb3"), text("239.1.1.2", "vb3"), "239.1.1.4%vb3:5000+3", watch=True)
    with rx:
        assert rx.set_sources("239.1.1.1", include=["10.77.3.1"])
        assert not rx.set_sources("239.1.1.1", include=["10.77.3.1"])
        assert rx.leave("239.1.1.2")
        assert not rx.leave("239.1.1.2")
        assert rx.leave("239.1.1.5%vb3")
        assert [(one.group, one.sources) for one in rx.memberships] == [
            ("239.1.1.1", ("10.77.3.1",)), ("239.1.1.4", ()), ("239.1.1.6", ())
        ]  # fmt: skip
        made.link("a", "b", number=3)
        wait_for_joined(rx, "vb3")
        held = {one.group: (one.joined, one.kernel_mode, one.kernel_sources) for one in rx.memberships}
        any_source = (True, "exclude", ())
        assert held == {
            "239.1.1.1": (True, "include", ("10.77.3.1",)),
            "239.1.1.4": any_source,
            "239.1.1.6": any_source,
        }


@pytest.mark.lab
def test_a_name_that_is_not_there_is_an_error_without_watch_and_an_index_with_it_too(backend, made):
    with made.hosts["b"].enter():
        with pytest.raises(mcast.InterfaceError, match="vb3"):
            mcast.Receiver(text("239.1.1.1", "vb3"))
        with pytest.raises(mcast.InterfaceError, match="index 77"):
            mcast.Receiver(text("239.1.1.1", "77"), watch=True)


@pytest.mark.lab
def test_all_takes_interfaces_that_come_later(backend, made):
    before = descriptors()
    sending, receiving = made.link("a", "b", number=4)
    with open_watched(receiving, f"239.1.1.1%all:{PORT}") as rx:
        heard_within(rx, sending, "239.1.1.1", BACK_WITHIN)
        assert rx.block("239.1.1.1", "10.77.5.9")
        later, _ = made.link("a", "b", number=5)
        wait_for_joined(rx, "vb5")
        assert wait_for_event(rx, What.NEW).interface == "vb5"
        found = heard_within(rx, later, "239.1.1.1", BACK_WITHIN)
        while found.interface != "vb5":
            found = heard_within(rx, later, "239.1.1.1", BACK_WITHIN)
        assert {one.interface: one.sources for one in rx.memberships if one.joined} == {
            "vb4": ("10.77.5.9",), "vb5": ("10.77.5.9",)
        }  # fmt: skip
        assert rx.leave("239.1.1.1")
        made.link("a", "b", number=6)
        receiving.host.run("ip", "link", "set", "vb5", "down")
        wait_for_event(rx, What.NEW)
        assert rx.memberships == []
    assert sockets_closed(before)


@pytest.mark.lab
def test_all_waits_where_none_is_fit_yet(backend, made):
    with made.hosts["b"].enter():
        rx = mcast.Receiver(f"239.1.1.1%all:{PORT}", watch=True)
    with rx:
        assert [(one.interface, one.joined) for one in rx.memberships] == [("lo", False)]
        made.link("a", "b", number=5)
        wait_for_joined(rx, "vb5")


@pytest.mark.lab
def test_what_is_refused_is_reported_and_tried_again(backend, made, monkeypatch):
    """The thread survives whatever is raised: an error of ours, of the system, a warning, or of a bug."""
    _, receiving = made.link("a", "b", number=7)
    errors = [OSError(19, "No such device"), mcast.InterfaceError("odd link"), UserWarning("clipped"), KeyError("bug")]
    raised, open_socket = [], joins.open_socket

    def refuse(*arguments, **options):
        if len(raised) < len(errors):
            raised.append(errors[len(raised)])
            raise raised[-1]
        return open_socket(*arguments, **options)

    with open_watched(receiving, text(GROUPS[0], receiving.interface)) as rx:
        monkeypatch.setattr(joins, "open_socket", refuse)
        receiving.host.run("ip", "link", "del", receiving.interface)
        wait_for_event(rx, What.GONE)
        made.link("a", "b", number=7)
        wait_for_event(rx, What.BACK)
        failed = [one.detail for one in rx.stats.events if one.what is What.FAILED]
        assert len(failed) == len(errors)
        assert all(str(error) in detail for error, detail in zip(errors, failed, strict=True))
        assert rx.memberships[0].joined


@pytest.mark.lab
def test_a_rejoin_that_is_refused_is_a_reason_until_it_is_done(backend, made, monkeypatch):
    _, receiving = made.link("a", "b")
    refusing, join = threading.Event(), _core.membership.join

    def refuse(*arguments, **options):
        if refusing.is_set():
            raise OSError(105, "No buffer space available")
        join(*arguments)

    with open_watched(receiving, text(GROUPS[0], receiving.interface)) as rx:
        monkeypatch.setattr(_core.membership, "join", refuse)
        refusing.set()
        receiving.host.run("ip", "link", "set", receiving.interface, "down")
        receiving.host.run("ip", "link", "set", receiving.interface, "up")
        event = wait_for_event(rx, What.FAILED)
        assert "No buffer space available (105)" in event.detail
        (held,) = rx.memberships
        assert not held.joined
        assert "No buffer space available (105)" in held.reason
        refusing.clear()
        wait_for_joined(rx, receiving.interface)
        wait_for_event(rx, What.REJOINED)


@pytest.mark.lab
def test_lost_news_are_made_up_for_even_when_that_fails_first(backend, made, monkeypatch):
    _, receiving = made.link("a", "b")
    failures, listed = [mcast.SocketError(24, "no descriptor is left")], watch.interfaces
    with open_watched(receiving, text(GROUPS[0], receiving.interface)) as rx:
        monkeypatch.setattr(watch, "interfaces", lambda: _raise(failures.pop()) if failures else listed())
        rx._watch._listener._has_lost_news = True
        receiving.host.run("ip", "link", "set", receiving.interface, "down")
        event = wait_for_event(rx, What.FAILED)
        assert "no descriptor is left" in event.interface + event.detail
        wait_for_event(rx, What.DOWN)
        assert watch_threads()


def _raise(error: BaseException) -> None:
    raise error


@pytest.mark.needs("watch")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_receiver_that_is_forgotten_is_collected(backend):
    mcast.Receiver(text("239.9.1.1", loopback()), watch=True).close()
    assert until(lambda: not watch_threads())
    before = descriptors()
    for _ in range(20):
        rx = mcast.Receiver(text("239.9.1.1", loopback()), watch=True)
        gone = weakref.ref(rx._subscriptions)
        del rx
    gc.collect()
    assert sockets_closed(before)
    assert gone() is None
    assert until(lambda: not watch_threads())


class Owner:
    """Has a watch that reports to it."""

    def __init__(self) -> None:
        self.watch = watch.Watch(self.indexes, self.report)

    def indexes(self) -> list[int]:
        return []

    def report(self, what: What, index: int, name: str) -> bool:
        return True


@pytest.mark.needs("watch")
def test_whoever_is_reported_to_is_collected_with_the_watch():
    before, owner = descriptors(), Owner()
    gone = weakref.ref(owner)
    owner.watch.close()
    owner.watch.close()
    owner.watch = watch.Watch(owner.indexes, owner.report)
    del owner
    gc.collect()
    assert gone() is None
    assert sockets_closed(before)


@pytest.mark.needs("watch", "signals to processes")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("closes", [False, True], ids=["child keeps it", "child closes it"])
def test_a_forked_child_neither_ends_the_watch_nor_keeps_it(closes):
    """The child has every descriptor too, and no thread."""
    before, owner = descriptors(), Owner()
    (to_read, to_write), (from_child, to_parent) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            opened = descriptors()
            if closes:
                owner.watch.close()
                owner.watch.close()
            status = 0 if descriptors() == opened - 3 * closes else 2
            os.write(to_parent, b"!")
            os.close(to_write)
            os.read(to_read, 1)
        os._exit(status)
    assert os.read(from_child, 1) == b"!"
    assert watch_threads()
    owner.watch.close()
    assert sockets_closed(before + 4)
    assert until(lambda: not watch_threads())
    for one in (to_write, to_read, from_child, to_parent):
        os.close(one)
    assert os.waitpid(child, 0)[1] == 0


@pytest.mark.long
@pytest.mark.needs("watch", "process limits")
def test_an_opening_without_descriptors_leaves_nothing_open(backend):
    """Whichever of them is the one too many."""
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    before, opened, refused = descriptors(), False, 0
    limit = 3
    while not opened:
        rx = None
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        try:
            rx = mcast.Receiver(text("239.9.1.1", loopback()), watch=True)
            opened = True
        except mcast.SocketError:
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if rx is not None:
            rx.close()
        del rx
        gc.collect()
        assert sockets_closed(before), limit
        limit += 1
    assert refused > 3


@pytest.mark.needs("watch")
def test_where_no_thread_can_start_it_is_an_error_of_ours(backend, monkeypatch):
    before = descriptors()
    monkeypatch.setattr(threading.Thread, "start", lambda _: _raise(RuntimeError("can't start new thread")))
    with pytest.raises(mcast.SocketError, match="thread"):
        mcast.Receiver(text("239.9.1.1", loopback()), watch=True)
    gc.collect()
    assert descriptors() == before


@needs_tracing
@pytest.mark.long
@pytest.mark.needs("watch")
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # one that nobody had yet closes itself
@pytest.mark.parametrize("act", [raise_interrupt, raise_error])
def test_an_opening_that_is_interrupted_leaves_nothing(act):
    """At every moment in threading, too; and no thread ends with a traceback."""
    files = frozenset(one.__file__ for one in (watch, news, _threads, threading))
    before, threads = descriptors(), set(threading.enumerate())
    for number in itertools.count(1):
        owner = Owner.__new__(Owner)
        interrupter = Interrupter(files, number, act)
        with contextlib.suppress(Interrupt, HandlerError):
            interrupter.run(owner.__init__)
        if interrupter.happened:
            assert not hasattr(owner, "watch")
        else:
            owner.watch.close()
        gc.collect()
        assert sockets_closed(before), number
        assert until(lambda: set(threading.enumerate()) == threads), number
        if not interrupter.happened:
            break
    assert number > 20


@pytest.mark.needs("watch")
def test_the_opener_closes_what_a_thread_that_never_ran_would_own(monkeypatch):
    """An exception of a signal handler can come before the thread does; when it comes, it finds nothing to do."""
    before, held = descriptors(), []
    monkeypatch.setattr(_threads, "start", lambda target, name: (held.append(target), raise_error()))
    with pytest.raises(HandlerError):
        Owner()
    assert descriptors() == before
    held.pop()()
    assert descriptors() == before


@pytest.mark.needs("watch")
def test_events_are_bounded(backend):
    with mcast.Receiver(text("239.9.1.1", loopback())) as rx:
        index = rx._subscriptions.indexes()[0]
        for number in range(1_500):
            assert rx._subscriptions.reported(What.UP, index, f"eth{number}")
        assert [one.interface for one in rx.stats.events] == [f"eth{number}" for number in range(500, 1_500)]
        assert rx._subscriptions.events_left_out == 500


@pytest.mark.needs("watch")
def test_names_in_a_batch_stay_what_they_were(backend):
    port = free_port()
    feed = f"239.9.1.1%{loopback()}:{port}"
    with mcast.Receiver(feed, timeout=5) as rx, mcast.Sender(feed) as tx:
        tx.send(b"old")
        old = rx.recv()
        assert rx._subscriptions.reported(What.RENAMED, old.interface_index, "fresh0")
        tx.send(b"new")
        assert (old.interface, rx.recv().interface) == (loopback(), "fresh0")


@pytest.mark.lab
def test_without_watch_nothing_is_told(backend, made):
    _, receiving = made.link("a", "b")
    with receiving.host.enter(), mcast.Receiver(text(GROUPS[0], receiving.interface)) as rx:
        receiving.host.run("ip", "link", "set", receiving.interface, "down")
        assert rx.stats.events == ()


# ---- the kernel's news ----


@given(st.binary(max_size=512))
def test_any_bytes_are_taken_apart_or_passed_over(data):
    for change in changes.of_netlink(data):
        assert change.kind in (Kind.LINK, Kind.GONE, Kind.ADDRESS)
        assert [type(one) for one in (change.index, change.flags, change.name)] == [int, int, str]


def link_message(kind: int, index: int, flags: int, name: bytes) -> bytes:
    named = netlink.RTATTR.pack(netlink.RTATTR.size + len(name) + 1, netlink.IFLA_IFNAME) + name + b"\0"
    body = netlink.IFINFOMSG.pack(0, 1, index, flags, 0) + named + bytes(-len(named) % 4)
    return netlink.NLMSGHDR.pack(netlink.NLMSGHDR.size + len(body), kind, 0, 0, 0) + body


def test_several_messages_in_one_read():
    data = link_message(netlink.RTM_NEWLINK, 4, 0x1043, b"eth0") + link_message(netlink.RTM_DELLINK, 5, 0, b"eth1")
    assert changes.of_netlink(data) == [Change(Kind.LINK, 4, 0x1043, "eth0"), Change(Kind.GONE, 5, 0, "eth1")]
    assert watch.is_running(0x1043)
    assert not watch.is_running(0x1003)


def test_a_message_that_is_cut_short_ends_the_reading():
    data = link_message(netlink.RTM_NEWLINK, 4, 0x1043, b"eth0")
    assert changes.of_netlink(data[:-1]) == []
    assert changes.of_netlink(data + data[:10]) == changes.of_netlink(data)


# ---- routing sockets of macOS and the BSDs, route(4) ----

LAYOUTS = pytest.mark.parametrize("system", changes.ROUTE_MESSAGES.values(), ids=changes.ROUTE_MESSAGES)
RTM_GET = 4


def route_message(system: RouteMessages, number: int, index: int = 0, flags: int = 0, size: int = 112) -> bytes:
    """A message with the index and the flags of an interface where that system has them."""
    data = bytearray(size)
    struct.pack_into("=HBB", data, 0, size, system.version, number)
    struct.pack_into("=H", data, system.index_at, index)
    struct.pack_into("=I", data, system.flags_at, flags)
    return bytes(data)


@LAYOUTS
@given(data=st.binary(max_size=300))
def test_any_bytes_of_a_routing_socket_are_taken_apart_or_passed_over(system, data):
    found = changes.of_routing_socket(data, system)
    assert found == [] or found[-1] == ANYTHING
    assert all(one.kind is Kind.LINK and 0 <= one.index < 1 << 16 and 0 <= one.flags < 1 << 32 for one in found[:-1])


@LAYOUTS
@given(length=st.integers(0, 0xFFFF), size=st.integers(4, 200), number=st.integers(0, 255))
def test_a_length_is_believed_where_the_bytes_are_there(system, length, size, number):
    data = struct.pack("=HBB", length, system.version, number) + bytes(size - 4)
    found = changes.of_routing_socket(data, system)
    whole = max(system.index_at + 2, system.flags_at + 4)
    expected = []
    if 4 <= length <= size:
        if number == system.info and length >= whole:
            expected = [Change(Kind.LINK), ANYTHING]
        elif number in system.others:
            expected = [ANYTHING]
    assert found == expected


@LAYOUTS
def test_messages_of_a_routing_socket(system):
    down, up = (route_message(system, system.info, 3, flags) for flags in (0x8802, 0x8843))
    assert changes.of_routing_socket(down + up, system) == [
        Change(Kind.LINK, 3, 0x8802),
        Change(Kind.LINK, 3, 0x8843),
        ANYTHING,
    ]
    for number in system.others:
        assert changes.of_routing_socket(route_message(system, number), system) == [ANYTHING]
    assert changes.of_routing_socket(route_message(system, RTM_GET), system) == []
    assert changes.of_routing_socket(route_message(system._replace(version=9), system.info, 3), system) == []
    assert changes.of_routing_socket(down[:-1], system) == []


class Recorder(Owner):
    """A watch of interface 3, over news that the test writes."""

    def __init__(self) -> None:
        self.reports: list[tuple[What, int, str]] = []
        super().__init__()

    def indexes(self) -> list[int]:
        return [3]

    def report(self, what: What, index: int, name: str) -> bool:
        self.reports.append((what, index, name))
        return True

    def waits_for(self, *reports: tuple[What, int, str]) -> None:
        assert until(lambda: set(reports) <= set(self.reports)), self.reports


ETHERNET = Interface("en0", 3, ("192.0.2.3",), is_up=True, is_multicast=True, is_loopback=False)


@pytest.fixture
def listed(monkeypatch: pytest.MonkeyPatch) -> list[Interface]:
    """What a list of the interfaces has; it may be changed."""
    found = [ETHERNET]
    monkeypatch.setattr(watch, "interfaces", lambda: list(found))
    monkeypatch.setattr(watch, "QUIET", 0.01)
    return found


@pytest.mark.needs("watch", "signals to processes")  # where a pair of sockets keeps messages apart
@LAYOUTS
def test_a_watch_over_a_routing_socket(monkeypatch, listed, system):
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    parse = functools.partial(changes.of_routing_socket, system=system)
    monkeypatch.setattr(news, "opened", lambda: news.SocketNews(ours, parse))
    owner, (other, *_) = Recorder(), system.others
    with kernel, contextlib.closing(owner.watch):
        for flags in (0x8802, 0x8843):  # at once: no list shows it down
            kernel.send(route_message(system, system.info, 3, flags))
        owner.waits_for((What.DOWN, 3, "en0"), (What.UP, 3, "en0"), (What.REJOINED, 3, "en0"))
        listed[0] = dataclasses.replace(ETHERNET, addresses=("192.0.2.4",))
        kernel.send(route_message(system, other))
        owner.waits_for((What.ADDRESS, 3, "en0"))
        listed[0] = dataclasses.replace(listed[0], name="en7")
        kernel.send(route_message(system, other))
        owner.waits_for((What.RENAMED, 3, "en7"))
        kernel.send(route_message(system, system.info, 4, 0x8843))  # one that no list has yet
        kernel.send(route_message(system, system.info, 3, 0x8802))
        del listed[0]
        kernel.send(route_message(system, system.info, 3, 0x8802))
        owner.waits_for((What.GONE, 3, "en7"))
        listed.append(dataclasses.replace(ETHERNET, index=5))
        kernel.send(route_message(system, system.info, 5, 0x8843))
        owner.waits_for((What.BACK, 5, "en0"))
        assert {index for _, index, _ in owner.reports} == {3, 5}


@pytest.mark.needs("watch")
def test_what_is_listed_later_than_reported_is_seen(monkeypatch, listed):
    """As an interface of macOS that goes while it is in use."""
    monkeypatch.setattr(watch, "SETTLED", 0.05)
    kernel, ours = pairs.connected()
    monkeypatch.setattr(news, "opened", lambda: news.SocketNews(ours, lambda data: [ANYTHING] * len(data)))
    owner = Recorder()
    with contextlib.closing(kernel), contextlib.closing(owner.watch):
        lists = []
        monkeypatch.setattr(watch, "interfaces", lambda: (lists.append(1), list(listed))[1])
        kernel.send(b"x")
        assert until(lambda: lists)
        listed.clear()
        owner.waits_for((What.GONE, 3, "en0"))


@pytest.mark.needs("watch")
def test_a_list_that_is_refused_for_long_is_tried_now_and_then(monkeypatch, listed):
    """Also where something is due meanwhile."""
    monkeypatch.setattr(watch, "RETRY", 0.05)
    kernel, ours = pairs.connected()
    monkeypatch.setattr(news, "opened", lambda: news.SocketNews(ours, lambda _: [ANYTHING]))
    owner = Recorder()
    with contextlib.closing(kernel), contextlib.closing(owner.watch):
        tries: list[float] = []

        def refuse() -> list[Interface]:
            tries.append(time.monotonic())
            raise OSError(errno.EMFILE, "refused here")

        owner.watch._listener._plan(What.REJOINED, 3, 0.1)
        monkeypatch.setattr(watch, "SETTLED", 0.0)
        monkeypatch.setattr(watch, "interfaces", refuse)
        kernel.send(b"x")
        assert until(lambda: len(tries) > 3)
    assert min(later - one for one, later in itertools.pairwise(tries)) > 0.02  # of a clock that ticks every 16 ms


@pytest.mark.lab
def test_where_it_is_only_reported_that_something_changed(made, monkeypatch):
    """As Windows does: what changed is found in the list."""
    opened = news.opened
    made_news = []

    def open_vague() -> news.News:
        made_news.append(opened())
        monkeypatch.setattr(made_news[-1], "_parse", lambda _: [ANYTHING])
        return made_news[-1]

    monkeypatch.setattr(news, "opened", open_vague)
    sending, receiving = made.link("a", "b", number=7)
    run, name = receiving.host.run, receiving.interface
    with open_watched(receiving, text(GROUPS[0], name)) as rx:
        run("ip", "link", "set", name, "down")
        wait_for_event(rx, What.DOWN)
        run("ip", "link", "set", name, "up")
        wait_for_event(rx, What.UP)
        wait_for_event(rx, What.REJOINED)
        run("ip", "address", "add", "10.77.0.77/24", "dev", name)
        wait_for_event(rx, What.ADDRESS)
        run("ip", "link", "del", name)
        wait_for_event(rx, What.GONE)
        sending, receiving = made.link("a", "b", number=7)
        wait_for_event(rx, What.BACK)
        heard_within(rx, sending, GROUPS[0], BACK_WITHIN)


# ---- events of Windows ----


class Green:
    """A lock that is held: while it is waited for, the other green threads run, of which one does `work` at last."""

    def __init__(self, work):
        self.work, self.waited = work, []

    def acquire(self, timeout=None):
        if timeout is not None:
            self.waited.append(timeout)
            if len(self.waited) == 3:
                self.work()


@pytest.fixture
def green(monkeypatch):
    """Threads as gevent and eventlet have them; what is returned makes them do something."""

    def start(work):
        made = Green(work)
        monkeypatch.setattr(_thread, "start_new_thread", lambda function, arguments: None)
        monkeypatch.setattr(events.threading, "Lock", lambda: made)
        return made

    return start


def test_green_threads_run_while_an_event_of_windows_is_waited_for(monkeypatch, green):
    """A wait in the system would hold up all of them."""
    ready = []

    def look(count, handles, every, milliseconds):
        assert milliseconds == 0, "no other green thread can run"
        return ready[0] if ready else 0x102  # WAIT_TIMEOUT

    handle = itertools.count(1).__next__
    fake = events.Calls(
        create_event=lambda *_: handle(),
        set_event=None,
        close_handle=lambda _: 1,
        wait_for_multiple_objects=look,
        wsa_event_select=lambda *_: 0,
        notify=(),
        cancel_mib_change_notify2=None,
    )
    monkeypatch.setattr(events, "calls", lambda: fake)
    one, other = pairs.connected()
    with contextlib.closing(one), contextlib.closing(other):
        hub = green(lambda: ready.append(events.WAIT_OBJECT_0 + 1))
        waiting = events.EventNews().waiting(one)
        assert waiting.wait(0) == (False, False)
        assert hub.waited == []
        assert waiting.wait(None) == (False, True)
        assert hub.waited == [events.LOOK] * 3
        ready.clear()
        assert waiting.wait(events.LOOK / 2) == (False, False)
        assert max(hub.waited[3:]) < events.LOOK  # what is left: half of it, but for rounding
        ready.append(events.WAIT_OBJECT_0)
        assert waiting.wait(None) == (True, False)
        waiting.close()


@pytest.mark.needs("events of Windows")
@pytest.mark.parametrize("woken", [True, False])
def test_green_threads_set_an_event_and_wake(green, woken):
    one, other = pairs.connected()
    made = events.EventNews()
    green(lambda: other.send(b"!") if woken else events.calls().set_event(made._event.handle))
    waiting = made.waiting(one)
    assert waiting.wait(None) == (woken, not woken)
    for each in (waiting, made, one, other):
        each.close()


@pytest.mark.needs("events of Windows")
def test_an_event_is_set_by_what_the_system_calls():
    """With the arguments of a PIPINTERFACE_CHANGE_CALLBACK, of which SetEvent takes the first one (wine calls nothing)."""
    one, other = pairs.connected()
    made = events.EventNews()
    waiting = made.waiting(one)
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)(
        ctypes.cast(events.calls().set_event, ctypes.c_void_p).value
    )
    assert waiting.wait(0) == (False, False)
    call(made._event.handle, None, 1)
    assert waiting.wait(None) == (False, True)
    assert made.read() == [ANYTHING]
    assert waiting.wait(0.01) == (False, False)
    other.send(b"!")
    assert waiting.wait(None) == (True, False)
    for each in (waiting, made, made, one, other):
        each.close()
