"""The loss ledger: what the sender's firewall counted is what was received and what was lost, to the packet."""

import pytest

import mcast_fast as mcast
from tests import lab

pytestmark = pytest.mark.lab

GROUP, PORT, COUNT = "239.1.1.1", 5000, 60_000
PATHS = {
    "socket": ({"buffer_size": "16KiB", "gro": False}, "dropped_socket", None),
    "background": ({"buffer_size": "1MiB", "gro": False, "background": "64KiB"}, "dropped_background", "background"),
    "ring": ({"ring": "1MiB"}, "dropped_ring", "ring"),
}


@pytest.mark.parametrize("path", PATHS)
def test_single_packets_sent_are_received_or_dropped_and_the_gaps_have_their_place(backend, path):
    """By a receiver that is idle while most of them come. Exactly without coalescing, which begins under pressure."""
    options, cause, needed = PATHS[path]
    if needed and not (have := mcast.features()[needed]):
        pytest.skip(f"feature {needed}: {have.reason}")
    with lab.Lab() as made:
        sending, receiving = made.link("a", "b")
        sent = sending.count(GROUP, PORT)
        with receiving.host.enter():
            rx = mcast.Receiver(f"{GROUP}%{receiving.interface}:{PORT}", timeout=5, **options)
        with rx:
            sending.blast(GROUP, PORT, count=COUNT).finish()
            packets = list(rx.collect(COUNT, timeout=0.3))
            sending.blast(GROUP, PORT, count=1, first=COUNT).finish()  # tells what was dropped before it
            packets.append(rx.recv())
            stats = rx.stats
        assert sent.packets == COUNT + 1
        lost = stats.dropped_socket + stats.dropped_background + (stats.dropped_ring or 0)
        assert stats.received + stats.filtered + stats.fragments + lost == sent.packets
        assert (stats.received, stats.filtered, stats.fragments) == (len(packets), 0, 0)
        assert getattr(stats, cause) > COUNT // 4
        assert (stats.dropped, stats.drops_exact, stats.dropped_nic) == (lost, True, 0)
        placed = sum(packet.dropped for packet in packets)
        assert placed == lost
