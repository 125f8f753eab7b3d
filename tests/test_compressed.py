"""Compressed capture files: what is flushed can be read whatever becomes of the rest, and torn ones are made whole."""

import gzip
import itertools
import random
import signal
import sys
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast.files import _writer
from mcast_fast.files._repair import Repaired, repair
from mcast_fast.files._unpacking import zstd_module
from tests.test_cli import program_backend  # noqa: F401
from tests.test_cli_record import record, tx  # noqa: F401
from tests.test_pcapng import batch_of, some, written
from tests.test_pcapng import record as row


def noise(count):
    """A batch that does not compress: more than a block of zstd (RFC 8878, 3.1.1.2.4) from 500 packets on."""
    payloads = [random.Random(i).randbytes(300) for i in range(count)]
    return batch_of(*((row(one), one) for one in payloads))


def compressed(kind, *pieces):
    """Each piece as a member of its own."""
    if kind == "gz":
        return b"".join(map(gzip.compress, pieces))
    return b"".join(map(zstd_module().compress, pieces))


@pytest.mark.parametrize("behind", [b"", b"tail"])
def test_a_frame_that_ends_when_it_is_given_byte_by_byte_is_refused_as_a_whole(backend, tmp_path, behind):
    """It says that it holds 500 bytes, and its first block is empty and the last one. Found by .ci/weekly/fuzz."""
    pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
    path = tmp_path / "feed.pcapng.zst"
    path.write_bytes(bytes.fromhex("28b52ffd60f4000100001078780100ef2ac0") + behind)
    with pytest.raises(mcast.errors.CaptureError, match="corrupt"), mcast.open(path) as reader:
        list(reader)


@pytest.fixture(params=["gz", "zst"])
def kind(request):
    if request.param == "zst":
        pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
    return request.param


def test_a_file_stays_as_it_is_where_its_compression_is_missing(tmp_path, monkeypatch):
    path = tmp_path / "feed.pcapng.zst"
    path.write_bytes(b"an older recording")
    for name in ("compression.zstd", "backports.zstd"):
        monkeypatch.setitem(sys.modules, name, None)
    for write in (mcast.files.Writer, lambda target: mcast.files.merge([path], target)):
        for target in (path.with_name("new.pcapng.zst"), path):
            with pytest.raises(mcast.errors.MulticastError):
                write(target)
    assert path.read_bytes() == b"an older recording"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.long
