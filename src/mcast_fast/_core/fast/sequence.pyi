"""The contract of what reads the numbers of packets."""

from collections.abc import Sequence

from mcast_fast._core.extraction import ChangeRow, Columns, FlowRow, Plan, Totals
from mcast_fast._core.fast.views import Batch
from mcast_fast._core.matching import PacketTest

def columns_of(packets: Batch, plan: Plan) -> Columns:
    """What each packet of a batch is to a sequence; of a ring's batch without a copy."""

def matching(batch: Batch, tests: Sequence[PacketTest]) -> Batch:
    """The packets of a batch that pass all tests, as a batch in the same order and memory."""

class Tracker:
    """Follows the flows of packets of one format; at most `limit` of them. `window` in ns."""

    def __init__(self, plan: Plan, source_port: bool, window: int, limit: int) -> None: ...
    def update(self, packets: Batch, left_out: int = 0) -> list[ChangeRow]: ...
    def note(self, packets: Batch, token: object) -> None: ...
    def flows(self, now: int) -> list[FlowRow]: ...
    def totals(self) -> Totals: ...
