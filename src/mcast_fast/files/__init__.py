"""Capture files: read, written, recorded, replayed, scanned and merged.

What is listed here is public. Each class is imported when it is first used, so that reading a file needs neither
receiver nor sender.
"""

import importlib
from typing import TYPE_CHECKING

from mcast_fast.stats import ReaderStats, WriterStats

if TYPE_CHECKING:
    from mcast_fast.files._limits import Autostop, Rotation
    from mcast_fast.files._merge import Merged, merge
    from mcast_fast.files._reader import Reader
    from mcast_fast.files._reader import open_capture as open
    from mcast_fast.files._recorded import RecordedFile, Recording
    from mcast_fast.files._recorder import Recorder
    from mcast_fast.files._replay import Replay, Replayed
    from mcast_fast.files._scan import Scan, Scanned, scan
    from mcast_fast.files._writer import Writer

__all__ = [
    "Autostop",
    "Merged",
    "Reader",
    "ReaderStats",
    "RecordedFile",
    "Recorder",
    "Recording",
    "Replay",
    "Replayed",
    "Rotation",
    "Scan",
    "Scanned",
    "Writer",
    "WriterStats",
    "merge",
    "open",
    "scan",
]

_WHERE = {
    "Autostop": "_limits",
    "Merged": "_merge",
    "Reader": "_reader",
    "RecordedFile": "_recorded",
    "Recorder": "_recorder",
    "Recording": "_recorded",
    "Replay": "_replay",
    "Replayed": "_replay",
    "Rotation": "_limits",
    "Scan": "_scan",
    "Scanned": "_scan",
    "Writer": "_writer",
    "merge": "_merge",
    "open": "_reader",
    "scan": "_scan",
}
_CALLED = {"open": "open_capture"}  # there

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a name when it is first used (PEP 562)."""
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = importlib.import_module(f"mcast_fast.files.{_WHERE[name]}")
        value = globals()[name] = getattr(module, _CALLED.get(name, name))
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