@pytest.mark.parametrize("in_place", [True, False])
@pytest.mark.parametrize("torn", ["in the first member", "in the last member", "broken", "behind a broken block"])
def test_a_torn_compressed_file_becomes_readable(backend, tmp_path, kind, torn, in_place):
    path, output = tmp_path / f"feed.pcapng.{kind}", tmp_path / f"whole.pcapng.{kind}"
    first, *others = written(noise(800)), written(some(40, 500)), written(some(40, 500))
    data = compressed(kind, first, *others)
    if torn == "in the first member":
        data = data[: len(compressed(kind, first)) * 2 // 3]
    elif torn == "in the last member":
        data = data[:-15]
    elif torn == "broken":
        data = data[:-40] + bytes(40)
    else:
        data = compressed(kind, first, b"\xff" * 400, *others)
    path.write_bytes(data)
    with mcast.open(path) as reader:
        came = []
        with pytest.raises(mcast.errors.CaptureError):
            came.extend(payload for batch in reader for payload in batch.payloads())
    done = repair(str(path)) if in_place else repair(str(path), str(output))
    assert (done.frames, done.output) == (len(came), str(path if in_place else output))
    with mcast.open(done.output) as reader:
        assert [payload for batch in reader for payload in batch.payloads()] == came
    unpacked = gzip.decompress if kind == "gz" else zstd_module().decompress
    assert len(unpacked(Path(done.output).read_bytes())) == done.kept
    if in_place:
        assert data.endswith(Path(done.remains).read_bytes())
        assert len(Path(done.remains).read_bytes()) == done.cut
        assert repair(str(path)).cut == 0
    else:
        assert path.read_bytes() == data


def test_a_whole_compressed_file_needs_no_repair(backend, tmp_path, kind):
    path = tmp_path / f"feed.pcapng.{kind}"
    path.write_bytes(compressed(kind, written(some(10)), written(some(5))))
    before = path.read_bytes()
    assert repair(str(path)) == Repaired(str(path), len(written(some(10)) + written(some(5))), 0, 15, "")
    assert path.read_bytes() == before


# ---- a file that is being written ----


def payloads_in(path):
    """All that can be read, and the error behind it, if there is one."""
    came, reason = [], ""
    with mcast.open(path) as reader:
        try:
            for batch in reader:
                came += batch.payloads()
        except mcast.errors.CaptureError as error:
            reason = error.reason
    return came, reason


def test_what_is_flushed_can_be_read_from_the_file(backend, tmp_path, kind):
    path = tmp_path / f"feed.pcapng.{kind}"
    with mcast.files.Writer(path) as writer:
        for count in range(1, 6):
            writer.write(some(10))
            writer.flush()
            assert payloads_in(path) == (some(10).payloads() * count, "")
        size = path.stat().st_size
        writer.flush()
        assert path.stat().st_size == size


def test_every_program_reads_members(backend, tmp_path, kind):
    path = tmp_path / f"feed.pcapng.{kind}"
    with mcast.files.Writer(path) as writer:
        for _ in range(5):
            writer.write(some(10))
            writer.flush()
    data = path.read_bytes()
    assert (gzip.decompress if kind == "gz" else zstd_module().decompress)(data) == written(*[some(10)] * 5)


def test_much_that_is_not_flushed_is_put_into_members_too(backend, tmp_path, kind, monkeypatch):
    monkeypatch.setattr(_writer, "MEMBER", 50_000)
    path = tmp_path / f"feed.pcapng.{kind}"
    with mcast.files.Writer(path) as writer:
        for _ in range(20):
            writer.write(some(30, 300))
        assert 20 * 30 - len(payloads_in(path)[0]) <= 30 * (1 + 50_000 // (30 * 300))


@pytest.mark.long
@pytest.mark.needs("process limits")
@pytest.mark.parametrize("room", [0, 100, 5_000, 40_000])
def test_a_full_disk_leaves_what_is_counted(backend, tmp_path, kind, room, monkeypatch):
    """Packets in the compressor are in no file: they are not counted, and what of them was written is cut off."""
    import resource

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    monkeypatch.setattr(_writer, "MEMBER", 20_000)
    path = tmp_path / f"feed.pcapng.{kind}"
    writer = mcast.files.Writer(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        with pytest.raises(mcast.errors.FileError, match="ulimit -f") as caught:
            for at in range(100_000):
                writer.write(some(3, 200 + at % 97))
                if at % 50 == 49:
                    writer.flush()
        with pytest.raises(mcast.errors.FileError):
            writer.write(some(1))
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    error = caught.value
    if path.stat().st_size:
        came, reason = payloads_in(path)
        assert (len(came), reason) == (error.packets, "")
    assert (writer.stats.packets, writer.stats.bytes, writer.stats.gathered) == (error.packets, error.bytes, 0)
    assert error.packets == 0 if room < 200 else error.packets > 0
    assert bool(error.bytes) == (path.stat().st_size > 0)
    assert path.stat().st_size <= room


@pytest.mark.needs("process limits")
@pytest.mark.parametrize("form", ["pcapng", "pcap"])
def test_a_disk_that_is_full_in_the_first_member_leaves_a_file_without_packets(backend, tmp_path, kind, form):
    import resource

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = tmp_path / f"feed.{form}.{kind}"
    writer = mcast.files.Writer(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        writer.write(noise(30))
        with pytest.raises(mcast.errors.FileError) as caught:
            writer.flush()
        writer.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert payloads_in(path) == ([], "")
    stats = writer.stats
    assert (stats.packets, stats.bytes, stats.gathered) == (0, caught.value.bytes, 0)
    assert f" 0 packets, {stats.bytes} bytes are in the file" in str(caught.value)
    data = path.read_bytes()
    assert len(gzip.decompress(data) if kind == "gz" else zstd_module().decompress(data)) == stats.bytes > 0


# ---- kill -9 ----


def kill_a_recording(record, tx, path, chance):  # noqa: F811
    """End a recording by SIGKILL at a random moment: how many packets it had flushed, and the numbers in the file."""
    program = record("-w", path)
    numbers, flushed = itertools.count(), 0
    rounds = chance.randrange(1, 5)
    while rounds > 0 or not flushed:
        rounds -= 1
        tx.send_batch([next(numbers).to_bytes(200, "big") for _ in range(chance.randrange(1, 400))])
        # Packets that the first line counts are flushed once the second one comes: the request is between the two.
        program.process.send_signal(signal.SIGUSR2)
        counts = []
        for _ in range(2):
            program.process.send_signal(signal.SIGUSR1)
            counts.append(int(program.expect(r"written (\d+)")[1]))
        flushed = counts[0]
    tx.send_batch([next(numbers).to_bytes(200, "big") for _ in range(chance.randrange(2000))])
    program.process.kill()
    program.stop()
    came, _ = payloads_in(path)
    return flushed, [int.from_bytes(payload, "big") for payload in came]


@pytest.mark.needs("signals to processes")
@pytest.mark.long
def test_kill_9_loses_nothing_that_was_flushed(record, tx, tmp_path, kind):  # noqa: F811
    flushed, came = kill_a_recording(record, tx, tmp_path / f"feed.pcapng.{kind}", random.Random(18))
    assert len(came) >= flushed > 0
    assert came == sorted(set(came))


@pytest.mark.needs("signals to processes")
@pytest.mark.weekly
@pytest.mark.hang_timeout(1200)
def test_kill_9_at_a_hundred_moments_loses_nothing_that_was_flushed(record, tx, tmp_path, kind):  # noqa: F811
    chance = random.Random(9)
    for turn in range(100):
        path = tmp_path / f"{turn}.pcapng.{kind}"
        flushed, came = kill_a_recording(record, tx, path, chance)
        assert len(came) >= flushed > 0
        assert came == sorted(set(came))
        repair(str(path))
        assert [int.from_bytes(payload, "big") for payload in payloads_in(path)[0]] == came
