"""What a doctor reads of this machine beside `_host`: memberships, settings, the rules of a firewall.

Of the calling thread's network namespace. Nothing is raised; what cannot be read is left out, or None with the reason.
"""

import contextlib
import ipaddress
import json
import shutil
import subprocess
import sys
from pathlib import Path

from mcast_fast._host.stack_counters import NET, Counters, text
from mcast_fast.doctor._rules import Ruleset

SETTINGS = Path("/proc/sys/net")
LISTED = (
    *("igmp", "igmp6", "mcfilter", "mcfilter6", "ip_mr_cache", "ip_mr_vif"),
    *("udp", "udp6", "dev", "snmp", "snmp6", "netstat", "softnet_stat"),
)
CONFIGURED = ("rp_filter", "force_igmp_version", "force_mld_version", "mc_forwarding", "disable_ipv6")
LIMITS = (
    *("ipv4/igmp_max_memberships", "ipv4/igmp_max_msf", "ipv6/mld_max_msf"),
    *("core/rmem_max", "core/rmem_default", "core/optmem_max"),
)
NFT_SECONDS = 10
LEGACY = "ip_tables_names"


def joined() -> dict[str, set[str]]:
    """The groups that are joined here, each with the names of its interfaces: /proc/net/igmp and igmp6."""
    found: dict[str, set[str]] = {}
    device = ""
    for line in text(NET / "igmp").splitlines()[1:]:
        words = line.split()
        if not line.startswith("\t"):
            device = words[1] if len(words) > 1 else ""
        elif words and (group := address_in_memory(words[0])):
            found.setdefault(group, set()).add(device)
    for line in text(NET / "igmp6").splitlines():
        words = line.split()
        with contextlib.suppress(ValueError, IndexError):
            found.setdefault(str(ipaddress.IPv6Address(bytes.fromhex(words[2]))), set()).add(words[1])
    return found


def address_in_memory(digits: str) -> str:
    """An IPv4 address that a table of proc(5) shows as the number in memory; empty when it is none."""
    try:
        return str(ipaddress.IPv4Address(int(digits, 16).to_bytes(4, sys.byteorder)))
    except (ValueError, OverflowError):
        return ""


def grown(name: str, before: Counters, after: Counters) -> int:
    """By how much a counter grew; 0 where there is none."""
    return after.get(name, 0) - before.get(name, 0)


def setting(name: str) -> int | None:
    """A sysctl of the network by its path below net/, such as "ipv4/conf/all/rp_filter"; None when it is not there."""
    try:
        return int((SETTINGS / name).read_text())
    except (OSError, ValueError):
        return None


def rules(*, with_text: bool) -> tuple[Ruleset | None, str, str]:
    """The rules of nftables, why they are not known, and their text with handles where that is wanted."""
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if program is None:
        return None, "the program nft is not installed", ""
    try:
        listed = _run(program, "-j", "list", "ruleset")
        shown = _run(program, "-a", "list", "ruleset") if with_text else ""
        return Ruleset.parse(json.loads(listed)), _legacy(), shown
    except (OSError, ValueError, KeyError, TypeError, subprocess.SubprocessError) as error:
        words = str(getattr(error, "stderr", "") or error).strip().splitlines() or [type(error).__name__]
        return None, f"`nft list ruleset` answers: {words[0]}", ""


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace", timeout=NFT_SECONDS, check=True)
    return done.stdout


def _legacy() -> str:
    """Why nft does not show all rules; empty when it does."""
    names = [name for file in (LEGACY, LEGACY.replace("ip_", "ip6_")) for name in text(NET / file).split()]
    return (
        f"iptables-legacy has tables ({', '.join(sorted(set(names)))}), whose rules are not examined" if names else ""
    )


def files() -> dict[str, str]:
    """What a bundle holds of /proc, by name."""
    found = {f"proc/net/{name}": text(NET / name) for name in LISTED}
    for kind in ("ipv4", "ipv6"):
        for path in sorted((SETTINGS / kind / "conf").glob("*/*")):
            if path.name in CONFIGURED:
                found[f"proc/sys/net/{kind}/conf/{path.parent.name}/{path.name}"] = text(path)
    for name in LIMITS:
        found[f"proc/sys/net/{name}"] = text(SETTINGS / name)
    return {name: content for name, content in found.items() if content}


def can_administer() -> bool:
    """Whether this process has CAP_NET_ADMIN, capabilities(7)."""
    for line in text(Path("/proc/thread-self/status")).splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> 12 & 1)
    return False
