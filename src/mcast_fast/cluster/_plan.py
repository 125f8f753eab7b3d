"""The plan of a cluster: which hosts record which groups, as `plan.toml` says it.

Rules of this module: reading the file is its only I/O. Whoever reads the same plan deals the same (`_deal`).
"""

import hashlib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mcast_fast._units import NANOSECONDS, duration_in_ns, rate_of, size_in_bytes
from mcast_fast.cluster._schema import Key, checked_table, flag, integer, several, text
from mcast_fast.errors import ArgumentError, file_error
from mcast_fast.files._limits import Rotation, with_mark
from mcast_fast.groups import Group
from mcast_fast.sequence._format import Format

MOST_HOSTS = 64
MOST_GROUPS = 16_384
MOST_LEGS = 8
LARGEST_PLAN = 4 << 20  # bytes
LONGEST_NAME = 63
DEFAULT_BITS = 1_000_000  # per second, of a group whose rate the plan does not say
PACKET_BITS = 1_000 * 8  # of a rate in packets
SHORTEST, LONGEST = 20_000_000, 60 * NANOSECONDS  # ns between heartbeats
TAKEOVER = "1s"


def host_name(value: Any, what: str) -> str:
    """A name that can be a part of the names of files and of Dask's workers."""
    name = text(value, what)
    plain = name.replace("-", "").replace("_", "").replace(".", "")
    if len(name) > LONGEST_NAME or not (plain.isascii() and plain.isalnum()) or name[0] in ".-":
        raise ArgumentError(f"{what}: {name!r} is no name of a host; use letters, digits, '-', '_' and '.'")
    return name


def _group(value: Any, what: str) -> Group:
    group = Group.parse(text(value, what))
    if group.port is None:
        raise ArgumentError(f"{what}: {value} has no port; write {replace(group, port=5000)}")
    return group


def _heartbeat_group(value: Any, what: str) -> Group:
    group = _group(value, what)
    if group.count > 1 or group.source is not None:
        raise ArgumentError(f"{what}: {value} is not one group of any source")
    return group


def _format(value: Any, what: str) -> str:
    return str(Format.parse(text(value, what)))


def _bits(value: Any, what: str) -> float:
    rate = rate_of(value, what)
    return rate.per_second if rate.by_bits else rate.per_second * PACKET_BITS


def _time(value: Any, what: str) -> int:
    return duration_in_ns(value, what)


def _rotation(value: Any, what: str) -> Mapping[str, Any]:
    return checked_table(value, ROTATION, what)


def _size(value: Any, what: str) -> str:
    size_in_bytes(value, what)
    return str(value)


def _as_it_is(value: Any, _what: str) -> Any:
    return value


ROTATION = {
    "duration": Key(text, "the time after which the next file begins", None),
    "interval": Key(text, "the multiples of the system's clock at which it does", None),
    "filesize": Key(_size, "the size of a file at most", None),
    "packets": Key(integer(1, 2**62), "the packets in a file", None),
    "files": Key(integer(1, 2**62), "the number of files to keep", None),
}
FILES = {
    "directory": Key(text, "where the files go", "."),
    "name": Key(text, "a name, or a pattern of strftime", "{host}-%Y%m%d-%H%M%S.pcapng"),
    "rotate": Key(_rotation, "when the next file begins", {"filesize": "1GiB"}),
    "index": Key(flag, "whether each file has an index", True),
}
HEARTBEAT = {
    "group": Key(_heartbeat_group, "the group on which recorders announce themselves"),
    "interval": Key(_time, "the time between two heartbeats", duration_in_ns("250ms", "interval")),
    "silent": Key(
        _time, "after which time without one a host's groups are recorded by others", duration_in_ns(TAKEOVER, "silent")
    ),
    "ttl": Key(integer(0, 255), "TTL or hop limit of heartbeats", 1),
}
HOST = {
    "interface": Key(text, "of groups that name none", None),
    "directory": Key(text, "where this host's files go", None),
    "capacity": Key(_bits, "the rate that it can record", None),
    "spare": Key(flag, "whether it records only what others do not", False),
    "ring": Key(flag, "whether it receives by mapped rings", False),
}
GROUPS = {
    "group": Key(_group, "a group with its port"),
    "legs": Key(several(_group, MOST_LEGS - 1), "groups that carry the same packets", ()),
    "format": Key(_format, "where the packets' numbers are", None),
    "rate": Key(_bits, "of each group", float(DEFAULT_BITS)),
    "hosts": Key(several(host_name, MOST_HOSTS), "the hosts that may record it", ()),
    "copies": Key(integer(1, MOST_HOSTS), "the number of hosts that record it at once", 1),
}
PLAN = {
    "version": Key(integer(1, 1), "of the plan's form", 1),
    "name": Key(text, "of the plan", ""),
    "heartbeat": Key(_as_it_is, "a table: the group on which recorders announce themselves"),
    "files": Key(_as_it_is, "a table: where files go, and when the next one begins", {}),
    "hosts": Key(_as_it_is, "a table of each host"),
    "groups": Key(_as_it_is, "a list of tables"),
}


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """How recorders announce themselves.

    Attributes:
        group: On which group, with its port.
        interval: ns between two heartbeats of a host.
        silent: ns without one after which a host's groups are recorded by others.
        ttl: TTL or hop limit.
    """

    __module__ = "mcast_fast.cluster"

    group: Group
    interval: int
    silent: int
    ttl: int = 1


