"""The probe over sockets: hosts of one machine on the loopback, and the program."""

import itertools
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from click.testing import CliRunner

import mcast_fast as mcast
from mcast_fast import doctor
from mcast_fast.cli import program
from mcast_fast.cli.probe import _print as print_report
from tests.conftest import free_port, loopback


def together(*names, group, **options):
    """The reports of hosts that probe at the same time, by their names."""
    reports, failures = {}, []

    def one(name):
        try:
            defaults = {"duration": "500ms", "wait": None, "ttl": 0}
            reports[name] = doctor.probe(group, name=name, stop=lambda: bool(failures), **defaults | options)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    return reports


@pytest.mark.long
@pytest.mark.needs("large buffers")
def test_two_hosts_of_one_machine(backend, place):
    group = place.group()
    reports = together("a", "b", group=group, rate=100, burst=100)
    features = mcast.features()
    for name, report in reports.items():
        assert report.ok, report
        assert report.group == group
        assert report.hosts[0].name == name
        assert [one.is_self for one in report.hosts] == [True, False]
        assert {one.name for one in report.hosts} == {"a", "b"}
        assert (":" in report.hosts[1].address) == (place.version == 6)
        for link in report.links:
            assert link.multicast.received == link.multicast.expected - link.multicast.startup > 10
            assert link.largest > 1_000
            assert link.bursts == ((10, 10), (100, 100))
            assert link.hops == (0 if features["receive_ttl"] else None)
            assert link.dscp_received == (0 if features["receive_tos"] else None)
            assert link.round_trip.samples > 5


def test_nobody_is_there(backend):
    said = []
    group = f"239.9.9.9%{loopback()}:{free_port()}"
    report = doctor.probe(group, wait="10ms", ttl=0, on_event=said.append, name="me")
    assert [one.id for one in report.findings] == ["probe.nobody-heard"]
    assert not report.ok
    assert report.sent >= 3
    assert said[0].startswith("me probes 239.9.9.9 port ")
    assert "TTL 0 (stays on this machine): 20 hellos per second" in said[0]


def test_what_others_send_is_counted(backend):
    group = f"239.9.9.9%{loopback()}:{free_port()}"
    steps = []

    def stop():
        steps.append(tx.send(b"no probe"))
        return len(steps) > 3

    with mcast.Sender(group, ttl=0) as tx:
        report = doctor.probe(group, wait=None, ttl=0, stop=stop)
    assert 0 < report.foreign <= len(steps)
    assert not report.malformed


@pytest.mark.long
@pytest.mark.needs("source_filters", "large buffers")
def test_a_source_specific_group(backend):
    group = f"232.9.9.9%{loopback()}:{free_port()}"
    reports = together("a", "b", group=group, rate=100, burst=0, peers=["127.0.0.1"])
    for report in reports.values():
        assert report.ok, report
        assert len(report.links) == 2


def test_a_host_without_a_route_is_reported(backend, monkeypatch):
    """A stranger may name any address: it ends nothing."""

    def no_route(*_):
        raise mcast.InterfaceError("no route to 10.1.2.3")

    monkeypatch.setattr(mcast.Sender, "send_to", no_route)
    report = doctor.probe(f"239.9.9.9%{loopback()}:{free_port()}", wait="10ms", ttl=0, peers=["10.1.2.3"])
    assert [one.id for one in report.findings] == ["probe.send-refused", "probe.nobody-heard"]
    assert report.findings[0].text == "no route to 10.1.2.3"


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"group": "10.0.0.1:5000"}, "multicast"),
        ({"group": "239.9.9.9"}, "names no port"),
        ({"group": "239.9.9.9:5000+2"}, "one group"),
        ({"group": "239.9.9.9%all:5000"}, "one interface"),
        ({"group": "10.0.0.5@239.9.9.9:5000"}, "no source"),
        ({"group": "232.9.9.9:5000"}, "source-specific"),
        ({"peers": ["239.1.1.1"]}, "no IPv4 address"),
        ({"peers": ["fe80::1"]}, "no IPv4 address"),
        ({"peers": "10.0.0.5"}, "one text"),
        ({"ttl": 256}, "ttl"),
        ({"dscp": 64}, "dscp"),
        ({"rate": 0}, "rate"),
        ({"rate": 1001}, "rate"),
        ({"burst": 5001}, "burst"),
        ({"duration": "100ms"}, "too short"),
        ({"wait": -1}, "wait"),
        ({"interface": "nothing0"}, "nothing0"),
    ],
)
def test_wrong_arguments(backend, arguments, match):
    with pytest.raises(mcast.MulticastError, match=match):
        doctor.probe(**{"group": "239.9.9.9:5000", "wait": 0} | arguments)


