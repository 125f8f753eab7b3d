"""What one call of a sender sends, and where to.

Rules of this module: no I/O; the core's calls are bound here, and made by the sender.
"""

import errno
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from mcast_fast import _core
from mcast_fast._host.interfaces import Interface
from mcast_fast._sending.destinations import Target
from mcast_fast._units import iterated, rate_of, whole_number
from mcast_fast.errors import ArgumentError

if TYPE_CHECKING:
    from mcast_fast._core.fast.send import Route, Transmitter

Payload = bytes | bytearray | memoryview
Call = Callable[["Route", int, bool], tuple[int, int]]

LARGEST_PAYLOAD = {4: 65_507, 6: 65_527}


def packets_in(seconds: float, rate: float | str) -> int:
    """How many datagrams leave within this time at a rate: one at least; of a rate of bits, of the largest ones.

    >>> packets_in(0.1, "50k/s")
    5000
    """
    wanted = rate_of(rate)
    per_second = wanted.per_second / (8 * LARGEST_PAYLOAD[6]) if wanted.by_bits else wanted.per_second
    return max(1, int(per_second * seconds))


# Errors that Linux has for an ICMP answer to an earlier datagram (icmp_err_convert[] in net/ipv4/icmp.c, and
# net/ipv6/icmp.c), and how often one datagram is tried again for each: "refused" is never this machine's own answer.
ICMP_ANSWERS = {errno.ECONNREFUSED: 100} | {
    number: 1
    for name in (
        "EACCES",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "EMSGSIZE",
        "ENETUNREACH",
        "ENONET",
        "ENOPROTOOPT",
        "EOPNOTSUPP",
        "EPROTO",
    )
    if (number := getattr(errno, name, 0))
}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one datagram goes: the key of the socket it leaves by, the packed group or address (4 or 16 bytes), port
    and interface: of an address its zone, None where the routing table chooses."""

    key: int
    address: bytes
    port: int
    interface: Interface | None
    is_unicast: bool = False

    @property
    def target(self) -> tuple[int, bytes, int, int]:
        """What the core takes."""
        return (self.key, self.address, self.port, self.interface.index if self.interface else 0)

    @property
    def version(self) -> int:
        """The IP version, 4 or 6."""
        return 4 if len(self.address) == 4 else 6

    def __str__(self) -> str:
        family = socket.AF_INET if self.version == 4 else socket.AF_INET6
        where = f" on {self.interface.name}" if self.interface else ""
        return f"{socket.inet_ntop(family, self.address)} port {self.port}{where}"


class Paths(NamedTuple):
    """Where every payload of a call goes, in this order, and the same for the core."""

    destinations: list[Destination]
    route: "Route"


@dataclass(slots=True)
class Recovery:
    """What was done about errors of one call, at the datagram that is number `at` of those that left: it was tried
    again `dismissed` times after an ICMP answer, and once after its interface was looked up anew (`is_found`)."""

    at: int = 0
    dismissed: int = 0
    is_found: bool = False

    def reach(self, sent: int) -> None:
        """That many datagrams have left: of the next one nothing is known yet."""
        if sent != self.at:
            self.at, self.dismissed, self.is_found = sent, 0, False

    def dismisses(self, code: int) -> bool:
        """Whether an error may be the answer to an earlier datagram, which says nothing of this one (icmp(7))."""
        if code not in ICMP_ANSWERS or self.dismissed >= ICMP_ANSWERS[code]:
            return False
        self.dismissed += 1
        return True


@dataclass(slots=True)
class Outgoing:
    """One call of a user while it is sent.

    `call`: that of the core, by a route, without the datagrams that have left, and whether it may wait. `size_of`:
    bytes of a payload by its number. `target`: of send_to; None for the sender's own groups. `sent`: datagrams that
    have left; `retries`: since the last one did.
    """

    call: Call
    size_of: Callable[[int], int]
    target: Target | None = None
    sent: int = 0
    retries: int = 0
    recovery: Recovery = field(default_factory=Recovery)


def outgoing(transmitter: "Transmitter", payloads: Any, size: int | None) -> Outgoing:
    """What `Sender.send_batch` is to send; ArgumentError."""
    if size is not None:
        return _of_rows(transmitter, payloads, whole_number(size, "size", 1, LARGEST_PAYLOAD[6]))
    if isinstance(payloads, _core.views.Batch):
        records, data = payloads.records, payloads.data
        call = transmitter.send_records
        return Outgoing(lambda route, *how: call(route, records, data, *how), lambda i: len(payloads[i]))
    if (view := _view(payloads)) is None:
        return outgoing_list(transmitter, _sequence(payloads))
    if view.ndim < 2:
        raise ArgumentError("send_batch takes a sequence of payloads; pass size= to send one buffer in rows")
    rows = view.shape[0] if view.shape else 0
    if view.nbytes == 0:
        return outgoing_list(transmitter, (b"",) * rows)
    return _of_rows(transmitter, view, whole_number(view.nbytes // rows, "size of a row", 1, LARGEST_PAYLOAD[6]))


def _sequence(payloads: Any) -> "Sequence[Payload]":
    if isinstance(payloads, list | tuple):
        return payloads
    return iterated(payloads, "payloads", "a Batch or a sequence of payloads")


def outgoing_list(transmitter: "Transmitter", payloads: Sequence[Payload], target: Target | None = None) -> Outgoing:
    """Payloads to the sender's own groups (None), or to another group or address."""
    call = transmitter.send

    def size_of(number: int) -> int:
        return memoryview(payloads[number]).nbytes if number < len(payloads) else 0  # a list may change meanwhile

    return Outgoing(lambda route, *how: call(route, payloads, *how), size_of, target)


def _of_rows(transmitter: "Transmitter", buffer: Any, size: int) -> Outgoing:
    try:
        view = memoryview(buffer).cast("B")
    except TypeError as error:
        kind = type(buffer).__name__
        raise ArgumentError(f"size= goes with one contiguous buffer, not with {kind}: {error}") from error
    call = transmitter.send_rows
    return Outgoing(lambda route, *how: call(route, view, size, *how), lambda i: min(size, view.nbytes - i * size))


def _view(payloads: object) -> memoryview | None:
    """The memory of one buffer; None for a sequence of them."""
    try:
        return memoryview(payloads)  # type: ignore[arg-type]
    except TypeError:
        return None
