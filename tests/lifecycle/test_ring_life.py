"""A ring never stalls, whatever the consumer holds and whatever comes; nothing is lost uncounted, twice or changed."""

import pytest

from tests.lifecycle.process import PATIENCE, run
from tests.lifecycle.programs.ring_life import SCENARIOS

pytestmark = [pytest.mark.lab, pytest.mark.needs("ring")]


@pytest.mark.hang_timeout(600)
@pytest.mark.parametrize(
    "size", ["1MiB", pytest.param("64MiB", marks=pytest.mark.long), pytest.param("256MiB", marks=pytest.mark.weekly)]
)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_ring_goes_on(backend: str, scenario: str, size: str) -> None:
    if "pyarrow" in scenario:
        pytest.importorskip("pyarrow")
    assert run("ring_life", scenario, size, backend=backend, patience=4 * PATIENCE).endswith("held\n")
