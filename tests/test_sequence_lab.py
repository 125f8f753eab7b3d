"""What a firewall drops between two hosts is what the numbers miss, to the packet; beside programs that count by themselves."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import files
from tests import lab

pytestmark = [pytest.mark.lab]

GROUP, PORT, COUNT = "239.1.1.1", 5000, 3_000
Ends = tuple[lab.End, lab.End]


@pytest.fixture
def ends() -> Iterator[Ends]:
    with lab.Lab() as made:
        yield made.link("a", "b")


def drop_every(end: lab.End, n: int) -> lab.Counter:
    """Drop every n-th datagram on its way out: a ring sees what the receiver's firewall drops."""
    rule = f"ip daddr {GROUP} numgen inc mod {n} {n - 1} counter name hits drop"
    return end.host.add_table(end.interface, "egress", 0, rule)


def receiver(end: lab.End, form: str, **options: object) -> mcast.Receiver:
    with end.host.enter():
        return mcast.Receiver(f"{GROUP}%{end.interface}:{PORT}", sequence=form, timeout=0.5, **options)


def follow(rx: mcast.Receiver, path: object = None) -> None:
    """Receive until nothing comes any more, into a file too."""
    if path is None:
        for _ in rx.batches():
            pass
        return
    with files.Writer(path) as writer:
        for batch in rx.batches():
            writer.write(batch)


@pytest.mark.parametrize("more", [{}, {"background": True}, {"ring": True}], ids=["plain", "background", "ring"])
@pytest.mark.parametrize("n", [3, 100])
def test_what_a_firewall_drops_is_lost(ends: Ends, tmp_path: Path, n: int, more: dict[str, object]) -> None:
    a, b = ends
    dropped, path = drop_every(a, n), tmp_path / "live.pcapng"
    with receiver(b, "u64be@0", **more) as rx:
        a.blast(GROUP, PORT, count=COUNT, rate=20_000).finish()
        follow(rx, path)
        (flow,) = rx.stats.flows
    lost = dropped.packets
    assert lost == COUNT // n
    last = 1 if COUNT % n == 0 else 0  # the last of all: no later number shows it
    assert (flow.received, flow.lost + flow.pending, flow.duplicates, flow.last) == (
        COUNT - lost,
        lost - last,
        0,
        COUNT - 1 - last,
    )
    assert flow.expected == COUNT - last
    with mcast.open(path, sequence="u64be@0") as reader:
        for _ in reader:
            pass
        (read,) = reader.stats.flows
    assert (read.received, read.expected, read.lost + read.pending) == (
        flow.received,
        flow.expected,
        flow.lost + flow.pending,
    )


def test_send_numbers_show_the_last_ones_too(ends: Ends) -> None:
    """`send --sequence` ends with how many there were."""
    a, b = ends
    dropped = b.drop_every(7, GROUP)  # on the way out our sender would be told, and try again
    with receiver(b, "mcast-fast") as rx:
        send = [
            "send",
            f"{GROUP}%{a.interface}:{PORT}",
            "--sequence",
            "-c",
            str(COUNT),
            "--size",
            "64",
            "--rate",
            "20k/s",
        ]
        a.host.spawn([sys.executable, "-m", "mcast_fast", *send]).finish()
        follow(rx)
        (flow,) = rx.stats.flows
    assert dropped.packets > 0
    assert flow.expected == COUNT
    assert flow.lost + flow.pending == COUNT - flow.received > 0
    assert flow.state == "ended"


def test_iperf_reports_the_same(ends: Ends) -> None:
    """iperf 2 counts the datagram that says the end, too."""
    a, b = ends
    dropped = drop_every(a, 10)
    server = b.host.spawn(["iperf", "-s", "-u", "-B", f"{GROUP}%{b.interface}", "-p", str(PORT), "-i", "0"])
    server.expect("Server listening")
    with receiver(b, "iperf2") as rx:
        a.iperf(GROUP, PORT, count=1_000, rate="20000pps").finish()
        follow(rx)
        (flow,) = rx.stats.flows
    report = server.expect(r" (\d+)/\s*(\d+) \(")
    server.stop()
    assert dropped.packets == 100
    assert (flow.lost + flow.pending, flow.expected + 1) == (int(report[1]), int(report[2]))
