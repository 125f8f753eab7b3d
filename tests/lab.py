"""Network namespaces joined by veth, made and removed by the test: two hosts on one machine, and programs for them.

    with Lab(("a", "b")) as lab:
        a, b = lab.link("a", "b")                      # va0 on host a, vb0 on host b, both usable at once
        with b.host.enter():
            receiver = ...                             # its sockets stay on host b
        sent = a.count("239.1.1.1", 5000)
        a.iperf("239.1.1.1", 5000, count=1000).finish()
        assert receiver ... == sent.packets

Run as a program, this file is one of the lab's own programs: see PROGRAMS at the end.
"""

import ctypes
import functools
import itertools
import json
import os
import re
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_network
from pathlib import Path
from typing import Any

TOOLS = ("ip", "nft", "ethtool", "iperf", "socat", "tcpdump")
NAMESPACES = Path("/run/netns")
PREFIX = "mcast-lab"

CLONE_NEWNET = 0x40000000
RTMGRP_LINK, RTMGRP_IPV6_IFADDR = 0x1, 0x100  # rtnetlink(7)
UDP_SEGMENT = 103
IPV6_MULTICAST_HOPS = 18
MCAST_JOIN_GROUP, MCAST_JOIN_SOURCE_GROUP = 42, 46
ETHERNET_HEADER = 14

# A new namespace may start with the first one's values (net.core.devconf_inherit_init_net), so all are set. Duplicate
# address detection keeps an address tentative for a second; rp_filter drops sources that the receiver has no route to.
SYSCTLS = {
    "net.ipv6.conf.all.disable_ipv6": 0,
    "net.ipv6.conf.default.disable_ipv6": 0,
    "net.ipv6.conf.all.accept_dad": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.dad_transmits": 0,
    "net.ipv6.conf.default.router_solicitations": 0,
    "net.ipv6.conf.all.keep_addr_on_down": 1,
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
}


class LabError(Exception):
    """A program of the lab failed or did not answer in time; the message holds what it printed."""


@functools.cache
def available() -> str:
    """Empty when a lab can be made here, else the reason why not."""
    if sys.platform != "linux":
        return f"network namespaces need Linux, and this is {sys.platform}"
    if os.geteuid() != 0:
        return "network namespaces need root"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"not installed: {', '.join(missing)}"
    try:
        with Lab(("probe",)):
            return ""
    except (LabError, OSError) as error:
        return f"no network namespace can be made: {error}"


