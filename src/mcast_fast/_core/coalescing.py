"""Coalescing as both backends speak of it: when the kernel may hand over several packets as one (udp(7), UDP_GRO), and
what happened to that.

Rules of this module: data only. c/coalescing.h has the same numbers, and says how it works.
"""

from enum import IntEnum
from typing import NamedTuple


class Mode(IntEnum):
    """When packets may come coalesced."""

    NEVER = 0
    UNDER_PRESSURE = 1
    ALWAYS = 2  # the option is set when the sockets are opened


class Change(IntEnum):
    """What happened."""

    BEGAN_BY_BACKLOG = 0
    BEGAN_BY_DROPS = 1
    ENDED = 2
    STAYS = 3  # it cannot be switched off: `error`
    DOES_NOT_WORK = 4  # it is on, and nothing comes coalesced
    BY_OTHERS = 5  # it is off, and packets come coalesced


class CoalescingEvent(NamedTuple):
    """One change: ns since the epoch, what, errno, the key of the socket where it was seen, how full its buffer was of
    how much (bytes, with the kernel's bookkeeping), and packets per second."""

    time: int
    change: Change
    error: int
    key: int
    backlog: int
    buffer: int
    rate: int
