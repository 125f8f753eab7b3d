"""The examples and the first verbs, run by an ordinary user where programs are confined."""

import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import sandbox
from tests.conftest import BACKENDS, IN_CI

pytestmark = [pytest.mark.weekly, pytest.mark.needs("system call filters", "users"), pytest.mark.hang_timeout(1200)]

SANDBOX = [sys.executable, "-m", "tests.sandbox"]
BUBBLEWRAP = [
    *("bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-net", "--die-with-parent"),
    *("--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc"),
]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "-"]

# What each is run by: the program comes last.
CONFINED = {
    "bubblewrap without netlink": [*SANDBOX, "root", "--", *BUBBLEWRAP, "{writable}", *SANDBOX, "netlink", "--"],
    "seccomp without *mmsg": [*SANDBOX, "root", "mmsg:EPERM", "--"],
    "a user namespace": [*SANDBOX, "root", "--", *NAMESPACE],
    "a read-only root": [*SANDBOX, "writing", "root", "--"],
    "a unit of systemd": [*SANDBOX, "writing", "root", "unit", "--"],
}
PYTEST = ["-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
EXAMPLES = [*PYTEST, "-m", "not (long or lab)", "tests/test_examples.py"]
VERBS = ["-m", "tests.verbs"]
# What the process says that it may not do; each has to be so, or nothing was shown.
CHECKS = {
    "bubblewrap without netlink": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)",
    "seccomp without *mmsg": "import mcast_fast; assert mcast_fast.features()['batched_send']",
    "a user namespace": "import os; os.setgroups([0])",
    "a read-only root": "open('/written', 'x')",
    "a unit of systemd": """import errno, socket
try:
    socket.socket(17, socket.SOCK_RAW)
except OSError as error:
    raise SystemExit(error.errno == errno.EAFNOSUPPORT)""",
}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may write, and that is no part of the root's file system."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as made:
        Path(made).chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
        yield Path(made)


def confined(name: str, backend: str, folder: Path, *program: str) -> subprocess.CompletedProcess[str]:
    """What a program of this Python's writes there."""
    if os.geteuid() != 0:
        pytest.skip("feature users: only root can become another one")
    if shutil.which("bwrap") is None:
        pytest.skip("feature bwrap: not installed")
    binds = ["--bind", str(folder), str(folder)]
    command = [word for one in CONFINED[name] for word in (binds if one == "{writable}" else [one])]
    own = {"MCAST_FAST_BACKEND": backend, "TMPDIR": str(folder), "HOME": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*command, sys.executable, *program],
        env=os.environ | own | {"HYPOTHESIS_STORAGE_DIRECTORY": f"{folder}/hypothesis"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == sandbox.CANNOT and not IN_CI:
        pytest.skip(f"feature mount namespaces: {done.stderr.strip()}")
    return done


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", CONFINED)
def test_an_ordinary_user_s_programs_run_confined(name: str, backend: str, folder: Path) -> None:
    if backend == "fast" or name != "seccomp without *mmsg":
        refused = confined(name, backend, folder, "-c", CHECKS[name])
        assert refused.returncode == 1, (refused.stdout, refused.stderr)
    assert confined(name, backend, folder, "-c", "import os; print(os.environ['HOME'])").stdout == f"{folder}\n"
    for program in (EXAMPLES, VERBS):
        done = confined(name, backend, folder, *program)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
