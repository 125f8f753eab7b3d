"""mcast-fast top: tables, lines, JSON and keys; what comes from the network controls no terminal."""

import errno
import io
import json
import os
import re
import signal
import struct
import subprocess
import sys

import pytest

import mcast_fast as mcast
from mcast_fast import monitor
from mcast_fast.cli import top, top_keys, top_view
from mcast_fast.cli.top_keys import Settings
from mcast_fast.cli.top_view import Shown
from mcast_fast.monitor import Stream, StreamState
from tests.conftest import free_port, loopback
from tests.test_cli import environment, invoke, program_backend, run  # noqa: F401

SECOND = 1_000_000_000
GAPS = (0,) * 20 + (5, 3) + (0,) * 18
FIRST = Stream(
    *("239.1.1.1", 5000, "10.0.0.1", "eth0", StreamState.RECEIVING, 1_000_000, 256_000_000, 50_000, 102_400_000),
    *(256, 1316, 0, 5_000_000, 7, GAPS, 1, 2, 3_000_000, 0, "rtp", 12, 1, 2, 0),
)
STALLED = FIRST._replace(
    group="239.1.1.2", state=StreamState.STALLED, packets_per_second=0, bits_per_second=0, silent=3 * SECOND
)
WAITING = Stream("239.1.1.3", 5000, None, "eth0", StreamState.WAITING)
EVIL = FIRST._replace(source="\x1b[2J[red]", interface="\x1b]0;x\x07", sequence="\x1b[1m")
DROPS = {"socket": 5, "ring": None, "background": 0, "nic": 99}


def shown(*streams):
    return Shown(streams, DROPS, (), 2.0)


def no_history(_stream):
    return [(0, 0)] * 29 + [(8, 800)]


def printed(renderable, width=80):
    from rich.console import Console

    console = Console(file=io.StringIO(), width=width, markup=False, highlight=False, emoji=False, color_system=None)
    console.print(renderable)
    return console.file.getvalue()


def on_screen(settings, *streams, width=120, height=24):
    return printed(top_view.screen(shown(*streams), settings, no_history, width, height), width)


# ---- what is shown ----


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), ValueError("a table")])
def test_what_cannot_be_shown_ends_it_with_the_error(monkeypatch, no_leak, error):
    def refuse(*_):
        raise error

    monkeypatch.setattr(top, "line", refuse)
    result = invoke("top", f"239.9.5.9%{loopback()}:{free_port()}", "--interval", "1ms")
    assert result.exit_code == 1
    if isinstance(error, OSError):
        assert result.stderr == "mcast-fast: standard output: No space left on device (28)\n"
    else:
        assert result.exception is error


def test_drops_of_coalesced_packets_are_a_lower_bound():
    exact, bound = shown(FIRST), shown(FIRST)._replace(drops_exact=False)
    assert [", dropped 5" in top_view.totals(exact), ", dropped at least 5" in top_view.totals(bound)] == [True, True]
    none = bound._replace(drops=dict.fromkeys(DROPS, 0))
    assert ", dropped 0" in top_view.totals(none)
    assert ["at least" in printed(top_view.drops_table(one)) for one in (exact, bound)] == [False, True]
    assert [top_view.as_object(one, 0)["drops_exact"] for one in (exact, bound)] == [True, False]


def test_a_stream_without_packets_has_no_sizes():
    assert "packets      0, 0 bytes, - each" in printed(top_view.details(WAITING, no_history))
    assert ", 256 to 1316 each" in printed(top_view.details(FIRST, no_history))


def test_a_line_names_what_has_stalled():
    text = top_view.line(shown(FIRST, STALLED, WAITING), 0)
    assert text == (
        "1970-01-01T00:00:00Z 2 streams, 50,000 packets/s, 102.4 Mbit/s, lost 24, dropped 5, waiting 1, "
        "stalled 1: 239.1.1.2:5000 from 10.0.0.1 on eth0"
    )
    assert top_view.line(shown(*[STALLED] * 10), 0).endswith(", 7 more")


def test_packets_that_share_their_time_are_counted():
    text = top_view.totals(shown(FIRST)._replace(coalesced=12_345))
    assert text.endswith("dropped 5, coalesced 12,345")
    assert top_view.as_object(shown(FIRST)._replace(coalesced=7), 0)["coalesced"] == 7


