"""How late datagrams left, counted in buckets whose width grows with the value: 32 to each power of two, so that a
percentile is known to 3 %.

Rules of this module: data only. The C of schedule.h counts in the same buckets, and is held against BUCKETS when the
fast backend is imported.
"""

from collections.abc import Sequence

STEPS = 32
BITS = 40  # what is later than 2^41 ns counts as that
BUCKETS = (BITS - 3) * STEPS


def bucket_of(late: int) -> int:
    """The bucket of a lateness in ns; 0 when it was not late."""
    if late < STEPS:
        return max(0, late)
    bits = late.bit_length() - 1
    return BUCKETS - 1 if bits > BITS else (bits - 4) * STEPS + (late >> (bits - 5)) % STEPS


def longest(bucket: int) -> int:
    """The most ns that belong to a bucket."""
    power, step = divmod(bucket, STEPS)
    return bucket if power == 0 else ((STEPS + step + 1) << (power - 1)) - 1


def percentile(counts: Sequence[int], share: float) -> int | None:
    """ns that this share of all was not later than; None when there are none."""
    wanted, seen = sum(counts) * share, 0
    for bucket, count in enumerate(counts):
        seen += count
        if count and seen >= wanted:
            return longest(bucket)
    return None
