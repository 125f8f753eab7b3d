"""The index of manifests: a Parquet file with a row for each of them, and the manifest itself in its last column."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mcast_fast.cluster._manifest import Manifest, path_of
from mcast_fast.cluster._whole import write_whole
from mcast_fast.errors import ArgumentError, file_error
from mcast_fast.files._optional import module

TABLE = ".parquet"
MOST = 2**63 - 1  # of a count; a file may say that more was dropped
WHAT = "an index of manifests"


def _schema(pyarrow: Any) -> Any:
    time = pyarrow.timestamp("ns", "UTC")
    count = pyarrow.int64()
    return pyarrow.schema(
        [
            *(("host", pyarrow.string()), ("path", pyarrow.string()), ("bytes", count), ("sha256", pyarrow.string())),
            *(("packets", count), ("first_time", time), ("last_time", time), ("dropped", count)),
            *(("groups", pyarrow.list_(pyarrow.string())), ("clock_synchronized", pyarrow.bool_())),
            *(
                ("clock_offset", count),
                ("clock_error", count),
                ("plan", pyarrow.string()),
                ("manifest", pyarrow.large_string()),
            ),
        ]
    )


def _row(manifest: Manifest) -> dict[str, Any]:
    contents, clock = manifest.contents, manifest.clock
    drops = [contents.ledger.get(name) for name in ("dropped", "dropped_system")]
    known = [one for one in drops if one is not None]
    return {
        "host": manifest.host,
        "path": str(Path(manifest.path).absolute()),
        "bytes": manifest.bytes,
        "sha256": manifest.sha256,
        "packets": manifest.packets,
        "first_time": manifest.first_time,
        "last_time": manifest.last_time,
        "dropped": min(MOST, sum(known)) if known else None,
        "groups": sorted({f"{one.group} port {one.port}" for one in contents.flows}),
        "clock_synchronized": clock.synchronized,
        "clock_offset": clock.offset,
        "clock_error": clock.error,
        "plan": manifest.plan,
        "manifest": json.dumps(manifest.as_dict(), separators=(",", ":")),
    }


def store_table(manifests: Iterable[Manifest], target: str) -> int:
    """Write an index of manifests, whole or not at all.

    Args:
        manifests: What it lists.
        target: Its path (.parquet).

    Returns:
        How many they are.

    Raises:
        FileError: The system refuses to write it.
        FeatureError: pyarrow is missing.
    """
    pyarrow, parquet = module("pyarrow", WHAT, "cluster"), module("pyarrow.parquet", WHAT, "cluster")
    if not target.endswith(TABLE):
        raise ArgumentError(f"{target}: the name of an index of manifests ends in {TABLE}")
    rows = [_row(one) for one in manifests]
    memory = io.BytesIO()
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema=_schema(pyarrow)), memory, compression="zstd")
    write_whole(target, memory.getvalue())
    return len(rows)


def manifests_of(path: str) -> list[Manifest]:
    """The manifests that an index lists, with the paths that files had; FileError, ArgumentError, FeatureError."""
    parquet = module("pyarrow.parquet", WHAT, "cluster")
    try:
        table = parquet.read_table(path, columns=["path", "manifest"])
    except FileNotFoundError as error:
        raise file_error("open", path, error) from error
    except (OSError, ValueError, KeyError) as error:
        raise ArgumentError(f"{path} is no index of manifests: {error}") from error
    found = []
    for row in table.to_pylist():
        if not isinstance(row["path"], str) or not isinstance(row["manifest"], str):
            raise ArgumentError(f"{path} is no index of manifests: a path or a manifest is null")
        found.append(Manifest.parse(row["manifest"], path_of(row["path"])))
    return found
