"""`mcast-fast record` as a program: signals, pipes, full disks, privileges, exit codes."""

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast.errors import CaptureError
from mcast_fast.files import _index
from tests import lab
from tests.conftest import Place, free_port, loopback
from tests.test_cli import environment, invoke, program_backend  # noqa: F401
from tests.test_recorder import numbered, numbers, until

WRITTEN = re.compile(r"written (\d+)")


@pytest.fixture
def tx(group):
    with mcast.Sender(group, ttl=0, rate="20k/s") as sender:
        yield sender


@pytest.fixture
def record(program_backend, group):  # noqa: F811
    """`record(*arguments)` starts the verb, and returns when it records."""
    started = []

    def start(*arguments, **options):
        argv = [sys.executable, "-m", "mcast_fast", "record", group, *map(str, arguments)]
        program = lab.Program(argv, env=environment(program_backend), **options)
        started.append(program)
        program.expect("recording ", timeout=20)
        return program

    yield start
    for program in started:
        program.stop()


def ended(program, code=0):
    """What a program printed that ends by itself."""
    program.process.wait(20)
    output = program.stop()
    assert program.process.returncode == code, output
    return output


def summary(output):
    """The last summary in an output, as a dictionary of texts."""
    line = next(line for line in reversed(output.splitlines()) if "written " in line)
    pairs = (pair.split(" ", 1) for pair in line.partition(": ")[2].split(", "))
    return {name: value.replace(",", "") for name, value in pairs}


@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.long
def test_a_signal_ends_it_with_everything_written(record, tx, tmp_path, number):
    path = tmp_path / "feed.pcapng"
    program = record("-w", path)
    tx.send_batch(numbered(3000))
    program.process.send_signal(number)
    told = summary(ended(program))
    assert numbers(path) == list(range(3000))
    assert (told["received"], told["written"], told["dropped_socket"]) == ("3000", "3000", "0")
    assert told["bytes"] == str(path.stat().st_size)


@pytest.mark.needs("receive_ttl", "receive_tos", "dscp")
@pytest.mark.parametrize("link", ["ethernet", "raw"])
@pytest.mark.long
def test_a_recording_of_sockets_has_the_true_ttl_and_tos(record, group, tmp_path, link):
    path = tmp_path / "feed.pcapng"
    program = record("-w", path, "--link", link, "-c", 1)
    with mcast.Sender(group, ttl=7, dscp=46) as sender:
        sender.send(b"marked")
    ended(program)
    with mcast.open(path) as reader:
        (packet,) = reader.collect(9)
        assert (packet.data, packet.ttl, packet.tos) == (b"marked", 7, 184)
        assert [(one.synthetic, one.link_type) for one in reader.interfaces] == [(True, 101 if link == "raw" else 1)]


@pytest.mark.needs("signals to processes", "named pipes")
@pytest.mark.long
def test_a_second_signal_aborts(record, tx, tmp_path):
    """The first one cannot be obeyed, for nobody reads the pipe."""
    path = tmp_path / "fifo.pcapng"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        program = record("-w", path, "--background", "none")
        tx.send_batch(numbered(2000))
        until(lambda: "S" in Path(f"/proc/{program.process.pid}/status").read_text().split("State:")[1][:5])
        program.process.send_signal(signal.SIGINT)
        time.sleep(0.3)  # nothing tells that it was not obeyed
        assert program.process.poll() is None
        program.process.send_signal(signal.SIGTERM)
        assert program.process.wait(10) == -signal.SIGTERM
    finally:
        os.close(reading)


@pytest.mark.long
@pytest.mark.needs("signals to processes")
def test_sigusr1_prints_and_sigusr2_flushes(record, tx, tmp_path):
    path = tmp_path / "feed.pcapng"
    program = record("-w", path, "--flush-interval", "1h")
    tx.send_batch(numbered(10))
    until(lambda: told(program)["received"] == "10")
    program.process.send_signal(signal.SIGUSR2)
    until(lambda: told(program)["written"] == "10")
    assert numbers(path) == list(range(10))
    program.process.send_signal(signal.SIGINT)
    ended(program)


