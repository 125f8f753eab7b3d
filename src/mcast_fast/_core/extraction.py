"""What an extractor reads of a payload, as data: the plan that a format is translated into for both backends.

Rules of this module: data only. `sequence.Format` is what users see; `c/sequence.h` has the same plan as a C struct.
"""

from dataclasses import dataclass
from enum import IntEnum

KEY_SIZE = 16  # bytes of a flow key at most
MOST_KEYS = 4
MOST_TESTS = 4
HIGHEST_OFFSET = 65_000


class Kind(IntEnum):
    """What a packet is to a sequence."""

    __module__ = "mcast_fast.sequence"

    DATA = 0  # covers `count` numbers, from `number` on
    HEARTBEAT = 1  # covers none; `number` is the next one expected
    END = 2  # the flow has ended; `number` is the one after the last
    SHORT = 3  # too short for its format
    OTHER = 4  # not of this format


class Layout(IntEnum):
    """How a payload is read: by fields at fixed places, or as a protocol whose places depend on the contents."""

    FIELDS = 0
    SPEAD = 1
    IPERF2 = 2
    MCJOIN = 3


@dataclass(frozen=True, slots=True)
class Place:
    """A field of a payload: `width` bytes at `offset`, counted from its start or from behind its RTP header.

    The value is (integer & mask) shifted down by the zeros at the end of the mask. Mask 0: bytes, no integer."""

    offset: int
    width: int
    little: bool = False
    after_rtp: bool = False
    mask: int = 0

    @property
    def shift(self) -> int:
        """Zeros at the end of the mask."""
        return (self.mask & -self.mask).bit_length() - 1 if self.mask else 0


@dataclass(frozen=True, slots=True)
class Plan:
    """What is read of each payload. `number` is high * scale + low; `bits` is its width, after which it wraps."""

    number: Place
    bits: int
    high: Place | None = None
    scale: int = 1
    count: Place | None = None
    heartbeat: int | None = None
    end: int | None = None
    keys: tuple[Place, ...] = ()
    tests: tuple[tuple[Place, int], ...] = ()
    layout: Layout = Layout.FIELDS
    parameter: int = 0


@dataclass(frozen=True, slots=True)
class Columns:
    """One element per packet: `number` (uint64), `count` (uint32), `key` (rows of KEY_SIZE bytes, zeros behind a
    shorter key) and `kind` (uint8, of Kind). `np.asarray` takes each without a copy."""

    __module__ = "mcast_fast.sequence"

    number: memoryview
    count: memoryview
    key: memoryview
    kind: memoryview


def as_columns(numbers: bytes, counts: bytes, keys: bytes, kinds: bytes) -> Columns:
    """Columns over memory in the machine's byte order."""
    rows = len(kinds)
    key = memoryview(keys).cast("B", (rows, KEY_SIZE)) if rows else memoryview(b"")
    return Columns(memoryview(numbers).cast("Q"), memoryview(counts).cast("I"), key, memoryview(kinds))
