"""The probe between hosts: behind a bridge, and across a router that decrements TTLs."""

import os
import re
import sys
import threading
from collections.abc import Iterator

import pytest

from mcast_fast import doctor
from mcast_fast.cli.probe import _print
from tests import lab
from tests.multicast_router import routed

pytestmark = [pytest.mark.lab]

GROUP, PORT = "239.9.9.9", 5009
NETWORK = "10.88.0"


class Bridge:
    """Hosts on one bridge: NETWORK.1 and so on."""

    def __init__(self, made: lab.Lab, names: str) -> None:
        self.lab = made
        self.switch = made.hosts["switch"]
        self.switch.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "0")
        self.switch.run("ip", "link", "set", "br0", "up")
        self.ends = {name: self._plug(name, number) for number, name in enumerate(names, 1)}

    def _plug(self, name: str, number: int) -> lab.End:
        port, end = self.lab.link("switch", name)
        self.switch.run("ip", "address", "flush", "dev", port.interface)
        self.switch.run("ip", "link", "set", port.interface, "master", "br0")
        end.host.run("ip", "address", "flush", "dev", end.interface, "scope", "global")
        end.host.add_address(end.interface, f"{NETWORK}.{number}/24")
        return end


@pytest.fixture
def bridge() -> Iterator[Bridge]:
    with lab.Lab(("switch", *"abcd")) as made:
        yield Bridge(made, "abc")


def probe(ends: dict[str, lab.End], **options: object) -> dict[str, doctor.ProbeReport]:
    """The reports of hosts that probe at the same time; an option that is a dict is by host."""
    reports: dict[str, doctor.ProbeReport] = {}
    failures: list[BaseException] = []

    def one(name: str, end: lab.End) -> None:
        own = {key: value[name] if isinstance(value, dict) else value for key, value in options.items()}
        defaults = {"duration": "1s", "rate": 50, "wait": None, "burst": 100, "name": name}
        try:
            with end.host.enter():
                group = f"{GROUP}%{end.interface}:{PORT}"
                reports[name] = doctor.probe(group, stop=lambda: bool(failures), **defaults | own)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=item) for item in ends.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    return reports


def ids(report: doctor.ProbeReport) -> dict[str, list[str]]:
    """What is wrong, by 'sender > receiver'."""
    names = {one.identity: one.name for one in report.hosts}
    return {
        f"{names[link.sender]} > {names[link.receiver]}": [one.id for one in link.findings]
        for link in report.links
        if link.findings
    }


def test_all_hear_all(backend, bridge):
    for report in probe(bridge.ends, dscp=46).values():
        assert report.verdict == "ok", ids(report)
        assert len(report.links) == 6
        for link in report.links:
            assert link.multicast.received == link.multicast.expected - link.multicast.startup > 20
            assert (link.hops, link.dscp_sent, link.dscp_received) == (0, 46, 46)
            assert (link.largest, link.bursts) == (65_507, ((10, 10), (100, 100)))
            assert link.delay.smallest >= 0


def test_one_direction_is_cut_and_one_mtu_is_small(bridge):
    """From a to b the multicast is dropped; c has an MTU of 1,300."""
    rule = f"ip saddr {NETWORK}.1 ip daddr {GROUP} counter name hits drop"
    dropped = bridge.ends["b"].host.add_table(bridge.ends["b"].interface, "ingress", 0, rule)
    bridge.ends["c"].host.run("ip", "link", "set", bridge.ends["c"].interface, "mtu", "1300")
    reports = probe(bridge.ends)
    assert dropped.packets > 20
    for report in reports.values():
        assert ids(report) == {
            "a > b": ["probe.one-way"],
            "a > c": ["probe.mtu"],
            "b > c": ["probe.mtu"],
        }
        assert not report.ok
        assert report.link("a", "b").unicast.received > 5
        assert (report.link("a", "c").largest, report.link("a", "c").smallest_lost) == (1_200, 1_400)
        assert (report.link("c", "a").largest, report.link("c", "b").largest) == (65_507, 65_507)


