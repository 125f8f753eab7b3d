"""The verbs of capture files: info, convert, repair."""

import csv
import importlib
import io
import json
import random
import subprocess
import sys

import pytest

import mcast_fast as mcast
from mcast_fast import _core
from mcast_fast._core.addresses import map_address
from mcast_fast.cli.info import summary_lines
from mcast_fast.files import _summary
from mcast_fast.files._convert import convert_file
from tests import capture_files as cf
from tests.conftest import BACKENDS
from tests.test_cli import environment, invoke, program_backend  # noqa: F401
from tests.test_pcapng import NOW, batch_of, read, record, some, written


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
    file, total, times, _, v4, v6, *_ = result.stdout.splitlines()
    assert file.endswith("feed.pcapng: pcapng, interfaces eth0")
    assert total.startswith("11 packets of 2 flows, 0.000 s, ")
    assert times == "from 2023-11-14T22:13:20.123456789Z to 2023-11-14T22:13:20.123456798Z"
    assert v4.split() == [
        "239.1.1.1:5000", "10.0.0.1", "10", "0.000", "1,000,000,000", "2,048,000", "256/256/256", "0.000000", "0",
    ]  # fmt: skip
    assert v6.split() == ["[ff15::1]:5000", "fe80::1%eth0", "1", "0.000", "-", "-", "3/3/3", "0.000000", "3"]
    assert "received 11, bytes 2,563, truncated 0" in result.stdout


def test_info_as_json(feed):
    told = json.loads(invoke("info", feed, "--json", "239.1.1.1:5000").stdout)
    assert (told["form"], told["received"], told["filtered"], told["error"]) == ("pcapng", 10, 1, None)
    (flow,) = told["flows"]
    assert (flow["group"], flow["packets"], flow["largest_gap"]) == ("239.1.1.1", 10, 1)
    assert (flow["duration"], flow["smallest"], flow["mean"], flow["largest"]) == (9, 256, 256.0, 256)
    assert (told["total"]["packets"], told["total"]["bit_rate"]) == (10, flow["bit_rate"])
    assert told["skipped_kinds"] == {}


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
    assert f"with 10 packets kept; {size - 2 - feed.stat().st_size} bytes cut and kept in {feed}.cut" in result.stdout
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


@pytest.mark.long
def test_a_name_that_the_code_page_does_not_have_is_escaped(program_backend, tmp_path):  # noqa: F811
    path = tmp_path / "named.pcapng"
    path.write_bytes(cf.section() + cf.description(name="Подключение") + cf.packet(cf.datagram()))
    argv = [sys.executable, "-m", "mcast_fast", "info", str(path)]
    done = subprocess.run(
        argv,
        env=environment(program_backend) | {"PYTHONIOENCODING": "cp1252"},
        capture_output=True,
        check=True,
        timeout=30,
    )
    assert b"\\u041f\\u043e" in done.stdout


def test_a_summary_of_any_number_of_flows_is_bounded(backend, tmp_path):
    path = tmp_path / "many.pcap"
    frames = [cf.datagram(group=f"239.1.1.{number % 9}") for number in range(27)]
    path.write_bytes(cf.pcap(*((1, number, frame, len(frame)) for number, frame in enumerate(frames))))
    with mcast.open(path) as reader:
        flows = _summary.summarise("many", reader, 3).flows
    assert sum(flow.packets for flow in flows) == 27
    assert [flow.group for flow in flows][3:] == ["others"]


def hostile(count):
    """Flows of many sizes, in an order that nobody would choose; (group, source, time, length, wire length)."""
    made = random.Random(18)
    for _ in range(count):
        last = int(made.expovariate(0.2)) % 200
        time = made.choice((0, -(2**62), 2**62, *(NOW + made.randrange(10**9) for _ in range(5))))
        length = made.randrange(40)
        yield f"239.1.2.{last}", f"10.0.{made.randrange(3)}.1", time, length, length + made.choice((0, 0, 100))


