"""The host: its backend and what a sandbox refuses."""

import os
import shlex
import socket
import sys
from collections.abc import Iterator

from mcast_fast import _core
from mcast_fast._systems import SYSTEM
from mcast_fast.doctor._context import Context
from mcast_fast.doctor._finding import Finding
from mcast_fast.doctor._listening import NO_FAMILY
from mcast_fast.errors import SocketError, os_text

# What a sandbox has to allow, as systemd.exec(5) writes it; packet sockets where interfaces are looked at.
FAMILIES_LINE = "RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK"
PACKETS_TOO = " AF_PACKET"
FAMILIES_ADVICE = (
    "In the [Service] section of the unit (`systemctl edit SERVICE`), then restart it; a container's seccomp profile "
    "has to allow these families."
)


def family(context: Context) -> Iterator[Finding]:
    """Whether sockets of the group's address family may be opened."""
    error = context.listening.refusal
    if isinstance(error, SocketError) and error.errno in NO_FAMILY:
        yield Finding(
            "host.family-refused",
            "problem",
            "sockets of the group's address family are refused, by a sandbox or by a kernel without it",
            (str(error),),
            FAMILIES_LINE,
            FAMILIES_ADVICE + " A kernel that was booted with ipv6.disable=1 has no IPv6.",
        )


def netlink(context: Context) -> Iterator[Finding]:
    """Whether netlink sockets may be opened: without them changes of interfaces are not seen, and little is known."""
    if not SYSTEM.has_rtnetlink:
        yield Finding(
            "host.unsupported",
            "unknown",
            f"{SYSTEM.name} shows few of the states that are examined",
            advice="Routes, memberships, firewalls and sockets of others are read on Linux only.",
        )
        return
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).close()
    except OSError as error:
        yield Finding(
            "host.netlink-refused",
            "warning",
            "a sandbox refuses netlink sockets: watch=True fails, and what is read by them is not examined",
            (f"socket(AF_NETLINK) answers: {os_text(error.errno or 0)}",),
            FAMILIES_LINE + PACKETS_TOO * context.needs_ring,
            FAMILIES_ADVICE,
        )


def ring(context: Context) -> Iterator[Finding]:
    """Whether packet sockets may be opened, which a ring and looking at interfaces need."""
    if not (context.feeds or context.surveyed) or not (fault := context.listening.wire_fault):
        return
    command = f"setcap cap_net_raw+ep {shlex.quote(os.path.realpath(sys.executable))}"
    advice = "As root, and for every program that this Python runs; or run the program as root, or in a container with "
    advice += "--cap-add NET_RAW."
    if context.listening.wire_errno in NO_FAMILY:
        command, advice = FAMILIES_LINE + PACKETS_TOO, FAMILIES_ADVICE
    if context.needs_ring:
        yield Finding(
            "host.no-cap-net-raw",
            "problem",
            "a ring cannot be opened: packet sockets are refused",
            (fault,),
            command,
            advice,
        )
    yield Finding(
        "packets.unseen",
        "unknown",
        "whether packets reach the interface was not examined",
        (fault,),
        command if SYSTEM.has_rtnetlink else "",
        advice + " Then run the doctor again.",
    )


def _advice(remedy: str) -> str:
    if remedy:
        return f"{remedy[0].upper()}{remedy[1:]}."
    return "Let the library choose its backend; CPython has the compiled one."


def backend(context: Context) -> Iterator[Finding]:
    """Which backend runs."""
    evidence: tuple[str, ...] = (
        f"mcast_fast.backend is {_core.backend!r}",
        f"{SYSTEM.name}, Python {sys.version.split()[0]}",
    )
    if _core.backend != "fast":
        reason = _core.features()["fast"].reason
        yield Finding(
            "host.pure-backend",
            "warning",
            "the pure backend runs, which is several times slower",
            (*evidence, *([reason] if reason else [])),
            advice=_advice(_core.remedy()),
        )
    elif context.interfaces:
        up = [one.name for one in context.interfaces if one.is_up]
        evidence += (f"up: {', '.join(up)}",)
        yield Finding("host.ready", "ok", "the backend and the interfaces are usable", evidence)


CHECKS = (netlink, family, ring, backend)
