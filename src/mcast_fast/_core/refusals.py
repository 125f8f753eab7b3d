"""What a sandbox refuses to this process, asked anew each time: a filter may come while it runs."""

import socket
from errno import EMFILE, ENFILE, ENOBUFS, ENOMEM

from mcast_fast._systems import SYSTEM
from mcast_fast.errors import os_text

EXHAUSTED = frozenset({EMFILE, ENFILE, ENOBUFS, ENOMEM})  # answers that are no refusal: little is left of something


def of_netlink() -> str:
    """What the system answers to a request for a netlink socket, with the remedy; empty where it gives one, where there
    are none, and where it is not known for the process is out of descriptors or memory."""
    if not SYSTEM.has_rtnetlink:
        return ""
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE).close()
    except OSError as error:
        if error.errno in EXHAUSTED:
            return ""
        answer = os_text(error.errno or 0)
        return f"netlink is refused here ({answer}); allow AF_NETLINK, in systemd by RestrictAddressFamilies="
    return ""
