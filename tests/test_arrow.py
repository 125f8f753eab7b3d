"""Batches and files for other libraries, through the Arrow C interfaces: the columns, and how long they live."""

import gc
import importlib
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import _core
from mcast_fast._core.layout import RECORD, V4_MAPPED
from tests.conftest import has_fast
from tests.test_captures import a_batch_of_every_kind, expected, plain
from tests.test_pcapng import NOW, some


@pytest.fixture
def mixed(backend):
    return a_batch_of_every_kind()


@pytest.mark.parametrize("part", [slice(None), slice(1, 4), slice(2, 3), slice(0, 0)])
def test_pyarrow_takes_a_batch(mixed, part):
    pyarrow = pytest.importorskip("pyarrow")
    batch = mixed[part]
    table = pyarrow.record_batch(batch)
    table.validate(full=True)
    assert plain(table) == expected(batch)
    assert str(table.schema.field("timestamp").type) == "timestamp[ns, tz=UTC]"


def test_payloads_that_do_not_follow_each_other_are_taken_too(backend):
    pyarrow = pytest.importorskip("pyarrow")
    whole = some(4, 10)
    records = bytes(whole.records)
    swapped = type(whole).from_bytes(records[128:192] + records[:64] + records[192:], bytes(whole.data), whole.names)
    assert pyarrow.record_batch(swapped)["payload"].to_pylist() == swapped.payloads()


def test_a_table_outlives_its_batch(backend):
    pyarrow = pytest.importorskip("pyarrow")
    batch = some(100)
    wanted = batch.payloads()
    table = pyarrow.table(batch)
    del batch
    gc.collect()
    for _ in range(20):
        some(100, 255)
    assert table["payload"].to_pylist() == wanted


# The schema, spelled out: a change of it is a change of every Parquet file that was written.
TEXTS = "dictionary<values=string, indices=int32, ordered=0>"
SCHEMA = [
    ("timestamp", "timestamp[ns, tz=UTC]", True),
    ("source", TEXTS, False),
    ("source_port", "uint16", False),
    ("group", TEXTS, False),
    ("port", "uint16", False),
    ("interface", TEXTS, False),
    ("dropped", "uint32", False),
    ("wire_length", "uint16", True),
    ("truncated", "bool", False),
    ("ttl", "uint8", True),
    ("tos", "uint8", True),
    ("payload", "large_binary", False),
]


@pytest.mark.parametrize("part", [slice(None), slice(0, 0)])
def test_the_schema_is_the_same_for_every_batch(mixed, part):
    pyarrow = pytest.importorskip("pyarrow")
    schema = pyarrow.record_batch(mixed[part]).schema
    assert [(field.name, str(field.type), field.nullable) for field in schema] == SCHEMA
    assert schema.metadata is None


def test_both_backends_export_the_same_columns():
    """Of many sources, groups and interfaces, in no order; addresses of every kind of text."""
    pyarrow = pytest.importorskip("pyarrow")
    if missing := has_fast():
        pytest.skip(f"feature fast: {missing}")
    generator = random.Random(1)
    addresses = [generator.randbytes(16) for _ in range(100)] + [V4_MAPPED + generator.randbytes(4) for _ in range(100)]
    addresses += [
        bytes(16),
        bytes(15) + b"\1",
        bytes(12) + b"\1\2\3\4",
        b"\0\1" * 8,
        b"\0\0\0\1" * 4,
        b"\x20\1" + bytes(14),
    ]
    addresses += [
        bytes(2) + b"\1" * 14,
        b"\1" * 14 + bytes(2),
        b"\1" * 4 + bytes(4) + b"\1" * 2 + bytes(6),
        V4_MAPPED + bytes(4),
    ]
    rows = b"".join(
        RECORD.pack(
            generator.choice((0, NOW, -5)), 0, generator.randrange(4), generator.randrange(2**32), 9, generator.choice((0, 9)),
            generator.choice(addresses), generator.choice(addresses), generator.randrange(2**16), generator.randrange(2**16),
            generator.randrange(32), generator.randrange(256), generator.randrange(256),
        )
        for _ in range(2003)
    )  # fmt: skip
    fast, pure = (
        importlib.import_module(f"mcast_fast._core.{name}.views").Batch.from_bytes(
            rows, b"payload..", {1: "eth0", 2: "ü"}
        )
        for name in ("fast", "pure")
    )
    for part in (slice(None), slice(1000, 1009)):
        tables = [pyarrow.record_batch(one[part]) for one in (fast, pure)]
        for table in tables:
            table.validate(full=True)
        assert tables[0].equals(tables[1], check_metadata=True)
        texts = [tables[0][name].dictionary.to_pylist() for name in ("source", "group", "interface")]
        assert texts == [tables[1][name].dictionary.to_pylist() for name in ("source", "group", "interface")]


def test_a_column_outlives_its_table(mixed):
    pyarrow = pytest.importorskip("pyarrow")
    wanted = mixed.payloads(), [packet.group for packet in mixed]
    table = pyarrow.record_batch(mixed)
    columns = table["payload"], table["group"]
    del table, mixed
    gc.collect()
    some(100, 255)
    assert tuple(column.to_pylist() for column in columns) == wanted


