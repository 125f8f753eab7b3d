"""Sizes and times as people write them: each is read exactly, or refused with an error that names the argument."""

import math
import string
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mcast_fast._units import (
    LONGEST_WAIT,
    NANOSECONDS,
    RATE_UNITS,
    SIZE_UNITS,
    duration_in_ns,
    rate_of,
    size_in_bytes,
    wait_in_ns,
    whole_number,
)
from mcast_fast.errors import ArgumentError

SIZES = {
    0: 0,
    65_536: 65_536,
    "0B": 0,
    "1B": 1,
    "1kB": 1_000,
    "1KiB": 1_024,
    "4MiB": 4 << 20,
    "1.5KiB": 1_536,
    "2 GiB": 2 << 30,
    " 7MB ": 7_000_000,
    "1GB": 10**9,
}


@pytest.mark.parametrize(("written", "size"), SIZES.items())
def test_a_size_is_bytes(written, size):
    assert size_in_bytes(written, "buffer_size") == size


@pytest.mark.parametrize(
    "written",
    ["", "4", "MiB", "4mib", "4M", "-4MiB", "4MiB4", "4,5MiB", "\uff11MiB", "1e3B", ".5MiB", "4MiB\0", "0x10B"],
)
def test_a_text_that_is_no_size_is_refused_with_the_units(written):
    with pytest.raises(ArgumentError, match="buffer_size") as caught:
        size_in_bytes(written, "buffer_size")
    assert all(unit in str(caught.value) for unit in SIZE_UNITS)


@pytest.mark.parametrize("value", [True, None, 1.5, b"4MiB", [], object()])
def test_a_value_of_another_type_is_no_size(value):
    with pytest.raises(ArgumentError, match="buffer_size"):
        size_in_bytes(value, "buffer_size")


def test_a_negative_size_is_refused():
    with pytest.raises(ArgumentError, match=r"buffer_size -1\b.*negative"):
        size_in_bytes(-1, "buffer_size")


@given(st.integers(0, 2**80), st.sampled_from(sorted(SIZE_UNITS)))
@example(9_007_199_254_740_993, "B")  # 2**53 + 1, which a float cannot hold
def test_a_whole_number_of_units_is_exact(number, unit):
    assert size_in_bytes(f"{number}{unit}", "size") == number * SIZE_UNITS[unit]


@given(st.integers(0, 10**6), st.integers(0, 999), st.sampled_from(sorted(SIZE_UNITS)))
def test_a_fraction_of_units_is_rounded_down(whole, thousandths, unit):
    exact = (whole + Fraction(thousandths, 1000)) * SIZE_UNITS[unit]
    assert size_in_bytes(f"{whole}.{thousandths:03}{unit}", "size") == math.floor(exact)


SIZE_LIKE = st.text(alphabet=string.digits + ".-+ kKMGiBe", max_size=12)


@given(st.text() | SIZE_LIKE)
@example("9" * 400 + "MiB")  # more than a float can hold
@example("1" * 5000 + "B")  # more digits than int() reads (sys.set_int_max_str_digits)
def test_any_text_is_a_size_or_refused(text):
    try:
        size = size_in_bytes(text, "size")
    except ArgumentError:
        return
    assert size >= 0


WAITS = {
    None: -1,
    0: 0,
    1: NANOSECONDS,
    0.5: NANOSECONDS // 2,
    1e-9: 1,
    math.inf: -1,
    10**30: -1,
    "1": NANOSECONDS,
    "100ms": 10**8,
    " 2 us ": 2000,
    "0": 0,
    "9e9h".replace("e9", "0" * 15): -1,
}


@pytest.mark.parametrize(("seconds", "nanoseconds"), WAITS.items())
def test_a_wait_is_nanoseconds(seconds, nanoseconds):
    assert wait_in_ns(seconds) == nanoseconds


