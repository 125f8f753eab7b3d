"""The contract of what copies payloads into rows."""

from collections.abc import Sequence
from typing import Any

from mcast_fast._core.extraction import FlowName, FramePlan, Plan, Stop
from mcast_fast._core.fast.views import Batch

class Frame:
    """Rows of a flow, from the number `base` on. Its memory is its own until `finish` gives it away."""

    def __init__(self, rows: int, size: int, flow: FlowName, base: int, id: int) -> None: ...
    base: int
    id: int
    count: int
    highest: int
    placed: int
    duplicates: int
    short_bodies: int
    long_bodies: int
    first_time: int
    last_time: int
    def end_after(self, rows: int) -> None: ...
    def begin_earlier(self, rows: int, base: int) -> None: ...
    def finish(self) -> tuple[bytearray, bytearray]: ...

class Placer:
    """Copies payloads of one format into rows; it has no state, and threads may share it."""

    def __init__(self, plan: Plan, frames: FramePlan) -> None: ...
    def place(self, packets: Batch, into: Any, present: Any, base: int, key: bytes | None) -> tuple[int, ...]: ...
    def fill(self, packets: Batch, start: int, until: int, frames: Sequence[Frame]) -> tuple[Stop | None, int]: ...
