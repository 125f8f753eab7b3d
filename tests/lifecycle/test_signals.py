"""A signal at every moment of every call: nothing hangs, nothing stays open, nothing that was counted is lost."""

import pytest

from tests.lifecycle.process import PATIENCE, run
from tests.lifecycle.programs.signals import CALLS, OPTIONS

pytestmark = pytest.mark.needs("signals to processes", "timers")

MOMENTS, MANY_MOMENTS = 60, 1_000  # of each call, shared out among the handlers
QUICK = ("socket", "recv")  # the others are marked long
NEEDS = {"ring": "ring", "background": "background", "watch": "watch"}


def marks(path: str, call: str) -> "list[pytest.MarkDecorator]":
    needs = [NEEDS[path]] if path in NEEDS else []
    if call == "send_batch":
        needs.append("large buffers")  # for what is sent while the signal does not come
    return [pytest.mark.needs(*needs), *([] if (path, call) == QUICK else [pytest.mark.long])]


CASES = [
    pytest.param(path, call, marks=marks(path, call))
    for path in OPTIONS
    for call in (("send_batch",) if path == "paced" else CALLS)
]


@pytest.mark.parametrize(("path", "call"), CASES)
def test_a_signal_at_any_moment_loses_nothing(backend: str, path: str, call: str) -> None:
    assert run("signals", path, call, str(MOMENTS), backend=backend).endswith("held\n")


@pytest.mark.long
@pytest.mark.weekly
@pytest.mark.hang_timeout(900)
@pytest.mark.parametrize(("path", "call"), CASES)
def test_a_thousand_signals_lose_nothing(backend: str, path: str, call: str) -> None:
    output = run("signals", path, call, str(MANY_MOMENTS), backend=backend, patience=10 * PATIENCE)
    assert output.endswith("held\n")
