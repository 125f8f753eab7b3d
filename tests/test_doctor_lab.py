"""Faults that are made between two hosts: the doctor names each first, alone and beside a harmless oddity, and what it prints as
its remedy cures it."""

import json
import re
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

import mcast_fast as mcast
from mcast_fast import doctor
from mcast_fast.doctor import _buffers, _context, _examination, _feeds, _listening
from mcast_fast.doctor._text import lines
from mcast_fast.errors import unwarned
from tests import lab
from tests.conftest import until
from tests.faults import GROUP, HOLDER, JOINED, PORT, Bridged, Two, attach_xdp, frames, query, udp_frame
from tests.multicast_router import routed

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends as soon as enough came to decide."""
    monkeypatch.setattr(_listening, "SHORTEST", 0.2)


@pytest.fixture
def two() -> Iterator[Two]:
    with lab.Lab() as made:
        yield Two(made)


@pytest.fixture
def second(two: Two) -> tuple[lab.End, lab.End]:
    return two.lab.link("a", "b")


# ---- interfaces and memberships ----


@pytest.mark.usefixtures("backend")
def test_wrong_interface(two, second):
    two.stream()
    wanted = two.text(end=second[1])
    two.cures(two.finds("membership.wrong-interface", wanted), wanted)


@pytest.mark.parametrize("version", [4, 6])
def test_a_group_joined_on_a_port_of_a_bridge(two, version):
    """The bridge gets what comes to its ports, before any socket that is joined there."""
    group = GROUP if version == 4 else "ff15::7"
    for options in (("add", "br0", "type", "bridge"), ("set", two.b.interface, "master", "br0"), ("set", "br0", "up")):
        two.b.host.run("ip", "link", *options)
    two.b.host.add_address("br0", "10.78.0.2/24")
    two.stream(group)
    finding = two.finds("membership.wrong-interface", two.text(group), seconds=1)
    assert "part of the bridge br0" in finding.summary
    two.cures(finding)


def test_interface_down(two):
    two.stream()
    two.b.host.run("ip", "link", "set", two.b.interface, "down")
    two.cures(two.finds("interface.down", two.text(), seconds=0.3), two.text())


@pytest.mark.parametrize("name", ["a;b$(x)'\"`q", "e[f]", "\x1b[31m"])
def test_an_interface_whose_name_is_no_word_of_a_shell(two, name):
    """A remedy is run as it is printed; where a terminal would obey the name, it is shown, and does nothing."""
    two.stream()
    wanted = f"{GROUP}%{two.b.index}:{PORT}"
    two.b.host.run("ip", "link", "set", two.b.interface, "down")
    two.b.host.run("ip", "link", "set", two.b.interface, "name", name)
    finding = two.finds("interface.down", wanted, odd=lambda: None, seconds=0.3)
    assert all(line.isprintable() for _, line in lines(doctor.Report((finding,)), 80))
    two.cures(finding, wanted)


def test_an_interface_whose_name_is_no_text(two):
    """Its frames are seen: Linux takes any bytes in a name, and CPython reads those of a packet's address as UTF-8."""
    two.stream()
    number = two.b.index
    for change in (("down",), ("name", "\udcff\udcfe\udc80"), ("up",)):
        two.b.host.run("ip", "link", "set", two.b.interface, *change)
        two.b = replace(two.b, interface=change[1] if change[0] == "name" else two.b.interface)
    with two.b.host.enter():
        assert until(lambda: next(one for one in mcast.interfaces() if one.index == number).has_carrier)
    finding = two.finds("membership.wrong-port", f"{GROUP}%{number}:{PORT + 1}", odd=lambda: None)
    assert all(line.isprintable() for _, line in lines(doctor.Report((finding,)), 80))
    two.cures(finding)


def test_no_multicast_flag(two):
    two.stream()
    two.b.host.run("ip", "link", "set", two.b.interface, "multicast", "off")
    two.cures(two.finds("interface.no-multicast-flag", two.text()), two.text())


