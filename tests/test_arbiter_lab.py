"""Two legs between two hosts, a firewall that drops at random on either: the ledger is what the senders and the firewall counted."""

import contextlib
import threading
import time
from collections.abc import Iterator

import pytest

import mcast_fast as mcast
from mcast_fast import files
from mcast_fast.sequence import Arbiter, ArbiterStats
from tests import lab
from tests.legs import check, numbers

pytestmark = [pytest.mark.lab]

GROUPS, PORT, COUNT, RATE = ("239.1.1.1", "239.2.1.1"), 5000, 20_000, 20_000
FIGURES = ("expected", "delivered", "unrecovered", "recovered", "duplicates", "restarts", "ambiguous", "late", "skew")


@pytest.fixture
def ends() -> Iterator[tuple[lab.End, lab.End]]:
    with lab.Lab() as made:
        yield made.link("a", "b")


class Kept:
    """A leg that writes what it delivers into a file."""

    def __init__(self, receiver: mcast.Receiver, writer: files.Writer) -> None:
        self._receiver, self._writer = receiver, writer

    def __getattr__(self, name: str) -> object:
        return getattr(self._receiver, name)

    def recv_batch(self, *arguments: object) -> mcast.Batch:
        batch = self._receiver.recv_batch(*arguments)  # type: ignore[arg-type]
        self._writer.write(batch)
        return batch


@contextlib.contextmanager
def forwarded(left: lab.End, right: lab.End, group: str, delay: float) -> Iterator[None]:
    """A host between two links that holds the packets of a group back for `delay` seconds, and sends each alone."""

    def forward() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                batch = rx.recv_batch(timeout=0.05)
                due = batch[-1].timestamp + int(delay * 1e9)
                time.sleep(max(0.0, (due - time.time_ns()) / 1e9))
                tx.send_batch(batch.payloads())

    over = threading.Event()
    with left.host.enter():
        rx = mcast.Receiver(f"{group}%{left.interface}:{PORT}", buffer_size="32MiB", gro=False)
        tx = mcast.Sender(f"{group}%{right.interface}:{PORT}", segmentation=False)
    with rx, tx:
        thread = threading.Thread(target=forward)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
        assert rx.stats.dropped == 0


def figures(stats: ArbiterStats) -> tuple[object, ...]:
    legs = [(one.received, one.lost, one.absent, one.covered, one.first, one.late) for one in stats.legs]
    return (*(getattr(stats, name) for name in FIGURES), legs)


def drop_at_random(end: lab.End, group: str, n: int, at: int = 0) -> lab.Counter:
    return end.host.add_table(
        end.interface, "egress", at, f"ip daddr {group} numgen random mod {n} 0 counter name hits drop"
    )


def arbitrated(
    sending: tuple[lab.End, lab.End],
    receiving: tuple[lab.End, lab.End],
    dropped: list[lab.Counter],
    paths: list[str],
    more: dict[str, bool],
) -> tuple[list[int], ArbiterStats, list[int]]:
    """COUNT numbers by each leg: those delivered, the ledger, and what each leg lost; the legs' files.

    The second sender starts when the first one's packets come, so that the second leg is not the earlier one."""
    with receiving[0].host.enter():
        receivers = [
            mcast.Receiver(f"{group}%{end.interface}:{PORT}", buffer_size="16MiB", **more)
            for group, end in zip(GROUPS, receiving, strict=True)
        ]
    with receivers[0], receivers[1], files.Writer(paths[0]) as first, files.Writer(paths[1]) as second:
        legs = [Kept(one, writer) for one, writer in zip(receivers, (first, second), strict=True)]
        with Arbiter(legs, "u64be@0", hold="5s", timeout="100ms") as feed:
            senders, got = [], list[int]()
            for group, end in zip(GROUPS, sending, strict=True):
                senders.append(end.blast(group, PORT, count=COUNT, rate=RATE))
                receivers[0].wait(None)
            lost = [0, 0]
            while any(leg.received + one < COUNT for leg, one in zip(feed.stats.legs, lost, strict=True)):
                got += numbers(feed.batches())
                lost = [one.packets + (rx.stats.dropped or 0) for one, rx in zip(dropped, receivers, strict=True)]
            for one in senders:
                one.finish()
            feed.flush()
            got += numbers(feed.batches(timeout=0))
            return got, feed.stats, lost


@pytest.mark.parametrize("more", [{}, {"background": True}, {"ring": True}], ids=["plain", "background", "ring"])
def test_what_a_firewall_drops_on_either_leg(
    ends: tuple[lab.End, lab.End], tmp_path: object, more: dict[str, bool]
) -> None:
    a, b = ends
    dropped = [drop_at_random(a, group, n, at) for at, (group, n) in enumerate(zip(GROUPS, (7, 11), strict=True))]
    paths = [f"{tmp_path}/{name}.pcapng" for name in "ab"]
    got, live, lost = arbitrated((a, a), (b, b), dropped, paths, more)
    hold_to_account(got, live, lost, paths)


@pytest.mark.parametrize("delay", [0.033, 0.45])
def test_what_a_firewall_drops_where_one_leg_is_late(tmp_path: object, delay: float) -> None:
    with lab.Lab(("a", "m", "b")) as made:
        (a, b), (to_middle, middle), (beyond, late) = made.link("a", "b"), made.link("a", "m"), made.link("m", "b")
        dropped = [drop_at_random(a, GROUPS[0], 7), drop_at_random(to_middle, GROUPS[1], 11)]
        paths = [f"{tmp_path}/{name}.pcapng" for name in "ab"]
        with forwarded(middle, beyond, GROUPS[1], delay):
            got, live, lost = arbitrated((a, to_middle), (b, late), dropped, paths, {})
        hold_to_account(got, live, lost, paths)
    assert live.skew.max >= int(delay * 1e9)


def hold_to_account(got: list[int], live: ArbiterStats, lost: list[int], paths: list[str]) -> None:
    """The ledger is what the firewall counted, and the files of the same run give the same."""
    check(live)
    assert min(lost) > 0
    assert got == sorted(set(got))
    assert [leg.received for leg in live.legs] == [COUNT - one for one in lost]
    unseen = COUNT - live.expected  # the first or the last, on both legs: nothing shows them
    assert [leg.lost + leg.absent + unseen for leg in live.legs] == lost
    assert live.delivered == len(got) == COUNT - unseen - live.unrecovered
    assert live.recovered + sum(leg.absent for leg in live.legs) + 2 * live.unrecovered == sum(lost) - 2 * unseen
    with (
        mcast.open(paths[0]) as one,
        mcast.open(paths[1]) as other,
        Arbiter([one, other], "u64be@0", hold="5s") as feed,
    ):
        assert numbers(feed) == got
        assert figures(feed.stats) == figures(live)
