"""Readers and writers at every moment of their lives: close(), signals, threads, forked children."""

import contextlib
import io
import itertools
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import _core, _delivery
from mcast_fast._core.layout import RECORD, V4_MAPPED
from mcast_fast.files import _input, _pcapng, _reader, _unpacking
from tests.conftest import descriptors
from tests.interrupts import Interrupt, Interrupter, needs_tracing

ADDRESSES = V4_MAPPED + bytes([10, 0, 0, 1]), V4_MAPPED + bytes([239, 1, 1, 1])
SIZE = 400
MOMENTS = 1000
LONGEST = 300e-6  # seconds into a call, in which a signal comes


def numbered(count, start=0):
    """A batch of packets that hold their numbers."""
    rows = [
        RECORD.pack(1 + at, at * SIZE, 1 + at % 3, 0, SIZE, SIZE, *ADDRESSES, 1, 5000, 0, 0, 0) for at in range(count)
    ]
    data = b"".join((start + at).to_bytes(SIZE, "big") for at in range(count))
    return _core.views.Batch.from_bytes(b"".join(rows), data, {1: "eth0", 2: "eth1", 3: "eth2"})


def numbers(batch):
    return [int.from_bytes(payload, "big") for payload in batch.payloads()]


def numbers_in(file):
    with mcast.open(file) as reader:
        return [number for batch in reader for number in numbers(batch)]


def a_file(path, count):
    with mcast.files.Writer(path) as writer:
        writer.write(numbered(count))
    return path


class Alarm(Exception):  # noqa: N818 - what a handler raises is no error of ours
    pass


class Alarms:
    """Calling it has a signal come within LONGEST, whose handler is `action`: another moment each time, and only while it
    is `armed`. That is set without a call, behind which a handler could come."""

    def __init__(self, action, longest=LONGEST):
        self.armed = False
        self._longest = longest
        self.action = action
        self._moments = itertools.cycle(random.Random(1).sample(range(1, 98), 97))

    def __enter__(self):
        self._before = signal.signal(signal.SIGALRM, lambda *_: self.action() if self.armed else None)
        return self

    def __call__(self):
        self.armed = True
        signal.setitimer(signal.ITIMER_REAL, self._longest * next(self._moments) / 97)

    def __exit__(self, *_):
        self.armed = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, self._before)


def raise_alarm():
    raise Alarm


@pytest.fixture
def alarms():
    with Alarms(raise_alarm) as alarms:
        yield alarms


# ---- an exception of a signal handler ----

READ = {
    "recv": lambda reader: [reader.recv()],
    "recv_batch": lambda reader: reader.recv_batch(7),
    "recv_batch of all": lambda reader: reader.recv_batch(),
    "collect": lambda reader: reader.collect(100),
    "mixed": lambda reader: reader.collect(13) if time.perf_counter_ns() & 64 else reader.recv_batch(5),
}


class Plain:
    """A file that is Python, and can be read again."""

    def __init__(self, path):
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115

    def readinto(self, room):
        count = self._file.readinto(room)
        for _ in range(10):
            count += 0
        return count

    def seekable(self):
        return True

    def tell(self):
        return self._file.tell()

    def seek(self, offset):
        return self._file.seek(offset)

    def close(self):
        self._file.close()


@pytest.mark.needs("timers")
@pytest.mark.parametrize("kind", ["pcapng", "pcap", "pcapng.gz", "python"])
@pytest.mark.parametrize("how", READ)
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # raised where Python itself ignores it
@pytest.mark.long
def test_reading_goes_on_after_an_exception_of_a_signal_handler(backend, tmp_path, monkeypatch, kind, how):
    monkeypatch.setattr(_input, "CHUNK", 20_000)
    count = 4000 if backend == "fast" else 1500
    path = a_file(tmp_path / ("feed.pcapng" if kind == "python" else f"feed.{kind}"), count)
    came, interrupted = [], 0
    file = Plain(path) if kind == "python" else path
    with mcast.open(file) as reader, Alarms(raise_alarm) as arm:
        while True:
            got = None
            try:
                arm()
                got = READ[how](reader)
                arm.armed = False
            except EOFError:
                arm.armed = False
                break
            except Alarm:
                interrupted += 1
                arm.armed = False
            came += [int.from_bytes(packet.data, "big") for packet in got or ()]
            if got is not None and not len(got):
                break
    if kind == "python":
        file.close()
    assert came == list(range(count))
    assert reader.stats.received == count
    assert interrupted