@pytest.mark.parametrize(("limit", "name"), [("igmp_max_memberships", "limit"), ("igmp_max_msf", "source-limit")])
def test_limits_of_one_socket(two, limit, name):
    two.b.host.sysctl(f"net.ipv4.{limit}", 3)
    wanted = (
        [two.text(f"239.1.1.{number}") for number in range(1, 6)]
        if name == "limit"
        else [two.text(source=source) for source in (two.a.ipv4, *(f"10.9.0.{number}" for number in range(1, 5)))]
    )
    for group in ("239.1.1.1", *(f"239.1.1.{number}" for number in range(2, 6) if name == "limit")):
        two.stream(group)
    finding = two.finds(f"membership.{name}", *wanted, seconds=1, spread=False)
    two.b.host.run("sh", "-c", finding.remedy)
    report = (
        two.examine(*wanted, seconds=30, spread=False)
        if name == "limit"
        else two.examine(*wanted, seconds=1, spread=False)
    )
    assert f"membership.{name}" not in {one.id for one in report.findings}
    assert "packets.received" in {one.id for one in report.findings}
    with_spreading = two.examine(*wanted, seconds=0.1)
    assert f"membership.{name}" not in {one.id for one in with_spreading.problems}


def test_version_2_with_a_source(two):
    two.stream()
    two.b.host.sysctl(f"net.ipv4.conf.{two.b.interface}.force_igmp_version", 2)
    wanted = two.text(source=two.a.ipv4)
    two.cures(two.finds("membership.old-version", wanted), wanted)


@pytest.mark.usefixtures("backend")
def test_wrong_source(two):
    two.stream()
    wanted = two.text(source="10.77.0.99")
    two.cures(two.finds("membership.wrong-source", wanted), wanted)


def test_wrong_port(two):
    two.stream()
    wanted = two.text().replace(str(PORT), "5001")
    two.cures(two.finds("membership.wrong-port", wanted), wanted)


def test_ipv6_without_a_zone(two, second):
    a, b = second
    two.stream("ff15::1", end=a)
    two.b.host.run("ip", "-6", "route", "add", "ff15::/16", "dev", two.b.interface, "table", "local", "metric", "1")
    wanted = f"[ff15::1]:{PORT}"
    two.cures(two.finds("membership.no-zone", wanted), wanted)
    assert b.interface in two.examine(wanted).findings[0].remedy


def test_another_process_has_the_port(two):
    two.stream()
    holder = two.b.host.spawn([sys.executable, "-I", "-c", HOLDER])
    holder.expect("bound")
    finding = two.finds("membership.port-taken", two.text(), odd=two.lesser_oddity, seconds=0.3)
    assert "python" in finding.evidence[0]
    two.b.host.run("sh", "-c", finding.remedy)
    holder.process.wait(30)
    assert not two.examine(two.text()).problems


def test_a_program_that_joined_on_another_interface(two, second):
    two.stream()
    program = two.b.host.spawn([sys.executable, "-I", "-c", JOINED, "", second[1].interface])
    program.expect("joined")
    finding = two.finds("membership.joined-elsewhere", two.text())
    assert "python" in "".join(finding.evidence)
    two.cures(finding)


def test_a_program_that_is_bound_to_an_address_of_the_host(two):
    two.stream()
    program = two.b.host.spawn([sys.executable, "-I", "-c", JOINED, two.b.ipv4, two.b.interface])
    program.expect("joined")
    finding = two.finds("membership.bound-to-host", two.text())
    assert "python" in finding.summary
    program.stop()
    assert "received" not in program.output
    cured = JOINED.replace("s.bind((address, 5000))", finding.remedy.replace("sock.", "s."))
    program = two.b.host.spawn([sys.executable, "-I", "-c", cured, "", two.b.interface])
    program.expect("received", timeout=30)
    assert not two.examine(two.text()).problems


def test_a_program_that_is_bound_to_the_group_and_not_joined(two):
    two.stream()
    code = JOINED.replace("s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)\n", "")
    two.b.host.spawn([sys.executable, "-I", "-c", code, GROUP, two.b.interface]).expect("joined")
    two.cures(two.finds("membership.not-joined", two.text()))


@pytest.mark.parametrize("group", [GROUP, "ff15::1"])
def test_a_program_that_wants_another_source(two, group):
    two.stream(group)
    other = "10.77.0.99" if group == GROUP else "fd00:77::99"
    two.b.join(group, port=PORT, source=other)
    finding = two.finds("membership.filtered-elsewhere", two.text(group))
    assert other in finding.summary
    two.cures(finding)


