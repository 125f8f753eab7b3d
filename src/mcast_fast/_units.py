"""Sizes and times as people write them, as integers.

Rules of this module: no I/O. A size in text always has a unit: tcpdump's -B counts KiB and dumpcap's MiB, so that a
bare number in a text would be misread.
"""

import operator
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from types import UnionType
from typing import NamedTuple, TypeAlias, TypeVar

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

RATE_UNITS = {
    "/s": (1, False),
    "k/s": (10**3, False),
    "M/s": (10**6, False),
    "bit/s": (1, True),
    "kbit/s": (10**3, True),
    "Mbit/s": (10**6, True),
    "Gbit/s": (10**9, True),
}
# As other tools write them: 50k, 50kpps, 10Mbps.
RATE_ALIASES = {
    **{name.removesuffix("/s"): unit for name, unit in RATE_UNITS.items() if not unit[1] and name != "/s"},
    **{name.replace("/s", "pps"): unit for name, unit in RATE_UNITS.items() if not unit[1]},
    **{name.replace("bit/s", "bps"): unit for name, unit in RATE_UNITS.items() if unit[1]},
}
_RATE_FACTORS = RATE_UNITS | RATE_ALIASES
_RATE = re.compile(rf"([0-9]{{1,30}}(?:\.[0-9]{{1,30}})?)\s*({'|'.join(_RATE_FACTORS)})", re.ASCII)
FASTEST = 10**12  # per second; 1 Tbit/s

NANOSECONDS = 1_000_000_000
TIME_UNITS = {"": NANOSECONDS, "ns": 1, "us": 10**3, "ms": 10**6, "s": NANOSECONDS, "min": 60 * NANOSECONDS}
TIME_UNITS |= {"m": TIME_UNITS["min"], "h": 60 * TIME_UNITS["min"]}
_TIME = re.compile(rf"([0-9]{{1,30}}(?:\.[0-9]{{1,30}})?)\s*({'|'.join(TIME_UNITS)})", re.ASCII)
LONGEST_WAIT = 2**62  # ns, 146 years: what is longer waits forever


T = TypeVar("T")
Seconds: TypeAlias = float | str  # a number of seconds, or text with a unit: "100ms"
Moment: TypeAlias = int | str | datetime  # ns since the epoch, ISO 8601 with a time zone, or an aware datetime

EARLIEST, LATEST = -(2**63), 2**63 - 1  # ns since the epoch that 64 bits hold
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MOMENT = re.compile(r"(.+:[0-9]{2})(?:[.,]([0-9]{1,9}))?(Z|[+-][0-9]{2}:?[0-9]{2})", re.ASCII)


class Rate(NamedTuple):
    """How many units per second: datagrams, or bits of payload."""

    per_second: float
    by_bits: bool

    @property
    def ns_per_unit(self) -> float:
        """Nanoseconds from one unit to the next."""
        return NANOSECONDS / self.per_second


class Unset:
    """The default of an argument for which None means something."""


UNSET = Unset()


def moment_in_ns(value: Moment, what: str) -> int:
    """A time of day as ns since the epoch.

    Args:
        value: ns since the epoch, an aware datetime, or ISO 8601 with a time zone and up to nine digits of a second.
        what: What the argument is called.

    Returns:
        Nanoseconds since the Unix epoch.

    Raises:
        ArgumentError: It is none of those, has no time zone, or 64 bits do not hold it.

    >>> moment_in_ns("2026-11-28T13:00:00.123456789Z", "start")
    1795870800123456789
    """
    found = None
    if isinstance(value, int) and not isinstance(value, bool):
        found = value
    elif isinstance(value, datetime) and value.tzinfo is not None:
        found = (value - _EPOCH) // timedelta(microseconds=1) * 1000
    elif isinstance(value, str) and (match := _MOMENT.fullmatch(value.strip())):
        try:
            second = datetime.fromisoformat(match[1] + match[3])
            found = (second - _EPOCH) // timedelta(seconds=1) * NANOSECONDS + int((match[2] or "0").ljust(9, "0"))
        except ValueError:
            found = None
    if found is None or not EARLIEST <= found <= LATEST:
        raise ArgumentError(
            f"{what} {value!r} is no time; give ns since the epoch, an aware datetime, or text such as "
            "'2026-11-28T13:00:00Z'"
        )
    return found


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


def size_text(size: int) -> str:
    """Bytes with the largest unit of which there is one, to three digits.

    >>> size_text(4194304)
    '4 MiB'
    """
    binary = reversed([(name, each) for name, each in SIZE_UNITS.items() if name.endswith("iB")])
    value, unit = next(((size / each, name) for name, each in binary if size >= each), (size, "bytes"))
    return f"{value:.3g} {unit}"


def plural(count: int, one: str) -> str:
    """A number of things, its thousands separated.

    >>> plural(1, "packet"), plural(2000, "packet")
    ('1 packet', '2,000 packets')
    """
    return f"{count:,} {one}{'' if count == 1 else 's'}"


def bound(count: int | None, is_exact: bool) -> str:
    """What stands before a count that is a lower bound.

    >>> bound(470, is_exact=False), bound(0, is_exact=False), bound(470, is_exact=True)
    ('at least ', '', '')
    """
    return "at least " if count and not is_exact else ""


