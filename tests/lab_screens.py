"""The screens of docs/command-line.md that show a host and its network: in a namespace, where these are always the same.

`python -m tests.screens` writes them with the others, as root; tests/test_screens.py compares.
"""

import re
import shlex
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import dropwhile, takewhile

from tests import lab
from tests.screens import SOURCE, Screen, shown

PROBE = "mcast-fast probe 239.9.9.9%eth0:5009 --for 1s --burst 0 --name hosta"  # another host runs it too
LAB_SCREENS = {
    "demo-80": Screen("mcast-fast demo -c 1000"),
    "interfaces-80": Screen("mcast-fast interfaces"),
    "interfaces-160": Screen("mcast-fast interfaces", 160),
    "interfaces-piped": Screen("mcast-fast interfaces --json | head -4", 0),
    "doctor-80": Screen("mcast-fast doctor 239.1.1.1%eth0:5000 --seconds 1s"),
    "doctor-error": Screen("mcast-fast doctor 239.1.1.1"),
    "probe-alone": Screen("mcast-fast probe 239.9.9.9%eth0:5009 --wait 100ms --name hosta"),
    "probe-two": Screen(PROBE),
    "probe-two-160": Screen(PROBE, 160),
    "demo-160": Screen("mcast-fast demo -c 1000", 160),
    "doctor-160": Screen("mcast-fast doctor 239.1.1.1%eth0:5000 --seconds 1s", 160),
    "error-interface": Screen("mcast-fast receive 239.1.1.1%eth1:5000"),
}
CONTAINER = "warning   containers."  # a finding where the tests run in one

# What differs from run to run, and what is shown instead.
MASKS = (
    (r"\(239\.255\.77\.1:\d+\)", "(239.255.77.1:40000)"),
    (r"\(\[ff11::4d01\]:\d+\)", "([ff11::4d01]:40000)"),
    (r"[\d,]+ packets/s \([\d,]+ ns per packet\)", "400,000 packets/s (2,500 ns per packet)"),
    (r"(?<=^mcast-fast )[\d.]+\S*(?=, )", "0.1.0"),
    (r"(?<=Python )3\.[\d.]+", "3.13"),
    (r"(?<=istened for )[\d.]+ s", "1.0 s"),
    (r"(?<=within )[\d.]+ s", "0.1 s"),
    (r"^1 problem, 1 warning\.", "1 problem."),
    (r"(?<=is heard, by )(multicast|unicast)", "multicast"),
    (r"^(host. > host. +)(\d+/\d+) +(\d+/\d+) +\d+ +(?=0)", r"\1    20/20    20/20        0    "),
    (r"^(from > to {6}largest  burst) .*", r"\1   delay  spread  round trip"),
    (r"^(host. > host. {3}65,507 +\?) .*", r"\1  250 us  410 us     1.27 ms"),
    (r"(?<=hosts, )\d+ s:", "1 s:"),
)


def all_shown() -> dict[str, list[str]]:
    """Every screen, by its name."""
    with lab.Lab(("a", "b")) as hosts:
        a, b = hosts.link("a", "b", names=("eth0", "eth0"))
        a.host.run("ip", "-6", "address", "flush", "dev", "eth0", "scope", "link")  # which differ from run to run
        made = {}
        with ThreadPoolExecutor(4) as pool:
            alone = [name for name, screen in LAB_SCREENS.items() if screen.command != PROBE]
            of_each = pool.map(lambda name: _masked(shown(LAB_SCREENS[name], 5000, a.host.namespace)), alone)
            made |= dict(zip(alone, of_each, strict=True))
        for name in ("probe-two", "probe-two-160"):  # one after the other: what one loses, the other would show
            peer = [sys.executable, "-m", "mcast_fast", *shlex.split(PROBE.replace("hosta", "hostb"))[1:]]
            program = b.host.spawn(["env", f"PYTHONPATH={SOURCE}", *peer])
            made[name] = _masked(shown(LAB_SCREENS[name], 5000, a.host.namespace))
            program.finish(timeout=100)
        return made


def _masked(lines: list[str]) -> list[str]:
    before = list(takewhile(lambda line: not line.startswith(CONTAINER), lines))
    behind = list(dropwhile(lambda line: line.startswith(("    ", CONTAINER)), lines[len(before) :]))
    found = []
    for line in before + behind:
        for pattern, instead in MASKS:
            line = re.sub(pattern, instead, line)
        found.append(line.rstrip())
    return found
