"""Recording: every packet once, in whichever file it belongs to; and what ends a recording, or a file."""

import contextlib
import io
import os
import re
import shlex
import shutil
import stat
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from unittest.mock import Mock

import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError, _core
from mcast_fast._core.blocks import ENHANCED_PACKET, INTERFACE_STATISTICS
from mcast_fast._systems import LINUX, WINDOWS
from mcast_fast.errors import FileError
from mcast_fast.files import _postrotate
from mcast_fast.files import _recorder as recorder_module
from mcast_fast.files._limits import Autostop, Intervals, Names, Rotation, with_mark
from mcast_fast.files._recorder import Recorder
from tests.conftest import multicast_ipv6, place_of
from tests.test_pcapng import batch_of, record

SIZE = 200
QUIET = Autostop(idle=0.3)


@pytest.fixture
def rx(backend, place):
    with mcast.Receiver(place.group(), batch_size=64, background=bool(mcast.features()["background"])) as receiver:
        yield receiver


@pytest.fixture
def tx(rx):
    (membership,) = rx.memberships
    with mcast.Sender(membership.group, port=membership.port, interface=membership.interface, ttl=0) as sender:
        yield sender


def numbered(count, start=0):
    return [number.to_bytes(4, "big") + bytes(SIZE - 4) for number in range(start, start + count)]


def numbers(*paths):
    """The numbers of the packets in these files, in order."""
    found = []
    for path in paths:
        with mcast.open(path) as reader:
            found += [int.from_bytes(packet.data[:4], "big") for batch in reader for packet in batch]
    return found


class Running:
    """A recording in a thread of its own."""

    def __init__(self, rx, path, **options):
        self.files = []
        self.recorder = Recorder(rx, path, on_file=self.files.append, **options)
        self.error = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self):
        try:
            self.recorder.run()
        except mcast.MulticastError as error:
            self.error = error

    def end(self):
        self._thread.join(20)
        assert not self._thread.is_alive()
        return self.recorder.result


