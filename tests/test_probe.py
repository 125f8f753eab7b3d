"""The logic of the probe, without a network: hosts that exchange datagrams through a dictionary."""

import json
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast.doctor import ProbeReport
from mcast_fast.doctor import _probe_state as logic
from mcast_fast.doctor._probe_counts import ProbeCount
from mcast_fast.doctor._probe_faults import FAULTS, finding
from mcast_fast.doctor._probe_matrix import report
from mcast_fast.doctor._probe_peer import MOST_MOVES, MOST_PEERS, Arrival, is_host
from mcast_fast.doctor._probe_state import UNANSWERED, Phase, Sending, Settings, State
from mcast_fast.doctor._probe_wire import (
    LAST_NUMBER,
    SIZES,
    Burst,
    Entry,
    Flags,
    Header,
    Hello,
    Kind,
    Sized,
    WireError,
    hello_bytes,
    parse,
)
from tests.test_probe_counts import entries, headers

MS, SECOND = 10**6, 10**9
EPOCH = 1_795_000_000 * SECOND
GROUP, PORT = "239.9.9.9", 5009

# ---- hosts ----

Rule = Callable[[str, str, bool, object], int]  # (from, to, unicast, message) -> how many copies arrive


def deliver_all(_sender: str, _receiver: str, _unicast: bool, _message: object) -> int:
    return 1


@dataclass
class Network:
    """Hosts by their names, a step of 5 ms at a time; `ttl` of the host that sends, `routers` between all."""

    rule: Rule = deliver_all
    routers: int = 0
    delay: int = MS
    lag: int = 0  # of multicast behind unicast
    clocks: dict[str, int] = field(default_factory=dict)  # how far each is ahead
    now: int = SECOND
    hosts: dict[str, State] = field(default_factory=dict)
    on_the_way: list[tuple[int, str, bytes, Arrival]] = field(default_factory=list)

    def add(self, name: str, **more: object) -> State:
        number = len(self.hosts) + 1
        options = {
            "version": 4,
            "identity": bytes([number]) * 8,
            "name": name.encode(),
            "ttl": 1,
            "dscp": 0,
            "interval": 50 * MS,
            "duration": 2 * SECOND,
            "wait": -1,
            "bursts": 2,
            "phase": number / 10,
        }
        host = self.hosts[name] = State(Settings(**options | more), self.now)
        return host

    def address(self, name: str) -> tuple[bytes, int]:
        number = list(self.hosts).index(name) + 1
        return bytes(10) + b"\xff\xff" + bytes([10, 0, 0, number]), PORT + 1

    def clock(self, name: str) -> int:
        return EPOCH + self.now + self.clocks.get(name, 0)

    def send(self, sender: str, sending: Sending) -> None:
        ttl = self.hosts[sender].settings.ttl - self.routers
        is_unicast = sending.target is not None
        for name in self.hosts:
            if name == sender or (is_unicast and sending.target != self.address(name)):
                continue
            for payload in sending.payloads:
                message = parse(payload, 4)
                copies = self.rule(sender, name, is_unicast, message)
                if not is_unicast and ttl <= 0:
                    copies = 0
                for _ in range(copies):
                    arrival = Arrival(is_unicast, self.address(sender), 0, ttl, 0)
                    lag = 0 if is_unicast else self.lag
                    self.on_the_way.append((self.now + self.delay + lag, name, payload, arrival))

    def step(self) -> None:
        for name, host in self.hosts.items():
            for sending in host.due(self.now, self.clock(name)):
                self.send(name, sending)
        self.now += 5 * MS
        due = [one for one in self.on_the_way if one[0] <= self.now]
        self.on_the_way = [one for one in self.on_the_way if one[0] > self.now]
        for at, name, payload, arrival in sorted(due, key=lambda one: one[0]):
            clock = EPOCH + at + self.clocks.get(name, 0)
            self.hosts[name].receive(payload, arrival._replace(time=clock), at)

    def run(self, seconds: float = 60) -> "Network":
        """To the end of all hosts."""
        end = self.now + int(seconds * SECOND)
        while any(host.phase is not Phase.OVER for host in self.hosts.values()):
            assert self.now < end, "they do not end"
            self.step()
        return self

    def report(self, name: str) -> ProbeReport:
        return report(self.hosts[name], GROUP, PORT, "eth0", self.now, self.clock(name))


