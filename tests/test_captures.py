"""Contents of a file, files made readable, and batches in other forms: CSV, Arrow, Parquet."""

import csv
import io
import random
import stat

import pytest

import mcast_fast as mcast
from mcast_fast._core.layout import RECORD
from mcast_fast.files._convert import COLUMNS, convert, convert_file, form_of, open_batches
from mcast_fast.files._repair import Repaired, repair
from mcast_fast.files._summary import summarise
from tests import capture_files as cf
from tests.test_pcapng import NOW, batch_of, read, record, rows, some, written

SECOND = 10**9


def a_batch_of_every_kind():
    """Both families, truncated, without TTL, after drops, without a time."""
    payloads = [b"", b"one", bytes(range(256)), b"cut", b"no time", b'"quoted", and\n'][:5]
    return batch_of(
        (record(payloads[0]), payloads[0]),
        (record(payloads[1], NOW + 1, 3, v6=True), payloads[1]),
        (record(payloads[2], NOW + 2, dropped=7, port=5001), payloads[2]),
        (record(payloads[3], NOW + 3, wire=900), payloads[3]),
        (record(payloads[4], 0, flags=0, wire=0), payloads[4]),
    )


@pytest.fixture
def mixed(backend):
    return a_batch_of_every_kind()


# ---- contents of a file ----


def test_flows_are_told_by_group_and_source(backend):
    def one(seconds, payload, **named):
        return cf.packet(cf.ethernet(cf.ipv4(cf.udp(payload), **named)), ticks=seconds * 10**6, dropped=1)

    data = cf.section() + cf.description(name="eth0")
    data += one(10, b"1") + one(11, b"22") + one(11, b"x", source="10.0.0.2") + one(15, b"333") + one(16, b"4")
    data += one(9, b"unicast", group="10.9.9.9")
    with mcast.files.Reader(io.BytesIO(data)) as reader:
        summary = summarise("memory", reader)
    first, second = summary.flows
    assert (first.group, first.port, first.source, first.packets, first.bytes) == ("239.1.1.1", 5000, "10.0.0.1", 4, 7)
    assert (first.first, first.last, first.dropped) == (10 * SECOND, 16 * SECOND, 4)
    assert (first.largest_gap, first.largest_gap_at, first.rate) == (4 * SECOND, 11 * SECOND, 0.5)
    assert (second.source, second.packets, second.rate) == ("10.0.0.2", 1, None)
    assert (summary.form, summary.error, summary.stats.filtered) == ("pcapng", "", 1)


def test_a_torn_file_is_told_as_far_as_it_goes(backend):
    with mcast.files.Reader(io.BytesIO(written(some(5))[:-1])) as reader:
        summary = summarise("memory", reader)
    assert (summary.flows[0].packets, summary.stats.received) == (4, 4)
    assert "ends in the middle of a block" in summary.error


# ---- repair ----


@pytest.mark.parametrize("form", ["pcapng", "pcap"])
@pytest.mark.long
def test_a_file_that_was_cut_anywhere_becomes_readable(backend, tmp_path, form):
    whole = written(some(3, 20), form=form)
    path = tmp_path / f"torn.{form}"
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        (tmp_path / f"torn.{form}.cut").unlink(missing_ok=True)
        try:
            done = repair(str(path))
        except mcast.errors.CaptureError as error:
            assert error.offset == 0
            assert path.read_bytes() == whole[:size]
            continue
        assert done.kept + done.cut == size
        assert path.read_bytes() == whole[: done.kept]
        assert len(read(path.read_bytes())) == done.frames
        if done.cut:
            assert (tmp_path / f"torn.{form}.cut").read_bytes() == whole[done.kept : size]
            assert "middle of a block" in done.reason
        assert repair(str(path)).cut == 0


def test_what_is_behind_a_broken_block_is_kept_apart(backend, tmp_path):
    path = tmp_path / "torn.pcapng"
    good = written(some(2))
    path.write_bytes(good + bytes(100))
    assert repair(str(path)) == Repaired(
        str(path), len(good), 100, 2, "a block of type 0x0 has an absurd length, 0", f"{path}.cut"
    )


