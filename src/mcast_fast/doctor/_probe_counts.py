"""What arrives of one direction between two hosts, counted.

Rules of this module: no I/O and no clock; memory does not grow with what arrives.
"""

from typing import NamedTuple

GRACE = 100_000_000  # ns
WINDOW = 4096  # numbers behind the highest one within which each is known to have come or not
_MASK = (1 << WINDOW) - 1


class ProbeCount(NamedTuple):
    """What became of the numbered datagrams of one direction, by multicast or by unicast.

    Attributes:
        expected: Sent since first contact: received + startup + lost.
        received: Those that arrived, each once.
        startup: Those before the first one that arrived: a network may lose them while it builds the tree of a group.
        duplicates: Those that arrived again.
        reordered: Those that arrived behind a later one.
    """

    expected: int = 0
    received: int = 0
    startup: int = 0
    duplicates: int = 0
    reordered: int = 0

    @property
    def lost(self) -> int:
        """Those that were lost after the first one had arrived, or all where none did."""
        return self.expected - self.received - self.startup


ProbeCount.__module__ = "mcast_fast.doctor"


class Arrivals:
    """The numbers of one sender's datagrams: exact while none comes more than WINDOW behind the highest one."""

    def __init__(self) -> None:
        self._base = -1  # the first number that counts
        self._announced = 0  # all below it were sent
        self._pending = (0, 0)  # what was announced last, and when
        self._lowest = self._highest = -1
        self._seen = 0  # bit n: the number `highest - n` has come
        self._received = self._duplicates = self._reordered = 0

    def begin(self, first: int) -> None:
        """Numbers count from this one on, where none counted yet."""
        if self._base < 0:
            self._base = self._announced = first

    def announce(self, sent: int, now: int) -> None:
        """All numbers below `sent` have been sent, says what came by another way at this time, in ns.

        It may have overtaken them: they are missing when another announcement comes, GRACE later or more."""
        if now - self._pending[1] >= GRACE:
            self._announced = max(self._announced, self._pending[0])
            self._pending = sent, now

    def add(self, number: int) -> bool:
        """This number has arrived; whether it is new."""
        behind = self._highest - number
        if behind >= WINDOW:
            return False  # whether it came before is not known
        if behind >= 0 and self._seen >> behind & 1:
            self._duplicates += 1
            return False
        if behind >= 0:
            self._reordered += 1
            self._seen |= 1 << behind
        else:
            self._seen = 1 if -behind >= WINDOW else (self._seen << -behind | 1) & _MASK
            self._highest = number
        self._received += 1
        self._lowest = number if self._lowest < 0 else min(self._lowest, number)
        self._base = number if self._base < 0 else min(self._base, number)
        return True

    @property
    def count(self) -> ProbeCount:
        """All of it so far."""
        if self._base < 0:
            return ProbeCount()
        expected = max(self._announced, self._highest + 1) - self._base
        startup = self._lowest - self._base if self._received else 0
        return ProbeCount(expected, self._received, startup, self._duplicates, self._reordered)


class ProbeTimes(NamedTuple):
    """Times that were measured, in ns.

    Attributes:
        samples: How many.
        smallest: The smallest.
        mean: The mean.
        largest: The largest.
    """

    samples: int = 0
    smallest: int = 0
    mean: int = 0
    largest: int = 0


ProbeTimes.__module__ = "mcast_fast.doctor"


class Times:
    """Gathers times."""

    def __init__(self) -> None:
        self._count = self._sum = self._smallest = self._largest = 0

    def add(self, value: int) -> None:
        """One more, in ns."""
        self._smallest = min(self._smallest, value) if self._count else value
        self._largest = max(self._largest, value) if self._count else value
        self._count += 1
        self._sum += value

    @property
    def spread(self) -> ProbeTimes:
        """All of them so far."""
        mean = self._sum // self._count if self._count else 0
        return ProbeTimes(self._count, self._smallest, mean, self._largest)


class Series:
    """What arrives of a sender's test datagrams: which sizes, and how many of each burst.

    A sender repeats its series for hosts that came later. Those that had begun before first contact do not count; of
    the bursts, the latest series does.
    """

    def __init__(self, steps: int) -> None:
        self.sizes = 0  # bit n: a datagram of the n-th size came whole
        self._since = -1  # series up to this one do not count
        self._current = 0
        self._bursts = [0] * steps  # bit n: the n-th datagram of this burst

    def begin(self, started: int) -> None:
        """First contact, when `started` series had begun."""
        if self._since < 0:
            self._since = started

    def counts(self, done: int) -> bool:
        """Whether a series that counts is over, when `done` of them are."""
        return 0 <= self._since < done

    def add_size(self, series: int, step: int) -> None:
        """A datagram of the size of this number came whole."""
        if self._since >= 0 and series > self._since:
            self.sizes |= 1 << step

    def add_burst(self, series: int, step: int, number: int) -> None:
        """One datagram of a burst came."""
        if series <= self._since or self._since < 0 or series < self._current:
            return
        if series > self._current:
            self._current, self._bursts = series, [0] * len(self._bursts)
        self._bursts[step] |= 1 << number

    @property
    def bursts(self) -> tuple[int, ...]:
        """How many came of each burst of the latest series."""
        return tuple(one.bit_count() for one in self._bursts)
