"""Watch: what the system reports of links and addresses, as events of the joined interfaces.

It reports, and changes nothing. It listens in the network namespace of the thread that opened it. Its thread refers to
the objects that it reports to weakly, so that a receiver that is forgotten is collected, and the thread ends.
"""

import contextlib
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from errno import EAGAIN
from typing import TypeVar

from mcast_fast._core import pairs, refusals, threads
from mcast_fast._host import news
from mcast_fast._host.changes import Change, Kind
from mcast_fast._host.ifreq import IFF_RUNNING, IFF_UP
from mcast_fast._host.interfaces import Interface, interfaces
from mcast_fast._systems import SYSTEM
from mcast_fast.errors import Argument, ClosedError, FeatureError, MulticastError, socket_error
from mcast_fast.stats import Event, What

# Seconds: between tries of what did not go well, twice as long each time; and for how long an interface has to be up
# without a break before it is joined afresh, unless it flaps for longer than FLAPPING.
RETRY, LONGEST_RETRY = 0.1, 5.0
QUIET, FLAPPING = 0.5, 10.0
# Seconds after which interfaces are listed once more, where a change of the list was reported: macOS lists one that
# goes until all its users have let it go, and Windows gives an address to a new one later.
SETTLED = 1.0
ENDING = 0.1  # seconds that close() gives the thread to close its descriptors

log = logging.getLogger("mcast_fast")

T = TypeVar("T")


@dataclass(slots=True)
class Link:
    """What was last reported of an interface; its addresses as last listed, None where one changed since then."""

    name: str
    is_running: bool
    addresses: frozenset[str] | None = None

    @classmethod
    def of(cls, listed: Interface) -> "Link":
        """As it is listed."""
        return cls(listed.name, listed.is_up and listed.has_carrier, frozenset(listed.addresses))


def is_running(flags: int) -> bool:
    """Up, and with a carrier (netdevice(7))."""
    return flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING


Report = Callable[[What, int, str], bool]


class Watch:
    """Calls `report(what, index, name)` in a thread of its own for every event of an interface in `indexes()`.

    Both are bound methods, which are held weakly. BACK is reported of every interface that is there with a carrier and
    was not before; REJOINED when one of `indexes()` is up for a while, after however many flaps. What returns False is
    reported again later. Whatever is raised is logged, reported as FAILED, and does not end the thread. SocketError,
    FeatureError, with nothing left open."""

    def __init__(self, indexes: Callable[[], Collection[int]], report: Report) -> None:
        if reason := SYSTEM.missing.get("watch") or refusals.of_netlink():
            raise FeatureError(
                Argument("watch", "True"),
                f": {reason}; mcast_fast.features() and `mcast-fast version` list what there is",
            )
        self._opener = os.getpid()
        self._news: news.News | None = None
        self._wake: pairs.End | None = None
        self._waker: pairs.End | None = None
        self._listener: Listener | None = None
        try:
            self._news = news.opened()
            self._wake, self._waker = pairs.connected()
            self._waker.setblocking(False)
            # Listed after the news are open, so that no change falls between.
            links = {one.index: Link.of(one) for one in interfaces()}
            self._listener = Listener(self._news, self._wake, links, _weakly(indexes), _weakly(report))
            threads.start(self._listener.run, name="mcast-fast watch")
        except BaseException as error:
            self._undo(error)
            raise

    def _undo(self, error: BaseException) -> None:
        """Leave nothing open after a refused or interrupted opening; and raise what was refused as an error of ours."""
        self._end()
        if isinstance(error, RuntimeError) and "new thread" in str(error):  # and not one of a signal handler's own
            raise socket_error("open", "a thread for the news of interfaces", OSError(EAGAIN, "")) from error
        if isinstance(error, OSError) and not isinstance(error, MulticastError):
            raise socket_error("open", "the system's news of interfaces", error) from error

    def close(self) -> None:
        """Have the thread end; it closes what it listens to. Again does nothing.

        Never waits for the thread where that may wait for the caller: at most ENDING seconds for its descriptors. In a
        forked child, which has no such thread, it closes the child's descriptors and does nothing else."""
        waker = self._waker
        if waker is None or waker.fileno() < 0:
            return
        if os.getpid() != self._opener:
            self._close_descriptors()
        else:
            self._end()

    def _end(self) -> None:
        """Have the descriptors closed by their owner: the thread, or us where it has not come to run yet."""
        listener, waker = self._listener, self._waker
        if listener is None or waker is None or listener.is_owner(OPENER):
            self._close_descriptors()
            return
        # A byte too, for a forked child may have this end open as well.
        with contextlib.suppress(OSError):
            waker.send(b"!")
        waker.close()
        if not listener.is_this_thread():
            listener.has_ended(ENDING)

    def _close_descriptors(self) -> None:
        for one in (self._news, self._wake, self._waker):
            if one is not None:
                one.close()

    def __del__(self) -> None:
        if hasattr(self, "_listener"):
            self.close()


