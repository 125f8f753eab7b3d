"""What the compiled core has of capture files: files.pxi."""

from mcast_fast._core.fast.compiled import GATHERS, Decoder, Encoder, Summary

__all__ = ["GATHERS", "Decoder", "Encoder", "Summary"]
