"""The state of this host's clock, as chrony or the kernel know it: how far it is off, and how sure that is."""

import ctypes
import shutil
import subprocess
import time
from dataclasses import dataclass

PATIENCE = 2.0  # seconds that chronyc may take
TIME_ERROR = 5  # adjtimex(2): the clock is not synchronized
STA_UNSYNC, STA_NANO = 0x40, 0x2000
NANO, MICRO = 1, 1000


@dataclass(frozen=True, slots=True)
class ClockState:
    """How a host's clock stands.

    Attributes:
        at: When that was read, ns since the epoch, by this clock.
        source: "chrony", "kernel" (adjtimex(2)), or "" where neither can be read.
        synchronized: Whether something keeps it in time; None: unknown.
        offset: ns that it was off at the last correction; None: unknown.
        error: ns by which it may be wrong at most; None: unknown.
    """

    __module__ = "mcast_fast.cluster"

    at: int
    source: str = ""
    synchronized: bool | None = None
    offset: int | None = None
    error: int | None = None


class _Timex(ctypes.Structure):
    """struct timex of adjtimex(2), with what later kernels may write behind it."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        *((name, ctypes.c_long) for name in ("offset", "freq", "maxerror", "esterror")),
        ("status", ctypes.c_int),
        *(
            (name, ctypes.c_long)
            for name in ("constant", "precision", "tolerance", "sec", "usec", "tick", "ppsfreq", "jitter")
        ),
        ("shift", ctypes.c_int),
        *((name, ctypes.c_long) for name in ("stabil", "jitcnt", "calcnt", "errcnt", "stbcnt")),
        ("tai", ctypes.c_int),
        ("unused", ctypes.c_int * 32),
    )


def clock_state() -> ClockState:
    """Read the state of this host's clock.

    Returns:
        What chrony says where it runs, else what the kernel says, else a state in which all is unknown.
    """
    return _chrony() or _kernel() or ClockState(time.time_ns())


def _chrony() -> ClockState | None:
    """`chronyc -c tracking`: reference, stratum, offset, root delay, root dispersion and more, chronyc(1)."""
    program = shutil.which("chronyc")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-c", "tracking"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return chrony_state(done.stdout, time.time_ns()) if done.returncode == 0 else None


def chrony_state(line: str, at: int) -> ClockState | None:
    """What a line of `chronyc -c tracking` says; None where it is none."""
    values = line.strip().split(",")
    try:
        offset, delay, dispersion = (round(float(values[place]) * 1e9) for place in (4, 10, 11))
        synchronized = int(values[2]) > 0 and values[13] != "Not synchronised"
    except (IndexError, ValueError, OverflowError):
        return None
    return ClockState(at, "chrony", synchronized, offset, abs(offset) + delay // 2 + dispersion)


def _kernel() -> ClockState | None:
    """adjtimex(2), which reads where `modes` is 0."""
    call = getattr(ctypes.CDLL(None), "adjtimex", None) if hasattr(time, "clock_gettime") else None
    if call is None:
        return None
    timex = _Timex()
    state = call(ctypes.byref(timex))
    if state < 0:
        return None
    synchronized = state != TIME_ERROR and not timex.status & STA_UNSYNC
    unit = NANO if timex.status & STA_NANO else MICRO
    return ClockState(
        time.time_ns(), "kernel", synchronized, timex.offset * unit if synchronized else None, timex.maxerror * MICRO
    )
