"""A process of the benchmark, seen from the side that commands it: one JSON line each way."""

import json
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from benchmarks import network
from benchmarks.contenders import ALL_METADATA, CONTENDERS, Row
from benchmarks.network import Place

ROOT = Path(__file__).parents[1]
PATIENCE_SECONDS = 60
STATION = "benchmarks.station"
# Whom the C loop is to ask as: the first of them that could be opened.
MODELS = ("columns", "batches", "default")


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
        module: str = STATION,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        options = {"environment": environment, "module": module, "patience": patience}
        self._again = partial(Process, role, order, prefix=prefix, **options)
        self._patience = patience
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

    def again(self) -> "Process":
        """A new process that is told the same as this one was."""
        return self._again()

    def command(self, verb: str, **arguments: Any) -> None:
        try:
            self._process.stdin.write(json.dumps({"verb": verb, **arguments}) + "\n")
        except BrokenPipeError:
            raise BenchmarkError(f"{self.name}: the process is gone") from None

    def answer(self) -> dict[str, Any]:
        """The next line; an `error` in it, silence or the end of the process raises BenchmarkError."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            if not selector.select(self._patience):
                raise BenchmarkError(f"{self.name}: no answer in {self._patience:g} s")
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
    names: Sequence[str],
    place: Place,
    notes: list[str],
    *,
    rows: dict[str, Row] = CONTENDERS,
    module: str = STATION,
    more_libraries: dict[str, str] | None = None,
    core: int | None = None,
    prefix: tuple[str, ...] = (),
) -> dict[str, Process]:
    """A process for each contender; notes what each asks the kernel for, and who could not be opened and why."""
    receivers: dict[str, Process] = {}
    # Those that ask as ours does come last, for the kernel tells what ours asks for once it is open.
    for name in sorted(names, key=lambda name: rows[name].asks_as_ours):
        row = rows[name]
        models = [receivers[model].ready["asked_for"] for model in MODELS if model in receivers]
        asked = models[0] if row.asks_as_ours and models else ALL_METADATA
        order = {
            "contender": name,
            "place": asdict(replace(place, port=network.free_port())),
            "library": str(library),
            **(more_libraries or {}),
            "control_messages": asked,
            "core": core,
        }
        try:
            process = Process("receive", order, prefix=prefix, environment=row.environment, module=module)
        except BenchmarkError as error:
            notes.append(f"left out: {error}")
        else:
            receivers[name] = stack.enter_context(process)
    check_buffers(receivers)
    notes += [f"{row.title} asks for {asks(receivers[name])}" for name, row in rows.items() if name in receivers]
    return receivers


def asks(receiver: Process) -> str:
    asked = receiver.ready["asked_for"]
    return "no UDP socket's packets" if asked is None else ", ".join(asked) or "no control messages"


def check_buffers(receivers: dict[str, Process]) -> None:
    buffers = {name: receiver.ready["receive_buffer"] for name, receiver in receivers.items()}
    if len({size for size in buffers.values() if size is not None}) > 1:
        raise BenchmarkError(f"the receive buffers differ, so nothing can be compared: {buffers}")