def filtered_bits(two: Two) -> str:
    """The end of a MAC address that the filter of an interface does not pass: it is a hash, which others may share."""
    candidates, end = ["010181", "010182", "010184", "010188"], two.b
    with end.host.enter():
        seen = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800))
        seen.bind((end.interface, 0x0800))
        end.host.run("ip", "maddress", "add", "01:00:5e:01:01:01", "dev", end.interface)
    with two.a.host.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind((two.a.interface, 0))
    with seen, sock:
        for bits in (*candidates, "010101"):
            sock.send(udp_frame(group_bits=bits))
        passed = []
        while "010101" not in passed:
            passed.append(seen.recv(100)[3:6].hex())
    end.host.run("ip", "maddress", "del", "01:00:5e:01:01:01", "dev", end.interface)
    return next(bits for bits in candidates if bits not in passed)


@pytest.mark.weekly
def test_the_filter_of_an_interface_that_loses_the_group():
    """A macvlan, as of a container, has one; the sender's frames have the address of another group."""
    with lab.Lab(("a", "b", "c")) as made:
        two = Two(made)
        below, two.b = two.b, lab.End(made.hosts["c"], "mv0", "10.77.0.3", "")
        namespace = two.b.host.namespace
        below.host.run(*f"ip link add link {below.interface} name mv0 netns {namespace} type macvlan".split())
        two.b.host.run("ip", "link", "set", "mv0", "up")
        two.b.host.add_address("mv0", "10.77.0.3/24")
        with frames(two.a, udp_frame(group_bits=filtered_bits(two))):
            finding = two.finds("interface.nic-filter", two.text(), seconds=3)
            assert ", then none in" in finding.evidence[0]
            two.cures(finding, two.text())


def test_an_ipv6_group_where_ipv6_is_off(two):
    two.b.host.sysctl(f"net.ipv6.conf.{two.b.interface}.disable_ipv6", 1)
    two.stream("ff15::1")
    two.cures(two.finds("interface.no-ipv6", two.text("ff15::1"), seconds=0.3), two.text("ff15::1"))


# ---- routes and firewalls ----


def test_strict_rp_filter_with_an_asymmetric_route(two, second):
    two.b.host.sysctl(f"net.ipv4.conf.{two.b.interface}.rp_filter", 1)
    two.b.host.run("ip", "route", "add", "10.9.0.7/32", "dev", second[1].interface)
    two.a.host.add_address(two.a.interface, "10.9.0.7/24")
    two.stream(source="10.9.0.7")
    two.cures(two.finds("routing.rp-filter", two.text()), two.text())


def test_strict_rp_filter_without_any_route(two):
    two.b.host.sysctl("net.ipv4.conf.all.rp_filter", 1)
    two.a.host.add_address(two.a.interface, "10.9.0.7/24")
    two.stream(source="10.9.0.7")
    two.cures(two.finds("routing.rp-filter", two.text()), two.text())


def test_the_senders_address_is_also_one_of_this_host(two):
    two.b.host.add_address("lo", f"{two.a.ipv4}/32")
    two.stream()
    finding = two.finds("routing.martian-source", two.text())
    assert two.a.ipv4 in finding.summary
    two.cures(finding, two.text())


def test_a_cable_between_two_interfaces_of_one_host(two):
    two.b.host.run("ip", "link", "add", "vc0", "type", "veth", "peer", "name", "vd0")
    for name, address in (("vc0", "10.88.0.1/24"), ("vd0", "10.88.0.2/24")):
        two.b.host.run("ip", "link", "set", name, "up")
        two.b.host.add_address(name, address)
    wanted = f"{GROUP}%vd0:{PORT}"
    two.stream(end=lab.End(two.b.host, "vc0", "10.88.0.1", ""))
    finding = two.finds("routing.martian-source", wanted)
    two.cures(finding, wanted)


@pytest.mark.parametrize("source", ["0.0.0.0", "127.0.0.1", "239.9.9.9", "255.255.255.255"])
def test_a_source_that_no_host_can_have(two, source):
    with frames(two.a, udp_frame(source=source)):
        finding = two.finds("routing.martian-source", two.text())
    assert source in finding.summary
    assert not finding.remedy


def test_no_route_for_the_sender(two):
    wanted = f"{GROUP}:{PORT}"
    code = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('239.1.1.1', 5000))\n"
    with pytest.raises(lab.LabError, match="unreachable"):
        two.b.host.run(sys.executable, "-I", "-c", code)
    finding = two.finds("routing.no-route", wanted, seconds=0.3)
    two.b.host.run("sh", "-c", finding.remedy)
    two.b.host.run(sys.executable, "-I", "-c", code)
    assert "routing.no-route" not in {one.id for one in two.examine(wanted, seconds=0.1).findings}