def told(program):
    program.process.send_signal(signal.SIGUSR1)
    program.expect("written ")
    return summary(program.output)


@pytest.mark.needs("signals to processes")
@pytest.mark.long
def test_sighup_rotates_or_ends(record, tx, tmp_path):
    program = record("-w", tmp_path / "feed.pcapng", "-b", "filesize:64MiB", "-b", "printname:stderr", "-U")
    tx.send_batch(numbered(10))
    until(lambda: told(program)["written"] == "10")
    program.process.send_signal(signal.SIGHUP)
    program.expect("feed_00001_")
    tx.send_batch(numbered(10, 10))
    program.process.send_signal(signal.SIGINT)
    ended(program)
    assert [len(numbers(path)) for path in sorted(tmp_path.iterdir())] == [10, 10]
    program = record("-w", tmp_path / "one.pcapng")
    program.process.send_signal(signal.SIGHUP)
    ended(program)


@pytest.mark.needs("large buffers")
@pytest.mark.needs("signals to processes")
@pytest.mark.long
def test_what_was_flushed_before_kill_9_is_readable(record, tx, tmp_path):
    chance = random.Random(7)
    for turn in range(3):
        path = tmp_path / f"feed{turn}.pcapng"
        program = record("-w", path, "-U")
        thread = threading.Thread(target=tx.send_batch, args=(numbered(10_000),))
        thread.start()
        time.sleep(chance.uniform(0.05, 0.4))
        written = int(told(program)["written"])
        program.process.kill()
        thread.join()
        program.process.wait(10)
        found = readable(path)
        assert found == sorted(set(found))  # a slow machine drops some, which are in no file
        assert len(found) >= written
        if shutil.which("tshark"):
            done = subprocess.run(["tshark", "-r", path], capture_output=True, text=True, check=False)
            assert len(done.stdout.splitlines()) == len(found)


def readable(path):
    found = []
    with mcast.open(path) as reader:
        try:
            for batch in reader:
                found += [int.from_bytes(packet.data[:4], "big") for packet in batch]
        except CaptureError as torn:
            assert "ends in the middle of a block" in str(torn)
    return found


# ---- where it goes ----


