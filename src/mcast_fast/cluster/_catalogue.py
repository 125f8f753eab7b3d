"""Which capture files there are, on which host, and what their manifests say."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from mcast_fast.cluster import _tasks
from mcast_fast.cluster._engine import Engine, Job, Problem
from mcast_fast.cluster._manifest import Manifest
from mcast_fast.cluster._plan import Plan, recorders
from mcast_fast.cluster._table import TABLE, manifests_of

Catalogue = tuple[list["File"], list[Problem]]


@dataclass(frozen=True, slots=True)
class File:
    """A capture file of a host.

    Attributes:
        host: The host that recorded it.
        path: Where it is on that host.
        bytes: Its size.
        first_time: Time of its first packet, ns since the epoch; None: unknown, or not looked up yet.
        last_time: Time of its last packet.
        manifest: What it holds; None: it has none that can be used.
        workers: The Dask workers that see it.
    """

    __module__ = "mcast_fast.cluster"

    host: str
    path: str
    bytes: int
    first_time: int | None = None
    last_time: int | None = None
    manifest: Manifest | None = field(default=None, repr=False, compare=False)
    workers: tuple[str, ...] = field(default=(), repr=False, compare=False)


def place(file: File) -> tuple[str, int, str]:
    """Where a file is in the order of hosts and times."""
    return file.host, file.first_time or 0, file.path


def of_plan(plan: Plan, engine: Engine) -> Catalogue:
    """The files in the directories of a plan's hosts."""
    hosts, named = engine.hosts(), recorders(plan)
    if not hosts:
        directories: dict[str, str] = {}
        for one in plan.hosts.values():  # a directory of several hosts: manifests and names say whose the files are
            directories[one.directory] = "" if one.directory in directories else one.name
        looks = [Job(_tasks.look, ((directory,),), name) for directory, name in directories.items()]
        return _looked(engine, looks, named=named)
    problems, jobs = [], []
    for one in plan.hosts.values():
        workers = hosts.get(one.name, ())
        jobs += [Job(_tasks.look, ((one.directory,),), one.name, one.directory, (worker,)) for worker in workers]
        if not workers:
            problems.append(
                Problem("worker", one.name, "", f"host {one.name!r} of the plan has no worker: its files are left out")
            )
    files, more = _looked(engine, jobs, named=named)
    return files, problems + more


def of_paths(paths: Sequence[str], engine: Engine) -> Catalogue:
    """The files that paths, patterns, directories and indexes of manifests name, as each host sees them."""
    listed = [one for one in paths if one.endswith(TABLE)]
    patterns = tuple(one for one in paths if not one.endswith(TABLE))
    hosts = engine.hosts()
    jobs: list[Job] = []
    if patterns:
        named = {worker: name for name in sorted(hosts, key=len, reverse=True) for worker in hosts[name]}
        jobs = [Job(_tasks.look, (patterns,), name, "", (worker,)) for worker, name in sorted(named.items())]
        jobs = jobs or [Job(_tasks.look, (patterns,))]
    files, problems = _looked(engine, jobs, len(hosts) > 1)
    known = {(file.host, str(Path(file.path).absolute())) for file in files}
    for path in listed:
        for one in manifests_of(path):  # which has absolute paths
            if (one.host, one.path) not in known:
                known.add((one.host, one.path))
                files.append(_by_manifest(one, hosts.get(one.host, ())))
    return sorted(files, key=place), problems


def _by_manifest(manifest: Manifest, workers: tuple[str, ...]) -> File:
    return File(
        manifest.host, manifest.path, manifest.bytes, manifest.first_time, manifest.last_time, manifest, workers
    )


def _looked(
    engine: Engine, jobs: Iterable[Job], may_be_elsewhere: bool = False, named: Callable[[str], str] = lambda _: ""
) -> Catalogue:
    """What workers see. A file that several of them see, on one machine or by a network, is one file; so is one
    that has several paths on a machine. `named`: the host that the name of a file says."""
    seen: dict[tuple[object, ...], File] = {}
    paths: dict[tuple[object, ...], tuple[object, ...]] = {}  # by machine and file: the key in `seen`
    problems: dict[Problem, None] = {}
    missing: dict[str, Problem] = {}
    several = list(jobs)
    for job, found in sorted(engine.run(several), key=lambda pair: (pair[0].host, pair[0].workers)) if several else ():
        if isinstance(found, Problem):
            problems[found] = None
            continue
        machine, rows = found
        for one in rows:
            host = one.manifest.host if one.manifest is not None else named(one.path) or job.host or machine
            if one.problem is not None:
                problem = Problem(one.problem[0], host, one.path, one.problem[1])
                if one.size < 0 and may_be_elsewhere:
                    missing[one.path] = problem
                else:
                    problems[problem] = None
            if one.size < 0:
                continue
            key = paths.setdefault((machine, *one.identity()), (one.path, one.inode, one.size, one.modified))
            if key in seen:
                seen[key] = replace(seen[key], workers=(*seen[key].workers, *job.workers))
                continue
            known = one.manifest
            first, last = (known.first_time, known.last_time) if known is not None else (None, None)
            seen[key] = File(host, one.path, one.size, first, last, known, job.workers)
    there = {file.path for file in seen.values()}
    problems |= {problem: None for path, problem in missing.items() if path not in there}
    return sorted(seen.values(), key=place), list(problems)
