"""Captures: questions to the files of many hosts, answered where the files are."""

import functools
import hashlib
import os
import secrets
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mcast_fast import _core
from mcast_fast._units import EARLIEST, LATEST, Moment, Seconds, checked, iterated, moment_in_ns
from mcast_fast.cluster import _tasks
from mcast_fast.cluster._catalogue import File, of_paths, of_plan, place
from mcast_fast.cluster._engine import Dask, Engine, Job, Problem, Threads
from mcast_fast.cluster._flows import Flow, Gap, flows_of
from mcast_fast.cluster._manifest import Manifest
from mcast_fast.cluster._plan import Plan, formats_by_name, formats_of
from mcast_fast.cluster._streams import SLACK, Stream, merged, ordered
from mcast_fast.cluster._survey import Contents, Counted
from mcast_fast.errors import ArgumentError, warn
from mcast_fast.groups import Group
from mcast_fast.sequence._arbiter import HOLD, Arbiter
from mcast_fast.sequence._format import Format

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

MOST_LEGS = 8


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written as Parquet.

    Attributes:
        files: Files, one for each capture.
        packets: Packets in them.
        bytes: Their sizes together.
    """

    __module__ = "mcast_fast.cluster"

    files: int
    packets: int
    bytes: int


@dataclass(slots=True)
class Work:
    """What answers have cost so far.

    Attributes:
        scanned: Bytes of captures that were read.
        moved: Bytes that workers sent; 0 without Dask.
        files: Files that were read.
        by_manifest: Files whose manifest was enough.
    """

    __module__ = "mcast_fast.cluster"

    scanned: int = 0
    moved: int = 0
    files: int = 0
    by_manifest: int = 0


class Captures:
    """The capture files of one host or many, and questions to them: `open` makes one.

    Files are read where they are: in threads of this machine or, with Dask, on the workers of the host that has them.
    What cannot be answered is in `problems`, each with a warning, and the rest is answered. `open` chooses `files`,
    `plan`, `format`, the `engine` that reads them, and the first `problems`.

        captures = cluster.open("plan.toml")
        for flow in captures.flows():
            print(flow.group, flow.lost, [(one.host, one.lost, one.covered) for one in flow.hosts])
        for batch in captures.fetch("239.1.1.1:5000", start="2026-11-29T13:00:00Z"):
            ...
    """

    __module__ = "mcast_fast.cluster"

    def __init__(
        self, files: Sequence[File], plan: Plan | None, format: str | None, engine: Engine, problems: Iterable[Problem]
    ) -> None:
        self._files = list(files)
        self._plan, self._format, self._engine = plan, format, engine
        self._problems: dict[Problem, None] = {}
        self.work: Work = Work()
        for one in problems:
            self._report(one)

    # ---- what there is ----

    @property
    def files(self) -> tuple[File, ...]:
        """The files, by host and time."""
        return tuple(self._files)

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What answers have lacked so far."""
        return tuple(self._problems)

    def _report(self, problem: Problem) -> None:
        if problem not in self._problems:
            self._problems[problem] = None
            warn(problem.text)

    def covering(
        self, group: Group | str | None = None, start: Moment | None = None, end: Moment | None = None
    ) -> tuple[File, ...]:
        """List the files that may hold packets of a group and a time.

        Args:
            group: A group, with or without a port; None: any.
            start: From this time on: ns since the epoch, an aware datetime, or text such as "2026-11-28T13:00:00Z".
            end: Before this time.

        Returns:
            The files, by host and time. Of those without a manifest the times are read first.

        Raises:
            GroupError: The text is no group.
            ArgumentError: A time is none.
        """
        wanted = None if group is None else Group.coerce(group)
        earliest = EARLIEST if start is None else moment_in_ns(start, "start")
        latest = LATEST if end is None else moment_in_ns(end, "end")
        self._look_up_times()
        return tuple(
            file
            for file in self._files
            if (file.first_time is None or file.first_time < latest)
            and (file.last_time is None or file.last_time >= earliest)
            and (wanted is None or file.manifest is None or _holds(file.manifest, wanted))
        )

    def _look_up_times(self) -> None:
        """The times of files without a manifest, from their indexes."""
        unknown = [file for file in self._files if file.manifest is None and file.first_time is None]
        times = {(job.host, job.path): found for job, found in self._run(_tasks.extent, unknown)}
        for at, file in enumerate(self._files):
            if (found := times.get((file.host, file.path))) is not None:
                self._files[at] = replace(file, first_time=found[0], last_time=found[1])
        self._files.sort(key=place)

    def _run(self, function: Callable[..., Any], files: Iterable[File], *more: Any) -> Iterator[tuple[Job, Any]]:
        """A task for each file: those that succeed; what is wrong with others is reported."""
        jobs = [Job(function, (file.path, *more), file.host, file.path, file.workers) for file in files]
        for job, found in self._engine.run(jobs) if jobs else ():
            self.work.moved = self._engine.moved
            if isinstance(found, Problem):
                self._report(found)
            else:
                yield job, found

    # ---- numbers ----

    def flows(self) -> tuple[Flow, ...]:
        """Follow the numbers of all flows through all files.

        Files are read unless their manifests have the numbers. The result is the same on one machine and on many, and
        in whichever order files are read.

        Returns:
            A Flow each, by group; those of groups whose format is not known have packets and times only.
        """
        contents: list[tuple[str, Contents]] = []
        to_read = []
        for file in self._files:
            if file.manifest is not None and self._formats_are_in(file.manifest):
                contents.append((file.host, self._chosen(file.manifest.contents)))
                self.work.by_manifest += 1
            else:
                to_read.append(file)
        for job, found in self._run(_tasks.count, to_read, self._formats()):
            self.work.scanned += found.scanned
            self.work.files += 1
            if found.error:
                self._report(Problem("unreadable", job.host, job.path, found.error))
            contents.append((job.host, found))
        for host, one in contents:
            if evicted := sum(one.evicted.values()):
                self._report(
                    Problem("unreadable", host, "", f"{host}: numbers of {evicted:,} flows beyond 4,096 are left out")
                )
        flows, clocks = flows_of(contents)
        for (host, other), ahead in sorted(clocks.items()):
            which = "ahead of" if ahead > 0 else "behind"
            seconds = abs(ahead) / 1e9
            text = f"the clock of {host} is {seconds:.1f} s or more {which} that of {other}, by packets that both have"
            self._report(Problem("clock", host, "", text))
        return tuple(flows)

    def _formats(self) -> dict[str, str]:
        """The format of each group that is followed."""
        if self._format is not None:
            return {"": self._format}
        return formats_of(self._plan)

    def _formats_are_in(self, manifest: Manifest) -> bool:
        """Whether a manifest has the numbers that are wanted, by whichever plan it was made."""
        numbers = manifest.contents.numbers
        if self._format is not None:
            return self._format in numbers
        there = {(format, *flow.name[:2]) for format, flows in numbers.items() for flow in flows}
        wanted = self._formats_by_name
        names = {(one.group, one.port) for one in manifest.contents.flows}
        return all(name not in wanted or (wanted[name], *name) in there for name in names)

    @functools.cached_property
    def _formats_by_name(self) -> dict[tuple[str, int | None], str]:
        """The plan's format of each group and port: made once, for every manifest is compared with it."""
        return formats_by_name(self._plan)

    def _chosen(self, contents: Contents) -> Contents:
        """What of a manifest is of the format that is followed."""
        if self._format is not None:
            return replace(contents, numbers={self._format: contents.numbers[self._format]})
        if self._plan is None:
            return contents
        wanted = self._formats_by_name
        numbers = {
            format: [flow for flow in flows if wanted.get(flow.name[:2]) == format]
            for format, flows in contents.numbers.items()
        }
        return replace(contents, numbers=numbers)

    def gaps(self) -> tuple[Gap, ...]:
        """List the numbers that no file has, to the packet.

        Returns:
            A Gap for each span of missing numbers, by group and number.
        """
        return tuple(gap for flow in self.flows() for gap in flow.gaps)

    # ---- packets ----

    def fetch(self, group: Group | str, start: Moment | None = None, end: Moment | None = None) -> "Iterator[Batch]":
        """Fetch the packets of a group from all hosts.

        Args:
            group: The group, with its port; of a plan, its further legs come with it.
            start: Only packets from this time on, as in `covering`.
            end: Only packets before this time.

        Returns:
            An iterator over batches, merged in the order of (time, host, sequence). Where the format is known, and
            several hosts or legs have the group, each number comes once, and packets without a number (heartbeats) are
            left out, as an Arbiter does; else all packets come.

        Raises:
            GroupError: The text is no group.
            ArgumentError: The group has no port or is a run of groups, or a time is none.
        """
        streams, format = self._streams(group, start, end)
        if len(streams) < 2 or format is None:
            return merged([ordered(iter(one)) for one in streams])
        return iter(_arbiter(streams, format, HOLD))

    def feed(
        self,
        group: Group | str,
        start: Moment | None = None,
        end: Moment | None = None,
        *,
        hold: Seconds = HOLD,
        order: bool = True,
    ) -> Arbiter:
        """Make one feed of what all hosts, and all legs of the plan, have of a group.

        Args:
            group: The group, with its port.
            start: Only packets from this time on, as in `covering`.
            end: Only packets before this time.
            hold: How much later another host may have a number, as for an Arbiter: clocks that differ are in it.
            order: In the order of numbers; False: in that of times.

        Returns:
            A `sequence.Arbiter` whose legs are the hosts in the order of their names, and of each the legs of the plan:
            `stats.legs` says who lost what.

        Raises:
            GroupError: The text is no group.
            ArgumentError: The group's format is not known, no host has it, or more than eight do.
        """
        streams, format = self._streams(group, start, end)
        if format is None:
            raise ArgumentError(f"the format of {group} is not known; give open(…, format=…), or name it in the plan")
        if not streams:
            raise ArgumentError(f"no file has packets of {group}")
        if len(streams) > MOST_LEGS:
            raise ArgumentError(f"{len(streams)} recordings of {group} are more than {MOST_LEGS} legs; choose a time")
        return Arbiter(streams, format, hold, order)

    def _streams(self, value: Group | str, start: Moment | None, end: Moment | None) -> tuple[list[Stream], str | None]:
        """A stream for each host and leg, and the group's format."""
        group = Group.coerce(value)
        if group.port is None or group.count > 1:
            raise ArgumentError(f"{group}: packets are fetched of one group with its port, such as 239.1.1.1:5000")
        earliest = EARLIEST if start is None else moment_in_ns(start, "start")
        latest = LATEST if end is None else moment_in_ns(end, "end")
        legs, format = self._legs(group)
        found = []
        for host_files in _by_line(self.covering(None, start, end)):
            for leg in legs:
                files = [file for file in host_files if file.manifest is None or _holds(file.manifest, leg)]
                if files:
                    found.append(
                        Stream(self._packets(files, leg, earliest, latest), replace(leg, interface=None, source=None))
                    )
        return found, format

    def _legs(self, group: Group) -> tuple[list[Group], str | None]:
        """The groups that carry the same packets, and their format."""
        for feed in self._plan.feeds if self._plan is not None else ():
            for row in zip(*(leg.expand() for leg in feed.legs), strict=True):
                if any((one.address, one.port) == (group.address, group.port) for one in row):
                    return [*row], self._format or feed.format
        return [group], self._format

    def _packets(self, files: list[File], leg: Group, start: int, end: int) -> "Iterator[Batch]":
        """The packets of one group in the files of one recorder, piece by piece."""
        text = str(replace(leg, interface=None))
        for file in files:
            name, skip = secrets.token_hex(8), 0
            try:
                while skip >= 0:
                    batch, skip = self._piece(file, text, start, end, skip, name)
                    if len(batch):
                        yield batch
            finally:
                _tasks.forget(name)

    def _piece(self, file: File, group: str, start: int, end: int, skip: int, name: str) -> "tuple[Batch, int]":
        for job, (batch, passed, error) in self._run(_tasks.read, [file], (group,), start, end, skip, name):
            if error:
                self._report(Problem("unreadable", job.host, job.path, error))
            return batch, passed
        return _core.views.Batch.from_bytes(b"", b"", {}), -1

    # ---- elsewhere ----

    def to_parquet(self, url: str | os.PathLike[str]) -> Exported:
        """Write all packets as Parquet, a file for each capture file, from where they are to where they go.

        Args:
            url: A directory: a path, or a URL that `pyarrow.fs.FileSystem.from_uri` takes ("s3://bucket/feed",
                "gs://bucket/feed"), with its options ("s3://bucket/feed?region=eu-west-1").

        Returns:
            What was written. A file that could not be, or not to its end, is in `problems`. The columns are those of
            docs/files.md behind `host`; nothing is removed that several hosts have.

        Raises:
            FeatureError: pyarrow is missing.
            ArgumentError: pyarrow takes no such URL.
        """
        target = os.fspath(url)
        _tasks.file_system(target)
        jobs = [
            Job(_tasks.export, (file.path, file.host, target, _part_name(file)), file.host, file.path, file.workers)
            for file in self._files
        ]
        done = Exported(0, 0, 0)
        for job, found in self._engine.run(jobs):
            if isinstance(found, Problem):
                self._report(found)
                continue
            done = Exported(done.files + 1, done.packets + found[0], done.bytes + found[1])
            self.work.scanned += next(
                file.bytes for file in self._files if (file.host, file.path) == (job.host, job.path)
            )
        self.work.moved = self._engine.moved
        return done

    def __repr__(self) -> str:
        hosts = len({file.host for file in self._files})
        return f"<Captures: {len(self._files)} files of {hosts} host{'s' if hosts != 1 else ''}>"


