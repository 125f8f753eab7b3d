"""Interfaces of Linux where netlink is refused (a sandbox, systemd's RestrictAddressFamilies=): ioctls and /proc/net.

Rules of this module: what cannot be read is left out; OSError is raised where the process is out of descriptors or
memory. Without /proc only interfaces that have an IPv4 address are known.
"""

import array
import contextlib
import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mcast_fast._core import refusals
from mcast_fast._host import ifreq

# `thread-self`: the calling thread may be in another network namespace than its process.
NETWORK = Path("/proc/thread-self/net")
MOST = 4096  # addresses that one request can list


def names() -> list[tuple[int, str]]:
    """Index and name of each interface, sorted: rows of `net/dev`, and what has an IPv4 address."""
    rows = _read("dev").splitlines()[2:]
    found = {os.fsdecode(row.partition(b":")[0].strip()) for row in rows}
    found |= {label.partition(":")[0] for label, _ in _ipv4()}
    known: list[tuple[int, str]] = []
    for name in found:
        with contextlib.suppress(OSError, ValueError):  # it vanished meanwhile
            known.append((socket.if_nametoindex(name), name))
    return sorted(known)


def addresses() -> Iterator[tuple[int, str, str]]:
    """Index, address and label of each address: SIOCGIFCONF for IPv4, `net/if_inet6` for IPv6."""
    for label, address in _ipv4():
        with contextlib.suppress(OSError, ValueError):
            yield socket.if_nametoindex(label.partition(":")[0]), address, label
    for row in _read("if_inet6").splitlines():
        packed, index, *_, name = row.split()  # 32 and 2 or more hexadecimal digits
        yield int(index, 16), str(ipaddress.IPv6Address(bytes.fromhex(packed.decode()))), os.fsdecode(name)


def _read(name: str) -> bytes:
    try:
        return (NETWORK / name).read_bytes()
    except OSError as error:
        _raise_if_exhausted(error)
        return b""


def _raise_if_exhausted(error: OSError) -> None:
    if error.errno in refusals.EXHAUSTED:
        raise error


def _ipv4() -> list[tuple[str, str]]:
    """Label and IPv4 address of each row that SIOCGIFCONF fills (netdevice(7))."""
    import fcntl  # Windows has none

    rows = array.array("B", bytes(MOST * ifreq.SIZE))
    address, size = rows.buffer_info()
    request = ifreq.LIST.pack(size, address)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            used, _ = ifreq.LIST.unpack(fcntl.ioctl(sock, ifreq.SIOCGIFCONF, request))
    except OSError as error:
        _raise_if_exhausted(error)
        return []
    filled = rows.tobytes()[:used]
    return [
        (
            os.fsdecode(filled[at : at + ifreq.NAME_SIZE].partition(b"\0")[0]),
            socket.inet_ntoa(filled[at + 20 : at + 24]),
        )
        for at in range(0, len(filled), ifreq.SIZE)
    ]