class _Task:
    """Something to report at a time of the monotonic clock, and again after `delay` seconds if it did not go well."""

    def __init__(self, when: float) -> None:
        self.when = self.since = when
        self.delay = RETRY


OPENER, THREAD = "opener", "thread"


class Listener:
    """What the thread of a watch knows; it owns both sockets from when it runs, unless the opener took them before."""

    def __init__(
        self,
        opened: news.News,
        wake: pairs.End,
        links: dict[int, Link],
        indexes: Callable[[], Callable[[], Collection[int]] | None],
        report: Callable[[], Report | None],
    ) -> None:
        self._news = opened
        self._wake = wake
        self._links = links
        self._indexes = indexes
        self._report = report
        self._has_lost_news = False
        self._list_at: float | None = None  # monotonic time at which the interfaces are listed once more
        self._failure = ""  # that was reported last
        self._tasks: dict[tuple[What, int], _Task] = {}
        self._owner: dict[str, str] = {}
        self._thread = 0
        self._ended = threading.Lock()
        self._ended.acquire()  # until the thread ends
        for index, link in links.items():  # some may have come since they were listed
            if link.is_running:
                self._plan(What.BACK, index)

    def is_owner(self, who: str) -> bool:
        """Whether the sockets are this one's to close: of OPENER and THREAD the first one to call this is the owner."""
        return self._owner.setdefault("", who) == who  # one step, and the same answer again after an exception

    def is_this_thread(self) -> bool:
        """Whether the caller is the thread of the watch."""
        return self._thread == threading.get_ident()

    def has_ended(self, seconds: float) -> bool:
        """Whether the thread ended within this many seconds."""
        if self._ended.acquire(timeout=seconds):
            self._ended.release()
            return True
        return False

    def run(self) -> None:
        """Report until the other end of `wake` is closed."""
        if not self.is_owner(THREAD):
            return
        self._thread = threading.get_ident()
        waiting: news.Waiting | None = None
        try:
            waiting = self._news.waiting(self._wake)
            while not self._turn(waiting):
                pass
        finally:
            if waiting is not None:
                waiting.close()
            self._news.close()
            self._wake.close()
            self._ended.release()

    def _turn(self, waiting: news.Waiting) -> bool:
        """Wait for news or for the time of a task, and report; whether it is the end."""
        is_woken, has_news = waiting.wait(self._until_next())
        if is_woken:
            return True
        try:
            if has_news:
                for change in self._news.read():
                    self._take(change)
            if self._list_at is not None and self._list_at <= time.monotonic():
                self._list_at, self._has_lost_news = None, True
            if self._has_lost_news:
                self._compare()
            self._do_tasks()
            self._failure = ""
        except ClosedError:
            return False  # the close comes
        except Exception as error:
            self._has_lost_news = True  # in part, perhaps: they are compared in a while
            self._fail(error)
        return False

    def _fail(self, error: Exception) -> None:
        """Log and report an error, once while it stays the same."""
        text = f"watch: {type(error).__name__}: {error}"
        if text == self._failure:
            return
        self._failure = text
        log.exception("the watch of interfaces goes on after an error")
        try:
            self._tell(What.FAILED, 0, text)
        except Exception:
            log.exception("the watch of interfaces could not report an error")

    def _tell(self, what: What, index: int, name: str) -> bool:
        report = self._report()
        return report is None or report(what, index, name)

    def _is_ours(self, index: int) -> bool:
        indexes = self._indexes()
        return indexes is not None and index in indexes()

    # ---- tasks ----

    def _plan(self, what: What, index: int, after: float = 0.0) -> None:
        """Report something `after` seconds; when it was planned already, then later, but not forever."""
        now = time.monotonic()
        task = self._tasks.setdefault((what, index), _Task(now))
        task.when = min(now + after, max(now, task.since + FLAPPING))

    def _until_next(self) -> float | None:
        if self._has_lost_news:  # the last turn failed: what is due waits for the comparison, too
            return RETRY
        times = [task.when for task in self._tasks.values()] + ([] if self._list_at is None else [self._list_at])
        return max(0.0, min(times) - time.monotonic()) if times else None

    def _do_tasks(self) -> None:
        for (what, index), task in list(self._tasks.items()):
            if task.when > time.monotonic():
                continue
            link = self._links.get(index)
            del self._tasks[what, index]
            if link is None or not link.is_running:
                continue  # when it is up, it is planned again
            task.when, task.delay = time.monotonic() + task.delay, min(2 * task.delay, LONGEST_RETRY)
            self._tasks[what, index] = task
            if self._tell(what, index, link.name):
                self._tasks.pop((what, index), None)

    # ---- news ----

    def _compare(self) -> None:
        """Bring what is known up to date after news were lost, or where they only say that something changed."""
        now = {one.index: one for one in interfaces()}
        for index in [index for index in self._links if index not in now]:
            self._take(Change(Kind.GONE, index))
        for one in now.values():
            self._take_link(one.index, Link.of(one))
            self._take_addresses(one.index, frozenset(one.addresses))
        self._has_lost_news = False

    def _take(self, change: Change) -> None:
        known = self._links.get(change.index)
        if change.kind is Kind.LIST:
            self._has_lost_news, self._list_at = True, time.monotonic() + SETTLED
        elif change.kind is Kind.LINK:
            if name := change.name or (known.name if known is not None else ""):  # else the list has it
                self._take_link(change.index, Link(name, is_running(change.flags)))
        elif known is not None:
            self._take_known(change.kind, change.index, known)

    def _take_known(self, kind: Kind, index: int, known: Link) -> None:
        if kind is Kind.GONE:
            del self._links[index]
        else:
            known.addresses = None
        if self._is_ours(index):
            self._tell(What.GONE if kind is Kind.GONE else What.ADDRESS, index, known.name)

    def _take_addresses(self, index: int, addresses: frozenset[str]) -> None:
        link = self._links[index]
        before, link.addresses = link.addresses, addresses
        if before is not None and before != addresses and self._is_ours(index):
            self._tell(What.ADDRESS, index, link.name)

    def _take_link(self, index: int, now: Link) -> None:
        before = self._links.get(index)
        self._links[index] = now if before is None else replace(now, addresses=before.addresses)
        if now.is_running and (before is None or not before.is_running or before.name != now.name):
            self._plan(What.BACK, index)
        if before is None or not self._is_ours(index):
            return
        if before.name != now.name:
            self._tell(What.RENAMED, index, now.name)
        if before.is_running != now.is_running:
            if now.is_running:
                self._plan(What.REJOINED, index, QUIET)
            self._tell(What.UP if now.is_running else What.DOWN, index, now.name)


def _weakly(call: Callable[..., T]) -> "Callable[[], Callable[..., T] | None]":
    """A bound method by a weak reference to its object; any other callable as it is."""
    return weakref.WeakMethod(call) if hasattr(call, "__self__") else lambda: call


def event(what: What, interface: str, detail: str = "") -> Event:
    """An event of now, which is logged too."""
    log.info("interface %s: %s %s", interface, what.value, detail)
    return Event(time.time_ns(), what, interface, detail)