def network(*names: str, rule: Rule = deliver_all, **more: object) -> Network:
    made = Network(rule, **more)
    for name in names:
        made.add(name)
    return made


def ids(link):
    return [one.id for one in link.findings]


def test_all_hear_all():
    net = network("a", "b", "c").run()
    for name in net.hosts:
        found = net.report(name)
        assert found.ok
        assert found.verdict == "ok"
        assert [one.name for one in found.hosts] == [name, *sorted(net.hosts.keys() - {name})]
        assert len(found.links) == 6
        for link in found.links:
            assert link.multicast.received == link.multicast.expected > 30
            assert link.unicast.received == link.unicast.expected > 10
            assert (link.hops, link.largest, link.smallest_lost) == (0, 65_507, None)
            assert link.bursts == ((10, 10), (100, 100))
        own = [link for link in found.links if found.hosts[0].identity in (link.sender, link.receiver)]
        assert all(link.round_trip.samples > 10 for link in own)
        json.dumps(found.as_dict())


@pytest.mark.long
@settings(max_examples=15)
@given(st.integers(0, 2**32), st.floats(0, 0.4), st.floats(0, 0.3))
def test_what_is_lost_and_doubled_is_reported_to_the_datagram(seed, loss, doubled):
    """By each host of itself, and by the other one of it."""
    chance = random.Random(seed)
    came: dict[tuple[str, str, bool], list[int]] = {}

    def rule(sender, receiver, unicast, message):
        if not isinstance(message, Hello):
            return 1
        copies = 0 if chance.random() < loss else 1 + (chance.random() < doubled)
        came.setdefault((sender, receiver, unicast), []).extend([message.header.sequence] * copies)
        return copies

    net = network("a", "b", rule=rule).run()
    for sender, receiver in (("a", "b"), ("b", "a")):
        own = net.hosts[receiver].entries(net.now, net.clock(receiver))
        (entry,) = own.values()
        for count, unicast in ((entry.multicast, False), (entry.unicast, True)):
            numbers = came.get((sender, receiver, unicast), [])
            assert count.received == len(set(numbers))
            assert count.duplicates == len(numbers) - len(set(numbers))
            assert count.reordered == 0
            assert count.expected == count.received + count.startup + count.lost
            if numbers:
                wanted = range(min(numbers), max(numbers) + 1)
                assert count.lost >= len(set(wanted) - set(numbers))


@pytest.mark.long
@pytest.mark.parametrize("lag", [-40 * MS, -3 * MS, 3 * MS, 40 * MS])
def test_what_is_on_the_way_is_not_lost(lag):
    """One way is slower than the other one; whenever a host reports, some datagrams have not arrived yet."""
    net = Network(lag=lag, delay=50 * MS)
    for name in ("a", "b"):
        net.add(name, phase=0.1)
    while net.hosts["a"].phase is not Phase.OVER:
        net.step()
        for name in net.hosts:
            assert all(link.verdict in ("ok", "unknown") for link in net.report(name).links)


def cut(*pairs: tuple[str, str], unicast: bool = False) -> Rule:
    """The multicast, or all, of these directions is dropped."""
    return lambda sender, receiver, by_unicast, _: int((sender, receiver) not in pairs or (by_unicast and not unicast))


def test_one_direction_is_cut():
    net = network("a", "b", "c", rule=cut(("a", "b"))).run()
    for name in net.hosts:
        found = net.report(name)
        link = found.link("a", "b")
        assert ids(link) == ["probe.one-way"]
        assert link.findings[0].text.startswith("b hears a's unicast but not its multicast, and a hears b's: 0 of ")
        assert "the other direction passes" in link.findings[0].causes[0]
        assert "nft" in link.findings[0].remedy
        assert link.multicast.received == 0 < link.multicast.expected
        assert [one.verdict for one in found.links].count("ok") == 5
        assert not found.ok


def test_no_direction_of_multicast_passes_and_a_host_is_named():
    net = Network(cut(("a", "b"), ("b", "a")))
    net.add("a", hosts=((bytes(10) + b"\xff\xff\x0a\0\0\x02", PORT + 1),))
    net.add("b")
    net.run()
    for name in net.hosts:
        found = net.report(name)
        assert [ids(link) for link in found.links] == [["probe.multicast-blocked"]] * 2
        assert "snooping" in found.links[0].findings[0].causes[0]
        assert all(link.unicast.received == link.unicast.expected - link.unicast.startup for link in found.links)
        assert all(link.unicast.duplicates == 0 for link in found.links)


