"""Sockets of this network namespace on a UDP port, in the order in which the kernel prefers them, and who has them.

Asked by sock_diag(7), or read from /proc/net/udp where that is refused. Rules of this module: nothing is raised, and no
privilege is needed; what cannot be known is None. The number of sockets and the time that is spent are bounded.
"""

import contextlib
import ipaddress
import itertools
import os
import socket
import struct
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from mcast_fast._host import dumps, netlink
from mcast_fast._host.interfaces import interface_name

MOST_SOCKETS = 10_000
MOST_ROWS = 100_000  # of a table of proc(5), which lists all ports
OWNER_SECONDS = 0.2  # a busy host has a million descriptors, and a message need not wait for all of them

# <linux/sock_diag.h>, <linux/inet_diag.h>
SOCK_DIAG_BY_FAMILY = 20
IPPROTO_UDP = 17
ALL_STATES = 0xFFFF_FFFF
SOCKET_ID = "2s2s16s16sI8x"  # port here and there, address here and there, interface, cookie
REQUEST = struct.Struct(f"=BBBxI{SOCKET_ID}")  # family, protocol, extensions, states
MESSAGE = struct.Struct(f"=BBBx{SOCKET_ID}IIIII")  # family; id; expires, queues, uid, inode
INET_DIAG_SKMEMINFO, INET_DIAG_SKV6ONLY = 7, 11
MEMORY = struct.Struct("=9I")  # SK_MEMINFO_…: how much is queued, and its limit, come first; drops last

PROC = Path("/proc")
TABLES: dict[int, str] = {socket.AF_INET: "udp", socket.AF_INET6: "udp6"}  # proc(5)

# By IP version, preferred first: an IPv6 socket bound to no address gets IPv4 packets too, unless it has IPV6_V6ONLY.
FAMILIES = {4: (socket.AF_INET, socket.AF_INET6), 6: (socket.AF_INET6,)}
WILDCARDS = {4: ("0.0.0.0", "::"), 6: ("::",)}

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class PortUser:
    """A socket on a UDP port.

    `address`: what it is bound to, as text. `interface`: the index of the device that it is bound to, 0 for none, None
    when that cannot be known. `uid`: of the user who opened it. `pid`, `program`: a process that has it, None when none
    could be found: without privileges only a user's own processes can be looked into. `queued`, `buffer`: bytes that
    wait in its receive buffer, and its size, None when it is not known. `drops`: packets that it lost since it was
    opened, because the buffer was full.
    """

    address: str
    port: int
    interface: int | None
    inode: int
    uid: int
    pid: int | None = None
    program: str | None = None
    queued: int = 0
    buffer: int | None = None
    drops: int = 0


def found_by(group: str | bytes, port: int, interface: int) -> list[PortUser] | None:
    """Every socket that the kernel may find for a packet to (group, port) that arrives at an interface.

    The kernel finds one for a unicast packet, and asks the same one whether packets to a group may be coalesced
    (udp4_gro_lookup_skb and __udp4_lib_lookup in net/ipv4/udp.c): one bound to the group before one bound to no
    address; among those one bound to the interface; then one of the packet's IP version; then the one bound last. With
    SO_REUSEPORT, which shows nowhere, those bound alike are chosen from by a hash of the flow. A connected socket is
    left out: it is found for its peer alone.

    Args:
        group: Text, or 4 or 16 bytes; an IPv4 address may be mapped.
        port: In host byte order.
        interface: The index of the interface.

    Returns:
        Those sockets, the preferred first, without their processes; None when they cannot be listed.
    """
    listed = _list(port, _address(group))
    return None if listed is None else preferred(listed, group, interface)


def preferred(listed: Iterable[PortUser], group: str | bytes, interface: int) -> list[PortUser]:
    """Those of some sockets on a port that the kernel may find for a packet to a group; the same order."""
    address = _address(group)
    there = (user for user in listed if user.interface in (0, None, interface))
    fit = [user for user in there if user.address in (str(address), *WILDCARDS[address.version])]
    # Stable: those of the packet's IP version come first, and of each family the kernel lists the one bound last first.
    return sorted(fit, key=lambda user: (user.address != str(address), not user.interface))


def others(group: str | bytes, port: int, interface: int, own_inodes: Collection[int]) -> list[PortUser]:
    """Those of `found_by` that are not our own, with their processes; an empty list when they cannot be listed.

    Args:
        group: Text, or 4 or 16 bytes.
        port: In host byte order.
        interface: The index of the interface.
        own_inodes: Of sockets to leave out: `os.fstat(descriptor).st_ino`.
    """
    found = [user for user in found_by(group, port, interface) or () if user.inode not in own_inodes]
    return with_owners(found)


def on_port(address: str, port: int) -> list[PortUser]:
    """Every socket on the port that gets packets of the address's IP version; an empty list when they cannot be
    listed."""
    return _list(port, _address(address)) or []


def with_owners(users: list[PortUser]) -> list[PortUser]:
    """The same sockets, with the processes that could be found for them."""
    known = _owners({user.inode for user in users}) if users else {}
    return [replace(user, pid=pid, program=name) for user in users for pid, name in (known.get(user.inode, NOBODY),)]


NOBODY: tuple[None, None] = (None, None)


def describe(user: PortUser) -> str:
    """A socket in the words of a message.

    >>> describe(PortUser("239.1.1.1", 5000, 0, 1, 1000, 4711, "vlc"))
    "a socket of 'vlc' (pid 4711) bound to 239.1.1.1:5000"
    """
    where = f"[{user.address}]:{user.port}" if ":" in user.address else f"{user.address}:{user.port}"
    device = f" on {interface_name(user.interface)}" if user.interface else ""
    return f"{_owner_text(user)} bound to {where}{device}"


