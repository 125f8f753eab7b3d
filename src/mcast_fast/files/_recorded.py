"""What became of a recording, and of each of its files: data."""

from dataclasses import dataclass

from mcast_fast.stats import Stats


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """A finished file.

    Attributes:
        path: Its path.
        packets: Packets in it.
        bytes: Its bytes, before compression.
    """

    __module__ = "mcast_fast.files"

    path: str
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Recording:
    """What became of a recording: the receiver's ledger, and the contents of the files.

    Attributes:
        stats: The receiver's ledger.
        written: Packets that are in the files.
        bytes: Of all files together, before compression; also of those that a ring of files has deleted.
        files: Files that were begun.
        path: Of the last one.
        reason: Why it ended: "asked", "closed", "duration", "filesize", "packets", "files", "idle", "ended" (the
            legs of an Arbiter have), or "error"; '' while it runs.
    """

    __module__ = "mcast_fast.files"

    stats: Stats
    written: int
    bytes: int
    files: int
    path: str
    reason: str
