"""Faults that are made between two hosts: the doctor names each first, alone and beside a harmless oddity, and what it prints as
its remedy cures it."""

import json
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import doctor
from mcast_fast.doctor import _listening, _switch
from mcast_fast.doctor._feeds import quiet
from mcast_fast.doctor._text import lines
from tests import lab
from tests.multicast_router import routed

pytestmark = pytest.mark.lab

PORT = 5000
GROUP = "239.1.1.1"
ROOT = Path(__file__).parent.parent


OTHER = """
import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("", 5000))
print("bound", flush=True)
while True:
    s.recv(1)
"""


class Two:
    """A sender's and a receiver's host, one link between them or several; streams run until the end."""

    def __init__(self, made: lab.Lab) -> None:
        self.lab = made
        self.a, self.b = made.link("a", "b")

    def stream(
        self, group: str = GROUP, port: int = PORT, end: lab.End | None = None, **options: object
    ) -> lab.Program:
        return (end or self.a).blast(group, port, count=10_000_000, **{"rate": 300} | options)

    def text(self, group: str = GROUP, end: lab.End | None = None, source: str = "") -> str:
        zoned = f"{group}%{(end or self.b).interface}"
        return (f"{source}@" if source else "") + (f"[{zoned}]:{PORT}" if ":" in group else f"{zoned}:{PORT}")

    def examine(self, *groups: str, **options: object) -> doctor.Report:
        with self.b.host.enter():
            return doctor.examine(groups, **options)

    def oddity(self) -> None:
        """What is unusual and stops nothing: a firewall that counts, another program on the port, another group."""
        rules = f"table inet odd {{\nchain in {{\ntype filter hook input priority -5; policy accept;\nudp dport 9 drop\nudp dport {PORT} counter accept\n}}\n}}\n"
        self.b.host.run("nft", "-f", "-", stdin=rules)
        other = self.b.host.spawn([sys.executable, "-I", "-c", OTHER])
        other.expect("bound")
        self.stream("239.9.9.9", PORT)

    def finds(
        self, name: str, *groups: str, odd: Callable[[], None] | None = None, **options: object
    ) -> doctor.Finding:
        """The fault is the first finding, alone and beside an oddity, and is no other."""
        for make_odd in (None, odd or self.oddity):
            if make_odd is not None:
                make_odd()
            report = self.examine(*groups, **options)
            assert report.findings[0].id == name, report
            assert report.findings[0].evidence
            assert {one.id for one in report.problems} <= {name}, report
        return report.findings[0]

    def cures(self, finding: doctor.Finding, *groups: str, **options: object) -> None:
        """The remedy as it is printed: a command is run and the same question is asked again; a call has to receive."""
        if finding.remedy.startswith("mcast."):
            with self.b.host.enter(), quiet(), eval(finding.remedy, {"mcast": mcast}) as rx:
                assert rx.recv(timeout=30).data
            return
        self.b.host.run("sh", "-c", finding.remedy)
        report = self.examine(*groups, **options)
        assert not report.problems, report
        assert finding.id not in {one.id for one in report.findings}
        assert "packets.received" in {one.id for one in report.findings}, report


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
    two.cures(two.finds("membership.wrong-port", wanted, odd=lambda: None), wanted)


def test_ipv6_without_a_zone(two, second):
    a, b = second
    two.stream("ff15::1", end=a)
    two.b.host.run("ip", "-6", "route", "add", "ff15::/16", "dev", two.b.interface, "table", "local", "metric", "1")
    wanted = f"[ff15::1]:{PORT}"
    two.cures(two.finds("membership.no-zone", wanted), wanted)
    assert b.interface in two.examine(wanted).findings[0].remedy


HOLDER = "import socket, signal\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', 5000))\nprint('bound', flush=True)\nsignal.pause()\n"


def test_another_process_has_the_port(two):
    two.stream()
    holder = two.b.host.spawn([sys.executable, "-I", "-c", HOLDER])
    holder.expect("bound")
    finding = two.finds("membership.port-taken", two.text(), odd=lambda: None, seconds=0.3)
    assert "python" in finding.evidence[0]
    two.b.host.run("sh", "-c", finding.remedy)
    holder.process.wait(30)
    assert not two.examine(two.text()).problems


JOINED = """
import socket, struct, sys
address, interface = sys.argv[1:]
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.setsockopt(socket.IPPROTO_IP, 49, 0)  # IP_MULTICAST_ALL
request = struct.pack("=4s4xi", socket.inet_aton("239.1.1.1"), socket.if_nametoindex(interface))
s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, request)
s.bind((address, 5000))
print("joined", flush=True)
while True:
    s.recv(1)
    print("received", flush=True)
"""


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


def test_no_route_for_the_sender(two):
    wanted = f"{GROUP}:{PORT}"
    code = "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('239.1.1.1', 5000))\n"
    with pytest.raises(lab.LabError, match="unreachable"):
        two.b.host.run(sys.executable, "-I", "-c", code)
    finding = two.finds("routing.no-route", wanted, odd=lambda: None, seconds=0.3)
    two.b.host.run("sh", "-c", finding.remedy)
    two.b.host.run(sys.executable, "-I", "-c", code)
    assert "routing.no-route" not in {one.id for one in two.examine(wanted, seconds=0.1).findings}


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
        three.cures(three.finds("firewall.drops-igmp", wanted, seconds=1, odd=lambda: None), wanted)