def summary_of(rows, most, v6=False):
    """A summary of batches of these rows by the chosen backend."""
    summary = _core.files.Summary(most)
    for start in range(0, len(rows), 100):
        made = []
        for group, source, time, length, wire in rows[start : start + 100]:
            values = record(bytes(length), time, wire=wire, dropped=length % 3, v6=v6, index=2 + length % 2)
            if not v6:
                values[6], values[7] = map_address(source), map_address(group)
            made.append((values, bytes(length)))
        summary.add(batch_of(*made))
    return summary.flows()


@pytest.mark.parametrize("most", [1, 7, 50, 10_000])
def test_both_backends_count_alike(most, monkeypatch):
    rows = list(hostile(3000))
    found = []
    for backend in BACKENDS:
        for module in ("files", "views"):
            monkeypatch.setattr(_core, module, importlib.import_module(f"mcast_fast._core.{backend}.{module}"))
        found.append(summary_of(rows, most))
    assert all(one == found[0] for one in found)
    flows, others = found[0]
    assert len(flows) <= most
    assert sum(flow[4] for flow in flows) + (others[4] if others else 0) == 3000


def test_flows_with_the_most_packets_are_listed(backend):
    """Exactly so where no more than twice as many flows are there; of as many packets, those that began first."""
    rows = [(f"239.1.2.{n}", "10.0.0.1", NOW + n, n, n) for n in range(20) for _ in range(1 + n % 10)]
    flows, others = summary_of(rows, 10)
    assert [flow[4] for flow in flows] == [6, 7, 8, 9, 10] * 2
    assert (others[4], others[13], others[14]) == (30, 0, 14)


def test_a_link_local_source_is_another_on_another_interface(backend):
    flows, _ = summary_of([("", "", NOW, length, length) for length in range(4)], 10, v6=True)
    assert [(flow[3], flow[4]) for flow in flows] == [(2, 2), (3, 2)]


def test_a_summary_says_what_it_does_not_take(backend):
    for most in (0, 2**24 + 1):
        with pytest.raises(ValueError, match="flows"):
            _core.files.Summary(most)