def test_a_host_that_is_named_and_found_by_hearsay_is_sent_to_once():
    """Its numbers go on where those to the named address ended."""
    net = Network(lambda sender, receiver, unicast, _: int(unicast and (sender, receiver) != ("c", "a")))
    hosts = [(bytes(10) + b"\xff\xff" + bytes([10, 0, 0, number]), PORT + 1) for number in (1, 2, 3)]
    net.add("a", hosts=tuple(hosts[1:]))
    net.add("b", hosts=(hosts[2],))
    net.add("c")
    net.run()
    found = net.report("b")
    assert ids(found.link("c", "a")) == ["probe.nothing-heard"]
    for link in found.links:
        assert (link.unicast.duplicates, link.unicast.reordered) == (0, 0), link


def test_a_direction_in_which_nothing_passes():
    net = network("a", "b", "c", rule=cut(("a", "b"), unicast=True)).run()
    found = net.report("c")
    assert ids(found.link("a", "b")) == ["probe.nothing-heard"]
    assert "b hears nothing of a" in found.link("a", "b").findings[0].text
    assert {one.name: one.was_heard for one in net.report("b").hosts} == {"b": True, "a": False, "c": True}
    assert ids(net.report("b").link("a", "b")) == ["probe.nothing-heard"]
    assert ids(net.report("b").link("b", "a")) == ["probe.no-report"]
    assert not net.report("b").ok


def test_a_ttl_that_is_too_small():
    net = Network(routers=1)
    net.add("a", ttl=1)
    net.add("b", ttl=4)
    net.run()
    for name in net.hosts:
        found = net.report(name)
        assert found.link("b", "a").hops == 1
        assert ids(found.link("a", "b")) == ["probe.ttl-too-small"]
        assert "--ttl 2" in found.link("a", "b").findings[0].remedy


def up_to(size: int) -> Rule:
    return lambda _from, to, _unicast, message: int(
        not (isinstance(message, Sized) and to == "b" and SIZES[4][message.step] > size)
    )


@pytest.mark.parametrize(
    ("size", "largest", "lost", "found"),
    [
        (1_300, 1_200, 1_400, "probe.mtu"),
        (100, 0, 600, "probe.mtu"),
        (1_472, 1_472, 1_473, "probe.fragments"),
        (10_000, 8_972, 16_000, "probe.fragments"),
    ],
)
def test_large_datagrams_do_not_pass(size, largest, lost, found):
    net = network("a", "b", rule=up_to(size)).run()
    link = net.report("a").link("a", "b")
    assert (link.largest, link.smallest_lost, ids(link)) == (largest, lost, [found])
    assert net.report("a").link("b", "a").verdict == "ok"


def test_one_of_two_copies_of_a_size_is_enough():
    dropped = set()

    def rule(sender, receiver, _unicast, message):
        if isinstance(message, Sized) and (key := (sender, receiver, message.step)) not in dropped:
            dropped.add(key)
            return 0
        return 1

    net = network("a", "b", rule=rule).run()
    assert net.report("a").verdict == "ok"
    assert net.report("a").link("a", "b").largest == 65_507


def test_a_burst_that_does_not_come_whole():
    net = network(
        "a", "b", rule=lambda _f, to, _u, one: int(not (isinstance(one, Burst) and to == "b" and one.number > 59))
    )
    net.hosts["b"].dropped = 40
    net.run()
    link = net.report("a").link("a", "b")
    assert link.bursts == ((10, 10), (100, 60))
    assert ids(link) == ["probe.burst-dropped"]
    assert "own socket dropped 40" in link.findings[0].text
    assert "rmem_max" in link.findings[0].remedy
    assert net.report("a").ok  # a warning


def test_what_the_system_does_not_send_is_not_missed():
    """A system with a limit of the size of datagrams, such as macOS."""
    net = network("a", "b")
    for sending in (Sending([b""], None, (Kind.SIZE, 9)), Sending([b""], None, (Kind.BURST, 1)), Sending([b""])):
        net.hosts["a"].refused(sending)
    net.rule = lambda _f, _t, _u, one: int(
        not (isinstance(one, Sized) and one.step == 9) and not isinstance(one, Burst)
    )
    net.run()
    link = net.report("b").link("a", "b")
    assert (link.largest, link.smallest_lost) == (32_000, None)
    assert link.bursts == ((10, 0),)


