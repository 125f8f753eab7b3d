"""The contract of what reads the numbers of packets."""

from mcast_fast._core.extraction import ChangeRow, Columns, FlowRow, Plan, Totals
from mcast_fast._core.fast.views import Batch

def columns_of(packets: Batch, plan: Plan) -> Columns:
    """What each packet of a batch is to a sequence; of a ring's batch without a copy."""

class Tracker:
    """Follows the flows of packets of one format; at most `limit` of them. `window` in ns."""

    def __init__(self, plan: Plan, source_port: bool, window: int, limit: int) -> None: ...
    def update(self, packets: Batch) -> list[ChangeRow]: ...
    def flows(self, now: int) -> list[FlowRow]: ...
    def totals(self) -> Totals: ...