def test_ipv6_over_the_loopback_interface(two):
    finding = two.finds("routing.no-route", f"[ff15::1%lo]:{PORT}", seconds=0.3)
    with two.b.host.enter():
        tx = mcast.Sender(two.text("ff15::1"), ttl=0)
    with tx, lab.again_and_again(lambda: tx.send(b"x")):
        two.cures(finding)


def test_a_group_of_one_interface_alone(two):
    two.stream("ff05::1:3")
    two.cures(two.finds("routing.scope", two.text("ff01::1:3"), seconds=0.3))


RULES = {
    "ipv6": "ip6 filter {\nchain in {\ntype filter hook input priority 0; policy drop;\nicmpv6 type != 128 accept\n}\n}",
    "input": 'inet filter {\nchain input {\ntype filter hook input priority 0;\niifname "lo" accept\nudp dport 5000 counter drop\n}\n}',
    "policy": "inet filter {\nchain input {\ntype filter hook input priority 0; policy drop;\nct state established,related accept\ntcp dport 22 accept\n}\n}",
    "jump": "ip filter {\nset bad {\ntypeof ip daddr\nflags interval\nelements = { 239.0.0.0/8 }\n}\nchain more {\nip daddr @bad drop\n}\nchain pre {\ntype filter hook prerouting priority raw;\nmeta l4proto udp jump more\n}\n}",
    "netdev": 'netdev filter {\nchain in {\ntype filter hook ingress device "vb0" priority 0;\nip daddr 239.1.1.1 reject\n}\n}'.replace(
        "reject", "drop"
    ),
}


@pytest.mark.parametrize("kind", RULES)
def test_a_rule_drops_the_group(two, kind):
    wanted = two.text("ff15::1" if kind == "ipv6" else GROUP)
    two.stream("ff15::1" if kind == "ipv6" else GROUP)
    two.b.host.run("nft", "-f", "-", stdin=f"table {RULES[kind]}\n")
    finding = two.finds("firewall.drops-udp", wanted)
    assert "drop" in finding.evidence[0]
    two.cures(finding, wanted)


REPORTS = {GROUP: "ip protocol igmp", "ff15::1": "icmpv6 type { mld-listener-report, mld2-listener-report }"}


@pytest.mark.parametrize("group", REPORTS)
def test_a_rule_drops_reports_behind_a_snooping_switch(group):
    with lab.Lab(("a", "b", "c")) as made:
        three = Bridged(made)
        rules = (
            f"table inet filter {{\nchain out {{\ntype filter hook output priority 0;\n{REPORTS[group]} drop\n}}\n}}\n"
        )
        three.b.host.run("nft", "-f", "-", stdin=rules)
        three.stream(group)
        wanted = three.text(group)
        three.cures(three.finds("firewall.drops-igmp", wanted, seconds=1), wanted)


def test_fragments_are_dropped(two):
    two.stream(size=4000, rate=100)
    rules = "table ip filter {\nchain raw {\ntype filter hook prerouting priority -450;\nip frag-off & 0x1fff != 0 counter drop\n}\n}\n"
    two.b.host.run("nft", "-f", "-", stdin=rules)
    finding = two.finds("firewall.drops-fragments", two.text(), seconds=2)
    two.cures(finding, two.text())


@pytest.mark.parametrize(
    "change", ["rule", *(pytest.param(name, marks=pytest.mark.weekly) for name in ("down", "removed"))]
)
def test_what_changes_while_it_watches(two, monkeypatch, change):
    """It says when the packets stopped, and why."""
    monkeypatch.setattr(_context, "QUIET", 0.3)
    name = two.b.interface
    act, found = {
        "rule": (["nft", "-f", "-"], "firewall.drops-udp"),
        "down": (["ip", "link", "set", name, "down"], "interface.down"),
        "removed": (["ip", "link", "del", name], "interface.missing"),
    }[change]
    two.stream()
    taken, changed = threading.Semaphore(0), []
    take = _feeds.Feed.take
    monkeypatch.setattr(_feeds.Feed, "take", lambda *a: (take(*a), taken.release()))

    def make_change() -> None:
        for _ in range(2):
            taken.acquire()
        two.b.host.run(*act, stdin=f"table {RULES['input']}\n" if change == "rule" else "")
        changed.append(time.monotonic())

    def is_over() -> bool:
        return bool(changed) and time.monotonic() > changed[0] + 1.0

    options = {"interface": None, "port": None, "seconds": 600, "watch": True, "ring": False, "spread": True}
    changing = threading.Thread(target=make_change)
    changing.start()
    with two.b.host.enter():
        report = _examination.examined(two.text(), is_over, **options)
    changing.join()
    assert report.findings[0].id == found, report
    assert "packets.stopped" in {one.id for one in report.problems}


