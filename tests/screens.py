"""The screens of docs/command-line.md: programs run in a terminal of so many columns, and what is on it in the end.

`python -m tests.screens` writes them into the page anew; tests/test_screens.py compares.
"""

import contextlib
import os
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import click

import mcast_fast as mcast
from mcast_fast.cli import VERBS, program
from mcast_fast.cli.output import folded
from tests.capture_files import RAW, ipv4, udp

PAGE = Path(__file__).parent.parent / "docs" / "command-line.md"
SOURCE = str(Path(mcast.__file__).parent.parent)
SGR = re.compile(r"\x1b\[[0-9;]*m")
START = 1_795_870_800_000_000_000
PAYLOAD = b"price 101.25, size 400, time 14:00:00.000001, venue A, sequence 17"

# Of top, whose columns keep their places: what is shown instead has the width of what it is instead of.
LIVE = (
    (r"(?<=receiving)( +[\d,]+)( +[\d.]+)( +[\d,]+)(?= +66\b)", ("50", "0.0", "150")),  # rates
    (r"(?<= 66) [ ▁▂▃▄▅▆▇█]+$", (" ▅███",)),
    (
        r"(?<=receiving)( +(?:< )?[\d.,]+ [mun]?s)( +[\d.,]+ [mun]?s)( +[\d.,]+ [mun]?s)( +\d+)$",
        ("< 33.6 ms", "21 ms", "12 ms", "0"),
    ),
    (r"(?<=1 stream, )\d+ packets/s, [\d.]+ Mbit/s", ("50 packets/s, 0.0 Mbit/s",)),
)


def _as_wide(*instead: str) -> Callable[[re.Match[str]], str]:
    """A replacement of each group of a match, or of all of it, padded on the left to its width."""

    def replace(match: re.Match[str]) -> str:
        parts = match.groups() or (match[0],)
        return "".join(text.rjust(len(part)) for text, part in zip(instead, parts, strict=True))

    return replace