@pytest.mark.long
def test_a_stream_that_stops():
    net = Network()
    for name in ("a", "b"):
        net.add(name, duration=20 * SECOND)
    stop = net.now + 8 * SECOND
    net.rule = lambda sender, _to, unicast, _m: int(net.now < stop or unicast or sender == "b")
    net.run()
    for name in net.hosts:
        link = net.report(name).link("a", "b")
        assert ids(link) == ["probe.multicast-stopped"]
        assert "querier" in link.findings[0].causes[0]
        assert "b heard a's multicast for 8 s" in link.findings[0].text


@pytest.mark.long
def test_a_host_that_vanishes():
    net = Network()
    for name in ("a", "b"):
        net.add(name, duration=20 * SECOND)
    stop = net.now + 8 * SECOND
    net.rule = lambda *_: int(net.now < stop)
    net.run()
    found = net.report("b")
    assert ids(found.link("a", "b")) == ["probe.host-silent"]
    assert found.link("a", "b").findings[0].text.startswith("b heard a for 8 s, and for ")
    assert ids(found.link("b", "a")) == ["probe.old-report"]


def test_loss_at_the_start_is_no_loss():
    begin = SECOND + 400 * MS
    net = network("a", "b")
    net.rule = lambda sender, _to, unicast, _m: int(unicast or sender == "b" or net.now >= begin)
    net.run()
    link = net.report("b").link("a", "b")
    assert link.multicast.startup > 3
    assert (link.multicast.lost, link.verdict) == (0, "ok")


@pytest.mark.parametrize(("every", "verdict"), [(10, "problem"), (2000, "ok")])
def test_loss_is_a_problem(every, verdict):
    net = network("a", "b")
    net.rule = lambda sender, _t, unicast, one: int(
        unicast or sender == "b" or not isinstance(one, Hello) or one.header.sequence % every != every - 1
    )
    net.run()
    link = net.report("a").link("a", "b")
    assert link.verdict == verdict
    assert ids(link) == (["probe.multicast-loss"] if verdict == "problem" else [])


@pytest.mark.long
def test_a_host_that_has_left_has_not_stopped():
    """Though it lost some before, and has been silent since."""
    net = Network(lambda sender, _t, unicast, one: int(unicast or sender != "a" or one.header.sequence % 3 > 0))
    for name in ("a", "b", "c"):
        net.add(name, duration=6 * SECOND)
    for _ in range(500):
        net.step()
    net.hosts["a"].stop(net.now)
    net.run()
    assert net.hosts["b"].entries(net.now, 0)[net.hosts["a"].settings.identity].multicast.lost > 10
    assert ids(net.report("b").link("a", "b")) == ["probe.multicast-loss"]


def test_loss_in_the_receivers_own_socket():
    net = network("a", "b")
    net.rule = lambda sender, _t, unicast, one: int(unicast or sender == "b" or one.header.sequence % 3 > 0)
    net.hosts["b"].dropped = 9
    net.run()
    link = net.report("a").link("a", "b")
    assert "probe.multicast-dropped" in ids(link)
    assert "dropped 9" in link.findings[0].text


def test_a_host_whose_unicast_comes_from_another_address():
    """The routing table chooses it; the address that the group hears stays the one."""
    net = network("a", "b")
    host, other = net.hosts["a"], (addressed("10.7.7.7").address, 5010)
    for number in range(2 * MOST_MOVES):
        host.receive(hello_of(b"12345678", sequence=number), Arrival(False, net.address("b"), EPOCH), net.now)
        unicast = hello_of(b"12345678", sequence=number, flags=Flags.UNICAST)
        host.receive(unicast, Arrival(True, other, EPOCH), net.now)
    assert host.peers[b"12345678"].address == net.address("b")


def test_duplicates_and_a_changed_dscp_are_warnings():
    net = Network(lambda *_: 2)
    net.add("a", dscp=46)
    net.add("b")
    net.run()
    found = net.report("b")
    assert set(ids(found.link("a", "b"))) == {
        "probe.multicast-duplicates",
        "probe.unicast-duplicates",
        "probe.dscp-changed",
    }
    assert found.ok
    assert found.verdict == "warning"