def run(*argv: str, stdin: str = "", timeout: float = 30.0) -> str:
    """Run a program to its end and return what it printed to standard output."""
    try:
        done = subprocess.run(argv, input=stdin, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(argv)}: not done after {timeout} s") from error
    if done.returncode != 0:
        raise LabError(f"{' '.join(argv)}: exit {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def setns(descriptor: int) -> None:
    """Move the calling thread into a network namespace, setns(2)."""
    if hasattr(os, "setns"):  # Python 3.12
        os.setns(descriptor, CLONE_NEWNET)
    elif ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def unshare_network() -> None:
    """Move the calling thread into a new network namespace, in which everything is down, unshare(2)."""
    if hasattr(os, "unshare"):  # Python 3.12
        os.unshare(CLONE_NEWNET)
    elif ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


class Program:
    """A program running on a host: both its streams are read as they come, and it is ended by its own id."""

    def __init__(self, argv: Sequence[str], **popen: Any) -> None:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(argv, text=True, errors="replace", **pipes | popen)
        self._what = " ".join(argv)
        self._lines: list[str] = []
        self._passed = 0
        self._ended = False
        self._news = threading.Condition()
        # A thread reads, for a program whose pipe is full stops.
        self._reader = threading.Thread(target=self._read, name=f"output of {self._what}", daemon=True)
        self._reader.start()

    @property
    def output(self) -> str:
        """What it has printed so far."""
        with self._news:
            return "".join(self._lines)

    def expect(self, pattern: str, timeout: float = 10.0) -> re.Match[str]:
        """Wait for a line that matches, after the one expected last; LabError when there is none in time."""
        with self._news:
            found = self._news.wait_for(lambda: self._next_match(pattern) or self._ended, timeout)
        if not isinstance(found, re.Match):
            raise LabError(f"{self._what}: no line like {pattern!r} in {timeout} s, but: {self.output}")
        return found

    def finish(self, timeout: float = 30.0, expected: Sequence[int] = (0,)) -> str:
        """Wait until it ends by itself, with one of these exit codes; return what it printed."""
        try:
            self.process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self._what}: not done after {timeout} s: {self.stop()}") from error
        self._reader.join(timeout)
        if self.process.returncode not in expected:
            raise LabError(f"{self._what}: exit {self.process.returncode}: {self.output}")
        return self.output

    def stop(self, timeout: float = 5.0) -> str:
        """End it, by SIGTERM and then by SIGKILL; return what it printed. Stopping twice is harmless."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(timeout)
        self._reader.join(timeout)
        return self.output

    def _read(self) -> None:
        with self.process.stdout as lines:
            for line in lines:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._ended = True
            self._news.notify_all()

    def _next_match(self, pattern: str) -> re.Match[str] | None:
        while self._passed < len(self._lines):
            self._passed += 1
            if match := re.search(pattern, self._lines[self._passed - 1]):
                return match
        return None


class Host:
    """One network namespace."""

    def __init__(self, name: str, namespace: str, undo: ExitStack) -> None:
        self.name = name
        self.namespace = namespace
        self._undo = undo
        self._tables = (f"lab{number}" for number in itertools.count())
        run("ip", "netns", "add", namespace)
        undo.callback(run, "ip", "netns", "del", namespace)
        for sysctl, value in SYSCTLS.items():
            self.sysctl(sysctl, value)
        self.run("ip", "link", "set", "lo", "up")

    def run(self, *argv: str, stdin: str = "", timeout: float = 30.0) -> str:
        """Run a program here to its end; return its standard output, or raise LabError."""
        return run(*self._here(argv), stdin=stdin, timeout=timeout)

    def spawn(self, argv: Sequence[str], **popen: Any) -> Program:
        """Start a program here; it is ended with the lab at the latest."""
        program = Program(self._here(argv), **popen)
        self._undo.callback(program.stop)
        return program

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Move the calling thread here, and back to where it was in the end.

        Sockets belong forever to the namespace they were opened in, and a thread starts in that of its starter.
        /sys goes on showing the old namespace; /proc/net/... is the process's own: read /proc/thread-self/net/... .
        """
        with Path("/proc/thread-self/ns/net").open() as before, (NAMESPACES / self.namespace).open() as here:
            setns(here.fileno())
            try:
                yield
            finally:
                setns(before.fileno())

    def sysctl(self, name: str, value: int | str | None = None) -> str:
        """Set a sysctl of this namespace (when a value is given), and return it as it now reads."""
        file = Path("/proc/sys", name.replace(".", "/"))
        with self.enter():
            if value is not None:
                file.write_text(str(value))
            return file.read_text().strip()

    def add_address(self, interface: str, address: str) -> None:
        """Add an address with its prefix length, such as 10.9.0.7/24, to send from."""
        nodad = ["nodad"] if ":" in address else []
        self.run("ip", "address", "replace", address, "dev", interface, *nodad)

    def add_table(self, interface: str, hook: str, priority: int, rule: str) -> "Counter":
        """Add a netdev nft table of one rule, in which `counter name hits` counts."""
        table = next(self._tables)
        chain = f'type filter hook {hook} device "{interface}" priority {priority};'
        self.run(
            "nft",
            "-f",
            "-",
            stdin=f"table netdev {table} {{\ncounter hits {{ }}\nchain only {{\n{chain}\n{rule}\n}}\n}}\n",
        )
        return Counter(self, table, ETHERNET_HEADER if hook == "egress" else 0)

    def _here(self, argv: Sequence[str]) -> list[str]:
        return ["ip", "netns", "exec", self.namespace, *argv]


@dataclass(frozen=True)
class Counter:
    """What an nft rule has counted."""

    host: Host
    table: str
    header: int  # bytes before the IP header that nft counts at this hook

    @property
    def packets(self) -> int:
        return self._read()["packets"]

    @property
    def bytes(self) -> int:
        """The packets' lengths, each with its IP and UDP header."""
        count = self._read()
        return count["bytes"] - self.header * count["packets"]

    def _read(self) -> dict[str, int]:
        listed = json.loads(self.host.run("nft", "-j", "list", "counter", "netdev", self.table, "hits"))
        return next(item["counter"] for item in listed["nftables"] if "counter" in item)


