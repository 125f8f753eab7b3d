"""Whether files are what their manifests say, and whether the clocks of their hosts were right."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mcast_fast._units import NANOSECONDS, Seconds, duration_in_ns
from mcast_fast.cluster._flows import flows_of
from mcast_fast.cluster._manifest import Manifest, is_of, path_of, sha256_of
from mcast_fast.errors import ArgumentError, FileError

CLOCK_LIMIT = "100ms"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is not as a manifest says: `kind` is "torn", "missing", "changed", "unlisted" or "clock"."""

    kind: str
    path: str
    text: str


def verify(files: Sequence[str], quick: bool = False, clock_limit: Seconds = CLOCK_LIMIT) -> list[Finding]:
    """Hold files against their manifests.

    Args:
        files: Capture files.
        quick: Compare sizes and times of modification alone, and read no file.
        clock_limit: By how much a host's clock may be off.

    Returns:
        What is wrong, by file; then clocks of hosts that differ by what they have of the same packets.

    Raises:
        ArgumentError: The limit is no time.
    """
    limit = duration_in_ns(clock_limit, "clock")
    found: list[Finding] = []
    manifests: list[Manifest] = []
    for path in files:
        manifest, finding = _loaded(path)
        if manifest is not None:
            manifests.append(manifest)
            finding = _of_file(path, manifest, quick)
            found += _of_clock(path, manifest, limit)
        if finding is not None:
            found.append(finding)
    _, clocks = flows_of((one.host, one.contents) for one in manifests)
    for (host, other), ahead in sorted(clocks.items()):
        if abs(ahead) > limit:
            which = "ahead of" if ahead > 0 else "behind"
            text = f"{host} was {abs(ahead) / NANOSECONDS:.1f} s or more {which} {other}, by the packets that both have"
            found.append(Finding("clock", "", text))
    return found


def _loaded(path: str) -> tuple[Manifest | None, Finding | None]:
    target = path_of(path)
    if not Path(target).exists():
        kind = "unlisted" if Path(path).exists() else "missing"
        return None, Finding(kind, path, f"{path} has no manifest" if kind == "unlisted" else f"{path} is not there")
    try:
        return Manifest.load(target), None
    except (ArgumentError, FileError) as error:
        return None, Finding("torn", path, str(error))


def _of_file(path: str, manifest: Manifest, quick: bool) -> Finding | None:
    if not Path(path).exists():
        return Finding("missing", path, f"{path} is not there, and its manifest is")
    try:
        if quick:
            same = is_of(manifest, path)
        else:
            same = Path(path).stat().st_size == manifest.bytes and sha256_of(path) == manifest.sha256
    except (FileError, OSError) as error:
        return Finding("missing", path, str(error))
    return None if same else Finding("changed", path, f"{path} is not the file that its manifest describes")


def _of_clock(path: str, manifest: Manifest, limit: int) -> Iterable[Finding]:
    clock = manifest.clock
    off = clock.offset is not None and abs(clock.offset) > limit
    if off or clock.synchronized is False:
        how = f"was off by {abs(clock.offset or 0) / NANOSECONDS:.3f} s" if off else "was not synchronized"
        yield Finding("clock", path, f"{path}: the clock of {manifest.host} {how} ({clock.source})")
