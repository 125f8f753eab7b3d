"""A process of the benchmark, seen from the side that commands it: one JSON line each way."""

import json
import os
import selectors
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import network
from benchmarks.contenders import ALL_METADATA, CONTENDERS
from benchmarks.network import Place

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 60


class BenchmarkError(Exception):
    """The benchmark cannot be run, or what it measured would not be true."""


class Process:
    """`python -m MODULE ROLE`, perhaps in another network namespace; `ready` is its first answer."""

    def __init__(
        self,
        role: str,
        order: dict[str, Any],
        *,
        prefix: tuple[str, ...] = (),
        environment: dict[str, str] | None = None,
        module: str = "benchmarks.station",
    ) -> None:
        self.name = f"{role} {order.get('contender', '')}".strip()
        command = [*prefix, sys.executable, "-m", module, role, json.dumps(order)]
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | (environment or {}),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        try:
            self.ready = self.answer()
        except BaseException:
            self.close()
            raise

    def command(self, verb: str, **arguments: Any) -> None:
        try:
            self._process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
        except BrokenPipeError:
            raise BenchmarkError(f"{self.name}: the process is gone") from None

    def answer(self) -> dict[str, Any]:
        """The next line; an `error` in it, silence or the end of the process raises BenchmarkError."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(PATIENCE_SECONDS):
                raise BenchmarkError(f"{self.name}: no answer in {PATIENCE_SECONDS} s")
        line = self._process.stdout.readline()
        if not line:
            raise BenchmarkError(f"{self.name}: the process ended with status {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise BenchmarkError(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, verb: str, **arguments: Any) -> dict[str, Any]:
        self.command(verb, **arguments)
        return self.answer()

    def close(self) -> None:
        """Ends the process: at the end of its input by itself, else killed."""
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_receivers(
    stack: ExitStack,
    library: Path,
    names: list[str],
    place: Place,
    notes: list[str],
    *,
    core: int | None = None,
    prefix: tuple[str, ...] = (),
) -> dict[str, Process]:
    """A process for each contender; notes what each asks the kernel for, and who could not be opened and why."""
    receivers: dict[str, Process] = {}
    # Those that ask as ours does come last, for the kernel tells what ours asks for once it is open.
    for name in sorted(names, key=lambda name: CONTENDERS[name].asks_as_ours):
        row = CONTENDERS[name]
        asked = receivers["columns"].ready["asked_for"] if row.asks_as_ours and "columns" in receivers else ALL_METADATA
        order = {
            "contender": name,
            "place": asdict(replace(place, port=network.free_port())),
            "library": str(library),
            "control_messages": asked,
            "core": core,
        }
        try:
            receivers[name] = stack.enter_context(Process("receive", order, prefix=prefix, environment=row.environment))
        except BenchmarkError as error:
            notes.append(f"left out: {error}")
    check_buffers(receivers)
    notes += [f"{row.title} asks for {asks(receivers[name])}" for name, row in CONTENDERS.items() if name in receivers]
    return receivers


def asks(receiver: Process) -> str:
    return ", ".join(receiver.ready["asked_for"]) or "no control messages"


def check_buffers(receivers: dict[str, Process]) -> None:
    buffers = {name: receiver.ready["receive_buffer"] for name, receiver in receivers.items()}
    if len(set(buffers.values())) > 1:
        raise BenchmarkError(f"the receive buffers differ, so nothing can be compared: {buffers}")
