"""Sizes and times as people write them, as integers.

Rules of this room: no I/O. A size in text always has a unit: tcpdump's -B counts KiB and dumpcap's MiB, so that a bare
number in a text would mislead somebody.
"""

import re
from fractions import Fraction

from mcast_fast.errors import ArgumentError

SIZE_UNITS = {
    "B": 1,
    "kB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 2**10,
    "MiB": 2**20,
    "GiB": 2**30,
}
_SIZE = re.compile(rf"([0-9]{{1,30}}(?:\.[0-9]{{1,30}})?)\s*({'|'.join(SIZE_UNITS)})", re.ASCII)

NANOSECONDS = 1_000_000_000
LONGEST_WAIT = 2**62  # ns, 146 years: what is longer waits for ever


class Unset:
    """Stands for an argument that was left out, where None means something."""


UNSET = Unset()


def size_in_bytes(value: int | str, what: str) -> int:
    """Bytes from an integer, or from text with a unit ('4MiB'); ArgumentError names `what`.

    >>> size_in_bytes("4MiB", "buffer_size")
    4194304
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ArgumentError(f"{what} {value!r} is not a size; give bytes as an integer, or text such as '4MiB'")
    size = value
    if isinstance(size, str):
        match = _SIZE.fullmatch(size.strip())
        if match is None:
            raise ArgumentError(f"{what} {value!r} is not a size; give a number and a unit: {', '.join(SIZE_UNITS)}")
        size = int(Fraction(match[1]) * SIZE_UNITS[match[2]])
    if size < 0:
        raise ArgumentError(f"{what} {value!r} is negative")
    return size


def wait_in_ns(timeout: float | None, what: str = "timeout") -> int:
    """Nanoseconds to wait from seconds: None = for ever (-1), 0 = not at all; ArgumentError names `what`."""
    if timeout is None:
        return -1
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ArgumentError(f"{what} {timeout!r} is not a number of seconds (None waits for ever, 0 not at all)")
    if not timeout >= 0:
        raise ArgumentError(f"{what} {timeout!r} is not 0 or more seconds (None waits for ever)")
    return -1 if timeout * NANOSECONDS > LONGEST_WAIT else int(timeout * NANOSECONDS)


def whole_number(value: int, what: str, smallest: int, largest: int) -> int:
    """`value` when it is an integer in the range; ArgumentError names `what`."""
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise ArgumentError(f"{what} {value!r} is out of range; use {smallest} to {largest}")
    return value
