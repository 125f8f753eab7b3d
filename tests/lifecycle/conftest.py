"""What the programs of the life-cycle need of a system."""

import pytest

from tests.conftest import TOOLS


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """They end, signal and fork processes."""
    if TOOLS["signals to processes"]:
        return
    for item in items:
        if "lifecycle" in item.path.parts:
            item.add_marker(pytest.mark.skip(reason="feature signals to processes: this system has none"))
