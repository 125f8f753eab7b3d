"""The command that a recording runs for each finished file (tcpdump -z)."""

import shlex
import subprocess
import time
from collections import deque

from mcast_fast._systems import SYSTEM
from mcast_fast.errors import ArgumentError, os_text, warn

AT_ONCE = 4  # commands that run together; files that are finished meanwhile wait
PATIENCE = 60.0  # seconds that the commands have when the recording has ended


class PostRotate:
    """Runs `command FILE` for each finished file, in the background and without a shell; a MulticastWarning reports
    one that fails. ArgumentError for a command that cannot be taken apart."""

    def __init__(self, command: str) -> None:
        try:
            self._words = _split(command)
        except ValueError as error:
            raise ArgumentError(f"command {command!r} is not one: {error}") from error
        if not self._words:
            raise ArgumentError("the command is empty; leave it out, or name a program")
        self._waiting: deque[str] = deque()
        self._running: list[tuple[subprocess.Popen[bytes], str]] = []

    def add(self, path: str) -> None:
        """Run it for this file as soon as one may be started."""
        self._waiting.append(path)
        self.look()

    def look(self) -> None:
        """See which have ended, and start the next; does not wait."""
        if not self._running and not self._waiting:
            return
        for process, path in self._running:
            if process.poll():
                self._warn(path, f"exit {process.returncode}")
        self._running = [one for one in self._running if one[0].returncode is None]
        while self._waiting and len(self._running) < AT_ONCE:
            self._start(self._waiting.popleft())

    def finish(self) -> None:
        """Wait for all of them, PATIENCE seconds at the most."""
        end = time.monotonic() + PATIENCE
        self.look()
        while self._running:
            process, path = self._running[0]
            try:
                process.wait(max(0.0, end - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._warn(path, f"still running after {PATIENCE:g} s, and left alone")
                del self._running[0]
            self.look()

    def _start(self, path: str) -> None:
        try:
            # A group of its own: Ctrl-C is for the recording, and what packs a file goes on.
            process = subprocess.Popen([*self._words, path], stdin=subprocess.DEVNULL, **SYSTEM.own_group)
        except OSError as error:
            self._warn(path, os_text(error.errno or 0))
        else:
            self._running.append((process, path))

    def _warn(self, path: str, what: str) -> None:
        warn(f"{shlex.join([*self._words, path])}: {what}")


def _split(command: str) -> list[str]:
    """The words of a command, as shlex.split, where a path may have backslashes, too; ValueError."""
    words = shlex.shlex(command, posix=True, punctuation_chars=False)
    words.whitespace_split = True
    words.commenters = ""
    words.escape = SYSTEM.escape
    return list(words)
