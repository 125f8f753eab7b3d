"""mcast-fast: multicast packets into Python as fast as the kernel hands them over, with every lost packet accounted
for."""

import importlib
from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core import backend, features
from mcast_fast._core.layout import Flag
from mcast_fast._version import __version__
from mcast_fast.errors import (
    ArgumentError,
    ClosedError,
    FeatureError,
    GroupError,
    InterfaceError,
    MulticastError,
    MulticastWarning,
    SendError,
    SocketError,
    warn,
)

if TYPE_CHECKING:
    from mcast_fast import aio as aio
    from mcast_fast import cluster as cluster
    from mcast_fast import doctor as doctor
    from mcast_fast import files as files
    from mcast_fast import groups as groups
    from mcast_fast import monitor as monitor
    from mcast_fast import receiver as receiver
    from mcast_fast import sender as sender
    from mcast_fast import sequence as sequence
    from mcast_fast import stats as stats
    from mcast_fast._core.columns import addresses, pack_addresses
    from mcast_fast._core.fast.views import Batch, Packet
    from mcast_fast._host.interfaces import Interface, interfaces
    from mcast_fast._host.stack_counters import host_counters
    from mcast_fast._membership.memberships import Membership
    from mcast_fast._source import Source
    from mcast_fast.files import open
    from mcast_fast.groups import Group, Scope, is_multicast
    from mcast_fast.receiver import Receiver
    from mcast_fast.sender import Sender
    from mcast_fast.stats import Event, HostCounters, SenderStats, Stats
else:
    Batch = _core.views.Batch
    Packet = _core.views.Packet

__all__ = [
    "ArgumentError",
    "Batch",
    "ClosedError",
    "Event",
    "FeatureError",
    "Flag",
    "Group",
    "GroupError",
    "HostCounters",
    "Interface",
    "InterfaceError",
    "Membership",
    "MulticastError",
    "MulticastWarning",
    "Packet",
    "Receiver",
    "Scope",
    "SendError",
    "Sender",
    "SenderStats",
    "SocketError",
    "Source",
    "Stats",
    "__version__",
    "addresses",
    "backend",
    "features",
    "host_counters",
    "interfaces",
    "is_multicast",
    "open",
    "pack_addresses",
]


_MODULES = ("aio", "cluster", "doctor", "files", "groups", "monitor", "receiver", "sender", "sequence", "stats")
_WHERE = {
    "Event": "stats",
    "Group": "groups",
    "HostCounters": "stats",
    "Interface": "_host.interfaces",
    "Membership": "_membership.memberships",
    "Receiver": "receiver",
    "Scope": "groups",
    "Sender": "sender",
    "SenderStats": "stats",
    "Source": "_source",
    "Stats": "stats",
    "addresses": "_core.columns",
    "host_counters": "_host.stack_counters",
    "interfaces": "_host.interfaces",
    "is_multicast": "groups",
    "open": "files",
    "pack_addresses": "_core.columns",
}
# Names that were here, for one release more: where they are now.
_MOVED = {
    "Autostop": "files",
    "CaptureError": "errors",
    "Feature": "errors",
    "FileError": "errors",
    "RECORD_FIELDS": "receiver",
    "Reader": "files",
    "ReaderStats": "files",
    "RecordedFile": "files",
    "Recorder": "files",
    "Recording": "files",
    "Replay": "files",
    "Replayed": "files",
    "Rotation": "files",
    "Schedule": "sender",
    "SsmWarning": "errors",
    "TransmitTime": "stats",
    "Writer": "files",
    "WriterStats": "files",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Import a name when it is first used (PEP 562): the cost of `import mcast_fast` is that of the core."""
        if name in _MODULES:
            return importlib.import_module(f"mcast_fast.{name}")
        if name in _MOVED:
            place = f"mcast_fast.{_MOVED[name]}"
            warn(f"mcast_fast.{name} is {place}.{name} now; the next release has it there alone", DeprecationWarning)
            return getattr(importlib.import_module(place), name)
        if name not in _WHERE:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(importlib.import_module(f"mcast_fast.{_WHERE[name]}"), name)
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, *_MODULES})
