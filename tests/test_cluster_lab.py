"""Recording by a plan: hosts that fail are replaced, and what nobody recorded is known to the packet."""

import contextlib
import itertools
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
import types

import pytest

from mcast_fast import cluster, files, sequence
from mcast_fast.cluster import _station
from mcast_fast.cluster._verify import verify
from mcast_fast.errors import CaptureError, InterfaceError, MulticastWarning
from tests import lab
from tests.conftest import free_port, loopback
from tests.test_cli import environment
from tests.test_probe_lab import Bridge

FORMAT = "mcast-fast"
PLAN = """
name = "lab"
[heartbeat]
group = "239.255.77.1:{heartbeats}"
interval = "{interval}"
silent = "{silent}"
[files]
directory = '{directory}'
rotate = {{ packets = {packets} }}
{hosts}
[[groups]]
group = "239.1.1.1:{port}+{groups}"
format = "mcast-fast"
rate = "1Mbit/s"
"""


def write_plan(tmp_path, interfaces, **values):
    hosts = "".join(
        f"[hosts.{name}]\ninterface = '{interface}'\ndirectory = '{tmp_path / name}'\n"
        for name, interface in interfaces.items()
    )
    path = tmp_path / "plan.toml"
    path.write_text(PLAN.format(directory=tmp_path, hosts=hosts, heartbeats=free_port(), port=free_port(), **values))
    return path


class Feed:
    """Sends numbered datagrams to the groups of a plan, in turn, until it is stopped."""

    def __init__(self, plan, interface, address, rate, size):
        self.plan = cluster.Plan.load(plan)
        self.sent = {str(group): 0 for group in self.plan.groups}
        self._stop = threading.Event()
        self._arguments = interface, address, rate, size
        self._thread = threading.Thread(target=self._run)
        self._failure = None

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exception):
        self._stop.set()
        self._thread.join()
        assert self._failure is None, self._failure

    def _run(self):
        try:
            self._send(*self._arguments)
        except OSError as error:
            self._failure = error

    def _send(self, interface, address, rate, size):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            index = socket.if_nametoindex(interface)
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, struct.pack("=4x4xi", index))
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
            sock.bind((address, 0))
            begun = time.monotonic()
            for number in itertools.count():
                if self._stop.wait(max(0.0, begun + number / rate - time.monotonic())):
                    return
                for at, group in enumerate(self.plan.groups):
                    data = sequence.stamp(number, at + 1, 0).ljust(size, b"\0")
                    sock.sendto(data, (group.address, group.port))
                    self.sent[str(group)] = number + 1


def numbers_in(directory):
    """What the files of a directory have: {group: numbers}."""
    found = {}
    for path in sorted(directory.glob("*.pcapng")):
        with contextlib.suppress(CaptureError), files.Reader(path) as reader:
            for batch in reader:
                for packet, number in zip(batch, sequence.numbers(batch, FORMAT).number, strict=True):
                    found.setdefault(packet.group, []).append(number)
    return found


def check_answers(captures, directories):
    """What is answered is what a reader of each file finds."""
    every = [numbers_in(one) for one in directories]
    flows = {flow.group: flow for flow in captures.flows()}
    assert set(flows) == {group for one in every for group in one}
    for group, flow in flows.items():
        there = {number for one in every for number in one.get(group, ())}
        missing = sorted(set(range(min(there), max(there) + 1)) - there)
        assert [number for gap in flow.gaps for number in range(gap.first, gap.last + 1)] == missing, group
        assert flow.lost == len(missing)
        assert flow.received == sum(len(one.get(group, ())) for one in every)
    return flows


def until(condition):
    while not condition():
        time.sleep(0.02)


def recorders(spawn, plan, names, backend):
    """A recorder of each host; returns when all of them record."""
    started = {}
    for name in names:
        words = [sys.executable, "-m", "mcast_fast", "record", "--plan", str(plan), "--host", name]
        started[name] = spawn(name, words, env=environment(backend))
    for program in started.values():
        program.expect("records ", timeout=60)
    return started


