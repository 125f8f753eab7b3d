"""Counters of this host's network stack: what was lost where no socket knows of it; proc(5), RFC 4113, RFC 4293.

Of the calling thread's network namespace. Nothing is raised; what cannot be read is left out.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

from mcast_fast.stats import HostCounters

NET = Path("/proc/thread-self/net")  # /proc/net is of the process, whose threads may be in several namespaces
TABLES = ("snmp", "netstat")  # pairs of lines: names, and values

Counters = Mapping[str, int]

# A field of HostCounters, and what is added up for it. Linux adds what a device missed to what it dropped
# (rtnl_link_stats64, net/core/net-procfs.c).
SUMS = {
    "checksum_errors": ("Udp.InCsumErrors", "Udp6InCsumErrors"),
    "reassembly_failures": ("Ip.ReasmFails", "Ip6ReasmFails"),
    "backlog_drops": ("softnet.dropped",),
}


def host_counters() -> HostCounters:
    """Read what this host lost of received packets before any socket; take it twice, and the difference.

        before = mcast_fast.host_counters()
        with mcast_fast.Receiver("239.1.1.1:5000") as rx:
            ...
            lost_elsewhere = mcast_fast.host_counters() - before

    They are of the host, not of a receiver: packets of other programs and protocols count too. So they explain what is
    missing in `Receiver.stats`, and do not add up with it.

    Returns:
        The counters of the calling thread's network namespace since it exists; None where the system has none (systems
        other than Linux, or no /proc).
    """
    found = read(tables=("snmp",))
    sums = {field: _sum(found, names) for field, names in SUMS.items()}
    nic = [value for name, value in found.items() if name.startswith("dev.") and name.endswith(".dropped")]
    return HostCounters(**sums, nic_drops=sum(nic) if nic else None)


def _sum(found: Counters, names: tuple[str, ...]) -> int | None:
    known = [found[name] for name in names if name in found]
    return sum(known) if known else None


def read(tables: tuple[str, ...] = TABLES) -> Counters:
    """The stack's counters by name: "Udp.InCsumErrors", "Udp6InErrors", "dev.eth0.packets", "softnet.dropped"."""
    found: dict[str, int] = {}
    for table in tables:
        found |= _pairs(text(NET / table))
    for line in text(NET / "snmp6").splitlines():
        name, _, value = line.partition(" ")
        _put(found, name, value)
    for line in text(NET / "dev").splitlines()[2:]:
        name, _, rest = line.partition(":")
        values = rest.split()
        if len(values) > 7:
            _put(found, f"dev.{name.strip()}.packets", values[1])
            _put(found, f"dev.{name.strip()}.dropped", values[3])
            _put(found, f"dev.{name.strip()}.multicast", values[7])
    rows = [line.split() for line in text(NET / "softnet_stat").splitlines()]
    with contextlib.suppress(ValueError, IndexError):
        if rows:
            found["softnet.dropped"] = sum(int(row[1], 16) for row in rows)
    return found


def _pairs(content: str) -> dict[str, int]:
    found: dict[str, int] = {}
    lines = content.splitlines()
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        group = names.partition(":")[0]
        for name, value in zip(names.split()[1:], values.split()[1:], strict=False):
            _put(found, f"{group}.{name}", value)
    return found


def _put(found: dict[str, int], name: str, value: str) -> None:
    with contextlib.suppress(ValueError):
        found[name] = int(value)


def text(path: Path) -> str:
    """The contents of a file; empty when it cannot be read."""
    try:
        return path.read_text(errors="surrogateescape")  # as os.fsdecode() reads the names of interfaces
    except OSError:
        return ""
