"""What interfaces lost before any socket could have it: their own drop counters, rtnetlink(7), RTM_GETSTATS.

Counts of a whole interface, packets of others included. It queries in the network namespace of the
thread that opened it, whichever thread reads.
"""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterable

from mcast_fast._core.lifetime import close_all
from mcast_fast._host import netlink

RTM_NEWSTATS = 92
RTM_GETSTATS = 94
IF_STATS_MSG = struct.Struct("=BxxxII")  # family, index, which statistics are wanted
IFLA_STATS_LINK_64 = 1
LINK_STATS = struct.Struct("=16Q")  # the first of struct rtnl_link_stats64
RX_DROPPED, RX_MISSED = 6, 15
LARGEST_MESSAGE = 1 << 14
FRESH = 0.1  # seconds for which counters are taken to stay
TIMEOUT = 1.0  # seconds; the kernel answers within send(2), so this only guards against imitations of it


def parse(reply: bytes, number: int | None = None) -> int | None:
    """Packets that an interface received and lost: dropped by the device or its driver, or missed for want of buffers;
    None when the reply does not say. `number`: of the request that is to be answered. Any bytes can be given."""
    for kind, sequence, body in netlink.messages(memoryview(reply)):
        if kind == RTM_NEWSTATS and number in (None, sequence) and len(body) >= IF_STATS_MSG.size:
            counters = dict(netlink.attributes(body[IF_STATS_MSG.size :])).get(IFLA_STATS_LINK_64, b"")
            if len(counters) >= LINK_STATS.size:
                counts = LINK_STATS.unpack_from(counters)
                return int(counts[RX_DROPPED] + counts[RX_MISSED])
    return None


def answers(reply: bytes, number: int) -> bool:
    """Whether a reply is to the request of this number. Any bytes can be given."""
    return any(sequence == number for _, sequence, _ in netlink.messages(memoryview(reply)))


class NicDrops:
    """How many packets interfaces lost since they were first queried.

    They are queried at most every FRESH seconds. A signal handler that runs meanwhile gets the last values."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._is_busy = False
        self._first: dict[int, int] = {}
        self._latest: dict[int, int] = {}
        self._when = -FRESH
        self._number = 0
        self._socket: socket.socket | None = None
        with contextlib.suppress(OSError, AttributeError):  # a sandbox, or a system, without netlink sockets
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, socket.NETLINK_ROUTE)
            self._socket.settimeout(TIMEOUT)

    def total(self, interfaces: Iterable[int]) -> int | None:
        """Lost by these, and by those queried before; None where the system does not report it."""
        if time.monotonic() - self._when >= FRESH:
            self._ask_all(interfaces)
        first, latest = dict(self._first), dict(self._latest)
        return sum(count - first[index] for index, count in latest.items()) if latest else None

    def _ask_all(self, interfaces: Iterable[int]) -> None:
        with self._lock:
            if self._is_busy:
                return
            self._is_busy = True
            try:
                for index in interfaces:
                    count = self._ask(index)
                    if count is not None:
                        self._first.setdefault(index, count)
                        self._latest[index] = count
                self._when = time.monotonic()
            finally:
                self._is_busy = False

    def close(self) -> None:
        """Close the descriptor, and nothing else; again does nothing. Takes no lock."""
        if self._socket is not None:
            close_all([self._socket])

    def _ask(self, index: int) -> int | None:
        if self._socket is None or self._socket.fileno() < 0:
            return None
        body = IF_STATS_MSG.pack(socket.AF_UNSPEC, index, 1 << (IFLA_STATS_LINK_64 - 1))
        self._number = number = self._number % 0xFFFF_FFFF + 1
        try:
            self._socket.send(netlink.request(RTM_GETSTATS, number, body))  # answered before this returns
            reply = self._socket.recv(LARGEST_MESSAGE)
            while not answers(reply, number):  # of a request that was interrupted
                reply = self._socket.recv(LARGEST_MESSAGE)
            return parse(reply, number)
        except OSError:
            return None
