"""What a doctor reads of this machine beside `_host`: memberships, settings, the rules of a firewall.

Of the calling thread's network namespace. Nothing is raised; what cannot be read is left out, or None with the reason.
"""

import contextlib
import errno
import ipaddress
import json
import shutil
import subprocess
import sys
from pathlib import Path

from mcast_fast._host.interfaces import interface_name
from mcast_fast._host.stack_counters import NET, Counters, text
from mcast_fast.doctor._rules import Rule, Ruleset

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


def joined() -> dict[str, dict[str, int]]:
    """The groups that are joined here, by interface, with how many sockets did: /proc/net/igmp and igmp6."""
    found: dict[str, dict[str, int]] = {}
    device = ""
    for line in text(NET / "igmp").splitlines()[1:]:
        words = line.replace(":", " ").split()  # it stands right behind a name of ten letters or more
        if not line.startswith("\t"):
            device = words[1] if len(words) > 1 else ""
        elif len(words) > 1 and words[1].isdecimal() and (group := address_in_memory(words[0])):
            found.setdefault(group, {})[device] = int(words[1])
    for line in text(NET / "igmp6").splitlines():
        words = line.split()
        with contextlib.suppress(ValueError, IndexError):
            group = str(ipaddress.IPv6Address(bytes.fromhex(words[2])))
            found.setdefault(group, {})[words[1]] = int(words[3])
    return found


def included() -> dict[tuple[str, str], dict[str, int]]:
    """By group and interface: sources, with how many sockets want them alone; /proc/net/mcfilter and mcfilter6."""
    found: dict[tuple[str, str], dict[str, int]] = {}
    for table in ("mcfilter", "mcfilter6"):
        for line in text(NET / table).splitlines():
            with contextlib.suppress(ValueError, IndexError):  # the heading
                index, *_, group, source, wanted, _ = line.split()  # the name between them is cut short
                key = _address(group), interface_name(int(index))
                if int(wanted):
                    found.setdefault(key, {})[_address(source)] = int(wanted)
    return found


def _address(digits: str) -> str:
    """An address in network order, as 0x and 8 digits, or 32; ValueError."""
    return str(ipaddress.ip_address(bytes.fromhex(digits.removeprefix("0x"))))


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


def rules() -> tuple[Ruleset | None, str]:
    """The rules of nftables, and why they are not known, or not all of them."""
    try:
        return Ruleset.parse(json.loads(_nft("-j", "list", "ruleset"))), _legacy()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, subprocess.SubprocessError) as error:
        if isinstance(error, FileNotFoundError):
            return None, "the program nft is not installed"
        words = str(getattr(error, "stderr", "") or error).strip().splitlines() or [type(error).__name__]
        return None, f"`nft list ruleset` answers: {words[0]}"


def rule_text(rule: Rule) -> str:
    """A rule as `nft -a` shows it; its handle where that cannot be read."""
    if not rule.handle:
        return "policy drop"
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        listed = _nft("-a", "list", "chain", rule.family, rule.table, rule.chain)
        for line in listed.splitlines():
            if line.endswith(f"# handle {rule.handle}"):
                return line.strip()
    return f"handle {rule.handle}"


def _nft(*arguments: str) -> str:
    program = shutil.which("nft") or shutil.which("nft", path="/usr/sbin:/sbin")
    if program is None:
        raise FileNotFoundError(errno.ENOENT, "the program nft is not installed")
    done = subprocess.run(
        (program, *arguments), capture_output=True, text=True, errors="replace", timeout=NFT_SECONDS, check=True
    )
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
