"""Threads that share a receiver, a batch or a sender: with a GIL and without one, to the packet (scenes of threads.py)."""

import sys

import pytest

from mcast_fast._host.interfaces import interfaces
from tests import threads
from tests.conftest import Place, free_port

KINDS = [
    pytest.param(threads.KINDS["socket"], id="socket"),
    pytest.param(threads.KINDS["coalesced"], id="coalesced"),
    pytest.param(threads.KINDS["background"], id="background", marks=pytest.mark.needs("background")),
    pytest.param(
        threads.KINDS["ring"], id="ring", marks=[pytest.mark.needs("ring", "super packets in rings"), pytest.mark.lab]
    ),
]


@pytest.fixture
def group(backend: str) -> str:
    """Of the loopback: rings hear this machine's own datagrams there only."""
    loopback = next((one for one in interfaces() if one.is_loopback and one.is_up), None)
    if loopback is None:
        pytest.skip("feature loopback: no loopback interface is up")
    return Place(4, loopback.name).group(port=free_port())


@pytest.fixture(autouse=True)
def eager_threads():
    """Threads interrupt each other all the time."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    yield
    sys.setswitchinterval(before)


@pytest.mark.long
@pytest.mark.parametrize("options", KINDS)
@pytest.mark.parametrize("scene", threads.OF_RECEIVERS)
def test_threads_share_what_is_received(group, scene, options):
    scene(group, options)


@pytest.mark.parametrize("scene", threads.OF_SENDERS)
def test_threads_share_a_sender(group, scene):
    scene(group)


def test_a_close_ends_every_thread_each_time(group):
    for _ in range(10):
        threads.close_in_the_middle(group, {}, count=50)


@pytest.mark.skipif(getattr(sys, "_is_gil_enabled", lambda: True)(), reason="feature free threads: there is a GIL")
def test_no_module_of_ours_brings_the_gil_back():
    assert not sys._is_gil_enabled()
