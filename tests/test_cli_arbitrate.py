"""The command line and the example over legs: files of both, a recording, and a feed that is sent on."""

import asyncio
import json
import struct
import subprocess
import sys
from pathlib import Path

import pytest

import mcast_fast as mcast
from mcast_fast import aio, files, sequence
from tests.conftest import Place, loopback
from tests.legs import GROUPS, MS, NOW, batch_of, check, numbers
from tests.test_cli_sequence import run

EXAMPLE = Path(__file__).parents[1] / "examples" / "two_legs.py"
LOST = {5, 6, 40}, {6, 70}


@pytest.fixture
def captures(tmp_path):
    """Two legs of the numbers 0 to 99; 6 is on none of them."""
    paths = [tmp_path / "a.pcapng", tmp_path / "b.pcapng"]
    for at, path in enumerate(paths):
        rows = [(n, NOW + (n + 9 * at) * MS, n.to_bytes(8, "big")) for n in range(100) if n not in LOST[at]]
        with files.Writer(path) as writer:
            writer.write(batch_of(rows, GROUPS[at]))
    return paths


def test_files_of_two_legs(backend, captures):
    found = json.loads(run("arbitrate", *captures, "-f", "u64be@0", "--json", "--fail-on-loss", code=3).stdout)
    assert (found["expected"], found["delivered"], found["recovered"], found["unrecovered"]) == (100, 99, 3, 1)
    assert [(leg["lost"], leg["covered"]) for leg in found["legs"]] == [(3, 2), (2, 1)]
    assert found["skew"]["max"] == 9 * MS
    text = run("arbitrate", *captures, "-f", "u64be@0", "--no-order").stdout.splitlines()
    assert text[0].startswith("expected 100, delivered 99, duplicates ")
    assert text[2].startswith("leg 0: ended, received 97, lost 3, covered 2,")


def test_the_feed_is_recorded(backend, captures, tmp_path):
    path = tmp_path / "feed.pcapng"
    run("arbitrate", *captures, "-f", "u64be@0", "-w", path)
    with mcast.open(path) as reader:
        batch = reader.collect(1000)
    assert numbers([batch]) == [n for n in range(100) if n != 6]
    assert {packet.group for packet in batch} == {"239.1.1.1", "239.2.1.1"}
    assert "leg 1" in run("arbitrate", *captures, "-f", "u64be@0", "-w", "-").stderr


def test_the_feed_is_not_written_over_a_leg(backend, captures):
    before = [path.read_bytes() for path in captures]
    for target in captures:
        assert "is its own target" in run("arbitrate", *captures, "-f", "u64be@0", "-w", target, code=2).stderr
    assert [path.read_bytes() for path in captures] == before


@pytest.mark.parametrize("linked", [False, pytest.param(True, marks=pytest.mark.needs("symbolic links"))])
def test_a_leg_is_not_written_over(backend, captures, tmp_path, linked):
    before = captures[1].read_bytes()
    path = captures[1]
    if linked:
        path = tmp_path / "link.pcapng"
        path.symlink_to(captures[1])
    result = run("arbitrate", *captures, "-f", "u64be@0", "-w", path, code=2)
    assert result.stderr == f"mcast-fast: {path} is its own target; write to another file\n"
    assert captures[1].read_bytes() == before


def test_what_a_leg_may_still_bring_at_the_end_is_no_loss_of_it(backend, captures):
    """The second leg is 9 ms later: it has not brought all that the first one had when there was enough."""
    found = json.loads(run("arbitrate", *captures, "-f", "u64be@0", "-c", 1, "--json").stdout)
    assert found["expected"] == 100
    assert found["legs"][1]["pending"] > 0
    assert found["legs"][1]["lost"] <= len(LOST[1])


@pytest.mark.needs("kernel_timestamps")
def test_the_feed_is_sent_on(backend, captures):
    group = Place(4, loopback()).group()
    with mcast.Receiver(group, timeout=5) as rx:
        run("arbitrate", *captures, "-f", "u64be@0", "--to", group, "--ttl", 0)
        assert numbers([rx.collect(99)]) == [n for n in range(100) if n != 6]


