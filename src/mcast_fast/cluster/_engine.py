"""Where tasks run: in threads of this machine, or on the workers of a Dask scheduler that are beside the files.

Rules of this module: a task that fails, or whose worker is gone, is a Problem, and all others are answered.
"""

import pickle
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, replace
from typing import Any, Protocol

from mcast_fast.cluster._tasks import processors
from mcast_fast.errors import ArgumentError, MulticastError
from mcast_fast.files._optional import module

GLANCE = 0.25  # seconds between two looks at which workers are there
AGAIN = 2  # times that a task is started where its worker went
PATIENCE = 5.0  # seconds that a worker which went may need to come back


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that an answer lacks.

    Attributes:
        kind: "missing" (a file), "torn" (a manifest), "changed" (a file, since its manifest), "unreadable" (a file),
            "worker" (is gone, or there is none), "clock" (of a host is off).
        host: The host, or "".
        path: The file, or "".
        text: What is wrong, in words.
    """

    __module__ = "mcast_fast.cluster"

    kind: str
    host: str
    path: str
    text: str


@dataclass(frozen=True, slots=True)
class Job:
    """A task, and where it can run: the workers that see the file (none: the host's)."""

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    host: str = ""
    path: str = ""
    workers: tuple[str, ...] = ()


class Engine(Protocol):
    """What runs tasks."""

    moved: int  # bytes of results that travelled

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """The workers of each host, by its name; empty: there is this machine alone."""
        ...

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Each job with its result, or a Problem, as they are done."""
        ...


def performed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> tuple[bool, Any]:
    """Whether a task succeeded, and its result, or what is wrong."""
    try:
        return True, function(*arguments)
    except (MulticastError, OSError) as error:
        return False, str(error)
    except Exception as error:  # of pyarrow, or of a file that nobody thought of: the others are answered
        return False, f"{type(error).__name__}: {error}"


def packed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> bytes:
    """The same as bytes, which are what travels."""
    return pickle.dumps(performed(function, arguments), protocol=5)


def _outcome(job: Job, done: tuple[bool, Any]) -> Any:
    succeeded, value = done
    return value if succeeded else Problem("unreadable", job.host, job.path, value)


class Threads:
    """Threads of this machine: reading and counting are done in C, beside each other."""

    def __init__(self) -> None:
        self.moved = 0

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """No workers."""
        return {}

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Each job with its result, or a Problem, as they are done."""
        if len(jobs) == 1:
            yield jobs[0], _outcome(jobs[0], performed(jobs[0].function, jobs[0].arguments))
            return
        with ThreadPoolExecutor(processors(), "mcast-fast cluster") as pool:
            started = {pool.submit(performed, job.function, job.arguments): job for job in jobs}
            try:
                for future in as_completed(started):
                    yield started[future], _outcome(started[future], future.result())
            finally:
                pool.shutdown(wait=False, cancel_futures=True)


class Dask:
    """The workers of a Dask scheduler. A worker belongs to the host that its name says ("alpha", or "alpha-0" of
    several), or that is one of its resources; tasks of a file run on workers that see it, and on no others."""

    def __init__(self, client: Any) -> None:
        self._distributed = module("distributed", "a client", "cluster")
        if not isinstance(client, self._distributed.Client):
            raise ArgumentError(f"client {client!r} is no distributed.Client")
        if client.asynchronous:
            raise ArgumentError("client is asynchronous; give one that is not")
        self._client = client
        self.moved = 0

    def _known(self) -> dict[str, dict[str, Any]]:
        try:
            found = self._client.scheduler_info(n_workers=-1)
        except TypeError:  # before distributed 2025.5 it lists all
            found = self._client.scheduler_info()
        workers: dict[str, dict[str, Any]] = dict(found["workers"])
        return workers

    def hosts(self) -> dict[str, tuple[str, ...]]:
        """The workers of each host, by its name."""
        found: dict[str, tuple[str, ...]] = {}
        for address, worker in self._known().items():
            for name in _names_of(address, worker):
                found[name] = (*found.get(name, ()), address)
        return found

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Each job with its result, or a Problem, as they are done."""
        pending: dict[Any, tuple[Job, int]] = {}
        lost: dict[str, float] = {}  # when the workers of a host were first seen to be gone
        waiting: list[tuple[Job, int]] = [(job, 0) for job in jobs]
        try:
            while pending or waiting:
                waiting, gone = self._start(waiting, pending, lost)
                for job in gone:
                    yield job, Problem("worker", job.host, job.path, _gone_text(job))
                for future in self._finished(list(pending)):
                    job, _ = pending.pop(future)
                    yield job, self._result(job, future)
                waiting += self._abandoned(pending)
        finally:
            self._client.cancel(list(pending))

    def _start(
        self, waiting: list[tuple[Job, int]], pending: dict[Any, tuple[Job, int]], lost: dict[str, float]
    ) -> tuple[list[tuple[Job, int]], list[Job]]:
        """Start what can be; what still waits for a worker, and the jobs for which none will come."""
        if not waiting:
            return [], []
        alive, hosts = set(self._client.nthreads()), self.hosts()
        later, gone = [], []
        for job, times in waiting:
            workers = [one for one in job.workers if one in alive] or list(hosts.get(job.host, ()))
            if workers and times < AGAIN:
                future = self._client.submit(
                    packed, job.function, job.arguments, workers=workers, allow_other_workers=False, pure=False
                )
                pending[future] = replace(job, workers=tuple(workers)), times + 1
            elif times >= AGAIN or time.monotonic() - lost.setdefault(job.host, time.monotonic()) > PATIENCE * bool(
                times
            ):
                gone.append(job)
            else:
                later.append((job, times))
        if later and not pending:
            time.sleep(GLANCE)
        return later, gone

    def _finished(self, futures: list[Any]) -> list[Any]:
        """Those that are done, within a moment."""
        if not futures:
            return []
        try:
            with self._client.as_current():  # which may not be the default one
                return list(self._distributed.wait(futures, timeout=GLANCE, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            return []

    def _result(self, job: Job, future: Any) -> Any:
        if future.status != "finished":
            return Problem("worker", job.host, job.path, f"{_gone_text(job)}: {future.status}")
        data: bytes = future.result()
        self.moved += len(data)
        return _outcome(job, pickle.loads(data))

    def _abandoned(self, pending: dict[Any, tuple[Job, int]]) -> list[tuple[Job, int]]:
        """Take back those that wait for workers which are gone."""
        if not pending:
            return []
        alive = set(self._client.nthreads())
        found = [future for future, (job, _) in pending.items() if alive.isdisjoint(job.workers)]
        self._client.cancel(found)
        return [pending.pop(future) for future in found]


def _names_of(address: str, worker: dict[str, Any]) -> set[str]:
    """The names of the host that a worker is on."""
    name = str(worker.get("name", address))
    names = set(map(str, worker.get("resources") or {}))
    if "://" in name or name.isdigit():  # Dask's own, where none was given
        return names or {str(worker.get("host", address))}
    head, dash, tail = name.rpartition("-")
    return names | {name} | ({head} if dash and tail.isdigit() else set())


def _gone_text(job: Job) -> str:
    return f"{job.path or job.host}: no worker of host {job.host!r} answers"
