"""What many groups cost: columns of a ring, rx.stats on rings and sockets, joins and leaves, at 1, 1,000 and 4,000.

Two namespaces joined by veth. Every receiver is a process of its own and stays open; in turn, and in a new order every
round, each ring is filled by packets to all of its groups by turns, and timed while it is read. Those groups come in
runs of 16 neighbours; what is joined and left is scattered over 239.0.0.0/8, the worst case for the kernel's filter.
"""

import argparse
import contextlib
import itertools
import random
import resource
import socket
import struct
import time
from contextlib import ExitStack
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks import live, machine, network, reference, ring, station
from benchmarks.contenders import FAST, Setting
from benchmarks.network import Place
from benchmarks.process import Process
from benchmarks.report import Bar, Direction, Report, Table, ratio, spread
from benchmarks.ring_contenders import ReferenceRing, RingColumns

MODULE = "benchmarks.groups"
ROUNDS = 9
COUNT = 50_000
SIZE = 256
RING_BYTES = 256 << 20  # blocks enough for as long as filling takes: one every 10 ms
BUFFER_BYTES = 64 << 10
QUIET_MS = 1000
GROUPS = (1, 1_000, 4_000)
RUN = 16  # groups that are neighbours, where packets are received: the kernel's filter can be exact at 4,000 groups
SETTLED_SECONDS = 1.0  # a long filter delays packets: the kernel's threads run it after the sender has ended
CALLS = 100  # of rx.stats in a round
JOINED_ONE_BY_ONE, JOINED_AT_ONCE = 2_000, 4_000
GROUPS_OF_A_SOCKET = 20  # net.ipv4.igmp_max_memberships
STATS_MICROSECONDS, STATS_OF_A_SOCKET, STATS_OF_A_RING = 5.0, 0.4, 20.0
DESCRIPTORS = 4_096
PATIENCE_SECONDS = 600  # a join whose cost grows with the groups that are held takes minutes


def columns(groups: int) -> str:
    return f"columns, {groups:,} groups"


def stats(kind: str, groups: int) -> str:
    return f"rx.stats in µs, {kind}, {groups:,} groups"


ONE_BY_ONE = f"s for {JOINED_ONE_BY_ONE:,} joins one by one on a ring"
LEFT = f"s for {JOINED_ONE_BY_ONE:,} leaves one by one on a ring"
AT_ONCE = f"s to open a ring with {JOINED_AT_ONCE:,} groups"