@needs_tracing
@pytest.mark.parametrize("kind", ["pcapng", "pcapng.gz"])
def test_an_exception_at_any_moment_of_a_first_call_loses_nothing(backend, tmp_path, kind):
    """What the file is, is found out then."""
    path = a_file(tmp_path / f"feed.{kind}", 20)
    files = frozenset({_input.__file__, _unpacking.__file__, _reader.__file__})
    for number in itertools.count(1):
        interrupter = Interrupter(files, number)
        with mcast.open(path) as reader:
            came = []
            with contextlib.suppress(Interrupt):
                came += interrupter.run(lambda reader=reader: reader.recv_batch(3)).payloads()
            came += [packet.data for packet in reader.collect(20 - len(came))]
            assert [int.from_bytes(data, "big") for data in came] == list(range(20)), number
        if not interrupter.happened:
            break
    assert number > 20


def write_all(writer, count, step):
    """Write numbered packets until they are in the writer; how often a signal came in between."""
    interrupted = 0
    longest = LONGEST if _core.backend == "fast" else LONGEST * step  # or a batch is never encoded in time
    with Alarms(raise_alarm, longest) as arm:
        while (done := writer.stats.packets + writer.stats.gathered) < count:
            batch = numbered(min(step, count - done), done)
            try:
                arm()
                writer.write(batch)
                writer.flush()
                arm.armed = False
            except Alarm:
                interrupted += 1
                arm.armed = False
            except mcast.errors.FileError:
                arm.armed = False
                raise
    return interrupted


@pytest.mark.needs("timers")
@pytest.mark.parametrize("step", [3, 400])  # gathered, and written without being so
@pytest.mark.parametrize("suffix", ["pcapng", "pcap", "pcapng.gz", "pcapng.zst"])
@pytest.mark.long
def test_writing_goes_on_after_an_exception_of_a_signal_handler(backend, tmp_path, suffix, step):
    path, count = (
        tmp_path / f"feed.{suffix}",
        (6000 if step == 3 else 100_000) if backend == "fast" else 1500 if step == 3 else 20_000,
    )
    if suffix.endswith("zst"):
        pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
    with mcast.files.Writer(path) as writer:
        assert write_all(writer, count, step)
    assert numbers_in(path) == list(range(count))
    assert (writer.stats.packets, writer.stats.gathered) == (count, 0)
    assert writer.size == path.stat().st_size or suffix.endswith(("gz", "zst"))


# ---- close() in a signal handler ----

CALLS = {
    "recv": lambda reader, writer: reader.recv(),
    "recv_batch": lambda reader, writer: reader.recv_batch(),
    "collect": lambda reader, writer: reader.collect(2000),
    "stats": lambda reader, writer: (reader.stats, reader.interfaces, reader.form, reader.offset, repr(reader)),
    "write": lambda reader, writer: writer.write(numbered(3)),
    "write at once": lambda reader, writer: writer.write(numbered(400)),
    "flush": lambda reader, writer: (writer.write(numbered(1)), writer.flush()),
    "statistics": lambda reader, writer: writer.statistics(mcast.Stats(received=1)),
    "close": lambda reader, writer: (reader.close(), writer.close()),
}