@pytest.mark.long
@pytest.mark.needs("process limits")
@pytest.mark.parametrize("gaps", [False, True])
def test_what_is_released_is_freed(backend, gaps):
    pyarrow = pytest.importorskip("pyarrow")
    resource = pytest.importorskip("resource")
    records, data = bytes(some(1000, 4000).records), bytes(4_000_000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(100):
        whole = _core.views.Batch.from_bytes(records[64:] + records[:64] if gaps else records, data, {})
        table = pyarrow.record_batch(whole)
        column = table["payload"]
        del whole, table
        assert len(column) == 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB, of 400,000 that were exported


ENDS = {
    "global": "keep = table",
    "cycle": "class A: pass\na = A(); a.table, a.self = table, a; del table",
    "sys": "sys.keep = table; del table",
    "module": "import builtins; builtins.keep = table; del table",
    "column": "sys.keep = table.column('payload') if hasattr(table, 'column') else table; del table",
    "thread": "threading.Thread(target=lambda kept: time.sleep(100), args=(table,), daemon=True).start(); del table",
}
EXIT = """
import sys, threading, time
import pyarrow, mcast_fast
from tests.test_pcapng import some
table = {made}
{end}
print(mcast_fast.backend)
"""
MADE = {
    "batch": "pyarrow.record_batch(some(1000))",
    "capsules": "some(1000).__arrow_c_array__()",
    "stream": "pyarrow.RecordBatchReader.from_stream(mcast_fast.open({path!r}))",
    "stream capsule": "mcast_fast.open({path!r}).__arrow_c_stream__()",
}


@pytest.mark.parametrize("made", MADE)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.long
def test_the_interpreter_ends_well_whoever_holds_arrays(backend, tmp_path, made, end):
    pytest.importorskip("pyarrow")
    path = str(tmp_path / "feed.pcapng")
    with mcast.files.Writer(path) as writer:
        writer.write(some(3000))
    code = EXIT.format(made=MADE[made].format(path=path), end=ENDS[end])
    environment = os.environ | {"MCAST_FAST_BACKEND": backend}
    ended = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, f"{backend}\n", "")


def test_the_pure_backend_names_the_remedy_where_pyarrow_is_missing(monkeypatch):
    views = importlib.import_module("mcast_fast._core.pure.views")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(mcast.FeatureError, match=r"pip install 'mcast-fast\[arrow\]'"):
        views.Batch.from_bytes(b"", b"", {}).__arrow_c_array__()
    with pytest.raises(mcast.FeatureError, match="pyarrow"):
        views.arrow_stream([])


# ---- a file as a stream ----


def test_a_reader_is_a_table(backend, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    with mcast.files.Writer(tmp_path / "feed.pcapng") as writer:
        writer.write(some(1000))
    with mcast.open(tmp_path / "feed.pcapng", batch_size=300) as reader:
        first = reader.recv()
        table = pyarrow.table(reader)
    assert [(field.name, str(field.type), field.nullable) for field in table.schema] == SCHEMA
    assert (table.num_rows, table.column("payload").num_chunks) == (999, 4)
    assert [first.data, *table["payload"].to_pylist()] == some(1000).payloads()
    with pytest.raises(mcast.ClosedError):
        pyarrow.table(reader)


def test_polars_takes_a_reader(backend, tmp_path):
    polars = pytest.importorskip("polars")
    with mcast.files.Writer(tmp_path / "feed.pcapng") as writer:
        writer.write(some(1000))
    with mcast.open(tmp_path / "feed.pcapng", batch_size=300) as reader:
        frame = polars.DataFrame(reader)
    assert (len(frame), set(frame["group"].to_list())) == (1000, {"239.1.1.1"})


def test_an_empty_file_is_an_empty_table(backend, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    mcast.files.Writer(tmp_path / "feed.pcapng").close()
    with mcast.open(tmp_path / "feed.pcapng") as reader:
        table = pyarrow.table(reader)
    assert (table.num_rows, [(one.name, str(one.type), one.nullable) for one in table.schema]) == (0, SCHEMA)


def test_what_is_wrong_with_a_file_reaches_the_consumer_of_its_stream(backend, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "torn.pcapng"
    with mcast.files.Writer(path) as writer:
        writer.write(some(1000))
    path.write_bytes(path.read_bytes()[:-3])
    with mcast.open(path, batch_size=100) as reader:
        stream = pyarrow.RecordBatchReader.from_stream(reader)
        rows = 0
        with pytest.raises((mcast.errors.CaptureError, pyarrow.ArrowInvalid), match="middle of a block"):
            while True:
                rows += stream.read_next_batch().num_rows
    assert rows == 999


def test_polars_takes_a_batch(mixed):
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(mixed)
    assert frame["payload"].to_list() == mixed.payloads()
    assert frame["group"].to_list() == [packet.group for packet in mixed]


def test_duckdb_takes_a_batch(mixed):
    duckdb = pytest.importorskip("duckdb")
    pyarrow = pytest.importorskip("pyarrow")
    packets = pyarrow.table(mixed)
    assert packets.num_rows == len(mixed)
    found = duckdb.sql('select "group", sum(octet_length(payload))::int from packets group by 1 order by 1').fetchall()
    assert found == [("239.1.1.1", sum(map(len, mixed.payloads())) - 3), ("ff15::1", 3)]


@pytest.mark.long
def test_the_c_of_it_needs_no_python(tmp_path):
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("feature C compiler: this system has none")
    c = Path(mcast.__file__).parent / "_core" / "c"
    program = tmp_path / "arrow"
    flags = ["-std=c11", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined", f"-I{c}"]
    built = subprocess.run(
        [compiler, *flags, Path(__file__).with_name("arrow.c"), c / "arrow.c", "-o", program],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    ended = subprocess.run([program], check=False, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
