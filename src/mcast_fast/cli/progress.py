"""The line that a recording or a silent receiver shows on a terminal, once a second, in place of the one before."""

import enum
import shutil
import sys
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

import click

from mcast_fast._units import NANOSECONDS
from mcast_fast.cli.output import complain, on_own_line
from mcast_fast.errors import escaped
from mcast_fast.stats import Stats

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


def line(path: str, before: Moment, now: Moment, dropped: int | None, columns: int = WIDEST) -> str:
    """What came since `before`, in fewer columns than there are; of a long path the end is shown."""
    seconds = max(now.time - before.time, 1) / NANOSECONDS
    rate = f"{(now.packets - before.packets) / seconds:,.0f} packets/s"
    megabits = f"{(now.size - before.size) / MEGABIT / seconds:,.1f} Mbit/s"
    text = f"{rate}, {megabits}, {'n/a' if dropped is None else f'{dropped:,}'} dropped, "
    width = max(0, min(columns, WIDEST) - 1)
    return (text + end_of(escaped(path), width - len(text)))[:width]


def end_of(text: str, width: int) -> str:
    """A text, or of one that is too wide its end behind an ellipsis."""
    return text if len(text) <= width else f"…{text[len(text) - width + 1 :]}" if width > 1 else ""


class Progress:
    """Shows how it goes on, from its own thread; `with` it: the line is removed at the end.

    Args:
        read: Returns the ledger, and what the line ends with.
        soon: Calls what shows the line; a recorder does so between two batches.
        how: None: nothing is shown.
    """

    def __init__(
        self, read: Callable[[], tuple[Stats, str]], soon: Callable[[Callable[[], None]], None], how: How | None
    ) -> None:
        self._read, self._soon = read, soon
        self._ended = threading.Event()
        self._before = self._moment()
        self._shown = 0  # columns of the line that is there
        self._how = how
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
        if self._shown:
            self._print("\r" + " " * (self._shown + len(CTRL_C)) + "\r")
            self._shown = 0
            on_own_line()

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
        columns = shutil.get_terminal_size().columns
        text = line(subject, self._before, now, stats.dropped, columns)
        if self._how is How.LINES:
            complain(text)
            self._before = now
            return
        self._print("\r" + text.ljust(self._shown))
        self._before, self._shown = now, len(text)

    @staticmethod
    def _print(text: str) -> None:
        click.echo(text, nl=False, err=True)
