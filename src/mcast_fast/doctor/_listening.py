"""Listens for groups at three places: at every interface, by sockets, and as the program would.

At first only what is asked for is joined. What has not come by half of the time is joined on every interface too, from
any source, to find where it arrives; for what has not come by three quarters of it, the interface takes all groups, to
find what its filter loses. It ends early as soon as each group is decided.
"""

import contextlib
import errno
import selectors
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from mcast_fast import _core
from mcast_fast._systems import SYSTEM
from mcast_fast.doctor._feeds import Feed, add_one
from mcast_fast.doctor._frames import Control, Datagram, parse
from mcast_fast.doctor._wire import Wire
from mcast_fast.errors import MulticastError, os_text
from mcast_fast.groups import Group
from mcast_fast.receiver import Receiver

ENOUGH = 50  # packets of a group that decide
SHORTEST = 1.0  # seconds that it listens at least, for drops and other senders
MOST_CONTROLS = 100  # queries and reports that are kept for a bundle
SAMPLED = 100  # packets of a batch that are looked at, and counted
TURN = 0.1  # seconds
USUAL = 10.0  # seconds: what is done after a part of the time is done after that part of them at the latest
COME = 5  # packets of a group, after which its interface takes all groups no longer
WIDE = USUAL / 4  # seconds for which it takes them at most
AFTER = 0.5  # seconds for which it is watched then
NO_FAMILY = frozenset({errno.EAFNOSUPPORT, getattr(errno, "WSAEAFNOSUPPORT", errno.EAFNOSUPPORT)})


