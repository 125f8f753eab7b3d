"""What README and docs show as the output of commands and programs: seen here again, in the order of the page.

`python -m tests.shown [PAGE…]` writes the outputs of PAGES anew, as root in a network namespace of its own; tests/test_shown.py compares.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests import lab, screens

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
COLUMNS = 80

# The pages that one reader works through, one after the other in one directory.
PAGES = ("docs/quickstart.md", "docs/analysis.md", "docs/tutorial.md")
# Commands that prepare a machine, and are not run.
PREPARE = ("pip ", "python3 -m venv ", "sudo ")
TO_ROOT = "Running as user"  # tshark's warning, which the reader does not see
# Programs that wait for packets; what they print is shown, not what the sender beside them prints.
LISTEN = re.compile(r"mcast-fast (receive|record) ")
# In the tests the same takes less time, and the loss is older than the window of a second at the end all the same. The large buffer
# loses nothing, however busy the machine is.
FASTER = (
    (" -t 10", " -c 20003"),
    ("--rate 10k/s", "--rate 14k/s"),
    ("-w feed.pcapng", "-w feed.pcapng --buffer 64MiB"),
)

# What differs from run to run. Integers are compared, unless they are times.
MASKS = (
    (r"\d{4}-\d\d-\d\d(?=T)", "DATE"),
    (r"\d\d:\d\d:\d\d\.\d+Z?", "TIME"),
    (r"127\.0\.0\.1:\d{5}\b|\b\d{5} (?=→)", "SENDER"),
    (r"\b[0-9a-f]{16}\b", "KEY"),
    (r"[\d,.]+ packets/s, [\d,.]+ Mbit/s", "RATE"),
    (r"[\d,]+ ns\b", "TIME"),
    (r"(?<=coalesced 0, bytes )[\d,]+", "SIZE"),  # of a file, with the blocks of each second
    (r"\d+s \d+ns", "TIME"),
    (r"(?<=sent 1000, )received \d+, dropped \d+", "SPLIT"),
    (r"(?<=8 arbitration: ).*", "LEDGER"),  # a pause between the two lines of more than `hold` changes it
    (r"(?<![\d.,])\d[\d,]*\.\d+(?![\d.])", "1.0"),
    (r"─+|═+", "─"),
    (r"(?<=\S)[ \t]+", " "),
)

BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


class Output(NamedTuple):
    """An output: what a page shows, where that is in its text, and what was seen."""

    page: str
    shown: str
    seen: str
    span: tuple[int, int]


def masked(text: str) -> list[str]:
    """The lines of an output without what differs from run to run."""
    text = "\n".join(screens._unwrapped(text.strip().splitlines()))
    for pattern, instead in MASKS:
        text = re.sub(pattern, instead, text)
    return [line.strip() for line in text.splitlines()]


def outputs_of(page: str) -> list[str]:
    """The outputs that a page shows: blocks without a language."""
    text = (ROOT / page).read_text("utf-8")
    return [match[2] for match in BLOCK.finditer(text) if match[1] in ("", "text")]


class Reader:
    """Works through pages in a directory, as a reader with two terminals does."""

    def __init__(self, directory: Path, hurry: bool = True) -> None:
        self._directory = directory
        self._hurry = hurry
        self._listener: screens._Terminal | None = None
        self._printed: list[str] = []  # and not shown yet
        for file in (DOCS / "_code").iterdir():
            if file.is_file():
                shutil.copy(file, directory)

    def read(self, page: str) -> Iterator[Output]:
        """Do what the page says; each output that it shows, with what was seen."""
        text = (ROOT / page).read_text("utf-8")
        code = ""
        self._printed = []
        for match in BLOCK.finditer(text):
            if match[1] in ("sh", "console"):
                self._run(match[2])
            elif match[1] == "python":
                code = match[2]
            elif match[1] in ("", "text"):
                if not self._printed:
                    self._printed.append(self._python(code))
                yield Output(page, match[2], self._printed.pop(0), match.span(2))

    def _run(self, commands: str) -> None:
        for line in commands.replace("\\\n", " ").splitlines():
            command = line.partition(" #")[0].strip()
            if not command or command.startswith(("#", *PREPARE)):
                continue
            for slow, fast in FASTER if self._hurry else ():
                command = command.replace(slow, fast)
            self._start(command)

    def _start(self, command: str) -> None:
        python = shlex.quote(sys.executable)
        line = re.sub(r"^mcast-fast ", f"{python} -m mcast_fast ", re.sub(r"^python ", f"{python} ", command))
        terminal = screens._Terminal(line, COLUMNS, self._directory)
        if LISTEN.match(command):
            terminal.read_until("listening|recording")
            self._listener = terminal
            return
        terminal.end()
        if self._listener is not None:
            terminal, self._listener = self._listener, None
            terminal.end()
        lines = [line.rstrip() for line in screens.lines_shown(screens.SGR.sub("", terminal.text))]
        if lines := [line for line in lines if not line.startswith(TO_ROOT)]:
            self._printed.append("\n".join(lines) + "\n")

    def _python(self, code: str) -> str:
        environment = os.environ | {"PYTHONPATH": screens.SOURCE, "PYTHONIOENCODING": "utf-8", "MPLBACKEND": "Agg"}
        done = subprocess.run(
            [sys.executable, "-"],
            input=code,
            text=True,
            encoding="utf-8",
            capture_output=True,
            cwd=self._directory,
            env=environment,
            check=False,
        )
        return done.stdout + done.stderr


def main() -> None:
    """Write what is seen into the pages, or into those that are named."""
    wanted = sys.argv[1:] or PAGES
    lab.unshare_network()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    with tempfile.TemporaryDirectory() as directory:
        reader = Reader(Path(directory), hurry=False)
        for page in PAGES:
            text, moved = (ROOT / page).read_text("utf-8"), 0
            for output in list(reader.read(page)) if page in wanted else ():
                start, end = (at + moved for at in output.span)
                text = text[:start] + output.seen + text[end:]
                moved += len(output.seen) - len(output.shown)
            (ROOT / page).write_text(text, "utf-8")
        for picture in Path(directory).glob("*.png"):
            shutil.copy(picture, DOCS)


if __name__ == "__main__":
    main()