def _owner_text(user: PortUser) -> str:
    if user.pid is None:
        return f"a socket of user {user.uid}"
    if user.pid == os.getpid():
        return "another socket of this process"
    # A program names itself as it likes: repr() leaves no control character in it.
    return f"a socket of {user.program!r} (pid {user.pid})" if user.program else f"a socket of pid {user.pid}"


def _address(group: str | bytes) -> Address:
    address = ipaddress.ip_address(group)
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or ipaddress.IPv6Address(address.packed)  # without a zone
    return address


# The sockets ---------------------------------------------------------------------------------------------------------


def _list(port: int, address: Address) -> list[PortUser] | None:
    """The sockets on the port that may get packets of this IP version; None when neither source can be read."""
    for source in (_by_netlink, _by_proc):
        with contextlib.suppress(OSError):
            listed = (user for family in FAMILIES[address.version] for user in source(family, port, address.version))
            return list(itertools.islice(listed, MOST_SOCKETS))
    return None


def _by_netlink(family: int, port: int, version: int) -> Iterator[PortUser]:
    """As `ss -uane` asks; the kernel looks for the port. Raises OSError."""
    extensions = 1 << (INET_DIAG_SKMEMINFO - 1)
    request = REQUEST.pack(family, IPPROTO_UDP, extensions, ALL_STATES, port.to_bytes(2, "big"), b"", b"", b"", 0)
    for kind, body in dumps.dump(netlink.NETLINK_SOCK_DIAG, SOCK_DIAG_BY_FAMILY, request):
        if kind == SOCK_DIAG_BY_FAMILY and (user := parse(body, version)) is not None:
            yield user


def parse(body: memoryview, version: int) -> PortUser | None:
    """The socket in the body of one answer. Any bytes can be given.

    Returns:
        None when it is connected, when it gets no packets of this IP version, or when the body is cut short.
    """
    if len(body) < MESSAGE.size:
        return None
    family, _, _, port, peer_port, address, _, interface, _, _, _, uid, inode = MESSAGE.unpack_from(body)
    values = dict(netlink.attributes(body[MESSAGE.size :]))
    is_ipv6_only = version == 4 and bytes(values.get(INET_DIAG_SKV6ONLY, b"\0")) != b"\0"
    if peer_port != bytes(2) or is_ipv6_only:
        return None
    memory = values.get(INET_DIAG_SKMEMINFO, b"")
    user = PortUser(_text(family, address), int.from_bytes(port, "big"), interface, inode, uid)
    if len(memory) < MEMORY.size:
        return user
    queued, buffer, *_, drops = MEMORY.unpack_from(memory)
    return replace(user, queued=queued, buffer=buffer, drops=drops)


def _text(family: int, address: bytes) -> str:
    return str(_address(address[:4] if family == socket.AF_INET else address))


def _by_proc(family: int, port: int, _: int) -> Iterator[PortUser]:
    """From the table that proc(5) shows: it says neither the device that a socket is bound to, nor whether it has
    IPV6_V6ONLY. Raises OSError."""
    table = PROC / "thread-self" / "net" / TABLES[family]
    if table.parent.exists() and not table.exists():
        return  # IPv6 is switched off
    with table.open() as lines:
        for line in itertools.islice(lines, MOST_ROWS):
            with contextlib.suppress(ValueError, IndexError):  # the heading, or what no kernel writes
                fields = line.split()
                user = _parse_row(family, fields)
                if user is not None and user.port == port:
                    yield user


def _parse_row(family: int, fields: list[str]) -> PortUser | None:
    """A row of /proc/net/udp: addresses are words in native byte order, ports are hexadecimal."""
    address, port = fields[1].split(":")
    if fields[2].split(":")[1].strip("0"):
        return None  # connected
    words = [int(address[at : at + 8], 16).to_bytes(4, sys.byteorder) for at in range(0, len(address), 8)]
    queued = int(fields[4].partition(":")[2], 16)
    uid, inode, drops = int(fields[7]), int(fields[9]), int(fields[12])
    return PortUser(_text(family, b"".join(words)), int(port, 16), None, inode, uid, queued=queued, drops=drops)


# Their processes -----------------------------------------------------------------------------------------------------


def _owners(inodes: set[int]) -> dict[int, tuple[int, str | None]]:
    """Process and program for those inodes that are found within the bounds; this process is looked into first."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, tuple[int, str | None]] = {}
    deadline = time.monotonic() + OWNER_SECONDS
    for pid, target in _descriptors():
        inode = wanted.get(target)
        if inode is not None and inode not in found:
            found[inode] = (pid, _program(pid))
        if len(found) == len(wanted) or time.monotonic() > deadline:
            break
    return found


def _descriptors() -> Iterator[tuple[int, str]]:
    """Process and target of every open descriptor that may be looked at, and one without a target for each process, so
    that those which may not are counted too."""
    ours = os.getpid()
    with contextlib.suppress(OSError):
        processes = [int(entry.name) for entry in PROC.iterdir() if entry.name.isdecimal()]
        for pid in sorted(processes, key=lambda pid: (pid != ours, -pid)):
            yield pid, ""
            with contextlib.suppress(OSError), os.scandir(f"{PROC}/{pid}/fd") as entries:
                for entry in entries:
                    with contextlib.suppress(OSError):
                        yield pid, str(Path(entry).readlink())


def _program(pid: int) -> str | None:
    with contextlib.suppress(OSError):
        return os.fsdecode((PROC / str(pid) / "comm").read_bytes()).removesuffix("\n")
    return None
