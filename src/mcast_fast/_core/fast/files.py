"""What the compiled core has of capture files: files.pxi."""

from mcast_fast._core.fast.compiled import Decoder, Encoder, Summary

__all__ = ["Decoder", "Encoder", "Summary"]