@pytest.mark.parametrize("most", [1, 7, 50])
def test_packets_that_are_counted_alone_are_counted_as_batches_are(backend, tmp_path, most):
    """Also where flows move, for there are too many, and where another summary takes the place of one that is gone."""
    path = tmp_path / "feed.pcapng"
    with mcast.files.Writer(path) as writer:
        for group, source, time, length, wire in hostile(2000):
            values = record(bytes(length), time, wire=wire, index=2 + length % 2)
            values[6], values[7] = map_address(source), map_address(group)
            writer.write(batch_of((values, bytes(length))))
    data = path.read_bytes()

    def counted(alone):
        decoder = _core.files.Decoder("feed", None, True)
        found, at = [], 0
        for end in (len(data) // 2, len(data)):
            summary = _core.files.Summary(most)
            at += decoder.decode(memoryview(data)[at:end], 10_000, False, summary if alone else None)
            summary.add(decoder.take())
            found.append(summary.flows())
        return found, decoder.counters() | {"batches": 0}

    assert counted(True) == counted(False)


@pytest.mark.parametrize("most", [1, 3])
def test_flows_that_move_while_a_long_run_of_packets_is_counted_keep_their_packets(backend, most):
    """A run of usual packets remembers where its flows are; new flows make all of them move."""
    made = random.Random(7)
    groups = [f"239.1.1.{min(int(made.expovariate(0.1)), 250)}" for _ in range(600)]
    packets = [cf.packet(cf.datagram(bytes(number % 9), group=group)) for number, group in enumerate(groups)]
    data = cf.section() + cf.description() + b"".join(packets)
    decoder, alone, of_batches = (
        _core.files.Decoder("feed", None, True),
        _core.files.Summary(most),
        _core.files.Summary(most),
    )
    assert decoder.decode(data, 10_000, True, alone) == len(data)
    decoder = _core.files.Decoder("feed", None, True)
    assert decoder.decode(data, 10_000, True) == len(data)
    of_batches.add(decoder.take())
    assert alone.flows() == of_batches.flows()


def test_a_flow_is_counted_where_it_is_wanted_alone(backend, tmp_path):
    """Copies of one flow on another interface are not."""
    path = tmp_path / "two.pcapng"
    packets = [cf.packet(cf.datagram(bytes(number + 1)), interface=number % 2) for number in range(6)]
    path.write_bytes(b"".join([cf.section(), cf.description(name="a"), cf.description(name="b"), *packets]))
    for interface, sizes in (("a", (1, 5)), ("b", (2, 6))):
        with mcast.open(path, f"239.1.1.1%{interface}:5000") as reader:
            (flow,) = _summary.summarise("two", reader).flows
            assert (flow.packets, flow.smallest, flow.largest) == (3, *sizes)
            assert (reader.stats.received, reader.stats.filtered) == (3, 3)


@pytest.mark.parametrize("sequence", [None, "u64be@0"])
def test_a_file_is_counted_as_its_batches_are(backend, feed, sequence):
    with mcast.open(feed) as reader:
        summary = _core.files.Summary(10)
        for batch in reader:
            summary.add(batch)
        names = reader.interfaces
    with mcast.open(feed, sequence=sequence) as reader:
        found = _summary.summarise("feed", reader)
    assert [(f.packets, f.bytes, f.first, f.last, f.dropped) for f in found.flows] == [
        (row[4], row[5], row[7], row[8], row[11]) for row in summary.flows()[0]
    ]
    assert found.interfaces == names


def test_lines_fit_the_terminal(backend, feed):
    with mcast.open(feed) as reader:
        summary = _summary.summarise("feed", reader)
    for width in (80, 100, 120):
        assert max(map(len, summary_lines(summary, width))) <= width
    long = cf.ipv6(
        cf.udp(port=65535), source="2001:db8:1111:2222:3333:4444:5555:6666", group="ff3e:30:" + "9999:" * 5 + "9"
    )
    path = feed.with_name("long")
    path.write_bytes(cf.section() + cf.description(name="eth0") + cf.packet(cf.ethernet(long, kind=0x86DD)))
    with mcast.open(path) as reader:
        assert max(map(len, summary_lines(_summary.summarise("long", reader), 80))) <= 80
    narrow = summary_lines(summary, 80)
    at = narrow.index("239.1.1.1:5000  10.0.0.1")
    assert narrow[at + 1].split()[0] == "10"


def beside_udp():
    """Frames that are no UDP over IP, and what they are called."""
    six = cf.ethernet(cf.ipv6(bytes([58, 0]) + bytes(6) + bytes(8), following=60), kind=0x86DD)
    return [
        (cf.ethernet(cf.ipv4(bytes(40), protocol=6)), "TCP"),
        (cf.ethernet(cf.ipv4(bytes(40), protocol=47)), "GRE"),
        (cf.ethernet(cf.ipv4(bytes(40), protocol=200)), "IP protocol 200"),
        (six, "ICMPv6"),
        (cf.ethernet(bytes(46), kind=0x0806), "ARP"),
        (cf.ethernet(bytes(46), kind=0x8847, tags=[(0x8100, 5)]), "MPLS"),
        (cf.ethernet(bytes(46), kind=0x1234), "ethertype 0x1234"),
        (cf.ethernet(bytes(46), kind=46), "802.3 with LLC"),
    ]


def test_what_is_no_udp_is_named(backend, tmp_path):
    path = tmp_path / "mixed.pcapng"
    other = cf.description(link=239, name="nflog:5", resolution=9)
    frames = b"".join(cf.packet(frame) for frame, _ in beside_udp())
    path.write_bytes(
        cf.section() + cf.description() + other + frames + cf.packet(b"abc", interface=1) + cf.packet(cf.datagram())
    )
    names = {*(name for _, name in beside_udp()), "link type 239 (NFLOG)"}
    with mcast.open(path) as reader:
        assert len(reader.collect(9)) == 1
        assert reader.skipped_kinds == dict.fromkeys(names, 1)
        assert (reader.stats.skipped, reader.stats.broken) == (9, 0)
    shown = invoke("info", path)
    assert all(f"{name} 1" in shown.stdout for name in names)
    told = invoke("convert", path, tmp_path / "out.csv", "--json", "--fail-on-loss")
    assert (told.exit_code, json.loads(told.stdout)["skipped_kinds"]) == (3, dict.fromkeys(names, 1))
    assert "link type 239 (NFLOG) 1" in invoke("convert", path, tmp_path / "out.csv").stderr


def test_kinds_beyond_those_that_are_counted_apart_are_others(backend):
    frames = [cf.ethernet(cf.ipv4(bytes(40), protocol=20 + number)) for number in range(100)]
    with mcast.files.Reader(io.BytesIO(cf.pcap(*((1, 0, frame, len(frame)) for frame in frames)))) as reader:
        reader.collect(1)
        kinds = reader.skipped_kinds
    assert (len(kinds), sum(kinds.values()), next(iter(kinds.items()))) == (32, 100, ("others", 69))


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@sum", "\tx", "'=", "'", "''", "eth0", ""])
def test_a_name_of_the_file_is_no_formula(backend, tmp_path, name):
    """And is read back as it was."""
    source, table, again = (tmp_path / one for one in ("hostile.pcapng", "out.csv", "again.pcapng"))
    source.write_bytes(cf.section() + cf.description(name=name) + cf.packet(cf.datagram()))
    assert invoke("convert", source, table).exit_code == 0
    with table.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert not row["interface"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert invoke("convert", table, again).exit_code == 0
    with mcast.open(again) as reader:
        assert reader.recv().interface == name or not name


@pytest.mark.needs("symbolic links")
def test_a_file_is_not_its_own_target(backend, tmp_path):
    path, link = tmp_path / "feed.pcapng", tmp_path / "link.pcapng"
    path.write_bytes(written(some()))
    link.symlink_to(path)
    for target in (path, link):
        done = invoke("convert", path, target)
        assert (done.exit_code, path.read_bytes()) == (2, written(some()))
        assert "is its own target" in done.stderr


def test_an_open_file_is_not_its_own_target(backend, tmp_path):
    """As the shell opens files for < and >>: what is written would be read again, or nothing be left to read."""
    path = tmp_path / "feed.pcapng"
    path.write_bytes(written(some()))
    with path.open("rb") as inside, path.open("ab") as behind:
        for source, target in ((inside, path), (path, behind), (inside, behind)):
            with pytest.raises(mcast.ArgumentError, match="its own target"):
                convert_file(source, target, "pcapng")
        with pytest.raises(mcast.ArgumentError, match="its own target"):
            mcast.files.merge([path], behind)
    assert path.read_bytes() == written(some())


def test_what_is_not_converted_is_reported_by_name(backend, tmp_path):
    path, target = tmp_path / "mixed.pcap", tmp_path / "out.csv"
    frames = [cf.datagram(), bytes(60), cf.ethernet(cf.ipv4(cf.udp(), total=19)), bytes(60)]
    path.write_bytes(cf.pcap(*((1, number, frame, len(frame)) for number, frame in enumerate(frames))))
    done = invoke("convert", path, target, "--fail-on-loss")
    assert (done.exit_code, done.stderr) == (
        3,
        "mcast-fast: converted 1 packet to csv; not converted: skipped 2 (802.3 with LLC 2), broken 1\n",
    )
    done = invoke("convert", path, target, "--json")
    assert (done.exit_code, json.loads(done.stdout)) == (
        0,
        {
            "packets": 1,
            "fragments": 0,
            "skipped": 2,
            "broken": 1,
            "filtered": 0,
            "skipped_kinds": {"802.3 with LLC": 2},
        },
    )


def test_merge_says_what_was_merged(feed, tmp_path):
    target = tmp_path / "out.pcapng"
    result = invoke("merge", feed, feed, "-w", target)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "mcast-fast: merged 22 blocks of 2 files and 2 interfaces\n"
    assert len(read(target.read_bytes())) == 22
    result = invoke("merge", feed, feed, "-w", target, "--json")
    assert json.loads(result.stdout)["blocks"] == 22
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
        "mcast-fast: merged 0 blocks of 1 file and 0 interfaces; left out 1\n",
    )
