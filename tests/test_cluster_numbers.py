"""Which numbers came, of files and hosts put together: the same as of all packets in one stream, however they are cut."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mcast_fast import _core, errors, sequence
from mcast_fast.cluster import _flows, _numbers, _runs, _spans
from mcast_fast.cluster._survey import Contents
from tests.test_pcapng import NOW, record
from tests.test_sequence import joined

MS = 1_000_000
SECOND = 1_000_000_000


def format_of(width):
    return sequence.Format.parse(f"u{8 * width}{'be' if width > 1 else ''}@0")


def batches(packets, width, most):
    """Packets (number, time) as batches."""
    rows = []
    for number, time in packets:
        payload = (number % (1 << 8 * width)).to_bytes(width, "big")
        rows.append((record(payload, time), payload))
    return [joined(_core.views, rows[at : at + most]) for at in range(0, len(rows), most)]


def numbers_of(packets, width):
    numbers = _numbers.Numbers(format_of(width))
    for batch in batches(packets, width, numbers.batch_size):
        numbers.add(batch)
    return numbers.flows()


def contents(packets, width):
    return Contents(numbers={str(format_of(width)): numbers_of(packets, width)} if packets else {})


def flow_of(files, width):
    """The flow of files, each (host, packets)."""
    flows, clocks = _flows.flows_of((host, contents(packets, width)) for host, packets in files)
    (flow,) = flows
    assert flow.expected == flow.received - flow.duplicates + flow.lost
    assert sum(gap.count for gap in flow.gaps) == flow.lost
    return flow, clocks


def missing(numbers):
    return sorted(set(range(min(numbers), max(numbers) + 1)) - set(numbers))


def in_gaps(flow, base=0):
    return [number for gap in flow.gaps for number in range(gap.first, gap.first + gap.count)]


# ---- spans ----

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))))


def members(spans):
    return {number for first, end in spans for number in range(first, end)}


@settings(max_examples=50)
@given(SPANS, SPANS)
def test_spans_are_sets(left, right):
    one, other = _spans.united(left), _spans.united(right)
    assert members(one) == members(left)
    assert _spans.size(one) == len(members(left))
    assert all(before[1] < after[0] for before, after in itertools.pairwise(one))
    rest = list(_spans.without(one, other))
    assert members(rest) == members(left) - members(right)
    taken = list(one)
    for first, end in right:
        _spans.take(taken, first, end)
    assert members(taken) == members(rest)


# ---- one file ----

# What happens to each number: it comes, is lost, comes twice, or a few places late.
FATES = st.lists(st.sampled_from(["comes"] * 6 + ["lost", "twice", "late"]), min_size=1, max_size=120)


def stream(fates, first=0, step=MS, start=NOW):
    """(number, time) in the order of arrival."""
    packets = []
    for at, fate in enumerate(fates):
        if fate == "lost":
            continue
        delay = 3.5 if fate == "late" else 0
        packets.append((at + delay, first + at))
        if fate == "twice":
            packets.append((at + 1.5, first + at))
    return [(number, start + round(place * step)) for place, number in sorted(packets)]


@pytest.mark.parametrize("width", [1, 2, 8])
@settings(max_examples=30)
@given(fates=FATES, first=st.integers(0, 2**20))
def test_a_file_has_the_numbers_that_came(width, fates, first):
    packets = stream(fates, first)
    if not packets:
        return
    tracker = sequence.Tracker(format_of(width))
    for batch in batches(packets, width, 10_000):
        tracker.update(batch)
    (tracked,) = tracker.flows
    flow, _ = flow_of([("a", packets)], width)
    assert (flow.received, flow.expected, flow.duplicates) == (tracked.received, tracked.expected, tracked.duplicates)
    assert (flow.first, flow.last, flow.packets) == (tracked.first, tracked.last, tracked.packets)
    assert flow.lost == tracked.lost + tracked.pending
    mask = (1 << 8 * width) - 1
    assert [number & mask for number in in_gaps(flow)] == [
        number & mask for number in missing([one for one, _ in packets])
    ]


@pytest.mark.parametrize("width", [1, 2, 8])
@settings(max_examples=30)
@given(fates=FATES, first=st.integers(0, 2**20), cuts=st.lists(st.integers(0, 130), max_size=4))
def test_it_does_not_matter_how_a_stream_is_cut_into_files(width, fates, first, cuts):
    packets = stream(fates, first)
    places = [0, *sorted(min(cut, len(packets)) for cut in cuts), len(packets)]
    files = [("a", packets[begin:end]) for begin, end in itertools.pairwise(places) if begin < end]
    if not files:
        return
    whole, _ = flow_of([("a", packets)], width)
    cut, clocks = flow_of(reversed(files), width)
    assert (cut.received, cut.expected, cut.lost, cut.duplicates) == (
        whole.received,
        whole.expected,
        whole.lost,
        whole.duplicates,
    )
    assert (cut.first, cut.last, in_gaps(cut)) == (whole.first, whole.last, in_gaps(whole))
    assert not clocks
    assert cut.restarts == 0


@pytest.mark.parametrize("width", [2, 8])
@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["both", "both", "both", "a", "b", "none"]), min_size=2, max_size=150),
    st.integers(0, 2**20),
)
def test_two_hosts_have_together_what_either_has(width, fates, first):
    seen = {
        host: [(first + at, NOW + at * MS) for at, fate in enumerate(fates) if fate in ("both", host)] for host in "ab"
    }
    if not all(seen.values()):
        return
    flow, clocks = flow_of(seen.items(), width)
    together = {number for packets in seen.values() for number, _ in packets}
    assert not clocks
    assert flow.lost == len(missing(together))
    assert flow.duplicates == sum(map(len, seen.values())) - len(together)
    for host in flow.hosts:
        own = {number for number, _ in seen[host.host]}
        lacks = set(missing(own))
        assert (host.received, host.lost, host.covered) == (len(own), len(lacks), len(lacks & together))


def test_gaps_without_end_are_refused_and_not_kept(backend, monkeypatch):
    monkeypatch.setattr(_numbers, "MOST_SPANS", 50)
    packets = [(2 * number, NOW + number * MS) for number in range(100)]
    with pytest.raises(errors.ArgumentError, match="more than 50 gaps"):
        numbers_of(packets, 8)
    swapped = [(number ^ 1, NOW + number * MS) for number in range(400)]  # each gap is filled by the next packet
    (flow,) = numbers_of(swapped, 8)
    assert flow.runs[0].gaps == []
    assert not flow.runs[0].times


# ---- by hand ----


@pytest.mark.parametrize("width", [1, 2, 8])
def test_a_host_takes_over_and_the_gap_is_known_to_the_packet(backend, width):
    """Numbers of 8 bits go round four times a second."""
    before = [(number, NOW + number * MS) for number in range(300)]
    behind = [(number, NOW + number * MS) for number in range(400, 700)]
    flow, clocks = flow_of([("a", before), ("b", behind)], width)
    mask = (1 << 8 * width) - 1
    (gap,) = flow.gaps
    assert (gap.first, gap.last, gap.count, gap.time) == (300 & mask, 399 & mask, 100, NOW + 400 * MS)
    assert (flow.restarts, flow.duplicates, flow.expected) == (0, 0, 700)
    assert not clocks


def test_gaps_of_more_than_a_lap_together(backend):
    """Numbers of 8 bits, of which a hundred are missing again and again."""
    (flow,) = numbers_of([(number, NOW + at * MS) for at, number in enumerate(range(0, 1011, 101))], 1)
    (run,) = flow.runs
    assert run.gaps == [(number + 1, number + 101) for number in range(0, 1010, 101)]
    assert (run.first, run.next) == (0, 1011)


def test_laps_of_two_hosts_lie_over_each_other_by_their_times(backend):
    """Numbers of 8 bits, 600 of them: b has the middle, and lacks what it lacks."""
    every = [(number, NOW + number * MS) for number in range(600)]
    own = [one for one in every[150:500] if one[0] % 100]
    flow, clocks = flow_of([("a", [one for one in every if one[0] % 7]), ("b", own)], 1)
    lost = [number for number in range(1, 599) if not number % 7 and not (150 <= number < 500 and number % 100)]
    assert flow.lost == len(lost)
    assert not clocks
    assert flow.expected == 599 if every[-1][0] % 7 else 598


def test_a_sender_that_begins_anew_makes_a_run_of_its_own_on_both_hosts(backend):
    first = [(number, NOW + number * MS) for number in range(1000, 1400)]
    again = [(number, NOW + 5 * SECOND + number * MS) for number in range(300)]
    without = {"a": {1100, 1101}, "b": {1200}}
    files = [(host, [one for one in first if one[0] not in lost] + again) for host, lost in without.items()]
    flow, clocks = flow_of(files, 8)
    assert (flow.restarts, flow.lost, flow.expected) == (1, 0, 700)
    assert [(host.lost, host.covered) for host in flow.hosts] == [(2, 2), (1, 1)]
    assert not clocks


def test_a_restart_between_two_hosts(backend):
    before = [(number, NOW + number * MS) for number in range(1000)]
    behind = [(number, NOW + 60 * SECOND + number * MS) for number in range(500)]
    flow, _ = flow_of([("a", before), ("b", behind)], 8)
    assert (flow.restarts, flow.lost, flow.expected, flow.duplicates) == (1, 0, 1500, 0)
    assert flow.ambiguous == 1


def test_clocks_that_differ_are_found_by_the_numbers_of_both(backend):
    every = [(number, NOW + number * 10 * MS) for number in range(1000)]
    late = [(number, time + 5 * SECOND) for number, time in every if number % 50]
    flow, clocks = flow_of([("a", every), ("b", late)], 8)
    assert (flow.lost, flow.restarts, flow.expected) == (0, 0, 1000)
    ((hosts, ahead),) = clocks.items()
    assert hosts == ("b", "a")
    assert 4 * SECOND < ahead <= 5 * SECOND


def test_a_clock_that_is_behind_is_found_too(backend):
    """That of the host whose recording begins later, although its clock is behind."""
    early = [(number, NOW + number * 10 * MS + 2 * SECOND) for number in range(1000)]
    behind = [(number, NOW + number * 10 * MS) for number in range(300, 1000)]
    flow, clocks = flow_of([("a", early), ("b", behind)], 8)
    assert (flow.lost, flow.restarts, flow.expected) == (0, 0, 1000)
    ((hosts, ahead),) = clocks.items()
    assert hosts == ("b", "a")
    assert SECOND <= -ahead <= 2 * SECOND


def test_time_without_a_recorder_is_no_loss(backend):
    first = [(number, NOW + number * MS) for number in range(100)]
    second = [(number, NOW + number * MS) for number in range(3000, 3100) if number != 3050]
    flow, _ = flow_of([("a", first), ("a", second)], 8)
    (host,) = flow.hosts
    assert (host.received, host.lost, host.absent) == (199, 1, 2900)
    assert host.spans == ((3050, 3050),)
    assert flow.lost == 2901


def test_two_recorders_of_one_host(backend):
    every = [(number, NOW + number * 10 * MS) for number in range(1000)]
    flow, _ = flow_of([("a", every[:600]), ("a", every[300:])], 8)
    assert (flow.lost, flow.expected, flow.duplicates, flow.restarts) == (0, 1000, 300, 0)


def test_a_clock_that_was_set_back_leaves_times_in_their_order():
    anchors = [_runs.Anchor(0, 9000), _runs.Anchor(10, 2000), _runs.Anchor(20, 3000)]
    joined = _runs.Joined.of(("a", 0), _runs.Run(0, 21, 9000, 3000, anchors=anchors))
    assert [joined.times_at(position) for position in (0, 5, 10, 15, 20)] == [
        (9000, 9000),
        (2000, 9000),
        (2000, 2000),
        (2000, 3000),
        (3000, 3000),
    ]


def test_anchors_stay_few_and_near_enough():
    anchors = [_runs.Anchor(position, position) for position in range(0, 10_000, 10)]
    thin = _numbers.thinned(anchors, 40)
    assert thin[0] == anchors[0]
    assert thin[-1] == anchors[-1]
    assert len(thin) < 520
    assert all(after.position - before.position <= 40 for before, after in itertools.pairwise(thin))
