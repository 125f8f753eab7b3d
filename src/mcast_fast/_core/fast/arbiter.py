"""What the compiled core has of arbiters: arbiter.pxi."""

from mcast_fast._core.fast.compiled import Arbiter

__all__ = ["Arbiter"]