@pytest.mark.needs("modes of files")
def test_what_is_cut_off_is_its_owners_alone(backend, tmp_path):
    path = tmp_path / "torn.pcapng"
    path.write_bytes(written(some(2)) + bytes(100))
    repair(str(path))
    assert stat.S_IMODE((tmp_path / "torn.pcapng.cut").stat().st_mode) == 0o600


def test_an_output_leaves_the_file_as_it_is(backend, tmp_path):
    path, output = tmp_path / "torn.pcapng", tmp_path / "whole.pcapng"
    data = written(some(2))[:-9]
    path.write_bytes(data)
    done = repair(str(path), str(output))
    assert path.read_bytes() == data
    assert (done.frames, len(read(output.read_bytes())), done.remains) == (1, 1, "")
    with pytest.raises(mcast.errors.FileError, match="File exists"):
        repair(str(path), str(output))


# ---- CSV ----


def test_csv_reads_back_equal(mixed):
    file = io.BytesIO()
    assert convert([mixed], file, "csv") == len(mixed)
    assert file.getvalue().splitlines()[0].decode() == ",".join(COLUMNS)
    file.seek(0)
    file.name = "memory.csv"
    (back,) = open_batches(file, (), True)
    assert back.payloads() == mixed.payloads()
    assert [packet.interface for packet in back] == [packet.interface for packet in mixed]
    known = [
        (*row[:3], row[3] or len(payload), *row[4:]) for row, payload in zip(rows(mixed), mixed.payloads(), strict=True)
    ]
    assert [(*row[:-2], row[-2] if row[-3] & 2 else 7, row[-1] if row[-3] & 4 else 184) for row in rows(back)] == known


def test_csv_is_what_each_packet_says(mixed):
    """With names that need quotes, times before 1970, and everything unknown."""
    names = {1: "eth0", 2: 'a "b", c', 3: "d\ne"}
    odd = [RECORD.pack(time, 0, index, 7, 3, wire, bytes(16), b"\xff" * 16, 1, 65_535, flags, 9, 8)
           for time, index, wire, flags in [(-5, 1, 0, 0), (0, 2, 3, 2), (2**63 - 1, 3, 0, 1), (1, 0, 65_535, 6)]]  # fmt: skip
    for batch in (mixed, mixed[1:3], type(mixed).from_bytes(b"".join(odd), b"\x00\xff\n", names)):
        text = io.StringIO(newline="")
        rows_of_packets = csv.writer(text, lineterminator="\n")
        rows_of_packets.writerow(COLUMNS)
        for one in batch:
            addresses = one.source.partition("%")[0], one.source_port, one.group, one.port
            known = one.ttl, one.tos, one.dropped, one.wire_length, one.data.hex()
            rows_of_packets.writerow([one.timestamp, one.interface, *addresses, *known])
        file = io.BytesIO()
        convert([batch], file, "csv")
        assert file.getvalue() == text.getvalue().encode()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,,10.0.0.1,1,239.1.1.1,2,,,,,", "line 2: invalid literal"),
        ("1,,ten,1,239.1.1.1,2,,,,,", "line 2: 'ten' does not appear to be"),
        ("1,,10.0.0.1,70000,239.1.1.1,2,,,,,", "line 2: "),
        ("1,,10.0.0.1,1,239.1.1.1,2,,,,,abc", "line 2: "),
        ("1,,10.0.0.1", "line 2: its end is missing"),
        (f"1,,10.0.0.1,1,239.1.1.1,2,,,,,{'00' * 70_000}", "line 2: field larger than"),
    ],
)
def test_a_bad_row_is_told_by_its_line(backend, line, reason):
    file = io.BytesIO(f"{','.join(COLUMNS)}\n{line}\n".encode())
    file.name = "bad.csv"
    with pytest.raises(mcast.errors.CaptureError, match=f"bad.csv, .*{reason}"):
        list(open_batches(file, (), True))


