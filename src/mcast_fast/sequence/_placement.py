"""Payloads placed into an array by their numbers.

Rules of this module: no I/O; the copying is done in `_core`.
"""

import re
from dataclasses import astuple, dataclass
from functools import lru_cache
from operator import index
from typing import TYPE_CHECKING, Any, Self

from mcast_fast import _core
from mcast_fast._core.extraction import HIGHEST_OFFSET, BodyStart, FramePlan, Layout
from mcast_fast.errors import ArgumentError
from mcast_fast.sequence._format import Format

if TYPE_CHECKING:
    from mcast_fast._core.fast.placement import Placer
    from mcast_fast._core.fast.views import Batch

_STARTS = {"rtp": BodyStart.BEHIND_RTP, "spead": BodyStart.BEHIND_SPEAD, "vdif": BodyStart.BEHIND_VDIF}
_BODY = re.compile(f"({'|'.join(_STARTS)})([0-9]{{1,5}})?", re.ASCII)
_HEADERS: dict[str, int | str] = {  # of presets, with `:` where they have a parameter; no other is stepped over
    "rtp": "rtp",
    "st2110": "rtp",
    "moldudp64": 20,
    "vdif:": "vdif",
    "spead:": "spead",
    "lcm": 8,
    "lcm:": 20,
    "mcast-fast": 32,
}


@dataclass(frozen=True, slots=True)
class Placement:
    """What became of the packets of `place`: each is one of the first six. Two of them add up with `+`.

    Attributes:
        placed: Packets whose payload is in its row now.
        duplicates: Packets whose row was there already; it stays as it is.
        below: Packets with a number before `base`.
        above: Packets with a number behind the last row.
        too_long: Packets whose body is longer than a row.
        other: Packets without a number, heartbeats, ends, those that cover several numbers, those that end before their
            body begins, and those of another key.
        short: Of those placed: packets whose body is shorter than the row, whose rest is zeros.
    """

    __module__ = "mcast_fast.sequence"

    placed: int = 0
    duplicates: int = 0
    below: int = 0
    above: int = 0
    too_long: int = 0
    other: int = 0
    short: int = 0

    def __add__(self, other: Self) -> Self:
        if not isinstance(other, Placement):
            return NotImplemented
        return type(self)(*(one + more for one, more in zip(astuple(self), astuple(other), strict=True)))


def body_of(format: Format, body: int | str | None) -> tuple[BodyStart, int]:
    """Where the body of a payload begins; ArgumentError."""
    if body is None:
        body = _HEADERS.get(format.preset) or _HEADERS.get(format.preset.partition(":")[0] + ":", 0)
    start, offset = BodyStart.PAYLOAD, body
    if isinstance(body, str) and (match := _BODY.fullmatch(body)):
        start, offset = _STARTS[match[1]], int(match[2] or 0)
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset <= HIGHEST_OFFSET:
        raise ArgumentError(
            f"body {body!r} is not where a row begins; give an offset up to {HIGHEST_OFFSET:,}, rtp, rtp4 (4 bytes "
            "behind the RTP header), spead or vdif"
        )
    return start, offset


def check_rows(format: Format) -> None:
    """ArgumentError where numbers are no rows."""
    if format.plan.layout is Layout.SPEAD and not format.plan.parameter:
        raise ArgumentError(
            "format 'spead' counts bytes, not packets; give spead:PAYLOAD_BYTES, the payload of a packet"
        )


@lru_cache(maxsize=64)  # by the text as it was given: hashing a Format takes longer than placing a small batch
def _placer(make: "type[Placer]", form: str | Format, body: int | str | None) -> "tuple[Placer, Format]":
    format = Format.parse(form)
    check_rows(format)
    return make(format.plan, FramePlan(*body_of(format, body))), format


def place(
    batch: "Batch",
    format: str | Format,
    *,
    into: Any,
    base: int,
    present: Any,
    body: int | str | None = None,
    key: bytes | None = None,
) -> Placement:
    """Copy the payloads of a batch into the rows of an array, each to the row of its number.

        samples = np.zeros((1000, 8192), np.uint8)
        there = np.zeros(1000, bool)
        sequence.place(batch, "vdif:25000", into=samples, base=second * 25_000, present=there)

    The first packet of a number wins; a packet for a row that `present` has is a duplicate. Rows that are not there
    stay as they are. A feed of several senders or groups is taken apart first: `batch.where(group=…)`.

    Args:
        batch: A batch of a receiver or a file; a ring's is read in place.
        format: A Format, or its text ("rtp").
        into: A writable buffer in C order, such as a NumPy array, whose first dimension is the packets; whatever is in
            a row, its bytes are written as they came. NumPy is not needed: `memoryview(bytearray(n)).cast("B", shape)`.
        base: The number of the first row, modulo the width of the format's numbers, which wrap.
        present: A writable buffer of one byte per row, such as an array of bool: whether the row is there. It is read,
            and written.
        body: Where a row begins in a payload: an offset, "rtp" (behind the header with its contributing sources and
            extension, without padding), "spead" (behind the item pointers), "vdif" (behind the header), or one of these
            and an offset ("rtp4"). None: behind the header of a preset (rtp, st2110, moldudp64, vdif, spead, lcm,
            mcast-fast); of other formats the whole payload.
        key: Only packets of the flow with this key, as `Flow.key` has it. None: any.

    Returns:
        The Placement: how many packets were placed, and what became of the others.

    Raises:
        ArgumentError: An argument is out of range, or no format; a buffer cannot be written, or does not fit.
        TypeError: It is no batch.
    """
    try:
        placer, form = _placer(_core.placement.Placer, format, body)
        first = index(base)
    except TypeError as error:  # what cannot be hashed is neither; ArgumentError is no TypeError
        raise ArgumentError(
            f"format {format!r:.100}, body {body!r:.100} or base {base!r:.100} is of no such type"
        ) from error
    if key is not None and (not isinstance(key, bytes) or len(key) != form.key_size):
        raise ArgumentError(f"key {key!r} is not of the {form.key_size} bytes that the format's keys have")
    return Placement(*placer.place(batch, into, present, first & (1 << form.bits) - 1, key))


place.__module__ = "mcast_fast.sequence"
