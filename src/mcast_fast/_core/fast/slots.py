"""What the compiled core has of receiving: slots.pxi."""

from mcast_fast._core.fast.compiled import SLOTS_FEATURES as FEATURES
from mcast_fast._core.fast.compiled import Slots

__all__ = ["FEATURES", "Slots"]