# ---- senders, buffers, frames ----


def test_another_sender(two):
    two.a.host.add_address(two.a.interface, "10.77.0.66/24")
    two.stream(rate=300)
    two.stream(rate=100, source="10.77.0.66")
    with two.b.host.enter(), mcast.Receiver(two.text(source="10.77.0.66")) as rx:
        rx.recv()  # it has started: the doctor ends when enough of the first one has come
    finding = two.finds("sender.several", two.text())
    assert finding.verdict == "warning"
    assert "10.77.0.66" in finding.summary
    wanted = finding.remedy
    two.cures(finding)
    with two.b.host.enter(), unwarned(), eval(wanted, {"mcast": mcast}) as rx:
        assert {packet.source for packet in rx.collect(100, timeout=30)} == {two.a.ipv4}


def test_a_buffer_that_overflows(two):
    """A program that reads in bursts: its small buffer overflows, and the larger one of the remedy does not."""
    burst = 200
    two.stream(rate=3000, size=1400)
    with two.b.host.enter(), unwarned():
        rx = mcast.Receiver(two.text(), buffer_size=16_384, gro=False)
    with rx:
        finding = two.finds("buffers.overflow", two.text())
    assert "another socket of this process" in finding.summary
    with two.b.host.enter(), unwarned(), eval(finding.remedy, {"mcast": mcast}) as rx:
        assert rx.collect(burst, timeout=30)[0].dropped == 0


def test_ttl_1_at_the_sender(two):
    """On the sender's host."""
    with two.a.host.enter():
        tx = mcast.Sender(f"{GROUP}%{two.a.interface}:{PORT}", ttl=1)
    sender, two.b = two.a, two.a
    with tx, lab.again_and_again(lambda: tx.send(b"x")):
        finding = two.finds("sender.ttl-1", two.text(end=sender))
    with sender.host.enter(), eval(finding.remedy, {"mcast": mcast}) as tx, lab.again_and_again(lambda: tx.send(b"x")):
        report = two.examine(two.text(end=sender))
    assert "sender.ttl-1" not in {one.id for one in report.findings}


def test_ttl_1_at_a_router():
    """The router takes the packets in, and may not pass them on."""
    with lab.Lab(("a", "b", "c")) as made:
        a, inside = made.link("a", "b")
        outside, c = made.link("b", "c")
        with routed(GROUP, inside, outside, (a.ipv4, inside)):
            two = Two.__new__(Two)
            two.lab, two.a, two.b = made, a, inside
            stream = two.stream(ttl=1)
            finding = two.finds("sender.ttl-1", two.text())
            stream.stop()
            with c.host.enter(), unwarned():
                rx = mcast.Receiver(f"{GROUP}%{c.interface}:{PORT}", timeout=30)
            with a.host.enter(), rx:
                tx = eval(finding.remedy.replace(inside.interface, a.interface), {"mcast": mcast})
                with tx, lab.again_and_again(lambda: tx.send(b"x")):
                    assert rx.recv().source == a.ipv4


def test_bad_checksums(two):
    with frames(two.a, udp_frame(bad=True)):
        finding = two.finds("packets.bad-checksum", two.text(), seconds=5)
    assert finding.advice


def test_frames_with_a_tag(two):
    with frames(two.a, udp_frame(vlan=7)):
        finding = two.finds("packets.vlan-tagged", two.text(), seconds=5)
    assert "VLAN 7" in finding.summary
    assert "type vlan id 7" in finding.remedy


def test_a_buffer_that_is_small_for_the_rate(two, monkeypatch):
    """The pause is long here, so that nothing overflows where the machine makes one."""
    monkeypatch.setattr(_buffers, "PAUSE", 60)
    monkeypatch.setattr(_listening, "ENOUGH", 2 * _buffers.LEAST_PACKETS)
    two.stream(rate=1000)
    with two.b.host.enter(), unwarned():
        rx = mcast.Receiver(two.text(), buffer_size="4MiB", gro=False, background=True)
    with rx:
        finding = two.finds("buffers.short", two.text())
    rate = float(re.search(r"about ([\d,]+) packets", finding.evidence[0])[1].replace(",", ""))
    buffer = int(re.search(r"buffer_size='(\d+)MiB'", finding.remedy)[1]) << 20
    assert 2 * buffer >= 60 * (rate - 1) * _buffers._memory(256) > 2 * 4 << 20
    own = int(re.search(r"a buffer of ([\d,]+) bytes", finding.evidence[0])[1].replace(",", ""))
    held = int(re.search(r"holds (\d+) ms of this feed", finding.summary)[1])
    assert held == pytest.approx(1000 * own / (rate * _buffers._memory(256)), rel=0.01)


