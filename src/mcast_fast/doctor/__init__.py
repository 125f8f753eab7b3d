"""Doctors: what is wrong with multicast, and what cures it. `probe` needs another host that runs it too."""

from mcast_fast.doctor._probe import probe
from mcast_fast.doctor._probe_counts import ProbeCount, ProbeTimes
from mcast_fast.doctor._probe_report import ProbeFinding, ProbeHost, ProbeLink, ProbeReport

__all__ = ["ProbeCount", "ProbeFinding", "ProbeHost", "ProbeLink", "ProbeReport", "ProbeTimes", "probe"]