class Bridged(Two):
    """A sender a, a switch that snoops and sends queries, a receiver b."""

    def __init__(self, made: lab.Lab) -> None:
        self.lab = made
        switch = made.hosts["c"]
        switch.run(
            "ip",
            "link",
            "add",
            "br0",
            "type",
            "bridge",
            "mcast_snooping",
            "1",
            "mcast_querier",
            "1",
            "mcast_startup_query_interval",
            "10",
            "mcast_query_response_interval",
            "10",
        )
        switch.run("ip", "link", "set", "br0", "up")
        self.a, first = made.link("a", "c", number=0)
        self.b, last = made.link("b", "c", number=1)
        for end in (first, last):
            switch.run("ip", "link", "set", end.interface, "master", "br0")
        self.a.host.add_address(self.a.interface, "10.77.1.9/24")


def test_fragments_are_dropped(two):
    two.stream(size=4000, rate=100)
    rules = "table ip filter {\nchain raw {\ntype filter hook prerouting priority -450;\nip frag-off & 0x1fff != 0 counter drop\n}\n}\n"
    two.b.host.run("nft", "-f", "-", stdin=rules)
    finding = two.finds("firewall.drops-fragments", two.text(), seconds=2)
    two.cures(finding, two.text())


# ---- senders, buffers, frames ----


def test_another_sender(two):
    two.a.host.add_address(two.a.interface, "10.77.0.66/24")
    two.stream(rate=300)
    two.stream(rate=100, source="10.77.0.66")
    finding = two.finds("sender.several", two.text())
    assert finding.verdict == "warning"
    assert "10.77.0.66" in finding.summary
    wanted = finding.remedy
    two.cures(finding)
    with two.b.host.enter(), quiet(), eval(wanted, {"mcast": mcast}) as rx:
        assert {packet.source for packet in rx.collect(100, timeout=30)} == {two.a.ipv4}


def test_a_buffer_that_overflows(two):
    """A program that reads in bursts: its small buffer overflows, and the larger one of the remedy does not."""
    burst = 200
    two.stream(rate=3000, size=1400)
    with two.b.host.enter(), quiet():
        rx = mcast.Receiver(two.text(), buffer_size=16_384, gro=False)
    with rx:
        finding = two.finds("buffers.overflow", two.text(), odd=lambda: None)
    assert "another socket of this process" in finding.summary
    with two.b.host.enter(), quiet(), eval(finding.remedy, {"mcast": mcast}) as rx:
        assert rx.collect(burst, timeout=30)[0].dropped == 0


def test_ttl_1_at_the_sender(two):
    """On the sender's host."""
    with two.a.host.enter():
        tx = mcast.Sender(f"{GROUP}%{two.a.interface}:{PORT}", ttl=1)
    sender, two.b = two.a, two.a
    with tx, lab.again_and_again(lambda: tx.send(b"x")):
        finding = two.finds("sender.ttl-1", two.text(end=sender), odd=lambda: None)
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
            finding = two.finds("sender.ttl-1", two.text(), odd=lambda: None)
            stream.stop()
            with c.host.enter(), quiet():
                rx = mcast.Receiver(f"{GROUP}%{c.interface}:{PORT}", timeout=30)
            with a.host.enter(), rx:
                tx = eval(finding.remedy.replace(inside.interface, a.interface), {"mcast": mcast})
                with tx, lab.again_and_again(lambda: tx.send(b"x")):
                    assert rx.recv().source == a.ipv4


def udp_frame(*, vlan: int = 0, bad: bool = False) -> bytes:
    """An Ethernet frame of the group, without a UDP checksum or with a wrong one."""
    udp = struct.pack("!HHHH", 4000, PORT, 9, 0xDEAD if bad else 0) + b"x"
    addresses = socket.inet_aton("10.77.0.1") + socket.inet_aton(GROUP)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 4, 17, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return bytes.fromhex("01005e010101") + bytes.fromhex("020000000005") + tag + b"\x08\x00" + header + udp


@contextmanager
def frames(end: lab.End, frame: bytes) -> Iterator[None]:
    """Send a frame again and again from an interface, until the end of the block."""
    with end.host.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind((end.interface, 0))
    with sock, lab.again_and_again(lambda: sock.send(frame)):
        yield


def test_bad_checksums(two):
    with frames(two.a, udp_frame(bad=True)):
        finding = two.finds("packets.bad-checksum", two.text(), seconds=5)
    assert finding.advice


def test_frames_with_a_tag(two):
    with frames(two.a, udp_frame(vlan=7)):
        finding = two.finds("packets.vlan-tagged", two.text(), seconds=5)
    assert "VLAN 7" in finding.summary
    assert "type vlan id 7" in finding.remedy


# ---- a switch whose querier is silent ----


