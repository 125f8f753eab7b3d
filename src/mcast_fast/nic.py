"""What interfaces lost before any socket could have it: their own drop counters, rtnetlink(7), RTM_GETSTATS.

Rules of this room: counts of a whole interface, packets of others included. It asks in the network namespace of the
thread that opened it, whichever thread reads.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Iterable

from mcast_fast import netlink

RTM_NEWSTATS = 92
RTM_GETSTATS = 94
IF_STATS_MSG = struct.Struct("=BxxxII")  # family, index, which statistics are wanted
IFLA_STATS_LINK_64 = 1
LINK_STATS = struct.Struct("=16Q")  # the first of struct rtnl_link_stats64
RX_DROPPED, RX_MISSED = 6, 15
LARGEST_MESSAGE = 1 << 14


def parse(reply: bytes) -> int | None:
    """Packets that an interface received and lost: dropped by the device or its driver, or missed for want of buffers;
    None when the reply does not say. Any bytes can be given."""
    for kind, _, body in netlink.messages(memoryview(reply)):
        if kind == RTM_NEWSTATS and len(body) >= IF_STATS_MSG.size:
            told = dict(netlink.attributes(body[IF_STATS_MSG.size :])).get(IFLA_STATS_LINK_64, b"")
            if len(told) >= LINK_STATS.size:
                counts = LINK_STATS.unpack_from(told)
                return int(counts[RX_DROPPED] + counts[RX_MISSED])
    return None


class NicDrops:
    """How many packets interfaces lost since they were first asked for."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._first: dict[int, int] = {}
        self._latest: dict[int, int] = {}
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError, AttributeError):  # a sandbox, or a system, without netlink sockets
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.settimeout(1.0)

    def total(self, interfaces: Iterable[int]) -> int | None:
        """Lost by these, and by those asked for before; None where the system does not say."""
        with self._lock:
            for index in interfaces:
                count = self._ask(index)
                if count is not None:
                    self._first.setdefault(index, count)
                    self._latest[index] = count
            if not self._latest:
                return None
            return sum(self._latest[index] - first for index, first in self._first.items())

    def close(self) -> None:
        """Closing again does nothing."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
                self._socket = None

    def _ask(self, index: int) -> int | None:
        if self._socket is None:
            return None
        body = IF_STATS_MSG.pack(socket.AF_UNSPEC, index, 1 << (IFLA_STATS_LINK_64 - 1))
        try:
            self._socket.send(netlink.request(RTM_GETSTATS, 0, body))  # answered before this returns
            return parse(self._socket.recv(LARGEST_MESSAGE))
        except OSError:
            return None