def _holds(manifest: Manifest, group: Group) -> bool:
    return any(_is_of(one, group) for one in manifest.contents.flows)


def _is_of(one: Counted, group: Group) -> bool:
    return one.group == group.address and group.port in (None, one.port) and group.source in (None, one.source)


def _by_line(files: Iterable[File]) -> list[list[File]]:
    """The files of each host as lines in which one follows another: recorders beside each other make several."""
    lines: dict[str, list[list[File]]] = defaultdict(list)
    for file in files:
        own = lines[file.host]
        begin = file.first_time or 0
        line = next((one for one in own if (one[-1].last_time or 0) <= begin + SLACK), None)
        if line is None:
            own.append([file])
        else:
            line.append(file)
    return [line for host in sorted(lines) for line in lines[host]]


def _arbiter(streams: Sequence[Any], format: str, hold: Seconds) -> Arbiter:
    """One feed of any number of streams, in the order of time."""
    legs = list(streams)
    while len(legs) > MOST_LEGS:
        legs = [Arbiter(legs[at : at + MOST_LEGS], format, hold, False) for at in range(0, len(legs), MOST_LEGS)]
    return Arbiter(legs, format, hold, False)


def _part_name(file: File) -> str:
    """A name for the Parquet of a file, which those of no other host or directory have."""
    mark = hashlib.blake2b(str(Path(file.path).parent).encode(), digest_size=4).hexdigest()
    return f"{file.host}-{Path(file.path).name}-{mark}.parquet"


