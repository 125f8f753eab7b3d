"""mcast-fast: multicast packets into Python at the rate the kernel can hand them over, with nothing lost that is not
counted."""

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
from mcast_fast.groups import Group, Scope, is_multicast
from mcast_fast.interfaces import Interface, interfaces
from mcast_fast.pcapng import Writer
from mcast_fast.reader import Reader
from mcast_fast.reader import open_capture as open
from mcast_fast.receiver import Receiver
from mcast_fast.recorder import RecordedFile, Recorder, Recording
from mcast_fast.replay import Replay, Replayed
from mcast_fast.rotation import Autostop, Rotation
from mcast_fast.sender import Schedule, Sender
from mcast_fast.stats import Event, ReaderStats, SenderStats, Stats, TransmitTime, WriterStats
from mcast_fast.subscriptions import Membership

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
    "backend",
    "features",
    "interfaces",
    "is_multicast",
    "open",
]