def test_a_ttl_of_1_does_not_pass_a_router(backend):
    with lab.Lab("arb") as made:
        a, inside = made.link("a", "r")
        outside, b = made.link("r", "b")
        a.host.run("ip", "route", "add", "default", "via", inside.ipv4)
        b.host.run("ip", "route", "add", "default", "via", outside.ipv4)
        with routed(GROUP, inside, outside, (a.ipv4, inside), (b.ipv4, outside)):
            ends = {"a": a, "b": b}
            for report in probe(ends, ttl={"a": 1, "b": 4}).values():
                assert ids(report) == {"a > b": ["probe.ttl-too-small"]}
                assert report.link("b", "a").hops == 1
                assert "on a: --ttl 2, " in report.link("a", "b").findings[0].remedy
                assert not report.ok
            for report in probe(ends, ttl=2).values():  # the remedy
                assert report.verdict == "ok", ids(report)
                assert [link.hops for link in report.links] == [1, 1]


def test_a_cut_direction_a_ttl_and_an_mtu_at_once(capsys):
    """a and b are on a bridge, c behind a router: b drops a's multicast, a has a TTL of 1, c an MTU of 1,300."""
    with lab.Lab(("switch", *"abc")) as made:
        bridge = Bridge(made, "ab")
        bridge.switch.add_address("br0", f"{NETWORK}.254/24")
        outside, c = made.link("switch", "c")
        a, b = bridge.ends["a"], bridge.ends["b"]
        for end, gateway in ((a, f"{NETWORK}.254"), (b, f"{NETWORK}.254"), (c, outside.ipv4)):
            end.host.run("ip", "route", "add", "default", "via", gateway)
        b.host.add_table(b.interface, "ingress", 0, f"ip saddr {NETWORK}.1 ip daddr {GROUP} counter name hits drop")
        c.host.run("ip", "link", "set", c.interface, "mtu", "1300")
        inside = lab.End(bridge.switch, "br0", f"{NETWORK}.254", "")
        sources = ((f"{NETWORK}.1", inside), (f"{NETWORK}.2", inside), (c.ipv4, outside))
        with routed(GROUP, inside, outside, *sources):
            reports = probe({"a": a, "b": b, "c": c}, ttl={"a": 1, "b": 4, "c": 4})
    for report in reports.values():
        assert ids(report) == {"a > b": ["probe.one-way"], "a > c": ["probe.ttl-too-small"], "b > c": ["probe.mtu"]}
        _print(report)
        rows = [re.split("  +", line.strip()) for line in capsys.readouterr().out.splitlines()]
        top = next(at for at, row in enumerate(rows) if row[0] == "hears multicast of")
        matrix = {row[0]: sorted(row[1:]) for row in rows[top + 1 : top + 4]}
        assert matrix == {
            "a": ["-", "unicast only", "unicast only"],
            "b": ["-", "yes", "yes, mtu"],
            "c": ["-", "yes", "yes"],
        }


def test_an_interface_that_a_group_cannot_name(backend, bridge):
    """It is named by its index."""
    end = bridge.ends["a"]
    with end.host.enter():
        index = end.index
        end.host.run("ip", "link", "set", end.interface, "name", "e[f]")
        report = doctor.probe(f"{GROUP}:{PORT}", interface=index, wait=0)
    assert report.group == f"{GROUP}%e[f]:{PORT}"
    assert [one.id for one in report.findings] == ["probe.nobody-heard"]


@pytest.mark.parametrize("columns", [80, 160])
def test_the_program_shows_the_matrix(bridge, columns):
    rule = f"ip saddr {NETWORK}.1 ip daddr {GROUP} counter name hits drop"
    bridge.ends["b"].host.add_table(bridge.ends["b"].interface, "ingress", 0, rule)
    environment = os.environ | {"COLUMNS": str(columns)}
    options = ["--for", "1s", "--rate", "50", "--burst", "10", "--wait", "30s"]
    started = [
        end.host.spawn(
            [sys.executable, "-m", "mcast_fast", "probe", f"{GROUP}%{end.interface}:{PORT}", "--name", name, *options],
            env=environment,
        )
        for name, end in bridge.ends.items()
        if name != "c"
    ]
    for one in started:
        one.expect(": 1 of 2 directions are heard", timeout=60)
        assert one.process.wait(30) == 1
        assert re.search(r"^a +- +unicast only *$|^a +unicast only +- *$", one.output, re.MULTILINE)
        assert "problem b hears a's unicast but not its multicast, and a hears b's: 0 of " in " ".join(
            one.output.split()
        )