@pytest.mark.long
@pytest.mark.needs("signals to processes")
def test_groups_of_a_recorder_that_is_killed_are_recorded_by_others(backend, tmp_path):
    """Two hosts of one machine; the third is spare, and takes over."""
    plan = write_plan(
        tmp_path,
        dict.fromkeys(("a", "b", "spare"), loopback()),
        interval="100ms",
        silent="1s",
        packets=100_000,
        groups=6,
    )
    plan.write_text(plan.read_text().replace("[hosts.spare]", "[hosts.spare]\nspare = true"))
    with contextlib.ExitStack() as stack:

        def spawn(_name, words, **options):
            program = lab.Program(words, **options)
            stack.callback(program.stop)
            return program

        started = recorders(spawn, plan, ("a", "b"), backend)
        started["spare"] = spawn("spare", [*CLI, "--plan", str(plan), "--host", "spare"], env=environment(backend))
        started["spare"].expect("host spare of the plan")
        with Feed(plan, loopback(), "127.0.0.1", rate=50, size=100) as feed:
            until(lambda: min(feed.sent.values()) > 20)
            started["b"].process.send_signal(signal.SIGKILL)
            started["spare"].expect("b silent", timeout=60)
            started["spare"].expect(r"records \d", timeout=60)
            before = min(feed.sent.values())
            until(lambda: min(feed.sent.values()) > before + 10)
        for name in ("a", "spare"):
            started[name].process.send_signal(signal.SIGTERM)
        for name in ("a", "spare"):
            assert re.search(r"written [1-9]", started[name].finish()), started[name].output
    with pytest.warns() if torn(tmp_path / "b") else contextlib.nullcontext():
        captures = cluster.open(plan)
        flows = check_answers(captures, [tmp_path / name for name in ("a", "b", "spare")])
    assert len(flows) == 6
    # A machine that is slow may have taken a host for silent: then others recorded its groups, too.
    dealt = {
        str(group): share.host for share in cluster.Deal(cluster.Plan.load(plan)).shares() for group in share.groups
    }
    for flow in flows.values():
        group = f"{flow.group}:{flow.port}"
        hosts = {one.host for one in flow.hosts}
        assert {dealt[group]} | ({"spare"} if dealt[group] == "b" else set()) <= hosts
        assert flow.last == feed.sent[group] - 1
        assert len(flow.gaps) <= (dealt[group] == "b")
    assert all(file.manifest for file in captures.files if file.host != "b")
    recorded = [str(path) for name in ("a", "spare") for path in (tmp_path / name).glob("*.pcapng")]
    assert {finding.kind for finding in verify(recorded)} <= {
        "clock"
    }  # which of a machine of tests nobody keeps in time


CLI = [sys.executable, "-m", "mcast_fast", "record"]


def torn(directory):
    """Whether a recorder that was killed left a file that cannot be read to its end."""
    for path in directory.glob("*.pcapng"):
        try:
            with files.Reader(path) as reader:
                for _ in reader:
                    pass
        except CaptureError:
            return True
    return False


@pytest.mark.weekly
@pytest.mark.needs("signals to processes")
def test_a_host_that_leaves_and_comes_back_loses_nothing(backend, tmp_path):
    plan = write_plan(
        tmp_path, dict.fromkeys("ab", loopback()), interval="100ms", silent="1s", packets=100_000, groups=6
    )
    with contextlib.ExitStack() as stack:

        def spawn(_name, words, **options):
            program = lab.Program(words, **options)
            stack.callback(program.stop)
            return program

        started = recorders(spawn, plan, "ab", backend)
        with Feed(plan, loopback(), "127.0.0.1", rate=100, size=100) as feed:
            until(lambda: min(feed.sent.values()) > 20)
            started["b"].process.send_signal(signal.SIGTERM)
            started["b"].finish()
            started |= recorders(spawn, plan, "b", backend)
            started["a"].expect("records 3 groups, 6 before", timeout=60)
            before = min(feed.sent.values())
            until(lambda: min(feed.sent.values()) > before + 20)
        for program in started.values():
            program.process.send_signal(signal.SIGTERM)
        for program in started.values():
            program.finish()
    captures = cluster.open(plan)
    flows = check_answers(captures, [tmp_path / name for name in "ab"])
    assert [flow.lost for flow in flows.values()] == [0] * 6
    for group, sent in feed.sent.items():
        found = [one for batch in captures.fetch(group) for one in sequence.numbers(batch, FORMAT).number]
        assert sorted(found) == list(range(sent))


# ---- a station by itself ----


