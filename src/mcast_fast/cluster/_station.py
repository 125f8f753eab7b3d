"""Recording by a plan: one process per host, which knows by heartbeats what it is to record.

One thread sends and receives heartbeats, and changes the memberships; the Recorder has a thread of its own, and
another one makes the manifests of finished files. A recorder that fails, or that is killed, sends no more heartbeats:
its groups are recorded by others as the plan deals them.

Rules of this module: groups are joined as soon as they are dealt, and left when the host that has them instead has been
there for `silent`. So both record a group that moves for a moment, and at no moment nobody does.
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mcast_fast import _core
from mcast_fast._core.threads import start
from mcast_fast._units import NANOSECONDS, plural
from mcast_fast.cluster._clock import clock_state
from mcast_fast.cluster._deal import Deal
from mcast_fast.cluster._heartbeat import Presence, State
from mcast_fast.cluster._manifest import make_manifest, path_of
from mcast_fast.cluster._plan import Host, Plan, formats_of
from mcast_fast.errors import Argument, ArgumentError, FileError, MulticastError, file_error, warn
from mcast_fast.files import _index
from mcast_fast.files._limits import Rotation
from mcast_fast.files._recorder import AT_ONCE, Recorder
from mcast_fast.groups import Group
from mcast_fast.receiver import Receiver
from mcast_fast.sender import Sender

LOOKS = 4  # at who is there, per interval of heartbeats
MOST_HEARTBEATS = 256  # taken between two looks
MOST_CHANGES = 2000  # of memberships between two looks, some 0.1 ms each: heartbeats must not wait for more
LEAVING_BEATS = 3  # a heartbeat may be lost
Said = Callable[[str], None]


class ManifestMaker(_index.Indexer):
    """Makes the index and the manifest of each finished file, one after the other, in a thread of its own."""

    def __init__(self, plan: Plan, host: str) -> None:
        self._host, self._digest, self._has_index = host, plan.digest, plan.files.index
        self._formats = formats_of(plan)
        super().__init__()

    def _make(self, path: str) -> None:
        clock = clock_state()
        try:
            if self._has_index:
                super()._make(path)
            make_manifest(path, self._host, self._formats, clock, self._digest).store()
        except Exception as error:  # whatever is wrong with one file: those after it get theirs
            if Path(path).exists():  # else a ring has deleted it meanwhile
                warn(f"{path} has no manifest: {error}")
        if not Path(path).exists():
            with contextlib.suppress(OSError):
                Path(path_of(path)).unlink()


class _Session:
    """A Receiver and its Recorder, as long as there is something to record."""

    def __init__(self, plan: Plan, host: Host, groups: list[Group], maker: ManifestMaker) -> None:
        features = _core.features()
        options: dict[str, Any] = {"ring": True, "frames": True} if host.ring else {}
        if not host.ring:
            options = {
                "background": bool(features["background"]),
                "recv_ttl": bool(features["receive_ttl"]),
                "recv_tos": bool(features["receive_tos"]),
            }
        self.receiver = Receiver(
            *groups, interface=host.interface, batch_size=AT_ONCE, watch=bool(features["watch"]), **options
        )
        try:
            path = Path(host.directory, plan.files.name.replace("{host}", host.name))
            self.recorder = Recorder(
                self.receiver,
                path,
                rotate=Rotation(**plan.files.rotate),
                on_file=lambda file: maker.add(file.path),
                filter_text=f"plan {plan.name or plan.digest}, host {host.name}",
            )
        except BaseException:
            self.receiver.close()
            raise
        self.held = set(groups)
        self.failure: BaseException | None = None
        self._done = threading.Event()
        try:
            start(self._run, name="mcast-fast recorder")
        except BaseException:  # where it runs all the same, it ends by this
            with contextlib.suppress(MulticastError):
                self.recorder.close()
            self.receiver.close()
            raise

    def _run(self) -> None:
        try:
            self.recorder.run()
        except BaseException as error:  # for the thread that asks
            self.failure = error
        finally:
            self._done.set()

    def change(self, wanted: set[Group]) -> None:
        """Join and leave groups until it holds these, or for as long as heartbeats can wait."""
        joins = sorted(wanted - self.held, key=str)[:MOST_CHANGES]
        leaves = sorted(self.held - wanted, key=str)[: MOST_CHANGES - len(joins)]
        for group in joins:
            self.receiver.join(group)
            self.held.add(group)
        for group in leaves:
            self.receiver.leave(group)
            self.held.discard(group)

    @property
    def is_over(self) -> bool:
        """Whether the recorder has ended, without being asked to."""
        return self._done.is_set()

    def end(self) -> None:
        """Write what has arrived, finish the file, and close; raises what the recorder failed with."""
        try:
            self.recorder.stop()
            self._done.wait()
        finally:
            self.receiver.close()
        if self.failure is not None:
            raise self.failure


class Station:
    """The recorder of one host of a plan: `run()` records until stop().

    Args:
        plan: The plan.
        host: The name of this host in it.
        said: Called with a line for each change of who records what.

    Raises:
        ArgumentError: The plan has no such host.
        SocketError: The heartbeat group cannot be joined.
        FileError: The host's directory cannot be made.
    """

    def __init__(self, plan: Plan, host: str, said: Said = lambda line: None) -> None:
        if host not in plan.hosts:
            hosts = ", ".join(plan.hosts)
            raise ArgumentError(Argument("host", repr(host)), f" is none of the plan {plan.path or plan.name}: {hosts}")
        self._plan, self._host, self._said = plan, plan.hosts[host], said
        self._deal = Deal(plan)
        self._dealt: dict[frozenset[str], set[Group]] = {}
        self._stopped = False
        self._there: frozenset[str] = frozenset()
        self._told: set[str] = set()
        self._session: _Session | None = None
        self.written = self.files = 0
        try:
            Path(self._host.directory).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise file_error("open", self._host.directory, error) from error
        beat = plan.heartbeat
        self._presence = Presence(plan, host, secrets.randbits(63) or 1, time.monotonic_ns())
        self._ears = Receiver(
            beat.group,
            interface=self._host.interface,
            batch_size=MOST_HEARTBEATS,
            max_packet_size=128,
            watch=bool(_core.features()["watch"]),  # an interface that comes back has lost its memberships
        )
        try:
            self._voice = Sender(beat.group, interface=self._host.interface, ttl=beat.ttl)
        except BaseException:
            self._ears.close()
            raise

    def stop(self) -> None:
        """Have run() announce that this host leaves, record until others have taken over, and end."""
        self._stopped = True

    def run(self) -> None:
        """Record what the plan deals to this host, until stop().

        Raises:
            FileError: A file cannot be written.
            SocketError: Groups cannot be joined or received.
        """
        interval = self._plan.heartbeat.interval
        due = end = 0
        with contextlib.ExitStack() as stack:
            stack.callback(self._ears.close)
            stack.callback(self._voice.close)
            maker = ManifestMaker(self._plan, self._host.name)
            stack.callback(maker.finish)
            stack.callback(self._end_session)
            while True:
                now = time.monotonic_ns()
                if now >= due:
                    due = now + interval
                    self._beat(State.LEAVING if end else State.RECORDING)
                self._listen(min(due - now, interval // LOOKS))
                self._follow(time.monotonic_ns(), maker)
                if self._stopped and not end:
                    end, due = now + LEAVING_BEATS * interval, 0
                if end and now >= end:
                    return

    def _beat(self, state: State) -> None:
        try:
            self._voice.send(self._presence.beat(time.time_ns(), state))
        except MulticastError as error:  # others take over what they do not hear of; this host goes on
            self._tell(f"cannot announce itself: {error}")

    def _listen(self, wait: int) -> None:
        """Take the heartbeats that come within this many ns."""
        try:
            batch = self._ears.recv_batch(timeout=max(0, wait) / NANOSECONDS)
        except TimeoutError:
            return
        now, wall = time.monotonic_ns(), time.time_ns()
        for packet in batch:
            self._presence.hear(bytes(packet), now, packet.timestamp or wall)

    def _follow(self, now: int, maker: ManifestMaker) -> None:
        """Hold what is dealt to this host, and what is dealt to hosts that have only just come."""
        there = self._presence.there(now)
        if there != self._there:
            self._say_who(there)
            self._there = there
        wanted = self._share(there)
        settled = self._presence.settled(now) | {self._host.name}
        if self._session is not None:
            if self._session.is_over:
                self._end_session()
                raise FileError(0, "the recorder ended")
            wanted = wanted | (self._session.held & self._share(there & settled))
        if self._session is None and wanted:
            self._session = _Session(self._plan, self._host, sorted(wanted, key=str), maker)
            self._said(f"records {plural(len(wanted), 'group')} to {self._session.recorder.result.path}")
        elif self._session is not None and wanted != self._session.held:
            before = len(self._session.held)
            self._session.change(wanted)
            self._said(f"records {plural(len(self._session.held), 'group')}, {before} before")
            if not wanted:
                self._end_session()
        self._look_around()

    def _share(self, there: frozenset[str]) -> set[Group]:
        """What is dealt to this host when these are there."""
        if there not in self._dealt:
            if len(self._dealt) > 64:
                self._dealt.clear()
            self._dealt[there] = next(
                set(one.groups) for one in self._deal.shares(there) if one.host == self._host.name
            )
        return self._dealt[there]

    def _say_who(self, there: frozenset[str]) -> None:
        gone, come = sorted(self._there - there), sorted(there - self._there)
        parts = [f"{', '.join(names)} {what}" for names, what in ((come, "there"), (gone, "silent")) if names]
        self._said("; ".join(parts))

    def _look_around(self) -> None:
        """Say once what is odd of other hosts."""
        for name in self._presence.other_plans:
            self._tell(f"{name} has another plan: its heartbeats are ignored")
        if self._presence.twins:
            self._tell(f"another recorder announces itself as {self._host.name}")
        for name, ahead in self._presence.clocks().items():
            which = "ahead of" if ahead > 0 else "behind"
            self._tell(f"the clock of {name} is {which} this one by more than a second")

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            warn(text)

    def _end_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            try:
                session.end()
            finally:
                result = session.recorder.result
                self.written += result.written
                self.files += result.files