def test_a_port_that_another_program_has_is_not_taken(backend):
    """The one behind the group's; and the last port has none behind it."""
    port = free_port()
    said = []
    group = f"239.9.9.9%{loopback()}:{port}"
    with mcast.Sender(group, source_port=port + 1, ttl=0):
        doctor.probe(group, wait=0, ttl=0, on_event=said.append)
    found = re.search(r"unicast on port (\d+)", said[0])
    assert found
    assert int(found[1]) not in (port, port + 1)


# ---- the program ----


def shown(report, capsys):
    """What the program prints of a report."""
    print_report(report)
    return capsys.readouterr().out


def many_hosts(count):
    """All hear all but the last one, which hears nobody."""
    hosts = tuple(doctor.ProbeHost(f"{n:016x}", f"host{n:02}.example.net", is_self=not n) for n in range(count))
    heard, silent = doctor.ProbeCount(9, 9), doctor.ProbeCount(9, 0)
    links = []
    for sender, receiver in itertools.permutations(hosts, 2):
        hears = receiver is not hosts[-1]
        fault = doctor.ProbeFinding("probe.nothing-heard", "problem", f"of {sender.name}", (f"by {sender.name}",))
        count, faults = (heard, ()) if hears else (silent, (fault,))
        links.append(doctor.ProbeLink(sender.identity, receiver.identity, count, count, findings=faults))
    return doctor.ProbeReport("239.9.9.9%eth0:5009", 10.0, hosts, tuple(links))


def test_many_hosts_are_a_list_of_what_is_wrong(capsys):
    few, many = shown(many_hosts(4), capsys), shown(many_hosts(30), capsys)
    assert "host00 > host03" in few
    assert few.count("problem  of") == 3
    assert "host00 > host03" not in many
    assert many.count("problem  of") == 20
    assert "and 9 more like these: --json has all" in many
    assert many.splitlines()[-1].endswith("841 of 870 directions are heard, 29 with a problem or unknown")


def test_findings_that_are_alike_are_counted_too(capsys):
    """A host that reports nothing makes one with each other host, with the same cause and remedy."""
    made = many_hosts(4)
    fault = doctor.ProbeFinding("probe.old-report", "unknown", "silent")
    faults = [doctor.ProbeFinding("probe.no-report", "unknown", f"of {number}", ("x",)) for number in range(30)]
    links = [replace(made.links[0], findings=(fault, one)) for one in faults]
    text = shown(replace(made, links=tuple(links)), capsys)
    assert text.count("unknown  of") + text.count("unknown  silent") == 20
    assert text.count("silent") == 1
    assert "and 11 more like these: --json has all" in text


def invoke(*arguments):
    return CliRunner().invoke(program, ["probe", *map(str, arguments)])


def test_the_program_alone(backend):
    result = invoke(f"239.9.9.9%{loopback()}:{free_port()}", "--wait", "10ms", "--ttl", 0)
    assert result.exit_code == 4
    assert "problem  no other host was heard on 239.9.9.9" in result.stdout
    assert "--peer" in result.stdout
    assert result.stderr.startswith("mcast-fast: ")
    assert "TTL 0" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["239.9.9.9"], 2),
        (["10.0.0.1:5"], 2),
        (["239.9.9.9:5", "--rate", "5000"], 2),
        (["239.9.9.9:5", "--for", "x"], 2),
    ],
)
def test_wrong_usage(arguments, code):
    assert invoke(*arguments).exit_code == code


@pytest.mark.long
@pytest.mark.parametrize("form", ["text", "json"])
def test_the_program_twice(backend, form):
    """One of them with an escape sequence in its name."""
    group = f"239.9.9.9%{loopback()}:{free_port()}"
    options = ["probe", group, "--ttl", "0", "--for", "500ms", "--rate", "100", "--burst", "10"]
    command = [sys.executable, "-m", "mcast_fast", *options, "--name", "\x1b[31mred", "--json"]
    environment = os.environ | {"MCAST_FAST_BACKEND": mcast.backend}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as other:
        result = invoke(*options[1:], "--name", "plain", *(["--json"] if form == "json" else []))
        theirs = json.loads(other.stdout.read())
        assert other.wait() == 0
    assert result.exit_code == 0, result.output
    assert theirs["ok"]
    if form == "json":
        mine = json.loads(result.stdout)
        assert mine["verdict"] == "ok"
        assert [link["multicast"]["lost"] for link in mine["links"]] == [0, 0]
        assert {one["name"] for one in mine["hosts"]} == {one["name"] for one in theirs["hosts"]}
    else:
        assert "\x1b" not in result.stdout
        assert "\\x1b[31mred > plain" in result.stdout
        assert result.stdout.splitlines()[-1].endswith(": all hear all")
