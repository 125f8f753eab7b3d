"""What the compiled core has of rows: placement.pxi."""

from mcast_fast._core.fast.compiled import Frame, Placer

__all__ = ["Frame", "Placer"]
