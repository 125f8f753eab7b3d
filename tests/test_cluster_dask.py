"""Questions to files by Dask: each task runs on a worker of the host that has the file, and only answers travel."""

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from mcast_fast import cluster, errors, sequence
from mcast_fast.cluster import _engine
from mcast_fast.errors import MulticastWarning
from tests import lab
from tests.test_cluster_files import MS, NOW, manifested, stream, write

distributed = pytest.importorskip("distributed")
pytestmark = [
    pytest.mark.long,
    # Dask's own, while it starts and ends.
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning", "ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """A scheduler and workers of the hosts alpha and beta, in this process."""
    made = {
        name: {
            "cls": distributed.Worker,
            "options": {"host": "127.0.0.1", "nthreads": 1, "name": name, "dashboard": False},
        }
        for name in ("alpha", "beta")
    }
    scheduler = {
        "cls": distributed.Scheduler,
        "options": {"host": "127.0.0.1", "dashboard": False, "dashboard_address": None},
    }
    with distributed.SpecCluster(workers=made, scheduler=scheduler, silence_logs=50) as running:
        yield running


@pytest.fixture
def client(workers):
    with distributed.Client(workers, set_as_default=False) as made:
        yield made


@pytest.fixture
def plan(tmp_path):
    """A plan of two hosts, whose files lie in directories of their own."""
    (tmp_path / "plan.toml").write_text(f"""
[heartbeat]
group = "239.255.77.1:5077"
[hosts.alpha]
directory = '{tmp_path / "alpha"}'
[hosts.beta]
directory = '{tmp_path / "beta"}'
[[groups]]
group = "239.1.1.1:5000+2"
format = "mcast-fast"
""")
    for name, numbers in (("alpha", range(1000)), ("beta", range(500, 2000))):
        for part in range(2):
            half = list(numbers)[part::1][: len(numbers) // 2] if not part else list(numbers)[len(numbers) // 2 :]
            write(tmp_path / name / f"{part}.pcapng", stream(n for n in half if n not in (800, 1200 + len(name))))
    return tmp_path / "plan.toml"


def fetched(captures):
    return [one for batch in captures.fetch("239.1.1.1:5000") for one in sequence.numbers(batch, "mcast-fast").number]


def test_the_answers_are_those_of_one_machine(plan, client):
    here, there = cluster.open(plan), cluster.open(plan, client=client)
    assert there.flows() == here.flows()
    assert there.gaps() == here.gaps()
    assert fetched(there) == fetched(here) == [n for n in range(2000) if n not in (800, 1204)]
    assert there.covering("239.1.1.1:5000", NOW, NOW + 300 * MS) == here.covering("239.1.1.1:5000", NOW, NOW + 300 * MS)
    assert there.work.moved > 0
    assert there.problems == here.problems == ()


def where(path, formats):
    """In place of a survey: which worker asks."""
    raise errors.CaptureError(path, 0, f"read by {distributed.get_worker().name}")


def test_a_task_runs_where_the_file_is(plan, client, monkeypatch):
    monkeypatch.setattr("mcast_fast.cluster._tasks.count", where)
    captures = cluster.open(plan, client=client)
    with pytest.warns(MulticastWarning):
        captures.flows()
    assert len(captures.problems) == 4
    for one in captures.problems:
        assert one.text.endswith(f"read by {Path(one.path).parent.name}")


def test_a_file_that_two_workers_see_is_one_file(plan, client):
    for name in ("alpha", "beta"):
        for part in range(2):
            manifested(plan.parent / name / f"{part}.pcapng", name)
    captures = cluster.open([plan.parent / "alpha", plan.parent / "beta"], client=client)
    assert [(file.host, Path(file.path).name, len(file.workers)) for file in captures.files] == [
        ("alpha", "0.pcapng", 2),
        ("alpha", "1.pcapng", 2),
        ("beta", "0.pcapng", 2),
        ("beta", "1.pcapng", 2),
    ]


def test_a_host_without_a_worker_is_said(plan, client):
    plan.write_text(plan.read_text().replace("[hosts.beta]", "[hosts.delta]\n[hosts.beta]"))
    with pytest.warns(MulticastWarning, match="host 'delta' of the plan has no worker"):
        captures = cluster.open(plan, client=client)
    assert [one.kind for one in captures.problems] == ["worker"]
    assert len(captures.files) == 4


def test_parquet_is_written_by_the_workers(plan, client, tmp_path):
    captures = cluster.open(plan, client=client)
    done = captures.to_parquet(tmp_path / "out")
    assert done.files == 4
    assert captures.work.moved < 20_000
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_client_that_is_none():
    with pytest.raises(errors.ArgumentError, match=r"is no distributed\.Client"):
        cluster.open([], client=5)


# ---- workers that go ----


def slow(path, formats):
    """In place of a survey: says that it has begun, and takes longer than its worker lives."""
    Path(path + ".begun").touch()
    time.sleep(60)


@contextlib.contextmanager
def processes(tmp_path, *names):
    """A scheduler and a worker of each name, as processes."""
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(["src", "."]),
        "DASK_DISTRIBUTED__LOGGING__DISTRIBUTED": "info",
    }
    with contextlib.ExitStack() as stack:

        def start(*words):
            program = lab.Program([sys.executable, "-m", *words], env=environment, start_new_session=True)
            stack.callback(program.stop)
            return program

        file = tmp_path / "scheduler.json"
        start(
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--scheduler-file",
            str(file),
        )
        workers = {
            name: start(
                *("distributed.cli.dask_worker", "--scheduler-file", str(file), "--no-dashboard", "--nthreads", "1"),
                *("--no-nanny", "--name", name, "--local-directory", str(tmp_path)),
            )
            for name in names
        }
        with distributed.Client(scheduler_file=str(file), set_as_default=False) as client:
            client.wait_for_workers(len(names), timeout=60)
            yield client, workers


@pytest.mark.weekly
@pytest.mark.needs("signals to processes")
def test_a_worker_that_is_killed_in_the_middle_is_said_and_the_rest_is_answered(plan, tmp_path, monkeypatch):
    """Its host's files are left out; the other host's answers come."""
    monkeypatch.setattr(_engine, "PATIENCE", 0.5)
    with processes(tmp_path, "alpha", "beta") as (client, workers):
        captures = cluster.open(plan, client=client)
        begun = tmp_path / "alpha" / "0.pcapng.begun"
        alpha = [file for file in captures.files if file.host == "alpha"]
        killer = threading.Thread(target=kill_when, args=(begun, workers["alpha"].process.pid))
        killer.start()
        jobs = [_engine.Job(slow, (file.path, {}), file.host, file.path, file.workers) for file in alpha]
        results = list(captures._engine.run(jobs))
        killer.join()
        assert {found.kind for _, found in results} == {"worker"}
        assert len(results) == 2
        with pytest.warns(MulticastWarning, match="no worker of host 'alpha' answers"):
            (flow,) = captures.flows()
        assert [one.host for one in flow.hosts] == ["beta"]
        assert {one.kind for one in captures.problems} == {"worker"}


def kill_when(path, process):
    while not path.exists():
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
