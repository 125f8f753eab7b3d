"""The search for the largest rate that is held, after RFC 2544 section 26.1: which rate to try next. No I/O.

The first trial is as fast as the sender can. Where it loses nothing, the sender is the limit. Otherwise rates between
what was held and what was not are tried, halving what is between them, until they are within `RESOLUTION` of each
other; then the best one is tried once more, for twice as long. Where it loses then, so are rates that are a tenth lower
each time.
"""

from mcast_fast._bench.trial import How, Limit, Result, Trial

RESOLUTION = 0.05
TRIALS = 12  # of which a search has the time
MOST = 24  # trials at all
LEAST = 1.0  # packets per second: below it nothing is held
FEW = 0.1  # of the rate of the first trial: what is lost of so few is not lost for their number
_LOWER = 0.9  # of a rate that was held at first, and not when it was tried again


class Search:
    """Decides; `with` trials that are run elsewhere: `step` until it is None, `take` after each.

    Args:
        how: What is measured.
        size: Bytes of payload.
        allowed: The share of packets that may be lost.
    """

    def __init__(self, how: How, size: int, allowed: float = 0.0) -> None:
        self._how: How = how
        self._size = size
        self._allowed = allowed
        self._trials: list[Trial] = []
        self._low = 0.0  # held
        self._high: float | None = None  # not held
        self._failed: Trial | None = None  # at `_high`
        self._is_confirmed = False
        self._is_first = True
        self._is_confirming = False

    def step(self) -> tuple[float | None, int] | None:
        """The rate to try (None: as fast as possible) and for how many times the usual time; None: it is known."""
        if self._is_first:
            return None, 1
        if self._is_confirmed or len(self._trials) >= MOST:
            return None
        if self._high is None:
            self._is_confirming = True
            return None, 2  # the sender is the limit: whether it stays so
        if self._is_confirming or self._high - self._low <= RESOLUTION * self._high:
            self._is_confirming = True
            return (self._low, 2) if self._low > LEAST else None
        return self._guess(self._high), 1

    def _guess(self, high: float) -> float:
        """At first near to what came through; then the middle."""
        latest = self._trials[-1]
        if not self._low and latest.wanted is None:
            through = latest.counted.received / max(latest.sent.seconds, 1e-9)
            return min(0.95 * high, max(0.1 * high, 0.9 * through))
        return (self._low + high) / 2

    def take(self, trial: Trial) -> None:
        """What came of it."""
        self._trials.append(trial)
        self._is_first = False
        if not self._is_held(trial):
            self._is_confirming = self._is_confirming and trial.wanted is not None
            if self._is_confirming or self._low >= trial.offered:
                self._low = _LOWER * trial.offered if self._is_confirming else 0.0
            self._high, self._failed = min(self._high or trial.offered, trial.wanted or trial.offered), trial
        elif self._is_confirming:
            self._is_confirmed = True
            self._low = trial.offered
        else:
            self._low = max(self._low, trial.offered)
            if trial.is_short and trial.wanted is not None and self._high is not None:
                self._high = min(self._high, max(self._low, trial.wanted))  # the sender sends no more than this

    def _is_lost_anyway(self, latest: Trial) -> bool:
        """Whether the network loses packets at a small part of the rate too, so that more time would find none."""
        return latest.cause() == "elsewhere" and latest.offered <= FEW * self._trials[0].offered

    def _is_held(self, trial: Trial) -> bool:
        return trial.sent.packets > 0 and trial.loss <= self._allowed

    def result(self) -> Result:
        """What is known by now."""
        limit: Limit = "time"
        rate = self._low
        if not self._is_confirmed:
            held = [one.offered for one in self._trials if self._is_held(one)]
            rate = max((one for one in held if self._high is None or one < self._high), default=0.0)
        if self._failed is None or (self._is_confirmed and self._trials[-1].is_short):
            limit = "sender" if self._trials else "time"
        elif rate or len(self._trials) >= MOST or self._is_lost_anyway(self._failed):
            limit = self._failed.cause()
        return Result(self._how, self._size, rate, limit, self._high, tuple(self._trials), self._is_confirmed)
