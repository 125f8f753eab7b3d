"""Compressed, torn, growing and slow files: all that is there is delivered, when it is there; then the error."""

import contextlib
import datetime
import gzip
import importlib
import io
import os
import random
import threading
import tracemalloc
import zlib

import pytest

import mcast_fast as mcast
from mcast_fast import ArgumentError
from mcast_fast._units import moment_in_ns
from mcast_fast.errors import CaptureError
from mcast_fast.files import _unpacking
from mcast_fast.files._repair import repair
from tests import capture_files as cf
from tests.conftest import until

COUNT = 2000


def packets(count=COUNT, seed=1, at=1):
    """Blocks with a payload that does not compress, a second apart from second `at` on."""
    dice = random.Random(seed)
    return [cf.packet(cf.datagram(dice.randbytes(300)), ticks=(at + number) * 10**6) for number in range(count)]


HEAD = cf.section() + cf.description(name="eth0")
WHOLE = HEAD + b"".join(packets())


def zstd():
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return pytest.skip("feature zstd: no module for it")


def packed(kind, data=WHOLE):
    if kind == "zstd":
        module = zstd()
        return module.compress(data, options={module.CompressionParameter.checksum_flag: 1})
    return gzip.compress(data)


def blocks_in(data):
    """How many whole packets these bytes hold."""
    at = count = 0
    while len(data) - at >= 12 and (size := int.from_bytes(data[at + 4 : at + 8], "little")) <= len(data) - at:
        count += data[at] == 6
        at += size
    return count


def read(data):
    """(packets delivered, the reason of the error behind them)."""
    count = 0
    try:
        with mcast.files.Reader(io.BytesIO(data)) as reader:
            for batch in reader:
                count += len(batch)
    except CaptureError as error:
        return count, error.reason
    return count, ""


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.999])
def test_of_a_torn_file_all_that_decompresses_is_delivered(backend, kind, share):
    data = packed(kind)
    data = data[: int(len(data) * share)]
    stream = zlib.decompressobj(31) if kind == "gzip" else zstd().ZstdDecompressor()
    there = blocks_in(stream.decompress(data))
    assert read(data) == (there, "compressed data ends before the end of its stream")
    assert there or kind == "zstd"


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("size", [10, COUNT])
def test_a_wrong_checksum_is_an_error_behind_all_packets(backend, kind, size):
    data = bytearray(packed(kind, HEAD + b"".join(packets(size))))
    data[-6 if kind == "gzip" else -2] ^= 0xFF
    count, reason = read(bytes(data))
    assert count == size
    assert "check" in reason.lower()


def test_the_module_of_zstd_is_looked_for_once(backend, monkeypatch):
    """And not for each frame, of which a file may have one for each packet."""
    true, calls = zstd() and _unpacking.zstd_module, []
    monkeypatch.setattr(_unpacking, "zstd_module", lambda: calls.append(1) or true())
    monkeypatch.setattr(_unpacking._Zstd, "module", None)
    assert read(b"".join(packed("zstd", part) for part in (HEAD, *packets(5)))) == (5, "")
    assert len(calls) == 1


def test_an_error_behind_much_that_was_read_takes_no_memory_for_it(backend):
    """A frame of zstd is decompressed again to the byte that is wrong: a few kilobytes to hundreds of megabytes."""
    data = bytearray(packed("zstd", HEAD + cf.packet(cf.datagram(bytes(60_000))) * 600))
    data[-2] ^= 0xFF
    unpacked = _unpacking.Unpacked(io.BytesIO(data))
    read = 0
    tracemalloc.start()
    try:
        with pytest.raises(OSError, match="check"):
            while piece := unpacked.read(1 << 16):
                read += len(piece)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20 < read
    finally:
        tracemalloc.stop()


@pytest.mark.long
@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("behind", [b"garbage", bytes(100), b"\x1f", b"\x00\x1f"])
def test_what_follows_the_last_stream_and_is_none_is_ignored(backend, kind, behind):
    assert read(packed(kind) + behind) == (COUNT, "")


@pytest.mark.parametrize("kinds", [("gzip", "gzip", "gzip"), ("zstd", "zstd"), ("gzip", "zstd")])
@pytest.mark.parametrize("padding", [b"", bytes(512)])
def test_streams_that_follow_one_another_are_one_file(backend, kinds, padding):
    parts = [HEAD + b"".join(packets(500)), *[b"".join(packets(500))] * (len(kinds) - 1)]
    data = padding.join(packed(kind, part) for kind, part in zip(kinds, parts, strict=True))
    assert read(data) == (500 * len(kinds), "")


SKIPPABLE = [bytes([number]) + b"\x2a\x4d\x18\x05\0\0\0skips" for number in (0x50, 0x5F)]


