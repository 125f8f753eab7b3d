"""close() from any thread and from a handler, in the middle of any call: the call ends, and everything is closed."""

import pytest

from tests.lifecycle.process import run
from tests.lifecycle.programs.close import CALLS, RECEIVERS
from tests.lifecycle.programs.paths import NEEDS, PATHS

pytestmark = pytest.mark.needs("signals to processes", "timers")

SHARED = [path for path in PATHS if not path.startswith(("aio", "recorder", "ring with"))]


QUICK = "socket recv"  # the others are marked long


def needing(name: str) -> "object":
    path = name.split(maxsplit=1)[0]
    needs = [pytest.mark.needs(path)] if path in RECEIVERS and path in NEEDS else []
    return pytest.param(name, marks=needs if name == QUICK else [*needs, pytest.mark.long])


@pytest.mark.parametrize("call", [needing(name) for name in CALLS])
def test_a_call_ends_when_another_thread_closes(backend: str, call: str) -> None:
    assert run("close", call, backend=backend).endswith("held\n")


@pytest.mark.parametrize("path", [needing(path) for path in SHARED])
def test_closing_while_many_threads_call_everything(backend: str, path: str) -> None:
    assert run("close", "many", path, backend=backend).endswith("held\n")
