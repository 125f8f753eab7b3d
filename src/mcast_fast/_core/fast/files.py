"""What the compiled core has of capture files: files.pxi and merge.pxi."""

from mcast_fast._core.fast.compiled import Decoder, Encoder, Run, merge_by_time

__all__ = ["Decoder", "Encoder", "Run", "merge_by_time"]
