"""What one call of a sender sends, and where to.

Rules of this module: no I/O; the core's calls are bound here, and made by the sender.
"""

import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mcast_fast import _core
from mcast_fast._host.interfaces import Interface
from mcast_fast._units import iterated, whole_number
from mcast_fast.errors import ArgumentError
from mcast_fast.groups import Group

if TYPE_CHECKING:
    from mcast_fast._core.fast.send import Route, Transmitter

Payload = bytes | bytearray | memoryview
Call = Callable[["Route", int, bool], tuple[int, int]]

LARGEST_PAYLOAD = {4: 65_507, 6: 65_527}


@dataclass(frozen=True, slots=True)
class Destination:
    """Where one datagram goes: the key of the socket it leaves by, the packed group (4 or 16 bytes), port and
    interface."""

    key: int
    group: bytes
    port: int
    interface: Interface

    @property
    def target(self) -> tuple[int, bytes, int, int]:
        """What the core takes."""
        return (self.key, self.group, self.port, self.interface.index)

    def __str__(self) -> str:
        family = socket.AF_INET if len(self.group) == 4 else socket.AF_INET6
        return f"{socket.inet_ntop(family, self.group)} port {self.port} on {self.interface.name}"


class Paths(NamedTuple):
    """Where every payload of a call goes, in this order, and the same for the core."""

    destinations: list[Destination]
    route: "Route"


@dataclass(slots=True)
class Outgoing:
    """One call of a user while it is sent.

    `call`: that of the core, by a route, without the datagrams that have left, and whether it may wait. `size_of`:
    bytes of a payload by its number. `group`: of send_to; None for the sender's own. `sent`: datagrams that have left;
    `retries`: since the last one did; `recovered`: how many had left when the interface was last looked up once more.
    """

    call: Call
    size_of: Callable[[int], int]
    group: "str | Group | None" = None
    sent: int = 0
    retries: int = 0
    recovered: int = -1


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


def outgoing_list(
    transmitter: "Transmitter", payloads: Sequence[Payload], group: str | Group | None = None
) -> Outgoing:
    """Payloads to the sender's own groups (None), or to another one."""
    call = transmitter.send

    def size_of(number: int) -> int:
        return memoryview(payloads[number]).nbytes if number < len(payloads) else 0  # a list may change meanwhile

    return Outgoing(lambda route, *how: call(route, payloads, *how), size_of, group)


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
