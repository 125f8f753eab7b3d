"""The probe between hosts: behind a bridge, and across a router that decrements TTLs."""

import contextlib
import os
import re
import socket
import struct
import sys
import threading
from collections.abc import Iterator

import pytest

from mcast_fast import doctor
from tests import lab

pytestmark = [pytest.mark.lab]

GROUP, PORT = "239.9.9.9", 5009
NETWORK = "10.88.0"
# linux/mroute.h
MRT_INIT, MRT_ADD_VIF, MRT_ADD_MFC = 200, 202, 204
VIFF_USE_IFINDEX = 8


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

    def one(name: str, end: lab.End) -> None:
        own = {key: value[name] if isinstance(value, dict) else value for key, value in options.items()}
        defaults = {"duration": "1s", "rate": 50, "wait": None, "burst": 100, "name": name}
        with end.host.enter():
            reports[name] = doctor.probe(f"{GROUP}%{end.interface}:{PORT}", **defaults | own)

    threads = [threading.Thread(target=one, args=item) for item in ends.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert reports.keys() == ends.keys()
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


def test_one_direction_is_cut_and_one_mtu_is_small(backend, bridge):
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


@contextlib.contextmanager
def routed(inside: lab.End, outside: lab.End, *sources: tuple[str, lab.End]) -> Iterator[None]:
    """The kernel routes the group between two interfaces of one host, from each source by where it arrives."""
    with (
        inside.host.enter(),
        contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_IGMP)) as sock,
    ):
        sock.setsockopt(socket.IPPROTO_IP, MRT_INIT, 1)
        numbers = {end.interface: number for number, end in enumerate((inside, outside))}
        for end in (inside, outside):
            vif = struct.pack("=HBBIi4s", numbers[end.interface], VIFF_USE_IFINDEX, 1, 0, end.index, bytes(4))
            sock.setsockopt(socket.IPPROTO_IP, MRT_ADD_VIF, vif)
        for address, end in sources:
            ttls = bytes(int(number != numbers[end.interface]) for number in range(2)).ljust(32, b"\0")
            route = (
                socket.inet_aton(address) + socket.inet_aton(GROUP) + struct.pack("=H", numbers[end.interface]) + ttls
            )
            sock.setsockopt(socket.IPPROTO_IP, MRT_ADD_MFC, route.ljust(60, b"\0"))
        yield


def test_a_ttl_of_1_does_not_pass_a_router(backend):
    with lab.Lab("arb") as made:
        a, inside = made.link("a", "r")
        outside, b = made.link("r", "b")
        made.hosts["r"].sysctl("net.ipv4.ip_forward", 1)
        a.host.run("ip", "route", "add", "default", "via", inside.ipv4)
        b.host.run("ip", "route", "add", "default", "via", outside.ipv4)
        with routed(inside, outside, (a.ipv4, inside), (b.ipv4, outside)):
            ends = {"a": a, "b": b}
            for report in probe(ends, ttl={"a": 1, "b": 4}).values():
                assert ids(report) == {"a > b": ["probe.ttl-too-small"]}
                assert report.link("b", "a").hops == 1
                assert "on a: --ttl 2, " in report.link("a", "b").findings[0].remedy
                assert not report.ok
            for report in probe(ends, ttl=2).values():  # the remedy
                assert report.verdict == "ok", ids(report)
                assert [link.hops for link in report.links] == [1, 1]


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
