"""Queue disciplines of an interface (tc(8)) that matter to a sender, queried by rtnetlink(7).

Rules of this module: nothing is raised; where the kernel cannot be queried, the answer is "none known".
"""

import contextlib
import socket
import struct

from mcast_fast._host import netlink

TCMSG = struct.Struct("=BxxxiIII")  # family, interface index, handle, parent, info
RTM_GETQDISC = 38
RTM_NEWQDISC = 36
TCA_KIND = 1
TIMEOUT = 1.0  # seconds; the kernel answers at once
LARGEST_REPLY = 1 << 16

# Those that segment a super-packet themselves, keep what fits, drop the rest, and answer success (tbf_segment in
# net/sched/sch_tbf.c).
CUTTING = frozenset({"tbf"})


def cutting(interface_index: int) -> str:
    """The queue discipline of an interface that cuts super-packets apart and drops parts of them; '' without one."""
    return next((kind for kind in _kinds(interface_index) if kind in CUTTING), "")


def _kinds(interface_index: int) -> list[str]:
    """The kinds of all queue disciplines of an interface, of its classes too."""
    found: list[str] = []
    if not hasattr(socket, "AF_NETLINK"):
        return found
    with contextlib.suppress(OSError), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as asked:
        asked.settimeout(TIMEOUT)
        body = TCMSG.pack(0, interface_index, 0, 0, 0)
        asked.send(netlink.request(RTM_GETQDISC, 1, body, netlink.NLM_F_DUMP))
        while _read(asked.recv(LARGEST_REPLY), interface_index, found):
            pass
    return found


def _read(reply: bytes, interface_index: int, found: list[str]) -> bool:
    """Adds the kinds that a part of the reply names; whether more is to come."""
    for kind, _, body in netlink.messages(memoryview(reply)):
        if kind != RTM_NEWQDISC:
            return False  # NLMSG_DONE, or an error
        if len(body) < TCMSG.size or TCMSG.unpack_from(body)[1] != interface_index:
            continue
        for number, value in netlink.attributes(body[TCMSG.size :]):
            if number == TCA_KIND:
                found.append(bytes(value).rstrip(b"\0").decode(errors="replace"))
    return bool(reply)