@pytest.mark.long
def test_standard_output_is_a_capture(group, tx, program_backend):  # noqa: F811
    argv = [sys.executable, "-m", "mcast_fast", "record", group, "-w", "-", "-c", "500", "--json"]
    with subprocess.Popen(
        argv, env=environment(program_backend), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as program:
        assert program.stderr.readline().startswith(b"mcast-fast: recording ")
        tx.send_batch(numbered(500))
        with mcast.files.Reader(program.stdout) as reader:
            came = [packet.data for batch in reader for packet in batch]
        assert came == numbered(500)
        told = json.loads(program.stderr.read())
        assert (told["written"], told["reason"], program.wait(10)) == (500, "packets", 0)


@pytest.mark.long
@pytest.mark.needs("broken pipes")
def test_a_closed_pipe_is_exit_1_and_one_clear_line(group, tx, program_backend):  # noqa: F811
    argv = [sys.executable, "-m", "mcast_fast", "record", group, "-w", "-", "-U"]
    with subprocess.Popen(
        argv, env=environment(program_backend), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as program:
        program.stderr.readline()
        program.stdout.close()
        tx.send_batch(numbered(500))
        errors = program.stderr.read()
        assert program.wait(10) == 1
    assert re.search(
        r"mcast-fast: write <stdout>: Broken pipe \(32\); the reader of the pipe is gone; \d+ pack", errors
    )
    assert "Traceback" not in errors


@pytest.mark.long
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="feature /dev/full: this system has none")
def test_a_full_device_is_exit_1(record, tx):
    program = record("-w", "/dev/full")
    tx.send_batch(numbered(500))
    output = ended(program, 1)
    assert "write /dev/full: No space left on device (28)" in output
    assert "0 packets, 0 bytes are in the file" in output
    assert re.search(r"\d+ packets received and not written", output)


@pytest.mark.needs("users")
@pytest.mark.long
def test_a_full_tmpfs_leaves_a_readable_file(record, tx, tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", tmp_path]
    if os.geteuid() != 0 or subprocess.run(mount, check=False).returncode:
        pytest.skip("feature mount: a file system of a known size needs root")
    try:
        path = tmp_path / "feed.pcapng"
        program = record("-w", path)
        tx.send_batch(numbered(3000))
        output = ended(program, 1)
        found = numbers(path)
        assert found == list(range(len(found)))
        assert f"{len(found)} packets, {path.stat().st_size} bytes are in the file" in output
        assert summary(output)["written"] == str(len(found))
        path.unlink()
        program = record("-w", path, "--reserve", "128KiB")
        tx.send_batch(numbered(3000))
        output = ended(program, 1)
        assert "and the reserve is 131072" in output
        assert shutil.disk_usage(tmp_path).free >= 128 * 1024
        assert len(numbers(path)) == int(summary(output)["written"])
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.long
@pytest.mark.needs("users")
def test_root_is_dropped(record, tx, tmp_path):
    if os.geteuid() != 0:
        pytest.skip("feature setuid: needs root")
    with tempfile.TemporaryDirectory() as name:  # pytest's own are closed to others
        directory = Path(name)
        shutil.chown(directory, "nobody")
        program = record("-w", directory / "feed.pcapng", "-Z", "nobody", "-c", "100")
        status = Path(f"/proc/{program.process.pid}/status").read_text()
        assert re.search(r"Uid:\t65534\t65534\t65534\t65534", status)
        tx.send_batch(numbered(100))
        ended(program)
        assert numbers(directory / "feed.pcapng") == list(range(100))
        assert (directory / "feed.pcapng").owner() == "nobody"


# ---- exit codes and usage ----


@pytest.mark.long
def test_nothing_came_is_exit_4(backend, group, tmp_path):
    result = invoke("record", group, "-w", tmp_path / "feed.pcapng", "-t", "0.2")
    assert result.exit_code == 4
    assert "nothing came within 0.2 s" in result.stderr


@pytest.mark.long
@pytest.mark.needs("signals to processes")
def test_loss_is_exit_3_when_asked(record, tmp_path, group):
    program = record("-w", tmp_path / "feed.pcapng", "--fail-on-loss", "--buffer", "8KiB", "--background", "none")
    program.process.send_signal(signal.SIGSTOP)
    with mcast.Sender(group, ttl=0) as tx:
        tx.send_batch(numbered(1000))
    program.process.send_signal(signal.SIGCONT)
    until(lambda: int(told(program)["received"]) > 0)
    program.process.send_signal(signal.SIGINT)
    program.process.wait(10)
    told_at_last = summary(program.stop())
    if told_at_last["dropped_socket"] == "n/a":
        pytest.skip("feature drop_totals: this system cannot tell")
    assert int(told_at_last["written"]) + int(told_at_last["dropped_socket"]) == 1000
    assert program.process.returncode == 3


@pytest.mark.needs("large buffers")
@pytest.mark.long
def test_finished_files_get_an_index(record, tx, tmp_path):
    program = record("-w", tmp_path / "feed.pcapng", "-b", "packets:100", "-b", "files:2", "-c", 500, "--index")
    tx.send_batch(numbered(500))
    ended(program)
    paths = sorted(tmp_path.glob("*.pcapng"))
    assert len(paths) == 2
    assert sorted(tmp_path.iterdir()) == sorted([*paths, *(Path(f"{path}.mcast-index") for path in paths)])
    for path in paths:
        assert _index.stored(str(path)).chunks[-1].end == path.stat().st_size


@pytest.mark.needs("large buffers")
@pytest.mark.long
def test_tcpdump_s_names_of_rotation(record, tx, tmp_path):
    names = tmp_path / "names"
    program = record("-w", tmp_path / "feed.pcap", "-C", "50kB", "-W", "2", "-b", f"printname:{names}", "-c", "1000")
    tx.send_batch(numbered(1000))
    ended(program)
    files = sorted(tmp_path.glob("*.pcap"))
    assert names.read_text().splitlines()[-2:] == [str(path) for path in files]
    assert numbers(*files)[-1] == 999
    program = record("-w", tmp_path / "g.pcapng", "-G", "0.2", "-W", "3")
    ended(program)
    assert len(list(tmp_path.glob("g_*.pcapng"))) == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-b", "filesize:64"], "give a number and a unit"),
        (["-C", "100"], "give a number and a unit"),
        (["-b", "size:1MiB"], "is not one of: duration:"),
        (["-a", "packets:many"], "not a whole number"),
        (["-b", "files:3"], "needs duration, interval, filesize or packets"),
        (["-W", "3"], "-W needs -C or -G"),
        (["--flush-interval", "soon"], "is not a time"),
        (["--reserve", "1000"], "give a number and a unit"),
        (["-Z", "nobody-of-that-name"], "no user"),
        (["-z", "'"], "is not one"),
        (["--index", "-w", "feed.pcapng.gz"], "can have no index"),
        (["--ring", "--sequence", "rtp"], "`mcast-fast check` follows the numbers of the recording"),
    ],
)
def test_a_wrong_usage_is_exit_2(backend, tmp_path, arguments, told):
    group = Place(4, loopback()).group(1, free_port())
    result = invoke("record", group, "-w", tmp_path / "feed.pcapng", *arguments)
    assert (result.exit_code, told in result.stderr) == (2, True), result.stderr