# What differs from run to run, and what is shown instead.
MASKS = (
    (r"(?<=^state        receiving, silent )[\d.,]+ [mun]?s, silences \d+", "12 ms, silences 0"),
    (r"(?<=^packets      )[\d,]+, [\d,]+ bytes", "150, 9,900 bytes"),
    (r"(?<=^largest gap  )[\d.,]+ [mun]?s", "21 ms"),
    (r"(?<=^gaps         )<.*", "< 16.8 ms: 3, < 33.6 ms: 146"),
    (r"(?<=^30 s         ) *[▁▂▃▄▅▆▇█]+$", " ▅███"),
    (r"\d\d:\d\d:\d\d\.\d{6}\b", "14:00:00.123456"),
    (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", "2026-11-28T13:00:00.123456789Z"),
    (r"127\.0\.0\.1:\d{5}\b", "127.0.0.1:40000"),
    (r"in [\d.]+ s, [\d,]+ packets/s, [\d,.]+ Mbit/s", "in 1.00 s, 3 packets/s, 0.0 Mbit/s"),
    (r'"seconds": [\d.e-]+', '"seconds": 0.1'),
    (r"\bin [\d.]+ s$", "in 0.10 s"),
    (r"[\d,.]+(?: M)?/s sent, [\d,]+ of [\d,]+ lost", "62,000/s sent, 0 of 1,240 lost"),
    (r"(bytes: |at least )[\d,.]+(?: M)?/s", r"\g<1>62,000/s"),
    (r"/s, [\d,]+ Mbit/s; limit", "/s, 653 Mbit/s; limit"),
    (r"; \d+% came coalesced", ""),
    (r'_per_second": [\d.e-]+', '_per_second": 0.0'),
    (r"in [\d.]+ s, [\d,.]+ packets/s$", "in 0.001 s, 300,000.0 packets/s"),
    (r"batches \d, largest_batch \d, wakeups \d", "batches 2, largest_batch 1, wakeups 2"),
    (r'"seconds": [\d.]+, "late.*', '"seconds": 0.001, …}'),
    (r"in [\d.]+ s, [\d,.]+ packets/s(?=; late)", "in 0.200 s, 200.0 packets/s"),
    (r"late p50 .*$", "late p50 60 us, p99 210 us, max 250 us"),
    (r"^sent [\d,]{3,}$", "sent 1,000"),
    (r"(?<=lo {15}2 {4}132).*$", "        3.0    0.00"),
    (r"^[\d,]+ packets/s, [\d,.]+ Mbit/s", "3 packets/s, 0.0 Mbit/s"),
    *((pattern, _as_wide(*instead)) for pattern, instead in LIVE),
)


SUMMARIES = ("mcast-fast: received", "mcast-fast: sockets", "sockets, ", "sent ")  # their figures are masked


class Screen(NamedTuple):
    """A command, the columns of its terminal (0: a pipe), and how it is driven.

    `sends`: payloads that are sent when it listens. `shot`: what is on the screen when this is there, before the end.
    `keys`: of a program that draws the whole screen again and again; they are typed, a stream comes meanwhile, and
    `shot` is on the screen that is shown.
    """

    command: str
    columns: int = 80
    sends: int = 0
    shot: str = ""
    stop: bool = False
    keys: str | None = None


TOP = "mcast-fast top 239.1.1.1%lo:5000+3"
SCREEN_LEFT = "\x1b[?1049l"  # what is behind it stays when the program has ended
HOME = "\x1b[H"  # a program that draws the whole screen again begins there
STREAM = 50  # packets per second

SCREENS = {
    "receive-80": Screen("mcast-fast receive 239.1.1.1%lo:5000 -c 3", sends=3),
    "receive-160": Screen("mcast-fast receive 239.1.1.1%lo:5000 -c 3", 160, sends=3),
    "receive-piped": Screen("mcast-fast receive 239.1.1.1%lo:5000 -c 1 2>&1 | cat", 0, sends=1),
    "receive-running": Screen("mcast-fast receive 239.1.1.1%lo:5000 -o none", sends=3, shot=r"dropped, 239"),
    "receive-ctrl-c": Screen("mcast-fast receive 239.1.1.1%lo:5000", sends=1, stop=True),
    "receive-nothing": Screen("mcast-fast receive 239.1.1.1%lo:5000 -t 100ms"),
    "receive-match": Screen(
        "mcast-fast receive 239.1.1.1%lo:5000 --match text~price --match 'size>=66' -c 2 --stats", sends=2
    ),
    "receive-unmatched": Screen("mcast-fast receive 239.1.1.1%lo:5000 --match size=1 -t 1s", sends=2),
    "receive-lines": Screen("mcast-fast receive 239.1.1.1%lo:5000 -o none --progress -d 1200ms 2>&1 | cat", 0),
    "receive-json": Screen("mcast-fast receive 239.1.1.1%lo:5000 -o none --time utc -t 100ms --json"),
    "send-80": Screen("mcast-fast send 239.1.1.1%lo:5000 --size 64 -c 3 --rate 1k"),
    "send-running": Screen("mcast-fast send 239.1.1.1%lo:5000 --size 64 --rate 1k -d 1h", shot=r"sent [\d,]+ *$"),
    "send-json": Screen("mcast-fast send 239.1.1.1%lo:5000 hello --json | cat", 0),
    "send-answers": Screen("mcast-fast send 239.1.1.1%lo:5000 who --wait 100ms"),
    "record-running": Screen("mcast-fast record 239.1.1.1%lo:5000 -w new.pcapng", sends=3, shot=r"dropped, new"),
    "record-160": Screen("mcast-fast record 239.1.1.1%lo:5000 -w new.pcapng -c 3", 160, sends=3),
    "record-nothing": Screen("mcast-fast record 239.1.1.1%lo:5000 -w new.pcap -t 100ms --json"),
    "record-80": Screen("mcast-fast record 239.1.1.1%lo:5000 -w new.pcapng -c 3", sends=3),
    "replay-80": Screen("mcast-fast replay feed.pcap --to 239.1.1.1%lo:5000 --max"),
    "replay-duration": Screen("mcast-fast replay feed.pcap --to 239.1.1.1%lo:5000 -d 200ms"),
    "replay-160": Screen("mcast-fast replay feed.pcap --to 239.1.1.1%lo:5000 -d 200ms", 160),
    "replay-piped": Screen("mcast-fast replay feed.pcap --to 239.1.1.1%lo:5000 --max --json | cat", 0),
    "error-replay": Screen("mcast-fast replay feed.pcap"),
    "info-piped": Screen("mcast-fast info feed.pcap | cat", 0),
    "info-80": Screen("mcast-fast info feed.pcap"),
    "info-160": Screen("mcast-fast info feed.pcap", 160),
    "info-none": Screen("mcast-fast info feed.pcap 239.7.7.7"),
    "check-80": Screen("mcast-fast check feed.pcap -f u64be@0"),
    "check-piped": Screen("mcast-fast check feed.pcap -f u64be@0 --json | head -8", 0),
    "check-nothing": Screen("mcast-fast check 239.1.1.1%lo:5000 -f rtp -t 100ms -q"),
    "check-160": Screen("mcast-fast check feed.pcap -f u64be@0", 160),
    "arbitrate-80": Screen("mcast-fast arbitrate feed.pcap feed.pcap -f u64be@0"),
    "arbitrate-160": Screen("mcast-fast arbitrate feed.pcap feed.pcap -f u64be@0", 160),
    "arbitrate-running": Screen(
        "mcast-fast arbitrate 239.1.1.1%lo:5000 239.1.1.2%lo:5000 -f rtp", shot=r"unrecovered, 239\S+ \S+"
    ),
    "convert": Screen("mcast-fast convert feed.pcap feed.csv"),
    "report-80": Screen("mcast-fast report feed.pcap -f u64be@0"),
    "report-160": Screen("mcast-fast report feed.pcap -f u64be@0", 160),
    "error-report-input": Screen("mcast-fast report feed.pcap -o feed.pcap"),
    "error-report-output": Screen("mcast-fast report 239.1.1.1%lo:5000 --for 60s -o none/page.html"),
    "error-report": Screen("mcast-fast report feed.pcap --legs"),
    "bench-piped": Screen("mcast-fast bench --no-ring --for 200ms --loss 99.9% 2>&1 | cat", 0),
    "bench-80": Screen("mcast-fast bench --no-ring --for 200ms --loss 99.9%"),
    "error-bench": Screen("mcast-fast bench 239.9.9.9:5000"),
    "merge": Screen("mcast-fast merge feed.pcap feed.pcap -w both.pcapng"),
    "repair": Screen("mcast-fast repair feed.pcap -o whole.pcap"),
    "top-80": Screen(TOP, shot="receiving +[1-9]", keys=""),
    "top-160": Screen(TOP, 160, shot="receiving +[1-9].*█", keys=""),
    "top-integrity": Screen(TOP, shot="(?s)receiving.*integrity, by", keys="t"),
    "top-timing": Screen(TOP, shot="(?s)receiving +< [0-9].*timing, by", keys="tt"),
    "top-drops": Screen(TOP, shot="(?s)1 stream,.*drops, by", keys="ttt"),
    "top-memberships": Screen(TOP, shot="(?s)1 stream,.*memberships, by", keys="tttt"),
    "top-filter": Screen(TOP, shot=r"(?s)1 stream,.*filter waiting: 2\b", keys="s/waiting\r"),
    "top-expanded": Screen(TOP, shot="(?s)receiving +[1-9].*state +receiving", keys="\r"),
    "top-paused": Screen(TOP, shot="(?s)paused.*receiving +[1-9]", keys="p"),
    "top-piped": Screen("mcast-fast top 239.1.1.1%lo:5000+2 -d 100ms 2>&1 | cat", 0),
    "top-nothing": Screen("mcast-fast top 239.1.1.1%lo:5000 -t 100ms"),
    "error-top": Screen("mcast-fast top"),
    "replay-none": Screen("mcast-fast replay feed.pcap --to 239.1.1.1%lo:5000 -g 239.7.7.7"),
    "error-verb": Screen("mcast-fast recieve 239.1.1.1:5000"),
    "error-option": Screen("mcast-fast receive 239.1.1.1:5000 --timout 1s"),
    "error-port": Screen("mcast-fast receive 239.1.1.1"),
    "error-two": Screen("mcast-fast receive 239.1.1.1 5000"),
    "error-order": Screen("mcast-fast receive 239.1.1.1:5000%lo"),
    "error-verbs": Screen("mcast-fast capture 239.1.1.1%lo:5000"),
    "error-no-verb": Screen("mcast-fast 239.1.1.1:5000"),
    "error-swapped": Screen("mcast-fast receive 239.1.1.1@10.0.0.5:5000"),
    "error-match": Screen("mcast-fast receive 239.1.1.1%lo:5000 --match sorce=10.0.0.5"),
    "error-format": Screen("mcast-fast check feed.pcap -f rpt"),
    "error-file": Screen("mcast-fast info none.pcap"),
    "error-directory": Screen("mcast-fast record 239.1.1.1%lo:5000 -w ."),
    "error-plan": Screen("mcast-fast plan"),
    "error-rate": Screen("mcast-fast send 239.1.1.1%lo:5000 x --rate 10x"),
}


def free_ports(count: int) -> list[int]:
    """Free ports of four digits, as wide as the page's."""
    found = []
    for port in range(5001, 9999):
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.bind(("::", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("too few ports are free")


def _feed(path: Path) -> None:
    """Two sources to one group as a classic pcap file, of which the second one misses the numbers 3 and 4."""
    sources = {"10.0.0.5": range(200), "10.0.0.6": [one for one in range(100) if one not in (3, 4)]}
    packets = sorted(
        (START + number * 10_000_000, ipv4(udp(struct.pack(">Q", number) + bytes(92)), source))
        for source, numbers in sources.items()
        for number in numbers
    )
    blocks = [struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 65_535, RAW)]
    for time, packet in packets:
        blocks.append(struct.pack("<IIII", *divmod(time, 10**9), len(packet), len(packet)) + packet)
    path.write_bytes(b"".join(blocks))


def lines_shown(text: str) -> list[str]:
    """What is on the lines of a terminal: behind a carriage return, what follows overwrites."""
    shown = []
    for printed in text.replace("\r\n", "\n").split("\n"):
        row = ""
        for piece in printed.split("\r"):
            row = piece + row[len(piece) :]
        shown.append(row.rstrip())
    while shown and not shown[-1]:
        shown.pop()
    return shown


class _Terminal:
    """A shell command whose standard output and error are one pseudo terminal, or one pipe."""

    def __init__(self, command: str, columns: int, where: Path, is_typed: bool = False) -> None:
        import fcntl
        import pty
        import termios

        self.text = ""
        self._ours, theirs = pty.openpty() if columns else os.pipe()
        if columns:
            fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        unset = ("NO_COLOR", "COLUMNS", "FORCE_COLOR", "TTY_COMPATIBLE")
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.process = subprocess.Popen(
            ["sh", "-c", f"exec {command}"] if "|" not in command else ["sh", "-c", command],
            stdin=theirs if is_typed else subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
            cwd=where,
            env=environment
            | {"TERM": "xterm", "LC_ALL": "C.UTF-8", "TZ": "UTC", "NO_COLOR": "1", "PYTHONPATH": SOURCE},
        )
        os.close(theirs)

    def read_until(self, pattern: str) -> None:
        """Read until this has come, or it ends."""
        while not re.search(pattern, self.text) and (piece := self._read()):
            self.text += piece

    def type(self, keys: str) -> None:
        """As somebody at the keyboard does."""
        os.write(self._ours, keys.encode())

    def drawn(self, pattern: str) -> str:
        """Read until a whole screen has this; that screen."""
        while not (whole := self.text.split(HOME)[1:-1]) or not re.search(pattern, whole[-1]):
            piece = self._read()
            assert piece, f"it ended without {pattern!r}: {self.text}"
            self.text += piece
        return whole[-1]

    def end(self) -> int:
        """Read to the end; the exit code."""
        while piece := self._read():
            self.text += piece
        os.close(self._ours)
        return self.process.wait()

    def _read(self) -> str:
        try:
            return os.read(self._ours, 4096).decode()
        except OSError:  # EIO: nobody has the other end any more
            return ""


def shown(screen: Screen, port: int, host: str = "") -> list[str]:
    """The lines that the command leaves on its screen, with what differs from run to run masked.

    `host`: the namespace it runs in."""
    with tempfile.TemporaryDirectory() as where:
        _feed(Path(where, "feed.pcap"))
        program = f"{shlex.quote(sys.executable)} -m mcast_fast"
        program = f"ip netns exec {host} {program}" if host else program
        command = screen.command.replace("mcast-fast", program, 1).replace(":5000", f":{port}")
        terminal = _Terminal(command, screen.columns, Path(where), screen.keys is not None)
        if screen.sends:
            terminal.read_until("listening|recording")
            with mcast.Sender(f"239.1.1.1%lo:{port}", ttl=0) as sender:
                for _ in range(screen.sends):
                    sender.send(PAYLOAD)
        text = ""
        if screen.keys is not None:
            with _stream(port):
                terminal.drawn("rates, by")
                terminal.type(screen.keys)
                text = terminal.drawn(screen.shot)
        elif screen.shot:
            terminal.read_until(screen.shot)
            text = terminal.text
        if screen.stop:
            terminal.read_until("length")
        if screen.shot or screen.stop:
            terminal.text += "^C" if screen.stop else ""  # as a terminal shows the key
            terminal.process.send_signal(signal.SIGINT)
        code = terminal.end()
        lines = lines_shown(text or terminal.text.rpartition(SCREEN_LEFT)[2])
    lines = [_masked(line.replace(f":{port}", ":5000")) for line in _unwrapped(lines)]
    if screen.columns:
        lines = [part for line in lines for part in _wrapped(line, screen.columns)]
    return [f"$ {screen.command}", *lines, *([f"(exit {code})"] if code else [])]


@contextlib.contextmanager
def _stream(port: int) -> Iterator[None]:
    """Packets to the first group meanwhile."""
    ended = threading.Event()

    def send() -> None:
        with mcast.Sender(f"239.1.1.1%lo:{port}", ttl=0) as sender:
            while not ended.wait(1 / STREAM):
                sender.send(PAYLOAD)

    sending = threading.Thread(target=send)
    sending.start()
    try:
        yield
    finally:
        ended.set()
        sending.join()


def _unwrapped(lines: list[str]) -> list[str]:
    """Summaries as one line each: where they are folded depends on figures that are masked."""
    found: list[str] = []
    for line in lines:
        if line.startswith("  ") and found and found[-1].startswith(SUMMARIES):
            found[-1] += f" {line.strip()}"
        else:
            found.append(line)
    return found


def _wrapped(line: str, columns: int) -> list[str]:
    return folded(line, columns) if line.startswith(SUMMARIES) else [line]


def _masked(line: str) -> str:
    line = SGR.sub(
        "", line
    ).rstrip()  # before the code of a colour at the end there may be spaces, by the width of a figure
    for pattern, instead in MASKS:
        line = re.sub(pattern, instead, line)
    return line


def all_shown() -> dict[str, list[str]]:
    """Every screen, by its name: one port for each, for they run beside one another."""
    ports = free_ports(len(SCREENS))
    with ThreadPoolExecutor(4) as pool:
        return dict(zip(SCREENS, pool.map(shown, SCREENS.values(), ports), strict=True))


def option_table() -> str:
    """The options that several verbs have, and these verbs, as the page's table."""
    found: dict[str, tuple[str, list[str]]] = {}
    for verb in VERBS:
        command = program.get_command(click.Context(program, info_name="mcast-fast"), verb)
        assert command is not None
        for one in command.params:
            if isinstance(one, click.Option):
                long = max(one.opts, key=len)
                short = next((name for name in one.opts if len(name) == 2), "")
                label, verbs = found.setdefault(long, ("", []))
                found[long] = (label or ", ".join(filter(None, (short, long))), [*verbs, verb])
    rows = [f"| `{label}` | {', '.join(verbs)} |" for label, verbs in found.values() if len(verbs) > 1]
    return "\n".join(("<!-- options -->", "| option | verbs |", "|---|---|", *rows, "<!-- end of options -->"))


OPTIONS = re.compile(r"<!-- options -->.*?<!-- end of options -->", re.DOTALL)


def block(name: str, lines: list[str]) -> str:
    """A screen as it is in the page."""
    return "\n".join((f"<!-- screen {name} -->", "```text", *lines, "```"))


BLOCK = re.compile(r"<!-- screen (\S+) -->\n```text\n.*?```", re.DOTALL)

if __name__ == "__main__":
    from tests import lab
    from tests.lab_screens import all_shown as all_shown_in_lab

    made = all_shown()
    made |= {} if lab.available() else all_shown_in_lab()
    page = OPTIONS.sub(option_table(), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(
        BLOCK.sub(lambda match: block(match[1], made[match[1]]) if match[1] in made else match[0], page),
        encoding="utf-8",
    )