# ---- a switch whose querier is silent ----


@pytest.mark.parametrize("is_odd", [False, pytest.param(True, marks=pytest.mark.weekly)])
def test_a_querier_that_fell_silent(two, monkeypatch, is_odd):
    """The bridge is on the receiver's host: it forgets the host when nobody asks."""
    monkeypatch.setattr(_context, "QUIET", 0.5)
    host = two.b.host
    host.run("ip", "link", "add", "br0", "type", "bridge", "mcast_snooping", "1", "mcast_querier", "0")
    host.run(
        "ip",
        "link",
        "set",
        "br0",
        "type",
        "bridge",
        "mcast_membership_interval",
        "100",
        "mcast_querier_interval",
        "30000",
    )
    host.run("ip", "address", "add", "10.77.0.8/24", "dev", "br0")
    host.run("ip", "link", "set", two.b.interface, "master", "br0")
    host.run("ip", "link", "set", "br0", "up")
    lab.End(host, "br0", "10.77.0.8", "").wait_usable()
    two.stream()
    wanted = f"{GROUP}%br0:{PORT}"
    if is_odd:
        two.oddity()
    query(two.a)
    report = two.examine(wanted, seconds=3, watch=True)
    assert report.findings[0].id == "switch.querier-silent", report
    assert "no querier was heard" in report.findings[0].summary
    host.run("sh", "-c", report.findings[0].remedy)
    assert not two.examine(wanted).problems


def test_an_interface_without_a_group(two):
    """Which groups arrive, which are joined, and who asks."""
    two.stream()
    two.stream("239.2.2.2", 5001)
    two.b.join(GROUP, "239.3.3.3", port=PORT)
    with lab.again_and_again(lambda: query(two.a), 0.05):
        report = two.examine(interface=two.b.interface, seconds=1)
    assert not report.problems
    (found,) = (one for one in report.findings if one.id == "interface.groups")
    shown = "\n".join(found.evidence)
    assert f"{GROUP} port {PORT}: at least " in shown
    assert f"from {two.a.ipv4}; joined here" in shown
    assert "239.2.2.2 port 5001" in shown
    assert "joined here, and silent: 239.3.3.3" in shown
    assert f"queries came: IGMPv3 from {two.a.ipv4}" in shown
    two.b.host.run("ip", "link", "set", two.b.interface, "down")
    assert two.examine(interface=two.b.interface, seconds=0.1).findings[0].id == "interface.down"


# ---- XDP ----


def test_an_xdp_program_that_takes_the_group(two):
    two.stream()
    attach_xdp(two.b)
    finding = two.finds("interface.xdp", two.text(), seconds=0.6)
    two.cures(finding, two.text())


@pytest.mark.parametrize(
    "name", ["a;b", "$(x)'`y`", "t c accept; flush ruleset; add chain ip x", "\u043a\u043b\u044e\u0447"]
)
def test_a_table_whose_name_is_no_word_of_nft(two, name):
    """Other programs than nft(8) may choose such names, and its grammar has no quotes for them."""
    two.stream()
    at = {"family": "inet", "table": name, "chain": name}
    base = {"family": "inet", "table": name, "name": name, "type": "filter", "hook": "input", "prio": 0}
    daddr = {"payload": {"protocol": "ip", "field": "daddr"}}
    drop = [{"match": {"op": "==", "left": daddr, "right": GROUP}}, {"drop": None}]
    commands = [
        {"add": {"table": {"family": "inet", "name": name}}},
        {"add": {"chain": base | {"policy": "accept"}}},
        {"add": {"rule": at | {"expr": drop}}},
    ]
    two.b.host.run("nft", "-j", "-f", "-", stdin=json.dumps({"nftables": commands}))
    finding = two.finds("firewall.drops-udp", two.text(), odd=lambda: None)
    before = json.loads(two.b.host.run("nft", "-j", "list", "ruleset"))["nftables"]
    two.cures(finding, two.text())
    after = json.loads(two.b.host.run("nft", "-j", "list", "ruleset"))["nftables"]
    assert len(after) == len(before) + 1  # a rule, and nothing else
