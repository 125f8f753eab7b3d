"""What a doctor makes of what it reads: rules, frames, findings in order, text, bundles. No privilege is needed."""

import json
import random
import re
import socket
import struct
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import mcast_fast as mcast
from mcast_fast import doctor
from mcast_fast._core.protocols import ETHER_IPV4, ETHER_IPV6
from mcast_fast._membership import bpf
from mcast_fast.cli import program
from mcast_fast.doctor import __main__ as without_click
from mcast_fast.doctor import (
    _containers,
    _context,
    _examination,
    _feeds,
    _finding,
    _frames,
    _interface,
    _listening,
    _packets,
    _readings,
    _routing,
    _sender,
    _text,
    _wire,
)
from mcast_fast.doctor._finding import RANKING, VERDICTS, Finding, Report, ranked
from mcast_fast.errors import FileError
from tests.conftest import free_port, loopback
from tests.lab import again_and_again

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "src" / "mcast_fast" / "doctor").glob("*.py"))


# ---- ids ----


def test_every_id_has_a_rank_an_anchor_and_a_check():
    text = (ROOT / "docs" / "doctor.md").read_text(encoding="utf-8")
    anchors = re.findall(r'^<a id="([\w.-]+)"></a>\n### `\1`$', text, re.MULTILINE)
    made = {
        name
        for source in SOURCES
        if source.stem != "_finding"
        for name in re.findall(r'"([a-z]+\.[a-z0-9-]+)"', source.read_text(encoding="utf-8"))
    }
    subjects = {name.partition(".")[0] for name in RANKING}
    assert sorted(anchors) == sorted(RANKING) == sorted(name for name in made if name.partition(".")[0] in subjects)
    assert len(set(RANKING)) == len(RANKING)
    for effect, causes in _examination.EXPLAINED.items():
        assert effect in RANKING
        assert set(causes) <= {*RANKING, _examination.ANY}


def test_problems_come_first_and_causes_before_effects():
    shuffled = [Finding(name, verdict, "") for name in RANKING for verdict in VERDICTS]
    random.Random(1).shuffle(shuffled)
    assert [(one.verdict, one.id) for one in ranked([*shuffled, *shuffled])] == [
        (verdict, name) for verdict in VERDICTS for name in RANKING
    ]


def test_what_is_explained_is_left_out():
    cause, effect = (
        Finding("interface.down", "problem", "", group="a"),
        Finding("packets.none", "problem", "", group="a"),
    )
    assert _examination._relevant([cause, effect]) == [cause]
    other = Finding("packets.none", "problem", "", group="b")
    assert _examination._relevant([cause, other]) == [cause, other]
    assert _examination._relevant([effect]) == [effect]


# ---- frames ----

ETHER = {4: ETHER_IPV4, 6: ETHER_IPV6}
HERE = _frames.Context("eth0", can_check=True)


def datagram(group="239.1.1.1", ttl=4, checksum=None, fragment=0, payload=b"x"):
    udp = struct.pack("!HHHH", 4000, 5000, 8 + len(payload), 0) + payload
    if ":" in group:
        pseudo = socket.inet_pton(socket.AF_INET6, "fd00::1") + socket.inet_pton(socket.AF_INET6, group)
        summed = _frames._sum(pseudo + struct.pack("!II", len(udp), 17) + udp)
        udp = udp[:6] + struct.pack("!H", 0xFFFF - summed if checksum is None else checksum) + udp[8:]
        return struct.pack("!IHBB", 6 << 28, len(udp), 17, ttl) + pseudo + udp
    pseudo = socket.inet_aton("10.0.0.5") + socket.inet_aton(group)
    summed = _frames._sum(pseudo + struct.pack("!HH", 17, len(udp)) + udp)
    udp = udp[:6] + struct.pack("!H", 0xFFFF - summed if checksum is None else checksum) + udp[8:]
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, fragment, ttl, 17, 0) + pseudo + udp


