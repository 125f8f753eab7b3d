"""Fuzzes reading through compression and of files that grow: python -m tests.fuzz.unpacking SECONDS SEED FILE...

Mutations of real files, compressed as one stream or several, torn, broken, and followed by what is none. Both backends
deliver the same packets and the same error; a file that grows piece by piece delivers what it delivers as a whole; and
nothing is raised but our own errors. Prints the executions.
"""

import contextlib
import gzip
import importlib
import io
import random
import sys
import tempfile
import time
from pathlib import Path

from mcast_fast import _core
from mcast_fast.errors import MulticastError
from mcast_fast.files._reader import Reader
from mcast_fast.files._summary import summarise
from mcast_fast.files._unpacking import zstd_module

LARGEST = 64 << 10  # bytes of a sample
BACKENDS = ("fast", "pure")


class Growing(io.RawIOBase):
    """A file of which more is there at each look."""

    def __init__(self, data: bytes, ends: list[int]) -> None:
        self._data, self._ends, self._at = data, ends, 0

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: object) -> int:
        """What is there."""
        view = memoryview(buffer).cast("B")  # type: ignore[arg-type]
        part = self._data[self._at : min(self._ends[0], self._at + len(view))]
        view[: len(part)] = part
        self._at += len(part)
        if not part and len(self._ends) > 1:
            del self._ends[0]
        return len(part)

    @property
    def is_read(self) -> bool:
        """Whether all that there will be was read."""
        return self._at == len(self._data)


def mutated(chance: random.Random, data: bytes) -> bytes:
    """A few bytes changed, cut out or doubled; or torn."""
    made = bytearray(data)
    for _ in range(chance.randrange(4)):
        at = chance.randrange(len(made) + 1)
        what = chance.randrange(4)
        if what == 0 and at < len(made):
            made[at] ^= 1 << chance.randrange(8)
        elif what == 1:
            del made[at : at + chance.randrange(64)]
        elif what == 2:
            made[at:at] = made[at : at + chance.randrange(64)]
        else:
            del made[at:]
    return bytes(made)


def compressed(chance: random.Random, data: bytes) -> bytes:
    """As one stream or several, of either kind, or not at all."""
    kinds = [gzip.compress, lambda part: part]
    with contextlib.suppress(MulticastError):
        kinds.append(zstd_module().compress)
    compress = chance.choice(kinds)
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(4)))
    parts = [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]
    behind = chance.choice([b"", b"", b"\0" * 512, b"garbage"])
    return b"".join(map(compress, parts)) + behind


def delivered(backend: str, file: object, options: dict[str, object]) -> tuple[bytes, bytes, str, object]:
    """(records, payloads, our error, statistics)."""
    _core.files = importlib.import_module(f"mcast_fast._core.{backend}.files")
    records, data, error = [], [], ""
    with Reader(file, multicast_only=False, **options) as reader:  # type: ignore[arg-type]
        looks = 50  # what follows garbage is never read
        while looks:
            try:
                batch = reader.recv_batch()
            except EOFError:
                break
            except TimeoutError:
                looks = 0 if isinstance(file, Growing) and file.is_read else looks - 1
                continue
            except MulticastError as wrong:
                error = str(wrong)
                break
            records.extend(bytes(batch[place : place + 1].records)[24:60] for place in range(len(batch)))
            data.extend(batch.payloads())
        return b"".join(records), b"".join(map(bytes, data)), error, (reader.stats.received, reader.skipped_kinds)


def check(chance: random.Random, data: bytes) -> int:
    """Read a file in every way; how many packets there were."""
    start = chance.choice([None, None, chance.randrange(2**61)])
    options = {"start": start, "batch_size": chance.randrange(1, 50)}
    whole = [delivered(backend, io.BytesIO(data), options) for backend in BACKENDS]
    assert whole[0] == whole[1], "the backends deliver the same"
    ends = [*sorted(chance.randrange(len(data) + 1) for _ in range(chance.randrange(6))), len(data)]
    backend = chance.choice(BACKENDS)
    growing = Growing(data, ends)
    grown = delivered(backend, growing, {**options, "follow": True, "timeout": 0})
    if not whole[0][2] and growing.is_read:
        assert grown[:2] == whole[0][:2], "a file that grows delivers what it delivers as a whole"
    with Reader(io.BytesIO(data), multicast_only=False) as reader:
        summary = summarise("", reader, chance.randrange(1, 5))
    assert summary.total.packets == reader.stats.received, "every packet is counted"
    return summary.total.packets


def holds_packets(data: bytes) -> bool:
    """Whether a file is small, and has UDP in it."""
    if not 24 <= len(data) <= LARGEST:
        return False
    try:
        with Reader(io.BytesIO(data), multicast_only=False) as reader:
            return len(reader.collect(1)) > 0
    except MulticastError:
        return False


def main() -> None:
    """Fuzz for some seconds."""
    seconds, seed, *paths = sys.argv[1:]
    chance = random.Random(int(seed))
    samples = [data for path in paths if holds_packets(data := Path(path).read_bytes())]
    end, executions, packets = time.monotonic() + float(seconds), 0, 0
    while time.monotonic() < end:
        data = compressed(chance, mutated(chance, chance.choice(samples)))
        data = mutated(chance, data) if chance.randrange(3) == 0 else data
        try:
            packets += check(chance, data)
        except BaseException:
            failed = Path(tempfile.gettempdir()) / "mcast-fast-unpacking.failed"
            failed.write_bytes(data)
            print(f"the file is {failed}")
            raise
        executions += 1
    print(f"{executions} executions over {len(samples)} files: {packets} packets delivered")


if __name__ == "__main__":
    main()
