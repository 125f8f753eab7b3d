"""What `Receiver.memberships` lists; no I/O."""

from dataclasses import dataclass, fields
from typing import Literal

from mcast_fast import _html

Mode = Literal["include", "exclude"]
MODES: dict[bool, Mode] = {True: "exclude", False: "include"}


@dataclass(frozen=True, slots=True)
class Membership:
    """One group on one interface, as it is wanted and as it is held.

    `mode` and `sources`: wanted; "exclude" with no sources is any-source. `joined`: whether a socket holds it now.
    `kernel_mode`, `kernel_sources`: read back from the sockets' own filters (RFC 3678 5.2.2, sources of all sockets
    together); None where the system cannot say, or nothing is held. `sockets`: how many share it. `reason`: why it is
    not joined.
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