@pytest.mark.parametrize("group", ["239.1.1.1", "ff15::1"])
def test_a_datagram(group):
    protocol = ETHER[6 if ":" in group else 4]
    good = _frames.parse(datagram(group), protocol, HERE)
    assert (good.interface, good.group, good.port, good.ttl) == ("eth0", group, 5000, 4)
    assert not good.bad_checksum
    assert not good.is_fragment
    assert _frames.parse(datagram(group, checksum=0xDEAD), protocol, HERE).bad_checksum
    assert not _frames.parse(datagram(group, checksum=0xDEAD), protocol, HERE._replace(can_check=False)).bad_checksum
    assert not _frames.parse(datagram(group, checksum=0xDEAD, payload=bytes(999))[:600], protocol, HERE).bad_checksum


@pytest.mark.parametrize(("fragment", "port"), [(0x2000, 5000), (0x2005, 0), (0x0005, 0)])
def test_fragments(fragment, port):
    seen = _frames.parse(datagram(fragment=fragment, checksum=1), ETHER_IPV4, HERE)
    assert (seen.port, seen.is_fragment, seen.bad_checksum) == (port, True, False)


def igmp(kind, code=100, size=12):
    header = (
        struct.pack("!BBHHHBBH", 0x46, 0, 24 + size, 1, 0, 1, 2, 0) + bytes([10, 0, 0, 1, 224, 0, 0, 1]) + b"\x94\4\0\0"
    )
    return header + bytes([kind, code]).ljust(size, b"\0")


@pytest.mark.parametrize(
    ("packet", "version", "is_query"),
    [
        (igmp(0x11), 3, True),
        (igmp(0x11, size=8), 2, True),
        (igmp(0x11, code=0, size=8), 1, True),
        (igmp(0x12, size=8), 1, False),
        (igmp(0x16, size=8), 2, False),
        (igmp(0x22), 3, False),
    ],
)
def test_queries_and_reports(packet, version, is_query):
    assert _frames.parse(packet, ETHER_IPV4, HERE) == _frames.Control(
        "eth0", version, is_query, "IGMP", "10.0.0.1", False
    )


@pytest.mark.parametrize(
    ("kind", "size", "version", "is_query"),
    [(130, 24, 1, True), (130, 28, 2, True), (131, 24, 1, False), (143, 28, 2, False)],
)
def test_queries_and_reports_of_mld(kind, size, version, is_query):
    """Behind the hop-by-hop header that has the router alert."""
    body = bytes([58, 0, 5, 2, 0, 0, 1, 0]) + bytes([kind]).ljust(size, b"\0")
    addresses = socket.inet_pton(socket.AF_INET6, "fe80::1") + socket.inet_pton(socket.AF_INET6, "ff02::1")
    packet = struct.pack("!IHBB", 6 << 28, len(body), 0, 1) + addresses + body
    assert _frames.parse(packet, ETHER_IPV6, HERE) == _frames.Control(
        "eth0", version, is_query, "MLD", "fe80::1", False
    )


@given(st.binary(max_size=120), st.sampled_from([ETHER_IPV4, ETHER_IPV6, 0]))
def test_any_bytes_may_be_a_frame(data, protocol):
    _frames.parse(data, protocol, HERE)


@given(st.integers(0, 60), st.sampled_from([datagram(), datagram("ff15::1"), igmp(0x11), igmp(0x22)]))
def test_a_frame_that_is_cut_short(length, packet):
    for protocol in (ETHER_IPV4, ETHER_IPV6):
        _frames.parse(packet[:length], protocol, HERE)


def passes(instructions, data, protocol):
    """What the kernel makes of a classic program, for what it uses."""
    at = value = 0
    while True:
        one = instructions[at]
        at += 1
        if one.code == bpf.LOAD_WORD:
            if one.value == _wire.PROTOCOL:
                value = protocol
            elif one.value + 4 > len(data):
                return False
            else:
                value = int.from_bytes(data[one.value : one.value + 4])
        elif one.code == bpf.AND:
            value &= one.value
        elif one.code in (bpf.IF_EQUAL, bpf.IF_AT_LEAST):
            is_true = value == one.value if one.code == bpf.IF_EQUAL else value >= one.value
            at += one.if_true if is_true else one.if_false
        else:
            assert one.code == bpf.RETURN
            return one.value != 0


