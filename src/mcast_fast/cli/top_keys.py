"""Keys of `mcast-fast top`: read from a terminal, and what each changes."""

import contextlib
import os
import re
import select
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

VIEWS = ("rates", "integrity", "timing", "drops", "memberships")
SORTS = ("name", "rate", "bits", "lost", "gap", "silent")
SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b": "escape",
}
_TYPED = re.compile(rb"\x1b(?:\[[0-9;]*[A-Za-z~]|O[A-Za-z])?|[^\x1b]+")
NAMES = {"\r": "enter", "\n": "enter", "\x7f": "backspace", "\b": "backspace", "k": "up", "j": "down"}
PAGE = 10  # rows
LONGEST_FILTER = 60
HELP = ("q quit", "t view", "s sort", "r reverse", "/ filter", "p pause", "enter expand", "x reset")


@dataclass
class Settings:
    """What is shown, and how: changed by keys."""

    view: str = VIEWS[0]
    sort: str = SORTS[0]
    is_reversed: bool = False
    filter: str = ""
    is_typing: bool = False  # the filter
    is_paused: bool = False
    is_expanded: bool = False
    selected: int = 0  # row

    def press(self, key: str) -> str:
        """Do what a key says; "quit" or "reset" where that is for the program to do, else empty."""
        if self.is_typing:
            self._type(key)
            return ""
        if key in ("q", "x", "\x03"):
            return "reset" if key == "x" else "quit"
        action = _ACTIONS.get(NAMES.get(key, key))
        if action is not None:
            action(self)
        return ""

    def _type(self, key: str) -> None:
        name = NAMES.get(key, key) if key not in ("j", "k") else key
        if name in ("enter", "escape"):
            self.is_typing = False
            if name == "escape":
                self.filter = ""
        elif name == "backspace":
            self.filter = self.filter[:-1]
        elif len(name) == 1 and name.isprintable():
            self.filter = (self.filter + name)[:LONGEST_FILTER]
        self.selected = 0

    def _move(self, rows: int) -> None:
        self.selected = max(0, self.selected + rows)

    def _turn(self, name: str, values: tuple[str, ...]) -> None:
        setattr(self, name, values[(values.index(getattr(self, name)) + 1) % len(values)])

    def _flip(self, name: str) -> None:
        setattr(self, name, not getattr(self, name))


_ACTIONS: dict[str, Callable[[Settings], None]] = {
    "t": lambda one: one._turn("view", VIEWS),
    "s": lambda one: one._turn("sort", SORTS),
    "r": lambda one: one._flip("is_reversed"),
    "p": lambda one: one._flip("is_paused"),
    " ": lambda one: one._flip("is_paused"),
    "/": lambda one: one._flip("is_typing"),
    "enter": lambda one: one._flip("is_expanded"),
    "up": lambda one: one._move(-1),
    "down": lambda one: one._move(1),
    "page up": lambda one: one._move(-PAGE),
    "page down": lambda one: one._move(PAGE),
}


def split(data: bytes) -> list[str]:
    """What was typed as keys; sequences of a terminal that have no name are left out."""
    found: list[str] = []
    for match in _TYPED.finditer(data):
        piece = match[0]
        if piece.startswith(b"\x1b"):
            found += [SEQUENCES[piece]] if piece in SEQUENCES else []
        else:
            found += piece.decode(errors="ignore")
    return found


class Keys:
    """Reads keys from a terminal, between `begin` and `end`, which may come again; nothing where there is none."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        self._before: list[Any] = []
        with contextlib.suppress(ImportError, OSError, ValueError, AttributeError):  # io.UnsupportedOperation too
            import termios

            descriptor = sys.stdin.fileno()
            with contextlib.suppress(termios.error):
                self._before = termios.tcgetattr(descriptor)
                self._descriptor = descriptor

    def begin(self) -> None:
        """Have the terminal hand over each key at once, and show none."""
        if self._descriptor is not None:
            import tty

            tty.setcbreak(self._descriptor)

    def end(self) -> None:
        """Have the terminal be as it was."""
        if self._descriptor is not None:
            import termios

            termios.tcsetattr(self._descriptor, termios.TCSADRAIN, self._before)

    def typed(self, seconds: float) -> list[str]:
        """Wait for this time at most; what was typed meanwhile."""
        if self._descriptor is None:
            time.sleep(seconds)
            return []
        ready, _, _ = select.select([self._descriptor], [], [], seconds)
        data = os.read(self._descriptor, 64) if ready else b""
        if ready and not data:  # it was hung up
            return ["q"]
        return split(data)
