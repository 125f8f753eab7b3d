"""Asks the kernel over netlink: one question, or a list whose whole answer is read (netlink(7), "dump")."""

import contextlib
import socket
from collections.abc import Iterator

from mcast_fast._host import netlink
from mcast_fast.errors import os_text

SEQUENCE = 1  # any number: each socket asks once
TIMEOUT = 1.0  # seconds; the kernel answers at once
LARGEST_REPLY = 1 << 16


@contextlib.contextmanager
def asked(protocol: int, request: bytes) -> Iterator[socket.socket]:
    """A netlink socket at which the answer of the kernel to `request` arrives, closed at the end.

    Raises:
        OSError: No netlink sockets here (also on systems without them), or a request that is refused.
    """
    if not hasattr(socket, "AF_NETLINK"):
        raise OSError("this system has no netlink sockets")
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
        sock.settimeout(TIMEOUT)
        sock.connect((0, 0))  # from now on only the kernel, port 0, can answer
        sock.send(request)
        yield sock


def dump(protocol: int, kind: int, body: bytes) -> Iterator[tuple[int, memoryview]]:
    """Type and body of each message of the answer to a request that wants a list.

    Args:
        protocol: Such as NETLINK_ROUTE.
        kind: The request's type.
        body: What follows its header.

    Yields:
        What the answer holds, one by one; an answer that is cut short ends the iteration.

    Raises:
        OSError: No netlink sockets here (also on systems without them), a request that is refused, or no answer.
    """
    with asked(protocol, netlink.request(kind, SEQUENCE, body, netlink.NLM_F_DUMP)) as sock:
        while reply := sock.recv(LARGEST_REPLY):
            for answered, sequence, content in netlink.messages(memoryview(reply)):
                if sequence != SEQUENCE:
                    continue
                if answered == netlink.NLMSG_DONE:
                    return
                if answered == netlink.NLMSG_ERROR:
                    _raise(content)
                yield answered, content


def _raise(content: memoryview) -> None:
    number = -netlink.NLMSGERR.unpack_from(content)[0] & 0x7FFF_FFFF if len(content) >= netlink.NLMSGERR.size else 0
    raise OSError(number, os_text(number))