def until(condition, seconds=10.0):
    """Waits for what another thread does; there is no event for it."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.long
@pytest.mark.needs("large buffers")
def test_everything_that_came_stands_in_the_file(rx, tx, tmp_path):
    path = tmp_path / "feed.pcapng"
    tx.send_batch(numbered(1000))
    result = Recorder(rx, path, stop=QUIET).run()
    assert numbers(path) == list(range(1000))
    assert (result.written, result.files, result.path, result.reason) == (1000, 1, str(path), "idle")
    assert result.bytes == path.stat().st_size


@pytest.mark.needs("modes of files")
def test_a_recording_is_its_owners_alone(rx, tmp_path):
    Recorder(rx, tmp_path / "feed.pcapng", stop=Autostop(idle=0.01)).run()
    assert stat.S_IMODE((tmp_path / "feed.pcapng").stat().st_mode) == 0o600


@pytest.mark.needs("large buffers")
def test_stop_writes_what_had_arrived(rx, tx, tmp_path):
    path = tmp_path / "feed.pcap"
    running = Running(rx, path)
    tx.send_batch(numbered(500))
    running.recorder.stop()
    assert (running.end().reason, numbers(path)) == ("asked", list(range(500)))


def test_closing_the_receiver_ends_it_and_the_file_is_whole(rx, tx, tmp_path):
    running = Running(rx, tmp_path / "feed.pcapng")
    tx.send_batch(numbered(10))
    until(lambda: running.recorder.result.written == 10)
    rx.close()
    assert (running.end().reason, running.error) == ("closed", None)
    assert numbers(tmp_path / "feed.pcapng") == list(range(10))


# ---- rotation ----


@pytest.mark.needs("large buffers")
@pytest.mark.parametrize("name", ["feed.pcapng", "feed.pcap", "feed.pcapng.gz"])
@pytest.mark.long
def test_rotation_by_packets_is_exact(rx, tx, tmp_path, name):
    tx.send_batch(numbered(1000))
    running = Running(rx, tmp_path / name, rotate=Rotation(packets=300), stop=QUIET)
    result = running.end()
    assert [file.packets for file in running.files] == [300, 300, 300, 100]
    assert numbers(*(file.path for file in running.files)) == list(range(1000))
    assert (result.written, result.files) == (1000, 4)
    assert all(file.path.endswith(name.removeprefix("feed")) for file in running.files)
    if not name.endswith(".gz"):
        assert result.bytes == sum(Path(file.path).stat().st_size for file in running.files)


@pytest.mark.long
@pytest.mark.needs("large buffers")
def test_rotation_by_size_never_makes_a_larger_file(rx, tx, tmp_path):
    tx.send_batch(numbered(1000))
    running = Running(rx, tmp_path / "feed.pcapng", rotate=Rotation(filesize="64KiB"), stop=QUIET)
    running.end()
    sizes = [Path(file.path).stat().st_size for file in running.files]
    assert max(sizes) <= 65_536
    assert min(sizes[:-1]) > 40_000
    assert numbers(*(file.path for file in running.files)) == list(range(1000))


@pytest.mark.long
def test_a_file_holds_one_packet_at_least(rx, tx, tmp_path):
    tx.send_batch(numbered(5))
    running = Running(rx, tmp_path / "feed.pcapng", rotate=Rotation(filesize="1B"), stop=QUIET)
    running.end()
    assert [file.packets for file in running.files] == [1] * 5


@pytest.mark.long
def test_rotation_by_time_needs_no_packet(rx, tmp_path):
    running = Running(rx, tmp_path / "feed.pcapng", rotate=Rotation(duration="100ms"), stop=Autostop(files=5))
    started = time.monotonic()
    assert running.end().reason == "files"
    assert [file.packets for file in running.files] == [0] * 5
    assert time.monotonic() - started > 0.4


@pytest.mark.long
def test_a_step_of_the_system_clock_changes_nothing(rx, tx, tmp_path, monkeypatch):
    """Backwards by an hour, and forwards by a day: only names are made of it."""
    steps = iter([-3600, 86_400] * 1000)
    true = time.time, time.time_ns, time.localtime
    monkeypatch.setattr(time, "time", lambda: true[0]() + next(steps))
    monkeypatch.setattr(time, "time_ns", lambda: true[1]() + next(steps) * 10**9)
    monkeypatch.setattr(time, "localtime", lambda *_: true[2](true[0]() + next(steps)))
    tx.send_batch(numbered(100))
    started = time.monotonic()
    running = Running(
        rx, tmp_path / "feed.pcapng", rotate=Rotation(duration=0.2), stop=Autostop(duration=0.7), flush_interval=0.05
    )
    until(lambda: running.recorder.result.written == 100)
    assert running.end().reason == "duration"
    assert time.monotonic() - started > 0.6
    assert len(running.files) == len({file.path for file in running.files}) <= 4
    assert numbers(*(file.path for file in running.files)) == list(range(100))


@pytest.mark.needs("large buffers")
def test_a_ring_of_files_keeps_the_newest(rx, tx, tmp_path):
    tx.send_batch(numbered(1000))
    running = Running(rx, tmp_path / "feed.pcapng", rotate=Rotation(packets=100, files=3), stop=Autostop(packets=1000))
    result = running.end()
    left = sorted(tmp_path.iterdir())
    assert [str(path) for path in left] == [file.path for file in running.files[-3:]]
    assert numbers(*left) == list(range(700, 1000))
    assert (result.written, result.files) == (1000, 10)


def test_rotate_goes_on_in_the_next_file(rx, tx, tmp_path):
    running = Running(rx, tmp_path / "feed.pcapng", rotate=Rotation(packets=1000), flush_interval=0)
    tx.send_batch(numbered(10))
    until(lambda: running.recorder.result.written == 10)
    running.recorder.rotate()
    until(lambda: len(running.files) == 1)
    tx.send_batch(numbered(5, 10))
    running.recorder.stop()
    running.end()
    assert [file.packets for file in running.files] == [10, 5]


def test_rotate_ends_a_recording_of_one_file(rx, tmp_path):
    running = Running(rx, tmp_path / "feed.pcapng")
    running.recorder.rotate()
    assert running.end().reason == "asked"


def test_names_of_files():
    now = time.struct_time((2026, 11, 23, 1, 2, 3, 0, 327, 0))
    names = Names("a.b/feed.pcapng.zst", True)
    assert names.next(now) == str(Path("a.b/feed_00001_20261123010203.pcapng.zst"))
    assert names.next(now) == str(Path("a.b/feed_00002_20261123010203.pcapng.zst"))
    names = Names("%H-%M.pcap", True)
    assert [names.next(now), names.next(now, taken=True)] == ["01-02.pcap", "01-02_00002.pcap"]
    assert Names("100%.pcap", False).next(now) == "100%.pcap"
    assert with_mark("feed", "_1") == "feed_1"


@pytest.mark.needs("symbolic links")
@pytest.mark.parametrize("pattern", [True, False])
def test_a_name_that_exists_is_neither_written_over_nor_followed(rx, tx, tmp_path, monkeypatch, pattern):
    """However it came there: an older recording, or a link that somebody put there."""
    now = time.localtime()
    monkeypatch.setattr(time, "localtime", lambda *_: now)
    path, names = tmp_path / ("%H.pcapng" if pattern else "feed.pcapng"), Names(str(tmp_path / "feed.pcapng"), True)
    old = Path(time.strftime(str(path), now) if pattern else names.next(now))
    secret = tmp_path / "secret"
    secret.write_text("not ours")
    old.symlink_to(secret)
    tx.send_batch(numbered(3))
    Recorder(rx, path, rotate=Rotation(packets=100), stop=Autostop(packets=3)).run()
    assert (secret.read_text(), old.is_symlink()) == ("not ours", True)
    (new,) = set(tmp_path.iterdir()) - {secret, old}
    assert numbers(new) == [0, 1, 2]


@pytest.mark.needs("symbolic links")
def test_a_link_is_not_followed(rx, tmp_path):
    secret, link = tmp_path / "secret", tmp_path / "feed.pcapng"
    secret.write_text("not ours")
    link.symlink_to(secret)
    with pytest.raises(mcast.errors.FileError, match="is a link, which a recording does not follow"):
        Recorder(rx, link)
    assert secret.read_text() == "not ours"


@pytest.mark.skipif(
    not Path("/dev/fd/0").is_symlink(), reason="feature /dev/fd: this system has none, or no links there"
)
def test_a_descriptor_by_its_name_is_recorded_to(rx, tx):
    """As the shell's >(…) names a pipe."""
    tx.send_batch(numbered(5))
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe:
        with os.fdopen(write, "wb"):
            Recorder(rx, f"/dev/fd/{write}", stop=Autostop(packets=5)).run()
        with mcast.open(pipe) as reader:
            assert len(reader.collect(9)) == 5