def open_captures(
    source: Plan | str | os.PathLike[str] | Iterable[str | os.PathLike[str]],
    format: str | Format | None = None,
    client: Any = None,
) -> Captures:
    """Open the capture files of many hosts, or of this one, for questions.

    Args:
        source: A Plan, or the path of one (.toml): the files of its hosts' directories. Or paths, patterns of the shell
            and directories of capture files, manifests (.manifest.json), or an index of manifests (.parquet).
        format: Where the packets' numbers are, of all groups; None: as the plan says, or the manifests have them.
        client: A `distributed.Client`: work is done by its workers, each on the host that its name, or one of its
            resources, says, and paths are those of the workers' hosts. None: by threads of this machine.

    Returns:
        The Captures. Files that are missing, manifests that are torn and the like are in its `problems`, each with a
        MulticastWarning.

    Raises:
        FileError: The system refuses to read the plan.
        ArgumentError: The plan is none, a text is no format, or the client is none.
        FeatureError: Dask or pyarrow is missing.
    """
    engine: Engine = Threads() if client is None else Dask(client)
    text = None if format is None else str(Format.parse(format))
    if isinstance(source, Plan):
        plan: Plan | None = source
    else:
        is_plan = isinstance(source, str | os.PathLike) and os.fspath(source).endswith(".toml")
        plan = Plan.load(source) if is_plan else None  # type: ignore[arg-type]
    if plan is not None:
        files, problems = of_plan(plan, engine)
    else:
        several = (source,) if isinstance(source, str | os.PathLike) else iterated(source, "source", "a plan or paths")  # type: ignore[arg-type]
        files, problems = of_paths(
            [os.fspath(checked(one, str | os.PathLike, "source", "a path")) for one in several], engine
        )
    return Captures(files, plan, text, engine, problems)


open_captures.__module__ = "mcast_fast.cluster"
