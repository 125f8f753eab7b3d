"""Batches and packets from what was pickled, by whichever backend is in use; and whether they are equal to those of the
other one.

Rules of this module: pickles name its functions, which keep their names and arguments.
"""

import sys
from operator import eq
from typing import Any


def _views() -> Any:
    """Those of the backend in use. The package is there, for this module is in it; it imports the backends, and they
    this one."""
    return sys.modules["mcast_fast._core"].views


def batch(records: Any, data: Any, names: dict[int, str]) -> Any:
    """What `Batch.__reduce_ex__` took apart."""
    return _views().Batch.from_bytes(records, data, names)


def packet(record: Any, data: Any, names: dict[int, str]) -> Any:
    """What `Packet.__reduce__` took apart."""
    return batch(record, data, names)[0]


def same(left: Any, right: Any) -> Any:
    """Whether two batches or packets are equal, of which `right` may be anything."""
    kind, other = type(left), type(right)
    if kind.__name__ != other.__name__ or kind.__module__ != other.__module__:
        return NotImplemented
    if kind.__name__ == "Batch":
        return len(left) == len(right) and all(map(eq, left, right))
    return left.__reduce__()[1] == right.__reduce__()[1]
