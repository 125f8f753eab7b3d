"""What interfaces lost, as the kernel counts it."""

import socket
import struct
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast._host import netlink, nic_drops
from tests import lab
from tests.conftest import loopback


def reply(dropped, missed, size=nic_drops.LINK_STATS.size, sequence=1):
    counts = [0] * 16
    counts[nic_drops.RX_DROPPED], counts[nic_drops.RX_MISSED] = dropped, missed
    told = nic_drops.LINK_STATS.pack(*counts)[:size]
    attribute = netlink.RTATTR.pack(netlink.RTATTR.size + len(told), nic_drops.IFLA_STATS_LINK_64) + told
    body = nic_drops.IF_STATS_MSG.pack(0, 1, 1) + attribute
    return netlink.NLMSGHDR.pack(netlink.NLMSGHDR.size + len(body), nic_drops.RTM_NEWSTATS, 0, sequence, 0) + body


def test_dropped_and_missed_are_lost():
    assert nic_drops.parse(reply(3, 4)) == 7
    assert nic_drops.parse(reply(0, 2**40)) == 2**40


@pytest.mark.parametrize(
    "answer", [b"", reply(3, 4)[:-1], reply(3, 4, 100), struct.pack("=IHHIIi", 20, 2, 0, 1, 0, -19)]
)
def test_a_reply_that_does_not_say_is_none(answer):
    assert nic_drops.parse(answer) is None


@given(st.binary())
def test_any_bytes_can_be_told(answer):
    found = nic_drops.parse(answer)
    assert found is None or found >= 0


def test_a_reply_to_another_request_is_passed_over():
    assert nic_drops.parse(reply(3, 4), 1) == 7
    assert nic_drops.parse(reply(3, 4), 2) is None
    assert nic_drops.parse(reply(1, 1, sequence=5) + reply(3, 4), 1) == 7
    assert nic_drops.answers(reply(3, 4), 1)
    assert not nic_drops.answers(reply(3, 4), 2)


class Answers:
    """A netlink socket that has the answer to a request which was interrupted queued, and then answers each one."""

    def __init__(self, old):
        self.queued = [reply(old, 0, sequence=77)]
        self.requests = 0

    def send(self, request):
        _, kind, _, number, _ = netlink.NLMSGHDR.unpack_from(request)
        assert kind == nic_drops.RTM_GETSTATS
        self.requests += 1
        self.queued.append(reply(10 * self.requests, 0, sequence=number))

    def recv(self, _):
        return self.queued.pop(0)

    def fileno(self):
        return 3


def test_an_answer_that_nobody_waited_for_shifts_no_other(monkeypatch):
    monkeypatch.setattr(nic_drops, "FRESH", 0.0)
    drops = nic_drops.NicDrops()
    drops.close()
    drops._socket = Answers(5_000)
    assert [drops.total([1]), drops.total([1]), drops.total([1])] == [0, 10, 20]


def test_counters_are_asked_for_ten_times_a_second_at_most(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(nic_drops.time, "monotonic", lambda: now[0])
    drops = nic_drops.NicDrops()
    drops.close()
    drops._socket = Answers(0)
    found = []
    for _ in range(20):
        found.append(drops.total([1]))
        now[0] += 0.0251
    assert drops._socket.requests == 5
    assert found == sorted(found)
    assert found[-1] == 40


def test_it_counts_from_the_first_look(monkeypatch):
    monkeypatch.setattr(nic_drops, "FRESH", 0.0)
    drops, index = nic_drops.NicDrops(), socket.if_nametoindex(loopback())
    if drops.total([index]) is None:
        pytest.skip("feature drop counters of interfaces: the system does not tell them")
    assert drops.total([index]) == 0
    assert drops.total([2**30]) == 0  # no such interface: what was seen before stays
    drops.close()
    drops.close()
    assert drops.total([1]) == 0


@pytest.mark.lab
def test_it_asks_where_it_was_opened(backend):
    """A receiver may live in another namespace than the thread that reads its counters."""
    with lab.Lab() as made:
        _, receiving = made.link("a", "b")
        with receiving.host.enter():
            rx = mcast.Receiver(f"239.1.1.1%{receiving.interface}:5000")
        with rx:
            told = []
            thread = threading.Thread(target=lambda: told.append(rx.stats.dropped_nic))
            thread.start()
            thread.join()
            assert told == [0]