def test_the_views_of_a_screen():
    settings = Settings()
    text = on_screen(settings, FIRST, STALLED, WAITING)
    assert re.search(r"239.1.1.1:5000 10.0.0.1 eth0 +receiving +50,000 +102.4 1,000,000 256-1316 +█", text)
    assert re.search(r"239.1.1.2:5000 10.0.0.1 eth0 +stalled +0 +0.0", text)
    settings.press("t")
    assert re.search(r"receiving +rtp +12 +1 +2 +0 *\n", on_screen(settings, FIRST))
    settings.press("t")
    assert re.search(r"receiving +< 1.05 ms +5 ms +3 ms", on_screen(settings, FIRST))
    settings.press("t")
    assert re.search(r"socket +5 *\nring +-", on_screen(settings, FIRST))
    settings.press("t")
    assert settings.view == "memberships"
    assert settings.press("t") == ""
    assert settings.view == "rates"


@pytest.mark.parametrize("width", [20, 80, 100, 160])
def test_a_screen_fits_its_terminal(width):
    settings = Settings(is_expanded=True, selected=90)
    streams = [FIRST._replace(port=port) for port in range(5000, 5100)]
    for _ in top_keys.VIEWS:
        lines = on_screen(settings, *streams, width=width).splitlines()
        assert max(map(len, lines)) <= width
        assert len(lines) <= 24
        settings.press("t")
    if width > 80:
        assert "239.1.1.1:5090" in on_screen(settings, *streams, width=width)


def test_numbers_are_whole_in_80_columns():
    assert re.search(r"50,000 +102.4 1,000,000 256-1316", on_screen(Settings(), FIRST, width=80))


@pytest.mark.parametrize(
    ("width", "group", "source"), [(60, "239.1.1.1", "10.0.0.5"), (80, "239.255.1.34", "192.168.123.45")]
)
def test_addresses_of_ipv4_are_whole_in_few_columns(width, group, source):
    """What is left out instead are columns that matter less, and keys."""
    one = FIRST._replace(group=group, source=source, sequence="mcast-fast")
    for view, numbers in (("rates", "50,000 +102.4"), ("integrity", "12 +1"), ("timing", "5 ms")):
        text = on_screen(Settings(view=view), one, width=width)
        assert re.search(rf"{group}:5000 {source} eth0 +receiving.* {numbers}", text), text
        assert "…" not in text.splitlines()[-1]


def test_what_comes_from_the_network_controls_no_terminal():
    for view in top_view.COLUMNS:
        text = on_screen(Settings(view=view, is_expanded=True), EVIL, width=250)
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "\\x1b[2J[red]" in text
    assert "\x1b" not in top_view.line(shown(EVIL._replace(state=StreamState.STALLED)), 0)


def test_other_streams_are_a_row():
    assert re.search(
        r"^other +- +-",
        on_screen(Settings(), FIRST._replace(group=monitor.OTHER, source=None, interface=None)),
        re.MULTILINE,
    )


@pytest.mark.parametrize(
    ("ns", "text"),
    [(None, "-"), (0, "0 ns"), (7, "7 ns"), (1500, "1.5 us"), (250_000_000, "250 ms"), (90 * SECOND, "90 s")],
)
def test_times(ns, text):
    assert top_view.duration_text(ns) == text


def test_a_sparkline_shows_what_is_not_nothing():
    assert top_view.sparkline([0, 1, 500, 1000]) == " ▁▄█"
    assert top_view.sparkline([0, 0]) == "  "


# ---- keys ----


def pressed(keys, settings=None):
    settings = settings or Settings()
    return settings, [settings.press(key) for key in keys]


def test_a_filter_is_typed():
    settings, _ = pressed(["/", *"239.1.1.2 stalledk", "backspace", "enter", "t"])
    assert (settings.filter, settings.is_typing, settings.view) == ("239.1.1.2 stalled", False, "integrity")
    assert top_view.chosen((FIRST, STALLED, WAITING), settings) == [STALLED]
    assert pressed(["/", "q", "escape"], settings)[1] == ["", "", ""]
    assert settings.filter == ""


def test_orders():
    settings, _ = pressed(["s"])
    assert top_view.chosen((WAITING, FIRST), settings) == [FIRST, WAITING]
    settings.press("r")
    assert top_view.chosen((WAITING, FIRST), settings) == [WAITING, FIRST]