class Listening:
    """What was received for feeds. `wire_fault`: why interfaces could not be looked at; empty when they were.

    `surveyed`: an interface at which the datagrams of all groups are counted, in `traffic`; empty for none."""

    def __init__(self, feeds: Sequence[Feed], *, spread: bool, surveyed: str = "") -> None:
        self.feeds = feeds
        self.surveyed = surveyed
        self.traffic: Counter[tuple[str, int, str]] = Counter()  # by group, port (0: a later fragment) and source
        self.refusal: MulticastError | None = None
        self.wire_fault = ""
        self.wire_errno = 0
        self.controls: list[Control] = []
        self.queries: dict[tuple[str, str], float] = {}  # the time of the last one, by interface and protocol
        self.reports = 0  # that left this host
        self.began = self.ended = 0.0
        self.has_joined_everywhere = False
        self._spread = spread
        self._wide: set[int] = set()  # interfaces that take all groups
        self._polled: list[tuple[str, Receiver]] = []  # where a receiver has no descriptor to wait for
        self._by_address: dict[str, list[Feed]] = {}
        for feed in feeds:
            self._by_address.setdefault(feed.group.address, []).append(feed)

    @property
    def seconds(self) -> float:
        """For how long it listened."""
        return self.ended - self.began

    def run(self, seconds: float, whole: bool, is_over: Callable[[], bool]) -> None:
        """Listen for that long, until all is decided, or until `is_over` says so."""
        with ExitStack() as opened, selectors.DefaultSelector() as waiting:
            self.began = self.ended = time.monotonic()
            wire = self._open_wire(opened, waiting)
            self._open(opened, waiting, [str(feed.group) for feed in self.feeds if not feed.fault], "asked")
            end, usual = self.began + seconds, min(seconds, USUAL)
            while (now := time.monotonic()) < end and not is_over():
                if not whole and now >= self.began + min(seconds, SHORTEST) and self._is_decided(now):
                    break
                silent = [feed for feed in self.feeds if not feed.last and not feed.heard]
                if silent and not self.has_joined_everywhere and now >= self.began + usual / 2:
                    self._join_everywhere(opened, waiting, silent)
                if wire is not None and now >= self.began + usual * 3 / 4:
                    self._widen(wire, silent, now)
                for kind, receiver in self._polled:
                    self._receive(receiver, kind, TURN / 2)
                if waiting.get_map():
                    for key, _ in waiting.select(max(0.0, min(end - now, TURN))):
                        self._read(key)
                elif not self._polled:
                    break  # nothing could be opened
            self.ended = time.monotonic()

    def _is_decided(self, now: float) -> bool:
        if self.refusal is not None:
            return True
        return bool(self.feeds) and all(
            (
                feed.fault is not None
                or (feed.interface is not None and not feed.interface.is_up)
                or feed.heard.total() >= ENOUGH
                or feed.elsewhere.total() >= ENOUGH
                or sum(count for frame, count in feed.frames.items() if not frame.is_outgoing) >= ENOUGH
            )
            and not (feed.widened and now < (feed.narrowed or feed.widened) + AFTER)
            for feed in self.feeds
        )

    # ---- what is opened ----

    def _open(self, opened: ExitStack, waiting: selectors.BaseSelector, groups: list[str], kind: str) -> None:
        if not groups:
            return
        try:
            receiver = opened.enter_context(Receiver(groups, timeout=0, spread=self._spread, gro=False))
            if _core.features()["descriptor"]:
                waiting.register(receiver.fileno(), selectors.EVENT_READ, (kind, receiver))
            else:
                self._polled.append((kind, receiver))
        except MulticastError as error:
            if kind == "asked":
                self.refusal = error

    def _join_everywhere(self, opened: ExitStack, waiting: selectors.BaseSelector, silent: list[Feed]) -> None:
        self.has_joined_everywhere = True
        texts = {str(Group(feed.group.address, feed.port, "all")) for feed in silent}
        self._open(opened, waiting, sorted(texts), "everywhere")

    def _open_wire(self, opened: ExitStack, waiting: selectors.BaseSelector) -> Wire | None:
        if not SYSTEM.has_packet_sockets:
            self.wire_fault = "this system has no packet sockets"
            return None
        try:
            wire = opened.enter_context(Wire(None if self.surveyed else [one.group.address for one in self.feeds]))
            waiting.register(wire, selectors.EVENT_READ, ("wire", wire))
            return wire
        except OSError as error:
            self.wire_errno = error.errno or 0
            words = "it needs CAP_NET_RAW" if isinstance(error, PermissionError) else os_text(self.wire_errno)
            self.wire_fault = f"a packet socket is refused: {words}"
            return None

    def _widen(self, wire: Wire, silent: list[Feed], now: float) -> None:
        """Have the interfaces of silent groups take all of them (allmulti), until one of these comes, or for WIDE."""
        for feed in silent:
            index = feed.interface.index if feed.interface and not feed.interface.is_loopback else 0
            if index and not feed.widened:
                feed.widened = now
                self._take_all(wire, index, begins=True)
        done = {
            feed.interface.index
            for feed in self.feeds
            if feed.interface and feed.widened and (feed.came_wide >= COME or now >= feed.widened + WIDE)
        } & self._wide
        for index in done:
            self._take_all(wire, index, begins=False)
        for feed in self.feeds:
            if feed.widened and feed.interface and feed.interface.index in done:
                feed.narrowed = now

    def _take_all(self, wire: Wire, index: int, *, begins: bool) -> None:
        if begins is not (index in self._wide):
            self._wide ^= {index}
            with contextlib.suppress(OSError):  # it has gone
                wire.take_all(index, begins=begins)

    # ---- what is read ----

    def _read(self, key: selectors.SelectorKey) -> None:
        kind, source = key.data
        if kind == "wire":
            for beside, data, protocol in source.frames():
                self._take(parse(data, protocol, beside))
        else:
            self._receive(source, kind, 0)

    def _take(self, seen: Datagram | Control | None) -> None:
        now = time.monotonic()
        if isinstance(seen, Datagram):
            if seen.interface == self.surveyed and not seen.is_outgoing:
                add_one(self.traffic, (seen.group, seen.port, seen.source))
            for feed in self._by_address.get(seen.group, ()):
                feed.see(seen, now)
        elif seen is not None:
            if seen.is_query:
                self.queries[seen.interface, seen.protocol] = now
            self.reports += seen.is_outgoing and not seen.is_query
            if len(self.controls) < MOST_CONTROLS:
                self.controls.append(seen)

    def _receive(self, receiver: Receiver, kind: str, timeout: float) -> None:
        try:
            batch = receiver.recv_batch(timeout=timeout)
        except (TimeoutError, MulticastError):
            return
        now = time.monotonic()
        share = max(1.0, len(batch) / SAMPLED)  # of a large batch only some are looked at
        for at, packet in enumerate(batch):
            if at >= SAMPLED:
                break
            for feed in self._by_address.get(packet.group, ()):
                if feed.port != packet.port:
                    continue
                if kind == "everywhere":
                    add_one(feed.elsewhere, (packet.interface or "", packet.source))
                elif feed.name in ("", packet.interface) and feed.group.source in (None, packet.source):
                    add_one(feed.heard, packet.source)
                    feed.take(share, len(packet) * share, now)