def plan_of_one(tmp_path, interface, groups=2):
    return cluster.Plan.load(
        write_plan(tmp_path, {"a": interface}, interval="20ms", silent="40ms", packets=100_000, groups=groups)
    )


def test_a_station_that_ends_by_an_exception_leaves_nothing_open(backend, tmp_path, monkeypatch):
    station = _station.Station(plan_of_one(tmp_path, loopback()), "a")

    def fail(_presence, _now):
        raise KeyboardInterrupt

    def refused(_maker):
        raise KeyboardInterrupt

    monkeypatch.setattr("mcast_fast.cluster._heartbeat.Presence.settled", fail)
    finish = _station.ManifestMaker.finish
    monkeypatch.setattr(_station.ManifestMaker, "finish", lambda maker: (finish(maker), refused(maker)))
    with pytest.raises(KeyboardInterrupt):
        station.run()
    assert station._ears.closed
    assert station._voice.closed


def test_an_interface_that_there_is_not_is_an_error(backend, tmp_path):
    with pytest.raises(InterfaceError):
        _station.Station(plan_of_one(tmp_path, "nowhere0"), "a")


def test_a_recorder_that_cannot_be_started_leaves_nothing_open(backend, tmp_path, monkeypatch):
    plan = plan_of_one(tmp_path, loopback())
    (tmp_path / "a").mkdir()
    opened, finished = [], []
    receiver = _station.Receiver

    def noted(*groups, **options):
        opened.append(receiver(*groups, **options))
        return opened[-1]

    monkeypatch.setattr(_station, "Receiver", noted)

    def refuse(*_arguments, **_options):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(_station, "start", refuse)
    with pytest.raises(RuntimeError, match="can't start"):
        _station._Session(plan, plan.hosts["a"], list(plan.groups), types.SimpleNamespace(add=finished.append))
    assert opened[0].closed
    assert len(finished) == 1  # its file is whole, and has no packets


def test_many_memberships_change_a_part_at_a_time(backend, tmp_path, monkeypatch):
    """So that heartbeats go on meanwhile."""
    monkeypatch.setattr(_station, "MOST_CHANGES", 2)
    plan = plan_of_one(tmp_path, loopback(), groups=6)
    (tmp_path / "a").mkdir()
    first, *others = plan.groups
    session = _station._Session(plan, plan.hosts["a"], [first], types.SimpleNamespace(add=[].append))
    counts = []
    for _ in range(4):
        session.change(set(others))
        counts.append((first in session.held, len(session.held), len(session.receiver.memberships)))
    session.end()
    assert counts == [(True, 3, 3), (True, 5, 5), (False, 5, 5), (False, 5, 5)]


def test_a_file_whose_manifest_fails_costs_the_next_ones_nothing(tmp_path, monkeypatch):
    first, second = tmp_path / "1.pcapng", tmp_path / "2.pcapng"
    for path in (first, second):
        files.Writer(path).close()
    make = _station.make_manifest

    def failing(path, *arguments):
        if path == str(first):
            raise MemoryError("too much")
        return make(path, *arguments)

    monkeypatch.setattr(_station, "make_manifest", failing)
    maker = _station.ManifestMaker(plan_of_one(tmp_path, loopback()), "a")

    def make_both():
        for path in (first, second):
            maker.add(str(path))
        maker.finish()

    with pytest.warns(MulticastWarning, match=r"1\.pcapng has no manifest: too much"):
        make_both()
    assert [path.name for path in tmp_path.glob("*.manifest.json")] == ["2.pcapng.manifest.json"]


@pytest.mark.lab
def test_heartbeats_are_heard_by_an_interface_that_comes_back(backend, tmp_path):
    with lab.Lab() as made:
        _, end = made.link("a", "b", number=3)
        plan = plan_of_one(tmp_path, end.interface)
        with end.host.enter():
            station = _station.Station(plan, "a")
        with station._ears as ears, station._voice:
            made.hosts["b"].run("ip", "link", "delete", end.interface)
            until(lambda: not ears.memberships[0].joined)
            made.link("a", "b", number=3)
            until(lambda: ears.memberships[0].joined)


# ---- three hosts, a scheduler and their workers ----

GROUPS = 60


