"""mcast-fast: multicast packets into Python at the rate the kernel can hand them over, with nothing lost that is not
counted."""

import importlib
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core import backend, features
from mcast_fast._core.layout import FIELDS as RECORD_FIELDS
from mcast_fast._core.layout import Feature, Flag
from mcast_fast._version import __version__
from mcast_fast.errors import (
    ArgumentError,
    CaptureError,
    ClosedError,
    FeatureError,
    FileError,
    GroupError,
    InterfaceError,
    MulticastError,
    MulticastWarning,
    SendError,
    SocketError,
    SsmWarning,
)

if TYPE_CHECKING:
    from mcast_fast import aio as aio
    from mcast_fast import files as files
    from mcast_fast._core.columns import addresses, pack_addresses
    from mcast_fast._host.interfaces import Interface, interfaces
    from mcast_fast._membership.subscriptions import Membership
    from mcast_fast.files import (
        Autostop,
        Reader,
        RecordedFile,
        Recorder,
        Recording,
        Replay,
        Replayed,
        Rotation,
        Writer,
        open,
    )
    from mcast_fast.groups import Group, Scope, is_multicast
    from mcast_fast.receiver import Receiver
    from mcast_fast.sender import Schedule, Sender
    from mcast_fast.stats import Event, ReaderStats, SenderStats, Stats, TransmitTime, WriterStats

Batch = _core.views.Batch
Packet = _core.views.Packet

__all__ = [
    "RECORD_FIELDS",
    "ArgumentError",
    "Autostop",
    "Batch",
    "CaptureError",
    "ClosedError",
    "Event",
    "Feature",
    "FeatureError",
    "FileError",
    "Flag",
    "Group",
    "GroupError",
    "Interface",
    "InterfaceError",
    "Membership",
    "MulticastError",
    "MulticastWarning",
    "Packet",
    "Reader",
    "ReaderStats",
    "Receiver",
    "RecordedFile",
    "Recorder",
    "Recording",
    "Replay",
    "Replayed",
    "Rotation",
    "Schedule",
    "Scope",
    "SendError",
    "Sender",
    "SenderStats",
    "SocketError",
    "SsmWarning",
    "Stats",
    "TransmitTime",
    "Writer",
    "WriterStats",
    "__version__",
    "addresses",
    "backend",
    "features",
    "interfaces",
    "is_multicast",
    "open",
    "pack_addresses",
]


_WINGS = ("aio", "files")
_WHERE = {
    "Autostop": "files",
    "Event": "stats",
    "Group": "groups",
    "Interface": "_host.interfaces",
    "Membership": "_membership.subscriptions",
    "Reader": "files",
    "ReaderStats": "stats",
    "Receiver": "receiver",
    "RecordedFile": "files",
    "Recorder": "files",
    "Recording": "files",
    "Replay": "files",
    "Replayed": "files",
    "Rotation": "files",
    "Schedule": "sender",
    "Scope": "groups",
    "Sender": "sender",
    "SenderStats": "stats",
    "Stats": "stats",
    "TransmitTime": "stats",
    "Writer": "files",
    "WriterStats": "stats",
    "addresses": "_core.columns",
    "interfaces": "_host.interfaces",
    "is_multicast": "groups",
    "open": "files",
    "pack_addresses": "_core.columns",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import what is asked for the first time (PEP 562): the cost of `import mcast_fast` is that of the core."""
        if name in _WINGS:
            return importlib.import_module(f"mcast_fast.{name}")
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"mcast_fast.{_WHERE[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_WINGS})
