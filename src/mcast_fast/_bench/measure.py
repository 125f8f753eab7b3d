"""Runs the search: on this machine's loopback, or between a load here and a counting host elsewhere."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from mcast_fast import _core
from mcast_fast._bench.counting import Counting
from mcast_fast._bench.load import Load
from mcast_fast._bench.search import TRIALS, Search
from mcast_fast._bench.trial import Counted, How, Result, Trial
from mcast_fast._host.interfaces import interfaces
from mcast_fast.errors import FeatureError, InterfaceError, MulticastError

GROUP = "239.255.77.2"  # of the loopback: sent with TTL 0
WAYS: tuple[How, ...] = ("sockets", "ring")
_LEAST = 2  # trials, however little time there is


class Peer(Protocol):
    """What counts: here, or on another host."""

    def begin(self) -> None:
        """Count anew."""

    def counted(self, key: int, sent: int) -> Counted:
        """What came of a trial."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is measured: payload sizes, ways of receiving, seconds for each search, and the share that may be lost."""

    sizes: Sequence[int]
    ways: Sequence[How]
    seconds: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """Results, and what was not tried, with the reason. `is_whole`: False when it was ended early."""

    results: tuple[Result, ...]
    not_tried: dict[str, str]
    is_whole: bool


class Bench:
    """Runs searches one after the other; `stop()` from a signal handler ends them."""

    def __init__(self, wanted: Wanted, on_event: Callable[[str], None]) -> None:
        self._wanted = wanted
        self._say = on_event
        self._load: Load | None = None
        self._stopped = threading.Event()

    def is_stopped(self) -> bool:
        """Whether it was ended early."""
        return self._stopped.is_set()

    def stop(self) -> None:
        """End what is running."""
        self._stopped.set()
        load = self._load
        if load is not None:
            load.stop()

    def run(
        self,
        peer_of: Callable[[How], contextlib.AbstractContextManager[Peer]],
        load_of: Callable[[int], Load],
    ) -> Outcome:
        """Every way with every size. A way behind the first one that is refused was not tried."""
        results: list[Result] = []
        not_tried: dict[str, str] = {}
        for how in self._wanted.ways:
            try:
                with peer_of(how) as peer:
                    results += [self._search(how, size, peer, load_of) for size in self._wanted.sizes]
            except MulticastError as error:
                if self.is_stopped():  # the other host was not waited for any longer
                    break
                if how == self._wanted.ways[0]:
                    raise
                not_tried[how] = str(error)
        return Outcome(tuple(one for one in results if one.trials), not_tried, not self.is_stopped())

    def _search(self, how: How, size: int, peer: Peer, load_of: Callable[[int], Load]) -> Result:
        if not self.is_stopped():
            self._say(f"{how}, {size:,} bytes: for {self._wanted.seconds:g} s at most")
        search = Search(how, size, self._wanted.allowed)
        unit = self._wanted.seconds / TRIALS
        end, done = time.monotonic() + self._wanted.seconds, 0
        while (step := search.step()) is not None and not self.is_stopped():
            rate, units = step
            if done >= _LEAST and time.monotonic() + units * unit > end + unit:
                break
            trial = self._tried(rate, units * unit, peer, load_of(size))
            if trial is None:
                break
            search.take(trial)
            done += 1
            self._say(_trial_text(how, size, trial))
        return search.result()

    def _tried(self, rate: float | None, seconds: float, peer: Peer, load: Load) -> Trial | None:
        """One trial; None: it was stopped."""
        key = load.new_key()
        self._load = load
        if self.is_stopped():  # before `stop` knew of it
            return None
        try:
            peer.begin()
            sent = load.run(rate, seconds, key)
            counted = peer.counted(key, sent.packets)
        except MulticastError:
            if self.is_stopped():  # the other host was not waited for any longer
                return None
            raise
        finally:
            self._load = None
        return None if self.is_stopped() else Trial(rate, sent, counted)


def _trial_text(how: How, size: int, trial: Trial) -> str:
    wanted = "as fast as it sends" if trial.wanted is None else f"{trial.wanted:,.0f}/s"
    return (
        f"{how}, {size:,} bytes, {wanted}: {trial.offered:,.0f}/s sent, {trial.lost:,} of {trial.sent.packets:,} lost"
    )


# Loopback ------------------------------------------------------------------------------------------------------------


def on_loopback(bench: Bench, **named: Any) -> Outcome:
    """The search where this machine sends to itself, with TTL 0; `named`: arguments of the Receiver."""
    loopback = next((one for one in interfaces() if one.is_loopback and one.is_up and one.ipv4), None)
    if loopback is None:
        raise InterfaceError("no loopback interface is up and has an IPv4 address; use --to HOST")
    group = f"{GROUP}%{loopback.name}:{_free_port()}"

    @contextlib.contextmanager
    def peer_of(how: How) -> Iterator[Peer]:
        with Counting(group, **named, **ring_arguments(how)) as counting:
            yield counting

    return bench.run(peer_of, lambda size: Load(group, size, ttl=0))


def ring_arguments(how: How) -> dict[str, Any]:
    """Of a Receiver; FeatureError where there is no ring."""
    if how == "sockets":
        return {}
    feature = _core.features()["ring"]
    if not feature:
        raise FeatureError(f"ring: {feature.reason}")
    return {"ring": True}


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("", 0))
        port: int = probe.getsockname()[1]
    return port
