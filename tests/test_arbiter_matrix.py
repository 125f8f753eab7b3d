"""The whole matrix of delays, orders, widths and interruptions over generated legs, with 10,000,000 numbers each."""

import itertools
import os

import pytest

from mcast_fast import Batch
from mcast_fast._core.layout import numpy_dtype
from mcast_fast.sequence import Arbiter
from tests.legs import GROUPS, MS, NOW, SECOND, SENDER, Played, check

np = pytest.importorskip("numpy")
pytestmark = [pytest.mark.weekly, pytest.mark.hang_timeout(3600)]

COUNT = int(os.environ.get("MCAST_FAST_NUMBERS", "10000000"))
AT_ONCE = 65_536
STEPS = {2: 200_000, 4: 10_000, 8: 10_000}  # ns between two numbers: silence times the rate is below half the range
FIRST = {2: 65_000, 4: 2**32 - 1000, 8: 2**64 - 1000}  # each wraps
EVENTS = ("nothing", "restart", "one silent", "both silent")


def batches(positions, times, start, width, group):
    """The packets of a leg, in the order of arrival."""
    for at in range(0, len(positions), AT_ONCE):
        part, when = positions[at : at + AT_ONCE], times[at : at + AT_ONCE]
        records = np.zeros(len(part), numpy_dtype())
        records["timestamp"], records["offset"] = when, np.arange(len(part)) * width
        records["length"] = records["wire_length"] = width
        records["interface"], records["source_port"], records["port"] = 2, 4000, 5000
        records["source"] = np.frombuffer(SENDER, "u1")
        records["group"] = np.frombuffer(group, "u1")
        numbers = part.astype("u8") + np.uint64(start)
        yield Batch.from_bytes(records.tobytes(), numbers.astype(f">u{width}").tobytes(), {2: "eth0"})


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("width", [2, 4, 8])
@pytest.mark.parametrize(("skew", "depth"), list(itertools.product((0, 33, 450), (0, 64))))
def test_the_ledger_is_exact(skew, depth, width, event):
    count, step, random = (
        min(COUNT, 1_000_000) if width == 2 else COUNT,
        STEPS[width],
        np.random.default_rng(skew + depth),
    )
    sent = np.arange(count) * step + NOW
    half = count // 2 // 64 * 64
    if event == "both silent":
        sent[half:] += 5 * SECOND
    start, positions = FIRST[width], np.arange(count)
    if event == "restart":  # far behind: of 16 bits, 20,000 numbers or 4 s, which is less than half of the range
        sent[half:] += 10 * MS
        positions[half:] -= 20_000 if width == 2 else half + 10**9
    order = np.arange(count)
    if depth:  # within blocks, none of which the event divides
        order = np.argsort(np.arange(count) // depth + random.random(count) * 0.999, kind="stable")
    legs, dropped, seen = [], [], np.zeros(count, "u1")
    edges = {0, count - 1, half - 1, half} if event == "restart" else {0, count - 1}
    for leg in range(2):
        keep = random.random(count) >= 0.01
        if event == "one silent" and leg == 1:
            keep &= (sent < sent[half]) | (sent >= sent[half] + 5 * SECOND)
        keep[list(edges)] = True  # what nothing shows is nobody's loss
        dropped.append(count - int(keep.sum()))
        seen += keep
        arriving = order[keep[order]]
        times = np.sort(sent[keep]) + leg * skew * MS  # in the order of the wire
        legs.append(Played(batches(positions[arriving], times, start, width, GROUPS[leg])))
    with Arbiter(legs, f"u{8 * width}be@0", hold="500ms") as feed:
        delivered = sum(map(len, feed))
        stats = feed.stats
    check(stats)
    missing = int((seen == 0).sum())
    assert [leg.lost + leg.absent for leg in stats.legs] == dropped
    assert (stats.expected, stats.unrecovered, stats.delivered, delivered) == (
        count,
        missing,
        count - missing,
        count - missing,
    )
    assert stats.restarts == stats.ambiguous == (event == "restart")
    if event != "one silent":
        assert [leg.absent for leg in stats.legs] == [0, 0]
        assert stats.recovered == sum(dropped) - 2 * missing
