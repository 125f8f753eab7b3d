"""Which version of IGMP or MLD the kernel speaks on an interface: source filters need IGMPv3 (RFC 3376) and MLDv2 (RFC
3810).

Under an older version a source-specific join silently becomes an any-source one on the network: the source filter
holds on this machine only. Linux reports both a version that was forced and, for IPv4, the version of the querier; an
MLDv1 querier shows nowhere.
"""

import re
import shlex
from pathlib import Path

SETTINGS = Path("/proc/sys/net")
# `thread-self`: the calling thread may be in another network namespace than its process.
MEMBERSHIPS = Path("/proc/thread-self/net/igmp")

COMMAND = re.compile(r"`(sysctl [^`]+)`")

# By IP version: the setting, the newest version with no source filters, and its name.
FORCED = {4: ("ipv4/conf/{}/force_igmp_version", 2, "IGMPv{}"), 6: ("ipv6/conf/{}/force_mld_version", 1, "MLDv{}")}


def obstacle(version: int, interface: str) -> str:
    """Why source-specific joins reach the network as any-source ones here; empty when nothing says so."""
    setting, newest, name = FORCED[version]
    for scope in (interface, "all"):
        number = _forced(SETTINGS / setting.format(scope))
        if 0 < number <= newest:
            # sysctl(8): a dot in an interface's name is written as a slash
            sysctl = "net." + setting.replace("/", ".").format(scope.replace(".", "/")) + "=0"
            return f"{name.format(number)} is forced; `sysctl -w {shlex.quote(sysctl)}` lifts that"
    if version == 4 and (heard := _querier(interface)) in ("V1", "V2"):
        return f"the querier on {interface} uses IGMP{heard.lower()}; it must use IGMPv3"
    return ""


def lift(reason: str) -> str:
    """The command in an `obstacle`, empty where another host is the cause."""
    return found[1] if (found := COMMAND.search(reason)) else ""


def _forced(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0


def _querier(interface: str) -> str:
    """The version in the table of memberships: 'Idx Device : Count Querier', and rows of groups below each."""
    try:
        lines = MEMBERSHIPS.read_text(errors="surrogateescape").splitlines()[1:]
    except OSError:
        return ""
    devices = (line.replace(":", " ").split() for line in lines if not line.startswith("\t"))
    return next((row[3] for row in devices if len(row) > 3 and row[1] == interface), "")
