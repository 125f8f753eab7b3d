"""fork(): an object belongs to the process that opened it; a child refuses it, and the parent notices nothing."""

import pytest

from tests.lifecycle.process import run
from tests.lifecycle.programs.fork import ENDS, IN_PARENT
from tests.lifecycle.programs.paths import NEEDS, PATHS

pytestmark = pytest.mark.needs("signals to processes", "timers")

QUICK = ("socket", "close")  # the others are marked long


def cases() -> "list[object]":
    return [pytest.param(path, end, marks=marks(path, end)) for path in PATHS for end in (*ENDS, *IN_PARENT)]


def marks(path: str, end: str) -> "list[pytest.MarkDecorator]":
    found = [] if (path, end) == QUICK else [pytest.mark.long]
    if path in NEEDS:
        found.append(pytest.mark.needs(NEEDS[path]))
    return found


@pytest.mark.parametrize(("path", "end"), cases())
def test_the_parent_goes_on_whatever_a_child_does(backend: str, path: str, end: str) -> None:
    who = "daemon" if end == "daemon" else "parent"
    assert f"the {who} is well" in run("fork", path, end, backend=backend)
