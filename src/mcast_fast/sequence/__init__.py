"""Sequences: what the kernel cannot know was lost. A Format says where a packet's number is, a Tracker what became
of the numbers; `place` and an Assembler put payloads where their numbers say."""

from typing import TYPE_CHECKING

from mcast_fast import _core
from mcast_fast._core.extraction import Columns, Kind, What
from mcast_fast.sequence._assembler import Assembler
from mcast_fast.sequence._flow_frames import Frame
from mcast_fast.sequence._format import Field, Format, stamp
from mcast_fast.sequence._placement import Placement, place
from mcast_fast.sequence._tracker import Change, Tracker
from mcast_fast.stats import Flow, FlowState

if TYPE_CHECKING:
    from mcast_fast._core.fast.views import Batch

__all__ = [
    "Assembler",
    "Change",
    "Columns",
    "Field",
    "Flow",
    "FlowState",
    "Format",
    "Frame",
    "Kind",
    "Placement",
    "Tracker",
    "What",
    "numbers",
    "place",
    "stamp",
]


def numbers(batch: "Batch", format: str | Format) -> Columns:
    """What each packet of a batch is to a sequence: its number, how many numbers it covers, its flow's key, its kind.

    Args:
        batch: A batch of a receiver or a file; a ring's is read in place.
        format: A Format, or its text ("rtp").

    Returns:
        Columns of one element per packet; `np.asarray` takes each without a copy. NumPy is not needed.

    Raises:
        ArgumentError: The text is no format.
        TypeError: It is no batch.
    """
    return _core.sequence.columns_of(batch, Format.parse(format).plan)


numbers.__module__ = "mcast_fast.sequence"
