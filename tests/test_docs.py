"""README and docs: every block of Python is run, with a sender where it listens, and every command of ours is parsed.

A block that cannot run here has the line `<!-- not run: REASON -->` before it. The first block of README, whose output is shown
beside it, is run by tests/test_public.py on both backends, and its two commands by .ci/run.
"""

import importlib
import itertools
import re
import select
import shlex
import struct
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import mcast_fast as mcast
from mcast_fast import aio, files, monitor, sequence
from mcast_fast._core.layout import FIELDS
from tests.conftest import free_port, loopback
from tests.test_pcapng import batch_of, record

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"(?:^<!-- not run: ([^\n]+) -->\n)?^ *```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)

# What cannot run in a test: by page, the first word of each reason. Whoever adds one says so here too.
NOT_RUN = {
    "docs/cluster.md": ["files", "files"],
    "docs/environments.md": ["systemd", "gevent"],
    "docs/lifecycle.md": ["ends", "starts"],
}
# What is here in place of what the pages name: interfaces and hosts; and shorter times, less memory.
HERE = [
    (r"%eth\d", "%lo"),
    (r"\b10\.0\.[01]\.5(?=[@:])", "127.0.0.1"),
    (r'"256MiB"', '"4MiB"'),
    (r"background_cpu=\d", "background_cpu=0"),
    (r"seconds=5\b", "seconds=0.05"),
    (r"timeout=2\b", "timeout=0.05"),
    (r'timeout="500ms"', 'timeout="50ms"'),
    (r"duration=(2|60)\b", "duration=0.05"),
    (r'duration="10s", wait="30s"', 'duration="500ms", wait="100ms"'),
]
# Packages of extras, by what blocks call them.
PACKAGES = {
    "np": "numpy",
    "pl": "polars",
    "pyarrow": "pyarrow",
    "duckdb": "duckdb",
    "pd": "pandas",
    "plt": "matplotlib",
}
LOOPS = ("trio", "anyio", "uvloop")
# RTP headers alone: 12 bytes, which README reads as two columns.
PAYLOADS = [struct.pack(">BBHII", 0x80, 33, number, 90 * number, 1) for number in range(8)]
# The first words of commands that are not ours.
OTHERS = {
    "echo",
    "python",
    "python3",
    "pip",
    "sudo",
    "apt-get",
    "cd",
    "dask",
    "docker",
    "kubectl",
    "systemctl",
    "sysctl",
    "ip",
    "git",
    "ethtool",
    ".",  # the shell's own
    "tshark",
    "editcap",
    "ffmpeg",
    "curl",
}


class Block(NamedTuple):
    page: str
    line: int
    language: str
    text: str
    reason: str  # why it is not run

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in FENCED.finditer(text):
            line = text.count("\n", 0, match.start(2)) + 1
            if match[2] in languages:
                code = textwrap.dedent(match[3])
                found.append(Block(page.relative_to(ROOT).as_posix(), line, match[2], code, match[1] or ""))
    return found


class Feed(mcast.Receiver):
    """A receiver to which packets have come when it is open; its iteration ends behind the last one."""

    opened: list["Feed"] = []  # noqa: RUF012, of all of them

    def __init__(self, *groups: Any, **options: Any) -> None:
        super().__init__(*groups, **options)
        self.opened.append(self)
        for one in self.memberships:
            with mcast.Sender(f"{one.group}%{one.interface}:{one.port}", ttl=0) as tx:
                tx.send_batch(PAYLOADS)

    def __iter__(self) -> Iterator[Any]:
        return self.batches(timeout=0.05)


class OneFeed(sequence.Arbiter):
    """An arbiter whose iteration ends behind the last packet."""

    def __iter__(self) -> Iterator[Any]:
        return self.batches(timeout=0.1)