@pytest.mark.needs("modes of files")
def test_a_file_that_others_may_read_keeps_its_mode_with_a_warning(rx, tmp_path):
    path = tmp_path / "feed.pcapng"
    path.touch()
    path.chmod(0o640)
    with pytest.warns(mcast.errors.MulticastWarning, match="keeps its mode"):
        Recorder(rx, path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    path.chmod(0o600)
    Recorder(rx, path).close()


def test_the_full_intervals_of_a_clock():
    """UTC, as dumpcap's; what is set back by less than one begins none."""
    minute = 60 * 10**9
    at = 10**6 * minute
    intervals = Intervals(minute, at + 1)
    assert intervals.left(at + 1) == minute - 1
    moments = [1, minute - 1, minute, minute, minute - 5, minute + 1, 5 * minute, 2 * minute, 2 * minute, 3 * minute]
    assert [intervals.is_over(at + moment) for moment in moments] == [
        *(False, False, True, False, False, False),
        *(True, True, False, True),
    ]


@pytest.mark.long
def test_rotation_at_full_intervals(rx, tx, tmp_path, monkeypatch):
    """The clock is set to the next hour: whatever was written before is in the first file."""
    true, hours = time.time_ns, [0]
    monkeypatch.setattr(time, "time_ns", lambda: true() + hours[0] * 3600 * 10**9)
    running = Running(rx, tmp_path / "feed.pcapng", rotate=Rotation(interval="1h"), flush_interval=0)
    for turn in range(3):
        tx.send_batch(numbered(10, 10 * turn))
        until(lambda count=10 * turn + 10: running.recorder.result.written == count)
        hours[0] += 1
        until(lambda count=turn + 1: len(running.files) >= count)
    running.recorder.stop()
    running.end()
    assert [number for file in running.files for number in numbers(file.path)] == list(range(30))
    assert [file.packets for file in running.files if file.packets] == [10] * 3


def test_a_file_of_an_interval_is_called_after_it(rx, tmp_path, monkeypatch):
    """By the clock that ended the one before: time(2), which localtime() reads by itself, is some ms behind."""
    first, hours = 1_795_870_800, [0]  # a full hour
    monkeypatch.setattr(time, "time_ns", lambda: (first + hours[0] * 3600) * 10**9)
    running = Running(rx, tmp_path / "%d_%H.pcapng", rotate=Rotation(interval="1h"), stop=Autostop(files=4))
    for turn in range(4):
        hours[0] += 1
        until(lambda count=turn + 1: len(running.files) >= count)
    running.end()
    begun = [time.localtime(first + hour * 3600) for hour in range(4)]
    assert [Path(file.path).name for file in running.files] == [time.strftime("%d_%H.pcapng", one) for one in begun]


# ---- ends ----


@pytest.mark.needs("large buffers")
def test_it_ends_after_so_many_packets_exactly(rx, tx, tmp_path):
    tx.send_batch(numbered(1000))
    result = Recorder(rx, tmp_path / "feed.pcapng", stop=Autostop(packets=777)).run()
    assert (result.written, result.reason) == (777, "packets")
    assert numbers(tmp_path / "feed.pcapng") == list(range(777))


@pytest.mark.parametrize("stop", [Autostop(packets=5), Autostop(filesize=2_000), Autostop(files=2)])
def test_what_is_beyond_a_limit_is_returned_to_the_receiver(rx, tx, tmp_path, stop):
    tx.send_batch(numbered(30))
    rotate = Rotation(packets=3) if stop.files else None
    result = Recorder(rx, tmp_path / "feed.pcapng", rotate=rotate, stop=stop).run()
    assert 0 < result.written < 30
    left = rx.collect(30 - result.written, timeout=5)
    assert [int.from_bytes(data[:4], "big") for data in left.payloads()] == list(range(result.written, 30))
    assert rx.stats.received == 30


@pytest.mark.needs("large buffers")
def test_it_ends_when_the_file_is_full(rx, tx, tmp_path):
    tx.send_batch(numbered(1000))
    result = Recorder(rx, tmp_path / "feed.pcapng", stop=Autostop(filesize="20KiB")).run()
    assert result.reason == "filesize"
    assert 10_000 < (tmp_path / "feed.pcapng").stat().st_size <= 20 * 1024
    assert numbers(tmp_path / "feed.pcapng") == list(range(result.written))


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (Rotation, "needs duration, interval, filesize or packets"),
        (lambda: Rotation(filesize="64"), "number and a unit"),
        (lambda: Rotation(duration=0), "more than 0"),
        (lambda: Rotation(packets=0), "rotation packets"),
        (lambda: Rotation(packets=1, files=0), "rotation files"),
        (lambda: Autostop(duration="1 fortnight"), "autostop duration"),
        (lambda: Rotation(interval=0.5), "rotation interval is 1 s or more"),
        (lambda: Autostop(files=-1), "autostop files"),
        (lambda: Autostop(idle=0), "autostop idle"),
    ],
)
def test_a_limit_that_cannot_be_is_told(make, told):
    with pytest.raises(ArgumentError, match=told):
        make()


