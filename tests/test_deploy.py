"""The files under deploy/: what they run is run here, as far as one machine without a manager of services can."""

import configparser
import importlib
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import mcast_fast as mcast
from tests.conftest import BACKENDS, free_port, loopback

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = (
    "mcast-fast.service",
    "mcast-fast-activated.service",
    "mcast-fast-activated.socket",
    "mcast-fast-plan.service",
    "mcast-fast-worker.service",
)
# What systemd does at the start of a service with a socket, sd_listen_fds(3).
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.execve(sys.executable, [sys.executable, *sys.argv[2:]], os.environ | {
    "LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "feed",
})
"""


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(interpolation=None, strict=False)
    found.optionxform = str  # type: ignore[assignment,method-assign]
    found.read(DEPLOY / name)
    return found


@pytest.mark.long
@pytest.mark.needs("signals to processes")
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_activated_service_receives_by_the_socket_that_it_is_given(backend: str) -> None:
    command = shlex.split(unit("mcast-fast-activated.service")["Service"]["ExecStart"])
    assert command == ["/opt/mcast-fast/bin/python", "/opt/mcast-fast/activated.py", "$MCAST_GROUPS"]
    group = f"239.7.7.20%{loopback()}"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind(("0.0.0.0", 0))
        port = sock.getsockname()[1]
        run = [sys.executable, "-c", ACTIVATE, str(sock.fileno()), str(DEPLOY / "activated.py"), group]
        # Joined here already, so that what is sent before the service has joined waits in its socket.
        with mcast.Receiver(group, fd=sock), mcast.Sender(f"{group}:{port}", ttl=0) as tx:
            tx.send(b"before the service runs")
            with subprocess.Popen(
                run,
                env=os.environ | {"MCAST_FAST_BACKEND": backend},
                pass_fds=[sock.fileno()],
                stdout=subprocess.PIPE,
                text=True,
            ) as service:
                assert service.stdout is not None
                first = service.stdout.readline()
                service.send_signal(signal.SIGTERM)
                rest = service.stdout.read()
    assert first == "1 packets, b'before the service runs' first\n"
    assert rest.startswith("1 received, 0 dropped; of the host: HostCounters(")
    assert service.returncode == 0


def test_without_a_socket_the_activated_service_says_so() -> None:
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "activated.py"), "239.1.1.1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no socket named feed was given" in done.stderr


@pytest.mark.long
@pytest.mark.needs("signals to processes")
def test_the_recorder_s_command_records_and_ends_with_0(tmp_path: Path) -> None:
    service = unit("mcast-fast.service")["Service"]
    program, *arguments = shlex.split(service["ExecStart"].replace("%%", "%"))
    assert program == "/opt/mcast-fast/bin/mcast-fast"
    group = f"239.7.7.21%{loopback()}:{free_port()}"
    known = {"$MCAST_GROUPS": group, "${STATE_DIRECTORY}": str(tmp_path)}
    filled = [re.sub(r"\$\{?\w+\}?", lambda found: known[found[0]], one) for one in arguments]
    with (
        subprocess.Popen(
            [sys.executable, "-m", "mcast_fast", *filled, "--count", "2"], stderr=subprocess.PIPE, text=True
        ) as recorder,
        mcast.Sender(group, ttl=0) as tx,
    ):
        assert recorder.stderr is not None
        assert any("recording " in line for line in recorder.stderr)  # it has joined
        assert tx.send_batch([b"x"] * 2) == 2
        recorder.stderr.read()
    assert recorder.returncode == 0
    (file,) = tmp_path.glob("feed-*.pcapng")
    with mcast.open(file) as reader:
        assert sum(map(len, reader.batches())) == 2


def test_the_command_of_a_plan_s_recorder_is_one_that_there_is() -> None:
    program, verb, *arguments = shlex.split(unit("mcast-fast-plan.service")["Service"]["ExecStart"])
    assert (program, verb) == ("/opt/mcast-fast/bin/mcast-fast", "record")
    command = importlib.import_module("mcast_fast.cli.record").command
    params = command.make_context(verb, arguments).params
    assert (params["plan"], params["host"]) == ("/etc/mcast-fast/plan.toml", "${MCAST_HOST}")


@pytest.mark.parametrize("name", [name for name in UNITS if name.endswith(".service")])
def test_a_service_that_fails_at_once_is_started_again_without_end(name: str) -> None:
    """An interface that is not there yet at boot ends it with 2. systemd's defaults are 0.1 s between starts, and the end
    of them after five in ten seconds."""
    made = unit(name)
    assert made["Service"]["Restart"] in ("always", "on-failure")
    is_limited = made["Unit"].get("StartLimitIntervalSec") != "0"
    assert not is_limited or float(made["Service"].get("RestartSec", "0.1")) * 4 > 10


@pytest.mark.parametrize("name", UNITS)
def test_units_are_what_systemd_takes(name: str, tmp_path: Path) -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("feature systemd-analyze: this system has none")
    for one in UNITS:  # with programs that are there
        text = (DEPLOY / one).read_text("utf-8")
        (tmp_path / one).write_text(re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", text, flags=re.MULTILINE))
    done = subprocess.run(
        [program, "verify", "--man=no", str(tmp_path / name)], capture_output=True, text=True, check=False
    )
    complaints = [line for line in done.stderr.splitlines() if name in line]
    assert not complaints
    assert done.returncode == 0, done.stderr


def test_the_manifest_is_yaml_and_its_command_one_that_there_is() -> None:
    yaml = pytest.importorskip("yaml", reason="feature yaml: PyYAML is not installed")
    (daemon,) = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text("utf-8"))
    pod = daemon["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["hostNetwork"] is True
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert [one["mountPath"] for one in container["volumeMounts"]] == ["/captures"]
    name, *arguments = container["args"]
    command = importlib.import_module(f"mcast_fast.cli.{name}").command
    context = command.make_context(name, arguments)
    assert context.params["path"].startswith("/captures/")
    assert context.params["metrics"] == "0.0.0.0:9464"
    (port,) = container["ports"]
    annotated = daemon["spec"]["template"]["metadata"]["annotations"]
    assert (annotated["prometheus.io/port"], annotated["prometheus.io/path"]) == (
        str(port["containerPort"]),
        "/metrics",
    )
    for probe in (container["startupProbe"], container["livenessProbe"]):
        assert probe["httpGet"] == {"path": annotated["prometheus.io/path"], "port": port["name"]}
