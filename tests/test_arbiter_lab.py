"""Two legs between two hosts, a firewall that drops at random on either: the ledger is what the senders and the firewall counted."""

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


def figures(stats: ArbiterStats) -> tuple[object, ...]:
    legs = [(one.received, one.lost, one.absent, one.covered, one.first, one.late) for one in stats.legs]
    return (*(getattr(stats, name) for name in FIGURES), legs)


@pytest.mark.parametrize("more", [{}, {"background": True}, {"ring": True}], ids=["plain", "background", "ring"])
def test_what_a_firewall_drops_on_either_leg(
    ends: tuple[lab.End, lab.End], tmp_path: object, more: dict[str, bool]
) -> None:
    a, b = ends
    dropped = [
        a.host.add_table(a.interface, "egress", at, f"ip daddr {group} numgen random mod {n} 0 counter name hits drop")
        for at, (group, n) in enumerate(zip(GROUPS, (7, 11), strict=True))
    ]
    paths = [f"{tmp_path}/{name}.pcapng" for name in "ab"]
    with b.host.enter():
        receivers = [mcast.Receiver(f"{group}%{b.interface}:{PORT}", buffer_size="16MiB", **more) for group in GROUPS]
    with receivers[0], receivers[1], files.Writer(paths[0]) as first, files.Writer(paths[1]) as second:
        legs = [Kept(one, writer) for one, writer in zip(receivers, (first, second), strict=True)]
        with Arbiter(legs, "u64be@0", hold="5s", timeout=1) as feed:
            senders = [a.blast(group, PORT, count=COUNT, rate=RATE) for group in GROUPS]
            got = numbers(feed.batches())
            for one in senders:
                one.finish()
            got += numbers(feed.batches())
            feed.flush()
            got += numbers(feed.batches(timeout=0))
            live = feed.stats
        dropped_here = [one.stats.dropped or 0 for one in receivers]
    check(live)
    lost = [one.packets + here for one, here in zip(dropped, dropped_here, strict=True)]
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
