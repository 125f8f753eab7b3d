"""The verbs of capture files: info, convert, repair."""

import json
import subprocess
import sys

import pytest

import mcast_fast as mcast
from mcast_fast.files import _summary
from tests import capture_files as cf
from tests.test_cli import environment, invoke
from tests.test_pcapng import batch_of, read, record, some, written


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


def test_names_of_a_file_do_not_control_the_terminal(backend, tmp_path):
    path = tmp_path / "hostile.pcapng"
    path.write_bytes(cf.section() + cf.description(name="\x1b]0;PWNED\x07") + cf.packet(cf.datagram()))
    out = invoke("info", path).stdout
    assert "\x1b" not in out
    assert "\\x1b]0;PWNED\\x07" in out


def test_a_summary_of_any_number_of_flows_is_bounded(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(_summary, "MOST_FLOWS", 3)
    path = tmp_path / "many.pcap"
    frames = [cf.datagram(group=f"239.1.1.{number % 9}") for number in range(27)]
    path.write_bytes(cf.pcap(*((1, number, frame, len(frame)) for number, frame in enumerate(frames))))
    with mcast.open(path) as reader:
        flows = _summary.summarise("many", reader).flows
    assert [(flow.group, flow.packets) for flow in flows] == [*((f"239.1.1.{n}", 3) for n in range(3)), ("others", 18)]


@pytest.mark.needs("symbolic links")
def test_a_file_is_not_its_own_target(backend, tmp_path):
    path, link = tmp_path / "feed.pcapng", tmp_path / "link.pcapng"
    path.write_bytes(written(some()))
    link.symlink_to(path)
    for target in (path, link):
        done = invoke("convert", path, target)
        assert (done.exit_code, path.read_bytes()) == (2, written(some()))
        assert "is its own target" in done.stderr


def test_what_is_not_converted_is_reported_by_name(backend, tmp_path):
    path, target = tmp_path / "mixed.pcap", tmp_path / "out.csv"
    frames = [cf.datagram(), bytes(60), cf.ethernet(cf.ipv4(cf.udp(), total=19)), bytes(60)]
    path.write_bytes(cf.pcap(*((1, number, frame, len(frame)) for number, frame in enumerate(frames))))
    done = invoke("convert", path, target, "--fail-on-loss")
    assert (done.exit_code, done.stderr) == (
        3,
        "mcast-fast: converted 1 packets to csv; not converted: skipped 2, broken 1\n",
    )
    done = invoke("convert", path, target, "--json")
    assert (done.exit_code, json.loads(done.stderr)) == (
        0,
        {"packets": 1, "fragments": 0, "skipped": 2, "broken": 1},
    )


def test_merge_says_what_was_merged(feed, tmp_path):
    target = tmp_path / "out.pcapng"
    result = invoke("merge", feed, feed, "-w", target)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "mcast-fast: merged 22 blocks of 2 files and 2 interfaces\n"
    assert len(read(target.read_bytes())) == 22
    result = invoke("merge", feed, feed, "-w", target, "--json")
    assert json.loads(result.stderr)["blocks"] == 22
    assert invoke("merge", feed, "-w", feed).exit_code == 2
    feed.write_bytes(feed.read_bytes()[:-2])
    result = invoke("merge", feed, "-w", target)
    assert result.exit_code == 1
    assert "mcast-fast repair" in result.stderr


def test_merge_reports_what_is_left_out(backend, tmp_path):
    path = tmp_path / "a.pcapng"
    path.write_bytes(cf.section() + cf.block("<", 0x40000BAD, b"none"))
    result = invoke("merge", path, "-w", tmp_path / "out.pcapng", "--fail-on-loss")
    assert (result.exit_code, result.stderr) == (
        3,
        "mcast-fast: merged 0 blocks of 1 files and 0 interfaces; left out 1\n",
    )
