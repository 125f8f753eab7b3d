"""What the compiled core has of batches and packets: views.pxi."""

from mcast_fast._core.fast.compiled import (
    C_FLAGS,
    C_LAYOUT,
    Arena,
    Batch,
    Loan,
    Packet,
    Packets,
    Records,
    arrow_stream,
    by_time,
    csv_rows,
    extent,
)
from mcast_fast._core.fast.compiled import VIEWS_FEATURES as FEATURES

__all__ = [
    "C_FLAGS",
    "C_LAYOUT",
    "FEATURES",
    "Arena",
    "Batch",
    "Loan",
    "Packet",
    "Packets",
    "Records",
    "arrow_stream",
    "by_time",
    "csv_rows",
    "extent",
]