def test_ctrl_c_ends_it_at_once_and_the_file_is_whole(rx, tx, tmp_path):
    tx.send_batch(numbered(10))
    recorder = Recorder(rx, tmp_path / "feed.pcapng", flush_interval="1h")

    def interrupt():
        raise KeyboardInterrupt

    recorder.soon(interrupt)
    with pytest.raises(KeyboardInterrupt):
        recorder.run()
    assert recorder.result.reason == "error"
    assert numbers(tmp_path / "feed.pcapng") == list(range(recorder.result.written))


def test_memory_can_be_recorded_into(rx, tx):
    tx.send_batch(numbered(10))
    file = io.BytesIO()
    Recorder(rx, file, stop=Autostop(packets=10)).run()
    file.seek(0)
    assert numbers(file) == list(range(10))


# ---- disks and commands ----


def test_the_reserve_ends_it_before(rx, tx, tmp_path):
    tx.send_batch(numbered(10))
    with pytest.raises(FileError, match=r"bytes free, and the reserve is \d+; .* 0 packets, \d+ bytes are in the file"):
        Recorder(rx, tmp_path / "feed.pcapng", reserve="1000000GiB", stop=QUIET).run()
    with mcast.open(tmp_path / "feed.pcapng") as reader:
        assert len(reader.collect(10)) == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="feature /dev/full: this system has none")
