"""What the probe counts, and its datagrams as bytes: whatever comes, in whatever order."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast.doctor._probe_counts import GRACE, WINDOW, Arrivals, ProbeCount, ProbeTimes, Series, Times
from mcast_fast.doctor._probe_matrix import printable
from mcast_fast.doctor._probe_wire import (
    BURST_SIZE,
    BURSTS,
    LARGEST_HELLO,
    LAST_NUMBER,
    SIZES,
    Burst,
    Entry,
    Flags,
    Header,
    Hello,
    Kind,
    Sized,
    WireError,
    burst_bytes,
    hello_bytes,
    parse,
    size_bytes,
)

# ---- counting ----


def model(numbers: list[int], announced: int) -> ProbeCount:
    """The same by plain sets; the first announcement was of 0."""
    seen: set[int] = set()
    duplicates = reordered = 0
    for number in numbers:
        duplicates += number in seen
        reordered += number not in seen and bool(seen) and number < max(seen)
        seen.add(number)
    expected = max(announced, max(seen, default=-1) + 1)
    return ProbeCount(expected, len(seen), min(seen, default=0), duplicates, reordered)


def announce(arrivals: Arrivals, sent: int) -> None:
    """So that it counts."""
    for turn in (1, 2, 3):
        arrivals.announce(sent, turn * GRACE)


@given(st.lists(st.integers(0, 300)), st.integers(0, 400))
def test_any_loss_duplication_and_reordering_is_counted(numbers, announced):
    arrivals = Arrivals()
    arrivals.begin(0)
    for number in numbers:
        arrivals.add(number)
    announce(arrivals, announced)
    count = arrivals.count
    assert count == model(numbers, announced)
    assert count.expected == count.received + count.startup + count.lost


@given(st.lists(st.integers(0, WINDOW - 1)), st.integers(0, 2**32 - WINDOW))
def test_numbers_may_begin_anywhere(numbers, first):
    """A host that comes later does not miss what was sent before."""
    arrivals = Arrivals()
    for number in numbers:
        arrivals.add(first + number)
    low = min(numbers, default=0)
    assert arrivals.count == model([number - low for number in numbers], 0)


def test_a_jump_beyond_the_window_and_what_is_behind_it():
    arrivals = Arrivals()
    for number in (0, 10 * WINDOW, 5, 10 * WINDOW - WINDOW + 1, 10 * WINDOW - WINDOW):
        arrivals.add(number)
    assert arrivals.count == ProbeCount(10 * WINDOW + 1, 3, 0, 0, 1)


def test_loss_before_the_first_one_is_apart():
    arrivals = Arrivals()
    arrivals.begin(7)  # first contact by unicast
    for number in (10, 11, 14):
        arrivals.add(number)
    announce(arrivals, 16)
    count = arrivals.count
    assert (count.expected, count.received, count.startup, count.lost) == (9, 3, 3, 3)


def test_all_is_lost():
    arrivals = Arrivals()
    assert arrivals.count == ProbeCount()
    arrivals.begin(7)
    announce(arrivals, 47)
    assert (arrivals.count.expected, arrivals.count.startup, arrivals.count.lost) == (40, 0, 40)


def test_what_is_overtaken_is_not_lost():
    arrivals = Arrivals()
    arrivals.begin(7)
    arrivals.announce(9, 5 * GRACE)
    arrivals.announce(10, 6 * GRACE - 1)  # too early to say
    assert arrivals.count == ProbeCount()
    arrivals.announce(11, 6 * GRACE)
    assert arrivals.count.expected == 2
    arrivals.add(7)
    arrivals.add(8)
    assert arrivals.count.lost == 0


@given(st.lists(st.integers(-(2**60), 2**60), min_size=1))
def test_times(values):
    times = Times()
    for value in values:
        times.add(value)
    assert times.spread == ProbeTimes(len(values), min(values), sum(values) // len(values), max(values))


def test_a_series_that_had_begun_before_first_contact_does_not_count():
    series = Series(4)
    series.begin(1)
    series.add_size(1, 3)
    series.add_burst(1, 0, 5)
    assert not series.counts(1)
    assert (series.sizes, series.bursts) == (0, (0, 0, 0, 0))
    for number in (0, 1, 1, 9):
        series.add_burst(2, 0, number)
    series.add_size(2, 3)
    assert series.counts(2)
    assert (series.sizes, series.bursts) == (8, (3, 0, 0, 0))
    series.add_burst(3, 1, 0)
    series.add_burst(2, 0, 7)  # late
    assert series.bursts == (0, 1, 0, 0)


# ---- datagrams ----

counts = st.builds(
    lambda received, startup, lost, *more: ProbeCount(received + startup + lost, received, startup, *more),
    *[st.integers(0, 2**30)] * 5,
)
times = st.builds(ProbeTimes, st.integers(0, 2**32 - 1), *[st.integers(-(2**60), 2**60)] * 3)
names = st.binary(max_size=32)
entries = st.builds(
    Entry,
    identity=st.binary(min_size=8, max_size=8),
    address=st.binary(min_size=16, max_size=16),
    port=st.integers(0, 65535),
    unicast_sent=st.integers(0, 2**32 - 1),
    multicast=counts,
    unicast=counts,
    ttl=st.integers(-1, 255),
    dscp=st.integers(-1, 63),
    sizes=st.integers(0, 1023),
    judged=st.booleans(),
    is_gone=st.booleans(),
    bursts=st.tuples(*[st.integers(0, 65535)] * len(BURSTS)),
    delay=times,
    lasted=st.integers(0, 2**32 - 1),
    silent=st.integers(0, 2**32 - 1),
    echo_time=st.integers(-(2**63), 2**63 - 1),
    echo_hold=st.integers(-1, 2**63 - 1),
    token=st.binary(min_size=8, max_size=8),
    name=names,
)
headers = st.builds(
    Header,
    kind=st.just(Kind.HELLO),
    identity=st.binary(min_size=8, max_size=8),
    flags=st.sampled_from([Flags.NONE, Flags.UNICAST, Flags.LEAVING, Flags.UNICAST | Flags.LEAVING]),
    ttl=st.integers(0, 255),
    dscp=st.integers(0, 63),
    sequence=st.integers(0, LAST_NUMBER),
    announced=st.integers(0, 2**32 - 1),
    time=st.integers(-(2**63), 2**63 - 1),
    series_started=st.integers(0, 65535),
    series_done=st.integers(0, 65535),
    sizes=st.integers(0, 1023),
    bursts=st.integers(0, 15),
    token=st.binary(min_size=8, max_size=8),
    name=names,
)


@pytest.mark.long
@settings(max_examples=30)
@given(headers, st.integers(0, 255), st.integers(0, 2**32 - 1), st.lists(entries, max_size=9))
def test_a_hello_is_read_as_it_was_written(header, known, dropped, listed):
    data, count = hello_bytes(header, known, dropped, tuple(listed))
    assert len(data) <= LARGEST_HELLO
    assert count == len(listed) or count >= 5
    assert parse(data, 4) == Hello(header, known, dropped, tuple(listed[:count]))


@pytest.mark.parametrize("version", [4, 6])
@settings(max_examples=20)
@given(headers, st.data())
def test_tests_are_read_as_they_were_written(version, header, data):
    step = data.draw(st.integers(0, len(SIZES[version]) - 1))
    sized = size_bytes(header._replace(kind=Kind.SIZE), 3, step, SIZES[version][step])
    assert len(sized) == SIZES[version][step]
    assert parse(sized, version) == Sized(header._replace(kind=Kind.SIZE), 3, step)
    burst = burst_bytes(header._replace(kind=Kind.BURST), 3, 1, 99)
    assert len(burst) == BURST_SIZE
    assert parse(burst, version) == Burst(header._replace(kind=Kind.BURST), 3, 1, 99)


@given(st.binary(max_size=300))
def test_what_others_send_is_foreign(data):
    with pytest.raises(WireError) as caught:
        parse(data, 4)
    assert caught.value.reason == "foreign"


@pytest.mark.long
@settings(max_examples=60)
@given(headers, st.lists(entries, max_size=3), st.data())
def test_what_is_broken_is_refused_or_read(header, listed, data):
    """Whatever becomes of the bytes, nothing but WireError is raised."""
    kind = data.draw(st.sampled_from([b"h", b"s", b"b"]))
    whole = {
        b"h": lambda: hello_bytes(header, 1, 0, tuple(listed))[0],
        b"s": lambda: size_bytes(header._replace(kind=Kind.SIZE), 1, 0, 600),
        b"b": lambda: burst_bytes(header._replace(kind=Kind.BURST), 1, 0, 0),
    }[kind]()
    broken = bytearray(whole[: data.draw(st.integers(5, len(whole)))])
    for at in data.draw(st.lists(st.integers(4, len(broken) - 1), max_size=5)):
        broken[at] = data.draw(st.integers(0, 255))
    try:
        parse(bytes(broken), 4)
    except WireError as error:
        assert error.reason in ("malformed", "other_version")


@pytest.mark.parametrize("name", [b"\x1b[31mred", "\u202eevil".encode(), b"\xff\xfe", b"a\nb", b"\x9b1m"])
def test_a_name_does_nothing_to_a_terminal(name):
    assert printable(name).isprintable()
    assert printable(b"") == "?"
