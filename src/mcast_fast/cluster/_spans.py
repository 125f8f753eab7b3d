"""Sets of numbers as sorted lists of spans (first, end), where `end` is the one after the last.

Rules of this module: no I/O.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

Span = tuple[int, int]


def united(spans: Iterable[Span]) -> list[Span]:
    """The union of spans in any order."""
    found: list[Span] = []
    for first, end in sorted(spans):
        if found and first <= found[-1][1]:
            if end > found[-1][1]:
                found[-1] = found[-1][0], end
        elif first < end:
            found.append((first, end))
    return found


def size(spans: Iterable[Span]) -> int:
    """How many numbers there are."""
    return sum(end - first for first, end in spans)


def without(spans: Iterable[Span], others: list[Span]) -> Iterator[Span]:
    """What of spans is in none of the others; both sorted."""
    at = 0
    for first, end in spans:
        while at < len(others) and others[at][1] <= first:
            at += 1
        place = at
        while first < end:
            if place == len(others) or others[place][0] >= end:
                yield first, end
                break
            if others[place][0] > first:
                yield first, others[place][0]
            first = others[place][1]
            place += 1


def put(spans: list[Span], first: int, end: int) -> None:
    """Add a span that meets none of those that are there, in its place."""
    spans.insert(bisect_right(spans, (first, end)), (first, end))


def take(spans: list[Span], first: int, end: int) -> None:
    """Take numbers out of a list of spans."""
    at = begin = max(0, bisect_right(spans, (first, first)) - 1)
    rest: list[Span] = []
    while at < len(spans) and spans[at][0] < end:
        left, right = spans[at]
        rest += [one for one in ((left, min(right, first)), (max(left, end), right)) if one[0] < one[1]]
        at += 1
    spans[begin:at] = rest
