"""The progress line of `mcast-fast record`: on a terminal only, within its columns, and out of the way of what else is printed."""

import os
import re
import signal
import subprocess
import sys

import pytest

from mcast_fast.cli import output
from mcast_fast.cli.progress import Moment, line
from tests.screens import lines_shown
from tests.test_cli import environment, program_backend  # noqa: F401
from tests.test_cli_record import tx  # noqa: F401

SECOND = 10**9
BEFORE, NOW = Moment(SECOND, 100, 1000), Moment(3 * SECOND, 2_000_100, 501_000)


def test_rates_are_of_what_came_since():
    assert line("a.pcapng", BEFORE, NOW, "5 dropped") == "1,000,000 packets/s, 2.0 Mbit/s, 5 dropped, a.pcapng"
    assert line("a.pcapng", NOW, NOW, "n/a dropped") == "0 packets/s, 0.0 Mbit/s, n/a dropped, a.pcapng"


@pytest.mark.parametrize("columns", [0, 1, 20, 49, 50, 80, 300])
def test_it_fits_the_terminal(columns):
    path = "/recordings/" + "long/" * 20 + "feed_00001_20261129.pcapng"
    text = line(path, BEFORE, NOW, "5 dropped", columns)
    assert len(text) == max(0, min(columns, 80) - 1)
    assert columns < 80 or text.endswith("…/feed_00001_20261129.pcapng"[-10:])


def test_a_name_does_not_control_the_terminal():
    assert line("\x1b[2J.pcapng", NOW, NOW, "0 dropped").endswith("\\x1b[2J.pcapng")


class Terminal:
    """A program with a pseudo terminal as its standard error."""

    def __init__(self, argv, backend):
        import pty

        self._ours, theirs = pty.openpty()
        self.process = subprocess.Popen(argv, stderr=theirs, stdout=subprocess.DEVNULL, env=environment(backend))
        os.close(theirs)
        self.text = ""

    def expect(self, pattern):
        """Read until this has come."""
        while not re.search(pattern, self.text):
            self.text += self._read() or pytest.fail(f"ended without {pattern!r}: {self.text!r}")

    def end(self):
        """All that it prints until it ends."""
        while piece := self._read():
            self.text += piece
        os.close(self._ours)
        assert self.process.wait() == 0
        return self.text

    def _read(self):
        try:
            return os.read(self._ours, 1000).decode()
        except OSError:  # EIO: nobody has the other end any more
            return ""


@pytest.fixture
def terminal(program_backend, group, tmp_path):  # noqa: F811
    argv = [sys.executable, "-m", "mcast_fast", "record", group, "-w", str(tmp_path / "feed.pcapng")]
    return lambda *options: Terminal([*argv, *options], program_backend)


@pytest.mark.needs("signals to processes", "pseudo terminals")
@pytest.mark.long
def test_it_is_shown_and_leaves_its_line_to_what_follows(terminal, tx):  # noqa: F811
    program = terminal()
    program.expect("recording ")
    tx.send_batch([b"x" * 100] * 50)
    program.expect(r"dropped, \S+feed\.pcapng")
    program.process.send_signal(signal.SIGUSR1)
    program.expect("received 50")
    program.expect(r"received 50(?s:.)*dropped, \S+feed\.pcapng")
    program.process.send_signal(signal.SIGINT)
    shown = lines_shown(program.end())
    assert "packets/s" in program.text
    assert shown[0].startswith("mcast-fast: recording ")
    assert [re.sub(r"\d+", "N", row.split(",")[0]) for row in shown[1:] if not row.startswith("  ")] == [
        "mcast-fast: received N"
    ] * 2


@pytest.mark.needs("signals to processes", "pseudo terminals")
@pytest.mark.long
def test_a_quiet_recording_shows_none(terminal, tx):  # noqa: F811
    program = terminal("--quiet", "-a", "duration:1.5")
    program.expect("recording ")
    assert "packets/s" not in program.end()


def test_rates_are_over_the_time_that_it_took():
    assert output.pace_text(2.0, 1000, 1_000_000) == "in 2.00 s, 500 packets/s, 4.0 Mbit/s"
    assert output.pace_text(2.0, 0, 0) == "in 2.00 s"
    assert output.pace_object(2.0, 1000, 1_000_000) == {
        "seconds": 2.0,
        "packets_per_second": 500.0,
        "bits_per_second": 4_000_000.0,
    }
