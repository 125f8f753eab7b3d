"""Capture files merged by time: what is kept, in which order, and what cannot be read."""

import gzip
import importlib
import io
import os
import random
import shutil
import struct
import subprocess
import threading

import pytest

import mcast_fast as mcast
from mcast_fast import _core, files
from mcast_fast.files import _merge
from tests import capture_files as made
from tests.test_pcapng import some, written

START = 1_795_870_800_000_000_000
MS = 1_000_000


def frame(number, size=60):
    return made.datagram(struct.pack(">I", number) + bytes(size))


def plain(path, numbers, step=MS, name="eth0", **named):
    """A recording of packets with these numbers, whose times they are."""
    body = b"".join(made.packet(frame(number), ticks=START + number * step) for number in numbers)
    path.write_bytes(made.section() + made.description(name=name, resolution=9, **named) + body)
    return path


def contents(data, multicast_only=True):
    """(number, time, interface, dropped) of each packet."""
    with mcast.open(io.BytesIO(data), multicast_only=multicast_only) as reader:
        return [
            (struct.unpack_from(">I", p.data)[0], p.timestamp, p.interface, p.dropped)
            for batch in reader
            for p in batch
        ]


def merged(*paths):
    """The result and what is reported of it."""
    target = io.BytesIO()
    done = files.merge(paths, target)
    return target.getvalue(), done


def blocks_of(data):
    """(type, body) of the blocks of a file in this machine's byte order."""
    at, found = 0, []
    while at < len(data):
        kind, length = struct.unpack_from("=II", data, at)
        found.append((kind, data[at + 8 : at + length - 4]))
        at += length
    return found


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6))
def test_packets_come_in_the_order_of_time_and_none_is_lost(backend, tmp_path, seed, monkeypatch):
    monkeypatch.setattr(_merge, "SMALLEST_PIECE", 1000)
    monkeypatch.setattr(_merge, "PIECES", 5000)
    monkeypatch.setattr(_merge, "OUTPUT", 700)
    chosen = random.Random(seed)
    parts = [[] for _ in range(chosen.randrange(1, 7))]
    for number in range(1500):
        chosen.choice(parts).append(number)
    for part in parts:  # each a little out of order
        for at in range(0, len(part), 100):
            part[at : at + 100] = chosen.sample(part[at : at + 100], len(part[at : at + 100]))
    paths = [plain(tmp_path / f"{at}.pcapng", part, name=f"eth{at}") for at, part in enumerate(parts)]
    data, done = merged(*paths)
    owners = {number: f"eth{at}" for at, part in enumerate(parts) for number in part}
    assert contents(data) == [(number, START + number * MS, owners[number], 0) for number in range(1500)]
    assert (done.files, done.blocks, done.late, done.left_out) == (len(parts), 1500, 0, 0)
    assert (done.bytes, done.interfaces) == (len(data), len(parts))


def test_what_comes_too_late_is_counted(backend, tmp_path):
    count = _merge.HELD * 2
    data, done = merged(plain(tmp_path / "a", [*range(1, count), 0, count]), plain(tmp_path / "b", [5000]))
    numbers = [row[0] for row in contents(data)]
    assert sorted(numbers) == [*range(count + 1), 5000]
    assert done.late in (0, 1)
    assert done.late == (numbers != sorted(numbers))