@pytest.mark.parametrize("count", [1, 2, 50, 60])
def test_the_kernel_passes_the_groups_and_queries_alone(count):
    groups = [f"239.1.1.{number}" for number in range(count)] + [f"ff15::{number:x}" for number in range(count)]
    steps = bpf.instructions(_wire.program(groups))
    for group in groups:
        assert passes(steps, datagram(group), ETHER[6 if ":" in group else 4]), group
    assert passes(steps, igmp(0x11), ETHER_IPV4)
    assert not passes(steps, datagram(), 0x0806)
    for other in ("239.2.0.1", "ff15::ffff"):
        assert passes(steps, datagram(other), ETHER[6 if ":" in other else 4]) is (count > _wire.LISTED)


# ---- arguments, text, bundles ----


def test_groups_and_their_interfaces():
    name = loopback()
    first, second = _feeds.feeds_of([f"239.1.1.1%{name}+2"], None, 5000)
    assert (first.text, second.text) == (f"239.1.1.1%{name}:5000", f"239.1.1.2%{name}:5000")
    assert first.call(buffer_size="8MiB") == f"mcast.Receiver(\"239.1.1.1%{name}:5000\", buffer_size='8MiB')"
    (missing,) = _feeds.feeds_of(["239.1.1.1%nowhere0:5000"], None, None)
    assert "nowhere0" in str(missing.fault)


def datagram_from(source, **more):
    seen = _frames.Datagram("eth0", "239.1.1.1", 5000, source, 4, 0, False, False, False)
    return seen._replace(**more)


def test_what_a_stranger_sends_is_bounded():
    """It may send from any address, and any number of queries and reports."""
    (feed,) = _feeds.feeds_of([f"239.1.1.1%{loopback()}:5000"], None, None)
    listening = _listening.Listening([feed], spread=True)
    for number in range(2 * _feeds.MOST_KINDS):
        source = f"10.0.{number // 256}.{number % 256}"
        listening._take(datagram_from(source))
        listening._take(_frames.Control("eth0", 3, bool(number % 2), "IGMP", source, False))
        for counted in (feed.heard, feed.elsewhere):
            _feeds.add_one(counted, source)
    assert len(feed.frames) == len(feed.heard) == len(feed.elsewhere) == _feeds.MOST_KINDS
    _feeds.add_one(feed.heard, "10.0.0.0")
    assert feed.heard["10.0.0.0"] == 2
    assert len(listening.controls) == _listening.MOST_CONTROLS
    assert listening.queries.keys() == {("eth0", "IGMP")}


def test_every_group_whose_ttl_is_1_is_reported(monkeypatch):
    """A router has several."""
    feeds = _feeds.feeds_of([f"239.1.1.1%{loopback()}:5000+2"], None, None)
    for feed in feeds:
        feed.see(datagram_from("10.0.0.5", ttl=1), 1.0)
    monkeypatch.setattr(_sender, "_forwarded", lambda: {"239.1.1.1", "239.1.1.2"})
    found = list(_sender.short_ttl(SimpleNamespace(feeds=feeds)))
    assert [(one.verdict, one.group) for one in found] == [("problem", feed.text) for feed in feeds]


@pytest.mark.parametrize(
    ("everywhere", "here", "mode"), [(0, 1, "strict"), (1, 0, "strict"), (2, 1, "loose"), (1, 2, "loose"), (0, 0, None)]
)
def test_the_larger_value_of_rp_filter_is_in_force(monkeypatch, everywhere, here, mode):
    values = {"ipv4/conf/all/rp_filter": everywhere, f"ipv4/conf/{loopback()}/rp_filter": here}
    monkeypatch.setattr(_routing, "setting", values.get)
    context = SimpleNamespace(
        feeds=_feeds.feeds_of([f"239.1.1.1%{loopback()}:5000"], None, None),
        arrives=lambda feed: False,
        is_opened=lambda feed: True,
        is_on_wire=lambda feed: True,
        grown=lambda name: 5,
        route=lambda source: None,
    )
    found = list(_routing.rp_filter(context))
    assert [one.evidence[0].rpartition(": ")[2] for one in found] == [mode] * (mode is not None)


