"""The tutorial's eight steps on the loopback, measured here: docs/tutorial.md explains each.

python docs/_code/tutorial.py
"""

import struct
import time
from collections.abc import Callable

import numpy as np

import mcast_fast as mcast
from mcast_fast import sequence

GROUP, OTHER = "239.1.1.1%127.0.0.1:5000", "239.2.1.1%127.0.0.1:5000"
COUNT, ROUNDS = 1_000, 20
FORMAT = "u64be@0"  # the first eight bytes of each payload are its number


def numbered(first: int, count: int = COUNT) -> list[bytes]:
    return [struct.pack(">Q", number) + bytes(56) for number in range(first, first + count)]


def measure(step: str, rx: mcast.Receiver, tx: mcast.Sender, read: Callable[[], int]) -> None:
    """Fill the buffer, then read it: only the reading is timed."""
    spent = taken = 0
    for at in range(ROUNDS):
        tx.send_batch(numbered(at * COUNT))
        rx.wait(1)
        started = time.perf_counter_ns()
        taken += read()
        spent += time.perf_counter_ns() - started
    print(f"{step:30} {taken:6,} packets {spent // max(taken, 1):6,} ns per packet, {rx.stats.dropped} dropped")


# step 1: one packet at a time
def one_by_one(rx: mcast.Receiver) -> int:
    return sum(len(rx.recv(timeout=1).data) > 0 for _ in range(COUNT))


# step 2: the packets of a batch
def batches(rx: mcast.Receiver) -> int:
    return sum(len(batch.payloads()) for batch in rx.batches(count=COUNT, timeout=1))


# step 3: columns
def columns(rx: mcast.Receiver) -> int:
    batch = rx.collect(COUNT, timeout=1)
    numbers = batch.view_as([("number", ">u8"), ("rest", "V56")])["number"]
    times = np.asarray(batch)["timestamp"]
    assert numbers[-1] - numbers[0] == COUNT - 1
    assert times[-1] >= times[0]
    return len(batch)


def main() -> None:
    with mcast.Sender(GROUP, ttl=0) as tx, mcast.Sender(OTHER, ttl=0) as other:
        for step, read in (("1 recv", one_by_one), ("2 batches", batches), ("3 columns", columns)):
            with mcast.Receiver(GROUP, gro=False) as rx:
                measure(step, rx, tx, lambda rx=rx, read=read: read(rx))  # type: ignore[misc]

        # step 4: what this host drops is counted
        with mcast.Receiver(GROUP, buffer_size="64KiB", gro=False) as rx:
            tx.send_batch(numbered(0))
            received = sum(len(batch) for batch in rx.batches(timeout=0.1))
            print(f"4 a small buffer: sent {COUNT}, received {received}, dropped {rx.stats.dropped}")

        # step 5: what the network drops is seen by the numbers in the packets
        with mcast.Receiver(GROUP, sequence=sequence.Tracker(FORMAT, window="50ms")) as rx:
            tx.send_batch(numbered(0, 400) + numbered(450, 550))
            received = sum(len(batch) for batch in rx.batches(timeout=0.1))
            print(f"5 numbers: received {received}, dropped here {rx.stats.dropped}, lost on the way {rx.stats.lost}")

        # step 6: packets of one sender are coalesced
        with mcast.Receiver(GROUP, timestamps=None) as rx:
            measure("6 coalesced", rx, tx, lambda: columns_without_times(rx))

        try:
            rings(tx, other)
        except (mcast.FeatureError, mcast.SocketError) as error:
            print(f"7 and 8 need a ring: {error}")


def rings(tx: mcast.Sender, other: mcast.Sender) -> None:
    # step 7: a ring that the kernel fills
    with mcast.Receiver(GROUP, ring="64MiB") as rx:
        measure("7 ring", rx, tx, lambda: len(rx.collect(COUNT, timeout=1)))

    # step 8: two lines of one feed, each with a ring, of which each loses what the other one has
    with (
        mcast.Receiver(GROUP, ring="16MiB") as leg_a,
        mcast.Receiver(OTHER, ring="16MiB") as leg_b,
        sequence.Arbiter([leg_a, leg_b], FORMAT, hold="50ms") as feed,
    ):
        tx.send_batch(numbered(0, 400) + numbered(450, 550))
        other.send_batch(numbered(0, 700) + numbered(720, 280))
        delivered = sum(len(batch) for batch in feed.batches(timeout=0.3))
        lost = [leg.lost for leg in feed.stats.legs]
        print(f"8 arbitration: delivered {delivered}, lost by the legs {lost}, by both {feed.stats.unrecovered}")


def columns_without_times(rx: mcast.Receiver) -> int:
    return len(np.asarray(rx.collect(COUNT, timeout=1)))


if __name__ == "__main__":
    main()
