"""Runs a program of `programs/` with a bounded life: a hang is a failure that shows where every thread stood."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# Seconds that no healthy program comes near, also under a sanitizer or an emulator; less shows faults sooner.
PATIENCE = float(os.environ.get("MCAST_FAST_PATIENCE", "60"))
DUMP_SECONDS = 5


def run(program: str, *arguments: str, backend: str, patience: float = PATIENCE, code: int = 0) -> str:
    """Run a program to its end and return what it printed, errors included; fail on a hang or another exit code.

    The whole process group is killed after a hang: forked children too."""
    options = [f"-X{name}={value}" if value is not True else f"-X{name}" for name, value in sys._xoptions.items()]
    command = [sys.executable, *options, "-Xfaulthandler", "-m", f"tests.lifecycle.programs.{program}", *arguments]
    with tempfile.TemporaryDirectory(prefix="mcast-lifecycle-") as directory:
        return _run(command, {"MCAST_FAST_BACKEND": backend, "TMPDIR": directory}, patience, code)


def _run(command: list[str], environment: dict[str, str], patience: float, code: int) -> str:
    said = " ".join(command[command.index("-m") + 2 :])
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired:
        pytest.fail(f"{said}: not done after {patience:g} s:\n{_end(process)}")
    finally:
        with contextlib.suppress(ProcessLookupError):  # a forked child that outlived its parent
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, f"{said}: exit code {process.returncode}:\n{output}"
    return output


def _end(process: "subprocess.Popen[str]") -> str:
    """Where all threads of a process that hangs stand, by faulthandler, and what it printed before."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGABRT)
    try:
        return process.communicate(timeout=DUMP_SECONDS)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.communicate()[0]