def test_the_hold_is_as_large_as_it_is_said_to_be(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(_merge, "SMALLEST_PIECE", 300)
    monkeypatch.setattr(_merge, "PIECES", 300)
    for distance, late in ((_merge.HELD, 0), (_merge.HELD + 20, 1)):
        order = [*range(1, distance + 1), 0, *range(distance + 1, distance + 40)]
        data, done = merged(plain(tmp_path / "a", order))
        assert done.late == late
        assert ([row[0] for row in contents(data)] == sorted(order)) == (not late)


def test_packets_of_one_time_are_in_the_order_of_the_files(backend, tmp_path):
    first, second = plain(tmp_path / "b", range(5), 0), plain(tmp_path / "a", range(5, 10), 0)
    assert [row[0] for row in contents(merged(first, second)[0])] == list(range(10))


def test_packets_of_one_time_stay_in_the_order_of_their_file(backend, tmp_path):
    """Also where others of it come late, so that it has to be sorted."""
    body = b"".join(made.packet(frame(number), ticks=START + (number % 3) * MS) for number in range(60))
    path = tmp_path / "a"
    path.write_bytes(made.section() + made.description(name="eth0", resolution=9) + body)
    assert [row[0] for row in contents(merged(path)[0])] == sorted(range(60), key=lambda number: number % 3)


def test_a_packet_without_a_time_stays_behind_the_one_before(backend, tmp_path):
    times = {0: START, 1: START + 5 * MS, 2: 0, 3: START + 6 * MS}
    body = b"".join(made.packet(frame(number), ticks=time) for number, time in times.items())
    path = tmp_path / "a"
    path.write_bytes(made.section() + made.description(name="eth0", resolution=9) + body)
    data, done = merged(path, plain(tmp_path / "b", [4]))
    assert ([row[0] for row in contents(data)], done.late) == ([0, 4, 1, 2, 3], 0)


def test_every_packet_behind_the_youngest_so_far_is_late(backend, tmp_path, monkeypatch):
    """Also one that is younger than a late one before it."""
    monkeypatch.setattr(_merge, "SMALLEST_PIECE", 300)
    monkeypatch.setattr(_merge, "PIECES", 300)
    order = [*range(10, 700), 2, *range(700, 1400), 4, *range(1400, 1800)]
    data, done = merged(plain(tmp_path / "a", order))
    numbers = [row[0] for row in contents(data)]
    assert done.late == sum(number < max(numbers[:at], default=0) for at, number in enumerate(numbers)) == 2
    order = [*range(10, 700), *range(2, 10), *range(700, 1100)]
    assert merged(plain(tmp_path / "b", order))[1].late == 8


def test_every_block_is_kept_as_it_is(backend, tmp_path):
    """Frames that are no UDP, comments, drops, hashes, names, statistics."""
    comment = made.option("=", 1, b"seen") + made.option("=", 2988, b"a custom one") + bytes(4)
    order = "<" if struct.pack("=H", 1) == struct.pack("<H", 1) else ">"
    body = struct.pack("=5I", 0, *divmod(START + 3, 2**32), 3, 99) + b"arp\0" + comment
    kept = [
        (6, body),
        (4, struct.pack("=HH", 1, 8) + bytes([10, 0, 0, 5]) + b"one\0" + bytes(4)),  # names of addresses
        (5, struct.pack("=III", 0, *divmod(START + 9, 2**32)) + made.option("=", 7, struct.pack("=Q", 3)) + bytes(4)),
        (0xBAD, struct.pack("=I", 32473) + b"copy"),
    ]
    head = made.section(order) + made.description(order, name="eth0", resolution=9)
    path = tmp_path / "a.pcapng"
    path.write_bytes(head + b"".join(made.block("=", *one) for one in kept) + made.block("=", 0x40000BAD, b"none"))
    data, done = merged(path)
    assert blocks_of(data)[2:] == kept
    assert (done.blocks, done.left_out) == (4, 1)


@pytest.mark.parametrize("order", "<>")
def test_both_byte_orders_and_old_blocks_become_one_file(backend, tmp_path, order):
    data = made.section(order) + made.description(order, name="old", resolution=6, offset=7)
    data += made.description(order, name="odd", resolution=0x80 | 20)
    seconds = START // 10**9
    data += made.obsolete_packet(frame(1), order, ticks=seconds * 10**6, dropped=9)
    data += made.simple_packet(frame(2), order)
    data += made.packet(frame(3), order, ticks=(seconds + 8) << 20, interface=1, dropped=4)
    data += made.statistics(order, interface=1, dropped_system=11)
    path = tmp_path / "a.pcapng"
    path.write_bytes(data)
    with mcast.open(path) as reader:
        expected = [(p.data, p.timestamp, p.interface, p.dropped) for batch in reader for p in batch]
        counted = [one.dropped_system for one in reader.interfaces]
    result, done = merged(path)
    with mcast.open(io.BytesIO(result)) as reader:
        assert [(p.data, p.timestamp, p.interface, p.dropped) for batch in reader for p in batch] == expected
        assert [one.dropped_system for one in reader.interfaces][:2] == counted == [None, 11]
    assert expected[1][1] is None
    assert done.left_out == 0


@pytest.mark.parametrize("magic", [0xA1B2C3D4, 0xA1B23C4D, 0xA1B2CD34])
@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("version", [(2, 4), (2, 2)])
def test_classic_files_get_blocks(backend, tmp_path, magic, order, version):
    seconds = START // 10**9
    data = made.pcap(*((seconds + n, n, frame(n, n)) for n in range(5)), order=order, magic=magic, version=version)
    classic, other = tmp_path / "a.pcap", plain(tmp_path / "b.pcapng", [2500, 9000])
    classic.write_bytes(data)
    with mcast.open(classic) as reader:
        expected = [(p.data, p.timestamp) for batch in reader for p in batch]
    assert len(expected) == 5
    result, done = merged(classic, other)
    with mcast.open(io.BytesIO(result)) as reader:
        found = [(p.data, p.timestamp) for batch in reader for p in batch]
    assert [one for one in found if one in expected] == expected
    assert [time for _, time in found] == sorted(time for _, time in found)
    assert done.blocks == 7


def test_interfaces_keep_names_comments_and_what_their_section_says(backend, tmp_path):
    head = struct.pack("<IHHq", 0x1A2B3C4D, 1, 0, -1)
    head += made.option("<", 1, b"from the roof") + made.option("<", 3, b"Linux 6.1") + bytes(4)
    path = tmp_path / "a.pcapng"
    path.write_bytes(made.block("<", 0x0A0D0D0A, head) + made.description("<", name="eth7", resolution=9))
    with files.Writer(tmp_path / "b.pcapng") as writer:
        writer.write(_core.views.Batch.from_bytes(b"", b"", {}))
    result, done = merged(path)
    (_, about) = blocks_of(result)[1]
    assert b"eth7" in about
    assert b"from the roof" in about
    assert b"Linux 6.1" in about
    assert done.interfaces == 1


def test_unknown_ttl_and_tos_stay_unknown(backend, tmp_path):
    with files.Writer(tmp_path / "a.pcapng") as writer:
        writer.write(some(3))
    with mcast.open(tmp_path / "a.pcapng") as reader:
        expected = [(p.ttl, p.tos, p.data) for batch in reader for p in batch]
    with mcast.open(io.BytesIO(merged(tmp_path / "a.pcapng")[0])) as reader:
        assert [(p.ttl, p.tos, p.data) for batch in reader for p in batch] == expected
        assert reader.interfaces[0].synthetic


# ---- what cannot be read or written ----


@pytest.mark.parametrize("cut", [1, 30, 61])
def test_of_a_torn_file_all_is_merged_before_the_error(backend, tmp_path, cut):
    torn, whole = plain(tmp_path / "torn.pcapng", range(0, 10, 2)), plain(tmp_path / "b.pcapng", range(1, 10, 2))
    torn.write_bytes(torn.read_bytes()[:-cut])
    target = tmp_path / "out.pcapng"
    with pytest.raises(mcast.errors.CaptureError, match=r"torn.pcapng, offset .* in the middle of a block"):
        files.merge([torn, whole], target)
    assert [row[0] for row in contents(target.read_bytes())] == [*range(8), 9]


BROKEN = {
    "no capture": (b"text, and no capture", "neither pcapng nor pcap"),
    "empty": (b"", "it is empty"),
    "interface": (made.section() + made.packet(frame(1)), "names interface 0 where 0 are described"),
    "length": (made.section() + struct.pack("=II", 6, 7) + bytes(40), "absurd length, 7"),
    "trailer": (made.section() + made.description()[:-4] + bytes(4), "at its start and 0 at its end"),
    "captured": (
        made.section() + made.description() + made.block("=", 6, struct.pack("=5I", 0, 0, 0, 99, 99) + bytes(8)),
        "99 captured bytes where 8 are left",
    ),
    "frame": (
        made.pcap((1, 1, b"")).replace(bytes(8), b"", 0)[:24] + struct.pack("<4I", 1, 1, 2**30, 0),
        "absurd captured",
    ),
    "version": (made.section(major=2), "version 2"),
    "option": (
        made.section("<")
        + made.description("<")
        + made.packet(frame(1), "<", dropped=1)[:-18]
        + b"\xff\xff"
        + made.packet(frame(1), "<", dropped=1)[-16:],
        "runs past",
    ),
}


@pytest.mark.parametrize(("data", "reason"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_file_is_an_error_as_a_reader_raises_it(backend, tmp_path, data, reason):
    path = tmp_path / "broken"
    path.write_bytes(data)
    with pytest.raises(mcast.errors.CaptureError, match=reason) as of_merge:
        merged(path)
    with pytest.raises(mcast.errors.CaptureError) as of_reader, mcast.open(path) as reader:
        for _ in reader:
            pass
    assert str(of_merge.value) == str(of_reader.value)


@pytest.mark.parametrize("seed", range(30))
def test_mutations_are_read_or_refused_alike_by_merge_and_reader(backend, tmp_path, seed):
    chosen = random.Random(seed)
    path = tmp_path / "a"
    data = bytearray(plain(path, range(30)).read_bytes() + made.statistics(received=3))
    for _ in range(3):
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    path.write_bytes(data)
    failures = []
    for read in (lambda: merged(path), lambda: [len(batch) for batch in files.scan(path, multicast_only=False)]):
        try:
            read()
            failures.append(None)
        except mcast.errors.CaptureError as error:
            failures.append(error.offset)
    if failures[0] != failures[1]:  # the reader does not look into what it does not need
        assert None in failures


def test_a_file_that_is_replaced_meanwhile_is_an_error(backend, tmp_path):
    """Rotated files, of which the writer has begun another one by the same name."""
    path, other = tmp_path / "feed.pcapng", tmp_path / "other.pcapng"
    for one in (path, other):
        one.write_bytes(written(some(5)))
    pieces = _merge._Pieces(str(path), 100)
    assert len(pieces.next(0)) == 100
    other.replace(path)
    with pytest.raises(mcast.errors.CaptureError, match="offset 100: it was replaced while it was read"):
        pieces.next(0)


@pytest.mark.needs("named pipes")
@pytest.mark.parametrize("compress", [bytes, gzip.compress])
def test_a_pipe_is_read_once(backend, tmp_path, compress):
    """As the shell's <(…): opened a second time, it has lost what was read of it, or is waited for."""
    data = compress(plain(tmp_path / "a", range(0, 50, 2)).read_bytes())
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    feeder = threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True)
    feeder.start()
    merged_bytes, done = merged(pipe, plain(tmp_path / "b", range(1, 50, 2)))
    feeder.join(20)
    assert [row[0] for row in contents(merged_bytes)] == list(range(50))
    assert done.files == 2


def test_compressed_files_and_targets(backend, tmp_path):
    for name, numbers in (("a.pcapng.gz", range(0, 50, 2)), ("b.pcapng.gz", range(1, 50, 2))):
        path = plain(tmp_path / name, numbers)
        path.write_bytes(gzip.compress(path.read_bytes()))
    target = tmp_path / "out.pcapng.gz"
    done = files.merge(tmp_path / "?.pcapng.gz", target)
    assert [row[0] for row in contents(target.read_bytes())] == list(range(50))
    assert done.files == 2


def test_a_file_is_not_its_own_target_and_results_are_pcapng(backend, tmp_path):
    path = plain(tmp_path / "a.pcapng", range(3))
    before = path.read_bytes()
    with pytest.raises(mcast.ArgumentError, match="its own target"):
        files.merge([path], path)
    with pytest.raises(mcast.ArgumentError, match="pcapng"):
        files.merge([path], tmp_path / "out.pcap")
    with pytest.raises(mcast.errors.FileError, match="open"):
        files.merge([tmp_path / "gone"], tmp_path / "out.pcapng")
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


class Full(io.BytesIO):
    """A disk that holds 5,000 bytes."""

    def write(self, data):
        space = 5000 - self.tell()
        if not space:
            raise OSError(28, "full")
        return super().write(data[:space])


def test_where_the_disk_is_full_whole_blocks_are_left(backend, tmp_path, monkeypatch):
    monkeypatch.setattr(_merge, "OUTPUT", 1000)
    target = Full()
    with pytest.raises(mcast.errors.FileError, match="write"):
        files.merge([plain(tmp_path / "a", range(500))], target)
    numbers = [row[0] for row in contents(target.getvalue())]
    assert numbers
    assert numbers == list(range(len(numbers)))


@pytest.mark.long
@pytest.mark.needs("process limits", "named threads")
def test_hundreds_of_files_need_few_descriptors_and_little_memory(backend, tmp_path):
    paths = [plain(tmp_path / f"{at}", range(at, 2000, 200)) for at in range(200)]
    resource = importlib.import_module("resource")  # of POSIX
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 8, hard))  # noqa: PTH208
    try:
        data, done = merged(*paths)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert [row[0] for row in contents(data)] == list(range(2000))
    assert done.files == 200


@pytest.mark.long
@pytest.mark.needs("tshark")
def test_wireshark_reads_it_in_strict_order(backend, tmp_path):
    chosen = random.Random(1)
    parts = [sorted(chosen.sample(range(3000), 300)) for _ in range(5)]
    paths = [plain(tmp_path / f"{at}.pcapng", part, name=f"eth{at}") for at, part in enumerate(parts)]
    target = tmp_path / "out.pcapng"
    files.merge(paths, target)
    assert shutil.which("tshark")
    fields = ["-T", "fields", "-e", "frame.time_epoch", "-e", "frame.interface_name"]
    shown = subprocess.run(["tshark", "-r", str(target), *fields], capture_output=True, text=True, check=True).stdout
    rows = [line.split("\t") for line in shown.splitlines()]
    assert len(rows) == 1500
    assert [row[0] for row in rows] == sorted(row[0] for row in rows)
    assert {row[1] for row in rows} == {f"eth{at}" for at in range(5)}
