"""Queue disciplines of an interface (tc(8)) that matter to a sender, queried by rtnetlink(7).

Rules of this module: nothing is raised; where the kernel cannot be queried, the answer is "none known".
"""

import contextlib
import struct

from mcast_fast._host import dumps, netlink

TCMSG = struct.Struct("=BxxxiIII")  # family, interface index, handle, parent, info
RTM_GETQDISC = 38
RTM_NEWQDISC = 36
TCA_KIND = 1

# Those that segment a super-packet themselves, keep what fits, drop the rest, and answer success (tbf_segment in
# net/sched/sch_tbf.c).
CUTTING = frozenset({"tbf"})


def cutting(interface_index: int) -> str:
    """The queue discipline of an interface that cuts super-packets apart and drops parts of them; '' without one."""
    return next((kind for kind in _kinds(interface_index) if kind in CUTTING), "")


def _kinds(interface_index: int) -> list[str]:
    """The kinds of all queue disciplines of an interface, of its classes too."""
    found: list[str] = []
    with contextlib.suppress(OSError):
        body = TCMSG.pack(0, interface_index, 0, 0, 0)
        for kind, message in dumps.dump(netlink.NETLINK_ROUTE, RTM_GETQDISC, body):
            if kind != RTM_NEWQDISC or len(message) < TCMSG.size or TCMSG.unpack_from(message)[1] != interface_index:
                continue
            for number, value in netlink.attributes(message[TCMSG.size :]):
                if number == TCA_KIND:
                    found.append(bytes(value).rstrip(b"\0").decode(errors="replace"))
    return found
