"""What an extractor reads of a payload, as data: the plan that a format is translated into for both backends.

Rules of this module: data only. `sequence.Format` is what users see; `c/sequence.h` has the same plan as a C struct.
"""

from enum import IntEnum, StrEnum
from typing import NamedTuple

KEY_SIZE = 16  # bytes of a flow key at most
MOST_KEYS = 4
MOST_GAPS = 16_384  # remembered per flow; beyond them the oldest is charged and forgotten
NEAR = 1024  # packets: so far a packet may be from another one and still belong to it
MOST_TESTS = 4
# Of an arbiter; see c/arbiter.h.
MOST_LEGS = 8
MOST_POSITIONS = 1 << 20  # numbers remembered per flow
ALL_POSITIONS = 1 << 22  # of all flows together
LEAST_POSITIONS = 1 << 13  # of each flow in any case
MOST_COVERED = 1 << 12  # numbers that one packet may cover
HIGHEST_OFFSET = 65_000
# Of a monitor; see c/arrivals.h.
GAP_BUCKETS = 40  # by the number of bits of a gap in ns
TICK_NS = 250_000_000
HISTORY = 30  # seconds


class Kind(IntEnum):
    """What a packet is to a sequence."""

    __module__ = "mcast_fast.sequence"

    DATA = 0  # covers `count` numbers, from `number` on
    HEARTBEAT = 1  # covers none; `number` is the next one expected
    END = 2  # the flow has ended; `number` is the one after the last
    SHORT = 3  # too short for its format
    OTHER = 4  # not of this format


class What(StrEnum):
    """What changed in a flow; the order is that of c/tracker.h."""

    __module__ = "mcast_fast.sequence"

    STARTED = "started"  # it was seen for the first time
    GAP = "gap"  # numbers are missing
    LOST = "lost"  # they are missing for longer than the window
    REORDERED = "reordered"  # missing numbers came
    LATE = "late"  # numbers that counted as lost came
    DUPLICATE = "duplicate"  # numbers came again
    RESTARTED = "restarted"  # the sender began anew
    ENDED = "ended"


class Layout(IntEnum):
    """How a payload is read: by fields at fixed places, or as a protocol whose places depend on the contents."""

    FIELDS = 0
    SPEAD = 1
    IPERF2 = 2
    MCJOIN = 3
    LCM = 4


class BodyStart(IntEnum):
    """Where the body of a payload begins, before its offset is added; the order is that of c/placement.h."""

    PAYLOAD = 0
    BEHIND_RTP = 1
    BEHIND_SPEAD = 2
    BEHIND_VDIF = 3


class Reason(IntEnum):
    """Why filling frames stopped at a packet; the order is that of c/placement.h."""

    TIME = 1  # it arrived too late
    OUTSIDE = 2  # it belongs to none of the frames
    WHOLE = 3  # it was the last that its frame missed
    MARKED = 4  # it says that it is the last one of its frame


class Place(NamedTuple):
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


class Plan(NamedTuple):
    """What is read of each payload. `number` is high * scale + low; `bits` is its width, after which it wraps."""

    number: Place
    bits: int
    high: Place | None = None
    scale: int = 1
    count_at: Place | None = None
    heartbeat: int | None = None
    end: int | None = None
    keys: tuple[Place, ...] = ()
    tests: tuple[tuple[Place, int], ...] = ()
    layout: Layout = Layout.FIELDS
    parameter: int = 0


class FramePlan(NamedTuple):
    """What of each payload is a row, what names its frame beside its number, and which packet is a frame's last."""

    body: BodyStart = BodyStart.PAYLOAD
    body_offset: int = 0
    by_source_port: bool = False
    id: Place | None = None
    marker: Place | None = None
    marked: int = 0


class FlowName(NamedTuple):
    """What names a flow: packed addresses, and the key with zeros behind it."""

    source: bytes
    source_port: int
    group: bytes
    port: int
    key: bytes


