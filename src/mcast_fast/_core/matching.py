"""What packets are chosen by beside their addresses, as data: tests over records and payloads for both backends.

Rules of this module: data only. `c/match.h` has the same as C structs.
"""

from enum import IntEnum
from typing import NamedTuple

from mcast_fast._core.extraction import Place

MOST_TESTS = 16
MOST_VALUES = 16  # of one test
LONGEST = 64  # bytes that are looked for


class Subject(IntEnum):
    """What of a packet a test looks at."""

    SOURCE = 0
    GROUP = 1
    SOURCE_PORT = 2
    PORT = 3
    SIZE = 4  # bytes of the payload, also of those that were cut off
    INTEGER = 5  # of the payload, at a place
    BYTES = 6  # of the payload, at a place
    CONTENTS = 7  # anywhere in the payload


class PacketTest(NamedTuple):
    """One test: whether the subject is in any of the ranges or, `negated`, in none.

    Ranges are from the first to the last value: packed addresses and bytes for SOURCE, GROUP and BYTES, integers of 64
    bits for others. For CONTENTS each is twice the bytes to be found. A packet that ends before its place does not
    pass, negated or not.
    """

    subject: Subject
    ranges: tuple[tuple[int, int], ...] | tuple[tuple[bytes, bytes], ...]
    negated: bool = False
    place: Place | None = None

    @property
    def reads_payload(self) -> bool:
        """Whether it needs payloads, which whole frames are not."""
        return self.subject >= Subject.SIZE
