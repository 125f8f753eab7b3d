"""Whatever a text, an option or a number can ask for has a bound, and an error of ours: nothing wraps, nothing takes forever."""

from collections.abc import Callable

import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, MulticastError
from tests.conftest import free_port, loopback
from tests.lifecycle.process import PATIENCE, run

HUGE = [2**31, 2**32, 2**63, 2**64, 2**127]
DIGITS = ["9" * 30, "9" * 5_000]


def text() -> str:
    return f"239.7.7.1%{loopback()}:{free_port()}"


OPTIONS: dict[str, Callable[[object], object]] = {
    "background": lambda value: mcast.Receiver(text(), background=value),
    "background_cpu": lambda value: mcast.Receiver(text(), background=True, background_cpu=value),
    "ring": lambda value: mcast.Receiver(text(), ring=value),
    "ring_latency": lambda value: mcast.Receiver(text(), ring="1MiB", ring_latency=value),
    "packet_fanout": lambda value: mcast.Receiver(text(), ring="1MiB", packet_fanout=value),
    "batch_size": lambda value: mcast.Receiver(text(), batch_size=value),
    "max_packet_size": lambda value: mcast.Receiver(text(), max_packet_size=value),
    "busy_poll": lambda value: mcast.Receiver(text(), busy_poll=value),
    "ttl": lambda value: mcast.Sender(text(), ttl=value),
    "dscp": lambda value: mcast.Sender(text(), dscp=value),
    "source_port": lambda value: mcast.Sender(text(), source_port=value),
    "burst": lambda value: mcast.Sender(text(), burst=value),
    "port": lambda value: mcast.Receiver("239.7.7.1", interface=loopback(), port=value),
    "interface": lambda value: mcast.Receiver(f"239.7.7.1:{free_port()}", interface=value),
}


@pytest.mark.parametrize("value", [2**63, 2**64, 2**127, -1, -(2**63)], ids=hex)
@pytest.mark.parametrize("option", OPTIONS)
def test_a_number_out_of_bounds_is_refused(backend: str, no_leak: None, option: str, value: int) -> None:
    """A feature that is missing may be the reason too. What the system itself would not take is never asked for."""
    with pytest.raises(MulticastError):
        OPTIONS[option](value)


@pytest.mark.parametrize("digits", DIGITS, ids=["30 digits", "5,000 digits"])
@pytest.mark.parametrize("unit", ["", "MiB", "GiB"])
@pytest.mark.parametrize("option", ["background", "ring"])
def test_a_text_out_of_bounds_is_refused(backend: str, no_leak: None, option: str, digits: str, unit: str) -> None:
    with pytest.raises(MulticastError):
        OPTIONS[option](digits + unit)


@pytest.mark.parametrize("digits", DIGITS, ids=["30 digits", "5,000 digits"])
@pytest.mark.parametrize("grammar", ["239.1.1.1:{}", "239.1.1.1%{}:5000", "[ff15::1%{}]:5000"])
def test_a_group_out_of_bounds_is_refused(backend: str, no_leak: None, grammar: str, digits: str) -> None:
    with pytest.raises(MulticastError):
        mcast.Receiver(grammar.format(digits), interface=None if "%" in grammar else loopback())


@pytest.mark.needs("process limits")
@pytest.mark.long
@pytest.mark.parametrize("count", [3_000_000, 2**24, 2**28, 2**31, 2**32, 2**64, 10**30])
def test_more_groups_than_a_receiver_can_hold_are_refused(backend: str, count: int) -> None:
    """`+N` has a bound, which is looked at before anything is planned: it takes no time, and no memory."""
    assert run("sizes", "groups", str(count), backend=backend).endswith("held\n")


@pytest.mark.parametrize("limit", [0, -1, 2**26 + 1, *HUGE])
@pytest.mark.parametrize("call", ["recv_batch", "collect"])
def test_a_batch_out_of_bounds_is_refused(backend: str, call: str, limit: int) -> None:
    with mcast.Receiver(text()) as rx, pytest.raises(ArgumentError):
        getattr(rx, call)(limit, timeout=0)


@pytest.mark.parametrize("timeout", [-1.0, float("nan"), float("-inf"), 1e30, float("inf"), 2**63, 2**127])
def test_a_timeout_is_taken_or_refused(backend: str, no_leak: None, timeout: float) -> None:
    """One beyond what a clock counts is forever, or refused; a packet comes at once, so that nothing waits for it."""
    where = text()
    with mcast.Receiver(where) as rx, mcast.Sender(where, ttl=0) as tx:
        tx.send(b"x")
        try:
            assert rx.recv(timeout=timeout).data == b"x"
        except ArgumentError:
            assert rx.recv(timeout=5).data == b"x"


@pytest.mark.parametrize("rate", ["1e-300", 1e-300, 5e-324, 1e-12, 1e300, float("nan"), float("inf"), 0, -1])
def test_a_rate_is_kept_or_refused(backend: str, no_leak: None, rate: "float | str") -> None:
    """One so low that the next datagram is due after the end of the clock: the first leaves, or it is refused."""
    try:
        tx = mcast.Sender(text(), ttl=0, rate=rate)
    except ArgumentError:
        return
    with tx:
        assert tx.send(b"x") == 1


@pytest.mark.needs("ring", "answers of Linux")
@pytest.mark.parametrize("size", ["16TiB", "1000000GiB", 2**62, 2**63])
def test_a_ring_that_memory_cannot_hold_is_refused_before_the_kernel_is_asked(
    backend: str, no_leak: None, size: "int | str"
) -> None:
    """Far beyond any machine's memory, and more than a count of blocks can say: nothing is allocated for it."""
    with pytest.raises(MulticastError):
        mcast.Receiver(text(), ring=size)


@pytest.mark.long
@pytest.mark.weekly
@pytest.mark.hang_timeout(900)
@pytest.mark.needs("answers of Linux")
@pytest.mark.parametrize("way", ["leftovers", "concatenate"])
def test_no_batch_reaches_4_gib(backend: str, way: str) -> None:
    output = run("sizes", way, backend=backend, patience=8 * PATIENCE)
    if "skipped" in output:
        pytest.skip(output)
    assert output.endswith("held\n")