def test_unicast_alone_is_blocked():
    net = network("a", "b", rule=lambda _f, to, unicast, _m: int(not (unicast and to == "b"))).run()
    for name in net.hosts:
        assert ids(net.report(name).link("a", "b")) == ["probe.unicast-blocked"]
        assert net.report(name).link("b", "a").verdict == "ok"


# ---- clocks ----


def test_delays_where_clocks_agree():
    net = network("a", "b").run()
    link = net.report("a").link("a", "b")
    assert (link.delay.smallest, link.delay.largest, link.spread, link.clock_offset) == (MS, MS, 0, 0)
    # To the step of 5 ms in which the other host answers.
    assert 2 * MS <= link.round_trip.smallest <= link.round_trip.largest < 20 * MS


@pytest.mark.parametrize("ahead", [5 * SECOND, -7 * SECOND, 3600 * SECOND])
def test_delays_are_unknown_where_clocks_differ(ahead):
    """But the spread, the round trip and how far they differ are known."""
    net = network("a", "b", clocks={"b": ahead}).run()
    link = net.report("a").link("a", "b")
    assert (link.delay, link.spread, link.clock_offset) == (None, 0, ahead)
    assert net.report("b").link("a", "b").clock_offset == ahead
    assert 2 * MS <= link.round_trip.smallest < 20 * MS


# ---- the time line ----


def test_nobody_comes():
    net = Network()
    net.add("a", wait=3 * SECOND)
    net.run(4)
    found = net.report("a")
    assert [one.id for one in found.findings] == ["probe.nobody-heard"]
    assert not found.ok
    assert found.links == ()
    assert net.hosts["a"].sent <= 3 * 5 + 4  # five hellos per second, and the last words


@pytest.mark.long
def test_a_host_that_comes_later_is_measured_for_the_whole_time():
    net = network("a", "b")
    for _ in range(300):
        net.step()
    net.add("c")
    net.run()
    for name in net.hosts:
        found = net.report(name)
        assert found.verdict == "ok"
        for link in found.links:
            assert link.multicast.expected > 30
            assert link.largest == 65_507


@pytest.mark.long
@pytest.mark.parametrize("apart", [1, 50])
def test_newcomers_do_not_keep_it_going(apart):
    """Whether they come all at once, or one after the other."""
    net = network("a")
    began = net.now
    with_strangers = 0
    while net.hosts["a"].phase is not Phase.OVER:
        for _ in range(apart):
            net.step()
        identity = with_strangers.to_bytes(8)
        with_strangers += 1
        header = Header(Kind.HELLO, identity, Flags.NONE, 1, 0, 0, 1, 0, 0, 0, 1023, 15, name=b"x")
        net.hosts["a"].receive(hello_bytes(header, 0, 0, ())[0], Arrival(False, net.address("a"), EPOCH, 1), net.now)
    assert net.now - began < logic.MOST_TURNS * 2 * SECOND + logic.PATIENCE + logic.LAST_WORDS + SECOND
    assert len(net.hosts["a"].peers) == min(with_strangers, MOST_PEERS)
    assert net.hosts["a"].counters["crowded"] == max(0, with_strangers - MOST_PEERS)


def test_stopping_says_so_to_the_others():
    net = network("a", "b")
    for _ in range(100):
        net.step()
    net.hosts["a"].stop(net.now)
    net.run(3)  # b has nobody left, and ends too
    assert net.report("b").verdict in ("ok", "unknown")
    assert net.report("b").link("a", "b").multicast.lost == 0


def test_hosts_of_one_group_that_do_not_hear_each_other_find_themselves_by_a_third():
    net = network("a", "b", "c", rule=cut(("a", "b"), ("b", "a"))).run()
    found = net.report("a")
    assert ids(found.link("b", "a")) == ids(found.link("a", "b")) == ["probe.multicast-blocked"]


# ---- strangers ----


def hello_of(identity: bytes, *listed: Entry, **more: object) -> bytes:
    header = Header(Kind.HELLO, identity, Flags.NONE, 1, 0, 0, 1, EPOCH, 0, 0, 1023, 15, name=b"stranger")
    return hello_bytes(header._replace(**more), 5, 0, listed)[0]