def test_it_shows_its_progress(backend, monkeypatch):
    monkeypatch.setattr("mcast_fast.cli.progress.SECONDS", 0.02)
    groups = [Place(4, loopback()).group() for _ in range(2)]
    result = run("arbitrate", *groups, "-f", "rtp", "-d", "100ms", "--progress", code=4)
    line = result.stderr.splitlines()[0]  # of what does not fit, as where interfaces have long names, the end is shown
    assert line.startswith("mcast-fast: 0 packets/s, 0.0 Mbit/s, 0 unrecovered, ")
    assert line.endswith(str(groups[1]).rpartition(":")[2])
    assert "packets/s" not in run("arbitrate", *groups, "-f", "rtp", "-d", "100ms", "-q", code=4).stderr


def test_wrong_words(captures, tmp_path):
    assert "not both" in run("arbitrate", *captures, "-f", "rtp", "-w", "x", "--to", "239.1.1.1:1", code=2).stderr
    assert "is not a format" in run("arbitrate", *captures, "-f", "rtq", code=2).stderr
    assert "is not A=B" in run("arbitrate", *captures, "-f", "rtp", "--pair", "239.1.1.1", code=2).stderr
    assert "195 packets without a number by this format" in run("arbitrate", *captures, "-f", "rtp", code=4).stderr
    torn = tmp_path / "torn.pcapng"
    torn.write_bytes(captures[0].read_bytes()[:-3])
    done = run("arbitrate", torn, captures[1], "-f", "u64be@0", code=1)
    assert "torn.pcapng" in done.stderr
    assert "delivered 99" in done.stdout


def test_the_example(captures):
    done = subprocess.run([sys.executable, EXAMPLE, "u64be@0", *captures], check=True, capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "lost on all legs: 1",
        "delivered 99, recovered 3, lost on all legs 1",
        "leg A: received 97, lost 3, covered 2, first 97",
        "leg B: received 98, lost 2, covered 1, first 2",
    ]


@pytest.mark.needs("kernel_timestamps")
def test_two_receivers_and_a_recorder(backend, tmp_path):
    """Live: both legs on the loopback; one lost what the other has."""
    places = [Place(4, loopback()).group() for _ in range(2)]
    path = tmp_path / "feed.pcapng"
    with (
        mcast.Receiver(places[0]) as a,
        mcast.Receiver(places[1]) as b,
        sequence.Arbiter([a, b], "u32be@0", hold="10s") as feed,
        mcast.Sender(places[0], ttl=0) as to_a,
        mcast.Sender(places[1], ttl=0) as to_b,
        files.Recorder(feed, path) as recorder,
    ):
        for number in range(200):
            if number % 7:
                to_a.send(struct.pack(">I", number))
            if number % 5:
                to_b.send(struct.pack(">I", number))
        recorder.soon(recorder.stop)
        result = recorder.run()
        stats = feed.stats
        check(stats)
    assert result.written == stats.received == stats.delivered
    with mcast.open(path) as reader:
        assert numbers(reader, 4) == [n for n in range(200) if n % 35]
    assert [leg.lost + leg.absent for leg in stats.legs] == [28, 39]  # 0: nothing shows it
    assert (stats.expected, stats.unrecovered) == (199, 5)


@pytest.mark.needs("kernel_timestamps")
def test_awaited(backend):
    """Two receivers of asyncio; what is held comes when `hold` has passed, and a close ends the iteration."""

    async def receive():
        groups = [Place(4, loopback()).group() for _ in range(2)]
        async with (
            aio.Receiver(groups[0]) as a,
            aio.Receiver(groups[1]) as b,
            aio.Arbiter([a, b], "u32be@0", hold="100ms") as feed,
        ):
            with pytest.raises(TimeoutError):
                await feed.recv(timeout=0.01)
            with mcast.Sender(groups[0], ttl=0) as to_a, mcast.Sender(groups[1], ttl=0) as to_b:
                for number in (0, 1, 3, 6):
                    to_a.send(struct.pack(">I", number))
                for number in (1, 2, 6, 7):
                    to_b.send(struct.pack(">I", number))
            first = await feed.recv()
            got = numbers([batch async for batch in feed.batches(count=5)], 4)
            asyncio.get_running_loop().call_later(0.01, feed.close)
            assert [batch async for batch in feed] == []
            return int.from_bytes(first.data, "big"), got, feed.stats

    first, got, stats = asyncio.run(receive())
    assert (first, got) == (0, [1, 2, 3, 6, 7])
    assert (stats.delivered, stats.unrecovered) == (6, 2)
    check(stats)
