"""What the compiled core has of capture files: files.pxi and merge.pxi."""

from mcast_fast._core.fast.compiled import GATHERS, Decoder, Encoder, Run, Summary, merge_by_time

__all__ = ["GATHERS", "Decoder", "Encoder", "Run", "Summary", "merge_by_time"]
