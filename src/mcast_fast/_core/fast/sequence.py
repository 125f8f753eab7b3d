"""What the compiled core has of sequences: sequence.pxi."""

from mcast_fast._core.fast.compiled import columns_of

__all__ = ["columns_of"]