@pytest.fixture
def world(monkeypatch, tmp_path) -> Iterator[dict[str, Any]]:
    """What the blocks take for granted: names that an earlier block or the text beside it has introduced."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(mcast, "Receiver", Feed)
    monkeypatch.setattr(sequence, "Arbiter", OneFeed)
    monkeypatch.setattr(Feed, "opened", [])
    for name in ("feed-1.pcapng", "feed.pcapng"):
        with files.Writer(tmp_path / name) as writer:
            writer.write(batch_of(*((record(payload), payload) for payload in PAYLOADS)))
    port = free_port()
    group = f"239.1.1.1%{loopback()}:{port}"
    rx, spare = Feed(group, timeout=1), Feed(group, timeout=1)
    with mcast.Sender(group, ttl=0) as tx:
        ours = {
            "mcast": mcast,
            "mcast_fast": mcast,
            "aio": aio,
            "files": files,
            "monitor": monitor,
            "sequence": sequence,
        }
        given = {"select": select, "time": time, "rx": rx, "tx": tx, "batch": spare.recv_batch(), "port": port}
        yield {
            **ours,
            **given,
            "buffer": bytes(1316 * 3),
            "question": b"?",
            "second": 0,
            "show": len_of,
            "main": awaited,
        }
    for one in Feed.opened:
        one.close()


async def awaited() -> None:
    """The `main` of an earlier block."""
    async with aio.Receiver(f"239.1.1.1%{loopback()}:{free_port()}") as rx:
        assert not await rx.collect(1, timeout=0.01)


def len_of(*values: Any) -> int:
    return len(values)


@pytest.mark.lab  # some of them send by every interface: in a network of the test's own alone
@pytest.mark.filterwarnings("ignore::mcast_fast.MulticastWarning")
@pytest.mark.parametrize("block", [one for one in blocks("python", "py") if not one.reason], ids=str)
def test_a_block_of_python_runs(block, world):
    text = block.text
    for name, package in PACKAGES.items():
        if re.search(rf"\b{name}\.", text):
            try:
                world[name] = importlib.import_module(package)
            except ImportError as error:
                pytest.skip(f"feature {package}: {error}")
    for package in LOOPS:
        if re.search(rf"^import {package}$", text, re.MULTILINE):
            pytest.importorskip(package)
    for pattern, instead in HERE:
        text = re.sub(pattern, instead, text)
    text = re.sub(r":50\d\d\b", f":{world['port']}", text)
    code = "\n" * block.line + text  # so that a traceback names the line of the page
    exec(compile(code, block.page, "exec", dont_inherit=True), world)


def test_what_is_not_run_is_known():
    found: dict[str, list[str]] = {}
    for block in blocks("python", "py"):
        if block.reason:
            found.setdefault(block.page, []).append(block.reason.split()[0])
    assert found == NOT_RUN


def test_the_record_says_on_which_systems_each_field_is_populated():
    page = (ROOT / "docs" / "reference" / "record.md").read_text("utf-8").partition("## Populated on")[2]
    named = [name for row in re.findall(r"^\| (`.+?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(named) == sorted(field.name for field in FIELDS)


# ---- commands ----


def commands() -> list[tuple[str, list[str]]]:
    """(where, words) of each line of a block in the shell's language."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks("sh", "bash", "console"):
        lines = block.text.replace("\\\n", " ").splitlines()
        for number, line in enumerate(lines, block.line + 1):
            parts = [shlex.split(part, comments=True) for part in line.removeprefix("$ ").split("&&")]
            parts = [words[: words.index(">")] if ">" in words else words for words in parts]
            found += [(f"{block.page}:{number}", words) for words in parts if words]
    return found


# Words of commands inside a sentence that stand for a user's own.
STANDS_FOR = {
    "GROUP": "239.1.1.1:5000",
    "FILE": "feed.pcapng",
    "FORMAT": "rtp",
    "VERB": "receive",
    "f.pcapng": "feed.pcapng",
}


def inside_sentences() -> list[tuple[str, list[str]]]:
    """(page, words) of each command of ours in the text, with arguments: a verb alone, or with an option alone, is a name."""
    found = []
    for page in PAGES:
        for text in re.findall(r"`(mcast-fast [a-z][^`]*)`", page.read_text(encoding="utf-8")):
            words = [STANDS_FOR.get(word, word) for word in shlex.split(text)]
            found.append((page.relative_to(ROOT).as_posix(), words))
    return found


def ours(words: list[str]) -> list[str] | None:
    """The arguments of the program `mcast-fast`, however it is started."""
    words = list(itertools.takewhile(lambda word: word not in ("|", ">"), words))
    if words[0].endswith("mcast-fast"):
        return words[1:]
    return words[3:] if words[1:3] == ["-m", "mcast_fast"] else None


@pytest.mark.parametrize(("where", "words"), [one for one in commands() if ours(one[1])], ids=str)
def test_a_command_of_ours_is_one(where, words, tmp_path, monkeypatch):
    """Its verb and options are there, and their values are taken; what they do has tests of its own."""
    click = pytest.importorskip("click")
    from mcast_fast.cli import program

    monkeypatch.chdir(tmp_path)
    for name in ("feed.pcapng", "feed_00001.pcapng"):
        Path(name).write_bytes(b"")
    verb, *arguments = ["feed_00001.pcapng" if "*" in word else word for word in ours(words)]
    whole = click.Context(program, **program.context_settings)  # without it the verb keeps an option --help without -h
    command = program.get_command(whole, verb)
    assert command is not None, where
    command.make_context(verb, arguments, whole)


@pytest.mark.parametrize(("page", "words"), inside_sentences(), ids=str)
def test_a_command_inside_a_sentence_is_one(page, words, tmp_path, monkeypatch):
    click = pytest.importorskip("click")
    from mcast_fast.cli import program

    monkeypatch.chdir(tmp_path)
    Path("feed.pcapng").write_bytes(b"")
    whole = click.Context(program, **program.context_settings)
    command = program.get_command(whole, words[1])
    assert command is not None, page
    if any(not word.startswith("-") for word in words[2:]) and "…" not in " ".join(words):
        command.make_context(words[1], words[2:], whole)


def test_other_commands_are_few():
    others = {words[0].rpartition("/")[2] for _, words in commands() if not ours(words)}
    assert others <= OTHERS