@dataclass(frozen=True, slots=True)
class FileRules:
    """Where files go, and how.

    Attributes:
        directory: Where files go.
        name: Their names, by patterns of strftime; `{host}` is the host's name.
        rotate: When the next file begins: the arguments of `files.Rotation`.
        index: Whether each file has an index.
    """

    __module__ = "mcast_fast.cluster"

    directory: str
    name: str
    rotate: Mapping[str, Any]
    index: bool = True


@dataclass(frozen=True, slots=True)
class Host:
    """A host of a plan.

    Attributes:
        name: Its name in the plan.
        interface: Of groups that name none; None: the routing table's.
        directory: Where its files go.
        capacity: Bits per second that it can record; None: as much as any other one.
        spare: Whether it records only what others do not.
        ring: Whether it receives by mapped rings.
    """

    __module__ = "mcast_fast.cluster"

    name: str
    interface: str | None
    directory: str
    capacity: float | None = None
    spare: bool = False
    ring: bool = False


@dataclass(frozen=True, slots=True)
class Feed:
    """A group of a plan, with the groups that carry the same packets.

    Attributes:
        legs: The group, and its further legs; each may be a run of groups.
        format: Where the packets' numbers are; None: they have none.
        rate: Bits per second of each group.
        hosts: Names of the hosts that may record it; empty: all.
        copies: The number of hosts that record it at once.
    """

    __module__ = "mcast_fast.cluster"

    legs: tuple[Group, ...]
    format: str | None
    rate: float
    hosts: tuple[str, ...] = ()
    copies: int = 1


