"""A sender's arguments about its pace and its sockets, checked; no I/O."""

import functools
import operator
from collections.abc import Iterable
from typing import Literal, get_args

from mcast_fast import _core
from mcast_fast._core.layout import Flag
from mcast_fast._sending.sockets import TRAFFIC_CLASS, Options
from mcast_fast._units import Rate, iterated, rate_of, whole_number
from mcast_fast.errors import ArgumentError, FeatureError

Pacing = Literal["sender", "kernel"]
PACINGS: tuple[str, ...] = get_args(Pacing)
KEPT = {"ttl": Flag.TTL, "tos": Flag.TOS}


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


def kept_flags(keep: str | Iterable[str]) -> Flag:
    """The bits of a record's flags for "ttl", "tos", or both ("ttl,tos", or a sequence); ArgumentError,
    FeatureError."""
    several = keep.split(",") if isinstance(keep, str) else iterated(keep, "keep", "'ttl', 'tos', or both")
    names = [one.strip() if isinstance(one, str) else one for one in several if one != ""]
    for name in names:
        if not isinstance(name, str) or name not in KEPT:
            raise ArgumentError(f"keep {name!r} is not one of: {', '.join(KEPT)}")
    if "tos" in names and (missing := [one for one in TRAFFIC_CLASS.values() if one not in _core.membership.OPTIONS]):
        raise FeatureError(f"keep='tos': {_core.membership.SYSTEM} has no {missing[0]}")
    return functools.reduce(operator.or_, map(KEPT.__getitem__, names), Flag(0))
