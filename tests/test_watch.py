"""Interfaces that go and come back while a receiver watches; and the kernel's news, taken apart."""

import logging
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import joins, netlink, watch
from mcast_fast.stats import What
from tests import lab
from tests.conftest import descriptors

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
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for one in rx.stats.events:
            if one.what is what:
                return one
        time.sleep(0.005)
    pytest.fail(f"no event {what} within {seconds} s: {rx.stats.events}")


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
    assert descriptors() == before


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
    """A rejoin would miss packets, and DHCP renews an address every so often."""
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


@pytest.mark.lab
def test_without_watch_nothing_is_told(backend, made):
    _, receiving = made.link("a", "b")
    with receiving.host.enter(), mcast.Receiver(text(GROUPS[0], receiving.interface)) as rx:
        receiving.host.run("ip", "link", "set", receiving.interface, "down")
        assert rx.stats.events == ()


# ---- the kernel's news ----


@given(st.binary(max_size=512))
def test_any_bytes_are_taken_apart_or_passed_over(data):
    for kind, index, flags, name in watch.parse(data):
        assert kind in (netlink.RTM_NEWLINK, netlink.RTM_DELLINK, netlink.RTM_NEWADDR, netlink.RTM_DELADDR)
        assert isinstance(index, int)
        assert isinstance(flags, int)
        assert isinstance(name, str)


def link_message(kind: int, index: int, flags: int, name: bytes) -> bytes:
    named = netlink.RTATTR.pack(netlink.RTATTR.size + len(name) + 1, netlink.IFLA_IFNAME) + name + b"\0"
    body = netlink.IFINFOMSG.pack(0, 1, index, flags, 0) + named + bytes(-len(named) % 4)
    return netlink.NLMSGHDR.pack(netlink.NLMSGHDR.size + len(body), kind, 0, 0, 0) + body


def test_several_messages_in_one_read():
    data = link_message(netlink.RTM_NEWLINK, 4, 0x1043, b"eth0") + link_message(netlink.RTM_DELLINK, 5, 0, b"eth1")
    assert watch.parse(data) == [(netlink.RTM_NEWLINK, 4, 0x1043, "eth0"), (netlink.RTM_DELLINK, 5, 0, "eth1")]
    assert watch.is_running(0x1043)
    assert not watch.is_running(0x1003)


def test_a_message_that_is_cut_short_ends_the_reading():
    data = link_message(netlink.RTM_NEWLINK, 4, 0x1043, b"eth0")
    assert watch.parse(data[:-1]) == []
    assert watch.parse(data + data[:10]) == watch.parse(data)
