"""Manifests, and questions to files, in threads of one machine."""

import gc
import json
import os
import re
import socket
import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import _core, cluster, errors, files, sequence
from mcast_fast._core.addresses import map_address
from mcast_fast._core.layout import Flag
from mcast_fast.cluster import _clock, _manifest, _table, _tasks, _verify, _whole
from mcast_fast.errors import MulticastWarning
from tests.test_cli import invoke
from tests.test_pcapng import NOW, record
from tests.test_sequence import joined

MS = 1_000_000
SECOND = 1_000_000_000


def packet(number, time, group=1, sender=7):
    """The values of a record, and its payload, in the format "mcast-fast"."""
    payload = sequence.stamp(number, sender, time) + struct.pack(">I", number % 2**32)
    values = record(payload, time, flags=Flag(0))
    values[7] = map_address(f"239.1.1.{group}")
    return values, payload


def write(path, packets):
    """Write a file of packets: (number, time) or (number, time, group)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with files.Writer(path) as writer:
        writer.write(joined(_core.views, [packet(*one) for one in packets]))
    return path


def stream(numbers, step=MS, start=NOW, group=1):
    return [(number, start + number * step, group) for number in numbers]


def manifested(path, host, **clock):
    """Have a manifest made for a file."""
    state = _clock.ClockState(NOW, "kernel", **{"synchronized": True, "offset": 0, "error": 1000} | clock)
    made = _manifest.make_manifest(str(path), host, {"": "mcast-fast"}, state)
    made.store()
    return made


@pytest.fixture
def two_hosts(backend, tmp_path):
    """Files of two hosts in directories of theirs: a records 0 to 999 and fails, b takes over at 1100; both have 500 to 999 but a few."""
    a = [number for number in range(1000) if number not in (600, 601, 700)]
    b = [number for number in range(500, 3000) if not 1000 <= number < 1100 and number not in (650, 700)]
    paths = [
        write(tmp_path / "a" / "a-1.pcapng", stream(a[:400])),
        write(tmp_path / "a" / "a-2.pcapng", stream(a[400:])),
        write(tmp_path / "b" / "b-1.pcapng", stream(b[:1500])),
        write(tmp_path / "b" / "b-2.pcapng", stream(b[1500:])),
    ]
    for path in paths:
        manifested(path, path.parent.name)
    return tmp_path


def told(captures):
    return [(one.kind, Path(one.path).name) for one in captures.problems]


def batches_text(batches):
    return [(one.timestamp, one.group, one.data) for batch in batches for one in batch]


# ---- manifests ----


def test_a_manifest_says_what_the_file_holds(backend, tmp_path):
    path = write(tmp_path / "feed.pcapng", stream([0, 1, 2, 5, 6]) + stream(range(10, 13), group=2))
    made = manifested(path, "alpha")
    assert (made.packets, made.first_time, made.last_time) == (8, NOW, NOW + 12 * MS)
    values = json.loads(Path(f"{path}.manifest.json").read_text())
    assert (values["schema"], values["version"], values["file"], values["host"]) == (
        "mcast-fast-manifest",
        1,
        "feed.pcapng",
        "alpha",
    )
    assert set(values) == set(_manifest.MANIFEST)
    assert values["bytes"] == path.stat().st_size
    assert [(one["group"], one["packets"]) for one in values["groups"]] == [("239.1.1.1", 5), ("239.1.1.2", 3)]
    (first, second) = values["flows"]
    assert first["runs"][0]["gaps"] == [[3, 5]]
    assert first["runs"][0]["times"] == [[5, NOW + 5 * MS]]
    assert (second["runs"][0]["first"], second["runs"][0]["next"]) == (10, 13)
    assert cluster.Manifest.load(f"{path}.manifest.json").as_dict() == made.as_dict()


def test_the_ledger_of_a_recording_is_in_its_manifest(backend, tmp_path):
    batch = joined(_core.views, [packet(*one) for one in stream(range(3))])
    path = tmp_path / "feed.pcapng"
    with files.Writer(path) as writer:
        writer.write(batch)
        writer.statistics(mcast.Stats(received=3, dropped_socket=2, dropped_nic=5))
    ledger = manifested(path, "alpha").contents.ledger
    assert (ledger["delivered"], ledger["dropped_system"], ledger["received"], ledger["dropped"]) == (3, 2, 5, None)


@pytest.mark.long
@settings(max_examples=25)
@given(st.data())
def test_no_manifest_breaks_what_reads_it(data):
    values = json.loads(json.dumps(MADE))
    for _ in range(data.draw(st.integers(1, 3))):
        place = values
        while True:
            keys = list(place) if isinstance(place, dict) else list(range(len(place)))
            key = data.draw(st.sampled_from(keys))
            if not isinstance(place[key], dict | list) or not place[key] or data.draw(st.booleans()):
                break
            place = place[key]
        place[key] = data.draw(
            st.one_of(
                st.none(), st.integers(-(2**70), 2**70), st.text(max_size=3), st.just([]), st.just({}), st.just(1.5)
            )
        )
    try:
        manifest = cluster.Manifest.from_dict(values, "/d/feed.pcapng.manifest.json")
    except errors.ArgumentError as error:
        assert str(error).startswith("/d/feed.pcapng.manifest.json")
    else:
        assert isinstance(manifest.as_dict(), dict)


MADE = {
    "schema": "mcast-fast-manifest",
    "version": 1,
    "file": "feed.pcapng",
    "bytes": 5,
    "modified": 1,
    "sha256": "00",
    "host": "a",
    "plan": "",
    "interfaces": ["eth0"],
    "packets": 1,
    "first_time": 1,
    "last_time": 1,
    "ledger": {"received": None, "dropped": None, "dropped_system": 1, "delivered": 1},
    "groups": [
        {"group": "239.1.1.1", "port": 1, "source": "::", "packets": 1, "bytes": 1, "first_time": 1, "last_time": None}
    ],
    "flows": [
        {
            "format": "rtp",
            "group": "239.1.1.1",
            "port": 1,
            "source": "::",
            "source_port": None,
            "key": "00",
            "bits": 16,
            "packets": 1,
            "received": 1,
            "strays": 0,
            "ambiguous": 0,
            "first_time": 1,
            "last_time": 1,
            "runs": [
                {
                    "first": 1,
                    "next": 5,
                    "first_time": 1,
                    "last_time": 1,
                    "gaps": [[2, 3]],
                    "times": [[3, 1]],
                    "anchors": [[1, 1]],
                }
            ],
        }
    ],
    "unnumbered": {"rtp": 0},
    "evicted": {"rtp": 0},
    "clock": {"at": 1, "source": "kernel", "synchronized": True, "offset": 0, "error": 5},
    "error": "",
}


HOSTILE = {
    "bytes": {"bytes": 2**64 - 1},
    "packets": {"packets": 2**64 - 1},
    "clock": {"clock": MADE["clock"] | {"offset": 2**100}},
    "error of the clock": {"clock": MADE["clock"] | {"error": 2**100}},
    "plan": {"plan": "\ud800"},
    "directory above": {"file": ".."},
    "elsewhere": {"file": "../feed.pcapng"},
    "no name": {"file": "."},
}


@pytest.mark.parametrize("values", HOSTILE.values(), ids=HOSTILE.keys())
def test_what_no_index_of_manifests_can_hold_is_no_manifest(values):
    with pytest.raises(errors.ArgumentError, match=r"^/d/feed\.pcapng\.manifest\.json"):
        cluster.Manifest.from_dict(MADE | values, "/d/feed.pcapng.manifest.json")


def test_a_run_whose_numbers_are_not_in_order_is_named_with_its_file():
    values = json.loads(json.dumps(MADE))
    values["flows"][0]["runs"][0]["first"] = 9
    with pytest.raises(errors.ArgumentError, match=r"^/d/feed\.pcapng\.manifest\.json: 'flows': a run's numbers"):
        cluster.Manifest.from_dict(values, "/d/feed.pcapng.manifest.json")


def test_a_file_that_grows_meanwhile_gets_no_manifest(backend, tmp_path, monkeypatch):
    path, read = write(tmp_path / "feed.pcapng", stream(range(5))), _manifest.survey

    def survey_and_append(*arguments):
        found = read(*arguments)
        with Path(path).open("ab") as file:
            file.write(b"more")
        return found

    monkeypatch.setattr(_manifest, "survey", survey_and_append)
    with pytest.raises(errors.FileError, match="changed while its manifest was made"):
        manifested(path, "a")


def test_drops_beyond_all_counts_are_indexed(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    ledger = dict.fromkeys(MADE["ledger"], 2**64 - 1)
    manifest = cluster.Manifest.from_dict(MADE | {"ledger": ledger}, "/d/feed.pcapng.manifest.json")
    _table.store_table([manifest], str(tmp_path / "all.parquet"))
    assert parquet.read_table(tmp_path / "all.parquet")["dropped"].to_pylist() == [2**63 - 1]


def test_verify_names_what_is_wrong(two_hosts):
    assert invoke("manifest", "verify", two_hosts / "a", two_hosts / "b").exit_code == 0
    (two_hosts / "a" / "a-1.pcapng").unlink()
    changed = two_hosts / "a" / "a-2.pcapng"
    data = bytearray(changed.read_bytes())
    data[-40] ^= 1
    changed.write_bytes(data)
    torn = two_hosts / "b" / "b-1.pcapng.manifest.json"
    torn.write_bytes(torn.read_bytes()[:100])
    write(two_hosts / "b" / "b-3.pcapng", stream(range(5)))
    manifested(two_hosts / "b" / "b-2.pcapng", "b", offset=5 * SECOND)
    done = invoke("manifest", "verify", two_hosts / "a", two_hosts / "b", "--json")
    assert done.exit_code == 1
    found = {(one["kind"], Path(one["path"]).name) for one in json.loads(done.output)["findings"]}
    assert found == {
        ("missing", "a-1.pcapng"),
        ("changed", "a-2.pcapng"),
        ("torn", "b-1.pcapng"),
        ("clock", "b-2.pcapng"),
        ("unlisted", "b-3.pcapng"),
    }
    text = invoke("manifest", "verify", two_hosts / "a", two_hosts / "b").output
    assert "was off by 5.000 s" in text
    assert "5 findings" in text


@pytest.mark.long
def test_verify_finds_clocks_that_differ_by_what_hosts_have(backend, tmp_path):
    every = range(0, 20_000, 10)
    paths = []
    for host, ahead in (("a", 0), ("b", 5 * SECOND)):
        packets = [(number // 10, NOW + number * MS + ahead) for number in every]
        paths.append(write(tmp_path / f"{host}.pcapng", packets))
        manifested(paths[-1], host)
    (finding,) = _verify.verify(list(map(str, paths)), quick=True)
    assert finding.kind == "clock"
    assert re.match(r"b was [345]\.\d s or more ahead of a, by the packets", finding.text)


def test_the_verb_makes_shows_and_indexes(backend, tmp_path):
    pytest.importorskip("pyarrow")
    path = write(tmp_path / "feed.pcapng", stream(range(5)))
    assert invoke("manifest", "make", path, "--host", "alpha", "-f", "mcast-fast").exit_code == 0
    assert "alpha, 5 packets" in invoke("manifest", "show", path).output
    assert invoke("manifest", "index", tmp_path).exit_code == 2
    done = invoke("manifest", "index", tmp_path, "-w", tmp_path / "all.parquet")
    assert done.output.strip().endswith("1 manifests")
    captures = cluster.open(tmp_path / "all.parquet")
    assert [(file.host, Path(file.path).name) for file in captures.files] == [("alpha", "feed.pcapng")]
    assert captures.flows()[0].received == 5
    assert captures.work.by_manifest == 1


def test_a_manifest_that_is_interrupted_leaves_nothing_beside_it(tmp_path, monkeypatch):
    def interrupted(_descriptor):
        raise KeyboardInterrupt

    monkeypatch.setattr(_whole.os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        _whole.write_whole(str(tmp_path / "x"), b"data")
    assert list(tmp_path.iterdir()) == []


def test_a_ring_of_files_deletes_manifests_too(backend, tmp_path):
    from mcast_fast.files._recorder import remove

    path = write(tmp_path / "feed.pcapng", stream(range(5)))
    manifested(path, "alpha")
    remove(str(path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "synchronized", "offset"),
    [
        (
            "A29FC87B,162.159.200.123,4,1796000000.1,0.000012,-0.00003,0.00005,1.2,0.0,0.01,0.008,0.001,64.4,Normal",
            True,
            12_000,
        ),
        ("7F7F0101,,0,0.0,5.0,0,0,0,0,0,0,1.0,0,Not synchronised", False, 5 * SECOND),
    ],
)
def test_what_chrony_says(line, synchronized, offset):
    state = _clock.chrony_state(line, 5)
    assert (state.source, state.synchronized, state.offset) == ("chrony", synchronized, offset)
    assert state.error >= offset
    assert _clock.chrony_state("506 Cannot talk to daemon", 5) is None


@pytest.mark.needs("answers of Linux")
def test_the_kernel_says_how_the_clock_stands(monkeypatch):
    monkeypatch.setattr(_clock.shutil, "which", lambda name: None)
    state = _clock.clock_state()
    assert state.source == "kernel"
    assert state.synchronized in (True, False)
    assert state.error >= 0
    monkeypatch.setattr(_clock, "_kernel", lambda: None)
    assert _clock.clock_state().synchronized is None


# ---- questions ----


@pytest.mark.long
@pytest.mark.parametrize("by_manifest", [True, False])
def test_two_hosts_as_one(two_hosts, by_manifest):
    if not by_manifest:
        for path in two_hosts.glob("*/*.json"):
            values = json.loads(path.read_text())
            path.write_text(json.dumps(values | {"flows": [], "unnumbered": {}, "evicted": {}}))
    captures = cluster.open([two_hosts / "a", two_hosts / "b"], format="mcast-fast")
    (flow,) = captures.flows()
    assert captures.problems == ()
    assert captures.work.by_manifest == (4 if by_manifest else 0)
    assert (captures.work.scanned > 0) == (not by_manifest)
    assert (flow.expected, flow.lost, flow.restarts) == (3000, 101, 0)
    assert [(gap.first, gap.last, gap.count) for gap in flow.gaps] == [(700, 700, 1), (1000, 1099, 100)]
    assert flow.gaps[1].time == NOW + 1100 * MS
    assert captures.gaps() == flow.gaps
    a, b = flow.hosts
    assert (a.host, a.received, a.lost, a.covered, a.spans) == ("a", 997, 3, 2, ((600, 601), (700, 700)))
    assert (b.host, b.received, b.lost, b.covered) == ("b", 2398, 102, 1)


@pytest.mark.long
def test_one_feed_of_two_hosts_and_who_lost_what(two_hosts):
    captures = cluster.open([two_hosts / "*" / "*.pcapng"], format="mcast-fast")
    with captures.feed("239.1.1.1:5000") as feed:
        numbers = [number for batch in feed for number in sequence.numbers(batch, "mcast-fast").number]
        stats = feed.stats
    assert numbers == [number for number in range(3000) if number != 700 and not 1000 <= number < 1100]
    assert stats.unrecovered == 101
    assert (stats.legs[1].lost, stats.legs[1].covered, stats.legs[1].absent) == (102, 1, 500)


@pytest.mark.long
@pytest.mark.parametrize("format", ["mcast-fast", None])
def test_fetch_merges_by_time_and_removes_what_came_twice(two_hosts, format):
    for path in two_hosts.glob("*/*.json"):
        path.unlink()  # of files that nothing is known of
    captures = cluster.open([two_hosts / "a", two_hosts / "b"], format=format)
    batches = list(captures.fetch("239.1.1.1:5000"))
    numbers = [number for batch in batches for number in sequence.numbers(batch, "mcast-fast").number]
    times = [one.timestamp for batch in batches for one in batch]
    assert times == sorted(times)
    if format is not None:
        assert numbers == [number for number in range(3000) if number != 700 and not 1000 <= number < 1100]
    else:
        assert len(numbers) == 997 + 2398
        assert numbers == sorted(numbers)
    start, end = NOW + 300 * MS, NOW + 350 * MS
    some = batches_text(captures.fetch("239.1.1.1:5000", start, end))
    assert [time for time, _, _ in some] == [NOW + number * MS for number in range(300, 350)]
    assert list(captures.fetch("239.1.1.2:5000")) == []


def test_packets_of_one_time_come_by_host_and_sequence(backend, tmp_path):
    for host, first in (("b", 0), ("a", 10)):
        write(tmp_path / host / "x.pcapng", [(first + at, NOW) for at in range(3)])
        manifested(tmp_path / host / "x.pcapng", host)
    captures = cluster.open([tmp_path / "a", tmp_path / "b"])
    numbers = [
        one for batch in captures.fetch("239.1.1.1:5000") for one in sequence.numbers(batch, "mcast-fast").number
    ]
    assert numbers == [10, 11, 12, 0, 1, 2]


@pytest.fixture
def scans(monkeypatch):
    """The files that were read from their start, when answers travel by some 16 packets at a time."""
    begun = []

    def noted(paths, **options):
        begun.extend(paths)
        return files.scan(paths, batch_size=16, **options)

    monkeypatch.setattr(_tasks, "PIECE", 256)
    monkeypatch.setattr(_tasks, "scan", noted)
    return begun


def test_large_answers_travel_in_pieces(two_hosts, scans):
    fetched = cluster.open([two_hosts / "a"]).fetch("239.1.1.1:5000")
    first = next(fetched)
    assert len(first) <= 16
    assert len(_tasks._readings) == 1  # it stays open
    assert len(first) + sum(map(len, fetched)) == 997
    assert scans == list(dict.fromkeys(scans))  # each file once
    assert _tasks._readings == {}


def test_a_file_that_did_not_stay_open_is_read_again(two_hosts, scans, monkeypatch):
    whole = batches_text(cluster.open([two_hosts / "a"]).fetch("239.1.1.1:5000"))
    once = len(scans)
    monkeypatch.setattr(_tasks, "KEPT", 1)
    captures = cluster.open([two_hosts / "a"])
    one, other = captures.fetch("239.1.1.1:5000"), captures.fetch("239.1.1.1:5000")
    pairs = list(zip(one, other, strict=True))
    assert batches_text(left for left, _ in pairs) == batches_text(right for _, right in pairs) == whole
    assert len(scans) > 3 * once


def test_an_answer_that_is_left_leaves_nothing_open(two_hosts, scans):
    fetched = cluster.open([two_hosts / "a"]).fetch("239.1.1.1:5000")
    next(fetched)
    (reading,) = _tasks._readings.values()
    del fetched
    gc.collect()
    assert _tasks._readings == {}
    assert reading.batches.gi_frame is None  # its reader and its file are closed


def test_more_hosts_than_an_arbiter_has_legs(backend, tmp_path):
    for at in range(10):
        write(tmp_path / f"h{at}" / "x.pcapng", stream(number for number in range(40) if number % 10 != at or at == 9))
        manifested(tmp_path / f"h{at}" / "x.pcapng", f"h{at}")
    captures = cluster.open([tmp_path / f"h{at}" for at in range(10)], format="mcast-fast")
    numbers = [
        one for batch in captures.fetch("239.1.1.1:5000") for one in sequence.numbers(batch, "mcast-fast").number
    ]
    assert numbers == list(range(40))
    with pytest.raises(errors.ArgumentError, match="more than 8 legs"):
        captures.feed("239.1.1.1:5000")


def test_which_files_cover_a_group_and_a_time(two_hosts):
    captures = cluster.open([two_hosts / "a", two_hosts / "b"])
    names = [Path(file.path).name for file in captures.covering("239.1.1.1:5000", NOW + 2500 * MS)]
    assert names == ["b-2.pcapng"]
    assert captures.covering("239.1.1.9:5000") == ()
    assert len(captures.covering()) == 4
    (two_hosts / "a" / "a-1.pcapng.manifest.json").unlink()
    later = cluster.open([two_hosts / "a"])
    assert [Path(file.path).name for file in later.covering(end=NOW + 100 * MS)] == ["a-1.pcapng"]


def test_a_plan_names_formats_and_legs(backend, tmp_path):
    (tmp_path / "plan.toml").write_text(f"""
