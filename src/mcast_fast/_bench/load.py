"""Sends numbered packets at a rate, without a step of Python per packet."""

import secrets
import sys
import time
from array import array

from mcast_fast._bench.trial import Sent
from mcast_fast._units import NANOSECONDS
from mcast_fast.errors import ClosedError
from mcast_fast.sender import Sender
from mcast_fast.sequence._format import stamp

SMALLEST = 32  # bytes: the header with the number
_NUMBER = 16  # where it is
_AT_ONCE = 1024  # packets, at most
_TURNS = 50  # per second, at least: after each the clock is looked at


class Load:
    """Numbers packets of one size in the format "mcast-fast", and sends them to a group; `stop()` from a signal handler
    ends that."""

    def __init__(self, group: str, size: int, ttl: int) -> None:
        self._group = group
        self._ttl = ttl
        self._size = size
        self._sender: Sender | None = None
        self._is_stopped = False

    def stop(self) -> None:
        """End what is being sent; nothing more is."""
        self._is_stopped = True
        if self._sender is not None:
            self._sender.close()

    @staticmethod
    def new_key() -> int:
        """What tells the packets of one trial from all others."""
        return secrets.randbits(64)

    def run(self, rate: float | None, seconds: float, key: int) -> Sent:
        """Send for so long; what left. Of a load that was stopped, what had left by then."""
        with Sender(self._group, rate=rate, ttl=self._ttl, segmentation=False) as sender:
            self._sender = sender
            if self._is_stopped:
                return Sent(0, 0.0, 0.0)
            at_once = _AT_ONCE if rate is None else max(1, min(_AT_ONCE, int(rate / _TURNS)))
            packets = Packets(self._size, at_once, key)
            started, cpu = time.monotonic_ns(), time.thread_time()
            end = started + round(seconds * NANOSECONDS)
            try:
                while not self._is_stopped:
                    sender.send_batch(packets.next(), self._size)  # once, however late it is
                    if time.monotonic_ns() >= end:
                        break
            except ClosedError:  # by `stop`
                pass
            lasted = (time.monotonic_ns() - started) / NANOSECONDS
            return Sent(sender.stats.datagrams, lasted, time.thread_time() - cpu)


class Packets:
    """One buffer of packets behind each other, whose numbers go on with each call."""

    def __init__(self, size: int, count: int, key: int) -> None:
        header = stamp(0, key, 0)
        filling = bytes(at & 0xFF for at in range(size - SMALLEST))
        self._buffer = bytearray((header + filling) * count)
        self._size = size
        self._count = count
        self._number = 0

    def next(self) -> bytearray:
        """The next packets; the buffer is written anew each time."""
        numbers = array("Q", range(self._number, self._number + self._count))
        if sys.byteorder == "little":
            numbers.byteswap()
        columns = numbers.tobytes()
        for byte in range(8):
            self._buffer[_NUMBER + byte :: self._size] = columns[byte::8]
        self._number += self._count
        return self._buffer
