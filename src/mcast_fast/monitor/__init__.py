"""Streams as they are seen now: rates, gaps, loss and states per group, source, port and interface; and metrics."""

from mcast_fast.monitor._exporter import Exporter, exporter
from mcast_fast.monitor._monitor import Monitor
from mcast_fast.monitor._stream import GAP_BUCKETS, OTHER, Stream, StreamState, drops, gap_bound
from mcast_fast.monitor._wire import Wire

__all__ = [
    "GAP_BUCKETS",
    "OTHER",
    "Exporter",
    "Monitor",
    "Stream",
    "StreamState",
    "Wire",
    "drops",
    "exporter",
    "gap_bound",
]
