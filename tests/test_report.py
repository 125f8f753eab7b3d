"""The report: its figures are those of the monitor and the tracker; the page is well-formed, needs nothing else, and
escapes what it shows."""

import dataclasses
import json
import re
import struct
import sys
import threading
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import _core, errors, monitor, sequence
from mcast_fast._core.extraction import MOST_GAPS, ChangeRow
from mcast_fast._core.layout import V4_MAPPED
from mcast_fast._report import charts, collect, grid, losses, markup, packets, page, pictures, style, table, text
from mcast_fast._report.grid import MOST_BINS, Grid
from mcast_fast.cli import report
from mcast_fast.doctor import Finding
from tests.conftest import free_port, loopback
from tests.test_cli import invoke
from tests.test_pcapng import NOW, record
from tests.test_sequence import joined

np = pytest.importorskip("numpy")

MS, SECOND = 1_000_000, 1_000_000_000
HOSTILE = "<script src='http://x/'>&\"\x1b[2J\u202e\0</style></title>"


def rtp(number, ssrc=7, size=100):
    return struct.pack(">BBHII", 0x80, 33, number % 65536, 0, ssrc) + bytes(size - 12)


def stream(numbers, start=NOW, step=MS, source=1, group=1, size=100, **named):
    """Rows of one sender, a packet per step, of which only these numbers came."""
    rows = []
    for number in numbers:
        payload = rtp(number, ssrc=source, size=size)
        values = record(payload, start + number * step, **named)
        values[6], values[7] = (
            V4_MAPPED + bytes([*net, last]) for net, last in (((10, 0, 0), source), ((239, 1, 1), group))
        )
        rows.append((values, payload))
    return rows


def batch(*streams):
    return joined(_core.views, sorted((row for one in streams for row in one), key=lambda row: row[0][0]))


def collected(*batches, form="auto", **more):
    """The figures of one file that holds these batches."""
    table = Grid()
    one = collect.Collector(table, "", form)
    for each in batches:
        one.add(each)
    return collect.figures_of(["feed.pcapng"], [one], table, dropped={"recorded": 0}, is_live=False, **more)


def shown(found):
    """The page, as a tree."""
    return ET.fromstring(page.page(found, pictures.legend_of(found), "now").removeprefix("<!DOCTYPE html>"))


