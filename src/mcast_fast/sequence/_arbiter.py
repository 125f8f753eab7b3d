"""Arbiter: several legs of one feed become one, each number once.

Rules of this module: packets are decided on in `_core`; here legs are polled, waited for, and named.
"""

import contextlib
import select
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._core.addresses import plain_text
from mcast_fast._core.extraction import MOST_LEGS, Turn
from mcast_fast._delivery import Delivery
from mcast_fast._guarded import guarded
from mcast_fast._source import Source
from mcast_fast._units import (
    NANOSECONDS,
    UNSET,
    Seconds,
    Unset,
    checked,
    iterated,
    size_in_bytes,
    wait_in_ns,
    whole_number,
)
from mcast_fast.errors import ArgumentError, CaptureError, ClosedError, FeatureError, FileError
from mcast_fast.groups import Group
from mcast_fast.sequence._format import Format
from mcast_fast.sequence._ledger import ArbiterStats, ledger_of

if TYPE_CHECKING:
    from mcast_fast._core.fast.arbiter import Arbiter as CoreArbiter
    from mcast_fast._core.fast.views import Batch

HOLD = "50ms"
MOST_FLOWS = 256
_LIMIT = 4096  # flows
_LONGEST_HOLD = 60 * NANOSECONDS
_SHORTEST_SILENCE = NANOSECONDS  # ns without a packet until a leg is silent, where twice `hold` is shorter
TICK_NS = 50_000_000  # a call that waits sees a close() within it
LATE_TURNS = 64  # of a receive whose time is over, as long as the legs bring something
GLANCE_NS = 1_000_000  # between two looks at legs that cannot be waited for together
_RING_LAG_NS = 20_000_000  # a ring's packets come in blocks: so late are they seen
_LARGEST_MEMORY = 1 << 30
_OTHER_CLOCK = NANOSECONDS  # ns: a leg whose times are so far from this machine's has a clock of its own

Pair = str | Group
Pairs = Mapping[Pair, Pair | Sequence[Pair]]
Name = tuple[bytes, int]  # a group and its port; 0: any


class _Leg:
    """A source, and what is known of it."""

    def __init__(self, source: Source, in_order: bool) -> None:
        self.source = source
        self.ended = False
        self.names: dict[int, str] = {}  # of its interfaces, as they are known to the arbiter
        self.renamed: dict[int, int] = {}
        # ns of its clock before this machine's; None: unknown. A receiver's are the same until others come.
        self.ahead: int | None = 0 if hasattr(source, "memberships") else None
        self.empty_at = 0  # by this machine's clock, ns: when it was last found to have nothing
        self.lag = _RING_LAG_NS if in_order and getattr(source.stats, "dropped_ring", None) is not None else 0

    def came(self, batch: "Batch", now: int) -> None:
        """Packets came at this time of the machine's clock. Those that may have waited for long in a buffer do not show
        that the clock is behind."""
        last = batch[-1].timestamp
        if last is None:
            return
        ahead = last - now if abs(last - now) >= _OTHER_CLOCK else 0
        if self.ahead is None or ahead > self.ahead or now - self.empty_at < _OTHER_CLOCK:
            self.ahead = ahead


