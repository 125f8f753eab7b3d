"""The contract of what reads the numbers of packets."""

from mcast_fast._core.extraction import Columns, Plan
from mcast_fast._core.fast.views import Batch

def columns_of(packets: Batch, plan: Plan) -> Columns:
    """What each packet of a batch is to a sequence; of a ring's batch without a copy."""