class Stop(NamedTuple):
    """Why filling frames stopped, at which packet it goes on, in which of the frames, with which packet."""

    reason: Reason
    at: int
    frame: int
    number: int
    id: int
    flow: FlowName


class Columns:
    """One element per packet: `number` (uint64), `count` (uint32), `key` (rows of KEY_SIZE bytes, zeros behind a
    shorter key) and `kind` (uint8, of Kind). `np.asarray` takes each without a copy."""

    __module__ = "mcast_fast.sequence"
    __slots__ = ("count", "key", "kind", "number")

    def __init__(self, number: memoryview, count: memoryview, key: memoryview, kind: memoryview) -> None:
        self.number: memoryview = number
        self.count: memoryview = count
        self.key: memoryview = key
        self.kind: memoryview = kind


class FlowRow(NamedTuple):
    """A flow as the tracker has it: what names it, its counters, and the ns since its last packet and restart."""

    source: bytes
    source_port: int
    group: bytes
    port: int
    key: bytes
    received: int
    expected: int
    lost: int
    pending: int
    duplicates: int
    reordered: int
    depth: int
    late: int
    burst: int
    restarts: int
    ambiguous: int
    strays: int
    packets: int
    first: int
    last: int
    first_time: int
    last_time: int
    ended: bool
    silent: int
    since_restart: int  # -1: it never did


class ChangeRow(NamedTuple):
    """What changed in a flow: from the first to the last of the numbers that it is about."""

    kind: int  # place in What
    source: bytes
    source_port: int
    group: bytes
    port: int
    key: bytes
    first: int
    last: int
    time: int


class Totals(NamedTuple):
    """Of a tracker: packets that no flow has, and flows that gave way, with what they expected and lost."""

    short: int
    other: int
    evicted: int
    evicted_expected: int
    evicted_lost: int


class StreamRow(NamedTuple):
    """A stream as a monitor's table has it; `begun`, `seen` and `resumed` by the clock of counting, and `rate_packets`
    and `rate_bytes` those of the last second."""

    group: bytes
    port: int
    source: bytes
    interface: int
    packets: int
    bytes: int
    smallest: int
    largest: int
    truncated: int
    first_time: int | None
    last_time: int | None
    largest_gap: int
    largest_gap_at: int
    gaps: tuple[int, ...]
    begun: int
    seen: int
    resumed: int
    silences: int
    rate_packets: int
    rate_bytes: int
    gap_sum: int  # ns, of all gaps together; modulo 2^64


class Turn(IntEnum):
    """How a turn of an arbiter ended; the values are those of c/arbiter.h."""

    WAITS = 0  # for a leg's next packets
    ENOUGH = 1  # the batch is large
    FAILED = 2  # no memory
    UNPAIRED = 3  # + leg: it has packets of a second group, and none was named


class LegRow(NamedTuple):
    """What an arbiter counted of a leg; from `received` to `late` in numbers."""

    packets: int
    received: int
    duplicates: int
    outside: int
    lost: int
    absent: int
    pending: int
    covered: int
    first: int
    late: int
    heartbeats: int
    unnumbered: int
    unpaired: int
    last_time: int


class FeedRow(NamedTuple):
    """What an arbiter counted of the feed; from `expected` to `late` in numbers."""

    packets: int
    bytes: int
    truncated: int
    expected: int
    delivered: int
    unrecovered: int
    pending: int
    held: int
    duplicates: int
    late: int
    restarts: int
    ambiguous: int
    overflows: int
    evicted: int
    skew_max: int
    flows: int
    last_time: int  # up to which the arbiter has come, ns since the epoch


def as_columns(numbers: bytes, counts: bytes, keys: bytes, kinds: bytes) -> Columns:
    """Columns over memory in the machine's byte order."""
    rows = len(kinds)
    key = memoryview(keys).cast("B", (rows, KEY_SIZE)) if rows else memoryview(b"")
    return Columns(memoryview(numbers).cast("Q"), memoryview(counts).cast("I"), key, memoryview(kinds))
