"""Nothing that a stranger sends makes the process grow: unicast to the port, broadcasts, other sources."""

import pytest

from tests.lifecycle.process import run
from tests.lifecycle.programs.unwanted import AIO_PATHS, PATHS

pytestmark = pytest.mark.needs("answers of Linux", "loopback addresses")

PACKETS = 20_000
NEEDS = {"background": "background", "ring": "ring"}


def case(path: str) -> "object":
    needs = [pytest.mark.needs(feature) for name, feature in NEEDS.items() if path.startswith(name)]
    return pytest.param(path, marks=[*needs, pytest.mark.long])


@pytest.mark.parametrize("path", [case(path) for path in (*PATHS, *AIO_PATHS)])
def test_unwanted_packets_take_no_memory(backend: str, path: str) -> None:
    assert run("unwanted", path, str(PACKETS), backend=backend).endswith("held\n")