@dataclass(frozen=True)
class End:
    """One end of a link: an interface of a host, the programs that send from it and the rules that count on it."""

    host: Host
    interface: str
    ipv4: str
    ipv6: str

    @property
    def index(self) -> int:
        return self._shown()["ifindex"]

    @property
    def link_local(self) -> str:
        """Its fe80:: address, without the zone."""
        return next(info["local"] for info in self._shown()["addr_info"] if info["scope"] == "link")

    @property
    def counters(self) -> dict[str, dict[str, int]]:
        """The interface's own, `["tx"]["packets"]` and the like: IGMP, MLD and neighbour discovery are in them."""
        return json.loads(self.host.run("ip", "-j", "-s", "link", "show", self.interface))[0]["stats64"]

    def address(self, group: str) -> str:
        """Our address of the group's family."""
        return self.ipv6 if ":" in group else self.ipv4

    def wait_usable(self, timeout: float = 5.0) -> None:
        """Wait until packets can leave: carrier, and a link-local address (the multicast route is there before it)."""
        deadline = time.monotonic() + timeout
        with self.host.enter(), closing(socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)) as changes:
            changes.bind((0, RTMGRP_LINK | RTMGRP_IPV6_IFADDR))
            while not self._is_usable():
                changes.settimeout(max(0.001, deadline - time.monotonic()))
                try:
                    changes.recv(65_536)
                except TimeoutError:
                    raise LabError(f"{self.interface} not usable after {timeout} s: {self._shown()}") from None

    def single_packets(self) -> None:
        """Let the kernel cut GSO segments into single packets before they leave."""
        self.host.run("ethtool", "-K", self.interface, "tx-udp-segmentation", "off", "gso", "off")

    def coalesce_from(self, other: "End") -> None:
        """Let packets that arrive here together be coalesced; a veth does that when its other end has no TSO."""
        self.host.run("ethtool", "-K", self.interface, "gro", "on")
        other.host.run("ethtool", "-K", other.interface, "tso", "off")

    def count(
        self, group: str | None = None, port: int | None = None, source: str | None = None, *, hook: str = "egress"
    ) -> Counter:
        """Count UDP datagrams from now on: what leaves here (hook="egress") or arrives here (hook="ingress").

        A group may be a prefix (239.1.0.0/16). Egress sees a GSO send as one packet even after single_packets(),
        which cuts it behind that hook: count singles at the other end's ingress, or here in counters["tx"].
        Under load packets may still be on their way when the sender has ended: wait at the receiver for as many.
        """
        return self.host.add_table(self.interface, hook, -10, f"{_match(group, port, source)} counter name hits")

    def drop_every(
        self, n: int, group: str | None = None, port: int | None = None, source: str | None = None
    ) -> Counter:
        """Drop every n-th UDP datagram that arrives, after count() has seen it; the counter tells how many."""
        rule = f"{_match(group, port, source)} numgen inc mod {n} {n - 1} counter name hits drop"
        return self.host.add_table(self.interface, "ingress", 0, rule)

    def tcpdump(self, *arguments: str) -> Program:
        """Start tcpdump on the interface and wait until it listens; packets print a line each, or go to `-w FILE.pcap`.

        After stop() its output ends with "N packets captured": all that it had read by then. For an exact file give
        `-c N` and finish(); for an event expect() a line.
        """
        argv = ["tcpdump", "-n", "-l", "-U", "--immediate-mode", "-Z", "root", "-i", self.interface, *arguments]
        program = self.host.spawn(argv)
        program.expect("listening on")
        return program

    def iperf(
        self,
        group: str,
        port: int,
        *,
        count: int | None = None,
        seconds: float = 1.0,
        size: int = 256,
        rate: str = "10m",
        ttl: int = 4,
        source: str | None = None,
    ) -> Program:
        """Start an iperf 2 client: `count` datagrams and one that says the end, or as many as fit in the time.

        The rate is in bits per second or, with `pps`, in datagrams. From 76 bytes on all have the size; below, the first
        is longer and the last shorter. Three things of iperf 2.1.8: it connects before it binds the device, so an IPv4
        group needs its -B (always given here) or a route; for that reason too it cannot send to an IPv6 link-local
        group; and when it cannot send it exits 0, so compare with a counter.
        """
        ipv6 = ":" in group
        length = ["-n", str(count * size)] if count is not None else ["-t", str(seconds)]
        target = ["-c", f"{group}%{self.interface}", "-V"] if ipv6 else ["-c", group]
        argv = ["iperf", *target, "-u", "-B", source or self.address(group), "-T", str(ttl), "-p", str(port)]
        return self.host.spawn([*argv, "-b", rate, "-l", str(size), *length])

    def socat(
        self, group: str, port: int, *, count: int, size: int = 256, ttl: int = 4, source: str | None = None
    ) -> Program:
        """Start a socat that sends `count` datagrams of zeros at full speed."""
        family, host, address, hops = (
            ("UDP6", f"[{group}]", f"[{source or self.ipv6}]", f"setsockopt-int=41:{IPV6_MULTICAST_HOPS}:{ttl}")
            if ":" in group
            else ("UDP4", group, source or self.ipv4, f"ip-multicast-ttl={ttl}")
        )
        output = f"{family}-DATAGRAM:{host}:{port},so-bindtodevice={self.interface},bind={address},{hops}"
        return self.host.spawn(["socat", "-u", "-b", str(size), f"OPEN:/dev/zero,readbytes={count * size}", output])

    def blast(self, group: str, port: int, *, count: int, source: str | None = None, **options: Any) -> Program:
        """Start a sender of numbered datagrams; its options are those of the function _blast. Prints "sent N"."""
        arguments = {"group": group, "port": port, "count": count, "source": source or self.address(group)}
        return self._program("blast", arguments | options)

    def join(self, *groups: str, port: int, source: str | None = None) -> Program:
        """Start a process that joins groups on this interface, binds the port and reads nothing; return once it has."""
        program = self._program("join", {"groups": groups, "port": port, "source": source})
        program.expect("joined")
        return program

    def _program(self, name: str, arguments: dict[str, Any]) -> Program:
        with_interface = json.dumps(arguments | {"interface": self.interface})
        return self.host.spawn([sys.executable, "-I", __file__, name, with_interface])

    def _shown(self) -> dict[str, Any]:
        return json.loads(self.host.run("ip", "-j", "address", "show", "dev", self.interface))[0]

    def _is_usable(self) -> bool:
        shown = self._shown()
        ready = [info for info in shown["addr_info"] if info["scope"] == "link" and not info.get("tentative")]
        return shown["operstate"] == "UP" and bool(ready)


