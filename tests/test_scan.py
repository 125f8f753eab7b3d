"""Many capture files as one lazy source, with and without indexes."""

import datetime
import gzip
import os
import random
import stat
import struct
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import files
from mcast_fast.errors import MulticastWarning
from mcast_fast.files import _frames, _index, _scan
from tests import capture_files as made

START = 1_795_870_800_000_000_000
MS = 1_000_000


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Files of tests are small: an index is made of them all the same, and of many chunks."""
    monkeypatch.setattr(_scan, "SMALLEST", 0)
    monkeypatch.setattr("mcast_fast.files._input.CHUNK", 4096)


def frame(number, group, fragment=None):
    payload = struct.pack(">I", number) + bytes(60)
    if fragment is None:
        return made.ethernet(made.ipv4(made.udp(payload), group=group))
    body = made.udp(payload + bytes(200))
    part = body[:120] if fragment == 0 else body[120:]
    flags = 0x2000 if fragment == 0 else 120 // 8
    return made.ethernet(made.ipv4(part, group=group, fragment=flags))


def pcapng(packets, seed=1, first=0):
    """A file with two sections of different byte order, drops, fragments, and packets that are no UDP."""
    chosen = random.Random(seed)
    data = bytearray()
    for part, order in enumerate("<>"):
        data += made.section(order) + made.description(order, name=f"eth{part}", resolution=9)
        if part:
            data += made.description(order, name="late", resolution=9)
        for number in range(first + part * packets, first + (part + 1) * packets):
            group = f"239.1.1.{number // 50 % 4 + 1}"
            ticks = START + number * MS
            dropped = 5 if chosen.random() < 0.005 else None
            kind = chosen.random()
            if kind < 0.01:
                data += made.packet(frame(number, group, 0), order, ticks=ticks)
                ticks += 300 * MS  # so that it is completed in another chunk
                data += b"".join(made.packet(made.ethernet(b"arp", 0x0806), order, ticks=ticks) for _ in range(20))
                data += made.packet(frame(number, group, 1), order, ticks=ticks)
            elif kind < 0.02:
                data += made.packet(made.ethernet(b"arp", 0x0806), order, ticks=ticks)
            else:
                data += made.packet(
                    frame(number, group), order, ticks=ticks, interface=part and number % 2, dropped=dropped
                )
        data += made.statistics(order, received=7)
    return bytes(data)


@pytest.fixture
def several(tmp_path, backend):
    """Three files that follow one another."""
    for number in range(3):
        (tmp_path / f"feed-{number}.pcapng").write_bytes(pcapng(200, number, number * 400))
    return tmp_path


def rows(batches):
    """What is known of every packet, and its payload."""
    return [
        (p.timestamp, p.group, p.port, p.source, p.interface, p.dropped, p.ttl, p.data)
        for batch in batches
        for p in batch
    ]


WANTED = [
    {"start": START + 500 * MS, "end": START + 510 * MS},
    {"groups": "239.1.1.2"},
    {"groups": ["239.1.1.2:5000", "239.1.1.3"], "start": START + 850 * MS},
    {"groups": "239.1.1.1", "end": START + 100 * MS},
    {"groups": "239.1.1.1%late"},
    {"groups": "239.9.9.9"},
    {"start": START + 10_000_000 * MS},
    {"end": START + 300 * MS, "multicast_only": False},
]


@pytest.mark.long
@pytest.mark.parametrize("wanted", WANTED, ids=str)
def test_an_index_changes_nothing_of_what_is_delivered(several, wanted):
    whole = files.scan(several / "feed-*.pcapng", index=False, **wanted)
    first = files.scan(several / "feed-*.pcapng", **wanted)
    second = files.scan(several / "feed-*.pcapng", **wanted)
    expected = rows(whole)
    assert rows(first) == expected
    assert rows(second) == expected
    assert (first.stats.indexed, second.stats.indexed) == (3, 0)
    assert second.stats.bytes_read == first.stats.bytes_read < whole.stats.bytes_read


def test_a_scan_without_a_choice_reads_everything_and_makes_no_index(several):
    scan = files.scan(several / "*.pcapng")
    paths = sorted(several.glob("*.pcapng"))
    assert scan.files == tuple(map(str, paths))
    expected = []
    for path in paths:
        with mcast.open(path) as reader:
            expected += rows(reader)
    assert rows(scan) == expected
    assert rows(scan) == rows(scan)
    assert sorted(several.iterdir()) == paths


def write(path, packets, step=MS):
    """A plain recording: of four groups, each for fifty packets."""
    body = b"".join(
        made.packet(frame(number, f"239.1.1.{number // 50 % 4 + 1}"), ticks=START + number * step)
        for number in range(packets)
    )
    path.write_bytes(made.section() + made.description(name="eth0", resolution=9) + body)


@pytest.mark.long
def test_a_choice_of_a_group_and_a_minute_reads_less_than_a_twentieth(tmp_path, backend):
    write(tmp_path / "hour.pcapng", 7200, 500 * MS)
    choice = {"groups": "239.1.1.2:5000", "start": START + 1800_000 * MS, "end": START + 1860_000 * MS}
    expected = rows(files.scan(tmp_path / "hour.pcapng", index=False, **choice))
    scan = files.scan(tmp_path / "hour.pcapng", **choice)
    assert len(expected) == 50
    assert rows(scan) == expected
    assert scan.stats.bytes_read < scan.stats.bytes / 20


def test_a_file_of_another_time_is_not_opened(several):
    choice = {"start": START, "end": START + MS}
    for path in several.glob("*.pcapng"):
        write(path, 100, MS * (1 + 10 * (path.name != "feed-0.pcapng")))
    assert files.scan(several / "*.pcapng", **choice).stats.files == 0
    scan = files.scan(several / "*.pcapng", groups="239.1.1.2", start=START + 60 * MS, end=START + 70 * MS)
    assert len(rows(scan)) == 10
    assert (scan.stats.files, scan.stats.left_out) == (1, 2)


def test_a_datagram_is_put_together_from_parts_of_the_file_that_hold_nothing_else(tmp_path, backend):
    """The time of a datagram is that of its last piece; the first one is where nothing else is wanted."""
    others = [made.packet(frame(number, "239.9.9.9"), ticks=START + number * MS) for number in range(300)]
    others[10] += made.packet(frame(1, "239.1.1.1", 0), ticks=START + 10 * MS)
    others[200] += made.packet(frame(1, "239.1.1.1", 1), ticks=START + 200 * MS)
    path = tmp_path / "a.pcapng"
    path.write_bytes(made.section() + made.description(resolution=9) + b"".join(others))
    for choice in ({"groups": "239.1.1.1"}, {"start": START + 200 * MS, "end": START + 201 * MS}):
        expected = rows(files.scan(path, index=False, **choice))
        assert any(row[1] == "239.1.1.1" for row in expected)
        scan = files.scan(path, **choice)
        assert rows(scan) == expected
        assert scan.stats.bytes_read < scan.stats.bytes / 2


# ---- indexes that are not to be used ----


def damaged(data, seed):
    chosen = random.Random(seed)
    at = chosen.randrange(len(data))
    return chosen.choice(
        [data[:at], data[:at] + bytes([data[at] ^ 1 << chosen.randrange(8)]) + data[at + 1 :], b"", data + b"x"]
    )


@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
def test_a_damaged_index_is_made_anew_with_a_warning(tmp_path, backend, seed):
    path = tmp_path / "a.pcapng"
    write(path, 300)
    choice = {"groups": "239.1.1.2"}
    expected = rows(files.scan(path, index=False, **choice))
    assert rows(files.scan(path, **choice)) == expected
    index = Path(_index.path_of(str(path)))
    good = index.read_bytes()
    index.write_bytes(damaged(good, seed))
    with pytest.warns(MulticastWarning, match="made anew"):
        assert rows(files.scan(path, **choice)) == expected
    assert index.read_bytes() == good


def contents_changed(path):
    data = path.read_bytes()
    times = path.stat()
    path.write_bytes(data[:-60] + b"1234" + data[-56:])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


CHANGES = {
    "longer": lambda path: path.write_bytes(path.read_bytes() + made.packet(frame(9, "239.1.1.2"), ticks=START)),
    "touched": lambda path: os.utime(path, ns=(1, 1)),
    "last bytes": contents_changed,
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_the_index_of_a_file_that_changed_is_made_anew(tmp_path, backend, change):
    path = tmp_path / "a.pcapng"
    write(path, 300)
    choice = {"groups": "239.1.1.2"}
    rows(files.scan(path, **choice))
    change(path)
    with pytest.warns(MulticastWarning, match="changed"):
        assert rows(files.scan(path, **choice)) == rows(files.scan(path, index=False, **choice))


def test_a_file_that_is_torn_or_compressed_is_read_whole(tmp_path, backend):
    path = tmp_path / "a.pcapng"
    write(path, 300)
    packed = tmp_path / "b.pcapng.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    expected = rows(files.scan(path, groups="239.1.1.2", index=False))
    scan = files.scan(packed, groups="239.1.1.2")
    assert rows(scan) == expected
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(mcast.errors.CaptureError):
        rows(files.scan(path, groups="239.1.1.2"))
    assert sorted(one.name for one in tmp_path.iterdir()) == ["a.pcapng", "b.pcapng.gz"]


@pytest.mark.needs("users", "modes of files")
def test_where_no_index_can_be_stored_a_scan_works(tmp_path, backend, monkeypatch):
    path = tmp_path / "a.pcapng"
    write(path, 300)

    def refuse(*_, **__):
        raise PermissionError(13, "refused")

    monkeypatch.setattr(_index, "open_private", refuse)
    scan = files.scan(path, groups="239.1.1.2")
    assert len(rows(scan)) == 100
    assert scan.stats.indexed == 1
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.needs("symbolic links")
def test_an_index_is_never_written_through_a_link(tmp_path, backend):
    path, other = tmp_path / "a.pcapng", tmp_path / "other"
    write(path, 300)
    other.write_text("mine")
    Path(_index.path_of(str(path))).symlink_to(other)
    with pytest.warns(MulticastWarning, match="made anew"):
        rows(files.scan(path, groups="239.1.1.2"))
    assert other.read_text() == "mine"
    assert not Path(_index.path_of(str(path))).is_symlink()


@pytest.mark.needs("modes of files")
def test_an_index_may_be_read_by_whom_the_file_may(tmp_path, backend):
    path = tmp_path / "a.pcapng"
    write(path, 300)
    for mode in (0o644, 0o600):
        path.chmod(mode)
        index = Path(_index.path_of(str(path)))
        index.unlink(missing_ok=True)
        rows(files.scan(path, groups="239.1.1.2"))
        assert stat.S_IMODE(index.stat().st_mode) == mode


@pytest.mark.needs("named pipes")
def test_what_is_beside_a_file_and_no_file_is_not_waited_for(tmp_path, backend):
    path = tmp_path / "a.pcapng"
    write(path, 300)
    index = Path(_index.path_of(str(path)))
    os.mkfifo(index)
    assert len(rows(files.scan(path, groups="239.1.1.2"))) == 100
    assert index.is_file()


def test_a_file_that_is_cut_while_its_parts_are_read_is_an_error(tmp_path, backend, monkeypatch):
    """Behind a whole block, which would look like its end."""
    monkeypatch.setattr("mcast_fast.files._unpacking.CHUNK", 4096)
    path = tmp_path / "a.pcapng"
    write(path, 600)
    chosen = {"start": START, "end": START + 500 * MS, "batch_size": 1}
    rows(files.scan(path, **chosen))
    with mcast.open(path) as reader:
        reader.collect(200)
        size = reader.offset
    found = iter(files.scan(path, **chosen))
    next(found)
    os.truncate(path, size)
    with pytest.raises(mcast.errors.CaptureError, match=f"the file was cut to {size} bytes while it was read"):
        rows(found)


def test_a_scan_stands_where_a_reader_does(tmp_path, backend):
    path = tmp_path / "a.pcapng"
    write(path, 30)
    with files.scan(path) as scan:
        expected = rows(scan)
    assert expected
    assert rows(scan) == expected


# ---- arguments ----


def test_what_matches_nothing_is_an_error(tmp_path, backend):
    with pytest.raises(mcast.errors.FileError, match="no file matches"):
        files.scan(tmp_path / "*.pcapng")
    with pytest.raises(mcast.errors.FileError, match="open"):
        rows(files.scan(tmp_path / "gone.pcapng"))
    with pytest.raises(mcast.errors.ArgumentError, match="files"):
        files.scan(7)
    with pytest.raises(mcast.errors.FileError, match="no files"):
        files.scan([])
    with pytest.raises(
        mcast.errors.FileError, match=r"open feed-\*\.pcapng: .* \(\d+\); .*patterns are for files\.scan"
    ):
        mcast.open("feed-*.pcapng")


def test_patterns_leave_out_indexes_and_names_with_brackets_are_names(tmp_path, backend):
    odd = tmp_path / "a[1].pcapng"
    write(odd, 10)
    rows(files.scan(odd, groups="239.1.1.1"))
    assert files.scan([tmp_path / "*", odd]).files == (str(odd), str(odd))


# ---- other libraries ----


@pytest.mark.long
def test_pyarrow_and_duckdb_take_a_scan(several):
    pyarrow = pytest.importorskip("pyarrow")
    scan = files.scan(several / "*.pcapng", groups="239.1.1.2")
    expected = [(row[1], row[7]) for row in rows(scan)]
    for table in (pyarrow.table(scan), scan.to_arrow().read_all()):
        assert list(zip(table["group"].to_pylist(), table["payload"].to_pylist(), strict=True)) == expected
    duckdb = pytest.importorskip("duckdb")
    assert duckdb.from_arrow(scan.to_arrow()).aggregate("count(*)").fetchall() == [(len(expected),)]


def moment(ms):
    return datetime.datetime.fromtimestamp(START // 10**9, datetime.UTC) + datetime.timedelta(milliseconds=ms)


@pytest.mark.long
def test_polars_reads_what_a_query_needs(several):
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    path = several / "*.pcapng"
    everything = polars.concat([polars.DataFrame(batch) for batch in files.scan(path)])
    time, group = polars.col("timestamp"), polars.col("group").cast(polars.String)
    queries = [
        time < moment(100),
        (time >= moment(500)) & (time <= moment(510)),
        time.is_between(moment(500), moment(510)),
        polars.col("group") == "239.1.1.2",
        polars.col("group").is_in(["239.1.1.2", "239.1.1.4"]) & (time > moment(250)) & (time < moment(350)),
        (time < moment(100)) | (polars.col("group") == "239.1.1.3"),
        (polars.col("group") == "no address") | (polars.col("dropped") > 0),
        polars.lit(moment(1000)) < time,
        group.str.ends_with(".2"),
        ~(time < moment(1000)),
    ]
    for query in queries:
        frames = files.scan(path).to_polars().filter(query).select("payload", "port", "timestamp").collect()
        assert frames.equals(everything.filter(query).select("payload", "port", "timestamp")), query
    assert files.scan(path).to_polars().head(7).collect().height == 7


@pytest.mark.long
@pytest.mark.parametrize(
    ("query", "share"),
    [("time", 0.3), ("group", 0.6), ("both", 0.3), ("nothing", 1.0)],
)
def test_polars_pushes_times_and_groups_down_to_the_files(several, query, share):
    polars = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    for number in range(3):
        write(several / f"feed-{number}.pcapng", 1200)
    scan = files.scan(several / "*.pcapng")
    time, group = polars.col("timestamp"), polars.col("group")
    predicates = {
        "time": (time >= moment(500)) & (time < moment(550)),
        "group": group.is_in(["239.1.1.2"]),
        "both": (group == "239.1.1.3") & time.is_between(moment(500), moment(550)),
        "nothing": polars.col("port") == 5000,
    }
    found = scan.to_polars().filter(predicates[query]).select("port").collect()
    assert found.height > 0
    assert scan.stats.bytes_read <= share * scan.stats.bytes
    assert (scan.stats.indexed == 0) == (query == "nothing")


def test_limits_of_a_predicate():
    polars = pytest.importorskip("polars")
    time, group = polars.col("timestamp"), polars.col("group")
    at = polars.lit(moment(0))
    packed = {text: mcast.pack_addresses(text).tobytes() for text in ("239.1.1.1", "239.1.1.2")}
    cases = [
        (time > at, {"start": START + 1}),
        (time <= at, {"end": START + 1}),
        (time == at, {"start": START, "end": START + 1}),
        (time != at, {}),
        (group == "239.1.1.1", {"groups": frozenset([packed["239.1.1.1"]])}),
        (group.is_in(list(packed)) & (group == "239.1.1.2"), {"groups": frozenset([packed["239.1.1.2"]])}),
        ((group == "239.1.1.1") | (time > at), {}),
        (~(group == "239.1.1.1"), {}),
        (polars.col("source") == "239.1.1.1", {}),
    ]
    for predicate, expected in cases:
        assert _frames.limits_of(polars, predicate) == expected, predicate