def test_a_full_device_ends_it(rx, tx):
    tx.send_batch(numbered(10))
    recorder = Recorder(rx, "/dev/full", stop=QUIET)
    with pytest.raises(FileError, match=r"No space left on device .* 0 packets, 0 bytes are in the file"):
        recorder.run()
    assert (recorder.result.written, recorder.result.reason) == (0, "error")


@pytest.mark.needs("process limits")
@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_rotated_file_of_which_the_disk_takes_nothing_is_deleted(rx, tx, tmp_path, suffix):
    """No program reads an empty file. One that is not rotated stays: it may have been there before."""
    import resource
    import signal

    tx.send_batch(numbered(10))
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        for rotate in (Rotation(packets=100), None):
            with pytest.raises(FileError, match="0 packets, 0 bytes are in the file"):
                Recorder(rx, tmp_path / f"feed.pcapng{suffix}", rotate=rotate, stop=QUIET).run()
            assert len(list(tmp_path.iterdir())) == (rotate is None)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


PACK = """
import gzip, pathlib, sys
path = pathlib.Path(sys.argv[1])
pathlib.Path(f"{path}.gz").write_bytes(gzip.compress(path.read_bytes()))
path.unlink()
"""


@pytest.mark.long
def test_the_command_gets_every_file(rx, tx, tmp_path):
    tx.send_batch(numbered(100))
    command = shlex.join([sys.executable, "-c", PACK])
    Recorder(
        rx, tmp_path / "feed.pcapng", rotate=Rotation(packets=30), stop=Autostop(packets=100), command=command
    ).run()
    files = sorted(tmp_path.iterdir())
    assert {path.suffix for path in files} == {".gz"}
    assert numbers(*files) == list(range(100))


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (shlex.join([sys.executable, "-c", "raise SystemExit(1)"]), "exit 1"),
        ("/no/such/program", "No such file"),
    ],
)
def test_a_command_that_fails_is_warned_of(rx, tx, tmp_path, command, told):
    tx.send_batch(numbered(10))
    with pytest.warns(mcast.MulticastWarning, match=rf"{re.escape(command)} .*feed\.pcapng'?: {told}"):
        Recorder(rx, tmp_path / "feed.pcapng", stop=Autostop(packets=10), command=command).run()
    assert len(numbers(tmp_path / "feed.pcapng")) == 10


@pytest.mark.parametrize(
    ("system", "command", "words"),
    [
        (LINUX, r"'a b' c\ d e\\f #", ["a b", "c d", r"e\f", "#"]),
        (WINDOWS, r'"C:\my programs\pack.exe" D:\to #', [r"C:\my programs\pack.exe", r"D:\to", "#"]),
    ],
    ids=["Linux", "Windows"],
)
def test_a_command_is_taken_apart_as_its_system_writes_paths(monkeypatch, system, command, words):
    monkeypatch.setattr(_postrotate, "SYSTEM", system)
    started = []
    monkeypatch.setattr(_postrotate.subprocess, "Popen", lambda argv, **_: started.append(argv) or Mock(returncode=0))
    commands = _postrotate.PostRotate(command)
    commands.add("feed.pcapng")
    assert started == [[*words, "feed.pcapng"]]


@pytest.mark.parametrize("option", [{"rotate": Rotation(packets=1)}, {"reserve": 1}, {"command": "true"}])
def test_a_stream_cannot_be_rotated(rx, tmp_path, option):
    with (tmp_path / "stream").open("wb") as file, pytest.raises(ArgumentError, match="no file that can be rotated"):
        Recorder(rx, file, **option)