@pytest.mark.parametrize(("came_after", "after", "found"), [(0, 2.0, 1), (3, 2.0, 0), (0, 0.2, 0), (0, 0.0, 0)])
def test_a_filter_is_the_cause_only_of_what_stops_with_it(came_after, after, found):
    """Not of a sender that began at that moment, and goes on; nor where that was not watched for long enough."""
    (feed,) = _feeds.feeds_of([f"239.1.1.1%{loopback()}:5000"], None, None)
    feed.widened, feed.narrowed, feed.came_wide, feed.came_after = 8.0, 8.1, 5, came_after
    context = SimpleNamespace(feeds=[feed], listening=SimpleNamespace(began=1.0, ended=8.1 + after))
    assert len(list(_interface.nic_filter(context))) == found
    feed.came_wide = 0  # the packets that ended it were another group's, on the same interface
    assert not list(_interface.nic_filter(context))


def test_an_interface_is_widened_for_what_is_silent_and_narrowed_when_it_comes():
    switched = []
    wire = SimpleNamespace(take_all=lambda index, *, begins: switched.append((index, begins)))
    feeds = _feeds.feeds_of([f"239.1.1.1%{loopback()}:5000+2"], None, None)
    for feed in feeds:
        feed.interface = replace(feed.interface, index=7, name="eth0", is_loopback=False)
    listening = _listening.Listening(feeds, spread=True)
    for now in (1.0, 1.1):
        listening._widen(wire, feeds, now)
    for _ in range(_listening.COME):
        feeds[0].see(datagram_from("10.0.0.5"), 1.2)
    for now in (1.3, 1.4):
        listening._widen(wire, feeds[1:], now)
    assert switched == [(7, True), (7, False)]
    assert [feed.narrowed for feed in feeds] == [1.3, 1.3]


def test_an_interface_is_widened_for_a_moment():
    switched = []
    wire = SimpleNamespace(take_all=lambda index, *, begins: switched.append((index, begins)))
    feeds = _feeds.feeds_of([f"239.1.1.1%{loopback()}:5000"], None, None)
    feeds[0].interface = replace(feeds[0].interface, index=7, name="eth0", is_loopback=False)
    listening = _listening.Listening(feeds, spread=True)
    for now in (1.0, 1.1 + _listening.WIDE, 1.2 + _listening.WIDE):
        listening._widen(wire, feeds, now)
    assert switched == [(7, True), (7, False)]
    assert feeds[0].narrowed == 1.1 + _listening.WIDE


@pytest.mark.parametrize(("interface", "name"), [("eth0", "eth0.4000"), ("enp129s0f0np0", "vlan4000")])
def test_a_vlan_has_a_name_that_linux_takes(interface, name):
    (feed,) = _feeds.feeds_of([f"239.1.1.1%{loopback()}:5000"], None, None)
    feed.interface = replace(feed.interface, name=interface)
    feed.see(datagram_from("10.0.0.5", interface=interface, vlan=4000), 1.0)
    (found,) = _packets.vlan(SimpleNamespace(feeds=[feed], is_opened=lambda _: True))
    assert f"ip link add link {interface} name {name} type vlan id 4000 && " in found.remedy


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"groups": "239.1.1.1"}, "has no port"),
        ({"groups": "239.1.1.1:5000+257"}, "256 at most"),
        ({"groups": "10.0.0.1:5000"}, "multicast"),
        ({"seconds": "soon"}, "seconds"),
    ],
)
def test_wrong_arguments(arguments, error):
    with pytest.raises(mcast.MulticastError, match=error):
        doctor.examine(**arguments)


@pytest.mark.long
def test_loopback_in_one_process(backend):
    """What is sent while it listens arrives; nothing is a problem."""
    group = f"239.9.1.1%{loopback()}:{free_port()}"
    with mcast.Sender(group, ttl=0) as tx, again_and_again(lambda: tx.send(b"x")):
        report = doctor.examine(group, seconds=10)
    assert not report.problems, report
    assert "packets.received" in [one.id for one in report.findings]
    assert {"report.json", "about.json"} <= report.readings.keys()


def test_an_interface_that_is_not_there(backend):
    report = doctor.examine("239.1.1.1%nowhere0:5000", seconds=0)
    assert report.findings[0].id == "interface.missing"
    assert "nowhere0" in report.findings[0].evidence[0]


