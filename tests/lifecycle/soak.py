"""Unwanted traffic for a long time, on every path and both backends at once: `python -m tests.lifecycle.soak --minutes 30`.

As root in a network namespace of its own; elsewhere on the loopback. Prints what each path's process uses every minute,
and exits 1 when one has grown by 1 MiB, lost the wanted packet at the end, or failed.
"""

import argparse
import os
import subprocess
import sys
import threading

from tests import lab
from tests.lifecycle.process import ROOT
from tests.lifecycle.programs.unwanted import AIO_PATHS, PATHS

MARGIN_SECONDS = 120


def follow(process: "subprocess.Popen[str]", name: str) -> None:
    for line in process.stdout:
        print(f"{name:28} {line}", end="", flush=True)


def start(path: str, backend: str, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.lifecycle.programs.unwanted", path, "0", str(seconds)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"MCAST_FAST_BACKEND": backend},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def is_offered(path: str, backend: str) -> bool:
    """Pure Python has neither rings nor a background."""
    return backend == "fast" or not path.startswith(("ring", "background"))


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--minutes", type=float, default=30.0, help="how long (%(default)s)")
    options.add_argument("--only", nargs="+", default=[*PATHS, *AIO_PATHS], help=", ".join((*PATHS, *AIO_PATHS)))
    options.add_argument("--backends", nargs="+", default=["fast", "pure"])
    chosen = options.parse_args()
    if os.geteuid() == 0:
        lab.unshare_network()
        lab.run("ip", "link", "set", "lo", "up")
        lab.run("ip", "route", "add", "224.0.0.0/4", "dev", "lo")
    seconds = chosen.minutes * 60
    running = {
        f"{backend} {path}": start(path, backend, seconds)
        for backend in chosen.backends
        for path in chosen.only
        if is_offered(path, backend)
    }
    readers = [threading.Thread(target=follow, args=(process, name)) for name, process in running.items()]
    for reader in readers:
        reader.start()
    failed = []
    for name, process in running.items():
        try:
            if process.wait(seconds + MARGIN_SECONDS):
                failed.append(name)
        except subprocess.TimeoutExpired:
            process.kill()
            failed.append(f"{name} (hung)")
    for reader in readers:
        reader.join()
    print("failed: " + ", ".join(failed) if failed else f"held: {len(running)} paths")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
