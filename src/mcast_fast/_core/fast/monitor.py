"""What the compiled core has of monitors: monitor.pxi."""

from mcast_fast._core.fast.compiled import StreamTable

__all__ = ["StreamTable"]
