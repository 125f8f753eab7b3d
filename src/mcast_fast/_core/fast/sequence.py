"""What the compiled core has of sequences: sequence.pxi."""

from mcast_fast._core.fast.compiled import Tracker, columns_of, matching

__all__ = ["Tracker", "columns_of", "matching"]
