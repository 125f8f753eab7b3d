"""The system's clock, by which packets get their times."""

from collections.abc import Iterator

from mcast_fast.doctor._context import Context
from mcast_fast.doctor._finding import Finding

STEP = 0.1  # seconds; a clock that is slewed gains 5 ms in 10 s at most (adjtimex(2))


def stepped(context: Context) -> Iterator[Finding]:
    """Whether the clock was set while the doctor listened."""
    before, after = context.before, context.after
    elapsed = after.monotonic - before.monotonic
    step = (after.clock - before.clock) - elapsed
    if abs(step) > STEP + elapsed / 1000:
        yield Finding(
            "clock.stepped",
            "warning",
            f"the system's clock was set by {step:+.3f} s while the doctor listened: times of packets jump",
            (f"{elapsed:.3f} s passed, and the clock moved by {elapsed + step:.3f} s",),
            advice="Have it slewed (`chronyc makestep` once, and `makestep` limited in chrony.conf).",
        )


CHECKS = (stepped,)
