"""What came of each stream, for the end of `receive` and `record`: by group, source and interface."""

from typing import TYPE_CHECKING, Any

import click

from mcast_fast.cli.output import aligned
from mcast_fast.cli.top_view import name_of
from mcast_fast.monitor._monitor import Monitor

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

HEADINGS = ("group", "source", "interface", "packets", "bytes", "packets/s", "Mbit/s")


class Streams:
    """Counts streams in `_core`; where nobody wants to see them, nothing."""

    def __init__(self, wanted: bool) -> None:
        self._monitor = Monitor(sequence=None) if wanted else None

    def __bool__(self) -> bool:
        return self._monitor is not None

    def add(self, batch: "Batch") -> None:
        """Count the packets of a batch."""
        if self._monitor is not None:
            self._monitor.add(batch)

    def objects(self) -> dict[str, Any]:
        """The streams for a JSON object."""
        if self._monitor is None:
            return {}
        names = ("group", "port", "source", "interface", "packets", "bytes", "smallest", "largest")
        return {"streams": [{name: getattr(one, name) for name in names} for one in self._monitor.streams()]}

    def show(self, seconds: float) -> None:
        """Print a line for each stream on standard error; rates are of all these seconds."""
        if self._monitor is None:
            return
        rows = [
            [
                *name_of(one),
                f"{one.packets:,}",
                f"{one.bytes:,}",
                f"{one.packets / seconds:,.1f}",
                f"{one.bytes * 8 / seconds / 1e6:,.2f}",
            ]
            for one in self._monitor.streams()
        ]
        for line in aligned([list(HEADINGS), *rows], 3) if rows else ():
            click.echo(line, err=True)