def test_what_is_no_probes_is_counted():
    host = network("a").hosts["a"]
    arrival = Arrival(False, (bytes(16), 1), EPOCH)
    good = hello_of(b"12345678")
    for data in (b"", b"video", good[:4] + b"\x09" + good[5:], good[:20], good[:-1] + b"\x05"):
        assert host.receive(data, arrival, SECOND) is None
    assert host.receive(good, arrival._replace(is_unicast=True), SECOND) is None  # it says that it is multicast
    assert host.counters == {"foreign": 2, "other_version": 1, "malformed": 3, "crowded": 0}
    assert not host.peers
    assert host.receive(hello_of(host.settings.identity), arrival, SECOND) is None  # its own
    assert not host.peers


def addressed(text: str, port: int = 5010) -> Entry:
    from mcast_fast._core.addresses import map_address

    return Entry(text.encode()[:8].ljust(8), map_address(text), port, echo_hold=0)


@pytest.mark.parametrize(
    "text", ["239.1.1.1", "255.255.255.255", "127.0.0.1", "0.0.0.0", "ff02::1", "::", "::1", "240.0.0.1"]
)
def test_a_stranger_cannot_have_it_send_there(text):
    assert not any(is_host((addressed(text).address, 5010), version) for version in (4, 6))
    assert not is_host((addressed("10.0.0.1").address, 0), 4)
    assert not is_host((addressed("10.0.0.1").address, 5010), 6)
    assert is_host((addressed("10.0.0.1").address, 5010), 4)
    net = network("a")
    host = net.hosts["a"]
    host.receive(hello_of(b"12345678", addressed(text)), Arrival(False, net.address("a"), EPOCH), net.now)
    assert list(host.peers) == [b"12345678"]


@pytest.mark.parametrize("more", [{"is_gone": True}, {"echo_hold": -1}, {"echo_hold": 2 * SECOND}])
def test_a_host_that_others_have_not_heard_of_late_is_not_looked_for(more):
    net = network("a")
    host = net.hosts["a"]
    ghost, arrival = addressed("10.9.9.9")._replace(**more), Arrival(False, net.address("a"), EPOCH)
    host.receive(hello_of(b"12345678", ghost), arrival, net.now)
    assert list(host.peers) == [b"12345678"]
    host.receive(hello_of(b"12345678", addressed("10.9.9.9")), arrival, net.now)
    assert len(host.peers) == 2


def sent_to(host: State, net: Network, seconds: int) -> dict[object, int]:
    """How many datagrams go where by unicast."""
    counted: dict[object, int] = {}
    for _ in range(200 * seconds):
        for sending in host.due(net.now, EPOCH + net.now):
            if sending.target is not None:
                counted[sending.target] = counted.get(sending.target, 0) + 1
        net.now += 5 * MS
    return counted


@pytest.mark.long
def test_a_host_that_does_not_answer_is_left_alone():
    net = Network()
    host = net.add("a", duration=60 * SECOND)
    host.receive(
        hello_of(b"12345678", *(addressed(f"10.9.9.{n}") for n in range(5))),
        Arrival(False, (addressed("10.9.9.9").address, 5010), EPOCH),
        net.now,
    )
    counted = sent_to(host, net, 50)
    assert len(counted) >= 5
    assert max(counted.values()) == UNANSWERED


def test_a_stranger_that_says_it_was_reached_is_not_believed():
    """It names another host's address, and makes up a report; what goes there by unicast it cannot know."""
    net = Network()
    host = net.add("a", duration=20 * SECOND, secret=b"not known to it.")
    victim = (addressed("10.9.9.9").address, 5010)
    forged = Entry(host.settings.identity, unicast_sent=1, unicast=ProbeCount(1, 1), token=b"12345678")
    for number in range(60):
        host.receive(hello_of(b"12345678", forged, sequence=number), Arrival(False, victim, EPOCH), net.now)
        net.now += 5 * MS
    assert sent_to(host, net, 5) == {victim: UNANSWERED}


@settings(max_examples=50)
@given(st.lists(st.tuples(headers, st.lists(entries, max_size=3), st.booleans()), max_size=6))
def test_whatever_strangers_report_is_taken_in(messages):
    """Nothing is raised, and what is sent then can be read."""
    net = Network()
    host = net.add("a")
    for number, (header, listed, is_unicast) in enumerate(messages):
        header = header._replace(flags=header.flags & Flags.LEAVING | Flags.UNICAST * is_unicast)
        about_us = [one._replace(identity=host.settings.identity) for one in listed[:1]]
        data, _ = hello_bytes(header, 5, 0, (*about_us, *listed))
        host.receive(data, Arrival(is_unicast, (addressed(f"10.9.9.{number}").address, 5010), EPOCH), net.now)
        for sending in host.due(net.now, EPOCH + net.now):
            for payload in sending.payloads:
                assert parse(payload, 4)
        net.now += 100 * MS
    assert net.report("a")