def test_the_ring_is_refused_by_name_where_there_is_none(backend, tmp_path):
    if mcast.features()["ring"]:
        pytest.skip("feature ring: it is there")
    result = invoke("record", Place(4, loopback()).group(), "-w", tmp_path / "feed.pcapng", "--ring")
    assert result.exit_code == 1
    assert f"--ring: {mcast.features()['ring'].reason}" in result.stderr


# ---- between two hosts ----


@pytest.mark.lab
def test_a_recording_is_what_was_sent(program_backend, tmp_path):  # noqa: F811
    """A foreign sender's single packets, byte by byte and with the kernel's times, as tcpdump sees them."""
    with lab.Lab() as made:
        sending, receiving = made.link("a", "b")
        ours, theirs = tmp_path / "ours.pcapng", tmp_path / "theirs.pcap"
        argv = [sys.executable, "-m", "mcast_fast", "record", f"239.1.1.1%{receiving.interface}:5000", "-w", str(ours)]
        program = receiving.host.spawn([*argv, "-c", "2000"], env=environment(program_backend))
        program.expect("recording", timeout=20)
        tcpdump = receiving.tcpdump(
            "--time-stamp-precision=nano", "-B", "32768", "-w", str(theirs), "-c", "2000", "udp and dst 239.1.1.1"
        )
        sending.blast("239.1.1.1", 5000, count=2000, size=300, rate=4000).finish()
        program.finish()
        tcpdump.finish()
        with mcast.open(ours) as ours_read, mcast.open(theirs) as theirs_read:
            mine, other = ours_read.collect(3000), theirs_read.collect(3000)
        assert mine.payloads() == other.payloads()
        assert [packet.timestamp for packet in mine] == [packet.timestamp for packet in other]
        assert [(p.source_address, p.group, p.port) for p in mine] == [
            (p.source_address, p.group, p.port) for p in other
        ]


@pytest.mark.lab
@pytest.mark.needs("watch")
def test_a_recording_waits_for_an_interface_that_comes_later(program_backend, tmp_path):  # noqa: F811
    path = tmp_path / "feed.pcapng"
    with lab.Lab() as made:
        host = made.hosts["b"]
        argv = [
            sys.executable,
            "-m",
            "mcast_fast",
            "record",
            "239.1.1.1%vb0:5000",
            "--watch",
            "-c",
            "1",
            "-w",
            str(path),
        ]
        program = host.spawn(argv, env=environment(program_backend))
        program.expect("recording", timeout=20)
        sending, receiving = made.link("a", "b")
        assert receiving.interface == "vb0"
        while program.process.poll() is None:
            sending.blast("239.1.1.1", 5000, count=1).finish()
        program.finish()
    with mcast.open(path) as reader:
        assert [packet.interface for packet in reader.collect(9)] == ["vb0"]