def test_columns_that_are_missing_are_named(backend):
    for data in (b"time,source\n1,2\n", b"time,source\n", b""):
        file = io.BytesIO(data)
        file.name = "bad.csv"
        with pytest.raises(mcast.errors.CaptureError, match="columns are missing: timestamp, interface"):
            list(open_batches(file, (), True))


@pytest.mark.needs("process limits")
@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "parquet"])
def test_a_full_disk_is_an_error_of_the_target_and_leaves_whole_rows(backend, tmp_path, suffix):
    """Half a row would be read as another one."""
    import resource
    import signal

    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    target = tmp_path / f"b.{suffix}"
    payloads = [random.Random(at).randbytes(500) for at in range(50)]
    batch = batch_of(*((record(one), one) for one in payloads))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if suffix == "parquet" else 500_000, before[1]))
    try:
        with pytest.raises(mcast.errors.FileError, match=rf"write .*b\.{suffix}: "):
            convert([batch] * 50, target, form_of(target, None))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    if suffix == "csv":
        lines = target.read_text().split("\n")
        assert lines.pop() == ""
        assert [line.rpartition(",")[2] for line in lines[1:]] == [one.hex() for one in payloads] * 9
    elif suffix == "parquet":
        assert not target.stat().st_size


@pytest.mark.long
@pytest.mark.parametrize("through", ["csv", "pcapng", "pcap", "csv.gz", "pcapng.gz"])
def test_any_form_converts_to_any_other(backend, tmp_path, through):
    start, middle, end = tmp_path / "a.pcapng", tmp_path / f"b.{through}", tmp_path / "c.pcapng"
    with mcast.files.Writer(start) as writer:
        writer.write(some(600))
    for source, target in ((start, middle), (middle, end)):
        assert convert_file(source, target, form_of(target, None)).packets == 600
    whole = read(end.read_bytes())
    assert (rows(whole), whole.payloads()) == (rows(some(600)), some(600).payloads())


def test_what_is_converted_of_a_torn_file_is_written(backend, tmp_path):
    torn, target = tmp_path / "a.pcapng", tmp_path / "b.pcap"
    torn.write_bytes(written(some(5))[:-1])
    with pytest.raises(mcast.errors.CaptureError):
        convert_file(torn, target, "pcap")
    assert len(read(target.read_bytes())) == 4


def test_a_suffix_that_tells_nothing_is_refused_with_the_remedy():
    with pytest.raises(mcast.ArgumentError, match=r"the suffix names no form; .*--to pcapng\|pcap"):
        form_of("feed.txt", None)


# ---- Arrow ----


def expected(batch):
    """The columns of a batch as Python sees them."""
    return {
        "timestamp": [packet.timestamp for packet in batch],
        "source": [packet.source.partition("%")[0] for packet in batch],
        "source_port": [packet.source_port for packet in batch],
        "group": [packet.group for packet in batch],
        "port": [packet.port for packet in batch],
        "interface": [packet.interface for packet in batch],
        "dropped": [packet.dropped for packet in batch],
        "wire_length": [packet.wire_length for packet in batch],
        "truncated": [packet.truncated for packet in batch],
        "ttl": [packet.ttl for packet in batch],
        "tos": [packet.tos for packet in batch],
        "payload": batch.payloads(),
    }


def plain(table):
    pyarrow = pytest.importorskip("pyarrow")
    times = table["timestamp"].cast(pyarrow.int64())
    return {name: (times if name == "timestamp" else table[name]).to_pylist() for name in table.schema.names}


def test_parquet_holds_every_column(mixed, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "feed.parquet"
    assert convert([mixed, mixed[:2]], path, "parquet") == len(mixed) + 2
    table = parquet.read_table(path)
    wanted = expected(mixed)
    assert plain(table) == {name: values + values[:2] for name, values in wanted.items()}


def test_parquet_of_nothing_has_the_columns(backend, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    convert([], tmp_path / "feed.parquet", "parquet")
    assert parquet.read_table(tmp_path / "feed.parquet").schema.names[-1] == "payload"