@pytest.mark.needs("timers")
@pytest.mark.parametrize("suffix", ["pcapng", "pcapng.gz"])
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.long
def test_a_signal_handler_may_close_in_the_middle_of_any_call(backend, tmp_path, no_leak, alarms, suffix, call):
    source = a_file(tmp_path / f"in.{suffix}", 3000)
    for moment in range(MOMENTS // 20):
        path = tmp_path / f"{moment}.{suffix}"
        reader, writer = mcast.open(source), mcast.files.Writer(path)
        came = []

        def close(reader=reader, writer=writer, came=came):
            came.append(1)
            reader.close()
            writer.close()

        alarms.action = close
        alarms()
        try:
            while not came:
                CALLS[call](reader, writer)
        except (mcast.ClosedError, EOFError):
            pass
        alarms.armed = False
        close()
        assert reader.closed
        assert writer.closed
        assert reader._input._file.closed
        assert writer._file.closed
        for one in (reader.recv, lambda writer=writer: writer.write(numbered(1))):
            with pytest.raises(mcast.ClosedError, match="is closed"):
                one()
        assert len(numbers_in(path)) == writer.stats.packets
        path.unlink()


def test_another_call_in_a_signal_handler_is_refused(backend, tmp_path):
    path = a_file(tmp_path / "feed.pcapng", 10)
    errors = []

    class File(io.BytesIO):
        def read1(self, size):
            try:
                reader.recv()
            except mcast.MulticastError as error:
                errors.append(str(error))
            assert reader.stats.received == 0
            return super().read1(size)

    reader = mcast.open(File(path.read_bytes()))
    assert numbers(reader.recv_batch()) == list(range(10))
    assert "in the middle of another call" in errors[0]


# ---- close() in another thread ----


@pytest.mark.needs("named pipes")
def test_close_does_not_wait_for_a_thread_that_reads(backend, tmp_path):
    whole = a_file(tmp_path / "feed.pcapng", 10).read_bytes()
    end, start = os.pipe()
    before = descriptors()
    file = os.fdopen(end, "rb", buffering=0)
    reader = mcast.open(file)
    reading, ended = threading.Event(), []

    def read():
        try:
            reading.set()
            ended.append(len(reader.collect(1000)))
        except mcast.ClosedError as error:
            ended.append(str(error))

    thread = threading.Thread(target=read)
    thread.start()
    reading.wait(10)
    os.write(start, whole[:-1])
    reader.close()
    assert reader.closed
    assert reader.stats.received <= 10  # who looks does not wait for who reads
    os.close(start)
    thread.join(20)
    assert ended == ["the reader is closed"]
    file.close()
    assert descriptors() == before - 2


def test_a_writer_that_is_closed_in_another_thread_is_whole(backend, tmp_path):
    for turn in range(30):
        path = tmp_path / f"{turn}.pcapng"
        writer = mcast.files.Writer(path)
        begun = threading.Event()

        def write(writer=writer, begun=begun):
            with contextlib.suppress(mcast.ClosedError):
                for start in itertools.count(0, 40):
                    writer.write(numbered(40, start))
                    begun.set()

        thread = threading.Thread(target=write)
        thread.start()
        begun.wait(20)
        writer.close()
        thread.join(20)
        assert writer._file.closed
        assert numbers_in(path) == list(range(writer.stats.packets))
        assert writer.stats.gathered == 0


# ---- threads that look while others read ----


@pytest.mark.long
def test_what_a_reader_knows_can_be_read_while_it_reads(backend):
    out = io.BytesIO()
    out.write(_pcapng.section_header("x", ""))
    for number in range(20_000):
        out.write(_pcapng.interface_description(f"if{number}", "", 0, False))
    wrong, stop = [], threading.Event()

    def look():
        while not stop.is_set():
            reader = readers[-1]
            found = reader.interfaces
            if [one.name for one in found] != [f"if{number}" for number in range(len(found))]:
                wrong.append(found)
            _ = reader.stats, reader.form, reader.offset, repr(reader)

    readers = [mcast.files.Reader(io.BytesIO(out.getvalue()))]
    thread = threading.Thread(target=look)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        thread.start()
        for _ in range(3):
            with pytest.raises(EOFError):
                readers[-1].recv_batch()
            assert len(readers[-1].interfaces) == 20_000
            readers.append(mcast.files.Reader(io.BytesIO(out.getvalue())))
    finally:
        stop.set()
        thread.join(60)
        sys.setswitchinterval(before)
    assert not wrong


def test_threads_share_a_reader(backend, tmp_path):
    path = a_file(tmp_path / "feed.pcapng", 5000)
    came = []
    with mcast.open(path, batch_size=50) as reader:

        def read(how):
            with contextlib.suppress(EOFError):
                while got := READ[how](reader):
                    came.append([int.from_bytes(packet.data, "big") for packet in got])

        threads = [threading.Thread(target=read, args=(how,)) for how in READ if how != "mixed"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert sorted(itertools.chain(*came)) == list(range(5000))


def test_threads_share_a_codec(backend):
    """Below the locks of Reader and Writer: no call may crash, whatever another thread does."""
    encoder, batch, errors = _core.files.Encoder("pcapng"), numbered(50), []
    out = io.BytesIO()
    with mcast.files.Writer(out) as writer:
        writer.write(batch)
    decoder = _core.files.Decoder("shared", None, False)
    for index in (1, 2, 3):
        encoder.add(index, 0)  # TTL and TOS are unknown

    def use():
        try:
            for _ in range(50):
                with contextlib.suppress(BufferError):  # another thread holds what was encoded
                    piece, stop = encoder.encode(batch, 0)
                    assert stop == 50
                    piece.release()
                with contextlib.suppress(mcast.errors.CaptureError):  # two files at once make no sense
                    decoder.decode(out.getvalue(), 1000, True)
                decoder.take().payloads()
                _ = decoder.interfaces, decoder.counters(), decoder.count, decoder.needed, decoder.form, decoder.offset
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not errors


# ---- fork ----

FORK = """
import gc, os, sys
import mcast_fast as mcast
from tests.lifecycle.test_files import numbered, numbers, numbers_in

path, end = sys.argv[1:]
writer = mcast.files.Writer(path)
writer.write(numbered(300))
writer.flush()
writer.write(numbered(3, 300))  # gathered
source = mcast.open(os.path.dirname(path) + "/in.pcapng.gz", batch_size=10)
first = numbers(source.recv_batch(5))
child = os.fork()
if not child:
    calls = [lambda: writer.write(numbered(1)), writer.flush, writer.sync, lambda: writer.stats, lambda: writer.size,
             lambda: writer.statistics(mcast.Stats()), source.recv, source.recv_batch, lambda: source.collect(1),
             lambda: source.stats, lambda: source.interfaces, lambda: source.form, lambda: list(source)]
    for call in calls:
        try:
            call()
        except mcast.ClosedError as error:
            assert "was opened in another process" in str(error), error
        else:
            os._exit(3)
    repr(writer), repr(source)
    if end == "close":
        writer.close()
        source.close()
        assert writer.closed and source.closed
    elif end == "collect":
        del writer, source
        gc.collect()
    elif end == "raise":
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        raise KeyboardInterrupt
    elif end == "with":
        with writer, source:
            pass
    sys.exit(0)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) in ((-2, 1, 130) if end == "raise" else (0,)), status
writer.write(numbered(300, 303))
writer.close()
rest = [number for batch in source for number in numbers(batch)]
assert first + rest == list(range(100)), (first, rest)
assert numbers_in(path) == list(range(603)) and writer.stats.packets == 603
print("whole")
"""


@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize("suffix", ["pcapng", "pcap", "pcapng.gz", "pcapng.zst"])
@pytest.mark.parametrize("end", ["exit", "close", "collect", "raise", "with"])
@pytest.mark.long
def test_a_forked_child_leaves_files_alone(backend, tmp_path, suffix, end):
    if suffix.endswith("zst"):
        pytest.importorskip("backports.zstd" if sys.version_info < (3, 14) else "compression.zstd")
    a_file(tmp_path / "in.pcapng.gz", 100)
    ended = run(FORK, backend, str(tmp_path / f"feed.{suffix}"), end)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "whole\n", "")


def run(code, backend, *arguments):
    environment = os.environ | {"MCAST_FAST_BACKEND": backend}
    # Since 3.12 Python warns of every fork beside a thread: those tested here are meant.
    command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", code, *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environment, timeout=30)


STREAM_FINALIZED_LAST = """
import sys
from mcast_fast.files import _streams as streams

raw = open(sys.argv[1], "wb", buffering=0)
stream = streams.packed(raw, "gzip")
stream.write(bytes(1000))
raw.close()
del stream
"""


def test_a_stream_whose_file_was_finalized_first_ends_quietly(backend, tmp_path, monkeypatch):
    """As the members of a reference cycle may be, in whatever order."""
    monkeypatch.setenv("PYTHONDEVMODE", "1")  # before 3.13 errors of such a finalizer are shown only then
    ended = run(STREAM_FINALIZED_LAST, backend, str(tmp_path / "feed.gz"))
    assert (ended.returncode, ended.stderr) == (0, "")


# ---- what a reader has left over ----


@pytest.mark.parametrize("first", ["recv", "recv_batch"])
def test_collect_gives_all_that_is_left(backend, tmp_path, first):
    path = a_file(tmp_path / "feed.pcapng", 1000)
    with mcast.open(path, batch_size=100) as reader:
        before = READ[first](reader)
        rest = reader.collect(1_000_000)
        assert len(rest) == 1000 - len(before)
        assert [int.from_bytes(one.data, "big") for one in [*before, *rest]] == list(range(1000))
        assert len(reader.collect(1)) == 0
        with pytest.raises(EOFError, match="has ended"):
            reader.recv()


def test_what_would_not_fit_a_batch_is_left_for_the_next(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(_delivery, "ARENA_LIMIT", 500 * SIZE)  # in the place of 4 GiB
    with mcast.open(a_file(tmp_path / "feed.pcapng", 1000), batch_size=300) as reader:
        assert int.from_bytes(reader.recv().data, "big") == 0
        parts = [reader.collect(1_000_000) for _ in range(3)]
    assert [len(part) for part in parts] == [299, 700, 0]
    assert [number for part in parts for number in numbers(part)] == list(range(1, 1000))


def test_names_of_a_batch_stay_what_they_were(backend):
    """However much the file describes later: an index is never used again."""
    out = io.BytesIO()
    for name in ("eth0", "lan0"):  # two sections, each with an interface 0
        part = io.BytesIO()
        with mcast.files.Writer(part) as writer:
            rows = RECORD.pack(1, 0, 1, 0, 1, 1, *ADDRESSES, 1, 5000, 0, 0, 0)
            writer.write(_core.views.Batch.from_bytes(rows, b"x", {1: name}))
        out.write(part.getvalue())
    with mcast.open(io.BytesIO(out.getvalue())) as reader:
        first = reader.recv_batch(1)
        assert [packet.interface for packet in first] == ["eth0"]
        second = reader.recv_batch(1)
        assert [packet.interface for packet in second] == ["lan0"]
        assert [packet.interface for packet in first] == ["eth0"]
        assert (first[0].interface_index, second[0].interface_index) == (1, 2)


def test_drops_beyond_64_bits_are_counted_alike(backend):
    with mcast.files.Writer(writer_file := io.BytesIO()) as writer:
        rows = RECORD.pack(1, 0, 1, 7, 1, 1, *ADDRESSES, 1, 5000, 0, 0, 0)
        writer.write(_core.views.Batch.from_bytes(rows, b"x", {1: "eth0"}))
    block = writer_file.getvalue()
    assert block.count((7).to_bytes(8, sys.byteorder)) == 1
    block = block.replace((7).to_bytes(8, sys.byteorder), (2**64 - 2).to_bytes(8, sys.byteorder))
    with mcast.open(io.BytesIO(block * 3)) as reader:
        assert [packet.dropped for packet in reader.collect(10)] == [2**32 - 1] * 3
        assert reader.stats.dropped == 2**64 - 1