[heartbeat]
group = "239.255.77.1:5077"
[files]
directory = '{tmp_path / "shared"}'
[hosts.a]
[hosts.b]
[[groups]]
group = "239.1.1.1:5000"
legs = ["239.1.1.2:5000"]
format = "mcast-fast"
""")
    for host, group, lost in (("a", 1, 5), ("b", 2, 7)):
        numbers = [number for number in range(100) if number != lost]
        manifested(write(tmp_path / "shared" / f"{host}.pcapng", stream(numbers, group=group)), host)
    captures = cluster.open(tmp_path / "plan.toml")
    assert [file.host for file in captures.files] == ["a", "b"]
    assert [(flow.group, flow.lost, flow.format) for flow in captures.flows()] == [
        ("239.1.1.1", 1, "mcast-fast"),
        ("239.1.1.2", 1, "mcast-fast"),
    ]
    captures.flows()
    assert captures.work.by_manifest == 4
    (tmp_path / "plan.toml").write_text((tmp_path / "plan.toml").read_text().replace('"mcast-fast"', '"u64be@16"'))
    other = cluster.open(tmp_path / "plan.toml")  # whose manifests were made for another format
    assert [(flow.lost, flow.format) for flow in other.flows()] == [(1, "u64be@16")] * 2
    assert other.work.by_manifest == 0
    with captures.feed("239.1.1.2:5000") as feed:
        numbers = [one for batch in feed for one in sequence.numbers(batch, "mcast-fast").number]
        assert numbers == list(range(100))
        assert [leg.covered for leg in feed.stats.legs] == [1, 1]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("", ("a-20261129-130000.pcapng", "a-b-20261129-130000.pcapng", "a-b-20261129-130000_00002.pcapng")),
        ("x_{host}.pcapng.gz", ("x_a_00001_1.pcapng.gz", "x_a-b_00001_2.pcapng.gz", "x_a-b.pcapng.gz")),
        ("100%%-%H={host}.pcapng", ("100%-13=a.pcapng", "100%-13=a-b.pcapng", "100%-13=a-b_00002.pcapng")),
        ("%H.pcapng", ("13.pcapng", "14.pcapng", "15.pcapng")),
    ],
)
def test_files_without_a_manifest_are_of_the_host_that_their_names_say(backend, tmp_path, pattern, names):
    """That of a recorder that was killed has none, and in a directory of several hosts nothing else says whose it is."""
    plan = tmp_path / "plan.toml"
    plan.write_text(f"""
