"""Parquet on an S3 server of this machine (moto), read back by DuckDB and polars."""

import logging

import pytest

from mcast_fast import cluster, errors, files
from mcast_fast.errors import MulticastWarning
from tests.test_cluster_files import manifested, stream, two_hosts, write  # noqa: F401 - a fixture

pytest.importorskip("pyarrow.fs")
server = pytest.importorskip("moto.server")
pytestmark = [
    pytest.mark.weekly,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning"),
]


@pytest.fixture
def bucket(monkeypatch):
    """(where the server is, its file system, the name of a bucket that is empty)."""
    from pyarrow import fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    for name, value in {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "REGION": "us-east-1"}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    s3 = fs.S3FileSystem(
        access_key="a", secret_key="b", endpoint_override=f"{host}:{port}", scheme="http", allow_bucket_creation=True
    )
    name = f"captures-{port}"  # polars keeps what it knows of a bucket by its name
    s3.create_dir(name)
    yield f"{host}:{port}", s3, name
    running.stop()


def rows_of(captures):
    """What the files have: (host, time, payload)."""
    return sorted(
        (file.host, one.timestamp, one.data)
        for file in captures.files
        for batch in files.scan(file.path)
        for one in batch
    )


def test_parquet_on_s3_is_what_the_files_have(two_hosts, bucket, tmp_path):  # noqa: F811
    endpoint, s3, name = bucket
    captures = cluster.open([two_hosts / "a", two_hosts / "b"])
    done = captures.to_parquet(f"s3://{name}/day?endpoint_override={endpoint}&scheme=http")
    assert (done.files, done.packets) == (4, 997 + 2398)
    expected = rows_of(captures)

    import polars

    options = {"aws_access_key_id": "a", "aws_secret_access_key": "b", "aws_region": "us-east-1"}
    options |= {"aws_endpoint_url": f"http://{endpoint}", "aws_allow_http": "true"}
    frame = polars.read_parquet(f"s3://{name}/day/*.parquet", storage_options=options)
    times = frame["timestamp"].to_physical()
    assert sorted(zip(frame["host"].cast(polars.String), times, frame["payload"], strict=True)) == expected

    import duckdb
    from pyarrow import fs

    (tmp_path / "day").mkdir()
    fs.copy_files(f"{name}/day", str(tmp_path / "day"), source_filesystem=s3)  # DuckDB's own S3 is an extension
    query = f"select host, epoch_ns(timestamp), payload from read_parquet('{tmp_path / 'day' / '*.parquet'}')"
    assert sorted(duckdb.sql(query).fetchall()) == expected


def test_a_bucket_that_is_not_there_is_said(two_hosts, bucket):  # noqa: F811
    endpoint, _, _ = bucket
    captures = cluster.open(two_hosts / "a")
    with pytest.warns(MulticastWarning):
        done = captures.to_parquet(f"s3://nowhere/day?endpoint_override={endpoint}&scheme=http")
    assert done.files == 0
    assert [one.kind for one in captures.problems] == ["unreadable"] * 2
    with pytest.raises(errors.ArgumentError):
        captures.to_parquet("s3://")