def rate_of(value: float | str, what: str = "rate") -> Rate:
    """A rate from a number of datagrams per second, or from text: datagrams ('50k/s') or bits of payload ('800Mbit/s');
    ArgumentError names `what`.

    >>> rate_of("50k/s")
    Rate(per_second=50000.0, by_bits=False)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ArgumentError(f"{what} {value!r} is not a rate; give datagrams per second, or text such as '800Mbit/s'")
    rate = Rate(value, False) if not isinstance(value, str) else _rate_of_text(value, what)
    if not 0 < rate.per_second <= FASTEST:
        raise ArgumentError(f"{what} {value!r} is out of range; use more than 0, up to {FASTEST:,} per second")
    return rate


def _rate_of_text(text: str, what: str) -> Rate:
    match = _RATE.fullmatch(text.strip())
    if match is None:
        raise ArgumentError(f"{what} {text!r} is not a rate; give a number and a unit: {', '.join(RATE_UNITS)}")
    factor, by_bits = _RATE_FACTORS[match[2]]
    return Rate(float(Fraction(match[1]) * factor), by_bits)


def wait_in_ns(timeout: Seconds | None, what: str = "timeout") -> int:
    """Nanoseconds to wait from seconds, or from text ('100ms'): None = forever (-1), 0 = not at all; ArgumentError
    names `what`.

    >>> wait_in_ns("100ms")
    100000000
    """
    if timeout is None:
        return -1
    if isinstance(timeout, str):
        nanoseconds = _time_of_text(timeout, what)
        return -1 if nanoseconds > LONGEST_WAIT else nanoseconds
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise ArgumentError(f"{what} {timeout!r} is not a number of seconds (None waits forever, 0 not at all)")
    if not timeout >= 0:
        raise ArgumentError(f"{what} {timeout!r} is not 0 or more seconds (None waits forever)")
    return -1 if timeout * NANOSECONDS > LONGEST_WAIT else int(timeout * NANOSECONDS)


def duration_in_ns(value: Seconds, what: str) -> int:
    """Nanoseconds from seconds, or from text ('100ms', '5min'; a bare number is seconds); ArgumentError names `what`.

    >>> duration_in_ns("100ms", "flush_interval")
    100000000
    """
    nanoseconds = wait_in_ns(value, what)
    return LONGEST_WAIT if nanoseconds < 0 else nanoseconds


def in_seconds(value: T | str, what: str) -> T | float:
    """Text such as '100ms' as seconds; what is no text is returned as it is. ArgumentError names `what`.

    >>> in_seconds("100ms", "linger")
    0.1
    """
    return _time_of_text(value, what) / NANOSECONDS if isinstance(value, str) else value


def _time_of_text(text: str, what: str) -> int:
    match = _TIME.fullmatch(text.strip())
    if match is None:
        units = ", ".join(filter(None, TIME_UNITS))
        raise ArgumentError(f"{what} {text!r} is not a time; give seconds, or a number and a unit: {units}")
    return int(Fraction(match[1]) * TIME_UNITS[match[2]])


def checked_number(value: float, what: str, smallest: float, largest: float) -> float:
    """`value` when it is a number in the range; ArgumentError names `what`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not smallest <= value <= largest:
        raise ArgumentError(f"{what} {value!r} is out of range; use {smallest:g} to {largest:g}")
    return value


def checked_text(value: str, what: str) -> str:
    """`value` when it is a text that UTF-8 can encode, or that os.fsdecode() can make; ArgumentError names `what`."""
    try:
        checked(value, str, what, "a text").encode(errors="surrogateescape")
    except UnicodeEncodeError as error:
        raise ArgumentError(f"{what} {value!r} cannot be written as UTF-8: {error.reason}") from None
    return value


def checked(value: T, kind: type | UnionType, what: str, wanted: str) -> T:
    """`value` when it is of this kind; ArgumentError names `what`, and what was `wanted`."""
    if not isinstance(value, kind):
        raise ArgumentError(f"{what} {value!r} is not {wanted}")
    return value


def checked_call(value: T, what: str) -> T:
    """`value` when it can be called; ArgumentError names `what`."""
    if not callable(value):
        raise ArgumentError(f"{what} {value!r} cannot be called")
    return value


def iterated(values: Iterable[T], what: str, wanted: str) -> tuple[T, ...]:
    """What is in `values`; ArgumentError when it holds nothing that can be gone through."""
    try:
        iterator = iter(values)
    except TypeError:
        raise ArgumentError(f"{what} {values!r} is not {wanted}") from None
    return tuple(iterator)


def whole_number(value: int, what: str, smallest: int, largest: int) -> int:
    """`value` when it is an integer in the range, NumPy's too; ArgumentError names `what`."""
    kind = getattr(getattr(value, "dtype", None), "kind", "")  # of NumPy's: its bool has an index, with a warning
    try:
        number = None if isinstance(value, bool) or kind == "b" else operator.index(value)
    except TypeError:
        number = None
    if number is None or not smallest <= number <= largest:
        raise ArgumentError(f"{what} {value!r} is out of range; use {smallest} to {largest}")
    return number
