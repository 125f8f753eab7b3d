"""One examination: what is read and received, all checks over it, and their findings in order."""

import json
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from mcast_fast import _core
from mcast_fast._host.interfaces import find_interface
from mcast_fast._units import Seconds, wait_in_ns
from mcast_fast._version import __version__
from mcast_fast.doctor import (
    _buffers,
    _clock,
    _containers,
    _firewall,
    _host,
    _interface,
    _membership,
    _packets,
    _readings,
    _routing,
    _sender,
    _switch,
)
from mcast_fast.doctor._context import Check, Context
from mcast_fast.doctor._feeds import feeds_of
from mcast_fast.doctor._finding import Finding, Report, ranked
from mcast_fast.errors import unwarned
from mcast_fast.groups import Groups, listed

CHECKS: tuple[Check, ...] = (
    *_host.CHECKS,
    *_interface.CHECKS,
    *_membership.CHECKS,
    *_routing.CHECKS,
    *_firewall.CHECKS,
    *_packets.CHECKS,
    *_buffers.CHECKS,
    *_sender.CHECKS,
    *_switch.CHECKS,
    *_clock.CHECKS,
    *_containers.CHECKS,
)

# What is left out for a group where something else explains it: any problem but silence itself, or one of these.
ANY = "any problem"
EXPLAINED: Mapping[str, tuple[str, ...]] = {
    "packets.none": (ANY,),
    "packets.stopped": ("switch.querier-silent",),
    "packets.received": ("interface.nic-filter",),
    "packets.fragments-lost": ("firewall.drops-fragments", "firewall.drops-udp"),
    "switch.no-querier": ("switch.querier-silent",),
    "containers.network": (ANY,),
    "containers.cloud": (ANY,),
    "membership.wrong-interface": ("membership.bridge-port",),
    "membership.refused": ("interface.missing", "interface.no-ipv6"),
}

SECONDS = 10.0
PROGRAM_SECONDS = 10.0
PROGRAMS = (
    ("ip", "-d", "address"),
    ("ip", "route", "show", "table", "all"),
    ("ip", "-6", "route", "show", "table", "all"),
    ("ip", "rule"),
    ("ip", "maddress"),
    ("bridge", "-d", "mdb"),
    ("ss", "-uanpe"),
    ("nft", "-a", "list", "ruleset"),
    ("tc", "-s", "qdisc"),
)


def examine(
    groups: Groups = (),
    *,
    interface: str | int | None = None,
    port: int | None = None,
    seconds: Seconds = SECONDS,
    watch: bool = False,
    ring: bool = False,
    spread: bool = True,
) -> Report:
    """Examine why packets of groups do not arrive here, and say what cures it.

    It reads the state of this host (interfaces, memberships, routes, firewall, sockets, counters) and, where groups are
    given, joins them and listens: at the interfaces (packet(7), which needs CAP_NET_RAW), and by a receiver. Groups
    that do not come by half of the time it joins on every interface too, from any source, to find where they arrive.
    For those that do not come by three quarters of it, their interface takes all groups, for a moment (allmulticast).
    It changes nothing else, sends nothing but the reports of these memberships, and prints nothing. What may not be
    looked at is a finding whose verdict is "unknown", with the reason.

    Args:
        groups: What does not arrive: a text in the grammar of `Group.parse`, a Group, or a sequence of them, 256 at
            most. Without any an interface is examined that is named, and which groups arrive there; or the host alone,
            without listening.
        interface: A name, an index or an address, for groups that name none.
        port: For groups that name none.
        seconds: For how long it listens at most, or text such as "500ms". It ends earlier, after a second, when enough
            has come to decide.
        watch: Listen for the whole time, and say when and why the packets stopped, if they do.
        ring: Whether the program is to have a ring (`Receiver(ring=…)`), which needs a privilege.
        spread: Whether the program spreads groups over several sockets, as a Receiver does; False: one socket, whose
            limits are faults then.

    Returns:
        A Report, with problems first.

    Raises:
        GroupError: A text is no multicast group.
        InterfaceError: Without groups: there is no such interface.
        ArgumentError: A group has no port; there are too many; or seconds is no time.
    """
    return examined(
        groups, lambda: False, interface=interface, port=port, seconds=seconds, watch=watch, ring=ring, spread=spread
    )


examine.__module__ = "mcast_fast.doctor"


def examined(
    groups: Groups,
    is_over: Callable[[], bool],
    *,
    interface: str | int | None,
    port: int | None,
    seconds: Seconds,
    watch: bool,
    ring: bool,
    spread: bool,
) -> Report:
    """The same, ending early when `is_over` says so: a signal handler cannot return from within."""
    wait = wait_in_ns(seconds, "seconds") / 1e9
    with unwarned():  # what the library would warn of is a finding
        wanted = listed((groups,))
        feeds = feeds_of(wanted, interface, port) if wanted else []
        surveyed = find_interface(interface) if interface is not None and not wanted else None
        context = Context.gathered(feeds, surveyed, wait, is_over, is_watch=watch, needs_ring=ring, spread=spread)
        findings = ranked(_relevant([finding for check in CHECKS for finding in check(context)]))
        report = Report(findings, context.listening.seconds)
        return replace(report, readings=_readings_of(report, context))


def _relevant(findings: list[Finding]) -> list[Finding]:
    """Without those that others explain: of the same group, or where one of both is of the host."""
    known: dict[str, set[str]] = {"": set()}
    for one in findings:
        is_cause = one.verdict == "problem" and one.id != "packets.none"
        known.setdefault(one.group, set()).update((one.id, ANY) if is_cause else (one.id,))
    everywhere = set().union(*known.values())
    return [
        one
        for one in findings
        if not (known[""] | known[one.group] if one.group else everywhere).intersection(EXPLAINED.get(one.id, ()))
    ]


def _readings_of(report: Report, context: Context) -> dict[str, str]:
    """What a bundle holds."""
    features = {name: str(one.reason or "on") for name, one in _core.features().items()}
    about: dict[str, Any] = {
        "version": __version__,
        "backend": _core.backend,
        "features": features,
        "python": sys.version,
        "platform": platform.platform(),
        "interfaces": [repr(one) for one in context.interfaces],
        "joined": [feed.text for feed in context.feeds],
        "frames": {feed.text: {str(frame): count for frame, count in feed.frames.items()} for feed in context.feeds},
        "queries and reports": [repr(one) for one in context.listening.controls],
        "traffic": [f"{key}: {count}" for key, count in context.listening.traffic.items()],
        "counters that grew": {name: count for name in context.after.counters if (count := context.grown(name))},
    }
    return {
        "report.json": json.dumps(report.as_dict(), indent=2),
        "about.json": json.dumps(about, indent=2),
        **_readings.files(),
    }


def programs() -> dict[str, str]:
    """What the system's own programs print, for a bundle."""
    found = {}
    for argv in PROGRAMS:
        program = shutil.which(argv[0]) or shutil.which(argv[0], path="/usr/sbin:/sbin")
        if program is None:
            continue
        try:
            done = subprocess.run(
                (program, *argv[1:]),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=PROGRAM_SECONDS,
                check=False,
            )
            found[f"{'-'.join(argv).replace('--', '-')}.txt"] = done.stdout + done.stderr
        except (OSError, subprocess.SubprocessError) as error:
            found[f"{argv[0]}.txt"] = str(error)
    return found