def test_the_host_alone(backend):
    report = doctor.examine()
    assert report.seconds == 0
    assert not report.problems
    assert ("host.pure-backend" in [one.id for one in report.findings]) is (backend == "pure")


LONG = Finding(
    "routing.rp-filter",
    "problem",
    "reverse path filtering " + "drops " * 40,
    ("evidence \x1b[31m " + "of it " * 40,),
    "sysctl -w net.ipv4.conf.eth0.rp_filter=2 " + "x" * 100,
    "or " * 60,
    "239.1.1.1%eth0:5000",
)


@pytest.mark.parametrize("width", [1, 40, 80, 160])
def test_text_is_folded_and_remedies_are_not(width):
    lines = list(_text.lines(Report((LONG, Finding("host.ready", "ok", "all is well"))), width))
    for style, line in lines:
        assert style == "remedy" or len(line) <= max(width, 80), line
        assert line.isprintable()
    assert f"    > {LONG.remedy}" in [line for _, line in lines]
    assert lines[0] == ("problem", "problem   routing.rp-filter  239.1.1.1%eth0:5000")
    assert lines[-1][1].startswith("1 problem.")


def test_a_command_in_a_text_stays_on_one_line():
    command = "`bpftool prog show id 115`"
    for padding in range(20):
        found = Finding("host.ready", "ok", "x " * padding, advice=f"{'y ' * padding}find out whose it is: {command}.")
        shown = [line for _, line in _text.lines(Report((found,)), 60)]
        assert any(command in line for line in shown)
        assert all(len(line) <= 60 for line in shown[:-1])


def test_a_name_does_nothing_to_a_terminal():
    """Wherever it is printed."""
    shown = list(_text.lines(Report((Finding("interface.down", "problem", *["\x1b[31m"] * 2, *["\x9b1m"] * 3),)), 80))
    assert len(shown) > 5
    assert all(line.isprintable() for _, line in shown)


def test_findings_that_differ_by_their_group_alone_are_one():
    names = ["239.1.1.1:5000", "239.1.1.2:5000", "239.1.1.3:5000"]
    every = [Finding("packets.none", "problem", "nothing", group=name) for name in names]
    lines = [line for _, line in _text.lines(Report((*every, Finding("host.ready", "ok", "well"))), 80)]
    assert lines[0] == "problem   packets.none  239.1.1.1:5000 and 2 more"
    assert lines[-1].startswith("3 problems.")
    assert len([line for line in lines if "packets.none" in line]) == 1


def test_both_programs_print_the_same(monkeypatch, capsys):
    report = Report((LONG,), 1.5)
    monkeypatch.setattr(without_click, "examined", lambda *_, **__: report)
    monkeypatch.setattr("mcast_fast.cli.doctor.examined", lambda *_, **__: report)
    monkeypatch.setenv("COLUMNS", "80")
    for options in ([], ["--json"]):
        assert without_click.main(["239.1.1.1%eth0:5000", *options]) == 1
        printed = capsys.readouterr().out
        result = CliRunner().invoke(program, ["doctor", "239.1.1.1%eth0:5000", *options])
        assert (result.stdout, result.exit_code) == (printed, 1)
    assert json.loads(printed)["findings"][0].keys() >= {"id", "verdict", "evidence", "remedy"}


