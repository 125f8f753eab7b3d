"""Receives in every way there is, and lets everything go: what `.ci/leaks` runs under valgrind.

`python -m tests.leaks`: as root in a network namespace with `lo` up; the ring is left out without the privilege.
"""

import contextlib
import gc
import sys

import mcast_fast as mcast
from mcast_fast import ClosedError, SocketError

GROUP = "239.1.1.1%lo:5000"
PACKETS = 600
KINDS = {
    "socket": {},
    "coalesced": {"timestamps": None},
    "truncated": {"max_packet_size": 10},
    "background": {"background": "1MiB"},
    "background, full": {"background": "64KiB"},
    "ring": {"ring": "1MiB"},
}


def receive(rx: mcast.Receiver) -> None:
    """A packet, batches, columns, raw views, what is left over, what is given back and what is no longer wanted."""
    kept = [rx.recv(), rx.recv_batch(10)]
    batch = rx.collect(PACKETS // 2, timeout=0.3)
    kept += [batch.payloads(), batch.data, batch[1:3], memoryview(batch.records)]
    with batch.borrow() as memory:
        kept.append(bytes(memory[:1]))
    rx.give_back([batch[:5]])
    kept.append(rx.recv())
    rx.leave(GROUP)


def main() -> int:
    for name, options in KINDS.items():
        for _ in range(3):
            try:
                rx = mcast.Receiver(GROUP, timeout=1, **options)
            except SocketError as error:
                print(f"{name} left out: {error}")
                break
            with rx, mcast.Sender(GROUP, ttl=0) as tx:
                tx.send_batch(bytes(100 * PACKETS), size=100)
                tx.send_batch([b"x"] * 20)
                receive(rx)
                print(f"{name}: {rx.stats.received} received")
            with contextlib.suppress(ClosedError):
                rx.recv()
            del rx
            gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