@pytest.mark.needs("named pipes")
@pytest.mark.long
def test_a_stalled_pipe_loses_nothing(rx, tx, tmp_path):
    """Nobody reads for two seconds; meanwhile 20,000 packets come, far more than a pipe holds."""
    if not (have := mcast.features()["background"]):
        pytest.skip(f"feature background: {have.reason}")
    path = tmp_path / "fifo.pcapng"
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    running = Running(rx, path, stop=Autostop(packets=20_000))
    started = time.monotonic()
    for start in range(0, 20_000, 100):
        tx.send_batch(numbered(100, start))
        time.sleep(max(0.0, started + start / 10_000 - time.monotonic()))
    os.set_blocking(reading, True)
    with os.fdopen(reading, "rb") as file, mcast.files.Reader(file) as reader:
        came = [int.from_bytes(packet.data[:4], "big") for batch in reader for packet in batch]
    assert came == list(range(20_000))
    assert running.end().stats.dropped == 0


# ---- what stands beside the packets ----


@pytest.mark.long
def test_drops_stand_in_the_file(backend, place, tmp_path):
    """What the socket dropped: with the packet after it, and in the last statistics block."""
    group = place.group()
    with mcast.Receiver(group, buffer_size=8192) as rx, mcast.Sender(group, ttl=0) as tx:
        recorder = Recorder(rx, tmp_path / "first.pcapng", stop=QUIET)
        tx.send_batch(numbered(1000))
        recorder.run()
        tx.send_batch(numbered(1, 1000))
        path = tmp_path / "feed.pcapng"
        result = Recorder(rx, path, stop=QUIET).run()
        dropped = rx.stats.dropped_socket
    if dropped is None:
        pytest.skip("feature drop_totals: this system cannot tell")
    with mcast.open(path) as reader:
        batch = reader.collect(10)
        assert [packet.dropped for packet in batch] == [dropped]
        assert reader.interfaces[0].delivered == 1
        assert reader.interfaces[0].dropped_system == 0  # none since this recording began
    with mcast.open(tmp_path / "first.pcapng") as reader:
        assert len(reader.collect(1000)) + dropped == 1000
        assert reader.interfaces[0].dropped_system == dropped
    assert result.stats.dropped == dropped


@pytest.mark.long
def test_statistics_stand_in_the_file_every_few_seconds(rx, tx, tmp_path, monkeypatch):
    monkeypatch.setattr(recorder_module, "STATISTICS_NS", 100_000_000)
    path = tmp_path / "feed.pcapng"
    running = Running(rx, path, flush_interval=0)
    tx.send_batch(numbered(10))
    until(lambda: blocks_of(path).count(INTERFACE_STATISTICS) >= 3)
    running.recorder.stop()
    running.end()
    found = blocks_of(path)
    assert found[-1] == INTERFACE_STATISTICS
    assert found.count(ENHANCED_PACKET) == 10


def blocks_of(path):
    """The types of the blocks of a file of this machine."""
    data, at, found = path.read_bytes(), 0, []
    while at + 12 <= len(data):
        kind, length = struct.unpack_from("=II", data, at)
        found.append(kind)
        at += length
    return found