def test_a_report_is_not_lost_with_its_bundle(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(without_click, "examined", lambda *_, **__: Report((LONG,)))
    monkeypatch.setattr("mcast_fast.cli.doctor.examined", lambda *_, **__: Report((LONG,)))
    nowhere = str(tmp_path / "none" / "bundle.tar.gz")
    assert without_click.main(["--bundle", nowhere]) == 1
    result = CliRunner().invoke(program, ["doctor", "--bundle", nowhere])
    assert result.exit_code == 1
    printed = capsys.readouterr()
    for text, fault in ((printed.out, printed.err), (result.stdout, result.stderr)):
        assert LONG.remedy in text
        assert "bundle.tar.gz" in fault


def test_wrong_groups_exit_2(capsys):
    assert without_click.main(["239.1.1.1"]) == 2
    assert "has no port" in capsys.readouterr().err
    assert CliRunner().invoke(program, ["doctor", "239.1.1.1"]).exit_code == 2


def test_it_runs_without_the_libraries_of_the_command_line():
    code = "import sys\nsys.modules['click'] = sys.modules['rich'] = None\nimport runpy\nsys.argv[1:] = ['--json']\nrunpy.run_module('mcast_fast.doctor', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["findings"]


SECRETS = "10.1.2.3 fe80::abcd%eth0 02:42:ac:11:00:02 80:00:02:08:fe:80:00:00:00:00:00:00:e4:1d:2d:03:00:5a:f0:11 2001:db8::7 and 239.1.1.1, ff15::1, 127.0.0.1, ::1, 0.0.0.0, 12:30:59"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("it is sent by 10.1.2.3.", "it is sent by host-1."),
        ("10.1.2.3... 10.1.2.3_x", "host-1... host-1_x"),
        ("two lines in JSON\\n10.1.2.3\\nfe81::1", "two lines in JSON\\nhost-2\\nhost-1"),
        ("fe80::1: no route, lladdr:02:11:22:33:44:55:", "host-2: no route, lladdr:mac-1:"),
        ("::ffff:10.1.2.3 and 64:ff9b::10.1.2.4/96", "host-1 and host-2/96"),
        ("10.1.2.3.in-addr.arpa", "host-1.in-addr.arpa"),
        ("239.1.1.1. ff15::1: 127.0.0.1. 0.0.0.0 12:34:56 1.2.3 1.3.6.1.4.1", ...),
    ],
)
def test_what_stands_beside_an_address_does_not_show_it(text, masked):
    assert _text._masked({"report.json": text})["report.json"] == (text if masked is ... else masked)


@pytest.mark.parametrize("masked", [False, True])
def test_a_bundle(tmp_path, monkeypatch, masked):
    monkeypatch.setattr(_text, "programs", lambda: {"ip-address.txt": SECRETS})
    path = tmp_path / "bundle.tar.gz"
    report = Report((LONG,), 1.0, {"report.json": "{}", "proc/net/udp": "0100007F:1388"})
    _text.write_bundle(report, str(path), masked=masked)
    with tarfile.open(path) as archive:
        held = {name: archive.extractfile(name).read().decode() for name in archive.getnames()}
    text = held["mcast-fast-doctor/ip-address.txt"]
    assert ("mcast-fast-doctor/proc/net/udp" in held) is not masked
    if not masked:
        assert text == SECRETS
        return
    for secret in ("10.1.2.3", "abcd", "02:42", "5a:f0", "2001"):
        assert secret not in text
    for kept in ("239.1.1.1", "ff15::1", "127.0.0.1", "0.0.0.0", "12:30:59"):
        assert kept in text
    with pytest.raises(FileError, match="bundle"):
        _text.write_bundle(report, str(path))


WRITES = """
import resource, sys
from mcast_fast.doctor._finding import Report
from mcast_fast.doctor import _text
from mcast_fast.errors import FileError
_text.programs = dict
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
try:
    _text.write_bundle(Report((), 1.0, {"large": "".join(map(str, range(10_000)))}), sys.argv[1])
except FileError as error:
    print(error)
"""


@pytest.mark.needs("process limits")
def test_a_disk_that_is_full_leaves_no_half_of_a_bundle(tmp_path):
    """Here it is a limit of the process (setrlimit(2)); the kernel takes the first 2,000 bytes."""
    path = tmp_path / "bundle.tar.gz"
    done = subprocess.run([sys.executable, "-c", WRITES, str(path)], capture_output=True, text=True, check=False)
    assert done.stdout.startswith(f"write {path}: ")
    assert done.stderr == ""
    assert not list(tmp_path.iterdir())


def in_memory(group):
    return f"{int.from_bytes(socket.inet_aton(group), sys.byteorder):08X}"


