"""Runs the verbs that people run first, as programs on the loopback: python -m tests.verbs. What they write goes into TMPDIR.

Each must end with its exit code and without a traceback, and nothing that is sent may be lost.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from mcast_fast import Sender
from tests.conftest import free_port, loopback

PROGRAM = [sys.executable, "-m", "mcast_fast"]


def run(*arguments: object, codes: tuple[int, ...] = (0,)) -> str:
    """What a verb writes to standard output."""
    done = subprocess.run([*PROGRAM, *map(str, arguments)], capture_output=True, text=True, check=False)
    said = f"{arguments}: exit code {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    assert done.returncode in codes, said
    assert "Traceback" not in done.stderr, said
    return done.stdout


def demo() -> None:
    told = json.loads(run("demo", "--count", 1_000, "--json"))
    assert [one["lost"] for one in told["runs"]] == [0] * len(told["runs"]) != []


def record(folder: Path) -> None:
    """Recorded, and what is there is read, converted and sent again."""
    group = f"239.7.7.30%{loopback()}:{free_port()}"
    file = folder / "feed.pcapng"
    with subprocess.Popen(
        [*PROGRAM, "record", group, "--write", file, "--count", "3"], stderr=subprocess.PIPE, text=True
    ) as recorder:
        assert recorder.stderr is not None
        assert any("recording " in line for line in recorder.stderr)
        run("send", group, "one", "--ttl", 0, "--count", 3)
        recorder.stderr.read()
    assert recorder.returncode == 0
    assert json.loads(run("info", file, "--json"))["received"] == 3
    run("convert", file, folder / "feed.csv")
    run("replay", file, "--to", group, "--ttl", 0)


def doctor() -> None:
    """It finds that packets come, whatever it may not look at."""
    group, is_over = f"239.7.7.31%{loopback()}:{free_port()}", threading.Event()

    def stream() -> None:
        with Sender(group, ttl=0) as tx:
            while not is_over.is_set():
                tx.send(b"x")
                time.sleep(0.01)

    thread = threading.Thread(target=stream)
    thread.start()
    try:
        report = json.loads(run("doctor", group, "--seconds", 1, "--json", codes=(0, 1)))
    finally:
        is_over.set()
        thread.join()
    assert "packets.received" in {one["id"] for one in report["findings"]}, report


def main() -> None:
    """All of them."""
    demo()
    with tempfile.TemporaryDirectory() as folder:
        record(Path(folder))
    doctor()
    assert loopback() in run("interfaces")
    print("all verbs ran")


if __name__ == "__main__":
    main()
