"""The screens of docs/command-line.md that show a host and its network: in namespaces, where these are always the same.

`python -m tests.screens` writes them with the others, as root; tests/test_screens.py compares.
"""

import re
import sys

from tests import lab
from tests.screens import Screen, shown

PROBE = "mcast-fast probe 239.9.9.9%eth0:5009 --name {} --rate 10 --burst 0 -d 1s"

LAB_SCREENS = {
    "demo-80": Screen("mcast-fast demo -c 1000"),
    "demo-none": Screen("mcast-fast demo"),
    "interfaces-80": Screen("mcast-fast interfaces"),
    "interfaces-160": Screen("mcast-fast interfaces", 160),
    "interfaces-piped": Screen("mcast-fast interfaces --json | head -3", 0),
    "doctor-80": Screen("mcast-fast doctor 239.1.1.1%eth0:5000 --seconds 100ms"),
    "doctor-error": Screen("mcast-fast doctor 239.1.1.1"),
    "probe-80": Screen(PROBE.format("hosta")),
    "probe-alone": Screen("mcast-fast probe 239.9.9.9%eth0:5009 --wait 100ms"),
    "error-interface": Screen("mcast-fast receive 239.1.1.1%eth1:5000"),
}

# What differs from run to run, and what is shown instead.
MASKS = (
    (r"\(239\.255\.77\.1:\d+\)", "(239.255.77.1:40000)"),
    (r"\(\[ff11::4d01\]:\d+\)", "([ff11::4d01]:40000)"),
    (r"[\d,]+ packets/s \([\d,]+ ns per packet\)", "400,000 packets/s (2,500 ns per packet)"),
    (r"(?<=^mcast-fast )\S+(?=, )", "0.1"),
    (r"(fast|pure) backend", "fast backend"),
)


def _beside(screen: Screen, other: lab.Host) -> lab.Program | None:
    """The program that runs on the other host meanwhile."""
    if screen.command != PROBE.format("hosta"):
        return None
    words = PROBE.format("hostb").split()
    return other.spawn([sys.executable, "-m", "mcast_fast", *words[1:]])


def all_shown() -> dict[str, list[str]]:
    """Every screen, by its name."""
    made = {}
    with lab.Lab(("a", "b")) as hosts:
        a, b = hosts.link("a", "b", names=("eth0", "eth0"))
        for name, screen in LAB_SCREENS.items():
            beside = _beside(screen, b.host)
            made[name] = [_masked(line) for line in shown(screen, 5000, a.host.namespace)]
            if beside is not None:
                beside.finish(expected=(0, 1))
    return made


def _masked(line: str) -> str:
    for pattern, instead in MASKS:
        line = re.sub(pattern, instead, line)
    return line
