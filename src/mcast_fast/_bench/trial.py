"""A trial of one rate, and what came of it; the result of a search. No I/O."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

How = Literal["sockets", "ring"]
Limit = Literal["sender", "CPU", "kernel buffers", "elsewhere", "time"]

BUSY = 0.85  # of a core: more leaves the receiver no time to wait
OFFERED = 0.97  # of the rate: with less, the sender did not keep up


@dataclass(frozen=True, slots=True)
class Counted:
    """What a receiver counted in a trial.

    Attributes:
        received: Packets that came, each once, by their numbers.
        duplicates: Those that came again.
        dropped_socket: Packets that sockets dropped, because their buffers were full; None where no system says so.
        dropped_ring: Those of a ring.
        coalesced: Packets that the kernel handed over several at a time.
        cpu: Seconds of a processor that receiving took.
        seconds: From the first packets to the last ones.
    """

    received: int
    duplicates: int
    dropped_socket: int | None
    dropped_ring: int | None
    coalesced: int
    cpu: float
    seconds: float


@dataclass(frozen=True, slots=True)
class Sent:
    """What a sender sent in a trial: packets, seconds, and seconds of a processor."""

    packets: int
    seconds: float
    cpu: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One rate. `wanted`: packets per second; None: as fast as the sender can."""

    wanted: float | None
    sent: Sent
    counted: Counted

    @property
    def offered(self) -> float:
        """Packets per second that left."""
        return self.sent.packets / self.sent.seconds if self.sent.seconds else 0.0

    @property
    def lost(self) -> int:
        """Packets that left and did not come, by their numbers."""
        return max(0, self.sent.packets - self.counted.received)

    @property
    def loss(self) -> float:
        """The share that was lost."""
        return self.lost / self.sent.packets if self.sent.packets else 0.0

    @property
    def dropped(self) -> int:
        """What the receiver's ledger has of that."""
        return (self.counted.dropped_socket or 0) + (self.counted.dropped_ring or 0)

    @property
    def receiver_load(self) -> float:
        """The share of a core that receiving took."""
        return self.counted.cpu / self.counted.seconds if self.counted.seconds else 0.0

    @property
    def is_short(self) -> bool:
        """Whether the sender did not reach the rate."""
        return self.wanted is None or self.offered < OFFERED * self.wanted

    def cause(self) -> Limit:
        """What held the receiver back, of a trial with loss: by its ledger, and by its use of a processor."""
        if self.dropped * 2 < self.lost:
            return "elsewhere"
        return "CPU" if self.receiver_load >= BUSY else "kernel buffers"

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "wanted": self.wanted,
            "offered": round(self.offered),
            "lost": self.lost,
            "sent": asdict(self.sent),
            "received": asdict(self.counted),
        }


@dataclass(frozen=True, slots=True)
class Result:
    """What a search found for packets of `size` bytes.

    Attributes:
        how: By sockets, or by a ring.
        size: Bytes of payload.
        rate: The largest rate that was held, packets per second; 0: none.
        limit: What was at its limit: the sender (then what the receiver holds beyond `rate` is unknown), the receiver's
            CPU or kernel buffers, or elsewhere: packets were lost that no counter of the receiver has. "time": the
            search ended before any rate was held.
        next: The lowest rate that was not held; None: none was tried.
        trials: All trials, in their order.
        is_confirmed: Whether `rate` was held a second time, for twice as long.
    """

    how: How
    size: int
    rate: float
    limit: Limit
    next: float | None
    trials: tuple[Trial, ...]
    is_confirmed: bool = True

    @property
    def coalesced(self) -> float:
        """The share of packets of the best trial that came coalesced."""
        held = [one for one in self.trials if one.offered == self.rate and one.counted.received]
        return held[-1].counted.coalesced / held[-1].counted.received if held else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "how": self.how,
            "size": self.size,
            "packets_per_second": round(self.rate),
            "bits_per_second": round(self.rate * self.size * 8),
            "limit": self.limit,
            "confirmed": self.is_confirmed,
            "not_held": None if self.next is None else round(self.next),
            "coalesced": round(self.coalesced, 4),
            "trials": [one.as_dict() for one in self.trials],
        }
