"""A sender's arguments about its pace and its sockets, checked; no I/O."""

from typing import Literal, get_args

from mcast_fast import _core
from mcast_fast._sending.sockets import Options
from mcast_fast._units import Rate, rate_of, whole_number
from mcast_fast.errors import ArgumentError

Pacing = Literal["sender", "kernel"]
PACINGS: tuple[str, ...] = get_args(Pacing)


def paces(rate: float | str | None, burst: int, pacing: str) -> tuple[Rate | None, int | None]:
    """The rate that we keep ourselves, and the bytes per second that the kernel is to keep; ArgumentError."""
    whole_number(burst, "burst", 1, 1_000_000)
    if pacing not in PACINGS:
        raise ArgumentError(f"pacing {pacing!r} is not one of: {', '.join(PACINGS)}")
    wanted = None if rate is None else rate_of(rate)
    if pacing == "sender":
        return wanted, None
    if wanted is None or not wanted.by_bits:
        raise ArgumentError('pacing="kernel" needs a rate in bits, such as rate="800Mbit/s": it counts bytes')
    if "SO_MAX_PACING_RATE" not in _core.membership.OPTIONS:
        raise ArgumentError(f'pacing="kernel": {_core.membership.SYSTEM} has no SO_MAX_PACING_RATE')
    return None, max(1, int(wanted.per_second / 8))


def checked_options(options: Options) -> Options:
    """The options when they are in range; ArgumentError."""
    whole_number(options.ttl, "ttl", 0, 255)
    if options.dscp is not None:
        whole_number(options.dscp, "dscp", 0, 63)
    if options.source_port is not None:
        whole_number(options.source_port, "source_port", 1, 65_535)
    return options