def test_a_host_that_moved_has_to_answer_from_there():
    """What it repeats is of one address, and of one run."""
    net = Network()
    for name in "ab":
        net.add(name, duration=30 * SECOND, secret=name.encode() * 16)
    for _ in range(400):
        net.step()
    host, identity = net.hosts["a"], net.hosts["b"].settings.identity
    assert host.peers[identity].is_confirmed
    victim = (addressed("10.9.9.9").address, 5010)
    entry = net.hosts["b"].entries(net.now, EPOCH + net.now)[host.settings.identity]
    forged = hello_of(identity, entry, sequence=9_999, announced=10_000)
    host.receive(forged, Arrival(False, victim, EPOCH), net.now)
    assert not host.peers[identity].is_confirmed
    assert sent_to(host, net, 5)[victim] == UNANSWERED


@pytest.mark.long
def test_a_stranger_that_moves_all_the_time_is_not_followed():
    net = Network()
    host = net.add("a", duration=60 * SECOND)
    counted: dict[object, int] = {}
    for number in range(100):
        source = (addressed(f"10.9.8.{number}").address, 5010)
        host.receive(hello_of(b"12345678", sequence=number), Arrival(False, source, EPOCH), net.now)
        for target in sent_to(host, net, 1):
            counted[target] = 1
    assert len(counted) <= MOST_MOVES


def test_reports_of_strangers_are_bounded():
    net = network("a")
    host = net.hosts["a"]
    for number in range(400):
        listed = [Entry((number * 9 + n).to_bytes(8)) for n in range(5)]
        host.receive(hello_of(b"12345678", *listed), Arrival(False, net.address("a"), EPOCH), net.now)
    assert len(host.peers[b"12345678"].reports) == MOST_PEERS


def test_the_last_number_is_one_whose_successor_has_32_bits():
    data = hello_of(b"12345678", sequence=2**32)
    assert parse(data, 4).header.sequence == LAST_NUMBER
    beyond = data.replace(LAST_NUMBER.to_bytes(4), b"\xff" * 4)
    assert beyond != data
    with pytest.raises(WireError, match="malformed"):
        parse(beyond, 4)


def test_a_report_that_makes_no_sense_is_malformed():
    impossible = Entry(b"12345678", multicast=ProbeCount(1, 2))
    with pytest.raises(WireError, match="malformed"):
        parse(hello_of(b"12345678", impossible), 4)


def test_links_by_name():
    net = network("a", "b").run()
    found = net.report("a")
    first, second = (one.identity for one in found.hosts)
    assert found.link("a", "b") is found.link(first, second)
    for wrong in (("a", "x"), ("a", "a")):
        with pytest.raises(KeyError):
            found.link(*wrong)


# ---- documentation ----


def test_every_fault_has_a_section_in_the_documents():
    text = (Path(__file__).parent.parent / "docs" / "probe.md").read_text(encoding="utf-8")
    sections = re.findall(r"^### probe\.([\w-]+)$", text, re.MULTILINE)
    assert len(sections) == len(set(sections))
    assert set(sections) == set(FAULTS)


def test_a_name_is_no_part_of_a_command():
    """A stranger chooses it, and a remedy is copied."""
    net = Network(cut(("a", "`reboot`;x")))
    net.add("a")
    net.add("`reboot`;x")
    net.run()
    found = net.report("a").link("a", "`reboot`;x").findings[0]
    assert found.remedy.startswith("on '`reboot`;x': `mcast-fast doctor 239.9.9.9:5009` ")
    assert found.text.startswith("'`reboot`;x' hears a's unicast")


@pytest.mark.parametrize("name", FAULTS)
def test_every_fault_fills_its_texts(name):
    """Where a value is missing, as in no test that makes it, nothing would say so before a user sees it."""
    fault = FAULTS[name]
    wanted = {field for text in (fault.text, *fault.causes, fault.remedy) for _, field, _, _ in Formatter().parse(text)}
    made = finding(name, dict.fromkeys(wanted - {None}, 7))
    assert made.verdict == fault.verdict
    assert "{" not in made.text + made.remedy + "".join(made.causes)