def most_for_stats(kind: str, groups: int) -> float:
    """µs that the bar allows: a ring's do not grow, those of sockets by the socket."""
    if groups == 1:
        return STATS_MICROSECONDS
    sockets = -(-groups // GROUPS_OF_A_SOCKET)
    return STATS_OF_A_RING if kind == "ring" else STATS_MICROSECONDS + STATS_OF_A_SOCKET * sockets


BARS = (
    Bar(columns(1), "c", Direction.AT_MOST, 0.8),
    *(Bar(columns(groups), columns(1), Direction.AT_MOST, 1.3) for groups in GROUPS[1:]),
    *(
        Bar(stats(kind, groups), None, Direction.AT_MOST, most_for_stats(kind, groups))
        for kind in ("sockets", "ring")
        for groups in GROUPS
    ),
    Bar(ONE_BY_ONE, None, Direction.BELOW, 1.0),
    Bar(AT_ONCE, None, Direction.BELOW, 0.5),
)


# ---- in the processes ----


def scattered(count: int) -> list[str]:
    """So many groups of 239.0.0.0/8, the same ones each time; the first is that of the other benchmarks."""
    numbers = random.Random(count).sample(range(1 << 24), count - 1)
    return [network.GROUP, *(socket.inet_ntoa(struct.pack(">I", 239 << 24 | number)) for number in numbers)]


def neighbouring(count: int) -> list[str]:
    """So many groups in runs of neighbours, as feeds have them: the runs are scattered."""
    starts = random.Random(count).sample(range(1, 1 << 24, RUN), -(-count // RUN))
    numbers = [start + offset for start in starts for offset in range(RUN)][: count - 1]
    return [network.GROUP, *(socket.inet_ntoa(struct.pack(">I", 239 << 24 | number)) for number in numbers)]


def opened(place: Place, groups: list[str], **options: Any) -> Any:
    """Our receiver of these groups."""
    import mcast_fast

    texts = (f"{group}%{place.interface}:{place.port}" for group in groups)
    return mcast_fast.Receiver(*texts, timeout=place.quiet_ms / 1000, **options)


class ManyColumns(RingColumns):
    """Ours with a ring, and many groups."""

    def __init__(self, place: Place, groups: int) -> None:
        import numpy as np

        self._asarray = np.asarray
        self._receiver = opened(place, neighbouring(groups), ring=place.buffer_bytes, batch_size=self.batch_size)


class ReceivingStation:
    """A receiver of many groups, or the C loop: `drain` times the reading of its ring, `stats` a call of rx.stats."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._place = place = Place(**order["place"])
        groups, kind = order["groups"], order["kind"]
        self._receiver = None
        if kind == "c":
            self._contender = ReferenceRing(Setting(place, order["library"]))
        elif kind == "ring":
            self._contender = ManyColumns(place, groups)
            self._receiver = self._contender._receiver
        else:
            self._receiver = opened(place, neighbouring(groups), buffer_size=BUFFER_BYTES)

    def ready(self) -> dict[str, Any]:
        return {"port": self._place.port}

    def discard(self) -> None:
        """Take what came while it was others' turn: a filter that is coarse lets their packets pass."""
        if self._receiver:
            with contextlib.suppress(TimeoutError):
                while True:
                    self._receiver.recv_batch(timeout=0)
        station.say()

    def drain(self, count: int, size: int) -> None:
        time.sleep(SETTLED_SECONDS)
        start = time.perf_counter_ns()
        received = self._contender.receive(count)
        end = time.perf_counter_ns()
        if (received.packets, received.total) != (count, count * size):
            ledger = f", {self._receiver.stats}" if self._receiver else ""
            raise RuntimeError(f"sent {count} x {size} bytes, but received {received}{ledger}")
        station.say(wall=(end - start) / count)

    def stats(self, calls: int) -> None:
        receiver = self._receiver
        start = time.perf_counter_ns()
        for _ in range(calls):
            _ = receiver.stats
        station.say(microseconds=(time.perf_counter_ns() - start) / calls / 1_000)


class MembershipStation:
    """Joins and leaves on rings that nobody sends to."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._place = Place(**order["place"])

    def ready(self) -> dict[str, Any]:
        return {}

    def one_by_one(self, groups: int) -> None:
        place = self._place
        texts = [f"{group}%{place.interface}:{place.port}" for group in scattered(groups + 1)[1:]]
        with opened(place, scattered(1), ring=place.buffer_bytes) as receiver:
            moments = [time.perf_counter()]
            for change in (receiver.join, receiver.leave):
                changed = sum(map(change, texts))
                if changed != groups:
                    raise RuntimeError(f"{change.__name__}: {changed} of {groups}")
                moments.append(time.perf_counter())
        station.say(joined=moments[1] - moments[0], left=moments[2] - moments[1])

    def at_once(self, groups: int) -> None:
        start = time.perf_counter()
        with opened(self._place, scattered(groups), ring=self._place.buffer_bytes) as receiver:
            taken = time.perf_counter() - start
            if len(receiver.memberships) != groups:
                raise RuntimeError(f"{len(receiver.memberships)} of {groups} groups")
        station.say(taken=taken)


class SendingStation:
    """Sends to many groups by turns, a system call each."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._socket = network.open_sending_socket(order["interface"])

    def ready(self) -> dict[str, Any]:
        return {}

    def send(self, port: int, count: int, size: int, groups: int) -> None:
        payload = bytes(size)
        for target in itertools.islice(itertools.cycle([(group, port) for group in neighbouring(groups)]), count):
            self._socket.sendto(payload, target)
        station.say(sent=count)


# ---- the side that commands ----


def add_options(options: argparse.ArgumentParser) -> None:
    options.add_argument("--count", type=int, default=COUNT, help="packets in the ring (%(default)s)")
    options.add_argument("--size", type=int, default=SIZE, help="bytes of payload (%(default)s)")
    options.add_argument("--calls", type=int, default=CALLS, help="of rx.stats in a round (%(default)s)")
    options.add_argument("--no-joins", action="store_true", help="leave joins and leaves out")
    options.add_argument(
        "--groups", type=int, nargs="+", default=list(GROUPS), metavar="N", help="numbers of groups, first 1"
    )


def run(options: argparse.Namespace) -> Report:
    settings = {name: getattr(options, name) for name in ("rounds", "count", "size", "calls")}
    report = Report("groups", settings, BARS)
    with machine.watched(report.notes), ExitStack() as stack:
        library = str(stack.enter_context(reference.compiled(ring.SOURCE)))
        sending, receiving = stack.enter_context(live.link())
        prefix = live.inside(receiving)
        receivers = {
            name: stack.enter_context(open_one(name, receiving.interface, library, prefix)) for name in rows(options)
        }
        membership = {"place": asdict(Place(receiving.interface, 1 << 20, QUIET_MS, network.free_port()))}
        member = stack.enter_context(
            Process("member", membership, prefix=prefix, environment=FAST, module=MODULE, patience=PATIENCE_SECONDS)
        )
        order = {"interface": sending.interface}
        sender = stack.enter_context(Process("send", order, prefix=live.inside(sending), module=MODULE))
        report.samples = measure(receivers, sender, member, options)
    report.series = {name: [sample["value"] for sample in taken] for name, taken in report.samples.items()}
    report.tables = [columns_table(report), calls_table(report)]
    return report


Row = tuple[str, int]  # which receiver, with so many groups


def rows(options: argparse.Namespace) -> list[Row]:
    return [("c", 1), *((kind, groups) for kind in ("ring", "sockets") for groups in options.groups)]


def open_one(row: Row, interface: str, library: str, prefix: tuple[str, ...]) -> Process:
    kind, groups = row
    place = Place(interface, RING_BYTES, QUIET_MS, network.free_port())
    order = {
        "contender": f"{kind}, {groups} groups",
        "kind": kind,
        "groups": groups,
        "place": asdict(place),
        "library": library,
    }
    return Process("receive", order, prefix=prefix, environment=FAST, module=MODULE)


def measure(
    receivers: dict[Row, Process], sender: Process, member: Process, options: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    samples: dict[str, list[dict[str, float]]] = {}
    shuffled = random.Random(1)
    order: list[Row | None] = [*receivers, *([] if options.no_joins else [None])]  # None: joins and leaves
    for number in range(options.rounds + 1):
        shuffled.shuffle(order)
        for row in order:
            told = membership(member) if row is None else one_round(row, receivers[row], sender, options)
            for name, value in told.items() if number > 0 else ():
                samples.setdefault(name, []).append({"value": value})
    return samples


def one_round(row: Row, receiver: Process, sender: Process, options: argparse.Namespace) -> dict[str, float]:
    """What a receiver takes for a packet, and for rx.stats."""
    kind, groups = row
    told = {}
    if kind != "sockets":
        receiver.ask("discard")
        sender.ask("send", port=receiver.ready["port"], count=options.count, size=options.size, groups=groups)
        wall = receiver.ask("drain", count=options.count, size=options.size)["wall"]
        told["c" if kind == "c" else columns(groups)] = wall
    if kind != "c":
        told[stats(kind, groups)] = receiver.ask("stats", calls=options.calls)["microseconds"]
    return told


def membership(member: Process) -> dict[str, float]:
    taken = member.ask("one_by_one", groups=JOINED_ONE_BY_ONE)
    at_once = member.ask("at_once", groups=JOINED_AT_ONCE)
    return {ONE_BY_ONE: taken["joined"], LEFT: taken["left"], AT_ONCE: at_once["taken"]}


def columns_table(report: Report) -> Table:
    to = report.measured
    names = [name for name in to if name == "c" or name.startswith("columns")]
    lines = [
        (
            name,
            f"{to[name]:,.0f}",
            spread(report.series[name]),
            ratio(to[name], to["c"]),
            ratio(to[name], to[columns(1)]),
        )
        for name in sorted(names)
    ]
    return Table("drain of a full ring", ("", "ns per packet", "quartiles", "of C", "of one group's"), lines)


def calls_table(report: Report) -> Table:
    names = [name for name in report.series if name != "c" and not name.startswith("columns")]
    lines = [
        (
            name,
            f"{median(report.series[name]):,.2f}",
            f"{min(report.series[name]):,.2f}",
            f"{max(report.series[name]):,.2f}",
        )
        for name in sorted(names)
    ]
    return Table("calls", ("", "median", "least", "most"), lines)


if __name__ == "__main__":
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, DESCRIPTORS), most))
    station.STATIONS.update(receive=ReceivingStation, member=MembershipStation, send=SendingStation)
    station.main()
