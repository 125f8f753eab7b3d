"""The line that a recording or a silent receiver shows on a terminal, once a second, in place of the one before."""

import enum
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import click

from mcast_fast._units import NANOSECONDS
from mcast_fast.cli.output import complain, counted_of, on_own_line
from mcast_fast.errors import escaped

SECONDS = 1.0
WIDEST = 80  # columns, the last of which stays free: a terminal may go on to the next line there
MEGABIT = 1e6 / 8  # bytes
CTRL_C = "^C"  # what the terminal shows of it, behind the line


class How(enum.Enum):
    """How it is shown: renewed in its place, or line by line."""

    IN_PLACE = 1
    LINES = 2


def shown_as(quiet: bool, progress: bool) -> How | None:
    """What --quiet and --progress, or their absence, mean where standard error goes."""
    if progress:
        return How.LINES
    return How.IN_PLACE if sys.stderr.isatty() and not quiet else None


class Moment(NamedTuple):
    """What had come by then: time in ns, packets, bytes of payload."""

    time: int
    packets: int
    size: int


class Came(Protocol):
    """A ledger."""

    @property
    def received(self) -> int:
        """Packets."""

    @property
    def bytes(self) -> int:
        """Of their payloads."""


def dropped(ledger: Any) -> str:
    """What a line says of the loss of a receiver or a file."""
    return f"{counted_of(ledger, 'dropped', ledger.dropped)} dropped"


def line(path: str, before: Moment, now: Moment, loss: str, columns: int = WIDEST) -> str:
    """What came since `before`, in fewer columns than there are; of a long path the end is shown."""
    seconds = max(now.time - before.time, 1) / NANOSECONDS
    rate = f"{(now.packets - before.packets) / seconds:,.0f} packets/s"
    megabits = f"{(now.size - before.size) / MEGABIT / seconds:,.1f} Mbit/s"
    text = f"{rate}, {megabits}, {loss}, "
    width = max(0, min(columns, WIDEST) - 1)
    return (text + end_of(escaped(path), width - len(text)))[:width]


def end_of(text: str, width: int) -> str:
    """A text, or of one that is too wide its end behind an ellipsis."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}" if width > 1 else ""


class Renewed:
    """A line that takes the place of the one before, or is one of many.

    Args:
        how: None: nothing is shown.
    """

    def __init__(self, how: How | None) -> None:
        self._how = how
        self._columns = 0  # of the line that is there
        self._shown = time.monotonic()

    def is_due(self) -> bool:
        """Whether a second has gone since the last line."""
        return self._how is not None and time.monotonic() - self._shown >= SECONDS

    def show(self, text: str) -> None:
        """Show it now; in place it is cut where the terminal ends."""
        self._shown = time.monotonic()
        if self._how is None:
            return
        if self._how is How.LINES:
            complain(text)
            return
        width = max(0, min(shutil.get_terminal_size().columns, WIDEST) - 1)
        text = text[:width]
        click.echo("\r" + text.ljust(min(self._columns, width)), nl=False, err=True)
        self._columns = len(text)

    def remove(self) -> None:
        """Have the cursor at the start of an empty line."""
        if self._columns:
            click.echo("\r" + " " * (self._columns + len(CTRL_C)) + "\r", nl=False, err=True)
            self._columns = 0
            on_own_line()


class Progress:
    """Shows how it goes on, from its own thread; `with` it: the line is removed at the end.

    Args:
        read: Returns the ledger, and what the line ends with.
        soon: Calls what shows the line; a recorder does so between two batches.
        how: None: nothing is shown.
        loss: What the line says of loss, from the ledger.
    """

    def __init__(
        self,
        read: Callable[[], tuple[Came, str]],
        soon: Callable[[Callable[[], None]], None],
        how: How | None,
        loss: Callable[[Any], str] = dropped,
    ) -> None:
        self._read, self._soon, self._loss = read, soon, loss
        self._ended = threading.Event()
        self._before = self._moment()
        self._line = Renewed(how)
        self._thread: threading.Thread | None = None
        if how is not None:
            self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> "Progress":
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        self.remove()

    def remove(self) -> None:
        """Have the cursor at the start of an empty line."""
        self._line.remove()

    def around(self, action: Callable[[], None]) -> Callable[[], None]:
        """The action with the line removed before: what it prints is on a line of its own."""

        def act() -> None:
            self.remove()
            action()

        return act

    def _run(self) -> None:
        while not self._ended.wait(SECONDS):
            self._soon(self._show)

    def _moment(self) -> Moment:
        stats, _ = self._read()
        return Moment(time.monotonic_ns(), stats.received, stats.bytes)

    def _show(self) -> None:
        (stats, subject), now = self._read(), self._moment()
        self._line.show(line(subject, self._before, now, self._loss(stats), shutil.get_terminal_size().columns))
        self._before = now