@pytest.mark.parametrize("skippable", SKIPPABLE)
def test_skippable_frames_of_zstd_are_passed_over(backend, tmp_path, skippable):
    """pzstd begins each frame with one, and seekable files end with one (RFC 8878, 3.1.2)."""
    parts = [packed("zstd", HEAD + b"".join(packets(500))), packed("zstd", b"".join(packets(500)))]
    data = skippable + skippable.join(parts) + skippable
    assert read(data) == (1000, "")
    assert read(data[:-3]) == (1000, "compressed data ends before the end of its stream")
    torn = tmp_path / "feed.pcapng.zst"
    torn.write_bytes(data[:-3])
    assert repair(str(torn)).cut == len(skippable) - 3
    assert read(torn.read_bytes()) == (1000, "")


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_zeros_behind_a_stream_are_not_kept(backend, kind):
    """As a crash leaves them: gone through again with each read, a gigabyte of them would take hours."""
    pieces = [packed(kind), *[bytes(_unpacking.CHUNK)] * 8, packed(kind, b"".join(packets(5)))]
    kept = []

    class Slow(io.RawIOBase):
        def readable(self):
            return True

        def read(self, size=-1):
            kept.append(len(unpacked._packed))
            return pieces.pop(0) if pieces else b""

    unpacked = _unpacking.Unpacked(Slow())
    assert unpacked.readall() == WHOLE + b"".join(packets(5))
    assert max(kept) <= _unpacking.CHUNK


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_the_contents_say_how_a_file_is_compressed_and_not_its_name(backend, tmp_path, kind):
    path = tmp_path / "feed.pcapng"
    path.write_bytes(packed(kind))
    with mcast.open(path) as reader:
        assert len(reader.collect(10_000)) == COUNT
    path = tmp_path / "feed.pcapng.gz"
    path.write_bytes(WHOLE)
    with mcast.open(path) as reader:
        assert len(reader.collect(10_000)) == COUNT


@pytest.mark.long
def test_zeros_that_decompress_without_end_take_no_memory_for_it(backend):
    """A hundred MiB of a block of zeros is refused at its start."""
    made = zlib.compressobj(9, zlib.DEFLATED, 31)
    data = made.compress(HEAD) + b"".join(made.compress(bytes(1 << 20)) for _ in range(100)) + made.flush()
    assert read(data)[0] == 0


class Pipe:
    """A pipe, and a thread that writes a piece whenever the test says so."""

    def __init__(self, blocking=True):
        self.reading, self.writing = os.pipe()
        os.set_blocking(self.reading, blocking)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for one in (self.reading, self.writing):
            with contextlib.suppress(OSError):
                os.close(one)


OPENED = {
    "buffered, as sys.stdin.buffer": lambda fd: os.fdopen(fd, "rb", closefd=False),
    "unbuffered": lambda fd: os.fdopen(fd, "rb", 0, closefd=False),
}


@pytest.mark.needs("pipes that do not block")
@pytest.mark.parametrize("blocking", [True, False])
@pytest.mark.parametrize("opened", OPENED.values(), ids=OPENED)
@pytest.mark.parametrize("compressed", [False, True])
def test_a_pipe_gives_each_packet_when_it_comes(backend, opened, blocking, compressed):
    made = zlib.compressobj(6, zlib.DEFLATED, 31)
    with Pipe(blocking) as pipe, opened(pipe.reading) as file, mcast.files.Reader(file) as reader:

        def write(data):
            os.write(pipe.writing, made.compress(data) + made.flush(zlib.Z_SYNC_FLUSH) if compressed else data)

        write(HEAD)
        for number, packet in enumerate(packets(5), start=1):
            write(packet)  # the next one is written when this one was delivered
            assert reader.recv().timestamp == number * 10**9
        os.close(pipe.writing)
        with pytest.raises(EOFError if not compressed else CaptureError):
            reader.recv()


@contextlib.contextmanager
def high_descriptor(descriptor, least=1500):
    """A duplicate whose number is beyond what select(2) takes, as a program with many connections has them."""
    import fcntl
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (-1, resource.RLIM_INFINITY) and hard <= least:
        pytest.skip("feature process limits: no descriptors of such numbers")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, least + 1), hard))
    try:
        one = fcntl.fcntl(descriptor, fcntl.F_DUPFD, least)
        try:
            yield one
        finally:
            os.close(one)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.needs("pipes that do not block")
@pytest.mark.needs("process limits")
def test_a_pipe_is_waited_for_whatever_its_number(backend):
    with (
        Pipe(blocking=False) as pipe,
        high_descriptor(pipe.reading) as high,
        os.fdopen(high, "rb", 0, closefd=False) as file,
        mcast.files.Reader(file, follow=True) as reader,
    ):
        os.write(pipe.writing, HEAD)
        with pytest.raises(TimeoutError):
            reader.recv(timeout=0.01)
        os.write(pipe.writing, packets(1)[0])
        assert reader.recv().timestamp == 10**9


@pytest.mark.needs("pipes that do not block")
@pytest.mark.parametrize("opened", OPENED.values(), ids=OPENED)
def test_a_pause_of_a_pipe_that_does_not_block_is_not_its_end(backend, opened):
    with Pipe(blocking=False) as pipe, opened(pipe.reading) as file, mcast.files.Reader(file) as reader:
        os.write(pipe.writing, HEAD)
        came = []
        thread = threading.Thread(target=lambda: came.extend(reader.recv_batch() for _ in range(2)))
        thread.start()
        for packet in packets(2):
            before = len(came)
            os.write(pipe.writing, packet)
            while len(came) == before:
                thread.join(0.001)
        thread.join(20)
        assert [len(batch) for batch in came] == [1, 1]


