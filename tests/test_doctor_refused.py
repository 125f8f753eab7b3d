"""The doctor between two hosts where much is refused to it, where there is no fault, and where much goes wrong around it."""

import os
import shutil
import signal
import socket
import sys
from collections.abc import Iterator

import pytest

from tests import lab
from tests.faults import GROUP, ROOT, Two, findings_of

pytestmark = pytest.mark.lab


@pytest.fixture
def two() -> Iterator[Two]:
    with lab.Lab() as made:
        yield Two(made)


# ---- what a sandbox refuses ----

REFUSED = ["setpriv", "--bounding-set", "-net_raw", "--inh-caps", "-net_raw"]


def test_without_cap_net_raw(two):
    two.stream()
    for make_odd in (lambda: None, two.oddity):
        make_odd()
        found = findings_of(two, two.text(), "--ring", wrap=REFUSED)
        assert found[0]["id"] == "host.no-cap-net-raw"
        assert [one["id"] for one in found if one["verdict"] == "problem"] == ["host.no-cap-net-raw"]
        assert {"packets.unseen", "packets.received"} <= {one["id"] for one in found}
    assert not two.examine(two.text(), ring=True).problems  # root has it


@pytest.mark.weekly
@pytest.mark.needs("setcap")
def test_the_remedy_gives_a_python_cap_net_raw(two, tmp_path):
    """The remedy as printed, on a copy of this Python; root has no capabilities but those of the file."""
    two.stream()
    python = tmp_path / "python"
    shutil.copy(os.path.realpath(sys.executable), python)
    places = [f"PYTHONHOME={sys.base_prefix}", f"PYTHONPATH={os.pathsep.join(filter(None, sys.path))}"]
    wrap = ["env", *places, "setpriv", "--securebits", "+noroot", "--inh-caps", "-all"]
    found = findings_of(two, two.text(), "--ring", wrap=wrap, python=str(python))
    assert found[0]["id"] == "host.no-cap-net-raw"
    assert str(python) in found[0]["remedy"]
    two.b.host.run("sh", "-c", found[0]["remedy"])
    found = findings_of(two, two.text(), "--ring", wrap=wrap, python=str(python))
    assert "problem" not in {one["verdict"] for one in found}
    assert not {"host.no-cap-net-raw", "packets.unseen"} & {one["id"] for one in found}


def unit(line: str) -> list[str]:
    """Run a program as a unit of systemd with this line does."""
    names = line.removeprefix("RestrictAddressFamilies=").split()
    numbers = ",".join(str(int(getattr(socket, name))) for name in names)
    return [sys.executable, "-m", "tests.sandbox", f"families:{numbers}", "--"]


@pytest.mark.needs("system call filters")
def test_netlink_refused_by_a_sandbox(two):
    two.stream()
    for make_odd in (lambda: None, two.oddity):
        make_odd()
        found = findings_of(two, two.text(), wrap=[sys.executable, "-m", "tests.sandbox", "netlink", "--"])
        assert found[0]["id"] == "host.netlink-refused"
        assert "packets.received" in {one["id"] for one in found}
        assert "problem" not in {one["verdict"] for one in found}


@pytest.mark.weekly
@pytest.mark.needs("system call filters")
@pytest.mark.parametrize("options", [(), ("--ring",)])
def test_the_remedy_is_a_line_of_a_unit_that_cures(two, options):
    two.stream()
    found = findings_of(two, two.text(), *options, wrap=unit("RestrictAddressFamilies=AF_INET AF_INET6"))
    (line,) = (one["remedy"] for one in found if one["id"] == "host.netlink-refused")
    cured = findings_of(two, two.text(), *options, wrap=unit(line))
    assert not {"host.netlink-refused", "host.no-cap-net-raw"} & {one["id"] for one in cured}
    if not options:  # packet sockets are a matter of their own
        (line,) = (one["remedy"] for one in cured if one["id"] == "packets.unseen")
        cured = findings_of(two, two.text(), wrap=unit(line))
    assert "packets.unseen" not in {one["id"] for one in cured}
    assert "packets.received" in {one["id"] for one in cured}


@pytest.mark.weekly
@pytest.mark.needs("system call filters")
def test_the_family_of_the_group_is_refused(two):
    two.stream("ff15::1")
    found = findings_of(two, two.text("ff15::1"), wrap=unit("RestrictAddressFamilies=AF_INET AF_NETLINK AF_PACKET"))
    assert found[0]["id"] == "host.family-refused"
    cured = findings_of(two, two.text("ff15::1"), wrap=unit(found[0]["remedy"]))
    assert "packets.received" in {one["id"] for one in cured}


@pytest.mark.weekly
@pytest.mark.needs("system call filters")
def test_without_proc_and_sys(two):
    """Much is not known then, and the packets arrive."""
    two.stream()
    found = findings_of(two, two.text(), wrap=[sys.executable, "-m", "tests.sandbox", "proc", "sys", "--"])
    assert "packets.received" in {one["id"] for one in found}
    assert "problem" not in {one["verdict"] for one in found}


# ---- no fault ----


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("version", [4, 6])
def test_no_fault_no_problem(two, version):
    group = GROUP if version == 4 else "ff15::1"
    two.stream(group)
    two.oddity()
    report = two.examine(two.text(group), seconds=10)
    assert not report.problems, report
    assert "packets.received" in {one.id for one in report.findings}


# As in a container whose root has no capabilities; another user may be unable to read this Python.
BARE = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"]


def test_no_fault_no_problem_without_any_privilege(two):
    """What may not be looked at is unknown, with the reason."""
    two.stream()
    found = findings_of(two, two.text(), wrap=BARE)
    assert {"packets.received", "packets.unseen", "firewall.unread"} <= {one["id"] for one in found}
    assert "problem" not in {one["verdict"] for one in found}
    assert all(one["evidence"] for one in found if one["verdict"] == "unknown")


def test_ctrl_c_ends_the_watch_with_a_report(two):
    two.stream()
    watched = two.b.tcpdump("igmp", "or", "udp")
    argv = [sys.executable, "-m", "mcast_fast", "doctor", two.text(), "--for", "10m"]
    program = two.b.host.spawn(argv, cwd=ROOT / "src")
    watched.expect("igmp v3 report")
    program.process.send_signal(signal.SIGINT)
    assert program.process.wait(60) in (0, 1)  # 1: no packet had come yet
    assert "Listened for" in program.stop()


@pytest.mark.weekly
@pytest.mark.hang_timeout(1800)
def test_no_fault_no_problem_a_hundred_times(two):
    """IPv4 and IPv6, as root and without any privilege, for a socket and for a ring."""
    two.stream()
    two.stream("ff15::1")
    for number in range(100):
        wanted = two.text(GROUP if number % 2 else "ff15::1")
        if number % 5:
            report = two.examine(wanted, ring=bool(number % 3))
            assert not report.problems, (number, report)
        else:
            found = findings_of(two, wanted, wrap=BARE)
            assert "problem" not in {one["verdict"] for one in found}, (number, found)