def test_other_keys():
    settings, answers = pressed(["down", "j", "up", "p", "enter", "x", "q", "\x03", "?"])
    assert answers == ["", "", "", "", "", "reset", "quit", "quit", ""]
    assert (settings.selected, settings.is_paused, settings.is_expanded) == (1, True, True)
    assert pressed(["page down", "page up", "up"])[0].selected == 0


@pytest.mark.parametrize(
    ("data", "keys"),
    [
        (b"\x1b[B\r", ["down", "\r"]),
        (b"\x1b", ["escape"]),
        (b"q\x1bOA", ["q", "up"]),
        (b"\x1b[99;5u\xffs", ["s"]),
        ("ü".encode(), ["ü"]),
    ],
)
def test_what_is_typed_is_taken_apart(data, keys):
    assert top_keys.split(data) == keys


# ---- the program ----


def wait_until(group, port, *arguments, backend):
    return run("top", f"{group}%{loopback()}:{port}", *arguments, backend=backend)


@pytest.mark.long
def test_json_as_a_program(program_backend):  # noqa: F811
    done = wait_until(
        "239.9.2.1", free_port(), "--json", "--duration", "0.3", "--interval", "100ms", backend=program_backend
    )
    assert done.returncode == 0, done.stderr
    *lines, final = [json.loads(line) for line in done.stdout.splitlines()]
    assert final["final"]
    assert not any(one["final"] for one in lines)
    assert [one["state"] for one in final["streams"]] == ["waiting"]
    assert final["drops"].keys() == {"socket", "ring", "background", "nic"}


@pytest.mark.long
def test_nothing_came_as_a_program(program_backend):  # noqa: F811
    done = wait_until("239.9.2.1", free_port(), "--timeout", "0.2", backend=program_backend)
    assert done.returncode == 4
    assert "0 streams, 0 packets/s" in done.stdout
    assert "nothing came within 0.2 s" in done.stderr


@pytest.mark.long
@pytest.mark.needs("pseudo terminals", "signals to processes")
def test_ctrl_z_gives_the_terminal_back(program_backend):  # noqa: F811
    """In a process group of its own, for what has no shell to go on by is not stopped."""
    import pty
    import termios

    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    group = f"239.9.2.1%{loopback()}:{free_port()}"
    argv = [sys.executable, "-m", "mcast_fast", "top", group]
    variables = environment(program_backend) | {"TERM": "xterm"}
    files = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
    program = subprocess.Popen(argv, env=variables, process_group=0, **files)
    text = ""

    def read_until(pattern):
        nonlocal text
        while not re.search(pattern, text):
            text += os.read(ours, 4096).decode()
        text = ""

    try:
        read_until("rates, by")
        assert termios.tcgetattr(theirs) != before
        program.send_signal(signal.SIGTSTP)
        _, status = os.waitpid(program.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert termios.tcgetattr(theirs) == before
        read_until(r"\x1b\[\?1049l$")
        program.send_signal(signal.SIGCONT)
        read_until(r"(?s)\x1b\[\?1049h.*rates, by")
        os.write(ours, b"t")
        read_until("integrity, by")
        os.write(ours, b"q")
        read_until("dropped by")
        assert program.wait() == 0
        assert termios.tcgetattr(theirs) == before
    finally:
        program.kill()
        program.wait()
        os.close(ours)
        os.close(theirs)


@pytest.mark.needs("kernel_timestamps")
@pytest.mark.parametrize(("options", "code"), [([], 0), (["--fail-on-loss"], 3)])
def test_what_is_missing_for_less_than_a_second_at_the_end_is_loss(backend, monkeypatch, options, code):
    group = f"239.9.2.1%{loopback()}:{free_port()}"
    opened = mcast.Receiver.__init__

    def open_and_send(self, *groups, **more):
        opened(self, *groups, **more)
        with mcast.Sender(group, ttl=0) as tx:
            tx.send_batch([struct.pack(">Q", number) for number in (1, 2, 4)])

    monkeypatch.setattr(mcast.Receiver, "__init__", open_and_send)
    result = invoke("top", group, "-f", "u64be@0", "-c", 3, "-t", 5, *options)
    assert result.exit_code == code, result.output


@pytest.mark.parametrize(
    "wrong", [["--interval", "0"], ["--stalled-after", "0"], ["--format", "nonsense"], ["--streams", "0"]]
)
def test_wrong_options(wrong):
    from tests.test_cli import invoke

    result = invoke("top", f"239.9.2.1%{loopback()}:5000", *wrong)
    assert result.exit_code == 2
