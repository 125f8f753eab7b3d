"""A doctor: says why packets of a group do not arrive, with the evidence and what cures it: on one host (`examine`,
docs/doctor.md) and between hosts (`probe`, docs/probe.md)."""

from mcast_fast.doctor._examination import examine
from mcast_fast.doctor._finding import Finding, Report
from mcast_fast.doctor._probe import probe
from mcast_fast.doctor._probe_counts import ProbeCount, ProbeTimes
from mcast_fast.doctor._probe_report import ProbeFinding, ProbeHost, ProbeLink, ProbeReport

__all__ = [
    "Finding",
    "ProbeCount",
    "ProbeFinding",
    "ProbeHost",
    "ProbeLink",
    "ProbeReport",
    "ProbeTimes",
    "Report",
    "examine",
    "probe",
]
