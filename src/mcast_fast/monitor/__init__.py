"""Streams as they are seen now: rates, gaps, loss and states per group, source, port and interface."""

from mcast_fast.monitor._monitor import Monitor
from mcast_fast.monitor._stream import GAP_BUCKETS, OTHER, Stream, StreamState, drops, gap_bound

__all__ = ["GAP_BUCKETS", "OTHER", "Monitor", "Stream", "StreamState", "drops", "gap_bound"]
