"""What `Receiver.memberships` lists; no I/O."""

from dataclasses import dataclass, fields
from typing import Literal

from mcast_fast import _html

Mode = Literal["include", "exclude"]
MODES: dict[bool, Mode] = {True: "exclude", False: "include"}


@dataclass(frozen=True, slots=True)
class Membership:
    """One group on one interface, as it is wanted and as the system holds it.

    Attributes:
        group: The group's address.
        port: The UDP port.
        interface: The name of the interface.
        mode: The wanted filter mode: "include", or "exclude", which is any-source when there are no sources.
        sources: The sources that the wanted filter includes or excludes.
        joined: Whether a socket holds the membership now.
        kernel_mode: The filter mode as the sockets report it (RFC 3678 section 5.2.2); None where the system does not
            report it, or nothing is joined.
        kernel_sources: The sources as the sockets report them, of all sockets together, or None.
        sockets: The number of sockets that share the membership.
        reason: Why it is not joined, or "".
    """

    __module__ = "mcast_fast"

    group: str
    port: int
    interface: str
    mode: Mode
    sources: tuple[str, ...]
    joined: bool = True
    kernel_mode: Mode | None = None
    kernel_sources: tuple[str, ...] | None = None
    sockets: int = 1
    reason: str = ""


class Memberships(list[Membership]):
    """Memberships as a list, which notebooks show as a table."""

    def _repr_html_(self) -> str:
        header = [one.name for one in fields(Membership)]
        rows = [[_cell(getattr(one, name)) for name in header] for one in self]
        return _html.table(f"{len(self):,} memberships", header, rows)


def _cell(value: object) -> object:
    return ", ".join(value) if isinstance(value, tuple) else str(value) if isinstance(value, int) else value
