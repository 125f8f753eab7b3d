"""What the compiled core has of sending: send.pxi."""

from mcast_fast._core.fast.compiled import SEND_FEATURES as FEATURES
from mcast_fast._core.fast.compiled import Route, Schedule, Transmitter

__all__ = ["FEATURES", "Route", "Schedule", "Transmitter"]