@pytest.mark.parametrize("seconds", [-1, -0.001, math.nan, -math.inf, True, "", "-1", "1x", b"1", [1], object()])
def test_what_is_no_wait_is_refused_by_name(seconds):
    with pytest.raises(ArgumentError, match="ring_latency"):
        wait_in_ns(seconds, "ring_latency")


@given(st.floats() | st.integers())
def test_any_number_is_a_wait_or_refused(seconds):
    try:
        nanoseconds = wait_in_ns(seconds)
    except ArgumentError:
        nanoseconds = None
    if not seconds >= 0:
        assert nanoseconds is None
    else:
        assert nanoseconds == -1 or 0 <= nanoseconds <= LONGEST_WAIT


@pytest.mark.parametrize("value", [1, 2, 255])
def test_a_number_in_the_range_is_itself(value):
    assert whole_number(value, "ttl", 1, 255) == value


def test_a_number_of_numpy_is_one():
    numpy = pytest.importorskip("numpy")
    found = whole_number(numpy.int64(7), "ttl", 1, 255)
    assert (found, type(found)) == (7, int)
    for wrong in (numpy.int64(0), numpy.float64(7), numpy.bool_(True)):
        with pytest.raises(ArgumentError, match=r"ttl .* 1 to 255"):
            whole_number(wrong, "ttl", 1, 255)


@pytest.mark.parametrize("value", [0, 256, -1, True, 1.0, "1", None, 10**100])
def test_a_number_out_of_range_is_refused_with_the_range(value):
    with pytest.raises(ArgumentError, match=r"ttl .* 1 to 255"):
        whole_number(value, "ttl", 1, 255)


RATES = {
    10: (10, False),
    0.5: (0.5, False),
    "10/s": (10, False),
    "50k/s": (50_000, False),
    "1.5M/s": (1_500_000, False),
    "800Mbit/s": (800_000_000, True),
    " 2 Gbit/s ": (2_000_000_000, True),
    "64kbit/s": (64_000, True),
    "50pps": (50, False),
    "50k": (50_000, False),
    "2Mpps": (2_000_000, False),
    "10Mbps": (10_000_000, True),
}


@pytest.mark.parametrize(("written", "rate"), RATES.items())
def test_a_rate_is_datagrams_or_bits_a_second(written, rate):
    assert rate_of(written) == rate
    assert rate_of(written).ns_per_unit == pytest.approx(1e9 / rate[0])


@pytest.mark.parametrize("written", ["", "10", "k/s", "10K/s", "-1/s", "1e3/s", "10 per s", "8MB/s", "\uff11/s"])
def test_a_text_that_is_no_rate_is_refused_with_the_units(written):
    with pytest.raises(ArgumentError, match="rate") as caught:
        rate_of(written)
    assert all(unit in str(caught.value) for unit in RATE_UNITS)


@pytest.mark.parametrize("value", [0, -1, "0/s", math.nan, math.inf, 10**13, True, None, [], b"1/s"])
def test_a_rate_out_of_range_or_of_another_type_is_refused(value):
    with pytest.raises(ArgumentError, match="rate"):
        rate_of(value)


@pytest.mark.parametrize(
    ("value", "nanoseconds"),
    [
        (0, 0),
        (1.5, 1_500_000_000),
        ("10", 10_000_000_000),
        ("100ms", 100_000_000),
        ("0.5 us", 500),
        ("2min", 120_000_000_000),
        ("1h", 3_600_000_000_000),
        (float("inf"), LONGEST_WAIT),
        ("9999999999999999h", LONGEST_WAIT),
    ],
)
def test_durations(value, nanoseconds):
    assert duration_in_ns(value, "wait") == nanoseconds


@pytest.mark.parametrize("value", ["", "s", "-1s", "1 fortnight", "1e3s", -1, float("nan"), True, b"1s"])
def test_what_is_no_duration_is_told(value):
    with pytest.raises(ArgumentError, match=r"^wait "):
        duration_in_ns(value, "wait")