def query(end: lab.End) -> None:
    """One general query of IGMPv3."""
    body = struct.pack("!BBHIBBH", 0x11, 10, 0, 0, 2, 125, 0)
    total = sum(struct.unpack("!6H", body))
    body = body[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + body[4:]
    with end.host.enter(), socket.socket(socket.AF_INET, socket.SOCK_RAW, 2) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(end.ipv4))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x94\x04\0\0")
        sock.sendto(body, ("224.0.0.1", 0))


def test_a_querier_that_fell_silent(two, monkeypatch):
    """The bridge is on the receiver's host: it forgets the host when nobody asks."""
    monkeypatch.setattr(_switch, "QUIET", 0.5)
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
    query(two.a)
    wanted = f"{GROUP}%br0:{PORT}"
    report = two.examine(wanted, seconds=3, watch=True)
    assert report.findings[0].id == "switch.querier-silent", report
    assert "no querier was heard" in report.findings[0].summary
    host.run("sh", "-c", report.findings[0].remedy)
    assert not two.examine(wanted).problems


# ---- XDP ----


def test_an_xdp_program_that_takes_the_group(two):
    two.stream()
    attach_xdp(two.b)
    finding = two.finds("interface.xdp", two.text(), seconds=0.6)
    two.cures(finding, two.text())


def attach_xdp(end: lab.End) -> None:
    """Attach a program that drops all UDP, by bpf(2) and rtnetlink(7)."""
    code = ROOT / "tests" / "xdp_drop.py"
    end.host.run(sys.executable, "-I", str(code), end.interface)


# ---- what a sandbox refuses ----

REFUSED = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]


def findings_of(two: Two, *argv: str, wrap: list[str]) -> list[dict[str, object]]:
    program = two.b.host.spawn([*wrap, sys.executable, "-m", "mcast_fast.doctor", *argv, "--json"], cwd=ROOT)
    return json.loads(program.finish(60, expected=(0, 1)))["findings"]


def test_without_cap_net_raw(two):
    two.stream()
    found = findings_of(two, two.text(), "--ring", wrap=REFUSED)
    assert found[0]["id"] == "host.no-cap-net-raw"
    assert "setcap cap_net_raw+ep" in found[0]["remedy"]
    assert [one["id"] for one in found if one["verdict"] == "problem"] == ["host.no-cap-net-raw"]
    assert {"packets.unseen", "packets.received"} <= {one["id"] for one in found}
    assert not two.examine(two.text(), ring=True).problems  # root has it


@pytest.mark.needs("system call filters")
def test_netlink_refused_by_a_sandbox(two):
    two.stream()
    found = findings_of(two, two.text(), wrap=[sys.executable, "-m", "tests.sandbox", "netlink", "--"])
    assert found[0]["id"] == "host.netlink-refused"
    assert found[0]["remedy"].endswith(" AF_NETLINK")
    assert {"packets.received"} <= {one["id"] for one in found}
    assert "problem" not in {one["verdict"] for one in found}


# ---- no fault ----


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("version", [4, 6])
def test_no_fault_no_problem(two, version):
    group = GROUP if version == 4 else "ff15::1"
    two.stream(group)
    two.oddity()
    report = two.examine(two.text(group), seconds=10)
    assert not report.problems, report
    assert "packets.received" in {one.id for one in report.findings}


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set", "-all", "--inh-caps", "-all"]


def nobody_runs_python() -> bool:
    command = [*NOBODY, sys.executable, "-c", "import mcast_fast"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_no_fault_no_problem_without_any_privilege(two):
    """As in a container: what may not be looked at is unknown, with the reason."""
    if not nobody_runs_python():
        pytest.skip("feature setpriv: this Python cannot be run by another user")
    two.stream()
    found = findings_of(two, two.text(), wrap=NOBODY)
    assert {"packets.received", "packets.unseen", "firewall.unread"} <= {one["id"] for one in found}
    assert "problem" not in {one["verdict"] for one in found}
    assert all(one["evidence"] for one in found if one["verdict"] == "unknown")


def test_ctrl_c_ends_the_watch_with_a_report(two):
    two.stream()
    watched = two.b.tcpdump("igmp", "or", "udp")
    argv = [sys.executable, "-m", "mcast_fast", "doctor", two.text(), "--for", "10m"]
    program = two.b.host.spawn(argv, cwd=ROOT / "src")
    watched.expect("igmp v3 report")
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(60) in (0, 1)  # 1: no packet had come yet
    assert "Listened for" in program.stop()


@pytest.mark.weekly
@pytest.mark.hang_timeout(1800)
def test_no_fault_no_problem_a_hundred_times(two):
    """IPv4 and IPv6, as root and without any privilege, for a socket and for a ring."""
    two.stream()
    two.stream("ff15::1")
    every_fifth = NOBODY if nobody_runs_python() else REFUSED
    for number in range(100):
        wanted = two.text(GROUP if number % 2 else "ff15::1")
        if number % 5:
            report = two.examine(wanted, ring=bool(number % 3))
            assert not report.problems, (number, report)
        else:
            found = findings_of(two, wanted, wrap=every_fifth)
            assert "problem" not in {one["verdict"] for one in found}, (number, found)
