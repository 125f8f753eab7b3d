"""A doctor: says why packets of a group do not arrive, with the evidence and what cures it (docs/doctor.md)."""

from mcast_fast.doctor._examination import examine
from mcast_fast.doctor._finding import Finding, Report

__all__ = ["Finding", "Report", "examine"]