TABLES = {
    "igmp": "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter\n"
    f"1\tlo        :     1      V3\n\t\t\t\t{in_memory('224.0.0.1')}     1 0:00000000\t\t0\n"
    f"{10**6}\tenp129s0f0np0:     2      V3\n\t\t\t\t{in_memory('239.1.1.1')}     3 0:00000000\t\t0\n",
    "igmp6": "1    lo              ff020000000000000000000000000001     1 0000000C 0\n"
    "2    enp129s0f0np0   ff150000000000000000000000000001     2 00000004 0\n",
    "mcfilter": "Idx Device        MCA        SRC    INC    EXC\n"
    f"{10**6} enp129 0xef010101 0x0a000005      1      0\n{10**6} enp129 0xef010101 0x0a000006      0      1\n",
    "mcfilter6": f"{10**6} enp129 ff150000000000000000000000000001 fd000000000000000000000000000005      2      0\n",
}


def test_the_tables_of_memberships(tmp_path, monkeypatch):
    for name, content in TABLES.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
    monkeypatch.setattr(_readings, "NET", tmp_path)
    assert _readings.joined() == {
        "224.0.0.1": {"lo": 1},
        "239.1.1.1": {"enp129s0f0np0": 3},
        "ff02::1": {"lo": 1},
        "ff15::1": {"enp129s0f0np0": 2},
    }
    name = str(10**6)  # no interface has that index
    assert _readings.included() == {("239.1.1.1", name): {"10.0.0.5": 1}, ("ff15::1", name): {"fd00::5": 2}}


@given(st.lists(st.text("0123456789abcdefx:\t \n", max_size=60), max_size=5))
def test_any_table_of_memberships_can_be_read(rows):
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_readings, "text", lambda _: "\n".join(rows))
        _readings.joined()
        _readings.included()


def test_rules_are_read_once_where_all_is_well(monkeypatch):
    """nft is a process."""
    feeds = _feeds.feeds_of([f"239.1.1.1%{loopback()}:5000"], None, None)
    called = []
    monkeypatch.setattr(_readings, "rules", lambda: (called.append(1), (None, ""))[1])
    monkeypatch.setattr(_listening.Listening, "run", lambda self, *_: self.feeds[0].heard.update({"10.0.0.5": 9}))
    _context.Context.gathered(feeds, None, 1, bool, is_watch=False, needs_ring=False, spread=True)
    assert len(called) == 1
    feeds[0].heard.clear()
    monkeypatch.setattr(_listening.Listening, "run", lambda *_: None)
    _context.Context.gathered(feeds, None, 1, bool, is_watch=False, needs_ring=False, spread=True)
    assert len(called) == 3


def test_a_cloud_that_carries_no_multicast(tmp_path, monkeypatch):
    monkeypatch.setattr(_containers, "FIRMWARE", tmp_path)
    feeds = _feeds.feeds_of([f"239.1.1.1%{loopback()}:5000"], None, None)
    context = SimpleNamespace(feeds=feeds, is_on_wire=lambda _: False)
    assert not list(_containers.cloud(context))
    (tmp_path / "sys_vendor").write_text("Amazon EC2\n", encoding="utf-8")
    (found,) = _containers.cloud(context)
    assert "Amazon EC2" in found.summary
    feeds[0].heard["10.0.0.5"] = 1
    assert not list(_containers.cloud(context))


def test_without_a_privilege_rules_are_unknown(monkeypatch):
    def refuse(*_, **__):
        raise subprocess.CalledProcessError(1, "nft", stderr="Operation not permitted (you must be root)\n")

    monkeypatch.setattr(_readings.shutil, "which", lambda *_, **__: "nft")
    monkeypatch.setattr(_readings.subprocess, "run", refuse)
    rules, reason = _readings.rules()
    assert rules is None
    assert reason == "`nft list ruleset` answers: Operation not permitted (you must be root)"


def test_findings_are_data():
    assert _finding.RANKS["interface.down"] < _finding.RANKS["firewall.drops-udp"] < _finding.RANKS["packets.none"]
    assert Report((LONG,)).problems == (LONG,)


@pytest.mark.parametrize("name", ["eth0", 'e"t', "\udcff\udcfe", "😀"])
def test_a_call_names_a_group_as_a_program_has_to(name):
    group = mcast.Group.parse(f"239.1.1.1%{name}:5000")
    written = _feeds.literal(group)
    assert eval(written.encode("utf-8").decode("utf-8")) == str(group)
