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

    Attributes:
        destination: Returns the group or the address of the host that a recorded packet goes to.
    """

    __module__ = "mcast_fast.sender"

    core: "CoreSchedule"
    destination: "Callable[[Packet], Target]"

    def start(self, origin: int, moment: int, speed: float | None) -> None:
        """Set when packets are due: at `moment` + (their timestamp - `origin`) / `speed`, none before its predecessor.

        Args:
            origin: The timestamp of the packet that is due first, ns since the epoch.
            moment: When it is due, ns of the monotonic clock (`time.monotonic_ns`).
            speed: Factor on the recorded speed, above 0; None: packets leave at the sender's own rate.

        Raises:
            ArgumentError: An argument is out of range.
        """
        whole_number(origin, "origin", -(2**63), 2**63 - 1)
        whole_number(moment, "moment", 0, 2**63 - 1)
        if speed is not None:
            checked_number(speed, "speed", SLOWEST, math.inf)
        self.core.start(origin, moment, 1 / speed if speed else 0.0)

    def late(self, share: float) -> int | None:
        """Return a quantile of the lateness of departures; a packet departs when it is handed to the system.

        Args:
            share: The share of packets that left no later than the result, 0 to 1.

        Returns:
            Nanoseconds, to 3 %, and exact for a share of 1.0 (the latest packet); None when no packet was due by its
            timestamp.

        Raises:
            ArgumentError: `share` is out of range.
        """
        checked_number(share, "share", 0, 1)
        counts, latest = self.core.lateness()
        return latest if share >= 1 and any(counts) else lateness.percentile(counts, share)
