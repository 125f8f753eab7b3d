"""Packets written from where they are (writev(2)): the same file as by way of a buffer, and whole blocks whatever the system takes."""

import errno
import io
import itertools
import os
import signal

import pytest

import mcast_fast as mcast
from mcast_fast import _core
from mcast_fast._core.layout import Flag
from tests.test_pcapng import NOW, batch_of, read, record, some, written

FRAME = bytes.fromhex("01005e010101020000000001 0800") + bytes(100)


@pytest.fixture
def in_place(backend, monkeypatch):
    """Counts the batches that are written in place; at least one was, where the system has writev(2)."""
    counted = []
    write = mcast.files.Writer._write_in_place
    monkeypatch.setattr(mcast.files.Writer, "_write_in_place", lambda *args: (counted.append(1), write(*args))[1])
    yield counted
    assert counted or not _core.files.GATHERS


def mixed(count, frames=False):
    """Packets of all lengths, on two interfaces, with drops, shared times, known and unknown headers, and whole frames."""
    packets = []
    for i, known in zip(range(count), itertools.cycle([Flag.TTL, Flag.TTL | Flag.TOS, 0])):
        payload = bytes([i % 251]) * (i % 400)
        flags = known | (Flag.COALESCED if i % 5 == 0 else 0)
        if frames and i % 3 == 0:
            payload, flags = FRAME + payload, flags | Flag.FRAME
        packets.append((record(payload, NOW + i, 2 + i // 1000 % 2, dropped=i % 7 == 0, flags=flags), payload))
    return batch_of(*packets)


@pytest.mark.long
@pytest.mark.parametrize("form", ["pcapng", "pcap"])
@pytest.mark.parametrize("link", ["ethernet", "raw"])
def test_it_is_the_same_file(tmp_path, in_place, form, link):
    batch = mixed(2500, frames=link == "ethernet")
    path = tmp_path / "feed"
    with mcast.files.Writer(path, form=form, link=link) as writer:
        assert writer.write(batch) == 2500
        assert writer.accepted == writer.stats.packets + writer.stats.gathered == 2500
        assert writer.stats.gathered == 0 or not _core.files.GATHERS
        writer.write(some(3))
        writer.write(batch)
        assert writer.accepted == 5003
    assert writer.stats.batches == 3
    assert path.read_bytes() == written(batch, some(3), batch, form=form, link=link)
    assert writer.size == writer.stats.bytes == path.stat().st_size


def test_a_packet_that_cannot_be_written_is_refused_behind_all_before_it(tmp_path, in_place):
    path = tmp_path / "feed.pcapng"
    good = [(record(bytes(200), NOW + i), bytes(200)) for i in range(700)]
    bad = (record(bytes(65_508)), bytes(65_508))
    with mcast.files.Writer(path) as writer:
        with pytest.raises(mcast.ArgumentError, match="packet 700 of the batch"):
            writer.write(batch_of(*good, bad))
        writer.write(some(1000))
    assert len(read(path.read_bytes())) == writer.stats.packets == 1700


@pytest.mark.needs("process limits")
@pytest.mark.parametrize("room", [1, 30_000, 100_000, 250_001])
@pytest.mark.parametrize("form", ["pcapng", "pcap"])
def test_a_full_disk_leaves_whole_packets_and_counts_them(tmp_path, in_place, room, form):
    """A system call that takes less than all of it is followed by one for the rest, whose refusal is reported."""
    import resource

    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    path = tmp_path / f"feed.{form}"
    writer = mcast.files.Writer(path)
    writer.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + room, before[1]))
    try:
        with pytest.raises(mcast.errors.FileError, match="ulimit -f") as caught:
            writer.write(some(1000, 256, flags=Flag.TTL | Flag.TOS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    error = caught.value
    writer.close()
    assert (error.packets, error.bytes) == (writer.stats.packets, path.stat().st_size)
    assert len(read(path.read_bytes())) == error.packets == writer.accepted
    assert room < 1000 or error.packets > room // 512


@pytest.mark.needs("pipes that do not block")
def test_a_pipe_that_does_not_block_counts_what_it_took(in_place):
    """What is in the pipe is what is counted, and a block that it took in part."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with io.FileIO(reading) as out, io.FileIO(writing, "w") as file:
        writer = mcast.files.Writer(file)
        with pytest.raises(mcast.errors.FileError) as caught:
            for _ in range(100):
                writer.write(some(300))
        writer.close()
        file.close()
        taken = b"".join(iter(lambda: out.read(1 << 20), b""))
    assert caught.value.errno == errno.EAGAIN
    assert 0 < caught.value.bytes <= len(taken)
    assert len(read(taken[: caught.value.bytes])) == caught.value.packets


@pytest.mark.needs("broken pipes")
def test_a_reader_that_has_gone_is_reported(in_place):
    reading, writing = os.pipe()
    os.close(reading)
    with io.FileIO(writing, "w") as file:
        writer = mcast.files.Writer(file)
        with pytest.raises(mcast.errors.FileError) as caught:
            writer.write(some(1000))
        writer.close()
    assert (caught.value.errno, caught.value.packets) == (errno.EPIPE, 0)


@pytest.mark.needs("writev")
@pytest.mark.parametrize("backend", ["pure"], indirect=True)  # whose system call can be replaced
@pytest.mark.parametrize("taken", [0, 1, 5000])
def test_what_the_system_does_not_take_is_written_behind_it(backend, tmp_path, monkeypatch, taken):
    """A call that ends early, as one that a signal interrupts: nothing is missing, and nothing twice."""
    writev = os.writev
    answers = itertools.cycle([taken, None])

    def short(descriptor, vectors):
        most = next(answers)
        return writev(descriptor, vectors) if most is None else os.write(descriptor, b"".join(vectors)[:most])

    monkeypatch.setattr(os, "writev", short)
    path = tmp_path / "feed.pcapng"
    with mcast.files.Writer(path) as writer:
        writer.write(some(2000))
    assert path.read_bytes() == written(some(2000))
    assert writer.stats.packets == 2000
