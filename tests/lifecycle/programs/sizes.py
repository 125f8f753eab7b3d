"""More than 4 GiB of payload in one call: the batch ends before, and what is left comes next. `sizes WAY`.

`sizes groups N`: a text of N groups. The others need some 10 GiB of memory that is free, and say "skipped" where there
is less.
"""

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import mcast_fast as mcast
from mcast_fast import MulticastError
from tests.lifecycle.programs.paths import check, free_port, group

NEEDED = 11 << 30
LIMIT = 1 << 32
SIZE = 60_000  # bytes of payload
COUNT = 1_600  # packets of a batch: 96 MB
BATCHES = 46  # more than 4 GiB


def available() -> int:
    """Bytes that can be used without swapping: MemAvailable of proc_meminfo(5)."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:"))


def numbered(count: int, first: int, text: str) -> mcast.Batch:
    """A batch of large packets that begin with their number, received over the loopback."""
    with mcast.Receiver(text, buffer_size="1MiB") as rx, mcast.Sender(text, ttl=0) as tx:
        parts = []
        for number in range(first, first + count):
            tx.send(number.to_bytes(8).ljust(SIZE, b"\0"))
            parts.append(rx.recv_batch(timeout=10))
        return mcast.Batch.concatenate(parts)


def check_numbers(batch: mcast.Batch, first: int) -> int:
    """Every packet's own payload, in order; the number after the last."""
    for number, packet in enumerate(batch, first):
        check(int.from_bytes(bytes(packet.data[:8])) == number, f"packet {number} has another's payload")
        check(len(packet) == SIZE, f"packet {number} has {len(packet)} bytes")
    check(len(batch.data) < LIMIT, f"{len(batch.data)} bytes in one batch")
    return first + len(batch)


def batches(text: str) -> Iterator[mcast.Batch]:
    """Numbered on from one to the next."""
    for index in range(BATCHES):
        yield numbered(COUNT, index * COUNT, text)


def leftovers() -> None:
    """All are given back, the last one first, and asked for in one call."""
    text = f"{group()}:{free_port()}"
    parts = list(batches(text))
    with mcast.Receiver(text) as rx:
        while parts:
            rx.give_back([parts.pop()])
        at = 0
        while at < COUNT * BATCHES:
            batch = rx.collect(COUNT * BATCHES - at, timeout=0)
            check(len(batch) > 0, f"only {at} of {COUNT * BATCHES} packets")
            at = check_numbers(batch, at)


def concatenate() -> None:
    """More than a batch can hold is refused, or ends before."""
    text = f"{group()}:{free_port()}"
    parts = list(batches(text))
    try:
        batch = mcast.Batch.concatenate(parts)
    except (MulticastError, OverflowError, MemoryError) as error:
        check(isinstance(error, MulticastError), repr(error))
        return
    check(False, f"a batch of {len(batch.data)} bytes from {len(parts)}")


def groups(count: str) -> None:
    """So many groups in one text: refused by an error of ours, with little memory; three are taken."""
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    firsts = [f"239.0.0.0%lo:{free_port()}", f"[ff15::%lo]:{free_port()}"]
    with mcast.Receiver(f"{firsts[0]}+3") as rx:
        check(len(rx.memberships) == 3, rx.memberships)
    for opens, first in itertools.product((mcast.Receiver, mcast.Sender), firsts):
        try:
            opens(f"{first}+{count}")
        except MulticastError as error:
            print(error)
        else:
            check(False, f"{opens.__name__} was opened")


WAYS = {"leftovers": leftovers, "concatenate": concatenate}
ADDRESS_SPACE = 2 << 30

if __name__ == "__main__":
    if sys.argv[1] == "groups":
        groups(sys.argv[2])
        print("held", flush=True)
    elif available() < NEEDED:
        print(f"skipped: {available() >> 20} MiB of memory are free, and {NEEDED >> 20} are needed")
    else:
        WAYS[sys.argv[1]]()
        print("held", flush=True)