class Lab:
    """Hosts, and links between them; everything is removed at the end, and what a dead run left at the start."""

    def __init__(self, hosts: Iterable[str] = ("a", "b")) -> None:
        self.hosts: dict[str, Host] = {}
        self._names = tuple(hosts)
        self._numbers = itertools.count()
        self._undo = ExitStack()

    def __enter__(self) -> "Lab":
        remove_stale()
        run_name = f"{PREFIX}.{os.getpid()}.{secrets.token_hex(3)}"
        try:
            for name in self._names:
                self.hosts[name] = Host(name, f"{run_name}.{name}", self._undo)
        except BaseException:
            self._undo.close()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self._undo.close()

    def link(
        self, first: str, second: str, *, names: tuple[str, str] | None = None, number: int | None = None
    ) -> tuple[End, End]:
        """Join two hosts by a veth pair and wait until both ends are usable.

        Link number N has 10.77.N.1 and .2/24, fd00:77:N::1 and ::2/64 and, when not named, interfaces such as va0 and
        vb0. IPv4 has no multicast route: sending by interface index needs none, and `ip route add` makes one.
        Give a number (and names) again to make a link anew that was deleted.
        """
        number = next(self._numbers) if number is None else number
        names = names or (f"v{first}{number}", f"v{second}{number}")
        hosts = (self.hosts[first], self.hosts[second])
        left, right = ((name, "netns", host.namespace) for name, host in zip(names, hosts, strict=True))
        run("ip", "link", "add", *left, "type", "veth", "peer", "name", *right)
        a, b = (
            End(host, name, f"10.77.{number}.{last}", str(IPv6Address(f"fd00:77:{number:x}::{last}")))
            for last, (host, name) in enumerate(zip(hosts, names, strict=True), start=1)
        )
        for end in (a, b):
            end.host.add_address(end.interface, f"{end.ipv4}/24")
            end.host.add_address(end.interface, f"{end.ipv6}/64")
            end.host.run("ip", "link", "set", end.interface, "up")
        for end in (a, b):
            end.wait_usable()
        return a, b

    def coalescing_link(self, first: str, second: str, **options: Any) -> tuple[End, End]:
        """A link (as `link`) on which the kernel coalesces what `second` receives: single packets that come close together.

        veth hands packets to GRO only when its peer leaves TCP segments alone."""
        a, b = self.link(first, second, **options)
        a.host.run("ethtool", "-K", a.interface, "tso", "off")
        a.single_packets()
        b.host.run("ethtool", "-K", b.interface, "gro", "on")
        return a, b


