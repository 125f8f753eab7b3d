"""The machine that a benchmark ran on, and whether it had it for itself."""

import os
import platform
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

# More than this of one core, taken by others, shows in the figures of a machine with two.
TOLERATED_SHARE = 0.05
PACKAGES = ("mcast-fast", "numpy", "uvloop", "multicast_expert", "spead2", "cypcap", "pcapy-ng")


def description() -> dict[str, Any]:
    return {
        "system": platform.system(),
        "release": platform.release(),
        "architecture": platform.machine(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": versions(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def processor() -> str | None:
    """As the kernel names it: proc_cpuinfo(5)."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            return value.strip()
    return None


def versions() -> dict[str, str]:
    """Of everybody who took part and is installed."""
    found = {}
    for name in PACKAGES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def busy_seconds() -> float:
    """CPU time that all processes of the machine had since boot, and what the hypervisor took: proc_stat(5)."""
    fields = Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    user, nice, system, _idle, _iowait, irq, softirq, steal = (int(value) for value in fields)
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def own_seconds() -> float:
    """CPU time of this process and of its children that have ended."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


@contextmanager
def watched(notes: list[str]) -> Iterator[None]:
    """Notes how much of a core others used during the block; every process of ours has to end inside it."""
    start, busy, own = time.monotonic(), busy_seconds(), own_seconds()
    yield
    others = (busy_seconds() - busy - (own_seconds() - own)) / (time.monotonic() - start)
    doubt = ": it was not quiet, measure again" if others > TOLERATED_SHARE else ""
    notes.append(f"other processes had {max(0.0, others):.0%} of a core meanwhile{doubt}")