[heartbeat]
group = "239.255.77.1:5077"
[files]
directory = '{tmp_path / "shared"}'
{f"name = '{pattern}'" if pattern else ""}
[hosts.a]
[hosts.a-b]
[[groups]]
group = "239.1.1.1:5000"
format = "mcast-fast"
""")
    for number, name in enumerate(names):
        write(tmp_path / "shared" / name, stream(range(100 * number, 100 * number + 100)))
    captures = cluster.open(plan)
    here = socket.gethostname()  # where names say nothing
    hosts = ["a", "a-b", "a-b"] if "{host}" in pattern or not pattern else [here] * 3
    assert {Path(file.path).name: file.host for file in captures.files} == dict(zip(names, hosts, strict=True))
    if hosts[0] != here:
        assert [(one.host, one.received) for one in captures.flows()[0].hosts] == [("a", 100), ("a-b", 200)]


# ---- what goes wrong ----


def test_what_is_wrong_is_said_and_the_rest_is_answered(two_hosts):
    (two_hosts / "a" / "a-1.pcapng").unlink()
    torn = two_hosts / "b" / "b-1.pcapng.manifest.json"
    torn.write_bytes(torn.read_bytes()[:100])
    broken = two_hosts / "b" / "b-2.pcapng"
    broken.write_bytes(broken.read_bytes()[:-10])
    with pytest.warns(MulticastWarning):
        captures = cluster.open([two_hosts / "a", two_hosts / "b"], format="mcast-fast")
    with pytest.warns(MulticastWarning):
        (flow,) = captures.flows()
    assert sorted(told(captures)) == [
        ("changed", "b-2.pcapng"),
        ("missing", "a-1.pcapng"),
        ("torn", "b-1.pcapng"),
        ("unreadable", "b-2.pcapng"),
    ]
    assert (flow.first, flow.last) == (400, 2998)
    assert flow.lost == 101


def test_a_file_that_has_several_paths_is_one_file(two_hosts, monkeypatch):
    """However it is named, and linked: with its manifest, where only one of the paths has one."""
    first = two_hosts / "a" / "a-1.pcapng"
    try:
        (two_hosts / "a" / "0-link.pcapng").symlink_to(first)
        (two_hosts / "a" / "z-hard.pcapng").hardlink_to(first)
    except OSError as error:
        pytest.skip(f"feature symbolic links: {error}")
    monkeypatch.chdir(two_hosts)
    paths = ["a", str(two_hosts / "a"), str(two_hosts / "b" / ".." / "a"), "./a/*.pcapng"]
    captures = cluster.open(paths)
    assert len(captures.files) == 2
    assert {one.host for one in captures.files} == {"a"}
    assert sum(len(batch) for batch in captures.fetch("239.1.1.1:5000")) == 997
    (flow,) = captures.flows()
    assert [(one.host, one.received) for one in flow.hosts] == [("a", 997)]
    (two_hosts / "plan.toml").write_text(
        f'[heartbeat]\ngroup = "239.9.9.9:9000"\n[hosts.a]\ndirectory = {json.dumps(str(two_hosts / "a"))}\n'
        f'[hosts.c]\ndirectory = {json.dumps(str(two_hosts / "b" / ".." / "a"))}\n[[groups]]\ngroup = "239.1.1.1:5000"\n'
    )
    assert len(cluster.open(two_hosts / "plan.toml").files) == 2


def test_an_index_beside_what_it_lists_adds_nothing(two_hosts):
    pytest.importorskip("pyarrow")
    made = [cluster.Manifest.load(str(path)) for path in sorted(two_hosts.glob("*/*.manifest.json"))]
    index = str(two_hosts / "all.parquet")
    _table.store_table(made, index)
    for paths in ([index], [index, index], [index, str(two_hosts / "a")]):
        captures = cluster.open(paths)
        assert len(captures.files) == 4
        assert sum(len(batch) for batch in captures.fetch("239.1.1.1:5000")) == 997 + 2398


@pytest.mark.needs("named pipes")
def test_what_is_no_file_is_not_waited_for(two_hosts):
    """A pipe, whose opening waits for who writes it; said where it is named, or stands where a recording was."""
    pipe = two_hosts / "a" / "pipe.pcapng"
    os.mkfifo(pipe)
    (two_hosts / "a" / "directory.pcapng").mkdir()
    assert told(cluster.open(str(two_hosts / "a"))) == []
    with pytest.warns(MulticastWarning, match="is no regular file"):
        captures = cluster.open([str(pipe), str(two_hosts / "b")])
    assert told(captures) == [("unreadable", "pipe.pcapng")]
    assert len(captures.flows()) == 1
    replaced = two_hosts / "a" / "a-1.pcapng"
    replaced.unlink()
    os.mkfifo(replaced)
    with pytest.warns(MulticastWarning, match="is no regular file"):
        captures = cluster.open(str(two_hosts / "a"))
    assert told(captures) == [("unreadable", "a-1.pcapng")]
    assert sum(len(batch) for batch in captures.fetch("239.1.1.1:5000")) == 597


def test_numbers_of_one_bit_are_followed(two_hosts):
    """Of a format with a mask of one bit, or of a manifest that says so: more cannot be told by it."""
    path = two_hosts / "a" / "a-1.pcapng.manifest.json"
    values = json.loads(path.read_text())
    values["flows"][0]["bits"] = 1
    path.write_text(json.dumps(values))
    (flow,) = cluster.open([str(two_hosts / "a"), str(two_hosts / "b")]).flows()
    assert [(one.host, one.received) for one in flow.hosts] == [("a", 997), ("b", 2398)]


def test_a_clock_that_is_off_is_said(backend, tmp_path):
    for host, ahead in (("a", 0), ("b", 5 * SECOND)):
        packets = [(number, NOW + number * 10 * MS + ahead) for number in range(1000) if number % 100 or host == "b"]
        write(tmp_path / f"{host}.pcapng", packets)
        manifested(tmp_path / f"{host}.pcapng", host)
    captures = cluster.open(tmp_path, format="mcast-fast")
    with pytest.warns(MulticastWarning, match=r"the clock of b is [345]\.\d s or more ahead of that of a"):
        (flow,) = captures.flows()
    assert (flow.expected, flow.lost, flow.restarts) == (1000, 0, 0)
    assert [one.kind for one in captures.problems] == ["clock"]


def test_nothing_and_nonsense(tmp_path):
    with pytest.warns(MulticastWarning, match="none.pcapng"):
        captures = cluster.open(tmp_path / "none.pcapng")
    assert captures.files == captures.flows() == captures.gaps() == ()
    assert cluster.open([]).files == ()
    with pytest.raises(errors.ArgumentError, match="is not a format"):
        cluster.open(tmp_path, format="rpt")
    with pytest.raises(errors.ArgumentError, match="source 5 is not a plan or paths"):
        cluster.open(5)
    with pytest.raises(errors.ArgumentError, match="with its port"):
        captures.fetch("239.1.1.1")
    with pytest.raises(errors.ArgumentError, match=r"format of .* is not known"):
        captures.feed("239.1.1.1:5000")
    with pytest.raises(errors.FileError):
        cluster.open(tmp_path / "plan.toml")


@pytest.mark.long
def test_it_needs_neither_dask_nor_pyarrow(backend, tmp_path):
    write(tmp_path / "feed.pcapng", stream(range(5)))
    code = (
        "import sys; sys.modules['distributed'] = sys.modules['pyarrow'] = None\n"
        "from mcast_fast import cluster\n"
        f"captures = cluster.open({str(tmp_path / 'feed.pcapng')!r}, format='mcast-fast')\n"
        "assert captures.flows()[0].received == 5\n"
        "assert sum(map(len, captures.fetch('239.1.1.1:5000'))) == 5\n"
        "try: captures.to_parquet('x')\n"
        "except NotImplementedError as error: assert 'mcast-fast[cluster]' in str(error), error\n"
        "else: raise SystemExit('no error')\n"
        "try: cluster.open([], client=5)\n"
        "except NotImplementedError as error: assert 'mcast-fast[cluster]' in str(error), error\n"
    )
    environment = os.environ | {"MCAST_FAST_BACKEND": backend, "PYTHONPATH": str(Path(mcast.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=tmp_path)


# ---- Parquet ----


@pytest.mark.long
def test_parquet_of_all_hosts(two_hosts, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    captures = cluster.open([two_hosts / "a", two_hosts / "b"])
    done = captures.to_parquet(tmp_path / "out")
    assert (done.files, done.packets) == (4, 997 + 2398)
    table = parquet.read_table(tmp_path / "out")
    assert table.num_rows == done.packets
    assert table.schema.names[:2] == ["host", "timestamp"]
    rows = sorted(zip(table["host"].to_pylist(), table["payload"].to_pylist(), strict=True))
    expected = [(file.host, one.data) for file in captures.files for batch in files.scan(file.path) for one in batch]
    assert rows == sorted(expected)
    with pytest.raises(errors.ArgumentError, match="nonsense://…@here: ") as caught:
        captures.to_parquet("nonsense://key:secret@here")
    assert "secret" not in str(caught.value)