# ---- counts over time ----


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(1, 1 << 61), st.integers(0, 5)), min_size=1, max_size=40), st.integers(1, 7))
def test_bins_hold_what_was_counted_whatever_its_order(events, size):
    table = Grid()
    for at in range(0, len(events), size):
        times, rows = (np.array(one) for one in zip(*events[at : at + size], strict=True))
        table.add({"packets": 1, "bytes": rows + 1}, rows, times)
    span = table.span
    assert 0 < span.bins <= MOST_BINS
    for row in range(6):
        expected = [0] * span.bins
        for time, own in events:
            if own == row:
                expected[(time - span.start) // span.width] += 1
        assert list(table.row("packets", row)) == expected
        assert list(table.row("bytes", row)) == [(row + 1) * one for one in expected]


@pytest.mark.parametrize("step", [1, -1])
def test_bins_that_become_one_are_added_up(step):
    """Dense counts from a time that no wider bin begins at, forwards and backwards."""
    table, start = Grid(), NOW // SECOND * SECOND + 3_000_000
    times = [start + at * step * 1_000_000 for at in range(3000)]
    for time in times:
        table.add_one("lost", 0, time, 1)
    span = table.span
    expected = [0] * span.bins
    for time in times:
        expected[(time - span.start) // span.width] += 1
    assert span.width == 5_000_000
    assert list(table.row("lost", 0)) == expected


def test_bins_become_wider_and_no_more_of_them():
    table = Grid()
    table.add_one("lost", 0, NOW, 5)
    table.add_one("lost", 0, NOW + 10**9 * 3600, 7)
    assert table.span.width == 10 * SECOND
    assert table.span.bins == 361
    assert sum(table.row("lost", 0)) == 12
    assert table.row("lost", 9) == (0,) * 361
    assert Grid().span.bins == 0


# ---- figures ----


@pytest.mark.parametrize("form", ["auto", "rtp"])
def test_figures_are_those_of_the_monitor_and_the_tracker(backend, form):
    lost = {*range(100, 130), 300, 301, 400}
    one = stream([n for n in range(1500) if n not in lost])
    other = stream(range(1500), source=2, group=2, size=300, start=NOW + MS // 3)
    batches = [batch(one[at : at + 197], other[at : at + 197]) for at in range(0, 1500, 197)]
    watch, tracker, now = monitor.Monitor(sequence=form, clock=lambda: now), sequence.Tracker("rtp"), 0
    for each in batches:
        tracker.update(each)
        for at in range(len(each)):
            now = each[at].timestamp
            watch.add(each[at : at + 1])
    found = collected(*batches, form=form)
    now_alone = {"silent": 0, "packets_per_second": 0, "bits_per_second": 0}  # as they are in the end, by the clock
    bare = now_alone | dict.fromkeys(("sequence", "lost", "duplicates", "reordered", "restarts", "late"))
    expected = {stream.name: stream._replace(**bare) for stream in watch.streams()}
    assert {one.stream.name: one.stream._replace(**now_alone) for one in found.streams} == expected
    assert {flow.source: (flow.lost, flow.duplicates) for flow in found.flows} == {
        stream.source: (stream.lost, stream.duplicates) for stream in watch.streams()
    }
    assert found.packets == sum(one.packets for one in watch.streams()) == sum(map(len, batches))
    assert {flow.source: flow.lost for flow in found.flows} == {
        flow.source: flow.lost + flow.pending for flow in tracker.flows
    }
    for each in found.streams:
        assert sum(each.packets) == each.stream.packets
        assert sum(each.bytes) == each.stream.bytes
    assert sum(found.sizes.values()) == found.packets
    assert sum(size * count for size, count in found.sizes.items()) == found.bytes
    assert found.form == "rtp"


def test_losses_are_where_the_gap_was_and_in_bursts(backend):
    lost = {*range(1000, 1016), *range(4000, 4008), 4010}
    found = collected(batch(stream([n for n in range(6000) if n not in lost])))
    (flow,) = found.flows
    assert flow.lost == sum(flow.series) == 25
    assert [(one.first, one.last, one.numbers) for one in flow.bursts] == [
        (NOW + 1016 * MS, NOW + 1016 * MS, 16),
        (NOW + 4008 * MS, NOW + 4011 * MS, 9),
    ]
    place = (NOW + 1016 * MS - found.span.start) // found.span.width
    assert flow.series[place] == 16
    assert text.headline(found) == "5,975 packets of 1 stream in 6 s; 25 lost on 239.1.1.1:5000 in two bursts"


def test_what_is_missing_at_the_end_is_lost_and_what_came_late_is_not(backend):
    numbers = [n for n in range(3000) if n not in {1000, 2990, 2991}]
    rows = stream(numbers)
    late = stream([1000])[0]
    late[0][0] = NOW + 2500 * MS  # behind the window
    found = collected(batch(rows, [late]))
    (flow,) = found.flows
    assert flow.lost == sum(flow.series) == 2
    assert [one.numbers for one in flow.bursts] == [2]


def bursts(*batches):
    """Milliseconds since NOW, and numbers."""
    (flow,) = collected(*batches, form="rtp").flows
    assert sum(one.numbers for one in flow.bursts) == flow.lost == sum(flow.series)
    return [((one.first - NOW) // MS, (one.last - NOW) // MS, one.numbers) for one in flow.bursts]


@pytest.mark.long
def test_numbers_that_are_lost_again_are_lost_at_their_own_time(backend):
    """They wrapped, or the sender began anew."""
    first, second = range(100, 110), range(65536 + 100, 65536 + 105)
    wrapped = [n for n in range(66_700) if n not in first and n not in second]
    assert bursts(batch(stream(wrapped))) == [(110, 110, 10), (65641, 65641, 5)]
    run = stream([n for n in range(3000) if n not in range(100, 105)])
    for values, _ in run[100:105]:  # 105 to 109: behind 110
        values[0] += 10 * MS
    again = stream([n for n in range(3000) if n not in range(105, 110)], start=NOW + 10 * SECOND)
    assert bursts(batch(run), batch(again)) == [(110, 110, 5), (10110, 10110, 5)]


@pytest.mark.parametrize(("late", "expected"), [([], [(300, 300, 4), (900, 900, 1)]), ([99], [(300, 300, 4)])])
def test_what_is_pending_at_the_end_is_of_gaps_that_are_not_over(backend, late, expected):
    """99 is missing since 98 came behind 100: it is the first to be lost, of the gap that was seen last."""
    rows = []
    for number, at in ((100, 0), (105, 300), (98, 900), (106, 1100), *((one, 1150) for one in late)):
        ((values, payload),) = stream([number])
        values[0] = NOW + at * MS
        rows.append((values, payload))
    assert bursts(batch(rows)) == expected


def test_nothing_is_lost_before_the_first_gap():
    """A number of a gap that is not remembered."""
    table = Grid()
    one = losses.Losses(table, 16, SECOND)
    row = ChangeRow(losses._GAP, bytes(16), 1, bytes(16), 2, b"", 5, 5, NOW)
    one.add([row, row._replace(kind=losses._LOST, first=900, last=900, time=NOW + MS)])
    one.add([row._replace(kind=losses._LATE, first=901, last=901, time=NOW + MS)])
    assert (table.span.start, table.span.bins) == (NOW // MS * MS, 1)


@pytest.mark.long
def test_every_gap_that_a_tracker_has_pending_is_remembered(backend):
    count = MOST_GAPS + 100
    times = {}
    rows = stream(range(0, 2 * count, 2))
    for at, (values, _) in enumerate(rows):
        values[0] = times[at] = NOW + at * 10_000
    (burst,) = collected(batch(rows), form="rtp").flows[0].bursts
    assert (burst.first, burst.last, burst.numbers) == (times[1], times[count - 1], count - 1)


@settings(max_examples=25)
@given(st.data())
def test_the_time_line_of_losses_adds_up(data):
    """Whatever is lost, late, again or in another order."""
    numbers = data.draw(st.lists(st.integers(0, 400), min_size=20, max_size=60))
    steps = data.draw(st.lists(st.integers(0, 600), min_size=len(numbers), max_size=len(numbers)))
    rows, now = [], NOW
    for number, step in zip(numbers, steps, strict=True):
        now += step * MS
        payload = rtp(number)
        rows.append((record(payload, now), payload))
    found = collected(joined(_core.views, rows), form="rtp")
    tracker = sequence.Tracker("rtp")
    tracker.update(joined(_core.views, rows))
    expected = sum(flow.lost + flow.pending for flow in tracker.flows)
    assert found.lost == expected
    assert sum(sum(flow.series) for flow in found.flows) == expected


def test_numbers_that_are_none(backend):
    payload = bytes(range(64, 128))
    found = collected(joined(_core.views, [(record(payload, NOW + at), payload) for at in range(50)]))
    assert found.flows == ()
    assert found.lost is None
    assert text.headline(found).endswith("loss is not known, for no numbers were recognised")
    assert collected(batch(stream(range(20))), form=None).form == ""


def test_streams_that_stop(backend):
    whole = stream(range(1000), step=10 * MS, source=1)
    slow = stream(range(4), step=2500 * MS, source=3, group=3)
    found = collected(batch(whole, slow, stream(range(500), step=10 * MS, source=2, group=2)))
    assert [one.stream.group for one in found.stopped] == ["239.1.1.2"]
    assert "239.1.1.2:5000 stopped" in text.headline(found)
    assert not text.is_good(found)
    assert "stopped at" in "".join(shown(found).itertext())


def test_packets_without_a_time_and_drops(backend):
    payload = rtp(1)
    rows = [(record(payload, 0), payload), (record(payload, NOW, dropped=7), payload)]
    found = collected(joined(_core.views, rows))
    assert (found.untimed, sum(found.dropped_series), found.packets) == (1, 7, 2)
    assert found.first == found.last == NOW
    untimed = collected(joined(_core.views, rows[:1]))
    assert untimed.span.bins == 0
    assert "had no time" in "".join(shown(untimed).itertext())


def test_drops_of_coalesced_packets_are_a_lower_bound(backend):
    payload = rtp(1)
    found = collected(joined(_core.views, [(record(payload, NOW, dropped=7), payload)]))
    found = dataclasses.replace(found, is_live=True, dropped={"socket": 7})
    bound = dataclasses.replace(found, drops_exact=False)
    pages = ["".join(shown(one).itertext()) for one in (found, bound)]
    assert "at least 7" not in pages[0]
    assert all(part in pages[1] for part in ("Droppedat least 7", "Dropped, socket: at least 7.", "at least 7 dropped"))
    assert [one.as_dict()["drops_exact"] for one in (found, bound)] == [True, False]


def test_streams_are_bounded_and_the_rest_is_summed(backend, monkeypatch):
    monkeypatch.setattr(packets, "MOST_STREAMS", 60)
    streams = [stream(range(2), source=1 + at // 200, group=1 + at % 200) for at in range(100)]
    found = collected(batch(*streams))
    assert len(found.streams) == 100
    assert sum(one.is_series for one in found.streams) == 60
    assert sum(found.others[0]) == 80
    legend = pictures.legend_of(found)
    assert (len(legend.entries), legend.rest) == (pictures.MOST_SHOWN, "94 other streams, summed")
    rate = pictures._rates(found, legend, bits=False)
    assert sum(
        value * per for one in rate for value, per in zip(one.values, pictures._covered(found), strict=True)
    ) == pytest.approx(200)
    rows = shown(found).findall(".//section[last()]//tbody/tr")
    assert len(rows) == table.LISTED + 1
    assert "50 streams more" in "".join(rows[-1].itertext())


def test_what_flows_lost_that_gave_way_is_lost(backend, monkeypatch):
    monkeypatch.setattr(collect, "MOST_STREAMS", 2)
    flows = [stream((1, 2, 4), start=NOW + number * 9 * MS, group=number) for number in range(5)]
    found = collected(*(batch(one) for one in flows), form="u16be@2")
    assert (found.lost, found.evicted_lost, len(found.flows)) == (5, 3, 2)
    headline = text.headline(found)
    assert headline.startswith("15 packets of more than 2 streams in ")
    assert "; 5 lost on " in headline
    assert ", 3 of them by flows that gave way to others" in headline
    assert found.as_dict()["lost"] == 5


def test_a_fault_has_a_colour_whatever_its_rate(backend):
    busy = [stream(range(400), step=10 * MS, group=at, source=at) for at in range(2, 12)]
    found = collected(batch(*busy, stream([n for n in range(200) if n != 100], step=20 * MS)))
    assert "239.1.1.1:5000" in [name for _, name, _ in pictures.legend_of(found).entries]


# ---- the page ----


def elements(tree):
    for one in tree.iter():
        yield one.tag.removeprefix("{http://www.w3.org/2000/svg}"), one.attrib


def sample(**more):
    lost = {*range(200, 230), 900}
    found = collected(
        batch(
            stream([n for n in range(3000) if n not in lost], dropped=0),
            stream(range(500), step=2 * MS, source=2, group=2, size=900),
        )
    )
    return replace(found, **more)


def test_the_page_needs_nothing_else():
    found = sample()
    for code in (
        page.page(found, pictures.legend_of(found), "now"),
        pictures.standalone(found, pictures.legend_of(found)),
    ):
        bare = code.replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert not re.search(r"https?:|//[a-z]|@import|url\(|data:", bare)
        names = {name for name, _ in elements(ET.fromstring(code.removeprefix("<!DOCTYPE html>")))}
        assert not names & {"script", "link", "img", "iframe", "object", "image", "use", "foreignObject", "a"}
        attributes = {
            key for _, attributes in elements(ET.fromstring(bare.removeprefix("<!DOCTYPE html>"))) for key in attributes
        }
        assert not {key for key in attributes if key.startswith("on") or key.endswith(("href", "src"))}


def test_the_page_has_the_figures():
    found = sample()
    words = " ".join(shown(found).itertext()).replace("\xa0", " ")
    assert f"{found.packets:,}" in words
    assert text.headline(found) in words
    assert "31 of 3,500 numbers are missing." in words
    for flow in found.flows:
        assert f"{flow.lost:,}" in words


def test_hostile_strings_are_text():
    finding = Finding("host.ready", "problem", HOSTILE, (HOSTILE,), HOSTILE, HOSTILE)
    one = sample()
    evil = one.streams[0].stream._replace(source=HOSTILE, interface=HOSTILE, sequence=HOSTILE)
    flow = replace(one.flows[0], source=HOSTILE, origin=HOSTILE, lost=5)
    found = replace(
        one,
        sources=(HOSTILE,),
        streams=(replace(one.streams[0], stream=evil, origin=HOSTILE), *one.streams[1:]),
        flows=(flow, *one.flows[1:]),
        findings=(finding,),
        errors=(HOSTILE,),
        waiting=(HOSTILE,),
        form=HOSTILE,
    )
    tree = shown(found)
    assert "script" not in {name for name, _ in elements(tree)}
    words = "".join(tree.itertext())
    assert words.count("<script src='http://x/'>&\"\\x1b[2J\\u202e\\x00</style></title>") >= 10
    assert not re.search(r"[\x00-\x08\x0b-\x1f\u202e]", words)
    ET.fromstring(pictures.standalone(found, pictures.legend_of(found)))


@given(st.text(), st.text())
def test_whatever_text_is_no_markup(one, other):
    made = markup.tag("p", one, title=other)
    tree = ET.fromstring(made)
    assert len(tree) == 0
    assert (tree.text or "") == errors.escaped(one)
    assert tree.attrib["title"] == errors.escaped(other)


@pytest.mark.parametrize("count", [1, 2, 7, MOST_BINS])
@pytest.mark.parametrize("width", [MS, SECOND, 3600 * SECOND, 10**17])
def test_charts_of_any_time(count, width):
    span = grid.Span(NOW // width * width, width, count)
    series = [charts.Line("a", "c0", [at % 7 for at in range(count)]), charts.Line("b", "c1", [0] * count)]
    for frame in (pictures.WIDE, pictures.NARROW):
        tree = ET.fromstring(charts.lines("t", "/s", series, span, frame))
        tips = [one for one in tree.iter("rect") if one.find("title") is not None]
        assert 0 < len(tips) <= charts._COLUMNS
        assert len(list(tree.iter("text"))) <= 30
        ET.fromstring(charts.lanes("t", series, ["1", "2"], span, frame.width))


@given(st.floats(1e-9, 1e15))
def test_axes_end_at_or_above_the_largest_value(value):
    ticks = charts.ticks(value)
    assert ticks[0] == 0
    assert 2 <= len(ticks) <= 6
    assert value * (1 - 1e-6) <= ticks[-1] <= 1.7 * value


def test_words():
    assert text.listed(["a"]) == "a"
    assert text.listed(["a", "b"]) == "a and b"
    assert text.listed(["a", "b", "c"]) == "a, b and 1 more"
    assert [text.seconds(one) for one in (0.0032, 2.54, 60, 1234.5)] == ["3.2 ms", "2.5 s", "60 s", "1,234 s"]
    assert [text.scaled(one) for one in (0, 12.34, 999, 1_234_567)] == ["0", "12.3", "999", "1.23 M"]
    assert text.date(1 << 62) == "2116-02-20 23:53:38 UTC"
    assert text.clock(NOW, 3) == "22:13:20.123"


# ---- the verb ----


def write(path, *batches):
    with mcast.files.Writer(path) as writer:
        for one in batches:
            writer.write(one)
    return path


def test_a_file(backend, tmp_path):
    lost = {*range(200, 230), 900}
    path = write(tmp_path / "feed.pcapng", batch(stream([n for n in range(1000) if n not in lost])))
    target, picture = tmp_path / "r.html", tmp_path / "r.svg"
    result = invoke("report", path, "-o", target, "--svg", picture, "--fail-on-loss")
    assert result.exit_code == 3, result.output
    assert "969 packets of 1 stream in 999 ms; 31 lost on 239.1.1.1:5000 in two bursts." in result.output
    ET.fromstring(target.read_text("utf-8").removeprefix("<!DOCTYPE html>"))
    assert ET.fromstring(picture.read_text("utf-8")).tag.endswith("svg")
    result = invoke("report", path, "-o", target, "--json")
    found = json.loads(result.stdout)
    assert (found["packets"], found["lost"], found["dropped"]) == (969, 31, {"recorded": 0})
    assert sum(found["streams"][0]["packets_per_bin"]) == 969
    assert invoke("report", path, "-o", "-").stdout.startswith("<!DOCTYPE html>")


def test_two_files_are_compared_as_legs(backend, tmp_path):
    legs = [
        write(tmp_path / f"{name}.pcapng", batch(stream([n for n in range(500) if n not in gone], NOW + late)))
        for name, gone, late in (("a", {*range(100, 110), 300}, 0), ("b", {105, 400, 401}, 2 * MS))
    ]
    result = invoke("report", *legs, "--legs", "-o", tmp_path / "r.html", "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    with mcast.open(legs[0]) as a, mcast.open(legs[1]) as b, sequence.Arbiter([a, b], "rtp") as feed:
        for _ in feed:
            pass
        expected = feed.stats
    assert [one["lost"] for one in found["legs"]] == [one.lost for one in expected.legs] == [11, 3]
    assert [one["covered"] for one in found["legs"]] == [one.covered for one in expected.legs] == [10, 2]
    assert found["packets"] == 489 + 497
    tree = ET.fromstring((tmp_path / "r.html").read_text("utf-8").removeprefix("<!DOCTYPE html>"))
    words = " ".join(tree.itertext())
    assert "1 of 500 came on no leg." in words
    assert "2 ms behind the first one" in words or "behind the first one (median" in words


def test_a_file_that_is_cut_is_reported_as_far_as_it_goes(backend, tmp_path):
    path = write(tmp_path / "feed.pcapng", batch(stream(range(300))))
    path.write_bytes(path.read_bytes()[:-90])
    result = invoke("report", path, "-o", tmp_path / "r.html")
    assert result.exit_code == 1
    assert "1 file could not be read to the end" in result.output
    assert "Not read to the end" in (tmp_path / "r.html").read_text("utf-8")


def test_errors_of_the_verb(tmp_path, monkeypatch):
    empty = write(tmp_path / "empty.pcapng")
    assert invoke("report", empty, "-o", tmp_path / "r.html").exit_code == 4
    assert not (tmp_path / "r.html").exists()
    full = write(tmp_path / "feed.pcapng", batch(stream(range(3))))
    result = invoke("report", full, "-o", tmp_path / "none" / "r.html")
    assert result.exit_code == 1
    assert "none" in result.output
    for wrong in (
        [full, "239.1.1.1:5000"],
        [full, "--for", "1s"],
        [full, "--legs"],
        [full, full, "--legs", "-f", "none"],
    ):
        assert invoke("report", *wrong).exit_code == 2
    monkeypatch.setitem(sys.modules, "numpy", None)
    result = invoke("report", full)
    assert result.exit_code == 1
    assert "pip install 'mcast-fast[numpy]'" in result.output


@pytest.mark.parametrize("option", ["-o", "--svg"])
def test_a_file_that_is_read_is_not_written_over(tmp_path, option):
    full = write(tmp_path / "feed.pcapng", batch(stream(range(3))))
    before = full.read_bytes()
    for same in (full, f"{tmp_path}/./feed.pcapng"):
        result = invoke("report", full, option, same, *(["-o", tmp_path / "r.html"] if option == "--svg" else []))
        assert result.exit_code == 2
        assert f"{same} is a file that is read" in result.stderr
    result = invoke("report", full, "-o", tmp_path / "r.html", "--svg", f"{tmp_path}/./r.html")
    assert result.exit_code == 2
    assert "--output and --svg are both" in result.stderr
    assert full.read_bytes() == before
    assert not (tmp_path / "r.html").exists()


@pytest.mark.parametrize("option", ["-o", "--svg"])
def test_what_cannot_be_written_is_said_before_it_listens(backend, tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    group = f"239.9.3.1%{loopback()}:{free_port()}"
    for wrong in (tmp_path / "none" / "r.html", tmp_path):
        result = invoke("report", group, "--for", "1h", option, wrong)
        assert result.exit_code == 1
        assert f"open {wrong}: " in result.stderr
        assert "receiving" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_what_was_there_stays_until_the_page_is_written(backend, tmp_path):
    page = tmp_path / "r.html"
    page.write_text("before")
    group = f"239.9.3.1%{loopback()}:{free_port()}"
    assert invoke("report", group, "--for", "20ms", "--no-doctor", "-o", page).exit_code == 4
    assert page.read_text() == "before"


def test_a_group(backend, tmp_path, monkeypatch):
    group = f"239.9.3.1%{loopback()}:{free_port()}"
    silent = f"239.9.3.2%{loopback()}:{free_port()}"
    came = threading.Event()

    class Receiving(mcast.Receiver):
        def batches(self, **limits):
            with mcast.Sender(group, ttl=0) as sender:
                sender.send_batch([rtp(number) for number in range(40) if number != 20])
            yield from super().batches(count=39)
            came.set()

    monkeypatch.setattr(report, "Receiver", Receiving)
    monkeypatch.setattr(report, "DOCTOR", 0.01)
    result = invoke("report", group, silent, "--for", "1h", "-o", tmp_path / "r.html", "--json")
    assert result.exit_code == 0, result.output
    assert came.is_set()
    found = json.loads(result.stdout)
    assert (found["packets"], found["lost"], found["live"]) == (39, 1, True)
    assert [one.rpartition(" on ")[0] for one in found["waiting"]] == [silent.replace(f"%{loopback()}", "")]
    assert found["findings"]
    assert "This host" in (tmp_path / "r.html").read_text("utf-8")


def test_a_group_of_which_nothing_comes(backend, tmp_path):
    result = invoke("report", f"239.9.3.1%{loopback()}:{free_port()}", "--for", "50ms", "-o", tmp_path / "r.html")
    assert result.exit_code == 4
    assert "nothing came within" in result.output
    assert not (tmp_path / "r.html").exists()


def test_every_colour_is_in_the_style_sheets():
    for one in (*pictures.COLOURS, pictures.OTHERS):
        assert f".line.{one}{{" in style.CHARTS
        assert f".swatch.{one}{{" in style.PAGE
        assert style.CHARTS.count(f"--{one}:") == 3  # light, dark, paper
