"""A scan as a LazyFrame of polars: which columns a query needs, and what its predicate says of times and groups.

The predicate is applied to every frame whatever is read of it here: what is not understood chooses nothing.
"""

import contextlib
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from mcast_fast._core.addresses import map_address
from mcast_fast.files._optional import module

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

ROWS = 100_000  # packets in a frame, where the query names no number


def as_frames(batches: Callable[[Any], Iterator["Batch"]], narrowed: Callable[..., Any]) -> Any:
    """A LazyFrame.

    Args:
        batches: Reads the packets that may be wanted, given what `narrowed` returns.
        narrowed: Takes `start`, `end` and `groups`, those of them that a query limits.

    Returns:
        The `polars.LazyFrame`.

    Raises:
        FeatureError: polars is missing, or cannot be imported.
    """
    polars = module("polars", "to_polars", "polars")
    plugins = module("polars.io.plugins", "to_polars", "polars")

    def frames(columns: list[str] | None, predicate: Any, rows: int | None, size: int | None) -> Iterator[Any]:
        left = rows
        limits = limits_of(polars, predicate)
        with contextlib.closing(batches(narrowed(**limits))) as found:  # type: ignore[type-var] # it is a generator
            for gathered in _gathered(found, size or ROWS):
                frame = _frame(polars, gathered, columns, predicate)
                if left is not None:
                    frame = frame.head(left)
                    left -= len(frame)
                yield frame
                if left == 0:
                    return

    return plugins.register_io_source(frames, schema=lambda: _schema(polars), is_pure=True)


def _schema(polars: Any) -> Any:
    """The columns, as of `Batch.__arrow_c_array__`."""
    text = polars.Categorical()
    columns = {
        "timestamp": polars.Datetime("ns", "UTC"),
        "source": text,
        "source_port": polars.UInt16,
        "group": text,
        "port": polars.UInt16,
        "interface": text,
        "dropped": polars.UInt32,
        "wire_length": polars.UInt16,
        "truncated": polars.Boolean,
        "ttl": polars.UInt8,
        "tos": polars.UInt8,
        "payload": polars.Binary,
    }
    return polars.Schema(columns)


def _gathered(batches: Iterator["Batch"], size: int) -> Iterator[list["Batch"]]:
    """Batches together, each time of about `size` packets."""
    some: list[Batch] = []
    count = 0
    for batch in batches:
        some.append(batch)
        count += len(batch)
        if count >= size:
            yield some
            some, count = [], 0
    if some:
        yield some


def _frame(polars: Any, batches: list["Batch"], columns: list[str] | None, predicate: Any) -> Any:
    frame = polars.concat([polars.DataFrame(batch) for batch in batches])
    if predicate is not None:
        frame = frame.filter(predicate)
    return frame if columns is None else frame.select(columns)


# ---- predicates ----


def limits_of(polars: Any, predicate: Any) -> dict[str, Any]:
    """What a predicate says of times and groups: `start`, `end` (ns), `groups` (packed), those that it limits."""
    if predicate is None:
        return {}
    try:
        return _limits(polars, json.loads(predicate.meta.serialize(format="json")))
    except Exception:  # the form is polars' own, and may change: then all is read
        return {}


def _limits(polars: Any, node: Any) -> dict[str, Any]:
    """The limits of an expression, given as polars writes it; none of what is not known."""
    binary = node.get("BinaryExpr")
    if binary is not None and binary["op"] == "And":
        return _joined(_limits(polars, binary["left"]), _limits(polars, binary["right"]))
    if binary is not None:
        return _comparison(polars, binary["left"], binary["op"], binary["right"])
    function = node.get("Function")
    kind = function["function"].get("Boolean") if function is not None else None
    if not isinstance(kind, dict):
        return {}
    column, *constants = function["input"]
    if "IsBetween" in kind:
        low, high = constants
        return _joined(_comparison(polars, column, "GtEq", low), _comparison(polars, column, "LtEq", high))
    if "IsIn" in kind:
        return _comparison(polars, column, "IsIn", constants[0])
    return {}


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The limits of both."""
    both = one | other
    for name, choose in (("start", max), ("end", min), ("groups", frozenset.intersection)):
        if name in one and name in other:
            both[name] = choose(one[name], other[name])
    return both


MIRRORED = {"Gt": "Lt", "Lt": "Gt", "GtEq": "LtEq", "LtEq": "GtEq", "Eq": "Eq"}


def _comparison(polars: Any, left: Any, op: str, right: Any) -> dict[str, Any]:
    """The limits of a column compared with a constant, in either order."""
    if "Column" in right and "Literal" in left and op in MIRRORED:
        left, op, right = right, MIRRORED[op], left
    if "Literal" not in right:
        return {}
    column = left.get("Column")
    if column == "timestamp":
        return _times(polars, op, right)
    if column == "group" and op in ("Eq", "IsIn"):
        values = _constant(polars, right)
        return {"groups": frozenset(map(map_address, values if op == "IsIn" else [values]))}
    return {}


def _times(polars: Any, op: str, literal: Any) -> dict[str, Any]:
    """`start` and `end` of a comparison with a time; the constant is converted as polars would."""
    moment = polars.select(polars.Expr.deserialize(_text(literal), format="json").cast(polars.Datetime("ns", "UTC")))
    ns = int(moment.to_series().cast(polars.Int64).item())
    limits = {"GtEq": {"start": ns}, "Gt": {"start": ns + 1}, "Lt": {"end": ns}, "LtEq": {"end": ns + 1}}
    return limits.get(op, {"start": ns, "end": ns + 1} if op == "Eq" else {})


def _constant(polars: Any, literal: Any) -> Any:
    value = polars.select(polars.Expr.deserialize(_text(literal), format="json")).to_series().item()
    return value.to_list() if isinstance(value, polars.Series) else value


def _text(literal: Any) -> Any:
    import io

    return io.StringIO(json.dumps(literal))