class Arbiter(Delivery):
    """Makes one feed of several legs: every number is delivered once, whichever leg brings it.

        with mcast.Receiver(a) as leg_a, mcast.Receiver(b) as leg_b, sequence.Arbiter([leg_a, leg_b], "rtp") as feed:
            for batch in feed:
                ...
        print(feed.stats.unrecovered, [leg.lost for leg in feed.stats.legs])

    It is used as a Receiver or a Reader is, and `files.Recorder` and `files.Replay` take it. Packets are taken in the
    order of their arrival by the kernel's times: capture files of the legs give the same result as the live stream.

    A flow is named by the format's key alone, within groups that belong together: the legs' first groups, their second
    ones, and so on, or what `pairs` says. A leg whose groups are not known (a file without named groups) may hold one
    group.

    A leg is charged for a number when `hold` has passed since the number came first, or was first seen to be missing. A
    leg that brings nothing for a second (and twice `hold`) is silent: what is sent meanwhile counts as `absent`. When
    the sender begins anew, so does the feed: `restarts`.

    The legs stay open, and theirs is what the kernel dropped (`leg.stats`). Threads may share an arbiter, one call at a
    time; close() may be called at any moment, also from a signal handler, and ends a call that waits within 50 ms. An
    arbiter belongs to the process that made it. Nothing else may receive from the legs meanwhile. A file that cannot be
    read any further ends its leg; CaptureError comes when all legs have ended.

    Args:
        legs: One to eight Sources: Receivers, Readers, or a mix.
        format: Where the numbers are: a Format, or its text ("rtp", "u64be@10+u16be@18").
        hold: Seconds, or text ("50ms"), up to a minute: how much later another leg may bring a number. It must exceed
            the delay between the legs, and what the network reorders.
        order: True: deliver in the order of numbers, and wait at most `hold` for a missing one, and as long at the
            start. False: deliver what comes first at once.
        pairs: Which groups belong together: {group of the first leg: group of the second, or a sequence of one for
            each further leg}, as texts such as "239.1.1.1:5000" (without a port: any), or Groups.
        timeout: Seconds that a receive waits, or text such as "100ms"; None: no limit.
        batch_size: Packets in a batch at most.
        max_flows: Flows that are followed at most (1 to 4,096); to a new one gives way one that was silent.
        memory: Bytes (to 1 GiB), or text ("256MiB"), for packets that wait for what is before them; beyond it, what
            they wait for is given up (`overflows`).

    Raises:
        ArgumentError: An argument is out of range, no format, a leg is no Source, or legs have unlike numbers of
            groups and no `pairs`.
    """

    __module__ = "mcast_fast.sequence"

    _WHAT = "arbiter"

    def __init__(
        self,
        legs: Iterable[Source],
        format: str | Format,
        hold: Seconds = HOLD,
        order: bool = True,
        pairs: Pairs | None = None,
        *,
        timeout: Seconds | None = None,
        batch_size: int = 4096,
        max_flows: int = MOST_FLOWS,
        memory: int | str = "256MiB",
    ) -> None:
        super().__init__(timeout, batch_size)
        sources = list(iterated(legs, "legs", "receivers or readers"))
        if not 1 <= len(sources) <= MOST_LEGS:
            raise ArgumentError(f"{len(sources)} legs are out of range; use 1 to {MOST_LEGS}")
        for one in sources:
            if not isinstance(one, Source):
                raise ArgumentError(f"a leg is a Receiver, a Reader or another Source, not {type(one).__name__}")
        if len({id(one) for one in sources}) != len(sources):
            raise ArgumentError("a source is given as two legs: each leg needs a source of its own")
        self.format: Format = Format.parse(format)
        if self.format.preset == "spead":
            raise ArgumentError("an arbiter counts packets, and spead counts bytes: give spead:PAYLOAD_BYTES")
        self._hold = wait_in_ns(hold, "hold")
        if not 0 < self._hold <= _LONGEST_HOLD:
            raise ArgumentError(f"hold {hold!r} is out of range; use more than 0, up to a minute")
        kept = size_in_bytes(memory, "memory")
        if not 0 < kept <= _LARGEST_MEMORY:
            raise ArgumentError(f"memory {memory!r} is out of range; use up to 1GiB")
        limit = whole_number(max_flows, "max_flows", 1, _LIMIT)
        self._silence = max(_SHORTEST_SILENCE, 2 * self._hold)
        self._legs = [_Leg(source, bool(order)) for source in sources]
        self._core: CoreArbiter = _core.arbiter.Arbiter(
            self.format.plan, len(sources), self._hold, bool(order), limit, kept
        )
        for leg, rows in enumerate(_pairings(sources, pairs)):
            self._core.pair(leg, rows)
        self._names: dict[int, str] = {}  # of interfaces, in what is delivered
        self._came: list[tuple[int, Batch]] = []  # from a leg, and not yet in the core
        self._batches = 0
        self._flushed = False
        self._failure: CaptureError | FileError | None = None
        self._closed = False

    # ---- packets ----

    def _fill(self, at_once: int, wait: int) -> None:
        came = self._gather(1, wait)
        self._check_open()
        if not came:
            raise TimeoutError(f"no leg brought a packet within {wait / NANOSECONDS:g} s")

    def _fill_up(self, more: int, wait: int) -> None:
        with contextlib.suppress(EOFError):
            self._gather(more, wait)

    def _gather(self, more: int, wait: int) -> bool:
        """Add this many packets to `_unread`; False when the time is over, or the arbiter closed. EOFError."""
        deadline = None if wait < 0 else time.monotonic_ns() + wait
        late = 0  # turns behind the deadline: what the legs have is taken, as long as that is not without end
        while not self._closed:
            before = len(self._unread)
            brought = self._round()
            have_ended = all(leg.ended for leg in self._legs)
            if have_ended:
                self._end()
            more -= sum(map(len, self._unread[before:]))
            if more <= 0:
                return True
            if have_ended:
                continue
            left = TICK_NS if deadline is None else min(TICK_NS, deadline - time.monotonic_ns())
            if left <= 0:
                late += 1
                if not brought or late > LATE_TURNS:
                    return False
            elif not brought:
                self._sleep(left)
        return False

    def _end(self) -> None:
        """All legs have ended: what is held is delivered; then what a file could not be read for, and EOFError."""
        if not self._flushed:
            self._core.flush()
            self._take()
            self._flushed = True
            return
        failure, self._failure = self._failure, None
        raise failure or EOFError("all legs have ended")

    def _round(self) -> bool:
        """Take what the legs have now, and have it decided; whether any had something."""
        self._feed()
        brought = False
        for at, leg in enumerate(self._legs):
            if not leg.ended and self._core.wants(at):
                brought |= self._poll(at, leg)
        status = self._core.turn()
        self._take()
        if status >= Turn.UNPAIRED:
            self._refuse_second_group(status - Turn.UNPAIRED)
        return brought

    def _take(self) -> None:
        if self._core.count:
            self._core.take(self._names, self._unread)
            self._batches += 1

    def _poll(self, at: int, leg: _Leg) -> bool:
        """Take what a leg has now, if it has something. What it returns is in `_came` by one call into C."""
        now = time.time_ns()
        try:
            self._came.extend(zip((at,), map(leg.source.recv_batch, (None,), (0,)), strict=True))
        except TimeoutError:
            leg.empty_at = now
            self._core.quiet(at, self._seen(leg, now) - leg.lag)
            return False
        except (EOFError, ClosedError, CaptureError, FileError) as error:
            if isinstance(error, ClosedError) and not leg.source.closed:
                raise  # another process opened it
            if not isinstance(error, EOFError | ClosedError):
                self._failure = error
            self._core.quiet(at, None)
            leg.ended = True  # last: what a signal comes before is done again, for the leg says the same again
            return False
        leg.came(self._came[-1][1], now)
        self._feed()
        return True

    def _seen(self, leg: _Leg, now: int) -> int:
        """This moment by the clock of a leg's packets; of one that is not known, by that of the others."""
        known = [one.ahead for one in self._legs if one.ahead is not None]
        ahead = leg.ahead if leg.ahead is not None else max(known, default=0)
        return now + ahead

    def _feed(self) -> None:
        while self._came:
            at, batch = self._came[0]
            if self._core.wants(at):  # else a signal came in between, and it is fed already
                self._rename(self._legs[at], batch)
                self._core.feed(at, batch, self._legs[at].renamed)
            del self._came[0]

    def _rename(self, leg: _Leg, batch: "Batch") -> None:
        """Files count interfaces for themselves: what has the number of another one gets one that is unused."""
        if batch.names == leg.names:
            return
        names, renamed = dict(self._names), dict(leg.renamed)
        for index, name in batch.names.items():
            to = renamed.get(index, index)
            if leg.names.get(index) == name or names.setdefault(to, name) == name:
                continue
            same = [at for at, known in names.items() if known == name]
            renamed[index] = same[0] if same else max(names) + 1
            names[renamed[index]] = name
        self._names, leg.renamed, leg.names = names, renamed, dict(batch.names)

    def _refuse_second_group(self, at: int) -> None:
        group, port = self._core.next_group(at)
        raise ArgumentError(
            f"leg {at} has packets of a second group, {plain_text(group)} port {port}, and which groups belong "
            "together is not known: name the leg's groups where it is opened, or give pairs"
        )

    # ---- waiting ----

    def _due_within(self, most_ns: int) -> int:
        """ns until something is due without a further packet, at most this many."""
        if any(not self._core.wants(at) for at in range(len(self._legs))):
            most_ns = min(most_ns, GLANCE_NS)  # a packet is there, and waits for the time of another leg
        due = self._core.due()
        return most_ns if due < 0 else min(most_ns, due)

    def _sleep(self, most_ns: int) -> None:
        """Wait until a leg has something, something is due, or the time is over."""
        left, waiting = self._due_within(most_ns), self.waiting
        if not waiting or left <= 0:
            return
        poll = _poll_of(waiting)
        if poll is not None:
            poll.poll(max(1, left // 1_000_000))
        else:
            time.sleep(min(left, GLANCE_NS) / NANOSECONDS)

    @guarded
    def wait(self, timeout: Seconds | Unset | None = UNSET) -> bool:
        """Wait until there is something to receive, and take nothing.

        Args:
            timeout: Seconds, or text such as "100ms"; left out: the arbiter's own, None: no limit, 0: no wait.

        Returns:
            False when nothing came in time; True when all legs have ended, too.

        Raises:
            CaptureError, FileError: As for `recv_batch`.
            ClosedError: The arbiter is closed, or another process made it.
        """
        try:
            if not self._unread:
                self._fill(1, self._wait(timeout))
        except TimeoutError:
            return False
        except EOFError:
            return True
        return True

    @guarded
    def give_back(self, batches: "Iterable[Batch]") -> None:
        """Requeue batches: they are delivered once more, before anything else.

        Args:
            batches: Batches that this arbiter delivered, in the order in which they are to come.

        Raises:
            ClosedError: The arbiter is closed, or another process made it.
            TypeError: Something is no Batch.
        """
        given = list(batches)
        if not all(isinstance(one, _core.views.Batch) for one in given):
            raise TypeError("only batches can be given back")
        self._unread[:0] = [one for one in given if len(one)]

    @guarded
    def flush(self) -> None:
        """Charge and deliver now what is pending: what is held comes with the next receive.

        Raises:
            ClosedError: The arbiter is closed, or another process made it.
        """
        self._core.flush()
        self._take()

    # ---- state ----

    @property
    def sources(self) -> int:
        """1: what it delivers is in one order."""
        return 1

    @property
    def background(self) -> int:
        """0: the memory for what waits is that of the legs."""
        return 0

    @property
    def legs(self) -> tuple[Source, ...]:
        """The legs, in the order in which they were given."""
        return tuple(leg.source for leg in self._legs)

    @property
    def waiting(self) -> list[Source]:
        """The legs that have not ended, and whose packets are all decided on: those to be waited for."""
        self._check_process()
        return [leg.source for at, leg in enumerate(self._legs) if not leg.ended and self._core.wants(at)]

    @property
    def next_due(self) -> float | None:
        """Seconds until something is due without a further packet; None: nothing is."""
        self._check_process()
        due = self._core.due()
        return None if due < 0 else due / NANOSECONDS

    @property
    def stats(self) -> ArbiterStats:
        """What became of the numbers so far. Packets that no receive has taken from the legs are not in it."""
        self._check_process()
        ended = [leg.ended for leg in self._legs]
        return ledger_of(*self._core.counters(), ended, self._silence, self._batches)

    def _tear_down(self) -> None:
        self._unread, self._ready = [], None

    _abandon = _tear_down

    def _is_unfinished(self) -> bool:
        return False

    def __repr__(self) -> str:
        return f"<Arbiter of {len(self._legs)} legs, {self.format}{', closed' if self._closed else ''}>"


def _poll_of(sources: list[Source]) -> "select.poll | None":
    """What waits for several sources together; None where a source, or this system, has nothing for it."""
    if not hasattr(select, "poll"):
        return None
    poll = select.poll()
    try:
        for source in sources:
            poll.register(source.fileno(), select.POLLIN)  # type: ignore[attr-defined]
    except (AttributeError, FeatureError, ClosedError, OSError):
        return None
    return poll


# ---- groups that belong together ----


def _name(value: Pair, what: str = "pairs") -> Name:
    group = Group.coerce(value)
    if group.count != 1:
        raise ArgumentError(f"{what}: {group} is {group.count} groups; name one")
    (one,) = group.expand()
    return one.packed, group.port or 0


def _named(source: Source) -> list[Name]:
    """The groups of a source, in their order; empty: they are not known."""
    held: Any = getattr(source, "memberships", None)
    if held is not None:
        return list(dict.fromkeys(_name(Group(one.group, one.port)) for one in held))
    groups: Sequence[Group] = getattr(source, "groups", ())
    return list(dict.fromkeys((one.packed, group.port or 0) for group in groups for one in group.expand()))


def _pairings(sources: list[Source], pairs: Pairs | None) -> list[list[tuple[bytes, int, int]]]:
    """For each leg its groups, and the number of what they belong to; ArgumentError, GroupError."""
    if pairs is not None:
        return _given(len(sources), pairs)
    named = [_named(source) for source in sources]
    if len({len(names) for names in named if names}) > 1:
        counts = ", ".join(str(len(names)) for names in named)
        raise ArgumentError(f"the legs have {counts} groups: which of them belong together? Give pairs")
    return [[(*name, channel) for channel, name in enumerate(names)] for names in named]


def _given(legs: int, pairs: Pairs) -> list[list[tuple[bytes, int, int]]]:
    rows: list[dict[Name, int]] = [{} for _ in range(legs)]
    checked(pairs, Mapping, "pairs", "a mapping of groups, such as {'239.1.1.1:5000': '239.2.1.1:5000'}")
    for channel, (first, others) in enumerate(pairs.items()):
        several = [others] if isinstance(others, str | Group) else list(others)
        if len(several) != legs - 1:
            raise ArgumentError(f"pairs: {first} goes with {len(several)} groups, and there are {legs - 1} other legs")
        for row, value in zip(rows, (first, *several), strict=True):
            if row.setdefault(_name(value), channel) != channel:
                raise ArgumentError(f"pairs: {value} is named twice")
    return [[(*name, channel) for name, channel in row.items()] for row in rows]
