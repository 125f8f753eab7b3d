"""No call from Python can crash the process, or hang it: objects that were never initialised refuse."""

import re

import pytest

from tests.lifecycle.process import run


@pytest.mark.needs("signals to processes")
def test_an_object_that_was_never_initialised_raises(backend: str) -> None:
    assert re.search(r"^held: \d+ attributes$", run("bare", backend=backend), re.MULTILINE)
