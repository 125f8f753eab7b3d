"""Fragments of a capture file put together, in bounded memory: the twin of c/reassembly.h.

`blocks.PIECES` datagrams at most are in the making; one more discards the one whose latest piece is the oldest. Pieces
that overlap others discard their datagram (RFC 5722), a piece that is there already is ignored.
"""

from typing import NamedTuple

from mcast_fast._core import blocks
from mcast_fast._core.layout import MAX_PACKET_SIZE
from mcast_fast._core.pure.frames import Framed

Key = tuple[object, ...]
UNIT = 8  # bytes, in which offsets of fragments count


class Assembly(NamedTuple):
    """A datagram in the making; never changed in place, so that a copy of the table can be put back."""

    framed: Framed  # of the piece that came first
    pieces: tuple[tuple[int, bytes], ...] = ()  # (offset, bytes)
    size: int = 0  # of the whole; 0: the last piece is not there


class Added(NamedTuple):
    """What a piece was: `known` already; and `whole`, what is complete now."""

    known: bool = False
    whole: tuple[Framed, bytes] | None = None


class Reassembly:
    """Datagrams in the making, by what their pieces have in common; the one with the latest piece is the last."""

    def __init__(self) -> None:
        self.made: dict[Key, Assembly] = {}

    def add(self, key: Key, framed: Framed, piece: bytes) -> Added:
        """Add a piece.

        Args:
            key: The datagram that it is of.
            framed: The frame that it came in, with its `fragment`.
            piece: Its bytes.

        Returns:
            What became of it.
        """
        assert framed.fragment is not None
        if key not in self.made and len(self.made) >= blocks.PIECES:
            del self.made[next(iter(self.made))]
        one = self.made.pop(key, None) or Assembly(framed)
        self.made[key] = one
        offset, more = framed.fragment.offset, framed.fragment.more
        end = offset + len(piece)
        if not piece or len(piece) < framed.wire_length or end > MAX_PACKET_SIZE or (more and len(piece) % UNIT):
            return Added()
        first, last = offset // UNIT, (end + UNIT - 1) // UNIT
        known = sum(
            max(0, min(last, (at + len(other) + UNIT - 1) // UNIT) - max(first, at // UNIT)) for at, other in one.pieces
        )
        if known == last - first:
            return Added(known=True)
        furthest = max((at + len(other) for at, other in one.pieces), default=0)
        if known or (one.size and (end > one.size or not more)) or (not more and furthest > end):
            del self.made[key]
            return Added()
        one = Assembly(one.framed, (*one.pieces, (offset, piece)), one.size if more else end)
        units = sum((len(other) + UNIT - 1) // UNIT for _, other in one.pieces)
        if not one.size or units < (one.size + UNIT - 1) // UNIT:
            self.made[key] = one
            return Added()
        del self.made[key]
        return Added(whole=(one.framed, b"".join(part for _, part in sorted(one.pieces))))