@dataclass(frozen=True, slots=True)
class Plan:
    """Which hosts record which groups: what `plan.toml` says, checked.

    Attributes:
        name: The plan's name.
        heartbeat: How recorders announce themselves.
        files: Where files go.
        hosts: The hosts by their names.
        feeds: The groups.
        digest: 16 hexadecimal digits that plans with the same contents share.
        path: The file.
    """

    __module__ = "mcast_fast.cluster"

    name: str
    heartbeat: Heartbeat
    files: FileRules
    hosts: Mapping[str, Host]
    feeds: tuple[Feed, ...]
    digest: str = ""
    path: str = field(default="", compare=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Plan":
        """Read a plan.

        Args:
            path: A file in TOML 1.0.

        Returns:
            The Plan.

        Raises:
            FileError: The system refuses to open or read the file.
            ArgumentError: It is no TOML, or no plan; the message names file, table and key.
        """
        name = os.fspath(path)
        try:
            with Path(name).open("rb") as file:
                data = file.read(LARGEST_PLAN + 1)
        except OSError as error:
            raise file_error("open", name, error) from error
        if len(data) > LARGEST_PLAN:
            raise ArgumentError(f"{name}: a plan has at most {LARGEST_PLAN} bytes")
        try:
            return cls.parse(data.decode(), name)
        except UnicodeDecodeError as error:
            raise ArgumentError(f"{name}: it is no text in UTF-8: {error.reason} at byte {error.start}") from None

    @classmethod
    def parse(cls, text: str, path: str = "plan.toml") -> "Plan":
        """Make a plan of the text of its file.

        Args:
            text: TOML 1.0.
            path: What errors call it.

        Returns:
            The Plan.

        Raises:
            ArgumentError: It is no TOML, or no plan; the message names file, table and key.
        """
        try:
            values = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
            raise ArgumentError(f"{path}: it is no TOML: {error}") from None
        top = checked_table(values, PLAN, path)
        rules = FileRules(**checked_table(top["files"], FILES, f"{path}, [files]"))
        hosts = _hosts(top["hosts"], rules, path)
        plan = cls(
            top["name"],
            _heartbeat(top["heartbeat"], path),
            rules,
            hosts,
            _feeds(top["groups"], hosts, path),
            hashlib.blake2b(_canonical(values).encode(), digest_size=8).hexdigest(),
            path,
        )
        _check_names(plan, path)
        return plan

    @property
    def groups(self) -> tuple[Group, ...]:
        """Every group that is recorded, each by itself, in the order of the plan."""
        return tuple(one for feed in self.feeds for leg in feed.legs for one in leg.expand())


def _canonical(values: Any) -> str:
    """The values as a text that does not depend on the order in which tables and keys were written."""
    if isinstance(values, dict):
        return "{" + ",".join(f"{name!r}:{_canonical(values[name])}" for name in sorted(values)) + "}"
    if isinstance(values, list):
        return "[" + ",".join(map(_canonical, values)) + "]"
    return repr(values)


def _heartbeat(values: Any, path: str) -> Heartbeat:
    where = f"{path}, [heartbeat]"
    heartbeat = Heartbeat(**checked_table(values, HEARTBEAT, where))
    if not SHORTEST <= heartbeat.interval <= LONGEST:
        raise ArgumentError(f"{where}: 'interval' is out of range; use 20ms to 1min")
    if not 2 * heartbeat.interval <= heartbeat.silent <= 10 * LONGEST:
        raise ArgumentError(f"{where}: 'silent' is at least two intervals, and at most 10min")
    return heartbeat


def _hosts(values: Any, rules: FileRules, path: str) -> dict[str, Host]:
    if not isinstance(values, dict) or not 1 <= len(values) <= MOST_HOSTS:
        raise ArgumentError(f"{path}, [hosts]: name 1 to {MOST_HOSTS} hosts, as tables such as [hosts.alpha]")
    hosts: dict[str, Host] = {}
    for name, one in values.items():
        where = f"{path}, [hosts.{name}]"
        found = checked_table(one, HOST, where)
        host_name(name, where)
        if found["directory"] is None:
            found["directory"] = rules.directory
        hosts[name] = Host(name=name, **found)
    if all(one.spare for one in hosts.values()):
        raise ArgumentError(f"{path}, [hosts]: all are spare, and nobody records; one at least is not")
    return hosts


def _feeds(values: Any, hosts: Mapping[str, Host], path: str) -> tuple[Feed, ...]:
    if not isinstance(values, list) or not values:
        raise ArgumentError(f"{path}, [[groups]]: name at least one group")
    feeds: list[Feed] = []
    known: dict[tuple[str, int | None, str | None], int] = {}
    for at, one in enumerate(values, 1):
        where = f"{path}, [[groups]] number {at}"
        found = checked_table(one, GROUPS, where)
        legs = (found.pop("group"), *found.pop("legs"))
        if len({leg.count for leg in legs}) > 1:
            raise ArgumentError(f"{where}: 'legs': each leg has as many groups as 'group'")
        if unknown := [name for name in found["hosts"] if name not in hosts]:
            raise ArgumentError(f"{where}: 'hosts': {unknown[0]!r} is none of [hosts]: {', '.join(hosts)}")
        if found["copies"] > len(found["hosts"] or hosts):
            raise ArgumentError(f"{where}: 'copies': {found['copies']} are more than there are hosts for it")
        if len(known) + sum(leg.count for leg in legs) > MOST_GROUPS:
            raise ArgumentError(f"{where}: a plan has at most {MOST_GROUPS} groups")
        for group in (one for leg in legs for one in leg.expand()):
            name = group.address, group.port, group.source
            if name in known:
                raise ArgumentError(f"{where}: {group} is there already, in [[groups]] number {known[name]}")
            known[name] = at
        feeds.append(Feed(legs, **found))
    return tuple(feeds)


def _check_names(plan: Plan, path: str) -> None:
    """What one table says against what another one does."""
    beat = plan.heartbeat.group
    if any((one.address, one.port) == (beat.address, beat.port) for one in plan.groups):
        raise ArgumentError(
            f"{path}, [heartbeat]: 'group': {beat} is recorded too; give heartbeats a group of their own"
        )
    try:
        Rotation(**plan.files.rotate)
    except ArgumentError as error:
        raise ArgumentError(f"{path}, [files]: 'rotate': {error}") from None


def formats_of(plan: Plan | None) -> dict[str, str]:
    """The format of each group of a plan, by the group and its port as text, without source and interface."""
    return {str(Group(*name)): format for name, format in formats_by_name(plan).items()}


def formats_by_name(plan: Plan | None) -> dict[tuple[str, int | None], str]:
    """The format of each group of a plan, by its address and port."""
    feeds = plan.feeds if plan is not None else ()
    return {
        (group.address, group.port): feed.format
        for feed in feeds
        if feed.format is not None
        for leg in feed.legs
        for group in leg.expand()
    }


def recorders(plan: Plan) -> Callable[[str], str]:
    """What finds the host of a recorder by the name of its file; "" where names do not say it.

    A file has a manifest only once it is finished, and never when its recorder was killed."""
    if "{host}" not in plan.files.name:
        return lambda _: ""
    names = sorted(plan.hosts, key=len, reverse=True)  # a name may begin with another one
    patterns = {name: _name_pattern(plan, plan.hosts[name]) for name in names}
    return lambda path: next((name for name, pattern in patterns.items() if pattern.fullmatch(path)), "")


def _name_pattern(plan: Plan, host: Host) -> re.Pattern[str]:
    """What the names of a host's files have in common: what strftime put in, and a mark before the suffix, may be
    anything."""
    path = str(Path(host.directory, plan.files.name.replace("{host}", host.name)))
    parts = re.split(r"(%%|(?:%-?[A-Za-z])+)", with_mark(path, "%m"))
    texts = ({"%%": "%"}.get(one, ".*") if number % 2 else re.escape(one) for number, one in enumerate(parts))
    return re.compile("".join(texts))
