"""The verbs of capture files: info, convert, repair."""

import json
import subprocess
import sys

import pytest

import mcast_fast as mcast
from tests.test_cli import environment, invoke
from tests.test_pcapng import batch_of, read, record, some


@pytest.fixture
def feed(backend, tmp_path):
    """A file with one flow of each family."""
    path = tmp_path / "feed.pcapng"
    six = b"six"
    with mcast.files.Writer(path) as writer:
        writer.write(some(10))
        writer.write(batch_of((record(six, v6=True, dropped=3), six)))
    return path


def test_info_tells_every_flow(feed):
    result = invoke("info", feed)
    assert (result.exit_code, result.stderr) == (0, "")
    v4, v6 = result.stdout.splitlines()[1:3]
    assert v4.split()[:6] == [
        "239.1.1.1:5000", "10.0.0.1", "10", "2560", "2023-11-14T22:13:20.123456789Z", "2023-11-14T22:13:20.123456798Z",
    ]  # fmt: skip
    assert v6.split()[:4] == ["[ff15::1]:5000", "fe80::1%eth0", "1", "3"]
    assert "pcapng, interfaces eth0" in result.stdout
    assert "received 11, bytes 2563, truncated 0" in result.stdout


def test_info_as_json(feed):
    told = json.loads(invoke("info", feed, "--json", "239.1.1.1:5000").stdout)
    assert (told["form"], told["received"], told["filtered"], told["error"]) == ("pcapng", 10, 1, None)
    (flow,) = told["flows"]
    assert (flow["group"], flow["packets"], flow["largest_gap"]) == ("239.1.1.1", 10, 1)


@pytest.mark.long
def test_info_of_standard_input(feed):
    program = [sys.executable, "-m", "mcast_fast", "info", "-", "--json"]
    with feed.open("rb") as file:
        result = subprocess.run(
            program, stdin=file, env=environment("pure"), capture_output=True, check=True, timeout=30
        )
    assert json.loads(result.stdout)["received"] == 11


def test_info_of_a_torn_file_tells_what_there_is_and_exits_1(feed):
    feed.write_bytes(feed.read_bytes()[:-2])
    result = invoke("info", feed)
    assert result.exit_code == 1
    assert "received 10" in result.stdout
    assert "ends in the middle of a block" in result.stderr
    assert "mcast-fast repair" in result.stderr


@pytest.mark.parametrize("name", ["nowhere.pcapng", "."])
def test_a_file_that_cannot_be_read_is_one_line(backend, tmp_path, name):
    result = invoke("info", tmp_path / name)
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("mcast-fast: ")


def test_convert_tells_how_many(feed, tmp_path):
    target = tmp_path / "feed.pcap"
    result = invoke("convert", feed, target, "-g", "239.1.1.1")
    assert (result.exit_code, result.stderr) == (0, "mcast-fast: converted 10 packets to pcap\n")
    assert len(read(target.read_bytes())) == 10


@pytest.mark.long
def test_convert_through_a_pipe(feed):
    program = [sys.executable, "-m", "mcast_fast", "convert", "-", "-", "--to", "csv"]
    result = subprocess.run(
        program, input=feed.read_bytes(), env=environment("pure"), capture_output=True, check=True, timeout=30
    )
    assert len(result.stdout.splitlines()) == 12


def test_convert_of_no_known_form_is_a_usage_error(feed):
    result = invoke("convert", feed, "-")
    assert result.exit_code == 2
    assert "--to" in result.stderr


@pytest.mark.parametrize("form", ["pcapng", "pcap", "csv", "parquet"])
def test_convert_to_a_full_device_exits_1(feed, form):
    if form == "parquet":
        pytest.importorskip("pyarrow")
    result = invoke("convert", feed, "/dev/full", "--to", form)
    assert result.exit_code == 1
    assert "write /dev/full: No space left on device" in result.stderr


def test_repair_says_what_was_cut(feed):
    size = feed.stat().st_size
    feed.write_bytes(feed.read_bytes()[:-2])
    result = invoke("repair", feed)
    assert result.exit_code == 0
    assert f"{feed}: " in result.stdout
    assert (
        f"with 10 packets were kept; {size - 2 - feed.stat().st_size} bytes were cut and kept in {feed}.cut"
        in result.stdout
    )
    assert "nothing was cut" in invoke("repair", feed).stdout
    assert json.loads(invoke("repair", feed, "--json").stdout)["frames"] == 10


def test_repair_of_what_is_no_capture_exits_1(backend, tmp_path):
    path = tmp_path / "no.pcapng"
    path.write_bytes(b"nothing of the kind")
    result = invoke("repair", path)
    assert (result.exit_code, path.read_bytes()) == (1, b"nothing of the kind")
    assert "neither pcapng nor pcap" in result.stderr