@pytest.mark.long
def test_tshark_reads_what_was_recorded(rx, tx, tmp_path):
    tshark = shutil.which("tshark")
    if not tshark:
        pytest.skip("program tshark: it is not installed")
    path = tmp_path / "feed.pcapng"
    tx.send_batch(numbered(100))
    Recorder(rx, path, stop=Autostop(packets=100), filter_text="239.1.1.1").run()
    fields = ["-T", "fields", "-e", "data.data", "-e", "udp.checksum.status"]
    done = subprocess.run(
        [tshark, "-r", path, "-o", "udp.check_checksum:TRUE", *fields], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines() == [f"{one.hex()}\t1" for one in numbered(100)]


def test_two_groups_stand_in_one_file(backend, place, tmp_path):
    groups = [place.group(1), place.group(2)]
    with mcast.Receiver(*groups) as rx, mcast.Sender(*groups, ttl=0) as tx:
        tx.send_batch(numbered(50))
        Recorder(rx, tmp_path / "feed.pcapng", stop=Autostop(packets=100)).run()
    with mcast.open(tmp_path / "feed.pcapng") as reader:
        counted = Counter(packet.group for batch in reader for packet in batch)
    assert sorted(counted.values()) == [50, 50]


# ---- order ----


def timed(*times):
    """A batch of packets with these times, numbered in their order."""
    return batch_of(*((record(bytes([number]), time), bytes([number])) for number, time in enumerate(times)))


@pytest.mark.parametrize(
    "times", [[], [1], [1, 1, 2], [3, 1, 2], [5, 6, 1, 2, 5, 3, 4, 0], list(range(50, 0, -1)), [0, 0, -1, 9]]
)
def test_a_batch_in_the_order_of_time(backend, times):
    batch = timed(*times)
    ordered = _core.views.by_time(batch)
    expected = sorted(range(len(times)), key=times.__getitem__)
    assert ordered.payloads() == [bytes([number]) for number in expected]
    assert (ordered is batch) == (times == sorted(times))
    assert _core.views.by_time(batch[1:]).payloads() == [
        bytes([number + 1]) for number in sorted(range(len(times[1:])), key=times[1:].__getitem__)
    ]


@pytest.mark.needs("kernel_timestamps")
@pytest.mark.parametrize("background", [True, False])
@pytest.mark.long
def test_a_recording_of_several_sockets_is_in_the_order_of_time(backend, tmp_path, monkeypatch, background):
    """Two ports, and two families where the machine has both."""
    if background and not mcast.features()["background"]:
        pytest.skip("feature background: this backend has none")
    places = [place_of(4), place_of(4)]
    if multicast_ipv6() is not None:
        places.append(place_of(6))
    groups = [place.group() for place in places]
    monkeypatch.setattr(recorder_module, "HOLD_NS", 100_000_000)  # the machine may be busy
    path = tmp_path / "feed.pcapng"
    with contextlib.ExitStack() as stack:
        rx = stack.enter_context(mcast.Receiver(*groups, batch_size=64, background=background))
        assert rx.sources == len(groups)
        senders = [stack.enter_context(mcast.Sender(group, ttl=0)) for group in groups]
        running = Running(rx, path, stop=Autostop(idle=0.5))
        for payload in numbered(900):
            senders[payload[3] % len(senders)].send(payload)
        result = running.end()
    assert (result.written, result.stats.received) == (900, 900)
    with mcast.open(path) as reader:
        times = [packet.timestamp for packet in reader.collect(1000)]
    assert times == sorted(times)
    assert sorted(numbers(path)) == list(range(900))


@pytest.mark.needs("kernel_timestamps")
def test_packets_wait_for_all_that_is_there_however_long_that_takes(backend, tmp_path, monkeypatch):
    """A recorder that is slower than its hold: what one socket has is older than what was read of the other."""
    groups = [place_of(4).group(), place_of(4).group()]
    monkeypatch.setattr(recorder_module, "HOLD_NS", 1)
    path = tmp_path / "feed.pcapng"
    with contextlib.ExitStack() as stack:
        rx = stack.enter_context(mcast.Receiver(*groups, batch_size=16))
        senders = [stack.enter_context(mcast.Sender(group, ttl=0)) for group in groups]
        for payload in numbered(200):
            senders[payload[3] % 2].send(payload)
        recorder = Recorder(rx, path, stop=Autostop(packets=200))
        assert recorder.run().written == 200
    with mcast.open(path) as reader:
        times = [packet.timestamp for packet in reader.collect(1000)]
    assert times == sorted(times)


@pytest.mark.needs("kernel_timestamps")
def test_what_is_held_is_given_back_after_an_exception(backend, tmp_path, monkeypatch):
    groups = [place_of(4).group(), place_of(4).group()]
    monkeypatch.setattr(recorder_module, "HOLD_NS", 10**9)
    with mcast.Receiver(*groups, timeout=5) as rx, mcast.Sender(groups[0], ttl=0) as tx:
        recorder = Recorder(rx, tmp_path / "feed.pcapng", flush_interval=10)
        tx.send_batch(numbered(20))
        recorder.soon(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            recorder.run()
        assert [int.from_bytes(one[:4], "big") for one in rx.collect(20).payloads()] == list(range(20))