@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_a_file_that_grows_is_followed(backend, tmp_path, kind):
    path = tmp_path / "growing.pcapng"
    made = zlib.compressobj(6, zlib.DEFLATED, 31)
    first, second, third = packets(3)

    def append(data):
        with path.open("ab") as file:
            file.write(made.compress(data) + made.flush(zlib.Z_SYNC_FLUSH) if kind == "gzip" else data)

    append(HEAD + first)
    with mcast.open(path, follow=True, timeout=0) as reader:
        assert reader.recv().timestamp == 10**9
        with pytest.raises(TimeoutError, match="has no more packet yet"):
            reader.recv()
        assert len(reader.collect(5)) == 0
        append(second[:50])
        with pytest.raises(TimeoutError):
            reader.recv_batch()
        append(second[50:] + third)
        assert [packet.timestamp for packet in reader.packets(timeout=5, count=2)] == [2 * 10**9, 3 * 10**9]
        assert list(reader.batches(timeout="1ms")) == []


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_the_first_bytes_of_a_stream_come_one_by_one(backend, tmp_path, kind, cut):
    """Those of the file, and those of the stream behind another one: what they are is known from four on."""
    path = tmp_path / "growing.pcapng"
    first, second = packets(2)
    streams = [HEAD + first, second] if kind == "plain" else [gzip.compress(HEAD + first), gzip.compress(second)]
    with path.open("wb", buffering=0) as file, mcast.open(path, follow=True, timeout=0) as reader:
        for number, stream in enumerate(streams, 1):
            file.write(stream[:cut])
            with pytest.raises(TimeoutError):
                reader.recv()
            file.write(stream[cut:])
            assert reader.recv(timeout=20).timestamp == number * 10**9


@pytest.mark.parametrize("size", [0, -100])
def test_a_followed_file_that_is_cut_is_an_error(backend, tmp_path, size):
    """Nothing would come until it is as large as it was, and that would be from the middle of a block."""
    path = tmp_path / "growing.pcapng"
    path.write_bytes(WHOLE)
    with mcast.open(path, follow=True, timeout=20) as reader:
        assert len(reader.collect(COUNT)) == COUNT
        size %= len(WHOLE)
        os.truncate(path, size)
        with pytest.raises(CaptureError, match=f"the file was cut to {size} bytes, and {len(WHOLE)} were read"):
            reader.recv()
        with pytest.raises(CaptureError, match="was cut"):
            reader.recv_batch()


def test_following_ends_when_the_reader_is_closed(backend, tmp_path):
    path = tmp_path / "growing.pcapng"
    path.write_bytes(WHOLE)
    reader = mcast.open(path, follow=True)
    came = []
    thread = threading.Thread(target=lambda: came.extend(map(len, reader)))
    thread.start()
    until(lambda: sum(came) == COUNT)
    reader.close()
    thread.join(20)
    assert not thread.is_alive()


def test_only_packets_of_the_wanted_times_are_delivered(backend):
    data = HEAD + b"".join(packets(10, at=1_700_000_000))
    second = 10**9
    begin = 1_700_000_003 * second
    as_text = "2023-11-14T22:13:23Z"
    as_moment = datetime.datetime.fromtimestamp(1_700_000_003, datetime.UTC)
    for start in (begin, as_text, as_moment):
        with mcast.open(io.BytesIO(data), start=start, end=begin + 4 * second) as reader:
            assert [packet.timestamp for packet in reader.collect(99)] == [begin + n * second for n in range(4)]
            assert (reader.stats.received, reader.stats.filtered) == (4, 6)


def test_a_packet_without_a_time_is_in_no_span(backend):
    data = HEAD + cf.simple_packet(cf.datagram()) + b"".join(packets(3))
    for span, expected in (({}, 4), ({"end": 3 * 10**9}, 2), ({"start": 0}, 3), ({"start": 0, "end": 2**63 - 1}, 3)):
        with mcast.open(io.BytesIO(data), **span) as reader:
            assert len(reader.collect(9)) == expected


MOMENTS = {
    "2026-11-28T13:00:00Z": 1_795_870_800 * 10**9,
    "2026-11-28 14:00:00.123456789+01:00": 1_795_870_800_123_456_789,
    "2026-11-28T13:00:00.5Z": 1_795_870_800_500_000_000,
    5: 5,
}


@pytest.mark.parametrize(("value", "expected"), MOMENTS.items())
def test_times_of_day(value, expected):
    assert moment_in_ns(value, "start") == expected


@pytest.mark.parametrize(
    "value", ["2026-11-28T13:00:00", "noon", datetime.datetime(2026, 11, 28), True, 2**63, "", 1.5]
)
def test_what_is_no_time_of_day_is_refused(value):
    with pytest.raises(ArgumentError, match=r"start .* is no time; give ns"):
        moment_in_ns(value, "start")