def remove_stale() -> None:
    """Remove the namespaces of labs whose process is gone, and what still runs in them: the lab had started it."""
    for path in NAMESPACES.glob(f"{PREFIX}.*"):
        owner = path.name.split(".")[1]
        if not Path("/proc", owner).exists():
            with suppress(LabError, ProcessLookupError):  # another lab may be removing it too
                for process in run("ip", "netns", "pids", path.name).split():
                    os.kill(int(process), signal.SIGKILL)
                run("ip", "netns", "del", path.name)


@contextmanager
def again_and_again(act: Callable[[], object], interval: float = 0.003) -> Iterator[None]:
    """Do something in a thread, over and over, until the end of the block."""
    stop = threading.Event()

    def run_until_stopped() -> None:
        while not stop.wait(interval):
            act()

    thread = threading.Thread(target=run_until_stopped)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def join(sock: socket.socket, group: str, interface: str, source: str | None = None) -> None:
    """Join a group on an interface by index, from one source only when it is given (RFC 3678, both families)."""
    addresses = [group] if source is None else [group, source]
    option = MCAST_JOIN_GROUP if source is None else MCAST_JOIN_SOURCE_GROUP
    level = socket.IPPROTO_IPV6 if ":" in group else socket.IPPROTO_IP
    request = struct.pack("@I0P", socket.if_nametoindex(interface)) + b"".join(map(_sockaddr_storage, addresses))
    sock.setsockopt(level, option, request)


def _sockaddr_storage(address: str) -> bytes:
    if ":" in address:
        packed = struct.pack("=HHI16sI", socket.AF_INET6, 0, 0, socket.inet_pton(socket.AF_INET6, address), 0)
    else:
        packed = struct.pack("=HH4s", socket.AF_INET, 0, socket.inet_aton(address))
    return packed.ljust(128, b"\0")


def _match(group: str | None, port: int | None, source: str | None) -> str:
    """The nft expression for UDP datagrams to a group or prefix, a port, from a source or prefix."""
    words = ["meta l4proto udp"]
    for field, address in (("daddr", group), ("saddr", source)):
        if address is not None:
            words.append(f"{'ip6' if ip_network(address).version == 6 else 'ip'} {field} {address}")
    if port is not None:
        words.append(f"udp dport {port}")
    return " ".join(words)


def _blast(
    group: str,
    port: int,
    *,
    interface: str,
    source: str,
    count: int,
    size: int = 256,
    rate: float | None = None,
    ttl: int = 4,
    segments: int = 1,
    first: int = 0,
) -> None:
    """Send datagrams that begin with their number, 8 bytes, big-endian, counted from `first`.

    The rate is in datagrams per second, None = full speed; `segments` above 1 hands so many at once to UDP GSO.
    """
    index = socket.if_nametoindex(interface)
    ipv6 = ":" in group
    with socket.socket(socket.AF_INET6 if ipv6 else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        if ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, ttl)
        else:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4x4xi", index))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, ttl)
        if segments > 1:
            sock.setsockopt(socket.IPPROTO_UDP, UDP_SEGMENT, size)
        zone = (0, index) if ipv6 else ()
        sock.bind((source, 0, *zone))
        start = time.monotonic()
        for sent in range(0, count, segments):
            numbers = range(first + sent, first + min(sent + segments, count))
            if rate is not None:
                time.sleep(max(0.0, start + sent / rate - time.monotonic()))
            sock.sendto(b"".join(number.to_bytes(8).ljust(size, b"\0") for number in numbers), (group, port, *zone))
    print("sent", count, flush=True)


def _join(groups: Sequence[str], port: int, interface: str, source: str | None) -> None:
    with ExitStack() as sockets:
        for group in groups:  # a socket each, for igmp_max_memberships allows 20 on one
            family = socket.AF_INET6 if ":" in group else socket.AF_INET
            sock = sockets.enter_context(socket.socket(family, socket.SOCK_DGRAM))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("", port))
            join(sock, group, interface, source)
        print("joined", flush=True)
        signal.alarm(600)  # the end, should nobody be left to send it SIGTERM
        signal.pause()


PROGRAMS: dict[str, Callable[..., None]] = {"blast": _blast, "join": _join}

if __name__ == "__main__":
    PROGRAMS[sys.argv[1]](**json.loads(sys.argv[2]))
