"""The interpreter ends with anything open, in a cycle, held by another library or by daemon threads: exit code 0."""

import re
from collections.abc import Iterator

import pytest

from tests.lifecycle.process import run
from tests.lifecycle.programs.exit import EXPORTS, HOLDERS, USES
from tests.lifecycle.programs.paths import NEEDS, PATHS

pytestmark = pytest.mark.needs("signals to processes", "timers")

QUICK = ("socket", "cycle")  # the others are marked long
NOT_SHARED = (
    "ring with batch",
    "recorder",
    "recorder gz",
    "aio receiver",
    "aio sender",
)  # a thread, or a loop, has them already
# A ResourceWarning, the line of source it is about, and what tracemalloc adds.
WARNINGS = re.compile(r"^(.*ResourceWarning: .*|  .*|ResourceWarning: .*)$")


def marks(what: str, how: str) -> "list[pytest.MarkDecorator]":
    found = [] if (what, how) == QUICK else [pytest.mark.long]
    if what in NEEDS or what.startswith("ring"):
        found.append(pytest.mark.needs(NEEDS.get(what, "ring")))
    return found


def open_objects() -> "Iterator[object]":
    for path in PATHS:
        for how in (*HOLDERS, *(() if path in NOT_SHARED else USES)):
            yield pytest.param(path, how, marks=marks(path, how))


def exports() -> "Iterator[object]":
    for name in EXPORTS:
        for origin in ("socket", "ring"):
            for how in HOLDERS:
                yield pytest.param(f"{origin} as {name}", how, marks=marks(f"{origin} as {name}", how))


def ends_well(what: str, how: str, backend: str) -> None:
    output = run("exit", what, how, backend=backend)
    said = [line for line in output.splitlines() if not WARNINGS.match(line)]
    assert said == ["done"], output


@pytest.mark.parametrize(("path", "how"), list(open_objects()))
def test_the_interpreter_ends_with_anything_open(backend: str, path: str, how: str) -> None:
    ends_well(path, how, backend)


@pytest.mark.parametrize(("export", "how"), list(exports()))
def test_the_interpreter_ends_while_others_hold_a_batch(backend: str, export: str, how: str) -> None:
    if "pyarrow" in export:
        pytest.importorskip("pyarrow")
    if "numpy" in export:
        pytest.importorskip("numpy")
    ends_well(export, how, backend)
