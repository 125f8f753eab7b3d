"""When and where the packets of a recording are sent: what the core has, with its arguments checked; no I/O."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mcast_fast._core import lateness
from mcast_fast._sending.destinations import Target
from mcast_fast._units import checked_number, whole_number

if TYPE_CHECKING:
    from mcast_fast._core.fast.send import Schedule as CoreSchedule
    from mcast_fast._core.fast.views import Packet

SLOWEST = 1e-9  # of a Schedule


@dataclass(frozen=True, slots=True)
class Schedule:
    """How a recording is sent: made by `Sender.schedule`, for `Sender.send_recorded`.

    `destination`: the group or address that a recorded packet goes to."""

    __module__ = "mcast_fast.sender"

    core: "CoreSchedule"
    destination: "Callable[[Packet], Target]"

    def start(self, origin: int, moment: int, speed: float | None) -> None:
        """Packets are due from now on at `moment` (ns, monotonic) + (their timestamp - `origin`) / `speed`, and none
        before its predecessor; None: they leave at the sender's own rate. ArgumentError."""
        whole_number(origin, "origin", -(2**63), 2**63 - 1)
        whole_number(moment, "moment", 0, 2**63 - 1)
        if speed is not None:
            checked_number(speed, "speed", SLOWEST, math.inf)
        self.core.start(origin, moment, 1 / speed if speed else 0.0)

    def late(self, share: float) -> int | None:
        """ns that this share of the packets did not leave later than, to 3 %; 1.0: exactly the latest; None when none
        was due by its timestamp. They count as having left when they are handed to the system. ArgumentError."""
        checked_number(share, "share", 0, 1)
        counts, latest = self.core.lateness()
        return latest if share >= 1 and any(counts) else lateness.percentile(counts, share)
