"""Two hosts between which a fault is made, and what makes it, for the doctor to find."""

import json
import socket
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import mcast_fast as mcast
from mcast_fast import doctor
from mcast_fast.errors import unwarned
from tests import lab

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

    def lesser_oddity(self) -> None:
        """The same where no other program can be on the port."""
        rules = f"table inet odd {{\nchain in {{\ntype filter hook input priority -5; policy accept;\nudp dport {PORT} counter accept\n}}\n}}\n"
        self.b.host.run("nft", "-f", "-", stdin=rules)
        self.stream("239.9.9.9", 9)

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
            with self.b.host.enter(), unwarned(), eval(finding.remedy, {"mcast": mcast}) as rx:
                assert rx.recv().data
            return
        self.b.host.run("sh", "-c", finding.remedy)
        report = self.examine(*groups, **options)
        assert not report.problems, report
        assert finding.id not in {one.id for one in report.findings}
        assert "packets.received" in {one.id for one in report.findings}, report


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


HOLDER = "import socket, signal\ns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\ns.bind(('', 5000))\nprint('bound', flush=True)\nsignal.pause()\n"


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


def udp_frame(*, vlan: int = 0, bad: bool = False, group_bits: str = "010101", source: str = "10.77.0.1") -> bytes:
    """An Ethernet frame of the group, without a UDP checksum or with a wrong one; the last bits of its MAC address."""
    udp = struct.pack("!HHHH", 4000, PORT, 9, 0xDEAD if bad else 0) + b"x"
    addresses = socket.inet_aton(source) + socket.inet_aton(GROUP)
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 4, 17, 0) + addresses
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~total & 0xFFFF) + header[12:]
    tag = struct.pack("!HH", 0x8100, vlan) if vlan else b""
    return bytes.fromhex("01005e" + group_bits) + bytes.fromhex("020000000005") + tag + b"\x08\x00" + header + udp


@contextmanager
def frames(end: lab.End, frame: bytes) -> Iterator[None]:
    """Send a frame again and again from an interface, until the end of the block."""
    with end.host.enter():
        sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        sock.bind((end.interface, 0))
    with sock, lab.again_and_again(lambda: sock.send(frame)):
        yield


def findings_of(two: Two, *argv: str, wrap: Sequence[str], python: str = sys.executable) -> list[dict[str, str]]:
    """What the program finds on the receiver's host, run by another one."""
    program = two.b.host.spawn([*wrap, python, "-m", "mcast_fast.doctor", *argv, "--json"], cwd=ROOT)
    return json.loads(program.finish(60, expected=(0, 1)))["findings"]


def query(end: lab.End) -> None:
    """One general query of IGMPv3."""
    body = struct.pack("!BBHIBBH", 0x11, 10, 0, 0, 2, 125, 0)
    total = sum(struct.unpack("!6H", body))
    body = body[:2] + struct.pack("!H", ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF) + body[4:]
    with end.host.enter(), socket.socket(socket.AF_INET, socket.SOCK_RAW, 2) as sock:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton(end.ipv4))
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x94\x04\0\0")
        sock.sendto(body, ("224.0.0.1", 0))


def attach_xdp(end: lab.End) -> None:
    """Attach a program that drops all UDP, by bpf(2) and rtnetlink(7)."""
    code = ROOT / "tests" / "xdp_drop.py"
    end.host.run(sys.executable, "-I", str(code), end.interface)