@contextlib.contextmanager
def dask(bridge, names, tmp_path):
    """A scheduler on the sender's host, a worker on each host, and a client."""
    distributed = pytest.importorskip("distributed")
    scheduler = bridge.ends["d"]
    run = {"env": os.environ | {"PYTHONPATH": os.pathsep.join(["src", "."])}}
    python = [sys.executable, "-m"]
    address = f"tcp://{scheduler.ipv4_on_bridge}:8786"
    scheduler.host.spawn(
        [
            *python,
            "distributed.cli.dask_scheduler",
            "--host",
            scheduler.ipv4_on_bridge,
            "--port",
            "8786",
            "--no-dashboard",
        ],
        **run,
    )
    for name in names:
        bridge.ends[name].host.spawn(
            [
                *(
                    *python,
                    "distributed.cli.dask_worker",
                    address,
                    "--host",
                    bridge.ends[name].ipv4_on_bridge,
                    "--no-dashboard",
                ),
                *("--nthreads", "1", "--no-nanny", "--name", name, "--local-directory", str(tmp_path)),
            ],
            **run,
        )
    with scheduler.host.enter(), distributed.Client(address, timeout=60, set_as_default=False) as client:
        client.wait_for_workers(len(names), timeout=60)
        yield client


class On:
    """An end of the bridge, with its address there."""

    def __init__(self, end, number):
        self.host, self.interface, self.ipv4_on_bridge = end.host, end.interface, f"10.88.0.{number}"
        self.counters = lambda: end.counters


@pytest.mark.lab
@pytest.mark.weekly
@pytest.mark.hang_timeout(600)
def test_three_hosts_one_of_which_is_killed(tmp_path):
    """The whole of it: 60 groups, three recorders, a Dask scheduler and three workers; prints what it measures."""
    names = ("a", "b", "c")
    with lab.Lab(("switch", *"abcd")) as made, contextlib.ExitStack() as sending:
        plain = Bridge(made, "abcd")
        plain.ends = {name: On(end, number) for number, (name, end) in enumerate(plain.ends.items(), 1)}
        ends = plain.ends
        plan = write_plan(
            tmp_path,
            {name: ends[name].interface for name in names},
            interval="250ms",
            silent="1s",
            packets=20_000,
            groups=GROUPS,
        )
        started = recorders(lambda name, words, **options: ends[name].host.spawn(words, **options), plan, names, "fast")
        with ends["d"].host.enter():
            feed = Feed(plan, ends["d"].interface, ends["d"].ipv4_on_bridge, rate=100, size=1000)
            sending.enter_context(feed)
        until(lambda: min(feed.sent.values()) > 500)
        killed = time.time_ns()
        started["b"].process.send_signal(signal.SIGKILL)
        for name in ("a", "c"):
            started[name].expect("b silent", timeout=60)
            started[name].expect("records 30 groups", timeout=60)
        before = min(feed.sent.values())
        until(lambda: min(feed.sent.values()) > before + 1000)
        sending.close()
        for name in ("a", "c"):
            started[name].process.send_signal(signal.SIGTERM)
        for name in ("a", "c"):
            started[name].finish()
        with pytest.warns() if torn(tmp_path / "b") else contextlib.nullcontext():
            local = cluster.open(plan, format=FORMAT)
            flows = check_answers(local, [tmp_path / name for name in names])
            assert len(flows) == GROUPS
            moved = [flow for flow in flows.values() if len(flow.hosts) > 1]
            assert len(moved) == GROUPS // 3
            late = [(gap.time - killed) / 1e9 for flow in moved for gap in flow.gaps]
            lost = [gap.count for flow in moved for gap in flow.gaps]
            assert all(len(flow.gaps) == (len(flow.hosts) > 1) for flow in flows.values())
            print(
                f"taken over after {min(late):.3f} to {max(late):.3f} s; {min(lost)} to {max(lost)} packets of a group lost"
            )
            with dask(plain, names, tmp_path) as client:
                for path in tmp_path.glob("*/*.manifest.json"):
                    path.unlink()  # so that files are read
                there = cluster.open(plan, format=FORMAT, client=client)
                before = sum(ends[name].counters()["tx"]["bytes"] for name in names)
                found = there.flows()
                sent = sum(ends[name].counters()["tx"]["bytes"] for name in names) - before
        assert found == local.flows()
        scanned = there.work.scanned
        print(
            f"scanned {scanned:,} bytes, workers sent {sent:,} bytes ({100 * sent / scanned:.2f} %), {there.work.moved:,} of results"
        )
        assert sent < 0.02 * scanned
